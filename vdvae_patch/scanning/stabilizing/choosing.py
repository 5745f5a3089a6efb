"""Take another scale than the usual one, where that breaks, or moves the loss of a batch; by measurement."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from vdvae_patch.errors import PatchError
from vdvae_patch.given import call_for_loss
from vdvae_patch.heads import Role
from vdvae_patch.outcome import Outcome
from vdvae_patch.patching import unpatch
from vdvae_patch.patching.apply import lifted
from vdvae_patch.patching.fit import fitted
from vdvae_patch.patching.floors import least
from vdvae_patch.patching.plan import exchanged_beside
from vdvae_patch.patching.record import PatchedHead, is_patched
from vdvae_patch.scales import SCALES, Constant, Scale, UpBounded
from vdvae_patch.scanning.stabilizing.account import decade_above
from vdvae_patch.scanning.stabilizing.correlations import pushed
from vdvae_patch.scanning.stabilizing.keeping import Ruler, moves_sigma, roles_of, ruler_of
from vdvae_patch.scanning.stabilizing.probing import Probe, Verdict, units
from vdvae_patch.scanning.stabilizing.treatment import Asked, Scales, Treatment, patch_heads


def examine(model: nn.Module, treatment: Treatment, asked: Asked, probe: bool) -> None:
    """Push the raw values; where a usual scale breaks and another one holds, or the host's own does, take that one."""
    after = treatment.handle.after
    if not probe:
        treatment.not_probed = "probe=False"
    elif after is None or not after.has_loss:
        treatment.not_probed = f"NOT tested: {_why_no_loss(model, treatment, after)}"
    elif after.outside:
        treatment.not_probed = "with the patch this batch is not finite by itself"
        _leave_untried(model, treatment, asked)
    if treatment.not_probed:
        return
    patched = treatment.handle.record.heads
    treatment.verdicts = verdicts_of(model, treatment)
    with lifted(model, treatment.handle.record):
        broken = broken_roles(treatment.verdicts)
        groups = [group for group in _groups(patched) if group & broken]
        found = [(group, _mend(model, treatment, group, asked)) for group in groups]
        if len(groups) > 1 and all(choice is None for _, choice in found):
            everything = set[Role]().union(*groups)
            found = [(everything, _mend(model, treatment, everything, asked))]
    for group, choice in found:
        if choice is None or not group & broken_roles(treatment.verdicts):
            continue
        if any(asked[role] for role in group) or not group <= {*treatment.scales}:
            treatment.holds |= {role: str(scale) for role, scale in choice.items() if scale is not None}
        else:
            _take(model, treatment, group, choice)


def push_correlations(model: nn.Module, treatment: Treatment) -> None:
    """Push the correlations that the heads' densities have, with the scales that were chosen."""
    if treatment.verdicts is not None:
        cured = all(verdict.cured for verdict in treatment.verdicts)
        with lifted(model, treatment.handle.record):
            treatment.correlations = pushed(model, _probe(model, treatment), treatment.handle.record.heads, cured)


def _why_no_loss(model: nn.Module, treatment: Treatment, after: Outcome | None) -> str:
    """Why there is no backward pass to try, and what to give."""
    if after is not None and after.loss is not None:
        return f"the loss that was seen has no gradients ({after.not_differentiated})"
    given = any(head.scan is not None and head.scan.call is not None for head in treatment.heads)
    if given:
        return "the call that was given returned no loss: one number, as a tensor with gradients"
    return f"no loss with gradients was seen; give your loss: call={call_for_loss(model)}, which returns it as a tensor"


def _leave_untried(model: nn.Module, treatment: Treatment, asked: Asked) -> None:
    """Keep the host's own σ where nothing can be tried: another one may break where the host's holds."""
    before, named = treatment.scales, {role: scale for role, scale in treatment.scales.items() if asked[role]}
    left = {*before} - {*named}
    if left and _repatched(model, treatment, named):
        treatment.notes.append(
            f"{_got(left, dict.fromkeys(left), before)}: no scale can be tried on values that are not finite before "
            "the model has them; unpatch, and stabilize with a batch and weights that are finite"
        )


def try_own_loss(model: nn.Module, treatment: Treatment) -> None:
    """Push the raw values under the call as it was given, where `handle.loss` has other Normals: whether it needs
    them."""
    handle = treatment.handle
    if treatment.verdicts is not None and handle.after_own is not None and not exchanged_beside(handle.record.heads):
        treatment.by_own_loss = verdicts_of(model, treatment, own_loss=True)


def verdicts_of(model: nn.Module, treatment: Treatment, own_loss: bool = False) -> list[Verdict]:
    """What pushing the raw values shows of the patch as it is."""
    with lifted(model, treatment.handle.record):
        return _probe(model, treatment, own_loss).verdicts(treatment.handle.record.heads)


def _probe(model: nn.Module, treatment: Treatment, own_loss: bool = False) -> Probe:
    run = next(head.scan for head in treatment.heads if head.scan is not None)
    known = {(h.head.path, h.head.channel_range, h.head.role) for h in treatment.handle.record.heads}
    others = [h for h in run.heads if (h.path, h.channel_range, h.role) not in known]
    return Probe(model, run, others, own_loss)


def broken_roles(verdicts: Iterable[Verdict]) -> set[Role]:
    return {h.head.role for verdict in verdicts if not verdict.cured for h in verdict.heads}


def _groups(heads: Iterable[PatchedHead]) -> list[set[Role]]:
    """The roles, those together of which heads are computed in one place and cannot have two scales."""
    groups: list[set[Role]] = []
    for unit in units(list(heads)):
        roles = {h.head.role for h in unit}
        touching = [group for group in groups if group & roles]
        groups = [group for group in groups if group not in touching] + [roles.union(*touching)]
    return groups


Choice = dict[Role, Scale | None]


def _mend(model: nn.Module, treatment: Treatment, group: set[Role], asked: Asked) -> Choice | None:
    """The first choice of scales for some roles with which all their heads hold, the host's own σ among them where
    nobody named a scale; None if none does."""
    probe = _probe(model, treatment)
    heads = treatment.handle.record.heads
    choices: list[Choice] = []
    if not any(asked[role] for role in group) and group <= {*treatment.scales}:
        choices.append(dict.fromkeys(group))
    choices += [dict.fromkeys(group, scale) for scale in _choices(treatment, group)]
    for choice in choices:
        tried = [
            replace(h, scale=fitted(h.head, choice[h.head.role], None, "exponentials")) if h.head.role in group else h
            for h in heads
        ]
        try:
            verdicts = probe.verdicts(tried)
        except PatchError:
            continue  # a scale that this host cannot have, such as one below a floor of its own
        if not broken_roles(verdicts) & group:
            return choice
    return None


def _take(model: nn.Module, treatment: Treatment, group: set[Role], choice: Choice) -> None:
    """Patch the model anew with other scales for some roles."""
    before, verdicts = treatment.scales, treatment.verdicts or []
    refused: list[PatchError] = []
    try:
        if _repatched(model, treatment, _with(before, choice), refused):
            treatment.verdicts = verdicts_of(model, treatment)
    except PatchError as error:
        refused.append(error)
        _repatched(model, treatment, before)
    if refused:
        what = next(iter(choice.values())) or "the host's own σ"
        treatment.refused |= dict.fromkeys(group, f"{what} holds, and {refused[0]}")
        return
    treatment.notes.append(f"{_got(group, choice, before)}, with which {_broken(verdicts, group)}")


def _repatched(model: nn.Module, treatment: Treatment, scales: Scales, refused: list[PatchError] | None = None) -> bool:
    """Whether the model can be patched with other scales; it has them then, and else those of before.

    Args:
        refused: gets why not.
    """
    before = treatment.scales
    treatment.handle.unpatch()
    try:
        treatment.handle = patch_heads(model, treatment.heads, scales, treatment.paper)
        treatment.scales = scales
    except PatchError as error:
        if refused is not None:
            refused.append(error)
        if is_patched(model):
            unpatch(model)
        treatment.handle = patch_heads(model, treatment.heads, before, treatment.paper)
        return False
    return True


def _with(scales: Scales, choice: Choice) -> Scales:
    return {role: scale for role, scale in {**scales, **choice}.items() if scale is not None}


def _got(group: set[Role], choice: Choice, before: Scales) -> str:
    """Which roles got which scale in the place of which."""
    chosen = next(iter(choice.values()))
    got = "kept the host's own σ" if chosen is None else f"got {chosen}"
    return f"the {' and the '.join(sorted(group))} {got} and not {_usual(group, before)}"


def _usual(group: set[Role], scales: Scales) -> str:
    return " and ".join(dict.fromkeys(str(scales[role]) for role in sorted(group) if role in scales))


def _broken(verdicts: Iterable[Verdict], group: set[Role]) -> str:
    verdict = next(v for v in verdicts if not v.cured and any(h.head.role in group for h in v.heads))
    origin = verdict.outcome.origin if verdict.outcome is not None else None
    where = "on this batch" if verdict.level is None else f"at log σ = {verdict.level:g}"
    if origin is None:
        return f"loss or gradients are not finite {where}"
    return f"{origin.operation} gives {origin.value} {where}, {origin.place}"


def _choices(treatment: Treatment, group: set[Role]) -> list[Scale]:
    """Scales to try, the one that changes least first; numbers from the host's floor and σ on the batch."""
    own = [h for h in treatment.handle.record.heads if h.head.role in group]
    floors = [floor for h in own if (floor := least(h.head.convention)) > 0]
    spreads = [h.before for h in own if h.before is not None]
    low = min([s.low for s in spreads if s.low > 0], default=0.01)
    floor = min(floors) if floors and len(floors) == len(own) else min(0.001, 10.0 ** math.floor(math.log10(low / 2)))
    downbounded = [f"downbounded({floor:.3g})"] if floors else []
    # far above what the batch has a bound leaves σ what it is
    tops = [f"{decade_above([s.high for s in spreads]) * 10.0**power:g}" for power in (2, 1, 0)]
    bounded = [f"bounded({max(floor, 1e-6):.3g}, {top})" for top in tops]
    if group == {"likelihood"}:
        names = [f"downbounded({max(floor, 1e-3):.3g})", *bounded]
    elif "posterior" in group:
        names = [*downbounded, *(f"upbounded({top})" for top in tops), *bounded]
    else:
        names = [*downbounded, *bounded, *(["constant"] if treatment.may_be_fixed else [])]
    usual = {str(treatment.scales.get(role, "")) for role in group}
    return [SCALES.get(name) for name in names if name not in usual]


# --- is the model's function kept? ------------------------------------------------------------------------------------


def keep(model: nn.Module, treatment: Treatment, asked: Asked) -> None:
    """Where the usual scales move the loss of the batch by 1% or more, take scales that move it less and hold as well,
    if there are any; the scale of a role that somebody named stays."""
    ruler = treatment.ruler = ruler_of(model, treatment.heads, treatment.handle)
    if ruler is None or treatment.paper:
        return
    groups = [
        group
        for group in _groups(treatment.handle.heads)
        if not any(asked[role] for role in group)
        and group & {*treatment.scales}
        and group & roles_of(filter(moves_sigma, treatment.handle.heads))
    ]
    given: list[tuple[str, str]] = []
    left = sorted(groups, key=lambda group: "prior" not in group)  # a constant σ is what moves most
    # what one role's σ moves the loss by depends on the other's, so that who changed nothing is asked again
    for group in (*left, *left) if len(left) > 1 else left:
        if group in left and not ruler.kept(ruler.move(treatment.handle)):
            treatment.kept |= group
            got = _keep(model, treatment, group, replace(ruler, shares=len(groups)))
            given += got
            left = [other for other in left if not got or other != group]
    now = f"{ruler.percent(ruler.move(treatment.handle))}{ruler.draws}"
    treatment.notes += (f"{got} (it moves by {now}); {instead}" for got, instead in given)


def _keep(model: nn.Module, treatment: Treatment, group: set[Role], ruler: Ruler) -> list[tuple[str, str]]:
    """Give some roles the first scale that keeps the loss and holds, or of those that hold the one that moves it
    least; and say, if they got one, what they got, and how the usual one is had."""
    before, verdicts = treatment.scales, treatment.verdicts
    broken, usual = broken_roles(verdicts or ()), ruler.move(treatment.handle, group)
    kinds = _kinds(group, treatment)
    own: Choice = dict.fromkeys(group)
    best, found = None, None
    none = 0.0  # what is left of the move where the host's own σ is, by the other roles
    if _repatched(model, treatment, _with(before, own)):
        none = ruler.move(treatment.handle, group)
        # that the host's own holds is known only where the raw values were pushed
        found = None if verdicts is None else verdicts_of(model, treatment)
        if found is not None and not broken_roles(found) - broken:
            best = own
    least = abs(usual - none)
    for choice in kinds if best is None and least > ruler.least else []:
        if not _repatched(model, treatment, _with(before, choice)):
            continue
        moved = abs(ruler.move(treatment.handle, group) - none)
        if not ruler.kept(moved) and moved > least - ruler.least:
            continue
        pushed = None if verdicts is None else verdicts_of(model, treatment)
        if broken_roles(pushed or ()) - broken:
            continue
        least, best, found = moved, choice, pushed
        if ruler.kept(moved):
            break
    if best is None:
        _repatched(model, treatment, before)
        return []
    if treatment.scales != _with(before, best):
        _repatched(model, treatment, _with(before, best))
    treatment.verdicts = found
    instead = ", ".join(f'{role}="{before[role]}"' for role in sorted(group) if role in before)
    fixed = ", the paper's constant prior, for a model that is yet to be trained" if "constant" in instead else ""
    got = f"{_got(group, best, before)}, with which {ruler.what} would move by {ruler.percent(usual)}"
    return [(got, f"{instead} gives that one{fixed}")]


def _kinds(group: set[Role], treatment: Treatment) -> list[Choice]:
    found = [scale for scale in _choices(treatment, group) if not isinstance(scale, Constant)]
    # which is the exponential itself up to half its bound: of those that keep the loss the lowest one
    upbounded = sorted((scale for scale in found if isinstance(scale, UpBounded)), key=lambda scale: scale.omega)
    in_order = [upbounded.pop(0) if isinstance(scale, UpBounded) else scale for scale in found]
    return [dict.fromkeys(group, scale) for scale in in_order]
