"""A rate is a prior's: the density, or the mass of an interval, of what a network makes of the data and decodes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.scanning import scan


class Compression(nn.Module):
    """A code with uniform noise in the place of a rounding, and its rate by a network of a second code."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.enc, self.dec, self.side, self.rate = (
            form, nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(3, 2), nn.Linear(2, 6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        code = self.enc(x)
        noisy = code + torch.rand_like(code) - 0.5
        mean, raw = self.rate(self.side(code)).chunk(2, 1)
        sigma = F.softplus(raw) + 1e-3
        law = Normal(torch.zeros_like(mean) if self.form == "no mean" else mean.relu(), sigma)
        if self.form == "density":
            nats = -law.log_prob(noisy)
        else:
            nats = -torch.log(law.cdf(noisy + 0.5) - law.cdf(noisy - 0.5) + 1e-9)
        return F.mse_loss(self.dec(noisy), x) + 0.01 * nats.sum(1).mean()


@pytest.mark.parametrize("form", ["mean", "no mean", "density"])
def test_the_rate_of_a_code_with_uniform_noise_is_a_priors(form: str) -> None:
    torch.manual_seed(0)
    (head,) = scan(Compression(form), torch.randn(5, 6))
    assert (head.path, head.start, head.stop, head.role) == ("rate", 3, 6, "prior")


class Prediction(nn.Module):
    """Controls: a critic goes on from the mean whose distance to data the density is of, as it is or rescaled."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.scaled, self.net, self.critic = scaled, nn.Linear(6, 12), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.net(x.flip(1)).chunk(2, 1)
        distance = 255 * (x - torch.tanh(mean)) if self.scaled else x - mean
        return (0.5 * (distance / log_sigma.exp()) ** 2 + log_sigma).mean() - 0.01 * self.critic(mean).mean()


@pytest.mark.parametrize("scaled", [False, True])
def test_the_density_of_a_distance_to_data_is_a_likelihoods(scaled: bool) -> None:
    torch.manual_seed(0)
    (head,) = scan(Prediction(scaled), torch.randn(5, 6))
    assert (head.path, head.start, head.role) == ("net", 6, "likelihood")
