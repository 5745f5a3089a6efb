"""Images: data sets by name, their splits and normalization, and batches by index.

`DATASETS` holds the names, `load(name, root)` gives an `images.ImageData`, and `batches.DeviceImages` keeps its pixels
on the device. Neither numpy nor torch is imported until something is loaded, so that the command line answers at once.
"""

from __future__ import annotations

from vdvae_patch.data.catalog import DATASETS, DataSet, load

__all__ = ["DATASETS", "DataSet", "load"]
