"""What the summary of a run says of a host whose rates are of draws: bound and log likelihood, and the units in use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vdvae_patch.patching.decoder import likelihood_in
from vdvae_patch.seams import Terms
from vdvae_patch.train.aside import aside
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.importance import active_by_level, log_likelihood, spread
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.setup import Workload
from vdvae_patch.train.world import World


def of_latents(work: Workload, config: TrainConfig[Any], world: World, nelbo: float) -> dict[str, Any]:
    """`lower_bound_nats`, `log_likelihood_nats` (with how many samples and images) and `active_units` by latent.

    Of the test images and the averaged weights, in nats an image. Nothing for a host whose rates are closed forms; no
    log likelihood without samples, nor beside a decoder that is a density, whose value is of no 8-bit image.

    Args:
        nelbo: of the test images, nats per dimension.
    """
    if not work.entry.rates_of_draws:
        return {}
    work.let_average_follow()
    with aside(work.ema):
        found: dict[str, Any] = world.on_main(lambda: _measured(work, config, world.device, nelbo))
    return found


@torch.no_grad()
def _measured(work: Workload, config: TrainConfig[Any], device: torch.device, nelbo: float) -> dict[str, Any]:
    pixels = torch.tensor(work.data.test[: config.test_images or None]).to(device)
    batch = work.data.normalization.apply(pixels)
    found: dict[str, Any] = {"lower_bound_nats": -nelbo * batch.target[0].numel()}
    likelihood = likelihood_in(work.ema)
    if config.importance_samples and not (likelihood is not None and likelihood.decoder.is_density):
        chosen = spread(len(pixels), config.importance_images).to(device)
        seam = work.host.decoder_seam(work.ema)

        def terms(rows: Tensor) -> Terms:
            index = rows.long()
            passed = seam.terms(work.ema, batch.input[index], batch.target[index])
            if likelihood is None:
                return passed
            assert passed.emitted is not None
            parameters = likelihood.parameters_of(passed.emitted)
            return replace(passed, distortion=likelihood.decoder.nll(passed.target, parameters))

        seed_noise("evaluate", config.seed)
        estimate = log_likelihood(terms, chosen, config.importance_samples)
        found |= {
            "log_likelihood_nats": float(estimate.mean()),
            "log_likelihood_samples": config.importance_samples,
            "log_likelihood_images": len(chosen),
        }
    seed_noise("evaluate", config.seed)
    units = active_by_level(work.entry, work.ema, work.entry.read(batch))
    return found if units is None else found | {"active_units": units}
