"""Roles of what is drawn and then moved, by an equation or a flow: its first draw is the posterior's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from vdvae_patch.scanning import scan


def roles(model: nn.Module, *inputs: Tensor) -> list[tuple[str, str, str]]:
    torch.manual_seed(1)
    return sorted((head.path, str(head.channel_range), head.role) for head in scan(model, *inputs))


def series() -> Tensor:
    return torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))


class Path(nn.Module):
    """The encoder's law draws the start of a path, and judges each state of it by its own observation."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.enc, self.field, self.dec = nn.Linear(6, 6), nn.Sequential(nn.Linear(3, 8), nn.Tanh()), nn.Linear(3, 6)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x[:, 0]).chunk(2, 1)
        z = mean + torch.randn_like(mean) * log_sigma.exp()
        path = [z]
        for _ in range(x.shape[1] - 1):
            z = z + 0.1 * self.out(self.field(z))
            path.append(z)
        states, (means, log_sigmas) = torch.stack(path, 1), self.enc(x).chunk(2, -1)
        if self.by_hand:
            instant = -0.5 * ((states - means) / log_sigmas.exp()) ** 2 - log_sigmas
        else:
            instant = Normal(means, log_sigmas.exp()).log_prob(states)
        prior = Normal(0.0, 1.0).log_prob(states)
        return (self.dec(states) - x).square().mean() - 0.1 * (instant + prior).sum(-1).mean()


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_law_that_draws_the_start_of_a_path_and_judges_its_states_is_the_posterior(by_hand: bool) -> None:
    assert roles(Path(by_hand), series()) == [("enc", "3:6", "posterior")]


class Planar(nn.Module):
    """A draw with its noise's density, moved by planar flows, and a conditional prior that is drawn from to look at."""

    def __init__(self, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.enc, self.dec, self.prior = nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(3, 6)
        self.u, self.w = (nn.ParameterList([nn.Parameter(0.1 * torch.randn(3)) for _ in range(3)]) for _ in range(2))

    def moved(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros(len(z))
        for u, w in zip(self.u, self.w, strict=True):
            a = torch.tanh(z @ w)
            log_det = log_det + torch.log((1 + ((1 - a**2)[:, None] * w) @ u).abs() + 1e-8)
            z = z + u * a[:, None]
        return z, log_det

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.enc(x).chunk(2, 1)
        noise = torch.randn_like(mean)
        z, log_det = self.moved(mean + noise * log_sigma.exp())
        log_q = (-0.5 * noise**2 - log_sigma).sum(1) - log_det
        if not self.conditional:
            log_p = Normal(0.0, 1.0).log_prob(z).sum(1)
        else:
            p_mean, p_log_sigma = self.prior(x[:, :3]).chunk(2, 1)
            log_p = (-0.5 * ((z - p_mean) / p_log_sigma.exp()) ** 2 - p_log_sigma).sum(1)
            self.dream = self.dec(p_mean + p_log_sigma.exp() * torch.randn_like(p_mean))
        return (self.dec(z) - x).square().mean() + (log_q - log_p).mean()


@pytest.mark.parametrize("conditional", [False, True])
def test_a_draw_with_its_noises_density_along_a_flow_is_the_posteriors_and_the_law_of_its_end_the_priors(
    conditional: bool,
) -> None:
    prior = [("prior", "3:6", "prior")] if conditional else []
    assert roles(Planar(conditional), series()[:, 0]) == [("enc", "3:6", "posterior"), *prior]


class Copied(nn.Module):
    """An inverse model is a code's prior; a copy of it draws the codes by which a goal is reached."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.enc, self.dec, self.state = nn.Linear(12, 6), nn.Linear(9, 6), nn.Linear(6, 6)
        self.world, self.aim = nn.Linear(9, 6), nn.Linear(6, 6)
        self.inverse, self.target = (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2))
        self.target.load_state_dict(self.inverse.state_dict())
        if frozen:  # it has followed since, and is no copy of the present values
            self.target.requires_grad_(False)
            self.target[0].weight.data.mul_(0.9)

    def forward(self, x: Tensor, goal: Tensor) -> Tensor:
        start = self.state(x).detach()
        (q_mean, q), (p_mean, p) = self.enc(torch.cat([x, goal], 1)).chunk(2, 1), self.inverse(start).chunk(2, 1)
        z = q_mean + q.exp() * torch.randn_like(q)
        kl = p - q + 0.5 * ((q - p).exp() ** 2 + ((q_mean - p_mean) / p.exp()) ** 2 - 1)
        mean, log_sigma = self.target(start + goal).chunk(2, 1)
        code = mean + log_sigma.exp() * torch.randn_like(mean)
        missed = (self.world(torch.cat([start, code], 1)) - self.aim(start)).square().mean()
        return (self.dec(torch.cat([x, z], 1)) - goal).square().mean() + kl.mean() + missed


@pytest.mark.parametrize("frozen", [False, True])
def test_a_copy_of_a_prior_that_is_only_drawn_from_is_a_prior(frozen: bool) -> None:
    x, goal = series()[:, :2].unbind(1)
    assert roles(Copied(frozen), x, goal) == [
        ("enc", "3:6", "posterior"), ("inverse.2", "3:6", "prior"), ("target.2", "3:6", "prior")
    ]  # fmt: skip
