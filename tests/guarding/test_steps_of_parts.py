"""Loops whose optimizers take turns, one of a part of the model that is called by itself, as a discriminator is."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import vdvae_patch


class VaeGan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 6), nn.Linear(3, 6)
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)), mean, log_var


def trained(order: str, bad: tuple[int, ...], *, guarded: bool) -> tuple[list[Tensor], int]:
    """Weights and buffers, and how many updates were skipped: by a guard, or by hand, with the buffers of before."""
    model, skipped = VaeGan(), 0
    own = [*model.encoder.parameters(), *model.decoder.parameters()]
    of_critic, of_rest = SGD(model.critic.parameters(), 1e-2), Adam(own, 1e-3)
    guard = vdvae_patch.guard(model, file=io.StringIO()) if guarded else None

    def step(optimizer: Optimizer, before: list[Tensor]) -> int:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        if guarded or all(bool(g.isfinite().all()) for g in gradients):
            optimizer.step()
            return 0
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)
        return 1

    for number in range(6):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(number)) * (1e25 if number in bad else 1)
        for turn in order:
            before = [buffer.clone() for buffer in model.buffers()]
            optimizer = of_critic if turn == "C" else of_rest
            if turn == "C":
                with torch.no_grad():
                    made = model(x)[0]
                loss = F.softplus(-model.critic(x)).mean() + F.softplus(model.critic(made)).mean()
            else:
                y, mean, log_var = model(x)
                kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1).mean()
                loss = F.mse_loss(y, x) + kl + 0.1 * F.softplus(-model.critic(y)).mean()
            optimizer.zero_grad()
            loss.backward()
            skipped += step(optimizer, before)
    if guard is not None:
        skipped = len(guard.skips)
        guard.remove()
    return [*(p.detach() for p in model.parameters()), *model.buffers()], skipped


@pytest.mark.parametrize("bad", [(3,), (0,), (0, 1), (5,)])
@pytest.mark.parametrize("order", ["CG", "GC", "CCG", "GGC"])
def test_a_skip_undoes_the_running_statistics_of_its_own_step_alone(order: str, bad: tuple[int, ...]) -> None:
    (ours, skipped), (by_hand, expected) = (trained(order, bad, guarded=guarded) for guarded in (True, False))
    assert skipped == expected == len(bad) * len(order)
    assert all(map(torch.equal, ours, by_hand))
