"""Where each element of a raw value goes: of which element is each element of a σ computed?

A curve σ(p) says how, and not of what: `scale(self.raw)` in the place of `softplus(self.raw[batch])` has the right
curve and the wrong rows. So the elements of the raw value are numbered, and the numbers go through the recorded moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import Cut
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import Evidence, Reading, where

_MOST_ELEMENTS = 1 << 22
"""A limit of memory: a raw value of more elements is not numbered."""
_NOTHING = 0


class Placed(NamedTuple):
    """One reading's σ.

    Attributes:
        evidence: of the reading.
        shape: of the raw value.
        numbers: for each element of σ, or of the density or KL in which it stands, the number of the raw value's
            element that it is computed of, from 1 on; 0 for none.
        line: where the density or KL is complete; empty for what is drawn with.
    """

    evidence: Evidence
    shape: tuple[int, ...]
    numbers: Tensor
    line: str

    def agrees(self, other: Placed) -> bool:
        """Whether both have the same elements in the same places, repeated or not."""
        try:
            one, two = torch.broadcast_tensors(self.numbers, other.numbers)  # type: ignore[no-untyped-call]
        except RuntimeError:
            return False
        return torch.equal(one, two)


def placed(graph: Graph, reading: Reading, leaf: Spot) -> Placed | None:
    """Where a raw value's elements are in the σ of a reading; None if that cannot be told."""
    # a term is known by its values, at any step of its expression at which these are σ's
    used = graph.nodes[reading.used] if reading.used >= 0 else reading.node
    numbers = _numbers(graph, leaf, used if reading.term is None else reading.term.total)
    line = "" if reading.term is None else where(reading.term.total)
    return None if numbers is None else Placed(reading.evidence, leaf.node.shape, numbers, line)


def strays(before: Iterable[Placed], after: Placed) -> bool:
    """Whether the σ of a patched model is computed of other elements than any of those of the host."""
    same = [p for p in before if p.shape == after.shape and p.evidence == after.evidence]
    return bool(same) and not any(p.agrees(after) for p in same)


def _numbers(graph: Graph, leaf: Spot, end: Node) -> Tensor | None:
    begin, size = leaf.node, math.prod(leaf.node.shape)
    if max(size, math.prod(end.shape)) > _MOST_ELEMENTS or any(cut.dim < 0 for cut in leaf.cuts):
        return None
    numbered = torch.arange(1, size + 1).reshape(begin.shape)
    kept = torch.zeros(begin.shape, dtype=torch.bool)
    kept[tuple(slice(None) if c is None else slice(c.start, c.places[-1] + 1, c.step) for c in _by_dim(leaf))] = True
    done = {begin.id: torch.where(kept, numbered, _NOTHING)}
    try:
        for node in _between(graph, begin, end):
            numbers = _through(node, done)
            if numbers is not None:
                done[node.id] = numbers
    except _UnknownError:
        return None
    return done.get(end.id)


def _by_dim(leaf: Spot) -> list[Cut | None]:
    own = {cut.dim: cut for cut in leaf.cuts}
    return [own.get(dim) for dim in range(len(leaf.node.shape))]


class _UnknownError(Exception):
    """Elements that are computed of several."""


def _between(graph: Graph, begin: Node, end: Node) -> list[Node]:
    """What the end is computed of by arithmetic and moves, behind the begin; operands first."""
    todo, found = [end], dict[int, Node]()
    while todo:
        node = todo.pop()
        if node.id <= begin.id or node.id in found or node.kind not in ("elementwise", "shape"):
            continue
        found[node.id] = node
        todo.extend(node.inputs)
    return [found[number] for number in sorted(found)]


def _through(node: Node, done: Mapping[int, Tensor]) -> Tensor | None:
    """The numbers of what one operation gives; None if no numbered element takes part."""
    if not any(n.id in done for n in node.inputs):
        return None
    if node.kind == "elementwise" or node.op in ops.COPYING:
        return _joined([done[n.id] for n in node.inputs if n.id in done], node.shape)
    try:
        return _moved(node, done)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as error:
        raise _UnknownError from error


def _joined(operands: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    out = torch.full(shape, _NOTHING)
    for numbers in operands:
        try:
            wide = numbers.expand(shape)
        except RuntimeError as error:
            raise _UnknownError from error
        if bool(((out != _NOTHING) & (wide != _NOTHING) & (out != wide)).any()):
            raise _UnknownError
        out = torch.where(out == _NOTHING, wide, out)
    return out


def _moved(node: Node, done: Mapping[int, Tensor]) -> Tensor:
    args = [_argument(a, node, done) for a in node.args]
    if node.op in ops.WRITING_PART:
        base, source, *rest = args
        if node.op == "select_scatter":
            return torch.select_scatter(base, source.expand(base.select(*rest).shape), *rest)
        dim = rest[0] if rest else 0
        start, stop, step = (*rest[1:], None, None, None)[:3]
        return torch.slice_scatter(base, source, dim, start, stop, step or 1)
    if node.op in ops.WRITING_PICKED:
        args[0] = args[0].clone()  # it may be the form that writes in place
    result: Any = node.func(*args, **{k: _argument(v, node, done) for k, v in node.kwargs.items()})
    moved: Tensor = result if isinstance(result, Tensor) else result[node.index]
    if tuple(moved.shape) != node.shape:
        raise _UnknownError
    return moved


def _argument(value: Any, node: Node, done: Mapping[int, Tensor]) -> Any:
    """An argument of a node with the numbers of their elements in the place of nodes."""
    if isinstance(value, Node):
        known = node.picked.get(value.id, done.get(value.id))
        return torch.full(value.shape, _NOTHING) if known is None else known
    return [_argument(v, node, done) for v in value] if isinstance(value, list | tuple) else value
