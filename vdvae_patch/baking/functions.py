"""Functions of plain torch: from a host's raw value to what the host reads, so that σ is that of a scale.

def stable_posterior_log_variance(v):
    # σ = explin(gain=0.5)
    p = 0.5 * v
    log_sigma = torch.where(p <= 0, p, torch.log1p(p.clamp(min=0)))
    return 2 * log_sigma
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from vdvae_patch.composition import Composition, Step
from vdvae_patch.conventions import Convention, LogSigma, LogVariance, Sigma, SoftplusOf, Variance
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange
from vdvae_patch.scales import Scale, Shifted

_SMALL = -15.0  # of log σ, below which a softplus is an exponential


class Function(NamedTuple):
    """A function without its name."""

    kind: str
    body: str
    arguments: str = "v"

    def named(self, name: str) -> str:
        """The text of the definition."""
        return f"def {name}({self.arguments}):\n{self.body}\n"


def of_scale(scale: Scale, rest: Convention) -> Function:
    """The function of a raw value v whose result a host turns into the scale's σ by `rest`.

    Raises:
        PatchError: the scale, or the convention, is one whose formula nobody wrote down.
    """
    formulas = scale.written()
    if formulas is None:
        raise PatchError(
            f"scale {scale} does not say how it is written in plain torch; give its class a method `written`, or keep "
            "this package and load the patch"
        )
    kind, result = _result(rest)
    if isinstance(rest, SoftplusOf) and not rest.floor and getattr(scale.codomain, "lower_bound", 0) > math.exp(_SMALL):
        result = _large_softplus("sigma", rest.beta)
    used = set(re.findall(r"\b(?:log_)?sigma\b", result))
    lines = [f"# σ = {scale}", f"p = {_argument(scale)}"]
    lines += [f"log_sigma = {formulas.log_sigma}"] if "log_sigma" in used else []
    lines += [f"sigma = {formulas.sigma}"] if "sigma" in used else []
    lines.append(f"return {result}")
    return Function(kind, "\n".join(f"    {line}" for line in lines))


def of_sigma(reads: Convention, rest: Convention) -> Function:
    """The function of a raw value v of which a host has σ by one convention, whose result it turns into the same σ by
    another.

    Raises:
        PatchError: the formula of a convention is not known.
    """
    kind, result = _result(rest)
    sigma, log_sigma = _forward(reads)
    return Function(kind, "\n".join(f"    {line}" for line in _defined(sigma, log_sigma, result)))


def _defined(sigma: str, log_sigma: str, result: str) -> list[str]:
    """The lines that give a result of σ and log σ, with those of the two that it has."""
    lines = [f"sigma = {sigma}"] if re.search(r"\bsigma\b", f"{result} {log_sigma}") else []
    lines += [f"log_sigma = {log_sigma}"] if re.search(r"\blog_sigma\b", result) else []
    return [*lines, f"return {result}"]


def _forward(convention: Convention) -> tuple[str, str]:
    """σ and log σ of a raw value v, the latter of v itself or of `sigma`."""
    if isinstance(convention, LogSigma):
        return "torch.exp(v)", "v"
    if isinstance(convention, LogVariance):
        return "torch.exp(0.5 * v)", "0.5 * v"
    if isinstance(convention, Sigma):
        return "v", "torch.log(sigma)"
    if isinstance(convention, Variance):
        return "torch.sqrt(v)", "0.5 * torch.log(v)"
    if isinstance(convention, SoftplusOf):
        steps: tuple[Step, ...] = (Step("softplus", (convention.beta,)),)
        if convention.floor:
            return _written([*steps, Step("add", (convention.floor,))]), "torch.log(sigma)"
        beta = convention.beta
        small = f"{beta!r} * v < {_SMALL!r}"
        tail = f"{beta!r} * v - {math.log(beta)!r}"
        return _written(steps), f"torch.where({small}, {tail}, torch.log(sigma.clamp(min=1e-30)))"
    if isinstance(convention, Composition):
        return _written(convention.steps), "torch.log(sigma)"
    raise PatchError(f"convention {convention} cannot be written in a line; let the code compute σ in one place")


def _written(steps: list[Step] | tuple[Step, ...]) -> str:
    """The steps on v, as plain torch."""
    value = "v"
    for step in steps:
        value = _FORTH[step.name](value, *step.constants)
    return value


def of_output(name: str, channels: ChannelRange, beside: bool = False) -> Function:
    """The function of a module's whole output, of which some channels go through another function.

    Args:
        beside: whether the other channels are those of a second value, which the host computes of the first.
    """
    dim, start, stop, step = channels
    before, after = (":, " * dim, "") if dim >= 0 else ("..., ", ", :" * (-dim - 1))
    part = f"v[{before}{channels}{after}]"
    whole = "value" if beside else "v"
    body = f"    return torch.slice_scatter({whole}, {name}({part}), {dim}, {start}, {stop}, {step})"
    return Function("output", body, "v, value" if beside else "v")


def _argument(scale: Scale) -> str:
    if not isinstance(scale, Shifted):
        return "v"
    product = "v" if scale.gain == 1 else f"{scale.gain!r} * v"
    if scale.shift == 0:
        return product
    return f"{product} {'-' if scale.shift < 0 else '+'} {abs(scale.shift)!r}"


def _result(rest: Convention) -> tuple[str, str]:
    """What the host reads, as a word for a name and as an expression of `sigma` and `log_sigma`."""
    if isinstance(rest, LogSigma):
        return "log_sigma", "log_sigma"
    if isinstance(rest, LogVariance):
        return "log_variance", "2 * log_sigma"
    if isinstance(rest, Sigma):
        return "sigma", "sigma"
    if isinstance(rest, Variance):
        return "variance", "torch.exp(2 * log_sigma)"
    if isinstance(rest, SoftplusOf):
        steps = [Step("softplus", (rest.beta,)), *([Step("add", (rest.floor,))] if rest.floor else [])]
        return "raw", _undone(steps)
    if isinstance(rest, Composition):
        return "raw", _undone(rest.steps)
    raise PatchError(f"convention {rest} cannot be undone in a line; let the code compute σ from the raw value itself")


def _undone(steps: list[Step] | tuple[Step, ...]) -> str:
    """The steps backwards, on σ and log σ, so that an exponential and a softplus are undone from the logarithm."""
    value, log = "sigma", "log_sigma"
    for step in reversed(steps):
        if step.name not in _BACK:
            raise PatchError(
                f"{step.name} cannot be undone in a line; let the code compute σ from the raw value itself"
            )
        value, log = _BACK[step.name](value, log or f"torch.log({value})", bool(log), *step.constants)
    return value


def _softplus(value: str, log: str, known: bool, beta: float) -> tuple[str, str]:
    small = f"{log} < {_SMALL!r}"
    guarded = f"torch.where({small}, torch.ones_like({value}), {value})"
    tail = log if beta == 1 else f"({log} + {math.log(beta)!r}) / {beta!r}"
    return f"torch.where({small}, {tail}, {_large_softplus(guarded, beta)})", ""


def _large_softplus(value: str, beta: float) -> str:
    """A softplus backwards, of a value that is not so small that its exponential rounds to 1."""
    if beta == 1:
        return f"{value} + torch.log(-torch.expm1(-{value}))"
    return f"{value} + torch.log(-torch.expm1(-{beta!r} * {value})) / {beta!r}"


def _elu(value: str, log: str, known: bool, alpha: float) -> tuple[str, str]:
    return f"torch.where({value} < 0, torch.log1p({value}.clamp(max=0) / {alpha!r}), {value})", ""


def _mul(value: str, log: str, known: bool, factor: float) -> tuple[str, str]:
    return f"({value} / {factor!r})", f"({log} - {math.log(abs(factor))!r})" if known and factor else ""


def _pow(value: str, log: str, known: bool, exponent: float) -> tuple[str, str]:
    if exponent % 2 != 1:
        root = f"({log} / {exponent!r})"
        return f"torch.exp({root})", root
    # an odd power keeps the sign, which a natural parameter has
    root = f"({log if known else f'torch.log({value}.abs())'} / {exponent!r})"
    return f"torch.copysign(torch.exp({root}), {value})", root


_FORTH: dict[str, Callable[..., str]] = {
    "add": lambda v, c: f"({v} + {c!r})",
    "mul": lambda v, c: f"({c!r} * {v})",
    "exp": lambda v: f"torch.exp({v})",
    "log": lambda v: f"torch.log({v})",
    "pow": lambda v, c: f"({v} ** {c!r})",
    "softplus": lambda v, beta: f"torch.nn.functional.softplus({v}, beta={beta!r})",
    "sigmoid": lambda v: f"torch.sigmoid({v})",
    "tanh": lambda v: f"torch.tanh({v})",
    "expm1": lambda v: f"torch.expm1({v})",
    "log1p": lambda v: f"torch.log1p({v})",
    "elu": lambda v, alpha: f"torch.nn.functional.elu({v}, alpha={alpha!r})",
    "leaky": lambda v, slope: f"torch.nn.functional.leaky_relu({v}, {slope!r})",
    "silu": lambda v: f"torch.nn.functional.silu({v})",
    "gelu": lambda v: f"torch.nn.functional.gelu({v})",
    "mish": lambda v: f"torch.nn.functional.mish({v})",
    "abs": lambda v: f"{v}.abs()",
    "clamp": lambda v, low, high: f"{v}.clamp({_bound(low)}, {_bound(high)})",
}


def _bound(value: float) -> str:
    return repr(value) if math.isfinite(value) else "None"


_Back = Callable[..., tuple[str, str]]

_BACK: dict[str, _Back] = {
    "add": lambda v, log, known, c: (f"({v} - {c!r})", ""),
    "mul": _mul,
    "exp": lambda v, log, known: (log, ""),
    "log": lambda v, log, known: (f"torch.exp({v})", v),
    "pow": _pow,
    "softplus": _softplus,
    "sigmoid": lambda v, log, known: (f"torch.logit({v})", ""),
    "tanh": lambda v, log, known: (f"torch.atanh({v})", ""),
    "expm1": lambda v, log, known: (f"torch.log1p({v})", ""),
    "log1p": lambda v, log, known: (f"torch.expm1({v})", ""),
    "elu": _elu,
    "leaky": lambda v, log, known, slope: (f"torch.where({v} < 0, {v} / {slope!r}, {v})", ""),
    "abs": lambda v, log, known: (v, log if known else ""),
    "clamp": lambda v, log, known, low, high: (v, log if known else ""),
}
