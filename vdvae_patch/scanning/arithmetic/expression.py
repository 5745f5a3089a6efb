"""Evaluate recorded arithmetic again, on values of our choice.

An elementwise expression is a function of its leaves: outputs of networks, parameters, draws of noise. Operations that
only move elements are skipped, but what they cut out is remembered: the first and the second half of one output are two
leaves. What no parameter reaches (masks, temperatures) stands for itself with its largest element.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vdvae_patch
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import Cut, Cuts, argument, broadcast, cut_of, lies_in, source_cuts
from vdvae_patch.scanning.arithmetic.graph import Frame, Node, broadcast_shape
from vdvae_patch.scanning.arithmetic.written_parts import parts_of_write

DEPTH = 80
"""Steps after which an expression counts as a leaf: no host computes a scale by a longer one, but a trunk is a sum."""


SpotKey = tuple[int, tuple[Cut, ...]]
"""Of a part of a tensor: its node's number, and what is cut out."""


class Spot(NamedTuple):
    """A node, and what is cut out of it on the way to where it is read."""

    node: Node
    cuts: tuple[Cut, ...] = ()

    @property
    def key(self) -> SpotKey:
        """Equal for equal parts of one tensor."""
        return self.node.id, self.cuts


def step_through(spot: Spot) -> Spot | None:
    """One operation back, if it only moves elements; None if it does more, or if its inputs are different things."""
    known = spot.node.stepped
    if known is None:
        return _stepped(spot)
    if spot.cuts not in known:  # every expression that reads a value takes the same steps
        known[spot.cuts] = _stepped(spot)
    found: Spot | None = known[spot.cuts]
    return found


def _stepped(spot: Spot) -> Spot | None:
    node = spot.node
    if node.op in ops.COMBINING:
        learned = [n for n in node.inputs if n.params or n.noise]
        if len(learned) != 1:
            return None
        if learned[0].params and not node.moves:
            return None  # a sum over neighbours, or a mixture of channels, is another value
        # what comes from parameters alone is a weight, unless constants (a one-hot vector) pick from it
        looked_up = bool(node.frames) and node.frames[0].host and not any(n.data for n in node.inputs)
        # so are weights that are drawn, by which a layer multiplies data
        drawn = bool(learned[0].noise) and not (learned[0].params and any(n.data and not n.mask for n in node.inputs))
        return Spot(learned[0], ()) if learned[0].data or drawn or looked_up else None
    if node.kind != "shape" or not node.inputs:
        return None
    if node.op in ops.JOINING or node.op in ops.WRITING:
        return _one_of(_put_together(spot))
    source = node.inputs[0]
    return Spot(source, source_cuts(node, source, spot.cuts))


def pieces(spot: Spot) -> list[Spot]:
    """The pieces of tensors that were joined or stacked, of which a part of the result is made."""
    node, parts = spot.node, spot.node.inputs
    dim = argument(node, 1, "dim", 0) % len(node.shape)
    own = next((c for c in spot.cuts if c.dim == dim), None)
    rest = tuple(c for c in spot.cuts if c is not own)
    if node.op == "stack":
        outward = tuple(c._replace(dim=c.dim - (c.dim > dim)) for c in rest)
        kept = parts if own is None else [parts[place] for place in own.places]
        return [Spot(part, outward) for part in kept]
    return _pieces(parts, dim, own, rest)


def written_pieces(spot: Spot) -> list[Spot]:
    """What networks put out of all that was written into a tensor, one piece of each line and module."""
    found: dict[Any, Spot] = {}
    for piece in _put_together(spot):
        if is_variable(piece.node) and piece.node.params:
            found.setdefault(_signature(piece), piece)
    return list(found.values())


def _pieces(parts: list[Node], dim: int, own: Cut | None, rest: Cuts) -> list[Spot]:
    """The pieces of joined tensors that a cut along the joint takes a share of."""
    pieces, start = [], 0
    for part in parts:
        size = part.shape[dim] if len(part.shape) > dim else 0
        inside = range(start, start + size)
        there = inside if own is None else [place for place in own.places if place in inside]
        if len(there):
            step = own.step if own is not None and len(there) > 1 else 1
            kept = range(there[0] - start, there[-1] - start + 1, step)
            pieces.append(Spot(part, rest if len(kept) == size else tuple(sorted((*rest, cut_of(dim, kept, size))))))
        start += size
    return pieces


def _put_together(spot: Spot) -> list[Spot]:
    """The pieces of which joins and writes to a part made what is read here, moved back to where each was computed.

    A loop over time writes or joins once a step, and each step's result goes into the next step's: thousands deep, so
    that this is a loop, too. A piece that is met again is looked at once.
    """
    found: list[Spot] = []
    todo, seen = [spot], set[SpotKey]()
    while todo:
        piece = todo.pop()
        if piece.key in seen:
            continue
        seen.add(piece.key)
        node = piece.node
        if node.kind == "shape" and node.inputs and node.op in ops.JOINING:
            todo += reversed(pieces(piece))
        elif node.kind == "shape" and node.op in ops.WRITING:
            parts = parts_of_write(node, piece.cuts)
            if parts is None:
                found.append(piece)
            else:
                todo += [Spot(*part) for part in reversed(parts)]
        elif (back := step_through(piece)) is not None:
            todo.append(back)
        else:
            found.append(piece)
    return found


def _one_of(settled: list[Spot]) -> Spot | None:
    """One of some pieces, if all are the same part of one tensor, or results of one line: of a loop over time; or if
    all are of one of them, as the rows are that a bank keeps."""
    # the rest are zeros, or parameters, before the first step
    variable = [spot for spot in settled if is_variable(spot.node)]
    variable = [spot for spot in variable if spot.node.data or spot.node.noise] or variable
    if not variable:
        return next(iter(settled), None)
    if len({spot.key for spot in variable}) == 1 or len({_signature(spot) for spot in variable}) == 1:
        return variable[-1]
    return next((whole for whole in variable if all(_are_rows(part, whole) for part in variable)), None)


def _are_rows(part: Spot, whole: Spot) -> bool:
    """Whether a part of a tensor is some rows of another part, or that itself."""
    further = set(part.cuts) - set(whole.cuts)
    return part.node is whole.node and lies_in(part.cuts, whole.cuts) and all(cut.dim == 0 for cut in further)


def _signature(spot: Spot) -> tuple[Any, ...]:
    node = spot.node
    if not node.frames:
        return (node.id, spot.cuts)
    # a loop over laws, and not over time, has a parameter of its own for each of them
    own = tuple(n.name for n in node.inputs if n.kind == "parameter")
    return node.op, node.index, tuple(frame[:2] for frame in _told_apart(node.frames)), spot.cuts, _emitter(node), own


def _told_apart(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The line of the host at which a value is computed, and the one that called it. What a patch computes in the place
    of a host's expression is computed at one line of this package, whichever head it is of; that comes before."""
    own = next((place for place, frame in enumerate(frames) if not _is_of_patch(frame)), 0)
    return frames[: own + 2]


def _is_of_patch(frame: Frame) -> bool:
    return frame.code.co_filename.startswith(_OF_PATCH)


_PACKAGE = os.path.dirname(os.path.abspath(vdvae_patch.__file__))
_OF_PATCH = tuple(os.path.join(_PACKAGE, name) for name in ("scales", "attach", "conventions", "composition"))
"""Where a patch's own arithmetic stands."""


def _emitter(node: Node) -> str | None:
    """The module that computed a value, or what arithmetic of one value after another made it of: the nets of an
    ensemble run the same lines."""
    for _ in range(DEPTH):
        learned = [n for n in node.inputs if n.params]
        if node.kind not in ("elementwise", "shape") or not learned:
            break
        source = learned[0] if len(learned) == 1 else _source(node)
        if source is None:
            break
        node = source
    return next((frame.path for frame in node.frames if frame.path is not None), None)


def _source(node: Node) -> Node | None:
    """The one value that arithmetic reads more than once, as a scale does in `where(p > 0, 1 + p, exp(p))`, or beside
    parameters, as between learned bounds; None if it reads others, too."""
    todo, seen, ends = [node], {node.id}, list[Node]()
    while todo and len(seen) < _MOST_READ and len(ends) < 2:
        current = todo.pop()
        learned = [n for n in current.inputs if n.params and n.kind != "parameter"]
        if current.kind not in ("elementwise", "shape") or not learned:
            ends.append(current)
        todo += [n for n in learned if n.id not in seen] if current not in ends else []
        seen.update(n.id for n in learned)
    return ends[0] if len(ends) == 1 and not todo else None


_MOST_READ = 64
"""A limit of work; the scales of this package take up to 27 operations."""


def settle(spot: Spot) -> Spot:
    """Back through everything that only moves elements."""
    while (back := step_through(spot)) is not None:
        spot = back
    return spot


_NONE = frozenset[SpotKey]()


class _TooManyLeavesError(Exception):
    """An expression has more leaves than it may have."""


class Expression:
    """The elementwise expression that ends in a spot.

    Args:
        stops: nodes that count as leaves though they are computed (a sum of raw values, a sample).
        through_sums: whether `sum` and `mean` belong to the expression; of equal elements a sum is a multiple.
        most: of how many leaves it is of use; of one that has more, only so many that this shows are looked for.
    """

    def __init__(
        self,
        end: Spot,
        stops: frozenset[int] = frozenset(),
        through_sums: bool = False,
        *,
        most: float = math.inf,
    ) -> None:
        self.end = end
        self.stops = stops
        self.through_sums = through_sums
        self._most = most
        self.leaves: dict[SpotKey, Spot] = {}
        self.order: list[Spot] = []  # computed spots, operands before what is computed of them
        self.depends: dict[SpotKey, frozenset[SpotKey]] = {}
        self._settled: dict[SpotKey, tuple[list[Any], dict[str, Any]]] = {}
        with suppress(_TooManyLeavesError):
            self._collect(end, 0)

    def _collect(self, spot: Spot, depth: int) -> frozenset[SpotKey]:
        spot = self._settle(spot)
        key = spot.key
        known = self.depends.get(key)
        if known is not None:
            return known
        if not is_variable(spot.node) and not _is_squared_data(spot.node):
            found = _NONE
        elif depth > DEPTH or not self._is_inner(spot.node):
            self.leaves[key] = spot
            if len(self.leaves) > self._most:
                raise _TooManyLeavesError
            found = frozenset({key})
        else:
            found = _NONE
            for node in spot.node.inputs:
                below = self._collect(Spot(node, self.cuts_for(spot, node)), depth + 1)
                found = found | below if found else below
            self.order.append(spot)
        self.depends[key] = found
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
        return broadcast(spot.cuts, spot.node, operand)

    def evaluate(
        self, values: Mapping[SpotKey, Tensor], known: Mapping[SpotKey, Tensor] | None = None
    ) -> dict[SpotKey, Tensor]:
        """Every spot's value (float64), for values of all leaves.

        Args:
            known: values of all spots where other leaves than those in `values` are the same; `values` may then leave
                these out, and only what depends on its leaves is computed.
        """
        if known is None:
            done = dict(values)
            for spot in self.order:
                done[spot.key] = self._apply(spot, done)
            return done
        done = {**known, **values}
        for spot in self.order:
            if not self.depends[spot.key].isdisjoint(values):
                done[spot.key] = self._apply(spot, done)
        return done

    def value(self, values: Mapping[SpotKey, Tensor]) -> Tensor:
        """The end's value."""
        return self.value_in(self.evaluate(values))

    def value_in(self, done: Mapping[SpotKey, Tensor]) -> Tensor:
        """The end's value among those of all spots."""
        end = self._settle(self.end)
        return done[end.key] if end.key in done else torch.tensor(end.node.value, dtype=torch.float64)

    def _apply(self, spot: Spot, done: Mapping[SpotKey, Tensor]) -> Tensor:
        node = spot.node

        settled = self._settled.get(spot.key)
        if settled is None:
            settled = self._settled[spot.key] = self._with_spots(spot)
        args, kwargs = settled
        kept = _kept(node, args)
        if kept is not None:
            value: Tensor = _of_spots(kept, done)
            return value
        if node.kind == "reduction":
            inner: Tensor = _of_spots(args[0], done)
            count = _numel(node.inputs[0].shape) / max(1, _numel(node.shape))
            return inner * count if node.op == "sum" else inner
        named = {key: _of_spots(value, done) for key, value in kwargs.items()}
        return apply_operation(node, [_of_spots(a, done) for a in args], named).double()

    def _with_spots(self, spot: Spot) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a computed spot, with spots, moved back to where they begin, in the place of nodes."""
        args, kwargs = spot.node.args, spot.node.kwargs
        return [self._spots_of(spot, a) for a in args], {key: self._spots_of(spot, a) for key, a in kwargs.items()}

    def _spots_of(self, spot: Spot, value: Any) -> Any:
        if isinstance(value, Node):
            return self._settle(Spot(value, self.cuts_for(spot, value)))
        return [self._spots_of(spot, v) for v in value] if isinstance(value, list | tuple) else value


def _of_spots(value: Any, done: Mapping[SpotKey, Tensor]) -> Any:
    """An argument with the values of spots in their place; a mask stands for its largest element."""
    if isinstance(value, Spot):
        known = done.get(value.key)
        return torch.tensor(value.node.value, dtype=torch.float64) if known is None else known
    return [_of_spots(v, done) for v in value] if isinstance(value, list) else value


def _kept(node: Node, args: Sequence[Any]) -> Spot | None:
    """What a mask of constants keeps of what was computed, where it fills in a constant elsewhere; else None."""
    if node.op == "masked_fill":
        learned, mask = [args[0]], args[1]
    elif node.op == "where" and len(args) == 3:
        learned, mask = [a for a in args[1:] if isinstance(a, Spot) and a.node.params], args[0]
    else:
        return None
    constant = isinstance(mask, Spot) and not is_variable(mask.node)
    return learned[0] if constant and len(learned) == 1 and isinstance(learned[0], Spot) else None


def apply_operation(node: Node, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The recorded operation on other tensors, never in place."""
    func = node.func
    condition = {"where": 0, "masked_fill": 1}.get(node.op)
    if condition is not None and isinstance(args[condition], Tensor):
        args[condition] = args[condition].bool()
    if func.overloadpacket.__name__.endswith("_"):
        shape = broadcast_shape(*(a.shape for a in args if isinstance(a, Tensor)))
        args[0] = args[0].expand(shape).clone()
    result = func(*args, **kwargs)
    return result if isinstance(result, Tensor) else result[node.index]


def is_variable(node: Node) -> bool:
    """Whether a node is more than a constant: a network, a parameter or noise had a part in it, or it is data."""
    condition = node.op in ops.COMPARING and node.kind == "elementwise"
    return node.params or bool(node.noise) or (node.data and node.kind == "input" and not node.mask) or condition


def _is_squared_data(node: Node) -> bool:
    """Whether a value is the square of data, as they are: of a density that is written out, `x**2 * eta_2 + x * eta_1`,
    it is no other value than x."""
    if not node.data or node.params or node.noise or node.kind != "elementwise" or not node.inputs:
        return False
    squares = node.op == "square" or (node.op == "pow" and len(node.args) > 1 and node.args[1] == 2)
    squares |= node.op == "mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    source = settle(Spot(node.inputs[0])).node
    return squares and source.kind == "input" and not source.mask


def operands(expression: Expression, spot: Spot) -> Iterator[Spot]:
    """The operands of a computed spot, moved back to where they were computed."""
    for node in spot.node.inputs:
        yield expression._settle(Spot(node, Expression.cuts_for(spot, node)))


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
