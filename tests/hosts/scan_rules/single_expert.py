"""A sum over one expert, and a sum over the places of one output."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half


class OneExpert(nn.Module):
    """A product of experts that has one modality."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)

    def log_sigma(self, x: Tensor) -> Tensor:
        return -0.5 * torch.log(torch.exp(-torch.stack([self.a(x)])).sum(0))

    def forward(self, x: Tensor) -> Tensor:
        log_sigma = self.log_sigma(x)
        z = draw(torch.zeros_like(log_sigma), log_sigma.exp())
        return (self.dec(z) - x).square().mean()  # in a KL the value before the sum would be read, too


class Summed(OneExpert):
    """What one layer says of two views of the data is added up."""

    def log_sigma(self, x: Tensor) -> Tensor:
        return self.a(torch.stack([x, x.flip(1)])).sum(0)


NEEDS = Case(OneExpert, rows(), (TrueHead("a", 0, None, "posterior", half),))
# the sum is formed by the model itself, and is the raw value
LOOK_ALIKE = Case(Summed, rows(), (TrueHead("", 0, None, "posterior"),))
