"""What a run would cost is told soon, also where a step takes minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import pytest
import torch
from torch import nn

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.train.estimate import checkpoint_bytes, estimate, spoken


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


def test_images_and_steps_are_those_of_all_ranks_together() -> None:
    flags = ["--preset", "demo", "--data", "builtin(train=16)", "--batch-size", "2"]
    config = parse_train([*flags, "--nproc", "4", "--steps", "10"])
    cost = estimate(config, clock=clock_of(1.0, 1.0, 1.0, 1.0))
    assert (cost.ranks, cost.steps, cost.images) == (4, 10, 80)
    epochs = estimate(parse_train([*flags, "--nproc", "4", "--epochs", "3"]), clock=clock_of(1.0, 1.0, 1.0, 1.0))
    assert (epochs.steps, epochs.images) == (6, 48)
    assert "6 steps of 8 images on 4 rank(s), 48 images" in str(epochs)
    assert ": 6.0 seconds, without evaluation, samples and the exchange of gradients; " in str(epochs)


def test_a_short_run_takes_minutes_and_not_zero_hours() -> None:
    assert [spoken(hours) for hours in (1234.56, 1.0, 0.05, 0.004)] == [
        "1,234.6 hours", "1.0 hours", "3.0 minutes", "14.4 seconds"
    ]  # fmt: skip


def test_the_size_of_a_checkpoint_is_that_of_the_types_and_buffers_that_a_model_has() -> None:
    model = nn.Linear(10, 10, dtype=torch.float64)  # 110 numbers, of which each has an average and two moments
    model.codes = nn.Parameter(torch.zeros(50), requires_grad=False)
    model.register_buffer("means", torch.zeros(30))
    model.register_buffer("mask", torch.zeros(1000), persistent=False)
    assert checkpoint_bytes(model) == 4 * 110 * 8 + 2 * 50 * 4 + 2 * 30 * 4
