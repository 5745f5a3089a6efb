"""σ that several networks have a part in, by a product of scales or a sum of raw values: each network is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import ScanResult, scan

HEADS = [("down", "3:6", "posterior"), ("prior", "3:6", "prior"), ("up", "3:6", "posterior")]


def found(heads: ScanResult) -> list[tuple[str, str, str]]:
    return sorted((head.path, str(head.channel_range), head.role) for head in heads)


def rows() -> Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(1))


class TwoWay(nn.Module):
    """A posterior of what is read upwards and of what comes down, relative to its prior."""

    def __init__(self, kl_and_draw: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.kl_and_draw = kl_and_draw
        self.top = nn.Parameter(torch.randn(3))
        self.prior, self.up, self.down, self.dec = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(9, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.top.expand(len(x), -1)
        laws = [out.chunk(2, 1) for out in (self.prior(h), self.up(x), self.down(torch.cat([x, h], 1)))]
        means, raws = zip(*laws, strict=True)
        kl, z = self.kl_and_draw(means, raws)
        return (self.dec(z) - x).square().mean() + kl.mean()


def exponentials(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    p, u, d = raws[0].exp(), raws[1].exp(), raws[2].exp()
    q = Normal(means[0] + means[1] + means[2], p * u * d)
    return kl_divergence(q, Normal(means[0], p)), q.rsample()


def log_sigmas(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    p, u, d = raws
    q = Normal(means[0] + means[1] + means[2], (p + u + d).exp())
    return kl_divergence(q, Normal(means[0], p.exp())), q.rsample()


def log_variances_by_hand(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    mean, log_var, p = means[0] + means[1] + means[2], raws[0] + raws[1] + raws[2], raws[0]
    kl = 0.5 * (p - log_var + (log_var.exp() + (mean - means[0]) ** 2) / p.exp() - 1)
    return kl, mean + (0.5 * log_var).exp() * torch.randn_like(mean)


def softplus(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    p, u, d = F.softplus(raws[0]), F.softplus(raws[1]), F.softplus(raws[2])
    q = Normal(means[0] + means[1] + means[2], p * u * d)
    return kl_divergence(q, Normal(means[0], p)), q.rsample()


@pytest.mark.parametrize("kl_and_draw", [exponentials, log_sigmas, log_variances_by_hand])
def test_each_network_that_has_a_part_in_a_log_sigma_is_a_head_and_one_scale_serves_all(
    kl_and_draw: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(0)
    model = TwoWay(kl_and_draw)
    heads = scan(model, rows())
    assert found(heads) == HEADS
    patch(model, heads=heads, posterior="explin", prior="explin")


def floored(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    p, u, d = (F.softplus(raw) + 1e-3 for raw in raws)
    sigma, mean = p * u * d, means[0] + means[1] + means[2]
    kl = p.log() - sigma.log() + (sigma**2 + (mean - means[0]) ** 2) / (2 * p**2) - 0.5
    return kl, mean + sigma * torch.randn_like(mean)


def mixed(means: tuple[Tensor, ...], raws: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    p, u, d = F.softplus(raws[0]), raws[1].exp(), F.elu(raws[2]) + 1
    q = Normal(means[0] + means[1] + means[2], p * u * d)
    return kl_divergence(q, Normal(means[0], p)), q.rsample()


@pytest.mark.filterwarnings("ignore:head .* the host keeps σ at 0.001 or above")
@pytest.mark.parametrize("kl_and_draw", [softplus, floored, mixed])
def test_each_factor_of_a_product_of_scales_is_a_head_and_gets_a_scale_of_its_own(
    kl_and_draw: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(0)
    model = TwoWay(kl_and_draw)
    heads = scan(model, rows())
    assert found(heads) == HEADS
    with torch.no_grad():
        for layer in (model.prior, model.up, model.down):
            layer.weight[3:] *= 0.1  # a softplus is kept at the batch's median
    heads, before = scan(model, rows()), mean_loss(model)
    handle = patch(model, heads=heads, posterior="upbounded(10)", prior="upbounded(10)", paper=False)
    assert mean_loss(model) == pytest.approx(before, rel=1e-2)
    handle.unpatch()
    handle = patch(model, heads=heads, posterior="upbounded(omega=2)", prior="upbounded(omega=2)", paper=True)
    with torch.no_grad():
        for layer in (model.prior, model.up, model.down):
            layer.weight[3:] = 0
            layer.bias[3:] = 40
    moments = torch.stack([draws(model, seed) for seed in range(400)])
    assert float(moments.std(0).mean()) == pytest.approx(8.0, rel=0.05)  # each factor is at its bound of 2


def mean_loss(model: nn.Module) -> float:
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        losses.append(float(model(rows()).detach()))
    return sum(losses) / len(losses)


def draws(model: TwoWay, seed: int) -> Tensor:
    drawn: list[Tensor] = []
    hook = model.dec.register_forward_pre_hook(lambda _, given: drawn.append(given[0].detach()))
    torch.manual_seed(seed)
    model(rows())
    hook.remove()
    return drawn[0]


class TwoLayers(nn.Module):
    """Of two layers' log variances the sum is used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.dec = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        (one, first), (two, second) = self.one(x).chunk(2, 1), self.two(F.relu(x)).chunk(2, 1)
        mean, log_var = one + two, first + second
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return (self.dec(z) - x).square().mean() + 0.5 * (log_var.exp() + mean**2 - 1 - log_var).mean()


def test_of_two_layers_whose_outputs_are_added_both_are_heads() -> None:
    torch.manual_seed(0)
    model = TwoLayers()
    heads = scan(model, rows())
    assert found(heads) == [("one", "3:6", "posterior"), ("two", "3:6", "posterior")]
    patch(model, heads=heads, posterior="explin")


class Tempered(nn.Module):
    """A posterior whose σ is a network's times, or plus, one that is learned for all."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec, self.temperature = nn.Linear(6, 6), nn.Linear(3, 6), nn.Parameter(torch.tensor(0.3))
        self.join = join

    def sigma(self, mean: Tensor, raw: Tensor) -> Tensor:
        return self.join(raw, self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, 1)
        sigma = self.sigma(mean, raw)
        z = mean + sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
        return 0.5 * (self.dec(z) - x).square().sum(1).mean() + kl.sum(1).mean()


@pytest.mark.parametrize(
    "join",
    [
        lambda raw, t: raw.exp() * F.softplus(t),
        lambda raw, t: F.softplus(raw) * F.softplus(t),
        lambda raw, t: raw.exp() * t.abs(),
    ],
)
def test_a_networks_scale_times_a_learned_one_is_a_head_beside_it(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Tempered(join)
    heads = scan(model, rows())
    assert sorted((head.path, head.role) for head in heads) == [("enc", "posterior"), ("temperature", "posterior")]
    assert any("σ is computed of a product" in warning for warning in heads.warnings)
    with pytest.warns(UserWarning, match="are those of the factor alone"):
        patch(model, posterior="bounded(0.001, 100)", heads=heads)
    for bias in (-120.0, 120.0):  # wherever the raw values are pushed
        with torch.no_grad():
            model.enc.bias[3:] = bias
        model.zero_grad()
        loss = model(rows())
        loss.backward()
        assert bool(loss.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_sum_of_two_scales_is_said_and_is_not_said_to_be_negative() -> None:
    heads = scan(Tempered(lambda raw, t: F.softplus(raw) + F.softplus(t)), rows())
    assert any("σ is a sum of 2 scales" in warning for warning in heads.warnings)
    assert not any("nothing keeps σ positive" in warning for warning in heads.warnings)


@pytest.mark.parametrize(
    "join", [lambda raw, t: F.softplus(raw + 3) - 0.1 * F.softplus(t), lambda raw, t: raw.exp() + t.exp() - 0.5]
)
def test_a_sum_that_may_be_negative_is_said_to_be(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    heads = scan(Tempered(join), rows())
    assert not any("σ is a sum of 2 scales" in warning for warning in heads.warnings)
    assert any("nothing keeps σ positive" in warning for warning in heads.warnings)


@pytest.mark.parametrize(
    "join",
    [
        lambda raw, t: (raw * t).exp(),
        lambda raw, t: F.softplus(raw * t),
        lambda raw, t: torch.sqrt(F.softplus(raw) * F.softplus(t)),
    ],
)
def test_a_product_that_is_no_sigma_yet_is_not_said_to_be_one_of_scales(
    join: Callable[[Tensor, Tensor], Tensor],
) -> None:
    heads = scan(Tempered(join), rows())
    assert not any("each has a scale of its own" in warning for warning in heads.warnings)
    assert len(heads) == 1


class OverNeighbours(nn.Module):
    """A graph autoencoder whose raw values are sums over neighbours, formed in the model's own `forward`."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alone = alone
        self.hidden, self.mean, self.log_sigma, self.dec = *(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.eye(len(x)) if self.alone else (torch.ones(len(x), len(x)).tril(1).triu(-1))
        h = torch.tanh(near @ self.hidden(x))
        mean, log_sigma = near @ self.mean(h), near @ self.log_sigma(h)
        self.sigma = log_sigma.exp()
        z = mean + self.sigma * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + self.sigma**2 - 1) - log_sigma
        return 0.5 * (self.dec(z) - x).square().sum(1).mean() + kl.sum(1).mean()


@pytest.mark.parametrize("alone", [True, False])
def test_sigma_of_a_sum_over_neighbours_is_bounded_where_it_is_used(alone: bool) -> None:
    model = OverNeighbours(alone=alone)
    heads = scan(model, rows())
    assert [head.path for head in heads] == ["log_sigma" if alone else ""]  # what is moved alone is the layer's own
    (patched,) = patch(model, posterior="bounded(0.6, 0.9)", heads=heads).heads
    model(rows())
    assert 0.6 <= float(model.sigma.detach().min()) <= float(model.sigma.detach().max()) <= 0.9
    assert patched.after is not None
    assert patched.after.median == pytest.approx(float(model.sigma.median()), rel=1e-2)


class Relative(Tempered):
    """Noise that is relative to the mean, times a learned factor; or to what no layer emits."""

    def sigma(self, mean: Tensor, raw: Tensor) -> Tensor:
        return self.join(mean, raw) * F.softplus(self.temperature)


@pytest.mark.parametrize(
    "factor",
    [
        lambda mean, raw: mean.abs() + 0.01,
        lambda mean, raw: F.softplus(raw).mean(1, keepdim=True),
        lambda mean, raw: torch.where(raw > 0, raw + 1, raw.exp()),
    ],
)
def test_a_factor_that_is_the_mean_or_that_no_layer_emits_is_no_head(
    factor: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model = Relative(factor)
    heads = scan(model, rows())
    assert [(head.path, head.role) for head in heads] == [("temperature", "posterior")]
    assert any("another is no head, stays, and is not tried" in warning for warning in heads.warnings)
    patch(model, posterior="explin", heads=heads)
