"""One layer that gives a posterior's σ and a prior's is two heads, by calls or by slices of one, and gets one patch."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdvae_patch import stabilize
from vdvae_patch.errors import PatchError
from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def draw(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (log_var + (z - mean) ** 2 / log_var.exp() + math.log(2 * math.pi))


def kl(m: Tensor, v: Tensor, mp: Tensor, vp: Tensor) -> Tensor:
    return 0.5 * (vp - v + (v.exp() + (m - mp) ** 2) / vp.exp() - 1).sum(-1)


class Code(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec, self.pseudo = nn.Linear(6, 8), nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6))

    def law(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.enc(x).chunk(2, -1)

    def laws(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.law(x), self.law(c)

    def rate(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        return kl(*q, *p)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        q, p = self.laws(x, c)
        z = draw(*q)
        return F.mse_loss(self.dec(z), x) + self.rate(z, q, p).mean()


class OfLearnedInputs(Code):
    """A VampPrior."""

    def laws(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.law(x), self.law(self.pseudo)

    def rate(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        mixture = torch.logsumexp(log_normal(z[:, None], *(v[None] for v in p)).sum(2), 1) - math.log(3)
        return log_normal(z, *q).sum(1) - mixture


class OfOtherRows(OfLearnedInputs):
    """A mixture of what the layer says of other rows, in one call."""

    def laws(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        both = self.enc(torch.cat([x, c[:3]]))
        return both[: len(x)].chunk(2, 1), both[len(x) :].chunk(2, 1)


class OfOtherSentences(OfLearnedInputs):
    """A mixture of what the layer says of other sentences, read by a recurrent network in a call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.LSTM(2, 6, batch_first=True)

    def law(self, x: Tensor) -> tuple[Tensor, ...]:
        lengths = torch.tensor([3] * (len(x) // 2) + [2] * (len(x) - len(x) // 2))
        packed = nn.utils.rnn.pack_padded_sequence(x.unflatten(1, (3, 2)), lengths, batch_first=True)
        _, (h, c) = self.read(packed)
        return self.enc(h[0] + c[0]).chunk(2, -1)

    def laws(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.law(x), self.law(c[:3])


class OfFewerPoints(Code):
    """A neural process, target and context stacked."""

    def laws(self, x: Tensor, c: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        both = self.enc(torch.stack([x, c]))
        return both[0].chunk(2, 1), both[1].chunk(2, 1)


class OfAnEarlierTime(Code):
    """What is inferred of the earlier time from a later draw is measured against the law at that time, as of TD-VAE."""

    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Linear(10, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        q, earlier = self.law(x), self.law(c)
        z = draw(*q)
        inferred = self.back(torch.cat([z, c], 1)).chunk(2, 1)
        return F.mse_loss(self.dec(z), x) + kl(*inferred, *earlier).mean() + log_normal(z, *q).sum(1).mean()


BOTH = {("enc", "4:8", "posterior"), ("enc", "4:8", "prior")}


@pytest.mark.parametrize("cls", [OfLearnedInputs, OfOtherRows, OfOtherSentences, OfFewerPoints, OfAnEarlierTime])
def test_a_layer_of_two_roles_is_two_heads_of_which_a_patch_is_one(cls: type[Code]) -> None:
    model, batch = cls(), torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    heads = scan(model, *batch)
    found = {(h.path, h.channels, h.role) for h in heads}
    assert found - {("back", "4:8", "posterior")} == BOTH
    assert any(note.startswith("enc[4:8] gives the σ of the posterior and of the prior") for note in heads.notes)
    handle = patch(model, "explin", heads=heads)  # verified: each σ in use is explin's
    assert {str(h.scale) for h in handle.heads} == {"explin(gain=0.5)"}


def test_slices_of_one_call_take_one_scale_and_two_are_refused_with_the_reason() -> None:
    model, batch = OfFewerPoints(), torch.randn(2, 9, 6)
    heads = scan(model, *batch)
    assert any("one scale serves both" in note for note in heads.notes)
    with pytest.raises(PatchError, match=r"emits the posterior and the prior, .* cannot be told apart"):
        patch(model, "explin/constant", heads=heads)


@pytest.mark.medium
def test_a_prior_of_the_posteriors_layer_is_not_fixed() -> None:
    said = io.StringIO()
    handle = stabilize(OfFewerPoints(), *torch.randn(2, 9, 6), probe=False, file=said)
    assert "the prior's σ is not fixed: enc gives the posterior's, too" in said.getvalue()
    assert all(h.scale is None or h.scale.name != "constant" for h in handle.heads)


class Predicted(Code):
    """A code, kept near N(0, 1), and a predictor of it whose KL has its arguments exchanged; nothing is drawn of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = nn.Linear(6, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m, v = self.law(x)
        predicted = self.ahead(c).chunk(2, 1)
        known = kl(m, v, torch.zeros_like(m), torch.zeros_like(v))
        return F.mse_loss(self.dec(draw(m, v)), x) + (known + kl(*predicted, m.detach(), v.detach())).mean()


def test_what_predicts_a_code_is_a_prior_and_its_exchanged_kl_says_nothing_of_the_bound() -> None:
    heads = scan(Predicted(), *torch.randn(2, 9, 6))
    assert {h.path: h.role for h in heads} == {"enc": "posterior", "ahead": "prior"}
    assert "has a prior first, so that how often the KL counts is not told" in heads.elbo.reason


class KeptNearUnit(Code):
    """A lower prior, which is drawn nowhere, has a KL to N(0, 1) of its own, a slip."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Linear(4, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m, v = self.law(x)
        z = draw(m, v)
        unit = torch.zeros_like(m), torch.zeros_like(v)
        return F.mse_loss(self.dec(z), x) + (kl(m, v, *unit) + kl(*self.prior(z).chunk(2, 1), *unit)).mean()


def test_what_is_drawn_nowhere_and_sees_the_code_alone_is_a_prior_though_a_kl_has_it_first() -> None:
    heads = scan(KeptNearUnit(), *torch.randn(2, 9, 6))
    assert {h.path: h.role for h in heads} == {"enc": "posterior", "prior": "prior"}


class Moved(Code):
    """A code is moved on by a drift and noise of its own, with or without a look at the data."""

    def __init__(self, sees: bool) -> None:
        super().__init__()
        self.sees, self.drift, self.spread = sees, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m, v = self.law(x)
        z = draw(m, v)
        for _ in range(3):
            drift = self.drift(z + x[:, :4]) if self.sees else self.drift(z)
            z = z + 0.1 * drift + torch.exp(self.spread(z)) * 0.3 * torch.randn_like(z)
        return F.mse_loss(self.dec(z), x) + kl(m, v, torch.zeros_like(m), torch.zeros_like(v)).mean()


@pytest.mark.parametrize(("sees", "role"), [(False, "prior"), (True, "posterior")])
def test_noise_that_moves_a_code_by_itself_is_a_priors_and_a_posteriors_if_the_drift_sees_data(
    sees: bool, role: str
) -> None:
    heads = scan(Moved(sees), *torch.randn(2, 9, 6))
    assert {h.path: h.role for h in heads} == {"enc": "posterior", "spread": role}


class Rung(nn.Module):
    """A posterior is merged with what the code above gives: its prior, or a part of it beside a prior of its own. No KL
    has the former, and a sample's density the latter."""

    def __init__(self, own_prior: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own_prior = own_prior
        self.top, self.low, self.down, self.prior = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).chunk(2, 1)
        above = draw(*top)
        (m, v), (md, vd) = self.low(x).chunk(2, 1), self.down(above).chunk(2, 1)
        variance = 1 / (torch.exp(-v) + torch.exp(-vd))
        z = variance * (m * torch.exp(-v) + md * torch.exp(-vd)) + variance.sqrt() * torch.randn_like(m)
        known = kl(*top, torch.zeros_like(above), torch.zeros_like(above))
        if self.own_prior:
            known = known - log_normal(z, *self.prior(above).chunk(2, 1)).sum(1)
        return F.mse_loss(self.dec(z), x) + known.mean()


@pytest.mark.parametrize(("own_prior", "role"), [(False, "prior"), (True, "posterior")])
def test_what_a_rung_is_merged_with_is_its_prior_and_a_part_of_it_beside_a_prior_of_its_own(
    own_prior: bool, role: str
) -> None:
    found = {h.path: h.role for h in scan(Rung(own_prior), torch.randn(9, 6))}
    assert found.pop("prior", "prior") == "prior"
    assert found == {"top": "posterior", "low": "posterior", "down": role}


class LevelDecodedByMistake(nn.Module):
    """Two levels; the lower prior's draw is decoded in the place of the posterior's."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.low, self.prior, self.dec = nn.Linear(6, 8), nn.Linear(10, 8), nn.Linear(4, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).chunk(2, 1)
        z = draw(*top)
        q, p = self.low(torch.cat([x, z], 1)).chunk(2, 1), self.prior(z).chunk(2, 1)
        draw(*q)
        known = kl(*top, torch.zeros_like(z), torch.zeros_like(z))
        return F.mse_loss(self.dec(draw(*p)), x) + (known + kl(*q, *p)).mean()


def test_what_knows_the_data_by_the_code_above_alone_is_a_prior_though_its_draw_is_decoded() -> None:
    heads = scan(LevelDecodedByMistake(), torch.randn(9, 6))
    assert {h.path: h.role for h in heads} == {"top": "posterior", "low": "posterior", "prior": "prior"}


class SelfJudged(Code):
    """An encoder that is given what the model makes of its codes, and of noise, to tell it from data: IntroVAE's."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m, v = self.law(x)
        z = draw(m, v)
        made, of_noise = self.dec(z), self.dec(torch.randn_like(z))
        known = self.to_unit(m, v).mean()
        return F.mse_loss(made, x) + known + self.judged(made.detach()) + self.judged(of_noise)

    def to_unit(self, m: Tensor, v: Tensor) -> Tensor:
        return kl(m, v, torch.zeros_like(m), torch.zeros_like(v))

    def judged(self, made: Tensor) -> Tensor:
        return F.relu(30 - self.to_unit(*self.law(made)).mean())


class SoftlyJudged(SelfJudged):
    """By the exponential of the KL, row by row, as soft IntroVAE's."""

    def judged(self, made: Tensor) -> Tensor:
        return (-2 * self.to_unit(*self.law(made))).exp().mean()


class JudgedByClasses(SelfJudged):
    """By classes of torch.distributions, of σ itself."""

    def law(self, x: Tensor) -> tuple[Tensor, ...]:
        m, v = self.enc(x).chunk(2, -1)
        return m, F.softplus(v).square().log()

    def to_unit(self, m: Tensor, v: Tensor) -> Tensor:
        q = torch.distributions.Normal(m, (v / 2).exp())
        unit = torch.distributions.Normal(torch.zeros_like(m), torch.ones_like(m))
        return torch.distributions.kl_divergence(q, unit).sum(1)


@pytest.mark.parametrize("cls", [SelfJudged, SoftlyJudged, JudgedByClasses])
def test_an_encoder_that_judges_what_the_model_makes_is_the_posterior_still(cls: type[Code]) -> None:
    heads = scan(cls(), *torch.randn(2, 9, 6))
    assert [(h.path, h.role) for h in heads] == [("enc", "posterior")]
    assert not any("gives the σ of" in note for note in heads.notes)


class Labelled(Code):
    """A label is drawn and decoded where it is not known; where it is, it has a density."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.label = form, nn.Linear(6, 2)
        self.of_label = nn.Linear(1, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m, v = self.law(x)
        y, w = self.label(x).chunk(2, 1)
        drawn = draw(y, w)
        z = draw(m, v)
        guess = self.of_label(drawn)
        if self.form == "decoded":
            z, guess = z + guess, torch.zeros_like(z)
        rows = slice(0, 4) if self.form == "some rows" else slice(None)
        density = -log_normal(c[rows, :1], y[rows], w[rows]).mean()
        return F.mse_loss(self.dec(z), x) + kl(m, v, guess, torch.zeros_like(v)).mean() + density


@pytest.mark.parametrize("form", ["all rows", "some rows", "decoded"])
def test_a_label_that_is_drawn_for_a_network_and_has_a_density_is_likely_a_likelihoods_and_both_are_told(
    form: str,
) -> None:
    heads = scan(Labelled(form), *torch.randn(2, 9, 6))
    (label,) = (h for h in heads if h.path == "label")
    assert label.found is not None
    assert (label.role, label.found.confidence) == ("likelihood", "likely")
    assert any(note.startswith("label[1:2] is in a density of the data, as a likelihood's σ") for note in heads.notes)
