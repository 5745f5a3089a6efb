"""What scales noise and is measured on the batch is no head; and several levels that one KL reads as one tensor are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import rows

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Aligned(nn.Module):
    """A critic sees codes with noise of their own size."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.std, self.out, self.critic = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.loc(x), F.softplus(self.std(x)))
        kl = kl_divergence(q, Normal(torch.zeros(1), torch.ones(1))).sum(1).mean()
        return (self.out(q.rsample()) - x).square().mean() + kl + self.critic(self.noisy(q.mean)).logsumexp(1).mean()

    def noisy(self, u: Tensor) -> Tensor:
        both = torch.cat([u, u])
        return both + 0.5 * Normal(0, both.std(0)).sample((len(both),))


class OfTheRows(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + u.std(1, keepdim=True) * torch.randn_like(u)


class OfTheVariance(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + u.var(0).sqrt() * torch.randn_like(u)


class OfTheNorm(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + 0.1 * u.norm(dim=1, keepdim=True) * torch.randn_like(u)


class ByHand(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + u.square().sum(1, keepdim=True).sqrt() * torch.randn_like(u)


class OfAParameter(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + self.out.weight.std(0) * torch.randn_like(u)


class OfTheParametersNorm(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return torch.normal(u, self.out.weight.norm(dim=0).expand_as(u))


class OfTheMagnitudes(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + (u - u.mean(0)).abs().mean(0) * torch.randn_like(u)


class OfEinsum(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return u + (torch.einsum("bi,bi->i", u, u) / len(u)).sqrt() * torch.randn_like(u)


class OfFloat64(Aligned):
    def noisy(self, u: Tensor) -> Tensor:
        return torch.addcmul(u, torch.randn_like(u), torch.var_mean(u.double(), 0)[0].sqrt().float().expand_as(u))


@pytest.mark.parametrize(
    "build",
    [
        *(Aligned, OfTheRows, OfTheVariance, OfTheNorm, ByHand),
        *(OfAParameter, OfTheParametersNorm, OfTheMagnitudes, OfEinsum, OfFloat64),
    ],
)
def test_a_statistic_of_values_is_a_near_miss_and_the_rest_is_patched(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build(), rows()()[0]
    heads = scan(model, x)
    assert [(h.path, h.role) for h in heads] == [("std", "posterior")], f"{heads}"
    assert heads.near_misses
    patch(model, "explin", heads=heads)


class TwoLevels(nn.Module):
    """One KL of two levels, whose means and log variances are put beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(6, 6)

    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], 1)

    def forward(self, x: Tensor) -> Tensor:
        m1, l1 = self.a(x).chunk(2, 1)
        z1 = m1 + (0.5 * l1).exp() * torch.randn_like(m1)
        m2, l2 = self.b(z1).chunk(2, 1)
        z2 = m2 + (0.5 * l2).exp() * torch.randn_like(m2)
        m, v = self.joined(m1, m2), self.joined(l1, l2)
        kl = -0.5 * (1 + v - m**2 - v.exp()).sum(1).mean()
        return (self.out(torch.cat([z1, z2], 1)) - x).square().mean() + kl


class TwoLevelsStacked(TwoLevels):
    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])


class TwoLevelsBehindEachOther(TwoLevels):
    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.vstack((first.double(), second.double()))


class TwoLevelsFlat(TwoLevels):
    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.concat((first.flatten(), second.flatten())).view(2, -1)


class TwoLevelsApart(TwoLevels):
    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second], dim=1).flatten(1)


@pytest.mark.parametrize(
    "build", [TwoLevels, TwoLevelsStacked, TwoLevelsBehindEachOther, TwoLevelsFlat, TwoLevelsApart]
)
def test_levels_that_one_kl_reads_as_one_tensor_are_heads_of_their_own(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build(), rows()()[0]
    heads = scan(model, x)
    assert [(str(h), h.found.confidence) for h in heads if h.found] == [
        ("a[3:6] (posterior, log_variance)", "sure"),
        ("b[3:6] (posterior, log_variance)", "sure"),
    ]
    patch(model, "explin", heads=heads)
