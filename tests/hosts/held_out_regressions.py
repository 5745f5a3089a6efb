"""Normals without a VAE that the scan was not tuned on: policies, Bayesian weights, dynamics, regressions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import generator, half
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from zoo import Case, TrueHead, images, rows


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 16)
        self.fc_mean = nn.Linear(16, 2)
        self.fc_logstd = nn.Linear(16, 2)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc(obs))
        log_std = torch.tanh(self.fc_logstd(h))
        return self.fc_mean(h), -5 + 0.5 * (2 - -5) * (log_std + 1)

    def get_action(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self(obs)
        normal = Normal(mean, log_std.exp())
        x_t = normal.rsample()
        action = torch.tanh(x_t)
        log_prob = normal.log_prob(x_t) - torch.log(1 - action.pow(2) + 1e-6)
        return action, log_prob.sum(1, keepdim=True)


class SoftActorCritic(nn.Module):
    """Actor, two critics, a learned temperature; three losses on one batch of transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = Actor()
        self.critics = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2))
        self.log_alpha = nn.Parameter(torch.zeros(1))

    def q(self, obs: Tensor, action: Tensor) -> list[Tensor]:
        """Both critics' values, each of shape (batch, 1)."""
        return [critic(torch.cat([obs, action], 1)) for critic in self.critics]

    def forward(self, obs: Tensor, action: Tensor, reward: Tensor, obs2: Tensor) -> Tensor:
        alpha = self.log_alpha.exp()
        with torch.no_grad():
            action2, log_pi2 = self.actor.get_action(obs2)
            target = reward + 0.99 * (torch.min(*self.q(obs2, action2)) - alpha * log_pi2)
        critic_loss = sum(F.mse_loss(q, target) for q in self.q(obs, action))
        pi, log_pi = self.actor.get_action(obs)
        self.critics.requires_grad_(False)
        actor_loss = (alpha.detach() * log_pi - torch.min(*self.q(obs, pi))).mean()
        self.critics.requires_grad_(True)
        alpha_loss = (-alpha * (log_pi + 2).detach()).mean()
        return critic_loss + actor_loss + alpha_loss


def transitions() -> tuple[Any, ...]:
    g = generator(14)
    obs, obs2 = torch.randn(5, 6, generator=g), torch.randn(5, 6, generator=g)
    return obs, torch.rand(5, 2, generator=g) * 2 - 1, torch.randn(5, 1, generator=g), obs2


def squeezed(v: Tensor) -> Tensor:
    return torch.exp(-5 + 3.5 * (torch.tanh(v) + 1))


class ProximalPolicy(nn.Module):
    """A policy whose log deviation does not depend on the state; actions come from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.actor_mean = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))
        self.critic = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, obs: Tensor, action: Tensor, advantage: Tensor, old: Tensor) -> Tensor:
        mean = self.actor_mean(obs)
        logstd = self.actor_logstd.expand_as(mean)
        dist = Normal(mean, torch.exp(logstd))
        ratio = (dist.log_prob(action).sum(1, keepdim=True) - old).exp()
        surrogate = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
        value_loss = 0.5 * ((self.critic(obs) - advantage) ** 2).mean()
        return surrogate + 0.5 * value_loss - 0.01 * dist.entropy().sum(1).mean()


def buffered() -> tuple[Any, ...]:
    obs, action, reward, _ = transitions()
    return obs, action, reward, torch.full((5, 1), -2.5)


class BayesLinear(nn.Module):
    """Weights and biases with a Normal posterior; the prior is a mixture of two fixed Normals."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.empty(n_out, n_in).uniform_(-0.2, 0.2))
        self.weight_rho = nn.Parameter(torch.empty(n_out, n_in).uniform_(-5, -4))
        self.bias_mu = nn.Parameter(torch.empty(n_out).uniform_(-0.2, 0.2))
        self.bias_rho = nn.Parameter(torch.empty(n_out).uniform_(-5, -4))
        self.log_prior = self.log_posterior = torch.zeros(())

    def draw(self, mu: Tensor, rho: Tensor) -> Tensor:
        sigma = torch.log1p(torch.exp(rho))
        value = mu + sigma * Normal(0, 1).sample(rho.size())
        log_q = -math.log(math.sqrt(2 * math.pi)) - torch.log(sigma) - ((value - mu) ** 2) / (2 * sigma**2)
        wide, narrow = Normal(0, 1).log_prob(value).exp(), Normal(0, math.exp(-6)).log_prob(value).exp()
        self.log_posterior = self.log_posterior + log_q.sum()
        self.log_prior = self.log_prior + torch.log(0.5 * wide + 0.5 * narrow).sum()
        return value

    def forward(self, x: Tensor) -> Tensor:
        self.log_prior = self.log_posterior = torch.zeros(())
        return F.linear(x, self.draw(self.weight_mu, self.weight_rho), self.draw(self.bias_mu, self.bias_rho))


class BayesByBackprop(nn.Module):
    """A classifier whose weights are drawn anew at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = BayesLinear(6, 8)
        self.l2 = BayesLinear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.l2(F.relu(self.l1(x)))
        log_prior = self.l1.log_prior + self.l2.log_prior
        log_posterior = self.l1.log_posterior + self.l2.log_posterior
        nll = F.nll_loss(F.log_softmax(logits, dim=1), torch.arange(len(x)) % 3, reduction="sum")
        return (log_posterior - log_prior) / 100 + nll


class EnsembleLinear(nn.Module):
    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members, n_in, n_out) / (2 * math.sqrt(n_in)))
        self.bias = nn.Parameter(torch.zeros(members, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class DynamicsEnsemble(nn.Module):
    """Model-based control: an ensemble predicts the next state; the log variance has soft, learned bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(EnsembleLinear(3, 8, 16), nn.SiLU(), EnsembleLinear(3, 16, 12))
        self.max_logvar = nn.Parameter(torch.ones(1, 6) / 2)
        self.min_logvar = nn.Parameter(-torch.ones(1, 6) * 10)

    def forward(self, obs: Tensor, action: Tensor, reward: Tensor, obs2: Tensor) -> Tensor:
        out = self.layers(torch.cat([obs, action], -1).unsqueeze(0).repeat(3, 1, 1))
        mean, logvar = out[..., :6], out[..., 6:]
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        logvar = self.min_logvar + F.softplus(logvar - self.min_logvar)
        inv_var = torch.exp(-logvar)
        mse = ((mean - (obs2 - obs)) ** 2 * inv_var).mean(dim=(1, 2))
        loss = mse.sum() + logvar.mean(dim=(1, 2)).sum()
        return loss + 0.01 * (self.max_logvar.sum() - self.min_logvar.sum())


def soft_bounded(v: Tensor) -> Tensor:
    v = 0.5 - F.softplus(0.5 - v)
    return half(-10 + F.softplus(v + 10))


class DepthRegression(nn.Module):
    """Aleatoric uncertainty: a log variance beside each pixel's depth; no latent at all."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.1))
        self.depth = nn.Conv2d(8, 1, 1)
        self.uncertainty = nn.Conv2d(8, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        target = image.mean(1, keepdim=True)
        h = self.body(image)
        depth, s = self.depth(h), self.uncertainty(h)
        return (0.5 * torch.exp(-s) * (target - depth) ** 2 + 0.5 * s).mean()


class MixtureDensity(nn.Module):
    """Inverse kinematics: a mixture of Normals, each deviation elu + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.pi, self.mu, self.sigma = nn.Linear(16, 3), nn.Linear(16, 6), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        sigma = F.elu(self.sigma(h)) + 1 + 1e-6
        parts = Independent(Normal(self.mu(h).view(-1, 3, 2), sigma.view(-1, 3, 2)), 1)
        return -MixtureSameFamily(Categorical(logits=self.pi(h)), parts).log_prob(x[:, :2]).mean()


def elu_plus_one(v: Tensor) -> Tensor:
    return F.elu(v) + 1 + 1e-6


CASES = (
    # A policy is a Normal that is sampled, squashed and read on by the critic. Its density is an entropy, and nothing
    # is decoded: a likelihood of actions, as in the looks at public code. The temperature is no scale.
    Case(SoftActorCritic, transitions, (TrueHead("actor.fc_logstd", 0, None, "likelihood", squeezed),)),
    # Here the actions are given, and what is computed is their density: a likelihood.
    Case(ProximalPolicy, buffered, (TrueHead("actor_logstd", 0, None, "likelihood"),)),
    # Each weight's posterior is a Normal with a KL (by its sample), unlike a layer that merely adds noise.
    Case(
        BayesByBackprop,
        rows(),
        tuple(
            TrueHead(path, 0, None, "posterior", F.softplus)
            for path in ("l1.weight_rho", "l1.bias_rho", "l2.weight_rho", "l2.bias_rho")
        ),
    ),
    # exp(−logvar) · error² + logvar is twice a Normal's negative log density; the bounds are no heads of their own.
    Case(DynamicsEnsemble, transitions, (TrueHead("layers.2", 6, 12, "likelihood", soft_bounded),)),
    # A Gaussian negative log density of the data.
    Case(DepthRegression, images(), (TrueHead("uncertainty", 0, None, "likelihood", half),)),
    # Every component is a Normal of the data.
    Case(MixtureDensity, rows(), (TrueHead("sigma", 0, None, "likelihood", elu_plus_one),)),
)
