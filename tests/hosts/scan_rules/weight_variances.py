"""Weights that are drawn through the layer's output, and a layer whose weights are merely squared."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw


class LocalReparameterization(nn.Module):
    """Weights N(m, s²); what is drawn is the layer's output, whose variance is x² s²."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.rho = nn.Parameter(0.1 * torch.randn(6, 6)), nn.Parameter(torch.randn(6, 6) - 3)

    def forward(self, x: Tensor) -> Tensor:
        s = F.softplus(self.rho)
        out = draw(x @ self.m, torch.sqrt(x**2 @ s**2))
        return F.mse_loss(out, x) + 0.01 * (0.5 * (s**2 + self.m**2 - 1) - torch.log(s)).mean()


class PositiveWeights(nn.Module):
    """The variance is a layer's output, whose weights are kept positive; they are no scales."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(6, 4) - 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean(x), x**2 @ F.softplus(self.weight)
        kl = 0.5 * (var + mean**2 - 1 - torch.log(var))
        return F.mse_loss(self.dec(draw(mean, torch.sqrt(var))), x) + kl.mean()


NEEDS = Case(LocalReparameterization, rows(), (TrueHead("rho", 0, None, "posterior", F.softplus),))
LOOK_ALIKE = Case(PositiveWeights, rows(), (TrueHead("", 0, None, "posterior", torch.sqrt),))
