"""An object that keeps its mean, its σ or its draw in cached properties: the first reader computes them, and whoever
reads them later has the same value, patched or not."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

import vdvae_patch


class Moments:
    """A posterior as latent diffusion's autoencoders have it, its parts computed when they are asked for."""

    def __init__(self, moments: Tensor) -> None:
        self.moments = moments

    @cached_property
    def mean(self) -> Tensor:
        return self.moments.chunk(2, dim=1)[0]

    @cached_property
    def log_variance(self) -> Tensor:
        return self.moments.chunk(2, dim=1)[1].clamp(-30.0, 20.0)

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.log_variance)

    @cached_property
    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def kl(self) -> Tensor:
        return 0.5 * (self.mean**2 + self.std**2 - 1 - self.log_variance).sum(1)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.labels = nn.Linear(8, 6), nn.Linear(3, 8), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = Moments(self.encoder(x))
        both = ((self.decoder(q.sample) - x) ** 2).sum(1) + self.labels(q.sample).square().sum(1)
        return (both + q.kl()).mean()


class DrawnOnce(nn.Module):
    """The raw value is read in the property, and what is drawn is read twice: once more would be another draw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = Moments(self.encoder(x))
        first, second = q.sample, q.sample
        return q.kl().mean() + (first - second).abs().max() * 1e6


def test_the_scale_of_a_cached_property_is_patched_and_restored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Lazy(), torch.randn(5, 8)
    before = _loss(model, x)
    (head,) = heads = vdvae_patch.scan(model, x)
    assert (head.path, head.channels, head.role) == ("encoder", "3:6", "posterior")
    handle = vdvae_patch.patch(model, "upbounded(0.1)", heads=heads)
    assert _loss(model, x) != before
    vdvae_patch.save(model, tmp_path / "saved")
    again = vdvae_patch.load(Lazy(), tmp_path / "saved")
    assert torch.equal(_loss(again, x), _loss(model, x))
    handle.unpatch()
    assert torch.equal(_loss(model, x), before)


def test_a_draw_that_a_property_keeps_is_drawn_once() -> None:
    torch.manual_seed(0)
    model, x = DrawnOnce(), torch.randn(5, 8)
    vdvae_patch.patch(model, "upbounded(0.1)", heads=vdvae_patch.scan(model, x))
    assert float(_loss(model, x).detach()) < 1e3


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    loss: Tensor = model(x)
    return loss
