"""Two scales that masks choose between, and two that numbers weigh."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import Case, TrueHead, rows


class Blended(nn.Module):
    """Each example takes the scale of the network for its group, by arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.s0, self.s1, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def sigma(self, x: Tensor) -> Tensor:
        t = (x[:, :1] > 0).float()
        return (1 - t) * F.softplus(self.s0(x)) + t * F.softplus(self.s1(x))

    def forward(self, x: Tensor) -> Tensor:
        q = Normal(self.mean(x), self.sigma(x))
        return (self.dec(q.rsample()) - x).square().mean() + kl_divergence(q, Normal(0.0, torch.ones(4))).mean()


class Averaged(Blended):
    """The mean of two scales is one scale."""

    def sigma(self, x: Tensor) -> Tensor:
        return 0.5 * F.softplus(self.s0(x)) + 0.5 * F.softplus(self.s1(x))


NEEDS = Case(Blended, rows(), tuple(TrueHead(name, 0, None, "posterior", F.softplus) for name in ("s0", "s1")))
LOOK_ALIKE = Case(Averaged, rows(), (TrueHead("s1", 0, None, "posterior", None),))
