"""Laws that are objects of the host's own: σ is computed when they are made, or each time that it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


@dataclass
class MadeAfterwards:
    mean: Tensor
    raw: Tensor
    std: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.std = F.softplus(self.raw) + 1e-4

    def kl(self) -> Tensor:
        return 0.5 * (self.mean**2 + self.std**2 - 1) - self.std.log()


class AskedFor(NamedTuple):
    """σ is computed three times, twice of these in one line of the KL."""

    mean: Tensor
    raw: Tensor

    @property
    def std(self) -> Tensor:
        return F.softplus(self.raw) + 1e-4

    def kl(self) -> Tensor:
        return 0.5 * (self.mean**2 + self.std**2 - 1) - self.std.log()


class OfAnyName:
    def __init__(self, mean: Tensor, raw: Tensor) -> None:
        self.mean, self.raw = mean, raw

    def __getattr__(self, name: str) -> Any:
        if name == "std":
            return F.softplus(self.raw) + 1e-4
        raise AttributeError(name)

    def kl(self) -> Tensor:
        kl: Tensor = 0.5 * (self.mean**2 + self.std**2 - 1) - self.std.log()
        return kl


class Coder(nn.Module):
    def __init__(self, law: Any) -> None:
        super().__init__()
        self.net, self.dec, self.law = nn.Linear(6, 6), nn.Linear(3, 6), law

    def forward(self, x: Tensor) -> Tensor:
        q = self.law(*self.net(x).chunk(2, 1))
        noise = torch.randn_like(q.mean)
        self.kl, self.drawn = q.kl(), q.std * noise
        self.noise = noise
        loss: Tensor = F.mse_loss(self.dec(q.mean + self.drawn), x) + self.kl.mean()
        return loss


@pytest.mark.filterwarnings("ignore:head")  # of the floor that goes
@pytest.mark.parametrize("law", [MadeAfterwards, AskedFor, OfAnyName])
def test_every_use_of_such_a_law_has_the_new_scale(law: Any) -> None:
    torch.manual_seed(0)
    model, x = Coder(law), torch.randn(5, 6)
    heads = scan(model, x)
    assert [(head.path, head.channels, str(head.convention)) for head in heads] == [
        ("net", "3:6", "softplus(floor=0.0001)")
    ]
    with patch(model, "bounded(0.01, 5)", heads=heads, paper=True), torch.no_grad():
        mean, raw = model.net(x).chunk(2, 1)
        model(x)
        sigma = 0.01 + 4.99 * raw.sigmoid()
        torch.testing.assert_close(model.drawn, sigma * model.noise)
        torch.testing.assert_close(model.kl, 0.5 * (mean**2 + sigma**2 - 1) - sigma.log())
