"""What the model is made of: Normal arithmetic, convolutions, the bottleneck block and the output network."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hps import Hyperparams
from .mixture import LogisticMixture

_FIVE_BIT_DATASETS = frozenset({"ffhq_256"})


def gaussian_analytical_kl(mu1: Tensor, mu2: Tensor, logsigma1: Tensor, logsigma2: Tensor) -> Tensor:
    """KL(N(μ₁, σ₁) ‖ N(μ₂, σ₂)) elementwise, in nats.

        -1/2 + log σ₂ - log σ₁ + (σ₁² + (μ₁ - μ₂)²) / (2 σ₂²)

    The squares are taken of exponentials. In float32 σ² is 0 below log σ = -52 and infinite above 44.3, so the quotient
    becomes infinite or NaN while the divergence itself is an ordinary number.
    """
    var1 = logsigma1.exp().square()
    var2 = logsigma2.exp().square()
    second_moment = var1 + (mu1 - mu2).square()
    return -0.5 + logsigma2 - logsigma1 + 0.5 * second_moment / var2


def draw_gaussian_diag_samples(mu: Tensor, logsigma: Tensor) -> Tensor:
    """z = exp(log σ) ε + μ with ε ~ N(0, 1), drawn in one piece from the default generator, in row-major order."""
    # randn_like would follow the strides of mu, which a compiler is free to choose, and a seed would mean other noise.
    noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device)
    return logsigma.exp() * noise + mu


def conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """A convolution that keeps the resolution; its bias starts at zero."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def scale_weight(layer: nn.Conv2d, factor: float) -> None:
    """Multiply a fresh layer's weight, so that a sum of many residuals starts with the variance of one."""
    with torch.no_grad():
        layer.weight.mul_(factor)


def depth_scale(n_blocks: int) -> float:
    """√(1 / n): what the last layer of each of `n_blocks` residual blocks is scaled by."""
    return math.sqrt(1 / n_blocks)


class Block(nn.Module):
    """Four times GELU then convolution (1x1, 3x3, 3x3, 1x1), narrow inside.

    If asked, the input is then added and the sum average-pooled: `[B, in_channels, r, r]` to
    `[B, out_channels, r / down_rate, r / down_rate]`. At resolutions 1 and 2 a 3x3 window is mostly padding, so all
    four are 1x1 there.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        *,
        residual: bool = False,
        down_rate: int | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.down_rate = down_rate
        window = 3 if resolution > 2 else 1
        self.c1 = conv(in_channels, inner_channels, 1)
        self.c2 = conv(inner_channels, inner_channels, window)
        self.c3 = conv(inner_channels, inner_channels, window)
        self.c4 = conv(inner_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in (self.c1, self.c2, self.c3, self.c4):
            out = layer(F.gelu(out))
        if self.residual:
            out = x + out
        if self.down_rate is not None:
            out = F.avg_pool2d(out, self.down_rate)
        return out


class DmolNet(nn.Module):
    """From the trunk `[B, width, H, W]` to the likelihood of an image, a mixture of discretized logistics a pixel."""

    def __init__(self, H: Hyperparams) -> None:
        super().__init__()
        self.H = H
        self.intervals = 31 if H.dataset in _FIVE_BIT_DATASETS else 255
        self.out_conv = conv(H.width, 10 * H.num_mixtures, 1)

    def forward(self, px_z: Tensor) -> Tensor:
        """The mixture's parameters, `[B, H, W, 10 * num_mixtures]`."""
        parameters: Tensor = self.out_conv(px_z)
        return parameters.permute(0, 2, 3, 1)

    def nll(self, px_z: Tensor, x: Tensor) -> Tensor:
        """-log p(x | z) of targets `[B, H, W, 3]` in [-1, 1]: `[B]`, nats per dimension."""
        log_prob = LogisticMixture.from_channels(self.forward(px_z)).log_prob(x, self.intervals)
        return -log_prob.sum(dim=(1, 2)) / math.prod(x.shape[1:])

    @torch.no_grad()
    def sample(self, px_z: Tensor) -> npt.NDArray[np.uint8]:
        """Images, `[B, H, W, 3]`."""
        values = LogisticMixture.from_channels(self.forward(px_z)).sample()
        pixels = ((values + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        array: npt.NDArray[np.uint8] = pixels.cpu().numpy()
        return array
