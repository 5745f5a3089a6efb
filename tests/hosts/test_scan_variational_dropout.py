"""Variational dropout: the KL to a log uniform prior is a fit by a sigmoid, of log variance relative to the weight."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import patch
from vdvae_patch.scanning import scan


def negative_kl(log_alpha: Tensor) -> Tensor:
    return 0.63576 * torch.sigmoid(1.8732 + 1.48695 * log_alpha) - 0.5 * F.softplus(-log_alpha) - 0.63576


class SparseLinear(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.weight, self.raw = nn.Parameter(0.3 * torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -5.0))

    @property
    def log_alpha(self) -> Tensor:
        log_var = 2 * self.raw if "log σ" in self.form else self.raw
        log_alpha = log_var - torch.log(self.weight**2 + 1e-8)
        return log_alpha.clamp(-10, 10) if "within bounds" in self.form else log_alpha

    def forward(self, x: Tensor) -> Tensor:
        var = F.linear(x**2, self.log_alpha.exp() * self.weight**2)
        out = F.linear(x, self.weight) + torch.sqrt(var + 1e-12) * torch.randn(len(x), 3)
        kl = -negative_kl(self.log_alpha)
        if "written out" in self.form:
            k = 0.63576
            kl = (
                k - k * torch.sigmoid(1.8732 + 1.48695 * self.log_alpha) + 0.5 * torch.log1p(torch.exp(-self.log_alpha))
            )
        return out.pow(2).mean() + kl.sum()


@pytest.mark.parametrize("form", ["log variance", "log variance within bounds", "log variance, written out", "log σ"])
def test_a_fit_to_the_kl_to_a_log_uniform_prior_shows_a_posterior(form: str) -> None:
    torch.manual_seed(0)
    model, x = SparseLinear(form), torch.randn(5, 6)
    heads = scan(model, x)
    convention = "log_sigma" if "log σ" in form else "log_variance"
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [("raw", ":", "posterior", convention)]
    patch(model, heads=heads, posterior="explin", paper=True)
    with torch.no_grad():
        model.raw.fill_(0.0)
        model.weight.fill_(1.0)
    # σ = 1 at p = 0, so that α = 1
    assert float(model.log_alpha.detach().mean()) == pytest.approx(0.0, abs=1e-6)
    assert math.isfinite(float(model(x).detach()))


class Groups(nn.Module):
    """A drawn gate for each input, whose variance has the same fit; the weights have a KL of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.gate_log_var = nn.Parameter(torch.ones(6)), nn.Parameter(torch.full((6,), -3.0))
        self.weight, self.log_var = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -3.0))

    def draw(self, mean: Tensor, log_var: Tensor) -> Tensor:
        return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.draw(self.gate.repeat(len(x), 1), self.gate_log_var.repeat(len(x), 1))
        out = self.draw(F.linear(x, self.weight), F.linear(x**2, self.log_var.exp()).log())
        return out.pow(2).mean() + self.divergence()

    def divergence(self) -> Tensor:
        groups = -negative_kl(self.gate_log_var - torch.log(self.gate**2 + 1e-8)).sum()
        return groups + 0.5 * (self.log_var.exp() + self.weight**2 - 1 - self.log_var).sum()


def test_gates_and_weights_that_are_drawn_are_patched_in_every_method_that_names_them() -> None:
    torch.manual_seed(0)
    model, x = Groups(), torch.randn(5, 6)
    heads = scan(model, x)
    assert {(h.path, h.role) for h in heads} == {("gate_log_var", "posterior"), ("log_var", "posterior")}
    patch(model, heads=heads, posterior="upbounded")


class Gate(nn.Module):
    """Two parameters in a sigmoid and a softplus that are no fit to a KL, and a noise layer without one."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.mean, self.raw = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.net = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.net(x) + torch.exp(0.5 * self.raw) * torch.randn_like(x)
        ratio = self.raw - torch.log(self.mean**2)
        penalty = 0.63576 * torch.sigmoid(1.8732 + self.slope * ratio) - 0.5 * F.softplus(-ratio)
        return h.pow(2).mean() - penalty.sum()


@pytest.mark.parametrize("slope", [1.0, 1.4])
def test_another_function_of_two_parameters_is_no_kl(slope: float) -> None:
    torch.manual_seed(0)
    assert not list(scan(Gate(slope), torch.randn(5, 6)))
