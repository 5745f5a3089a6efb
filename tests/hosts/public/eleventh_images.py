"""An eleventh look: images and VAEs in general, in our own words.

Fields, and one word for each, fixed before any search. Of each word the list of repositories whose names have it, in
the index's order, and of these the first that fits. "In reserve" are words for what the first ones do not give.

plain images "vae-cifar", faces "face-vae", conditions "cvae-pytorch", levels "ladder-vae" and "hvae", mixtures
"vae-clustering", beta "betavae", factors "factor-vae", total correlation "tcvae", VAE-GAN "vaegan", segmentation
"probunet", compression "hyperprior", molecules "molecule-vae", graphs "graph-vae", cells "single-cell-vae", brains
"brain-vae", anomalies "anomaly-detection-vae", regression "mixture-density", uncertainty "aleatoric", Bayesian layers
"bayes-by-backprop", dropout "variational-dropout", latent diffusion "latent-diffusion", point clouds "pointcloud-vae",
poses "pose-vae", meshes "mesh-vae", fairness "fair-representation", domains "vae-domain", hashing "vae-hashing",
recommenders "vae-recommender", super-resolution "vae-sr", inpainting "vae-inpainting", satellites "satellite-vae",
tables "tabular-vae", half labelled "semisupervised-vae", importance weights "importance-weighted", mean discrepancy
"mmd-vae", flows in posteriors "vae-flow", sparse codes "sparse-vae", modalities "mmvae", unseen classes "cada-vae",
bottlenecks "information-bottleneck", identifiable "ivae", galaxies "galaxy-vae", fonts "font-vae", introspection
"introvae".

Without a head: GAN "dcgan-pytorch", contrast "byol-pytorch", autoencoder "denoising-autoencoder", flow
"nice-pytorch", diffusion "ddpm-mnist", codes "vq-vae-pytorch".

In reserve: "vae-mnist", "vae-celeba", "dvae", "vae-medical", "xray-vae", "protein-vae", "tvae", "uncertainty-
estimation", "mcvae", "vae-fairness", "causal-vae", "drug-vae", "vae-image-compression", "spectral-vae", "gan-vae",
"deepvib".
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.tenth_images import AtLeast, Convolved, never_above_ten, raised_softplus
from public.third_images import bits, images, itself, kl_to_unit, posterior, prior

# ------------------------------------------------------------------------------------------------ images


class SmallPictures(nn.Module):
    def __init__(self, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU())
        self.fc_mu, self.fc_logvar = nn.Linear(24, latent_dim), nn.Linear(24, latent_dim)
        self.decoder_fc = nn.Linear(latent_dim, 24)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh()
        )

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x).flatten(1)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return self.decoder(self.decoder_fc(self.reparameterize(mu, logvar)).view(-1, 6, 2, 2)), mu, logvar


def pictures_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return F.mse_loss(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class ShotReader(nn.Module):
    """Means and log variances are the two rows that its last layer's output is seen as; keeps its KL."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.layer_con = nn.ModuleList([nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3)])
        self.layer_fc = nn.ModuleList([nn.Linear(64, 12), nn.Linear(12, 2 * code)])
        self.N = Normal(0, 1)
        self.kl: Any = 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for layer in self.layer_con:
            x = F.mish(layer(x))
        x = F.mish(self.layer_fc[0](x.flatten(1)))
        rows = self.layer_fc[1](x).view(len(x), 2, -1)
        mu, logvar = rows[:, 0, :], rows[:, 1, :]
        self.kl = kl_to_unit(mu, logvar)
        return mu + torch.exp(0.5 * logvar) * self.N.sample(mu.shape)


class ShotWriter(nn.Module):
    """Each convolution is told the size that it is to give."""

    sizes = ((6, 6), (8, 8))

    def __init__(self, code: int) -> None:
        super().__init__()
        self.layer_fc = nn.ModuleList([nn.Linear(code, 12), nn.Linear(12, 64)])
        self.layer_con = nn.ModuleList([nn.ConvTranspose2d(4, 3, 3), nn.ConvTranspose2d(3, 1, 3)])

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.layer_fc:
            z = F.mish(layer(z))
        z = z.view(len(z), 4, 4, 4)
        for layer, size in zip(self.layer_con, self.sizes, strict=True):
            z = F.mish(layer(z, output_size=size))
        return z


class Shots(nn.Module):
    def __init__(self, code: int = 4, beta: float = 0.1) -> None:
        super().__init__()
        self.beta, self.encoder, self.decoder = beta, ShotReader(code), ShotWriter(code)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def training_step(self, x: Tensor) -> Tensor:
        error = ((x - torch.squeeze(self.forward(x))) ** 2).sum()
        return error + self.beta * self.encoder.kl


class SpriteReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.flatten = nn.Flatten()
        self.fc_layers = nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU())
        self.mu, self.logvar = nn.Linear(10, code), nn.Linear(10, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc_layers(self.flatten(self.conv_layers(x)))
        return self.mu(h), self.logvar(h)


class SpriteWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.fc_layers = nn.Sequential(nn.Linear(code, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 16))
        self.conv_transpose_layers = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 3, 2, 1, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.conv_transpose_layers(self.fc_layers(z).view(len(z), 4, 2, 2))


class Sprites(nn.Module):
    """Its rate is taken apart, by the densities of every draw by every row's law."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = SpriteReader(code), SpriteWriter(code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        z = draw_half(mu, logvar)
        return self.decoder(z), mu, logvar, z


def normal_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).pow(2) / logvar.exp())


def sprites_loss(model: Any, x: Tensor, alpha: float = 1.0, beta: float = 7.0, gamma: float = 1.0) -> Tensor:
    x_hat, mu, logvar, z = model(x)
    error = F.binary_cross_entropy_with_logits(x_hat, x, reduction="none").sum(dim=(1, 2, 3)).mean()
    pairs = normal_density(z[:, None], mu[None], logvar[None])
    joint = pairs.sum(-1)
    size = math.log(len(z))
    q_zx, q_z = joint.diagonal(), torch.logsumexp(joint, dim=1) - size
    apart = (torch.logsumexp(pairs, dim=1) - size).sum(1)
    p_z = (-0.5 * (math.log(2 * math.pi) + z.pow(2))).sum(1)
    return error + alpha * (q_zx - q_z).mean() + beta * (q_z - apart).mean() + gamma * (apart - p_z).mean()


class Factored(nn.Module):
    def __init__(self, latent_dim: int = 4, gamma: float = 10.0) -> None:
        super().__init__()
        self.latent_dim, self.gamma = latent_dim, gamma
        widths = (1, 4, 6)
        self.encoder = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU()) for a, b in pairwise(widths))
        )
        self.fc_mu, self.fc_var = nn.Linear(24, latent_dim), nn.Linear(24, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 24)
        self.decoder = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU())
        )
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 1, 3, padding=1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        z = torch.randn_like(mu) * torch.exp(0.5 * log_var) + mu
        return self.final_layer(self.decoder(self.decoder_input(z).view(-1, 6, 2, 2))), mu, log_var, z

    def permute_latent(self, z: Tensor) -> Tensor:
        rows, width = z.size()
        order = torch.cat([width * i + torch.randperm(width) for i in range(rows)])
        return z.view(-1)[order].view(rows, width)


class Suspecting(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Linear(width, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2),
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 2),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z)


class FactoredPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Factored()
        self.D = Suspecting(self.model.latent_dim)


def factored_steps(both: Any, x: Tensor, x2: Tensor) -> Tensor:
    """Both steps' losses as one."""
    recon, mu, log_var, z = both.model(x)
    judged = both.D(z)
    error = F.mse_loss(recon, x, reduction="sum").div(len(x))
    rate = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
    loss = error + rate + both.model.gamma * (judged[:, 0] - judged[:, 1]).mean()
    z_prime = both.model(x2)[-1]
    permuted = both.D(both.model.permute_latent(z_prime).detach())
    zeros, ones = torch.zeros(len(x), dtype=torch.long), torch.ones(len(x), dtype=torch.long)
    return loss + 0.5 * (F.cross_entropy(judged, zeros) + F.cross_entropy(permuted, ones))


class Folded(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(self.shape)


def shrinking(out: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((1, 3), (3, 4)):
        layers += [nn.Conv2d(a, b, 4, 2, 1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(16, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, out)]
    return nn.Sequential(*layers)


def growing(n_in: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((n_in, 8), (8, 16)):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
    layers += [Folded(-1, 4, 2, 2), nn.ConvTranspose2d(4, 3, 4, 2, 1), *([nn.BatchNorm2d(3)] if norm else [])]
    return nn.Sequential(*layers, nn.ReLU(), nn.ConvTranspose2d(3, 1, 4, 2, 1), nn.Sigmoid())


class MixedCode(nn.Module):
    """A Normal code and one of a soft choice, of one layer."""

    def __init__(self, cont: int, cat: int, temp: float = 0.1) -> None:
        super().__init__()
        self.cont, self.cat, self.temp = cont, cat, temp
        self.encoder, self.decoder = shrinking(2 * cont + cat, False), growing(cont + cat, False)

    def drawn(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        eps = std.data.new(std.size()).normal_().requires_grad_()
        return eps.mul(std).add_(mu)

    def sample(self, n: int) -> Tensor:
        z = self.drawn(torch.zeros(n, self.cont), torch.ones(n, self.cont))
        choice = torch.zeros(n, self.cat)
        choice[torch.arange(n), torch.randint(self.cat, (n,))] = 1
        return self.decoder(torch.cat([z, choice], dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar, logits = self.encoder(x).split([self.cont, self.cont, self.cat], dim=1)
        z = torch.cat([self.drawn(mu, logvar), F.gumbel_softmax(logits, tau=self.temp)], dim=1)
        return self.decoder(z), mu, logvar, logits


class RebuildingCritic(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = shrinking(width, True), growing(width, True)

    def features(self, x: Tensor) -> Tensor:
        for layer in self.encoder[:5]:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class MixedVAEGAN(nn.Module):
    def __init__(self, cont: int = 3, cat: int = 4) -> None:
        super().__init__()
        self.vae, self.disc = MixedCode(cont, cat), RebuildingCritic(cont + cat)


def mixed_steps(model: Any, x: Tensor, k: float = 0.1, capacity: float = 0.3) -> Tensor:
    """Three steps' losses as one."""
    fake = model.vae.sample(len(x)).detach()
    loss = (model.disc(x) - x).abs().mean() - k * (model.disc(fake) - fake).abs().mean()
    recon, mu, logvar, logits = model.vae(x)
    seen = 0.5 * (model.disc.features(recon) - model.disc.features(x)).pow(2).mean(0).sum()
    fake = model.vae.sample(len(x)).detach()
    loss = loss + 1e-6 * seen + (model.disc(fake) - fake).abs().mean()
    rate = (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp())).mean(0).sum()
    q = F.softmax(logits, dim=1)
    choice = (q * (torch.log(q + 1e-20) - math.log(1 / logits.size(1)))).sum(1).mean()
    return loss + seen + 1000 * (torch.abs(capacity - rate) + torch.abs(capacity - choice))


# ------------------------------------------------------------------------------------------------ levels, codecs


class Doubly(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding="same")
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding="same")
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv2(self.activation(self.conv1(x))))


class Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        mid = n_in // 2 if n_in > 1 else 1
        self.skipconv = nn.Conv2d(n_in, n_out, 1)
        self.activation, self.bn1, self.bn2 = nn.ReLU(), nn.BatchNorm2d(n_in), nn.BatchNorm2d(mid)
        self.conv1, self.conv2 = nn.Conv2d(n_in, mid, 3, padding="same"), nn.Conv2d(mid, mid, 3, padding="same")
        self.outconv = nn.Conv2d(mid, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.activation(self.bn1(x)))
        return self.outconv(self.conv2(self.activation(self.bn2(h)))) + self.skipconv(x)


class Descending(nn.Module):
    """Features of every scale, the coarsest first."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.downsampling = nn.AvgPool2d(2)
        self.encoder_blocks = nn.ModuleList([Residual(a, b) for a, b in pairwise(widths)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for block in self.encoder_blocks:
            maps.append(block(self.downsampling(maps[-1])))
        return maps[::-1]


class Ascending(nn.Module):
    """Two paths up, one of which has seen the answer; at each scale a latent is drawn."""

    def __init__(self, widths: tuple[int, ...], levels: int) -> None:
        super().__init__()
        self.upsampling = nn.Upsample(scale_factor=2, mode="nearest")

        def scaled(places: int) -> nn.ModuleList:
            return nn.ModuleList([nn.Conv2d(widths[i], 1, 1) for i in range(places)])

        def blocks(places: int) -> nn.ModuleList:
            return nn.ModuleList([Residual(widths[i] + widths[i + 1] + 1, widths[i + 1]) for i in range(places)])

        self.latent_mean_convs, self.latent_std_convs = scaled(levels), scaled(levels)
        self.decoder_blocks = blocks(levels)
        self.post_latent_mean_convs, self.post_latent_std_convs = scaled(levels), scaled(levels)
        self.post_decoder_blocks = blocks(levels - 1)

    def drawn(self, means: Tensor, log_stds: Tensor) -> Tensor:
        noise = torch.normal(mean=torch.zeros_like(means), std=torch.ones_like(log_stds))
        return noise * torch.exp(log_stds) + means

    def up(self, block: nn.Module, h: Tensor, latent: Tensor, skip: Tensor) -> Tensor:
        h = self.upsampling(torch.cat([h, latent], dim=1))
        return block(torch.cat([h, skip], dim=1))

    def forward(self, maps: list[Tensor], seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = len(self.latent_std_convs)
        post_means, post_stds, latents, h = [], [], [], seen[0]
        for i in range(levels):
            means, log_stds = self.post_latent_mean_convs[i](h), self.post_latent_std_convs[i](h)
            post_means.append(means)
            post_stds.append(torch.exp(log_stds))
            latents.append(self.drawn(means, log_stds))
            if i < levels - 1:
                h = self.up(self.post_decoder_blocks[i], h, latents[i], seen[i + 1])
        prior_means, prior_stds, h = [], [], maps[0]
        for i in range(levels):
            means, log_stds = self.latent_mean_convs[i](h), self.latent_std_convs[i](h)
            prior_means.append(means)
            prior_stds.append(torch.exp(log_stds))
            h = self.up(self.decoder_blocks[i], h, latents[i], maps[i + 1])
        kls = torch.zeros(levels)
        for i in range(levels):
            moved = post_stds[i] ** 2 + (post_means[i] - prior_means[i]) ** 2
            kl = torch.log(prior_stds[i] / post_stds[i]) + moved / 2 / prior_stds[i] ** 2 - 1 / 2
            kls[i] = kl.reshape(len(h), -1).sum(dim=1).mean()
        return h, kls


class ScaledUNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (3, 4, 4), levels: int = 2) -> None:
        super().__init__()
        self.encoder_head, self.encoder = Doubly(1, widths[0]), Descending(widths)
        self.decoder, self.decoder_head = Ascending(widths[::-1], levels), Residual(widths[0], 1)
        self.posterior_encoder_head, self.posterior_encoder = Doubly(2, widths[0]), Descending(widths)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.posterior_encoder(self.posterior_encoder_head(torch.cat([x, y], dim=1)))
        h, kls = self.decoder(self.encoder(self.encoder_head(x)), seen)
        return self.decoder_head(h), kls


def scaled_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    preds, kls = model(x, y)
    error = nn.MSELoss(reduction="none")(preds[:, 0], y.squeeze(dim=1))
    return error.sum(dim=1).mean() + 1.0 * torch.sum(kls)


class Grown(nn.Module):
    """One of the growing functions that make a cumulative distribution."""

    def __init__(self, channels: int, n_in: int, n_out: int, last: bool) -> None:
        super().__init__()
        self.H = nn.Parameter(0.1 * torch.randn(channels, n_out, n_in))
        self.b = nn.Parameter(0.2 * torch.rand(channels, n_out, 1) - 0.1)
        self.a = None if last else nn.Parameter(torch.zeros(channels, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.matmul(F.softplus(self.H), x) + self.b
        return torch.sigmoid(x) if self.a is None else x + torch.tanh(self.a) * torch.tanh(x)


class FreeMass(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.units = nn.ModuleList([Grown(channels, 1, 3, False), Grown(channels, 3, 1, True)])

    def forward(self, z: Tensor) -> Tensor:
        rows, channels, height, width = z.shape
        h = z.permute(1, 0, 2, 3).reshape(channels, 1, -1)
        for unit in self.units:
            h = unit(h)
        return h.reshape(channels, rows, height, width).permute(1, 0, 2, 3)

    def likelihood(self, z: Tensor) -> Tensor:
        return self.forward(z + 0.5) - self.forward(z - 0.5) + 1e-6


class NormalCells(nn.Module):
    def forward(self, y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        scale = AtLeast.apply(scale, torch.tensor(1e-6))
        return 1.0 - 0.5 * torch.erfc((2**-0.5) * ((y - mean) / scale))

    def likelihood(self, y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        return self.forward(y + 0.5, mean, scale) - self.forward(y - 0.5, mean, scale) + 1e-6


class Causal(nn.Conv2d):
    """Sees what was decoded before."""

    mask: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 5, padding=2)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 2, 2:] = 0
        self.mask[:, :, 3:, :] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ContextCodec(nn.Module):
    def __init__(self, n: int = 3, lambda_: float = 0.0483) -> None:
        super().__init__()
        self.lambda_ = lambda_
        self.g_a = nn.Sequential(nn.Conv2d(3, n, 5, 2, 2), nn.Softsign(), nn.Conv2d(n, n, 5, 2, 2))
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(n, n, 5, 2, 2, 1), nn.Softsign(), nn.ConvTranspose2d(n, 3, 5, 2, 2, 1)
        )
        self.h_a = nn.Sequential(nn.Conv2d(n, n, 3, 1, 1), nn.LeakyReLU(), nn.Conv2d(n, n, 5, 2, 2))
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(n, n, 5, 2, 2, 1), nn.LeakyReLU(), nn.ConvTranspose2d(n, 2 * n, 3, 1, 1)
        )
        self.context_model = Causal(n, 2 * n)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(4 * n, 10, 1), nn.LeakyReLU(), nn.Conv2d(10, 8, 1), nn.LeakyReLU(), nn.Conv2d(8, 2 * n, 1)
        )
        self.factorized_model, self.gaussian_mixture_model = FreeMass(n), NormalCells()

    def quantize(self, x: Tensor) -> Tensor:
        return x + nn.init.uniform_(torch.zeros_like(x), -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.g_a(x)
        y_hat, z_hat = self.quantize(y), self.quantize(self.h_a(y))
        known = torch.cat((self.h_s(z_hat), self.context_model(y_hat)), dim=1)
        mean, scale = torch.chunk(self.entropy_parameters(known), chunks=2, dim=1)
        masses = (
            self.factorized_model.likelihood(z_hat), self.gaussian_mixture_model.likelihood(y_hat, mean, scale),
        )  # fmt: skip
        bits_ = sum(torch.sum(torch.clamp(-torch.log2(mass), min=0, max=50)) for mass in masses)
        x_hat = torch.clamp(self.g_s(y_hat), min=0, max=1)
        rate = bits_ / (x.shape[0] * x.shape[2] * x.shape[3])
        return rate + self.lambda_ * 255**2 * torch.mean((x - x_hat) ** 2)


# ------------------------------------------------------------------------------------------------ cells, sensors

SHARED_RELU = nn.ReLU()


def stacked(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """All stacks have one activation, the same module."""
    return nn.Sequential(nn.Linear(n_in, hidden), SHARED_RELU, nn.BatchNorm1d(hidden), nn.Linear(hidden, n_out))


class CountsVAE(nn.Module):
    def __init__(self, n_features: int = 8, latent_dim: int = 3, eps: float = 1e-6) -> None:
        super().__init__()
        self.n_features, self.latent_dim, self.eps = n_features, latent_dim, eps
        self.encoder, self.decoder = stacked(n_features, 8, 2 * latent_dim), stacked(latent_dim, 8, n_features)
        self.softmax, self.dispersion = nn.Softmax(dim=-1), nn.Parameter(torch.rand(n_features))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.encoder(x)
        z_mu, z_log_var = encoded[:, : self.latent_dim], encoded[:, self.latent_dim :]
        q = Normal(z_mu, F.softplus(z_log_var) + self.eps)
        z = q.rsample() if self.training else z_mu
        return z_mu, z_log_var, self.softmax(self.decoder(z)) * x.sum(keepdim=True, dim=-1)


def counts_loss(model: Any, x: Tensor) -> Tensor:
    """The KL of the prior from the posterior."""
    z_mu, z_log_var, mu = model(x)
    p = Normal(torch.zeros(len(x), model.latent_dim), torch.ones(len(x), model.latent_dim))
    q = Normal(z_mu, F.softplus(z_log_var) + model.eps)
    rate = torch.mean(kl_divergence(p, q), dim=-1).mean()
    theta = (F.softplus(model.dispersion) + model.eps).view(1, -1)
    both = torch.log(theta + mu + 1e-8)
    density = theta * (torch.log(theta + 1e-8) - both) + x * (torch.log(mu + 1e-8) - both)
    density = density + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return rate - torch.sum(density, dim=-1).mean() / model.n_features


class NodeReader(nn.Module):
    def __init__(self, n_in: int, hidden: int, code: int) -> None:
        super().__init__()
        self.conv1, self.conv_mu = Convolved(n_in, hidden), Convolved(hidden, code)
        self.conv_logstd = Convolved(hidden, code)

    def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv1(x, edges).relu()
        return self.conv_mu(h, edges), self.conv_logstd(h, edges)


class NodeVAE(nn.Module):
    """Keeps its means and log deviations for the KL."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = NodeReader(5, 6, 3)
        self.mu: Any = None
        self.logstd: Any = None

    def encode(self, x: Tensor, edges: Tensor) -> Tensor:
        self.mu, logstd = self.encoder(x, edges)
        self.logstd = logstd.clamp(max=10)
        return self.mu + torch.randn_like(self.logstd) * torch.exp(self.logstd) if self.training else self.mu

    def score(self, z: Tensor, pairs: Tensor) -> Tensor:
        return torch.sigmoid((z[pairs[0]] * z[pairs[1]]).sum(dim=1))

    def kl_loss(self) -> Tensor:
        return -0.5 * torch.mean(torch.sum(1 + 2 * self.logstd - self.mu**2 - self.logstd.exp() ** 2, dim=1))


def nodes_loss(model: Any, x: Tensor, edges: Tensor) -> Tensor:
    z = model.encode(x, edges)
    apart = torch.randint(len(x), edges.shape)
    there = -torch.log(model.score(z, edges) + 1e-15).mean()
    return there - torch.log(1 - model.score(z, apart) + 1e-15).mean() + model.kl_loss() / len(x)


def ring() -> tuple[Tensor, ...]:
    at = torch.arange(8)
    to = (at + 1) % 8
    return randn(8, 5), torch.cat([torch.stack([at, to]), torch.stack([to, at])], dim=1)


class Wired(nn.Module):
    def __init__(self, dims: list[int], act: nn.Module, output_act: nn.Module | None = None) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(dims[:-1])])
        self.act_func, self.output_act = act, output_act
        self.lastLayer = nn.Linear(dims[-2], dims[-1])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.act_func(layer(x))
        x = self.lastLayer(x)
        return x if self.output_act is None else self.output_act(x)


class SoftSensor(nn.Module):
    """What is measured, and rarely labelled; a label and its trend are drawn to tell where the code lies."""

    def __init__(self) -> None:
        super().__init__()
        share, encode, regress = [6, 5, 4], [4, 4, 3], [4, 4, 1]
        self.share_encoder = Wired(share, nn.Tanh(), nn.Tanh())
        self.mean_encoder, self.logvar_encoder = Wired(encode, nn.ReLU()), Wired(encode, nn.ReLU())
        self.y_mean_regressor, self.y_logvar_regressor = Wired(regress, nn.Tanh()), Wired(regress, nn.ReLU())
        self.trend_regressor = Wired(regress, nn.Tanh(), nn.Tanh())
        self.latent_generator = Wired([2, 4, 3], nn.ReLU())
        self.decoder = Wired([3, 4, 4, 5, 6], nn.ReLU())

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> Tensor:
        return self.y_mean_regressor(self.share_encoder(x))


def sensor_loss(model: Any, x: Tensor, x_next: Tensor, labels: Tensor, unlabelled: Tensor) -> Tensor:
    h = model.share_encoder(x)
    y_mean, y_logvar = model.y_mean_regressor(h), model.y_logvar_regressor(h)
    y = model.reparameterize(y_mean, y_logvar)
    z_mean, z_logvar = model.mean_encoder(h), model.logvar_encoder(h)
    z, trend = model.reparameterize(z_mean, z_logvar), model.trend_regressor(h)
    z_gen = model.latent_generator(torch.cat((y, trend), dim=1))
    drawn = model.reparameterize(z_gen, torch.ones_like(z_gen)).detach()
    error = F.mse_loss(x, model.decoder(z)) + F.mse_loss(x, model.decoder(drawn))
    with torch.no_grad():
        h = model.share_encoder(x_next)
        next_logvar, next_mean = model.logvar_encoder(h), model.mean_encoder(h)
        moved = torch.cat((model.reparameterize(y_mean + trend, y_logvar), model.trend_regressor(h)), dim=1)
        next_gen = model.latent_generator(moved)
    rate = torch.mean(-0.5 * (1 + z_logvar - (z_mean - z_gen).pow(2) - z_logvar.exp()).sum(dim=1))
    rate = rate + torch.mean(-0.5 * (1 + next_logvar - (next_mean - next_gen).pow(2) - next_logvar.exp()).sum(dim=1))
    without, with_ = torch.argwhere(unlabelled)[:, 0], torch.argwhere(1 - unlabelled)[:, 0]
    free = torch.index_select(y_logvar, 0, without)
    pred, logvar = torch.index_select(y_mean, 0, with_), torch.index_select(y_logvar, 0, with_)
    known = torch.index_select(labels, 0, with_)
    entropy = torch.mean(0.5 + 0.5 * torch.log(2 * np.pi * free.exp()))
    labelled = torch.mean(-0.5 + 0.5 * (torch.div((pred - known).pow(2), logvar.exp()) + logvar))
    return error + rate + entropy + labelled


class EngineVAE(nn.Module):
    def __init__(self, input_dim: int = 6, d_model: int = 8, latent_dim: int = 3) -> None:
        super().__init__()
        self.enc_linear = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU())
        self.enc_mu, self.enc_logvar = nn.Linear(d_model, latent_dim), nn.Linear(d_model, latent_dim)
        self.dec_linear = nn.Sequential(nn.Linear(latent_dim, d_model), nn.ReLU())
        self.enc_fc = nn.Sequential(nn.Linear(input_dim, d_model), nn.ReLU())
        self.dec_fc = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, input_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.enc_linear(self.enc_fc(x.squeeze(1)))
        mu, logvar = self.enc_mu(h), self.enc_logvar(h)
        return self.dec_fc(self.dec_linear(draw_half(mu, logvar))).unsqueeze(1), mu, logvar


def engine_loss(model: Any, x: Tensor, beta: float = 0.1, free_bits: float = 0.0) -> Tensor:
    x_hat, mu, logvar = model(x)
    rate = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
    return F.mse_loss(x_hat, x) + beta * torch.clamp(rate, min=free_bits).mean()


# ------------------------------------------------------------------------------------------------ formulas, molecules


class Branches:
    """Formulas of a batch, as one tree of symbols; -1 where a formula has no such place. Keeps what is predicted."""

    def __init__(self, symbols: list[int], left: Branches | None = None, right: Branches | None = None) -> None:
        self.target = torch.tensor(symbols)
        self.mask = (self.target >= 0).float()
        self.known = F.one_hot(self.target.clamp(min=0), 5).float() * self.mask[:, None]
        self.left, self.right = left, right
        self.prediction: Any = None

    def inorder(self) -> list[Branches]:
        before = [] if self.left is None else self.left.inorder()
        return [*before, self, *([] if self.right is None else self.right.inorder())]


def formulas() -> tuple[Branches]:
    deep = Branches([3, -1, 4, 3], Branches([0, -1, 1, 1]))
    return (Branches([2, 4, 2, 2], Branches([0, 1, 0, 0]), deep),)


class TwoToOne(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.wir, self.whr = nn.Linear(n_in, hidden), nn.Linear(2 * hidden, hidden)
        self.wiz, self.whz = nn.Linear(n_in, hidden), nn.Linear(2 * hidden, hidden)
        self.win, self.whn = nn.Linear(n_in, hidden), nn.Linear(2 * hidden, hidden)

    def forward(self, x: Tensor, h1: Tensor, h2: Tensor) -> Tensor:
        h = torch.cat([h1, h2], dim=1)
        r, z = torch.sigmoid(self.wir(x) + self.whr(h)), torch.sigmoid(self.wiz(x) + self.whz(h))
        return (1 - z) * torch.tanh(self.win(x) + r * self.whn(h)) + (z / 2) * h1 + (z / 2) * h2


class OneToTwo(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.wir, self.whr = nn.Linear(n_in, 2 * hidden), nn.Linear(hidden, 2 * hidden)
        self.wiz, self.whz = nn.Linear(n_in, 2 * hidden), nn.Linear(hidden, 2 * hidden)
        self.win, self.whn = nn.Linear(n_in, 2 * hidden), nn.Linear(hidden, 2 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        r, z = torch.sigmoid(self.wir(x) + self.whr(h)), torch.sigmoid(self.wiz(x) + self.whz(h))
        n = torch.tanh(self.win(x) + r * self.whn(h))
        return torch.split((1 - z) * n + z * h.repeat(1, 2), self.hidden, dim=1)


class TreeReader(nn.Module):
    def __init__(self, symbols: int, hidden: int, code: int) -> None:
        super().__init__()
        self.hidden, self.gru = hidden, TwoToOne(symbols, hidden)
        self.mu, self.logvar = nn.Linear(hidden, code), nn.Linear(hidden, code)

    def folded(self, tree: Branches | None, rows: int) -> Tensor:
        if tree is None:
            return torch.zeros(rows, self.hidden)
        h = self.gru(tree.known, self.folded(tree.left, rows), self.folded(tree.right, rows))
        return h.mul(tree.mask[:, None])

    def forward(self, tree: Branches) -> tuple[Tensor, Tensor]:
        h = self.folded(tree, len(tree.target))
        return self.mu(h), self.logvar(h)


class TreeWriter(nn.Module):
    def __init__(self, symbols: int, hidden: int, code: int) -> None:
        super().__init__()
        self.z2h, self.h2o, self.gru = nn.Linear(code, hidden), nn.Linear(hidden, symbols), OneToTwo(symbols, hidden)

    def unfold(self, h: Tensor, tree: Branches) -> None:
        tree.prediction = self.h2o(h)
        if tree.left is not None or tree.right is not None:
            below = self.gru(F.softmax(tree.prediction, dim=1), h)
            for part, child in zip(below, (tree.left, tree.right), strict=True):
                if child is not None:
                    self.unfold(part, child)

    def forward(self, z: Tensor, tree: Branches) -> Branches:
        self.unfold(self.z2h(z), tree)
        return tree


class TreeVAE(nn.Module):
    def __init__(self, symbols: int = 5, hidden: int = 6, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = TreeReader(symbols, hidden, code), TreeWriter(symbols, hidden, code)

    def sample(self, mu: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.randn(mu.size())
        return mu + eps * torch.exp(logvar / 2.0)

    def forward(self, tree: Branches) -> tuple[Tensor, Tensor, Branches]:
        mu, logvar = self.encoder(tree)
        return mu, logvar, self.decoder(self.sample(mu, logvar), tree)


def tree_loss(model: Any, tree: Branches, weight: float = 0.03) -> Tensor:
    mu, logvar, out = model(tree)
    places = out.inorder()
    pred = torch.stack([p.prediction for p in places], dim=2)
    target = torch.stack([p.target for p in places], dim=1)
    return F.cross_entropy(pred, target, ignore_index=-1) + weight * kl_to_unit(mu, logvar) / mu.size(0)


class RuleReader(nn.Module):
    def __init__(self, rules: int, code: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(rules, 5, 3), nn.Conv1d(5, 5, 3), nn.Conv1d(5, 6, 3)
        self.fc, self.fcMean, self.fcLogVar = nn.Linear(24, 10), nn.Linear(10, code), nn.Linear(10, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        x = torch.relu(self.fc(torch.flatten(x, start_dim=1)))
        return self.fcMean(x), self.fcLogVar(x)


class RuleWriter(nn.Module):
    def __init__(self, rules: int, code: int, steps: int = 10) -> None:
        super().__init__()
        self.steps = steps
        self.fc1, self.gru, self.fc2 = nn.Linear(code, code), nn.GRU(code, 7, 2), nn.Linear(7, rules)

    def forward(self, z: Tensor) -> Tensor:
        x, _ = self.gru(torch.relu(self.fc1(z)).repeat(self.steps, 1, 1))
        return self.fc2(x).permute(1, 2, 0)


class GrammarVAE(nn.Module):
    """Its noise is numpy's; of the rules those alone compete that the true one's symbol allows."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = RuleReader(6, code), RuleWriter(6, code)
        symbol = torch.tensor([0, 0, 1, 1, 2, 2])
        self.mask = (symbol[:, None] == symbol[None]).float()

    def sample(self, mean: Tensor, log_var: Tensor) -> Tensor:
        noise = torch.Tensor(np.random.normal(0, 1, size=tuple(mean.shape)))
        return mean + noise * torch.exp(log_var / 2)

    def allowed(self, x_true: Tensor, x_pred: Tensor) -> Tensor:
        x_pred = torch.exp(x_pred)
        out = torch.Tensor(np.zeros(shape=x_pred.shape))
        for i, (true, pred) in enumerate(zip(x_true, x_pred, strict=True)):
            mask = torch.index_select(self.mask, dim=1, index=torch.argmax(true, dim=0))
            out[i] = pred * mask / torch.sum(torch.mul(pred, mask), dim=0)
        return out

    def loss(self, x: Tensor) -> Tensor:
        mean, log_var = self.encoder(x)
        x_hat = self.allowed(x, self.decoder(self.sample(mean, log_var)))
        error = torch.sum(F.binary_cross_entropy(x_hat, x, reduction="none"), dim=(1, 2))
        rate = -0.5 * torch.mean(1 + log_var - torch.pow(mean, 2) - torch.exp(log_var), dim=1)
        return torch.mean(error + rate)


# ------------------------------------------------------------------------------------------------ sparse, fair, weights


class SpikeAndSlab(nn.Module):
    lambda_val = 1.0

    def __init__(self, latent_dim: int = 4, prior_sparsity: float = 0.01) -> None:
        super().__init__()
        self.prior_sparsity = prior_sparsity
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 2), nn.Flatten()
        )
        self.fc_mu, self.fc_logvar = nn.Linear(8, latent_dim), nn.Linear(8, latent_dim)
        self.fc_gamma, self.fc_decode = nn.Linear(8, latent_dim), nn.Linear(latent_dim, 8)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 4, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), nn.ReLU(),
            nn.ConvTranspose2d(3, 1, 3, 2, 1, 1), nn.Sigmoid(),
        )  # fmt: skip

    def reparameterize(self, mu: Tensor, logvar: Tensor, gamma: Tensor) -> Tensor:
        lam = self.lambda_val
        std = torch.exp(0.5 * logvar)
        slab = lam * mu + torch.randn_like(std) * (lam * std + (1 - lam))
        return torch.bernoulli(gamma) * slab

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar, gamma = self.fc_mu(h), self.fc_logvar(h), torch.sigmoid(self.fc_gamma(h))
        z = self.fc_decode(self.reparameterize(mu, logvar, gamma))
        return self.decoder(z.view(-1, 8, 1, 1)), mu, logvar, gamma


def spike_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar, gamma = model(x)
    error = F.binary_cross_entropy(recon, x, reduction="none").sum(dim=[1, 2, 3]).mean()
    rate = -0.5 * (1 + logvar - mu.pow(2) - torch.exp(logvar)).sum(dim=1).mean()
    return error + rate + F.binary_cross_entropy(gamma, torch.full_like(gamma, model.prior_sparsity))


class FairReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.BatchNorm2d(4),
            nn.Conv2d(4, 6, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.mean, self.logvar = nn.Linear(24, code), nn.Linear(24, code)
        self.sensitive, self.sensitive_activation = nn.Linear(24, 1), nn.Sigmoid()

    def reparametrize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        noise = torch.FloatTensor(std.size()).normal_()
        return noise.mul(std).add_(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x).view(len(x), -1)
        return self.reparametrize(self.mean(h), self.logvar(h)), self.sensitive_activation(self.sensitive(h))


class FairWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.decoder_dense = nn.Sequential(nn.Linear(code + 1, 24), nn.ReLU(True))
        self.decoder_conv = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(6, 4, 3, padding=1), nn.LeakyReLU(0.2, True),
            nn.BatchNorm2d(4, 1.0e-3), nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(4, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, z: Tensor, sensitive: Tensor) -> Tensor:
        h = self.decoder_dense(torch.cat((z, sensitive), dim=1))
        return self.decoder_conv(h.view(len(z), 6, 2, 2))


class FairFaces(nn.Module):
    """No KL: codes are to be as a Normal's by their kernels' means. Errors are of what a frozen network sees."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = FairReader(code), FairWriter(code)
        self.seen = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.seen.requires_grad_(False)
        self.code, self.half = Normal(torch.zeros(6, code), torch.ones(6, code)), torch.tensor(0.5).repeat(6)


def kernel_mean(x: Tensor, y: Tensor) -> Tensor:
    apart = (x.unsqueeze(1) - y.unsqueeze(0)).pow(2).mean(2) / float(x.size(1))
    return torch.exp(-apart).mean()


def fair_loss(model: Any, x: Tensor, t: Tensor) -> Tensor:
    z, sensitive = model.encoder(x)
    recon = model.decoder(z, sensitive)
    true = torch.cat((model.code.sample(), torch.bernoulli(model.half).unsqueeze(dim=1)), dim=1)
    joined = torch.cat((z, sensitive), dim=1)
    mmd = kernel_mean(joined, joined) + kernel_mean(true, true) - 2 * kernel_mean(joined, true)
    error = F.mse_loss(model.seen(recon), model.seen(x), reduction="sum")
    return 2000 * mmd + 0.005 * error + F.binary_cross_entropy(sensitive.squeeze(), t)


class DrawnWeights:
    """The law of some weights."""

    def __init__(self, mu: Tensor, rho: Tensor) -> None:
        self.mu, self.rho = mu, rho

    def sample(self) -> Tensor:
        sigma = torch.log1p(torch.exp(self.rho))
        return self.mu + sigma * torch.randn_like(self.mu)

    def log_prob(self, sample: Tensor) -> Tensor:
        sigma = torch.log1p(torch.exp(self.rho))
        return -0.5 * (math.log(2 * math.pi) + 2 * torch.log(sigma) + ((sample - self.mu) / sigma) ** 2)


class TwoScales:
    def __init__(self, sigma1: float = 0.1, sigma2: float = 0.4, pi: float = 0.5) -> None:
        self.sigmas, self.shares = (sigma1, sigma2), (pi, 1 - pi)

    def log_prob(self, sample: Tensor) -> Tensor:
        both = [
            math.log(share) - 0.5 * (math.log(2 * math.pi) + 2 * math.log(s) + (sample / s) ** 2)
            for s, share in zip(self.sigmas, self.shares, strict=True)
        ]
        return torch.logsumexp(torch.stack(both), dim=0)


class DrawnLinear(nn.Module):
    """Its weights are drawn in every call, and anew for their KL."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.empty(n_out, n_in).normal_(0, 0.1))
        self.weight_rho = nn.Parameter(torch.empty(n_out, n_in).normal_(-6.0, 0.1))
        self.bias_mu = nn.Parameter(torch.empty(n_out).normal_(0, 0.1))
        self.bias_rho = nn.Parameter(torch.empty(n_out).normal_(-6.0, 0.1))
        self.weight_prior, self.bias_prior = TwoScales(), TwoScales()
        self.weight: Any = None
        self.bias: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.weight = DrawnWeights(self.weight_mu, self.weight_rho).sample()
        self.bias = DrawnWeights(self.bias_mu, self.bias_rho).sample()
        return F.linear(x, self.weight, self.bias)

    def rate(self, mu: Tensor, rho: Tensor, prior_: TwoScales) -> Tensor:
        law = DrawnWeights(mu, rho)
        sample = law.sample()
        return (law.log_prob(sample) - prior_.log_prob(sample)).sum()

    def kl_divergence(self) -> Tensor:
        weight = self.rate(self.weight_mu, self.weight_rho, self.weight_prior)
        return weight + self.rate(self.bias_mu, self.bias_rho, self.bias_prior)


class DrawnRegressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(DrawnLinear(2, 5), nn.ReLU(), DrawnLinear(5, 1))

    def sample_elbo(self, x: Tensor, y: Tensor, samples: int = 3, weight: float = 1 / 40) -> Tensor:
        loss: Any = 0
        for _ in range(samples):
            loss = loss + F.mse_loss(self.layers(x), y)
        rates = [m.kl_divergence() for m in self.modules() if isinstance(m, DrawnLinear)]
        return loss / samples + weight * sum(rates)


# ------------------------------------------------------------------------------------------------ σ, by convention


def at_least_a_millionth(v: Tensor) -> Tensor:
    return v.clamp(min=1e-6)


# fmt: off
CASES = (
    PublicCase(
        "VAE of small pictures (Huak00)",
        Retold("Huak00/VAE-CIFAR10", "03bbaee9797f5c07ee46a5091829c8589e7ab89c", "model.py, train.py"),
        SmallPictures, images(batch=4), (posterior("fc_logvar"),), pictures_loss,
        truth="model.py reparameterize: exp(0.5 logvar); train.py vae_loss_function: KL summed",
    ),
    PublicCase(
        "Conv2d VAE of shots (Goetzkeg)",
        Retold("Goetzkeg/betaVAEDemo", "6fb3e4583be1e615c9bd16e2dfbd900bd7434f01", "models/betaVAEV00_model.py"),
        Shots, lambda: (rand(4, 8, 8),), (posterior("encoder.layer_fc.1", 4, 8),), lambda m, x: m.training_step(x),
        truth="betaVAEV00_model.py Conv2d_encoder: exp(0.5 logvar), the second of two rows, times what a Normal "
        "that it keeps samples; the KL is kept on the encoder",
    ),
    PublicCase(
        "TC-VAE of sprites (lov-1234)",
        Retold("lov-1234/tcvae_study", "bb534472f4ae80f2762bde4d1ed8379d7570204d", "model.py, loss.py, config.py"),
        Sprites, lambda: (bits(5, 1, 8, 8),), (posterior("encoder.logvar"),), sprites_loss,
        truth="model.py reparameterize: exp(0.5 logvar); loss.py tcvae_latent_log_terms: densities of each draw by all "
        "rows' laws; no KL is in closed form",
    ),
    PublicCase(
        "FactorVAE (scarletteshu)",
        Retold("scarletteshu/Pytorch-factor-vae", "66ff67384432dac4bdffcf97c8f978002e1f33fe", "fcvae.py, run_fvae.py"),
        FactoredPair, lambda: (bits(5, 1, 8, 8), bits(5, 1, 8, 8, seed=9)), (posterior("model.fc_var"),),
        factored_steps,
        truth="fcvae.py reparameterize: exp(0.5 logvar); run_fvae.py vaeLoss: KL by rows. Both steps are one loss here",
    ),
    PublicCase(
        "VAE-BEGAN of two codes (sootlasten)",
        Retold(
            "sootlasten/beta-vaegan", "bb1fcafbf8b50e3990745014de017ad4707376e9",
            "models.py, trainers/train_vaebegan.py, trainers/utils.py, run_vaebegan.py",
        ),
        MixedVAEGAN, lambda: (rand(5, 1, 8, 8),), (posterior("vae.encoder.7", 3, 6),), mixed_steps,
        truth="models.py _reparam_gauss: exp(0.5 logvar), of the second part of the encoder's last layer; the third is "
        "a choice's logits. trainers: the KL is drawn to a number of nats. Three steps' losses are one here",
    ),
    # levels, codecs
    PublicCase(
        "Hierarchical Probabilistic U-Net (mhsotoudeh)",
        Retold(
            "mhsotoudeh/ProbUNet-Tutorial", "889c470f0e5ed7bf3a75550620a0415fad0beb29", "model.py, train.py, main.py"
        ),
        lambda: ScaledUNet().double(), lambda: (rand(3, 1, 8, 8).double(), rand(3, 1, 8, 8, seed=9).double()),
        (
            *(posterior(f"decoder.post_latent_std_convs.{i}", sigma=torch.exp) for i in range(2)),
            *(prior(f"decoder.latent_std_convs.{i}", sigma=torch.exp) for i in range(2)),
        ), scaled_loss,
        truth="model.py sample_latent: exp(log_stds), and once more what the KL has; the prior's latents are not drawn "
        "in training. In float64, as main.py has it",
    ),
    PublicCase(
        "Codec with a context (USTC-iVCSeminar-Team2)",
        Retold(
            "USTC-iVCSeminar-Team2/Context-Hyperprior-Ly", "4993fa16d6fd998602f99d27ab30088cfa3cf2b7",
            "models/model.py, modules/gaussian_mixture_model.py, modules/factorized_model.py, modules/context.py",
        ),
        ContextCodec, lambda: (rand(2, 3, 16, 16),), (prior("entropy_parameters.4", 3, 6, at_least_a_millionth),),
        itself,
        truth="gaussian_mixture_model.py: the second half of the last layer itself is σ, never below 1e-6, of the mass "
        "of intervals of length one. Its divisive normalization is a softsign here",
    ),
    # cells, graphs, sensors
    PublicCase(
        "scVAE of counts (niujeffrey)",
        Retold(
            "niujeffrey/basic-single-cell-vae", "2f218e870f44af4b9ec46e5dc7ff96a1a9a088cc",
            "src/basic_vae/vae.py, src/basic_vae/losses.py, src/basic_vae/trainer.py",
        ),
        CountsVAE, lambda: (1 + tokens(5, 6, 8).float(),), (posterior("encoder.3", 3, 6, raised_softplus),),
        counts_loss,
        truth="vae.py: softplus + 1e-6, to draw and once more for the KL, whose arguments are exchanged, a slip: what "
        "draws and sees the data is the posterior. A count's dispersion is no Normal's",
    ),
    PublicCase(
        "VGAE of random graphs (mbottoni)",
        Retold(
            "mbottoni/graph-vae-subsampling", "2b068e5c24baade7acf625829a1d84399b5cf8e6", "src/gvs/models/vgae.py"
        ),
        NodeVAE, ring, (posterior("encoder.conv_logstd", sigma=never_above_ten),), nodes_loss,
        truth="of the package torch_geometric, written out here: exp of a log deviation never above 10, which stays on "
        "the model; the KL is divided by the nodes",
    ),
    PublicCase(
        "SSVAE of a soft sensor (tonyzyl)",
        Retold(
            "tonyzyl/Semisupervised-VAE-for-Regression-Application-on-Soft-Sensor",
            "d996cb5dea412652aa27a4536566c226cb513800", "models/ssvaer.py, demo_sru.ipynb",
        ),
        SoftSensor,
        lambda: (randn(8, 6), randn(8, 6, seed=9), randn(8, 1, seed=10), bits(8, 1).long()),
        (posterior("logvar_encoder.lastLayer"), posterior("y_logvar_regressor.lastLayer")), sensor_loss,
        truth="ssvaer.py reparameterize: exp(0.5 logvar); the code's KL is from a unit Normal around what a drawn "
        "label tells. Hard to decide: the label's is drawn, and a label's density has it, too: a posterior's here",
    ),
    PublicCase(
        "VAE of jet engines (3seoksw)",
        Retold(
            "3seoksw/Jet-Engine-Anomaly-Detection-VAE", "96c1229028810a55b45f8a1acc1665ebdaa17c88",
            "src/models/base_model.py, src/models/vae.py, src/trainer/trainer.py",
        ),
        EngineVAE, lambda: (randn(6, 1, 6),), (posterior("enc_logvar"),), engine_loss,
        truth="base_model.py reparameterize: exp(0.5 logvar); trainer.py compute_loss: KL's mean, each term at least 0",
    ),
    # formulas, molecules
    PublicCase(
        "HVAE of formulas (smeznar)",
        Retold("smeznar/HVAE", "fd282f2db65fcb93ff2dc3e3d3066e3c34020640", "EDHiE/model.py, EDHiE/train.py"),
        TreeVAE, formulas, (posterior("encoder.logvar"),), tree_loss,
        truth="model.py HVAE.sample: exp(logvar / 2); BatchedNode.loss: KL by rows. What is given is no tensor but a "
        "tree, which keeps what is predicted",
    ),
    PublicCase(
        "Grammar VAE (kamikaze0923)",
        Retold("kamikaze0923/Molecule-VAE-AAE", "955ecd9046956943ddc11086422f92b600c21993", "vae.py"),
        GrammarVAE, lambda: (F.one_hot(tokens(6, 4, 10), 6).float().transpose(1, 2),),
        (posterior("encoder.fcLogVar"),), lambda m, x: m.loss(x),
        truth="vae.py sample: exp(log_var / 2), times numpy's noise; loss: the KL's mean over the code",
    ),
    # sparse, fair, weights
    PublicCase(
        "VSC (keinsam)",
        Retold(
            "keinsam/VSC-For-Sparse-VAE", "f0b3ceac4e281dbb363c8a17985156229b45a3cf",
            "logic/model/vsc.py, logic/train/train_vsc.py",
        ),
        SpikeAndSlab, lambda: (rand(5, 1, 8, 8),), (posterior("fc_logvar"),), spike_loss,
        truth="vsc.py reparameterize: exp(0.5 logvar), by a share λ that its standard training leaves at 1, then "
        "a drawn bit; train_vsc.py: KL by rows",
    ),
    PublicCase(
        "VAE_Fair (Usama1002)",
        Retold(
            "Usama1002/MMD-fair-representations", "072c4c1fc485d52e810d88831472517777c6e6f4",
            "models/simple_vae.py, utils/train.py, utils/loss.py",
        ),
        FairFaces, lambda: (rand(6, 3, 8, 8), bits(6)), (posterior("encoder.logvar"),), fair_loss,
        truth="simple_vae.py reparametrize: exp(0.5 logvar); train.py computes a KL and leaves it out of its loss. A "
        "small frozen network stands for VGG",
    ),
    PublicCase(
        "BayesianRegressor (zchccsx)",
        Retold(
            "zchccsx/Bayes-by-Backprop", "9fb27d9936f765ac9f19eaa8a27144a8b85892c8",
            "Bayes/modules/linear_bayesian_layer.py, Bayes/modules/weight_sampler.py, Bayes/models/regression.py, "
            "Bayes/utils/variational_estimator.py, Bayes/utils/regression_trainer.py",
        ),
        DrawnRegressor, lambda: (randn(6, 2), randn(6, 1, seed=9)),
        tuple(posterior(f"layers.{i}.{v}_rho", sigma=F.softplus) for i in (0, 2) for v in ("weight", "bias")),
        lambda m, x, y: m.sample_elbo(x, y),
        truth="weight_sampler.py: log(1 + exp(rho)), drawn in every call, and once more for the KL by samples. Two "
        "layers of weights here",
    ),
)
# fmt: on
