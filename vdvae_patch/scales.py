"""Scale parameterizations: from a raw parameter p, what a network emits, to σ and to log σ.

    scale = scales.get("upbounded(omega=2)")
    scale.sigma(p), scale.log_sigma(p), scale.inverse(sigma), scale.codomain

log σ is computed directly, never as the log of an exponential (`naiveexp` apart, the fault on show). Every other scale
is finite, monotone and inside its codomain for every finite p of every floating dtype, 0 and infinity appearing only
where the true value rounds to them; half precision is computed in float32 and returned in the input's dtype.

Each scale writes down four formulas: σ(p), log σ(p) and the derivative of each. The derivatives are explicit because
automatic ones lose them where it matters: for large p the derivative of log(2 − exp(−p)) through `expm1` is
1 − (1 − 0) = 0 and not exp(−p). It also means that one tensor is kept for the backward pass, p itself.

Source: "Re-parameterizing VAEs for stability" (Dehaene and Brossard), sections 3 and 4, unless said otherwise.
"""

from __future__ import annotations

import inspect
import math
import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.nn import functional as F

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.registry import Registry, format_number

SCALES: Registry[Scale] = Registry("scale", "vdvae_patch.scales")

Formula = Callable[[Tensor], Tensor]

_OVERFLOW_NEAR = 80.0  # an exponential of no more than this is finite in float32


def get(spec: str | Scale) -> Scale:
    """The scale of a specification such as `explin`, `upbounded(omega=2)` or `bounded(0.1, omega=1)`.

    Raises:
        UnknownNameError: no such scale; the message names the nearest.
        InvalidValueError: an argument that the scale refuses, such as an omega that is not positive.
    """
    return spec if isinstance(spec, Scale) else SCALES.get(spec)


class Scale(Transform):
    """A map from the real line to positive numbers, with its logarithm; elementwise, any shape.

    A `torch.distributions.Transform`: `scale(p)` is σ(p), `scale.inv(sigma)` is p.
    """

    domain = constraints.real
    bijective = True
    sign = +1
    event_dim = 0

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def sigma(self, p: Tensor) -> Tensor:
        """σ(p), shaped and typed like p."""
        return _evaluate(self._sigma, self._sigma_slope, p)

    def log_sigma(self, p: Tensor) -> Tensor:
        """log σ(p), shaped and typed like p; not the log of `sigma(p)`."""
        return _evaluate(self._log_sigma, self._log_sigma_slope, p)

    @abstractmethod
    def inverse(self, sigma: Tensor) -> Tensor:
        """The p for which σ(p) is `sigma`; NaN for a sigma outside the codomain."""

    @abstractmethod
    def _sigma(self, p: Tensor) -> Tensor: ...

    @abstractmethod
    def _sigma_slope(self, p: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_sigma(self, p: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_sigma_slope(self, p: Tensor) -> Tensor: ...

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dσ/dp| at x, the elementwise log determinant that `torch.distributions` asks of a transform.

        As log σ + log (d log σ / dp): the derivative of σ itself underflows where its logarithm is an ordinary number.
        """
        return self._log_sigma(x) + torch.log(self._log_sigma_slope(x))

    def _call(self, x: Tensor) -> Tensor:
        return self.sigma(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse(y)

    def arguments(self) -> dict[str, float]:
        """The arguments of this instance, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __str__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        inner = ", ".join(f"{k}={format_number(v)}" for k, v in self.arguments().items() if v != defaults[k].default)
        return f"{self.name}({inner})" if inner else self.name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Scale) and self.arguments() == other.arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments().values()))

    name: ClassVar[str] = ""


class _Elementwise(torch.autograd.Function):
    """value(p), differentiated by slope(p). Differentiable again, since the backward pass is made of p alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p: Tensor, value: Formula, slope: Formula) -> Tensor:
        return value(p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Formula, Formula], output: Tensor) -> None:
        p, _, ctx.slope = inputs
        ctx.save_for_backward(p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        return grad * ctx.slope(p), None, None


def _evaluate(value: Formula, slope: Formula, p: Tensor) -> Tensor:
    wide = p if p.dtype in (torch.float32, torch.float64) else p.float()
    # apply() returns Any; the compiler traces the Function like any other code
    result: Tensor = _Elementwise.apply(wide, value, slope)  # type: ignore[no-untyped-call]
    return result.to(p.dtype)


def _scaled_exp(x: Tensor, factor: float) -> Tensor:
    """factor · exp(x), which factor · (a number already rounded to zero) would lose where the product is no zero."""
    root = (0.5 * x).exp()
    return factor * root * root


def _sigmoid(x: Tensor) -> Tensor:
    """The sigmoid down to the smallest number; `torch.sigmoid` gives 0 as soon as exp(−x) overflows."""
    return x.clamp(max=0).exp() / (1 + torch.exp(-x.abs()))


def _exp(x: float) -> float:
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf


def _positive_number(scale: str, name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"scale {scale}: {name} must be a positive number, not {value:g}")
    return float(value)


def _below(scale: str, low_name: str, low: float, high_name: str, high: float) -> None:
    if not low < high:
        raise InvalidValueError(f"scale {scale}: {low_name} must be below {high_name}, not {low:g} against {high:g}")


def _interval(low: float, high: float) -> constraints.Constraint:
    interval: constraints.Constraint = constraints.interval(low, high)  # type: ignore[no-untyped-call]
    return interval


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
        return sigma.log()


@SCALES.register("naiveexp")
class NaiveExp(Exp):
    """σ = exp(p), log σ = log(exp(p)) evaluated as written (eq. 7): −∞ below p = −103 in float32 (table 1)."""

    def sigma(self, p: Tensor) -> Tensor:
        return p.exp()

    def log_sigma(self, p: Tensor) -> Tensor:
        return p.exp().log()


@SCALES.register("explin")
class ExpLin(Scale):
    """σ = exp(p) for p ≤ 0 and p + 1 above; log σ = p⁻ + log1p(p⁺) (eq. 11)."""

    codomain = constraints.positive

    def _sigma(self, p: Tensor) -> Tensor:
        return p.clamp(max=0).exp() + p.clamp(min=0)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return p.clamp(max=0).exp()

    def _log_sigma(self, p: Tensor) -> Tensor:
        return p.clamp(min=0).log1p_().add_(p.clamp(max=0))

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return p.clamp(min=0).add_(1).reciprocal_()

    def inverse(self, sigma: Tensor) -> Tensor:
        return torch.where(sigma <= 1, sigma.log(), sigma - 1)


@SCALES.register("upbounded")
class UpBounded(Scale):
    """σ in (0, ω): ω/2 · exp(p) for p ≤ 0, ω/2 · (2 − exp(−p)) above (eq. 12).

    ω = 1, the prior's own standard deviation, is the paper's choice for a posterior; 256 for 8-bit pixels.
    """

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = _positive_number(self.name, "omega", omega)
        self.codomain = _interval(0.0, self.omega)

    def _sigma(self, p: Tensor) -> Tensor:
        return _scaled_exp(p.clamp(max=0), self.omega / 2) - self.omega / 2 * torch.expm1(-p.clamp(min=0))

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return _scaled_exp(-p.abs(), self.omega / 2)

    def _log_sigma(self, p: Tensor) -> Tensor:
        above = p.clamp(min=0).neg_().expm1_().neg_().log1p_()
        return above.add_(p.clamp(max=0)).add_(math.log(self.omega / 2))

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        tail = p.clamp(min=0).neg_().exp_()
        return tail / (2 - tail)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return math.log(self.omega / 2) - x.abs()

    def inverse(self, sigma: Tensor) -> Tensor:
        half = sigma / (self.omega / 2)
        return torch.where(half <= 1, half.log(), -torch.log1p(1 - half))


@SCALES.register("downbounded")
class DownBounded(Scale):
    """σ = α + exp(p) (eq. 14). α = 1/√12 for pixels in 0..255: the deviation of the noise that rounding hides."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = _positive_number(self.name, "alpha", alpha)
        self.codomain = _interval(self.alpha, math.inf)
        self._shift = min(0.0, math.log(self.alpha) + 60)  # 0, unless α itself would underflow

    def _sigma(self, p: Tensor) -> Tensor:
        return self.alpha + p.exp()

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return p.exp()

    def _log_sigma(self, p: Tensor) -> Tensor:
        # log σ > p always, so the maximum is exact; it takes over before exp(p) overflows
        above = math.exp(math.log(self.alpha) - self._shift) + (p - self._shift).clamp(max=_OVERFLOW_NEAR).exp()
        return torch.maximum(p, above.log() + self._shift)

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return _sigmoid(p - math.log(self.alpha))

    def inverse(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma - self.alpha)


@SCALES.register("bounded")
class Bounded(Scale):
    """σ = α + (ω − α) sigmoid(p), in (α, ω) (eq. 15); the paper's choice for a likelihood, with the data's range."""

    def __init__(self, alpha: float, omega: float) -> None:
        super().__init__()
        self.alpha = _positive_number(self.name, "alpha", alpha)
        self.omega = _positive_number(self.name, "omega", omega)
        _below(self.name, "alpha", alpha, "omega", omega)
        self.codomain = _interval(self.alpha, self.omega)

    def _sigma(self, p: Tensor) -> Tensor:
        # torch's own is monotone across zero, ours goes on where it rounds to zero
        share = _sigmoid(p) if self._is_wide else torch.sigmoid(p)
        return torch.clamp(self.alpha + (self.omega - self.alpha) * share, max=self.omega)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        # s(p) s(−p) as e / (1 + e)², e = exp(−|p|)
        return _scaled_exp(-p.abs(), self.omega - self.alpha) / (1 + torch.exp(-p.abs())) ** 2

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

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return math.log(self.omega - self.alpha) + F.logsigmoid(x) + F.logsigmoid(-x)

    @property
    def _is_wide(self) -> bool:
        # then ω s(p) rounds to zero, in float32, before it is small against α
        return self.alpha < 1e-25 * self.omega

    def inverse(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma - self.alpha) - torch.log(self.omega - sigma)


@SCALES.register("constant", "cst1")
class Constant(Scale):
    """σ = c whatever p is, and no gradient reaches p ("Cst1", sections 3.4 and 7.4)."""

    bijective = False

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = _positive_number(self.name, "value", value)
        self.codomain = _interval(self.value, self.value)

    def sigma(self, p: Tensor) -> Tensor:
        # full_like refuses a number that the dtype does not hold
        return torch.full_like(p, self.value if self.value <= torch.finfo(p.dtype).max else math.inf)

    def log_sigma(self, p: Tensor) -> Tensor:
        return torch.full_like(p, math.log(self.value))

    def _sigma(self, p: Tensor) -> Tensor:
        return self.sigma(p)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return self.log_sigma(p)

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return torch.zeros_like(p)

    _log_sigma_slope = _sigma_slope

    def inverse(self, sigma: Tensor) -> Tensor:
        raise InvalidValueError("scale constant has no inverse: every raw parameter gives the same sigma")


@SCALES.register("softplus")
class Softplus(Scale):
    """σ = softplus(β p) / β. Efficient-VDVAE takes β = log 2, for which σ(0) = 1."""

    codomain = constraints.positive
    # Below TAIL, log softplus(x) = x − exp(x)/2 to float64 rounding, and softplus itself is about to underflow;
    # above HEAD, softplus(x) = x to float64 rounding, and exp(x) is about to overflow; below −HEAD it is exp(x).
    _TAIL: ClassVar[float] = -18.0
    _HEAD: ClassVar[float] = 40.0

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = _positive_number(self.name, "beta", beta)
        self._seam = math.log(math.log1p(math.exp(self._TAIL)) / self.beta)  # log σ where the two branches meet

    def _sigma(self, p: Tensor) -> Tensor:
        x = self.beta * p
        tail = _scaled_exp(x.clamp(max=-self._HEAD), 1 / self.beta)
        body = torch.log1p(x.clamp(max=self._HEAD).exp()) / self.beta
        # σ > p always, so the maximum is exact, and monotone across the upper joint
        return torch.where(x < -self._HEAD, tail, torch.maximum(p, body))

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return _sigmoid(self.beta * p)

    def _log_sigma(self, p: Tensor) -> Tensor:
        x = self.beta * p
        tail = x - math.log(self.beta) - 0.5 * x.clamp(max=self._TAIL).exp()
        body = torch.log(self._sigma(p.clamp(min=self._TAIL / self.beta)))
        return torch.where(x < self._TAIL, tail.clamp(max=self._seam), body.clamp(min=self._seam))

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        x = self.beta * p
        tail = self.beta * (1 - 0.5 * x.clamp(max=self._TAIL).exp())
        body = torch.sigmoid(x) / self._sigma(p.clamp(min=self._TAIL / self.beta))
        return torch.where(x < self._TAIL, tail, body)

    def inverse(self, sigma: Tensor) -> Tensor:
        return sigma + torch.log(-torch.expm1(-self.beta * sigma)) / self.beta


@SCALES.register("softclamp")
class SoftClamp(Scale):
    """σ = exp(L tanh(p / L)) + floor, L the limit. NVAE takes L = 5 and floor = 0.01."""

    def __init__(self, limit: float = 5.0, floor: float = 0.01) -> None:
        super().__init__()
        self.limit = _positive_number(self.name, "limit", limit)
        self.floor = _positive_number(self.name, "floor", floor)
        self.codomain = _interval(math.exp(-self.limit) + self.floor, _exp(self.limit) + self.floor)

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
        return torch.maximum(squashed, (squashed.clamp(max=_OVERFLOW_NEAR).exp() + self.floor).log())

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return _sigmoid(self._squash(p) - math.log(self.floor)) * self._squash_slope(p)

    def inverse(self, sigma: Tensor) -> Tensor:
        return self.limit * torch.atanh(torch.log(sigma - self.floor) / self.limit)


@SCALES.register("clamp")
class Clamp(Scale):
    """σ = exp(½ clip(p, low, high)), p a log variance. diffusers takes −30 and 20. No gradient outside the bounds."""

    bijective = False

    def __init__(self, low: float = -30.0, high: float = 20.0) -> None:
        super().__init__()
        if not math.isfinite(low) or not math.isfinite(high):
            raise InvalidValueError(f"scale {self.name}: low and high must be finite, not {low:g} and {high:g}")
        _below(self.name, "low", low, "high", high)
        self.low, self.high = float(low), float(high)
        self.codomain = _interval(_exp(self.low / 2), _exp(self.high / 2))

    def _inside(self, p: Tensor) -> Tensor:
        return (p >= self.low) & (p <= self.high)

    def _sigma(self, p: Tensor) -> Tensor:
        return self._log_sigma(p).exp()

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return torch.where(self._inside(p), _scaled_exp(self._log_sigma(p), 0.5), 0.0)

    def _log_sigma(self, p: Tensor) -> Tensor:
        return 0.5 * p.clamp(self.low, self.high)

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return 0.5 * self._inside(p).to(p.dtype)

    def inverse(self, sigma: Tensor) -> Tensor:
        inside = self.codomain.check(sigma)  # type: ignore[no-untyped-call]
        return torch.where(inside, 2 * sigma.log(), math.nan)
