"""The paper's Figure 2: training NELBO and cumulated skipped updates, vanilla in blue, modified in red."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from vdvae_patch.compare.palette import Look, looks
from vdvae_patch.compare.results import Curves, Floats, RunResult
from vdvae_patch.data.order import told_steps_per_epoch
from vdvae_patch.skips.whole import replaced

BINS = 60
"""The most points of a NELBO curve; each is the mean over its share of the steps."""

STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "vdvae-patch",
}


_WIDEST = 120
"""Characters of a line of the legend, of which the figure is wide enough for one."""


@dataclass(frozen=True)
class Axis:
    """What is on the horizontal axis: epochs, or steps where an epoch is too short or the run is too short for it."""

    unit: str
    steps: int


@dataclass(frozen=True)
class _Smooth:
    x: Floats
    y: Floats

    def lies_above(self, limit: float) -> bool:
        """Whether there is a line, and none of it at the limit or below."""
        finite = self.y[np.isfinite(self.y)]
        return bool(len(finite)) and bool((finite > limit).all())


def draw_curves(results: Sequence[RunResult], variants: Sequence[str], paths: Sequence[Path]) -> None:
    """Write the figure to every path, the format by its suffix; one thin line a run."""
    from matplotlib import rc_context

    results = [result for result in results if result.outcome != "refused"]
    axis = horizontal(results)
    look = looks(variants)
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_nelbo(left, results, look, axis)
        _draw_skips(right, results, look, axis)
        present = [variant for variant in variants if any(result.variant == variant for result in results)]
        handles = [Line2D([], [], color=look[v].color, linestyle=look[v].dashes, linewidth=2) for v in present]
        seeds = ", ".join(str(seed) for seed in sorted({result.seed for result in results}))
        labels = [textwrap.fill(_label(variant, results), _WIDEST) for variant in present]
        _legend(figure, handles, labels, f"posterior / prior; one line a seed ({seeds})")
        for path in paths:
            with replaced(path) as partial:
                figure.savefig(partial, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def _legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str], title: str) -> None:
    """Below the axes, in as many columns as there is room for: what does not fit is cut off at the figure's edges."""
    for columns in range(min(3, len(handles)), 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, title=title, title_fontsize=10
        )  # fmt: skip
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _label(variant: str, results: Sequence[RunResult]) -> str:
    """With the number of skips, since lines that stay at zero hide each other."""
    skips = [int(result.curves.skipped.sum()) for result in results if result.variant == variant]
    return f"{variant}: {' + '.join(map(str, skips))} skipped"


def horizontal(results: Sequence[RunResult]) -> Axis:
    """Epochs, if there are at least two of at least two steps."""
    steps = max((_steps_per_epoch(result.curves) for result in results), default=1)
    long_enough = any(len(result.curves.step) >= 2 * steps for result in results)
    return Axis("epoch", steps) if steps > 1 and long_enough else Axis("training step", 1)


def smooth(curves: Curves, bins: int = BINS) -> _Smooth:
    """Means of the NELBO over equal shares of the records, of the applied updates alone; NaN where there was none. Each
    stands at the mean of its steps, of which the last share has fewer, and a log with a gap others than its records."""
    width = max(1, math.ceil(len(curves.step) / bins))
    count = math.ceil(len(curves.step) / width)
    usable = np.where(curves.skipped | ~np.isfinite(curves.nelbo), np.nan, curves.nelbo)
    padded = np.full(count * width, np.nan)
    padded[: len(usable)] = usable
    shares = padded.reshape(count, width)
    filled = np.isfinite(shares).any(1)
    means = np.full(count, np.nan)
    means[filled] = np.nanmean(shares[filled], axis=1)
    starts = np.arange(0, len(usable), width)
    sizes = np.diff(starts, append=len(usable))
    return _Smooth(np.add.reduceat(curves.step, starts) / sizes if count else means, means)


def cumulated(curves: Curves, limit: int = 4000) -> tuple[Floats, NDArray[np.int64]]:
    """Where the count of skipped updates changes, and what it is from there on; with the first and the last step.

    Of more than `limit` changes it is looked at in so many places, and each count is exact: a figure has fewer pixels.
    """
    changes = np.flatnonzero(curves.skipped)
    counts = np.arange(1, len(changes) + 1)
    if len(changes) > limit:
        kept = np.unique(np.linspace(0, len(changes) - 1, limit).round().astype(np.int64))
        changes, counts = changes[kept], counts[kept]
    end = curves.step[-1:] + 1
    last = counts[-1:] if len(counts) else np.zeros(len(end), np.int64)
    steps = np.concatenate([[0], curves.step[changes] + 1, end])
    return steps.astype(np.float64), np.concatenate([[0], counts, last[: len(end)]])


def vertical_limits(lines: Sequence[Floats]) -> tuple[float, float] | None:
    """From the lowest NELBO to a little above where training began; what lies above it is no progress, and is cut."""
    finite = [line[np.isfinite(line)] for line in lines]
    finite = [line for line in finite if len(line)]
    if not finite:
        return None
    low = min(float(line.min()) for line in finite)
    begin = float(np.median([line[0] for line in finite]))
    highest = max(float(line.max()) for line in finite)
    high = min(highest, begin + 0.35 * (begin - low))
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_nelbo(ax: Any, results: Sequence[RunResult], look: dict[str, Look], axis: Axis) -> None:
    lines = {id(result): smooth(result.curves) for result in results}
    for result in results:
        line = lines[id(result)]
        style = look[result.variant]
        ax.plot(line.x / axis.steps, line.y, color=style.color, linestyle=style.dashes, linewidth=1.4, alpha=0.85)
        if result.outcome == "stopped":
            seen = np.flatnonzero(np.isfinite(line.y))
            if len(seen):
                ax.plot(line.x[seen[-1]] / axis.steps, line.y[seen[-1]], "x", color=style.color, markersize=8, mew=2)
    limits = vertical_limits([line.y for line in lines.values()])
    title = "Training NELBO"
    if limits is not None:
        ax.set_ylim(*limits)
        highest = max(float(np.nanmax(line.y)) for line in lines.values() if np.isfinite(line.y).any())
        if highest > limits[1]:
            title += f" (cut off; highest {highest:.2g})"
        hidden = [r.variant for r in results if lines[id(r)].lies_above(limits[1])]
        if hidden:
            title += "\n" + textwrap.fill("wholly above: " + ", ".join(dict.fromkeys(hidden)), 50)
    ax.set_title(title)
    ax.set_xlabel(axis.unit)
    ax.set_ylabel("NELBO (nats per dimension)")
    bits = ax.secondary_yaxis("right", functions=(lambda y: y / math.log(2), lambda y: y * math.log(2)))
    bits.set_ylabel("bits per dimension")
    bits.spines["right"].set_visible(True)


def counted(results: Sequence[RunResult]) -> str:
    """For which causes the figure counts them; the table has a column of the first two alone."""
    return "high gradient, NaN or fp16's loss scale" if any(r.loss_scale for r in results) else "high gradient or NaN"


def _draw_skips(ax: Any, results: Sequence[RunResult], look: dict[str, Look], axis: Axis) -> None:
    highest = 0
    for result in results:
        style = look[result.variant]
        steps, total = cumulated(result.curves)
        x = steps / axis.steps
        ax.step(x, total, where="post", color=style.color, linestyle=style.dashes, linewidth=1.6, alpha=0.85)
        highest = max(highest, int(total[-1]))
        if result.outcome == "stopped":
            ax.plot(x[-1], total[-1], "x", color=style.color, markersize=8, mew=2)
    ax.set_title(f"Skipped updates ({counted(results)})")
    ax.set_xlabel(axis.unit)
    ax.set_ylabel("cumulated skipped updates")
    if highest > 20:  # few skips of one run and hundreds of another are both to be seen
        ax.set_yscale("symlog", linthresh=5, linscale=0.7)
        ticks = [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, *(10**k for k in range(3, 8))) if t <= 2 * highest]
        ax.set_yticks(ticks, [f"{t:,}" for t in ticks])
        ax.minorticks_off()
        ax.set_ylim(-0.4, 1.3 * highest)
    else:
        top = max(5, highest)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.set_ylim(-0.03 * top, 1.05 * top)


def _steps_per_epoch(curves: Curves) -> int:
    """All steps, if there is no second epoch."""
    return told_steps_per_epoch(curves.step, curves.epoch) or max(1, len(curves.step))
