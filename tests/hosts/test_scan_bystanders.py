"""A patch that moves more than σ is noticed and taken back, however right the σ is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.patching import is_patched, patch
from vdvae_patch.scanning import ScanResult, scan


class Masked(nn.Module):
    """Mean, log σ and features from one layer, padded places set to zero before they are taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.dec = nn.Conv1d(3, 6, 1), nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(len(x), 1, x.shape[2])
        mask[0, :, -1:] = 0
        mean, log_sigma, more = torch.split(self.proj(x) * mask, 2, dim=1)
        z = mean + torch.randn_like(mean) * log_sigma.exp()
        kl = (0.5 * ((2 * log_sigma).exp() + mean**2) - log_sigma) * mask
        return kl.sum() + (self.dec(torch.cat([z, more], 1)) - x).square().sum()


def with_channels(heads: ScanResult, start: int, stop: int | None) -> ScanResult:
    """The heads of one scan, the first with other channels, as a mistaken scan would give them."""
    return ScanResult([replace(heads[0], start=start, stop=stop), *heads[1:]])


def test_what_is_cut_out_behind_a_mask_is_a_head_of_its_channels_alone() -> None:
    model, x = Masked(), torch.randn(2, 3, 5)
    heads = scan(model, x)
    assert [(h.path, h.start, h.stop, h.dim) for h in heads] == [("proj", 2, 4, 1)]
    before = model.proj(x)
    patch(model, posterior="upbounded(omega=2)", heads=heads)
    torch.testing.assert_close(model.proj(x)[:, :2], before[:, :2], rtol=0, atol=0)
    torch.testing.assert_close(model.proj(x)[:, 4:], before[:, 4:], rtol=0, atol=0)


@pytest.mark.parametrize("scale", ["upbounded(omega=2)", "constant"])
@pytest.mark.parametrize(("start", "stop", "moved"), [(0, None, "(:2|4:6)"), (0, 4, ":2"), (2, None, "4:6")])
def test_a_patch_that_also_moves_the_mean_or_other_channels_is_refused_and_taken_back(
    start: int, stop: int | None, moved: str, scale: str
) -> None:
    model, x = Masked(), torch.randn(2, 3, 5)
    heads = with_channels(scan(model, x), start, stop)
    before = model.proj(x)
    with pytest.raises(PatchError, match=f"also changes .*{moved} along dimension 1"):
        patch(model, posterior=scale, heads=heads)
    assert not is_patched(model)
    torch.testing.assert_close(model.proj(x), before, rtol=0, atol=0)
