"""What a scan warns of in a host's arithmetic: logs of what underflows, and of probabilities that round to 0 or 1."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

import vdvae_patch

torch.manual_seed(0)
X = torch.rand(8, 6)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.mean(x), self.sigma(self.raw(x))
        kl = (0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)).sum()
        return self.nll(self.dec(mean + sigma * torch.randn_like(sigma)), x) + kl


class Softplus(VAE):
    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)


class Floored(VAE):
    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) + 1e-3


def by_hand(log_of_other: Callable[[Tensor], Tensor]) -> nn.Module:
    class ByHand(Floored):
        def nll(self, logits: Tensor, x: Tensor) -> Tensor:
            p = torch.sigmoid(logits)
            return -(x * torch.log(p + 1e-6) + (1 - x) * log_of_other(p)).sum()

    return ByHand()


@pytest.mark.parametrize(("model", "word"), [(VAE(), "an exponential"), (Softplus(), "a softplus")])
def test_the_log_of_what_underflows_is_named(model: nn.Module, word: str) -> None:
    (warning,) = (w for w in vdvae_patch.scan(model, X).warnings if "the log of" in w)
    assert f"the log of {word} is −∞" in warning
    with torch.no_grad():
        model.raw.bias.fill_(-110.0)  # type: ignore[operator, union-attr]
    assert not model(X).isfinite()


def test_one_with_a_floor_is_not() -> None:
    assert not any("the log of" in warning for warning in vdvae_patch.scan(Floored(), X).warnings)


class AtLeastOne(VAE):
    def sigma(self, raw: Tensor) -> Tensor:
        return torch.exp(F.softplus(raw) / 2)


class AtLeastLogTwo(VAE):
    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw.exp())


@pytest.mark.parametrize("model", [AtLeastOne(), AtLeastLogTwo()], ids=lambda model: type(model).__name__)
def test_nor_is_one_of_what_is_far_from_zero_where_a_part_of_it_underflows(model: nn.Module) -> None:
    assert not any("the log of" in warning for warning in vdvae_patch.scan(model, X).warnings)
    with torch.no_grad():
        model.raw.bias.fill_(-1e3)  # type: ignore[operator, union-attr]
    assert model(X).isfinite()


class TinyInTheKl(VAE):
    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.mean(x), F.softplus(self.raw(x))
        kl = (0.5 * ((sigma + 1e-8) ** 2 + mean**2 - 1) - torch.log(sigma + 1e-8)).sum()
        return self.nll(self.dec(mean + sigma * torch.randn_like(sigma)), x) + kl


def test_a_small_number_that_the_kl_adds_to_sigma_is_named() -> None:
    assert any("adds 1e-08 to σ, which stays under a patch" in w for w in vdvae_patch.scan(TinyInTheKl(), X).warnings)
    assert not any("to σ, which stays" in w for w in vdvae_patch.scan(Softplus(), X).warnings)


@pytest.mark.parametrize(
    ("log_of_other", "said"),
    [
        (lambda p: torch.log(1 - p), "rounds to 1 (from 17 on in float32), this is the log of 0, which is −∞"),
        (
            lambda p: torch.log(1 - p - 1e-5),
            "rounds to 1 (from 17 on in float32), this is the log of -1e-05, which is NaN",
        ),
        (lambda p: torch.log(1 - p + 1e-6), ""),
        (lambda p: torch.log((1 - p).clamp(min=1e-6)), ""),
    ],
)
def test_the_log_of_a_probability_that_rounds_to_an_end_is_named_and_stays(
    log_of_other: Callable[[Tensor], Tensor], said: str
) -> None:
    model = by_hand(log_of_other)
    heads, out = vdvae_patch.scan(model, X), io.StringIO()
    assert any(said in warning for warning in heads.warnings) if said else not heads.stays
    vdvae_patch.stabilize(model, X, file=out)
    assert ("no scale changes that" in out.getvalue()) == bool(said)
    with torch.no_grad():
        model.dec.bias.fill_(200.0)  # type: ignore[operator, union-attr]
    assert bool(model(X).isfinite()) == (not said)


def test_a_sigma_that_is_zero_between_the_ends_is_named() -> None:
    class Folded(VAE):
        def sigma(self, raw: Tensor) -> Tensor:
            return raw.abs()

    (warning,) = (w for w in vdvae_patch.scan(Folded(), X).warnings if "σ is zero" in w)
    assert warning.startswith("raw: σ is zero where the raw value is 0, and its log")
    assert not any("σ is zero" in warning for warning in vdvae_patch.scan(Softplus(), X).warnings)


class Regression(nn.Module):
    def __init__(self, nll: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.nll = nn.Linear(6, 2), nll

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).unbind(1)
        return self.nll(mean - x.sum(1), raw).mean()


def of_sigma(sigma: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda error, raw: -Normal(0.0, sigma(raw)).log_prob(error)


@pytest.mark.parametrize(
    ("nll", "bound"),
    [
        (of_sigma(torch.exp), "no lower bound, so the density of a well reconstructed value grows without"),
        (lambda error, raw: 0.5 * raw.exp() * error**2 - 0.5 * raw, "no lower bound, so"),  # a log precision
        (of_sigma(lambda raw: F.softplus(raw) + 1e-8), "a lower bound of 1e-08 alone, so"),
        (of_sigma(lambda raw: (0.5 * raw.clamp(-30, 20)).exp()), "a lower bound of 3.1e-07 alone, so"),
        (of_sigma(lambda raw: F.softplus(raw) + 1e-2), ""),
        (lambda error, raw: F.gaussian_nll_loss(error, 0 * error, raw.exp(), eps=1e-3), ""),  # counted as 0.032
        (lambda error, raw: F.gaussian_nll_loss(error, 0 * error, raw.exp(), eps=1e-14), "no lower bound, so"),
    ],
)
def test_the_bound_below_a_likelihoods_sigma_is_said_as_it_is(
    nll: Callable[[Tensor, Tensor], Tensor], bound: str
) -> None:
    warned = [w for w in vdvae_patch.scan(Regression(nll), X).warnings if "the likelihood's σ" in w]
    assert [f"net: the likelihood's σ has {bound}" in w for w in warned] == ([True] if bound else [])


class LaplaceDecoder(Floored):
    def nll(self, logits: Tensor, x: Tensor) -> Tensor:
        return -Laplace(logits, logits.exp()).log_prob(x).sum()


def test_the_scale_of_another_distribution_is_said_beside_the_heads_that_are_cured() -> None:
    out = io.StringIO()
    vdvae_patch.stabilize(LaplaceDecoder(), X, file=out)
    (line,) = (line for line in out.getvalue().splitlines() if line.startswith("note: no head was made of"))
    assert "(Laplace): its scale is that of no Normal, and no head: a patch leaves it as it is" in line
    assert "near miss: " in str(vdvae_patch.scan(LaplaceDecoder(), X))


class Actor(nn.Module):
    """A squashed policy: its actions are judged by a critic and by their own density, or are those of a record."""

    def __init__(self, imitates: bool) -> None:
        super().__init__()
        self.net, self.critic, self.imitates = nn.Linear(6, 4), nn.Linear(8, 1), imitates

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        mean, log_sigma = self.net(state).chunk(2, 1)
        law = Normal(mean, log_sigma.clamp(-20, 2).exp())
        if self.imitates:
            return -law.log_prob(action).sum(1).mean()
        drawn = law.rsample()
        density = law.log_prob(drawn) - torch.log(1 - torch.tanh(drawn) ** 2 + 1e-6)
        return (0.2 * density.sum(1) - self.critic(torch.cat([state, torch.tanh(drawn)], 1))[:, 0]).mean()


@pytest.mark.parametrize("imitates", [True, False])
def test_a_density_that_grows_with_what_is_reconstructed_is_told_of_given_actions_alone(imitates: bool) -> None:
    heads = vdvae_patch.scan(Actor(imitates), X, torch.randn(8, 2))
    assert [head.role for head in heads] == ["likelihood"]
    assert any("well reconstructed" in warning for warning in heads.warnings) is imitates
