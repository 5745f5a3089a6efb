"""Arithmetic of two coordinates, and of matrices of two rows: it is arithmetic of their elements.

    off = (value.unsqueeze(-2) - self.mus) / self.sigmas                      # (..., 2)
    square = off.square().sum(-1) - 2 * self.corrs * off.prod(-1)
    det = torch.log(self.sigmas).sum(-1)

A sum along a dimension is read elsewhere as a multiple of one element, which is right where all are alike. Of two
coordinates with a correlation they are not: the product is of both. So where a product is taken along a dimension of
two, it and the sums along that dimension are written down as a₀ a₁ and a₀ + a₁. And what a density takes of a matrix
of two rows and columns, as of a covariance [[σ₁², ρ σ₁ σ₂], [ρ σ₁ σ₂, σ₂²]], is written down by its elements:

    operation                    of M = [[a, b], [c, d]] with the determinant D = a d − b c, and of L, lower
    det, logdet                  D, log |D|
    inverse                      [[d, −b], [−c, a]] / D
    Cholesky factor              [[√a, 0], [c / √a, √(d − c²/a)]]
    solve(M, y), solve(L, y)     M⁻¹ y; y₀ / l₀₀ and (y₁ − l₁₀ y₀ / l₀₀) / l₁₁
    products, diagonal           by elements

Of draws no matrix is taken apart: what meets noise there is no σ of one element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.chain import scaled_noise
from vdvae_patch.scanning.cuts import argument
from vdvae_patch.scanning.graph import Graph, Node, broadcast_shape

_aten: Any = torch.ops.aten


def settle_pairs(graph: Graph) -> None:
    """Write such operations down as those of elements. What they were is kept in `graph.rewritten`."""
    multiplied = _multiplied_coordinates(graph)
    if multiplied or any(node.params and _is_of_matrix(node) for node in graph.nodes):
        _Pairs(graph, multiplied).settle()
        graph.index_consumers()


def is_pair_matrix(node: Node) -> bool:
    """Whether a value is a matrix of two rows and columns, or several."""
    return len(node.shape) > 1 and node.shape[-2:] == (2, 2)


def _is_of_matrix(node: Node) -> bool:
    return node.op in _OF_MATRICES and any(is_pair_matrix(n) and n.params for n in node.inputs)


def _pair_dimension(node: Node) -> int | None:
    """The one dimension of two elements along which a sum or a product is taken; None where it is another."""
    dims = argument(node, 1, "dim", None)
    dims = [dims] if isinstance(dims, int) else dims
    source = node.inputs[0] if node.inputs else None
    if source is None or not isinstance(dims, list | tuple) or len(dims) != 1 or not source.shape:
        return None
    dim: int = dims[0] % len(source.shape)
    return dim if source.shape[dim] == 2 else None


_Along = tuple[tuple[int, ...], int]
"""A shape, and the dimension of it that has two coordinates."""


def _multiplied_coordinates(graph: Graph) -> set[_Along]:
    """Of tensors whose two coordinates along a dimension are multiplied, by `prod` or as `d[..., 0] * d[..., 1]`."""
    found: set[_Along] = set()
    factors: dict[int, frozenset[tuple[int, int, int]]] = {}
    for node in graph.nodes:
        if not node.params:
            continue
        if node.op == "prod" and (dim := _pair_dimension(node)) is not None:
            found.add((node.inputs[0].shape, dim))
        elif node.op in ops.SELECTING and node.inputs and node.inputs[0].kind == "elementwise":
            source = node.inputs[0]
            dim = argument(node, 1, "dim", 0) % len(source.shape)
            place = node.index if node.op == "unbind" else argument(node, 2, "index", 0) % source.shape[dim]
            if source.shape[dim] == 2:
                factors[node.id] = frozenset({(source.id, dim, place)})
        elif node.op in ops.MULTIPLYING or node.op == "neg" or node.op in ops.COPYING:
            own = [factors[n.id] for n in node.inputs if n.id in factors]
            if own:
                factors[node.id] = frozenset().union(*own)
            pairs = {(number, dim) for number, dim, _ in factors.get(node.id, ())} if len(own) > 1 else set()
            for number, dim in pairs:
                if {(number, dim, 0), (number, dim, 1)} <= factors[node.id]:
                    found.add((graph.nodes[number].shape, dim))
    return found


class _Pairs:
    def __init__(self, graph: Graph, multiplied: set[_Along]) -> None:
        self.graph = graph
        self._multiplied = multiplied
        self._taken_apart: set[int] = set()
        """Matrices and vectors that were written down by elements, and what is computed of them."""

    def settle(self) -> None:
        for node in list(self.graph.nodes):
            if not node.params or any(scaled_noise(n) is not None for n in node.inputs):
                continue
            if node.op in ("sum", "prod") and self._is_of_pairs(node):
                self._total(node)
            elif node.op == "diagonal" and self._is_whole_diagonal(node):
                (a, _), (_, d) = self._elements(node, node.inputs[0])
                self._becomes(node, [a, d])
            elif node.op == "flip" and is_pair_matrix(node.inputs[0]):
                self._flipped(node)
            elif _is_of_matrix(node) or (node.op in _PRODUCTS and self._follows(node)):
                self._of_matrix(node)
            elif node.kind in ("elementwise", "shape") and self._follows(node):
                self._taken_apart.add(node.id)

    def _follows(self, node: Node) -> bool:
        return any(n.id in self._taken_apart for n in node.inputs)

    def _is_of_pairs(self, node: Node) -> bool:
        dim = _pair_dimension(node)
        return dim is not None and (self._follows(node) or (node.inputs[0].shape, dim) in self._multiplied)

    def _is_whole_diagonal(self, node: Node) -> bool:
        source = node.inputs[0]
        rank = len(source.shape)
        dims = {argument(node, 2, "dim1", 0) % rank, argument(node, 3, "dim2", 1) % rank}
        return is_pair_matrix(source) and argument(node, 1, "offset", 0) == 0 and dims == {rank - 2, rank - 1}

    def _flipped(self, node: Node) -> None:
        rank = len(node.shape)
        dims = {dim % rank for dim in node.args[1]}
        if dims == {rank - 2, rank - 1}:
            rows = self._elements(node, node.inputs[0])
            self.becomes_matrix(node, [row[::-1] for row in rows[::-1]])

    def _total(self, node: Node) -> None:
        source, dim = node.inputs[0], _pair_dimension(node)
        keeps = len(node.shape) == len(source.shape)
        parts = tuple(self._part(node, source, dim or 0, place, keeps) for place in (0, 1))
        op, function = ("add", _aten.add.Tensor) if node.op == "sum" else ("mul", _aten.mul.Tensor)
        self._keep(node)
        node.kind, node.op, node.func, node.args, node.kwargs, node.index = "elementwise", op, function, parts, {}, 0

    def _of_matrix(self, node: Node) -> None:
        written = _OF_MATRICES[node.op] if _is_of_matrix(node) else _product
        self._taken_apart.add(node.id)
        written(self, node)

    # --- new nodes --------------------------------------------------------------------------------------------------

    def _made(self, like: Node, kind: Any, op: str, function: Any, args: tuple[Any, ...], shape: Any) -> Node:
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

    def _part(self, like: Node, source: Node, dim: int, place: int, keeps: bool = False) -> Node:
        shape = list(source.shape)
        if keeps:
            shape[dim] = 1
            return self._made(like, "shape", "slice", _aten.slice.Tensor, (source, dim, place, place + 1), shape)
        del shape[dim]
        return self._made(like, "shape", "select", _aten.select.int, (source, dim, place), shape)

    def _elements(self, like: Node, matrix: Node) -> list[list[Node]]:
        """Rows of elements."""
        rows, columns = range(matrix.shape[-2]), range(matrix.shape[-1])
        return [[self._element(like, matrix, row, column) for column in columns] for row in rows]

    def _element(self, like: Node, matrix: Node, row: int, column: int) -> Node:
        """One element, of what it is put together of where that is seen: a diagonal, a triangle, sums of them."""
        source = matrix.inputs[0] if matrix.inputs else matrix
        if matrix.diagonal:  # a constant, which stands for itself with its largest element
            on_it = self._part(like, self._part(like, matrix, len(matrix.shape) - 2, row), len(matrix.shape) - 2, row)
            return on_it if row == column else self.computed(like, "mul", on_it, 0.0)
        if matrix.op == "diag_embed" and matrix.args[1:] in ((), (0,), (0, -2, -1)):
            on_it = self._part(like, source, len(source.shape) - 1, row)
            return on_it if row == column else self.computed(like, "mul", on_it, 0.0)
        if matrix.op == "tril" and column - row <= argument(matrix, 1, "diagonal", 0):
            return self._element(like, source, row, column)
        if matrix.op == "tril":
            return self.computed(like, "mul", self._element(like, source, row, column), 0.0)
        if matrix.op in _MOVING and matrix.inputs and is_pair_matrix(source) and _is_put(source):
            moved, shape = self._element(like, source, row, column), matrix.shape[:-2]
            if moved.shape == shape:
                return moved
            if math.prod(moved.shape) == math.prod(shape):
                return self._made(like, "shape", "view", _aten.view.default, (moved, list(shape)), shape)
        alike = [n for n in matrix.inputs if n.shape == matrix.shape]
        if matrix.op == "add" and len(alike) == 2 and not matrix.kwargs and any(n.op in _PUT for n in alike):
            return self.computed(like, "add", *(self._element(like, n, row, column) for n in alike))
        rank = len(matrix.shape)
        return self._part(like, self._part(like, matrix, rank - 2, row), rank - 2, column)

    def computed(self, like: Node, op: str, *operands: Any) -> Node:
        """Elementwise arithmetic of one or two values."""
        shapes = [n.shape for n in operands if isinstance(n, Node)]
        numbers = len(shapes) < len(operands)
        name = {"pow": "Tensor_Scalar"}.get(op, "Scalar" if numbers else "Tensor") if len(operands) > 1 else "default"
        function = getattr(getattr(_aten, op), name)
        node = self._made(like, "elementwise", op, function, operands, broadcast_shape(*shapes))
        values = (torch.tensor(n.value, dtype=torch.float64) if isinstance(n, Node) else n for n in operands)
        node.value = float(function(*values))  # of constants, which are not computed again
        return node

    # --- what is written down ---------------------------------------------------------------------------------------

    def _keep(self, node: Node) -> None:
        kept = node.kind, node.op, node.func, node.args, node.kwargs, node.index
        self.graph.rewritten.setdefault(node.id, kept)
        node._inputs = None

    def _becomes(self, node: Node, parts: list[Node], dim: int = -1) -> None:
        self._taken_apart.add(node.id)
        self._keep(node)
        node.kind, node.op, node.func, node.kwargs, node.index = "shape", "stack", _aten.stack.default, {}, 0
        node.args = (parts, dim)

    def becomes_matrix(self, node: Node, rows: list[list[Node]]) -> None:
        """Rows of elements, as a matrix."""
        shapes = [broadcast_shape(*(e.shape for e in row)) for row in rows]
        made = [
            self._made(node, "shape", "stack", _aten.stack.default, (row, -1), (*shape, len(row)))
            for row, shape in zip(rows, shapes, strict=True)
        ]
        self._becomes(node, made, -2)

    def becomes(self, node: Node, op: str, operand: Node) -> None:
        """One operation of one value."""
        self._keep(node)
        node.kind, node.op, node.func = "elementwise", op, getattr(_aten, op).default
        node.args, node.kwargs, node.index = (operand,), {}, 0

    def elements(self, node: Node, which: Node) -> list[list[Node]]:
        """Of an operand of a node's."""
        return self._elements(node, which)

    def determinant(self, node: Node, matrix: Node) -> Node:
        """a d − b c."""
        (a, b), (c, d) = self._elements(node, matrix)
        return self.computed(node, "sub", self.computed(node, "mul", a, d), self.computed(node, "mul", b, c))


def _inverse(pairs: _Pairs, node: Node) -> None:
    if node.index:
        return
    matrix = node.inputs[0]
    (a, b), (c, d) = pairs.elements(node, matrix)
    over = pairs.determinant(node, matrix)
    b, c = (pairs.computed(node, "neg", n) for n in (b, c))
    pairs.becomes_matrix(node, [[pairs.computed(node, "div", n, over) for n in row] for row in ([d, b], [c, a])])


def _factor(pairs: _Pairs, node: Node) -> None:
    if node.index or argument(node, 1, "upper", False):
        return
    (a, _), (c, d) = pairs.elements(node, node.inputs[0])
    first = pairs.computed(node, "sqrt", a)
    below = pairs.computed(node, "div", c, first)
    rest = pairs.computed(node, "sub", d, pairs.computed(node, "mul", below, below))
    zero = pairs.computed(node, "mul", a, 0.0)
    pairs.becomes_matrix(node, [[first, zero], [below, pairs.computed(node, "sqrt", rest)]])


def _determinant(pairs: _Pairs, node: Node) -> None:
    if node.index == 0:
        pairs.becomes(node, "alias", pairs.determinant(node, node.inputs[0]))
        node.kind = "shape"


def _log_determinant(pairs: _Pairs, node: Node) -> None:
    if node.index == 1:
        pairs.becomes(node, "log", pairs.computed(node, "abs", pairs.determinant(node, node.inputs[0])))


def _solved(pairs: _Pairs, node: Node) -> None:
    matrix, given = node.args[:2]
    if not (isinstance(matrix, Node) and isinstance(given, Node)) or node.index or not _is_column(given, node):
        return
    if not argument(node, 2, "left", True):
        return
    (a, b), (c, d) = pairs.elements(node, matrix)
    over = pairs.determinant(node, matrix)
    y, z = (row for row in pairs.elements(node, given))
    columns = []
    for p, q in zip(y, z, strict=True):
        first = pairs.computed(node, "sub", pairs.computed(node, "mul", d, p), pairs.computed(node, "mul", b, q))
        second = pairs.computed(node, "sub", pairs.computed(node, "mul", a, q), pairs.computed(node, "mul", c, p))
        columns.append([pairs.computed(node, "div", n, over) for n in (first, second)])
    pairs.becomes_matrix(node, [list(row) for row in zip(*columns, strict=True)])


def _solved_by_triangle(pairs: _Pairs, node: Node) -> None:
    """y₀ / l₀₀ and (y₁ − l₁₀ x₀) / l₁₁ of a lower triangle; of an upper one from below."""
    matrix, given = node.args[:2]
    if not (isinstance(matrix, Node) and isinstance(given, Node)) or not _is_column(given, node):
        return
    if not node.kwargs.get("left", True) or node.kwargs.get("unitriangular", False):
        return
    rows = pairs.elements(node, matrix)
    order = (1, 0) if node.kwargs["upper"] else (0, 1)
    one, other = order
    found: dict[int, list[Node]] = {0: [], 1: []}
    given_rows = pairs.elements(node, given)
    for first, second in zip(given_rows[one], given_rows[other], strict=True):
        x = pairs.computed(node, "div", first, rows[one][one])
        left = pairs.computed(node, "sub", second, pairs.computed(node, "mul", rows[other][one], x))
        found[one].append(x)
        found[other].append(pairs.computed(node, "div", left, rows[other][other]))
    pairs.becomes_matrix(node, [found[0], found[1]])


def _product(pairs: _Pairs, node: Node) -> None:
    left, right = node.args[:2]
    if not (isinstance(left, Node) and isinstance(right, Node)) or len(node.args) != 2:
        return
    vector = len(right.shape) == 1
    if len(left.shape) < 2 or left.shape[-1] != 2 or max(left.shape[-2], 1 if vector else right.shape[-1]) > 2:
        return
    if vector:
        return
    rows, columns = pairs.elements(node, left), pairs.elements(node, right)
    found = []
    for row in rows:
        products = [
            [pairs.computed(node, "mul", row[k], columns[k][j]) for k in (0, 1)] for j in range(right.shape[-1])
        ]
        found.append([pairs.computed(node, "add", *both) for both in products])
    pairs.becomes_matrix(node, found)


def _is_column(given: Node, node: Node) -> bool:
    """Whether what is solved for is a few columns of two elements."""
    return 1 < len(given.shape) <= len(node.shape) and given.shape[-2] == 2 and given.shape[-1] <= 2


_MOVING = ops.VIEWS | ops.COPYING | ops.BROADCASTING


def _is_put(matrix: Node) -> bool:
    """Whether a matrix is put together in the graph, up to moves."""
    while matrix.op in _MOVING and matrix.inputs and is_pair_matrix(matrix.inputs[0]):
        matrix = matrix.inputs[0]
    return matrix.op in _PUT or (matrix.op == "add" and any(n.op in _PUT for n in matrix.inputs))


_PUT = frozenset({"diag_embed", "tril"})
"""Operations that put the elements of a vector, or some of a matrix, into one with zeros beside them."""
_PRODUCTS = frozenset({"bmm", "mm"})
_OF_MATRICES: dict[str, Callable[[_Pairs, Node], None]] = {
    "linalg_inv_ex": _inverse,
    "inverse": _inverse,
    "linalg_cholesky_ex": _factor,
    "cholesky": _factor,
    "_linalg_det": _determinant,
    "_linalg_slogdet": _log_determinant,
    "_linalg_solve_ex": _solved,
    "linalg_solve_triangular": _solved_by_triangle,
    "bmm": _product,
    "mm": _product,
}
