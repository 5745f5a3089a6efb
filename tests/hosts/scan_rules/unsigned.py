"""A gain of noise that may be negative, and a scale that only a sampler reads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw


class Gated(nn.Module):
    """A network says how much noise is added to the features, or taken away."""

    def __init__(self, positive: bool = False) -> None:
        super().__init__()
        self.net, self.gate, self.dec, self.positive = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6), positive

    def forward(self, x: Tensor) -> Tensor:
        gate = F.softplus(self.gate(x)) if self.positive else torch.tanh(self.gate(x))
        return (self.dec(draw(self.net(x), gate)) - x).square().mean()


def positive() -> nn.Module:
    return Gated(positive=True)


NEEDS = Case(Gated, rows(), ())
LOOK_ALIKE = Case(positive, rows(), (TrueHead("gate", 0, None, "posterior", F.softplus),))
