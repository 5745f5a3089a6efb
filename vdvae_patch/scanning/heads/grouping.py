"""From readings to heads: which readings are one head, and where it can be patched.

Readings of the same channels of one module, in the same role, are one head. If the raw value leaves the module as its
output, and the host turns it into σ in one way that can be undone, the output is replaced. Otherwise the expressions
that compute σ are, at their calls.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from vdvae_patch import conventions
from vdvae_patch.attach.sites import Site
from vdvae_patch.composition import Measured, is_limited, named
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import THE_MODEL, Found, Head, Role
from vdvae_patch.scanning import rules
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence import hazards
from vdvae_patch.scanning.evidence.agreement import agrees, convention_of, conventions_of, factor_of, told_by_chains
from vdvae_patch.scanning.evidence.bystanders import read_beside, read_by_mean
from vdvae_patch.scanning.evidence.emission import Emission, emission_of
from vdvae_patch.scanning.evidence.group import EmissionKey, Group, Groups
from vdvae_patch.scanning.evidence.interpolated import is_interpolated
from vdvae_patch.scanning.evidence.reading import Reading, Readings, where
from vdvae_patch.scanning.heads.floored_logs import floored_logs, require_one_function, tiny_floor
from vdvae_patch.scanning.heads.pairing import with_normals
from vdvae_patch.scanning.heads.roles import is_of_draws, role_of, shape_of
from vdvae_patch.scanning.heads.twins import join_roles_of_twins
from vdvae_patch.scanning.places.calls import CannotPlaceError, calls_of_layer, calls_of_module
from vdvae_patch.scanning.places.placing import (
    disagreeing,
    is_product_of_others,
    is_product_of_scales,
    sites_of,
    sites_of_factor,
)


def heads_of(graph: Graph, readings: Readings) -> list[Head]:
    """The heads of all readings, in the order in which the model computes them."""
    groups: Groups = {}
    plain = [r for r in readings.found if not r.parts]
    for spot_readings in _made_twice(graph, _by_raw(plain).values()):
        _add(groups, _group(graph, readings, spot_readings, spot_readings[0].raw))
    owned = {*groups}
    for spot_readings in _by_raw([r for r in readings.found if r.parts]).values():
        for group in _joined(graph, readings, spot_readings, owned):
            _add(groups, group)
    for join in rules.groupings:
        join(groups)
    join_roles_of_twins(graph, groups)
    ordered = sorted(groups.values(), key=lambda g: g.spot.node.id)
    shared = {chain.begin.node.id for r in readings.found for chain in r.parts}
    heads = [_head(graph, group, group.spot.node.id in shared and not group.readings[0].parts) for group in ordered]
    return with_normals(graph, readings, ordered, _with_calls(graph, ordered, heads))


def _with_calls(graph: Graph, groups: list[Group], heads: list[Head]) -> list[Head]:
    """The heads; those of one module that serves two roles with the calls where each can be patched by itself.

    An output can be given one scale only, so `self.net(x)` for the posterior and `self.net(z)` for the prior are told
    apart by the expressions that call the module, or by those that call the method which does, and so on outward.
    """
    by_key: dict[EmissionKey, list[int]] = {}
    for index, (group, head) in enumerate(zip(groups, heads, strict=True)):
        if head.found is not None and head.found.patch_at == "output" and not head.sites:
            by_key.setdefault(group.key, []).append(index)
    for places in by_key.values():
        for outward in range(_MOST_METHODS if len(places) > 1 else 0):
            try:
                sites = [
                    calls_of_module(graph, groups[i].readings, groups[i].emission, heads[i].convention, outward)
                    for i in places
                ]
            except CannotPlaceError:
                break  # at the output, then, where both get one scale
            if len({site for found in sites for site in found}) == sum(map(len, sites)):
                for i, found in zip(places, sites, strict=True):
                    heads[i] = replace(heads[i], sites=found)
                break
    return heads


_MOST_METHODS = 4
"""How many methods of one module, each called by the next, are looked through for calls that tell two roles apart."""


def _by_raw(found: Iterable[Reading]) -> dict[Any, list[Reading]]:
    out: dict[Any, list[Reading]] = {}
    for reading in found:
        # a log σ that is computed twice, of one raw value, is one head's
        raw = reading.parts[0].begin if is_interpolated(reading) else reading.raw
        out.setdefault(raw.key, []).append(reading)
    return out


def _made_twice(graph: Graph, found: Iterable[list[Reading]]) -> list[list[Reading]]:
    """The readings of each raw value; together those of one emission that is drawn from in one call, and given to a
    Normal that is not in another: a policy's law is made to act, and again for its entropy."""
    out: list[list[Reading]] = []
    laws: dict[Any, list[list[Reading]]] = {}
    for own in map(list, found):
        out.append(own)
        if {r.evidence for r in own} <= {"Normal", "noise"}:
            laws.setdefault((emission_of(graph, own[0].raw), own[0].raw.node.data), []).append(own)
    for same in laws.values():
        kinds = [frozenset(r.evidence for r in own) for own in same]
        if frozenset({"Normal"}) in kinds and frozenset({"Normal", "noise"}) in kinds:
            first = same[kinds.index(frozenset({"Normal", "noise"}))]
            for own in same:
                if own is not first:
                    first.extend(own)
                    out = [other for other in out if other is not own]
    return out


def _add(groups: Groups, group: Group) -> None:
    known = groups.setdefault((group.key, group.role), group)
    if known is not group:
        known.readings.extend(group.readings)
        known.sure |= group.sure


def _group(graph: Graph, readings: Readings, found: list[Reading], raw: Spot) -> Group:
    emission = emission_of(graph, raw)
    if emission.at_output:
        known = [r.raw for r in readings.found if not r.parts] + [c.begin for r in readings.found for c in r.parts]
        other = read_beside(graph, emission.path, raw, known) or read_by_mean(graph, found)
        if other is not None:
            reason = f"what its module puts out is also read at {where(other)}, where it is no raw value"
            emission = replace(emission, at_output=False, reason=reason)
    role, sure = role_of(graph, readings, found)
    return Group(emission, role, found, raw, sure)


def _joined(
    graph: Graph, readings: Readings, found: list[Reading], owned: set[tuple[EmissionKey, Role]]
) -> Iterator[Group]:
    """The heads whose raw value is a sum or a product of several, as a residual posterior's is of its prior's.

    They are named by the operands that are no heads of their own: in `prior.log_sigma + self.residual(x)` by
    `residual`, and in `self.up(x) + self.down(h)` by both, to which one expression gives one scale. Where a parameter
    is among them, or where scales are averaged, by the last one. Where all are heads of their own, by one of the same
    role, which is then not named twice.
    """
    emissions = [(emission_of(graph, chain.begin), chain) for chain in found[0].parts]
    # of v − v.mean(0) the raw value is v
    emissions = [(e, c) for e, c in emissions if not any(_is_made_of(c, other) for _, other in emissions)] or emissions
    role, sure = role_of(graph, readings, found)
    heads = {key for key, _ in owned}
    free = [(e, c) for e, c in emissions if (e.path, e.channels) not in heads]
    own = free or [(e, c) for e, c in emissions if ((e.path, e.channels), role) in owned][-1:] or emissions[-1:]
    scales = found[0].chain.end == "sum" and any(step.name not in ops.LINEAR_STEPS for _, c in own for step in c.steps)
    if scales:
        own = own[-1:]
    elif any(emission.parameter for emission, _ in own):
        factors = _factors(graph, found, own)
        own = factors if len(factors) > 1 else own[-1:]
    for emission, chain in own:
        steps = chain.steps if found[0].chain.end == "product" else None
        yield Group(emission, role, list(found), chain.begin, sure, steps, len(own) == len(found[0].parts))


def _factors(graph: Graph, found: list[Reading], parts: list[tuple[Emission, Chain]]) -> list[tuple[Emission, Chain]]:
    """The factors of a product of scales that each get one of their own: what a module emits, or a parameter, and is
    not the mean as well, as in noise that is relative to it, `m.abs() * softplus(p)`."""
    if not any(map(is_product_of_scales, found)):
        return []
    given = {r.node.id for r in found if r.evidence == "Normal"}
    drawn = [u for r in found if r.evidence == "noise" for u in graph.consumers.get(r.node.id, ())]
    sums = [user for product in drawn for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    means = [normal.loc for normal in graph.normals if normal.scale.id in given]
    means += [node for user in sums for node in user.inputs if node not in drawn]
    means += [mean.node for r in found if r.term is not None for mean in r.term.means]
    moved = {key for mean in means for key in Expression(Spot(mean)).leaves}
    return [
        (emission, chain)
        for emission, chain in parts
        if (emission.at_output or emission.parameter) and chain.begin.key not in moved
    ]


def _is_made_of(chain: Chain, other: Chain) -> bool:
    """Whether the raw value of a chain is computed of another one's, by arithmetic and sums of its elements."""
    todo, seen = [chain.begin.node], set[int]()
    while todo and chain.begin.node is not other.begin.node:
        node = todo.pop()
        if node is other.begin.node:
            return True
        if node.id not in seen and node.kind in ("elementwise", "shape", "reduction"):
            seen.add(node.id)
            todo += node.inputs
    return False


def _head(graph: Graph, group: Group, shared: bool) -> Head:
    emission = group.emission
    convention, agree = _convention(group)
    first, channels = group.readings[0], emission.channels
    place, reason, convention, sites = _place(graph, group, convention, agree, shared)
    floored = _floored(group)
    made_one = None
    if floored and place == "output" and not shared:
        made_one = _made_one(graph, replace(group, readings=[*group.readings, *floored]), floored)
    if made_one is not None:
        convention, sites = made_one
    if place == "no" and not agree:
        near, agree_nearly = _convention(group, nearly=True)
        if agree_nearly:  # what the host has of the other's floor is left
            place, reason, convention, sites = _place(graph, group, near, True, shared)
    beside = any(isinstance(site, Site) and site.in_call for site in sites)
    sigma = _sigma_node(group.readings)
    # of a parameter that is read as it is, no line computes it: where it is compared
    term = next((r.term for r in group.readings if r.term is not None), None)
    place_of = sigma if term is None or sigma.host_frame() is not None else term.total
    file, _, line = where(place_of).rpartition(":")
    factor = factor_of(group.readings, group.role) if agree and group.steps is None else 1.0
    name = emission.path or THE_MODEL
    counted = hazards.counted_from(graph, group.readings) if group.role == "likelihood" else 0.0
    if _is_drawn_alone(group):
        counted = math.inf
    tiny = [] if floored else [(r, floor) for r in group.readings if (floor := tiny_floor(r))]
    uneven = hazards.of_uneven(name, group.readings) or hazards.of_masked(name, group.readings)
    if group.steps is not None and is_product_of_others(first):
        uneven = hazards.of_factor(name, first, group.factors)
    summed = hazards.of_sum(name, first) if _is_sum_of_scales(first) else None
    drawn = any(r.evidence == "noise" for r in group.readings)
    found = Found(
        confidence="sure" if group.sure else "likely",
        shape=first.node.shape if first.used < 0 else shape_of(first.raw),
        file=file,
        line=int(line) if line.isdigit() else 0,
        patch_at=place,
        reason=reason,
        evidence=tuple(sorted({_EVIDENCE[r.evidence] for r in group.readings})),
        warnings=(
            *hazards.of_head(
                group.role, convention, agree, name, _ways(group.readings), factor, counted, drawn, summed is None
            ),
            *(hazards.of_floored_log(emission.path, where(r.node), made_one is not None) for r in floored[:1]),
            *(hazards.of_tiny_floor(name, where(r.term.total), floor) for r, floor in tiny[:1] if r.term),
            *([uneven] if uneven else []),
            *([] if summed is None else [summed]),
        ),
        alone=_alone(graph, group),
        at_output=beside and place == "call" and _is_bounded_output(group, convention, agree, shared),
        factor=factor,
        uneven=uneven,
    )
    return Head(
        emission.path, group.role, channels.start, channels.stop, channels.dim, convention,
        sites=sites, parameter=emission.parameter, found=found, step=channels.step,
        size=emission.size,
    )  # fmt: skip


def _is_drawn_alone(group: Group) -> bool:
    """Whether no density of the head is of anything but its own draws, as a policy's entropy: none grows without limit
    with what is reconstructed well."""
    own = {r.node.id if r.used < 0 else r.used for r in group.readings if r.evidence == "noise"}
    return bool(own) and all(is_of_draws(r, own) for r in group.readings if r.evidence == "p" and r.term is not None)


def _convention(group: Group, nearly: bool = False) -> tuple[Convention, bool]:
    """See `convention_of`; of a factor of a product of scales that of the factor alone."""
    convention, agree = convention_of(group.readings, group.role, nearly)
    return (convention if group.steps is None else named(group.steps)), agree


def _is_sum_of_scales(reading: Reading) -> bool:
    """Whether σ is a sum of several scales that is positive wherever their raw values are, `exp(a) + exp(b)`."""
    scales = all(any(step.name not in ops.LINEAR_STEPS for step in part.steps) for part in reading.parts)
    if reading.chain.end != "sum" or reading.chain.begin.node.op != "add" or not scales:
        return False
    expression = Expression(reading.chain.begin)
    generator = torch.Generator().manual_seed(0)
    far = {key: 16 * torch.rand(64, dtype=torch.float64, generator=generator) - 8 for key in expression.leaves}
    sigma = expression.value(far)
    for step in (*reading.chain.steps, *reading.suffix):
        sigma = step.forward(sigma)
    return bool((sigma > 0).all())


def _floored(group: Group) -> list[Reading]:
    """The logs in the head's KL, or density, that a floor keeps from being the log of its σ."""
    found = (log for reading in group.readings for log in floored_logs(reading))
    return [r for r in found if r.steps and group.readings[0].steps and not agrees(r.steps, group.readings[0].steps)]


def _place(
    graph: Graph, group: Group, convention: Convention, agree: bool, shared: bool
) -> tuple[Literal["output", "call", "no"], str, Convention, tuple[Any, ...]]:
    """Where a head is patched and why there, the convention that is kept, and the sites."""
    place, reason = _patch_place(group, convention, agree, shared)
    if place != "call":
        return place, reason, convention, ()
    try:
        if group.emission.at_output and not agree and not is_limited(convention) and not shared:
            made_one = _made_one(graph, group)
            if made_one is not None:
                return "output", reason, *made_one
        if group.emission.layer and _is_at_layer(group, convention, agree, shared):
            return "call", reason, convention, calls_of_layer(group.readings, group.emission, convention)
        if any(map(is_product_of_others, group.readings)):
            return "call", FACTOR, convention, sites_of_factor(graph, group.readings, group.emission)
        return "call", reason, convention, sites_of(graph, group.readings)
    except CannotPlaceError as error:
        at_output = _is_bounded_output(group, convention, agree, shared)
        return "output" if at_output else "no", f"{reason}, and {error}", convention, ()


def _made_one(graph: Graph, group: Group, floored: Sequence[Reading] = ()) -> tuple[Convention, tuple[Any, ...]] | None:
    """The convention to which readings that disagree can be brought where the module's output is replaced, and the
    sites that bring them; None if there is none."""
    for convention in conventions_of(group.readings, group.role):
        with contextlib.suppress(CannotPlaceError):
            require_one_function(floored)
            if not is_limited(convention):
                return convention, disagreeing(graph, group.readings, convention)
    return None


def _alone(graph: Graph, group: Group) -> str:
    """What a constant σ would take from a prior whose network computes nothing else, or is not trained, as a teacher
    is; empty if it also has a mean."""
    terms = [r.term for r in group.readings if r.term is not None and r.evidence == "p"]
    if group.role != "prior" or not terms:
        return ""
    if any(spot.node.op in ops.CDF for term in terms for spot in Expression(Spot(term.total)).order):
        return "it is an entropy model, whose σ says how many bits a value costs"
    whole = group.emission.channels.start == 0 and group.emission.channels.stop is None
    if whole and all(sum(mean.node.params for mean in term.means) < 2 for term in terms):
        return "σ is the only thing that its network computes"
    if graph.fixed and all(name in graph.fixed for name in _parameters_of(group.readings[0].raw.node)):
        return "no parameter is trained, so that its σ does not go to zero"
    return ""


def _parameters_of(node: Node) -> set[str]:
    """The names of the parameters that a value is computed of."""
    names, todo, seen = set[str](), [node], set[int]()
    while todo:
        current = todo.pop()
        if current.id in seen or not current.params:
            continue
        seen.add(current.id)
        if current.kind == "parameter":
            names.add(current.name)
        todo += current.inputs
    return names


def _is_bounded_output(group: Group, convention: Convention, agree: bool, shared: bool) -> bool:
    """Whether nothing but a floor or a bound of the host's keeps the head from being patched at the output: any σ that
    the host's own arithmetic reaches can still be had there."""
    free = _patch_place(group, conventions.LogSigma(), agree, shared)[0] == "output"
    return free and is_limited(convention) and not isinstance(convention, Measured)


def _is_at_layer(group: Group, convention: Convention, agree: bool, shared: bool) -> bool:
    """Whether nothing but the module's class keeps the head from being patched where the raw value is emitted."""
    at_output = replace(group, emission=replace(group.emission, at_output=True))
    return _patch_place(at_output, convention, agree, shared)[0] == "output"


_EVIDENCE = {
    "noise": "multiplies fresh noise",
    "Normal": "torch.distributions.Normal",
    "q": "first argument of a KL",
    "p": "density, or second argument of a KL",
}


_USES = {
    "noise": "noise is multiplied by σ as {0} gives it",
    "Normal": "a Normal is given it as {0}",
    "q": "the KL has it as {0}",
    "p": "the density or the KL has it as {0}",
}


def _ways(readings: Iterable[Reading]) -> list[str]:
    """How a raw value is read, in the words of a warning, with places."""
    found: dict[str, str] = {}
    for reading in readings:
        if reading.steps is not None:
            text = _USES[reading.evidence].format(named(reading.steps))
            found.setdefault(text, where(reading.node if reading.term is None else reading.term.total))
    return [f"{text}, {os.path.basename(place)}" for text, place in found.items()]


def _sigma_node(readings: list[Reading]) -> Any:
    best = next((r for r in readings if r.evidence in ("Normal", "noise")), readings[0])
    return best.chain.nodes[-1] if best.chain.nodes else best.node


SUM = "its raw value is a sum that is formed after the modules have run"
FACTOR = "it is a factor of a product of scales, each of which gets its own"
INTERPOLATED = (
    "its log σ is computed of it and of numbers that differ from element to element, after the modules have run"
)


def _patch_place(
    group: Group, convention: Convention, agree: bool, shared: bool
) -> tuple[Literal["output", "call", "no"], str]:
    if group.readings[0].parts:
        return "call", INTERPOLATED if is_interpolated(group.readings[0]) else SUM
    if not group.emission.at_output:
        return "call", group.emission.reason
    if shared:
        return "call", "its raw value is also a part of another head's"
    if told_by_chains(group.readings)[0].steps is None:
        return "call", "the host computes the scale from the raw value in several ways at once"
    if not agree:
        return "call", "the host reads the raw value in several ways that disagree"
    if is_limited(convention):
        return "call", f"{convention} has a floor or a bound that no raw value gets past"
    return "output", ""
