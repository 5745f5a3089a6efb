"""Padding masks that come with the batch: inputs, but no data.

A text or a piece of speech is shorter than the longest of its batch, and what networks put out behind its end is set to
zero:

    mean, log_sigma = (self.net(x) * mask).chunk(2, 1)

As a leaf of a density the mask would be one more unknown, which scales the mean and is no mean. It stands for itself
with its largest element, as a mask that the host computes does.
"""

from __future__ import annotations

import math

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph, Node


def settle_masks(graph: Graph) -> None:
    """Of the inputs of zeros and ones, leave those marked that are used as masks."""
    for node in graph.nodes:
        node.mask = node.mask and _is_used_as_mask(graph, node)


def _is_used_as_mask(graph: Graph, node: Node) -> bool:
    """Whether it multiplies or chooses among what parameters reach, and is neither added to it nor compared with it.

    Binary data may gate a network, too; but a network reads them, and they have the size of what they multiply.
    """
    multiplies = read = repeated = False
    for user, operand in _readers(graph, node):
        if not user.params:
            continue
        if user.op in ops.MULTIPLYING or user.op in ops.CHOOSING:
            multiplies = True
            repeated |= math.prod(user.shape) > math.prod(operand.shape)
        elif user.op in ops.SUMMING:
            return False
        elif user.kind == "opaque":
            read = True
    return multiplies and (repeated or not read)


def _readers(graph: Graph, node: Node) -> list[tuple[Node, Node]]:
    """What reads a value, moved around and joined to other data or not, and what it reads of it."""
    todo, seen, found = [node], {node.id}, list[tuple[Node, Node]]()
    while todo:
        current = todo.pop()
        for user in graph.consumers.get(current.id, ()):
            if user.kind == "shape" and not user.params and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
            else:
                found.append((user, current))
    return found
