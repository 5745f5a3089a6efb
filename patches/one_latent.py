"""What the paper's two small VAEs share: one latent with the prior N(0, 1), and images in [0, 1].

Both have two methods, `posterior_scale` and `likelihood_scale`, from a raw scale to a sigma and a log sigma. They are
replaced by the scale's own two formulas; all that the hosts compute from them stays as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vdvae_patch.heads import CallSite, Role
from vdvae_patch.hosts.preset import Latent, Losses, Optimization

if TYPE_CHECKING:
    from torch import Tensor

    from vdvae_patch.scales import Scale


def posterior_scale(model: Any, scales: Mapping[Role, Scale], raw: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior's sigma and log sigma."""
    return evaluate(scales.get("posterior"), raw)


def likelihood_scale(model: Any, scales: Mapping[Role, Scale], raw: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels' sigma and log sigma."""
    return evaluate(scales.get("likelihood"), raw)


def evaluate(scale: Scale | None, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma and log sigma; without a scale as the hosts have them, `log(exp(raw))` as written."""
    if scale is None:
        sigma = raw.exp()
        return sigma, sigma.log()
    return scale.sigma(raw), scale.log_sigma(raw)


POSTERIOR = (CallSite("", "posterior_scale", posterior_scale),)
LIKELIHOOD = (CallSite("", "likelihood_scale", likelihood_scale),)


def plain_adam(lr: float, batch_size: int) -> Optimization:
    """Adam as the paper has it: no clipping and no skipping."""
    return Optimization(
        lr=lr, adam_beta1=0.9, adam_beta2=0.999, batch_size=batch_size, grad_clip=1e30, skip_threshold=-1
    )


def unit_pixels(target: Tensor) -> Tensor:
    """Pixels in [0, 1] from those in [-1, 1]."""
    return (target + 1) / 2


def per_dimension(out: Mapping[str, Tensor], target: Tensor) -> Losses:
    """From the host's nats an image to nats per dimension; `target` is `[B, H, W, C]`."""
    values = target[0].numel()
    return Losses(out["elbo"] / values, out["distortion"] / values, out["rate"] / values)


def latent(mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Latent:
    """A draw of z and KL(N(mean, sigma) ‖ N(0, 1)) elementwise, in nats."""
    import torch

    return Latent(mean + sigma * torch.randn_like(mean), 0.5 * (sigma**2 + mean**2 - 1) - log_sigma)
