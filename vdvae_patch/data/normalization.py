"""From pixels to what a model reads and what its likelihood is measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vdvae_patch.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from vdvae_patch.data.pixels import Pixels


class ModelBatch(NamedTuple):
    """What `VAE.forward(x, x_target)` takes: both float32 `[B, H, W, C]`."""

    input: Tensor
    target: Tensor


@dataclass(frozen=True)
class Normalization:
    """Affine maps of pixels x in 0..255.

    `input = (x - shift) * scale`, about zero mean and unit variance;
    `target = (x' - target_shift) * target_scale`, in [-1, 1], with x' = floor(x / 8) * 8 if `low_bit` (5-bit data),
    else x' = x. One shift and one scale for all channels, as in Child (2021), "Very Deep VAEs".

    With `drawn`, x is first made one of two values: 255 with the probability x / 255, else 0. Such an image is another
    one each time; one that has these two values alone stays as it is.
    """

    shift: float
    scale: float
    target_shift: float = 127.5
    target_scale: float = 1 / 127.5
    low_bit: bool = False
    drawn: bool = False

    def apply(self, pixels: Tensor, draw: int = 0) -> ModelBatch:
        """uint8 `[B, H, W, C]` to input and target, float32 of the same shape on the same device.

        Args:
            draw: which of the draws, where pixels are drawn; the same number gives the same images on every machine.

        Raises:
            DataError: pixels that are not uint8; a float would be normalized twice without a word.
        """
        import torch

        if pixels.dtype is not torch.uint8:
            raise DataError(f"pixels to normalize are {pixels.dtype}, not uint8: pass what DeviceImages.take gives")
        pixels = _two_values(pixels, draw) if self.drawn else pixels
        coarse = pixels.bitwise_and(0b1111_1000) if self.low_bit else pixels
        return ModelBatch(
            input=pixels.float().sub_(self.shift).mul_(self.scale),
            target=coarse.float().sub_(self.target_shift).mul_(self.target_scale),
        )

    @classmethod
    def of_draws(cls, pixels: Pixels) -> Normalization:
        """That of pixels that are drawn anew: their mean m, and the standard deviation √(m (255 − m)) of 0 and 255."""
        mean = cls.measured(pixels).shift
        return cls(mean, 1 / math.sqrt(mean * (255 - mean)) if 0 < mean < 255 else math.inf, drawn=True)

    @classmethod
    def measured(cls, pixels: Pixels) -> Normalization:
        """Shift = mean and scale = 1 / standard deviation of pixels, exact integer sums, so the same on every machine.

        Large data are measured on images at even spacing (`pixels.spaced`). Pixels of one value have an infinite scale,
        with which no data set is made (`images.assemble`).
        """
        import numpy as np

        from vdvae_patch.data.pixels import spaced

        counts = np.bincount(pixels[spaced(pixels)].reshape(-1), minlength=256)
        values = np.arange(256)
        total, first, second = int(counts.sum()), int(counts @ values), int(counts @ values**2)
        # n * sum(x^2) - sum(x)^2 in Python's integers: no cancellation, whatever the number of pixels.
        variance = (total * second - first**2) / total**2
        return cls(shift=first / total, scale=variance**-0.5 if variance else math.inf)


def _two_values(pixels: Tensor, draw: int) -> Tensor:
    """0 or 255, the latter with the probability x / 255; drawn where every machine draws the same."""
    import torch

    from vdvae_patch.data.sending import sent

    uniform = sent(torch.rand(pixels.shape, generator=torch.Generator().manual_seed(draw)), pixels.device)
    return (255 * uniform < pixels).to(torch.uint8).mul_(255)


CIFAR10 = Normalization(120.63838, 1 / 64.16736)
IMAGENET32 = Normalization(116.2373, 1 / 69.37404)
IMAGENET64 = Normalization(115.92961967, 1 / 69.37404)
FFHQ256 = Normalization(112.8666757481, 1 / 69.84780273, low_bit=True)
# Published for pixels y = x / 255: (y - 0.4387) / 0.2743 = (x - 255 * 0.4387) / (255 * 0.2743), and the target
# (y - 0.5) * 2 = (x - 127.5) / 127.5 is everyone's.
FFHQ1024 = Normalization(255 * 0.4387, 1 / (255 * 0.2743))
