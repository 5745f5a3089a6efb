"""What code bases do of their own accord: Efficient-VDVAE's softplus, NVAE's soft clamp, the clamp of diffusers."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from vdvae_patch.number_ranges import BETA, FLOOR, LIMIT, LOG_VARIANCE
from vdvae_patch.scales.arithmetic import (
    OVERFLOW_NEAR,
    exp_or_inf,
    in_range,
    rest_of_product,
    scaled_exp,
    sigmoid,
    wide,
)
from vdvae_patch.scales.scale import SCALES, Scale, Written, below, interval, positive_number

# Below TAIL, log softplus(x) = x − exp(x)/2 to float64 rounding, and softplus itself is about to underflow; above HEAD,
# softplus(x) = x to float64 rounding, and exp(x) is about to overflow; below −HEAD it is exp(x). Integers, which
# torch.compile takes for constants, whatever is dynamic.
_TAIL, _HEAD = -18, 40
_KNEE = -36
"""Below it softplus(x) is exp(x) to float64 rounding."""
_LOWEST = 800


@SCALES.register("softplus")
class Softplus(Scale):
    """σ = softplus(β p) / β. Efficient-VDVAE takes β = log 2, for which σ(0) = 1."""

    codomain = constraints.positive
    has_sigma_first = True

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = positive_number(self.name, "beta", beta, BETA)
        self._is_exact = math.frexp(self.beta)[0] == 0.5  # β p is, for a power of two
        self._seam = math.log(math.log1p(math.exp(_TAIL)) / self.beta)  # log σ where the two branches meet

    def _rest(self, p: Tensor) -> Tensor | None:
        if self._is_exact:
            return None
        below = p.clamp(-_LOWEST / self.beta, 0)  # beyond, exp(β p) is 0 or needs it not
        return rest_of_product(self.beta, below, self.beta * below)

    def _sigma(self, p: Tensor) -> Tensor:
        return self._value(p, self._rest(p))

    def _value(self, p: Tensor, rest: Tensor | None) -> Tensor:
        x = self.beta * p
        tail = scaled_exp(x.clamp(max=-_HEAD), 1 / self.beta)
        share = x.clamp(max=_HEAD).exp()
        if rest is not None:
            tail, share = tail * (1 + rest), share * (1 + rest)
        body = torch.log1p(share) / self.beta
        # σ > p always, so the maximum is exact, and monotone across the upper joint
        return torch.where(x < -_HEAD, tail, torch.maximum(p, body))

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return sigmoid(self.beta * p, self._rest(p))

    def _log_sigma(self, p: Tensor) -> Tensor:
        x = self.beta * p
        tail = x - math.log(self.beta) - 0.5 * x.clamp(max=_TAIL).exp()
        # of a logarithm the rounding of β p is no more than its own; the same goes for a ratio of two such numbers
        body = torch.log(self._value(p.clamp(min=_TAIL / self.beta), None))
        return torch.where(x < _TAIL, tail.clamp(max=self._seam), body.clamp(min=self._seam))

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        x = self.beta * p
        tail = self.beta * (1 - 0.5 * x.clamp(max=_TAIL).exp())
        body = torch.sigmoid(x) / self._value(p.clamp(min=_TAIL / self.beta), None)
        return torch.where(x < _TAIL, tail, body)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        p = wide(p)
        # below the knee both σ and the sigmoid are exp(β p), to float64 rounding: log σ is a straight line there
        body = p.clamp(min=_KNEE / self.beta)
        sigma = F.softplus(body, self.beta, _HEAD)
        log_sigma = sigma.log().add_(p - body, alpha=self.beta)
        return log_sigma, (self.beta * body).sigmoid_().div_(sigma)

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        sigma = F.softplus(p, self.beta, _HEAD)
        return sigma, (self.beta * p).sigmoid_().div_(sigma)

    def inverse(self, sigma: Tensor) -> Tensor:
        exact = in_range(sigma, self.codomain)
        return (exact + torch.log(-torch.expm1(-self.beta * exact)) / self.beta).to(sigma.dtype)

    def of_log_sigma(self) -> tuple[float, float]:
        # softplus(βx) / β is exp(βx) / β for a small σ
        return 1 / self.beta, math.log(self.beta) / self.beta

    def written(self) -> Written | None:
        beta, sigma = self.beta, "torch.nn.functional.softplus({0}, beta={1!r})"
        tail = f"{beta!r} * p - {math.log(beta)!r} - 0.5 * torch.exp(({beta!r} * p).clamp(max={_TAIL}))"
        body = f"torch.log({sigma.format(f'p.clamp(min={_TAIL / beta!r})', beta)})"
        return Written(f"torch.where({beta!r} * p < {_TAIL}, {tail}, {body})", sigma.format("p", beta))


_LONG = 8.0
"""Soft clamps of more than this are computed in float64."""

_LAST_EXPONENT = 300.0
"""exp of twice that is a number of float64, and exp of minus twice that."""


def _ends(limit: float, floor: float) -> tuple[tuple[float, float], ...]:
    """exp(L) + floor and exp(−L) + floor, each as a number of float64 and what that leaves of it."""
    with localcontext() as context:
        context.prec = 60
        found = []
        for exponent in (Decimal(limit), -Decimal(limit)):
            end = exponent.exp() + Decimal(floor)
            found.append((float(end), float(end - Decimal(float(end)))))
        return tuple(found)


@SCALES.register("softclamp")
class SoftClamp(Scale):
    """σ = exp(L tanh(p / L)) + floor, L the limit. NVAE takes L = 5 and floor = 0.01."""

    _reaches_ends = True

    def __init__(self, limit: float = 5.0, floor: float = 0.01) -> None:
        super().__init__()
        self.limit = positive_number(self.name, "limit", limit, LIMIT)
        self.floor = positive_number(self.name, "floor", floor, FLOOR)
        self.codomain = interval(math.exp(-self.limit) + self.floor, exp_or_inf(self.limit) + self.floor)
        self._ends = _ends(self.limit, self.floor) if self.limit <= _LAST_EXPONENT else ()

    def _widened(self, p: Tensor) -> Tensor:
        # the rounding of L tanh(p / L) is passed on by the exponential, L eps of σ
        is_long = self.limit > _LONG and p.device.type != "mps"
        return p.double() if is_long else wide(p)

    def _squash(self, p: Tensor) -> Tensor:
        return self.limit * torch.tanh(p / self.limit)

    def _squash_slope(self, p: Tensor) -> Tensor:
        # sech² as 4 e / (1 + e)², e = exp(−2|x|): no cosh to overflow, no 1 − tanh² to cancel
        tail = torch.exp(-2 * (p / self.limit).abs())
        return 4 * tail / (1 + tail) ** 2

    def _sigma(self, p: Tensor) -> Tensor:
        return self._squash(p).exp() + self.floor

    def _sigma_slope(self, p: Tensor) -> Tensor:
        # one exponential of the sum: for a large limit its two factors are ∞ and 0
        x = (p / self.limit).abs()
        return torch.exp(self._squash(p) - 2 * x) * (2 / (1 + torch.exp(-2 * x))) ** 2

    def _log_sigma(self, p: Tensor) -> Tensor:
        # σ is at least the floor; above it the maximum is exact, and takes over before σ overflows
        squashed = self._squash(p)
        return torch.maximum(squashed, (squashed.clamp(max=OVERFLOW_NEAR).exp() + self.floor).log())

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return sigmoid(self._squash(p) - math.log(self.floor)) * self._squash_slope(p)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if self.limit > _LONG:
            return super().log_sigma_and_slope(p)
        sigma, slope = self.sigma_and_slope(wide(p))
        return sigma.log_(), slope

    @property
    def has_sigma_first(self) -> bool:  # type: ignore[override]
        """Where it is computed in the type of p."""
        return self.limit <= _LONG

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        x = p / self.limit
        cosh = x.cosh()
        squashed = x.tanh_().mul_(self.limit)
        above = squashed.exp()
        sigma = above + self.floor
        # one factor 1 / cosh after the other: their product underflows, and cosh² overflows, before the slope does
        return sigma, above.div_(sigma).div_(cosh).div_(cosh)

    def inverse(self, sigma: Tensor) -> Tensor:
        exact, limit = self._exact(sigma), self.limit
        is_inside = self.codomain.check(exact)  # type: ignore[no-untyped-call]
        s = torch.log(exact - self.floor)
        if limit > _LAST_EXPONENT:
            return torch.where(is_inside, limit * torch.atanh((s / limit).clamp(-1, 1)), math.nan).to(sigma.dtype)
        # atanh(s / L) is made of L − s and L + s, which a logarithm that was rounded loses next to the bounds
        (high, high_rest), (low, low_rest) = self._ends
        near = -torch.log1p(((exact - high) - high_rest) / math.exp(limit))
        # at a bound what float64 leaves of it may be of either sign
        below_high = torch.where(s > limit - 1, near, limit - s).clamp(min=0)
        above_low = torch.log1p(((exact - low) - low_rest) / math.exp(-limit)).clamp(min=0)
        up = 0.5 * limit * torch.log1p(2 * s / below_high)
        down = -0.5 * limit * torch.log1p(-2 * s / above_low)
        return torch.where(is_inside, torch.where(s > 0, up, down), math.nan).to(sigma.dtype)

    def written(self) -> Written | None:
        # tanh as a difference of two sigmoids, whose gradient does not come from 1 − tanh²
        share = "torch.exp(torch.nn.functional.logsigmoid({0}{1!r} * p))"
        up, down = share.format("", 2 / self.limit), share.format("-", 2 / self.limit)
        squashed = f"{self.limit!r} * ({up} - {down})"
        return Written(
            f"torch.logaddexp({squashed}, torch.full_like(p, {math.log(self.floor)!r}))",
            f"torch.exp({squashed}) + {self.floor!r}",
        )


@SCALES.register("clamp")
class Clamp(Scale):
    """σ = exp(½ clip(p, low, high)), p a log variance. diffusers takes −30 and 20. No gradient outside the bounds."""

    bijective = False
    _reaches_ends = True

    def __init__(self, low: float = -30.0, high: float = 20.0) -> None:
        super().__init__()
        who = f"scale {self.name}"
        self.low, self.high = LOG_VARIANCE.check(who, "low", low), LOG_VARIANCE.check(who, "high", high)
        below(self.name, "low", self.low, "high", self.high)
        self.codomain = interval(exp_or_inf(self.low / 2), exp_or_inf(self.high / 2))

    def _inside(self, p: Tensor) -> Tensor:
        return (p >= self.low) & (p <= self.high)

    def _sigma(self, p: Tensor) -> Tensor:
        return self._log_sigma(p).exp()

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return torch.where(self._inside(p), scaled_exp(self._log_sigma(p), 0.5), 0.0)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return 0.5 * p.clamp(self.low, self.high)

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return 0.5 * self._inside(p).to(p.dtype)

    def of_log_sigma(self) -> tuple[float, float]:
        return 2.0, 0.0  # its p is a log variance

    def written(self) -> Written | None:
        log_sigma = f"0.5 * p.clamp({self.low!r}, {self.high!r})"
        return Written(log_sigma, f"torch.exp({log_sigma})")

    def inverse(self, sigma: Tensor) -> Tensor:
        exact = self._exact(sigma)
        inside = self.codomain.check(exact)  # type: ignore[no-untyped-call]
        # the logarithm of a bound may be rounded to more than the bound
        return torch.where(inside, (2 * exact.log()).clamp(self.low, self.high), math.nan).to(sigma.dtype)
