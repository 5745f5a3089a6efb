"""Readings: every use of a raw value as a scale that a graph shows, with what it was known by.

Two kinds of uses are seen directly: what multiplies fresh noise, and what is given to a `Normal`. Densities and KLs are
known by their values; `gaussian.py` and `masses.py` find them. From each σ the way back leads to the raw value, and on
it the rules are asked whether it is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from vdvae_patch.composition import Step
from vdvae_patch.scanning import rules
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import Chain, End, descend, scaled_noise, shifted_noise
from vdvae_patch.scanning.arithmetic.cuts import argument, cut_of
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey, pieces, settle, written_pieces
from vdvae_patch.scanning.arithmetic.factors import drawn_by_factor
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.correlated import Correlated, correlated_terms
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm, gaussian_terms
from vdvae_patch.scanning.evidence.interpolated import of_own_log_sigma
from vdvae_patch.scanning.evidence.masses import masses_and_densities
from vdvae_patch.scanning.evidence.overwritten import kept_of, without_wholes
from vdvae_patch.scanning.evidence.partial import partial_kls
from vdvae_patch.scanning.evidence.reading import Evidence, NearMiss, Reading, Readings
from vdvae_patch.scanning.evidence.relative import relative_kls
from vdvae_patch.scanning.evidence.stacked import stacked_outputs
from vdvae_patch.scanning.evidence.unread import unread
from vdvae_patch.scanning.heads.floored_logs import without_floor
from vdvae_patch.scanning.rules.joined_pieces import MOST_PIECES
from vdvae_patch.scanning.rules.weight_variances import variances_of_weights


def read(graph: Graph) -> Readings:
    """Collect the readings of a graph: first those of samplers and `Normal`s, then those of densities and KLs."""
    out = Readings()
    uses = _direct_uses(graph, out)
    out.samples.update(use.product.id for use in uses if use.product is not None)
    for use in uses:
        out.found += _readings_of(use.sigma, use.suffix, use.evidence, out)
    # at these, a density's expression ends: at what was drawn, at means, and at raw values that are joined of several,
    # or are a sum over the elements of a set
    stops = {*out.samples, *out.merged}
    stops.update(r.raw.node.id for r in out.found if r.parts or r.raw.node.kind == "reduction")
    stops.update(node.id for node in map(_sum_within, out.found) if node is not None)
    for use in uses:
        stops |= _means_of(graph, use)
    unmatched: dict[SpotKey, Node] = {}
    pairs = correlated_terms(graph, frozenset(stops))
    _read_terms(graph, frozenset(stops), out, unmatched, pairs)
    for kl in list(relative_kls(graph, frozenset(stops), out.found)):
        gone = {id(reading) for reading in kl.replaced}
        out.found = [r for r in out.found if id(r) not in gone] + kl.readings(frozenset(stops))
    out.found = without_wholes(graph, out.found)
    before = list(out.found)
    for rule in rules.drops:
        dropped = list(rule(graph, out.found))
        out.near_misses.extend(miss for _, miss in dropped)
        gone = {id(reading) for reading, _ in dropped}
        out.found = [reading for reading in out.found if id(reading) not in gone]
    out.found += variances_of_weights(before, out.found)
    out.near_misses.extend(unread(graph, out, unmatched, pairs))
    graph.stacked = stacked_outputs(graph, out)
    return out


def _sum_within(reading: Reading) -> Node | None:
    """The sum of raw values through which alone an expression reads them, and more than once, as explin does of a sum:
    `torch.minimum(v, torch.log1p(v.clamp(min=0)))` of `v = self.prior(y) + self.delta(x)`."""
    if reading.chain.end != "several" or reading.parts:
        return None
    begin = reading.chain.begin
    expression = Expression(begin)
    learned = {key for key, leaf in expression.leaves.items() if leaf.node.params}
    sums = (spot for spot in expression.order if spot.node.op in ops.ADDING and learned <= expression.depends[spot.key])
    found = next(sums, None) if len(learned) > 1 else None
    if found is None:
        return None
    behind = Expression(begin, frozenset({found.node.id})).leaves.values()
    return found.node if {leaf.node.id for leaf in behind if leaf.node.params} == {found.node.id} else None


def _read_terms(
    graph: Graph, stops: frozenset[int], out: Readings, unmatched: dict[SpotKey, Node], pairs: Correlated
) -> None:
    """Add the readings of densities and KLs."""
    direct = [r for r in out.found if not r.parts]
    sums = frozenset(r.raw.node.id for r in out.found if r.parts)
    whole = itertools.chain(
        pairs.terms,
        gaussian_terms(graph, stops, unmatched, pairs.read, pairs.seen),
        masses_and_densities(graph, stops, pairs.seen),
    )
    for found in itertools.chain(whole, _later(partial_kls, graph, stops, out)):
        term = without_floor(_with_bounds(found, direct, stops), stops)
        chain = descend(term.node, stops)
        joined_before = chain.begin.node.op in ops.JOINING | ops.WRITING and chain.end == "raw"
        if chain.end == "constant" or (chain.begin.node.id in out.merged and not joined_before):
            continue
        reason = _first(rule(graph, term, out) for rule in rules.terms)
        if reason is not None:
            out.near_misses.append(NearMiss.at(term.total, reason))
            continue
        if joined_before:
            suffix = (*chain.steps, *term.suffix)
            out.found += _readings_of_parts(term, _pieces_of(chain.begin), suffix, stops)
            continue
        merged = next(filter(None, (rule(chain, term.suffix) for rule in rules.merges)), None)
        if merged is not None:
            out.found += _readings_of_parts(term, merged.scales, merged.suffix, stops)
            continue
        joined = next((r for r in out.found if r.parts and r.raw.node.id == chain.begin.node.id), None)
        parts = joined.parts if joined is not None else ()
        if joined is None and chain.end not in ("raw", "several"):
            chain = replace(chain, end="several")
        begin = term.raw if chain.end == "several" else chain.begin
        apart = _of_joined_pieces(chain, begin, term.suffix) if chain.end == "several" else []
        if apart:
            out.found += [_of_part(term, part) for part in apart]
            continue
        own = Reading(begin, chain, term.suffix, term.side, term.node.node, term, parts, sums=sums)
        out.found.append(of_own_log_sigma(own))


def _later(terms: Callable[..., Iterator[GaussianTerm]], *given: object) -> Iterator[GaussianTerm]:
    """The terms, looked for when the first one is asked for."""
    yield from terms(*given)


def _readings_of_parts(
    term: GaussianTerm, parts: Iterable[Spot], suffix: tuple[Step, ...], stops: frozenset[int]
) -> list[Reading]:
    """The readings of a density or a KL of a scale in which several are joined: levels' values that were put beside
    each other before, or variances of which a mean was taken."""
    found: list[Reading] = []
    for piece in parts:
        own = descend(piece, stops)
        begin = own.begin
        if own.end == "several":
            leaves = [leaf for leaf in Expression(begin).leaves.values() if leaf.node.params]
            emitted = [leaf for leaf in leaves if leaf.node.kind != "parameter"]
            leaves = emitted if len(emitted) == 1 else leaves  # between bounds that are parameters
            begin = leaves[0] if len(leaves) == 1 else begin
            apart = _of_joined_pieces(own, begin, suffix) if len(leaves) == 1 else []
            if apart:
                found += [_of_part(term, part) for part in apart]
                continue
        elif own.end == "raw" and begin.node.op in ops.JOINING | ops.WRITING and begin.key != piece.key:
            found += _readings_of_parts(term, _pieces_of(begin), (*own.steps, *suffix), stops)
            continue
        if own.end in ("raw", "several"):
            known = replace(term, raw=begin, node=piece, suffix=suffix)
            found.append(Reading(begin, own, suffix, term.side, piece.node, known))
    return found


def _pieces_of(join: Spot) -> list[Spot]:
    """What a join is of, or what was written into a tensor."""
    return pieces(join) if join.node.op in ops.JOINING else written_pieces(join)


def _of_part(term: GaussianTerm, part: _Piece) -> Reading:
    """The reading of a term of one of several layers' values that were joined."""
    known = replace(term, raw=part.raw, node=part.spot, suffix=part.suffix)
    return Reading(part.raw, part.chain, part.suffix, term.side, part.spot.node, known)


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _with_bounds(term: GaussianTerm, direct: list[Reading], stops: frozenset[int]) -> GaussianTerm:
    """The term, with σ as the sampler has it.

    A clamp such as `.clamp(-20, 20)` does nothing at the values at which terms are probed, so a term may have been
    matched before it. Where the term reads the raw value only through what the sampler uses, the clamp belongs to it.
    """
    for reading in direct:
        chain = reading.chain
        longer = [node.id for node in chain.nodes[:-1]]
        if reading.raw.key != term.raw.key or term.suffix or reading.suffix or term.node.node.id not in longer:
            continue
        behind = chain.by_node[longer.index(term.node.node.id) + 1 :]
        if any(step.name not in {*ops.FLOORS, "mul"} for steps in behind for step in steps):
            continue  # a patched model's σ² is computed of its σ
        through = Expression(Spot(term.total), stops | {chain.nodes[-1].id}, through_sums=True)
        if term.raw.key not in through.leaves:
            return replace(term, node=Spot(chain.nodes[-1]))
    return term


class _Use(NamedTuple):
    """A use of a value as a scale that is seen directly.

    Attributes:
        sigma: σ, or what the suffix makes σ of.
        suffix: steps to σ, where the host multiplies by an inverse.
        product: the node σ ε; None for a `Normal`.
    """

    sigma: Spot
    suffix: tuple[Step, ...]
    evidence: Evidence
    product: Node | None


def _direct_uses(graph: Graph, out: Readings) -> list[_Use]:
    """What is given to a `Normal`, and what multiplies fresh noise, if the rules have nothing against it."""
    found = [_Use(Spot(normal.scale), normal.suffix, "Normal", None) for normal in graph.normals]
    for node in graph.nodes:
        diagonal = drawn_by_factor(graph, node)
        if diagonal is not None:
            found.append(_Use(Spot(diagonal), (), "noise", node))
        for operand, noise, suffix in _scaled(node):
            if not operand.params:
                continue
            reason = _first(rule(operand, noise) for rule in rules.noise_uses)
            if reason is not None:
                out.near_misses.append(NearMiss.at(operand, reason))
            else:
                kept = kept_of(graph, node) if operand.shape == node.shape and len(node.shape) == 2 else ()
                kept = kept if all(cut.dim == 1 for cut in kept) else ()  # of the channels, and not of rows or steps
                found.append(_Use(Spot(operand, kept), suffix, "noise", node))
    return found


def _means_of(graph: Graph, use: _Use) -> set[int]:
    """What σ ε is added to, where that is computed and not a network's plain output: `prior_mean + delta`."""
    means = set()
    for user in graph.consumers.get(use.product.id, ()) if use.product is not None else ():
        if user.op == "add":
            others = [n for n in user.inputs if n is not use.product and n.params]
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
        if fresh is None and node.op == "mul" and not (sigma.data or sigma.noise):
            fresh = shifted_noise(noise)
        if fresh is not None:
            return [(sigma, fresh.node, ())]
    return []


def _operands_of(join: Spot, end: End) -> Iterator[Chain]:
    """The ways back from the operands of a sum or a product; those of one that is itself an operand, in its place."""
    for operand in (n for n in join.node.inputs if n.params):
        chain = descend(Spot(operand, Expression.cuts_for(join, operand)))
        if chain.end == end and not chain.steps:
            yield from _operands_of(chain.begin, end)
        else:
            yield chain


class _Piece(NamedTuple):
    """One of several layers' values that were joined, in what the joint is computed to.

    Attributes:
        raw: the layer's value.
        spot: the part of the expression behind the joint that is computed of it.
        chain: that part, which reads the value more than once.
        suffix: steps from there to σ.
    """

    raw: Spot
    spot: Spot
    chain: Chain
    suffix: tuple[Step, ...]


def _of_joined_pieces(chain: Chain, joint: Spot, suffix: tuple[Step, ...]) -> list[_Piece]:
    """The pieces of an expression that reads its raw value more than once, where that is joined of several layers'
    values: `torch.where(v.abs() < 1e-5, v + 1e-5, v)` of `v = torch.cat([self.one(x), self.two(x)], 1)`. Or where it is
    read between bounds that are parameters, `high - F.softplus(high - v)` of an ensemble's `torch.stack`."""
    node, begin = joint.node, chain.begin
    if node.op not in ops.JOINING or len(node.inputs) > MOST_PIECES or begin.cuts:
        return []
    dim, start = argument(node, 1, "dim", 0) % len(node.shape), 0
    kept = {cut.dim: cut.length for cut in joint.cuts}  # of the whole, other dimensions than the joint's may be cut
    shape = tuple(kept.get(place, size) for place, size in enumerate(node.shape))
    if dim in kept or begin.node.shape != shape:
        return []
    found = []
    for piece in node.inputs:
        size = piece.shape[dim] if node.op == "cat" else 1
        part = Spot(begin.node, (cut_of(dim, range(start, start + size), node.shape[dim]),))
        start += size
        raws = [s for s in Expression(part).leaves.values() if s.node.params and s.node.kind != "parameter"]
        own = descend(part)
        if len(raws) != 1 or own.end != "several":
            return []
        found.append(_Piece(raws[0], part, own, (*chain.steps, *suffix)))
    return found


def _readings_of(spot: Spot, suffix: tuple[Step, ...], evidence: Evidence, out: Readings) -> list[Reading]:
    """The readings of one σ: none if it is a constant or refused, several if several scales are merged in it."""
    chain = descend(spot)
    begin = chain.begin
    if chain.end == "constant":
        return []
    reason = _first(rule(chain, out) for rule in rules.chains)
    if reason is not None:
        out.near_misses.append(NearMiss.at(begin.node, reason))
        return []
    merged = next(filter(None, (rule(chain, suffix) for rule in rules.merges)), None)
    if merged is not None:
        out.merged.add(begin.node.id)
        found = [r for scale in merged.scales for r in _readings_of(scale, merged.suffix, evidence, out)]
        return [replace(reading, used=spot.node.id) for reading in found]
    parts: tuple[Chain, ...] = ()
    if chain.end in ("sum", "product"):
        parts = tuple(_operands_of(begin, chain.end))
    if chain.end == "several":
        leaves = [s for s in Expression(begin).leaves.values() if s.node.params]
        emitted = [s for s in leaves if s.node.kind != "parameter"]
        leaves = emitted if len(emitted) == 1 else leaves  # between bounds that are parameters
        if len(leaves) == 1:
            begin = leaves[0]
            apart = _of_joined_pieces(chain, begin, suffix)
            if apart:
                return [
                    Reading(p.raw, p.chain, p.suffix, evidence, p.spot.node, used=spot.node.id, cuts=p.spot.cuts)
                    for p in apart
                ]
    return [of_own_log_sigma(Reading(begin, chain, suffix, evidence, spot.node, None, parts, cuts=spot.cuts))]
