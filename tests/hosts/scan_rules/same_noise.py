"""A coupling layer on noise, and a decoder that draws fresh noise by what it computes of a draw."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw


class Coupling(nn.Module):
    """Noise goes through a coupling layer; there is no Normal but the noise itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec = nn.Linear(2, 2), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.randn(len(x), 4).chunk(2, 1)
        return (self.dec(torch.cat([a, b * self.net(a).exp() + a], 1)) - x).square().mean()


class Generator(nn.Module):
    """What is computed of one draw scales another one."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec = nn.Linear(2, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.net(torch.randn(len(x), 2)).chunk(2, 1)
        return (self.dec(draw(mean, log_sigma.exp())) - x).square().mean()


NEEDS = Case(Coupling, rows(), ())
LOOK_ALIKE = Case(Generator, rows(), (TrueHead("net", 2, 4, "prior"),))
