"""What a patched block of VDVAE does in the place of its own methods: functions for the heads of `vdvae`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vdvae_patch import normal
from vdvae_patch.heads import Role
from vdvae_patch.scales import Scale


def sample(block: Any, scales: Mapping[Role, Scale], x: Tensor, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`DecBlock.sample`: z from the posterior, the trunk with the prior's residual, and the KL."""
    q, p = block.enc(torch.cat([x, acts], dim=1)), block.prior(x)
    return normal.sample_kl_of_maps(q, p, x, scale_q=scales.get("posterior"), scale_p=scales.get("prior"))


def sample_uncond(
    block: Any, scales: Mapping[Role, Scale], x: Tensor, t: float | None = None, lvs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`DecBlock.sample_uncond`: z as given, or from the prior with its new σ multiplied by the temperature."""
    mean, raw, residual = _split_prior(block, x)
    if lvs is not None:
        return lvs, x + residual
    scale = scales.get("prior")
    log_sigma = raw if scale is None else scale.log_sigma(raw)
    if t is not None:
        log_sigma = log_sigma + (math.log(t) if t > 0 else -math.inf)
    return normal.sample(mean, log_sigma), x + residual


def _split_prior(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features = block.prior(x)
    mean, raw, residual = features.split([block.zdim, block.zdim, features.shape[1] - 2 * block.zdim], dim=1)
    return mean, raw, residual


def kl(mean_q: Tensor, mean_p: Tensor, log_sigma_q: Tensor, log_sigma_p: Tensor) -> Tensor:
    return normal.kl_divergence(mean_q, log_sigma_q, mean_p, log_sigma_p)


def draw(mean: Tensor, log_sigma: Tensor) -> Tensor:
    return normal.sample(mean, log_sigma)
