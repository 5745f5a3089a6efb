"""Find the Normal heads of a model that nobody described: `scan`; and patch them at once: `stabilize`."""

from vdvae_patch.scanning.scan import Heads, scan
from vdvae_patch.scanning.stabilize import stabilize

__all__ = ["Heads", "scan", "stabilize"]
