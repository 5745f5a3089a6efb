"""What the data of a batch are: their range, and whether they are pixels of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vdvae_patch.pixel_grid import PixelGrid

_RANGES = ((0.0, 1.0), (-0.5, 0.5), (-1.0, 1.0), (0.0, 255.0))
_SPARE = 1e-3
_ON_LEVEL = 0.02
"""Steps from a level, of a value that is on it: float16 in [0, 1] is off by 0.06 at most, and then is not taken."""
_FILLED = 0.25
"""Share of a range that a batch's values span at least, or it is another range."""


@dataclass(frozen=True)
class DataRange:
    """The range of a batch.

    Attributes:
        low, high: the smallest and the largest value that the data may have, or that were seen.
        words: what they are, for a reader.
        pixels: the 8-bit grid that they are on; None where they are no such images.
        is_on_levels: whether all values are levels of that grid, and not only in its range.
    """

    low: float
    high: float
    words: str
    pixels: PixelGrid | None
    is_on_levels: bool = False


def range_of(x: Tensor) -> DataRange:
    """The range of data of this batch; grey levels are spoken of where all values are levels of one of the usual
    ranges, or where the batch has the shape of grey or colour images in such a range."""
    values = x.detach().double().flatten()
    values = values[values.isfinite()]
    if not len(values):
        return DataRange(0.0, 0.0, "no finite values", None)
    low, high = (float(v) for v in torch.aminmax(values))
    if bool(((values == low) | (values == high)).all()):
        return DataRange(low, high, f"two values, {low:g} and {high:g}", None)
    for first, last in _RANGES:
        spare = _SPARE * (last - first)
        if first - spare <= low and high <= last + spare and high - low >= _FILLED * (last - first):
            position = (values - first) / (last - first) * 255
            exact = bool(((position - position.round()).abs() < _ON_LEVEL).all())
            images = x.dim() == 4 and (x.shape[1] in (1, 3, 4) or x.shape[-1] in (1, 3, 4))
            grid = PixelGrid(first, last) if exact or images else None
            return DataRange(first, last, f"in [{first:g}, {last:g}]", grid, exact)
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    if abs(mean) < 0.3 and 0.7 < deviation < 1.4:
        return DataRange(low, high, f"standardized, from {low:.3g} to {high:.3g}", None)
    return DataRange(low, high, f"from {low:.3g} to {high:.3g}", None)
