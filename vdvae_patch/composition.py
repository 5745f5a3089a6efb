"""Conventions that were measured: σ = g(v), g a chain of elementary steps, such as `softplus(v + 0.5) + 0.1`.

The pre-image of a scale runs the chain backwards on the pair (σ, log σ), so that `exp` and `softplus` are undone from
the logarithm and lose nothing where σ itself underflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vdvae_patch import conventions
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import InvalidValueError, PatchError
from vdvae_patch.number_ranges import BETA, SIGMA
from vdvae_patch.registry import format_number
from vdvae_patch.scales import Scale
from vdvae_patch.scales.arithmetic import free_exp


class Target(NamedTuple):
    """A number as itself and as the logarithm of its size, which is None once it is not known directly.

    On the way back from a σ it is negative where the host has a sign of its own, as a natural parameter has:
    σ = sqrt(−½ / η) of η = −softplus(v).
    """

    value: Tensor
    log: Tensor | None


@dataclass(frozen=True)
class Step:
    """One elementary function of a chain, with its constants, such as `Step("add", (0.1,))`."""

    name: str
    constants: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _STEPS:
            raise InvalidValueError(f"a step must be one of {', '.join(sorted(_STEPS))}, not {self.name!r}")

    def forward(self, v: Tensor) -> Tensor:
        """f(v)."""
        return _STEPS[self.name].forward(v, *self.constants)

    def back(self, target: Target) -> Target:
        """f⁻¹ of a target."""
        return _STEPS[self.name].back(target, *self.constants)

    @property
    def limited(self) -> bool:
        """Whether there are positive numbers that no v reaches, so that a σ wanted there cannot be had."""
        if self.name == "add":
            return self.constants[0] > 0
        return self.name in {"clamp", "sigmoid", "tanh", *_TURNING}  # elu alone is no scale, and one is added to it

    @staticmethod
    def constants_of(name: str) -> int:
        """How many constants a step of this name has."""
        return _STEPS[name].text.count("{") - 1

    def write(self, inner: str) -> str:
        """The step applied to a written expression."""
        return _STEPS[self.name].text.format(inner, *(format_number(c) for c in self.constants))


class _Kind(NamedTuple):
    text: str
    forward: Callable[..., Tensor]
    back: Callable[..., Target]


def _plain(value: Tensor) -> Target:
    return Target(value, None)


def _log_of(target: Target) -> Tensor:
    return target.value.log() if target.log is None else target.log


def _root(target: Target, exponent: float) -> Target:
    """The v whose power is the target; of an odd power a negative number has a negative root."""
    if not _is_odd(exponent):
        log = _log_of(target) / exponent
        return Target(free_exp(log), log)
    log = (target.value.abs().log() if target.log is None else target.log) / exponent
    return Target(torch.copysign(free_exp(log), target.value), log)


def _is_odd(exponent: float) -> bool:
    """Whether a power keeps the sign of its base: 1/v and v³ do."""
    return exponent % 2 == 1


def _softplus_back(target: Target, beta: float) -> Target:
    log = _log_of(target)
    small = log < -15
    value = torch.where(small, torch.ones_like(target.value), target.value)
    tail = (log + math.log(beta)) / beta
    return _plain(torch.where(small, tail, value + torch.log(-torch.expm1(-beta * value)) / beta))


def _elu_back(value: Tensor, alpha: float) -> Tensor:
    return torch.where(value < 0, torch.log1p(value.clamp(max=0) / alpha), value)


def _turning_back(function: Callable[[Tensor], Tensor]) -> Callable[[Target], Target]:
    """The inverse of an activation that falls from 0 to a least value and rises from there on, as v sigmoid(v) does: on
    the side on which it rises. What lies below its least value has none, and gets where that is."""

    def back(target: Target) -> Target:
        low = torch.full_like(target.value, -_WIDEST)
        for width in (_WIDEST / 2.0**k for k in range(1, _HALVINGS)):  # to the least value, where the slope is zero
            middle = (low + width).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(function(middle).sum(), middle)
            low = torch.where(slope < 0, middle.detach(), low)
        high = target.value.clamp(min=0) + _WIDEST
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = function(middle) < target.value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return _plain(low)

    return back


_WIDEST = 2.0
"""Left of −2 the activations of `_TURNING` fall, and right of t + 2 each of them is above t."""
_HALVINGS = 60
_TURNING: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "mish": F.mish}


def _multiplied_back(target: Target, factor: float) -> Target:
    log = target.log - math.log(abs(factor)) if target.log is not None and factor != 0 else None
    return Target(target.value / factor, log)


_STEPS: dict[str, _Kind] = {
    "add": _Kind("{0} + {1}", lambda v, c: v + c, lambda t, c: _plain(t.value - c)),
    "mul": _Kind("{1} * ({0})", lambda v, c: v * c, _multiplied_back),
    "exp": _Kind("exp({0})", lambda v: v.exp(), lambda t: _plain(_log_of(t))),
    "log": _Kind("log({0})", lambda v: v.log(), lambda t: Target(free_exp(t.value), t.value)),
    "pow": _Kind("({0})^{1}", lambda v, c: v**c, _root),
    "softplus": _Kind("softplus({0}, beta={1})", lambda v, b: F.softplus(v, beta=b), _softplus_back),
    "sigmoid": _Kind("sigmoid({0})", lambda v: v.sigmoid(), lambda t: _plain(t.value.logit())),
    "tanh": _Kind("tanh({0})", lambda v: v.tanh(), lambda t: _plain(t.value.atanh())),
    "expm1": _Kind("expm1({0})", lambda v: v.expm1(), lambda t: _plain(t.value.log1p())),
    "log1p": _Kind("log1p({0})", lambda v: v.log1p(), lambda t: _plain(t.value.expm1())),
    "elu": _Kind("elu({0}, alpha={1})", lambda v, a: F.elu(v, a), lambda t, a: _plain(_elu_back(t.value, a))),
    "leaky": _Kind(
        "leaky({0}, {1})",
        lambda v, a: F.leaky_relu(v, a),
        lambda t, a: _plain(torch.where(t.value < 0, t.value / a, t.value)),
    ),
    **{name: _Kind(f"{name}({{0}})", function, _turning_back(function)) for name, function in _TURNING.items()},
    "abs": _Kind("|{0}|", lambda v: v.abs(), lambda t: t),
    "clamp": _Kind("clip({0}, {1}, {2})", lambda v, a, b: v.clamp(a, b), lambda t, a, b: t),
}


class _Size(NamedTuple):
    """The logarithm of a number's size, and its sign, which all numbers that a step gives have in common."""

    log: Tensor
    sign: int


def _size_after(step: Step, v: Tensor, size: _Size | None) -> _Size | None:
    """The size of f(v), from v and its own size where that is known; None where it is not known exactly.

    From an exponential on the logarithm is carried along, and has no smallest value, as the exponential has.
    """
    if step.name == "exp":
        return _Size(v, 1)
    if step.name == "sigmoid":
        return _Size(F.logsigmoid(v), 1)
    if step.name == "softplus":
        return _Size(conventions.log_softplus(v, step.constants[0]), 1)
    if size is None:
        return None
    log, sign = size
    if step.name == "abs":
        return _Size(log, 1)
    if step.name == "mul" and step.constants[0] != 0:
        factor = step.constants[0]
        return _Size(log + math.log(abs(factor)), sign if factor > 0 else -sign)
    if step.name == "pow" and (sign > 0 or step.constants[0] % 1 == 0):
        return _Size(step.constants[0] * log, sign if _is_odd(step.constants[0]) else 1)
    if step.name == "add" and step.constants[0] * sign > 0:
        return _Size(torch.logaddexp(log, log.new_full((), math.log(abs(step.constants[0])))), sign)
    if step.name == "clamp":
        # of a negative number the upper bound is the lower one of its size
        low, high = step.constants if sign > 0 else (-step.constants[1], -step.constants[0])
        if high > 0:
            return _Size(log.clamp(math.log(low) if low > 0 else -math.inf, math.log(high)), sign)
    return None


_WANTED = torch.logspace(-4, 4, 33)
"""σ, in float32, that a host must be able to compute so that a scale can rely on its arithmetic."""


class Composition(Convention):
    """σ = g(v) for a chain of steps, first step first. Steps with a limit (a floor, a clamp) keep it: a σ(p) beyond it
    comes out as the limit, unless the patch sits behind the step."""

    name = "composition"

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    def sigma(self, v: Tensor) -> Tensor:
        for step in self.steps:
            v = step.forward(v)
        return v

    def log_sigma(self, v: Tensor) -> Tensor:
        size: _Size | None = None
        for step in self.steps:
            size = _size_after(step, v, size)
            v = step.forward(v)
        return v.log() if size is None or size.sign < 0 else size.log

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        return self.undo(Target(scale.sigma(p), scale.log_sigma(p)))

    def undo(self, target: Target) -> Tensor:
        """The value that the steps turn into a σ."""
        for step in reversed(self.steps):
            target = step.back(target)
        return target.value

    @property
    def limited(self) -> bool:
        """Whether some positive σ is out of reach: a step says so, or the σ of very small and large v do, or the steps
        in float32, where log1p(exp(v)) is infinite from 88 on."""
        if any(step.limited for step in self.steps):
            return True
        reached = self.sigma(self.undo(Target(_WANTED, _WANTED.log())))
        if not bool(torch.isclose(reached, _WANTED, rtol=1e-3, atol=0.0).all()):
            return True
        sizes = torch.tensor([1e-30, 1e-3, 1.0, 10.0, 100.0, 1e4, 1e30], dtype=torch.float64)
        sigma = self.sigma(torch.cat([-sizes, torch.zeros(1, dtype=torch.float64), sizes]))
        sigma = sigma[~sigma.isnan()]
        return bool(sigma.numel()) and (float(sigma.min()) > 1e-6 or float(sigma.max()) < 1e6)

    def __str__(self) -> str:
        text = "v"
        for step in self.steps:
            text = step.write(text)
        return text

    def __repr__(self) -> str:
        return f"Composition({self.steps!r})"


class Measured(Convention):
    """σ = g(v) for a g that is known at some points only.

    Between two points log σ is a straight line where both are positive, and σ where they are not; beyond the ends σ
    goes on as a line.
    """

    name = "measured"

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self.points = tuple(points)

    def sigma(self, v: Tensor) -> Tensor:
        columns = zip(*self.points, strict=True)
        at, value = (torch.tensor(column, dtype=torch.float64, device=v.device) for column in columns)
        wide = v.double().contiguous()
        index = torch.searchsorted(at, wide.detach()).clamp(1, len(at) - 1)
        share = (wide - at[index - 1]) / (at[index] - at[index - 1])
        low, high = value[index - 1], value[index]
        curved = (low > 0) & (high > 0) & (share >= 0) & (share <= 1)
        logs = torch.lerp(torch.where(curved, low, 1.0).log(), torch.where(curved, high, 1.0).log(), share.clamp(0, 1))
        return torch.where(curved, logs.exp(), torch.lerp(low, high, share)).to(v.dtype)

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        raise PatchError("a convention that was only measured cannot be undone; patch the expression that computes σ")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Measured({self.points!r})"


def undo(convention: Convention, target: Target) -> Tensor:
    """The value that a convention turns into σ, for a σ at hand and not that of a scale."""
    if isinstance(convention, Composition):
        return convention.undo(target)
    return convention.preimage(_AtHand(target), target.value)


class _AtHand(Scale):
    """σ as it was computed already, whatever the raw parameter; so that any convention can be asked for its value."""

    name = "at hand"

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target

    def sigma(self, p: Tensor) -> Tensor:
        return self._target.value.to(p.dtype)

    def log_sigma(self, p: Tensor) -> Tensor:
        log = self._target.value.log() if self._target.log is None else self._target.log
        return log.to(p.dtype)

    def log_variance(self, p: Tensor) -> Tensor:
        return 2 * self.log_sigma(p)

    def inverse(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    # what a convention asks for is above; these are of a raw parameter, and there is none
    _sigma = _log_sigma = _sigma_slope = _log_sigma_slope = inverse  # type: ignore[assignment]


def is_limited(convention: Convention) -> bool:
    """Whether a host with this convention cannot compute every positive σ."""
    if isinstance(convention, Composition):
        return convention.limited
    if isinstance(convention, Measured):
        return True
    return isinstance(convention, conventions.SoftplusOf) and convention.floor > 0


def named(steps: Sequence[Step]) -> Convention:
    """The convention that a chain of steps computes: one with a name if there is one, or the chain itself.

    Decided by values, see `same_sigma`; never by the form of the chain.
    """
    chain = Composition(simplify(steps))
    return next((candidate for candidate in _candidates(chain) if same_sigma(candidate, chain)), chain)


def same_sigma(one: Convention, other: Convention) -> bool:
    """Whether two conventions compute the same σ: in float64 at 48 points from −90 to 90, three of them next to zero,
    where a floor of a variance shows."""
    v = torch.cat([torch.linspace(-6, 6, 41), torch.tensor([-90.0, -35.0, 35.0, 90.0, 1e-9, 1e-6, 1e-3])]).double()
    return torch.allclose(one.sigma(v), other.sigma(v), rtol=1e-6, atol=1e-12, equal_nan=True)


def ends(convention: Convention) -> Iterator[Convention]:
    """What a convention comes to from each of its steps on, the first one first."""
    yield convention
    if isinstance(convention, Composition):
        yield from (Composition(convention.steps[begin:]) for begin in range(1, len(convention.steps)))
    elif isinstance(convention, conventions.LogVariance):
        yield conventions.LogSigma()
    elif isinstance(convention, conventions.SoftplusOf) and convention.floor:
        yield Composition([Step("add", (convention.floor,))])


def _candidates(chain: Composition) -> list[Convention]:
    # a host may have any numbers; those that a named convention does not take leave the chain as it is
    betas = [s.constants[0] for s in chain.steps if s.name == "softplus" and BETA.has(s.constants[0])]
    floors = [s.constants[0] for s in chain.steps if s.name == "add" and SIGMA.has(s.constants[0])]
    softplus = [conventions.SoftplusOf(b, f) for b in betas for f in (0.0, *floors)]
    plain: list[Convention] = [conventions.LogSigma(), conventions.LogVariance(), conventions.Sigma(), *softplus]
    # a variance is a number that is not negative; over all numbers √v and v^½ agree only in being NaN below
    return [*plain, conventions.Variance()]


def simplify(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Neighbouring additions, factors and powers joined, powers of exponentials made factors; those that do nothing
    left out."""
    out: list[Step] = []
    for step in _powers_as_factors(steps):
        if out and out[-1].name == step.name and step.name in _JOINS and not _loses_sign(out[-1], step):
            step = Step(step.name, (_JOINS[step.name](out.pop().constants[0], step.constants[0]),))
        if step.name in _NEUTRAL and step.constants[0] == _NEUTRAL[step.name]:
            continue
        out.append(step)
    return tuple(out)


def _loses_sign(first: Step, second: Step) -> bool:
    """Whether (v^a)^b is |v|^(ab) and not v^(ab)."""
    return first.name == "pow" and first.constants[0] % 2 == 0 and second.constants[0] % 1 != 0


def _powers_as_factors(steps: Sequence[Step]) -> Sequence[Step]:
    """exp(v)^k is exp(k v)."""
    out: list[Step] = []
    for step in steps:
        if step.name == "pow" and out and out[-1].name == "exp":
            out[-1:] = [Step("mul", step.constants), Step("exp")]
        else:
            out.append(step)
    return out


_JOINS: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "pow": lambda a, b: a * b,
}
_NEUTRAL = {"add": 0.0, "mul": 1.0, "pow": 1.0}
