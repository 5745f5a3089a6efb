"""`forward` of pythae's VAE and beta-VAE, from the raw parameter; torch and pythae are there when this is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch import normal
from vdvae_patch.heads import Role
from vdvae_patch.hosts.fingerprint import is_one_of
from vdvae_patch.patching import raw_output

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

# SHA-256 of the tokens of the methods in pythae 0.1.2; a model with any other is left to run as it is written.
_FORWARD = frozenset({"12d951cbacb6dad572b1e5c5597fd4bf17b64b226715b95e9d2417852fa6b84e"})
_LOSS_FUNCTION = frozenset(
    {
        "cc16748c237fa06b4b041bb4e1c6fe3ba14b261d2bacaaa3273f7bc27d00e12a",  # VAE
        "83a21bd0df22c129eec352f7e134adbe9e0db8d446609d56f01f9198c668d587",  # BetaVAE
    }
)
_SAMPLE_GAUSS = frozenset({"70f175a9156dd9a96fb047bdb710c03fe432d087ce26c5078bdc65d79adfda39"})


def _half_squared_error(x: Tensor, target: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(x, target, reduction="none").sum(dim=1)


def _cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(x, target, reduction="none").sum(dim=1)


_DISTORTIONS = {"mse": _half_squared_error, "bce": _cross_entropy}


def is_known(model: Any) -> bool:
    """Whether `forward` does what the model's own does."""
    cls = type(model)
    return (
        is_one_of(cls.forward, _FORWARD)
        and is_one_of(cls.loss_function, _LOSS_FUNCTION)
        and is_one_of(cls._sample_gauss, _SAMPLE_GAUSS)
        # these return what `log_var` gives them, as it is
        and type(model.encoder).__module__.startswith("pythae.models.nn.")
        and model.model_config.reconstruction_loss in _DISTORTIONS
    )


def forward(model: Any, scales: Mapping[Role, Scale], inputs: Mapping[str, Tensor], **kwargs: Any) -> Any:
    """The model's output, with its losses in nats an image, averaged over the batch."""
    if torch.compiler.is_compiling():  # it fuses by itself, and cannot look at threads
        return type(model).forward(model, inputs, **kwargs)
    x, scale = inputs["data"], scales.get("posterior")
    with raw_output(model.encoder.log_var):
        encoded = model.encoder(x)
    raw = encoded.log_covariance
    z, kl = normal.sample_kl(encoded.embedding, 0.5 * raw if scale is None else raw, scale_q=scale)
    reconstruction = model.decoder(z)["reconstruction"]
    measure = _DISTORTIONS[model.model_config.reconstruction_loss]
    distortion, rate = measure(reconstruction.flatten(1), x.flatten(1)), kl.sum(dim=1)
    elbo = distortion + (model.beta * rate if hasattr(model, "beta") else rate)
    return ModelOutput(
        recon_loss=distortion.mean(), reg_loss=rate.mean(), loss=elbo.mean(), recon_x=reconstruction, z=z
    )
