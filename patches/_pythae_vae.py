"""pythae's VAE and beta-VAE from the raw parameter; torch and pythae are there when this is imported.

What the encoder emits as `log_covariance` is replaced where it leaves the encoder, for whoever reads it. The model's
own `forward` takes the raw value from below that place, and makes sample and KL from it in one operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pythae.models.base.base_utils import ModelOutput
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch import normal
from vdvae_patch.attach.graft import host_class, stands_in
from vdvae_patch.heads import CallSite, Role
from vdvae_patch.hosts.fingerprint import is_one_of

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

# SHA-256 of the tokens of the methods in pythae 0.1.2; a model with any other is left to run as it is written.
_FORWARD = frozenset({"12d951cbacb6dad572b1e5c5597fd4bf17b64b226715b95e9d2417852fa6b84e"})
_SAMPLE_GAUSS = frozenset({"70f175a9156dd9a96fb047bdb710c03fe432d087ce26c5078bdc65d79adfda39"})
_LOSS_OF_VAE = frozenset({"cc16748c237fa06b4b041bb4e1c6fe3ba14b261d2bacaaa3273f7bc27d00e12a"})
_LOSS_OF_BETA_VAE = frozenset({"83a21bd0df22c129eec352f7e134adbe9e0db8d446609d56f01f9198c668d587"})


def _half_squared_error(x: Tensor, target: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(x, target, reduction="none").sum(dim=-1)


def _cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(x, target, reduction="none").sum(dim=-1)


_DISTORTIONS = {"mse": _half_squared_error, "bce": _cross_entropy}


def call_sites(model: Any) -> tuple[CallSite, ...]:
    """Where the encoder is left and where its output is read; none for a model that does anything else there."""
    cls, encoder = type(model), model.encoder
    known = (
        is_one_of(cls.forward, _FORWARD)
        and is_one_of(cls._sample_gauss, _SAMPLE_GAUSS)
        and not vars(model).keys() & {"forward", "loss_function", "_sample_gauss"}
        # these emit what `log_var` gives them, as it is
        and type(encoder).__module__.startswith("pythae.models.nn.")
        and "forward" not in vars(encoder)
        and model.model_config.reconstruction_loss in _DISTORTIONS
    )
    if known and is_one_of(cls.loss_function, _LOSS_OF_VAE):
        return CallSite("encoder", "forward", encoder_forward), CallSite("", "forward", vae_forward)
    if known and is_one_of(cls.loss_function, _LOSS_OF_BETA_VAE):
        return CallSite("encoder", "forward", encoder_forward), CallSite("", "forward", beta_vae_forward)
    return ()


def encoder_forward(encoder: Any, scales: Mapping[Role, Scale], *args: Any, **kwargs: Any) -> Any:
    """The encoder's output, with the log variance of the new scale."""
    output, scale = host_class(encoder).forward(encoder, *args, **kwargs), scales.get("posterior")
    if scale is not None and "log_covariance" in output:  # it is not if layers below were asked for
        output["log_covariance"] = scale.log_variance(output["log_covariance"])
    return output


def vae_forward(model: Any, scales: Mapping[Role, Scale], inputs: Mapping[str, Tensor], **kwargs: Any) -> Any:
    """The output of VAE, with its losses in nats an image, averaged over the batch."""
    return _forward(model, scales, inputs, None) or host_class(model).forward(model, inputs, **kwargs)


def beta_vae_forward(model: Any, scales: Mapping[Role, Scale], inputs: Mapping[str, Tensor], **kwargs: Any) -> Any:
    """The output of BetaVAE, with its losses in nats an image, averaged over the batch."""
    return _forward(model, scales, inputs, model.beta) or host_class(model).forward(model, inputs, **kwargs)


def _forward(model: Any, scales: Mapping[Role, Scale], inputs: Mapping[str, Tensor], beta: float | None) -> Any:
    """None where the encoder must be called as the host does: it has hooks, or was wrapped after it was patched."""
    encoder, scale = model.encoder, scales.get("posterior")
    if (
        "forward" in vars(encoder)
        or getattr(stands_in(encoder).get("forward"), "function", None) is not encoder_forward
        or _has_hooks(encoder)
    ):
        return None
    x = inputs["data"]
    encoded = host_class(encoder).forward(encoder, x)
    raw = encoded["log_covariance"]
    z, kl = normal.sample_kl(encoded["embedding"], 0.5 * raw if scale is None else raw, scale_q=scale)
    reconstruction = model.decoder(z)["reconstruction"]
    measure, images = _DISTORTIONS[model.model_config.reconstruction_loss], x.shape[0]
    distortion, rate = measure(reconstruction.reshape(images, -1), x.reshape(images, -1)), kl.sum(dim=-1)
    elbo = distortion + (rate if beta is None else beta * rate)
    return ModelOutput(
        recon_loss=distortion.mean(dim=0), reg_loss=rate.mean(dim=0), loss=elbo.mean(dim=0), recon_x=reconstruction, z=z
    )


def _has_hooks(module: Any) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
