"""Conventions: how a host turns the value that it reads into σ, and which value gives a σ that is wanted.

A patch replaces what a host reads by the pre-image v = g⁻¹(σ(p)) of the new scale, g being the convention. For a host
that reads log sigma that is the paper's log σ̂(p), exactly.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from vdvae_patch.number_ranges import BETA, SIGMA, Range
from vdvae_patch.registry import Registry, format_number

if TYPE_CHECKING:
    from torch import Tensor

    from vdvae_patch.scales import Scale

CONVENTIONS: Registry[Convention] = Registry("convention", "vdvae_patch.conventions", lambda: Convention)


class Convention(ABC):
    """g: the value v that a host reads, to σ."""

    name: ClassVar[str] = ""

    @abstractmethod
    def sigma(self, v: Tensor) -> Tensor:
        """g(v), the σ that the host computes."""

    def log_sigma(self, v: Tensor) -> Tensor:
        """log g(v), for showing: by the log of σ unless the convention knows better."""
        return self.sigma(v).log()

    @abstractmethod
    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        """g⁻¹(scale(p)): what the host has to read to compute σ = scale(p)."""

    def is_identity(self, scale: Scale) -> bool:
        """Whether the pre-image of the scale is p itself, so that the patch has nothing to do."""
        return False

    def __str__(self) -> str:
        """The specification that gives it back: its name, and the arguments that are not at their defaults."""
        parameters = inspect.signature(type(self)).parameters.values()
        values = {p.name: getattr(self, p.name, p.default) for p in parameters if not _is_default(self, p)}
        inner = ", ".join(f"{key}={_written(value)}" for key, value in values.items())
        name = self.name or type(self).__name__  # of a class that nobody registered
        return f"{name}({inner})" if inner else name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


def _is_default(convention: Convention, parameter: inspect.Parameter) -> bool:
    value: object = getattr(convention, parameter.name, parameter.default)
    return value is parameter.default or bool(value == parameter.default)


def _written(value: object) -> str:
    return format_number(value) if isinstance(value, int | float) else repr(value)


def _wide(p: Tensor) -> Tensor:
    # an exponential of a half number has lost its last digits
    return p.float() if p.dtype.itemsize < 4 else p


def get(spec: str | Convention) -> Convention:
    """The convention of a specification such as `log_sigma` or `softplus(beta=2)`."""
    return spec if isinstance(spec, Convention) else CONVENTIONS.get(spec)


@CONVENTIONS.register("log_sigma")
class LogSigma(Convention):
    """σ = exp(v)."""

    def sigma(self, v: Tensor) -> Tensor:
        return v.exp()

    def log_sigma(self, v: Tensor) -> Tensor:
        return v

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        return scale.log_sigma(p)

    def is_identity(self, scale: Scale) -> bool:
        from vdvae_patch.scales import Exp

        return type(scale) is Exp


@CONVENTIONS.register("log_variance")
class LogVariance(Convention):
    """σ = exp(v / 2)."""

    def sigma(self, v: Tensor) -> Tensor:
        return (0.5 * v).exp()

    def log_sigma(self, v: Tensor) -> Tensor:
        return 0.5 * v

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        return scale.log_variance(p)

    def is_identity(self, scale: Scale) -> bool:
        from vdvae_patch.scales import Exp

        return scale == Exp().shifted(gain=0.5)


@CONVENTIONS.register("sigma")
class Sigma(Convention):
    """σ = v."""

    def sigma(self, v: Tensor) -> Tensor:
        return v

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        return scale.sigma(p)


@CONVENTIONS.register("variance")
class Variance(Convention):
    """σ = √v. A σ below the root of the smallest number underflows on its way through the host."""

    def sigma(self, v: Tensor) -> Tensor:
        return v.sqrt()

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        from vdvae_patch.scales.arithmetic import free_exp

        return free_exp(scale.log_variance(_wide(p))).to(p.dtype)


_FLOOR = Range(SIGMA.low, SIGMA.high, SIGMA.why, zero=True, words="zero or a positive number")
_TAIL = -15.0  # the next term of a softplus' tail, exp(2x)/24, is under float64 rounding here


def log_softplus(v: Tensor, beta: float) -> Tensor:
    """log(softplus(β v) / β), also where the softplus underflows: x − exp(x) / 2 + ..., x = β v."""
    import torch
    import torch.nn.functional as F

    x = beta * v
    tail = x - 0.5 * x.clamp(max=_TAIL).exp()
    return torch.where(x < _TAIL, tail, F.softplus(x.clamp(min=_TAIL)).log()) - math.log(beta)


@CONVENTIONS.register("softplus")
class SoftplusOf(Convention):
    """σ = log(1 + exp(β v)) / β + floor, as `torch.nn.functional.softplus` computes it.

    With a floor the host cannot go below it: a σ(p) under the floor comes out as the floor.
    """

    _TAIL: ClassVar[float] = _TAIL

    def __init__(self, beta: float = 1.0, floor: float = 0.0) -> None:
        self.beta = BETA.check("convention softplus", "beta", beta)
        self.floor = _FLOOR.check("convention softplus", "floor", floor)

    def sigma(self, v: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.softplus(v, beta=self.beta) + self.floor

    def log_sigma(self, v: Tensor) -> Tensor:
        log = log_softplus(v, self.beta)
        return log if self.floor == 0 else log.exp().add(self.floor).log()

    def preimage(self, scale: Scale, p: Tensor) -> Tensor:
        import torch

        wide = _wide(p)
        if self.floor == 0:
            # log(expm1(βσ)) = βσ + log(−expm1(−βσ)), and x + exp(x)/2, x = log(βσ), of a σ about to underflow
            log_of_product = scale.log_sigma(wide) + math.log(self.beta)
            small = log_of_product < self._TAIL
            tail = log_of_product + 0.5 * log_of_product.clamp(max=self._TAIL).exp()
            sigma = torch.where(small, 1.0, scale.sigma(wide))
            v = torch.where(small, tail / self.beta, self._inverse(sigma))
        else:
            v = self._inverse((scale.sigma(wide) - self.floor).clamp(min=torch.finfo(wide.dtype).tiny))
        return v.to(p.dtype)

    def _inverse(self, sigma: Tensor) -> Tensor:
        import torch

        return sigma + torch.log(-torch.expm1(-self.beta * sigma)) / self.beta

    def is_identity(self, scale: Scale) -> bool:
        from vdvae_patch.scales import Softplus

        return self.floor == 0 and type(scale) is Softplus and scale.beta == self.beta
