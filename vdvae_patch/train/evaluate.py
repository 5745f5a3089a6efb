"""The NELBO of a model on a set of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.weighing import Weighing
from vdvae_patch.train.world import World

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class Evaluation:
    """Averages over images, nats per dimension.

    Attributes:
        elbo: the NELBO over all batches; not finite if one of them is not.
        filtered_elbo: over the batches whose loss is finite; NaN if none is.
        images: how many images were used.
        bad_batches: how many batches had a loss that is not finite.
        mass_elbo: the NELBO by the mass of each pixel's bin, of a likelihood that is a density or of a decoder: only
            that stands beside the NELBO of a discrete likelihood. None where nobody measured it.
    """

    elbo: float
    distortion: float
    rate: float
    filtered_elbo: float
    images: int
    bad_batches: int
    mass_elbo: float | None = None

    def record(self) -> dict[str, Any]:
        """For JSON, without what nobody measured."""
        return {key: value for key, value in asdict(self).items() if key != "mass_elbo" or value is not None}

    @property
    def elbo_bits(self) -> float:
        """The NELBO in bits per dimension."""
        return self.elbo / NATS_PER_BIT


@torch.no_grad()
def evaluate(
    entry: TrainableEntry,
    model: nn.Module,
    images: DeviceImages,
    normalization: Normalization,
    *,
    batch_size: int,
    seed: int,
    limit: int = 0,
    world: World | None = None,
    weighing: Weighing | None = None,
    only_mass: bool = False,
) -> Evaluation:
    """The mean NELBO of the first `limit` images (0: all), one posterior sample an image, noise fixed by `seed`.

    Ranks share the batches; the result is the same on all of them, and whatever their number.

    Args:
        weighing: of a run with a decoder or an objective: what measures the bound, by density and by mass.
        only_mass: whether that one is asked for the mass alone, in a second pass, of a host's own likelihood.
    """
    count = min(limit, len(images)) if limit else len(images)
    world = world or World(images.device)
    starts = range(0, count, batch_size)
    rows = torch.zeros(len(starts), 5, dtype=torch.float64, device=images.device)
    for number, start in enumerate(starts):
        if number % world.size != world.rank:
            continue
        world.mark()
        seed_noise("evaluate", seed, step=number)
        indices = np.arange(start, min(start + batch_size, count))
        batch = normalization.apply(images.take(indices))
        found: Sequence[Tensor]
        if weighing is None or only_mass:
            found = [*entry.losses(model, *batch), torch.zeros(())]
        if weighing is not None and only_mass:
            seed_noise("evaluate", seed, step=number)
            found = [*found[:3], weighing.measure(model, *batch).mass_elbo]
        elif weighing is not None:
            found = weighing.measure(model, *batch)
        rows[number] = torch.stack([torch.tensor(float(len(indices))), *(value.float().cpu() for value in found)])
    table = world.total(rows).cpu().numpy()
    weights = table[:, 0]
    elbo, distortion, rate = (float(np.average(table[:, c], weights=weights)) for c in (1, 2, 3))
    finite = np.isfinite(table[:, 1])
    filtered = float(np.average(table[finite, 1], weights=weights[finite])) if finite.any() else math.nan
    mass = None if weighing is None else float(np.average(table[:, 4], weights=weights))
    return Evaluation(elbo, distortion, rate, filtered, count, int((~finite).sum()), mass)
