"""What a run would cost is told soon, also where a step takes minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import pytest

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.train.estimate import estimate


def clock_of(*steps: float) -> Callable[[], float]:
    """A clock for steps that take so many seconds: it is looked at when one begins and when it ends."""
    times: Iterator[float] = accumulate(part for seconds in steps for part in (0.0, seconds))
    return lambda: next(times)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((9.0, 2.0, 4.0, 3.0), 3.0),  # the first prepares
        ((40.0, 25.0), 25.0),
        ((70.0,), 70.0),
    ],
)
def test_no_step_is_begun_after_a_minute_and_the_first_counts_only_if_it_is_the_only_one(
    steps: tuple[float, ...], said: float
) -> None:
    config = parse_train(["--preset", "demo", "--data", "builtin(train=16)", "--batch-size", "2", "--steps", "3600"])
    cost = estimate(config, clock=clock_of(*steps))
    assert cost.step_seconds == said
    assert cost.hours == said
    assert (cost.steps, cost.images) == (3600, 7200)
