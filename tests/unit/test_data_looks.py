"""What is said of somebody's images before a number of theirs is misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vdvae_patch.data import load
from vdvae_patch.data.looks import black as black_images
from vdvae_patch.data.looks import looks
from vdvae_patch.data.pixels import UInt8


def drawn(n: int, low: int = 0, high: int = 256, seed: int = 0, size: int = 4) -> UInt8:
    return np.random.RandomState(seed).randint(low, high, (n, size, size, 3)).astype(np.uint8)


HELD = drawn(2, seed=1), drawn(3, seed=2)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (drawn(5), []),
        (drawn(5, high=17), ["no pixel of the training images is above 16 of 255"]),
        (drawn(5, high=2), ["no pixel of the training images is above 1 of 255"]),
        (np.minimum(drawn(5), 63), ["no pixel of the training images is above 63 of 255"]),
        (np.minimum(drawn(5), 64), []),
        (drawn(5, high=2) * 255, ["have two values, 0 and 255"]),
        (np.repeat(drawn(5)[..., :1], 3, axis=-1), ["the training images are grey in three channels"]),
        (np.concatenate([drawn(1001, high=17, size=1), drawn(1000, high=17, size=1)]), ["no pixel of 1,000 training"]),
        (np.concatenate([drawn(4), HELD[1][1:]]), ["the same in every pixel: 2 of the 3 to test"]),
        (np.concatenate([drawn(4), HELD[0], HELD[1][:1]]), ["2 of the 2 to validate, 1 of the 3 to test"]),
    ],
)
def test_what_would_make_a_bound_misread_is_said_and_nothing_else(train: UInt8, said: list[str]) -> None:
    notes = looks(train, *(HELD if train.shape[1] == 4 else (drawn(2, 200, size=1), drawn(2, 200, size=1))))
    assert len(notes) == len(said)
    for note, part in zip(notes, said, strict=True):
        assert part in note


def test_a_folder_says_them_and_of_which_files_it_takes_the_first_page_alone(tmp_path: Path) -> None:
    for number, image in enumerate(drawn(6, high=4096 // 257, size=8)):
        more = {"save_all": True, "append_images": [Image.fromarray(image)]} if number % 2 else {}
        Image.fromarray(image).save(tmp_path / f"{number}.{'tif' if number < 4 else 'png'}", **more)
    notes = load("images", tmp_path).provenance.notes
    assert notes[0] == f"{tmp_path}: of 3 in 6 files the first picture or page alone, such as of 1.tif"
    assert "is above 14 of 255" in notes[1]


def test_a_folder_says_of_how_many_files_the_colours_lie_below_transparent_pixels(tmp_path: Path) -> None:
    for number, image in enumerate(drawn(4, size=8)):
        alpha = np.full((8, 8, 1), 255, np.uint8)
        alpha[0, 0] = 254 if number == 2 else 255  # an alpha that hides nothing is not told of
        Image.fromarray(np.concatenate([image, alpha], axis=2)).save(tmp_path / f"{number}.png")
    (note,) = load("images", tmp_path).provenance.notes
    assert note.startswith(f"{tmp_path}: of 1 in 4 files with transparent pixels, such as 2.png, the colours are taken")


def test_images_that_are_black_are_counted_since_a_file_that_is_not_written_to_its_end_has_them() -> None:
    train, test = drawn(8), drawn(4, seed=2)
    train[5:], test[3:] = 0, 0
    black, common = looks(train, drawn(3, seed=1), test)
    assert black.startswith("images are black in every pixel: 3 of the 8 to train on, 1 of the 4 to test: were")
    assert "1 of the 4 to test" in common
    many = drawn(2000, size=2)
    many[1000:] = 0
    (black,) = looks(many, drawn(3, seed=1, size=2), drawn(3, seed=2, size=2))
    assert "500 of 1,000 (evenly spaced) to train on" in black
    ours = black_images(train, test, test)  # FFHQ-256 is tested on what it is validated on
    assert ours[0].startswith(
        "images are black in every pixel: 3 of the 8 to train on, 1 of the 4 to validate and test:"
    )
