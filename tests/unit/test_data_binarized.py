"""Images of two values: three ways to make them are three data sets; and Frey Faces, which are not square."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch.data import load, mnist
from vdvae_patch.data.frey_faces import COLUMNS, COUNT, ROWS
from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import DataError, InvalidValueError
from vdvae_patch.train.noise import noise_seed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with 4x4 pixels, and random frames of Frey's size."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    random = np.random.default_rng(0)
    for name, count in ((mnist.TRAIN_FILE, 10_400), (mnist.TEST_FILE, 300)):
        pixels = random.choice([0, 64, 127, 128, 192, 255], (count, 4, 4)).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, count, 4, 4)
        (folder / "mnist" / name).write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    np.save(folder / "freyfaces.npy", random.integers(0, 256, (COUNT, ROWS, COLUMNS), dtype=np.uint8))
    return folder


def read(name: str, root: Path) -> ImageData:
    return load(name, root, download=False)


def two_values(pixels: object) -> bool:
    return set(np.unique(np.asarray(pixels))) == {0, 255}


def test_thresholded_images_are_white_above_half_the_range(root: Path) -> None:
    grey, data = read("mnist", root), read("mnist-thresholded", root)
    for part in ("train", "valid", "test"):
        assert np.array_equal(getattr(data, part) == 255, np.asarray(getattr(grey, part)) >= 128)
        assert two_values(getattr(data, part))


@pytest.mark.parametrize("name", ["mnist-drawn-once", "mnist-drawn-anew"])
def test_drawn_images_are_white_as_often_as_they_are_bright(name: str, root: Path) -> None:
    grey, data = read("mnist", root), read(name, root)
    for part in ("valid", "test") if name.endswith("anew") else ("train", "valid", "test"):
        drawn, before = np.asarray(getattr(data, part)), np.asarray(getattr(grey, part))
        assert two_values(drawn)
        for value in np.unique(before):
            chosen = drawn[before == value] == 255
            assert abs(chosen.mean() - value / 255) < 5 * 0.5 / np.sqrt(chosen.size)


def test_the_three_are_three_data_sets_and_a_seed_gives_another_draw(root: Path) -> None:
    names = ("mnist-thresholded", "mnist-drawn-once", "mnist-drawn-once(seed=1)", "mnist-drawn-anew")
    found = [read(name, root) for name in names]
    assert len({data.provenance.fingerprint for data in found}) == 4
    assert len({data.test.tobytes() for data in found}) == 3  # drawn once and drawn anew share their test
    assert [data.name for data in found] == list(names)
    assert np.array_equal(read("mnist-drawn-once", root).train, found[1].train)
    assert "seed 1" in found[2].provenance.split
    with pytest.raises(InvalidValueError, match="whole number"):
        read("mnist-drawn-once(seed=0.5)", root)


def test_training_images_are_drawn_anew_for_every_batch_and_alike_for_the_same(root: Path) -> None:
    data = read("mnist-drawn-anew", root)
    assert not two_values(data.train)
    pixels = torch.from_numpy(np.asarray(data.train[:200]))
    steps = [data.normalization.apply(pixels, noise_seed("data", 0, step=step)) for step in range(200)]
    again = data.normalization.apply(pixels, noise_seed("data", 0, step=7))
    assert torch.equal(again.target, steps[7].target)
    assert not torch.equal(steps[7].target, steps[8].target)
    assert all(set(batch.target.unique().tolist()) == {-1.0, 1.0} for batch in steps[:3])
    share = torch.stack([(batch.target + 1) / 2 for batch in steps]).mean(dim=0)
    torch.testing.assert_close(share, pixels / 255, rtol=0, atol=0.2)
    assert abs((share - pixels / 255).mean()) < 0.005
    together = torch.stack([batch.input for batch in steps])
    assert abs(together.mean()) < 0.05
    assert abs(together.std() - 1) < 0.02


def test_a_draw_uses_up_no_random_number_and_leaves_two_values_alone(root: Path) -> None:
    data = read("mnist-drawn-anew", root)
    state = torch.get_rng_state()
    test = torch.from_numpy(data.test)
    assert torch.equal(data.normalization.apply(test, 1).target, data.normalization.apply(test, 2).target)
    assert torch.equal(data.normalization.apply(test).target == 1, test == 255)
    assert torch.equal(torch.get_rng_state(), state)


def test_frey_faces_are_split_as_the_paper_splits_them(root: Path) -> None:
    data = read("frey-faces", root)
    assert [part.shape for part in (data.train, data.valid, data.test)] == [(n, 28, 20, 1) for n in (1565, 200, 200)]
    assert data.sides == (28, 20)
    frames = np.load(root / "freyfaces.npy")
    whole = np.concatenate([data.train, data.valid, data.test])[..., 0]
    assert sorted(f.tobytes() for f in whole) == sorted(f.tobytes() for f in frames)
    assert read("mnist", root).sides == (4, 4)


def test_what_is_no_frey_faces_is_refused_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-root.*freyfaces\.npy"):
        load("frey-faces", None, download=False)
    with pytest.raises(DataError, match=r"has no freyfaces.npy.*roweis"):
        load("frey-faces", tmp_path, download=False)
    for wrong in (
        np.zeros((3, 28, 20), np.uint8),
        np.zeros((COUNT, ROWS, COLUMNS)),
        np.zeros((COUNT, 20, 28), np.uint8),
    ):
        np.save(tmp_path / "freyfaces.npy", wrong)
        with pytest.raises(DataError, match=r"shape .*uint8 \[1965, 28, 20\]"):
            load("frey-faces", tmp_path, download=False)
    (tmp_path / "freyfaces.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"not a whole \.npy"):
        load("frey-faces", tmp_path, download=False)
