"""Of a part of a tensor that was written to in part: what of it was there before, and what was written.

A range of a dimension is written by `out[:, t] = value`. What is written where indices or a mask say so, as posteriors
are into a bank, `bank[index] = value`, lies nobody knows where: a part of the whole may be of either, or of both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import Cut, Cuts, argument, cut_of, unknown
from vdvae_patch.scanning.arithmetic.graph import Node


class Part(NamedTuple):
    """A part of a tensor, by its node and what is cut out of it."""

    node: Node
    cuts: Cuts


def parts_of_write(node: Node, cuts: Cuts) -> list[Part] | None:
    """The parts of what was there, and of what was written, that a part of the result is made of; None if it is added
    up with what was there, and no part of either."""
    return _of_range(node, cuts) if node.op in ops.WRITING_PART else _of_picked(node, cuts)


def places_written(node: Node) -> tuple[int, range]:
    """The dimension, and the places of it, that a write to a range of one has changed."""
    shape = node.inputs[0].shape
    dim = argument(node, 2, "dim", 0) % len(shape)
    size = shape[dim]
    start = argument(node, 3, "index" if node.op == "select_scatter" else "start", 0)
    start = start % size if start < 0 else start
    if node.op == "select_scatter":
        return dim, range(start, start + 1)
    stop, step = argument(node, 4, "end", None), argument(node, 5, "step", 1)
    return dim, range(start, size if stop is None else min(stop, size), step)


def _of_range(node: Node, cuts: Cuts) -> list[Part]:
    base, source = node.inputs[:2]
    dim, written = places_written(node)
    size = base.shape[dim]
    own = next((c for c in cuts if c.dim == dim), None)
    rest = tuple(c for c in cuts if c is not own)
    inside = [written.index(place) for place in (range(size) if own is None else own.places) if place in written]
    if not inside:
        return [Part(base, cuts)]
    if node.op == "select_scatter":
        inner = Part(source, tuple(c._replace(dim=c.dim - (c.dim > dim)) for c in rest))
    elif len(inside) == len(written):
        inner = Part(source, rest)
    else:
        kept = range(inside[0], inside[-1] + 1, inside[1] - inside[0] if len(inside) > 1 else 1)
        inner = Part(source, tuple(sorted((*rest, cut_of(dim, kept, len(written))))))
    if len(inside) == (size if own is None else own.length):
        return [inner]
    return [Part(base, cuts), inner]


def _of_picked(node: Node, cuts: Cuts) -> list[Part] | None:
    base, dims = node.inputs[0], _dims_picked(node)
    source = node.args[2 if node.op in ops.WRITING_THIRD else 3]
    if node.op == "index_put" and argument(node, 3, "accumulate", False):
        return None
    if not isinstance(source, Node):
        return [Part(base, cuts)]  # a number
    own = next((c for c in cuts if dims == [c.dim]), None)
    places = _places(node) if len(dims) == 1 else None
    if places is not None:
        read = range(base.shape[dims[0]]) if own is None else own.places
        if not set(places) & set(read):
            return [Part(base, cuts)]
        inner = Part(source, _inner_cuts(node, source, [c for c in cuts if c is not own], dims))
        return [inner] if set(read) <= set(places) else [Part(base, cuts), inner]
    return [Part(base, cuts), Part(source, _inner_cuts(node, source, [c for c in cuts if c.dim not in dims], dims))]


def _dims_picked(node: Node) -> list[int]:
    """The dimensions in which indices say where is written; all of them where a mask does, over the whole."""
    rank = len(node.shape)
    if node.op == "masked_scatter":
        return list(range(rank))
    if node.op != "index_put":
        return [argument(node, 1, "dim", 0) % rank]
    found, dim = list[int](), 0
    for index in node.args[1]:
        many = 1
        if isinstance(index, Node):
            chosen = node.picked.get(index.id)
            many = chosen.dim() if chosen is not None and chosen.dtype == torch.bool else 1
            found += range(dim, dim + many)
        dim += many
    return found


def _places(node: Node) -> list[int] | None:
    """Where along the one dimension is written, if the host has it as numbers."""
    if node.op == "scatter":
        return None
    index = node.args[2] if node.op == "index_copy" else next(i for i in node.args[1] if i is not None)
    chosen = None if index.data or index.params else node.picked.get(index.id)
    if chosen is None or chosen.dim() != 1:
        return None
    size = node.shape[_dims_picked(node)[0]]
    places: list[int] = (chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen % size).tolist()
    return places


def _inner_cuts(node: Node, source: Node, cuts: list[Cut], dims: list[int]) -> Cuts:
    """Cuts of the dimensions that no index picks, as those of what is written."""
    rank, inner = len(node.shape), len(source.shape)
    if not cuts:
        return ()
    if node.op == "masked_scatter" or (dims != list(range(len(dims))) and inner != rank):
        return unknown(node, tuple(cuts))
    found = []
    for cut in cuts:
        # dimensions that are indexed together are one of the source, which may be broadcast
        dim = cut.dim - rank + inner
        if cut.dim < 0:
            found.append(cut)
        elif dim >= 0 and source.shape[dim] == cut.size:
            found.append(cut._replace(dim=dim))
    return tuple(sorted(found))
