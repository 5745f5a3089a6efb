"""Efficient-VDVAE (Hazami et al. 2022), the torch version: every block has a `prior_layer` and a `posterior_layer`.

Each is a `GaussianLatentLayer` whose `projection` emits a mean and a raw value. Its configuration says how that is
read: `std` takes softplus with β = log 2, `logstd` takes exp(β p). In both the KL gets what the sampler gets, so
replacing the projection's output is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError
from vdvae_patch.heads import Head, Role
from vdvae_patch.hosts.entry import HostEntry

if TYPE_CHECKING:
    from torch import nn

_LAYER = "GaussianLatentLayer"


class EfficientVDVAE(HostEntry):
    """Efficient-VDVAE; its hyperparameters are read from its own configuration file."""

    name = "efficient_vdvae"
    modules = ("model.def_model", "model.latent_layers")

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`UniversalAutoEncoder()`."""
        model: nn.Module = modules["model.def_model"].UniversalAutoEncoder(**hparams)
        return model

    def heads(self, model: nn.Module) -> list[Head]:
        """Two heads a block that has latents.

        Raises:
            HostError: the posterior is residual to the prior, or the configuration reads the value in a third way.
        """
        heads = []
        for path, layer in model.named_modules():
            if type(layer).__name__ != _LAYER:
                continue
            role: Role = "prior" if path.endswith("prior_layer") else "posterior"
            channels = int(layer.projection.out_channels)
            heads.append(Head(f"{path}.projection", role, channels // 2, channels, convention=_convention(layer)))
        return heads


def _convention(layer: Any) -> Any:
    from vdvae_patch.composition import Composition, Step
    from vdvae_patch.conventions import SoftplusOf

    settings = sys.modules[type(layer).__module__].hparams.model
    if getattr(settings, "use_residual_distribution", False):
        raise HostError("use_residual_distribution forms a sum after the layers have run; find its heads with scan")
    if settings.distribution_base == "std":
        return SoftplusOf(beta=float(layer.softplus.beta))
    if settings.distribution_base == "logstd":
        return Composition((Step("mul", (float(settings.gradient_smoothing_beta),)), Step("exp")))
    raise HostError(f"distribution_base is {settings.distribution_base!r}; known are 'std' and 'logstd'")


HOST = EfficientVDVAE()
