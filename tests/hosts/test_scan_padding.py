"""Padding masks that come with the batch, and priors that are compared in one pass and drawn from in another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import rows

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


class Speech(nn.Module):
    """Text c and speech x of several lengths: batch, time, features."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p, self.d, self.shift = nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(1, 4)

    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


class OneSample(Speech):
    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = (self.q(x) * mask).chunk(2, -1)
        mp, lp = (self.p(c) * mask).chunk(2, -1)
        z = (mq + torch.randn_like(mq) * lq.exp()) * mask
        kl = lp - lq - 0.5 + 0.5 * (z - mp) ** 2 * torch.exp(-2 * lp)
        return ((self.d(z) - x) ** 2).mean() + (kl * mask).sum() / mask.sum()


class ClosedForm(Speech):
    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = (self.q(x) * mask).chunk(2, -1)
        mp, lp = (self.p(c) * mask).chunk(2, -1)
        z = (mq + torch.randn_like(mq) * (0.5 * lq).exp()) * mask
        kl = 0.5 * (lp - lq - 1 + (lq.exp() + (mq - mp) ** 2) / lp.exp()) * mask
        return ((self.d(z) - x) ** 2 * mask).mean() + kl.sum() / mask.sum()


class OfTorch(Speech):
    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = (self.q(x) * mask).chunk(2, -1)
        mp, lp = (self.p(c) * mask).chunk(2, -1)
        q, p = Normal(mq, lq.exp()), Normal(mp, lp.exp())
        z = q.rsample() * mask
        return ((self.d(z) - x) ** 2 * mask).mean() + (kl_divergence(q, p) * mask).sum() / mask.sum()


class ChannelsFirst(Speech):
    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        m = mask.transpose(1, 2)
        mq, lq = (self.q(x).transpose(1, 2) * m).chunk(2, 1)
        mp, lp = (self.p(c).transpose(1, 2) * m).chunk(2, 1)
        z = mq + torch.randn_like(mq) * lq.exp() * m
        kl = lp - lq - 0.5 + 0.5 * torch.exp(-2 * lp) * ((z - mp) ** 2 + torch.exp(2 * lq))
        return ((self.d(z.transpose(1, 2)) - x) ** 2).mean() + torch.sum(kl * m) / torch.sum(m)


class WithConcatenatedMask(Speech):
    """The mask is a feature of the text, too."""

    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = (self.q(x) * mask).chunk(2, -1)
        shift = self.shift(mask.float())
        mp, lp = (self.p(c) * mask).chunk(2, -1)
        z = (mq + torch.randn_like(mq) * lq.exp()) * mask
        kl = lp - lq + 0.5 * ((2 * lq).exp() + (mq - mp) ** 2) * torch.exp(-2 * lp)
        return ((self.d(z + shift) - x) ** 2).mean() + (kl * mask).sum() / mask.sum()


class Filled(Speech):
    """What lies behind the end is filled in, not multiplied."""

    def masked(self, value: Tensor, mask: Tensor) -> Tensor:
        return value.masked_fill(mask == 0, 0.0)

    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = self.masked(self.q(x), mask).chunk(2, -1)
        mp, lp = self.masked(self.p(c), mask).chunk(2, -1)
        z = mq + torch.randn_like(mq) * lq.exp()
        kl = lp - lq - 0.5 + 0.5 * ((2 * lq).exp() + (mq - mp) ** 2) * torch.exp(-2 * lp)
        return ((self.d(z) - x) ** 2 * mask).mean() + (kl * mask).sum() / mask.sum()


class FilledInPlace(Filled):
    def masked(self, value: Tensor, mask: Tensor) -> Tensor:
        return value.masked_fill_(~mask.bool(), 0.0)


class Chosen(Filled):
    def masked(self, value: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.bool(), value, torch.zeros(()))


class ChosenTheOtherWay(Filled):
    def masked(self, value: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask == 0, torch.zeros_like(value), value)


class ByEinsum(Filled):
    def masked(self, value: Tensor, mask: Tensor) -> Tensor:
        return torch.einsum("btc,bt->btc", value, mask[..., 0].to(value.dtype))


class FilledOfTorch(Filled):
    def forward(self, x: Tensor, c: Tensor, mask: Tensor) -> Tensor:
        mq, lq = self.masked(self.q(x), mask).split(4, -1)
        mp, lp = self.masked(self.p(c), mask).split(4, -1)
        q, p = Normal(mq, lq.exp()), Normal(mp, lp.exp())
        kl = kl_divergence(q, p).masked_fill(mask == 0, 0.0)
        return ((self.d(q.rsample()) - x) ** 2 * mask).mean() + kl.sum() / mask.sum()


def batch(kind: Callable[[Tensor], Tensor] = Tensor.float) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    mask = torch.arange(7)[None] < torch.tensor([7, 3, 5, 2, 6])[:, None]
    return torch.randn(5, 7, 8, generator=g), torch.randn(5, 7, 6, generator=g), kind(mask[..., None])


def roles(heads: ScanResult) -> set[tuple[str, str]]:
    return {(head.path, head.role) for head in heads}


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Tensor.float, Tensor.bool, torch.ones_like])
@pytest.mark.parametrize(
    "build",
    [
        *(OneSample, ClosedForm, OfTorch, ChannelsFirst, WithConcatenatedMask),
        *(Filled, FilledInPlace, Chosen, ChosenTheOtherWay, ByEinsum, FilledOfTorch),
    ],
)
def test_a_mask_that_comes_with_the_batch_hides_no_prior(build: type[Speech], kind: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, inputs = build(), batch(kind)
    heads = scan(model, *inputs)
    assert roles(heads) == {("q", "posterior"), ("p", "prior")}, f"{heads}\n{heads.why_not()}"
    patch(model, "explin", heads=heads)


class Binary(nn.Module):
    """Pixels of zeros and ones are data, though they gate the output."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, 1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        y, raw = self.dec(z).chunk(2, 1)
        kl = 0.5 * ((2 * log_sigma).exp() + mean**2 - 1) - log_sigma
        return F.gaussian_nll_loss(y, x, raw.exp()) + kl.mean()


class BinaryFlow(nn.Module):
    """Half of the pixels are scaled by a function of the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        raw, shift = self.net(a).chunk(2, 1)
        return (0.5 * (b * raw.exp() + shift) ** 2 - raw).mean()


@pytest.mark.filterwarnings("ignore:no Normal head")
def test_binary_data_are_no_mask() -> None:
    x = (rows()()[0] > 0).float()
    torch.manual_seed(0)
    assert roles(scan(Binary(), x)) == {("enc", "posterior"), ("dec", "likelihood")}
    assert not scan(BinaryFlow(), x)


class TwoPasses(nn.Module):
    """The prior is compared in the loss, and drawn from for a picture, by other lines."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p, self.d = nn.Linear(9, 8), nn.Linear(3, 8), nn.Linear(7, 6)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        loss = self.loss(x, c)
        self.picture = self.generated(c).detach()
        return loss

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        qm, ql = self.q(torch.cat([x, c], 1)).chunk(2, 1)
        pm, pl = self.p(c).chunk(2, 1)
        z = qm + ql.exp() * torch.randn_like(qm)
        kl = pl - ql + 0.5 * ((2 * ql).exp() + (qm - pm) ** 2) * torch.exp(-2 * pl) - 0.5
        return (self.d(torch.cat([z, c], 1)) - x).square().mean() + kl.mean()

    def generated(self, c: Tensor) -> Tensor:
        mean, raw = self.p(c).chunk(2, 1)
        z = mean + 0.7 * raw.exp() * torch.randn_like(mean)
        return self.d(torch.cat([z, c], 1))


def test_a_prior_that_is_compared_in_one_pass_and_drawn_from_in_another_is_one_head() -> None:
    torch.manual_seed(0)
    model, inputs = TwoPasses(), (*rows()(), torch.randn(5, 3))
    heads = scan(model, *inputs)
    assert sorted((h.path, h.role) for h in heads) == [("p", "prior"), ("q", "posterior")], f"{heads}"
    patch(model, "explin/constant", heads=heads)
