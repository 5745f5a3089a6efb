"""A diffusion that moves a posterior's path and a prior's, and one layer that gives each role one draw."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead


class Paths(nn.Module):
    """A latent stochastic differential equation: the KL of the paths is of the drifts."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.drift, self.prior_drift = nn.Linear(6, 3), nn.Linear(9, 3), nn.Linear(3, 3)
        self.diffusion, self.dec = nn.Linear(3, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        z, loss = self.begin(x), torch.zeros(())
        y = torch.zeros_like(z)
        for _ in range(3):
            sigma = F.softplus(self.diffusion(z))
            f = self.drift(torch.cat([z, x], 1))
            loss = loss + 0.5 * (((f - self.prior_drift(z)) / sigma) ** 2).sum(1).mean()
            z = z + f + sigma * torch.randn_like(z)
            loss = loss + (self.dec(z) - x).square().mean()
            y = y + self.prior_drift(y) + F.softplus(self.diffusion(y)) * torch.randn_like(y)
        self.path = y
        return loss


class OneDrawEach(nn.Module):
    """One layer of the data, and of a code: two roles, as far as samplers say."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.stats, self.dec = nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(3, 6)

    def draw(self, h: Tensor) -> Tensor:
        mean, raw = self.stats(h).chunk(2, 1)
        return mean + F.softplus(raw) * torch.randn_like(mean)

    def forward(self, x: Tensor) -> Tensor:
        imagined = self.dec(self.draw(torch.randn(len(x), 3)))
        return (self.dec(self.draw(self.code(x))) - x).square().mean() + (imagined - x).square().mean()


def rows() -> tuple[Tensor, ...]:
    return (torch.randn(5, 6, generator=torch.Generator().manual_seed(5)),)


NEEDS = Case(Paths, rows, (TrueHead("diffusion", 0, None, "posterior", F.softplus),))
LOOK_ALIKE = Case(
    OneDrawEach,
    rows,
    (TrueHead("stats", 3, 6, "posterior", F.softplus), TrueHead("stats", 3, 6, "prior", F.softplus)),
)
