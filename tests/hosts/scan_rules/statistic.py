"""A σ that is a mean of residuals, and one that is a mean of a network's outputs."""

import torch
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, half, kl_to_standard


class Calibrated(nn.Module):
    """The decoder's σ is the root of the mean squared residual."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.enc(x).chunk(2, 1)
        x_hat = self.dec(draw(mean, torch.exp(0.5 * log_var)))
        log_sigma = ((x - x_hat) ** 2).mean([0, 1], keepdim=True).sqrt().log()
        nll = 0.5 * ((x - x_hat) / log_sigma.exp()) ** 2 + log_sigma
        return nll.mean() + kl_to_standard(mean, 0.5 * log_var)


class Pooled(nn.Module):
    """The posterior's log σ is the mean over a set of what one layer says of each element."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.mean(x).mean(1), self.raw(x).mean(1)
        z = draw(mean, log_sigma.exp())
        return (self.dec(z)[:, None] - x).square().mean() + kl_to_standard(mean, log_sigma)


def sets() -> tuple[Tensor, ...]:
    return (torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(5)),)


NEEDS = Case(Calibrated, rows(), (TrueHead("enc", 4, 8, "posterior", half),))
# the mean is formed by the model itself, and is the raw value
LOOK_ALIKE = Case(Pooled, sets, (TrueHead("", 0, None, "posterior"),))
