"""Posteriors that add to their prior, in one line for all levels, the first of which has zeros in the prior's place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import PatchError
from vdvae_patch.patching.record import PatchedHead
from vdvae_patch.scanning.stabilizing.probing import units

Scale = Callable[[Tensor], Tensor]


def own(v: Tensor) -> Tensor:
    return nn.functional.softplus(v) + 1e-2


class Levels(nn.Module):
    """Two levels, as NVAE has them: the first prior is fixed, and each posterior is residual to its prior.

    Args:
        apart: whether the first prior is N(0, 1) by itself, or what the line of all priors makes of zeros.
    """

    def __init__(self, apart: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart = apart
        self.posteriors = nn.ModuleList([nn.Linear(8, 6), nn.Linear(8, 6)])
        self.prior, self.decoder = nn.Linear(3, 6), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        z, kl = torch.zeros(len(x), 3), torch.zeros(len(x))
        for level, layer in enumerate(self.posteriors):
            q_mean, q = layer(x).chunk(2, 1)
            p_mean, p = (torch.zeros_like(q), torch.zeros_like(q)) if level == 0 else self.prior(z).chunk(2, 1)
            sigma = nn.functional.softplus(q + p) + 1e-2
            p_sigma = torch.ones_like(p) if self.apart and level == 0 else nn.functional.softplus(p) + 1e-2
            z = q_mean + p_mean + sigma * torch.randn_like(sigma)
            kl = kl + divergence(q_mean + p_mean, sigma, p_mean, p_sigma)
        return (0.5 * (self.decoder(z) - x).square().sum(1) + kl).mean()

    def by_hand(self, x: Tensor, scale: Scale) -> Tensor:
        first, second = self.posteriors
        mean, q = first(x).chunk(2, 1)
        z = mean + scale(q) * torch.randn_like(q)
        kl = divergence(mean, scale(q), torch.zeros_like(q), torch.ones_like(q))
        p_mean, p = self.prior(z).chunk(2, 1)
        mean, q = second(x).chunk(2, 1)
        z = mean + p_mean + scale(q + p) * torch.randn_like(q)
        kl = kl + divergence(mean + p_mean, scale(q + p), p_mean, scale(p))
        return (0.5 * (self.decoder(z) - x).square().sum(1) + kl).mean()


def divergence(mean: Tensor, sigma: Tensor, p_mean: Tensor, p_sigma: Tensor) -> Tensor:
    ratio = sigma / p_sigma
    return (0.5 * (ratio**2 + ((mean - p_mean) / p_sigma) ** 2 - 1) - torch.log(ratio)).sum(1)


def seeded(run: Callable[[], Tensor]) -> float:
    torch.manual_seed(3)
    return run().item()


def test_each_posterior_gets_the_scale_of_its_own_value_and_its_prior_s() -> None:
    model, x = Levels(), torch.randn(6, 8)
    assert seeded(lambda: model(x)) == pytest.approx(seeded(lambda: model.by_hand(x, own)), rel=1e-6)
    vdvae_patch.patch(model, "bounded(0.1, 2)", heads=vdvae_patch.scan(model, x))
    scale = vdvae_patch.scales.get("bounded(0.1, 2)")
    assert seeded(lambda: model(x)) == pytest.approx(seeded(lambda: model.by_hand(x, scale.sigma)), rel=1e-6)


def test_they_are_pushed_together_since_one_line_computes_them() -> None:
    heads = [PatchedHead(head, None) for head in vdvae_patch.scan(Levels(), torch.randn(6, 8))]
    pushed = [[patched.head.path for patched in unit] for unit in units(heads)]
    assert pushed == [["posteriors.0", "posteriors.1"], ["prior"]]


def test_a_fixed_prior_that_the_replaced_line_computes_is_told() -> None:
    heads = vdvae_patch.scan(model := Levels(apart=False), torch.randn(6, 8))
    with pytest.warns(UserWarning, match="of a constant, too, as of a fixed prior: 0.703 in the host, .* there, 0.75;"):
        vdvae_patch.patch(model, "bounded(0.5, 1)", heads=heads)


def test_one_with_a_line_of_its_own_is_left_and_nothing_is_told(recwarn: pytest.WarningsRecorder) -> None:
    heads = vdvae_patch.scan(model := Levels(), torch.randn(6, 8))
    vdvae_patch.patch(model, "bounded(0.5, 1)", heads=heads)
    assert not any("constant" in str(warning.message) for warning in recwarn)


class InPlace(Levels):
    """The prior's part is added in place, by a statement in which no scale can stand."""

    def forward(self, x: Tensor) -> Tensor:
        z, kl = torch.zeros(len(x), 3), torch.zeros(len(x))
        for level, layer in enumerate(self.posteriors):
            mean, q = layer(x).chunk(2, 1)
            p_mean, p = (torch.zeros_like(q), torch.zeros_like(q)) if level == 0 else self.prior(z).chunk(2, 1)
            value = q.clone()
            value += p
            sigma, p_sigma = torch.exp(0.5 * value), torch.exp(0.5 * p)
            z = mean + sigma * torch.randn_like(sigma)
            kl = kl + divergence(mean, sigma, p_mean, p_sigma)
        return (0.5 * (self.decoder(z) - x).square().sum(1) + kl).mean()


def test_a_sum_in_place_is_refused_in_one_line() -> None:
    heads = vdvae_patch.scan(model := InPlace(), torch.randn(6, 8))
    with pytest.raises(PatchError, match=r"changed in place .* v = v \+ p, or write a patch file"):
        vdvae_patch.patch(model, "explin", heads=heads)
