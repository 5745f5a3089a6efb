"""The variance of a product of two Normals, by a filter's gain, and a sum of log variances."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half


class Filter(nn.Module):
    """What an encoder sees updates a prior of a condition, against which the result is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.prior, self.dec = nn.Linear(6, 8), nn.Linear(3, 8), nn.Linear(4, 6)

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        gain = b.exp() / (a.exp() + b.exp())
        return torch.log((1 - gain) * b.exp())

    def forward(self, x: Tensor) -> Tensor:
        (m, a), (mp, b) = self.enc(x).chunk(2, 1), self.prior(x[:, :3]).chunk(2, 1)
        log_var = self.merged(a, b)
        mean = m * (log_var - a).exp() + mp * (log_var - b).exp()
        kl = 0.5 * (b - log_var + (log_var.exp() + (mean - mp) ** 2) / b.exp() - 1)
        return (self.dec(draw(mean, half(log_var))) - x).square().mean() + kl.sum(1).mean()


class Residual(Filter):
    """What the encoder says is added to the prior's log variance: one scale of both."""

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


ENCODER, PRIOR = TrueHead("enc", 4, 8, "posterior", half), TrueHead("prior", 4, 8, "prior", half)

NEEDS = Case(Filter, rows(), (ENCODER, PRIOR))
LOOK_ALIKE = Case(Residual, rows(), (ENCODER, PRIOR))
