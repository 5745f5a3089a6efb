"""Bayesian layers whose weights' means are told in units of their σ, so that it multiplies noise and mean together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, made: Callable[[Tensor], Tensor], ratio_first: bool) -> None:
        super().__init__()
        self.made, self.ratio_first = made, ratio_first
        self.ratio, self.rho = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(inputs, outputs))
        self.bias_ratio, self.bias_rho = nn.Parameter(torch.randn(outputs)), nn.Parameter(0.3 * torch.randn(outputs))

    def drawn(self, ratio: Tensor, rho: Tensor) -> Tensor:
        noise = torch.randn_like(ratio)
        return self.made(rho) * (ratio + noise) if self.ratio_first else (noise + ratio) * self.made(rho)

    def forward(self, x: Tensor) -> Tensor:
        self.weight = self.drawn(self.ratio, self.rho)
        return x @ self.weight + self.drawn(self.bias_ratio, self.bias_rho)

    def kl(self) -> Tensor:
        return 0.5 * sum(torch.log(1 + ratio**2).sum() for ratio in (self.ratio, self.bias_ratio))


class Network(nn.Module):
    def __init__(self, made: Callable[[Tensor], Tensor], ratio_first: bool = False, penalty: bool = True) -> None:
        super().__init__()
        self.first, self.second = Layer(4, 5, made, ratio_first), Layer(5, 1, made, ratio_first)
        self.log_sigma, self.penalty = nn.Parameter(torch.zeros(())), penalty

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        error = self.second(self.first(x).relu()) - y
        nll = 0.5 * (error / self.log_sigma.exp()) ** 2 + self.log_sigma
        return nll.mean() + (self.first.kl() + self.second.kl() if self.penalty else 0.0)


SIGMAS = {f"{layer}.{name}" for layer in ("first", "second") for name in ("rho", "bias_rho")}


@pytest.mark.parametrize("ratio_first", [True, False])
@pytest.mark.parametrize("made", [torch.abs, F.softplus, torch.exp], ids=lambda made: made.__name__)
def test_such_weights_are_posteriors_and_patched(made: Callable[[Tensor], Tensor], ratio_first: bool) -> None:
    torch.manual_seed(0)
    model, x, y = Network(made, ratio_first), torch.randn(6, 4), torch.randn(6, 1)
    heads = scan(model, x, y)
    roles = {head.path: head.role for head in heads}
    assert roles == {**dict.fromkeys(SIGMAS, "posterior"), "log_sigma": "likelihood"}
    v = torch.linspace(-3, 3, 13, dtype=torch.float64)
    assert all(torch.allclose(h.convention.sigma(v), made(v)) for h in heads if h.role == "posterior")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, posterior="explin", paper=True)
    model.first.rho.data.fill_(-20.0)
    model(x, y).backward()
    assert model.first.weight.abs().max() < 1e-6  # noise and mean are both multiplied by σ, which is exp(-20) now


def test_noise_that_is_shifted_and_scaled_is_a_noise_layer_where_nothing_measures_the_shift() -> None:
    torch.manual_seed(0)
    model, x, y = Network(F.softplus, penalty=False), torch.randn(6, 4), torch.randn(6, 1)
    heads = scan(model, x, y)
    assert [head.path for head in heads] == ["log_sigma"]
    assert "a noise layer" in heads.why_not()
