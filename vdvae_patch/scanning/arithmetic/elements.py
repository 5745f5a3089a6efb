"""The elements of a matrix of two rows as values of their own in a graph, and arithmetic of them.

What a host did by one operation of matrices is written down by more nodes than it ran: selections of elements, sums and
products of those, and the result put together again. Each has the line of the operation that it is written for. They
stand behind all others in the graph (`graph.in_order`), and what the operation itself was is kept in `graph.rewritten`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import argument
from vdvae_patch.scanning.arithmetic.graph import Graph, Node, broadcast_shape

_aten: Any = torch.ops.aten


def is_pair_matrix(node: Node) -> bool:
    """Whether a value is a matrix of two rows and columns, or several."""
    return len(node.shape) > 1 and node.shape[-2:] == (2, 2)


class Elements:
    """Nodes for elements, which are added to a graph.

    Attributes:
        taken_apart: the numbers of nodes that were written down by elements, and of what is computed of them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taken_apart: set[int] = set()

    # --- new nodes --------------------------------------------------------------------------------------------------

    def made(self, like: Node, kind: Any, op: str, function: Any, args: tuple[Any, ...], shape: Any) -> Node:
        """A node for what one operation gives that the host did not write, at the line of the one that it did."""
        node = Node(len(self.graph.nodes), kind, op, tuple(shape))
        node.func, node.args, node.frames = function, args, like.frames
        read = node.inputs
        node.data, node.params = any(n.data for n in read), any(n.params for n in read)
        for source in read:
            node.noise |= source.noise
        node.value = read[0].value if read else 0.0
        self.graph.nodes.append(node)
        return node

    def part(self, like: Node, source: Node, dim: int, place: int, keeps: bool = False) -> Node:
        """One place of a dimension, which is dropped or kept."""
        shape = list(source.shape)
        if keeps:
            shape[dim] = 1
            return self.made(like, "shape", "slice", _aten.slice.Tensor, (source, dim, place, place + 1), shape)
        del shape[dim]
        return self.made(like, "shape", "select", _aten.select.int, (source, dim, place), shape)

    def of(self, like: Node, matrix: Node) -> list[list[Node]]:
        """Rows of elements."""
        rows, columns = range(matrix.shape[-2]), range(matrix.shape[-1])
        return [[self.element(like, matrix, row, column) for column in columns] for row in rows]

    def element(self, like: Node, matrix: Node, row: int, column: int) -> Node:
        """One element, of what it is put together of where that is seen: a diagonal, a triangle, sums of them."""
        source = matrix.inputs[0] if matrix.inputs else matrix
        if matrix.diagonal:  # a constant, which stands for itself with its largest element
            on_it = self.part(like, self.part(like, matrix, len(matrix.shape) - 2, row), len(matrix.shape) - 2, row)
            return on_it if row == column else self.computed(like, "mul", on_it, 0.0)
        if matrix.op == "diag_embed" and matrix.args[1:] in ((), (0,), (0, -2, -1)):
            on_it = self.part(like, source, len(source.shape) - 1, row)
            return on_it if row == column else self.computed(like, "mul", on_it, 0.0)
        if matrix.op == "tril" and column - row <= argument(matrix, 1, "diagonal", 0):
            return self.element(like, source, row, column)
        if matrix.op == "tril":
            return self.computed(like, "mul", self.element(like, source, row, column), 0.0)
        if matrix.op in _MOVING and matrix.inputs and is_pair_matrix(source) and _is_put(source):
            moved, shape = self.element(like, source, row, column), matrix.shape[:-2]
            if moved.shape == shape:
                return moved
            if math.prod(moved.shape) == math.prod(shape):
                return self.made(like, "shape", "view", _aten.view.default, (moved, list(shape)), shape)
        alike = [n for n in matrix.inputs if n.shape == matrix.shape]
        if matrix.op == "add" and len(alike) == 2 and not matrix.kwargs and any(n.op in _PUT for n in alike):
            return self.computed(like, "add", *(self.element(like, n, row, column) for n in alike))
        rank = len(matrix.shape)
        return self.part(like, self.part(like, matrix, rank - 2, row), rank - 2, column)

    def computed(self, like: Node, op: str, *operands: Any) -> Node:
        """Elementwise arithmetic of one or two values."""
        shapes = [n.shape for n in operands if isinstance(n, Node)]
        numbers = len(shapes) < len(operands)
        name = {"pow": "Tensor_Scalar"}.get(op, "Scalar" if numbers else "Tensor") if len(operands) > 1 else "default"
        function = getattr(getattr(_aten, op), name)
        node = self.made(like, "elementwise", op, function, operands, broadcast_shape(*shapes))
        values = (torch.tensor(n.value, dtype=torch.float64) if isinstance(n, Node) else n for n in operands)
        node.value = float(function(*values))  # of constants, which are not computed again
        return node

    # --- what is written down ---------------------------------------------------------------------------------------

    def keep(self, node: Node) -> None:
        """Remember what a node is before it becomes something else."""
        kept = node.kind, node.op, node.func, node.args, node.kwargs, node.index
        self.graph.rewritten.setdefault(node.id, kept)
        node._inputs = None

    def becomes_parts(self, node: Node, parts: list[Node], dim: int = -1) -> None:
        """Some values, beside each other."""
        self.taken_apart.add(node.id)
        self.keep(node)
        node.kind, node.op, node.func, node.kwargs, node.index = "shape", "stack", _aten.stack.default, {}, 0
        node.args = (parts, dim)

    def becomes_matrix(self, node: Node, rows: list[list[Node]]) -> None:
        """Rows of elements, as a matrix."""
        shapes = [broadcast_shape(*(e.shape for e in row)) for row in rows]
        made = [
            self.made(node, "shape", "stack", _aten.stack.default, (row, -1), (*shape, len(row)))
            for row, shape in zip(rows, shapes, strict=True)
        ]
        self.becomes_parts(node, made, -2)

    def becomes(self, node: Node, op: str, operand: Node) -> None:
        """One operation of one value."""
        self.keep(node)
        node.kind, node.op, node.func = "elementwise", op, getattr(_aten, op).default
        node.args, node.kwargs, node.index = (operand,), {}, 0

    def determinant(self, node: Node, matrix: Node) -> Node:
        """a d − b c."""
        (a, b), (c, d) = self.of(node, matrix)
        return self.computed(node, "sub", self.computed(node, "mul", a, d), self.computed(node, "mul", b, c))


_MOVING = ops.VIEWS | ops.COPYING | ops.BROADCASTING


def _is_put(matrix: Node) -> bool:
    """Whether a matrix is put together in the graph, up to moves."""
    while matrix.op in _MOVING and matrix.inputs and is_pair_matrix(matrix.inputs[0]):
        matrix = matrix.inputs[0]
    return matrix.op in _PUT or (matrix.op == "add" and any(n.op in _PUT for n in matrix.inputs))


_PUT = frozenset({"diag_embed", "tril"})
"""Operations that put the elements of a vector, or some of a matrix, into one with zeros beside them."""
