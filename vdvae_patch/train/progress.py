"""What a run says while it goes: two live lines in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from vdvae_patch.errors import visible
from vdvae_patch.train.step import StepRecord

QUIET_SECONDS = 15.0
_LABEL, _BAR = 40, 20


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
        self.label = visible(label)
        self.total = self.first = 0
        self.started = self.said = clock()
        self._bar: _Bar | None = None
        self._task = TaskID(0)

    def begin(self, total: int, done: int) -> None:
        """`total` steps to do in all, of which an earlier process did `done`."""
        self.total, self.first = total, done
        self.started = self.said = self.clock()
        if self.console.is_terminal:
            self._bar = _Bar(self.console)
            self._task = self._bar.add_task(self.label, total=total, completed=done, left="")
            self._bar.start()

    def update(
        self, record: StepRecord, high_gradients: int, nans: int, images_per_second: float, loss_scales: int = 0
    ) -> None:
        """Show the state after a step."""
        done = record.step + 1
        now = self.clock()
        left = duration((now - self.started) / max(1, done - self.first) * (self.total - done))
        status = (
            f"NELBO {record.elbo:.3f} nats/dim", f"skipped {skips(high_gradients, nans, loss_scales)}",
            f"{images_per_second:.1f} images/s", f"distortion {record.distortion:.3f} + rate {record.rate:.3f}",
        )  # fmt: skip
        if self._bar is not None:
            self._bar.status = _Parts(status)
            self._bar.update(self._task, completed=done, left=f"{left} left")
        elif now - self.said >= QUIET_SECONDS or done == self.total:
            self.said = now
            self.say(f"step {done}/{self.total}, {left} left, {', '.join(status)}")

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(visible(f"{self.label}: {text}"), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def skips(high_gradients: int, nans: int, loss_scales: int) -> str:
    """`12 high-gradient + 3 NaN`, and where there are any those of fp16, which are of neither."""
    return f"{high_gradients} high-gradient + {nans} NaN" + (f" + {loss_scales} loss-scale" if loss_scales else "")


def duration(seconds: float) -> str:
    """`"0:00:07"`, `"11:02:33"`, `"3 days 4:00:00"`."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return clock if not days else f"{days} day{'s' if days > 1 else ''} {clock}"


class _Bar(Progress):
    """Label, bar, step and time left in one line, of which the label gives way first; the status in a second one."""

    def __init__(self, console: Console) -> None:
        self.status: RenderableType = ""
        shown = Column(no_wrap=True, overflow="ellipsis", max_width=_LABEL, ratio=2)
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=shown),
            BarColumn(bar_width=None, table_column=Column(max_width=_BAR, ratio=1)),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=console, expand=True,
        )  # fmt: skip

    def get_renderables(self) -> Iterable[RenderableType]:
        """Both lines."""
        yield from super().get_renderables()
        yield self.status


class _Parts:
    """Parts of a line, the most important first: as many as there is room for."""

    def __init__(self, parts: Iterable[str]) -> None:
        self.parts = tuple(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = ""
        for part in self.parts:
            longer = f"{line}, {part}" if line else part
            if len(longer) > options.max_width and line:
                break
            line = longer
        yield Text(line, no_wrap=True, overflow="ellipsis")
