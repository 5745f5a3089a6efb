"""Free bits: a group of latents whose KL is small is not pushed further."""

from __future__ import annotations

import torch
from torch import Tensor

from vdvae_patch.objectives.objective import OBJECTIVES, Batch, Objective, at_least_zero, distortion_of
from vdvae_patch.over_ranks import mean_over_ranks


@OBJECTIVES.register("freebits")
class FreeBits(Objective):
    """Σ_g max(nats, E[KL_g]) + NLL, the expectation over the batch of all ranks (Kingma et al. 2016, section C.8).

    A rate that is given whole is one group. In evaluation it is the bound. The metric `free_groups` is the number of
    groups below the floor, which have no gradient from the KL.
    """

    def __init__(self, nats: float) -> None:
        super().__init__()
        self.nats = at_least_zero(self._who, "nats", nats)

    @property
    def is_bound(self) -> bool:
        return self.nats == 0

    def _weigh(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        groups = torch.stack(list(batch.groups.values()), dim=1)
        means = groups.mean(dim=0)
        # a NaN is not below, and reaches the loss; in evaluation ranks need not come by here alike
        is_free = (mean_over_ranks(groups) if self.training else means.detach()) < self.nats
        counted = torch.where(is_free, self.nats, means) if self.training else means
        return counted.sum() + distortion_of(batch).mean(), {"free_groups": is_free.sum()}
