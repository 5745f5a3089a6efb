"""Find the Normal heads of a model that nobody described: `scan`; and patch them at once: `stabilize`."""

from vdvae_patch.scanning.finder import scan, stable_loss
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing.stabilizer import stabilize

__all__ = ["ScanResult", "scan", "stabilize", "stable_loss"]
