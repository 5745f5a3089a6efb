"""Hosts that compute σ in one place and go on from it in two ways, by a floor that the draw or the density alone adds:
the scale goes where they part, and nobody's floor is left."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def log_normal(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + var.log() + (z - mean) ** 2 / var)


class Coder(nn.Module):
    """Keeps what it drew and what its density was, so that a test sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), self.layer(), nn.Linear(4, 6)

    def layer(self) -> nn.Module:
        return nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean, eps = self.mean(x), torch.randn(len(x), 4)
        z, self.density = self.drawn(mean, self.raw(x), eps)
        self.drew = (z - mean) / eps
        self.missed = (z - mean) ** 2
        return F.mse_loss(self.dec(z), x) + (self.density + 0.5 * z**2).sum(1).mean()


class InAFunction(Coder):
    """What computes the variance, and what adds the floor to it, are two methods."""

    def variance(self, v: Tensor) -> Tensor:
        return 0.03 * torch.sigmoid(v)

    def reparameterize(self, mean: Tensor, var: Tensor, eps: Tensor) -> Tensor:
        return mean + torch.sqrt(var + 1e-6) * eps

    def drawn(self, mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        var = self.variance(v)
        z = self.reparameterize(mean, var, eps)
        return z, log_normal(z, mean, var)


class AnActivation(Coder):
    """σ is what the layers return."""

    def layer(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Softplus())

    def drawn(self, mean: Tensor, sigma: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        z = mean + (sigma + 1e-3) * eps
        return z, log_normal(z, mean, sigma**2)


class TwoFloors(AnActivation):
    def drawn(self, mean: Tensor, sigma: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        z = mean + (sigma + 1e-3) * eps
        return z, log_normal(z, mean, (sigma + 1e-2) ** 2)


class InTheDensity(Coder):
    def drawn(self, mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.exp(0.5 * v)
        z = mean + sigma * eps
        return z, log_normal(z, mean, sigma.pow(2) + 1e-3)


class BoundedByAnArgument(Coder):
    """The density bounds the variance that it is given, by an argument of its own."""

    def density_of(self, z: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-2) -> Tensor:
        return log_normal(z, mean, var.clamp(min=eps))

    def drawn(self, mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        var = v.exp()
        z = mean + var.sqrt() * eps
        return z, self.density_of(z, mean, var)


@pytest.mark.medium
@pytest.mark.parametrize("host", [InAFunction, AnActivation, TwoFloors, InTheDensity, BoundedByAnArgument])
def test_draw_and_density_have_one_sigma_without_a_floor(host: type[Coder]) -> None:
    torch.manual_seed(0)
    model, x = host(), torch.randn(7, 6)
    layer = model.raw[0] if isinstance(model.raw, nn.Sequential) else model.raw
    layer.bias.data[0] = -30.0
    torch.manual_seed(3)
    before = model(x)
    heads = scan(model, x)
    assert [head.role for head in heads] == ["posterior"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=heads, posterior="explin", paper=True)
    model(x).backward()
    p = layer(x)
    sigma = torch.where(p < 0, p.exp(), p + 1)
    assert sigma.min() < 1e-10
    torch.testing.assert_close(model.drew[:, 1:].abs(), sigma[:, 1:], rtol=1e-3, atol=1e-5)
    expected = -0.5 * (math.log(2 * math.pi) + 2 * sigma.log() + model.missed / sigma**2)
    torch.testing.assert_close(model.density[:, 1:], expected[:, 1:], rtol=1e-3, atol=1e-3)
    handle.unpatch()
    torch.manual_seed(3)
    assert torch.equal(model(x), before)
