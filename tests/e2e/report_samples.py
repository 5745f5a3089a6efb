"""What a report is made of, in the tests of its page and of the browser that shows it: really run, and small."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from runs import tiny
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.cli import main
from vdvae_patch.report.write import write
from vdvae_patch.skips import records
from vdvae_patch.train.loop import train

SHAPE = [
    "--preset=demo", "--data=builtin(train=24,valid=2,test=4)", "--width=8", "--zdim=2", "--num-mixtures=2",
    "--enc-blocks=32d8,4d4,1x1", "--dec-blocks=1x1,4m1,32m4", "--batch-size=2", "--lr=1e-3", "--warmup-iters=10",
    "--ema-rate=0.9", "--device=cpu", "--threads=1", "--jobs=2",
]  # fmt: skip


def compared(folder: Path) -> Path:
    """Two variants with two seeds, each skipping some updates: the threshold is what half of the norms are below."""
    train(tiny(folder / "first", steps=12))
    usual = statistics.median(row["grad_norm"] for row in records.read(folder / "first" / "metrics.jsonl"))
    out = folder / "comparison"
    flags = [
        "--variants=vanilla,upbounded", "--seeds=0,1", "--steps=12", "--samples-every=6", "--watch-every=3",
        "--evaluate-every=4", f"--skip-threshold={usual}", "--record-skips=2", f"--out={out}",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(["compare", *SHAPE, *flags])
    assert stop.value.code == 0
    return out


class VAE(nn.Module):
    """Reads log variance without a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.decoder = nn.Linear(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.encoder(x).chunk(2, 1)
        z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
        kl = 0.5 * (mu**2 + log_variance.exp() - log_variance - 1).sum(1)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.mean()


def guarded(out: Path) -> None:
    """A loop that skips updates from some step on: its head emits a log variance beyond float32."""
    torch.manual_seed(0)
    model = VAE()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with vdvae_patch.guard(model, out=out):
        for step in range(8):
            x = torch.randn(4, 8)
            loss = model(x * (1e4 if step > 4 else 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def page_of(path: Path, out: Path | None = None) -> str:
    """The page, as text."""
    return write(path, out).read_text(encoding="utf-8")
