"""CIFAR-10 in other forms than its Python archive: the binary version, parquet, a zip.

They have the same images in the same order. Labels are not read. What is not read is at least named, with what to do.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vdvae_patch.bounded_zip import open_zip
from vdvae_patch.data.decode import decode_image
from vdvae_patch.data.pickles import arrays_in
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import DataError
from vdvae_patch.file_kinds import kind_of
from vdvae_patch.validation import one_line, short

FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_FILE = "test_batch"
ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"

_BINARY_FOLDER = "cifar-10-batches-bin"
_AS_ARRAYS = "are read with --data arrays (train.npy, valid.npy and test.npy)"
_PIXELS = 3 * 32 * 32
_MOST_BYTES = 2**28
_MEMBERS = 2_000
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ROWS = 2**20  # of a file of parquet; CIFAR-10 has 50,000
_PARQUET = re.compile(r"(train|test)(-\d+-of-\d+)?\.parquet")


@dataclass(frozen=True)
class Batches:
    """The five training batches and the test batch, uint8 `[rows, 32, 32, 3]` each, and where they came from."""

    train: list[UInt8]
    test: UInt8
    source: str


def read_other_form(root: Path) -> Batches | None:
    """CIFAR-10 in a form of its own below `root`; None where there is the Python version, or nothing.

    Raises:
        DataError: files that are missing, cut off, mis-shaped, or of CIFAR-100; parquet without pyarrow.
    """
    if root.is_file() and root.suffix.lower() != ".zip":
        return None
    if (root / ARCHIVE).is_file() or next(folders_with(root, TRAIN_FILES[0], FOLDER), None) is not None:
        return None
    for folder in folders_with(root, f"{TRAIN_FILES[0]}.bin", _BINARY_FOLDER):
        train, test = [folder / f"{name}.bin" for name in TRAIN_FILES], folder / f"{TEST_FILE}.bin"
        missing = [path.name for path in (*train, test) if not path.is_file()]
        if missing:
            raise DataError(f"{folder} has no {', '.join(missing)}: unpack cifar-10-binary.tar.gz again")
        return Batches([_read_binary(path) for path in train], _read_binary(test), str(folder))
    if root.suffix.lower() == ".zip" and root.is_file():
        return _read_zip(root)
    for archive in sorted(root.glob("*.zip")) if root.is_dir() else ():
        if "cifar" in archive.name.lower() and "100" not in archive.name:
            return _read_zip(archive)
    return _read_parquet(root) if root.is_dir() else None


def folders_with(root: Path, file: str, folder: str) -> Iterator[Path]:
    """`root`, its `folder`, and then the same one level deeper, where they have `file` or are called `folder`."""
    if not root.is_dir():
        return
    if (root / file).is_file():
        yield root
    if (root / folder).is_dir():
        yield root / folder
    for inner in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if inner.name != folder and (inner / file).is_file():
            yield inner
        if (inner / folder).is_dir():
            yield inner / folder


def images_of(data: UInt8 | None, path: Path) -> UInt8:
    """The array `data` of a batch, `[rows, 3072]` channel by channel, as `[rows, 32, 32, 3]`.

    Raises:
        DataError: missing, empty or mis-shaped.
    """
    if data is None:
        raise DataError(f"{path}: has no uint8 array `data`, so it is not a CIFAR-10 batch; get it again ({URL})")
    if data.ndim != 2 or data.shape[1] != _PIXELS or len(data) == 0:
        raise DataError(f"{path}: `data` has shape {list(data.shape)}, not [rows, 3072] with at least one row")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def what_else(root: Path) -> str:
    """What lies in `root` that looks like these images and is not read, as the end of a message; may be nothing."""
    if not root.is_dir():
        return ""
    names = {path.name.lower() for path in root.iterdir()}
    if "cifar-100-python" in names or {"train", "test", "meta"} <= names:
        return "; what is there looks like CIFAR-100, which is another data set"
    archives = sorted(
        name for name in names if name.endswith((".tar", ".tgz", ".tar.gz", ".7z", ".tar.bz2", ".tar.xz"))
    )
    if archives:
        return f"; there is {archives[0]}: if it holds CIFAR-10, unpack it there"
    if any(name.endswith(".mat") for name in names):
        return "; its MATLAB version is not read: take the Python or the binary version"
    if "train" in names:
        return "; if the folder train has one file for each image, read it with --data images"
    if any(name.endswith((".npz", ".npy")) for name in names):
        return f"; numpy's files {_AS_ARRAYS}"
    kinds = [(path.name, kind_of(path)) for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    if any(kind is not None and kind.startswith("an HDF5 file") for _, kind in kinds):
        return f"; HDF5 is not read: its images, saved with numpy, {_AS_ARRAYS}"
    if any(name.endswith((".csv", ".tsv")) for name in names):
        return f"; tables are not read: their images, saved with numpy, {_AS_ARRAYS}"
    shown = ", ".join(name if kind is None else f"{name} ({kind})" for name, kind in kinds[:3])
    return f"; what is there: {shown}" if shown else "; the folder is empty"


def _read_binary(path: Path) -> UInt8:
    """A batch of the binary version: for each image a byte, its label, and 3,072 of pixels, channel by channel."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: is larger than {_MOST_BYTES:,} bytes, and no batch of images is")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    rows, left = divmod(len(content), 1 + _PIXELS)
    if not rows or left:
        raise DataError(
            f"{path}: {len(content):,} bytes are not rows of {1 + _PIXELS:,}; it is cut off, or CIFAR-100's"
        )
    table = np.frombuffer(content, np.uint8).reshape(rows, 1 + _PIXELS)
    if table[:, 0].max() > 9:
        raise DataError(f"{path}: has a label of {table[:, 0].max()}, so these are not CIFAR-10's rows")
    return images_of(table[:, 1:], path)


def _read_zip(archive: Path) -> Batches:
    """The batch files in a zip, wherever they lie in it; nothing is unpacked to the disk."""
    wanted = (*TRAIN_FILES, TEST_FILE)
    try:
        with open_zip(archive, members=_MEMBERS) as zipped:
            members = {
                PurePosixPath(item.filename).name: item
                for item in zipped.infolist()
                if PurePosixPath(item.filename).name in wanted and not item.filename.startswith("__MACOSX")
            }
            missing = [name for name in wanted if name not in members]
            if missing:
                raise DataError(
                    f"{archive}: holds no {', '.join(missing)}; unpack it, and if it has one file for each image read "
                    "its folder with --data images"
                )
            if sum(item.file_size for item in members.values()) > _MOST_BYTES:
                raise DataError(f"{archive}: its batch files unpack to more than {_MOST_BYTES:,} bytes")
            if packed := [name for name in wanted if members[name].compress_type not in _PACKED]:
                raise DataError(
                    f"{archive}: {packed[0]} is packed in a way that is not read; unpack it, and name its folder"
                )
            contents = {name: zipped.read(item) for name, item in members.items()}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        if "more than" in str(error):
            raise DataError(
                f"{archive}: {one_line(error)}; unpack it, and if it has one file for each image read its folder with "
                "--data images"
            ) from None
        raise DataError(f"{archive}: not a whole zip archive ({one_line(error)}); copy or download it again") from None
    images = [images_of(arrays_in(contents[name], archive / name).get("data"), archive / name) for name in wanted]
    return Batches(images[:-1], images[-1], str(archive))


def _read_parquet(root: Path) -> Batches | None:
    """Hugging Face's form: PNG images in a column, one or more files for train and for test."""
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        files = sorted(path for path in folder.glob("*.parquet") if _PARQUET.fullmatch(path.name))
        by_split = {split: [f for f in files if f.name.startswith(split)] for split in ("train", "test")}
        if all(by_split.values()):
            train, test = ([_parquet_images(f) for f in by_split[split]] for split in ("train", "test"))
            return Batches(train, np.concatenate(test), str(folder))
    return None


def _parquet_images(path: Path) -> UInt8:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow; install it with: pip install 'vdvae-patch[parquet]'"
        ) from None
    try:
        file = ParquetFile(path)
        name = next((n for n in ("img", "image") if n in file.schema_arrow.names), None)
        if name is None:
            raise DataError(f"{path}: has no column img or image, but {short(', '.join(file.schema_arrow.names))}")
        rows, unpacked = (
            file.metadata.num_rows,
            sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups)),
        )
        if not 0 <= rows <= _ROWS or not 0 <= unpacked <= _MOST_BYTES:
            raise DataError(f"{path}: has {rows:,} rows of {unpacked:,} bytes, more than CIFAR-10 has")
        cells: list[Any] = file.read(columns=[name]).column(name).to_pylist()
    except DataError:
        raise
    except (ArrowException, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise DataError(f"{path}: not a whole parquet file ({one_line(error)}); download it again") from None
    images = []
    for row, cell in enumerate(cells):
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise DataError(f"{path}: row {row} has no bytes of an image in its column {name}")
        image = decode_image(content, f"{path} row {row}")
        if image.shape != (32, 32, 3):
            raise DataError(f"{path}: row {row} has {image.shape[1]}x{image.shape[0]} pixels, not CIFAR-10's 32x32")
        images.append(image)
    if not images:
        raise DataError(f"{path}: has no rows")
    return np.stack(images)
