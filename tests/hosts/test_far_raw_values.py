"""A scale far from where the batch is: there the host's own arithmetic, of which a part may stay, has its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vdvae_patch import patch, scan
from vdvae_patch.scales import ExpLin
from vdvae_patch.scanning.stabilizing.probing import levels

X = torch.linspace(-1, 1, 56).reshape(8, 7)


class Regression(nn.Module):
    """Mean and σ of a target, with a softplus in the words of its formula: infinite from 88 on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x[:, :4]).chunk(2, 1)
        sigma = torch.log1p(torch.exp(raw))
        return (0.5 * ((x[:, 4:] - mean) / sigma) ** 2 + sigma.log()).sum(1).mean()


class Precision(nn.Module):
    """A VAE whose network puts out a precision: 1/√v has the derivative −σ³/2, which float32 has not for a small σ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.decoder = nn.Linear(7, 6), nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, 1)
        sigma = torch.rsqrt(F.softplus(raw) + 1e-3)
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


def _raw_values_at(net: nn.Module, value: float) -> nn.Parameter:
    assert isinstance(net, nn.Linear)
    with torch.no_grad():
        net.weight[3:], net.bias[3:] = 0, value
    return net.bias


@pytest.mark.parametrize("raw", [3.0, 80.0, 90.0, 1000.0])
def test_a_sigma_that_the_host_could_not_compute_is_the_scales_own(raw: float) -> None:
    model = Regression()
    patch(model, likelihood="explin", heads=scan(model, X), paper=True)
    bias = _raw_values_at(model.net, raw)
    loss = model(X)
    loss.backward()
    sigma = ExpLin().sigma(torch.tensor(raw, dtype=torch.float64))
    assert isinstance(model.net, nn.Linear)
    mean = F.linear(X[:, :4], model.net.weight[:3], bias[:3]).double()
    expected = (0.5 * ((X[:, 4:].double() - mean) / sigma) ** 2 + sigma.log()).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[3:], (1 / sigma).float().expand(3), rtol=0.2, atol=1e-6)


@pytest.mark.parametrize("raw", [-5.0, -20.0, -36.0, -42.0])
def test_a_small_sigma_keeps_the_gradient_that_pulls_it_up(raw: float) -> None:
    model = Precision()
    patch(model, posterior="explin", heads=scan(model, X), paper=True)
    bias = _raw_values_at(model.net, raw)
    model(X).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad[3:], torch.full((3,), -1.0), rtol=0.05, atol=0)  # of −log σ = −p


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_pushed_to_has_a_sigma_by_which_nothing_can_be_divided(dtype: torch.dtype) -> None:
    smallest = torch.tensor(math.exp(levels(dtype)[1]), dtype=dtype)
    assert 0 < float(smallest) < 4 * torch.finfo(dtype).tiny * torch.finfo(dtype).eps
