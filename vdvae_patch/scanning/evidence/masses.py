"""Know a Normal by its values where no log density is written.

Learned compression and quantized likelihoods take the mass in an interval, a difference of two Φ; mixtures written out
take the density itself:

    ℓ = Φ((a − m) / σ) − Φ((b − m) / σ),  a − b = w,        ℓ = c exp(−½ ((x − m) / σ)²) / σ.

As a function of the mean m, each is a bump, which has an area, a variance and a fourth cumulant as a density has. The
first is the density of a Normal plus a uniform number, times w: its area is w, its variance σ² + w²/12, and its fourth
cumulant −w⁴/120. (A difference of two logistic functions is a bump, too, but its fourth cumulant is positive.) The
second has the variance σ² and a fourth cumulant of zero. A raw value belongs to σ if it changes the bump's variance and
leaves its area alone; the variance then gives σ. Of n values with one σ the density may be written at once,

    ℓ = c exp(−½ Σ ((xₖ − mₖ) / σ)²) / σⁿ,

whose bump over one number that all n means are has the variance σ² / n, and an area that is a multiple of σ^(1 − n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Set

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm, Probe, distance

_MEANS = torch.linspace(-40, 40, 5121, dtype=torch.float64)
_FEW = slice(None, None, 8)
"""Of 17 raw values the first, the middle and the last: most pairs of leaves fail there already."""
_MOST_LEAVES = 8
"""A limit of work: every pair of leaves is tried, at 17 times 5121 points."""

# Tolerances, with the values that come nearest in the small models of tests/hosts, below and above.
_VANISHES = 1e-9
"""ℓ far from everything (1e-16, 0.01)."""
_LEAST_AREA = 1e-6
"""The area of a bump (0, 7e-4): a bin of an image with 256 values has 8e-3."""
_SAME_AREA = 1e-6
"""Change of the area over the raw value, relative to it (1e-14, 0.5)."""
_NO_EXCESS = 1e-4
"""Distance of the fourth cumulant from a Normal's, in units of the squared variance (1e-11, and 1.2 of a logistic
density)."""
_SAME_SIGMA = 1e-6
"""Standard deviation of log σ over the raw value (1e-16, 0.9)."""


def masses_and_densities(
    graph: Graph, stops: frozenset[int], correlated: Set[int] = frozenset()
) -> Iterator[GaussianTerm]:
    """All such expressions of a graph, each raw value's earliest one.

    Args:
        correlated: the numbers of nodes that are densities of two correlated values, see `correlated.py`.
    """
    seen: set[SpotKey] = set()
    # of a latent that is rounded, the mass is a bump around what the rounding gives, and steps around what it is given
    stops |= {node.id for node in graph.nodes if node.op in ops.ROUNDING}
    for node in graph.nodes:
        operands = [n for n in node.inputs if n.params]
        mass = node.op == "sub" and len(operands) == 2 and all(_is_made_by(ops.CDF, n, 6) for n in operands)
        density = node.op in ops.MULTIPLYING and any(_is_made_by(ops.EXPONENTIAL, n, 2) for n in operands)
        if node.kind != "elementwise" or node.id in correlated or not (mass or density):
            continue
        expression = Expression(Spot(node), stops, most=_MOST_LEAVES)
        if 1 < len(expression.leaves) <= _MOST_LEAVES:
            for term in _terms(expression, node, mass, seen):
                seen.add(term.raw.key)
                yield term
        if density:
            yield from _joint(node, stops, seen)


def _joint(node: Node, stops: frozenset[int], seen: set[SpotKey]) -> Iterator[GaussianTerm]:
    """Densities of several values that are written at once."""
    expression = Expression(Spot(node), stops, through_sums=True, most=_MOST_LEAVES)
    sums = [spot.node for spot in expression.order if spot.node.kind == "reduction"]
    if len(sums) != 1 or sums[0].op != "sum" or not 1 < len(expression.leaves) <= _MOST_LEAVES:
        return
    count = math.prod(sums[0].inputs[0].shape) // max(1, math.prod(sums[0].shape))
    for term in _terms(expression, node, False, seen, count):
        seen.add(term.raw.key)
        yield term


def _is_made_by(functions: frozenset[str], node: Node, depth: int) -> bool:
    """Whether a node is one of some functions of something, up to steps such as ½ (1 + erf)."""
    if node.op in functions:
        return True
    inner = node.inputs if depth > 0 and node.kind in ("elementwise", "shape") else []
    return any(_is_made_by(functions, n, depth - 1) for n in inner)


def _terms(
    expression: Expression, total: Node, mass: bool, seen: set[SpotKey], count: int = 1
) -> Iterator[GaussianTerm]:
    probe = Probe(expression)
    for key, leaf in expression.leaves.items():
        if not leaf.node.params or key in seen:
            continue
        for grid in (probe.grid, probe.grid + 2.0):
            others = (m for m in expression.leaves if m != key and _vanishes(probe, m))
            few = {m: s for m in others if (s := _sigma(probe, key, grid[_FEW], m, mass, count)) is not None}
            sigmas = {m: s for m in _different(few) if (s := _sigma(probe, key, grid, m, mass, count)) is not None}
            # a mean that a network multiplies, as one image modulates another's latent, is in another unit than σ
            for sigma in sigmas.values():
                match = probe.match(key, grid, frozenset(few), functools.partial(distance, sigma=sigma))
                if match is not None:
                    means = tuple(expression.leaves[m] for m in few)
                    yield GaussianTerm(leaf, "p", *match, means, total)
                    break
            else:
                continue
            break


def _different(sigmas: Mapping[SpotKey, Tensor]) -> Iterator[SpotKey]:
    """Of leaves with their σ those whose σ no earlier one has."""
    seen: list[Tensor] = []
    for mean, sigma in sigmas.items():
        if not any(torch.allclose(sigma, other, rtol=_SAME_SIGMA) for other in seen):
            seen.append(sigma)
            yield mean


def _vanishes(probe: Probe, mean: SpotKey) -> bool:
    """Whether ℓ is zero far from everything."""
    ends = probe.values({mean: _MEANS[[0, -1]]})
    return bool((ends.abs() < _VANISHES).all())


def _sigma(probe: Probe, key: SpotKey, grid: Tensor, mean: SpotKey, mass: bool, count: int = 1) -> Tensor | None:
    """σ over a grid of the raw value, if ℓ is a Normal's as a function of the mean, or of some that are equal; else
    None."""
    size = (len(grid), len(_MEANS))
    bump = probe.values({key: grid[:, None].expand(size), mean: _MEANS.expand(size)}).expand(size)
    ends = bump[:, [0, -1]].abs().amax()
    if not bool(torch.isfinite(bump).all()) or float(ends) > _VANISHES or float(bump.min()) < -_VANISHES:
        return None
    area = torch.trapezoid(bump, _MEANS)
    if not bool((area > _LEAST_AREA).all()):
        return None
    share = bump / area[:, None]
    centred = _MEANS - torch.trapezoid(share * _MEANS, _MEANS)[:, None]
    variance, fourth = (torch.trapezoid(share * centred**k, _MEANS) for k in (2, 4))
    width = area if mass else torch.zeros_like(area)
    sigma = (count * (variance - width**2 / 12)).clamp(min=0).sqrt()
    of_one = area * sigma ** (count - 1)
    if not torch.allclose(of_one, of_one[:1].expand_as(of_one), rtol=_SAME_AREA):
        return None
    excess = fourth - 3 * variance**2 + width**4 / 120
    if not bool((sigma > 0).all()) or float((excess / variance**2).abs().max()) > _NO_EXCESS:
        return None
    return sigma if float(sigma.log().std()) > _SAME_SIGMA else None
