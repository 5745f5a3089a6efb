"""How far a scale is from the truth: values, inverse, and two derivatives, in eps of the type.

An error is counted in eps of the true number: |got − true| / (eps · |true|) for σ and for the first derivatives, and
|got − true| / (eps · max(1, |true|)) for log σ and the inverse, which stand in exponents, so that their absolute error
is a relative one of σ; a second derivative is compared with the larger of itself and the first one. Half an eps is what
rounding alone does. Where the type has no normal number of that size, the smallest normal one takes the place of
|true|; what rounds to infinity is right if it is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vdvae_patch.experiments import scale_truth
from vdvae_patch.scales import Scale

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Errors:
    """The largest error of each, in eps of the type; NaN where something was NaN or infinite that is not."""

    sigma: float
    log_sigma: float
    inverse: float
    sigma_slope: float
    log_sigma_slope: float
    sigma_curve: float
    log_sigma_curve: float

    @property
    def worst(self) -> float:
        """The largest of all."""
        found = [getattr(self, field.name) for field in fields(self)]
        return math.nan if any(math.isnan(value) for value in found) else max(found)


def raw_parameters(scale: Scale, dtype: torch.dtype, count: int) -> Tensor:
    """`count` numbers of a type, in turn evenly from −30 to 30, evenly in their logarithm from the smallest normal
    number to the largest, and evenly over the range in which an exponential is a normal number; none twice, not 0."""
    generator = torch.Generator().manual_seed(0)
    third = count // 3
    even = 60 * torch.rand(third, generator=generator, dtype=torch.float64) - 30
    info = torch.finfo(dtype)
    low, high = math.log(info.smallest_normal), math.log(info.max)
    sizes = torch.exp(low + (high - low) * torch.rand(third, generator=generator, dtype=torch.float64))
    signs = torch.where(torch.arange(third) % 2 == 0, 1.0, -1.0).double()
    range_of_exp = min(-math.log(info.smallest_normal), 720.0)
    far = range_of_exp * (2 * torch.rand(count - 2 * third, generator=generator, dtype=torch.float64) - 1)
    steepness = max([1.0, *(abs(v) for k, v in scale.arguments().items() if k in ("beta", "gain"))])
    values = torch.cat([even, sizes * signs, far / steepness])
    values = _distinct(values.clamp(-info.max, info.max).to(dtype))
    return values[values != 0]  # there the curvature of some jumps


def _distinct(values: Tensor) -> Tensor:
    result: Tensor = values.unique()  # type: ignore[no-untyped-call]
    return result


def measure(scale: Scale, dtype: torch.dtype, count: int) -> Errors:
    """The largest errors of a scale over `raw_parameters`."""
    p = raw_parameters(scale, dtype, count)
    want = [scale_truth.truth(scale, value) for value in p.double().tolist()]
    found = {"inverse": _inverse_error(scale, p)}
    for name, function in (("sigma", scale.sigma), ("log_sigma", scale.log_sigma)):
        value, slope, curve = _derivatives(function, p)
        found[name] = largest_error(value, [getattr(t, name) for t in want], 1 if name == "log_sigma" else 0)
        slopes = [getattr(t, f"{name}_slope") for t in want]
        found[f"{name}_slope"] = largest_error(slope, slopes)
        found[f"{name}_curve"] = largest_error(curve, [getattr(t, f"{name}_curve") for t in want], slopes)
    return Errors(**found)


def _derivatives(function: Callable[[Tensor], Tensor], p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaf = p.clone().requires_grad_()
    value = function(leaf)
    if not value.requires_grad:
        return value, torch.zeros_like(p), torch.zeros_like(p)
    (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    if not slope.requires_grad:
        return value.detach(), slope, torch.zeros_like(p)
    (curve,) = torch.autograd.grad(slope.sum(), leaf, materialize_grads=True)
    return value.detach(), slope.detach(), curve


def _inverse_error(scale: Scale, p: Tensor) -> float:
    """Of the numbers that σ has at p, taken as exact; those outside of the range of σ left out."""
    if scale.name == "constant":
        return 0.0
    sigma = _distinct(scale.sigma(p))
    sigma = sigma[(sigma > 0) & sigma.isfinite()]
    want = [scale_truth.inverse(scale, value) for value in sigma.double().tolist()]
    kept = [index for index, value in enumerate(want) if value is not None]
    return largest_error(scale.inverse(sigma[kept]), [want[index] for index in kept], 1)


def largest_error(
    got: Tensor, want: Sequence[scale_truth.Number], least: float | Sequence[scale_truth.Number] = 0
) -> float:
    """The largest error in eps of the true numbers, or of `least` where that is more."""
    floors = [least] * len(want) if isinstance(least, int | float) else least
    info = torch.finfo(got.dtype)
    worst = 0.0
    for value, true, floor in zip(got.double().tolist(), want, floors, strict=True):
        if math.isnan(value):
            return math.nan
        if abs(true) >= info.max:
            # infinity, or the largest number, stands for it
            error = 0.0 if abs(value) >= info.max * (1 - info.eps) and (value > 0) == (true > 0) else math.nan
        elif math.isinf(value):
            error = 0.0 if abs(true) > info.max * (1 - info.eps) else math.nan
        else:
            error = float(abs(value - true) / (info.eps * max(abs(true), info.smallest_normal, abs(floor))))
        if math.isnan(error):
            return math.nan
        worst = max(worst, error)
    return worst
