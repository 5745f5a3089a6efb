"""Densities of a latent, from means and log sigmas: N(0, 1), and mixtures of Normals evaluated in log space.

    log p(z) = logsumexp_k [ log w_k + Σ_d log N(z_d; μ_kd, σ_kd) ]

The sum over dimensions comes before the logsumexp over components: the other order gives a product of one-dimensional
mixtures, which is a normalized density as well, and another one. σ is taken from its logarithm, and a component that is
too far away to matter has the gradient 0, where the square of its distance would overflow and give NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from vdvae_patch import normal
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.machine import available_bytes, bytes_in_words
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.scales.operation import Operation, transforms_active

_LOOKED_AT_FROM = 2**28
"""Bytes of a batch's distances from which on they are compared with the memory that is free."""

_KEPT = 4
"""Tensors of the size `[B, K, latents]` that a mixture keeps for its backward pass."""


class Density(ABC):
    """p(z) as it is within one step; `[B, *latents]` to nats an image, `[B]`, in float32 at least."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, summed over all but the first dimension: `[B]`.

        Raises:
            InvalidValueError: latents of another shape.
        """

    def kl(self, z: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """log q(z) − log p(z) for z drawn from q = N(mean, σ), nats an image, `[B]`: the KL by one sample.

        Its mean over z is KL(q ‖ p); a single value may be negative. Where the KL has a closed form it is that.
        """
        own = normal_log_prob(z.flatten(1), mean.flatten(1), log_sigma.flatten(1))
        return own - self.log_prob(z)

    @abstractmethod
    def sample(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """`[count, *latents]` drawn from p, every σ multiplied by the temperature."""


class UnitNormal(Density):
    """N(0, 1) for latents of a shape."""

    def __init__(self, latents: tuple[int, ...] | None, like: Tensor | None = None) -> None:
        self.latents = latents
        self.like = torch.zeros(()) if like is None else like

    def log_prob(self, z: Tensor) -> Tensor:
        _check_latents(z, self.latents)
        flat = z.flatten(1)
        zero = torch.zeros(flat.shape[1], dtype=wide(z[:0]).dtype, device=z.device)
        return normal_log_prob(flat, zero, zero)

    def kl(self, z: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
        _check_latents(z, self.latents)
        return normal.kl_divergence(mean, log_sigma).flatten(1).sum(dim=1)

    def sample(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        if self.latents is None:
            raise InvalidValueError("top prior standard: what shape has a latent? give latents=, as in latents=(40,)")
        return temperature * _noise((count, *self.latents), self.like.device, self.like.dtype, generator)


class NormalMixture(Density):
    """Σ_k w_k N(μ_k, σ_k), each component a diagonal Normal.

    Args:
        mean, log_sigma: `[K, *latents]`.
        log_weights: `[K]`, the logarithms of weights that sum to one; equal weights without.

    Raises:
        InvalidValueError: shapes that do not fit.
    """

    def __init__(self, mean: Tensor, log_sigma: Tensor, log_weights: Tensor | None = None) -> None:
        if mean.shape != log_sigma.shape or mean.dim() < 2 or not len(mean):
            raise InvalidValueError(
                f"a mixture's means and log sigmas are both [K, ...], not {list(mean.shape)} and "
                f"{list(log_sigma.shape)}"
            )
        if log_weights is not None and log_weights.shape != mean.shape[:1]:
            raise InvalidValueError(
                f"a mixture of {len(mean)} components has weights [{len(mean)}], not {list(log_weights.shape)}"
            )
        self.mean, self.log_sigma = wide(mean), wide(log_sigma)
        self.log_weights = None if log_weights is None else wide(log_weights)

    @property
    def latents(self) -> tuple[int, ...]:
        """The shape of a latent."""
        return tuple(self.mean.shape[1:])

    def log_prob(self, z: Tensor) -> Tensor:
        _check_latents(z, self.latents)
        self._check_memory(z)
        each = normal_log_prob(z.flatten(1)[:, None], self.mean.flatten(1), self.log_sigma.flatten(1))
        if self.log_weights is None:
            return each.logsumexp(dim=1) - math.log(len(self.mean))
        return (each + self.log_weights).logsumexp(dim=1)

    def sample(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        weights = torch.ones(len(self.mean), device=self.mean.device)
        if self.log_weights is not None:
            weights = self.log_weights.detach().exp()
        if generator is not None:
            weights = weights.to(generator.device)
        index = torch.multinomial(weights, count, replacement=True, generator=generator).to(self.mean.device)
        noise = _noise((count, *self.latents), self.mean.device, self.mean.dtype, generator)
        return normal.sample(self.mean[index], self.log_sigma[index], temperature * noise)

    def _check_memory(self, z: Tensor) -> None:
        kept = _KEPT if torch.is_grad_enabled() else 2
        needed = kept * z.numel() * len(self.mean) * self.mean.element_size()
        if needed < _LOOKED_AT_FROM or torch.compiler.is_compiling():
            return
        free = available_bytes(z.device)
        if free is not None and needed > free:
            raise InvalidValueError(
                f"a mixture of {len(self.mean):,} components and {z[0].numel():,} latents needs "
                f"{bytes_in_words(needed)} for {len(z):,} images, and {bytes_in_words(free)} are free on {z.device}: "
                f"take {max(1, len(self.mean) * free // needed):,} components, or "
                f"{max(1, len(z) * free // needed):,} images at a time"
            )


def normal_log_prob(z: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Σ_d log N(z_d; μ_d, σ_d) over the last dimension, in nats; the others broadcast.

        −½ Σ ((z − μ) exp(−log σ))² − Σ log σ − ½ D log 2π

    A distance of more than 10⁻³ √(largest number) standard deviations counts as that many, and a σ below the smallest
    normal number as that number, in the distance alone: so no square overflows, and no zero meets an infinity. The
    gradient beyond is smaller and not 0: where nothing else is near, a run that has diverged shows it by its gradient
    norm, and its updates are skipped, while a component that does not matter has a factor of zero in front.
    """
    z, mean, log_sigma = wide(z), wide(mean), wide(log_sigma)
    limits = torch.finfo(log_sigma.dtype)
    far = 1e-3 * math.sqrt(limits.max)
    precision = (-log_sigma).clamp(max=-math.log(limits.tiny)).exp()
    distance: Tensor = _Bounded.run((z - mean) * precision, far)
    # log σ is summed before it broadcasts: once a component, and not for every image
    return -0.5 * distance.square().sum(dim=-1) - log_sigma.sum(dim=-1) - z.shape[-1] * normal.HALF_LOG_2PI


class _Bounded(Operation):
    """A value v within ± a bound b; beyond it the derivative is b / |v|, that of b (1 + log |v| / b).

    With the derivative 0 of a clamp what is beyond would look like what has come to rest; with 1 it would overflow.
    """

    @staticmethod
    def forward(value: Tensor, bound: float) -> Tensor:
        return value.clamp(-bound, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        value, ctx.bound = inputs
        ctx.save_for_backward(value)
        ctx.save_for_forward(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        if _is_seen_within(value, ctx.bound):  # the factors are tensors of the size of all distances
            return grad, None
        return grad * _within(value, ctx.bound), None

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, bound: None) -> Tensor:
        (value,) = ctx.saved_tensors
        return tangent * _within(value, ctx.bound)


def _within(value: Tensor, bound: float) -> Tensor:
    """min(1, b / |v|), and not 0 where v overflows."""
    return bound / value.abs().clamp(bound, torch.finfo(value.dtype).max)


def _is_seen_within(value: Tensor, bound: float) -> bool:
    """Whether all of a value is, where looking costs no wait for a device and disturbs no transform."""
    if type(value) is not Tensor or value.device.type != "cpu" or not value.numel():
        return False
    if torch.compiler.is_compiling() or transforms_active():
        return False
    least, most = torch.aminmax(value)
    return bool(least >= -bound) and bool(most <= bound)


def _check_latents(z: Tensor, latents: tuple[int, ...] | None) -> None:
    if z.dim() < 2 or (latents is not None and tuple(z.shape[1:]) != latents):
        wanted = "[B, ...]" if latents is None else str(["B", *latents]).replace("'", "")
        raise InvalidValueError(f"a top prior of latents {wanted} was given latents {list(z.shape)}")


def _noise(
    size: tuple[int, ...], device: torch.device, dtype: torch.dtype, generator: torch.Generator | None
) -> Tensor:
    where = device if generator is None else generator.device
    return torch.randn(size, dtype=dtype, device=where, generator=generator).to(device)
