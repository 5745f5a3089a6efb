"""Gradients that are averages over ranks, and what each rank's own share of them was."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from vdvae_patch.train.world import World


class LocalGradient:
    """Whether this rank's gradient was finite before it was averaged; decided on the device, bucket by bucket."""

    def __init__(self, device: torch.device) -> None:
        self._finite = torch.ones((), dtype=torch.bool, device=device)

    def take(self) -> Tensor:
        """True if the gradient of the last backward pass was finite here; starts anew for the next."""
        finite = self._finite.clone()
        self._finite.fill_(True)
        return finite

    def hook(self, state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Look at a bucket, then average it over ranks."""
        self._finite.logical_and_(bucket.buffer().isfinite().all())
        return allreduce_hook(state, bucket)


def distribute(module: nn.Module, world: World) -> tuple[nn.Module, LocalGradient | None]:
    """The module, wrapped so that its gradients become averages over ranks; alone, the module itself."""
    if world.size == 1:
        return module, None
    on_device = [world.device.index] if world.device.type == "cuda" else None
    wrapped = DistributedDataParallel(module, device_ids=on_device, gradient_as_bucket_view=True)
    watch = LocalGradient(world.device)
    # a function without annotations: torch compares them with its types, and ours are text
    wrapped.register_comm_hook(dist.group.WORLD, lambda state, bucket: watch.hook(state, bucket))
    return wrapped, watch
