"""Precisions that were stacked and are added up, and raw values that were."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class StackedExperts(nn.Module):
    """A product of two experts and the prior, behind each other along a dimension of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def log_sigma(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        precision = torch.exp(-torch.stack([torch.zeros_like(a), a, b]))
        return -0.5 * torch.log(precision.sum(0))

    def forward(self, x: Tensor) -> Tensor:
        log_sigma = self.log_sigma(x)
        z = draw(torch.zeros_like(log_sigma), log_sigma.exp())
        return (self.dec(z) - x).square().mean() + kl_to_standard(torch.zeros_like(log_sigma), log_sigma)


class StackedTerms(StackedExperts):
    """Raw values that were stacked and are added up make one scale."""

    def log_sigma(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(x), self.b(x)]).sum(0)


NEEDS = Case(
    StackedExperts, rows(), (TrueHead("a", 0, None, "posterior", half), TrueHead("b", 0, None, "posterior", half))
)
# the sum is formed by the model itself, and is the raw value
LOOK_ALIKE = Case(StackedTerms, rows(), (TrueHead("", 0, None, "posterior"),))
