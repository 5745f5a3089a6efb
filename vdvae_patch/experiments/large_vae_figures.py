"""The figures of `reproduce large-vae`: what the models make of images, and their bounds over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vdvae_patch.experiments.large_vae_runs import MODELS, VAMP, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vdvae_patch.experiments.large_vae_measures import Found, Pictures

_COLUMNS = ("reconstructions", "samples", "pseudo_inputs")
_GAP = 1
_COLORS = ("#1f5fa8", "#d62728", "#2ca02c", "#f28e2b")


def draw_pictures(pictures: Mapping[Kind, Pictures]) -> Figure:
    """A row a model: test images above their reconstructions, samples, and pseudo-inputs, of the first seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 1.15 * len(pictures) * 1.6))
    axes: Any = figure.subplots(len(pictures), len(_COLUMNS), squeeze=False)
    for row, (kind, its) in enumerate(pictures.items()):
        for column, name in enumerate(_COLUMNS):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if row == 0:
                axis.set_title({"reconstructions": "test images, reconstructions"}.get(name, name.replace("_", "-")))
            if column == 0:
                axis.set_ylabel(f"{kind.levels} level{'s' if kind.levels > 1 else ''}\n{kind.prior}", fontsize=9)
            if name in its:
                rows = [its["images"], its[name]] if name == "reconstructions" else _halves(its[name])
                axis.imshow(tiled(rows), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            elif kind.prior == VAMP:
                axis.text(0.5, 0.5, "not kept", ha="center", va="center")
    figure.tight_layout()
    return figure


def tiled(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows of images `[N, H, W]` as one picture, white lines between them."""
    lines = []
    for images in rows:
        padded = [np.pad(image, _GAP, constant_values=255) for image in images]
        lines.append(np.concatenate(padded, axis=1))
    width = max(line.shape[1] for line in lines)
    full = [np.pad(line, ((0, 0), (0, width - line.shape[1])), constant_values=255) for line in lines]
    return np.concatenate(full, axis=0)


def _halves(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    middle = -(-len(images) // 2)
    return [images[:middle], images[middle:]] if len(images) > 1 else [images]


def draw_bounds(rows: Sequence[Found]) -> Figure:
    """The bound of the validation images after every epoch, a line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    for kind, color in zip(MODELS, _COLORS, strict=True):
        for number, found in enumerate(r for r in rows if Kind(r.levels, r.prior) == kind):
            epochs = range(1, found.epochs + 1)
            label = f"{kind.levels} level{'s' if kind.levels > 1 else ''}, {kind.prior}" if not number else None
            axis.plot(epochs, found.validation_bounds_nats, color=color, lw=1.3, label=label)
    bounds = [value for r in rows for value in r.validation_bounds_nats if np.isfinite(value)]
    if bounds:  # the first epochs, when the rate hardly counts, would leave no room for the others
        low, high = float(np.quantile(bounds, 0.1)), max(bounds)
        margin = 0.05 * max(high - low, 1e-3)
        axis.set_ylim(low - margin, high + margin)
    axis.set(xlabel="epoch", ylabel="lower bound, nats an image\nvalidation images")
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure
