"""A scale of gain · p + shift in the place of p: `explin(gain=0.5, shift=-6)`.

The paper's formulas are of a p that is a log σ. A host may read something else from its channels, such as a log
variance, and a model that was trained must keep its σ when it is patched. So the argument of the scale is the host's
own log σ, which for most hosts is gain · v + shift of the value v that they read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import GAIN, SHIFT, as_float
from vdvae_patch.scales.scale import Scale, Written


class Shifted(Scale):
    """σ(p) = base(gain · p + shift), with the same range as the base.

    Raises:
        InvalidValueError: the gain is zero, or one of the two is outside of its range, see `number_ranges`.
    """

    def __init__(self, base: Scale, gain: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        who, number = f"scale {base.name}", as_float(gain)
        if not number or math.isnan(number):
            raise InvalidValueError(f"{who}: gain must be a number other than 0, not {gain}")
        GAIN.check(who, "the size of gain", abs(number))
        self.base = base
        self.gain, self.shift = number, SHIFT.check(who, "shift", shift)
        self.codomain = base.codomain
        self.bijective = base.bijective
        self.as_written = base.as_written
        self.sign = base.sign if gain > 0 else -base.sign

    @property
    def name(self) -> str:  # type: ignore[override]
        """The base's."""
        return self.base.name

    def arguments(self) -> dict[str, float]:
        """Those of the base, and gain and shift."""
        return {**self.base.arguments(), "gain": self.gain, "shift": self.shift}

    def defaults(self) -> dict[str, Any]:
        """See `Scale.defaults`."""
        return {**self.base.defaults(), "gain": 1.0, "shift": 0.0}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shifted) and (self.base, self.gain, self.shift) == (
            other.base,
            other.gain,
            other.shift,
        )

    def __hash__(self) -> int:
        return hash((self.base, self.gain, self.shift))

    def _argument(self, p: Tensor) -> Tensor:
        if self.shift == 0:
            return self.gain * p
        if self.gain == 1:
            return p + self.shift
        return torch.add(p.new_full((), self.shift), p, alpha=self.gain)

    def _slope(self, slope: Tensor) -> Tensor:
        return slope if self.gain == 1 else self.gain * slope

    def _sigma(self, p: Tensor) -> Tensor:
        return self.base._sigma(self._argument(p))

    def _sigma_slope(self, p: Tensor) -> Tensor:
        return self._slope(self.base._sigma_slope(self._argument(p)))

    def _log_sigma(self, p: Tensor) -> Tensor:
        return self.base._log_sigma(self._argument(p))

    def _log_sigma_slope(self, p: Tensor) -> Tensor:
        return self._slope(self.base._log_sigma_slope(self._argument(p)))

    @property
    def has_sigma_first(self) -> bool:  # type: ignore[override]
        """As the base."""
        return self.base.has_sigma_first

    def sigma_and_slope(self, p: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Scale.sigma_and_slope`."""
        sigma, slope = self.base.sigma_and_slope(self._argument(p))
        return sigma, None if slope is None else slope.mul_(self.gain)

    def written(self) -> Written | None:
        return self.base.written()  # of the argument

    @property
    def _reaches_ends(self) -> bool:  # type: ignore[override]
        return self.base._reaches_ends

    def inverse(self, sigma: Tensor) -> Tensor:
        exact = self._exact(sigma)
        return ((self.base.inverse(exact) - self.shift) / self.gain).to(sigma.dtype)
