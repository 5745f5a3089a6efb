"""q(z|x) by coupling layers that are conditioned on the image, p(z) = N(0, 1), p(x|z) a Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def leaky() -> nn.Module:
    """The nonlinearity of all layers; plain rectifiers die here.

    z says nothing of x at first, so that the first updates push the encoder's units down and nothing pulls them up; one
    that is 0 for every image never comes back.
    """
    return nn.LeakyReLU(0.2)


class Coupling(nn.Module):
    """Half of the latents is scaled and shifted by functions of the other half and of the image's code."""

    def __init__(self, latents: int, code: int, hidden: int, swap: bool) -> None:
        super().__init__()
        self.swap = swap
        self.given = latents - latents // 2 if swap else latents // 2
        self.net = nn.Sequential(
            nn.Linear(self.given + code, hidden), leaky(), nn.Linear(hidden, 2 * (latents - self.given))
        )
        nn.init.zeros_(self.net[-1].weight)  # the identity at first
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, z: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """The changed latents, and the sum of the logarithms of the scales, `[B]`."""
        given, changed, log_scale, shift = self._parts(z, code)
        return self._join(given, changed * log_scale.exp() + shift), log_scale.sum(dim=-1)

    def inverse(self, z: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """The latents before, and the same sum."""
        given, changed, log_scale, shift = self._parts(z, code)
        return self._join(given, (changed - shift) * (-log_scale).exp()), log_scale.sum(dim=-1)

    def _parts(self, z: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # which half is given: the first, or of every other layer the last
        given = z[..., -self.given :] if self.swap else z[..., : self.given]
        changed = z[..., : -self.given] if self.swap else z[..., self.given :]
        log_scale, shift = self.net(torch.cat([given, code], dim=-1)).chunk(2, dim=-1)
        return given, changed, 2 * torch.tanh(log_scale / 2), shift

    def _join(self, given: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, given] if self.swap else [given, changed], dim=-1)


class PixelScale(nn.Module):
    """One learned number, the log sigma of every pixel of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self) -> Tensor:
        return self.raw


class NvpVAE(nn.Module):
    """A Normal of the image, then coupling layers; and a decoder of transposed convolutions.

    Args:
        channels: of an image `[B, channels, size, size]`.
        size: rows and columns, a multiple of 4.
        couplings: layers of the posterior; none leaves a diagonal Gaussian.
    """

    def __init__(
        self, channels: int = 1, size: int = 28, latents: int = 32, hidden: int = 256, couplings: int = 6
    ) -> None:
        super().__init__()
        if size % 4:
            raise ValueError(f"images of {size}x{size}: the size must be a multiple of 4")
        self.channels, self.size, self.latents = channels, size, latents
        grid = size // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 4, 2, 1), leaky(), nn.Conv2d(32, 32, 4, 2, 1), leaky(),
            nn.Flatten(), nn.Linear(32 * grid * grid, hidden), leaky(),
        )  # fmt: skip
        self.mean = nn.Linear(hidden, latents)
        self.log_sigma = nn.Linear(hidden, latents)
        self.couplings = nn.ModuleList(Coupling(latents, hidden, hidden, bool(i % 2)) for i in range(couplings))
        self.decoder = nn.Sequential(
            nn.Linear(latents, hidden), leaky(), nn.Linear(hidden, 32 * grid * grid), leaky(),
            nn.Unflatten(1, (32, grid, grid)),
            nn.ConvTranspose2d(32, 32, 4, 2, 1), leaky(), nn.ConvTranspose2d(32, 32, 4, 2, 1), leaky(),
        )  # fmt: skip
        self.emit = nn.Conv2d(32, channels, 3, padding=1)
        self.pixel_scale = PixelScale()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The negative ELBO and its two parts; nats an image, averaged over the batch."""
        z, log_q = self.infer(x)
        distortion = -log_normal(x, self.decode(z), self.pixel_scale()).sum(dim=(1, 2, 3)).mean()
        rate = (log_q - self.log_prior(z)).mean()
        return {"elbo": distortion + rate, "distortion": distortion, "rate": rate}

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of z, `[B, latents]`, and log q of it in nats, `[B]`."""
        code = self.encoder(x)
        mean, log_sigma = self.mean(code), self.log_sigma(code)
        noise = torch.randn_like(mean)
        z = mean + torch.exp(log_sigma) * noise
        log_q = -(0.5 * noise**2 + log_sigma + HALF_LOG_2PI).sum(dim=1)
        for coupling in self.couplings:
            z, log_scale = coupling(z, code)
            log_q = log_q - log_scale
        return z, log_q

    def log_posterior(self, z: Tensor, code: Tensor) -> Tensor:
        """log q of latents `[..., latents]` for codes `[..., hidden]` of images, in nats: the layers backwards."""
        total = torch.zeros_like(z[..., 0])
        for coupling in reversed(self.couplings):
            z, log_scale = coupling.inverse(z, code)
            total = total - log_scale
        return total + log_normal(z, self.mean(code), self.log_sigma(code)).sum(dim=-1)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) in nats, `[B]`."""
        return -(0.5 * z**2 + HALF_LOG_2PI).sum(dim=-1)

    def decode(self, z: Tensor) -> Tensor:
        """The means of the pixels, `[B, channels, size, size]`."""
        return self.emit(self.decoder(z))

    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` mean images of latents drawn from the prior."""
        z = temperature * torch.randn(n, self.latents, device=self.pixel_scale.raw.device)
        return self.decode(z)


def log_normal(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(x; mean, sigma) elementwise, in nats."""
    return -0.5 * ((x - mean) * torch.exp(-log_sigma)) ** 2 - log_sigma - HALF_LOG_2PI
