"""Arrays in .npy files: mapped, split as VDVAE splits them, and refused with a reason."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import random_images

from vdvae_patch.data import load, pixels
from vdvae_patch.data.arrays import open_array
from vdvae_patch.data.normalization import FFHQ256, IMAGENET32, IMAGENET64
from vdvae_patch.data.pixels import IndexedPixels
from vdvae_patch.data.split import hold_out
from vdvae_patch.errors import DataError


def save(root: Path, **arrays: np.ndarray[Any, Any]) -> None:
    for name, array in arrays.items():
        np.save(root / f"{name.replace('_', '-')}.npy", array)


def in_rows(n: int, size: int) -> np.ndarray[Any, Any]:
    """Images whose every pixel is the image's own number."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 3)).copy()


@pytest.mark.parametrize(("size", "normalization"), [(32, IMAGENET32), (64, IMAGENET64)])
def test_imagenet_holds_out_the_end_of_a_permutation(tmp_path: Path, size: int, normalization: Any) -> None:
    save(tmp_path, **{f"imagenet{size}_train": in_rows(200, size), f"imagenet{size}_valid": random_images(7, size)})
    data = load(f"imagenet{size}", tmp_path)
    assert ["black in every pixel: 1 of the 180 to train on" in note for note in data.provenance.notes] == [True]
    permutation = np.random.RandomState(42).permutation(200)
    np.testing.assert_array_equal(data.train[:][:, 0, 0, 0], permutation[:-20])
    np.testing.assert_array_equal(data.valid[:][:, 0, 0, 0], permutation[-20:])
    np.testing.assert_array_equal(data.test, random_images(7, size))
    assert data.normalization == normalization


def test_full_imagenet_holds_out_5000() -> None:
    np.random.seed(42)  # as the published split was drawn
    published = np.random.permutation(1_281_149)
    split = hold_out(1_281_149, seed=42, count=5000, end="last", source="test")
    np.testing.assert_array_equal(split.train, published[:-5000])
    np.testing.assert_array_equal(split.held, published[-5000:])


def test_ffhq256_tests_on_its_validation_images(tmp_path: Path) -> None:
    save(tmp_path, ffhq_256=in_rows(30, 256))
    data = load("ffhq256", tmp_path)
    assert ["black in every pixel: 1 of the" in note for note in data.provenance.notes] == [True]
    permutation = np.random.RandomState(5).permutation(30)
    np.testing.assert_array_equal(data.train[:][:, 0, 0, 0], permutation[:-3])
    np.testing.assert_array_equal(data.valid[:][:, 0, 0, 0], permutation[-3:])
    assert data.test is data.valid
    assert data.normalization == FFHQ256
    assert load("ffhq_256", tmp_path).name == "ffhq256"


def test_a_shuffled_split_too_large_for_memory_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, imagenet32_train=random_images(100), imagenet32_valid=random_images(5, seed=1))
    small = load("imagenet32", tmp_path)
    monkeypatch.setattr(pixels, "IN_MEMORY_BYTES", 30 * 32 * 32 * 3)
    large = load("imagenet32", tmp_path)
    assert isinstance(large.train, IndexedPixels)
    assert isinstance(large.train.base, np.memmap)
    assert large.train.nbytes == 90 * 32 * 32 * 3
    for index in (3, -1, slice(5, 60, 7), slice(None), np.array([4, 4, 80])):
        np.testing.assert_array_equal(large.train[index], small.train[index])
    np.testing.assert_array_equal(np.asarray(large.train), small.train)
    assert large.provenance.fingerprint == small.provenance.fingerprint
    assert load("imagenet32", tmp_path, limit_images=10).train.shape == (10, 32, 32, 3)
    with pytest.raises(IndexError):
        large.train[90]


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (48, 3)])
def test_arrays_of_any_square_size_are_mapped_and_normalized_by_their_own_pixels(
    tmp_path: Path, size: int, channels: int
) -> None:
    train = random_images(20, size, channels) // 2
    save(tmp_path, train=train, valid=train[:3], test=train[:4])
    data = load("arrays", tmp_path)
    assert isinstance(data.train, np.memmap)
    assert (data.image_size, data.channels, data.provenance.test_count) == (size, channels, 4)
    assert data.normalization.shift == pytest.approx(train.mean(dtype=np.float64), rel=1e-12)
    assert 1 / data.normalization.scale == pytest.approx(train.std(dtype=np.float64), rel=1e-12)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((0, 32, 32, 3), np.uint8), r"shape \[0, 32, 32, 3\] has no pixels"),
        (np.zeros((5, 32, 32, 3), np.float32), "values are float32; expected uint8"),
        (np.zeros((5, 32, 32), np.uint8), r"shape \[5, 32, 32\]; expected uint8 images \[N, H, W=H, 3\]"),
        (np.zeros((5, 28, 20, 1), np.uint8), "images are 28x20"),
        (np.zeros((5, 3, 3, 32), np.uint8), "32 channels; they look channels-first"),
        (np.zeros((5, 4, 4, 2), np.uint8), "2 channels; expected"),
        (np.full((5, 4, 4, 3), 9, np.uint8), "every training pixel is 9"),
    ],
)
def test_a_mis_shaped_array_is_refused(tmp_path: Path, array: np.ndarray[Any, Any], says: str) -> None:
    save(tmp_path, train=array, valid=array, test=array)
    with pytest.raises(DataError, match=says):
        load("arrays", tmp_path)


SQUARES = np.random.RandomState(3).randint(0, 256, (6, 8, 8, 3)).astype(np.uint8)
GREY = SQUARES[..., :1]


@pytest.mark.parametrize(
    ("array", "expected", "found"),
    [
        (SQUARES.transpose(0, 3, 1, 2), SQUARES, r"channels first \[N, C, H, W\]"),
        ((SQUARES / 255).astype(np.float32), SQUARES, "values from 0 to 1"),
        ((SQUARES / 127.5 - 1).astype(np.float32), SQUARES, "values from -1 to 1"),
        (SQUARES.astype(np.float64), SQUARES, "values from 0 to 255"),
        (SQUARES.astype(np.int64), SQUARES, "values from 0 to 255"),
        (SQUARES.astype(np.uint16) * 257, SQUARES, "values from 0 to 65535"),
        (GREY[..., 0], GREY, r"grey images without a channel \[N, H, W\]"),
        (
            GREY[..., 0] > 127,
            (GREY > 127).astype(np.uint8) * 255,
            r"grey images without a channel \[N, H, W\], True and False",
        ),
        (SQUARES.transpose(0, 3, 1, 2) / 255, SQUARES, r"channels first \[N, C, H, W\], values from 0 to 1"),
        (GREY.reshape(6, 64), GREY, "rows of 64 values"),
        (
            SQUARES.transpose(0, 3, 1, 2).reshape(6, 192),
            SQUARES,
            "rows of 192 values; if they lie channel by channel, as in CIFAR-10",
        ),
        (np.concatenate([SQUARES, GREY], axis=3), SQUARES, "an alpha channel"),
    ],
)
def test_an_array_of_another_layout_is_named_with_the_command_that_converts_it(
    tmp_path: Path, array: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], found: str
) -> None:
    """The command of the message is run, and then the file is right."""
    save(tmp_path, x=array)
    with pytest.raises(DataError, match=rf"x\.npy: .*; found {found}: convert it with python -c ") as refused:
        open_array(tmp_path / "x.npy")
    assert "\n" not in str(refused.value)
    exec(str(refused.value).split('python -c "', 1)[1].rstrip('"'), {})
    np.testing.assert_array_equal(open_array(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.linspace(-3, 9, 6 * 192).reshape(SQUARES.shape), "found values from -3 to 9$"),
        (np.where(SQUARES.max() == SQUARES, np.nan, SQUARES), "found [0-9]+ values that are NaN or infinite$"),
        (SQUARES[0], r"found one image \[H, W, C\] and not many$"),
        (SQUARES.astype(np.int64) // 128, "found values from 0 to 1$"),
    ],
)
def test_what_has_no_one_reading_is_told_and_not_guessed(
    tmp_path: Path, array: np.ndarray[Any, Any], found: str
) -> None:
    save(tmp_path, x=array)
    with pytest.raises(DataError, match=found):
        open_array(tmp_path / "x.npy")


def test_pixels_of_0_and_1_are_refused_with_the_command(tmp_path: Path) -> None:
    save(tmp_path, train=SQUARES // 128, valid=SQUARES // 128, test=SQUARES // 128)
    with pytest.raises(DataError, match=r"train\.npy: every pixel is 0 or 1; convert it with .*x \* 255\)"):
        load("arrays", tmp_path)


def test_an_array_of_objects_says_how_to_make_one_of_numbers(tmp_path: Path) -> None:
    objects = np.empty(2, object)
    objects[:] = [SQUARES[0], SQUARES[1]]
    np.save(tmp_path / "x.npy", objects)
    with pytest.raises(
        DataError, match=r"Python objects of shape \[2\], which is not read, since .*np\.stack\(list\(x\)"
    ):
        open_array(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=says):
        open_array(tmp_path / "x.npy")


def test_splits_must_agree_in_size(tmp_path: Path) -> None:
    save(tmp_path, train=random_images(5, 8), valid=random_images(5, 16), test=random_images(5, 8))
    with pytest.raises(DataError, match=r"\(valid\): images are 16x16; expected uint8 images \[N, 8, 8, 3\]"):
        load("arrays", tmp_path)


def test_a_named_data_set_must_have_its_size(tmp_path: Path) -> None:
    save(tmp_path, imagenet32_train=random_images(5, 64), imagenet32_valid=random_images(5, 32))
    with pytest.raises(DataError, match=r"imagenet32-train\.npy: images are 64x64; expected uint8 images"):
        load("imagenet32", tmp_path)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_an_array_of_objects_is_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([Hostile(tmp_path / "made")], dtype=object))
    with pytest.raises(DataError, match=r"not a whole \.npy file of numbers"):
        open_array(tmp_path / "x.npy")
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(DataError, match=r"not a whole \.npy file of numbers"):
        open_array(tmp_path / "y.npy")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("cut", [0, 3, 40, 127, 500])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    save(tmp_path, x=random_images(2, 8))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"x.npy: not a whole .npy file of numbers \([^\n]+\)"):
        open_array(tmp_path / "x.npy")


def test_an_npz_archive_is_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", random_images(2, 8))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"is an \.npz archive"):
        open_array(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["imagenet32", "imagenet64", "ffhq256", "ffhq1024", "images", "arrays"])
def test_a_missing_root_says_what_is_needed(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"data set '{name}' needs --data-root, a folder with [^;]"):
        load(name, None)
    with pytest.raises(
        DataError, match=rf"--data-root {tmp_path}/no is not a folder; data set '{name}' looks there for [^;]"
    ):
        load(name, tmp_path / "no")


def test_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path, train=random_images(5, 8))
    with pytest.raises(DataError, match=r"has no valid\.npy and no test\.npy \(data set 'arrays'\); save uint8"):
        load("arrays", tmp_path)
