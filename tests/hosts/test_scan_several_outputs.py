"""Layers of a host's own that return several values, and heads that are a mean over several calls of one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(0.2 * torch.randn(8, 6)), nn.Parameter(torch.zeros(8))

    def penalty(self) -> Tensor:
        return 1e-3 * (self.w**2).sum()


class Pair(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(x, self.w, self.b), self.penalty()


class Named(Layer):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": x @ self.w.t() + self.b, "penalty": self.penalty()}


@dataclass
class Result:
    out: Tensor
    penalty: Tensor


class AsAnObject(Layer):
    def forward(self, x: Tensor) -> Result:
        return Result(torch.addmm(self.b, x, self.w.t()), self.penalty())


class Drawn(Layer):
    """Its weights are drawn: the product with data is a layer's all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((8, 6), -5.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(x, self.w + F.softplus(self.rho) * torch.randn_like(self.w)), self.penalty()


def parts(given: Any) -> tuple[Tensor, Tensor]:
    if isinstance(given, dict):
        return given["out"], given["penalty"]
    return (given.out, given.penalty) if isinstance(given, Result) else given


class Coder(nn.Module):
    def __init__(self, layer: type[Layer], calls: int) -> None:
        super().__init__()
        self.enc, self.dec, self.calls = layer(), nn.Linear(4, 6), calls

    def forward(self, x: Tensor) -> Tensor:
        found = [parts(self.enc(x)) for _ in range(self.calls)]
        out = found[0][0] if self.calls == 1 else torch.stack([out for out, _ in found]).mean(0)
        self.out = out
        mean, raw = out.chunk(2, dim=-1)
        self.sigma = sigma = F.softplus(raw) + 1e-2
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
        return F.mse_loss(self.dec(z), x) + kl.sum(-1).mean() + found[0][1]


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("layer", [Pair, Named, AsAnObject, Drawn])
def test_the_head_has_its_layer_s_path_and_is_patched(layer: type[Layer], calls: int) -> None:
    torch.manual_seed(0)
    model, x = Coder(layer, calls), torch.randn(7, 6)
    heads = scan(model, x)
    head = next(h for h in heads if h.path == "enc")
    assert (head.channels, head.role, len(heads)) == ("4:8", "posterior", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (patched,) = patch(model, heads=heads, posterior="explin").heads
    model(x).backward()
    assert patched.scale is not None
    torch.testing.assert_close(model.sigma, patched.scale.sigma(model.out[:, 4:]))
