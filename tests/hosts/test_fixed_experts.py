"""A product of experts has a fixed one, the standard Normal: a patch of the learned ones leaves it, or tells of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.patching.record import PatchedHeads
from vdvae_patch.scales import Scale


class Product(nn.Module):
    """Two experts and N(0, 1), their precisions added up in one of three ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.one, self.other, self.decoder = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 8)
        self.prior = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        (m, u), (n, v) = self.one(x).chunk(2, 1), self.other(x).chunk(2, 1)
        if self.way == "joined":
            variance = torch.exp(torch.stack([self.prior.expand_as(u), u, v])) + 1e-8
            precisions = 1 / variance
            precision = precisions.sum(0)
            mean = (torch.stack([torch.zeros_like(m), m, n]) * precisions).sum(0) / precision
        elif self.way == "loop":
            precision, mean = torch.ones_like(u), torch.zeros_like(u)
            for expert, log_variance in ((m, u), (n, v)):
                precision, mean = precision + torch.exp(-log_variance), mean + expert * torch.exp(-log_variance)
            mean = mean / precision
        else:
            precision = 1 + torch.exp(-u) + torch.exp(-v)
            mean = (m * torch.exp(-u) + n * torch.exp(-v)) / precision
        return self.loss(x, mean, 1 / precision)

    def loss(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        z = mean + variance.sqrt() * torch.randn_like(mean)
        error = F.mse_loss(self.decoder(z), x, reduction="sum")
        return error + 0.5 * (mean**2 + variance - 1 - variance.log()).sum()

    def by_hand(self, x: Tensor, scale: Scale) -> Tensor:
        """With a scale for the experts, and none for N(0, 1)."""
        (m, u), (n, v) = self.one(x).chunk(2, 1), self.other(x).chunk(2, 1)
        a, b = scale.sigma(u) ** -2, scale.sigma(v) ** -2
        return self.loss(x, (m * a + n * b) / (1 + a + b), 1 / (1 + a + b))


def heads_of(model: nn.Module) -> PatchedHeads:
    heads = vdvae_patch.patched_heads(model)
    assert heads is not None
    return heads


@pytest.mark.parametrize("way", ["sum", "loop"])
@pytest.mark.parametrize("variant", ["upbounded", "explin"])
def test_the_first_expert_is_patched_as_the_others_where_the_sum_begins_with_the_fixed_one(
    way: str, variant: str
) -> None:
    torch.manual_seed(0)
    model, x = Product(way), 3 * torch.randn(16, 8)
    twin = copy.deepcopy(model)
    vdvae_patch.patch(model, variant, heads=vdvae_patch.scan(model, x))
    one, other = heads_of(model)
    assert str(one.scale) == str(other.scale)
    assert other.scale is not None
    torch.manual_seed(1)
    loss = model(x)
    torch.manual_seed(1)
    assert loss.item() == pytest.approx(twin.by_hand(x, other.scale).item(), rel=1e-5)


def test_a_fixed_expert_that_is_joined_to_the_others_is_told_and_is_in_no_table() -> None:
    torch.manual_seed(0)
    model, x = Product("joined"), torch.randn(16, 8)
    sigmas = torch.exp(0.5 * torch.cat([model.one(x)[:, 4:], model.other(x)[:, 4:]])).detach()
    heads = vdvae_patch.scan(model, x)
    with pytest.warns(UserWarning, match="of a constant, too, as of a fixed prior: 1 in the host, .* there, 0.75;"):
        vdvae_patch.patch(model, "upbounded", heads=heads)
    before = heads_of(model)[0].before
    assert before is not None
    assert before.median == pytest.approx(sigmas.flatten().quantile(0.5).item(), rel=1e-5)


def test_a_scale_that_leaves_the_fixed_expert_as_it_is_is_not_told_of(recwarn: pytest.WarningsRecorder) -> None:
    torch.manual_seed(0)
    model, x = Product("joined"), torch.randn(16, 8)
    vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    assert not any("constant" in str(warning.message) for warning in recwarn)


class Floored(Product):
    """Each expert's precision has a floor of its own, and there is no fixed expert."""

    def forward(self, x: Tensor) -> Tensor:
        (m, u), (n, v) = self.one(x).chunk(2, 1), self.other(x).chunk(2, 1)
        a, b = F.softplus(u) + 1e-6, F.softplus(v) + 1e-6
        return self.loss(x, (m * a + n * b) / (a + b), 1 / (a + b))


def test_a_floor_of_an_experts_own_precision_is_a_part_of_its_sigma() -> None:
    heads = vdvae_patch.scan(Floored(""), torch.randn(16, 8))
    assert [float(head.convention.sigma(torch.tensor(-1e3))) for head in heads] == pytest.approx([1000, 1000], rel=1e-3)
    assert not any("grows exponentially" in warning for warning in heads.warnings)
