"""What a host brings along as numbers: a matrix that transforms the data, and inputs of a series that has none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.scanning import scan


class Transformed(nn.Module):
    """The prior sees a part of the transformed data, so that it is asked who sees how much."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = torch.linspace(-1, 1, 36).view(6, 6).cos()
        self.posterior, self.prior, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(x, self.basis)
        (mean, v), (mp, vp) = self.posterior(x).chunk(2, 1), self.prior(x[:, :3]).chunk(2, 1)
        z = mean + torch.exp(0.5 * v) * torch.randn_like(mean)
        kl = 0.5 * (vp - v + (v.exp() + (mean - mp) ** 2) / vp.exp() - 1)
        return F.mse_loss(self.decoder(z), x) + kl.sum(1).mean()


def test_a_matrix_of_numbers_on_the_data_is_no_hindrance() -> None:
    torch.manual_seed(0)
    found = {head.path: head.role for head in scan(Transformed(), torch.randn(5, 6))}
    assert found == {"posterior": "posterior", "prior": "prior"}


class NoInputs(Transformed):
    """External inputs of every step, of which there are none."""

    def forward(self, x: Tensor) -> Tensor:
        inputs = torch.zeros(0, 6, 6)
        return super().forward(torch.cat([x, inputs.flatten(0, 1)]))


def test_a_tensor_without_an_element_is_no_hindrance() -> None:
    torch.manual_seed(0)
    assert {head.path for head in scan(NoInputs(), torch.randn(5, 6))} == {"posterior", "prior"}
