"""Patch the heads that can be patched, and keep what is to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vdvae_patch.attach.recompile import GIVE_ONE
from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import Head, Role
from vdvae_patch.patching import PatchHandle, patch
from vdvae_patch.patching.variant import VANILLA
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.correlations import Pushed
from vdvae_patch.scanning.stabilizing.keeping import Ruler
from vdvae_patch.scanning.stabilizing.probing import Verdict

Scales = Mapping[Role, str | Scale]
Asked = Mapping[Role, str | Scale | None]
"""The scales that somebody named: these are taken, whatever is measured."""


@dataclass
class Treatment:
    """A patched model, and what is to be said of it.

    Attributes:
        heads: those that are patched.
        left_out: heads that are not, with the reason.
        verdicts: what pushing the raw values showed; None where it was not done, with the reason in `not_probed`.
        by_own_loss: the same by the call as it was given, where `handle.loss` is another one.
        holds: for a role that is not cured, the scale that holds where the chosen one does not.
        refused: for a role that is not cured, a scale that holds, with why a patch with it is refused.
        notes: why a scale is another than the usual one.
        may_be_fixed: whether a constant σ may be the prior's.
        paper: whether formulas are applied to raw values as they are, see `patch`.
        ruler: what the move of the loss is measured by; None where it is not known.
        kept: the roles for which scales that move the loss less were looked for.
        correlations: what pushing the correlations of the heads' densities showed.
    """

    heads: ScanResult
    handle: PatchHandle
    scales: Scales
    left_out: dict[Head, str] = field(default_factory=dict)
    verdicts: list[Verdict] | None = None
    by_own_loss: list[Verdict] | None = None
    not_probed: str = ""
    holds: dict[Role, str] = field(default_factory=dict)
    refused: dict[Role, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    may_be_fixed: bool = True
    paper: bool = False
    ruler: Ruler | None = None
    kept: set[Role] = field(default_factory=set)
    correlations: list[Pushed] = field(default_factory=list)


def patched(model: nn.Module, heads: ScanResult, scales: Scales, asked: Asked, paper: bool) -> Treatment:
    """The model with all heads patched that can be."""
    left_out = {h: h.found.reason for h in heads if h.found is not None and h.found.patch_at == "no"}
    able = heads.without(left_out)
    if not able:
        raise PatchError(f"no head can be patched: {_reasons(left_out)}; write a patch file whose Head has a CallSite")
    try:
        return _together(model, able, scales, asked, paper, left_out)
    except SharedScaleError:
        raise
    except PatchError:
        failed = _failing_alone(model, able, scales, paper)
        if not failed or len(failed) == len(able):
            raise
        left_out |= failed
        return _together(model, able.without(failed), scales, asked, paper, left_out)


def _together(
    model: nn.Module,
    heads: ScanResult,
    scales: Scales,
    asked: Asked,
    paper: bool,
    left_out: dict[Head, str],
) -> Treatment:
    notes: list[str] = []
    try:
        handle = patch_heads(model, heads, scales, paper)
    except SharedScaleError as error:
        shared = _shared(model, heads, scales, asked, paper)
        if shared is None:
            raise
        scales, handle, roles = shared
        why = str(error).removesuffix(f"; {GIVE_ONE}")
        got = {"prior": ", and no constant one", "likelihood": ", and is not left as it is"}
        notes += (f"the {role} gets what the posterior gets{got[role]}: {why}" for role in roles)
    return Treatment(heads, handle, scales, left_out, notes=notes, paper=paper)


def _shared(
    model: nn.Module, heads: ScanResult, scales: Scales, asked: Asked, paper: bool
) -> tuple[Scales, PatchHandle, tuple[Role, ...]] | None:
    """The patch in which roles whose σ one line computes get the posterior's scale, as few roles as it takes; None if
    a scale was named for them, or that is not enough."""
    present = {head.role for head in heads}
    choices: tuple[tuple[Role, ...], ...] = (("prior",), ("likelihood",), ("prior", "likelihood"))
    for roles in choices if "posterior" in scales else ():
        if not {*roles} <= present or any(asked[role] is not None for role in roles):
            continue
        given: Scales = {**scales, **dict.fromkeys(roles, scales["posterior"])}
        with suppress(SharedScaleError):
            return given, patch_heads(model, heads, given, paper), roles
    return None


def _failing_alone(model: nn.Module, heads: ScanResult, scales: Scales, paper: bool) -> dict[Head, str]:
    """The heads that cannot be patched even by themselves, with the reason."""
    failed: dict[Head, str] = {}
    for index, head in enumerate(heads):
        if head.role in scales:
            try:
                patch_heads(model, heads[index : index + 1], scales, paper).unpatch()
            except PatchError as error:
                failed[head] = str(error)
    return failed


def _reasons(left_out: Mapping[Head, str]) -> str:
    return "; ".join(f"{head}: {reason}" for head, reason in left_out.items())


def patch_heads(model: nn.Module, heads: ScanResult, scales: Scales, paper: bool) -> PatchHandle:
    present = {head.role for head in heads}
    given: dict[str, Any] = {role: scale for role, scale in scales.items() if role in present}
    if not given:
        return patch(model, VANILLA, heads=heads, arithmetic="stable")
    return patch(model, heads=heads, paper=paper, **given)
