"""A prior's log variance as a parameter that is not trained, and as one that is."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half


class FixedPrior(nn.Module):
    """The prior is kept as parameters, so that it moves with the model."""

    def __init__(self, trained: bool = False) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)
        self.log_var = nn.Parameter(torch.zeros(1, 4), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        z = draw(mean, torch.exp(0.5 * log_var))
        log_q = -0.5 * (log_var + (z - mean) ** 2 / log_var.exp())
        log_p = -0.5 * (self.log_var + z**2 / self.log_var.exp())
        return (self.dec(z) - x).square().mean() + (log_q - log_p).mean()


def trained() -> nn.Module:
    return FixedPrior(trained=True)


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(FixedPrior, rows(), (ENCODER,))
LOOK_ALIKE = Case(trained, rows(), (ENCODER, TrueHead("log_var", 0, None, "prior", half)))
