"""Which images a run saw, in 64 digits: what a record keeps, and what is compared when a run goes on.

Data up to 256 MiB have one SHA-256, of all images. Larger data have two: that of evenly spaced images, as all versions
of this package take it, and that of every byte, where it can be had without decoding anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vdvae_patch.data.pixels import IndexedPixels, LazyPixels, Pixels, spaced

WHOLE_BYTES = 64 * 2**30
"""Above it a whole fingerprint is not taken: at 0.5 GB/s on one processor it would be minutes on most machines."""

_CHUNK = 16 * 2**20
_THREADS = 16


def fingerprint(pixels: Pixels) -> str:
    """SHA-256 of the shape and of the `spaced` images, in order: equal if two runs saw the same training data."""
    digest = hashlib.sha256(repr(tuple(map(int, pixels.shape))).encode())
    digest.update(np.ascontiguousarray(pixels[spaced(pixels)]).data)
    return digest.hexdigest()


def fingerprints(*splits: Pixels) -> str:
    """One SHA-256 for the fingerprints of several splits, in order."""
    return hashlib.sha256(" ".join(map(fingerprint, splits)).encode()).hexdigest()


class WholeFingerprints:
    """SHA-256 of every byte of data of which `fingerprint` takes a part; of a file that several splits are of, once.

        array:            SHA-256(shape, SHA-256 of each 16 MiB in order)
        images of it:     SHA-256(positions, that of the array)

    The parts are hashed in threads. Images that would have to be decoded, and more than 64 GiB, are not read for it.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Pixels, str]] = {}

    def of(self, *splits: Pixels) -> str:
        """One for several splits in order; empty if `fingerprint` is of all of each of them, or if one cannot be had.

        Splits that are small are in it by their `fingerprint`.
        """
        small = [len(spaced(one)) == len(one) for one in splits]
        if all(small):
            return ""
        found = [
            fingerprint(one) if is_small else self._whole(one) for one, is_small in zip(splits, small, strict=True)
        ]
        return hashlib.sha256(" ".join(found).encode()).hexdigest() if all(found) else ""

    def _whole(self, pixels: Pixels) -> str:
        if isinstance(pixels, IndexedPixels):
            base = self._whole(pixels.base)
            if not base:
                return ""
            digest = hashlib.sha256(base.encode())
            digest.update(np.ascontiguousarray(pixels.indices, np.int64).data)
            return digest.hexdigest()
        if isinstance(pixels, LazyPixels) or pixels.nbytes > WHOLE_BYTES:
            return ""
        if id(pixels) not in self._known:
            self._known[id(pixels)] = pixels, _of_array(pixels)  # kept, so that its number is no other's
        return self._known[id(pixels)][1]


def _of_array(pixels: Pixels) -> str:
    digest = hashlib.sha256(repr(tuple(map(int, pixels.shape))).encode())
    step = max(1, _CHUNK * len(pixels) // pixels.nbytes)

    def of(start: int) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(pixels[start : start + step]).data).digest()

    for part in _in_threads(of, range(0, len(pixels), step)):
        digest.update(part)
    return digest.hexdigest()


def _in_threads(of: Callable[[int], bytes], starts: range) -> Iterator[bytes]:
    count = min(_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(count, thread_name_prefix="fingerprint") as pool:
        yield from pool.map(of, starts)
