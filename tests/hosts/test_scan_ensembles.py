"""Log variances of an ensemble's networks that were stacked, and means of log variances beside a weighed error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def pairs() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1))
    return x, y[:, :2]


class Ensemble(nn.Module):
    """Networks whose laws are stacked, between soft bounds that are learned or not."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], count: int, bounded: bool) -> None:
        super().__init__()
        self.loss, self.bounded = loss, bounded
        self.nets = nn.ModuleList([nn.Linear(4, 4) for _ in range(count)])
        self.high, self.low = nn.Parameter(torch.full((1, 2), 0.5)), nn.Parameter(torch.full((1, 2), -10.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        means, log_vars = zip(*[net(x).chunk(2, 1) for net in self.nets], strict=True)
        mean, log_var = torch.stack(means), torch.stack(log_vars)
        if self.bounded:
            log_var = self.high - F.softplus(self.high - log_var)
            log_var = self.low + F.softplus(log_var - self.low)
        return self.loss((mean - y) ** 2, log_var) + 0.01 * (self.high - self.low).sum()


def two_means(error: Tensor, log_var: Tensor) -> Tensor:
    return (error * torch.exp(-log_var)).mean() + log_var.mean()


def of_each_network(error: Tensor, log_var: Tensor) -> Tensor:
    return (error * torch.exp(-log_var)).mean(-1).mean(-1).sum() + log_var.mean(-1).mean(-1).sum()


def at_once(error: Tensor, log_var: Tensor) -> Tensor:
    return (error / log_var.exp() + log_var).sum(-1).mean()


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("loss", [two_means, of_each_network, at_once])
def test_each_network_of_an_ensemble_is_a_head(
    loss: Callable[[Tensor, Tensor], Tensor], count: int, bounded: bool
) -> None:
    torch.manual_seed(0)
    model = Ensemble(loss, count, bounded)
    heads = scan(model, *pairs())
    assert found(heads) == [(f"nets.{number}", "2:4", "likelihood") for number in range(count)]
    if loss is two_means:
        patch(model, heads=heads, likelihood="bounded(0.01, 10)")


class StatesAndRewards(nn.Module):
    """Two laws of each network, stacked, each cut into its halves and bounded by itself, then put beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([nn.Linear(4, 6) for _ in range(2)])
        self.high = nn.ParameterList([nn.Parameter(torch.full((1, width), 0.5)) for width in (2, 1)])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        outputs = [net(x) for net in self.nets]
        means, log_vars = [], []
        for high, part in zip(self.high, (slice(0, 4), slice(4, 6)), strict=True):
            mean, log_var = torch.stack([output[:, part] for output in outputs]).chunk(2, -1)
            means.append(mean)
            log_vars.append(high - F.softplus(high - log_var))
        mean, log_var = torch.cat(means, -1), torch.cat(log_vars, -1)
        return ((mean - y) ** 2 * torch.exp(-log_var)).mean() + log_var.mean()


def test_parts_of_a_stack_that_are_bounded_and_joined_again_are_heads_of_each_network() -> None:
    torch.manual_seed(0)
    x = pairs()[0]
    heads = scan(StatesAndRewards(), x, x[:, :3])
    assert found(heads) == [(f"nets.{net}", channels, "likelihood") for net in range(2) for channels in ("2:4", "5:6")]
