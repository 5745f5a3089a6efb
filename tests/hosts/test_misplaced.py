"""With the host's own σ where the scales are to be, the scanned batch has the host's own loss, or there is no patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_residual_to_zeros import Levels
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.attach import recompile
from vdvae_patch.errors import PatchError

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def test_a_scale_that_would_get_another_value_than_the_hosts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line computes σ of q at the first level, and of q + p at the next; the first reading is taken for both."""
    monkeypatch.setattr(recompile, "_is_further", lambda one, other: False)
    heads = vdvae_patch.scan(model := Levels(), X)
    before = dict(vars(model.posteriors[0]))
    with pytest.raises(
        PatchError, match=r"posteriors\.0\[3:6\] .*the loss of the scanned batch is .*σ of this head alone"
    ):
        vdvae_patch.patch(model, "bounded(0.1, 2)", heads=heads)
    assert dict(vars(model.posteriors[0])) == before
    assert not vdvae_patch.is_patched(model)


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
