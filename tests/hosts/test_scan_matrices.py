"""Densities and draws by matrices: of a diagonal they are those of its elements, whichever operation takes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

Nll = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_inverse(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    covariance, error = torch.diag_embed(F.softplus(v) + 1e-6), (mean - y).unsqueeze(2)
    weighted = torch.matmul(torch.matmul(error.permute(0, 2, 1), torch.inverse(covariance)), error)
    return 0.5 * (weighted.squeeze(2).squeeze(1) + torch.logdet(covariance))


def by_solve(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    covariance, error = torch.diag_embed(v.exp()), (y - mean).unsqueeze(-1)
    return 0.5 * ((error * torch.linalg.solve(covariance, error)).sum((-1, -2)) + torch.slogdet(covariance)[1])


def by_determinant(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    covariance, error = torch.diag_embed(v.exp()), y - mean
    weighted = torch.einsum("bi,bij,bj->b", error, torch.linalg.inv(covariance), error)
    return 0.5 * (weighted + torch.log(torch.det(covariance)))


def by_factor(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(torch.diag_embed(v.exp() + 1e-4))
    white = torch.linalg.solve_triangular(factor, (y - mean).unsqueeze(-1), upper=False).squeeze(-1)
    return 0.5 * white.pow(2).sum(-1) + torch.diagonal(factor, dim1=-2, dim2=-1).log().sum(-1)


def of_one_element(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    covariance, error = v[:, :1].exp().view(-1, 1, 1), (y - mean)[:, :1].view(-1, 1, 1)
    return 0.5 * (error.mT @ torch.inverse(covariance) @ error + torch.logdet(covariance).view(-1, 1, 1)).view(-1)


def of_precision(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return -MultivariateNormal(mean, precision_matrix=torch.diag_embed(v.exp())).log_prob(y)


def of_identity(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return -MultivariateNormal(mean, v[:, :1].exp().unsqueeze(-1) * torch.eye(3)).log_prob(y)


def of_jitter(mean: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return -MultivariateNormal(mean, torch.diag_embed(v.exp()) + 1e-4 * torch.eye(3)).log_prob(y)


CURVES: dict[Nll, Callable[[Tensor], Tensor]] = {
    by_inverse: lambda v: (F.softplus(v) + 1e-6).sqrt(),
    by_solve: lambda v: torch.exp(0.5 * v),
    by_determinant: lambda v: torch.exp(0.5 * v),
    by_factor: lambda v: (v.exp() + 1e-4).sqrt(),
    of_one_element: lambda v: torch.exp(0.5 * v),
    of_precision: lambda v: torch.exp(-0.5 * v),
    of_identity: lambda v: torch.exp(0.5 * v),
    of_jitter: lambda v: (v.exp() + 1e-4).sqrt(),
}


class Regression(nn.Module):
    def __init__(self, nll: Nll) -> None:
        super().__init__()
        self.mean, self.raw, self.nll = nn.Linear(4, 3), nn.Linear(4, 3), nll

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.each = self.nll(self.mean(x), self.raw(x), y)
        return self.each.mean()


@pytest.mark.parametrize("nll", CURVES, ids=lambda nll: nll.__name__)
def test_a_diagonal_covariance_is_a_likelihood_s_and_is_patched(nll: Nll) -> None:
    torch.manual_seed(0)
    model, (x, y) = Regression(nll), torch.randn(2, 7, 4).split([1, 1])
    x, y = x[0], y[0, :, :3]
    heads = scan(model, x, y)
    one = nll in (of_one_element, of_identity)
    assert [(h.path, h.channels, h.role) for h in heads] == [("raw", ":1" if one else ":", "likelihood")]
    v = torch.linspace(-4, 3, 15, dtype=torch.float64)
    torch.testing.assert_close(heads[0].convention.sigma(v), CURVES[nll](v), rtol=1e-6, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (patched,) = patch(model, heads=heads, likelihood="bounded(0.01, 10)").heads
    model(x, y).backward()
    scale = patched.scale
    assert scale is not None
    p = F.linear(x, model.raw.weight, model.raw.bias)[:, : 1 if one else 3]
    each = 0.5 * ((y - model.mean(x))[:, : 1 if nll is of_one_element else 3] / scale.sigma(p)) ** 2
    expected = (each + scale.log_sigma(p)).sum(1)
    constant = 1.5 * math.log(2 * math.pi) if nll.__name__.startswith("of_") and nll is not of_one_element else 0.0
    torch.testing.assert_close(model.each, expected + constant, rtol=1e-4, atol=1e-4)


class Coder(nn.Module):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.mean, self.raw, self.dec, self.by_hand = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4), by_hand

    def forward(self, x: Tensor) -> Tensor:
        mean, covariance = self.mean(x), torch.diag_embed(self.raw(x).exp())
        if self.by_hand:
            noise = torch.randn(len(x), 3, 1)
            z = mean + (torch.linalg.cholesky(covariance) @ noise).squeeze(-1)
            trace = torch.diagonal(covariance, dim1=-2, dim2=-1).sum(-1)
            kl = 0.5 * (trace + (mean**2).sum(1) - 3 - torch.logdet(covariance))
        else:
            law = MultivariateNormal(mean, covariance)
            z, kl = law.rsample(), kl_divergence(law, MultivariateNormal(torch.zeros(3), torch.eye(3)))
        return F.mse_loss(self.dec(z), x) + kl.mean()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_diagonal_covariance_that_is_drawn_from_is_a_posterior_s_for_sure(by_hand: bool) -> None:
    torch.manual_seed(0)
    model, x = Coder(by_hand), torch.randn(7, 4)
    heads = scan(model, x)
    (head,) = heads
    assert (head.path, head.role, str(head.convention)) == ("raw", "posterior", "log_variance")
    assert head.found is not None
    assert head.found.confidence == "sure"
    before = model.raw(x).clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, posterior="explin", paper=True)
    torch.testing.assert_close(model.raw(x), 2 * torch.where(before <= 0, before, before.clamp(min=0).log1p()))


class Correlated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, v = self.net(x).split([3, 3], 1)
        covariance = torch.diag_embed(v.exp()) + 0.1 * torch.tanh(v).unsqueeze(2) * torch.tanh(v).unsqueeze(1)
        error = (y - mean).unsqueeze(2)
        return 0.5 * (error.mT @ torch.inverse(covariance) @ error).mean() + 0.5 * torch.logdet(covariance).mean()


def test_of_a_matrix_with_correlations_it_is_said_what_was_seen_and_what_to_write() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heads = scan(Correlated(), torch.randn(7, 4), torch.randn(7, 3))
    assert not heads
    text = heads.why_not()
    assert "of a matrix: a Normal with correlations" in text
    assert 'vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v) ** 2' in text
