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
    from vdvae_patch import decoders, objectives, scales, top_priors
    from vdvae_patch.baking import source
    from vdvae_patch.errors import GuardError, PatchError
    from vdvae_patch.guarding import Guard, guard
    from vdvae_patch.heads import Head
    from vdvae_patch.hosts import HostEntry, load_entry_file, load_host
    from vdvae_patch.hosts.trainable import TrainableEntry
    from vdvae_patch.patching import (
        PatchHandle,
        check_intact,
        is_patched,
        load_state_dict,
        patch,
        patch_json,
        patched_heads,
        unpatch,
    )
    from vdvae_patch.saving import apply, load, save
    from vdvae_patch.scales import Scale
    from vdvae_patch.scanning.finder import scan, stable_loss
    from vdvae_patch.scanning.result import ScanResult
    from vdvae_patch.scanning.stabilizing.stabilizer import stabilize

__version__ = "0.1.0"
__all__ = [
    "Guard",
    "GuardError",
    "Head",
    "HostEntry",
    "PatchError",
    "PatchHandle",
    "Scale",
    "ScanResult",
    "TrainableEntry",
    "apply",
    "check_intact",
    "decoders",
    "guard",
    "is_patched",
    "load",
    "load_entry_file",
    "load_host",
    "load_state_dict",
    "objectives",
    "patch",
    "patch_json",
    "patched_heads",
    "save",
    "scales",
    "scan",
    "source",
    "stabilize",
    "stable_loss",
    "top_priors",
    "unpatch",
]

# torch takes two seconds to import, and `--help` has half of one: names are resolved when they are first used.
_LAZY = {
    "Guard": "vdvae_patch.guarding",
    "GuardError": "vdvae_patch.errors",
    "Head": "vdvae_patch.heads",
    "HostEntry": "vdvae_patch.hosts",
    "PatchError": "vdvae_patch.errors",
    "PatchHandle": "vdvae_patch.patching",
    "Scale": "vdvae_patch.scales",
    "ScanResult": "vdvae_patch.scanning.result",
    "TrainableEntry": "vdvae_patch.hosts.trainable",
    "apply": "vdvae_patch.saving",
    "check_intact": "vdvae_patch.patching",
    "guard": "vdvae_patch.guarding",
    "is_patched": "vdvae_patch.patching",
    "load": "vdvae_patch.saving",
    "load_entry_file": "vdvae_patch.hosts",
    "load_host": "vdvae_patch.hosts",
    "load_state_dict": "vdvae_patch.patching",
    "patch": "vdvae_patch.patching",
    "patch_json": "vdvae_patch.patching",
    "patched_heads": "vdvae_patch.patching",
    "save": "vdvae_patch.saving",
    "scan": "vdvae_patch.scanning",
    "source": "vdvae_patch.baking",
    "stabilize": "vdvae_patch.scanning",
    "stable_loss": "vdvae_patch.scanning",
    "unpatch": "vdvae_patch.patching",
}


_MODULES = ("decoders", "objectives", "scales", "top_priors")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"vdvae_patch.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vdvae_patch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
