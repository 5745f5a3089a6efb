"""What a signal does to a block in which there is nothing to save."""

from __future__ import annotations

import signal

import pytest

from vdvae_patch.train.interrupts import StoppedError, StopRequest


def test_a_signal_ends_the_block_at_once() -> None:
    stop = StopRequest()
    with pytest.raises(StoppedError, match="SIGTERM"), stop.at_once():
        stop(signal.SIGTERM, None)
    assert stop


def test_a_second_signal_does_not_interrupt_the_way_out() -> None:
    stop = StopRequest()
    with stop.at_once():
        with pytest.raises(StoppedError):
            stop(signal.SIGTERM, None)
        stop(signal.SIGUSR1, None)  # what is done on the way out goes on
    assert stop.signal == "SIGUSR1"


def test_one_that_came_before_the_block_is_not_forgotten() -> None:
    stop = StopRequest()
    stop(signal.SIGTERM, None)
    with pytest.raises(StoppedError, match="SIGTERM"), stop.at_once():
        pytest.fail("the block began")
