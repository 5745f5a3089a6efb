"""A patched model on disk: `save`, `load`, `apply`."""

from vdvae_patch.saving.folder import load, save
from vdvae_patch.saving.given import apply

__all__ = ["apply", "load", "save"]
