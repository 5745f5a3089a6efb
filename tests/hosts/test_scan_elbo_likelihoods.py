"""Which likelihood a loss has beside its KL: counts, bits, times and shares are told apart, or less is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Exponential,
    Gamma,
    Laplace,
    NegativeBinomial,
    Poisson,
    StudentT,
)

from vdvae_patch import decoders
from vdvae_patch.scanning import scan

Likelihood = Callable[[Tensor, Tensor], Tensor]


class Code(nn.Module):
    """The likelihood's negative logarithm of each value beside the KL, each once."""

    def __init__(self, loss: Likelihood, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loss, self.enc, self.dec = loss, nn.Linear(6, 4), nn.Linear(2, 6 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        m, v = self.enc(torch.log1p(x)).chunk(2, 1)
        z = m + torch.exp(0.5 * v) * torch.randn_like(m)
        kl = 0.5 * (m**2 + v.exp() - 1 - v).sum(1)
        return (self.loss(self.dec(z), x).sum(1) + kl).mean()


def positive(h: Tensor) -> Tensor:
    return F.softplus(h) + 1e-3


def of_rate(h: Tensor, x: Tensor) -> Tensor:
    rate = torch.clamp(F.softplus(h), 1e-7, 1e7)
    return rate - x * torch.log(rate)


def negative_binomial(h: Tensor, x: Tensor) -> Tensor:
    mean, dispersion = F.softplus(h), 2.0
    both = torch.log(dispersion + mean + 1e-8)
    return -(x * (torch.log(mean + 1e-8) - both) - dispersion * both)


def weighed_bits(h: Tensor, x: Tensor) -> Tensor:
    p = torch.sigmoid(h)
    return -(3 * x * torch.log(p) + (1 - x) * torch.log(1 - p))


COUNTS = torch.poisson(torch.full((16, 6), 2.0), generator=torch.Generator().manual_seed(1))
BITS = (COUNTS > 2).float()
TIMES = COUNTS + 0.5
SHARES = 0.8 * torch.rand(16, 6, generator=torch.Generator().manual_seed(2)) + 0.1

POISSON, OTHER, LOGITS = "Poisson likelihood", "log likelihood", "Bernoulli cross-entropy with logits"

KNOWN: dict[str, tuple[Likelihood, Tensor, str]] = {
    "rate - x log rate": (of_rate, COUNTS, POISSON),
    "PoissonNLLLoss of a rate": (
        lambda h, x: F.poisson_nll_loss(positive(h), x, log_input=False, reduction="none"), COUNTS, POISSON,
    ),
    "PoissonNLLLoss of a log rate": (lambda h, x: F.poisson_nll_loss(h, x, reduction="none"), COUNTS, POISSON),
    "Poisson": (lambda h, x: -Poisson(positive(h)).log_prob(x), COUNTS, POISSON),
    "a negative binomial": (negative_binomial, COUNTS, OTHER),
    "NegativeBinomial": (lambda h, x: -NegativeBinomial(5.0, logits=h).log_prob(x), COUNTS, OTHER),
    "bits with weights, by hand": (weighed_bits, BITS, OTHER),
    "bits with weights": (
        lambda h, x: F.binary_cross_entropy_with_logits(h, x, pos_weight=torch.tensor(3.0), reduction="none"),
        BITS, LOGITS,
    ),
    "Bernoulli": (lambda h, x: -Bernoulli(logits=h).log_prob(x), BITS, LOGITS),
    "topics": (lambda h, x: -x * F.log_softmax(h, 1), COUNTS, "categorical cross-entropy"),
    "topics by hand": (lambda h, x: -x * torch.log(h.softmax(1) + 1e-8), COUNTS, "categorical cross-entropy"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_likelihood_is_called_by_its_name_and_counts_as_the_kl_does(name: str) -> None:
    loss, x, kind = KNOWN[name]
    elbo = scan(Code(loss), x).elbo
    assert elbo.reconstruction is not None, elbo.reason
    assert elbo.reconstruction.kind == kind
    assert elbo.beta == pytest.approx(1, rel=1e-5)


def test_a_laplace_is_an_absolute_error() -> None:
    elbo = scan(Code(lambda h, x: -Laplace(h, 0.5).log_prob(x)), TIMES).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "absolute error"
    assert elbo.sigma == pytest.approx(0.5 * 2**0.5, rel=1e-5)


UNKNOWN: dict[str, tuple[Likelihood, Tensor, int]] = {
    "Exponential": (lambda h, x: -Exponential(positive(h)).log_prob(x), TIMES, 1),
    "Gamma": (lambda h, x: -Gamma(positive(h[:, :6]), positive(h[:, 6:])).log_prob(x), TIMES, 2),
    "Beta": (lambda h, x: -Beta(positive(h[:, :6]), positive(h[:, 6:])).log_prob(x), SHARES, 2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_of_a_likelihood_that_is_not_known_it_is_said_where_it_stands_and_not_that_there_is_none(name: str) -> None:
    loss, x, outputs = UNKNOWN[name]
    elbo = scan(Code(loss, outputs), x).elbo
    assert not elbo
    assert "has an output and the data together, and neither as an error nor as a cross-entropy" in elbo.reason


def test_of_a_power_of_a_likelihood_no_factor_is_read() -> None:
    elbo = scan(Code(lambda h, x: -StudentT(3.0, h, 1.0).log_prob(x)), TIMES).elbo
    assert not elbo
    assert "could not be read" in elbo.reason


PICKED = torch.randint(0, 3, (16, 2), generator=torch.Generator().manual_seed(3))
OF_CLASSES = torch.tensor([0.2, 0.05, 0.2])


def of_classes(**given: Any) -> Likelihood:
    def loss(h: Tensor, x: Tensor) -> Tensor:
        return F.cross_entropy(h.view(-1, 3, 2), PICKED, **given).view(1, -1)

    return loss


def of_bits(**given: Any) -> Likelihood:
    return lambda h, x: F.binary_cross_entropy_with_logits(h, x, reduction="none", **given)


WEIGHED: dict[str, tuple[Likelihood, Tensor]] = {
    "weights of classes": (of_classes(weight=OF_CLASSES, reduction="none"), OF_CLASSES[PICKED] * 16),
    "their mean": (of_classes(weight=OF_CLASSES), 16 * OF_CLASSES[PICKED] / OF_CLASSES[PICKED].sum()),
    "a mean without one class": (of_classes(ignore_index=1), (16 / (PICKED != 1).sum()).expand(1)),
    "label smoothing": (of_classes(label_smoothing=0.2, reduction="sum"), torch.tensor([16.0])),
    "both": (
        of_classes(weight=OF_CLASSES, label_smoothing=0.2, reduction="sum"),
        16 * (0.8 * OF_CLASSES[PICKED] + 0.2 * OF_CLASSES.mean()),
    ),
    "one weight": (of_bits(weight=torch.tensor(4.0)), torch.tensor([4.0])),
    "a weight for each": (of_bits(weight=1 + BITS), 1 + BITS),
    "the positive ones": (of_bits(pos_weight=torch.tensor(3.0)), 1 + 2 * BITS),
    "of probabilities": (
        lambda h, x: F.binary_cross_entropy(h.sigmoid(), x, weight=torch.full((6,), 0.5), reduction="none"),
        torch.tensor([0.5]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_that_a_cross_entropy_of_pytorch_is_given_count(name: str) -> None:
    loss, weights = WEIGHED[name]
    elbo = scan(Code(loss), BITS).elbo
    assert elbo.reconstruction is not None, elbo.reason
    assert elbo.beta == pytest.approx(1 / float(weights.flatten().quantile(0.5)), rel=1e-5)
    differ = bool(weights.max() > weights.min())
    assert any("differ between elements" in note for note in elbo.notes) is differ


class Weights(nn.Module):
    """A layer of drawn weights: its KL is shared by all rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.rho = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.full((3, 6), -3.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sigma = F.softplus(self.rho)
        weight = self.mean + sigma * torch.randn_like(sigma)
        kl = 0.5 * (self.mean**2 + sigma**2 - 1 - 2 * sigma.log()).sum()
        return F.cross_entropy(F.linear(x, weight), y) + kl / 500


def test_of_weights_it_is_said_for_how_many_rows_the_kl_counts_and_not_how_often() -> None:
    elbo = scan(Weights(), torch.randn(9, 6), torch.arange(9) % 3).elbo
    assert "parameters that all rows of the data share" in elbo.words()
    assert "it counts as in that of 500 rows beside the categorical cross-entropy" in elbo.words()
    assert "times" not in elbo.words()


class Floored(nn.Module):
    """σ of a raw value behind a ReLU, and a KL that a row of weights weighs, by a product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        m, v = self.enc(x).chunk(2, 1)
        v = F.relu(v - 0.2)
        z = m + torch.exp(0.5 * v) * torch.randn_like(m)
        kl = 0.5 * (m**2 + v.exp() - 1 - v)
        share = torch.ones_like(kl) * (1 + 0 * x[:, :4])
        weighed = torch.diagonal(kl.mm(share.t()), 0).mean()
        return F.mse_loss(self.dec(z), x, reduction="sum") / len(x) + weighed


def test_a_kl_behind_a_product_of_matrices_and_a_relu_is_counted() -> None:
    elbo = scan(Floored(), torch.randn(9, 6)).elbo
    assert elbo.sigma == pytest.approx(0.5**0.5, rel=1e-4), elbo.reason


class Bits(nn.Module):
    """A code of bits, with noise of a learned deviation added, of which no KL knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.spread, self.dec = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.sigmoid(self.enc(x))
        z = q + (torch.bernoulli(q) - q).detach()
        z = z + torch.randn_like(z) * torch.exp(self.spread(q))
        kl = q * torch.log(2 * q + 1e-8) + (1 - q) * torch.log(2 * (1 - q) + 1e-8)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


def test_a_loss_that_was_given_is_not_asked_for() -> None:
    said = str(scan(Bits(), torch.randn(9, 6)))
    assert "the loss that was run has no density and no KL of these σ that is known as one" in said
    assert "give your loss" not in said


class OwnDecoder(nn.Module):
    """The KL beside a Gaussian whose σ is the root of something large: a sum of all squares, or a learned variance."""

    def __init__(self, of: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of, self.enc, self.dec = of, nn.Linear(48, 8), nn.Linear(4, 48)
        self.raw, self.decoder = nn.Parameter(torch.tensor(900.0)), decoders.get("optimal")

    def forward(self, x: Tensor) -> Tensor:
        m, v = self.enc(x).chunk(2, 1)
        y = self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m))
        kl = 0.5 * (m**2 + v.exp() - 1 - v).sum(1)
        if self.of == "errors":
            return (self.decoder.nll(x.view(-1, 3, 16), y.view(-1, 3, 16)) + 2 * kl).mean()
        return (2 * kl - torch.distributions.Normal(y, F.softplus(self.raw).sqrt()).log_prob(x).sum(1)).mean()


@pytest.mark.parametrize("of", ["errors", "a variance"])
def test_the_kl_counts_as_often_beside_a_sigma_that_is_the_root_of_hundreds(of: str) -> None:
    torch.manual_seed(1)
    x = torch.rand(16, 48)
    assert scan(OwnDecoder(of), x).elbo.beta == pytest.approx(2, rel=1e-3)


Pair = tuple[Tensor, Tensor]


def both_times(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
    return y * seen, x * seen


def both_filled(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
    return y.masked_fill(seen == 0, 0.0), x.masked_fill(seen == 0, 0.0)


def the_data_where_they_are_missing(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
    return torch.where(seen == 1, y, x), x


def all_of_it(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
    """Whose zeros are those of a ReLU and of black pixels."""
    return torch.relu(y), x * (x > 0.7)


def all_of_it_within_bounds(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
    """Whose zeros are where white pixels meet the upper bound, and black ones the lower."""
    return (8 * y).clamp(0, 1), x.round()


class Partly(nn.Module):
    """Squared errors of what a mask leaves, summed, beside the KL."""

    def __init__(self, paired: Callable[[Tensor, Tensor, Tensor], Pair]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.paired, self.enc, self.dec = paired, nn.Linear(12, 6), nn.Linear(3, 12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        m, v = self.enc(x).chunk(2, 1)
        first, second = self.paired(self.dec(m + torch.exp(0.5 * v) * torch.randn_like(m)), x, seen)
        return (F.mse_loss(first, second, reduction="sum") + 0.5 * (m**2 + v.exp() - 1 - v).sum()) / len(x)


WHOLE = (all_of_it, all_of_it_within_bounds)


@pytest.mark.parametrize("paired", [both_times, both_filled, the_data_where_they_are_missing, *WHOLE])
def test_errors_that_a_mask_has_put_to_zero_are_none_of_the_reconstructions(paired: Any) -> None:
    errors: list[Tensor] = []

    def noted(y: Tensor, x: Tensor, seen: Tensor) -> Pair:
        first, second = paired(y, x, seen)
        errors.append((first - second).detach())
        return first, second

    model, x = Partly(noted), torch.rand(16, 12)
    seen = (torch.rand(16, 12) < 0.6).float()
    elbo = scan(model, (x, seen), call=lambda model, batch: model(*batch)).elbo
    counted = torch.ones_like(seen) if paired in WHOLE else seen
    assert (elbo.place is not None and elbo.place.masked > 0) == (paired not in WHOLE)
    assert elbo.optimal_sigma == pytest.approx(float((errors[0] ** 2).sum() / counted.sum()) ** 0.5, rel=1e-4)


class Autoencoder(nn.Module):
    """Latent diffusion's first stage: an error and that of frozen features over one learned variance."""

    def __init__(self, power: int, weight: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.power, self.weight = power, weight
        self.encoder, self.decoder, self.log_variance = (
            nn.Linear(12, 8),
            nn.Linear(4, 12),
            nn.Parameter(torch.zeros(())),
        )
        self.features = nn.Sequential(nn.Linear(12, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 5))).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        y = self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        perceptual = torch.zeros(())
        given, made = x, y
        for layer in self.features:
            given, made = layer(given), layer(made)
            perceptual = perceptual + (given - made).square().mean(1, keepdim=True)
        error = (x - y).abs() ** self.power + perceptual
        nll = error / self.log_variance.exp() + self.log_variance
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return (nll.sum() + self.weight * kl.sum()) / len(x)


@pytest.mark.parametrize("power", [1, 2])
def test_one_log_variance_of_an_error_and_of_features_is_a_likelihoods(power: int) -> None:
    heads = scan(Autoencoder(power, 1.0), torch.rand(16, 12, generator=torch.Generator().manual_seed(0)))
    assert {head.path: head.role for head in heads} == {"log_variance": "likelihood", "encoder": "posterior"}


@pytest.mark.parametrize("weight", [1.0, 1e-6])
def test_a_small_kl_beside_one_log_variance_of_all_pixels_is_read(weight: float) -> None:
    elbo = scan(Autoencoder(2, weight), torch.rand(16, 12, generator=torch.Generator().manual_seed(0))).elbo
    assert elbo.beta == pytest.approx(weight / 2, rel=1e-4)  # e² / s + log s is −2 log p, but for a constant


def test_an_absolute_error_over_a_learned_variance_is_no_gaussian_density() -> None:
    elbo = scan(Autoencoder(1, 1.0), torch.rand(16, 12, generator=torch.Generator().manual_seed(0))).elbo
    assert "is not known to be that of a Gaussian's σ" in elbo.reason
