"""Near misses say what was seen, at which line and operation, and why it is no head."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

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


class Bivariate(nn.Module):
    """A density of two correlated coordinates, written out."""

    def __init__(self, correlated: bool) -> None:
        super().__init__()
        self.mean, self.log_sigma, self.rho = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 1)
        self.correlated = correlated

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        (a, b), (s, t) = self.mean(x).unbind(1), self.log_sigma(x).unbind(1)
        u, v = (y[:, 0] - a) / s.exp(), (y[:, 1] - b) / t.exp()
        rho = torch.tanh(self.rho(x))[:, 0] if self.correlated else torch.zeros(len(x))
        rest = 1 - rho**2
        quadratic = (u**2 + v**2 - 2 * rho * u * v) / rest
        return (math.log(2 * math.pi) + s + t + 0.5 * rest.log() + 0.5 * quadratic).mean()


def test_a_correlated_density_by_hand_is_a_near_miss_and_without_correlation_it_has_heads() -> None:
    torch.manual_seed(0)
    batch = torch.randn(5, 4), torch.randn(5, 2)
    heads = scan(Bivariate(correlated=True), *batch)
    assert not heads
    assert any("as where elements are correlated" in miss.reason for miss in heads.near_misses)
    heads = scan(Bivariate(correlated=False), *batch)
    assert {(h.path, h.role) for h in heads} == {("log_sigma", "likelihood")}


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
