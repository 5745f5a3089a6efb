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


class OnLinesOfTheirOwn(StatesAndRewards):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.stack([net(x) for net in self.nets])
        of_states, of_rewards = self.high
        states = of_states - F.softplus(of_states - outputs[..., 2:4])
        rewards = of_rewards - F.softplus(of_rewards - outputs[..., 5:])
        mean, log_var = torch.cat([outputs[..., :2], outputs[..., 4:5]], -1), torch.cat([states, rewards], -1)
        return ((mean - y) ** 2 * torch.exp(-log_var)).mean() + log_var.mean()


@pytest.mark.parametrize("scale", ["explin", "upbounded(omega=2)"])
def test_they_are_patched_and_each_is_seen_again(scale: str) -> None:
    """The scales of both lines run the same lines of this package."""
    torch.manual_seed(0)
    x = pairs()[0]
    model = OnLinesOfTheirOwn()
    handle = patch(model, heads=scan(model, x, x[:, :3]), likelihood=scale)
    assert len(handle.heads) == 4


class Bank(nn.Module):
    """The layers of an ensemble as stacks of weights, which belong to the model itself."""

    def __init__(self, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.product = product
        for name, sizes in (("first", (4, 6)), ("last", (6, 4))):
            self.register_parameter(name, nn.Parameter(0.3 * torch.randn(3, *sizes)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(3, 1, sizes[1])))
        self.high, self.low = nn.Parameter(torch.full((1, 2), 0.5)), nn.Parameter(torch.full((1, 2), -10.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.silu(self.product(x.expand(3, -1, -1), self.first, self.first_bias))
        mean, log_var = self.product(h, self.last, self.last_bias).chunk(2, -1)
        log_var = self.high - F.softplus(self.high - log_var)
        log_var = self.low + F.softplus(log_var - self.low)
        return of_each_network((mean - y) ** 2, log_var)


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "baddbmm": lambda x, weight, bias: torch.baddbmm(bias, x, weight),
    "bmm": lambda x, weight, bias: torch.bmm(x, weight) + bias,
    "einsum": lambda x, weight, bias: torch.einsum("ebi,eio->ebo", x, weight) + bias,
    "matmul": lambda x, weight, bias: bias + x @ weight,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_bank_of_weights_is_a_layer_however_it_is_multiplied(name: str) -> None:
    torch.manual_seed(0)
    model = Bank(PRODUCTS[name])
    heads = scan(model, *pairs())
    assert found(heads) == [("", "2:4", "likelihood")]
    v = torch.linspace(-3, 3, 7, dtype=torch.float64)
    bounded = -10 + F.softplus(0.5 - F.softplus(0.5 - v) + 10)
    torch.testing.assert_close(heads[0].convention.sigma(v), torch.exp(0.5 * bounded))
    patch(model, heads=heads, likelihood="bounded(0.01, 10)")


def test_networks_that_are_bounded_one_by_one_in_one_line_are_each_a_head() -> None:
    class OneByOne(Ensemble):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            laws = [net(x).chunk(2, 1) for net in self.nets]
            log_var = torch.stack([self.low + F.softplus(v - self.low) for _, v in laws])
            return self.loss((torch.stack([mean for mean, _ in laws]) - y) ** 2, log_var)

    torch.manual_seed(0)
    model = OneByOne(of_each_network, 3, True)
    heads = scan(model, *pairs())
    assert found(heads) == [(f"nets.{number}", "2:4", "likelihood") for number in range(3)]
    patch(model, heads=heads, likelihood="bounded(0.01, 10)")
