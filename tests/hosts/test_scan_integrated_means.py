"""A density around a mean that residual steps add up, as an integrator of a differential equation does, and one that is
kept near N(0, 1) while nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Integrated(nn.Module):
    """From a beginning with constant noise, many steps, each of several networks, to the mean of the data."""

    def __init__(self, steps: int, networks: int, density: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.begin, self.steps, self.density = nn.Linear(2, 2), steps, density
        self.fields = nn.ModuleList([nn.Linear(2, 2) for _ in range(networks)])
        self.raw = nn.Parameter(torch.full((2,), -1.2))

    def forward(self, start: Tensor, y: Tensor) -> Tensor:
        x = self.begin(start)
        x = x + 0.1 * torch.randn_like(x)
        for _ in range(self.steps):
            x = x + 0.1 * sum(torch.tanh(field(x)) for field in self.fields)
        return self.density(x, y, F.softplus(self.raw) + 1e-12)


DENSITIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "written out": lambda x, y, var: (0.5 * torch.log(var) + 0.5 * (x - y) ** 2 / var).mean(),
    "the data first": lambda x, y, var: (var.log() + (y - x).square() / var).sum(1).mean(),
    "a ratio": lambda x, y, var: (0.5 * ((x - y) / var.sqrt()) ** 2 + 0.5 * var.log()).mean(),
    "summed first": lambda x, y, var: 0.5 * ((x - y) ** 2 / var).sum(1).mean() + 0.5 * var.log().sum(),
}


@pytest.mark.medium
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("steps", "networks"), [(4, 1), (16, 1), (4, 4), (30, 2)])
def test_the_likelihood_around_an_integrated_mean_is_found_and_patched(steps: int, networks: int, density: str) -> None:
    model, inputs = Integrated(steps, networks, DENSITIES[density]), (torch.randn(5, 2), torch.randn(5, 2))
    heads = scan(model, *inputs)
    assert [(h.path, h.role) for h in heads] == [("raw", "likelihood")]
    patch(model, likelihood="bounded(0.01, 2)", heads=heads)


def test_a_squared_distance_of_an_integrated_mean_alone_is_no_density() -> None:
    model = Integrated(16, 1, lambda x, y, var: ((x - y) ** 2 * var).mean())
    with pytest.warns(UserWarning, match="no Normal head"):
        assert not scan(model, torch.randn(5, 2), torch.randn(5, 2))


class Prediction(nn.Module):
    """A law of what was observed; its KL to N(0, 1) keeps it wide, and nothing is drawn from it."""

    def __init__(self, draws: bool, embeds: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.out, self.draws = nn.Linear(6, 8), nn.Linear(4, 6), draws
        self.embed = nn.Linear(4, 4) if embeds else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean, v = self.net(x).chunk(2, 1)
        y = self.embed(y)
        law = Normal(mean, v.exp().clamp(0.1, 1))
        loss = -law.log_prob(y).mean()
        loss = loss + 0.8 * kl_divergence(law, Normal(torch.zeros_like(mean), torch.ones_like(mean))).mean()
        return loss + (self.out(law.rsample()) - x).square().mean() if self.draws else loss


@pytest.mark.parametrize("embeds", [False, True])
@pytest.mark.parametrize(("draws", "role"), [(False, "likelihood"), (True, "posterior")])
def test_a_law_of_observations_of_which_nothing_is_drawn_is_a_likelihood_whatever_it_is_kept_near(
    draws: bool, role: str, embeds: bool
) -> None:
    (head,) = scan(Prediction(draws, embeds), torch.randn(5, 6), torch.randn(5, 4))
    assert (head.path, head.channels, head.role) == ("net", "4:8", role)
