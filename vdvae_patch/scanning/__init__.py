"""Find the Normal heads of a model that nobody described: `scan`."""

from vdvae_patch.scanning.scan import Heads, scan

__all__ = ["Heads", "scan"]
