"""A sample of q and KL(q‖p) from the sigmas themselves: what a step on a CPU does, where they are ordinary numbers.

With r = σ_q/σ_p, d = (μ_p − μ_q)/σ_p, and e = r − 1, which has the digits of two sigmas that are nearly equal,

    growth = ½ (r² − 1) = e + ½ e²        z  = μ_q + σ_q ε
    pull   = ½ (r² − 1 + d²)              KL = pull − log r

    ∂KL/∂log σ_q = 2 growth,  ∂KL/∂log σ_p = −2 pull,  ∂KL/∂μ_p = −∂KL/∂μ_q = d/σ_p,  ∂z/∂log σ_q = σ_q ε

That is one logarithm for two Normals, where `sampled_kl`, which is right for every finite raw value, takes five to
seven exponentials and logarithms. The sigmas are looked at first, so that there is no such way on a GPU, where to look
is to wait, nor under a tracer or a transform.

Between two convolutions each call of an operation takes a CPU two to five microseconds and each call in Python one or
two, which is more than the arithmetic on a small tensor: their code has to come back into the cache. So there are few
calls, of few different operations, and a number is an operand that was made a tensor once (`arithmetic.number`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from vdvae_patch.sampled_kl import refuse_second_derivative
from vdvae_patch.scales.arithmetic import ONE, TWO, ZERO, wide
from vdvae_patch.scales.operation import Operation, applied, can_look_at

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

_LEAST, _MOST = 1e-15, 1e15
"""Ordinary are a σ_p and a ratio above the one and a σ_q below the other: then nothing on the way overflows or
underflows where what comes out does not."""


class _NotOrdinaryError(Exception):
    """This way is not for what was given; raised before anything lasts."""


def sample_kl(
    mean_q: Tensor,
    raw_q: Tensor,
    mean_p: Tensor,
    raw_p: Tensor,
    noise: Tensor,
    scale_q: Scale | None,
    scale_p: Scale | None,
) -> tuple[Tensor, Tensor] | None:
    """z and KL(q‖p); None where it cannot be done from the sigmas."""
    if scale_q is None or scale_p is None or not (scale_q.has_sigma_first and scale_p.has_sigma_first):
        return None
    given = mean_q, wide(raw_q), mean_p, wide(raw_p), noise
    if not _are_alike(given) or not can_look_at(*given):
        return None
    try:
        z, kl, _ = _apply_four(*given, scale_q, scale_p)
    except _NotOrdinaryError:
        return None
    return z, kl


def sample_kl_of_maps(
    q: Tensor, p: Tensor, trunk: Tensor, noise: Tensor, scale_q: Scale | None, scale_p: Scale | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """z, trunk + rest and KL(q‖p) of the maps q = [mean, raw] and p = [mean, raw, rest]; None where that cannot be.

    They are taken apart in here, so that each map's gradient is put together once. A q without a scale, whose raw value
    is log σ, is rounded as p is.
    """
    if scale_p is None or not scale_p.has_sigma_first or not (scale_q is None or scale_q.has_sigma_first):
        return None
    if not (q.dtype is p.dtype is trunk.dtype and q.dtype in ONE and can_look_at(q, p, trunk)):
        return None
    try:
        z, trunk, kl, _ = _apply_maps(q, p, trunk, noise, scale_q, scale_p)
    except _NotOrdinaryError:
        return None
    return z, trunk, kl


def sample_kl_to_unit(mean: Tensor, raw: Tensor, noise: Tensor, scale: Scale | None) -> tuple[Tensor, Tensor] | None:
    """z and KL(q‖N(0, 1)); None where it cannot be done from σ."""
    if scale is None or not scale.has_sigma_first:
        return None
    given = mean, wide(raw), noise
    if not _are_alike(given) or not can_look_at(*given):
        return None
    try:
        z, kl, _ = _apply_unit(*given, scale)
    except _NotOrdinaryError:
        return None
    return z, kl


def _are_alike(given: tuple[Tensor, ...]) -> bool:
    """Whether all have one shape and type, so that one may be written over with what is made of the others."""
    first = given[0]
    shape, dtype = first.shape, first.dtype
    return first.numel() > 0 and all(t.shape == shape and t.dtype == dtype for t in given)


def _require_ordinary(least: Tensor, sigma: Tensor, scale: Scale | None) -> None:
    """Raise where a value of `least` is too small, or one of σ too large; a NaN is on no side of a number."""
    if not torch.amin(least).item() > _LEAST:
        raise _NotOrdinaryError
    bound: float = math.inf if scale is None else getattr(scale.codomain, "upper_bound", math.inf)
    if not bound < _MOST and not torch.amax(sigma).item() < _MOST:
        raise _NotOrdinaryError


def _forward(
    ctx: Any, mean_q: Tensor, raw_q: Tensor, mean_p: Tensor, raw_p: Tensor, noise: Tensor, scale_q: Scale | None,
    scale_p: Scale,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """z, KL and ∂KL/∂μ_p; kept are this and, each times the slope d log σ / dp, σ_q ε and growth of q, −2 pull of p."""
    sigma_q, slope_q = (raw_q.exp(), ONE[raw_q.dtype]) if scale_q is None else scale_q.sigma_and_slope(raw_q)
    sigma_p, slope_p = scale_p.sigma_and_slope(raw_p)
    ratio = sigma_q / sigma_p
    _require_ordinary(torch.minimum(ratio, sigma_p), sigma_q, scale_q)
    log_ratio = ratio.log()
    excess = ratio.sub_(ONE[ratio.dtype])
    growth = excess.addcmul_(excess, excess, value=0.5)
    distance = (mean_p - mean_q).div_(sigma_p)
    pull = torch.addcmul(growth, distance, distance, value=0.5)
    push = distance.div_(sigma_p)
    kl = pull - log_ratio
    spread = sigma_q.mul_(noise)
    z = mean_q + spread
    if slope_q is not None:
        spread.mul_(slope_q)
        growth.mul_(slope_q)
    # with its factor, so that the backward pass has none to apply
    minus_pull = None if slope_p is None else torch.addcmul(ZERO[pull.dtype], pull, slope_p, value=-2)
    moves_q = slope_q is not None
    ctx.save_for_backward(push, spread if moves_q else None, growth if moves_q else None, minus_pull)
    ctx.set_materialize_grads(False)
    return z, kl, push


def _gradients(
    kept: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None], grad_z: Tensor | None, grad_kl: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Of μ_q, p_q, μ_p and p_p."""
    push, spread, growth, minus_pull = kept
    through_spread = None if grad_z is None or spread is None else grad_z * spread
    found: tuple[Tensor | None, ...] = (grad_z, through_spread, None, None)
    if grad_kl is not None:
        grad_mean_p = grad_kl * push
        grad_mean_q = -grad_mean_p if grad_z is None else grad_z - grad_mean_p
        # zeros, and not none: what emits a raw value that is not read has a gradient as any other layer
        grad_raw_q = torch.zeros_like(push) if growth is None else _sum_of(through_spread, grad_kl, growth)
        grad_raw_p = torch.zeros_like(push) if minus_pull is None else grad_kl * minus_pull
        found = grad_mean_q, grad_raw_q, grad_mean_p, grad_raw_p
    return Operation.tied(found, push) if torch.is_grad_enabled() else found


def _sum_of(through_spread: Tensor | None, grad_kl: Tensor, growth: Tensor) -> Tensor:
    """The gradient of q's raw value, by the sample and by the divergence."""
    if through_spread is None:
        return (grad_kl * growth).mul_(TWO[growth.dtype])
    return through_spread.addcmul_(grad_kl, growth, value=2)


class _OfFour(Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        return _forward(ctx, *given)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, grad_push: Tensor | None) -> Any:
        if grad_push is not None:
            refuse_second_derivative()
        return *_gradients(ctx.saved_tensors, grad_z, grad_kl), None, None, None


class _OfMaps(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, p: Tensor, trunk: Tensor, noise: Tensor, scale_q: Scale | None, scale_p: Scale
    ) -> tuple[Tensor, ...]:
        channels = noise.shape[1]
        mean_q, raw_q = q.chunk(2, dim=1)
        mean_p, raw_p, rest = p.split_with_sizes(
            [channels, channels, p.shape[1] - 2 * channels], dim=1
        )  # `split` in C++
        if rest.shape != trunk.shape or mean_q.shape != mean_p.shape or not noise.numel():
            raise _NotOrdinaryError  # what broadcasts has another gradient
        z, kl, push = _forward(ctx, mean_q, raw_q, mean_p, raw_p, noise, scale_q, scale_p)
        ctx.shape = trunk.shape
        return z, trunk + rest, kl, push

    @staticmethod
    def backward(
        ctx: Any, grad_z: Tensor | None, grad_trunk: Tensor | None, grad_kl: Tensor | None, grad_push: Tensor | None
    ) -> Any:
        if grad_push is not None:
            refuse_second_derivative()
        kept = ctx.saved_tensors  # whoever recomputes them gives them once
        found = _gradients(kept, grad_z, grad_kl)
        if grad_kl is None or grad_trunk is None:
            found = tuple(torch.zeros_like(kept[0]) if gradient is None else gradient for gradient in found)
        mean_q, raw_q, mean_p, raw_p = cast("tuple[Tensor, ...]", found)
        rest = mean_p.new_zeros(ctx.shape) if grad_trunk is None else grad_trunk
        return torch.cat((mean_q, raw_q), dim=1), torch.cat((mean_p, raw_p, rest), dim=1), grad_trunk, None, None, None


class _ToUnit(Function):
    """Against N(0, 1), where ∂KL/∂μ is μ."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, raw: Tensor, noise: Tensor, scale: Scale) -> tuple[Tensor, ...]:
        sigma, slope = scale.sigma_and_slope(raw)
        _require_ordinary(sigma, sigma, scale)
        log_sigma = sigma.log()
        excess = sigma - ONE[sigma.dtype]
        growth = excess.addcmul_(excess, excess, value=0.5)
        pull = torch.addcmul(growth, mean, mean, value=0.5)
        kl = pull.sub_(log_sigma)
        spread = sigma.mul_(noise)
        z = mean + spread
        if slope is not None:
            spread.mul_(slope)
            growth.mul_(slope)
        ctx.save_for_backward(mean, spread, growth)
        ctx.moves = slope is not None
        ctx.set_materialize_grads(False)
        return z, kl, spread

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, grad_spread: Tensor | None) -> Any:
        if grad_spread is not None:
            refuse_second_derivative()
        mean, spread, growth = ctx.saved_tensors
        through_spread = None if grad_z is None or not ctx.moves else grad_z * spread
        if grad_kl is None:
            return *Operation.tied((grad_z, through_spread), spread), None, None
        grad_mean = grad_kl * mean if grad_z is None else torch.addcmul(grad_z, grad_kl, mean)
        grad_raw = _sum_of(through_spread, grad_kl, growth) if ctx.moves else torch.zeros_like(growth)
        return *Operation.tied((grad_mean, grad_raw), spread), None, None


_apply_four, _apply_maps, _apply_unit = applied(_OfFour), applied(_OfMaps), applied(_ToUnit)
