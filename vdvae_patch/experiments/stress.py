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
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.data import load
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.adam import AdamSettings
from vdvae_patch.experiments.data import Images, pick_device, ten_images
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Rule, Run
from vdvae_patch.experiments.noise import draws
from vdvae_patch.experiments.options import Stress
from vdvae_patch.experiments.remedies import REMEDIES, Remedy, find
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.experiments.spectral import SpectrallyRegularized
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.reading import Reading
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.train.interrupts import EXIT_RESUME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGH_NORM = 400.0
LAST = 20  # steps that the final NELBO is averaged over


@dataclass(frozen=True)
class Protocol:
    """Size of the model and of the test; the rest is as in VDVAE's cifar10 preset."""

    image_size: int
    width: int
    enc_blocks: str
    dec_blocks: str
    batch_size: int
    steps: int
    seeds: int
    lr: tuple[float, ...]
    warmup: int = 100


FULL = Protocol(
    image_size=32,
    width=64,
    enc_blocks="32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1",
    dec_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16,32x2",
    batch_size=16,
    steps=300,
    seeds=10,
    lr=(1e-2, 1.5e-2, 2e-2),
)
# Images pooled to 8x8 and half the width: 30 times cheaper a step, and it breaks at about twice the learning rate.
QUICK = Protocol(
    image_size=8,
    width=32,
    enc_blocks="8x2,8d2,4x2,4d4,1x1",
    dec_blocks="1x1,4m1,4x2,8m4,8x2",
    batch_size=8,
    steps=150,
    seeds=5,
    lr=(1e-2, 5e-2),
)


def run(options: Stress) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    protocol = _protocol(options)
    chosen = [find(name) for name in options.remedies] or list(REMEDIES)
    folder = options.folder("stress-quick" if options.quick else "stress")
    tasks = [_Task(remedy, protocol, options, folder) for remedy in chosen]
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


def _protocol(options: Stress) -> Protocol:
    protocol = QUICK if options.quick else FULL
    given: dict[str, Any] = {"seeds": options.seeds, "steps": options.steps, "lr": options.lr or None}
    chosen = replace(protocol, **{name: value for name, value in given.items() if value is not None})
    if chosen.steps <= LAST or chosen.seeds < 1 or options.jobs < 1:
        raise InvalidValueError(f"stress needs more than {LAST} steps, a seed and a job at least")
    return chosen


def _train_one_thread(task: _Task, place: str) -> Result | None:
    torch.set_num_threads(1)
    return _train(task, place)


def _train(task: _Task, place: str) -> Result | None:
    protocol, options = task.protocol, task.options
    settings = {**asdict(protocol), "lr": list(protocol.lr), "upstream": options.upstream or "embedded"}
    session = Session(task.folder, settings, options.minutes)
    runs = [Run(seed, lr) for lr in protocol.lr for seed in range(protocol.seeds)]
    key = re.sub(r"\W+", "-", task.remedy.name)
    return session.train(
        key, lambda: _ensemble(task, runs), protocol.steps, lambda e: summarize(e, protocol.steps), place=place
    )


def _ensemble(task: _Task, runs: Sequence[Run]) -> Ensemble:
    remedy, protocol = task.remedy, task.protocol
    device = pick_device(task.options.device)
    rule = Rule(AdamSettings(0.9, 0.9, wd=0.01), protocol.warmup, remedy.clip, remedy.skip)
    batches = _Batches(task.options.data_root, [run.seed for run in runs], protocol, device)
    builder = _Builder(remedy, protocol, task.options.upstream)
    return Ensemble(runs, builder, batches, rule, device=device, high_norm=HIGH_NORM)


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
        heads = self.host.heads(model) if reading == Reading() else self.entry.heads_reading(model, reading)
        vdvae_patch.patch(model, self.remedy.variant, heads=heads, arithmetic=self.remedy.arithmetic)
        if not self.remedy.spectral:
            return model
        return SpectrallyRegularized(model, self.remedy.spectral / (3 * p.image_size**2))


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
        pixels = self.images.take(seeds, draws(seeds, step, 10, self.size).to(self.device))
        batch = self.normalization.apply(pixels)
        return batch.input, batch.target


def _pool(pixels: Tensor, size: int) -> Tensor:
    small = F.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), pixels.shape[1] // size)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)


def summarize(ensemble: Ensemble, steps: int) -> Result:
    """Counts and the final NELBO of every run."""
    final = ensemble.trace()[-LAST:].double().mean(0).tolist()
    nan, high = ensemble.nan_steps.tolist(), ensemble.high_steps.tolist()
    rows = []
    for index, run_ in enumerate(ensemble.runs):
        failure = ensemble.failures.get(index)
        # a run that applies its NaN updates never comes back
        count = nan[index] if failure is None else steps - failure.step
        value = final[index] if failure is None and math.isfinite(final[index]) else None
        rows.append({"seed": run_.seed, "lr": run_.lr, "nan": count, "high": high[index], "nelbo": value})
    return {"runs": rows}


def build_report(done: Sequence[tuple[Remedy, Result]], protocol: Protocol, options: Stress) -> Report:
    """One table: a row a remedy, the counts at every learning rate."""
    header = ["remedy", "from"]
    for lr in protocol.lr:
        header += [f"{lr:g}: clean runs", f"{lr:g}: NaN steps", f"{lr:g}: high gradients", f"{lr:g}: median NELBO"]
    rows: list[tuple[Cell, ...]] = []
    for remedy, result in done:
        cells: list[Cell] = [remedy.name, remedy.source]
        for lr in protocol.lr:
            cells += _cells([row for row in result["runs"] if row["lr"] == lr])
        rows.append(tuple(cells))
    return Report(
        "stress-quick" if options.quick else "stress",
        "Stress test: which remedy survives a raised learning rate",
        _introduction(protocol),
        (Table("remedies", "Remedies", tuple(header), tuple(rows)),),
        Origin.of(pick_device(options.device), range(protocol.seeds), [result for _, result in done]),
        (_ranking(done, protocol),),
    )


def _cells(rows: list[dict[str, Any]]) -> list[Cell]:
    clean = sum(row["nan"] == 0 and row["high"] == 0 for row in rows)
    values = [math.inf if row["nelbo"] is None else row["nelbo"] for row in rows]
    middle = median(values)
    nelbo = number(middle) if math.isfinite(middle) else "not finite"
    return [f"{clean}/{len(rows)}", sum(r["nan"] for r in rows), sum(r["high"] for r in rows), nelbo]


def _introduction(p: Protocol) -> str:
    return (
        f"VDVAE of width {p.width}, 8 latent channels, decoder `{p.dec_blocks}`, encoder `{p.enc_blocks}`, on 10 "
        f"random CIFAR-10 images a seed at {p.image_size}x{p.image_size}, batches of {p.batch_size}, {p.steps} steps, "
        f"AdamW with betas (0.9, 0.9) and weight decay 0.01, warm-up over {p.warmup} steps; clipped at 200 and skipped "
        f"at {HIGH_NORM:g} unless the remedy says otherwise. {p.seeds} seeds at each learning rate. A run is clean if "
        f"it had no NaN step and no gradient norm of {HIGH_NORM:g} or more, whether or not that step was skipped. "
        "A skipped update leaves the weights where they are, so a model whose gradient stays high is skipped to its "
        f"end. NELBO is the mean of the last {LAST} steps in nats per dimension, the median over seeds."
    )


def _ranking(done: Sequence[tuple[Remedy, Result]], protocol: Protocol) -> str:
    """Per learning rate the remedies with the fewest bad steps, and what they cost where nothing breaks."""
    lines = []
    for lr in protocol.lr:
        scores = []
        for remedy, result in done:
            rows = [row for row in result["runs"] if row["lr"] == lr]
            nan, high = (sum(row[kind] for row in rows) for kind in ("nan", "high"))
            scores.append((nan + high, nan, remedy.name))
        untouched = [name for bad, _, name in scores if bad == 0]
        without_nan = [name for _, nan, name in scores if nan == 0]
        if len(untouched) == len(scores):
            lines.append(f"- learning rate {lr:g}: nothing broke, with any of the {len(scores)} remedies.")
            continue
        best = ", ".join(f"{name} ({bad} bad steps)" for bad, _, name in sorted(scores)[:5])
        lines.append(
            f"- learning rate {lr:g}: {len(untouched)} of {len(scores)} remedies had neither NaN nor a high gradient "
            f"in any seed, {len(without_nan)} no NaN. Fewest of both together: {best}."
        )
    return "\n".join([*lines, *_cost(done, min(protocol.lr))])


def _cost(done: Sequence[tuple[Remedy, Result]], lr: float) -> list[str]:
    """The NELBO of every remedy against vanilla's at a learning rate, seed by seed; none if vanilla is not there."""
    final = {
        remedy.name: {row["seed"]: row["nelbo"] for row in result["runs"] if row["lr"] == lr} for remedy, result in done
    }
    vanilla = final.pop("vanilla", {})
    costs = []
    for name, values in final.items():
        pairs = [(values[s], vanilla[s]) for s in values if values[s] is not None and vanilla.get(s) is not None]
        if pairs:
            costs.append((median(ours - theirs for ours, theirs in pairs), name))
    if not costs:
        return []
    (low, first), (high, last) = min(costs), max(costs)
    return [
        f"- cost in NELBO at learning rate {lr:g}, median over seeds of the difference to vanilla in nats per "
        f"dimension: from {low:+.3f} ({first}) to {high:+.3f} ({last})."
    ]


def draw(done: Sequence[tuple[Remedy, Result]], protocol: Protocol) -> Figure:
    """Bars of bad steps, a panel a learning rate; NaN and high gradients stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 + 2.6 * len(protocol.lr), 1.2 + 0.3 * len(done)))
    axes = figure.subplots(1, len(protocol.lr), sharey=True, squeeze=False)[0]
    names = [remedy.name for remedy, _ in done]
    total = protocol.seeds * protocol.steps
    for axis, lr in zip(axes, protocol.lr, strict=True):
        parts = {"nan": "NaN", "high": "high gradient"}
        left = [0.0] * len(done)
        for (part, label), color in zip(parts.items(), ("#b2182b", "#f4a582"), strict=True):
            share = [100 * sum(r[part] for r in result["runs"] if r["lr"] == lr) / total for _, result in done]
            axis.barh(names, share, left=left, color=color, label=label)
            left = [a + b for a, b in zip(left, share, strict=True)]
        axis.set(title=f"learning rate {lr:g}", xlabel="% of all steps", xlim=(0, max(5.0, *left) * 1.05))
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    axes[-1].legend(loc="lower right", fontsize="small")
    figure.tight_layout()
    return figure
