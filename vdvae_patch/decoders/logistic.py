"""Discretized logistics: one a value, and VDVAE's mixture of them a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch.decoders.decoder import DECODERS, Decoder, MeansBesideScales, draw, draw_index, scale_of, whole_number
from vdvae_patch.decoders.masses import log_logistic_mass
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scales import Scale
from vdvae_patch.scales.arithmetic import wide

_DEVIATION_TO_SCALE = math.sqrt(3) / math.pi
_SMALLEST_LOG_SCALE = -7.0
_MOST_COMPONENTS = 10_000
"""A channel for each number of each component: a network's last layer has that many."""


@DECODERS.register("logistic")
class Logistic(MeansBesideScales):
    """The mass that a logistic distribution gives to a pixel's bin: C means, then C raw parameters of the scale s.

    S((x − μ + step/2) / s) − S((x − μ − step/2) / s), S the sigmoid; the outermost bins are open. The standard
    deviation is s π / √3; bounds that a scale gets from the pixels are of that one.
    """

    learns_scale: ClassVar[bool] = True

    def __init__(self, scale: str | Scale = "bounded", pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self.scale = scale_of(scale, self.pixels, _DEVIATION_TO_SCALE)

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean of the logistic cut to the pixels' range; rounding to the levels moves it by less than half a step.

        Where s is more than 8 ranges, by its value in the middle of the range.
        """
        mean, log_scale = self._parts(parameters)
        return clipped_mean(mean, log_scale, self.pixels)

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, log_scale = self._parts(parameters)
        return self.pixels.round(_draw(mean, log_scale, draw("rand", mean, generator)))

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        return log_logistic_mass(x, *self._parts(parameters), self.pixels)

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        count = self.image_channels(parameters.shape[1])
        parameters = wide(parameters)
        return parameters[:, :count], self.scale.log_sigma(parameters[:, count:])


@DECODERS.register("logistic_mixture")
class LogisticMixture(Decoder):
    """VDVAE's likelihood: K logistics a pixel, whose colours depend on each other.

    log Σ_k π_k ∏_c [S(...) − S(...)], in units in which the range of the pixels is [−1, 1]. Within a component, green's
    mean moves with red, and blue's with red and green. Channels, in VDVAE's order: K logits, then for each colour K
    means, K log scales (cut below at −7) and K coefficients (through tanh: red to green, red to blue, green to blue).
    Grey images have K logits, K means, K log scales.

    VDVAE's own expression differs where the mass of a bin is below 1e-5, see `masses`.
    """

    learns_scale: ClassVar[bool] = True

    def __init__(self, components: int = 10, pixels: PixelGrid | None = None) -> None:
        super().__init__(pixels)
        self.components = whole_number(self._who, "components", components, _MOST_COMPONENTS)
        self._grid = PixelGrid(-1.0, 1.0, self.pixels.levels)

    def channels(self, image_channels: int) -> int:
        if image_channels not in _NUMBERS:
            raise InvalidValueError(
                f"{self._who} is for images of 1 or 3 channels, [B, 3, H, W], not {image_channels}; flat images are to "
                "be viewed as [B, 1, ...]"
            )
        return _NUMBERS[image_channels] * self.components

    def image_channels(self, channels: int) -> int:
        for image_channels, numbers in _NUMBERS.items():
            if channels == numbers * self.components:
                return image_channels
        wanted = " or ".join(str(numbers * self.components) for numbers in _NUMBERS.values())
        raise InvalidValueError(f"{self._who}: {self.components} components have {wanted} channels, not {channels}")

    def mean(self, parameters: Tensor) -> Tensor:
        """Σ_k π_k times the components' means cut to the range, in turn for red, green and blue.

        The expectation of grey and of red. A green or blue that depends on the colours before it is moved by their
        means, and not by what was drawn of them: the expectation too, as long as nothing of a component is cut.
        """
        parts = self._parts(parameters)
        weights = parts.logits.softmax(dim=1)
        colours: list[Tensor] = []
        for colour in range(parts.means.shape[1]):
            moved = parts.moved(colour, colours)
            colours.append(clipped_mean(moved, parts.log_scales[:, colour], self._grid))
        return self._to_data((torch.stack(colours, dim=1) * weights.unsqueeze(1)).sum(dim=2))

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        parts = self._parts(parameters)
        parts = parts.only(draw_index(parts.logits, 1, generator))
        uniform = draw("rand", parts.means, generator)
        colours: list[Tensor] = []
        for colour in range(parts.means.shape[1]):
            moved = parts.moved(colour, colours)
            colours.append(self._grid.round(_draw(moved, parts.log_scales[:, colour], uniform[:, colour])))
        return self._to_data(torch.stack(colours, dim=1).squeeze(2))

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        parts = self._parts(parameters)
        value = (2 * (wide(x) - self.pixels.low) / self.pixels.range - 1).unsqueeze(2)
        colours = list(value.unbind(dim=1))
        masses = sum(
            log_logistic_mass(colours[c], parts.moved(c, colours), parts.log_scales[:, c], self._grid)
            for c in range(len(colours))
        )
        return torch.logsumexp(masses + parts.logits.log_softmax(dim=1), dim=1)

    def _to_data(self, value: Tensor) -> Tensor:
        return self.pixels.low + 0.5 * self.pixels.range * (value + 1)

    def _parts(self, parameters: Tensor) -> _Parts:
        channels, K = self.image_channels(parameters.shape[1]), self.components
        parameters = wide(parameters)
        size = parameters.shape[2:]
        logits, rest = parameters[:, :K], parameters[:, K:].reshape(len(parameters), channels, -1, *size)
        means, log_scales = rest[:, :, :K], rest[:, :, K : 2 * K]
        coefficients = rest[:, :, 2 * K :].tanh() if channels > 1 else None
        return _Parts(logits, means, log_scales.clamp(min=_SMALLEST_LOG_SCALE), coefficients)


_NUMBERS = {3: 10, 1: 3}
"""Numbers a component, by the channels of the image."""


@dataclass(frozen=True)
class _Parts:
    """logits `[B, K, ...]`; means, log_scales, coefficients `[B, C, K, ...]`."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    coefficients: Tensor | None

    def moved(self, colour: int, before: list[Tensor]) -> Tensor:
        """The means `[B, K, ...]` of a colour, given the values of those before it."""
        means = self.means[:, colour]
        if self.coefficients is None or colour == 0:
            return means
        if colour == 1:
            return means + self.coefficients[:, 0] * before[0]
        return means + self.coefficients[:, 1] * before[0] + self.coefficients[:, 2] * before[1]

    def only(self, component: Tensor) -> _Parts:
        """The parameters of one component a pixel, `[B, 1, ...]`."""

        def pick(values: Tensor) -> Tensor:
            index = component.unsqueeze(1).expand(-1, values.shape[1], *component.shape[1:])
            return values.gather(2, index)

        coefficients = None if self.coefficients is None else pick(self.coefficients)
        return _Parts(self.logits.gather(1, component), pick(self.means), pick(self.log_scales), coefficients)


def free_mean(parameters: Tensor, components: int) -> Tensor:
    """E[x] of a mixture of logistics that are cut nowhere, for three colours: `[B, 10 K, ...]` to `[B, 3, ...]`.

    In the units of the mixture, [-1, 1]. Its gradient does not vanish outside of the range.
    """
    parts = LogisticMixture(components)._parts(parameters)
    weights = parts.logits.softmax(dim=1)
    colours: list[Tensor] = []
    for colour in range(3):
        colours.append(parts.moved(colour, colours))
    return (torch.stack(colours, dim=1) * weights.unsqueeze(1)).sum(dim=2)


def clipped_mean(mean: Tensor, log_scale: Tensor, grid: PixelGrid) -> Tensor:
    """E[clip(X, low, high)] of a logistic X: low + s softplus((μ − low) / s) − s softplus((μ − high) / s)."""
    scale = log_scale.clamp(max=60).exp()
    narrow, flat = scale < 1e-12 * grid.range, scale > 8 * grid.range
    safe = torch.where(narrow | flat, grid.range, scale)
    soft = safe * (F.softplus((mean - grid.low) / safe) - F.softplus((mean - grid.high) / safe))
    # a difference of two large numbers there
    wide_share = torch.sigmoid((mean - 0.5 * (grid.low + grid.high)) / torch.where(flat, scale, grid.range))
    sharp = (mean - grid.low).clamp(0, grid.range)
    return grid.low + torch.where(narrow, sharp, torch.where(flat, grid.range * wide_share, soft))


def _draw(mean: Tensor, log_scale: Tensor, uniform: Tensor) -> Tensor:
    eps = torch.finfo(uniform.dtype).eps
    uniform = uniform.clamp(eps, 1 - eps)
    return mean + log_scale.exp() * (torch.log(uniform) - torch.log1p(-uniform))
