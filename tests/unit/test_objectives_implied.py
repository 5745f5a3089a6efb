"""Which bound a loss is: σ and β against the gradients of losses as people write them, and the words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vdvae_patch import decoders
from vdvae_patch.decoders import PixelGrid
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.objectives import Reconstruction, implied_elbo

B, D, LATENTS = 4, 48, 3

# A loss, the factor on each element's KL of an image, and that on each squared error, worked out by hand.
LOSSES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], float, float]] = {
    "both summed": (lambda y, x, kl: F.mse_loss(y, x, reduction="sum") + kl.sum(), 1, 1),
    "error averaged, KL summed": (lambda y, x, kl: F.mse_loss(y, x) + kl.sum(), 1, 1 / (B * D)),
    "error averaged, KL summed, mean over images": (
        lambda y, x, kl: F.mse_loss(y, x) + kl.sum(1).mean(), 1 / B, 1 / (B * D),
    ),
    "both averaged": (lambda y, x, kl: F.mse_loss(y, x) + kl.mean(), 1 / (B * LATENTS), 1 / (B * D)),
    "half the error": (lambda y, x, kl: 0.5 * (y - x).square().sum() + kl.sum(), 1, 0.5),
    "a small weight": (
        lambda y, x, kl: F.mse_loss(y, x) + 0.00025 * kl.sum(1).mean(), 0.00025 / B, 1 / (B * D),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_is_that_of_the_gaussian_bound_that_is_said(name: str) -> None:
    loss, kl_factor, factor = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(B, D, generator=generator, dtype=torch.float64)
    y = torch.rand(B, D, generator=generator, dtype=torch.float64).requires_grad_()
    kl = torch.rand(B, LATENTS, generator=generator, dtype=torch.float64).requires_grad_()
    grad_y, grad_kl = torch.autograd.grad(loss(y, x, kl), (y, kl))
    elbo = implied_elbo(kl_factor, Reconstruction("squared error", "unknown", factor))
    assert elbo.sigma == pytest.approx(math.sqrt(kl_factor / (2 * factor)))
    bound = decoders.get(f"fixed({elbo.sigma!r})").nll(x, y).sum() + kl.sum()
    bound_y, bound_kl = torch.autograd.grad(bound, (y, kl))
    # the same up to one factor for the whole loss
    torch.testing.assert_close(grad_y, kl_factor * bound_y)
    torch.testing.assert_close(grad_kl, kl_factor * bound_kl)


def test_the_words_say_what_follows() -> None:
    error = Reconstruction("squared error", "mean", 1.0, "vae.py", 41)
    of = 255 / 27.7
    pixels = PixelGrid()
    elbo = implied_elbo(2 / of**2, error, optimal_sigma=11 / 255, pixels=pixels)
    assert elbo.words() == (
        "as if pixels had a standard deviation of 27.7 grey levels; the reconstructions' own is 11: "
        "the KL counts 6.3 times too much"
    )
    assert elbo.beta == pytest.approx((27.7 / 11) ** 2)
    assert "squared error at vae.py:41, reduced by mean" in str(elbo.reconstruction)
    own = 27.7 / 255
    for sigma, words in (
        (own, "counts once, as in the bound"),
        (10 * own, "100 times too little"),
        (own / 20, "400 times too much"),
    ):
        assert implied_elbo(2 / of**2, error, optimal_sigma=sigma).words().endswith(words)
    assert implied_elbo(2 / of**2, error).words() == "as if pixels had a standard deviation of 27.7 grey levels"
    assert implied_elbo(2 / of**2, error).beta is None
    assert implied_elbo(1.0, error, optimal_sigma=0.0).beta == math.inf


def test_sigma_is_in_the_units_of_the_data_and_grey_levels_are_not() -> None:
    error = Reconstruction("squared error", "sum", 0.5)
    in_bytes = implied_elbo(1.0, error, pixels=PixelGrid(0, 255))
    in_shares = implied_elbo(1.0, error)
    assert in_bytes.sigma == in_shares.sigma == 1
    assert "deviation of 1 grey levels" in in_bytes.words()
    assert "deviation of 255 grey levels" in in_shares.words()


def test_a_likelihood_of_its_own_has_a_beta_and_no_sigma() -> None:
    for kind in ("cross-entropy", "log likelihood"):
        elbo = implied_elbo(4.0, Reconstruction(kind, "sum", 1.0))  # type: ignore[arg-type]
        assert (elbo.sigma, elbo.beta) == (None, 4)
        assert elbo.words() == f"the KL counts 4 times too much beside the {kind}"


def test_losses_that_are_no_bound_are_refused() -> None:
    error = Reconstruction("squared error", "sum", 1.0)
    for kl_factor in (0.0, -1.0, math.nan):
        with pytest.raises(InvalidValueError, match="no bound"):
            implied_elbo(kl_factor, error)
    with pytest.raises(InvalidValueError, match="reconstruction term"):
        implied_elbo(1.0, Reconstruction("squared error", "sum", -1.0))
    with pytest.raises(InvalidValueError, match="root mean square"):
        implied_elbo(1.0, error, optimal_sigma=math.nan)


@pytest.mark.parametrize("kind", ["mse", "squared_error", "absolute error"])
def test_a_term_of_another_kind_is_not_taken_for_a_likelihood(kind: Any) -> None:
    with pytest.raises(InvalidValueError, match="squared error, a cross-entropy, a log likelihood, not"):
        Reconstruction(kind, "mean", 1.0)
