"""A σ that is a ReLU, |v|, v² or has a kink: zero is reached between the ends, and σ is kept as far as it can be."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.conventions import CONVENTIONS
from vdvae_patch.patching.floors import zero_between


class VAE(nn.Module):
    """Its KL is written by hand, with the log of σ itself."""

    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mean, self.raw = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decoder, self.scale = nn.Linear(4, 20), scale

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        mean, sigma = self.mean(h), self.scale(self.raw(h))
        z = mean + sigma * torch.randn_like(mean)
        kl = (0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)).sum(1).mean()
        return F.mse_loss(self.decoder(z), x, reduction="sum") / len(x) + kl


def stabilized(scale: Callable[[Tensor], Tensor]) -> tuple[vdvae_patch.PatchHandle, str]:
    """The patch of such a host, and what was said."""
    torch.manual_seed(1)
    x, said = torch.rand(32, 20), io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a loss that is infinite without the patch
        return vdvae_patch.stabilize(VAE(scale), x, file=said), said.getvalue()


@pytest.mark.parametrize("scale", [torch.abs, torch.square, lambda v: (v - 0.25).abs()])
def test_a_sigma_that_is_zero_between_the_ends_is_not_called_cured_as_it_is(scale: Callable[[Tensor], Tensor]) -> None:
    handle, said = stabilized(scale)
    (head,) = handle.heads
    assert head.scale is not None
    assert "CURED: raw[:] (posterior, bounded(" in said
    assert head.before is not None
    assert head.after is not None
    assert head.after.median == pytest.approx(head.before.median, rel=0.02)
    assert head.before.median / 10 < head.after.low
    assert head.after.high < 10 * head.before.median


@pytest.mark.parametrize("scale", [F.relu, F.relu6])
def test_of_a_relu_the_sigma_that_it_has_is_kept(scale: Callable[[Tensor], Tensor]) -> None:
    handle, _ = stabilized(scale)
    (head,) = handle.heads
    assert head.before is not None
    assert head.after is not None
    assert handle.after is not None
    assert head.before.low == 0
    assert 0.3 < head.before.high < 0.6
    assert 0.001 < head.after.low < 0.1
    assert head.after.high < 1
    # of the largest tenth the mean is the host's within a half
    model = VAE(scale)
    torch.manual_seed(1)
    raw = model.raw(torch.tanh(model.body(torch.rand(32, 20)))).flatten().detach()
    top = raw.topk(len(raw) // 10).values
    assert head.scale is not None
    assert float(head.scale.sigma(top).mean()) == pytest.approx(float(scale(top).mean()), rel=0.5)


def test_a_kink_beside_the_median_does_not_flatten_the_rest() -> None:
    handle, _ = stabilized(lambda v: F.leaky_relu(v) + 0.1)
    (head,) = handle.heads
    assert head.before is not None
    assert head.after is not None
    assert head.after.median == pytest.approx(head.before.median, rel=0.01)
    assert head.after.high == pytest.approx(head.before.high, rel=0.1)


@pytest.mark.parametrize(
    ("convention", "zero"),
    [("log_sigma", None), ("log_variance", None), ("softplus", None), ("sigma", 0.0), ("variance", None)],
)
def test_where_a_convention_is_zero(convention: str, zero: float | None) -> None:
    assert zero_between(CONVENTIONS.get(convention)) == zero
