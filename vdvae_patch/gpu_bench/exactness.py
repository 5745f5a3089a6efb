"""Whether the device gives the same again: a run that is cut and resumed, and skipped updates that are replayed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vdvae_patch.skips.records import read
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import replay

STEPS = 4
_NOT_COMPARED = ("step_time", "_check")


def resume_exactness(config: TrainConfig[Any], folder: Path) -> dict[str, Any]:
    """Twice as many steps at once, and in two halves: where the logs part, and how far the last weights are apart."""
    shutil.rmtree(folder, ignore_errors=True)
    at_once, halves = _short(config, folder / "at-once", 2 * STEPS), _short(config, folder / "halves", STEPS)
    train(at_once)
    train(halves)
    train(replace(halves, steps=2 * STEPS, resume=True))
    logs = [_log(run.folder) for run in (at_once, halves)]
    parted = next((number for number, (a, b) in enumerate(zip(*logs, strict=True)) if a != b), None)
    states = [checkpoint.newest(run.folder / "checkpoints").state["model"] for run in (at_once, halves)]
    apart = _largest_difference(*states)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "exact": parted is None and apart == 0, "steps": 2 * STEPS, "resumed_after": STEPS, "logs_part_at_step": parted,
        "largest_difference_of_weights": apart,
    }  # fmt: skip


def replay_exactness(config: TrainConfig[Any], folder: Path) -> dict[str, Any]:
    """Updates that a low threshold skips, done again from their recordings: how many have the same loss and norm."""
    shutil.rmtree(folder, ignore_errors=True)
    optimization = replace(config.optimization, skip_threshold=1e-9)
    run = replace(_short(config, folder / "skips", STEPS), optimization=optimization, record_skips=STEPS)
    train(run)
    found = []
    for path in flight.recordings(run.folder / "recordings"):
        recording = flight.read(path)
        again = replay(run, recording)
        own, now = recording.record, again.record
        found.append((again.exact, abs(own.grad_norm - now.grad_norm) / own.grad_norm, abs(own.elbo - now.elbo)))
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "exact": bool(found) and all(exact for exact, _, _ in found),
        "recorded": len(found),
        "exact_ones": sum(exact for exact, _, _ in found),
        "largest_relative_difference_of_norms": max((norm for _, norm, _ in found), default=math.nan),
        "largest_difference_of_nelbos": max((elbo for _, _, elbo in found), default=math.nan),
    }


def _short(config: TrainConfig[Any], out: Path, steps: int) -> TrainConfig[Any]:
    return replace(
        config, out=out, steps=steps, epochs=None, checkpoint_every=0, samples_every=0, evaluate_every=0, watch_every=0,
        test_images=min(2, config.optimization.batch_size), importance_samples=0, tensorboard=False, resume=False,
        max_consecutive_skips=10**6,
    )  # fmt: skip


def _log(folder: Path) -> list[str]:
    rows = list(read(folder / "metrics.jsonl"))
    kept = [{key: value for key, value in row.items() if key not in _NOT_COMPARED} for row in rows]
    return [json.dumps(row, sort_keys=True) for row in kept]  # texts, so that NaN equals NaN


def _largest_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel())
