"""A VAE of four fully connected layers for 28x28 images in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GlobalScale(nn.Module):
    """One learned number, the raw scale of every pixel of every image, as `[1, 1]`."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 1))

    def forward(self) -> Tensor:
        return self.raw


class BasicVAE(nn.Module):
    """q(z|x) = N(mu(x), sigma(x)), p(z) = N(0, 1), p(x|z) = N(mu(z), gamma(z)).

    Args:
        pixels: values of an image, which comes as `[B, pixels]`.
        mean: `identity` or `sigmoid`, how the decoder's output becomes the mean of a pixel.
        scale: `decoded`, a scale for every pixel, or `global`, one learned number.
    """

    def __init__(
        self, pixels: int = 784, hidden: int = 128, latents: int = 128, mean: str = "identity", scale: str = "decoded"
    ) -> None:
        super().__init__()
        if mean not in ("identity", "sigmoid") or scale not in ("decoded", "global"):
            raise ValueError(f"mean {mean!r} must be identity or sigmoid, scale {scale!r} decoded or global")
        self.latents, self.pixels = latents, pixels
        self.mean = mean
        outputs = 2 * pixels if scale == "decoded" else pixels
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        self.gamma = GlobalScale() if scale == "global" else None

    def forward(self, x: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
        """The negative ELBO, its two parts and the smallest pixel scale; nats per image, averaged over the batch.

        The encoder reads `x`; the likelihood is that of `target`, or of `x` if there is none.
        """
        mean_z, raw_z = self.encoder(x).split([self.latents, self.latents], dim=1)
        sigma, log_sigma = self.posterior_scale(raw_z)
        mean_x, raw_x = self.decode(mean_z + sigma * torch.randn_like(mean_z))
        gamma, log_gamma = self.likelihood_scale(raw_x)
        goal = x if target is None else target
        distortion = ((goal - mean_x) ** 2 / (2 * gamma**2) + log_gamma + 0.5 * math.log(2 * math.pi)).sum(1).mean()
        rate = (0.5 * (sigma**2 + mean_z**2 - 1) - log_sigma).sum(1).mean()
        return {"elbo": distortion + rate, "distortion": distortion, "rate": rate, "gamma_min": gamma.min()}

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the pixels, `[B, pixels]`, and their raw scale, of the same shape or `[1, 1]`."""
        output = self.decoder(z)
        value = output[:, : self.pixels]
        mean = value.sigmoid() if self.mean == "sigmoid" else value
        return mean, output[:, self.pixels :] if self.gamma is None else self.gamma()

    def posterior_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """sigma(x) and its logarithm."""
        sigma = raw.exp()
        return sigma, sigma.log()

    def likelihood_scale(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """gamma(z) and its logarithm."""
        gamma = raw.exp()
        return gamma, gamma.log()

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` mean images of latents drawn from the prior, `[n, pixels]`."""
        weight: Tensor = self.decoder[0].weight
        return self.decode(temperature * torch.randn(n, self.latents, device=weight.device))[0]
