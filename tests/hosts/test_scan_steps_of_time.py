"""Steps of time that are cut out of a layer's output hide none of its channels: next-step densities, masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def series() -> Tensor:
    return torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(1))


class Forecast(nn.Module):
    """A mean and a log σ of each step; which steps are compared with what is the case's."""

    def __init__(self, density: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.density, self.law = density, nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        return -self.density(x, *self.law(x).chunk(2, -1)).mean()


def by_hand(y: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    return -0.5 * ((y - mean) / log_sigma.exp()) ** 2 - log_sigma


def of_the_next_step(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    return Normal(mean[:, :-1], log_sigma[:, :-1].exp()).log_prob(x[:, 1:])


def of_the_next_step_by_hand(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    return by_hand(x[:, 1:], mean[:, :-1], log_sigma[:, :-1])


def of_each_second_step(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    return by_hand(x[:, 1::2], mean[:, ::2], log_sigma[:, ::2])


def of_what_is_there(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    there = torch.arange(4) < torch.tensor([4, 3, 2, 4, 4, 3, 2, 1, 4])[:, None]
    return by_hand(x[there], mean[there], log_sigma[there])


@pytest.mark.parametrize("density", [of_the_next_step, of_the_next_step_by_hand, of_each_second_step, of_what_is_there])
def test_a_density_of_some_steps_names_the_channels_of_its_scale(density: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model = Forecast(density)
    heads = scan(model, series())
    assert found(heads) == [("law", "5:10", "likelihood")]
    patch(model, heads=heads, likelihood="bounded(0.01, 10)")


class Chained(nn.Module):
    """A posterior of each step, and a prior of each but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.step, self.dec = nn.Linear(5, 6), nn.Linear(3, 6), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, -1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        p_mean, p_log_var = self.step(z[:, :-1]).chunk(2, -1)
        later, first = ((mean[:, part], (0.5 * log_var[:, part]).exp()) for part in (slice(1, None), 0))
        kl = kl_divergence(Normal(*later), Normal(p_mean, (0.5 * p_log_var).exp())).mean()
        kl = kl + kl_divergence(Normal(*first), Normal(torch.zeros(3), torch.ones(3))).mean()
        return (self.dec(z) - x).square().mean() + kl


def test_a_posterior_whose_later_steps_alone_are_compared_with_a_prior_is_one_head() -> None:
    torch.manual_seed(0)
    model = Chained()
    heads = scan(model, series())
    assert found(heads) == [("enc", "3:6", "posterior"), ("step", "3:6", "prior")]
    patch(model, heads=heads, posterior="explin", prior="explin")
