"""What is data, and what is compared with data."""

from __future__ import annotations

from collections.abc import Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, operands
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.evidence.gaussian import GaussianTerm


def is_data(node: Node) -> bool:
    """Whether a value is of the data, and no network and no noise had a part in it."""
    return node.data and not node.params and not node.noise


def is_of_data(term: GaussianTerm) -> bool:
    """Whether a term compares one of its means with data: `x - mean`, or with what is made of data alone."""
    return compares_data(term.total, term.means)


def compares_data(total: Node, leaves: Sequence[Spot]) -> bool:
    """Whether what is complete at a node compares one of some leaves with data."""
    means = {mean.key for mean in leaves}
    data = {mean.key for mean in leaves if is_data(mean.node)}
    if data and data == means:
        return True  # of `(action - torch.tanh(mean)) ** 2`, which is quadratic in the action alone
    expression = Expression(Spot(total), frozenset(mean.node.id for mean in leaves), through_sums=True)
    for spot in expression.order:
        if spot.node.op not in ops.SUMMING:
            continue
        sides = list(operands(expression, spot))
        own = [side for side in sides if expression.depends.get(side.key, frozenset()) & (means - data)]
        if own and any(is_data(side.node) or side.key in data for side in sides if side not in own):
            return True
    return False
