"""Every scale in as many digits as it takes: σ and log σ with two derivatives each, and the inverse, by mpmath.

Written from the formulas and not from the implementation, with which it shares nothing. Numbers go in and come out
as `mpf`, whose exponents do not run out, so that a true value can be rounded to any type afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
from mpmath import mp, mpf

from vdvae_patch.scales import Scale

Number = Any
"""An `mpf`; mpmath has no types."""

_DIGITS, _MOST_DIGITS = 60, 1200


@dataclass(frozen=True)
class Truth:
    """At one raw parameter: σ, log σ, and their first and second derivatives by p."""

    sigma: Number
    log_sigma: Number
    sigma_slope: Number
    log_sigma_slope: Number
    sigma_curve: Number
    log_sigma_curve: Number


def truth(scale: Scale, p: float) -> Truth:
    """The numbers of a scale of this package at p."""
    arguments = {name: mpf(value) for name, value in scale.arguments().items()}
    gain, shift = arguments.pop("gain", mpf(1)), arguments.pop("shift", mpf(0))
    steepness = max(1, float(abs(gain)), float(arguments.get("beta", 1)))
    # what cancels in a derivative is at most a few exp(−|x|) against 1
    with mp.workdps(_DIGITS + int(min(3 * steepness * abs(p) + abs(float(shift)), _MOST_DIGITS))):
        x = gain * mpf(p) + shift
        sigma, slope, curve = _SIGMAS[scale.name](x, **arguments)
        relative = slope / sigma
        log_curve = curve / sigma - relative**2
        return Truth(sigma, mpmath.log(sigma), gain * slope, gain * relative, gain**2 * curve, gain**2 * log_curve)


def inverse(scale: Scale, sigma: float) -> Number | None:
    """The p whose σ is this number; None where there is none."""
    arguments = {name: mpf(value) for name, value in scale.arguments().items()}
    gain, shift = arguments.pop("gain", mpf(1)), arguments.pop("shift", mpf(0))
    with mp.workdps(_DIGITS + 400):
        x = _INVERSES[scale.name](mpf(sigma), **arguments)
        return None if x is None else (x - shift) / gain


def _exp(p: Number) -> tuple[Number, Number, Number]:
    e = mpmath.exp(p)
    return e, e, e


def _explin(p: Number) -> tuple[Number, Number, Number]:
    return _exp(p) if p <= 0 else (1 + p, mpf(1), mpf(0))


def _upbounded(p: Number, omega: Number) -> tuple[Number, Number, Number]:
    half, e = omega / 2, mpmath.exp(-abs(p))
    return (half * e, half * e, half * e) if p <= 0 else (half * (2 - e), half * e, -half * e)


def _downbounded(p: Number, alpha: Number) -> tuple[Number, Number, Number]:
    e = mpmath.exp(p)
    return alpha + e, e, e


def _bounded(p: Number, alpha: Number, omega: Number) -> tuple[Number, Number, Number]:
    s, t = 1 / (1 + mpmath.exp(-p)), 1 / (1 + mpmath.exp(p))
    width = omega - alpha
    return alpha + width * s, width * s * t, width * s * t * (t - s)


def _softplus(p: Number, beta: Number) -> tuple[Number, Number, Number]:
    s, t = 1 / (1 + mpmath.exp(-beta * p)), 1 / (1 + mpmath.exp(beta * p))
    return mpmath.log1p(mpmath.exp(beta * p)) / beta, s, beta * s * t


def _softclamp(p: Number, limit: Number, floor: Number) -> tuple[Number, Number, Number]:
    t, e = mpmath.tanh(p / limit), mpmath.exp(-2 * abs(p / limit))
    slope = 4 * e / (1 + e) ** 2  # sech²
    value = mpmath.exp(limit * t)
    return value + floor, value * slope, value * (slope**2 - 2 * t * slope / limit)


def _clamp(p: Number, low: Number, high: Number) -> tuple[Number, Number, Number]:
    inside = low <= p <= high
    value = mpmath.exp(min(max(p, low), high) / 2)
    return (value, value / 2, value / 4) if inside else (value, mpf(0), mpf(0))


def _constant(p: Number, value: Number) -> tuple[Number, Number, Number]:
    return value, mpf(0), mpf(0)


_SIGMAS: dict[str, Callable[..., tuple[Number, Number, Number]]] = {
    "exp": _exp,
    "explin": _explin,
    "upbounded": _upbounded,
    "downbounded": _downbounded,
    "bounded": _bounded,
    "softplus": _softplus,
    "softclamp": _softclamp,
    "clamp": _clamp,
    "constant": _constant,
}

_INVERSES: dict[str, Callable[..., Number | None]] = {
    "exp": lambda s: mpmath.log(s) if s > 0 else None,
    "explin": lambda s: (mpmath.log(s) if s <= 1 else s - 1) if s > 0 else None,
    "upbounded": lambda s, omega: _upbounded_back(s, omega),
    "downbounded": lambda s, alpha: mpmath.log(s - alpha) if s > alpha else None,
    "bounded": lambda s, alpha, omega: mpmath.log((s - alpha) / (omega - s)) if alpha < s < omega else None,
    "softplus": lambda s, beta: mpmath.log(mpmath.expm1(beta * s)) / beta if s > 0 else None,
    "softclamp": lambda s, limit, floor: _softclamp_back(s, limit, floor),
    "clamp": lambda s, low, high: _clamp_back(s, low, high),
    "constant": lambda s, value: None,
}


def _upbounded_back(sigma: Number, omega: Number) -> Number | None:
    if not 0 < sigma < omega:
        return None
    half = sigma / (omega / 2)
    return mpmath.log(half) if half <= 1 else -mpmath.log(2 - half)


def _softclamp_back(sigma: Number, limit: Number, floor: Number) -> Number | None:
    if sigma <= floor:
        return None
    share = mpmath.log(sigma - floor) / limit
    return limit * mpmath.atanh(share) if abs(share) < 1 else None


def _clamp_back(sigma: Number, low: Number, high: Number) -> Number | None:
    p = 2 * mpmath.log(sigma) if sigma > 0 else None
    return p if p is not None and low <= p <= high else None
