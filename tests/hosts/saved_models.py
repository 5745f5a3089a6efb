"""Models that are saved and come back, each patched in another way; importable by another process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence


def _loss(x: Tensor, decoded: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    kl = 0.5 * (torch.exp(2 * log_sigma) + mean**2 - 1) - log_sigma
    return F.mse_loss(decoded, x) + kl.mean()


class AtOutput(nn.Module):
    """A layer's output; the decoder's weight is the encoder's, transposed nowhere, so that a tensor has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8))
        self.decoder[2].weight = self.encoder[0].weight

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return _loss(x, self.decoder(z), mean, 0.5 * log_variance)


def _sigma(raw: Tensor) -> Tensor:
    return F.softplus(raw + 0.5) + 1e-3


class AtExpression(nn.Module):
    """Expressions of the host: one with a floor in a helper, one that stands twice in its method."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.prior = nn.Linear(8, 8)
        self.decoder = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, dim=1)
        sigma = _sigma(raw)
        prior_mean, prior_raw = self.prior(x).chunk(2, dim=1)
        prior_sigma = torch.exp(prior_raw).clamp(min=1e-2)
        z = mean + sigma * torch.randn_like(mean)
        ratio = (sigma**2 + (mean - prior_mean) ** 2) / (2 * prior_sigma**2)
        kl = torch.log(prior_sigma) - torch.log(sigma) + ratio - 0.5
        return F.mse_loss(self.decoder(z), x) + kl.mean()


class WithNormal(nn.Module):
    """torch's Normal, which becomes one that carries log σ."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.decoder = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.encoder(x).chunk(2, dim=1)
        posterior = Normal(mean, log_sigma.exp())
        z = posterior.rsample()
        kl = kl_divergence(posterior, Normal(torch.zeros_like(z), torch.ones_like(z)))
        return F.mse_loss(self.decoder(z), x) + kl.mean()


class WithParameter(nn.Module):
    """A learned global scale of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.decoder = nn.Linear(4, 8)
        self.log_scale = nn.Parameter(torch.full((8,), -0.3))

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance)
        density = Normal(self.decoder(z), torch.exp(self.log_scale)).log_prob(x)
        return kl.mean() - density.mean()


class WithActivation(nn.Module):
    """A Softplus as a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.mean = nn.Linear(8, 4)
        self.sigma = nn.Sequential(nn.Linear(8, 4), nn.Softplus())
        self.decoder = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encoder(x))
        mean, sigma = self.mean(h), self.sigma(h) + 1e-2
        z = mean + sigma * torch.randn_like(mean)
        return _loss(x, self.decoder(z), mean, torch.log(sigma))


ALL = {cls.__name__: cls for cls in (AtOutput, AtExpression, WithNormal, WithParameter, WithActivation)}


def build(name: str) -> nn.Module:
    """A model with raw values far enough from zero for scales to differ."""
    torch.manual_seed(0)
    model = ALL[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def batch() -> Tensor:
    """Eight rows."""
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(7))


def outputs(model: nn.Module) -> list[Tensor]:
    """Loss and gradients for fixed noise."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(batch())
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
