"""Importance sampling against an integral over a grid of latents, and which units count as used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts import load_host
from vdvae_patch.seams import Terms
from vdvae_patch.train.importance import active_units, log_likelihood

HOST = load_host("large_vae")


def build(levels: int, prior: str) -> Any:
    torch.manual_seed(3)
    model: Any = HOST.build(
        {"levels": levels, "prior": prior, "size": (2, 2), "hidden": 6, "latents": 3 - levels, "components": 3}
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "log_var" in name:
                p.mul_(0.2)
    return model.eval().double()


def exact(model: Any, levels: int, x: Tensor) -> Tensor:
    """log ∫ p(x given z) p(z) dz, on a grid of two numbers in all."""
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        if levels == 1:
            latents, log_p = [grid], model.log_prior(grid)
        else:
            latents = [grid[:, :1], grid[:, 1:]]
            mean, log_var = model.p_z1(model.p_z1_z2(latents[0]))
            log_p = model.log_prior(latents[0]) + Normal(mean, (0.5 * log_var).exp()).log_prob(latents[1]).sum(1)
        emitted = model.emit(latents)
        log_x = torch.stack([-model.distortion(row.expand(len(grid), -1), emitted) for row in x])
    return (log_x + log_p).logsumexp(dim=1) + 2 * math.log(float(axis[1] - axis[0]))


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("prior", ["standard", "vamp"])
def test_the_estimate_is_the_integral(levels: int, prior: str) -> None:
    model = build(levels, prior)
    x = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]]).double()
    terms = HOST.decoder_seam(model).terms

    def passed(batch: Tensor) -> Terms:
        target = batch.view(-1, 2, 2, 1) * 2 - 1
        found: Terms = terms(model, target, target)
        return found

    torch.manual_seed(0)
    many = log_likelihood(passed, x, 20_000, at_a_time=5000)
    torch.testing.assert_close(many, exact(model, levels, x), rtol=0, atol=0.1)
    one = torch.stack([log_likelihood(passed, x, 1) for _ in range(300)]).mean(dim=0)
    assert (one < many).all(), "one sample gives the bound"


def test_pieces_change_nothing_but_the_noise() -> None:
    cost = {"a": torch.tensor([1.0, 2.0, 5.0])}

    def passed(batch: Tensor) -> Terms:
        return Terms({"z": torch.zeros(len(batch))}, batch, distortion=cost["a"][batch[:, 0].long()])

    x = torch.arange(3.0)[:, None]
    for at_a_time in (1, 2, 7, 100):
        torch.testing.assert_close(log_likelihood(passed, x, 10, at_a_time), -cost["a"].double())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="at least 1"):
        log_likelihood(lambda x: Terms({}, x), torch.zeros(1, 1), 0)
    with pytest.raises(InvalidValueError, match="no distortion"):
        log_likelihood(lambda x: Terms({"z": torch.zeros(len(x))}, x), torch.zeros(1, 1), 3)


def test_units_whose_mean_stays_are_not_used() -> None:
    torch.manual_seed(0)
    means = torch.cat([torch.randn(1000, 3), 0.05 * torch.randn(1000, 2), torch.zeros(1000, 1) + 7], dim=1)
    assert active_units(means) == 3
    assert active_units(means, threshold=1e-4) == 5


def test_units_that_vary_with_a_draw_of_the_latent_above_alone_are_not_used() -> None:
    torch.manual_seed(0)
    of_images = torch.cat([torch.randn(500, 2), torch.zeros(500, 3)], dim=1)
    passes = of_images + 0.7 * torch.randn(10, 500, 5)
    assert active_units(passes[0]) == 5, "of one pass it does not show"
    assert active_units(passes) == 2
