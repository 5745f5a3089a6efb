"""A VAE that keeps what its next step needs in every place but its `state_dict`, and draws from every generator."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Annealer:
    """The weight of the KL, from 0.1 on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return float(1 - 0.9**self.calls)


class VAE(nn.Module):
    def __init__(self, pixels: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, 8), nn.SiLU(), nn.Linear(8, 2 * latents))
        self.decoder = nn.Linear(latents, pixels)
        self.latents, self.num_iter, self.annealer = latents, 0, Annealer()
        self.mean = torch.zeros(latents)
        self.seen: deque[float] = deque(maxlen=3)
        self.own = torch.Generator().manual_seed(3)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("total", torch.zeros(()))  # in the state_dict, moved by a step and read by it
        self.law: torch.distributions.Normal | None = None
        self.order = torch.randperm(latents)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(x).chunk(2, dim=1)
        sigma = torch.exp(raw)
        noise = torch.from_numpy(np.random.normal(size=tuple(mean.shape))).to(mean) + random.gauss(0, 1)
        z = mean + sigma * (noise + torch.randn(mean.shape, generator=self.own))
        self.law = torch.distributions.Normal(mean.detach(), sigma.detach())
        self.mean.mul_(0.9).add_(mean.detach().mean(0), alpha=0.1)
        self.scale.mul_(1.01)
        self.total.add_(mean.detach().mean())
        self.seen.append(float(mean.detach().mean()))
        return z, 0.5 * (sigma**2 + mean**2 - 1) - torch.log(sigma)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.num_iter += 1
        z, kl = self.posterior(x)
        weight = self.annealer() + 0.01 * self.num_iter + sum(self.seen)
        logits = self.decoder(z[:, self.order]) + self.mean.sum() * self.scale + self.total
        return F.binary_cross_entropy_with_logits(logits, x), weight * kl.sum() / x.numel()
