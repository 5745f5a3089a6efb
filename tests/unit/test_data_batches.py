"""Batches: which images, on which rank, and how they get to the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_samples import random_images

from vdvae_patch.data.batches import DeviceImages, Placement, batch_indices, epoch_indices, rank_slice, steps_per_epoch
from vdvae_patch.data.pixels import IndexedPixels
from vdvae_patch.errors import InvalidValueError

NEEDS_CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)]


def test_an_epoch_sees_each_image_once_but_for_those_that_fill_no_batch() -> None:
    steps = steps_per_epoch(103, 10)
    batches = [batch_indices(103, 10, step, seed=5) for step in range(3 * steps)]
    for epoch in range(3):
        seen = np.concatenate(batches[epoch * steps : (epoch + 1) * steps])
        assert len(seen) == len(set(seen.tolist())) == 100
        np.testing.assert_array_equal(seen, epoch_indices(103, 5, epoch)[:100])
    assert not np.array_equal(batches[0], batches[steps])


def test_a_batch_depends_on_its_step_alone() -> None:
    forward = [batch_indices(1000, 16, step, seed=1).tolist() for step in range(200)]
    epoch_indices.cache_clear()
    backward = [batch_indices(1000, 16, step, seed=1).tolist() for step in reversed(range(200))]
    assert forward == backward[::-1]
    assert forward != [batch_indices(1000, 16, step, seed=2).tolist() for step in range(200)]


def test_the_order_is_pinned_so_that_a_run_can_be_replayed_with_a_later_version() -> None:
    assert batch_indices(45_000, 8, 12_345, seed=7).tolist() == [10057, 8644, 1653, 25710, 37241, 14058, 43018, 19934]
    assert batch_indices(10, 16, 3, seed=7).tolist() == [2, 1, 6, 0, 5, 2, 3, 9, 9, 4, 8, 7, 8, 1, 5, 5]


def test_fewer_images_than_a_batch_are_drawn_with_replacement() -> None:
    batches = np.stack([batch_indices(10, 16, step, seed=0) for step in range(2000)])
    assert batches.shape == (2000, 16)
    counts = np.bincount(batches.ravel(), minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 3200).max() < 5 * (32_000 * 0.1 * 0.9) ** 0.5
    assert len({tuple(batch) for batch in batches.tolist()}) == 2000


def test_as_many_images_as_a_batch_are_an_epoch_of_one_step() -> None:
    assert steps_per_epoch(16, 16) == 1
    assert sorted(batch_indices(16, 16, 4, seed=0).tolist()) == list(range(16))


def test_a_batch_may_be_changed_without_changing_the_next_call() -> None:
    batch_indices(100, 10, 0, seed=0)[:] = 0
    assert len(set(batch_indices(100, 10, 0, seed=0).tolist())) == 10
    with pytest.raises(ValueError, match="read-only"):
        epoch_indices(100, 0, 0)[0] = 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_a_batch_without_overlap(world_size: int) -> None:
    batch = batch_indices(1000, 16, 3, seed=0)
    shares = [rank_slice(batch, rank, world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {16 // world_size}
    np.testing.assert_array_equal(np.concatenate(shares), batch)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="batch of 16 does not divide among 3 ranks; take 15 or 18"):
        rank_slice(np.arange(16), 0, 3)
    with pytest.raises(InvalidValueError, match="rank 3 is not between 0 and 2"):
        rank_slice(np.arange(3), 3, 3)


@pytest.mark.parametrize(("n", "batch", "step", "seed"), [(0, 1, 0, 0), (5, 0, 0, 0), (5, 1, -1, 0), (5, 1, 0, -1)])
def test_impossible_batches_are_refused(n: int, batch: int, step: int, seed: int) -> None:
    with pytest.raises(InvalidValueError):
        batch_indices(n, batch, step, seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("placement", ["device", "host", None])
def test_taken_images_are_those_asked_for(device: str, placement: Placement | None) -> None:
    images = random_images(50, 8)
    on_device = DeviceImages(images, device, placement=placement)
    indices = np.array([4, 49, 4, 0])
    batch = on_device.take(indices)
    assert (batch.dtype, batch.device.type) == (torch.uint8, device)
    np.testing.assert_array_equal(batch.cpu().numpy(), images[indices])


@pytest.mark.parametrize("placement", ["device", "host"])
def test_images_on_the_disk_are_taken_like_those_in_memory(placement: Placement) -> None:
    images = random_images(50, 8)
    shuffled = IndexedPixels(images, np.random.RandomState(0).permutation(50))
    batch = DeviceImages(shuffled, "cpu", placement=placement).take(np.array([1, 2]))
    np.testing.assert_array_equal(batch.numpy(), shuffled[np.array([1, 2])])


def test_on_the_processor_images_are_not_copied_a_second_time() -> None:
    assert DeviceImages(random_images(5), "cpu").placement == "host"


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_CUDA)])
def test_images_stay_on_an_accelerator_if_they_fit(device: str) -> None:
    images = random_images(5)
    assert DeviceImages(images, device).placement == "device"
    assert DeviceImages(images, device, fraction=0.0).placement == "host"


@pytest.mark.parametrize("placement", ["device", "host"])
def test_a_batch_read_ahead_is_the_batch_that_was_asked_for(placement: Placement) -> None:
    images = random_images(50, 8)
    on_device = DeviceImages(images, "cpu", placement=placement)
    for step in range(20):
        on_device.prefetch(batch_indices(50, 8, step + 1, seed=0))
        indices = batch_indices(50, 8, step, seed=0)  # also what was not read ahead
        np.testing.assert_array_equal(on_device.take(indices).numpy(), images[indices])
        following = batch_indices(50, 8, step + 1, seed=0)
        np.testing.assert_array_equal(on_device.take(following).numpy(), images[following])


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("bad", [-1, 50])
def test_positions_outside_the_data_are_refused(placement: Placement, bad: int) -> None:
    on_device = DeviceImages(random_images(50, 8), "cpu", placement=placement)
    with pytest.raises(IndexError, match=r"outside 0\.\.49"):
        on_device.take(np.array([0, bad]))


def test_a_batch_belongs_to_the_caller() -> None:
    images = random_images(5, 8)
    expected = images.copy()
    DeviceImages(images, "cpu").take(np.arange(5)).zero_()
    np.testing.assert_array_equal(images, expected)
