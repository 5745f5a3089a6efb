"""The log likelihood by importance sampling, and which units of a latent are used.

    log p(x) ≈ logsumexp_s [ log p(x, z_s) − log q(z_s given x) ] − log S,    z_s drawn from q

Its mean is below log p(x), and rises with S; with S = 1 it is the bound. The terms of a pass are what is needed, where
its rate is log q − log p of what was drawn and no closed form: then the bracket is −(distortion + rate).
Source: "Importance weighted autoencoders" (Burda et al., https://arxiv.org/abs/1509.00519), eq. 8 and section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.seams import Terms

ACTIVE_FROM = 0.01
"""Variance over images of a unit's posterior mean from which on it counts as used."""

PASSES = 10
"""Over the images, where the means of a latent depend on what the one above it drew."""


@torch.no_grad()
def log_likelihood(terms: Callable[[Tensor], Terms], images: Tensor, samples: int, at_a_time: int = 2000) -> Tensor:
    """An estimate of log p(x) in nats an image, `[B]`, in float64.

    Args:
        terms: one pass of the model in evaluation, on a batch as it takes it; its rates are of one draw.
        images: `[B, ...]`.
        samples: S, draws of the posterior for each image.
        at_a_time: images of one pass, each of them times its draws.

    Raises:
        InvalidValueError: fewer than one sample, or a pass without a distortion.
    """
    if samples < 1:
        raise InvalidValueError(f"importance sampling takes at least 1 sample an image, not {samples}")
    rows = []
    each = max(1, at_a_time // samples)
    for first in range(0, len(images), each):
        image = images[first : first + each]
        total = torch.full((len(image),), -math.inf, dtype=torch.float64, device=image.device)
        for start in range(0, samples, at_a_time):
            draws = min(at_a_time, samples - start)
            found = terms(image.repeat_interleave(draws, dim=0))
            if found.distortion is None:
                raise InvalidValueError(
                    "the terms of this pass have no distortion; give those of the host's own likelihood"
                )
            cost = found.distortion.double() + torch.stack(list(found.rates.values())).double().sum(dim=0)
            total = torch.logaddexp(total, (-cost).view(len(image), draws).logsumexp(dim=1))
        rows.append(total - math.log(samples))
    return torch.cat(rows)


def active_units(means: Tensor, threshold: float = ACTIVE_FROM) -> int:
    """How many units have a posterior mean that varies over images: 0..D.

    Var_x(E[mean of a unit given x]) > threshold. Where the mean of one pass depends on what a latent above drew, the
    variance over images of one pass has that noise in it, which says nothing of x: of K passes it is taken out,

        Var_x(m̄) − (1 − 1/N) Σ_x s²_x / (N K),    s²_x the sample variance of the K passes of an image

    Args:
        means: `[N, D]`, or of K passes `[K, N, D]`.
    """
    wide = means.double()
    if wide.dim() == 2:
        wide = wide[None]
    passes, images = wide.shape[:2]
    variance = wide.mean(dim=0).var(dim=0, unbiased=False)
    if passes > 1:
        variance = variance - (1 - 1 / images) * wide.var(dim=0).mean(dim=0) / passes
    return int((variance > threshold).sum())


@torch.no_grad()
def active_by_level(entry: TrainableEntry, model: nn.Module, x: Tensor, at_a_time: int = 500) -> list[int] | None:
    """`active_units` of every latent, in the order of the computation; None if the host tells no means.

    Args:
        x: images as the entry's `latents` takes them, which one set of units is seen over.
    """
    passes: list[list[Tensor]] = []
    for _ in range(PASSES):
        means: list[list[Tensor]] = []
        for batch in x.split(at_a_time):  # type: ignore[no-untyped-call]
            found = entry.posterior_means(model, batch)
            if found is None:
                return None
            means.append([mean.flatten(1) for mean in found])
        passes.append([torch.cat(level) for level in zip(*means, strict=True)])
        if len(passes) == 2 and all(map(torch.equal, *passes)):
            break  # no mean depends on a draw
    return [active_units(torch.stack(level)) for level in zip(*passes, strict=True)]


def spread(count: int, wanted: int) -> Tensor:
    """Positions at even spacing: the first half of MNIST's test images is easier than the second. 0 is all."""
    wanted = min(wanted, count) or count
    return torch.arange(wanted) * count // wanted
