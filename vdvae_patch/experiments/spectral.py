"""Spectral regularization (NVAE, Vahdat and Kautz 2020, section 3.2): a penalty on largest singular values.

    objective = nelbo + weight · Σ_layers s_max(W)

A convolution's W is `[outputs, inputs · window]`. The singular vectors are followed by one power iteration a step, from
buffers that an ensemble stacks and updates like those of batch normalization.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectrallyRegularized(nn.Module):
    """A model whose forward returns scalars, with `objective` added to them.

    Args:
        model: returns `elbo` among its scalars.
        weight: factor of the sum of singular values, in the units of `elbo`.
    """

    def __init__(self, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.model = model
        self.weight = weight
        self.layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        for index, layer in enumerate(self.layers):
            start = torch.randn(layer.weight.shape[0], generator=torch.Generator().manual_seed(index))
            self.register_buffer(f"left_{index}", F.normalize(start, dim=0))

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self.model(*batch)
        penalty = sum((self._singular_value(i) for i in range(len(self.layers))), start=torch.zeros_like(out["elbo"]))
        return {**out, "objective": out["elbo"] + self.weight * penalty}

    def _singular_value(self, index: int) -> Tensor:
        weight = self.layers[index].weight.flatten(1)
        left = self.get_buffer(f"left_{index}")
        with torch.no_grad():
            right = F.normalize(weight.T @ left, dim=0)
            new = F.normalize(weight @ right, dim=0)
            left.copy_(new)
        return new @ weight @ right
