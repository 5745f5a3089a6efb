"""Where a raw value comes from: the module that emits it, and which of its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.replay import Cut, Spot, apply_operation, settle

_LARGEST = 1 << 26


@dataclass(frozen=True)
class Emission:
    """The source of a raw value.

    Attributes:
        path: the module's name in the model, or the parameter's.
        parameter: whether it is a parameter and no module.
        dim, start, stop: the channels, `stop=None` for all to the end.
        at_output: whether the module returns it, so that its output can be replaced.
        reason: why not, otherwise.
    """

    path: str
    parameter: bool
    dim: int
    start: int
    stop: int | None
    at_output: bool
    reason: str = ""


def emission_of(graph: Graph, raw: Spot, moves: Sequence[Node]) -> Emission:
    """The emission of a leaf that is read after some operations that move elements.

    The emitter is the innermost module whose `forward` computed the value, if it returns it.
    """
    node = raw.node
    if node.kind == "parameter":
        reason = "it is a parameter, which no module emits"
        return Emission(node.op, True, 0, 0, None, False, reason)
    if node.op == "mixed":
        reason = "the host changes it in place through a view of another shape, and what it was cannot be told"
        return Emission("", False, 0, 0, None, False, reason)
    dim, start, stop, contiguous = _channels(node, raw, _moves(graph, raw) or moves)
    owner = next((f for f in node.frames if f.path is not None), None)
    if owner is None or owner.path is None:
        return Emission("", False, dim, start, stop, False, "no module computes it")
    returned = graph.returned.get(node.id, [])
    builtin = not owner.host and owner.code.co_name == "forward"
    scripted = _scripted_owner(node)
    if scripted is not None and not builtin and scripted not in returned:
        reason = "it is computed inside TorchScript, where no Python runs that could be replaced"
        return Emission(scripted, False, dim, start, stop, False, reason)
    if builtin or owner.path in returned:
        if not contiguous:
            return Emission(owner.path, False, dim, 0, None, False, "its channels are not one range")
        return Emission(owner.path, False, dim, start, stop, True)
    if returned:
        return Emission(returned[0], False, dim, start, stop, contiguous)
    return Emission(
        owner.path,
        False,
        dim,
        start,
        stop,
        False,
        f"{owner.code.co_name} computes it in passing and does not return it",
    )


def _scripted_owner(node: Node) -> str | None:
    """The module whose parameters an operation uses, by the parameter's name."""
    for source in node.inputs:
        back = source
        while back.kind == "shape" and back.inputs:
            back = back.inputs[0]
        if back.kind == "parameter" and "." in back.op:
            return back.op.rpartition(".")[0]
    return None


def _channels(node: Node, raw: Spot, path: Sequence[Node]) -> tuple[int, int, int | None, bool]:
    """Dimension, start, stop, and whether that is all there is to it."""
    rank = len(node.shape)
    default = min(1, rank - 1) if rank else 0
    if not raw.cuts:
        return _outward(node, default), 0, None, True
    first = path[0] if path else None
    if len(raw.cuts) == 1 and first is not None and _is_cut(first):
        cut = raw.cuts[0]
        if cut.start >= 0 and rank > cut.dim and node.shape[cut.dim] == cut.size:
            return _range(node, cut)
    if math.prod(node.shape) > _LARGEST:
        return default, 0, None, False
    return _channels_by_index(node, path, default)


def _range(node: Node, cut: Cut) -> tuple[int, int, int | None, bool]:
    stop = cut.start + cut.length
    return _outward(node, cut.dim), cut.start, None if stop == cut.size and cut.start == 0 else stop, True


def _channels_by_index(node: Node, path: Sequence[Node], default: int) -> tuple[int, int, int | None, bool]:
    """Follow the number of every element through the recorded moves."""
    index = torch.arange(math.prod(node.shape)).reshape(node.shape)
    for move in path:
        if move.op in ("cat", "stack", "copy", "index", "gather", "index_select", "slice_scatter"):
            continue
        index = apply_operation(move, [index, *move.args[1:]], dict(move.kwargs))
    kept: torch.Tensor = index.unique()  # type: ignore[no-untyped-call]
    ranges = []
    for dim, size in enumerate(node.shape):
        coordinate = kept // math.prod(node.shape[dim + 1 :]) % size
        ranges.append((int(coordinate.min()), int(coordinate.max()) + 1))
    partial = [d for d, (low, high) in enumerate(ranges) if high - low < node.shape[d]]
    full = math.prod(high - low for low, high in ranges) == kept.numel()
    if not partial:
        return _outward(node, default), 0, None, full
    dim = partial[-1]
    return _outward(node, dim), *ranges[dim], full and len(partial) == 1


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


def _outward(node: Node, dim: int) -> int:
    """The last dimension as −1 where a layer acts on it, since there may be more or fewer before it."""
    if dim == len(node.shape) - 1 and len(node.shape) > 2 and node.op not in ("convolution", "_convolution"):
        return -1
    return dim
