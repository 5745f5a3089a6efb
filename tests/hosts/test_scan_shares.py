"""A σ that is made of a whole row of values: it is named as a near miss with the reason, and nothing is patched."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.scanning import scan


class OfARow(nn.Module):
    def __init__(self, sigma: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.sigma, self.mean, self.raw, self.dec = sigma, nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), self.sigma(self.raw(x)))
        return F.mse_loss(self.dec(q.rsample()), x) + kl_divergence(q, Normal(0.0, 1.0)).mean()


@pytest.mark.parametrize(
    ("sigma", "word"),
    [
        (lambda v: v.softmax(-1) + 1e-6, "a softmax"),
        (lambda v: v.log_softmax(-1).exp(), "a softmax"),
        (lambda v: 4 * v.softmax(-1) * F.softplus(v.mean(-1, keepdim=True)), "a softmax"),
        (lambda v: v.exp() / v.exp().sum(-1, keepdim=True), "values over a total of their row"),
        (lambda v: F.normalize(v.exp(), dim=-1), "values over a total of their row"),
        (lambda v: F.softplus(v).cumsum(-1) + 1e-3, "running totals"),
    ],
)
def test_a_sigma_of_a_whole_row_is_no_head_and_the_near_miss_says_so(
    sigma: Callable[[Tensor], Tensor], word: str
) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no head was found
        heads = scan(OfARow(sigma), torch.randn(5, 6))
    assert not list(heads)
    assert f"σ is computed of {word}: it depends on the whole row" in heads.why_not()


@pytest.mark.parametrize("sigma", [lambda v: F.layer_norm(v, (4,)).exp(), lambda v: (v - v.mean(0)).exp()])
def test_a_raw_value_that_is_normalized_stays_a_head(sigma: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    (head,) = scan(OfARow(sigma), torch.randn(5, 6))
    assert head.role == "posterior"
