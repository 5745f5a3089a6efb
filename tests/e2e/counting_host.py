"""How `counting_vae.VAE` is built and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vdvae_patch import Head, TrainableEntry
from vdvae_patch.hosts.preset import Latent, Losses, Optimization, Preset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """Each field is a flag of `train`.

    Attributes:
        latents: size of z.
    """

    latents: int = 4


class CountingHost(TrainableEntry):
    name = "counting_host"
    modules = ("counting_vae",)
    architecture = Architecture
    reads_target = True

    def presets(self) -> Mapping[str, Preset]:
        return {
            "small": Preset(Optimization(lr=1e-3, batch_size=4), Architecture(), "builtin(train=24, valid=4, test=4)")
        }

    def hyperparameters(self, architecture: Any, **sizes: Any) -> Mapping[str, Any]:
        return {"pixels": sizes["image_size"] ** 2 * sizes["image_channels"], **asdict(architecture)}

    def build(self, modules: Mapping[str, Any], hparams: Mapping[str, Any]) -> nn.Module:
        built: nn.Module = modules["counting_vae"].VAE(**hparams)
        return built

    def heads(self, model: Any) -> list[Head]:
        return [Head("encoder.2", "posterior", start=model.latents, stop=2 * model.latents, convention="log_sigma")]

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        distortion, rate = model((target.flatten(1) + 1) / 2)
        return Losses(distortion + rate, distortion, rate)

    def latents(self, model: Any, x: Tensor) -> list[Latent]:
        return [Latent(*getattr(model, "module", model).posterior((x.flatten(1) + 1) / 2))]

    def sample(self, model: Any, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        import torch

        with torch.no_grad():
            z = latents[0] if latents else temperature * torch.randn(n, model.latents)
            pixels = model.decoder(z + model.num_iter).sigmoid()
        found: NDArray[np.uint8] = (pixels * 255).round().to(torch.uint8).view(n, 32, 32, 3).numpy()
        return found


HOST = CountingHost()
