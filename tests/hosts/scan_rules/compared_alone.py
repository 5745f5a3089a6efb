"""A rejection that looks like a KL without a mean, and a KL without a mean above a floor."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw


class Rejected(nn.Module):
    """A direction around which codes are drawn with a learned concentration, by one step of rejection."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), nn.Linear(6, 1), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        k = F.softplus(self.raw(x)) + 1
        c = torch.sqrt(4 * k**2 + 4)
        b, a = (c - 2 * k) / 2, (2 + 2 * k + c) / 4
        d = 4 * a * b / (1 + b) - 2 * math.log(2)
        share = torch.rand_like(k)
        w, t = (1 - (1 + b) * share) / (1 - (1 - b) * share), 2 * a * b / (1 - (1 - b) * share)
        accepted = 2 * t.log() - t + d >= torch.rand_like(t).log()
        across = F.normalize(torch.randn(len(x), 3), dim=1)
        w = torch.where(accepted, w, torch.zeros_like(w))
        z = torch.cat([w, torch.sqrt((1 - w**2).clamp(min=1e-10)) * across], 1) + F.normalize(self.mean(x), dim=1)
        return F.mse_loss(self.dec(z), x) + 0.01 * k.log().mean()


class Floored(nn.Module):
    """No mean, as in a model of variances alone; the KL counts above its floor."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        log_var = self.raw(x)
        z = draw(torch.zeros_like(log_var), torch.exp(0.5 * log_var))
        kl = -0.5 * (1 + log_var - log_var.exp())
        return F.mse_loss(self.dec(z), x) + torch.where(kl > 0.1, kl, 0.1 * torch.ones_like(kl)).mean()


NEEDS = Case(Rejected, rows(), ())
LOOK_ALIKE = Case(Floored, rows(), (TrueHead("raw", 0, None, "posterior", lambda v: torch.exp(0.5 * v)),))
