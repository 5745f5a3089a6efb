"""Ratios of two σ that a KL computes are no heads beside the two."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def series() -> Tensor:
    return torch.randn(7, 4, 6, generator=torch.Generator().manual_seed(1))


def draw(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def kl(mean: Tensor, log_var: Tensor, p_mean: Tensor, p_log_var: Tensor) -> Tensor:
    moved = ((mean - p_mean) / torch.exp(0.5 * p_log_var)).pow(2)
    return 0.5 * (p_log_var - log_var + torch.exp(log_var - p_log_var) + moved - 1).mean(0).sum()


class Driven(nn.Module):
    """A first state, and inputs of each step, whose prior is that of an autoregressive process: its first step and the
    others have one log variance, which the process' time constant makes smaller."""

    def __init__(self, autocast: bool, variance: float) -> None:
        super().__init__()
        self.autocast, self.variance = autocast, variance
        self.state, self.control, self.dec = nn.Linear(24, 8), nn.Linear(6, 4), nn.Linear(4 + 2, 6)
        self.log_var, self.log_tau = nn.Parameter(torch.full((2,), math.log(0.1))), nn.Parameter(torch.zeros(2))

    def process(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        kept, flat = torch.exp(-1 / self.log_tau.exp()), torch.ones_like(drawn)
        mean = torch.cat((torch.zeros_like(drawn[:, :1]), drawn[:, :-1] * kept), 1)
        later = torch.log(1 - kept.pow(2)) + self.log_var * flat[:, 1:]
        return mean, torch.cat((self.log_var * flat[:, :1], later), 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            state, control = self.state(x.flatten(1)).float(), self.control(x).float()
        mean, log_var = state.chunk(2, 1)
        u_mean, u_log_var = control.chunk(2, -1)
        z, u = draw(mean, log_var), draw(u_mean, u_log_var)
        made = self.dec(torch.cat([z[:, None].expand(-1, 4, -1), u], -1))
        fixed = torch.full((4,), math.log(self.variance))
        loss = (made - x).square().mean() + kl(mean, log_var, torch.zeros(4), fixed)
        return loss + kl(u_mean, u_log_var, *self.process(u))


@pytest.mark.parametrize(("autocast", "variance"), [(False, 0.1), (False, 1.0), (True, 0.1)])
def test_a_ratio_of_two_variances_is_no_head_beside_the_posterior_and_the_prior(
    autocast: bool, variance: float
) -> None:
    torch.manual_seed(0)
    model = Driven(autocast, variance)
    heads = scan(model, series())
    assert found(heads) == [("control", "2:4", "posterior"), ("log_var", ":", "prior"), ("state", "4:8", "posterior")]
    if not autocast:
        patch(model, heads=heads, posterior="explin", prior="explin")


class BothWays(nn.Module):
    """A symmetrised KL: of each of two posteriors the ratio is taken in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.dec = nn.Linear(24, 8), nn.Linear(24, 8), nn.Linear(4, 24)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        (m, v), (n, w) = self.one(flat).chunk(2, 1), self.other(flat.square()).chunk(2, 1)
        loss = (self.dec(draw(m, v)) - flat).square().mean() + (self.dec(draw(n, w)) - flat).square().mean()
        return loss + 0.5 * (kl(m, v, n, w) + kl(n, w, m, v))


def test_two_posteriors_that_are_kept_near_each_other_by_kls_in_both_directions_are_two_posteriors() -> None:
    torch.manual_seed(0)
    heads = scan(BothWays(), series())
    assert found(heads) == [("one", "4:8", "posterior"), ("other", "4:8", "posterior")]


class TwoViews(nn.Module):
    """The posteriors of two views judge each other's draws, and a critic tells pairs of codes."""

    def __init__(self, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.one, self.other = nn.Linear(24, 8), nn.Linear(12 if conditional else 24, 8)
        self.critic = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out = self.one(flat), self.other(flat[:, :12] if self.conditional else flat.flip(1))
        q, p = (Normal(h[:, :4], torch.nn.functional.softplus(h[:, 4:]) + 1e-6) for h in out)
        z, w = q.rsample(), p.rsample()
        kl = q.log_prob(z) - p.log_prob(z) + p.log_prob(w) - q.log_prob(w)
        return kl.mean() - self.critic(torch.cat([z, w], 1)).mean()


@pytest.mark.parametrize("conditional", [False, True])
def test_posteriors_of_two_views_judge_each_others_draws_and_a_prior_sees_less(conditional: bool) -> None:
    torch.manual_seed(0)
    roles = {head.path: head.role for head in scan(TwoViews(conditional), series())}
    assert roles == {"one": "posterior", "other": "prior" if conditional else "posterior"}
