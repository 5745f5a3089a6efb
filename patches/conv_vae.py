"""The convolutional VAE of section 7.1, which overfits ten images.

Its scales are patched as `one_latent` says; the Gaussian for the pixels stays as it is written.
The model reads and is measured on pixels in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.heads import Head, Role
from vdvae_patch.hosts.preset import Latent, Losses, Preset, require_sizes
from vdvae_patch.hosts.trainable import TrainableEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from patches import one_latent
    from vdvae_patch.scales import Scale
    from vdvae_patch.seams import DecoderSeam, Terms, TopPriorSeam
else:
    from vdvae_patch.patches import one_latent

SIZE = 32


@dataclass(frozen=True)
class Architecture:
    """What can be chosen of it.

    Attributes:
        latents: size of z.
    """

    latents: int = 100

    def __post_init__(self) -> None:
        require_sizes(self, latents=1)


class ConvVAE(TrainableEntry):
    """Three convolutions down, three up, one scalar for the scale of all pixels."""

    name = "conv_vae"
    modules = ("vae",)
    embedded = "vdvae_patch.upstream.conv_vae"
    architecture = Architecture
    reads_target = True

    def presets(self) -> Mapping[str, Preset]:
        """`paper`: Adam at the lowest learning rate of table 2, batches of 512, no clipping and no skipping."""
        paper = one_latent.plain_adam(lr=0.006, batch_size=512)
        return {"paper": Preset(paper, Architecture(), "cifar10", "the model that overfits ten images, section 7.1")}

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.ConvVAE`, weights drawn by torch's default generator."""
        model: nn.Module = modules["vae"].ConvVAE(**hparams)
        return model

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> dict[str, Any]:
        """What `ConvVAE` takes; its layers fit images of 32x32 alone."""
        if image_size != SIZE:
            raise InvalidValueError(f"host conv_vae takes images of {SIZE}x{SIZE}, not of {image_size}x{image_size}")
        return {"channels": image_channels, "latents": architecture.latents}

    def heads(self, model: nn.Module) -> list[Head]:
        """The posterior's, one value a latent, and the likelihood's, one value in all."""
        return [
            Head("encoder.param_sigma", "posterior", calls=one_latent.posterior(scaled_forward), paper=True),
            Head("gamma", "likelihood", calls=one_latent.LIKELIHOOD, paper=True),
        ]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass on the target's pixels, mapped to [0, 1]; `x` is not read, for they are the same image."""
        out = model(one_latent.unit_pixels(target).permute(0, 3, 1, 2))
        return one_latent.per_dimension(out, target)

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """The one latent of images `[B, H, W, C]` in [-1, 1]."""
        bare: Any = getattr(model, "module", model)
        return [one_latent.drawn(bare, *bare.encoder(read(x)))]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]`: the means of latents from the prior, or of the one that is given."""
        import torch

        bare: Any = getattr(model, "module", model)
        with torch.no_grad():
            z = latents[0] if latents else one_latent.draw_prior(bare, n, temperature)
            mean = bare.sample(n, temperature) if z is None else bare.decoder(z)
            images = one_latent.uint8(bare, mean, mean)
        pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The last transposed convolution emits the means of the pixels; one scalar is their scale."""
        from vdvae_patch.seams import DecoderSeam, Instead

        decoder: Any = getattr(model, "decoder")  # noqa: B009 - of the host's class, unknown to the types
        last = len(decoder.main) - 1
        channels = int(decoder.main[last].out_channels)
        return DecoderSeam(
            f"decoder.main.{last}", channels, channels, one_latent.unit_grid(), terms, means,
            instead=(Instead("", "forward", forward),), unused=("gamma.raw",), mass=mass,
        )  # fmt: skip

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """The prior stands in `forward` and in `sample`; the encoder takes images `[K, C, 32, 32]`."""
        from vdvae_patch.seams import Instead, TopPriorSeam

        bare: Any = model
        channels = int(bare.encoder.main[0].in_channels)
        instead = (Instead("", "forward", forward), Instead("", "sample", sample))
        return TopPriorSeam((channels, SIZE, SIZE), (int(bare.latents), 1, 1), encode, read, instead)


def read(target: Tensor) -> Tensor:
    """`[B, H, W, C]` in [-1, 1] to `[B, C, H, W]` in [0, 1]."""
    return one_latent.unit_pixels(target).permute(0, 3, 1, 2)


def encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log sigma of the posterior, `[K, latents, 1, 1]`."""
    mean, raw = model.encoder(images)
    return mean, one_latent.log_sigma_of(model, raw)


def sample(model: Any, likelihood: Any, n: int, temperature: float = 1.0) -> Tensor:
    """The host's `sample` from a top prior."""
    mean: Tensor = model.decoder(one_latent.draw_prior(model, n, temperature))
    return mean


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; `target` is `[B, H, W, C]` in [-1, 1]."""
    return _terms(model, read(target), balanced)


def _terms(model: Any, pixels: Tensor, balanced: bool) -> Terms:
    from vdvae_patch.patching.decoder import likelihood_at

    drawn = one_latent.drawn(model, *model.encoder(pixels))
    emitted = model.decoder(drawn.z)
    distortion = None
    if likelihood_at(model) is None:
        distortion = one_latent.gaussian_nll(pixels, emitted, *model.likelihood_scale(model.gamma()))
    return one_latent.pass_of_one(drawn, pixels, emitted, distortion, balanced)


def means(emitted: Tensor) -> Tensor:
    """The means of the pixels, as they are emitted."""
    return emitted


def mass(model: Any, emitted: Tensor, target: Tensor) -> Tensor:
    """The host's own likelihood by the mass of a pixel's bin, nats an image."""
    return one_latent.gaussian_mass(target, emitted, model.likelihood_scale(model.gamma())[1])


def scaled_forward(model: Any, scales: Mapping[Role, Scale], x: Tensor) -> dict[str, Tensor]:
    """The host's `forward`, the posterior's scale, sample and divergence in one operation."""
    z, kl = one_latent.drawn_by(scales.get("posterior"), model, *model.encoder(x))
    rate = kl.sum(dim=(1, 2, 3)).mean()
    del kl  # a map that nobody reads from here on
    gamma, log_gamma = model.likelihood_scale(model.gamma())
    squared = (x - model.decoder(z)) ** 2 / (2 * gamma**2)
    distortion = (squared + log_gamma + 0.5 * math.log(2 * math.pi)).sum(dim=(1, 2, 3)).mean()
    return {"elbo": distortion + rate, "distortion": distortion, "rate": rate, "gamma_min": gamma.min()}


def forward(model: Any, likelihood: Any, x: Tensor) -> dict[str, Tensor]:
    """The host's `forward` beside a decoder or a top prior."""
    return one_latent.averages(_terms(model, x, balanced=False), likelihood)


HOST = ConvVAE()
