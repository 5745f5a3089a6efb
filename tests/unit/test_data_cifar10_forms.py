"""CIFAR-10 in every form that people have: the same images, the same split, the same fingerprint."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
import zipfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from data_samples import write_cifar10

from vdvae_patch.data import load
from vdvae_patch.data.cifar10_forms import FOLDER, TEST_FILE, TRAIN_FILES
from vdvae_patch.errors import DataError

NAMES = (*TRAIN_FILES, TEST_FILE)


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray:
    return write_cifar10(tmp_path / "python", rows=12)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def assert_same(tmp_path: Path, root: Path) -> None:
    expected, found = load("cifar10", tmp_path / "python"), load("cifar10", root)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(getattr(found, split), getattr(expected, split))
    assert found.provenance.fingerprint == expected.provenance.fingerprint
    assert found.normalization == expected.normalization


def write_binary(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(NAMES, np.split(images, 6), strict=True):
        rows = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
        labels = np.arange(len(part), dtype=np.uint8)[:, None] % 10
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels, rows], axis=1).tobytes())


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin", "unpacked", "unpacked/cifar-10-batches-bin"])
def test_the_binary_version_is_read(tmp_path: Path, root: Path, images: np.ndarray, place: str) -> None:
    write_binary(root / place, images)
    assert_same(tmp_path, root)


def test_a_binary_file_that_is_cut_of_another_set_or_missing_is_refused(root: Path, images: np.ndarray) -> None:
    write_binary(root, images)
    file = root / "data_batch_2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 36,871 bytes are not rows of 3,073; it is cut off"):
        load("cifar10", root)
    file.write_bytes(b"\x63" + whole[1:])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: has a label of 99"):
        load("cifar10", root)
    file.unlink()
    with pytest.raises(DataError, match=r"has no data_batch_2\.bin: unpack cifar-10-binary\.tar\.gz again"):
        load("cifar10", root)


@pytest.mark.parametrize("place", ["deeper", f"deeper/{FOLDER}"])
def test_the_python_version_may_lie_one_folder_deeper(
    tmp_path: Path, root: Path, images: np.ndarray, place: str
) -> None:
    shutil.copytree(tmp_path / "python" / FOLDER, root / place)
    assert_same(tmp_path, root)


@pytest.mark.parametrize("inside", ["", f"{FOLDER}/", f"any/where/{FOLDER}/"])
@pytest.mark.parametrize("named", [False, True])
def test_a_zip_is_read_wherever_the_files_lie_in_it(
    tmp_path: Path, root: Path, images: np.ndarray, inside: str, named: bool
) -> None:
    archive = root / "cifar-10-python.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in NAMES:
            zipped.write(tmp_path / "python" / FOLDER / name, f"{inside}{name}")
            zipped.writestr(f"__MACOSX/{inside}{name}", b"resource fork")
    assert_same(tmp_path, archive if named else root)
    assert [path.name for path in root.iterdir()] == [archive.name]  # nothing was unpacked


def test_a_zip_without_the_files_and_one_that_is_cut_are_refused(root: Path) -> None:
    archive = root / "cifar10.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("train/0001.png", bytes(500))
    with pytest.raises(DataError, match=r"cifar10\.zip: holds no data_batch_1, .*read its folder with --data images"):
        load("cifar10", root)
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cifar10\.zip: not a whole zip archive"):
        load("cifar10", root)


def write_parquet(folder: Path, images: np.ndarray) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train-00000-of-00002": images[:30],
        "train-00001-of-00002": images[30:60],
        "test-00000-of-00001": images[60:],
    }
    for name, part in parts.items():
        cells = [{"bytes": iio.imwrite("<bytes>", image, extension=".png"), "path": None} for image in part]
        table = pyarrow.table({"img": cells, "label": [0] * len(part)})
        parquet.write_table(table, folder / f"{name}.parquet")


@pytest.mark.parametrize("place", [".", "plain_text"])
def test_parquet_is_read(tmp_path: Path, root: Path, images: np.ndarray, place: str) -> None:
    write_parquet(root / place, images)
    assert_same(tmp_path, root)


def test_parquet_without_pyarrow_names_the_package(
    root: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "test"):
        (root / f"{name}.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow; install it with: pip install 'vdvae-patch\[parquet\]'"):
        load("cifar10", root)


def test_parquet_that_is_cut_or_of_other_images_is_refused(root: Path, images: np.ndarray) -> None:
    pytest.importorskip("pyarrow")
    for name in ("train", "test"):
        (root / f"{name}.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train\.parquet: not a whole parquet file"):
        load("cifar10", root)
    for path in root.iterdir():
        path.unlink()
    write_parquet(root, images[:, ::2, ::2])
    with pytest.raises(DataError, match="row 0 has 16x16 pixels, not CIFAR-10's 32x32"):
        load("cifar10", root)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cifar-100-python/train"], "looks like CIFAR-100, which is another data set"),
        (["train", "test", "meta"], "looks like CIFAR-100"),
        (["train/airplane/0001.png"], "read it with --data images"),
        (["cifar10.tgz"], r"there is cifar10\.tgz: if it holds CIFAR-10, unpack it there"),
        (["train.7z"], r"there is train\.7z"),
        (["data_batch_1.mat"], "MATLAB version is not read: take the Python or the binary version"),
        (["cifar10.npz"], "numpy's files are read with --data arrays"),
        (["trainLabels.csv"], r"tables are not read.*--data arrays"),
        (["cifar.tfrecord", ".DS_Store"], r"what is there: cifar\.tfrecord$"),
        ([".DS_Store"], "the folder is empty"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(root: Path, names: list[str], says: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    with pytest.raises(DataError, match=says):
        load("cifar10", root)


def test_hdf5_is_named_by_its_content(root: Path) -> None:
    (root / "cifar.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(DataError, match="HDF5 is not read: its images, saved with numpy, are read with --data arrays"):
        load("cifar10", root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>", r"it is a web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a git LFS pointer.*git lfs pull"),
        (
            gzip.compress(bytes(9999), mtime=0),
            "it is whole, but not the published one; if it was packed again, unpack it",
        ),
        (
            gzip.compress(bytes(9999), mtime=0)[:-9],
            "it is cut off at [0-9]+ of 170,498,071 bytes; delete it and download it again",
        ),
    ],
    ids=["a page", "a pointer", "packed again", "cut off"],  # packed bytes hold the time
)
def test_what_has_the_archives_name_and_is_not_it_is_named(root: Path, content: bytes, says: str) -> None:
    (root / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=says):
        load("cifar10", root)


def test_another_archive_than_the_published_one_says_to_unpack_it(root: Path) -> None:
    (root / "mine.tar.gz").write_bytes(io.BytesIO(b"x" * 99).getvalue())
    with pytest.raises(
        DataError, match=r"mine\.tar\.gz: is not cifar-10-python\.tar\.gz as it was published.*unpack it"
    ):
        load("cifar10", root / "mine.tar.gz")
