"""Find the Normal heads of a model that nobody described: `scan`; and patch them at once: `stabilize`."""

from vdvae_patch.scanning.finder import Heads, scan
from vdvae_patch.scanning.stabilizer import stabilize

__all__ = ["Heads", "scan", "stabilize"]
