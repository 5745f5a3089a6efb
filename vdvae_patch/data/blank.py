"""Images of a data set's published number and size that say nothing, for what asks only how long a step takes."""

from __future__ import annotations

import numpy as np

from vdvae_patch.data.catalog import Published
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import Indices, LazyPixels, UInt8


class Blank(LazyPixels):
    """A pattern, the same in every image; of two values, if the data set has these alone."""

    def __init__(self, count: int, published: Published, *, two_values: bool) -> None:
        self.shape = (count, published.height, published.width, published.channels)
        pattern = np.arange(int(np.prod(self.shape[1:])), dtype=np.int64) * 37 % 256
        grey = pattern.reshape(self.shape[1:]).astype(np.uint8)
        self._image = np.where(grey > 127, np.uint8(255), np.uint8(0)) if two_values else grey

    def read(self, indices: Indices) -> UInt8:
        return np.broadcast_to(self._image, (len(indices), *self.shape[1:])).copy()


def blank_splits(name: str, published: Published, *, two_values: bool) -> Splits:
    """Splits of a data set that is not here."""
    train, few = (Blank(count, published, two_values=two_values) for count in (published.train, 2))
    note = f"{name} is not here, and nothing is downloaded for an estimate: it is made with blank images of its size"
    width = None if published.width == published.height else published.width
    return Splits(train, few, few, Normalization(127.5, 1 / 64), "blank images", "none", (note,), width=width)
