"""Models without a Normal head, with what resembles one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Case, images, rows


class ResNet(nn.Module):
    """Convolutions, batch norm, dropout, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2, self.b2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.b1(self.c1(x)))
        h = F.dropout(h + self.b2(self.c2(h)), 0.1)
        return F.cross_entropy(self.fc(h.mean((2, 3))), torch.zeros(len(x), dtype=torch.long))


class Transformer(nn.Module):
    """Attention with a learned logit scale, GELU by hand, layer norm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.scale = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        h = x + (q @ k.T * self.scale.exp()).softmax(-1) @ v
        h = (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, keepdim=True) + 1e-5) * self.gain
        h = self.mlp(h)
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        return F.mse_loss(h, x)


class GAN(nn.Module):
    """A generator from noise, with noise injected by a learned strength, and a noisy layer."""

    def __init__(self) -> None:
        super().__init__()
        self.g1, self.g2 = nn.Linear(4, 8), nn.Linear(8, 6)
        self.strength = nn.Parameter(torch.full((8,), 0.1))
        self.noisy = nn.Parameter(torch.full((1, 6), 0.1))
        self.d = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.g1(torch.randn(len(x), 4))
        h = F.leaky_relu(h + self.strength * torch.randn_like(h))
        fake = self.g2(h)
        weight = self.d.weight + F.softplus(self.noisy) * torch.randn(1, 6)
        return F.softplus(-F.linear(x + 0.1 * torch.randn_like(x), weight)).mean() + F.softplus(self.d(fake)).mean()


class Flow(nn.Module):
    """Affine couplings with learned log-scales, run both ways; its base is a standard Normal."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Linear(3, 6) for _ in range(4))
        self.act = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        z, logdet = x * self.act.exp(), self.act.sum()
        for net in self.nets:
            a, b = z.chunk(2, 1)
            log_s, t = net(a).chunk(2, 1)
            log_s = torch.tanh(log_s)
            z = torch.cat([(b - t) * torch.exp(-log_s), a], 1)
            logdet = logdet - log_s.sum(1)
        loss = (0.5 * z**2 + 0.5 * math.log(2 * math.pi)).sum(1) - logdet
        self.generate(len(x))
        return loss.mean()

    def generate(self, n: int) -> Tensor:
        z = torch.randn(n, 6)
        for net in self.nets:
            a, b = z.chunk(2, 1)
            log_s, t = net(a).chunk(2, 1)
            z = torch.cat([b * torch.exp(torch.tanh(log_s)) + t, a], 1)
        return z


class LogisticMixture(nn.Module):
    """A mixture of logistics with learned scales, and Gumbel noise with a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        logits, means, log_scales = self.net(x).chunk(3, 1)
        inv = torch.exp(-log_scales.clamp(min=-7))
        centred = x - means
        mass = torch.sigmoid(inv * (centred + 1 / 255)) - torch.sigmoid(inv * (centred - 1 / 255))
        u = torch.rand_like(means)
        draw = means + torch.exp(log_scales) * (torch.log(u) - torch.log(1 - u))
        gumbel = (logits - torch.log(-torch.log(torch.rand_like(logits)))) / 0.5
        loss = torch.logsumexp(torch.log(mass.clamp(min=1e-12)) + logits.log_softmax(1), 1)
        return -loss.mean() + 0 * (draw * gumbel.softmax(1)).sum()


class Autoencoder(nn.Module):
    """A denoising autoencoder with a weighted squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.d, self.w = nn.Linear(6, 3), nn.Linear(3, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        z = F.silu(self.e(x + 0.3 * torch.randn_like(x)))
        return (torch.sigmoid(self.w(x)) * (self.d(z) - x) ** 2).mean() + 1e-3 * z.abs().mean()


CASES = (
    Case(ResNet, images(), ()),
    Case(Transformer, rows(), ()),
    Case(GAN, rows(), ()),
    Case(Flow, rows(), ()),
    Case(LogisticMixture, rows(), ()),
    Case(Autoencoder, rows(), ()),
)
