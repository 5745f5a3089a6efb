"""A posterior's layer that is drawn from for a number of the host's own, and one that a prior has to itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import half


class Domains(nn.Module):
    """Codes of an image, and of the number of its domain: of one by the layer of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.own, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def draw(self, net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = net(x).chunk(2, 1)
        return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean), mean, log_var

    def number(self) -> nn.Module:
        return self.enc

    def forward(self, x: Tensor) -> Tensor:
        z, mean, log_var = self.draw(self.enc, x)
        other = self.draw(self.number(), torch.ones(1, 6))[0]
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return F.mse_loss(self.dec(z), x) + F.mse_loss(self.dec(z + other), x) + kl


class OwnLayer(Domains):
    """The number's code has a layer of its own."""

    def number(self) -> nn.Module:
        return self.own


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(Domains, rows(), (ENCODER,))
LOOK_ALIKE = Case(OwnLayer, rows(), (ENCODER, TrueHead("own", 4, 8, "prior", half)))
