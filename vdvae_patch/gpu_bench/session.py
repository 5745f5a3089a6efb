"""The cells one after the other, within a time: a process measures, and another one watches it.

A device that fails takes its process with it, and a compiler asks nobody how long it may take. So the cells are
measured in a process of their own, which leaves a file for each. The one that watches starts it again behind a cell
that ended it, and ends it when the time is over; what was going on then is measured last when the command is given
again.
"""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vdvae_patch import own_process
from vdvae_patch.errors import RunError
from vdvae_patch.gpu_bench.cells import Cell
from vdvae_patch.gpu_bench.measure import measure
from vdvae_patch.gpu_bench.results import Result, Results
from vdvae_patch.train.config import TrainConfig

_LOOK_EVERY = 0.1
_LEAVES = 3.0
"""Seconds before the end in which no cell is begun."""


def watch(
    results: Results,
    cells: list[Cell],
    start: Callable[[float], subprocess.Popen[bytes]],
    *,
    seconds: float,
    say: Callable[[str], None],
    describe: Callable[[Cell, Result], str],
    clock: Callable[[], float] = time.monotonic,
) -> list[Cell]:
    """Have the cells measured for so many seconds; those that are left out, in order.

    Args:
        start: starts a process that calls `work`, which may take that many seconds.

    Raises:
        RunError: the process ends without having begun a cell.
    """
    began = clock()
    said = {cell.name for cell in cells if results.done(cell)}
    if said:
        say(f"{len(said)} of {len(cells)} cells are measured already")

    def tell() -> None:
        for cell in cells:
            found = results.read(cell)
            if found is not None and found.state != "begun" and cell.name not in said:
                said.add(cell.name)
                say(f"[{clock() - began:4.0f} s] {describe(cell, found)}")

    while results.left(cells) and clock() - began < seconds - _LEAVES:
        before = {cell.name for cell in cells if results.read(cell) is not None}
        process = start(seconds - (clock() - began))
        try:
            while process.poll() is None and clock() - began < seconds:
                tell()
                time.sleep(_LOOK_EVERY)
        finally:
            cut_off = process.poll() is None
            if cut_off:
                process.kill()
            status = process.wait()
        tell()
        if cut_off or status == 0:
            break
        _note_death(results, cells, status, before)
        tell()
    return results.left(cells)


def _note_death(results: Results, cells: list[Cell], status: int, before: set[str]) -> None:
    """The cell that was going on has failed.

    Raises:
        RunError: the process ended before it began one, and would do so again.
    """
    begun = [cell for cell in cells if (found := results.read(cell)) is not None and found.state == "begun"]
    new = [cell for cell in begun if cell.name not in before] or begun
    if not new:
        raise RunError(f"the process that measures ended with status {status} before it began a cell, and said")
    for cell in new:
        results.write(cell, Result("failed", {}, 0.0, f"its process ended with status {status}; see log.txt"))


def work(
    config: TrainConfig[Any],
    results: Results,
    cells: list[Cell],
    device: torch.device,
    *,
    seconds: float,
    command: Callable[[int, Path], Sequence[str]],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Measure what is left, each cell until its file is written, until the time is over.

    Raises:
        RuntimeError: the device has failed, and with it all that comes behind.
    """
    began = clock()
    # the first cells are asked for by the goals: they may take more of the time than those that fill the table
    share = max(1.0, seconds / 40)
    for cell in results.left(cells):
        if clock() - began > seconds - _LEAVES:
            return
        results.write(cell, Result("begun", {}))
        started = clock()
        print(f"--- {cell.name}", flush=True)
        try:
            values = measure(
                config, cell, device, seconds=share, folder=results.folder / "work" / cell.name, command=command,
                clock=clock,
            )  # fmt: skip
            result = Result("done", values, clock() - started)
        except Exception as error:  # a cell that fails, as for want of memory, must not take the others with it
            traceback.print_exc()
            said = (str(error).strip().splitlines() or [""])[0]
            result = Result("failed", {}, clock() - started, f"{type(error).__name__}: {said}"[:300])
        results.write(cell, result)
        _forget_compiled(device)


def _forget_compiled(device: torch.device) -> None:
    """Free what a cell held: graphs, compiled code and the device's cache."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a device that has failed says so here, and not in the next cell
        torch.cuda.empty_cache()


def command_line(argv: Sequence[str], folder: Path, part: str, seconds: float) -> list[str]:
    """The same command again, for one of its parts."""
    own = ["--out", str(folder), "--seconds", str(seconds), "--part", part]
    return own_process.command("bench", *argv, *own)
