"""A trained host that draws from one Normal and measures another keeps its loss under `stabilize`, with both."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec = nn.Linear(6, 6), nn.Linear(3, 6)

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.exp()

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, 1)
        z = mean + self.sigma(raw) * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x) - 0.1 * (1 + raw - mean**2 - raw.exp()).sum(1).mean()


class OfSquares(Coder):
    """As of a public graph VAE: what is called a log of σ is squared, and the KL has it as a log variance."""

    def sigma(self, raw: Tensor) -> Tensor:
        return raw.exp().square()


class OfSoftplus(Coder):
    def sigma(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)


def mean_loss(model: nn.Module, x: Tensor) -> float:
    torch.manual_seed(5)
    with torch.no_grad():
        return sum(float(model(x)) for _ in range(20)) / 20


@pytest.mark.parametrize("build", [Coder, OfSquares, OfSoftplus])
def test_both_laws_stay_and_both_are_cured(build: type[Coder]) -> None:
    torch.manual_seed(0)
    model, x, out = build(), torch.randn(16, 6), io.StringIO()
    with torch.no_grad():
        model.net.bias[3:] -= 1.0
    before = mean_loss(model, x)
    handle = vdvae_patch.stabilize(model, x, file=out)
    assert "CURED: net[3:6]" in out.getvalue()
    assert "keep each its own σ" in out.getvalue()
    assert mean_loss(model, x) == pytest.approx(before, rel=0.01)
    again = build()
    vdvae_patch.apply(again, handle.to_json())
    again.load_state_dict(model.state_dict())
    assert mean_loss(again, x) == mean_loss(model, x)
    for far in (-300.0, 300.0):
        with torch.no_grad():
            model.net.bias[3:] = far
        loss = model(x)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    handle.unpatch()
    assert not model(x).isfinite()
