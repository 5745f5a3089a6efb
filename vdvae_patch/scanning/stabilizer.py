"""`stabilize`: scan, patch and stable arithmetic in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from torch import nn

from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import Role
from vdvae_patch.patching import PatchHandle, patch
from vdvae_patch.scales import Scale
from vdvae_patch.scanning.finder import scan
from vdvae_patch.scanning.result import ONLY_SAMPLED, ScanResult
from vdvae_patch.tables import columns

_WHY = {
    "explin": "exponential below 0, linear above: no gradient explodes, and a small σ stays possible",
    "upbounded": "σ stays below the prior's own: no large value, and a small σ stays possible",
    "bounded": "σ stays inside the data's range",
    "downbounded": "σ stays above the rounding of the data",
    "constant": "σ is fixed: a prior that can go to zero makes the divergence of the means explode",
}

ADVICE = "when training: clip gradients near their usual norm (VDVAE: 5) and skip only updates that are not finite"


def stabilize(
    model: nn.Module,
    *inputs: Any,
    call: Callable[..., Any] | None = None,
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    paper: bool = False,
    file: TextIO | None = None,
) -> PatchHandle:
    """Find the Normal heads, give each role its scale, use stable arithmetic, verify, and print what was done and why.

    A learned prior gets a constant σ of 1 unless another scale is named, the paper's choice (section 7.4): in ten seeds
    of a raised learning rate (docs/results/stress-ten-seeds.md) it had no NaN, where a prior with a learned σ had 86
    NaN steps of 1,000. A model that was trained with a learned σ is another model then: name `prior="explin"` to keep
    its σ learned. Where the host computes posterior and prior in one place, so that they cannot have two scales, the
    prior gets the posterior's. So it does where no density and no KL says that it is a prior: a posterior's σ is never
    fixed.

    Args:
        inputs, call: as of `scan`; give the loss as the call, so that priors are seen.
        posterior, prior, likelihood: the scale of each role, explin for a posterior if left out; a likelihood needs the
            data's range, so none is presumed.
        paper: apply the formulas to the raw value as it is, see `patch`; a trained model's σ is not kept then.
        file: where the table goes, standard output if left out.

    Raises:
        PatchError: no head was found (the near misses are named), or one cannot be patched; or a scale was named for a
            role that no head has.
    """
    heads = scan(model, *inputs, call=call)
    if not heads:
        raise PatchError(f"no Normal head was found in {type(model).__name__}; near misses:\n{heads.why_not()}")
    asked: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    present = {head.role for head in heads}
    _require_asked(heads, asked)
    posterior = posterior or "explin"
    guessed = [h for h in heads if h.role == "prior" and h.found is not None and h.found.confidence == "likely"]
    presumed = posterior if guessed else "constant"
    scales: dict[Role, str | Scale | None] = {**asked, "posterior": posterior, "prior": prior or presumed}
    chosen = {role: scale for role, scale in scales.items() if scale is not None and role in present}
    if not chosen:
        raise PatchError(
            f"only {', '.join(present)} heads were found; name their scale, such as likelihood='bounded(0.1, 1)'"
        )
    notes = []
    if guessed and prior is None:
        notes.append(
            f"note: the prior got the posterior's scale and not a constant one: that {guessed[0].path} is a prior is a "
            "guess, since no density and no KL reads it"
        )
    try:
        handle = _patch(model, heads, chosen, paper)
    except SharedScaleError as error:
        if prior is not None or "prior" not in chosen or "posterior" not in chosen:
            raise
        handle = _patch(model, heads, chosen | {"prior": posterior}, paper)
        notes.append(f"note: the prior got the posterior's scale and not a constant one: {error}")
    print("\n".join([_table(heads, handle), *notes, ADVICE]), file=file or sys.stdout)
    return handle


def _require_asked(heads: ScanResult, asked: Mapping[Role, str | Scale | None]) -> None:
    """Refuse a scale for a role that was not found: whoever names it would take it for in force."""
    absent = [role for role, scale in asked.items() if scale is not None and role not in {h.role for h in heads}]
    if absent:
        named = ", ".join(f"{role}={str(asked[role])!r}" for role in absent)
        raise PatchError(
            f"{named} was asked for, but no head has that role; found were {', '.join(map(str, heads))}. If the loss "
            "is computed outside of what was run, give it: call=lambda model, batch: ..."
        )


def _patch(model: nn.Module, heads: ScanResult, scales: Mapping[Role, str | Scale | None], paper: bool) -> PatchHandle:
    return patch(
        model,
        heads=heads,
        posterior=scales.get("posterior"),
        prior=scales.get("prior"),
        likelihood=scales.get("likelihood"),
        paper=paper,
    )


def _table(heads: ScanResult, handle: PatchHandle) -> str:
    rows = []
    for patched in handle.heads:
        head, scale = patched.head, patched.scale
        found = head.found
        at_call = found is not None and found.patch_at == "call"
        place = f"line {found.line}" if found is not None and at_call else "module's output"
        why = "left as it is: name a scale for it" if scale is None else _WHY.get(scale.name, "as asked")
        measured = ("" if s is None else str(s) for s in (patched.before, patched.after))
        given = str(scale or "vanilla")
        rows.append((head.path, head.channels, head.role, str(head.convention), given, *measured, place, why))
    header = ("path", "channels", "role", "host's σ", "scale", "σ before", "σ after", "patched at", "why")
    lines = [columns(header, rows)]
    if heads.normals:
        calls = "call" if len(heads.normals) == 1 else "calls"
        makes = "makes" if len(heads.normals) == 1 else "make"
        lines.append(f"{len(heads.normals)} {calls} of torch.distributions.Normal {makes} one that carries log σ.")
    if heads.only_sampled:
        lines.append(f"note: {ONLY_SAMPLED}")
    warnings = [warning for head in heads if head.found for warning in head.found.warnings]
    lines += [f"note: {warning}" for warning in warnings if "lower bound" in warning or "disagree" in warning]
    return "\n".join(lines)
