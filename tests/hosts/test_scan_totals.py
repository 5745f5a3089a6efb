"""Raw values that are averages over the elements of a set, and those of layers that a loop calls in turn."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch import patch, scan


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return 0.7 * torch.randn(16, 5, 4, generator=generator) + torch.randn(16, 1, 4, generator=generator)


def kl(mean: Tensor, sigma: Tensor) -> Tensor:
    return (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(-1).mean()


def mean_loss(model: nn.Module) -> float:
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        losses.append(float(model(rows()).detach()))
    return sum(losses) / len(losses)


def sum_and_size(encode: nn.Module, x: Tensor) -> Tensor:
    total: Tensor = encode(x).sum(1) / x.shape[1]
    return total


def sum_of_python(encode: nn.Module, x: Tensor) -> Tensor:
    return sum(encode(x[:, i]) for i in range(x.shape[1])) / x.shape[1]


def added_up(encode: nn.Module, x: Tensor) -> Tensor:
    total = torch.zeros(len(x), 6)
    for i in range(x.shape[1]):
        total = total + encode(x[:, i])
    return total / x.shape[1]


def plain_mean(encode: nn.Module, x: Tensor) -> Tensor:
    mean: Tensor = encode(x).mean(1)
    return mean


class SetEncoder(nn.Module):
    def __init__(self, average: Callable[[nn.Module, Tensor], Tensor], scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6))
        self.decode, self.average, self.scale = nn.Linear(3, 4), average, scale
        with torch.no_grad():
            self.encode[-1].bias[3:] = -1.5

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.average(self.encode, x).chunk(2, -1)
        sigma = self.scale(raw)
        z = mean + sigma * torch.randn_like(mean)
        return (self.decode(z)[:, None] - x).square().sum(-1).mean() + kl(mean, sigma)


def half_exponential(raw: Tensor) -> Tensor:
    return torch.exp(0.5 * raw)


def floored(raw: Tensor) -> Tensor:
    return F.softplus(raw) + 1e-4


@pytest.mark.filterwarnings("ignore:head .* the host keeps σ")
@pytest.mark.parametrize("scale", [half_exponential, floored])
@pytest.mark.parametrize("average", [sum_and_size, sum_of_python, added_up, plain_mean])
def test_an_average_over_a_set_is_patched_behind_it_and_the_means_beside_it_stay(
    average: Callable[[nn.Module, Tensor], Tensor], scale: Callable[[Tensor], Tensor]
) -> None:
    model = SetEncoder(average, scale)
    before = mean_loss(model)
    (head,) = scan(model, rows())
    assert (head.role, head.start, head.stop) == ("posterior", 3, 6)
    patch(model, posterior="upbounded(10)", heads=[head], paper=False)
    assert mean_loss(model) == pytest.approx(before, rel=1e-2)


def test_what_the_models_own_forward_averages_is_pushed_alone() -> None:
    said = io.StringIO()
    vdvae_patch.stabilize(SetEncoder(plain_mean, floored), rows(), file=said)
    assert "\nCURED" in said.getvalue()
    assert "ZeroDivisionError" not in said.getvalue()


class OneByOne(nn.Module):
    """The σ of each part of a code is of a layer of its own, which one line calls in turn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.decode = nn.Linear(4, 6), nn.Linear(6, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        found = []
        for head in self.heads:
            found.append(F.softplus(head(x)) + 1e-4)
        mean, sigma = self.mean(x), torch.cat(found, -1)
        z = mean + sigma * torch.randn_like(mean)
        return (self.decode(z) - x).square().sum(-1).mean() + kl(mean, sigma)


@pytest.mark.filterwarnings("ignore:head .* the host keeps σ")
def test_layers_that_a_loop_calls_one_after_the_other_are_patched_in_its_line() -> None:
    model = OneByOne()
    heads = scan(model, rows())
    assert [head.path for head in heads] == ["heads.0", "heads.1", "heads.2"]
    for scale in ("explin", "upbounded(10)", "bounded(0.001, 10)"):
        patch(model, posterior=scale, heads=heads, paper=False).unpatch()
