"""MNIST's IDX files are read as they are, and refused when they are not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from vdvae_patch.data import load, mnist
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


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-drawn-anew"])
def test_absent_files_of_fashion_mnist_are_named_with_where_to_get_them(name: str, tmp_path: Path) -> None:
    said = r"no fashion-mnist .* looked for train-images-idx3-ubyte.gz and .* https://\S*zalandoresearch/fashion-mnist"
    with pytest.raises(DataError, match=said):
        load(name, tmp_path)


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


def as_torchvision(root: Path, folder: str, packed: bool) -> Path:
    """torchvision's layout: one folder a data set, and the same names in both."""
    raw = root / folder / "raw"
    for name, count in ((mnist.TRAIN_FILE, 10_050), (mnist.TEST_FILE, 7)):
        write(raw / name, digits(count))
        if not packed:
            (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress((raw / name).read_bytes()))
            (raw / name).unlink()
    return raw


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The samples of these tests are what is published as MNIST; 10,060 and 9 images are Fashion-MNIST."""
    for name, counts in (("mnist", (10_050, 7)), ("fashion-mnist", (10_060, 9))):
        for file, count in zip(mnist.FILES, counts, strict=True):
            write(tmp_path / "known" / file, digits(count))
            monkeypatch.setitem(mnist.SOURCES[name].unpacked, file, mnist.md5_of_content(tmp_path / "known" / file))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_torchvisions_folders_are_read(tmp_path: Path, published: None, packed: bool, named: bool) -> None:
    raw = as_torchvision(tmp_path / "data", "MNIST", packed)
    splits = mnist.read(raw if named else tmp_path / "data", download=False)
    assert np.array_equal(splits.test, digits(7)[..., None])
    assert splits.notes == ()


def test_kaggles_names_are_read(tmp_path: Path, published: None) -> None:
    raw = as_torchvision(tmp_path, "MNIST", packed=False)
    for path in list(raw.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx3", ".idx3"))
    assert len(mnist.read(tmp_path, download=False).test) == 7


@pytest.mark.parametrize("place", ["FashionMNIST/raw", "mnist", "."])
def test_the_images_say_which_of_the_two_they_are_whatever_the_folder_is_called(
    tmp_path: Path, published: None, place: str
) -> None:
    root = tmp_path / "data"
    as_torchvision(root, "MNIST", packed=True).rename(root / "raw")
    if place != ".":
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / "raw").rename(root / place)
    with pytest.raises(DataError, match=r"the images of mnist, not of fashion-mnist.*train with --data mnist"):
        mnist.read(root / place, download=False, name="fashion-mnist")
    assert len(mnist.read(root / place, download=False).test) == 7


def test_unknown_images_in_a_folder_of_another_name_are_refused(tmp_path: Path) -> None:
    raw = as_torchvision(tmp_path, "FashionMNIST", packed=True)
    with pytest.raises(DataError, match="lies in a folder FashionMNIST, and its images are not those of mnist"):
        mnist.read(raw, download=False)
    assert len(mnist.read(tmp_path, download=False, name="fashion-mnist").test) == 7
    kuzushiji = as_torchvision(tmp_path, "KMNIST", packed=True)
    with pytest.raises(DataError, match="lies in a folder KMNIST"):
        mnist.read(kuzushiji, download=False)


def test_both_lie_in_one_root_and_are_not_mixed_up(tmp_path: Path, published: None) -> None:
    as_torchvision(tmp_path / "data", "MNIST", packed=True)
    fashion = as_torchvision(tmp_path / "data", "FashionMNIST", packed=True)
    write(fashion / mnist.TRAIN_FILE, digits(10_060))
    write(fashion / mnist.TEST_FILE, digits(9))
    assert len(mnist.read(tmp_path / "data", download=False).test) == 7
    assert len(mnist.read(tmp_path / "data", download=False, name="fashion-mnist").test) == 9


def test_an_unknown_checksum_is_said(folder: Path) -> None:
    notes = mnist.read(folder, download=False).notes
    assert len(notes) == 2
    assert f"{mnist.TRAIN_FILE}: not the published file of mnist (MD5 of the unpacked file " in notes[0]


def test_a_table_of_kaggle_is_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "mnist_train.csv").write_text("label,1x1\n5,0\n")
    with pytest.raises(DataError, match=r"there is mnist_train\.csv, .*np\.loadtxt.*read them with --data arrays"):
        mnist.read(tmp_path, download=False)


def test_a_web_page_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "mnist" / mnist.TEST_FILE).write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"not a whole gzip file \(a web page"):
        mnist.read(folder, download=False)
