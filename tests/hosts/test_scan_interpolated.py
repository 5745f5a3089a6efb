"""Learned variances of diffusion: a raw value says where log σ² lies between two numbers that each step has its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan

STEPS = 10
BETAS = torch.linspace(1e-3, 0.2, STEPS)
KEPT = torch.cumprod(1 - BETAS, 0)
BEFORE = torch.cat([torch.ones(1), KEPT[:-1]])
LEAST = (BETAS * (1 - BEFORE) / (1 - KEPT)).clamp(min=1e-4)


def of_both(v: Tensor, t: Tensor) -> Tensor:
    share = (v + 1) / 2
    return share * BETAS.log()[t][:, None] + (1 - share) * LEAST.log()[t][:, None]


def of_a_share(v: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(LEAST.log()[t][:, None].expand_as(v), BETAS.log()[t][:, None].expand_as(v), v.sigmoid())


def kl_of_logs(mean: Tensor, log_var: Tensor, true_mean: Tensor, t: Tensor) -> Tensor:
    least = LEAST.log()[t][:, None]
    return 0.5 * (log_var - least - 1 + (least - log_var).exp() + (true_mean - mean) ** 2 * torch.exp(-log_var))


def kl_of_normals(mean: Tensor, log_var: Tensor, true_mean: Tensor, t: Tensor) -> Tensor:
    sigma = torch.exp(0.5 * log_var)
    return kl_divergence(Normal(true_mean, LEAST[t][:, None].sqrt()), Normal(mean, sigma))


class Denoiser(nn.Module):
    def __init__(self, log_variance: Callable[..., Tensor], kl: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.log_variance, self.kl = nn.Linear(7, 12), log_variance, kl

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(1, STEPS, (len(x),))
        kept = KEPT[t][:, None]
        noised = kept.sqrt() * x + (1 - kept).sqrt() * torch.randn_like(x)
        eps, v = self.net(torch.cat([noised, t[:, None] / STEPS], 1)).chunk(2, 1)
        mean = (noised - BETAS[t][:, None] / (1 - kept).sqrt() * eps) / (1 - BETAS[t][:, None]).sqrt()
        true_mean = BEFORE[t][:, None].sqrt() * BETAS[t][:, None] / (1 - kept) * x + 0.5 * noised
        return self.kl(mean, self.log_variance(v, t), true_mean, t).mean()


@pytest.mark.medium
@pytest.mark.parametrize("kl", [kl_of_logs, kl_of_normals])
@pytest.mark.parametrize("log_variance", [of_both, of_a_share])
def test_the_scale_is_of_the_log_variance_that_the_host_interpolates(
    log_variance: Callable[..., Tensor], kl: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    model, x = Denoiser(log_variance, kl), torch.randn(9, 6)
    torch.manual_seed(3)
    before = model(x)
    (head,) = scan(model, x)
    assert (head.path, head.start, head.stop) == ("net", 6, 12)
    assert head.found is not None
    assert "differ from element to element" in head.found.reason
    if kl is kl_of_logs:
        assert head.role == "prior"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = patch(model, heads=[head], **{head.role: "explin"})
    torch.manual_seed(3)
    # every σ of a step is below 1, where explin of a log σ is the host's own function
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=0)
    if log_variance is of_both:
        model.net.bias.data[6:] = 400.0  # extrapolates: a log σ² of hundreds, of which exp is inf
        model(x).backward()
        assert model.net.weight.grad is not None
        assert model.net.weight.grad.isfinite().all()
    handle.unpatch()
