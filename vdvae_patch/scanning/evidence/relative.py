"""KLs of a posterior that is relative to its prior, written in the differences alone.

    q = N(μ_p + Δμ, σ_p Δσ),   KL = Δμ² / 2σ_p² + Δσ² / 2 − log Δσ − ½

as in NVAE (Vahdat and Kautz, 2020, equation 2). σ_p stands in it by the curvature in Δμ alone: its logarithm has
cancelled, so that nothing of σ_p is left at Δμ = 0. And Δσ stands in it as a σ beside N(0, 1), though the draw has
σ_p Δσ.

Such a KL is known by the draw: with the σ that is drawn, σ_q, as a function of either raw value,

    over the posterior's:   ℓ = −c log σ_q + A/2 σ_q² + constant,   A the curvature in Δμ, as of any KL;
    over the prior's:       A σ_q² is a constant, and ℓ at Δμ = 0 is one, too.

So σ_p = √(c / A) and Δσ = σ_q / σ_p are known, and each is looked for in the expression. The host has Δσ in its KL as
it has it in its draw; so a scale is that of Δσ, and not of σ_q: a scale of σ_q would be no part of such a KL.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain, descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import (
    MOST_LEAVES,
    GaussianTerm,
    Probe,
    distance,
    fitted,
    totals,
    with_differences,
)
from vdvae_patch.scanning.evidence.reading import Reading

_FITS = 1e-9
"""Distance of ℓ from its fit, relative to its range (1e-15), of A σ_q² from a constant, of c from that of Δσ²."""
_FLAT = 1e-9
"""Change of ℓ at Δμ = 0 over the prior's raw value, relative to its size: rounding."""


@dataclass(frozen=True)
class Relative:
    """Such a KL.

    Attributes:
        drawn: the readings of σ_q, where noise is multiplied by it, and where a Normal is given it.
        whole: readings of Δσ in sums that hold this KL, such as the loss, in which it looks like a KL to N(0, 1).
        factor: the way back from Δσ, or what σ_q is made of besides the prior's raw value.
        prior, posterior: σ_p and Δσ in the KL.
    """

    drawn: tuple[Reading, ...]
    whole: tuple[Reading, ...]
    factor: Chain
    prior: GaussianTerm
    posterior: GaussianTerm

    @property
    def replaced(self) -> tuple[Reading, ...]:
        """The readings that are not what they seem."""
        return (*self.drawn, *self.whole)

    def readings(self, stops: frozenset[int]) -> list[Reading]:
        """In the place of the readings of σ_q: those of Δσ where it is drawn with, and those of the KL."""
        found = []
        for reading in self.drawn:
            way, after = self.factor, reading.chain
            chain = replace(
                way,
                steps=(*way.steps, *after.steps),
                nodes=(*way.nodes, *after.nodes),
                by_node=(*way.by_node, *after.by_node),
            )
            found.append(replace(reading, raw=way.begin, chain=chain, parts=()))
        for term in (self.prior, self.posterior):
            own = descend(term.node, stops)
            found.append(Reading(own.begin, own, term.suffix, term.side, term.node.node, term))
        return found


def relative_kls(graph: Graph, stops: frozenset[int], found: list[Reading]) -> Iterator[Relative]:
    """Such KLs of the draws whose σ is of two raw values, where no other density and no KL of either is known."""
    draws = {reading.raw.key: reading for reading in found if reading.evidence == "noise"}
    for reading in draws.values():
        ways = reading.parts
        keys = {way.begin.key for way in ways}
        if not len(ways) == len(keys) == 2 or any(way.end != "raw" for way in ways):
            continue
        known = [r for r in found if r.term is not None and r.raw.key in {*keys, reading.raw.key}]
        for way, other in (ways, ways[::-1]):
            if any(r.evidence != "q" or r.raw.key != way.begin.key for r in known):
                continue
            term = _kl_of(graph, stops, reading, way.begin, other.begin)
            if term is not None and all(r.term and _holds(r.term.total, term[1].total) for r in known):
                same = (r for r in found if r.parts and r.term is None and r.raw.key == reading.raw.key)
                yield Relative(tuple(same), tuple(known), way, *term)
                break


def _holds(whole: Node, part: Node) -> bool:
    """Whether a node is computed from another one, which was there before it."""
    seen, open_nodes = set[int](), [whole]
    while open_nodes:
        node = open_nodes.pop()
        if node is part:
            return True
        if node.id > part.id and node.id not in seen:
            seen.add(node.id)
            open_nodes += node.inputs
    return False


def _kl_of(
    graph: Graph, stops: frozenset[int], drawn: Reading, delta: Spot, prior: Spot
) -> tuple[GaussianTerm, GaussianTerm] | None:
    sampler = Expression(drawn.spot)
    if not {delta.key, prior.key} <= sampler.leaves.keys():
        return None
    for through_sums in (False, True):
        for node in totals(graph, through_sums):
            expression = Expression(Spot(node), stops, through_sums, most=MOST_LEAVES)
            if not {delta.key, prior.key} <= expression.leaves.keys() or len(expression.leaves) > MOST_LEAVES:
                continue
            differences = (further for further, _ in with_differences(expression, stops, through_sums))
            for attempt in (expression, *differences):
                found = _in(attempt, node, sampler, drawn.suffix, delta, prior)
                if found is not None:
                    return found
    return None


def _in(
    expression: Expression, total: Node, sampler: Expression, suffix: tuple[Step, ...], delta: Spot, prior: Spot
) -> tuple[GaussianTerm, GaussianTerm] | None:
    """σ_p and Δσ of an expression that is such a KL."""
    if not {delta.key, prior.key} <= expression.leaves.keys():
        return None
    probe = Probe(expression)
    count = len(probe.grid)

    def sigma_q(changed: SpotKey) -> Tensor:
        here = {key: probe.base.get(key, torch.tensor(0.5, dtype=torch.float64)) for key in sampler.leaves}
        value = sampler.value({**here, changed: probe.grid})
        for step in suffix:
            value = step.forward(value)
        return value.expand(count)

    by_delta, by_prior = sigma_q(delta.key), sigma_q(prior.key)
    if not bool((by_delta > 0).all() & (by_prior > 0).all()):
        return None
    quadratic = frozenset(key for key in expression.leaves if probe.curvature(key) is not None)
    for mean in quadratic:
        flat, curved = (probe.curvature(mean, {key: probe.grid}) for key in (delta.key, prior.key))
        if flat is None or curved is None or not _is_constant(flat) or not _is_constant(curved * by_prior**2):
            continue
        rest = probe.values({delta.key: probe.grid}).expand(count)
        design = torch.stack([torch.ones(count, dtype=torch.float64), by_delta.log(), by_delta**2], dim=1)
        fit = fitted(design, rest)
        at_zero = probe.at_minimum(mean, {prior.key: probe.grid}, curved)
        if fit is None or float((design @ fit - rest).abs().max()) > _FITS * float(rest.max() - rest.min()):
            continue
        if abs(float(2 * fit[2] / flat[0]) - 1) > _FITS or float(fit[1] * flat[0]) >= 0:
            continue
        if float(at_zero.max() - at_zero.min()) > _FLAT * float(rest.max() - rest.min()):
            continue  # log σ_p is there, and the KL one that `gaussian` knows
        sigma_p = (-fit[1] / curved).sqrt()
        factor = by_delta / (-fit[1] / flat[0]).sqrt()
        means = (expression.leaves[mean],)
        second = probe.match(prior.key, probe.grid, quadratic, functools.partial(distance, sigma=sigma_p))
        first = probe.match(delta.key, probe.grid, quadratic, functools.partial(distance, sigma=factor))
        if first is not None and second is not None:
            return (
                GaussianTerm(expression.leaves[prior.key], "p", *second, means, total),
                GaussianTerm(expression.leaves[delta.key], "q", *first, means, total),
            )
    return None


def _is_constant(values: Tensor) -> bool:
    return float((values - values[0]).abs().max()) <= _FITS * float(values[0].abs())
