"""Arithmetic of matrices that are diagonals: it is arithmetic of their elements.

    precision = torch.inverse(torch.diag_embed(var))
    nll = 0.5 * (error.mT @ precision @ error).squeeze() + 0.5 * torch.logdet(torch.diag_embed(var))

To PyTorch an inverse is an operation like any other, in which the way back from a density ends. Of a diagonal it is
1/var, its determinant the product of var, its Cholesky factor √var, and what it is multiplied by is multiplied element
by element. So these operations are written down as that, with their matrices standing for the elements on the diagonal:

    operation                              of a diagonal D of n elements d, and of any B
    inverse, Cholesky factor, det, logdet  1/d, √d, dⁿ, n log d: a value stands for all, as in a sum
    D @ B, B @ D, solve(D, B)              d b, b d, b / d
    b.mT @ c, of such a product            n b c

A matrix with one element is a diagonal, and so is what is made of diagonals by sums, by factors, and by roots and
powers element by element. What a network computes below the diagonal is a correlation, and stays what it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import permutation_of
from vdvae_patch.scanning.arithmetic.graph import Graph, Node


def settle_diagonals(graph: Graph) -> None:
    """Write the operations of diagonal matrices down as those of their elements."""
    if not any(node.op in _OF_MATRICES and node.params for node in graph.nodes):
        return
    found = _Diagonals(graph)
    for node in graph.nodes:
        found.settle(node)
    graph.others = [other for other in graph.others if not found.is_diagonal(other.scale)]
    graph.index_consumers()


@contextmanager
def as_it_ran(graph: Graph) -> Iterator[None]:
    """The graph with these operations as they were, for a while: to compute them again."""
    _exchange(graph)
    try:
        yield
    finally:
        _exchange(graph)


def _exchange(graph: Graph) -> None:
    for number, kept in graph.rewritten.items():
        node = graph.nodes[number]
        graph.rewritten[number] = _written(node)
        node.kind, node.op, node.func, node.args, node.kwargs, node.index = kept
    if graph.rewritten:
        graph.index_consumers()
        node.keep_inputs()
        node.stepped = {}


def _written(node: Node) -> tuple[Any, ...]:
    return node.kind, node.op, node.func, node.args, node.kwargs, node.index


class _Diagonals:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known: set[int] = set()
        """Nodes that are diagonal matrices."""
        self.scaled: set[int] = set()
        """Products of one with something else, moved around or not."""

    def is_diagonal(self, node: object) -> bool:
        """Whether a value is a diagonal matrix, or several."""
        return isinstance(node, Node) and (node.id in self.known or node.diagonal or _is_single(node))

    def settle(self, node: Node) -> None:
        """Look at one node, its operands before."""
        if node.op in _OF_MATRICES and node.op != "diag_embed":
            self._of_matrix(node)
        elif node.op in _PRODUCTS:
            self._product(node)
        elif self._is_kept(node):
            self.known.add(node.id)
        elif node.kind == "shape" and any(n.id in self.scaled or n.id in self.known for n in node.inputs[:1]):
            self.scaled.add(node.id)

    def _of_matrix(self, node: Node) -> None:
        matrix = node.args[0] if node.args else None
        given = node.args[1] if len(node.args) > 1 else None
        if node.op == "cholesky_solve":
            matrix, given = given, matrix
        if not isinstance(matrix, Node) or not self.is_diagonal(matrix) or not node.params:
            return
        size = matrix.shape[-1]
        if node.op in _SOLVES and node.index == 0 and isinstance(given, Node):
            if node.kwargs.get("left", True):
                self._becomes(node, "div", _divided(2 if node.op == "cholesky_solve" else 1), given, matrix)
                (self.known if self.is_diagonal(given) else self.scaled).add(node.id)
        elif node.op in _INVERSES and node.index == 0:
            self._becomes(node, "pow", torch.ops.aten.pow.Tensor_Scalar, matrix, _INVERSES[node.op])
            self.known.add(node.id)
        elif node.op in _TRIANGLES:
            self._becomes(node, "alias", torch.ops.aten.alias.default, matrix)
            node.kind = "shape"
            self.known.add(node.id)
        elif node.op == "_linalg_slogdet" and node.index == 1:
            self._becomes(node, "log", _log_det(size), matrix)
        elif node.op == "_linalg_det" and node.index == 0:
            self._becomes(node, "pow", torch.ops.aten.pow.Tensor_Scalar, matrix, float(size))

    def _product(self, node: Node) -> None:
        operands = [n for n in node.args if isinstance(n, Node)]
        if len(operands) != 2 or len(node.args) != 2 or not any(n.params for n in operands):
            return
        diagonal = [n for n in operands if n.id in self.known or n.diagonal]
        if diagonal:
            self._becomes(node, "mul", torch.ops.aten.mul.Tensor, *operands)
            (self.known if len(diagonal) == 2 else self.scaled).add(node.id)
        elif any(n.id in self.scaled for n in operands) and math.prod(node.shape[-2:] if node.op != "dot" else ()) == 1:
            self._becomes(node, "mul", _contracted(operands[0].shape[-1]), *operands)

    def _becomes(self, node: Node, op: str, function: Callable[..., object], *args: object) -> None:
        self.graph.rewritten[node.id] = _written(node)
        node.kind, node.op, node.func, node.args, node.kwargs, node.index = "elementwise", op, function, args, {}, 0

    def _is_kept(self, node: Node) -> bool:
        """Whether an operation gives diagonals, if those that it is given are some."""
        if node.op == "diag_embed":
            return node.args[1:] in ((), (0,), (0, -2, -1))
        operands = [n for n in node.args if isinstance(n, Node)]
        if not operands or not node.params or len(node.shape) < 2:
            return False
        if node.kind == "elementwise":
            return self._is_kept_by_elements(node, operands)
        source = operands[0]
        if node.kind != "shape" or source.id not in self.known or node.shape[-2:] != source.shape[-2:]:
            return False
        rank = len(source.shape)
        if node.op in ops.PERMUTING:
            return {*permutation_of(node, rank)[-2:]} == {rank - 2, rank - 1}
        if node.op == "flip":
            return {dim % rank for dim in node.args[1]} == {rank - 2, rank - 1}
        return node.op in ops.COPYING | ops.BROADCASTING | ops.VIEWS | ops.ONE_LONG

    def _is_kept_by_elements(self, node: Node, operands: list[Node]) -> bool:
        own = [n.id in self.known or n.diagonal for n in operands]
        if node.op in ops.SUMS:
            return all(own) and len(operands) == 2
        if node.op == "pow":
            return all(own) and len(node.args) > 1 and isinstance(node.args[1], int | float) and node.args[1] > 0
        if node.op == "div":
            return own[0]
        return any(own) if node.op == "mul" else all(own) and node.op in ops.KEEPING_ZERO


def _is_single(node: Node) -> bool:
    return len(node.shape) > 1 and node.shape[-2:] == (1, 1)


class _Operation:
    """A function in the place of one of PyTorch's operations."""

    def __init__(self, name: str, function: Callable[..., Tensor]) -> None:
        self.__name__ = name
        self.overloadpacket = self
        self._function = function

    def __call__(self, *args: Tensor) -> Tensor:
        return self._function(*args)


# one of each kind, so that expressions of one form are known as such


@functools.cache
def _log_det(size: int) -> _Operation:
    return _Operation("log", lambda d: size * d.log())


@functools.cache
def _contracted(size: int) -> _Operation:
    return _Operation("mul", lambda a, b: size * a * b)


@functools.cache
def _divided(power: int) -> _Operation:
    return _Operation("div", lambda b, d: b / d**power)


_SOLVES = frozenset({"_linalg_solve_ex", "linalg_solve_triangular", "cholesky_solve"})
_INVERSES = {
    "linalg_inv_ex": -1.0, "inverse": -1.0, "cholesky_inverse": -2.0, "linalg_cholesky_ex": 0.5, "cholesky": 0.5
}  # fmt: skip
"""Of the elements of a diagonal, the power that is computed."""
_TRIANGLES = frozenset({"tril", "triu"})
_DETERMINANTS = frozenset({"_linalg_slogdet", "_linalg_det"})
_OF_MATRICES = _SOLVES | _INVERSES.keys() | _TRIANGLES | _DETERMINANTS | {"diag_embed"}
_PRODUCTS = frozenset({"bmm", "mm", "mv", "dot"})
