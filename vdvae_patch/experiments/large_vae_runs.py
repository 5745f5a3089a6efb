"""One run of `reproduce large-vae`: train a model, and measure its bound, its log likelihood and its units."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.data.images import ImageData
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.importance import active_units, log_likelihood
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.hosts import load_host
from vdvae_patch.hosts.trainable import trainable
from vdvae_patch.patching import patch
from vdvae_patch.patching.top_prior import prepared
from vdvae_patch.seams import Terms
from vdvae_patch.train.noise import noise_seed, seed_noise

BATCH = 100
STANDARD, VAMP = "N(0, 1)", "VampPrior"
MODELS = ((1, STANDARD), (1, VAMP), (2, STANDARD), (2, VAMP))
"""Levels of latents, and the prior of the upper one."""


@dataclass(frozen=True)
class Size:
    """How much is done; see `LargeVae`."""

    seeds: int
    epochs: int
    warmup: int
    samples: int
    images: int
    train: int
    components: int

    @classmethod
    def of(cls, options: LargeVae) -> Size:
        """What was asked for, or what the quick or the full version has.

        Raises:
            InvalidValueError: a number that makes no sense.
        """
        quick = options.quick
        epochs = options.epochs if options.epochs is not None else 5 if quick else 100
        size = cls(
            seeds=_or(options.seeds, 1 if quick else 3),
            epochs=epochs,
            warmup=_or(options.warmup, max(1, epochs // 10)),
            samples=_or(options.samples, 500 if quick else 5000),
            images=_or(options.images, 100 if quick else 0),
            train=_or(options.train, 10_000 if quick else 0),
            components=_or(options.components, 100 if quick else 500),
        )
        for name in ("seeds", "epochs", "samples", "components"):
            if getattr(size, name) < 1:
                raise InvalidValueError(f"--{name} must be at least 1, not {getattr(size, name)}")
        for name in ("warmup", "images", "train"):
            if getattr(size, name) < 0:
                raise InvalidValueError(f"--{name} must not be negative, not {getattr(size, name)}")
        return size


@dataclass(frozen=True)
class Found:
    """What a run gave; nats an image, levels from the upper one down.

    Attributes:
        lower_bound_nats: of the test images, by one draw each.
        log_likelihood_nats: by importance sampling, of `images` test images.
        rates, active_units: by level; a unit is used where its posterior mean varies over the test images.
        epoch_seconds: of training.
        skipped: updates whose gradient was not finite.
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


def train(
    levels: int, prior: str, seed: int, data: ImageData, size: Size, options: LargeVae, device: torch.device
) -> Found:
    """Train and measure one model; the seed decides weights, order and noise."""
    model, terms = build(levels, prior, seed, data, size, options, device)
    pixels = torch.from_numpy(data.train[: size.train] if size.train else data.train[:])
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    order = torch.Generator().manual_seed(noise_seed("train", seed))
    skipped, step, started = 0, 0, time.monotonic()
    for epoch in range(size.epochs):
        for rows in torch.randperm(len(pixels), generator=order).split(BATCH):  # type: ignore[no-untyped-call]
            beta = min(1.0, epoch / size.warmup) if size.warmup else 1.0
            target = data.normalization.apply(pixels[rows].to(device), noise_seed("data", seed, step=step)).target
            seed_noise("train", seed, step=step)
            found = terms(target)
            assert found.distortion is not None
            loss = (found.distortion + beta * torch.stack(list(found.rates.values())).sum(dim=0)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            step += 1
            if all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
                optimizer.step()
            else:
                skipped += 1
    seconds = (time.monotonic() - started) / size.epochs
    return _measured(model.eval(), terms, data, size, device, levels, prior, seed, seconds, skipped)


def build(
    levels: int, prior: str, seed: int, data: ImageData, size: Size, options: LargeVae, device: torch.device
) -> tuple[nn.Module, Callable[[Tensor], Terms]]:
    """The patched model, and its pass on targets `[B, H, W, 1]`."""
    host = load_host("large_vae")
    entry = trainable(host.entry)
    architecture = entry.preset("standard" if levels == 1 else "hvae").architecture
    height, width = data.sides
    seed_noise("init", seed)
    sizes: dict[str, Any] = {"image_size": height, "image_channels": data.channels, "image_width": width}
    model = host.build(entry.hyperparameters(architecture, data=data.name, **sizes)).to(device)
    seam, top = host.decoder_seam(model), host.top_prior_seam(model)
    variant, made = options.variant, None
    if prior == VAMP:
        few = torch.from_numpy(data.train[: max(1000, size.components)])
        images = top.read(data.normalization.apply(few).target).clamp(0, 1)
        generator = torch.Generator().manual_seed(noise_seed("top_prior", seed))
        made = prepared(f"vamp(components={size.components})", top, images, generator)
    patch(model, variant, heads=host.heads(model), top_prior=made)
    return model, lambda target: seam.terms(model, target, target)


@torch.no_grad()
def _measured(
    model: nn.Module,
    terms: Callable[[Tensor], Terms],
    data: ImageData,
    size: Size,
    device: torch.device,
    levels: int,
    prior: str,
    seed: int,
    seconds: float,
    skipped: int,
) -> Found:
    seed_noise("evaluate", seed)
    target = data.normalization.apply(torch.from_numpy(data.test[:])).target.to(device)
    bare: Any = model
    units: list[list[Tensor]] = [[] for _ in range(levels)]
    hooks = []
    if levels == 2:  # the lower level's mean depends on a draw of the upper one, and is seen while a pass runs
        hooks.append(bare.q_z1.mean.register_forward_hook(lambda module, given, mean: units[1].append(mean)))
    bounds, rates = [], []
    for first in range(0, len(target), 500):
        batch = target[first : first + 500]
        found = terms(batch)
        assert found.distortion is not None
        by_level = torch.stack(list(found.rates.values()))
        bounds.append(-(found.distortion + by_level.sum(dim=0)))
        rates.append(by_level)
        units[0].append(bare.encode((batch.flatten(1) + 1) / 2)[0])
    for hook in hooks:
        hook.remove()
    active = [active_units(torch.cat(means)) for means in units]
    chosen = target[: size.images] if size.images else target
    likelihood = log_likelihood(terms, chosen, size.samples)
    return Found(
        levels, prior, seed, float(torch.cat(bounds).double().mean()), float(likelihood.mean()),
        torch.cat(rates, dim=1).mean(dim=1).tolist(), active, len(chosen), target[0].numel(), seconds, skipped,
    )  # fmt: skip


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
