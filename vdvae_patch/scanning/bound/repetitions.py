"""How often a loss compares the same data with what comes of one posterior.

With K draws from each posterior the squared errors stand K times in the loss where the KL stands once:

    Σ_k Σ_i b (x_i − x̂_ki)² + Σ_j a KL_j    is the bound of    K b,

for the mean over draws is what a bound has. The draws may lie along a dimension, or be the steps of a loop. Data that
were repeated before the encoder saw them have as many posteriors, whose KL stands as often: there nothing is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Graph, Node, ancestors, broadcast_shape
from vdvae_patch.scanning.bound.reconstruction import Term, input_of
from vdvae_patch.scanning.bound.replay import Tail

_MOVED = ops.NARROWING | ops.SELECTING | ops.SHUFFLING
"""What picks some of the data: a step of a sequence is compared once, and not the sequence often."""


class Draws(NamedTuple):
    """Of each posterior: along the dimensions of one comparison, and by the steps of a loop."""

    along: int = 1
    steps: int = 1

    @property
    def in_all(self) -> int:
        """Both together."""
        return self.along * self.steps


def draws_of(graph: Graph, term: Term, posteriors: Sequence[Node]) -> Draws:
    """How many outputs of each posterior a term compares with each value of the data.

    Args:
        posteriors: the raw values of log σ whose KL stands in the loss.
    """
    along = _along(term, graph.values)
    if along > 1:
        before = along if _has_rows_of(posteriors, term, graph.values) else _shown(graph, posteriors)
        along = along // before if along % before == 0 else along
    return Draws(along, _steps(graph, term, posteriors))


def by_draws(tail: Tail, term: Term, draws: Draws) -> Tensor | None:
    """The factors, each draw's in a row; None where it is not seen whose they are, as where some are masked."""
    steps, shape = len(term.steps), term.node.shape
    if term.factors.numel() != steps * math.prod(shape) or draws.steps not in (1, steps):
        return None
    data = tail.base[term.target.id]
    if broadcast_shape(tuple(data.shape), tuple(shape)) != tuple(shape):
        return None  # a row has one value, as a norm of its errors
    same = _repeated(data.broadcast_to(shape)) if draws.along > 1 else []
    if math.prod(shape[dim] for dim in same) != draws.along:
        return None
    front = [*([0] if draws.steps > 1 else []), *(dim + 1 for dim in same)]
    return term.factors.view(steps, *shape).movedim(front, [*range(len(front))]).reshape(draws.in_all, -1)


def _along(term: Term, values: Mapping[int, Tensor]) -> int:
    """How many outputs one comparison has for each value of the data."""
    source = _source(term.target)
    distinct = math.prod(source.shape)
    if source.kind == "constant" and source.op in ops.REPEATING and source.id in values:
        distinct //= _times(values[source.id])  # what was done to the data before is not kept: they were thresholded
    whole = math.prod(term.target.shape)
    if term.errors is not None:
        whole = max(whole, math.prod(term.node.shape))
    return whole // distinct if distinct and whole % distinct == 0 else 1


def _times(value: Tensor) -> int:
    """How often values were repeated along the dimensions along which all are the same."""
    return math.prod(value.shape[dim] for dim in _repeated(value))


def _repeated(value: Tensor) -> list[int]:
    return [dim for dim, size in enumerate(value.shape) if size > 1 and bool((value == value.narrow(dim, 0, 1)).all())]


def _has_rows_of(posteriors: Sequence[Node], term: Term, values: Mapping[int, Tensor]) -> bool:
    """Whether constants that were repeated along a dimension have a posterior each there: a view, and no draw."""
    source = _source(term.target)
    if source.kind != "constant" or source.id not in values:
        return False
    same = _repeated(values[source.id])
    others = [dim for dim, size in enumerate(source.shape) if size > 1 and dim not in same]
    if not same or not others:
        return False
    rows = source.shape[: max(*same, others[0]) + 1]  # of the batch and what it was repeated along
    return any(len(n.shape) > len(rows) and n.shape[: len(rows)] == rows for n in posteriors) or any(
        n.shape[:1] == (math.prod(rows),) for n in posteriors
    )


def takes_some(tail: Tail, term: Term) -> bool:
    """Whether of several outputs with which one value of the data is compared the loss takes some alone: the best of
    several draws, or of two sets of points each one's neighbour. A mask takes all of a value's, or none."""
    if _along(term, tail.base) == 1 and len({_identity(target) for _, target in term.steps}) == len(term.steps):
        return False
    taken: dict[int, Tensor] = {}
    all_of: dict[int, Tensor] = {}
    for node, target in term.steps:
        source = _source(target)
        count = math.prod(source.shape)
        numbers = partial(_numbered, count)
        placed = tail.run({source.id: numbers}, frozenset({node.id}))[target.id]
        used = (tail.adjoints([node])[node.id] != 0) | (tail.base[node.id] == 0)
        if broadcast_shape(tuple(placed.shape), tuple(used.shape)) != tuple(used.shape):
            return False  # added up within the comparison
        where = placed.expand(used.shape).flatten().long()
        for counts, weights in ((taken, used), (all_of, torch.ones_like(used))):
            found = torch.bincount(where, weights.flatten().double(), count)
            counts[source.id] = counts[source.id] + found if source.id in counts else found
    return any(bool(((taken[key] > 0) & (taken[key] < all_of[key])).any()) for key in taken)


def _numbered(count: int, value: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.float64).view(value.shape)


def _source(target: Node) -> Node:
    """The data before they were repeated and put into another shape."""
    while target.kind == "shape" and len(target.inputs) == 1:
        target = target.inputs[0]
        if target.op in _MOVED:
            break
    return target


def _shown(graph: Graph, posteriors: Sequence[Node]) -> int:
    """How often the data were repeated, row by row, before they came to the encoder."""
    before, most = ancestors(posteriors), 1
    for node in graph.nodes:
        if node.id not in before or node.params or not node.data or node.kind != "shape":
            continue
        source = input_of(node)
        if source is None or len(source.shape) < 2:
            continue
        image, times = source.shape[1:], math.prod(node.shape) // max(1, math.prod(source.shape))
        if (
            times > 1
            and node.shape[-len(image) :] == image
            and math.prod(node.shape) == times * math.prod(source.shape)
        ):
            most = max(most, times)
    return most


def _steps(graph: Graph, term: Term, posteriors: Sequence[Node]) -> int:
    """How many steps of a loop compare the same data with outputs of one posterior.

    Where each step has a posterior of its own, the last one has a part in one comparison alone.
    """
    same: dict[object, list[Node]] = {}
    for node, target in term.steps:
        same.setdefault(_identity(target), []).append(node)
    most = max(same.values(), key=len)
    if len(most) < 2 or not posteriors:
        return 1
    reached = _reached(graph, posteriors)
    counts = [sum(reached.get(node.id, 0) >> bit & 1 for node in most) for bit in range(len(posteriors))]
    return min((count for count in counts if count), default=1)


def _identity(target: Node) -> object:
    """Equal for targets of the same data."""
    while target.kind == "shape" and len(target.inputs) == 1 and target.op not in _MOVED:
        target = target.inputs[0]
    if target.op not in _MOVED:
        return target.id
    picked = tuple(a for a in target.args if not isinstance(a, Node))
    return target.op, tuple(n.id for n in target.inputs), repr(picked), target.index


def _reached(graph: Graph, nodes: Sequence[Node]) -> dict[int, int]:
    """For each node that depends on some of these, which: bit i for the i-th."""
    reached = {node.id: 1 << bit for bit, node in enumerate(nodes)}
    for node in graph.nodes:
        own = reached.get(node.id, 0)
        for source in node.inputs:
            own |= reached.get(source.id, 0)
        if own:
            reached[node.id] = own
    return reached
