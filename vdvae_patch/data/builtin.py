"""Images that need no file and no network, with enough in them to be worth reconstructing."""

from __future__ import annotations

import math

import numpy as np

from vdvae_patch.data.drawing import draw
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import InvalidValueError

SIZE = 32
# Mean and 1 / standard deviation of the 512 training images of seed 0; constants, so that neither a seed nor a smaller
# set changes what a trained model reads.
NORMALIZATION = Normalization(109.01718, 1 / 54.61923)


def read(*, train: float = 512, valid: float = 64, test: float = 64, seed: float = 0) -> Splits:
    """Training, validation and test images; image i of a split depends on `(seed, split, i)` alone.

    Raises:
        InvalidValueError: a count that is not a whole number from 1, or a seed that is not one from 0.
    """
    counts = [_whole(value, name, least=1) for name, value in (("train", train), ("valid", valid), ("test", test))]
    key = _whole(seed, "seed", least=0)
    first, second, third = (draw_images(count, key, part) for part, count in enumerate(counts))
    return Splits(first, second, third, NORMALIZATION, f"drawn by code, seed {key}", "in the order of drawing")


def draw_images(count: int, seed: int, part: int = 0) -> UInt8:
    """`[count, 32, 32, 3]`, the same on every machine; each `part` (0, 1, 2: train, valid, test) has its own."""
    streams = (np.random.Generator(np.random.PCG64([seed, part, index])) for index in range(count))
    return np.stack([draw(SIZE, rng) for rng in streams])


def _whole(value: float, name: str, *, least: int) -> int:
    if not (math.isfinite(value) and value == int(value) and value >= least):
        raise InvalidValueError(f"builtin: {name} {value:g} is not a whole number from {least}")
    return int(value)
