"""Pixels in memory, memory-mapped, or read on demand: all are indexed alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.errors import DataError

UInt8: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.int64]
Labels: TypeAlias = NDArray[np.int64]

IN_MEMORY_BYTES = 512 * 2**20  # a rank may hold this much; what is larger stays where it lies
HASHED_BYTES = 256 * 2**20
SPACED_BYTES = 16 * 2**20


class LazyPixels(ABC):
    """uint8 images `[N, H, W, C]` that are read when they are indexed."""

    shape: tuple[int, ...]
    dtype = np.dtype(np.uint8)

    @abstractmethod
    def read(self, indices: Indices) -> UInt8:
        """The images at `indices`, `[len(indices), H, W, C]`."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, index: int | slice | NDArray[np.integer[Any]]) -> UInt8:
        if isinstance(index, np.ndarray) and index.dtype.kind in "iu":
            return self.read(index.astype(np.int64, copy=False))
        positions = np.arange(len(self))[index]
        return self.read(positions) if positions.ndim else self.read(positions[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)


Pixels: TypeAlias = UInt8 | LazyPixels


class IndexedPixels(LazyPixels):
    """The images of `base` at `indices`, in that order; a shuffled split of a mapped file without a copy of it."""

    def __init__(self, base: Pixels, indices: Indices) -> None:
        self.base, self.indices = base, indices
        self.shape = (len(indices), *base.shape[1:])

    def read(self, indices: Indices) -> UInt8:
        return np.asarray(self.base[self.indices[indices]])


def select(pixels: Pixels, indices: Indices) -> Pixels:
    """The images at `indices`: copied if that is small or `pixels` lies in memory anyway, else by reference."""
    stays_on_disk = isinstance(pixels, (LazyPixels, np.memmap))
    image_bytes = int(np.prod(pixels.shape[1:], dtype=np.int64))
    if stays_on_disk and len(indices) * image_bytes > IN_MEMORY_BYTES:
        return IndexedPixels(pixels, indices)
    return np.asarray(pixels[indices])


def spaced(pixels: Pixels) -> Indices:
    """Indices of all images of data up to 256 MiB, else of images at even spacing that amount to 16 MiB."""
    if pixels.nbytes <= HASHED_BYTES:
        return np.arange(len(pixels))
    count = max(2, SPACED_BYTES * len(pixels) // pixels.nbytes)
    return np.linspace(0, len(pixels) - 1, count).astype(np.int64)


def check_pixels(
    pixels: Pixels, source: str, *, size: int | None = None, channels: int | None = None, width: int | None = None
) -> None:
    """Refuse what is not uint8 `[N, H, W, C]` with N > 0, H = W (= `size`) and C = 1 or 3 (= `channels`).

    Args:
        width: W of images that are not square.

    Raises:
        DataError: naming `source` and what is wrong with it.
    """
    H = size if size is not None else "H"
    C = channels if channels is not None else "3"
    wanted = f"expected uint8 images [N, {H}, {width or (H if size else 'W=H')}, {C}]"
    shape = tuple(map(int, pixels.shape))
    if pixels.dtype != np.uint8:
        raise DataError(f"{source}: values are {pixels.dtype}; {wanted}, pixels 0..255")
    if len(shape) != 4:
        raise DataError(f"{source}: shape {list(shape)}; {wanted}")
    if 0 in shape:
        raise DataError(f"{source}: shape {list(shape)} has no pixels; {wanted}")
    if shape[2] != (shape[1] if width is None else width) or (size is not None and shape[1] != size):
        raise DataError(f"{source}: images are {shape[1]}x{shape[2]}; {wanted}")
    if shape[3] not in ((channels,) if channels is not None else (1, 3)):
        hint = "; they look channels-first: transpose to channels last" if shape[1] in (1, 3) else ""
        raise DataError(f"{source}: {shape[3]} channels{hint}; {wanted}")
