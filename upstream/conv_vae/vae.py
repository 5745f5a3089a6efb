"""A convolutional VAE for 32x32 images, with one learned scalar for the scale of all pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LATENTS = 100


class Encoder(nn.Module):
    """Images `[B, C, 32, 32]` to the mean and the raw scale of the posterior, both `[B, latents, 1, 1]`."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _halve(channels, 16), nn.BatchNorm2d(16), nn.ReLU(),
            _halve(16, 32), nn.BatchNorm2d(32), nn.ReLU(),
            _halve(32, 64),
        )  # fmt: skip
        self.mu = nn.Conv2d(64, latents, 4)
        self.param_sigma = nn.Conv2d(64, latents, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.main(x)
        return self.mu(features), self.param_sigma(features)


class Decoder(nn.Module):
    """Latents `[B, latents, 1, 1]` to the mean of the pixels, `[B, C, 32, 32]`."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.to_same_dim = nn.ConvTranspose2d(latents, 64, 4)
        self.main = nn.Sequential(
            _double(64, 32), nn.BatchNorm2d(32), nn.ReLU(),
            _double(32, 16), nn.BatchNorm2d(16), nn.ReLU(),
            _double(16, channels),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        mean: Tensor = self.main(self.to_same_dim(z))
        return mean


class GlobalScale(nn.Module):
    """One learned number, the raw scale of every pixel of every image, as `[1, 1, 1, 1]`."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self) -> Tensor:
        return self.raw


class ConvVAE(nn.Module):
    """q(z|x) = N(mu(x), sigma(x)), p(z) = N(0, 1), p(x|z) = N(mu(z), gamma)."""

    def __init__(self, channels: int = 3, latents: int = LATENTS) -> None:
        super().__init__()
        self.latents = latents
        self.encoder = Encoder(channels, latents)
        self.decoder = Decoder(channels, latents)
        self.gamma = GlobalScale()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The negative ELBO, its two parts and the smallest pixel scale; nats per image, averaged over the batch."""
        mean, raw = self.encoder(x)
        sigma, log_sigma = self.posterior_scale(raw)
        z = mean + sigma * torch.randn_like(mean)
        gamma, log_gamma = self.likelihood_scale(self.gamma())
        distortion = gaussian_nll(x, self.decoder(z), gamma, log_gamma).sum(dim=(1, 2, 3)).mean()
        rate = kl_to_standard_normal(mean, sigma, log_sigma).sum(dim=(1, 2, 3)).mean()
        return {"elbo": distortion + rate, "distortion": distortion, "rate": rate, "gamma_min": gamma.min()}

    def posterior_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """sigma(x) and its logarithm."""
        sigma = raw.exp()
        return sigma, sigma.log()

    def likelihood_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and its logarithm."""
        gamma = raw.exp()
        return gamma, gamma.log()

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` mean images of latents drawn from the prior, `[n, C, 32, 32]`."""
        z = temperature * torch.randn(n, self.latents, 1, 1, device=self.gamma.raw.device)
        mean: Tensor = self.decoder(z)
        return mean


def kl_to_standard_normal(mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mean, sigma) ‖ N(0, 1)) elementwise, in nats."""
    return 0.5 * (sigma**2 + mean**2 - 1) - log_sigma


def gaussian_nll(x: Tensor, mean: Tensor, gamma: Tensor, log_gamma: Tensor) -> Tensor:
    """-log N(x; mean, gamma) elementwise, in nats."""
    return (x - mean) ** 2 / (2 * gamma**2) + log_gamma + 0.5 * math.log(2 * math.pi)


def _halve(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
