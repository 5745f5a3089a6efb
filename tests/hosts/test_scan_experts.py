"""Experts of a product, and posteriors of a part of the data, are posteriors; a conditional prior is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def roles(model: nn.Module, *inputs: Tensor) -> dict[str, str]:
    torch.manual_seed(1)
    heads = list(scan(model, *inputs))
    found = {f"{head.path}[{head.channels}]": head.role for head in heads}
    assert len(found) == len(heads)
    return found


def law(out: Tensor) -> Normal:
    mean, log_var = out.chunk(2, -1)
    return Normal(mean, torch.exp(0.5 * log_var))


class LabelExperts(nn.Module):
    """A product of an image's posterior, two labels', and a standard Normal; its KL to each of the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.one, self.two = nn.Linear(6, 6), nn.Linear(4, 6), nn.Linear(4, 6)
        self.decoder, self.classes = nn.Linear(3, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor, one: Tensor, two: Tensor) -> Tensor:
        experts = [law(net(v)) for net, v in ((self.image, x), (self.one, one), (self.two, two))]
        variance = 1 / (sum(e.scale**-2 for e in experts) + 1)
        q = Normal(variance * sum(e.loc * e.scale**-2 for e in experts), variance.sqrt())
        z = q.rsample()
        fit = F.mse_loss(self.decoder(z), x) + F.cross_entropy(self.classes(z), one.argmax(1))
        return fit + sum((kl_divergence(q, e).sum(1).mean() for e in experts), torch.zeros(()))


def test_the_factors_of_a_product_to_which_there_are_several_kls_are_posteriors() -> None:
    labels = torch.eye(4)[torch.arange(6) % 4], torch.eye(4)[torch.arange(6) % 3]
    found = roles(LabelExperts(), torch.randn(6, 6), *labels)
    assert found == {"image[3:6]": "posterior", "one[3:6]": "posterior", "two[3:6]": "posterior"}


class Joint(nn.Module):
    """Of all data, and of a part that is kept near; the part is decoded, too, or it is a condition."""

    def __init__(self, prior: bool, decoded: bool) -> None:
        super().__init__()
        self.prior, self.decoded = prior, decoded
        self.all, self.part, self.decoder, self.other = (
            nn.Linear(10, 6), nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(3, 4),
        )  # fmt: skip

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m, v), (mp, vp) = self.all(torch.cat([x, c], 1)).chunk(2, 1), self.part(c).chunk(2, 1)
        z = m + torch.exp(0.5 * v) * torch.randn_like(m)
        loss = F.mse_loss(self.decoder(z), x)
        if self.decoded:
            loss = loss + F.mse_loss(self.other(z), c)
        if self.prior:
            loss = loss - 0.5 * (1 + v - m**2 - v.exp()).sum(1).mean()
        return loss + 0.5 * (vp - v + (v.exp() + (m - mp) ** 2) / vp.exp() - 1).sum(1).mean()


@pytest.mark.parametrize(
    ("prior", "decoded", "role"), [(True, True, "posterior"), (True, False, "prior"), (False, True, "prior")]
)
def test_near_a_posterior_whose_prior_is_known_stands_a_posterior_of_what_is_decoded_or_a_prior_of_a_condition(
    prior: bool, decoded: bool, role: str
) -> None:
    found = roles(Joint(prior, decoded), torch.randn(6, 6), torch.randn(6, 4))
    assert found == {"all[3:6]": "posterior", "part[3:6]": role}


class BetweenBounds(nn.Module):
    """Noise times a log variance between learned bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 6), nn.Linear(3, 6)
        self.high, self.low = nn.Parameter(torch.full((3,), 0.5)), nn.Parameter(torch.full((3,), -9.0))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        log_var = self.high - F.softplus(self.high - log_var)
        log_var = self.low + F.softplus(log_var - self.low)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x) + 0.01 * (self.high - self.low).sum()


def test_between_learned_bounds_the_raw_value_is_the_networks() -> None:
    (head,) = scan(BetweenBounds(), torch.randn(6, 6))
    assert (head.path, head.start, head.stop, head.role) == ("enc", 3, 6, "posterior")
    assert head.found is not None
    assert head.found.patch_at == "call"


class Rung(nn.Module):
    """A posterior that is merged with its prior by precision, and a floor before the log of its variance."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.top, self.down, self.dec = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(2, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        top_mean, top_log_var = self.top(x).chunk(2, 1)
        top = top_mean + (0.5 * top_log_var).exp() * torch.randn_like(top_mean)
        kl = 0.5 * (top_mean**2 + top_log_var.exp() - top_log_var - 1).sum(1)
        (up_mean, up_log_var), (prior_mean, prior_log_var) = self.up(x).chunk(2, 1), self.down(top).chunk(2, 1)
        ours, theirs = torch.exp(-up_log_var), torch.exp(-prior_log_var)
        variance = 1 / (ours + theirs)
        mean, log_var = (up_mean * ours + prior_mean * theirs) * variance, torch.log(variance + 1e-8)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        apart = (log_var.exp() + (mean - prior_mean) ** 2) / prior_log_var.exp()
        kl = kl + 0.5 * (prior_log_var - log_var + apart - 1).sum(1)
        return ((self.dec(z) - x).square().sum(1) + kl).mean()


def test_a_posterior_that_is_merged_with_a_prior_takes_one_that_is_constant() -> None:
    model, x = Rung(), torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    heads = scan(model, x)
    assert sorted((h.path, h.role) for h in heads) == [("down", "prior"), ("top", "posterior"), ("up", "posterior")]
    handle = patch(model, "explin/constant", heads=heads)
    assert handle.after is not None
    assert handle.after.finite
