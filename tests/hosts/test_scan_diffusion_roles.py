"""A learned variance of diffusion: the reverse step's, second in a KL whose first Normal is known, is a prior's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.scanning import scan

LOW, HIGH = torch.tensor([-6.0, -5.0, -4.0, -3.0]), torch.tensor([-5.0, -4.0, -3.0, -2.0])
T = torch.tensor([0, 1, 2, 3, 1])


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 8)

    def both(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net(torch.cat([x, T[:, None] / 4], 1)).chunk(2, 1)


def interpolated(v: Tensor) -> Tensor:
    return torch.exp(0.5 * (v * HIGH[T][:, None] + (1 - v) * LOW[T][:, None]))


def exponential(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v)


def written_out(first: Normal, second: Normal) -> Tensor:
    ratio = (first.scale / second.scale) ** 2
    return 0.5 * (ratio + ((first.loc - second.loc) / second.scale) ** 2 - 1) - 0.5 * torch.log(ratio)


@pytest.mark.parametrize("kl", [kl_divergence, written_out], ids=["torch's KL", "written out"])
@pytest.mark.parametrize("first_step", [False, True], ids=["", "with the first step's density"])
@pytest.mark.parametrize("sigma", [interpolated, exponential])
def test_the_reverse_step_of_diffusion_is_a_prior(
    sigma: Callable[[Tensor], Tensor], first_step: bool, kl: Callable[[Normal, Normal], Tensor]
) -> None:
    def loss_of(model: Denoiser, x: Tensor) -> Tensor:
        eps = torch.randn_like(x)
        noised = 0.8 * x + 0.6 * eps
        predicted, v = model.both(noised)
        step = Normal((noised - 0.1 * predicted).detach(), sigma(v))
        known = Normal(0.3 * x + 0.7 * noised, torch.exp(0.5 * LOW[T])[:, None])
        first = (T == 0)[:, None].float()
        bound = kl(known, step) * (1 - first) if first_step else kl(known, step)
        if first_step:
            bound = bound - Normal(noised - 0.1 * predicted, sigma(v)).log_prob(x) * first
        return F.mse_loss(predicted, eps) + 1e-4 * bound.sum(1).mean()

    torch.manual_seed(0)
    (head,) = scan(Denoiser(), torch.randn(5, 4), call=loss_of)
    assert (head.path, head.start, head.stop, head.role) == ("net", 4, 8, "prior")


def test_a_density_of_data_behind_noised_inputs_is_a_likelihood() -> None:
    """A denoising autoencoder with a learned σ around what it adds to its noised input."""

    def loss_of(model: Denoiser, x: Tensor) -> Tensor:
        noised = x + 0.1 * torch.randn_like(x)
        predicted, v = model.both(noised)
        return -Normal(noised - predicted, exponential(v)).log_prob(x).mean()

    torch.manual_seed(0)
    (head,) = scan(Denoiser(), torch.randn(5, 4), call=loss_of)
    assert head.role == "likelihood"


def test_soft_labels_are_data() -> None:
    """KL(N(y, 0.1) ‖ N(mean, σ)) of a label is a regression, with no noise in it."""

    def loss_of(model: Denoiser, x: Tensor) -> Tensor:
        mean, v = model.both(x)
        return kl_divergence(Normal(x, 0.1 * torch.ones_like(x)), Normal(mean, exponential(v))).mean()

    torch.manual_seed(0)
    (head,) = scan(Denoiser(), torch.randn(5, 4), call=loss_of)
    assert head.role == "likelihood"
