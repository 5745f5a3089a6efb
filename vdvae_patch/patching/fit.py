"""Scales that leave a trained model's σ as it is, as far as they can.

The paper's formulas are of a p that is a log σ. `explin` of a value that a host reads as a log variance would be exp(v)
where the host computes exp(v / 2): σ squared. So a scale is applied to the host's own log σ. Where that is a straight
line, gain · v + shift (log variance, exp(v − 6), a precision; or a clamped one, inside the clamp), the scale is the
host's own function wherever that was safe. For a convention that is no exponential, gain and shift are chosen so that σ
and its relative slope are kept at the median of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head
from vdvae_patch.scales import Constant, ExpLin, Scale, Shifted, UpBounded

_STEP = 0.5  # half the width of the window in which a log σ must be straight
_STRAIGHT = 1e-6  # relative; a floor of 1e-4 under a σ of 1 bends it by 2e-5
_SAME = 1e-3  # a σ that moves by less is kept
_NEAR = 1e-4  # for a slope, in float64
_FAR = 3.0  # times the usual gain: near the end of its range a scale is flat, and would need any gain
_DIGITS = 6


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Of a tensor's elements; NaN in all three if one is NaN."""
        wide = values.detach().double().flatten()
        if wide.isnan().any():
            return cls(math.nan, math.nan, math.nan)
        return cls(float(wide.median()), float(wide.min()), float(wide.max()))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


Keep = Literal["nothing", "exponentials", "all"]
"""Of which hosts σ is kept: of none, of those whose σ is an exponential of the raw value, of all."""


def fitted(head: Head, scale: Scale | None, raw: Tensor | None, keep: Keep) -> Scale | None:
    """The scale that a head gets: the one that was asked for, of the host's own log σ where that is kept.

    Args:
        raw: raw values of a batch; without them a convention that is no exponential takes the paper's formula.
        keep: else the formula is taken as the paper writes it, of the raw value itself; so is a scale that names its
            own gain or shift, and that of a host whose entry says so.
    """
    if scale is None or keep == "nothing" or head.paper or isinstance(scale, Constant | Shifted):
        return scale
    at = 0.0 if raw is None or not raw.numel() else float(raw.double().median())
    if not math.isfinite(at):
        at = 0.0
    if _is_hosts_own(head.convention, scale, at):
        return scale
    found = line(head.convention, at, straight=raw is None or keep == "exponentials")
    if found is None:
        return scale
    (gain, shift), (slope, offset) = scale.of_log_sigma(), found
    on_line = scale.shifted(_rounded(gain * slope), _rounded(gain * offset + shift))
    straight = line(head.convention, at, straight=True) is not None
    # of an exponential these two are the host's own function as far as it goes, whatever the batch is
    own = straight and isinstance(scale, ExpLin | UpBounded)
    if raw is None or own or _keeps(head.convention, on_line, at):
        return on_line
    # `bounded` leaves the exponential long before its lower end
    return _tangent(head.convention, scale, slope, at, gain * slope) or on_line


def _is_hosts_own(convention: Convention, scale: Scale, at: float) -> bool:
    """Whether the host computes this scale already: a softplus, a soft clamp."""
    v = torch.linspace(at - 4 * _STEP, at + 4 * _STEP, 9, dtype=torch.float64)
    return torch.allclose(scale.sigma(v), convention.sigma(v), rtol=1e-9, atol=0)


def line(convention: Convention, at: float, *, straight: bool) -> tuple[float, float] | None:
    """(a, b) of the straight line a v + b that the host's log σ is around a value, or that touches it there.

    None if it has no slope there; with `straight` also if it is bent.
    """
    v = torch.linspace(at - _STEP, at + _STEP, 9, dtype=torch.float64)
    log_sigma = convention.log_sigma(v)
    near = convention.log_sigma(torch.tensor([at - _NEAR, at + _NEAR], dtype=torch.float64))
    if not bool(log_sigma.isfinite().all() & near.isfinite().all()):
        return None
    slope = float(log_sigma[-1] - log_sigma[0]) / (2 * _STEP)
    on_it = torch.allclose(log_sigma, slope * (v - at) + log_sigma[4], rtol=_STRAIGHT, atol=_STRAIGHT)
    if not on_it:
        slope = float(near[1] - near[0]) / (2 * _NEAR)
    if abs(slope) < 1e-3 or (straight and not on_it):
        return None
    return _rounded(slope), _rounded(float(log_sigma[4]) - slope * at)


def _keeps(convention: Convention, scale: Scale, at: float) -> bool:
    v = torch.tensor(at, dtype=torch.float64)
    return bool(torch.isclose(scale.sigma(v), convention.sigma(v), rtol=_SAME, atol=0))


def _tangent(convention: Convention, scale: Scale, slope: float, at: float, usual: float) -> Scale | None:
    """The scale with the gain and shift that keep σ, and d log σ / dv, at a value.

    None where σ lies outside the scale's range, or so near its end that the gain would be far from the usual one.
    """
    argument = scale.inverse(convention.sigma(torch.tensor(at, dtype=torch.float64)))
    own = float(scale._log_sigma_slope(argument))
    if not bool(argument.isfinite()) or not own or not 1 / _FAR < slope / own / usual < _FAR:
        return None
    gain = _rounded(slope / own)
    return scale.shifted(gain, _rounded(float(argument) - gain * at))


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < _STRAIGHT else float(f"{value:.{_DIGITS}g}")
