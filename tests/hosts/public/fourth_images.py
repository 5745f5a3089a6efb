"""A fourth look: image, 3-D, molecule, table and compression models, Bayesian networks and flows, in our own words,
sampled as an ordinary user's model would be.

The fields were fixed first. Of each, the first two repositories that its query names in order were taken that hold a
VAE-like model in PyTorch and are in no earlier look; their main model, with the loss of their training script.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned. Where a field's first query gave less than two, or the field has well-known code, that comes after.

Beginners' tutorials ("variational autoencoder tutorial pytorch MNIST"): `ChicForX/CLUB_impl` and `pravn/conv_VAE`
taken (`ashworks1706/llm-from-scratch` passed, a list of topics); of pages, `ac-alpha/VAEs-using-Pytorch` taken.
Popular repositories (names with `pytorch-vae`, then by common knowledge): `jluuser/PyTorch-VAE` and
`Meso272/PyTorch-VAE` passed (copies of one that an earlier look has), `yoonholee/pytorch-vae`,
`yunjey/pytorch-tutorial` and `Jackson-Kang/Pytorch-VAE-tutorial` taken. Conditional VAEs ("class label one-hot"):
`JanLucasK/Ground-Truth-Function-Optimization-Machine-Learning-Project` passed (its VAE is gone),
`irfanbykara/Conditioned-Vae-Neat-Pytorch-Implementation-From-Scratch` taken, `TomasBahnik/d2l` passed (PyTorch's own
example), `kaunghtetsan275/mnist_generator` passed (no loss). Disentanglement ("total correlation dsprites"):
`MercuriXito/DisVAEs` and `carlodenardin/PML2025` taken. VAE-GAN ("encoder generator discriminator"):
`edchengg/VAE_GAN`, `arkrp/vae-lab` and, as the conditional field had one, `YuliangXiu/CVAE-GAN` taken. Latent
diffusion ("autoencoder KL"): `gouthamk16/Attograd-Fusion` passed (comments only), `script-Yang/VAEVQ` taken,
`huggingface/diffusers` passed (taken before, as a package), `anenbergb/latent-diffusion` passed (trains that package's
model). Anomaly detection ("VAE image anomaly detection"): `vinaihanu/torch-to` and
`YeongHyeon/CVAE-AnomalyDetection-PyTorch` taken. Medical images ("MRI brain"): `portchester1989/ct_vae` passed (no
loss), `ToMle101/Oasis_VAE` and `varnikaumashankar/adVAE` taken. 3-D shapes ("point cloud"):
`lukass16/CPSC-452-Final-Project` and `GenMNL/PointCloudVAE` taken. Molecules ("graph, SMILES"): `PingchuanMa/SGA`
passed (a prompt), `Masatsugar/generate_smiles` taken, `qxx17/learngit` passed (TensorFlow),
`chaoyan1037/Re-balanced-VAE` taken. Tables ("numerical categorical"): `Rupeshky/table-synthesizer` passed
(TensorFlow), `InvincibleIRMan/SDV_` and `qw-4735/VAEs` taken. Learned compression ("hyperprior"):
`tonyckc/TTA-Image-Compression-with-Distribution-Regularization` and `JYuhao88/Channel_Compression` passed (a package
that was taken before; not opened further), `kimberley-faria/learning_based_img_compression` passed (trains a classifier
behind that package's weights), `Yiozolm/HPCM` passed (a generalised Normal, whose shape is 1.5); by common knowledge,
`liujiaheng/compression` (it turned out to have no Normal) and `jmliu206/LIC_TCM` taken. Bayesian networks
("variational weights rho softplus"): `LorenzoPiu/Bayes_by_backprop_demo` and `lipascal123/probabilistic-AI-hs21` taken.
Regression ("heteroscedastic"): `TencentAILabHealthcare/scPROTEIN` and `priyamapatel/DL_GA` taken. Flows ("learned base
distribution"): `0xangelo/raylab` passed (its flows are gone), `anhthu-vu/Advanced_Deep_Learning` passed (a fixed base),
`Fr0do/flows4ad` taken with its VAE (the flow's base is fixed), `drawcodeboy/Normalizing-Flow` passed (not opened); by
common knowledge, `y0ast/Glow-PyTorch` taken. Controls, as the field's best known code: `fxia22/pointnet.pytorch`,
`milesial/Pytorch-UNet`, `tkipf/pygcn`, `samet-akcay/ganomaly`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import LowerBound, StridedHead
from torch import Tensor, nn
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence
from zoo import TrueHead

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import (
    ActNorm2d,
    GaussianConditional,
    HyperDensity,
    bits,
    bounded,
    diagonal_logp,
    images,
    kl_to_unit,
    likelihood,
    posterior,
    prior,
    rows,
)

# ------------------------------------------------------------------------------------------------ tutorials


class ClubEncoder(nn.Module):
    """Called log σ, used as log σ²."""

    def __init__(self, dim_z: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.fc, self.fc_bn = nn.Linear(32, 12), nn.BatchNorm1d(12)
        self.fc_mean, self.fc_log_sigma = nn.Linear(12, dim_z), nn.Linear(12, dim_z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            x = F.leaky_relu(norm(conv(x)))
        hidden = F.leaky_relu(self.fc_bn(self.fc(x.flatten(1))))
        return self.fc_mean(hidden), self.fc_log_sigma(hidden)


class Club(nn.Module):
    """What is useful, and what is sensitive: one decoder for the class, one for the image given the colour."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ClubEncoder(4)
        self.utility_decoder = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10), nn.LeakyReLU(0.2), nn.Linear(10, 3))
        self.fc, self.deconv = nn.Linear(5, 4 * 16), nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)

    def uncertainty_decoder(self, z: Tensor, s: Tensor) -> Tensor:
        x = F.leaky_relu(self.fc(torch.cat([z, s.unsqueeze(1)], 1)))
        return torch.sigmoid(self.deconv(x.view(-1, 4, 4, 4)))


def draw_half(mu: Tensor, logvar: Tensor) -> Tensor:
    std = torch.exp(0.5 * logvar)
    return mu + torch.randn_like(std) * std


def club_loss(model: Any, x: Tensor, u: Tensor, s: Tensor) -> Tensor:
    """The first of its five steps."""
    z_mean, z_log_sigma_sq = model.encoder(x)
    z = draw_half(z_mean, z_log_sigma_sq)
    kl = -0.5 * torch.sum(1 + z_log_sigma_sq - z_mean.pow(2) - z_log_sigma_sq.exp(), dim=1)
    useful = F.cross_entropy(torch.softmax(model.utility_decoder(z), 1), u)
    return F.mse_loss(model.uncertainty_decoder(z, s), x) + useful + 0.1 * kl.mean()


class DeconvVAE(nn.Module):
    """PyTorch's old example with convolutions; layers of earlier versions are left in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2)
        self.conv2_drop = nn.Dropout2d()
        self.fc1, self.fc21, self.fc22 = nn.Linear(24, 10), nn.Linear(10, 4), nn.Linear(10, 4)
        self.fc3, self.fc4 = nn.Linear(4, 10), nn.Linear(10, 144)
        self.d_fc3, self.d_fc4 = nn.Linear(4, 10), nn.Linear(10, 24)
        self.deconv1, self.deconv2 = nn.ConvTranspose2d(6, 4, 3, stride=2), nn.ConvTranspose2d(4, 1, 3, stride=2)
        self.out = nn.Linear(121, 144)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if not self.training:
            return mu
        std = logvar.mul(0.5).exp_()
        eps = std.data.new(std.size()).normal_()
        return eps.mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.fc1(F.relu(self.conv2(F.relu(self.conv1(x)))).view(-1, 24)))
        mu, logvar = self.fc21(h), self.fc22(h)
        h = torch.relu(self.d_fc4(torch.relu(self.d_fc3(self.reparameterize(mu, logvar))))).view(-1, 6, 2, 2)
        h = torch.relu(self.deconv2(torch.relu(self.deconv1(h))))
        return torch.sigmoid(self.out(h.view(-1, 121))), mu, logvar


def deconv_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    bce = F.binary_cross_entropy(recon, x.view(-1, 144))
    kld = kl_to_unit(mu, logvar)
    kld /= len(x) * 144
    return bce + kld


class NotebookVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2_mu, self.fc2_sig = nn.Linear(16, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.fc3, self.fc4 = nn.Linear(4, 12), nn.Linear(12, 16)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x.view(-1, 16)))
        mu, logvar = self.fc2_mu(h), self.fc2_sig(h)
        h = F.relu(self.fc3(self.reparameterize(mu, logvar)))
        return torch.sigmoid(self.fc4(h)), mu, logvar


def bce_and_kl(model: Any, x: Tensor) -> Tensor:
    """Both summed over the batch, of a model that returns reconstruction, mean and log variance."""
    recon, mu, logvar = model(x)[:3]
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class ImportanceVAE(nn.Module):
    """torch's distributions throughout, and a bound of several samples (one by default, and no analytic KL)."""

    def __init__(self, analytic_kl: bool = False) -> None:
        super().__init__()
        self.analytic_kl = analytic_kl
        self.prior = Normal(torch.zeros([4]), torch.ones([4]))
        self.encoder = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
        self.enc_mu, self.enc_sig = nn.Linear(12, 4), nn.Linear(12, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 16))
        self.apply(self.init)

    def init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, gain=nn.init.calculate_gain("tanh"))
            module.bias.data.fill_(0.01)

    def encode(self, x: Tensor) -> Normal:
        h = self.encoder(x.reshape(-1, 16))
        return Normal(self.enc_mu(h), F.softplus(self.enc_sig(h)))

    def forward(self, x: Tensor, mean_n: int = 1, imp_n: int = 1) -> dict[str, Tensor]:
        z_dist = self.encode(x)
        z = z_dist.rsample(torch.Size([mean_n, imp_n]))
        lpxz = Bernoulli(logits=self.decoder(z)).log_prob(x.reshape(-1, 16)).sum(-1)
        if self.analytic_kl:
            kl = kl_divergence(z_dist, self.prior).sum(-1)
        else:
            kl = -self.prior.log_prob(z).sum(-1) + z_dist.log_prob(z).sum(-1)
        elbo = -kl + lpxz
        if imp_n == 1:
            bound = elbo
        else:
            top = elbo.max(1, keepdim=True)[0]
            bound = (elbo - top).exp().mean(1, keepdim=True).log() + top
        return {"elbo": elbo, "loss": -bound.squeeze(1).mean(0)}


class TutorialVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.fc4, self.fc5 = nn.Linear(4, 12), nn.Linear(12, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, log_var = self.fc2(h), self.fc3(h)
        std = torch.exp(log_var / 2)
        z = mu + torch.randn_like(std) * std
        return torch.sigmoid(self.fc5(F.relu(self.fc4(z)))), mu, log_var


class GaussianEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.FC_input, self.FC_input2 = nn.Linear(16, 12), nn.Linear(12, 12)
        self.FC_mean, self.FC_var = nn.Linear(12, 4), nn.Linear(12, 4)
        self.LeakyReLU = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.LeakyReLU(self.FC_input2(self.LeakyReLU(self.FC_input(x))))
        return self.FC_mean(h), self.FC_var(h)


class GaussianMLP(nn.Module):
    """Its sampler takes σ and calls it the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.Encoder = GaussianEncoder()
        self.Decoder = nn.Sequential(nn.Linear(4, 12), nn.LeakyReLU(0.2), nn.Linear(12, 16), nn.Sigmoid())

    def reparameterization(self, mean: Tensor, var: Tensor) -> Tensor:
        return mean + var * torch.randn_like(var)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.Encoder(x)
        return self.Decoder(self.reparameterization(mean, torch.exp(0.5 * log_var))), mean, log_var


# ------------------------------------------------------------------------------------------------ conditional


class LabelEncoder(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(64 + num_classes, 12)
        self.fc_mu, self.fc_logvar = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.bn1(self.conv1(x))).flatten(1)
        h = torch.relu(self.fc1(torch.cat((h, F.one_hot(y, self.num_classes)), 1)))
        return self.fc_mu(h), self.fc_logvar(h)


class LabelDecoder(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fc, self.bn2 = nn.Linear(4 + num_classes, 64), nn.BatchNorm2d(1)
        self.deconv = nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = torch.relu(self.fc(torch.cat((z, F.one_hot(y, self.num_classes)), 1)))
        return torch.sigmoid(self.bn2(self.deconv(h.view(-1, 4, 4, 4))))


class ConditionedVAE(nn.Module):
    """A slip: what its KL takes for log σ² is drawn with as if it were σ."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_module, self.decoder_module = LabelEncoder(3), LabelDecoder(3)

    def sample(self, mean: Tensor, log_std: Tensor) -> Tensor:
        return mean + log_std * torch.randn_like(log_std)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        mean, log_var = self.encoder_module(x, y)
        return x, self.decoder_module(self.sample(mean, log_var), y), mean, log_var


def conditioned_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    x, x_hat, mean, log_var = model(x, y)
    return F.mse_loss(x_hat, x, reduction="sum") + kl_to_unit(mean, log_var)


# ------------------------------------------------------------------------------------------------ disentanglement


class AnnealVAE(nn.Module):
    """The KL is pulled toward a capacity that grows; it is averaged over the batch dimension by dimension."""

    def __init__(self) -> None:
        super().__init__()
        down = [nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, True)]
        up = [nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, True), nn.Conv2d(4, 1, 3, 1, 1)]
        self.eNet, self.dNet = nn.Sequential(nn.Sequential(*down)), nn.Sequential(nn.Sequential(*up))
        self.logvar_net, self.mu_net = nn.Linear(64, 5), nn.Linear(64, 5)
        self.latent_transform = nn.Linear(5, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.eNet(x).view(len(x), -1)
        logvar, mu = self.logvar_net(features), self.mu_net(features)
        z = torch.randn((len(x), 5), device=mu.device) * torch.exp(0.5 * logvar) + mu
        return self.dNet(self.latent_transform(z).view(-1, 4, 4, 4)), mu, logvar, z

    def get_loss(
        self, x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, num_iter: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        rec = F.binary_cross_entropy_with_logits(recon, x, reduction="sum") / recon.size(0)
        per_dim = -0.5 * torch.mean(1 + logvar - mu**2 - logvar.exp(), dim=0)
        recorder = {f"kl_divergence/dim_{i + 1}": per_dim[i].item() for i in range(5)}
        kl = torch.abs(per_dim.sum() - min(num_iter // 4000, 40)) * 100
        return {"total_loss": rec + kl, "kl_loss": kl, "reconst_loss": rec}, recorder


def anneal_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar, _ = model(x)
    return model.get_loss(x, recon, mu, logvar, 5)[0]["total_loss"]


class ShapeEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 6, 4, 2, 1)
        self.fc_intermediate = nn.Linear(24, 10)
        self.fc_mean, self.fc_logvar = nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv2(F.relu(self.conv1(x))))
        h = F.relu(self.fc_intermediate(h.view(h.size(0), -1)))
        return self.fc_mean(h), self.fc_logvar(h)


class ShapeDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 10), nn.Linear(10, 24)
        self.upconv1, self.upconv2 = nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.fc2(F.relu(self.fc1(z)))).view(-1, 6, 2, 2)
        return self.upconv2(F.relu(self.upconv1(h)))


class StepwiseBetaVAE(nn.Module):
    """A Lightning module: its `training_step` is the loss, it has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.rec_loss, self.logged = 4.0, "bce", {}
        self.encoder, self.decoder = ShapeEncoder(), ShapeDecoder()

    def log_dict(self, values: dict[str, Tensor]) -> None:
        self.logged = {name: value.item() for name, value in values.items()}

    def _reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mean + torch.randn_like(std) * std

    def _compute_losses(self, x: Tensor, logits: Tensor, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp(), dim=1).mean()
        if self.rec_loss == "bce":
            rec = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=[1, 2, 3]).mean()
        else:
            rec = F.mse_loss(torch.sigmoid(logits), x, reduction="none").sum(dim=[1, 2, 3]).mean()
        return rec, kl

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x = batch[0]
        mean, logvar = self.encoder(x)
        rec, kl = self._compute_losses(x, self.decoder(self._reparameterize(mean, logvar)), mean, logvar)
        loss = rec + self.beta * kl
        self.log_dict({"train_loss": loss, "train_recon_loss": rec, "train_kl_div": kl})
        return loss


def training_step(model: Any, *batch: Tensor) -> Tensor:
    return model.training_step(batch, 0)


# ------------------------------------------------------------------------------------------------ VAE and GAN


class DroppedEncoder(nn.Module):
    """Dropout before every layer, the two last included."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.relu = nn.Dropout(0.1), nn.LeakyReLU(0.2)
        self.en_x_1, self.en_x_2 = nn.Linear(16, 12), nn.Linear(12, 12)
        self.en_x_4_mu, self.en_x_4_sigma = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.relu(self.en_x_2(self.dropout(self.relu(self.en_x_1(self.dropout(x))))))
        return self.en_x_4_mu(self.dropout(h)), self.en_x_4_sigma(self.dropout(h))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if not self.training:
            return mu
        std = logvar.mul(0.5).exp_()
        return std.data.new(std.size()).normal_().mul(std).add_(mu)


class DroppedDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.leakyrelu = nn.Dropout(0.1), nn.LeakyReLU(0.2)
        self.f1, self.f4 = nn.Linear(16, 8), nn.Linear(8, 1)

    def similarity(self, x: Tensor) -> Tensor:
        return self.f4(self.dropout(self.leakyrelu(self.f1(self.dropout(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.similarity(x))


class VaeGan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.discriminator = DroppedEncoder(), DroppedDiscriminator()
        self.decoder = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 12), nn.LeakyReLU(0.2), nn.Linear(12, 16), nn.Tanh())


def vae_gan_loss(model: Any, data: Tensor) -> Tensor:
    """The losses of decoder and encoder, which it steps one after the other."""
    mu, log_var = model.encoder(data)
    z = model.encoder.reparameterize(mu, log_var)
    x_tilde, x_p = model.decoder(z), model.decoder(z.data.new(z.size()).normal_())
    judged = [model.discriminator(x).squeeze(1) for x in (x_tilde, x_p, data)]
    real, fake = torch.ones(len(data)), torch.zeros(len(data))
    dis_loss = sum(F.binary_cross_entropy(p, t) for p, t in zip(judged, (fake, fake, real), strict=True))
    rec = ((model.discriminator.similarity(x_tilde) - model.discriminator.similarity(data)) ** 2).mean()
    kld = kl_to_unit(mu, log_var)
    kld /= len(data) * 16
    return (25 * rec - dis_loss) + (kld + 5 * rec)


class NonUniformEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.uniform_stdev, self.flatten = 0.05, nn.Flatten()
        self.estack = nn.Sequential(
            nn.BatchNorm1d(16), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12),
            nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, network_stdev = torch.split(self.estack(self.flatten(x)), 4, dim=1)
        return mean, self.uniform_stdev + torch.abs(network_stdev)


class UniformDecoder(nn.Module):
    """The likelihood's σ is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.uniform_stdev, self.unflatten = 0.05, nn.Unflatten(1, (1, 4, 4))
        self.dstack = nn.Sequential(
            nn.BatchNorm1d(4), nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 16)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.unflatten(self.dstack(z))
        return mean, self.uniform_stdev + torch.zeros_like(mean)


class LabVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = NonUniformEncoder(), UniformDecoder()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, stdev = self.encoder(x)
        draw = mean + torch.randn(mean.size()) * stdev
        out_mean, out_stdev = self.decoder(draw)
        encoded = {"encoder_mean": mean, "encoder_stdev": stdev, "encoder_draw": draw}
        return encoded | {"decoder_mean": out_mean, "decoder_stdev": out_stdev}


def flat_log_likelihood(mean: Tensor, stdev: Tensor, draw: Tensor) -> Tensor:
    mean, stdev, draw = torch.flatten(mean), torch.flatten(stdev), torch.flatten(draw)
    return (-0.5 * ((mean - draw) / stdev) ** 2).sum() - torch.log(stdev).sum()


def lab_loss(model: Any, x: Tensor) -> Tensor:
    """A slip: the prior's density is taken of the mean, the posterior's of the draw."""
    out = model(x)
    mean = out["encoder_mean"]
    rec = flat_log_likelihood(out["decoder_mean"], out["decoder_stdev"], x)
    kl = flat_log_likelihood(torch.zeros_like(mean), torch.ones_like(mean), mean)
    kl = kl - flat_log_likelihood(mean, out["encoder_stdev"], out["encoder_draw"])
    return (-rec - kl) / len(x)


def floored_abs(v: Tensor) -> Tensor:
    return 0.05 + torch.abs(v)


class Parallel(nn.Module):
    """As torch's data parallelism is on a machine without a GPU: it hands everything on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module(*inputs)


class ResNetEncoder(nn.Module):
    def __init__(self, in_dim: int, nz: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(in_dim, 4, 3, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)
        )
        self.fc = nn.Sequential(nn.Linear(64, 2 * nz), nn.BatchNorm1d(2 * nz), nn.LeakyReLU(0.2), nn.Linear(2 * nz, nz))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(x.view(x.shape[0], -1))


class MapEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Parallel(ResNetEncoder(5, 6))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.encoder(torch.cat([x, label], dim=1))


class MapDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(5, 12), nn.LeakyReLU(0.2), nn.Dropout(), nn.Linear(12, 64))
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.conv(self.fc(torch.cat([z, label], dim=1)).view(-1, 4, 4, 4))


class MapVAE(nn.Module):
    """Keeps mean and σ in attributes; numpy draws."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.encoder, self.decoder = 3, Parallel(MapEncoder()), Parallel(MapDecoder())

    def _sample_latent(self, h_enc: Tensor) -> Tensor:
        mu, log_sigma = h_enc[:, : self.z_dim], h_enc[:, self.z_dim :]
        sigma = torch.exp(log_sigma)
        std_z = torch.from_numpy(np.random.normal(0, 1, size=sigma.size())).type(torch.FloatTensor)
        self.z_mean, self.z_sigma = mu, sigma
        return mu + sigma * std_z

    def forward(self, state: Tensor, label1: Tensor, label2: Tensor) -> Tensor:
        return self.decoder(self._sample_latent(self.encoder(state, label1)), label2)


def map_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    y_vec = F.one_hot(y, 2).float()
    y_fill = y_vec[:, :, None, None].expand(-1, -1, *x.shape[2:])
    dec = model(x, y_fill, y_vec)
    mean_sq, stddev_sq = model.z_mean * model.z_mean, model.z_sigma * model.z_sigma
    kl = torch.mean(mean_sq + stddev_sq - torch.log(stddev_sq) - 1) / len(x)
    return F.mse_loss(dec, x) / len(x) * 50.0 + kl


# ------------------------------------------------------------------------------------------------ latent diffusion


class LatentEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.norm_out = nn.Conv2d(3, 8, 4, 2, 1), nn.GroupNorm(4, 8)
        self.conv_out = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(self.conv_in(x))))


class LatentDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.norm_out = nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.conv_out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv_out(F.interpolate(F.silu(self.norm_out(self.conv_in(z))), scale_factor=2.0))


class DiagonalDraw(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, raw = torch.chunk(x, 2, dim=1)
        logvar = raw.clamp(-30.0, 20.0)
        std = (0.5 * logvar).exp()
        z = mean + std * torch.randn(mean.shape, generator=None, device=x.device)
        kl = 0.5 * torch.sum(torch.pow(mean, 2) + torch.exp(logvar) - 1.0 - logvar) / x.shape[0]
        return z, kl, mean, std


class NoisyCodes(nn.Module):
    """The nearest code of a mean, reached by the mean plus σ times what is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.embedding_proj = nn.Embedding(7, 4), nn.Linear(4, 4)

    def vq_forward(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = mean.permute(0, 2, 3, 1).contiguous()
        flat, codes = z.view(-1, 4), self.embedding_proj(self.embedding.weight)
        d = flat.pow(2).sum(1, keepdim=True) + codes.pow(2).sum(1) - 2 * torch.einsum("bd,nd->bn", flat, codes)
        nearest = torch.argmin(d, dim=1)
        z_q = F.embedding(nearest, codes).view(z.shape).permute(0, 3, 1, 2).contiguous()
        epsilon = (z_q - mean) / std
        z_i = mean + std * epsilon.detach()
        return z_i + z_q - z_q.detach(), epsilon, nearest


class VAEVQ(nn.Module):
    """A continuous and a discrete reconstruction; the KL is computed and, in the version read, left out of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.vae_quantizer, self.quantize = DiagonalDraw(), NoisyCodes()
        self.encoder, self.decoder = LatentEncoder(), LatentDecoder()
        self.discriminator = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, padding=1))
        self.codebook_count = [0] * 7

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_c, _loss_kl, mean, std = self.vae_quantizer(self.encoder(x))
        z_q, epsilon, indices = self.quantize.vq_forward(mean, std)
        for index in indices.unique():
            self.codebook_count[index] = 1
        return self.decoder(z_c), self.decoder(z_q), (0.5 * epsilon.pow(2)).mean()


def vaevq_loss(model: Any, x: Tensor) -> Tensor:
    """The generator's step; the perceptual distance is left out."""
    c_rec, q_rec, eloss = model(x)
    rec = (torch.abs(x - c_rec) + torch.abs(x - q_rec)) / 2.0
    logits = (model.discriminator(c_rec) + model.discriminator(q_rec)) / 2.0
    return rec.mean() + 0.1 * F.softplus(-logits.mean((1, 2, 3))).mean() + eloss


def clamped_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * torch.clamp(v, -30.0, 20.0))


# ------------------------------------------------------------------------------------------------ anomaly detection


class FashionVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU())
        self.mu, self.logvar = nn.Linear(12, 4), nn.Linear(12, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 16), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        return self.decoder(draw_half(mu, logvar)), mu, logvar


def fashion_loss(model: Any, x: Tensor) -> Tensor:
    x_hat, mu, logvar = model(x)
    return F.binary_cross_entropy(x_hat, x.view(-1, 16), reduction="sum") + 4.0 * kl_to_unit(mu, logvar)


class Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class SignedEncoder(nn.Module):
    """The raw value is σ, of either sign; only its square and its product with the noise are used."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = 4
        self.en_conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ELU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 1, 1))
        self.en_dense = nn.Sequential(Flatten(), nn.Linear(64, 12), nn.ELU(), nn.Linear(12, 2 * self.z_dim))

    def split_z(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, : self.z_dim], z[:, self.z_dim :]

    def sample_z(self, mu: Tensor, sigma: Tensor) -> Tensor:
        return mu + (sigma * torch.randn_like(mu))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_mu, z_sigma = self.split_z(z=self.en_dense(self.en_conv(x)))
        return self.sample_z(mu=z_mu, sigma=z_sigma), z_mu, z_sigma


class SignedVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = SignedEncoder()
        self.de_dense = nn.Sequential(nn.Linear(4, 12), nn.ELU(), nn.Linear(12, 64), nn.ELU())
        self.de_conv = nn.Sequential(
            nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ELU(), nn.Conv2d(4, 1, 3, 1, 1), nn.Sigmoid()
        )


def signed_loss(model: Any, x: Tensor) -> Tensor:
    z_enc, mu, sigma = model.encoder(x)
    x_hat = model.de_conv(model.de_dense(z_enc).view(-1, 4, 4, 4))
    error = -torch.sum(x * torch.log(x_hat + 1e-12) + (1 - x) * torch.log(1 - x_hat + 1e-12), dim=(1, 2, 3))
    kl = 0.5 * torch.sum(mu**2 + sigma**2 - torch.log(sigma**2 + 1e-12) - 1, dim=1)
    return torch.mean(error + kl)


# ------------------------------------------------------------------------------------------------ medical images


class LatentZ(nn.Module):
    """Emits, and draws, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.mu(h), self.logvar(h)
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std, mu, logvar


class OasisVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        self.latent = LatentZ()
        self.decoder = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 16), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, mu, logvar = self.latent(self.encoder(x))
        return self.decoder(z), mu, logvar, z


class ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.block(x))


class MriVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), ResBlock(4), nn.Flatten())
        self.fc_mu, self.fc_logvar, self.decoder_input = nn.Linear(64, 5), nn.Linear(64, 5), nn.Linear(5, 64)
        self.decoder = nn.Sequential(ResBlock(4), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return self.decoder(self.decoder_input(draw_half(mu, logvar)).view(-1, 4, 4, 4)), mu, logvar


def mri_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_var = model(x)
    return F.mse_loss(recon, x, reduction="sum") + 0.1 * kl_to_unit(mu, log_var)


# ------------------------------------------------------------------------------------------------ 3-D shapes


class GraphMLP(nn.Module):
    """PyTorch Geometric's: the last layer is plain, and its dropout rate is zero."""

    def __init__(self, widths: Sequence[int], dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.dropout = [dropout] * (len(widths) - 2) + [0.0]
        self.lins = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(w) if norm else nn.Identity() for w in widths[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        for lin, norm, rate in zip(self.lins, self.norms, self.dropout, strict=False):
            x = F.dropout(F.relu(norm(lin(x))), p=rate, training=self.training)
        return F.dropout(self.lins[-1](x), p=self.dropout[-1], training=self.training)


class SetAbstraction(nn.Module):
    def __init__(self, radius: float, mlp: GraphMLP) -> None:
        super().__init__()
        self.radius, self.conv = radius, mlp

    def forward(self, x: Tensor, pos: Tensor) -> tuple[Tensor, Tensor]:
        centres = pos[::2]
        near = torch.cdist(centres, pos) < self.radius
        to, of = near.nonzero(as_tuple=True)
        messages = self.conv(torch.cat([x[of], pos[of] - centres[to]], 1))
        pooled = torch.full((len(centres), messages.size(1)), -1e9)
        index = to[:, None].expand_as(messages)
        return pooled.scatter_reduce(0, index, messages, "amax", include_self=False), centres


class SignedDistanceVAE(nn.Module):
    """One shape a batch; its distance at some places is decoded from one code."""

    def __init__(self) -> None:
        super().__init__()
        self.sa1_module = SetAbstraction(0.5, GraphMLP([4, 6, 6]))
        self.sa3_module = GraphMLP([9, 8, 8])
        self.encode = GraphMLP([8, 6], dropout=0.4, norm=False)
        self.mlp_mu, self.mlp_logvar = (
            GraphMLP([6, 6], dropout=0.2, norm=False),
            GraphMLP([6, 6], dropout=0.2, norm=False),
        )
        self.sdf1, self.sdf2 = GraphMLP([9, 8, 6], norm=False), GraphMLP([9, 6, 1], norm=False)

    def forward(self, x: Tensor, pos: Tensor, query_pos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, pos = self.sa1_module(x, pos)
        h = self.encode(self.sa3_module(torch.cat([x, pos], 1)).amax(0, keepdim=True))
        mu, logvar = self.mlp_mu(h), self.mlp_logvar(h)
        z = draw_half(mu, logvar)
        out = self.sdf1(torch.cat((z.repeat(query_pos.shape[0], 1), query_pos), dim=-1))
        return torch.tanh(self.sdf2(torch.cat((out, query_pos), dim=-1))), mu, logvar


def signed_distance_loss(model: Any, sdf: Tensor, pos: Tensor, query_pos: Tensor, query_sdf: Tensor) -> Tensor:
    query_pos = query_pos.detach().requires_grad_()
    out, mu, logvar = model(sdf, pos, query_pos)
    slope = torch.autograd.grad(out.sum(), query_pos, create_graph=True)[0]
    eikonal = (slope.norm(2, dim=1) - 1).square().mean()
    return F.mse_loss(out.squeeze(-1), query_sdf) + 0.001 * eikonal + 0.001 * kl_to_unit(mu, logvar)


def shared_mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(n_in, n_out, 1), nn.BatchNorm1d(n_out), nn.LeakyReLU())


def linear_mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.LeakyReLU())


class PointEncoder(nn.Module):
    """It draws inside, and the noise has the shape of a variance that nothing else uses."""

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.MLP1, self.MLP2 = shared_mlp(3, 6), nn.Sequential(shared_mlp(6, 6), shared_mlp(6, 8))
        self.fc_mu = nn.Sequential(linear_mlp(8, z_dim), nn.Linear(z_dim, z_dim))
        self.fc_var = nn.Sequential(linear_mlp(8, z_dim), nn.Linear(z_dim, z_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        point_feature = self.MLP1(x)
        feature = torch.max(self.MLP2(point_feature), dim=2)[0]
        mu, log_var = self.fc_mu(feature), self.fc_var(feature)
        eps = torch.randn_like(torch.exp(log_var))
        return point_feature, mu, log_var, mu + torch.exp(0.5 * log_var) * eps


class PointVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = PointEncoder(5)
        self.decoder = nn.Sequential(linear_mlp(5, 10), linear_mlp(10, 30), nn.Linear(30, 30))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        _, mu, log_var, z = self.encoder(x)
        return mu, log_var, z, self.decoder(z).view(x.size(0), 10, 3)


def point_loss(model: Any, cloud: Tensor) -> Tensor:
    mu, log_var, _, prediction = model(cloud)
    apart = (prediction[:, :, None] - cloud.permute(0, 2, 1)[:, None]).pow(2).sum(-1)
    return kl_to_unit(mu, log_var) + 5e7 * (apart.amin(2).mean() + apart.amin(1).mean())


# ------------------------------------------------------------------------------------------------ molecules


class SmilesEncoder(nn.Module):
    """Mean and log variance each pass a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(8, 5, 3), nn.BatchNorm1d(5)
        self.conv2, self.bn2 = nn.Conv1d(5, 5, 3), nn.BatchNorm1d(5)
        self.fc1, self.fc21, self.fc22 = nn.Linear(40, 10), nn.Linear(10, 10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = self.fc1(x.flatten().view(x.shape[0], -1))
        return F.relu(self.fc21(x)), F.relu(self.fc22(x))


class SmilesDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc3, self.gru = nn.Linear(10, 10), nn.GRU(10, 9, 2, batch_first=True)
        self.seq = nn.Sequential(nn.Linear(9, 12), nn.Softmax(dim=-1))

    def forward(self, z: Tensor) -> Tensor:
        out, _ = self.gru(F.relu(self.fc3(z)).unsqueeze(1).repeat(1, 8, 1))
        return self.seq(out)


class ChemVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = SmilesEncoder(), SmilesDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        return self.decoder(draw_half(mu, logvar)), mu, logvar


def chem_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    kld = -0.5 * torch.mean(1.0 + logvar - mu**2.0 - torch.exp(logvar))
    return F.binary_cross_entropy(recon, x, reduction="sum") + kld


def relu_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.relu(v))


class TokenEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 8, batch_first=True)
        self.mean_lin, self.logvar_lin = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        _, hidden = self.rnn(embedded)
        hidden = hidden.permute(1, 0, 2).contiguous().view(embedded.size(0), -1)
        return self.mean_lin(hidden), -torch.abs(self.logvar_lin(hidden))


class TokenDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding_dropout, self.outputs_dropout = nn.Dropout(0.5), nn.Dropout(0.5)
        self.rnn, self.latent2hidden = nn.GRU(5, 8, batch_first=True), nn.Linear(4, 8)
        self.outputs2vocab = nn.Linear(8, 7)

    def forward(self, embedded: Tensor, latent: Tensor) -> Tensor:
        hidden = torch.tanh(self.latent2hidden(latent).view(-1, 1, 8).permute(1, 0, 2).contiguous())
        outputs, _ = self.rnn(self.embedding_dropout(embedded), hidden)
        return self.outputs2vocab(self.outputs_dropout(outputs))


class RebalancedVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder, self.decoder = nn.Embedding(7, 5), TokenEncoder(), TokenDecoder()

    def forward(self, sequence: Tensor, epsilon_std: float = 1.0) -> tuple[Tensor, ...]:
        embedded = self.embedding(sequence[:, :-1])
        mean, logv = self.encoder(embedded)
        epsilon = torch.FloatTensor(len(sequence), 4).normal_(0, epsilon_std)
        z = mean + torch.exp(0.5 * logv) * epsilon
        return self.decoder(embedded, z), mean, logv, z


def rebalanced_loss(model: Any, x: Tensor) -> Tensor:
    x_hat, mean, log_var, _ = model(x)
    xent = F.cross_entropy(x_hat.contiguous().view(-1, 7), x[:, 1:].contiguous().view(-1), reduction="sum")
    return (xent + 0.01 * kl_to_unit(mean, log_var)) / x.size(0)


def negative_abs_half(v: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.abs(v))


# ------------------------------------------------------------------------------------------------ tables


class MixedTabularVAE(nn.Module):
    """Embeddings of the categories are its input and, again, its target."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(2, 1), nn.Embedding(3, 2)])
        self.fc1, self.fc_mu, self.fc_logvar = nn.Linear(5, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.fc3, self.fc4 = nn.Linear(4, 12), nn.Linear(12, 5)

    def embedded(self, cont: Tensor, cat: Tensor) -> Tensor:
        return torch.cat([cont, *(layer(cat[:, i]) for i, layer in enumerate(self.embeddings))], 1)

    def forward(self, cont: Tensor, cat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.fc1(self.embedded(cont, cat)))
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return self.fc4(torch.relu(self.fc3(draw_half(mu, logvar)))), mu, logvar


def mixed_loss(model: Any, cont: Tensor, cat: Tensor) -> Tensor:
    recon, mu, logvar = model(cont, cat)
    return F.mse_loss(recon, model.embedded(cont, cat), reduction="sum") + kl_to_unit(mu, logvar)


class TableVAE(nn.Module):
    """TVAE told again by a user: the parameter is σ, and has an element for every column of the encoded table."""

    spans = (("tanh", 1), ("softmax", 3), ("tanh", 1), ("softmax", 2))

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 7))
        self.sigma = nn.Parameter(torch.ones(7) * 0.1)

    def reparameterization(self, mu: Tensor, var: Tensor) -> Tensor:
        return mu + var * torch.randn_like(var)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        distributions = self.encoder(x)
        mu, logvar = distributions[:, :2], distributions[:, 2:]
        z = self.reparameterization(mu, torch.exp(0.5 * logvar))
        return mu, logvar, z, self.decoder(z)


def table_loss(model: Any, x: Tensor) -> Tensor:
    mu, logvar, _, xhat = model(x)
    start, recon = 0, 0.0
    for activation, width in model.spans:
        end = start + width
        if activation == "softmax":
            recon += F.cross_entropy(xhat[:, start:end], torch.argmax(x[:, start:end], dim=-1))
        else:
            std = model.sigma[start]
            missed = x[:, start] - torch.tanh(xhat[:, start])
            recon += (missed.square() / (2 * std**2)).mean() + std.log()
        start = end
    kld = torch.pow(mu, 2).sum(1)
    kld += torch.exp(logvar).sum(1)
    kld -= 2
    kld -= logvar.sum(1)
    kld *= 0.5
    return recon + kld.mean()


def table_rows() -> tuple[Tensor]:
    first, second = F.one_hot(tokens(3, 6), 3).float(), F.one_hot(tokens(2, 6, seed=9), 2).float()
    return (torch.cat([rand(6, 1), first, rand(6, 1, seed=10), second], 1),)


def identity(v: Tensor) -> Tensor:
    return v


# ------------------------------------------------------------------------------------------------ compression


class CumulativePart(nn.Module):
    def __init__(self, channels: int, final: bool = False) -> None:
        super().__init__()
        self.h = nn.Parameter(0.01 * torch.randn(1, channels, 1, 1))
        self.b = nn.Parameter(0.01 * torch.randn(1, channels, 1, 1))
        self.a = None if final else nn.Parameter(0.01 * torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * F.softplus(self.h) + self.b
        return torch.sigmoid(x) if self.a is None else x + torch.tanh(x) * torch.tanh(self.a)


class ScaleDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deconv1, self.relu1 = nn.ConvTranspose2d(2, 4, 4, 2, 1), nn.ReLU()
        self.deconv3 = nn.ConvTranspose2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.deconv3(self.relu1(self.deconv1(x))))


class LaplaceCompressor(nn.Module):
    """Called Gaussian in its code, a Laplace by its class."""

    def __init__(self) -> None:
        super().__init__()
        self.Encoder, self.Decoder = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.priorEncoder, self.priorDecoder = nn.Conv2d(4, 2, 4, 2, 1), ScaleDecoder()
        self.bitEstimator_z = nn.Sequential(CumulativePart(2), CumulativePart(2), CumulativePart(2, True))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.Encoder(image)
        z = self.priorEncoder(torch.abs(feature))
        compressed_z = z + nn.init.uniform_(torch.zeros_like(z), -0.5, 0.5)
        recon_sigma = self.priorDecoder(compressed_z)
        compressed = feature + nn.init.uniform_(torch.zeros_like(feature), -0.5, 0.5)
        sigma = recon_sigma.clamp(1e-10, 1e10)
        gaussian = Laplace(torch.zeros_like(sigma), sigma)
        probs = gaussian.cdf(compressed + 0.5) - gaussian.cdf(compressed - 0.5)
        probs_z = self.bitEstimator_z(compressed_z + 0.5) - self.bitEstimator_z(compressed_z - 0.5)
        total = sum(torch.sum(torch.clamp(-torch.log(p + 1e-10) / math.log(2.0), 0, 50)) for p in (probs, probs_z))
        return torch.mean((self.Decoder(compressed) - image).pow(2)), total / image[:, 0].numel()


def rate_distortion(model: Any, image: Tensor) -> Tensor:
    mse, bpp = model(image)
    return 2048 * mse + bpp


class PackageLowerBound(nn.Module):
    """CompressAI's: its gradient leads upward below the bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound]))

    def forward(self, x: Tensor) -> Tensor:
        return LowerBound.apply(x, self.bound)


class PackageGaussian(GaussianConditional):
    """CompressAI's conditional Normal: the mass of an interval of length one, of the noisy value."""

    def __init__(self) -> None:
        super().__init__()
        self.lower_bound_scale, self.likelihood_lower_bound = PackageLowerBound(0.11), PackageLowerBound(1e-9)


def ste_round(x: Tensor) -> Tensor:
    return torch.round(x) - x.detach() + x


def slice_transform(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 6, 3, padding=1), nn.GELU(),
        nn.Conv2d(6, n_out, 3, padding=1),
    )  # fmt: skip


class SliceCompressor(nn.Module):
    """Each slice of the latent is coded given those before it, with a network of its own for mean and for scale."""

    def __init__(self, slices: int = 2) -> None:
        super().__init__()
        self.num_slices = slices
        self.g_a, self.g_s = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.h_a = nn.Conv2d(4, 2, 4, 2, 1)
        self.h_mean_s, self.h_scale_s = nn.ConvTranspose2d(2, 4, 4, 2, 1), nn.ConvTranspose2d(2, 4, 4, 2, 1)
        self.cc_mean_transforms = nn.ModuleList(slice_transform(4 + 2 * i, 2) for i in range(slices))
        self.cc_scale_transforms = nn.ModuleList(slice_transform(4 + 2 * i, 2) for i in range(slices))
        self.lrp_transforms = nn.ModuleList(slice_transform(4 + 2 * (i + 1), 2) for i in range(slices))
        self.entropy_bottleneck, self.gaussian_conditional = HyperDensity(2), PackageGaussian()

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        z = self.h_a(y)
        z_likelihoods = self.entropy_bottleneck(z + torch.empty_like(z).uniform_(-0.5, 0.5))
        z_hat = ste_round(z)
        latent_scales, latent_means = self.h_scale_s(z_hat), self.h_mean_s(z_hat)
        hats, likelihoods = [], []
        for i, y_slice in enumerate(y.chunk(self.num_slices, 1)):
            mean_support = torch.cat([latent_means, *hats], 1)
            mu = self.cc_mean_transforms[i](mean_support)[:, :, : y.shape[2], : y.shape[3]]
            scale = self.cc_scale_transforms[i](torch.cat([latent_scales, *hats], 1))[:, :, : y.shape[2], : y.shape[3]]
            likelihoods.append(self.gaussian_conditional(y_slice, scale, mu)[1])
            y_hat = ste_round(y_slice - mu) + mu
            y_hat = y_hat + 0.5 * torch.tanh(self.lrp_transforms[i](torch.cat([mean_support, y_hat], 1)))
            hats.append(y_hat)
        return {
            "x_hat": self.g_s(torch.cat(hats, 1)),
            "likelihoods": {"y": torch.cat(likelihoods, 1), "z": z_likelihoods},
        }


def slice_loss(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    bpp = sum(torch.log(mass).sum() / (-math.log(2) * x[:, 0].numel()) for mass in out["likelihoods"].values())
    return 1e-2 * 255**2 * F.mse_loss(out["x_hat"], x) + bpp


# ------------------------------------------------------------------------------------------------ Bayesian networks


class LogSigmaLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int, prior_std: float = 1e-3) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(0.1 * torch.randn(n_out, n_in))
        self.weight_log_sigma = nn.Parameter(torch.full((n_out, n_in), -4.0))
        self.bias_mu = nn.Parameter(0.1 * torch.randn(n_out))
        self.bias_log_sigma = nn.Parameter(torch.full((n_out,), -4.0))
        self.prior_std = prior_std

    def forward(self, x: Tensor) -> Tensor:
        pairs = ((self.weight_mu, self.weight_log_sigma), (self.bias_mu, self.bias_log_sigma))
        return F.linear(x, *(mu + torch.exp(log_sigma) * torch.randn_like(mu) for mu, log_sigma in pairs))

    def part(self, mu: Tensor, log_sigma: Tensor) -> Tensor:
        sigma = torch.exp(log_sigma)
        return torch.sum(torch.log(self.prior_std / sigma) + (sigma**2 + mu**2) / (2 * self.prior_std**2) - 0.5)

    def kl_divergence(self) -> Tensor:
        return self.part(self.weight_mu, self.weight_log_sigma) + self.part(self.bias_mu, self.bias_log_sigma)


class BackpropDemo(nn.Module):
    """The likelihood's σ is the spread of several passes, no output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([LogSigmaLinear(1, 6), LogSigmaLinear(6, 6), LogSigmaLinear(6, 1)])

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.layers
        return last(functools.reduce(lambda h, layer: layer(h).relu(), inner, x))

    def kl_divergence(self) -> Tensor:
        return torch.stack([layer.kl_divergence() for layer in self.layers]).sum()


def demo_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    preds = torch.stack([model(x) for _ in range(5)])
    mean, sigma = preds.mean(0), torch.clamp(preds.std(0), min=1e-15)
    nll = 0.5 * torch.sum((y - mean) ** 2 / sigma**2)
    nll = nll + torch.sum(torch.log(sigma * torch.sqrt(torch.tensor(2 * torch.pi))))
    return nll / y.size(0) + 5e-8 * model.kl_divergence()


class DiagonalWeights(nn.Module):
    """Holds parameters that the layer holds, too."""

    def __init__(self, mu: Tensor, rho: Tensor) -> None:
        super().__init__()
        self.mu, self.rho = mu, rho

    def log_likelihood(self, values: Tensor) -> Tensor:
        softplus = nn.Softplus()
        const = torch.add(torch.zeros(self.rho.shape), -0.5 * math.log(2 * math.pi))
        return (
            const - 0.5 * torch.log(softplus(self.rho) ** 2) - 0.5 / softplus(self.rho) ** 2 * (values - self.mu) ** 2
        )

    def sample(self) -> Tensor:
        epsilon = Normal(0, 1).sample(self.rho.size())
        return self.mu + nn.Softplus()(self.rho) * epsilon


class CourseworkLayer(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.empty(n_out, n_in).uniform_(-0.5, 0.5))
        self.weight_rho = nn.Parameter(torch.empty(n_out, n_in).uniform_(-3.5, -3))
        self.weights_var_posterior = DiagonalWeights(self.weight_mu, self.weight_rho)
        self.bias_mu = nn.Parameter(torch.empty(n_out).uniform_(-0.5, 0.5))
        self.bias_rho = nn.Parameter(torch.empty(n_out).uniform_(-3.5, -3))
        self.bias_var_posterior = DiagonalWeights(self.bias_mu, self.bias_rho)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weights_var_posterior.sample()
        log_prior = -0.5 * len(weights) * math.log(2 * math.pi) - 0.5 * sum(row**2 for row in weights)
        log_posterior = self.weights_var_posterior.log_likelihood(weights)
        return F.linear(x, weights, self.bias_var_posterior.sample()), log_prior, log_posterior


class CourseworkNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CourseworkLayer(5, 8), CourseworkLayer(8, 3)])
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        log_prior, log_posterior = [], []
        for i, layer in enumerate(self.layers):
            x, of_prior, of_posterior = layer(x)
            x = self.activation(x) if i < len(self.layers) - 1 else x
            log_prior.append(of_prior)
            log_posterior.append(of_posterior)
        return x, log_prior, log_posterior


def coursework_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """A slip: the KL is the other way round, of the unit prior to the posterior; and only of the weights."""
    feat, _, _ = model(x)
    loss = 200 * F.cross_entropy(feat, y, reduction="sum")
    for layer in model.layers:
        sigma = F.softplus(layer.weight_rho)
        spread = 2 * torch.log(sigma / torch.tensor(1.0)) - 1 + (torch.tensor(1.0) / sigma).pow(2)
        loss = loss + 0.04 * (spread + (layer.weight_mu / sigma).pow(2)).sum()
    return loss


# ------------------------------------------------------------------------------------------------ regression


class PeptideCNN(nn.Module):
    """Two outputs a cell, side by side."""

    def __init__(self, cells: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 2), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(1))
            for a, b in ((5, 6), (6, 4))
        )
        self.fc1, self.fc2, self.dropout = nn.Linear(24, 10), nn.Linear(10, 2 * cells), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.fc2(self.fc1(self.dropout(torch.flatten(x, 1))))


def regression_loss(y_true: Tensor, y_pred: Tensor) -> Tensor:
    y_true = y_true.reshape(-1, 1)
    mu, log_sig = y_pred[:, :1], y_pred[:, 1:]
    sig = torch.exp(log_sig)
    return torch.mean(2 * log_sig + ((y_true - mu) / sig) ** 2)


def peptide_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    predicted = model(x)
    cells = y.size(1)
    return sum(regression_loss(y[:, i // 2], predicted[:, i : i + 2]) for i in range(0, 2 * cells, 2)) / cells


class FrameAttention(nn.Module):
    """A video's frames, weighted; a mean, and a variance by a softplus and a floor."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1))
        self.W = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
        self.Q, self.P = nn.Linear(6, 5), nn.Linear(5, 1)
        self.variance = nn.Sequential(nn.Linear(5, 1), nn.Softplus())

    def forward(self, y: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        features = torch.reshape(self.model(y), (int(y.shape[0] / frames), frames, 6))
        weights = self.W(features)
        weights = weights / torch.sum(weights, dim=1, keepdim=True)
        reduced = self.Q(features)
        mean = self.P(torch.sum(weights * reduced, dim=1, keepdim=True))
        return mean, 1e-6 + self.variance(torch.sum(weights * reduced, dim=1, keepdim=True))


def beta_nll(model: Any, clip: Tensor, target: Tensor, beta: float = 0.5) -> Tensor:
    mean, variance = model(clip, 2)
    loss = 0.5 * ((target - mean) ** 2 / variance + variance.log())
    return (loss * (variance.detach() ** beta)).sum(dim=-1).mean()


def root_floored_softplus(v: Tensor) -> Tensor:
    return torch.sqrt(1e-6 + F.softplus(v))


# ------------------------------------------------------------------------------------------------ flows


class PlainMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_in, 12), nn.ReLU(), nn.Linear(12, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward(x)


class DetectorVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = PlainMLP(6, 4), PlainMLP(4, 6)
        self.mu, self.log_sigma = nn.Linear(4, 4), nn.Linear(4, 4)

    def reparametrize(self, mu: Tensor, log_sigma: Tensor) -> Tensor:
        return mu + log_sigma.exp() * torch.randn_like(log_sigma)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, log_sigma = self.mu(h), self.log_sigma(h)
        return self.decoder(self.reparametrize(mu, log_sigma)), mu, log_sigma


def detector_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_sigma = model(x)
    kl = -0.5 * (1 + 2 * log_sigma - mu.pow(2) - (2 * log_sigma).exp()).sum(dim=-1).mean()
    return F.mse_loss(recon, x) + kl


class NormedConv(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        self.actnorm = ActNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.actnorm(self.conv(x))[0]


class ZeroConv(nn.Module):
    """A convolution that starts at zero, in a module that multiplies its output by a learned positive factor."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv.weight.data.zero_()
        self.conv.bias.data.zero_()
        self.logs = nn.Parameter(torch.zeros(n_out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.exp(self.logs * 3)


class InvertibleConv(nn.Module):
    """A product of a permutation and two triangles."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        p, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(channels, channels))[0])
        s = torch.diag(upper)
        self.register_buffer("p", p)
        self.register_buffer("sign_s", torch.sign(s))
        self.lower, self.log_s = nn.Parameter(lower), nn.Parameter(torch.log(torch.abs(s)))
        self.upper = nn.Parameter(torch.triu(upper, 1))
        self.l_mask, self.eye = torch.tril(torch.ones(channels, channels), -1), torch.eye(channels)

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        lower = self.lower * self.l_mask + self.eye
        upper = self.upper * self.l_mask.t() + torch.diag(self.sign_s * torch.exp(self.log_s))
        weight = torch.matmul(self.p, torch.matmul(lower, upper))
        return F.conv2d(x, weight[..., None, None]), logdet + torch.sum(self.log_s) * x.size(2) * x.size(3)


class GlowStep(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.actnorm, self.invconv = ActNorm2d(channels), InvertibleConv(channels)
        self.block = nn.Sequential(
            NormedConv(channels // 2, 6, 3), nn.ReLU(), NormedConv(6, 6, 1), nn.ReLU(), ZeroConv(6, channels)
        )

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        z, logdet = self.invconv(*self.actnorm(x, logdet))
        z1, z2 = z.chunk(2, 1)
        shift, scale = split_feature(self.block(z1), "cross")
        scale = torch.sigmoid(scale + 2.0)
        z2 = (z2 + shift) * scale
        return torch.cat((z1, z2), 1), torch.sum(torch.log(scale), dim=[1, 2, 3]) + logdet


def split_feature(x: Tensor, how: str = "split") -> tuple[Tensor, Tensor]:
    half_way = x.size(1) // 2
    return (x[:, :half_way], x[:, half_way:]) if how == "split" else (x[:, 0::2], x[:, 1::2])


class GlowSplit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv(channels // 2, channels)

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        z1, z2 = split_feature(x)
        mean, logs = split_feature(self.conv(z1), "cross")
        return z1, diagonal_logp(mean, logs, z2) + logdet


class Squeeze(nn.Module):
    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), logdet


class GlowFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Squeeze(), GlowStep(4), GlowSplit(4), Squeeze(), GlowStep(8)])

    def forward(self, x: Tensor, logdet: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x, logdet = layer(x, logdet)
        return x, logdet


class LearnTopGlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flow, self.learn_top_fn = GlowFlow(), ZeroConv(16, 16)
        self.register_buffer("prior_h", torch.zeros(1, 16, 2, 2))

    def prior(self, data: Tensor) -> tuple[Tensor, Tensor]:
        return split_feature(self.learn_top_fn(self.prior_h.repeat(data.shape[0], 1, 1, 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Adds its noise to the batch in place."""
        pixels = x[0].numel()
        x += torch.zeros_like(x).uniform_(0, 1.0 / 256)
        z, objective = self.flow(x, -math.log(256) * pixels * torch.ones(x.size(0)))
        mean, logs = self.prior(x)
        objective = objective + diagonal_logp(mean, logs, z)
        return z, (-objective) / (math.log(2.0) * pixels)


def bits_per_dimension(model: Any, x: Tensor) -> Tensor:
    return torch.mean(model(x)[1])


# ------------------------------------------------------------------------------------------------ controls


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.fc3 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max(F.relu(self.bn1(self.conv1(x))), 2)[0]
        return (self.fc3(x) + torch.eye(3).view(1, 9)).view(-1, 3, 3)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stn, self.conv1, self.conv3 = SpatialTransformer(), nn.Conv1d(3, 6, 1), nn.Conv1d(6, 10, 1)
        self.bn1, self.bn3 = nn.BatchNorm1d(6), nn.BatchNorm1d(10)
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.bn4, self.bn5, self.dropout = nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trans = self.stn(x)
        x = torch.bmm(x.transpose(2, 1), trans).transpose(2, 1)
        x = torch.max(self.bn3(self.conv3(F.relu(self.bn1(self.conv1(x))))), 2)[0]
        x = F.relu(self.bn5(self.dropout(self.fc2(F.relu(self.bn4(self.fc1(x)))))))
        return F.log_softmax(self.fc3(x), dim=1), trans


def pointnet_loss(model: Any, cloud: Tensor, label: Tensor) -> Tensor:
    return F.nll_loss(model(cloud)[0], label)


def double_conv(n_in: int, n_out: int) -> nn.Sequential:
    layers = [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
    again = [nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *again)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1 = double_conv(3, 4), nn.Sequential(nn.MaxPool2d(2), double_conv(4, 8))
        self.up, self.conv = nn.ConvTranspose2d(8, 4, 2, stride=2), double_conv(8, 4)
        self.outc = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.up(self.down1(x1))
        dy, dx = x1.size(2) - x2.size(2), x1.size(3) - x2.size(3)
        x2 = F.pad(x2, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.outc(self.conv(torch.cat([x1, x2], 1)))


def unet_loss(model: Any, image: Tensor, mask: Tensor) -> Tensor:
    predicted = model(image)
    probability, truth = F.softmax(predicted, 1), F.one_hot(mask, 2).permute(0, 3, 1, 2).float()
    common, both = 2 * (probability * truth).sum((-1, -2)), probability.sum((-1, -2)) + truth.sum((-1, -2))
    return F.cross_entropy(predicted, mask) + 1 - ((common + 1e-6) / (both + 1e-6)).mean()


class GraphConvolution(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_out)
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return torch.spmm(adj, torch.mm(x, self.weight)) + self.bias


class GCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gc1, self.gc2 = GraphConvolution(5, 8), GraphConvolution(8, 3)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.gc1(x, adj)), 0.5, training=self.training)
        return F.log_softmax(self.gc2(x, adj), dim=1)


def gcn_loss(model: Any, x: Tensor, adj: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(model(x, adj)[:4], labels[:4])


def ring_graph() -> tuple[Tensor, Tensor, Tensor]:
    adj = (torch.eye(7) + torch.eye(7).roll(1, 0) + torch.eye(7).roll(-1, 0)) / 3
    return randn(7, 5), adj.to_sparse(), tokens(3, 7)


def image_encoder(n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(8, n_out, 2, 1, 0, bias=False),
    )  # fmt: skip


class Ganomaly(nn.Module):
    """An encoder, a decoder and a second encoder, whose codes are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1, self.encoder2 = image_encoder(5), image_encoder(5)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(5, 8, 2, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.ReLU(True),
            nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        layers = list(image_encoder(1).children())
        self.features, self.classifier = nn.Sequential(*layers[:-1]), nn.Sequential(layers[-1], nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent_i = self.encoder1(x)
        fake = self.decoder(latent_i)
        return fake, latent_i, self.encoder2(fake)


def ganomaly_loss(model: Any, x: Tensor) -> Tensor:
    """The generator's."""
    fake, latent_i, latent_o = model(x)
    adversarial = torch.mean(torch.pow(model.features(x) - model.features(fake), 2))
    return adversarial + 50 * F.l1_loss(fake, x) + torch.mean(torch.pow(latent_o - latent_i, 2))


# ------------------------------------------------------------------------------------------------ cases


def weights_of(layers: int, *names: str, sigma: Any) -> tuple[TrueHead, ...]:
    return tuple(posterior(f"layers.{i}.{name}", sigma=sigma) for i in range(layers) for name in names)


# fmt: off
CASES = (
    PublicCase(
        "CLUB",
        Retold(
            "ChicForX/CLUB_impl", "db4ab3258be0f7a0cbea4d4070cb0b3188a6e2ad", "nets.py, layer_utils.py, main.py",
        ),
        Club, lambda: (rand(6, 3, 8, 8), tokens(3, 6), rand(6, seed=9)), (posterior("encoder.fc_log_sigma"),),
        club_loss, truth="layer_utils.py reparameterize: std = exp(0.5 logvar); kl_div_for_gaussian of the same",
    ),
    PublicCase(
        "Convolutional VAE (pravn)",
        Retold("pravn/conv_VAE", "3fea88dfab1d88e0b174005af69fa445484119e3", "convdeconv_stride_VAE.py"),
        DeconvVAE, images(1, 12), (posterior("fc22"),), deconv_loss,
        truth="reparameterize: logvar.mul(0.5).exp_(), in training only; KL divided in place",
    ),
    PublicCase(
        "VAE Vanilla",
        Retold("ac-alpha/VAEs-using-Pytorch", "b4b2d1767a47488c5596b803adafd3e37395c9d8", "VAE.ipynb"),
        NotebookVAE, rows(), (posterior("fc2_sig"),), bce_and_kl, truth="VAE.ipynb: std = exp(0.5 logvar), KL summed",
    ),
    PublicCase(
        "BernoulliVAE (yoonholee)",
        Retold(
            "yoonholee/pytorch-vae", "9dc44aae64f0e2896427ce955a48733d6315bb2d",
            "model/vae_base.py, model/bernoulli_vae.py, main.py",
        ),
        ImportanceVAE, rows(), (posterior("enc_sig", sigma=F.softplus),), lambda model, x: model(x)["loss"].mean(),
        truth="bernoulli_vae.py encode: Normal(mu, softplus(_std)); main.py: one sample, densities and no analytic KL "
        "by default",
    ),
    PublicCase(
        "PyTorch tutorial VAE (yunjey)",
        Retold(
            "yunjey/pytorch-tutorial", "0500d3df5a2a8080ccfccbc00aca0eacc21818db",
            "tutorials/03-advanced/variational_autoencoder/main.py",
        ),
        TutorialVAE, rows(), (posterior("fc3"),), bce_and_kl, truth="main.py: std = exp(log_var / 2), KL summed",
    ),
    PublicCase(
        "Pytorch-VAE-tutorial",
        Retold(
            "Jackson-Kang/Pytorch-VAE-tutorial", "ae227c560ee09a92c9e57088d093022882327b46",
            "01_Variational_AutoEncoder.ipynb",
        ),
        GaussianMLP, rows(), (posterior("Encoder.FC_var"),), bce_and_kl,
        truth="Model.forward: exp(0.5 log_var), which the sampler calls var; KL of log_var",
    ),
    PublicCase(
        "Conditioned VAE",
        Retold(
            "irfanbykara/Conditioned-Vae-Neat-Pytorch-Implementation-From-Scratch",
            "b7298ea93e989483857ff2aa3b0d17a29946b52e", "modules.py, models.py, losses.py",
        ),
        ConditionedVAE, lambda: (rand(6, 1, 8, 8), tokens(3, 6)),
        (posterior("encoder_module.fc_logvar", sigma=torch.abs),), conditioned_loss,
        truth="models.py sample: mean + log_std * epsilon, so |v| is σ; a slip: losses.py takes v as log variance. σ "
        "is what draws. Hard to decide: the two do not agree",
    ),
    PublicCase(
        "AnnealVAE",
        Retold(
            "MercuriXito/DisVAEs", "31b4af0e7c2136cc684d762c88359f33ed8f48c7",
            "models/annealvae.py, models/vanilla_vae.py, models/losses.py, train.py, configs/annealvae.yml",
        ),
        AnnealVAE, lambda: (bits(4, 1, 8, 8),), (posterior("logvar_net"),), anneal_loss,
        truth="vanilla_vae.py _sample_latent: randn * exp(0.5 logvar) + mu; losses.py: KL a dimension",
    ),
    PublicCase(
        "BetaVAE (PML2025)",
        Retold(
            "carlodenardin/PML2025", "91c361d87b13b9ff683d22cba9e97dc5162ce9fd",
            "src/models/base_vae.py, src/models/beta_vae.py, src/models/shared_networks.py",
        ),
        StepwiseBetaVAE, lambda: (bits(4, 1, 8, 8), tokens(3, 4)), (posterior("encoder.fc_logvar"),), training_step,
        truth="base_vae.py _reparameterize: exp(0.5 logvar); _compute_losses: KL",
    ),
    PublicCase(
        "VAE/GAN (edchengg)",
        Retold("edchengg/VAE_GAN", "3541eb6efc42b78d8905d6d11a9fbbb82c6304a3", "vae_gan.py, main.py"),
        VaeGan, lambda: (2 * rand(6, 16) - 1,), (posterior("encoder.en_x_4_sigma"),), vae_gan_loss,
        truth="vae_gan.py: called sigma, said to be the log variance, drawn with logvar.mul(0.5).exp_(); main.py: KL. "
        "The three steps' losses of encoder and decoder are summed",
    ),
    PublicCase(
        "VAE lab, non-uniform encoder",
        Retold(
            "arkrp/vae-lab", "aae6962fab6c0a55181507a6b27694766de561da",
            "src/Model/NonUniformEncoder.py, src/Model/Decoder.py, src/Loss/VAElosses.py, src/experiment_1/main.py",
        ),
        LabVAE, lambda: (rand(6, 1, 4, 4),), (posterior("encoder.estack.7", 4, 8, floored_abs),), lab_loss,
        truth="NonUniformEncoder.py: stdev = 0.05 + |v|; the decoder's stdev is a number. A slip: the prior's density "
        "is of the mean",
    ),
    PublicCase(
        "CVAE-GAN (YuliangXiu)",
        Retold(
            "YuliangXiu/CVAE-GAN", "00d86890e87f4f55af4bfa66b0b92015d8ef1983", "models/networks.py, models/cvae.py",
        ),
        MapVAE, lambda: (2 * rand(6, 3, 8, 8) - 1, tokens(2, 6)),
        (posterior("encoder.module.encoder.module.fc.3", 3, 6, torch.exp),), map_loss,
        truth="networks.py _sample_latent: the second half is log σ; latent_loss of σ²; numpy draws. No discriminator "
        "is left in the version read",
    ),
    PublicCase(
        "VAEVQ",
        Retold(
            "script-Yang/VAEVQ", "897521c262d496fd061c24e0ecb2fe76f580929e",
            "taming/models/vq.py, taming/models/vae_utils.py, taming/modules/vqvae/quantize.py, "
            "taming/modules/losses/vqperceptual.py",
        ),
        VAEVQ, images(), (posterior("encoder.conv_out", 4, 8, clamped_half),), vaevq_loss,
        truth="vae_utils.py: exp(0.5 clamp(logvar, -30, 20)), drawn; the KL is computed, and not in the loss; the same "
        "σ divides the distance to the nearest code. Hard to decide: without KL, what is drawn and sees the data is "
        "still the posterior",
    ),
    PublicCase(
        "torch-to",
        Retold("vinaihanu/torch-to", "196fe13cd350c9f463baa654ac24ef9fbcbffec1", "hanu.py"),
        FashionVAE, lambda: (bits(6, 1, 4, 4),), (posterior("logvar"),), fashion_loss,
        truth="hanu.py: std = exp(0.5 logvar), KL times 4",
    ),
    PublicCase(
        "CVAE-AnomalyDetection",
        Retold(
            "YeongHyeon/CVAE-AnomalyDetection-PyTorch", "a0c828a7c5436a74195ec94f863b657066dc5b32",
            "source/neuralnet.py, source/solver.py",
        ),
        SignedVAE, images(1), (posterior("encoder.en_dense.3", 4, 8, torch.abs),), signed_loss,
        truth="neuralnet.py sample_z: mu + sigma * epsilon, no function of the raw value; solver.py: KL of sigma², "
        "with 1e-12 in its logarithm: σ = |v|",
    ),
    PublicCase(
        "Oasis VAE",
        Retold("ToMle101/Oasis_VAE", "8987982cd7229610695303fc57a0033d7986fb20", "vae.py"),
        OasisVAE, rows(), (posterior("latent.logvar"),), bce_and_kl, truth="LatentZ: exp(0.5 logvar); vae_loss: KL",
    ),
    PublicCase(
        "MRIVAE",
        Retold(
            "varnikaumashankar/adVAE", "b73dd17c35d5bfe61276f542915b4d5adec9a276",
            "adVAE/models/mri_vae.py, adVAE/metrics/vae_loss.py, adVAE/training/train_mri.py",
        ),
        MriVAE, images(1), (posterior("fc_logvar"),), mri_loss,
        truth="mri_vae.py: std = exp(0.5 logvar); vae_loss.py: KL times 0.1",
    ),
    PublicCase(
        "PointNet SDF-VAE",
        Retold(
            "lukass16/CPSC-452-Final-Project", "3fc60359e052d63cb06a8905a33394908e81075e",
            "final_model.py, pointnet_sdfvae_simple.ipynb",
        ),
        SignedDistanceVAE,
        lambda: (randn(12, 1), rand(12, 3), rand(9, 3, seed=9), 0.1 * randn(9, seed=10)),
        (posterior("mlp_logvar.lins.0"),), signed_distance_loss,
        truth="final_model.py: exp(0.5 logvar) of an MLP of one layer, whose last dropout PyTorch Geometric sets to "
        "zero; its networks are told again, too",
    ),
    PublicCase(
        "PointVAE",
        Retold("GenMNL/PointCloudVAE", "b9cd003598ae4a2439bb0adc09eff54e628ca3ba", "model.py, module.py, train.py"),
        PointVAE, lambda: (randn(5, 3, 9),), (posterior("encoder.fc_var.1"),), point_loss,
        truth="model.py Encoder: mu + exp(0.5 log_var) * eps; train.py: KL summed",
    ),
    PublicCase(
        "ChemVAE",
        Retold("Masatsugar/generate_smiles", "0ce2a7255ef327aef9c0163bcb9630db05ed32af", "models/customs/chem_vae.py"),
        ChemVAE, lambda: (F.one_hot(tokens(12, 5, 8), 12).float(),), (posterior("encoder.fc22", sigma=relu_half),),
        chem_loss,
        truth="chem_vae.py Encoder: the log variance passes a ReLU; exp(0.5 logvar); KL averaged",
    ),
    PublicCase(
        "Re-balanced VAE",
        Retold(
            "chaoyan1037/Re-balanced-VAE", "e41a39aba4a4d9af8487f8da557a19ca081125d3",
            "vae/vae_models.py, vae/vae_trainer.py, utilities/ops.py",
        ),
        RebalancedVAE, lambda: (tokens(7, 5, 6),), (posterior("encoder.logvar_lin", sigma=negative_abs_half),),
        rebalanced_loss,
        truth="vae_models.py Encoder: logv = -|v|; ops.py sample: exp(0.5 logv); VAELoss",
    ),
    PublicCase(
        "MixedTabularVAE",
        Retold("InvincibleIRMan/SDV_", "d4135702d3a7037340ac6f5eaa924520429488fb", "tutorials/TVAE_tutrorial.py"),
        MixedTabularVAE, lambda: (randn(6, 2), torch.stack([tokens(2, 6), tokens(3, 6, seed=9)], 1)),
        (posterior("fc_logvar"),), mixed_loss, truth="TVAE_tutrorial.py: std = exp(0.5 logvar); loss_fn: KL",
    ),
    PublicCase(
        "TVAE (qw-4735)",
        Retold(
            "qw-4735/VAEs", "fec6ca3c11fb22cea39bc70c19f33c38f3931bfa",
            "TVAE_original/utils/model.py, TVAE_original/utils/train.py",
        ),
        TableVAE, table_rows,
        (posterior("encoder.4", 2, 4), likelihood("sigma", 0, 1, identity), likelihood("sigma", 4, 5, identity)),
        table_loss,
        truth="model.py: exp(0.5 logvar), called var; train.py: the parameter sigma is itself σ, read at the "
        "continuous columns only (0 and 4 here)",
    ),
    PublicCase(
        "ImageCompressor (liujiaheng)",
        Retold(
            "liujiaheng/compression", "cbbe9382254bbd51eb0ed8848390fb21852060a3",
            "model.py, models/synthesis_prior.py, models/bitEstimator.py, train.py",
        ),
        LaplaceCompressor, images(), (), rate_distortion,
        truth="model.py feature_probs_based_sigma: what is called gaussian is a Laplace of scale exp(v): no Normal",
    ),
    PublicCase(
        "TCM",
        Retold("jmliu206/LIC_TCM", "6c6d7a364817a4c372bd210dbbcb175f9172caa0", "models/tcm.py, train.py"),
        SliceCompressor, images(),
        (
            prior("cc_scale_transforms.0.4", sigma=bounded), prior("cc_scale_transforms.1.4", sigma=bounded),
        ), slice_loss,
        truth="models/tcm.py forward: a scale a slice, into CompressAI's GaussianConditional, which bounds it by 0.11; "
        "its attention is left out, convolutions stand for its blocks",
    ),
    PublicCase(
        "Bayes by backprop demo",
        Retold("LorenzoPiu/Bayes_by_backprop_demo", "98038c26f00a4d388e379b972eed78b618c0e3d5", "BNN_video.py"),
        BackpropDemo, lambda: (randn(8, 1), randn(8, 1, seed=9)),
        weights_of(3, "weight_log_sigma", "bias_log_sigma", sigma=torch.exp), demo_loss,
        truth="BayesianLinear: exp(log σ), KL to a prior of a given σ. The likelihood's σ is the standard deviation "
        "over passes: no head of its own",
    ),
    PublicCase(
        "BayesNet (coursework)",
        Retold(
            "lipascal123/probabilistic-AI-hs21", "02f87ec97f5409673edafedd599f2221a3b6c199",
            "task2_bayesian_neural_nets/solution.py",
        ),
        CourseworkNet, lambda: (randn(7, 5), tokens(3, 7)),
        weights_of(2, "weight_rho", "bias_rho", sigma=F.softplus), coursework_loss,
        truth="MultivariateDiagonalGaussian: softplus(rho), drawn by torch's Normal(0, 1); a slip: bayesloss's KL has "
        "the two the wrong way round, and leaves the biases out. Two modules hold each parameter",
    ),
    PublicCase(
        "scPROTEIN, stage 1",
        Retold(
            "TencentAILabHealthcare/scPROTEIN", "571cb88c2ee6e859f6df008ae24044010f7d34cd",
            "peptide_uncertainty_estimation/multi_task_heteroscedastic_regression_model.py, "
            "peptide_uncertainty_estimation/multi_task_heteroscedastic_regression_loss.py",
        ),
        PeptideCNN, lambda: (F.one_hot(tokens(5, 6, 8), 5).float().transpose(1, 2), randn(6, 3, seed=9)),
        (StridedHead("fc2", 1, 6, "likelihood", torch.exp, step=2),), peptide_loss,
        truth="regression_loss: 2 log σ + ((y - mu) / σ)², twice a Normal's; mean and log σ alternate, a pair a cell",
    ),
    PublicCase(
        "MobileNet with a variance (DL_GA)",
        Retold("priyamapatel/DL_GA", "7b84ae26bf72a2c97f021fe65e295fb657996e3b", "model.py, loss.py"),
        FrameAttention, lambda: (rand(8, 3, 8, 8), randn(4, 1, 1, seed=9)),
        (likelihood("variance.0", sigma=root_floored_softplus),), beta_nll,
        truth="model.py: variance = 1e-6 + softplus(v); loss.py: β-NLL, which weighs by the detached variance; no "
        "training script stands there. Convolutions stand for MobileNet's",
    ),
    PublicCase(
        "VAE of flows4ad",
        Retold(
            "Fr0do/flows4ad", "1b6c161798c975f424cd58b5b76365aa9d6e990f",
            "modules/autoencoder/vae.py, modules/loss/vae.py, execution/encoder_engine.py",
        ),
        DetectorVAE, lambda: (randn(6, 6),), (posterior("log_sigma", sigma=torch.exp),), detector_loss,
        truth="vae.py reparametrize: log_sigma.exp(); loss/vae.py: KL of 2 log_sigma",
    ),
    PublicCase(
        "Glow (y0ast)",
        Retold("y0ast/Glow-PyTorch", "13c7b013dde32600e732416f2ed15438d686636f", "model.py, modules.py, train.py"),
        LearnTopGlow, images(1),
        (
            StridedHead("flow.layers.2.conv", 1, 4, "prior", torch.exp, step=2),
            prior("learn_top_fn", 8, 16, torch.exp),
        ), bits_per_dimension,
        truth="modules.py gaussian_p: logs is log σ; Split2d takes every second channel, model.py prior() the second "
        "half; both of Conv2dZeros, a module around a convolution, that multiplies by a learned factor. Couplings and "
        "actnorms are the flow's",
    ),
    PublicCase(
        "PointNetCls",
        Retold(
            "fxia22/pointnet.pytorch", "bafbf401e0af19be3262e448c59313fd2be0e421",
            "pointnet/model.py, utils/train_classification.py",
        ),
        PointNet, lambda: (randn(6, 3, 9), tokens(3, 6)), (), pointnet_loss, truth="classes only",
    ),
    PublicCase(
        "UNet",
        Retold(
            "milesial/Pytorch-UNet", "21d7850f2af30a9695bbeea75f3136aa538cfc4a",
            "unet/unet_parts.py, unet/unet_model.py, train.py",
        ),
        UNet, lambda: (rand(3, 3, 8, 8), tokens(2, 3, 8, 8)), (), unet_loss, truth="a cross entropy and a Dice loss",
    ),
    PublicCase(
        "GCN",
        Retold("tkipf/pygcn", "1600b5b748b3976413d1e307540ccc62605b4d6d", "pygcn/models.py, pygcn/train.py"),
        GCN, ring_graph, (), gcn_loss, truth="classes only, of a sparse graph",
    ),
    PublicCase(
        "GANomaly",
        Retold("samet-akcay/ganomaly", "78da4ea9a99f5b02ab60dd651a18def929176d77", "lib/model.py, lib/networks.py"),
        Ganomaly, lambda: (2 * rand(4, 3, 8, 8) - 1,), (), ganomaly_loss, truth="codes without noise; three distances",
    ),
)
# fmt: on
