"""Apply and remove a patch: `patch`, `unpatch`, `is_patched`, `patched_heads`, `check_intact`."""

from vdvae_patch.patching.apply import PatchHandle, patch, unpatch
from vdvae_patch.patching.intact import check_intact
from vdvae_patch.patching.record import (
    PatchedHead,
    PatchedHeads,
    PatchRecord,
    is_patched,
    patch_record,
    patched_heads,
)
from vdvae_patch.patching.variant import VANILLA, Variant

__all__ = [
    "VANILLA",
    "PatchHandle",
    "PatchRecord",
    "PatchedHead",
    "PatchedHeads",
    "Variant",
    "check_intact",
    "is_patched",
    "patch",
    "patch_record",
    "patched_heads",
    "unpatch",
]
