"""The factor that a loss puts on the KL of each latent, by how its log σ takes part in it.

In a KL, in closed form or of a sample, log σ of the posterior stands with the factor −1, and beside it there are
σ²/2σ_p². So the gradient of the loss for the raw value v, the outputs of all other layers and the samples held, is

    −a (log σ)' + c₁ σ' + c₂ σ σ' + c₃ σ'/σ³ + c₄ σ³ σ',

the fourth of a density of the sample, the last where a mean is weighted by σ², as of merged precisions. It is measured
at some values around each v, in float64, and a is fitted for each element. A prior's or a likelihood's log σ has the
other sign: −a is the factor on its density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic.chain import descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.bound.replay import Tail
from vdvae_patch.scanning.evidence.reading import Reading, Readings

_AROUND = ((0.75, 1e-5), (0.1, 1e-8), (0.01, 1e-12))
"""Widths around the raw values, the widest first: a narrow one where σ = v would change its sign, or where free bits
have a kink; and what may be left of a fit there, relative to the gradient. Any smooth function is fitted up to the
fifth power of the width over 2,000, so that the limit falls with it. Of a KL, rounding is left, or at the
widest a small constant in a logarithm."""
_ABOVE = 3.0
"""How far a raw value is moved to get a KL above its free bits."""
_NARROWER = 0.6
_AGREE = 1e-3
"""Difference of the factors of two widths, relative to them."""
_NONE_BESIDE = 1e-3
"""Of the largest factor, what counts as none."""
_LEAST = 0.3
"""Share of a raw value's elements that are fitted at least, or its part in the loss is not that of a KL."""
_FAR = 6.0
"""|log σ| from which an element is measured nearer to σ = 1, too: where σ² is 10⁴⁰, as of an untrained network that is
given bytes, the derivative of log σ is lost beside that of σ²."""
_NEAR = 3.0
_SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 1e-3, 0.0)
_POINTS = 11
_SLOW = 0.25
"""d log σ / dv below which σ is moved by moving v farther."""
_NONE = 1e-12
_MOST = 512
"""Elements of a raw value that are fitted, evenly spread."""


@dataclass(frozen=True)
class LogSigmaFactor:
    """The factor of a raw value's −log σ in the loss.

    Attributes:
        reading: one of its readings.
        factors: of each element that could be fitted; above 0 for a posterior in a loss that is minimized.
        fitted: the share of elements for which the fit holds, of those whose σ moves.
        count: how many elements the raw value has.
        places: of each factor, where its element is in the raw value's node, flat.
        waiting: whether these are factors of a σ that is farther from the prior's: on this batch, the KL is below a
            threshold.
    """

    reading: Reading
    factors: Tensor
    fitted: float
    count: int
    waiting: bool = False
    places: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


def log_sigma_factors(graph: Graph, tail: Tail, readings: Readings) -> list[LogSigmaFactor]:
    """One for each raw value that has a part in the loss; of merged ones, for what they are merged in."""
    found, seen = [], set()
    held = frozenset(readings.samples | readings.merged)
    merged = [_merged(graph, reading) for reading in readings.found if reading.used >= 0]
    plain = [reading for reading in readings.found if reading.used < 0]
    # whose σ a KL has before whose σ noise has
    ordered = [*(r for r in merged if r is not None), *sorted(plain, key=lambda r: r.term is None)]
    for reading in (_in_the_tail(tail, reading) for reading in ordered):
        if reading.raw.key in seen or reading.raw.node.id not in tail.inside:
            continue
        factor = _factor(tail, reading, held)
        if factor is not None:
            seen.add(reading.raw.key)
            found.append(factor)
    return found


def taught_share(taught: Tail, readings: Readings, factor: LogSigmaFactor) -> float:
    """How much of its factor a raw value learns by: less than 1 where part of a KL is of a detached value, as where a
    KL is balanced. 1 of one that learns by all of it or by none, as of a sample whose density is detached.

    Args:
        taught: the tail with its detached values left as they are.
    """
    found = _factor(taught, factor.reading, frozenset(readings.samples | readings.merged))
    whole = float(factor.factors.sum())
    if found is None or len(found.factors) != len(factor.factors) or not whole:
        return 1.0
    return float(found.factors.sum()) / whole or 1.0


def _in_the_tail(tail: Tail, reading: Reading) -> Reading:
    """The reading with the raw value where the tail begins, if it is before: behind a mask, or an adjacency."""
    if reading.raw.node.id in tail.inside:
        return reading
    leaves = Expression(reading.spot, frozenset(tail.leaves)).leaves.values()
    begins = [leaf for leaf in leaves if leaf.node.id in tail.leaves and leaf.node.kind != "parameter"]
    return replace(reading, raw=begins[0]) if len(begins) == 1 else reading


def _merged(graph: Graph, reading: Reading) -> Reading | None:
    """The reading of the sum of precisions or variances in which a scale is merged."""
    node = next((node for node in graph.nodes if node.id == reading.used), None)
    if node is None:
        return None
    chain = descend(Spot(node))
    # what is used may be a variance, as that which PyTorch's MultivariateNormal is given
    length = len(chain.steps)
    suffix = reading.suffix[length:] if reading.suffix[:length] == chain.steps else ()
    return Reading(chain.begin, chain, suffix, reading.evidence, node)


def _factor(tail: Tail, reading: Reading, held: frozenset[int]) -> LogSigmaFactor | None:
    raw = reading.raw
    expression = Expression(reading.spot, frozenset({raw.node.id, *tail.leaves}))
    others = [leaf for key, leaf in expression.leaves.items() if key != raw.key]
    where = part_of(tail.base[raw.node.id], raw)
    if raw.key not in expression.leaves or where is None or any(leaf.node.kind != "parameter" for leaf in others):
        return None
    count = len(where)
    where = _moving(reading, expression, tail.base[raw.node.id], where)
    if not len(where):
        return None
    chosen = where[torch.linspace(0, len(where) - 1, min(len(where), _MOST)).long()]
    at = tail.base[raw.node.id].flatten()[chosen]
    best = _best(tail, reading, expression, chosen, held, at)
    waiting = best is not None and bool((best.factors == 0).all()) and bool(best.good.all())
    if waiting:  # free bits: above them, where σ is another one
        above = _best(tail, reading, expression, chosen, held, at + _ABOVE)
        waiting = above is not None and bool((above.factors != 0).any())
        best = above if waiting else best
    nearer = _nearer(reading, expression, at)
    if nearer is not None and not waiting:
        best = _better(best, _best(tail, reading, expression, chosen, held, nearer))
    if best is None:
        return None
    factors, good, _ = best
    size = _NONE_BESIDE * factors[good].abs().max() if bool(good.any()) else torch.zeros(())
    both = bool((factors[good] > size).any()) and bool((factors[good] < -size).any())  # no density has log σ so
    if both or float(good.double().mean()) < _LEAST:
        good = torch.zeros_like(good)
    return LogSigmaFactor(reading, factors[good], float(good.double().mean()), count, waiting, chosen[good])


def _moving(reading: Reading, expression: Expression, value: Tensor, where: Tensor) -> Tensor:
    """The places at which σ moves with its raw value; all where that is not known. Behind a ReLU, or beyond a clamp, an
    element has no part in the loss that could be measured there, and may have one in the next batch."""
    basis = _basis(reading, expression, value.flatten()[where][None])
    return where if basis is None else where[(basis != 0).any(dim=-1)[0]]


class _Fit(NamedTuple):
    """The factors of the elements, for which of them the fit holds, and the size of the gradients they were fitted to.
    Rounding is in proportion to that."""

    factors: Tensor
    good: Tensor
    size: Tensor


def _best(
    tail: Tail, reading: Reading, expression: Expression, chosen: Tensor, held: frozenset[int], at: Tensor
) -> _Fit | None:
    """The fit around some raw values, of the width by which most elements are fitted."""
    best: _Fit | None = None
    for width, tolerance in _AROUND:
        both = _fits(tail, reading, expression, chosen, (width, _NARROWER * width), tolerance, held, at)
        if both is None:
            continue
        fit, other = both
        # what only looks like it is fitted by other factors over another range
        near = (fit.factors - other.factors).abs() <= _AGREE * (
            fit.factors.abs() + _NONE_BESIDE * fit.factors.abs().max()
        )
        fit = fit._replace(good=fit.good & other.good & near)
        if best is None or int(fit.good.sum()) > int(best.good.sum()):
            best = fit
        if bool(best.good.all()):
            break
    return best


def _better(one: _Fit | None, other: _Fit | None) -> _Fit | None:
    """Of each element the fit that holds, and of two the one that has less rounding in it; one without any part in the
    loss tells nothing beside one with a part."""
    if one is None or other is None:
        return one if other is None else other
    tells = other.good & (other.size > _NONE)
    takes = tells & (~one.good | (other.size < one.size))
    return _Fit(*(torch.where(takes, b, a) for a, b in zip(one, other, strict=True)))


def _nearer(reading: Reading, expression: Expression, at: Tensor) -> Tensor | None:
    """The raw values, those with a σ far from 1 brought nearer to it; None where there are none."""
    found, open_ = at.clone(), ~(_log_sigma(reading, expression, at).abs() <= _FAR)
    if not bool(open_.any()):
        return None
    for share in _SHARES:
        near = open_ & (_log_sigma(reading, expression, share * at).abs() <= _NEAR)
        found = torch.where(near, share * at, found)
        open_ = open_ & ~near
    return None if torch.equal(found, at) else found


def _log_sigma(reading: Reading, expression: Expression, v: Tensor) -> Tensor:
    return _sigma(reading, expression, v).log().expand(v.shape)


def part_of(value: Tensor, spot: Spot) -> Tensor | None:
    """The places of a spot in its node's value, flat; None if ranges of dimensions do not say which."""
    index = torch.arange(value.numel()).view(value.shape)
    for cut in spot.cuts:
        if cut.dim < 0:
            return None
        places = slice(cut.start, cut.start + (cut.length - 1) * cut.step + 1, cut.step)
        index = index[(*(slice(None),) * cut.dim, places)]
    flat = index.flatten()
    return flat if len(flat) else None


def _fits(
    tail: Tail,
    reading: Reading,
    expression: Expression,
    chosen: Tensor,
    widths: Sequence[float],
    tolerance: float,
    held: frozenset[int],
    before: Tensor,
) -> list[_Fit] | None:
    """For each width the fit around some raw values; None where σ is not positive."""
    node = reading.raw.node
    base = tail.base[node.id]
    far = _reach(reading, expression, before)
    points = []
    for width in widths:
        steps = torch.linspace(-width, width, _POINTS, dtype=torch.float64)
        scale = before.abs().clamp(1e-3, 1.0) if width <= _AROUND[1][0] else far
        points.append(before + steps[:, None] * scale)  # [points, n]
    moved = torch.cat(points)
    basis = _basis(reading, expression, moved)
    if basis is None:
        return None
    values = base.flatten().expand(len(moved), -1).index_copy(1, chosen, moved).view(len(moved), *base.shape)
    gradients = tail.slopes(node, values, held).reshape(len(moved), -1)[:, chosen]
    # what belongs to one width beside what belongs to the other: they are fitted together, each by itself
    bases = torch.cat(torch.split(basis, _POINTS), dim=1)
    fit = _fitted(bases, torch.cat(torch.split(gradients, _POINTS), dim=1), tolerance)
    return [_Fit(*parts) for parts in zip(*(part.chunk(len(widths)) for part in fit), strict=True)]


def _reach(reading: Reading, expression: Expression, before: Tensor) -> Tensor:
    """How far raw values are moved at the widest, in widths: 1, and more where σ hardly moves with that, as √v of a sum
    of squares of hundreds. All that stands beside log σ is a line there, and any share of its factor fits as well."""
    basis = _basis(reading, expression, before[None])
    if basis is None:
        return torch.ones_like(before)
    slope = basis[0, :, 0].abs()
    return torch.where(slope < _SLOW, torch.minimum(before.abs(), 1 / slope), 1.0).clamp(min=1.0)


def _fitted(basis: Tensor, gradients: Tensor, tolerance: float) -> _Fit:
    """The factor of −log σ of each element, from the gradients `[points, n]` at as many values."""
    design, target = basis.transpose(0, 1), gradients.transpose(0, 1)  # [n, points, 5], [n, points]
    size = design.norm(dim=1, keepdim=True).clamp_min(1e-300)
    solved = torch.linalg.lstsq(design / size, target[..., None], driver="gelsd").solution
    left = (design / size @ solved - target[..., None]).squeeze(-1).norm(dim=1)
    whole = target.norm(dim=1)
    factor = -(solved.squeeze(-1) / size.squeeze(1))[:, 0]
    factor = torch.where(whole <= _NONE, torch.zeros_like(factor), factor)
    good = (left <= tolerance * whole) | (whole <= _NONE)
    return _Fit(factor, good & factor.isfinite(), whole)


def _basis(reading: Reading, expression: Expression, v: Tensor) -> Tensor | None:
    """(log σ)', σ', σ σ', σ'/σ³, σ³ σ' at each raw value."""
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        sigma = _sigma(reading, expression, v).expand(v.shape)
        if not sigma.requires_grad or not bool((sigma.isfinite() & (sigma > 0)).all()):
            return None
        (slope,) = torch.autograd.grad(sigma.sum(), v)
    sigma = sigma.detach()
    basis = torch.stack([slope / sigma, slope, sigma * slope, slope / sigma**3, sigma**3 * slope], dim=-1)
    return basis if bool(basis.isfinite().all()) else None


def _sigma(reading: Reading, expression: Expression, v: Tensor) -> Tensor:
    values = {
        key: v if key == reading.raw.key else torch.tensor(leaf.node.value, dtype=torch.float64)
        for key, leaf in expression.leaves.items()
    }
    sigma = expression.value(values)
    for step in reading.suffix:
        sigma = step.forward(sigma)
    return sigma
