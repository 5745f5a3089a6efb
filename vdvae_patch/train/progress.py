"""What a run says while it goes: a live line in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vdvae_patch.train.step import StepRecord

QUIET_SECONDS = 15.0


class TrainingProgress:
    """Counts skipped updates and shows the losses, the speed and the time left.

    Args:
        quiet: say nothing at all; for all ranks but the first.
        clock: seconds, passed in so that tests need not wait.
    """

    def __init__(
        self,
        label: str,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(file=sys.stderr, quiet=quiet)
        self.clock = clock
        self.label = label
        self.total = self.first = 0
        self.started = self.said = clock()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def begin(self, total: int, done: int) -> None:
        """`total` steps to do in all, of which an earlier process did `done`."""
        self.total, self.first = total, done
        self.started = self.said = self.clock()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"), console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task(self.label, total=total, completed=done, status="")
            self._bar.start()

    def update(self, record: StepRecord, high_gradients: int, nans: int, images_per_second: float) -> None:
        """Show the state after a step."""
        done = record.step + 1
        status = (
            f"NELBO {record.elbo:.3f} nats/dim (distortion {record.distortion:.3f} + rate {record.rate:.3f}), "
            f"skipped {high_gradients} high-gradient + {nans} NaN, {images_per_second:.1f} images/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, status=status)
        elif self.clock() - self.said >= QUIET_SECONDS or done == self.total:
            self.said = self.clock()
            left = (self.said - self.started) / max(1, done - self.first) * (self.total - done)
            self.say(f"step {done}/{self.total}, {status}, {left:.0f} s left")

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(f"{self.label}: {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
