"""A data set that has been read: its splits, how to normalize it, and where it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vdvae_patch.data.fingerprints import WholeFingerprints, fingerprint, fingerprints
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import Pixels, check_pixels, select, spaced
from vdvae_patch.errors import DataError, InvalidValueError


@dataclass(frozen=True)
class Splits:
    """What a data set's reader gives: uint8 `[N, H, W, C]` three times, and how the split was made, in words.

    `notes` says, a sentence each, what else a user must know: files that were left out, a checksum that nobody knows.
    `width` is W of images that are not square.
    """

    train: Pixels
    valid: Pixels
    test: Pixels
    normalization: Normalization
    source: str
    split: str
    notes: tuple[str, ...] = ()
    width: int | None = None


@dataclass(frozen=True)
class Provenance:
    """What a run must write down to prove which data it saw.

    Attributes:
        source: the files that were read, or what drew the images.
        split: the rule that made the splits.
        train_count, valid_count, test_count: images in each, after `limit_images`.
        chosen: with `limit_images`, the positions in the full training split of the images that are left; else None.
        fingerprint: SHA-256 of the training pixels (`fingerprints.fingerprint`), hexadecimal.
        notes: what else was seen, a sentence each: what was left out.
        held_out_fingerprint: the same of the images to validate and to test, together.
        fingerprint_of: how many of the training images `fingerprint` is of.
        whole_fingerprint: SHA-256 of all of them (`WholeFingerprints`), where `fingerprint` is not; empty where it is,
            where nobody could take it, and in the records of before.
        held_out_whole_fingerprint: the same of the images to validate and to test.
    """

    source: str
    split: str
    train_count: int
    valid_count: int
    test_count: int
    chosen: tuple[int, ...] | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    held_out_fingerprint: str = ""
    fingerprint_of: int | None = None
    whole_fingerprint: str = ""
    held_out_whole_fingerprint: str = ""


@dataclass(frozen=True)
class ImageData:
    """Images to train, validate and test on: uint8 `[N, H, W, C]`, numpy arrays or read on demand, indexed alike.

    Attributes:
        image_size: H, and W unless `width` says otherwise.
        width: W of images that are not square.
    """

    name: str
    train: Pixels
    valid: Pixels
    test: Pixels
    normalization: Normalization
    image_size: int
    channels: int
    provenance: Provenance
    width: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.image_size, self.width or self.image_size


def assemble(name: str, splits: Splits, *, seed: int, limit_images: int | None) -> ImageData:
    """Check the splits against each other, keep `limit_images` training images, and take the fingerprint.

    Raises:
        DataError: splits of different shapes, or training pixels that all have one value.
        InvalidValueError: as `choose`.
    """
    check_pixels(splits.train, f"{splits.source} (train)", width=splits.width)
    _, size, _, channels = (int(length) for length in splits.train.shape)
    check_pixels(splits.valid, f"{splits.source} (valid)", size=size, channels=channels, width=splits.width)
    check_pixels(splits.test, f"{splits.source} (test)", size=size, channels=channels, width=splits.width)
    if not math.isfinite(splits.normalization.scale):
        value = int(splits.train[np.zeros(1, np.int64)].max())
        raise DataError(f"{splits.source}: every training pixel is {value}; there is nothing to learn from it")
    train, chosen = splits.train, None
    if limit_images is not None:
        chosen = choose(len(train), limit_images, seed)
        train = select(train, np.array(chosen, dtype=np.int64))
    whole = WholeFingerprints()
    provenance = Provenance(
        source=splits.source,
        split=splits.split,
        train_count=len(train),
        valid_count=len(splits.valid),
        test_count=len(splits.test),
        chosen=chosen,
        fingerprint=fingerprint(train),
        notes=splits.notes,
        held_out_fingerprint=fingerprints(splits.valid, splits.test),
        fingerprint_of=len(spaced(train)),
        whole_fingerprint=whole.of(train),
        held_out_whole_fingerprint=whole.of(splits.valid, splits.test),
    )
    return ImageData(
        name, train, splits.valid, splits.test, splits.normalization, size, channels, provenance, splits.width
    )


def choose(n: int, count: int, seed: int) -> tuple[int, ...]:
    """`count` of `n` positions without replacement: the first of `RandomState(seed).permutation(n)`.

    Raises:
        InvalidValueError: a count outside 1..n, or a seed outside 0..2**32 - 1.
    """
    if not 1 <= count <= n:
        raise InvalidValueError(f"limit_images {count} is not between 1 and the {n:,} training images")
    if not 0 <= seed < 2**32:
        raise InvalidValueError(f"seed {seed} is not between 0 and {2**32 - 1}")
    return tuple(int(i) for i in np.random.RandomState(seed).permutation(n)[:count])
