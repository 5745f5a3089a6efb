"""The pictures of `reproduce geco-theory`, laid out as the paper's Figures 1, 2, 7 and 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.experiments.tiles import RECTANGLES, Tiling

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vdvae_patch.experiments.fixed_points import Found
    from vdvae_patch.experiments.geco_theory import Panel
    from vdvae_patch.experiments.transitions import Sweep

DATA, POINTS, PATHS = "#2166ac", "#d62728", "#bbbbbb"
COLORS = ("#1f5fa8", "#d62728", "#2ca02c", "#f28e2b", "#8c564b", "#9467bd", "#e377c2")
_PATHS_SHOWN = 16
"""Trajectories along each axis that are drawn, of all tiles."""


def draw_tiles(tiling: Tiling, images: Tensor) -> Figure:
    """The supports with their overlap and the holes, and what the best decoder makes of each region."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(10, 4.4))
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    left, right = halves
    axis = left.subplots()
    axis.set_facecolor("black")
    for index, ((west, east, south, north), color) in enumerate(zip(RECTANGLES, COLORS, strict=False)):
        for fill, edge, alpha in (("white", "none", 1.0), (color, "none", 0.55)):
            axis.add_patch(Rectangle((west, south), east - west, north - south, fc=fill, ec=edge, alpha=alpha))
        where = ((west + east) / 2 - (0.3 if index == 0 else -0.25 if index == 1 else 0), (south + north) / 2)
        axis.text(*where, f"$x_{index + 1}$", ha="center", va="center", fontsize=14)
    west, south = RECTANGLES[1][0], RECTANGLES[1][2]
    east, north = RECTANGLES[0][1], RECTANGLES[0][3]
    axis.add_patch(Rectangle((west, south), east - west, north - south, fc="#7b4f8a", ec="white"))
    axis.text((west + east) / 2, (south + north) / 2, "both", ha="center", va="center", color="white")
    axis.text(0.0, -0.5, "hole", color="white", ha="center")
    axis.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal")
    axis.set_title("latent space: supports of the posteriors")
    shares = tiling.shares(0, 1)
    pictures = [(f"$x_{i + 1}$", image) for i, image in enumerate(images.double())]
    for title, members in ((f"overlap:\n{shares[0]:.2f} $x_1$ + {shares[1]:.2f} $x_2$", (0, 1)), ("hole: free", ())):
        pictures.append((title, tiling.descended[tiling.tiles(*members)][0]))
    axes = right.subplots(2, 3)
    for axis, (title, image) in zip(axes.flatten(), pictures, strict=True):
        axis.imshow(image.view(28, 28).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
    return figure


def draw_transitions(swept: Sweep, shown: Mapping[float, Found]) -> Figure:
    """The way of the reconstructions for some β; below, the error and its bends over β with the transitions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2))
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    top, bottom = halves
    for axis, (beta, found) in zip(top.subplots(1, len(shown)), shown.items(), strict=True):
        scatter(axis, swept.data, found)
        axis.set_title(f"β = {beta:g}", fontsize=10)
    top.subplots_adjust(bottom=0.02)
    left, right = bottom.subplots(1, 2)
    left.plot(swept.betas, swept.errors, color=DATA)
    left.set(yscale="log", ylabel="expected squared error U")
    right.plot(swept.betas[1:-1], swept.bends, color=DATA)
    right.set(ylabel="−∂²U / ∂(log β)²")
    right.set_yscale("symlog", linthresh=0.01)
    for axis in (left, right):
        for index, beta in enumerate(swept.critical):
            axis.axvline(beta, color="#888888", lw=1, label=None if index else "detected transition")
        axis.set(xscale="log", xlabel="β")
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    bottom.subplots_adjust(bottom=0.2, top=0.97, wspace=0.25)
    return figure


def draw_lipschitz(chosen: Sequence[Panel]) -> Figure:
    """β alone, local constraints and global ones in three rows; lines at the left, circles at the right."""
    from matplotlib.figure import Figure

    kinds, names = (list(dict.fromkeys(getattr(p, field) for p in chosen)) for field in ("kind", "data_name"))
    columns = len(chosen) // (len(kinds) * len(names))
    figure = Figure(figsize=(2.1 * columns * len(names), 2.35 * len(kinds)))
    axes: Any = figure.subplots(len(kinds), columns * len(names))
    for row, kind in enumerate(kinds):
        for half, name in enumerate(names):
            here = [p for p in chosen if (p.kind, p.data_name) == (kind, name)]
            for column, panel in enumerate(here):
                axis = axes[row, half * columns + column]
                scatter(axis, panel.data, panel.found)
                title = f"β = {panel.beta:g}" if kind == "none" else f"{kind}, {panel.strength:g}"
                axis.set_title(title, fontsize=9)
    figure.tight_layout()
    return figure


def scatter(axis: Axes, data: Tensor, found: Found) -> None:
    """The ways in grey, the data in blue, and the fixed points in red."""
    side = round(len(found.points) ** 0.5)
    every = max(1, side // _PATHS_SHOWN)
    few = torch.arange(side * side).view(side, side)[::every, ::every].flatten()
    path = found.path[:, few]
    axis.plot(path[:, :, 0], path[:, :, 1], color=PATHS, lw=0.3, zorder=1)
    axis.plot(data[:, 0], data[:, 1], ".", color=DATA, ms=3, zorder=2)
    axis.plot(found.points[:, 0], found.points[:, 1], ".", color=POINTS, ms=3.5, zorder=3)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")


def draw_micro(samples: Mapping[str, Tensor], digits: Tensor, rates: Sequence[str]) -> Figure:
    """Samples of each digit's posterior, an objective each, in the colours of the digits above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(samples), 4.2))
    halves: Any = figure.subfigures(2, 1, height_ratios=(0.9, 3.3))
    top, bottom = halves
    for axis, image, color in zip(top.subplots(1, len(digits)), digits, COLORS, strict=True):
        axis.imshow(image.view(28, 28).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=color, linewidth=3)
    axes = bottom.subplots(1, len(samples))
    for axis, (spec, points), rate in zip(axes, samples.items(), rates, strict=True):
        for one, color in zip(points, COLORS, strict=True):
            axis.plot(one[:, 0], one[:, 1], ".", color=color, ms=3)
        title = spec if spec == "elbo" else f"geco({spec.removeprefix('geco(').split(',')[0]})"
        axis.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
        axis.set_title(f"{title}, KL {rate}", fontsize=10)
    return figure
