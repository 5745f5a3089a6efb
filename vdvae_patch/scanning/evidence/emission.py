"""Where a raw value comes from: the module that emits it, and which of its channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cut, argument, progressions
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.arithmetic.layers import is_recurrent


@dataclass(frozen=True)
class Emission:
    """The source of a raw value.

    Attributes:
        path: the module's name in the model, or the parameter's.
        parameter: whether it is a parameter and no module.
        channels: which of its output.
        at_output: whether the module returns it, so that its output can be replaced.
        reason: why not, otherwise.
        layer: whether the module is a subclass of a layer of PyTorch's whose own `forward` calls the layer's, and
            returns something else: parts of what that call gives.
        size: how many channels the output has along theirs, where that is the layer's own number; None where it is one
            of examples or of steps of time, which are others in the next batch, or where all channels are meant.
    """

    path: str
    parameter: bool
    channels: ChannelRange
    at_output: bool
    reason: str = ""
    layer: bool = False
    size: int | None = None


def emission_of(graph: Graph, raw: Spot) -> Emission:
    """The emission of a leaf.

    The emitter is the innermost module whose `forward` computed the value, if it returns it.
    """
    node = raw.node
    if node.kind == "parameter":
        reason = "it is a parameter, which no module emits"
        cut = _cut_of_channels(raw)
        channels = ChannelRange(0) if cut is None else _range_of(cut, cut.dim)
        return Emission(node.name, True, channels, False, reason)
    averaged = _averaged(raw)
    if averaged is not None:
        found = emission_of(graph, averaged)
        return replace(found, at_output=False, reason="its raw value is a mean over several of its module's outputs")
    if node.op == "mixed":
        reason = "the host changes it in place through a view of another shape, and what it was cannot be told"
        return Emission("", False, ChannelRange(0), False, reason)
    owner = next((f for f in node.frames if f.path is not None), None)
    emitted = _Emitted.of(graph, node, None if owner is None else owner.path)
    rows = node.id in graph.stacked
    channels, exact = _rows(emitted, raw) if rows else _channels(emitted, raw)
    scripted = _scripted_owner(node)
    if owner is None or owner.path is None:
        if scripted is not None:
            return Emission(scripted, False, channels, False, SCRIPTED)
        return Emission("", False, channels, False, "no module computes it")
    returned = graph.returned.get(emitted.node.id, [])
    # a subclass of PyTorch's layer runs in it, too, and may return something else
    layer = not owner.host and owner.code.co_name == "forward"
    around = [f for f in node.frames if f.path == owner.path and f.host and f.code.co_name == "forward"]
    builtin = layer and not around
    if scripted is not None and not builtin and scripted not in (owner.path, *returned):
        return Emission(scripted, False, channels, False, SCRIPTED)
    if builtin and is_recurrent(owner) and not graph.outputs_of(owner.path):
        return Emission(owner.path, False, channels, False, "its module returns several values, of which it is one")
    if builtin or owner.path in returned:
        if not exact:
            return Emission(owner.path, False, ChannelRange(channels.dim), False, "its channels are no regular range")
        return Emission(owner.path, False, channels, True, size=emitted.own_size(channels))
    if returned:
        return Emission(returned[0], False, channels, exact)
    if owner.path in graph.returned_beside.get(emitted.node.id, []):
        return Emission(owner.path, False, channels, False, "its module returns several values, of which it is one")
    reason = f"{owner.code.co_name} {IN_PASSING}"
    return Emission(owner.path, False, channels, False, reason, layer=layer and exact)


def _averaged(raw: Spot) -> Spot | None:
    """One of the outputs of one layer that the host takes a mean of, as over samples:

        out = torch.stack([self.net(x) for _ in range(n)]).mean(0)

    None for what is no such mean, and for that over a layer's own channels or places, which is another value.
    """
    node = raw.node
    if node.kind != "reduction" or not node.inputs or any(cut.dim == UNKNOWN for cut in raw.cuts):
        return None
    source = node.inputs[0]
    dims = argument(node, 1, "dim", None)
    if source.op != "stack" or not source.inputs or dims not in ([0], 0) or argument(source, 1, "dim", 0) != 0:
        return None
    kept = node.shape == source.shape[1:]
    leaf = settle(Spot(source, tuple(c._replace(dim=c.dim + kept) for c in raw.cuts)))
    return leaf if leaf.node.kind == "opaque" else None


IN_PASSING = "computes it in passing and does not return it"
SCRIPTED = (
    "it is computed inside TorchScript, where no Python runs that could be replaced (patch its Python module, and "
    "trace it then)"
)


def _scripted_owner(node: Node) -> str | None:
    """The module whose parameters an operation uses, by the parameter's name."""
    for source in node.inputs:
        back = source
        while back.kind == "shape" and back.inputs:
            back = back.inputs[0]
        if back.kind == "parameter" and "." in back.name:
            return back.name.rpartition(".")[0]
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
        outputs = graph.outputs_of(path)
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
                    if user.op in ops.KEEPING_CHANNELS and user.frames and user.frames[0].path == path and _moves(user)
                ),
                None,
            )
        return cls(node, node.op, ranks)

    def outward(self, dim: int) -> int:
        """The last dimension as −1 where a layer acts on it, since there may be more or fewer before it."""
        last = dim == len(self.node.shape) - 1
        varying = len(self.node.shape) > 2 or len(self.ranks) > 1
        return -1 if last and varying and self.op not in ops.CONVOLUTIONS else dim

    def own_size(self, channels: ChannelRange) -> int | None:
        """How many channels the layer puts out along a range of them; None where other batches have others."""
        rank = len(self.node.shape)
        convolved = self.op in ops.CONVOLUTIONS | ops.NORMALIZATIONS and rank > 2
        if channels.stop is None or rank < 2 or channels.dim % rank != (1 if convolved else rank - 1):
            return None
        return self.node.shape[channels.dim]

    @property
    def usual(self) -> int:
        """The dimension along which the channels of a whole output lie."""
        rank = len(self.node.shape)
        if rank < 2:
            return self.outward(0)
        return self.outward(rank - 1 if self.op in ops.CHANNELS_LAST else 1)


def _moves(node: Node) -> bool:
    """Whether a product only sums over neighbours, as a graph layer does: its other operand is no network's."""
    return node.op not in ops.COMBINING or sum(n.params for n in node.inputs) == 1


def _channels(emitted: _Emitted, raw: Spot) -> tuple[ChannelRange, bool]:
    """The channels, and whether they are all there is to it."""
    cut = _cut_of_channels(raw)
    if (cut is None or cut.dim == UNKNOWN) and any(c.dim == UNKNOWN for c in raw.cuts):
        return ChannelRange(emitted.usual), False  # else it is a part of these channels: of steps of time, say
    if cut is None:
        return ChannelRange(emitted.usual), True
    # layers compute on more or fewer leading dimensions than they return; a pooling of a sequence on one more behind
    dim = len(emitted.node.shape) - len(raw.node.shape) + cut.dim
    before = slice(0, cut.dim + 1)
    if (dim < 0 or emitted.node.shape[dim] != cut.size) and emitted.node.shape[before] == raw.node.shape[before]:
        dim = cut.dim
    if dim < 0 or emitted.node.shape[dim] != cut.size:
        return ChannelRange(emitted.usual), False
    return _range_of(cut, emitted.outward(dim)), True


def _rows(emitted: _Emitted, raw: Spot) -> tuple[ChannelRange, bool]:
    """The part of the first dimension that is a raw value; a layer computes on fewer dimensions than it returns."""
    (cut,) = raw.cuts
    shape = emitted.node.shape
    if shape[:1] == (cut.size,):
        return _range_of(cut, 0), True
    leading = shape[: len(shape) - len(raw.node.shape) + 1]
    parts = progressions(torch.tensor(cut.places), leading) if math.prod(leading) == cut.size else None
    if parts is None or [part.dim for part in parts] != [0]:
        return ChannelRange(emitted.usual), False
    return _range_of(parts[0], 0), True


def _range_of(cut: Cut, dim: int) -> ChannelRange:
    stop = cut.places[-1] + 1
    if cut.size - stop < cut.step:
        stop = cut.size  # 0:8:2, and not 0:7:2, of eight channels
    return ChannelRange(dim, cut.start, stop, cut.step)


def examples_cut(graph: Graph, raw: Spot) -> frozenset[Cut]:
    """What is cut out of a network's output that is no range of channels: examples, or steps of time, in whose place
    there are others in the next batch."""
    if raw.node.kind == "parameter" or raw.node.id in graph.stacked:
        return frozenset()
    return frozenset(cut for cut in raw.cuts if cut.dim != UNKNOWN) - {_cut_of_channels(raw)}


def _cut_of_channels(raw: Spot) -> Cut | None:
    """Of what is cut out of a layer's output, the channels; the rest are examples, steps of time, or places."""
    node, cuts = raw.node, raw.cuts
    rank = len(node.shape)
    if node.kind == "parameter" or rank == 1:
        return cuts[-1] if cuts else None
    if node.op in ops.CONVOLUTIONS | ops.NORMALIZATIONS or (rank > 3 and node.op not in ops.CHANNELS_LAST):
        along = next((c for c in cuts if c.dim == 1), None)
        # a layer of one channel, or the normalization of another's output: means and scales lie where they lay before
        if along is not None or not (node.shape[1] == 1 or _normalized(node).op in ops.CHANNELS_LAST):
            return along
    last = next((c for c in cuts if c.dim == rank - 1), None)
    between = [c for c in cuts if 0 < c.dim < rank - 1 and c.length > 1]
    return last or (between[-1] if between else None)


def _normalized(node: Node) -> Node:
    """The layer's output that a normalization has in its place, with the same last dimension; else the node itself."""
    while node.inputs and node.op in ops.NORMALIZATIONS | ops.VIEWS and node.inputs[0].shape[-1:] == node.shape[-1:]:
        node = node.inputs[0]
    return node
