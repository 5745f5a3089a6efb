"""Decoders of discrete values, a logit each: Bernoulli and categorical."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch.decoders.decoder import DECODERS, Decoder, draw, draw_index
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.scales.arithmetic import wide


@DECODERS.register("bernoulli")
class Bernoulli(Decoder):
    """p(high) = sigmoid(logit), p(low) = 1 − p(high), of data with these two values alone.

    The parameters are logits: a network that ends in a sigmoid has its sigmoid taken off. The cross-entropy of grey
    values is no log likelihood, so these are refused; and arguments that were exchanged are.
    """

    def channels(self, image_channels: int) -> int:
        return image_channels

    def image_channels(self, channels: int) -> int:
        return channels

    def mean(self, parameters: Tensor) -> Tensor:
        return self.pixels.low + self.pixels.range * torch.sigmoid(wide(parameters))

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        is_high = draw("rand", parameters, generator) < torch.sigmoid(wide(parameters))
        return torch.where(is_high, self.pixels.high, self.pixels.low)

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        middle = 0.5 * (self.pixels.low + self.pixels.high)
        logit = wide(parameters)
        return -F.softplus(torch.where(x > middle, -logit, logit))

    def _check_data(self, x: Tensor, on_grid: bool) -> None:
        low, high = self.pixels.low, self.pixels.high
        other = x.detach()[(x != low) & (x != high)]
        if other.numel():
            raise InvalidValueError(
                f"{self._who} is for two values, {low:g} and {high:g}, and {other.numel()} of {x.numel()} values are "
                f"others, such as {other[0].item():.4g}: these are grey values, another range, or the parameters in "
                "place of the data. Binarize (x > 0.5), or take logistic, categorical or optimal for grey values"
            )


@DECODERS.register("categorical")
class Categorical(Decoder):
    """A logit for each of the levels: `[B, C · levels, ...]`, the levels of the first channel first."""

    def channels(self, image_channels: int) -> int:
        return image_channels * self.pixels.levels

    def image_channels(self, channels: int) -> int:
        if channels % self.pixels.levels:
            raise InvalidValueError(
                f"{self._who}: {channels} channels are not {self.pixels.levels} for each of an image"
            )
        return channels // self.pixels.levels

    def mean(self, parameters: Tensor) -> Tensor:
        chances = self._logits(parameters).softmax(dim=2)
        # no einsum, which autocast would take to half precision
        return (chances * self.pixels.values(parameters).view(-1, *[1] * (chances.dim() - 3))).sum(dim=2)

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = self._logits(parameters)
        return self.pixels.values(parameters)[draw_index(logits, 2, generator).squeeze(2)]

    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        logits = self._logits(parameters)
        chosen = logits.gather(2, self.pixels.index(x).unsqueeze(2)).squeeze(2)
        return chosen - logits.logsumexp(dim=2)

    def _logits(self, parameters: Tensor) -> Tensor:
        B, channels, *size = parameters.shape
        return wide(parameters).reshape(B, self.image_channels(channels), self.pixels.levels, *size)
