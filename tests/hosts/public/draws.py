"""Inputs of the public models, drawn by a seed, and the convention that most of them have."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def rand(*shape: int, seed: int = 6) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def tokens(high: int, *shape: int, low: int = 0, seed: int = 7) -> Tensor:
    return torch.randint(low, high, shape, generator=generator(seed))


def half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v)
