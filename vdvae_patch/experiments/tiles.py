"""Blurred reconstructions and holes: "Taming VAEs", section 3.1 and Figure 1, with images and tiles that overlap.

q(z | x_i) is the prior restricted to a rectangle of probability π_i. Then the best decoder at z, the fixed point of the
fourth equation, is the mean of all images whose rectangle holds z, weighed by 1 / π_i; where no rectangle is, the bound
does not depend on the decoder at all. Both are compared with what gradient descent of the bound finds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vdvae_patch.experiments.fixed_points import grid

RECTANGLES = (
    (-0.9, 0.1, -0.1, 0.9),
    (-0.4, 0.9, 0.3, 0.9),
    (-0.9, -0.2, -0.9, -0.2),
    (0.2, 0.9, -0.8, 0.2),
)
"""Left, right, bottom and top of the supports in the latent space [−1, 1]²: two overlap, and a part is left empty."""


@dataclass(frozen=True)
class Tiling:
    """Supports on a grid, and what they make of images.

    Attributes:
        inside: which tiles each support has, `[N, A]`.
        predicted: the fixed point of the decoder, `[A, D]`; 0 in holes, where there is none.
        descended: what gradient descent found, `[A, D]`, from a random start `begun`.
    """

    side: int
    inside: Tensor
    predicted: Tensor
    begun: Tensor
    descended: Tensor

    @property
    def prior(self) -> Tensor:
        """π_i, the prior probability of each support, `[N]`."""
        return self.inside.double().mean(dim=1)

    def tiles(self, *members: int) -> Tensor:
        """The tiles that these supports have and no others, `[A]`; with none named, the holes."""
        wanted = torch.zeros(len(self.inside), dtype=torch.bool)
        wanted[list(members)] = True
        return (self.inside == wanted[:, None]).all(dim=0)

    def shares(self, *members: int) -> list[float]:
        """The weights of these images where their supports overlap."""
        inverse = 1 / self.prior[list(members)]
        return [float(share) for share in inverse / inverse.sum()]

    @property
    def rate(self) -> float:
        """The mean KL, −mean_i log π_i, nats."""
        return float(-self.prior.log().mean())

    def difference(self, where: Tensor) -> float:
        """The root mean square of what was found less what was predicted, in some tiles."""
        return float((self.descended - self.predicted)[where].square().mean().sqrt())

    def moved(self, where: Tensor) -> float:
        """The furthest that gradient descent has moved a value, in some tiles."""
        return float((self.descended - self.begun)[where].abs().max())


def tile(images: Tensor, side: int, noise: torch.Generator, steps: int = 400) -> Tiling:
    """The rectangles, the decoder by the fixed point, and the same by gradient descent; `images` are `[4, D]`."""
    middles = grid(side)
    inside = torch.stack([
        (middles[:, 0] > left) & (middles[:, 0] < right) & (middles[:, 1] > bottom) & (middles[:, 1] < top)
        for left, right, bottom, top in RECTANGLES
    ])  # fmt: skip
    density = inside.double() / inside.double().mean(dim=1, keepdim=True)  # q(z | x_i) / π(z)
    total = density.sum(dim=0)
    predicted = density.T @ images / total.clamp_min(1e-300)[:, None]
    begun = torch.rand(len(middles), images.shape[1], generator=noise, dtype=torch.float64)
    found = _descend(images, density, begun, steps)
    return Tiling(side, inside, predicted, begun, found)


def _descend(images: Tensor, density: Tensor, begun: Tensor, steps: int) -> Tensor:
    """Minimize the negative bound, mean_i E_q(z | x_i) ‖x_i − g(z)‖² / 2 and a KL that does not move, for g."""
    decoder = begun.clone().requires_grad_()
    # the curvature of the tile that most weight is on: a step of its inverse cannot overshoot
    rate = density.numel() / float(density.sum(dim=0).max())
    for _ in range(steps):
        error = images.square().sum(dim=1)[:, None] - 2 * images @ decoder.T + decoder.square().sum(dim=1)
        nll = (density * error).mean() / 2
        (slope,) = torch.autograd.grad(nll, decoder)
        with torch.no_grad():
            decoder -= rate * slope
    return decoder.detach()


def equiprobable_rate(count: int) -> float:
    """The mean KL of the best partition for `count` images, log N nats."""
    return math.log(count)
