"""What a top prior is: parameters of its own, and with an encoder a density of the top latent."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.machine import available_bytes, bytes_in_words
from vdvae_patch.number_ranges import Range, as_float
from vdvae_patch.registry import Registry, format_number
from vdvae_patch.top_priors.density import Density

Encode: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images `[K, *images]` in [0, 1] to mean and log sigma of their posterior, both `[K, *latents]`."""

TOP_PRIORS: Registry[TopPrior] = Registry("top prior", "vdvae_patch.top_priors", lambda: TopPrior, nested=True)

_COPIES = 4
"""A parameter, its gradient, and Adam's two averages."""

_LR_FACTOR = Range(1e-6, 1e6, "a learning rate so far from the model's own is none", zero=True)


def get(
    spec: str | TopPrior,
    *,
    latents: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
    data: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> TopPrior:
    """The top prior of a specification: `standard`, `vamp(components=500)`, `mixture(components=10)`.

    With the shapes that it needs it is ready to be used; without them it becomes so by `prepare`.

    Args:
        latents: the shape of a latent, without the batch: what a `mixture` needs.
        images: the shape of an image as the encoder takes it, without the batch: what a `vamp` needs.
        data: images `[N, *images]` in [0, 1], for a `vamp` to start from.
        generator: of the numbers that it starts with.

    Raises:
        UnknownNameError: no such top prior; the message names the nearest.
        InvalidValueError: an argument that it refuses; data outside [0, 1]; more than there is memory for.
    """
    prior = spec if isinstance(spec, TopPrior) else TOP_PRIORS.get(spec)
    if latents is not None or images is not None or data is not None:
        prior.prepare(latents=latents, images=images, data=data, generator=generator)
    return prior


class TopPrior(nn.Module, ABC):
    """p(z) of the top latent; `prior.at(encode)` is the density of one step.

    Args:
        lr_factor: learning rate of its own parameters, as a multiple of the model's; 0 leaves them as they start.

    Attributes:
        needs_encoder: whether it calls the encoder.
        latents: the shape of a latent, once it is known.
        lr_factor: as given. `train` and `compare` follow it; a loop of your own tells its optimizer.
    """

    name: ClassVar[str] = ""
    needs_encoder: ClassVar[bool] = False

    def __init__(self, lr_factor: float = 1) -> None:
        super().__init__()
        self.latents: tuple[int, ...] | None = None
        self.lr_factor = _LR_FACTOR.check(self._who, "lr_factor", lr_factor)

    def prepare(
        self,
        *,
        latents: Sequence[int] | None = None,
        images: Sequence[int] | None = None,
        data: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Make the parameters, now that shapes are known; arguments as `get` has them.

        Raises:
            InvalidValueError: a shape that it needs is missing; data outside [0, 1]; more than there is memory for.
        """
        if latents is not None:
            self.latents = shape_of(self._who, "latents", latents, "(40,)")
        if data is not None and not isinstance(data, Tensor):
            raise InvalidValueError(f"{self._who}: data is a tensor of images, not a {type(data).__name__}")
        self._prepare(images, data, generator)
        return self

    @abstractmethod
    def at(self, encode: Encode | None = None) -> Density:
        """The density of one step, by the parameters and the encoder as they are now; gradients reach both.

        Raises:
            InvalidValueError: it is not prepared, has no encoder to call, or the encoder gives something else.
        """

    def log_prob(self, z: Tensor, encode: Encode | None = None) -> Tensor:
        """log p(z), nats an image: `[B, *latents]` to `[B]`."""
        return self.at(encode).log_prob(z)

    def kl(self, z: Tensor, mean: Tensor, log_sigma: Tensor, encode: Encode | None = None) -> Tensor:
        """The rate of z drawn from q = N(mean, σ), nats an image, `[B]`.

        `standard` has KL(q ‖ p) in closed form; of any other it is log q(z) − log p(z), whose mean that is.
        """
        return self.at(encode).kl(z, mean, log_sigma)

    def sample(
        self,
        count: int,
        encode: Encode | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`[count, *latents]` drawn from p, every σ multiplied by the temperature."""
        return self.at(encode).sample(count, temperature, generator)

    def forward(self, z: Tensor, encode: Encode | None = None) -> Tensor:
        """`log_prob`, for wrappers that know modules alone."""
        return self.log_prob(z, encode)

    @torch.no_grad()
    def check(self, encode: Encode | None) -> None:
        """Refuse an encoder that cannot be called, or whose answer is of no use; nothing is kept of the call.

        Raises:
            InvalidValueError: with what it raised, or gave.
        """

    def specification(self) -> str:
        """The text that `get` makes this prior of."""
        parts = [f"{key}={value}" for key, value in self.arguments().items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def arguments(self) -> dict[str, str]:
        """The arguments of a specification that differ from their defaults."""
        found = {}
        for key, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, key)
            if value != parameter.default:
                found[key] = format_number(value) if isinstance(value, (int, float)) else str(value)
        return found

    def extra_repr(self) -> str:
        return self.specification()

    @property
    def _who(self) -> str:
        return f"top prior {self.name}"

    def _prepare(self, images: Sequence[int] | None, data: Tensor | None, generator: torch.Generator | None) -> None:
        """Make what is learned; a prior with nothing to learn has nothing to make."""

    def _require_memory(self, components: int, numbers: int, what: str) -> None:
        """Refuse components that do not fit into memory with their gradients and Adam's averages.

        Args:
            numbers: of one component.

        Raises:
            InvalidValueError: with how much is needed, how much is free, and how many fit.
        """
        each = _COPIES * 4 * numbers
        free = available_bytes()
        if free is not None and components * each > free:
            raise InvalidValueError(
                f"{self._who}: {components:,} {what} of {numbers:,} numbers need {bytes_in_words(components * each)} "
                f"with their gradients and Adam's averages, and {bytes_in_words(free)} are free: "
                f"take {free // each:,} or fewer"
            )


MOST = 2**53
"""Up to here a number says which whole one it is. How many components there is memory for is seen with their shapes."""


def count(who: str, key: str, value: float) -> int:
    """A whole number of at least 1, and at most `MOST`.

    Raises:
        InvalidValueError: anything else.
    """
    number = as_float(value)
    if number is None or not (number >= 1 and number == number // 1):
        raise InvalidValueError(f"{who}: {key} must be a whole number of at least 1, not {value} (at most {MOST:,})")
    if number > MOST:
        raise InvalidValueError(f"{who}: {key} must be a whole number from 1 to {MOST:,}, not {number:g}")
    return int(number)


def shape_of(who: str, key: str, value: Sequence[int] | None, example: str) -> tuple[int, ...]:
    """A shape without its batch.

    Raises:
        InvalidValueError: none, or one with a length below 1.
    """
    if value is None:
        raise InvalidValueError(f"{who}: what shape has one of the {key}? give {key}=, as in {key}={example}")
    try:
        shape = tuple(map(int, value))
    except (TypeError, ValueError):
        raise InvalidValueError(f"{who}: {key} is a shape, as in {key}={example}, not {value!r}") from None
    if not shape or min(shape) < 1:
        raise InvalidValueError(f"{who}: {key} of shape {list(value)}; give lengths of at least 1, as in {example}")
    return shape
