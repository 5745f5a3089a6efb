"""Folders of runs as training leaves them, written by the code that training writes them with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.compare.options import CompareOptions
from vdvae_patch.compare.plan import Comparison, PlannedRun, plan
from vdvae_patch.skips.records import JsonLines
from vdvae_patch.train.folder import open_folder, write_config, write_json

FLAGS = ("--preset", "small", "--data", "builtin", "--steps", "6")
SEEN = {"command": "python -m vdvae_patch train", "commit": "abc", "data": {"fingerprint": "f00d", "source": "drawn"}}


def make_plan(out: Path, variants: str = "vanilla,explin/constant", seeds: str = "0,1", *more: str) -> Comparison:
    """A comparison of short runs."""
    flags = [*FLAGS, *more]
    return plan(CompareOptions(variants=variants, seeds=seeds, out=out), flags, parse_train(flags))


def write_run(
    run: PlannedRun,
    causes: Sequence[str | None] = (None,) * 6,
    *,
    nelbo: float | None = 4.0,
    elbo: Sequence[float] | None = None,
    per_epoch: int = 2,
    checkpoint: bool = False,
    **summary: Any,
) -> None:
    """A run that did one step for each of `causes`; without a summary if `nelbo` is None."""
    folder = open_folder(run.config, resume=False)
    write_config(folder, run.config, SEEN)
    log = JsonLines(folder.metrics)
    for step, cause in enumerate(causes):
        value = elbo[step] if elbo is not None else math.nan if cause == "nan_rate" else 6.0 - 0.1 * step
        log.write({"step": step, "epoch": step // per_epoch, "elbo": value, "skipped": bool(cause), "cause": cause})
    log.close()
    if checkpoint:
        (folder.checkpoints / "step-00000002").mkdir(parents=True)
    if nelbo is not None:
        write_json(folder.summary, _summary(run, causes, nelbo) | summary, checksum=True)
    folder.close()


def _summary(run: PlannedRun, causes: Sequence[str | None], nelbo: float) -> dict[str, Any]:
    return {
        "variant": run.config.variant,
        "seed": run.config.seed,
        "steps": len(causes),
        "high_gradient_count": sum(cause == "high_gradient" for cause in causes),
        "nan_count": sum(cause in ("nan_rate", "nan_distortion") for cause in causes),
        "test_nelbo_nats_per_dim": nelbo,
        "test_nelbo_bits_per_dim": nelbo / math.log(2),
        "test": {"elbo": nelbo, "filtered_elbo": 3.5, "bad_batches": int(not math.isfinite(nelbo)), "images": 64},
        "images_per_second": 100.0,
        "peak_memory_bytes": 2**29,
        "run": SEEN,
    }
