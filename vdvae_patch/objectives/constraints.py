"""GECO's constraints: what a reconstruction is asked to keep, as a number that is at most 0 where it is kept.

All are means over dimensions, features or patches, so that none grows with the size of an image, and are given as one
number an image. Source: "Taming VAEs", table 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import Range
from vdvae_patch.objectives.objective import between
from vdvae_patch.scales.arithmetic import wide

Network = Callable[[Tensor], Tensor]

_KAPPA = Range(1e-15, 1e15, "its square is nothing that float32 can compute with")


class Constraint(ABC):
    """C, `[B]`, of reconstructions and targets `[B, ...]`; the constraint is E[C] ≤ 0."""

    name: ClassVar[str]
    kappa: float

    @abstractmethod
    def of(self, reconstruction: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        """C of each image.

        Raises:
            InvalidValueError: images or labels that the constraint cannot take.
        """

    @property
    def grid(self) -> PixelGrid | None:
        """The pixels in shares of whose range kappa is, so that images outside of it are refused; None if it is not."""
        return None

    @abstractmethod
    def describe(self, value: float) -> str:
        """What a mean C of `value` is in the units of kappa, for a warning."""


class ReconstructionError(Constraint):
    """`re`: C = mean((x − x̂)²) / range² − κ², κ a root mean square in shares of the pixels' range, in (0, 1)."""

    name = "re"

    def __init__(self, kappa: float, pixels: PixelGrid | None = None) -> None:
        self.pixels = PixelGrid.of(pixels)
        self.kappa = between(
            "constraint re", "kappa", kappa, 0, 1, "the root mean square error in shares of the pixels' range, as 0.06"
        )
        _KAPPA.check("constraint re", "kappa", kappa)

    @property
    def grid(self) -> PixelGrid:
        return self.pixels

    def of(self, reconstruction: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        difference = (wide(reconstruction) - wide(target)) / self.pixels.range
        return (difference * difference).flatten(1).mean(dim=1) - self.kappa**2

    def describe(self, value: float) -> str:
        achieved = math.sqrt(max(value + self.kappa**2, 0.0))
        return (
            f"the root mean square error is {achieved:.4g} of the pixels' range ({achieved * 255:.3g} of 255 grey "
            "levels), "
            f"{achieved / self.kappa:.3g} times kappa = {self.kappa:g}"
        )


class LocalStatistics(nn.Module):
    """Mean and standard deviation over windows: `[B, C, H, W]` to `[B, 2 C, h, w]`, windows overlapping by half.

    The standard deviation has the quantization noise of 8 bits in it, √(variance + noise²), so that its gradient is
    finite in an even window.
    """

    def __init__(self, window: int = 4) -> None:
        super().__init__()
        if window < 2:
            raise InvalidValueError(f"local statistics are of windows of 2 or more pixels, not {window}")
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or min(x.shape[2:]) < self.window:
            raise InvalidValueError(
                f"local statistics of windows of {self.window} need images [B, C, H, W] that are larger, not "
                f"{list(x.shape)}"
            )
        stride = self.window // 2
        mean = F.avg_pool2d(x, self.window, stride)
        variance = (F.avg_pool2d(x * x, self.window, stride) - mean * mean).clamp(min=0)
        return torch.cat([mean, (variance + PixelGrid().noise ** 2).sqrt()], dim=1)


class FeatureError(Constraint):
    """`fre`: C = mean((f(x) − f(x̂))²) − κ², κ the root mean square in the units of the features.

    `features` is a function or a module of yours, which is given images in the units of the data; its weights get no
    gradient. Without one f is `LocalStatistics` of images in shares of their range.
    """

    name = "fre"

    def __init__(self, kappa: float, features: Network | None = None, pixels: PixelGrid | None = None) -> None:
        self.pixels = PixelGrid.of(pixels)
        largest = 1.0 if features is None else math.inf
        self.kappa = between(
            "constraint fre", "kappa", kappa, 0, largest, "the root mean square error in the units of the features"
        )
        _KAPPA.check("constraint fre", "kappa", kappa)
        self.features = self._statistics if features is None else features
        self._local = LocalStatistics()

    @property
    def grid(self) -> PixelGrid | None:
        return self.pixels if self.features == self._statistics else None

    def of(self, reconstruction: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            wanted = wide(call_frozen("fre", "features", self.features, target))
        found = wide(call_frozen("fre", "features", self.features, reconstruction))
        if found.dim() < 2 or len(found) != len(target) or not found.numel():
            raise InvalidValueError(
                f"constraint fre: the features of {len(target)} images must be [{len(target)}, ...], and are "
                f"{list(found.shape)}"
            )
        return (found - wanted).square().flatten(1).mean(dim=1) - self.kappa**2

    def describe(self, value: float) -> str:
        achieved = math.sqrt(max(value + self.kappa**2, 0.0))
        return (
            f"the features' root mean square error is {achieved:.4g}, {achieved / self.kappa:.3g} times "
            f"kappa = {self.kappa:g}"
        )

    def _statistics(self, x: Tensor) -> Tensor:
        result: Tensor = self._local((wide(x) - self.pixels.low) / self.pixels.range)
        return result


class Classification(Constraint):
    """`cla`: C = κ − l(x)ᵀ c(x̂): reconstructions are given their true class with probability κ or more, κ in (0, 1).

    Without labels l(x) is the class that the classifier finds most probable for x itself: a reconstruction shall keep
    what the classifier saw. The paper has the true class.

    Args:
        classifier: from images to logits `[B, K]`, or with `probabilities` to probabilities; its weights get no
            gradient.
    """

    name = "cla"

    def __init__(self, kappa: float, classifier: Network | None, probabilities: bool = False) -> None:
        if classifier is None:
            raise InvalidValueError(
                "constraint cla needs a classifier, from images to logits [B, K]: objectives.get(..., "
                "classifier=network)"
            )
        self.kappa = between("constraint cla", "kappa", kappa, 0, 1, "the probability of the true class, as 0.9")
        self.classifier, self.probabilities = classifier, probabilities

    def of(self, reconstruction: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            with torch.no_grad():
                labels = self._scores(target).argmax(dim=1)
        scores = self._scores(reconstruction)
        chances = scores if self.probabilities else scores.softmax(dim=1)
        if labels.shape == scores.shape:
            return self.kappa - (chances * labels).sum(dim=1)
        if labels.shape != scores.shape[:1] or labels.is_floating_point():
            raise InvalidValueError(
                f"constraint cla: labels are classes [B] or one-hot {list(scores.shape)}, not {list(labels.shape)} of "
                f"{str(labels.dtype).removeprefix('torch.')}"
            )
        if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= scores.shape[1])).any()):
            raise InvalidValueError(
                f"constraint cla: labels go from {int(labels.min())} to {int(labels.max())}, and the classifier has "
                f"the classes 0 to {scores.shape[1] - 1}"
            )
        return self.kappa - chances.gather(1, labels.long().unsqueeze(1)).squeeze(1)

    def _scores(self, images: Tensor) -> Tensor:
        scores = wide(call_frozen("cla", "classifier", self.classifier, images))
        if scores.dim() != 2 or len(scores) != len(images):
            raise InvalidValueError(
                f"constraint cla: the classifier must give [B, K], {len(images)} times the number of classes, and "
                f"gives {list(scores.shape)}"
            )
        return scores

    def describe(self, value: float) -> str:
        achieved = self.kappa - value
        return f"the image's class has probability {achieved:.4g}, {value:.3g} below kappa = {self.kappa:g}"


class Patches(Constraint):
    """`pncc`: C = κ − mean over patches of ψ(x)ᵀ ψ(x̂), κ in (−1, 1); the paper sums where this takes the mean.

    ψ is a patch less its mean, divided by its norm. Of an even patch that is 0 / 0; the patch has one more component,
    the quantization noise times the root of its size, before it is divided: two even patches then have correlation 1,
    and an even and a structured one nearly 0.
    """

    name = "pncc"

    def __init__(self, kappa: float, size: int = 8, pixels: PixelGrid | None = None) -> None:
        self.pixels = PixelGrid.of(pixels)
        self.kappa = between("constraint pncc", "kappa", kappa, -1, 1, "a correlation of patches, as 0.9")
        if size < 2:
            raise InvalidValueError(f"constraint pncc: patches are of 2 or more pixels, not {size}")
        self.size = size

    def of(self, reconstruction: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        return self.kappa - (self._whitened(reconstruction) * self._whitened(target)).sum(dim=1).mean(dim=1)

    def describe(self, value: float) -> str:
        return (
            f"the mean correlation of patches is {self.kappa - value:.4g}, below kappa = {self.kappa:g} by {value:.3g}"
        )

    def _whitened(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or min(x.shape[2:]) < self.size:
            raise InvalidValueError(
                f"constraint pncc needs images [B, C, H, W] larger than its patches of {self.size}, not {list(x.shape)}"
            )
        patches = F.unfold(wide(x), self.size, stride=max(self.size // 2, 1))  # [B, numbers in a patch, patches]
        centred = patches - patches.mean(dim=1, keepdim=True)
        noise = torch.full_like(centred[:, :1], self.pixels.noise * math.sqrt(centred.shape[1]))
        return F.normalize(torch.cat([centred, noise], dim=1), dim=1)


def call_frozen(constraint: str, what: str, network: Network, x: Tensor) -> Tensor:
    """What a network gives, with the gradient to x and none to its weights, and its buffers as they were.

    Raises:
        InvalidValueError: images that it does not take, or a network whose layers are in training mode.
    """
    try:
        if not isinstance(network, nn.Module):
            return network(x)
        if any(module.training and isinstance(module, (_BatchNorm, _DropoutNd)) for module in network.modules()):
            raise InvalidValueError(f"constraint {constraint}: the {what} has layers in training mode; call its eval()")
        state = {name: value.detach() for name, value in network.named_parameters()}
        state |= {name: value.detach().clone() for name, value in network.named_buffers()}
        result: Tensor = functional_call(network, state, (x,))
        return result
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(
            f"constraint {constraint}: the {what} does not take images {list(x.shape)}: {str(error).splitlines()[0]}"
        ) from error
