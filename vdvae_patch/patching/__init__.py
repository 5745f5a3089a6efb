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
from vdvae_patch.patching.restore import patch_json
from vdvae_patch.patching.state import load_state_dict, variant_of_state
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
    "load_state_dict",
    "patch",
    "patch_json",
    "patch_record",
    "patched_heads",
    "unpatch",
    "variant_of_state",
]
