"""The parts of one parameter, as the components of a mixture that a loop goes through, are one head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch import patch
from vdvae_patch.scanning import scan


class MixturePrior(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.mean, self.log_var, self.decoder = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)
        self.means, self.raw = nn.Parameter(torch.randn(3, 3)), nn.Parameter(0.1 * torch.randn(3, 3))
        self.row = nn.Parameter(torch.zeros(2, 3))

    def log_prior(self, z: Tensor) -> Tensor:
        if self.form == "Normal, by index":
            parts = [Normal(self.means[k], torch.exp(0.5 * self.raw[k])).log_prob(z) for k in range(3)]
        elif self.form == "Normal, iterated":
            parts = [Normal(m, (0.5 * v).exp()).log_prob(z) for m, v in zip(self.means, self.raw, strict=True)]
        elif self.form == "by index":
            parts = [-0.5 * (self.raw[k] + (z - self.means[k]) ** 2 / self.raw[k].exp()) for k in range(3)]
        elif self.form == "by column":
            parts = [-0.5 * (self.raw[:, k] + (z - self.means[k]) ** 2 / self.raw[:, k].exp()) for k in range(3)]
        else:
            parts = [Normal(self.row[0], torch.exp(0.5 * self.row[1])).log_prob(z)]
        return torch.logsumexp(torch.stack([part.sum(1) for part in parts]), 0)

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), torch.exp(0.5 * self.log_var(x)))
        z = q.rsample()
        return F.mse_loss(self.decoder(z), x) + (q.log_prob(z).sum(1) - self.log_prior(z)).mean()


class Clustered(MixturePrior):
    """Responsibilities take the components one by one, and the KL all at once."""

    def log_part(self, z: Tensor, k: int) -> Tensor:
        own = slice(k, k + 1)
        return -0.5 * (self.raw[own] + (z - self.means[own]).pow(2) / self.raw[own].exp()).sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
        share = torch.cat([self.log_part(z, k) for k in range(3)], 1).softmax(1)
        ratio = torch.exp(log_var[:, None] - self.raw[None]) + (mean[:, None] - self.means[None]) ** 2 / self.raw.exp()
        kl = 0.5 * (share * (self.raw[None] + ratio).sum(2)).sum(1) - 0.5 * (1 + log_var).sum(1)
        return F.mse_loss(self.decoder(z), x) + kl.mean()


@pytest.mark.parametrize("form", ["Normal, by index", "Normal, iterated", "by index", "by column"])
def test_the_parts_of_a_parameter_are_one_prior(form: str) -> None:
    torch.manual_seed(0)
    model, x = MixturePrior(form), torch.rand(5, 6)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("raw", ":", "prior", "log_variance"), ("log_var", ":", "posterior", "log_variance"),
    ]  # fmt: skip
    patch(model, heads=heads, prior="explin", posterior="explin")


def test_parts_beside_the_whole_are_one_prior() -> None:
    torch.manual_seed(0)
    model, x = Clustered(""), torch.rand(5, 6)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role) for h in heads] == [
        ("raw", ":", "prior"), ("log_var", ":", "posterior")
    ]  # fmt: skip
    patch(model, heads=heads, prior="explin", posterior="explin")


def test_a_part_of_a_parameter_that_holds_a_mean_too_stays_a_part() -> None:
    torch.manual_seed(0)
    heads = scan(MixturePrior("a row"), torch.rand(5, 6))
    assert [(h.path, h.channels, h.role) for h in heads][:1] == [("row", "1:2", "prior")]
