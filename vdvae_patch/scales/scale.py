"""What a scale is: four formulas, made a differentiable transform with a name and arguments."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import SIGMA, Range
from vdvae_patch.registry import Registry, format_number, parse_spec
from vdvae_patch.scales.arithmetic import in_range, wide
from vdvae_patch.scales.operation import Operation

SCALES: Registry[Scale] = Registry("scale", "vdvae_patch.scales", lambda: Scale)

Formula = Callable[[Tensor], Tensor]


def get(spec: str | Scale) -> Scale:
    """The scale of a specification such as `explin`, `upbounded(omega=2)` or `bounded(0.1, omega=1)`.

    Every scale takes `gain` and `shift`, too: `explin(gain=0.5)` is explin of p / 2, see `Shifted`.

    Raises:
        UnknownNameError: no such scale; the message names the nearest.
        InvalidValueError: an argument that the scale refuses, such as an omega that is not positive.
    """
    if isinstance(spec, Scale):
        return spec
    name, positional, keywords = parse_spec(spec, SCALES.kind)
    argument = {key: keywords.pop(key) for key in ("gain", "shift") if key in keywords}
    if not argument:
        return SCALES.get(spec)
    numbers = [*map(repr, positional), *(f"{key}={value!r}" for key, value in keywords.items())]
    return SCALES.get(f"{name}({', '.join(numbers)})").shifted(**argument)


class Written(NamedTuple):
    """A scale as expressions of plain torch in the variable `p`, safe in float32 with their gradients."""

    log_sigma: str
    sigma: str


class Scale(Transform):
    """A map from the real line to positive numbers, with its logarithm; elementwise, any shape.

    A `torch.distributions.Transform`: `scale(p)` is σ(p), `scale.inv(sigma)` is p.
    """

    domain = constraints.real
    bijective = True
    sign = +1
    event_dim = 0
    depends_on_p = True
    """Whether σ does; a gradient that is 0 everywhere is then not computed."""
    as_written = False
    """Whether log σ is evaluated as a host writes it, to show what is wrong with that: the host's own sample and
    divergence then stay, where those of ours could stand in for them."""

    _reaches_ends = False
    """Whether σ(±∞) is rounded otherwise than the bounds are: an inverse then takes these for the bounds, too."""

    has_sigma_first = False
    """Whether `sigma_and_slope` gives σ at a lower price than its logarithm."""

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def sigma(self, p: Tensor) -> Tensor:
        """σ(p), shaped and typed like p."""
        return _evaluate(self, self._sigma, self._sigma_slope, p)

    def log_sigma(self, p: Tensor) -> Tensor:
        """log σ(p), shaped and typed like p; not the log of `sigma(p)`."""
        return _evaluate(self, self._log_sigma, self._log_sigma_slope, p)

    def log_variance(self, p: Tensor) -> Tensor:
        """log σ² = 2 log σ(p), shaped and typed like p, in one operation."""
        return _evaluate(self, self._log_variance, self._log_variance_slope, p)

    def log_sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """log σ(p) and its derivative d log σ/dp, in float32 or wider, for an operation that differentiates by itself.

        What it returns has no gradient. Values are those of `log_sigma` and of its gradient.
        """
        p = wide(p)
        return self._log_sigma(p), self._log_sigma_slope(p)

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor | None]:
        """σ(p) and d log σ/dp, as `log_sigma_and_slope` gives log σ; of a scale that `has_sigma_first`.

        Right to rounding where σ is between 1e-18 and 1e18, which whoever asks makes sure of: no other form goes on
        beyond. Both are tensors of their own, which may be written over; no slope is one of zeros.

        Args:
            p: in float32 or wider, and its values can be looked at, see `can_look_at`.
        """
        raise NotImplementedError(f"scale {self}: sigma_and_slope is not written, and has_sigma_first says that it is")

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

    def _exact(self, sigma: Tensor) -> Tensor:
        """σ as an inverse takes it, see `in_range`."""
        ends = self.sigma(sigma.new_tensor([-math.inf, math.inf])).sort().values if self._reaches_ends else None
        return in_range(sigma, self.codomain, ends)

    def _widened(self, p: Tensor) -> Tensor:
        """p in the type that is computed in."""
        return wide(p)

    def _log_variance(self, p: Tensor) -> Tensor:
        return 2 * self._log_sigma(p)

    def _log_variance_slope(self, p: Tensor) -> Tensor:
        return 2 * self._log_sigma_slope(p)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dσ/dp| at x, the elementwise log determinant that `torch.distributions` asks of a transform.

        As log σ + log (d log σ / dp): the derivative of σ itself underflows where its logarithm is an ordinary number.
        """
        return self._log_sigma(x) + torch.log(self._log_sigma_slope(x))

    def _call(self, x: Tensor) -> Tensor:
        return self.sigma(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse(y)

    def shifted(self, gain: float = 1.0, shift: float = 0.0) -> Scale:
        """The scale of gain · p + shift."""
        from vdvae_patch.scales.argument import Shifted

        return self if (gain, shift) == (1, 0) else Shifted(self, gain, shift)

    def of_log_sigma(self) -> tuple[float, float]:
        """(gain, shift) for which σ(gain · l + shift) is exp(l) wherever the scale can follow it.

        The scale is then the exponential itself for a small σ, and departs from it only where it bounds it.
        """
        return 1.0, 0.0

    def written(self) -> Written | None:
        """The formulas for a code base that shall do without this package; None where nobody wrote them down."""
        return None

    def arguments(self) -> dict[str, float]:
        """The arguments of this instance, by name."""
        return {name: getattr(self, name) for name in _parameters(type(self))}  # type: ignore[arg-type]

    def defaults(self) -> dict[str, Any]:
        """The values of arguments that a specification may leave out."""
        return {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}

    def __str__(self) -> str:
        defaults = self.defaults()
        inner = ", ".join(f"{k}={format_number(v)}" for k, v in self.arguments().items() if v != defaults[k])
        name = self.name or type(self).__name__  # of a class that nobody registered
        return f"{name}({inner})" if inner else name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Scale) and self.arguments() == other.arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments().values()))

    name: ClassVar[str] = ""


@cache
def _parameters(scale: type[Scale]) -> tuple[str, ...]:
    """The names of a class's arguments, which take longer to find out than a scale to compute."""
    return tuple(inspect.signature(scale).parameters)


class _Elementwise(Operation):
    """value(p), differentiated by slope(p). Differentiable again, since the backward pass is made of p alone."""

    @staticmethod
    def forward(p: Tensor, value: Formula, slope: Formula) -> Tensor:
        return value(p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Formula, Formula], output: Tensor) -> None:
        p, _, ctx.slope = inputs
        ctx.save_for_backward(p)
        ctx.save_for_forward(p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        return grad * ctx.slope(p), None, None

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (p,) = ctx.saved_tensors
        result: Tensor = tangent * ctx.slope(p)
        return result


def _evaluate(scale: Scale, value: Formula, slope: Formula, p: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        _read_constants(scale)
    result: Tensor = _Elementwise.run(scale._widened(p), value, slope)
    return result if result.dtype == p.dtype else result.to(p.dtype)


def _read_constants(scale: Scale) -> None:
    """Let a compiler see a scale's numbers before it enters the operation.

    With `dynamic=True` it makes a variable of each where it is first read. Read inside an autograd function, the
    variable belongs to that one, and the compiler fails where a second head has the same scale.
    """
    for name, constant in vars(scale).items():
        if isinstance(constant, float):
            abs(getattr(scale, name))  # by its name, as the formulas read it; used, or it would not be read


def positive_number(scale: str, name: str, value: float, allowed: Range = SIGMA) -> float:
    return allowed.check(f"scale {scale}", name, value)


def below(scale: str, low_name: str, low: float, high_name: str, high: float) -> None:
    if not low < high:
        raise InvalidValueError(f"scale {scale}: {low_name} must be below {high_name}, not {low:g} against {high:g}")


APART = 1e-6
"""The least distance of two bounds, as a share of the upper one: float32 has to tell them apart."""


def apart(scale: str, low_name: str, low: float, high_name: str, high: float) -> None:
    if high - low < APART * high:
        raise InvalidValueError(
            f"scale {scale}: {low_name} must be below {high_name} by a millionth of it or more, or float32 cannot tell "
            f"them apart, not {low!r} against {high!r}; for one σ take constant({high:g})"
        )


def interval(low: float, high: float) -> constraints.Constraint:
    interval: constraints.Constraint = constraints.interval(low, high)  # type: ignore[no-untyped-call]
    return interval
