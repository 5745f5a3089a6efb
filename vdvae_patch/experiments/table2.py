"""`reproduce table2`: the convolutional VAE that overfits ten images, posterior scale x decoder scale x learning rate.

Every pair of scales is an ensemble of all learning rates and seeds. NaiveExp is eq. 7 as it is written: σ = exp(p), and
log(exp(p)) wherever eq. 8 has log σ. A run failed if its loss was not finite at a step, or if its negative ELBO ends
orders of magnitude above normal: its mean over the last twentieth of the steps is above `FACTOR` times that of the
untrained model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import vdvae_patch
from vdvae_patch.data import load
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.data import Images, pick_device, ten_images
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Run
from vdvae_patch.experiments.memory import largest_chunk
from vdvae_patch.experiments.noise import draws
from vdvae_patch.experiments.options import Table2
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number, publish
from vdvae_patch.experiments.session import Result, Session
from vdvae_patch.hosts import load_host
from vdvae_patch.train.interrupts import EXIT_RESUME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSTERIORS = {"NaiveExp": "naiveexp", "Exp": "exp", "ExpLin": "explin", "UpBounded": "upbounded(1)"}
# Pixels are in [0, 1]: the bounds for 0..255, 1/√12 and 256, over 256.
DECODERS = {"NaiveExp": "naiveexp", "Exp": "exp", "Bounded": f"bounded({1 / (256 * math.sqrt(12))!r}, 1)"}
LEARNING_RATES = (0.008, 0.007, 0.006)
FACTOR = 10.0

# Failed of 10, in the order of DECODERS, by learning rate and posterior scale.
PAPER: dict[tuple[float, str], tuple[int, int, int]] = {
    (0.008, "NaiveExp"): (10, 10, 10),
    (0.008, "Exp"): (10, 7, 8),
    (0.007, "NaiveExp"): (10, 8, 9),
    (0.007, "Exp"): (4, 7, 3),
    (0.006, "NaiveExp"): (7, 9, 3),
    (0.006, "Exp"): (5, 6, 2),
}


@dataclass(frozen=True)
class Size:
    """How much of the experiment is done."""

    seeds: int = 10
    steps: int = 20_000
    batch_size: int = 512


FULL = Size()
QUICK = Size(seeds=3, steps=160, batch_size=16)


@dataclass(frozen=True)
class Row:
    """What became of one run; `nelbo` in nats per image, None if it is not finite."""

    posterior: str
    decoder: str
    lr: float
    seed: int
    first: float
    nelbo: float | None
    step: int | None
    cause: str | None

    def failed(self, threshold: float) -> bool:
        """NaN, or a negative ELBO above the threshold."""
        return self.cause is not None or self.nelbo is None or self.nelbo > threshold


def run(options: Table2) -> int:
    """Train what is left to train, and report if all of it is done; `EXIT_RESUME` if it is not."""
    size = _size(options)
    device = pick_device(options.device)
    folder = options.folder("table2-quick" if options.quick else "table2")
    session = Session(folder, asdict(size), options.minutes)
    batches = TenImages(load("cifar10", options.data_root).train, range(size.seeds), size.batch_size, device)
    parts = list(_parts(options, size, batches, device))
    rows: list[Row] = []
    results: list[Result] = []
    for place, part in enumerate(parts, 1):
        result = _train(session, part, batches, size.steps, device, f"{place}/{len(parts)}")
        if result is None:
            print(f"{place - 1} of {len(parts)} ensembles are finished; the same command goes on from here")
            return EXIT_RESUME
        rows += [Row(**row) for row in result["rows"]]
        results.append(result)
    report = build_report(rows, size, options, Origin.of(device, range(size.seeds), results))
    publish(report, folder, draw(rows), to_docs=options.publish)
    return 0


@dataclass(frozen=True)
class Part:
    """One ensemble: the names of its two scales, and its runs, which are those from `start` of the pair's."""

    posterior: str
    decoder: str
    start: int
    runs: tuple[Run, ...]

    @property
    def key(self) -> str:
        """Its file name. The range is in it: a piece that fits other chunks than the last one mixes nothing up."""
        return f"{self.posterior}-{self.decoder}-{self.start}-{self.start + len(self.runs)}"


def _train(
    session: Session, part: Part, batches: TenImages, steps: int, device: torch.device, place: str
) -> Result | None:
    def make() -> Ensemble:
        return Ensemble(part.runs, Builder(part.posterior, part.decoder), batches, device=device)

    def summarize(ensemble: Ensemble) -> Result:
        return {"rows": [asdict(row) for row in judge(ensemble, part.posterior, part.decoder)]}

    return session.train(part.key, make, steps, summarize, place=place)


def _size(options: Table2) -> Size:
    base = QUICK if options.quick else FULL
    size = Size(options.seeds or base.seeds, options.steps or base.steps, options.batch_size or base.batch_size)
    if size.steps < 20 or size.seeds < 1 or size.batch_size < 2:
        raise InvalidValueError("table2 needs at least 20 steps, one seed and batches of 2 for batch normalization")
    return size


def _parts(options: Table2, size: Size, batches: TenImages, device: torch.device) -> Iterator[Part]:
    """Every ensemble: all runs of a pair of scales, or as many as one computation holds."""
    runs = tuple(Run(seed, lr) for lr in LEARNING_RATES for seed in range(size.seeds))

    def first(count: int) -> Ensemble:
        return Ensemble(runs[:count], Builder("UpBounded", "Bounded"), batches, device=device)

    chunk = options.chunk or largest_chunk(first, len(runs), device)
    for posterior in POSTERIORS:
        for decoder in DECODERS:
            for start in range(0, len(runs), chunk):
                yield Part(posterior, decoder, start, runs[start : start + chunk])


class Builder:
    """From a run to a convolutional VAE with a pair of scales."""

    def __init__(self, posterior: str, decoder: str) -> None:
        self.variant = f"{POSTERIORS[posterior]}/vanilla/{DECODERS[decoder]}"
        self.host = load_host("conv_vae")

    def __call__(self, run: Run) -> nn.Module:
        torch.manual_seed(run.seed)
        model = self.host.build({"channels": 3})
        # stable: the host's own functions of a raw scale are replaced, for Exp too, which its heads otherwise are
        vdvae_patch.patch(model, self.variant, heads=self.host.heads(model), arithmetic="stable")
        return model


class TenImages:
    """Batches drawn from each seed's own ten images, `[R, B, 3, 32, 32]` in [0, 1]."""

    def __init__(self, pixels: Any, seeds: Sequence[int], batch_size: int, device: torch.device) -> None:
        self.images = Images({seed: ten_images(pixels, seed).permute(0, 3, 1, 2) for seed in seeds}, device)
        self.batch_size, self.device = batch_size, device

    def __call__(self, seeds: Sequence[int], step: int) -> Batch:
        pixels = self.images.take(seeds, draws(seeds, step, 10, self.batch_size).to(self.device))
        return (pixels.float() / 255,)


def judge(ensemble: Ensemble, posterior: str, decoder: str) -> list[Row]:
    """What became of every run of a finished ensemble."""
    trace = ensemble.trace()
    final = trace[-max(20, len(trace) // 20) :].double().mean(0).tolist()
    first = trace[0].tolist()
    rows = []
    for index, run_ in enumerate(ensemble.runs):
        failure = ensemble.failures.get(index)
        step, cause = (None, None) if failure is None else (failure.step, failure.cause)
        nelbo = final[index] if math.isfinite(final[index]) else None
        rows.append(Row(posterior, decoder, run_.lr, run_.seed, first[index], nelbo, step, cause))
    return rows


def threshold(rows: Sequence[Row]) -> float:
    """Negative ELBO in nats per image above which a run failed to converge."""
    return FACTOR * median(row.first for row in rows)


def build_report(rows: Sequence[Row], size: Size, options: Table2, origin: Origin) -> Report:
    """Failed runs beside the paper's, and the NELBO of those that did not."""
    limit = threshold(rows)
    tables = (_failures(rows, limit), _causes(rows, limit), _nelbos(rows, limit))
    name, title = ("table2-quick", ", the quick version") if options.quick else ("table2", "")
    return Report(name, f"Table 2: overfitting ten images{title}", _introduction(size, limit), tables, origin,
                  (_verdict(rows, limit),))  # fmt: skip


def _introduction(size: Size, limit: float) -> str:
    part = ""
    if size != FULL:
        part = (
            f" The paper: {FULL.seeds} seeds, {FULL.steps:,} steps, batches of {FULL.batch_size}; here {size.seeds} "
            f"seeds, {size.steps:,} steps, batches of {size.batch_size}, at the paper's own learning rates. Fewer "
            "steps leave fewer chances to fail, and a smaller batch makes more noise."
        )
    return (
        "The convolutional VAE of section 7.1 on 10 random CIFAR-10 images a run, Adam, pixels in [0, 1], the scale of "
        f"the decoder one learned scalar.{part} NaiveExp is log(exp(p)) as written, in eq. 8. A run failed "
        f"if its loss was not finite at a step, or if its negative ELBO, averaged over the last twentieth of its "
        f"steps, is above {limit:,.0f} nats per image: {FACTOR:g} times that of the untrained model."
    )


def _cell(rows: Sequence[Row], lr: float, posterior: str, decoder: str) -> list[Row]:
    return [r for r in rows if (r.lr, r.posterior, r.decoder) == (lr, posterior, decoder)]


def _failures(rows: Sequence[Row], limit: float) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for lr in LEARNING_RATES:
        for posterior in POSTERIORS:
            cells: list[Cell] = [lr, posterior]
            for index, decoder in enumerate(DECODERS):
                cell = _cell(rows, lr, posterior, decoder)
                failed, paper = sum(r.failed(limit) for r in cell), PAPER.get((lr, posterior), (0, 0, 0))[index]
                difference = 100 * (failed / len(cell) - paper / 10)
                cells += [f"{failed}/{len(cell)}", f"{paper}/10", f"{difference:+.0f} points"]
            lines.append(tuple(cells))
    header = ["learning rate", "posterior"]
    for decoder in DECODERS:
        header += [f"decoder {decoder}", "paper", "difference"]
    return Table("failures", "Failed runs", tuple(header), tuple(lines))


def _causes(rows: Sequence[Row], limit: float) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for posterior in POSTERIORS:
        here = [r for r in rows if r.posterior == posterior]
        causes = [sum(r.cause == cause for r in here) for cause in ("nan_rate", "nan_distortion", "nan_weights")]
        diverged = sum(r.cause is None and r.failed(limit) for r in here)
        steps = [r.step for r in here if r.step is not None]
        lines.append((posterior, len(here), *causes, diverged, median(steps) if steps else None))
    header = ("posterior", "runs", "nan_rate", "nan_distortion", "nan_weights", "NELBO too high", "median step of NaN")
    return Table("causes", "Causes", header, tuple(lines))


def _nelbos(rows: Sequence[Row], limit: float) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for lr in LEARNING_RATES:
        for posterior in POSTERIORS:
            cells: list[Cell] = [lr, posterior]
            for decoder in DECODERS:
                alive = [r.nelbo for r in _cell(rows, lr, posterior, decoder) if not r.failed(limit)]
                cells.append(number(median(v for v in alive if v is not None), 0) if alive else "all failed")
            lines.append(tuple(cells))
    header = ("learning rate", "posterior", *(f"decoder {decoder}" for decoder in DECODERS))
    return Table("nelbo", "Median negative ELBO of the runs that did not fail, nats per image", header, tuple(lines))


def _verdict(rows: Sequence[Row], limit: float) -> str:
    share = {p: [r.failed(limit) for r in rows if r.posterior == p] for p in POSTERIORS}
    return "Failed in all: " + ", ".join(f"{p} {sum(v)} of {len(v)}" for p, v in share.items()) + "."


def draw(rows: Sequence[Row]) -> Figure:
    """Failed runs in percent, ours as bars and the paper's as dots; a panel a learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2))
    panels = figure.subplots(1, len(LEARNING_RATES), sharey=True)
    limit = threshold(rows)
    colors = ("#b2182b", "#ef8a62", "#67a9cf")
    for panel, lr in zip(panels, LEARNING_RATES, strict=True):
        for row, posterior in enumerate(POSTERIORS):
            for index, (decoder, color) in enumerate(zip(DECODERS, colors, strict=True)):
                cell = _cell(rows, lr, posterior, decoder)
                share = 100 * sum(r.failed(limit) for r in cell) / len(cell)
                place = row + 0.26 * (index - 1)
                label = f"decoder {decoder}" if row == 0 else None
                panel.barh(place, share, 0.24, color=color, label=label)
                paper = 10 * PAPER.get((lr, posterior), (0, 0, 0))[index]
                panel.plot(paper, place, "o", color="black", ms=4, label="paper" if row == index == 0 else None)
        panel.set(title=f"learning rate {lr}", xlabel="failed runs, %", xlim=(-3, 105))
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(POSTERIORS)), [f"posterior\n{p}" for p in POSTERIORS])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure
