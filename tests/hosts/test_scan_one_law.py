"""One line makes the σ of a world's codes and of its actor's actions: `stabilize` gives all one scale, and says it."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vdvae_patch


class World(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.posterior, self.prior, self.actor = nn.Linear(6, 6), nn.Linear(2, 6), nn.Linear(3, 4)
        self.decoder, self.critic = nn.Linear(3, 6), nn.Linear(5, 1)

    def law(self, out: Tensor) -> Normal:
        mean, raw = out.chunk(2, -1)
        return Normal(mean, F.softplus(raw) + 1e-4)

    def forward(self, x: Tensor, taken: Tensor) -> Tensor:
        q, p = self.law(self.posterior(x)), self.law(self.prior(taken))
        z = q.rsample()
        state = z.detach()
        action = self.law(self.actor(state))
        drawn = action.rsample()
        value = self.critic(torch.cat([state, drawn], 1)).squeeze(1) - 0.1 * action.log_prob(drawn).sum(1)
        return F.mse_loss(self.decoder(z), x) + kl_divergence(q, p).sum(1).mean() - value.mean()


def test_a_line_that_makes_the_scales_of_three_roles_is_given_one() -> None:
    torch.manual_seed(0)
    model, told = World(), io.StringIO()
    handle = vdvae_patch.stabilize(model, torch.randn(5, 6), torch.randn(5, 2), probe=False, file=told)
    assert {h.head.role for h in handle.heads} == {"posterior", "prior", "likelihood"}
    assert len({str(h.scale) for h in handle.heads}) == 1
    assert "the likelihood gets what the posterior gets, and is not left as it is" in told.getvalue()
