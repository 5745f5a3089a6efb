"""Normal arithmetic from a mean and a log sigma, right for every finite value; all results in nats.

No σ² is formed on its own, so nothing underflows before a ratio is taken:

    KL(q‖p) = ½ expm1(2 (log σ_q − log σ_p)) − (log σ_q − log σ_p) + ½ ((μ_q − μ_p) exp(−log σ_p))²
    sample  = μ + exp(log σ) ε
    log N(x) = −½ ((x − μ) exp(−log σ))² − log σ − ½ log 2π

`expm1` keeps the precision of two nearly equal sigmas, where exp(·) − 1 cancels. The factor exp(−log σ) is applied as
two factors exp(−½ log σ), so that (0 · ∞) cannot arise where the means agree. Half precision is computed, and the
divergence returned, in float32: it is summed over many thousands of values.

`sample_kl` does both at once, from the raw parameters if it is given their scales. It keeps four tensors for the
backward pass, and five with scales, where VDVAE's own expressions keep seven and the two functions above ten. Both take
N(0, 1) for p where none is given, at less than the price of one that is. How it is done is in `sampled_kl`; on a GPU it
can be one kernel, see `fused`.
Source: "Re-parameterizing VAEs for stability", eq. 6 to 10.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch import fused, sampled_kl_of_sigmas
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.sampled_kl import SampleKL, SampleKLToUnit, root_precision
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

    Values are those of `sample` and `kl_divergence` to rounding. Kept for the backward pass are σ_q ε and
    expm1(2 log σ_q/σ_p), both times the derivative d log σ / dp of q's scale, the standardized distance of the means,
    exp(−½ log σ_p), and of p's scale the gradient for its raw value; against N(0, 1) the mean and the first two.

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
    else:
        of_p = None if mean_p is None or raw_p is None else (mean_p, raw_p)
        z, kl = _in_one_operation((mean_q, raw_q), of_p, noise, scale_q, scale_p)
    return z if z.dtype == dtype else z.to(dtype), kl


def sample_kl_of_maps(
    q: Tensor, p: Tensor, trunk: Tensor, *, scale_q: Scale | None = None, scale_p: Scale | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """z, trunk + rest and KL(q‖p) of a latent in a ladder of them, whose prior emits a rest for the trunk, too.

    The values are those of `sample_kl` of the parts, to rounding, with noise drawn by the default generator.

    Args:
        q: `[B, 2 C, ...]`, C means and C raw values.
        p: `[B, 2 C + W, ...]`, C means, C raw values and the rest.
        trunk: `[B, W, ...]`, or what can be added to the rest.
    """
    channels = q.shape[1] // 2
    noise = torch.randn((q.shape[0], channels, *q.shape[2:]), dtype=q.dtype, device=q.device)
    if not fused.is_on():
        found = sampled_kl_of_sigmas.sample_kl_of_maps(q, p, trunk, noise, scale_q, scale_p)
        if found is not None:
            return found
    mean_q, raw_q = torch.split(q, channels, dim=1)
    mean_p, raw_p, rest = torch.split(p, [channels, channels, p.shape[1] - 2 * channels], dim=1)
    z, kl = sample_kl(mean_q, raw_q, mean_p, raw_p, noise, scale_q=scale_q, scale_p=scale_p)
    return z, trunk + rest, kl


_Two = tuple[Tensor, Tensor]


def _in_one_operation(
    of_q: _Two, of_p: _Two | None, noise: Tensor, scale_q: Scale | None, scale_p: Scale | None
) -> _Two:
    """Of the sigmas themselves where that can be, and of their logarithms elsewhere, which may be in one kernel."""
    if of_p is None:
        # a mean is kept for the backward pass, where a part of a wider tensor would keep the whole
        mean, raw = of_q[0].clone() if of_q[0]._is_view() else of_q[0], of_q[1]
        found = sampled_kl_of_sigmas.sample_kl_to_unit(mean, raw, noise, scale_q)
        if found is None:
            z, kl, *_ = SampleKLToUnit.run(mean, raw, noise, scale_q)
            found = z, kl
        return found
    given = *of_q, *of_p, noise
    if fused.is_on():
        widened = wide(given[0]), wide(given[1]), wide(given[2]), wide(given[3]), noise
        if fused.serves(widened, scale_q, scale_p):
            return fused.sample_kl(*widened, scale_q, scale_p)
    found = sampled_kl_of_sigmas.sample_kl(*given, scale_q, scale_p)
    if found is None:
        z, kl, *_ = SampleKL.run(*given, scale_q, scale_p)
        found = z, kl
    return found


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


def _both_or_neither(mean_p: Tensor | None, raw_p: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if mean_p is None and raw_p is None:
        return None
    if mean_p is None or raw_p is None:
        raise InvalidValueError("a prior has a mean and a scale: give both, or neither for N(0, 1)")
    return mean_p, raw_p


def _draw_like(mean: Tensor) -> Tensor:
    # by shape and not by `randn_like`: a compiler may give the mean other strides, and a seed then means other noise
    return torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)


def _standardize(difference: Tensor, log_sigma: Tensor) -> Tensor:
    root = root_precision(log_sigma)
    return difference * root * root
