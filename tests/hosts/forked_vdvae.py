"""A fork of the embedded VDVAE, as a user may have one: `sample` counts its calls."""

from __future__ import annotations

import torch
from torch import Tensor
from vdvae_patch.upstream.vdvae.vae import DecBlock as Original
from vdvae_patch.upstream.vdvae.vae_helpers import draw_gaussian_diag_samples, gaussian_analytical_kl


class DecBlock(Original):
    """The original block, with a counter."""

    visits = 0

    def sample(self, x: Tensor, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the original, written another way."""
        self.visits += 1
        stats = self.enc(torch.cat([x, acts], dim=1))
        features = self.prior(x)
        z = draw_gaussian_diag_samples(stats[:, : self.zdim], stats[:, self.zdim :])
        prior_log_sigma = features[:, self.zdim : 2 * self.zdim]
        kl = gaussian_analytical_kl(
            stats[:, : self.zdim], features[:, : self.zdim], stats[:, self.zdim :], prior_log_sigma
        )
        return z, x + features[:, 2 * self.zdim :], kl


def kl_with_free_bits(mu1: Tensor, mu2: Tensor, logsigma1: Tensor, logsigma2: Tensor) -> Tensor:
    """A KL that somebody changed on purpose: at least a quarter of a nat."""
    ratio = ((2 * logsigma1).exp() + (mu1 - mu2) ** 2) / (2 * logsigma2).exp()
    return (logsigma2 - logsigma1 + 0.5 * ratio).clamp(0.25)
