"""What a reconstruction term compares with: the data, in which units, and how many rows of them there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.graph import Node, ancestors
from vdvae_patch.scanning.bound.data_range import DataRange, range_of
from vdvae_patch.scanning.bound.reconstruction import input_of
from vdvae_patch.scanning.bound.replay import Tail

_NO_SLOPE = 1e-9
"""Of a target by its data: rounding is 1e-13."""
_NETWORKS = ops.PRODUCTS | ops.CONVOLUTIONS | ops.COMBINING
"""Operations of which features are made: sums of values of the data with weights."""


def data_of(tail: Tail, targets: Sequence[Node]) -> tuple[DataRange, float, tuple[float, float]]:
    """The range of the input that targets are made of, how many units of a target one of the input's is, and what the
    host makes of the ends of that range.

    Args:
        targets: of all steps of a loop, such as the columns of a table, each of which may be divided by a σ of its own.
    """
    source = input_of(targets[0])
    every = {target.id: tail.base[target.id] for target in targets}
    value = _joined(every)
    here = range_of(value)
    as_is = here, 1.0, (here.low, here.high)
    if source is None or source.id not in tail.base or any(input_of(target) is not source for target in targets):
        return as_is
    if not (value.is_floating_point() and tail.base[source.id].is_floating_point()):
        return as_is
    # of a code, or of data that were normalized by their own statistics, no step is a grey level
    as_is = replace(here, pixels=here.pixels if here.is_on_levels else None), *as_is[1:]
    given, data = tail.base[source.id], range_of(tail.base[source.id])
    before = ancestors(targets)
    others = frozenset(node.id for node in tail.order if node.id not in before)  # a cross-entropy refuses what is moved

    def made(change: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
        found = tail.run({source.id: change}, others)
        return {number: found[number] for number in every}

    # of a target that repeats its data a gradient would be a sum over the repetitions
    step = 1e-3 * (float(given.max() - given.min()) or 1.0)
    slope = (_joined(made(partial(torch.add, other=step))) - value) / step
    moved = slope[slope.abs() > _NO_SLOPE].abs()
    if not len(moved) or float(moved.max() - moved.min()) > 1e-6 * float(moved.max()):
        return as_is
    ends = [
        float(end.flatten()[0])
        for limit in (data.low, data.high)
        for end in made(partial(torch.full_like, fill_value=limit)).values()
    ]
    return data, float(moved[0]), (min(ends), max(ends))


def _joined(values: Mapping[int, Tensor]) -> Tensor:
    """The one, or all in a row."""
    each = list(values.values())
    alike = len({value.shape for value in each}) == 1 and each[0].dim() > 0
    return torch.cat(each if alike else [value.flatten() for value in each])


def rows_of(target: Node) -> int:
    """How many rows the batch has: as it was given, since the data may be compared along a dimension in front."""
    source = input_of(target)
    shape = target.shape if source is None else source.shape
    return shape[0] if shape else 1


def is_of_features(target: Node, read: Collection[int]) -> bool:
    """Whether a target is what a network makes of the data, as of a perceptual loss, and not the data.

    Args:
        read: the numbers of all values that the encoder's posteriors are computed of. What the encoder reads is the
            data of the model, whatever it was made by.
    """
    todo, seen = [target], {target.id}
    while todo:
        node = todo.pop()
        if node.id in read:
            continue
        if node.op in _NETWORKS and node.data:
            return True
        for source in node.inputs:
            if source.id not in seen:
                seen.add(source.id)
                todo.append(source)
    return False


def is_behind_a_network(node: Node, outputs: Collection[int]) -> bool:
    """Whether a value is what a network makes of one of some outputs, as a critic or a perceptual loss does, and no
    further part of the comparison that reads it."""
    todo, seen = [(node, False)], set[tuple[int, bool]]()
    while todo:
        current, passed = todo.pop()
        if current.id in outputs:
            if passed:
                return True
            continue
        passed = passed or current.op in _NETWORKS or "pool" in current.op  # a window's means, of which SSIM is made
        for source in current.inputs:
            if (source.id, passed) not in seen:
                seen.add((source.id, passed))
                todo.append((source, passed))
    return False
