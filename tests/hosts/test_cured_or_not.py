"""What scan, patch and stabilize say of a batch: finite or not, where the first value came from, and what holds."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, kl_divergence

import vdvae_patch
from vdvae_patch import PatchError

torch.manual_seed(0)
X = torch.rand(16, 8)


@pytest.fixture(autouse=True)
def _with_the_checks_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    # a first torch.compile in this process turns them off for good
    monkeypatch.setattr(Distribution, "_validate_args", True)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, raw = self.enc(x).chunk(2, 1)
        return mu, raw

    def rest(self, q: Normal, x: Tensor) -> Tensor:
        z = q.rsample()
        return ((self.dec(z) - x) ** 2).mean() + kl_divergence(
            q, Normal(torch.zeros_like(z), torch.ones_like(z))
        ).mean()


class Plain(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        z = mu + torch.randn_like(mu) * log_sigma.exp()
        return ((self.dec(z) - x) ** 2).mean() + (0.5 * (mu**2 + (2 * log_sigma).exp()) - log_sigma).mean()


class OfDistributions(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        return self.rest(Normal(mu, log_sigma.exp()), x)


class VarianceWithFloor(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, v = self.split(x)
        return self.rest(Normal(mu, (v.exp() + 1e-4).sqrt()), x)


class LogOfItsSquare(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, raw = self.split(x)
        sd = F.softplus(raw) + 1e-4
        var = sd * sd
        z = torch.randn_like(mu) * sd + mu
        return ((self.dec(z) - x) ** 2).mean() + (mu * mu + var - torch.log(var) - 1).sum(1).mean()


class SaturatedBernoulli(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        z = mu + torch.randn_like(mu) * log_sigma.exp()
        t, eps = torch.sigmoid(self.dec(z)), torch.finfo(torch.float).eps
        likelihood = (x * torch.log(t + eps) + (1 - x) * torch.log(1 - t - eps)).mean()
        return (0.5 * (mu**2 + (2 * log_sigma).exp()) - log_sigma).mean() - likelihood


class CountsDecoder(Base):
    """Poisson rates are exponentials of the decoder's output: a large σ overflows there."""

    def forward(self, x: Tensor) -> Tensor:
        mu, log_variance = self.split(x)
        out = self.dec(mu + (0.5 * log_variance).exp() * torch.randn_like(mu))
        kl = 0.5 * (mu**2 + log_variance.exp() - log_variance - 1)
        return (out.exp() - x * out).sum(1).mean() + kl.sum(1).mean()


class LearnedPrior(Base):
    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Linear(8, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (mu, lv), (pm, pl) = self.split(x), self.prior(c).chunk(2, 1)
        z = mu + (0.5 * lv).exp() * torch.randn_like(mu)
        kl = 0.5 * (pl - lv + (lv.exp() + (mu - pm) ** 2) / pl.exp() - 1)
        return ((self.dec(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


class ZeroMeanPrior(LearnedPrior):
    """σ is all that the prior's network computes."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Linear(8, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (mu, lv), pl = self.split(x), self.prior(c)
        z = mu + (0.5 * lv).exp() * torch.randn_like(mu)
        kl = 0.5 * (pl - lv + (lv.exp() + mu**2) / pl.exp() - 1)
        return ((self.dec(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


class GaussianDecoder(Base):
    def __init__(self) -> None:
        super().__init__()
        self.dec = nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        q = Normal(mu, log_sigma.exp())
        mean, log_scale = self.dec(q.rsample()).chunk(2, 1)
        kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu)))
        return kl.sum(1).mean() - Normal(mean, log_scale.exp()).log_prob(x).sum(1).mean()


def account(model: nn.Module, *inputs: object, **options: object) -> str:
    out = io.StringIO()
    vdvae_patch.stabilize(model, *inputs, file=out, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _gradients_are_finite(model: nn.Module, *inputs: Tensor) -> bool:
    model.zero_grad()
    loss = model(*inputs)
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(loss.isfinite() and all(g.isfinite().all() for g in found))


# --- the batch, as it is ----------------------------------------------------------------------------------------------


def test_a_batch_without_trouble_is_said_to_be_so() -> None:
    heads = vdvae_patch.scan(Plain(), X)
    assert heads.outcome.finite
    assert heads.outcome.gradients == 4
    assert "all 4 gradients finite" in str(heads)
    handle = vdvae_patch.patch(Plain(), posterior="explin", heads=vdvae_patch.scan(Plain(), X))
    assert handle.before is not None
    assert handle.after is not None
    assert handle.before.loss == pytest.approx(handle.after.loss, rel=5e-2)
    assert "this batch before: loss" in str(handle)


def test_rows_of_the_batch_that_are_not_finite_are_named() -> None:
    x = X.clone()
    x[3, 2], x[7] = math.nan, math.inf
    heads = vdvae_patch.scan(Plain(), x)
    assert not heads.outcome.finite
    assert heads.outcome.outside == (
        "the batch is not finite: rows 3, 7 of input 0, 1 NaN and 8 infinite of 128 values",
    )
    assert "the loss is NaN" in str(heads)
    text = account(Plain(), x)
    assert "NOT cured: the loss is NaN" in text
    assert "\nCURED" not in text


def test_where_the_batch_is_broken_no_scale_is_taken_untried() -> None:
    x, model, out = X.clone(), Plain(), io.StringIO()
    x[3, 2] = math.nan
    vdvae_patch.stabilize(model, x, file=out)
    assert "the posterior kept the host's own σ and not explin: no scale can be tried" in out.getvalue()
    assert [h.scale for h in vdvae_patch.patched_heads(model)] == [None]
    named = vdvae_patch.stabilize(Plain(), x, posterior="upbounded", file=out)
    (head,) = named.heads
    assert head.scale is not None
    assert head.before is not None
    assert math.isfinite(head.before.median)
    assert str(head.before).endswith("), 4 NaN")  # of one row


@pytest.mark.parametrize("build", [Plain, OfDistributions])
def test_weights_that_are_not_finite_are_counted_and_named(build: Callable[[], nn.Module]) -> None:
    model = build()
    with torch.no_grad():
        model.enc.weight[0, 0] = math.nan  # type: ignore[union-attr,index]
    text = account(model, X)
    assert "1 of 4 parameters are not finite (enc.weight)" in text
    assert "load an earlier checkpoint" in text
    assert "NOT cured" in text


def test_a_buffer_that_has_seen_a_nan_is_named() -> None:
    class Normalized(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8).eval()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.norm(x))

    model = Normalized()
    model.norm.running_var.fill_(math.nan)  # type: ignore[union-attr]
    assert "buffers are not finite (norm.running_var)" in str(vdvae_patch.scan(model, X))


def test_a_loss_that_no_head_causes_is_found_where_it_is_made() -> None:
    model = SaturatedBernoulli()
    with torch.no_grad():
        model.dec.bias += 40.0
    outcome = vdvae_patch.scan(model, X.round()).outcome
    assert outcome.origin is not None
    assert outcome.origin.operation.startswith("aten.log")
    assert "log(1 - t - eps)" in outcome.origin.place.text
    text = account(model, X.round())
    assert "NOT cured: enc[4:8] (posterior, explin), on this batch: the loss is NaN" in text
    assert "No scale that was tried holds. That is the log of a number below zero, or of a 1 - p whose p" in text
    assert "test_cured_or_not.py" in text


def test_of_a_probability_that_is_zero_the_remedy_is_named() -> None:
    class Saturated(Plain):
        def forward(self, x: Tensor) -> Tensor:
            p = torch.sigmoid(1000 * x)
            return super().forward(x) - (x.round() * torch.log(1 - p)).mean()

    assert "the log of zero: of a probability take the logits (F.binary_cross_entropy_with" in account(Saturated(), X)


def test_of_a_root_at_zero_the_remedy_is_named() -> None:
    class Distance(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + ((self.enc.weight - self.enc.weight.detach()) ** 2).sum().sqrt()

    assert "A root has no slope at zero: add a small number inside of it" in account(Distance(), X)


def test_the_log_of_a_negative_weight_is_found_too() -> None:
    class Weighted(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.log(x.mean() - 5.0)

    outcome = vdvae_patch.scan(Weighted(), X).outcome
    assert outcome.origin is not None
    assert "torch.log(x.mean() - 5.0)" in outcome.origin.place.text


def test_a_gradient_alone_that_is_not_finite_is_seen() -> None:
    class Root(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.dec.weight * 0).abs().sum().sqrt()

    outcome = vdvae_patch.scan(Root(), X).outcome
    assert outcome.loss is not None
    assert math.isfinite(outcome.loss)
    assert outcome.bad_gradients == ("dec.weight",)
    assert outcome.origin is not None
    assert outcome.origin.phase == "backward"


def test_nothing_is_left_behind_by_looking() -> None:
    model = OfDistributions()
    with torch.no_grad():
        model.enc.bias[4:] = -110.0
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    vdvae_patch.scan(model, X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ValueError, match="Expected parameter scale"):
        model(X)  # the checks of PyTorch are on again


# --- the error that is the symptom ------------------------------------------------------------------------------------


def test_a_scale_that_pytorch_refuses_does_not_stop_the_scan_and_is_cured() -> None:
    model = OfDistributions()
    with torch.no_grad():
        model.enc.bias[4:] = -110.0
    heads = vdvae_patch.scan(model, X)
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]
    (refused,) = heads.outcome.refused
    assert "the scale of a Normal is not positive" in refused
    assert "rows 0 to 15" in refused
    vdvae_patch.stabilize(model, X, file=io.StringIO())
    assert _gradients_are_finite(model, X)


def test_other_distributions_are_not_checked_either_while_the_call_is_watched() -> None:
    class OfLogits(Base):
        def forward(self, x: Tensor) -> Tensor:
            mu, log_sigma = self.split(x)
            q = Normal(mu, log_sigma.exp())
            likelihood = Bernoulli(logits=self.dec(q.rsample())).log_prob(x).mean()
            return kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).mean() - likelihood

    model = OfLogits()
    with torch.no_grad():
        model.enc.bias[4:] = -110.0
    assert len(vdvae_patch.scan(model, X)) == 1  # x is no boolean, which Bernoulli refuses


class Checks(Plain):
    def forward(self, x: Tensor) -> Tensor:
        loss = super().forward(x)
        assert not loss.isnan(), "the loss is gone"
        if loss.isinf():
            raise RuntimeError("loss diverged, is inf")
        return loss


@pytest.mark.parametrize("raw", [90.0, math.nan])
def test_a_host_that_checks_its_own_loss_is_scanned_up_to_there(raw: float) -> None:
    model = Checks()
    with torch.no_grad():
        model.enc.bias[4:] = raw
    heads = vdvae_patch.scan(model, X)
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]
    assert heads.outcome.raised is not None
    assert "the call ends with" in str(heads)
    if raw == 90.0:
        vdvae_patch.stabilize(model, X, file=io.StringIO())
        assert _gradients_are_finite(model, X)


def test_an_error_that_is_no_symptom_is_raised() -> None:
    class Masked(Plain):
        def forward(self, x: Tensor) -> Tensor:
            torch.full((3,), -math.inf).softmax(0)
            return super().forward(x[:, :3])

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        vdvae_patch.scan(Masked(), X)


@pytest.mark.parametrize("raw", [190.0, math.nan])
def test_an_operation_that_refuses_nan_does_not_hide_the_kl_behind_it(raw: float) -> None:
    """The usual loss: a binary cross-entropy, which PyTorch refuses to compute of NaN, and then the KL."""

    def loss(model: Plain, x: Tensor) -> Tensor:
        mu, log_variance = model.split(x)
        z = mu + torch.exp(0.5 * log_variance) * torch.randn_like(mu)
        bce = nn.functional.binary_cross_entropy(torch.sigmoid(model.dec(z)), x.sigmoid(), reduction="sum")
        return bce - 0.5 * torch.sum(1 + log_variance - mu.pow(2) - log_variance.exp())

    model = Plain()
    with torch.no_grad():
        model.enc.bias[4:] = raw
        model.dec.weight[:, 1] = -model.dec.weight[:, 0]  # inf - inf
    heads = vdvae_patch.scan(model, X, call=loss)
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]
    assert heads.outcome.loss is not None
    assert math.isnan(heads.outcome.loss)
    (refused,) = heads.outcome.refused
    assert "binary_cross_entropy was given values that are not finite" in refused
    assert "between 0 and 1" in refused
    if raw == 190.0:
        assert "\nCURED: enc[4:8]" in account(model, X, call=loss)
        loss(model, X).backward()


@pytest.mark.parametrize(
    "refusing",
    [
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: torch.poisson(x.exp()),
    ],
    ids=["bernoulli", "poisson"],
)
def test_other_operations_that_refuse_nan_do_not_either(refusing: Callable[[Tensor], Tensor]) -> None:
    class Refused(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * refusing(self.dec(self.split(x)[1].exp())).float().mean()

    model = Refused()
    with torch.no_grad():
        model.enc.bias[4:] = math.nan
    heads = vdvae_patch.scan(model, X)
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]
    assert any("refuses them" in text for text in heads.outcome.refused)


# --- pushed to where it breaks ----------------------------------------------------------------------------------------


@pytest.mark.medium
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("build", "what"),
    [(VarianceWithFloor, "bounded(alpha=0.01, "), (LogOfItsSquare, "the posterior kept the host's own σ")],
)
def test_a_floor_that_the_hosts_arithmetic_needs_is_kept(
    build: Callable[[], Base], what: str, dtype: torch.dtype
) -> None:
    model, x = build().to(dtype), X.to(dtype)
    if build is LogOfItsSquare and dtype == torch.float16:
        pytest.skip("the host's own floor squared is zero in float16")
    text = account(model, x)
    assert what in text
    assert "and not explin, with which" in text
    assert "\nCURED: enc[4:8]" in text
    for raw in (-9.0, -20.0, -60.0):
        with torch.no_grad():
            model.enc.bias[4:] = raw
        assert _gradients_are_finite(model, x)


def test_a_scale_that_was_asked_for_stays_and_the_one_that_holds_is_named() -> None:
    model = LogOfItsSquare()
    text = account(model, X, posterior="explin")
    assert "NOT cured: enc[4:8] (posterior, explin" in text
    assert "torch.log(var)" in text
    assert 'This holds: posterior="bounded(alpha=0.0001, ' in text
    assert vdvae_patch.patched_heads(model)[0].scale.name == "explin"  # type: ignore[union-attr]
    again = LogOfItsSquare()
    assert "\nCURED: enc[4:8]" in account(again, X, posterior="bounded(0.0001, 100)")


def test_a_decoder_that_a_large_sigma_overflows_gets_an_upper_bound_that_the_batch_does_not_feel() -> None:
    model = CountsDecoder()
    handle = vdvae_patch.stabilize(model, X, file=io.StringIO())
    (head,) = handle.heads
    assert head.scale is not None
    assert head.scale.name == "upbounded"
    assert handle.before is not None
    assert handle.after is not None
    assert handle.after.loss == pytest.approx(handle.before.loss, rel=1e-2)
    with torch.no_grad():
        model.enc.bias[4:] = 1000.0
    assert _gradients_are_finite(model, X)


@pytest.mark.medium
def test_a_learned_prior_that_keeps_its_sigma_is_not_cured_and_says_what_holds() -> None:
    text = account(LearnedPrior(), X, X, prior="explin")
    assert "NOT cured: prior[4:8] (prior, explin" in text
    assert 'This holds: prior="bounded(' in text
    assert "CURED: enc[4:8]" in text
    assert "\nNOT cured" not in account(LearnedPrior(), X, X)


@pytest.mark.medium
def test_a_likelihood_that_is_left_as_it_is_is_pushed_too() -> None:
    text = account(GaussianDecoder(), X)
    assert "NOT cured: dec[8:16] (likelihood, left as it is)" in text
    assert 'This holds: likelihood="downbounded(alpha=0.001)"' in text
    assert "\nNOT cured" not in account(GaussianDecoder(), X, likelihood="bounded(0.01, 10)")


@pytest.mark.medium
def test_means_that_a_layer_of_zeros_makes_equal_are_moved_apart() -> None:
    model = LearnedPrior()
    for layer in (model.enc, model.prior):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert "NOT cured: prior[4:8]" in account(model, X, X, prior="explin")


@pytest.mark.medium
def test_probing_leaves_the_model_patched_and_as_it_was() -> None:
    model = Plain()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    handle = vdvae_patch.stabilize(model, X, file=io.StringIO())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert vdvae_patch.is_patched(model)
    vdvae_patch.check_intact(model)
    torch.manual_seed(1)
    patched = model(X)
    handle.unpatch()
    torch.manual_seed(1)
    torch.testing.assert_close(patched, model(X), rtol=5e-2, atol=0)
    assert type(model) is Plain


def test_without_the_probe_it_says_so() -> None:
    text = account(Plain(), X, probe=False)
    assert "not probed" in text
    assert "CURED" not in text


# --- roles, exclusions, what cannot be patched ------------------------------------------------------------------------


@pytest.mark.medium
def test_a_prior_whose_sigma_is_all_that_its_network_computes_is_not_fixed() -> None:
    model = ZeroMeanPrior()
    text = account(model, X, X)
    assert "σ is the only thing that its network computes" in text
    prior = next(h for h in vdvae_patch.patched_heads(model) if h.head.role == "prior")
    assert prior.scale is not None
    assert prior.scale.name != "constant"


@pytest.mark.medium
def test_heads_can_be_excluded_and_their_roles_corrected() -> None:
    model = LearnedPrior()
    vdvae_patch.stabilize(model, X, X, exclude="prior", file=io.StringIO())
    assert [h.head.path for h in vdvae_patch.patched_heads(model)] == ["enc"]
    model = LearnedPrior()
    vdvae_patch.stabilize(model, X, X, roles={"prior": "posterior"}, file=io.StringIO())
    assert [(h.head.path, h.head.role) for h in vdvae_patch.patched_heads(model)] == [
        ("enc", "posterior"),
        ("prior", "posterior"),
    ]
    assert {h.scale.name for h in vdvae_patch.patched_heads(model) if h.scale} & {"constant"} == set()
    for options in ({"exclude": "nothing"}, {"roles": {"nothing": "prior"}}):
        with pytest.raises(PatchError, match="no head is at 'nothing'; there are: enc"):
            vdvae_patch.stabilize(LearnedPrior(), X, X, file=io.StringIO(), **options)  # type: ignore[arg-type]


class TwoDraws(Base):
    """The scale of a second draw is computed in a loss beside the model, with a floor that is given at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_sigma = self.split(x)
        kl = (0.5 * (mu**2 + (2 * log_sigma).exp()) - log_sigma).mean()
        return mu + torch.randn_like(mu) * log_sigma.exp(), self.other(x), kl


def two_draws(model: nn.Module, x: Tensor, floor: float) -> Tensor:
    z, other, kl = model(x)
    mean, raw = other.chunk(2, 1)
    w = mean + (raw.exp() + floor) * torch.randn_like(mean)
    out: Tensor = model.dec(z + w)  # type: ignore[operator]
    return ((out - x) ** 2).mean() + kl


def test_a_head_that_cannot_be_patched_is_left_out_with_its_reason_and_the_others_are_patched() -> None:
    model = TwoDraws()
    text = account(model, X, 0.1, call=two_draws)
    assert "NOT patched: other[4:8] (posterior, " in text
    assert "σ also depends on 'floor', an argument" in text
    assert "CURED: enc[4:8]" in text
    assert [h.head.path for h in vdvae_patch.patched_heads(model)] == ["enc"]
    with pytest.raises(PatchError, match=r"other\[4:8\]"):
        vdvae_patch.stabilize(TwoDraws(), X, 0.1, call=two_draws, exclude="enc", file=io.StringIO())


# --- a loss beside the model ------------------------------------------------------------------------------------------


class Encoder(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_sigma = self.split(x)
        return self.dec(mu + torch.randn_like(mu) * log_sigma.exp()), mu, log_sigma


def elbo(model: nn.Module, x: Tensor) -> Tensor:
    out, mu, log_sigma = model(x)
    q = Normal(mu, log_sigma.exp())
    return ((out - x) ** 2).mean() + kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).mean()


@pytest.mark.medium
@pytest.mark.parametrize("call", [elbo, lambda model, x: elbo(model, x)], ids=["function", "lambda"])
def test_a_loss_beside_the_model_is_cured_by_the_handles(call: Callable[..., Tensor]) -> None:
    model = Encoder()
    with torch.no_grad():
        model.enc.bias[4:] = -110.0
    out = io.StringIO()
    handle = vdvae_patch.stabilize(model, X, call=call, file=out)
    assert "outside of the model" in out.getvalue()
    assert "handle.loss(model, ...)" in out.getvalue()
    assert handle.loss is not None
    loss = handle.loss(model, X)
    loss.backward()
    assert float(loss) == pytest.approx(110, abs=3)
    assert model.enc.bias.grad is not None
    torch.testing.assert_close(model.enc.bias.grad[4:], torch.full((4,), -0.25), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="Expected parameter scale"):
        elbo(model, X)  # the function itself is nobody's to change


class EncoderOfNormals(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Normal]:
        mu, log_sigma = self.split(x)
        q = Normal(mu, log_sigma.exp())
        return self.dec(q.rsample()), q


def test_whether_a_loss_beside_the_model_needs_the_handles_is_measured() -> None:
    def fixed_prior(model: nn.Module, x: Tensor) -> Tensor:
        out, q = model(x)
        prior = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
        return ((out - x) ** 2).mean() + kl_divergence(q, prior).mean()

    model, out = EncoderOfNormals(), io.StringIO()
    vdvae_patch.stabilize(model, X, call=fixed_prior, file=out)
    assert "NOT cured" not in out.getvalue()
    assert "the loss as it is stays finite with it, too" in out.getvalue()
    for raw in (-1000.0, -110.0, 1000.0):
        with torch.no_grad():
            model.enc.bias[4:] = raw
        assert fixed_prior(model, X).isfinite()  # by the function itself

    out = io.StringIO()
    vdvae_patch.stabilize(Encoder(), X, call=elbo, file=out)
    assert "NOT cured by the patch alone" in out.getvalue()
    assert re.search(r"its log taken \(enc\[4:8\] .*, pushed to log σ = -\d.*: the loss is ", out.getvalue())
    model = Encoder()
    vdvae_patch.patch(model, posterior="explin", heads=vdvae_patch.scan(model, X, call=elbo))
    (note,) = (n for n in vdvae_patch.source(model).notes if "beside the model" in n)
    assert "torch.distributions.Normal takes the log of σ itself" in note


def test_a_loss_without_normals_needs_no_other() -> None:
    def by_hand(model: nn.Module, x: Tensor) -> Tensor:
        out, mu, log_sigma = model(x)
        return ((out - x) ** 2).mean() + (0.5 * (mu**2 + (2 * log_sigma).exp()) - log_sigma).mean()

    out = io.StringIO()
    handle = vdvae_patch.stabilize(Encoder(), X, call=by_hand, file=out)
    assert handle.loss is by_hand
    assert "NOT cured" not in out.getvalue()


def test_a_forward_without_a_loss_is_no_success() -> None:
    text = account(Encoder(), X)
    assert "no loss; all values are finite" in text
    assert "give your loss: call=" in text


def test_a_loss_for_each_row_is_no_loss_and_it_is_said() -> None:
    def of_each_row(model: nn.Module, x: Tensor) -> Tensor:
        out, mu, log_sigma = model(x)
        return ((out - x) ** 2).sum(1) + (0.5 * (mu**2 + (2 * log_sigma).exp()) - log_sigma).sum(1)

    said = str(vdvae_patch.scan(Encoder(), X, call=of_each_row).outcome)
    given = f"a tensor [{len(X)}] was given: of losses, return the mean"
    assert said == f"no loss, which is one number; {given}; all values are finite"


@pytest.mark.parametrize(
    ("off", "name"), [(torch.no_grad, "torch.no_grad()"), (torch.inference_mode, "inference_mode")]
)
def test_where_gradients_are_off_that_is_said(off: Callable[[], Any], name: str) -> None:
    with off():
        outcome = vdvae_patch.scan(Plain(), X).outcome
    assert name in outcome.not_differentiated


def test_a_loader_is_no_batch() -> None:
    with pytest.raises(
        vdvae_patch.PatchError, match=r"TypeError: .*; a DataLoader was given: .* next\(iter\(loader\)\)"
    ):
        vdvae_patch.scan(Plain(), torch.utils.data.DataLoader(X, 4))  # type: ignore[arg-type]


def test_a_model_that_was_loaded_gets_its_loss_again() -> None:
    model, again = Encoder(), Encoder()
    handle = vdvae_patch.stabilize(model, X, call=elbo, file=io.StringIO())
    vdvae_patch.apply(again, handle.to_json())
    loss = vdvae_patch.stable_loss(again, X, call=elbo)
    with torch.no_grad():
        again.enc.bias[4:] = -110.0
        again.enc.weight[4:] = 0
    loss(again, X).backward()
    assert again.enc.bias.grad is not None
    torch.testing.assert_close(again.enc.bias.grad[4:], torch.full((4,), -0.25), atol=1e-2, rtol=0)
    assert vdvae_patch.is_patched(again)

    def plain(model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x)[0]
        return out.square().mean()

    assert vdvae_patch.stable_loss(again, X, call=plain) is plain


# --- clamps on a line of their own, and scales that two roles share -------------------------------------------------


class ClampedApart(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        log_sigma = log_sigma.clamp(-20, 2)
        return self.rest(Normal(mu, log_sigma.exp()), x)


class BoundedInSteps(Base):
    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        log_sigma = torch.tanh(log_sigma)
        log_sigma = -5 + 3.5 * (log_sigma + 1)
        return self.rest(Normal(mu, log_sigma.exp()), x)


@pytest.mark.parametrize("build", [ClampedApart, BoundedInSteps])
@pytest.mark.parametrize("scale", ["explin", "upbounded", "bounded(0.001, 10)"])
def test_a_bounded_log_sigma_on_a_line_of_its_own_is_patched(build: Callable[[], Base], scale: str) -> None:
    model = build()
    vdvae_patch.patch(model, posterior=scale, heads=vdvae_patch.scan(model, X))  # verified
    model.zero_grad()
    for raw in (-60.0, 0.0, 60.0):
        with torch.no_grad():
            model.enc.bias[4:] = raw
        assert _gradients_are_finite(model, X)


class OneHelper(LearnedPrior):
    """One line makes the σ of both roles, safe as it is."""

    def stats(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = h.chunk(2, 1)
        return mean, 2 * torch.sigmoid(raw / 2) + 0.1

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (mu, q), (pm, p) = self.stats(self.enc(x)), self.stats(self.prior(c))
        z = mu + q * torch.randn_like(mu)
        kl = torch.log(p / q) + (q**2 + (mu - pm) ** 2) / (2 * p**2) - 0.5
        return ((self.dec(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


def test_a_host_that_holds_by_itself_is_not_made_worse() -> None:
    model = OneHelper()
    text = account(model, X, X)
    assert "kept the host's own σ" in text
    assert "\nNOT cured" not in text
    for layer in (model.enc, model.prior):
        for raw in (-1000.0, -60.0, 60.0, 1000.0):
            with torch.no_grad():
                layer.bias[4:] = raw
            assert _gradients_are_finite(model, X, X)
        with torch.no_grad():
            layer.bias[4:] = 0


@pytest.mark.medium
def test_a_loss_that_moves_is_said_with_what_keeps_it() -> None:
    text = account(LearnedPrior(), X, X, prior="constant")
    assert "the loss of this batch moves by" in text
    assert 'prior="bounded(0.001, ' in text
    model = Plain()
    with torch.no_grad():
        model.enc.bias[4:] = -2.0
        model.enc.weight[4:] *= 0.1
    assert "moves by" not in account(model, X)


# --- what the batch shows already -------------------------------------------------------------------------------------


class LogOfASquare(Base):
    """Takes the log of σ² itself, without a floor: inf as soon as the square underflows."""

    def forward(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.split(x)
        var = log_sigma.exp() ** 2
        z = mu + var.sqrt() * torch.randn_like(mu)
        return ((self.dec(z) - x) ** 2).mean() + 0.5 * (mu**2 + var - torch.log(var) - 1).mean()


@pytest.mark.medium
@pytest.mark.parametrize("raw", [-60.0, -1000.0])
def test_a_batch_that_is_broken_already_gets_the_scale_that_holds(raw: float) -> None:
    model = LogOfASquare()
    with torch.no_grad():
        model.enc.weight[4:] = 0
        model.enc.bias[4:] = raw
    text = account(model, X)
    assert "\nCURED: enc[4:8] (posterior, bounded(" in text
    assert "and not explin, with which" in text
    assert _gradients_are_finite(model, X)


@pytest.mark.medium
def test_a_host_that_checks_its_loss_is_pushed_all_the_same() -> None:
    class Strict(LogOfASquare):
        def forward(self, x: Tensor) -> Tensor:
            loss = super().forward(x)
            assert loss.isfinite(), "the loss is gone"
            return loss

    text = account(Strict(), X)
    assert "\nCURED: enc[4:8] (posterior, bounded(" in text
    text = account(Strict(), X, posterior="explin")
    assert "NOT cured: enc[4:8] (posterior, explin" in text
    assert "the call ends with AssertionError: the loss is gone" in text


class SameMeans(LearnedPrior):
    """The means are one, so that nothing but the ratio of the two σ is left of the KL."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (delta, q), (pm, p) = self.split(x), self.prior(c).chunk(2, 1)
        mu = pm + 0.0 * delta
        z = mu + q.exp() * torch.randn_like(mu)
        kl = p - q + 0.5 * ((2 * (q - p)).exp() + ((mu - pm) * (-p).exp()) ** 2) - 0.5
        return ((self.dec(z) - x) ** 2).mean() + kl.sum(1).mean()


@pytest.mark.medium
def test_heads_that_hold_together_are_pushed_one_by_one_too() -> None:
    text = account(SameMeans(), X, X, posterior="bounded(1e-30, 1)", prior="bounded(1e-30, 1)")
    assert "NOT cured: prior[4:8] (prior, bounded" in text


@pytest.mark.medium
def test_a_scale_that_a_host_cannot_have_is_passed_over_and_the_model_stays_patched() -> None:
    model = OneHelper()
    handle = vdvae_patch.stabilize(model, X, X, posterior="explin", prior="explin", file=io.StringIO())
    assert vdvae_patch.is_patched(model)
    handle.unpatch()
    assert type(model) is OneHelper


def test_a_call_that_raises_while_a_patch_is_looked_at_leaves_the_model_as_it_was() -> None:
    calls = SimpleQueue[None]()  # what a call appends to a list is taken out again

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        calls.put(None)
        if calls.qsize() > 3:  # the scan, the raw values and the verification went well
            raise KeyError("no more")
        return elbo(model, x)

    model = Encoder()
    heads = vdvae_patch.scan(model, X, call=loss)
    with pytest.raises(KeyError, match="no more"):
        vdvae_patch.patch(model, posterior="explin", heads=heads)
    assert calls.qsize() == 4
    assert not vdvae_patch.is_patched(model)
    assert type(model) is Encoder


class Gate(nn.Module):
    """The logarithm of a gate that a draw closes, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, 1)
        z = mean + log_sigma.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma
        return kl.mean() - torch.sigmoid(-z).log().mean()


def test_what_one_draw_of_the_noise_would_miss_is_no_cure() -> None:
    torch.manual_seed(0)
    model, said = Gate(), io.StringIO()
    torch.manual_seed(next(s for s in range(9) if torch.randn(1, generator=torch.Generator().manual_seed(s)) < 0))
    vdvae_patch.stabilize(model, torch.ones(1, 2), posterior="explin", file=said)
    assert "NOT cured: encoder[1:2] (posterior, explin), pushed to log σ = 1000" in said.getvalue()
