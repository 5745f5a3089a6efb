"""The derivation behind `docs/scaling.md`."""

from __future__ import annotations

import pytest

from vdvae_patch.scaling import Network, ddp, largest_with_ddp, reduced_bytes, saved_by_fsdp

FAST = Network("400 Gb/s", 50e9)


def test_one_rank_sends_nothing_and_many_send_every_gradient_twice() -> None:
    assert reduced_bytes(1000, 1) == 0
    assert reduced_bytes(1000, 2) == 4000
    assert reduced_bytes(1000, 1024) == pytest.approx(8000, rel=1e-3)


def test_an_exchange_that_the_backward_pass_hides_costs_its_last_bucket_alone() -> None:
    hidden = ddp(39_145_700, 10.0, FAST, 8)
    assert hidden.exposed == pytest.approx(hidden.exchange * 25 * 2**20 / (4 * 39_145_700))
    assert hidden.efficiency > 0.999


def test_an_exchange_slower_than_the_step_is_what_a_step_takes() -> None:
    slow = ddp(125_000_000, 0.3, Network("1 Gb/s", 125e6), 8)
    assert slow.exposed == pytest.approx(slow.exchange - 0.2)
    assert slow.efficiency < 0.05


def test_sharding_saves_all_but_one_share_of_the_state() -> None:
    assert saved_by_fsdp(100, 4) == 1500
    assert largest_with_ddp(40e9) == 2e9
