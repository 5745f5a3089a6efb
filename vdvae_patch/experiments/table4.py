"""Table 4 and figures 2 and 3: VDVAE on CIFAR-10, six variants, three seeds, through `compare`.

With a budget, all variants do the same number of steps of the same preset, as many as the time allows: the longest
fair comparison. What was cut is said in the report.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vdvae_patch.compare.options import CompareOptions
from vdvae_patch.compare.plan import Comparison, plan
from vdvae_patch.compare.results import Row, Spread
from vdvae_patch.compare.run import Report as Compared
from vdvae_patch.compare.run import do_runs, write_report
from vdvae_patch.errors import RunError
from vdvae_patch.experiments.options import Table4
from vdvae_patch.experiments.published import mean_and_deviation, published
from vdvae_patch.experiments.report import PUBLISHED, Cell, Origin, Report, Table, publish
from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.reading.fields import parse_json, record
from vdvae_patch.skips.whole import write_whole
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.estimate import estimate
from vdvae_patch.train.interrupts import EXIT_RESUME, stop_requests
from vdvae_patch.train.world import resolve_device

EPOCHS = 300
# Mean and deviation of high gradients, NaN and test NELBO.
PAPER: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    variant: (
        mean_and_deviation(row["high_gradients"]),
        mean_and_deviation(row["nan"]),
        mean_and_deviation(row["nelbo"]),
    )
    for variant, row in published()["table4"].items()
}
# Of a budget, what is left for training and testing after starting processes and drawing.
_SHARE = 0.8
# Of that, what the test may take, at a forward pass in a third of a step.
_TESTING = 0.2
_FORWARD = 1 / 3
_TEST_IMAGES = 10_000  # that CIFAR-10 has


@dataclass(frozen=True)
class _Budget:
    """What every run does in a time: steps, test images (0: all), at a step of `step_seconds`.

    Attributes:
        minutes, runs: the time, and for how many runs; None in a file of before they were written.
    """

    steps: int
    test_images: int
    step_seconds: float
    minutes: float | None = None
    runs: int | None = None

    @classmethod
    def of(cls, seconds: float, step_seconds: float, batch_size: int, most: int) -> _Budget:
        """The most steps, up to `most`, that fit into the seconds of one run beside its test."""
        fitting = seconds / step_seconds
        batches = min(_TEST_IMAGES / batch_size, max(1, int(_TESTING * fitting / _FORWARD)))
        images = int(batches * batch_size)
        steps = max(1, min(int(fitting - _FORWARD * batches), most))
        return cls(steps, 0 if images >= _TEST_IMAGES else images, step_seconds)


def run(options: Table4) -> int:
    """Do what is left of the runs, and report; 75 if a signal asked to stop before the end."""
    name = options.report
    folder = options.folder(name)
    flags, base = _settings(options)
    budget = None
    if options.budget is not None:
        budget = _fit(options, base, folder)
        flags = [*flags, "--steps", str(budget.steps), "--test-images", str(budget.test_images)]
        base = replace(base, steps=budget.steps, test_images=budget.test_images, epochs=None)
    comparison = plan(_compare_options(options, folder), flags, base)
    console = Console()
    with stop_requests() as stop:
        ended = do_runs(comparison, console, stop)
    if stop:
        console.print(f"stopped by {stop.signal}; the same command goes on")
        return EXIT_RESUME
    compared = write_report(comparison)
    report = build_report(options, comparison, compared, budget)
    for target in (folder, PUBLISHED) if options.publish else (folder,):
        target.mkdir(parents=True, exist_ok=True)
        _copy_figures(compared, target, name)
    publish(report, folder, None, to_docs=options.publish)
    return 1 if any(end.how == "failed" for end in ended) else 0


def build_report(options: Table4, comparison: Comparison, compared: Compared, budget: _Budget | None) -> Report:
    """The table beside the paper's, with the two figures among the notes."""
    device = resolve_device(comparison.base.device)
    trained = sum(float(run.summary.get("train_seconds", 0)) for row in compared.rows for run in row.runs)
    commits = {str(run.seen.get("commit", "unknown")) for row in compared.rows for run in row.runs}
    places = [
        [f"{run.seen['machine']}, threads: {run.seen.get('threads', 'unknown')}", str(run.seen.get("torch", "unknown"))]
        for row in compared.rows
        for run in row.runs
        if "machine" in run.seen
    ]
    header = (
        "posterior / prior", "high gradients", "paper", "NaN", "paper", "test NELBO, nats/dim", "bits/dim", "paper",
        "difference", "within the paper's interval", "seeds",
    )  # fmt: skip
    of = "CIFAR-10" if options.data == "cifar10" else options.data
    figures = [f"![Figure 2: training NELBO and skipped updates]({options.report}-curves.png)"]
    if compared.gallery is not None:
        figures.append(f"![Figure 3: originals, reconstructions, samples]({options.report}-images.png)")
    return Report(
        options.report,
        f"{options.report[:-1].capitalize()} {options.report[-1]}: VDVAE on {of}",
        _introduction(options, comparison, budget),
        (Table("variants", "Skipped updates and test NELBO", header, tuple(map(_row, compared.rows))),),
        Origin.here(device, comparison.seeds, trained, commits, places),
        (*compared.sentences, *compared.notes, *figures),
    )


def _row(row: Row) -> tuple[Cell, ...]:
    paper = PAPER.get(row.variant)
    nelbo = paper[2] if paper else None
    difference = row.nats.mean - nelbo[0] if nelbo and row.nats.mean is not None else None
    inside = None if difference is None or nelbo is None else ("yes" if abs(difference) <= nelbo[1] else "no")
    published = [f"{mean:g} ± {std:g}" for mean, std in paper] if paper else [None, None, None]
    return (
        row.variant, _shown(row.high_gradient, 1), published[0], _shown(row.nan, 1), published[1], _shown(row.nats, 3),
        _shown(row.bits, 3), published[2], difference, inside,
        row.seeds if row.nats.count == row.seeds else f"{row.nats.count}/{row.seeds} with a finite NELBO",
    )  # fmt: skip


def _shown(spread: Spread, digits: int) -> str | None:
    if spread.mean is None:
        return None
    deviation = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:.{digits}f}{deviation}"


def _settings(options: Table4) -> tuple[list[str], TrainConfig[Any]]:
    """The flags of `train` that every run gets, and what they mean."""
    entry = trainable(HOSTS.get("vdvae"))
    preset = entry.preset(options.preset)
    optimization = preset.optimization if options.lr is None else replace(preset.optimization, lr=options.lr)
    chosen: dict[str, Any] = {"preset": options.preset, "data": options.data, "device": options.device or "auto"}
    if options.data_root is not None:
        chosen["data_root"] = options.data_root
    if options.limit_images is not None:
        chosen["limit_images"] = options.limit_images
    if options.nproc > 1:
        chosen["nproc"] = options.nproc
    chosen["max_consecutive_skips"] = 10**9  # the paper's runs go to their end, whatever is skipped
    if options.budget is None:
        chosen["epochs"] = options.epochs
    base: TrainConfig[Any] = TrainConfig(optimization=optimization, architecture=preset.architecture, **chosen)
    flags = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return (flags if options.lr is None else [*flags, "--lr", str(options.lr)]), base


def _compare_options(options: Table4, folder: Path) -> CompareOptions:
    return CompareOptions(
        variants=options.variants, seeds=options.seeds, jobs=options.jobs, threads=options.threads, out=folder
    )


def _fit(options: Table4, base: TrainConfig[Any], folder: Path) -> _Budget:
    """What each run does within the budget, from a measured step; the first call's choice."""
    chosen = folder / "budget.json"
    if chosen.exists():
        begun = record(_Budget, parse_json(chosen.read_bytes(), str(chosen), RunError), str(chosen), RunError)
        if begun.minutes not in (None, options.budget):
            raise RunError(
                f"the runs in {folder} were begun with --budget {begun.minutes:g}, and do {begun.steps:,} steps each; "
                "go on with that, or choose another --out"
            )
        return begun
    assert options.budget is not None
    planned = plan(_compare_options(options, folder), [], base)
    torch.set_num_threads(planned.threads)  # a step is measured with as many as a run has
    cost = estimate(replace(base, epochs=options.epochs))
    runs = len(planned.runs)
    seconds = _SHARE * options.budget * 60 * options.jobs / runs
    fitting = _Budget.of(seconds, cost.step_seconds, base.optimization.batch_size, cost.steps)
    budget = replace(fitting, minutes=float(options.budget), runs=runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(chosen, json.dumps(asdict(budget)) + "\n")
    return budget


def _introduction(options: Table4, comparison: Comparison, budget: _Budget | None) -> str:
    base = comparison.base
    cut = []
    if budget is not None:
        cut.append(
            f"{base.steps} steps a run instead of {EPOCHS} epochs, as many as {budget.runs or len(comparison.runs)} "
            f"runs do in {options.budget:g} minutes at {budget.step_seconds:.3g} s a step"
        )
        if budget.test_images:
            cut.append(f"tested on the first {budget.test_images:,} test images")
    elif options.epochs != EPOCHS:
        cut.append(f"{options.epochs} epochs instead of {EPOCHS}")
    if options.data != "cifar10":
        cut.append(f"data {options.data} instead of cifar10")
    if options.preset != "cifar10":
        cut.append(f"preset {options.preset} instead of cifar10")
    if options.lr is not None:
        cut.append(f"learning rate {options.lr:g} instead of the preset's")
    if options.limit_images is not None:
        cut.append(f"{options.limit_images} training images, drawn anew for each seed")
    if options.nproc != 2:
        images = options.nproc * base.optimization.batch_size
        processes = "1 process" if options.nproc == 1 else f"{options.nproc} processes"
        cut.append(f"{processes} instead of two GPUs, so batches of {images}")
    changes = f" Cut: {'; '.join(cut)}. Values are then not to be compared with the paper's." if cut else ""
    return (
        "Sections 7.3 and 7.4: the same weights, batches and noise for all variants of a seed. The paper: 300 epochs "
        "of CIFAR-10, seeds 0 to 2, two GPUs, the cifar10 preset; its NELBO is in nats whatever its label says."
        + changes
    )


def _copy_figures(compared: Compared, target: Path, name: str) -> None:
    for source, kind in ((compared.curves, "curves"), (compared.gallery, "images")):
        if source is None:
            continue
        for suffix in (".png", ".svg"):
            if (file := source.with_suffix(suffix)).exists():
                shutil.copyfile(file, target / f"{name}-{kind}{suffix}")
