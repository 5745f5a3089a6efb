"""Steps of several contenders, in turns: time, memory, launches, and how long the compiler took."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from vdvae_patch import fused
from vdvae_patch.benchmark import PLAIN, batches_of, interval_of_median, our_step, peak_bytes, plain_step, synchronize
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.gpu_bench.cells import FUSED, Cell
from vdvae_patch.gpu_bench.launches import count_launches
from vdvae_patch.gpu_bench.settings import settings_of
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.numerics import numerics
from vdvae_patch.train.setup import prepare

_BATCHES = 4
_WARM_UP = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 20
_STEPS_A_ROUND = 3
"""Steps between two waits for the device: a wait after each would be of the measurement, not of the training."""


@dataclass
class _Contender:
    name: str
    step: Callable[[int, ModelBatch], None]
    first_step: float = 0.0
    held: int | None = None
    times: list[float] = field(default_factory=list)
    done: int = 0

    def go_on(self, batches: list[ModelBatch]) -> None:
        """The next step: our step looks at what waits on the device by the number of the step."""
        self.step(self.done, batches[self.done % len(batches)])
        self.done += 1


def measure_steps(
    config: TrainConfig[Any],
    cell: Cell,
    device: torch.device,
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """One row a contender, in the order of the cell.

    Args:
        seconds: no round begins after so many, once three are done.
    """
    settings = settings_of(config, cell)
    with numerics(device, settings.matmul, settings.deterministic), fused.use(cell.way in FUSED):
        contenders: list[_Contender] = []
        batches: list[ModelBatch] = []
        for name in cell.contenders:
            contender, batches = _built(name, settings, batches, device, clock)
            contenders.append(contender)
        orders, began, rounds = random.Random(0), clock(), 0
        while rounds < _MOST_ROUNDS and (rounds < _LEAST_ROUNDS or clock() - began < seconds):
            for contender in orders.sample(contenders, len(contenders)):
                contender.times.append(_timed(contender, batches, device, clock))
            rounds += 1
        rows = [_row(contender, contenders[0], cell, batches, device) for contender in contenders]
    return {"rounds": rounds, "steps_a_round": _STEPS_A_ROUND, "rows": rows}


def _built(
    name: str,
    settings: TrainConfig[Any],
    batches: list[ModelBatch],
    device: torch.device,
    clock: Callable[[], float],
) -> tuple[_Contender, list[ModelBatch]]:
    """A contender that has done its first steps, which compile, choose algorithms and allocate the moments."""
    gc.collect()
    before = _reserved(device)
    work = prepare(replace(settings, variant="vanilla" if name == PLAIN else name), device)
    batches = batches or batches_of(work, settings, device, _BATCHES)
    step = plain_step(work, settings) if name == PLAIN else our_step(work, settings, device)
    contender = _Contender(name, step)
    for number in range(_WARM_UP):
        began = clock()
        contender.go_on(batches)
        synchronize(device)
        if number == 0:
            contender.first_step = clock() - began
    after = _reserved(device)
    contender.held = None if before is None or after is None else after - before
    return contender, batches


def _timed(contender: _Contender, batches: list[ModelBatch], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds a step, of a few steps between two waits."""
    synchronize(device)
    began = clock()
    for _ in range(_STEPS_A_ROUND):
        contender.go_on(batches)
    synchronize(device)
    return (clock() - began) / _STEPS_A_ROUND


def _row(
    contender: _Contender, reference: _Contender, cell: Cell, batches: list[ModelBatch], device: torch.device
) -> dict[str, Any]:
    peak = peak_bytes(lambda _, same: contender.go_on(same), 0, batches, device)
    launches = count_launches(lambda: contender.go_on(batches), device)
    ratios = [a / b for a, b in zip(contender.times, reference.times, strict=True)]
    low, high = interval_of_median(ratios)
    median = statistics.median(contender.times)
    return {
        "contender": contender.name,
        "seconds": median,
        "least_seconds": min(contender.times),
        "most_seconds": max(contender.times),
        "images_per_second": cell.batch / median,
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "first_step_seconds": contender.first_step,
        "peak_bytes": peak,
        "reserved_bytes": contender.held,
        **asdict(launches),
    }


def _reserved(device: torch.device) -> int | None:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None
