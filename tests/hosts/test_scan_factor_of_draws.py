"""A host that measures a multiple of the σ that it draws with: σ is what draws, and one line says so. And a layer that
is σ itself, of any sign: v ε and |v| ε are of one law."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scales import get
from vdvae_patch.scanning import scan

Law = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Coder(nn.Module):
    """Keeps the mean, the draw and the noise."""

    def __init__(self, law: Law) -> None:
        super().__init__()
        self.law, self.enc, self.raw, self.dec = law, nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, eps = self.enc(x), torch.randn(len(x), 3)
        z, kl = self.law(mean, self.raw(x), eps)
        self.drawn = (z - mean) / eps
        return F.mse_loss(self.dec(z), x) + 0.1 * kl.sum(1).mean()


def squares_twice(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    sigma = F.softplus(v)
    return mean + sigma * eps, -0.5 * (1 + torch.log(sigma**2) - mean**2 - 2 * sigma**2)


def half_the_square(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    sigma = v.exp()
    return mean + sigma * eps, 0.5 * (0.5 * sigma**2 + mean**2 - 1) - v


def cooled(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    sigma = torch.exp(0.5 * v)
    return mean + 0.7 * sigma * eps, 0.5 * (sigma**2 + mean**2 - 1 - v)


@pytest.mark.parametrize(
    ("law", "sigma", "factor"),
    [
        (squares_twice, F.softplus, math.sqrt(2)),
        (half_the_square, torch.exp, math.sqrt(0.5)),
        (cooled, lambda v: 0.7 * torch.exp(0.5 * v), 1 / 0.7),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_sigma_is_what_draws_and_the_factor_is_told(law: Law, sigma: Callable[[Tensor], Tensor], factor: float) -> None:
    torch.manual_seed(0)
    model, x = Coder(law), torch.randn(5, 6)
    (head,) = heads = scan(model, x)
    assert head.found is not None
    v = torch.linspace(-3, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), sigma(v))
    assert sum(f"has {factor:.4g} times the σ that noise is multiplied by" in w for w in head.found.warnings) == 1
    handle = patch(model, heads=heads, posterior="explin")
    model(x)
    p = F.linear(x, model.raw.weight, model.raw.bias)
    torch.testing.assert_close(model.drawn, handle.heads[0].scale.sigma(p), rtol=1e-4, atol=1e-5)


def root_of_square(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    return mean + v * eps, 0.5 * (v**2 + mean**2 - 1) - 0.5 * torch.log(v**2)


def absolute(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    return mean + v * eps, 0.5 * (v.abs() ** 2 + mean**2 - 1) - v.abs().log()


def of_torch(mean: Tensor, v: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    law = Normal(mean, v, validate_args=False)
    unit = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return mean + law.stddev * eps, kl_divergence(law, unit)


@pytest.mark.parametrize("law", [root_of_square, absolute, of_torch], ids=lambda law: law.__name__)
def test_a_sigma_of_any_sign_is_one_law_and_is_patched(law: Law) -> None:
    torch.manual_seed(0)
    model, x = Coder(law), torch.randn(5, 6)
    heads = scan(model, x)
    assert not any("samples from one Normal" in w for w in heads.warnings)
    unsafe = "nothing keeps σ positive", "σ is zero where the raw value is 0"
    assert any(words in w for w in heads.warnings for words in unsafe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, posterior="explin", paper=True)
    assert model(x).isfinite()
    p = F.linear(x, model.raw.weight, model.raw.bias)
    torch.testing.assert_close(model.drawn, get("explin").sigma(p), rtol=1e-4, atol=1e-5)
