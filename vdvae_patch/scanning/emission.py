"""Where a raw value comes from: the module that emits it, and which of its channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.replay import Spot, apply_operation, settle

_LARGEST = 1 << 26


@dataclass(frozen=True)
class Emission:
    """The source of a raw value.

    Attributes:
        path: the module's name in the model, or the parameter's.
        parameter: whether it is a parameter and no module.
        channels: which of its output.
        at_output: whether the module returns it, so that its output can be replaced.
        reason: why not, otherwise.
    """

    path: str
    parameter: bool
    channels: ChannelRange
    at_output: bool
    reason: str = ""


def emission_of(graph: Graph, raw: Spot, moves: Sequence[Node]) -> Emission:
    """The emission of a leaf that is read after some operations that move elements.

    The emitter is the innermost module whose `forward` computed the value, if it returns it.
    """
    node = raw.node
    if node.kind == "parameter":
        reason = "it is a parameter, which no module emits"
        return Emission(node.op, True, ChannelRange(0), False, reason)
    if node.op == "mixed":
        reason = "the host changes it in place through a view of another shape, and what it was cannot be told"
        return Emission("", False, ChannelRange(0), False, reason)
    owner = next((f for f in node.frames if f.path is not None), None)
    emitted = _Emitted.of(graph, node, None if owner is None else owner.path)
    channels, exact = _channels(graph, emitted, raw, moves)
    if owner is None or owner.path is None:
        return Emission("", False, channels, False, "no module computes it")
    returned = graph.returned.get(node.id, [])
    builtin = not owner.host and owner.code.co_name == "forward"
    scripted = _scripted_owner(node)
    if scripted is not None and not builtin and scripted not in returned:
        reason = "it is computed inside TorchScript, where no Python runs that could be replaced"
        return Emission(scripted, False, channels, False, reason)
    if builtin or owner.path in returned:
        if not exact:
            return Emission(owner.path, False, ChannelRange(channels.dim), False, "its channels are no regular range")
        return Emission(owner.path, False, channels, True)
    if returned:
        return Emission(returned[0], False, channels, exact)
    reason = f"{owner.code.co_name} computes it in passing and does not return it"
    return Emission(owner.path, False, channels, False, reason)


def _scripted_owner(node: Node) -> str | None:
    """The module whose parameters an operation uses, by the parameter's name."""
    for source in node.inputs:
        back = source
        while back.kind == "shape" and back.inputs:
            back = back.inputs[0]
        if back.kind == "parameter" and "." in back.op:
            return back.op.rpartition(".")[0]
    return None


@dataclass(frozen=True)
class _Emitted:
    """A module's output in the shape in which it is returned.

    Attributes:
        node: the output: PyTorch's layers compute on fewer or more dimensions than they return.
        op: what computes it.
        ranks: how many dimensions the module's outputs have, over all its calls.
    """

    node: Node
    op: str
    ranks: frozenset[int]

    @classmethod
    def of(cls, graph: Graph, node: Node, path: str | None) -> _Emitted:
        """What the module at a path returns of a node that it computes; the node itself if it does not return it."""
        if path is None:
            return cls(node, node.op, frozenset({len(node.shape)}))
        outputs = [graph.nodes[number] for number, paths in graph.returned.items() if path in paths]
        ranks = frozenset(len(output.shape) for output in outputs) or frozenset({len(node.shape)})
        returned = {output.id for output in outputs}
        current: Node | None = node
        while current is not None:
            if current.id in returned:
                return cls(current, node.op, ranks)
            current = next(
                (
                    user
                    for user in graph.consumers.get(current.id, ())
                    if user.kind == "shape" and user.op in _RESHAPING and user.frames and user.frames[0].path == path
                ),
                None,
            )
        return cls(node, node.op, ranks)

    def outward(self, dim: int) -> int:
        """The last dimension as −1 where a layer acts on it, since there may be more or fewer before it."""
        last = dim == len(self.node.shape) - 1
        return (
            -1 if last and self.op not in _CONVOLUTIONS and (len(self.node.shape) > 2 or len(self.ranks) > 1) else dim
        )

    @property
    def usual(self) -> int:
        """The dimension along which the channels of a whole output lie."""
        rank = len(self.node.shape)
        if rank < 2:
            return self.outward(0)
        return self.outward(rank - 1 if self.op in _PRODUCTS else 1)


_CONVOLUTIONS = frozenset({"convolution", "_convolution"})
_PRODUCTS = frozenset({"addmm", "mm", "bmm", "baddbmm", "linear", "mv", "addmv", "add"})
_RESHAPING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"})


def _channels(graph: Graph, emitted: _Emitted, raw: Spot, moves: Sequence[Node]) -> tuple[ChannelRange, bool]:
    """The channels, and whether that is all there is to it."""
    node = emitted.node
    if not raw.cuts:
        return ChannelRange(emitted.usual), True
    exact = _moves(graph, raw)
    path = exact or list(moves)
    if node in path:
        path = path[path.index(node) + 1 :]
    if len(raw.cuts) == 1 and (not exact or _is_cut(path[0])):
        cut = raw.cuts[0]
        if len(node.shape) > cut.dim and node.shape[cut.dim] == cut.size:
            return _range(emitted, cut.dim, range(cut.start, cut.start + cut.step * cut.length, cut.step)), True
    if math.prod(node.shape) <= _LARGEST and path:
        try:
            return _channels_by_index(emitted, path)
        except (RuntimeError, IndexError):  # arithmetic on the way gave it another shape
            pass
    return ChannelRange(emitted.usual), False


def _range(emitted: _Emitted, dim: int, kept: range) -> ChannelRange:
    size = emitted.node.shape[dim]
    stop = kept[-1] + 1
    if size - stop < kept.step:
        stop = size  # 0:8:2, and not 0:7:2, of eight channels
    whole = kept.start == 0 and kept.step == 1 and stop == size
    return ChannelRange(emitted.outward(dim), kept.start, None if whole else stop, kept.step)


def _channels_by_index(emitted: _Emitted, path: Sequence[Node]) -> tuple[ChannelRange, bool]:
    """Follow the number of every element through the recorded moves."""
    node = emitted.node
    index = torch.arange(math.prod(node.shape)).reshape(node.shape)
    for move in path:
        if move.op in ("cat", "stack", "copy", "index", "gather", "index_select", "slice_scatter"):
            continue
        index = apply_operation(move, [index, *move.args[1:]], dict(move.kwargs))
    kept: torch.Tensor = index.unique()  # type: ignore[no-untyped-call]
    ranges = [
        _progression((kept // math.prod(node.shape[dim + 1 :]) % size).unique().tolist())  # type: ignore[no-untyped-call]
        for dim, size in enumerate(node.shape)
    ]
    partial = [d for d, kept_there in enumerate(ranges) if len(kept_there) < node.shape[d]]
    full = math.prod(map(len, ranges)) == kept.numel()
    if not partial:
        return ChannelRange(emitted.usual), full
    return _range(emitted, partial[-1], ranges[partial[-1]]), full and len(partial) == 1


def _progression(ascending: list[int]) -> range:
    """The smallest range that holds some numbers: theirs, if they follow each other at one distance."""
    steps = {b - a for a, b in itertools.pairwise(ascending)}
    step = steps.pop() if len(steps) == 1 else 1
    return range(ascending[0], ascending[-1] + step, step)


def _moves(graph: Graph, raw: Spot) -> list[Node]:
    """The operations that move elements and lead from the leaf's node to just what the leaf is."""
    todo: list[tuple[Node, list[Node]]] = [(raw.node, [])]
    for node, path in todo:
        for user in graph.consumers.get(node.id, ()):
            if user.kind != "shape" or len(path) > 12 or len(todo) > 500:
                continue
            longer = [*path, user]
            if settle(Spot(user)).key == raw.key:
                return longer
            todo.append((user, longer))
    return []


def _is_cut(node: Node) -> bool:
    return node.op in ("split", "chunk", "split_with_sizes", "slice", "narrow")
