"""A σ that no chain of steps computes, known by points of its curve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vdvae_patch.composition import Measured

_NEAR = 8.0  # raw values that a network puts out as a rule; three digits of σ are right between points this close
_NEAR_POINTS = 513
_FAR = 1024.0  # what an optimizer's steps can reach; the points' distance grows as the raw value does
_FAR_POINTS = 155
_BENT = 1e-4  # relative; the points in between that lie on the curve of the others are left out


def measured(curve: Callable[[Tensor], Tensor]) -> Measured:
    """The convention through as many points of a curve as it takes.

    Args:
        curve: float64 raw values, in ascending order, to σ; where it is not finite it is not known.
    """
    far = torch.logspace(0, 1, _FAR_POINTS, _FAR / _NEAR, dtype=torch.float64)[1:] * _NEAR
    near = torch.linspace(-_NEAR, _NEAR, _NEAR_POINTS, dtype=torch.float64)
    grid = torch.cat([-far.flip(0), near, far])
    sigma = curve(grid)
    known = sigma.isfinite()
    if int(known.sum()) < 2:
        return Measured(tuple(zip(near.tolist(), curve(near).tolist(), strict=True)))
    grid, sigma = grid[known], sigma[known]
    return Measured(_points(grid, sigma, sorted(_bends(grid, sigma, 0, len(grid) - 1))))


def _points(grid: Tensor, sigma: Tensor, chosen: list[int]) -> tuple[tuple[float, float], ...]:
    return tuple((float(grid[i]), float(sigma[i])) for i in chosen)


def _bends(grid: Tensor, sigma: Tensor, first: int, last: int) -> set[int]:
    """The numbers of the points that the others lie between."""
    found: set[int] = set()
    todo = [(first, last)]
    while todo:
        low, high = todo.pop()
        found |= {low, high}
        if high - low < 2:
            continue
        between = slice(low + 1, high)
        without = Measured(_points(grid, sigma, [low, high])).sigma(grid[between])
        off = (without - sigma[between]).abs() / sigma[between].abs().clamp(min=1e-300)
        worst = int(off.argmax())
        if float(off[worst]) > _BENT:
            todo += [(low, low + 1 + worst), (low + 1 + worst, high)]
    return found
