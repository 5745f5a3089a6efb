"""A parameter as the bound of a network's log variance, and as a term of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


class OneForAll(nn.Module):
    """One scale for all examples: a parameter by itself, whose bound is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.raw = nn.Linear(6, 6), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        log_var = 1.5 - F.softplus(1.5 - self.raw)
        return ((y - self.net(x)) ** 2 * torch.exp(-log_var) + log_var).mean()


def pairs() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(5)))


def bounded(v: Tensor) -> Tensor:
    return torch.exp(0.5 * (1.5 - F.softplus(1.5 - v)))


NEEDS = Case(SoftBound, pairs, (TrueHead("net", 6, 12, "likelihood", bounded),))
LOOK_ALIKE = Case(OneForAll, pairs, (TrueHead("raw", 0, None, "likelihood", bounded),))
