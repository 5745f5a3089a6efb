"""Normal arithmetic from a mean and a log sigma, right for every finite value; all results in nats.

No σ² is formed on its own, so nothing underflows before a ratio is taken:

    KL(q‖p) = ½ expm1(2 (log σ_q − log σ_p)) − (log σ_q − log σ_p) + ½ ((μ_q − μ_p) exp(−log σ_p))²
    sample  = μ + exp(log σ) ε
    log N(x) = −½ ((x − μ) exp(−log σ))² − log σ − ½ log 2π

`expm1` keeps the precision of two nearly equal sigmas, where exp(·) − 1 cancels. The factor exp(−log σ) is applied as
two factors exp(−½ log σ), so that (0 · ∞) cannot arise where the means agree. Half precision is computed, and the
divergence returned, in float32: it is summed over many thousands of values.

`sample_kl` does both at once, from the raw parameters if it is given their scales. It keeps four tensors for the
backward pass, and one more a scale, where VDVAE's own expressions keep seven and the two functions above ten. Both take
N(0, 1) for p where none is given, at less than the price of one that is. On a GPU it can be one kernel, see `fused`.
Source: "Re-parameterizing VAEs for stability", eq. 6 to 10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch import fused
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.scales.operation import Operation, is_forward_mode

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def kl_divergence(
    mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor | None = None, log_sigma_p: Tensor | None = None
) -> Tensor:
    """KL(N(mean_q, σ_q) ‖ N(mean_p, σ_p)) in nats, elementwise; shapes broadcast. Without a p it is N(0, 1).

    Raises:
        InvalidValueError: half a p.
    """
    mean_q, log_sigma_q = wide(mean_q), wide(log_sigma_q)
    given = _both_or_neither(mean_p, log_sigma_p)
    if given is None:
        return torch.addcmul(_Excess.run(log_sigma_q), mean_q, mean_q, value=0.5)
    mean_p, log_sigma_p = map(wide, given)
    distance = _standardize(mean_q - mean_p, log_sigma_p)
    # the difference of two finite numbers may overflow, and ∞ − ∞ is NaN in the divergence
    log_ratio = (log_sigma_q - log_sigma_p).clamp(max=torch.finfo(log_sigma_q.dtype).max)
    return torch.addcmul(_Excess.run(log_ratio), distance, distance, value=0.5)


def sample(mean: Tensor, log_sigma: Tensor, noise: Tensor | None = None) -> Tensor:
    """mean + exp(log sigma) · noise; the noise is drawn from N(0, 1) by the default generator unless given."""
    noise = _draw_like(mean) if noise is None else noise
    result = wide(mean) + wide(log_sigma).exp() * wide(noise)
    return result.to(mean.dtype)


def log_prob(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log density of N(mean, σ) at x in nats, elementwise."""
    x, mean, log_sigma = wide(x), wide(mean), wide(log_sigma)
    distance = _standardize(x - mean, log_sigma)
    return -0.5 * distance * distance - log_sigma - HALF_LOG_2PI


def sample_kl(
    mean_q: Tensor,
    raw_q: Tensor,
    mean_p: Tensor | None = None,
    raw_p: Tensor | None = None,
    noise: Tensor | None = None,
    *,
    scale_q: Scale | None = None,
    scale_p: Scale | None = None,
) -> tuple[Tensor, Tensor]:
    """A sample of q and KL(q‖p), elementwise, in one operation that is differentiable once; shapes broadcast.

    Values are those of `sample` and `kl_divergence`; kept for the backward pass are σ_q ε, expm1(2 log σ_q/σ_p), the
    standardized distance of the means, exp(−½ log σ_p), and of each scale the derivative d log σ / dp, unless it is 0.
    Against N(0, 1) it is the mean, and the first two times that derivative.

    Args:
        mean_p, raw_p: of p; N(0, 1) without.
        raw_q, raw_p: log σ; with a scale the raw parameter, of which the scale makes log σ in the same operation.
        noise: drawn from N(0, 1) by the default generator unless given.

    Raises:
        InvalidValueError: half a p, or a scale without what it is the scale of.
    """
    given = _both_or_neither(mean_p, raw_p)
    if given is None and scale_p is not None:
        raise InvalidValueError("sample_kl: scale_p is the scale of raw_p, which is not given")
    noise = _draw_like(mean_q) if noise is None else noise
    dtype = mean_q.dtype
    # a scale widens by itself: one of them shows what happens if that is forgotten
    mean_q, raw_q, noise = wide(mean_q), raw_q if scale_q is not None else wide(raw_q), wide(noise)
    if given is not None:
        mean_p, raw_p = wide(given[0]), given[1] if scale_p is not None else wide(given[1])
    if torch.compiler.is_compiling() or is_forward_mode():
        # the compiler chooses what to keep by itself, and better the more it sees; forward mode keeps nothing
        log_sigma_q = raw_q if scale_q is None else wide(scale_q.log_sigma(raw_q))
        log_sigma_p = raw_p if scale_p is None or raw_p is None else wide(scale_p.log_sigma(raw_p))
        z, kl = sample(mean_q, log_sigma_q, noise), kl_divergence(mean_q, log_sigma_q, mean_p, log_sigma_p)
    elif given is None:
        # it is kept for the backward pass, where a part of a wider tensor would keep the whole
        mean_q = mean_q.clone() if mean_q._is_view() else mean_q
        z, kl = _SampleKLToUnit.run(mean_q, raw_q, noise, scale_q)[:2]
    else:
        assert mean_p is not None
        assert raw_p is not None
        z, kl = _sample_kl_of_two((mean_q, raw_q, mean_p, raw_p, noise), scale_q, scale_p)
    return z if z.dtype == dtype else z.to(dtype), kl


_Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _sample_kl_of_two(given: _Five, scale_q: Scale | None, scale_p: Scale | None) -> tuple[Tensor, Tensor]:
    """In one kernel where that is asked for and can be, and in one operation of many elsewhere."""
    if fused.is_on():
        mean_q, raw_q, mean_p, raw_p, noise = map(wide, given)
        if fused.serves((mean_q, raw_q, mean_p, raw_p, noise), scale_q, scale_p):
            return fused.sample_kl(mean_q, raw_q, mean_p, raw_p, noise, scale_q, scale_p)
    z, kl, *_ = _SampleKL.run(*given, scale_q, scale_p)
    return z, kl


class _Excess(Operation):
    """½ expm1(2 d) − d, d a difference of two log sigmas: the divergence of two Normals with the same mean.

    The automatic derivative is (expm1(2 d) + 1) − 1, which is 0 for a d of less than an eps; this one is expm1(2 d).
    """

    @staticmethod
    def forward(d: Tensor) -> Tensor:
        return 0.5 * torch.expm1(2 * d) - d

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _growth(*ctx.saved_tensors)

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * _growth(*ctx.saved_tensors)


class _Growth(Operation):
    """expm1(2 d), with the derivative 2 exp(2 d): the automatic 2 (expm1(2 d) + 1) has no digits for a d below −9."""

    @staticmethod
    def forward(d: Tensor) -> Tensor:
        return torch.expm1(2 * d)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        return 2 * grad * torch.exp(2 * d)

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        return 2 * tangent * torch.exp(2 * d)


def _growth(d: Tensor) -> Tensor:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = _Growth.run(d)
        return result
    return torch.expm1(2 * d)  # a backward pass that is not differentiated, or cannot be


class _SampleKL(Operation):
    @staticmethod
    def forward(
        mean_q: Tensor,
        raw_q: Tensor,
        mean_p: Tensor,
        raw_p: Tensor,
        noise: Tensor,
        scale_q: Scale | None,
        scale_p: Scale | None,
    ) -> tuple[Tensor, ...]:
        log_sigma_q, log_sigma_p, slopes = _log_sigmas(raw_q, scale_q, raw_p, scale_p)
        # in place where it can be: these tensors are small, and a new one costs more than the arithmetic on it; but not
        # with another operand that may be larger, by broadcasting or under `vmap`
        spread = log_sigma_q.exp() * noise
        # of p over q, the other way round than above: ½ growth + log ratio is one operation
        log_ratio = (log_sigma_p - log_sigma_q).clamp(min=torch.finfo(log_sigma_q.dtype).min)
        growth = (-2 * log_ratio).expm1_()
        root = _root_precision(log_sigma_p)
        distance = ((mean_q - mean_p) * root).mul_(root)
        kl = _combine(growth, log_ratio, distance)
        return mean_q + spread, kl, spread, growth, distance, root, *slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        # saved as outputs, which is what lets torch.func transform this function
        ctx.save_for_backward(*output[2:])
        ctx.scales = inputs[5:]
        ctx.together = len(output) == 7 and all(map(_has_slope, ctx.scales))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *grad_saved: Tensor | None) -> Any:
        _refuse_second_derivative(grad_saved)
        spread, growth, distance, root, *slopes = ctx.saved_tensors
        scale_q, scale_p = ctx.scales
        if ctx.together:
            slopes = [*slopes[0].unbind()]
        slope_q = slopes.pop(0) if _has_slope(scale_q) else None
        slope_p = slopes.pop(0) if _has_slope(scale_p) else None
        moves_q, moves_p = _depends(scale_q), _depends(scale_p)
        through_spread = None if grad_z is None or not moves_q else grad_z * spread
        if grad_kl is None:
            return grad_z, _times(through_spread, slope_q), None, None, None, None, None
        down = -grad_kl
        push = (down * distance * root).mul_(root)
        grad_mean_q = -push if grad_z is None else grad_z - push
        grad_log_sigma_q = _sum_of(through_spread, grad_kl, growth) if moves_q else None
        grad_log_sigma_p = torch.addcmul(growth, distance, distance) * down if moves_p else None
        # zeros, and not none: what emits a raw value that is not read has a gradient as any other layer
        grad_raw_q = _times(grad_log_sigma_q, slope_q) if moves_q else torch.zeros_like(push)
        grad_raw_p = _times(grad_log_sigma_p, slope_p) if moves_p else torch.zeros_like(push)
        return grad_mean_q, grad_raw_q, push, grad_raw_p, None, None, None


class _SampleKLToUnit(Operation):
    @staticmethod
    def forward(mean: Tensor, raw: Tensor, noise: Tensor, scale: Scale | None) -> tuple[Tensor, ...]:
        log_sigma, *slope = _log_sigma(raw, scale)
        spread = log_sigma.exp() * noise
        growth = (2 * log_sigma).expm1_()
        z, kl = mean + spread, _combine(growth, -log_sigma, mean)
        # one gradient needs both times the slope, so that no third tensor is kept
        return z, kl, *(kept.mul_(*slope) if slope else kept for kept in (spread, growth))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], *output[2:])
        ctx.moves = _depends(inputs[3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *grad_saved: Tensor | None) -> Any:
        _refuse_second_derivative(grad_saved)
        mean, spread, growth = ctx.saved_tensors
        through_spread = None if grad_z is None or not ctx.moves else grad_z * spread
        if grad_kl is None:
            return grad_z, through_spread, None, None
        grad_mean = grad_kl * mean if grad_z is None else torch.addcmul(grad_z, grad_kl, mean)
        if not ctx.moves:
            return grad_mean, torch.zeros_like(growth), None, None
        return grad_mean, _sum_of(through_spread, grad_kl, growth), None, None


def _sum_of(through_spread: Tensor | None, grad_kl: Tensor, growth: Tensor) -> Tensor:
    """The gradient for log σ_q, by the sample and by the divergence."""
    return grad_kl * growth if through_spread is None else torch.addcmul(through_spread, grad_kl, growth)


def _depends(scale: Scale | None) -> bool:
    """Whether a gradient reaches the raw value."""
    return scale is None or scale.depends_on_p


def _has_slope(scale: Scale | None) -> bool:
    return scale is not None and scale.depends_on_p


def _refuse_second_derivative(grad_saved: tuple[Tensor | None, ...]) -> None:
    # what is saved counts as differentiable, so that a second derivative comes by here and is not taken for zero
    if any(grad is not None for grad in grad_saved):
        raise RuntimeError(
            "sample_kl is differentiable once; for second derivatives use sample and kl_divergence, or patch the model "
            'with arithmetic="host"'
        )


def _both_or_neither(mean_p: Tensor | None, raw_p: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if mean_p is None and raw_p is None:
        return None
    if mean_p is None or raw_p is None:
        raise InvalidValueError("a prior has a mean and a scale: give both, or neither for N(0, 1)")
    return mean_p, raw_p


def _log_sigma(raw: Tensor, scale: Scale | None) -> tuple[Tensor, ...]:
    """log σ, and its slope if there is a scale whose slope is no constant."""
    if scale is None:
        return (raw,)
    return scale.log_sigma_and_slope(raw) if scale.depends_on_p else (wide(scale.log_sigma(wide(raw))),)


def _log_sigmas(
    raw_q: Tensor, scale_q: Scale | None, raw_p: Tensor, scale_p: Scale | None
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """log σ of both, and the slopes: one `[2, ...]` of both where they have one scale and are computed together."""
    together = scale_q is not None and scale_q.depends_on_p and raw_q.shape == raw_p.shape
    if scale_q is not None and together and raw_q.dtype == raw_p.dtype and scale_q == scale_p:
        log_sigmas, slopes = scale_q.log_sigma_and_slope(torch.stack([raw_q, raw_p]))
        log_sigma_q, log_sigma_p = log_sigmas.unbind()
        return log_sigma_q, log_sigma_p, (slopes,)
    log_sigma_q, *slope_q = _log_sigma(raw_q, scale_q)
    log_sigma_p, *slope_p = _log_sigma(raw_p, scale_p)
    return log_sigma_q, log_sigma_p, (*slope_q, *slope_p)


def _times(grad: Tensor | None, slope: Tensor | None) -> Tensor | None:
    """The product, in place: the gradients that come here were made by the backward pass, and are as large."""
    return grad if grad is None or slope is None else grad.mul_(slope)


def _draw_like(mean: Tensor) -> Tensor:
    # by shape and not by `randn_like`: a compiler may give the mean other strides, and a seed then means other noise
    return torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)


def _combine(growth: Tensor, log_ratio: Tensor, distance: Tensor) -> Tensor:
    """½ growth + log σ_p/σ_q + ½ distance²; the log ratio is not needed behind it."""
    return torch.addcmul(log_ratio.add_(growth, alpha=0.5), distance, distance, value=0.5)


def _root_precision(log_sigma: Tensor) -> Tensor:
    """exp(−½ log σ), but finite: times a distance of zero it must stay zero."""
    limit = math.log(torch.finfo(log_sigma.dtype).max) - 1
    return (-0.5 * log_sigma).clamp(max=limit).exp_()


def _standardize(difference: Tensor, log_sigma: Tensor) -> Tensor:
    root = _root_precision(log_sigma)
    return difference * root * root
