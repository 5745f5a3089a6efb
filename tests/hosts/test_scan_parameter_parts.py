"""The parts of one parameter, as the components of a mixture that a loop goes through, are one head."""

from __future__ import annotations

import math

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


class Clusters(nn.Module):
    """VaDE's prior: one method names a parameter in a comprehension, and another one as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(4, 2), nn.Linear(2, 4)
        self.means, self.log_vars = nn.Parameter(torch.randn(3, 2)), nn.Parameter(0.1 * torch.randn(3, 2))

    def densities(self, z: Tensor) -> Tensor:
        parts = [self.one(z, self.means[c : c + 1], self.log_vars[c : c + 1]) for c in range(3)]
        return torch.stack(parts, 1)

    def one(self, z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return -0.5 * (log_var + (z - mean) ** 2 / log_var.exp()).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.enc(x)
        z = mean + 0.1 * torch.randn_like(mean)
        share = self.densities(z).softmax(1)
        log_vars = self.log_vars.unsqueeze(0)
        inner = log_vars + (mean.unsqueeze(1) - self.means.unsqueeze(0)) ** 2 / log_vars.exp()
        return ((self.dec(z) - x) ** 2).mean() + 0.5 * (share * inner.sum(2)).sum(1).mean()


def test_a_parameter_that_a_comprehension_names_is_replaced_there_too() -> None:
    torch.manual_seed(0)
    model, x = Clusters(), torch.randn(6, 4)
    (head,) = scan(model, x)
    handle = patch(model, heads=[head], prior="explin", paper=True)
    model.log_vars.data.fill_(3.0)
    z = torch.randn(5, 2)
    away = ((z[:, None] - model.means) ** 2).sum(2)
    # sigma = 1 + 3, of each of two dimensions
    torch.testing.assert_close(model.densities(z), -0.5 * (2 * math.log(16.0) + away / 16.0))
    handle.unpatch()
