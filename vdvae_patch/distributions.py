"""A `torch.distributions.Normal` that carries log σ, with KL and log density by stable arithmetic.

PyTorch's KL of two Normals takes ½ log (σ_q/σ_p)², whose square underflows at log σ_q − log σ_p = −51 in float32, half
as far as σ itself ("Re-parameterizing VAEs for stability", table 1). Here no square is taken before a ratio, nor a
log of one; the divergence stays finite as long as σ is not rounded to zero, and beyond where log σ is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, constraints, register_kl
from torch.distributions.utils import broadcast_all

from vdvae_patch import normal


class StableNormal(Normal):
    """N(loc, scale) whose `log_prob`, `rsample` and `kl_divergence` are computed from log σ.

    Args:
        loc, scale: mean and σ, as `Normal` takes them.
        log_scale: log σ, where it is known better than as the log of `scale`, or than what that carries (`carrying`).
    """

    # a σ that rounds to zero, which `Normal` refuses, is no fault of one that is known by its logarithm
    arg_constraints = {"loc": constraints.real, "scale": constraints.nonnegative}  # noqa: RUF012  as its base has them

    def __init__(
        self, loc: Any, scale: Any, validate_args: bool | None = None, *, log_scale: Tensor | None = None
    ) -> None:
        known = carried(scale) if log_scale is None else log_scale
        super().__init__(loc, scale, validate_args=validate_args)
        self.log_scale = _log(self.scale) if known is None else broadcast_all(known, self.loc)[0]
        self._carrier = scale if log_scale is None and known is not None else None
        self._seen = _seen(self.scale)

    @property
    def scale(self) -> Tensor:
        """σ. A host that puts another one there, as a temperature does, gets the logarithm of that."""
        given: Tensor = self.__dict__["scale"]
        return given

    @scale.setter
    def scale(self, scale: Tensor) -> None:
        made = "scale" in self.__dict__
        self.__dict__["scale"] = scale
        if made:
            self.log_scale, self._carrier = _log(torch.as_tensor(scale)), None
            self._seen = _seen(scale)

    def _log_sigma(self) -> Tensor:
        """`log_scale`; of a σ that was changed in place since, its logarithm. Where σ has hooks, or retains its
        gradient, it is computed through σ, so that they see the whole gradient."""
        if _is_changed(self.scale, getattr(self, "_seen", None)):
            return _log(self.scale)
        carrier = getattr(self, "_carrier", None)
        if carrier is not None and _is_watched(carrier):
            through: Tensor = _Through.apply(carrier, self.log_scale.detach())  # type: ignore[no-untyped-call]
            # past a σ that is rounded, whose slope has no digits, the gradient goes to log σ as where nobody looks
            return torch.where(carrier >= torch.finfo(carrier.dtype).smallest_normal, through, self.log_scale)
        return self.log_scale

    def expand(self, batch_shape: Any, _instance: Any = None) -> StableNormal:
        """As `Normal.expand`."""
        new: StableNormal = self._get_checked_instance(StableNormal, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        new.log_scale = self._log_sigma().expand(batch_shape)
        super(Normal, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, elementwise."""
        if self._validate_args:
            self._validate_sample(value)
        return normal.log_prob(value, self.loc, self._log_sigma())

    def entropy(self) -> Tensor:
        """½ + ½ log 2π + log σ, in nats."""
        return 0.5 + normal.HALF_LOG_2PI + self._log_sigma()


class _Through(torch.autograd.Function):
    """A log σ that is known, whose gradient goes to σ as that of σ's logarithm does: g / σ."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: Tensor, log_scale: Tensor) -> Tensor:
        return log_scale.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        least = torch.finfo(scale.dtype).smallest_normal
        return (gradient / scale.clamp(min=least)).sum_to_size(scale.shape), None


def _is_watched(scale: Tensor) -> bool:
    """Whether somebody looks at a tensor's gradient, or changes it."""
    if torch.compiler.is_compiling() or not scale.requires_grad:
        return False
    return bool(scale.retains_grad or scale._backward_hooks)


def _seen(scale: Any) -> tuple[int, int] | None:
    """Which tensor it is, and its version; a copy of it is another one, of which nothing is known."""
    return None if torch.compiler.is_compiling() or not isinstance(scale, Tensor) else (id(scale), _version(scale))


def _is_changed(scale: Any, seen: tuple[int, int] | None) -> bool:
    """Whether a tensor was changed in place since."""
    if seen is None or torch.compiler.is_compiling() or not isinstance(scale, Tensor):
        return False
    return id(scale) == seen[0] and _version(scale) != seen[1]


_CARRIED = "_vdvae_patch_log_scale"


def carrying(scale: Tensor, log_scale: Tensor) -> Tensor:
    """The same tensor σ with log σ beside it, for a `StableNormal` that is made of it.

    σ = exp(p) is rounded to zero below p = −104 in float32 (−18 in float16), and from −88 (−10) on it has few digits;
    its logarithm is p. A compiler makes no such attribute; the Normal then takes the log of σ, as far as that goes.
    """
    if isinstance(scale, Tensor) and not torch.compiler.is_compiling() and scale.shape == log_scale.shape:
        setattr(scale, _CARRIED, (log_scale, _version(scale)))
    return scale


def carried(scale: Any) -> Tensor | None:
    """The log σ that a tensor carries; None if it carries none, or was changed in place since."""
    if not isinstance(scale, Tensor) or torch.compiler.is_compiling():
        return None
    log_scale, version = getattr(scale, _CARRIED, (None, 0))
    return log_scale if version == _version(scale) else None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _log(scale: Tensor) -> Tensor:
    # a σ that was rounded to zero counts as the smallest number that is none, so that no −∞ meets an ∞
    return scale.clamp(min=torch.finfo(scale.dtype).smallest_normal * torch.finfo(scale.dtype).eps).log()


def _log_scale(distribution: Normal) -> Tensor:
    return distribution._log_sigma() if isinstance(distribution, StableNormal) else _log(distribution.scale)


def _kl(q: Normal, p: Normal) -> Tensor:
    return normal.kl_divergence(q.loc, _log_scale(q), p.loc, _log_scale(p))


for _pair in ((StableNormal, StableNormal), (StableNormal, Normal), (Normal, StableNormal)):
    register_kl(*_pair)(_kl)  # type: ignore[no-untyped-call]
