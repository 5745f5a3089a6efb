"""Images in a folder, one file each: any square size, the same for all."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from vdvae_patch.data import normalization
from vdvae_patch.data.arrays import folder_with
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import IN_MEMORY_BYTES, Indices, LazyPixels, Pixels, UInt8, select
from vdvae_patch.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})


def read_images(root: Path | None) -> Splits:
    """Every image below `root`, in the order of their paths, split 80/10/10.

    With `perm = RandomState(11172018).permutation(n)`: validation `perm[:n // 10]`, test `perm[n // 10:2 * (n // 10)]`,
    at least one image each, and training the rest. Normalized by the training pixels' mean and standard deviation.
    """
    folder = folder_with(root, [], "images", "put square images of one size there")
    images = open_images(folder)
    n = len(images)
    if n < 3:
        raise DataError(f"{folder}: {n} image(s); at least 3 are needed, to train, validate and test")
    tenth = max(1, n // 10)
    permutation = np.random.RandomState(11172018).permutation(n).astype(np.int64)
    valid, test, train = np.split(permutation, [tenth, 2 * tenth])
    pixels = select(images, train)
    measured = Normalization.measured(pixels, str(folder))
    text = f"valid, then test: first {tenth:,} each of RandomState(11172018).permutation({n}) of the sorted paths"
    return Splits(pixels, select(images, valid), select(images, test), measured, str(folder), text)


def read_ffhq1024(root: Path | None) -> Splits:
    """FFHQ at 1024x1024: images below `train` and `valid`, in `root` or its `ffhq1024`; `valid` is also the test."""
    nested = root / "ffhq1024" if root is not None and (root / "ffhq1024").is_dir() else root
    hint = "the 70,000 PNG images of images1024x1024 (github.com/NVlabs/ffhq-dataset), 65,000 in train, 5,000 in valid"
    folder = folder_with(nested, ["train", "valid"], "ffhq1024", hint)
    train, valid = (open_images(folder / part, size=1024) for part in ("train", "valid"))
    text = "folders train and valid; test: the same images as valid"
    return Splits(train, valid, valid, normalization.FFHQ1024, str(folder), text)


class FolderPixels(LazyPixels):
    """Image files that are decoded when they are indexed; all must have the size of the first."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.shape = (len(paths), size, size, 3)

    def read(self, indices: Indices) -> UInt8:
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, index in enumerate(indices):
            image = read_image(self.paths[index])
            if image.shape != self.shape[1:]:
                H, W = image.shape[:2]
                raise DataError(
                    f"{self.paths[index]}: {W}x{H} pixels, but {self.shape[1]}x{self.shape[1]} are expected, as in "
                    f"{self.paths[0].name}; crop or resize the images to one square size first"
                )
            images[row] = image
        return images


def open_images(folder: Path, *, size: int | None = None) -> Pixels:
    """The images below `folder`, sorted by path: decoded now if they fit in memory, else whenever they are indexed.

    Raises:
        DataError: no images, a damaged one, one that is not square, or one of another size than the first (or `size`).
    """
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    paths = sorted(files, key=lambda path: path.relative_to(folder).as_posix())
    if not paths:
        raise DataError(f"{folder}: no images in it or below it; looked for {', '.join(sorted(SUFFIXES))}")
    H, W, _ = read_image(paths[0]).shape
    if H != W:
        raise DataError(f"{paths[0]}: {W}x{H} pixels, not square; crop or resize the images to one square size first")
    if size is not None and size != H:
        raise DataError(f"{paths[0]}: {W}x{H} pixels, but this data set has {size}x{size}")
    images = FolderPixels(paths, H)
    return images[:] if images.nbytes <= IN_MEMORY_BYTES else images


def read_image(path: Path) -> UInt8:
    """An image file as RGB, `[H, W, 3]`: grey is repeated, an alpha channel is left out, 16-bit images are refused."""
    import imageio.v3 as iio
    from PIL.Image import DecompressionBombError

    try:
        image: np.ndarray[Any, Any] = np.asarray(iio.imread(path, plugin="pillow", index=0))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, DecompressionBombError) as error:
        raise DataError(f"{path}: not a whole image ({' '.join(str(error).split())}); replace or remove it") from None
    if image.dtype != np.uint8:
        raise DataError(f"{path}: its values are {image.dtype}; only images of 8 bits a channel can be used")
    if image.ndim == 2:
        image = image[:, :, None]
    colour = image[:, :, : 3 if image.shape[2] >= 3 else 1]
    return np.ascontiguousarray(np.broadcast_to(colour, (*image.shape[:2], 3)))
