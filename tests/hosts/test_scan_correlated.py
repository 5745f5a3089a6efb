"""Bivariate Normals with a correlation: each deviation is a head, and the correlation stays what it is."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Strokes(nn.Module):
    """What Social LSTM and handwriting networks put out: two means, two deviations, a correlation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 5)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b, r, s, c = self.net(x).unbind(1)
        return a, b, torch.exp(r), torch.exp(s), torch.tanh(c)


class OfLogs(Strokes):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b, s1, s2, rho = self.parts(x)
        u, v, rest = (y[:, 0] - a) / s1, (y[:, 1] - b) / s2, 1 - rho**2
        square = u**2 + v**2 - 2 * rho * u * v
        return (square / (2 * rest) + torch.log(2 * math.pi * s1 * s2 * rest.sqrt())).mean()


class OfDensities(Strokes):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b, s1, s2, rho = self.parts(x)
        off1, off2, both, rest = y[:, 0] - a, y[:, 1] - b, s1 * s2, 1 - rho**2
        square = (off1 / s1) ** 2 + (off2 / s2) ** 2 - 2 * rho * off1 * off2 / both
        density = torch.exp(-square / (2 * rest)) / (2 * math.pi * both * rest.sqrt())
        return -torch.log(density.clamp(min=1e-20)).mean()


def nll(out: Tensor, y: Tensor, scale: torch.Tensor) -> Tensor:
    """The same by PyTorch's own, in float64."""
    rho = torch.tanh(out[:, 4])
    s1, s2 = scale.unbind(1)
    covariance = torch.stack([s1**2, rho * s1 * s2, rho * s1 * s2, s2**2], 1).view(-1, 2, 2)
    normal = torch.distributions.MultivariateNormal(out[:, :2], covariance)
    return -normal.log_prob(y).mean()


@pytest.mark.medium
@pytest.mark.parametrize("host", [OfLogs, pytest.param(OfDensities, marks=pytest.mark.slow)])
def test_both_deviations_are_heads_and_a_patch_leaves_the_correlation(host: type[Strokes]) -> None:
    torch.manual_seed(0)
    model, x, y = host(), torch.randn(6, 3), torch.randn(6, 2)
    before = model(x, y)
    heads = scan(model, x, y)
    assert {head.role for head in heads} == {"likelihood"}
    places = {place for head in heads for place in range(head.start, head.stop or 5)}
    assert places == {2, 3}
    v = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for head in heads:
        torch.testing.assert_close(head.convention.sigma(v), v.exp())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=heads, likelihood="explin")
    out = model.net(x).double()
    raw = x.double() @ model.net.weight.double().T + model.net.bias.double()
    scale = torch.where(raw[:, 2:4] < 0, raw[:, 2:4].exp(), 1 + raw[:, 2:4])
    torch.testing.assert_close(model(x, y).double(), nll(raw, y.double(), scale), rtol=1e-4, atol=1e-4)
    assert not torch.equal(out, raw)
    handle.unpatch()
    assert torch.equal(model(x, y), before)


class Independent(nn.Module):
    """A control: what two values share is a mean, and they are not correlated."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, r, s = self.net(x).unbind(1)
        off1, off2 = y[:, 0] - mean, y[:, 1] - 0.5 * mean
        return (0.5 * (off1 / r.exp()) ** 2 + 0.5 * (off2 / s.exp()) ** 2 + r + s).mean()


@pytest.mark.medium
def test_values_with_a_common_mean_keep_their_own_sigma() -> None:
    torch.manual_seed(0)
    v = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for head in scan(Independent(), torch.randn(6, 3), torch.randn(6, 2)):
        torch.testing.assert_close(head.convention.sigma(v), v.exp())
