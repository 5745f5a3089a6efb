"""Sums and means over the processes of a run, with their gradients; alone, the identity.

Where `torch.distributed` has a group of several ranks, every one of them must come by here alike, in the forward and in
the backward pass, as for any collective operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""From a rank's values to their sum over ranks, on every rank; differentiable."""


def ranks() -> int:
    """How many ranks there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = values.detach().clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # the loss of a run is the sum of what its ranks call their loss
        (grad,) = grads
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def total_over_ranks(values: Tensor) -> Tensor:
    """The sum over ranks; its gradient is the sum of all ranks' gradients."""
    if ranks() == 1:
        return values
    result: Tensor = _AllReduce.apply(values)  # type: ignore[no-untyped-call]
    return result


def mean_over_ranks(values: Tensor, total: Total = total_over_ranks) -> Tensor:
    """The mean over ranks and over the batch, `[B, ...]` to `[...]`, without a gradient; batches may differ in size."""
    detached = values.detach()
    detached = detached if detached.dtype == torch.float64 else detached.float()
    count = torch.full((1,), float(len(detached)), dtype=detached.dtype, device=detached.device)
    summed = total(torch.cat([detached.sum(dim=0).flatten(), count]))
    return (summed[:-1] / summed[-1]).reshape(detached.shape[1:])


def is_first_rank() -> bool:
    """Whether this process talks to the terminal."""
    return ranks() == 1 or dist.get_rank() == 0
