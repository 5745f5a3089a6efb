"""`reproduce stress`: every remedy on a VDVAE that overfits ten images, at learning rates far above its own.

What takes days at VDVAE's own learning rate comes within minutes at a raised one. Per remedy and learning rate all
seeds are one ensemble. A run is clean if no step had a NaN and no gradient norm reached the skip threshold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.data import load
from vdvae_patch.experiments.adam import AdamSettings
from vdvae_patch.experiments.data import Images, pick_device, ten_images
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Rule, Run
from vdvae_patch.experiments.noise import draws
from vdvae_patch.experiments.options import Stress
from vdvae_patch.experiments.remedies import REMEDIES, Remedy, find
from vdvae_patch.experiments.report import publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.spectral import SpectrallyRegularized
from vdvae_patch.experiments.stress_protocol import HIGH_NORM, LAST, Protocol, chosen
from vdvae_patch.experiments.stress_report import build_report, draw, report_name
from vdvae_patch.experiments.under_objective import UnderObjective
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.means import MeanReading
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.patching import Variant
from vdvae_patch.train.interrupts import EXIT_RESUME


def run(options: Stress) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    protocol = chosen(options)
    remedies = [find(name) for name in options.remedies] or list(REMEDIES)
    folder = options.folder(report_name(protocol))
    tasks = [_Task(remedy, protocol, options, folder) for remedy in remedies]
    images = _Batches(options.data_root, range(protocol.seeds), protocol, torch.device("cpu")).images
    _session(tasks[0]).same_data("cifar10", images.pixels)
    if options.jobs == 1:
        results = [_train(task, f"{i}/{len(tasks)}") for i, task in enumerate(tasks, 1)]
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            places = [f"{i}/{len(tasks)}" for i in range(1, len(tasks) + 1)]
            results = list(pool.map(_train_one_thread, tasks, places))
    done = [(task.remedy, result) for task, result in zip(tasks, results, strict=True) if result is not None]
    if len(done) < len(tasks):
        print(f"{len(done)} of {len(tasks)} remedies are finished; the same command goes on from here")
        return EXIT_RESUME
    report = build_report(done, protocol, options)
    publish(report, folder, draw(done, protocol), to_docs=options.publish)
    return 0


@dataclass(frozen=True)
class _Task:
    remedy: Remedy
    protocol: Protocol
    options: Stress
    folder: Path


def _train_one_thread(task: _Task, place: str) -> Result | None:
    torch.set_num_threads(1)
    return _train(task, place)


def _train(task: _Task, place: str) -> Result | None:
    session, protocol = _session(task), task.protocol
    runs = [Run(seed, lr) for lr in protocol.lr for seed in range(protocol.seeds)]
    key = re.sub(r"\W+", "-", task.remedy.name)
    return session.train(
        key, lambda: _ensemble(task, runs), protocol.steps, lambda e: summarize(e, protocol.steps), place=place
    )


def _session(task: _Task) -> Session:
    protocol, options = task.protocol, task.options
    settings = {**asdict(protocol), "lr": list(protocol.lr), "upstream": options.upstream or "embedded"}
    return Session(task.folder, settings, options.minutes)


def _ensemble(task: _Task, runs: Sequence[Run]) -> Ensemble:
    remedy, protocol = task.remedy, task.protocol
    device = pick_device(task.options.device)
    rule = Rule(AdamSettings(0.9, 0.9, wd=0.01), protocol.warmup, remedy.clip, remedy.skip)
    batches = _Batches(task.options.data_root, [run.seed for run in runs], protocol, device)
    builder = _Builder(remedy, protocol, task.options.upstream)
    how = protocol.how if device.type == "cpu" else None
    return Ensemble(runs, builder, batches, rule, device=device, high_norm=HIGH_NORM, how=how)


class _Builder:
    """From a run to a model with the remedy on it."""

    def __init__(self, remedy: Remedy, protocol: Protocol, upstream: str | None) -> None:
        self.remedy, self.protocol = remedy, protocol
        self.host = load_host("vdvae", upstream)
        self.entry = trainable(self.host.entry)

    def __call__(self, run: Run) -> nn.Module:
        p = self.protocol
        architecture = replace(
            self.entry.preset("small").architecture, width=p.width, enc_blocks=p.enc_blocks, dec_blocks=p.dec_blocks
        )
        torch.manual_seed(run.seed)
        model = self.host.build(
            self.entry.hyperparameters(architecture, image_size=p.image_size, image_channels=3, data="cifar10")
        )
        reading = self.remedy.reading
        heads = self.host.heads(model) if reading == MeanReading() else self.entry.heads_reading(model, reading)
        variant = Variant.parse(self.remedy.variant)
        vdvae_patch.patch(model, variant.of_model, heads=heads, arithmetic=self.remedy.arithmetic)
        if variant.decoder is not None or variant.objective is not None:
            return UnderObjective.of(variant, self.host, model)
        if not self.remedy.rate:
            return DistortionAlone(model)
        if not self.remedy.spectral:
            return model
        return SpectrallyRegularized(model, self.remedy.spectral / (3 * p.image_size**2))


class DistortionAlone(nn.Module):
    """A model whose forward returns scalars; the distortion is minimised, the rate only reported."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.model(*batch)
        return {**out, "objective": out["distortion"]}


class _Batches:
    """Batches of a seed's ten images, average-pooled to the protocol's size and rounded."""

    def __init__(self, root: Path | None, seeds: Sequence[int], protocol: Protocol, device: torch.device) -> None:
        data = load("cifar10", root)
        self.normalization = data.normalization
        self.size = protocol.batch_size
        images = {seed: ten_images(data.train, seed) for seed in sorted(set(seeds))}
        self.images = Images({seed: _pool(rows, protocol.image_size) for seed, rows in images.items()}, device)
        self.device = device

    def __call__(self, seeds: Sequence[int], step: int) -> Batch:
        pixels = self.images.take(seeds, draws(seeds, step, 10, self.size, self.device))
        batch = self.normalization.apply(pixels)
        return batch.input, batch.target


def _pool(pixels: Tensor, size: int) -> Tensor:
    small = F.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), pixels.shape[1] // size)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)


def summarize(ensemble: Ensemble, steps: int) -> Result:
    """Counts and the final NELBO of every run."""
    final = ensemble.trace()[-LAST:].double().mean(0).tolist()
    nan, high, skipped = (
        counts.tolist() for counts in (ensemble.nan_steps, ensemble.high_steps, ensemble.skipped_steps)
    )
    rows = []
    for index, run_ in enumerate(ensemble.runs):
        failure = ensemble.failures.get(index)
        # a run that applies its NaN updates never comes back
        count = nan[index] if failure is None else steps - failure.step
        value = final[index] if failure is None and math.isfinite(final[index]) else None
        counts = {"nan": count, "high": high[index], "skipped": skipped[index]}
        rows.append({"seed": run_.seed, "lr": run_.lr, **counts, "nelbo": value})
    return {"runs": rows}
