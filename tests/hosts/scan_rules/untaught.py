"""A decoder's law that is cut off from its density, and a teacher's law from which no gradient is wanted."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class CutOff(nn.Module):
    """The density of the data is a number in the loss: its mean and its log variance are detached."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.law, self.dec = nn.Linear(6, 8), nn.Linear(4, 12), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        z = draw(mean, torch.exp(0.5 * log_var))
        x_mean, x_log_var = (part.detach() for part in self.law(z).chunk(2, 1))
        log_p = -0.5 * (x_log_var + (x - x_mean) ** 2 / x_log_var.exp())
        return (self.dec(z) - x).square().mean() + kl_to_standard(mean, 0.5 * log_var) - log_p.mean()


class Taught(nn.Module):
    """A student's posterior is kept near a teacher's, to which no gradient comes."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.teacher, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        q = Normal(mean, torch.exp(0.5 * log_var))
        p_mean, p_log_var = (part.detach() for part in self.teacher(x).chunk(2, 1))
        kl = kl_divergence(q, Normal(p_mean, torch.exp(0.5 * p_log_var)))
        return (self.dec(q.rsample()) - x).square().mean() + kl.mean()


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(CutOff, rows(), (ENCODER,))
LOOK_ALIKE = Case(Taught, rows(), (ENCODER, TrueHead("teacher", 4, 8, "prior", half)))
