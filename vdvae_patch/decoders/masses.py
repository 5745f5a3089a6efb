"""The mass that a density gives to the bin of a pixel, in log space: right in the tails, with finite gradients.

The bin of a value x reaches from x − step/2 to x + step/2, that of the lowest level down to −∞ and that of the highest
up to +∞, so that the masses of all levels sum to one. All is elementwise, in nats, and in float32 or wider.

Normal, with m = |x − μ| / σ, w = step / σ, a = m − w/2 and b = m + w/2, one of three forms:

    w < 0.1     log φ(m) + log w + log (sinh u / u) + log(1 − w²/8 (1 − 2 L(u) / u)),  u = m w / 2, L(u) = coth u − 1/u
    a > 0       −a²/2 + log ½ [erfcx(a/√2) − erfcx(b/√2) exp(−m w)]
    else        log ½ [erf(b/√2) − erf(a/√2)]

A difference of two Φ is 0 in float32 from six σ on, and loses its digits in narrow bins. The first form is the Taylor
series of exp(−t²/2) under the tilt exp(−m t) and off by less than w⁴ / 300.

Logistic, with u and l the upper and the lower end, standardized: S(u) − S(l) is exactly

    log [S(u) − S(l)] = log(1 − exp(l − u)) − softplus(−u) − softplus(l)

PixelCNN++ and VDVAE take the density at the centre times the step where the difference is below 1e-5. In these unlikely
bins that is less than the mass: by 2.15 nats at the smallest scale that they allow, by nothing at large ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch.normal import HALF_LOG_2PI
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scales.arithmetic import wide

_SMALLEST_LOG = -40.0
"""Scales below e⁻⁴⁰ steps, 4e-18, are taken for that, so that no square overflows."""

_FARTHEST = 1e17
_NARROW = 0.1
_ROOT_HALF = math.sqrt(0.5)


def log_normal_mass(x: Tensor, mean: Tensor, log_sigma: Tensor, grid: PixelGrid) -> Tensor:
    """log of the mass that N(mean, σ) gives to the bin of each value, with the ends of the grid; shapes broadcast.

    Distances beyond 1e17 σ are taken for 1e17 σ.
    """
    distance, width, log_width = _standardized(x, mean, log_sigma, grid)
    inner = _normal_bin(distance.abs(), width, log_width)
    if not grid.open_ends:
        return inner
    upper, lower = distance + 0.5 * width, distance - 0.5 * width
    return _with_open_ends(x, inner, _log_below(upper), _log_below(-lower), grid)


def log_logistic_mass(x: Tensor, mean: Tensor, log_scale: Tensor, grid: PixelGrid) -> Tensor:
    """log of the mass that the logistic distribution gives to the bin of each value; shapes broadcast."""
    distance, width, log_width = _standardized(x, mean, log_scale, grid)
    upper, lower = distance + 0.5 * width, distance - 0.5 * width
    below, above = -F.softplus(-upper), -F.softplus(lower)
    # width may round to less than a normal number, its logarithm does not
    narrow = width < 1e-4
    log_share = torch.where(narrow, log_width - 0.5 * width, torch.log(-torch.expm1(-torch.where(narrow, 1.0, width))))
    return _with_open_ends(x, log_share + below + above, below, above, grid)


def _standardized(x: Tensor, mean: Tensor, log_scale: Tensor, grid: PixelGrid) -> tuple[Tensor, Tensor, Tensor]:
    x, mean = wide(x), wide(mean)
    log_scale = wide(log_scale) - math.log(grid.step)
    log_scale = log_scale.clamp(min=_SMALLEST_LOG)
    precision = torch.exp(-log_scale)
    steps = ((x - mean) / grid.step).clamp(-1e20, 1e20)  # e⁴⁰ times that is finite
    distance = (steps * precision).clamp(-_FARTHEST, _FARTHEST)
    return distance, precision.expand_as(distance), -log_scale.expand_as(distance)


def _with_open_ends(x: Tensor, inner: Tensor, lowest: Tensor, highest: Tensor, grid: PixelGrid) -> Tensor:
    level = grid.index(x).expand_as(inner)
    return torch.where(level == 0, lowest, torch.where(level == grid.levels - 1, highest, inner))


def _log_below(z: Tensor) -> Tensor:
    """log Φ(z); the derivative of `torch.special.log_ndtr` is wrong in float32 from z = −1e5 on, and then 0."""
    is_tail = z < -1
    tail, rest = torch.where(is_tail, z, -1.0), torch.where(is_tail, 0.0, z)
    in_tail = torch.log(0.5 * torch.special.erfcx(-tail * _ROOT_HALF)) - 0.5 * tail * tail
    return torch.where(is_tail, in_tail, torch.log1p(-0.5 * torch.erfc(rest * _ROOT_HALF)))


def _normal_bin(m: Tensor, width: Tensor, log_width: Tensor) -> Tensor:
    # each branch is given arguments that it can take: what is not chosen would else put NaN into the gradient
    is_narrow = width < _NARROW
    narrow = _narrow_bin(m, torch.where(is_narrow, width, _NARROW), torch.where(is_narrow, log_width, 0.0))
    width = torch.where(is_narrow, 1.0, width)
    lower, upper = m - 0.5 * width, m + 0.5 * width
    is_outside = lower > 0
    tail = _tail_bin(torch.where(is_outside, lower, 1.0), torch.where(is_outside, upper, 2.0), m * width)
    ends = torch.erf(upper * _ROOT_HALF) - torch.erf(torch.where(is_outside, 0.0, lower) * _ROOT_HALF)
    return torch.where(is_narrow, narrow, torch.where(is_outside, tail, torch.log(0.5 * ends)))


def _tail_bin(lower: Tensor, upper: Tensor, fall: Tensor) -> Tensor:
    factor = torch.special.erfcx(lower * _ROOT_HALF) - torch.special.erfcx(upper * _ROOT_HALF) * torch.exp(-fall)
    return -0.5 * lower * lower + torch.log(0.5 * factor)


def _narrow_bin(m: Tensor, width: Tensor, log_width: Tensor) -> Tensor:
    u = 0.5 * m * width
    is_flat = u < 0.5
    flat, steep = torch.where(is_flat, u, 0.25), torch.where(is_flat, 1.0, u)
    square = flat * flat
    log_sinhc = torch.where(
        is_flat,
        square * (1 / 6 - square * (1 / 180 - square / 2835)),
        steep - torch.log(2 * steep) + torch.log1p(-torch.exp(-2 * steep)),
    )
    langevin = torch.where(  # L(u) / u
        is_flat,
        1 / 3 - square * (1 / 45 - square * 2 / 945),
        (1 / torch.tanh(steep) - 1 / steep) / steep,
    )
    curved = torch.log1p(-0.125 * width * width * (1 - 2 * langevin))
    return -0.5 * m * m - HALF_LOG_2PI + log_width + log_sinhc + curved
