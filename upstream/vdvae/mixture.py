"""The likelihood of a pixel: a mixture of discretized logistics (PixelCNN++, https://arxiv.org/abs/1701.05517).

A pixel's three values share the choice of a component. Within one, red is logistic, green's mean moves with red, and
blue's with red and green.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_LOG_SCALE = -7.0
_EDGE = 0.999  # beyond it lie the outermost values, whose bins are open-ended
_MIN_MASS = 1e-5  # below it, the difference of two sigmoids has lost its digits
_MIN_UNIFORM = 1e-5


@dataclass(frozen=True)
class LogisticMixture:
    """K components a pixel, on values in [-1, 1].

    logits: `[B, H, W, K]`; means, log_scales and coefficients: `[B, H, W, 3, K]`. The coefficients, in their channel
    dimension: red to green, red to blue, green to blue.
    """

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    coefficients: Tensor

    @classmethod
    def from_channels(cls, channels: Tensor) -> LogisticMixture:
        """Read a network's output `[B, H, W, 10 K]`: K logits, then for each colour 3 K numbers.

        These are means, log scales and coefficients. Log scales are cut below at -7, coefficients go through tanh.
        """
        *pixels, count = channels.shape
        K = count // 10
        logits, rest = channels[..., :K], channels[..., K:]
        means, log_scales, coefficients = rest.reshape(*pixels, 3, 3 * K).chunk(3, dim=-1)
        return cls(logits, means, log_scales.clamp(min=_MIN_LOG_SCALE), coefficients.tanh())

    def log_prob(self, x: Tensor, intervals: int = 255) -> Tensor:
        """log p(x) in nats a pixel, `[B, H, W]`, of targets `x` `[B, H, W, 3]` on a grid of `intervals` + 1 values.

            log Σ_k π_k ∏_c [ S((x_c - μ_kc + 1/intervals) / s_kc) - S((x_c - μ_kc - 1/intervals) / s_kc) ]

        S is the logistic function; the lowest bin reaches to -∞ and the highest to +∞. Where the bracket falls below
        1e-5 it is the density at the centre times the width of the bin.
        """
        value = x.unsqueeze(-1)
        masses = self._log_masses(value, value - self._means_given(x), intervals)
        return torch.logsumexp(masses.sum(dim=-2) + self.logits.log_softmax(dim=-1), dim=-1)

    def _means_given(self, x: Tensor) -> Tensor:
        red, green, _ = x.unsqueeze(-1).unbind(dim=-2)
        mean_red, mean_green, mean_blue = self.means.unbind(dim=-2)
        green_of_red, blue_of_red, blue_of_green = self.coefficients.unbind(dim=-2)
        return torch.stack(
            [mean_red, mean_green + green_of_red * red, mean_blue + blue_of_red * red + blue_of_green * green], dim=-2
        )

    def _log_masses(self, value: Tensor, distance: Tensor, intervals: int) -> Tensor:
        precision = torch.exp(-self.log_scales)
        upper = precision * (distance + 1 / intervals)
        lower = precision * (distance - 1 / intervals)
        mass = torch.sigmoid(upper) - torch.sigmoid(lower)
        centre = precision * distance
        log_density = centre - self.log_scales - 2 * F.softplus(centre)
        # The clamp never shows in the value; without it the branch that is not taken would put NaN into the gradient.
        inner = torch.where(mass > _MIN_MASS, mass.clamp(min=1e-12).log(), log_density - math.log(intervals / 2))
        lowest, highest = upper - F.softplus(upper), -F.softplus(lower)
        return torch.where(value < -_EDGE, lowest, torch.where(value > _EDGE, highest, inner))

    def sample(self) -> Tensor:
        """Draw values in [-1, 1], `[B, H, W, 3]`: a component by Gumbel noise, then each colour, clipped in turn."""
        gumbel = -torch.log(-torch.log(_uniform_like(self.logits)))
        component = torch.argmax(self.logits + gumbel, dim=-1)[..., None, None]
        index = component.expand(*self.means.shape[:-1], 1)
        means, log_scales, coefficients = (
            parameter.gather(-1, index).squeeze(-1) for parameter in (self.means, self.log_scales, self.coefficients)
        )
        uniform = _uniform_like(means)
        free = means + log_scales.exp() * (torch.log(uniform) - torch.log(1 - uniform))
        green_of_red, blue_of_red, blue_of_green = coefficients.unbind(dim=-1)
        red = free[..., 0].clamp(-1, 1)
        green = (free[..., 1] + green_of_red * red).clamp(-1, 1)
        blue = (free[..., 2] + blue_of_red * red + blue_of_green * green).clamp(-1, 1)
        return torch.stack([red, green, blue], dim=-1)


def _uniform_like(reference: Tensor) -> Tensor:
    """Uniform draws kept away from 0 and 1, in the default dtype: bfloat16 would round the largest to 1."""
    return torch.empty(reference.shape, device=reference.device).uniform_(_MIN_UNIFORM, 1 - _MIN_UNIFORM)
