"""The MLP VAE on MNIST: its models, its batches, and its negative ELBO on images with pixel noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import scales
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.data import CPU, read_splits
from vdvae_patch.experiments.ensemble import Batch, Ensemble, Run
from vdvae_patch.experiments.noise import generator, normals
from vdvae_patch.experiments.select import Select, carry
from vdvae_patch.experiments.table3_cells import Size
from vdvae_patch.heads import CallSite
from vdvae_patch.hosts import load_host

PIXELS, LATENTS = 784, 128
_EVALUATION_SEED = -1  # of the noise that every run is evaluated with
ALPHA = 1 / (256 * math.sqrt(12))  # the deviation of the rounding noise of pixels in [0, 1]
# The likelihood's scales of table 3; `Global` is one scalar for all pixels, which table 3 combines with NaiveExp.
LIKELIHOODS = {
    "NaiveExp": "naiveexp",
    "Exp": "exp",
    "UpBounded": "upbounded(1)",
    "DownBounded": f"downbounded({ALPHA!r})",
    "Bounded": f"bounded({ALPHA!r}, 1)",
    "Global": "naiveexp",
}
MEANS = ("identity", "sigmoid")


@dataclass(frozen=True)
class Builder:
    """From a run to a model with the posterior UpBounded(1).

    Attributes:
        likelihoods: names of `LIKELIHOODS`; with several, of one shape, `Run.scale` says which is the run's.
        mean: how the decoder's output becomes the mean of a pixel.
    """

    likelihoods: tuple[str, ...]
    mean: str

    def __call__(self, run: Run) -> nn.Module:
        host = load_host("mlp_vae")
        shape = "global" if "Global" in self.likelihoods else "decoded"
        torch.manual_seed(run.seed)
        model = host.build({"pixels": PIXELS, "mean": self.mean, "scale": shape})
        heads = host.heads(model)
        if len(self.likelihoods) > 1:
            carry(model, run.scale)
            select = Select(tuple(scales.get(LIKELIHOODS[name]) for name in self.likelihoods))
            calls = (CallSite("", "likelihood_scale", select),)
            heads = [replace(head, calls=calls) if head.role == "likelihood" else head for head in heads]
        variant = f"upbounded(1)/vanilla/{LIKELIHOODS[self.likelihoods[run.scale]]}"
        vdvae_patch.patch(model, variant, heads=heads, arithmetic="stable")
        return model


@dataclass(frozen=True)
class Digits:
    """Grey images on the device, uint8 `[N, rows · columns]`."""

    train: Tensor
    valid: Tensor
    test: Tensor

    @classmethod
    def load(cls, name: str, root: Path | None, device: torch.device, train: int, valid: int, test: int) -> Digits:
        """The first `train` training images, and as many for validation and test as asked for, or as there are.

        Raises:
            InvalidValueError: a data set with colours, or of another size than 28x28.
        """
        splits = read_splits(name, root)
        parts = (splits.train[:train], splits.valid[:valid], splits.test[:test])
        _, rows, columns, channels = parts[0].shape
        if channels != 1:
            raise InvalidValueError(f"data set {name!r} has {channels} channels, and this experiment takes grey images")
        if rows * columns != PIXELS:
            raise InvalidValueError(f"data set {name!r} is of {rows}x{columns}, and this experiment takes 28x28")
        return cls(*(torch.from_numpy(part).flatten(1).to(device) for part in parts))

    def sized(self, size: Size) -> Size:
        """A size with as many images as there are, where it asked for more."""
        return replace(size, train=len(self.train), valid=len(self.valid), test=len(self.test))


class Epochs:
    """Batches of training images in [0, 1], without noise; every seed has an order of its own in every epoch."""

    def __init__(self, images: Tensor, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.per_epoch = math.ceil(len(images) / batch_size)
        self._orders: tuple[int, dict[int, Tensor]] = (-1, {})

    def __call__(self, seeds: Sequence[int], step: int) -> Batch:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._orders[0]:
            self._orders = (epoch, {})
        orders = self._orders[1]
        for seed in seeds:
            if seed not in orders:
                stream = generator(CPU, seed, epoch, "order")
                orders[seed] = torch.randperm(len(self.images), generator=stream).to(self.images.device)
        start = place * self.batch_size
        rows = torch.stack([orders[seed][start : start + self.batch_size] for seed in seeds])
        return (self.images[rows].float() / 255,)


def noisy(images: Tensor, seed: int, purpose: str) -> Tensor:
    """(x + u) / 256 with u uniform in [0, 1) (Theis et al. 2016): `[N, 784]` in [0, 1), the same for all runs."""
    u = torch.rand(images.shape, generator=generator(CPU, seed, 0, purpose)).to(images.device)
    return (images.float() + u) / 256


@torch.no_grad()
def evaluate(ensemble: Ensemble, images: Tensor, flat: Tensor | None = None, batch_size: int = 2000) -> Tensor:
    """Negative ELBO of the runs that are alive, nats per image of density on [0, 1]: `[alive]`, float64.

    One sample of z an image. `flat` are other parameters than the present ones.
    """
    total = torch.zeros(len(ensemble.alive), dtype=torch.float64, device=images.device)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        noise = normals([_EVALUATION_SEED], start, len(part) * LATENTS, images.device).expand(len(total), -1)
        losses = ensemble.stack((part.expand(len(total), *part.shape),), noise, ensemble.how or "loop", flat)
        total += losses["elbo"].double() * len(part)
    return total / len(images)


def bits_per_dimension(nats_per_image: float) -> float:
    """From nats per image on [0, 1] to bits per dimension on 0..255, the unit of table 3: (l / 784 + ln 256) / ln 2."""
    return (nats_per_image / PIXELS + math.log(256)) / math.log(2)
