"""The pictures of `reproduce geco`, laid out as the paper's Figures 3, 4, 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.experiments.geco_runs import ANNEALED, ELBO, EQUAL, SHOWN, Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {ELBO: "#2ca02c", ANNEALED: "#7f7f7f", EQUAL: "#d62728"}
GECO = "#1f5fa8"


def draw_plane(rows: Sequence[Found]) -> Figure:
    """The information plane, a panel for each host and data set of seed 0: NLL to the right, KL upwards."""
    from matplotlib.figure import Figure

    here = [row for row in rows if row.seed == 0]
    panels = list(dict.fromkeys((row.host, row.data) for row in here))
    hosts = list(dict.fromkeys(host for host, _ in panels))
    columns = max(sum(host == wanted for host, _ in panels) for wanted in hosts)
    figure = Figure(figsize=(3.4 * columns, 2.9 * len(hosts)))
    axes: Any = figure.subplots(len(hosts), columns, squeeze=False)
    for line, host in enumerate(hosts):
        names = [data for wanted, data in panels if wanted == host]
        for axis, name in zip(axes[line], [*names, *[""] * (columns - len(names))], strict=True):
            if not name:
                axis.axis("off")
                continue
            _panel(axis, [row for row in here if (row.host, row.data) == (host, name)])
            axis.set_title(f"{host}, {name}", fontsize=9)
            axis.set(xlabel="NLL, nats per dimension")
        axes[line][0].set(ylabel="KL, nats an image")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _panel(axis: Any, rows: Sequence[Found]) -> None:
    asked = sorted((row for row in rows if row.method not in COLORS), key=lambda row: row.kappa or 0)
    axis.plot([r.nll for r in asked], [r.rate for r in asked], "o-", color=GECO, ms=4, lw=1, label="GECO")
    for row in asked:
        axis.annotate(f"{row.kappa:g}", (row.nll, row.rate), xytext=(4, 4), textcoords="offset points", fontsize=7)
    for method, mark in ((ELBO, "s"), (ANNEALED, "^"), (EQUAL, "x")):
        for row in rows:
            if row.method == method:
                axis.plot([row.nll], [row.rate], mark, color=COLORS[method], ms=6, label=method, ls="none")
    axis.set(yscale="symlog", ylim=(0, 2.5 * max(1.0, *(row.rate for row in rows))))
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)


def draw_equal(rows: Sequence[Found]) -> Figure:
    """KL and error over the updates, by the ELBO and by GECO at the ELBO's error."""
    from matplotlib.figure import Figure

    here = [row for row in rows if row.seed == 0]
    panels = list(dict.fromkeys((row.host, row.data) for row in here if row.method == EQUAL))
    figure = Figure(figsize=(2.7 * len(panels), 4.6))
    axes: Any = figure.subplots(2, len(panels), squeeze=False)
    for column, (host, data) in enumerate(panels):
        top, bottom = axes[0][column], axes[1][column]
        for row in here:
            if (row.host, row.data) == (host, data) and row.method in (ELBO, EQUAL):
                top.plot(row.steps, row.rates, color=COLORS[row.method], lw=1.2, label=row.method)
                bottom.plot(row.steps, [255 * e for e in row.errors], color=COLORS[row.method], lw=1.2)
                if row.kappa is not None:
                    bottom.axhline(255 * row.kappa, color="#888888", lw=0.8, ls=":")
        top.set_title(f"{host},\n{data}", fontsize=8)
        bottom.set(xlabel="update", yscale="log")
        _numbers(bottom.yaxis)
        for axis in (top, bottom):
            axis.grid(alpha=0.3, which="both")
            axis.tick_params(labelsize=7, which="both")
    axes[0][0].set(ylabel="KL, nats an image")
    axes[1][0].set(ylabel="error of a batch, grey levels")
    axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    return figure


def _numbers(scale: Any) -> None:
    """A logarithmic axis with 1, 2, 5, 10, ... at its marks, as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scale.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scale.set_minor_formatter(NullFormatter())


def draw_trajectory(row: Found) -> Figure:
    """One run of GECO in the plane, its equivalent β and its error, in the colours of the update."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    colours = Normalize(0, row.steps[-1])
    nll = [row.dimensions * error**2 / 2 for error in row.errors]
    for axis, across, up in (
        (axes[0], nll, row.rates),
        (axes[1], row.steps, row.betas),
        (axes[2], row.steps, [255 * error for error in row.errors]),
    ):
        axis.plot(across, up, color="#cccccc", lw=0.8, zorder=1)
        axis.scatter(across, up, c=row.steps, norm=colours, cmap="viridis", s=12, zorder=2)
        axis.grid(alpha=0.3)
    axes[0].set(xlabel="half the squared error, a sum over pixels", ylabel="KL, nats an image", xscale="log")
    axes[1].set(xlabel="update", ylabel="equivalent β", yscale="log")
    axes[2].set(xlabel="update", ylabel="error, grey levels", yscale="log")
    for scale in (axes[0].xaxis, axes[1].yaxis, axes[2].yaxis):
        _numbers(scale)
    if row.kappa is not None:
        axes[2].axhline(255 * row.kappa, color="#d62728", lw=1, label=f"asked for: {255 * row.kappa:.1f}")
        axes[2].legend(fontsize=8)
    figure.colorbar(ScalarMappable(colours, "viridis"), ax=list(axes), label="update", pad=0.01)
    return figure


def draw_pictures(strips: Mapping[tuple[str, str, str], Tensor], originals: Mapping[tuple[str, str], Tensor]) -> Figure:
    """Of each host and data set the originals, and for each objective reconstructions beside samples."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((host, data) for host, data, _ in strips))
    heights = [1 + sum(key[:2] == panel for key in strips) for panel in panels]
    columns = 2
    lines = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    tall = [max(heights[panels.index(panel)] for panel in line) for line in lines]
    figure = Figure(figsize=(7.2 * columns, sum(0.56 * t + 0.45 for t in tall)))
    parts: Any = figure.subfigures(len(lines), columns, height_ratios=[0.56 * t + 0.45 for t in tall], squeeze=False)
    for line, part in zip(lines, parts, strict=True):
        for panel, place in zip(line, part, strict=False):
            shown = _coloured(originals[panel])
            rows = {"originals": torch.cat([shown, torch.full_like(shown, 255)])}
            rows |= {method: strip for (host, data, method), strip in strips.items() if (host, data) == panel}
            axes: Any = place.subplots(max(heights), 1, squeeze=False, gridspec_kw={"hspace": 0.05})[:, 0]
            for axis, (method, strip) in zip(axes, rows.items(), strict=False):
                axis.imshow(_row(strip))
                axis.set(xticks=[], yticks=[])
                axis.set_ylabel(method.replace("GECO at the ELBO's error", "GECO, ELBO's error"), rotation=0,
                                ha="right", va="center", fontsize=7)  # fmt: skip
            for axis in axes[len(rows) :]:
                axis.axis("off")
            axes[0].set_title(f"{panel[0]}, {panel[1]}: {SHOWN} reconstructions, {SHOWN} samples", fontsize=8)
            place.subplots_adjust(left=0.2, right=0.99, top=0.93, bottom=0.01)
    return figure


def _row(images: Tensor) -> Any:
    """uint8 `[N, C, H, W]` side by side as RGB."""
    images = _coloured(images)
    count, _, height, width = images.shape
    return images.permute(2, 0, 3, 1).reshape(height, count * width, 3).numpy()


def _coloured(images: Tensor) -> Tensor:
    """uint8 `[N, C, H, W]` as RGB; two channels are red and green, as of two digits."""
    count, channels, height, width = images.shape
    if channels == 1:
        images = images.expand(count, 3, height, width)
    elif channels == 2:
        images = torch.cat([images, torch.zeros_like(images[:, :1])], dim=1)
    return images
