"""A variance in which several are merged as a product of Normals merges them, in whatever way it is written.

The variance of a product of two Normals is 1 / (1/a + 1/b), which hosts compute of log variances, or as a filter does:

    log_var = log_a + log_b - torch.log(log_a.exp() + log_b.exp())      # a label's prior and an encoder's Normal
    gain = a / (a + b)                                                  # Kalman's
    var = (1 - gain) * a

A sum of log variances is a residual scale, and what looks like one here is none: each of the merged Normals has a σ of
its own. They are known by values: the precision is a sum of what each raw value makes of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, SpotKey
from vdvae_patch.scanning.rules.stages import Merged, merges

_MOST = 6
"""Learned values that are looked at: each pair of them is evaluated. Merged are two Normals, or a handful."""
_GRID = torch.tensor([-0.9, -0.4, 0.3, 0.8, 1.4], dtype=torch.float64)
_SAME = 1e-6
"""What may be left of a fit, of the precision: rounding leaves 1e-13, a floor of 1e-8 that the host adds to the merged
variance 1e-8. A sum of variances, or a residual scale, differs by 0.1."""

_FORMS: tuple[tuple[Callable[[Tensor], Tensor], tuple[Step, ...]], ...] = (
    (lambda v: (-v).exp(), (Step("mul", (0.5,)), Step("exp"))),
    (lambda v: (-2 * v).exp(), (Step("exp"),)),
    (lambda v: v.exp(), (Step("mul", (-0.5,)), Step("exp"))),
    (lambda v: v.reciprocal(), (Step("pow", (0.5,)),)),
    (lambda v: v.square().reciprocal(), ()),
    (lambda v: v, (Step("pow", (-0.5,)),)),
)
"""What a value adds to a precision, and the steps from it to σ: a log variance, log σ, a log precision, a variance, σ,
a precision."""


@merges.rule()
def merged_variances(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a variance apart whose inverse is a sum of what several learned values add to it."""
    if chain.end not in ("sum", "product", "several"):
        return None
    expression = Expression(chain.begin)
    learned = [key for key, leaf in expression.leaves.items() if leaf.node.params]
    if not 1 < len(learned) <= _MOST or _is_soft_bound(expression, learned):
        return None

    def precision(values: Mapping[SpotKey, Tensor]) -> tuple[Tensor, Mapping[SpotKey, Tensor]]:
        others = {
            key: torch.tensor(1.0 if leaf.node.value is None else leaf.node.value, dtype=torch.float64)
            for key, leaf in expression.leaves.items()
        }
        done = expression.evaluate({**others, **dict.fromkeys(learned, _GRID[2]), **values})
        sigma = expression.value_in(done)
        for step in (*chain.steps, *suffix):
            sigma = step.forward(sigma)
        return sigma.double() ** -2, done

    for one, other in itertools.combinations(learned, 2):
        table = precision({one: _GRID[:, None], other: _GRID[None]})[0]
        if table.shape != (len(_GRID), len(_GRID)) or not bool((table.isfinite() & (table > 0)).all()):
            return None
        apart = table - table[:1] - table[:, :1] + table[0, 0]
        if float(apart.abs().max()) > _SAME * float(table.max()):
            return None
    ways = []
    for key in learned:
        total, done = precision({key: _GRID})
        spots = _ways_through(expression, chain.begin, key)
        ways.append({steps: spot for spot in reversed(spots) if (steps := _steps(total, spot, done)) is not None})
    for steps in ways[0]:  # one suffix is for all
        if all(steps in own for own in ways):
            return Merged([own[steps] for own in ways], steps)
    return None


def _is_soft_bound(expression: Expression, learned: Sequence[SpotKey]) -> bool:
    """Whether a parameter bounds what a network emits, `high - F.softplus(high - v)`: by value that is the log variance
    of a product, but the parameter is the σ of nothing."""
    if not any(expression.leaves[key].node.kind == "parameter" for key in learned):
        return False
    both = (s for s in expression.order if s.node.op == "softplus")
    return any(len(expression.depends.get(s.key, frozenset()) & {*learned}) > 1 for s in both)


def _ways_through(expression: Expression, end: Spot, key: SpotKey) -> list[Spot]:
    """The values by which alone a leaf has a part in an expression, the last one first; the leaf itself comes last."""
    inner = [s for s in expression.order if expression.depends.get(s.key) == frozenset({key}) and s.key != end.key]
    alone = [s for s in inner if key not in Expression(end, frozenset({s.node.id})).leaves]
    return [*reversed(alone), expression.leaves[key]]


def _steps(total: Tensor, spot: Spot, done: Mapping[SpotKey, Tensor]) -> tuple[Step, ...] | None:
    """The steps from a value to its σ, by what it adds to the precision; None if that is of no form that is known."""
    value = done[spot.key].expand(total.shape)
    added = total - total[0]
    for form, steps in _FORMS:
        shape = form(value)
        own = shape - shape[0]
        if bool(shape.isfinite().all()) and float((own - added).abs().max()) <= _SAME * float(total.abs().max()):
            return steps if bool((added[1:] != 0).any()) else None
    return None
