"""A condition that chooses between two networks' scales, and one that writes one function in two pieces."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import Case, TrueHead, rows


class Treated(nn.Module):
    """Each example takes the scale of the network for its group."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.s0, self.s1, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def sigma(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 0, F.softplus(self.s1(x)), F.softplus(self.s0(x)))

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), self.sigma(x))
        return (self.dec(q.rsample()) - x).square().mean() + kl_divergence(q, Normal(0.0, torch.ones(4))).mean()


class InTwoPieces(Treated):
    """A softplus by hand, which is the identity for large values."""

    def sigma(self, x: Tensor) -> Tensor:
        v = self.s1(x)
        return torch.where(v > 20, v, torch.log1p(v.exp()))


NEEDS = Case(Treated, rows(), tuple(TrueHead(name, 0, None, "posterior", F.softplus) for name in ("s0", "s1")))
LOOK_ALIKE = Case(InTwoPieces, rows(), (TrueHead("s1", 0, None, "posterior", None),))
