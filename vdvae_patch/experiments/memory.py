"""How many runs an ensemble may have: all that are asked for, or as many as fit the GPU's memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vdvae_patch.errors import RunError
from vdvae_patch.experiments.ensemble import Ensemble

HEADROOM = 0.8  # of the memory; the rest is for the allocator's fragments


def runs_that_fit(free: int, one: int, two: int) -> int:
    """From the peaks in bytes of a step of one run and of two, how many runs stay within `free` bytes.

    Raises:
        RunError: not even one.
    """
    a_run = max(two - one, 1)
    count = int((HEADROOM * free - (one - a_run)) // a_run)
    if count < 1:
        raise RunError(f"one run needs {one / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; choose a smaller batch")
    return count


def largest_chunk(make: Callable[[int], Ensemble], wanted: int, device: torch.device) -> int:
    """`wanted`, or what fits; `make(n)` builds an ensemble of n runs, of which one and two take a step."""
    if device.type != "cuda" or wanted <= 2:
        return wanted
    peaks = []
    for count in (1, 2):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        make(count).step()
        peaks.append(torch.cuda.max_memory_allocated(device))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return min(wanted, runs_that_fit(free, *peaks))
