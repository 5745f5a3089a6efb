"""`stabilize(..., decoder="optimal")`: a calibrated likelihood where the host's reconstruction term stood."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.patching.term import term_in

ROWS, PIXELS, LATENTS = 8, 12, 3
Loss = Callable[[nn.Module, Tensor], Tensor]


class Small(nn.Module):
    """A VAE of two layers whose subclasses have losses of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(PIXELS, 2 * LATENTS)
        self.decoder = nn.Linear(LATENTS, PIXELS)

    def code(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return mean, logvar, z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar, z = self.code(x)
        return self.decoder(z), mean, logvar


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mean.pow(2) - logvar.exp())


class MeanInForward(Small):
    """The usual one: the error is averaged, the KL summed."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        recon = F.mse_loss(self.decoder(z), x)
        return recon + 0.01 * kl(mean, logvar).sum(dim=1).mean()


class SumOverBatch(Small):
    """Sums over pixels, divided by the batch, in a method of the model."""

    def loss(self, x: Tensor) -> Tensor:
        mean, logvar, z = self.code(x)
        out = self.decoder(z)
        recon = ((out - x) ** 2).sum() / x.shape[0]
        return recon + kl(mean, logvar).sum() / x.shape[0]


class HalfSquare(Small):
    """A Gaussian with σ = 1 written out, all summed."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        return 0.5 * ((x - self.decoder(z)) ** 2).sum() + kl(mean, logvar).sum()


class RowsFirst(Small):
    """Sums over pixels in one line, the mean over the batch in another, the data first."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        error = torch.sum((x - self.decoder(z)).pow(2), dim=1)
        rate = kl(mean, logvar).sum(dim=1)
        return torch.mean(error + rate)


class Criterion(Small):
    """A module of torch's for the error, and a helper for the sum of both."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.MSELoss(reduction="none")

    def _error(self, out: Tensor, x: Tensor) -> Tensor:
        return self.criterion(out, x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        error = self._error(self.decoder(z), x)
        return error.sum(dim=1).mean() + 4.0 * kl(mean, logvar).sum(dim=1).mean()


class KlMean(Small):
    """Both averaged over all elements."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        return F.mse_loss(self.decoder(z), x) + kl(mean, logvar).mean()


class Bernoulli(Small):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        out = torch.sigmoid(self.decoder(z))
        return F.binary_cross_entropy(out, x, reduction="sum") / len(x) + kl(mean, logvar).sum(dim=1).mean()


class Weighted(Small):
    """The pixels have weights, so that no one σ is meant."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        weights = torch.linspace(0.5, 2, PIXELS)
        return (weights * (self.decoder(z) - x) ** 2).sum(dim=1).mean() + kl(mean, logvar).sum(dim=1).mean()


class InSteps(Small):
    """The difference has a name of its own: no one expression holds output, data and square."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mean, logvar, z = self.code(x)
        difference = x - self.decoder(z)
        return difference.square().sum(dim=1).mean() + kl(mean, logvar).sum(dim=1).mean()


def outside(model: nn.Module, x: Tensor) -> Tensor:
    out, mean, logvar = model(x)
    return F.mse_loss(out, x, reduction="sum") + kl(mean, logvar).sum()


def elbo_terms(out: Tensor, x: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    return F.mse_loss(out, x), kl(mean, logvar).sum(dim=1).mean()


def by_helper(model: nn.Module, x: Tensor) -> Tensor:
    error, rate = elbo_terms(*[(y := model(x))[0], x], *y[1:])
    return error + 0.00025 * rate


def own(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)  # type: ignore[no-any-return]


def method(model: nn.Module, x: Tensor) -> Tensor:
    return model.loss(x)  # type: ignore[operator, no-any-return]


REPLACED: dict[str, tuple[type[Small], Loss, float]] = {
    "mean": (MeanInForward, own, 0.01),
    "sum over batch": (SumOverBatch, method, 1.0),
    "half": (HalfSquare, own, 1.0),
    "rows": (RowsFirst, own, 1.0),
    "criterion": (Criterion, own, 4.0),
    "kl mean": (KlMean, own, 1 / LATENTS),
    "outside": (Small, outside, 1.0),
    "helper": (Small, by_helper, 0.00025),
}
"""The host, its loss, and the factor that this puts on the KL in nats an image."""
SUMMED = {"half", "outside"}
"""Losses that are sums over the batch, and not means."""


def batch(rows: int = ROWS, seed: int = 0) -> Tensor:
    x = torch.rand(rows, PIXELS, generator=torch.Generator().manual_seed(seed))
    return x.mul(255).round() / 255


def made(kind: type[Small]) -> Small:
    torch.manual_seed(0)
    return kind()


def stabilized(model: nn.Module, loss: Loss, decoder: str = "optimal", **more: Any) -> tuple[Any, Loss, str]:
    """The handle, the loss that is to be called, and the account."""
    said = io.StringIO()
    handle = vdvae_patch.stabilize(model, batch(), call=loss, decoder=decoder, file=said, **more)
    return handle, handle.loss or loss, said.getvalue()


@pytest.mark.medium
@pytest.mark.parametrize("name", REPLACED)
def test_the_loss_becomes_the_bound_with_the_optimal_sigma_for_any_number_of_rows(name: str) -> None:
    kind, loss, nat = REPLACED[name]
    model = made(kind)
    handle, now, said = stabilized(model, loss, posterior="exp")
    assert "the loss is a bound with β = 1" in said
    for rows in (ROWS, 5):
        x = batch(rows, seed=rows)
        torch.manual_seed(3)
        value = now(model, x)
        torch.manual_seed(3)
        out, mean, logvar = Small.forward(model, x)
        decoder = vdvae_patch.decoders.get("optimal", PixelGrid(0, 1))
        bound = kl(mean, logvar).sum(dim=1).mean() + decoder.nll(x, out).mean()
        images = rows if name in SUMMED else 1
        assert value.item() == pytest.approx(images * nat * bound.item(), rel=1e-4)
    handle.unpatch()


@pytest.mark.medium
@pytest.mark.parametrize("name", [*REPLACED, "bernoulli", "weighted", "in steps"])
def test_three_steps_have_a_finite_loss_and_finite_gradients(name: str) -> None:
    others: dict[str, type[Small]] = {"bernoulli": Bernoulli, "weighted": Weighted, "in steps": InSteps}
    kind, loss = REPLACED[name][:2] if name in REPLACED else (others[name], own)
    model = made(kind)
    _, now, _ = stabilized(model, loss)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        value = now(model, batch(seed=step))
        value.backward()
        assert value.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()


@pytest.mark.medium
@pytest.mark.parametrize("name", REPLACED)
def test_unpatch_takes_it_away_bit_for_bit(name: str) -> None:
    kind, loss, _ = REPLACED[name]
    model = made(kind)
    before, cls = copy.deepcopy(model.state_dict()), type(model)
    torch.manual_seed(1)
    value = loss(model, batch())
    handle, now, _ = stabilized(model, loss)
    assert term_in(model) is not None
    assert model.state_dict().keys() == before.keys()
    torch.manual_seed(1)
    assert now(model, batch()) != value
    handle.unpatch()
    torch.manual_seed(1)
    assert torch.equal(loss(model, batch()), value)
    assert type(model) is cls
    assert term_in(model) is None
    assert all(torch.equal(model.state_dict()[key], kept) for key, kept in before.items())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Bernoulli, "the likelihood stays: a Bernoulli cross-entropy"),
        (Weighted, "not put in by itself: its values have different factors"),
        (InSteps, "not put in by itself: no one expression compares output and data and squares"),
    ],
)
def test_what_cannot_be_replaced_is_said_and_left_as_it_was(kind: type[Small], said: str) -> None:
    model = made(kind)
    x = batch().round() if kind is Bernoulli else batch()
    told = io.StringIO()
    vdvae_patch.stabilize(model, x, call=own, decoder="optimal", posterior="exp", file=told)
    assert said in told.getvalue()
    assert term_in(model) is None
    fresh = made(kind)
    torch.manual_seed(2)
    value = own(model, x)
    torch.manual_seed(2)
    assert value.item() == pytest.approx(own(fresh, x).item(), rel=1e-5)


def test_evaluation_uses_the_sigma_of_training_and_not_that_of_the_batch() -> None:
    model = made(MeanInForward)
    stabilized(model, own)
    term = term_in(model)
    assert term is not None
    for seed in range(3):
        model(batch(seed=seed))
    sigma = term.decoder.log_sigma(torch.zeros(1)).exp()  # type: ignore[attr-defined]
    model.eval()
    model(torch.zeros(ROWS, PIXELS))
    assert torch.equal(term.decoder.log_sigma(torch.zeros(1)).exp(), sigma)  # type: ignore[attr-defined]
    assert term.decoder.updates == 3


def test_a_fixed_sigma_stands_there_too_and_a_decoder_that_needs_channels_does_not() -> None:
    model = made(MeanInForward)
    handle, _, said = stabilized(model, own, "fixed(sigma=0.1)")
    assert "σ = 0.1:" in said
    handle.unpatch()
    said = stabilized(model, own, "per_pixel")[2]
    assert "decoder per_pixel reads decoder.channels(C) channels of parameters; optimal, shared and" in said
    assert "decoder.nll(data, parameters)" in said
    assert own(model, batch()).isfinite()


def test_one_learned_sigma_stands_there_starts_as_the_error_is_and_learns() -> None:
    model = made(MeanInForward)
    _, now, said = stabilized(model, own, "shared")
    assert "its σ is a parameter of the model now, so make the optimizer after this" in said
    term = term_in(model)
    assert term is not None
    raw = dict(model.named_parameters())["vdvae_patch_term.decoder.raw"]
    assert f"σ = {term.decoder.log_sigma(torch.zeros(1)).exp().item():.4g}" in said
    torch.manual_seed(3)
    value = now(model, batch())
    torch.manual_seed(3)
    out, mean, logvar = Small.forward(model, batch())
    bound = kl(mean, logvar).sum(dim=1).mean() + term.decoder.nll(batch(), out).mean()
    assert value.item() == pytest.approx(0.01 * bound.item(), rel=1e-4)
    value.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite()
    again = made(MeanInForward)
    vdvae_patch.apply(again, vdvae_patch.patch_json(model))
    assert term_in(again).decoder.raw.item() == raw.item()  # type: ignore[union-attr, operator]


def test_a_copy_and_a_model_in_evaluation_mode() -> None:
    model = made(SumOverBatch)
    stabilized(model, method)
    twin = copy.deepcopy(model)
    model.loss(batch())
    assert term_in(model).decoder.updates == 1  # type: ignore[union-attr]
    assert term_in(twin).decoder.updates == 0  # type: ignore[union-attr]
    twin.loss(batch())
    assert term_in(twin).decoder.updates == 1  # type: ignore[union-attr]
    still = made(SumOverBatch).eval()
    assert "the model is in evaluation mode; call its train() before" in stabilized(still, method)[2]


class Sequences(nn.Module):
    """A latent at each step; where its errors are averaged over differs."""

    def __init__(self, summed: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.summed, self.encoder, self.decoder = summed, nn.Linear(5, 6), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.encoder(x).chunk(2, dim=-1)
        out = self.decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
        return ((out - x) ** 2).sum(self.summed).mean() + kl(mean, logvar).sum(self.summed).mean()


@pytest.mark.parametrize(("summed", "is_fixed"), [((0, 2), True), ((1, 2), False)])
def test_a_factor_that_holds_for_one_length_of_the_second_dimension_is_said_to(
    summed: tuple[int, ...], is_fixed: bool
) -> None:
    said = io.StringIO()
    handle = vdvae_patch.stabilize(Sequences(summed), torch.rand(6, 4, 5), decoder="optimal", file=said)
    handle.unpatch()
    assert "a bound with β = 1" in said.getvalue()
    assert ("second dimension has the length 4" in said.getvalue()) == is_fixed
