"""A module of losses, as a training script imports it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3


def sigma_of(raw: Tensor, floor: float = FLOOR) -> Tensor:
    return F.softplus(raw) + floor


def drawn(mean: Tensor, sigma: Tensor) -> Tensor:
    return mean + sigma * torch.randn_like(mean)


def kl(mean: Tensor, sigma: Tensor) -> Tensor:
    return (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(1).mean()


def squared(output: Tensor, x: Tensor) -> Tensor:
    return (output - x).pow(2).sum(1).mean()
