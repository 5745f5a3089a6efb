"""A code that is drawn as a whole and measured in parts, and one that is drawn in parts, too."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, kl_to_standard


class PartsInTheKl(nn.Module):
    """A rotation has a narrower prior than the rest of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def code(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        return draw(mean, log_sigma.exp())

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).split(4, 1)
        z = self.code(mean, log_sigma)
        rotation = -log_sigma[:, :1] + 0.5 * ((2 * log_sigma[:, :1]).exp() + mean[:, :1] ** 2) / 0.09
        rest = kl_to_standard(mean[:, 1:], log_sigma[:, 1:])
        return (self.dec(z) - x).square().mean() + rotation.mean() + rest


class DrawnInParts(PartsInTheKl):
    """The rotation and the rest are two codes."""

    def code(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        parts = (slice(0, 1), slice(1, 4))
        return torch.cat([draw(mean[:, part], log_sigma[:, part].exp()) for part in parts], 1)


NEEDS = Case(PartsInTheKl, rows(), (TrueHead("enc", 4, 8, "posterior"),))
LOOK_ALIKE = Case(DrawnInParts, rows(), (TrueHead("enc", 4, 5, "posterior"), TrueHead("enc", 5, 8, "posterior")))
