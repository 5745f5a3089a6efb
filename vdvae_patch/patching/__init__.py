"""Apply and remove a patch: `patch`, `unpatch`, `is_patched`, `patched_heads`."""

from vdvae_patch.patching.apply import (
    PatchedHead,
    PatchedHeads,
    PatchHandle,
    PatchRecord,
    is_patched,
    patch,
    patch_record,
    patched_heads,
    unpatch,
)
from vdvae_patch.patching.variant import VANILLA, Variant

__all__ = [
    "VANILLA",
    "PatchHandle",
    "PatchRecord",
    "PatchedHead",
    "PatchedHeads",
    "Variant",
    "is_patched",
    "patch",
    "patch_record",
    "patched_heads",
    "unpatch",
]
