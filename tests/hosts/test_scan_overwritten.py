"""Of a draw that is overwritten in part the rest is the head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def first_two(z: Tensor, x: Tensor) -> Tensor:
    z[:, :2] = x[:, :2]
    return z


def one_by_one(z: Tensor, x: Tensor) -> Tensor:
    z = z.clone()
    z[:, 0], z[:, 1] = x[:, 0], 1.0
    return z


def joined(z: Tensor, x: Tensor) -> Tensor:
    return torch.cat([x[:, :2], z[:, 2:]], 1)


class Known(nn.Module):
    """The first two numbers of the code are known."""

    def __init__(self, known: Callable[[Tensor, Tensor], Tensor], measured: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.known, self.measured, self.enc, self.dec = known, measured, nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        z = self.known(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean), x)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)
        return F.mse_loss(self.dec(z), x) + kl[:, self.measured :].sum(1).mean()


@pytest.mark.parametrize("known", [first_two, one_by_one, joined])
@pytest.mark.parametrize(("measured", "channels"), [(2, "6:8"), (0, "4:8")])
def test_the_head_is_what_is_drawn_or_what_the_kl_has_as_a_whole(
    known: Callable[[Tensor, Tensor], Tensor], measured: int, channels: str
) -> None:
    model, x = Known(known, measured), torch.randn(9, 6)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role) for h in heads] == [("enc", channels, "posterior")]
    patch(model, "explin", heads=heads)
