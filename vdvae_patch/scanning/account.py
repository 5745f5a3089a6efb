"""What `stabilize` says: what was done to each head, whether the batch is finite, and what holds when it is pushed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from vdvae_patch.heads import Head, Role
from vdvae_patch.patching import PatchHandle
from vdvae_patch.patching.floors import lost
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.scanning.probing import Verdict
from vdvae_patch.scanning.result import ONLY_SAMPLED, ScanResult
from vdvae_patch.tables import columns

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
    not_probed: str
    holds: dict[Role, str]
    notes: list[str]


def told(treated: Treated) -> str:
    """The account, as text."""
    heads, handle = treated.heads, treated.handle
    lines = [_table(heads, handle)]
    if heads.normals:
        calls, make = ("call", "makes") if len(heads.normals) == 1 else ("calls", "make")
        lines.append(f"{len(heads.normals)} {calls} of torch.distributions.Normal {make} one that carries log σ.")
    lines += handle.outcomes()
    lines += _outside(heads, handle)
    lines += _verdicts(treated)
    lines += (f"NOT patched: {head}: {reason}" for head, reason in treated.left_out.items())
    lines += (f"note: {note}" for note in treated.notes)
    if heads.only_sampled:
        lines.append(f"note: {ONLY_SAMPLED}")
    if treated.verdicts is None:
        lines += (f"note: {line}" for line in lost(((h.head, h.scale) for h in handle.heads), True))
    found = [warning for head in heads if head.found for warning in head.found.warnings]
    lines += [f"note: {warning}" for warning in found if "lower bound" in warning or "disagree" in warning]
    return "\n".join([*lines, ADVICE])


def _table(heads: ScanResult, handle: PatchHandle) -> str:
    known = {(head.path, head.channels, head.role): head.found for head in heads}
    rows = []
    for patched in handle.heads:
        head, scale = patched.head, patched.scale
        found = known.get((head.path, head.channels, head.role), head.found)
        at_call = found is not None and found.patch_at == "call"
        place = f"line {found.line}" if found is not None and at_call else "module's output"
        why = "left as it is: name a scale for it" if scale is None else _WHY.get(scale.name, "as asked")
        measured = ("" if s is None else str(s) for s in (patched.before, patched.after))
        given = str(scale or "vanilla")
        rows.append((head.path, head.channels, head.role, str(head.convention), given, *measured, place, why))
    header = ("path", "channels", "role", "host's σ", "scale", "σ before", "σ after", "patched at", "why")
    return columns(header, rows)


def _outside(heads: ScanResult, handle: PatchHandle) -> Iterator[str]:
    """Normals that are made beside the model, which a patch of the model does not reach."""
    runs = {id(head.scan): head.scan for head in heads if head.scan is not None}
    places = list(dict.fromkeys(place for run in runs.values() for place in run.places_outside))
    if not places:
        return
    where = f"{', '.join(places[:_SHOWN])} {'makes' if len(places) == 1 else 'make'} torch.distributions.Normal"
    if handle.loss is not None:
        yield (
            f"NOT cured by the patch alone: {where} outside of the model, where σ is rounded and its log taken; "
            "compute the loss by handle.loss(model, ...), the call that was given, with Normals that carry log σ"
        )
    else:
        yield (
            f"NOT cured there: {where} outside of the model, in what cannot be compiled again; make "
            "vdvae_patch.distributions.StableNormal(mean, σ, log_scale=log σ) there"
        )


def _verdicts(treated: Treated) -> Iterator[str]:
    if treated.verdicts is None:
        after = treated.handle.after
        if after is not None and not after.finite:
            yield f"NOT cured: {after.headline}; see above for what no scale of a head mends"
        else:
            yield f"not probed: {treated.not_probed}"
        return
    broken = [verdict for verdict in treated.verdicts if not verdict.cured]
    bad = {_key(h) for verdict in broken for h in verdict.heads}
    good = [h for h in treated.handle.heads if _key(h) not in bad]
    if good:
        yield f"CURED: {_named(good)}: loss and gradients stay finite wherever the raw values are pushed"
    for verdict in broken:
        assert verdict.outcome is not None
        line = f"NOT cured: {_named(verdict.heads)}, pushed to log σ = {verdict.level:g}: {verdict.outcome.headline}"
        if verdict.outcome.origin is not None:
            line += f"; {verdict.outcome.origin}"
        holds = _holds(verdict, treated.holds)
        yield f"{line}. {holds}"


def _holds(verdict: Verdict, holds: Mapping[Role, str]) -> str:
    named = [f'{role}="{holds[role]}"' for role in dict.fromkeys(h.head.role for h in verdict.heads) if role in holds]
    return f"This holds: {', '.join(named)}" if named else "No scale that was tried holds"


def _named(heads: tuple[PatchedHead, ...] | list[PatchedHead]) -> str:
    names = [f"{h.head.path}[{h.head.channels}] ({h.head.role}, {h.scale or 'left as it is'})" for h in heads]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{'all ' + str(len(names)) + ' heads' if more else ', '.join(names)}"


def _key(h: PatchedHead) -> tuple[str, str, str]:
    return h.head.path, h.head.channels, h.head.role
