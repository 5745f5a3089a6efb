"""The VAE+NVP of "Taming VAEs": a posterior of coupling layers that are conditioned on the image.

The Normal that the couplings start from is the posterior's head; all that the host computes of its log sigma stays as
it is written, for it takes no logarithm of an exponential and no ratio of variances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.heads import Head
from vdvae_patch.hosts.preset import Latent, Losses, Preset, require_sizes
from vdvae_patch.hosts.trainable import TrainableEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from patches import one_latent
    from vdvae_patch.seams import DecoderSeam, Terms
else:
    from vdvae_patch.patches import one_latent


@dataclass(frozen=True)
class Architecture:
    """What can be chosen of it.

    Attributes:
        latents: size of z.
        hidden: units of the dense layers, and of each coupling.
        couplings: layers of the posterior; 0 leaves a diagonal Gaussian.
    """

    latents: int = 32
    hidden: int = 256
    couplings: int = 6

    def __post_init__(self) -> None:
        require_sizes(self, latents=2, hidden=1, couplings=0)


class NvpVae(TrainableEntry):
    """Two convolutions down, couplings conditioned on them, two transposed convolutions up."""

    name = "nvp_vae"
    modules = ("vae",)
    embedded = "vdvae_patch.upstream.nvp_vae"
    architecture = Architecture
    reads_target = True
    no_top_prior = "its posterior is a flow and no Normal, of which alone a VampPrior here is a mixture"

    def presets(self) -> Mapping[str, Preset]:
        """`small`, for MNIST, and `paper`, with the learning rate of "Taming VAEs"; both Adam without clipping."""
        small, paper = one_latent.plain_adam(lr=1e-3, batch_size=64), one_latent.plain_adam(lr=1e-6, batch_size=64)
        return {
            "small": Preset(small, Architecture(), "mnist", "32 latents, six couplings"),
            "paper": Preset(paper, Architecture(latents=64), "cifar10", "the learning rate of Taming VAEs"),
        }

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.NvpVAE`, weights drawn by torch's default generator."""
        model: nn.Module = modules["vae"].NvpVAE(**hparams)
        return model

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> dict[str, Any]:
        """What `NvpVAE` takes.

        Raises:
            InvalidValueError: a size that its layers do not fit.
        """
        if image_size % 4:
            raise InvalidValueError(f"host 'nvp_vae' takes sizes that are multiples of 4; {data} has {image_size}")
        return {"channels": image_channels, "size": image_size, **asdict(architecture)}

    def heads(self, model: nn.Module) -> list[Head]:
        """The Normal before the couplings, and one value for all pixels."""
        return [Head("log_sigma", "posterior"), Head("pixel_scale", "likelihood")]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass on the target's pixels, mapped to [0, 1]; `x` is not read, for they are the same image."""
        return one_latent.per_dimension(model(read(target)), target)

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """The one latent of images `[B, H, W, C]` in [-1, 1], with log q − log p of the draw, `[B]`."""
        bare: Any = getattr(model, "module", model)
        z, log_q = bare.infer(read(x))
        return [Latent(z, log_q - bare.log_prior(z))]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]`: the means of latents from the prior, or of the one that is given."""
        import torch

        bare: Any = getattr(model, "module", model)
        with torch.no_grad():
            emitted = bare.decode(latents[0]) if latents else bare.sample(n, temperature)
            images = one_latent.uint8(bare, emitted, emitted)
        pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The last convolution emits the means of the pixels; one number is their scale."""
        from vdvae_patch.seams import DecoderSeam, Instead

        bare: Any = model
        channels = int(bare.channels)
        return DecoderSeam(
            "emit", channels, channels, one_latent.unit_grid(), terms, means,
            instead=(Instead("", "forward", forward),), unused=("pixel_scale.raw",), mass=mass,
        )  # fmt: skip


def read(target: Tensor) -> Tensor:
    """`[B, H, W, C]` in [-1, 1] to `[B, C, H, W]` in [0, 1]."""
    return one_latent.unit_pixels(target).permute(0, 3, 1, 2)


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; `target` is `[B, H, W, C]` in [-1, 1]."""
    return _terms(model, read(target), balanced)


def _terms(model: Any, pixels: Tensor, balanced: bool) -> Terms:
    from vdvae_patch.patching.decoder import likelihood_at

    z, log_q = model.infer(pixels)
    emitted = model.decode(z)
    distortion = None
    if likelihood_at(model) is None:
        log_sigma = model.pixel_scale()
        distortion = one_latent.gaussian_nll(pixels, emitted, log_sigma.exp(), log_sigma)
    # the prior has nothing to learn, so that the rate's gradient is all the posterior's
    return one_latent.pass_of_one(Latent(z, log_q - model.log_prior(z)), pixels, emitted, distortion, balanced)


def means(emitted: Tensor) -> Tensor:
    """The means of the pixels, as they are emitted."""
    return emitted


def mass(model: Any, emitted: Tensor, target: Tensor) -> Tensor:
    """The host's own likelihood by the mass of a pixel's bin, nats an image."""
    return one_latent.gaussian_mass(target, emitted, model.pixel_scale())


def forward(model: Any, likelihood: Any, x: Tensor) -> dict[str, Tensor]:
    """The host's `forward` beside a decoder."""
    return one_latent.averages(_terms(model, x, balanced=False), likelihood)


HOST = NvpVae()
