"""What is measured of a trained model of `reproduce large-vae`, and the images that its figure shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vdvae_patch.experiments.large_vae_runs import Run, cost
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.patching.top_prior import top_prior_in
from vdvae_patch.train.importance import active_by_level, log_likelihood, spread
from vdvae_patch.train.noise import seed_noise

SHOWN = 8
"""Test images, samples and pseudo-inputs of a model in the figure."""

Pictures = dict[str, NDArray[np.uint8]]
"""`images`, `reconstructions`, `samples` and `pseudo_inputs`, each uint8 `[N, H, W]`; no pseudo-inputs of N(0, 1)."""


@dataclass(frozen=True)
class Found:
    """What a run gave; nats an image, levels from the upper one down.

    Attributes:
        lower_bound_nats: of the test images, by one draw each.
        log_likelihood_nats: by importance sampling, of `images` test images.
        rates, active_units: by level; a unit is used where its posterior mean varies over the test images.
        epoch_seconds: of training.
        skipped: updates whose gradient was not finite.
        epochs, tested_epoch: how many were trained, and whose weights were tested.
        validation_bounds_nats: after each epoch.
    """

    levels: int
    prior: str
    seed: int
    lower_bound_nats: float
    log_likelihood_nats: float
    rates: list[float]
    active_units: list[int]
    images: int
    dimensions: int
    epoch_seconds: float
    skipped: int
    epochs: int
    tested_epoch: int
    validation_bounds_nats: list[float]


@torch.no_grad()
def measure(run: Run) -> tuple[Found, Pictures]:
    """Bounds, log likelihood, rates and units of the test images."""
    kind, size, at = run.kind, run.size, run.progress
    pixels = torch.tensor(run.data.test[:])
    target = run.data.normalization.apply(pixels).target.to(run.device)
    seed_noise("evaluate", run.seed)
    bounds, rates = [], []
    for batch in target.split(500):  # type: ignore[no-untyped-call]
        found = run.terms(batch)
        bounds.append(-cost(found))
        rates.append(torch.stack(list(found.rates.values())))
    entry = trainable(load_host("large_vae").entry)
    likelihood = log_likelihood(run.terms, target[spread(len(target), size.images)], size.samples)
    units = active_by_level(entry, run.model, target) or []
    measured = Found(
        kind.levels, kind.prior, run.seed, float(torch.cat(bounds).double().mean()), float(likelihood.mean()),
        torch.cat(rates, dim=1).mean(dim=1).tolist(), units,
        len(likelihood), target[0].numel(), at.seconds / max(1, at.epoch), at.skipped, at.epoch,
        at.best_epoch if size.patience else at.epoch, at.bounds,
    )  # fmt: skip
    return measured, _pictures(run, target)


def _pictures(run: Run, target: Tensor) -> Pictures:
    seed_noise("samples", run.seed)
    entry, model = trainable(load_host("large_vae").entry), run.model
    shown = target[spread(len(target), SHOWN)]
    latents = [latent.z for latent in entry.latents(model, shown)]
    found = {
        "images": ((shown[..., 0] + 1) * 127.5).round().to(torch.uint8).cpu().numpy(),
        "reconstructions": entry.sample(model, len(shown), 1.0, latents)[..., 0],
        "samples": entry.sample(model, SHOWN, 1.0)[..., 0],
    }
    prior = top_prior_in(model)
    inputs = getattr(prior, "pseudo_inputs", None)
    if inputs is not None:
        few = inputs[spread(len(inputs), SHOWN)].view(-1, *shown.shape[1:3])
        found["pseudo_inputs"] = (few * 255).round().to(torch.uint8).cpu().numpy()
    return found


def write_pictures(path: Path, pictures: Pictures) -> None:
    """As a compressed file of numpy's, in one move."""
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **pictures)  # type: ignore[arg-type]
    temporary.replace(path)


def read_pictures(path: Path) -> Pictures:
    """What `write_pictures` wrote; nothing if there is no such file."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
