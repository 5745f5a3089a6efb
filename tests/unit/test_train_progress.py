"""What a run says while it goes, in terminals of several widths and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vdvae_patch.train.progress import TrainingProgress, duration
from vdvae_patch.train.step import BadRanks, StepRecord

LONG = "bounded(alpha=0.001,omega=2.5)/constant seed 12"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(step: int) -> StepRecord:
    return StepRecord(step, 12.3456, 11.3, 1.0456, 7.0, 1e-3, None, BadRanks())


def shown(label: str, width: int, *, done: int, total: int, seconds: float) -> list[str]:
    """The lines that stand in a terminal after the update."""
    terminal, clock = Console(file=io.StringIO(), force_terminal=True, width=width), Clock()
    progress = TrainingProgress(label, console=terminal, clock=clock)
    progress.begin(total, 0)
    clock.now = seconds
    progress.update(record(done - 1), 12, 3, 1234.5)
    bar = progress._bar
    assert bar is not None
    progress.close()
    page = io.StringIO()
    Console(file=page, width=width).print(*bar.get_renderables(), sep="\n", end="")
    return page.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("label", ["vanilla seed 0", LONG])
def test_step_and_time_left_are_seen_at_every_width(label: str, width: int) -> None:
    first, second = shown(label, width, done=1_000, total=1_100_000, seconds=250)
    assert first.endswith("step 1000/1100000 3 days 4:19:10 left")
    assert first.startswith(label[:8])
    assert second.startswith("NELBO 12.346 nats/dim, skipped 12 high-gradient + 3 NaN")
    assert len(first) <= width
    assert len(second) <= width
    assert ("1234.5 images/s" in second) == (width >= 80)
    assert ("distortion 11.300 + rate 1.046" in second) == (width >= 120)


def test_updates_that_the_loss_scale_of_fp16_lost_are_counted_beside_the_others() -> None:
    out = io.StringIO()
    progress = TrainingProgress("vanilla seed 0", console=Console(file=out, width=200), clock=Clock())
    progress.begin(1, 0)
    progress.update(record(0), 0, 2, 1234.5, 3)
    assert "skipped 0 high-gradient + 2 NaN + 3 loss-scale, " in out.getvalue()
    progress.update(record(0), 0, 2, 1234.5)
    assert "skipped 0 high-gradient + 2 NaN, " in out.getvalue()


def test_a_log_has_a_line_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    progress = TrainingProgress("vanilla seed 0", console=Console(file=out, width=80), clock=clock)
    progress.begin(100, 0)
    for step, seconds in ((0, 1), (9, 20), (10, 21), (99, 200)):
        clock.now = seconds
        progress.update(record(step), 0, 0, 5.0)
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["vanilla seed 0: step 10/100", "vanilla seed 0: step 100/100"]
    assert "step 10/100, 0:03:00 left, NELBO 12.346 nats/dim" in lines[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3_723, "1:02:03"), (86_400, "1 day 0:00:00"), (273_600, "3 days 4:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
