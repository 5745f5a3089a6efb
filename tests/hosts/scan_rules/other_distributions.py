"""A Normal whose covariance has a factor beside its diagonal, and one whose `scale_tril` is a diagonal."""

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal
from zoo import Case, TrueHead, rows

from . import half


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.factor, self.raw, self.dec = (nn.Linear(a, b) for a, b in ((6, 4), (6, 8), (6, 4), (4, 6)))

    def posterior(self, x: Tensor) -> torch.distributions.Distribution:
        return LowRankMultivariateNormal(self.mean(x), self.factor(x).view(-1, 4, 2), self.raw(x).exp())

    def forward(self, x: Tensor) -> Tensor:
        q = self.posterior(x)
        z = q.rsample()
        standard = MultivariateNormal(torch.zeros(4), torch.eye(4))
        return (self.dec(z) - x).square().mean() + (q.log_prob(z) - standard.log_prob(z)).mean()


class Diagonal(LowRank):
    def posterior(self, x: Tensor) -> torch.distributions.Distribution:
        return MultivariateNormal(self.mean(x), scale_tril=torch.diag_embed((0.5 * self.raw(x)).exp()))


NEEDS = Case(LowRank, rows(), ())
LOOK_ALIKE = Case(Diagonal, rows(), (TrueHead("raw", 0, None, "posterior", half),))
