"""Gaussian decoders: N(x; μ, σ), μ from the network, σ given, learned, or emitted."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vdvae_patch import normal
from vdvae_patch.decoders.decoder import (
    DECODERS,
    CollapseWarning,
    Decoder,
    MeansBesideScales,
    can_look,
    draw,
    scale_of,
)
from vdvae_patch.decoders.masses import log_normal_mass
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import Range
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scales import Scale
from vdvae_patch.scales.arithmetic import wide

_MOST_RANGES = 1e12


class Gaussian(Decoder):
    """−log p(x) = D log σ + ‖x − μ‖² / 2σ² + ½ D log 2π; σ in the units of the data.

    The first C channels are μ as the network emits it: what squashes it, a sigmoid say, stays the network's.
    """

    is_density: ClassVar[bool] = True
    means_first: ClassVar[bool] = True

    def __init__(self, pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self._lowest_reported = math.inf

    def channels(self, image_channels: int) -> int:
        return image_channels

    def image_channels(self, channels: int) -> int:
        return channels

    @abstractmethod
    def log_sigma(self, parameters: Tensor) -> Tensor:
        """log σ in the units of the data, of a shape that broadcasts to the images'."""

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters[:, : self.image_channels(parameters.shape[1])]

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(parameters)
        return normal.sample(mean, self.log_sigma(parameters), draw("randn", mean, generator))

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        return normal.log_prob(x, self.mean(parameters), self._watched(x, parameters))

    def _log_mass(self, x: Tensor, parameters: Tensor) -> Tensor:
        return log_normal_mass(x, self.mean(parameters), self.log_sigma(parameters), self.pixels)

    def _watched(self, x: Tensor, parameters: Tensor) -> Tensor:
        log_sigma = self.log_sigma(parameters)
        if self.validate and self._looks and can_look(log_sigma):
            self._warn_of_collapse(log_sigma.detach())
        return log_sigma

    def _warn_of_collapse(self, log_sigma: Tensor) -> None:
        lowest = log_sigma.min().item()
        # each time it has fallen tenfold, and not each step
        if not lowest < min(math.log(self.pixels.noise) - 1e-3, self._lowest_reported - math.log(10)):
            return
        self._lowest_reported = lowest
        sigma, noise = math.exp(lowest), self.pixels.noise
        warnings.warn(
            f"{self._who}: σ has fallen to {sigma:.3g} ({self.pixels.grey_levels(sigma):.3g} grey levels)"
            f"{self._place(log_sigma)}, below the quantization noise of {noise:.3g}; the density of rounded data grows "
            f"there without limit, and its gradient with it. Give σ a floor: {self._remedy()}",
            CollapseWarning,
            stacklevel=2,
        )

    def _place(self, log_sigma: Tensor) -> str:
        return ""

    def _remedy(self) -> str:
        return f"{self.name}(scale=bounded)"


@DECODERS.register("fixed")
class Fixed(Gaussian):
    """σ is given, in the units of the data; 1 makes ½‖x − μ‖², the loss called MSE, and a constant."""

    def __init__(self, sigma: float = 1.0, pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        # a squared distance over σ² has to be a number of float32 for distances as large as the range
        low, high = self.pixels.range / _MOST_RANGES, self.pixels.range * _MOST_RANGES
        why = "in units of the pixels' range from a trillionth to a trillion, beyond which float32 has no likelihood"
        self.sigma = Range(low, high, why).check(self._who, "sigma", sigma)

    def log_sigma(self, parameters: Tensor) -> Tensor:
        return torch.full((), math.log(self.sigma), dtype=wide(parameters[:0]).dtype, device=parameters.device)

    def _remedy(self) -> str:
        return f"fixed(sigma={self.pixels.noise:.2g}) or more"


@DECODERS.register("shared")
class Shared(Gaussian):
    """One σ, a learned scalar `raw` through a scale.

    It starts at the range of the pixels, or at raw = 0 where the scale does not reach that.
    """

    learns_scale: ClassVar[bool] = True

    def __init__(self, scale: str | Scale = "bounded", pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self.scale = scale_of(scale, self.pixels)
        if not self.scale.bijective:
            raise InvalidValueError(f"{self._who}: scale {self.scale} has nothing to learn; take fixed(sigma=...)")
        start = self.scale.inverse(torch.tensor(self.pixels.range, dtype=torch.float64)).float()
        self.raw = nn.Parameter(torch.where(start.isfinite(), start, 0.0))

    def log_sigma(self, parameters: Tensor) -> Tensor:
        return self.scale.log_sigma(wide(self.raw))


class _Emitted(Gaussian):
    learns_scale: ClassVar[bool] = True

    def __init__(self, scale: str | Scale = "bounded", pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self.scale = scale_of(scale, self.pixels)

    @abstractmethod
    def raw(self, parameters: Tensor) -> Tensor:
        """The raw parameter of σ."""

    def log_sigma(self, parameters: Tensor) -> Tensor:
        return self.scale.log_sigma(wide(self.raw(parameters)))

    def _place(self, log_sigma: Tensor) -> str:
        names = ("image", "channel", "row", "column")
        position = torch.unravel_index(log_sigma.argmin(), log_sigma.shape)
        parts = zip(names, position, log_sigma.shape, strict=False)
        return " at " + ", ".join(f"{name} {int(index)}" for name, index, size in parts if size > 1 or name == "image")


@DECODERS.register("per_image")
class PerImage(_Emitted):
    """A σ for each image: the network's last channel, its mean over the image taken for the raw parameter."""

    def channels(self, image_channels: int) -> int:
        return image_channels + 1

    def image_channels(self, channels: int) -> int:
        if channels < 2:
            raise InvalidValueError(f"{self._who}: {channels} channel leaves none for the mean beside that of σ")
        return channels - 1

    def raw(self, parameters: Tensor) -> Tensor:
        last = wide(parameters[:, -1:])
        return last.flatten(1).mean(dim=1).reshape(-1, *[1] * (parameters.dim() - 1))


@DECODERS.register("per_pixel")
class PerPixel(MeansBesideScales, _Emitted):
    """A σ for each value: C channels of means, then C of raw parameters."""

    def raw(self, parameters: Tensor) -> Tensor:
        return parameters[:, self.image_channels(parameters.shape[1]) :]
