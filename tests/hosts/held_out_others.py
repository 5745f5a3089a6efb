"""Models without a Normal head that the scan was not tuned on, with what resembles one."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import generator
from torch import Tensor, nn
from zoo import Case, images, rows


class DiffusionUnet(nn.Module):
    """Noise prediction: a fixed schedule multiplies the noise; the time embedding scales and shifts features."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.down, self.middle = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.up, self.out = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.Conv2d(11, 3, 3, padding=1)
        self.register_buffer("alphas_bar", torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100), 0))

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(4) / 4)
        angles = t[:, None].float() * frequencies
        emb = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        scale, shift = emb[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.down(x))
        h = h + self.middle(F.silu(self.norm(h) * (1 + scale) + shift))
        return self.out(torch.cat([self.up(h), x], 1))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(0, 100, (len(x),))
        noise = torch.randn_like(x)
        a = self.alphas_bar[t][:, None, None, None]
        return F.mse_loss(self.predict(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)


class LanguageModel(nn.Module):
    """Rotary attention with a learned logit scale, gated units, root-mean-square norms, a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.gain = nn.Parameter(torch.ones(8))
        self.up, self.down = nn.Linear(8, 32), nn.Linear(16, 8)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def rms(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain

    @staticmethod
    def rotate(h: Tensor, angle: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        q, k, v = self.qkv(self.rms(x)).chunk(3, -1)
        angle = torch.arange(tokens.shape[1])[:, None] * torch.exp(-torch.arange(4.0))
        q, k = (self.rotate(F.normalize(h, dim=-1), angle) for h in (q, k))
        bias = torch.full((tokens.shape[1],) * 2, float("-inf")).triu(1)
        scores = q @ k.transpose(1, 2) * self.logit_scale.clamp(max=math.log(100)).exp() + bias
        x = x + scores.softmax(-1) @ v
        a, b = self.up(self.rms(x)).chunk(2, -1)
        x = x + self.down(F.silu(a) * b)
        logits = x @ self.emb.weight.T / self.log_temperature.exp()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def text() -> tuple[Any, ...]:
    return (torch.randint(0, 11, (3, 7), generator=generator(31)),)


class DecayingRnn(nn.Module):
    """Clinical series with gaps: exp(−relu(.)) lets the last value and the hidden state decay; gates by sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma_x, self.gamma_h = nn.Linear(6, 6), nn.Linear(6, 8)
        self.gates, self.candidate = nn.Linear(20, 16), nn.Linear(20, 8)
        self.register_buffer("mean", torch.zeros(6))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor, mask: Tensor, delta: Tensor) -> Tensor:
        h, last = torch.zeros(x.shape[1], 8), torch.zeros(x.shape[1], 6)
        for x_t, m, d in zip(x, mask, delta, strict=True):
            decay_x, decay_h = torch.exp(-F.relu(self.gamma_x(d))), torch.exp(-F.relu(self.gamma_h(d)))
            last = torch.where(m > 0, x_t, last)
            x_hat = m * x_t + (1 - m) * (decay_x * last + (1 - decay_x) * self.mean)
            h = decay_h * h
            r, z = torch.sigmoid(self.gates(torch.cat([x_hat, h, m], -1))).chunk(2, -1)
            h = (1 - z) * h + z * torch.tanh(self.candidate(torch.cat([x_hat, r * h, m], -1)))
        return F.binary_cross_entropy_with_logits(self.out(h).squeeze(-1), (x[0, :, 0] > 0).float())


def gaps() -> tuple[Any, ...]:
    g = generator(32)
    x = torch.randn(4, 5, 6, generator=g)
    return x, (torch.rand(4, 5, 6, generator=g) > 0.4).float(), torch.rand(4, 5, 6, generator=g)


class StyleGenerator(nn.Module):
    """Modulated convolutions and noise of learned strength; the path-length penalty multiplies an image by noise."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8))
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.style = nn.Linear(8, 8)
        self.weight = nn.Parameter(0.2 * torch.randn(8, 8, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.to_rgb = nn.Conv2d(8, 3, 1)
        self.critic = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1))

    def generate(self, w: Tensor) -> Tensor:
        style = self.style(w) + 1
        weight = self.weight[None] * style[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        h = F.interpolate(self.constant.expand(len(w), -1, -1, -1), scale_factor=2)
        h = F.conv2d(h.reshape(1, -1, 8, 8), weight.flatten(0, 1), padding=1, groups=len(w)).view(len(w), 8, 8, 8)
        h = F.leaky_relu(h + self.noise_strength * torch.randn(len(w), 1, 8, 8), 0.2)
        return self.to_rgb(h)

    def forward(self, real: Tensor) -> Tensor:
        w = self.mapping(F.normalize(torch.randn(len(real), 4), dim=1))
        fake = self.generate(w)
        noise = torch.randn_like(fake) / math.sqrt(64)
        (grad,) = torch.autograd.grad((fake * noise).sum(), w, create_graph=True)
        lengths = grad.pow(2).sum(1).sqrt()
        penalty = (lengths - lengths.detach().mean()).pow(2).mean()
        adversarial = F.softplus(self.critic(fake)).mean() + F.softplus(-self.critic(real)).mean()
        return adversarial + 2 * penalty


class SplineFlow(nn.Module):
    """Rational-quadratic splines with softmax widths and softplus slopes; learned scale and shift; N(0, 1) below."""

    def __init__(self, bins: int = 4) -> None:
        super().__init__()
        self.bins = bins
        self.log_scale, self.shift = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3 * (3 * bins + 1))) for _ in range(2)
        )

    def spline(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        w, h, d = params.split([self.bins, self.bins, self.bins + 1], -1)
        widths, heights = (0.01 + (1 - 0.01 * self.bins) * F.softmax(p, -1) for p in (w, h))
        slopes = 1e-3 + F.softplus(d)
        edges = F.pad(widths.cumsum(-1), (1, 0)) * 6 - 3
        levels = F.pad(heights.cumsum(-1), (1, 0)) * 6 - 3
        inside = (x > -3) & (x < 3)
        x_in = x.clamp(-2.999, 2.999)
        k = (torch.searchsorted(edges.detach(), x_in.unsqueeze(-1)) - 1).clamp(0, self.bins - 1)
        left, low, width, height, s0, s1 = (
            t.gather(-1, i).squeeze(-1)
            for t, i in ((edges, k), (levels, k), (widths * 6, k), (heights * 6, k), (slopes, k), (slopes, k + 1))
        )
        theta, mean = (x_in - left) / width, height / width
        mixed = theta * (1 - theta)
        denominator = mean + (s0 + s1 - 2 * mean) * mixed
        y = low + height * (mean * theta**2 + s0 * mixed) / denominator
        slope = mean**2 * (s1 * theta**2 + 2 * mean * mixed + s0 * (1 - theta) ** 2) / denominator**2
        return torch.where(inside, y, x), torch.where(inside, slope.log(), torch.zeros_like(x))

    def forward(self, x: Tensor) -> Tensor:
        z, log_det = (x - self.shift) * torch.exp(-self.log_scale), -self.log_scale.sum()
        for net in self.nets:
            a, b = z.chunk(2, 1)
            b, ld = self.spline(b, net(a).view(len(x), 3, -1))
            z, log_det = torch.cat([b, a], 1), log_det + ld.sum(1)
        base = torch.distributions.Normal(torch.zeros(6), torch.ones(6))
        return -(base.log_prob(z).sum(1) + log_det).mean()


class Reinforce(nn.Module):
    """A categorical policy with an entropy bonus, a baseline, and exponentially weighted advantages."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.policy, self.value = nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, obs: Tensor, returns: Tensor) -> Tensor:
        h = self.body(obs)
        pi = torch.distributions.Categorical(logits=self.policy(h))
        action = pi.sample()
        value = self.value(h).squeeze(-1)
        advantage = returns - value
        weight = torch.exp(advantage.detach() / 0.5).clamp(max=20)
        return (-pi.log_prob(action) * weight + 0.5 * advantage**2 - 0.01 * pi.entropy()).mean()


def returns() -> tuple[Any, ...]:
    return torch.randn(5, 6, generator=generator(33)), torch.randn(5, generator=generator(34))


class QuantileRegression(nn.Module):
    """A median and softplus steps away from it, under the pinball loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 16), nn.ReLU())
        self.median, self.spread = nn.Linear(16, 1), nn.Linear(16, 2)
        self.register_buffer("taus", torch.tensor([0.1, 0.5, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x[:, :5])
        middle, steps = self.median(h), F.softplus(self.spread(h))
        quantiles = torch.cat([middle - steps[:, :1], middle, middle + steps[:, 1:]], 1)
        error = x[:, 5:] - quantiles
        return torch.maximum(self.taus * error, (self.taus - 1) * error).sum(1).mean()


class EvidentialRegression(nn.Module):
    """A normal-inverse-gamma evidence: a Student's t for the data, no Normal with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        gamma, v, alpha, beta = self.net(x[:, :5]).split(1, -1)
        v, alpha, beta = F.softplus(v), F.softplus(alpha) + 1, F.softplus(beta)
        y = x[:, 5:]
        omega = 2 * beta * (1 + v)
        nll = 0.5 * torch.log(math.pi / v) - alpha * torch.log(omega)
        nll = nll + (alpha + 0.5) * torch.log(v * (y - gamma) ** 2 + omega)
        nll = nll + torch.lgamma(alpha) - torch.lgamma(alpha + 0.5)
        return (nll + 0.01 * (y - gamma).abs() * (2 * v + alpha)).mean()


class LaplaceRegression(nn.Module):
    """Motion forecasts: one head under PyTorch's Laplace, one under a Laplace by hand, one under a logistic."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> Tensor:
        out, y = self.net(x[:, :5]), x[:, 5:]
        loc, log_b = out[:, 0::3], out[:, 1::3]
        first = torch.distributions.Laplace(loc[:, :1], torch.exp(log_b[:, :1])).log_prob(y)
        b = F.elu(log_b[:, 1:], alpha=1.0) + 1.01
        second = -(torch.log(2 * b) + (y - loc[:, 1:]).abs() / b)
        s = F.softplus(out[:, 2:3])
        u = (y - out[:, 5:]) / s
        third = -u - torch.log(s) - 2 * F.softplus(-u)
        return -(first + second + third).mean()


class PlainRegression(nn.Module):
    """A mean under a squared error, a positive output of softplus, inputs jittered by a fixed deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        rate, amount = self.net(x[:, :5] + 0.05 * torch.randn(len(x), 5)).chunk(2, -1)
        positive = F.softplus(amount)
        poisson = torch.exp(rate) - rate * x[:, 5:].abs().round()
        return ((positive - x[:, 5:].abs()) ** 2 + poisson).mean()


class VectorQuantized(nn.Module):
    """The nearest code, straight through; no noise, no density."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.codebook = nn.Embedding(16, 4)
        nn.init.uniform_(self.codebook.weight, -1 / 16, 1 / 16)

    def forward(self, x: Tensor) -> Tensor:
        z = self.enc(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, 4)
        distance = (
            flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.codebook.weight.T + self.codebook.weight.pow(2).sum(1)
        )
        quantized = self.codebook(distance.argmin(1)).view_as(z)
        loss = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(z, quantized.detach())
        quantized = z + (quantized - z).detach()
        return F.mse_loss(self.dec(quantized.permute(0, 3, 1, 2)), x) + loss


class NoisyLayer(nn.Module):
    """Exploration: factorized noise on the weights with a learned amplitude, any sign, no density."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu, self.bias_mu = nn.Parameter(0.3 * torch.randn(n_out, n_in)), nn.Parameter(torch.zeros(n_out))
        self.weight_sigma = nn.Parameter(torch.full((n_out, n_in), 0.5 / math.sqrt(n_in)))
        self.bias_sigma = nn.Parameter(torch.full((n_out,), 0.5 / math.sqrt(n_in)))

    def forward(self, x: Tensor) -> Tensor:
        e_in, e_out = (e.sign() * e.abs().sqrt() for e in (torch.randn(x.shape[-1]), torch.randn(len(self.bias_mu))))
        weight = self.weight_mu + self.weight_sigma * torch.outer(e_out, e_in)
        return F.linear(x, weight, self.bias_mu + self.bias_sigma * e_out)


class NoisyQNetwork(nn.Module):
    """A duelling Q network with noisy layers under the Huber loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.advantage = nn.Linear(6, 8), NoisyLayer(8, 1), NoisyLayer(8, 3)

    def forward(self, obs: Tensor) -> Tensor:
        h = F.relu(self.body(obs))
        advantage = self.advantage(h)
        q = self.value(h) + advantage - advantage.mean(1, keepdim=True)
        return F.smooth_l1_loss(q[:, 0], obs[:, 0])


class ContrastivePair(nn.Module):
    """Two towers, cosine similarities times exp of a learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 5), nn.Linear(6, 5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.normalize(self.image(x), dim=-1), F.normalize(self.text(x.flip(1)), dim=-1)
        logits = self.logit_scale.exp() * a @ b.T
        labels = torch.arange(len(x))
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


class GaussianKernels(nn.Module):
    """Radial functions with learned centres and widths, as in graph convolutions over pseudo-coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(8, 6))
        self.log_widths = nn.Parameter(torch.zeros(8, 6))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        distance = (x[:, None] - self.centres) ** 2
        phi = torch.exp(-0.5 * (distance / (1e-8 + torch.exp(self.log_widths) ** 2)).sum(-1))
        return F.mse_loss(self.out(phi / (phi.sum(1, keepdim=True) + 1e-6)), x[:, :1])


class WassersteinAutoencoder(nn.Module):
    """A deterministic code, held to N(0, 1) by a kernel between codes and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.dec = nn.Linear(3, 6)

    @staticmethod
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).pow(2).sum(-1)
        return sum(c / (c + squared) for c in (0.3, 3.0, 30.0)).mean()

    def forward(self, x: Tensor) -> Tensor:
        z = self.enc(x)
        fake = math.sqrt(2) * torch.randn_like(z)
        mmd = self.kernel(z, z) + self.kernel(fake, fake) - 2 * self.kernel(z, fake)
        return F.mse_loss(self.dec(z), x) + 10 * mmd


CASES = (
    Case(DiffusionUnet, images(), ()),  # the noise's factor is a schedule's; the learned scale is FiLM's
    Case(LanguageModel, text, ()),  # temperatures and norms
    Case(DecayingRnn, gaps, ()),  # decays and gates
    Case(StyleGenerator, images(), ()),  # noise of a learned strength, with no density; a random projection
    Case(SplineFlow, rows(), ()),  # a flow's scales over a fixed base
    Case(Reinforce, returns, ()),  # categories
    Case(QuantileRegression, rows(), ()),  # distances between quantiles
    Case(EvidentialRegression, rows(), ()),  # a Student's t
    Case(LaplaceRegression, rows(), ()),  # scales of a Laplace and a logistic
    Case(PlainRegression, rows(), ()),  # a fixed deviation, a Poisson rate
    Case(VectorQuantized, images(), ()),  # nothing random
    Case(NoisyQNetwork, rows(), ()),  # a noise layer
    Case(ContrastivePair, rows(), ()),  # a logit scale
    Case(GaussianKernels, rows(), ()),  # widths of kernels: nothing normalizes them
    Case(WassersteinAutoencoder, rows(), ()),  # a deterministic code
)
