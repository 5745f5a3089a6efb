"""A VAE with a batch norm, as small as one can be; and its loss, beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.mean, self.logvar = nn.Linear(12, 3), nn.Linear(12, 3)
        self.decoder = nn.Linear(3, 6)
        self.far = 0.0  # added to the log variance: what a training that goes wrong does by itself

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h) + self.far
        return self.decoder(mean + torch.exp(logvar / 2) * torch.randn_like(mean)), mean, logvar


def nelbo(recon: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    error = ((recon - x) ** 2).sum()
    return error - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
