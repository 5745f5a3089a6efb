"""N(0, 1), the prior that most hosts have."""

from __future__ import annotations

import torch
from torch import Tensor

from vdvae_patch.top_priors.density import UnitNormal
from vdvae_patch.top_priors.prior import TOP_PRIORS, Encode, TopPrior


@TOP_PRIORS.register("standard")
class Standard(TopPrior):
    """p(z) = N(0, 1), with nothing to learn; its KL is the closed form ½ (σ² + μ² − 1) − log σ."""

    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # says on which device samples are drawn

    def at(self, encode: Encode | None = None) -> UnitNormal:
        return UnitNormal(self.latents, self.zero)
