"""A posterior that is merged with its prior by precision, as in a ladder VAE, under a scale that reaches small σ."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import PatchHandle
from vdvae_patch.scanning.result import ScanResult
from vdvae_patch.scanning.stabilizing import choosing
from vdvae_patch.scanning.stabilizing.treatment import Scales


class Ladder(nn.Module):
    """The lower level's posterior is the product of what the data and the level above say."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above, self.prior, self.decoder = (
            nn.Linear(8, 6), nn.Linear(8, 4), nn.Linear(2, 6), nn.Linear(3, 8),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        m1, v1 = self.below(x).chunk(2, 1)
        m2, v2 = self.above(x).chunk(2, 1)
        v1, v2 = F.softplus(v1), F.softplus(v2)
        z2 = m2 + v2.sqrt() * torch.randn_like(m2)
        p, vp = self.prior(z2).chunk(2, 1)
        vp = F.softplus(vp)
        v = 1 / (1 / v1 + 1 / vp)
        m = (m1 / v1 + p / vp) * v
        z1 = m + v.sqrt() * torch.randn_like(m)
        kl = -0.5 * (1 + v2.log() - m2**2 - v2).sum(1) + 0.5 * (vp.log() - v.log() + (v + (m - p) ** 2) / vp - 1).sum(1)
        return (((self.decoder(z1) - x) ** 2).sum(1) + kl).mean()


@pytest.mark.parametrize("top", [10, 100, 1000, 3000])
def test_a_merged_posterior_is_verified_down_to_small_sigma(top: int) -> None:
    heads = vdvae_patch.scan(model := Ladder(), torch.randn(16, 8))
    vdvae_patch.patch(model, f"bounded(0.001, {top})/constant", heads=heads, paper=False)


def test_a_scale_that_holds_and_cannot_be_put_in_place_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause that is known is mended, so the refusal is put in here."""
    own = choosing.patch_heads

    def refusing(model: nn.Module, heads: ScanResult, scales: Scales, paper: bool) -> PatchHandle:
        if any(str(scale).startswith("bounded") for scale in scales.values()):
            raise PatchError("head above[2:4]: the patch was taken back")
        return own(model, heads, scales, paper)

    monkeypatch.setattr(choosing, "patch_heads", refusing)
    vdvae_patch.stabilize(Ladder(), torch.randn(16, 8), file=(out := io.StringIO()))
    assert "Of the scales that were tried bounded(" in out.getvalue()
    assert "holds, and head above[2:4]: the patch was taken back" in out.getvalue()
    assert "No scale that was tried holds" not in out.getvalue()
