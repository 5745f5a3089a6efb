"""The marginal KL where its value is known: by formula, by integration, and by what a subset must do to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.objectives import GaussianPosterior, marginal_kl
from vdvae_patch.objectives.marginal import MarginalKL


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture_kl(mean: Tensor, sigma: Tensor, prior: Normal) -> float:
    """KL(1/N Σ N(mean_i, sigma_i) ‖ prior) in one dimension, by the trapezoidal rule."""
    z = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    log_q = Normal(mean.double(), sigma.double()).log_prob(z[:, None]).logsumexp(dim=1) - math.log(len(mean))
    return torch.trapezoid(log_q.exp() * (log_q - prior.log_prob(z)), z).item()


def test_a_posterior_that_is_the_prior_has_none() -> None:
    zero = torch.zeros(50, 7)
    found = marginal_kl(GaussianPosterior(zero, zero), generator=generator())
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.mean_kl == pytest.approx(0, abs=1e-12)
    assert found.standard_error < 1e-12
    assert not found.is_saturated


def test_posteriors_that_are_all_alike_have_the_kl_of_one() -> None:
    mean, log_sigma = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([-0.5, 0.3, -1.0])
    exact = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).sum().item()
    posterior = GaussianPosterior(mean.expand(200, 3), log_sigma.expand(200, 3))
    found = marginal_kl(posterior, samples=50, generator=generator())
    assert abs(found.value - exact) < 4 * found.standard_error
    assert found.standard_error < 0.05
    assert found.mutual_information == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_mixture_has_what_integration_gives_within_the_error_bar(seed: int) -> None:
    mean = 2 * torch.randn(12, 1, generator=generator(seed))
    log_sigma = 0.5 * torch.randn(12, 1, generator=generator(seed + 100)) - 1
    prior = Normal(torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64))
    exact = mixture_kl(mean[:, 0], log_sigma[:, 0].exp(), prior)
    found = marginal_kl(
        GaussianPosterior(mean, log_sigma), lambda z: prior.log_prob(z).sum(1), samples=1000, generator=generator(seed)
    )
    assert abs(found.value - exact) < 4 * found.standard_error
    assert 0 < found.standard_error < 0.05
    mean_kl = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.3, 1.7)).mean().item()
    assert found.mean_kl == pytest.approx(mean_kl, abs=0.05)
    assert found.value < found.mean_kl  # what another implementation gives under this name
    assert 0 < found.mutual_information < math.log(12)


def test_the_error_bar_is_that_of_repetitions() -> None:
    mean, log_sigma = 2 * torch.randn(20, 2, generator=generator()), torch.full((20, 2), -0.7)
    found = [marginal_kl(GaussianPosterior(mean, log_sigma), generator=generator(seed)) for seed in range(200)]
    spread = torch.tensor([run.value for run in found]).std().item()
    claimed = sum(run.standard_error for run in found) / 200
    assert claimed == pytest.approx(spread, rel=0.25)


def test_a_posterior_that_tiles_the_prior_has_a_small_marginal_and_a_large_mean_kl() -> None:
    tiles = 400
    mean = Normal(0.0, math.sqrt(1 - 0.05**2)).icdf((torch.arange(tiles) + 0.5) / tiles).view(-1, 1)
    posterior = GaussianPosterior(mean, torch.full((tiles, 1), math.log(0.05)))
    found = marginal_kl(posterior, samples=20, generator=generator())
    assert found.mean_kl > 2
    assert abs(found.value) < 0.05


def test_of_a_larger_set_it_is_saturated_at_the_logarithm_of_that_set_and_not_before() -> None:
    def at(spacing: float) -> MarginalKL:
        means = spacing * torch.arange(50.0)[:, None]
        return marginal_kl(GaussianPosterior(means, torch.zeros(50, 1)), of=5000, generator=generator())

    some, none = at(3.0), at(40.0)
    assert math.log(50) < some.mutual_information < math.log(5000) - 0.5
    assert not some.is_saturated  # they overlap, if little
    assert none.mutual_information == pytest.approx(math.log(5000))
    assert none.value == pytest.approx(none.mean_kl - math.log(5000))
    assert none.is_saturated


def test_posteriors_apart_are_saturated_and_it_is_said() -> None:
    mean = 100 * torch.arange(10.0).view(-1, 1)
    found = marginal_kl(GaussianPosterior(mean, torch.zeros(10, 1)), generator=generator())
    assert found.is_saturated
    assert found.value == pytest.approx(found.mean_kl - math.log(10))
    assert "saturated" in str(found)
    assert "±" in str(found)


def test_a_subset_is_too_high_and_with_the_size_of_the_whole_too_low() -> None:
    whole = torch.randn(512, 4, generator=generator())
    log_sigma = torch.full((512, 4), math.log(0.3))
    exact = marginal_kl(GaussianPosterior(whole, log_sigma), samples=30, generator=generator()).value
    high, low = [], []
    for first in range(0, 512, 32):
        part = GaussianPosterior(whole[first : first + 32], log_sigma[:32])
        high.append(marginal_kl(part, samples=30, generator=generator(first)).value)
        low.append(marginal_kl(part, samples=30, of=512, generator=generator(first)).value)
    assert sum(low) / 16 < exact < sum(high) / 16


def test_chunks_and_groups_do_not_matter_and_an_own_posterior_will_do() -> None:
    mean, log_sigma = torch.randn(30, 2, 3, generator=generator()), 0.3 * torch.randn(30, 2, 3, generator=generator(1))
    whole = marginal_kl(GaussianPosterior(mean, log_sigma), generator=generator())
    torch.testing.assert_close(
        marginal_kl(GaussianPosterior(mean.flatten(1), log_sigma.flatten(1)), chunk=7, generator=generator()).value,
        whole.value,
    )

    class Points:
        def __len__(self) -> int:
            return 4

        def sample(self, generator: torch.Generator | None) -> Tensor:
            return torch.rand(4, 1, generator=generator, dtype=torch.float64) + torch.arange(4.0).view(4, 1)

        def log_prob(self, z: Tensor) -> Tensor:
            return torch.where(z.floor() == torch.arange(4.0), 0.0, -math.inf).double()

    # uniform on [0, 4) against a density of 1/8 there
    found = marginal_kl(Points(), lambda z: torch.full((len(z),), -math.log(8)), generator=generator())
    assert found.value == pytest.approx(math.log(2))
    assert found.mean_kl == pytest.approx(math.log(8))


def test_posteriors_of_an_encoder_are_those_of_all_batches() -> None:
    encoder = torch.nn.Linear(5, 4)
    x = torch.randn(11, 5, generator=generator())
    whole = GaussianPosterior(*encoder(x).detach().chunk(2, dim=1))
    found = GaussianPosterior.of(lambda part: tuple(encoder(part).chunk(2, dim=1)), x.split(4))  # type: ignore[arg-type]
    torch.testing.assert_close((found.mean, found.log_sigma), (whole.mean, whole.log_sigma))
    assert not found.mean.requires_grad
    with pytest.raises(InvalidValueError, match="no batch"):
        GaussianPosterior.of(lambda part: (part, part), [])


def test_bad_arguments_are_refused() -> None:
    good = GaussianPosterior(torch.zeros(3, 2), torch.zeros(3, 2))
    for arguments, reason in (({"samples": 0}, "samples"), ({"chunk": 0}, "chunk"), ({"of": 2}, "no 3 points")):
        with pytest.raises(InvalidValueError, match=reason):
            marginal_kl(good, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"\[N, \.\.\.\]"):
        GaussianPosterior(torch.zeros(3, 2), torch.zeros(3, 1))
    assert math.isnan(marginal_kl(GaussianPosterior(torch.zeros(1, 2), torch.zeros(1, 2)), samples=1).standard_error)
