"""MNIST (LeCun and Cortes 2010) and Fashion-MNIST (Xiao et al. 2017), from their gzipped IDX files: pixels alone."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdvae_patch.data.download import download, locked
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import DataError, UnknownNameError
from vdvae_patch.machine import cache_folder

TRAIN_FILE = "train-images-idx3-ubyte.gz"
TEST_FILE = "t10k-images-idx3-ubyte.gz"
FILES = (TRAIN_FILE, TEST_FILE)
VALIDATION = 10_000  # the last training images, as in section 7.2 of the stability paper
_IMAGES = 0x00000803  # IDX magic: unsigned bytes in three dimensions
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Source:
    """Where one of the two is published, and the MD5 of its image files."""

    name: str
    url: str
    md5: dict[str, str]


SOURCES = {
    "mnist": Source(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {TRAIN_FILE: "f68b3c2dcbeaaa9fbdd348bbdeb94873", TEST_FILE: "9fb629c4189551a2d022fa330f9573f3"},
    ),
    "fashion-mnist": Source(
        "fashion-mnist",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {TRAIN_FILE: "8d4fb7e6c68d591d4c3dfef9ec88bf0d", TEST_FILE: "bef4ecab320f06d8554ea6380940ec79"},
    ),
}


def read(root: Path | None, *, download: bool, name: str = "mnist") -> Splits:
    """uint8 `[N, 28, 28, 1]`: the training file but its last 10,000 images, those for validation, and the test file.

    Args:
        root: a folder with the two files, or one with a folder of the data set's name in it; None is the cache folder,
            to which they are downloaded if they are not there.

    Raises:
        UnknownNameError: a name that is neither of the two.
        DataError: missing, damaged or mis-shaped files, or no download possible.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set", name, SOURCES)
    folder = locate(root, SOURCES[name], allow_download=download)
    rows = read_images(folder / TRAIN_FILE)
    if len(rows) <= VALIDATION:
        raise DataError(f"{folder / TRAIN_FILE}: has {len(rows):,} images; more than {VALIDATION:,} are needed")
    train = rows[:-VALIDATION]
    return Splits(
        train=train,
        valid=rows[-VALIDATION:],
        test=read_images(folder / TEST_FILE),
        normalization=Normalization.measured(train, str(folder)),
        source=str(folder),
        split=f"valid: the last {VALIDATION:,} training images",
    )


def locate(root: Path | None, source: Source, *, allow_download: bool) -> Path:
    """The folder with both files; see `read`."""
    if root is not None:
        for folder in (root / source.name, root):
            if all((folder / file).is_file() for file in FILES):
                return folder
        raise DataError(
            f"no {source.name} in --data-root {root}: looked for {' and '.join(FILES)} there and in {source.name}/; "
            f"leave --data-root out to download them, or get them from {source.url}"
        )
    folder = cache_folder() / source.name
    with locked(folder):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing and not allow_download:
            raise DataError(f"{folder} has no {' and no '.join(missing)} and downloading is switched off; allow it")
        for file in missing:
            download(source.url + file, folder, md5=source.md5[file])
    return folder


def read_images(path: Path) -> UInt8:
    """The images of one gzipped IDX file, `[N, rows, columns, 1]`.

    Raises:
        DataError: no gzip file, a cut-off or damaged one, or one that does not hold what its header says.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); delete it and download it again") from None
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: unpacks to more than {_MAX_BYTES:,} bytes")
    if len(content) < 16 or (magic := struct.unpack(">I", content[:4])[0]) != _IMAGES:
        seen = f"0x{magic:08x}" if len(content) >= 16 else "nothing"
        raise DataError(f"{path}: starts with {seen}, not with 0x{_IMAGES:08x}, so it is not an IDX file of images")
    count, rows, columns = struct.unpack(">III", content[4:16])
    if not count or len(content) - 16 != count * rows * columns:
        promised = f"{count:,} images of {rows}x{columns}"
        raise DataError(f"{path}: its header says {promised}, but it has {len(content) - 16:,} bytes of them")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns, 1).copy()
