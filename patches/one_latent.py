"""What the paper's two small VAEs share: one latent with the prior N(0, 1), and images in [0, 1].

Both have two methods, `posterior_scale` and `likelihood_scale`, from a raw scale to a sigma and a log sigma. They are
replaced by the scale's own two formulas. Of the posterior `forward` is replaced, too: scale, sample and divergence are
one operation there, which has less to do and to keep than the host's lines. For the scale that is evaluated as the
hosts write it, all that they compute stays as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vdvae_patch.heads import CallSite, Role
from vdvae_patch.hosts.preset import Latent, Losses, Optimization

if TYPE_CHECKING:
    from torch import Tensor

    from vdvae_patch.pixel_grid import PixelGrid
    from vdvae_patch.scales import Scale
    from vdvae_patch.seams import Terms


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


def posterior(forward: Callable[..., Any]) -> tuple[CallSite, ...]:
    """The methods that read the posterior's raw scale; `forward(model, scales, ...)` is the host's own from a scale."""
    return CallSite("", "posterior_scale", posterior_scale), CallSite("", "forward", forward, yields=True)


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


def drawn_by(scale: Scale | None, model: Any, mean: Tensor, raw: Tensor) -> Latent:
    """A draw of z and its rate, both elementwise, from a scale of the posterior; as the hosts have it without one."""
    from vdvae_patch import normal

    if scale is None or scale.as_written:
        return latent(mean, *model.posterior_scale(raw))
    return Latent(*normal.sample_kl(mean, raw, scale_q=scale))


def drawn(model: Any, mean: Tensor, raw: Tensor) -> Latent:
    """A draw of z from the posterior, and its rate: elementwise from N(0, 1), or of a top prior an image, `[B]`."""
    from vdvae_patch.patching.top_prior import density_at

    found = latent(mean, *model.posterior_scale(raw))
    top = density_at(model)
    return found if top is None else Latent(found.z, top.kl(found.z, mean, log_sigma_of(model, raw)))


def log_sigma_of(model: Any, raw: Tensor) -> Tensor:
    """log sigma of the posterior: that of its new scale, or the raw value itself, whose exponential the hosts take."""
    from vdvae_patch.attach.graft import stands_in

    patched = "posterior_scale" in stands_in(model)
    found: Tensor = model.posterior_scale(raw)[1] if patched else raw
    return found


def draw_prior(model: Any, n: int, temperature: float) -> Tensor | None:
    """z from a top prior; None without one, for the hosts to draw it from N(0, 1) as they do."""
    from vdvae_patch.patching.top_prior import density_at

    top = density_at(model)
    return None if top is None else top.sample(n, temperature)


def unit_grid() -> PixelGrid:
    """The values that a pixel has: 8 bits in [0, 1]."""
    from vdvae_patch.pixel_grid import PixelGrid

    return PixelGrid(0, 1)


def pass_of_one(drawn: Latent, target: Tensor, emitted: Tensor, distortion: Tensor | None, balanced: bool) -> Terms:
    """The parts of a pass with one latent, whose prior has nothing to learn."""
    from vdvae_patch.objectives import BalancedRate
    from vdvae_patch.seams import Terms

    rate = {"z": drawn.kl.reshape(len(drawn.kl), -1).sum(dim=1)}
    apart = BalancedRate({"z": rate["z"].detach()}, rate) if balanced else None
    return Terms(rate, target, emitted, distortion, apart)


def gaussian_nll(x: Tensor, mean: Tensor, gamma: Tensor, log_gamma: Tensor) -> Tensor:
    """-log N(x; mean, gamma) as the hosts have it, nats an image, `[B]`."""
    import math

    squared = (x - mean) ** 2 / (2 * gamma**2)
    return (squared + log_gamma + 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)


def gaussian_mass(x: Tensor, mean: Tensor, log_gamma: Tensor) -> Tensor:
    """-log of the mass that N(mean, gamma) gives to the bin of each pixel, nats an image, `[B]`."""
    from vdvae_patch.decoders.masses import log_normal_mass

    return -log_normal_mass(x, mean, log_gamma, unit_grid()).flatten(1).sum(dim=1)


def averages(terms: Terms, likelihood: Any) -> dict[str, Tensor]:
    """What the hosts' `forward` gives, beside a decoder or a top prior: nats an image, averaged over the batch."""
    nll: Any = terms.distortion if likelihood is None else likelihood.nll(terms.target, terms.emitted)
    distortion = nll.mean()
    rate = terms.rates["z"].mean()
    return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}


def uint8(model: Any, emitted: Tensor, otherwise: Tensor) -> Tensor:
    """Images `[n, C, ...]` to look at: a decoder's, or the host's own means in [0, 1]."""
    import torch

    from vdvae_patch.patching.decoder import likelihood_at

    likelihood = likelihood_at(model)
    if likelihood is not None:
        images: Tensor = likelihood.images(emitted)
        return images
    return (otherwise * 255).round().clamp(0, 255).to(torch.uint8)
