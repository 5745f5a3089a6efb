"""Densities that train nothing name no head; laws without a gradient that the loss is made of do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.scanning import ScanResult, scan


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def rows(size: int = 6) -> Tensor:
    return torch.randn(9, size, generator=torch.Generator().manual_seed(1))


class DrawnWeights(nn.Module):
    """Weights are drawn and used, biases are drawn and not; densities of both leave the graph as numbers."""

    def __init__(self, as_number: bool) -> None:
        super().__init__()
        self.as_number = as_number
        self.mean, self.raw = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.full((6, 3), -3.0))
        self.bias_mean, self.bias_raw = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.full((3,), -3.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sigma, bias_sigma = F.softplus(self.raw), F.softplus(self.bias_raw)
        weight = self.mean + sigma * torch.randn_like(sigma)
        bias = self.bias_mean + bias_sigma * torch.randn_like(bias_sigma)
        log_q = (
            Normal(self.mean, sigma).log_prob(weight).sum() + Normal(self.bias_mean, bias_sigma).log_prob(bias).sum()
        )
        log_p = Normal(0.0, 1.0).log_prob(weight).sum() + Normal(0.0, 1.0).log_prob(bias).sum()
        ratio = (log_q - log_p).item() if self.as_number else log_q - log_p
        return F.mse_loss(x @ weight, y) + 1e-3 * ratio


@pytest.mark.parametrize("as_number", [True, False])
def test_a_bias_that_is_added_nowhere_is_a_head_only_if_its_density_trains_it(as_number: bool) -> None:
    torch.manual_seed(0)
    heads = scan(DrawnWeights(as_number), rows(), rows(3))
    biases = [] if as_number else [("bias_raw", ":", "posterior")]
    assert found(heads) == [*biases, ("raw", ":", "posterior")]


class Likelihood(nn.Module):
    """The density of the data by a law that stands beside the decoder."""

    def __init__(self, without: str) -> None:
        super().__init__()
        self.without = without
        self.mean, self.log_var, self.law, self.dec = (nn.Linear(a, b) for a, b in ((6, 3), (6, 3), (3, 12), (3, 6)))

    def density(self, x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
        return -(0.5 * ((x - mean) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        law = self.law(z)
        if self.without == "no_grad":
            with torch.no_grad():
                log_p = self.density(x, *law.chunk(2, 1))
        else:
            log_p = self.density(x, *law.chunk(2, 1))
            log_p = log_p.detach() if self.without == "detach" else log_p
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)
        return (self.dec(z) - x).square().mean() + kl.mean() - log_p.mean()


@pytest.mark.parametrize("without", ["no_grad", "detach", "nothing"])
def test_a_density_that_is_a_number_in_the_loss_names_no_likelihood(without: str) -> None:
    torch.manual_seed(0)
    heads = scan(Likelihood(without), rows())
    likelihood = [("law", "6:12", "likelihood")] if without == "nothing" else []
    assert found(heads) == [*likelihood, ("log_var", ":", "posterior")]


class Ratio(nn.Module):
    """A policy, and a copy of it that has acted before: the ratio of their densities is weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Linear(6, 4)
        self.before = copy.deepcopy(self.policy)

    def log_prob(self, layer: nn.Module, state: Tensor, action: Tensor) -> Tensor:
        mean, raw = layer(state).chunk(2, 1)
        return Normal(mean, F.softplus(raw)).log_prob(action).sum(1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        with torch.no_grad():
            old = self.log_prob(self.before, state, action)
        return -(self.log_prob(self.policy, state, action) - old).exp().mean()


def test_a_policy_that_has_acted_before_runs_without_gradients_and_is_a_head() -> None:
    torch.manual_seed(0)
    heads = scan(Ratio(), rows(), rows(2))
    assert found(heads) == [("before", "2:4", "likelihood"), ("policy", "2:4", "likelihood")]


class TargetDraw(nn.Module):
    """What a network draws without gradients, another one is to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.target, self.critic = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, target = (Normal(h[:, :3], h[:, 3:].exp()) for h in (self.enc(x), self.target(x)))
        aim = self.critic(target.rsample()).detach()
        kl = kl_divergence(q, Normal(torch.zeros(3), torch.ones(3)))
        return F.mse_loss(self.critic(q.rsample()), aim) + kl.mean()


def test_what_is_drawn_for_a_target_is_a_head_though_it_gets_no_gradient() -> None:
    torch.manual_seed(0)
    assert ("target", "3:6") in [(path, channels) for path, channels, _ in found(scan(TargetDraw(), rows()))]
