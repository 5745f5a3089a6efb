"""MNIST (LeCun and Cortes 2010) and Fashion-MNIST (Xiao et al. 2017), from their IDX files: pixels alone.

The files of both have the same names, gzipped or not. So the images' own checksum says which of the two they are.
"""

from __future__ import annotations

import gzip
import hashlib
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
from vdvae_patch.reading.kinds import kind_of

TRAIN_FILE = "train-images-idx3-ubyte.gz"
TEST_FILE = "t10k-images-idx3-ubyte.gz"
FILES = (TRAIN_FILE, TEST_FILE)
VALIDATION = 10_000  # the last training images, as in section 7.2 of the stability paper
_IMAGES = 0x00000803  # IDX magic: unsigned bytes in three dimensions
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Source:
    """Where one of the two is published, and the MD5 of its image files as they are there and unpacked.

    `folders` are those that it may lie in below a root: ours, and torchvision's.
    """

    name: str
    url: str
    md5: dict[str, str]
    unpacked: dict[str, str]
    folders: tuple[str, ...]


SOURCES = {
    "mnist": Source(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {TRAIN_FILE: "f68b3c2dcbeaaa9fbdd348bbdeb94873", TEST_FILE: "9fb629c4189551a2d022fa330f9573f3"},
        {TRAIN_FILE: "6bbc9ace898e44ae57da46a324031adb", TEST_FILE: "2646ac647ad5339dbf082846283269ea"},
        ("mnist", "MNIST/raw", "mnist/raw", "MNIST"),
    ),
    "fashion-mnist": Source(
        "fashion-mnist",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {TRAIN_FILE: "8d4fb7e6c68d591d4c3dfef9ec88bf0d", TEST_FILE: "bef4ecab320f06d8554ea6380940ec79"},
        {TRAIN_FILE: "f4a8712d7a061bf5bd6d2ca38dc4d50a", TEST_FILE: "8181f5470baa50b63fa0f6fddb340f0a"},
        ("fashion-mnist", "FashionMNIST/raw", "fashion-mnist/raw", "fashion_mnist", "FashionMNIST", "fashion"),
    ),
}


def read(root: Path | None, *, download: bool, name: str = "mnist") -> Splits:
    """uint8 `[N, 28, 28, 1]`: the training file but its last 10,000 images, those for validation, and the test file.

    Args:
        root: a folder with the two files, or one with a folder of the data set in it; None is the cache folder,
            to which they are downloaded if they are not there.

    Raises:
        UnknownNameError: a name that is neither of the two.
        DataError: missing, damaged or mis-shaped files, or no download possible.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set", name, SOURCES)
    source = SOURCES[name]
    folder = locate(root, source, allow_download=download)
    paths = {file: path for file in FILES if (path := find_file(folder, file)) is not None}
    rows, test = (read_images(paths[file]) for file in FILES)
    notes = tuple(note for file in FILES if (note := _identify(paths[file], file, source)))
    if len(rows) <= VALIDATION:
        raise DataError(f"{paths[TRAIN_FILE]}: has {len(rows):,} images; more than {VALIDATION:,} are needed")
    train = rows[:-VALIDATION]
    return Splits(
        train=train,
        valid=rows[-VALIDATION:],
        test=test,
        normalization=Normalization.measured(train),
        source=str(folder),
        split=f"valid: the last {VALIDATION:,} training images",
        notes=notes,
    )


def locate(root: Path | None, source: Source, *, allow_download: bool) -> Path:
    """The folder with both files; see `read`."""
    if root is not None:
        for folder in (*(root / inner for inner in source.folders), root, root / "raw"):
            if all(find_file(folder, file) for file in FILES):
                return folder
        raise DataError(
            f"no {source.name} in --data-root {root}: looked for {' and '.join(FILES)} there and in "
            f"{'/, '.join(source.folders)}/; leave --data-root out to download them, or get them from {source.url}"
            f"{_what_else(root)}"
        )
    folder = cache_folder() / source.name
    with locked(folder):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing and not allow_download:
            raise DataError(f"{folder} has no {' and no '.join(missing)} and downloading is switched off; allow it")
        for file in missing:
            download(source.url + file, folder, md5=source.md5[file])
    return folder


def find_file(folder: Path, file: str) -> Path | None:
    """An IDX file in a folder, gzipped or unpacked, under its own name or as `train-images.idx3-ubyte`."""
    plain = file.removesuffix(".gz")
    names = (file, plain, plain.replace("-idx", ".idx"), f"{plain.replace('-idx', '.idx')}.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _identify(path: Path, file: str, source: Source) -> str | None:
    """Nothing for the published file; a sentence for one that nobody knows; an error for that of another data set."""
    found = md5_of_content(path)
    if found == source.unpacked[file]:
        return None
    for other in SOURCES.values():
        if found == other.unpacked[file]:
            raise DataError(
                f"{path}: these are the images of {other.name}, not of {source.name}, whose files have the same names; "
                f"train with --data {other.name}, or name another --data-root"
            )
    outer = path.parent.parent if path.parent.name == "raw" else path.parent
    called = outer.name.lower().replace("-", "").replace("_", "")
    if called.endswith("mnist") and called != source.name.replace("-", ""):
        raise DataError(
            f"{path}: lies in a folder {outer.name}, and its images are not those of {source.name} (MD5 of the "
            f"unpacked file {found}, not {source.unpacked[file]}); name another --data-root"
        )
    return (
        f"{path}: not the published file of {source.name} (MD5 of the unpacked file {found}); a subset, or other images"
    )


def md5_of_content(path: Path) -> str:
    """The MD5 of a file's bytes, unpacked if it is gzipped: packing again changes a .gz and not what is in it."""
    return hashlib.md5(content_of(path), usedforsecurity=False).hexdigest()


def _what_else(root: Path) -> str:
    if not root.is_dir():
        return ""
    for path in sorted(root.iterdir()):
        if path.suffix == ".csv":
            return (
                f"; there is {path.name}, a table as Kaggle's: make arrays of it, with python -c \"import numpy as np; "
                f"x = np.loadtxt('{path}', delimiter=',', skiprows=1, dtype='uint8')[:, -784:].reshape(-1, 28, 28, 1); "
                "np.save('train.npy', x)\", and read them with --data arrays"
            )
        if path.suffix in (".npz", ".parquet"):
            return f"; there is {path.name}: save its arrays as train.npy, valid.npy and test.npy for --data arrays"
    return ""


def read_images(path: Path) -> UInt8:
    """The images of one IDX file, gzipped or not, `[N, rows, columns, 1]`.

    Raises:
        DataError: no gzip file, a cut-off or damaged one, or one that does not hold what its header says.
    """
    content = content_of(path)
    if len(content) < 16 or (magic := struct.unpack(">I", content[:4])[0]) != _IMAGES:
        seen = f"0x{magic:08x}" if len(content) >= 16 else "nothing"
        raise DataError(f"{path}: starts with {seen}, not with 0x{_IMAGES:08x}, so it is not an IDX file of images")
    count, rows, columns = struct.unpack(">III", content[4:16])
    if not count or len(content) - 16 != count * rows * columns:
        promised = f"{count:,} images of {rows}x{columns}"
        raise DataError(f"{path}: its header says {promised}, but it has {len(content) - 16:,} bytes of them")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, rows, columns, 1).copy()


def content_of(path: Path) -> bytes:
    """A file's bytes, unpacked if it is gzipped.

    Raises:
        DataError: a cut-off or damaged file, or one that unpacks to more than images of this kind can need.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
        with gzip.open(path) if packed else path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = kind_of(path) if isinstance(error, gzip.BadGzipFile) else None
        raise DataError(f"{path}: not a whole gzip file ({reason or error}); delete it and download it again") from None
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: unpacks to more than {_MAX_BYTES:,} bytes")
    return content
