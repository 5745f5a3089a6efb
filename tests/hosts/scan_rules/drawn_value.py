"""A walk whose step is as large as the place that was drawn, by arithmetic or by a network."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class Walk(nn.Module):
    """The second step's scale is computed of the draw itself."""

    def __init__(self, network: bool = False) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)
        self.net = nn.Linear(4, 4) if network else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        z = draw(mean, torch.exp(0.5 * log_var))
        z = draw(z, torch.exp(0.5 * self.net(z)))
        return (self.dec(z) - x).square().mean() + kl_to_standard(mean, 0.5 * log_var)


def by_a_network() -> nn.Module:
    return Walk(network=True)


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(Walk, rows(), (ENCODER,))
LOOK_ALIKE = Case(by_a_network, rows(), (ENCODER, TrueHead("net", 0, None, "posterior", half)))
