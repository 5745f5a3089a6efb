"""A raw value of which all examples are drawn, and some are in the KL."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.attach.recompile import compiled_function
from vdvae_patch.attach.sites import Site
from vdvae_patch.conventions import LogSigma, LogVariance
from vdvae_patch.errors import SharedScaleError
from vdvae_patch.patching import patch
from vdvae_patch.scales import get
from vdvae_patch.scanning import scan


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.mean, self.var = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.h(x).relu()
        return self.mean(h), torch.exp(self.var(h)) + 1e-4


class JointEncoder(Encoder):
    """Mean and raw value are two halves of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.both(self.h(x).relu()).chunk(2, -1)
        return mean, F.softplus(raw).clamp(min=1e-3) ** 2


def drawn(mean: Tensor, var: Tensor) -> Tensor:
    return Normal(mean, var.sqrt()).rsample()


def kl(mean: Tensor, var: Tensor) -> Tensor:
    return kl_divergence(Normal(mean, var.sqrt()), Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)


class Model(nn.Module):
    def __init__(self, encoder: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.a, self.b, self.dec = encoder(), encoder(), nn.Linear(6, 6)

    def loss(self, x: Tensor, a: Tensor, b: Tensor, rate: Tensor) -> Tensor:
        return F.mse_loss(self.dec(torch.cat([a, b], -1)), x) + rate


class HalfHasNoCode(Model):
    """Contrastive data: the first half of a batch has no code of the second kind, and zeros in its place."""

    def forward(self, x: Tensor) -> Tensor:
        (am, av), (bm, bv) = self.a(x), self.b(x)
        a, b = drawn(am, av), drawn(bm, bv)
        none, some = b.chunk(2)
        mean, var = bm.chunk(2)[1], bv.chunk(2)[1]
        b = torch.cat([torch.zeros_like(none), some])
        return self.loss(x, a, b, kl(am, av).mean() + kl(mean, var).mean())


class WeightedHalves(Model):
    """Examples with a label have another weight than those without."""

    def forward(self, x: Tensor) -> Tensor:
        (am, av), (bm, bv) = self.a(x), self.b(x)
        half = x.shape[0] // 2
        rate = kl(am[:half], av[:half]).mean() + 0.1 * kl(am[half:], av[half:]).mean()
        return self.loss(x, drawn(am, av), drawn(bm, bv), rate + kl(bm, bv).mean())


class DrawnInHalves(Model):
    """Each half of a batch is drawn and compared by itself."""

    def forward(self, x: Tensor) -> Tensor:
        (am, av), (bm, bv) = self.a(x), self.b(x)
        half = x.shape[0] // 2
        first, second = (am[:half], av[:half]), (am[half:], av[half:])
        a = torch.cat([drawn(*first), drawn(*second)])
        return self.loss(x, a, drawn(bm, bv), kl(*first).mean() + 0.1 * kl(*second).mean() + kl(bm, bv).mean())


class EveryOther(Model):
    def forward(self, x: Tensor) -> Tensor:
        (am, av), (bm, bv) = self.a(x), self.b(x)
        return self.loss(x, drawn(am, av), drawn(bm, bv), kl(am[::2], av[::2]).mean() + kl(bm, bv).mean())


class Picked(Model):
    def forward(self, x: Tensor) -> Tensor:
        (am, av), (bm, bv) = self.a(x), self.b(x)
        labelled = torch.arange(1, x.shape[0])
        rate = kl(am[labelled], av[labelled]).mean() + kl(bm, bv).mean()
        return self.loss(x, drawn(am, av), drawn(bm, bv), rate)


class FromTheSecondStepOn(Model):
    """Sequences, whose first step is given."""

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.stack([x, x.flip(0), 0.5 * x], 1)
        (am, av), (bm, bv) = self.a(steps), self.b(steps)
        rate = kl(am[:, 1:], av[:, 1:]).mean() + kl(bm, bv).mean()
        return self.loss(steps, drawn(am, av), drawn(bm, bv), rate)


MODELS = [HalfHasNoCode, WeightedHalves, DrawnInHalves, EveryOther, Picked, FromTheSecondStepOn]


@pytest.mark.parametrize(
    ("kind", "encoder"),
    # steps of time of a Linear's output, which computes on rows, are no range of them, and hide which channels are read
    [(k, e) for k in MODELS for e in (Encoder, JointEncoder) if (k, e) != (FromTheSecondStepOn, JointEncoder)],
)
def test_a_head_of_which_some_examples_are_compared_is_patched_for_all(
    kind: type[Model], encoder: type[Encoder]
) -> None:
    torch.manual_seed(0)
    model, x = kind(encoder), torch.randn(8, 6)
    heads = list(scan(model, x))
    layer = "both" if encoder is JointEncoder else "var"
    assert [(head.path, head.role) for head in heads] == [(f"a.{layer}", "posterior"), (f"b.{layer}", "posterior")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a floor is lost
        handle = patch(model, heads=heads, posterior="explin")
    for rows in (8, 6, 2):  # the last batch is smaller
        assert model(x[:rows]).isfinite()
    before = encoder()
    before.load_state_dict(model.a.state_dict())
    raws: list[Tensor] = []
    before.get_submodule(layer).register_forward_hook(lambda module, given, output: raws.append(output))
    before(x)
    scale = next(patched.scale for patched in handle.heads if patched.head.path == f"a.{layer}")
    assert scale is not None
    wanted = scale.sigma(raws[0] if encoder is Encoder else raws[0].chunk(2, -1)[1])
    torch.testing.assert_close(model.a(x)[1].sqrt(), wanted, msg="some rows have another σ")


def test_two_ways_to_go_on_from_one_expression_are_named_and_not_two_equal_scales() -> None:
    def sigma(v: Tensor) -> Tensor:
        return torch.exp(v)

    line = sigma.__code__.co_firstlineno + 1
    site = Site("", "", (), (line, line, 15, 27), (line, line, 15, 27), 0, LogSigma())
    other = Site("", "", (), (line, line, 15, 27), (line, line, 15, 27), 0, LogVariance())
    with pytest.raises(SharedScaleError, match="goes on from to σ in two ways"):
        compiled_function(sigma, [(site, get("explin")), (other, get("explin"))])
