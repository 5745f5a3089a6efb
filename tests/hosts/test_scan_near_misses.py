"""Near misses say what was seen, at which line and operation, and why it is no head."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    StudentT,
    kl_divergence,
)

from vdvae_patch import scales
from vdvae_patch.scanning import ScanResult, scan

pytestmark = pytest.mark.filterwarnings("ignore:no Normal head")
Sampler = Callable[[Tensor, Tensor], Tensor]


class Model(nn.Module):
    """A network puts out a mean and nine numbers, of which a sampler makes something."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.mean, self.matrix, self.out, self.sampler = nn.Linear(4, 3), nn.Linear(4, 9), nn.Linear(3, 4), sampler

    def forward(self, x: Tensor) -> Tensor:
        return (self.out(self.sampler(self.mean(x), self.matrix(x).view(-1, 3, 3))) - x).square().mean()


def cholesky(matrix: Tensor) -> Tensor:
    return matrix.tril(-1) + torch.diag_embed(matrix.diagonal(dim1=1, dim2=2).exp())


def covariance(matrix: Tensor) -> Tensor:
    return matrix @ matrix.mT + torch.eye(3)


def column(like: Tensor) -> Tensor:
    return torch.randn(len(like), 3, 1)


def divergence(mean: Tensor, matrix: Tensor) -> Tensor:
    q = MultivariateNormal(mean, scale_tril=cholesky(matrix))
    return mean + 0 * kl_divergence(q, MultivariateNormal(torch.zeros(3), torch.eye(3)))[:, None]


CORRELATED: dict[str, tuple[Sampler, str]] = {
    "scale_tril": (lambda m, a: MultivariateNormal(m, scale_tril=cholesky(a)).rsample(), "MultivariateNormal"),
    "covariance": (lambda m, a: MultivariateNormal(m, covariance(a)).rsample(), "MultivariateNormal"),
    "precision": (
        lambda m, a: MultivariateNormal(m, precision_matrix=covariance(a)).rsample(),
        "MultivariateNormal",
    ),
    "low rank": (
        lambda m, a: LowRankMultivariateNormal(m, a[:, :, :2], a[:, :, 2].exp()).rsample(),
        "LowRankMultivariateNormal",
    ),
    "KL": (divergence, "MultivariateNormal"),
    "bmm": (lambda m, a: m + torch.bmm(a.tril(), column(m))[..., 0], "bmm"),
    "operator": (lambda m, a: m + (cholesky(a) @ column(m)).squeeze(-1), "bmm"),
    "einsum": (lambda m, a: m + torch.einsum("bij,bj->bi", a, torch.randn(len(m), 3)), "bmm"),
    "factorized": (lambda m, a: m + (torch.linalg.cholesky(covariance(a)) @ column(m))[:, :, 0], "bmm"),
}


def scanned(sampler: Sampler) -> ScanResult:
    torch.manual_seed(0)
    return scan(Model(sampler), torch.rand(5, 4))


@pytest.mark.parametrize("name", CORRELATED)
def test_a_normal_with_correlations_is_a_near_miss_that_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # files are named from there on
    sampler, operation = CORRELATED[name]
    heads = scanned(sampler)
    assert not heads
    misses = [miss for miss in heads.near_misses if "correlations" in miss.reason]
    assert operation in {miss.operation for miss in misses}
    lines, start = inspect.getsourcelines(sampler)
    for miss in misses:
        file, _, line = miss.where.rpartition(":")
        assert file == __file__
        assert start <= int(line) < start + len(lines)
        assert str(miss).startswith(f"{Path(__file__).name}:{line} ({miss.operation}): ")


WRITTEN = 'vdvae_patch.scales.get("bounded(0.01, 10)").sigma(v)'


@pytest.mark.parametrize("name", CORRELATED)
def test_a_normal_with_correlations_comes_with_what_to_write_for_its_diagonal(name: str) -> None:
    advised = [miss.reason for miss in scanned(CORRELATED[name][0]).near_misses if WRITTEN in miss.reason]
    assert len(advised) == 1
    assert ("computed of matrix at" in advised[0]) == (name in ("scale_tril", "low rank", "KL", "operator"))
    assert advised[0].endswith(" ** 2") == (name == "low rank")
    assert ("give a scale_tril with" in advised[0]) == (name in ("covariance", "precision"))


class Advised(nn.Module):
    """A Normal with a scale_tril as the near miss would have it, pushed to where an exponential overflows."""

    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.scale = nn.Linear(4, 9), scale

    def forward(self, x: Tensor) -> Tensor:
        mean, diagonal, rest = self.net(x).split(3, 1)
        tril = torch.diag_embed(self.scale(diagonal)) + torch.diag_embed(rest[:, :2], -1)
        law = MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        z = law.rsample()
        return kl_divergence(law, MultivariateNormal(torch.zeros(3), torch.eye(3))).mean() + z.square().mean()


@pytest.mark.parametrize("raw", [-200.0, 200.0])
def test_what_is_advised_holds_where_an_exponential_breaks(raw: float) -> None:
    def finite(scale: Callable[[Tensor], Tensor]) -> bool:
        model = Advised(scale)
        with torch.no_grad():
            model.net.bias[3:6] = raw
        loss = model(torch.rand(5, 4))
        loss.backward()
        return bool(loss.isfinite()) and all(bool(p.grad.isfinite().all()) for p in model.parameters())  # type: ignore[union-attr]

    assert not finite(torch.exp)
    assert finite(scales.get("bounded(0.01, 10)").sigma)


class Bivariate(nn.Module):
    """A density of two correlated coordinates, written out."""

    def __init__(self, correlated: bool, log: bool = True) -> None:
        super().__init__()
        self.mean, self.log_sigma, self.rho = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 1)
        self.correlated, self.log = correlated, log

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        (a, b), (s, t) = self.mean(x).unbind(1), self.log_sigma(x).unbind(1)
        rho = torch.tanh(self.rho(x))[:, 0] if self.correlated else torch.zeros(len(x))
        rest = 1 - rho**2
        if not self.log:
            u, v = y[:, 0] - a, y[:, 1] - b
            quadratic = (u / s.exp()) ** 2 + (v / t.exp()) ** 2 - 2 * rho * u * v / (s.exp() * t.exp())
            density = torch.exp(-quadratic / (2 * rest + 1e-20)) / (2 * math.pi * s.exp() * t.exp() * rest.sqrt())
            return -torch.log(density + 1e-20).mean()
        u, v = (y[:, 0] - a) / s.exp(), (y[:, 1] - b) / t.exp()
        quadratic = (u**2 + v**2 - 2 * rho * u * v) / rest
        return (math.log(2 * math.pi) + s + t + 0.5 * rest.log() + 0.5 * quadratic).mean()


@pytest.mark.parametrize("log", [True, False])
def test_the_deviations_of_a_correlated_density_by_hand_are_heads(log: bool) -> None:
    torch.manual_seed(0)
    batch = torch.randn(5, 4), torch.randn(5, 2)
    heads = scan(Bivariate(correlated=True, log=log), *batch)
    assert {(h.path, h.role) for h in heads} == {("log_sigma", "likelihood")}
    heads = scan(Bivariate(correlated=False, log=log), *batch)
    assert {(h.path, h.role) for h in heads} == {("log_sigma", "likelihood")}
    assert not any("correlated" in miss.reason for miss in heads.near_misses)


@pytest.mark.parametrize(
    ("sampler", "operation", "word"),
    [
        (lambda m, a: Laplace(m, a[:, 0].exp()).rsample(), "Laplace", "no Normal"),
        (lambda m, a: StudentT(5.0, m, scale=a[:, 0].exp()).rsample(), "StudentT", "no Normal"),
        (lambda m, a: m + 0.1 * torch.randn_like(m), "randn_like", "no value that a network computes scales it"),
        (lambda m, a: m + torch.tanh(a[:, 0]) * torch.randn_like(m), "tanh", "may be negative"),
    ],
)
def test_what_is_no_normal_with_a_learned_scale_is_named_by_its_operation(
    sampler: Sampler, operation: str, word: str
) -> None:
    heads = scanned(sampler)
    assert not heads
    assert [miss.operation for miss in heads.near_misses if word in miss.reason] == [operation]


def test_a_diagonal_has_no_correlations() -> None:
    heads = scanned(lambda m, a: MultivariateNormal(m, scale_tril=torch.diag_embed(a[:, 0].exp())).rsample())
    assert [(h.path, h.channels) for h in heads] == [("matrix", ":3")]
    assert not heads.near_misses


def of_numpy(raw: Tensor) -> Tensor:
    return torch.from_numpy(np.exp(0.5 * raw.detach().numpy()))


def of_a_number(raw: Tensor) -> Tensor:
    return torch.full_like(raw, raw.mean().exp().item())


@pytest.mark.parametrize(("sigma", "seen"), [(of_numpy, "as NumPy does"), (of_a_number, r"the number of \.item\(\)")])
def test_a_scale_that_leaves_pytorch_is_said_to(sigma: Callable[[Tensor], Tensor], seen: str) -> None:
    def sampled(mean: Tensor, matrix: Tensor) -> Tensor:
        return mean + sigma(matrix[:, 0]) * torch.randn_like(mean)

    torch.manual_seed(0)
    found = scan(Model(sampled), torch.randn(5, 4))
    assert not found
    assert re.search(f"{seen}.*no gradient comes.*torch's functions", found.why_not())
