"""One cell, measured: what each kind of them does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vdvae_patch.benchmark import synchronize
from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.gpu_bench.bounds import count_work, peaks_of
from vdvae_patch.gpu_bench.cells import Cell
from vdvae_patch.gpu_bench.exactness import replay_exactness, resume_exactness
from vdvae_patch.gpu_bench.seeds import measure_seeds
from vdvae_patch.gpu_bench.settings import settings_of
from vdvae_patch.gpu_bench.steps import measure_steps
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.evaluate import evaluate
from vdvae_patch.train.numerics import numerics
from vdvae_patch.train.setup import prepare

EVALUATED = 1024
"""Images of an evaluation that is timed, or as many as there are."""


def measure(
    config: TrainConfig[Any],
    cell: Cell,
    device: torch.device,
    *,
    seconds: float,
    folder: Path,
    command: Callable[[int, Path], Sequence[str]],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Plain values for the cell's file.

    Args:
        seconds: about how long its rounds may take.
        folder: for what it writes meanwhile.
        command: what starts the process of a seed, for two of them side by side, that leaves its count in a folder.
    """
    if cell.kind == "steps":
        return measure_steps(config, cell, device, seconds=seconds, clock=clock)
    if cell.kind == "work":
        return {"work": count_work(config, device).record(), "peaks": asdict(peaks_of(device, clock))}
    if cell.kind == "evaluation":
        return _evaluation(config, cell, device, clock)
    if cell.kind == "seeds":
        return measure_seeds(config, cell, device, folder, command)
    exactness = resume_exactness if cell.kind == "resume" else replay_exactness
    return exactness(settings_of(config, cell), folder)


def _evaluation(
    config: TrainConfig[Any], cell: Cell, device: torch.device, clock: Callable[[], float]
) -> dict[str, Any]:
    """The second evaluation of the same images, and the bound that it finds."""
    settings = settings_of(config, cell)
    work = prepare(settings, device)
    images = DeviceImages(work.data.train, device)
    limit = min(EVALUATED, len(images))
    seconds = []
    with numerics(device, settings.matmul, settings.deterministic):
        for _ in range(2):
            synchronize(device)
            began = clock()
            found = evaluate(
                work.entry, work.ema, images, work.data.normalization, batch_size=cell.batch, seed=config.seed,
                limit=limit, precision=settings.precision,
            )  # fmt: skip
            seconds.append(clock() - began)
    return {
        "images": limit,
        "images_per_second": limit / seconds[-1],
        "nelbo": found.elbo,
        "placement": images.placement,
    }
