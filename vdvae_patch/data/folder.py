"""Images in a folder, one file each: any square size, the same for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vdvae_patch.data import normalization
from vdvae_patch.data.arrays import folder_with
from vdvae_patch.data.decode import SUFFIXES, read_image
from vdvae_patch.data.images import Splits
from vdvae_patch.data.listing import Listing, Split, list_images
from vdvae_patch.data.looks import looks
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import IN_MEMORY_BYTES, Indices, LazyPixels, Pixels, UInt8, select
from vdvae_patch.errors import DataError
from vdvae_patch.machine import usable_cores

__all__ = ["SUFFIXES", "FolderPixels", "open_images", "read_ffhq1024", "read_image", "read_images"]


_MOST_THREADS = 8
_A_THREAD = 4
"""Images for which a thread is worth starting."""
_A_PART = 1024


def read_images(root: Path | None) -> Splits:
    """Every image below `root`, in the order of their paths, split 80/10/10, or as folders train, val and test say.

    With `perm = RandomState(11172018).permutation(n)`: validation `perm[:n // 10]`, test `perm[n // 10:2 * (n // 10)]`,
    at least one image each, and training the rest. Without a folder for validation it is drawn from the training images
    in the same way; without one for test the validation images are also the test. Normalized by the training pixels'
    mean and standard deviation.
    """
    folder = folder_with(root, [], "images", "put square images of one size there")
    listing = list_images(folder)
    named = listing.by_split()
    if named is not None:
        return _by_folders(listing, named)
    images = _open(listing.paths)
    n = len(images)
    if n < 3:
        raise DataError(f"{folder}: {n} image(s); at least 3 are needed, to train, validate and test")
    tenth = max(1, n // 10)
    permutation = np.random.RandomState(11172018).permutation(n).astype(np.int64)
    valid, test, train = np.split(permutation, [tenth, 2 * tenth])
    pixels = select(images, train)
    measured = Normalization.measured(pixels)
    text = f"valid, then test: first {tenth:,} each of RandomState(11172018).permutation({n}) of the sorted paths"
    valid_pixels, test_pixels = select(images, valid), select(images, test)
    notes = (*listing.notes(), *looks(pixels, valid_pixels, test_pixels))
    return Splits(pixels, valid_pixels, test_pixels, measured, str(folder), text, notes)


def _by_folders(listing: Listing, named: dict[Split, tuple[Path, ...]]) -> Splits:
    source = str(listing.folder)
    train = _open(named["train"])
    if "valid" in named:
        valid = _open(named["valid"])
        test = _open(named["test"]) if "test" in named else valid
        text = "folders of train and valid"
        text += ", and of test" if "test" in named else "; test: the same images as valid"
    else:
        n = len(train)
        if n < 2:
            raise DataError(f"{source}: {n} image to train on; at least 2 are needed, one of them to validate")
        tenth = max(1, n // 10)
        permutation = np.random.RandomState(11172018).permutation(n).astype(np.int64)
        test = _open(named["test"])
        valid, train = select(train, permutation[:tenth]), select(train, permutation[tenth:])
        text = (
            f"folders of train and test; valid: first {tenth:,} of RandomState(11172018).permutation({n}) of the "
            "sorted paths of train"
        )
    measured = Normalization.measured(train)
    return Splits(train, valid, test, measured, source, text, (*listing.notes(), *looks(train, valid, test)))


def read_ffhq1024(root: Path | None) -> Splits:
    """FFHQ at 1024x1024: images below `train` and `valid`, in `root` or its `ffhq1024`; `valid` is also the test."""
    nested = root / "ffhq1024" if root is not None and (root / "ffhq1024").is_dir() else root
    hint = "the 70,000 PNG images of images1024x1024 (github.com/NVlabs/ffhq-dataset), 65,000 in train, 5,000 in valid"
    folder = folder_with(nested, ["train", "valid"], "ffhq1024", hint)
    listings = [list_images(folder / part) for part in ("train", "valid")]
    train, valid = (_open(listing.paths, size=1024) for listing in listings)
    text = "folders train and valid; test: the same images as valid"
    notes = tuple(note for listing in listings for note in listing.notes())
    return Splits(train, valid, valid, normalization.FFHQ1024, str(folder), text, notes)


class FolderPixels(LazyPixels):
    """Image files that are decoded when they are indexed; all must have the size of the first."""

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths = paths
        self.shape = (len(paths), size, size, 3)

    def read(self, indices: Indices) -> UInt8:
        """The images at `indices`, in that order, decoded by several threads: Pillow decodes without Python's lock.

        Raises:
            DataError: of the first one in that order that is damaged or of another size.
        """
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)

        def fill(row: int) -> None:
            images[row] = self._image(self.paths[indices[row]])

        workers = min(usable_cores(), _MOST_THREADS, len(indices) // _A_THREAD)
        if workers < 2:
            for row in range(len(indices)):
                fill(row)
            return images
        with ThreadPoolExecutor(workers) as pool:
            try:
                # in parts: what is wrong with one is said before all the others were decoded
                for start in range(0, len(indices), _A_PART):
                    deque(pool.map(fill, range(start, min(start + _A_PART, len(indices)))), maxlen=0)
            finally:
                pool.shutdown(cancel_futures=True)
        return images

    def _image(self, path: Path) -> UInt8:
        image = read_image(path)
        if image.shape != self.shape[1:]:
            H, W = image.shape[:2]
            raise DataError(
                f"{path}: {W}x{H} pixels, but {self.shape[1]}x{self.shape[1]} are expected, as in "
                f"{self.paths[0].name}; crop or resize the images to one square size first"
            )
        return image


def open_images(folder: Path, *, size: int | None = None) -> Pixels:
    """The images below `folder`, sorted by path: decoded now if they fit in memory, else whenever they are indexed.

    Raises:
        DataError: no images, a damaged one, one that is not square, or one of another size than the first (or `size`).
    """
    return _open(list_images(folder).paths, size=size)


def _open(paths: Sequence[Path], *, size: int | None = None) -> Pixels:
    H, W, _ = read_image(paths[0]).shape
    if H != W:
        raise DataError(f"{paths[0]}: {W}x{H} pixels, not square; crop or resize the images to one square size first")
    if size is not None and size != H:
        raise DataError(f"{paths[0]}: {W}x{H} pixels, but this data set has {size}x{size}")
    images = FolderPixels(paths, H)
    return images[:] if images.nbytes <= IN_MEMORY_BYTES else images
