"""What a decoder is: a log likelihood of images under parameters, with checks, sums and units stated once."""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.number_ranges import as_float
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.registry import Registry, format_number
from vdvae_patch.scales import Scale
from vdvae_patch.scales import get as get_scale
from vdvae_patch.scales.arithmetic import wide

DECODERS: Registry[Decoder] = Registry("decoder", "vdvae_patch.decoders", nested=True)

_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)

_told_training: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class CollapseWarning(UserWarning):
    """A σ below the quantization noise: the density of rounded data grows there without limit."""


def get(spec: str | Decoder, pixels: PixelGrid | None = None) -> Decoder:
    """The decoder of a specification: `optimal`, `fixed(sigma=0.1)`, `per_pixel(scale=downbounded(0.001))`.

    A scale without its arguments gets them from the pixels: `bounded` is then bounded(noise, range).

    Args:
        pixels: the values that a pixel may have; 8 bits in [0, 1] by default.

    Raises:
        UnknownNameError: no such decoder or scale; the message names the nearest.
        InvalidValueError: an argument that the decoder refuses.
    """
    if isinstance(spec, Decoder):
        return spec
    return DECODERS.get(spec, pixels=PixelGrid.of(pixels))


class WideBuffers(nn.Module):
    """A module whose floating buffers stay in float32 at least where `half()` or `to(bfloat16)` narrow the rest.

    They are averages and multipliers: float16 has no number for a multiplier of 1e5, nor for a small variance.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            after = self._buffers[name]
            if after is not None and after.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = buffer.to(after.device)
        return self


class Decoder(WideBuffers, ABC):
    """The likelihood p(x given z) of images `[B, C, ...]` under parameters `[B, channels(C), ...]`.

    Images and means are in the units of `pixels`. Everything is computed in float32 at least.

    Attributes:
        pixels: the values that a pixel may have.
        validate: whether data are looked at (range, grid, two values) before they are taken, at the price of waiting
            for the device; off within `torch.compile` and `torch.func`.
        look_every: of how many batches one is looked at, the first included, or else that which `check` was given: all,
            unless a loop that shall not wait for its device says otherwise.
    """

    name: ClassVar[str] = ""
    state_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Of its buffers, by name, between which finite numbers the values lie: others in a checkpoint are refused."""

    is_density: ClassVar[bool] = False
    """Whether `nll` is that of a density, which may be negative, and no mass."""

    has_mean: ClassVar[bool] = True
    means_first: ClassVar[bool] = False
    """Whether the first C channels of its parameters are means, in the units of the data."""

    learns_scale: ClassVar[bool] = False
    """Whether a parameter besides the mean learns from `nll` alone."""

    def __init__(self, pixels: PixelGrid | None = None) -> None:
        super().__init__()
        self.pixels = PixelGrid.of(pixels)
        self.validate = True
        self.look_every = 1
        self._batches = 0
        self._looks = True

    @abstractmethod
    def channels(self, image_channels: int) -> int:
        """How many channels the network emits for images of that many.

        Raises:
            InvalidValueError: images that the decoder has no form for.
        """

    @abstractmethod
    def image_channels(self, channels: int) -> int:
        """The inverse of `channels`.

        Raises:
            InvalidValueError: not the number of channels of any image.
        """

    def nll(self, x: Tensor, parameters: Tensor) -> Tensor:
        """−log p(x) in nats an image, summed over its pixels and channels: `[B]`.

        Raises:
            InvalidValueError: shapes that do not fit, data outside the range, or that the likelihood is not made for.
        """
        self._check_some(x, parameters)
        return _sum(-self._log_prob(x, parameters))

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """`nll`, for wrappers that know modules alone."""
        return self.nll(x, parameters)

    def mass_nll(self, x: Tensor, parameters: Tensor) -> Tensor:
        """−log of the mass that each pixel's bin has, in nats an image, `[B]`; that of a discrete likelihood is `nll`.

        Raises:
            InvalidValueError: as `nll`, and for values between the levels of the grid.
        """
        self._check_some(x, parameters, on_grid=True)
        return _sum(-self._log_mass(x, parameters))

    def bits_per_dim(self, x: Tensor, parameters: Tensor) -> Tensor:
        """`mass_nll` in bits per pixel and channel, `[B]`."""
        return self.mass_nll(x, parameters) / (x[0].numel() * math.log(2))

    def check(self, x: Tensor, parameters: Tensor) -> None:
        """Refuse what `nll` would refuse, and compute nothing.

        Raises:
            InvalidValueError: shapes that do not fit, or data that the likelihood is not made for.
        """
        self._check(x, parameters)
        self._batches += 1

    def mean(self, parameters: Tensor) -> Tensor:
        """The expectation of an image, `[B, C, ...]`, in the units of the data.

        Raises:
            InvalidValueError: for a likelihood that has none.
        """
        raise InvalidValueError(f"{self._who} has no mean")

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images drawn from the likelihood, `[B, C, ...]`; a Gaussian's are neither cut to the range nor rounded."""

    def step(self, skipped: bool | Tensor = False) -> None:
        """After each update of the weights: whether it was skipped, and what this step moved is to be taken back.

        A tensor on the device, true or not 0 for a skipped one, makes nobody wait.
        """

    def specification(self) -> str:
        """The text that `get` makes this decoder of."""
        parts = [f"{key}={value}" for key, value in self.arguments().items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def arguments(self) -> dict[str, str]:
        """The arguments of a specification that differ from their defaults."""
        result = {}
        for key, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, key)
            if key == "pixels" or value == parameter.default:
                continue
            result[key] = format_number(value) if isinstance(value, (int, float)) else str(value)
        return result

    def extra_repr(self) -> str:
        return f"{self.specification()}, {self.pixels}"

    @property
    def _who(self) -> str:
        return f"decoder {self.name}"

    @abstractmethod
    def _log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x) in nats, `[B, ...]`, one number a value or a pixel."""

    def _log_mass(self, x: Tensor, parameters: Tensor) -> Tensor:
        return self._log_prob(x, parameters)

    def _check_some(self, x: Tensor, parameters: Tensor, on_grid: bool = False) -> None:
        """The shapes of each batch, and the values of one of `look_every`."""
        if not self.validate or not can_look(x):
            return self._check_shapes(x, parameters)
        self._looks = self._batches % self.look_every == 0
        self._batches += 1
        return self._check(x, parameters, on_grid) if self._looks else self._check_shapes(x, parameters)

    def _check(self, x: Tensor, parameters: Tensor, on_grid: bool = False) -> None:
        self._check_shapes(x, parameters)
        if self.validate and can_look(x):
            self._check_data(x, on_grid or not self.is_density)

    def _check_shapes(self, x: Tensor, parameters: Tensor) -> None:
        if x.dim() < 2:
            raise InvalidValueError(f"{self._who}: images are [B, C, ...], not of shape {tuple(x.shape)}")
        wanted = (len(x), self.channels(x.shape[1]), *x.shape[2:])
        if tuple(parameters.shape) != wanted:
            raise InvalidValueError(
                f"{self._who}: parameters of images {_shape(x)} are {list(wanted)}, not {_shape(parameters)}; the "
                f"network must emit channels({x.shape[1]}) = {wanted[1]} channels"
            )

    def _check_data(self, x: Tensor, on_grid: bool) -> None:
        self.pixels.check(x, self._who, on_grid)


class MeansBesideScales(Decoder):
    """A decoder that takes C channels of means, then C of raw parameters of their scales."""

    means_first: ClassVar[bool] = True

    def channels(self, image_channels: int) -> int:
        return 2 * image_channels

    def image_channels(self, channels: int) -> int:
        if channels % 2:
            raise InvalidValueError(f"{self._who}: {channels} channels are not as many means as scales")
        return channels // 2


def can_look(x: Tensor) -> bool:
    """Whether the values of a tensor can be looked at, and are not those of a trace."""
    return not (
        torch.compiler.is_compiling()
        or _transforms_active()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or x.device.type == "meta"
    )


def scale_of(spec: str | Scale, pixels: PixelGrid, factor: float = 1.0) -> Scale:
    """A scale; `bounded`, `downbounded` and `upbounded` without arguments get the quantization noise and the range.

    Args:
        factor: from a standard deviation to the scale in question, as √3 / π is for a logistic one.
    """
    if isinstance(spec, Scale):
        return spec
    if not isinstance(spec, str):
        raise InvalidValueError(f"a scale is named, as in scale=bounded(0.001, omega=1), not {spec!r}")
    low, high = repr(pixels.noise * factor), repr(pixels.range * factor)
    filled = {
        "bounded": f"bounded({low}, {high})",
        "downbounded": f"downbounded({low})",
        "upbounded": f"upbounded({high})",
    }
    return get_scale(filled.get(spec.strip().lower(), spec))


def trains(module: nn.Module, who: str, instead: str) -> bool:
    """Whether a module in training mode is trained now: without gradients there is no update that its state could
    follow, and what it gives is that of training all the same, which is said once.

    Args:
        instead: what it gives, and what evaluation has in its place.
    """
    if torch.is_grad_enabled():
        return True
    if not torch.compiler.is_compiling() and module not in _told_training:
        _told_training.add(module)
        warnings.warn(
            f"{who} is in training mode where no gradients are computed: its state stays as it is, and {instead}; call "
            "its eval() before a validation (that of the model reaches its children alone), and train() after it",
            UserWarning,
            stacklevel=4,
        )
    return False


def whole_number(who: str, key: str, value: float | str, most: int) -> int:
    """A whole number from 1 to `most`.

    Raises:
        InvalidValueError: anything else.
    """
    number = as_float(value)
    if number is None or not 1 <= number <= most or number != int(number):
        shown = value if isinstance(value, str) or number is None else f"{number:g}"
        raise InvalidValueError(f"{who}: {key} must be a whole number from 1 to {most:,}, not {shown}")
    return int(number)


def draw(kind: str, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """`rand` or `randn` in the shape of a tensor and at least float32, by a generator on whatever device it is."""
    dtype = wide(like[:0]).dtype
    device = like.device if generator is None else generator.device
    make = torch.randn if kind == "randn" else torch.rand
    return make(like.shape, dtype=dtype, device=device, generator=generator).to(like.device)


def draw_index(logits: Tensor, dim: int, generator: torch.Generator | None) -> Tensor:
    """An index along `dim`, which stays with size 1, drawn with the probabilities softmax(logits), by Gumbel noise."""
    uniform = draw("rand", logits, generator)
    tiny = torch.finfo(uniform.dtype).tiny
    exponential = (-torch.log(uniform.clamp(min=tiny))).clamp(min=tiny)
    return (logits - torch.log(exponential)).argmax(dim=dim, keepdim=True)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(dim=1)


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)
