"""A fifth look: images, tables, cells, molecules, anomalies, videos, medical images, recommenders and continual
learning, in our own words, sampled as an ordinary user's model would be.

The ten fields were fixed first. Of each, the first two repositories that its query names in order were taken that hold
a VAE-like model in PyTorch and are in no earlier look; their main model, with the loss of their training script.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned.

Images ("convolutional VAE CelebA faces pytorch"): `pravn/conv_VAE` passed (taken before), `noctrog/conv-vae` and
`bhpfelix/Variational-Autoencoder-PyTorch` taken. Tables ("tabular data VAE missing value imputation pytorch"):
`ImJaeSung/Imputers` (with both of its VAEs that no earlier look has) and `Optim-Lab/U-VAE` taken. Cells
("single cell RNA-seq VAE pytorch negative binomial"): `scvae/scvae` passed (TensorFlow),
`leonardogolinelli/Perturbation_Lab` and `haoyangz/scRNA_generative_model_example` taken. Molecules ("molecule VAE
SELFIES pytorch"): `MachineLearningLifeScience/corel` passed (the model is gone from it), `PingchuanMa/SGA` passed (a
prompt), `krobasky/toy-selfies` and `aspuru-guzik-group/selfies` taken. Anomalies ("VAE anomaly detection network
intrusion reconstruction probability pytorch"): `nanithkumarigopal/VAE` and `heuer-ja/uni23ss_VAE-anomaly-detection`
taken. Videos ("stochastic video prediction VAE learned prior LSTM pytorch"): `zhang-liyi/svg` passed (TensorFlow),
`chaehunshin/svp` passed (taken before), `holmdk/holmdk.github.io` passed (a page), `frankkn/NYCU_DLP` and
`AIS-Bonn/MSPred`, which the next excerpts are of, taken. Medical images ("VAE
medical image segmentation brain tumor autoencoder branch pytorch"): `Kasper1616/Generative-Brain-MRI-Segmentation`
passed (Pyro), `douzog/VAE` taken; no other is named, so of issues ("VAE brain MRI pytorch segmentation autoencoder
regularization NvNet") the first, `Project-MONAI/MONAI`, taken. Recommenders ("variational autoencoder collaborative
filtering recommender pytorch MultiVAE"): `cheng-w-liu/computational-notes` taken,
`MaurizioFD/RecSys2019_DeepLearning_Evaluation` passed (TensorFlow), `pyy0715/vae-cf-pyorch` passed (taken before),
`cydonia999/variational-autoencoders-for-collaborative-filtering-pytorch` taken. Generative replay ("generative replay
VAE continual learning pytorch"): `kuc2477/pytorch-deep-generative-replay` became a control (a GAN), `stapaw/hvae` and
`MatthiasKoh/Investigate-the-forgetting-of-neural-networks` taken. Variational continual learning ("variational
continual learning bayesian layer weights pytorch"): `JamesCraster/UncertaintyInDL` and `Alaya-in-Matrix/BNN` taken.
Controls, as the field's best known code: `gusye1234/LightGCN-PyTorch`, `dreamquark-ai/tabnet`,
`ndrplz/ConvLSTM_pytorch`, and the GAN above.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, StudentT, kl_divergence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import bce_and_kl, draw_half, relu_half
from public.third_images import bits, images, kl_to_unit, likelihood, posterior, prior


def training_step(model: Any, x: Tensor) -> Tensor:
    """The loss of a model that was a Lightning module."""
    return model.training_step(x, 0)


# ------------------------------------------------------------------------------------------------ images


class FaceVAE(nn.Module):
    """Its noise is NumPy's, one vector for the whole batch; the log variance passes a leaky ReLU and a dropout."""

    def __init__(self, input_shape: tuple[int, int, int], z_dim: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder_conv = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(),
        )  # fmt: skip
        self.conv_out_shape = self.encoder_conv(torch.zeros(1, *input_shape)).size()
        flat = int(np.prod(self.conv_out_shape))
        self.mu = nn.Sequential(nn.Linear(flat, z_dim), nn.LeakyReLU(), nn.Dropout(0.2))
        self.log_var = nn.Sequential(nn.Linear(flat, z_dim), nn.LeakyReLU(), nn.Dropout(0.2))
        self.decoder_linear = nn.Sequential(nn.Linear(z_dim, flat), nn.LeakyReLU(), nn.Dropout(0.2))
        self.decoder_conv = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), nn.ConvTranspose2d(6, 4, 3, stride=1, padding=1),
            nn.BatchNorm2d(4), nn.LeakyReLU(),
            nn.UpsamplingNearest2d(scale_factor=2), nn.ConvTranspose2d(4, 3, 3, stride=1, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def sampling(self, mu: Tensor, log_var: Tensor) -> Tensor:
        epsilon = torch.Tensor(np.random.normal(size=(self.z_dim), scale=1.0))
        return mu + epsilon * torch.exp(log_var / 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.encoder_conv(x).flatten(1)
        mu, log_var = self.mu(h), self.log_var(h)
        h = self.decoder_linear(self.sampling(mu, log_var))
        return [mu, log_var, self.decoder_conv(h.view(len(h), *self.conv_out_shape[1:]))]


def face_loss(model: Any, x: Tensor) -> Tensor:
    mu, log_var, images_out = model(x)
    kl = -0.5 * torch.mean(1 + log_var - mu.pow(2) - torch.exp(log_var))
    return kl + torch.mean((images_out - x) ** 2) * 10000.0


def leaky_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.leaky_relu(v))


class PaddedVAE(nn.Module):
    """Upsampling and replicated borders; the KL is computed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.bn1 = nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4)
        self.e2, self.bn2 = nn.Conv2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(24, 5), nn.Linear(24, 5)
        self.d1 = nn.Linear(5, 32)
        self.up1, self.pd1 = nn.UpsamplingNearest2d(scale_factor=2), nn.ReplicationPad2d(1)
        self.d2, self.bn6 = nn.Conv2d(8, 4, 3, 1), nn.BatchNorm2d(4, 1.0e-3)
        self.up2, self.pd2 = nn.UpsamplingNearest2d(scale_factor=2), nn.ReplicationPad2d(1)
        self.d3 = nn.Conv2d(4, 3, 3, 1)
        self.leakyrelu = nn.LeakyReLU(0.2)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        sigma = (0.5 * v).exp_()
        return torch.FloatTensor(sigma.shape).normal_().mul_(sigma).add_(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.leakyrelu(self.bn1(self.e1(x)))
        h = self.leakyrelu(self.bn2(self.e2(h))).view(-1, 24)
        mu, logvar = self.fc1(h), self.fc2(h)
        h = torch.relu(self.d1(self._draw(mu, logvar))).view(-1, 8, 2, 2)
        h = self.leakyrelu(self.bn6(self.d2(self.pd1(self.up1(h)))))
        return torch.sigmoid(self.d3(self.pd2(self.up2(h)))), mu, logvar


def padded_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    element = mu.pow(2).add_(logvar.exp()).mul_(-1).add_(1).add_(logvar)
    return F.binary_cross_entropy(recon, x) + torch.sum(element).mul_(-0.5)


# ------------------------------------------------------------------------------------------------ tables


def orthogonal_weights(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".weight"):
            nn.init.orthogonal_(parameter)


class MIWAE(nn.Module):
    """Importance weighted, of densities throughout; the continuous columns are of Student's t."""

    def __init__(self, num_continuous: int, num_categories: tuple[int, ...], latent: int = 2, k: int = 4) -> None:
        super().__init__()
        self.num_continuous, self.num_categories, self.latent_dim, self.k = num_continuous, num_categories, latent, k
        width = 3 * num_continuous + sum(num_categories)
        columns = num_continuous + len(num_categories)
        self.encoder_layer = nn.Sequential(
            nn.Linear(columns, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2 * latent)
        )
        self.decoder_layer = nn.Sequential(
            nn.Linear(latent, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, width)
        )
        orthogonal_weights(self)

    def miwae_loss(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, d, p, k = len(x), self.latent_dim, self.num_continuous, self.k
        out = self.encoder_layer(x)
        q = Independent(Normal(loc=out[..., :d], scale=nn.Softplus()(out[..., d : (2 * d)]) + 0.001), 1)
        z = q.rsample(torch.Size([k]))
        decoded = self.decoder_layer(z.reshape([batch * k, d]))
        scales = nn.Softplus()(decoded[..., p : (2 * p)]) + 0.001
        freedom = nn.Softplus()(decoded[..., (2 * p) : (3 * p)]) + 3
        logit = decoded[:, (3 * p) :]
        flat = x[:, :p].repeat([k, 1]).reshape(-1, 1)
        seen = mask[:, :p].repeat([k, 1])
        log_px = StudentT(
            loc=decoded[..., :p].reshape(-1, 1), scale=scales.reshape(-1, 1), df=freedom.reshape(-1, 1)
        ).log_prob(flat)
        log_px = torch.sum(log_px.reshape(batch * k, p) * seen, dim=1).reshape(k, batch)
        p_z = Independent(Normal(loc=torch.zeros(d), scale=torch.ones(d)), 1)
        log_pz, log_q = p_z.log_prob(z), q.log_prob(z)
        seen_classes = mask[:, p:].to(torch.bool).repeat([k, 1])
        disc_loss, start = torch.tensor(0.0), 0
        for i, n in enumerate(self.num_categories):
            target = x[:, p + i].to(torch.long).repeat([k])
            if seen_classes[:, i].sum() == 0:
                continue
            kept = seen_classes[:, i]
            disc_loss = disc_loss + F.cross_entropy(logit[:, start : start + n][kept], target[kept] - 1)
            start += n
        return -torch.mean(torch.logsumexp(log_px + log_pz - log_q, dim=0)), disc_loss


def softplus_0001(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.001


def miwae_loss(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    neg_bound, disc_loss = model.miwae_loss(x, mask)
    return neg_bound + disc_loss


def miwae_rows() -> tuple[Tensor, Tensor]:
    """Three continuous columns and two of classes, which are counted from 1; a zero where one is missing."""
    columns = torch.cat([randn(8, 3), 1 + tokens(3, 8, 1).float(), 1 + tokens(2, 8, 1, seed=9).float()], 1)
    mask = (rand(8, 5) < 0.7).float()
    return columns * mask, mask


class UVAE(nn.Module):
    """Quantile functions, scored by their CRPS; a prior whose mean is learned, and its variance a number."""

    def __init__(self, cont_dim: int = 2, categories: tuple[int, ...] = (2, 3), latent: int = 3) -> None:
        super().__init__()
        self.cont_dim, self.categories, self.latent_dim = cont_dim, categories, latent
        self.prior_var, self.beta, self.threshold = 0.1, 0.1, 1e-8
        self.disc_dim = sum(categories)
        p = 2 * cont_dim + self.disc_dim + len(categories)
        hidden = cont_dim + self.disc_dim
        self.encoder = nn.Sequential(
            nn.Linear(p, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, latent * 2)
        )
        self.delta = torch.arange(0, 1.5, step=0.5).view(1, -1)
        self.M = self.delta.size(1) - 1
        self.decoder = nn.Sequential(
            nn.Linear(latent, 8), nn.ELU(), nn.Linear(8, 12), nn.ELU(),
            nn.Linear(12, cont_dim * (1 + (self.M + 1)) + self.disc_dim),
        )  # fmt: skip
        self.prior = nn.Sequential(nn.Linear(p, hidden), nn.ELU(), nn.Linear(hidden, latent))

    def get_prior(self, conditional: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.prior(conditional)
        return mean, (self.prior_var * torch.ones(mean.shape)).log()

    def quantile_parameter(self, z: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        h = self.decoder(z)
        logit, spline = h[:, -self.disc_dim :], h[:, : -self.disc_dim]
        parts = torch.split(spline, 1 + (self.M + 1), dim=1)
        gamma = [part[:, [0]] for part in parts]
        slopes = [torch.cat([torch.zeros_like(gamma[0]), torch.relu(part[:, 1:])], dim=1) for part in parts]
        return gamma, [b[:, 1:] - b[:, :-1] for b in slopes], logit

    def quantile_inverse(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        knots = torch.relu(self.delta.t() - self.delta)
        at_knots = gamma + beta @ knots.t()
        below = torch.where(at_knots <= x, at_knots, torch.zeros(())).bool().float()
        alpha = x - gamma + (below * beta * self.delta).sum(dim=1, keepdim=True)
        alpha = alpha / ((below * beta).sum(dim=1, keepdim=True) + self.threshold)
        return torch.clip(alpha, self.threshold, 1)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        mean, logvar = torch.split(self.encoder(x), self.latent_dim, dim=1)
        z = mean + torch.exp(logvar / 2) * torch.randn(mean.size(0), self.latent_dim)
        return (z, mean, logvar, *self.quantile_parameter(z))


def masked_columns(model: UVAE, batch: Tensor, mask: Tensor) -> Tensor:
    """What is not missing, and an indicator; of a class, one more for it."""
    columns = [torch.where(mask, batch, 0.0)[:, : model.cont_dim], (~mask).float()[:, : model.cont_dim]]
    for j, n in enumerate(model.categories):
        column, kept = batch[:, model.cont_dim + j], mask[:, model.cont_dim + j]
        columns.append(F.one_hot(torch.where(kept, column, float(n)).long(), num_classes=n + 1).float())
    return torch.cat(columns, 1)


def uvae_loss(model: Any, batch: Tensor) -> Tensor:
    """Some of what is known is hidden from the prior, and the decoder is scored on just that."""
    mask = torch.rand_like(batch) > torch.rand(batch.size(0), 1)
    known = ~batch.isnan()
    filled = batch.nan_to_num(0.0)
    scored = known & ~mask
    _, mean, logvar, gamma, beta, logit = model(masked_columns(model, filled, known))
    prior_mean, prior_logvar = model.get_prior(masked_columns(model, filled, known & mask))
    recon = torch.zeros(())
    for j in range(model.cont_dim):
        x = torch.where(scored[:, j], filled[:, j], 0.0).unsqueeze(1)
        alpha = model.quantile_inverse(x, gamma[j], beta[j])
        later = torch.maximum(alpha, model.delta)
        term = (1 - model.delta.pow(3)) / 3 - model.delta - later.pow(2) + 2 * later * model.delta
        crps = (2 * alpha) * x + (1 - 2 * alpha) * gamma[j] + (beta[j] * term).sum(dim=1, keepdim=True)
        recon = recon + (0.5 * crps)[scored[:, j]].sum() / len(batch)
    start = 0
    for j, n in enumerate(model.categories):
        kept = scored[:, model.cont_dim + j]
        cross = F.cross_entropy(logit[:, start : start + n][kept], filled[:, model.cont_dim + j].long()[kept])
        if not cross.isnan():
            recon = recon + cross
        start += n
    kl = (torch.pow(mean - prior_mean, 2) / prior_logvar.exp()).sum(dim=1)
    kl = kl + prior_logvar.sum(dim=1) - logvar.sum(dim=1)
    kl = kl + (logvar.exp() / prior_logvar.exp()).sum(dim=1) - model.latent_dim
    return recon + model.beta * (0.5 * kl).mean()


def uvae_rows() -> tuple[Tensor]:
    batch = torch.cat([randn(8, 2), tokens(2, 8, 1).float(), tokens(3, 8, 1, seed=9).float()], 1)
    return (torch.where(rand(8, 4) < 0.2, float("nan"), batch),)


class NotMIWAE(nn.Module):
    """Models what is missing, too: missing columns are drawn from the likelihood, and the mask is classified of all."""

    def __init__(self, num_continuous: int, num_categories: tuple[int, ...], latent: int = 2, k: int = 4) -> None:
        super().__init__()
        self.num_continuous, self.num_categories, self.latent_dim, self.k = num_continuous, num_categories, latent, k
        columns, classes = num_continuous + len(num_categories), sum(num_categories)
        self.encoder_layer = nn.Sequential(
            nn.Linear(columns, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2 * latent)
        )
        self.decoder_layer = nn.Sequential(
            nn.Linear(latent, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2 * num_continuous + classes)
        )
        self.mask_layer = nn.Linear(num_continuous + classes, columns)
        orthogonal_weights(self)

    def loss_function(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, d, p, k = len(x), self.latent_dim, self.num_continuous, self.k
        out = self.encoder_layer(x)
        q = Independent(Normal(loc=out[..., :d], scale=nn.Softplus()(out[..., d : (2 * d)]) + 0.001), 1)
        z = q.rsample(torch.Size([k]))
        decoded = self.decoder_layer(z.reshape([k * batch, d]))
        means, scales = decoded[..., :p], nn.Softplus()(decoded[..., p : (2 * p)]) + 0.001
        data = x[:, :p].repeat([k, 1]).reshape(-1, 1)
        seen = mask[:, :p].repeat([k, 1])
        n = len(means.reshape(-1, 1))
        noise = Independent(Normal(loc=torch.zeros(n), scale=torch.ones(n)), 1).sample(torch.Size([1]))
        drawn = means.reshape(-1, 1) + noise.reshape(-1, 1) * scales.reshape(-1, 1)
        filled = data.clone()
        missing = ~seen.reshape(-1, 1)
        filled[missing] = drawn[missing]
        logit, start, classes = decoded[:, (2 * p) :], 0, []
        for i, width in enumerate(self.num_categories):
            one_hot = F.one_hot(x[:, p + i].long(), num_classes=width).float().repeat([k, 1])
            unseen = ~mask[:, p + i].repeat([k])
            one_hot[unseen] = F.gumbel_softmax(logit[:, start : start + width], hard=True)[unseen]
            classes.append(one_hot)
            start += width
        mask_logit = self.mask_layer(torch.cat([filled.reshape(-1, p), *classes], dim=-1))
        log_ps = -F.binary_cross_entropy_with_logits(mask_logit, mask.repeat([k, 1]).float(), reduction="none")
        log_px = Normal(loc=means.reshape(-1, 1), scale=scales.reshape(-1, 1)).log_prob(data)
        log_px = torch.sum(log_px.reshape(batch * k, p) * seen, dim=1).reshape(k, batch)
        p_z = Independent(Normal(loc=torch.zeros(d), scale=torch.ones(d)), 1)
        log_pz, log_q = p_z.log_prob(z), q.log_prob(z)
        bound = torch.logsumexp(log_ps.sum(-1).reshape(k, batch) + log_px + log_pz - log_q, dim=0)
        disc_loss, start = torch.tensor(0.0), 0
        for i, width in enumerate(self.num_categories):
            target, unseen = x[:, p + i].long().repeat([k]), ~mask[:, p + i].repeat([k])
            if unseen.sum() > 0:
                disc_loss = disc_loss + F.cross_entropy(logit[:, start : start + width][unseen], target[unseen])
            start += width
        return -torch.mean(bound), disc_loss


def not_miwae_loss(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    neg_bound, disc_loss = model.loss_function(x, mask)
    return neg_bound + disc_loss


def not_miwae_rows() -> tuple[Tensor, Tensor]:
    columns = torch.cat([randn(8, 3), tokens(3, 8, 1).float(), tokens(2, 8, 1, seed=9).float()], 1)
    mask = rand(8, 5) < 0.7
    return columns * mask, mask


# ------------------------------------------------------------------------------------------------ cells


def zinb(x: Tensor, mean: Tensor, dispersion: Tensor, pi: Tensor, eps: float = 1e-10) -> Tensor:
    """Negative logarithm of a zero-inflated negative binomial."""
    count = torch.lgamma(dispersion + eps) + torch.lgamma(x + 1.0) - torch.lgamma(x + dispersion + eps)
    count = count - dispersion * torch.log(dispersion + eps) - x * torch.log(mean + eps)
    count = count + (dispersion + x) * torch.log(dispersion + mean + eps)
    zero = -torch.log(pi + (1.0 - pi) * torch.exp(-count) + eps)
    return torch.where(x < 1e-8, zero, count - torch.log(1.0 - pi + eps))


class CellsEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc_mu, self.fc_logvar = nn.Linear(9, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        return self.fc_mu(h), self.fc_logvar(h)


class CellsDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 12)
        self.fc_mean, self.fc_disp, self.fc_pi = nn.Linear(12, 9), nn.Linear(12, 9), nn.Linear(12, 9)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(z))
        return F.relu(self.fc_mean(h)), F.relu(self.fc_disp(h)), torch.sigmoid(self.fc_pi(h))


class ZINBVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = CellsEncoder(), CellsDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = self.encoder(x)
        z = draw_half(mu, logvar)
        return (*self.decoder(z), mu, logvar, z)


def zinb_loss(model: Any, x: Tensor) -> Tensor:
    mean, disp, pi, mu, logvar, _ = model(x)
    return zinb(x, mean, disp, pi).mean() + 1e-3 * kl_to_unit(mu, logvar) / x.size(0)


def clipped_draw(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logvar = torch.clip(logvar, min=math.log(1e-3), max=10)
    std = torch.exp(0.5 * logvar)
    return mu, logvar, mu + torch.randn_like(std) * std


def clipped_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * torch.clip(v, min=math.log(1e-3), max=10))


class Layers(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(n_in, 10), nn.ReLU(), nn.Linear(10, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class GaussianLayers(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.network = Layers(n_in, 2 * n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.network(x).chunk(2, dim=-1)
        return clipped_draw(mu, logvar)


class LatentAndLibrary(nn.Module):
    def __init__(self, x_dim: int, z1_dim: int) -> None:
        super().__init__()
        self.x_to_z1, self.x_to_l = Layers(x_dim, 2 * z1_dim), Layers(x_dim, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z1_mu, z1_logvar, z1 = clipped_draw(*self.x_to_z1(x).chunk(2, dim=-1))
        l_mu, l_logvar, size = clipped_draw(*self.x_to_l(x).chunk(2, dim=-1))
        drawn = {"z1_sample": z1, "l_sample": torch.exp(torch.clip(size, max=10))}
        return {**drawn, "z1_mu": z1_mu, "z1_logvar": z1_logvar, "l_mu": l_mu, "l_logvar": l_logvar}


class Counts(nn.Module):
    def __init__(self, x_dim: int, z1_dim: int) -> None:
        super().__init__()
        self.z1_to_scale = nn.Sequential(Layers(z1_dim, x_dim), nn.Softmax(dim=-1))
        self.z1_to_h = Layers(z1_dim, x_dim)
        self.theta = nn.Parameter(torch.randn(x_dim))

    def forward(self, z1: Tensor, size: Tensor) -> dict[str, Tensor]:
        rate = torch.clip(size * self.z1_to_scale(z1), max=1e6)
        return {"px_rate": rate, "px_r": torch.exp(self.theta), "px_dropout": self.z1_to_h(z1)}


class CellTypeVAE(nn.Module):
    """Two latents and a library's size; z₁'s prior is of z₂ and the class, summed over all classes."""

    library_mean: Tensor
    library_logvar: Tensor
    y_prior: Tensor

    def __init__(self, x_dim: int = 9, y_dim: int = 3, z1_dim: int = 4, z2_dim: int = 2) -> None:
        super().__init__()
        self.x_to_z1_l, self.z1_l_to_x = LatentAndLibrary(x_dim, z1_dim), Counts(x_dim, z1_dim)
        self.z1_to_y = Layers(z1_dim, y_dim)
        self.z1_y_to_z2 = GaussianLayers(z1_dim + y_dim, z2_dim)
        self.z2_y_to_z1 = GaussianLayers(z2_dim + y_dim, z1_dim)
        self.register_buffer("library_mean", torch.tensor([2.5]))
        self.register_buffer("library_logvar", torch.tensor([-1.0]))
        self.register_buffer("y_prior", torch.tensor([[0.5, 0.3, 0.2]]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inferred = self.x_to_z1_l(x)
        generated = self.z1_l_to_x(inferred["z1_sample"], inferred["l_sample"])
        return {**inferred, **generated, "y_pred_prob": F.softmax(self.z1_to_y(inferred["z1_sample"]), dim=-1)}

    def loss(self, x: Tensor, y: Tensor, out: dict[str, Tensor]) -> Tensor:
        z1, n = out["z1_sample"], y.size(-1)
        recon = zinb(x, out["px_rate"], out["px_r"], torch.sigmoid(out["px_dropout"])).sum(dim=1)
        y_logit = self.z1_to_y(z1)
        y_loss = F.cross_entropy(y_logit, y, reduction="none")
        probs = F.softmax(y_logit, dim=-1)
        y_prior_loss = kl_divergence(Categorical(probs=probs), Categorical(probs=self.y_prior.repeat(len(probs), 1)))
        kl_q = Normal(out["z1_mu"], torch.exp(0.5 * out["z1_logvar"])).log_prob(z1).sum(dim=1)
        ys = F.one_hot(torch.arange(n), n).repeat_interleave(len(z1), dim=0)
        z1s = z1.repeat(n, 1)
        z2_mu, z2_logvar, z2 = self.z1_y_to_z2(torch.concat((z1s, ys), dim=1))
        p_mu, p_logvar, _ = self.z2_y_to_z1(torch.concat((z2, ys), dim=1))
        kl_p = -Normal(p_mu, torch.exp(0.5 * p_logvar)).log_prob(z1s).sum(dim=1)
        kl_p = (kl_p.view(n, -1).t() * probs).sum(dim=-1)
        unit = Normal(torch.zeros_like(z2_mu), torch.ones_like(z2_logvar))
        kl_z2 = kl_divergence(Normal(z2_mu, torch.exp(0.5 * z2_logvar)), unit).sum(dim=1)
        kl_z2 = (kl_z2.view(n, -1).t() * probs).sum(dim=-1)
        l_mu, l_logvar = out["l_mu"], out["l_logvar"]
        library = Normal(
            torch.ones_like(l_mu) * self.library_mean, torch.ones_like(l_mu) * torch.exp(0.5 * self.library_logvar)
        )
        kl_l = kl_divergence(Normal(l_mu, torch.exp(0.5 * l_logvar)), library)
        return torch.mean(recon + y_prior_loss + kl_p + kl_q + kl_z2 + kl_l + 100 * y_loss)

    def training_step(self, x: Tensor, y: Tensor, _: int) -> Tensor:
        return self.loss(x, y, self(x))


def cell_type_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.training_step(x, y, 0)


def counts(batch: int = 6, genes: int = 9) -> Tensor:
    return tokens(6, batch, genes).float()


# ------------------------------------------------------------------------------------------------ molecules


class ToySelfiesVAE(nn.Module):
    """A latent a token, of an embedding and one layer, whose mean and log variance both pass a ReLU in place."""

    def __init__(self, vocab_size: int = 11, embedding_dim: int = 8, latent_dim: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Embedding(vocab_size, embedding_dim, padding_idx=0), nn.Linear(embedding_dim, 2 * latent_dim),
            nn.ReLU(True),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, embedding_dim), nn.ReLU(True), nn.Linear(embedding_dim, vocab_size),
            nn.LogSoftmax(dim=-1),
        )  # fmt: skip

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        return mean, log_var

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x)
        return self.decoder(draw_half(mean, log_var)), mean, log_var

    def training_step(self, x: Tensor, _: int) -> Tensor:
        x_hat, mean, log_var = self(x)
        return F.nll_loss(x_hat.transpose(1, 2), x, ignore_index=0) + kl_to_unit(mean, log_var)


class SelfiesEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        self.encode_nn = nn.Sequential(
            nn.Linear(n_in, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU()
        )
        self.encode_mu, self.encode_log_var = nn.Linear(10, latent), nn.Linear(10, latent)

    @staticmethod
    def reparameterize(mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encode_nn(x)
        mu, log_var = self.encode_mu(h), self.encode_log_var(h)
        return self.reparameterize(mu, log_var), mu, log_var


class SelfiesDecoder(nn.Module):
    def __init__(self, latent: int, n_out: int) -> None:
        super().__init__()
        self.decode_RNN = nn.GRU(input_size=latent, hidden_size=8, num_layers=1, batch_first=False)
        self.decode_FC = nn.Sequential(nn.Linear(8, n_out))

    def forward(self, z: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        out, hidden = self.decode_RNN(z, hidden)
        return self.decode_FC(out), hidden


class SelfiesVAE(nn.Module):
    """Encoder and decoder are two models there; the decoder sees the same latent at every position."""

    def __init__(self, length: int = 5, alphabet: int = 7, latent: int = 4) -> None:
        super().__init__()
        self.vae_encoder = SelfiesEncoder(length * alphabet, latent)
        self.vae_decoder = SelfiesDecoder(latent, alphabet)


def selfies_loss(model: Any, batch: Tensor) -> Tensor:
    points, mus, log_vars = model.vae_encoder(batch.flatten(start_dim=1))
    points, hidden = points.unsqueeze(0), batch.new_zeros(1, len(batch), 8)
    out = torch.zeros_like(batch)
    for position in range(batch.shape[1]):
        line, hidden = model.vae_decoder(points, hidden)
        out[:, position, :] = line[0]
    recon = F.cross_entropy(out.reshape(-1, out.shape[2]), batch.reshape(-1, batch.shape[2]).argmax(1))
    return recon + 1e-5 * -0.5 * torch.mean(1.0 + log_vars - mus.pow(2) - log_vars.exp())


# ------------------------------------------------------------------------------------------------ anomalies


class BlobEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU())
        self.mu, self.logvar = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, blobs: Tensor) -> tuple[Tensor, ...]:
        features = self.fc(blobs)
        return tuple(head(features) for head in (self.mu, self.logvar))


class BlobDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10))

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(z)


class BlobVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = BlobEncoder(), BlobDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        return self.decoder(draw_half(mu, logvar)), mu, logvar


def blob_loss(model: Any, x: Tensor) -> Tensor:
    """Of the eleventh epoch: the KL's weight grows over twenty."""
    recon, mu, logvar = model(x)
    return F.mse_loss(recon, x) + 0.5 * -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())


class ProbabilisticVAE(nn.Module):
    """torch's distributions for the latent and for the data, of which a density is the anomaly's score."""

    def __init__(self, io_size: int = 12, latent_size: int = 4) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.prior = Normal(0, 1)
        half_size, quarter = io_size // 2, io_size // 4
        self.encoder = nn.Sequential(nn.Linear(io_size, half_size), nn.ReLU(), nn.Linear(half_size, quarter), nn.ReLU())
        self.latent_mu, self.latent_sigma = nn.Linear(quarter, latent_size), nn.Linear(quarter, latent_size)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, quarter), nn.ReLU(), nn.Linear(quarter, half_size), nn.ReLU(),
            nn.Linear(half_size, io_size), nn.ReLU(),
        )  # fmt: skip
        self.recon_mu, self.recon_sigma = nn.Linear(io_size, io_size), nn.Linear(io_size, io_size)

    def predict(self, x: Tensor) -> dict[str, Any]:
        h = self.encoder(x)
        dist = Normal(self.latent_mu(h), F.softplus(self.latent_sigma(h)))
        decoded = self.decoder(dist.rsample().view(len(x), self.latent_size))
        mu, sigma = self.recon_mu(decoded), F.softplus(self.recon_sigma(decoded))
        return {"latent_dist": dist, "recon_mu": mu, "recon_sigma": sigma}

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = self.predict(x.float())
        dist_recon = Normal(out["recon_mu"], out["recon_sigma"])
        log_lik = dist_recon.log_prob(x.view(dist_recon.scale.shape)).mean(dim=1).sum()
        kl = kl_divergence(out["latent_dist"], self.prior).mean(dim=0).sum()
        return {"kl": kl, "recon_loss": log_lik, "loss": kl - log_lik, **out}


# ------------------------------------------------------------------------------------------------ videos


class ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.leaky_relu = nn.LeakyReLU(inplace=True)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.leaky_relu(self.conv2(self.leaky_relu(self.conv1(x))))
        return out + (self.skip(x) if self.skip is not None else x)


class DepthConvBlock(nn.Module):
    """A depth-wise convolution, then a gated pair of 1 × 1 ones."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(n_in, n_in, 1), nn.LeakyReLU(negative_slope=0.01))
        self.depth_conv, self.conv2 = nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in), nn.Conv2d(n_in, n_out, 1)
        self.adaptor = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None
        self.conv, self.conv_out = nn.Conv2d(n_out, n_out * 4, 1), nn.Conv2d(n_out * 2, n_out, 1)
        self.relu = nn.LeakyReLU(negative_slope=0.1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = x if self.adaptor is None else self.adaptor(x)
        x = self.conv2(self.depth_conv(self.conv1(x))) + skipped
        first, second = self.conv(x).chunk(2, 1)
        return x + self.conv_out(first * self.relu(second))


class GaussianPredictor(nn.Sequential):
    """A Sequential that draws from what its own layers return."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            ResidualBlock(n_in, n_out), DepthConvBlock(n_out, n_out), nn.LeakyReLU(True),
            nn.Conv2d(n_out, n_out * 2, kernel_size=1),
        )  # fmt: skip

    def forward(self, img: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        mu, logvar = torch.chunk(super().forward(torch.cat([img, label], dim=1)), 2, dim=1)
        std = torch.exp(logvar / 2)
        return mu + torch.randn_like(std) * std, mu, logvar


class DecoderFusion(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(DepthConvBlock(n_in, n_in), ResidualBlock(n_in, n_out), nn.Conv2d(n_out, n_out, 1, 1))

    def forward(self, img: Tensor, label: Tensor, parm: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([img, label, parm], dim=1))


class PoseVideoVAE(nn.Module):
    """A slip: the frames are decoded from N(0, I), and the posterior's own draw is left."""

    def __init__(self, f_dim: int = 6, l_dim: int = 4, n_dim: int = 3) -> None:
        super().__init__()
        self.n_dim = n_dim
        self.frame_transformation = nn.Sequential(
            ResidualBlock(3, 4), DepthConvBlock(4, 4), nn.Conv2d(4, f_dim, 3, padding=1)
        )
        self.label_transformation = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 2, kernel_size=7), nn.BatchNorm2d(2), nn.LeakyReLU(True),
            ResidualBlock(2, l_dim),
        )  # fmt: skip
        self.Gaussian_Predictor = GaussianPredictor(f_dim + l_dim, n_dim)
        self.Decoder_Fusion = DecoderFusion(f_dim + l_dim + n_dim, 8)
        self.Generator = nn.Sequential(DepthConvBlock(8, 8), ResidualBlock(8, 4), nn.Conv2d(4, 3, 1))

    def training_one_step(self, img: Tensor, label: Tensor, beta: float) -> Tensor:
        img, label = img.permute(1, 0, 2, 3, 4), label.permute(1, 0, 2, 3, 4)
        out, mse, kld = img[0], torch.zeros(()), torch.zeros(())
        for i in range(1, len(img)):
            z = torch.FloatTensor(len(out), self.n_dim, *out.shape[-2:]).normal_()
            pose = self.label_transformation(label[i])
            before, truth = self.frame_transformation(out), self.frame_transformation(img[i])
            out = self.Generator(self.Decoder_Fusion(before, pose, z))
            mse = mse + F.mse_loss(out, img[i])
            _, mu, logvar = self.Gaussian_Predictor(truth, pose)
            kld = kld + kl_to_unit(mu, logvar) / len(out)
        return mse + kld * beta + 1e-8


def pose_loss(model: Any, img: Tensor, label: Tensor) -> Tensor:
    """The default of the kind of its annealing, 'None', is a weight of zero."""
    return model.training_one_step(img, label, 0.0)


class Ticking(nn.Module):
    """A recurrent part of one level: it fires every `period`-th frame, and repeats its last output between."""

    def __init__(self, n_in: int, hidden: int, period: int, layers: int = 1) -> None:
        super().__init__()
        self.hidden_size, self.period, self.counter = hidden, period, 0
        self.input_conv = nn.Conv2d(n_in, hidden, 3, padding=1)
        self.cell_list = nn.ModuleList([nn.Conv2d(2 * hidden, 4 * hidden, 3, padding=1) for _ in range(layers)])
        self.hidden: list[tuple[Tensor, Tensor]] | None = None
        self.last_output: Any = None

    def check_counters(self) -> bool:
        fires = self.counter == 0
        self.counter = self.period - 1 if fires else self.counter - 1
        return fires

    def recurrent(self, x: Tensor) -> Tensor:
        x = self.input_conv(x)
        if self.hidden is None:
            self.hidden = [(torch.zeros_like(x), torch.zeros_like(x)) for _ in self.cell_list]
        for i, cell in enumerate(self.cell_list):
            h, c = self.hidden[i]
            gate_in, forget, out, new = cell(torch.cat([x, h], 1)).chunk(4, 1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(gate_in) * torch.tanh(new)
            x = torch.sigmoid(out) * torch.tanh(c)
            self.hidden[i] = (x, c)
        return x


class ConvPredictor(Ticking):
    def __init__(self, n_in: int, n_out: int, hidden: int, period: int) -> None:
        super().__init__(n_in, hidden, period, layers=2)
        self.out_proj = nn.Sequential(nn.Conv2d(hidden, n_out, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        if self.check_counters():
            self.last_output = self.out_proj(self.recurrent(x))
        return self.last_output


class GaussianConvLSTM(Ticking):
    def __init__(self, n_in: int, n_out: int, hidden: int, period: int) -> None:
        super().__init__(n_in, hidden, period)
        self.mu_var_net = nn.Conv2d(hidden, n_out * 2, kernel_size=(3, 3), padding=1)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], bool]:
        if not self.check_counters():
            return self.last_output, False
        mu, logvar = torch.chunk(self.mu_var_net(self.recurrent(x)), chunks=2, dim=1)
        std = torch.exp(0.5 * logvar)
        self.last_output = (mu + std * torch.randn_like(std), mu, logvar)
        return self.last_output, True


def down(n_in: int, n_out: int, last: nn.Module | None = None) -> nn.Sequential:
    norm = nn.BatchNorm2d(n_out, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(n_in, n_out, 4, 2, 1), norm, last or nn.LeakyReLU(0.2, inplace=True))


def up(n_in: int, n_out: int) -> nn.Sequential:
    norm = nn.BatchNorm2d(n_out, track_running_stats=False)
    return nn.Sequential(nn.ConvTranspose2d(n_in, n_out, 4, 2, 1), norm, nn.LeakyReLU(0.2, inplace=True))


class FrameEncoder(nn.Module):
    def __init__(self, nf: int) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = down(3, nf), down(nf, nf * 2), down(nf * 2, nf * 4)
        self.c4 = down(nf * 4, nf * 8, nn.Tanh())

    def forward(self, x: Tensor) -> list[Tensor]:
        h1 = self.c1(x)
        h2 = self.c2(h1)
        h3 = self.c3(h2)
        return [h1, h2, h3, self.c4(h3)]


class FrameDecoder(nn.Module):
    def __init__(self, nf: int) -> None:
        super().__init__()
        self.upc1, self.upc2, self.upc3 = up(nf * 8, nf * 4), up(nf * 8, nf * 2), up(nf * 4, nf)
        self.upc4 = nn.Sequential(nn.ConvTranspose2d(nf * 2, 3, 4, 2, 1), nn.Sigmoid())

    def forward(self, h1: Tensor, h2: Tensor, h3: Tensor, h4: Tensor) -> tuple[Tensor, list[Tensor]]:
        d1 = self.upc1(h4)
        d2 = self.upc2(torch.cat([d1, h3], 1))
        d3 = self.upc3(torch.cat([d2, h2], 1))
        return self.upc4(torch.cat([d3, h1], 1)), [d1, d2]


class MSPred(nn.Module):
    """Three levels that tick at their own periods, each latent given those above, priors and posteriors of one kind.

    A slip: a prior is called when its posterior has ticked, and counts those calls, so that it ticks at the period's
    square.
    """

    def __init__(self, nf: int = 2, z_dim: int = 3, periods: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__()
        self.periods, self.num_preds, self.context = periods, 2, 5
        self.encoder, self.decoder = FrameEncoder(nf), FrameDecoder(nf)
        widths = [nf * 2 ** (n + 1) for n in range(3)]
        above = [w + z_dim * (2 - n) for n, w in enumerate(widths)]
        self.posterior = nn.ModuleList(GaussianConvLSTM(w, z_dim, 4, p) for w, p in zip(above, periods, strict=True))
        self.prior = nn.ModuleList(GaussianConvLSTM(w, z_dim, 4, p) for w, p in zip(above, periods, strict=True))
        self.predictor = nn.ModuleList(ConvPredictor(w + z_dim, w, 6, p) for w, p in zip(widths, periods, strict=True))
        self.decoder_heads = nn.ModuleList(
            nn.Sequential(
                *(up(nf * 2**h if i == 0 else nf, nf) for i in range(h + 1)), nn.Conv2d(nf, 1, 1), nn.Sigmoid()
            )
            for h in (1, 2)
        )

    def sample_latents(self, feats: list[Tensor], targets: list[Tensor], out: dict[str, Any], scored: bool) -> None:
        for h in (2, 1, 0):
            upper = [F.interpolate(z[-1], scale_factor=2 ** (i + 1)) for i, z in enumerate(out["latents"][h + 1 :])]
            (latent, mu_post, logvar_post), ticked = self.posterior[h](torch.cat([targets[h], *upper], dim=1))
            if not ticked:
                continue
            (_, mu_prior, logvar_prior), _ = self.prior[h](torch.cat([feats[h], *upper], dim=1))
            out["latents"][h].append(latent)
            if scored:
                out["normals"][h].append((mu_post, logvar_post, mu_prior, logvar_prior))

    def forward(self, x: Tensor) -> dict[str, Any]:
        for part in (*self.posterior, *self.prior, *self.predictor):
            part.counter, part.hidden = 0, None
        out: dict[str, Any] = {"latents": [[], [], []], "normals": [[], [], []], "preds": [[], [], []]}
        out["frames"] = [[], [], []]
        feats: list[Tensor] = []
        residuals: list[Tensor] = []
        for t in range(x.shape[1] - 1):
            targets = self.encoder(x[:, t + 1])[1:]
            if t < self.context:
                residuals = self.encoder(x[:, t])
                feats = residuals[1:]
            scored = t >= self.context - 1
            self.sample_latents(feats, targets, out, scored)
            feats = [level(torch.cat([feats[h], out["latents"][h][-1]], 1)) for h, level in enumerate(self.predictor)]
            pred, inner = self.decoder(residuals[0], *(f + r for f, r in zip(feats, residuals[1:], strict=True)))
            inputs = (pred, inner[1], inner[0])
            for h, (head, given) in enumerate(zip((None, *self.decoder_heads), inputs, strict=True)):
                if scored and t % self.periods[h] == 0 and len(out["preds"][h]) < self.num_preds:
                    out["preds"][h].append(given if head is None else head(given))
                    out["frames"][h].append(t + self.periods[h])
        return out


def mspred_loss(model: Any, frames: Tensor, heatmaps_1: Tensor, heatmaps_2: Tensor) -> Tensor:
    out = model(frames)
    loss = torch.zeros(())
    for h, (alpha, target) in enumerate(zip((1.0, 0.5, 0.5), (frames, heatmaps_1, heatmaps_2), strict=True)):
        loss = loss + alpha * F.mse_loss(torch.stack(out["preds"][h], dim=1), target[:, out["frames"][h]])
    for h in range(3):
        kept = out["normals"][h][: len(out["preds"][h])]
        m1, lv1, m2, lv2 = (torch.stack(part, dim=1) for part in zip(*kept, strict=True))
        sigma1, sigma2 = lv1.mul(0.5).exp(), lv2.mul(0.5).exp()
        kld = torch.log(sigma2 / sigma1) + (torch.exp(lv1) + (m1 - m2) ** 2) / (2 * torch.exp(lv2)) - 1 / 2
        loss = loss + 1e-4 * kld.sum() / kld.shape[0]
    return loss


# ------------------------------------------------------------------------------------------------ medical images


class PatchVAE(nn.Module):
    """Called log σ by its sampler, log variance by its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv5 = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 6, 4, 2, 1), nn.Conv2d(6, 10, 2, 1)
        self.fc11, self.fc12, self.fc2 = nn.Linear(10, 4), nn.Linear(10, 4), nn.Linear(4, 10)
        self.deconv1, self.deconv4 = nn.ConvTranspose2d(10, 6, 2), nn.ConvTranspose2d(6, 4, 4, 2, 1)
        self.deconv5 = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def reparameterize(self, mu: Tensor, log_sigma: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_sigma)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for conv in (self.conv1, self.conv2, self.conv5):
            x = F.relu(conv(x))
        flat = x.view((-1, 10))
        mu, log_sigma = self.fc11(flat), self.fc12(flat)
        x = F.relu(self.fc2(self.reparameterize(mu, log_sigma)).view(-1, 10, 1, 1))
        x = F.relu(self.deconv4(F.relu(self.deconv1(x))))
        return torch.sigmoid(self.deconv5(x)), mu, log_sigma


def patch_loss(model: Any, x: Tensor) -> Tensor:
    """Of the warm-up's middle."""
    reconstruction, mu, logvar = model(x)
    log_likelihood = -F.l1_loss(reconstruction, x, reduction="sum")
    elbo = log_likelihood - 0.5 * torch.sum(kl_to_unit(mu, logvar))
    return -elbo / len(x)


class VarAutoEncoder(nn.Module):
    """σ is turned into the draw in place, and into it alone when training; a slip without."""

    def __init__(self, latent_size: int = 2) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.InstanceNorm2d(4), nn.PReLU()),
            nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.InstanceNorm2d(6), nn.PReLU()),
            nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.InstanceNorm2d(8), nn.PReLU()),
        )
        self.intermediate = nn.Identity()
        self.decode = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.InstanceNorm2d(6), nn.PReLU()),
            nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), nn.InstanceNorm2d(4), nn.PReLU()),
            nn.Conv2d(4, 1, 3, 1, 1),
        )
        self.mu, self.logvar = nn.Linear(32, latent_size), nn.Linear(32, latent_size)
        self.decodeL = nn.Linear(latent_size, 32)

    def _shifted(self, mean: Tensor, v: Tensor) -> Tensor:
        sigma = (v / 2).exp()
        return (sigma * torch.randn_like(mean) if self.training else sigma).add_(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.intermediate(self.encode(x)).flatten(1)
        mu, logvar = self.mu(h), self.logvar(h)
        z = self._shifted(mu, logvar)
        h = F.relu(self.decodeL(z)).view(len(z), 8, 2, 2)
        return torch.sigmoid(self.decode(h)), mu, logvar, z


# ------------------------------------------------------------------------------------------------ recommenders


def tanh_between(layers: nn.ModuleList, h: Tensor) -> Tensor:
    *hidden, last = layers
    for layer in hidden:
        h = layer(h).tanh()
    return last(h)


class NotesMultiVAE(nn.Module):
    def __init__(self, dims: tuple[int, ...] = (16, 10, 4)) -> None:
        super().__init__()
        self.latent_dim = dims[-1]
        down_to, up_from = [*dims[:-1], dims[-1] * 2], dims[::-1]
        self.encoder_layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(down_to)])
        self.decoder_layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(up_from)])
        self.dropout_layer = nn.Dropout(0.2)
        for layer in (*self.encoder_layers, *self.decoder_layers):
            nn.init.xavier_normal_(layer.weight.data)
            nn.init.normal_(layer.bias.data)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = tanh_between(self.encoder_layers, self.dropout_layer(F.normalize(x)))
        return h[:, : self.latent_dim], h[:, self.latent_dim :]

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        return mean + (v / 2).exp() * torch.randn_like(mean) if self.training else mean

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return tanh_between(self.decoder_layers, self._draw(mu, logvar)), mu, logvar


def notes_loss(model: Any, x: Tensor) -> Tensor:
    x_tilde, mu, logvar = model(x)
    bce = -torch.mean(torch.sum(x * F.log_softmax(x_tilde, 1), dim=1))
    return bce - 0.5 * torch.mean(torch.sum(1.0 + logvar - logvar.exp() - mu.pow(2), dim=1))


class RatingsEncoder(nn.Module):
    def __init__(self, items: int, latent: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=0.5, inplace=False)
        self.linear_1, self.linear_2 = nn.Linear(items, 10), nn.Linear(10, latent * 2)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu_q, logvar_q = torch.chunk(self.linear_2(self.tanh(self.linear_1(self.dropout(x)))), chunks=2, dim=1)
        return mu_q, logvar_q


class RatingsDecoder(nn.Module):
    def __init__(self, items: int, latent: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.tanh = nn.Linear(latent, 10), nn.Linear(10, items), nn.Tanh()

    def forward(self, z: Tensor) -> Tensor:
        return self.linear_2(self.tanh(self.linear_1(z)))


class RatingsMultiVAE(nn.Module):
    """The KL is the forward's; conditions are possible, and none by default."""

    def __init__(self, items: int = 16, latent: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = RatingsEncoder(items, latent), RatingsDecoder(items, latent)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight.data)
                layer.bias.data.normal_(0.0, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu_q, logvar_q = self.encoder.forward(F.normalize(x, p=2, dim=1))
        std_q = torch.exp(0.5 * logvar_q)
        kl = torch.mean(torch.sum(0.5 * (-logvar_q + torch.exp(logvar_q) + mu_q**2 - 1), dim=1))
        epsilon = torch.randn_like(std_q, requires_grad=False)
        sampled_z = mu_q + epsilon * std_q if self.training else mu_q
        return self.decoder.forward(sampled_z), kl, mu_q, std_q, epsilon, sampled_z


def ratings_loss(model: Any, x: Tensor) -> Tensor:
    logits, kl = model(x)[:2]
    return -torch.mean(torch.sum(F.log_softmax(logits, dim=1) * x, dim=1)) + 0.2 * kl


# ------------------------------------------------------------------------------------------------ generative replay


def gelu_layers(*dims: int) -> nn.Module:
    """Batch norm after each activation, and an identity after the last layer."""
    parts = [nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.BatchNorm1d(b)) for a, b in pairwise(dims[:-1])]
    return nn.Sequential(*parts, nn.Sequential(nn.Linear(dims[-2], dims[-1]), nn.Identity()))


class GeluMLP(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.model = gelu_layers(*dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ReplayEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, a, 3, 1, padding="same"), nn.GELU(), nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b),
                    nn.GELU(),
                )
                for a, b in ((3, 4), (4, 6))
            )
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class ReplayDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(6, 6, 3, 1, padding="same"), nn.GELU(), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1),
                nn.BatchNorm2d(4), nn.GELU(),
            ),
            nn.Sequential(
                nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 3, 3, padding=1),
                nn.Sigmoid(),
            ),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def low_frequencies(x: Tensor, k: int) -> Tensor:
    """Images of their first cosine coefficients, whose two indices sum to k at most."""
    n = x.shape[-1]
    i = torch.arange(n).float()
    basis = torch.cos(math.pi / n * torch.outer(i, i + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.t() @ ((basis @ x @ basis.t()) * (i[:, None] + i <= k)) @ basis


class DctHVAE(nn.Module):
    """Two latents; the posterior of the lower is the prior's with a difference. The upper alone makes a blurred one."""

    def __init__(self, latent_dim: int = 3) -> None:
        super().__init__()
        d, size = latent_dim, 24
        self.encoder, self.decoder = ReplayEncoder(), ReplayDecoder()
        self.fc_mu, self.fc_var = nn.Linear(size, d), nn.Linear(size, d)
        self.nn_r_2 = GeluMLP(size, size, size, size)
        self.nn_delta_1 = GeluMLP(size, size, size, 2 * (d * 2))
        self.nn_delta_2 = GeluMLP(size, size, size, 2 * d)
        self.nn_z_1 = GeluMLP(d, size, size, 2 * (d * 2))
        self.decoder_input, self.decoder_input_dct = nn.Linear(2 * d, size), nn.Linear(d, size)

    def decode(self, h: Tensor) -> Tensor:
        return self.decoder(h.view(-1, 6, 2, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        r_1 = self.encoder(x).flatten(start_dim=1)
        delta_mu_1, delta_log_var_1 = torch.chunk(self.nn_delta_1(r_1), 2, dim=1)
        delta_log_var_1 = F.hardtanh(delta_log_var_1, -7.0, 2.0)
        delta_mu_2, delta_log_var_2 = torch.chunk(self.nn_delta_2(self.nn_r_2(r_1)), 2, dim=1)
        delta_log_var_2 = F.hardtanh(delta_log_var_2, -7.0, 2.0)
        z_2 = draw_half(delta_mu_2, delta_log_var_2)
        mu_1, log_var_1 = torch.chunk(self.nn_z_1(z_2), 2, dim=1)
        z_1 = draw_half(mu_1 + delta_mu_1, log_var_1 + delta_log_var_1)
        x_hat, x_hat_dct = self.decode(self.decoder_input(z_1)), self.decode(self.decoder_input_dct(z_2))
        return x_hat, x_hat_dct, delta_mu_1, delta_log_var_1, log_var_1, delta_mu_2, delta_log_var_2

    def training_step(self, x: Tensor, _: int) -> Tensor:
        x_hat, x_hat_dct, mu_1, dlv_1, log_var_1, mu_2, dlv_2 = self(x)
        kl_1 = 0.5 * (mu_1**2 / torch.exp(log_var_1) + torch.exp(dlv_1) - dlv_1 - 1).sum(-1)
        kl_2 = 0.5 * (mu_2**2 + torch.exp(dlv_2) - dlv_2 - 1).sum(-1)
        loss = F.mse_loss(x_hat, x, reduction="sum") / len(x) + kl_1.mean() + kl_2.mean()
        return loss + F.mse_loss(x_hat_dct, low_frequencies(x, 4), reduction="sum") / len(x)


def hardtanh_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.hardtanh(v, -7.0, 2.0))


class LinearExcitability(nn.Module):
    """A linear layer of its own, whose outputs can be multiplied by a buffer."""

    excit_buffer: Tensor | None

    def __init__(self, n_in: int, n_out: int, bias: bool = True, excit_buffer: bool = False) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound)) if bias else None
        self.register_buffer("excit_buffer", torch.ones(n_out) if excit_buffer else None)

    def forward(self, x: Tensor) -> Tensor:
        output = x.matmul(self.weight.t())
        if self.excit_buffer is not None:
            output = output * self.excit_buffer
        if self.bias is not None:
            output += self.bias
        return output


class FcLayer(nn.Module):
    def __init__(
        self, n_in: int, n_out: int, nl: nn.Module | None = None, bias: bool = True, excit_buffer: bool = False,
        batch_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.linear = LinearExcitability(n_in, n_out, bias=bias and not batch_norm, excit_buffer=excit_buffer)
        if batch_norm:
            self.bn = nn.BatchNorm1d(n_out)
        if nl is not None:
            self.nl = nl

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.linear(x)) if hasattr(self, "bn") else self.linear(x)
        return self.nl(x) if hasattr(self, "nl") else x


class FcLayerSplit(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mean, self.logvar = FcLayer(n_in, n_out), FcLayer(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.logvar(x)


class FcMLP(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int, bernoulli: bool = False) -> None:
        super().__init__()
        self.fcLayer1 = FcLayer(n_in, hidden, nl=nn.ReLU(), batch_norm=True)
        self.fcLayer2 = FcLayer(hidden, n_out, nl=nn.Sigmoid() if bernoulli else nn.ReLU(), batch_norm=not bernoulli)

    def forward(self, x: Tensor) -> Tensor:
        return self.fcLayer2(self.fcLayer1(x))


class ReplayAutoEncoder(nn.Module):
    """The generator of earlier tasks: the data's loss and that of what the last generator drew are weighed."""

    def __init__(self, pixels: int = 16, classes: int = 4, units: int = 10, z_dim: int = 4) -> None:
        super().__init__()
        self.pixels, self.lamda_pl = pixels, 0.0
        self.fcE = FcMLP(pixels, units, units)
        self.toZ = FcLayerSplit(units, z_dim)
        self.classifier = FcLayer(units, classes, excit_buffer=True)
        self.fromZ = FcLayer(z_dim, units, nl=nn.ReLU(), batch_norm=True)
        self.fcD = FcMLP(units, units, pixels, bernoulli=True)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        sigma = (0.5 * v).exp_()
        return sigma.new(sigma.shape).normal_().mul(sigma).add_(mean)

    def forward(self, x: Tensor, full: bool = False) -> Any:
        hidden = self.fcE(x.flatten(1))
        if not full:
            return self.classifier(hidden)
        mu, logvar = self.toZ(hidden)
        z = self._draw(mu, logvar)
        return self.fcD(self.fromZ(z)).view(x.shape), self.classifier(hidden), mu, logvar, z

    def batch_loss(self, x: Tensor, y: Tensor) -> Tensor:
        recon, y_hat, mu, logvar, _ = self(x, full=True)
        recon_l = F.binary_cross_entropy(recon.view(len(x), -1), x.view(len(x), -1), reduction="none").mean(dim=1)
        variat_l = torch.mean(-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        variat_l /= self.pixels
        return torch.mean(recon_l) + variat_l + self.lamda_pl * F.cross_entropy(y_hat, y)


def replay_loss(model: Any, x: Tensor, y: Tensor, replayed: Tensor, replayed_y: Tensor) -> Tensor:
    """Of the second task."""
    return 0.5 * model.batch_loss(x, y) + 0.5 * model.batch_loss(replayed, replayed_y)


# ------------------------------------------------------------------------------------------------ drawn weights


class MeanFieldLayer(nn.Module):
    """Means and log variances of weights and of biases; the priors, of the task before, are plain tensors."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.prior_W_m, self.prior_W_v = torch.zeros(n_out, n_in), torch.zeros(n_out, n_in)
        self.prior_b_m, self.prior_b_v = torch.zeros(n_out), torch.zeros(n_out)
        self.posterior_W_m, self.posterior_b_m = (
            nn.Parameter(torch.empty(n_out, n_in)),
            nn.Parameter(torch.empty(n_out)),
        )
        nn.init.normal_(self.posterior_W_m, mean=0.0, std=1e-3)
        nn.init.normal_(self.posterior_b_m, mean=0.0, std=1e-3)
        self.posterior_W_v = nn.Parameter(torch.full((n_out, n_in), math.log(1e-6)))
        self.posterior_b_v = nn.Parameter(torch.full((n_out,), math.log(1e-6)))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.normal(mean=0.0, std=1.0, size=self.posterior_W_m.shape)
        output = x.matmul((self.posterior_W_m + torch.exp(0.5 * self.posterior_W_v) * noise).t())
        noise = torch.normal(mean=0.0, std=1.0, size=self.posterior_b_m.shape)
        output += self.posterior_b_m + torch.exp(0.5 * self.posterior_b_v) * noise
        return output

    def kl_divergence(self) -> Tensor:
        total = torch.zeros(())
        for m, v, prior_m, prior_v in (
            (self.posterior_W_m, self.posterior_W_v, self.prior_W_m, self.prior_W_v),
            (self.posterior_b_m, self.posterior_b_v, self.prior_b_m, self.prior_b_v),
        ):
            ratio = torch.exp(v) / torch.exp(prior_v) + torch.pow(m - prior_m, 2) / torch.exp(prior_v)
            total = total + (ratio - 1 + prior_v - v).sum()
        return 0.5 * total


class VCL(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.training_samples = 5
        self.variational_layers = nn.Sequential(
            MeanFieldLayer(8, 6), MeanFieldLayer(6, 6), MeanFieldLayer(6, 6), MeanFieldLayer(6, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.variational_layers):
            x = layer(torch.relu(x) if i else x)
        return x

    def loss(self, x: Tensor, y: Tensor, training_set_size: int) -> Tensor:
        cross = F.cross_entropy(self(x), y)
        for _ in range(self.training_samples - 1):
            cross += F.cross_entropy(self(x), y)
        kls = [layer.kl_divergence() for layer in self.variational_layers]
        return cross / self.training_samples + sum(kls) / training_set_size


def vcl_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.loss(x, y, 100)


def noise_variance(v: Tensor) -> Tensor:
    return F.softplus(torch.clamp(v, min=-35.0))


class GaussianLinear(nn.Module):
    """Weights and bias in one matrix; its outputs are drawn, of the mean and variance that the weights give them."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mu, self.rho = nn.Parameter(torch.zeros(n_out, 1 + n_in)), nn.Parameter(torch.zeros(n_out, 1 + n_in))
        nn.init.xavier_uniform_(self.mu[:, :-1])
        nn.init.constant_(self.rho, val=-5.0)

    def forward(self, x: Tensor) -> Tensor:
        out_mu = F.linear(x, weight=self.mu[:, :-1], bias=self.mu[:, -1])
        w_s2, b_s2 = noise_variance(self.rho[:, :-1]), noise_variance(self.rho[:, -1])
        out_std = F.linear(x**2, weight=w_s2, bias=b_s2).sqrt()
        return out_mu + torch.randn(out_mu.shape) * out_std


class BayesianNN(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.nn = nn.Sequential(GaussianLinear(dim, 8), nn.ReLU(), GaussianLinear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.nn(x)


def root_noise_variance(v: Tensor) -> Tensor:
    return noise_variance(v).sqrt()


def backprop_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    mse, kld = F.mse_loss(model(x), y.reshape(len(x), 1)), torch.zeros(())
    for layer in model.nn:
        if isinstance(layer, GaussianLinear):
            kld = kld + kl_divergence(Normal(layer.mu, root_noise_variance(layer.rho)), Normal(0.0, 0.1)).sum()
    return mse + 1e-3 * kld


# ------------------------------------------------------------------------------------------------ controls


class Critic(nn.Module):
    """A slip: two images make one of its rows, as the last convolution is smaller than it is taken for."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c = c
        self.conv1, self.conv2 = nn.Conv2d(3, c, 4, stride=2, padding=1), nn.Conv2d(c, c * 2, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(c * 2, c * 4, 4, stride=2, padding=1)
        self.conv4 = nn.Conv2d(c * 4, c * 8, 4, stride=1, padding=1)
        self.fc = nn.Linear(4 * c * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.leaky_relu(conv(x))
        return self.fc(x.view(-1, 4 * self.c * 4))


class ReplayGenerator(nn.Module):
    def __init__(self, z_size: int, c: int) -> None:
        super().__init__()
        self.c = c
        self.fc, self.bn0 = nn.Linear(z_size, 4 * c * 8), nn.BatchNorm2d(c * 8)
        self.bn1, self.deconv1 = nn.BatchNorm2d(c * 4), nn.ConvTranspose2d(c * 8, c * 4, 4, stride=2, padding=1)
        self.bn2, self.deconv2 = nn.BatchNorm2d(c * 2), nn.ConvTranspose2d(c * 4, c * 2, 4, stride=2, padding=1)
        self.bn3, self.deconv3 = nn.BatchNorm2d(c), nn.ConvTranspose2d(c * 2, c, 4, stride=2, padding=1)
        self.deconv4 = nn.ConvTranspose2d(c, 3, 3, stride=1, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        g = F.relu(self.bn0(self.fc(z).view(len(z), self.c * 8, 2, 2)))
        g = F.relu(self.bn3(self.deconv3(F.relu(self.bn2(self.deconv2(F.relu(self.bn1(self.deconv1(g)))))))))
        return torch.sigmoid(self.deconv4(g))


class WGAN(nn.Module):
    def __init__(self, z_size: int = 5) -> None:
        super().__init__()
        self.z_size = z_size
        self.critic, self.generator = Critic(2), ReplayGenerator(z_size, 2)

    def noise(self, size: int) -> Tensor:
        return torch.randn(size, self.z_size) * 0.1

    def critic_loss(self, x: Tensor, z: Tensor) -> Tensor:
        g = self.generator(z)
        loss = -(self.critic(x).mean() - self.critic(g).mean())
        a = torch.rand(len(x), 1).expand(len(x), x[0].numel()).contiguous().view(x.shape)
        between = (a * x.data + (1 - a) * g.data).requires_grad_()
        c = self.critic(between)
        (slope,) = torch.autograd.grad(c, between, grad_outputs=torch.ones_like(c), create_graph=True)
        return loss + 10.0 * ((1 - (slope + 1e-16).norm(2, dim=1)) ** 2).mean()


def wgan_loss(model: Any, x: Tensor, replayed: Tensor) -> Tensor:
    """The critic's step on data and on what is replayed, and the generator's, are summed."""
    z = model.noise(len(x))
    critic = 0.5 * model.critic_loss(x, z) + 0.5 * model.critic_loss(replayed, z)
    return critic - model.critic(model.generator(model.noise(len(x)))).mean()


class LightGCN(nn.Module):
    """Embeddings, spread over a graph of users and items that no weight is learned for."""

    def __init__(self, users: int = 6, items: int = 8) -> None:
        super().__init__()
        self.num_users, self.num_items, self.n_layers = users, items, 3
        self.embedding_user, self.embedding_item = nn.Embedding(users, 5), nn.Embedding(items, 5)
        nn.init.normal_(self.embedding_user.weight, std=0.1)
        nn.init.normal_(self.embedding_item.weight, std=0.1)
        seen = bits(users, items)
        adjacent = torch.zeros(users + items, users + items)
        adjacent[:users, users:], adjacent[users:, :users] = seen, seen.t()
        scale = adjacent.sum(1).clamp(min=1).pow(-0.5)
        self.Graph = (scale[:, None] * adjacent * scale).to_sparse().coalesce()

    def computer(self) -> tuple[Tensor, ...]:
        every = torch.cat([self.embedding_user.weight, self.embedding_item.weight])
        embs = [every]
        for _ in range(self.n_layers):
            every = torch.sparse.mm(self.Graph, every)
            embs.append(every)
        return torch.split(torch.mean(torch.stack(embs, dim=1), dim=1), [self.num_users, self.num_items])

    def bpr_loss(self, users: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        all_users, all_items = self.computer()
        own = (self.embedding_user(users), self.embedding_item(pos), self.embedding_item(neg))
        reg = 0.5 * sum((e.norm(2).pow(2) for e in own), torch.zeros(())) / float(len(users))
        liked = torch.sum(all_users[users] * all_items[pos], dim=1)
        other = torch.sum(all_users[users] * all_items[neg], dim=1)
        return torch.mean(F.softplus(other - liked)), reg


def bpr(model: Any, users: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    loss, reg = model.bpr_loss(users, pos, neg)
    return loss + reg * 1e-4


def sparsemax(v: Tensor) -> Tensor:
    """Projection onto the simplex."""
    ordered = v.sort(dim=-1, descending=True)[0]
    k = torch.arange(1, v.shape[-1] + 1)
    total = ordered.cumsum(-1)
    support = (1 + k * ordered > total).sum(-1, keepdim=True)
    return torch.clamp(v - (total.gather(-1, support - 1) - 1) / support, min=0)


class GhostNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.bn(part) for part in x.chunk(2, 0)], dim=0)


class GluLayer(nn.Module):
    def __init__(self, n_in: int, n_out: int, fc: nn.Linear | None = None) -> None:
        super().__init__()
        self.n_out = n_out
        self.fc = fc or nn.Linear(n_in, 2 * n_out, bias=False)
        self.bn = GhostNorm(2 * n_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.fc(x))
        return x[:, : self.n_out] * torch.sigmoid(x[:, self.n_out :])


class FeatTransformer(nn.Module):
    def __init__(self, n_in: int, n_out: int, shared: nn.ModuleList) -> None:
        super().__init__()
        self.shared = nn.ModuleList([GluLayer(n_in, n_out, shared[0]), GluLayer(n_out, n_out, shared[1])])
        self.specifics = nn.ModuleList([GluLayer(n_out, n_out), GluLayer(n_out, n_out)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared[0](x)
        for layer in (self.shared[1], *self.specifics):
            x = (x + layer(x)) * math.sqrt(0.5)
        return x


class AttentiveTransformer(nn.Module):
    def __init__(self, n_a: int, columns: int) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(n_a, columns, bias=False), GhostNorm(columns)

    def forward(self, priors: Tensor, x: Tensor) -> Tensor:
        return sparsemax(self.bn(self.fc(x)) * priors)


class TabNet(nn.Module):
    """What it calls a prior is how much of a column was used."""

    def __init__(self, columns: int = 7, classes: int = 3, n_d: int = 4, n_a: int = 4, n_steps: int = 3) -> None:
        super().__init__()
        self.n_d, self.n_steps, self.gamma, self.epsilon = n_d, n_steps, 1.3, 1e-15
        self.initial_bn = nn.BatchNorm1d(columns, momentum=0.01)
        width = n_d + n_a
        shared = nn.ModuleList([nn.Linear(n, 2 * width, bias=False) for n in (columns, width)])
        self.initial_splitter = FeatTransformer(columns, width, shared)
        self.feat_transformers = nn.ModuleList([FeatTransformer(columns, width, shared) for _ in range(n_steps)])
        self.att_transformers = nn.ModuleList([AttentiveTransformer(n_a, columns) for _ in range(n_steps)])
        self.final_mapping = nn.Linear(n_d, classes, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.initial_bn(x)
        used, m_loss, res = torch.ones_like(x), torch.zeros(()), torch.zeros(len(x), self.n_d)
        att = self.initial_splitter(x)[:, self.n_d :]
        for attentive, transform in zip(self.att_transformers, self.feat_transformers, strict=True):
            mask = attentive(used, att)
            m_loss = m_loss + torch.mean(torch.sum(mask * torch.log(mask + self.epsilon), dim=1))
            used = (self.gamma - mask) * used
            out = transform(mask * x)
            res = res + torch.relu(out[:, : self.n_d])
            att = out[:, self.n_d :]
        return self.final_mapping(res), m_loss / self.n_steps


def tabnet_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    out, m_loss = model(x)
    return F.cross_entropy(out, y) - 1e-3 * m_loss


class ConvLSTMCell(nn.Module):
    def __init__(self, n_in: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.conv = nn.Conv2d(n_in + hidden_dim, 4 * hidden_dim, (3, 3), padding=(1, 1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = torch.split(self.conv(torch.cat([x, h], dim=1)), self.hidden_dim, dim=1)
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c_next), c_next


class ConvLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell_list = nn.ModuleList([ConvLSTMCell(2, 5), ConvLSTMCell(5, 2)])

    def forward(self, frames: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        states = []
        for cell in self.cell_list:
            h = c = frames.new_zeros(len(frames), cell.hidden_dim, *frames.shape[-2:])
            outputs = []
            for t in range(frames.shape[1]):
                h, c = cell(frames[:, t], h, c)
                outputs.append(h)
            frames = torch.stack(outputs, dim=1)
            states.append((h, c))
        return frames, states


def next_frame(model: Any, frames: Tensor) -> Tensor:
    return F.mse_loss(model(frames[:, :-1])[0], frames[:, 1:])


# fmt: off
CASES = (
    PublicCase(
        "VAE (noctrog)",
        Retold("noctrog/conv-vae", "afc01ae1f3a5709e967f6c2dc7c8763ffdd99abf", "model.py, train.py"),
        lambda: FaceVAE((3, 8, 8), 5), images(), (posterior("log_var.0", sigma=leaky_half),), face_loss,
        truth="model.py sampling: exp(log_var / 2), of a linear layer, a leaky ReLU and a dropout of 0.2; NumPy's "
        "noise, one vector for the batch. Hard to decide: in training the dropout scales what it keeps by 1.25; σ "
        "is that without it",
    ),
    PublicCase(
        "VAE (bhpfelix)",
        Retold(
            "bhpfelix/Variational-Autoencoder-PyTorch", "135ad8cfff8f5d01a5bfd44fbfc53066150fa8e5",
            "src/vanila_vae.py",
        ),
        PaddedVAE, images(), (posterior("fc2"),), padded_loss,
        truth="vanila_vae.py reparametrize: logvar.mul(0.5).exp_(); the KL in place",
    ),
    PublicCase(
        "MIWAE (Imputers)",
        Retold(
            "ImJaeSung/Imputers", "61cd278aab13f1cd497f87313d86ec69c0317400",
            "MIWAE/modules/model.py, MIWAE/modules/prior.py, MIWAE/modules/train.py",
        ),
        lambda: MIWAE(3, (3, 2)), miwae_rows, (posterior("encoder_layer.4", 2, 4, softplus_0001),), miwae_loss,
        truth="model.py miwae_loss: Normal(loc, softplus(v) + 0.001); the decoder's scale is a Student's t's: no "
        "Normal. The decoder's width of 105 is a number there",
    ),
    PublicCase(
        "notMIWAE (Imputers)",
        Retold(
            "ImJaeSung/Imputers", "61cd278aab13f1cd497f87313d86ec69c0317400",
            "not-MIWAE/modules/model.py, not-MIWAE/modules/prior.py",
        ),
        lambda: NotMIWAE(3, (3, 2)), not_miwae_rows,
        (
            posterior("encoder_layer.4", 2, 4, softplus_0001), likelihood("decoder_layer.4", 3, 6, softplus_0001),
        ), not_miwae_loss,
        truth="model.py loss_function: Normal(loc, softplus(v) + 0.001) for the latent and for the continuous columns, "
        "which are drawn from it where they are missing",
    ),
    PublicCase(
        "U-VAE",
        Retold(
            "Optim-Lab/U-VAE", "b740afbcd3661d328a3d1553c5ced0a567eb64d3",
            "modules/model.py, modules/train.py, main.py",
        ),
        UVAE, uvae_rows, (posterior("encoder.4", 3, 6),), uvae_loss,
        truth="model.py sampling: exp(logvar / 2); the prior's variance is a number, 0.1; quantiles have no scale",
    ),
    PublicCase(
        "ZINBVAE",
        Retold(
            "leonardogolinelli/Perturbation_Lab", "769a1116e69908079b9d6a5e34b44371712cf34d", "model.py, training.py",
        ),
        ZINBVAE, lambda: (counts(),), (posterior("encoder.fc_logvar"),), zinb_loss,
        truth="model.py reparameterize: exp(0.5 logvar), KL of it times 1e-3; a zero-inflated negative binomial",
    ),
    PublicCase(
        "MYVAE of cell types",
        Retold(
            "haoyangz/scRNA_generative_model_example", "73df833c487fc8ecafa50c479faa6a3a056fbabb", "model.py, utils.py",
        ),
        CellTypeVAE, lambda: (counts(), F.one_hot(tokens(3, 6), 3).float()),
        (
            posterior("x_to_z1_l.x_to_z1.network.2", 4, 8, clipped_half),
            posterior("x_to_z1_l.x_to_l.network.2", 1, 2, clipped_half),
            posterior("z1_y_to_z2.network.network.2", 2, 4, clipped_half),
            prior("z2_y_to_z1.network.network.2", 4, 8, clipped_half),
        ), cell_type_loss,
        truth="utils.py reparameterize: exp(0.5 clip(logvar, log 1e-3, 10)), and model.py's Normals of the same; "
        "p(z1|z2, y) is what q(z1|x) is compared with, and is drawn from for nothing",
    ),
    PublicCase(
        "VAE (toy-selfies)",
        Retold("krobasky/toy-selfies", "6c0d2de61e269f5ce0bb58d72853cb675733313e", "src/bd/models.py, src/vae.ipynb"),
        ToySelfiesVAE, lambda: (tokens(11, 5, 6),), (posterior("encoder.1", 4, 8, relu_half),), training_step,
        truth="models.py VAE: a ReLU in place on mean and log variance; exp(0.5 log_var); KL summed",
    ),
    PublicCase(
        "VAE of SELFIES",
        Retold(
            "aspuru-guzik-group/selfies", "eb6177e5f20cfd8787f2ac4423f5b38dce6eeeb8",
            "examples/vae_example/chemistry_vae.py",
        ),
        SelfiesVAE, lambda: (F.one_hot(tokens(7, 5, 5), 7).float(),), (posterior("vae_encoder.encode_log_var"),),
        selfies_loss,
        truth="chemistry_vae.py reparameterize: exp(0.5 log_var), KL averaged, times a weight; two models, held by one "
        "here",
    ),
    PublicCase(
        "VAE (nanithkumarigopal)",
        Retold("nanithkumarigopal/VAE", "14492e06aefe8a18c0b5fafb5ef9a5dc9e6d9b94", "vae.py"),
        BlobVAE, lambda: (randn(8, 10),), (posterior("encoder.logvar"),), blob_loss,
        truth="vae.py reparameterize: exp(0.5 logvar), KL averaged",
    ),
    PublicCase(
        "VAE_Tabular, probabilistic",
        Retold(
            "heuer-ja/uni23ss_VAE-anomaly-detection", "4e26e90057e6c271733332fddef6e62e9b205e1f",
            "code/scripts/model.py, code/scripts/train.py, code/scripts/main.py",
        ),
        ProbabilisticVAE, lambda: (randn(8, 12),),
        (posterior("latent_sigma", sigma=F.softplus), likelihood("recon_sigma", sigma=F.softplus)),
        lambda model, x: model(x)["loss"],
        truth="model.py predict: softplus for both; get_loss: the KL to Normal(0, 1), log_prob of the data",
    ),
    PublicCase(
        "VAE_Model (NYCU lab 4)",
        Retold(
            "frankkn/NYCU_DLP", "4292529ddb66e030f1c4b0735dde64ced59bc0d3",
            "Lab4_Conditional_VAE_for_Video_Prediction/Trainer.py, "
            "Lab4_Conditional_VAE_for_Video_Prediction/modules/modules.py",
        ),
        PoseVideoVAE, lambda: (rand(2, 4, 3, 8, 8), rand(2, 4, 3, 8, 8, seed=9)),
        (posterior("Gaussian_Predictor.3", 3, 6),), pose_loss,
        truth="modules.py reparameterize: exp(logvar / 2); Trainer.py: KL of the same, whose weight is 0 by default, "
        "and a decoder that sees N(0, I) and not the draw. Hard to decide: nothing of it is learned by default; what "
        "is drawn and sees the data is still the posterior",
    ),
    PublicCase(
        "MSPred",
        Retold(
            "AIS-Bonn/MSPred", "d245097f74d0f02e3e8dab61bbd9fd6f305a1dc0",
            "src/models/VideoPred_SpatioTempHierarchLSTM.py, src/models/VideoPred_HierarchModel.py, "
            "src/models/ConvLSTM.py, src/models/DCGAN_Conv.py, src/lib/losses.py, src/02_train.py, src/CONFIG.py",
        ),
        MSPred,
        lambda: (rand(2, 13, 3, 16, 16), rand(2, 13, 1, 16, 16, seed=9), rand(2, 13, 1, 16, 16, seed=10)),
        (
            *(posterior(f"posterior.{h}.mu_var_net", 3, 6) for h in range(3)),
            *(prior(f"prior.{h}.mu_var_net", 3, 6) for h in range(3)),
        ), mspred_loss,
        truth="ConvLSTM.py GaussianConvLSTM: exp(0.5 logvar); losses.py KLLoss, of posterior and prior, for the levels "
        "that tick; a prior repeats its last output between, which its KL is taken with. Periods of 1, 2 and 4 for "
        "1, 4 and 8",
    ),
    PublicCase(
        "BetaVAE of patches",
        Retold("douzog/VAE", "9f7e83dae2b1674b0a892399701a938b13142869", "BetaL1.py"),
        PatchVAE, images(), (posterior("fc12"),), patch_loss,
        truth="BetaL1.py reparameterize: exp(0.5 v) of what is called log_sigma; KL of v as log variance",
    ),
    PublicCase(
        "VarAutoEncoder (MONAI)",
        Retold(
            "Project-MONAI/MONAI", "03665d6fe6d76b77c8bfc51c7ca8952a3431ee82", "monai/networks/nets/varautoencoder.py",
        ),
        VarAutoEncoder, images(1), (posterior("logvar"),),
        lambda model, x: bce_and_kl(model, x),
        truth="varautoencoder.py reparameterize: exp(0.5 logvar), into the draw in place; the loss is that of the "
        "project's tutorial on MedNIST, a summed cross entropy and KL, whose weight is left at 1 here",
    ),
    PublicCase(
        "MultiVAE (computational-notes)",
        Retold(
            "cheng-w-liu/computational-notes", "b4bca67d5e3d7547e2ccac52761011dd0258d54b",
            "Deep_Learning_algorithms_test/vae_cf/models.py, Deep_Learning_algorithms_test/vae_cf/run.py",
        ),
        NotesMultiVAE, lambda: (bits(6, 16),), (posterior("encoder_layers.1", 4, 8),), notes_loss,
        truth="models.py reparametrize: exp(0.5 logvar), in training only; KL averaged",
    ),
    PublicCase(
        "MultiVAE (cydonia999)",
        Retold(
            "cydonia999/variational-autoencoders-for-collaborative-filtering-pytorch",
            "ac5f8a25ae3ea26bad66219d08c2ff9249ba8aeb", "vae.py, trainer.py, demo.py",
        ),
        RatingsMultiVAE, lambda: (bits(6, 16),), (posterior("encoder.linear_2", 4, 8),), ratings_loss,
        truth="vae.py forward: std_q = exp(0.5 logvar_q), KL; trainer.py weighs it by 0.2",
    ),
    PublicCase(
        "DCTHVAE",
        Retold(
            "stapaw/hvae", "cb74fd3dd4d929465bb457c4e6a748017f505083",
            "hvae/models/hvae.py, hvae/models/vae.py, hvae/models/blocks.py, hvae/utils/dct.py, configs/main.yaml",
        ),
        DctHVAE, images(),
        (
            posterior("nn_delta_2.model.2.0", 3, 6, hardtanh_half), posterior("nn_delta_1.model.2.0", 6, 12, None),
            prior("nn_z_1.model.2.0", 6, 12),
        ), training_step,
        truth="hvae.py forward: z_1's log variance is the prior's plus a difference, as in the notebook that it is "
        "based on, so the posterior's σ has two raw values. Hard to decide: nn_z_1 is an addend of the posterior, too",
    ),
    PublicCase(
        "AutoEncoder, replayed",
        Retold(
            "MatthiasKoh/Investigate-the-forgetting-of-neural-networks", "f052b8e2f6d779b86def01bec9c9c3edc4029597",
            "vae_models.py, linear_nets.py, excitability_modules.py, main.py",
        ),
        ReplayAutoEncoder, lambda: (bits(6, 1, 4, 4), tokens(4, 6), rand(6, 1, 4, 4), tokens(4, 6, seed=9)),
        (posterior("toZ.logvar.linear"),), replay_loss,
        truth="vae_models.py reparameterize: logvar.mul(0.5).exp_(), of a linear layer of its own kind without bias; "
        "KL of data and of what is replayed",
    ),
    PublicCase(
        "VCL",
        Retold(
            "JamesCraster/UncertaintyInDL", "bba8c473ba46120186fc953191b35724afeec711",
            "VCL/models/vcl.py, VCL/permute_mnist.py",
        ),
        VCL, lambda: (rand(7, 8), tokens(3, 7)),
        tuple(
            posterior(f"variational_layers.{i}.{name}") for i in range(4) for name in ("posterior_W_v", "posterior_b_v")
        ), vcl_loss,
        truth="vcl.py MFVILayer: exp(0.5 v), KL to the last task's. Hard to decide: of its three models the one that "
        "the field is named for; its scripts' last runs are of a matrix-variate one",
    ),
    PublicCase(
        "BNN_BBB",
        Retold("Alaya-in-Matrix/BNN", "9876aa51816fe1aeb06564ee5745d16f6a0dc6b8", "BNN_BBB.py, util.py"),
        BayesianNN, lambda: (randn(8, 4), randn(8, seed=9)),
        tuple(posterior(f"nn.{i}.rho", sigma=root_noise_variance) for i in (0, 2)), backprop_loss,
        truth="BNN_BBB.py GaussianLinear: the square root of softplus(clamp(rho, -35)); outputs are drawn, of the "
        "weights' variances; KL to Normal(0, 0.1)",
    ),
    PublicCase(
        "WGAN, replayed",
        Retold(
            "kuc2477/pytorch-deep-generative-replay", "b2d82e45b69876ddab0f7ce38737888e17e377f2", "gan.py, models.py",
        ),
        WGAN, lambda: (rand(4, 3, 16, 16), rand(4, 3, 16, 16, seed=9)), (), wgan_loss,
        truth="noise of a given scale, and a critic",
    ),
    PublicCase(
        "LightGCN",
        Retold(
            "gusye1234/LightGCN-PyTorch", "947ca2b3b1d2d3545b114145710cb06c4e57b3d2", "code/model.py, code/utils.py",
        ),
        LightGCN, lambda: (tokens(6, 10), tokens(8, 10, seed=8), tokens(8, 10, seed=9)), (), bpr,
        truth="a ranking's loss, and a penalty of the embeddings",
    ),
    PublicCase(
        "TabNet",
        Retold(
            "dreamquark-ai/tabnet", "2c0c4ebd2bb1cb639ea94ab4b11823bc49265588",
            "pytorch_tabnet/tab_network.py, pytorch_tabnet/abstract_model.py",
        ),
        TabNet, lambda: (randn(8, 7), tokens(3, 8)), (), tabnet_loss,
        truth="classes, and a mask's entropy; its prior is a product of masks",
    ),
    PublicCase(
        "ConvLSTM",
        Retold("ndrplz/ConvLSTM_pytorch", "9f662ba24b0a38e82cf0f5208c7f4859deb85ffe", "convlstm.py"),
        ConvLSTM, lambda: (rand(2, 5, 2, 6, 6),), (), next_frame,
        truth="hidden states without noise; no training script stands there, the next frame is the usual target",
    ),
)
# fmt: on
