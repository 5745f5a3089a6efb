"""KLs of one sample, through a flow or not, and KLs without a mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Normal, TransformedDistribution

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


class Drawn(nn.Module):
    """A posterior whose sample goes through a flow that keeps volumes; the KL is of that sample."""

    def __init__(self, kl: Callable[..., Tensor]) -> None:
        super().__init__()
        self.stats, self.shift, self.out = nn.Linear(4, 6), nn.Linear(1, 2), nn.Linear(3, 4)
        self.prior, self.kl = nn.Linear(2, 6), kl

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        mean, v = self.stats(x).split(3, -1)
        z = mean + torch.exp(0.5 * v) * torch.randn_like(v)
        moved = torch.cat([z[:, :1], z[:, 1:] + self.shift(z[:, :1])], 1)
        prior_mean, prior = self.prior(c).split(3, -1)
        kl = self.kl(v=v, z=z, moved=moved, m=prior_mean, p=prior, mean=mean)
        return (self.out(z) - x).square().sum(1).mean() + kl.sum(1).mean()


def scanned(kl: Callable[..., Tensor]) -> tuple[nn.Module, ScanResult]:
    torch.manual_seed(0)
    model = Drawn(kl)
    return model, scan(model, torch.randn(5, 4), torch.randn(5, 2))


TO_STANDARD: dict[str, Callable[..., Tensor]] = {
    "one line": lambda v, moved, **_: -0.5 * v - 0.5 + 0.5 * moved**2,
    "without a flow": lambda v, z, **_: -0.5 * v - 0.5 + 0.5 * z**2,
    "in place": lambda v, moved, **_: (moved**2).mul_(0.5).sub_(v, alpha=0.5).sub_(0.5),
    "log of sigma": lambda v, moved, **_: -(0.5 * v).exp().log() - Normal(0.0, 1.0).log_prob(moved),
    "float64": lambda v, moved, **_: -0.5 * v.double() + 0.5 * moved.double() ** 2,
    "float16": lambda v, moved, **_: (-0.5 * v.half() + 0.5 * moved.half().square()).float(),
    "with a weight": lambda v, moved, **_: 0.3 * (0.5 * moved**2 - 0.5 * v),
    "summed before": lambda v, moved, **_: 0.5 * (moved**2).sum(1, keepdim=True) - 0.5 * v.sum(1, keepdim=True),
}
TO_LEARNED: dict[str, Callable[..., Tensor]] = {
    "one line": lambda v, moved, m, p, **_: p - 0.5 * v - 0.5 + 0.5 * (moved - m) ** 2 * torch.exp(-2 * p),
    "without a flow": lambda v, z, m, p, **_: p - 0.5 * v + 0.5 * ((z - m) / p.exp()) ** 2,
    "of a Normal": lambda v, moved, m, p, **_: -0.5 * v - Normal(m, p.exp()).log_prob(moved),
}


@pytest.mark.parametrize("name", TO_STANDARD)
def test_a_kl_of_one_sample_to_a_standard_normal_is_known(name: str) -> None:
    model, heads = scanned(TO_STANDARD[name])
    (head,) = heads
    assert (head.path, head.channels, head.role, str(head.convention)) == ("stats", "3:6", "posterior", "log_variance")
    assert head.found.confidence == "sure"
    assert not heads.only_sampled
    patch(model, posterior="explin", heads=heads, paper=True).unpatch()


@pytest.mark.parametrize("name", TO_LEARNED)
def test_a_kl_of_one_sample_to_a_learned_prior_is_known(name: str) -> None:
    model, heads = scanned(TO_LEARNED[name])
    assert {(h.path, h.role, h.found.confidence) for h in heads} == {
        ("stats", "posterior", "sure"),
        ("prior", "prior", "sure"),
    }
    patch(model, posterior="explin", prior="bounded(0.1, 1)", heads=heads, paper=True).unpatch()


@pytest.mark.parametrize(
    "kl",
    [
        lambda v, moved, **_: -v - 0.5 + 0.5 * moved**2,
        lambda v, moved, m, p, **_: p - v - 0.5 + 0.5 * (moved - m) ** 2 * torch.exp(-2 * p),
        lambda v, mean, **_: 0.5 * (mean**2 + (2 * v).exp() - 1) - v,
        lambda v, **_: 0.5 * ((2 * v).exp() - 1) - v,
    ],
)
def test_a_log_variance_that_the_kl_takes_for_a_log_sigma_is_warned_of(kl: Callable[..., Tensor]) -> None:
    model, heads = scanned(kl)
    (head,) = heads.select(role="posterior")
    assert head.found.confidence == "sure"
    (warning,) = [text for text in heads.warnings if "disagree" in text]
    assert "stats" in warning
    assert "noise is multiplied by σ as log_variance gives it" in warning
    assert "the KL has it as log_sigma" in warning
    patch(model, posterior="explin", heads=[head], paper=True).unpatch()


@pytest.mark.parametrize(
    "kl",
    [
        lambda v, moved, **_: 0.5 * moved**2 - 0.01 * v,  # a bonus for entropy
        lambda v, m, **_: 0.5 * m**2 - 0.5 * v,  # the square is of something else
        lambda v, moved, **_: 0.5 * moved.abs() - 0.5 * v,
        lambda v, **_: v.exp() - 2 * v,  # a Poisson loss
        lambda v, **_: v.cosh() - 1,
    ],
)
def test_other_penalties_of_what_is_drawn_with_are_no_kl(kl: Callable[..., Tensor]) -> None:
    _, heads = scanned(kl)
    assert [(h.path, str(h.convention), h.found.confidence) for h in heads] == [("stats", "log_variance", "likely")]


class Bound(nn.Module):
    """A KL of variances alone, of what is not drawn."""

    def __init__(self, kl: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.kl = nn.Linear(4, 6), nn.Linear(3, 4), kl

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.encoder(x).chunk(2, 1)
        return (self.decoder(mean) - x).square().mean() + self.kl(v).sum(1).mean()


@pytest.mark.parametrize(
    ("kl", "convention"),
    [
        (lambda v: -0.5 * (1 + v - v.exp()), "log_variance"),
        (lambda v: 0.5 * (torch.expm1(v) - v), "log_variance"),
        (lambda v: v.exp().sub_(v).sub_(1).mul_(0.5), "log_variance"),
        (lambda v: 0.5 * ((2 * v).exp() - 1) - v, "log_sigma"),
        (lambda v: 0.5 * (4 * v.exp() - 1 - v) - 0.5 * torch.tensor(4.0).log(), "log_variance"),
    ],
)
def test_a_kl_without_a_mean_is_known(kl: Callable[[Tensor], Tensor], convention: str) -> None:
    torch.manual_seed(0)
    model, x = Bound(kl), torch.rand(5, 4)
    (head,) = heads = scan(model, x)
    assert (head.path, head.channels, head.role) == ("encoder", "3:6", "posterior")
    assert (str(head.convention), head.found.confidence) == (convention, "sure")
    patch(model, posterior="explin", heads=heads, paper=True).unpatch()


@pytest.mark.filterwarnings("ignore:no Normal head")
@pytest.mark.parametrize(
    "loss",
    [
        lambda v: v.exp() - v,  # Poisson
        lambda v: v.exp() - 2 * v,
        lambda v: v.cosh() - 1,
        lambda v: v**2 - v,
        lambda v: -v,
        lambda v: torch.nn.functional.softplus(v) - 0.5 * v,  # binary cross-entropy
    ],
)
def test_other_losses_of_one_output_are_no_kl(loss: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    assert not scan(Bound(loss), torch.rand(5, 4))


class Narrow(nn.Module):
    """A draw around the means with a σ relative to that of a narrow prior; the KL has no means."""

    def __init__(self, sigma: Callable[[Tensor], Tensor], width: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stats, self.out, self.sigma, self.width = nn.Linear(4, 6), nn.Linear(3, 4), sigma, width

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.stats(x).split(3, -1)
        ratio = self.sigma(v)
        self.drawn = self.width * ratio
        self.kl = 0.5 * (ratio**2 - 1) - ratio.log()
        z = mean + self.drawn * torch.randn_like(mean)
        return (self.out(z) - x).square().sum(1).mean() + self.kl.sum(1).mean()


RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda v: torch.exp(-0.5 * v),
    "softplus": lambda v: torch.nn.functional.softplus(v),
}


@pytest.mark.parametrize("width", [0.075, 3.0])
@pytest.mark.parametrize("name", RATIOS)
def test_a_sigma_whose_kl_has_it_in_units_of_its_priors_is_the_one_that_is_drawn(name: str, width: float) -> None:
    model, x = Narrow(RATIOS[name], width), torch.randn(5, 4)
    heads = scan(model, x)
    (head,) = heads
    v = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(head.convention.sigma(v), width * RATIOS[name](v))
    patch(model, posterior="upbounded(omega=1)", heads=heads)
    model(x)
    assert float(model.drawn.max()) < 1.0
    ratio = model.drawn / width
    torch.testing.assert_close(model.kl, 0.5 * (ratio**2 - 1) - ratio.log())


class RowByRow(nn.Module):
    """log q of the noise that was drawn, beside the error of twice as many data as there are latents, in one sum."""

    def __init__(self, order: str, sigma: Callable[[Tensor], Tensor] = torch.exp) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stats, self.out, self.order, self.sigma = nn.Linear(8, 8), nn.Linear(4, 8), order, sigma

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.stats(x).chunk(2, 1)
        sigma, noise = self.sigma(v), torch.randn_like(mean)
        z = mean + sigma * noise
        rec, log_q, log_p = (
            0.5 * ((self.out(z) - x) ** 2).sum(-1),
            (-0.5 * noise**2 - sigma.log()).sum(-1),
            (-0.5 * z**2).sum(-1),
        )
        if self.order == "rec + log_q - log_p":
            return (rec + log_q - log_p).mean()
        if self.order == "-(log_p - rec - log_q)":
            return -(log_p - rec - log_q).mean()
        return (log_q + rec - log_p).mean()


class ToAMixture(RowByRow):
    """The same beside a prior of two Normals, in which nothing is quadratic but the error."""

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.stats(x).chunk(2, 1)
        sigma, noise = self.sigma(v), torch.randn_like(mean)
        z = mean + sigma * noise
        rec, log_q = 0.5 * ((self.out(z) - x) ** 2).sum(-1), (-0.5 * noise**2 - sigma.log()).sum(-1)
        log_p = torch.logsumexp(torch.stack([-0.5 * ((z - 1) ** 2).sum(-1), -0.5 * ((z + 1) ** 2).sum(-1)]), 0)
        return (rec + log_q - log_p).mean()


def test_an_error_beside_a_prior_of_several_normals_is_no_density_of_the_draw() -> None:
    heads = scan(ToAMixture(""), torch.randn(16, 8, generator=torch.Generator().manual_seed(1)))
    (head,) = heads
    assert (head.role, str(head.convention)) == ("posterior", "log_sigma")
    assert not any("disagree" in warning for warning in heads.warnings)


@pytest.mark.parametrize("order", ["rec + log_q - log_p", "log_q + rec - log_p", "-(log_p - rec - log_q)"])
def test_an_error_of_as_many_data_as_twice_the_latents_is_no_density_of_the_draw(order: str) -> None:
    model, x = RowByRow(order), torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    heads = scan(model, x)
    (head,) = heads
    assert (head.role, str(head.convention)) == ("posterior", "log_sigma")
    assert not any("disagree" in warning for warning in heads.warnings)
    assert heads.elbo.sigma == pytest.approx(1.0)
    twin = RowByRow(order)
    scale = next(h.scale for h in patch(model, posterior="bounded(0.05, 2)", heads=heads).heads)
    assert scale is not None
    twin.sigma = scale.sigma
    losses = []
    for one in (model, twin):
        torch.manual_seed(5)
        losses.append(one(x).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class AroundALabel(nn.Module):
    """A prior whose mean is data, p(z | y) = N(y, 1), in a KL of one sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stats, self.out = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, v = self.stats(x).chunk(2, 1)
        noise = torch.randn_like(mean)
        z = mean + (0.5 * v).exp() * noise
        kl = (-0.5 * v - 0.5 * noise**2 + 0.5 * (z - y) ** 2).sum(-1)
        return (0.5 * ((self.out(z) - x) ** 2).sum(-1) + kl).mean()


def test_a_prior_around_data_is_one() -> None:
    heads = scan(AroundALabel(), torch.randn(16, 8), torch.randn(16, 4))
    (head,) = heads
    assert head.role == "posterior"
    assert head.found is not None
    assert (head.found.confidence, "first argument of a KL" in head.found.evidence) == ("sure", True)


class Transformed(nn.Module):
    """A posterior that is a standard Normal behind an affine transform."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stats, self.out = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.stats(x).chunk(2, 1)
        base = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        q = TransformedDistribution(base, [AffineTransform(mean, v.exp())])
        z = q.rsample()
        kl = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
        return (0.5 * ((self.out(z) - x) ** 2).sum(-1) + kl).mean()


def test_a_transform_of_a_standard_normal_is_a_posterior_with_the_sigma_that_is_drawn_with() -> None:
    model, x = Transformed(), torch.randn(16, 8)
    heads = scan(model, x)
    (head,) = heads
    assert (head.role, str(head.convention)) == ("posterior", "log_sigma")
    assert heads.elbo.sigma == pytest.approx(1.0)
    patch(model, posterior="explin", heads=heads)
