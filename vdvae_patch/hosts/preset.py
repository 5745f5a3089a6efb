"""What a host's entry gives to training: presets, and the three numbers of a loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import Range
from vdvae_patch.reading.fields import shown

if TYPE_CHECKING:
    from torch import Tensor


MOST_IMAGES = 2**20
"""Of a step; more than a million in one is a slip of the keyboard, or a forged file."""
MOST_UNITS = 2**20
"""Of a layer, of latents, of components."""
MOST = 2**53
"""Of anything that is counted: beyond, a float skips numbers."""
_FEW_UPDATES = 0.05
"""Share of the initial weights in the averaged ones from which it is said."""
_FACTOR = Range(1e-30, 1e30, "float32 holds no weight that was changed by it")
_LIMIT = Range(1e-30, math.inf, "float32 holds no gradient below")


class Losses(NamedTuple):
    """Scalars in nats per dimension, averaged over the batch; elbo = distortion + rate is minimised (a NELBO)."""

    elbo: Tensor
    distortion: Tensor
    rate: Tensor


class Latent(NamedTuple):
    """What one pair of posterior and prior drew: `z`, and its elementwise KL in nats."""

    z: Tensor
    kl: Tensor


@dataclass(frozen=True)
class Optimization:
    """How a model is trained, whatever it is: AdamW, linear warm-up, clipping, the skip rule, EMA.

    Attributes:
        lr: learning rate after the warm-up.
        wd: decoupled weight decay.
        adam_beta1: decay of Adam's first moment.
        adam_beta2: decay of Adam's second moment.
        warmup_iters: steps over which the learning rate rises linearly from 0.
        batch_size: images a rank and step.
        ema_rate: decay of the moving average of the weights that is evaluated.
        grad_clip: the norm that the gradient is clipped to; auto: twice the median of the last 100 updates.
        skip_threshold: an update whose gradient norm (before clipping) is not below it is skipped; -1 turns that off.
    """

    lr: float = 1.5e-4
    wd: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.9
    warmup_iters: int = 0
    batch_size: int = 32
    ema_rate: float = 0.999
    grad_clip: float | Literal["auto"] = 200.0
    skip_threshold: float = 400.0

    def __post_init__(self) -> None:
        _require(_FACTOR.has(self.lr), "lr", self.lr, "a positive number, from 1e-30 to 1e30")
        _require(self.wd == 0 or _FACTOR.has(self.wd), "wd", self.wd, "zero or more, up to 1e30")
        _require(0 <= self.adam_beta1 < 1, "adam-beta1", self.adam_beta1, "in [0, 1)")
        _require(0 <= self.adam_beta2 < 1, "adam-beta2", self.adam_beta2, "in [0, 1)")
        _require(0 <= self.warmup_iters <= MOST, "warmup-iters", self.warmup_iters, f"zero or more, up to {MOST:,}")
        _require(1 <= self.batch_size <= MOST_IMAGES, "batch-size", self.batch_size, f"from 1 to {MOST_IMAGES:,}")
        _require(0 <= self.ema_rate < 1, "ema-rate", self.ema_rate, "in [0, 1)")
        if self.grad_clip != "auto":
            if isinstance(self.grad_clip, str):
                raise InvalidValueError(f"--grad-clip must be a positive number, or auto, not {self.grad_clip!r}")
            _require(
                _LIMIT.has(self.grad_clip), "grad-clip", self.grad_clip, "a positive number from 1e-30 on, or auto"
            )
        allowed = _LIMIT.has(self.skip_threshold) or self.skip_threshold == -1
        _require(
            allowed,
            "skip-threshold",
            self.skip_threshold,
            "a positive number from 1e-30 on, or -1 to turn the test off",
        )

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: `lr · min(1, step / warmup_iters)`."""
        return self.lr if step >= self.warmup_iters else self.lr * step / self.warmup_iters

    def initial_share(self, updates: int) -> float:
        """How much of the averaged weights is still what they began with after so many updates: `ema_rate^updates`."""
        return initial_share(self.ema_rate, updates)

    def averages_lag(self, updates: int) -> str:
        """See `averages_lag`."""
        return averages_lag(self.ema_rate, updates)


def initial_share(ema_rate: float, updates: int) -> float:
    """How much of averaged weights is still what they began with after so many updates: `ema_rate^updates`."""
    return float(ema_rate**updates)


def averages_lag(ema_rate: float, updates: int, known_share: float | None = None) -> str:
    """That averaged weights are still the initial ones to more than 5% after so many updates; empty if not.

    Args:
        known_share: how much they are, of a run that was not averaged at one rate all the time.
    """
    of_one_rate = initial_share(ema_rate, updates)
    share = of_one_rate if known_share is None else known_share
    if share <= _FEW_UPDATES:
        return ""
    count = "one update" if updates == 1 else f"{updates:,} updates"
    rate = f"at --ema-rate {ema_rate:g}"
    if abs(share - of_one_rate) > 1e-6:
        rate = f"at more than one rate, the last {rate[3:]},"
    return (
        f"after {count} {rate} the averaged weights (EMA), which are what is tested and shown, are "
        f"still the initial ones to {share:.0%}: test NELBO and images say little of what was trained. Lower it for a "
        "short run"
    )


@dataclass(frozen=True)
class Preset:
    """A named choice of architecture (a frozen dataclass of the host's entry) and optimization, with its data."""

    optimization: Optimization
    architecture: Any
    data: str
    note: str = ""


def require_sizes(architecture: Any, **least: int) -> None:
    """Refuse sizes of an architecture below the least that means something, or above any that fits into memory.

    Args:
        least: by the name of the field.

    Raises:
        InvalidValueError: the flag, its range and the value.
    """
    for name, low in least.items():
        value = getattr(architecture, name)
        flag = name.replace("_", "-")
        if not low <= value <= MOST_UNITS:
            wanted = f"at least {low}" if value < low else f"at most {MOST_UNITS:,}"
            raise InvalidValueError(f"--{flag} must be {wanted}, not {shown(value)}")


def _require(condition: bool, flag: str, value: float, wanted: str) -> None:
    if not condition:  # also for NaN
        said = f"{value:g}" if isinstance(value, float) else shown(value)  # no float holds some integers
        raise InvalidValueError(f"--{flag} must be {wanted}, not {said}")
