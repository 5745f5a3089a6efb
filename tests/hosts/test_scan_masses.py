"""Scales that are seen only in the mass of an interval, a difference of two Φ, or in a density that is no logarithm."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import vdvae_patch
from vdvae_patch import scales

BIN = 1 / 255


class QuantizedPixels(nn.Module):
    """The quantized Normal: the mass of each pixel's bin, of which a loss takes the logarithm."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 12))

    def cdf(self, value: Tensor, mean: Tensor, raw: Tensor) -> Tensor:
        if self.form == "Normal.cdf":
            return Normal(mean, raw.exp()).cdf(value)
        if self.form == "erf":
            return 0.5 * (1 + torch.erf((value - mean) * torch.exp(-raw) / 2**0.5))
        if self.form == "ndtr":
            return torch.special.ndtr((value - mean) / raw.exp())
        return torch.sigmoid((value - mean) * torch.exp(-raw))

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, dim=1)
        mass = self.cdf(x + BIN, mean, raw) - self.cdf(x - BIN, mean, raw)
        return -mass.clamp(min=1e-12).log().mean()


def made(form: str) -> tuple[QuantizedPixels, Tensor]:
    torch.manual_seed(0)
    return QuantizedPixels(form), torch.rand(5, 6)


@pytest.mark.parametrize("form", ["Normal.cdf", "erf", "ndtr"])
def test_a_difference_of_two_phi_shows_a_likelihood(form: str) -> None:
    model, x = made(form)
    heads = vdvae_patch.scan(model, x)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("net.2", "6:12", "likelihood", "log_sigma")
    ]
    raw = model.net(x)[:, 6:]
    vdvae_patch.patch(model, heads=heads, likelihood="bounded(0.1, 2)", paper=True)
    torch.testing.assert_close(model.net(x)[:, 6:], scales.get("bounded(0.1, 2)").log_sigma(raw))


def test_a_difference_of_two_logistic_functions_is_no_normals() -> None:
    model, x = made("logistic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert vdvae_patch.scan(model, x) == []


class WrittenOut(nn.Module):
    """A mixture density network in linear space: densities are multiplied and added, and a logarithm comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.pi, self.mu, self.sigma = nn.Linear(6, 3), nn.Linear(6, 18), nn.Linear(6, 18)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pi, mu = self.pi(x).softmax(1), self.mu(x).view(-1, 3, 6)
        sigma = torch.exp(self.sigma(x)).view(-1, 3, 6)
        target = y.unsqueeze(1).expand_as(sigma)
        density = torch.exp(-0.5 * ((target - mu) / sigma) ** 2) / sigma / (2 * torch.pi) ** 0.5
        return -torch.log((pi * density.prod(2)).sum(1) + 1e-12).mean()


def test_a_density_in_linear_space_shows_a_likelihood() -> None:
    torch.manual_seed(0)
    model, x, y = WrittenOut(), torch.rand(5, 6), torch.rand(5, 6)
    heads = vdvae_patch.scan(model, x, y)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("sigma", ":", "likelihood", "log_sigma")
    ]
    vdvae_patch.patch(model, heads=heads, likelihood="bounded(0.1, 2)", paper=True)


class ModulatedLatent(nn.Module):
    """A latent that another network scales and shifts before the mass of its rounding is taken."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.encoder, self.modulation, self.entropy_model = nn.Linear(6, 3), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = self.modulation(x).chunk(2, 1)
        gain = {"1 + gain": 1 + gain, "sigmoid": torch.sigmoid(gain), "exp": gain.exp()}[self.form]
        latent = self.encoder(x) * gain + shift
        latent = latent + torch.empty_like(latent).uniform_(-0.5, 0.5)
        scale, mean = self.entropy_model(x).chunk(2, 1)
        scale = scale.clamp(min=0.11)
        distance = (latent - mean).abs()
        upper, lower = (0.5 * torch.erfc(-(2**-0.5) * (edge - distance) / scale) for edge in (0.5, -0.5))
        return -torch.log(upper - lower + 1e-9).sum()


@pytest.mark.parametrize("form", ["1 + gain", "sigmoid", "exp"])
def test_a_latent_that_a_network_modulates_has_a_mass_all_the_same(form: str) -> None:
    torch.manual_seed(0)
    (head,) = vdvae_patch.scan(ModulatedLatent(form), torch.rand(5, 6))
    assert (head.path, head.channels, head.role) == ("entropy_model", ":3", "prior")
    assert float(head.convention.sigma(torch.tensor(0.05))) == pytest.approx(0.11)
    assert float(head.convention.sigma(torch.tensor(1.5))) == pytest.approx(1.5)


class JointMixture(nn.Module):
    """The density of two or three values at once, with one σ for each component; or bumps without their area."""

    def __init__(self, values: int, form: str) -> None:
        super().__init__()
        self.values, self.form = values, form
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, (values + 2) * 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw, weights = self.net(x).split([self.values * 3, 3, 3], dim=1)
        sigma, mean = raw.exp(), mean.view(-1, 3, self.values)
        apart = ((y.unsqueeze(1) - mean) ** 2).sum(-1)
        density = torch.exp(-apart / (2 * sigma**2)) * torch.softmax(weights, 1)
        if self.form == "powers":
            density = density / (2 * math.pi * sigma**2) ** (self.values / 2)
        elif self.form == "a root":
            density = density / (((2 * math.pi * sigma**2) ** self.values).sqrt() + 1e-10)
        elif self.form == "of one value":
            density = density / (math.sqrt(2 * math.pi) * sigma)
        return -(density.sum(1) + 1e-10).log().mean()


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("form", ["powers", "a root"])
def test_a_joint_density_with_one_sigma_shows_a_likelihood(form: str, values: int) -> None:
    torch.manual_seed(0)
    model, x, y = JointMixture(values, form), torch.randn(7, 4), torch.randn(7, values)
    (head,) = vdvae_patch.scan(model, x, y)
    assert (head.role, head.start, head.stop) == ("likelihood", 3 * values, 3 * values + 3)
    assert str(head.convention) == "log_sigma"
    vdvae_patch.patch(model, likelihood="bounded(0.01, 10)", heads=[head], paper=False)


@pytest.mark.parametrize("form", ["no area", "of one value"])
def test_bumps_whose_area_is_another_one_are_no_joint_density(form: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not vdvae_patch.scan(JointMixture(2, form), torch.randn(7, 4), torch.randn(7, 2))
