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
    """The most main memory, in bytes, that this process has held at any time."""
    import resource

    # Linux counts in kibibytes, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
