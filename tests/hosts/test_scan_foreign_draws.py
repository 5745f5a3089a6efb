"""Noise that NumPy draws shows a scale, where no KL does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import patch
from vdvae_patch.scanning import scan

Draw = Callable[[tuple[int, ...]], Tensor]

DRAWS: dict[str, Draw] = {
    "torch.tensor": lambda shape: torch.tensor(np.random.normal(0, 1, shape), dtype=torch.float32),
    "FloatTensor": lambda shape: torch.FloatTensor(np.random.normal(0, 1, shape)),
    "from_numpy": lambda shape: torch.from_numpy(np.random.default_rng(3).standard_normal(shape)).float(),
    "from_numpy of float32": lambda shape: torch.from_numpy(np.random.randn(*shape).astype("float32")).to("cpu"),
}


class Adversarial(nn.Module):
    """An adversarial autoencoder: nothing but the sampler has σ."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw = draw
        self.mean, self.log_var, self.decoder = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)
        self.critic = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        noise = self.draw(tuple(mean.shape))
        z = noise * torch.exp(log_var / 2) + mean
        return F.mse_loss(self.decoder(z), x) - F.logsigmoid(self.critic(z)).mean()


@pytest.mark.parametrize("form", DRAWS)
def test_what_numpy_draws_is_noise(form: str) -> None:
    torch.manual_seed(0)
    model, x = Adversarial(DRAWS[form]), torch.rand(5, 6)
    heads = scan(model, x)
    assert [(h.path, h.channels, h.role, str(h.convention)) for h in heads] == [
        ("log_var", ":", "posterior", "log_variance")
    ]
    patch(model, heads=heads, posterior="upbounded")


class Modulated(nn.Module):
    """A layer that multiplies, with numbers from outside that are no draw: a table, a mask, or no sum follows."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.gain, self.shift, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        table = np.sin(np.arange(x.numel()).reshape(x.shape))
        if self.form == "a mask":
            table = np.sign(table)
        given = torch.tensor(table, dtype=torch.float32)
        gain, shift = self.gain(x).exp(), self.shift(x)
        if self.form == "a table of positions":
            return F.mse_loss(self.out(gain * shift + given), x)
        if self.form == "a target":
            return F.mse_loss(gain * given + shift, x)
        return F.mse_loss(self.out(gain * given + shift), x)


@pytest.mark.parametrize("form", ["a mask", "a table of positions", "a target"])
def test_other_numbers_from_outside_are_no_noise(form: str) -> None:
    torch.manual_seed(0)
    assert not list(scan(Modulated(form), torch.rand(5, 6)))
