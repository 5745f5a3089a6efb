"""A seventh look: images, hierarchies, diffusion, compression, VAE-GANs, Bayesian networks, regressors, point clouds,
medical volumes, molecules, graphs, single cells and tables, in our own words, sampled as the fourth to sixth looks
were.

The fields and a query for each were fixed first; a field whose query named fewer than two got a further one. Of each
field the first two repositories that its queries name, in order, were taken if they hold a model of the field in
PyTorch that can be run and are in no earlier look; their main model, with the loss of their training script.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned.

Images ("pytorch convolutional VAE image reconstruction encoder mu logvar train", then "variational autoencoder pytorch
vae.py class VAE encode reparameterize decode loss_function BCE KLD"): `pravn/conv_VAE` and `ChicForX/CLUB_impl` passed
(taken before), `TomasBahnik/d2l` passed (a note), `julyfun/how-to` and `martinyanev94/generative-ai-projects` taken.
Hierarchies ("hierarchical VAE top-down bottom-up latent groups prior posterior residual pytorch"): `Gaurav14cs17/GenAI`
passed (no code), `nam-drun/sneak_peek_on_my_current_paper` taken (of its three files the first by name; its prior is
the only second level), `A-Ravioli/ml-from-scratch` taken (of its three models the one that runs). Diffusion ("diffusion
model learned variance sigma vlb loss pytorch UNet", of issues "learned sigma diffusion DiT vlb loss pytorch
learn_sigma"): `Shaokai9/AI4LifeScience_ECNU` and `DanBaissa/NLP` passed (no learned variance),
`Francesco215/logvar_diffusion` became a model without a head (its newest commit learns a covariance), `willisma/SiT`
became one too (half of its output is left over), `facebookresearch/DiT` passed (Improved diffusion's loss, taken
before), `Alpha-VLLM/Lumina-T2X` passed (as SiT), `Michedev/DDPMs-Pytorch` taken; a third query named notes alone.
Compression ("learned image compression Gaussian conditional scale hyperprior rate distortion pytorch model"):
`tonyckc/TTA-Image-Compression-with-Distribution-Regularization` passed (a package's models), `wufeim/mofii-notes`
passed (a note), `0x3Q/ImageModel` and `NYCU-MAPL/B-CANF` taken. VAE-GANs ("VAE-GAN encoder decoder discriminator
pytorch reparameterize train", then "VAEGAN larsen pytorch implementation"): `arkrp/vae-lab` and `edchengg/VAE_GAN`
passed (taken before), `gr-b/VAEGAN` and `ry85/VAE-GAN` taken. Bayesian networks ("Bayesian neural network variational
inference linear layer weight mu rho pytorch ELBO", of issues "bayes by backprop pytorch bayesian CNN KL local
reparameterization rho softplus"): six passed (taken before), `asajatovic/bayesian-deep-learning-text-classification`
and `peustr/bayesian-torch` taken. Regressors ("heteroscedastic regression predict mean and variance Gaussian negative
log likelihood uncertainty pytorch network"): three passed (taken before), `yuanqing-wang/malt` and `IBM/UQ360`, which a
later excerpt is of, taken. Point clouds ("point cloud variational autoencoder PointNet encoder pytorch KL chamfer"):
`GenMNL/PointCloudVAE` and `lukass16/CPSC-452-Final-Project` passed (taken before), `mertyigit/PointNet-VAE` and
`Ssurf777/VAEforPointCloud` taken. Medicine ("brain MRI VAE segmentation regularization branch pytorch KL", then "3D VAE
MRI volumes pytorch encoder z_mean z_log_sigma reconstruction loss"): `douzog/VAE` and
`Kasper1616/Generative-Brain-MRI-Segmentation` passed (taken before), `JurYel/brain_eeg_brain2vec` and
`EricEChing/VAE_10000` taken. Molecules ("molecular graph variational autoencoder pytorch latent property prediction",
then "molecular VAE SELFIES pytorch latent optimization GRU encoder mu logvar", of issues "junction tree VAE molecule
graph generation pytorch reparameterize KL"): seven passed (taken before), `ShoKuno5/shokuno5.github.io` passed (a
page), `cyntsh/latent-space-visualization` passed (the code of `selfies`, taken before), `Raiden-Makoto/MLX-VAE`,
`deepchem/deepchem` and `yongqyu/MolGAN-pytorch` passed (no VAE in PyTorch), `Ishan-Kumar2/Molecular_VAE_Pytorch` taken,
of whose two models one runs. Graphs ("variational graph autoencoder VGAE link prediction GCN logstd pytorch"): two
passed (taken before), `zyx423/Graph-Embeddding` and `Flawless1202/VGAE_pyG` taken. Cells ("single-cell RNA VAE negative
binomial latent batch correction pytorch module", of issues "single cell VAE pytorch ZINB latent library size decoder"):
`scverse/scvi-tools` passed (taken before), two passed (TensorFlow), `czbiohub/drvish`, which a later excerpt is of, and
`suinleelab/contrastiveVI` taken. Tables ("tabular data VAE imputation generation pytorch encoder decoder numerical
categorical"): two passed (taken before), `ficheindex/FinancialRiskPredictor` became a model without a head,
`adrianjav/heterogeneous_vaes` taken. Models without a head, one each: flows ("normalizing flow coupling layer RealNVP
image density pytorch"): `0xangelo/raylab` passed (taken before), `izmailovpavel/flowgmm` passed (a mixture as its base,
which would be a head), `ryoryon66/normalizing_flow` taken; segmentation ("U-Net segmentation pytorch dice loss model"):
two passed (a loss alone), `lucyannasxi/Prostate-Cancer-Segmenter-MICCAI2019` taken; GANs ("GAN generator discriminator
pytorch DCGAN train"): `murumura/DCGAN-pytorch` taken.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    NegativeBinomial,
    Normal,
    constraints,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import (
    HyperDensity,
    bits,
    bounded,
    images,
    kl_to_unit,
    likelihood,
    posterior,
    prior,
)

# ------------------------------------------------------------------------------------------------ images


class Sampling(nn.Module):
    """The draw is a module of its own."""

    def forward(self, mean: Tensor, v: Tensor) -> Tensor:
        deviation = (0.5 * v).exp()
        return mean + torch.randn_like(deviation) * deviation


class StridedEncoder(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = nn.Linear(24, 8)
        self.fc_mu, self.fc_logvar = nn.Linear(8, latent_dim), nn.Linear(8, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv2(self.conv1(x).relu()).relu().flatten(1)
        h = self.fc(h).relu()
        return self.fc_mu(h), self.fc_logvar(h)


class StridedDecoder(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(latent_dim, 24)
        self.deconv1 = nn.ConvTranspose2d(6, 6, 3, 2, 1, output_padding=1)
        self.deconv2 = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.deconv3 = nn.ConvTranspose2d(4, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.fc(z).relu().view(-1, 6, 2, 2)
        return self.deconv3(self.deconv2(self.deconv1(h).relu()).relu()).sigmoid()


class NoteVAE(nn.Module):
    def __init__(self, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder, self.decoder = StridedEncoder(latent_dim), StridedDecoder(latent_dim)
        self.sampling = Sampling()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, v = self.encoder(x)
        return self.decoder(self.sampling(mean, v)), mean, v


def summed_elbo(model: Any, x: Tensor) -> Tensor:
    recon, mean, v = model(x)
    return F.binary_cross_entropy(recon, x.view_as(recon), reduction="sum") + kl_to_unit(mean, v)


class LessonEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(16, 10), nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc1(x).relu()
        return self.fc21(h), self.fc22(h)


class LessonVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = LessonEncoder()
        self.decoder = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 16), nn.Sigmoid())

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mu, logvar)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        return self.decoder(self.reparameterize(mu, logvar)), mu, logvar


# ------------------------------------------------------------------------------------------------ hierarchies


class GatedPairs(nn.Module):
    """Sums `groups` products of a SiLU and a linear part."""

    def __init__(self, hidden: int, groups: int) -> None:
        super().__init__()
        self.hidden, self.groups = hidden, groups

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.hidden, dim=-1)
        total = torch.zeros_like(parts[0])
        for gate, value in zip(parts[0::2], parts[1::2], strict=True):
            total = total + F.silu(gate) * value
        return total / math.sqrt(self.groups) if self.groups > 1 else total


def gated_block(n_in: int, hidden: int, n_out: int | None = None) -> nn.Sequential:
    layers = [nn.Linear(n_in, hidden), nn.Linear(hidden, 4 * hidden), GatedPairs(hidden, 2)]
    return nn.Sequential(*layers, *([] if n_out is None else [nn.Linear(hidden, n_out)]))


class GatedEncoder(nn.Module):
    def __init__(self, d_x: int, d_z: int, h: int) -> None:
        super().__init__()
        self.backbone = gated_block(d_x, h)
        self.to_mu, self.to_logvar = nn.Linear(h, d_z), nn.Linear(h, d_z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(x)
        return self.to_mu(h), self.to_logvar(h)


class MixturePriorVAE(nn.Module):
    """Encoder, decoder and the prior's tables, which stand side by side in the training function there."""

    def __init__(self, d_x: int = 12, d_z: int = 4, components: int = 3) -> None:
        super().__init__()
        self.q_phi, self.Tdec = GatedEncoder(d_x, d_z, 6), gated_block(d_z, 6, d_x)
        self.mu_k = nn.Parameter(0.1 * torch.randn(components, d_z))
        self.logvar_k = nn.Parameter(torch.zeros(components, d_z))


def log_diagonal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    logvar = logvar.clamp(-10.0, 10.0)
    return -0.5 * ((-logvar).exp() * (z - mu) ** 2 + logvar + math.log(2 * math.pi)).sum(-1)


def log_mixture(z: Tensor, mu_k: Tensor, logvar_k: Tensor) -> Tensor:
    v, centre = logvar_k.clamp(-10.0, 10.0)[None], mu_k[None]
    each = -0.5 * ((-v).exp() * (z[:, None] - centre) ** 2 + v + math.log(2 * math.pi)).sum(-1)
    return torch.logsumexp(each - math.log(len(mu_k)), dim=1)


def mixture_prior_loss(model: Any, x: Tensor) -> Tensor:
    mu_z, logvar_z = model.q_phi(x)
    logvar_z = logvar_z.clamp(-10.0, 10.0)
    z = mu_z + torch.randn_like(mu_z) * (0.5 * logvar_z).exp()
    recon = 0.5 * (x - model.Tdec(z)).pow(2).sum(1)
    log_q, log_p = log_diagonal(z, mu_z, logvar_z), log_mixture(z, model.mu_k, model.logvar_k)
    return (recon + log_q - log_p).mean()


def scale_encoder(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
    )  # fmt: skip


def scale_decoder(latent: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, 16 * width), nn.ReLU(), nn.Unflatten(1, (4 * width, 2, 2)),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


class MultiScaleVAE(nn.Module):
    """Each scale has an encoder, a latent and a decoder of its own; the images are averaged."""

    def __init__(self, width: int = 2, latent_dims: tuple[int, ...] = (5, 4, 3)) -> None:
        super().__init__()
        self.resolutions = [4 * 2**i for i in range(len(latent_dims))]
        self.encoders = nn.ModuleList(
            nn.ModuleDict({
                "conv": scale_encoder(width), "mu": nn.Linear(16 * width, n), "logvar": nn.Linear(16 * width, n),
            }) for n in latent_dims
        )  # fmt: skip
        self.decoders = nn.ModuleList(scale_decoder(n, width) for n in latent_dims)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mu, logvar)

    def encode(self, x: Tensor) -> list[dict[str, Tensor]]:
        params = []
        for resolution, encoder in zip(self.resolutions, self.encoders, strict=True):
            h = encoder["conv"](F.interpolate(x, size=(resolution,) * 2, mode="bilinear", align_corners=False))
            mu, logvar = encoder["mu"](h), encoder["logvar"](h)
            params.append({"mu": mu, "logvar": logvar, "sample": self.reparameterize(mu, logvar)})
        return params

    def decode(self, samples: list[Tensor]) -> Tensor:
        scales = [decoder(z) for z, decoder in zip(samples, self.decoders, strict=True)]
        combined = torch.zeros_like(scales[-1])
        for image in scales:
            combined += image / len(scales)
        return combined

    def forward(self, x: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        params = self.encode(x)
        return self.decode([p["sample"] for p in params]), params


class LevelLoss(nn.Module):
    """The KL of each level has a weight, and free bits."""

    def __init__(self, levels: int, free_bits: float) -> None:
        super().__init__()
        self.free_bits = free_bits
        self.register_buffer("betas", torch.ones(levels))

    def level(self, mu: Tensor, logvar: Tensor) -> Tensor:
        kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1)
        return kl.clamp(min=self.free_bits * mu.shape[1]).mean()

    def forward(self, recon: Tensor, params: list[dict[str, Tensor]], x: Tensor) -> Tensor:
        total = F.binary_cross_entropy(recon, x, reduction="sum") / len(x)
        for beta, level in zip(self.betas, params, strict=True):
            total = total + beta * self.level(level["mu"], level["logvar"])
        return total


def multiscale_loss(model: Any, x: Tensor) -> Tensor:
    recon, params = model(x)
    return LevelLoss(len(params), 0.1)(recon, params, x)


# ------------------------------------------------------------------------------------------------ diffusion


class CovarianceDenoiser(nn.Module):
    """A denoiser of points that also tells a factor of a precision matrix, with an off-diagonal element."""

    def __init__(self, hidden: int = 8, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.layer_F, self.gain_F = nn.Linear(hidden, 2), nn.Parameter(torch.zeros([]))
        self.layer_G, self.gain_G = nn.Linear(hidden, 3), nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        s = sigma[..., None]
        h = self.layers(torch.cat([x / (self.sigma_data**2 + s**2).sqrt(), s.log() / 4, torch.ones_like(s)], -1))
        return self.layer_F(h) * self.gain_F, (self.layer_G(h) * self.gain_G).clamp(-20, 20)


def factor(g: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.zeros([*g.shape[:-1], 2, 2])
    s[..., 0, 0], s[..., 1, 1], s[..., 0, 1] = g[..., 0].exp(), g[..., 1].exp(), g[..., 2].sinh()
    return -2 * (g[..., 0] + g[..., 1]), s


def covariance_loss(model: Any, x_0: Tensor, sigma: Tensor, covariance: Tensor) -> Tensor:
    epsilon, d = torch.randn_like(x_0), model.sigma_data
    f, g = model(x_0 + epsilon * sigma[:, None], sigma)
    s2 = sigma[:, None] ** 2
    target = (sigma[:, None] * x_0 - d**2 * epsilon) / (d * (s2 + d**2) ** 0.5)
    logdet, s = factor(g)
    error = torch.einsum("...ji,...j->...j", s, f - target).pow(2).sum(-1)
    weight = 1 + d**2 / (s2 + d**2)
    trace = (torch.einsum("...ij,...kj->...ik", s, s) * covariance).sum((-1, -2)) / (s2 * weight + 1e-8)
    return (0.5 * (d**2 / (s2 + 2 * d**2) * error + (s**2).sum((-1, -2)) / weight + trace + logdet)).mean()


def noisy_points() -> tuple[Tensor, Tensor, Tensor]:
    a = randn(6, 2, 2, seed=9) * 0.3
    return randn(6, 2), (1.5 * randn(6, seed=8) - 2.4).exp(), a @ a.transpose(1, 2)


def sinusoids(t: Tensor, dim: int) -> Tensor:
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class TimedBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, time: int) -> None:
        super().__init__()
        self.conv, self.groupnorm = nn.Conv2d(n_in, n_out, 3, 1, 1), nn.GroupNorm(1, n_out)
        self.l_embedding = nn.Linear(time, n_out)
        self.out_layer = nn.Sequential(nn.GroupNorm(1, n_out), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, 1, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.conv(x)
        return self.out_layer(self.groupnorm(x).relu() + self.l_embedding(time)[..., None, None]) + x


class TimedUNet(nn.Module):
    """Its last block gives twice the image's channels: noise, and a fraction between two log variances."""

    def __init__(self, channels: tuple[int, ...] = (3, 4, 6), time: int = 8) -> None:
        super().__init__()
        self.time = time
        self.time_embed = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        self.down = nn.ModuleList(TimedBlock(a, b, time) for a, b in pairwise(channels))
        self.middle_block = TimedBlock(channels[-1], channels[-1], time)
        self.up = nn.ModuleList([TimedBlock(channels[-1], channels[-2], time)])
        self.last = TimedBlock(2 * channels[1], 2 * channels[0], time)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        n, time = x.shape[1], self.time_embed(sinusoids(t, self.time))
        skip = self.down[0](x, time)
        h = self.middle_block(self.down[1](F.max_pool2d(skip, 2), time), time)
        h = F.interpolate(self.up[0](h, time), size=skip.shape[-2:], mode="nearest")
        h = self.last(torch.cat([h, skip], 1), time)
        return h[:, :n], h[:, n:]


class VarianceDDPM(nn.Module):
    """Improved diffusion, whose variance is given to the Normal as its scale."""

    def __init__(self, steps: int = 12, lambda_variational: float = 1e-4) -> None:
        super().__init__()
        self.denoiser_module, self.T, self.lambda_variational = TimedUNet(), steps, lambda_variational
        self.betas = torch.linspace(0.000025, 0.005, steps)
        self.alphas = 1 - self.betas
        self.alphas_hat = self.alphas.cumprod(0)
        before = self.alphas_hat.roll(1)
        before[0] = before[1]
        self.betas_hat = (1 - before) / (1 - self.alphas_hat) * self.betas

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.denoiser_module(x, t)

    def variational_loss(self, x_t: Tensor, x_0: Tensor, noise: Tensor, v: Tensor, t: Tensor) -> Tensor:
        vlb = torch.zeros(())
        first = (t == 0).view(-1, 1, 1, 1)
        if first.any():
            p = Normal(self.mean(x_t, t, noise), self.scale(v, t))
            vlb = vlb - p.log_prob(x_0) * first.float()
        q = Normal(self.true_mean(x_t, x_0, t), at(self.betas_hat, t) + 1e-5)
        p = Normal(self.mean(x_t, t, noise).detach(), self.scale(v, t))
        return vlb + kl_divergence(q, p) * (~first).float()

    def scale(self, v: Tensor, t: Tensor, eps: float = 1e-5) -> Tensor:
        low, high = torch.log(at(self.betas_hat, t) + eps), torch.log(at(self.betas, t) + eps)
        return torch.exp(v * high + (1 - v) * low)

    def mean(self, x_t: Tensor, t: Tensor, noise: Tensor, eps: float = 1e-5) -> Tensor:
        part = at(self.betas, t) / (torch.sqrt(1 - at(self.alphas_hat, t)) + eps)
        return (x_t - part * noise) / (at(self.alphas, t).sqrt() + eps)

    def true_mean(self, x_t: Tensor, x_0: Tensor, t: Tensor, eps: float = 1e-5) -> Tensor:
        now, before = at(self.alphas_hat, t), at(self.alphas_hat, t - 1)
        of_data = torch.sqrt(before + eps) * at(self.betas, t) / (1 - now + eps)
        return of_data * x_0 + torch.sqrt(at(self.alphas, t) + eps) * (1 - before) / (1 - now + eps) * x_t


def at(values: Tensor, t: Tensor) -> Tensor:
    return values[t].view(-1, 1, 1, 1)


def ddpm_step(model: Any, x: Tensor) -> Tensor:
    """A step behind the first ones, in which the bound is left out."""
    x = 2 * x - 1
    t, eps = torch.randint(0, model.T - 1, (len(x),)), torch.randn_like(x)
    alpha_hat = at(model.alphas_hat, t)
    x_t = alpha_hat.sqrt() * x + torch.sqrt(1 - alpha_hat) * eps
    pred_eps, v = model(x_t, t)
    vlb = model.variational_loss(x_t, x, pred_eps, v, t).mean(dim=0).sum()
    return F.mse_loss(eps, pred_eps) + model.lambda_variational * vlb


class ScaledBlock(nn.Module):
    """A transformer's block, shifted, scaled and gated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale_a) + shift_a
        x = x + gate_a * self.attn(h, h, h, need_weights=False)[0]
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)


class SiT(nn.Module):
    """`learn_sigma` doubles its output, of which the half is left over."""

    def __init__(self, channels: int = 2, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.learn_sigma, self.out_channels = True, 2 * channels
        self.x_embedder = nn.Conv2d(channels, width, 2, 2)
        self.t_embedder = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList([ScaledBlock(width, 2) for _ in range(2)])
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_linear = nn.Linear(width, 4 * self.out_channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        n, _, height, wide = x.shape
        h = self.x_embedder(x).flatten(2).transpose(1, 2)
        c = self.t_embedder(sinusoids(t, 6)) + self.y_embedder(y)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_modulation(c)[:, None].chunk(2, dim=-1)
        h = self.final_linear(self.final_norm(h) * (1 + scale) + shift)
        h = h.view(n, height // 2, wide // 2, 2, 2, self.out_channels)
        out = torch.einsum("nhwpqc->nchpwq", h).reshape(n, self.out_channels, height, wide)
        return out.chunk(2, dim=1)[0] if self.learn_sigma else out


def velocity_loss(model: Any, x1: Tensor, y: Tensor) -> Tensor:
    x0, t = torch.randn_like(x1), torch.rand(len(x1))
    part = t.view(-1, 1, 1, 1)
    return ((model(part * x1 + (1 - part) * x0, t, y) - (x1 - x0)) ** 2).flatten(1).mean(1).mean()


# ------------------------------------------------------------------------------------------------ compression


class FloorWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor) -> Tensor:
        ctx.save_for_backward(x, floor)
        return torch.max(x, floor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, floor = ctx.saved_tensors
        return grad * ((x >= floor) | (grad < 0)).float(), None


class FlooredSquare(nn.Module):
    """A parameter that is kept as its root."""

    def __init__(self, value: Tensor, minimum: float = 0.0, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor(epsilon**2))
        self.register_buffer("minimum", torch.tensor((minimum + epsilon**2) ** 0.5))
        self.value = nn.Parameter((value + epsilon**2).sqrt())

    def forward(self) -> Tensor:
        return FloorWithGradient.apply(self.value, self.minimum) ** 2 - self.pedestal


class DivisiveNorm(nn.Module):
    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = FlooredSquare(torch.ones(channels), 1e-6)
        self.gamma = FlooredSquare(0.1 * torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        pool = F.conv2d(x**2, self.gamma()[..., None, None], self.beta())
        return x * (pool.sqrt() if self.inverse else pool.rsqrt())


class SoftExperts(nn.Module):
    """A soft mixture of experts over the positions, added to its input."""

    def __init__(self, channels: int, experts: int = 2) -> None:
        super().__init__()
        wide = channels * experts
        self.convolution1 = nn.Conv1d(wide, wide, 1, groups=experts)
        self.convolution2 = nn.Conv1d(wide, wide, 1, groups=experts)
        self.scaling, self.weights = channels**-0.5, nn.Conv2d(channels, experts, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(x) * self.scaling
        dispatched = torch.softmax(weights.flatten(2), dim=2).view_as(weights)
        slots = torch.einsum("bchw,behw->bec", x, dispatched)
        h = self.convolution2(F.leaky_relu(self.convolution1(slots.flatten(1)[..., None])))
        return x + torch.einsum("bec,behw->bchw", h.view_as(slots), torch.softmax(weights, dim=1))


class HyperDecoderOfBoth(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution1 = nn.ConvTranspose2d(channels, channels, 5, 2, 2, output_padding=1)
        self.experts1 = SoftExperts(channels)
        self.convolution2 = nn.ConvTranspose2d(channels, channels, 5, 2, 2, output_padding=1)
        self.convolution3 = nn.ConvTranspose2d(channels, 2 * channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.experts1(self.convolution1(x).relu())
        return self.convolution3(self.convolution2(x).relu())


class Rate(nn.Module):
    """Bits of an interval of length one under a Normal."""

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.register_buffer("epsilon", torch.tensor(epsilon))

    def cumulative(self, x: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        return torch.special.ndtr((x - means) / FloorWithGradient.apply(scales, self.epsilon))

    def forward(self, x: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        mass = self.cumulative(x + 0.5, means, scales) - self.cumulative(x - 0.5, means, scales)
        return -FloorWithGradient.apply(mass, self.epsilon).log2().sum(dim=[1, 2, 3])


class ImageModel(nn.Module):
    """The latent's means and scales by a network, the side information's by parameters."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 5, 2, 2), DivisiveNorm(channels), SoftExperts(channels),
            nn.Conv2d(channels, channels, 5, 2, 2),
        )  # fmt: skip
        self.hyper_encoder = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 5, 2, 2), nn.ReLU(),
            SoftExperts(channels), nn.Conv2d(channels, channels, 5, 2, 2),
        )  # fmt: skip
        self.hyper_decoder = HyperDecoderOfBoth(channels)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, 5, 2, 2, output_padding=1), DivisiveNorm(channels, True),
            SoftExperts(channels), nn.ConvTranspose2d(channels, 3, 5, 2, 2, output_padding=1),
        )  # fmt: skip
        self.rate_loss = Rate()
        self.hyper_means = nn.Parameter(torch.zeros(channels, 1, 1))
        self.hyper_scales = nn.Parameter(torch.ones(channels, 1, 1))

    def quantizer(self, x: Tensor) -> Tensor:
        return x + torch.empty_like(x).uniform_(-0.5, 0.5) if self.training else x.round()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(x)
        y = self.quantizer(self.hyper_encoder(x))
        x = self.quantizer(x)
        y_bits = self.rate_loss(y, self.hyper_means, self.hyper_scales)
        means, scales = self.hyper_decoder(y).chunk(2, dim=1)
        return self.decoder(x), self.rate_loss(x, means, scales) + y_bits


def rate_and_squares(model: Any, x: Tensor) -> Tensor:
    out, bits_of = model(x)
    pixels = x.shape[-1] * x.shape[-2]
    return bits_of.mean() / pixels + 1e-2 * F.mse_loss(out, x) * pixels


def millionth(v: Tensor) -> Tensor:
    return v.clamp(min=1e-6)


class ClampMinWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.floor = floor
        return x.clamp_min(floor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.floor) | (grad < 0)).float(), None


def rounded(x: Tensor, mean: Tensor) -> Tensor:
    x = x - mean
    with torch.no_grad():
        change = x.round() - x
    return x + change + mean


class ConditionalNormal(nn.Module):
    """Keeps the mean and the scale that it was conditioned on."""

    def _set_condition(self, condition: Tensor) -> None:
        self.mean, self.scale = condition.chunk(2, dim=1)
        self.scale = ClampMinWithGradient.apply(self.scale, 0.11)

    def _cumulative(self, x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-(2**-0.5) * x)

    def _likelihood(self, x: Tensor) -> Tensor:
        x = -(x - self.mean).abs()
        return self._cumulative((x + 0.5) / self.scale) - self._cumulative((x - 0.5) / self.scale)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        self._set_condition(condition)
        out = rounded(x, self.mean)
        return out, self._likelihood(out)


def analysis(n_in: int, n_out: int, width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, width, 3, 2, 1), DivisiveNorm(width), nn.Conv2d(width, n_out, 3, 2, 1))


def synthesis(n_in: int, n_out: int, width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(n_in, width, 4, 2, 1), DivisiveNorm(width, True), nn.ConvTranspose2d(width, n_out, 4, 2, 1)
    )


class ConditionalFlowCodec(nn.Module):
    """An augmented flow of two steps, given a frame: data to latent and back, and a prior by a network of both."""

    def __init__(self, features: int = 4, hyper: int = 3) -> None:
        super().__init__()
        self.features = features
        for i in range(2):
            self.add_module(f"analysis{i}", analysis(6, features))
            self.add_module(f"synthesis{i}", synthesis(features, 3))
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(features, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, hyper, 3, 2, 1),
        )  # fmt: skip
        self.hyper_synthesis = nn.Sequential(
            nn.ConvTranspose2d(hyper, 4, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2 * features, 3, 1, 1),
        )  # fmt: skip
        self.pred_prior = analysis(3, features)
        self.PA = nn.Sequential(
            nn.Conv2d(3 * features, 8, 1), nn.LeakyReLU(), nn.Conv2d(8, 8, 1), nn.LeakyReLU(),
            nn.Conv2d(8, 2 * features, 1),
        )  # fmt: skip
        self.QE = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, 1, 1))
        self.entropy_bottleneck, self.medians = HyperDensity(hyper), nn.Parameter(torch.zeros(1, hyper, 1, 1))
        self.conditional_bottleneck = ConditionalNormal()

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.analysis0(torch.cat([x, cond], 1))
        z = z + self.analysis1(torch.cat([x - self.synthesis0(z), cond], 1))
        h = rounded(self.hyper_analysis(z), self.medians.detach())
        condition = self.PA(torch.cat([self.hyper_synthesis(h), self.pred_prior(cond)], 1))
        z_hat, z_mass = self.conditional_bottleneck(z, condition)
        out = cond + self.synthesis1(z_hat)
        z = z_hat - self.analysis1(torch.cat([out, cond], 1))
        out = out + self.synthesis0(z)
        return out + self.QE(out), z_mass, self.entropy_bottleneck(h)


def codec_loss(model: Any, x: Tensor, cond: Tensor) -> Tensor:
    out, z_mass, h_mass = model(x, cond)
    rate = -(z_mass.clamp_min(1e-9).log2().sum() + h_mass.log2().sum()) / len(x)
    return F.mse_loss(out, x) + 1e-3 * rate


# ------------------------------------------------------------------------------------------------ VAE-GANs


class HeadedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin3 = nn.Linear(16, 12), nn.Linear(12, 10), nn.Linear(10, 8)
        self.mean_head, self.std_head = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.view(-1, 16)
        for layer in (self.lin1, self.lin2, self.lin3):
            x = F.dropout(layer(x), p=0, training=self.training).relu()
        return self.mean_head(x), self.std_head(x)


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin3 = nn.Linear(16, 10), nn.Linear(10, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.lin1(x).relu()
        second = self.lin2(first).relu()
        return self.lin3(second).sigmoid(), first, second


class PerceptualVAEGAN(nn.Module):
    """Three networks, which stand side by side in the script."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.disc = HeadedEncoder(), Critic()
        self.dec = nn.Sequential(
            nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 16), nn.Sigmoid(),
        )  # fmt: skip


def perceptual_step(model: Any, x: Tensor) -> Tensor:
    """The autoencoder's step, in the first two epochs."""
    mu, logvar = model.enc(x)
    fake, real = model.dec(draw_half(mu, logvar)), x.view(-1, 16)
    _, first_real, second_real = model.disc(real)
    _, first_fake, second_fake = model.disc(fake)
    perceptual = F.mse_loss(first_real, first_fake) + F.mse_loss(second_real, second_fake)
    loss = kl_to_unit(mu, logvar) + perceptual
    loss += F.binary_cross_entropy(fake, real, reduction="sum")
    return loss


class NormedConv(nn.Module):
    """Gives, if asked for, what lies in front of its norm."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(n_in, n_out, 5, 2, 2, bias=False), nn.BatchNorm2d(n_out, momentum=0.9)

    def forward(self, x: Tensor, out: bool = False) -> Any:
        h = self.conv(x)
        return (self.bn(h).relu(), h) if out else self.bn(h).relu_()


class BlockEncoder(nn.Module):
    def __init__(self, z_size: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(NormedConv(3, 4), NormedConv(4, 8))
        self.fc = nn.Sequential(nn.Linear(32, 10, bias=False), nn.BatchNorm1d(10, momentum=0.9), nn.ReLU(True))
        self.l_mu, self.l_var = nn.Linear(10, z_size), nn.Linear(10, z_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(self.conv(x).flatten(1))
        return self.l_mu(h), self.l_var(h)


class BlockCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, 4, 5, 1, 2), nn.ReLU()), NormedConv(4, 6), NormedConv(6, 6)]
        )
        self.fc = nn.Sequential(nn.Linear(24, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, *three: Tensor, mode: str) -> Tensor:
        h = torch.cat(three, 0)
        for i, layer in enumerate(self.conv):
            if mode == "REC" and i == 2:
                return layer(h, True)[1].flatten(1)
            h = layer(h)
        return self.fc(h.flatten(1)).sigmoid()


class VaeGan(nn.Module):
    def __init__(self, z_size: int = 5) -> None:
        super().__init__()
        self.z_size = z_size
        self.encoder, self.discriminator = BlockEncoder(z_size), BlockCritic()
        self.decoder = nn.Sequential(
            nn.Linear(z_size, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)),
            nn.ConvTranspose2d(8, 4, 5, 2, 2, output_padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 5, 2, 2, output_padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 3, 5, 1, 2), nn.Tanh(),
        )  # fmt: skip

    def reparameterize(self, mu: Tensor, v: Tensor) -> Tensor:
        v = v.mul(0.5).exp_()
        noise = v.detach().new(v.size()).normal_()
        return noise.mul(v).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, v = self.encoder(x)
        decoded = self.decoder(self.reparameterize(mu, v))
        made = self.decoder(torch.randn(len(x), self.z_size))
        features = self.discriminator(x, decoded, made, mode="REC")
        return decoded, self.discriminator(x, decoded, made, mode="GAN"), features, mu, v

    @staticmethod
    def loss(original: Tensor, predicted: Tensor, mu: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        kl = -0.5 * torch.sum(-v.exp() - mu.pow(2) + v + 1, 1)
        return kl, (0.5 * (original - predicted) ** 2).sum(1)


def vaegan_encoder_step(model: Any, x: Tensor) -> Tensor:
    """The first of three steps, the encoder's."""
    _, _, features, mu, v = model(x)
    kl, mse = VaeGan.loss(features[: len(x)], features[len(x) : -len(x)], mu, v)
    return torch.sum(kl) + torch.sum(mse)


# ------------------------------------------------------------------------------------------------ Bayesian networks


class SoftplusPosterior(Distribution):
    """A Normal of the torch family that registers its own parameters at its module, and whose scale is raw."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, module: nn.Module, name: str, loc: nn.Parameter, scale: nn.Parameter) -> None:
        self.loc, self.scale = loc, scale
        module.register_parameter(f"{name}_loc", loc)
        module.register_parameter(f"{name}_scale", scale)
        super().__init__(loc.size(), validate_args=False)

    @property
    def stddev(self) -> Tensor:
        return F.softplus(self.scale)

    @property
    def variance(self) -> Tensor:
        return self.stddev.pow(2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = torch.randn(self._extended_shape(torch.Size(sample_shape)))
        return self.loc + noise * self.stddev

    def log_prob(self, value: Tensor) -> Tensor:
        log_scale = self.stddev.log()
        return -((value - self.loc) ** 2) / (2 * self.variance) - log_scale - 0.5 * math.log(2 * math.pi)


class PathwiseLayer(nn.Module):
    """Draws its weights, and keeps what was drawn for the KL."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight_posterior = self._posterior("weight", *shape)
        self.bias_posterior = self._posterior("bias", shape[0])
        self.register_buffer("prior_loc", torch.tensor(0.0))
        self.register_buffer("prior_scale", torch.tensor(0.1))
        for name, bound in (("weight", shape[0]), ("bias", math.prod(shape[1:]))):
            nn.init.normal_(getattr(self, f"{name}_loc"), 0.0, bound**-0.5)
            nn.init.normal_(getattr(self, f"{name}_scale"), -7.0, bound**-0.5)

    def _posterior(self, name: str, *shape: int) -> SoftplusPosterior:
        return SoftplusPosterior(self, name, nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape)))

    def drawn(self) -> tuple[Tensor, Tensor]:
        self.weight_sample, self.bias_sample = self.weight_posterior.rsample(), self.bias_posterior.rsample()
        return self.weight_sample, self.bias_sample

    def kl_loss(self) -> Tensor:
        total = torch.zeros(())
        for post, value in (
            (self.weight_posterior, self.weight_sample), (self.bias_posterior, self.bias_sample),
        ):  # fmt: skip
            total = total + (post.log_prob(value) - Normal(self.prior_loc, self.prior_scale).log_prob(value)).sum()
        return total


class PathwiseConv(PathwiseLayer):
    def __init__(self, n_in: int, n_out: int, kernel: int, dilation: int) -> None:
        super().__init__(n_out, n_in, kernel)
        self.dilation, self.padding = dilation, (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, *self.drawn(), padding=self.padding, dilation=self.dilation)


class PathwiseLinear(PathwiseLayer):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.drawn()
        return x @ weight.t() + bias


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : -self.size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = PathwiseConv(width, width, kernel, dilation)
        self.conv2 = PathwiseConv(width, width, kernel, dilation)
        chomp = (kernel - 1) * dilation
        self.net = nn.Sequential(self.conv1, Chomp(chomp), nn.ReLU(), self.conv2, Chomp(chomp), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + x).relu()


class TextTCN(nn.Module):
    """The KL is summed over its children, of which the convolutions' stack is none that has one: a slip."""

    def __init__(self, vocabulary: int = 11, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=1)
        self.embedding.weight.requires_grad = False
        self.tcn = nn.Sequential(*(TemporalBlock(width, 3, 2**i) for i in range(2)))
        self.fc, self.activation = PathwiseLinear(classes, width), nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tcn(self.embedding(x.transpose(1, 0)).transpose(1, 2))
        return self.activation(self.fc(F.adaptive_avg_pool1d(h, 1).squeeze(-1)))

    def kl_loss(self) -> Tensor:
        return sum((m.kl_loss() for m in self.children() if isinstance(m, PathwiseLayer)), torch.zeros(()))


def text_elbo(model: Any, x: Tensor, y: Tensor) -> Tensor:
    prediction = model(x)
    return model.kl_loss() / (len(y) * 10) + F.nll_loss(prediction, y)


class DrawnLinear(nn.Linear):
    """Its σ is a parameter itself, bounded in the draw."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.weight_var = nn.Parameter(torch.full_like(self.weight, 1e-6))
        self.bias_var = nn.Parameter(torch.full_like(self.bias, 1e-6))

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return F.linear(input, self.weight, self.bias)
        weight = self.weight + torch.randn_like(self.weight) * self.weight_var.clamp(min=1e-8)
        return F.linear(input, weight, self.bias + torch.randn_like(self.bias) * self.bias_var.clamp(min=1e-8))


class DrawnConv(nn.Conv2d):
    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__(n_in, n_out, kernel)
        self.weight_var = nn.Parameter(torch.full_like(self.weight, 1e-6))
        self.bias_var = nn.Parameter(torch.full_like(self.bias, 1e-6))

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self._conv_forward(input, self.weight, self.bias)
        weight = self.weight + torch.randn_like(self.weight) * self.weight_var.clamp(min=1e-8)
        bias = self.bias + torch.randn_like(self.bias) * self.bias_var.clamp(min=1e-8)
        return self._conv_forward(input, weight, bias)


class BCNN(nn.Module):
    """Its prior is a copy of it that stands beside it in the script."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = DrawnConv(1, 3, 3), DrawnConv(3, 4, 3)
        self.fc1, self.fc2 = DrawnLinear(36, 6), DrawnLinear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(self.conv1(x).relu()).relu()
        return self.fc2(self.fc1(F.max_pool2d(h, 2).flatten(1)).relu())


@torch.no_grad()
def unit_prior(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).requires_grad_(False)
    for layer in copied.modules():
        if isinstance(layer, (DrawnConv, DrawnLinear)):
            layer.weight.zero_(), layer.bias.zero_(), layer.weight_var.fill_(1.0), layer.bias_var.fill_(1.0)
    return copied


def kl_of(m: Tensor, s: Tensor, m0: Tensor, s0: Tensor) -> Tensor:
    ratio = (s / s0).pow(2)
    return 0.5 * (ratio + ((m - m0) / s0).pow(2) - 1.0 - ratio.log()).mean()


def kl_of_layers(model: nn.Module, prior_model: nn.Module) -> Tensor:
    total, layers = torch.zeros(()), 0
    for one, other in zip(model.modules(), prior_model.modules(), strict=True):
        if isinstance(one, (DrawnConv, DrawnLinear)) and isinstance(other, (DrawnConv, DrawnLinear)):
            total = total + kl_of(one.weight, one.weight_var, other.weight, other.weight_var)
            total = total + kl_of(one.bias, one.bias_var, other.bias, other.bias_var)
            layers += 1
    return total / layers


PRIOR = unit_prior(BCNN())


def bcnn_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y) + 0.001 * kl_of_layers(model, PRIOR)


def barely_positive(v: Tensor) -> Tensor:
    return v.clamp(min=1e-8)


# ------------------------------------------------------------------------------------------------ regressors


class GraphRepresentation(nn.Module):
    """Graph convolutions, and a sum over the nodes."""

    def __init__(self, n_in: int, hidden: int, n_out: int, depth: int = 2) -> None:
        super().__init__()
        self.embedding_in, self.depth = nn.Sequential(nn.Linear(n_in, hidden), nn.SiLU()), depth
        for i in range(depth):
            setattr(self, f"gn{i}", nn.Linear(hidden, hidden))
        self.embedding_out, self.ff = nn.Linear(hidden, hidden), nn.Sequential(nn.Linear(hidden, n_out))

    def forward(self, adjacency: Tensor, h: Tensor) -> Tensor:
        h = self.embedding_in(h)
        for i in range(self.depth):
            h = F.silu(adjacency @ getattr(self, f"gn{i}")(h))
        return self.ff(self.embedding_out(h).sum(1))


class NetworkRegressor(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.ff = nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class HeteroscedasticLikelihood(nn.Module):
    def condition(self, theta: Tensor) -> Normal:
        mu, log_sigma = theta[:, 0][:, None], theta[:, 1][:, None]
        return Normal(loc=mu, scale=log_sigma.exp())


class SupervisedModel(nn.Module):
    """It has no forward: its loss calls `condition`."""

    def __init__(self) -> None:
        super().__init__()
        self.representation, self.regressor = GraphRepresentation(5, 8, 6), NetworkRegressor(6, 7)
        self.likelihood = HeteroscedasticLikelihood()

    def condition(self, adjacency: Tensor, h: Tensor) -> Normal:
        return self.likelihood.condition(self.regressor(self.representation(adjacency, h)))

    def loss(self, adjacency: Tensor, h: Tensor, y: Tensor) -> Tensor:
        return -self.condition(adjacency, h).log_prob(y).mean()


def normalized_graphs(n: int = 5, nodes: int = 6) -> Tensor:
    links = bits(n, nodes, nodes)
    links = ((links + links.transpose(1, 2)) > 0).float() + torch.eye(nodes)
    degree = links.sum(-1).rsqrt()
    return degree[..., None] * links * degree[:, None]


class GaussianNoise(nn.Module):
    """The variance is a softplus, written out, of what is called a log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.const = torch.log(torch.tensor([2 * math.pi]))

    def loss(self, y: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        var = torch.log(1 + torch.exp(log_var))
        ll = -0.5 * self.const - 0.5 * torch.log(var) - 0.5 * (1.0 / var) * (mu - y) ** 2
        return -ll.mean(dim=0)


class GaussianNoiseMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fc_mu, self.fc_log_var = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
        self.noise_layer = GaussianNoise()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc(x).relu()
        return self.fc_mu(h), self.fc_log_var(h)

    def loss(self, y: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        return self.noise_layer.loss(y, mu, log_var)


def noisy_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.loss(y, *model(x))


def root_softplus(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(v))


# ------------------------------------------------------------------------------------------------ point clouds


class Transformer3(nn.Module):
    """A matrix for the points' features, near the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.conv1, self.bn1 = nn.Conv1d(dim, 8, 1), nn.BatchNorm1d(8)
        self.linear1, self.bn2, self.linear2 = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, dim**2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(self.conv1(x).relu()).amax(-1)
        h = self.linear2(self.bn2(self.linear1(h).relu()))
        return h.view(-1, self.dim, self.dim) + torch.eye(self.dim)


class PointNet(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.tnet1, self.tnet2 = Transformer3(3), Transformer3(6)
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)
        self.conv2, self.bn2 = nn.Conv1d(6, features, 1), nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.bmm(x.transpose(2, 1), self.tnet1(x)).transpose(2, 1)
        x = self.bn1(self.conv1(x).relu())
        a = self.tnet2(x)
        x = self.bn2(self.conv2(torch.bmm(x.transpose(2, 1), a).transpose(2, 1)).relu())
        most, where = x.max(-1)
        return most, where, a


class RepeatedLayerVAE(nn.Module):
    """Each of the two heads is called three times, on what it gave."""

    def __init__(self, latent_dim: int = 5, points: int = 12) -> None:
        super().__init__()
        self.encoder = PointNet(latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 10), nn.ReLU(), nn.Linear(10, 3 * points), nn.Unflatten(1, (points, 3)),
        )  # fmt: skip
        self.fc_mu, self.fc_logvar = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mu, logvar)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, _, _ = self.encoder(x)
        mu, logvar = features, features
        for _ in range(3):
            mu = self.fc_mu(mu)
        for _ in range(3):
            logvar = self.fc_logvar(logvar)
        return self.decoder(self.reparameterize(mu, logvar)), mu, logvar


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    distances = (a[:, :, None] - b[:, None]).abs().pow(2).sum(3)
    return (distances.min(1)[0].sqrt().mean() + distances.min(2)[0].sqrt().mean()) / 2.0


def cloud_loss(model: Any, points: Tensor) -> Tensor:
    recon, mu, logvar = model(points)
    kl = torch.mean(-0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1), dim=0)
    return chamfer(recon, points.transpose(2, 1)) + kl


class SingleCloudVAE(nn.Module):
    """One cloud at a time, whose coordinates are channels."""

    def __init__(self, n: int = 12, n_z: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(n, 8, 1), nn.Conv1d(8, 10, 1)
        self.maxpool, self.linear1, self.linear2 = nn.AdaptiveMaxPool1d(1), nn.Linear(10, 8), nn.Linear(8, 9)
        self.enc_mu, self.enc_logvar = nn.Linear(9, n_z), nn.Linear(9, n_z)
        self.dec1, self.dec2 = nn.Linear(n_z, 8), nn.Linear(8, 6)
        self.dconv1, self.dec_out = nn.ConvTranspose1d(6, 8, 1), nn.Linear(8, n)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight)
                nn.init.zeros_(m.bias)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.leaky_relu(self.conv1(x.reshape(1, -1, 1)), 0.001)
        h = self.maxpool(F.leaky_relu(self.conv2(h), 0.001)).flatten(1)
        h = self.linear2(F.leaky_relu(self.linear1(h), 0.001))
        mu, logvar = self.enc_mu(h), self.enc_logvar(h)
        std = torch.exp(logvar * 0.5)
        return mu + std * torch.randn_like(std), mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        h = F.leaky_relu(self.dec2(F.leaky_relu(self.dec1(z.squeeze(0)), 0.001)), 0.001)
        h = F.leaky_relu(self.dconv1(h[None, :, None]), 0.001)
        return self.dec_out(h.squeeze(0).squeeze(-1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, mu, logvar = self.encode(x)
        return self.decode(z), z, mu, logvar

    def loss(self, y: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        return F.mse_loss(y, x, reduction="sum"), 0.5 * torch.sum(mu**2 + torch.exp(logvar) - logvar - 1)


def single_cloud_loss(model: Any, x: Tensor) -> Tensor:
    y, _, mu, logvar = model(x)
    rec, reg = model.loss(y, x, mu, logvar)
    return rec + reg


# ------------------------------------------------------------------------------------------------ medicine


class OneConv(nn.Sequential):
    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv3d(n_in, n_out, kernel, padding=kernel // 2))


class VolumeAutoencoderKL(nn.Module):
    """MONAI's: σ, and not its logarithm, is what encode gives."""

    def __init__(self, latent: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            OneConv(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv3d(4, 4, 3, 2, 1), nn.SiLU(), OneConv(4, latent, 3),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            OneConv(latent, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Upsample(scale_factor=2), OneConv(4, 1, 3),
        )  # fmt: skip
        self.quant_conv_mu, self.quant_conv_log_sigma = OneConv(latent, latent, 1), OneConv(latent, latent, 1)
        self.post_quant_conv = OneConv(latent, latent, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        z_mu, v = self.quant_conv_mu(h), self.quant_conv_log_sigma(h)
        return z_mu, torch.exp(torch.clamp(v, -30.0, 20.0) / 2)

    def sampling(self, z_mu: Tensor, z_sigma: Tensor) -> Tensor:
        return z_mu + torch.randn_like(z_sigma) * z_sigma

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_mu, z_sigma = self.encode(x)
        return self.decoder(self.post_quant_conv(self.sampling(z_mu, z_sigma))), z_mu, z_sigma


class BrainModel(nn.Module):
    """The autoencoder, a critic of patches, and fixed features for the perceptual loss."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = VolumeAutoencoderKL()
        self.discriminator = nn.Sequential(nn.Conv3d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv3d(4, 1, 3, 1, 1))
        self.perceptual = nn.Sequential(nn.Conv3d(1, 4, 3, 1, 1), nn.ReLU()).requires_grad_(False)


def kl_of_sigma(z_mu: Tensor, z_sigma: Tensor) -> Tensor:
    variance = z_sigma.pow(2)
    kl = 0.5 * torch.sum(z_mu.pow(2) + variance - torch.log(variance) - 1, dim=[1, 2, 3, 4])
    return torch.sum(kl) / kl.shape[0]


def brain_step(model: Any, volumes: Tensor) -> Tensor:
    """The generator's step."""
    recon, z_mu, z_sigma = model.autoencoder(volumes)
    adversarial = ((model.discriminator(recon) - 1) ** 2).mean()
    perceptual = ((model.perceptual(recon) - model.perceptual(volumes)) ** 2).mean()
    return F.l1_loss(recon, volumes) + 1e-7 * kl_of_sigma(z_mu, z_sigma) + 0.001 * perceptual + 0.025 * adversarial


class LungVAE(nn.Module):
    def __init__(self, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder_conv1, self.encoder_conv2 = nn.Conv3d(1, 3, 2, 2), nn.Conv3d(3, 4, 2, 2)
        self.encoder_fc1 = nn.Linear(32, 8)
        self.encoder_fc21, self.encoder_fc22 = nn.Linear(8, latent_dim), nn.Linear(8, latent_dim)
        self.decoder_fc3, self.decoder_fc4 = nn.Linear(latent_dim, 8), nn.Linear(8, 32)
        self.decoder_conv3, self.decoder_conv4 = nn.ConvTranspose3d(4, 3, 2, 2), nn.ConvTranspose3d(3, 1, 2, 2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder_conv2(self.encoder_conv1(x).relu()).relu()
        h = self.encoder_fc1(h.view(len(h), -1)).relu()
        return self.encoder_fc21(h), self.encoder_fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        h = self.decoder_fc4(self.decoder_fc3(z).relu()).relu().view(-1, 4, 2, 2, 2)
        return self.decoder_conv4(self.decoder_conv3(h).relu()).sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return self.decode(draw_half(mu, logvar)), mu, logvar


def lung_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_var = model(x)
    return F.mse_loss(recon, x) + -0.5 * torch.mean(1 + log_var - mu.pow(2) - log_var.exp())


# ------------------------------------------------------------------------------------------------ molecules


class TwoLayers(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).relu()).relu()


class SmilesVAE(nn.Module):
    """Keeps mean and σ of its last call; the loss takes the σ for a variance: a slip."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self._enc_mu, self._enc_log_sigma = nn.Linear(8, latent_dim), nn.Linear(8, latent_dim)

    def _sample_latent(self, h: Tensor) -> Tensor:
        mu, sigma = self._enc_mu(h), self._enc_log_sigma(h).exp()
        noise = torch.randn(sigma.size()).float()
        self.z_mean, self.z_sigma = mu, sigma
        return mu + sigma * noise

    def forward(self, state: Tensor) -> Tensor:
        return self.decoder(self._sample_latent(self.encoder(state)))


def smiles_loss(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    latent = -0.5 * torch.mean(torch.log(model.z_sigma) + 1 - model.z_mean * model.z_mean - model.z_sigma)
    return latent + F.mse_loss(x, out)


# ------------------------------------------------------------------------------------------------ graphs


class DenseVGAE(nn.Module):
    """Graph convolutions as products with a dense matrix; the second layers are sequences of one."""

    def __init__(self, d_0: int = 6, d_1: int = 8, d_2: int = 4) -> None:
        super().__init__()
        self.gconv1 = nn.Sequential(nn.Linear(d_0, d_1), nn.ReLU(inplace=True))
        self.gconv2_mean, self.gconv2_std = nn.Sequential(nn.Linear(d_1, d_2)), nn.Sequential(nn.Linear(d_1, d_2))

    def encoder(self, kernel: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gconv1(kernel.mm(x))
        return self.gconv2_mean(torch.matmul(kernel, h)), self.gconv2_std(torch.matmul(kernel, h))

    def reparametrization(self, mean: Tensor, log_std: Tensor) -> Tensor:
        noise = torch.randn_like(log_std)
        return noise.mul(log_std.exp()) + mean

    def forward(self, kernel: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_std = self.encoder(kernel, x)
        z = self.reparametrization(mean, log_std)
        return torch.sigmoid(z.mm(z.T)), mean, log_std


def dense_vgae_loss(model: Any, x: Tensor, adjacency: Tensor) -> Tensor:
    links = adjacency + torch.eye(len(adjacency))
    root = torch.diag(links.sum(1).pow(-0.5))
    graph, mean, log_std = model(root.mm(links).mm(root), x)
    weight = torch.ones(adjacency.numel())
    weight[adjacency.view(-1) == 1] = 20
    bce = F.binary_cross_entropy(graph.view(-1), adjacency.view(-1), weight=weight, reduction="sum")
    kl = -0.5 / len(adjacency) * (1 + 2 * log_std - mean**2 - torch.exp(log_std) ** 2).sum(1).mean()
    return bce + kl


def links_of(nodes: int = 7) -> Tensor:
    links = bits(nodes, nodes).triu(1)
    return links + links.T


class EdgeConv(nn.Module):
    """A graph convolution over a list of edges, with self-loops and the degrees' roots."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        loops = torch.arange(len(x)).expand(2, -1)
        source, target = torch.cat([edges, loops], 1)
        root = torch.zeros(len(x)).index_add(0, target, torch.ones(len(target))).rsqrt()
        messages = (root[source] * root[target])[:, None] * self.lin(x)[source]
        return torch.zeros(len(x), messages.shape[1]).index_add(0, target, messages) + self.bias


class EdgeEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gcn_shared = EdgeConv(6, 8)
        self.gcn_mu, self.gcn_logvar = EdgeConv(8, 4), EdgeConv(8, 4)

    def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gcn_shared(x, edges).relu()
        return self.gcn_mu(h, edges), self.gcn_logvar(h, edges)


class DeepVGAE(nn.Module):
    """What it calls a log variance the package takes for a log σ, bounds, and keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EdgeEncoder()

    def encode(self, x: Tensor, edges: Tensor) -> Tensor:
        self.__mu__, self.__logstd__ = self.encoder(x, edges)
        self.__logstd__ = self.__logstd__.clamp(max=10)
        if not self.training:
            return self.__mu__
        return self.__mu__ + torch.randn_like(self.__logstd__) * self.__logstd__.exp()

    def kl_loss(self) -> Tensor:
        mu, v = self.__mu__, self.__logstd__
        return -0.5 * torch.mean(torch.sum(1 + 2 * v - mu**2 - v.exp() ** 2, dim=1))

    def linked(self, z: Tensor, edges: Tensor) -> Tensor:
        return torch.sigmoid((z[edges[0]] * z[edges[1]]).sum(1))

    def loss(self, x: Tensor, edges: Tensor) -> Tensor:
        z = self.encode(x, edges)
        others = torch.randint(0, len(x), edges.shape)
        pos, neg = self.linked(z, edges), self.linked(z, others)
        return -torch.log(pos + 1e-15).mean() - torch.log(1 - neg + 1e-15).mean() + self.kl_loss() / len(x)


# ------------------------------------------------------------------------------------------------ cells


def norm_first(dims: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(dims):
        layers += [nn.BatchNorm1d(n_in), nn.ReLU(), nn.Linear(n_in, n_out)]
    return nn.Sequential(*layers)


def halves(t: Tensor) -> tuple[Tensor, ...]:
    return t.reshape(*t.shape[:-1], 2, -1).unbind(-2)


class CountsEncoder(nn.Module):
    """One layer gives mean and σ of the latent and of the library's size, a softplus for each σ."""

    def __init__(self, genes: int, latent: int) -> None:
        super().__init__()
        self.fc = norm_first([genes, 10, 2 * latent + 2])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m, v = halves(self.fc(x.sqrt()))
        return m[..., :-1], F.softplus(v[..., :-1]), m[..., -1:], F.softplus(v[..., -1:])


class CountsDecoder(nn.Module):
    def __init__(self, latent: int, genes: int) -> None:
        super().__init__()
        self.fc = norm_first([latent, 10, 2 * genes])

    def forward(self, z: Tensor, library: Tensor) -> tuple[Tensor, Tensor]:
        scale, log_r = halves(self.fc(z))
        return log_r, library + F.log_softmax(scale, dim=-1) - log_r


class NBVAE(nn.Module):
    """Upstream the densities at the draws are Pyro's, of a model and a guide."""

    def __init__(self, genes: int = 9, latent: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = CountsEncoder(genes, latent), CountsDecoder(latent, genes)
        self.l_loc, self.l_scale, self.n_latent = torch.tensor(7.5), 0.5 * torch.ones(1), latent

    def guide(self, x: Tensor) -> tuple[Independent, Independent]:
        z_loc, z_scale, l_loc, l_scale = self.encoder(x)
        return Independent(Normal(z_loc, z_scale), 1), Independent(Normal(l_loc, l_scale), 1)

    def model(self, x: Tensor, z: Tensor, library: Tensor) -> Tensor:
        log_r, logit = self.decoder(z, library)
        counts = Independent(NegativeBinomial(torch.exp(log_r) + 1e-6, logits=logit), 1)
        of_z = Independent(Normal(0, x.new_ones(self.n_latent)), 1).log_prob(z)
        return counts.log_prob(x) + of_z + Independent(Normal(self.l_loc, self.l_scale), 1).log_prob(library)


def svi_loss(model: Any, x: Tensor) -> Tensor:
    q_z, q_l = model.guide(x)
    z, library = q_z.rsample(), q_l.rsample()
    return -(model.model(x, z, library) - q_z.log_prob(z) - q_l.log_prob(library)).sum()


class CellEncoder(nn.Module):
    """scvi's: an exponential with a floor is the variance."""

    def __init__(self, genes: int, latent: int, batches: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(genes + batches, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.1))
        self.mean_encoder, self.var_encoder = nn.Linear(10, latent), nn.Linear(10, latent)
        self.var_eps, self.var_activation = 1e-4, torch.exp

    def forward(self, x: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(torch.cat([x, batch], -1))
        q_m, q_v = self.mean_encoder(h), self.var_activation(self.var_encoder(h)) + self.var_eps
        return q_m, q_v, Normal(q_m, q_v.sqrt()).rsample()


class ContrastiveVI(nn.Module):
    """Background and target cells go through both encoders; a background cell's salient latent is zero."""

    def __init__(self, genes: int = 9, latent: int = 3, salient: int = 2, batches: int = 2) -> None:
        super().__init__()
        self.batches, self.px_r = batches, nn.Parameter(torch.randn(genes))
        self.z_encoder, self.s_encoder = CellEncoder(genes, latent, batches), CellEncoder(genes, salient, batches)
        self.l_encoder = CellEncoder(genes, 1, batches)
        self.decoder = nn.Sequential(nn.Linear(latent + salient + batches, 10), nn.BatchNorm1d(10), nn.ReLU())
        self.px_scale_decoder = nn.Sequential(nn.Linear(10, genes), nn.Softmax(-1))
        self.px_dropout_decoder = nn.Linear(10, genes)

    def inference(self, background: Tensor, target: Tensor, batch: Tensor) -> list[dict[str, Tensor]]:
        x = torch.cat([background, target])
        code = F.one_hot(batch, self.batches).float()
        library, x_ = torch.log(x.sum(1))[:, None], torch.log(1 + x)
        qz_m, qz_v, z = self.z_encoder(x_, code)
        qs_m, qs_v, s = self.s_encoder(x_, code)
        named = {
            "qz_m": qz_m,
            "qz_v": qz_v,
            "z": z,
            "qs_m": qs_m,
            "qs_v": qs_v,
            "s": s,
            "library": library,
            "code": code,
        }
        outputs = [
            dict(zip(named, half, strict=True)) for half in zip(*(v.chunk(2) for v in named.values()), strict=True)
        ]
        outputs[0]["s"] = torch.zeros_like(outputs[0]["s"])
        return outputs

    def generative(self, o: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = self.decoder(torch.cat([o["z"], o["s"], o["code"]], -1))
        return torch.exp(o["library"]) * self.px_scale_decoder(h), torch.exp(self.px_r), self.px_dropout_decoder(h)

    def kl(self, mean: Tensor, var: Tensor) -> Tensor:
        p = Normal(torch.zeros_like(mean), torch.ones_like(var).sqrt())
        return kl_divergence(Normal(mean, var.sqrt()), p).sum(-1)

    def loss(self, background: Tensor, target: Tensor, batch: Tensor) -> Tensor:
        outputs = self.inference(background, target, batch)
        recon = [-zinb(x, *self.generative(o)).sum(-1) for x, o in zip((background, target), outputs, strict=True)]
        kl_z = sum(self.kl(o["qz_m"], o["qz_v"]) for o in outputs)
        apart = torch.norm(outputs[0]["qs_m"], dim=-1) ** 2 + torch.sum(outputs[0]["qs_v"], dim=-1)
        local = 0 * apart + kl_z + self.kl(outputs[1]["qs_m"], outputs[1]["qs_v"])
        return torch.mean(recon[0] + recon[1] + local)


def zinb(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor, eps: float = 1e-8) -> Tensor:
    log_theta_mu = torch.log(theta + mu + eps)
    zero = -pi + theta * (torch.log(theta + eps) - log_theta_mu)
    at_zero = F.softplus(zero) - F.softplus(-pi)
    counts = x * (torch.log(mu + eps) - log_theta_mu)
    counts = counts + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return torch.where(x < eps, at_zero, -F.softplus(-pi) + zero + counts)


def root_of_exponential(v: Tensor) -> Tensor:
    return torch.sqrt(torch.exp(v) + 1e-4)


def two_conditions() -> tuple[Tensor, Tensor, Tensor]:
    return tokens(9, 6, 9).float() + 1, tokens(12, 6, 9, seed=9).float() + 1, tokens(2, 12, seed=10)


# ------------------------------------------------------------------------------------------------ tables


class ColumnNormal:
    """A column's law, by its natural parameters."""

    sizes, signs, law = (1, 1), (0, -1), Normal

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        eta1, eta2 = params
        return self.law(-0.5 * eta1 / eta2, torch.sqrt(-0.5 / eta2)).log_prob(x)


class ColumnLogNormal(ColumnNormal):
    law = LogNormal


class ColumnBernoulli:
    sizes, signs = (1,), (0,)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return torch.distributions.Bernoulli(logits=params[0]).log_prob(x)


class ColumnCategorical:
    sizes, signs = (3,), (0,)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=params[0]).log_prob(x)


class ColumnHead(nn.Module):
    """What must be negative is a negative softplus."""

    def __init__(self, column: Any, hidden: int) -> None:
        super().__init__()
        self.column, self.head = column, nn.Linear(hidden, sum(column.sizes))

    def forward(self, y: Tensor) -> Tensor:
        theta, params, pos = self.head(y), [], 0
        for size, sign in zip(self.column.sizes, self.column.signs, strict=True):
            value = theta[..., pos : pos + size].squeeze(-1)
            params.append(0 - 1e-15 - F.softplus(value) if sign < 0 else value)
            pos += size
        return torch.stack(params, dim=0)


class TableEncoder(nn.Module):
    def __init__(self, columns: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Dropout(0.1), nn.BatchNorm1d(columns), nn.Linear(columns, hidden), nn.Tanh(), nn.Linear(hidden, hidden),
            nn.Tanh(),
        )  # fmt: skip
        self.z_loc, self.z_log_scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def q_z(self, loc: Tensor, log_scale: Tensor) -> Normal:
        return Normal(loc, F.softplus(log_scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.z_loc(h), self.z_log_scale(h)


class HeterogeneousVAE(nn.Module):
    """Missing values are masked; the posterior is made twice, for the draw and for its density."""

    def __init__(self, hidden: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.prob_model = (ColumnNormal(), ColumnLogNormal(), ColumnBernoulli(), ColumnCategorical())
        self.prior_z_loc, self.prior_z_scale = torch.zeros(latent), torch.ones(latent)
        self.encoder = TableEncoder(len(self.prob_model), hidden, latent)
        self.decoder_shared = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.heads = nn.ModuleList(ColumnHead(column, hidden) for column in self.prob_model)

    def training_step(self, x: Tensor, mask: Tensor) -> Tensor:
        z_params = self.encoder(x * mask)
        z = self.encoder.q_z(*z_params).rsample([1])
        y = self.decoder_shared(z)
        x_, mask_ = x[None].tile((1, 1, 1)), mask[None].tile((1, 1, 1))
        log_px = [
            column.log_prob(x_[..., i], head(y)) * mask_[..., i]
            for i, (column, head) in enumerate(zip(self.prob_model, self.heads, strict=True))
        ]
        log_pz = Normal(self.prior_z_loc, self.prior_z_scale).log_prob(z).sum(-1)
        log_qz = self.encoder.q_z(*z_params).log_prob(z).sum(-1)
        return -(sum(log_px) - (log_qz - log_pz)).squeeze(0).sum(0)


def natural(v: Tensor) -> Tensor:
    return torch.sqrt(0.5 / (1e-15 + F.softplus(v)))


def mixed_columns() -> tuple[Tensor, Tensor]:
    columns = [randn(8), randn(8, seed=6).exp(), bits(8), tokens(3, 8).float()]
    return torch.stack(columns, 1), (rand(8, 4, seed=9) < 0.8).float()


# ------------------------------------------------------------------------------------------------ without a head


class VIME(nn.Module):
    """Numpy hides values of a table; the predictions of several such tables shall not vary."""

    def __init__(self, n: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.input_layer, self.mask_layer, self.feat_layer = nn.Linear(n, n), nn.Linear(n, n), nn.Linear(n, n)
        self.semi = nn.Sequential(nn.Linear(n, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.input_layer(x).relu()
        return self.mask_layer(h).sigmoid(), self.feat_layer(h).sigmoid()


def hidden_values(x: Tensor, p: float) -> Tensor:
    mask = torch.from_numpy(np.random.default_rng(3).binomial(1, p, x.shape)).float()
    shuffled = torch.stack([column[torch.randperm(len(x))] for column in x.T], 1)
    return x * (1 - mask) + shuffled * mask


def vime_steps(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """The step on tables without labels, and the one with them."""
    x_tilde = hidden_values(x, 0.113)
    out_mask, out_feat = model(x_tilde)
    own = F.binary_cross_entropy(out_mask, (x != x_tilde).float()) + 9.83 * F.mse_loss(out_feat, x)
    several = torch.stack([model.semi(model.input_layer(hidden_values(x, 0.113))) for _ in range(3)])
    return own + F.cross_entropy(model.semi(model.input_layer(x)), y) + 0.313 * several.var(dim=0).mean()


class MaskedCoupling(nn.Module):
    def __init__(self, dim: int, hidden: int, odd: bool) -> None:
        super().__init__()
        self.mask = torch.zeros(1, dim)
        self.mask[0, 0 if odd else 1 :: 2] = 1
        self.s = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim // 2), nn.Tanh())
        self.t = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim // 2))

    def forward_flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * self.mask
        s, t = self.s(kept), self.t(kept)
        return kept + (1 - self.mask) * (x * s.exp() + t), s.sum(dim=1)


class PointFlow(nn.Module):
    """A flow of points on the plane to a Normal with fixed numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._prior_dist = Normal(torch.tensor(0.0), torch.tensor(1.0))
        self.layers = nn.ModuleList([MaskedCoupling(2, 8, i % 2 == 0) for i in range(3)])

    def log_likelihood(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for layer in self.layers:
            x, log_det = layer.forward_flow(x)
            total = total + log_det
        return self._prior_dist.log_prob(x).sum(dim=1) + total


def doubled(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(),
        nn.Conv2d(n_out, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(),
    )  # fmt: skip


class SegmentingUNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = doubled(3, 4), doubled(4, 6), doubled(6, 6)
        self.up1, self.up2, self.outc = doubled(12, 4), doubled(8, 4), nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.inc(x)
        second = self.down1(F.max_pool2d(first, 2))
        h = self.down2(F.max_pool2d(second, 2))
        for layer, skip in ((self.up1, second), (self.up2, first)):
            h = layer(torch.cat([skip, F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)], 1))
        return self.outc(h)


def dice_loss(model: Any, x: Tensor, target: Tensor) -> Tensor:
    soft = F.softmax(model(x), dim=1)
    wanted = F.one_hot(target, soft.shape[1]).movedim(-1, 1).float()
    dims = (1, 2, 3)
    return torch.mean(1.0 - 2.0 * (soft * wanted).sum(dims) / ((soft + wanted).sum(dims) + 1e-6))


class DCGAN(nn.Module):
    """Generator and discriminator, which stand side by side in the script."""

    def __init__(self, z: int = 5) -> None:
        super().__init__()
        self.z = z
        self.netG = nn.Sequential(
            nn.ConvTranspose2d(z, 6, 4, 1, 0, bias=False), nn.BatchNorm2d(6), nn.ReLU(True),
            nn.ConvTranspose2d(6, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        self.netD = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
            nn.Flatten(0),
        )  # fmt: skip
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(m.weight, 0.0, 0.02)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight, 1.0, 0.02)


def dcgan_steps(model: Any, real: Tensor) -> Tensor:
    """The discriminator's loss and the generator's, in one."""
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
    fake = model.netG(torch.randn(len(real), model.z, 1, 1))
    of_both = F.binary_cross_entropy(model.netD(real), ones) + F.binary_cross_entropy(model.netD(fake.detach()), zeros)
    return of_both + F.binary_cross_entropy(model.netD(fake), ones)


# fmt: off
CASES = (
    PublicCase(
        "VAE of a note (julyfun)",
        Retold("julyfun/how-to", "179e5ba21c16144f3f081369bac1660948802e62", "notes/julyfun/大四上/机器学习/VAE.md"),
        NoteVAE, images(1), (posterior("encoder.fc_logvar"),), summed_elbo,
        truth="Sampling: exp(0.5 logvar); KL summed",
    ),
    PublicCase(
        "VAE of a lesson (martinyanev94)",
        Retold(
            "martinyanev94/generative-ai-projects", "9045291f85c8fd7ab73371e3c0a935a336c7dc80",
            "Lesson_1_Introduction_To_Generative_Models/part_3_variational_autoencoder.py",
        ),
        LessonVAE, lambda: (bits(6, 16),), (posterior("encoder.fc22"),), summed_elbo,
        truth="reparameterize: exp(0.5 logvar); KL summed",
    ),
    PublicCase(
        "VAE with a mixture as its prior (nam-drun)",
        Retold(
            "nam-drun/sneak_peek_on_my_current_paper", "fa90cffe434cf36614634d17993a7fedf56cb302",
            "gen_models/hierarchical_VAE/hVAE_MogPrior.py",
        ),
        MixturePriorVAE, lambda: (randn(7, 12),), (posterior("q_phi.to_logvar"), prior("logvar_k")),
        mixture_prior_loss,
        truth="exp(0.5 v) of a log variance that is bounded by 10, and again in its density; the mixture's log "
        "variances are parameters, with the same bounds, in log_p_lambda_mog",
    ),
    PublicCase(
        "MultiScaleImageVAE",
        Retold(
            "A-Ravioli/ml-from-scratch", "928d28a70ae03c8744eb110a097799c41dd0336d",
            "06-generative-models/02-variational-autoencoders/03-hierarchical-vae/solutions/solution.py",
        ),
        MultiScaleVAE, images(size=8), tuple(posterior(f"encoders.{i}.logvar") for i in range(3)), multiscale_loss,
        truth="reparameterize: exp(0.5 logvar); HierarchicalLoss: a KL for each level, with free bits",
    ),
    PublicCase(
        "logvar diffusion",
        Retold("Francesco215/logvar_diffusion", "d5e947d2ef2c253933bff7703298b4e31f440135", "training.py"),
        CovarianceDenoiser, noisy_points, (), covariance_loss,
        truth="transform_G: a factor of a precision, with an off-diagonal element sinh(G). Hard to decide: its "
        "diagonal is an exponential, and no σ of an element",
    ),
    PublicCase(
        "SiT",
        Retold(
            "willisma/SiT", "a87098c365412edfa6c27946b8252fe27a9dec73", "models.py, transport/transport.py",
        ),
        SiT, lambda: (randn(3, 2, 4, 4), tokens(3, 3)), (), velocity_loss,
        truth="models.py forward: of the doubled output the second half, which learn_sigma is named for, is left over; "
        "its scales are those of layer norms",
    ),
    PublicCase(
        "DDPM with a learned variance (Michedev)",
        Retold(
            "Michedev/DDPMs-Pytorch", "4cdb52d5cee7070ddc243ecb781c9fe5e68d0ba8",
            "model/ddpm.py, model/distributions.py, model/unet.py, variance_scheduler/linear.py",
        ),
        VarianceDDPM, images(size=8, batch=6), (prior("denoiser_module.last", 3, 6, None),), ddpm_step,
        truth="distributions.py sigma_x_t: exp(v log β + (1 - v) log β̂), of the time step, taken for a scale: a slip. "
        "Second in the KL, at t = 0 a likelihood; with vlb, which the configuration leaves out by default. Hard to "
        "decide: raw values are the sum that the last block gives, so that the path is the block's",
    ),
    PublicCase(
        "ImageModel (0x3Q)",
        Retold("0x3Q/ImageModel", "0c182f57d5c39552c2f84d5034ca04f2177c777d", "models/main.py"),
        ImageModel, images(size=16, batch=3),
        (prior("hyper_decoder.convolution3", 4, 8, millionth), prior("hyper_scales", sigma=millionth)),
        rate_and_squares,
        truth="main.py RateLoss: scales as they are, bounded by 1e-6; those of the side information are parameters",
    ),
    PublicCase(
        "BCANFCodec",
        Retold(
            "NYCU-MAPL/B-CANF", "00198a1a371e97f3f0f7c316e189ef880f22c997",
            "src/modules/codecs.py, src/layers/entropy_models.py, src/util/math.py, src/util/quantization.py",
        ),
        ConditionalFlowCodec, lambda: (rand(3, 3, 16, 16), rand(3, 3, 16, 16, seed=9)),
        (prior("PA.4", 4, 8, bounded),), codec_loss,
        truth="entropy_models.py _set_condition: the second half of the condition, bounded by 0.11; no training script "
        "stands there, squares and the rate are the usual loss",
    ),
    PublicCase(
        "VAEGAN (gr-b)",
        Retold("gr-b/VAEGAN", "1214c6cc8c9652c3598d8c539e173f305be4b738", "vaegan.py, run.py"),
        PerceptualVAEGAN, lambda: (rand(5, 1, 4, 4),), (posterior("enc.std_head"),), perceptual_step,
        truth="run.py sample: exp(0.5 logvar); kl_loss: summed",
    ),
    PublicCase(
        "VaeGan (ry85)",
        Retold("ry85/VAE-GAN", "0e5ff84ca4e7e4ab402c7a2b5af4a103fedc3fd7", "network.py, main.py"),
        VaeGan, lambda: (2 * rand(4, 3, 8, 8) - 1,), (posterior("encoder.l_var"),), vaegan_encoder_step,
        truth="network.py reparameterize: logvar.mul(0.5).exp_(); loss: KL of the same, by rows",
    ),
    PublicCase(
        "TextTCN, variational",
        Retold(
            "asajatovic/bayesian-deep-learning-text-classification", "39f0816f38e9fa0639d36809216de39da923e651",
            "models_variational.py, variational/posteriors.py, variational/conv_variational.py, "
            "variational/linear_variational.py, variational/variational.py, train.py",
        ),
        TextTCN, lambda: (tokens(11, 9, 5), tokens(3, 5)),
        tuple(
            posterior(f"{layer}.{name}_scale", sigma=F.softplus)
            for layer in (*(f"tcn.{i}.conv{j}" for i in range(2) for j in (1, 2)), "fc") for name in ("weight", "bias")
        ), text_elbo,
        truth="posteriors.py stddev: softplus(scale), in rsample and log_prob. Hard to decide: kl_loss asks the "
        "model's children, and so the last layer alone; the convolutions' weights are drawn all the same",
    ),
    PublicCase(
        "BCNN",
        Retold(
            "peustr/bayesian-torch", "d030107fd5854f0b0a82a1ea67ff4986f7e564e0",
            "btorch/bnn/linear.py, btorch/bnn/conv.py, btorch/bnn/loss.py, btorch/bnn/model_utils.py, "
            "examples/bcnn_mnist.py",
        ),
        BCNN, lambda: (rand(6, 1, 10, 10), tokens(3, 6)),
        tuple(
            posterior(f"{layer}.{name}_var", sigma=barely_positive)
            for layer in ("conv1", "conv2", "fc1", "fc2") for name in ("weight", "bias")
        ), bcnn_loss,
        truth="linear.py: the parameter itself, bounded by 1e-8, draws; loss.py: the KL of the bare parameter, outside",
    ),
    PublicCase(
        "Supervised model (malt)",
        Retold(
            "yuanqing-wang/malt", "4e6e6278c148813e6ae37ae4211b59901ba66760",
            "malt/models/likelihood.py, malt/models/regressor.py, malt/models/representation.py, "
            "malt/models/supervised_model.py",
        ),
        SupervisedModel, lambda: (normalized_graphs(), randn(5, 6, 5), randn(5, 1, seed=9)),
        (likelihood("regressor.ff.2", 1, 2, torch.exp),), lambda model, *batch: model.loss(*batch),
        truth="likelihood.py condition: Normal(θ[:, 0], exp(θ[:, 1]))",
    ),
    PublicCase(
        "GaussianNoiseMLPNet",
        Retold(
            "IBM/UQ360", "8c9096e7a12e621db7d66b3610f1f8ecc3f4bd46",
            "uq360/models/heteroscedastic_mlp.py, uq360/models/noise_models/heteroscedastic_noise_models.py",
        ),
        GaussianNoiseMLP, lambda: (randn(7, 4), randn(7, 2, seed=9)),
        (likelihood("fc_log_var", sigma=root_softplus),), noisy_loss,
        truth="heteroscedastic_noise_models.py: the variance is log(1 + exp(v))",
    ),
    PublicCase(
        "PointNet VAE (mertyigit)",
        Retold(
            "mertyigit/PointNet-VAE", "01fe24b43f8011a7239e2ac22c39efedc909d6fd",
            "src/models/VAE.py, src/models/PointNetEncoder.py, src/utils/train.py, src/utils/calculate_loss.py",
        ),
        RepeatedLayerVAE, lambda: (randn(4, 3, 12),), (posterior("fc_logvar"),), cloud_loss,
        truth="VAE.py: exp(0.5 logvar) of the layer's third call, each on what the one before gave; KL averaged",
    ),
    PublicCase(
        "standVAE",
        Retold("Ssurf777/VAEforPointCloud", "1603188f85c0287578c795789c5e0063a508fcc9", "lib/vae_models.py"),
        SingleCloudVAE, lambda: (randn(12),), (posterior("enc_logvar"),), single_cloud_loss,
        truth="vae_models.py encode: exp(0.5 logvar); loss: KL summed; a batch is one cloud",
    ),
    PublicCase(
        "brain2vec",
        Retold(
            "JurYel/brain_eeg_brain2vec", "de0257b3486eff154ad39bf8c87a83d9caae3a6b", "brain2vec/train_brain2vec.py",
        ),
        BrainModel, lambda: (rand(3, 1, 4, 4, 4),), (posterior("autoencoder.quant_conv_log_sigma.conv"),), brain_step,
        truth="MONAI's AutoencoderKL: exp(clamp(v, -30, 20) / 2); KLDivergenceLoss: of σ squared, weighed by 1e-7",
    ),
    PublicCase(
        "VAE of lungs",
        Retold("EricEChing/VAE_10000", "f6451783de323ef336320d331749d0d4188ef166", "vae.py, vae_loss.py, train_vae.py"),
        LungVAE, lambda: (rand(4, 1, 8, 8, 8),), (posterior("encoder_fc22"),), lung_loss,
        truth="vae.py reparameterize: exp(0.5 logvar); KL averaged; its VQ-VAE, which its main calls, cannot be run",
    ),
    PublicCase(
        "VAE of SMILES (Ishan-Kumar2)",
        Retold("Ishan-Kumar2/Molecular_VAE_Pytorch", "9d1d5dfd49300f2c415e1fbbb7578f074d7b9fda", "model.py"),
        lambda: SmilesVAE(TwoLayers(20, 10, 8), TwoLayers(4, 10, 20), 4), lambda: (rand(6, 20),),
        (posterior("_enc_log_sigma", sigma=torch.exp),), smiles_loss,
        truth="model.py _sample_latent: exp(v) draws; latent_loss takes it for a variance: a slip. Squares, as its own "
        "check has them: a cross entropy of what a ReLU gives cannot be taken. Hard to decide: σ is what draws",
    ),
    PublicCase(
        "myVGAE",
        Retold(
            "zyx423/Graph-Embeddding", "e4363193249239beee3bfda921315e78ae9f320d",
            "GAE_VGAE/model_GAE.py, GAE_VGAE/my_VGAE.py, functions/data_process.py",
        ),
        DenseVGAE, lambda: (randn(7, 6), links_of()), (posterior("gconv2_std.0", sigma=torch.exp),), dense_vgae_loss,
        truth="model_GAE.py reparametrization: exp(v), a log σ; KL of the same, averaged",
    ),
    PublicCase(
        "DeepVGAE",
        Retold("Flawless1202/VGAE_pyG", "2d30131bf22a253e682c09ffc00c1b7115702b32", "model.py, train.py"),
        DeepVGAE, lambda: (randn(7, 6), links_of().nonzero().T), (posterior("encoder.gcn_logvar", sigma=torch.exp),),
        lambda model, *batch: model.loss(*batch),
        truth="PyG's VGAE: exp(min(v, 10)), a log σ; KL of the same, averaged. The raw values are those of the "
        "convolution behind its sum over the edges",
    ),
    PublicCase(
        "NBVAE",
        Retold(
            "czbiohub/drvish", "108dbf3cddd5b786be1afdde4d1e1b51c5d3f140",
            "src/drvish/models/nbvae.py, src/drvish/models/modules.py",
        ),
        NBVAE, lambda: (tokens(12, 7, 9).float(),),
        (posterior("encoder.fc.5", 5, 9, F.softplus), posterior("encoder.fc.5", 9, 10, F.softplus)), svi_loss,
        truth="modules.py Encoder: a softplus for the latent's and one for the library's σ, of one layer. Hard to "
        "decide: they are two heads, as each has its own expression, draw and prior; Pyro's densities are written out",
    ),
    PublicCase(
        "contrastiveVI",
        Retold(
            "suinleelab/contrastiveVI", "2835d2925f7ef60cdbebd2422435046cb9165f24",
            "contrastive_vi/module/contrastive_vi.py",
        ),
        ContrastiveVI, two_conditions,
        (
            posterior("z_encoder.var_encoder", sigma=root_of_exponential),
            posterior("s_encoder.var_encoder", sigma=root_of_exponential),
        ), lambda model, *batch: model.loss(*batch),
        truth="scvi's Encoder: a variance exp(v) + 1e-4, whose root draws and is in the KL; l_encoder is not called, "
        "as the library's size is observed",
    ),
    PublicCase(
        "Heterogeneous VAE",
        Retold(
            "adrianjav/heterogeneous_vaes", "3b6da2443b7437e7ca76d1467d864b2f065e54e1",
            "src/models/vae.py, src/distributions.py, src/probabilistc_model.py",
        ),
        HeterogeneousVAE, mixed_columns,
        (
            posterior("encoder.z_log_scale", sigma=F.softplus), likelihood("heads.0.head", 1, 2, natural),
            likelihood("heads.1.head", 1, 2, natural),
        ), lambda model, *batch: model.training_step(*batch),
        truth="vae.py q_z: softplus; unpack_params and Normal.to_params: sqrt(-0.5 / η₂), η₂ = -1e-15 - softplus(v). "
        "Hard to decide: a column is log-normal, and its scale the σ of a Normal all the same",
    ),
    PublicCase(
        "VIME",
        Retold("ficheindex/FinancialRiskPredictor", "fd692b8652785e6243a522ea590ea8e27d62d28c", "model/vime.py"),
        VIME, lambda: (rand(8, 6), tokens(3, 8)), (), vime_steps,
        truth="masks and predictions; torch.var is of several predictions",
    ),
    PublicCase(
        "Normalizing flow (ryoryon66)",
        Retold(
            "ryoryon66/normalizing_flow", "aa00f21c8012f2a0c60aacdd981381f2815980d2", "normalizing_flow.py, train.py",
        ),
        PointFlow, lambda: (randn(8, 2),), (), lambda model, x: -model.log_likelihood(x).mean(),
        truth="normalizing_flow.py: affine couplings, to a Normal of fixed numbers",
    ),
    PublicCase(
        "U-Net (lucyannasxi)",
        Retold(
            "lucyannasxi/Prostate-Cancer-Segmenter-MICCAI2019", "4389b8658ee5ae3217d6901d64dd0d690ae90582",
            "model.py, utils.py",
        ),
        SegmentingUNet, lambda: (rand(3, 3, 8, 8), tokens(3, 3, 8, 8)), (), dice_loss,
        truth="a segmentation",
    ),
    PublicCase(
        "DCGAN (murumura)",
        Retold(
            "murumura/DCGAN-pytorch", "67f1930ac49d2403511328b855fbe56c2891173a", "dcgan/dcgan.py, dcgan/train.py",
        ),
        DCGAN, lambda: (2 * rand(4, 1, 8, 8) - 1,), (), dcgan_steps,
        truth="a generator of given noise, and a discriminator",
    ),
)
# fmt: on
