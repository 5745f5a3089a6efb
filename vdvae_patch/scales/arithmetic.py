"""Exponentials that lose nothing at the ends of the number line."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

OVERFLOW_NEAR = 80
"""An exponential of no more than this is finite in float32.

An integer, which `torch.compile` takes for a constant, whatever is dynamic.
"""


def wide(x: Tensor) -> Tensor:
    """x, in float32 if it is in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def scaled_exp(x: Tensor, factor: float) -> Tensor:
    """factor · exp(x), which factor · (a number already rounded to zero) would lose where the product is no zero."""
    root = (0.5 * x).exp()
    return factor * root * root


def sigmoid(x: Tensor) -> Tensor:
    """The sigmoid down to the smallest number; `torch.sigmoid` gives 0 as soon as exp(−x) overflows."""
    return x.clamp(max=0).exp() / (1 + torch.exp(-x.abs()))


def free_exp(x: Tensor) -> Tensor:
    """exp(x), as a tensor that the backward pass does not keep: a host may go on and change it in place."""
    return x.exp().clone()


def exp_or_inf(x: float) -> float:
    """exp(x) in double precision, infinite where `math.exp` raises."""
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf
