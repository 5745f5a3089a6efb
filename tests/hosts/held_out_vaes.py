"""VAEs that the scan was not tuned on: images, tables, functions, graphs, sounds.

Each is written in the manner of one field's public code, with its true heads and the reason for them beside it. They
were finished before the scan saw any of them, and are not changed for its sake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.utils.parametrizations import weight_norm
from zoo import Case, TrueHead, images, rows


@dataclass(frozen=True)
class StridedHead(TrueHead):
    """Every `step`-th channel from `start` to `stop`: means and scales interleaved."""

    step: int = 2


def half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hidden_layer(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out, momentum=0.01, eps=0.001), nn.ReLU())


class CellEncoder(nn.Module):
    """Single-cell analysis: a mean, and a variance that is exp(.) with a floor."""

    def __init__(self, n_in: int, n_latent: int) -> None:
        super().__init__()
        self.encoder = hidden_layer(n_in, 16)
        self.mean_encoder = nn.Linear(16, n_latent)
        self.var_encoder = nn.Linear(16, n_latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.encoder(x)
        q_m = self.mean_encoder(q)
        q_v = torch.exp(self.var_encoder(q)) + 1e-4
        return q_m, q_v, Normal(q_m, q_v.sqrt()).rsample()


class SingleCell(nn.Module):
    """Counts under a negative binomial; a Normal latent, and a Normal for the logarithm of the library's size."""

    def __init__(self, n_genes: int = 7) -> None:
        super().__init__()
        self.px_r = nn.Parameter(torch.randn(n_genes))
        self.z_encoder = CellEncoder(n_genes, 3)
        self.l_encoder = CellEncoder(n_genes, 1)
        self.decoder = hidden_layer(3, 16)
        self.px_scale = nn.Sequential(nn.Linear(16, n_genes), nn.Softmax(dim=-1))

    def forward(self, x: Tensor, library_mean: Tensor, library_var: Tensor) -> Tensor:
        log_x = torch.log(1 + x)
        qz_m, qz_v, z = self.z_encoder(log_x)
        ql_m, ql_v, library = self.l_encoder(log_x)
        rate = torch.exp(library) * self.px_scale(self.decoder(z))
        theta = torch.exp(self.px_r)
        log_sum = torch.log(theta + rate + 1e-8)
        log_px = (
            theta * (torch.log(theta + 1e-8) - log_sum)
            + x * (torch.log(rate + 1e-8) - log_sum)
            + torch.lgamma(x + theta)
            - torch.lgamma(theta)
            - torch.lgamma(x + 1)
        )
        kl_z = kl_divergence(Normal(qz_m, torch.sqrt(qz_v)), Normal(torch.zeros_like(qz_m), torch.ones_like(qz_v)))
        kl_l = kl_divergence(Normal(ql_m, torch.sqrt(ql_v)), Normal(library_mean, torch.sqrt(library_var)))
        return (kl_z.sum(dim=1) + kl_l.sum(dim=1) - log_px.sum(-1)).mean()


def cells() -> tuple[Any, ...]:
    return torch.poisson(torch.full((6, 7), 3.0), generator(11)), torch.full((6, 1), 3.0), torch.full((6, 1), 0.2)


class MeanAndLogVariance(nn.Module):
    """One rung: what a ladder knows of a latent from one direction."""

    def __init__(self, n_in: int, n_latent: int) -> None:
        super().__init__()
        self.net = hidden_layer(n_in, 12)
        self.mu = nn.Linear(12, n_latent)
        self.log_var = nn.Linear(12, n_latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.net(x)
        return h, self.mu(h), F.hardtanh(self.log_var(h), min_val=-7.0, max_val=2.0)


class LadderOfThree(nn.Module):
    """A ladder: two of three posteriors merge what comes up and what comes down, weighted by precision."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList([MeanAndLogVariance(6, 4), MeanAndLogVariance(12, 3), MeanAndLogVariance(12, 2)])
        self.down = nn.ModuleList([MeanAndLogVariance(3, 4), MeanAndLogVariance(2, 3)])
        self.reconstruct = nn.Linear(4, 6)

    @staticmethod
    def draw(mu: Tensor, log_var: Tensor) -> Tensor:
        return torch.randn(mu.shape).mul(log_var.mul(0.5).exp()).add(mu)

    def forward(self, x: Tensor) -> Tensor:
        bottom_up, h = [], x
        for layer in self.up:
            h, mu, log_var = layer(h)
            bottom_up.append((mu, log_var))
        mu, log_var = bottom_up.pop()
        z = self.draw(mu, log_var)
        kl = 0.5 * torch.sum(mu**2 + log_var.exp() - log_var - 1, dim=-1)
        for layer in reversed(self.down):
            _, p_mu, p_log_var = layer(z)
            u_mu, u_log_var = bottom_up.pop()
            precision_u, precision_p = torch.exp(-u_log_var), torch.exp(-p_log_var)
            variance = 1 / (precision_u + precision_p)
            mu = (u_mu * precision_u + p_mu * precision_p) * variance
            log_var = torch.log(variance + 1e-8)
            z = self.draw(mu, log_var)
            kl = kl - 0.5 * torch.sum(
                1 + log_var - p_log_var - (log_var.exp() + (mu - p_mu) ** 2) / p_log_var.exp(), dim=-1
            )
        return (kl + F.binary_cross_entropy_with_logits(self.reconstruct(z), x.sigmoid(), reduction="sum")).mean()


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.exp(self.alpha)
        return x + (alpha + 1e-9).reciprocal() * torch.sin(x * alpha).pow(2)


class AudioAutoencoder(nn.Module):
    """Waveforms: weight-normalized convolutions, periodic activations, a softplus deviation in the bottleneck."""

    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            weight_norm(nn.Conv1d(1, 8, 7, padding=3)),
            Snake(8),
            weight_norm(nn.Conv1d(8, 8, 4, stride=2, padding=1)),
            Snake(8),
            weight_norm(nn.Conv1d(8, 2 * latent, 3, padding=1)),
        )
        self.decoder = nn.Sequential(
            weight_norm(nn.ConvTranspose1d(latent, 8, 4, stride=2, padding=1)),
            Snake(8),
            weight_norm(nn.Conv1d(8, 1, 7, padding=3)),
            nn.Tanh(),
        )

    @staticmethod
    def bottleneck(latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean, scale = latents.chunk(2, dim=1)
        stdev = F.softplus(scale) + 1e-4
        variance = stdev * stdev
        sampled = torch.randn_like(mean) * stdev + mean
        kl = (mean * mean + variance - torch.log(variance) - 1).sum(1).mean()
        return sampled, {"kl": kl}

    def forward(self, wave: Tensor) -> Tensor:
        z, info = self.bottleneck(self.encoder(wave))
        fake = self.decoder(z)
        window = torch.hann_window(16)
        spectra = [torch.stft(w.squeeze(1), 16, 4, window=window, return_complex=True).abs() for w in (fake, wave)]
        return F.l1_loss(spectra[0], spectra[1]) + F.l1_loss(fake, wave) + 1e-2 * info["kl"]


def waves() -> tuple[Any, ...]:
    return (torch.randn(2, 1, 64, generator=generator(12)).tanh(),)


class LatentPath(nn.Module):
    """The mean over points, then a mean and a bounded sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16))
        self.penultimate = nn.Linear(16, 16)
        self.mean_layer = nn.Linear(16, 5)
        self.std_layer = nn.Linear(16, 5)

    def forward(self, x: Tensor, y: Tensor) -> Normal:
        h = torch.relu(self.penultimate(self.points(torch.cat([x, y], dim=-1)).mean(dim=1)))
        sigma = 0.1 + 0.9 * torch.sigmoid(self.std_layer(h))
        return Normal(self.mean_layer(h), sigma)


class NeuralProcess(nn.Module):
    """A function's posterior from targets, its prior from contexts, by one encoder; a bounded predictive sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = LatentPath()
        self.decoder = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> Tensor:
        prior = self.latent(xc, yc)
        posterior = self.latent(xt, yt)
        z = posterior.rsample().unsqueeze(1).expand(-1, xt.shape[1], -1)
        mu, log_sigma = torch.split(self.decoder(torch.cat([xt, z], dim=-1)), 1, dim=-1)
        sigma = 0.1 + 0.9 * F.softplus(log_sigma)
        log_p = Normal(mu, sigma).log_prob(yt).sum(-1)
        kl = kl_divergence(posterior, prior).sum(dim=-1, keepdim=True).tile(1, xt.shape[1])
        return -torch.mean(log_p - kl / xt.shape[1])


def curves() -> tuple[Any, ...]:
    xt = torch.rand(3, 9, 1, generator=generator(13)) * 4 - 2
    yt = torch.sin(xt)
    return xt[:, :4], yt[:, :4], xt, yt


def bounded(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


class TotalCorrelation(nn.Module):
    """Aggregate densities from a minibatch: every sample under every posterior; means and scales interleaved."""

    def __init__(self, z_dim: int = 4) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, 16), nn.ReLU(), nn.Linear(16, 6))

    @staticmethod
    def log_density(sample: Tensor, mu: Tensor, logsigma: Tensor) -> Tensor:
        tmp = (sample - mu) * torch.exp(-logsigma)
        return -0.5 * (tmp * tmp + 2 * logsigma + math.log(2 * math.pi))

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        params = self.encoder(x).view(n, self.z_dim, 2)
        mu, logsigma = params.select(-1, 0), params.select(-1, 1)
        std_z = torch.randn(mu.size(), dtype=mu.dtype)
        z = std_z * torch.exp(logsigma) + mu
        log_px = -F.binary_cross_entropy_with_logits(self.decoder(z), x.sigmoid(), reduction="none").sum(1)
        zeros = torch.zeros(1)
        log_pz = self.log_density(z, zeros, zeros).view(n, -1).sum(1)
        log_qzx = self.log_density(z, mu, logsigma).view(n, -1).sum(1)
        pairs = self.log_density(z.view(n, 1, -1), mu.view(1, n, -1), logsigma.view(1, n, -1))
        log_q_product = (torch.logsumexp(pairs, dim=1) - math.log(n * 50)).sum(1)
        log_qz = torch.logsumexp(pairs.sum(2), dim=1) - math.log(n * 50)
        elbo = log_px - (log_qzx - log_qz) - 6 * (log_qz - log_q_product) - (log_q_product - log_pz)
        return -elbo.mean()


class MaskedConv(nn.Conv2d):
    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mask = torch.ones_like(self.weight)
        middle = self.kernel_size[0] // 2
        mask[:, :, middle, middle + (kind == "B") :] = 0
        mask[:, :, middle + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelDecoder(nn.Module):
    """An autoregressive decoder of four grey levels, gated by the latent; batch norm after the statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.ELU(), nn.Conv2d(8, 8, 4, 2, 1), nn.ELU())
        self.to_mu = nn.Sequential(nn.Linear(32, 3), nn.BatchNorm1d(3))
        self.to_logvar = nn.Sequential(nn.Linear(32, 3), nn.BatchNorm1d(3))
        self.first = MaskedConv("A", 1, 16, 3, padding=1)
        self.condition = nn.Linear(3, 16)
        self.levels = nn.Sequential(MaskedConv("B", 8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        target = ((x.tanh() + 1) * 2).clamp(0, 3).long().squeeze(1)
        h = self.features(x).flatten(1)
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        z = mu
        if self.training:
            z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        a, b = (self.first(x) + self.condition(z)[:, :, None, None]).chunk(2, dim=1)
        nll = F.cross_entropy(self.levels(torch.tanh(a) * torch.sigmoid(b)), target, reduction="none").sum(dim=(1, 2))
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
        return torch.mean(nll + kld)


class GraphConv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return torch.spmm(adj, torch.mm(x, self.weight))


class GraphVae(nn.Module):
    """Node embeddings by graph convolutions over a sparse adjacency; edges from inner products."""

    def __init__(self) -> None:
        super().__init__()
        self.base = GraphConv(6, 8)
        self.conv_mu = GraphConv(8, 3)
        self.conv_logstd = GraphConv(8, 3)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        n = x.size(0)
        sparse = (adj / adj.sum(1, keepdim=True)).to_sparse()
        hidden = F.relu(self.base(x, sparse))
        mu, logstd = self.conv_mu(hidden, sparse), self.conv_logstd(hidden, sparse).clamp(max=10)
        z = mu + torch.randn_like(logstd) * torch.exp(logstd)
        kl = -0.5 * torch.mean(torch.sum(1 + 2 * logstd - mu**2 - logstd.exp() ** 2, dim=1))
        return F.binary_cross_entropy_with_logits(torch.mm(z, z.t()), adj) + kl / n


def graph() -> tuple[Any, ...]:
    adj = (torch.rand(7, 7, generator=generator(15)) > 0.6).float()
    return torch.randn(7, 6, generator=generator(16)), ((adj + adj.t() + torch.eye(7)) > 0).float()


class LowerBound(torch.autograd.Function):
    """max(x, bound), with a gradient below the bound where that leads upward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, bound = ctx.saved_tensors
        return ((x >= bound) | (grad < 0)) * grad, None


class GaussianConditional(nn.Module):
    """The mass of an interval of length one under a Normal; no density, no sample: a difference of Φ."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([0.11]))

    @staticmethod
    def phi(x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-(2**-0.5) * x)

    def forward(self, y: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        y = y + torch.empty_like(y).uniform_(-0.5, 0.5)
        scales = LowerBound.apply(scales, self.bound)
        values = torch.abs(y - means)
        mass = self.phi((0.5 - values) / scales) - self.phi((-0.5 - values) / scales)
        return y, mass


class Hyperprior(nn.Module):
    """Learned image compression: side information tells the scale (first) and the mean (second) of the code."""

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(8, n, 4, 2, 1))
        self.g_s = nn.Sequential(nn.ConvTranspose2d(n, 8, 4, 2, 1), nn.LeakyReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
        self.h_a = nn.Sequential(nn.Conv2d(n, 8, 3, 1, 1), nn.LeakyReLU(), nn.Conv2d(8, 2, 4, 2, 1))
        self.h_s = nn.Sequential(nn.ConvTranspose2d(2, 8, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(8, 2 * n, 3, 1, 1))
        self.gaussian_conditional = GaussianConditional()
        self.quantile = nn.Parameter(torch.zeros(1, 2, 1, 1))
        self.slope = nn.Parameter(torch.ones(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.g_a(x)
        z = self.h_a(y)
        z_hat = z + torch.empty_like(z).uniform_(-0.5, 0.5)
        slope = F.softplus(self.slope)
        upper, lower = (torch.sigmoid(slope * (z_hat + d - self.quantile)) for d in (0.5, -0.5))
        scales_hat, means_hat = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_mass = self.gaussian_conditional(y, scales_hat, means_hat)
        bits = sum(-torch.log2(mass.clamp(min=1e-9)).sum() for mass in (upper - lower, y_mass)) / x[:, 0].numel()
        return 10 * F.mse_loss(self.g_s(y_hat), x) + bits


class AxisAlignedGaussian(nn.Module):
    """An image (with its segmentation, for the posterior) to a low-dimensional Normal."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2))
        self.conv_layer = nn.Conv2d(8, 2 * latent, (1, 1))

    def forward(self, image: Tensor, segmentation: Tensor | None = None) -> Independent:
        if segmentation is not None:
            image = torch.cat((image, segmentation), dim=1)
        encoding = self.encoder(image)
        encoding = torch.mean(torch.mean(encoding, dim=2, keepdim=True), dim=3, keepdim=True)
        mu_log_sigma = torch.squeeze(torch.squeeze(self.conv_layer(encoding), dim=2), dim=2)
        mu = mu_log_sigma[:, : self.latent]
        log_sigma = mu_log_sigma[:, self.latent :]
        return Independent(Normal(loc=mu, scale=torch.exp(log_sigma)), 1)


class ProbabilisticUnet(nn.Module):
    """Medical segmentations that differ: a prior of the image, a posterior of image and mask, their KL."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = AxisAlignedGaussian(3, 3)
        self.posterior = AxisAlignedGaussian(4, 3)
        self.unet = nn.Conv2d(3, 8, 3, padding=1)
        self.fcomb = nn.Sequential(nn.Conv2d(11, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        mask = (image.mean(1, keepdim=True) > 0).float()
        posterior_space, prior_space = self.posterior.forward(image, mask), self.prior.forward(image)
        z = posterior_space.rsample()[:, :, None, None].expand(-1, -1, *image.shape[2:])
        logits = self.fcomb(torch.cat((self.unet(image), z), dim=1))
        reconstruction = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").sum()
        return reconstruction + 10 * kl_divergence(posterior_space, prior_space).mean()


class MaskedLinear(nn.Linear):
    """Output i reads only inputs before i."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(self.in_features, self.in_features).tril(-1).repeat(self.out_features // self.in_features, 1)
        return F.linear(x, self.weight * mask, self.bias)


class InverseFlow(nn.Module):
    """The posterior's sample goes through gated autoregressive steps; its density follows from the noise itself."""

    def __init__(self, d: int = 4) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 16), nn.ELU(), nn.Linear(16, 3 * d))
        self.steps = nn.ModuleList(MaskedLinear(d, 2 * d) for _ in range(2))
        self.dec = nn.Linear(d, 6)

    def forward(self, x: Tensor) -> Tensor:
        mu, logvar, context = torch.chunk(self.enc(x), 3, dim=1)
        eps = torch.randn(mu.shape)
        z = mu + torch.exp(0.5 * logvar) * eps
        log_q = -0.5 * (eps**2 + logvar + math.log(2 * math.pi)).sum(1)
        for step in self.steps:
            m, s = step(z + context).chunk(2, dim=1)
            gate = torch.sigmoid(s + 1.5)
            z = (gate * z + (1 - gate) * m).flip(1)
            log_q = log_q - torch.log(gate + 1e-8).sum(1)
        log_p = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        return (log_q - log_p + 0.5 * ((x - self.dec(z)) ** 2).sum(1)).mean()


CASES = (
    # Both variances belong to sampled Normals with a KL; the negative binomial's dispersion is no scale of a Normal,
    # and the library's prior comes from the data.
    Case(
        SingleCell,
        cells,
        (
            TrueHead("z_encoder.var_encoder", 0, None, "posterior", lambda v: torch.sqrt(torch.exp(v) + 1e-4)),
            TrueHead("l_encoder.var_encoder", 0, None, "posterior", lambda v: torch.sqrt(torch.exp(v) + 1e-4)),
        ),
    ),
    # As in any ladder: what goes up is the posterior's part, what comes down the prior; the top has no part from above.
    Case(
        LadderOfThree,
        rows(),
        (
            *(TrueHead(f"up.{i}.log_var", 0, None, "posterior", lambda v: half(v.clamp(-7, 2))) for i in range(3)),
            *(TrueHead(f"down.{i}.log_var", 0, None, "prior", lambda v: half(v.clamp(-7, 2))) for i in range(2)),
        ),
    ),
    # The second half of the last convolution multiplies noise and is in the KL against N(0, 1).
    Case(AudioAutoencoder, waves, (TrueHead("encoder.4", 4, 8, "posterior", lambda v: F.softplus(v) + 1e-4),)),
    # One layer is the posterior (called on targets, sampled) and the prior (called on contexts); the decoder's sigma
    # is the likelihood's.
    Case(
        NeuralProcess,
        curves,
        (
            TrueHead("latent.std_layer", 0, None, "posterior", bounded),
            TrueHead("latent.std_layer", 0, None, "prior", bounded),
            TrueHead("decoder.2", 1, 2, "likelihood", lambda v: 0.1 + 0.9 * F.softplus(v)),
        ),
    ),
    # Channels 1, 3, 5, 7 are log sigma.
    Case(TotalCorrelation, rows(), (StridedHead("encoder.2", 1, 8, "posterior", step=2),)),
    # Batch norm is the last to emit the value before the exponential.
    Case(PixelDecoder, images(1, 8, 4), (TrueHead("to_logvar.1", 0, None, "posterior", half),)),
    # log sigma, cut above at 10.
    Case(GraphVae, graph, (TrueHead("conv_logstd", 0, None, "posterior", lambda v: v.clamp(max=10).exp()),)),
    # The first half is the scale of the code's Normal given the side information: decoded in latent space.
    Case(Hyperprior, images(), (TrueHead("h_s.2", 0, 4, "prior", lambda v: v.clamp(min=0.11)),)),
    # Two nets of one class, told apart by which one is sampled.
    Case(
        ProbabilisticUnet,
        images(),
        (TrueHead("posterior.conv_layer", 3, 6, "posterior"), TrueHead("prior.conv_layer", 3, 6, "prior")),
    ),
    # The first sample's scale is a head; the gates are a flow's.
    Case(InverseFlow, rows(), (TrueHead("enc.2", 4, 8, "posterior", half),)),
)
