"""A parameter as the bound of a network's log variance, and as a term of its log σ."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from zoo import Case, TrueHead


class SoftBound(nn.Module):
    """A log variance below a soft bound that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.high = nn.Linear(6, 12), nn.Parameter(torch.full((6,), 1.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, 1)
        log_var = self.high - F.softplus(self.high - raw)
        return ((y - mean) ** 2 * torch.exp(-log_var) + log_var).mean()


class Shifted(nn.Module):
    """What the network says of log σ is added to a parameter: one scale of two raw values, named by the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.log_scale = nn.Linear(6, 12), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, raw = self.net(x).chunk(2, 1)
        return -Normal(mean, (raw + self.log_scale).exp()).log_prob(y).mean()


def pairs() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5)))


def bounded(v: Tensor) -> Tensor:
    return torch.exp(0.5 * (1.5 - F.softplus(1.5 - v)))


NEEDS = Case(SoftBound, pairs, (TrueHead("net", 6, 12, "likelihood", bounded),))
LOOK_ALIKE = Case(Shifted, pairs, (TrueHead("log_scale", 0, None, "likelihood"),))
