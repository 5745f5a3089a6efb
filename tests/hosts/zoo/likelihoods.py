"""Likelihoods with a scale, and hosts that compute in torch.distributions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, LogNormal, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import TanhTransform

from zoo import Case, TrueHead, rows
from zoo.plain import half


class NormalDecoder(nn.Module):
    """Posterior and pixels as `Normal`s; the scale of the pixels is a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, dim=-1)
        q = Normal(mean, torch.exp(raw))
        z = q.rsample()
        loc, scale = self.dec(z).chunk(2, dim=-1)
        log_px = Independent(Normal(loc, F.softplus(scale) + 1e-3), 1).log_prob(x)
        kl = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(raw))).sum(-1)
        return (kl - log_px).mean()


class GlobalScale(nn.Module):
    """One learned log sigma for all pixels, softly bounded below; no module emits it."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mu, logvar = self.enc(x).chunk(2, 1)
        z = mu + torch.randn_like(mu) * torch.exp(logvar / 2)
        log_sigma = -6 + F.softplus(self.log_sigma + 6)
        nll = 0.5 * torch.pow((x - self.dec(z)) / log_sigma.exp(), 2) + log_sigma + 0.5 * math.log(2 * math.pi)
        kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1)
        return nll.sum(1).mean() + kl.mean()


class Disagreeing(nn.Module):
    """The sampler takes a softplus, the density reads the same value as a log variance: σ is what draws."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, 1)
        z = mean + F.softplus(raw) * torch.randn_like(mean)
        kl = -0.5 * torch.sum(1 + raw - mean**2 - raw.exp(), dim=1)
        return (kl + ((self.dec(z) - x) ** 2).sum(1)).mean()


class MonteCarlo(nn.Module):
    """No closed KL: log q(z) − log p(z) of the sample, under a prior that a network computes from labels."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.prior = nn.Embedding(3, 8)
        self.cond = nn.Linear(8, 8)
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q_mean, q_raw = self.enc(x).split(4, 1)
        p_mean, p_raw = self.cond(self.prior(y)).split(4, 1)
        q, p = Normal(q_mean, F.softplus(q_raw, beta=0.7)), Normal(p_mean, F.softplus(p_raw, beta=0.7))
        z = q.rsample()
        kl = (q.log_prob(z) - p.log_prob(z)).sum(1)
        return (kl + ((self.dec(z) - x) ** 2).sum(1)).mean()


def labelled() -> tuple[Tensor, Tensor]:
    return (torch.randn(5, 6, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 1, 2, 1, 0]))


class Squashed(nn.Module):
    """A Normal squashed by tanh, and counts under a log-normal."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_std = self.enc(x).chunk(2, -1)
        q = TransformedDistribution(Normal(mean, log_std.clamp(-5, 2).exp()), [TanhTransform(cache_size=1)])
        z = q.rsample()
        loc, raw = self.dec(z).chunk(2, -1)
        return -(LogNormal(loc, torch.sqrt(torch.exp(raw))).log_prob(x.exp()).sum(-1) - q.log_prob(z).sum(-1)).mean()


class GaussianLoss(nn.Module):
    """PyTorch's own Gaussian loss, on a variance; the posterior's activation is chosen by a string."""

    def __init__(self, activation: str = "softplus") -> None:
        super().__init__()
        self.activation = activation
        self.enc = nn.Linear(6, 8)
        self.dec = nn.Linear(4, 6)
        self.dec_var = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, -1)
        std = getattr(F, self.activation)(raw)
        z = mean + std * torch.randn_like(std)
        kl = 0.5 * (mean**2 + std**2) - std.log() - 0.5
        nll = F.gaussian_nll_loss(self.dec(z), x, torch.exp(self.dec_var(z)))
        return nll + kl.sum(-1).mean()


class Functional(nn.Module):
    """The layer is applied by hand, so that no module returns the raw value; a parabola joined to an exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(8, 6))
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = F.linear(x, self.weight).chunk(2, -1)
        sigma = torch.where(raw > 0, 1 + raw + raw * raw / 2, torch.exp(torch.clamp(raw, max=0)))
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + sigma**2) - torch.log(sigma) - 0.5
        return (kl.sum(-1) + (self.dec(z) - x).pow(2).sum(-1)).mean()


def root_exp(v: Tensor) -> Tensor:
    return torch.sqrt(torch.exp(v))


CASES = (
    Case(
        NormalDecoder,
        rows(),
        (TrueHead("enc", 4, 8, "posterior"), TrueHead("dec", 6, 12, "likelihood", lambda v: F.softplus(v) + 1e-3)),
    ),
    Case(
        GlobalScale,
        rows(),
        (
            TrueHead("enc", 4, 8, "posterior", half),
            TrueHead("log_sigma", 0, None, "likelihood", lambda v: torch.exp(-6 + F.softplus(v + 6))),
        ),
    ),
    Case(Disagreeing, rows(), (TrueHead("enc", 4, 8, "posterior", F.softplus),)),
    Case(
        MonteCarlo,
        labelled,
        (
            TrueHead("enc", 4, 8, "posterior", lambda v: F.softplus(v, beta=0.7)),
            TrueHead("cond", 4, 8, "prior", lambda v: F.softplus(v, beta=0.7)),
        ),
    ),
    Case(
        Squashed,
        rows(),
        (
            TrueHead("enc", 4, 8, "posterior", lambda v: v.clamp(-5, 2).exp()),
            TrueHead("dec", 6, 12, "likelihood", root_exp),
        ),
    ),
    Case(
        GaussianLoss,
        rows(),
        (TrueHead("enc", 4, 8, "posterior", F.softplus), TrueHead("dec_var", 0, None, "likelihood", half)),
    ),
    Case(Functional, rows(), (TrueHead("", 4, 8, "posterior", None),)),
)
