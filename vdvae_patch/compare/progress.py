"""What a comparison says while it goes: live bars in a terminal, a line when a run begins or ends elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.results import collect
from vdvae_patch.compare.schedule import Ended
from vdvae_patch.compare.states import RunState
from vdvae_patch.compare.table import number
from vdvae_patch.errors import visible
from vdvae_patch.skips.records import parse_line
from vdvae_patch.train.progress import skips

_TAIL_BYTES = 4096
_HOW = {"absent": "begins", "begun": "goes on"}


class ComparisonProgress:
    """Watches runs through the last lines of their logs; use it as a context manager.

    Args:
        total: how many runs there are to do.
    """

    def __init__(self, total: int, console: Console) -> None:
        self.console, self.total, self.count = console, total, 0
        self._tasks: dict[Path, TaskID] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"), console=console, transient=True,
            )  # fmt: skip

    def __enter__(self) -> ComparisonProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begun(self, run: PlannedRun, state: RunState) -> None:
        """Say it, and show a bar."""
        if self._bars is not None:
            self._tasks[run.folder] = self._bars.add_task(escape(run.label), total=run.config.steps, status="starting")
        else:
            self._say(f"{run.label} {_HOW[state]}")

    def ended(self, ended: Ended) -> None:
        """Say how, with the numbers of a run that has a summary."""
        self.count += 1
        if self._bars is not None and (task := self._tasks.pop(ended.run.folder, None)) is not None:
            self._bars.remove_task(task)
        line = f"[{self.count}/{self.total}] {ended.run.label} {ended.how} after {ended.seconds:.0f} s"
        if ended.how in ("finished", "stopped"):
            (result,) = collect([ended.run])
            lost = skips(result.high_gradient, result.nan, result.loss_scale)
            line += f": skipped {lost} in {result.steps} steps"
            if result.nelbo is not None:
                line += f", test NELBO {number(result.nelbo)} nats/dim"
        self._say(f"{line}: {ended.message}" if ended.message else line)

    def tick(self, active: Sequence[PlannedRun]) -> None:
        """Read how far the runs have come."""
        if self._bars is None:
            return
        for run in active:
            if (record := _last_record(run.folder / "metrics.jsonl")) is not None:
                cause = f", skipped: {record['cause']}" if record["cause"] else ""
                status = f"NELBO {number(record['elbo'])} nats/dim{cause}"
                self._bars.update(self._tasks[run.folder], completed=record["step"] + 1, status=status)

    def _say(self, text: str) -> None:
        self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)


def _last_record(path: Path) -> dict[str, Any] | None:
    """The last whole line of a log that is being written."""
    try:
        with path.open("rb") as file:
            file.seek(-min(_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    if len(lines) < 3:  # fewer than one whole line behind the cut
        return None
    return parse_line(lines[-2] + b"\n").record
