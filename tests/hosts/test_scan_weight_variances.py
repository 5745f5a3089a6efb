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
