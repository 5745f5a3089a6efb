"""Lower bounds of σ that a host has and a patch takes away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch

from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head
from vdvae_patch.scales import Scale

_GRID = torch.linspace(-700, 700, 141, dtype=torch.float64)
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
        if floor and new < 0.999 * floor:
            yield (
                f"head {head}: the host keeps σ at {floor:.3g} or above, {scale} does not; if the host takes log σ or "
                f"1/σ² itself, a σ that rounds to zero makes them infinite. downbounded({floor:.3g}), or bounded from "
                f"{floor:.3g} on, keep the bound"
            )


def limits(sigma: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float]:
    """The lowest and the highest σ over the reach of a float64's exponential; 0 and ∞ where there is no bound."""
    values = sigma(_GRID).nan_to_num(nan=torch.inf)
    low, high = float(values.min()), float(values.max())
    # a softplus goes on growing at the end of the grid
    growing = (
        not math.isfinite(high) or abs(float(values[-1] - values[-20])) + abs(float(values[0] - values[20])) > 1e-3
    )
    return (low if low > _NO_FLOOR else 0.0), (math.inf if growing else high)


def least(convention: Convention) -> float:
    """The lower bound of the host's own σ; 0 if it has none."""
    sigma = convention.sigma(_GRID)
    floor = float(sigma[sigma.isfinite()].min()) if sigma.isfinite().any() else 0.0
    return floor if floor > _NO_FLOOR else 0.0


def _is_in_distributions(head: Head) -> bool:
    return head.found is not None and "torch.distributions.Normal" in head.found.evidence
