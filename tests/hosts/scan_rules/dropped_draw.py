"""A cell that can draw and whose mean alone is used, and one that gives its draws to the caller."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead

from . import draw, half, kl_to_standard


class MeanAlone(nn.Module):
    """Posterior and transition are of one class, which draws; of the transition the mean is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.step, self.dec = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(4, 6)

    def drawn(self, layer: nn.Module, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = layer(h).chunk(2, -1)
        return draw(mean, torch.exp(0.5 * log_var)), mean, log_var

    def forward(self, x: Tensor) -> Tensor:
        loss = torch.zeros(())
        for t in range(1, x.shape[1]):
            z, mean, log_var = self.drawn(self.enc, x[:, t - 1])
            _, ahead, _ = self.drawn(self.step, z)
            loss = loss + (self.dec(ahead) - x[:, t]).square().mean() + kl_to_standard(mean, 0.5 * log_var)
        return loss


class GivenBeside(nn.Module):
    """The loss has the code's mean alone, and what was drawn around it is given to the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.enc(x).chunk(2, -1)
        return (self.dec(mean) - x).square().mean(), draw(mean, torch.exp(0.5 * log_var))


def series() -> tuple[Tensor, ...]:
    return (torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(5)),)


ENCODER = TrueHead("enc", 4, 8, "posterior", half)

NEEDS = Case(MeanAlone, series, (ENCODER,))
LOOK_ALIKE = Case(GivenBeside, series, (ENCODER,))
