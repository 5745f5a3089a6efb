"""What `stabilize` says: what was done to each head, whether the batch is finite, and what holds when it is pushed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from vdvae_patch.composition import Measured
from vdvae_patch.heads import Head, Role
from vdvae_patch.patching import PatchHandle
from vdvae_patch.patching.apply import beside
from vdvae_patch.patching.floors import limits
from vdvae_patch.patching.record import PatchedHead, beside_the_scale
from vdvae_patch.scales import Constant
from vdvae_patch.scanning.evidence.hazards import MADE_ONE
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.correlations import Pushed
from vdvae_patch.scanning.stabilizing.keeping import Ruler, moves_sigma
from vdvae_patch.scanning.stabilizing.probing import Verdict
from vdvae_patch.tables import columns
from vdvae_patch.trace import short

_WHY = {
    "explin": "exponential below 0, linear above: no gradient explodes, and a small σ stays possible",
    "upbounded": "σ has an upper bound, and a small σ stays possible",
    "bounded": "σ has bounds on both sides",
    "downbounded": "σ keeps a lower bound",
    "constant": "σ is fixed: a prior that can go to zero makes the divergence of the means explode",
}

ADVICE = "when training: clip gradients near their usual norm (VDVAE: 5) and skip only updates that are not finite"
_SHOWN = 4


class Treated(Protocol):
    """What `stabilize` did."""

    heads: ScanResult
    handle: PatchHandle
    left_out: dict[Head, str]
    verdicts: list[Verdict] | None
    by_own_loss: list[Verdict] | None
    not_probed: str
    holds: dict[Role, str]
    refused: dict[Role, str]
    notes: list[str]
    ruler: Ruler | None
    kept: set[Role]
    correlations: list[Pushed]


def told(treated: Treated) -> str:
    """The account, as text."""
    heads, handle = treated.heads, treated.handle
    lines = [_table(heads, handle, treated.verdicts or ())]
    if heads.normals:
        one = len(heads.normals) == 1
        what = "call of torch.distributions.Normal is" if one else "calls of torch.distributions.Normal are"
        lines.append(
            f"{len(heads.normals)} {what} given log σ beside σ, so that KL and density are computed from log σ itself, "
            "not from log(σ)"
        )
    lines += handle.outcomes()
    lines += _outside(treated)
    lines += _verdicts(treated)
    lines += map(str, treated.correlations)
    lines += (f"NOT patched: {head}: {reason}" for head, reason in treated.left_out.items())
    lines += (f"note: no head was made of {miss}" for miss in heads.near_misses if miss.likely)
    lines += (f"note: {note}" for note in treated.notes)
    if heads.only_sampled:
        lines.append(f"note: {heads.unmeasured}")
    lines += (f"note: {line}" for line in (*heads.stays, *_moved(treated), *_bounds(handle)))
    lines += (f"note: {line}" for line in (*beside_the_scale(handle.heads), *handle.misplaced))
    bounded = {(h.head.path, h.head.channels) for h in handle.heads if h.scale is not None}
    for head in heads:
        for warning in head.found.warnings if head.found else ():
            unbounded = "lower bound" in warning and (head.path, head.channels) not in bounded
            if head.found is not None and head.found.two_laws:
                warning = warning.removesuffix(f"; {MADE_ONE}")
            note = f"note: {warning}"  # two heads of one layer may have the same
            lines += [note] if note not in lines and (unbounded or "disagree" in warning) else []
    return "\n".join([*lines, ADVICE])


def _table(heads: ScanResult, handle: PatchHandle, verdicts: Sequence[Verdict]) -> str:
    broken = {_key(h) for verdict in verdicts if not verdict.cured for h in verdict.heads}
    known = {(head.path, head.channels, head.role): head.found for head in heads}
    rows = []
    for patched in handle.heads:
        head, scale = patched.head, patched.scale
        found = known.get((head.path, head.channels, head.role), head.found)
        at_call = found is not None and found.patch_at == "call"
        place = f"{short(found.file)}:{found.line}" if found is not None and at_call else "module's output"
        if any(_key(h)[:2] == _key(patched)[:2] and h.scale != scale for h in handle.heads):
            place = "where it is called"  # one layer, two scales
        holds = bool(verdicts) and _key(patched) not in broken and not _is_untried(patched)
        own = "left as it is: it holds by itself" if holds else "left as it is: name a scale for it"
        why = own if scale is None else _WHY.get(scale.name, "as asked")
        measured = ("" if s is None else str(s) for s in (patched.before, patched.after))
        given = str(scale or "vanilla")
        rows.append((head.path, head.channels, head.role, str(head.convention), given, *measured, place, why))
    header = ("path", "channels", "role", "host's σ", "scale", "σ before", "σ after", "patched at", "why")
    return columns(header, rows)


def _outside(treated: Treated) -> Iterator[str]:
    """What is computed beside the model, which a patch of the model does not reach: σ, and Normals."""
    heads, handle = treated.heads, treated.handle
    yield from beside(handle.heads)
    runs = {id(head.scan): head.scan for head in heads if head.scan is not None}
    places = list(dict.fromkeys(place for run in runs.values() for place in run.places_outside))
    if not places:
        return
    where = f"{', '.join(places[:_SHOWN])} {'makes' if len(places) == 1 else 'make'} torch.distributions.Normal"
    what = "it" if len(places) == 1 else "them"
    broken = next((verdict for verdict in treated.by_own_loss or () if not verdict.cured), None)
    if handle.after_own is not None and treated.by_own_loss is not None and broken is None:
        yield (
            f"note: {where} outside of the model, and the loss as it is stays finite with {what}, too, wherever the "
            "raw values are pushed; handle.loss(model, ...) is the same with Normals that carry log σ, as what follows"
        )
    elif handle.after_own is not None:
        yield (
            f"NOT cured by the patch alone: {where} outside of the model, where σ is rounded and its log taken"
            f"{_seen(broken)}; compute the loss by handle.loss(model, ...), the call that was given, with Normals that "
            "carry log σ. What follows is of that"
        )
    else:
        yield (
            f"note: {where} outside of the model, by code that cannot be compiled again; they stay PyTorch's own, and "
            "what follows was measured with them"
        )


def _seen(broken: Verdict | None) -> str:
    """How the loss as it was given breaks, if that was tried."""
    if broken is None or broken.outcome is None:
        return ""
    pushed = "on this batch" if broken.level is None else f"pushed to log σ = {broken.level:g}"
    return f" ({_named(broken.heads)}, {pushed}: {broken.outcome.headline})"


def _verdicts(treated: Treated) -> Iterator[str]:
    if treated.verdicts is None:
        after = treated.handle.after
        if after is not None and not after.finite:
            yield f"NOT cured: {after.headline}; what is named above comes first"
        else:
            yield treated.not_probed if treated.not_probed.startswith("NOT") else f"not probed: {treated.not_probed}"
        return
    broken = [verdict for verdict in treated.verdicts if not verdict.cured]
    bad = {_key(h) for verdict in broken for h in verdict.heads}
    held = [h for h in treated.handle.heads if _key(h) not in bad]
    good = [h for h in held if not _is_untried(h)]
    if good:
        yield f"CURED: {_named(good)}: loss and gradients stay finite wherever the raw values are pushed"
    if len(good) < len(held):
        yield (
            f"not pushed: {_named([h for h in held if _is_untried(h)])}: the raw value is no module's output and no "
            "parameter, so that what the model's own lines make of a large one is not known; name a scale for it"
        )
    for verdict in broken:
        assert verdict.outcome is not None
        pushed = "on this batch" if verdict.level is None else f"pushed to log σ = {verdict.level:g}"
        line = f"NOT cured: {_named(verdict.heads)}, {pushed}: {verdict.outcome.headline}"
        if verdict.outcome.origin is not None:
            line += f"; {verdict.outcome.origin}"
        said = [line, _holds(verdict, treated.holds, treated.refused)]
        if said[1] == _NONE_HOLDS and verdict.outcome.origin is not None:
            said.append(verdict.outcome.origin.remedy)
        # an error's own words may end in a full stop
        yield ". ".join(sentence.removesuffix(".") for sentence in said if sentence)


def _is_untried(patched: PatchedHead) -> bool:
    """Whether σ was pushed as a curve that is known by points, in the place of the lines that compute it."""
    found = patched.head.found
    by_points = patched.scale is None and isinstance(patched.head.convention, Measured)
    return by_points and (found is None or found.raw is None)


def _moved(treated: Treated) -> Iterator[str]:
    """That the patch moves the loss of the batch, by which heads, and what moves it less."""
    ruler, handle = treated.ruler, treated.handle
    if ruler is None or ruler.kept(move := ruler.move(handle)) or not math.isfinite(move):
        return
    heads = [h for h in handle.heads if moves_sigma(h)]
    if not heads:
        one = [h for h in handle.heads if h.scale is not None and any(getattr(s, "reads", None) for s in h.head.sites)]
        if one:
            yield (
                f"{ruler.what} moves by {ruler.percent(move)}, since the host draws from one Normal and measures "
                f"another, and both have one σ now: {_named(one)}"
            )
        return
    wide = []
    for role in dict.fromkeys(h.head.role for h in heads if h.head.role not in treated.kept):
        top = 100 * decade_above([h.before.high for h in heads if h.head.role == role and h.before is not None])
        wide.append(f'{role}="upbounded({top:g})"' if role == "posterior" else f'{role}="bounded(0.001, {top:g})"')
    less = f"For a model that is trained already, bounds far from its own σ change it less, such as {', '.join(wide)}"
    none = "No scale that was tried moves it less and holds"
    by = f"{ruler.percent(move)}{ruler.draws}"
    yield f"{ruler.what} moves by {by}, since σ changes: {_named(heads)}. {less if wide else none}"


def decade_above(numbers: Sequence[float]) -> float:
    """The power of ten above the largest of some numbers, those that are not finite aside; at least 1."""
    largest = max((number for number in numbers if math.isfinite(number)), default=1.0)
    return float(10.0 ** math.ceil(math.log10(max(largest, 1.0))))


def _bounds(handle: PatchHandle) -> Iterator[str]:
    """The bounds of the hosts' own σ that are there no more."""
    lost: dict[str, list[PatchedHead]] = {}
    for h in handle.heads:
        if h.scale is None or isinstance(h.scale, Constant):
            continue
        own, new = limits(h.head.convention.sigma), limits(h.scale.sigma)
        if new[0] < 0.5 * own[0] or new[1] > 2 * own[1]:
            text = f"the host's own σ was between {own[0]:.3g} and {own[1]:.3g}, and is between "
            lost.setdefault(f"{text}{new[0]:.3g} and {new[1]:.3g} now", []).append(h)
    for text, heads in lost.items():
        yield f"{_named(heads)}: {text}"


def _holds(verdict: Verdict, holds: Mapping[Role, str], refused: Mapping[Role, str]) -> str:
    roles = list(dict.fromkeys(h.head.role for h in verdict.heads))
    named = [f'{role}="{holds[role]}"' for role in roles if role in holds]
    if named:
        return f"This holds: {', '.join(named)}"
    return next((f"Of the scales that were tried {refused[role]}" for role in roles if role in refused), _NONE_HOLDS)


_NONE_HOLDS = "No scale that was tried holds"


def _named(heads: tuple[PatchedHead, ...] | list[PatchedHead]) -> str:
    names = [f"{h.head.named} ({h.head.role}, {h.scale or 'left as it is'})" for h in heads]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'all ' + str(len(names)) + ' heads' if more else ', '.join(names)}"


def _key(h: PatchedHead) -> tuple[str, str, str]:
    return h.head.path, h.head.channels, h.head.role
