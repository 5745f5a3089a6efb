"""Does a loss couple the latents of different rows? A KL does not; what a statistic of the batch is made of does, as an
MMD, a total correlation, or the covariance of the means."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic.graph import Node, ancestors
from vdvae_patch.scanning.bound.replay import Changes, Tail

_STEP = 1e-2
_SAME = 1e-6
"""Of a gradient, relative to its largest: rounding is 1e-12."""


def couples_rows(tail: Tail, comparison: Node, rows: int) -> bool:
    """Whether the gradient for some rows of a network's output changes when other rows of it do.

    Args:
        comparison: of outputs and data, whose errors are held, and with them what is computed of the reconstruction.
        rows: how many the batch has.
    """
    before, made_of = ancestors([comparison]), _arithmetic(tail, comparison)
    held = frozenset({comparison.id, *(copy for copy, first in tail.same.items() if first == comparison.id)})
    nodes = [
        node
        for node in tail.order
        if node.id in tail.leaves and node.kind != "parameter" and node.params and node.shape[:1] == (rows,)
        if tail.base[node.id].is_floating_point() and not (node.id in before and node.id in made_of)
    ]
    return rows > 1 and _move_others(tail, nodes, held)


def _arithmetic(tail: Tail, comparison: Node) -> set[int]:
    """What the comparison is computed of without a layer in between."""
    found = {comparison.id}
    for node in reversed(tail.order):
        if node.id in found and node.id not in tail.leaves:
            found.update(n.id for n in node.inputs)
    return found


def _move_others(tail: Tail, nodes: list[Node], held: frozenset[int]) -> bool:
    # all at once, each by a step of its own, so that what is made of a difference of two moves, too
    changes: Changes = {
        node.id: partial(_moved, step=_STEP * (1 + place * math.sqrt(2) % 1)) for place, node in enumerate(nodes)
    }
    gradients, moved = tail.adjoints(nodes, held=held), tail.adjoints(nodes, changes, held)
    for number, gradient in gradients.items():
        size = _SAME * float(gradient.abs().max()) if gradient.numel() else 0.0
        if size > 0 and bool(((moved[number] - gradient)[1::2].abs() > size).any()):
            return True
    return False


def _moved(value: Tensor, step: float) -> Tensor:
    """Every other row moved by a step."""
    even = torch.arange(value.shape[0]) % 2 == 0
    return value + step * even.view(-1, *[1] * (value.dim() - 1)).to(value)
