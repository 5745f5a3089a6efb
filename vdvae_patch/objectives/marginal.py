"""The marginal KL: how far the aggregate posterior is from the prior, and so how large the holes are.

    q(z) = 1/N Σ_i q(z | x_i),    KL(q(z) ‖ p(z)) = E_q(z) [log q(z) − log p(z)]

z is drawn from q(z | x_i) for every i alike (stratified), and log q(z) is the logsumexp over all N data points, z's own
among them, less log N. For the aggregate posterior of these N points that is unbiased. It is not the mean posterior KL,
1/N Σ KL(q(z | x_i) ‖ p), which a public implementation computes under this name: they differ by the mutual information
I(i; z), between 0 and log N.

Where the N points are a sample of a larger data set the result is biased upwards: own terms weigh 1/N each, where in
the whole set they weigh less. With `of` = M, the size of the whole set, own terms weigh 1/M and the others (M − 1) / M
together; q(z) is then right on average, and its logarithm too small on average, so that the result is biased downwards.
The two bracket the value.

Where posteriors do not overlap, I is log N, and the marginal KL the mean posterior KL − log N, whatever the prior's
holes: `is_saturated` says so. With `of` both are of log M. More data move it, better models do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vdvae_patch import normal
from vdvae_patch.errors import InvalidValueError

SATURATED = 0.05
"""Nats between the mutual information and log N below which it is called saturated."""


class Posterior(Protocol):
    """The posteriors of N data points."""

    def __len__(self) -> int: ...

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """One z of each, `[N, ...]`."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z_s | x_i) in nats, `[S, ...]` to `[S, N]`."""
        ...


@dataclass(frozen=True)
class GaussianPosterior:
    """N(mean_i, σ_i), `[N, ...]` each; a z of several groups is one long vector."""

    mean: Tensor
    log_sigma: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.log_sigma.shape or self.mean.dim() < 2:
            raise InvalidValueError(
                f"the means and log sigmas of a posterior are [N, ...], not {list(self.mean.shape)} and "
                f"{list(self.log_sigma.shape)}"
            )

    @classmethod
    def of(cls, encode: Callable[[Tensor], tuple[Tensor, Tensor]], batches: Iterable[Tensor]) -> GaussianPosterior:
        """The posteriors of all batches, `encode` giving means and log sigmas `[B, ...]` of one, without gradients.

        Raises:
            InvalidValueError: no batch.
        """
        with torch.no_grad():
            parts = [encode(x) for x in batches]
        if not parts:
            raise InvalidValueError("a posterior of no batch: was the iterator used up?")
        means, log_sigmas = zip(*parts, strict=True)
        return cls(torch.cat(means), torch.cat(log_sigmas))

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, dtype=torch.float64, device=device, generator=generator)
        return normal.sample(self.mean.double(), self.log_sigma.double(), noise.to(self.mean.device))

    def log_prob(self, z: Tensor) -> Tensor:
        # in float64: a difference of large sums is what is wanted
        density = normal.log_prob(
            z.double().flatten(1).unsqueeze(1), self.mean.double().flatten(1), self.log_sigma.double().flatten(1)
        )
        return density.sum(dim=2)


@dataclass(frozen=True)
class MarginalKL:
    """All in nats.

    Attributes:
        value: the marginal KL.
        standard_error: of `value`, for drawing z; of which data were drawn it says nothing.
        mean_kl: the mean posterior KL, estimated from the same z.
        mutual_information: mean_kl − value, what z says of which data point it is of; at most log N, or with `of` at
            most log M.
        count: N.
        samples: z drawn for each data point.
        of: M, the size of the set that the N points were drawn from; N unless it was told.
    """

    value: float
    standard_error: float
    mean_kl: float
    mutual_information: float
    count: int
    samples: int
    of: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", max(self.of, self.count))

    @property
    def is_saturated(self) -> bool:
        """Whether the mutual information is as large as it can be: the value is then mean_kl − log N, or − log M."""
        return self.count > 1 and self.mutual_information > math.log(self.of) - SATURATED

    def __str__(self) -> str:
        beside = f"mean posterior KL {self.mean_kl:.4g}, N = {self.count:,}"
        end = "; saturated: posteriors do not overlap, and N is too small to say more" if self.is_saturated else ""
        return f"{self.value:.4g} ± {self.standard_error:.2g} nats ({beside}){end}"


@torch.no_grad()
def marginal_kl(
    posterior: Posterior,
    log_prior: Callable[[Tensor], Tensor] | None = None,
    *,
    samples: int = 4,
    of: int | None = None,
    chunk: int = 256,
    generator: torch.Generator | None = None,
) -> MarginalKL:
    """KL(aggregate posterior ‖ prior), with an error bar.

    Args:
        posterior: of N data points: `GaussianPosterior(mean, log_sigma)`, or an own one.
        log_prior: log p(z) in nats, `[S, ...]` to `[S]`; N(0, 1) by default.
        samples: z for each data point; the time is samples · N², in chunks of `chunk` z.
        of: the size of the data set that the N points were drawn from, if it is larger.

    Raises:
        InvalidValueError: no data point, no sample, or an `of` below N.
    """
    N = len(posterior)
    if N < 1 or samples < 1 or chunk < 1:
        raise InvalidValueError(f"a marginal KL needs data points, samples and a chunk, not {N}, {samples} and {chunk}")
    if of is not None and of < N:
        raise InvalidValueError(f"a data set of {of} has no {N} points to draw")
    prior = _log_standard_normal if log_prior is None else log_prior
    rounds = [
        [_terms(posterior, prior, z, first, of) for first, z in _chunks(posterior.sample(generator), chunk)]
        for _ in range(samples)
    ]
    marginal = torch.stack([torch.cat([part[0] for part in parts]) for parts in rounds]).double()  # [samples, N]
    mean = torch.stack([torch.cat([part[1] for part in parts]) for parts in rounds]).double().mean().item()
    value = marginal.mean().item()
    return MarginalKL(value, _standard_error(marginal), mean, mean - value, N, samples, of or N)


def _terms(
    posterior: Posterior, prior: Callable[[Tensor], Tensor], z: Tensor, first: int, of: int | None
) -> tuple[Tensor, Tensor]:
    """log q(z) − log p(z) and log q(z | x) − log p(z), of a chunk."""
    table = posterior.log_prob(z)  # [S, N]
    rows = torch.arange(len(z), device=table.device)
    own = table[rows, rows + first]
    N = table.shape[1]
    log_weights = torch.full_like(table, -math.log(N))
    if of is not None and of > N:
        others = -math.inf if N == 1 else math.log((of - 1) / of) - math.log(N - 1)
        log_weights = torch.full_like(table, others)
        log_weights[rows, rows + first] = -math.log(of)
    log_prior = prior(z)
    return torch.logsumexp(table + log_weights, dim=1) - log_prior, own - log_prior


def _chunks(z: Tensor, size: int) -> list[tuple[int, Tensor]]:
    return [(first, z[first : first + size]) for first in range(0, len(z), size)]


def _standard_error(values: Tensor) -> float:
    """Of the mean of `[samples, N]`: within data points, which are all there; of one sample over all, which is more."""
    samples, N = values.shape
    if samples > 1:
        return (values.var(dim=0).mean() / (samples * N)).sqrt().item()
    return (values.var() / N).sqrt().item() if N > 1 else math.nan


def _log_standard_normal(z: Tensor) -> Tensor:
    zero = torch.zeros((), dtype=z.dtype, device=z.device)
    return normal.log_prob(z, zero, zero).flatten(1).sum(dim=1)
