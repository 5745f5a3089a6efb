"""What table 2 reports: failed runs beside the paper's, their causes, and the NELBO of those that did not fail.

A run failed if its loss was not finite at a step, or if its negative ELBO ends orders of magnitude above normal. Its
end is the mean over the last twentieth of the steps, 20 at least. Normal is the median of the ends of all runs of its
learning rate and decoder whose loss was always finite, whatever their posterior. A second count, in the notes, asks for
`FACTOR` times the negative ELBO of the untrained model, wherever the others end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from vdvae_patch.experiments.options import Table2
from vdvae_patch.experiments.report import Cell, Origin, Report, Table, number
from vdvae_patch.experiments.table2_cells import (
    DECODERS,
    FACTOR,
    FULL,
    LEARNING_RATES,
    PAPER,
    POSTERIORS,
    Row,
    Size,
    last_steps,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Limits:
    """Negative ELBOs in nats per image above which a run failed to converge.

    Attributes:
        untrained: that of the untrained model, the median over runs.
        ends: the normal end of each learning rate and decoder that has one.
    """

    untrained: float
    ends: dict[tuple[float, str], float]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Limits:
        """What is normal among these runs."""
        cells: dict[tuple[float, str], list[float]] = {}
        for row in rows:
            if row.cause is None and row.nelbo is not None:
                cells.setdefault((row.lr, row.decoder), []).append(row.nelbo)
        untrained = median(row.first for row in rows if math.isfinite(row.first))
        return cls(untrained, {cell: median(ends) for cell, ends in cells.items()})

    def above_normal(self, row: Row) -> float:
        """The normal end, and `FACTOR` times its size, which counts as a hundredth of the untrained at least."""
        end = self.ends.get((row.lr, row.decoder), self.untrained)
        return end + FACTOR * max(abs(end), abs(self.untrained) / 100)

    @property
    def above_untrained(self) -> float:
        """`FACTOR` times the untrained model's."""
        return FACTOR * self.untrained

    def failed(self, row: Row) -> bool:
        """Not finite, or orders of magnitude above normal."""
        return row.failed(self.above_normal(row))


def of_the_paper(rows: Sequence[Row]) -> list[Row]:
    """The runs with one of the paper's scales for the likelihood."""
    return [row for row in rows if row.decoder in DECODERS]


def _seams(rows: Sequence[Row], limits: Limits) -> list[Table]:
    """Failed runs with each decoder and objective, over all learning rates, beside the paper's scales."""
    others = [name for name in dict.fromkeys(row.decoder for row in rows) if name not in DECODERS]
    if not others:
        return []
    lines: list[tuple[Cell, ...]] = []
    for posterior in POSTERIORS:
        cells: list[Cell] = [posterior]
        for decoder in (*DECODERS, *others):
            here = [row for row in rows if (row.posterior, row.decoder) == (posterior, decoder)]
            failed, nan = sum(map(limits.failed, here)), sum(row.cause is not None for row in here)
            cells.append(f"{failed}/{len(here)}" + (f" ({nan} NaN)" if nan else ""))
        lines.append(tuple(cells))
    header = ("posterior", *(f"likelihood {name}" for name in DECODERS), *others)
    return [Table("seams", "Failed runs with other decoders and objectives, all learning rates", header, tuple(lines))]


def build_report(rows: Sequence[Row], size: Size, options: Table2, origin: Origin) -> Report:
    """Failed runs beside the paper's, and the NELBO of those that did not."""
    every, rows = rows, of_the_paper(rows)
    limits = replace(Limits.of(every), untrained=Limits.of(rows).untrained)
    tables = (_failures(rows, limits), _causes(rows, limits), _nelbos(rows, limits), *_seams(every, limits))
    name, title = ("table2-quick", ", the quick version") if options.quick else ("table2", "")
    return Report(name, f"Table 2: overfitting ten images{title}", _introduction(size), tables, origin,
                  (_verdict(rows, limits),))  # fmt: skip


def _introduction(size: Size) -> str:
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
        f"if its loss was not finite at a step, or if its negative ELBO, averaged over the last "
        f"{last_steps(size.steps)} of its steps, ends orders of magnitude above normal: further above than {FACTOR:g} "
        "times what the normal end is from 0. Normal is the median of all runs of its learning rate and decoder whose "
        "loss was always finite."
    )


def _cell(rows: Sequence[Row], lr: float, posterior: str, decoder: str) -> list[Row]:
    return [r for r in rows if (r.lr, r.posterior, r.decoder) == (lr, posterior, decoder)]


def _failures(rows: Sequence[Row], limits: Limits) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for lr in LEARNING_RATES:
        for posterior in POSTERIORS:
            cells: list[Cell] = [lr, posterior]
            for index, decoder in enumerate(DECODERS):
                cell = _cell(rows, lr, posterior, decoder)
                failed, paper = sum(map(limits.failed, cell)), PAPER.get((lr, posterior), (0, 0, 0))[index]
                difference = 100 * (failed / len(cell) - paper / 10)
                cells += [f"{failed}/{len(cell)}", f"{paper}/10", f"{difference:+.0f} points"]
            lines.append(tuple(cells))
    header = ["learning rate", "posterior"]
    for decoder in DECODERS:
        header += [f"decoder {decoder}", "paper", "difference"]
    return Table("failures", "Failed runs", tuple(header), tuple(lines))


def _causes(rows: Sequence[Row], limits: Limits) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for posterior in POSTERIORS:
        here = [r for r in rows if r.posterior == posterior]
        causes = [sum(r.cause == cause for r in here) for cause in ("nan_rate", "nan_distortion", "nan_weights")]
        diverged = sum(r.cause is None and limits.failed(r) for r in here)
        steps = [r.step for r in here if r.step is not None]
        lines.append((posterior, len(here), *causes, diverged, median(steps) if steps else None))
    header = ("posterior", "runs", "nan_rate", "nan_distortion", "nan_weights", "NELBO too high", "median step of NaN")
    return Table("causes", "Causes", header, tuple(lines))


def _nelbos(rows: Sequence[Row], limits: Limits) -> Table:
    lines: list[tuple[Cell, ...]] = []
    for lr in LEARNING_RATES:
        for posterior in POSTERIORS:
            cells: list[Cell] = [lr, posterior]
            for decoder in DECODERS:
                alive = [r.nelbo for r in _cell(rows, lr, posterior, decoder) if not limits.failed(r)]
                cells.append(number(median(v for v in alive if v is not None), 0) if alive else "all failed")
            lines.append(tuple(cells))
    header = ("learning rate", "posterior", *(f"decoder {decoder}" for decoder in DECODERS))
    return Table("nelbo", "Median negative ELBO of the runs that did not fail, nats per image", header, tuple(lines))


def _verdict(rows: Sequence[Row], limits: Limits) -> str:
    def counted(failed: Callable[[Row], bool]) -> str:
        share = {p: [failed(r) for r in rows if r.posterior == p] for p in POSTERIORS}
        return ", ".join(f"{p} {sum(v)} of {len(v)}" for p, v in share.items())

    return (
        f"Failed in all: {counted(limits.failed)}. Were a run that ends too high one that ends above "
        f"{limits.above_untrained:,.0f} nats per image, {FACTOR:g} times the untrained model's: "
        f"{counted(lambda row: row.failed(limits.above_untrained))}."
    )


def draw(rows: Sequence[Row]) -> Figure:
    """Failed runs in percent, ours as bars and the paper's as dots; a panel a learning rate."""
    from matplotlib.figure import Figure

    rows = of_the_paper(rows)
    figure = Figure(figsize=(10.5, 4.2))
    panels = figure.subplots(1, len(LEARNING_RATES), sharey=True)
    limits = Limits.of(rows)
    colors = ("#b2182b", "#ef8a62", "#67a9cf")
    for panel, lr in zip(panels, LEARNING_RATES, strict=True):
        for row, posterior in enumerate(POSTERIORS):
            for index, (decoder, color) in enumerate(zip(DECODERS, colors, strict=True)):
                cell = _cell(rows, lr, posterior, decoder)
                share = 100 * sum(map(limits.failed, cell)) / len(cell)
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
