"""Exponentials that lose nothing at the ends of the number line."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor
from torch.distributions import constraints

OVERFLOW_NEAR = 80
"""An exponential of no more than this is finite in float32.

An integer, which `torch.compile` takes for a constant, whatever is dynamic.
"""


def wide(x: Tensor) -> Tensor:
    """x, in float32 if it is in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


_numbers: dict[tuple[float, torch.dtype], Tensor] = {}


def number(value: float, dtype: torch.dtype) -> Tensor:
    """A number as a tensor without dimensions on the CPU, made once.

    As an operand it saves what torch does to wrap a Python number at each call, which takes longer than the arithmetic
    on some hundred values. For operands that can be looked at; a tracer would write down a constant of unknown origin.
    """
    found = _numbers.get((value, dtype))
    if found is None:
        with torch.inference_mode(False):
            found = torch.tensor(value, dtype=dtype, device="cpu")
        if type(found) is Tensor and len(_numbers) < 1000:  # and no stand-in of a mode that happens to be on
            _numbers[value, dtype] = found
    return found


ZERO, ONE, TWO = (
    {dtype: number(value, dtype) for dtype in (torch.float32, torch.float64)} for value in (0.0, 1.0, 2.0)
)
"""By the type that is computed in."""


def in_range(sigma: Tensor, codomain: constraints.Constraint, ends: Tensor | None = None) -> Tensor:
    """σ in float64, for an inverse; a bound that rounding has put outside of the range is put back on the bound.

    Next to a bound α an inverse is made of σ − α, which a short type rounds away. float32 where a device has no more.

    Args:
        ends: the smallest and the largest σ that the scale itself gives in this type, `[2]`, where its own rounding may
            lead further than that of the bound.
    """
    wide = sigma.to(torch.float32 if sigma.device.type == "mps" else torch.float64)
    for index, (bound, is_beyond) in enumerate((("lower_bound", torch.lt), ("upper_bound", torch.gt))):
        value = float(getattr(codomain, bound, math.inf))
        if 0 < value < math.inf:
            exact = wide.new_full((), value)
            rounded = exact.to(sigma.dtype).to(wide.dtype)
            is_bound = ~is_beyond(wide, rounded)
            if ends is not None:
                is_bound = is_bound | ~is_beyond(wide, ends[index].to(wide.dtype))
            wide = torch.where(is_beyond(wide, exact) & is_bound, exact, wide)
    return wide


def scaled_exp(x: Tensor, factor: float) -> Tensor:
    """factor · exp(x), which factor · (a number already rounded to zero) would lose where the product is no zero."""
    root = (0.5 * x).exp()
    return factor * root * root


def rest_of_product(factor: float, p: Tensor, product: Tensor) -> Tensor:
    """factor · p less the number that the product was rounded to; no gradient, since its own is 0.

    In exp(factor · p) the rounding of the product is as many eps as the product is large. Factors are split so that
    the products of their upper halves are exact (Dekker 1971).
    """
    bits = 26 if p.dtype == torch.float64 else 12
    step = 2.0 ** (math.frexp(factor)[1] - bits)
    upper = round(factor / step) * step
    with torch.no_grad():
        high = p * (2.0 ** (53 - bits if p.dtype == torch.float64 else 24 - bits) + 1)
        high = high - (high - p)
        return (upper * high - product) + upper * (p - high) + (factor - upper) * p


def sigmoid(x: Tensor, rest: Tensor | None = None) -> Tensor:
    """The sigmoid down to the smallest number; `torch.sigmoid` gives 0 as soon as exp(−x) overflows.

    Args:
        rest: of x, where it was rounded; 0 where x is positive.
    """
    if rest is None and not torch.is_grad_enabled():
        return x.clamp(max=0).exp() / (1 + torch.exp(-x.abs()))
    # the same bits, slower, and with its derivative at 0, where that of |x| is taken for 0
    right = x >= 0
    tail = torch.where(right, -x, x).exp()
    tail = tail if rest is None else tail * (1 + rest)
    return torch.where(right, 1.0, tail) / (1 + tail)


def free_exp(x: Tensor) -> Tensor:
    """exp(x), as a tensor that the backward pass does not keep: a host may go on and change it in place."""
    return x.exp().clone()


def exp_or_inf(x: float) -> float:
    """exp(x) in double precision, infinite where `math.exp` raises."""
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf
