"""Layers whose outputs are drawn, of variances of weights that a KL knows: the draw follows a patch as the KL does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import scales
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def variance(v: Tensor) -> Tensor:
    return F.softplus(torch.clamp(v, min=-35.0))


class Layer(nn.Module):
    """Weights and bias in one matrix of raw values; what is drawn is the output."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(0.1 * torch.randn(n_out, 1 + n_in))
        self.rho = nn.Parameter(torch.full((n_out, 1 + n_in), -3.0))

    def drawn(self, x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        mean = F.linear(x, self.mu[:, :-1], self.mu[:, -1])
        return mean + torch.randn_like(mean) * F.linear(x**2, weights, bias).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return self.drawn(x, variance(self.rho[:, :-1]), variance(self.rho[:, -1]))


class OfLogSigmas(Layer):
    """The raw values are log σ; the variance is written out where it is drawn with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.drawn(x, torch.exp(2 * self.rho[:, :-1]), self.rho[:, -1].exp() ** 2)


class Network(nn.Module):
    def __init__(self, layer: type[Layer], sigma: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.sigma = nn.Sequential(layer(4, 8), nn.ReLU(), layer(8, 1)), sigma

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def beside(model: Network, x: Tensor, y: Tensor) -> Tensor:
    loss = F.mse_loss(model(x), y)
    for layer in model.layers:
        if isinstance(layer, Layer):
            q = Normal(layer.mu, model.sigma(layer.rho))
            loss = loss + 1e-3 * kl_divergence(q, Normal(0.0, 0.1)).sum()
    return loss


def root(v: Tensor) -> Tensor:
    return variance(v).sqrt()


CASES: list[tuple[type[Layer], Callable[[Tensor], Tensor]]] = [(Layer, root), (OfLogSigmas, torch.exp)]


@pytest.mark.parametrize(("layer", "sigma"), CASES)
@pytest.mark.parametrize("scale", ["explin", "bounded(0.01, 10)"])
def test_the_draw_and_the_kl_have_the_new_sigma(
    layer: type[Layer], sigma: Callable[[Tensor], Tensor], scale: str
) -> None:
    model, x, y = Network(layer, sigma), torch.randn(8, 4), torch.randn(8, 1)
    heads = scan(model, x, y, call=beside)
    assert {(h.path, h.role) for h in heads} == {(f"layers.{i}.rho", "posterior") for i in (0, 2)}
    handle = patch(model, posterior=scale, heads=heads, paper=True)
    assert handle.loss is not None
    with torch.no_grad():
        model.layers[0].rho.fill_(2.0)  # type: ignore[union-attr,operator]
    new = scales.get(scale).sigma(torch.tensor(2.0))
    torch.manual_seed(0)
    drawn = model.layers[0](torch.ones(20_000, 4))
    torch.testing.assert_close(drawn.std(0), torch.full((8,), 5**0.5) * new, rtol=3e-2, atol=0)

    with torch.no_grad():  # the KL of the second layer is another one; what the first one's adds is known
        torch.manual_seed(0)
        before = handle.loss(model, x, y) - F.mse_loss(_drawn_again(model, x), y)
        first, second = (model.layers[i] for i in (0, 2))
        expected = sum(
            1e-3 * kl_divergence(Normal(p.mu, scales.get(scale).sigma(p.rho)), Normal(0.0, 0.1)).sum()
            for p in (first, second)
        )
    torch.testing.assert_close(before, expected, rtol=1e-3, atol=0)


def _drawn_again(model: Network, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return model(x)


class OfAlpha(nn.Module):
    """Weights' variances, drawn at what they give; the KL is a fit over log α = log σ² − log θ²."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.theta = form, nn.Parameter(torch.empty(6, 5).uniform_(-0.4, 0.4))
        self.raw = nn.Parameter(torch.full((6, 5), -3.0))

    @property
    def variances(self) -> Tensor:
        return F.softplus(self.raw) if self.form == "softplus" else self.raw.exp()

    def forward(self, x: Tensor) -> Tensor:
        alpha = (self.variances.log() - self.theta.square().log()).clamp(-8, 8)
        kl = 0.5 * F.softplus(-alpha) - 0.63576 * torch.sigmoid(3.36015 + 1.48695 * alpha)
        std = torch.sqrt(torch.mm(x**2, self.variances) + 1e-6)
        out = x @ self.theta + std * torch.randn_like(std)
        return F.mse_loss(out, x[:, :5]) + (kl.sum() if self.form != "no KL" else 0)


@pytest.mark.parametrize("form", ["a log variance", "softplus", "no KL"])
@pytest.mark.filterwarnings("ignore:no Normal head")
def test_of_variances_that_are_no_heads_it_is_not_said_that_no_kl_has_them(form: str) -> None:
    torch.manual_seed(0)
    heads = scan(OfAlpha(form), torch.randn(4, 6))
    assert not list(heads)
    assert "no KL is known: no log σ of a head has a part in the loss" in heads.elbo.reason


@pytest.mark.filterwarnings("ignore:no Normal head")
def test_of_a_loss_in_which_nothing_is_drawn_it_is_said_that_there_is_no_kl() -> None:
    model, x = nn.Linear(6, 6), torch.randn(4, 6)
    elbo = scan(model, x, call=lambda model, x: F.mse_loss(model(x), x)).elbo
    assert elbo.reason == "no KL: no log σ of a posterior has a part in the loss"
