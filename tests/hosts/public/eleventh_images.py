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

In reserve: "vae-mnist", "vae-celeba", "dvae", "vae-medical", "xray-vae", "protein-vae", "tvae", "uncertainty-estimation",
"mcvae", "vae-fairness", "causal-vae", "drug-vae", "vae-image-compression", "spectral-vae", "gan-vae", "deepvib".
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from public import PublicCase, Retold
from public.draws import rand
from public.fourth_images import draw_half
from public.third_images import bits, images, kl_to_unit, posterior

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


# ------------------------------------------------------------------------------------------------ σ, by convention


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
)
# fmt: on
