"""Folders that people have: splits that are already made stay apart, and what is left out is said."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from vdvae_patch.data import load
from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import DataError

VALUES = {"train": 10, "valid": 100, "test": 200}


def write(folder: Path, value: int, n: int = 6) -> None:
    """Images whose red is `value` and whose green is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        iio.imwrite(folder / f"{index:03}.png", np.full((4, 4, 3), (value, index, 0), np.uint8))


def red(data: ImageData, split: str) -> set[int]:
    return {int(v) for v in np.asarray(getattr(data, split))[:, 0, 0, 0]}


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "valid": "val", "test": "test"},
        {"train": "train/cats", "valid": "valid/cats", "test": "test/cats"},  # ImageFolder
        {"train": "Training_Set", "valid": "validation-data", "test": "Test_set"},
        {"train": "archive/train", "valid": "archive/valid", "test": "archive/test"},  # as Kaggle packs it
        {"train": "cats/train", "valid": "cats/val", "test": "cats/test"},
        {"train": "train/test", "valid": "val/test", "test": "test/train"},  # classes of those names
    ],
)
def test_folders_of_the_three_splits_stay_the_splits(tmp_path: Path, names: dict[str, str]) -> None:
    for split, name in names.items():
        write(tmp_path / name, VALUES[split])
    data = load("images", tmp_path)
    assert {split: red(data, split) for split in VALUES} == {split: {value} for split, value in VALUES.items()}
    assert data.provenance.split == "folders of train and valid, and of test"
    assert data.normalization.shift == pytest.approx((10 + 2.5 + 0) / 3)  # of the training images alone


def test_with_train_and_test_the_validation_images_are_drawn_from_train(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a", 10, 20)
    write(tmp_path / "test" / "a", 200, 20)
    data = load("images", tmp_path)
    assert (red(data, "train"), red(data, "valid"), red(data, "test")) == ({10}, {10}, {200})
    order = np.random.RandomState(11172018).permutation(20)
    assert np.asarray(data.valid)[:, 0, 0, 1].tolist() == order[:2].tolist()
    assert np.asarray(data.train)[:, 0, 0, 1].tolist() == order[2:].tolist()
    assert "valid: first 2 of RandomState(11172018).permutation(20)" in data.provenance.split


def test_with_train_and_valid_the_test_images_are_those_of_valid(tmp_path: Path) -> None:
    write(tmp_path / "train", 10)
    write(tmp_path / "val", 100)
    data = load("images", tmp_path)
    assert data.test is data.valid
    assert red(data, "test") == {100}
    assert "test: the same images as valid" in data.provenance.split


def test_train_alone_is_split_as_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "train", 10, 20)
    provenance = load("images", tmp_path).provenance
    assert (provenance.train_count, provenance.valid_count, provenance.test_count) == (16, 2, 2)


def test_a_test_folder_without_one_to_train_on_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test", 200)
    write(tmp_path / "images", 10)
    with pytest.raises(
        DataError, match=r"has images of test \(6\) and no folder train; put those to train on in .*/train"
    ):
        load("images", tmp_path)


def test_images_beside_the_splits_are_named_and_never_mixed_in(tmp_path: Path) -> None:
    write(tmp_path / "train", 10)
    write(tmp_path / "test", 200)
    write(tmp_path / "more", 50, 2)
    with pytest.raises(DataError, match=r"and 2 images outside of them, such as more/000\.png; move these"):
        load("images", tmp_path)


def test_hidden_files_and_litter_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "a", 10, 8)
    iio.imwrite(tmp_path / "a" / "100.png", np.full((4, 4, 3), 77, np.uint8))
    clean = load("images", tmp_path).provenance
    for name in ("._000.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "a" / name).write_bytes(b"\0\5\x16\7 not an image")
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "a" / "000.png").write_bytes(b"no image")
    write(tmp_path / ".thumbnails", 200)
    assert load("images", tmp_path).provenance == clean
    assert clean.notes == ()


def test_what_is_left_out_is_counted_by_kind_and_is_in_the_provenance(tmp_path: Path) -> None:
    write(tmp_path / "data", 10, 10)
    for name in ("labels.csv", "a.txt", "b.txt", "photo.heic", "LICENSE"):
        (tmp_path / "data" / name).write_text("x")
    write(tmp_path / "elsewhere", 90, 2)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    notes = load("images", tmp_path / "data").provenance.notes[:1]
    left = "1 .csv, 1 .heic, 2 .txt, 1 links to folders, 1 without a suffix"
    assert notes == (f"{tmp_path / 'data'}: 6 files left out ({left})",)


def test_gifs_are_taken_and_that_it_is_the_first_picture_is_said(tmp_path: Path) -> None:
    write(tmp_path, 10, 5)
    iio.imwrite(tmp_path / "film.GIF", np.stack([np.full((4, 4, 3), v, np.uint8) for v in (200, 30)]))
    data = load("images", tmp_path)
    everything = red(data, "train") | red(data, "valid") | red(data, "test")
    assert everything == {10, 200}
    assert data.provenance.notes == (f"{tmp_path}: of 1 .gif files the first picture each",)


def test_a_folder_of_other_files_alone_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_text("x")
    with pytest.raises(DataError, match=r"no images in it or below it; looked for .*, found 1 \.heic"):
        load("images", tmp_path)
