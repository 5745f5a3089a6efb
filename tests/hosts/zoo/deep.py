"""Several latents, residual posteriors, merged and recurrent heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Case, TrueHead, rows
from zoo.plain import half


def kl_of(m_q: Tensor, s_q: Tensor, m_p: Tensor, s_p: Tensor) -> Tensor:
    return torch.log(s_p / s_q) + (s_q**2 + (m_q - m_p) ** 2) / (2 * s_p**2) - 0.5


def soft(x: Tensor) -> Tensor:
    return x.div(5.0).tanh_().mul(5.0)


class SoftNormal:
    """A Normal with a soft-clamped log sigma and a floor; no module, made in the same way for every Normal."""

    def __init__(self, mu: Tensor, log_sigma: Tensor) -> None:
        self.mu = soft(mu)
        log_sigma = soft(log_sigma)
        self.sigma = torch.exp(log_sigma) + 1e-2

    def sample(self) -> Tensor:
        eps = self.mu.mul(0).normal_()
        return eps.mul_(self.sigma).add_(self.mu)

    def kl(self, other: SoftNormal) -> Tensor:
        a = (self.mu - other.mu) / other.sigma
        b = self.sigma / other.sigma
        return 0.5 * (a * a + b * b) - 0.5 - torch.log(b)


class ResidualSum(nn.Module):
    """The posterior is the prior plus a residual in mean and log sigma; the first prior is a fixed N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 16)
        self.q1 = nn.Linear(16, 8)
        self.p2 = nn.Linear(4, 8)
        self.q2 = nn.Linear(20, 8)
        self.out = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.enc(x))
        mu, log_sigma = self.q1(h).chunk(2, 1)
        first = SoftNormal(mu, log_sigma)
        z1 = first.sample()
        standard = SoftNormal(torch.zeros_like(z1), torch.zeros_like(z1))
        p_mu, p_ls = self.p2(z1).chunk(2, 1)
        d_mu, d_ls = self.q2(torch.cat([h, z1], 1)).chunk(2, 1)
        prior = SoftNormal(p_mu, p_ls)
        second = SoftNormal(p_mu + d_mu, p_ls + d_ls)
        z2 = second.sample()
        kl = first.kl(standard).sum(1) + second.kl(prior).sum(1)
        return (kl + (self.out(torch.cat([z1, z2], 1)) - x).abs().sum(1)).mean()


class ResidualProduct(nn.Module):
    """The posterior's sigma is the prior's times a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Linear(6, 3)
        self.prior = nn.Linear(3, 8)
        self.delta = nn.Linear(6, 8)
        self.out = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        p_mean, p_log = self.prior(torch.tanh(self.top(x.roll(1, 0)))).chunk(2, -1)
        d_mean, d_log = self.delta(x).chunk(2, -1)
        s_p = torch.exp(p_log)
        s_q = s_p * torch.exp(d_log)
        m_q = p_mean + d_mean
        z = m_q + s_q * torch.randn_like(m_q)
        return kl_of(m_q, s_q, p_mean, s_p).sum() + F.mse_loss(self.out(z), x)


class Ladder(nn.Module):
    """Bottom-up and top-down heads are merged by precision."""

    def __init__(self) -> None:
        super().__init__()
        self.up_mean = nn.Linear(6, 4)
        self.up_raw = nn.Linear(6, 4)
        self.down = nn.Linear(2, 8)
        self.seed = nn.Linear(6, 2)
        self.out = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        m_up, v_up = self.up_mean(x), F.softplus(self.up_raw(x))
        m_p, raw_p = self.down(self.seed(x)).chunk(2, 1)
        v_p = F.softplus(raw_p)
        precision = 1 / v_up + 1 / v_p
        m_q = (m_up / v_up + m_p / v_p) / precision
        s_q = torch.sqrt(1 / precision)
        z = m_q + s_q * torch.randn_like(s_q)
        return kl_of(m_q, s_q, m_p, v_p.sqrt()).sum(1).mean() + F.mse_loss(self.out(z), x)


class Recurrent(nn.Module):
    """A world model: one cell, one prior and one posterior layer at every time step, stacked for the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 8)
        self.prior = nn.Linear(8, 8)
        self.posterior = nn.Linear(14, 8)
        self.out = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], 8)
        z = torch.zeros(x.shape[1], 4)
        stats = []
        loss = torch.zeros(())
        for frame in x:
            h = self.cell(z, h)
            p_mean, p_std = self.prior(h).chunk(2, -1)
            q_mean, q_std = self.posterior(torch.cat([h, frame], -1)).chunk(2, -1)
            p_std, q_std = F.softplus(p_std) + 0.1, F.softplus(q_std) + 0.1
            z = q_mean + q_std * torch.randn_like(q_std)
            stats.append((p_mean, p_std, q_mean, q_std))
            loss = loss + F.mse_loss(self.out(torch.cat([h, z], -1)), frame)
        p_mean, p_std, q_mean, q_std = (torch.stack(s) for s in zip(*stats, strict=True))
        prior = torch.distributions.Independent(torch.distributions.Normal(p_mean, p_std), 1)
        posterior = torch.distributions.Independent(torch.distributions.Normal(q_mean, q_std), 1)
        return loss + torch.distributions.kl_divergence(posterior, prior).mean()


def video() -> tuple[Tensor]:
    return (torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(4)),)


class Vamp(nn.Module):
    """A VampPrior: the encoder's head on learned inputs is the prior's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.mean = nn.Linear(8, 4)
        self.logvar = nn.Sequential(nn.Linear(8, 4), nn.Hardtanh(-6.0, 2.0))
        self.pseudo = nn.Parameter(torch.randn(7, 6))
        self.out = nn.Linear(4, 6)

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return self.mean(h), self.logvar(h)

    def forward(self, x: Tensor) -> Tensor:
        mean, logvar = self.q(x)
        z = torch.randn_like(mean) * logvar.mul(0.5).exp_() + mean
        log_q = -0.5 * (logvar + (z - mean) ** 2 / logvar.exp()).sum(1)
        m, lv = (t.unsqueeze(0) for t in self.q(self.pseudo))
        log_p = torch.logsumexp(-0.5 * (lv + (z.unsqueeze(1) - m) ** 2 * torch.exp(-lv)).sum(2), 1)
        return (log_q - log_p).mean() + F.mse_loss(self.out(z), x)


def two_clamped(v: Tensor) -> Tensor:
    return half(v.clamp(-6, 2))


class SharedHead(nn.Module):
    """One module emits the posterior in one call and the prior in another."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 5)
        self.b = nn.Linear(6, 5)
        self.stats = nn.Linear(5, 6)
        self.out = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        m_q, l_q = self.stats(torch.tanh(self.a(x))).chunk(2, 1)
        m_p, l_p = self.stats(torch.tanh(self.b(x.flip(0)))).chunk(2, 1)
        z = m_q + torch.exp(l_q) * torch.randn_like(m_q)
        kl = l_p - l_q + (torch.exp(2 * l_q) + (m_q - m_p) ** 2) / (2 * torch.exp(2 * l_p)) - 0.5
        return kl.sum() + F.mse_loss(self.out(z), x)


def floor(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def soft_floor(v: Tensor) -> Tensor:
    return torch.exp(5 * torch.tanh(v / 5)) + 1e-2


CASES = (
    Case(
        ResidualSum,
        rows(),
        (
            TrueHead("q1", 4, 8, "posterior", soft_floor),
            TrueHead("p2", 4, 8, "prior", soft_floor),
            TrueHead("q2", 4, 8, "posterior", soft_floor),
        ),
    ),
    Case(ResidualProduct, rows(), (TrueHead("prior", 4, 8, "prior"), TrueHead("delta", 4, 8, "posterior"))),
    Case(
        Ladder,
        rows(),
        (
            TrueHead("up_raw", 0, None, "posterior", lambda v: F.softplus(v).sqrt()),
            TrueHead("down", 4, 8, "prior", lambda v: F.softplus(v).sqrt()),
        ),
    ),
    Case(Recurrent, video, (TrueHead("prior", 4, 8, "prior", floor), TrueHead("posterior", 4, 8, "posterior", floor))),
    Case(
        Vamp,
        rows(),
        (
            TrueHead("logvar.0", 0, None, "posterior", two_clamped),
            TrueHead("logvar.0", 0, None, "prior", two_clamped),
        ),
    ),
    Case(SharedHead, rows(), (TrueHead("stats", 3, 6, "posterior"), TrueHead("stats", 3, 6, "prior"))),
)
