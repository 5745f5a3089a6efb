"""The noise of a step is a function of seed, rank and step alone.

Every step seeds the generators that hosts draw from: torch's, and the global ones of NumPy and of Python. So a resumed
run draws what the undisturbed one would have drawn, a single step can be done again exactly, and all variants of one
seed see the same noise. A generator that a host has made for itself is its own, see `outside`.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Literal

import numpy as np
import torch

Purpose = Literal["init", "decoder", "train", "evaluate", "samples", "data", "top_prior"]
_STREAMS: dict[Purpose, int] = {
    "init": 0,
    "train": 1,
    "evaluate": 2,
    "samples": 3,
    "decoder": 4,
    "data": 5,
    "top_prior": 6,
}


def seed_noise(purpose: Purpose, seed: int, *, rank: int = 0, step: int = 0) -> None:
    """Seed torch's default generators, of all devices, and NumPy's and Python's global ones, for one use."""
    key = noise_seed(purpose, seed, rank=rank, step=step)
    _seed_all(key)
    random.seed(key)
    np.random.seed([key >> 32, key & 0xFFFFFFFF])


@cache
def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator(check_available=True)


def _seed_all(seed: int) -> None:
    """What `torch.manual_seed` does, for the devices that there are.

    For every kind of device that is not in use that notes the seed and the stack it was called from, also where there
    is none of the kind: nearly all of its time, in every step.
    """
    device = _accelerator()
    if device is None:
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.default_generator.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)
    else:
        torch.manual_seed(seed)


def noise_seed(purpose: Purpose, seed: int, *, rank: int = 0, step: int = 0) -> int:
    """The seed of one use, for a generator of its own."""
    words = np.random.SeedSequence([seed, _STREAMS[purpose], rank, step]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1
