"""Two seeds side by side: two processes that train at once on one device, against one that has it alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vdvae_patch.benchmark import batches_of, our_step, synchronize
from vdvae_patch.errors import RunError
from vdvae_patch.gpu_bench.cells import Cell
from vdvae_patch.gpu_bench.settings import settings_of
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.numerics import numerics
from vdvae_patch.train.setup import prepare

SECONDS = 5.0
"""How long steps are counted."""

_PATIENCE = 120.0

Command = Callable[[int, Path], Sequence[str]]


def measure_seeds(
    config: TrainConfig[Any], cell: Cell, device: torch.device, folder: Path, command: Command
) -> dict[str, Any]:
    """Images a second of one process, and of two at the same time.

    Args:
        folder: where the processes leave what they counted.
        command: from a seed and a folder, what starts the process of that seed, which calls `pace` on the folder.

    Raises:
        RunError: a process ended without a count.
    """
    rates = {count: _together(count, folder, command) for count in (1, 2)}
    per_second = {count: cell.batch * sum(rate) for count, rate in rates.items()}
    return {
        "images_per_second_alone": per_second[1],
        "images_per_second_of_two": per_second[2],
        "gain": per_second[2] / per_second[1],
        "seconds": SECONDS,
    }


def _together(count: int, folder: Path, command: Command) -> list[float]:
    """Steps a second of each of `count` processes, over a time in which all of them were at work."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    processes = [subprocess.Popen(list(command(seed, folder))) for seed in range(count)]
    try:
        _wait(lambda: all((folder / f"ready-{seed}").exists() for seed in range(count)), processes)
        (folder / "go").touch()
        for process in processes:
            process.wait(_PATIENCE)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    found = [folder / f"rate-{seed}" for seed in range(count)]
    if missing := [path.name for path in found if not path.exists()]:
        raise RunError(f"a process of two seeds ended without a count: {', '.join(missing)}")
    return [float(path.read_text()) for path in found]


def _wait(condition: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if any(process.poll() is not None for process in processes):
            raise RunError(f"a process of two seeds ended with status {[p.poll() for p in processes]}")
        if time.monotonic() > deadline:
            raise RunError(f"a process of two seeds was not ready after {_PATIENCE:.0f} s")
        time.sleep(0.02)


def pace(
    config: TrainConfig[Any],
    cell: Cell,
    device: torch.device,
    folder: Path,
    seed: int,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """What each of the processes does: get ready, wait for the other, and write its steps a second."""
    settings = replace(settings_of(config, cell), seed=seed)
    with numerics(device, settings.matmul, settings.deterministic):
        work = prepare(settings, device)
        batches = batches_of(work, settings, device, 4)
        step, number = our_step(work, settings, device), 0
        for _ in range(3):
            step(number, batches[number % 4])
            number += 1
        synchronize(device)
        (folder / f"ready-{seed}").touch()
        deadline = time.monotonic() + _PATIENCE
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        first, began = number, clock()
        while clock() - began < seconds:
            for _ in range(3):
                step(number, batches[number % 4])
                number += 1
            synchronize(device)
        rate = (number - first) / (clock() - began)
    partial = folder / f"rate-{seed}.part"
    partial.write_text(repr(rate))
    partial.rename(folder / f"rate-{seed}")
