"""How many launches a step takes: counted by torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from vdvae_patch.benchmark import silent_profiler, synchronize

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "hipLaunchKernel", "hipModuleLaunchKernel")
_COPIES = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Launches:
    """Of one step.

    Attributes:
        operators: calls of torch's operators, those within others too.
        launches: of kernels and of whole graphs, by the host; None where there is no GPU.
        kernels: that the device ran; many for the one launch of a graph.
        copies: copies and fills of memory that the device did.
    """

    operators: int
    launches: int | None = None
    kernels: int | None = None
    copies: int | None = None


def count_launches(step: Callable[[], object], device: torch.device) -> Launches:
    """Do a step under the profiler."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    synchronize(device)
    with silent_profiler(), profile(activities=activities) as profiler:
        step()
        synchronize(device)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    seen: Counter[str] = Counter()
    for event in profiler.profiler.kineto_results.events():
        name = event.name()
        if event.device_type() == torch.profiler.DeviceType.CUDA:
            seen["copies" if name.startswith(_COPIES) else "kernels"] += 1
        elif name.startswith("aten::"):
            seen["operators"] += 1
        elif name.startswith(_LAUNCHES):
            seen["launches"] += 1
    if device.type != "cuda":
        return Launches(seen["operators"])
    return Launches(seen["operators"], seen["launches"], seen["kernels"], seen["copies"])
