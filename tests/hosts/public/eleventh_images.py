"""An eleventh look: images, levels, factors, VAE-GANs, segmentation, compression, molecules, graphs, cells, medicine,
anomalies, regression, Bayesian layers, points, meshes, fairness, domains, sparse codes, modalities, causes and
super-resolution, in our own words.

The fields, and a word for each, were fixed and committed before any search, with some words in reserve. For each the
list of repositories whose names have the word was taken in the index's order (the most file versions first), and of
those whose snapshot could be had the first that is PyTorch, trains a model of its own with its own loss, draws or has
a density, and is in no earlier look; its main model, with its main loss. Of lists of a hundred names, the first whose
name told that it fits. Conventions were neither sought nor avoided. Every truth was written from reading the code,
before any of these was scanned, by somebody who had not read the scan's, but who knew from the docs which faults
earlier looks had found. What an earlier look had passed is passed for its reason.

"vae-cifar": one of an earlier look and `indian-coder-aarush`'s (some of its layers are not there: it cannot run)
passed, `Huak00`'s taken. "face-vae": volatility's surfaces by name, `Luh1124`'s, two in Keras and one of an earlier
look passed, the notebook of `nadaahx/cartoon-face-vae` not in the snapshot; none. "cvae-pytorch": `skydvn`'s (draws
nothing), dialogues by name and one of an earlier look; none. "ladder-vae": an earlier look's; "hvae": `lacykaltgr`'s
(another package's layers), `antoinelfg`'s (no snapshot), `mohit2agrawal`'s (TensorFlow), `JakobHavtorn`'s (an earlier
look's) and others by name passed, `smeznar/HVAE` taken. "vae-clustering": songs by name, four (TensorFlow), one of an
earlier look and one without a snapshot passed, `sghalebikesabi`'s taken. "betavae": `mynlp`'s (messages of words),
two (TensorFlow) and one of an earlier look passed, `Goetzkeg/betaVAEDemo` taken. "factor-vae": one of an earlier
look, `yzhang816-bit`'s (a copy of it) and `gene-chou`'s (its training imports a model that is not there) passed,
`scarletteshu`'s taken. "tcvae": one unfinished, one of an earlier look, one by name, `WANGShuaiShine`'s (no code) and
`ecreager`'s (a fork of an earlier look's) passed, `lov-1234/tcvae_study` taken. "vaegan": `mauicv`'s (no training in
it), two (TensorFlow) and one of an earlier look passed, `sootlasten/beta-vaegan` taken. "probunet": `mhsotoudeh`'s.
"hyperprior": an owner of that name and a codec of films passed by name, `USTC-iVCSeminar-Team2`'s taken. "molecule-
vae": one in Keras and one of an earlier look passed, `kamikaze0923`'s taken. "graph-vae": `mbottoni`'s. "single-cell-
vae": one of an earlier look passed, `niujeffrey`'s taken. "brain-vae": those of an earlier look, and a copy; none.
"anomaly-detection-vae": heart beats by name and `gyeongminn`'s (Keras) passed, `3seoksw`'s taken. "mixture-density":
three of earlier looks, a web page, `valentineap`'s (Fortran) and `FedeMark`'s (its loss raises) passed, `Pilot-
Khadka`'s taken. "aleatoric": most by name and `zeyun-zhong`'s (TensorFlow) passed, `self-supervisor`'s taken. "bayes-
by-backprop": two of earlier looks passed, `zchccsx`'s taken. "variational-dropout": Theano and TensorFlow but for one
of an earlier look; the last three not looked at, none. "latent-diffusion": one by name, one of others' models and one
of an earlier look passed, `masonhyz/Brain-Latent-Diffusion` taken, its VAE. "mesh-vae": `ZOUKaifeng`'s. "fair-
representation": `XudongOliverShen`'s (draws nothing) passed; `Usama1002`'s was taken before `tstksnhx`'s, before it,
was seen to draw in one of its methods: both stay. "vae-domain": `mrquantran`'s. "vae-hashing": an earlier look's;
"vae-recommender": codes by name, and `ADeviatkin`'s (another package's model); "vae-sr": codes by name, `lyxiao15`'s
(series), `dman14/VDVAE-SR` (VDVAE's own code) and one in Keras; none. "semisupervised-vae": one of an earlier look
passed, `tonyzyl`'s taken. "importance-weighted": two by name, `weiconglyu`'s (no Python), one in JAX and
`atinghosh`'s (its σ is a number, and it cannot run) passed, the rest not looked at; none. "mmd-vae": TensorFlow, no
model, and `Saswatm123`'s (draws nothing); none. "vae-flow": one by name, three (TensorFlow), two (JAX) and
`kennethZhangML`'s (its shapes do not fit: it cannot run); none. "sparse-vae": `norabelrose`'s (texts) and
`antoinelfg`'s (too large) passed, `keinsam/VSC-For-Sparse-VAE` taken. "mmvae": one of an earlier look and
`Jimmy2027`'s (too large) passed, the rest are forks or were not looked at; none. "cada-vae": one in Keras passed,
`edgarschnfld`'s taken. "information-bottleneck": those that an earlier look passed, one of an earlier look, `richard-
moulton`'s (no Python) and `nyyxxx`'s (its loss is no Python) passed, the rest not looked at; none. "introvae": by
name, one in TensorFlow, one of an earlier look and `woxuankai`'s (a fork of it) passed, `eking2`'s taken. "font-vae"
(Keras), "galaxy-vae" and "ivae" (all sorts) gave none; "pointcloud-vae", "vae-inpainting" and "satellite-vae" name
nothing; "pose-vae" (pictures), "tabular-vae" (no snapshot).

Of the words in reserve "vae-mnist": two of an earlier look passed, `moreira-and/cvae-mnist` taken; "vae-celeba":
three that an earlier look passed or has, `TryingManV2`'s taken; "vae-medical": `Ahmed-Belal1`'s; "mcvae": `stat-ml`'s
passed (too large), `ggbioing`'s taken; "causal-vae": one of an earlier look passed, `Rahima411`'s taken; "spectral-
vae": `pkadukar`'s; "drug-vae" and "vae-image-compression" (TensorFlow) and "gan-vae" (`kovarthanmuthusamy`'s main
model is a GAN; the rest not looked at) gave none; "protein-vae" has those of earlier looks, "xray-vae", "vae-
fairness" and "deepvib" name nothing that fits; "dvae", "tvae" and "uncertainty-estimation" name all sorts, and were
not looked at.

Models without a head: "dcgan-pytorch": `XC4Marine`'s passed (no snapshot), `eungbean`'s taken; "byol-pytorch":
`lucidrains`'s; "denoising-autoencoder": one of an earlier look passed, `ludwig7959`'s taken; "nice-pytorch" names an
earlier look's alone, and the second word "realnvp-pytorch" `henrhoi`'s; "ddpm-mnist": `faisalqureshi`'s; "vq-vae-
pytorch": `shakhsm123`'s.

Second words, fixed and committed before their own searches, for fields that have none: faces "vae-faces": codes by
name, `ibrahimhabibeg`'s taken; point clouds "pointvae": `Soooda`'s; importance weights "iwae-pytorch": one of an
earlier look passed, `JohanYe`'s taken; dropout "vardrop": by an owner's name, one without a snapshot and one of
series by name passed, `gil00`'s taken; "identifiable-vae": `woo-taek`'s; super-resolution "super-resolution-vae":
`Etienne-bdt`'s. Recommenders "recvae" and hashing "vae-hash" have those of earlier looks, and some that were not
looked at; mean discrepancy "mmdvae" `Ferg-Lab`'s, which draws nothing; bottlenecks "vib-pytorch" one of an earlier
look, and others of its name that were not looked at; poses "pose_vae", tables "tabvae", inpainting "inpaint-vae" and
flows "vae-normalizing-flow" name nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.tenth_images import AtLeast, Convolved, half_within_seven, never_above_ten, raised_softplus
from public.third_images import bits, images, itself, kl_to_unit, likelihood, posterior, prior

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
        """Within each row."""
        return torch.stack([row[torch.randperm(len(row))] for row in z])


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

    def loss_function(self, x: Tensor, z_mu: Tensor, z_log_var: Tensor, mu: Tensor) -> Tensor:
        """With the KL of the prior from the posterior."""
        p = Normal(torch.zeros(len(x), self.latent_dim), torch.ones(len(x), self.latent_dim))
        q = Normal(z_mu, F.softplus(z_log_var) + self.eps)
        rate = torch.mean(kl_divergence(p, q), dim=-1).mean()
        theta = (F.softplus(self.dispersion) + self.eps).view(1, -1)
        both = torch.log(theta + mu + 1e-8)
        density = theta * (torch.log(theta + 1e-8) - both) + x * (torch.log(mu + 1e-8) - both)
        density = density + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        return rate - torch.sum(density, dim=-1).mean() / self.n_features


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


# ------------------------------------------------------------------------------------------------ brains, meshes


class Twice3d(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(n_in, n_out, 3, padding=1, bias=False), nn.InstanceNorm3d(n_out),
            nn.LeakyReLU(0.1, inplace=True), nn.Conv3d(n_out, n_out, 3, padding=1, bias=False),
            nn.InstanceNorm3d(n_out), nn.LeakyReLU(0.1, inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Raised3d(nn.Module):
    def __init__(self, n_in: int, skip: int, n_out: int) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose3d(n_in, n_out, 2, 2), Twice3d(n_out + skip, n_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([self.up(x), skip], dim=1))


class VolumeVAE(nn.Module):
    """A U-Net whose deepest features are drawn; keeps the last means and log variances."""

    def __init__(self, base: int = 2, latent_dim: int = 4) -> None:
        super().__init__()
        self.enc1, self.enc2 = Twice3d(1, base), Twice3d(base, 2 * base)
        self.pool1, self.pool2 = nn.MaxPool3d(2), nn.MaxPool3d(2)
        self.bottleneck, self.global_pool = Twice3d(2 * base, 4 * base), nn.AdaptiveAvgPool3d(1)
        self.fc_mu, self.fc_logvar = nn.Linear(4 * base, latent_dim), nn.Linear(4 * base, latent_dim)
        self.fc_z_to_c = nn.Linear(latent_dim, 4 * base)
        self.up2, self.up1 = Raised3d(4 * base, 2 * base, 2 * base), Raised3d(2 * base, base, base)
        self.out = nn.Conv3d(base, 1, 1)
        self.last_mu: Any = None
        self.last_logvar: Any = None

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(self.pool1(e1))
        h = self.global_pool(self.bottleneck(self.pool2(e2))).flatten(1)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        self.last_mu, self.last_logvar = mu, logvar
        z = draw_half(mu, logvar) if self.training else mu
        spread = self.fc_z_to_c(z)[:, :, None, None, None].expand(-1, -1, *(max(n // 2, 1) for n in e2.shape[-3:]))
        return self.out(self.up1(self.up2(spread, e2), e1))


def volume_loss(model: Any, x: Tensor, y: Tensor, beta: float = 1e-4) -> Tensor:
    mask = ((x != 0) | (y != 0)).float()
    error = ((model(x) - y).abs() * mask).sum() / mask.sum().clamp_min(1e-8)
    mu, logvar = model.last_mu, model.last_logvar
    return error + beta * (0.5 * torch.sum(torch.exp(logvar) + mu**2 - 1.0 - logvar, dim=1)).mean()


class Chebyshev(nn.Module):
    """A sum over powers of a graph, each with weights of its own."""

    def __init__(self, n_in: int, n_out: int, degree: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(degree, n_in, n_out))
        self.bias = nn.Parameter(0.1 * torch.randn(n_out)) if bias else None

    def forward(self, x: Tensor, norm: Tensor) -> Tensor:
        out = torch.matmul(x, self.weight[0])
        for weight in self.weight[1:]:
            x = torch.einsum("nm,bmc->bnc", norm, x)
            out = out + torch.matmul(x, weight)
        return out if self.bias is None else out + self.bias


class MeshVAE(nn.Module):
    """A label is known, and guessed; the deviation of vertices is a number."""

    fine: Tensor
    down: Tensor

    def __init__(self, code: int = 3, classes: int = 2) -> None:
        super().__init__()
        around = torch.roll(torch.eye(8), 1, 0) + torch.roll(torch.eye(8), -1, 0)
        self.register_buffer("fine", -around / 2)
        self.register_buffer("down", torch.eye(8)[::2])
        self.cheb = nn.ModuleList([Chebyshev(3, 4)])
        self.cheb_dec = nn.ModuleList([Chebyshev(4, 4), Chebyshev(4, 3, bias=False)])
        self.classifier_layer, self.enc_lin = nn.Linear(10, classes), nn.Linear(16, 10)
        self.z_mean, self.z_log_var = nn.Linear(10 + classes, code), nn.Linear(10 + classes, code)
        self.dec_lin, self.dec_lin_2 = nn.Linear(code + classes, 10), nn.Linear(10, 16)
        self.dropout = nn.Dropout(p=0.2)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(logvar * 0.5)
        z = torch.normal(mean=0, std=1, size=(mu.shape[0], logvar.shape[1]))
        return z * std + mu

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.down @ F.relu(self.cheb[0](x, self.fine))
        h = self.dropout(F.relu(self.enc_lin(h.reshape(len(x), -1))))
        y_hat = F.softmax(self.classifier_layer(self.dropout(h)), dim=1)
        h = torch.cat([y, h], -1)
        mu, logvar = self.z_mean(h), self.z_log_var(h)
        z = torch.cat([y, self.reparameterize(mu, logvar)], -1)
        h = self.dropout(F.relu(self.dec_lin_2(self.dropout(F.relu(self.dec_lin(z))))))
        h = self.down.t() @ h.reshape(len(x), 4, 4)
        recon = self.cheb_dec[1](F.relu(self.cheb_dec[0](h, self.fine)), self.fine)
        rate = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), -1)
        log_sigma = -6 + F.softplus(torch.Tensor([1]) + 6)
        error = 0.5 * torch.pow((x - recon) / log_sigma.exp(), 2) + log_sigma + 0.5 * np.log(2 * np.pi)
        return (rate + error.sum(-1).sum(-1) - 2 * (y_hat * y).sum(-1).log()).mean()


class Reversed(torch.autograd.Function):
    """What comes back is turned around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].neg() * ctx.alpha, None


class DomainReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 12, 3, 2, 1), nn.SiLU())
        self.attention = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 12), nn.Sigmoid())
        self.fc_mu, self.fc_logvar, self.dropout = nn.Linear(12, code), nn.Linear(12, code), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.dropout(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))
        h = h * self.attention(h)
        return self.fc_mu(h), self.fc_logvar(h)


class DomainWriter(nn.Module):
    def __init__(self, code: int, domains: int) -> None:
        super().__init__()
        self.domain_embedding, self.init_conv = nn.Embedding(domains, code), nn.Conv2d(code, 6, 3, padding=1)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.final_conv = nn.Conv2d(4, 3, 3, padding=1)
        self.attention = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid())

    def forward(self, z: Tensor, domain: Tensor) -> Tensor:
        h = (z + self.domain_embedding(domain)).view(len(z), -1, 1, 1)
        h = self.up(self.init_conv(F.interpolate(h, size=(4, 4), mode="bilinear", align_corners=False)))
        h = self.final_conv(h)
        return h * self.attention(h)


class DomainVAE(nn.Module):
    """One decoder for each domain that it is trained on; a drawn code loses half of its numbers."""

    def __init__(self, code: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.encoder = DomainReader(code)
        self.decoders = nn.ModuleDict({name: DomainWriter(code, 3) for name in ("photo", "cartoon")})
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(code, classes))
        self.domain_classifier = nn.Sequential(nn.Linear(code, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))


def domain_loss(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    mu, logvar = model.encoder(x)
    std = torch.exp(0.5 * logvar)
    z = F.dropout(mu + torch.randn_like(std) * std, p=0.5, training=True)
    guess = model.domain_classifier(Reversed.apply(z, 0.5))
    recons = [model.decoders[name](z, torch.tensor([i] * len(x))) for i, name in enumerate(model.decoders)]
    error = sum(F.mse_loss(recon, x, reduction="mean") for recon in recons) / len(recons)
    rate = -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())
    logits = model.classifier(z)
    soft = torch.full_like(logits, 0.1 / (logits.size(1) - 1)).scatter(1, labels.unsqueeze(1), 0.9)
    told = -(soft * F.log_softmax(logits, -1)).sum(dim=-1).mean()
    return 0.1 * error + told + 0.1 * rate - 0.2 * F.binary_cross_entropy_with_logits(guess, torch.zeros(len(x), 1))


class AlignedReader(nn.Module):
    def __init__(self, n_in: int, hidden: int, code: int) -> None:
        super().__init__()
        self.feature_encoder = nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU())
        self._mu, self._logvar = nn.Linear(hidden, code), nn.Linear(hidden, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.feature_encoder(x)
        return self._mu(h), self._logvar(h)


class AlignedVAEs(nn.Module):
    """Features of images and attributes of classes, each rebuilt from the other's code, too."""

    sizes: ClassVar = {"resnet_features": 10, "attributes": 7}

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({k: AlignedReader(n, 8, code) for k, n in self.sizes.items()})
        self.decoder = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(code, 8), nn.ReLU(), nn.Linear(8, n)) for k, n in self.sizes.items()}
        )

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        sigma = torch.exp(logvar)
        eps = torch.FloatTensor(logvar.size()[0], 1).normal_(0, 1).expand(sigma.size())
        return mu + sigma * eps


def aligned_step(model: Any, img: Tensor, att: Tensor) -> Tensor:
    (mu_img, v_img), (mu_att, v_att) = model.encoder["resnet_features"](img), model.encoder["attributes"](att)
    z_img, z_att = model.reparameterize(mu_img, v_img), model.reparameterize(mu_att, v_att)
    to_img, to_att = model.decoder["resnet_features"], model.decoder["attributes"]
    error = F.l1_loss(to_img(z_img), img, reduction="sum") + F.l1_loss(to_att(z_att), att, reduction="sum")
    cross = F.l1_loss(to_img(z_att), img, reduction="sum") + F.l1_loss(to_att(z_img), att, reduction="sum")
    rate = kl_to_unit(mu_att, v_att) + kl_to_unit(mu_img, v_img)
    spread = torch.sum((torch.sqrt(v_img.exp()) - torch.sqrt(v_att.exp())) ** 2, dim=1)
    distance = torch.sqrt(torch.sum((mu_img - mu_att) ** 2, dim=1) + spread).sum()
    return error + 0.1 * rate + 0.5 * cross + 2.0 * distance


class Bent(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.downsample = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        out += self.downsample(x)
        return F.leaky_relu(out, 0.2)


class JudgingReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.avgPool, self.conv1 = nn.AvgPool2d(2), nn.Conv2d(3, 3, 5, 1, 2)
        self.res1, self.fc1, self.fc2 = Bent(3, 4), nn.Linear(16, code), nn.Linear(16, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.avgPool(self.res1(self.avgPool(F.leaky_relu(self.conv1(x), 0.2)))).view(-1, 16)
        return self.fc1(h), self.fc2(h)


class JudgedWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.upsample, self.fc1, self.res2 = nn.Upsample(scale_factor=2), nn.Linear(code, 16), Bent(4, 3)
        self.conv8 = nn.Conv2d(3, 3, 5, 1, 2)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.fc1(z)).view(-1, 4, 2, 2)
        return self.conv8(self.upsample(self.res2(self.upsample(h))))


class SelfJudged(nn.Module):
    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = JudgingReader(code), JudgedWriter(code)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std


def judged_steps(model: Any, x: Tensor, margin: float = 3.0, alpha: float = 0.25, beta: float = 0.05) -> Tensor:
    """Both steps' losses as one; in each the other half is frozen."""

    def rate(pictures: Tensor) -> Tensor:
        mu, logvar = model.encoder(pictures)
        return -0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar)) / mu.shape[0]

    model.encoder.requires_grad_(True)
    model.decoder.requires_grad_(False)
    mu, logvar = model.encoder(x)
    z = model.reparameterize(mu, logvar)
    z_p = torch.randn_like(z)
    x_p, x_r = model.decoder(z_p), model.decoder(z)
    error = 0.5 * F.mse_loss(x, x_r, reduction="sum") / len(x)
    real = -0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar)) / mu.shape[0]
    kept = F.relu(margin - rate(x_r.detach())) + F.relu(margin - rate(x_p.detach()))
    enc_loss = beta * error + real + alpha * kept
    model.encoder.requires_grad_(False)
    model.decoder.requires_grad_(True)
    x_r, x_p = model.decoder(z.detach()), model.decoder(z_p.detach())
    error = 0.5 * F.mse_loss(x, x_r, reduction="sum") / len(x)
    dec_loss = beta * error + alpha * (rate(x_r) + rate(x_p))
    model.encoder.requires_grad_(True)
    return enc_loss + dec_loss


class ClusterVAE(nn.Module):
    """A code for each cluster that a row may be of."""

    def __init__(self, n_in: int = 12, clusters: int = 3, code: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.clusters, self.z_dim = clusters, code
        self.fc_x_h, self.fc_hx_h = nn.Linear(n_in, hidden), nn.Linear(hidden, hidden)
        self.fc_h_qyl, self.fc_qyl_qy = nn.Linear(hidden, clusters), nn.Softmax(1)
        self.fc_xy_h, self.fc_hxy_h = nn.Linear(n_in + clusters, hidden), nn.Linear(hidden, hidden)
        self.fc_h_z, self.fc_y_z = nn.Linear(hidden, 2 * code), nn.Linear(clusters, 2 * code)
        self.fc_z_h, self.fc_hz_h = nn.Linear(code, hidden), nn.Linear(hidden, hidden)
        self.fc_h_xl = nn.Linear(hidden, n_in)

    def drawn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc_hxy_h(F.relu(self.fc_xy_h(torch.cat([x, y], 1)))))
        mu, logvar = torch.split(self.fc_h_z(h), self.z_dim, dim=1)
        std = torch.sqrt(torch.exp(logvar))
        return mu + torch.randn_like(std) * std, mu, logvar

    def rebuilt(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = torch.split(self.fc_y_z(y), self.z_dim, dim=1)
        return mu, logvar, torch.sigmoid(self.fc_h_xl(F.relu(self.fc_hz_h(F.relu(self.fc_z_h(z))))))


def by_variance(x: Tensor, mu: Tensor, var: Tensor) -> Tensor:
    return -0.5 * torch.sum(np.log(2 * math.pi) + torch.log(var) + torch.square(x - mu) / var, -1)


def cluster_loss(model: Any, x: Tensor) -> Tensor:
    logits = model.fc_h_qyl(F.relu(model.fc_hx_h(F.relu(model.fc_x_h(x)))))
    qy = model.fc_qyl_qy(logits)
    parts = [torch.sum(qy * torch.nn.LogSoftmax(1)(logits), 1)]
    for i in range(model.clusters):
        y = torch.zeros([len(x), model.clusters]) + torch.eye(model.clusters)[i]
        z, mu, logvar = model.drawn(x, y)
        mu_p, logvar_p, px = model.rebuilt(z, y)
        loss = torch.sum(F.binary_cross_entropy(px, x, reduction="none"), -1)
        loss = loss + by_variance(z, mu, torch.exp(logvar)) - by_variance(z, mu_p, torch.exp(logvar_p))
        parts.append(qy[:, i] * (loss - math.log(1 / model.clusters)))
    return torch.stack(parts).sum(0).sum()


class ScansVAE(nn.Module):
    def __init__(self, latent_dim: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU())
                for a, b in pairwise((1, 4, 6))
            )
        )
        self.fc_mu, self.fc_var = nn.Linear(24, latent_dim), nn.Linear(24, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 24)
        self.decoder = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.LeakyReLU())
        )
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 1, 3, padding=1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        h = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        z = self.decoder_input(draw_half(mu, log_var)).view(-1, 6, 2, 2)
        return [self.final_layer(self.decoder(z)), x, mu, log_var]

    def loss_function(self, *args: Tensor, **kwargs: float) -> dict[str, Tensor]:
        recons, x, mu, log_var = args
        error = F.mse_loss(recons, x, reduction="sum") / x.size(0)
        rate = torch.mean(torch.sum(-0.5 * (1 + log_var - mu.pow(2) - log_var.exp()), dim=1), dim=0)
        return {
            "loss": error + kwargs.get("M_N", 1.0) * rate,
            "Reconstruction_Loss": error.detach(),
            "KLD": rate.detach(),
        }


class SoilVAE(nn.Module):
    def __init__(self, bands: int = 6, latent_dim: int = 4) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Conv2d(bands, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.SiLU(),
            nn.Conv2d(4, 6, 3, 2, 1), nn.GroupNorm(2, 6), nn.SiLU(),
        )  # fmt: skip
        self.fc_mu, self.fc_logvar = nn.Linear(24, latent_dim), nn.Linear(24, latent_dim)
        self.fc_dec = nn.Linear(latent_dim, 24)
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.GroupNorm(2, 4), nn.SiLU(), nn.ConvTranspose2d(4, bands, 4, 2, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.enc(x)
        h = h.reshape(h.size(0), -1)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return self.dec(self.fc_dec(draw_half(mu, logvar)).view(-1, 6, 2, 2)), mu, logvar


def soil_loss(model: Any, x: Tensor, beta: float = 1.0) -> Tensor:
    recon, mu, logvar = model(x)
    error = F.mse_loss(recon.clamp(0, 1), x, reduction="mean")
    return error + beta * (-0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp()))


class JointMDN(nn.Module):
    def __init__(self, joints: int = 5, out: int = 3, parts: int = 2) -> None:
        super().__init__()
        self.output_dim, self.n_gaussians = out, parts
        self.backbone = nn.Sequential(
            nn.Linear(joints, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.1),
        )  # fmt: skip
        self.pi_head, self.mu_head = nn.Linear(8, parts), nn.Linear(8, parts * out)
        self.sigma_head = nn.Linear(8, parts * out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.backbone(x)
        shape = (len(x), self.n_gaussians, self.output_dim)
        return F.softmax(self.pi_head(h), dim=1), self.mu_head(h).view(shape), torch.exp(self.sigma_head(h)).view(shape)

    def compute_loss(self, output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        pi, mu, sigma = output
        target = target.unsqueeze(1).expand_as(mu)
        exponent = -0.5 * torch.sum(((target - mu) / sigma) ** 2, dim=2)
        scale = -self.output_dim * math.log(math.sqrt(2 * math.pi)) - torch.sum(torch.log(sigma), dim=2)
        return -torch.mean(torch.logsumexp(torch.log(pi + 1e-8) + exponent + scale, dim=1))


class CauseReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 6, 4, 2, 1)
        self.fc_mu, self.fc_logvar = nn.Linear(24, code), nn.Linear(24, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        h = h.view(h.size(0), -1)
        return self.fc_mu(h), self.fc_logvar(h)


class CauseWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.fc, self.deconv1 = nn.Linear(code, 24), nn.ConvTranspose2d(6, 4, 4, 2, 1)
        self.deconv2 = nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.deconv2(F.relu(self.deconv1(self.fc(z).view(-1, 6, 2, 2)))))


class CauseVAE(nn.Module):
    """Means are to be orthogonal, and those of causes without a cause uncorrelated."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.causal_graph: dict[int, list[int]] = {0: [], 1: [], 2: [0], 3: [0, 1]}
        self.encoder, self.decoder = CauseReader(code), CauseWriter(code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        z = draw_half(mu, logvar)
        return self.decoder(z), mu, logvar, z


def cause_loss(model: Any, x: Tensor, beta: float = 4.0, weight: float = 1e-3) -> Tensor:
    recon, mu, logvar, _ = model(x)
    error = F.binary_cross_entropy(recon, x, reduction="sum")
    turned = F.normalize(mu, dim=0, eps=1e-8)
    orthogonal = torch.norm(torch.mm(turned.T, turned) - torch.eye(mu.size(1)), p="fro") ** 2
    roots = [k for k, parents in model.causal_graph.items() if len(parents) == 0]
    causal = torch.sum(torch.abs(torch.corrcoef(mu[:, roots].T) * (1 - torch.eye(len(roots)))))
    return error + beta * kl_to_unit(mu, logvar) + weight * orthogonal + weight * causal


class AleatoricDigits(nn.Module):
    """Of the next picture the means, which see the last one again, and log variances."""

    def __init__(self, pixels: int = 16, hidden: int = 10) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(pixels, hidden), nn.Linear(hidden, hidden)
        self.linear_3_mu, self.linear_4_mu = nn.Linear(hidden, hidden), nn.Linear(hidden + pixels, pixels)
        self.linear_3_sigma, self.linear_4_sigma = nn.Linear(hidden, hidden), nn.Linear(hidden, pixels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.linear_2(F.relu(self.linear_1(x))))
        mu = self.linear_4_mu(torch.cat((x, F.relu(self.linear_3_mu(h))), dim=1))
        return mu, self.linear_4_sigma(F.relu(self.linear_3_sigma(h)))


def aleatoric_loss(model: Any, x: Tensor, target: Tensor) -> Tensor:
    mu, log_sigma = model(x)
    return torch.mean(torch.exp(-log_sigma) * F.mse_loss(mu, target, reduction="none") + log_sigma)


class LabelReader(nn.Module):
    def __init__(self, classes: int, code: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1 + classes, 4, 4, 2, 1), nn.Conv2d(4, 6, 4, 2, 1)
        self.flatten = nn.Flatten()
        self.fc_mu, self.fc_logvar = nn.Linear(24, code), nn.Linear(24, code)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        spread = labels.view(*labels.shape, 1, 1).expand(*labels.shape, *x.shape[2:])
        h = torch.relu(self.conv1(torch.cat((x, spread), dim=1)))
        h = self.flatten(torch.relu(self.conv2(h)))
        return self.fc_mu(h), self.fc_logvar(h)


class LabelWriter(nn.Module):
    def __init__(self, classes: int, code: int) -> None:
        super().__init__()
        self.fc, self.deconv1 = nn.Linear(code + classes, 24), nn.ConvTranspose2d(6, 4, 4, 2, 1)
        self.deconv2 = nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.fc(torch.cat((z, labels), dim=1)).view(-1, 6, 2, 2)
        return torch.sigmoid(self.deconv2(torch.relu(self.deconv1(h))))


class LabelVAE(nn.Module):
    """Draws by what its loss has as a log variance, without a half."""

    def __init__(self, classes: int = 3, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = LabelReader(classes, code), LabelWriter(classes, code)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x, labels)
        return self.decoder(self.reparameterize(mu, logvar), labels), mu, logvar


def label_loss(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    recon, mu, logvar = model(x, torch.eye(3)[labels])
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class StarReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, inplace=True))
                for a, b in pairwise((3, 4, 6))
            )
        )
        self.fc_mu, self.fc_log_var = nn.Linear(24, code), nn.Linear(24, code)
        nn.init.constant_(self.fc_log_var.bias, 0.0)
        nn.init.normal_(self.fc_log_var.weight, mean=0.0, std=0.01)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x).view(len(x), -1)
        return self.fc_mu(h), self.fc_log_var(h)


class StarWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.fc = nn.Linear(code, 24)
        blocks = (
            nn.Sequential(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, inplace=True))
            for a, b in pairwise((6, 6, 4))
        )
        self.decoder = nn.Sequential(*blocks, nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.Tanh()))

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(self.fc(z).view(-1, 6, 2, 2))


class StarVAE(nn.Module):
    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = StarReader(code), StarWriter(code)

    @staticmethod
    def drawn(mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(log_var * 0.5)
        return mu + (std * torch.randn_like(std))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder.encode(x)
        return self.decoder(self.drawn(mu, log_var) if self.training else mu), mu, log_var


def star_loss(model: Any, x: Tensor, beta: float = 0.0005) -> Tensor:
    recon, mu, log_var = model(x)
    rate = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=1)
    return F.mse_loss(recon, x, reduction="mean") + beta * rate.mean()


class UncorrelatedRows(nn.Module):
    """Of a code the first numbers are to tell what is sensitive, and the rest not to. One network is not used."""

    def __init__(self, n_in: int = 8, code: int = 5, alpha: float = 0.1) -> None:
        super().__init__()
        self.alpha, self.kept, self.removed = alpha, (0, 1), (0, 1, 1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(n_in, 6), nn.Linear(6, code), nn.Linear(6, code)
        self.fc4, self.fc5 = nn.Linear(code, 6), nn.Linear(6, n_in)
        self.encoder = nn.Sequential(nn.Linear(n_in, 6), nn.ReLU(), nn.Linear(6, code))

    def corr(self, x: Tensor, y: Tensor) -> Tensor:
        mean = torch.mean(x)
        x_var, y_var = torch.sum((x - mean) ** 2) / len(x), torch.sum((y - mean) ** 2) / len(x)
        return torch.abs(torch.sum((x - mean) * (y - mean)) / (x_var * y_var) ** 0.5)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        h = torch.relu(self.fc1(x))
        mu, log_var = self.fc2(h), self.fc3(h)
        std = torch.exp(log_var / 2)
        z = mu + torch.randn_like(std) * std
        error = nn.MSELoss(reduction="sum")(torch.sigmoid(self.fc5(torch.relu(self.fc4(z)))), x)
        signed = [(i, -1) for i in self.kept] + [(i, 1) for i in self.removed]
        tied = sum(sign * self.corr(s[:, [i]], z[:, [j]]) for j, (i, sign) in enumerate(signed))
        return error + 0.001 * kl_to_unit(mu, log_var) + self.alpha * tied


class NamedNormal(Normal):
    """Torch's own, with another name for its deviation."""

    @property
    def stddev(self) -> Tensor:
        return self.scale


class ChannelVAE(nn.Module):
    def __init__(self, n_feats: int, code: int) -> None:
        super().__init__()
        self.W_mu, self.W_logvar = nn.Linear(n_feats, code), nn.Linear(n_feats, code)
        self.W_out = nn.Linear(code, n_feats)
        self.W_out_logvar = nn.Parameter(torch.FloatTensor(1, n_feats).fill_(-3))

    def encode(self, x: Tensor) -> Normal:
        mu = self.W_mu(x)
        logvar = self.W_logvar(x)
        return NamedNormal(loc=mu, scale=logvar.exp().pow(0.5))

    def decode(self, z: Tensor) -> Normal:
        return NamedNormal(loc=self.W_out(z), scale=self.W_out_logvar.exp().pow(0.5))


class ManyChannels(nn.Module):
    """Each channel is decoded from the code of each."""

    def __init__(self, sizes: tuple[int, ...] = (5, 4), code: int = 3) -> None:
        super().__init__()
        self.vae = nn.ModuleList([ChannelVAE(n, code) for n in sizes])

    def forward(self, x: list[Tensor]) -> tuple[list[Normal], list[list[Normal]]]:
        q = [vae.encode(part) for vae, part in zip(self.vae, x, strict=True)]
        z = [law.rsample() for law in q]
        return q, [[vae.decode(code) for code in z] for vae in self.vae]


def channels_loss(model: Any, x: list[Tensor]) -> Tensor:
    q, p = model(x)
    rate = sum(kl_divergence(law, NamedNormal(0, 1)).sum(1, keepdims=True).mean(0) for law in q)
    seen = sum(
        law.log_prob(part).sum(1, keepdims=True).mean(0) for part, laws in zip(x, p, strict=True) for law in laws
    )
    return rate - seen


# ------------------------------------------------------------------------------------------------ by second words


class Normed(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = layer, nn.BatchNorm2d(width), nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class FaceReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder_net = nn.Sequential(
            Normed(nn.Conv2d(3, 4, 4, 2, 1), 4), Normed(nn.Conv2d(4, 6, 4, 2, 1), 6), nn.Flatten()
        )
        self.head_mu, self.head_logvar = nn.Linear(24, code), nn.Linear(24, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder_net(x)
        mu, logvar = self.head_mu(h), self.head_logvar(h)
        return draw_half(mu, logvar), mu, logvar


class FaceWriter(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.fc, self.upconv1 = nn.Linear(code, 24), Normed(nn.ConvTranspose2d(6, 4, 4, 2, 1), 4)
        self.upconv2 = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.upconv2(self.upconv1(self.fc(z).view(len(z), 6, 2, 2))))


class FaceVAE(nn.Module):
    def __init__(self, code: int = 5) -> None:
        super().__init__()
        self.encoder, self.decoder = FaceReader(code), FaceWriter(code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mu, logvar = self.encoder(x)
        return self.decoder(z), mu, logvar


def binary_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class CloudReader(nn.Module):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.linear1, self.fc_mu, self.fc_var = nn.Linear(18, 10), nn.Linear(10, code), nn.Linear(10, code)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.linear1(x))
        return self.fc_mu(h), self.fc_var(h)


class CloudVAE(nn.Module):
    """Points in one row."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder = CloudReader(code)
        self.decoder = nn.Sequential(nn.Linear(code, 10), nn.Tanh(), nn.Linear(10, 18), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder(x.view(-1, 18))
        std = log_var.mul(0.5).exp_()
        return self.decoder(mu + std * torch.randn(mu.size())), mu, log_var


def cloud_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_var = model(x)
    return F.binary_cross_entropy(recon, x.view(-1, 18), reduction="sum") + kl_to_unit(mu, log_var)


class ExplicitWeights(nn.Module):
    """Draws of a row are copies of it; how much each of them counts is without a gradient."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU())
        self.fc21, self.fc22 = nn.Linear(8, code), nn.Linear(8, code)
        self.fc3 = nn.Sequential(nn.Linear(code, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU())
        self.decode = nn.Linear(10, 12)

    def calc_loss(self, x: Tensor, beta: float) -> Tensor:
        h = self.fc1(x)
        mu, log_var = self.fc21(h), self.fc22(h)
        eps = torch.randn_like(log_var)
        h = mu + torch.exp(log_var * 0.5) * eps
        flat = 0.5 * torch.log(2 * h.new_tensor(np.pi))
        log_p = torch.sum(-0.5 * h**2 - flat, -1)
        recon = torch.sigmoid(self.decode(self.fc3(h)))
        log_px = torch.sum(x * torch.log(recon) + (1 - x) * torch.log(1 - recon), -1)
        log_q = torch.sum(-0.5 * eps**2 - flat - 0.5 * log_var, -1)
        log_weight = (log_p + log_px - log_q).detach()
        weight = torch.exp(log_weight - torch.max(log_weight, 0)[0])
        weight = weight / torch.sum(weight, 0)
        return torch.mean(-torch.sum(weight * (log_px + (log_p - log_q) * beta), 0))


class DroppedWeights(nn.Module):
    """Weights' variances, drawn at what they give."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(n_in, n_out).uniform_(-0.4, 0.4))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-0.4, 0.4))
        self.log_sigma2 = nn.Parameter(torch.empty(n_in, n_out).fill_(-10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_sigma2 - torch.log(self.theta**2)
        log_alpha = log_alpha.masked_fill(log_alpha < -8, -8)
        log_alpha = log_alpha.masked_fill(log_alpha > 8, 8)
        first = 0.63576 * torch.sigmoid(1.87320 + 1.48695 + 1.48695 * log_alpha)
        rate = -(first - 0.5 * torch.log(1 + torch.exp(-log_alpha)) - 0.63576).sum() / self.theta.numel()
        mu, std = torch.mm(x, self.theta), torch.sqrt(torch.mm(x**2, self.log_sigma2.exp()) + 1e-6)
        return std * torch.randn(*mu.size()) + mu + self.bias, rate


class DroppedLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 2)
        self.fc1, self.fc1_vardrop = nn.Linear(4, 6), DroppedWeights(6, 6)
        self.fc2, self.fc3 = nn.Linear(6, 5), nn.Linear(5, 3)
        self.kld: Any = None

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h, self.kld = self.fc1_vardrop(F.relu(self.fc1(h.view(h.size(0), -1))))
        return self.fc3(F.relu(self.fc2(h)))


def dropped_loss(model: Any, x: Tensor, target: Tensor) -> Tensor:
    logits = model(x)
    return F.cross_entropy(logits, target) + model.kld


def bottle(n_in: int, code: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 6), nn.ReLU(inplace=True), nn.Linear(6, code))


class LabelledPrior(nn.Module):
    """A label tells where codes lie, and how widely."""

    def __init__(self, z_dim: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.z_dim, self.classes = z_dim, classes
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 4, 1, 0)
        )
        self.fc_mu, self.fc_std = bottle(8, z_dim), bottle(8, z_dim)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(z_dim, 8, 1, 1), nn.GroupNorm(2, 8), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 4, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4, 1, 4, 2, 1),
        )  # fmt: skip
        self.Emb = nn.Sequential(nn.Linear(64 + classes, 64), nn.ReLU(inplace=True))
        self.p = nn.Sequential(nn.Linear(classes, 6), nn.ReLU(inplace=True), nn.Linear(6, 8))
        self.p_mu, self.p_std = bottle(8, z_dim), bottle(8, z_dim)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        h = self.Emb(torch.cat((x.view(-1, 1, 64), y.view(-1, 1, self.classes)), dim=-1))
        h = self.encoder(h.view(-1, 1, 8, 8)).squeeze()
        mu, logv = self.fc_mu(F.relu(h)), self.fc_std(F.relu(h))
        h = F.relu(self.p(y))
        p_mu, p_logv = self.p_mu(h), self.p_std(h)
        z = mu + torch.randn_like(logv) * torch.exp(logv * 0.5)
        recon = self.decoder(z.view(-1, self.z_dim, 1, 1))
        return torch.sigmoid(recon.view(-1, 64)), p_logv, p_mu, mu, logv


def labelled_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    recon, p_logv, p_mu, mu, logv = model(x, y)
    rate = 0.5 * torch.sum(-1 - logv + (logv.exp() + (p_mu - mu).pow(2)) / (p_logv.exp() + 1e-08) + p_logv)
    return F.mse_loss(recon, x.view(-1, 64), reduction="sum") + rate


def plain(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, 1, 1)


def shrunk(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out), nn.ReLU())


def grown(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(n_in, n_out, 4, 2, 1), nn.BatchNorm2d(n_out), nn.ReLU())


class EnlargedBands(nn.Module):
    """Of a small picture and its code the prior of the large one's; codes are the parts of what is laid flat."""

    def __init__(self) -> None:
        super().__init__()
        self.gammax, self.gammay = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
        self.encoder_y = nn.Sequential(shrunk(4, 4), plain(4, 4), nn.Flatten(start_dim=1))
        self.decoder_y = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), grown(2, 4), plain(4, 4), nn.Sigmoid())
        self.encoder_x = nn.Sequential(shrunk(4, 4), shrunk(4, 6), plain(6, 6), nn.Flatten(1))
        self.decoder_x = nn.Sequential(nn.Unflatten(1, (6, 2, 2)), grown(6, 4), grown(4, 4), plain(4, 4), nn.Sigmoid())
        self.y_to_z = nn.Sequential(shrunk(4, 4), plain(4, 3), nn.Flatten(start_dim=1))
        self.u_to_z = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), plain(2, 2), plain(2, 3), nn.Flatten(1))
        self.mu_u_y_to_z = nn.Sequential(nn.Unflatten(1, (6, 2, 2)), plain(6, 3), plain(3, 3), nn.Flatten(1))
        self.logvar_u_y_to_z = nn.Sequential(
            nn.Unflatten(1, (6, 2, 2)), plain(6, 3), plain(3, 3), nn.Flatten(1), nn.Hardtanh(-7, 7)
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        mu_u, logvar_u = torch.chunk(self.encoder_y(y), 2, dim=1)
        u = draw_half(mu_u, logvar_u)
        mu_z, logvar_z = torch.chunk(self.encoder_x(x), 2, dim=1)
        z = draw_half(mu_z, logvar_z)
        joined = torch.cat((self.y_to_z(y), self.u_to_z(u)), dim=1)
        x_hat = self.decoder_x(torch.cat((self.y_to_z(y), z), dim=1))
        told = (self.mu_u_y_to_z(joined), self.logvar_u_y_to_z(joined))
        return x_hat, self.decoder_y(u), mu_z, logvar_z, mu_u, logvar_u, *told


def enlarged_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    x_hat, y_hat, mu_z, logvar_z, mu_u, logvar_u, mu_p, logvar_p = model(x, y)
    loss: Any = 0
    for out, true, gamma in ((x_hat, x, model.gammax), (y_hat, y, model.gammay)):
        loss = loss + true.numel() * (F.mse_loss(out, true, reduction="mean") / (2 * gamma.pow(2)) + gamma.log())
    rate = 0.5 * torch.sum(mu_u.pow(2) + logvar_u.exp() - 1 - logvar_u, dim=1).mean()
    moved = torch.sum((mu_z - mu_p).pow(2) * ((-logvar_p).exp()), dim=1)
    scales = torch.sum(logvar_p - logvar_z - 1, dim=1) + torch.sum((logvar_z - logvar_p).exp(), dim=1)
    return loss + rate + 0.5 * (scales + moved).mean()


# ------------------------------------------------------------------------------------------------ none


class DeepGAN(nn.Module):
    def __init__(self, nz: int = 5) -> None:
        super().__init__()
        self.nz = nz
        self.netG = nn.Sequential(
            nn.ConvTranspose2d(nz, 6, 2, 1, 0, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        self.netD = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(6, 1, 2, 1, 0, bias=False),
        )  # fmt: skip


def gan_steps(model: Any, x: Tensor) -> Tensor:
    """Both steps' losses as one."""
    made = model.netG(torch.randn(len(x), model.nz, 1, 1))
    real, fake = torch.full((len(x),), 1.0), torch.full((len(x),), 0.0)
    loss = F.binary_cross_entropy_with_logits(model.netD(made).view(-1), real)
    right = F.binary_cross_entropy_with_logits(model.netD(x).view(-1), real)
    return loss + (right + F.binary_cross_entropy_with_logits(model.netD(made.detach()).view(-1), fake)) / 2


class Simplices(nn.Module):
    """Features in groups, each of which adds up to one."""

    def forward(self, t: Tensor) -> Tensor:
        return (t.view(len(t), -1, 4) / 0.1).softmax(dim=-1).view(len(t), -1)


def projecting(n_in: int, n_out: int, hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, n_out)
    )


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        embedder = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8))
        self.projector = nn.Sequential(embedder, Simplices(), projecting(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.net(x))


class OwnLatent(nn.Module):
    """Foretells what a slower copy of itself makes of another view."""

    def __init__(self) -> None:
        super().__init__()
        self.online_encoder, self.online_predictor = Wrapped(), projecting(6, 6)
        self.target_encoder = copy.deepcopy(self.online_encoder).requires_grad_(False)

    def seen(self, x: Tensor) -> Tensor:
        x = x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1))
        return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)

    def forward(self, x: Tensor) -> Tensor:
        views = torch.cat((self.seen(x), self.seen(x)), dim=0)
        one, two = self.online_predictor(self.online_encoder(views)).chunk(2, dim=0)
        with torch.no_grad():
            to_one, to_two = self.target_encoder(views).detach().chunk(2, dim=0)
        pairs = ((one, to_two), (two, to_one))
        turned = [2 - 2 * (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1) for a, b in pairs]
        return (turned[0] + turned[1]).mean()


class ComplexLayer(nn.Module):
    """Two real layers, as one of complex numbers; then a norm and an activation of each part."""

    def __init__(self, kind: Callable[..., nn.Module], n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        size = 4 if stride == 2 else 3
        self.real_conv, self.im_conv = (kind(n_in, n_out, size, stride=stride, padding=1) for _ in range(2))
        self.real_b, self.im_b = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)

    def plain(self, x: Tensor) -> Tensor:
        real = self.real_conv(x.real) - self.im_conv(x.imag)
        return torch.complex(real, self.im_conv(x.real) + self.real_conv(x.imag))

    def forward(self, x: Tensor) -> Tensor:
        h = self.plain(x)
        return torch.complex(F.leaky_relu(self.real_b(h.real)), F.leaky_relu(self.im_b(h.imag)))


class ComplexUNet(nn.Module):
    """Masks a spectrum by a phase and a bounded size."""

    def __init__(self) -> None:
        super().__init__()
        down, up = nn.Conv2d, nn.ConvTranspose2d
        self.conv1, self.conv2 = ComplexLayer(down, 1, 2, 1), ComplexLayer(down, 2, 3, 2)
        self.conv3, self.conv4 = ComplexLayer(down, 3, 4, 2), ComplexLayer(up, 4, 4, 1)
        self.conv5, self.conv6 = ComplexLayer(up, 8, 3, 2), ComplexLayer(up, 6, 2, 2)
        self.conv7 = ComplexLayer(up, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        two = self.conv2(self.conv1(x))
        three = self.conv3(two)
        h = self.conv5(torch.cat((three, self.conv4(three)), dim=1))
        h = self.conv7.plain(self.conv6(torch.cat((two, h), dim=1)))
        mask = h / (torch.abs(h) + 1e-8) * torch.tanh(torch.abs(h))
        real = mask.real * x.real - mask.imag * x.imag
        return torch.complex(real, mask.real * x.imag + mask.imag * x.real)


def spectrum_loss(model: Any, x: Tensor, clean: Tensor) -> Tensor:
    out = model(x)
    return F.mse_loss(clean.real, out.real) + F.mse_loss(clean.imag, out.imag)


class PlaneCoupling(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def net() -> nn.Sequential:
            return nn.Sequential(nn.Linear(1, 6), nn.LeakyReLU(), nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 1))

        self.scale, self.g_theta_scale, self.g_theta_shift = nn.Linear(1, 1), net(), net()

    def forward(self, x1: Tensor, x2: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1, x2 = x2, x1
        log_scale = self.scale(torch.tanh(self.g_theta_scale(x1)))
        return x1, torch.exp(log_scale) * x2 + self.g_theta_shift(x1), log_scale + log_det


class PlaneFlow(nn.Module):
    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(*(PlaneCoupling() for _ in range(layers)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z1, z2 = x[:, [1]], x[:, [0]]
        log_det = torch.tensor(0.0)
        for layer in self.net:
            z1, z2, log_det = layer(z1, z2, log_det)
        return torch.cat((z1, z2), dim=1), log_det


def plane_loss(model: Any, x: Tensor) -> Tensor:
    z, log_det = model(x)
    log_pz = torch.sum(Normal(loc=0, scale=1).log_prob(z), dim=1, keepdim=True)
    return -torch.mean(log_pz + log_det)


class Modulated(nn.Module):
    def __init__(self, width: int, time: int) -> None:
        super().__init__()
        self.norm, self.proj = nn.GroupNorm(2, width), nn.Linear(time, 2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gamma, beta = self.proj(t).chunk(2, dim=1)
        return self.conv(F.silu((1 + gamma)[:, :, None, None] * self.norm(x) + beta[:, :, None, None]))


class DigitDenoiser(nn.Module):
    def __init__(self, width: int = 4, time: int = 6) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, time)
        self.in_conv = nn.Conv2d(1, width, 3, padding=1)
        self.b1a, self.b1b = Modulated(width, time), Modulated(width, time)
        self.b2a, self.b2b = Modulated(width, time), Modulated(width, time)
        self.out_norm, self.out_conv = nn.GroupNorm(2, width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float().unsqueeze(1) * torch.exp(-math.log(10_000) * torch.arange(2) / 2).unsqueeze(0)
        e = F.silu(self.fc2(F.silu(self.fc1(torch.cat([angles.sin(), angles.cos()], dim=1)))))
        h = self.in_conv(x)
        h = self.b1b(self.b1a(h, e), e) + h
        h = self.b2b(self.b2a(h, e), e) + h
        return self.out_conv(F.silu(self.out_norm(h)))


def denoising_loss(model: Any, x: Tensor) -> Tensor:
    abar = torch.cumprod(1.0 - torch.linspace(1e-4, 2e-2, 50), dim=0)
    t = torch.randint(0, 50, (len(x),))
    eps = torch.randn_like(x)
    x_t = abar.sqrt()[t].view(-1, 1, 1, 1) * x + (1.0 - abar).sqrt()[t].view(-1, 1, 1, 1) * eps
    return F.mse_loss(model(x_t, t), eps)


class MovingCodes(nn.Module):
    """Codes follow the means of what is nearest to them."""

    ema_cluster_size: Tensor
    ema_weight_sum: Tensor

    def __init__(self, codes: int = 6, width: int = 4, beta: float = 0.25, decay: float = 0.99) -> None:
        super().__init__()
        self.K, self.beta, self.decay = codes, beta, decay
        self.codebook = nn.Embedding(codes, width)
        nn.init.normal_(self.codebook.weight)
        self.register_buffer("ema_cluster_size", torch.zeros(codes))
        self.register_buffer("ema_weight_sum", torch.zeros(codes, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, width, height, across = x.shape
        flat = x.permute(0, 2, 3, 1).flatten(0, 2)
        weight = self.codebook.weight
        apart = (flat**2).sum(dim=1, keepdim=True) - 2 * flat @ weight.T + (weight**2).sum(dim=1)
        indices = torch.argmin(apart, dim=1)
        found = self.codebook(indices)
        if self.training:
            with torch.no_grad():
                chosen = F.one_hot(indices, num_classes=self.K).float()
                self.ema_cluster_size.mul_(self.decay).add_(chosen.sum(dim=0) * (1 - self.decay))
                self.ema_weight_sum.mul_(self.decay).add_(chosen.T @ flat * (1 - self.decay))
                self.codebook.weight.data = self.ema_weight_sum / (self.ema_cluster_size.unsqueeze(1) + 1e-6)
        back = found.reshape(rows, height, across, width).permute(0, 3, 1, 2)
        return x + (back - x).detach(), self.beta * F.mse_loss(x, back.detach())


def halved(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out), nn.ReLU(),
        nn.Conv2d(n_out, n_out, 3, 1, 1), nn.BatchNorm2d(n_out), nn.ReLU(),
    )  # fmt: skip


def doubled(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out),
        nn.ReLU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(),
    )  # fmt: skip


class MovingVQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(halved(3, 4), halved(4, 6), nn.Conv2d(6, 4, 1))
        self.quantizer = MovingCodes()
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 6, 1), doubled(6, 4), doubled(4, 4), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z_q, commitment = self.quantizer(self.encoder(x))
        return self.decoder(z_q), commitment


def moving_loss(model: Any, x: Tensor) -> Tensor:
    recon, commitment = model(x)
    return F.mse_loss(recon, x) + commitment


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
        lambda m, x: m.loss_function(x, *m(x)),
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
    # brains, meshes, domains, classes, faces
    PublicCase(
        "CVAE3D of brains (masonhyz)",
        Retold(
            "masonhyz/Brain-Latent-Diffusion", "3f7835f01b85566109b951875d965d9296235245",
            "moyamoya/models/cvae.py, moyamoya/modules.py, moyamoya/utils.py, scripts/train_cvae.py",
        ),
        VolumeVAE, lambda: (rand(2, 1, 8, 8, 8), rand(2, 1, 8, 8, 8, seed=9)), (posterior("fc_logvar"),), volume_loss,
        truth="cvae.py reparameterize: exp(0.5 logvar), kept as last_logvar, by which train_cvae.py has the KL; "
        "without a condition, as its script has it",
    ),
    PublicCase(
        "VAE of meshes (ZOUKaifeng)",
        Retold(
            "ZOUKaifeng/Mesh-VAE", "a394ebedaeb14ee6f95357af6d683db24355a2bd",
            "models/cheb_VAE.py, logpdf.py, nn/conv.py, nn/pool.py, main.py",
        ),
        MeshVAE, lambda: (randn(5, 8, 3), F.one_hot(tokens(2, 5), 2).float()), (posterior("z_log_var"),), itself,
        truth="cheb_VAE.py reparameterize: exp(0.5 logvar), times torch.normal's noise; the vertices' log σ is a "
        "number. Its Chebyshev convolutions and pools are dense here",
    ),
    PublicCase(
        "VAE of domains (mrquantran)",
        Retold(
            "mrquantran/VAE-domain-generlization", "934436e92a5e440d2d873cdd64e7b74f51876f9d",
            "vae-domain-generlization_v9.py",
        ),
        DomainVAE, lambda: (rand(6, 3, 8, 8), tokens(3, 6)), (posterior("encoder.fc_logvar"),), domain_loss,
        truth="v9.py reparameterize: exp(0.5 logvar), behind which half of the code is dropped; compute_loss: the KL's "
        "mean. Its EfficientNet is small here, and images are not mixed",
    ),
    PublicCase(
        "CADA-VAE (edgarschnfld)",
        Retold(
            "edgarschnfld/CADA-VAE-PyTorch", "26f0085fe5e5911dc06fe767f90965c47885dee1",
            "model/vaemodel.py, model/models.py, model/single_experiment.py",
        ),
        AlignedVAEs, lambda: (randn(5, 10), randn(5, 7, seed=9)),
        tuple(posterior(f"encoder.{k}._logvar", sigma=torch.exp) for k in AlignedVAEs.sizes), aligned_step,
        truth="vaemodel.py reparameterize: exp(logvar), by one number of noise a row; the KL and the distance have it "
        "as a log variance, a slip. Here σ is what draws. Networks that lie in a plain dict there are registered here",
    ),
    PublicCase(
        "IntroVAE (eking2)",
        Retold("eking2/IntroVAE", "03c054f88c3b8e29d5f5381a61d6d4b6b8afa834", "IntroVAE128.py, train.py"),
        SelfJudged, images(batch=4), (posterior("encoder.fc2"),), judged_steps,
        truth="IntroVAE128.py reparameterize: exp(0.5 logvar); train.py: its encoder reads pictures of its own, too, "
        "without a draw. Both steps' losses are one here",
    ),
    # clusters, medicine, soils, joints, causes, digits
    PublicCase(
        "GMVAE (sghalebikesabi)",
        Retold(
            "sghalebikesabi/gmm-vae-clustering-pytorch", "e28aaa952bad03f04dc6d8245222f1a54d13af22",
            "gmmvae.py, loss.py, train.py",
        ),
        ClusterVAE, lambda: (bits(4, 12),), (posterior("fc_h_z", 3, 6), prior("fc_y_z", 3, 6)), cluster_loss,
        truth="gmmvae.py qz_graph: the root of exp(logvar), once for each cluster; loss.py log_normal: densities by "
        "exp(logvar)",
    ),
    PublicCase(
        "VAE of medical images (Ahmed-Belal1)",
        Retold(
            "Ahmed-Belal1/VAE-Medical-Generator", "10b2ee3885672559b04018a3fac8798896ba9a95",
            "models/vanilla_vae.py, experiment.py",
        ),
        ScansVAE, images(1, batch=4), (posterior("fc_var"),), lambda m, x: m.loss_function(*m(x), M_N=0.5)["loss"],
        truth="vanilla_vae.py reparameterize: exp(0.5 logvar); loss_function: a weighted KL by rows",
    ),
    PublicCase(
        "VAE of soils (pkadukar)",
        Retold(
            "pkadukar/furi-soil-hyperspectral-vae", "a374299b77b47e9e294e3e2e83725b034413aa53",
            "code/models/vae_conv.py, code/train_vnir_vae.py",
        ),
        SoilVAE, images(6, batch=4), (posterior("fc_logvar"),), soil_loss,
        truth="vae_conv.py reparam: exp(0.5 logvar); train_vnir_vae.py: KL's mean",
    ),
    PublicCase(
        "MDN of joints (Pilot-Khadka)",
        Retold(
            "Pilot-Khadka/mixture-density-networks", "947d5f55c2da2f2c9f9046ca56617489b7e6ceb1",
            "models/mdn.py, config/mdn.yaml, train.py",
        ),
        JointMDN, lambda: (randn(8, 5), randn(8, 3, seed=9)), (likelihood("sigma_head", sigma=torch.exp),),
        lambda m, x, y: m.compute_loss(m(x), y),
        truth="mdn.py: exp, of all parts' numbers; compute_loss: a mixture's density",
    ),
    PublicCase(
        "OrthoCausalVAE (Rahima411)",
        Retold(
            "Rahima411/orthogonal-causal-vae", "0b60eec3b33a50979d9b315e73d3b72a55e8746a",
            "models/ortho_causal_vae.py, losses/combined.py, losses/regularization.py, experiments/train.py",
        ),
        CauseVAE, lambda: (rand(6, 1, 8, 8),), (posterior("encoder.fc_logvar"),), cause_loss,
        truth="ortho_causal_vae.py reparameterize: exp(0.5 logvar); regularization.py: KL summed",
    ),
    PublicCase(
        "Aleatoric digits (self-supervisor)",
        Retold(
            "self-supervisor/Escaping-Stochastic-Traps-With-Aleatoric-Mapping-Agents",
            "cbeba7cec6231f5f52f40447497d5a73b2580cad",
            "noisy_mnist/noisy_mnist_aleatoric_uncertainty_for_poster.py, noisy_mnist/an_experiment.py",
        ),
        AleatoricDigits, lambda: (rand(6, 16), rand(6, 16, seed=9)), (likelihood("linear_4_sigma"),), aleatoric_loss,
        truth="compute_loss_and_reward: exp(-v) (y - μ)² + v, twice the log density: what is called log σ is a log "
        "variance",
    ),
    # labels, stars, rows, channels
    PublicCase(
        "CVAE of digits (moreira-and)",
        Retold(
            "moreira-and/cvae-mnist", "3177a0c5d08ca09586e8057bfcecbed812d23837",
            "src/cvae/service/models/nn_cvae.py, src/cvae/service/models/conditional_encoder.py, "
            "src/cvae/service/models/conditional_decoder.py, src/cvae/service/utils.py, src/cvae/service/train.py",
        ),
        LabelVAE, lambda: (rand(5, 1, 8, 8), tokens(3, 5)), (posterior("encoder.fc_logvar", sigma=torch.exp),),
        label_loss,
        truth="nn_cvae.py reparameterize: exp(logvar); utils.py loss_function has it as a log variance, a slip. Here σ "
        "is what draws",
    ),
    PublicCase(
        "VAE of CelebA (TryingManV2)",
        Retold(
            "TryingManV2/Vanilla-VAE-CelebA-Face-Generator", "d39a891145c3d882b62010318d9843c76c90afa9",
            "src/model/VAE.py, src/model/Encoder.py, src/model/Decoder.py, src/Train.py, configs/standard_config.yaml",
        ),
        StarVAE, images(batch=4), (posterior("encoder.fc_log_var"),), star_loss,
        truth="VAE.py reparameterization_trick: exp(0.5 log_var); loss: KL by rows",
    ),
    PublicCase(
        "FairRep of rows (tstksnhx)",
        Retold(
            "tstksnhx/Learning-fair-representations-for-accuracy-parity", "4e85b950957bb2391a7fb077ff10799733db952f",
            "FRC.py",
        ),
        UncorrelatedRows, lambda: (rand(6, 8), torch.cat([bits(6, 1), bits(6, 1, seed=11)], dim=1)),
        (posterior("fc3"),), itself,
        truth="FRC.py reparameterize: exp(log_var / 2); forward: KL summed, a thousandth of it. Its other methods draw "
        "nothing",
    ),
    PublicCase(
        "MCVAE (ggbioing)",
        Retold(
            "ggbioing/mcvae", "94ad5e67dd3635b898d6255a0afad2fac8b72df4",
            "src/mcvae/models/mcvae.py, src/mcvae/models/vae.py, src/mcvae/distributions/normal.py, "
            "src/mcvae/distributions/kl_utilities.py, src/mcvae/distributions/ll_utilities.py",
        ),
        ManyChannels, lambda: ([randn(6, 5), randn(6, 4, seed=9)],),
        (
            *(posterior(f"vae.{i}.W_logvar") for i in range(2)),
            *(likelihood(f"vae.{i}.W_out_logvar") for i in range(2)),
        ), channels_loss,
        truth="vae.py: exp(v) to the power 0.5, into a class of Normals of its own; a likelihood's of a parameter. Not "
        "the sparse one, as its defaults have it",
    ),
    # by second words
    PublicCase(
        "VAE of faces (ibrahimhabibeg)",
        Retold(
            "ibrahimhabibeg/vae-faces", "7517b56376162cc6e568181116478c96a6bb3dce",
            "src/face_vae/model.py, src/face_vae/loss.py, src/face_vae/train.py",
        ),
        FaceVAE, images(batch=4), (posterior("encoder.head_logvar"),), binary_loss,
        truth="model.py reparametrize: exp(0.5 logvar); loss.py kl_divergence_loss: KL summed",
    ),
    PublicCase(
        "VAE of points (Soooda)",
        Retold("Soooda/pointvae", "9cb59696c983c283b8e36692b190808bd63e14b0", "model/vae.py, train.py"),
        CloudVAE, lambda: (rand(5, 6, 3),), (posterior("encoder.fc_var"),), cloud_loss,
        truth="vae.py reparameterize: exp(0.5 log_var); train.py: KL summed",
    ),
    PublicCase(
        "IWAE of explicit weights (JohanYe)",
        Retold("JohanYe/IWAE-pytorch", "059527de3da8920b0b7688dea516ce2adf76202b", "model/ExplicitIWAE.py, main.py"),
        ExplicitWeights, lambda: (bits(4, 12).expand(3, 4, 12),), (posterior("fc22"),),
        lambda m, x: m.calc_loss(x, 0.5),
        truth="ExplicitIWAE.py encode: exp(0.5 log_var); calc_loss: densities, the draw's by its noise and log_var; "
        "each row comes in copies",
    ),
    PublicCase(
        "LeNet with dropped weights (gil00)",
        Retold(
            "gil00/lenet_vardrop", "a9ea54d7526078f8564c3074617e0bb35b137c77",
            "variational_dropout.py, lenet.py, main_mnist.py",
        ),
        DroppedLeNet, lambda: (rand(5, 3, 10, 10), tokens(3, 5)), (posterior("fc1_vardrop.log_sigma2"),), dropped_loss,
        truth="variational_dropout.py: exp(log_sigma2) is a weight's variance, drawn at what the layer gives; the KL "
        "is of log α alone. What the loss has there is the last call's KL, and here this one's",
    ),
    PublicCase(
        "Identifiable VAE (woo-taek)",
        Retold("woo-taek/Identifiable-VAE", "01aa5d79ea0e532b255c0c577085335c5d195581", "ivae_model.py"),
        LabelledPrior, lambda: (rand(5, 1, 8, 8), F.one_hot(tokens(3, 5), 3).float()),
        (posterior("fc_std.2"), prior("p_std.2")), labelled_loss,
        truth="ivae_model.py reparam: exp(0.5 logv); ivaeloss: a KL by log variances, whose prior's variance is raised "
        "by 1e-8 where it divides",
    ),
    PublicCase(
        "Cond_SRVAE (Etienne-bdt)",
        Retold(
            "Etienne-bdt/Super-Resolution-VAE", "f38d76601626e4c53dbf407c35612d56c26c5c7c",
            "models/cond_vae.py, models/layers.py, loss/cond_vae_loss.py, train.py",
        ),
        EnlargedBands, lambda: (rand(4, 4, 8, 8), rand(4, 4, 4, 4, seed=9)),
        (
            posterior("encoder_y.1", 2, 4), posterior("encoder_x.2", 3, 6),
            prior("logvar_u_y_to_z.2", sigma=half_within_seven),
        ), enlarged_loss,
        truth="cond_vae.py reparameterize: exp(0.5 logvar), of halves of what is laid flat, which are a convolution's "
        "channels; the prior's is kept within ±7 by a Hardtanh and drawn by nothing in training. Hard to decide: the "
        "pictures' deviations are tensors that want a gradient, but no parameters, and no optimizer has them: no head. "
        "Its blocks are plain here",
    ),
    # none
    PublicCase(
        "DCGAN (eungbean)",
        Retold(
            "eungbean/DCGAN-pytorch-lightning-comet", "414cbd5eb50b7e45848479a69077d2060210d4ec",
            "net/01_DCGAN-Vanila.py, net/models/generator.py, net/models/discriminator.py",
        ),
        DeepGAN, images(batch=5), (), gan_steps, truth="generator.py: noise is a network's input",
    ),
    PublicCase(
        "BYOL (lucidrains)",
        Retold(
            "lucidrains/byol-pytorch", "299312613c1f44923e7869d1c82be7d536c2c42b", "byol_pytorch/byol_pytorch.py"
        ),
        OwnLatent, images(batch=5), (), itself, truth="byol_pytorch.py: cosine distances, behind softmaxes by groups",
    ),
    PublicCase(
        "DCUnet (ludwig7959)",
        Retold(
            "ludwig7959/Audio-Denoising-AutoEncoder", "5bbb934f9041c2fe2e9c997e5ccc80d03d3ed5ba",
            "model.py, layer.py, function.py",
        ),
        ComplexUNet,
        lambda: (torch.complex(randn(3, 1, 8, 8), randn(3, 1, 8, 8, seed=9)),
                 torch.complex(randn(3, 1, 8, 8, seed=10), randn(3, 1, 8, 8, seed=11))), (), spectrum_loss,
        truth="model.py: a complex mask; function.py: squared distances",
    ),
    PublicCase(
        "RealNVP of a plane (henrhoi)",
        Retold("henrhoi/realnvp-pytorch", "9d466771c3b30809c756371bbb8a9a40e8105805", "realnvp_2d.py"),
        PlaneFlow, lambda: (randn(8, 2),), (), plane_loss,
        truth="realnvp_2d.py: scales of a flow to a Normal of deviation one",
    ),
    PublicCase(
        "DDPM of digits (faisalqureshi)",
        Retold(
            "faisalqureshi/ddpm-mnist", "3a9653096cd14d7a26c3328521c745b1936de529",
            "mnist_single_digit/model.py, mnist_single_digit/train.py",
        ),
        DigitDenoiser, images(1, batch=4), (), denoising_loss,
        truth="model.py: rates are numbers, and the noise is predicted",
    ),
    PublicCase(
        "VQ-VAE (shakhsm123)",
        Retold(
            "shakhsm123/VQ-VAE-PyTorch-Implementation", "d8f2509355861f5e2d1610fb0730de99103ffdce",
            "vqvae/encoder.py, vqvae/decoder.py, vqvae/model.py, vqvae/quantizer.py, train.py",
        ),
        MovingVQ, images(batch=4), (), moving_loss, truth="quantizer.py: codes, moved by means",
    ),
)
# fmt: on
