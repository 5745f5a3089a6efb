"""The MLP VAE of section 7.2, which learns a scale for every pixel of MNIST.

Its scales are patched as `one_latent` says; eq. 13 in a Gaussian for the pixels stays as it is written. The model reads
and is measured on pixels in [0, 1], flattened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

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


@dataclass(frozen=True)
class Architecture:
    """What can be chosen of it.

    Attributes:
        hidden: width of the hidden layers.
        latents: size of z.
        mean: how the decoder's output becomes the mean of a pixel.
        scale: a scale for every pixel, or one learned number.
    """

    hidden: int = 128
    latents: int = 128
    mean: Literal["identity", "sigmoid"] = "identity"
    scale: Literal["decoded", "global"] = "decoded"

    def __post_init__(self) -> None:
        require_sizes(self, hidden=1, latents=1)


class MlpVAE(TrainableEntry):
    """Two fully connected layers each way."""

    name = "mlp_vae"
    modules = ("vae",)
    embedded = "vdvae_patch.upstream.mlp_vae"
    architecture = Architecture
    reads_target = True

    def presets(self) -> Mapping[str, Preset]:
        """`paper`: Adam at 1e-4, no clipping and no skipping."""
        paper = one_latent.plain_adam(lr=1e-4, batch_size=1667)
        return {"paper": Preset(paper, Architecture(), "mnist", "the model with a scale for every pixel, section 7.2")}

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.BasicVAE`, weights drawn by torch's default generator."""
        model: nn.Module = modules["vae"].BasicVAE(**hparams)
        return model

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> dict[str, Any]:
        """What `BasicVAE` takes.

        Raises:
            InvalidValueError: images with colours, which a flat list of pixels does not tell from a larger image.
        """
        if image_channels != 1:
            raise InvalidValueError(f"host 'mlp_vae' takes grey images; {data} has {image_channels} channels")
        return {"pixels": image_size**2, **asdict(architecture)}

    def heads(self, model: nn.Module) -> list[Head]:
        """The posterior's channels of the encoder, and the likelihood's of the decoder or of the one scalar."""
        bare: Any = model
        pixels = (
            Head("decoder", "likelihood", bare.pixels, 2 * bare.pixels, calls=one_latent.LIKELIHOOD, paper=True)
            if bare.gamma is None
            else Head("gamma", "likelihood", calls=one_latent.LIKELIHOOD, paper=True)
        )
        return [
            Head(
                "encoder",
                "posterior",
                bare.latents,
                2 * bare.latents,
                calls=one_latent.posterior(scaled_forward),
                paper=True,
            ),
            pixels,
        ]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass on the target's pixels, mapped to [0, 1]; `x` is not read, for they are the same image."""
        out = model(one_latent.unit_pixels(target).flatten(1))
        return one_latent.per_dimension(out, target)

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """The one latent of images `[B, H, W, C]` in [-1, 1]."""
        bare: Any = getattr(model, "module", model)
        return [one_latent.drawn(bare, *bare.encoder(read(x)).chunk(2, dim=1))]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, 1]`: the means of latents from the prior, or of the one that is given."""
        import torch

        bare: Any = getattr(model, "module", model)
        side = round(bare.pixels**0.5)
        with torch.no_grad():
            device = bare.decoder[0].weight.device
            z = latents[0] if latents else one_latent.draw_prior(bare, n, temperature)
            z = temperature * torch.randn(n, bare.latents, device=device) if z is None else z
            images: NDArray[np.uint8] = one_latent.uint8(bare, bare.decoder(z), bare.decode(z)[0]).cpu().numpy()
        return images.reshape(n, side, side, 1)

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The decoder's last layer emits the means of the pixels, and then their raw scales if these are decoded."""
        from vdvae_patch.seams import DecoderSeam, Instead

        bare: Any = model
        side = round(bare.pixels**0.5)
        decoded = bare.gamma is None
        return DecoderSeam(
            "decoder.2", 2 if decoded else 1, 1, one_latent.unit_grid(), terms,
            sigmoid_means if bare.mean == "sigmoid" else means, spare=int(decoded),
            instead=(Instead("", "forward", forward),), unused=() if decoded else ("gamma.raw",), mass=mass,
            size=(side, side),
        )  # fmt: skip

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """The prior stands in `forward` and in `sample`; the encoder takes flat images."""
        from vdvae_patch.seams import Instead, TopPriorSeam

        bare: Any = model
        instead = (Instead("", "forward", forward), Instead("", "sample", sample))
        return TopPriorSeam((int(bare.pixels),), (int(bare.latents),), encode, read, instead)


def read(target: Tensor) -> Tensor:
    """`[B, H, W, 1]` in [-1, 1] to `[B, H W]` in [0, 1]."""
    return one_latent.unit_pixels(target).flatten(1)


def encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log sigma of the posterior, `[K, latents]`."""
    mean, raw = model.encoder(images).split([model.latents, model.latents], dim=1)
    return mean, one_latent.log_sigma_of(model, raw)


def sample(model: Any, likelihood: Any, n: int, temperature: float = 1.0) -> Tensor:
    """The host's `sample` from a top prior."""
    mean: Tensor = model.decode(one_latent.draw_prior(model, n, temperature))[0]
    return mean


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; `target` is `[B, H, W, 1]` in [-1, 1]."""
    pixels = read(target)
    return _terms(model, pixels, pixels, balanced)


def _terms(model: Any, pixels: Tensor, target: Tensor, balanced: bool) -> Terms:
    from vdvae_patch.patching.decoder import likelihood_at

    mean, raw = model.encoder(pixels).split([model.latents, model.latents], dim=1)
    drawn = one_latent.drawn(model, mean, raw)
    emitted = model.decoder(drawn.z)
    distortion = None
    if likelihood_at(model) is None:
        distortion = one_latent.gaussian_nll(target, *_read(model, emitted))
    side = round(model.pixels**0.5)
    return one_latent.pass_of_one(drawn, target.view(-1, 1, side, side), emitted, distortion, balanced)


def _read(model: Any, emitted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, gamma and log gamma of what the decoder emits, as the host's `decode` reads it."""
    value = emitted[:, : model.pixels]
    mean = value.sigmoid() if model.mean == "sigmoid" else value
    raw = emitted[:, model.pixels :] if model.gamma is None else model.gamma()
    gamma, log_gamma = model.likelihood_scale(raw)
    return mean, gamma, log_gamma


def means(emitted: Tensor) -> Tensor:
    """The means of the pixels as they are emitted, and the raw scales behind them."""
    return emitted


def sigmoid_means(emitted: Tensor) -> Tensor:
    """The means through the host's sigmoid, and the raw scales behind them; `[B, 1 or 2, H, W]`."""
    import torch

    return torch.cat([emitted[:, :1].sigmoid(), emitted[:, 1:]], dim=1)


def mass(model: Any, emitted: Tensor, target: Tensor) -> Tensor:
    """The host's own likelihood by the mass of a pixel's bin, nats an image."""
    mean, _, log_gamma = _read(model, emitted)
    return one_latent.gaussian_mass(target.flatten(1), mean, log_gamma)


def scaled_forward(
    model: Any, scales: Mapping[Role, Scale], x: Tensor, target: Tensor | None = None
) -> dict[str, Tensor]:
    """The host's `forward`, the posterior's scale, sample and divergence in one operation."""
    mean, raw = model.encoder(x).split([model.latents, model.latents], dim=1)
    z, kl = one_latent.drawn_by(scales.get("posterior"), model, mean, raw)
    rate = kl.sum(1).mean()
    del mean, raw, kl  # maps that nobody reads from here on
    mean_x, raw_x = model.decode(z)
    gamma, log_gamma = model.likelihood_scale(raw_x)
    goal = x if target is None else target
    distortion = ((goal - mean_x) ** 2 / (2 * gamma**2) + log_gamma + 0.5 * math.log(2 * math.pi)).sum(1).mean()
    return {"elbo": distortion + rate, "distortion": distortion, "rate": rate, "gamma_min": gamma.min()}


def forward(model: Any, likelihood: Any, x: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
    """The host's `forward` beside a decoder or a top prior."""
    return one_latent.averages(_terms(model, x, x if target is None else target, balanced=False), likelihood)


HOST = MlpVAE()
