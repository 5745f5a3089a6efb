"""Readings: every use of a raw value as a scale that a graph shows, with what it was known by."""

from __future__ import annotations

import itertools
from dataclasses import replace

from vdvae_patch.composition import Step
from vdvae_patch.scanning import ops, rules
from vdvae_patch.scanning.chain import Chain, descend, scaled_noise
from vdvae_patch.scanning.gaussian import GaussianTerm, gaussian_terms
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.masses import masses_and_densities
from vdvae_patch.scanning.reading import Evidence, NearMiss, Reading, Readings, where
from vdvae_patch.scanning.replay import Expression, Spot, settle


def read(graph: Graph) -> Readings:
    """Collect the readings of a graph: first those of samplers and `Normal`s, then those of densities and KLs."""
    out = Readings()
    direct_uses = _direct(graph, out)
    out.samples.update(product.id for _, _, _, product in direct_uses if product is not None)
    stops = set(out.samples)
    for spot, suffix, evidence, product in direct_uses:
        if product is not None:
            stops.update(_means_of(graph, product))
        for reading in _readings_of(spot, suffix, evidence, out):
            if reading.parts:
                stops.add(reading.raw.node.id)
            out.found.append(reading)
    stops |= out.merged
    direct = [r for r in out.found if not r.parts]
    for term in itertools.chain(gaussian_terms(graph, frozenset(stops)), masses_and_densities(graph, frozenset(stops))):
        term = _with_bounds(term, direct, frozenset(stops))
        chain = descend(term.node, frozenset(stops))
        if chain.end == "constant" or chain.begin.node.id in out.merged:
            continue
        joined = next((r for r in out.found if r.parts and r.raw.node.id == chain.begin.node.id), None)
        parts = joined.parts if joined is not None else ()
        reason = next(filter(None, (rule(graph, term, out) for rule in rules.terms)), None)
        if reason is not None:
            out.near_misses.append(NearMiss(where(term.total), reason))
            continue
        if joined is None and chain.end not in ("raw", "several"):
            chain = replace(chain, end="several")
        begin = term.raw if chain.end == "several" else chain.begin
        out.found.append(Reading(begin, chain, term.suffix, term.place, term.node.node, term, parts))
    for drops in rules.drops:
        dropped = list(drops(graph, out.found))
        out.near_misses.extend(miss for _, miss in dropped)
        gone = {id(reading) for reading, _ in dropped}
        out.found = [reading for reading in out.found if id(reading) not in gone]
    return out


def _with_bounds(term: GaussianTerm, direct: list[Reading], stops: frozenset[int]) -> GaussianTerm:
    """The term with σ as the sampler has it, where a floor or clamp that the probed values do not reach is in between.

    That is so if the term reads the raw value only through what the sampler uses.
    """
    for reading in direct:
        chain = reading.chain
        longer = [node.id for node in chain.nodes[:-1]]
        if reading.raw.key != term.raw.key or term.suffix or term.node.node.id not in longer:
            continue
        through = Expression(Spot(term.total), stops | {chain.nodes[-1].id}, through_sums=True)
        if term.raw.key not in through.leaves:
            return replace(term, node=Spot(chain.nodes[-1]))
    return term


def _direct(graph: Graph, out: Readings) -> list[tuple[Spot, tuple[Step, ...], Evidence, Node | None]]:
    found: list[tuple[Spot, tuple[Step, ...], Evidence, Node | None]] = []
    for normal in graph.normals:
        found.append((Spot(normal.scale), (), "Normal", None))
    for node in graph.nodes:
        for operand, noise, suffix in _scaled(node):
            if not operand.params:
                continue
            reason = next(filter(None, (rule(operand, noise) for rule in rules.noise_uses)), None)
            if reason is not None:
                out.near_misses.append(NearMiss(where(operand), reason))
            else:
                found.append((Spot(operand), suffix, "noise", node))
    return found


def _means_of(graph: Graph, product: Node) -> set[int]:
    """What σ ε is added to, where that is computed and not a network's plain output."""
    means = set()
    for user in graph.consumers.get(product.id, ()):
        if user.op == "add":
            others = [n for n in user.inputs if n is not product and n.params]
            means |= {n.id for n in others if settle(Spot(n)).node.kind == "elementwise"}
    return means


def _scaled(node: Node) -> list[tuple[Node, Node | None, tuple[Step, ...]]]:
    """(what is multiplied by fresh noise, the noise, steps to σ) for an operation; usually none."""
    inputs = [a for a in node.args if isinstance(a, Node)]
    if node.op in ops.SCALING_NOISE and node.params:
        std = node.kwargs.get("std", node.args[1] if len(node.args) > 1 else None)
        return [(std, None, ())] if isinstance(std, Node) else []
    if node.op == "mul" and len(inputs) == 2:
        pairs = [(inputs[0], inputs[1]), (inputs[1], inputs[0])]
    elif node.op == "addcmul" and len(inputs) == 3:
        pairs = [(inputs[1], inputs[2]), (inputs[2], inputs[1])]
    elif node.op == "div" and len(inputs) == 2:
        fresh = scaled_noise(inputs[0])
        return [] if fresh is None else [(inputs[1], fresh.node, (Step("pow", (-1.0,)),))]
    else:
        return []
    for sigma, noise in pairs:
        fresh = scaled_noise(noise)
        if fresh is not None:
            return [(sigma, fresh.node, ())]
    return []


def _readings_of(spot: Spot, suffix: tuple[Step, ...], evidence: Evidence, out: Readings) -> list[Reading]:
    chain = descend(spot)
    begin = chain.begin
    if chain.end == "constant":
        return []
    reason = next(filter(None, (rule(chain, out) for rule in rules.chains)), None)
    if reason is not None:
        out.near_misses.append(NearMiss(where(begin.node), reason))
        return []
    merged = next(filter(None, (rule(chain, suffix) for rule in rules.merges)), None)
    if merged is not None:
        out.merged.add(begin.node.id)
        found = (reading for scale in merged.scales for reading in _readings_of(scale, merged.suffix, evidence, out))
        return [replace(reading, used=spot.node.id) for reading in found]
    parts: tuple[Chain, ...] = ()
    if chain.end in ("sum", "product"):
        learned = [n for n in begin.node.inputs if n.params]
        parts = tuple(descend(Spot(n, Expression.cuts_for(begin, n))) for n in learned)
    if chain.end == "several":
        leaves = [s for s in Expression(begin).leaves.values() if s.node.params]
        if len(leaves) == 1:
            begin = leaves[0]
    return [Reading(begin, chain, suffix, evidence, spot.node, None, parts, cuts=spot.cuts)]
