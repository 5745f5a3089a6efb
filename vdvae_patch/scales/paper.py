"""The paper's scales: "Re-parameterizing VAEs for stability" (Dehaene and Brossard), sections 3 and 4."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import ANY_SIGMA, FLOOR
from vdvae_patch.scales.arithmetic import ONE, OVERFLOW_NEAR, TWO, ZERO, in_range, number, scaled_exp, sigmoid, wide
from vdvae_patch.scales.scale import SCALES, Scale, Written, apart, below, interval, positive_number


@SCALES.register("exp")
class Exp(Scale):
    """σ = exp(p), log σ = p (eq. 9)."""

    codomain = constraints.positive

    def _sigma(self, p: Tensor) -> Tensor:
        return p.exp()

    _sigma_slope = _sigma

    def _log_sigma(self, p: Tensor) -> Tensor:
        return p.clone()

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return torch.ones_like(p)

    def inverse(self, sigma: Tensor) -> Tensor:
        return in_range(sigma, self.codomain).log().to(sigma.dtype)

    def written(self) -> Written | None:
        return Written("p", "torch.exp(p)")


@SCALES.register("naiveexp")
class NaiveExp(Exp):
    """σ = exp(p), log σ = log(exp(p)) evaluated as written (eq. 7): −∞ below p = −103 in float32 (table 1)."""

    as_written = True

    def sigma(self, p: Tensor) -> Tensor:
        return p.exp()

    def log_sigma(self, p: Tensor) -> Tensor:
        return p.exp().log()

    def log_variance(self, p: Tensor) -> Tensor:
        return 2 * self.log_sigma(p)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        # in p's own dtype, by the chain rule as it is applied to what is written: (1 / exp(p)) exp(p)
        sigma = p.exp()
        return wide(sigma.log()), wide(sigma.reciprocal() * sigma)

    def written(self) -> Written | None:
        return Written("torch.log(torch.exp(p))", "torch.exp(p)")


@SCALES.register("explin")
class ExpLin(Scale):
    """σ = exp(p) for p ≤ 0 and p + 1 above; log σ = p⁻ + log1p(p⁺) (eq. 11)."""

    codomain = constraints.positive
    has_sigma_first = True

    def _sigma(self, p: Tensor) -> Tensor:
        return p.clamp(max=0).exp() + p.clamp(min=0)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return p.clamp(max=0).exp()

    def _log_sigma(self, p: Tensor) -> Tensor:
        # above 0 log1p(p) is below p, and at 0 and below it is made 0
        return torch.minimum(p, p.clamp(min=0).log1p_())

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return p.clamp(min=0).add_(1).reciprocal_()

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        p = wide(p)
        above = p.clamp(min=0)
        return torch.minimum(p, above.log1p()), above.add_(1).reciprocal_()

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        one = ONE[p.dtype]
        # above 0 it is below exp(p), and at 0 and below it is 1
        linear = torch.maximum(p, ZERO[p.dtype]).add_(one)
        return torch.minimum(p.exp(), linear), one / linear

    def inverse(self, sigma: Tensor) -> Tensor:
        wide = in_range(sigma, self.codomain)
        return torch.where(wide <= 1, wide.log(), wide - 1).to(sigma.dtype)

    def written(self) -> Written | None:
        return Written(
            "torch.where(p <= 0, p, torch.log1p(p.clamp(min=0)))",
            "torch.where(p <= 0, torch.exp(p.clamp(max=0)), 1 + p)",
        )


@SCALES.register("upbounded")
class UpBounded(Scale):
    """σ in (0, ω): ω/2 · exp(p) for p ≤ 0, ω/2 · (2 − exp(−p)) above (eq. 12).

    ω = 1, the prior's own standard deviation, is the paper's choice for a posterior; 256 for 8-bit pixels.
    """

    has_sigma_first = True

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = positive_number(self.name, "omega", omega)
        self.codomain = interval(0.0, self.omega)

    def _sigma(self, p: Tensor) -> Tensor:
        return scaled_exp(p.clamp(max=0), self.omega / 2) - self.omega / 2 * torch.expm1(-p.clamp(min=0))

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return scaled_exp(-p.abs(), self.omega / 2)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return self._log_share(p).add_(math.log(self.omega / 2))

    def _log_variance(self, p: Tensor) -> Tensor:
        return torch.rsub(self._log_share(p), 2 * math.log(self.omega / 2), alpha=-2)

    @staticmethod
    def _log_share(p: Tensor) -> Tensor:
        """log (σ / (ω/2)); above 0 log (2 − exp(−p)) is below p, and at 0 and below it is made 0."""
        return torch.minimum(p, torch.rsub(_tail(p), 1).log1p_())

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        tail = _tail(p)
        return tail / (2 - tail)

    def _log_variance_slope(self, p: Tensor) -> Tensor:
        tail = _tail(p)
        return tail / torch.rsub(tail, 1, alpha=0.5)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        p = wide(p)
        tail = _tail(p)
        # of 1 − tail fewer digits are rounded away than of 2 − tail; on a CPU `log1p` takes less time than `log`, too
        rest = torch.rsub(tail, 1)
        share = torch.minimum(p, rest.log1p())
        return share.add_(math.log(self.omega / 2)), tail.div_(rest.add_(1))

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        dtype = p.dtype
        one, share = ONE[dtype], p.exp()
        tail = torch.minimum(one / share, one)
        # above 0 it is below exp(p), and at 0 and below it is 1
        bound = TWO[dtype] - tail
        return torch.minimum(share, bound).mul_(number(self.omega / 2, dtype)), tail.div_(bound)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return math.log(self.omega / 2) - x.abs()

    def inverse(self, sigma: Tensor) -> Tensor:
        wide, half = in_range(sigma, self.codomain), self.omega / 2
        # the distance to ω is exact, and 2 − σ / (ω/2) is not
        p = torch.where(wide <= half, (wide / half).log(), -torch.log((self.omega - wide) / half))
        return p.to(sigma.dtype)

    def of_log_sigma(self) -> tuple[float, float]:
        return 1.0, math.log(2 / self.omega)  # for p <= 0 it is ω/2 exp(p)

    def written(self) -> Written | None:
        half = self.omega / 2
        added = f"{'-' if half < 1 else '+'} {abs(math.log(half))!r}"
        tail = "torch.exp(-p.clamp(min=0))"
        return Written(
            f"torch.where(p <= 0, p, torch.log(2 - {tail})) {added}",
            f"{half!r} * torch.where(p <= 0, torch.exp(p.clamp(max=0)), 2 - {tail})",
        )


def _tail(p: Tensor) -> Tensor:
    """exp(−p⁺)."""
    return p.clamp(min=0).neg_().exp_()


@SCALES.register("downbounded")
class DownBounded(Scale):
    """σ = α + exp(p) (eq. 14). α = 1/√12 for pixels in 0..255: the deviation of the noise that rounding hides."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = positive_number(self.name, "alpha", alpha, FLOOR)
        self.codomain = interval(self.alpha, math.inf)
        self._shift = min(0.0, math.log(self.alpha) + 60)  # 0, unless α itself would underflow

    def _sigma(self, p: Tensor) -> Tensor:
        return self.alpha + p.exp()

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return p.exp()

    def _log_sigma(self, p: Tensor) -> Tensor:
        # log σ > p always, so the maximum is exact; it takes over before exp(p) overflows
        if not self._shift:
            return torch.maximum(p, (self.alpha + p.clamp(max=OVERFLOW_NEAR).exp()).log())
        above = math.exp(math.log(self.alpha) - self._shift) + (p - self._shift).clamp(max=OVERFLOW_NEAR).exp()
        return torch.maximum(p, above.log() + self._shift)

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return sigmoid(p - math.log(self.alpha))

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if self._shift:
            return super().log_sigma_and_slope(p)
        p = wide(p)
        log_sigma = torch.maximum(p, p.clamp(max=OVERFLOW_NEAR).exp_().add_(self.alpha).log_())
        # of exp(p) / α, which is a normal number where exp(p) no longer is one
        share = (p - math.log(self.alpha)).clamp_(max=OVERFLOW_NEAR).exp_()
        return log_sigma, share.div_(share + 1)

    @property
    def has_sigma_first(self) -> bool:  # type: ignore[override]
        """Where α is no number that underflows with exp(p)."""
        return not self._shift

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        above = p.exp()
        sigma = above + self.alpha
        return sigma, above.div_(sigma)

    def inverse(self, sigma: Tensor) -> Tensor:
        return torch.log(in_range(sigma, self.codomain) - self.alpha).to(sigma.dtype)

    def written(self) -> Written | None:
        return Written(
            f"torch.logaddexp(p, torch.full_like(p, {math.log(self.alpha)!r}))", f"{self.alpha!r} + torch.exp(p)"
        )


@SCALES.register("bounded")
class Bounded(Scale):
    """σ = α + (ω − α) sigmoid(p), in (α, ω) (eq. 15); the paper's choice for a likelihood, with the data's range."""

    def __init__(self, alpha: float, omega: float) -> None:
        super().__init__()
        self.alpha = positive_number(self.name, "alpha", alpha)
        self.omega = positive_number(self.name, "omega", omega)
        below(self.name, "alpha", self.alpha, "omega", self.omega)
        apart(self.name, "alpha", self.alpha, "omega", self.omega)
        self.codomain = interval(self.alpha, self.omega)
        # whether α + (ω − α) is rounded to more than ω
        low, width = self.alpha, self.omega - self.alpha
        singly = np.float32(low) + np.float32(width) > np.float32(self.omega)
        self._rounds_beyond = {torch.float32: bool(singly), torch.float64: low + width > self.omega}

    def _sigma(self, p: Tensor) -> Tensor:
        width = self.omega - self.alpha
        # torch's sigmoid is monotone across zero; where it rounds to zero and σ does not, another form goes on
        if self._is_wide:
            above = scaled_exp(p.clamp(max=0), width) / (1 + torch.exp(-p.abs()))
        else:
            above = width * torch.sigmoid(p)
        return torch.clamp(self.alpha + above, max=self.omega)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        # s(p) s(−p) as e / (1 + e)², e = exp(−|p|)
        return scaled_exp(-p.abs(), self.omega - self.alpha) / (1 + torch.exp(-p.abs())) ** 2

    def _log_sigma(self, p: Tensor) -> Tensor:
        if self._is_wide:
            low = math.log(self.alpha) + F.logsigmoid(-p)
            return torch.logaddexp(low, math.log(self.omega) + F.logsigmoid(p))
        # σ is at least α, so here the log of σ is safe, and monotone where a sum of two logs is not quite
        return self._sigma(p).log()

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        if self._is_wide:
            return torch.exp(self.log_abs_det_jacobian(p, p) - self._log_sigma(p))
        return self._sigma_slope(p) / self._sigma(p)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        p = wide(p)
        if self._is_wide:
            log_sigma = self._log_sigma(p)
            return log_sigma, torch.exp(self.log_abs_det_jacobian(p, p) - log_sigma)
        sigma, slope = self.sigma_and_slope(p)
        return sigma.log_(), slope

    @property
    def has_sigma_first(self) -> bool:  # type: ignore[override]
        """Where σ does not round to zero in its own formula."""
        return not self._is_wide

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        width = self.omega - self.alpha
        sigma = p.sigmoid().mul_(width).add_(self.alpha)
        if self._rounds_beyond[p.dtype]:
            sigma = sigma.clamp_(max=self.omega)
        # s(p) s(−p) is 1 / 4 cosh²(p / 2), whose square overflows before the slope underflows
        cosh = (0.5 * p).cosh_()
        return sigma, sigma.reciprocal().mul_(0.25 * width).div_(cosh).div_(cosh)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return math.log(self.omega - self.alpha) + F.logsigmoid(x) + F.logsigmoid(-x)

    @property
    def _is_wide(self) -> bool:
        # then ω s(p) rounds to zero, in float32, before it is small against α
        return self.alpha < 1e-25 * self.omega

    def inverse(self, sigma: Tensor) -> Tensor:
        wide = in_range(sigma, self.codomain)
        return (torch.log(wide - self.alpha) - torch.log(self.omega - wide)).to(sigma.dtype)

    def of_log_sigma(self) -> tuple[float, float]:
        return 1.0, -math.log(self.omega - self.alpha)  # far below 0 it is α + (ω − α) exp(p)

    def written(self) -> Written | None:
        share = "torch.nn.functional.logsigmoid"
        sigma = f"{self.alpha!r} + {self.omega - self.alpha!r} * torch.exp({share}(p))"
        if self._is_wide:
            low, high = math.log(self.alpha), math.log(self.omega)
            return Written(f"torch.logaddexp({low!r} + {share}(-p), {high!r} + {share}(p))", sigma)
        return Written(f"torch.log({sigma})", sigma)


@SCALES.register("constant", "cst1")
class Constant(Scale):
    """σ = c whatever p is, and no gradient reaches p ("Cst1", sections 3.4 and 7.4)."""

    bijective = False
    depends_on_p = False
    has_sigma_first = True

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = positive_number(self.name, "value", value, ANY_SIGMA)
        self.codomain = interval(self.value, self.value)

    def shifted(self, gain: float = 1.0, shift: float = 0.0) -> Scale:
        return self  # it does not depend on p

    def sigma(self, p: Tensor) -> Tensor:
        # full_like refuses a number that the dtype does not hold
        return torch.full_like(p, self.value if self.value <= torch.finfo(p.dtype).max else math.inf)

    def log_sigma(self, p: Tensor) -> Tensor:
        return torch.full_like(p, math.log(self.value))

    def log_variance(self, p: Tensor) -> Tensor:
        return torch.full_like(p, 2 * math.log(self.value))

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, None]:
        return self.sigma(p), None

    def _sigma(self, p: Tensor) -> Tensor:
        return self.sigma(p)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return self.log_sigma(p)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return torch.zeros_like(p)

    _log_sigma_slope = _sigma_slope

    def inverse(self, sigma: Tensor) -> Tensor:
        raise InvalidValueError("scale constant has no inverse: every raw parameter gives the same sigma")

    def written(self) -> Written | None:
        return Written(f"torch.full_like(p, {math.log(self.value)!r})", f"torch.full_like(p, {self.value!r})")
