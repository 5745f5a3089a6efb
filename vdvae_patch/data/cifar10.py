"""CIFAR-10 (Krizhevsky 2009), from its Python pickles: pixels alone, the labels are not read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vdvae_patch.data.archive import extract_folder, md5_of, verify_md5
from vdvae_patch.data.cifar10_forms import (
    ARCHIVE,
    FOLDER,
    TEST_FILE,
    TRAIN_FILES,
    URL,
    Batches,
    folders_with,
    images_of,
    read_other_form,
    what_else,
)
from vdvae_patch.data.download import download as fetch
from vdvae_patch.data.download import locked
from vdvae_patch.data.images import Splits
from vdvae_patch.data.normalization import CIFAR10
from vdvae_patch.data.pickles import read_arrays
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.data.split import hold_out
from vdvae_patch.errors import DataError
from vdvae_patch.machine import cache_folder

MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_BYTES = 170_498_071
UNPACKED_BYTES = 2**28


def read(root: Path | None, *, download: bool, url: str = URL, md5: str = MD5) -> Splits:
    """CIFAR-10 from `root`, or from the cache folder, to which it is downloaded if it is not there.

    `root` may hold the Python version, its archive, or another form of the same images (`cifar10_forms`).

    The training files' rows are split into validation, `RandomState(11172018).permutation(n)[:5000]`, and training,
    the rest in that order: what scikit-learn's `train_test_split(test_size=5000, random_state=11172018)` does.

    Raises:
        DataError: see `locate` and `read_batch`.
    """
    batches = read_other_form(root) if root is not None else None
    if batches is None:
        folder = locate(root, allow_download=download, url=url, md5=md5)
        train = [read_batch(folder / name) for name in TRAIN_FILES]
        batches = Batches(train, read_batch(folder / TEST_FILE), str(folder))
    rows = np.concatenate(batches.train)
    split = hold_out(len(rows), seed=11172018, count=5000, end="first", source=batches.source)
    return Splits(
        train=rows[split.train],
        valid=rows[split.held],
        test=batches.test,
        normalization=CIFAR10,
        source=batches.source,
        split=split.text,
    )


def locate(root: Path | None, *, allow_download: bool, url: str = URL, md5: str = MD5) -> Path:
    """The folder with the six batch files.

    `root` may be that folder, a folder with `cifar-10-batches-py` or the archive in it, or the archive. An archive is
    verified and unpacked beside itself, or in the cache folder if that cannot be written to.

    Raises:
        DataError: nothing there, batch files missing, an archive of another MD5, or no download possible.
    """
    if root is not None:
        return _locate_in(root, md5)
    cache = cache_folder()
    with locked(cache):
        if (cache / FOLDER).is_dir():
            return _complete(cache / FOLDER)
        if not allow_download and not (cache / ARCHIVE).is_file():
            raise DataError(
                f"CIFAR-10 is not in {cache} and downloading is switched off; allow it, or download {url} "
                "elsewhere and name its folder with --data-root"
            )
        if allow_download:
            fetch(url, cache, md5=md5)
        else:
            verify_md5(cache / ARCHIVE, md5, size=ARCHIVE_BYTES)
        return _complete(extract_folder(cache / ARCHIVE, cache, FOLDER, max_bytes=UNPACKED_BYTES))


def _locate_in(root: Path, md5: str) -> Path:
    archive = root if root.is_file() else root / ARCHIVE
    found = next(folders_with(root, TRAIN_FILES[0], FOLDER), None)
    if found is not None and (found in (root, root / FOLDER) or not archive.is_file()):
        return _complete(found)
    if not archive.is_file():
        raise DataError(
            f"no CIFAR-10 in --data-root {root}: looked for {TRAIN_FILES[0]}, {FOLDER}/ and {ARCHIVE} there, for the "
            f"binary version, parquet and a zip; leave --data-root out to download it, or put {URL} there"
            f"{what_else(root)}"
        )
    if archive.name != ARCHIVE and md5_of(archive) != md5:
        raise DataError(
            f"{archive}: is not {ARCHIVE} as it was published (another MD5); if it holds the same files, unpack it and "
            "name its folder with --data-root"
        )
    beside = archive.parent
    into = beside if os.access(beside, os.W_OK) else cache_folder()
    with locked(into):
        if not (into / FOLDER).is_dir():  # another rank may have been faster
            verify_md5(archive, md5, size=ARCHIVE_BYTES)
            extract_folder(archive, into, FOLDER, max_bytes=UNPACKED_BYTES)
    return _complete(into / FOLDER)


def _complete(folder: Path) -> Path:
    missing = [name for name in (*TRAIN_FILES, TEST_FILE) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}: delete the folder and unpack {ARCHIVE} again ({URL})")
    return folder


def read_batch(path: Path) -> UInt8:
    """The images of one batch file, `[rows, 32, 32, 3]`; it has `[rows, 3072]`, channel by channel, any number of rows.

    Raises:
        DataError: a damaged pickle, one that asks for code, or one whose `data` is missing, empty or mis-shaped.
    """
    return images_of(read_arrays(path).get("data"), path)
