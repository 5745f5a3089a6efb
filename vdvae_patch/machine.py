"""What this machine gives a process: processors, memory, and a folder that outlives it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "VDVAE_PATCH_CACHE"


def cache_folder() -> Path:
    """Where downloads go: `$VDVAE_PATCH_CACHE`, or the user's cache folder of this operating system."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("vdvae_patch"))


def usable_cores() -> int:
    """How many cores this process may use; all of the machine's where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_bytes() -> int:
    """The most main memory, in bytes, that this process has held at any time since its program began."""
    try:
        # ru_maxrss of a program that was just started is already what its parent, as a notebook, held then
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        # Linux counts in kibibytes, macOS in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_bytes(device: object = "cpu") -> int | None:
    """How much memory a new tensor may take on a device; None where the system does not say.

    Of main memory what is free or can be freed, within the limit of the container if there is one.
    """
    if str(device).startswith("cuda"):
        import torch

        chosen = torch.device(str(device))
        reserved = torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
        return torch.cuda.mem_get_info(chosen)[0] + reserved
    if not str(device).startswith("cpu"):
        return None
    found = [size for size in (_free_of_machine(), _free_of_container()) if size is not None]
    return min(found) if found else None


def bytes_in_words(size: float) -> str:
    """`3.1 GB`, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _free_of_machine(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found[1]) * 1024


def _free_of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else None
