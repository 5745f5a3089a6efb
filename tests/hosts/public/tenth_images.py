"""A tenth look: placeholder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from public import PublicCase, Retold
from public.draws import half, rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import bits, images, itself, kl_to_unit, likelihood, posterior, prior

# ------------------------------------------------------------------------------------------------ images


class GarmentEncoder(nn.Module):
    """Early features pass beside the later ones, by a learned weight."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(1, 4, 4)
        self.post_first_conv = nn.Sequential(
            nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 3, 3, 2), nn.BatchNorm2d(3), nn.LeakyReLU(0.2, inplace=True),
        )  # fmt: skip
        self.flatten, self.residual_weight = nn.Flatten(), nn.Parameter(torch.tensor(0.5))
        self.hidden_layer = nn.Sequential(nn.Linear(112, 12), nn.LeakyReLU(0.2), nn.Linear(12, 8), nn.LeakyReLU(0.2))
        self.mu, self.logvar = nn.Linear(8, out), nn.Linear(8, out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.conv_first(x)
        early = self.residual_weight * self.flatten(first)
        h = self.hidden_layer(torch.cat([early, self.flatten(self.post_first_conv(first))], 1))
        return self.mu(h), self.logvar(h)


class GarmentDecoder(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.input_hidden_layer = nn.Sequential(nn.Linear(n_in, 27), nn.LeakyReLU(0.2), nn.Unflatten(1, (3, 3, 3)))
        self.layers = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
        self.skip_projection, self.output_conv = nn.ConvTranspose2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 1, 3)
        self.residual_weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, z: Tensor) -> Tensor:
        x = self.input_hidden_layer(z)
        return self.output_conv(self.layers(x) + self.residual_weight * self.skip_projection(x))


class GarmentDraw(nn.Module):
    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + std * torch.randn_like(std)


class GarmentVAE(nn.Module):
    """Hands the bounded log variances on, to its loss, too."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder, self.reparameterization, self.decoder = GarmentEncoder(code), GarmentDraw(), GarmentDecoder(code)

    def forward(self, x: Tensor, sample: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        mu, raw = self.encoder(x)
        logvar = torch.clamp(raw, min=-10.0, max=10.0)
        z = self.reparameterization(mu, logvar) if sample else mu
        return self.decoder(z), mu, logvar


def garment_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    error = F.binary_cross_entropy_with_logits(recon, x, reduction="sum")
    return error / len(x) + kl_to_unit(mu, logvar) / len(x)


class CaptionMean(nn.Module):
    """The mean of a caption's embedded words, padding left out."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        seen = (ids != 0).float().unsqueeze(-1)
        return (self.embedding(ids) * seen).sum(1) / seen.sum(1).clamp(min=1.0)


class CaptionVAE(nn.Module):
    def __init__(self, latent: int = 4, words: int = 9, width: int = 3) -> None:
        super().__init__()
        self.text_encoder = CaptionMean(words, width)
        self.encoder_cnn = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.fc_hidden = nn.Sequential(nn.Linear(24 + width, 10), nn.ReLU(inplace=True))
        self.fc_mu, self.fc_logvar = nn.Linear(10, latent), nn.Linear(10, latent)
        self.decoder_fc = nn.Sequential(
            nn.Linear(latent + width, 10), nn.ReLU(inplace=True), nn.Linear(10, 24), nn.ReLU(inplace=True)
        )
        self.decoder_cnn = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def encode(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc_hidden(torch.cat([self.encoder_cnn(x).flatten(1), self.text_encoder(ids)], 1))
        return self.fc_mu(h), self.fc_logvar(h)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x, ids)
        joined = torch.cat([draw_half(mu, logvar), self.text_encoder(ids)], 1)
        return self.decoder_cnn(self.decoder_fc(joined).view(-1, 6, 2, 2)), mu, logvar


def caption_loss(model: Any, x: Tensor, ids: Tensor, beta: float = 0.001) -> Tensor:
    recon, mu, logvar = model(x, ids)
    return F.mse_loss(recon, x) - beta * 0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())


class VisageVAE(nn.Module):
    """A step of its own; the KL reads what the draw reads as a log variance as a log deviation."""

    def __init__(self, z_dim: int = 5, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = beta
        self.encoder = VisageEncoder(z_dim)
        self.decoder_input = nn.Sequential(nn.Linear(z_dim, 24), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Sequential(
                nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(4), nn.ReLU()
            ),
            nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid()),
        )

    def sample_z(self, z_mean: Tensor, z_log_var: Tensor) -> Tensor:
        return z_mean + torch.exp(0.5 * z_log_var) * torch.randn_like(z_mean)

    def training_step(self, x: Tensor) -> Tensor:
        z_mean, z_log_var = self.encoder(x)
        h = self.decoder_input(self.sample_z(z_mean, z_log_var))
        error = F.mse_loss(self.decoder(h.view(len(h), -1, 2, 2)), x)
        terms = 0.5 * (torch.exp(z_log_var) ** 2 + z_mean**2 - 1 - 2 * z_log_var)
        return error + self.beta * torch.mean(torch.sum(terms, dim=1))


class VisageEncoder(nn.Module):
    def __init__(self, z_dim: int) -> None:
        super().__init__()
        widths = (3, 4, 6)
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1, stride=2), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in zip(widths, widths[1:], strict=False)
            )
        )
        self.fc_mean, self.fc_var = nn.Linear(24, z_dim), nn.Linear(24, z_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.flatten(self.encoder(x), start_dim=1)
        return self.fc_mean(h), self.fc_var(h)


class Squeezed(nn.Module):
    """Weighs channels by what they hold on average."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        width = max(1, channels // reduction)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(inplace=True), nn.Linear(width, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x).flatten(1))[:, :, None, None]


class TumourDown(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
        self.norm, self.act, self.se = nn.GroupNorm(1, n_out), nn.ReLU(inplace=True), Squeezed(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.act(self.norm(self.conv(x))))


class TumourUp(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(n_in, n_out, 3, padding=1)
        )
        self.norm, self.act, self.se = nn.GroupNorm(1, n_out), nn.ReLU(inplace=True), Squeezed(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.act(self.norm(self.up(x))))


def frequency_loss(x: Tensor, y: Tensor, alpha: float = 1.0) -> Tensor:
    """Squared differences of spectra, each weighed by its own size."""
    difference = torch.fft.fft2(x, norm="ortho") - torch.fft.fft2(y, norm="ortho")
    squared = difference.real**2 + difference.imag**2
    weight = squared.detach().sqrt() ** alpha
    return torch.mean(weight / weight.max() * squared)


class TumourVAE(nn.Module):
    """The KL is drawn to a number of nats."""

    def __init__(self, latent: int = 4, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma, self.bounds = gamma, (-10.0, 5.0)
        self.encoder = nn.Sequential(TumourDown(1, 4), TumourDown(4, 6))
        self.enc_pool = nn.Identity()
        self.fc_mu, self.fc_logvar, self.fc_dec = nn.Linear(24, latent), nn.Linear(24, latent), nn.Linear(latent, 24)
        self.decoder_blocks = nn.Sequential(TumourUp(6, 4), TumourUp(4, 4))
        self.final_conv = nn.Conv2d(4, 1, 3, padding=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.enc_pool(self.encoder(x)).view(len(x), -1)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return mu, torch.clamp(logvar, self.bounds[0], self.bounds[1])

    def decode(self, z: Tensor) -> Tensor:
        h = self.decoder_blocks(self.fc_dec(z).view(len(z), 6, 2, 2))
        return torch.sigmoid(self.final_conv(h))

    def loss(self, x: Tensor, capacity: float = 30.0) -> Tensor:
        mu, logvar = self.encode(x)
        recon = self.decode(draw_half(mu, logvar))
        error = F.mse_loss(recon, x, reduction="sum") / len(x) + 0.5 * frequency_loss(recon, x)
        kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
        return error + self.gamma * torch.abs(kl.sum(dim=1).mean() - capacity)


class Diagonal(Distribution):
    """A Normal by its mean and log deviation, and a density by σ."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, mu: Tensor, log_sigma: Tensor) -> None:
        super().__init__(validate_args=False)
        self.mu, self.sigma = mu, log_sigma.exp()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.mu + self.sigma * torch.empty_like(self.mu).normal_()

    def log_prob(self, value: Tensor) -> Tensor:
        scaled = (value - self.mu) ** 2 / (2 * self.sigma**2)
        return -scaled - torch.log(self.sigma) - math.log(math.sqrt(2 * math.pi))


class EnlargingVAE(nn.Module):
    """A small image moves the code's prior, whose draw is added to the posterior's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 5, 4, 2, 1), nn.ReLU(), nn.Conv2d(5, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 6, 1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(3, 5, 2, 2), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, 2), nn.ReLU(), nn.Conv2d(3, 6, 1)
        )
        self.prior_nn = nn.Sequential(
            nn.Conv2d(3, 5, 5, 1, 2), nn.ReLU(), nn.Conv2d(5, 3, 3, 1, 1), nn.ReLU(), nn.Conv2d(3, 6, 3, 1, 1)
        )

    def posterior(self, x: Tensor) -> Diagonal:
        return Diagonal(*self.encoder(x).chunk(2, dim=1))

    def prior_sr(self, y: Tensor) -> Diagonal:
        mu, log_sigma = self.prior_nn(y).chunk(2, dim=1)
        return Diagonal(mu, torch.zeros(log_sigma.shape))

    def observation(self, z: Tensor) -> Diagonal:
        mu, log_sigma = self.decoder(z).chunk(2, dim=1)
        return Diagonal(mu.view(-1, 3, 8, 8), log_sigma.view(-1, 3, 8, 8))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Diagonal, Diagonal, Diagonal, Tensor]:
        qz, pz = self.posterior(x), self.prior_sr(y)
        moved, z = pz.rsample(), qz.rsample()
        return self.observation(moved + z), pz, qz, z


def enlarging_loss(model: Any, small: Tensor, large: Tensor, beta: float = 0.8) -> Tensor:
    px, pz, qz, z = model(large, small)
    kl = qz.log_prob(z).flatten(1).sum(1) - pz.log_prob(z).flatten(1).sum(1)
    return -(px.log_prob(large).flatten(1).sum(1) - beta * kl).mean()


# ------------------------------------------------------------------------------------------------ truths


def half_within_ten(v: Tensor) -> Tensor:
    return half(v.clamp(-10.0, 10.0))


def half_to_five(v: Tensor) -> Tensor:
    return half(v.clamp(-10.0, 5.0))


# fmt: off
CASES = (
    PublicCase(
        "VAE of garments (WiltThaStilt)",
        Retold(
            "WiltThaStilt/fashion-MNIST-VAE", "a72cde98fe840bf8f9c2d9ec2f84f4d03da3a28a",
            "encoder.py, decoder.py, reparameterization.py, vae.py, loss.py",
        ),
        GarmentVAE, lambda: (rand(4, 1, 8, 8),), (posterior("encoder.logvar", sigma=half_within_ten),), garment_loss,
        truth="reparameterization.py: exp(0.5 logvar), which vae.py keeps within ±10, for loss.py's KL, too",
    ),
    PublicCase(
        "VAE of captioned images (JunhanZhang0808)",
        Retold(
            "JunhanZhang0808/Conditional-VAE-Image-Generator", "fee1bc37212562a13c83dae4f88f345aca1f3585",
            "app/models/conditional_vae.py",
        ),
        CaptionVAE, lambda: (rand(4, 3, 8, 8), tokens(9, 4, 5)), (posterior("fc_logvar"),), caption_loss,
        truth="conditional_vae.py reparameterize: exp(0.5 logvar); vae_loss: the KL's mean, a thousandth of it",
    ),
    PublicCase(
        "VAE of CelebA (Bex0n)",
        Retold(
            "Bex0n/CelebA-VAE", "be87d8a368bf2749be6ab568bdd91863f448288e",
            "models/vanilla_vae.py, models/encoder.py, models/decoder.py",
        ),
        VisageVAE, lambda: (rand(4, 3, 8, 8),), (posterior("encoder.fc_var"),), lambda m, x: m.training_step(x),
        truth="vanilla_vae.py sample_z: exp(0.5 z_log_var); training_step's KL has it as a log deviation, a slip. Here "
        "σ is what draws",
    ),
    PublicCase(
        "BetaVAE of tumours (jtang25)",
        Retold(
            "jtang25/Beta-VAE", "8cfa48738b6cad66a0957bdeb50331a32c7f12a3",
            "src/models/beta_vae.py, src/models/se_blocks.py, src/training/losses.py, configs/beta_vae_se.yaml",
        ),
        TumourVAE, images(1, batch=3), (posterior("fc_logvar", sigma=half_to_five),), lambda m, x: m.loss(x),
        truth="beta_vae.py encode: a log variance within [-10, 5]; loss: the KL is drawn to 30 nats",
    ),
    PublicCase(
        "VAE of enlarged images (dman14)",
        Retold(
            "dman14/Super-Resolution-using-Hierarchical-VAEs", "eaab078d6bbde1e504fe58175c4822d83d064a2b",
            "git/vae_sr2.py, git/training.py",
        ),
        EnlargingVAE, lambda: (rand(4, 3, 2, 2), rand(4, 3, 8, 8, seed=9)),
        (posterior("encoder.4", 3, 6, torch.exp), likelihood("decoder.4", 3, 6, torch.exp)), enlarging_loss,
        truth="vae_sr2.py ReparameterizedDiagonalGaussian: exp(log_sigma); densities of the draw; the prior's log σ is "
        "computed and replaced by zeros",
    ),
)
# fmt: on
