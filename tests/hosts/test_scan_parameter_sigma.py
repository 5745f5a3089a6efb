"""Parameters that are themselves a σ or a variance: patched where a method names them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import patch
from vdvae_patch.scanning import scan


class OfAParameter(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.mean, self.log_var, self.decoder = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)
        self.raw = nn.Parameter(torch.full((3 if "prior" in form else 6,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.mean(x), self.log_var(x)
        q = Normal(mean, torch.exp(0.5 * log_var))
        y = self.decoder(q.rsample())
        if self.form == "σ of a prior":
            return F.mse_loss(y, x) + kl_divergence(q, Normal(torch.zeros(3), self.raw)).sum(1).mean()
        if self.form == "variance of a prior":
            kl = 0.5 * (log_var.exp() / self.raw + mean**2 / self.raw + self.raw.log() - log_var)
            return F.mse_loss(y, x) + kl.sum(1).mean()
        kl = kl_divergence(q, Normal(0, 1)).sum(1).mean()
        if self.form == "σ of a likelihood":
            return kl - Normal(y, self.raw).log_prob(x).sum(1).mean()
        return kl + 0.5 * (self.raw.log() + (x - y) ** 2 / self.raw).sum(1).mean()


@pytest.mark.parametrize(
    "form", ["σ of a prior", "variance of a prior", "σ of a likelihood", "variance of a likelihood"]
)
def test_a_parameter_that_is_a_scale_is_patched(form: str) -> None:
    torch.manual_seed(0)
    model, x = OfAParameter(form), torch.rand(5, 6)
    heads = scan(model, x)
    kind, _, role = form.rpartition(" ")
    convention = "sigma" if kind.startswith("σ") else "variance"
    assert [(h.path, h.role, str(h.convention)) for h in heads if h.parameter] == [("raw", role, convention)]
    handle = patch(model, heads=heads, **{role: "bounded(0.1, 2)"}, posterior="explin", paper=True)
    model.raw.data.fill_(-5.0)  # no σ of the host's, which would be NaN
    assert torch.isfinite(model(x))
    handle.unpatch()


class TrustRegion(nn.Module):
    """A policy's log σ is a parameter; the KL to its own detached copy is zero, and its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.zeros(1, 2))

    def forward(self, state: Tensor, action: Tensor, advantage: Tensor) -> Tensor:
        mean = self.mean(state)
        log_std = self.log_std.expand_as(mean)
        std = log_std.exp()
        log_prob = (-((action - mean) ** 2) / (2 * std**2) - log_std).sum(1)
        m, s, ls = mean.detach(), std.detach(), log_std.detach()
        kl = (log_std - ls + (s**2 + (m - mean) ** 2) / (2 * std**2) - 0.5).sum(1)
        return kl.mean() - (torch.exp(log_prob - log_prob.detach()) * advantage).mean()


def test_a_log_scale_less_its_own_copy_is_no_other_use_of_it() -> None:
    torch.manual_seed(0)
    model, batch = TrustRegion(), (torch.randn(6, 4), torch.randn(6, 2), torch.randn(6))
    heads = scan(model, *batch)
    assert [(h.path, h.role, str(h.convention)) for h in heads] == [("log_std", "likelihood", "log_sigma")]
    patch(model, heads=heads, likelihood="upbounded")
