"""For each rule of the scan, in a file of its name, a model that needs it and a look-alike that it must leave alone.

A file defines `NEEDS` and `LOOK_ALIKE`, each a `Case` with the heads that are right.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(mean: Tensor, sigma: Tensor) -> Tensor:
    return mean + sigma * torch.randn_like(mean)


def kl_to_standard(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Of N(mean, σ²) to N(0, 1), averaged."""
    return (0.5 * ((2 * log_sigma).exp() + mean**2 - 1) - log_sigma).mean()


def half(v: Tensor) -> Tensor:
    """σ of a log variance."""
    return torch.exp(0.5 * v)
