"""Does a loss couple the latents of different rows? A KL does not; what a statistic of the batch is made of does, as an
MMD, a total correlation, or the covariance of the means."""

from __future__ import annotations

import torch
from torch import Tensor

from vdvae_patch.scanning.graph import Node, ancestors
from vdvae_patch.scanning.replay import Changes, Tail

_STEP = 1e-2
_SAME = 1e-6
"""Of a gradient, relative to its largest: rounding is 1e-12."""


def couples_rows(tail: Tail, comparison: Node, rows: int) -> bool:
    """Whether the gradient for some rows of a network's output changes when other rows of it do.

    Args:
        comparison: of outputs and data, whose errors are held, and with them what is computed of the reconstruction.
        rows: how many the batch has.
    """
    before = ancestors([comparison])
    held = frozenset({comparison.id, *(copy for copy, first in tail.same.items() if first == comparison.id)})
    for node in tail.order:
        if node.id not in tail.leaves or node.kind == "parameter" or not node.params or node.shape[:1] != (rows,):
            continue
        if rows < 2 or not tail.base[node.id].is_floating_point():
            continue
        if node.id in before and _is_arithmetic(tail, node, comparison):
            continue
        if _moves_others(tail, node, held):
            return True
    return False


def _is_arithmetic(tail: Tail, node: Node, comparison: Node) -> bool:
    """Whether the comparison is computed of a node without a layer in between."""
    reached = {node.id}
    for other in tail.order:
        if other.id not in tail.leaves and any(n.id in reached for n in other.inputs):
            reached.add(other.id)
    return comparison.id in reached


def _moves_others(tail: Tail, node: Node, held: frozenset[int]) -> bool:
    even = torch.arange(node.shape[0]) % 2 == 0

    def change(value: Tensor) -> Tensor:
        return value + _STEP * even.view(-1, *[1] * (value.dim() - 1)).to(value)

    changes: Changes = {node.id: change}
    gradient = tail.adjoints([node], held=held)[node.id]
    moved = tail.adjoints([node], changes, held)[node.id]
    size = _SAME * float(gradient.abs().max())
    return size > 0 and bool(((moved - gradient)[~even].abs() > size).any())
