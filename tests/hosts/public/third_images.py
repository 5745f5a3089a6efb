"""A third look: image, 3-D, molecule, table and compression models, Bayesian networks and flows, in our own words.

Each model has the structure of the public code that its case names: which layer emits what, which expression is
computed where, which names, conventions and slips there are; the text is ours and the widths are small. Every truth was
written from reading that code, and committed before any of these models was scanned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from zoo import TrueHead

from public import PublicCase, Retold
from public.draws import half, rand, randn, tokens


def posterior(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = half) -> TrueHead:
    return TrueHead(path, start, stop, "posterior", sigma)


def prior(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = half) -> TrueHead:
    return TrueHead(path, start, stop, "prior", sigma)


def likelihood(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = half) -> TrueHead:
    return TrueHead(path, start, stop, "likelihood", sigma)


def bits(*shape: int, seed: int = 8) -> Tensor:
    return (rand(*shape, seed=seed) < 0.4).float()


def kl_to_unit(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def itself(model: Any, *inputs: Tensor) -> Tensor:
    return model(*inputs)


# ------------------------------------------------------------------------------------------------ total correlation


class NormalLaw(nn.Module):
    """Parameters lie in the last dimension: mean, log σ."""

    nparams = 2

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params.select(-1, 0), params.select(-1, 1)

    def sample(self, params: Tensor) -> Tensor:
        mu, logsigma = self.split(params)
        noise = torch.randn(mu.size()).type_as(mu)
        return noise * torch.exp(logsigma) + mu

    def log_density(self, z: Tensor, params: Tensor) -> Tensor:
        mu, logsigma = self.split(params)
        scaled = (z - mu) * torch.exp(-logsigma)
        return -0.5 * (scaled * scaled + 2 * logsigma + math.log(2 * math.pi))


class LaplaceLaw(NormalLaw):
    def sample(self, params: Tensor) -> Tensor:
        mu, logscale = self.split(params)
        u = torch.rand(mu.size()).type_as(mu) - 0.5
        return mu - torch.exp(logscale) * torch.sign(u) * torch.log(1 - 2 * torch.abs(u) + 1e-8)

    def log_density(self, z: Tensor, params: Tensor) -> Tensor:
        mu, logscale = self.split(params)
        return -torch.abs(z - mu) * torch.exp(-logscale) - math.log(2) - logscale


class TCEncoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.fc2(self.act(self.fc1(x.view(-1, 16)))))
        return self.fc3(h).view(x.size(0), -1)


class TCVAE(nn.Module):
    """An ELBO taken apart by samples: the aggregate posterior of the batch is evaluated at every sample."""

    def __init__(self, law: NormalLaw, z_dim: int = 3) -> None:
        super().__init__()
        self.z_dim, self.beta, self.q_dist, self.prior_dist = z_dim, 6.0, law, law
        self.register_buffer("prior_params", torch.zeros(z_dim, 2))
        self.encoder = TCEncoder(z_dim * law.nparams)
        self.decoder = nn.Sequential(nn.Linear(z_dim, 12), nn.Tanh(), nn.Linear(12, 16))

    def elbo(self, x: Tensor, dataset_size: int = 1000) -> Tensor:
        batch = x.size(0)
        prior_params = self.prior_params.expand((batch, *self.prior_params.size()))
        z_params = self.encoder(x).view(batch, self.z_dim, self.q_dist.nparams)
        zs = self.q_dist.sample(z_params)
        logits = self.decoder(zs)
        logpx = -F.binary_cross_entropy_with_logits(logits, x.view(batch, -1), reduction="none").sum(1)
        logpz = self.prior_dist.log_density(zs, prior_params).view(batch, -1).sum(1)
        logqz_condx = self.q_dist.log_density(zs, z_params).view(batch, -1).sum(1)
        pairs = self.q_dist.log_density(
            zs.view(batch, 1, self.z_dim), z_params.view(1, batch, self.z_dim, self.q_dist.nparams)
        )
        shift = math.log(batch * dataset_size)
        logqz_prodmarginals = (torch.logsumexp(pairs, 1) - shift).sum(1)
        logqz = torch.logsumexp(pairs.sum(2), 1) - shift
        return logpx - (logqz_condx - logqz) - self.beta * (logqz - logqz_prodmarginals) - (logqz_prodmarginals - logpz)


def tc_loss(model: Any, x: Tensor) -> Tensor:
    return model.elbo(x).mean().mul(-1)


# ------------------------------------------------------------------------------------------------ image translation


class StyleEncoder(nn.Module):
    """SPADE's image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.InstanceNorm2d(4))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.InstanceNorm2d(8))
        self.actvn = nn.LeakyReLU(0.2, False)
        self.fc_mu, self.fc_var = nn.Linear(32, 6), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.size(2) != 8:
            x = F.interpolate(x, size=(8, 8), mode="bilinear")
        x = self.actvn(self.layer2(self.actvn(self.layer1(x)))).flatten(1)
        return self.fc_mu(x), self.fc_var(x)


class SpadeNorm(nn.Module):
    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(labels, 6, 3, padding=1), nn.ReLU())
        self.mlp_gamma, self.mlp_beta = nn.Conv2d(6, channels, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)

    def forward(self, x: Tensor, seg: Tensor) -> Tensor:
        h = self.mlp_shared(F.interpolate(seg, size=x.shape[2:], mode="nearest"))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(h)) + self.mlp_beta(h)


class Spade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.netE, self.norm = StyleEncoder(), SpadeNorm(4, 2)
        self.fc, self.conv_img = nn.Linear(6, 4 * 64), nn.Conv2d(4, 3, 3, padding=1)
        self.netD = nn.Conv2d(3, 1, 3, 2, 1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std) + mu

    def forward(self, real: Tensor, seg: Tensor) -> Tensor:
        mu, logvar = self.netE(real)
        kld = kl_to_unit(mu, logvar) * 0.05
        z = self.reparameterize(mu, logvar)
        fake = torch.tanh(self.conv_img(F.leaky_relu(self.norm(self.fc(z).view(-1, 4, 8, 8), seg), 0.2)))
        return kld - self.netD(fake).mean() + 10 * F.l1_loss(fake, real)


class AttributeEncoder(nn.Module):
    """DRIT's encoder of both domains' attributes at once."""

    def __init__(self) -> None:
        super().__init__()
        for domain in "AB":
            net = [nn.ReflectionPad2d(1), nn.Conv2d(3, 6, 4, 2), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1)]
            setattr(self, f"conv_{domain}", nn.Sequential(*net))
            setattr(self, f"fc_{domain}", nn.Sequential(nn.Linear(6, 4)))
            setattr(self, f"fcVar_{domain}", nn.Sequential(nn.Linear(6, 4)))

    def forward(self, xa: Tensor, xb: Tensor) -> tuple[Tensor, ...]:
        a, b = self.conv_A(xa).view(xa.size(0), -1), self.conv_B(xb).view(xb.size(0), -1)
        return self.fc_A(a), self.fcVar_A(a), self.fc_B(b), self.fcVar_B(b)


class Drit(nn.Module):
    """It keeps what it computes in attributes, and adds and multiplies in place."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_a, self.enc_c, self.gen = AttributeEncoder(), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, image_a: Tensor, image_b: Tensor) -> None:
        self.z_content_a, self.z_content_b = self.enc_c(image_a), self.enc_c(image_b)
        self.mu_a, self.logvar_a, self.mu_b, self.logvar_b = self.enc_a(image_a, image_b)
        std_a = self.logvar_a.mul(0.5).exp_()
        eps = torch.randn(std_a.size(0), std_a.size(1))
        self.z_attr_a = eps.mul(std_a).add_(self.mu_a)
        std_b = self.logvar_b.mul(0.5).exp_()
        eps = torch.randn(std_b.size(0), std_b.size(1))
        self.z_attr_b = eps.mul(std_b).add_(self.mu_b)
        self.fake_a = self.decode(self.z_content_b, self.z_attr_a)
        self.fake_b = self.decode(self.z_content_a, self.z_attr_b)

    def decode(self, content: Tensor, attribute: Tensor) -> Tensor:
        return torch.tanh(self.gen(torch.cat([content, attribute[..., None, None].expand_as(content)], 1)))


def drit_loss(model: Any, a: Tensor, b: Tensor) -> Tensor:
    model(a, b)
    kl_a = model.mu_a.pow(2).add_(model.logvar_a.exp()).mul_(-1).add_(1).add_(model.logvar_a)
    kl_b = model.mu_b.pow(2).add_(model.logvar_b.exp()).mul_(-1).add_(1).add_(model.logvar_b)
    content = torch.mean(model.z_content_a.pow(2)) + torch.mean(model.z_content_b.pow(2))
    kl = torch.sum(kl_a).mul_(-0.5) * 0.01 + torch.sum(kl_b).mul_(-0.5) * 0.01
    return kl + 0.01 * content + F.l1_loss(model.fake_a, a) + F.l1_loss(model.fake_b, b)


# ----------------------------------------------------------------------------------------------- autoencoders


class AAEEncoder(nn.Module):
    """An adversarial autoencoder's, whose noise numpy draws."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(16, 12), nn.LeakyReLU(0.2, inplace=True), nn.Linear(12, 12), nn.BatchNorm1d(12)
        )
        self.mu, self.logvar = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, img: Tensor) -> Tensor:
        x = self.model(img.view(img.shape[0], -1))
        mu, logvar = self.mu(x), self.logvar(x)
        std = torch.exp(logvar / 2)
        sampled = torch.tensor(np.random.normal(0, 1, (mu.size(0), 4)), dtype=torch.float32)
        return sampled * std + mu


class AAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = AAEEncoder()
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.LeakyReLU(0.2), nn.Linear(12, 16), nn.Tanh())
        self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        valid = torch.ones(x.size(0), 1)
        fooled = F.binary_cross_entropy(self.discriminator(z), valid)
        return 0.001 * fooled + 0.999 * F.l1_loss(self.decoder(z), x.flatten(1))


class BetaVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.fc_mu, self.fc_var, self.fc_z = nn.Linear(36, 5), nn.Linear(36, 5), nn.Linear(5, 36)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2), nn.Sigmoid())

    def sample(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x).view(-1, 36)
        mu, logvar = self.fc_mu(h), self.fc_var(h)
        return self.decoder(self.fc_z(self.sample(mu, logvar)).view(-1, 4, 3, 3)), mu, logvar

    def loss(self, recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        rec = F.binary_cross_entropy(recon, x, reduction="sum")
        return (rec + 4 * kl_to_unit(mu, logvar)) / x.shape[0]


def beta_vae_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return model.loss(recon, x, mu, logvar)


class HierarchicalVAE(nn.Module):
    """Two levels, top-down: the lower posterior is the prior plus what the encoder says is different."""

    def __init__(self) -> None:
        super().__init__()
        self.nn_r_1 = nn.Sequential(nn.Linear(16, 10), nn.LeakyReLU())
        self.nn_r_2 = nn.Sequential(nn.Linear(10, 10), nn.LeakyReLU())
        self.nn_delta_1 = nn.Sequential(nn.Linear(10, 10), nn.LeakyReLU(), nn.Linear(10, 8))
        self.nn_delta_2 = nn.Sequential(nn.Linear(10, 10), nn.LeakyReLU(), nn.Linear(10, 8))
        self.nn_z_1 = nn.Sequential(nn.Linear(4, 10), nn.LeakyReLU(), nn.Linear(10, 8))
        self.nn_x = nn.Sequential(nn.Linear(4, 10), nn.LeakyReLU(), nn.Linear(10, 16))

    def reparameterization(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return mu + std * torch.randn_like(std)

    def forward(self, x: Tensor) -> Tensor:
        r_1 = self.nn_r_1(x)
        r_2 = self.nn_r_2(r_1)
        delta_mu_1, delta_log_var_1 = torch.chunk(self.nn_delta_1(r_1), 2, dim=1)
        delta_log_var_1 = F.hardtanh(delta_log_var_1, -7.0, 2.0)
        delta_mu_2, delta_log_var_2 = torch.chunk(self.nn_delta_2(r_2), 2, dim=1)
        delta_log_var_2 = F.hardtanh(delta_log_var_2, -7.0, 2.0)
        z_2 = self.reparameterization(delta_mu_2, delta_log_var_2)
        mu_1, log_var_1 = torch.chunk(self.nn_z_1(z_2), 2, dim=1)
        z_1 = self.reparameterization(mu_1 + delta_mu_1, log_var_1 + delta_log_var_1)
        rec = -F.binary_cross_entropy_with_logits(self.nn_x(z_1), x, reduction="none").sum(-1)
        kl_2 = 0.5 * (delta_mu_2**2 + torch.exp(delta_log_var_2) - delta_log_var_2 - 1).sum(-1)
        kl_1 = 0.5 * (delta_mu_1**2 / torch.exp(log_var_1) + torch.exp(delta_log_var_1) - delta_log_var_1 - 1).sum(-1)
        return -(rec - (kl_1 + kl_2)).mean()


def hardtanh_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.hardtanh(v, -7.0, 2.0))


class VadeEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 12), nn.ReLU(True), nn.Linear(12, 12), nn.ReLU(True))
        self.mu_l, self.log_sigma2_l = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e = self.encoder(x)
        return self.mu_l(e), self.log_sigma2_l(e)


class VaDE(nn.Module):
    """A mixture of Normals as prior, its parts are parameters."""

    def __init__(self, clusters: int = 3) -> None:
        super().__init__()
        self.encoder = VadeEncoder()
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.ReLU(True), nn.Linear(12, 16), nn.Sigmoid())
        self.pi_ = nn.Parameter(torch.ones(clusters) / clusters)
        self.mu_c = nn.Parameter(0.5 * torch.randn(clusters, 4))
        self.log_sigma2_c = nn.Parameter(0.1 * torch.randn(clusters, 4))

    def density(self, z: Tensor, mu: Tensor, log_sigma2: Tensor) -> Tensor:
        return -0.5 * torch.sum(math.log(2 * math.pi) + log_sigma2 + (z - mu).pow(2) / torch.exp(log_sigma2), 1)

    def densities(self, z: Tensor) -> Tensor:
        parts = range(len(self.pi_))
        return torch.cat(
            [self.density(z, self.mu_c[c : c + 1], self.log_sigma2_c[c : c + 1]).view(-1, 1) for c in parts], 1
        )

    def elbo_loss(self, x: Tensor) -> Tensor:
        z_mu, z_sigma2_log = self.encoder(x)
        z = torch.randn_like(z_mu) * torch.exp(z_sigma2_log / 2) + z_mu
        loss = F.binary_cross_entropy(self.decoder(z), x) * x.size(1)
        z = torch.randn_like(z_mu) * torch.exp(z_sigma2_log / 2) + z_mu
        gamma = torch.exp(torch.log(self.pi_.unsqueeze(0)) + self.densities(z)) + 1e-10
        gamma = gamma / gamma.sum(1).view(-1, 1)
        s2 = self.log_sigma2_c.unsqueeze(0)
        inner = (
            s2
            + torch.exp(z_sigma2_log.unsqueeze(1) - s2)
            + (z_mu.unsqueeze(1) - self.mu_c.unsqueeze(0)).pow(2) / torch.exp(s2)
        )
        loss = loss + 0.5 * torch.mean(torch.sum(gamma * torch.sum(inner, 2), 1))
        entropy = torch.mean(torch.sum(gamma * torch.log(self.pi_.unsqueeze(0) / gamma), 1))
        return loss - entropy - 0.5 * torch.mean(torch.sum(1 + z_sigma2_log, 1))


def vade_loss(model: Any, x: Tensor) -> Tensor:
    return model.elbo_loss(x)


class VectorQuantizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.embedding.weight.data.uniform_(-1 / 7, 1 / 7)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs = inputs.permute(0, 2, 3, 1).contiguous()
        flat = inputs.view(-1, 4)
        codes = self.embedding.weight
        distances = flat.pow(2).sum(1, keepdim=True) + codes.pow(2).sum(1) - 2 * flat @ codes.t()
        nearest = distances.argmin(1).unsqueeze(1)
        chosen = torch.zeros(len(flat), 7).scatter_(1, nearest, 1)
        quantized = (chosen @ codes).view(inputs.shape)
        loss = F.mse_loss(quantized, inputs.detach()) + 0.25 * F.mse_loss(quantized.detach(), inputs)
        quantized = inputs + (quantized - inputs).detach()
        return loss, quantized.permute(0, 3, 1, 2).contiguous()


class VQVAE(nn.Module):
    """Its reconstruction error is divided by the data's variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.vq = (
            nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)),
            VectorQuantizer(),
        )
        self.decoder = nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        vq_loss, quantized = self.vq(self.encoder(x))
        return vq_loss + F.mse_loss(self.decoder(quantized), x) / 0.06


# ------------------------------------------------------------------------------------------------ flows


class ActNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.inited = False

    def forward(self, x: Tensor, logdet: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.inited:
            with torch.no_grad():
                bias = -x.mean((0, 2, 3), keepdim=True)
                spread = ((x + bias) ** 2).mean((0, 2, 3), keepdim=True)
                self.bias.data.copy_(bias)
                self.logs.data.copy_(torch.log(1 / (spread.sqrt() + 1e-6)))
            self.inited = True
        x = (x + self.bias) * torch.exp(self.logs)
        return x, None if logdet is None else logdet + self.logs.sum() * x.size(2) * x.size(3)


class Conv2dZeros(nn.Conv2d):
    """Starts at zero, and multiplies its output by a learned positive factor."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(n_out, 1, 1))
        self.weight.data.zero_()
        self.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(self.logs * 3)


class FlowStep(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.actnorm, self.weight = (
            ActNorm2d(channels),
            nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0]),
        )
        self.f = nn.Sequential(nn.Conv2d(channels // 2, 6, 3, padding=1), nn.ReLU(), Conv2dZeros(6, channels))

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = self.actnorm(x, logdet)
        logdet = logdet + torch.linalg.slogdet(self.weight)[1] * z.size(2) * z.size(3)
        z = F.conv2d(z, self.weight[..., None, None])
        z1, z2 = z.chunk(2, 1)
        h = self.f(z1)
        shift, scale = h[:, 0::2], torch.sigmoid(h[:, 1::2] + 2.0)
        z2 = (z2 + shift) * scale
        return torch.cat([z1, z2], 1), logdet + torch.log(scale).sum((1, 2, 3))


def diagonal_logp(mean: Tensor, logs: Tensor, x: Tensor) -> Tensor:
    density = -0.5 * (logs * 2.0 + (x - mean) ** 2 / torch.exp(logs * 2.0) + math.log(2 * math.pi))
    return density.sum((1, 2, 3))


class Split2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2dZeros(channels // 2, channels)

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        z1, z2 = x.chunk(2, 1)
        h = self.conv(z1)
        return z1, logdet + diagonal_logp(h[:, 0::2], h[:, 1::2], z2)


def squeeze2d(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)


class Glow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([FlowStep(4), Split2d(4), FlowStep(8)])
        self.learn_top = Conv2dZeros(16, 16)
        self.prior_h = nn.Parameter(torch.zeros(4, 16, 2, 2))

    def prior(self) -> tuple[Tensor, Tensor]:
        h = self.learn_top(self.prior_h.detach().clone())
        return h.chunk(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[0, 0].numel()
        z = x + torch.normal(torch.zeros_like(x), torch.ones_like(x) / 256)
        objective = torch.zeros_like(x[:, 0, 0, 0]) - math.log(256.0) * pixels
        z, objective = self.layers[0](squeeze2d(z), objective)
        z, objective = self.layers[1](z, objective)
        z, objective = self.layers[2](squeeze2d(z), objective)
        mean, logs = self.prior()
        objective = objective + diagonal_logp(mean, logs, z)
        return (-objective / (math.log(2.0) * pixels)).mean()


class AffineHalfFlow(nn.Module):
    def __init__(self, parity: bool) -> None:
        super().__init__()
        self.parity = parity
        self.s_cond = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
        self.t_cond = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x0, x1 = x[:, ::2], x[:, 1::2]
        if self.parity:
            x0, x1 = x1, x0
        s, t = self.s_cond(x0), self.t_cond(x0)
        halves = [x0, torch.exp(s) * x1 + t]
        return torch.cat(halves[::-1] if self.parity else halves, 1), s.sum(1)


class RealNVP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prior = torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4))
        self.flows = nn.ModuleList([AffineHalfFlow(bool(i % 2)) for i in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        log_det = torch.zeros(len(x))
        for flow in self.flows:
            x, ld = flow(x)
            log_det = log_det + ld
        return -(self.prior.log_prob(x) + log_det).mean()


# ------------------------------------------------------------------------------------------------ diffusion


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.inner = nn.Linear(4, 6), nn.Conv2d(2, 6, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        freqs = torch.exp(-math.log(10000) * torch.arange(2) / 2)
        args = t[:, None].float() * freqs[None]
        emb = self.time(torch.cat([torch.cos(args), torch.sin(args)], -1))
        return self.out(self.inner(x) + emb[..., None, None])


def extract(values: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    return torch.from_numpy(values)[t].float()[:, None, None, None].expand(like.shape)


class Process:
    """A diffusion that learns its variance between two bounds; the mean is learned by squared error."""

    def __init__(self, steps: int = 20) -> None:
        self.betas = np.linspace(1e-3, 0.2, steps)
        kept = np.cumprod(1 - self.betas)
        before = np.append(1.0, kept[:-1])
        self.kept, self.before = kept, before
        variance = self.betas * (1 - before) / (1 - kept)
        self.log_variance = np.log(np.append(variance[1], variance[1:]))
        self.coef1 = self.betas * np.sqrt(before) / (1 - kept)
        self.coef2 = (1 - before) * np.sqrt(1 - self.betas) / (1 - kept)

    def moments(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        eps, values = torch.split(output, x_t.shape[1], dim=1)
        low, high = extract(self.log_variance, t, x_t), extract(np.log(self.betas), t, x_t)
        frac = (values + 1) / 2
        log_variance = frac * high + (1 - frac) * low
        start = extract(np.sqrt(1 / self.kept), t, x_t) * x_t - extract(np.sqrt(1 / self.kept - 1), t, x_t) * eps
        return extract(self.coef1, t, x_t) * start + extract(self.coef2, t, x_t) * x_t, log_variance

    def bound(self, output: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        true_mean = extract(self.coef1, t, x_t) * x + extract(self.coef2, t, x_t) * x_t
        true_log_variance = extract(self.log_variance, t, x_t)
        mean, log_variance = self.moments(output, x_t, t)
        kl = 0.5 * (
            -1.0
            + log_variance
            - true_log_variance
            + torch.exp(true_log_variance - log_variance)
            + (true_mean - mean) ** 2 * torch.exp(-log_variance)
        )
        kl = kl.flatten(1).mean(1) / math.log(2)
        nll = -discretized(x, mean, 0.5 * log_variance).flatten(1).mean(1) / math.log(2)
        return torch.where(t == 0, nll, kl)


def discretized(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    def cdf(v: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    inv = torch.exp(-log_scales)
    plus, minus = cdf(inv * (x - means + 1 / 255)), cdf(inv * (x - means - 1 / 255))
    middle = torch.where(x > 0.999, torch.log((1 - minus).clamp(min=1e-12)), torch.log((plus - minus).clamp(min=1e-12)))
    return torch.where(x < -0.999, torch.log(plus.clamp(min=1e-12)), middle)


def diffusion_loss(model: Any, x: Tensor, t: Tensor) -> Tensor:
    process = Process()
    noise = torch.randn_like(x)
    x_t = extract(np.sqrt(process.kept), t, x) * x + extract(np.sqrt(1 - process.kept), t, x) * noise
    output = model(x_t, t)
    eps, values = torch.split(output, x.shape[1], dim=1)
    vb = process.bound(torch.cat([eps.detach(), values], 1), x, x_t, t)
    return ((noise - eps) ** 2).flatten(1).mean(1).add(vb).mean()


# ------------------------------------------------------------------------------------------------ compression


class LowerBoundToward(torch.autograd.Function):
    """A clamp whose gradient passes below the bound if it leads upward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, bound: float) -> Tensor:
        ctx.mask = tensor.ge(bound)
        return torch.clamp(tensor, bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * torch.logical_or(ctx.mask, grad.lt(0.0)).type(grad.dtype), None


class HyperDensity(nn.Module):
    """A density by a monotone network per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.H_0, self.H_1 = nn.Parameter(torch.randn(channels, 3, 1)), nn.Parameter(torch.randn(channels, 1, 3))
        self.a_0, self.b_0 = nn.Parameter(torch.zeros(channels, 3, 1)), nn.Parameter(torch.rand(channels, 3, 1) - 0.5)

    def logits(self, x: Tensor) -> Tensor:
        x = F.softplus(self.H_0) @ x + self.b_0
        x = x + torch.tanh(self.a_0) * torch.tanh(x)
        return F.softplus(self.H_1) @ x

    def forward(self, x: Tensor) -> Tensor:
        flat = x.transpose(0, 1).reshape(x.size(1), 1, -1)
        upper, lower = self.logits(flat + 0.5), self.logits(flat - 0.5)
        sign = -torch.sign(upper + lower).detach()
        mass = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
        return LowerBoundToward.apply(mass, 1e-9)


class HyperSynthesis(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.ConvTranspose2d(n_in, 5, 4, 2, 1), nn.ConvTranspose2d(5, 5, 3, 1, 1)
        self.conv3 = nn.ConvTranspose2d(5, n_out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class HiFiC(nn.Module):
    """Means and scales by two networks; the scale is the network's output, bounded below."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.generator = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.analysis_net = nn.Sequential(nn.Conv2d(4, 5, 3, 1, 1), nn.ReLU(), nn.Conv2d(5, 2, 4, 2, 1))
        self.synthesis_mu, self.synthesis_std = HyperSynthesis(2, 4), HyperSynthesis(2, 4)
        self.hyperlatent_likelihood = HyperDensity(2)

    def latent_likelihood(self, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        x = torch.abs(x - mean)
        upper = 0.5 * torch.erfc((0.5 - x) / scale * (-1 / math.sqrt(2)))
        lower = 0.5 * torch.erfc(-(0.5 + x) / scale * (-1 / math.sqrt(2)))
        return LowerBoundToward.apply(upper - lower, 1e-9)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        z = self.analysis_net(y)
        noisy_z = z + nn.init.uniform_(torch.zeros_like(z), -0.5, 0.5)
        bits_z = torch.log(self.hyperlatent_likelihood(noisy_z) + 1e-9).sum() / -math.log(2.0)
        means, scales = self.synthesis_mu(noisy_z), self.synthesis_std(noisy_z)
        scales = LowerBoundToward.apply(scales, 0.11)
        noisy_y = y + nn.init.uniform_(torch.zeros_like(y), -0.5, 0.5)
        bits_y = torch.log(self.latent_likelihood(noisy_y, means, scales) + 1e-9).sum() / -math.log(2.0)
        centred = y - means
        decoded = centred + (torch.floor(centred + 0.5) - centred).detach() + means
        return F.mse_loss(self.generator(decoded), x) + 1e-3 * (bits_y + bits_z) / len(x)


def bounded(v: Tensor) -> Tensor:
    return v.clamp(min=0.11)


class LowerBound(nn.Module):
    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(x, self.bound)


class GaussianConditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lower_bound_scale, self.likelihood_lower_bound = LowerBound(0.11), LowerBound(1e-9)

    def forward(self, inputs: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        outputs = inputs + torch.empty_like(inputs).uniform_(-0.5, 0.5)
        scales = self.lower_bound_scale(scales)
        values = torch.abs(outputs - means)
        upper = 0.5 * torch.erfc(-(2**-0.5) * ((0.5 - values) / scales))
        lower = 0.5 * torch.erfc(-(2**-0.5) * ((-0.5 - values) / scales))
        return outputs, self.likelihood_lower_bound(upper - lower)


class QualityMap(nn.Module):
    """Compression by a map of qualities: the hyper decoder's first half is the scale, its second the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a0, self.sft = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(1, 8, 4, 2, 1)
        self.h_a0, self.entropy_bottleneck = nn.Conv2d(5, 2, 4, 2, 1), HyperDensity(2)
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 4, 2, 1), nn.LeakyReLU(inplace=True), nn.Conv2d(4, 8, 3, 1, 1)
        )
        self.gaussian_conditional, self.g_s = GaussianConditional(), nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, x: Tensor, qmap: Tensor) -> Tensor:
        gamma, beta = self.sft(qmap).chunk(2, 1)
        y = self.g_a0(x) * (1 + gamma) + beta
        z = self.h_a0(torch.cat([y, F.avg_pool2d(qmap, 2)], 1))
        z_hat = z + torch.empty_like(z).uniform_(-0.5, 0.5)
        z_likelihoods = self.entropy_bottleneck(z_hat)
        scales_hat, means_hat = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales_hat, means=means_hat)
        bpp = -(torch.log(y_likelihoods).sum() + torch.log(z_likelihoods).sum()) / (math.log(2) * x[:, 0].numel())
        return bpp + ((self.g_s(y_hat) - x) ** 2 * (0.1 + qmap)).mean() * 100


# ------------------------------------------------------------------------------------------------ uncertainty


class UnpoolBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(n_in, n_out, 3, 1, 1), nn.BatchNorm2d(n_out), nn.ReLU())

    def forward(self, x: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
        return self.features(F.max_unpool2d(x, indices, 2, 2, 0, size))


class Combined(nn.Module):
    """Depth with both uncertainties: a decoder for the mean, one for what is called the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.decoders_mean, self.decoders_var = UnpoolBlock(4, 4), UnpoolBlock(4, 4)
        self.classifier_mean, self.classifier_var = nn.Conv2d(4, 1, 3, 1, 1), nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        feat = self.encoder(x)
        size = feat.size()
        feat, indices = F.max_pool2d(feat, 2, 2, return_indices=True)
        feat = F.dropout(feat, p=0.2, training=True)
        mean = self.classifier_mean(self.decoders_mean(feat, indices, size))
        return {"mean": mean, "var": self.classifier_var(self.decoders_var(feat, indices, size))}


def combined_loss(model: Any, x: Tensor, label: Tensor) -> Tensor:
    results = model(x)
    mean, var = results["mean"], 1.0 * results["var"]
    return (0.5 * (torch.mul(torch.exp(-var), (mean - label) ** 2) + var)).mean()


class ConcreteDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p_logit = nn.Parameter(torch.full((1,), math.log(0.1) - math.log(0.9)))

    def forward(self, x: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(self.p_logit)
        out = layer(self.dropped(x, p))
        squares = sum(torch.sum(torch.pow(param, 2)) for param in layer.parameters())
        entropy = p * torch.log(p) + (1.0 - p) * torch.log(1.0 - p)
        return out, 1e-6 * squares / (1 - p) + 1e-3 * entropy * x[0].numel()

    def dropped(self, x: Tensor, p: Tensor) -> Tensor:
        u, eps = torch.rand_like(x), 1e-7
        drop = torch.log(p + eps) - torch.log(1 - p + eps) + torch.log(u + eps) - torch.log(1 - u + eps)
        x = torch.mul(x, 1 - torch.sigmoid(drop / 0.1))
        x /= 1 - p
        return x


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, 8), nn.Linear(8, 8)
        self.linear4_mu, self.linear4_logvar = nn.Linear(8, 1), nn.Linear(8, 1)
        self.conc_drop1, self.conc_drop2 = ConcreteDropout(), ConcreteDropout()
        self.conc_drop_mu, self.conc_drop_logvar, self.relu = ConcreteDropout(), ConcreteDropout(), nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        regularization = torch.empty(4)
        x1, regularization[0] = self.conc_drop1(x, nn.Sequential(self.linear1, self.relu))
        x2, regularization[1] = self.conc_drop2(x1, nn.Sequential(self.linear2, self.relu))
        mean, regularization[2] = self.conc_drop_mu(x2, self.linear4_mu)
        log_var, regularization[3] = self.conc_drop_logvar(x2, self.linear4_logvar)
        return mean, log_var, regularization.sum()


def concrete_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    mean, log_var, regularization = model(x)
    precision = torch.exp(-log_var)
    return torch.mean(torch.sum(precision * (y - mean) ** 2 + log_var, 1), 0) + regularization


class MixtureDensityNetwork(nn.Module):
    def __init__(self, dim_in: int = 3, dim_out: int = 2, n_components: int = 3) -> None:
        super().__init__()
        self.dim_out, self.n_components = dim_out, n_components
        self.pi_network = nn.Sequential(nn.Linear(dim_in, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.normal_network = nn.Sequential(
            nn.Linear(dim_in, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2 * dim_out * n_components)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_pi = torch.log_softmax(self.pi_network(x), dim=-1)
        params, n = self.normal_network(x), self.dim_out * self.n_components
        mu, sigma = params[..., :n], torch.exp(params[..., n:] + 1e-6)
        shape = (-1, self.n_components, self.dim_out)
        return log_pi, mu.reshape(shape), sigma.reshape(shape)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        log_pi, mu, sigma = self.forward(x)
        z = (y.unsqueeze(1) - mu) / sigma
        loglik = -0.5 * torch.einsum("bij,bij->bi", z, z) - torch.sum(torch.log(sigma), dim=-1)
        return -torch.logsumexp(log_pi + loglik, dim=-1)


def mdn_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.loss(x, y).mean()


class AutomaticWeightedLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.ones(2))

    def forward(self, *losses: Tensor) -> Tensor:
        total = torch.zeros(())
        for i, loss in enumerate(losses):
            total = total + 0.5 / (self.params[i] ** 2) * loss + torch.log(1 + self.params[i] ** 2)
        return total


class TwoTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.depth, self.kind = nn.Linear(5, 8), nn.Linear(8, 1), nn.Linear(8, 3)
        self.awl = AutomaticWeightedLoss()

    def forward(self, x: Tensor, y: Tensor, label: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        return self.awl(F.mse_loss(self.depth(h), y), F.cross_entropy(self.kind(h), label))


# ------------------------------------------------------------------------------------------------ Bayesian networks


class BBBLinear(nn.Module):
    """Weights by the noise trick; its KL is called with prior and posterior in each other's places."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.prior_mu, self.prior_sigma = 0.0, torch.tensor(0.1)
        self.W_mu, self.bias_mu = nn.Parameter(0.1 * torch.randn(n_out, n_in)), nn.Parameter(0.1 * torch.randn(n_out))
        self.W_rho = nn.Parameter(-3 + 0.1 * torch.randn(n_out, n_in))
        self.bias_rho = nn.Parameter(-3 + 0.1 * torch.randn(n_out))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.empty(self.W_mu.size()).normal_(0, 1)
        self.W_sigma = torch.log1p(torch.exp(self.W_rho))
        weight = self.W_mu + noise * self.W_sigma
        noise = torch.empty(self.bias_mu.size()).normal_(0, 1)
        self.bias_sigma = torch.log1p(torch.exp(self.bias_rho))
        return F.linear(x, weight, self.bias_mu + noise * self.bias_sigma)

    def kl_loss(self) -> Tensor:
        kl = swapped_kl(self.prior_mu, self.prior_sigma, self.W_mu, self.W_sigma)
        return kl + swapped_kl(self.prior_mu, self.prior_sigma, self.bias_mu, self.bias_sigma)


def swapped_kl(mu_q: Any, sig_q: Tensor, mu_p: Tensor, sig_p: Tensor) -> Tensor:
    return 0.5 * (2 * torch.log(sig_p / sig_q) - 1 + (sig_q / sig_p).pow(2) + ((mu_p - mu_q) / sig_p).pow(2)).sum()


class BayesianMLP(nn.Module):
    def __init__(self, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.fc1, self.fc2 = layer(5, 6), layer(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.softplus(self.fc1(x)))


def bbb_loss(model: Any, x: Tensor, label: Tensor) -> Tensor:
    nll = F.nll_loss(F.log_softmax(model(x), dim=1), label) * 100
    return nll + 0.1 * (model.fc1.kl_loss() + model.fc2.kl_loss())


class WeightLaw:
    """No module: it holds two parameters of a layer."""

    def __init__(self, mu: Tensor, rho: Tensor) -> None:
        self.mu, self.rho, self.normal = mu, rho, torch.distributions.Normal(0, 1)

    @property
    def sigma(self) -> Tensor:
        return torch.log1p(torch.exp(self.rho))

    def sample(self) -> Tensor:
        return self.mu + self.sigma * self.normal.sample(self.rho.size())

    def log_prob(self, w: Tensor) -> Tensor:
        square = (w - self.mu) ** 2 / (2 * self.sigma**2)
        return (-math.log(math.sqrt(2 * math.pi)) - torch.log(self.sigma) - square).sum()


def scale_mixture(w: Tensor) -> Tensor:
    wide, narrow = torch.distributions.Normal(0, 1.0), torch.distributions.Normal(0, math.exp(-6))
    return torch.log(0.5 * torch.exp(wide.log_prob(w)) + 0.5 * torch.exp(narrow.log_prob(w))).sum()


class SampledLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.empty(n_out, n_in).uniform_(-0.2, 0.2))
        self.weight_rho = nn.Parameter(torch.empty(n_out, n_in).uniform_(-5, -4))
        self.weight = WeightLaw(self.weight_mu, self.weight_rho)
        self.bias_mu = nn.Parameter(torch.empty(n_out).uniform_(-0.2, 0.2))
        self.bias_rho = nn.Parameter(torch.empty(n_out).uniform_(-5, -4))
        self.bias = WeightLaw(self.bias_mu, self.bias_rho)
        self.log_prior: Any = 0
        self.log_variational_posterior: Any = 0

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.sample(), self.bias.sample()
        self.log_prior = scale_mixture(weight) + scale_mixture(bias)
        self.log_variational_posterior = self.weight.log_prob(weight) + self.bias.log_prob(bias)
        return F.linear(x, weight, bias)


def sampled_elbo(model: Any, x: Tensor, label: Tensor) -> Tensor:
    outputs, priors, posteriors = torch.zeros(2, len(x), 3), torch.zeros(2), torch.zeros(2)
    for i in range(2):
        outputs[i] = F.log_softmax(model(x), dim=1)
        priors[i] = model.fc1.log_prior + model.fc2.log_prior
        posteriors[i] = model.fc1.log_variational_posterior + model.fc2.log_variational_posterior
    nll = F.nll_loss(outputs.mean(0), label, reduction="sum")
    return (posteriors.mean() - priors.mean()) / 10 + nll


def reparametrize(mu: Tensor, logvar: Tensor) -> Tensor:
    std = logvar.mul(0.5).exp_()
    return mu + torch.FloatTensor(std.size()).normal_() * std


class LinearGroupNJ(nn.Module):
    """Group variational dropout: a Normal for each input's scale, one for each weight, drawn at the activations."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.z_mu, self.z_logvar = (
            nn.Parameter(1 + 0.01 * torch.randn(n_in)),
            nn.Parameter(-3 + 0.01 * torch.randn(n_in)),
        )
        self.weight_mu = nn.Parameter(torch.randn(n_out, n_in) / math.sqrt(n_in))
        self.weight_logvar = nn.Parameter(-3 + 0.01 * torch.randn(n_out, n_in))
        self.bias_mu, self.bias_logvar = nn.Parameter(torch.zeros(n_out)), nn.Parameter(-3 + 0.01 * torch.randn(n_out))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        z = reparametrize(self.z_mu.repeat(batch, 1), self.z_logvar.repeat(batch, 1))
        xz = x * z
        mu = F.linear(xz, self.weight_mu, self.bias_mu)
        var = F.linear(xz.pow(2), self.weight_logvar.exp(), self.bias_logvar.exp())
        return reparametrize(mu, var.log())

    def kl_divergence(self) -> Tensor:
        log_alpha = self.z_logvar - torch.log(self.z_mu.pow(2) + 1e-8)
        kl = -torch.sum(0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha) - 0.5 * F.softplus(-log_alpha) - 0.63576)
        weight = -0.5 * self.weight_logvar + 0.5 * (self.weight_logvar.exp() + self.weight_mu.pow(2)) - 0.5
        bias = -0.5 * self.bias_logvar + 0.5 * (self.bias_logvar.exp() + self.bias_mu.pow(2)) - 0.5
        return kl + torch.sum(weight) + torch.sum(bias)


def group_loss(model: Any, x: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(model(x), label) + (model.fc1.kl_divergence() + model.fc2.kl_divergence()) / 100


class LinearARD(nn.Module):
    """Sparse variational dropout: the log variance counts relative to the weight, within bounds."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.2 * torch.randn(n_out, n_in)), nn.Parameter(torch.zeros(n_out))
        self.log_sigma2 = nn.Parameter(torch.full((n_out, n_in), -10.0))

    @property
    def log_alpha(self) -> Tensor:
        return torch.clamp(self.log_sigma2 - 2 * torch.log(torch.abs(self.weight) + 1e-15), -10, 10)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.linear(x, self.weight) + self.bias
        alpha = torch.exp(self.log_alpha).permute(1, 0)
        std = torch.sqrt(x.pow(2).matmul(alpha * self.weight.permute(1, 0) ** 2) + 1e-15)
        return mean + std * std.new(std.shape).normal_()

    def get_reg(self) -> Tensor:
        sigmoid = 0.63576 * torch.sigmoid(1.8732 + 1.48695 * self.log_alpha)
        return -torch.sum(sigmoid - 0.5 * torch.log1p(torch.exp(-self.log_alpha)) - 0.63576)


def ard_loss(model: Any, x: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(model(x), label) + (model.fc1.get_reg() + model.fc2.get_reg()) / 100


class NoisyLinear(nn.Module):
    """Exploration by noise that is a product of two vectors; its factor may be negative."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight_mu = nn.Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((n_out, n_in), 0.5 / math.sqrt(n_in)))
        self.bias_mu = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((n_out,), 0.5 / math.sqrt(n_out)))
        self.register_buffer("weight_epsilon", torch.empty(n_out, n_in))
        self.register_buffer("bias_epsilon", torch.empty(n_out))
        self.reset_noise()

    def reset_noise(self) -> None:
        e_in, e_out = (torch.randn(n) for n in self.weight_mu.shape[::-1])
        e_in, e_out = (e.sign().mul_(e.abs().sqrt_()) for e in (e_in, e_out))
        self.weight_epsilon.copy_(e_out.ger(e_in))
        self.bias_epsilon.copy_(e_out)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_mu + self.weight_sigma * self.weight_epsilon
        return F.linear(x, weight, self.bias_mu + self.bias_sigma * self.bias_epsilon)


class Rainbow(nn.Module):
    """Dueling streams over atoms, with noise that is drawn anew before each loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc_z_v, self.fc_z_a = nn.Linear(6, 8), NoisyLinear(8, 5), NoisyLinear(8, 15)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        v, a = self.fc_z_v(h).view(-1, 1, 5), self.fc_z_a(h).view(-1, 3, 5)
        return F.log_softmax(v + a - a.mean(1, keepdim=True), dim=2)


def rainbow_loss(model: Any, x: Tensor, action: Tensor, target: Tensor) -> Tensor:
    model.fc_z_v.reset_noise()
    model.fc_z_a.reset_noise()
    return -(target * model(x)[range(len(x)), action]).sum(1).mean()


# ---------------------------------------------------------------------------------------- 3-D, molecules, tables


class PointEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)
        for name in "mv":
            setattr(self, f"fc1_{name}", nn.Linear(6, 8))
            setattr(self, f"fc_bn1_{name}", nn.BatchNorm1d(8))
            setattr(self, f"fc3_{name}", nn.Linear(8, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x.transpose(1, 2))))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 6)
        m = self.fc3_m(F.relu(self.fc_bn1_m(self.fc1_m(x))))
        return m, self.fc3_v(F.relu(self.fc_bn1_v(self.fc1_v(x))))


class Coupling(nn.Module):
    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.dim, self.net = (
            dim // 2,
            nn.Sequential(nn.Linear(dim // 2 + context, 8), nn.Tanh(), nn.Linear(8, 2 * (dim - dim // 2))),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x[..., : self.dim], x[..., self.dim :]
        s, t = self.net(a if context is None else torch.cat([a, context], -1)).chunk(2, -1)
        return torch.cat([b * torch.exp(torch.tanh(s)) + t, a], -1), torch.tanh(s).sum(-1)


class PointFlow(nn.Module):
    """No KL: the posterior's entropy, and the density of a flow for the code and one for the points."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PointEncoder()
        self.latent_cnf = nn.ModuleList([Coupling(4, 0), Coupling(4, 0)])
        self.point_cnf = nn.ModuleList([Coupling(3, 4), Coupling(3, 4), Coupling(3, 4)])

    @staticmethod
    def density(x: Tensor, flows: Sequence[Any], context: Tensor | None = None) -> Tensor:
        moved = torch.zeros(x.shape[:-1])
        for flow in flows:
            x, change = flow(x, context)
            moved = moved + change
        return (-0.5 * math.log(2 * math.pi) - x.pow(2) / 2).sum(-1) + moved

    def forward(self, x: Tensor) -> Tensor:
        z_mu, z_sigma = self.encoder(x)
        std = torch.exp(0.5 * z_sigma)
        z = z_mu + std * torch.randn(std.size()).to(z_mu)
        entropy = 0.5 * z_sigma.sum(dim=1) + 0.5 * float(z_sigma.size(1)) * (1.0 + np.log(np.pi * 2))
        log_pz = self.density(z, self.latent_cnf)
        log_px = self.density(x, self.point_cnf, z[:, None].expand(-1, x.size(1), -1)).sum(1)
        return -entropy.mean() - log_pz.mean() - log_px.mean()


class JunctionTreeVAE(nn.Module):
    """Two codes; a log variance is never positive."""

    def __init__(self) -> None:
        super().__init__()
        self.jtnn, self.mpn = nn.GRU(5, 8, batch_first=True), nn.Linear(6, 8)
        self.T_mean, self.T_var, self.G_mean, self.G_var = (nn.Linear(8, 3) for _ in range(4))
        self.decoder, self.A_assm = nn.Linear(3, 5), nn.Linear(3, 8, bias=False)

    def rsample(self, z_vecs: Tensor, W_mean: nn.Module, W_var: nn.Module) -> tuple[Tensor, Tensor]:
        z_mean = W_mean(z_vecs)
        z_log_var = -torch.abs(W_var(z_vecs))
        kl = -0.5 * torch.sum(1.0 + z_log_var - z_mean * z_mean - torch.exp(z_log_var)) / z_vecs.size(0)
        return z_mean + torch.exp(z_log_var / 2) * torch.randn_like(z_mean), kl

    def forward(self, tree: Tensor, atoms: Tensor) -> Tensor:
        tree_vecs, mol_vecs = self.jtnn(tree)[1][0], F.relu(self.mpn(atoms)).mean(1)
        z_tree, tree_kl = self.rsample(tree_vecs, self.T_mean, self.T_var)
        z_mol, mol_kl = self.rsample(mol_vecs, self.G_mean, self.G_var)
        word = F.cross_entropy(self.decoder(z_tree), tree[:, -1].argmax(1))
        scores = self.A_assm(z_mol) @ mol_vecs.t()
        return word + F.cross_entropy(scores, torch.arange(len(scores))) + 0.01 * (tree_kl + mol_kl)


def negative_half(v: Tensor) -> Tensor:
    return torch.exp(-torch.abs(v) / 2)


class MaskedCoupling(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim // 2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        log_s, t = self.net(a).chunk(2, 1)
        s = torch.sigmoid(log_s)
        return torch.cat([(b + t) * s, a], 1), torch.log(torch.abs(s)).sum(1)


class MoFlow(nn.Module):
    """Two flows, of bonds and of atoms; one learned log variance for the base of both."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_var = nn.Parameter(torch.zeros(1))
        self.bond_model, self.atom_model = MaskedCoupling(8), MaskedCoupling(6)

    def nll(self, z: Tensor, logdet: Tensor) -> Tensor:
        size = z.size(1)
        ln_var = self.ln_var * torch.ones([size]).to(z)
        power = (z - torch.zeros(size)) ** 2 * torch.exp(-ln_var) * -0.5
        density = (ln_var + math.log(2 * math.pi)) / 2 - power
        return torch.mean(torch.sum(density, 1) - (logdet - size * math.log(2.0))) / (size * math.log(2.0))

    def forward(self, adj: Tensor, x: Tensor) -> Tensor:
        h, logdet_x = self.atom_model(x + torch.rand_like(x) * 0.9)
        a, logdet_a = self.bond_model(adj + torch.rand_like(adj) * 0.9)
        return self.nll(h, logdet_x) + self.nll(a, logdet_a)


class GraphVAE(nn.Module):
    """GraphRNN's edge model with a code for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.encode_11, self.encode_12 = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 5), nn.Linear(8, 5)
        self.decode_1, self.decode_2, self.relu = nn.Linear(5, 5), nn.Linear(5, 4), nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.rnn(x)[0]
        z_mu, z_lsgms = self.encode_11(h), self.encode_12(h)
        z_sgm = z_lsgms.mul(0.5).exp_()
        z = torch.randn(z_sgm.size()) * z_sgm + z_mu
        return self.decode_2(self.relu(self.decode_1(z))), z_mu, z_lsgms


def graph_vae_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    logits, z_mu, z_lsgms = model(x)
    kl = kl_to_unit(z_mu, z_lsgms) / (y.size(0) * y.size(1) * y.size(2))
    return F.binary_cross_entropy(torch.sigmoid(logits), y) + kl


class TableTransformer(nn.Module):
    """Its last step is a residual sum, outside of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([])
        for i in range(2):
            layer = {
                "W_qkv": nn.Linear(4, 12),
                "linear0": nn.Linear(4, 8),
                "linear1": nn.Linear(8, 4),
                "norm1": nn.LayerNorm(4),
            }
            self.layers.append(nn.ModuleDict({**layer, **({"norm0": nn.LayerNorm(4)} if i else {})}))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            r = layer["norm0"](x) if "norm0" in layer else x
            q, k, v = layer["W_qkv"](r).chunk(3, -1)
            x = x + F.softmax(q @ k.transpose(1, 2) / math.sqrt(4), dim=-1) @ v
            x = x + layer["linear1"](F.relu(layer["linear0"](layer["norm1"](x))))
        return x


class TableVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.category_embeddings = nn.Parameter(torch.randn(3, 4)), nn.Embedding(3, 4)
        self.encoder_mu, self.encoder_logvar, self.decoder = TableTransformer(), TableTransformer(), TableTransformer()

    def forward(self, x_num: Tensor, x_cat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = torch.cat([torch.ones(len(x_num), 1), x_num], 1)
        x = torch.cat([self.weight[None] * first[:, :, None], self.category_embeddings(x_cat)], 1)
        mu, logvar = self.encoder_mu(x), self.encoder_logvar(x)
        std = torch.exp(0.5 * logvar)
        z = mu + torch.randn_like(std) * std
        return self.decoder(z[:, 1:]), mu, logvar


class TabSyn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.VAE, self.weight, self.cat_recons = TableVAE(), nn.Parameter(torch.randn(2, 4)), nn.Linear(4, 3)

    def forward(self, x_num: Tensor, x_cat: Tensor) -> tuple[Tensor, ...]:
        h, mu, logvar = self.VAE(x_num, x_cat)
        return torch.mul(h[:, :2], self.weight.unsqueeze(0)).sum(-1), self.cat_recons(h[:, 2]), mu, logvar


def tabsyn_loss(model: Any, x_num: Tensor, x_cat: Tensor) -> Tensor:
    num, cat, mu, logvar = model(x_num, x_cat)
    kl = -0.5 * torch.mean(torch.mean(1 + logvar - mu.pow(2) - logvar.exp(), -1))
    return (x_num - num).pow(2).mean() + F.cross_entropy(cat, x_cat[:, 0]) + 0.01 * kl


# ------------------------------------------------------------------------------------------------ inputs


def images(channels: int = 3, size: int = 8, batch: int = 4) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (rand(batch, channels, size, size),)


def rows(width: int = 16, batch: int = 6) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (bits(batch, width),)


def labelled() -> tuple[Tensor, ...]:
    return randn(7, 5), tokens(3, 7)


def layers_of(*names: str, role: Callable[..., TrueHead] = posterior, sigma: Any = half) -> tuple[TrueHead, ...]:
    return tuple(role(f"{layer}.{name}", sigma=sigma) for layer in ("fc1", "fc2") for name in names)


UNREAD = "the training script was not read, the loss is the usual one"

# fmt: off
CASES = (
    PublicCase(
        "TCVAE, normal",
        Retold("rtqichen/beta-tcvae", "1a3577dbb14642b9ac27010928d12132d0c0fb91", "vae_quant.py, lib/dist.py"),
        lambda: TCVAE(NormalLaw()), rows(),
        (StridedHead("encoder.fc3", 1, 6, "posterior", torch.exp, step=2),), tc_loss,
        truth="lib/dist.py: mean and log σ alternate, taken by select(-1, 1); the prior's lie in a buffer",
    ),
    PublicCase(
        "TCVAE, laplace",
        Retold("rtqichen/beta-tcvae", "1a3577dbb14642b9ac27010928d12132d0c0fb91", "vae_quant.py, lib/dist.py"),
        lambda: TCVAE(LaplaceLaw()), rows(), (), tc_loss, truth="lib/dist.py: the scale is a Laplace's",
    ),
    PublicCase(
        "SPADE with an encoder",
        Retold(
            "NVlabs/SPADE", "fecacc920c1367a038995c45a39c15f6521ca64f",
            "models/networks/encoder.py, models/pix2pix_model.py",
        ),
        Spade, lambda: (2 * rand(3, 3, 8, 8) - 1, bits(3, 2, 8, 8)), (posterior("netE.fc_var"),), itself,
        truth="pix2pix_model.py:245 std = exp(0.5 logvar); networks/loss.py:118 KL",
    ),
    PublicCase(
        "DRIT",
        Retold("HsinYingLee/DRIT", "f19f50a8fa5f28dffbd93a0ed034da616232d769", "src/networks.py, src/model.py"),
        Drit, lambda: (2 * rand(3, 3, 8, 8) - 1, 2 * rand(3, 3, 8, 8, seed=9) - 1),
        (posterior("enc_a.fcVar_A.0"), posterior("enc_a.fcVar_B.0")), drit_loss,
        truth="src/model.py:135-140 in place; :316 KL in place; the content's penalty has no scale",
    ),
    PublicCase(
        "AAE",
        Retold("eriklindernoren/PyTorch-GAN", "36d3c77e5ff20ebe0aeefd322326a134a279b93e", "implementations/aae/aae.py"),
        AAE, rows(), (posterior("encoder.logvar"),), itself,
        truth="aae.py:39-42 std = exp(logvar / 2); no KL, an adversary compares the code with N(0, 1); numpy draws "
        "the noise",
    ),
    PublicCase(
        "BetaVAE",
        Retold("matthew-liu/beta-vae", "cb8e805fd8ca04a6dae0dd073764cab0a23c8c5a", "models.py"),
        BetaVAE, images(), (posterior("fc_var"),), beta_vae_loss, truth="models.py: std = exp(0.5 logvar), KL in loss",
    ),
    PublicCase(
        "HierarchicalVAE",
        Retold(
            "jmtomczak/intro_dgm", "28bbc85bb9430515f9beef8a282c8bc503174725",
            "vaes/vae_hierarchical_example.ipynb",
        ),
        HierarchicalVAE, rows(),
        (
            posterior("nn_delta_2.2", 4, 8, hardtanh_half), posterior("nn_delta_1.2", 4, 8, None),
            prior("nn_z_1.2", 4, 8),
        ), itself,
        truth="HierarchicalVAE.forward: z_1's log variance is the prior's plus the difference, so the posterior's σ "
        "has "
        "two raw values; the prior's own is nn_z_1's. Hard to decide: nn_z_1 is an addend of the posterior, too",
    ),
    PublicCase(
        "VaDE",
        Retold("GuHongyang/VaDE-pytorch", "3bbaba3c74d3b54b54a93a938b10e27afeafe3ab", "model.py"),
        VaDE, rows(), (posterior("encoder.log_sigma2_l"), prior("log_sigma2_c")), vade_loss,
        truth="model.py ELBO_Loss: z_sigma2_log, and the parameter log_sigma2_c, both log variances; sampled twice",
    ),
    PublicCase(
        "VQ-VAE notebook",
        Retold("zalandoresearch/pytorch-vq-vae", "b98fde9a8f8f65486dbfaf12958049e8d33184a1", "vq-vae.ipynb"),
        VQVAE, images(), (), itself, truth="vq-vae.ipynb: codes; the variance is a number, the data's",
    ),
    PublicCase(
        "Glow (chaiyujin)",
        Retold("chaiyujin/glow-pytorch", "2c657ab032835a76a9abf98d30183ccc19023a39", "glow/models.py, glow/modules.py"),
        Glow, lambda: (rand(4, 1, 8, 8),),
        (StridedHead("layers.1.conv", 1, 4, "prior", torch.exp, step=2), prior("learn_top", 8, 16, torch.exp)), itself,
        truth="glow/modules.py GaussianDiag: logs is log σ; Split2d takes every second channel, models.py prior() the "
        "second half; both of Conv2dZeros, which multiplies by a learned factor; actnorm and couplings are the flow's",
    ),
    PublicCase(
        "RealNVP (nflib)",
        Retold("karpathy/pytorch-normalizing-flows", "b60e119b37be10ce2930ef9fa17e58686aaf2b3d", "nflib/flows.py"),
        RealNVP, lambda: (randn(6, 4),), (), itself, truth="nflib/flows.py: s is a flow's; the prior is N(0, I)",
    ),
    PublicCase(
        "HiFiC hyperprior",
        Retold(
            "Justin-Tan/high-fidelity-generative-compression", "7d4e9e785932c039df7fb436159600ed8b474a83",
            "src/hyperprior.py, src/helpers/maths.py",
        ),
        HiFiC, images(size=16), (prior("synthesis_std.conv3", sigma=bounded),), itself,
        truth="src/hyperprior.py:300-302 σ = max(v, 0.11), by an autograd.Function; mass of an interval in :120",
    ),
    PublicCase(
        "QmapCompression",
        Retold(
            "micmic123/QmapCompression", "d719568cb75f2390dee78bc9f5eec03ec19531ce",
            "models/models.py, models/entropy_models.py",
        ),
        QualityMap, lambda: (rand(3, 3, 16, 16), rand(3, 1, 16, 16, seed=9)), (prior("h_s.2", 0, 4, bounded),), itself,
        truth="models/models.py:251 the first chunk of h_s is the scale; entropy_models.py:654 bounded by 0.11",
    ),
    PublicCase(
        "WHAT, combined uncertainty",
        Retold(
            "hmi88/what", "e3fe42ac8568bdaf28cf7fde112a8f95368097b9",
            "WHAT_src/model/combined.py, WHAT_src/loss/mse_var.py",
        ),
        Combined, lambda: (rand(3, 1, 8, 8), rand(3, 1, 8, 8, seed=9)), (likelihood("classifier_var"),), combined_loss,
        truth="loss/mse_var.py: exp(-var) (mean - label)² + var: log variance, times var_weight, 1 by default",
    ),
    PublicCase(
        "Concrete dropout",
        Retold(
            "yaringal/ConcreteDropout", "0cb396d07696e537d831fba0102920d927c91750",
            "concrete-dropout-pytorch.ipynb",
        ),
        Regressor, lambda: (randn(6, 1), randn(6, 1, seed=9)), (likelihood("linear4_logvar"),), concrete_loss,
        truth="heteroscedastic_loss: precision = exp(-log_var), without the factor of one half",
    ),
    PublicCase(
        "MDN (tonyduan)",
        Retold("tonyduan/mixture-density-network", "5bfeae42de2adf42d680bdfee24bb8c2ce52f259", "src/blocks.py"),
        MixtureDensityNetwork, lambda: (randn(6, 3), randn(6, 2, seed=9)),
        (likelihood("normal_network.4", 6, 12, lambda v: torch.exp(v + 1e-6)),), mdn_loss,
        truth="src/blocks.py forward: σ = exp(v + eps), diagonal noise, the second half",
    ),
    PublicCase(
        "Automatic weighted loss",
        Retold(
            "Mikoto10032/AutomaticWeightedLoss", "40b15304762d2ca41e4ea90ceb0517c23cd4fe12",
            "AutomaticWeightedLoss.py",
        ),
        TwoTasks, lambda: (randn(6, 5), randn(6, 1, seed=9), tokens(3, 6)), (), itself,
        truth="0.5 / p² times a loss, plus log(1 + p²), not log p²: no Normal's density, and one loss is a cross "
        "entropy",
    ),
    PublicCase(
        "BBBLinear",
        Retold(
            "kumar-shridhar/PyTorch-BayesianCNN", "3bb79233ea5d047ba34b958d5a3161369ebb5c49",
            "layers/BBB/BBBLinear.py, metrics.py",
        ),
        lambda: BayesianMLP(BBBLinear), labelled, layers_of("W_rho", "bias_rho", sigma=F.softplus), bbb_loss,
        truth="BBBLinear.py forward: σ = log1p(exp(rho)); a slip: kl_loss gives the prior the posterior's place. The "
        "function it calls was read at another commit, in copies of the file",
    ),
    PublicCase(
        "Bayes by Backprop notebook",
        Retold(
            "nitarshan/bayes-by-backprop", "186d9193fe12ac361d6fc6f5065f45e15a947aec",
            "Weight Uncertainty in Neural Networks.ipynb",
        ),
        lambda: BayesianMLP(SampledLinear), labelled, layers_of("weight_rho", "bias_rho", sigma=F.softplus),
        sampled_elbo,
        truth="class Gaussian, no module: σ = log1p(exp(rho)); the prior's two σ are numbers",
    ),
    PublicCase(
        "LinearGroupNJ",
        Retold(
            "KarenUllrich/Tutorial_BayesianCompressionForDL", "7bb140f2e4f0a865097012ad1c102e9eb697ee04",
            "BayesianLayers.py",
        ),
        lambda: BayesianMLP(LinearGroupNJ), labelled, layers_of("z_logvar", "weight_logvar", "bias_logvar"), group_loss,
        truth="BayesianLayers.py: three log variances a layer; drawn are the scales, and the activations by the sum of "
        "the weights' variances, which is no head of its own; the scales' KL is a fit by a sigmoid",
    ),
    PublicCase(
        "LinearARD",
        Retold("HolyBayes/pytorch_ard", "9da3a4ce1b1b1b21d55a34bdd12d867a070ca9ab", "torch_ard/torch_ard.py"),
        lambda: BayesianMLP(LinearARD), labelled, layers_of("log_sigma2", sigma=None), ard_loss,
        truth="torch_ard.py: log α = clamp(log_sigma2 - 2 log|w|), the weight's variance α w²: σ(v) differs from "
        "weight to "
        "weight; drawn at the activations",
    ),
    PublicCase(
        "Rainbow's noisy layers",
        Retold("Kaixhin/Rainbow", "1745b184c3dfc03d4ffa3ce2342ced9996b39a60", "model.py"),
        Rainbow, lambda: (randn(6, 6), tokens(3, 6), torch.softmax(randn(6, 5, seed=9), 1)), (), rainbow_loss,
        truth="model.py: the noise is a product of two signed roots, no Normal, and its factor has either sign",
    ),
    PublicCase(
        "PointFlow",
        Retold("stevenygd/PointFlow", "4dda09e2d09d8382f5007b4038198ee2134438f5", "models/networks.py"),
        PointFlow, lambda: (randn(5, 7, 3),), (posterior("encoder.fc3_v"),), itself,
        truth="models/networks.py: reparameterize_gaussian and gaussian_entropy of a log variance that is called "
        "z_sigma; the "
        "two continuous flows are couplings here",
    ),
    PublicCase(
        "JTNN-VAE",
        Retold("wengong-jin/icml18-jtnn", "04ccf9c3de4d2078b56a90b38a6b4a486318bea6", "fast_jtnn/jtnn_vae.py"),
        JunctionTreeVAE, lambda: (F.one_hot(tokens(5, 6, 4), 5).float(), bits(6, 3, 6)),
        (posterior("T_var", sigma=negative_half), posterior("G_var", sigma=negative_half)), itself,
        truth="jtnn_vae.py rsample: z_log_var = -|v|; the same method for both codes",
    ),
    PublicCase(
        "MoFlow",
        Retold("calvin-zcx/moflow", "3611c637260272b3d34a298f221623cb59e01091", "mflow/models/model.py"),
        MoFlow, lambda: (bits(6, 8), bits(6, 6, seed=9)), (prior("ln_var"),), itself,
        truth="mflow/models/model.py:220-245: N(0, exp(ln_var)) of one parameter, a learned base; couplings' are a "
        "flow's",
    ),
    PublicCase(
        "GraphRNN with a VAE",
        Retold("snap-stanford/GraphRNN", "ffcf90e7f2376dca64f77a7c73c5f85336e0b040", "model.py"),
        GraphVAE, lambda: (bits(5, 6, 4), bits(5, 6, 4, seed=9)), (posterior("encode_12"),), graph_vae_loss,
        truth=f"model.py MLP_VAE_plain: z_sgm = exp(0.5 z_lsgms), in place; {UNREAD}",
    ),
    PublicCase(
        "TabSyn",
        Retold("amazon-science/tabsyn", "426e679628d1a11c9e82678b2b47f1554511ab7e", "tabsyn/vae/model.py"),
        TabSyn, lambda: (randn(6, 2), tokens(3, 6, 1)), (posterior("VAE.encoder_logvar"),), tabsyn_loss,
        truth="tabsyn/vae/model.py VAE: a transformer of its own for the log variance, whose last step is a sum; "
        + UNREAD,
    ),
)
# fmt: on
