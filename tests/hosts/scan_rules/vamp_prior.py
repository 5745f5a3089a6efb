"""A prior that is the posterior's module on learned inputs, and one that is a module of its own on them."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from zoo import Case, TrueHead, rows

from . import half


class Vamp(nn.Module):
    """The prior is the posterior at one learned input."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.own, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)
        self.pseudo_input = nn.Parameter(torch.randn(1, 6))

    def law(self, net: nn.Module, x: Tensor) -> Normal:
        mean, log_var = net(x).chunk(2, 1)
        return Normal(mean, torch.exp(0.5 * log_var))

    def prior(self) -> Normal:
        return self.law(self.enc, self.pseudo_input)

    def forward(self, x: Tensor) -> Tensor:
        q = self.law(self.enc, x)
        z = q.rsample()
        return (self.dec(z) - x).square().mean() + (q.log_prob(z) - self.prior().log_prob(z)).mean()


class OwnPrior(Vamp):
    """The learned input goes through a network of the prior's own."""

    def prior(self) -> Normal:
        return self.law(self.own, self.pseudo_input)


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(Vamp, rows(), (ENCODER,))
LOOK_ALIKE = Case(OwnPrior, rows(), (ENCODER, TrueHead("own", 4, 8, "prior", half)))
