"""Where reconstruction fixed points merge as β rises: "Taming VAEs", section 3.2 and Figure 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdvae_patch.experiments.data import CPU
from vdvae_patch.experiments.fixed_points import Found, clusters, iterate, last_transition, start
from vdvae_patch.experiments.noise import generator

RANGE = (1e-3, 1.0)
"""β of a sweep, the first and the last."""
PEAKS = 3
"""Phase transitions that are kept, the highest ones, as in the paper."""
MERGERS = (((2, 3), "the two near clusters"), ((0, 1), "the two far clusters"), ((0, 1, 2, 3), "all"))
"""Which clusters merge, of `fixed_points.clusters`, the first merger first."""


@dataclass(frozen=True)
class Sweep:
    """The fixed points of many β, each found from the same start.

    Attributes:
        errors: U, the expected squared error of the reconstructions.
        bends: −∂²U / ∂(log β)², for all β but the first and the last.
    """

    data: Tensor
    betas: Tensor
    found: list[Found]
    errors: Tensor
    bends: Tensor

    @property
    def critical(self) -> list[float]:
        """The β of the `PEAKS` highest peaks of `bends`, ascending."""
        return sorted(float(self.betas[1:-1][place]) for place in peaks(self.bends)[:PEAKS])

    @property
    def step(self) -> float:
        """The factor from one β to the next."""
        return float(self.betas[1] / self.betas[0])


def sweep(side: int, count: int, points: int, seed: int) -> Sweep:
    """The fixed points of `count` β in equal ratios, for four clusters of two scales."""
    data = clusters(points, generator(CPU, seed, 0, "clusters"))
    betas = torch.logspace(math.log10(RANGE[0]), math.log10(RANGE[1]), count, dtype=torch.float64)
    begun = start(side, generator(CPU, seed, 0, "start"))
    found = [iterate(data, begun, beta) for beta in betas.tolist()]
    errors = torch.tensor([one.error for one in found], dtype=torch.float64)
    return Sweep(data, betas, found, errors, bends(betas, errors))


def bends(betas: Tensor, errors: Tensor) -> Tensor:
    """−∂²U / ∂(log β)² by differences, `[n]` to `[n − 2]`: where points merge the slope of U falls at once.

    The paper's is over β. Over log β transitions of all scales have heights that can be compared: U is of the order of
    β itself where a cluster has just merged.
    """
    at = betas.log()
    slopes = errors.diff() / at.diff()
    return -slopes.diff() / ((at[2:] - at[:-2]) / 2)


def peaks(values: Tensor) -> list[int]:
    """The places of local maxima above 0, the highest first."""
    inner = values[1:-1]
    places = ((inner > values[:-2]) & (inner >= values[2:]) & (inner > 0)).nonzero().flatten() + 1
    return sorted(places.tolist(), key=lambda place: -float(values[place]))


def predicted(data: Tensor, members: Sequence[int]) -> float:
    """The β at which the points of some clusters merge, by the stability of their mean while the others are far."""
    which = torch.arange(len(data)) % 4
    return last_transition(data[torch.isin(which, torch.tensor(members))])
