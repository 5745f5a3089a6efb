"""pythae's VAE and beta-VAE from the raw parameter; torch and pythae are there when this is imported.

What the encoder emits as `log_covariance` is replaced where it leaves the encoder, for whoever reads it. The model's
own `forward` takes the raw value from below that place, and makes sample and KL from it in one operation.

A top prior takes the place of N(0, 1) in the two methods that read it, `loss_function` and `get_nll`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch import normal
from vdvae_patch.attach.graft import host_class, stands_in
from vdvae_patch.errors import HostError
from vdvae_patch.heads import CallSite, Role
from vdvae_patch.hosts.fingerprint import is_one_of
from vdvae_patch.patching.top_prior import TOP_PRIOR, density_at
from vdvae_patch.seams import Instead, TopPriorSeam

if TYPE_CHECKING:
    from vdvae_patch.scales import Scale

# SHA-256 of the tokens of the methods in pythae 0.1.2; a model with any other is left to run as it is written.
_FORWARD = frozenset({"12d951cbacb6dad572b1e5c5597fd4bf17b64b226715b95e9d2417852fa6b84e"})
_SAMPLE_GAUSS = frozenset({"70f175a9156dd9a96fb047bdb710c03fe432d087ce26c5078bdc65d79adfda39"})
_LOSS_OF_VAE = frozenset({"cc16748c237fa06b4b041bb4e1c6fe3ba14b261d2bacaaa3273f7bc27d00e12a"})
_LOSS_OF_BETA_VAE = frozenset({"83a21bd0df22c129eec352f7e134adbe9e0db8d446609d56f01f9198c668d587"})
_GET_NLL = frozenset({"ab828d3761fa220266fa49416dfe77b322a6a686108cb2f4233aaa2288a63dad"})


def _half_squared_error(x: Tensor, target: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(x, target, reduction="none").sum(dim=-1)


def _cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(x, target, reduction="none").sum(dim=-1)


_DISTORTIONS = {"mse": _half_squared_error, "bce": _cross_entropy}


def _is_as_written(model: Any) -> bool:
    """Whether loss and sample are pythae's own lines, those that the functions here stand in for."""
    cls = type(model)
    return (
        is_one_of(cls.forward, _FORWARD)
        and is_one_of(getattr(cls, "_sample_gauss", None), _SAMPLE_GAUSS)
        and is_one_of(getattr(cls, "loss_function", None), _LOSS_OF_VAE | _LOSS_OF_BETA_VAE)
        and not vars(model).keys() & {"forward", "loss_function", "_sample_gauss"}
        and model.model_config.reconstruction_loss in _DISTORTIONS
    )


def call_sites(model: Any) -> tuple[CallSite, ...]:
    """Where the encoder is left and where its output is read; none for a model that does anything else there."""
    cls, encoder = type(model), model.encoder
    known = (
        _is_as_written(model)
        # these emit what `log_var` gives them, as it is
        and type(encoder).__module__.startswith("pythae.models.nn.")
        and "forward" not in vars(encoder)
    )
    if not known:
        return ()
    own = vae_forward if is_one_of(cls.loss_function, _LOSS_OF_VAE) else beta_vae_forward
    return CallSite("encoder", "forward", encoder_forward), CallSite("", "forward", own)


def top_prior_seam(model: Any) -> TopPriorSeam | None:
    """Of VAE and beta-VAE with whatever encoder; None of a model that forms its loss in another way.

    Raises:
        HostError: the shape of an image is not known.
    """
    if not hasattr(model, "model_config") or not _is_as_written(model):
        return None
    if "get_nll" in vars(model) or not is_one_of(type(model).get_nll, _GET_NLL):
        return None
    if not model.model_config.input_dim:
        raise HostError(
            "host 'pythae': the configuration of this model does not say which shape an image has; set "
            "model.model_config.input_dim, as in (1, 28, 28)"
        )
    loss = vae_loss if is_one_of(type(model).loss_function, _LOSS_OF_VAE) else beta_vae_loss
    instead = (Instead("", "loss_function", loss), Instead("", "get_nll", log_likelihood))
    return TopPriorSeam(tuple(model.model_config.input_dim), (int(model.latent_dim),), encode, as_it_is, instead)


def as_it_is(target: Tensor) -> Tensor:
    """pythae's models take images as they come, in [0, 1]."""
    return target


def encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log σ of the posterior of images, both `[K, latents]`."""
    encoded = model.encoder(images)
    return encoded["embedding"], 0.5 * encoded["log_covariance"]


def vae_loss(
    model: Any, likelihood: Any, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`VAE.loss_function` with a top prior: loss, distortion and rate, nats an image, averaged over the batch."""
    return _loss(model, 1.0, recon_x, x, mu, log_var, z)


def beta_vae_loss(
    model: Any, likelihood: Any, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`BetaVAE.loss_function` with a top prior."""
    return _loss(model, model.beta, recon_x, x, mu, log_var, z)


def _loss(
    model: Any, beta: float, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    density = density_at(model)
    assert density is not None
    distortion, rate = _distortion(model, recon_x, x), density.kl(z, mu, 0.5 * log_var)
    return (distortion + beta * rate).mean(dim=0), distortion.mean(dim=0), rate.mean(dim=0)


def _distortion(model: Any, recon_x: Tensor, x: Tensor) -> Tensor:
    measure = _DISTORTIONS[model.model_config.reconstruction_loss]
    return measure(recon_x.reshape(len(x), -1), x.reshape(len(x), -1))


@torch.no_grad()
def log_likelihood(model: Any, likelihood: Any, data: Tensor, n_samples: int = 1, batch_size: int = 100) -> float:
    """`get_nll` with a top prior: log p(x) by importance sampling, nats an image, the mean of `[N, ...]`.

    As many draws an image as the host takes: batches of `batch_size`, as many as fit into `n_samples`, one at least.
    Its mean squared error is a Normal with σ = 1 here, as it is there.
    """
    density = density_at(model)
    assert density is not None
    batches = max(1, n_samples // batch_size)
    constant = 0.0
    if model.model_config.reconstruction_loss == "mse":
        constant = math.prod(data.shape[1:]) * normal.HALF_LOG_2PI
    found = []
    for image in data:
        x, weights = image.expand(batch_size, *image.shape), []
        for _ in range(batches):
            mean, log_sigma = encode(model, x)
            z = normal.sample(mean, log_sigma)
            distortion = _distortion(model, model.decoder(z)["reconstruction"], x) + constant
            own = normal.log_prob(z, mean, log_sigma).sum(dim=-1)  # not the prior's KL, which may be a closed form
            weights.append(density.log_prob(z) - own - distortion)
        found.append(torch.cat(weights).logsumexp(dim=0) - math.log(batches * batch_size))
    return float(torch.stack(found).double().mean())


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
    """None where the host's own lines are to run: its encoder has hooks, or was wrapped after it was patched, or the
    KL is to another prior than N(0, 1)."""
    encoder, scale = model.encoder, scales.get("posterior")
    if (
        "forward" in vars(encoder)
        or getattr(stands_in(encoder).get("forward"), "function", None) is not encoder_forward
        or _has_hooks(encoder)
        or TOP_PRIOR in model._modules
    ):
        return None
    x = inputs["data"]
    encoded = host_class(encoder).forward(encoder, x)
    raw = encoded["log_covariance"]
    z, kl = normal.sample_kl(encoded["embedding"], 0.5 * raw if scale is None else raw, scale_q=scale)
    reconstruction = model.decoder(z)["reconstruction"]
    distortion, rate = _distortion(model, reconstruction, x), kl.sum(dim=-1)
    elbo = distortion + (rate if beta is None else beta * rate)
    return ModelOutput(
        recon_loss=distortion.mean(dim=0), reg_loss=rate.mean(dim=0), loss=elbo.mean(dim=0), recon_x=reconstruction, z=z
    )


def _has_hooks(module: Any) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
