"""`source`: the lines that give a model the same σ without this package."""

from vdvae_patch.baking.baked import Source, source

__all__ = ["Source", "source"]
