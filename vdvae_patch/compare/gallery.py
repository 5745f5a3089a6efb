"""The paper's Figure 3: originals, their reconstructions by each variant, and samples of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vdvae_patch.compare.palette import looks
from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.errors import CheckpointError
from vdvae_patch.outside import put
from vdvae_patch.reading.fields import record
from vdvae_patch.skips.whole import replaced
from vdvae_patch.train import checkpoint
from vdvae_patch.train.contents import require_tensors, taking_up
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.numerics import before_cuda, numerics
from vdvae_patch.train.resumable import SavedOutside
from vdvae_patch.train.samples import tile
from vdvae_patch.train.setup import Workload, prepare, require_variant
from vdvae_patch.train.world import resolve_device

Images = NDArray[np.uint8]
WIDTH = 11.0  # inches


@dataclass(frozen=True)
class Pictures:
    """What one run's averaged weights make of a few images; all uint8 `[n, H, W, C]`.

    Attributes:
        step: of the checkpoint that the weights are from.
        originals: training images, then as many test images.
        reconstructions: of the originals, every latent from the posterior.
        samples: from the prior at temperature 1, as many as originals.
    """

    variant: str
    step: int
    originals: Images
    reconstructions: Images
    samples: Images


def draw_gallery(runs: Sequence[PlannedRun], path: Path) -> str | None:
    """Write the figure for the seed with the most checkpoints; its caption, or None if no run has a checkpoint.

    Raises:
        CheckpointError: a checkpoint is damaged or of another variant.
        HostError, DataError: as `train.setup.prepare` raises them.
    """
    with_weights = [run for run in runs if any((run.folder / "checkpoints").glob("step-*"))]
    if not with_weights:
        return None
    seeds = [run.config.seed for run in with_weights]
    seed = max(dict.fromkeys(seeds), key=seeds.count)
    chosen = [run for run in with_weights if run.config.seed == seed]
    pictures = [_picture(run) for run in chosen]
    _draw(pictures, path)
    steps = sorted({picture.step for picture in pictures})
    missing = [run.config.variant for run in runs if run.config.seed == seed and run not in chosen]
    note = f" Without a checkpoint, hence not shown: {', '.join(missing)}." if missing else ""
    return (
        f"Seed {seed}, averaged weights (EMA) after {' or '.join(map(str, steps))} steps. Left of the gap training "
        "images, right of it test images; reconstructions take every latent from the posterior, samples come from the "
        "prior at temperature 1, with the same noise for every variant. Of VDVAE's mixture, and of a discrete "
        "`--decoder`, draws of the pixels are shown, which are grainy where a model is not sure of them; of other "
        f"likelihoods means, or what the `sample` of a host of your own gives.{note}"
    )


def _picture(run: PlannedRun) -> Pictures:
    config = run.config
    before_cuda(config)
    device = resolve_device(config.device)
    with numerics(device, config.matmul, config.deterministic):
        return _picture_on(device, run)


def _picture_on(device: torch.device, run: PlannedRun) -> Pictures:
    config = run.config
    work = prepare(config, device)
    found = checkpoint.newest(run.folder / "checkpoints")
    if found.problems:
        raise CheckpointError(found.problems[0])
    require_variant(found.info, work.checkpoint_info(0, finite=True, nelbo=None).variant, found.path)
    require_tensors(found.state, found.path, "model", "ema")
    with taking_up(f"checkpoint {found.path}"):
        work.load(found.state)
    if (kept := found.state.get("outside")) is not None:  # what a host counts, or follows in a plain attribute
        where = f"checkpoint {found.path}.outside"
        put(work.ema, record(SavedOutside, kept, where, CheckpointError).ranks[0], where)
    return _look(work, config.variant, found.info.step, config.seed, device)


@torch.no_grad()
def _look(work: Workload, variant: str, step: int, seed: int, device: torch.device) -> Pictures:
    half = _columns(work.data.image_size) // 2
    pixels = torch.cat([DeviceImages(split, device).take(_first(split, half)) for split in _splits(work)])
    seed_noise("samples", seed)
    x = work.entry.read(work.data.normalization.apply(pixels))
    latents = [latent.z for latent in work.entry.latents(work.ema, x)]
    reconstructions = work.entry.sample(work.ema, len(pixels), 1.0, latents)
    seed_noise("samples", seed, step=1)
    samples = work.entry.sample(work.ema, len(pixels), 1.0)
    return Pictures(variant, step, pixels.cpu().numpy(), reconstructions, samples)


def _splits(work: Workload) -> tuple[Any, Any]:
    return work.data.train, work.data.test


def _first(split: Any, count: int) -> NDArray[np.int64]:
    """Positions of the first images, from the start again if there are too few."""
    return np.arange(count, dtype=np.int64) % len(split)


def _columns(image_size: int) -> int:
    return 16 if image_size <= 64 else 8 if image_size <= 256 else 4


def _draw(pictures: Sequence[Pictures], path: Path) -> None:
    look = looks([picture.variant for picture in pictures])
    top = [("originals", pictures[0].originals), *((p.variant, p.reconstructions) for p in pictures)]
    bottom = [(p.variant, p.samples) for p in pictures]
    longest = max(len(name) for name, _ in top)
    cell = (WIDTH - 0.09 * longest) / len(pictures[0].originals)
    figure = Figure(figsize=(WIDTH, (len(top) + len(bottom)) * cell + 1.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[len(top), len(bottom)])
    _show(upper, "Originals and reconstructions", top, look)
    upper.set_xticks(_halves(upper), ["training images", "test images"], fontsize=10)
    _show(lower, "Samples", bottom, look)
    # a name wider than was reckoned with widens the picture and is not cut off
    with replaced(path) as partial:
        figure.savefig(partial, dpi=200, bbox_inches="tight", pad_inches=0.05)


def _show(ax: Any, title: str, block: Sequence[tuple[str, Images]], look: dict[str, Any]) -> None:
    images = np.stack([row for _, row in block])
    size, half = images.shape[2], images.shape[1] // 2  # rows of an image, which need not be square
    edge = max(1, size // 32)
    images = np.pad(images, ((0, 0), (0, 0), (edge, 0), (edge, 0), (0, 0)), constant_values=255)
    size += edge
    left, right = tile(images[:, :half]), tile(images[:, half:])
    gap = np.full((len(left), max(2, size // 6), left.shape[2]), 255, np.uint8)
    picture = np.concatenate([left, gap, right], axis=1)
    picture = picture[:, :, 0] if picture.shape[2] == 1 else picture
    ax.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    ax.set_title(title, fontsize=12, loc="left")
    ax.set_xticks([])
    ax.set_yticks([size * (row + 0.5) for row in range(len(block))], [name for name, _ in block], fontsize=10)
    for label, (name, _) in zip(ax.get_yticklabels(), block, strict=True):
        label.set_color(look[name].color if name in look else "black")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _halves(ax: Any) -> list[float]:
    """Where the middles of the two halves of a picture are."""
    width = ax.get_xlim()[1] - ax.get_xlim()[0]
    return [width * 0.25, width * 0.75]
