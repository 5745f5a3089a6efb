"""Hosts that draw from one Normal and measure another: one line of the scan says so, and a patch makes them one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def rate(mean: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma) ‖ N(0, 1)), summed over a row, in nats."""
    return 0.5 * (mean**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1)


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.mean, self.raw, self.dec = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 6)

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.h(x).relu()
        return self.mean(h), self.raw(h)


def sigma_as_variance(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The σ that draws is kept, and taken for a variance."""
    mean, raw = model.encoded(x)
    sigma = raw.exp()
    z = mean + sigma * eps
    return z, -0.5 * (1 + sigma.log() - mean**2 - sigma).sum(1)


def variance_as_sigma(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_var = model.encoded(x)
    std = torch.exp(0.5 * log_var)
    z = mean + std * eps
    return z, 0.5 * (mean.pow(2) + log_var.exp().pow(2) - 1 - 2 * log_var).sum(1)


def log_sigma_as_log_variance(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_sigma = model.encoded(x)
    z = eps.mul(log_sigma.exp()).add(mean)
    return z, -0.5 * torch.sum(1 + log_sigma - mean.pow(2) - log_sigma.exp(), dim=1)


def raw_draws(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = model.encoded(x)
    return mean + raw * eps, 0.5 * (raw.exp() + mean**2 - 1 - raw).sum(1)


def softplus_as_log_variance(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = model.encoded(x)
    sigma = F.softplus(raw)
    return mean + sigma * eps, 0.5 * (sigma.exp() + mean**2 - 1 - sigma).sum(1)


def of_a_helper(mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(1)


def in_a_helper(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = model.encoded(x)
    return mean + raw.exp() * eps, of_a_helper(mean, raw)


def bounded(model: Coder, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = model.encoded(x)
    raw = raw.clamp(-8.0, 8.0)
    return mean + raw.exp() * eps, of_a_helper(mean, raw)


HOSTS = [
    sigma_as_variance, variance_as_sigma, log_sigma_as_log_variance, raw_draws, in_a_helper, bounded,
    softplus_as_log_variance,
]  # fmt: skip
Host = Callable[[Coder, Tensor, Tensor], tuple[Tensor, Tensor]]


@pytest.mark.medium
@pytest.mark.parametrize("inside", [True, False], ids=["in a method", "beside the model"])
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_what_draws_is_kept_and_the_kl_measures_it(host: Host, inside: bool) -> None:
    class Whole(Coder):
        def forward(self, x: Tensor) -> Tensor:
            return loss_of(self, x)

    def loss_of(model: Coder, x: Tensor) -> Tensor:
        eps = torch.randn(len(x), 4)
        z, kl = host(model, x, eps)
        seen[:] = [z, kl, eps]
        return F.mse_loss(model.dec(z), x) + kl.mean()

    seen: list[Tensor] = []
    torch.manual_seed(0)
    model, x = Whole(), torch.randn(7, 6)
    call = None if inside else loss_of
    (head,) = scan(model, x, call=call)
    assert head.role == "posterior"
    assert head.found is not None
    assert sum("reads this raw value in ways that disagree" in w for w in head.found.warnings) == 1
    v = torch.linspace(0.1, 1.3, 7)
    drawn = host(Fixed(v), v, torch.ones(7, 1))[0].squeeze(1)
    torch.testing.assert_close(head.convention.sigma(v.double()).float(), drawn, msg="it is what draws that counts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=[head], posterior="explin")
    loss = model(x) if inside else handle.loss(model, x)
    z, kl, eps = seen
    mean = model.mean(model.h(x).relu())
    sigma = (z - mean) / eps
    assert (sigma > 0).all()
    torch.testing.assert_close(kl, rate(mean, sigma), rtol=1e-3, atol=1e-3)
    loss.backward()
    assert model.raw.weight.grad is not None


class Fixed(Coder):
    """Gives raw values that are known, and zeros for means."""

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.v = v[:, None]

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.v), self.v


class DrawnWeights(nn.Module):
    """A parameter that is σ itself; the draw bounds it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.sigma = nn.Parameter(0.1 * torch.randn(3, 4)), nn.Parameter(torch.full((3, 4), 0.05))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.randn_like(self.weight) * self.sigma.clamp(min=1e-8))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = DrawnWeights()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def squared_ratio(mean: Tensor, sigma: Tensor, prior: float) -> Tensor:
    ratio = (sigma / prior) ** 2
    return 0.5 * (ratio + (mean / prior) ** 2 - 1 - ratio.log()).mean()


def bare(mean: Tensor, sigma: Tensor, prior: float) -> Tensor:
    return 0.5 * (sigma**2 / prior**2 + (mean / prior) ** 2 - 1).mean() - (sigma / prior).log().mean()


def of_absolute(mean: Tensor, sigma: Tensor, prior: float) -> Tensor:
    return bare(mean, sigma.abs(), prior)


@pytest.mark.parametrize("kl", [squared_ratio, bare, of_absolute], ids=lambda kl: kl.__name__)
def test_a_parameter_that_the_draw_bounds_and_the_kl_squares_is_what_draws(
    kl: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    torch.manual_seed(0)
    model, x, y = Network(), torch.randn(5, 4), torch.randint(3, (5,))

    def loss_of(model: Network, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y) + 0.001 * kl(model.layer.weight, model.layer.sigma, 1.0)

    (head,) = scan(model, x, y, call=loss_of)
    assert (head.path, head.role) == ("layer.sigma", "posterior")
    v = torch.tensor([-1.0, -0.1, 0.0, 0.2, 3.0], dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), v.clamp(min=1e-8))
    assert head.found is not None
    assert any("reads this raw value in ways that disagree" in w for w in head.found.warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=[head], posterior="explin")
    handle.loss(model, x, y).backward()
    assert model.layer.sigma.grad is not None
    assert torch.isfinite(model.layer.sigma.grad).all()


@pytest.mark.parametrize("squash", [F.softplus, F.elu, torch.tanh], ids=lambda f: f.__name__)
def test_a_squashed_log_variance_is_one_in_draw_and_kl_whichever_way_the_kl_is_summed(
    squash: Callable[[Tensor], Tensor],
) -> None:
    """Subtracted last, log σ² leaves a part of the KL without it, `exp(s) + m² - 1`, which is no KL of anything."""

    class Squashed(Coder):
        def forward(self, x: Tensor) -> Tensor:
            mean, raw = self.encoded(x)
            log_var = squash(raw)
            z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
            return F.mse_loss(self.dec(z), x) + 0.5 * (log_var.exp() + mean**2 - 1.0 - log_var).sum(1).mean()

    torch.manual_seed(0)
    model, x = Squashed(), torch.randn(7, 6)
    heads = scan(model, x)
    (head,) = heads
    assert head.path == "raw"
    assert head.found is not None
    assert not any("disagree" in warning for warning in head.found.warnings)
    v = torch.linspace(-3, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), torch.exp(squash(v) / 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, posterior="explin")
    assert model(x).isfinite()
