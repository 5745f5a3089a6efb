"""A mixture of Normals whose means, scales and weights are learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.scales import get as get_scale
from vdvae_patch.scales.arithmetic import wide
from vdvae_patch.top_priors.density import NormalMixture
from vdvae_patch.top_priors.prior import TOP_PRIORS, Encode, TopPrior, count, shape_of


@TOP_PRIORS.register("mixture")
class Mixture(TopPrior):
    """p(z) = Σ_k w_k N(z; μ_k, σ_k), log σ_k the scale's of a raw parameter, w = softmax of logits.

    The means start as draws of N(0, 1), the raw parameters and the logits at 0.

    Args:
        components: K.
        scale: the parameterization of σ, see `vdvae_patch.scales`.
        lr_factor: see `TopPrior`.
    """

    def __init__(self, components: float = 10, scale: str = "exp", lr_factor: float = 1) -> None:
        super().__init__(lr_factor)
        self.components = count(self._who, "components", components)
        if not isinstance(scale, str):
            raise InvalidValueError(f"{self._who}: a scale is named, as in scale=bounded(0.001, omega=1), not {scale}")
        self.scale = get_scale(scale)

    def _prepare(self, images: Sequence[int] | None, data: Tensor | None, generator: torch.Generator | None) -> None:
        latents = shape_of(self._who, "latents", self.latents, "(40,)")
        size = (self.components, *latents)
        self._require_memory(self.components, 2 * math.prod(latents), "components")
        self.mean = nn.Parameter(torch.randn(size, generator=generator))
        self.raw = nn.Parameter(torch.zeros(size), requires_grad=self.scale.bijective)  # not of a constant
        self.logits = nn.Parameter(torch.zeros(self.components))

    def at(self, encode: Encode | None = None) -> NormalMixture:
        if "mean" not in self._parameters:
            raise InvalidValueError(f"{self._who} has no components yet: call prepare(latents=...) first")
        log_sigma = self.scale.log_sigma(wide(self.raw))
        return NormalMixture(self.mean, log_sigma, wide(self.logits).log_softmax(dim=0))
