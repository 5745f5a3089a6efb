"""Scales of two layers beside each other, and the steps of one loop behind each other."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, kl_to_standard


class TwoLayers(nn.Module):
    """One code has the shape and the pose, by a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.shape, self.pose, self.dec = (nn.Linear(*n) for n in ((6, 4), (6, 2), (6, 2), (4, 6)))

    def log_sigma(self, x: Tensor) -> Tensor:
        return torch.cat([self.shape(x), self.pose(x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.mean(x), self.log_sigma(x)
        return (self.dec(draw(mean, log_sigma.exp())) - x).square().mean() + kl_to_standard(mean, log_sigma)


class OneLayerTwice(TwoLayers):
    """One layer says a part of the code at each of two steps."""

    def log_sigma(self, x: Tensor) -> Tensor:
        return torch.cat([self.shape(step) for step in (x, x.flip(1))], 1)


NEEDS = Case(TwoLayers, rows(), (TrueHead("shape", 0, None, "posterior"), TrueHead("pose", 0, None, "posterior")))
LOOK_ALIKE = Case(OneLayerTwice, rows(), (TrueHead("shape", 0, None, "posterior"),))
