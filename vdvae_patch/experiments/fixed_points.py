"""The reconstruction fixed points of a VAE without limits of capacity: "Taming VAEs", section 3.2 and appendices A, B.

The latent space is cut into tiles with prior probabilities π_a; φ_a is 1 on tile a. Decoder and encoder are constant
on each, g(z) = v_a and q(z | x_i) = π(z) m_ia, with Σ_a π_a m_ia = 1. What maximizes the bound with β times the KL
and σ = 1 is a fixed point of (equations 18 to 20)

    m_ia = exp(−‖x_i − v_a‖² / 2β) / Σ_b π_b exp(−‖x_i − v_b‖² / 2β)
    v_a  = Σ_i m_ia x_i / Σ_j m_ja

With Lipschitz constraints, multipliers Λ_ab on ‖v_a − v_b‖² ≤ K² ‖z_a − z_b‖², the second is followed by a projection
(appendix B), with D = diag(π_a mean_i m_ia) and L = diag(Λ 1) − Λ, the Laplacian of the multipliers:

    v = (D + L)⁻¹ D v̂
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 400
"""Iterations, at most; with `CLOSE` as appendix A has them."""
CLOSE = 1e-3
"""The Euclidean distance of two successive V at which the iteration ends."""
KEEP = 0.5
"""The share of the old V that stays in the smoothed one. The text of the paper at hand has lost its value."""
TOGETHER = 0.02
"""Fixed points that are nearer to each other than this are one."""

Projection = Callable[[Tensor, Tensor], Tensor]
"""From v̂ `[A, D]` and the weights of the tiles `[A]` to v."""


@dataclass(frozen=True)
class Found:
    """Where an iteration has ended.

    Attributes:
        points: V, `[A, D]`.
        error: the expected squared error, mean_i Σ_a π_a m_ia ‖x_i − v_a‖².
        rate: the mean KL, mean_i Σ_a π_a m_ia log m_ia, nats.
        path: V before the first iteration and after each, `[T, A, D]`; of length 1 unless it was asked for.
        steps: iterations.
        settled: whether V came to rest before the last of them.
    """

    points: Tensor
    error: float
    rate: float
    path: Tensor
    steps: int
    settled: bool

    @property
    def distinct(self) -> int:
        """How many fixed points there are, those nearer than `TOGETHER` to one before being that one."""
        left, count = self.points, 0
        while len(left):
            count += 1
            left = left[(left - left[0]).norm(dim=1) > TOGETHER]
        return count


def grid(side: int) -> Tensor:
    """The middles of `side` × `side` tiles of the latent space [−1, 1]², `[side², 2]`."""
    middles = (torch.arange(side, dtype=torch.float64) + 0.5) * (2 / side) - 1
    return torch.cartesian_prod(middles, middles)


def start(side: int, noise: torch.Generator) -> Tensor:
    """V at first: the middles of the tiles, moved by at most a tenth of a tile."""
    middles = grid(side)
    return middles + (torch.rand(middles.shape, generator=noise, dtype=middles.dtype) - 0.5) * (0.2 * 2 / side)


def posterior(data: Tensor, points: Tensor, beta: float) -> Tensor:
    """m of `data` `[N, D]` and V `[A, D]` under the uniform prior, `[N, A]`; each row has the mean 1."""
    return torch.softmax(distances(data, points) / (-2 * beta), dim=1) * len(points)


def distances(data: Tensor, points: Tensor) -> Tensor:
    """‖x_i − v_a‖², `[N, A]`, never below 0."""
    squares = data.square().sum(dim=1)[:, None] + points.square().sum(dim=1) - 2 * data @ points.T
    return squares.clamp_min_(0)


def transition(data: Tensor, points: Tensor, beta: float, project: Projection | None = None) -> Tensor:
    """V after one iteration without smoothing."""
    weights = posterior(data, points, beta)
    total = weights.sum(dim=0)
    # a tile that no posterior reaches is bound by nothing: it stays where it is
    moved = torch.where(total[:, None] > 0, weights.T @ data / total.clamp_min(1e-300)[:, None], points)
    return moved if project is None else project(moved, total / total.sum())


def iterate(
    data: Tensor,
    points: Tensor,
    beta: float,
    project: Projection | None = None,
    *,
    keep: float = KEEP,
    most: int = MOST,
    close: float = CLOSE,
    trace: bool = False,
) -> Found:
    """Iterate v ← keep v + (1 − keep) F(v) until V rests; float64, on one machine the same every time."""
    path, settled, step = [points], False, 0
    while step < most and not settled:
        moved = keep * points + (1 - keep) * transition(data, points, beta, project)
        settled = bool((moved - points).norm() < close)
        points, step = moved, step + 1
        if trace:
            path.append(points)
    weights = posterior(data, points, beta)
    error = (weights * distances(data, points)).mean()
    rate = torch.special.xlogy(weights, weights).mean()
    return Found(points, float(error), float(rate), torch.stack(path), step, settled)


def last_transition(data: Tensor) -> float:
    """β above which the mean of all data is the only fixed point nearby: the largest variance of the data.

    For v_a = x̄ + δ_a the iteration is, to first order, δ_a ← C (δ_a − mean_b δ_b) / β, with C the covariance of the
    data: it dies out for β above the largest eigenvalue of C, and grows below.
    """
    centred = data - data.mean(dim=0)
    return float(torch.linalg.eigvalsh(centred.T @ centred / len(data))[-1])


# --- Lipschitz constraints --------------------------------------------------------------------------------------------


class Lipschitz:
    """The projection of appendix B, for a Λ of one `strength` between tiles nearer than `radius`, and 0 between others.

    The strength is the sum of a tile's multipliers over its own weight if all tiles weighed alike, so that it means the
    same in every grid: at 1 a tile follows its neighbours as much as the data. It is used up in the constraint's
    multipliers: the K that they stand for is measured afterwards, see `slopes`.
    """

    def __init__(self, side: int, strength: float, radius: float) -> None:
        middles = grid(side)
        apart = torch.cdist(middles, middles)
        near = (apart < radius) & (apart > 0)
        multipliers = torch.where(near, apart.clamp_min(1e-12) ** -2, torch.zeros_like(apart))
        # an inner tile's sum to `strength`; at the rim there are fewer neighbours
        multipliers = multipliers * (strength / (len(middles) * float(multipliers.sum(dim=1).max())))
        self.laplacian = torch.diag(multipliers.sum(dim=1)) - multipliers

    def __call__(self, points: Tensor, weights: Tensor) -> Tensor:
        root = torch.linalg.cholesky(self.laplacian + torch.diag(weights))
        return torch.cholesky_solve(weights[:, None] * points, root)


def slopes(points: Tensor, side: int) -> tuple[float, float]:
    """The largest ‖v_a − v_b‖ / ‖z_a − z_b‖ of neighbours, and of any two tiles more than half of the space apart."""
    middles = grid(side)
    apart, moved = torch.cdist(middles, middles), torch.cdist(points, points)
    near, far = (apart > 0) & (apart < 1.5 * 2 / side), apart > 1
    return float((moved[near] / apart[near]).max()), float((moved[far] / apart[far]).max())


# --- data -------------------------------------------------------------------------------------------------------------


def lines(count: int, noise: torch.Generator) -> Tensor:
    """A mixture of three lines with a little noise, `[count, 2]` in [−1, 1]²."""
    ends = torch.tensor([[-0.8, -0.7, -0.2, 0.6], [0.0, -0.7, 0.75, -0.2], [0.1, 0.75, 0.8, 0.35]]).double()
    which = torch.arange(count) % len(ends)
    share = torch.rand(count, 1, generator=noise, dtype=torch.float64)
    chosen = ends[which]
    clean = chosen[:, :2] + share * (chosen[:, 2:] - chosen[:, :2])
    return clean + 0.02 * torch.randn(count, 2, generator=noise, dtype=torch.float64)


def circles(count: int, noise: torch.Generator) -> Tensor:
    """A mixture of three circles with a little noise, `[count, 2]` in [−1, 1]²."""
    known = torch.tensor([[-0.45, -0.4, 0.35], [0.5, -0.3, 0.2], [0.15, 0.5, 0.3]]).double()
    chosen = known[torch.arange(count) % len(known)]
    angle = 2 * torch.pi * torch.rand(count, generator=noise, dtype=torch.float64)
    clean = chosen[:, :2] + chosen[:, 2:] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return clean + 0.02 * torch.randn(count, 2, generator=noise, dtype=torch.float64)


def clusters(count: int, noise: torch.Generator) -> Tensor:
    """Two pairs of clusters, one wider apart than the other, `[count, 2]` in [−1, 1]²: three scales that merge."""
    middles = torch.tensor([[-0.75, -0.55], [-0.25, -0.55], [0.5, 0.3], [0.6, 0.55]]).double()
    chosen = middles[torch.arange(count) % len(middles)]
    return chosen + 0.03 * torch.randn(count, 2, generator=noise, dtype=torch.float64)
