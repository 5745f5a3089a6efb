"""KLs to a Normal that show only a part of it: of one sample, or without a mean.

Where the KL to a prior has no closed form, as behind a flow f, hosts take it of the sample z = μ + σ ε:

    log q(z) − log p(f(z)) = −log σ + f(z)² / 2 + …                     (ε²/2 is left out, or is a constant)

The expression is quadratic in f(z), with the curvature c/σ_p², and has −c log σ and no σ². And where means are bound to
zero, or their part is added up elsewhere, the rest of a KL stands alone:

    (σ² − 1 − log σ²) / 2

And of weights W ~ N(m, s²) beside a log uniform prior, there is a known fit to the KL, of log α = log s² / m²
(Molchanov and others, "Variational dropout sparsifies deep neural networks", equation 14):

    k₁ − k₁ sigmoid(k₂ + k₃ log α) + log(1 + 1/α) / 2,  k₁ = 0.63576, k₂ = 1.8732, k₃ = 1.48695

All are looked for only among raw values of which no density and no KL is known. In the first, any multiple of the raw
value could be a log σ; it is one if it is the sampler's log σ, or twice or half of it: a log variance that is taken for
a log σ, or the other way round, is a fault of the host, of which the scan warns.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey, is_variable, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import MOST_LEAVES, GaussianTerm, Probe, fitted, totals
from vdvae_patch.scanning.evidence.interpolated import leaves_of
from vdvae_patch.scanning.evidence.of_data import compares_data
from vdvae_patch.scanning.evidence.reading import Readings

_SAME_WEIGHT = 1e-6
"""Difference of the factor of log σ to the one of the prior's density, relative to it. They are equal up to rounding,
1e-15, or different by a factor, as that of an entropy bonus."""
_FITS = 1e-9
"""Distance of the expression from its fit, relative to its range (1e-15, and 1e-3 of eᵛ − v for a wrong σ)."""
_NO_DIVERGENCE = 1e-9
"""The least value of a KL, relative to its range: zero. The Poisson loss eᵛ − v has 1."""


def partial_kls(graph: Graph, stops: frozenset[int], readings: Readings) -> Iterator[GaussianTerm]:
    """Such terms of raw values of which `readings` have no density and no KL."""
    drawn = _drawn(graph, readings, _known(readings))
    yield from _of_samples(graph, stops, drawn)
    yield from _without_means(graph, stops, _known(readings), drawn)
    yield from _log_uniform(graph, stops, _known(readings))


def _known(readings: Readings) -> set[SpotKey]:
    return {key for reading in readings.found if reading.evidence != "noise" for key in leaves_of(reading)}


@dataclass
class _Drawn:
    """What is drawn with the σ of a raw value: the nodes σ ε, log σ over the grid of raw values, the steps to σ."""

    products: set[int]
    log_sigma: Tensor
    steps: frozenset[SpotKey]


def _drawn(graph: Graph, readings: Readings, known: set[SpotKey]) -> dict[SpotKey, _Drawn]:
    """The draws of each raw value that only noise shows."""
    drawn: dict[SpotKey, _Drawn] = {}
    for reading in readings.found:
        if reading.evidence != "noise" or reading.raw.key in known or reading.parts or reading.used >= 0:
            continue
        products = {n.id for n in graph.consumers.get(reading.node.id, ()) if n.id in readings.samples}
        if reading.raw.key in drawn:
            drawn[reading.raw.key].products.update(products)
            continue
        expression = Expression(reading.spot)
        probe = Probe(expression)
        sigma = probe.values({reading.raw.key: probe.grid}) if reading.raw.key in expression.leaves else torch.zeros(())
        for step in reading.suffix:
            sigma = step.forward(sigma)
        steps = frozenset(spot.key for spot in expression.order)
        drawn[reading.raw.key] = _Drawn(products, sigma.expand(len(probe.grid)).log(), steps)
    return drawn


def _of_samples(graph: Graph, stops: frozenset[int], drawn: Mapping[SpotKey, _Drawn]) -> Iterator[GaussianTerm]:
    left = dict(drawn)
    nearly: dict[SpotKey, GaussianTerm] = {}
    for through_sums in (False, True):
        for node in totals(graph, through_sums) if left else ():
            expression = Expression(Spot(node), stops, through_sums, most=MOST_LEAVES)
            keys = [key for key in expression.leaves if key in left]
            if not keys or len(expression.leaves) > MOST_LEAVES:
                continue
            probe = Probe(expression)
            quadratic = [key for key in expression.leaves if probe.curvature(key) is not None]
            for key in keys:
                products = left[key].products
                means = [m for m in quadratic if m != key and _is_made_of(expression.leaves[m].node, products)]
                means = [m for m in means if not _is_reconstruction(node, expression.leaves[m])]
                look = functools.partial(_of_sample, probe, node, key, left[key].log_sigma, means, quadratic)
                if (term := look(_THE_SAME)) is not None:
                    del left[key]
                    yield term
                elif key not in nearly and (term := look(_TAKEN_FOR)) is not None:
                    nearly[key] = term
    yield from (term for key, term in nearly.items() if key in left)


def _is_reconstruction(total: Node, mean: Spot) -> bool:
    """Whether a layer decodes a draw to it, and it is compared with data: an error is quadratic in it, too, and is no
    prior's density. That of a draw itself, or of what a flow makes of it, may lie around data, as p(z | y) does."""
    return settle(mean).node.kind == "opaque" and compares_data(total, [mean])


def _is_made_of(node: Node, products: set[int]) -> bool:
    """Whether one of some draws has a part in a value."""
    first = min(products, default=0)
    todo, seen = [node], set[int]()
    while todo:
        current = todo.pop()
        if current.id in products:
            return True
        if current.id not in seen and current.id > first and current.noise:
            seen.add(current.id)
            todo.extend(current.inputs)
    return False


def _of_sample(
    probe: Probe,
    total: Node,
    key: SpotKey,
    log_sigma: Tensor,
    means: Sequence[SpotKey],
    quadratic: Sequence[SpotKey],
    ratios: Sequence[float],
) -> GaussianTerm | None:
    """The term of a raw value whose σ stands in an expression as −c log σ, c being the factor of log p as well.

    Args:
        ratios: what its log σ may be of the sampler's.
    """
    expression = probe.expression
    rest = probe.values({key: probe.grid}).expand(len(probe.grid))
    for mean in means:
        curvature = probe.curvature(mean, {key: probe.grid})
        if curvature is None or float((curvature - curvature[0]).abs().max()) > _FITS * float(curvature[0].abs()):
            continue
        others = (k for k, s in expression.leaves.items() if k not in quadratic and k != key and s.node.params)
        weights = [float(curvature[0])]
        weights += [found[3] for k in others if (found := probe.as_p(k, list(means))) is not None]
        error = functools.partial(_distance_as_logarithm, rest=rest, weights=weights, drawn=log_sigma, ratios=ratios)
        match = probe.match(key, probe.grid, frozenset(quadratic), error)
        if match is not None:
            return GaussianTerm(expression.leaves[key], "q", *match, (expression.leaves[mean],), total)
    return None


def _distance_as_logarithm(
    sigma: Tensor, *, rest: Tensor, weights: Sequence[float], drawn: Tensor, ratios: Sequence[float]
) -> float:
    """Zero if the rest is −c log σ + constant, c one of some weights, and log σ a known multiple of the drawn one."""
    log_sigma = sigma.log()
    fit = _fit(torch.stack([torch.ones_like(log_sigma), log_sigma], dim=1), rest)
    if fit is None or not any(math.isclose(-float(fit[1]), weight, rel_tol=_SAME_WEIGHT) for weight in weights):
        return math.inf
    ratio = (log_sigma - log_sigma[0])[1:] / (drawn - drawn[0])[1:]
    return 0.0 if any(torch.allclose(ratio, torch.full_like(ratio, factor)) for factor in ratios) else math.inf


_THE_SAME = (1.0,)
_TAKEN_FOR = (2.0, 0.5)
"""log σ in a KL over the sampler's, where one of them takes a log variance for a log σ; of a host in which no other
place has the same."""


def _fit(design: Tensor, rest: Tensor) -> Tensor | None:
    """The factors of a rest that is a sum of columns to within rounding; else None."""
    spread = float(rest.max() - rest.min())
    fit = fitted(design, rest) if spread > _FLAT and bool(rest.isfinite().all()) else None
    return fit if fit is not None and float((design @ fit - rest).abs().max()) < _FITS * spread else None


_FLAT = 1e-9


def _without_means(
    graph: Graph, stops: frozenset[int], known: set[SpotKey], drawn: Mapping[SpotKey, _Drawn]
) -> Iterator[GaussianTerm]:
    seen = set(known)
    leaves = _LeafNodes(stops)
    for through_sums in (False, True):
        for node in totals(graph, through_sums):
            if leaves.of(node) is None:
                continue
            expression = Expression(Spot(node), stops, through_sums)
            if len(expression.leaves) != 1 or not expression.leaves.keys() - seen:
                continue
            ((key, leaf),) = expression.leaves.items()
            if leaf.node.kind == "elementwise" or not any(s.node.op not in ops.LINEAR for s in expression.order):
                continue
            probe = Probe(expression)
            rest = probe.values({key: probe.grid}).expand(len(probe.grid))
            own = drawn[key].log_sigma if key in drawn else None
            error = functools.partial(_distance_as_divergence, rest=rest, drawn=own)
            # any multiple of σ fits: the one that the sampler reads, too, is σ wherever that is computed in pieces
            shared = probe.match(key, probe.grid, frozenset(), error, drawn[key].steps) if key in drawn else None
            match = shared or probe.match(key, probe.grid, frozenset(), error)
            if match is not None:
                seen.add(key)
                spot, suffix = match
                yield GaussianTerm(leaf, "q", spot, (*suffix, *_relative_to(probe, key, match, own)), (), node)


def _relative_to(
    probe: Probe, key: SpotKey, match: tuple[Spot, tuple[Step, ...]], drawn: Tensor | None
) -> tuple[Step, ...]:
    """The step to the σ that is drawn, where such a KL has it as a multiple of its prior's σ.

    Without a mean nothing in a KL says in which units σ is: `0.075 * exp(0.5 * r)` beside N(0, 0.075) is exp(r / 2)
    beside N(0, 1).
    """
    if drawn is None:
        return ()
    sigma = probe.done({key: probe.grid})[match[0].key].expand(len(drawn))
    for step in match[1]:
        sigma = step.forward(sigma)
    ratio = (drawn - sigma.log()).exp()
    alike = torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=_SAME_WEIGHT)
    if not alike or math.isclose(float(ratio[0]), 1, rel_tol=_SAME_WEIGHT):
        return ()
    return (Step("mul", (float(f"{float(ratio[0]):.7g}"),)),)


def _distance_as_divergence(sigma: Tensor, *, rest: Tensor, drawn: Tensor | None) -> float:
    """Zero if the rest is w (σ²/2s² − log σ + log s − ½), which is zero at its least; without the constants, if s is
    one and σ is what is drawn with."""
    log_sigma = sigma.log()
    if float(log_sigma.max() - log_sigma.min()) < _FLAT:
        return math.inf
    fit = _fit(torch.stack([torch.ones_like(sigma), log_sigma, sigma * sigma], dim=1), rest)
    if fit is None:
        return math.inf
    constant, logarithm, square = fit.tolist()
    spread = float(rest.max() - rest.min())
    shares = abs(logarithm) * float(log_sigma.max() - log_sigma.min()), abs(square) * float((sigma**2).max())
    if logarithm * square >= 0 or min(shares) < _LEAST_SHARE * spread:
        return math.inf
    best = -logarithm / (2 * square)  # s²
    least = constant + logarithm * 0.5 * math.log(best) + square * best
    own = drawn is not None and torch.allclose(drawn, log_sigma) and math.isclose(best, 1.0, rel_tol=_SAME_WEIGHT)
    return 0.0 if own or abs(least) < _NO_DIVERGENCE * spread else math.inf


def _log_uniform(graph: Graph, stops: frozenset[int], known: set[SpotKey]) -> Iterator[GaussianTerm]:
    """Fits to the KL to a log uniform prior, of which a parameter and another one, the mean, are the leaves."""
    seen = set(known)
    for node in totals(graph, False):
        if not any(operand.op in _FITTED for operand in _arithmetic(node)):
            continue
        expression = Expression(Spot(node), stops)
        leaves = [leaf for leaf in expression.leaves.values() if leaf.node.params]
        if len(expression.leaves) != 2 or len(leaves) != 2:
            continue
        for leaf, mean in (leaves, leaves[::-1]):
            probe = Probe(expression)
            if leaf.key in seen:
                continue
            rest = probe.values({leaf.key: probe.grid}).expand(len(probe.grid))
            error = functools.partial(_distance_as_fit, rest=rest, log_mean=float(probe.base[mean.key].log()))
            match = probe.match(leaf.key, probe.grid, frozenset({mean.key}), error)
            if match is not None:
                seen.add(leaf.key)
                yield GaussianTerm(leaf, "q", *match, (mean,), node)


_FITTED = frozenset({"sigmoid"})
_MOST_STEPS = 4


def _arithmetic(node: Node, depth: int = _MOST_STEPS) -> Iterator[Node]:
    """A node and what it is computed of in a few steps."""
    yield node
    for source in node.inputs if depth > 0 and node.kind in ("elementwise", "shape") else ():
        yield from _arithmetic(source, depth - 1)


def _distance_as_fit(sigma: Tensor, *, rest: Tensor, log_mean: float) -> float:
    """Zero if the rest is a multiple of the fit, with α = σ² / m², plus a constant."""
    log_alpha = 2 * (sigma.log() - log_mean)
    negative = -_K1 * torch.sigmoid(_K2 + _K3 * log_alpha) + 0.5 * torch.nn.functional.softplus(-log_alpha)
    if float(negative.max() - negative.min()) < _FLAT:
        return math.inf
    design = torch.stack([torch.ones_like(negative), negative], dim=1)
    spread = float(rest.max() - rest.min())
    fit = fitted(design, rest) if spread > _FLAT and bool(rest.isfinite().all()) else None
    if fit is None or float((design @ fit - rest).abs().max()) > _SAME_FIT * spread:
        return math.inf
    return 0.0


_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695
_SAME_FIT = 1e-5
"""Distance from the fit, relative to the range. Constants such as 1e-8 beside m² move it by 1e-7; a σ² that is taken
for σ is off by 0.1."""

_LEAST_SHARE = 1e-3
"""Range of log σ, and of σ², with their factors, over that of the expression. With a σ² that is the expression itself,
the fit has a logarithm of rounding, 1e-16; in a KL both are of size one over the values that are tried."""


class _LeafNodes:
    """Which node an expression is computed of, if it is only one; a quick look before an `Expression` is made."""

    def __init__(self, stops: frozenset[int]) -> None:
        self.stops = stops
        self._known: dict[int, frozenset[int]] = {}

    def of(self, node: Node) -> int | None:
        """The number of the only variable node that an expression begins in; None if there are several, or none."""
        found = self._of(node, 0)
        return next(iter(found)) if len(found) == 1 else None

    def _of(self, node: Node, depth: int) -> frozenset[int]:
        known = self._known.get(node.id)
        if known is None:
            known = self._known[node.id] = self._computed(node, depth)
        return known

    def _computed(self, node: Node, depth: int) -> frozenset[int]:
        if not is_variable(node):
            return frozenset()
        inner = node.kind in ("elementwise", "shape", "reduction") and node.id not in self.stops
        if not inner or depth > _DEPTH:
            return frozenset({node.id})
        found = frozenset[int]()
        for source in node.inputs:
            found |= self._of(source, depth + 1)
            if len(found) > 1:
                return _SEVERAL
        return found


_DEPTH = 80
_SEVERAL = frozenset({-1, -2})
