"""With `keep`, a patch changes a trained model's σ as little as its scale allows."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import patch, patched_heads, scales, scan
from vdvae_patch.conventions import Convention
from vdvae_patch.heads import Head
from vdvae_patch.patching import watch
from vdvae_patch.patching.fit import Spread, fitted

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class VAE(nn.Module):
    """Trained, as far as its σ is concerned: its raw values are where a training would have put them."""

    def __init__(self, to_sigma: Callable[[Tensor], Tensor], bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec, self.to_sigma = nn.Linear(8, 8), nn.Linear(4, 8), to_sigma
        with torch.no_grad():
            self.enc.bias[4:] = bias

    def forward(self, x: Tensor) -> Tensor:
        mu, v = self.enc(x).chunk(2, 1)
        sigma = self.to_sigma(v)
        self.sigma = sigma.detach()
        z = mu + sigma * torch.randn_like(mu)
        return ((self.dec(z) - x) ** 2).sum() + 0.5 * (mu**2 + sigma**2 - 2 * torch.log(sigma) - 1).sum()

    def loss(self) -> float:
        torch.manual_seed(1)
        return float(self(X))


EXPONENTIALS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "log sigma": (lambda v: v.exp(), -3.0),
    "log variance": (lambda v: (0.5 * v).exp(), -8.0),
    "root of a variance": (lambda v: v.exp().sqrt(), -8.0),
    "with an offset": (lambda v: (v - 6).exp(), 0.0),
    "log precision": (lambda v: (-0.5 * v).exp(), 8.0),
    "clamped": (lambda v: (0.5 * v.clamp(-30, 20)).exp(), -17.0),
    "with a factor": (lambda v: 0.1 * v.exp(), -2.0),
    "base two": (lambda v: 2**v, -4.0),
}
OTHERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "softplus": (F.softplus, -2.0),
    "softplus with a floor": (lambda v: F.softplus(v) + 1e-4, -4.0),
    "variance with a floor": (lambda v: (v.exp() + 1e-4).sqrt(), -6.0),
    "softplus of beta": (lambda v: F.softplus(v, beta=0.6931), -2.0),
    "sigmoid": (lambda v: 2 * torch.sigmoid(v), -2.0),
    "soft clamp": (lambda v: (5 * torch.tanh(v / 5)).exp() + 1e-2, -2.0),
}


@pytest.mark.parametrize("name", EXPONENTIALS)
@pytest.mark.parametrize("scale", ["explin", "upbounded", "exp"])
def test_the_scale_is_the_hosts_own_function_where_that_was_safe(name: str, scale: str) -> None:
    model = VAE(*EXPONENTIALS[name])
    before, sigma = model.loss(), model.sigma
    assert float(sigma.max()) < 0.5
    heads = scan(model, X)
    if (scale, name) in {("exp", "log sigma"), ("exp", "log variance")}:
        return  # it is what the host computes, and the patch says that it changes nothing
    patch(model, posterior=scale, heads=heads)
    after = model.loss()
    torch.testing.assert_close(model.sigma, sigma, rtol=2e-5, atol=0)
    assert after == pytest.approx(before, rel=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize("name", [*EXPONENTIALS, *OTHERS])
@pytest.mark.parametrize("scale", ["explin", "upbounded", "softplus", "downbounded(0.0001)", "bounded(0.0001, 2)"])
def test_the_loss_at_the_moment_of_patching_moves_by_less_than_a_hundredth(name: str, scale: str) -> None:
    model = VAE(*{**EXPONENTIALS, **OTHERS}[name])
    before, sigma = model.loss(), model.sigma
    patch(model, posterior=scale, heads=scan(model, X), paper=False)
    assert model.loss() == pytest.approx(before, rel=1e-2)
    torch.testing.assert_close(model.sigma.median(), sigma.median(), rtol=2e-3, atol=0)


class Hierarchical(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.p, self.dec = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 8)
        with torch.no_grad():
            self.q.bias[4:], self.p.bias[4:] = -6.0, -1.0

    def forward(self, x: Tensor) -> Tensor:
        mq, lq = self.q(x).chunk(2, 1)
        mp, lp = self.p(x.roll(1, 1)).chunk(2, 1)
        q, p = Normal(mq, (0.5 * lq).exp()), Normal(mp, F.softplus(lp))
        self.sigmas = q.scale.detach(), p.scale.detach()
        return ((self.dec(q.rsample()) - x) ** 2).sum() + kl_divergence(q, p).sum()


def test_each_role_is_fitted_by_itself_and_the_table_shows_sigma_before_and_after() -> None:
    model = Hierarchical()
    model(X)
    before = model.sigmas
    handle = patch(model, "explin/upbounded(omega=8)", heads=scan(model, X), paper=False)
    model(X)
    for now, then in zip(model.sigmas, before, strict=True):
        torch.testing.assert_close(now.median(), then.median(), rtol=1e-3, atol=0)
    head = handle.heads[0]
    assert str(head.scale) == "explin(gain=0.5)"
    assert head.before is not None
    assert head.before.median == pytest.approx(np.median(before[0].numpy()), rel=1e-5)
    assert (head.before.low, head.before.high) == pytest.approx(
        (float(before[0].min()), float(before[0].max())), rel=1e-5
    )
    text = str(patched_heads(model))
    assert "σ before" in text
    assert "σ after" in text
    assert str(head.before) in text


def test_the_extremes_of_sigma_are_those_of_a_batch_of_any_size_and_its_last_row_counts_as_its_first() -> None:
    torch.manual_seed(0)
    model = VAE(torch.exp, 0.0)
    model.enc, model.dec = nn.Linear(8, 1400), nn.Linear(700, 8)
    x = 0.1 * torch.randn(101, 8)
    x[-1] *= 60
    model(x)
    before = model.sigma.double().numpy()
    handle = patch(model, "upbounded", heads=scan(model, x))
    model(x)
    for found, used in zip(
        (handle.heads[0].before, handle.heads[0].after), (before, model.sigma.double().numpy()), strict=True
    ):
        assert found is not None
        assert (found.median, found.low, found.high) == pytest.approx(
            (np.median(used), used.min(), used.max()), rel=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", [[3.0, 1, 4, 2], [3.0, 1, 2], [math.inf, 1, math.inf, 1], [1.0, math.nan, 4]])
def test_the_median_of_an_even_count_is_the_mean_of_the_middle_two(values: list[float], dtype: torch.dtype) -> None:
    found = Spread.of(torch.tensor(values, dtype=dtype))
    known = [value for value in values if not math.isnan(value)]
    assert (found.median, found.low, found.high) == (statistics.median(known), min(known), max(known))
    assert found.nans == len(values) - len(known)


def test_as_in_the_paper_the_formula_is_of_the_raw_value_and_a_scale_with_its_own_argument_always_is() -> None:
    model = VAE(*EXPONENTIALS["log variance"])
    raw = model.enc(X)[:, 4:]
    with patch(model, posterior="explin", heads=scan(model, X), paper=True):
        model(X)
        torch.testing.assert_close(model.sigma, scales.get("explin").sigma(raw))
    with patch(model, posterior="explin(gain=2, shift=1)", heads=scan(model, X)):
        model(X)
        torch.testing.assert_close(model.sigma, scales.get("explin").sigma(2 * raw + 1))


def test_a_constant_is_a_constant() -> None:
    model = VAE(*EXPONENTIALS["log variance"])
    patch(model, posterior="constant(0.3)", heads=scan(model, X))
    model(X)
    torch.testing.assert_close(model.sigma, torch.full_like(model.sigma, 0.3))


def test_heads_that_somebody_wrote_down_are_fitted_by_their_convention() -> None:
    model = VAE(*EXPONENTIALS["log variance"])
    before = model.loss()
    patch(model, posterior="explin", heads=[Head("enc", "posterior", 4, 8, convention="log_variance")])
    assert model.loss() == pytest.approx(before, rel=1e-6)


def test_a_named_host_of_the_paper_keeps_the_papers_formula() -> None:
    scale = scales.get("upbounded")
    assert fitted(Head("enc", "posterior", paper=True), scale, torch.zeros(3), "all") == scale
    assert str(fitted(Head("enc", "posterior"), scale, torch.zeros(3), "all")) == "upbounded(shift=0.693147)"


@pytest.mark.parametrize("name", ["log variance", "clamped", "soft clamp"])
def test_a_watched_head_shows_the_log_of_the_sigma_that_the_patched_model_computes(name: str) -> None:
    """Whether the raw value is exchanged where its module gives it, or behind, where the host has bounded it."""
    model = VAE(*(EXPONENTIALS | OTHERS)[name])
    heads = scan(model, X)
    patch(model, posterior="downbounded(0.5)", heads=heads)
    seen: list[Tensor] = []
    with watch.each_log_sigma(model, heads, lambda index, log_sigma: seen.append(log_sigma)):
        model(X)
    torch.testing.assert_close(seen[0], model.sigma.log())
    assert (model.sigma > 0.5).all()


class OffsetLogSigma(Convention):
    """σ = exp(v / 2 − 3)."""

    def sigma(self, v: Tensor) -> Tensor:
        return self.log_sigma(v).exp()

    def log_sigma(self, v: Tensor) -> Tensor:
        return 0.5 * v - 3

    def preimage(self, scale: scales.Scale, p: Tensor) -> Tensor:
        return 2 * (scale.log_sigma(p) + 3)


@pytest.mark.parametrize("scale", ["clamp", "softplus(0.25)", "upbounded"])
def test_without_a_batch_the_offset_of_the_hosts_log_sigma_goes_through_the_scales_own_gain(scale: str) -> None:
    convention = OffsetLogSigma()
    kept = fitted(Head("enc", "posterior", convention=convention), scales.get(scale), None, "all")
    assert kept is not None
    v = torch.linspace(-20, -12, 9, dtype=torch.float64)
    torch.testing.assert_close(kept.sigma(v), convention.sigma(v), rtol=1e-3, atol=0)


def test_raw_values_that_are_not_finite_do_not_stop_the_patch() -> None:
    model = VAE(*EXPONENTIALS["log variance"])
    heads = scan(model, X)
    with torch.no_grad():
        model.enc.bias[4] = torch.nan
    handle = patch(model, posterior="explin", heads=heads)
    assert str(handle.heads[0].scale) == "explin(gain=0.5)"
    assert str(handle.heads[0].before).endswith("), 256 NaN")


@pytest.mark.parametrize("spec", ["explin(gain=0.5, shift=-6)", "upbounded(omega=2, gain=-1)", "softplus(shift=0.25)"])
def test_a_scale_with_an_argument_is_a_scale(spec: str) -> None:
    scale = scales.get(spec)
    assert scales.get(str(scale)) == scale
    assert hash(scales.get(str(scale))) == hash(scale)
    p = torch.linspace(-3.1, 3, 13, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(scale.sigma(p).log(), scale.log_sigma(p))
    torch.testing.assert_close(scale.inverse(scale.sigma(p)), p)
    assert torch.autograd.gradcheck(scale.log_sigma, (p,))
    assert torch.autograd.gradgradcheck(scale.log_sigma, (p,))
    assert scale.sigma(p.half()).dtype == torch.float16


class OfTwoRoles(VAE):
    """The decoder has a σ, too; of an argument, where `bounded` is set, so that no scale can be put there."""

    def __init__(self, bounded: bool) -> None:
        super().__init__(*EXPONENTIALS["log variance"])
        self.spread, self.bounded = nn.Linear(8, 8), bounded

    def forward(self, x: Tensor, floor: float = 0.1) -> Tensor:
        rest = super().forward(x)
        raw = self.spread(x).chunk(1)[0]
        sigma = F.softplus(raw) * floor + floor if self.bounded else F.softplus(raw)
        return rest - Normal(0 * x, sigma).log_prob(x).mean()


@pytest.mark.parametrize("bounded", [False, True])
def test_a_head_that_is_left_as_it_is_shows_its_sigma_and_hides_no_others(bounded: bool) -> None:
    torch.manual_seed(0)
    model = OfTwoRoles(bounded)
    heads = scan(model, X)
    with torch.no_grad():
        sigma = F.softplus(model.spread(X))
    handle = patch(model, posterior="explin", heads=heads)
    of = {h.head.role: h for h in handle.heads}
    assert of["posterior"].before is not None
    assert (left := of["likelihood"]).scale is None
    if bounded:  # nothing can be put there that would see it
        assert left.before is left.after is None
    else:
        assert str(left.before) == str(left.after) == str(Spread.of(sigma))
        assert str(handle).count(str(left.before)) == 2
