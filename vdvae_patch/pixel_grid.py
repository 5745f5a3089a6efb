"""The values that an 8-bit pixel may have, and the bins around them.

Level k of L stands at low + k (high − low) / (L − 1), in the units of the data. Its bin reaches half a step to either
side; the lowest is open towards −∞ and the highest towards +∞, so that every density gives masses that sum to one.

The standard deviation of what rounding hides, the quantization noise, is taken as (high − low) / (256 √12) for 256
levels, as "Re-parameterizing VAEs for stability" has it (section 4): no likelihood of rounded data should believe in a
smaller error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import as_float

OFF_GRID = 0.25
"""How far, in steps, a value may be from a level: float16 near 1 is off by 0.13 steps of a grid from −1 to 1."""

LARGEST, SMALLEST_RANGE = 1e15, 1e-12
"""Squares of these, and of a range over a trillion, are normal numbers of float32."""

FINEST = 1e-6
"""The finest step as a share of the largest value; eps of float32 is 1.2e-7."""

MOST_LEVELS = 2**16


@dataclass(frozen=True)
class PixelGrid:
    """`levels` values from `low` to `high`; by default 8 bits in [0, 1].

    With `open_ends=False` the outermost bins of a Gaussian are as wide as the others, and the mass outside is lost: the
    likelihood of a density under uniform noise, which a wide σ cannot improve by what it puts beyond black and white.

    VDVAE's pixels are `PixelGrid(-1, 1)`, bytes `PixelGrid(0, 255)`, values (k + 0.5) / 256
    `PixelGrid(1 / 512, 511 / 512)`.

    Raises:
        InvalidValueError: a range that is none, or fewer than two levels.
    """

    low: float = 0.0
    high: float = 1.0
    levels: int = 256
    open_ends: bool = True

    def __post_init__(self) -> None:
        for name in ("low", "high"):  # numbers such as 0 and 255 are no integers of a tensor's type
            number = as_float(getattr(self, name))
            if number is None:
                raise InvalidValueError(f"a grid of pixels: {name} must be a number, not {getattr(self, name)!r}")
            object.__setattr__(self, name, number)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidValueError(f"a grid of pixels goes from a low to a high value, not {self.low} to {self.high}")
        levels = as_float(self.levels)
        if levels is None or not 2 <= levels <= MOST_LEVELS or levels != int(levels):
            raise InvalidValueError(
                f"a grid of pixels has two levels or more, up to {MOST_LEVELS:,}, not {self.levels}"
            )
        object.__setattr__(self, "levels", int(levels))
        largest = max(abs(self.low), abs(self.high))
        if largest > LARGEST or not self.step > largest * FINEST:
            raise InvalidValueError(
                f"a grid of pixels has values of up to {LARGEST:g}, and steps of more than {FINEST:g} of the largest, "
                f"which float32 can tell apart; not {self.levels} levels from {self.low:g} to {self.high:g}: map "
                "the images to [0, 1], say"
            )
        if self.range < SMALLEST_RANGE:
            raise InvalidValueError(
                f"a grid of pixels has a range of {SMALLEST_RANGE:g} or more, whose square float32 holds, not from "
                f"{self.low:g} to {self.high:g}"
            )

    @classmethod
    def of(cls, pixels: PixelGrid | None) -> PixelGrid:
        """The grid that was given, or 8 bits in [0, 1].

        Raises:
            InvalidValueError: something else than a grid.
        """
        if pixels is None:
            return cls()
        if not isinstance(pixels, PixelGrid):
            raise InvalidValueError(f"pixels are a PixelGrid(low, high), not {pixels!r}")
        return pixels

    @property
    def range(self) -> float:
        """high − low."""
        return self.high - self.low

    @property
    def step(self) -> float:
        """From one level to the next."""
        return self.range / (self.levels - 1)

    @property
    def noise(self) -> float:
        """The quantization noise, range / (levels √12), a standard deviation."""
        return self.range / (self.levels * math.sqrt(12))

    def grey_levels(self, sigma: float) -> float:
        """A standard deviation in units of the data, in steps of the grid."""
        return sigma / self.step

    def values(self, like: Tensor) -> Tensor:
        """The value of each level, `[levels]`, on the device of `like` and at least in float32."""
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        return torch.linspace(self.low, self.high, self.levels, dtype=dtype, device=like.device)

    def index(self, x: Tensor) -> Tensor:
        """The nearest level of each value, int64."""
        return self._position(x).round().clamp(0, self.levels - 1).long()

    def round(self, x: Tensor) -> Tensor:
        """The value of the nearest level, what an 8-bit file keeps of x."""
        return (self.low + self.index(x) * self.step).to(x.dtype)

    def check(self, x: Tensor, who: str, on_grid: bool) -> None:
        """Refuse values outside the range, and with `on_grid` values between levels.

        Raises:
            InvalidValueError: with the values that were seen, and what to write.
        """
        if x.numel() == 0:
            raise InvalidValueError(f"{who}: there is no image in a batch of shape {tuple(x.shape)}")
        position = self._position(x)
        lowest, highest = torch.aminmax(position)
        # one wait for the device; a NaN is the smallest and the largest
        first, last, off = torch.stack([lowest, highest, (position - position.round()).abs().max()]).tolist()
        if not (math.isfinite(first) and math.isfinite(last)):
            raise InvalidValueError(f"{who}: the data have NaN or infinite values")
        # noise of one step, put on to make the data continuous, is inside, whether it is from 0 or around it
        below, above = (OFF_GRID, OFF_GRID) if on_grid else (0.501, 1.001)
        if first < -below or last > self.levels - 1 + above:
            low, high = (self.low + value * self.step for value in (first, last))
            raise InvalidValueError(
                f"{who}: the data go from {low:.4g} to {high:.4g}, and not from {self.low:g} to {self.high:g}; say "
                "so by "
                f"pixels=PixelGrid({_likely(low, high)}), the smallest and the largest value that a pixel may have"
            )
        if on_grid and off > OFF_GRID:
            raise InvalidValueError(
                f"{who}: values lie between the {self.levels} levels from {self.low:g} to {self.high:g}, so they have "
                "no bin; were they resized or made continuous by noise, or is the grid another (pixels=PixelGrid(...))?"
            )

    def _position(self, x: Tensor) -> Tensor:
        x = x.detach()
        x = x if x.dtype == torch.float64 else x.float()
        return (x - self.low) / self.step


def _likely(low: float, high: float) -> str:
    for first, last in ((0, 1), (-0.5, 0.5), (-1, 1), (0, 255)):
        spare = 1e-3 * (last - first)
        if low >= first - spare and high <= last + spare:
            return f"{first:g}, {last:g}"
    return f"{low:.4g}, {high:.4g}"
