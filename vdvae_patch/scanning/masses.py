"""Know a Normal's mass in an interval, a difference of two Φ, by its values.

Learned compression and quantized likelihoods never write a density: they take

    ℓ = Φ((a − m) / σ) − Φ((b − m) / σ),    a − b = w.

Over the mean m that is a bump of area w, variance σ² + w²/12 and fourth cumulant −w⁴/120, those of a Normal plus a
uniform number (a difference of logistic functions has a positive one). A raw value r on which the variance depends, and
not the area, belongs to σ, which the variance then gives.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from vdvae_patch.scanning.gaussian import GaussianTerm, Probe, is_close
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.replay import Expression, Key, Spot

_PHI = frozenset({"erf", "erfc", "special_erf", "special_erfc", "special_ndtr"})
_MEANS = torch.linspace(-40, 40, 5121, dtype=torch.float64)
_MOST_LEAVES = 8


def interval_masses(graph: Graph, stops: frozenset[int]) -> Iterator[GaussianTerm]:
    """All such differences of a graph, each raw value's earliest one."""
    seen: set[Key] = set()
    for node in graph.nodes:
        operands = [n for n in node.inputs if n.params]
        if node.op != "sub" or len(operands) != 2 or not all(_is_phi(n, 6) for n in operands):
            continue
        expression = Expression(Spot(node), stops)
        if not 1 < len(expression.leaves) <= _MOST_LEAVES:
            continue
        for term in _terms(expression, node):
            if term.raw.key not in seen:
                seen.add(term.raw.key)
                yield term


def _is_phi(node: Node, depth: int) -> bool:
    """Whether a node is Φ of something, up to steps such as ½ (1 + erf)."""
    if node.op in _PHI:
        return True
    return depth > 0 and node.kind in ("elementwise", "shape") and any(_is_phi(n, depth - 1) for n in node.inputs)


def _terms(expression: Expression, total: Node) -> Iterator[GaussianTerm]:
    probe = Probe(expression)
    for key, leaf in expression.leaves.items():
        if not leaf.node.params:
            continue
        for grid in (probe.grid, probe.grid + 2.0):
            sigmas = {m: s for m in expression.leaves if m != key and (s := _sigma(probe, key, grid, m)) is not None}
            if not sigmas:
                continue
            sigma = next(iter(sigmas.values()))
            match = probe.match(key, grid, frozenset(sigmas), functools.partial(is_close, sigma=sigma))
            if match is not None:
                means = tuple(expression.leaves[m] for m in sigmas)
                yield GaussianTerm(leaf, "p", *match, means, total)
                break


def _sigma(probe: Probe, key: Key, grid: Tensor, mean: Key) -> Tensor | None:
    """σ over a grid of the raw value, if ℓ is a Normal's mass as a function of the mean; else None."""
    size = (len(grid), len(_MEANS))
    mass = probe.values({key: grid[:, None].expand(size), mean: _MEANS.expand(size)}).expand(size)
    ends = mass[:, [0, -1]].abs().amax()
    if not bool(torch.isfinite(mass).all()) or float(ends) > 1e-9 or float(mass.min()) < -1e-9:
        return None
    width = torch.trapezoid(mass, _MEANS)
    if not bool((width > 1e-6).all()) or not torch.allclose(width, width[:1].expand_as(width), rtol=1e-6):
        return None
    share = mass / width[:, None]
    centred = _MEANS - torch.trapezoid(share * _MEANS, _MEANS)[:, None]
    variance, fourth = (torch.trapezoid(share * centred**k, _MEANS) for k in (2, 4))
    sigma = (variance - width**2 / 12).clamp(min=0).sqrt()
    excess = fourth - 3 * variance**2 + width**4 / 120
    if not bool((sigma > 0).all()) or float((excess / variance**2).abs().max()) > 1e-4:
        return None
    return sigma if float(sigma.log().std()) > 1e-6 else None
