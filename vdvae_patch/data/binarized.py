"""Images of two values, 0 and 255, from grey ones: thresholded, drawn once, or drawn anew each time.

These are three data sets, whose likelihoods differ by many nats; none has a name that could mean another. A fourth,
MNIST as it was drawn once by Larochelle and Murray (2011), is a file of theirs, and is not what a seed of ours draws.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import Pixels, UInt8
from vdvae_patch.errors import InvalidValueError

Binarization = Literal["thresholded", "drawn-once", "drawn-anew"]


def binarize(splits: Splits, how: Binarization, seed: float = 0) -> Splits:
    """The three splits of grey images, uint8 `[N, H, W, C]`, as images of two values.

    `thresholded`: 255 where x / 255 > 1/2. `drawn-once`: 255 with the probability x / 255, by the seed. `drawn-anew`:
    so are validation and test, and the training images stay grey, to be drawn whenever a batch is taken
    (`Normalization.drawn`).

    Raises:
        InvalidValueError: a seed that is no whole number of at least 0.
    """
    if how == "thresholded":
        parts = [threshold(part) for part in (splits.train, splits.valid, splits.test)]
        said = "pixels above half the range are white, the others black"
        return _of(splits, parts, Normalization.measured(parts[0]), said)
    if seed != int(seed) or not 0 <= seed < 2**32:
        raise InvalidValueError(f"the seed of a binarization is a whole number of at least 0, not {seed:g}")
    streams = [np.random.RandomState([int(seed), number]) for number in range(3)]
    valid, test = draw(splits.valid, streams[1]), draw(splits.test, streams[2])
    if how == "drawn-once":
        train = draw(splits.train, streams[0])
        said = f"each pixel drawn once, white with its grey value for the probability, by seed {int(seed)}"
        return _of(splits, [train, valid, test], Normalization.measured(train), said)
    said = f"training pixels drawn anew for every batch, validation and test once, by seed {int(seed)}"
    return _of(splits, [splits.train, valid, test], Normalization.of_draws(splits.train), said)


def threshold(pixels: Pixels) -> UInt8:
    """255 above half the range, else 0."""
    return np.where(np.asarray(pixels[:]) > 127, np.uint8(255), np.uint8(0))


def draw(pixels: Pixels, random: np.random.RandomState) -> UInt8:
    """255 with the probability x / 255, else 0."""
    grey = np.asarray(pixels[:])
    return np.where(random.uniform(0, 255, grey.shape) < grey, np.uint8(255), np.uint8(0))


def _of(splits: Splits, parts: list[Pixels] | list[UInt8], normalization: Normalization, said: str) -> Splits:
    train, valid, test = parts
    return replace(
        splits, train=train, valid=valid, test=test, normalization=normalization, split=f"{splits.split}; {said}"
    )
