"""Numerically stable VAEs, without editing their code.

    heads = vdvae_patch.scan(model, batch)
    handle = vdvae_patch.patch(model, "explin/constant", heads=heads)
    print(vdvae_patch.patched_heads(model))
    handle.unpatch()

A host reads a scale from some channels of a module; a patch replaces the raw parameter by the value for which the host
computes the new scale. See the README, and "Re-parameterizing VAEs for stability" (Dehaene and Brossard) for the why.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdvae_patch import scales
    from vdvae_patch.heads import Head
    from vdvae_patch.hosts import load_entry_file, load_host
    from vdvae_patch.patching import check_intact, is_patched, patch, patched_heads, unpatch
    from vdvae_patch.scanning.finder import scan
    from vdvae_patch.scanning.stabilizer import stabilize

__version__ = "0.1.0"
__all__ = [
    "Head",
    "check_intact",
    "is_patched",
    "load_entry_file",
    "load_host",
    "patch",
    "patched_heads",
    "scales",
    "scan",
    "stabilize",
    "unpatch",
]

# torch takes two seconds to import, and `--help` has half of one: names are resolved when they are first used.
_LAZY = {
    "Head": "vdvae_patch.heads",
    "check_intact": "vdvae_patch.patching",
    "is_patched": "vdvae_patch.patching",
    "load_entry_file": "vdvae_patch.hosts",
    "load_host": "vdvae_patch.hosts",
    "patch": "vdvae_patch.patching",
    "patched_heads": "vdvae_patch.patching",
    "scan": "vdvae_patch.scanning",
    "stabilize": "vdvae_patch.scanning",
    "unpatch": "vdvae_patch.patching",
}


def __getattr__(name: str) -> Any:
    if name == "scales":
        return importlib.import_module("vdvae_patch.scales")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vdvae_patch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
