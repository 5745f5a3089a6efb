"""A KL that the host takes the other way round: what is drawn and sees the data is the posterior."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import rows

from vdvae_patch.scanning import scan, stabilize

Roles = dict[str, str]


def kl_by_hand(m1: Tensor, l1: Tensor, m2: Tensor, l2: Tensor) -> Tensor:
    """KL(1 ‖ 2) of log variances."""
    return 0.5 * (l2 - l1 + (l1.exp() + (m1 - m2) ** 2) / l2.exp() - 1)


class Level(nn.Module):
    """One level of a hierarchy, of classes of torch.distributions; the prior is of a learned vector."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.randn(2))
        self.prior_net, self.posterior_net, self.decoder = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        pm, ps = self.prior_net(self.top.expand(len(x), 2)).chunk(2, 1)
        qm, qs = self.posterior_net(x).chunk(2, 1)
        p, q = Normal(pm, ps.exp()), Normal(qm, qs.exp())
        return (self.decoder(q.rsample()) - x).square().mean() + self.divergence(p, q)

    def divergence(self, p: Normal, q: Normal) -> Tensor:
        return kl_divergence(p, q).mean()


class LevelInPlace(Level):
    """The KL is added up in place, so that its sides are complete one after the other."""

    def divergence(self, p: Normal, q: Normal) -> Tensor:
        kl = (p.loc - q.loc).pow_(2).add_(p.scale**2).div_(q.scale**2)
        return kl.add_(q.scale.log(), alpha=2).sub_(p.scale.log(), alpha=2).sub_(1).mul_(0.5).mean()


class LevelOfFloat64(Level):
    def divergence(self, p: Normal, q: Normal) -> Tensor:
        (pm, ps), (qm, qs) = ((d.loc.double(), d.scale.double()) for d in (p, q))
        return (torch.log(qs / ps) + (ps.square() + torch.square(pm - qm)) / (2 * qs.square()) - 0.5).float().mean()


class LevelBothWays(Level):
    def divergence(self, p: Normal, q: Normal) -> Tensor:
        return 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()


class LevelInOrder(Level):
    def divergence(self, p: Normal, q: Normal) -> Tensor:
        return kl_divergence(q, p).mean()


class BothDrawn(Level):
    """The prior is drawn from, too, for a picture of what it knows."""

    def divergence(self, p: Normal, q: Normal) -> Tensor:
        self.picture = self.decoder(p.rsample()).detach()
        return kl_divergence(p, q).mean()


class ByHand(nn.Module):
    """Two levels with the KLs written out, KL(p ‖ q); the lower prior is of the upper draw."""

    def __init__(self) -> None:
        super().__init__()
        self.q_top, self.q_low, self.p_low = nn.Linear(6, 4), nn.Linear(6, 8), nn.Linear(2, 8)
        self.decoder = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        qm, ql = self.q_top(x).chunk(2, 1)
        top = qm + (0.5 * ql).exp() * torch.randn_like(qm)
        rm, rl = self.q_low(x).chunk(2, 1)
        low = rm + (0.5 * rl).exp() * torch.randn_like(rm)
        pm, pl = self.p_low(top).chunk(2, 1)
        kl = kl_by_hand(pm, pl, rm, rl).mean() + 0.5 * (ql.exp() + qm**2 - 1 - ql).mean()
        return (self.decoder(torch.cat([top, low], 1)) - x).square().mean() + kl


class ToStandard(nn.Module):
    """KL(N(0, 1) ‖ q): the posterior's σ stands second, and no other is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        q = Normal(mean, log_sigma.exp())
        standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        return (self.decoder(q.rsample()) - x).square().mean() + kl_divergence(standard, q).mean()


class Conditional(nn.Module):
    """A conditional VAE that is evaluated: its prior is drawn from, and the KL is in order."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p, self.decoder = nn.Linear(9, 8), nn.Linear(3, 8), nn.Linear(7, 6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        qm, ql = self.q(torch.cat([x, c], 1)).chunk(2, 1)
        pm, pl = self.p(c).chunk(2, 1)
        p, q = Normal(pm, pl.exp()), Normal(qm, ql.exp())
        z = p.rsample()
        return (self.decoder(torch.cat([z, c], 1)) - x).square().mean() + kl_divergence(q, p).mean()


class Recurrent(nn.Module):
    """A variational RNN: prior and posterior are both of the state; the KL is in order."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q, self.cell, self.decoder = nn.Linear(5, 6), nn.Linear(7, 6), nn.GRUCell(5, 5), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, loss = torch.zeros(len(x), 5), torch.zeros(())
        for step in x.chunk(3, 1):
            pm, pl = self.p(h).chunk(2, 1)
            qm, ql = self.q(torch.cat([step, h], 1)).chunk(2, 1)
            z = qm + (0.5 * ql).exp() * torch.randn_like(qm)
            loss = loss + kl_by_hand(qm, ql, pm, pl).mean() + (self.decoder(z) - step).square().mean()
            h = self.cell(torch.cat([step, z], 1), h)
        return loss


LEVEL = {"posterior_net": "posterior", "prior_net": "prior"}
CASES: list[tuple[Callable[[], nn.Module], int, Roles]] = [
    (Level, 1, LEVEL),
    (LevelInPlace, 1, LEVEL),
    (LevelOfFloat64, 1, LEVEL),
    (LevelBothWays, 1, LEVEL),
    (LevelInOrder, 1, LEVEL),
    (BothDrawn, 1, LEVEL),
    (ByHand, 1, {"q_top": "posterior", "q_low": "posterior", "p_low": "prior"}),
    (ToStandard, 1, {"encoder": "posterior"}),
    (Conditional, 2, {"q": "posterior", "p": "prior"}),
    (Recurrent, 1, {"q": "posterior", "p": "prior"}),
]


@pytest.mark.parametrize(("build", "count", "roles"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_the_posterior_is_what_is_drawn_and_sees_the_data(
    build: Callable[[], nn.Module], count: int, roles: Roles
) -> None:
    torch.manual_seed(0)
    inputs = (*rows()(), torch.randn(5, 3))[:count]
    heads = scan(build(), *inputs)
    assert {head.path: head.role for head in heads} == roles, f"{heads}"


class ToStandardOfSoftplus(ToStandard):
    """By hand, of σ, and for each row: KL(N(0, 1) ‖ q)."""

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        sigma = nn.functional.softplus(raw) + 1e-6
        kl = sigma.log() + (1 + mean**2) / (2 * sigma**2) - 0.5
        return (self.decoder(mean + sigma * torch.randn_like(mean)) - x).square().mean() + kl.sum(1).mean()


class WrongSign(ToStandardOfSoftplus):
    """−KL(q ‖ N(0, 1)), which is another slip, and told as one."""

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, 1)
        sigma = nn.functional.softplus(raw)
        kl = 0.5 * (sigma**2 + mean**2 - 1) - sigma.log()
        return (self.decoder(mean + sigma * torch.randn_like(mean)) - x).square().mean() - kl.sum(1).mean()


class LeftOut(LevelInOrder):
    """The KL is computed, and is no part of the loss."""

    def divergence(self, p: Normal, q: Normal) -> Tensor:
        self.rate = super().divergence(p, q).detach()
        return torch.zeros(())


BOUNDS = [
    (Level, "has a prior first, so that how often the KL counts is not told"),
    (ToStandard, "has its arguments exchanged, the posterior second, so that how often the KL counts is not told"),
    (ToStandardOfSoftplus, "has its arguments exchanged, the posterior second, so that how often the KL counts is not"),
    (LevelBothWays, "taken both ways, so that it cancels"),
    (LeftOut, "which in the loss has no part, since the KL is left out"),
    (WrongSign, "the loss rewards it: it has the wrong sign"),
]


@pytest.mark.parametrize(("build", "reason"), BOUNDS)
def test_the_bound_of_an_exchanged_kl_says_that_it_is_exchanged(build: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    assert reason in scan(build(), *rows()()).elbo.reason


@pytest.mark.medium
@pytest.mark.parametrize("build", [Level, BothDrawn, ByHand])
def test_stabilize_leaves_the_posterior_of_an_exchanged_kl_its_learned_sigma(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    handle = stabilize(build(), *rows()(), prior="constant", file=io.StringIO())
    fixed = {patched.head.path for patched in handle.heads if str(patched.scale) == "constant"}
    assert fixed <= {"prior_net", "p_low"}
    assert fixed


class Products(nn.Module):
    """The likelihood's mean is a product of two networks, and a gain and a bias of each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gain, self.weight = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(3, 6)
        self.bias, self.raw = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        q = Normal(mean, log_sigma.exp())
        z = q.rsample()
        likelihood = Normal(self.gain(z) * self.weight(z) + self.bias, nn.functional.softplus(self.raw))
        kl = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
        return kl.sum(1).mean() - likelihood.log_prob(self.scaled(x)).sum(1).mean()

    def scaled(self, x: Tensor) -> Tensor:
        return x


class ProductsOfScaledData(Products):
    def scaled(self, x: Tensor) -> Tensor:
        return 2 * x - 1


@pytest.mark.parametrize("build", [Products, ProductsOfScaledData])
def test_a_density_of_data_is_a_likelihood_of_however_many_networks_its_mean_is_made(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    heads = scan(build(), *rows()())
    assert {head.path: head.role for head in heads} == {"encoder": "posterior", "raw": "likelihood"}, f"{heads}"
