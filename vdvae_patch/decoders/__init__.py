"""Decoders: the likelihood of an image, from the parameters that a network emits.

    decoder = decoders.get("optimal", pixels=PixelGrid(0, 1))
    network_ends_in = decoder.channels(3)
    nll = decoder.nll(x, parameters)            # nats an image, [B]
    bits = decoder.bits_per_dim(x, parameters)  # by the mass of each pixel's bin, [B]
    decoder.mean(parameters), decoder.sample(parameters, generator)

Every one sums over pixels and channels, so that rate + nll is a bound with beta 1. The Gaussian ones give a density,
which says nothing beside a discrete likelihood until both are the mass of a pixel's bin: `mass_nll` and `bits_per_dim`.

| name | channels of C | what it is |
|---|---|---|
| `fixed(sigma=1)` | C | Gaussian, σ given |
| `shared(scale=bounded)` | C | Gaussian, one learned σ |
| `optimal` | C | Gaussian, σ² the mean squared error |
| `per_image(scale=bounded)` | C + 1 | Gaussian, a σ for each image |
| `per_pixel(scale=bounded)` | 2 C | Gaussian, a σ for each value |
| `bernoulli` | C | two values |
| `categorical` | 256 C | 256 values, each with a logit |
| `logistic(scale=bounded)` | 2 C | discretized logistic |
| `logistic_mixture(components=10)` | 10 K for 3, 3 K for 1 | VDVAE's mixture |

Sources: "Simple and effective VAE training with calibrated decoders"; "Re-parameterizing VAEs for stability",
section 4; PixelCNN++ (https://arxiv.org/abs/1701.05517).
"""

from __future__ import annotations

from vdvae_patch.decoders.decoder import DECODERS, CollapseWarning, Decoder, get
from vdvae_patch.decoders.discrete import Bernoulli, Categorical
from vdvae_patch.decoders.gaussian import Fixed, Gaussian, PerImage, PerPixel, Shared
from vdvae_patch.decoders.logistic import Logistic, LogisticMixture
from vdvae_patch.decoders.optimal import Optimal
from vdvae_patch.pixel_grid import PixelGrid

__all__ = [
    "DECODERS",
    "Bernoulli",
    "Categorical",
    "CollapseWarning",
    "Decoder",
    "Fixed",
    "Gaussian",
    "Logistic",
    "LogisticMixture",
    "Optimal",
    "PerImage",
    "PerPixel",
    "PixelGrid",
    "Shared",
    "get",
]
