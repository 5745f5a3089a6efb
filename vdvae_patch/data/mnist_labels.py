"""The classes of MNIST's and Fashion-MNIST's training images, for classifiers; the images themselves are in `mnist`."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from vdvae_patch.data.download import download, locked
from vdvae_patch.data.mnist import SOURCES, VALIDATION, content_of, find_file
from vdvae_patch.data.pixels import Labels, UInt8
from vdvae_patch.errors import DataError
from vdvae_patch.machine import cache_folder

LABELS_FILE = "train-labels-idx1-ubyte.gz"
_MD5 = {"mnist": "d53e105ee54ea40749a09fcbcd1e9432", "fashion-mnist": "25c81989df183df01b3e8a0aad5dffbe"}
_MAGIC = 0x00000801  # IDX: unsigned bytes in one dimension


def read_labels(root: Path | None, name: str = "mnist") -> UInt8:
    """The labels of all training images in the order of their file, `[N]`.

    Args:
        root: as of `mnist.read`; None is the cache folder, to which they are downloaded if they are not there.
        name: of `mnist.SOURCES`.

    Raises:
        DataError: a missing or damaged file, or no download possible.
    """
    source = SOURCES[name]
    if root is None:
        folder = cache_folder() / source.name
        with locked(folder):
            if not (folder / LABELS_FILE).is_file():
                download(source.url + LABELS_FILE, folder, md5=_MD5[name])
        return _read(folder / LABELS_FILE)
    places = (*(root / inner for inner in source.folders), root, root / "raw")
    path = next((found for place in places if (found := find_file(place, LABELS_FILE)) is not None), None)
    if path is None:
        raise DataError(
            f"no labels in --data-root {root}: looked for {LABELS_FILE} there and in {'/, '.join(source.folders)}/; "
            f"leave --data-root out to download them, or get them from {source.url}"
        )
    return _read(path)


def _read(path: Path) -> UInt8:
    content = content_of(path)
    if len(content) < 8 or struct.unpack(">I", content[:4])[0] != _MAGIC:
        raise DataError(f"{path}: does not start with 0x{_MAGIC:08x}, so it is not an IDX file of labels")
    (count,) = struct.unpack(">I", content[4:8])
    labels = np.frombuffer(content, np.uint8, offset=8).copy()
    if not count or len(labels) != count:
        raise DataError(f"{path}: its header says {count:,} labels, but it has {len(labels):,}")
    if labels.max() > 9:
        raise DataError(f"{path}: has a label {labels.max()}, and there are the classes 0 to 9")
    return labels


def of_training(root: Path | None, name: str) -> Labels:
    """The labels of the images that are trained on, `[N]`: all but the last ones, which `mnist.read` keeps apart.

    Raises:
        DataError: as `read_labels`.
    """
    return read_labels(root, name)[:-VALIDATION].astype(np.int64)
