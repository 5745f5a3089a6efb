"""What resembles a Gaussian term is told from one; weights and learned bounds change nothing about one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class TwoOutputs(nn.Module):
    """Two outputs of one layer, and what is made of them."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.loss = loss
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.net(x).chunk(2, -1)
        counts = x[:, :2].abs().round()
        if self.loss == "poisson":
            return ((b - x[:, 2:4]) ** 2 + a.exp() - a * counts).mean()
        kl = 0.5 * (a.exp() + b**2 - a)
        if self.loss == "masked":
            kl = kl * (counts > 0).float()
        if self.loss == "weighted by data":
            kl = kl * x[:, 4:].abs()
        if self.loss == "weighted by a parameter":
            kl = self.beta * kl
        return kl.mean()


@pytest.mark.filterwarnings("ignore:no Normal head")
def test_a_poisson_loss_beside_a_squared_error_is_no_normal() -> None:
    torch.manual_seed(0)
    assert scan(TwoOutputs("poisson"), torch.randn(5, 6)) == []


@pytest.mark.parametrize("loss", ["plain", "masked", "weighted by data", "weighted by a parameter"])
def test_a_kl_is_known_whatever_weighs_it(loss: str) -> None:
    torch.manual_seed(0)
    heads = scan(TwoOutputs(loss), torch.randn(5, 6))
    assert [(h.path, h.channels, h.role) for h in heads] == [("net", ":2", "posterior")]


class Bounded(nn.Module):
    """A log variance between soft bounds that are learned, named through the model or through a variable."""

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.by_name = by_name
        self.net = nn.Linear(6, 4)
        self.low, self.high = nn.Parameter(torch.full((2,), -6.0)), nn.Parameter(torch.full((2,), 1.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, logvar = self.net(x).chunk(2, -1)
        if self.by_name:
            logvar = self.high - F.softplus(self.high - logvar)
            logvar = self.low + F.softplus(logvar - self.low)
        else:
            low, high = self.low, self.high
            logvar = high - F.softplus(high - logvar)
            logvar = low + F.softplus(logvar - low)
        return ((y - mean) ** 2 * torch.exp(-logvar) + logvar).mean()


@pytest.mark.parametrize("by_name", [True, False])
def test_learned_bounds_belong_to_the_scale_and_are_no_heads(by_name: bool) -> None:
    model = Bounded(by_name)
    heads = scan(model, torch.randn(5, 6), torch.randn(5, 2))
    assert [(h.path, h.channels, h.role) for h in heads] == [("net", "2:4", "likelihood")]
    assert sorted(miss.reason.split()[0] for miss in heads.near_misses) == ["high", "low"]
    v = torch.linspace(-9, 4, 14, dtype=torch.float64)
    logvar = -6 + F.softplus(1.5 - F.softplus(1.5 - v) + 6)
    torch.testing.assert_close(heads[0].convention.sigma(v), torch.exp(0.5 * logvar))
    patch(model, likelihood="bounded(alpha=0.1, omega=1)", heads=heads)


class OfAPart(nn.Module):
    """Some columns of the input are what the rest is to tell, under a Normal whose σ is elu + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.sigma = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        sigma = F.elu(self.sigma(x)) + 1 + 1e-6
        law = Independent(Normal(self.mean(x).view(-1, 2, 2), sigma.view(-1, 2, 2)), 1)
        return -law.log_prob(x[:, None, :2]).mean()


def test_a_density_of_a_part_of_the_input_is_a_likelihood() -> None:
    model, x = OfAPart(), torch.randn(5, 6)
    heads = scan(model, x)
    assert [(h.path, h.role, str(h.convention)) for h in heads] == [
        ("sigma", "likelihood", "elu(v, alpha=1) + 1.000001")
    ]
    patch(model, likelihood="bounded(alpha=0.1, omega=1)", heads=heads)


class Imagined(nn.Module):
    """A prior that is sampled at every step, and one KL of all steps together."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.posterior = nn.Linear(2, 4), nn.Linear(8, 4)
        self.dec = nn.Linear(2, 6)

    def law(self, net: nn.Module, h: Tensor) -> Normal:
        mean, raw = net(h).chunk(2, -1)
        return Normal(mean, F.softplus(raw) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        z, laws, unread = torch.zeros(len(x), 2), [], []
        for step in x.unbind(1):
            p = self.law(self.prior, z)
            unread.append(p.rsample())
            q = self.law(self.posterior, torch.cat([z, step], -1))
            z = q.rsample()
            laws.append((q.loc, q.scale, p.loc, p.scale))
        qm, qs, pm, ps = (torch.stack(parts) for parts in zip(*laws, strict=True))
        kl = torch.distributions.kl_divergence(Normal(qm, qs), Normal(pm, ps)).mean()
        return kl + (self.dec(z) - x[:, -1]).square().mean()


def test_a_prior_whose_kl_shows_one_step_is_the_prior_at_every_step() -> None:
    heads = scan(Imagined(), torch.randn(5, 4, 6))
    assert {(h.path, h.channels, h.role) for h in heads} == {
        ("prior", "2:4", "prior"),
        ("posterior", "2:4", "posterior"),
    }


class CriticOfCodes(nn.Module):
    """A KL and a critic's log(1 + exp(-v)), which far from zero is nearly -log σ² + σ² of σ² = exp(v)."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.enc, self.dec, self.critic = nn.Linear(6, 2 * latents), nn.Linear(latents, 6), nn.Linear(latents, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, -1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        loss = (self.dec(z) - x).square().sum(1).mean() + kl
        return loss + mean.shape[1] / 2 * F.softplus(-self.critic(z)).mean()


@pytest.mark.parametrize("latents", [2, 4])
def test_a_critic_of_codes_is_no_head_whatever_its_weight(latents: int) -> None:
    torch.manual_seed(0)
    assert [head.path for head in scan(CriticOfCodes(latents), torch.randn(8, 6))] == ["enc"]
