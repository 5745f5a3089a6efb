"""Know a Gaussian density or KL by its values, however it is written.

An expression ℓ of leaves (means, raw values, data) is evaluated again in float64, for values of our choice. With a
constant factor c, and Δ the difference of a mean m to what it is compared with, a Gaussian ℓ is one of

    −log N:  ℓ = c (Δ² / 2σ² + log σ) + …                 KL:  ℓ = c (log σ_p/σ_q + (σ_q² + Δ²) / 2σ_p²) + …

In both, ℓ is quadratic in m, and its second derivative, the curvature A, is c/σ_p². Whether a raw value r belongs to
σ_p or to σ_q is told from A and from the rest of ℓ, at Δ = 0:

    r changes A:               r belongs to σ_p, of a prior or a likelihood, if the rest is a straight line over log A.
                               The line's slope is −c/2; with c known, σ_p = √(c/A) at each value of r that was tried.
    r does not change A:       r belongs to σ_q, of a posterior, if the rest is −c log σ_q + A/2 σ_q² + a constant, for
                               some spot of the expression as σ_q.

Last, the spot of the expression is found that has just these values of σ. No name and no form is looked at.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey, is_variable, operands, settle
from vdvae_patch.scanning.arithmetic.forms import Form, form_of
from vdvae_patch.scanning.arithmetic.graph import Graph, Node

Side = Literal["q", "p"]
"""`q`: the first argument of a KL; `p`: the second, or the density."""

_POINTS = 17
MOST_LEAVES = 12
"""A limit of work: every pair of leaves is tried. A KL of two Normals has four, with a mask or a weight a few more."""

# Tolerances. In brackets stand the values that come nearest, over all small models of tests/hosts: what rounding leaves
# of a zero, and the smallest one that is none.
_NO_CURVATURE = 1e-12
"""A curvature, relative to ℓ, that is none (1e-13, 2e-7)."""
_NOT_QUADRATIC = 1e-7
"""Change of the curvature along the mean, relative to the curvature (2e-12, 3e-3)."""
_SAME_LOG_CURVATURE = 1e-6
"""Change of log A over the raw value, for r to count as one that changes it (7e-11, 0.2)."""
_SAME_CURVATURE = 1e-9
"""Change of A over the raw value, for r to count as one that does not change it (6e-11, 0.1)."""
_STRAIGHT = 1e-6
"""Distance of the rest from a line over log A, relative to its range (5e-9, 4e-5: log(σ + ε) with a small ε)."""
_SAME_WEIGHT = 1e-4
"""Difference of two factors c, relative to them (4e-15, 0.4: counts differ by ones)."""
_FITTED_CURVATURE = 1e-4
"""Difference of the fitted factor of σ_q²/2 to A, relative to A. Small constants within the logarithm move it by up to
9e-5. Wrong spots come as close as 5e-4, but leave a residual, which is looked at as well."""
_NOT_WHOLLY = 1e-3
"""Distance of ℓ from what σ_q alone makes of it, where another value is changed that σ_q is computed of, relative to
the change. What is no σ_q lacks a logarithm, so that its distance is of the size of the change."""
_MOST_CANCELLED = 1e3
"""Range of the rest over that of its part c log σ_q. A posterior's is below 40 over the values that are tried; where it
is 5e4 or more, the logarithm is a fit of what another term leaves."""
LEAST_CORRELATION = 1e-6
"""ρ² of two values, or its distance to 1, from which it is no rounding (1e-13)."""
_TOLERANCES = (1e-10, 1e-6)
"""Relative differences of a spot to σ, the finer one first: σ with a small constant added, as in log(σ + 1e-8), is
taken only where nothing fits better (4e-8 of such a constant, 0.1 of a wrong spot). For the residual of a σ_q the same
numbers are used, and the margin is narrow: 5e-7, of log(σ² + 1e-12) at a σ near zero, and 3e-6."""


@dataclass(frozen=True)
class GaussianTerm:
    """A raw value's part in a density or a KL.

    Attributes:
        raw: the leaf.
        side: whose scale it is: of the first or the second Normal of a KL, or of a density.
        node: the spot in the expression that is σ, or from which the suffix computes it.
        suffix: steps from that spot to σ.
        means: the leaves in which the term is quadratic.
        total: where the term is complete.
        prior: mean and σ of the second Normal of a KL whose first one this is, where they are two numbers.
        correlation: of a density of two correlated values, the leaves that ρ is computed of.
        reaches_one: whether ρ comes to ±1 far out, so that 1 − ρ² is zero.
        floored: whether it was read without small numbers that the density adds.
    """

    raw: Spot
    side: Side
    node: Spot
    suffix: tuple[Step, ...]
    means: tuple[Spot, ...]
    total: Node
    prior: tuple[float, float] | None = None
    correlation: tuple[Spot, ...] = ()
    reaches_one: bool = False
    floored: bool = False


_SUFFIXES: tuple[tuple[Step, ...], ...] = (
    (),
    (Step("pow", (0.5,)),),
    (Step("exp"),),
    (Step("mul", (0.5,)), Step("exp")),
    (Step("pow", (-1.0,)),),
    (Step("pow", (-0.5,)),),
    (Step("mul", (-1.0,)), Step("exp")),
    (Step("mul", (-0.5,)), Step("exp")),
)


def gaussian_terms(
    graph: Graph,
    stops: frozenset[int],
    unmatched: dict[SpotKey, Node] | None = None,
    known: Iterable[SpotKey] = (),
    correlated: Set[int] = frozenset(),
) -> Iterator[GaussianTerm]:
    """All Gaussian terms of a graph, each raw value's earliest one.

    Args:
        unmatched: gets the raw values that change an expression as σ_p does, where no spot of it has the values of σ_p,
            and where that is complete.
        known: raw values that are known for the σ of a density already.
        correlated: the numbers of totals that are read already, of two correlated values; see `correlated.py`.

    Terms that are complete before anything is summed up come first: a sum over elements is evaluated as a multiple of
    one element, which is right only if all of them are alike.
    """
    seen: set[tuple[SpotKey, Side]] = {(key, "p") for key in known}
    priors: dict[SpotKey, GaussianTerm] = {}
    attempts_made = _Attempts()
    for through_sums in (False, True):
        for node in totals(graph, through_sums):
            if node.id in correlated:
                continue
            expression = Expression(Spot(node), stops, through_sums, most=MOST_LEAVES)
            if len(expression.leaves) > MOST_LEAVES:
                attempts = [(found, True) for found in _of_differences(node, stops, through_sums)]
            elif len(expression.leaves) > 1 and any(spot.node.op not in ops.LINEAR for spot in expression.order):
                attempts = [(expression, True), *with_differences(expression, stops, through_sums)]
            else:
                continue
            is_open = True
            for attempt, rescaled in attempts:
                if not is_open and not rescaled:
                    continue
                found = attempts_made.attempt(attempt, node, seen)
                if unmatched is not None:
                    unmatched.update((spot.key, node) for spot in found.unmatched if spot.key not in unmatched)
                for term in found.terms:
                    if term.raw.node.kind == "elementwise" and term.raw.node.id not in stops:
                        continue  # the difference itself, which no network emits
                    if term.side == "q" and _is_inverse(term, priors.get(term.raw.key), stops):
                        continue
                    if term.side == "p":
                        priors.setdefault(term.raw.key, term)
                    seen.add((term.raw.key, term.side))
                    yield term
                if found.terms:
                    break
                is_open = is_open and found.is_open


def _is_inverse(term: GaussianTerm, prior: GaussianTerm | None, stops: frozenset[int]) -> bool:
    """Whether what would be a σ_q is a multiple of 1 / σ_p of the same raw value.

    Over a prior's raw value a KL is log σ_p + k / 2σ_p², which is −log τ + k τ² / 2 of τ = 1 / σ_p. Where it stands in
    a loss beside another KL whose mean has the curvature k, τ, as in `exp(log_var_q - log_var_p)`, has the form of a
    posterior's σ.
    """
    if prior is None:
        return False
    grid = torch.linspace(-1.48, 1.52, _POINTS, dtype=torch.float64)
    logs = []
    for each in (term, prior):
        expression = Expression(each.node, stops)
        if each.raw.key not in expression.leaves:
            return False
        sigma = expression.value({key: torch.full_like(grid, 0.5) for key in expression.leaves} | {each.raw.key: grid})
        for step in each.suffix:
            sigma = step.forward(sigma)
        logs.append(sigma.log())
    product = logs[0] + logs[1]
    return bool((product - product[0]).abs().max() < _STRAIGHT * (logs[1] - logs[1][0]).abs().max())


@dataclass(frozen=True)
class _Attempt:
    """What was found in one expression.

    Attributes:
        unmatched: raw values that change it as σ_p does, where no spot of it has the values of σ_p.
        is_open: whether another reading of it may show a term, where this one shows none.
    """

    terms: list[GaussianTerm]
    unmatched: list[Spot]
    is_open: bool

    def of(self, spots: Mapping[SpotKey, Spot], total: Node) -> _Attempt:
        """The same of another expression of this form."""
        terms = [
            replace(
                term,
                raw=spots[term.raw.key],
                node=spots[term.node.key],
                means=tuple(spots[mean.key] for mean in term.means),
                total=total,
            )
            for term in self.terms
        ]
        return _Attempt(terms, [spots[spot.key] for spot in self.unmatched], self.is_open)


class _Attempts:
    """Attempts at expressions, one for each form."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Form, _Attempt]] = {}

    def attempt(self, expression: Expression, total: Node, seen: Set[tuple[SpotKey, Side]]) -> _Attempt:
        form = form_of(expression)
        if form is None:
            return _attempt(expression, total, seen)
        key = form.key, tuple(((leaf, "p") in seen, (leaf, "q") in seen) for leaf in expression.leaves)
        known = self._known.get(key)
        if known is not None:
            earlier, found = known
            return found.of({old.key: new for old, new in zip(earlier.spots, form.spots, strict=True)}, total)
        found = _attempt(expression, total, seen)
        self._known[key] = form, found
        return found


def _attempt(expression: Expression, total: Node, seen: Set[tuple[SpotKey, Side]]) -> _Attempt:
    unmatched: list[Spot] = []
    terms = list(_probe(expression, total, seen, unmatched))
    return _Attempt(terms, unmatched, not terms and _is_open(expression, seen))


def _is_open(expression: Expression, seen: Set[tuple[SpotKey, Side]]) -> bool:
    """Whether another reading of an expression may show a term: nothing is quadratic in it as it is, or a raw value
    that is known from no term changes a curvature, and by another factor than it should."""
    probe = Probe(expression)
    quadratic = [key for key in expression.leaves if probe.curvature(key) is not None]
    others = (k for k, s in expression.leaves.items() if k not in quadratic and s.node.params and (k, "p") not in seen)
    return not quadratic or any(probe.changes_curvature(key, mean) for key in others for mean in quadratic)


def with_differences(
    expression: Expression, stops: frozenset[int], through_sums: bool
) -> Iterator[tuple[Expression, bool]]:
    """The expression with a squared difference as a leaf, for means that are themselves computed from their leaves.

    In `(y - torch.sigmoid(raw)) ** 2 / sigma**2 + 2 * torch.log(sigma)` nothing is quadratic in `raw`; with the
    difference as a leaf, the expression is quadratic in that. And where a mean is rescaled, as with images that the
    loss brings to [-1, 1], `2 * mean - 1`, the curvature in it is 4/σ², and in the difference 1/σ². With each comes
    whether it is a multiple of one value alone, as a mean behind a dropout is.
    """
    for spot in expression.order:
        if not is_square(spot.node):
            continue
        node: Node | None = spot.node.inputs[0]
        around: list[Node] = []  # multiples of the difference, 255 (x - y): either may be what has the scale σ
        while node is not None and node.kind == "elementwise" and node.op in ops.MONOMIAL:
            around = [*around, node] if sum(n.params for n in node.inputs) == 1 else []
            node = next((n for n in node.inputs if n.params), None)
        for end in (node, *reversed(around)):
            if end is not None and end.kind == "elementwise" and end.id not in stops:
                yield Expression(expression.end, stops | {end.id}, through_sums), end in around


def is_square(node: Node) -> bool:
    product = node.op == "mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    return node.op in ops.POWERS or product


def _of_differences(total: Node, stops: frozenset[int], through_sums: bool) -> Iterator[Expression]:
    """The expression of a total that has too many leaves, with a squared difference as one leaf.

    A mean that many residual steps add up, as an integrator of a differential equation does, has a leaf for each.
    """
    seen, todo = {total.id}, deque([total])
    while todo and len(seen) < _NEAR:
        node = todo.popleft()
        if is_square(node):
            for end in differences_in(node.inputs[0]):
                expression = Expression(Spot(total), stops | {end.id}, through_sums, most=MOST_LEAVES)
                if end.id not in stops and 1 < len(expression.leaves) <= MOST_LEAVES:
                    yield expression
            continue
        if node.kind in ("elementwise", "shape") or (through_sums and node.kind == "reduction"):
            for source in node.inputs:
                if source.id not in seen and source.params:
                    seen.add(source.id)
                    todo.append(source)


def differences_in(node: Node) -> Iterator[Node]:
    """The sums that are factors of what is squared: `x - y` of `2 * (x - y) / sigma`."""
    todo = [node]
    while todo:
        factor = settle(Spot(todo.pop())).node
        if factor.kind == "elementwise" and factor.op in ops.MONOMIAL:
            todo += [n for n in factor.inputs if n.params]
        elif factor.kind == "elementwise" and factor.op in ops.SUMMING:
            yield factor


_NEAR = 40
"""How many values behind a total are looked at for a square: a density or a KL has fewer operations outside of it."""


def totals(graph: Graph, through_sums: bool) -> Iterator[Node]:
    """The nodes at which a density or a KL may be complete."""
    for node in graph.nodes:
        added = node.kind == "elementwise" and node.op in ops.COMPLETING and node.params
        if added and (not through_sums or any(_has_sum(n, 4) for n in node.inputs)):
            yield node


def _has_sum(node: Node, depth: int) -> bool:
    if node.kind == "reduction":
        return True
    return depth > 0 and node.kind in ("elementwise", "shape") and any(_has_sum(n, depth - 1) for n in node.inputs)


def _probe(
    expression: Expression, total: Node, seen: Set[tuple[SpotKey, Side]], unmatched: list[Spot]
) -> Iterator[GaussianTerm]:
    probe = Probe(expression)
    quadratic = {key: curvature for key in expression.leaves if (curvature := probe.curvature(key)) is not None}
    if not quadratic:
        return
    others = [key for key in expression.leaves if key not in quadratic and expression.leaves[key].node.params]
    for key in others:
        if (key, "p") in seen:
            continue
        found = probe.as_p(key, list(quadratic))
        if found is not None:
            node, suffix, means, _ = found
            yield GaussianTerm(expression.leaves[key], "p", node, suffix, means, total)
        elif key in probe.unmatched:
            unmatched.append(expression.leaves[key])
    for key in others:
        if (key, "q") in seen:
            continue
        q = probe.as_q(key, list(quadratic))
        if q is not None:
            node, suffix, means = q
            prior = probe.prior_of(key, (node, suffix), list(quadratic))
            yield GaussianTerm(expression.leaves[key], "q", node, suffix, means, total, prior)


class Probe:
    """Values of one expression around a few settings of its leaves."""

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.unmatched: set[SpotKey] = set()
        """Leaves that change the expression as σ_p does, where `as_p` found no spot with its values."""
        keys = list(expression.leaves)
        generator = torch.Generator().manual_seed(len(keys))
        self.base = {key: 0.2 + 0.6 * torch.rand((), dtype=torch.float64, generator=generator) for key in keys}
        self._at_base: dict[SpotKey, Tensor] | None = None
        # of both signs, to tell v from |v|, and without the zero at which a log σ of |v| is infinite
        self.grid = torch.linspace(-1.48, 1.52, _POINTS, dtype=torch.float64)

    def values(self, changes: dict[SpotKey, Tensor]) -> Tensor:
        return self.expression.value_in(self.done(changes))

    def done(self, changes: dict[SpotKey, Tensor]) -> dict[SpotKey, Tensor]:
        """The values of all spots, with some leaves changed."""
        if self._at_base is None:
            self._at_base = self.expression.evaluate(self.base)
        return self.expression.evaluate(changes, self._at_base)

    def curvature(self, key: SpotKey, changes: dict[SpotKey, Tensor] | None = None) -> Tensor | None:
        """A, if ℓ is a + b m + A/2 m² in the leaf; None if it is anything else, or only linear."""
        at = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
        if changes:
            size = next(iter(changes.values())).numel()
            wide = {k: v[:, None].expand(size, 5) for k, v in changes.items()}
            values = self.values({**wide, key: at.expand(size, 5)})
            values = values.expand(size, 5)
        else:
            values = self.values({key: at}).expand(5)[None]
        second = values[:, :-2] - 2 * values[:, 1:-1] + values[:, 2:]
        scale = second.abs().amax(dim=1, keepdim=True)
        if not bool(torch.isfinite(values).all()) or bool((scale <= _NO_CURVATURE * (1 + values.abs().amax())).any()):
            return None
        if bool(((second - second[:, :1]).abs() > _NOT_QUADRATIC * (scale + 1e-3 * values.abs().amax())).any()):
            return None
        return second[:, 1] if changes else second[0, 1]

    def at_minimum(self, mean: SpotKey, changes: dict[SpotKey, Tensor], curvature: Tensor) -> Tensor:
        """ℓ where its quadratic part vanishes."""
        step = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        size = next(iter(changes.values())).numel()
        wide = {k: v[:, None].expand(size, 3) for k, v in changes.items()}
        low, middle, high = self.values({**wide, mean: step.expand(size, 3)}).expand(size, 3).unbind(1)
        slope = (high - low) / 2
        return middle - 0.5 * slope * slope / curvature

    def as_p(
        self, key: SpotKey, quadratic: list[SpotKey]
    ) -> tuple[Spot, tuple[Step, ...], tuple[Spot, ...], float] | None:
        for mean in quadratic:
            for grid in (self.grid, self.grid + 2.0):
                curvature = self.curvature(mean, {key: grid})
                if curvature is None or not bool((curvature * curvature[0] > 0).all()):
                    continue
                log_a = curvature.abs().log()
                if float(log_a.max() - log_a.min()) < _SAME_LOG_CURVATURE:
                    continue
                for rest in self._rests(key, mean, grid, curvature, log_a):
                    factor = slope_if_linear(log_a, rest)
                    if factor is None or factor * float(curvature[0]) >= 0:
                        continue
                    c = -2 * factor
                    sigma = (c / curvature).sqrt()
                    shares = list(self._correlations(mean, quadratic, {key: grid}))
                    if any(is_flat(sigma / (1 - share).sqrt()) for share in shares):
                        continue  # it moves ρ alone: σ √(1 − ρ²) follows, and σ does not
                    # of correlated values σ itself, or what it is where the other one is known; a spot that is read of
                    # this key alone goes before an element of a covariance's inverse that has the same values
                    for alone in (True, False) if shares else (False,):
                        for share in (*shares, torch.zeros_like(sigma)):
                            error = functools.partial(distance, sigma=sigma / (1 - share).sqrt())
                            match = self.match(key, grid, frozenset(quadratic), error, alone=alone)
                            if match is not None:
                                means = tuple(self.expression.leaves[m] for m in quadratic if self._moves(m, mean, key))
                                return (*match, means, c)
                    self.unmatched.add(key)
        return None

    def _correlations(
        self, mean: SpotKey, quadratic: Sequence[SpotKey], changes: dict[SpotKey, Tensor]
    ) -> Iterator[Tensor]:
        """ρ² of a mean with each other one in which ℓ is quadratic, where they are correlated, over the changes.

        Of two correlated values ℓ is (A x² + 2 R x y + B y²) / 2 with ρ² = R² / A B, and the curvature A in one mean is
        1 / σ² (1 − ρ²): of the σ that it has if the other one is known. A floor of one σ may move ρ with it.
        """
        for other in quadratic:
            share = None if other == mean else self.correlation(mean, other, changes)
            if share is not None and is_correlation(share):
                yield share

    def correlation(self, one: SpotKey, other: SpotKey, changes: dict[SpotKey, Tensor] | None = None) -> Tensor | None:
        """ρ² of two leaves in which ℓ is quadratic, at each of the changes; None if it is not. Of one difference,
        (x − y)², it is 1."""
        changes = changes or {one: self.base[one][None]}
        rest = {key: values for key, values in changes.items() if key not in (one, other)}
        size = next(iter(changes.values())).numel()
        a, b = (self.curvature(key, rest) for key in (one, other))
        if a is None or b is None or not bool((a * b > 0).all()):
            return None
        at = torch.tensor([0.0, 1.0], dtype=torch.float64)
        wide = {key: values[:, None, None].expand(size, 2, 2) for key, values in rest.items()}
        both = {one: at[:, None].expand(size, 2, 2), other: at.expand(size, 2, 2)}
        low, left, right, high = self.values({**wide, **both}).expand(size, 2, 2).flatten(1).unbind(1)
        return (low - left - right + high) ** 2 / (a * b)

    def changes_curvature(self, key: SpotKey, mean: SpotKey) -> bool:
        """Whether a raw value changes the curvature in a mean."""
        curvature = self.curvature(mean, {key: self.grid[::4]})
        if curvature is None:
            return False
        log_a = curvature.abs().log()
        return float(log_a.max() - log_a.min()) > _SAME_LOG_CURVATURE

    def _rests(self, key: SpotKey, mean: SpotKey, grid: Tensor, curvature: Tensor, log_a: Tensor) -> Iterator[Tensor]:
        """ℓ at Δ = 0, and the same less the part σ_q² A/2 of a KL, whose σ_q² is fitted."""
        rest = self.at_minimum(mean, {key: grid}, curvature)
        yield rest
        if not bool(torch.isfinite(rest).all()):
            return
        design = torch.stack([torch.ones_like(log_a), log_a, curvature], dim=1)
        fit = fitted(design, rest)
        if fit is not None:
            yield rest - fit[2] * curvature

    def as_q(self, key: SpotKey, quadratic: list[SpotKey]) -> tuple[Spot, tuple[Step, ...], tuple[Spot, ...]] | None:
        grid = self.grid
        for mean in quadratic:
            shifts = [0.0, 2.0]
            for shift in shifts:
                curvature = self.curvature(mean, {key: grid + shift})
                if curvature is None or _varies(curvature / curvature[0].abs()):
                    continue
                a = float(curvature[0])
                rest = self.values({key: grid + shift}).expand(_POINTS)
                cancelled: list[float] = []
                flat = _FLAT_FAR_AWAY if shift in _OF_NARROW_PRIORS else _FLAT_SIGMA
                error = functools.partial(_q_distance, rest=rest, curvature=a, cancelled=cancelled, flat=flat)
                match = self.match(key, grid + shift, frozenset(quadratic), error)
                if match is None and cancelled and shift == 0.0:
                    shifts += _OF_NARROW_PRIORS
                if match is None or not self._is_wholly_sigma(key, mean, match):
                    continue
                if self._weighs_alike(key, grid + shift, mean, match):
                    means = tuple(self.expression.leaves[m] for m in quadratic)
                    return (*match, means)
        return None

    def _is_wholly_sigma(self, key: SpotKey, mean: SpotKey, match: tuple[Spot, tuple[Step, ...]]) -> bool:
        """Whether all else that the spot is computed of takes part in ℓ as it does in σ_q.

        Beside the KL of another head, a density whose error e is no leaf of its own has the same form in r: e / eʳ + r
        is −2 log σ + σ² of σ² = e / eʳ. But it has no logarithm of e.
        """
        for other in self.expression.depends[match[0].key] - {key}:
            ends = torch.stack([self.base[other], self.base[other] + 0.5])
            curvature = self.curvature(mean, {other: ends})
            if curvature is None or _varies(curvature / curvature[0].abs()):
                continue  # it is a part of σ_p or of a mean, too
            size = (_POINTS, 2)
            changes = {key: self.grid[:, None].expand(size), other: ends.expand(size)}
            sigma = self.done(changes)[match[0].key].expand(size)
            for step in match[1]:
                sigma = step.forward(sigma)
            rest = self.values(changes).expand(size)
            fit = fitted(torch.stack([torch.ones(_POINTS), sigma[:, 0].log(), sigma[:, 0] ** 2], dim=1), rest[:, 0])
            if fit is None or not bool(torch.isfinite(sigma).all()):
                continue
            expected = fit[0] + fit[1] * sigma.log() + fit[2] * sigma**2
            if float((expected - rest).abs().max()) > _NOT_WHOLLY * float((rest[:, 1] - rest[:, 0]).abs().max() + 1e-9):
                return False
        return True

    def _weighs_alike(self, key: SpotKey, grid: Tensor, mean: SpotKey, match: tuple[Spot, tuple[Step, ...]]) -> bool:
        """Whether the factor c of −c log σ is a constant, or belongs to the whole KL, as a weight β does.

        A Poisson loss, eʳ − k r, has the form of a KL's part in σ_q too, with the count k as c. So c, and c over the
        curvature in the mean, are measured again while every other leaf, and what is made of the data, is changed.
        """
        weights = [self._weights({key: grid}, mean, match)]
        for other in self.expression.leaves.keys() - {key, mean}:
            weights.append(self._weights({key: grid, other: self.base[other] + 2.0}, mean, match))
        for node in self._data():
            value, node.value = node.value, node.value + 2.0
            self._at_base = None
            weights.append(self._weights({key: grid}, mean, match))
            node.value, self._at_base = value, None
        known = [w for w in weights if w is not None]
        return all(
            any(math.isclose(a, b, rel_tol=_SAME_WEIGHT) for a, b in zip(w, known[0], strict=True)) for w in known
        )

    def _weights(
        self, changes: dict[SpotKey, Tensor], mean: SpotKey, match: tuple[Spot, tuple[Step, ...]]
    ) -> tuple[float, float] | None:
        """c, and c over the curvature in the mean."""
        size = (_POINTS,)
        curvature = self.curvature(mean, {k: v.expand(size) for k, v in changes.items()})
        sigma = self.done(changes)[match[0].key].expand(size)
        for step in match[1]:
            sigma = step.forward(sigma)
        design = torch.stack([torch.ones_like(sigma), sigma.log(), sigma * sigma], dim=1)
        fit = fitted(design, self.values(changes).expand(size))
        if curvature is None or fit is None or not bool(torch.isfinite(fit).all()):
            return None
        return float(fit[1]), float(fit[1] / curvature[0])

    def prior_of(
        self, key: SpotKey, match: tuple[Spot, tuple[Step, ...]], quadratic: Sequence[SpotKey]
    ) -> tuple[float, float] | None:
        """Mean and σ of the Normal with which a KL compares that of this σ_q; None where they are no two numbers.

        In the mean m of q the KL is a parabola, least where m is the prior's, and c over its curvature is σ_p². Both
        are asked for again with every other leaf changed: a prior that is computed of anything moves with it.
        """
        if len(quadratic) != 1 or not all(n.even for n in self._constants()):
            return None
        (mean,) = quadratic
        found = []
        for other in (None, *(self.expression.leaves.keys() - {key, mean})):
            changes = {} if other is None else {other: self.base[other] + 2.0}
            weights = self._weights({key: self.grid, **changes}, mean, match)
            around = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
            wide = {k: v.expand(3) for k, v in changes.items()}
            low, middle, high = self.values({**wide, mean: around}).expand(3).tolist()
            curvature = high - 2 * middle + low
            if weights is None or weights[1] >= 0 or not curvature or not math.isfinite(curvature):
                return None
            found.append(((low - high) / (2 * curvature), math.sqrt(-weights[1])))
        first = found[0]
        alike = all(abs(m - first[0]) + abs(s - first[1]) < _SAME_WEIGHT * first[1] for m, s in found)
        least = 0.0 if abs(first[0]) < _SAME_WEIGHT * first[1] else first[0]
        return (_rounded(least), _rounded(first[1])) if alike else None

    def _constants(self) -> list[Node]:
        """What is read of neither a network nor noise, of more than one element."""
        read = (settle(Spot(n)).node for spot in self.expression.order for n in spot.node.inputs)
        return [n for n in read if not is_variable(n) and math.prod(n.shape) > 1]

    def _data(self) -> list[Node]:
        """What is computed of the data alone."""
        read = (n for spot in self.expression.order for n in spot.node.inputs)
        settled = (settle(Spot(n)).node for n in read)
        return list(
            {n.id: n for n in settled if n.data and not n.params and not n.noise and n.kind != "input"}.values()
        )

    def _moves(self, other: SpotKey, mean: SpotKey, raw: SpotKey) -> bool:
        """Whether another leaf's curvature changes with the raw value, too."""
        curvature = self.curvature(other, {raw: self.grid})
        return other == mean or (curvature is not None and _varies(curvature))

    def match(
        self,
        key: SpotKey,
        grid: Tensor,
        means: frozenset[SpotKey],
        error: Callable[[Tensor], float],
        among: Set[SpotKey] | None = None,
        alone: bool = False,
    ) -> tuple[Spot, tuple[Step, ...]] | None:
        """The spot of the expression that has the values of σ over the grid, and the suffix with which it has them.

        Hosts keep σ, or its square, log or inverse; a spot that is σ without any suffix is preferred. A spot to which
        data are added is taken where no other fits: of `exp(log_var - prior_log_var[label])`, where the prior's values
        happen to be zero, σ is exp(log_var / 2). So is a sum along the last dimension, such as `log_var.mean()`.

        Args:
            error: how far values over the grid are from σ, relative to it; infinite where they are nothing like it.
            among: the spots that may be it, of which the last one is taken.
            alone: whether only what is computed of this leaf alone may be it.
        """
        depends = self.expression.depends
        done = self.done({key: grid})
        # a scale is computed of no mean; (x − m)² / σ² alone would pass for the σ² of another term
        spots = [s for s in self.expression.order if key in depends[s.key] and not depends[s.key] & means]
        spots = [s for s in (*spots, self.expression.leaves[key]) if done[s.key].numel() == _POINTS]
        if alone:
            spots = [s for s in spots if depends[s.key] == {key}]
        if among is not None:
            spots = [spot for spot in reversed(spots) if spot.key in among]
        nearly = None
        mixed = self._mixed(key)
        apart = [spot for spot in spots if spot.key not in mixed]
        for suffix, spots in [(s, apart) for s in _SUFFIXES] + [
            (s, spots) for s in _SUFFIXES if len(apart) < len(spots)
        ]:
            for spot in spots:
                value = done[spot.key]
                for step in suffix:
                    value = step.forward(value)
                if not (float(value.min()) > 0 and math.isfinite(float(value.max()))):  # a NaN is neither
                    continue
                distance = error(value)
                if distance < _TOLERANCES[0]:
                    return self._behind_limits(spot, done), suffix
                if distance < _TOLERANCES[1] and nearly is None:
                    nearly = spot, suffix
        return None if nearly is None else (self._behind_limits(nearly[0], done), nearly[1])

    def _mixed(self, key: SpotKey) -> set[SpotKey]:
        """The spots to which data were added on the way from a leaf, or of which elements were added up, where the leaf
        is read as it is, too. What a host sums before all else, as over a set, is its raw value."""
        found = set[SpotKey]()
        for spot in self.expression.order:
            added = spot.node.op in ops.ADDING and any(adds_data(n) for n in spot.node.inputs)
            follows = any(operand.key in found for operand in operands(self.expression, spot))
            summed = spot.node.kind == "reduction" and key in self.expression.depends[spot.key]
            if added or follows or (summed and self._is_passed_by(key, spot)):
                found.add(spot.key)
        return found

    def _is_passed_by(self, key: SpotKey, spot: Spot) -> bool:
        """Whether a leaf comes to the end by other ways than through a spot."""
        reached = {key}
        for other in self.expression.order:
            if other is not spot and any(n.key in reached for n in operands(self.expression, other)):
                reached.add(other.key)
        return self.expression.order[-1].key in reached

    def _behind_limits(self, spot: Spot, done: Mapping[SpotKey, Tensor]) -> Spot:
        """The spot behind the clamps that do nothing at the values that were tried, as `.clamp(min=-20)` does."""
        for later in self.expression.order:
            read = [operand.key for operand in operands(self.expression, later)]
            limits = later.node.op in ops.LIMITING and not later.node.inplace
            if limits and spot.key in read and torch.equal(done[later.key].double(), done[spot.key].double()):
                spot = later
        return spot


def is_correlation(share: Tensor) -> bool:
    """Whether values of ρ² are of two values that are correlated, and not one value."""
    return bool(((share > LEAST_CORRELATION) & (share < 1 - LEAST_CORRELATION)).all())


def is_flat(sigma: Tensor) -> bool:
    """Whether a σ is one number wherever it was looked at."""
    log_sigma = sigma.log()
    return float(log_sigma.max() - log_sigma.min()) < _SAME_LOG_CURVATURE


def adds_data(operand: Node) -> bool:
    """Whether an operand is data, of several elements, or made of data alone, be it by comparing them."""
    of_data = operand.data or operand.decided
    return math.prod(operand.shape) > 1 and of_data and not operand.params and not operand.mask


def _varies(curvature: Tensor) -> bool:
    return float((curvature - curvature[0]).abs().max()) > _SAME_CURVATURE


def fitted(design: Tensor, values: Tensor) -> Tensor | None:
    """Least squares, the columns brought to one size; None where a column is not finite or all zero."""
    norm = design.abs().amax(dim=0)
    if not bool(torch.isfinite(norm).all()) or not bool((norm > 0).all()):
        return None
    solution: Tensor = torch.linalg.lstsq(design / norm, values[:, None], driver="gelsd").solution
    return solution[:, 0] / norm


def slope_if_linear(x: Tensor, y: Tensor) -> float | None:
    """The slope of y over x, if y is a straight line and not a flat one."""
    centred = x - x.mean()
    slope = float((centred * (y - y.mean())).sum() / (centred * centred).sum())
    residual = (y - y.mean() - slope * centred).abs().max()
    spread = float(y.max() - y.min())
    return slope if spread > 1e-9 and float(residual) < _STRAIGHT * spread else None


def _rounded(value: float) -> float:
    """A number of a host's, 0 or 1 mostly, without what a fit makes of it."""
    return float(f"{value:.7g}")


def distance(value: Tensor, *, sigma: Tensor) -> float:
    """How far values are from σ, relative to it; a difference of 1e-8 is rounding."""
    return float((((value - sigma).abs() - _ROUNDING) / sigma).max())


_ROUNDING = 1e-8


def _q_distance(sigma: Tensor, *, rest: Tensor, curvature: float, cancelled: list[float], flat: float) -> float:
    """How far the rest is from −c log σ + A/2 σ² + constant, c of A's sign, relative to its range; infinite where the
    fitted factors are not such.

    Args:
        cancelled: gets the shares of logarithms that σ² drowns, at these values of the raw value.
        flat: the least range of log σ over the values; below it, σ counts as a constant.
    """
    log_sigma = sigma.log()
    spread = float(rest.max() - rest.min())
    if not spread >= _FLAT_REST or not math.isfinite(spread) or float(log_sigma.max() - log_sigma.min()) < flat:
        return math.inf
    design = torch.stack([torch.ones_like(sigma), log_sigma, sigma * sigma], dim=1)
    fit = fitted(design, rest)
    if fit is None or not math.isclose(float(fit[2]), 0.5 * curvature, rel_tol=_FITTED_CURVATURE):
        return math.inf
    share = abs(float(fit[1])) * float(log_sigma.max() - log_sigma.min())
    if float(fit[1]) * curvature >= 0:
        return math.inf
    if spread >= _MOST_CANCELLED * share:
        cancelled.append(share / spread)
        return math.inf
    if flat == _FLAT_FAR_AWAY and abs(float(fit[2])) * float((sigma * sigma).max()) < _LEAST_FAR_AWAY * share:
        return math.inf
    return float((design @ fit - rest).abs().max()) / spread


_OF_NARROW_PRIORS = (-4.0, -7.0, -10.0, -14.0)
"""Where else raw values are tried if σ_q² drowns log σ_q: a prior of a σ of 10⁻³ makes it 10⁶ times σ_q². Around there
lie the logs of such σ, and of their squares."""
_FLAT_REST = 1e-12
_FLAT_SIGMA = 1e-9
_FLAT_FAR_AWAY = 0.1
"""Far from zero a softplus is flat, and a part of its KL, `exp(s) + m² - 1` without its `- s`, is as straight a line
there as another σ's whole KL: what is fitted says nothing of σ."""
_LEAST_FAR_AWAY = 0.01
"""Of the part of log σ, what σ² has at least far from zero: of a narrow prior 0.3 or more where it is looked at first.
A critic's log(1 + exp(v)) - v is -log σ² + σ² there, but for its next power."""
