"""The bound of a loss that adds up those of several codes: each code's KL counts beside its own comparisons."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

import vdvae_patch
from vdvae_patch.scanning import scan

Law = tuple[Tensor, Tensor]


def kl(m: Tensor, v: Tensor) -> Tensor:
    return 0.5 * (v.exp() + m**2 - 1 - v).sum(1).mean()


def draw(m: Tensor, v: Tensor) -> Tensor:
    return m + torch.exp(0.5 * v) * torch.randn_like(m)


def merged(*laws: Law) -> Law:
    """The product of experts, N(0, 1) among them."""
    precisions = [torch.exp(-v) for _, v in laws]
    whole = 1 + sum(precisions)
    return sum(m * p for (m, _), p in zip(laws, precisions, strict=True)) / whole, -torch.log(whole)


class TwoKinds(nn.Module):
    """Data of two kinds, `a` and `b`, each with a σ of its own that all codes share."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.of_a, self.of_b, self.of_both = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(9, 6)
        self.to_a, self.to_b = nn.Linear(3, 5), nn.Linear(3, 4)
        self.log_a, self.log_b = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(4))

    def codes(self, a: Tensor, b: Tensor) -> Iterator[tuple[Law, str, float]]:
        """Each code's law, what is decoded of it, and the weight of its bound."""
        qa, qb = (net(x).chunk(2, 1) for net, x in ((self.of_a, a), (self.of_b, b)))
        both = self.of_both(torch.cat([a, b], 1)).chunk(2, 1)
        yield from {
            "each decoded to both": [(qa, "ab", 1.0), (qb, "ab", 1.0)],
            "averaged over codes": [(qa, "ab", 0.5), (qb, "ab", 0.5)],
            "a joint one and each": [(both, "ab", 1.0), (qa, "a", 1.0), (qb, "b", 1.0)],
            "merged and each": [(merged(qa, qb), "ab", 1.0), (merged(qa), "a", 1.0), (merged(qb), "b", 1.0)],
            "merged, and each alone": [(merged(qa, qb), "ab", 1.0), (qa, "a", 1.0), (qb, "b", 1.0)],
            "a joint one and each for little": [(both, "ab", 1.0), (qa, "a", 0.1), (qb, "b", 0.1)],
        }[self.form]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        loss = torch.zeros(())
        for law, kinds, weight in self.codes(a, b):
            z = draw(*law)
            loss = loss + weight * kl(*law)
            for kind in kinds:
                x, net, log = (a, self.to_a, self.log_a) if kind == "a" else (b, self.to_b, self.log_b)
                loss = loss - weight * Normal(net(z), log.exp()).log_prob(x).sum(1).mean()
        return loss


class Crops(TwoKinds):
    """Two views of the data, each with its code, and the loss their mean."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        loss = torch.zeros(())
        for x in (a, a.roll(1, 1)):
            law = self.of_a(x).chunk(2, 1)
            bound = kl(*law) - Normal(self.to_a(draw(*law)), self.log_a.exp()).log_prob(x).sum(1).mean()
            loss = loss + bound / 2
        return loss


class Samples(TwoKinds):
    """Three draws of one code, whose densities are averaged, or added up by mistake."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        law = self.of_a(a).chunk(2, 1)
        loss = kl(*law)
        for _ in range(3):
            seen = Normal(self.to_a(draw(*law)), self.log_a.exp()).log_prob(a).sum(1).mean()
            loss = loss - (seen if self.form == "added up" else seen / 3)
        return loss


CASES: list[tuple[Callable[[str], nn.Module], str, float]] = [
    (TwoKinds, "each decoded to both", 1),
    (TwoKinds, "averaged over codes", 1),
    (TwoKinds, "a joint one and each", 1),
    (TwoKinds, "merged and each", 1),
    (TwoKinds, "merged, and each alone", 1),
    (Crops, "averaged", 1),
    (Samples, "averaged", 1),
    (Samples, "added up", 1 / 3),
]
DATA = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.ones(6, 4)


@pytest.mark.parametrize(("build", "form", "beta"), CASES)
def test_a_learned_sigma_of_several_comparisons_is_each_ones_own(
    build: Callable[[str], nn.Module], form: str, beta: float
) -> None:
    elbo = scan(build(form), *DATA).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "Gaussian density"
    assert elbo.beta == pytest.approx(beta, rel=1e-6)


def test_bounds_of_different_weights_are_told_and_no_number() -> None:
    elbo = scan(TwoKinds("a joint one and each for little"), *DATA).elbo
    assert not elbo
    assert "the factors on the KL differ between elements, so that how often the KL counts is not told" in elbo.reason


class PartToo(nn.Module):
    """A code is merged of what sees the data and of its prior, and both have half of a KL to the prior, as pi-VAE's."""

    def __init__(self, part: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part, self.enc, self.prior, self.dec = part, nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(3, 5)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        (m, v), (mp, vp) = self.enc(x).chunk(2, 1), self.prior(c).chunk(2, 1)
        log_var = v + vp - torch.log(v.exp() + vp.exp())
        mean = m / (1 + torch.exp(v - vp)) + mp / (1 + torch.exp(vp - v))
        z = draw(mean, log_var)
        seen = -Normal(self.dec(z), torch.ones(5)).log_prob(x).sum(1).mean()
        return seen + (1 - self.part) * self.to_prior(mean, log_var, mp, vp) + self.part * self.to_prior(m, v, mp, vp)

    def to_prior(self, m: Tensor, v: Tensor, mp: Tensor, vp: Tensor) -> Tensor:
        return 0.5 * (vp - v + (v.exp() + (m - mp) ** 2) / vp.exp() - 1).sum(1).mean()


@pytest.mark.parametrize("part", [0.5, 0.2])
def test_how_often_the_kl_counts_is_not_told_where_a_part_of_the_code_has_one_too(part: float) -> None:
    elbo = scan(PartToo(part), *DATA).elbo
    assert not elbo
    assert "is of a part of what is merged into one code, which has a KL, too" in elbo.reason


class JoinedFirst(nn.Module):
    """Three encoders, whose means and log variances are joined before anything is drawn or measured."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders, self.decoder = nn.ModuleList(nn.Linear(8, 4) for _ in range(3)), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        parts = [encoder(x).chunk(2, dim=1) for encoder in self.encoders]
        mean, log_variance = (torch.cat(given, dim=1) for given in zip(*parts, strict=True))
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return ((self.decoder(z) - x) ** 2).sum(1).mean() + kl.sum(1).mean()


def test_latents_of_several_layers_that_are_joined_first_are_not_said_to_have_no_kl() -> None:
    elbo = scan(JoinedFirst(), torch.randn(16, 8, generator=torch.Generator().manual_seed(1))).elbo
    assert elbo.kl_factor == pytest.approx(1 / 16)
    assert not any("have no KL here" in note for note in elbo.notes)


class ImportanceWeighted(nn.Module):
    """The bound of Burda et al., eq. 8, of five draws; a Bernoulli's log likelihood times `weight`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.encoder, self.decoder = weight, nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        noise = torch.randn(5, *mean.shape)
        z = mean + torch.exp(0.5 * log_variance) * noise
        error = F.binary_cross_entropy_with_logits(self.decoder(z), self.data(x).expand(5, -1, -1), reduction="none")
        prior_over_posterior = (0.5 * (noise**2 - z**2) + 0.5 * log_variance.expand_as(z)).sum(-1)
        return -torch.logsumexp(prior_over_posterior - self.weight * error.sum(-1), 0).mean()

    def data(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_the_draws_of_an_importance_weighted_bound_count_together_as_one(weight: float) -> None:
    x = torch.bernoulli(torch.full((16, 8), 0.5), generator=torch.Generator().manual_seed(0))
    elbo = scan(ImportanceWeighted(weight), x).elbo
    assert elbo is not None
    assert elbo.beta == pytest.approx(1 / weight, rel=1e-4)
    assert any("as in an importance-weighted bound: their mean is taken" in note for note in elbo.notes)


class Thresholded(ImportanceWeighted):
    """It makes its own binary data, which a scan sees as constants."""

    def data(self, x: Tensor) -> Tensor:
        return (x > 0).float()


def test_draws_are_counted_of_data_that_the_model_thresholds_itself() -> None:
    elbo = scan(Thresholded(1.0), torch.randn(16, 8)).elbo
    assert elbo is not None
    assert elbo.beta == pytest.approx(1, rel=1e-4)


class InALoop(ImportanceWeighted):
    """The same bound, its draws one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        weights = []
        for _ in range(5):
            noise = torch.randn_like(mean)
            z = mean + torch.exp(0.5 * log_variance) * noise
            error = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
            weights.append((0.5 * (noise**2 - z**2) + 0.5 * log_variance).sum(-1) - self.weight * error.sum(-1))
        return -torch.logsumexp(torch.stack(weights), 0).mean()


def test_the_draws_of_an_importance_weighted_bound_may_be_the_steps_of_a_loop() -> None:
    x = torch.bernoulli(torch.full((16, 8), 0.5), generator=torch.Generator().manual_seed(0))
    elbo = scan(InALoop(1.0), x).elbo
    assert elbo is not None
    assert elbo.beta == pytest.approx(1, rel=1e-4)


class OneDrawTakesAll(ImportanceWeighted):
    """The same bound with torch's Normals and a narrow Gaussian: the weights of all draws but one are 0."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        posterior = Normal(mean, (0.5 * log_variance).exp())
        z = posterior.rsample((5,))
        error = ((x - self.decoder(z)) ** 2).sum(-1) / (2 * 0.01**2)
        weight = Normal(0.0, 1.0).log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1) - error
        return -torch.logsumexp(weight, 0).mean()


def test_an_importance_weighted_bound_of_one_draw_that_takes_all_is_not_said_to_reward_its_kl() -> None:
    elbo = scan(OneDrawTakesAll(1.0), torch.randn(16, 8, generator=torch.Generator().manual_seed(0))).elbo
    assert "as an importance-weighted bound where the others' weights are 0 on this batch" in elbo.reason
    assert elbo.kl_factor == pytest.approx(1 / 16)


class WeightedSteps(ImportanceWeighted):
    """An output that is refined in three steps, each compared with the data, the later ones more."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        loss = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        for weight in (0.25, 0.5, 1.0):
            loss = loss + weight * (self.decoder(weight * z) - x).square().sum(1)
        return loss.mean()


def test_steps_of_different_weights_count_by_their_sum_and_get_no_decoder_of_equal_ones() -> None:
    x = torch.randn(16, 8)
    elbo = scan(WeightedSteps(1.0), x).elbo
    assert elbo is not None
    assert elbo.sigma == pytest.approx((2 * 1.75) ** -0.5, rel=1e-4)
    assert any("differ between steps" in note for note in elbo.notes)
    vdvae_patch.stabilize(WeightedSteps(1.0), x, decoder="fixed(sigma=1)", probe=False, file=(out := io.StringIO()))
    assert "not put in by itself: its values have different factors" in out.getvalue()


class WeightedPixels(ImportanceWeighted):
    """The mean of five draws, of which each pixel has the weight that it has in the others."""

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn(5, *mean.shape)
        error = F.binary_cross_entropy_with_logits(self.decoder(z), x.expand(5, -1, -1), reduction="none")
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return (error * torch.tensor([2.0, 2, 1, 1, 1, 1, 1, 1])).sum(-1).mean() + kl.sum(1).mean()


def test_weights_of_pixels_are_not_taken_for_those_of_draws() -> None:
    elbo = scan(WeightedPixels(1.0), torch.bernoulli(torch.full((16, 8), 0.5))).elbo
    assert elbo is not None
    assert elbo.beta == pytest.approx(1, rel=1e-4)
    assert not any("between draws" in note for note in elbo.notes)


class EncodedViews(Thresholded):
    """Two noisy views of each image, in a dimension of their own, with a posterior each."""

    def forward(self, x: Tensor) -> Tensor:
        target = self.data(x).unsqueeze(1).expand(-1, 2, -1)
        mean, log_variance = self.encoder(target + 0.1 * torch.randn(target.shape)).chunk(2, -1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        error = F.binary_cross_entropy_with_logits(self.decoder(z), target, reduction="none")
        return (error.sum(-1) + kl.sum(-1)).mean()


def test_views_of_thresholded_data_with_a_posterior_each_are_no_draws() -> None:
    elbo = scan(EncodedViews(1.0), torch.randn(16, 8)).elbo
    assert elbo is not None
    assert elbo.beta == pytest.approx(1, rel=1e-4)


class OwnLengths(nn.Module):
    """A sequence whose density, but not its KL, is divided by its own length, or both by that of all together."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.enc, self.dec = own, nn.Linear(5, 6), nn.Linear(3, 10)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mean, raw = self.enc(x).chunk(2, -1)
        z = mean + raw.exp() * torch.randn_like(mean)
        density = torch.distributions.Normal(*self.parameters_of(z)).log_prob(x).sum(-1)
        kl = ((0.5 * (mean**2 + (2 * raw).exp() - 1) - raw).sum(-1) * mask).sum(1)
        density = (density * mask).sum(1)
        return (kl - density / mask.sum(1)).mean() if self.own else (kl - density).sum() / mask.sum()

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.dec(z).chunk(2, -1)
        return mean, raw.exp()


@pytest.mark.parametrize("own", [True, False])
def test_factors_of_a_density_that_differ_by_rows_are_said_and_a_mask_is_none_of_them(own: bool) -> None:
    lengths = torch.tensor([12, 12, 2, 2, 3, 5])
    mask = (torch.arange(12)[None] < lengths[:, None]).float()
    found = vdvae_patch.scan(OwnLengths(own), torch.randn(6, 12, 5), mask).elbo
    assert found is not None
    assert any("their mean is taken" in note for note in found.notes) == own
    assert own or found.beta == pytest.approx(1)
