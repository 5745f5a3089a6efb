"""A run's way through the information plane: likelihood against KL, a point a step ("Taming VAEs", Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.audit import Audit
from vdvae_patch.skips.whole import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 2000
"""The most points that are drawn; a longer run is thinned out."""

_BELOW = {"constraint_average": "average constraint", "lambda": "λ", "equivalent_beta": "equivalent β", "sigma": "σ"}


def draw_trajectory(log: Path, path: Path, title: str) -> bool:
    """A PNG of a run's `metrics.jsonl`: the plane, coloured by step, and beside it what GECO and a decoder moved.

    False, and no picture, if no step has a finite rate and distortion.

    Raises:
        RunError: it cannot be written.
    """
    rows = _thinned(log)
    if not rows:
        return False
    from matplotlib.figure import Figure

    # of several constraints each has its own: constraint_average/re
    names = [key for name in _BELOW for key in rows[-1] if key.partition("/")[0] == name]
    figure = Figure(figsize=(5.6 + 3.2 * min(1, len(names)), 4.6), layout="constrained")
    width = [1.6, 1] if names else [1]
    grid = figure.add_gridspec(max(1, len(names)), len(width), width_ratios=width)
    plane = figure.add_subplot(grid[:, 0])
    points = plane.scatter(
        [row["rate"] for row in rows], [-row["distortion"] for row in rows], c=[row["step"] for row in rows], s=8
    )
    plane.set(xlabel="KL (nats per dimension)", ylabel="log likelihood (nats per dimension)")
    figure.suptitle(title, fontsize=10)
    plane.set_xscale("symlog", linthresh=1e-3)
    figure.colorbar(points, ax=plane, label="step")
    for index, name in enumerate(names):
        _draw(figure.add_subplot(grid[index, 1]), rows, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial:
            figure.savefig(partial, dpi=120)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror}") from error
    return True


def _thinned(log: Path) -> list[dict[str, Any]]:
    """Evenly spaced records with a finite rate and distortion, from `POINTS` to twice as many of a long run.

    While the log is read, every second of those that were kept is given up whenever there are too many.
    """
    rows: list[dict[str, Any]] = []
    every, seen = 1, 0
    for row in Audit(log).records():
        if not (math.isfinite(row["rate"]) and math.isfinite(row["distortion"])):
            continue
        if seen % every == 0:
            rows.append(row)
        seen += 1
        if len(rows) >= 2 * POINTS:
            rows, every = rows[::2], 2 * every
    return rows


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    there = [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    axes.plot([step for step, _ in there], [value for _, value in there], linewidth=1)
    base, _, which = name.partition("/")
    axes.set_ylabel(f"{_BELOW[base]} {which}".rstrip(), fontsize=9)
    axes.tick_params(labelsize=8)
    if base == "constraint_average":
        axes.axhline(0, color="black", linewidth=0.7)
    elif all(value > 0 for _, value in there):
        axes.set_yscale("log")
