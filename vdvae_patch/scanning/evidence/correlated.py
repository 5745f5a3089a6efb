"""Know a Normal of two correlated values by its values, whichever way its density is written.

With Δ the difference of x to its mean, τ = 1 − ρ² and the standard deviations σ₁ and σ₂,

    −log N = (Δ₁²/σ₁² + Δ₂²/σ₂² − 2 ρ Δ₁ Δ₂/(σ₁ σ₂)) / 2τ + log σ₁ + log σ₂ + ½ log τ + log 2π.

In each mean this is a parabola, of the curvature 1 / σ² τ, and what both means do together says what ρ² is; so far
`gaussian.py` goes, where the host writes logarithms and adds nothing. Public code mostly writes the density itself,

    pdf = torch.exp(-z / (2 * rho_free)) / (2 * math.pi * sx * sy * torch.sqrt(rho_free))

whose logarithm is taken here in its place; the means of a sequence's next step are often sums; and floors such as
`+ 1e-4` stand in the divisors, so that no spot of the expression has just the values of σ. Where two values are
correlated they are left out, and σ is what has its values without them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cut, Cuts, cut_of
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.arithmetic.forms import Form, form_of
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.crossings import crossed_differences, is_density
from vdvae_patch.scanning.evidence.gaussian import (
    LEAST_CORRELATION,
    MOST_LEAVES,
    GaussianTerm,
    Probe,
    distance,
    is_correlation,
    is_flat,
    slope_if_linear,
)

LARGEST_FLOOR = 1e-3
"""Of what is added in a divisor; public code has 1e-4 at most. What is larger belongs to σ."""


@dataclass
class Correlated:
    """What was read of a graph's densities of two correlated values.

    Attributes:
        terms: the scales.
        read: their raw values, each coordinate's by itself.
        seen: the numbers of all nodes that are such a density, or are computed of its square.
        unread: raw values that change a curvature and are not known for a σ, with the first such density.
    """

    terms: list[GaussianTerm]
    read: set[SpotKey]
    seen: set[int]
    unread: dict[SpotKey, Node]


def correlated_terms(graph: Graph, stops: frozenset[int]) -> Correlated:
    """The scales of all such densities, each raw value's earliest one."""
    found = Correlated([], set(), set(), {})
    known: dict[Any, tuple[Form, _Read]] = {}
    crossed, differences = crossed_differences(graph)
    for node in graph.nodes:
        density = is_density(node)
        if node.id not in crossed or not (density or node.op in ops.COMPLETING) or node.kind != "elementwise":
            continue
        for own in (stops, stops | differences):
            expression = Expression(Spot(node), own, most=MOST_LEAVES)
            if not 3 <= len(expression.leaves) <= MOST_LEAVES:
                continue
            form = form_of(expression)
            if form is None:
                terms = _read(expression, node, density)
            elif (form.key, density) in known:
                earlier, terms = known[form.key, density]
                terms = terms.of({old.key: new for old, new in zip(earlier.spots, form.spots, strict=True)}, node)
            else:
                terms = _read(expression, node, density)
                known[form.key, density] = form, terms
            if terms.crossed:
                found.seen.add(node.id)
                new = [term for term in terms.terms if term.raw.key not in found.read]
                found.read.update(term.raw.key for term in new)
                found.terms += _of_vectors(new)
                for spot in terms.unread:
                    found.unread.setdefault(spot.key, node)
                break
    found.unread = {key: node for key, node in found.unread.items() if key not in found.read}
    return found


# --- what it is -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    crossed: bool
    terms: tuple[GaussianTerm, ...] = ()
    unread: tuple[Spot, ...] = ()

    def of(self, spots: Mapping[SpotKey, Spot], total: Node) -> _Read:
        """The same of another expression of this form."""
        terms = tuple(
            replace(
                term,
                raw=spots[term.raw.key],
                node=spots[term.node.key],
                means=tuple(spots[mean.key] for mean in term.means),
                correlation=tuple(spots[spot.key] for spot in term.correlation),
                total=total,
            )
            for term in self.terms
        )
        return _Read(self.crossed, terms, tuple(spots[spot.key] for spot in self.unread))


class _Bare(Expression):
    """An expression without the small numbers that keep its divisors from zero."""

    def _apply(self, spot: Spot, done: Mapping[SpotKey, Tensor]) -> Tensor:
        node = spot.node
        if node.op == "add" and len(node.args) > 1 and isinstance(node.args[0], Node) and _is_floor(node.args[1]):
            left = self._settle(Spot(node.args[0], self.cuts_for(spot, node.args[0])))
            return done[left.key] if left.key in done else torch.tensor(left.node.value, dtype=torch.float64)
        return super()._apply(spot, done)


def _is_floor(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value <= LARGEST_FLOOR


class _OfDensity(Probe):
    """Values of −log of a density."""

    def values(self, changes: dict[SpotKey, Tensor]) -> Tensor:
        return -super().values(changes).log()


def _read(expression: Expression, total: Node, density: bool) -> _Read:
    """What is correlated in an expression: as it is, and else without its floors."""
    kind = _OfDensity if density else Probe
    crossed, unread = False, tuple[Spot, ...]()
    for bare in (False, True):
        own = _Bare(expression.end, expression.stops, most=MOST_LEAVES) if bare else expression
        probe = kind(own)
        curved = [key for key in own.leaves if probe.curvature(key) is not None]
        pairs = [two for two in itertools.combinations(curved, 2) if _is_pair(probe, *two)]
        if not pairs:
            continue
        crossed = True
        terms, left = _scales(probe, curved, pairs, total, bare)
        if any(_reaches_one(kind(expression), spot.key, pairs) for spot in (terms[0].correlation if terms else ())):
            terms = tuple(replace(term, reaches_one=True) for term in terms)
        has_floors = any(_is_floor(a) for spot in own.order for a in spot.node.args[1:])
        if terms and (bare or not has_floors or not any(_is_passed_by(own, term) for term in terms)):
            return _Read(True, terms, left)
        unread = left
        if not has_floors:
            break
    return _Read(crossed, (), unread)


def _is_passed_by(expression: Expression, term: GaussianTerm) -> bool:
    """Whether the density reads a raw value by other ways than through its σ, as the correlation of a covariance whose
    diagonal alone has a floor: of σ alone a patch would move it."""
    through = Expression(expression.end, expression.stops | {term.node.node.id})
    return term.raw.key in through.leaves


def _is_pair(probe: Probe, one: SpotKey, other: SpotKey) -> bool:
    share = probe.correlation(one, other)
    return share is not None and is_correlation(share)


def _scales(
    probe: Probe, curved: Sequence[SpotKey], pairs: Sequence[tuple[SpotKey, SpotKey]], total: Node, bare: bool
) -> tuple[tuple[GaussianTerm, ...], tuple[Spot, ...]]:
    """The scales of an expression in which pairs of means are correlated, and what else changes a curvature."""
    leaves = probe.expression.leaves
    others = [key for key, spot in leaves.items() if key not in curved and spot.node.params and _is_range(spot)]
    moved = {key for key in others if any(_moves_correlation(probe, key, *pair) for pair in pairs[:_FEW_PAIRS])}
    coordinates = _coordinates(probe, curved)
    terms, left = [], []
    for key in others:
        found = probe.as_p(key, coordinates) or _of_both(probe, key, coordinates)
        if found is None:
            if key not in moved and any(_weighs(probe, key, mean) for mean in coordinates):
                left.append(leaves[key])
            continue
        node, suffix, means = found[:3]
        node = _behind_floors(probe, key, node) if bare else node
        data = (leaves[mean] for mean in curved if mean not in coordinates and probe.changes_curvature(key, mean))
        terms.append(GaussianTerm(leaves[key], "p", node, suffix, (*means, *data), total, floored=bare))
    of_scales = {term.raw.key for term in terms}
    correlation = tuple(leaves[key] for key in others if key in moved and key not in of_scales)
    return tuple(replace(term, correlation=correlation) for term in terms), tuple(left)


def _of_both(
    probe: Probe, key: SpotKey, coordinates: Sequence[SpotKey]
) -> tuple[Spot, tuple[Step, ...], tuple[Spot, ...]] | None:
    """What `Probe.as_p` gives, of a σ that both values have: 2 log σ is left where the squares of both vanish."""
    if len(coordinates) != 2:
        return None
    for grid in (probe.grid, probe.grid + 2.0):
        changes, size = {key: grid}, len(grid)
        a, b = (probe.curvature(mean, changes) for mean in coordinates)
        share = probe.correlation(coordinates[0], coordinates[1], changes)
        if a is None or b is None or share is None or is_flat(a.abs()) or is_flat(b.abs()):
            continue
        step = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        wide = {coordinates[0]: step[:, None].expand(size, 3, 3), coordinates[1]: step.expand(size, 3, 3)}
        values = probe.values({key: grid[:, None, None].expand(size, 3, 3), **wide}).expand(size, 3, 3)
        middle, both = values[:, 1, 1], values[:, 2, 2] - values[:, 2, 1] - values[:, 1, 2] + values[:, 1, 1]
        x, y = (values[:, 2, 1] - values[:, 0, 1]) / 2, (values[:, 1, 2] - values[:, 1, 0]) / 2
        rest = middle - 0.5 * (x * x * b - 2 * x * y * both + y * y * a) / (a * b - both * both)
        slope = slope_if_linear(a.abs().log(), rest)
        if slope is None or slope * float(a[0]) >= 0:
            continue
        sigma = (-slope / a / (1 - share)).sqrt()
        match = probe.match(key, grid, frozenset(coordinates), functools.partial(distance, sigma=sigma))
        if match is not None:
            return *match, tuple(probe.expression.leaves[mean] for mean in coordinates)
    return None


def _is_range(spot: Spot) -> bool:
    """Whether what is read of a value are ranges of its dimensions, so that its channels can be named."""
    return all(cut.dim != UNKNOWN for cut in spot.cuts)


def _coordinates(probe: Probe, curved: Sequence[SpotKey]) -> list[SpotKey]:
    """Of means and data one of each difference, a mean where there is one."""
    found: list[SpotKey] = []
    for key in sorted(curved, key=lambda key: not probe.expression.leaves[key].node.params):
        shares = (probe.correlation(key, other) for other in found)
        if not any(share is not None and bool((1 - share).abs().max() < LEAST_CORRELATION) for share in shares):
            found.append(key)
    return found


_FEW_PAIRS = 4
"""Of means and data, of which each is one of a pair with each of the other coordinate."""


def _moves_correlation(probe: Probe, key: SpotKey, one: SpotKey, other: SpotKey) -> bool:
    share = probe.correlation(one, other, {key: probe.grid})
    return share is not None and not is_flat(share.clamp(min=_TINY))


def _reaches_one(probe: Probe, key: SpotKey, pairs: Sequence[tuple[SpotKey, SpotKey]]) -> bool:
    """Whether far out, at values that an optimizer reaches, 1 − ρ² is zero in float32, or nothing is quadratic any
    more because of it."""
    far = {key: torch.tensor([-_FAR, _FAR], dtype=torch.float64)}
    shares = [probe.correlation(*pair, far) for pair in pairs[:_FEW_PAIRS]]
    return any(share is None or bool((1 - share < _EPSILON).any()) for share in shares)


_FAR = 30.0
_EPSILON = torch.finfo(torch.float32).eps


def _weighs(probe: Probe, key: SpotKey, mean: SpotKey) -> bool:
    """Whether a value changes a curvature, and what is left where the square vanishes, as the log of a σ does."""
    curvature = probe.curvature(mean, {key: probe.grid})
    if curvature is None or is_flat(curvature.abs().clamp(min=_TINY)):
        return False
    rest = probe.at_minimum(mean, {key: probe.grid}, curvature)
    return bool((rest - rest[0]).abs().max() > _SAME_REST * (1 + rest.abs().max()))


_TINY = 1e-300
_SAME_REST = 1e-9
"""Change of the rest, relative to it, that is rounding."""


def _behind_floors(probe: Probe, key: SpotKey, node: Spot) -> Spot:
    """The last spot that is σ but for floors, through which all of the density reads it."""
    expression = probe.expression
    done = probe.done({key: probe.grid})
    alike = [s for s in expression.order if key in expression.depends[s.key] and _is_same(done[s.key], done[node.key])]
    for spot in reversed(alike):
        through = Expression(expression.end, expression.stops | {spot.node.id})
        if key not in through.leaves:
            return spot
    return node


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.double(), other.double())


# --- two coordinates of one tensor ------------------------------------------------------------------------------------


def _of_vectors(terms: Sequence[GaussianTerm]) -> Iterator[GaussianTerm]:
    """The terms; one of two that are coordinates of one tensor, whose σ is computed at once."""
    left = list(terms)
    while left:
        term = left.pop(0)
        for other in left:
            raw, node = _together(term.raw, other.raw), _together(term.node, other.node)
            if raw is not None and node is not None and term.suffix == other.suffix:
                left.remove(other)
                means = dict.fromkeys((*term.means, *other.means))
                term = replace(term, raw=raw, node=node, means=tuple(means))
                break
        yield term


def _together(one: Spot, other: Spot) -> Spot | None:
    """Two parts of one tensor that differ along one dimension, as one part; None where they are no such parts."""
    apart = set(one.cuts) ^ set(other.cuts)
    if one.node is not other.node or len(one.cuts) != len(other.cuts) or len(apart) != 2:
        return None
    a, b = sorted(apart)
    if a.dim != b.dim or a.dim < 0:
        return None
    places = sorted({*a.places, *b.places})
    steps = {after - before for before, after in itertools.pairwise(places)}
    if len(places) != len(a.places) + len(b.places) or len(steps) > 1:
        return None
    step = steps.pop()
    whole = cut_of(a.dim, range(places[0], places[-1] + step, step), a.size)
    kept: Cuts = tuple(cut for cut in one.cuts if cut not in apart)
    return Spot(one.node, kept if len(places) == a.size else tuple(sorted((*kept, Cut(*whole)))))
