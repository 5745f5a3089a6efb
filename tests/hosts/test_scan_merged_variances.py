"""Normals that are multiplied are named once each, in whatever way their variance is written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Product(nn.Module):
    """What an encoder says and a prior of a condition are multiplied, drawn from, and measured against the prior."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.prior, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        """The variance of the product of log variances."""
        raise NotImplementedError

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m, a), (mp, b) = self.enc(x).chunk(2, 1), self.prior(c).chunk(2, 1)
        variance = self.merged(a, b)
        mean = variance * (m * torch.exp(-a) + mp * torch.exp(-b))
        z = mean + variance.sqrt() * torch.randn_like(mean)
        kl = 0.5 * (b - variance.log() + (variance + (mean - mp) ** 2) / b.exp() - 1)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


class OfLogVariances(Product):
    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(a + b - torch.log(a.exp() + b.exp()))


class OfStackedLogs(Product):
    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.logsumexp(torch.stack([-a, -b]), 0))


class OfAGain(Product):
    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        before, noise = b.exp(), a.exp()
        gain = before / (before + noise)
        return before - gain * before


class OfVariances(Product):
    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        ours, theirs = a.exp(), b.exp()
        return ours * theirs / (ours + theirs)


@pytest.mark.parametrize("cls", [OfLogVariances, OfStackedLogs, OfAGain, OfVariances])
@pytest.mark.parametrize("variant", ["explin", "explin/constant"])
def test_each_factor_is_one_head_and_the_product_follows_its_scale(cls: type[Product], variant: str) -> None:
    model, batch = cls(), torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    heads = scan(model, *batch)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("enc", "4:8", "posterior", "log_variance"), ("prior", "4:8", "prior", "log_variance"),
    ]  # fmt: skip
    handle = patch(model, variant, heads=heads)
    assert handle.after is not None
    assert handle.after.finite
