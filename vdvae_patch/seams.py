"""Where a host computes its likelihood, and where it reads its top prior, so that any other can be put there.

    seam = host.decoder_seam(model)
    vdvae_patch.patch(model, decoder="optimal", seam=seam)
    terms = seam.terms(model, x, target)     # rate by groups of latents, what the likelihood's layer emitted
    vdvae_patch.patch(model, top_prior="vamp(components=500)", top_prior_seam=host.top_prior_seam(model))

A layer of the host emits the parameters of its likelihood. It stays whole: what a decoder needs beyond its channels
comes from a layer beside it, which reads the same input and whose output is joined to its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vdvae_patch.pixel_grid import PixelGrid

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vdvae_patch.objectives import BalancedRate


@dataclass(frozen=True)
class Terms:
    """One pass of a host in its parts; the batch is first everywhere.

    Attributes:
        rates: nats an image, `[B]`, by the name of each group of latents, in the order of the computation.
        target: the images, `[B, C, ...]`, in the units of the seam's pixels.
        emitted: the parameters of the likelihood as the layer emits them, `[B, channels, ...]`, those of a layer beside
            it last.
        distortion: −log p(x) of the host's own likelihood, nats an image, `[B]`; None where a decoder is in its place.
        balanced: the rate with its two gradients apart, if it was asked for.
    """

    rates: Mapping[str, Tensor]
    target: Tensor
    emitted: Tensor | None = None
    distortion: Tensor | None = None
    balanced: BalancedRate | None = None


@dataclass(frozen=True)
class Instead:
    """A method of the host that reads the likelihood's parameters, and what takes its place beside a decoder.

    Attributes:
        owner: path of the module whose method it is.
        method: the method's name.
        function: called as `function(module, likelihood, *args)`; at the top level of a module, so that models pickle.
    """

    owner: str
    method: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class DecoderSeam:
    """Where the likelihood of a host is, and how it is read.

    Attributes:
        layer: path of the layer that emits the likelihood's parameters.
        channels: how many it emits for an image.
        image_channels: C, of the images.
        pixels: the values that a pixel of the target may have.
        terms: one pass, `terms(model, x, target, balanced=False)`; x and target as the entry's `losses` takes them.
        means: from what the layer emits to `[B, C + r, ...]`: the host's own mean image in the units of the pixels,
            then the r channels that it has besides. What a decoder reads that takes means first.
        spare: r.
        instead: the host's methods that read the parameters, and what takes their place.
        unused: parameters that the host's own likelihood alone reads; they are not trained beside a decoder.
        mass: of a host whose own likelihood is a density: `mass(model, emitted, target)`, −log of the mass of each
            pixel's bin, nats an image, `[B]`; None where that is the distortion itself.
        learns_scale: whether a parameter besides the mean learns from the host's own likelihood.
        size: of an image beyond its channels, where the layer emits flat lists.
        added: makes the layer beside, `added(layer, channels)`, for a layer that is more than torch's own.
        whole_rate: why the rate's two gradients cannot be told apart; empty where they can.
    """

    layer: str
    channels: int
    image_channels: int
    pixels: PixelGrid
    terms: Callable[..., Terms]
    means: Callable[[Tensor], Tensor]
    spare: int = 0
    instead: tuple[Instead, ...] = ()
    unused: tuple[str, ...] = ()
    mass: Callable[[Any, Tensor, Tensor], Tensor] | None = None
    learns_scale: bool = True
    size: tuple[int, ...] | None = None
    added: Callable[[nn.Module, int], nn.Module] | None = None
    whole_rate: str = ""


@dataclass(frozen=True)
class TopPriorSeam:
    """Where the prior of a host's top latent is read, and how its posterior is made of an image.

    Attributes:
        images: the shape of an image as `encode` takes it, without the batch.
        latents: the shape of the top latent, without the batch.
        encode: `encode(model, images)`, images `[K, *images]` in [0, 1], gives the mean and log σ of the top latent's
            posterior, both `[K, *latents]`, by the scales that the model has now; at the top level of a module.
        read: from a target as the entry's `losses` takes it to images as `encode` does.
        instead: the host's methods that read the prior, and what takes their place; those that a decoder replaces too
            are the same functions.
        unread: the modules of which a head is the host's own prior, which nobody reads then.
    """

    images: tuple[int, ...]
    latents: tuple[int, ...]
    encode: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    read: Callable[[Tensor], Tensor]
    instead: tuple[Instead, ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Normalized:
    """An `encode` whose host takes normalized images: images x in [0, 1] come to it as (255 x − shift) · scale.

    A run puts the normalization of its data set there.
    """

    encode: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    shift: float
    scale: float

    def __call__(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log σ."""
        return self.encode(model, (255 * images - self.shift) * self.scale)


class Seams(Protocol):
    """What tells the seams of a model: the entry of its host."""

    def decoder_seam(self, model: Any) -> DecoderSeam:
        """Of its likelihood."""

    def top_prior_seam(self, model: Any) -> TopPriorSeam:
        """Of its top latent's prior."""


_built: weakref.WeakKeyDictionary[Any, Seams] = weakref.WeakKeyDictionary()


def remember(model: nn.Module, entry: Seams) -> None:
    """Note which entry a model was built by."""
    _built[model] = entry


def seam_of(model: nn.Module) -> DecoderSeam | None:
    """The seam of a model that a host by name built in this process; None of any other.

    Raises:
        HostError: the host has none, and why.
    """
    known = _built.get(model)
    return None if known is None else known.decoder_seam(model)


def top_prior_seam_of(model: nn.Module) -> TopPriorSeam | None:
    """As `seam_of`, of its top latent's prior."""
    known = _built.get(model)
    return None if known is None else known.top_prior_seam(model)
