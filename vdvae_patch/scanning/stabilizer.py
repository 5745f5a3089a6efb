"""`stabilize`: scan, patch, verify and probe in one call, with an account of what holds now and what does not."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from torch import nn

from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import Head, Role
from vdvae_patch.patching import PatchHandle, patch
from vdvae_patch.patching.apply import lifted
from vdvae_patch.patching.floors import least
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.account import told
from vdvae_patch.scanning.finder import scan
from vdvae_patch.scanning.probing import Probe, Verdict
from vdvae_patch.scanning.result import ScanResult

Scales = Mapping[Role, str | Scale]


@dataclass
class Treatment:
    """A patched model, and what is to be said of it.

    Attributes:
        heads: those that are patched.
        left_out: heads that are not, with the reason.
        verdicts: what pushing the raw values showed; None where it was not done, with the reason in `not_probed`.
        holds: for a role that is not cured, the scale that holds where the chosen one does not.
        notes: why a scale is another than the usual one.
    """

    heads: ScanResult
    handle: PatchHandle
    scales: Scales
    left_out: dict[Head, str] = field(default_factory=dict)
    verdicts: list[Verdict] | None = None
    not_probed: str = ""
    holds: dict[Role, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stabilize(
    model: nn.Module,
    *inputs: Any,
    call: Callable[..., Any] | None = None,
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    exclude: str | Iterable[str] = (),
    roles: Mapping[str, Role] | None = None,
    paper: bool = False,
    probe: bool = True,
    file: TextIO | None = None,
) -> PatchHandle:
    """Find the Normal heads, give each role its scale, use stable arithmetic, verify, and print what holds now.

    Each head's raw values are then pushed to where σ² and σ leave the range of their type, and to what an optimizer's
    steps can reach; the user's own call, backward pass included, must stay finite. What is printed says CURED of a head
    where it does, and else NOT cured, with the operation that breaks and the scale that holds. A usual scale that
    breaks, where another one holds, is not used: a host with a floor under σ that its arithmetic needs keeps it.

    A learned prior gets a constant σ of 1 unless another scale is named, the paper's choice (section 7.4): in ten seeds
    of a raised learning rate (docs/results/stress-ten-seeds.md) it had no NaN, where a prior with a learned σ had 86
    NaN steps of 1,000. A model that was trained with a learned σ is another model then: name `prior="explin"` to keep
    its σ learned. Where the host computes posterior and prior in one place, so that they cannot have two scales, the
    prior gets the posterior's. So it does where no density and no KL says that it is a prior, and where σ is all that
    its network is there for, as of an entropy model: a posterior's σ is never fixed.

    Args:
        inputs, call: as of `scan`; give the loss as the call, so that priors are seen.
        posterior, prior, likelihood: the scale of each role, explin for a posterior if left out; a likelihood needs the
            data's range, so none is presumed.
        exclude: paths of heads, or of modules above them, that are left as they are.
        roles: by path, the role of heads that the scan takes for something else.
        paper: apply the formulas to the raw value as it is, see `patch`; a trained model's σ is not kept then.
        probe: whether to push the raw values; it takes five to six further forward and backward passes.
        file: where the account goes, standard output if left out.

    Returns:
        The handle of the patch. A head that cannot be patched is left as it is, and the account says why; where a loss
        function beside the model makes Normals, `handle.loss` is to be called in its place.

    Raises:
        PatchError: no head was found (the near misses are named), or none can be patched; or a scale was named for a
            role that no head has, or a path in `exclude` or `roles` that has no head.
    """
    heads = scan(model, *inputs, call=call)
    if not heads:
        raise PatchError(f"no Normal head was found in {type(model).__name__}; near misses:\n{heads.why_not()}")
    asked: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    heads = heads.corrected(exclude=exclude, roles=roles or {})
    _require_asked(heads, asked)
    scales, notes = _chosen(heads, asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the account says it, of what is there in the end
        treatment = _patched(model, heads, scales, asked, paper)
        treatment.notes[:0] = notes
        _examine(model, treatment, asked, paper, probe)
    print(told(treatment), file=file or sys.stdout)
    return treatment.handle


def _chosen(heads: ScanResult, asked: Mapping[Role, str | Scale | None]) -> tuple[Scales, list[str]]:
    """The scale of each role that has heads, and why a prior's is not the usual one."""
    posterior, prior = asked["posterior"] or "explin", asked["prior"]
    notes: list[str] = []
    if prior is None:
        own = [h for h in heads if h.role == "prior" and h.found is not None]
        guessed = next((h for h in own if h.found and h.found.confidence == "likely"), None)
        alone = next((h for h in own if h.found and h.found.alone), None)
        prior = posterior if guessed or alone else "constant"
        if guessed is not None:
            notes.append(
                f"the prior got the posterior's scale and not a constant one: that {guessed.path} is a prior is a "
                "guess, since no density and no KL reads it"
            )
        elif alone is not None and alone.found is not None:
            notes.append(
                f"the prior got the posterior's scale and not a constant one: of {alone.path}, {alone.found.alone}"
            )
    wanted: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": asked["likelihood"]}
    present = {head.role for head in heads}
    scales = {role: scale for role, scale in wanted.items() if scale is not None and role in present}
    if not scales:
        found = ", ".join(sorted(present))
        raise PatchError(f"only {found} heads were found; name their scale, such as likelihood='bounded(0.1, 1)'")
    return scales, notes


def _require_asked(heads: ScanResult, asked: Mapping[Role, str | Scale | None]) -> None:
    """Refuse a scale for a role that was not found: whoever names it would take it for in force."""
    absent = [role for role, scale in asked.items() if scale is not None and role not in {h.role for h in heads}]
    if absent:
        named = ", ".join(f"{role}={str(asked[role])!r}" for role in absent)
        raise PatchError(
            f"{named} was asked for, but no head has that role; found were {', '.join(map(str, heads))}. If the loss "
            "is computed outside of what was run, give it: call=lambda model, batch: ..."
        )


# --- patch what can be patched ----------------------------------------------------------------------------------------


def _patched(
    model: nn.Module, heads: ScanResult, scales: Scales, asked: Mapping[Role, str | Scale | None], paper: bool
) -> Treatment:
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
    asked: Mapping[Role, str | Scale | None],
    paper: bool,
    left_out: dict[Head, str],
) -> Treatment:
    notes = []
    try:
        handle = _patch(model, heads, scales, paper)
    except SharedScaleError as error:
        if asked["prior"] is not None or not {"prior", "posterior"} <= {*scales}:
            raise
        scales = {**scales, "prior": scales["posterior"]}
        handle = _patch(model, heads, scales, paper)
        notes.append(f"the prior got the posterior's scale and not a constant one: {error}")
    return Treatment(heads, handle, scales, left_out, notes=notes)


def _failing_alone(model: nn.Module, heads: ScanResult, scales: Scales, paper: bool) -> dict[Head, str]:
    """The heads that cannot be patched even by themselves, with the reason."""
    failed: dict[Head, str] = {}
    for index, head in enumerate(heads):
        if head.role in scales:
            try:
                _patch(model, heads[index : index + 1], scales, paper).unpatch()
            except PatchError as error:
                failed[head] = str(error)
    return failed


def _reasons(left_out: Mapping[Head, str]) -> str:
    return "; ".join(f"{head}: {reason}" for head, reason in left_out.items())


def _patch(model: nn.Module, heads: ScanResult, scales: Scales, paper: bool) -> PatchHandle:
    present = {head.role for head in heads}
    given: dict[str, Any] = {role: scale for role, scale in scales.items() if role in present}
    if not given:
        raise PatchError(f"none of the scales is for a {' or a '.join(sorted(present))}")
    return patch(model, heads=heads, paper=paper, **given)


# --- does it hold? ----------------------------------------------------------------------------------------------------


def _examine(
    model: nn.Module, treatment: Treatment, asked: Mapping[Role, str | Scale | None], paper: bool, probe: bool
) -> None:
    """Push the raw values; where a usual scale breaks and another one holds, take that one."""
    if not probe:
        treatment.not_probed = "probe=False"
        return
    if treatment.handle.after is not None and not treatment.handle.after.finite:
        treatment.not_probed = "with the patch this batch is not finite by itself"
        return
    treatment.verdicts = _verdicts(model, treatment)
    for role in dict.fromkeys(h.head.role for v in treatment.verdicts if not v.cured for h in v.heads):
        _mend(model, treatment, role, asked, paper)


def _verdicts(model: nn.Module, treatment: Treatment) -> list[Verdict]:
    handle = treatment.handle
    run = next(head.scan for head in treatment.heads if head.scan is not None)
    patched = list(handle.record.heads)
    known = {(h.head.path, h.head.channel_range, h.head.role) for h in patched}
    others = [h for h in run.heads if (h.path, h.channel_range, h.role) not in known]
    with lifted(model, handle):
        return Probe(model, run, others, handle.loss).verdicts(patched)


def _mend(
    model: nn.Module, treatment: Treatment, role: Role, asked: Mapping[Role, str | Scale | None], paper: bool
) -> None:
    """Find a scale of a role that holds where the chosen one does not; take it, if that one was nobody's wish."""
    before = treatment.handle, treatment.scales, treatment.verdicts
    for scale in _choices(treatment, role):
        treatment.handle.unpatch()
        treatment.scales = {**before[1], role: scale}
        try:
            treatment.handle = _patch(model, treatment.heads, treatment.scales, paper)
        except PatchError:
            treatment.handle = _patch(model, treatment.heads, before[1], paper)
            continue
        verdicts = _verdicts(model, treatment)
        if not any(h.head.role == role for v in verdicts if not v.cured for h in v.heads):
            if asked[role] is None and role in before[1]:
                treatment.verdicts = verdicts
                treatment.notes.append(
                    f"the {role} got {scale} and not {before[1][role]}, with which {_broken(before[2] or [], role)}"
                )
                return
            treatment.holds[role] = scale
            break
    treatment.handle.unpatch()
    treatment.scales, treatment.verdicts = before[1:]
    treatment.handle = _patch(model, treatment.heads, treatment.scales, paper)


def _broken(verdicts: Iterable[Verdict], role: Role) -> str:
    verdict = next(v for v in verdicts if not v.cured and any(h.head.role == role for h in v.heads))
    origin = verdict.outcome.origin if verdict.outcome is not None else None
    if origin is None:
        return f"loss or gradients are not finite at log σ = {verdict.level:g}"
    return f"{origin.operation} gives {origin.value} at log σ = {verdict.level:g}, {origin.place}"


def _choices(treatment: Treatment, role: Role) -> list[str]:
    """Scales to try for a role, the one that changes least first; numbers from the host's floor and σ on the batch."""
    own = [h for h in treatment.handle.record.heads if h.head.role == role]
    floors = [floor for h in own if (floor := least(h.head.convention)) > 0]
    spreads = [h.before for h in own if h.before is not None]
    low = min([s.low for s in spreads if s.low > 0], default=0.01)
    high = max([s.high for s in spreads if math.isfinite(s.high)], default=1.0)
    floor = min(floors) if floors and len(floors) == len(own) else min(0.001, 10.0 ** math.floor(math.log10(low / 2)))
    downbounded = [f"downbounded({floor:.3g})"] if floors else []
    # far above what the batch has a bound leaves σ what it is
    tops = [f"{10.0 ** (math.ceil(math.log10(high)) + power):g}" for power in (2, 1, 0)]
    bounded = [f"bounded({max(floor, 1e-6):.3g}, {top})" for top in tops]
    choices = {
        "posterior": [*downbounded, *(f"upbounded({top})" for top in tops), *bounded],
        "prior": [*downbounded, *bounded, "constant"],
        "likelihood": [f"downbounded({max(floor, 1e-3):.3g})", *bounded],
    }[role]
    return [scale for scale in choices if scale != str(treatment.scales.get(role, ""))]
