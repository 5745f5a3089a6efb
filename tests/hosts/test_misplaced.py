"""With the host's own σ where the scales are to be, the scanned batch has the host's own loss, or it is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_residual_to_zeros import Levels
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.attach import recompile

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def test_a_scale_that_gets_another_value_than_the_hosts_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line computes σ of q at the first level, and of q + p at the next; the first reading is taken for both."""
    monkeypatch.setattr(recompile, "_is_further", lambda one, other: False)
    heads = vdvae_patch.scan(model := Levels(), X)
    with pytest.warns(UserWarning, match=r"posteriors\.0\[3:6\] .*in the place of the scale, the loss .*of this head"):
        handle = vdvae_patch.patch(model, "bounded(0.1, 2)", heads=heads)
    assert handle.before is not None
    assert f"by the host as it is {handle.before.loss:.6g}" in handle.misplaced[0]


def test_where_it_is_the_hosts_value_nothing_is_said(recwarn: pytest.WarningsRecorder) -> None:
    heads = vdvae_patch.scan(model := Levels(), X)
    assert vdvae_patch.patch(model, "bounded(0.1, 2)", heads=heads).misplaced == ()
    # `by_hand` computes σ of the prior's raw value in words of its own, and is told alone
    assert all("Levels.by_hand, which the scanned call did not run" in str(one.message) for one in recwarn.list)


class DrawsByNumPy(nn.Module):
    """Draws from a generator of its own, which no two passes find alike."""

    def __init__(self, far: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.far = nn.Linear(8, 8), nn.Linear(4, 8), far
        self.generate = lambda size: np.random.default_rng().normal(size=size)

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.encoder(x).chunk(2, 1)
        v = v + self.far
        x = x + torch.from_numpy(self.generate(tuple(x.shape))).float()
        z = mean + torch.exp(v / 2) * torch.randn_like(v)
        kl = 0.5 * (mean**2 + v.exp() - v - 1).sum(1)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.mean()


@pytest.mark.parametrize("far", [0.0, 200.0])
def test_a_loss_that_no_second_pass_gives_or_that_is_not_finite_tells_nothing(far: float) -> None:
    model = DrawsByNumPy(far)
    handle = vdvae_patch.patch(model, "upbounded", heads=vdvae_patch.scan(model, X))
    assert not handle.unverified
    assert handle.misplaced == ()


class OfHalfTypes(nn.Module):
    """Computes softplus and floor one after the other, each rounded."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.decoder = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.encoder(x).chunk(2, -1)
        q = torch.distributions.Normal(mean, nn.functional.softplus(v) + 1e-3)
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
        return ((self.decoder(q.rsample()) - x).square().sum(-1) + kl).mean()


def in_autocast(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        loss: Tensor = model(x)
    return loss


def test_what_half_types_round_is_no_other_loss_and_another_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two neighbouring numbers of bfloat16 are up to 0.8% apart: of 9.75 for 9.6875 it was said that σ is misplaced."""
    model = OfHalfTypes(seed=3).bfloat16()
    heads = vdvae_patch.scan(model, torch.randn(16, 8).bfloat16())
    assert vdvae_patch.patch(model, "explin", heads=heads).misplaced == ()
    wide = OfHalfTypes(seed=4)
    heads = vdvae_patch.scan(wide, torch.randn(16, 8), call=in_autocast)
    assert vdvae_patch.patch(wide, "explin", heads=heads).misplaced == ()
    monkeypatch.setattr(recompile, "_is_further", lambda one, other: False)
    levels = Levels().bfloat16()
    heads = vdvae_patch.scan(levels, (4 * X).bfloat16())
    with pytest.warns(UserWarning, match="in the place of the scale"):
        vdvae_patch.patch(levels, "bounded(0.1, 2)", heads=heads)
