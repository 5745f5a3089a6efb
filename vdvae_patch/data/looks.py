"""What somebody's images look like, where a number of the training would be misread without it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.data.pixels import HASHED_BYTES, Pixels, spaced

_MOST = 1000
"""Images that are looked at, but for the search for images that two splits have in common."""
_DARK = 64


def looks(train: Pixels, valid: Pixels, test: Pixels) -> tuple[str, ...]:
    """A sentence each: training images that are dark, of two values, or grey in three channels; images that are black;
    and held-out images that are among the training images, looked for in data up to 256 MiB."""
    some = _some(train)
    values = np.flatnonzero(np.bincount(some.ravel(), minlength=256))
    who = "the training images" if len(some) == len(train) else f"{len(some):,} training images, evenly spaced,"
    notes = []
    if values[-1] < _DARK:
        notes.append(
            f"no pixel of {who} is above {values[-1]} of 255, so that bounds are of few grey values: "
            "scale masks, and images of fewer bits than their files, to 0..255 first"
        )
    elif len(values) == 2:
        notes.append(
            f"the pixels of {who} have two values, {values[0]} and {values[1]}: the bound of a likelihood of 256 grey "
            "values is not that of one of black and white"
        )
    if some.shape[-1] == 3 and bool((some == some[..., :1]).all()):
        notes.append(f"{who} are grey in three channels: a bound per dimension counts each pixel thrice")
    return (*notes, *black(train, valid, test), *_in_common(train, valid, test))


def _some(pixels: Pixels) -> NDArray[np.uint8]:
    of_all = spaced(pixels)
    return np.asarray(pixels[of_all[np.linspace(0, len(of_all) - 1, min(_MOST, len(of_all))).astype(np.int64)]])


def black(train: Pixels, valid: Pixels, test: Pixels) -> list[str]:
    """How many images of each split are black, a sentence: what a file has where nobody has written yet, if it was made
    in full size, and filled or copied in part. Of more than 1,000 images evenly spaced ones are looked at."""
    found = {}
    held = (("to validate and test", valid),) if test is valid else (("to validate", valid), ("to test", test))
    for name, split in (("to train on", train), *held):
        some = _some(split)
        if count := int((~some.any(axis=(1, 2, 3))).sum()):
            whole = len(some) == len(split)
            found[name] = (
                f"{count:,} of {'the ' if whole else ''}{len(some):,}{'' if whole else ' (evenly spaced)'} {name}"
            )
    told = ", ".join(found.values())
    return (
        [f"images are black in every pixel: {told}: were the files written, and copied, to their end?"] if told else []
    )


def _in_common(train: Pixels, valid: Pixels, test: Pixels) -> list[str]:
    if max(train.nbytes, valid.nbytes, test.nbytes) > HASHED_BYTES:
        return []
    seen = set(_digests(train))
    found = {name: [one in seen for one in _digests(held)] for name, held in (("validate", valid), ("test", test))}
    told = [f"{sum(which):,} of the {len(which):,} to {name}" for name, which in found.items() if any(which)]
    return [f"held-out images are trained on, too, the same in every pixel: {', '.join(told)}"] if told else []


def _digests(pixels: Pixels) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in np.asarray(pixels)]
