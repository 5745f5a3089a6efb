"""What an operation that only moves elements keeps of its source, and what a part of its result is a part of.

A part of a tensor is written down as cuts, ranges of some of its dimensions, at most one a dimension. Going back
through a view, a permutation, a slice or a selection, the cuts are turned into those of the source, so that equal parts
of one tensor have equal cuts, by whatever way they were taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Node


class Cut(NamedTuple):
    """A range of a dimension of a given size: `length` places from `start`, every `step`-th one.

    A part that ranges of dimensions cannot say is a cut of dimension `UNKNOWN`, equal to itself only.
    """

    dim: int
    start: int
    length: int
    size: int
    step: int = 1

    @property
    def places(self) -> range:
        """The places that are kept."""
        return range(self.start, self.start + self.step * self.length, self.step)


UNKNOWN = -1
Cuts = tuple[Cut, ...]

_LARGEST_GROUP = 1 << 16


def lies_in(part: Cuts, whole: Cuts) -> bool:
    """Whether a part of a tensor lies in another part of it; what no ranges can say, in its equal only."""
    own = {cut.dim: cut for cut in part}

    def has(cut: Cut) -> bool:
        inner = own.get(cut.dim)
        if inner is None or inner == cut or cut.dim == UNKNOWN:
            return inner == cut
        return set(inner.places) <= set(cut.places)

    return all(map(has, whole))


def cut_of(dim: int, kept: range, size: int) -> Cut:
    """The cut that keeps some places of a dimension."""
    return Cut(dim, kept.start, len(kept), size, kept.step if len(kept) > 1 else 1)


def source_cuts(node: Node, source: Node, cuts: Cuts) -> Cuts:
    """The cuts of the source of an operation that only moves elements, for cuts of its result."""
    if not source.shape:
        return ()
    rank = len(source.shape)
    if node.op in ops.SELECTING:
        place = node.index if node.op == "unbind" else argument(node, 2, "index", 0)
        dim = argument(node, 1, "dim", 0) % rank
        inner = tuple(c._replace(dim=c.dim + (c.dim >= dim)) for c in cuts)
        return _with(inner, Cut(dim, place % source.shape[dim], 1, source.shape[dim]))
    narrowing = _narrowing(node, source)
    if narrowing is not None:
        return _with(cuts, narrowing)
    if node.op in ops.PERMUTING or (node.shape == source.shape and node.op not in ops.SHUFFLING):
        permutation = permutation_of(node, rank)
        return tuple(sorted(c._replace(dim=permutation[c.dim]) if c.dim >= 0 else c for c in cuts))
    if node.op in ops.REPEATING:
        return broadcast(cuts, node, source)
    if node.op not in ops.SHUFFLING and math.prod(node.shape) == math.prod(source.shape):
        return _through_view(node, source, cuts)
    picked = _picked_range(node, source)
    if picked is not None:
        return _with(cuts, picked)
    return _beside_shuffle(node, source, cuts)


def _picked_range(node: Node, source: Node) -> Cut | None:
    """What is picked along one dimension by constant indices that are a range: `index_select(1, torch.arange(3))`."""
    if node.op == "index_select" and len(node.args) > 2:
        dim, index = node.args[1] % len(source.shape), node.args[2]
    elif node.op == "index" and [i for i in node.args[1] if i is not None] == node.args[1][-1:]:
        dim, index = len(node.args[1]) - 1, node.args[1][-1]
    else:
        return None
    indices = node.picked.get(index.id) if isinstance(index, Node) and not (index.data or index.params) else None
    if indices is None or indices.dim() != 1 or indices.dtype == torch.bool or not indices.numel():
        return None
    places = (indices % source.shape[dim]).tolist()
    steps = {b - a for a, b in itertools.pairwise(places)} or {1}
    step = steps.pop()
    if steps or step < 1:
        return None
    return cut_of(dim, range(places[0], places[-1] + 1, step), source.shape[dim])


def _beside_shuffle(node: Node, source: Node, cuts: Cuts) -> Cuts:
    """Cuts of what was picked, reversed or diagonalized along some dimensions; those of other dimensions are kept."""
    ranks, rank = len(node.shape), len(source.shape)
    touched = node.args[1] if node.op == "index" else argument(node, 1, "dim", None)
    found = []
    for cut in cuts:
        dim = cut.dim + rank - ranks if node.op == "index" else cut.dim
        apart = dim >= len(touched) if node.op == "index" else isinstance(touched, int) and dim != touched % rank
        if cut.dim < 0 or not apart or not 0 <= dim < rank or source.shape[dim] != cut.size:
            return unknown(node, cuts)
        found.append(cut._replace(dim=dim))
    return tuple(found)


def unknown(node: Node, cuts: Cuts) -> Cuts:
    """What cannot be said as ranges of the source."""
    return (Cut(UNKNOWN, node.id, hash(cuts) & 0xFFFFFFFF, 0),)


def argument(node: Node, position: int, name: str, default: Any) -> Any:
    """An argument of a recorded operation, by position or name."""
    if name in node.kwargs and node.kwargs[name] is not None:
        return node.kwargs[name]
    value = node.args[position] if len(node.args) > position else None
    return default if value is None else value


def _with(cuts: Cuts, outer: Cut) -> Cuts:
    """Cuts of a part, and the cut that made the part, as cuts of the whole."""
    if outer.length == outer.size and outer.start == 0:
        return cuts
    inner = next((c for c in cuts if c.dim == outer.dim), None)
    rest = tuple(c for c in cuts if c.dim != outer.dim)
    if inner is not None and inner.length:
        outer = cut_of(outer.dim, outer.places[inner.places[0] : inner.places[-1] + 1 : inner.step], outer.size)
    return tuple(sorted((*rest, outer)))


def _narrowing(node: Node, source: Node) -> Cut | None:
    """What a narrowing operation keeps of its source; None for one that does something else."""
    rank = len(source.shape)
    if node.op not in ops.NARROWING:
        return None
    if node.op == "slice" or node.op == "narrow":
        dim = argument(node, 1, "dim", 0) % rank
        start = argument(node, 2, "start", 0)
        start = max(0, start + source.shape[dim] if start < 0 else start)
        step = argument(node, 4, "step", 1) if node.op != "narrow" else 1
        return Cut(dim, start, node.shape[dim], source.shape[dim], step if node.shape[dim] > 1 else 1)
    dim = argument(node, 2, "dim", 0) % rank
    sizes = node.args[1]  # of the parts, or of each part; for `chunk` the number of parts
    if isinstance(sizes, list | tuple):
        start = sum(sizes[: node.index])
    elif node.op == "chunk":
        start = node.index * -(-source.shape[dim] // sizes)
    else:
        start = node.index * sizes
    return Cut(dim, start, node.shape[dim], source.shape[dim])


def permutation_of(node: Node, rank: int) -> list[int]:
    """Which dimension of the source each dimension of the result is."""
    order = list(range(rank))
    if node.op == "permute":
        return [d % rank for d in node.args[1]]
    if node.op == "transpose":
        a, b = (argument(node, i, name, 0) % rank for i, name in ((1, "dim0"), (2, "dim1")))
        order[a], order[b] = b, a
    elif node.op == "t":
        order.reverse()
    elif node.op == "movedim":
        moved = torch.empty((1,) * rank).movedim(*node.args[1:])
        if moved.dim() == rank:  # by numbering the dimensions as sizes
            sizes = torch.empty(tuple(range(2, 2 + rank)), device="meta").movedim(*node.args[1:]).shape
            order = [size - 2 for size in sizes]
    return order


def broadcast(cuts: Cuts, node: Node, source: Node) -> Cuts:
    """Cuts of what is repeated; along a dimension that is repeated every part is the whole."""
    if not cuts:
        return ()
    missing = len(node.shape) - len(source.shape)
    kept = []
    for cut in cuts:
        dim = cut.dim - missing
        if cut.dim >= 0 and dim >= 0 and source.shape[dim] == cut.size:
            kept.append(cut._replace(dim=dim))
        elif cut.dim == UNKNOWN:
            kept.append(cut)
    return tuple(kept)


def _through_view(node: Node, source: Node, cuts: Cuts) -> Cuts:
    """Cuts through a change of shape: dimensions that were split or merged belong together."""
    found: list[Cut] = []
    for outer, inner in _groups(source.shape, node.shape):
        own = [c for c in cuts if c.dim in inner]
        if own:
            there = _regroup(own, [node.shape[d] for d in inner], inner[0], [source.shape[d] for d in outer])
            if there is None:
                found += unknown(node, tuple(own))  # of these dimensions; what is cut out of others is known
                continue
            found += [c._replace(dim=c.dim + outer[0]) for c in there]
    found += [c for c in cuts if c.dim == UNKNOWN]
    return tuple(sorted(found))


def _groups(source: Sequence[int], result: Sequence[int]) -> Iterable[tuple[list[int], list[int]]]:
    """The fewest neighbouring dimensions of two shapes that hold the same elements."""
    i = j = 0
    while i < len(source) and j < len(result):
        outer, inner = [i], [j]
        a, b = source[i], result[j]
        while a != b:
            if a < b and i + 1 < len(source):
                i += 1
                outer.append(i)
                a *= source[i]
            elif j + 1 < len(result):
                j += 1
                inner.append(j)
                b *= result[j]
            else:
                return
        i, j = i + 1, j + 1
        yield outer, inner


def _regroup(cuts: list[Cut], shape: list[int], first: int, source: list[int]) -> list[Cut] | None:
    """Cuts of some dimensions as cuts of those that hold the same elements in another shape; None if they are none."""
    if len(shape) == len(source) == 1:
        return [c._replace(dim=0) for c in cuts]
    if math.prod(shape) > _LARGEST_GROUP:
        return None
    index = torch.arange(math.prod(shape)).reshape(shape)
    for cut in cuts:
        places = cut.places
        index = index[(*(slice(None),) * (cut.dim - first), slice(places.start, places.stop, places.step))]
    return progressions(index.flatten(), source)


def progressions(kept: torch.Tensor, shape: Sequence[int]) -> list[Cut] | None:
    """Cuts that keep just some elements of a shape, which are given by their numbers; None if there are none."""
    cuts, count = [], 1
    for dim, size in enumerate(shape):
        there: list[int] = (kept // math.prod(shape[dim + 1 :]) % size).unique().tolist()  # type: ignore[no-untyped-call]
        steps = {b - a for a, b in itertools.pairwise(there)}
        if len(steps) > 1:
            return None
        count *= len(there)
        if len(there) < size:
            cuts.append(Cut(dim, there[0], len(there), size, steps.pop() if steps else 1))
    return cuts if count == kept.numel() else None
