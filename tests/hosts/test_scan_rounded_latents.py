"""Codes that are rounded in the place of a draw: their entropy model has a prior's σ, found behind the steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.scanning import scan


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def straight(y: Tensor, mean: Tensor) -> Tensor:
    rounded: Tensor = Straight.apply(y)
    return rounded


def without_gradient(y: Tensor, mean: Tensor) -> Tensor:
    with torch.no_grad():
        change = (y - mean).round() - (y - mean)
    return y - mean + change + mean


class Codec(nn.Module):
    def __init__(self, quantize: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enc, self.dec, self.hyper, self.quantize = nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(6, 6), quantize

    def below(self, x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-(2**-0.5) * x)

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.hyper(x).chunk(2, 1)
        sigma = F.softplus(sigma)
        code = self.quantize(self.enc(x), mean)
        off = -(code - mean).abs()
        mass = self.below((off + 0.5) / sigma) - self.below((off - 0.5) / sigma)
        return F.mse_loss(self.dec(code), x) - 0.01 * mass.clamp_min(1e-9).log2().sum(1).mean()


@pytest.mark.medium
@pytest.mark.parametrize("quantize", [straight, without_gradient])
def test_the_mass_of_a_rounded_code_is_a_priors(quantize: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    (head,) = scan(Codec(quantize), torch.randn(5, 6))
    assert (head.path, head.start, head.stop, head.role) == ("hyper", 3, 6, "prior")
    v = torch.linspace(-2, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), F.softplus(v))


class RoundedData(nn.Module):
    """A control: what is rounded is the data, of which a mass is a likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.dec = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.dec(x).chunk(2, 1)
        sigma, bins = raw.exp(), torch.round(4 * x) / 4

        def below(edge: Tensor) -> Tensor:
            return 0.5 * (1 + torch.erf((edge - mean) / sigma / math.sqrt(2)))

        return -(below(bins + 0.125) - below(bins - 0.125)).clamp(min=1e-9).log().sum(1).mean()


@pytest.mark.medium
def test_the_mass_of_rounded_data_is_a_likelihoods() -> None:
    torch.manual_seed(0)
    (head,) = scan(RoundedData(), torch.randn(5, 6))
    assert (head.path, head.start, head.role) == ("dec", 6, "likelihood")
