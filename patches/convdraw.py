"""ConvDRAW, of "Towards conceptual compression" and "Taming VAEs": an image drawn in steps.

Two layers emit the means and log sigmas of posterior and prior, at every step the same two, and are patched there. The
host's KL, which divides one variance by the other, is a function that the stable one takes the place of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.heads import Head, Rebinding
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
        hidden: channels of both recurrent states.
        latents: channels of each step's latent, on a grid of a quarter of the image's rows and columns.
        draws: how often there is drawn, the model's `steps`; a run has its own.
        canvas: channels of the canvas.
    """

    hidden: int = 64
    latents: int = 4
    draws: int = 6
    canvas: int = 16

    def __post_init__(self) -> None:
        require_sizes(self, hidden=1, latents=1, draws=1, canvas=1)


class ConvDraw(TrainableEntry):
    """A recurrent encoder and decoder on a grid, and a canvas to which every step adds."""

    name = "convdraw"
    modules = ("vae",)
    embedded = "vdvae_patch.upstream.convdraw"
    architecture = Architecture
    reads_target = True
    no_top_prior = "the prior of its first step is read by the method that computes all others, and is no N(0, 1)"

    def presets(self) -> Mapping[str, Preset]:
        """`small`, for MNIST, and `paper`, with the learning rate of "Taming VAEs"; both Adam without clipping."""
        small, paper = one_latent.plain_adam(lr=1e-3, batch_size=32), one_latent.plain_adam(lr=1e-5, batch_size=32)
        return {
            "small": Preset(small, Architecture(), "mnist", "six draws of 64 channels"),
            "paper": Preset(paper, Architecture(hidden=128, draws=12), "cifar10", "the learning rate of Taming VAEs"),
        }

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.ConvDRAW`, weights drawn by torch's default generator."""
        model: nn.Module = modules["vae"].ConvDRAW(**hparams)
        return model

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> dict[str, Any]:
        """What `ConvDRAW` takes, without images that the others depend on.

        Raises:
            InvalidValueError: a size that its grid does not fit.
        """
        if image_size % 4:
            raise InvalidValueError(f"host 'convdraw' takes sizes that are multiples of 4; {data} has {image_size}")
        chosen = asdict(architecture)
        return {"channels": image_channels, "size": image_size, "steps": chosen.pop("draws"), **chosen}

    def heads(self, model: nn.Module) -> list[Head]:
        """The upper halves of two layers' channels, and one value for all pixels."""
        bare: Any = model
        stable = (Rebinding("", "infer", "normal_kl", normal_kl),)
        latents = int(bare.latents)
        return [
            Head("posterior", "posterior", latents, 2 * latents, rebindings=stable),
            Head("prior", "prior", latents, 2 * latents, rebindings=stable),
            Head("pixel_scale", "likelihood"),
        ]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass on the target's pixels, mapped to [0, 1]; `x` is not read, for they are the same image."""
        return one_latent.per_dimension(model(read(target)), target)

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """The latents of images `[B, H, W, C]` in [-1, 1], the first step first, with their KL an image."""
        bare: Any = getattr(model, "module", model)
        drawn, rates, _ = bare.infer(read(x))
        return [Latent(z, kl) for z, kl in zip(drawn, rates.values(), strict=True)]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]`: means of latents from the prior, of which those of the first steps may be given."""
        import torch

        bare: Any = getattr(model, "module", model)
        with torch.no_grad():
            emitted = bare.emit(bare.generate(n, temperature, given=latents))
            images = one_latent.uint8(bare, emitted, emitted)
        pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The last convolution emits the means of the pixels from the canvas; one number is their scale."""
        from vdvae_patch.seams import DecoderSeam, Instead

        bare: Any = model
        channels = int(bare.channels)
        return DecoderSeam(
            "emit.2", channels, channels, one_latent.unit_grid(), terms, means,
            instead=(Instead("", "forward", forward),), unused=("pixel_scale.raw",), mass=mass,
            whole_rate="its method computes the KL of each step in passing",
        )  # fmt: skip


def read(target: Tensor) -> Tensor:
    """`[B, H, W, C]` in [-1, 1] to `[B, C, H, W]` in [0, 1]."""
    return one_latent.unit_pixels(target).permute(0, 3, 1, 2)


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; `target` is `[B, H, W, C]` in [-1, 1]."""
    return _terms(model, read(target), None)


def _terms(model: Any, pixels: Tensor, context: Tensor | None) -> Terms:
    from vdvae_patch.patching.decoder import likelihood_at
    from vdvae_patch.seams import Terms

    _, rates, canvas = model.infer(pixels, context)
    emitted = model.emit(canvas)
    distortion = None
    if likelihood_at(model) is None:
        log_sigma = model.pixel_scale()
        distortion = one_latent.gaussian_nll(pixels, emitted, log_sigma.exp(), log_sigma)
    return Terms(rates, pixels, emitted, distortion)


def means(emitted: Tensor) -> Tensor:
    """The means of the pixels, as they are emitted."""
    return emitted


def mass(model: Any, emitted: Tensor, target: Tensor) -> Tensor:
    """The host's own likelihood by the mass of a pixel's bin, nats an image."""
    return one_latent.gaussian_mass(target, emitted, model.pixel_scale())


def forward(model: Any, likelihood: Any, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
    """The host's `forward` beside a decoder."""
    import torch

    found = _terms(model, x, context)
    distortion = likelihood.nll(found.target, found.emitted).mean()
    rate = torch.stack(list(found.rates.values())).sum(dim=0).mean()
    return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}


def normal_kl(mean_q: Tensor, log_sigma_q: Tensor, mean_p: Tensor, log_sigma_p: Tensor) -> Tensor:
    """The host's KL without a ratio of variances."""
    from vdvae_patch import normal

    return normal.kl_divergence(mean_q, log_sigma_q, mean_p, log_sigma_p)


HOST = ConvDraw()
