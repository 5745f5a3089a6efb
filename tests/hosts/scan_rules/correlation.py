"""A pair that is drawn with its correlation, and a draw beside a density of two values that have none."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import half


class Pair(nn.Module):
    """The next step is drawn, and the density of the true one taken."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.next = nn.Linear(6, 5), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b, r, s, c = self.net(x).unbind(1)
        sx, sy, rho = torch.exp(0.5 * r), torch.exp(0.5 * s), torch.tanh(c)
        one, two = torch.randn_like(a), torch.randn_like(b)
        drawn = torch.stack([a + sx * one, b + sy * (rho * one + torch.sqrt(1 - rho**2) * two)], 1)
        u, v, rest = (x[:, 0] - a) / sx, (x[:, 1] - b) / sy, 1 - rho**2
        nll = (u**2 + v**2 - 2 * rho * u * v) / (2 * rest) + 0.5 * (r + s + torch.log(rest))
        return nll.mean() + (self.next(drawn) - x).square().mean()


class Gated(Pair):
    """The same value is what a third element is drawn with."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, r, s, c = self.net(x).unbind(1)
        sigma = torch.exp(0.5 * c)
        drawn = torch.stack([a, b + sigma * torch.randn_like(b)], 1)
        return (self.next(drawn) - x).square().mean() + (0.5 * (b**2 + sigma**2 - c)).mean() + (r * s).mean()


NEEDS = Case(Pair, rows(), (TrueHead("net", 2, 3, "likelihood", half), TrueHead("net", 3, 4, "likelihood", half)))
LOOK_ALIKE = Case(Gated, rows(), (TrueHead("net", 4, 5, "posterior", half),))
