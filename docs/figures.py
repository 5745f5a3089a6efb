"""Draws docs/scales.png: σ, log σ and the gradient of log σ of each scale.

python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from vdvae_patch import scales

SHOWN = (
    "exp", "explin", "upbounded(omega=1)", "downbounded(alpha=0.1)",
    "bounded(alpha=0.1, omega=1)", "softplus(beta=1)", "softclamp(limit=5, floor=0.01)", "clamp(low=-30, high=20)",
)  # fmt: skip


def draw(out: Path) -> None:
    """Write the figure."""
    p = torch.linspace(-6, 6, 601, dtype=torch.float64, requires_grad=True)
    figure, panels = plt.subplots(2, 4, figsize=(11, 5.2), sharex=True, sharey=True)
    for panel, spec in zip(panels.flat, SHOWN, strict=True):
        scale = scales.get(spec)
        sigma, log_sigma = scale.sigma(p), scale.log_sigma(p)
        (gradient,) = torch.autograd.grad(log_sigma.sum(), p)
        x = p.detach()
        panel.axhline(0, color="0.8", lw=0.8)
        panel.axvline(0, color="0.8", lw=0.8)
        panel.plot(x, sigma.detach(), color="tab:red", label="σ")
        panel.plot(x, log_sigma.detach(), color="tab:blue", label="log σ")
        panel.plot(x, gradient, color="tab:green", ls="--", label="d log σ / dp")
        panel.set_title(spec, fontsize=9)
        panel.set_ylim(-4, 4)
    for panel in panels[1]:
        panel.set_xlabel("p, what the network puts out")
    panels[0, 0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).parent / "scales.png")
