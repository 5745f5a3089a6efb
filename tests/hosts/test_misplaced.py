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
    assert not recwarn.list


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
