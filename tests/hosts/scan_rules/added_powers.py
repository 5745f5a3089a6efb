"""A sum of two precisions, and a sum of two raw values."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class TwoExperts(nn.Module):
    """A product of two experts, with mean zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def log_sigma(self, a: Tensor, b: Tensor) -> Tensor:
        return -0.5 * torch.log(torch.exp(-a) + torch.exp(-b))

    def forward(self, x: Tensor) -> Tensor:
        log_sigma = self.log_sigma(self.a(x), self.b(x))
        z = draw(torch.zeros_like(log_sigma), log_sigma.exp())
        return (self.dec(z) - x).square().mean() + kl_to_standard(torch.zeros_like(log_sigma), log_sigma)


class Residual(TwoExperts):
    """Of two raw values that are added, the host makes one scale: both have a part in it."""

    def log_sigma(self, a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a + b)


NEEDS = Case(TwoExperts, rows(), (TrueHead("a", 0, None, "posterior", half), TrueHead("b", 0, None, "posterior", half)))
LOOK_ALIKE = Case(
    Residual, rows(), (TrueHead("a", 0, None, "posterior", half), TrueHead("b", 0, None, "posterior", half))
)
