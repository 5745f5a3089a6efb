"""Scales that leave a trained model's σ as it is, as far as they can.

The paper's formulas are of a p that is a log σ. `explin` of a value that a host reads as a log variance would be exp(v)
where the host computes exp(v / 2): σ squared. So a scale is applied to the host's own log σ. Where that is a straight
line, gain · v + shift (log variance, exp(v − 6), a precision; or a clamped one, inside the clamp), the scale is the
host's own function wherever that was safe. For a convention that is no exponential, gain and shift are chosen so that σ
and its relative slope are kept at the median of a batch; or, where that misses the others by far (a ReLU near zero, a
kink beside the median), so that σ is kept there and log σ is nearest to the host's in the mean of the squares. Of a σ
that falls and rises again (|v|, v²) the median alone is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head
from vdvae_patch.patching.floors import zero_between
from vdvae_patch.scales import Constant, ExpLin, Scale, Shifted, UpBounded

_STEP = 0.5  # half the width of the window in which a log σ must be straight
_STRAIGHT = 1e-6  # relative; a floor of 1e-4 under a σ of 1 bends it by 2e-5
_SAME = 1e-3  # a σ that moves by less is kept
_NEAR = 1e-4  # for a slope, in float64
_FAR = 3.0  # times the usual gain: near the end of its range a scale is flat, and would need any gain
_MISSED = 0.1  # in log σ, the root of the mean square over a batch
_DIGITS = 6


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, of an even count the mean of the middle two, and their extremes; how many NaN there
    are beside them; and of how many heads they are, which one line of the host computes."""

    median: float
    low: float
    high: float
    nans: int = 0
    heads: int = 1

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Of a tensor's elements; NaN in all three if all are NaN."""
        all_of_them = values.detach().double().flatten()
        wide = all_of_them[~all_of_them.isnan()]
        nans = len(all_of_them) - len(wide)
        if not len(wide):
            return cls(math.nan, math.nan, math.nan, nans)
        # torch's median of an even count is the lower of the middle two
        lower, upper = float(wide.median()), -float((-wide).median())
        middle = lower if lower == upper else lower + (upper - lower) / 2
        return cls(middle, float(wide.min()), float(wide.max()), nans)

    def __str__(self) -> str:
        beside = f", {self.nans} NaN" if self.nans else ""
        of = f", of {self.heads} heads together" if self.heads > 1 else ""
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g}){beside}{of}"


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
    at = _middle(head.convention, raw)
    if _is_hosts_own(head.convention, scale, at):
        return scale
    if raw is not None and keep == "all" and (level := _of_both_sides(head.convention, raw)) is not None:
        return _at_the_median(scale, raw.double().flatten(), level)
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
    tangent = _tangent(head.convention, scale, slope, at, gain * slope) or on_line
    return _nearest(head.convention, scale, tangent, raw.double().flatten(), at)


def _middle(convention: Convention, raw: Tensor | None) -> float:
    """The median of the raw values; where σ is not positive there, of those at which it is."""
    if raw is None or not raw.numel():
        return 0.0
    values = raw.double().flatten()
    at = float(values.median())
    if math.isfinite(at) and not float(convention.sigma(values.median())) > 0:
        sigma = convention.sigma(values)
        positive = values[(sigma > 0) & sigma.isfinite()]
        at = float(positive.median()) if positive.numel() else at
    return at if math.isfinite(at) else 0.0


def _of_both_sides(convention: Convention, raw: Tensor) -> float | None:
    """The median of σ, of a batch whose raw values lie on both sides of one where σ is zero, as of |v| or v²."""
    zero = zero_between(convention)
    values = raw.double().flatten()
    sigma = convention.sigma(values)
    positive = (sigma > 0) & sigma.isfinite()
    if zero is None or not bool((positive & (values < zero)).any() & (positive & (values > zero)).any()):
        return None
    return float(sigma[positive].median())


def _at_the_median(scale: Scale, raw: Tensor, level: float) -> Scale:
    """The scale with its usual gain, whose σ at the median of the raw values is the level.

    No scale falls and rises again, so that of such a σ the median is all that can be kept.
    """
    argument = float(scale.inverse(torch.tensor(level, dtype=torch.float64)))
    gain, _ = scale.of_log_sigma()
    shift = argument - gain * float(raw.median())
    return scale.shifted(gain, _rounded(shift)) if math.isfinite(shift) else scale


def _nearest(convention: Convention, scale: Scale, tangent: Scale, raw: Tensor, at: float) -> Scale:
    """The tangent, unless it misses the host's σ on a batch by far and the line of least squares does not.

    That line goes through the host's log σ at `at`, so that σ is kept there:
    slope = Σ (v − at)(log σ(v) − log σ(at)) / Σ (v − at)², over the values of the batch at which σ is positive.
    """
    own = convention.log_sigma(raw)
    values, own = raw[own.isfinite()], own[own.isfinite()]
    apart = values - at
    steep = float((apart * (own - convention.log_sigma(torch.tensor(at, dtype=torch.float64)))).sum())
    square = float(apart.square().sum())
    missed = _error(tangent, values, own)
    if missed < _MISSED or not square or not math.isfinite(steep) or abs(steep / square) < 1e-3:
        return tangent
    slope = _rounded(steep / square)
    through = _tangent(convention, scale, slope, at, scale.of_log_sigma()[0] * slope)
    return through if through is not None and _error(through, values, own) < 0.5 * missed else tangent


def _error(scale: Scale, raw: Tensor, log_sigma: Tensor) -> float:
    """By how much the scale's log σ differs from another one, the root of the mean square."""
    return float((scale.log_sigma(raw) - log_sigma).square().mean().sqrt())


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
    if not bool(near.isfinite().all()):
        return None
    slope = float(log_sigma[-1] - log_sigma[0]) / (2 * _STEP)
    on_it = bool(log_sigma.isfinite().all()) and torch.allclose(
        log_sigma, slope * (v - at) + log_sigma[4], rtol=_STRAIGHT, atol=_STRAIGHT
    )
    if not on_it:
        slope = float(near[1] - near[0]) / (2 * _NEAR)
    if not math.isfinite(slope) or abs(slope) < 1e-3 or (straight and not on_it):
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
