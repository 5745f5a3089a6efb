"""Which images are held out for validation, the same on every machine: `RandomState` streams never change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vdvae_patch.data.pixels import Indices
from vdvae_patch.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    """Indices of the two parts of one file or folder, and in words how they came about."""

    train: Indices
    held: Indices
    text: str


def hold_out(n: int, *, seed: int, count: int, end: Literal["first", "last"], source: str) -> HeldOut:
    """Hold out `count` of `n` images: the first or last of `RandomState(seed).permutation(n)`; the rest, in its order.

    A subset of a published data set has fewer images than its split is meant for: then a tenth is held out, which
    is what CIFAR-10 (5,000 of 50,000) and FFHQ (7,000 of 70,000) hold out of the whole.

    Raises:
        DataError: fewer than 2 images.
    """
    if n < 2:
        raise DataError(f"{source}: {n} image(s); at least 2 are needed, one to train on and one to validate")
    held = min(count, max(1, n // 10))
    permutation = np.random.RandomState(seed).permutation(n).astype(np.int64)
    text = f"valid: {end} {held:,} of RandomState({seed}).permutation({n})"
    if held < count:
        text += f" (10%, as this is a subset; {count:,} of the full set)"
    if end == "first":
        return HeldOut(train=permutation[held:], held=permutation[:held], text=text)
    return HeldOut(train=permutation[:-held], held=permutation[-held:], text=text)
