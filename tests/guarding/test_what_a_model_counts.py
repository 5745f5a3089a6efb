"""A model that counts its calls, and follows a mean, in plain attributes: its step is done again as it was."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.guarding.replaying import replay
from vdvae_patch.guarding.skip import read

BAD = 3


class CountingVAE(nn.Module):
    """σ overflows in its fourth pass, by the count that it keeps; the loss depends on all that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)
        self.calls, self.mean, self.weight_of_kl = 0, torch.zeros(4), 0.0
        self.own = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.weight_of_kl = self.calls / 10
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        if self.calls == BAD + 1:
            log_sigma = log_sigma + 400
        sigma = torch.exp(log_sigma)
        self.mean.mul_(0.9).add_(sigma.detach().mean(0) - mean.detach().mean(0))
        noise = torch.randn(mean.shape, generator=self.own) + random.gauss(0, 1) + float(np.random.normal())
        z = mean + sigma * noise
        kl = 0.5 * (sigma**2 + mean**2 - 1) - log_sigma
        return ((self.decoder(z) + self.mean.sum() - x) ** 2).mean() + self.weight_of_kl * kl.sum(1).mean()


def built() -> CountingVAE:
    torch.manual_seed(0)
    return CountingVAE()


def loop(model: CountingVAE, steps: int, watch: Callable[[], None] = lambda: None) -> list[float]:
    random.seed(0)
    np.random.seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 6, generator=batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        watch()
    return losses


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[CountingVAE, vdvae_patch.Guard, list[float]]:
    model = built()
    guard = vdvae_patch.guard(model, out=tmp_path / "guard", file=io.StringIO())
    losses = loop(model, 6)
    guard.remove()
    return model, guard, losses


def test_the_step_that_its_count_broke_is_done_again(
    recorded: tuple[CountingVAE, vdvae_patch.Guard, list[float]],
) -> None:
    model, guard, _ = recorded
    (skip,) = guard.skips
    assert skip.step == BAD
    assert skip.operation == "aten.exp.default"
    assert model.calls == 6


def test_looking_into_a_skip_moves_nothing_and_a_mean_that_broke_is_what_it_was(
    recorded: tuple[CountingVAE, vdvae_patch.Guard, list[float]],
) -> None:
    model, _, losses = recorded
    alone = built()
    before: list[Tensor] = []

    def never_done() -> None:
        if alone.calls == BAD + 1:
            alone.mean.copy_(before[-1])
            for p in alone.parameters():
                p.data.copy_(weights[-1][id(p)])
        weights.append({id(p): p.detach().clone() for p in alone.parameters()})
        before.append(alone.mean.clone())

    weights: list[dict[int, Tensor]] = []
    others = loop(alone, 6, never_done)
    assert torch.isfinite(model.mean).all()
    assert losses[:BAD] == others[:BAD]
    assert losses[BAD + 1 :] == others[BAD + 1 :]
    assert torch.equal(model.mean, alone.mean)


def test_replay_gives_a_fresh_model_the_counts_of_the_step(
    recorded: tuple[CountingVAE, vdvae_patch.Guard, list[float]],
) -> None:
    folder = recorded[1].skips[0].folder
    assert folder is not None
    torch.manual_seed(7)
    again = replay(read(folder), CountingVAE())
    assert again.exact
    assert {one.what for one in again.compared} >= {"loss", "place of the first bad value"}
