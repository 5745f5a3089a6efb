"""Arithmetic of two coordinates, and of matrices of two rows: it is arithmetic of their elements.

    off = (value.unsqueeze(-2) - self.mus) / self.sigmas                      # (..., 2)
    square = off.square().sum(-1) - 2 * self.corrs * off.prod(-1)
    det = torch.log(self.sigmas).sum(-1)

A sum along a dimension is read elsewhere as a multiple of one element, which is right where all are alike. Of two
coordinates with a correlation they are not: the product is of both. So where a product is taken along a dimension of
two, it and the sums along that dimension are written down as a₀ a₁ and a₀ + a₁. And what a density takes of a matrix
of two rows and columns, as of a covariance [[σ₁², ρ σ₁ σ₂], [ρ σ₁ σ₂, σ₂²]], is written down by its elements
(`two_by_two.py`).

Of draws no matrix is taken apart: what meets noise there is no σ of one element.
"""

from __future__ import annotations

from typing import Any

import torch

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import scaled_noise
from vdvae_patch.scanning.arithmetic.cuts import argument
from vdvae_patch.scanning.arithmetic.elements import Elements, is_pair_matrix
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.arithmetic.two_by_two import OF_MATRICES, product

_aten: Any = torch.ops.aten


def settle_pairs(graph: Graph) -> None:
    """Write such operations down as those of elements. What they were is kept in `graph.rewritten`."""
    multiplied = _multiplied_coordinates(graph)
    if multiplied or any(node.params and _is_of_matrix(node) for node in graph.nodes):
        _Pairs(graph, multiplied).settle()
        graph.index_consumers()


def _is_of_matrix(node: Node) -> bool:
    return node.op in OF_MATRICES and any(is_pair_matrix(n) and n.params for n in node.inputs)


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
        self._graph, self._multiplied = graph, multiplied
        self._elements = Elements(graph)

    def settle(self) -> None:
        for node in list(self._graph.nodes):
            if not node.params or any(scaled_noise(n) is not None for n in node.inputs):
                continue
            if node.op in ("sum", "prod") and self._is_of_pairs(node):
                self._total(node)
            elif node.op == "diagonal" and self._is_whole_diagonal(node):
                (a, _), (_, d) = self._elements.of(node, node.inputs[0])
                self._elements.becomes_parts(node, [a, d])
            elif node.op == "flip" and is_pair_matrix(node.inputs[0]):
                self._flipped(node)
            elif _is_of_matrix(node) or (node.op in ops.MATRIX_PRODUCTS and self._follows(node)):
                self._of_matrix(node)
            elif node.kind in ("elementwise", "shape") and self._follows(node):
                self._elements.taken_apart.add(node.id)

    def _follows(self, node: Node) -> bool:
        return any(n.id in self._elements.taken_apart for n in node.inputs)

    def _is_of_pairs(self, node: Node) -> bool:
        dim = _pair_dimension(node)
        return dim is not None and (self._follows(node) or (node.inputs[0].shape, dim) in self._multiplied)

    def _is_whole_diagonal(self, node: Node) -> bool:
        source = node.inputs[0]
        rank = len(source.shape)
        dims = {argument(node, 2, "dim1", 0) % rank, argument(node, 3, "dim2", 1) % rank}
        if source.op == "diag_embed" or (source.kind == "elementwise" and source.id in self._graph.rewritten):
            return False  # a diagonal, which stands for its elements
        return is_pair_matrix(source) and argument(node, 1, "offset", 0) == 0 and dims == {rank - 2, rank - 1}

    def _flipped(self, node: Node) -> None:
        rank = len(node.shape)
        dims = {dim % rank for dim in node.args[1]}
        if dims == {rank - 2, rank - 1}:
            rows = self._elements.of(node, node.inputs[0])
            self._elements.becomes_matrix(node, [row[::-1] for row in rows[::-1]])

    def _total(self, node: Node) -> None:
        source, dim = node.inputs[0], _pair_dimension(node)
        keeps = len(node.shape) == len(source.shape)
        parts = tuple(self._elements.part(node, source, dim or 0, place, keeps) for place in (0, 1))
        op, function = ("add", _aten.add.Tensor) if node.op == "sum" else ("mul", _aten.mul.Tensor)
        self._elements.keep(node)
        node.kind, node.op, node.func, node.args, node.kwargs, node.index = "elementwise", op, function, parts, {}, 0

    def _of_matrix(self, node: Node) -> None:
        written = OF_MATRICES[node.op] if _is_of_matrix(node) else product
        self._elements.taken_apart.add(node.id)
        written(self._elements, node)
