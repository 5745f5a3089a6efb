"""`stabilize` keeps the loss of the batch where it is: a scale that moves it by 1% or more gives way to one that holds
as well and moves it less, unless somebody named it."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.patching import PatchHandle
from vdvae_patch.scanning.bound.loss_size import size_of
from vdvae_patch.scanning.bound.replay import Keeper, Tail
from vdvae_patch.scanning.stabilizing.keeping import Ruler, ruler_of
from vdvae_patch.scanning.watching.recording import recorded


def kl(mean: Tensor, v: Tensor, prior_mean: Tensor, prior_v: Tensor) -> Tensor:
    return 0.5 * (prior_v - v + (v.exp() + (mean - prior_mean) ** 2) / prior_v.exp() - 1)


class Conditional(nn.Module):
    """p(x, z | c), with a posterior and a prior of given σ."""

    def __init__(self, sigma: float = 0.3, prior_sigma: float = 0.3, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.posterior, self.prior, self.decoder = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 6)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for layer, value in ((self.posterior, sigma), (self.prior, prior_sigma)):
                layer.weight[4:] *= 0.1
                layer.bias[4:] = 2 * math.log(value)

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (mean, v), (prior_mean, prior_v) = self.posterior(x).chunk(2, 1), self.prior(x.flip(1)).chunk(2, 1)
        z = mean + (0.5 * v).exp() * torch.randn_like(mean)
        error = (self.decoder(self.dropout(z)) - x).square()
        return error.sum(1).mean(), kl(mean, v, prior_mean, prior_v).sum(1).mean()

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.terms(x), torch.zeros(()))


class TwoLevels(nn.Module):
    """Two priors that are learned, of other σ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.q1, self.q2 = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(18, 4)
        self.p1, self.p2, self.decoder = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 6)
        with torch.no_grad():
            for layer, sigma in ((self.q1, 0.05), (self.p1, 0.02), (self.q2, 0.5), (self.p2, 2.5)):
                layer.weight[2:] *= 0.1
                layer.bias[2:] = 2 * math.log(sigma)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encoder(x))
        mean, v = self.q1(h).chunk(2, 1)
        z1 = mean + (0.5 * v).exp() * torch.randn_like(mean)
        loss = kl(mean, v, *self.p1(x[:, :3]).chunk(2, 1)).sum(1)
        mean, v = self.q2(torch.cat([h, z1], 1)).chunk(2, 1)
        z2 = mean + (0.5 * v).exp() * torch.randn_like(mean)
        loss = loss + kl(mean, v, *self.p2(z1).chunk(2, 1)).sum(1)
        return (loss + (self.decoder(torch.cat([z1, z2], 1)) - x).square().sum(1)).mean()


def batch() -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def stabilized(model: nn.Module, **options: object) -> tuple[PatchHandle, str]:
    said = io.StringIO()
    handle = vdvae_patch.stabilize(model, batch(), file=said, **options)  # type: ignore[arg-type]
    return handle, said.getvalue()


def scale_of(handle: PatchHandle, role: str) -> str:
    names = {"the host's own" if h.scale is None else h.scale.name for h in handle.heads if h.head.role == role}
    (name,) = names
    return name


def moved(handle: PatchHandle) -> float:
    assert handle.before is not None
    assert handle.after is not None
    assert handle.before.loss is not None
    assert handle.after.loss is not None
    return abs(handle.after.loss / handle.before.loss - 1)


# --- what is chosen ---------------------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("build", [Conditional, TwoLevels, lambda: Conditional(0.01, 0.004)])
def test_a_learned_prior_keeps_its_sigma_within_bounds_and_is_cured(build: Callable[[], nn.Module]) -> None:
    handle, text = stabilized(build())
    assert scale_of(handle, "prior") == "bounded"
    assert moved(handle) < 1e-2
    assert "\nNOT cured" not in text
    assert "bounded(alpha=" in text
    (line,) = [line for line in text.splitlines() if 'prior="constant" gives that one' in line]
    assert "and not constant, with which the loss of this batch would move by " in line
    assert "the loss of this batch moves by" not in text


def test_a_prior_whose_sigma_is_one_already_becomes_constant() -> None:
    model = Conditional(0.3, 1.0)
    with torch.no_grad():
        model.prior.weight[4:] = 0
    handle, text = stabilized(model)
    assert scale_of(handle, "prior") == "constant"
    assert moved(handle) < 1e-2
    assert "gives that one" not in text


def test_a_scale_that_somebody_named_stays_and_its_move_is_said() -> None:
    handle, text = stabilized(Conditional(), prior="constant")
    assert scale_of(handle, "prior") == "constant"
    assert moved(handle) > 1e-2
    assert "the loss of this batch moves by " in text
    assert 'such as prior="bounded(0.001, 100)"' in text


def test_formulas_of_raw_values_as_they_are_keep_nothing() -> None:
    handle, _ = stabilized(Conditional(), paper=True)
    assert scale_of(handle, "prior") == "constant"


def test_without_the_probe_the_loss_is_kept_all_the_same() -> None:
    handle, text = stabilized(Conditional(), probe=False)
    assert scale_of(handle, "prior") == "bounded"
    assert moved(handle) < 1e-2
    assert "not probed" in text


@pytest.mark.medium
def test_a_posterior_above_one_keeps_its_exponential_up_to_the_nearest_bound() -> None:
    model = Conditional(3.0, 3.0)
    with torch.no_grad():
        model.posterior.weight[4:] = 0
    handle, text = stabilized(model)
    (posterior,) = [h for h in handle.heads if h.head.role == "posterior"]
    assert str(posterior.scale).startswith("upbounded(omega=10, gain=0.5")
    assert moved(handle) < 1e-2
    assert "\nNOT cured" not in text
    assert 'posterior="explin" gives that one' in text


def test_a_batch_that_was_not_finite_gets_the_constant_prior() -> None:
    model = Conditional()
    with torch.no_grad():
        model.prior.bias[4:] = -200.0  # its variance is zero in float32
    handle, _ = stabilized(model)
    assert handle.before is not None
    assert not handle.before.finite
    assert scale_of(handle, "prior") == "constant"


@pytest.mark.medium
def test_where_no_scale_that_keeps_the_loss_holds_the_constant_prior_stays_and_that_is_said() -> None:
    said = io.StringIO()
    # in float16 a σ of 0.001 has a square by which nothing can be divided
    handle = vdvae_patch.stabilize(Conditional().half(), batch().half(), file=said)
    assert scale_of(handle, "prior") == "constant"
    assert "\nNOT cured" not in said.getvalue()
    assert "No scale that was tried moves it less and holds" in said.getvalue()


@pytest.mark.medium
def test_beside_another_decoder_the_loss_is_compared_with_that_decoders() -> None:
    handle, text = stabilized(Conditional(), decoder="optimal")
    assert "in the place of" in text
    assert scale_of(handle, "prior") == "bounded"
    assert "the loss of this batch moves by" not in text


# --- what a loss may be ----------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_a_loss_with_draws_of_its_own_is_compared_at_the_same_draws() -> None:
    handle, _ = stabilized(Conditional(dropout=0.5).train())
    assert scale_of(handle, "prior") == "bounded"
    assert moved(handle) < 1e-3


def counting(numbers: Iterator[int]) -> Callable[[Conditional, Tensor], Tensor]:
    def loss(model: Conditional, x: Tensor) -> Tensor:
        error, rate = model.terms(x)
        return error + rate * (1 + 0.3 * next(numbers))

    return loss


@pytest.mark.medium
@pytest.mark.parametrize(("sigma", "chosen"), [(0.3, "bounded"), (1.0, "constant")])
def test_of_a_loss_that_no_call_repeats_sigma_itself_is_compared(sigma: float, chosen: str) -> None:
    model = Conditional(0.3, sigma)
    with torch.no_grad():
        model.prior.weight[4:] = 0
    handle, text = stabilized(model, call=counting(itertools.count()))
    assert scale_of(handle, "prior") == chosen
    (prior,) = [h for h in handle.heads if h.head.role == "prior"]
    if chosen == "bounded":
        assert prior.before is not None
        assert prior.after is not None
        assert prior.after.median == pytest.approx(prior.before.median, rel=2e-2)
        assert "σ at its median (the loss is another one at each call) would move by +" in text


def shifted(model: Conditional, x: Tensor) -> Tensor:
    """A loss near zero: what its two terms are beside a reference."""
    error, rate = model.terms(x)
    return error - rate * float(error.detach() / rate.detach()) * 1.0001


def test_a_loss_near_zero_has_the_size_of_its_terms() -> None:
    model = Conditional()
    graph = recorded(model, (batch(),), shifted, recorder_of=Keeper)
    assert graph.loss is not None
    error = float(model.terms(batch())[0])
    assert graph.outcome.loss == pytest.approx(0, abs=0.01)
    assert size_of(Tail(graph, graph.loss)) == pytest.approx(2 * error, rel=0.2)  # another draw
    assert vdvae_patch.scan(model, batch(), call=shifted).elbo.size == pytest.approx(2 * error, rel=0.2)


def test_a_move_is_a_share_of_what_the_loss_adds_up_and_without_a_finite_loss_no_move_at_all_is_kept() -> None:
    model = Conditional()
    heads = vdvae_patch.scan(model, batch(), call=shifted)
    handle = vdvae_patch.patch(model, posterior="upbounded(100)", heads=heads)
    assert handle.before is not None
    assert handle.after is not None
    assert handle.before.loss is not None
    assert handle.after.loss is not None
    found = ruler_of(model, heads, handle)
    assert found is not None
    assert heads.elbo.size is not None
    assert found.size == pytest.approx(heads.elbo.size / 10)
    assert found.size > 100 * abs(handle.before.loss)
    ruler = Ruler(handle.after.loss - 3.0, size=200.0)
    assert ruler.move(handle) == pytest.approx(3.0 / 200.0)
    handle.after = replace(handle.after, loss=math.nan)
    assert ruler.move(handle) == math.inf
    assert not ruler.kept(math.inf)


class Tails(nn.Module):
    """One latent of two examples, whose fourth power counts: what σ does to the loss depends on the draw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.posterior = nn.Linear(6, 2)
        with torch.no_grad():
            self.posterior.weight *= 0.1
            self.posterior.bias.copy_(torch.tensor([0.0, 2 * math.log(1.35)]))

    def forward(self, x: Tensor) -> Tensor:
        mean, v = self.posterior(x).chunk(2, 1)
        z = mean + (0.5 * v).exp() * torch.randn_like(mean)
        return (z**4).mean() + x.square().sum(1).mean() + kl(mean, v, torch.zeros(()), torch.zeros(())).mean()


def mean_over_draws(model: nn.Module, x: Tensor, count: int = 20) -> float:
    losses = []
    for seed in range(count):
        torch.manual_seed(100 + seed)
        losses.append(float(model(x).detach()))
    return sum(losses) / count


def test_what_one_draw_does_not_show_is_seen_in_the_mean_of_several() -> None:
    model, x, said = Tails(), batch()[:2], io.StringIO()
    torch.manual_seed(2)
    handle = vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x))
    assert moved(handle) < 1e-2
    handle.unpatch()
    before = mean_over_draws(model, x)
    with vdvae_patch.patch(model, "explin", heads=vdvae_patch.scan(model, x)):
        assert abs(mean_over_draws(model, x) / before - 1) > 1e-2
    torch.manual_seed(2)
    handle = vdvae_patch.stabilize(model, x, file=said)
    assert scale_of(handle, "posterior") == "upbounded"
    assert abs(mean_over_draws(model, x) / before - 1) < 1e-2
    assert "with which the loss of this batch would move by" in said.getvalue()


@pytest.mark.parametrize(("sigma", "passes"), [(0.3, 0), (1.35, 6)])
def test_further_draws_take_three_pairs_of_forward_passes_where_they_agree_and_none_where_sigma_stays(
    sigma: float, passes: int
) -> None:
    model = Conditional(sigma)
    heads = vdvae_patch.scan(model, batch())
    handle = vdvae_patch.patch(model, posterior="explin", heads=heads)
    ruler = ruler_of(model, heads, handle)
    assert ruler is not None
    counted = []
    model.decoder.register_forward_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    for _ in range(2):  # what is known is not run again
        ruler.move(handle)
    assert len(counted) == passes


SIZES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "a sum of two means": (lambda v: v[:2].mean() + 3 * v[2:].sum(), 0.5 + 21.0),
    "a difference": (lambda v: v[:2].sum() - v[2:].sum(), 3.0 - 2.0 + 7.0 + 0.0),
    "sums by rows, and their mean": (lambda v: (v.view(2, 2).sum(1) - 4 * v.view(2, 2).mean(1)).mean(), 12.0),
    "one sum": (lambda v: v.sum(), 8.0),
    "a negative one": (lambda v: -(v.square().sum()) / 2, 15.0),
    "a logarithm of a sum": (lambda v: -v.square().sum().log(), math.log(30.0)),
    "a fused error": (lambda v: F.mse_loss(v, torch.zeros(4)) - 2 * v[2:].sum(), 7.5 + 14.0),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_a_loss_is_the_sum_of_what_its_terms_are(name: str) -> None:
    of, size = SIZES[name]

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Parameter(torch.tensor([-1.0, 2.0, 3.0, 4.0]))

        def forward(self) -> Tensor:
            return of(self.v)

    graph = recorded(Loss(), (), recorder_of=Keeper)
    assert graph.loss is not None
    assert size_of(Tail(graph, graph.loss)) == pytest.approx(size)
