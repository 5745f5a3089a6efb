"""A loop whose KL shows one step, and two lines that give one module two roles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import Case, TrueHead


class Imagined(nn.Module):
    """A prior that reads the step before and is sampled at every step; the KL is of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.posterior, self.dec = nn.Linear(6, 4), nn.Linear(12, 4), nn.Linear(2, 6)

    def law(self, net: nn.Module, h: Tensor) -> Normal:
        mean, raw = net(h).chunk(2, -1)
        return Normal(mean, F.softplus(raw))

    def forward(self, x: Tensor) -> Tensor:
        before, samples = x[:, 0], []
        for step in x[:, 1:].unbind(1):
            p = self.law(self.prior, before)
            samples.append(self.dec(p.rsample()))
            before = step
        q = self.law(self.posterior, x[:, -2:].flatten(1))
        kl = kl_divergence(q, p).mean()
        return (
            kl + (torch.stack(samples, 1) - x[:, 1:]).square().mean() + (self.dec(q.rsample()) - step).square().mean()
        )


class TwoRoles(nn.Module):
    """One module makes the posterior in one line, and in another line what is only sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.dec = nn.Linear(6, 4), nn.Linear(2, 6)

    def law(self, h: Tensor) -> Normal:
        mean, raw = self.net(h).chunk(2, -1)
        return Normal(mean, F.softplus(raw))

    def forward(self, x: Tensor) -> Tensor:
        q = self.law(x[:, 0])
        kl = kl_divergence(q, Normal(0.0, torch.ones(2))).mean()
        imagined = self.dec(self.law(torch.randn(len(x), 6)).rsample())
        return kl + (self.dec(q.rsample()) - x[:, 0]).square().mean() + (imagined - x[:, 1]).square().mean()


def sequences() -> tuple[Tensor, ...]:
    return (torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(5)),)


NEEDS = Case(
    Imagined,
    sequences,
    (TrueHead("prior", 2, 4, "prior", F.softplus), TrueHead("posterior", 2, 4, "posterior", F.softplus)),
)
LOOK_ALIKE = Case(
    TwoRoles, sequences, (TrueHead("net", 2, 4, "posterior", F.softplus), TrueHead("net", 2, 4, "prior", F.softplus))
)
