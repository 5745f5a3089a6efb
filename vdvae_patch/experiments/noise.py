"""Randomness that depends on a run's seed and the step alone: the same in an ensemble, alone, and after a restart.

A host draws its noise from torch's default generator. In an ensemble every run must have its own, so the calls
`torch.randn` and `torch.randn_like` are answered from a tensor that is handed in with the batch (`SuppliedNoise`), and
that tensor is drawn from (seed, step, purpose). There is no generator state to save.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vdvae_patch.errors import InvalidValueError


def generator(device: torch.device, seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator at the start of the stream of (seed, step, purpose)."""
    return torch.Generator(device).manual_seed(_key(seed, step, purpose))


def normals(seeds: Sequence[int], step: int, count: int, device: torch.device) -> Tensor:
    """N(0, 1), `[len(seeds), count]`: row r depends on `seeds[r]` and `step` alone."""
    out = torch.empty(len(seeds), count, device=device)
    stream = torch.Generator(device)
    for row, seed in zip(out, seeds, strict=True):
        row.normal_(generator=stream.manual_seed(_key(seed, step, "noise")))
    return out


def draws(seeds: Sequence[int], step: int, high: int, count: int, device: torch.device) -> Tensor:
    """Whole numbers from 0 to `high - 1` with replacement, `[len(seeds), count]`; rows as in `normals`.

    They are drawn on the CPU, and the device need not be waited for to have them.
    """
    stream = torch.Generator()
    rows = [torch.randint(high, (count,), generator=stream.manual_seed(_key(s, step, "batch"))) for s in seeds]
    drawn = torch.stack(rows)
    # pageable memory is copied only when all is done that the device was told before
    return (drawn.pin_memory() if device.type == "cuda" else drawn).to(device, non_blocking=True)


def _key(seed: int, step: int, purpose: str) -> int:
    # hashed: the CPU's generator keeps 32 bits of a seed, and neighbouring seeds must not share streams
    return int.from_bytes(hashlib.blake2b(f"{purpose}/{seed}/{step}".encode(), digest_size=4).digest(), "little")


class SuppliedNoise(TorchFunctionMode):
    """Answers `torch.randn` and `torch.randn_like` with the next values of `noise`, a vector; works inside `vmap`."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.used: int = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn_like:
            return self._next(tuple(args[0].shape), args[0].dtype)
        if func is torch.randn:
            given = kwargs or {}
            shape = given.get("size", args[0] if args and not isinstance(args[0], int) else args)
            return self._next(tuple(shape), given.get("dtype") or torch.float32)
        return func(*args, **(kwargs or {}))

    def _next(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        start, self.used = self.used, self.used + math.prod(shape)
        if self.used > self.noise.shape[0]:
            raise InvalidValueError(f"the model drew {self.used} random numbers, {self.noise.shape[0]} were supplied")
        return self.noise[start : self.used].view(shape).to(dtype)


def count_normals(model: nn.Module, *batch: Tensor) -> int:
    """How many values of N(0, 1) one pass of the model draws on a batch; the model's buffers stay as they are."""
    zeros = torch.zeros(1, device=batch[0].device).expand(2**40)
    mode = SuppliedNoise(zeros)
    with mode, torch.no_grad():
        copy.deepcopy(model)(*batch)
    return mode.used
