"""From readings to heads: which readings are one head, its role, its convention, and where it can be patched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch

from vdvae_patch import conventions
from vdvae_patch.composition import Composition, Measured, Step, is_limited, named
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Found, Head, Role
from vdvae_patch.scanning import hazards, rules
from vdvae_patch.scanning.calls import CannotPlaceError, calls_of_layer, calls_of_module
from vdvae_patch.scanning.chain import bounded_steps
from vdvae_patch.scanning.emission import emission_of
from vdvae_patch.scanning.graph import Graph
from vdvae_patch.scanning.group import EmissionKey, Group, Groups
from vdvae_patch.scanning.placing import disagreeing, sites_of
from vdvae_patch.scanning.reading import Reading, Readings, where
from vdvae_patch.scanning.replay import Expression, Spot


def heads_of(graph: Graph, readings: Readings) -> list[Head]:
    """The heads of all readings, in the order in which the model computes them."""
    groups: Groups = {}
    plain = [r for r in readings.found if not r.parts]
    for spot_readings in _by_raw(plain).values():
        _add(groups, _group(graph, readings, spot_readings, spot_readings[0].raw))
    owned = {key for key, _ in groups}
    for spot_readings in _by_raw([r for r in readings.found if r.parts]).values():
        _add(groups, _joined(graph, readings, spot_readings, owned))
    for join in rules.groupings:
        join(groups)
    ordered = sorted(groups.values(), key=lambda g: g.spot.node.id)
    shared = {id_ for r in readings.found for chain in r.parts for id_ in (chain.begin.node.id,)}
    heads = [_head(graph, group, group.spot.node.id in shared and not group.readings[0].parts) for group in ordered]
    return _with_calls(graph, ordered, heads)


def _with_calls(graph: Graph, groups: list[Group], heads: list[Head]) -> list[Head]:
    """Heads of one module that serves two roles, with the calls where each can be patched by itself."""
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
        out.setdefault(reading.raw.key, []).append(reading)
    return out


def _add(groups: Groups, group: Group) -> None:
    known = groups.setdefault((group.key, group.role), group)
    if known is not group:
        known.readings.extend(group.readings)
        known.sure |= group.sure


def _group(graph: Graph, readings: Readings, found: list[Reading], raw: Spot) -> Group:
    emission = emission_of(graph, raw)
    role, sure = _role(graph, readings, found)
    return Group(emission, role, found, raw, sure)


def _joined(graph: Graph, readings: Readings, found: list[Reading], owned: set[EmissionKey]) -> Group:
    """A residual head: it is named by the operand that is no head of its own."""
    emissions = [(emission_of(graph, chain.begin), chain) for chain in found[0].parts]
    emission, chain = next(((e, c) for e, c in reversed(emissions) if (e.path, e.channels) not in owned), emissions[-1])
    role, sure = _role(graph, readings, found)
    steps = chain.steps if found[0].chain.end == "product" else None
    return Group(emission, role, found, chain.begin, sure, steps)


def _role(graph: Graph, readings: Readings, found: list[Reading]) -> tuple[Role, bool]:
    """posterior, prior or likelihood, and whether a density or KL says so."""
    places = {r.evidence for r in found}
    if "q" in places:
        return "posterior", True
    own = {r.node.id if r.used < 0 else r.used for r in found if r.evidence == "noise"}
    roles = [_role_of_density(graph, readings, r, own) for r in found if r.term is not None and r.evidence == "p"]
    if roles:
        return ("posterior" if "posterior" in roles else roles[0]), True
    node = found[0].raw.node
    sampled = "noise" in places
    if node.noise and not (sampled and _sample_is_used(graph, readings, own)):
        return ("likelihood" if _has_size_of_data(graph, found[0].raw) else "prior"), False
    if not sampled and _has_size_of_data(graph, found[0].raw):
        return "likelihood", False  # a Normal that is made of the data, and never drawn from
    return ("posterior" if node.data else "prior"), "Normal" in places


def _has_size_of_data(graph: Graph, raw: Spot) -> bool:
    size = math.prod(_shape_of(raw))
    return any(n.kind == "input" and math.prod(n.shape) == size for n in graph.nodes)


def _shape_of(spot: Spot) -> tuple[int, ...]:
    kept = {cut.dim: cut.length for cut in spot.cuts}
    return tuple(kept.get(dim, size) for dim, size in enumerate(spot.node.shape))


def _role_of_density(graph: Graph, readings: Readings, reading: Reading, own: set[int]) -> Role:
    assert reading.term is not None
    means = reading.term.means
    samples = [m for m in means if m.node.id in readings.samples]
    for sample in samples:
        if any(n.id in own for n in sample.node.inputs):
            return "posterior"  # the log density of a sample under the distribution that it was drawn from
    if samples or any(r.term is not None and r.term.total is reading.term.total for r in _q_terms(readings)):
        return "prior"
    networks = {m.node.id for m in means if m.node.params}
    return "prior" if len(networks) > 1 else "likelihood"


def _q_terms(readings: Readings) -> list[Reading]:
    return [r for r in readings.found if r.evidence == "q"]


def _sample_is_used(graph: Graph, readings: Readings, own: set[int]) -> bool:
    """Whether a network goes on from what was drawn."""
    todo = [n for node in graph.nodes if node.id in readings.samples for n in [node] if _reads(node, own)]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if node.kind == "opaque" and any(n.kind == "parameter" or _is_weight(n) for n in node.inputs):
            return True
        todo.extend(graph.consumers.get(node.id, ()))
    return False


def _is_weight(node: Any) -> bool:
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    return bool(node.kind == "parameter")


def _reads(product: Any, own: set[int]) -> bool:
    return any(n.id in own for n in product.inputs)


def _head(graph: Graph, group: Group, shared: bool) -> Head:
    emission = group.emission
    convention, agree = _convention(group.readings)
    if group.steps is not None:
        convention = named(group.steps)
    first, channels = group.readings[0], emission.channels
    place, reason = _patch_place(group, convention, agree, shared)
    sites: tuple[Any, ...] = ()
    if place == "call":
        try:
            if group.emission.at_output and not agree and not is_limited(convention) and not shared:
                sites = disagreeing(graph, group.readings, convention)
                place = "output"
            elif emission.layer and _is_at_layer(group, convention, agree, shared):
                sites = calls_of_layer(group.readings, emission, convention)
            else:
                sites = sites_of(graph, group.readings)
        except CannotPlaceError as error:
            place, reason = "no", f"{reason}, and {error}"
    file, _, line = where(_sigma_node(group.readings)).rpartition(":")
    found = Found(
        confidence="sure" if group.sure else "likely",
        shape=first.node.shape if first.used < 0 else _shape_of(first.raw),
        file=file,
        line=int(line) if line.isdigit() else 0,
        patch_at=place,
        reason=reason,
        evidence=tuple(sorted({_EVIDENCE[r.evidence] for r in group.readings})),
        warnings=tuple(hazards.of_head(group.role, convention, agree, emission.path)),
    )
    return Head(
        emission.path, group.role, channels.start, channels.stop, channels.dim, convention,
        sites=sites, parameter=emission.parameter, found=found, step=channels.step,
    )  # fmt: skip


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


def _sigma_node(readings: list[Reading]) -> Any:
    best = next((r for r in readings if r.evidence in ("Normal", "noise")), readings[0])
    return best.chain.nodes[-1] if best.chain.nodes else best.node


SUM = "its raw value is a sum that is formed after the modules have run"


def _patch_place(
    group: Group, convention: Convention, agree: bool, shared: bool
) -> tuple[Literal["output", "call", "no"], str]:
    if group.readings[0].parts:
        return "call", SUM
    if not group.emission.at_output:
        return "call", group.emission.reason
    if shared:
        return "call", "its raw value is also a part of another head's"
    if group.readings[0].steps is None:
        return "call", "the host computes the scale from the raw value in several ways at once"
    if not agree:
        return "call", "the host reads the raw value in several ways that disagree"
    if is_limited(convention):
        return "call", f"{convention} has a floor or a bound that no raw value gets past"
    return "output", ""


def _convention(readings: list[Reading]) -> tuple[Convention, bool]:
    """The convention that the readings agree on; the sampler's, and False, if they do not."""
    chains = [(r, r.steps) for r in readings]
    whole = next((r for r in readings if r.steps is None), None)
    if whole is not None:
        return _measured(whole), True
    known: list[tuple[Reading, tuple[Step, ...]]] = [(r, s) for r, s in chains if s is not None]
    if not known:
        return conventions.Sigma(), True
    measured = [r for r, _ in known if r.evidence in ("q", "p", "Normal")]
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)
    curves = [(r, Composition(s).sigma(grid)) for r, s in known]
    reference = next((c for r, c in curves if measured and r is measured[0]), curves[0][1])
    agree = all(_same(reference, curve, r.evidence == "noise" and bool(measured)) for r, curve in curves)
    chosen = next(s for r, s in known if (r is measured[0] if measured else True))
    return named(chosen), agree


def _measured(reading: Reading) -> Convention:
    """Of an expression that is no chain: by what its parameters are, or by points."""
    expression = Expression(reading.spot)
    if reading.raw.key not in expression.leaves:
        return conventions.Sigma()
    steps = bounded_steps(reading.spot, reading.raw)
    if steps is not None:
        return named((*steps, *reading.suffix))
    grid = torch.linspace(-8, 8, 65, dtype=torch.float64)
    others = {
        key: torch.full_like(grid, spot.node.value if spot.node.kind == "parameter" else 0.0)  # such as learned bounds
        for key, spot in expression.leaves.items()
    }
    sigma = expression.value(others | {reading.raw.key: grid})
    for step in reading.suffix:
        sigma = step.forward(sigma)
    return Measured(tuple(zip(grid.tolist(), sigma.expand_as(grid).tolist(), strict=True)))


def _same(reference: torch.Tensor, curve: torch.Tensor, up_to_factor: bool) -> bool:
    ratio = curve / reference
    if up_to_factor:  # a temperature
        ratio = ratio / ratio[len(ratio) // 2]
    return torch.allclose(torch.nan_to_num(ratio, 1.0), torch.ones_like(ratio), rtol=1e-5)
