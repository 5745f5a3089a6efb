"""A MultivariateNormal whose `scale_tril` is a diagonal is a Normal of its elements; a constant diagonal is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal, kl_divergence

import vdvae_patch


class Diagonal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)

    def prior(self, mean: Tensor) -> Distribution:
        ones = torch.diag_embed(torch.ones_like(mean))
        return MultivariateNormal(torch.zeros_like(mean), scale_tril=ones)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, -1)
        posterior = MultivariateNormal(mean, scale_tril=torch.diag_embed(log_sigma.exp()))
        loss = F.mse_loss(self.decoder(posterior.rsample()), x)
        return loss + kl_divergence(posterior, self.prior(mean)).mean()


class PriorOfNumbers(Diagonal):
    def prior(self, mean: Tensor) -> Distribution:
        return MultivariateNormal(loc=torch.zeros(3), scale_tril=torch.diag_embed(torch.ones(3)))


class PriorGivenWhole(Diagonal):
    def prior(self, mean: Tensor) -> Distribution:
        return MultivariateNormal(torch.zeros(3), torch.diag_embed(torch.ones(3)))


class NormalsBeside(Diagonal):
    def prior(self, mean: Tensor) -> Distribution:
        Normal(torch.zeros(3), torch.diag_embed(torch.ones(3)).diagonal())
        return super().prior(mean)


@pytest.mark.parametrize("kind", [Diagonal, PriorOfNumbers, PriorGivenWhole, NormalsBeside])
def test_a_prior_with_a_constant_diagonal_is_no_trouble(kind: type[Diagonal]) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(16, 8)
    heads = vdvae_patch.scan(model, x)
    assert [(h.path, h.channels, h.role) for h in heads] == [("encoder", "3:6", "posterior")]
    assert str(heads[0].convention) == "log_sigma"
    vdvae_patch.patch(model, "bounded(0.01, 4)", heads=heads)


class OfTheData(nn.Module):
    """A likelihood whose covariance, or its root, is a diagonal."""

    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument
        self.net = nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, 1)
        scale = torch.diag_embed(F.softplus(raw) + 1e-3)
        law = (
            MultivariateNormal(mean, scale) if not self.argument else MultivariateNormal(mean, **{self.argument: scale})
        )
        return -law.log_prob(y).mean()


@pytest.mark.parametrize("argument", ["", "covariance_matrix", "scale_tril"])
def test_a_diagonal_covariance_is_a_variance(argument: str) -> None:
    torch.manual_seed(0)
    model, batch = OfTheData(argument), (torch.randn(5, 6), torch.randn(5, 2))
    heads = vdvae_patch.scan(model, *batch)
    assert [(h.path, h.channels, h.role) for h in heads] == [("net", "2:4", "likelihood")]
    expected = F.softplus(torch.tensor(0.4)) + 1e-3
    expected = expected if argument == "scale_tril" else expected.sqrt()
    torch.testing.assert_close(heads[0].convention.sigma(torch.tensor(0.4)), expected)
    vdvae_patch.patch(model, heads=heads, likelihood="explin")


class Policy(nn.Module):
    """Given actions, whose law has a network's mean and a parameter for log σ."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.zeros(2))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        law = MultivariateNormal(torch.tanh(self.net(state)), scale_tril=torch.diag(self.log_std.clamp(-5, 2).exp()))
        return -law.log_prob(action).mean()


def test_a_parameter_beside_a_mean_of_the_data_is_a_likelihoods() -> None:
    torch.manual_seed(0)
    (head,) = vdvae_patch.scan(Policy(), torch.randn(5, 4), torch.randn(5, 2))
    assert (head.path, head.role) == ("log_std", "likelihood")
