"""A sample of q and KL(q‖p) as one operation, differentiated by itself; `normal.sample_kl` is its face.

Both are made of σ_q, log σ_p/σ_q, (σ_q/σ_p)² − 1 and σ_p^−½, and these of the logarithms, which is right for every
finite raw value, on every device and under every transform. A step on a CPU mostly goes another way, with a third of
the exponentials and logarithms: see `sampled_kl_of_sigmas`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.scales.operation import Operation, transforms_active

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

_WIDE = (torch.float32, torch.float64)
_LOWEST = {dtype: torch.finfo(dtype).min for dtype in _WIDE}
_LARGEST_ROOT = {dtype: math.log(torch.finfo(dtype).max) - 1 for dtype in _WIDE}
"""The logarithm of a root that is finite, and stays so."""


class SampleKL(Operation):
    """z, KL(q‖p), and what the backward pass needs, each slope multiplied in: a tensor of its own would be kept."""

    results = 2

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
        # a new tensor costs more than the arithmetic on it, so that whatever has done its part is written over; but not
        # with an operand that may be larger, by broadcasting or under `vmap`
        alike = mean_q.shape == raw_q.shape == mean_p.shape == raw_p.shape == noise.shape and not transforms_active()
        times, plus = (Tensor.mul_, Tensor.add_) if alike else (Tensor.mul, Tensor.add)
        sigma_q, log_ratio, growth, root, slope_q, slope_p = _ratio(raw_q, scale_q, raw_p, scale_p)
        spread = times(sigma_q, noise)
        # from q to p, so that its gradient needs no sign
        distance = times(times(mean_p - mean_q, root), root)
        pull = torch.addcmul(growth, distance, distance)
        z, kl = mean_q + spread, plus(log_ratio, pull, alpha=0.5)
        # each slope is multiplied with what its gradient is made of, and needs no tensor of its own
        kept = [distance, root]
        moves_q, moves_p = _depends(scale_q), _depends(scale_p)
        if moves_p and not (moves_q and slope_p is None and slope_q is None):  # else it can be made of growth again
            kept += [pull if slope_p is None else times(pull, slope_p)]
        if moves_q:
            kept += [t if slope_q is None else times(t, slope_q) for t in (spread, growth)]
        return z, kl, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        # saved as outputs, which is what lets torch.func transform this function
        ctx.save_for_backward(*output[2:])
        ctx.moves_p = _depends(inputs[6])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *grad_saved: Tensor | None) -> Any:
        if any(grad is not None for grad in grad_saved):
            refuse_second_derivative()
        distance, root, *kept = ctx.saved_tensors
        pull = kept.pop(0) if len(kept) % 2 else None
        spread, growth = kept or (None, None)
        through_spread = None if grad_z is None or spread is None else grad_z * spread
        if grad_kl is None:
            return *Operation.tied((grad_z, through_spread), distance), None, None, None, None, None
        if pull is None and growth is not None and ctx.moves_p:
            pull = torch.addcmul(growth, distance, distance)
        push = (grad_kl * distance).mul_(root).mul_(root)
        # zeros, and not none: what emits a raw value that is not read has a gradient as any other layer
        grad_raw_q = torch.zeros_like(push) if growth is None else _sum_of(through_spread, grad_kl, growth)
        grad_raw_p = torch.zeros_like(push) if pull is None else (grad_kl * pull).neg_()
        grad_mean_q = -push if grad_z is None else grad_z - push
        return *Operation.tied((grad_mean_q, grad_raw_q, push, grad_raw_p), distance), None, None, None


class SampleKLToUnit(Operation):
    """The same for p = N(0, 1)."""

    results = 2

    @staticmethod
    def forward(mean: Tensor, raw: Tensor, noise: Tensor, scale: Scale | None) -> tuple[Tensor, ...]:
        sigma, minus_log, growth, slope = _ratio_to_unit(raw, scale)
        spread = sigma * noise
        z, kl = mean + spread, minus_log.add(torch.addcmul(growth, mean, mean), alpha=0.5)
        # one gradient needs both times the slope, so that no third tensor is kept
        return z, kl, *(kept if slope is None else kept.mul_(slope) for kept in (spread, growth))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], *output[2:])
        ctx.moves = _depends(inputs[3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None, *grad_saved: Tensor | None) -> Any:
        if any(grad is not None for grad in grad_saved):
            refuse_second_derivative()
        mean, spread, growth = ctx.saved_tensors
        through_spread = None if grad_z is None or not ctx.moves else grad_z * spread
        if grad_kl is None:
            return *Operation.tied((grad_z, through_spread), spread), None, None
        grad_mean = grad_kl * mean if grad_z is None else torch.addcmul(grad_z, grad_kl, mean)
        grad_raw = _sum_of(through_spread, grad_kl, growth) if ctx.moves else torch.zeros_like(growth)
        return *Operation.tied((grad_mean, grad_raw), spread), None, None


def _sum_of(through_spread: Tensor | None, grad_kl: Tensor, growth: Tensor) -> Tensor:
    """The gradient for log σ_q, by the sample and by the divergence."""
    return grad_kl * growth if through_spread is None else torch.addcmul(through_spread, grad_kl, growth)


def _depends(scale: Scale | None) -> bool:
    """Whether a gradient reaches the raw value."""
    return scale is None or scale.depends_on_p


def refuse_second_derivative() -> None:
    """Raise; where what an operation keeps, which counts as differentiable, gets a gradient.

    So a second derivative comes by here and is not taken for zero.
    """
    raise RuntimeError(
        "sample_kl is differentiable once; for second derivatives use sample and kl_divergence, or patch the model "
        'with arithmetic="host"'
    )


_Ratio = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""What sample and divergence are made of, in tensors of their own: σ_q, log σ_p/σ_q, (σ_q/σ_p)² − 1 and σ_p^−½; and
d log σ / dp of q and of p, where that is no constant. The log ratio is of p over q, the other way round than in the
formula, so that ½ growth + log ratio is one operation."""


def _ratio(raw_q: Tensor, scale_q: Scale | None, raw_p: Tensor, scale_p: Scale | None) -> _Ratio:
    if scale_q is None or not _are_one(raw_q, scale_q, raw_p, scale_p):
        return _of_logarithms(_log_sigma(raw_q, scale_q), _log_sigma(raw_p, scale_p))
    both = torch.stack([raw_q, raw_p])
    log_sigmas, slopes, own = _log_sigma(both, scale_q)
    assert slopes is not None
    (log_sigma_q, log_sigma_p), (slope_q, slope_p) = log_sigmas.unbind(), slopes.unbind()
    return _of_logarithms((log_sigma_q, slope_q, own), (log_sigma_p, slope_p, own))


def _are_one(raw_q: Tensor, scale_q: Scale, raw_p: Tensor, scale_p: Scale | None) -> bool:
    """Whether both have one scale, and are computed together."""
    alike = raw_q.shape == raw_p.shape and raw_q.dtype == raw_p.dtype
    return alike and scale_q.depends_on_p and (scale_q is scale_p or scale_q == scale_p)


def _of_logarithms(of_q: _LogSigma, of_p: _LogSigma) -> _Ratio:
    (log_sigma_q, slope_q, own_q), (log_sigma_p, slope_p, own_p) = of_q, of_p
    # the difference of two finite numbers may overflow
    log_ratio = (log_sigma_p - log_sigma_q).clamp(min=_LOWEST[log_sigma_q.dtype])
    growth = (-2 * log_ratio).expm1_()
    sigma_q = log_sigma_q.exp_() if own_q else log_sigma_q.exp()
    return sigma_q, log_ratio, growth, root_precision(log_sigma_p, in_place=own_p), slope_q, slope_p


def _ratio_to_unit(raw: Tensor, scale: Scale | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """σ, −log σ, σ² − 1 and the slope."""
    log_sigma, log_slope, _ = _log_sigma(raw, scale)
    return log_sigma.exp(), -log_sigma, (2 * log_sigma).expm1_(), log_slope


_LogSigma = tuple[Tensor, Tensor | None, bool]
"""log σ, its slope if that is no constant, and whether log σ is a tensor of its own, which may be written over."""


def _log_sigma(raw: Tensor, scale: Scale | None) -> _LogSigma:
    if scale is None:
        return raw, None, False
    slope = None
    if scale.depends_on_p:
        log_sigma, slope = scale.log_sigma_and_slope(raw)
    else:
        log_sigma = wide(scale.log_sigma(wide(raw)))
    own = log_sigma is not raw and not log_sigma._is_view() and not transforms_active()
    return log_sigma, slope, own


def root_precision(log_sigma: Tensor, *, in_place: bool = False) -> Tensor:
    """exp(−½ log σ), but finite: times a distance of zero it must stay zero."""
    limit = _LARGEST_ROOT[log_sigma.dtype]
    half = log_sigma.mul_(-0.5) if in_place else -0.5 * log_sigma
    return (half.clamp_(max=limit) if in_place else half.clamp(max=limit)).exp_()
