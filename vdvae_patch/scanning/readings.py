"""Readings: every use of a raw value as a scale that a graph shows, with what it was known by."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from vdvae_patch.composition import Composition, Step
from vdvae_patch.scanning.chain import Chain, descend, power_of, scaled_noise
from vdvae_patch.scanning.cuts import Cut, Cuts, argument
from vdvae_patch.scanning.gaussian import GaussianTerm, gaussian_terms
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.masses import masses_and_densities
from vdvae_patch.scanning.replay import Expression, Spot, pieces, settle

Evidence = Literal["noise", "Normal", "q", "p"]
"""`noise`: it multiplies fresh noise; `Normal`: of torch.distributions; `q`, `p`: its place in a KL or a density."""


@dataclass(frozen=True)
class Reading:
    """One raw value, read as a scale.

    Attributes:
        raw: the leaf, or the node in which several raw values are joined.
        chain: from `raw` to `node`.
        suffix: steps from the chain's end to σ.
        evidence: how it is known.
        term: the density or KL, where there is one.
        parts: the chains of a join's operands.
        used: the number of the σ that is used, where this one is merged into it.
        cuts: the part of `node` that is read.
    """

    raw: Spot
    chain: Chain
    suffix: tuple[Step, ...]
    evidence: Evidence
    node: Node
    term: GaussianTerm | None = None
    parts: tuple[Chain, ...] = ()
    used: int = -1
    cuts: Cuts = ()

    @property
    def spot(self) -> Spot:
        """What is read as a scale, up to the suffix."""
        return Spot(self.node, self.cuts) if self.term is None else self.term.node

    @property
    def steps(self) -> tuple[Step, ...] | None:
        """From the raw value to σ; None if the expression is not a chain."""
        return None if self.chain.end == "several" else (*self.chain.steps, *self.suffix)


@dataclass(frozen=True)
class NearMiss:
    """Something that looks like a scale and was not taken."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class Readings:
    """All readings of a graph."""

    found: list[Reading] = field(default_factory=list)
    near_misses: list[NearMiss] = field(default_factory=list)
    samples: set[int] = field(default_factory=set)
    """The nodes σ ε."""
    merged: set[int] = field(default_factory=set)
    """Sums of precisions or variances: no head's raw value, but leaves of a density."""


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
    # a scale that the host gives to a Normal is no flow's, whatever it is computed of
    given = {r.raw.key for r in out.found if r.evidence == "Normal"}
    for term in itertools.chain(gaussian_terms(graph, frozenset(stops)), masses_and_densities(graph, frozenset(stops))):
        term = _with_bounds(term, direct, frozenset(stops))
        chain = descend(term.node, frozenset(stops))
        if chain.end == "constant" or chain.begin.node.id in out.merged:
            continue
        joined = next((r for r in out.found if r.parts and r.raw.node.id == chain.begin.node.id), None)
        parts = joined.parts if joined is not None else ()
        if term.raw.key not in given and _is_flow(graph, term):
            reason = "its density is of a value that it is computed from, as a flow's is"
            out.near_misses.append(NearMiss(where(term.total), reason))
            continue
        if joined is None and chain.end not in ("raw", "several"):
            chain = replace(chain, end="several")
        begin = term.raw if chain.end == "several" else chain.begin
        out.found.append(Reading(begin, chain, term.suffix, term.place, term.node.node, term, parts))
    _drop_bounds(out)
    _drop_unsigned(out)
    _drop_statistics(out)
    _drop_fixed(graph, out)
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
            if noise is not None and operand.noise & noise.noise:
                reason = "it scales a part of the same noise that it depends on, as a flow does"
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
    if node.op in ("normal", "normal_functional") and node.params:
        std = node.kwargs.get("std", node.args[1] if len(node.args) > 1 else None)
        return [(std, None, ())] if isinstance(std, Node) else []
    if node.op in ("mul", "multiply") and len(inputs) == 2:
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
    if chain.end in ("sum", "several") and any(settle(Spot(n)).node.id in out.samples for n in begin.node.inputs):
        reason = "it is computed of a value that is itself drawn"
        out.near_misses.append(NearMiss(where(begin.node), reason))
        return []
    merged = _merged(chain, suffix)
    if merged is not None:
        out.merged.add(begin.node.id)
        operands, own = merged
        found = (reading for operand in operands for reading in _readings_of(operand, own, evidence, out))
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


_MOST_EXPERTS = 16


def _merged(chain: Chain, suffix: tuple[Step, ...]) -> tuple[list[Spot], tuple[Step, ...]] | None:
    """For a scale in which several are merged, these, and the steps from each to a σ of its own; else None.

    Precisions or variances are added up, one by one or along a dimension in which they were stacked, or a condition
    chooses between two.
    """
    begin, node = chain.begin, chain.begin.node
    if chain.end in ("precisions", "variances"):
        learned = [n for n in node.inputs if n.params]
        exponent = -0.5 if chain.end == "precisions" else 0.5
        return [Spot(n, Expression.cuts_for(begin, n)) for n in learned], (Step("pow", (exponent,)),)
    if node.op == "where" and chain.end == "several":
        branches = [Spot(n, Expression.cuts_for(begin, n)) for n in node.args[1:] if isinstance(n, Node) and n.params]
        read = [key for branch in branches for key, leaf in Expression(branch).leaves.items() if leaf.node.params]
        if len(branches) == 2 and len(read) == len(set(read)):  # else it is one function, in two pieces
            return branches, (*chain.steps, *suffix)
    if node.op == "sum" and chain.end == "raw":
        if math.prod(node.shape) == math.prod(node.inputs[0].shape):  # of one expert
            return [Spot(node.inputs[0])], (*chain.steps, *suffix)
        return _stacked_experts(chain)
    if node.op in ("cat", "stack") and chain.end == "raw":
        parts = pieces(begin)
        return (parts, (*chain.steps, *suffix)) if 1 < len(parts) <= _MOST_EXPERTS else None
    if node.op == "add" and chain.end == "sum":
        blended = [_masked(Spot(n, Expression.cuts_for(begin, n))) for n in node.inputs if n.params]
        known = [spot for spot in blended if spot is not None]
        return (known, (*chain.steps, *suffix)) if len(known) == 2 else None
    return None


def _masked(spot: Spot) -> Spot | None:
    """What is multiplied by a mask, as one branch of (1 − t) a + t b is; else None."""
    spot = settle(spot)
    if spot.node.op not in ("mul", "multiply") or len(spot.node.inputs) != 2:
        return None
    learned = [n for n in spot.node.inputs if n.params]
    masks = [n for n in spot.node.inputs if not n.params and not n.noise and math.prod(n.shape) > 1]
    return Spot(learned[0], Expression.cuts_for(spot, learned[0])) if len(learned) == len(masks) == 1 else None


def _stacked_experts(chain: Chain) -> tuple[list[Spot], tuple[Step, ...]] | None:
    source = chain.begin.node.inputs[0]
    dims = argument(chain.begin.node, 1, "dim", None)
    exponent = power_of(chain.steps)
    if not isinstance(dims, list | tuple) or len(dims) != 1 or exponent is None:
        return None
    if not math.isclose(abs(exponent), 0.5, rel_tol=1e-4):
        return None
    dim = dims[0] % len(source.shape)
    size = source.shape[dim]
    if not 1 < size <= _MOST_EXPERTS:
        return None
    experts = [Spot(source, (Cut(dim, place, 1, size),)) for place in range(size)]
    learned = [e for e in experts if descend(e).end != "constant"]
    if len({descend(e).begin.key for e in learned}) < 2:
        return None
    return learned, (Step("pow", (math.copysign(0.5, exponent),)),)


def _is_flow(graph: Graph, term: GaussianTerm) -> bool:
    """Whether the raw value is computed from what its density is evaluated at, with no fresh noise in between: p(h|z)
    of a z that was drawn from q(z|h) is a prior."""
    raws = [leaf.node for leaf in Expression(term.node).leaves.values()]
    noise = functools.reduce(operator.or_, (node.noise for node in raws), term.raw.node.noise)
    means = {m.node.id for m in term.means if not noise & ~m.node.noise and (m.node.noise or m.node.kind == "input")}
    if term.place != "p" or not means:
        return False
    todo, seen = [term.raw.node, *raws], set[int]()
    while todo:
        node = todo.pop()
        if node.id in means and node not in (term.raw.node, *raws):
            return True
        if node.id not in seen:
            seen.add(node.id)
            todo.extend(node.inputs)
    return False


_PRODUCTS = frozenset({"mm", "addmm", "bmm", "convolution"})
_GRID = torch.linspace(-4, 4, 33, dtype=torch.float64)


def _drop_bounds(out: Readings) -> None:
    """Leave out parameters that a scale reads beside a network's output, and not as a term or a factor of it."""
    networks = {(r.chain.begin.key, r.chain.end) for r in out.found if r.raw.node.kind != "parameter"}
    kept = []
    for reading in out.found:
        beside = reading.chain.end == "several" and (reading.chain.begin.key, "several") in networks
        if reading.raw.node.kind == "parameter" and beside:
            reason = f"{reading.raw.node.op} bounds or shifts a scale that a network emits"
            out.near_misses.append(NearMiss(where(reading.node), reason))
        else:
            kept.append(reading)
    out.found = kept


def _drop_statistics(out: Readings) -> None:
    """Leave out what is averaged over values that the host computes: a σ made of the residuals is no network's. And a
    layer's output whose weights are the variances of others: the σ is theirs."""
    kept = []
    raws = {reading.raw.key for reading in out.found}
    for reading in out.found:
        node = reading.raw.node
        weights = [n for n in node.inputs if n.params and not (n.data or n.noise)] if node.op in _PRODUCTS else []
        if any(
            key in raws
            for n in weights
            if settle(Spot(n)).node.kind == "elementwise"
            for key in Expression(Spot(n)).leaves
        ):
            out.near_misses.append(NearMiss(where(node), "it adds up variances of weights, whose scales are heads"))
            continue
        source = settle(Spot(node.inputs[0])).node if node.kind == "reduction" and node.inputs else None
        if source is not None and source.kind == "elementwise":
            reason = "it is a statistic of values that the host computes, and no network's output"
            out.near_misses.append(NearMiss(where(node), reason))
        else:
            kept.append(reading)
    out.found = kept


def _drop_fixed(graph: Graph, out: Readings) -> None:
    """Leave out parameters that are not trained: constants by another name."""
    kept = []
    for reading in out.found:
        if reading.raw.node.kind == "parameter" and reading.raw.node.op in graph.fixed:
            out.near_misses.append(NearMiss(reading.raw.node.op, "it is a parameter that is not trained"))
        else:
            kept.append(reading)
    out.found = kept


def _drop_unsigned(out: Readings) -> None:
    """Leave out what only multiplies noise and may be negative, or is a parameter that no density measures."""
    shown = {r.raw.key for r in out.found if r.evidence != "noise"}
    kept = []
    for reading in out.found:
        reason = ""
        if reading.evidence == "noise" and reading.raw.key not in shown and not reading.parts:
            steps = reading.steps
            if reading.raw.node.kind == "parameter":
                reason = "a parameter scales noise, and no density or KL measures it: a noise layer"
            elif steps is not None and bool((Composition(steps).sigma(_GRID) < 0).any()):
                reason = "it multiplies noise but may be negative, and no density or KL measures it"
        if reason:
            out.near_misses.append(NearMiss(where(reading.node), reason))
        else:
            kept.append(reading)
    out.found = kept


def where(node: Node) -> str:
    """`file:line` of a node, or of the nearest host code before it."""
    current: Node | None = node
    for _ in range(20):
        if current is None:
            break
        frame = current.host_frame()
        if frame is not None:
            return f"{frame.code.co_filename}:{frame.line}"
        current = current.inputs[0] if current.inputs else None
    return node.op
