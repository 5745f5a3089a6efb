"""MNIST's IDX files are read as they are, and refused when they are not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from vdvae_patch.data import mnist
from vdvae_patch.errors import DataError, UnknownNameError


def write(path: Path, pixels: np.ndarray, magic: int = 0x803, count: int | None = None) -> None:
    header = struct.pack(">IIII", magic, len(pixels) if count is None else count, *pixels.shape[1:3])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + pixels.tobytes(), 1))


def digits(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 4, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "mnist" / mnist.TRAIN_FILE, digits(10_050))
    write(tmp_path / "mnist" / mnist.TEST_FILE, digits(7))
    return tmp_path


def test_the_last_ten_thousand_training_images_are_for_validation(folder: Path) -> None:
    splits = mnist.read(folder, download=False)
    everything = digits(10_050)[..., None]
    assert np.array_equal(splits.train, everything[:50])
    assert np.array_equal(splits.valid, everything[50:])
    assert np.array_equal(splits.test, digits(7)[..., None])
    assert "last 10,000" in splits.split


def test_the_folder_itself_may_be_named(folder: Path) -> None:
    assert len(mnist.read(folder / "mnist", download=False).test) == 7


def test_fashion_mnist_has_a_folder_of_its_own(folder: Path) -> None:
    (folder / "mnist").rename(folder / "fashion-mnist")
    assert len(mnist.read(folder, download=False, name="fashion-mnist").test) == 7
    with pytest.raises(DataError, match="no mnist in --data-root"):
        mnist.read(folder, download=False)


def test_an_unknown_name_is_told_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mnist'"):
        mnist.read(None, download=False, name="mnits")


def test_a_missing_file_is_named_with_where_to_get_it(folder: Path) -> None:
    (folder / "mnist" / mnist.TEST_FILE).unlink()
    with pytest.raises(DataError, match=r"looked for .* and t10k-images-idx3-ubyte.gz .* get them from https://"):
        mnist.read(folder, download=False)


def test_without_download_an_empty_cache_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="downloading is switched off"):
        mnist.read(None, download=False)


def test_what_is_in_the_cache_is_not_downloaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDVAE_PATCH_CACHE", str(folder))
    assert len(mnist.read(None, download=True).test) == 7


def test_a_file_that_was_cut_is_refused(folder: Path) -> None:
    path = folder / "mnist" / mnist.TEST_FILE
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="not a whole gzip file"):
        mnist.read(folder, download=False)


def test_a_file_of_labels_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "labels.gz", digits(3), magic=0x801)
    with pytest.raises(DataError, match="starts with 0x00000801, not with 0x00000803"):
        mnist.read_images(tmp_path / "labels.gz")


def test_a_header_that_promises_other_than_there_is_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "images.gz", digits(3), count=4)
    with pytest.raises(DataError, match="says 4 images of 4x4, but it has 48 bytes"):
        mnist.read_images(tmp_path / "images.gz")


def test_too_few_images_for_a_validation_split_are_refused(folder: Path) -> None:
    write(folder / "mnist" / mnist.TRAIN_FILE, digits(10_000))
    with pytest.raises(DataError, match="more than 10,000 are needed"):
        mnist.read(folder, download=False)


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the published MNIST files are not on this machine")
def test_the_published_images_are_read() -> None:
    splits = mnist.read(SHARED, download=False)
    assert splits.train.shape == (50_000, 28, 28, 1)
    assert splits.valid.shape == splits.test.shape == (10_000, 28, 28, 1)
    assert splits.train[:, 0, 0].max() == 0  # the corner that makes the likelihood's scale fall
