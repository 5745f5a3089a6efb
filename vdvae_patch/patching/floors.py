"""Lower bounds of σ that a host has and a patch takes away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch

from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head
from vdvae_patch.scales import Scale

_GRID = torch.linspace(-700, 700, 141, dtype=torch.float64)
_WITH_TURNS = torch.cat([_GRID, torch.linspace(-2, 0, 81, dtype=torch.float64)])  # of activations that fall and rise
_REACH = 32.0  # raw values between which a σ of zero is looked for
_THIRDS = 80
_BESIDE = 0.01
_ZERO = 1e-8
_NO_FLOOR = 1e-30  # what an exponential, or the root of one, comes to at the end of the grid


def lost(heads: Iterable[tuple[Head, Scale | None]], stable: bool) -> Iterator[str]:
    """A line for each head whose host bounds σ from below, goes on to compute with σ itself, and loses the bound.

    Args:
        stable: whether functions of ours, and Normals that carry log σ, stand in for the host's arithmetic where the
            head names any.
    """
    for head, scale in heads:
        if scale is None or (stable and (head.calls or head.rebindings or _is_in_distributions(head))):
            continue
        floor, new = least(head.convention), float(scale.sigma(_GRID).min())
        if floor and new < 0.999 * floor and not (head.sites or head.calls or head.rebindings):
            yield (  # put at the module's output, of which the host's own arithmetic goes on to make no less
                f"head {head}: the host keeps σ at {floor:.3g} or above, {scale} does not, and what computes it there "
                f"stays: where {scale} gives less, σ is {floor:.3g}, and its raw value has no gradient. "
                f"downbounded({floor:.3g}), or bounded from {floor:.3g} on, stays above; or patch what `scan` finds"
            )
        elif floor and new < 0.999 * floor:
            yield (
                f"head {head}: the host keeps σ at {floor:.3g} or above, {scale} does not; if the host takes log σ or "
                f"1/σ² itself, a σ that rounds to zero makes them infinite. downbounded({floor:.3g}), or bounded from "
                f"{floor:.3g} on, keep the bound"
            )


def limits(sigma: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float]:
    """The lowest and the highest σ over the reach of a float64's exponential; 0 and ∞ where there is no bound."""
    values = sigma(_GRID).nan_to_num(nan=torch.inf)
    low, high = float(sigma(_WITH_TURNS).nan_to_num(nan=torch.inf).min()), float(values.max())
    # a softplus goes on growing at the end of the grid
    growing = (
        not math.isfinite(high) or abs(float(values[-1] - values[-20])) + abs(float(values[0] - values[20])) > 1e-3
    )
    return (low if low > _NO_FLOOR else 0.0), (math.inf if growing else high)


def least(convention: Convention) -> float:
    """The lower bound of the host's own σ; 0 if it has none."""
    sigma = convention.sigma(_WITH_TURNS)
    floor = float(sigma[sigma.isfinite()].min()) if sigma.isfinite().any() else 0.0
    return floor if floor > _NO_FLOOR else 0.0


def zero_between(convention: Convention) -> float | None:
    """A raw value at which σ touches or crosses zero between others where it is not zero: of |v|, v², v + 1.

    None for a σ that is zero, or comes to it, at an end of the range alone: an exponential, a ReLU.
    """
    grid = torch.linspace(-_REACH, _REACH, 32 * int(_REACH) + 1, dtype=torch.float64)
    size = convention.sigma(grid).abs()
    inner = size[1:-1]
    # where it is least among its neighbours, and rises on both sides
    valleys = (inner <= size[:-2]) & (inner <= size[2:]) & (inner < size[:-2].maximum(size[2:])) & size[2:].isfinite()
    for place in valleys.nonzero().flatten().tolist():
        low, high = float(grid[place]), float(grid[place + 2])
        for _ in range(_THIRDS):
            one, other = low + (high - low) / 3, high - (high - low) / 3
            first, second = convention.sigma(torch.tensor([one, other], dtype=torch.float64)).abs().tolist()
            low, high = (low, other) if first < second else (one, high)
        at = float(f"{(low + high) / 2:.9f}")  # the number that stands in the code, where it is a short one
        if float(convention.sigma(torch.tensor(at, dtype=torch.float64)).abs()) < _ZERO and _rises(convention, at):
            return at
    return None


def _rises(convention: Convention, at: float) -> bool:
    """Whether σ differs from zero on both sides of a value, near it."""
    around = convention.sigma(torch.tensor([at - _BESIDE, at + _BESIDE], dtype=torch.float64)).abs()
    return bool((around > _ZERO).all())


def _is_in_distributions(head: Head) -> bool:
    return head.found is not None and "torch.distributions.Normal" in head.found.evidence
