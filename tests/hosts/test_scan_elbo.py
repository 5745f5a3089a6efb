"""Which bound a scanned loss optimizes: losses as people write them, each with its two factors by hand, and models."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import elbo_truths
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import ContinuousBernoulli, Independent, Normal, kl_divergence

from vdvae_patch import decoders
from vdvae_patch.cli import scan as scan_command
from vdvae_patch.errors import UnknownNameError
from vdvae_patch.objectives import Reconstruction, implied_elbo
from vdvae_patch.pixel_grid import PixelGrid
from vdvae_patch.scanning import ScanResult, scan, stabilize

B, D, LATENTS = 5, 12, 4
X = (torch.rand(B, D, generator=torch.Generator().manual_seed(2)) * 255).round() / 255

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class VAE(nn.Module):
    """x, its reconstruction y, mean, log variance and sample go to a loss."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.encoder, self.decoder, self.loss = nn.Linear(D, 2 * LATENTS), nn.Linear(LATENTS, D), loss

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        return self.loss(x, self.decoder(z), mean, log_var, z)


def scanned(loss: Loss, x: Tensor = X) -> ScanResult:
    torch.manual_seed(1)
    return scan(VAE(loss), x)


def kl(m: Tensor, v: Tensor) -> Tensor:
    return -0.5 * (1 + v - m**2 - v.exp())


def q(m: Tensor, v: Tensor) -> Normal:
    return Normal(m, (0.5 * v).exp())


MSE = nn.MSELoss(reduction="sum")

# a loss, σ
SQUARED: dict[str, tuple[Loss, float]] = {
    "mean, KL summed": (lambda x, y, m, v, z: F.mse_loss(y, x) + kl(m, v).sum(1).mean(), math.sqrt(D / 2)),
    "a module": (lambda x, y, m, v, z: MSE(y, x) + kl(m, v).sum(), math.sqrt(0.5)),
    "half": (lambda x, y, m, v, z: ((x - y) ** 2).sum() / 2 + kl(m, v).sum(), 1.0),
    "norm squared": (
        lambda x, y, m, v, z: (
            torch.norm(x - y, dim=1).pow(2).mean() + 0.5 * (m.pow(2).sum() + v.exp().sum() - 20 - v.sum()) / B
        ),
        math.sqrt(0.5),
    ),
    "dist squared": (lambda x, y, m, v, z: torch.dist(x, y) ** 2 + kl(m, v).sum(), math.sqrt(0.5)),
    "a dot product": (lambda x, y, m, v, z: (x - y).flatten().dot((x - y).flatten()) + kl(m, v).sum(), math.sqrt(0.5)),
    "a product": (lambda x, y, m, v, z: ((x - y) * (x - y)).sum() + kl(m, v).sum(), math.sqrt(0.5)),
    "kld_weight M_N": (lambda x, y, m, v, z: F.mse_loss(y, x) + 0.005 * kl(m, v).sum(1).mean(), math.sqrt(0.005 * 6)),
    "density of a fixed sigma, KL of a sample": (
        lambda x, y, m, v, z: (
            -Normal(y, 0.1).log_prob(x).sum(1).mean()
            + (q(m, v).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
        ),
        0.1,
    ),
    "of bytes, by torch's own KL": (
        lambda x, y, m, v, z: (
            F.mse_loss(255 * torch.sigmoid(y), 255 * x, reduction="sum") / B
            + kl_divergence(Independent(q(m, v), 1), Independent(Normal(0 * m, 1 + 0 * m), 1)).mean()
        ),
        math.sqrt(0.5) / 255,
    ),
    "centred": (
        lambda x, y, m, v, z: F.mse_loss(y, 2 * x - 1, reduction="sum") + kl(m, v).sum(), math.sqrt(0.5) / 2,
    ),
    "free bits": (
        lambda x, y, m, v, z: F.mse_loss(y, x) + kl(m, v).mean(0).clamp(min=0.02).sum(), math.sqrt(D / 2),
    ),
    "annealed": (lambda x, y, m, v, z: F.mse_loss(y, x) + torch.tensor(0.25) * kl(m, v).sum(1).mean(), math.sqrt(1.5)),
    "maximized": (lambda x, y, m, v, z: -((x - y) ** 2).sum() - kl(m, v).sum(), math.sqrt(0.5)),
    "in place": (lambda x, y, m, v, z: (y - x).pow_(2).sum().add_(kl(m, v).sum()), math.sqrt(0.5)),
    "detached halves": (
        lambda x, y, m, v, z: (
            F.mse_loss(y, x, reduction="sum") + 0.8 * kl(m, v).sum().detach() + 0.2 * kl(m, v).sum()
        ),
        math.sqrt(0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SQUARED)
def test_sigma_is_that_of_the_factors_by_hand(name: str) -> None:
    loss, sigma = SQUARED[name]
    elbo = scanned(loss).elbo
    assert elbo, elbo.reason
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "squared error"
    assert elbo.sigma == pytest.approx(sigma, rel=1e-5)
    # the arithmetic of `implied_elbo`
    assert elbo.kl_factor is not None
    term = Reconstruction("squared error", "unknown", elbo.reconstruction.factor)
    again = implied_elbo(elbo.kl_factor, term, pixels=PixelGrid(0, 1))
    assert again.sigma is not None
    assert elbo.sigma is not None
    scale = {"of bytes, by torch's own KL": 255, "centred": 2}.get(name, 1)
    assert again.sigma / scale == pytest.approx(elbo.sigma, rel=1e-6)


# a loss, kind, β
OTHERS: dict[str, tuple[Loss, str, float]] = {
    "logits": (
        lambda x, y, m, v, z: F.binary_cross_entropy_with_logits(y, x, reduction="sum") + 4 * kl(m, v).sum(),
        "Bernoulli cross-entropy with logits", 4,
    ),
    "logits by hand": (
        lambda x, y, m, v, z: (F.softplus(y) - x * y).sum() + 2 * kl(m, v).sum(),
        "Bernoulli cross-entropy with logits", 2,
    ),
    "probabilities by hand": (
        lambda x, y, m, v, z: (
            -(x * torch.log(y.sigmoid() + 1e-8) + (1 - x) * torch.log(1 - y.sigmoid() + 1e-8)).sum() + kl(m, v).sum()
        ),
        "Bernoulli cross-entropy", 1,
    ),
    "probabilities averaged": (
        lambda x, y, m, v, z: F.binary_cross_entropy(y.sigmoid(), x) + kl(m, v).sum(1).mean(),
        "Bernoulli cross-entropy", D,
    ),
    "multinomial": (
        lambda x, y, m, v, z: -(x * F.log_softmax(y, 1)).sum(1).mean() + 0.2 * kl(m, v).sum(1).mean(),
        "categorical cross-entropy", 0.2,
    ),
    "Poisson": (
        lambda x, y, m, v, z: F.poisson_nll_loss(y, x, reduction="sum") + kl(m, v).sum(), "Poisson likelihood", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_beta_is_the_ratio_of_the_factors_beside_a_likelihood_of_its_own(name: str) -> None:
    loss, kind, beta = OTHERS[name]
    elbo = scanned(loss).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == kind
    assert (elbo.sigma, elbo.grey_levels) == (None, None)
    assert elbo.beta == pytest.approx(beta, rel=1e-5)


def test_the_optimal_sigma_is_the_error_of_the_batch_and_not_below_the_quantization_noise() -> None:
    seen: list[Tensor] = []

    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        seen.append((y - x).detach())
        return F.mse_loss(y, x) + kl(m, v).sum(1).mean()

    elbo = scanned(loss).elbo
    own = float(seen[0].double().square().mean().sqrt())
    assert elbo.optimal_sigma == pytest.approx(own)
    assert elbo.beta == pytest.approx(D / 2 / own**2)
    perfect = scanned(lambda x, y, m, v, z: F.mse_loss(1e-6 * y + x, x) + kl(m, v).sum(1).mean()).elbo
    assert perfect.optimal_sigma == pytest.approx(PixelGrid(0, 1).noise)
    assert any("quantization noise" in note for note in perfect.notes)


def test_a_calibrated_loss_is_said_to_be_one() -> None:
    elbo = scanned(lambda x, y, m, v, z: D / 2 * torch.log(F.mse_loss(y, x)) + kl(m, v).sum(1).mean()).elbo
    assert elbo.beta == pytest.approx(1)
    assert elbo.words().endswith("the KL counts once, as in the bound")


def sigma_vae(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """As the calibrated decoders' authors write it, with a soft floor, from the errors of two lines."""
    log_sigma = ((x - y) ** 2).mean([0, 1], keepdim=True).sqrt().log()
    log_sigma = -6 + F.softplus(log_sigma + 6)
    nats = 0.5 * ((x - y) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
    return nats.sum() + kl(m, v).sum()


def sigma_of_each_image(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
    nats = D / 2 * torch.log(((y - x) ** 2).mean(1))
    return (nats + kl(m, v).sum(1)).mean()


@pytest.mark.parametrize(("loss", "kind"), [(sigma_vae, "squared error"), (sigma_of_each_image, "Gaussian density")])
def test_a_sigma_that_is_computed_of_the_errors_is_calibrated(loss: Loss, kind: str) -> None:
    elbo = scanned(loss).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == kind
    assert elbo.beta == pytest.approx(1, rel=0.01)


class LearnedLaplace(VAE):
    """An absolute error beside the logarithm of its learned scale, as image models of latent diffusion have it."""

    def __init__(self) -> None:
        super().__init__(self.nats)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def nats(self, x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return ((x - y).abs() / self.log_scale.exp() + self.log_scale).sum() / len(x) + 1e-6 * kl(m, v).sum() / len(x)


def test_an_error_with_a_learned_weight_is_no_error_with_a_fixed_one(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = LearnedLaplace()
    assert "is multiplied by something that is learned, or made of errors" in scan(model, X).elbo.reason
    stabilize(model, X, decoder="optimal", probe=False)
    assert "the likelihood cannot be exchanged: the absolute error at" in capsys.readouterr().out


def test_an_absolute_error_is_a_laplace() -> None:
    elbo = scanned(lambda x, y, m, v, z: F.l1_loss(y, x) + kl(m, v).sum(1).mean()).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "absolute error"
    assert elbo.sigma == pytest.approx(math.sqrt(2) * D)


def test_grey_levels_are_of_8_bit_data_alone() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return F.mse_loss(y, x, reduction="sum") + kl(m, v).sum()

    in_bits = scanned(loss).elbo
    assert in_bits.grey_levels == pytest.approx(255 * math.sqrt(0.5), rel=1e-5)
    assert "grey levels" in in_bits.words()
    for x, words in ((2 * X - 1, "[-1, 1]"), (255 * X, "[0, 255]")):
        elbo = scanned(loss, x).elbo
        assert elbo.data is not None
        assert words in elbo.data.words
        assert elbo.pixels is not None
        assert elbo.sigma is not None
        assert elbo.grey_levels == pytest.approx(elbo.sigma * 255 / elbo.pixels.range)
    standard = torch.randn(40, D, generator=torch.Generator().manual_seed(0))
    for x, words in ((standard, "standardized"), ((X > 0.5).float(), "two values")):
        elbo = scanned(loss, x).elbo
        assert elbo.data is not None
        assert words in elbo.data.words
        assert elbo.grey_levels is None
        assert "grey" not in elbo.words()


def test_weights_that_differ_are_said_with_their_extremes() -> None:
    weights = torch.ones(D)
    weights[:2] = 3.0
    elbo = scanned(lambda x, y, m, v, z: (weights * (y - x) ** 2).sum() + kl(m, v).sum()).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.extremes == pytest.approx((1.0, 3.0))
    assert elbo.sigma == pytest.approx(math.sqrt(0.5))
    assert any("1 to 3 times their median" in note for note in elbo.notes)


def test_other_terms_are_named_and_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    features = nn.Linear(D, 3)

    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        error = F.mse_loss(y, x, reduction="sum")
        perceptual = F.l1_loss(features(x), features(y))
        return error + kl(m, v).sum() + perceptual

    features.requires_grad_(True)
    model = VAE(loss)
    model.features = features
    elbo = scan(model, X).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5))
    assert any(note.startswith("other terms") and "abs" in note for note in elbo.notes)
    stabilize(model, X, decoder="optimal", probe=False)
    assert "a bound with β = 1, but for other terms of the loss, not counted:" in capsys.readouterr().out


FROZEN = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, 5)).requires_grad_(False)


CRITIC = nn.Linear(D, 1).requires_grad_(False)
BESIDE: dict[str, Loss] = {
    "a critic's": lambda x, y, m, v, z: MSE(y, x) + kl(m, v).sum() - 0.5 * CRITIC(y).mean(),
    "windows'": lambda x, y, m, v, z: MSE(y, x) + kl(m, v).sum() - (windows(x) * windows(y)).mean(),
}


def windows(x: Tensor) -> Tensor:
    return F.avg_pool1d(x[:, None], 3)


@pytest.mark.parametrize("name", BESIDE)
def test_another_term_of_the_reconstruction_is_named_on_the_line_of_the_error_and_the_kl_too(name: str) -> None:
    elbo = scanned(BESIDE[name]).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5))
    assert any(note.startswith("other terms of the loss, not counted:") for note in elbo.notes)


def test_features_of_the_data_are_other_terms_and_alone_no_likelihood() -> None:
    def beside(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        perceptual = F.mse_loss(FROZEN(y), FROZEN(x), reduction="sum")
        return F.mse_loss(y, x, reduction="sum") + 0.3 * perceptual + kl(m, v).sum()

    elbo = scanned(beside).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5))
    assert any(note.startswith("other terms of the loss, not counted: of features") for note in elbo.notes)
    alone = scanned(lambda x, y, m, v, z: F.mse_loss(FROZEN(y), FROZEN(x), reduction="sum") + kl(m, v).sum()).elbo
    assert not alone
    assert "the loss compares features that a network makes of the data, and not the data" in alone.reason


def mmd(z: Tensor) -> Tensor:
    prior = torch.randn_like(z)
    return sum(
        sign * torch.exp(-(a[:, None] - b).square().sum(-1) / LATENTS).mean()
        for a, b, sign in ((z, z, 1), (prior, prior, 1), (z, prior, -2))
    )  # type: ignore[return-value]


def test_a_statistic_of_the_latents_of_a_batch_is_another_term() -> None:
    def error(x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y, x.round(), reduction="sum")

    with_it = scanned(lambda x, y, m, v, z: error(x, y) + kl(m, v).sum() + 10 * mmd(z)).elbo
    assert with_it.beta == pytest.approx(1)
    assert any("what couples the latents of different rows" in note for note in with_it.notes)
    free = scanned(lambda x, y, m, v, z: error(x, y) + kl(m, v).mean(0).clamp(min=0.02).sum()).elbo
    assert not any("couples" in note for note in free.notes)


class OfACode(nn.Module):
    """The code of a frozen network is what this VAE is of, so that its data are the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(5, 2 * LATENTS), nn.Linear(LATENTS, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(FROZEN(x))
        mean, log_var = self.encoder(code).chunk(2, 1)
        y = self.decoder(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean))
        return ((y - code) ** 2).sum() + kl(mean, log_var).sum()


def test_the_code_that_the_encoder_reads_is_the_data_and_has_no_grey_levels() -> None:
    torch.manual_seed(1)
    elbo = scan(OfACode(), X).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert elbo.grey_levels is None


def test_a_smooth_absolute_error_below_its_threshold_is_a_squared_error() -> None:
    def smooth(beta: float) -> Loss:
        return lambda x, y, m, v, z: F.smooth_l1_loss(y / 40, x, beta=beta, reduction="sum") + kl(m, v).sum()

    for beta in (1.5, 4.0):
        elbo = scanned(smooth(beta)).elbo
        assert elbo.sigma == pytest.approx(math.sqrt(beta), rel=1e-5)
        assert any("no error beyond its threshold" in note for note in elbo.notes)
    wide = scanned(lambda x, y, m, v, z: F.huber_loss(y, x, delta=0.1, reduction="sum") + kl(m, v).sum()).elbo
    assert wide.sigma is None
    assert any("its threshold is a scale" in note for note in wide.notes)


def test_errors_of_zero_count_and_masked_ones_do_not() -> None:
    x = X * (torch.arange(D) % 2)
    seen: list[Tensor] = []

    def rectified(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        out = F.relu(y)
        seen.append((out - x).detach())
        return F.mse_loss(out, x, reduction="sum") + kl(m, v).sum()

    elbo = scanned(rectified, x).elbo
    assert bool((seen[0] == 0).any())
    assert elbo.optimal_sigma == pytest.approx(float(seen[0].double().square().mean().sqrt()))
    mask = (torch.arange(D) % 4 != 0).float()
    masked = scanned(lambda x, y, m, v, z: ((y - x) ** 2 * mask).sum() + kl(m, v).sum()).elbo
    assert masked.sigma == pytest.approx(math.sqrt(0.5))
    assert "25% of the values have no part in it: masked" in masked.notes
    assert "the likelihood stays: 25% of the values are masked" in masked.instead()


def test_grey_values_beside_a_bernoulli_are_said_to_be_none_of_its_own() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(y, x, reduction="sum") + kl(m, v).sum()

    assert any("the data have grey values" in note for note in scanned(loss).elbo.notes)
    assert scanned(loss, X.round()).elbo.notes == ()


def test_code_without_a_file_has_terms_of_its_own_and_no_empty_place() -> None:
    made: dict[str, Any] = {"F": F, "kl": kl, "torch": torch}
    exec("def one(x, y, m, v, z):\n    return F.mse_loss(y, x) + kl(m, v).sum()", made)
    elbo = scanned(made["one"]).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(B * D / 2))
    assert f"what the loss makes of the squared error at {os.path.basename(__file__)}:" in elbo.instead()
    exec(f"def kl(m, v):\n    return {KL}\ndef two(model, x):\n    {TWO}", made)
    model = nn.ModuleDict({"encoder": nn.Linear(D, 2 * LATENTS), "decoder": nn.Linear(LATENTS, D)})
    assert "two reconstruction terms" in scan(model, X, call=made["two"]).elbo.reason


KL = "-0.5 * (1 + v - m**2 - v.exp())"
TWO = """m, v = model["encoder"](x).chunk(2, 1)
    y = model["decoder"](m + torch.exp(0.5 * v) * torch.randn_like(m))
    return F.mse_loss(y, x) + 2 * F.mse_loss(y / 2, x) + kl(m, v).sum()"""


def test_a_number_that_is_added_belongs_to_the_likelihood_that_is_replaced() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        total = torch.tensor(0.0)
        total += (math.log(0.1) + (y - x) ** 2 / (2 * 0.01)).sum()
        return total + kl(m, v).sum()

    term = scanned(loss).elbo.reconstruction
    assert term is not None
    assert term.expression == "(math.log(0.1) + (y - x) ** 2 / (2 * 0.01)).sum()"


INSTEAD: dict[str, tuple[Loss, str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]]] = {
    "mean, KL summed": (
        lambda x, y, m, v, z: F.mse_loss(y, x) + kl(m, v).sum(1).mean(),
        "`decoder.nll(data, output).mean()`",
        lambda x, nll, m, v, z: nll.mean() + kl(m, v).sum(1).mean(),
    ),
    "both summed": (
        lambda x, y, m, v, z: MSE(y, x) + kl(m, v).sum(),
        "`decoder.nll(data, output).sum()`",
        lambda x, nll, m, v, z: nll.sum() + kl(m, v).sum(),
    ),
    "maximized": (
        lambda x, y, m, v, z: -(y - x).pow(2).sum() - kl(m, v).sum(),
        "`-1 * decoder.nll(data, output).sum()`",
        lambda x, nll, m, v, z: -1 * nll.sum() - kl(m, v).sum(),
    ),
    "a weight on the error": (
        lambda x, y, m, v, z: 10 * (y - x).pow(2).mean() + 0.5 * kl(m, v).sum(1).mean(),
        "`0.1 * decoder.nll(data, output).sum()` (of 5 rows; where the KL is averaged over them, "
        "`0.5 * decoder.nll(...).mean()` for any number)",
        lambda x, nll, m, v, z: 0.1 * nll.sum() + 0.5 * kl(m, v).sum(1).mean(),
    ),
}


@pytest.mark.parametrize(
    ("rescaled", "grid"),
    [(lambda x: x / 255, "(0, 1)"), (lambda x: 2 * x / 255 - 1, "(-1, 1)"), (lambda x: 1 - x / 255, "(0, 1)")],
)
def test_what_is_written_instead_has_the_range_of_what_is_compared(
    rescaled: Callable[[Tensor], Tensor], grid: str
) -> None:
    elbo = scanned(lambda x, y, m, v, z: MSE(y, rescaled(x)) + kl(m, v).sum(), 255 * X).elbo
    assert elbo.data is not None
    assert elbo.data.high == 255
    assert f"PixelGrid{grid}" in elbo.instead()


@pytest.mark.parametrize("expanded", [False, True])
def test_several_draws_of_the_latents_in_front_are_compared_with_the_same_data(expanded: bool) -> None:
    def draws(y: Tensor) -> Tensor:
        return torch.stack([y, 0.9 * y, 0.8 * y, 0.7 * y])

    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        data = x.expand(4, *x.shape) if expanded else x
        return (draws(y) - data).pow(2).sum(-1).mean() + kl(m, v).sum(1).mean()

    elbo = scanned(loss).elbo
    assert elbo.sigma == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert elbo.rows == B
    written = "decoder.nll(data.expand(len(output), *data.shape).flatten(0, 1), output.flatten(0, 1)).mean()"
    assert f"`{written}`" in elbo.instead()
    decoder = decoders.get("optimal", PixelGrid(0, 1))

    def calibrated(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        found: Tensor = eval(written, {"decoder": decoder, "data": x, "output": draws(y)})
        return found + kl(m, v).sum(1).mean()

    assert scanned(calibrated).elbo.beta == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_said_to_be_written_instead_has_beta_1(name: str) -> None:
    loss, text, written = INSTEAD[name]
    line = scanned(loss).elbo.instead()
    assert text in line
    assert 'vdvae_patch.decoders.get("optimal", PixelGrid(0, 1))' in line
    decoder = decoders.get("optimal", PixelGrid(0, 1))
    elbo = scanned(lambda x, y, m, v, z: written(x, decoder.nll(x, y), m, v, z)).elbo
    assert elbo.beta == pytest.approx(1, rel=1e-4)


def test_stabilize_says_what_to_write_for_a_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    stabilize(VAE(INSTEAD["both summed"][0]), X, decoder="optimal", probe=False)
    assert "decoder optimal: in the place of `MSE(y, x)` at" in capsys.readouterr().out
    with pytest.raises(UnknownNameError):
        stabilize(VAE(INSTEAD["both summed"][0]), X, decoder="optimum", probe=False)


NONE: dict[str, tuple[Loss, str]] = {
    "no KL": (lambda x, y, m, v, z: F.mse_loss(y, x), "no KL"),
    "no reconstruction": (lambda x, y, m, v, z: kl(m, v).sum(), "no difference, cross-entropy or log density"),
    "two": (lambda x, y, m, v, z: F.mse_loss(y, x) + F.l1_loss(y, x) + kl(m, v).sum(), "two reconstruction terms"),
    "a norm": (lambda x, y, m, v, z: (x - y).norm(dim=1).mean() + kl(m, v).sum(), "no log likelihood"),
    "a wrong sign": (lambda x, y, m, v, z: F.mse_loss(y, x) - kl(m, v).sum(), "the factor on the KL is -1, so that"),
    "a capacity": (
        lambda x, y, m, v, z: F.mse_loss(y, x) + 4 * (kl(m, v).sum() - 500).abs(),
        "or is drawn to a capacity, |KL − C|",
    ),
    "no loss": (lambda x, y, m, v, z: y, "no loss"),
    "not finite": (lambda x, y, m, v, z: F.mse_loss(y, x) + (kl(m, v).sum() - 1e9).log(), "not finite"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_bound_has_the_reason(name: str) -> None:
    loss, reason = NONE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elbo = scanned(loss).elbo
    assert not elbo
    assert reason in elbo.reason
    assert (elbo.sigma, elbo.beta) == (None, None)


def test_the_table_has_the_reason_where_the_bound_is_not_known() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return kl(m, v).sum() + torch.cdist(y.flatten(1), x.flatten(1)).sum()

    assert "the loss as a bound: not known, no difference, cross-entropy or log density of" in str(scanned(loss))


def test_the_table_has_the_term_with_its_line_and_the_consequence() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        error = F.mse_loss(y, x)
        return error + kl(m, v).sum(1).mean()

    heads = scanned(loss)
    term = heads.elbo.reconstruction
    assert term is not None
    assert (term.file, term.line, term.expression, term.reduced) == (
        __file__, loss.__code__.co_firstlineno + 1, "F.mse_loss(y, x)", "mean",
    )  # fmt: skip
    text = str(heads)
    assert "the loss as a bound: as if pixels had a standard deviation of 625 grey levels; " in text
    assert f"squared error at test_scan_elbo.py:{term.line}, `F.mse_loss(y, x)`, reduced by mean" in text
    assert heads[:1].elbo is heads.elbo


def build() -> nn.Module:
    return VAE(lambda x, y, m, v, z: F.mse_loss(y, x) + kl(m, v).sum(1).mean())


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [f"{__name__}:build", "--input", f"{B}x{D}"]
    assert scan_command.run(arguments) == 0
    assert "the loss as a bound" in capsys.readouterr().out
    assert scan_command.run([*arguments, "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record["elbo"]["sigma"] == pytest.approx(math.sqrt(D / 2))
    assert record["elbo"]["reconstruction"]["kind"] == "squared error"


class Steps(nn.Module):
    """A loop over time with one loss in it, whose σ is learned: both terms are summed, so that the KL counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(D + 2, 4), nn.Linear(2, 2 * D)

    def forward(self, x: Tensor) -> Tensor:
        total, z = x.new_zeros(()), x.new_zeros(len(x), 2)
        for _ in range(4):
            mean, log_sigma = self.encoder(torch.cat([x, z], 1)).chunk(2, 1)
            z = mean + log_sigma.exp() * torch.randn_like(mean)
            output, log_scale = self.decoder(z).chunk(2, 1)
            total = total + (0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum()
            total = total + (log_scale + 0.5 * ((x - output) / log_scale.exp()) ** 2).sum()
        return total / len(x)


class OneSigma(Steps):
    """The same, with one σ for all values of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, D + 1)

    def forward(self, x: Tensor) -> Tensor:
        total, z = x.new_zeros(()), x.new_zeros(len(x), 2)
        for _ in range(4):
            mean, log_sigma = self.encoder(torch.cat([x, z], 1)).chunk(2, 1)
            z = mean + log_sigma.exp() * torch.randn_like(mean)
            output, log_scale = self.decoder(z).split((D, 1), 1)
            total = total + (0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum()
            total = total + (log_scale + 0.5 * ((x - output) / log_scale.exp()) ** 2).sum()
        return total / len(x)


@pytest.mark.parametrize("host", [Steps, OneSigma])
def test_a_learned_sigma_in_a_loop_counts_as_often_as_its_errors(host: type[nn.Module]) -> None:
    torch.manual_seed(0)
    elbo = scan(host(), torch.randn(5, D)).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "Gaussian density"
    assert elbo.beta == pytest.approx(1, rel=1e-3)


KNOWN = {"Squashed": "an entropy without a prior is taken for a KL"}


@pytest.mark.medium
@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(t, marks=[pytest.mark.xfail(strict=True, reason=KNOWN[t.name])] if t.name in KNOWN else [])
        for t in (*elbo_truths.TRUTHS, *elbo_truths.SECOND)
    ],
    ids=lambda t: f"{t.file}-{t.name}",
)
def test_the_bound_of_a_model_is_the_one_by_hand(truth: elbo_truths.Truth) -> None:
    found = elbo_truths.scanned(truth)
    assert "the loss could not be read" not in found.reason  # a fault of ours, which a scan outlives
    assert elbo_truths.verdict(truth, found) == "right"


class Conditional(nn.Module):
    """As a neural process: the prior sees a part of the data, by the posterior's own layer; some data are masked."""

    def __init__(self, free: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder, self.free = nn.Linear(D, 2 * LATENTS), nn.Linear(LATENTS, 2 * D), free

    def law(self, x: Tensor) -> Normal:
        mean, raw = self.encoder(x).chunk(2, 1)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw))

    def forward(self, x: Tensor) -> Tensor:
        q, p = self.law(x), self.law(x * (torch.arange(D) < 5))
        mean, raw = self.decoder(q.rsample()).chunk(2, 1)
        seen = (torch.arange(D) < 9).float()
        nll = -(Normal(mean, 0.1 + 0.9 * F.softplus(raw)).log_prob(x) * seen).sum(1)
        kl = kl_divergence(q, p).sum(1).mean()
        return nll.mean() + (kl.clamp(min=self.free) if self.free else kl)


def test_masked_data_are_no_masked_latents() -> None:
    torch.manual_seed(0)
    notes = scan(Conditional(), X).elbo.notes
    assert "25% of the values have no part in it: masked" in notes
    assert not [note for note in notes if "no KL" in note]


def test_a_kl_most_of_whose_latents_are_below_their_free_bits_counts_as_above_them() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        each = kl(torch.tensor([0.0, 0.0, 0.0, 3.0]) + m, v).mean(0)
        return ((x - y) ** 2).sum() / (2 * 0.1**2 * B) + each.clamp(min=1.5).sum()

    elbo = scanned(loss).elbo
    assert elbo.sigma == pytest.approx(0.1)
    assert "75% of the latents' elements have no KL here" in elbo.notes[0]


def test_a_median_of_an_even_count_lies_between_the_middle_two() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return ((x - y) ** 2).sum() + (kl(m, v) * torch.tensor([1.0, 1.0, 4.0, 4.0])).sum()

    elbo = scanned(loss).elbo
    assert elbo.kl_factor == pytest.approx(2.5)
    assert "the factors on the KL differ between elements: 0.4 to 1.6 times their median" in elbo.notes[0]


def test_a_kl_that_no_sigma_lifts_above_its_free_bits_is_not_said_to_be_absent() -> None:
    torch.manual_seed(0)
    elbo = scan(Conditional(free=1e3), X).elbo
    assert "it is below its free bits, above a limit, or has no weight yet" in elbo.reason
    assert "no KL" not in elbo.reason


def balanced(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """As in DreamerV3, a part of the KL for a prior alone; by Normals, whose parameters are detached."""
    unit, own = Normal(torch.zeros_like(m), 1.0), q(m, v)
    still = Normal(own.loc.detach(), own.scale.detach())
    return MSE(x, y) + 0.5 * kl_divergence(still, unit).sum() + 0.1 * kl_divergence(own, unit).sum()


def test_a_kl_by_part_of_which_alone_the_posterior_learns_is_said_to_be_balanced() -> None:
    elbo = scanned(balanced).elbo
    assert elbo.kl_factor == pytest.approx(0.6)
    assert "the posterior learns by 0.167 of the KL's factor" in elbo.notes[0]


def test_a_sample_whose_density_is_detached_is_no_balanced_kl() -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        return MSE(x, y) + (q(m.detach(), v.detach()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum()

    assert not [note for note in scanned(loss).elbo.notes if "learns by" in note]


@pytest.mark.parametrize("labelled", [B // 4, B // 2])
@pytest.mark.parametrize("how", ["a range", "a mask", "afterwards"])
def test_latents_without_a_kl_are_counted_once_where_a_part_was_cut_out_before_the_kl(labelled: int, how: str) -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        first = torch.arange(B) < labelled
        if how == "a range":
            of_some = kl(m[:labelled], v[:labelled])
        else:
            of_some = kl(m[first], v[first]) if how == "a mask" else kl(m, v)[:labelled]
        return (0.5 * ((x - y) ** 2).sum() + of_some.sum()) / B

    share = 1 - labelled / B
    assert f"about {share:.0%} of the latents' elements have no KL here" in scanned(loss).elbo.notes[0]


def log_constant(p: Tensor) -> Tensor:
    """log C of a continuous Bernoulli, with a series around 1/2 as its authors have it."""
    far = (p < 0.49) | (p > 0.51)
    q = torch.where(far, p, torch.full_like(p, 0.4))
    exact = torch.log(2 * torch.atanh(1 - 2 * q) / (1 - 2 * q))
    return torch.where(far, exact, math.log(2) + 4 / 3 * (p - 0.5) ** 2)


CONTINUOUS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by logits": lambda x, y: -ContinuousBernoulli(logits=y).log_prob(x).sum(1),
    "by probabilities": lambda x, y: -ContinuousBernoulli(torch.sigmoid(y)).log_prob(x).sum(1),
    "by hand": lambda x, y: (
        F.binary_cross_entropy(torch.sigmoid(y), x, reduction="none") - log_constant(torch.sigmoid(y))
    ).sum(1),
}


@pytest.mark.parametrize("how", CONTINUOUS)
def test_a_continuous_bernoulli_is_the_density_of_grey_values(how: str) -> None:
    grey = torch.randint(0, 256, X.shape, generator=torch.Generator().manual_seed(3)) / 255
    elbo = scanned(lambda x, y, m, v, z: CONTINUOUS[how](x, y).mean() + 0.5 * kl(m, v).sum(1).mean(), x=grey).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind == "continuous Bernoulli density"
    assert elbo.beta == pytest.approx(0.5)
    assert elbo.notes == ()
    assert "the likelihood stays" in elbo.instead("optimal")


@pytest.mark.parametrize("how", ["by logits", "a Bernoulli"])
def test_a_bernoulli_is_told_from_a_continuous_one_where_the_decoder_puts_out_zeros(how: str) -> None:
    def loss(x: Tensor, y: Tensor, m: Tensor, v: Tensor, z: Tensor) -> Tensor:
        rec = F.binary_cross_entropy_with_logits(y, x, reduction="none").sum(1)
        return (CONTINUOUS[how](x, y) if how in CONTINUOUS else rec).mean() + kl(m, v).sum(1).mean()

    model = VAE(loss)
    nn.init.zeros_(model.decoder.weight)
    nn.init.zeros_(model.decoder.bias)
    grey = torch.randint(0, 256, X.shape, generator=torch.Generator().manual_seed(3)) / 255
    elbo = scan(model, grey).elbo
    assert elbo.reconstruction is not None
    assert elbo.reconstruction.kind.startswith("continuous") is (how in CONTINUOUS)
    assert bool(elbo.notes) is (how not in CONTINUOUS)


@pytest.mark.parametrize(
    ("loss", "sizes"),
    [
        (lambda x, y, m, v, z: F.mse_loss(y, x, reduction="sum") + 0.5 * kl(m, v).sum(), (1.0, 40.0, 255.0)),
        (
            lambda x, y, m, v, z: MSE(y, x) + 0.5 * (q(m, v).log_prob(z) - q(0 * m, 0 * v).log_prob(z)).sum(),
            (1.0, 90.0),
        ),
        (lambda x, y, m, v, z: MSE(y, x) + 0.5 * kl_divergence(q(m, v), Normal(0.0, 1.0)).sum(), (1.0, 90.0)),
    ],
)
def test_the_factor_of_the_kl_is_known_where_log_sigma_is_lost_beside_sigma(loss: Loss, sizes: Sequence[float]) -> None:
    """Of bytes an untrained encoder makes log variances of ±100: float64 holds no 1 beside e¹⁰⁰."""
    for size in sizes:
        elbo = scanned(loss, size * X).elbo
        assert elbo.sigma == pytest.approx(0.5, rel=1e-3), (size, elbo.reason)
