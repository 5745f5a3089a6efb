"""Loading by name: the table, limits, provenance, normalization, and the images that are drawn by code."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import random_images, write_cifar10

from vdvae_patch.data import DATASETS, builtin, fingerprints, load, pixels
from vdvae_patch.data.normalization import CIFAR10, FFHQ256, FFHQ1024, IMAGENET32, IMAGENET64, Normalization
from vdvae_patch.errors import DataError, InvalidValueError, UnknownNameError


def test_names_are_known_without_numpy_or_torch() -> None:
    code = (
        "import sys; from vdvae_patch.data import DATASETS; print(*DATASETS.names());"
        "print({'numpy', 'torch'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = answer.stdout.splitlines()
    assert names.split() == [
        "arrays", "builtin", "cifar10", "fashion-mnist", "fashion-mnist-drawn-anew", "ffhq1024", "ffhq256",
        "frey-faces", "imagenet32", "imagenet64", "images", "mnist", "mnist-drawn-anew", "mnist-drawn-once",
        "mnist-thresholded",
    ]  # fmt: skip
    assert loaded == "set()"


def test_every_data_set_describes_itself_in_a_line() -> None:
    for name in DATASETS:
        text = DATASETS.get_class(name).__doc__
        assert text is not None
        assert "\n" not in text


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load("cifar", None)


def test_a_limit_keeps_images_chosen_by_the_seed_and_records_them(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    full = load("cifar10", tmp_path)
    ten, again, other = (load("cifar10", tmp_path, seed=seed, limit_images=10) for seed in (3, 3, 4))
    assert ten.provenance.chosen is not None
    assert len(set(ten.provenance.chosen)) == 10
    np.testing.assert_array_equal(ten.train, full.train[np.array(ten.provenance.chosen)])
    assert ten.provenance == again.provenance
    assert ten.provenance.chosen != other.provenance.chosen
    assert ten.provenance.fingerprint != other.provenance.fingerprint
    assert ten.provenance.train_count == 10
    np.testing.assert_array_equal(ten.test, full.test)
    assert full.provenance.chosen is None


@pytest.mark.parametrize(("limit", "seed"), [(0, 0), (-1, 0), (91, 0), (5, -1), (5, 2**32)])
def test_a_limit_or_seed_that_cannot_be_used_is_refused(tmp_path: Path, limit: int, seed: int) -> None:
    write_cifar10(tmp_path)
    with pytest.raises(InvalidValueError, match="is not between"):
        load("cifar10", tmp_path, limit_images=limit, seed=seed)


def test_the_fingerprint_tells_pixels_order_and_shape_apart() -> None:
    images = random_images(10, 8)
    assert fingerprints.fingerprint(images) == fingerprints.fingerprint(images.copy())
    changed = images.copy()
    changed[7, 3, 3, 1] ^= 1
    others = [changed, images[::-1], images[:9], images.reshape(5, 16, 8, 3)]
    assert len({fingerprints.fingerprint(other) for other in [images, *others]}) == 5


def test_the_fingerprint_of_large_data_reads_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(100, 8)
    monkeypatch.setattr(pixels, "HASHED_BYTES", images.nbytes - 1)
    monkeypatch.setattr(pixels, "SPACED_BYTES", images.nbytes // 10)
    positions = pixels.spaced(images)
    np.testing.assert_array_equal(positions, np.linspace(0, 99, 10).astype(int))
    changed = images.copy()
    changed[positions[3]] ^= 1
    assert fingerprints.fingerprint(images) != fingerprints.fingerprint(changed)


class Decoded(pixels.LazyPixels):
    """What nobody reads for a fingerprint of all."""

    shape = (100, 8, 8, 3)

    def read(self, indices: pixels.Indices) -> pixels.UInt8:
        raise AssertionError


def test_an_image_that_was_replaced_between_the_spaced_ones_is_told_by_the_whole_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = random_images(100, 8)
    monkeypatch.setattr(pixels, "HASHED_BYTES", images.nbytes // 3)
    monkeypatch.setattr(pixels, "SPACED_BYTES", images.nbytes // 10)
    monkeypatch.setattr(fingerprints, "_CHUNK", 7 * images[0].nbytes)
    changed, order = images.copy(), np.random.RandomState(0).permutation(100)
    changed[50] ^= 1
    assert fingerprints.fingerprint(images) == fingerprints.fingerprint(changed)

    def whole(*splits: pixels.Pixels) -> str:
        return fingerprints.WholeFingerprints().of(*splits)

    part = pixels.IndexedPixels(images, order[:60])
    found = [whole(images), whole(changed), whole(images[::-1]), whole(part), whole(images, images[:5])]
    found += [whole(pixels.IndexedPixels(changed, order[:60])), whole(pixels.IndexedPixels(images, order[40:]))]
    assert all(found)
    assert len({*found}) == len(found)
    assert whole(images.copy()) == found[0]
    assert whole(images[:5], images[:9]) == ""  # what `fingerprint` is of all of
    assert whole(Decoded()) == ""


def test_normalization_is_bit_for_bit_the_published_arithmetic() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    batch = CIFAR10.apply(x)
    shift, scale = torch.tensor([-120.63838]), torch.tensor([1.0 / 64.16736])
    assert torch.equal(batch.input, (x.float() + shift) * scale)
    assert torch.equal(batch.target, (x.float() + torch.tensor([-127.5])) * torch.tensor([1.0 / 127.5]))
    assert (batch.target.min().item(), batch.target.max().item()) == (-1.0, 1.0)
    assert x.flatten().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("found", "shift", "scale", "low_bit"),
    [
        (CIFAR10, 120.63838, 64.16736, False),
        (IMAGENET32, 116.2373, 69.37404, False),
        (IMAGENET64, 115.92961967, 69.37404, False),
        (FFHQ256, 112.8666757481, 69.84780273, True),
        (FFHQ1024, 111.8685, 69.9465, False),
    ],
)
def test_the_data_sets_have_the_numbers_that_vdvae_was_published_with(
    found: Normalization, shift: float, scale: float, low_bit: bool
) -> None:
    """Child (2021), "Very Deep VAEs": mean and standard deviation of pixels in 0..255."""
    assert (found.shift, 1 / found.scale) == (pytest.approx(shift, rel=1e-9), pytest.approx(scale, rel=1e-9))
    assert (found.target_shift, 1 / found.target_scale) == (127.5, pytest.approx(127.5))
    assert found.low_bit is low_bit


def test_ffhq256_measures_its_likelihood_on_5_bits_but_reads_all_8() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    batch = FFHQ256.apply(x)
    coarse = torch.floor(x.double() / 8) * 8
    assert torch.equal(batch.target.double(), ((coarse - 127.5) * torch.tensor(1 / 127.5)).float().double())
    assert batch.target.unique().numel() == 32
    assert batch.input.unique().numel() == 256


def test_pixels_that_were_normalized_already_are_refused() -> None:
    with pytest.raises(DataError, match=r"torch\.float32, not uint8"):
        CIFAR10.apply(torch.zeros(1, 2, 2, 3))


def test_measured_numbers_of_a_million_pixels_are_exact() -> None:
    images = np.full((400, 32, 32, 3), 255, np.uint8)
    images[0] = 254
    measured = Normalization.measured(images)
    assert measured.shift == 255 - 1 / 400
    assert 1 / measured.scale**2 == pytest.approx(1 / 400 * (1 - 1 / 400), rel=1e-12)


def test_built_in_images_are_the_same_everywhere() -> None:
    data = load("builtin", None)
    assert [part.shape for part in (data.train, data.valid, data.test)] == [
        (512, 32, 32, 3), (64, 32, 32, 3), (64, 32, 32, 3),
    ]  # fmt: skip
    assert data.provenance.fingerprint == "9fca6785b8ee5574782b29b082161b667e38019743060466295a44d189319268"
    assert load("builtin", None).provenance == data.provenance


def test_built_in_images_differ_by_seed_split_and_position() -> None:
    first, second = load("builtin(16, 8, 8)", None), load("builtin(16, 8, 8, seed=1)", None)
    parts = [first.train, first.valid, first.test, second.train, second.valid, second.test]
    images = np.concatenate([np.asarray(part) for part in parts])
    assert len({hashlib.sha256(image.tobytes()).hexdigest() for image in images}) == 64
    assert first.name == "builtin(16, 8, 8)"


def test_more_built_in_images_leave_those_before_as_they_were() -> None:
    few, many = load("builtin(train=4, valid=2)", None), load("builtin(train=8, valid=3)", None)
    np.testing.assert_array_equal(few.train, many.train[:4])
    np.testing.assert_array_equal(few.valid, many.valid[:2])


def test_built_in_images_have_something_to_reconstruct() -> None:
    images = builtin.draw_images(128, seed=0).astype(np.float64)
    assert images.std(axis=(1, 2, 3)).min() > 10  # no flat image
    neighbours = np.abs(np.diff(images, axis=2)).mean()
    strangers = np.abs(images - np.roll(images, 1, axis=0)).mean()
    assert neighbours < strangers / 3  # pixels say something about those beside them


def test_built_in_normalization_is_that_of_the_default_images() -> None:
    data = load("builtin", None)
    measured = Normalization.measured(data.train)
    assert data.normalization.shift == pytest.approx(measured.shift, abs=1e-5)
    assert data.normalization.scale == pytest.approx(measured.scale, rel=1e-6)
    assert load("builtin(8, seed=5)", None).normalization == data.normalization


@pytest.mark.parametrize("spec", ["builtin(0)", "builtin(1.5)", "builtin(train=-8)", "builtin(8, 8, 8, -1)"])
def test_counts_that_are_not_whole_are_refused(spec: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a whole number from"):
        load(spec, None)


def test_a_folder_that_a_data_set_would_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="builtin draws its images and reads none, so that yours would not be"):
        load("builtin(train=2, valid=1, test=1)", tmp_path)
