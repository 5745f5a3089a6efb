"""The processes of a run: rank, world size, device, and the few things that ranks tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from vdvae_patch.errors import RunError


@dataclass(frozen=True)
class World:
    """One process of `size`; alone, every exchange is the identity."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the terminal."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The average over ranks; NaN if any rank has NaN."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values, `[size, *values.shape]`."""
        if self.size == 1:
            return values[None]
        out = values.new_empty((self.size, *values.shape))
        dist.all_gather_into_tensor(out, values)
        return out

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is the GPU if there is one.

    Raises:
        RunError: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(f"--device {name!r} is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise RunError(f"--device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise RunError(f"--device {name}: this machine, or this build of torch, has no CUDA device; use --device cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise RunError(f"--device cuda:{index}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", index)
