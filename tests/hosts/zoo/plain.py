"""One latent, drawn by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Case, TrueHead, images, rows


def half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v)


class SeparateLayers(nn.Module):
    """Two layers, a log variance, the KL in the loss; the name of every second tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.fc21 = nn.Linear(16, 4)
        self.fc22 = nn.Linear(16, 4)
        self.fc3 = nn.Linear(4, 6)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return torch.sigmoid(self.fc3(self.reparameterize(mu, logvar))), mu, logvar


def separate_loss(model: nn.Module, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    bce = F.binary_cross_entropy(recon, x.sigmoid(), reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


class LyingName(nn.Module):
    """What is called logvar is log sigma; no forward at all; arithmetic in place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 8, 1)
        self.decoder = nn.Conv2d(4, 3, 1)

    def loss(self, x: Tensor) -> Tensor:
        mean, logvar = self.head(F.silu(self.body(x))).chunk(2, dim=1)
        sigma = logvar.exp()
        eps = torch.empty_like(mean).normal_()
        eps.mul_(sigma)
        z = mean + eps
        rate = (0.5 * (mean**2 + sigma**2 - 1) - logvar).sum(dim=(1, 2, 3))
        return ((x - self.decoder.forward(z)) ** 2).sum() + rate.mean()


def run_loss(model: Any, x: Tensor) -> Tensor:
    return model.loss(x)


class Latent(NamedTuple):
    mean: Tensor
    deviation: Tensor
    features: Tensor


class ThreeWays(nn.Module):
    """Split in three, softplus with a floor, a named tuple between encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 11)
        self.out = nn.Linear(7, 6)

    def encode(self, x: Tensor) -> Latent:
        mean, raw, features = torch.split(self.net(x), [4, 4, 3], dim=-1)
        return Latent(mean, F.softplus(raw) + 0.1, features)

    def forward(self, x: Tensor) -> Tensor:
        q = self.encode(x)
        z = torch.normal(q.mean, q.deviation)
        kl = -torch.log(q.deviation) + 0.5 * (q.deviation**2 + q.mean**2) - 0.5
        return ((self.out(torch.cat([z, q.features], -1)) - x) ** 2).mean() + kl.mean()


@dataclass
class Stats:
    mu: Tensor
    log_var: Tensor


class ClampedLogVariance(nn.Module):
    """A log variance cut to a range, passed in a dataclass, with a permuted layout."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = nn.Conv2d(3, 8, 1)
        self.decode = nn.Conv2d(4, 3, 1)

    def encode(self, x: Tensor) -> Stats:
        moments = self.quant(x).permute(0, 2, 3, 1)
        mu, log_var = moments.chunk(2, dim=-1)
        return Stats(mu, torch.clamp(log_var, -30.0, 20.0))

    def forward(self, x: Tensor) -> Tensor:
        stats = self.encode(x)
        std = torch.exp(0.5 * stats.log_var)
        z = stats.mu + std * torch.randn(stats.mu.shape)
        kl = 0.5 * torch.sum(stats.mu.pow(2) + stats.log_var.exp() - 1.0 - stats.log_var, dim=[1, 2, 3])
        return F.l1_loss(self.decode(z.permute(0, 3, 1, 2).contiguous()), x) + 1e-3 * kl.mean()


class OnlySampled(nn.Module):
    """No KL to be seen: the noise alone tells, and the standard deviation is a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.to_mean = nn.Linear(6, 3)
        self.to_std = nn.Linear(6, 3)
        self.back = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        std = 2 * torch.sigmoid(self.to_std(x))
        return self.back(torch.addcmul(self.to_mean(x), std, torch.randn_like(std)))


class Masked(nn.Module):
    """Speech: masked statistics, a temperature, an alignment that repeats the prior's frames."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Conv1d(3, 8, 1)
        self.text = nn.Conv1d(2, 8, 1)
        self.dec = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor, alignment: Tensor) -> Tensor:
        m_q, logs_q = torch.split(self.enc(x) * mask, 4, dim=1)
        z = (m_q + torch.randn_like(m_q) * torch.exp(logs_q)) * mask
        m_p, logs_p = self.text(text).split(4, dim=1)
        m_p = torch.matmul(m_p, alignment)
        logs_p = torch.matmul(logs_p, alignment)
        kl = logs_p - logs_q - 0.5
        kl += 0.5 * ((z - m_p) ** 2) * torch.exp(-2.0 * logs_p)
        return torch.sum(kl * mask) / torch.sum(mask) + F.mse_loss(self.dec(z), x)


def speech() -> tuple[Any, ...]:
    g = torch.Generator().manual_seed(3)
    mask = torch.ones(2, 1, 6)
    mask[1, :, 4:] = 0
    alignment = torch.eye(3).repeat_interleave(2, dim=1).expand(2, 3, 6).contiguous()
    return torch.randn(2, 3, 6, generator=g), torch.randn(2, 2, 3, generator=g), mask, alignment


@torch.jit.script
def scripted_draw(mean: Tensor, log_sigma: Tensor) -> Tensor:
    return mean + torch.exp(log_sigma) * torch.randn_like(mean)


@torch.jit.script
def scripted_kl(m1: Tensor, m2: Tensor, ls1: Tensor, ls2: Tensor) -> Tensor:
    return -0.5 + ls2 - ls1 + 0.5 * (ls1.exp() ** 2 + (m1 - m2) ** 2) / (ls2.exp() ** 2)


class Scripted(nn.Module):
    """Sampling and KL in TorchScript; a prior that training never samples; unbind of a reshaped output."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 8)
        self.ctx = nn.Parameter(torch.randn(1, 3))
        self.prior = nn.Linear(3, 8)
        self.dec = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, log_sigma = self.enc(x).view(-1, 2, 4).unbind(1)
        p_mean, p_log_sigma = self.prior(self.ctx.expand(x.shape[0], -1)).view(-1, 2, 4).unbind(1)
        z = scripted_draw(mean, log_sigma)
        kl = scripted_kl(mean, p_mean, log_sigma, p_log_sigma)
        return {"loss": kl.sum(1).mean() + F.mse_loss(self.dec(z), x), "z": z}


CASES = (
    Case(SeparateLayers, rows(), (TrueHead("fc22", 0, None, "posterior", half),), separate_loss),
    Case(LyingName, images(), (TrueHead("head", 4, 8, "posterior"),), run_loss),
    Case(ThreeWays, rows(), (TrueHead("net", 4, 8, "posterior", lambda v: F.softplus(v) + 0.1),)),
    Case(ClampedLogVariance, images(), (TrueHead("quant", 4, 8, "posterior", lambda v: half(v.clamp(-30, 20))),)),
    Case(OnlySampled, rows(), (TrueHead("to_std", 0, None, "posterior", lambda v: 2 * v.sigmoid()),)),
    Case(Masked, speech, (TrueHead("enc", 4, 8, "posterior"), TrueHead("text", 4, 8, "prior"))),
    Case(Scripted, rows(), (TrueHead("enc", 4, 8, "posterior"), TrueHead("prior", 4, 8, "prior"))),
)
