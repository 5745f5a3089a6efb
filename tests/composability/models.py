"""The models of the three columns: each kind of patch in a small model with a learned prior."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vdvae_patch.patches.vdvae import HOST, Architecture

import vdvae_patch
from vdvae_patch.heads import Head


def _gaussian_loss(x: Tensor, decoded: Tensor, kl: Tensor) -> Tensor:
    return ((decoded - x) ** 2).sum(1).mean() + kl.sum(1).mean()


class OutputVAE(nn.Module):
    """Two layers emit a log variance and a log sigma, which are read in several places: their outputs are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.to_stats = nn.Linear(8, 8)
        self.prior_mean = nn.Linear(3, 4)
        self.prior_log_sigma = nn.Linear(3, 4)
        self.decoder = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.to_stats(torch.tanh(self.trunk(x))).chunk(2, dim=1)
        prior_mean, prior_log_sigma = self.prior_mean(x[:, :3]), self.prior_log_sigma(x[:, :3])
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        ratio = (log_variance.exp() + (mean - prior_mean) ** 2) / (2 * torch.exp(2 * prior_log_sigma))
        kl = prior_log_sigma - 0.5 * log_variance + ratio - 0.5
        return _gaussian_loss(x, self.decoder(z), kl)


class Encoder(nn.Module):
    """Mean and sigma; the floor stands behind the exponential, where no layer's output can replace it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.to_stats = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.to_stats(torch.tanh(self.trunk(x))).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance) + 1e-3


class ExpressionVAE(nn.Module):
    """Sigmas with a floor and a clamp behind the exponential: the lines of the host are compiled again."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.prior_mean = nn.Linear(3, 4)
        self.prior_log_sigma = nn.Linear(3, 4)
        self.decoder = nn.Linear(4, 6)

    def prior(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma."""
        return self.prior_mean(condition), torch.exp(self.prior_log_sigma(condition)).clamp(min=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.encoder(x)
        prior_mean, prior_sigma = self.prior(x[:, :3])
        z = mean + sigma * torch.randn_like(mean)
        ratio = (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2)
        kl = torch.log(prior_sigma) - torch.log(sigma) + ratio - 0.5
        return _gaussian_loss(x, self.decoder(z), kl)


@dataclass(frozen=True)
class Column:
    """One kind of patch.

    Attributes:
        emitter: the layer that emits the posterior's raw value, as an adapter or a quantizer would name it.
        part: the module in which a method or an output of the posterior is replaced.
        method: what is replaced in it.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, ...]]
    heads: Callable[[], Sequence[Head]]
    emitter: str
    part: str
    method: str


def _small(cls: type[nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = cls()
        for name, parameter in model.named_parameters():
            if "to_stats" in name or "prior_log_sigma" in name:
                nn.init.normal_(parameter, 0.3, 1.0)  # far enough from zero for scales to differ
        return model

    return build


def _vdvae() -> nn.Module:
    torch.manual_seed(0)
    size = Architecture(width=8, zdim=2, num_mixtures=2, enc_blocks="4x1,4d4,1x1", dec_blocks="1x1,4m1")
    hyperparameters = HOST.hyperparameters(size, image_size=4, image_channels=3, data="cifar10")
    model: nn.Module = vdvae_patch.load_host("vdvae").build(hyperparameters)
    for name, parameter in model.named_parameters():
        if "prior.c4" in name or "enc.c4" in name:
            nn.init.normal_(parameter, std=0.5)
    return model


def _rows() -> tuple[Tensor]:
    return (torch.randn(4, 6, generator=torch.Generator().manual_seed(7)),)


def _images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 4, 4, 3, generator=generator), torch.rand(2, 4, 4, 3, generator=generator) * 2 - 1


@functools.cache
def _scanned(cls: type[nn.Module]) -> tuple[Head, ...]:
    return tuple(vdvae_patch.scan(_small(cls)(), *_rows()))


@functools.cache
def _named() -> tuple[Head, ...]:
    return tuple(HOST.heads(_vdvae()))


COLUMNS = {
    column.name: column
    for column in (
        Column("output", _small(OutputVAE), _rows, lambda: _scanned(OutputVAE), "to_stats", "to_stats", "forward"),
        Column(
            "expression",
            _small(ExpressionVAE),
            _rows,
            lambda: _scanned(ExpressionVAE),
            "encoder.to_stats",
            "encoder",
            "forward",
        ),
        Column(
            "named host",
            _vdvae,
            _images,
            _named,
            "decoder.dec_blocks.0.enc.c4",
            "decoder.dec_blocks.0",
            "sample",
        ),
    )
}
