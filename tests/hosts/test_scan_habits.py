"""Layouts that public code has by habit: heads in containers, of several views, stacked, reshaped, of a teacher."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch.patching import patch
from vdvae_patch.scanning import scan


def kl_of(mean: Tensor, sigma: Tensor) -> Tensor:
    return (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(-1).mean()


class Coder(nn.Module):
    truth: tuple[tuple[str, str, str], ...] = (("head", "4:8", "posterior"),)

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dec = nn.Linear(6, 8), nn.Linear(4, 6)


class ByName(nn.Module):
    truth = (("modes.a", "4:8", "posterior"), ("modes.b", "4:8", "posterior"))

    def __init__(self) -> None:
        super().__init__()
        self.modes = nn.ModuleDict({name: nn.Linear(6, 8) for name in "ab"})
        self.dec = nn.ModuleDict({name: nn.Linear(4, 6) for name in "ab"})

    def forward(self, x: Tensor) -> Tensor:
        loss = x.new_zeros(())
        for name in "ab":
            mean, raw = self.modes[name](x).chunk(2, 1)
            law = Normal(mean, F.softplus(raw) + 1e-3)
            loss = loss + F.mse_loss(self.dec[name](law.rsample()), x) + kl_divergence(law, Normal(0.0, 1.0)).mean()
        return loss


class Views(Coder):
    def forward(self, x: Tensor) -> Tensor:
        views = [x, x.flip(1), x + 0.1]
        mean, raw = torch.stack([self.head(view) for view in views]).chunk(2, -1)
        sigma = F.softplus(raw) + 1e-4
        z = mean + sigma * torch.randn_like(mean)
        return F.mse_loss(self.dec(z), torch.stack(views)) + kl_of(mean, sigma)


class StackedAgain(Coder):
    def forward(self, x: Tensor) -> Tensor:
        statistics = torch.stack(self.head(x).chunk(2, 1), dim=1)
        mean, log_var = statistics[:, 0], statistics[:, 1].clamp(-10, 10)
        sigma = (0.5 * log_var).exp()
        return F.mse_loss(self.dec(mean + sigma * torch.randn_like(mean)), x) + kl_of(mean, sigma)


class Reshaped(Coder):
    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.head(x).reshape(len(x), 2, 4).permute(1, 0, 2)
        sigma = F.softplus(raw).clamp(min=1e-4)
        return F.mse_loss(self.dec(torch.addcmul(mean, sigma, torch.randn_like(sigma))), x) + kl_of(mean, sigma)


class OfParameters(Coder):
    truth = (("named.log_sigma", ":", "likelihood"),)

    def __init__(self) -> None:
        super().__init__()
        self.net, self.named = nn.Linear(6, 6), nn.ParameterDict({"log_sigma": nn.Parameter(torch.zeros(6))})

    def forward(self, x: Tensor) -> Tensor:
        return -Normal(self.net(x), self.named["log_sigma"].exp() + 1e-4).log_prob(x.roll(1, 0)).mean()


class Taught(Coder):
    truth = (("head", "4:8", "posterior"), ("teacher", "4:8", "prior"))

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(6, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.head(x).chunk(2, 1)
        with torch.no_grad():
            other, other_log_var = self.teacher(x + 0.1).chunk(2, 1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        kl = 0.5 * (other_log_var - log_var + (log_var.exp() + (mean - other) ** 2) / other_log_var.exp() - 1)
        return F.mse_loss(self.dec(z), x) + kl.sum(1).mean()


@pytest.mark.medium
@pytest.mark.parametrize("host", [ByName, Views, StackedAgain, Reshaped, OfParameters, Taught])
def test_the_heads_are_found_in_their_layout_patched_and_trained(host: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = host(), torch.randn(7, 6)
    heads = scan(model, x)
    assert tuple((head.path, head.channels, head.role) for head in heads) == host.truth
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch(model, heads=heads, **dict.fromkeys({head.role for head in heads}, "explin"))
    model(x).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
