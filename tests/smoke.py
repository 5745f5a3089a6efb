"""Import, scan, patch, stabilize and guard, where torch and numpy are all that is installed; on any operating system.

Run as a script: `python tests/smoke.py`. Ends with an error at the first thing that is wrong.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch


class _Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        posterior = Normal(mean, log_sigma.exp())
        z = posterior.rsample()
        kl = kl_divergence(posterior, Normal(torch.zeros_like(z), torch.ones_like(z)))
        return (self.decoder(z) - x).square().sum(1).mean() + kl.sum(1).mean()


def _patched() -> None:
    torch.manual_seed(0)
    model, x = _Vae(), torch.randn(16, 8)
    before = model.encoder.bias.detach().clone()
    heads = vdvae_patch.scan(model, x)
    assert [(head.path, head.role) for head in heads] == [("encoder", "posterior")], heads
    with torch.no_grad():
        model.encoder.bias[4:] = -55.0
    assert not math.isfinite(model(x).item())
    handle = vdvae_patch.stabilize(model, x)
    assert math.isfinite(model(x).item())
    handle.unpatch()
    assert not math.isfinite(model(x).item())
    assert torch.equal(model.encoder.bias[:4], before[:4])


def _guarded() -> None:
    torch.manual_seed(0)
    model, x = _Vae(), torch.randn(16, 8)
    optimizer = torch.optim.Adam(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        guard = vdvae_patch.guard(model, out=Path(folder) / "guard")
        for step in range(3):
            if step == 1:
                model.encoder.bias.data[4:] = -55.0
            before = model.encoder.weight.detach().clone()
            optimizer.zero_grad()
            model(x).backward()
            optimizer.step()
            if step == 1:
                assert torch.equal(before, model.encoder.weight)
                model.encoder.bias.data[4:] = 0.0
        assert [skip.step for skip in guard.skips] == [1], guard.report()
        print(guard.report())
        guard.remove()


if __name__ == "__main__":
    _patched()
    _guarded()
    print(f"in order: vdvae_patch {vdvae_patch.__version__}, torch {torch.__version__}")
