"""Actions of which no density is taken are a likelihood's; codes that look like them, and moved states, are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.scanning import scan


def roles(model: nn.Module, *inputs: Tensor) -> dict[str, str]:
    torch.manual_seed(1)
    heads = list(scan(model, *inputs))
    found = {f"{head.path}[{head.channels}]": head.role for head in heads}
    assert len(found) == len(heads)
    return found


def drawn(out: Tensor) -> Tensor:
    mean, raw = out.chunk(2, -1)
    return mean + F.softplus(raw) * torch.randn_like(mean)


class ByACritic(nn.Module):
    """The actor's own loss, alone or beside its critic's."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.beside, self.actor, self.critic = beside, nn.Linear(4, 4), nn.Linear(6, 1)

    def value(self, state: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.critic(torch.cat([state, action], -1))
        return value.squeeze(-1)

    def forward(self, state: Tensor, taken: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        loss = -self.value(state, torch.tanh(drawn(self.actor(state)))).mean()
        if self.beside:
            with torch.no_grad():
                target = reward + 0.99 * self.value(following, torch.tanh(drawn(self.actor(following))))
            loss = loss + F.mse_loss(self.value(state, taken), target)
        return loss


@pytest.mark.parametrize("beside", [False, True])
def test_what_a_critic_judges_beside_the_state_is_an_action(beside: bool) -> None:
    batch = torch.randn(6, 4), torch.randn(6, 2), torch.randn(6), torch.randn(6, 4)
    assert roles(ByACritic(beside), *batch) == {"actor[2:4]": "likelihood"}


class Imagined(nn.Module):
    """An actor's loss in a world whose states are drawn, too."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.world, self.actor, self.value = (
            nn.GRUCell(5, 6), nn.Linear(6, 6), nn.Linear(9, 4), nn.Linear(9, 1),
        )  # fmt: skip

    def forward(self, memory: Tensor, state: Tensor) -> Tensor:
        value = torch.zeros(())
        for _ in range(2):
            action = drawn(self.actor(torch.cat([memory, state], -1).detach()))
            memory = self.cell(torch.cat([state, action], -1), memory)
            state = drawn(self.world(memory))
            value = value + self.value(torch.cat([memory, state], -1)).mean()
        return -value


def test_a_state_that_an_action_moves_is_a_priors() -> None:
    found = roles(Imagined(), torch.randn(6, 6), torch.randn(6, 3))
    assert found == {"actor[2:4]": "likelihood", "world[3:6]": "prior"}


class CostOfActions(nn.Module):
    """A score function's gradient, with one deviation for all states and a cost that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.zeros(2))

    def forward(self, state: Tensor) -> Tensor:
        law = Normal(self.mean(state), self.log_std.exp())
        action = law.sample()
        cost = (action - state[:, :2]).square().sum(-1)
        return (law.log_prob(action).sum(-1) * cost).mean()


def test_a_cost_of_the_distance_to_data_is_no_prior() -> None:
    assert roles(CostOfActions(), torch.randn(6, 4)) == {"log_std[:]": "likelihood"}


class OfPairs(nn.Module):
    """A control: a critic of pairs is given the code beside its data, and elsewhere fresh noise in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.generator, self.critic = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 3)
        made = self.critic(torch.cat([self.generator(noise), noise], 1))
        return F.softplus(-made).mean() + F.softplus(self.critic(torch.cat([x, drawn(self.encoder(x))], 1))).mean()


class Conditioned(nn.Module):
    """A control: the code is decoded beside a part of what it was inferred from, and compared, here or elsewhere."""

    def __init__(self, compared: bool = True) -> None:
        super().__init__()
        self.compared, self.encoder, self.decoder = compared, nn.Linear(8, 6), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        code = drawn(self.encoder(F.pad(x, (0, 2))))
        made: Tensor = self.decoder(torch.cat([code, x[:, :2]], 1))
        return F.mse_loss(made, x) if self.compared else made


@pytest.mark.parametrize("model", [OfPairs, Conditioned, lambda: Conditioned(compared=False)])
def test_a_code_beside_what_it_was_inferred_from_is_a_posteriors(model: Callable[[], nn.Module]) -> None:
    assert roles(model(), torch.randn(6, 6)) == {"encoder[3:6]": "posterior"}
