"""KLs of a posterior that is relative to its prior, in the differences alone: Δμ² / 2σ_p² + Δσ² / 2 − log Δσ − ½."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


class Relative(nn.Module):
    """q = N(μ_p + Δμ, σ_p Δσ), its KL as a subclass writes it; keeps what it drew with, and its KL."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.p, self.q, self.decoder = nn.Linear(3, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Δμ, σ_p, σ_q and the KL."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        (mean, p), (delta, d) = self.p(x[:, :3]).chunk(2, 1), self.q(x).chunk(2, 1)
        self.delta, self.sigma_p, self.sigma_q, self.kl = self.level(mean, p, delta, d)
        z = mean + self.delta + self.sigma_q * torch.randn_like(mean)
        return (self.decoder(z) - x).square().sum(1).mean() + self.kl.sum(1).mean()


class LogVariances(Relative):
    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kl = 0.5 * (delta**2 / p.exp() + d.exp() - d - 1)
        return delta, (0.5 * p).exp(), (0.5 * (p + d)).exp(), kl


class LogSigmas(Relative):
    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kl = 0.5 * ((delta * torch.exp(-p)) ** 2 + torch.exp(2 * d) - 1) - d
        return delta, p.exp(), (p + d).exp(), kl


class Factors(Relative):
    """σ_p and Δσ by themselves, and their product."""

    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sigma_p, factor = p.exp(), d.exp()
        kl = 0.5 * ((delta / sigma_p) ** 2 + factor**2) - 0.5 - torch.log(factor)
        return delta, sigma_p, sigma_p * factor, kl


class SoftClamps(Relative):
    """As NVAE has them, around all four."""

    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        delta = 5 * torch.tanh(delta / 5)
        p = 5 * torch.tanh(p / 5)
        d = 5 * torch.tanh(d / 5)
        kl = 0.5 * (delta**2 * torch.exp(-2 * p) + torch.exp(2 * d) - 1) - d
        return delta, p.exp(), (p + d).exp(), kl


class Weighed(LogSigmas):
    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        delta, sigma_p, sigma_q, _ = super().level(mean, p, delta, d)
        return delta, sigma_p, sigma_q, 0.5 * ((delta / p.exp()).square() + d.exp().square() - 2 * d - 1)


class OfDistributions(Relative):
    """The draw is of PyTorch's Normal."""

    def forward(self, x: Tensor) -> Tensor:
        (mean, p), (self.delta, d) = self.p(x[:, :3]).chunk(2, 1), self.q(x).chunk(2, 1)
        self.sigma_p, factor = p.exp(), d.exp()
        self.sigma_q = self.sigma_p * factor
        z = Normal(mean + self.delta, self.sigma_q).rsample()
        self.kl = 0.5 * (self.delta**2 / self.sigma_p**2 + factor**2 - 2 * d - 1)
        return (self.decoder(z) - x).square().sum(1).mean() + self.kl.sum(1).mean()


ALL = [LogVariances, LogSigmas, Factors, SoftClamps, Weighed, OfDistributions]


@pytest.mark.parametrize("build", ALL)
def test_both_are_heads_with_their_roles(build: Callable[[], Relative]) -> None:
    heads = scan(build(), X)
    assert {(h.path, h.channels, h.role) for h in heads} == {("p", "4:8", "prior"), ("q", "4:8", "posterior")}
    assert {h.found.confidence for h in heads if h.found} == {"sure"}
    assert heads.elbo.kl_factor == pytest.approx(0.2)  # means over five rows


@pytest.mark.medium
@pytest.mark.parametrize("build", ALL)
@pytest.mark.parametrize("variant", ["explin", "bounded(0.1, 2)/upbounded", "upbounded/constant"])
def test_a_patched_model_has_the_kl_of_what_it_draws_with(build: Callable[[], Relative], variant: str) -> None:
    model = build()
    with torch.no_grad():
        model.q.bias[4:] += 1.5  # where explin is no exponential
    patch(model, variant, heads=scan(model, X))
    model(X)
    q, p = Normal(model.delta, model.sigma_q), Normal(torch.zeros_like(model.delta), model.sigma_p)
    torch.testing.assert_close(model.kl, kl_divergence(q, p))
    if variant.endswith("constant"):
        torch.testing.assert_close(model.sigma_p, torch.ones_like(model.sigma_p))
        assert float(model.sigma_q.max()) < 1.0


@pytest.mark.medium
@pytest.mark.parametrize("build", ALL)
def test_stabilize_cures_them_and_keeps_the_loss(build: Callable[[], Relative]) -> None:
    said = io.StringIO()
    handle = vdvae_patch.stabilize(build(), X, file=said)
    assert "\nNOT cured" not in said.getvalue()
    assert handle.before is not None
    assert handle.after is not None
    assert handle.after.loss == pytest.approx(handle.before.loss, rel=1e-2)


class NotRelative(Relative):
    """The curvature in Δμ is of another σ than the draw's: no such KL."""

    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kl = 0.5 * (delta**2 / (p.exp() + 0.3) + d.exp() - d - 1)
        return delta, (0.5 * p).exp(), (0.5 * (p + d)).exp(), kl


class Penalty(Relative):
    """A penalty of the factor, whose square has another weight than its logarithm."""

    def level(self, mean: Tensor, p: Tensor, delta: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kl = 0.5 * (delta**2 / p.exp() + 3 * d.exp() - d - 1)
        return delta, (0.5 * p).exp(), (0.5 * (p + d)).exp(), kl


class Below(nn.Module):
    """A second level of such a KL; with the squared error the loss as a whole is quadratic in Δμ and in what Δσ is
    computed from, as a KL to N(0, 1) is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.top, self.p, self.q, self.decoder = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(10, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.top(x).chunk(2, 1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        prior, p = self.p(z).chunk(2, 1)
        delta, d = self.q(torch.cat([x, z], 1)).chunk(2, 1)
        below = prior + delta + (p + d).exp() * torch.randn_like(prior)
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma
        relative = 0.5 * (delta**2 / (2 * p).exp() + (2 * d).exp() - 2 * d - 1)
        error = (self.decoder(torch.cat([z, below], 1)) - x).square().sum(1).mean()
        return error + kl.sum(1).mean() + relative.sum(1).mean()


def test_a_level_below_another_one_is_no_kl_of_the_whole_loss() -> None:
    roles = {(h.path, h.role) for h in scan(Below(), X)}
    assert roles == {("top", "posterior"), ("p", "prior"), ("q", "posterior")}


@pytest.mark.parametrize("build", [NotRelative, Penalty])
def test_what_is_no_kl_of_the_draw_is_none(build: Callable[[], Relative]) -> None:
    assert "p" not in {head.path for head in scan(build(), X) if head.found and head.found.confidence == "sure"}


class Levels(nn.Module):
    """Two levels by one class, the deltas of a code."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.levels = nn.ModuleList([Level(), Level()])
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(8, 6)
        self.begin = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        code, h, kl = F.silu(self.encoder(x)), self.begin.expand(len(x), -1), torch.zeros(len(x))
        for level in self.levels:
            h, more = level(h, code)
            kl = kl + more
        return ((self.decoder(h) - x).square().sum(1) + kl).mean()


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior, self.delta, self.merge = nn.Linear(8, 6), nn.Linear(16, 6), nn.Linear(3, 8)

    def forward(self, h: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        (mean, p), (delta, d) = self.prior(h).chunk(2, 1), self.delta(torch.cat([h, code], 1)).chunk(2, 1)
        z = mean + delta + torch.exp(p + d) * torch.randn_like(mean)
        kl = 0.5 * (delta**2 / torch.exp(2 * p) + torch.exp(2 * d)) - d - 0.5
        return h + torch.tanh(self.merge(z)), kl.sum(1)


def test_levels_by_one_class_are_four_heads() -> None:
    model = Levels()
    heads = scan(model, X)
    assert {(h.path, h.role) for h in heads} == {
        (f"levels.{i}.{name}", role) for i in (0, 1) for name, role in (("prior", "prior"), ("delta", "posterior"))
    }
    patch(model, "explin", heads=heads)
