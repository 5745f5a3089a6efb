"""Evaluate recorded arithmetic again, on values of our choice.

An elementwise expression is a function of its leaves: outputs of networks, parameters, draws of noise. Operations that
only move elements are skipped, but what they cut out is remembered: the first and the second half of one output are two
leaves. What no parameter reaches (masks, temperatures) stands for itself with its largest element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.graph import Node

DEPTH = 80
"""Steps after which an expression counts as a leaf: no host computes a scale by a longer one, but a trunk is a sum."""


class Cut(NamedTuple):
    """A range of a dimension of a given size: `length` places from `start`, every `step`-th one."""

    dim: int
    start: int
    length: int
    size: int
    step: int = 1


Key = tuple[int, tuple[Cut, ...]]
"""Of a part of a tensor: its node's number, and what is cut out."""


class Spot(NamedTuple):
    """A node, and what is cut out of it on the way to where it is read (the last cut first)."""

    node: Node
    cuts: tuple[Cut, ...] = ()

    @property
    def key(self) -> Key:
        """Equal for equal parts of one tensor."""
        return self.node.id, self.cuts


def step_through(spot: Spot) -> Spot | None:
    """One operation back, if it only moves elements; None if it does more, or if its inputs are different things."""
    node = spot.node
    if node.op in ops.COMBINING:
        learned = [n for n in node.inputs if n.params or n.noise]
        # what comes from parameters alone is a weight
        moved = len(learned) == 1 and (learned[0].data or learned[0].noise)
        return Spot(learned[0], ()) if moved else None
    if node.kind != "shape" or not node.inputs:
        return None
    if node.op in ("cat", "stack"):
        return _through_cat(spot)
    if node.op == "slice_scatter":
        return _through_scatter(spot)
    source = node.inputs[0]
    cut = _cut_of(node, source)
    return Spot(source, spot.cuts if cut is None else (*spot.cuts, cut))


def _through_cat(spot: Spot) -> Spot | None:
    node, parts = spot.node, spot.node.inputs
    dim = _argument(node, 1, "dim", 0)
    if node.op == "cat" and spot.cuts:
        *outer, last = spot.cuts
        start = 0
        for part in parts:
            size = part.shape[dim] if len(part.shape) > dim else 0
            if last.dim == dim % len(node.shape) and (last.start, last.length) == (start, size):
                return Spot(part, tuple(outer))
            start += size
    if node.op == "stack" and spot.cuts and (place := _turn(spot.cuts[-1], dim % len(node.shape), parts)) is not None:
        return Spot(parts[place], spot.cuts[:-1])
    if len({_signature(part) for part in parts}) == 1:
        return Spot(parts[0], spot.cuts if node.op == "cat" else ())
    return None


def _turn(cut: Cut, dim: int, parts: list[Node]) -> int | None:
    """Which of some stacked parts a cut takes out: one place along the new dimension, or, where that was made one with
    the dimension before it, every so many places."""
    if cut == Cut(dim, cut.start, 1, len(parts)):
        return cut.start
    size = parts[0].shape[dim - 1] if dim else 0
    turns = Cut(dim - 1, cut.start, size, size * len(parts), len(parts))
    return cut.start if dim and cut == turns and cut.start < len(parts) else None


def _signature(node: Node) -> tuple[Any, ...]:
    # results of one line in a loop over time
    return (node.op, node.index, node.frames[0][:2] if node.frames else node.id)


def _through_scatter(spot: Spot) -> Spot | None:
    node = spot.node
    base, source = node.inputs[:2]
    dim, start, stop = (_argument(node, i, name, 0) for i, name in ((2, "dim"), (3, "start"), (4, "end")))
    dim %= len(base.shape)
    stop = min(stop, base.shape[dim])
    if not spot.cuts or spot.cuts[-1].dim != dim or spot.cuts[-1].step != 1:
        return None
    cut = spot.cuts[-1]
    if (cut.start, cut.length) == (start, stop - start):
        return Spot(source, spot.cuts[:-1])
    if start <= cut.start and cut.start + cut.length <= stop:
        return Spot(source, (*spot.cuts[:-1], cut._replace(start=cut.start - start, size=stop - start)))
    if cut.start >= stop or cut.start + cut.length <= start:
        return Spot(base, spot.cuts)
    return None


def _argument(node: Node, position: int, name: str, default: Any) -> Any:
    if name in node.kwargs and node.kwargs[name] is not None:
        return node.kwargs[name]
    value = node.args[position] if len(node.args) > position else None
    return default if value is None else value


def _cut_of(node: Node, source: Node) -> Cut | None:
    """What a narrowing operation keeps of its source; None for one that keeps all."""
    if not source.shape:
        return None
    rank = len(source.shape)
    if node.op in ("split", "chunk", "split_with_sizes", "unsafe_split"):
        dim = _argument(node, 2, "dim", 0) % rank
        sizes = node.args[1]
        if isinstance(sizes, list | tuple):
            start = sum(sizes[: node.index])
        elif node.op == "chunk":
            start = node.index * -(-source.shape[dim] // sizes)
        else:
            start = node.index * sizes
        cut = Cut(dim, start, node.shape[dim], source.shape[dim])
    elif node.op == "unbind":
        dim = _argument(node, 1, "dim", 0) % rank
        cut = Cut(dim, node.index, 1, source.shape[dim])
    elif node.op == "select":
        dim, place = node.args[1] % rank, node.args[2]
        cut = Cut(dim, place % source.shape[dim], 1, source.shape[dim])
    elif node.op in ("slice", "narrow"):
        dim = _argument(node, 1, "dim", 0) % rank
        start = _argument(node, 2, "start", 0)
        start = max(0, start + source.shape[dim] if start < 0 else start)
        step = _argument(node, 4, "step", 1) if node.op == "slice" else 1
        cut = Cut(dim, start, node.shape[dim], source.shape[dim], step)
    else:
        return None
    return None if cut.length == cut.size and cut.start == 0 else cut


def settle(spot: Spot) -> Spot:
    """Back through everything that only moves elements."""
    while (back := step_through(spot)) is not None:
        spot = back
    return spot


class Expression:
    """The elementwise expression that ends in a spot.

    Args:
        stops: nodes that count as leaves though they are computed (a sum of raw values, a sample).
        through_sums: whether `sum` and `mean` belong to the expression; of equal elements a sum is a multiple.
    """

    def __init__(self, end: Spot, stops: frozenset[int] = frozenset(), through_sums: bool = False) -> None:
        self.end = end
        self.stops = stops
        self.through_sums = through_sums
        self.leaves: dict[Key, Spot] = {}
        self.order: list[Spot] = []  # computed spots, operands before what is computed of them
        self.depends: dict[Key, frozenset[Key]] = {}
        self._collect(end, 0)

    def _collect(self, spot: Spot, depth: int) -> frozenset[Key]:
        spot = self._settle(spot)
        key = spot.key
        if key in self.depends:
            return self.depends[key]
        if not is_variable(spot.node):
            self.depends[key] = frozenset()
            return frozenset()
        if not self._is_inner(spot.node) or depth > DEPTH:
            self.leaves[key] = spot
            self.depends[key] = frozenset({key})
            return self.depends[key]
        found = frozenset[Key]().union(
            *(self._collect(Spot(n, self.cuts_for(spot, n)), depth + 1) for n in spot.node.inputs)
        )
        self.depends[key] = found
        self.order.append(spot)
        return found

    def _settle(self, spot: Spot) -> Spot:
        while spot.node.id not in self.stops:
            back = step_through(spot)
            if back is None:
                break
            spot = back
        return spot

    def _is_inner(self, node: Node) -> bool:
        if node.id in self.stops:
            return False
        return node.kind == "elementwise" or (self.through_sums and node.kind == "reduction")

    @staticmethod
    def cuts_for(spot: Spot, operand: Node) -> tuple[Cut, ...]:
        """What is read of an operand; one that is repeated along a cut dimension is not cut there."""
        if spot.node.kind == "reduction":
            return ()
        missing = len(spot.node.shape) - len(operand.shape)
        kept = []
        for cut in spot.cuts:
            dim = cut.dim - missing
            if 0 <= dim < len(operand.shape) and operand.shape[dim] == cut.size:
                kept.append(cut._replace(dim=dim))
        return tuple(kept)

    def evaluate(self, values: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """Every spot's value (float64), for values of all leaves."""
        done = dict(values)
        for spot in self.order:
            done[spot.key] = self._apply(spot, done)
        return done

    def value(self, values: Mapping[Key, Tensor]) -> Tensor:
        """The end's value."""
        end = self._settle(self.end)
        done = self.evaluate(values)
        return done[end.key] if end.key in done else torch.tensor(end.node.value, dtype=torch.float64)

    def _apply(self, spot: Spot, done: Mapping[Key, Tensor]) -> Tensor:
        node = spot.node

        def lower(value: Any) -> Any:
            if isinstance(value, Node):
                inner = self._settle(Spot(value, self.cuts_for(spot, value)))
                if inner.key in done:
                    return done[inner.key]
                return torch.tensor(inner.node.value, dtype=torch.float64)  # a mask stands for its largest element
            return [lower(v) for v in value] if isinstance(value, list | tuple) else value

        if node.kind == "reduction":
            inner: Tensor = lower(node.args[0])
            count = _numel(node.inputs[0].shape) / max(1, _numel(node.shape))
            return inner * count if node.op == "sum" else inner
        args = [lower(a) for a in node.args]
        return apply_operation(node, args, {k: lower(v) for k, v in node.kwargs.items()}).double()


def apply_operation(node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The recorded operation on other tensors, never in place."""
    func = node.func
    if node.op in ("where", "masked_fill") and isinstance(args[0 if node.op == "where" else 1], Tensor):
        place = 0 if node.op == "where" else 1
        args[place] = args[place].bool()
    if func.overloadpacket.__name__.endswith("_"):
        shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
            *(a.shape for a in args if isinstance(a, Tensor))
        )
        args[0] = args[0].expand(shape).clone()
    result = func(*args, **kwargs)
    return result if isinstance(result, Tensor) else result[node.index]


def is_variable(node: Node) -> bool:
    """Whether a node is more than a constant: a network, a parameter or noise had a part in it, or it is data."""
    condition = node.op in ops.COMPARING and node.kind == "elementwise"
    return node.params or bool(node.noise) or (node.data and node.kind == "input") or condition


def operands(expression: Expression, spot: Spot) -> Iterator[Spot]:
    """The operands of a computed spot, moved back to where they were computed."""
    for node in spot.node.inputs:
        yield expression._settle(Spot(node, Expression.cuts_for(spot, node)))


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
