"""A raw value that is bounded, and bounded again by a function that it is given to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch, unpatch
from vdvae_patch.scanning import scan


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    log_var = log_var.clamp(-10.0, 10.0)
    return -0.5 * ((-log_var).exp() * (z - mean) ** 2 + log_var + math.log(2 * math.pi)).sum(-1)


def log_normal_of_sigma(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    sigma = torch.clamp(sigma, min=1e-6)
    return (-0.5 * ((z - mean) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def kl_to_standard(mean: Tensor, log_var: Tensor) -> Tensor:
    log_var = F.hardtanh(log_var, -10.0, 10.0)
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)


def kl_in_place(mean: Tensor, log_var: Tensor) -> Tensor:
    log_var = log_var.clone().clamp_(-10.0, 10.0)
    return -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)


def drawn(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.randn_like(mean) * (0.5 * log_var.clamp(min=-10.0, max=10.0)).exp()


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.mean, self.raw, self.dec = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 6)
        self.bound = nn.Hardtanh(-10.0, 10.0)

    def encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.h(x).relu()
        return self.mean(h), self.raw(h)

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        return 0.5 * (x - self.dec(z)).pow(2).sum(1)


def standard(z: Tensor) -> Tensor:
    return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)


def sampled(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = log_var.clamp(-10.0, 10.0)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
    log_q = log_normal(z, mean, log_var)
    return (model.reconstruction(x, z) + log_q - standard(z)).mean()


def sampled_and_named(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    bounded = torch.clamp(log_var, -10.0, 10.0)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * bounded)
    return (model.reconstruction(x, z) - (standard(z) - log_normal(z, log_var=bounded, mean=mean))).mean()


def closed(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = log_var.clamp(-10.0, 10.0)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
    return (model.reconstruction(x, z) + kl_to_standard(mean, log_var)).mean()


def in_place(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = log_var.clamp(-10.0, 10.0)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
    return (model.reconstruction(x, z) + kl_in_place(mean, log_var)).mean()


def by_a_module(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = model.bound(log_var)
    z = drawn(mean, log_var)
    return (model.reconstruction(x, z) + log_normal(z, mean, log_var) - standard(z)).mean()


def in_both(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = log_var.clamp(-10.0, 10.0)
    z = drawn(mean, log_var)
    return (model.reconstruction(x, z) + kl_to_standard(mean, log_var)).mean()


def three_times(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    log_var = log_var.clamp(-10.0, 10.0)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
    log_var = log_var.clamp(-10.0, 10.0)
    return (model.reconstruction(x, z) + log_normal(z, mean, log_var) - standard(z)).mean()


def of_sigma(model: Coder, x: Tensor) -> Tensor:
    mean, raw = model.encoded(x)
    sigma = F.softplus(raw).clamp(min=1e-6)
    z = mean + torch.randn_like(mean) * sigma
    return (model.reconstruction(x, z) + log_normal_of_sigma(z, mean, sigma) - standard(z)).mean()


def only_the_density(model: Coder, x: Tensor) -> Tensor:
    mean, log_var = model.encoded(x)
    bounded = log_var.clamp(-10.0, 10.0)
    return -log_normal(x[:, :4], mean, bounded).mean()


LOSSES = [
    sampled, sampled_and_named, closed, in_place, by_a_module, in_both, three_times, of_sigma, only_the_density,
]  # fmt: skip


@pytest.mark.medium
@pytest.mark.parametrize("inside", [False, True], ids=["beside the model", "in a method"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_what_bounds_a_raw_value_again_lets_it_pass(loss: Callable[[Coder, Tensor], Tensor], inside: bool) -> None:
    class Whole(Coder):
        def forward(self, x: Tensor) -> Tensor:
            return loss(self, x)

    torch.manual_seed(0)
    model, x = Whole(), torch.randn(7, 6)
    with torch.no_grad():
        model.raw.bias.copy_(torch.tensor([-25.0, 0.0, 1.0, 3.0]))
    call = None if inside else loss
    (head,) = scan(model, x, call=call)
    for verify in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a floor is lost
            handle = patch(model, heads=[head], verify=verify, **{head.role: "explin"})
        value = model(x) if inside else handle.loss(model, x)
        assert value.shape == ()
        value.backward()
        assert model.raw.weight.grad is not None
        below = model.raw.weight.grad[0]  # a raw value below the host's own bound, which had no gradient
        assert torch.isfinite(below).all()
        assert (below != 0).any()
        model.zero_grad()
        unpatch(model)


def test_a_function_that_goes_on_from_sigma_is_not_replaced_by_it() -> None:
    """Its own value, a density of one number a row, would be σ itself."""
    torch.manual_seed(0)
    model, x = Coder(), torch.randn(7, 6)
    (head,) = scan(model, x, call=only_the_density)
    handle = patch(model, heads=[head], likelihood="explin", verify=False)
    assert handle.loss(model, x).isfinite()
    mean, raw = model.encoded(x)
    p = 0.5 * raw
    log_sigma = torch.where(p > 0, torch.log1p(p.clamp(min=0)), p)
    wanted = 0.5 * (((x[:, :4] - mean) / log_sigma.exp()) ** 2 + 2 * log_sigma + math.log(2 * math.pi)).sum(-1).mean()
    torch.testing.assert_close(handle.loss(model, x), wanted)


class Bounded(nn.Module):
    """A member of an ensemble: soft bounds in its forward, a floor in the loss."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = nn.Linear(5, 6)
        high, low = torch.full((1, 3), 0.5), torch.full((1, 3), -10.0)
        if kind == "parameters":
            self.high, self.low = nn.Parameter(high), nn.Parameter(low, requires_grad=False)
        elif kind == "buffers":
            self.register_buffer("high", high)
            self.register_buffer("low", low)
        else:
            self.high, self.low = 0.5, -10.0  # type: ignore[assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.net(x).chunk(2, -1)
        log_var = self.high - F.softplus(self.high - log_var)
        return mean, self.low + F.softplus(log_var - self.low)


def floored_nll(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    mean, log_var = model(x)
    var = log_var.exp() + 1e-6
    loss: Tensor = ((mean - y).square() / var + var.log()).mean()
    return loss


@pytest.mark.filterwarnings("ignore:head .* the host keeps σ")
@pytest.mark.parametrize("kind", ["floats", "buffers", "parameters"])
def test_in_front_of_a_floor_in_the_loss_the_network_returns_the_scales_log_variance(kind: str) -> None:
    torch.manual_seed(0)
    model, x, y = Bounded(kind), torch.randn(16, 5), torch.randn(16, 3)
    with torch.no_grad():
        model.net.bias[3:] = -3  # well inside of the bounds
    (head,) = scan(model, x, y, call=floored_nll)
    before = floored_nll(model, x, y)
    handle = patch(model, likelihood="upbounded(10)", heads=[head], paper=False)
    torch.testing.assert_close(handle.loss(model, x, y), before, rtol=1e-2, atol=0)
    unpatch(model)
    handle = patch(model, likelihood="explin", heads=[head], paper=True)
    with torch.no_grad():
        model.net.bias[3:] = -30  # below the host's bound, and its floor
    p = model.net(x)[:, 3:]
    torch.testing.assert_close(model(x)[1], 2 * p)
    mean = model.net(x)[:, :3]
    torch.testing.assert_close(handle.loss(model, x, y), ((mean - y).square() / (2 * p).exp() + 2 * p).mean())
