"""Sums and means, over the elements of a set or over steps of time, of what a layer puts out for each of them.

    h = (self.head(x) * mask).sum(1) / mask.sum(1)     # a masked mean
    v = (scores.softmax(1) * self.log_var(x)).sum(1)   # attention

What is pooled so is an encoder's output, and a raw value like any other. It is told from a statistic, such as a mean of
squared residuals, by what is added up: an element of a layer's output, times weights.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node


def settle_pools(graph: Graph) -> None:
    """Make opaque the quotient of such a sum and of a number of elements that depends on the data.

    It is the raw value: of the sum itself, whose rows are of different lengths, no one scale would be right for all.
    Not so of a loss that is averaged over what a mask keeps, of which no function makes a scale.
    """
    for node in graph.nodes:
        if node.op not in ops.FACTORS or node.kind != "elementwise" or len(node.inputs) != 2 or len(node.shape) < 2:
            continue
        total, count = node.inputs if node.op == "div" or node.inputs[0].params else node.inputs[::-1]
        if not total.params or count.noise:
            continue
        weight = _added_up(count)
        if weight is None and (count.params or not (count.data or not count.even)):
            continue  # one number divides all of them alike
        if is_pool(settle(Spot(total)).node, weight) and _is_bent(graph, node):
            node.kind = "opaque"


def _added_up(count: Node) -> Node | None:
    """What a sum of learned weights is of, `weights.sum(1) + 1e-6`; None for any other value."""
    total = settle(Spot(count)).node
    while total.op in {"add", *ops.HELD} and total.params:
        total = settle(Spot(next(n for n in total.inputs if n.params))).node
    return settle(Spot(total.inputs[0])).node if total.params and total.kind == "reduction" else None


def is_pool(node: Node, weight: Node | None = None) -> bool:
    """Whether a node adds up elements of a layer's output, each times weights that no residual and no square has.

    The weights are masks, shares such as a softmax, or gates. A readout of a graph adds them up by their indices.

    Args:
        weight: one that is known, since the host divides by its sum.
    """
    if node.op in ops.ADDING_BY_INDEX:
        return any(_is_weighted(Spot(n), weight) for n in node.inputs if n.params)
    return node.kind == "reduction" and bool(node.inputs) and _is_weighted(Spot(node.inputs[0]), weight)


def _is_weighted(end: Spot, weight: Node | None, piece: bool = False) -> bool:
    """Whether a value is a product of one layer's output and of weights, or several such side by side.

    Args:
        piece: whether it is one of these; what a loop joins step by step is not looked into.
    """
    todo, values = [end], 0
    while todo and values < 2:
        node = settle(todo.pop()).node
        if not node.params:
            if node.kind == "input" and not node.mask:
                return False  # data: of a residual, or of a product of two vectors
        elif node is weight or node.op in ops.SHARING | ops.GATES:
            continue
        elif node.kind == "opaque":
            values += node.op not in ops.STATISTICS
        elif node.op in ops.JOINING:
            values += not piece and all(_is_weighted(Spot(n), weight, True) for n in node.inputs if n.params)
        elif node.op in ops.BENDING or node.op in ops.CHOOSING:
            todo += [Spot(n) for n in node.inputs if n.params]
        elif node.op in ops.FACTORS:
            todo += [Spot(n) for n in node.inputs]
        else:
            return False  # a statistic, or one of the functions that make a σ
    return values == 1


def _is_bent(graph: Graph, node: Node) -> bool:
    """Whether a function that is no straight line is taken of a value's elements, as the one that makes σ of it."""
    todo, seen = [node], {node.id}
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.kind == "elementwise" and user.op not in ops.LINEAR | ops.POWERS:
                return True
            if user.kind in ("elementwise", "shape") and user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False
