"""A parameter that scales noise, without and with a KL that measures it."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, kl_to_standard


class NoiseLayer(nn.Module):
    """The features of a regression are jittered, by as much as helps."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec, self.log_strength = nn.Linear(6, 4), nn.Linear(4, 6), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.dec(draw(self.net(x), self.log_strength.exp())) - x).square().mean()


class SharedScale(NoiseLayer):
    """A posterior with one scale for all examples."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + kl_to_standard(self.net(x), self.log_strength)


NEEDS = Case(NoiseLayer, rows(), ())
LOOK_ALIKE = Case(SharedScale, rows(), (TrueHead("log_strength", 0, None, "posterior"),))
