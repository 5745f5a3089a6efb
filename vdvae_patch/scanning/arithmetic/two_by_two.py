"""What a density takes of a matrix of two rows and columns, by its elements.

Of M = [[a, b], [c, d]] with the determinant D = a d − b c, and of L, lower:

    det, logdet                  D, log |D|
    inverse                      [[d, −b], [−c, a]] / D
    Cholesky factor              [[√a, 0], [c / √a, √(d − c²/a)]]
    solve(M, y), solve(L, y)     M⁻¹ y; y₀ / l₀₀ and (y₁ − l₁₀ y₀ / l₀₀) / l₁₁
    products                     rows times columns
"""

from __future__ import annotations

from collections.abc import Callable

from vdvae_patch.scanning.arithmetic.cuts import argument
from vdvae_patch.scanning.arithmetic.elements import Elements
from vdvae_patch.scanning.arithmetic.graph import Node


def _inverse(elements: Elements, node: Node) -> None:
    if node.index:
        return
    matrix = node.inputs[0]
    (a, b), (c, d) = elements.of(node, matrix)
    over = elements.determinant(node, matrix)
    b, c = (elements.computed(node, "neg", n) for n in (b, c))
    elements.becomes_matrix(node, [[elements.computed(node, "div", n, over) for n in row] for row in ([d, b], [c, a])])


def _factor(elements: Elements, node: Node) -> None:
    if node.index or argument(node, 1, "upper", False):
        return
    (a, _), (c, d) = elements.of(node, node.inputs[0])
    first = elements.computed(node, "sqrt", a)
    below = elements.computed(node, "div", c, first)
    rest = elements.computed(node, "sub", d, elements.computed(node, "mul", below, below))
    zero = elements.computed(node, "mul", a, 0.0)
    elements.becomes_matrix(node, [[first, zero], [below, elements.computed(node, "sqrt", rest)]])


def _determinant(elements: Elements, node: Node) -> None:
    if node.index == 0:
        elements.becomes(node, "alias", elements.determinant(node, node.inputs[0]))
        node.kind = "shape"


def _log_determinant(elements: Elements, node: Node) -> None:
    if node.index == 1:
        elements.becomes(node, "log", elements.computed(node, "abs", elements.determinant(node, node.inputs[0])))


def _solved(elements: Elements, node: Node) -> None:
    matrix, given = node.args[:2]
    if not (isinstance(matrix, Node) and isinstance(given, Node)) or node.index or not _is_column(given, node):
        return
    if not argument(node, 2, "left", True):
        return
    (a, b), (c, d) = elements.of(node, matrix)
    over = elements.determinant(node, matrix)
    y, z = (row for row in elements.of(node, given))
    columns = []
    for p, q in zip(y, z, strict=True):
        first = elements.computed(
            node, "sub", elements.computed(node, "mul", d, p), elements.computed(node, "mul", b, q)
        )
        second = elements.computed(
            node, "sub", elements.computed(node, "mul", a, q), elements.computed(node, "mul", c, p)
        )
        columns.append([elements.computed(node, "div", n, over) for n in (first, second)])
    elements.becomes_matrix(node, [list(row) for row in zip(*columns, strict=True)])


def _solved_by_triangle(elements: Elements, node: Node) -> None:
    """y₀ / l₀₀ and (y₁ − l₁₀ x₀) / l₁₁ of a lower triangle; of an upper one from below."""
    matrix, given = node.args[:2]
    if not (isinstance(matrix, Node) and isinstance(given, Node)) or not _is_column(given, node):
        return
    if not node.kwargs.get("left", True) or node.kwargs.get("unitriangular", False):
        return
    rows = elements.of(node, matrix)
    order = (1, 0) if node.kwargs["upper"] else (0, 1)
    one, other = order
    found: dict[int, list[Node]] = {0: [], 1: []}
    given_rows = elements.of(node, given)
    for first, second in zip(given_rows[one], given_rows[other], strict=True):
        x = elements.computed(node, "div", first, rows[one][one])
        left = elements.computed(node, "sub", second, elements.computed(node, "mul", rows[other][one], x))
        found[one].append(x)
        found[other].append(elements.computed(node, "div", left, rows[other][other]))
    elements.becomes_matrix(node, [found[0], found[1]])


def product(elements: Elements, node: Node) -> None:
    """Rows times columns, of at most two each."""
    left, right = node.args[:2]
    if not (isinstance(left, Node) and isinstance(right, Node)) or len(node.args) != 2:
        return
    vector = len(right.shape) == 1
    if len(left.shape) < 2 or left.shape[-1] != 2 or max(left.shape[-2], 1 if vector else right.shape[-1]) > 2:
        return
    if vector:
        return
    rows, columns = elements.of(node, left), elements.of(node, right)
    found = []
    for row in rows:
        products = [
            [elements.computed(node, "mul", row[k], columns[k][j]) for k in (0, 1)] for j in range(right.shape[-1])
        ]
        found.append([elements.computed(node, "add", *both) for both in products])
    elements.becomes_matrix(node, found)


def _is_column(given: Node, node: Node) -> bool:
    """Whether what is solved for is a few columns of two elements."""
    return 1 < len(given.shape) <= len(node.shape) and given.shape[-2] == 2 and given.shape[-1] <= 2


OF_MATRICES: dict[str, Callable[[Elements, Node], None]] = {
    "linalg_inv_ex": _inverse,
    "inverse": _inverse,
    "linalg_cholesky_ex": _factor,
    "cholesky": _factor,
    "_linalg_det": _determinant,
    "_linalg_slogdet": _log_determinant,
    "_linalg_solve_ex": _solved,
    "linalg_solve_triangular": _solved_by_triangle,
    "bmm": product,
    "mm": product,
}
"""By the name of the operation."""
