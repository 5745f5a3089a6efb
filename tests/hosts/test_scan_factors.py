"""Normals of several correlated values: the diagonal of a Cholesky factor is a head, where it is a value of its own."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, constraints, kl_divergence, transform_to

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.below = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 9)

    def factor(self, x: Tensor) -> Tensor:
        return torch.tril(self.below(x).view(-1, 3, 3), -1) + torch.diag_embed(F.softplus(self.raw(x)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return -MultivariateNormal(self.mean(x), scale_tril=self.factor(x)).log_prob(y).mean()


class OfTransform(Regression):
    """A control: the raw values of the diagonal are every fourth channel of a matrix's, and no range."""

    def factor(self, x: Tensor) -> Tensor:
        factor: Tensor = transform_to(constraints.lower_cholesky)(self.below(x).view(-1, 3, 3))
        return factor


class OfWhole(Regression):
    """A control: what stands on the diagonal is a sum of two."""

    def factor(self, x: Tensor) -> Tensor:
        return torch.tril(self.below(x).view(-1, 3, 3)) + torch.diag_embed(F.softplus(self.raw(x)) + 10)


class ByHand(Regression):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        factor, off = self.factor(x), (y - self.mean(x)).unsqueeze(-1)
        white = torch.linalg.solve_triangular(factor, off, upper=False).squeeze(-1)
        return (0.5 * white.square() + torch.diagonal(factor, dim1=-2, dim2=-1).log()).sum(-1).mean()


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.below, self.dec = nn.Linear(4, 6), nn.Linear(4, 9), nn.Linear(3, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, 1)
        factor = torch.tril(self.below(x).view(-1, 3, 3), -1) + torch.diag_embed(torch.exp(0.5 * raw))
        law = MultivariateNormal(mean, scale_tril=factor)
        rate = kl_divergence(law, MultivariateNormal(torch.zeros(3), torch.eye(3)))
        return F.mse_loss(self.dec(law.rsample()), x) + rate.mean()


def given() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 4), torch.randn(7, 3)


@pytest.mark.medium
def test_a_likelihood_s_factor_has_its_diagonal_patched_and_what_is_below_it_stays() -> None:
    x, y = given()
    model = Regression()
    heads = scan(model, x, y)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [("raw", ":", "likelihood", "softplus")]
    assert not heads.near_misses
    p = model.raw(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (patched,) = patch(model, heads=heads, likelihood="bounded(0.01, 10)").heads
    assert patched.scale is not None
    below = torch.tril(model.below(x).view(-1, 3, 3), -1)
    law = MultivariateNormal(model.mean(x), scale_tril=below + torch.diag_embed(patched.scale.sigma(p)))
    torch.testing.assert_close(model(x, y), -law.log_prob(y).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.medium
def test_a_factor_that_is_drawn_from_is_a_posterior_s() -> None:
    heads = scan(Coder(), *given())
    (head,) = heads
    assert (head.path, head.channels, head.role, str(head.convention)) == ("enc", "3:6", "posterior", "log_variance")
    assert not heads.near_misses


@pytest.mark.medium
@pytest.mark.parametrize("host", [OfTransform, OfWhole, ByHand])
def test_of_any_other_factor_it_is_said_in_one_line_what_was_seen_and_what_to_write(host: type[Regression]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heads = scan(host(), *given())
    assert not heads
    (miss,) = heads.near_misses
    assert "a Normal with correlations, whose scales are heads where" in str(miss)
    assert 'write vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v)' in str(miss)
