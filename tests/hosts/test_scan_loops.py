"""Raw values that a loop, or a branch that a setting decides, reads, with the rest of σ computed behind it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.patching.apply import PatchHandle
from vdvae_patch.scanning import scan


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.mean, self.dec = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 6)
        self.layers, self.softplus = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 4)]), True

    def forward(self, x: Tensor) -> Tensor:
        h = self.h(x).relu()
        mean = self.mean(h)
        self.sigma = sigma = self.spread(h)
        z = mean + sigma * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), x) + (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(1).mean()

    def spread(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def raw(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class Looped(Coder):
    def spread(self, h: Tensor) -> Tensor:
        for layer in self.layers:
            h = F.softplus(layer(h))
        return h + 1e-3

    def raw(self, h: Tensor) -> Tensor:
        return self.layers[1](F.softplus(self.layers[0](h)))


class LoopedTwice(Looped):
    """The outer loop goes through the inner one again and again."""

    def spread(self, h: Tensor) -> Tensor:
        for _ in range(2):
            out = h
            for layer in self.layers:
                out = F.softplus(layer(out))
            sigma = out + 1e-3
        return sigma


class Chosen(Coder):
    def spread(self, h: Tensor) -> Tensor:
        v = self.layers[1](self.layers[0](h))
        positive = v
        if self.softplus:
            positive = F.softplus(v)
        if not self.softplus:
            positive = v.exp()
        return positive + 1e-3

    def raw(self, h: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](h))


class WhileTraining(Chosen):
    def spread(self, h: Tensor) -> Tensor:
        v = self.layers[1](self.layers[0](h))
        positive = v
        if self.training:
            positive = F.softplus(v)
        if not self.training:
            positive = v.exp()
        return positive + 1e-3


def patched(host: type[Coder]) -> tuple[Coder, Tensor, PatchHandle]:
    torch.manual_seed(0)
    model, x = host(), torch.randn(7, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, x, patch(model, heads=scan(model, x), posterior="explin")


@pytest.mark.parametrize("host", [Looped, LoopedTwice, Chosen])
def test_the_scale_is_of_what_the_last_turn_read(host: type[Coder]) -> None:
    model, x, handle = patched(host)
    model.layers[1].bias.data[0] = -20.0  # type: ignore[union-attr, operator]
    model(x).backward()
    scale = handle.heads[0].scale
    assert scale is not None
    torch.testing.assert_close(model.sigma, scale.sigma(model.raw(model.h(x).relu())))
    assert model.sigma.min() < 1e-6


def test_a_branch_that_was_not_taken_in_the_scan_is_refused_when_it_is_taken() -> None:
    model, x, handle = patched(Chosen)
    model.softplus = False
    with pytest.raises(PatchError, match="this call does not go through; unpatch the model, and scan"):
        model(x)
    handle.unpatch()
    assert model(x).isfinite()


def test_a_branch_that_training_decides_is_refused() -> None:
    with pytest.raises(PatchError, match="read in a branch or a loop"):
        patched(WhileTraining)


class TwoOfALoop(nn.Module):
    """One line of a loop reads both heads' raw values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.p, self.dec = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        means, spreads = [], []
        for layer in (self.q, self.p):
            mean, v = layer(x).chunk(2, 1)
            means.append(mean)
            spreads.append(F.softplus(v))
        sigma_q, sigma_p = spreads[0] + 1e-2, spreads[1] + 1e-2
        z = means[0] + sigma_q * torch.randn_like(sigma_q)
        kl = sigma_p.log() - sigma_q.log() + (sigma_q**2 + (means[0] - means[1]) ** 2) / (2 * sigma_p**2)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


def test_no_head_gets_the_raw_value_of_another_turn() -> None:
    torch.manual_seed(0)
    model, x = TwoOfALoop(), torch.randn(7, 6)
    torch.manual_seed(1)
    before = model(x)
    heads = scan(model, x)
    assert {(head.path, head.role) for head in heads} == {("q", "posterior"), ("p", "prior")}
    with pytest.raises(PatchError):
        patch(model, heads=heads, posterior="explin", prior="upbounded")
    torch.manual_seed(1)
    assert torch.equal(model(x), before)
