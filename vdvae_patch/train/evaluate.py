"""The NELBO of a model on a set of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import ModelBatch, Normalization
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.train.compiled import KeptFunctions
from vdvae_patch.train.config import Precision
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.step import autocast
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


Measure = Callable[[Tensor, Tensor], Tensor]
"""From a batch to its bound, distortion, rate and bound by mass, `[4]`, float32; 0 where nobody measures a mass."""


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
    precision: Precision = "fp32",
    compiler: KeptFunctions | None = None,
) -> Evaluation:
    """The mean NELBO of the first `limit` images (0: all), one posterior sample an image, noise fixed by `seed`.

    Ranks share the batches, and all measure the model with the buffers of rank 0; the result is the same on all of
    them, and whatever their number. Nothing waits for the device before the last batch was sent there. The noise of a
    batch is drawn at once, so that another batch size means other noise, and another estimate of the same mean.

    Args:
        weighing: of a run with a decoder or an objective: what measures the bound, by density and by mass.
        only_mass: whether that one is asked for the mass alone, in a second pass, of a host's own likelihood.
        precision: of the passes; the averages are in float64 whatever it is.
        compiler: compiles a pass, and keeps it for the next evaluation of the same model; a last batch that is smaller
            goes without. None compiles nothing.
    """
    count = min(limit, len(images)) if limit else len(images)
    world = world or World(images.device)
    world.share_buffers(model)
    starts = range(0, count, batch_size)
    weights = np.array([min(batch_size, count - start) for start in starts], np.float64)
    by_losses, by_weighing = _by_losses(entry, model), None if weighing is None else _by_weighing(weighing, model)
    rows = torch.zeros(len(starts), 4, dtype=torch.float64, device=images.device)
    for number, start in enumerate(starts):
        if number % world.size != world.rank:
            continue
        world.mark()
        seed_noise("evaluate", seed, step=number)
        indices = np.arange(start, min(start + batch_size, count))
        batch = normalization.apply(images.take(indices))
        whole = compiler if len(indices) == batch_size else None
        with autocast(precision, images.device):
            if by_weighing is None or only_mass:
                rows[number] = _run(by_losses, "losses", whole, batch)
            if by_weighing is not None and only_mass:
                seed_noise("evaluate", seed, step=number)
                rows[number, 3] = _run(by_weighing, "weighing", whole, batch)[3]
            elif by_weighing is not None:
                rows[number] = _run(by_weighing, "weighing", whole, batch)
    table = world.total(rows).cpu().numpy()
    elbo, distortion, rate = (float(np.average(table[:, c], weights=weights)) for c in (0, 1, 2))
    finite = np.isfinite(table[:, 0])
    filtered = float(np.average(table[finite, 0], weights=weights[finite])) if finite.any() else math.nan
    mass = None if weighing is None else float(np.average(table[:, 3], weights=weights))
    return Evaluation(elbo, distortion, rate, filtered, count, int((~finite).sum()), mass)


def _by_losses(entry: TrainableEntry, model: nn.Module) -> Measure:
    def measure(x: Tensor, target: Tensor) -> Tensor:
        return _row(entry.losses(model, x, target), x.device)

    return measure


def _by_weighing(weighing: Weighing, model: nn.Module) -> Measure:
    def measure(x: Tensor, target: Tensor) -> Tensor:
        return _row(weighing.measure(model, x, target), x.device)

    return measure


def _row(values: Sequence[Tensor], device: torch.device) -> Tensor:
    row = torch.stack([value.float().to(device) for value in values])
    return torch.nn.functional.pad(row, (0, 4 - len(row)))


def _run(measure: Measure, name: str, compiler: KeptFunctions | None, batch: ModelBatch) -> Tensor:
    chosen = measure if compiler is None else compiler.compiled(name, measure)
    return chosen(batch.input, batch.target)
