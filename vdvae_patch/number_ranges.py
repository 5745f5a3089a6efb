"""Numbers that a user may ask for: each has a range, in which what is promised of it was measured (docs/scales.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vdvae_patch.errors import InvalidValueError


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, and 0 too if `zero`.

    `words` is what they are called in a message, such as "a positive number". `why` says what lies beyond the ends.
    """

    low: float
    high: float
    why: str
    zero: bool = False
    words: str = ""

    def has(self, number: float) -> bool:
        """Whether a number is inside."""
        return self.low <= number <= self.high or (self.zero and number == 0)

    def check(self, who: str, key: str, value: object) -> float:
        """The number as a float.

        Raises:
            InvalidValueError: no number, or one outside; the message has the range.
        """
        number = as_float(value)
        if number is not None and self.has(number):
            return number
        shown = f"{number:g}" if number is not None else repr(value)
        ends = f"{'0, or ' if self.zero and self.low > 0 else ''}from {self.low:g} to {self.high:g}"
        if number is None or not math.isfinite(number) or (self.low >= 0 and number <= 0):
            raise InvalidValueError(f"{who}: {key} must be {self._called()}, not {shown} ({ends})")
        raise InvalidValueError(f"{who}: {key} must be {ends}, not {shown}: {self.why}")

    def _called(self) -> str:
        if self.words:
            return self.words
        return (
            "a number"
            if self.low < 0
            else "a number of at least 0"
            if self.zero or not self.low
            else "a positive number"
        )


def as_float(value: object) -> float | None:
    """A number as a float, infinite where it is too large for one; None for anything else, such as text or True."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]  # of an int
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        return None


SIGMA = Range(
    1e-300, 1e30, "a larger σ is none that float32 can compute with, nor has a smaller one a logarithm that is exact"
)
"""Of a bound of σ."""

FLOOR = Range(1e-300, 1e15, "an exponential that is added to more has to be larger than float32 holds")
"""Of a number that an exponential is added to, and the logarithm taken of the sum."""

ANY_SIGMA = Range(1e-300, 1e300, "beyond that float64 has no room for it")
"""Of a σ that nothing is computed from but its logarithm; a type that does not hold it shows 0 or ∞."""

BETA = Range(1e-6, 1e6, "σ and its inverse lose their digits beyond")
"""Of a softplus."""

LIMIT = Range(1e-3, 1e4, "a limit below bends nothing that float32 resolves, and one above bounds nothing")
"""Of a soft clamp."""

LOG_VARIANCE = Range(-1e30, 1e30, "float32 holds no more")
GAIN = Range(1e-10, 1e10, "float32 loses the product with a raw parameter beyond")
SHIFT = Range(-1e6, 1e6, "of a raw parameter that is added to more float32 keeps no digit behind the point")
WEIGHT = Range(1e-30, 1e30, "a loss with it is 0 or infinite in float32", zero=True)
"""Of a term of a loss, and of a floor under it."""
