"""The gated dense VAEs of "VAE with a VampPrior" and "Large VAE", with one and two levels of latents.

Each Normal's log variance is what a linear layer emits, and is patched there. What the model computes of it, samples,
log densities and the VampPrior's mixture, are three functions of the host, which the stable ones take the place of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from vdvae_patch.data import DATASETS
from vdvae_patch.errors import HostError, InvalidValueError
from vdvae_patch.heads import Head, Rebinding, Role
from vdvae_patch.hosts.preset import Latent, Losses, Preset, require_sizes
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.registry import parse_spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from patches import one_latent
    from vdvae_patch.pixel_grid import PixelGrid
    from vdvae_patch.seams import DecoderSeam, Terms, TopPriorSeam
else:
    from vdvae_patch.patches import one_latent


@dataclass(frozen=True)
class Architecture:
    """What can be chosen of it.

    Attributes:
        levels: of latents, 1 or 2.
        hidden: units of a gated dense layer.
        latents: size of the latent of each level.
        prior: of the top latent, as the host has it.
        components: pseudo-inputs of the host's own VampPrior.
        likelihood: of the pixels: bernoulli for black and white, logistic for 256 grey levels; auto is what fits the
            data set.
    """

    levels: Literal[1, 2] = 1
    hidden: int = 300
    latents: int = 40
    prior: Literal["standard", "vamp"] = "standard"
    components: int = 500
    likelihood: Literal["auto", "bernoulli", "logistic"] = "auto"

    def __post_init__(self) -> None:
        require_sizes(self, hidden=1, latents=1, components=1)


class LargeVAE(TrainableEntry):
    """Two gated dense layers of 300 units each way; or two levels of latents."""

    name = "large_vae"
    modules = ("vae",)
    embedded = "vdvae_patch.upstream.large_vae"
    architecture = Architecture
    reads_target = True
    takes_rectangles = True
    rates_of_draws = True

    def presets(self) -> Mapping[str, Preset]:
        """The paper's learning rates, a tenth with the VampPrior; batches of 100, Adam without clipping or skipping."""
        one, two = Architecture(), Architecture(levels=2)
        fast, slow = one_latent.plain_adam(lr=1e-3, batch_size=100), one_latent.plain_adam(lr=1e-4, batch_size=100)
        data = "mnist-thresholded"
        return {
            "standard": Preset(fast, one, data, "one level, N(0, 1)"),
            "vamp": Preset(slow, replace(one, prior="vamp"), data, "one level, the VampPrior"),
            "hvae": Preset(fast, two, data, "two levels, N(0, 1)"),
            "hvae-vamp": Preset(slow, replace(two, prior="vamp"), data, "two levels, the VampPrior on the upper one"),
        }

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.VAE` or `vae.TwoLevelVAE`, weights drawn by torch's default generator."""
        chosen = dict(hparams)
        kind = modules["vae"].VAE if chosen.pop("levels", 1) == 1 else modules["vae"].TwoLevelVAE
        model: nn.Module = kind(**chosen)
        return model

    def hyperparameters(
        self,
        architecture: Architecture,
        *,
        image_size: int,
        image_channels: int,
        data: str,
        image_width: int | None = None,
    ) -> dict[str, Any]:
        """What the models take, and `levels`, which of the two it is.

        Raises:
            InvalidValueError: images with colours, which a flat list of pixels does not tell from a larger image.
        """
        if image_channels != 1:
            raise InvalidValueError(f"host 'large_vae' takes grey images; {data} has {image_channels} channels")
        likelihood: str = architecture.likelihood
        if likelihood == "auto":
            black_and_white = getattr(DATASETS.get_class(parse_spec(data, "data set")[0]), "two_values", False)
            likelihood = "bernoulli" if black_and_white else "logistic"
        size = (image_size, image_width or image_size)
        return asdict(architecture) | {"size": size, "likelihood": likelihood}

    def heads(self, model: nn.Module) -> list[Head]:
        """The top latent's posterior; of two levels then the lower one's posterior and prior."""
        rebindings = _rebindings(model)
        names: dict[str, Role] = {"q_z": "posterior", "q_z2": "posterior", "q_z1": "posterior", "p_z1": "prior"}
        return [
            Head(f"{name}.log_var", role, convention="log_variance", rebindings=rebindings)
            for name, role in names.items()
            if hasattr(model, name)
        ]

    def check_data(self, model: nn.Module, target: Tensor) -> None:
        """A Bernoulli is for black and white; of grey values its cross-entropy is no log likelihood."""
        other = target[target.abs() != 1]
        if getattr(model, "likelihood", "") == "bernoulli" and other.numel():
            grey = round((float(other[0]) + 1) * 127.5)
            raise InvalidValueError(
                f"host 'large_vae' with --likelihood bernoulli is for pixels of 0 and 255, and these have grey values "
                f"such as {grey}: take --likelihood logistic, or --data mnist-thresholded, -drawn-once or -drawn-anew"
            )

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One pass on the target's pixels, mapped to [0, 1]; `x` is not read, for they are the same image."""
        return one_latent.per_dimension(model(flat(target)), target)

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """The latents of images `[B, H, W, 1]` in [-1, 1], the upper first, with log q − log p an image."""
        bare: Any = getattr(model, "module", model)
        drawn, rates = bare.infer(flat(x))
        return [Latent(z, kl) for z, kl in zip(drawn, rates.values(), strict=True)]

    def posterior_means(self, model: nn.Module, x: Tensor) -> list[Tensor]:
        """Of images as `latents` takes them; the lower latent's depends on the draw of the upper one."""
        bare: Any = getattr(model, "module", model)
        if hasattr(bare, "q_z"):
            return [bare.encode(flat(x))[0]]
        found: list[Tensor] = []
        hook = bare.q_z1.mean.register_forward_hook(lambda module, given, mean: found.append(mean))
        try:
            bare.infer(flat(x))
        finally:
            hook.remove()
        # not by a hook: behind the images a VampPrior's pseudo-inputs pass through the same layer
        return [bare.encode(flat(x))[0], found[0]]

    def latent_of(self, model: nn.Module, heads: Sequence[Head], count: int) -> list[int | None]:
        """The upper latent is the first; its prior is no head's, so that the one prior is the lower latent's."""
        lower = ("q_z1.", "p_z1.")
        return [None if head.role == "likelihood" else int(head.path.startswith(lower)) for head in heads]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, 1]`: the means of latents from the prior, the first of which may be given."""
        import torch

        bare: Any = getattr(model, "module", model)
        with torch.no_grad():
            emitted = bare.emit(bare.generate(n, temperature, latents))
            images: NDArray[np.uint8] = one_latent.uint8(bare, emitted, bare.mean_of(emitted)).cpu().numpy()
        return images.reshape(n, *bare.size, 1)

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The last layer emits a logit for each pixel, and then of grey levels the raw log scales."""
        from vdvae_patch.seams import DecoderSeam, Instead

        bare: Any = model
        grey = bare.likelihood == "logistic"
        return DecoderSeam(
            "output", 2 if grey else 1, 1, grid(bare), terms, means, spare=int(grey),
            instead=(Instead("", "forward", forward),), learns_scale=grey, size=bare.size,
            whole_rate="its rate is log q − log p of one draw, whose two gradients are not told apart",
        )  # fmt: skip

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """Two methods read the prior of the upper latent, whose posterior is of the image alone.

        Raises:
            HostError: the model has a VampPrior of its own.
        """
        from vdvae_patch.seams import Instead, TopPriorSeam

        bare: Any = model
        if bare.pseudo_inputs is not None:
            raise HostError(
                "host 'large_vae' takes no top prior beside the VampPrior that it has with --prior vamp: take --preset "
                "standard or hvae, or --prior standard"
            )
        instead = (Instead("", "log_prior", log_prior), Instead("", "draw_prior", draw_prior))
        return TopPriorSeam((int(bare.pixels),), (int(bare.latents),), encode, flat, instead)


def flat(target: Tensor) -> Tensor:
    """`[B, H, W, 1]` in [-1, 1] to `[B, H W]` in [0, 1]."""
    return one_latent.unit_pixels(target).flatten(1)


def encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log σ of the upper latent's posterior, `[K, latents]`."""
    mean, log_var = model.encode(images)
    return mean, 0.5 * log_var


def log_prior(model: Any, likelihood: Any, z: Tensor) -> Tensor:
    """The host's `log_prior` by a top prior."""
    from vdvae_patch.patching.top_prior import density_at

    density = density_at(model)
    assert density is not None
    return density.log_prob(z)


def draw_prior(model: Any, likelihood: Any, n: int, temperature: float = 1.0) -> Tensor:
    """The host's `draw_prior` from a top prior."""
    from vdvae_patch.patching.top_prior import density_at

    density = density_at(model)
    assert density is not None
    return density.sample(n, temperature)


def grid(model: Any) -> PixelGrid:
    """Black and white are 0 and 1; grey level k is in the middle of its bin, at (k + 1/2) / 256."""
    from vdvae_patch.pixel_grid import PixelGrid

    return PixelGrid(0, 1) if model.likelihood == "bernoulli" else PixelGrid(1 / 512, 511 / 512)


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; `target` is `[B, H, W, 1]` in [-1, 1]."""
    return _terms(model, flat(target))


def _terms(model: Any, pixels: Tensor) -> Terms:
    from vdvae_patch.patching.decoder import likelihood_at
    from vdvae_patch.seams import Terms

    latents, rates = model.infer(pixels)
    emitted = model.emit(latents)
    distortion = model.distortion(pixels, emitted) if likelihood_at(model) is None else None
    pixels_of = grid(model)
    target = (pixels_of.low + pixels_of.range * pixels).view(-1, 1, *model.size)
    return Terms(rates, target, emitted, distortion)


def means(emitted: Tensor) -> Tensor:
    """The means through the host's sigmoid, and the raw log scales behind them; `[B, 1 or 2, H, W]`."""
    import torch

    return torch.cat([emitted[:, :1].sigmoid(), emitted[:, 1:]], dim=1)


def forward(model: Any, likelihood: Any, x: Tensor) -> dict[str, Tensor]:
    """The host's `forward` beside a decoder."""
    found = _terms(model, x)
    distortion = likelihood.nll(found.target, found.emitted).mean()
    rate = sum(found.rates.values()).mean()  # type: ignore[union-attr]
    return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}


# --- what takes the place of the host's functions ---------------------------------------------------------------------


def _draw(mean: Tensor, log_var: Tensor, temperature: float = 1.0) -> Tensor:
    import torch

    from vdvae_patch import normal

    return normal.sample(mean, 0.5 * log_var, temperature * torch.randn_like(mean))


def _log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    from vdvae_patch import normal

    return normal.log_prob(z, mean, 0.5 * log_var)


def _log_mixture(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    from vdvae_patch.top_priors import NormalMixture

    return NormalMixture(mean, 0.5 * log_var).log_prob(z)


_STABLE: dict[str, Callable[..., Any]] = {"draw": _draw, "log_normal": _log_normal, "log_mixture": _log_mixture}


def _rebindings(model: Any) -> tuple[Rebinding, ...]:
    """Each of the three functions in the methods of this model that call it."""
    methods = {name: getattr(type(model), name) for name in ("infer", "generate", "log_prior", "draw_prior")}
    return tuple(
        Rebinding("", method, name, stable)
        for method, function in methods.items()
        for name, stable in _STABLE.items()
        if name in function.__code__.co_names
    )


HOST = LargeVAE()
