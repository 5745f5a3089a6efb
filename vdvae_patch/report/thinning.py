"""A million records as a thousand points: means of neighbours for what is smooth, the largest for what has peaks.

Skipped updates are not thinned with them. Each is a mark of its own; of very many, neighbours of one cause share a mark
that says how many it stands for, from which step to which. The count over the steps stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.report.columns import Floats, Log

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """A run's curves, a value a point: of the applied updates alone, NaN where all of a point's were skipped.

    Attributes:
        width: how many steps a point stands for.
        nelbo, distortion, rate: means, nats per dimension.
        lr: the mean.
        grad_norm: the largest.
    """

    width: float
    step: Ints
    hours: Floats
    nelbo: Floats
    distortion: Floats
    rate: Floats
    grad_norm: Floats
    lr: Floats


@dataclass(frozen=True)
class Marks:
    """Skipped updates as marks, in the order of their steps; one stands for `count` of them, mostly 1.

    Attributes:
        index: of the first in `Log`.
        first, last: the steps.
        cause: as in `Log`.
        at: the NELBO of the updates applied around it, to place the mark on the curve.
    """

    index: Ints
    first: Ints
    last: Ints
    count: Ints
    cause: Ints
    at: Floats


def points(log: Log, limit: int) -> Points:
    """At most `limit` points."""
    n = len(log)
    starts = (
        np.arange(n, dtype=np.int64)
        if n <= limit
        else np.unique(np.linspace(0, n, limit, endpoint=False).astype(np.int64))
    )
    middle = (starts + np.append(starts[1:], n)[: len(starts)] - 1) // 2
    applied = ~log.skipped
    return Points(
        width=n / len(starts) if n else 1.0,
        step=log.step[middle],
        hours=log.seconds[middle] / 3600,
        nelbo=_means(log.nelbo, applied, starts),
        distortion=_means(log.distortion, applied, starts),
        rate=_means(log.rate, applied, starts),
        grad_norm=_largest(log.grad_norm, applied, starts),
        lr=_means(log.lr, np.ones_like(applied), starts),
    )


def marks(log: Log, curve: Points, limit: int, apart: Sequence[int] = ()) -> Marks:
    """Every skipped update, in about `limit` marks where there are more than that.

    Args:
        apart: steps that have a mark of their own in any case.
    """
    skipped = np.flatnonzero(log.skipped)
    alone = np.isin(log.step[skipped], np.array(apart, np.int64))
    size = 1 if len(skipped) <= limit else -(-len(skipped) // limit)
    groups: list[tuple[int, int, int]] = [(int(i), int(i), 1) for i in skipped[alone]]
    together = skipped[~alone]
    for cause in np.unique(log.cause[together]):
        of_cause = together[log.cause[together] == cause]
        first = np.arange(0, len(of_cause), size)
        ends = np.append(first[1:], len(of_cause))
        groups += [(int(of_cause[a]), int(of_cause[b - 1]), int(b - a)) for a, b in zip(first, ends, strict=True)]
    groups.sort()
    index = np.array([g[0] for g in groups], np.int64)
    final = np.array([g[1] for g in groups], np.int64)
    return Marks(
        index=index,
        first=log.step[index],
        last=log.step[final],
        count=np.array([g[2] for g in groups], np.int64),
        cause=log.cause[index],
        at=_around(curve, log.step[index]),
    )


def cumulated(log: Log, limit: int) -> tuple[Ints, Ints, Floats]:
    """Where the count of skipped updates is looked at: steps, counts, hours. Each count is exact."""
    skipped = np.flatnonzero(log.skipped)
    chosen = np.arange(len(skipped))
    if len(skipped) > limit:
        chosen = np.unique(np.linspace(0, len(skipped) - 1, limit).round().astype(np.int64))
    return log.step[skipped[chosen]], chosen + 1, log.seconds[skipped[chosen]] / 3600


def rounded(values: Floats, bits: int) -> NDArray[np.float32]:
    """float32 with so many bits of the fraction, the others zero, which compress to nothing."""
    with np.errstate(over="ignore"):
        whole = values.astype(np.float32)
    drop = 23 - bits
    raw = whole.view(np.uint32)
    kept = ((raw.astype(np.uint64) + (1 << (drop - 1))) >> drop << drop).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(whole) & np.isfinite(kept), kept, whole).astype(np.float32)


def _means(values: Floats, usable: NDArray[np.bool_], starts: Ints) -> Floats:
    if not len(values):
        return values
    good = usable & np.isfinite(values)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.add.reduceat(np.where(good, values, 0.0), starts) / np.add.reduceat(good.astype(np.float64), starts)


def _largest(values: Floats, usable: NDArray[np.bool_], starts: Ints) -> Floats:
    if not len(values):
        return values
    found = np.maximum.reduceat(np.where(usable & np.isfinite(values), values, -np.inf), starts)
    return np.where(np.isfinite(found), found, np.nan)


def _around(curve: Points, steps: Ints) -> Floats:
    """The curve's value at these steps: of the last point before with one, else of the first behind."""
    known = np.flatnonzero(np.isfinite(curve.nelbo))
    if not len(known):
        return np.full(len(steps), np.nan)
    place = np.searchsorted(curve.step[known], steps, side="right") - 1
    return curve.nelbo[known[np.clip(place, 0, None)]]
