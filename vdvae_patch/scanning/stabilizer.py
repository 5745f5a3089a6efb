"""`stabilize`: scan, patch, verify and probe in one call, with an account of what holds now and what does not."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from torch import nn

from vdvae_patch import decoders
from vdvae_patch.attach.recompile import GIVE_ONE
from vdvae_patch.errors import HostError, PatchError, SharedScaleError
from vdvae_patch.heads import Head, Role
from vdvae_patch.patching import PatchHandle, patch
from vdvae_patch.patching.apply import lifted
from vdvae_patch.patching.fit import fitted
from vdvae_patch.patching.floors import least
from vdvae_patch.patching.record import PatchedHead, is_patched
from vdvae_patch.patching.term import put_term
from vdvae_patch.patching.variant import VANILLA
from vdvae_patch.scales import SCALES, Scale
from vdvae_patch.scanning.account import decade_above, told
from vdvae_patch.scanning.exchange import CannotExchangeError, Exchange, exchanged
from vdvae_patch.scanning.finder import scan
from vdvae_patch.scanning.probing import Probe, Verdict, units
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.seams import seam_of

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
        may_be_fixed: whether a constant σ may be the prior's.
    """

    heads: ScanResult
    handle: PatchHandle
    scales: Scales
    left_out: dict[Head, str] = field(default_factory=dict)
    verdicts: list[Verdict] | None = None
    not_probed: str = ""
    holds: dict[Role, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    may_be_fixed: bool = True


def stabilize(
    model: nn.Module,
    *inputs: Any,
    call: Callable[..., Any] | None = None,
    posterior: str | Scale | None = None,
    prior: str | Scale | None = None,
    likelihood: str | Scale | None = None,
    decoder: str | None = None,
    exclude: str | Iterable[str] = (),
    roles: Mapping[str, Role] | None = None,
    paper: bool = False,
    probe: bool = True,
    file: TextIO | None = None,
) -> PatchHandle:
    """Find the Normal heads, give each role its scale, use stable arithmetic, verify, and print what holds now.

    Each head's raw values are then pushed to where σ² and σ leave the range of their type, and to what an optimizer's
    steps can reach; the user's own call, backward pass included, must stay finite. What is printed says CURED of a head
    where it does, and else NOT cured, with the operation that breaks and a scale with which all stays finite, if one is
    found. Where the usual scale breaks and another one does not, the other one is used. A model that stays finite as it
    is keeps its σ: it may have a lower bound that its own arithmetic needs.

    A learned prior gets a constant σ of 1 unless another scale is named, the paper's choice (section 7.4): in ten seeds
    of a raised learning rate (docs/results/stress-ten-seeds.md) it had no NaN, where a prior with a learned σ had 86
    NaN steps of 1,000. This changes what a model computes that was trained with a learned σ: name `prior="explin"` to
    keep its σ learned. The prior gets the posterior's scale instead of a constant

    - where the host computes both in one place, so that they cannot have two scales;
    - where no density and no KL shows that it is a prior;
    - where no posterior is compared with it, as with the learned base of a flow;
    - where its network computes nothing but this σ, as in an entropy model.

    A posterior's σ is never fixed.

    Args:
        inputs, call: as of `scan`; give the loss as the call, so that priors are seen.
        posterior, prior, likelihood: the scale of each role, explin for a posterior if left out; a likelihood needs the
            data's range, so none is presumed.
        decoder: the pixel likelihood of `vdvae_patch.decoders` that shall stand in the place of the reconstruction
            term, such as "optimal". A squared or absolute error, or a Bernoulli's cross-entropy on grey values, in a
            method of the model or in the plain function that is the call, is replaced by "optimal" or
            "fixed(sigma=...)" around the mean that the host computes, if the loss is then a bound with β = 1, which is
            measured; of one in the call `handle.loss` is to be called in its place. Of any other the account says why
            not, and what to write. The KL's factor is kept either way.
        exclude: paths of heads, or of modules above them, that are left as they are.
        roles: by path, the role of heads that the scan takes for something else.
        paper: apply the formulas to the raw value as it is, see `patch`; a trained model's σ is not kept then.
        probe: whether to push the raw values. It takes a forward and backward pass for each of five values, and as
            many again for each role, and for each head of few; more where something breaks.
        file: where the account goes, standard output if left out.

    Returns:
        The handle of the patch. A head that cannot be patched is left as it is, and the account says why; where a loss
        function beside the model makes Normals, or computes a σ that got another scale, `handle.loss` is to be called
        in its place.

    Raises:
        PatchError: no head was found (the near misses are named), or none can be patched; or a scale was named for a
            role that no head has, or a path in `exclude` or `roles` that has no head.
    """
    if decoder is not None:
        decoders.get(decoder)  # what is no decoder is said before anything runs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no Normal head was found")  # the error below says it
        heads = scan(model, *inputs, call=call)
    if not heads:
        raise PatchError(f"no Normal head was found in {type(model).__name__}; near misses:\n{heads.why_not()}")
    asked: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    heads = heads.corrected(exclude=exclude, roles=roles or {})
    _require_asked(heads, asked)
    scales, notes, fixed = _chosen(heads, asked)
    exchange, why_not = (None, "") if decoder is None else _exchange(model, inputs, call, heads, decoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the account says it, of what is there in the end
        treatment = _patched(model, heads, scales, asked, paper)
        treatment.notes[:0] = notes
        treatment.may_be_fixed = fixed
        _examine(model, treatment, asked, paper, probe)
    print(told(treatment), file=file or sys.stdout)
    if decoder is not None:
        said = _said(heads, decoder, exchange, why_not)
        by_seam = "" if exchange is not None else _by_seam(model, decoder)
        print(f"decoder {decoder}: {said}{by_seam}", file=file or sys.stdout)
    if exchange is not None:
        exchange.term.tracking = True
        put_term(model.get_submodule(exchange.site.owner), exchange.term)
    return treatment.handle


def _exchange(
    model: nn.Module, inputs: tuple[Any, ...], call: Callable[..., Any] | None, heads: ScanResult, decoder: str
) -> tuple[Exchange | None, str]:
    """The decoder for the reconstruction term, known to the runs of the heads from here on; or why there is none."""
    try:
        exchange = exchanged(model, inputs, call, heads.elbo, decoder)
    except CannotExchangeError as error:
        return None, str(error)
    for run in {id(head.scan): head.scan for head in heads if head.scan is not None}.values():
        if exchange.outside:
            run.outside = (*run.outside, exchange.site)
        else:
            run.normals = (*run.normals, exchange.site)
    return exchange, ""


def _by_seam(model: nn.Module, decoder: str) -> str:
    """What else puts the decoder into a model of a host by name, whatever its likelihood is."""
    try:
        seam = seam_of(model)
    except HostError:
        return ""
    if seam is None:
        return ""
    return (
        "; its host by name says where its likelihood is: with heads=host.heads(model), vdvae_patch.patch(model, ..., "
        f'decoder="{decoder}") puts it there'
    )


def _said(heads: ScanResult, decoder: str, exchange: Exchange | None, why_not: str) -> str:
    """What became of the reconstruction term."""
    elbo = heads.elbo
    if exchange is None:
        known = elbo.instead(decoder)
        return f"not put in by itself: {why_not}. {known}" if why_not and why_not not in known else known
    term = elbo.reconstruction
    assert term is not None
    where = f"in the place of `{term.expression}` at {os.path.basename(term.file)}:{term.line}"
    by = "; compute the loss by handle.loss in the place of the call that was given" if exchange.outside else ""
    return f"{where}, on this batch with σ = {exchange.sigma:.4g}: the loss is a bound with β = 1{by}"


def _chosen(heads: ScanResult, asked: Mapping[Role, str | Scale | None]) -> tuple[Scales, list[str], bool]:
    """The scale of each role that has heads, why a prior's is not the usual one, and whether it may be constant."""
    posterior, prior = asked["posterior"] or "explin", asked["prior"]
    notes: list[str] = []
    own = [h for h in heads if h.role == "prior" and h.found is not None]
    compared = any(h.role == "posterior" for h in heads)
    guessed = next((h for h in own if h.found and h.found.confidence == "likely"), None)
    alone = next((h for h in own if h.found and h.found.alone), None)
    if prior is None:
        prior = "constant" if compared and not guessed and not alone else posterior
        why = ""
        if guessed is not None:
            why = f"that {guessed.path} is a prior is a guess, since no density and no KL reads it"
        elif own and not compared:
            why = f"no posterior is compared with {own[0].path}, so that a small σ makes no KL explode"
        elif alone is not None and alone.found is not None:
            why = f"of {alone.path}, {alone.found.alone}"
        if why:
            notes.append(f"the prior's σ is not fixed: {why}")
    wanted: dict[Role, str | Scale | None] = {"posterior": posterior, "prior": prior, "likelihood": asked["likelihood"]}
    present = {head.role for head in heads}
    scales = {role: scale for role, scale in wanted.items() if scale is not None and role in present}
    return scales, notes, compared and not (guessed or alone)


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
        why = str(error).removesuffix(f"; {GIVE_ONE}")
        notes.append(f"the prior gets what the posterior gets, and no constant one: {why}")
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
        return patch(model, VANILLA, heads=heads, arithmetic="stable")
    return patch(model, heads=heads, paper=paper, **given)


# --- does it hold? ----------------------------------------------------------------------------------------------------


def _examine(
    model: nn.Module, treatment: Treatment, asked: Mapping[Role, str | Scale | None], paper: bool, probe: bool
) -> None:
    """Push the raw values; where a usual scale breaks and another one holds, or the host's own does, take that one."""
    after = treatment.handle.after
    if not probe:
        treatment.not_probed = "probe=False"
    elif after is None or not after.has_loss:
        treatment.not_probed = (
            "NOT tested: no loss with gradients was seen; give your loss: call=lambda model, batch: ..., which returns "
            "it as a tensor"
        )
    elif after.outside:
        treatment.not_probed = "with the patch this batch is not finite by itself"
    if treatment.not_probed:
        return
    patched = treatment.handle.record.heads
    with lifted(model, treatment.handle.record):
        treatment.verdicts = _probe(model, treatment).verdicts(patched)
        broken = _broken_roles(treatment.verdicts)
        groups = [group for group in _groups(patched) if group & broken]
        found = [(group, _mend(model, treatment, group, asked)) for group in groups]
        if len(groups) > 1 and all(choice is None for _, choice in found):
            everything = set[Role]().union(*groups)
            found = [(everything, _mend(model, treatment, everything, asked))]
    for group, choice in found:
        if choice is None or not group & _broken_roles(treatment.verdicts):
            continue
        if any(asked[role] for role in group) or not group <= {*treatment.scales}:
            treatment.holds |= {role: str(scale) for role, scale in choice.items() if scale is not None}
        else:
            _take(model, treatment, group, choice, paper)


def _probe(model: nn.Module, treatment: Treatment) -> Probe:
    run = next(head.scan for head in treatment.heads if head.scan is not None)
    known = {(h.head.path, h.head.channel_range, h.head.role) for h in treatment.handle.record.heads}
    others = [h for h in run.heads if (h.path, h.channel_range, h.role) not in known]
    return Probe(model, run, others)


def _broken_roles(verdicts: Iterable[Verdict]) -> set[Role]:
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


def _mend(
    model: nn.Module, treatment: Treatment, group: set[Role], asked: Mapping[Role, str | Scale | None]
) -> Choice | None:
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
        if not _broken_roles(verdicts) & group:
            return choice
    return None


def _take(model: nn.Module, treatment: Treatment, group: set[Role], choice: Choice, paper: bool) -> None:
    """Patch the model anew with other scales for some roles."""
    before, verdicts = treatment.scales, treatment.verdicts or []
    treatment.handle.unpatch()
    treatment.scales = {role: scale for role, scale in {**before, **choice}.items() if scale is not None}
    try:
        treatment.handle = _patch(model, treatment.heads, treatment.scales, paper)
        with lifted(model, treatment.handle.record):
            treatment.verdicts = _probe(model, treatment).verdicts(treatment.handle.record.heads)
    except PatchError:
        if is_patched(model):
            treatment.handle.unpatch()
        treatment.scales = before
        treatment.handle = _patch(model, treatment.heads, before, paper)
        return
    roles = " and the ".join(sorted(group))
    chosen = next(iter(choice.values()))
    got = "kept the host's own σ" if chosen is None else f"got {chosen}"
    usual = " and ".join(dict.fromkeys(str(before[role]) for role in sorted(group)))
    treatment.notes.append(f"the {roles} {got} and not {usual}, with which {_broken(verdicts, group)}")


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
