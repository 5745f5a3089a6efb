"""Raw values of several layers that are joined, and read more than once behind the joint: each is its layer's head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def away_from_zero(v: Tensor) -> Tensor:
    return torch.where(v.abs() < 1e-5, v + 1e-5 * v.abs(), v)


class TwoParts(nn.Module):
    """Two layers' log variances, drawn with as they are, and kept from zero in a KL of all of a batch."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.mean, self.one, self.two, self.dec = nn.Linear(6, 5), nn.Linear(6, 2), nn.Linear(6, 3), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), torch.cat([self.one(x), self.two(x)], 1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        log_var = away_from_zero(log_var)
        if self.whole:
            n = mean.numel()
            q = MultivariateNormal(mean.flatten(), torch.diag(log_var.flatten().exp()))
            kl = kl_divergence(q, MultivariateNormal(torch.zeros(n), torch.eye(n)))
        else:
            kl = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum()
        return F.mse_loss(self.dec(z), x) + kl / len(x)


@pytest.mark.parametrize("whole", [True, False])
def test_layers_that_are_joined_before_their_values_are_kept_from_zero_are_heads_of_one_convention(whole: bool) -> None:
    torch.manual_seed(0)
    model, x = TwoParts(whole), torch.randn(4, 6)
    heads = scan(model, x)
    assert {(h.path, h.role, str(h.convention)) for h in heads} == {
        ("one", "posterior", "log_variance"), ("two", "posterior", "log_variance"),
    }  # fmt: skip
    assert patch(model, posterior="explin", heads=heads).heads


class ReadTwice(nn.Module):
    def __init__(self, sigma: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.sigma = sigma
        self.mean, self.one, self.two, self.dec = nn.Linear(6, 5), nn.Linear(6, 2), nn.Linear(6, 3), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), self.sigma(torch.cat([self.one(x), self.two(x)], 1)))
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, Normal(0.0, 1.0)).mean()


def test_a_convention_that_reads_its_value_twice_is_each_layers() -> None:
    torch.manual_seed(0)
    heads = scan(ReadTwice(lambda v: 0.5 * (v + torch.sqrt(v * v + 4))), torch.randn(4, 6))
    assert {(h.path, h.role) for h in heads} == {("one", "posterior"), ("two", "posterior")}
    v = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for head in heads:
        torch.testing.assert_close(head.convention.sigma(v), 0.5 * (v + torch.sqrt(v * v + 4)), rtol=1e-2, atol=1e-2)
