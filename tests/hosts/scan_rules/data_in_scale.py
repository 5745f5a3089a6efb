"""Data that are added to a raw value, and a residual block of data whose sum is the raw value."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class Shifted(nn.Module):
    """The log variance is the data plus what a network and an activation make of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), x + F.elu(self.raw(x))
        z = draw(mean, torch.exp(0.5 * log_var))
        return F.mse_loss(self.dec(z), x) + kl_to_standard(mean, 0.5 * log_var)


class Block(nn.Module):
    """A residual block whose last layer's output is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.relu(self.inner(x)))


class Residual(Shifted):
    """The log variance is what a residual block of the data returns."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = Block()

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.raw(x)
        z = draw(mean, torch.exp(0.5 * log_var))
        return F.mse_loss(self.dec(z), x) + kl_to_standard(mean, 0.5 * log_var)


NEEDS = Case(Shifted, rows(), ())
LOOK_ALIKE = Case(Residual, rows(), (TrueHead("raw", 0, None, "posterior", half),))
