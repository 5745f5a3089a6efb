"""VDVAE's blocks with their means read in another way: functions for the call sites of its heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vdvae_patch.heads import CallSite, Head, Role
from vdvae_patch.hosts.means import MeanReading

if TYPE_CHECKING:
    from torch import Tensor

    from vdvae_patch.scales import Scale


def heads_reading(heads: Iterable[Head], reading: MeanReading) -> list[Head]:
    """The same heads, whose blocks read their means in that way."""
    return [replace(head, calls=_calls(head.path.rsplit(".", 1)[0], reading), rebindings=()) for head in heads]


def _calls(block: str, reading: MeanReading) -> tuple[CallSite, ...]:
    return CallSite(block, "sample", Sample(reading)), CallSite(block, "sample_uncond", SampleUncond(reading))


@dataclass(frozen=True)
class Sample:
    """`DecBlock.sample(x, acts)`: z from the posterior, the trunk with the prior's residual, and the rate in nats."""

    reading: MeanReading

    def __call__(
        self, block: Any, scales: Mapping[Role, Scale], x: Tensor, acts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        from vdvae_patch import normal

        mean, raw = block.enc(torch.cat([x, acts], dim=1)).split(block.zdim, dim=1)
        mean = self.reading.squash(mean)
        log_sigma = _log_sigma(scales.get("posterior"), raw)
        mean_p, log_sigma_p, residual = _prior(block, scales, x, self.reading)
        if self.reading.means == "relative":
            unit, rate = normal.sample_kl(mean, log_sigma)
            return mean_p + log_sigma_p.exp() * unit, x + residual, rate
        if self.reading.means == "residual":
            mean, log_sigma = mean_p + mean, log_sigma_p + log_sigma
        z, rate = normal.sample_kl(mean, log_sigma, mean_p, log_sigma_p)
        return z, x + residual, rate


@dataclass(frozen=True)
class SampleUncond:
    """`DecBlock.sample_uncond(x, t, lvs)`: z as given, or from the prior with σ multiplied by the temperature."""

    reading: MeanReading

    def __call__(
        self, block: Any, scales: Mapping[Role, Scale], x: Tensor, t: float | None = None, lvs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        from vdvae_patch import normal

        mean, log_sigma, residual = _prior(block, scales, x, self.reading)
        if t is not None:
            log_sigma = log_sigma + (math.log(t) if t > 0 else -math.inf)
        return normal.sample(mean, log_sigma) if lvs is None else lvs, x + residual


def _prior(block: Any, scales: Mapping[Role, Scale], x: Tensor, reading: MeanReading) -> tuple[Tensor, Tensor, Tensor]:
    channels = block.prior(x)
    mean, raw, residual = channels.tensor_split((block.zdim, 2 * block.zdim), dim=1)
    return reading.squash(mean), _log_sigma(scales.get("prior"), raw), residual


def _log_sigma(scale: Scale | None, raw: Tensor) -> Tensor:
    return raw if scale is None else scale.log_sigma(raw)
