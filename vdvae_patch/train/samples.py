"""Sample grids: originals, reconstructions at several depths, samples at several temperatures."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.skips.whole import replaced
from vdvae_patch.train.noise import seed_noise

TEMPERATURES = (1.0, 0.9, 0.8, 0.7)
DEPTHS = 5


@torch.no_grad()
def sample_grid(
    entry: TrainableEntry,
    model: nn.Module,
    pixels: Tensor,
    normalization: Normalization,
    *,
    seed: int,
    depths: int = DEPTHS,
) -> NDArray[np.uint8]:
    """One row a kind, one column an image, `[rows * H, columns * W, C]`.

    The first row are the originals (uint8 `[B, H, W, C]`); the next `depths` rows are reconstructions from the first
    latents of the posterior, more of them in each row and all in the last, the others from the prior at temperature
    0.1; the last rows are samples of the prior at temperatures 1 to 0.7.
    """
    seed_noise("samples", seed)
    n = len(pixels)
    latents = [latent.z for latent in entry.latents(model, entry.read(normalization.apply(pixels)))]
    rows = [pixels.cpu().numpy()]
    for given in np.linspace(0, len(latents), depths + 1).round().astype(int)[1:]:
        rows.append(entry.sample(model, n, 0.1, latents[:given]))
    rows.extend(entry.sample(model, n, temperature) for temperature in TEMPERATURES)
    return tile(np.stack(rows))


def tile(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[rows, columns, H, W, C]` to one image `[rows * H, columns * W, C]`."""
    rows, columns, height, width, channels = images.shape
    return images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image `[H, W, C]`, C = 1 or 3, whole or not at all, creating the folder; raises `RunError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        iio.imwrite(partial, image[..., 0] if image.shape[-1] == 1 else image)
