"""A ninth look: images, hierarchies, clusters, VAE-GANs, segmentation, compression, glyphs and sketches, molecules,
graphs, cells, medicine, counts, poses, scenes, sets, modalities, regressors, Bayesian layers and latent diffusion, in
our own words.

The fields, and a word for each, were fixed before any search. For each the list of repositories whose names have the
word was taken in the index's order (the most file versions first), and of those whose snapshot could be had the first
that is PyTorch, trains a model of its own with its own loss and is in no earlier look; its main model, with its main
loss. Of lists of a hundred names, and of controls, the first whose name told that it fits. A second word took the
place of one that named nothing that fits. Conventions were neither sought nor avoided. Every truth was written from
reading the code, before any of these was scanned, by somebody who had not read the scan's, but who knew from the docs
which faults earlier looks had found.

"vae-cifar": `feroooooo/GAN-VAE-CIFAR10`, whose other model is a GAN. "pytorch-cvae": `ryoo-nakamura/pytorch-CVAE`.
"face-vae": two passed by name (volatility's surfaces), `Luh1124/face-vae` (talking heads, too large),
`iechevarria/lego-face-VAE` (Keras); `Abhi10699/face-vae` taken. "font-vae": `hngskj/Font-VAE` passed (Keras);
"svg-vae": `Alexponomarev7/svg-vae`. "sketch-rnn": `rfeinman/Sketch-RNN`. "ladder-vae": an earlier look's;
"laddervae": `aswahd/LadderVAE`. "nvae": by name `j-freddy/nvae-shape-encoding` and `gigantocypris/CT_NVAE` passed
(NVIDIA's own code), `SamuelS0/NVAE` passed (codes of labels, no levels), `nextml-code/template-nvae` taken. "vade"
names nothing that fits, "vade-pytorch" copies of an earlier look's; "vae-clustering": two passed (no snapshot),
`QiangSu/VAE-clustering` passed (TensorFlow), `achintyagopal/VAE-Clustering` taken. "tcvae": `davidjlongo/tcvaemolgen`
passed (unfinished), `omarbahri/cf_tcvae` taken. "factor-vae": `leejoonhun/factor-vae`, of returns. "vaegan":
`mauicv/vaegan` passed (no training in it), `ceteke/tf_vaegan` and `cazevedo/VAEGAN` passed (TensorFlow),
`tqch/VAEGAN` taken. "introvae": three passed by name, `bbeatrix/introvae` passed (TensorFlow),
`dragen1860/IntroVAE-Pytorch` taken. "prob-unet": `RanWeisberg/prob-unet-consensus-selection`. "image-compression":
`yourauroral/mdl-deep-image-compression`. "molecule-vae": `maktubp/Enhanced_Molecule-VAE` passed (Keras),
`DennyHsieh/molecule-vae` taken. "graphvae": `MirzaeiSfu/GraphVAE-REQ`. "single-cell-vae": `heussner/single-cell-vae`.
"omics-vae": `GeorgeKorlos/joint-multi-omics-vae`. "brain-vae": `DILIU1/Brain-VAE` (its notebook is not in the
snapshot) and `muzixiang/BRAIN-VAE` (forecasts, no VAE) passed, `voanna/slices-to-3d-brain-vae` taken. "vae-anomaly":
two of an earlier look, `tolyaho/metrop3-vae-anomaly` and `Sierracaicai/ae-vae-anomaly-detection` (TensorFlow),
`calairoh/VQ-VAE-anomaly-detection` (codes) and `hadasecohen/streaming-vae-anomaly-detection` (no snapshot) passed,
`JGuymont/vae-anomaly-detector` taken. "uncertainty-regression": four passed (language models, another package's
layers, no σ, economics), none left. "mixture-density": two of an earlier look and a web page passed,
`clementw168/mixture-density-net` taken. "deep-ensembles": `LucasKook/interpretable-deep-ensembles` (R),
`NuMetriq/deep-ensembles-replication` (classes) and `lukasstk/Seminar-ProbabilisticML-Deep-Ensembles` (TensorFlow)
passed, `nakulpandit/MSc-UQ-Deep-Ensembles-ACCRUE` taken, its member of an ensemble. "bayes-by-backprop": one of an
earlier look passed, `JorgeVanco/Bayes-by-Backprop` taken. "variational-dropout": two passed (Theano),
`stanislaushimovolos/Variational-Dropout-Pytorch` taken. "latent-diffusion": one passed by name,
`korney688/score-based-filtering-latent-diffusion` passed (others' models), `anvuongb/simple-latent-diffusion-model`
taken. "improved-diffusion": by name copies of an earlier look's, none left. "voxel-vae": no snapshot, TensorFlow
twice, codes, and one of an earlier look, none left. "pose-vae": `sinnis1991/colab-pose-VAE` passed (pictures);
"posevae": `TheDepe/VarenPoseVAE`. "information-bottleneck": two passed (no snapshot), one by name, and three that
have no network with noise; `PanZiqiAI/disentangled-information-bottleneck` taken, its VIB. "probabilistic-embedding":
`tinkoff-ai/probabilistic-embeddings` passed (too large), `DongJKang/Probabilistic-Embedding-Domain-Adaptation` taken.
"iaf" names all sorts; "iaf-vae": `alsugiliazova/iaf-vae` passed (no snapshot), `katD2707/IAF-VAE` taken. "mvae":
`zdebruine/MMVAE`. "galaxy-vae": `austinpeel/galaxy-vae` passed (Keras), `LucaMarziano/Galaxy-VAE` taken. "ssvae":
`davidbhoffmann/ssvae`. "draw-pytorch": `shauray8/DRAW-pytorch` passed (empty), others are of drawings; "draw-vae":
`Said-Abolhassan-Razavi/m1-deep-learning-draw-vae-mnist`. "gqn" names nothing that fits; "gqn-pytorch":
`esidorovics/gqn-pytorch`. "neural-statistician": `conormdurkan/neural-statistician`. "tabular-vae" (no snapshot),
"pointcloud-vae", "crystal-vae" and "jet-vae", and second words for them, gave none. Models without a head: "byol"
`inigoval/byol` (`jpfrare/Seismic-BYOL-SSL`, before it, was overlooked), "nice-pytorch" `mbahng/nice-pytorch`,
"ddim-pytorch", as "ddim" names nothing that fits, `Alokia/diffusion-DDIM-pytorch`, "vqvae" `ludziej/vqvae` (two of
time series passed by name), "lsgan" `atikul-islam-sajib/LSGAN`, "conv-autoencoder" three passed (Keras),
`Willtl/denoising-conv-autoencoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    RelaxedOneHotCategorical,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import bits, images, itself, kl_to_unit, likelihood, posterior, prior

# ------------------------------------------------------------------------------------------------ images


class ColourVAE(nn.Module):
    def __init__(self, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.fc_mu, self.fc_logvar = nn.Linear(24, latent_dim), nn.Linear(24, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 24)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (6, 2, 2)), nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        return self.decoder(self.decoder_input(draw_half(mu, logvar))), mu, logvar


def colour_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return F.mse_loss(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class LabelledCVAE(nn.Module):
    """Inputs of both networks are written into an empty tensor; the draw is in the script."""

    def __init__(self, zdim: int = 2, pixels: int = 16, classes: int = 3) -> None:
        super().__init__()
        self._zdim, self._in_units, self._classes = zdim, pixels, classes
        self._to_mean, self._to_lnvar = nn.Linear(10, zdim), nn.Linear(10, zdim)
        self._encoder = nn.Sequential(
            nn.Linear(pixels + classes, 10), nn.ReLU(inplace=True), nn.Linear(10, 10), nn.ReLU(inplace=True)
        )
        self._decoder = nn.Sequential(
            nn.Linear(zdim + classes, 10), nn.ReLU(inplace=True), nn.Linear(10, pixels), nn.Sigmoid()
        )

    def _joined(self, values: Tensor, labels: Tensor) -> Tensor:
        width = values.shape[1]
        both = torch.empty((len(values), width + self._classes))
        both[:, :width], both[:, width:] = values, labels
        return both

    def encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        h = self._encoder(self._joined(x, labels))
        return self._to_mean(h), self._to_lnvar(h)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        return self._decoder(self._joined(z, labels))


def labelled_step(model: Any, x: Tensor, label: Tensor) -> Tensor:
    """One noise vector serves the whole batch."""
    labels = torch.eye(3)[label]
    mean, lnvar = model.encode(x, labels)
    std = lnvar.exp().sqrt()
    y = model.decode(mean + std * torch.randn(2), labels)
    kld = 0.5 * (1 + lnvar - mean.pow(2) - lnvar.exp()).sum(axis=1)
    bce = F.binary_cross_entropy(y, x, reduction="none").sum(axis=1)
    return (bce - kld).mean()


class PortraitEncoder(nn.Module):
    """Draws its sample itself."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.encoder_seq = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten()
        )
        self.bottle_neck = nn.Linear(24, latent_dim)
        self.mu, self.log_var = nn.Linear(latent_dim, latent_dim), nn.Linear(latent_dim, latent_dim)

    def sample(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = F.relu(self.bottle_neck(self.encoder_seq(x)))
        mu, logvar = self.mu(h), self.log_var(h)
        return h, self.sample(mu, logvar), mu, logvar


class PortraitDecoder(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(latent_dim, 24)
        self.decoder_seq = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder_seq(self.fc1(z).view(-1, 6, 2, 2))


class PortraitVAE(nn.Module):
    def __init__(self, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder, self.decoder = PortraitEncoder(latent_dim), PortraitDecoder(latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, sample, mu, logvar = self.encoder(x)
        return self.decoder(sample), mu, logvar


def portrait_loss(model: Any, x: Tensor, weight: float = 0.3) -> Tensor:
    recon, mu, log_var = model(x)
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=1)
    return weight * (2 * kl).mean() + F.binary_cross_entropy(recon, x, reduction="sum")


class StyledNorm(nn.Module):
    """One normalization for each character, image by image."""

    def __init__(self, styles: int, channels: int) -> None:
        super().__init__()
        self.inns = nn.ModuleList(nn.InstanceNorm2d(channels, affine=True) for _ in range(styles))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return torch.stack([self.inns[style[i]](x[i].unsqueeze(0)).squeeze_(0) for i in range(len(style))])


class GlyphCell(nn.Module):
    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv2d, self.instance_norm = conv, StyledNorm(4, channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.relu(self.instance_norm(self.conv2d(x), labels))


class GlyphEncoder(nn.Module):
    def __init__(self, bits_: int) -> None:
        super().__init__()
        self.block1 = GlyphCell(nn.Conv2d(1, 3, 5, 1, 2), 3)
        self.block2 = GlyphCell(nn.Conv2d(3, 4, 4, 2, 1), 4)
        self.flatten, self.dense = nn.Flatten(), nn.Linear(64, 2 * bits_)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.dense(self.flatten(self.block2(self.block1(x, labels), labels)))


class GlyphDecoder(nn.Module):
    def __init__(self, bits_: int) -> None:
        super().__init__()
        self.dense = nn.Linear(bits_, 64)
        self.block1 = GlyphCell(nn.ConvTranspose2d(4, 3, 4, 2, 1), 3)
        self.conv2d = nn.Conv2d(3, 1, 5, padding=2)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.conv2d(self.block1(self.dense(z).reshape(-1, 4, 4, 4), labels))


class GlyphVAE(nn.Module):
    """The rate is free below a number of nats, and weighs much above it."""

    def __init__(self, bits_: int = 3, free: float = 0.15, beta: float = 300.0) -> None:
        super().__init__()
        self.bits, self.free, self.beta = bits_, free, beta
        self.encoder, self.decoder = GlyphEncoder(bits_), GlyphDecoder(bits_)

    def bottleneck(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = x[..., : self.bits]
        if not self.training:
            return mu, torch.tensor(0.0)
        log_sigma = x[..., self.bits :]
        noise = torch.randn([*x.shape[:-1], self.bits])
        kl = 0.5 * torch.mean(torch.exp(log_sigma) + mu**2 - 1.0 - log_sigma, dim=-1)
        return mu + torch.exp(log_sigma / 2) * noise, torch.mean(torch.clamp_min(kl - self.free, 0.0)) * self.beta

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sampled, rate = self.bottleneck(self.encoder(x, labels).reshape(-1, 2 * self.bits))
        out = Independent(Bernoulli(logits=self.decoder(sampled, labels)), 3)
        return out.mean, -torch.mean(-(rate - out.log_prob(x)))


def glyph_loss(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    return model(x, labels)[1]


class StrokeEncoder(nn.Module):
    def __init__(self, hidden: int, z_size: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, hidden, bidirectional=True, batch_first=True)
        self.output = nn.Linear(2 * hidden, 2 * z_size)
        nn.init.normal_(self.output.weight, 0.0, 0.001)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, (h, _) = self.rnn(x)
        mean, logvar = self.output(h.permute(1, 0, 2).flatten(1).contiguous()).chunk(2, 1)
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(logvar), mean, logvar


class StrokeParameters(nn.Module):
    """Weights, means, scales and correlations of a mixture, and the pen's state."""

    def __init__(self, n_in: int, k: int) -> None:
        super().__init__()
        self.linear, self.splits = nn.Linear(n_in, 6 * k + 3), [k, 2 * k, 2 * k, k, 3]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mix, means, scales, corrs, pen = self.linear(x).split(self.splits, -1)
        scales = torch.exp(scales)
        pairs = [t.reshape(*t.shape[:-1], -1, 2) for t in (means, scales)]
        return F.log_softmax(mix, -1), *pairs, torch.tanh(corrs), F.log_softmax(pen, -1)


class StrokeRate(nn.Module):
    """A KL by its mean, never below a tolerance, with a weight that a buffer anneals."""

    def __init__(self, weight: float = 0.5, start: float = 0.01, decay: float = 0.99995, floor: float = 0.2) -> None:
        super().__init__()
        self.kl_weight, self.decay, self.floor = weight, decay, floor
        self.register_buffer("factor", torch.tensor(1 - start))

    def forward(self, mean: Tensor, logvar: Tensor) -> Tensor:
        weight = self.kl_weight * (1.0 - self.factor.item())
        if self.training:
            self.factor.mul_(self.decay)
        kl = -0.5 * (1 + logvar - mean**2 - torch.exp(logvar))
        return weight * kl.mean().clamp(self.floor, float("inf"))


class StrokeDensity(nn.Module):
    def __init__(self, reg_covar: float = 1e-6) -> None:
        super().__init__()
        self.reg_covar = reg_covar

    def forward(self, x: Tensor, pen: Tensor, params: tuple[Tensor, ...]) -> Tensor:
        mix, means, scales, corrs, pen_logits = params
        floored = torch.sqrt(scales**2 + self.reg_covar)
        corrs = corrs * torch.prod(scales, -1) / torch.prod(floored, -1)
        diff = (x.unsqueeze(-2) - means) / floored
        rest = 1 - corrs**2
        exponent = -0.5 * (diff.square().sum(-1) - 2 * corrs * diff.prod(-1)) / rest
        logp = exponent - 0.5 * rest.log() - floored.log().sum(-1) - math.log(2 * math.pi)
        drawing = -torch.logsumexp(mix + logp, dim=-1)
        states = F.nll_loss(pen_logits.flatten(0, 1), pen.flatten(), reduction="none").reshape(pen.shape)
        return drawing[pen != 2].mean() + states.mean()


class StrokeRNN(nn.Module):
    def __init__(self, z_size: int = 4, hidden: int = 6, steps: int = 5) -> None:
        super().__init__()
        self.max_len = steps
        self.encoder = StrokeEncoder(hidden, z_size)
        self.decoder = nn.LSTM(5 + z_size, hidden, batch_first=True)
        self.init = nn.Linear(z_size, 2 * hidden)
        self.param_layer = StrokeParameters(hidden, 2)
        self.loss_kl, self.loss_draw = StrokeRate(), StrokeDensity()
        nn.init.normal_(self.init.weight, 0.0, 0.001)

    def forward(self, data: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        z, mean, logvar = self.encoder(data[:, 1 : self.max_len + 1])
        state = tuple(s.unsqueeze(0).contiguous() for s in torch.tanh(self.init(z)).chunk(2, dim=-1))
        seen = torch.cat((data[:, : self.max_len], z[:, None].expand(-1, self.max_len, -1)), dim=-1)
        return self.param_layer(self.decoder(seen, state)[0]), mean, logvar


def strokes() -> tuple[Tensor]:
    return (torch.cat([randn(4, 6, 2), F.one_hot(tokens(2, 4, 6), 3).float()], -1),)


def stroke_loss(model: Any, data: Tensor) -> Tensor:
    params, mean, logvar = model(data)
    x, pen = data[:, 1:].split([2, 3], -1)
    return model.loss_kl(mean, logvar) + model.loss_draw(x, pen.argmax(-1), params)


# ------------------------------------------------------------------------------------------------ levels


def draw_of_variance(m: Tensor, v: Tensor) -> Tensor:
    return m + v**0.5 * torch.randn_like(m)


def shifted_kl(qm: Tensor, qv: Tensor, pm: Tensor, pv: Tensor, shift: Tensor | int) -> Tensor:
    return (0.5 * (torch.log(pv) - torch.log(qv) + qv / pv + (qm - pm - shift).pow(2) / pv - 1)).sum(-1)


class RungDown(nn.Module):
    """Of the ladder's encoder: features, and a mean and a variance of them."""

    def __init__(self, n_in: int, n_out: int, latent: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out, affine=False), nn.PReLU())
        self.fc_mean = nn.Linear(n_out * side * side, latent)
        self.fc_var = nn.Linear(n_out * side * side, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.conv(x)
        flat = h.flatten(1)
        return h, self.fc_mean(flat), F.softplus(self.fc_var(flat)) + 1e-8


class Widening(nn.Module):
    def __init__(self, latent: int, n_in: int, n_out: int, side: int, last: bool = False) -> None:
        super().__init__()
        self.shape = (n_in, side, side)
        self.fc, self.prelu = nn.Linear(latent, n_in * side * side), nn.PReLU()
        norm = nn.Identity() if last else nn.BatchNorm2d(n_out, affine=False)
        self.conv = nn.Sequential(nn.ConvTranspose2d(n_in, n_out, 2, 2), norm, nn.Tanh() if last else nn.PReLU())

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(self.prelu(self.fc(z)).view(-1, *self.shape))


class RungUp(nn.Module):
    def __init__(self, n_latent: int, n_next: int, n_in: int, n_out: int, side: int) -> None:
        super().__init__()
        self.conv = Widening(n_latent, n_in, n_out, side)
        flat = n_out * 4 * side * side
        self.fc_mean, self.fc_var = nn.Linear(flat, n_next), nn.Linear(flat, n_next)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = self.conv(z).flatten(1)
        return self.fc_mean(flat), F.softplus(self.fc_var(flat)) + 1e-8


class LadderEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([RungDown(1, 4, 3, 4), RungDown(4, 6, 4, 2), RungDown(6, 8, 5, 1)])

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        laws = []
        for block in self.encoder:
            x, mu, var = block(x)
            laws.append((mu, var))
        return laws


class LadderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleList([RungUp(5, 4, 8, 6, 1), RungUp(4, 3, 6, 4, 2), Widening(3, 4, 1, 4, last=True)])

    def forward(self, laws: Sequence[tuple[Tensor, Tensor]], z: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """A level's law is the product of the encoder's and the decoder's."""
        levels = []
        for i, (mu, var) in enumerate(reversed(laws)):
            dec_mu, dec_var = self.decoder[i](z)
            mine, theirs = 1 / var, 1 / dec_var
            q_mu, q_var = (mu * mine + dec_mu * theirs) / (mine + theirs), 1 / (mine + theirs)
            levels.append((q_mu, q_var, dec_mu, dec_var))
            z = draw_of_variance(q_mu, q_var)
        return self.decoder[-1](z), levels


class ClassLadder(nn.Module):
    """The top level classifies, and has a mean for each class as its prior's."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder, self.decoder = LadderEncoder(), LadderDecoder()
        self.classifier, self.embedding = nn.Linear(5, classes), nn.Linear(classes, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        *lower, (mu, var) = self.encoder(x)
        z = draw_of_variance(mu, var)
        logits, embedded = self.classifier(z), self.embedding(y)
        recon, levels = self.decoder(lower, z)
        kl = shifted_kl(mu, var, torch.zeros_like(embedded), torch.ones_like(embedded), embedded)
        for q_mu, q_var, p_mu, p_var in levels:
            kl = kl + shifted_kl(q_mu, q_var, p_mu, p_var, 0)
        return F.mse_loss(x, recon) + 0.5 * F.cross_entropy(logits, y) + 0.1 * torch.mean(kl)


class Composed(nn.Module):
    """Modules and functions, one behind another; a tuple becomes the next one's arguments."""

    def __init__(self, *steps: Callable[..., Any]) -> None:
        super().__init__()
        self.steps = steps
        for i, step in enumerate(steps):
            if isinstance(step, nn.Module):
                self.add_module(str(i), step)

    def forward(self, *args: Any) -> Any:
        for i, step in enumerate(self.steps):
            out = (getattr(self, str(i)) if isinstance(step, nn.Module) else step)(*args)
            args = tuple(out) if isinstance(out, (tuple, list)) else (out,)
        return args[0] if len(args) == 1 else args


def in_halves(x: Tensor) -> tuple[Tensor, ...]:
    return x.chunk(2, dim=1)


def beside(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=1)


class Squeezed(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, 2, bias=False), nn.ReLU(), nn.Linear(2, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class DeepCell(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.BatchNorm2d(2 * channels),
            nn.SiLU(), nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), Squeezed(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.seq(x)


class Waves(nn.Module):
    """Sines and cosines of a pixel's place, at random frequencies, beside the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("random_matrix", torch.randn(2, channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        side = torch.linspace(0, 1, x.shape[-1])
        grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
        waves = (2 * math.pi * grid @ self.random_matrix).permute(2, 0, 1).expand(len(x), -1, -1, -1)
        return torch.cat([x, torch.sin(waves), torch.cos(waves)], dim=1)


class AbsoluteLaw(nn.Module):
    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.variational_parameters = Composed(
            nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, 2 * latent, 1), in_halves
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.variational_parameters(feature)
        return draw_half(mean, logvar), (-0.5 * (1 + logvar - mean**2 - torch.exp(logvar))).mean()


class RelativeLaw(nn.Module):
    """The posterior is what the prior is, and what differs."""

    def __init__(self, before: int, channels: int, latent: int) -> None:
        super().__init__()
        self.absolute_parameters = Composed(
            nn.Conv2d(before, channels, 1), nn.SiLU(), nn.Conv2d(channels, 2 * latent, 1), in_halves
        )
        self.relative_parameters = Composed(
            beside, nn.Conv2d(before + channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, 2 * latent, 1), in_halves
        )

    def forward(self, previous: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.absolute_parameters(previous)
        d_mean, d_logvar = self.relative_parameters(previous, feature)
        kl = -0.5 * (1 + d_logvar - d_mean**2 / torch.exp(logvar) - torch.exp(d_logvar))
        return draw_half(mean + d_mean, logvar + d_logvar), kl.mean()


class LawBlock(nn.Module):
    def __init__(self, sample: nn.Module, decoded: nn.Module, computed: nn.Module) -> None:
        super().__init__()
        self.sample, self.decoded_sample, self.computed = sample, decoded, computed

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        sample, kl = self.sample(*given)
        return self.computed(self.decoded_sample(sample), *given[:-1]), kl


def relative_block(before: int, channels: int, latent: int) -> LawBlock:
    return LawBlock(
        RelativeLaw(before, channels, latent),
        Composed(Waves(4), nn.Conv2d(latent + 4, channels, 1, bias=False), DeepCell(channels)),
        Composed(beside, DeepCell(channels + before), nn.Conv2d(channels + before, channels, 1)),
    )


class Shuffled(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.convolution, self.upsampled = nn.Conv2d(n_in, 4 * n_out, 1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsampled(self.convolution(x))


class DeepDecoder(nn.Module):
    def __init__(self, latent: int, mixture: int = 2) -> None:
        super().__init__()
        self.mixture = mixture
        self.absolute_variational_block = LawBlock(
            AbsoluteLaw(8, latent), Composed(nn.Conv2d(latent, 8, 1, bias=False), DeepCell(8)), DeepCell(8)
        )
        self.relative_variational_blocks = nn.ModuleList(
            [nn.ModuleList([relative_block(8, 8, latent)]), nn.ModuleList([relative_block(4, 4, latent)])]
        )
        self.upsampled_blocks = nn.ModuleList([Shuffled(8, 4), Shuffled(4, 2)])
        self.image = nn.Sequential(DeepCell(2), nn.BatchNorm2d(2), nn.Conv2d(2, 9 * mixture, 1))

    def forward(self, features: list[Tensor]) -> tuple[Distribution, list[Tensor]]:
        head, kl = self.absolute_variational_block(features[-1])
        kls = [kl]
        walk = zip(reversed(features), self.relative_variational_blocks, self.upsampled_blocks, strict=True)
        for feature, blocks, up in walk:
            for block in blocks:
                head, kl = block(head, feature)
                kls.append(kl)
            head = up(head)
        out = self.image(head)
        out = out.view(len(out), 3, 3 * self.mixture, *out.shape[2:]).permute(0, 1, 3, 4, 2)
        logits, loc, scale = out.chunk(3, dim=-1)
        base = Uniform(torch.zeros_like(loc), 1)
        steps = [SigmoidTransform().inv, AffineTransform(loc=torch.tanh(loc), scale=F.softplus(scale))]
        return MixtureSameFamily(Categorical(logits=logits), TransformedDistribution(base, steps)), kls


class DeepVAE(nn.Module):
    """Every convolution is normalized by its largest singular value."""

    def __init__(self, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            Composed(nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), DeepCell(n_out)) for n_in, n_out in ((3, 4), (4, 8))
        )
        self.decoder = DeepDecoder(latent)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d):
                torch.nn.utils.spectral_norm(module)

    def forward(self, x: Tensor) -> tuple[Distribution, list[Tensor]]:
        features, head = [], x
        for level in self.encoder:
            head = level(head)
            features.append(head)
        return self.decoder(features)


def deep_loss(model: Any, x: Tensor) -> Tensor:
    law, kls = model(x)
    return -law.log_prob(x).mean() + sum(w * kl for w, kl in zip((1e-2, 1e-2, 1e-3), kls, strict=True))


class MaskedAR(nn.Conv2d):
    """No channel of it sees a later one; each puts out what an ELU leaves."""

    def __init__(self, strict: bool, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, 3, padding=1)
        mask = torch.zeros_like(self.weight)
        mask[:, :, :1] = 1
        mask[:, :, 1, :1] = 1
        order = torch.arange(n_in)[None] < torch.arange(n_out)[:, None] + (0 if strict else 1)
        mask[:, :, 1, 1] = order.float()
        self.register_buffer("mask", mask)
        self.elu = nn.ELU()

    def forward(self, x: Tensor, context: Tensor | None = None) -> Any:
        h = self._conv_forward(x, self.mask * self.weight, self.bias)
        return self.elu(h) if context is None else (self.elu(h + context), context)


class MaskedPair(nn.Module):
    def __init__(self, z: int, h: int) -> None:
        super().__init__()
        self.MaskedLayers = nn.ModuleList([MaskedAR(False, z, h)])
        self.MaskedConv2dMean, self.MaskedConv2dStd = MaskedAR(True, h, z), MaskedAR(True, h, z)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.MaskedLayers:
            z, context = layer(z, context)
        return self.MaskedConv2dMean(z), self.MaskedConv2dStd(z)


def normed(conv: nn.Module) -> nn.Module:
    return nn.utils.weight_norm(conv)


class FlowLevel(nn.Module):
    """What goes up is kept for the way down."""

    def __init__(self, z: int, h: int, kl_min: float) -> None:
        super().__init__()
        self.z, self.h, self.kl_min = z, h, kl_min
        self.kept: tuple[Tensor, ...] = ()
        self.activation = nn.ELU()
        self.conv2d_up_1 = normed(nn.Conv2d(h, 2 * z + 2 * h, 3, padding=1))
        self.conv2d_up_2 = normed(nn.Conv2d(h, h, 3, padding=1))
        self.conv2d_down_1 = normed(nn.Conv2d(h, 4 * z + 2 * h, 3, padding=1))
        self.multi_masked_conv2d = MaskedPair(z, h)
        self.conv2d_down_2 = normed(nn.Conv2d(h + z, h, 3, padding=1))

    def up(self, x: Tensor) -> Tensor:
        z, h = self.z, self.h
        out = self.conv2d_up_1(self.activation(x))
        *kept, rest = torch.tensor_split(out, (z, 2 * z, 2 * z + h), dim=1)
        self.kept = tuple(kept)
        return x + 0.1 * self.conv2d_up_2(self.activation(rest))

    def down(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, h = self.z, self.h
        out = self.conv2d_down_1(self.activation(x))
        pm, ps, rm, rs, context, rest = torch.tensor_split(out, (z, 2 * z, 3 * z, 4 * z, 4 * z + h), dim=1)
        qm, qs, up_context = self.kept
        prior_law, law = Normal(pm, torch.exp(2 * ps)), Normal(rm + qm, torch.exp(qs + rs))
        code = law.rsample()
        log_q = law.log_prob(code)
        m, s = (0.1 * t for t in self.multi_masked_conv2d(code, context + up_context))
        code = (code - m) / torch.exp(s)
        cost = log_q + s - prior_law.log_prob(code)
        free = cost.sum(dim=(2, 3)).mean(0, keepdim=True).clamp(min=self.kl_min).sum()
        return x + 0.1 * self.conv2d_down_2(self.activation(torch.cat((code, rest), 1))), free.tile([len(x)])


class FlowVAE(nn.Module):
    def __init__(self, z: int = 3, h: int = 4) -> None:
        super().__init__()
        self.dec_log_stdv, self.h = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(h))
        self.x_enc = nn.Conv2d(3, h, 4, 2, 1)
        self.layers = nn.ModuleList(nn.ModuleList([FlowLevel(z, h, 0.25)]) for _ in range(2))
        self.activation, self.x_dec = nn.ELU(), nn.ConvTranspose2d(h, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        up = self.x_enc(x)
        for layer in self.layers:
            for level in layer:
                up = level.up(up)
        h, rate = self.h.view(1, -1, 1, 1).expand_as(up), torch.zeros(len(x))
        for layer in reversed(self.layers):
            for level in reversed(layer):
                h, cost = level.down(h)
                rate = rate + cost
        mean = self.x_dec(self.activation(h)).clamp(-1 + 1 / 512, 1 - 1 / 512)
        scale = torch.exp(self.dec_log_stdv)
        start = (torch.floor((x + 1) * 128) / 128 - 1 - mean) / scale
        inside = torch.sigmoid(start + 1 / (128 * scale)) - torch.sigmoid(start)
        return mean, (rate - torch.log(inside + 1e-7).sum(dim=(1, 2, 3))).sum()


def flow_loss(model: Any, x: Tensor) -> Tensor:
    return model(x)[1]


class Canvas(nn.Module):
    """Reads and writes through Gaussian filters, whose variance is no distribution's."""

    def __init__(self, steps: int = 3, z: int = 3, h: int = 8, patch: int = 2, side: int = 6) -> None:
        super().__init__()
        self.T, self.h, self.N, self.side = steps, h, patch, side
        self.fc_read_attn, self.fc_write_attn = nn.Linear(h, 5), nn.Linear(h, 5)
        self.fc_write_patch = nn.Linear(h, patch * patch)
        self.enc_rnn, self.dec_rnn = nn.LSTMCell(2 * patch * patch + h, h), nn.LSTMCell(z, h)
        self.fc_mu, self.fc_logvar = nn.Linear(h, z), nn.Linear(h, z)

    def filters(self, layer: nn.Module, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cx, cy, log_variance, log_stride, log_gain = layer(h).split(1, dim=1)
        stride = (self.side - 1) / (self.N - 1) * torch.exp(log_stride)
        places = torch.arange(self.N, dtype=torch.float32) - 0.5 * self.N + 0.5
        pixels = torch.arange(self.side, dtype=torch.float32).view(1, 1, -1)
        banks = []
        for centre in (cx, cy):
            mu = 0.5 * (self.side + 1) * (torch.tanh(centre) + 1.0) + places * stride
            bank = torch.exp(-((pixels - mu.unsqueeze(2)) ** 2) / (2 * torch.exp(log_variance).unsqueeze(2)))
            banks.append(bank / (bank.sum(dim=2, keepdim=True) + 1e-8))
        return banks[0], banks[1], torch.exp(log_gain).unsqueeze(2)

    def read(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        fx, fy, gain = self.filters(self.fc_read_attn, h)
        seen = [gain * (fy @ t.view(-1, self.side, self.side) @ fx.transpose(1, 2)) for t in (x, error)]
        return torch.cat([t.flatten(1) for t in seen], dim=1)

    def write(self, h: Tensor) -> Tensor:
        patch = self.fc_write_patch(h).view(-1, self.N, self.N)
        fx, fy, gain = self.filters(self.fc_write_attn, h)
        return (1.0 / (gain + 1e-8) * (fy.transpose(1, 2) @ patch @ fx)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        canvas = torch.zeros_like(x)
        h_enc, c_enc, h_dec, c_dec = (torch.zeros(len(x), self.h) for _ in range(4))
        kl = torch.zeros(len(x))
        for _ in range(self.T):
            seen = self.read(x, x - torch.sigmoid(canvas), h_dec)
            h_enc, c_enc = self.enc_rnn(torch.cat([seen, h_dec], dim=1), (h_enc, c_enc))
            mu, logvar = self.fc_mu(h_enc), self.fc_logvar(h_enc)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            kl = kl - 0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1)
            h_dec, c_dec = self.dec_rnn(z, (h_dec, c_dec))
            canvas = canvas + self.write(h_dec)
        bce = F.binary_cross_entropy_with_logits(canvas, x, reduction="none").sum(dim=1)
        return (bce + kl).mean()


# ------------------------------------------------------------------------------------------------ factors, critics


class CounterfactualEncoder(nn.Module):
    def __init__(self, z_dim: int, emb: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.mean_fc, self.logvar_fc = nn.Linear(16 + emb, z_dim), nn.Linear(16 + emb, z_dim)

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        h = torch.cat([h.flatten(1), emb], dim=1)
        return self.mean_fc(h), self.logvar_fc(h)


class MovingPrior(nn.Module):
    """A Normal for each class, of buffers that follow the posteriors."""

    def __init__(self, z_dim: int, classes: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("prior_means", torch.zeros(classes, z_dim))
        self.register_buffer("prior_logvars", torch.zeros(classes, z_dim))

    @torch.no_grad()
    def update(self, mean: Tensor, logvar: Tensor, target: Tensor) -> None:
        m = self.momentum
        for c in torch.unique(target):
            here = target == c
            if here.sum() < 2:
                continue
            self.prior_means[c] = (1 - m) * self.prior_means[c] + m * mean[here].mean(dim=0)
            var = torch.exp(logvar[here]).mean(dim=0)
            self.prior_logvars[c] = torch.log((1 - m) * torch.exp(self.prior_logvars[c]) + m * var)

    def kl(self, mean: Tensor, logvar: Tensor, target: Tensor) -> Tensor:
        p_mean, p_logvar = self.prior_means[target], self.prior_logvars[target]
        quadratic = (p_mean - mean) ** 2 / torch.exp(p_logvar)
        return 0.5 * torch.sum(torch.exp(logvar - p_logvar) + quadratic + p_logvar - logvar - 1, dim=1)


class ClassCorrelation(nn.Module):
    """The total correlation of a class, with posteriors of earlier batches from a bank where it has few."""

    def __init__(self, z_dim: int, classes: int, least: int = 4, capacity: int = 8) -> None:
        super().__init__()
        self.least, self.capacity = least, capacity
        self.register_buffer("memory_mean", torch.zeros(classes, capacity, z_dim))
        self.register_buffer("memory_logvar", torch.zeros(classes, capacity, z_dim))
        self.register_buffer("held", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def remember(self, mean: Tensor, logvar: Tensor, target: Tensor) -> None:
        for i, c in enumerate(target):
            place = int(self.held[c]) % self.capacity
            self.memory_mean[c, place], self.memory_logvar[c, place] = mean[i], logvar[i]
            self.held[c] += 1

    def forward(self, z: Tensor, mean: Tensor, logvar: Tensor, target: Tensor) -> Tensor:
        if self.training:
            self.remember(mean.detach(), logvar.detach(), target)
        of_classes = []
        for c in torch.unique(target):
            here = target == c
            means, logvars = mean[here], logvar[here]
            held = min(int(self.held[c]), self.capacity)
            if len(means) < self.least and held:
                extra = torch.randperm(held)[: self.least - len(means)]
                means = torch.cat([means, self.memory_mean[c, extra]])
                logvars = torch.cat([logvars, self.memory_logvar[c, extra]])
            away = (z[here][:, None] - means[None]) ** 2 / torch.exp(logvars).clamp(min=1e-6)
            density = -0.5 * (math.log(2 * math.pi) + logvars[None] + away)
            shift = math.log(len(means))
            marginals = (torch.logsumexp(density, dim=1) - shift).sum(dim=1)
            of_classes.append((torch.logsumexp(density.sum(2), dim=1) - shift - marginals).mean())
        return torch.stack(of_classes).mean()


class CounterfactualVAE(nn.Module):
    def __init__(self, z_dim: int = 4, classes: int = 2, emb: int = 3, beta: float = 10.0) -> None:
        super().__init__()
        self.beta = beta
        self.class_embedding = nn.Embedding(classes, emb)
        self.encoder = CounterfactualEncoder(z_dim, emb)
        self.decoder = nn.Sequential(nn.Linear(z_dim + emb, 12), nn.ReLU(), nn.Linear(12, 64), nn.Sigmoid())
        self.prior, self.tc_estimator = MovingPrior(z_dim, classes), ClassCorrelation(z_dim, classes)
        self.aux_classifier = nn.Linear(z_dim, classes)

    def forward(self, x: Tensor, original: Tensor, target: Tensor) -> Tensor:
        emb = self.class_embedding(target)
        mean, logvar = self.encoder(x, emb)
        z = draw_half(mean, logvar)
        changed = self.decoder(torch.cat([z, emb], 1)).view_as(x)
        recon = F.binary_cross_entropy(changed, x, reduction="none").flatten(1).sum(1)
        near = torch.abs(x - changed).flatten(1).sum(1)
        total = recon.mean() + near.mean() + self.prior.kl(mean, logvar, target).mean()
        total = total + (self.beta - 1) * self.tc_estimator(z, mean, logvar, target)
        total = total + 0.5 * F.cross_entropy(self.aux_classifier(z), original)
        if self.training:
            self.prior.update(mean, logvar, target)
        return total


class ReturnsFeatures(nn.Module):
    def __init__(self, chars: int, feats: int) -> None:
        super().__init__()
        self.linear_layer = nn.Sequential(nn.Linear(chars, chars), nn.LeakyReLU())
        self.gru_cell = nn.GRUCell(chars, feats)

    def forward(self, chars: Tensor) -> Tensor:
        b, _, s, c = chars.shape
        h = torch.zeros(b * s, self.gru_cell.hidden_size)
        for step in chars.permute(1, 0, 2, 3):
            h = self.gru_cell(step.reshape(b * s, c), h)
        return h.view(b, s, -1)


def spread_of(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.Softplus())


class PortfolioEncoder(nn.Module):
    """A law of the factors, from returns that came later."""

    def __init__(self, facts: int, feats: int, portfolios: int) -> None:
        super().__init__()
        self.pf_layer = nn.Sequential(nn.Linear(feats, portfolios), nn.Softmax(dim=0))
        self.mapping_layer = nn.ModuleDict(
            {"mean_layer": nn.Linear(portfolios, facts), "std_layer": spread_of(portfolios, facts)}
        )

    def forward(self, returns: Tensor, feats: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.einsum("bs,bsm->bm", returns, self.pf_layer(feats))
        return self.mapping_layer["mean_layer"](h), self.mapping_layer["std_layer"](h).clip(min=0)


class AlphaLayer(nn.Module):
    def __init__(self, feats: int) -> None:
        super().__init__()
        self.linear_layer = nn.Sequential(nn.Linear(feats, feats), nn.LeakyReLU())
        self.mean_layer, self.std_layer = nn.Linear(feats, 1), spread_of(feats, 1)

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        h = self.linear_layer(feats)
        return self.mean_layer(h).flatten(-2), self.std_layer(h).flatten(-2).clip(min=0)


class FactorPredictor(nn.Module):
    def __init__(self, facts: int, feats: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.rand(facts, feats))
        self.key_layer, self.val_layer = nn.Linear(feats, feats, bias=False), nn.Linear(feats, feats, bias=False)
        self.attn_layer = nn.MultiheadAttention(feats, facts, batch_first=True)
        self.alpha_layer = AlphaLayer(feats)

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        seen = [self.attn_layer(self.query, self.key_layer(f), self.val_layer(f))[0] for f in feats]
        return self.alpha_layer(torch.stack(seen))


class FactorDecoder(nn.Module):
    def __init__(self, facts: int, feats: int) -> None:
        super().__init__()
        self.alpha_layer, self.beta_layer = AlphaLayer(feats), nn.Linear(feats, facts)

    def forward(self, facts: Tensor, feats: Tensor) -> Tensor:
        return torch.einsum("bsk,bk->bs", self.beta_layer(feats), facts) + torch.normal(*self.alpha_layer(feats))


class ReturnsVAE(nn.Module):
    """Factors and what is left of a return are drawn by torch.normal, which hands no gradient on."""

    def __init__(self, chars: int = 3, feats: int = 4, facts: int = 2, portfolios: int = 5) -> None:
        super().__init__()
        self.feature_extractor = ReturnsFeatures(chars, feats)
        self.factor_encoder = PortfolioEncoder(facts, feats, portfolios)
        self.factor_predictor, self.factor_decoder = FactorPredictor(facts, feats), FactorDecoder(facts, feats)

    def forward(self, chars: Tensor, returns: Tensor) -> tuple[Tensor, ...]:
        feats = self.feature_extractor(chars)
        mean, std = self.factor_encoder(returns, feats)
        p_mean, p_std = self.factor_predictor(feats)
        return self.factor_decoder(torch.normal(mean, std), feats), mean, std, p_mean, p_std


def law_kl(prior_mean: Tensor, prior_std: Tensor, post_mean: Tensor, post_std: Tensor) -> Tensor:
    spread = (post_std**2 + (post_mean - prior_mean) ** 2) / (2 * prior_std**2)
    return ((prior_std / post_std).log() + spread - 0.5).sum()


def returns_loss(model: Any, chars: Tensor, returns: Tensor) -> Tensor:
    """The KL's arguments are exchanged."""
    predicted, *laws = model(chars, returns)
    return nn.CrossEntropyLoss()(predicted, returns) + 0.5 * law_kl(*laws)


class Critic(nn.Module):
    """Encoder and discriminator alike."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.Conv2d(3, 3, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2, inplace=True))]
        )
        self.out_fc = nn.Sequential(nn.Flatten(start_dim=1), nn.Linear(24, n_out))

    def forward(self, x: Tensor) -> Tensor:
        h = self.in_conv(x)
        for layer in self.layers:
            h = layer(h)
        return self.out_fc(h)


class RefinedDecoder(nn.Module):
    """A second network mends what is decoded, if it is asked to."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.in_fc = nn.Sequential(
            nn.Linear(latent, 24, bias=False), nn.Unflatten(1, (6, 2, 2)), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.layers = nn.ModuleList(
            [nn.Sequential(nn.ConvTranspose2d(6, 3, 4, 2, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True))]
        )
        self.out_conv = nn.ConvTranspose2d(3, 3, 4, 2, 1)
        self.reconst = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, reconst: bool = False) -> Tensor:
        h = self.in_fc(z)
        for layer in self.layers:
            h = layer(h)
        out = torch.tanh(self.out_conv(h))
        return self.reconst(out) if reconst else out


class RefinedVAEGAN(nn.Module):
    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.latent = latent
        self.encoder, self.decoder, self.netD = Critic(2 * latent), RefinedDecoder(latent), Critic(1)
        self.bce_loss, self.reconst_loss = nn.BCEWithLogitsLoss(), nn.MSELoss(reduction="sum")

    def forward(self, x: Tensor, component: str = "vae") -> Any:
        if component == "netD":
            with torch.no_grad():
                drawn = self.decoder(torch.randn(len(x), self.latent))
            real, fake = self.netD(x), self.netD(drawn)
            return self.bce_loss(real, torch.ones_like(real)) + self.bce_loss(fake, torch.zeros_like(fake))
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn_like(mean) * torch.exp(0.5 * logvar) + mean
        kld = 0.5 * (logvar.exp() + mean.pow(2) - logvar - 1).sum()
        recon = self.reconst_loss(self.decoder(noise, reconst=True), x)
        fake = self.netD(self.decoder(torch.randn(len(x), self.latent)))
        return (kld + recon).div(len(x) * self.latent), self.bce_loss(fake, torch.ones_like(fake))


def refined_steps(model: Any, x: Tensor) -> Tensor:
    vae, generated = model(x)
    return vae + generated + model(x, component="netD")


class Introspective(nn.Module):
    """Its encoder is the critic: it tells what is drawn by a large KL."""

    def __init__(self, z: int = 4, alpha: float = 0.25, gamma: float = 1.0, margin: float = 110.0) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma, self.margin = alpha, 0.5, gamma, margin
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 5, 1, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AvgPool2d(4), nn.Flatten()
        )
        self.z_net = nn.Linear(16, 2 * z)
        self.decoder = nn.Sequential(
            nn.Linear(z, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Unflatten(1, (4, 2, 2)),
            nn.Upsample(scale_factor=4), nn.Conv2d(4, 3, 5, 1, 2),
        )  # fmt: skip

    def reparametrization(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_sigma2 = self.z_net(h).chunk(2, dim=1)
        return mu + torch.exp(log_sigma2).sqrt() * torch.randn_like(log_sigma2), mu, log_sigma2

    def kld(self, mu: Tensor, log_sigma2: Tensor) -> Tensor:
        return (-0.5 * (1 + log_sigma2 - torch.pow(mu, 2) - torch.exp(log_sigma2))).sum()

    def rate(self, x: Tensor) -> Tensor:
        return self.kld(*self.reparametrization(self.encoder(x))[1:])

    def both(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, mu, log_sigma2 = self.reparametrization(self.encoder(x))
        recon = torch.tanh(self.decoder(z))
        drawn = torch.tanh(self.decoder(torch.randn_like(z)))
        return recon, drawn, F.mse_loss(recon, x, reduction="sum").sqrt(), self.kld(mu, log_sigma2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        recon, drawn, error, rate = self.both(x)
        far = [torch.clamp(self.margin - self.rate(t.detach()), min=0) for t in (recon, drawn)]
        encoder_loss = self.gamma * rate + self.alpha * sum(far) + self.beta * error
        recon, drawn, error, _ = self.both(x)
        return encoder_loss, self.alpha * (self.rate(recon) + self.rate(drawn)) + self.beta * error


def introspective_losses(model: Any, x: Tensor) -> Tensor:
    encoder_loss, decoder_loss = model(x)
    return encoder_loss + decoder_loss


# ------------------------------------------------------------------------------------------------ masks, codecs


@dataclass(frozen=True)
class Stats:
    """What a latent encoder predicts."""

    mu: Tensor
    logvar: Tensor

    @property
    def sigma(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)


class MaskEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)) for a, b in pairwise((n_in, 4, 6))
        )
        self.pool, self.head = nn.AvgPool2d(2, 2), nn.Conv2d(6, 2 * latent, 1)

    def forward(self, x: Tensor) -> Stats:
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
        out = self.head(x.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return Stats(out[:, : self.latent], out[:, self.latent : 2 * self.latent])

    def law(self, *parts: Tensor) -> Independent:
        stats = self.forward(torch.cat(parts, 1))
        return Independent(Normal(loc=stats.mu, scale=stats.sigma), 1)


class MaskUNet(nn.Module):
    def __init__(self, latent: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.unet = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.prior_net, self.posterior_net = MaskEncoder(1, latent), MaskEncoder(2, latent)
        self.fcomb = nn.Sequential(nn.Conv2d(4 + latent, 4, 1), nn.ReLU(), nn.Conv2d(4, classes, 1))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Independent, Independent]:
        features, p = self.unet(image), self.prior_net.law(image)
        q = self.posterior_net.law(image, mask.unsqueeze(1).to(image.dtype))
        z = q.rsample()[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return self.fcomb(torch.cat([features, z], 1)), q, p


def mask_loss(model: Any, image: Tensor, mask: Tensor, beta: float = 1.0) -> Tensor:
    logits, q, p = model(image, mask)
    return F.cross_entropy(logits, mask, reduction="sum") / len(image) + beta * kl_divergence(q, p).mean()


def noisy(x: Tensor) -> Tensor:
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


class ChannelCDF(nn.Module):
    """A distribution function for each channel, of increasing layers."""

    def __init__(self, channels: int, filters: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        dims = (1, *filters, 1)
        self._matrices, self._biases, self._factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for i, (a, b) in enumerate(pairwise(dims)):
            self._matrices.append(nn.Parameter(torch.empty(channels, b, a).uniform_(-0.5, 0.5)))
            self._biases.append(nn.Parameter(torch.empty(channels, b, 1).uniform_(-0.5, 0.5)))
            if i < len(dims) - 2:
                self._factors.append(nn.Parameter(torch.zeros(channels, b, 1)))

    def cdf(self, x: Tensor) -> Tensor:
        h = x.flatten(2).unsqueeze(2)
        for i, (matrix, bias) in enumerate(zip(self._matrices, self._biases, strict=True)):
            h = torch.einsum("coi,bcin->bcon", F.softplus(matrix), h) + bias.unsqueeze(0)
            if i < len(self._factors):
                h = h + torch.tanh(self._factors[i]).unsqueeze(0) * torch.tanh(h)
        return torch.sigmoid(h).view_as(x)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z_hat = noisy(z) if self.training else torch.round(z)
        return z_hat, torch.clamp(self.cdf(z_hat + 0.5) - self.cdf(z_hat - 0.5), min=1e-9)


class ConditionalCode(nn.Module):
    SCALE_MIN = 0.11

    @staticmethod
    def phi(x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-x / math.sqrt(2))

    def forward(self, y: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        scales = torch.clamp(scales, min=self.SCALE_MIN)
        y_hat = noisy(y) if self.training else torch.round(y - means) + means
        centred = y_hat - means
        mass = self.phi((centred + 0.5) / scales) - self.phi((centred - 0.5) / scales)
        return y_hat, torch.clamp(mass, min=1e-10)


class MeanScaleCodec(nn.Module):
    def __init__(self, n: int = 3, m: int = 4) -> None:
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, n, 5, 2, 2), nn.ReLU(inplace=True), nn.Conv2d(n, m, 5, 2, 2))
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(m, n, 5, 2, 2, 1), nn.ReLU(inplace=True), nn.ConvTranspose2d(n, 3, 5, 2, 2, 1),
            nn.Sigmoid(),
        )  # fmt: skip
        self.h_a = nn.Sequential(nn.Conv2d(m, n, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(n, n, 5, 2, 2))
        self.h_s = nn.Sequential(
            nn.ConvTranspose2d(n, n, 5, 2, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(n, 2 * m, 3, 1, 1)
        )
        self.factorized_prior, self.gaussian_conditional = ChannelCDF(n), ConditionalCode()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.g_a(x)
        z_hat, z_mass = self.factorized_prior(self.h_a(torch.abs(y)))
        means, scales = self.h_s(z_hat).chunk(2, dim=1)
        y_hat, y_mass = self.gaussian_conditional(y, scales, means)
        return self.g_s(y_hat), y_mass, z_mass


def codec_loss(model: Any, x: Tensor, lmbda: float = 0.01) -> Tensor:
    x_hat, *masses = model(x)
    pixels = x.numel() / x.shape[1]
    bpp = sum(-torch.log2(mass).sum() / pixels for mass in masses)
    return lmbda * 255.0**2 * F.mse_loss(x_hat, x) + bpp


class ClampedLaw:
    """An object of the encoder's moments, whose log variance is bounded."""

    def __init__(self, parameters: Tensor) -> None:
        self.mean, logvar = torch.chunk(parameters, 2, dim=1)
        self.logvar = torch.clamp(logvar, -30.0, 20.0)
        self.std, self.var = torch.exp(0.5 * self.logvar), torch.exp(self.logvar)

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn(self.mean.shape)

    def kl(self) -> Tensor:
        return 0.5 * torch.sum(torch.pow(self.mean, 2) + self.var - 1.0 - self.logvar, dim=[1, 2, 3])


class ResBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, n_in), nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(2, n_out), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class FirstStage(nn.Module):
    """What a diffusion in its code is trained on."""

    def __init__(self, z: int = 3, embed: int = 2, weight: float = 1e-3) -> None:
        super().__init__()
        self.kld_weight = weight
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), ResBlock(4, 4), nn.Conv2d(4, 4, 3, 2, 1), ResBlock(4, 6),
            nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 2 * z, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(z, 6, 3, padding=1), ResBlock(6, 4), nn.Upsample(scale_factor=2), ResBlock(4, 4),
            nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 3, 3, padding=1),
        )  # fmt: skip
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * z, 2 * embed, 1), nn.Conv2d(embed, z, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ClampedLaw]:
        law = ClampedLaw(self.quant_conv(self.encoder(x)))
        return self.decoder(self.post_quant_conv(law.sample())), law

    def loss(self, x: Tensor) -> Tensor:
        x_hat, law = self(x)
        return F.mse_loss(x, x_hat) + self.kld_weight * law.kl().mean()


# ------------------------------------------------------------------------------------------------ molecules, cells


class ShrinkingEncoder(nn.Module):
    """No σ of it is above one."""

    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(n_in, hidden, num_layers=2, batch_first=True)
        self.mean_lin, self.logvar_lin = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.rnn(x)[1].permute(1, 0, 2).contiguous().flatten(1)
        return self.mean_lin(h), -torch.abs(self.logvar_lin(h))


class SmilesDecoder(nn.Module):
    def __init__(self, n_in: int, hidden: int, latent: int, vocab: int) -> None:
        super().__init__()
        self.hidden, self.embedding_dropout = hidden, nn.Dropout(0.1)
        self.rnn = nn.GRU(n_in, hidden, num_layers=2, batch_first=True)
        self.latent2hidden, self.outputs2vocab = nn.Linear(latent, 2 * hidden), nn.Linear(hidden, vocab)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = torch.tanh(self.latent2hidden(z).view(-1, 2, self.hidden).permute(1, 0, 2).contiguous())
        return self.outputs2vocab(self.rnn(self.embedding_dropout(x), h)[0])


class PropertySmiles(nn.Module):
    def __init__(self, vocab: int = 7, emb: int = 5, hidden: int = 6, latent: int = 4) -> None:
        super().__init__()
        self.latent = latent
        self.embedding, self.encoder = nn.Embedding(vocab, emb), ShrinkingEncoder(emb, hidden, latent)
        self.decoder = SmilesDecoder(emb, hidden, latent, vocab)
        self.predictor = nn.Sequential(nn.Linear(latent, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def forward(self, tokens_: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = self.embedding(tokens_[:, :-1])
        mean, logv = self.encoder(seen)
        noise = torch.FloatTensor(len(seen), self.latent).normal_(0, 1.0)
        z = mean + torch.exp(0.5 * logv) * noise
        return self.decoder(seen, z), mean, logv, self.predictor(mean)


def property_loss(model: Any, tokens_: Tensor, value: Tensor) -> Tensor:
    logits, mean, logv, predicted = model(tokens_)
    xent = F.cross_entropy(logits.flatten(0, 1), tokens_[:, 1:].flatten(), reduction="sum")
    return (xent + 0.1 * kl_to_unit(mean, logv) + F.mse_loss(predicted, value)) / len(tokens_)


class NodeMLP(nn.Module):
    def __init__(self, n_in: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((n_in, *sizes)))

    def forward(self, x: Tensor, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
        for layer in self.layers:
            x = activation(layer(x))
        return x


class PooledGraphEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        sizes = (n_in, 6, latent)
        self.GCNlayers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.normLayers = nn.ModuleList(nn.LayerNorm(s, elementwise_affine=False) for s in (*sizes[1:], latent))
        self.stochastic_mean_layer, self.stochastic_log_std_layer = NodeMLP(latent, [latent]), NodeMLP(latent, [latent])

    def forward(self, adjacency: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x
        for i, layer in enumerate(self.GCNlayers):
            h = self.normLayers[i](F.leaky_relu(adjacency @ layer(h)))
        h = self.normLayers[-1](h.sum(1))
        return self.stochastic_mean_layer(h, lambda t: t), self.stochastic_log_std_layer(h, lambda t: t)


def degrees_and_steps(adjacency: Tensor) -> list[Tensor]:
    degree = adjacency.sum(2)
    return [degree, (adjacency / (degree.unsqueeze(2) + 1e-6)).matrix_power(2)]


class KernelGraphVAE(nn.Module):
    """Two of its layers are never called; its sampler takes for σ the square of what it calls so."""

    def __init__(self, nodes: int = 5, n_in: int = 4, latent: int = 3) -> None:
        super().__init__()
        self.nodes = nodes
        self.encode = PooledGraphEncoder(n_in, latent)
        self.decode = nn.Sequential(nn.Linear(latent, 8), nn.LeakyReLU(0.001), nn.Linear(8, nodes * nodes))
        self.stochastic_mean_layer, self.stochastic_log_std_layer = NodeMLP(latent, [latent]), NodeMLP(latent, [latent])

    def reparameterize(self, mean: Tensor, log_std: Tensor) -> Tensor:
        var = torch.exp(log_std).pow(2)
        return torch.randn_like(var).mul(var).add(mean)

    def forward(self, adjacency: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        mean, log_std = self.encode(adjacency, x)
        logits = self.decode(self.reparameterize(mean, log_std)).view(-1, self.nodes, self.nodes)
        return logits, mean, log_std, degrees_and_steps(torch.sigmoid(logits))


def kernel_loss(model: Any, adjacency: Tensor, x: Tensor) -> Tensor:
    """Graph statistics have Normals whose σ is that of their error, a floor below it."""
    logits, mean, log_std, kernels = model(adjacency, x)
    loss = F.binary_cross_entropy_with_logits(logits, adjacency, pos_weight=torch.tensor(2.0))
    kl = -0.5 * torch.sum(1 + 2 * log_std - mean.pow(2) - torch.exp(log_std).pow(2)) / mean.numel()
    for ours, true in zip(kernels, degrees_and_steps(adjacency), strict=True):
        log_sigma = -6 + F.softplus(((ours - true) ** 2).mean().sqrt().log() + 6)
        residual = 0.5 * torch.pow((ours - true) / log_sigma.exp(), 2)
        loss = loss + 0.5 * (residual + log_sigma + 0.5 * math.log(2 * math.pi)).mean()
    return loss + kl


def small_graphs() -> tuple[Tensor, Tensor]:
    half_ = torch.triu(bits(4, 5, 5), 1)
    return half_ + half_.transpose(1, 2) + torch.eye(5), randn(4, 5, 4)


class CellImageVAE(nn.Module):
    def __init__(self, latent_dim: int = 4, hidden: tuple[int, ...] = (4, 6)) -> None:
        super().__init__()
        self.hidden = hidden
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU())
                for a, b in pairwise((3, *hidden))
            )
        )
        flat = hidden[-1] * 4
        self.fc_mu, self.fc_var = nn.Linear(flat, latent_dim), nn.Linear(flat, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, flat)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(hidden[1], hidden[0], 3, 2, 1, 1), nn.BatchNorm2d(hidden[0]), nn.LeakyReLU()
        )
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(hidden[0], hidden[0], 3, 2, 1, 1), nn.BatchNorm2d(hidden[0]), nn.LeakyReLU(),
            nn.Conv2d(hidden[0], 3, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        h = torch.flatten(self.encoder(x), start_dim=1)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        std = torch.exp(0.5 * log_var)
        z = torch.randn_like(std) * std + mu
        recon = self.final_layer(self.decoder(self.decoder_input(z).view(-1, self.hidden[1], 2, 2)))
        return [recon, x, mu, log_var]

    def loss_function(self, *args: Tensor, **kwargs: float) -> dict[str, Tensor]:
        recons, x, mu, log_var = args
        error = F.mse_loss(recons, x)
        kld = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
        return {"loss": error + kwargs["M_N"] * kld, "Reconstruction_Loss": error, "KLD": -kld}


def cell_image_loss(model: Any, x: Tensor) -> Tensor:
    return model.loss_function(*model(x), M_N=0.005)["loss"]


class TwoTrunks(nn.Module):
    def __init__(self, tx: int, mt: int, latent: int) -> None:
        super().__init__()
        self.tx_trunk = nn.Sequential(nn.Linear(tx, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 6), nn.GELU())
        self.mt_trunk = nn.Sequential(nn.Linear(mt, 4), nn.LayerNorm(4), nn.GELU())
        self.shared_head = nn.Sequential(nn.Linear(10, 8), nn.LayerNorm(8), nn.GELU())
        self.mu, self.logvar = nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x_tx: Tensor, x_mt: Tensor) -> tuple[Tensor, Tensor]:
        h = self.shared_head(torch.concat([self.tx_trunk(x_tx), self.mt_trunk(x_mt)], dim=1))
        return self.mu(h), self.logvar(h)


class OmicsVAE(nn.Module):
    """Transcripts and metabolites, one code, two linear decoders."""

    def __init__(self, tx: int = 10, mt: int = 4, latent: int = 4) -> None:
        super().__init__()
        self.tx = tx
        self.encoder = TwoTrunks(tx, mt, latent)
        self.decoder = nn.ModuleDict({"tx": nn.Linear(latent, tx), "mt": nn.Linear(latent, mt)})

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mu, logvar) if self.training else mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x[:, : self.tx], x[:, self.tx :])
        z = self.reparameterize(mu, logvar)
        return self.decoder["tx"](z), self.decoder["mt"](z), mu, logvar


def omics_loss(model: Any, x: Tensor, beta: float = 0.5) -> Tensor:
    recon_tx, recon_mt, mu, logvar = model(x)
    kl = (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp())).mean()
    return F.mse_loss(recon_tx, x[:, : model.tx]) + F.mse_loss(recon_mt, x[:, model.tx :]) + beta * kl


class HalvingBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, act: bool = True) -> None:
        super().__init__()
        self.act = act
        self.conv1_block = nn.Sequential(
            nn.Conv2d(n_in, n_in, 3, 2, 1), nn.BatchNorm2d(n_in), nn.LeakyReLU(0.2, inplace=True)
        )
        self.conv2_block = nn.Sequential(nn.Conv2d(n_in, n_out, 3, 1, 1), nn.BatchNorm2d(n_out))
        self.conv3_block = nn.Sequential(nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out))
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv2_block(self.conv1_block(x)), self.conv3_block(x)
        return self.lrelu(a) + self.lrelu(b) if self.act else a + b


class BrainEncoder(nn.Module):
    """What is called a deviation is its logarithm, a map as the mean is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1_block = nn.Sequential(nn.Conv2d(1, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.LeakyReLU(0.2, inplace=True))
        self.res1 = HalvingBlock(3, 4)
        self.res6, self.res2_stdev = HalvingBlock(4, 6, act=False), HalvingBlock(4, 6, act=False)

    def reparameterize(self, mu: Tensor, std: Tensor) -> Tensor:
        std = torch.exp(std)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.res1(self.conv1_block(x))
        mu, std = self.res6(h), self.res2_stdev(h)
        return self.reparameterize(mu, std), mu, std


class BrainPair(nn.Module):
    """Upstream the two networks are apart."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BrainEncoder()
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(6, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, 1, 1),
        )  # fmt: skip


def brain_loss(model: Any, x: Tensor) -> Tensor:
    latent, mu, log_sigma = model.encoder(x)
    kl = -0.5 * torch.sum(1 + 2 * log_sigma - torch.pow(mu, 2) - torch.exp(2 * log_sigma))
    return nn.MSELoss(reduction="sum")(model.decoder(latent), x) + kl


class CountsCoder(nn.Module):
    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.encoder_network = nn.Sequential(nn.Linear(width, 8), nn.Tanh())
        self.read_mu, self.read_logvar = nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder_network(x)
        return self.read_mu(h), self.read_logvar(h)


class CountsDecoder(nn.Module):
    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, width))
        self.read_alpha = nn.Sequential(nn.Linear(latent, width), nn.ReLU6())

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * self.read_alpha(z) * self.decoder(z)


class CountsVAE(nn.Module):
    """Keeps the last mean and log variance; its own `parameters` takes no argument."""

    def __init__(self, width: int = 9, latent: int = 3) -> None:
        super().__init__()
        self._encoder, self._decoder = CountsCoder(width, latent), CountsDecoder(width, latent)
        self.mu: Tensor | None = None
        self.logvar: Tensor | None = None

    def parameters(self) -> Iterator[nn.Parameter]:  # type: ignore[override]
        return chain(self._encoder.parameters(), self._decoder.parameters())

    def _sample_z(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return mu + torch.exp(logvar / 2) * torch.randn(mu.size())

    def forward(self, x: Tensor) -> Tensor:
        self.mu, self.logvar = self._encoder(x)
        return self._decoder(self._sample_z(self.mu, self.logvar))


def counts_loss(model: Any, x: Tensor) -> Tensor:
    error = nn.PoissonNLLLoss(reduction="sum")(model(x), x) / x.shape[0]
    return error + kl_to_unit(model.mu, model.logvar) / x.shape[0]


# ------------------------------------------------------------------------------------------------ poses, spectra, sets


class PoseLaw(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(n_in, latent), nn.Linear(n_in, latent)

    def forward(self, x: Tensor) -> Normal:
        return Normal(self.mu(x), F.softplus(self.logvar(x)))


class Rotations(nn.Module):
    """Two vectors of three numbers become an orthogonal matrix."""

    def forward(self, x: Tensor) -> Tensor:
        pair = x.view(-1, 3, 2)
        b1 = F.normalize(pair[:, :, 0], dim=1)
        along = torch.sum(b1 * pair[:, :, 1], dim=1, keepdim=True)
        b2 = F.normalize(pair[:, :, 1] - along * b1, dim=-1)
        return torch.stack([b1, b2, torch.linalg.cross(b1, b2, dim=1)], dim=-1)


def matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula."""
    angle = axis_angle.norm(dim=1, keepdim=True).clamp(min=1e-6)
    x, y, z = (axis_angle / angle).unbind(1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    angle = angle[:, :, None]
    return torch.eye(3) + torch.sin(angle) * k + (1 - torch.cos(angle)) * (k @ k)


class HorsePoser(nn.Module):
    """A mesh that is not trained tells how far a pose is off; ours is linear in the rotations."""

    def __init__(self, joints: int = 4, latent: int = 3, width: int = 10) -> None:
        super().__init__()
        n_in = joints * 3
        self.encoder_net = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(n_in), nn.Linear(n_in, width), nn.LeakyReLU(), nn.BatchNorm1d(width),
            nn.Dropout(0.1), nn.Linear(width, width), PoseLaw(width, latent),
        )  # fmt: skip
        self.decoder_net = nn.Sequential(
            nn.Linear(latent, width), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(width, joints * 6), Rotations()
        )
        self.body_model = nn.Linear(joints * 9, 12)
        for parameter in self.body_model.parameters():
            parameter.requires_grad = False

    def forward(self, pose: Tensor) -> tuple[Tensor, Normal]:
        law = self.encoder_net(pose)
        return self.decoder_net(law.rsample()), law


def horse_loss(model: Any, pose: Tensor) -> Tensor:
    predicted, law = model(pose)
    true = matrices(pose.view(-1, 3))
    unit = Normal(torch.zeros_like(law.mean), torch.ones_like(law.mean))
    kl = torch.mean(torch.sum(kl_divergence(law, unit), dim=[1]))
    vertices = [model.body_model(m.reshape(len(pose), -1)) for m in (true, predicted)]
    trace = (predicted.transpose(1, 2) @ true).diagonal(dim1=1, dim2=2).sum(-1)
    angle = torch.acos(torch.clamp((trace - 1) / 2, -1 + 1e-5, 1 - 1e-5)).mean()
    return torch.stack([0.005 * kl, 4 * nn.L1Loss()(vertices[0], vertices[1]), 2 * angle]).sum()


class SpectraVAE(nn.Module):
    """Its draw is given a deviation, and calls it a variance."""

    def __init__(self, length: int = 24, latent: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 3, 4, 2), nn.LeakyReLU(0.2), nn.Dropout1d(0.1), nn.Conv1d(3, 4, 4, 2), nn.LeakyReLU(0.2),
            nn.Flatten(),
        )  # fmt: skip
        self.mean_layer, self.log_var_layer = nn.Linear(16, latent), nn.Linear(16, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 16), nn.LeakyReLU(0.2), nn.Unflatten(1, (4, 4)), nn.ConvTranspose1d(4, 1, 4, 2),
            nn.LeakyReLU(0.2), nn.Linear(10, length),
        )  # fmt: skip

    def reparameterization(self, mean: Tensor, var: Tensor) -> Tensor:
        return mean + var * torch.randn_like(var)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_var = self.mean_layer(h), self.log_var_layer(h)
        z = self.reparameterization(mean, torch.exp(0.5 * log_var))
        return self.decoder(z), mean, log_var, z


def spectra_loss(model: Any, x: Tensor, beta: float = 0.1) -> Tensor:
    x_hat, mean, log_var, _ = model(x)
    return F.mse_loss(x_hat, x, reduction="sum") + beta * kl_to_unit(mean, log_var)


class TowerRepresentation(nn.Module):
    def __init__(self, x_dim: int, v_dim: int, r_dim: int) -> None:
        super().__init__()
        half_ = r_dim // 2
        self.conv1, self.conv2 = nn.Conv2d(x_dim, r_dim, 2, 2), nn.Conv2d(r_dim, half_, 1)
        self.conv3, self.conv4 = nn.Conv2d(r_dim, half_, 3, padding=1), nn.Conv2d(half_, r_dim, 2, 2)
        self.conv5 = nn.Conv2d(r_dim + v_dim, r_dim, 3, padding=1)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv4(F.relu(self.conv3(h)) + self.conv2(h)))
        return F.relu(self.conv5(torch.cat([h, v[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)))


class ConvCell(nn.Module):
    """An LSTM's step, with convolutions as its gates."""

    def __init__(self, n_in: int, h_dim: int) -> None:
        super().__init__()
        self.forget, self.input = nn.Conv2d(n_in, h_dim, 3, padding=1), nn.Conv2d(n_in, h_dim, 3, padding=1)
        self.output, self.state = nn.Conv2d(n_in, h_dim, 3, padding=1), nn.Conv2d(n_in, h_dim, 3, padding=1)

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, cell = states
        both = torch.cat([hidden, x], dim=1)
        cell = torch.sigmoid(self.forget(both)) * cell + torch.sigmoid(self.input(both)) * torch.tanh(self.state(both))
        return torch.sigmoid(self.output(both)) * torch.tanh(cell), cell


class SceneGenerator(nn.Module):
    def __init__(self, x_dim: int, v_dim: int, r_dim: int, z_dim: int, h_dim: int, steps: int) -> None:
        super().__init__()
        self.L, self.h_dim = steps, h_dim
        self.inference_core = ConvCell(v_dim + r_dim + x_dim + 3 * h_dim, h_dim)
        self.generator_core = ConvCell(v_dim + r_dim + z_dim + h_dim, h_dim)
        self.posterior_density = nn.Conv2d(h_dim, 2 * z_dim, 5, 1, 2)
        self.prior_density = nn.Conv2d(h_dim, 2 * z_dim, 5, 1, 2)
        self.observation_density = nn.Conv2d(h_dim, x_dim, 1)
        self.upsample = nn.ConvTranspose2d(h_dim, h_dim, 4, 4, bias=False)

    @staticmethod
    def law(layer: nn.Module, hidden: Tensor) -> Normal:
        mu, std = torch.chunk(layer(hidden), 2, dim=1)
        return Normal(mu, F.softplus(std))

    def forward(self, x: Tensor, v: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        b, _, height, width = x.shape
        h, w = height // 4, width // 4
        small = F.interpolate(x, scale_factor=0.25, mode="area")
        v = v.view(b, -1, 1, 1).repeat(1, 1, h, w)
        hidden_i, cell_i, hidden_g, cell_g = (x.new_zeros((b, self.h_dim, h, w)) for _ in range(4))
        u, kl = x.new_zeros((b, self.h_dim, height, width)), 0
        for _ in range(self.L):
            p, q = self.law(self.prior_density, hidden_g), self.law(self.posterior_density, hidden_i)
            z = q.rsample()
            seen = torch.cat([hidden_g, F.interpolate(u, scale_factor=0.25, mode="area"), small, v, r], dim=1)
            hidden_i, cell_i = self.inference_core(seen, (hidden_i, cell_i))
            hidden_g, cell_g = self.generator_core(torch.cat([z, v, r], dim=1), (hidden_g, cell_g))
            u = self.upsample(hidden_g) + u
            kl = kl + kl_divergence(q, p)
        return torch.sigmoid(self.observation_density(u)), kl


class SceneQuery(nn.Module):
    def __init__(self, x_dim: int = 3, v_dim: int = 2, r_dim: int = 4) -> None:
        super().__init__()
        self.generator = SceneGenerator(x_dim, v_dim, r_dim, 2, 4, 3)
        self.representation = TowerRepresentation(x_dim, v_dim, r_dim)

    def forward(self, x: Tensor, v: Tensor, query_x: Tensor, query_v: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.representation(x.flatten(0, 1), v.flatten(0, 1))
        return self.generator(query_x, query_v, phi.view(*x.shape[:2], *phi.shape[1:]).sum(dim=1))


def scene_loss(model: Any, x: Tensor, v: Tensor, query_x: Tensor, query_v: Tensor, sigma: float = 2.0) -> Tensor:
    """The likelihood's σ is a number that a schedule lowers."""
    x_mu, kl = model(x, v, query_x, query_v)
    loglike = torch.mean(torch.sum(Normal(x_mu, sigma).log_prob(query_x), dim=[1, 2, 3]))
    return -(loglike - torch.mean(torch.sum(kl, dim=[1, 2, 3])))


class SkipBlock(nn.Module):
    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(nn.Linear(width, width) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        e = x + 0
        for i, layer in enumerate(self.block):
            e = layer(e) if i == len(self.block) - 1 else F.relu(layer(e))
        return F.relu(e + x)


class SetParameters(nn.Module):
    """A mean and a log variance, under one batch normalization of all of them together."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.fc_block = SkipBlock(hidden, 2)
        self.fc_params, self.bn_params = nn.Linear(hidden, 2 * dim), nn.BatchNorm1d(1, eps=1e-3, momentum=1e-2)

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        e = self.fc_params(self.fc_block(e)).view(-1, 1, 2 * self.dim)
        e = self.bn_params(e).view(-1, 2 * self.dim)
        return e[:, : self.dim].contiguous(), e[:, self.dim :].contiguous()


class SetStatistic(nn.Module):
    def __init__(self, features: int, hidden: int, c_dim: int) -> None:
        super().__init__()
        self.prepool = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.postpool = SetParameters(hidden, c_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e = self.prepool(x.reshape(-1, x.shape[-1]))
        return self.postpool(e.view(*x.shape[:2], -1).mean(1))


class SetInference(SetParameters):
    def __init__(self, features: int, hidden: int, c_dim: int, z_dim: int) -> None:
        super().__init__(hidden, z_dim)
        self.fc_x, self.fc_c = nn.Linear(features, hidden), nn.Linear(c_dim, hidden)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        ex = self.fc_x(x.reshape(-1, x.shape[-1])).view(*x.shape[:2], -1)
        return super().forward(F.relu(ex + self.fc_c(c).unsqueeze(1).expand_as(ex)).flatten(0, 1))


class SetPrior(SetParameters):
    def __init__(self, hidden: int, c_dim: int, z_dim: int) -> None:
        super().__init__(hidden, z_dim)
        self.fc_c = nn.Linear(c_dim, hidden)

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(F.relu(self.fc_c(c)))


class SetObservation(nn.Module):
    def __init__(self, features: int, hidden: int, c_dim: int, z_dim: int) -> None:
        super().__init__()
        self.features = features
        self.fc_zs, self.fc_c = nn.Linear(z_dim, hidden), nn.Linear(c_dim, hidden)
        self.fc_block, self.fc_params = SkipBlock(hidden, 2), nn.Linear(hidden, 2 * features)

    def forward(self, z: Tensor, c: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        e = self.fc_zs(z).view(*shape, -1)
        e = F.relu(e + self.fc_c(c).unsqueeze(1).expand_as(e)).flatten(0, 1)
        e = self.fc_params(self.fc_block(e))
        return e[:, : self.features], e[:, self.features :]


class SetStatistician(nn.Module):
    def __init__(self, features: int = 1, hidden: int = 6, c_dim: int = 3, z_dim: int = 2) -> None:
        super().__init__()
        self.statistic_network = SetStatistic(features, hidden, c_dim)
        self.inference_networks = nn.ModuleList([SetInference(features, hidden, c_dim, z_dim)])
        self.latent_decoders = nn.ModuleList([SetPrior(hidden, c_dim, z_dim)])
        self.observation_decoder = SetObservation(features, hidden, c_dim, z_dim)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        context = self.statistic_network(x)
        c = draw_half(*context)
        q = self.inference_networks[0](x, c)
        return context, q, self.latent_decoders[0](c), self.observation_decoder(draw_half(*q), c, x.shape[:2])


def set_loss(model: Any, x: Tensor, weight: float = 2.0) -> Tensor:
    (c_mean, c_logvar), q, p, (x_mean, x_logvar) = model(x)
    n = x.shape[0] * x.shape[1]
    bounded = torch.clamp(x_logvar, min=-4, max=3)
    away = (x.reshape(n, -1) - x_mean) ** 2 / torch.exp(bounded)
    recon = -0.5 * torch.sum(math.log(2 * math.pi) + bounded + away) / n
    kl = 0.5 * torch.sum(c_mean**2 + torch.exp(c_logvar) - 1 - c_logvar)
    (q_mean, q_logvar), (p_mean, p_logvar) = ([t.view(len(x), -1, t.shape[-1]) for t in law] for law in (q, p))
    p_mean, p_logvar = p_mean.expand_as(q_mean), p_logvar.expand_as(q_logvar)
    ratio = ((q_mean - p_mean) ** 2 + torch.exp(q_logvar)) / torch.exp(p_logvar)
    kl = (kl + 0.5 * torch.sum(p_logvar - 1 - q_logvar + ratio)) / n
    return -(weight * recon - kl / weight)


# ------------------------------------------------------------------------------------------------ labels, modalities


@dataclass(frozen=True)
class Site:
    law: Distribution
    value: Tensor

    def log_prob(self) -> Tensor:
        log = self.law.log_prob(self.value)
        return log.flatten(1).sum(1) if log.dim() > 1 else log


class Trace(dict[str, Site]):
    """Random values by their names, each with its law."""

    def normal(self, mean: Tensor, std: Tensor, name: str, value: Tensor | None = None) -> Tensor:
        law = Normal(mean, std)
        self[name] = Site(law, law.rsample() if value is None else value)
        return self[name].value

    def concrete(self, logits: Tensor, temperature: Tensor, name: str, value: Tensor | None = None) -> Tensor:
        law = RelaxedOneHotCategorical(temperature, logits=logits)
        self[name] = Site(law, law.rsample() if value is None else value)
        return self[name].value


class StyleDigitEncoder(nn.Module):
    def __init__(self, pixels: int, hidden: int, digits: int, style: int) -> None:
        super().__init__()
        self.enc_hidden = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.digit_log_weights, self.digit_temp = nn.Linear(hidden, digits), torch.tensor(0.66)
        self.style_mean, self.style_log_std = nn.Linear(hidden + digits, style), nn.Linear(hidden + digits, style)

    def forward(self, x: Tensor) -> Trace:
        q, h = Trace(), self.enc_hidden(x)
        both = torch.cat([q.concrete(self.digit_log_weights(h), self.digit_temp, "digits"), h], -1)
        q.normal(self.style_mean(both), torch.exp(self.style_log_std(both)), "styles")
        return q


class StyleDigitDecoder(nn.Module):
    def __init__(self, pixels: int, hidden: int, digits: int, style: int) -> None:
        super().__init__()
        self.digits, self.style = digits, style
        self.dec_hidden = nn.Sequential(nn.Linear(style + digits, hidden), nn.ReLU())
        self.dec_image = nn.Sequential(nn.Linear(hidden, pixels), nn.Sigmoid())

    def forward(self, x: Tensor, q: Trace, eps: float = 1e-9) -> tuple[Trace, Tensor]:
        p = Trace()
        zeros, ones = torch.zeros(self.style), torch.ones(self.style)
        digits = p.concrete(torch.zeros(self.digits), torch.tensor(0.66), "digits", q["digits"].value)
        styles = p.normal(zeros, ones, "styles", q["styles"].value)
        x_hat = self.dec_image(self.dec_hidden(torch.cat([digits, styles], -1)))
        return p, (torch.log(x_hat + eps) * x + torch.log(1 - x_hat + eps) * (1 - x)).sum(-1)


class StyleDigits(nn.Module):
    """Upstream the two networks are apart, and the traces are a package's."""

    def __init__(self, pixels: int = 16, hidden: int = 10, digits: int = 3, style: int = 4) -> None:
        super().__init__()
        self.enc = StyleDigitEncoder(pixels, hidden, digits, style)
        self.dec = StyleDigitDecoder(pixels, hidden, digits, style)


def style_loss(model: Any, x: Tensor) -> Tensor:
    """A batch without labels."""
    q = model.enc(x)
    p, log_like = model.dec(x, q)
    return -(log_like + sum(p[name].log_prob() - q[name].log_prob() for name in q)).mean()


def fc_block(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU()) for a, b in pairwise(sizes)))


class SharedEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int, var_eps: float = 1e-4) -> None:
        super().__init__()
        self.fc, self.var_eps = fc_block(n_in, 8), var_eps
        self.mean_encoder, self.var_encoder = nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x: Tensor) -> tuple[Normal, Tensor]:
        h = self.fc(x)
        law = Normal(self.mean_encoder(h), (torch.exp(self.var_encoder(h)) + self.var_eps).sqrt())
        return law, law.rsample()


class SharedVAE(nn.Module):
    """Its code goes through a layer for each species behind the draw."""

    def __init__(self, width: int, latent: int, species: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.decoder = SharedEncoder(width, latent), fc_block(latent, width)
        self.conditionals = nn.ModuleDict({name: fc_block(latent, latent) for name in species})

    def forward(self, x: Tensor, species: str) -> tuple[Normal, Normal, Tensor]:
        q, z = self.encoder(x)
        p = Normal(torch.zeros_like(z), torch.ones_like(z))
        return q, p, self.decoder(self.conditionals[species](z))


class Expert(nn.Module):
    def __init__(self, genes: int, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = fc_block(genes, width), fc_block(width, genes)


class SpeciesVAE(nn.Module):
    """Experts of two species about one VAE; a batch is of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({"human": Expert(12, 6), "mouse": Expert(10, 6)})
        self.vae = SharedVAE(6, 4, ("human", "mouse"))

    def forward(self, x: Tensor, species: str) -> tuple[Normal, Normal, Tensor]:
        q, p, shared = self.vae(self.experts[species].encoder(x), species)
        return q, p, self.experts[species].decoder(shared)


def species_loss(model: Any, x: Tensor, species: str) -> Tensor:
    q, p, x_hat = model(x, species)
    return F.mse_loss(x_hat, x, reduction="sum") + 0.5 * kl_divergence(q, p).sum(dim=-1).mean()


class ClusteredVAE(nn.Module):
    """The prior is a Normal of each class, whose numbers are taken from the encodings once an epoch."""

    def __init__(self, pixels: int = 16, z_size: int = 4) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(pixels, 10), nn.Linear(10, z_size), nn.Linear(10, z_size)
        self.fc3, self.fc4 = nn.Linear(z_size, 10), nn.Linear(10, pixels)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()

    def reparametrize_normal(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        return torch.FloatTensor(std.size()).normal_().mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        return self.sigmoid(self.fc4(self.relu(self.fc3(self.reparametrize_normal(mu, logvar))))), mu, logvar


def clustered_loss(model: Any, x: Tensor, label: Tensor, share: float = 0.25) -> Tensor:
    recon, mu, logvar = model(x)
    one_hot = F.one_hot(label, 3).float()
    mu2, sigma2 = one_hot.matmul(randn(3, 4, seed=21)), one_hot.matmul(0.5 + rand(3, 4, seed=22))
    element = mu.sub(mu2).pow(2).div(sigma2)
    element = element.add_(logvar.exp().div(sigma2)).mul_(-1).add_(logvar).sub_(sigma2.log()) * share
    return F.mse_loss(recon, x, reduction="sum") + torch.sum(element).mul_(-0.5)


class BottleneckEncoder(nn.Module):
    """Keeps its mean and deviation as an attribute, of which a KL is taken later."""

    def __init__(self, n_in: int, emb: int, softplus_scalar: float = -1.0) -> None:
        super().__init__()
        self.emb, self.softplus_scalar = emb, softplus_scalar
        self._fc = nn.Sequential(nn.Linear(n_in, 10), nn.ReLU(True), nn.Linear(10, 2 * emb))
        self.params: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        mu, log_std = torch.split(self._fc(x), self.emb, dim=1)
        std = F.softplus(log_std - self.softplus_scalar) if self.softplus_scalar > 0 else log_std.exp()
        self.params = (mu, std)
        return torch.randn(mu.size()).mul(std).add(mu)


class BottleneckClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._Enc = BottleneckEncoder(12, 4)
        self._Dec = nn.Sequential(nn.Linear(4, 8), nn.ReLU(True), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self._Dec(self._Enc(x))


def bottleneck_loss(model: Any, x: Tensor, label: Tensor, weight: float = 0.01) -> Tensor:
    output = model(x)
    mu, std = model._Enc.params
    mu2, std2 = torch.zeros(mu.size()), torch.ones(std.size())
    kl = 0.5 * (2 * (torch.log(std2) - torch.log(std)) + ((mu - mu2) / std2) ** 2 + (std / std2) ** 2 - 1)
    return nn.CrossEntropyLoss()(output, label) + weight * kl.sum(dim=-1).mean()


class DoorEncoder(nn.Module):
    """A softplus by its formula, of a shifted value."""

    def __init__(self, n_in: int, nodes: int, hidden: int, bias: float = -1.0) -> None:
        super().__init__()
        self.flatten, self.fc1, self.fc2 = nn.Flatten(), nn.Linear(n_in, nodes), nn.Linear(nodes, nodes)
        self.relu, self.dropout, self.bias = nn.ReLU(inplace=True), nn.Dropout(p=0.5), bias
        self.z_loc, self.z_logit_scale = nn.Linear(nodes, hidden), nn.Linear(nodes, hidden)

    def softplus(self, v: Tensor) -> Tensor:
        return torch.log(1 + torch.exp(v + self.bias))

    def forward(self, sequence: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h = self.fc2(self.dropout(self.relu(self.fc1(self.flatten(sequence)))))
        loc, scale = self.z_loc(h), self.softplus(self.z_logit_scale(h))
        return loc + scale * torch.randn_like(scale), (loc, scale)


class DoorClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = DoorEncoder(12, 10, 4)
        self.classifier = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(p=0.5), nn.Linear(8, 4), nn.LogSoftmax(dim=1)
        )


def door_loss(model: Any, sequence: Tensor, label: Tensor, nu: float = 0.001) -> Tensor:
    feature, (loc, scale) = model.encoder(sequence)
    kl = -0.5 * torch.sum(1 + 2.0 * torch.log(scale) - loc.pow(2) - scale.pow(2), dim=1)
    return nn.NLLLoss()(model.classifier(feature), label) + nu * torch.sum(kl) / kl.size(0)


# ------------------------------------------------------------------------------------------------ regression, weights


class SliceMDN(nn.Module):
    """One σ for each component, from the last but one slice of the output."""

    def __init__(self, n_in: int = 3, hidden: int = 8, n_out: int = 2, mixtures: int = 3) -> None:
        super().__init__()
        self.n_out, self.mixtures = n_out, mixtures
        self.hidden_layers = nn.ModuleList([nn.Linear(n_in, hidden), nn.Linear(hidden, (n_out + 2) * mixtures)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.hidden_layers[1](F.relu(self.hidden_layers[0](x)))
        k = self.mixtures
        mu = out[:, : self.n_out * k].reshape(-1, k, self.n_out)
        return mu, torch.exp(out[:, -2 * k : -k]), F.softmax(out[:, -k:], dim=1)


def slice_nll(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """A density, not its logarithm, with small numbers added twice."""
    mu, sigma, pi = model(x)
    n = y.shape[1]
    y = y.unsqueeze(1).repeat(1, mu.shape[1], 1)
    exponent = torch.exp(-0.5 * torch.sum(((y - mu) / sigma.unsqueeze(-1).repeat(1, 1, n)) ** 2, dim=-1))
    normalizer = torch.sqrt((2 * torch.pi * sigma**2) ** n) + 1e-10
    return torch.mean(-torch.log((exponent * pi / normalizer + 1e-10).sum(dim=1)))


LEAST, MOST = 1e-3, 50.0


class EnsembleMember(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.mean_head, self.raw_sigma_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(x)
        sigma = F.softplus(self.raw_sigma_head(h))
        return self.mean_head(h), torch.clamp(sigma + LEAST, min=LEAST, max=MOST)


def member_nll(model: Any, x: Tensor, y: Tensor) -> Tensor:
    mean, sigma = model(x)
    sigma = torch.clamp(sigma, min=LEAST, max=MOST)
    return (torch.log(sigma) + 0.5 * ((y - mean) / sigma) ** 2 + 0.5 * math.log(2.0 * math.pi)).mean()


def bell(x: Tensor, mu: Tensor | float, sigma: Tensor | float) -> Tensor:
    height = 1.0 / ((2.0 * torch.pi) ** 0.5 * sigma) * torch.exp(-((x - mu) ** 2) / (2.0 * sigma**2))
    return torch.clamp(height, 1e-10, 10)


class RowLinear(nn.Module):
    """Weights are drawn anew for each row of the batch; their densities are kept, and handed out as numbers."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.is_bayesian = True
        self.mu, self.ro = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.empty(n_in, n_out))
        self.mu_bias, self.ro_bias = nn.Parameter(torch.empty(1, n_out)), nn.Parameter(torch.empty(1, n_out))
        nn.init.kaiming_uniform_(self.mu, nonlinearity="relu")
        nn.init.uniform_(self.mu_bias, -0.3, 0.3)
        for ro in (self.ro, self.ro_bias):
            nn.init.normal_(ro, -8, 0.05)
        self._log_prior = self._log_q = torch.zeros(())

    @property
    def log_ratio(self) -> float:
        return self._log_q.item() - self._log_prior.item()

    @staticmethod
    def mixture(w: Tensor) -> Tensor:
        return (0.25 * bell(w, 0.0, 0.1) + 0.75 * bell(w, 0.0, 1e-6)).log().mean()

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        noise = torch.normal(torch.zeros(n, 1, *self.mu.shape))
        noise_bias = torch.normal(torch.zeros(n, *self.mu_bias.shape))
        sigma, sigma_bias = torch.log(1 + torch.exp(self.ro)), torch.log(1 + torch.exp(self.ro_bias))
        weights, bias = noise * sigma + self.mu, noise_bias * sigma_bias + self.mu_bias
        self._log_prior = (self.mixture(weights) + self.mixture(bias)) / n
        q = bell(weights, self.mu, sigma).log().mean() + bell(bias, self.mu_bias, sigma_bias).log().mean()
        self._log_q = q / n
        return (x.unsqueeze(1).unsqueeze(2) @ weights).squeeze(2).mean(dim=1)


class RowNetwork(nn.Module):
    """A layer in a sequence of its own is drawn, and counted in no density; biases are drawn and not added."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            RowLinear(9, 6), nn.ReLU(inplace=True), nn.Sequential(RowLinear(6, 5), nn.ReLU(inplace=True)),
            RowLinear(5, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.view(x.shape[0], -1))

    def log_ratio(self) -> float:
        counted = [layer for layer in self.model if hasattr(layer, "is_bayesian")]
        return sum(layer.log_ratio for layer in counted) / len(counted)


def row_loss(model: Any, x: Tensor, label: Tensor, weight: float = 0.1) -> Tensor:
    output = model(x)
    return weight * model.log_ratio() + F.cross_entropy(output, label)


class SparseMixin:
    """The dropout's log α of a weight and its variance."""

    weight: nn.Parameter
    log_sigma2: nn.Parameter
    eps = 1e-10

    def kl(self) -> Tensor:
        log_alpha = self.log_sigma2 - 2 * torch.log(torch.abs(self.weight) + self.eps)
        log_alpha = torch.clamp(log_alpha, -10, 10)
        rate = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha)
        return -torch.sum(rate - 0.5 * torch.log1p(torch.exp(-log_alpha)) - 0.63576)


class SparseLinear(nn.Module, SparseMixin):
    """Its noise has the deviation already, and is multiplied by it once more."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, n_out))
        self.weight = nn.Parameter(torch.empty(n_out, n_in).normal_(0, 0.02))
        self.log_sigma2 = nn.Parameter(torch.full((n_out, n_in), -10.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = F.linear(x, self.weight) + self.bias
        std = torch.sqrt(F.linear(x * x, torch.exp(self.log_sigma2)) + self.eps)
        return mean + torch.normal(torch.zeros_like(mean), std + self.eps) * std


class SparseConv(nn.Conv2d, SparseMixin):
    def __init__(self, n_in: int, n_out: int, kernel: int) -> None:
        super().__init__(n_in, n_out, kernel, bias=False)
        self.log_sigma2 = nn.Parameter(-10 * torch.ones_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        mean = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        var = F.conv2d(x**2, torch.exp(self.log_sigma2), self.bias, self.stride, self.padding)
        noise = torch.normal(torch.zeros_like(mean), torch.ones_like(mean) + self.eps)
        return mean + noise * torch.sqrt(self.eps + var)


class SparseLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(2), nn.BatchNorm2d(3)
        self.conv1, self.conv2 = SparseConv(1, 2, 3), SparseConv(2, 3, 3)
        self.fc1, self.fc2 = SparseLinear(3, 6), SparseLinear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.avg_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        h = torch.flatten(F.relu(self.bn2(self.conv2(h))), 1)
        return self.fc2(F.relu(self.fc1(h)))


def sparse_elbo(model: Any, x: Tensor, label: Tensor, weight: float = 1e-4) -> Tensor:
    kl = sum(layer.kl() for layer in model.modules() if isinstance(layer, SparseMixin))
    return F.cross_entropy(model(x), label) + weight * kl


# ------------------------------------------------------------------------------------------------ none


class Bootstrap(nn.Module):
    """Two views, and a copy of the networks that follows them."""

    def __init__(self, n_in: int = 10, features: int = 6, out: int = 4) -> None:
        super().__init__()
        self.encoder, self.encoder_momentum = (
            nn.Sequential(nn.Linear(n_in, 8), nn.ReLU(), nn.Linear(8, features)) for _ in range(2)
        )
        self.projection_head, self.projection_head_momentum = (self.head(features, out) for _ in range(2))
        self.prediction_head = self.head(out, out)
        for theirs in (*self.encoder_momentum.parameters(), *self.projection_head_momentum.parameters()):
            theirs.requires_grad = False
        self.follow(0.0)

    @staticmethod
    def head(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(n_in, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_out))

    @torch.no_grad()
    def follow(self, m: float) -> None:
        pairs = (self.encoder, self.encoder_momentum), (self.projection_head, self.projection_head_momentum)
        for ours, theirs in pairs:
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                q.data = q.data * m + p.data * (1 - m)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        self.follow(0.99)
        p0, p1 = (self.prediction_head(self.projection_head(self.encoder(x))) for x in (x0, x1))
        z0, z1 = (self.projection_head_momentum(self.encoder_momentum(x)).detach() for x in (x0, x1))
        return 0.5 * (-F.cosine_similarity(p0, z1).mean() - F.cosine_similarity(p1, z0).mean())


class AdditiveCoupling(nn.Module):
    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        mask = torch.zeros(dim)
        mask[0 if first else 1 :: 2] += 1
        self.register_buffer("mask", mask)
        self.mlp = nn.Sequential(nn.Linear(dim, 8), nn.LeakyReLU(0.2), nn.Linear(8, dim))

    def forward(self, x: Tensor) -> Tensor:
        kept = self.mask * x
        return kept + (1 - self.mask) * x + self.mlp(kept) * (1.0 - self.mask)


class AdditiveFlow(nn.Module):
    """To a logistic; its layer of scales is for sampling alone."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.coupling_layers = nn.ModuleList(AdditiveCoupling(dim, bool(i % 2)) for i in range(3))
        self.log_scale_vector = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.coupling_layers:
            x = layer(x)
        return torch.sum(-(F.softplus(x) + F.softplus(-x)), dim=1)


def additive_loss(model: Any, x: Tensor) -> Tensor:
    return -torch.mean(model(torch.clamp(x + torch.rand_like(x) / 256, 0, 1)))


class NoisePredictor(nn.Module):
    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.T = steps
        self.net = nn.ModuleList([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)])
        self.time = nn.Embedding(steps, 6)
        self.register_buffer("beta_t", torch.linspace(1e-4, 0.02, steps))
        alpha_bar = torch.cumprod(1.0 - self.beta_t, dim=0)
        self.register_buffer("signal_rate", torch.sqrt(alpha_bar))
        self.register_buffer("noise_rate", torch.sqrt(1.0 - alpha_bar))

    def forward(self, x: Tensor) -> Tensor:
        t = torch.randint(self.T, size=(len(x),))
        noise = torch.randn_like(x)
        x_t = self.signal_rate[t].view(-1, 1, 1, 1) * x + self.noise_rate[t].view(-1, 1, 1, 1) * noise
        h = F.silu(self.net[0](x_t) + self.time(t)[:, :, None, None])
        return torch.sum(F.mse_loss(self.net[1](h), noise, reduction="none"))


class MovingCodes(nn.Module):
    """A code book without gradients, whose first entries are the batch's, tiled with a little noise."""

    def __init__(self, bins: int, width: int, mu: float = 0.99) -> None:
        super().__init__()
        self.bins, self.mu, self.init = bins, mu, False
        self.register_buffer("k", torch.zeros(bins, width))
        self.register_buffer("k_sum", torch.zeros(bins, width))
        self.register_buffer("k_elem", torch.ones(bins))

    def picked(self, x: Tensor) -> Tensor:
        if len(x) < self.bins:
            x = x.repeat(-(-self.bins // len(x)), 1)
            x = x + torch.randn_like(x) * 0.01 / math.sqrt(x.shape[1])
        return x[torch.randperm(len(x))][: self.bins]

    @torch.no_grad()
    def move(self, x: Tensor, codes: Tensor) -> None:
        one_hot = F.one_hot(codes, self.bins).float().t()
        self.k_sum = self.mu * self.k_sum + (1 - self.mu) * one_hot @ x
        self.k_elem = self.mu * self.k_elem + (1 - self.mu) * one_hot.sum(dim=-1)
        used = (self.k_elem.view(-1, 1) >= 1.0).float()
        self.k = used * (self.k_sum / self.k_elem.view(-1, 1)) + (1 - used) * self.picked(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n, width, t = x.shape
        flat = x.permute(0, 2, 1).contiguous().view(-1, width)
        if self.training and not self.init:
            self.init = True
            self.k = self.picked(flat.detach())
            self.k_sum = self.k.detach()
        book = self.k.detach()
        distance = torch.sum(flat**2, dim=-1, keepdim=True) - 2 * flat @ book.t() + torch.sum(book.t() ** 2, 0, True)
        codes = distance.min(dim=-1)[1]
        chosen = F.embedding(codes, book)
        if self.training:
            self.move(flat.detach(), codes)
        commit = torch.norm(chosen - flat) ** 2 / flat.numel()
        chosen = flat + (chosen - flat).detach()
        return chosen.view(n, t, width).permute(0, 2, 1).contiguous(), commit


class WaveCodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv1d(4, 3, 3, 1, 1))
        self.bottleneck = MovingCodes(8, 3)
        self.decoder = nn.Sequential(nn.Conv1d(3, 4, 3, 1, 1), nn.ReLU(), nn.ConvTranspose1d(4, 1, 4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        codes, commit = self.bottleneck(self.encoder(x))
        out = self.decoder(codes)
        window = torch.hann_window(8)
        spectra = [torch.stft(t.squeeze(1), 8, 4, window=window, return_complex=True).abs() for t in (out, x)]
        return F.mse_loss(out, x) + torch.norm(spectra[0] - spectra[1]) / spectra[0].numel() + 0.02 * commit


class LeastSquaresGAN(nn.Module):
    def __init__(self, latent: int = 5) -> None:
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(latent, 4, 4, 1, 0), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1),
            nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 0), nn.Flatten()
        )

    def forward(self, x: Tensor) -> Tensor:
        fake = self.generator(torch.randn(len(x), self.latent, 1, 1))
        real_score, fake_score = self.discriminator(x), self.discriminator(fake.detach())
        critic = F.mse_loss(real_score, torch.ones_like(real_score)) + F.mse_loss(
            fake_score, torch.zeros_like(fake_score)
        )
        score = self.discriminator(fake)
        return 0.5 * (critic + F.mse_loss(score, torch.ones_like(score)))


class CleaningAutoencoder(nn.Module):
    """The noise is in the data; the code is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.convEncoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 0), nn.BatchNorm2d(6),
            nn.ReLU(),
        )  # fmt: skip
        self.convDecoder = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 3, 2, 0, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, 1, 1), nn.Sigmoid()
        )
        self.classifier = nn.Sequential(
            nn.Linear(54, 8), nn.Dropout(0.25), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(dim=1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.convEncoder(x)
        return self.convDecoder(code), self.classifier(code.flatten(1))


def cleaning_loss(model: Any, x: Tensor, clean: Tensor, label: Tensor) -> Tensor:
    decoded, classes = model(x)
    l1 = sum(torch.norm(p, 1) for name, p in model.named_parameters() if "weight" in name)
    return F.mse_loss(decoded, clean) + F.nll_loss(classes, label) + 1e-5 * l1


# ------------------------------------------------------------------------------------------------ truths


def root_of_softplus(v: Tensor) -> Tensor:
    return (F.softplus(v) + 1e-8).sqrt()


def root_of_square(v: Tensor) -> Tensor:
    return (torch.exp(v) ** 2 + 1e-6).sqrt()


def doubled(v: Tensor) -> Tensor:
    return torch.exp(2 * v)


def not_above_one(v: Tensor) -> Tensor:
    return torch.exp(-0.5 * v.abs())


def half_within(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-30, 20))


def half_within_four(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-4, 3))


def never_narrow(v: Tensor) -> Tensor:
    return v.clamp(min=0.11)


def floored_root(v: Tensor) -> Tensor:
    return (torch.exp(v) + 1e-4).sqrt()


def shifted_softplus(v: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(v - 1))


def raised_softplus(v: Tensor) -> Tensor:
    return (F.softplus(v) + LEAST).clamp(LEAST, MOST)


def scenes() -> tuple[Tensor, ...]:
    return rand(3, 2, 3, 8, 8), randn(3, 2, 2), rand(3, 3, 8, 8, seed=9), randn(3, 2, seed=10)


# fmt: off
CASES = (
    PublicCase(
        "VAE of CIFAR (feroooooo)",
        Retold("feroooooo/GAN-VAE-CIFAR10", "12e5f8ba325784290e1294e0ec3a8933a5fedebb", "vae.py"),
        ColourVAE, images(batch=4), (posterior("fc_logvar"),), colour_loss,
        truth="vae.py reparameterize: exp(0.5 logvar); KL summed",
    ),
    PublicCase(
        "CVAE (ryoo-nakamura)",
        Retold("ryoo-nakamura/pytorch-CVAE", "326693d8743b03ab418136e16a4dca405dc331fa", "CVAE.py"),
        LabelledCVAE, lambda: (rand(6, 16), tokens(3, 6)), (posterior("_to_lnvar"),), labelled_step,
        truth="CVAE.py, the script: the root of exp(lnvar), times one noise for all rows; KL summed over the code",
    ),
    PublicCase(
        "VAE of faces (Abhi10699)",
        Retold("Abhi10699/face-vae", "1b57f8031ac4fb1eda8757ccfe2725876d525427", "model.py, train.py"),
        PortraitVAE, lambda: (rand(3, 3, 8, 8),), (posterior("encoder.log_var"),), portrait_loss,
        truth="model.py sample: exp(0.5 log_var); train.py: twice the KL, weighed. train_adv.py's critic is left out",
    ),
    PublicCase(
        "VAE of glyphs (Alexponomarev7)",
        Retold("Alexponomarev7/svg-vae", "d4918b2fdc9f9a16e29dd0cb7b4744e45f040d62", "model.py, config.py"),
        GlyphVAE, lambda: (bits(4, 1, 8, 8), tokens(4, 4)), (posterior("encoder.dense", 3, 6),), glyph_loss,
        truth="model.py bottleneck: exp(log_sigma / 2), of what is a log variance; a KL by its mean, 0.15 of it free, "
        "300 times the rest. The decoder of curves is unfinished upstream",
    ),
    PublicCase(
        "SketchRNN (rfeinman)",
        Retold(
            "rfeinman/Sketch-RNN", "38e4d9b450bc576f7ff64673ffbce410b67f9993",
            "sketch_rnn/model.py, sketch_rnn/param_layer.py, sketch_rnn/objective.py, sketch_rnn/utils/gmm.py",
        ),
        StrokeRNN, strokes,
        (posterior("encoder.output", 4, 8), likelihood("param_layer.linear", 6, 10, root_of_square)), stroke_loss,
        truth="model.py Encoder: exp(0.5 z_logvar), the KL never below 0.2; param_layer.py: exp(v); gmm.py "
        "tikhonov_reg2d: the root of its square + 1e-6, of Normals with a correlation. Upstream the decoder's cell is "
        "written out, and scripted",
    ),
    PublicCase(
        "LadderVAE (aswahd)",
        Retold(
            "aswahd/LadderVAE", "ef8ecc36a30efa84ccde53d1b619327105ae5b23",
            "models/lvae.py, models/utils.py, train.py",
        ),
        ClassLadder, lambda: (rand(6, 1, 8, 8), F.one_hot(tokens(3, 6), 3).float()),
        (
            posterior("encoder.encoder.2.fc_var", sigma=root_of_softplus),
            *(posterior(f"encoder.encoder.{i}.fc_var", sigma=None) for i in range(2)),
            *(prior(f"decoder.decoder.{i}.fc_var", sigma=root_of_softplus) for i in range(2)),
        ), itself,
        truth="lvae.py: a softplus + 1e-8 is a variance; below the top a posterior's is the inverse of the sum of the "
        "encoder's and the decoder's precisions; utils.py kl_normal: the decoder's own variance is the prior's",
    ),
    PublicCase(
        "NVAE (nextml-code)",
        Retold(
            "nextml-code/template-nvae", "318d7ccb70698a56531d3216cc0df36d6ddedd2b",
            "vae/architecture/decoder.py, vae/architecture/encoder.py, vae/architecture/model.py, "
            "vae/architecture/module/variational.py, vae/architecture/prediction.py",
        ),
        DeepVAE, lambda: (2 * rand(3, 3, 8, 8) - 1,),
        (
            posterior("decoder.absolute_variational_block.sample.variational_parameters.2", 3, 6),
            *(
                head
                for i in range(2)
                for at in (f"decoder.relative_variational_blocks.{i}.0.sample",)
                for head in (
                    prior(f"{at}.absolute_parameters.2", 3, 6), posterior(f"{at}.relative_parameters.3", 3, 6, None)
                )
            ),
        ), deep_loss,
        truth="variational.py: exp(0.5 log_variance), and of a level below the sum of a log variance and of what "
        "differs; the KL is relative, so that the first is the prior's. A logistic's scale is none",
    ),
    PublicCase(
        "CF-TCVAE",
        Retold(
            "omarbahri/cf_tcvae", "7c9d26e350c8490d50d72f7b96373b7dc0de76ba",
            "cf_tcvae/models/cf_tcvae.py, cf_tcvae/models/encoders.py, cf_tcvae/models/priors.py, "
            "cf_tcvae/models/tc_estimator.py",
        ),
        CounterfactualVAE, lambda: (rand(8, 1, 8, 8), tokens(2, 8), tokens(2, 8, seed=11)),
        (posterior("encoder.logvar_fc"),), itself,
        truth="cf_tcvae.py reparameterize: exp(0.5 z_logvar), of images; priors.py: log variances of buffers, by an "
        "average; tc_estimator.py: densities of every draw, with a bank. The judge of validity is left out",
    ),
    PublicCase(
        "FactorVAE of returns",
        Retold(
            "leejoonhun/factor-vae", "344651d2480d0a271804c915297834698b7b9dc5",
            "factorvae/__init__.py, factorvae/factor_encoder.py, factorvae/factor_predictor.py, "
            "factorvae/factor_decoder.py, losses.py, train.py",
        ),
        ReturnsVAE, lambda: (randn(3, 4, 6, 3), torch.softmax(randn(3, 6, seed=9), 1)),
        (
            posterior("factor_encoder.mapping_layer.std_layer.0", sigma=F.softplus),
            prior("factor_predictor.alpha_layer.std_layer.0", sigma=F.softplus),
            likelihood("factor_decoder.alpha_layer.std_layer.0", sigma=F.softplus),
        ), returns_loss,
        truth="factor_encoder.py, factor_decoder.py: softplus, into torch.normal; train.py exchanges the KL's "
        "arguments, a slip. Hard to decide: the decoder's, which is drawn, has no density and gets no gradient",
    ),
    PublicCase(
        "VAEGAN (tqch)",
        Retold(
            "tqch/VAEGAN", "35c2ce0bf816cd774f5e7748a0c0541920d25e3d",
            "models/vaegan.py, models/dcgan.py, train.py",
        ),
        RefinedVAEGAN, images(batch=4), (posterior("encoder.out_fc.1", 4, 8),), refined_steps,
        truth="vaegan.py sample_z: exp(0.5 logvar); KL summed, by the code's width. Both steps' losses are one here",
    ),
    PublicCase(
        "IntroVAE (dragen1860)",
        Retold("dragen1860/IntroVAE-Pytorch", "fd42b940eeaf9308b4547a6d11a2c5e6eecee052", "model.py, main.py"),
        Introspective, images(batch=4), (posterior("z_net", 4, 8),), introspective_losses,
        truth="model.py reparametrization: the root of exp(log_sigma2); kld, six times, some of it behind a margin. "
        "Both steps' losses are one here; upstream the layer itself is in neither optimizer, a slip",
    ),
    # masks, codecs
    PublicCase(
        "ProbUNet (RanWeisberg)",
        Retold(
            "RanWeisberg/prob-unet-consensus-selection", "7d19dd557a2a85b4fe2f752451cccab715fe5205",
            "src/probunet/model/encoder.py, src/probunet/model/prob_unet.py, src/probunet/losses/elbo.py",
        ),
        MaskUNet, lambda: (rand(4, 1, 8, 8), tokens(2, 4, 8, 8)),
        (posterior("posterior_net.head", 3, 6), prior("prior_net.head", 3, 6)), mask_loss,
        truth="encoder.py LatentStats.sigma: exp(0.5 logvar), a property; Independent Normals, as the config's default",
    ),
    PublicCase(
        "HyperpriorModel (yourauroral)",
        Retold(
            "yourauroral/mdl-deep-image-compression", "7c1d0dc530c11e202d1a2ab3df0afdf35f3256d6",
            "src/mdlic/models/hyperprior.py, src/mdlic/entropy/gaussian_conditional.py, "
            "src/mdlic/entropy/factorized_prior.py, src/mdlic/losses/rd_loss.py",
        ),
        MeanScaleCodec, lambda: (rand(2, 3, 16, 16),), (prior("h_s.2", 4, 8, never_narrow),), codec_loss,
        truth="gaussian_conditional.py: clamp(v, min=0.11) itself is σ, of a mass of length one; a code with uniform "
        "noise",
    ),
    PublicCase(
        "VariationalAutoEncoder (anvuongb)",
        Retold(
            "anvuongb/simple-latent-diffusion-model", "986fda9a1200514c681daa593b29f02cbf5eaefd",
            "simple-latent-diffusion-model/auto_encoder/models/variational_auto_encoder.py, "
            "simple-latent-diffusion-model/auto_encoder/components/distributions.py",
        ),
        FirstStage, images(), (posterior("quant_conv", 2, 4, half_within),), lambda model, x: model.loss(x),
        truth="distributions.py: exp(0.5 clamp(v, -30, 20)); the KL by images. After CompVis's, by its own word",
    ),
    # molecules, graphs, cells, medicine
    PublicCase(
        "VAE of SMILES (DennyHsieh)",
        Retold(
            "DennyHsieh/molecule-vae", "fa27c11c73ac8f3831d59931dbed89c4dd7e0340",
            "vae/vae_models.py, vae/vae_trainer.py, utilities/ops.py",
        ),
        PropertySmiles, lambda: (tokens(7, 5, 7), randn(5, 1)), (posterior("encoder.logvar_lin", sigma=not_above_one),),
        property_loss,
        truth="vae_models.py Encoder: -|v| is the log variance; ops.py sample: exp(0.5 z_log_var); VAELoss: KL summed",
    ),
    PublicCase(
        "Kernel GraphVAE",
        Retold(
            "MirzaeiSfu/GraphVAE-REQ", "93f01e258e45b37aeb6e13e1c1445edc6e49456b",
            "model.py, main.py, util.py, Aggregation.py",
        ),
        KernelGraphVAE, small_graphs,
        (posterior("encode.stochastic_log_std_layer.layers.0", sigma=doubled),), kernel_loss,
        truth="model.py reparameterize: exp(log_std)² multiplies the noise; main.py OptimizerVAE: the KL has it as a "
        "variance, so that σ is exp(v) there. A slip: here σ is what draws. The graph statistics' σ is their error's",
    ),
    PublicCase(
        "VAE of cell images (heussner)",
        Retold("heussner/single-cell-vae", "b2b722f95759b9ec109bc2a873bb2cd2fd320821", "single_cell_vae/models/vae.py"),
        CellImageVAE, images(batch=4), (posterior("fc_var"),), cell_image_loss,
        truth="vae.py reparameterize: exp(0.5 logvar); KL by images, weighed",
    ),
    PublicCase(
        "VAE of two omics (GeorgeKorlos)",
        Retold(
            "GeorgeKorlos/joint-multi-omics-vae", "ca9a4c46b2d7d5f99cc1bb6ee29d41ec8c5b81c9",
            "src/model/vae.py, src/model/encoder.py, src/model/losses.py",
        ),
        OmicsVAE, lambda: (randn(6, 14),), (posterior("encoder.logvar"),), omics_loss,
        truth="vae.py reparameterize: exp(0.5 logvar), in training; losses.py: the KL's mean",
    ),
    PublicCase(
        "VAE of brain slices (voanna)",
        Retold(
            "voanna/slices-to-3d-brain-vae", "0036e5d68f86a52c266f7406c09607eac35d7565",
            "experiments/MICCAI-release-version/main_experiment_64.py",
        ),
        BrainPair, images(1, batch=3), (posterior("encoder.res2_stdev", sigma=torch.exp),), brain_loss,
        truth="main_experiment_64.py reparameterize: exp(std), of a block that adds two convolutions; KLLoss of log σ",
    ),
    PublicCase(
        "VAE of counts (JGuymont)",
        Retold(
            "JGuymont/vae-anomaly-detector", "f69b25b9364d0b34d43151620532ae2fae105d25",
            "vae/vae.py, configs/bow/common_bow.ini",
        ),
        CountsVAE, lambda: (tokens(4, 6, 9).float(),), (posterior("_encoder.read_logvar"),), counts_loss,
        truth="vae.py _sample_z: exp(logvar / 2), of attributes that are kept; KL by rows",
    ),
    # poses, spectra, scenes, sets
    PublicCase(
        "VarenPoser",
        Retold("TheDepe/VarenPoseVAE", "1fe39b90e22360584681ec55ba9c137816b1bc21", "varen_poser/models/varen_poser.py"),
        HorsePoser, lambda: (randn(6, 12),), (posterior("encoder_net.7.logvar", sigma=F.softplus),), horse_loss,
        truth="varen_poser.py NormalDistDecoder: a softplus, of what is called a log variance, into Normal",
    ),
    PublicCase(
        "VAE of spectra (LucaMarziano)",
        Retold("LucaMarziano/Galaxy-VAE", "42645a317b90d3d8e2a5f524ba5fd000f703fca4", "Galaxy Spectra VAE.ipynb"),
        SpectraVAE, lambda: (randn(4, 1, 24),), (posterior("log_var_layer"),), spectra_loss,
        truth="Galaxy Spectra VAE.ipynb: exp(0.5 log_var), made outside of the draw; KL summed",
    ),
    PublicCase(
        "GQN (esidorovics)",
        Retold(
            "esidorovics/gqn-pytorch", "60c6020257cd6f4c1ddee12c1cf84902ec03ce29",
            "gqn/gqn.py, gqn/generator.py, run-gqn.py",
        ),
        SceneQuery, scenes,
        (
            posterior("generator.posterior_density", 2, 4, F.softplus),
            prior("generator.prior_density", 2, 4, F.softplus),
        ), scene_loss,
        truth="generator.py: softplus, into Normals, once a step; run-gqn.py: the likelihood's σ is a number",
    ),
    PublicCase(
        "Neural statistician (conormdurkan)",
        Retold(
            "conormdurkan/neural-statistician", "52d3c2447d02304c2aea66112a59fad8324c1687",
            "synthetic/synthmodel.py, synthetic/synthnets.py, utils.py",
        ),
        SetStatistician, lambda: (randn(4, 5, 1),),
        (
            posterior("statistic_network.postpool.bn_params", 3, 6), posterior("inference_networks.0.bn_params", 2, 4),
            prior("latent_decoders.0.bn_params", 2, 4),
            likelihood("observation_decoder.fc_params", 1, 2, half_within_four),
        ), set_loss,
        truth="synthmodel.py reparameterize_gaussian: exp(0.5 logvar), behind a batch normalization of one channel; "
        "utils.py gaussian_log_likelihood: a log variance within [-4, 3]",
    ),
    PublicCase(
        "DRAW (Said-Abolhassan-Razavi)",
        Retold(
            "Said-Abolhassan-Razavi/m1-deep-learning-draw-vae-mnist",
            "9f74c0c9af51352883c8be2b6375cf5dd73e5157", "code/draw.py, code/train.py",
        ),
        Canvas, lambda: (rand(4, 1, 6, 6),), (posterior("fc_logvar"),), itself,
        truth="draw.py forward: exp(0.5 logvar), at each step; a filter's exp(log_sigma_sq) is no distribution's",
    ),
    # labels, modalities, clusters, bottlenecks
    PublicCase(
        "SSVAE (davidbhoffmann)",
        Retold("davidbhoffmann/ssvae", "2742a34dbcdd0c5dbdc1d60daf76408eccbbce71", "experiments/ssvae_model.py"),
        StyleDigits, lambda: (bits(5, 16),), (posterior("enc.style_log_std", sigma=torch.exp),), style_loss,
        truth="ssvae_model.py: exp(style_log_std), into a trace of the package probtorch, which is not here; densities "
        "of the draws. The relaxed digits have a temperature",
    ),
    PublicCase(
        "CMMVAE",
        Retold(
            "zdebruine/MMVAE", "20976f87b9c0dc8ff673fd081a62b7d7aa16c35f",
            "src/cmmvae/modules/cmmvae.py, src/cmmvae/modules/vae.py, src/cmmvae/modules/base/components.py",
        ),
        SpeciesVAE, lambda: (randn(6, 12), "human"), (posterior("vae.encoder.var_encoder", sigma=floored_root),),
        species_loss,
        truth="components.py Encoder: exp(v) + 1e-4 is a variance; Normal is given its root. Critics are left out",
    ),
    PublicCase(
        "VAE of clusters (achintyagopal)",
        Retold("achintyagopal/VAE-Clustering", "c24d7998382567b575f6daf7286afc2a0be26c81", "gvae_mnist.py"),
        ClusteredVAE, lambda: (rand(6, 16), tokens(3, 6)), (posterior("fc22"),), clustered_loss,
        truth="gvae_mnist.py reparametrize_normal: logvar.mul(0.5).exp_(); the prior's variances are numbers",
    ),
    PublicCase(
        "VIB (PanZiqiAI)",
        Retold(
            "PanZiqiAI/disentangled-information-bottleneck", "5c1790857b90630880082b945be582638f234568",
            "shared_libs/modellib/fc.py, methods/lagrangian_fc/ib_lagrangians.py, shared_libs/utils/criterions.py",
        ),
        BottleneckClassifier, lambda: (randn(7, 12), tokens(3, 7)), (posterior("_Enc._fc.2", 4, 8, torch.exp),),
        bottleneck_loss,
        truth="fc.py VIBEncoder: log_std.exp(), as its default has it; operations.py gaussian_kl_div. Its "
        "other models, the repository's own, have no noise",
    ),
    PublicCase(
        "Probabilistic embedding (DongJKang)",
        Retold(
            "DongJKang/Probabilistic-Embedding-Domain-Adaptation", "67a35cb5673826ec07ad36d7e5b034165b4646e4",
            "models/encoder.py, lightning_modules/SO.py, utils/losses.py, configs/config_so.yaml",
        ),
        DoorClassifier, lambda: (randn(6, 6, 2), tokens(4, 6)),
        (posterior("encoder.z_logit_scale", sigma=shifted_softplus),),
        door_loss,
        truth="encoder.py softplus: log(1 + exp(v - 1)); losses.py KLDLoss, Gaussian",
    ),
    PublicCase(
        "CVAE with IAF (katD2707)",
        Retold("katD2707/IAF-VAE", "f40db543f5931b90d7b30019a1fdd407e9449b29", "models.py"),
        FlowVAE, images(batch=3),
        tuple(
            head
            for i in range(2)
            for head in (
                prior(f"layers.{i}.0.conv2d_down_1", 3, 6, doubled),
                posterior(f"layers.{i}.0.conv2d_down_1", 9, 12, None),
                posterior(f"layers.{i}.0.conv2d_up_1", 3, 6, None),
            )
        ), flow_loss,
        truth="models.py IAFLayer.down: the prior's σ is exp(2 log_std_pz), the posterior's exp(log_std_qz + "
        "log_std_rz); arw_log_std is a flow's and dec_log_stdv a logistic's",
    ),
    # regression, weights
    PublicCase(
        "LinearMDN (clementw168)",
        Retold(
            "clementw168/mixture-density-net", "751899a147beafab2bc222802206e668a25c27c5",
            "src/architecture/architecture.py, src/architecture/modules.py, src/training.py",
        ),
        SliceMDN, lambda: (randn(7, 3), randn(7, 2, seed=9)),
        (likelihood("hidden_layers.1", 6, 9, torch.exp),), slice_nll,
        truth="modules.py: exp of the last slice but one; training.py mdn_loss: a density by its product, plus 1e-10",
    ),
    PublicCase(
        "Ensemble's member (nakulpandit)",
        Retold(
            "nakulpandit/MSc-UQ-Deep-Ensembles-ACCRUE", "8386f5c3458411d005ea43044508e7fbddc7d7c0", "comparison.ipynb"
        ),
        EnsembleMember, lambda: (randn(8, 1), randn(8, 1, seed=9)),
        (likelihood("raw_sigma_head", sigma=raised_softplus),),
        member_nll,
        truth="comparison.ipynb ProbabilisticNetwork: softplus + 1e-3, within [1e-3, 50], and bounded once more in the "
        "loss; the other method's network is left out",
    ),
    PublicCase(
        "BayesModel (JorgeVanco)",
        Retold(
            "JorgeVanco/Bayes-by-Backprop", "5a2de46dc4f6a8ab0d7908356ac7b0650eedc141",
            "src/models/BayesLinearModel.py, src/models/BayesModels.py, src/bayes_utils.py, src/train_functions.py",
        ),
        RowNetwork, lambda: (rand(5, 3, 3), tokens(3, 5)),
        tuple(posterior(f"model.{at}.ro", sigma=F.softplus) for at in ("0", "2.0", "3")), row_loss,
        truth="BayesLinearModel.py: log(1 + exp(ro)), drawn for each row. BayesModels.py: densities become numbers "
        "without a gradient, and a layer in a sequence of its own has none. Hard to decide: a bias is drawn, too, and "
        "added nowhere, a slip, so that its σ reaches nothing but such a number: no head",
    ),
    PublicCase(
        "ARDLeNet",
        Retold(
            "stanislaushimovolos/Variational-Dropout-Pytorch", "e58fb1535a552e7f441ac66b00fb6db1b4324d0c",
            "var_drop/torch_modules.py, var_drop/models.py",
        ),
        SparseLeNet, lambda: (rand(4, 1, 8, 8), tokens(3, 4)),
        tuple(posterior(f"{at}.log_sigma2") for at in ("conv1", "conv2", "fc1", "fc2")), sparse_elbo,
        truth="torch_modules.py: exp(log_sigma2) is a weight's variance, drawn at the activations; the "
        "KL is of log α alone. Hard to decide: LinearARD multiplies the noise by the deviation twice, a slip, so that "
        "no weight's σ is drawn there; here it is as in the KL. Three convolutions are two here",
    ),
    # none
    PublicCase(
        "BYOL (inigoval)", Retold("inigoval/byol", "9930a7631847580ad9b6c533f96f03be440e32c1", "byol/models.py"),
        Bootstrap, lambda: (randn(6, 10), randn(6, 10, seed=9)), (), itself, truth="models.py: cosine similarities",
    ),
    PublicCase(
        "NICE (mbahng)",
        Retold(
            "mbahng/nice-pytorch", "2b7ced3f795affac3ff4f4e4fcd16941f73fb7ab",
            "model/nice.py, traintest.py",
        ),
        AdditiveFlow, lambda: (rand(7, 6),), (), additive_loss,
        truth="nice.py: additive couplings to a logistic; the scales are for sampling alone",
    ),
    PublicCase(
        "DDIM (Alokia)",
        Retold(
            "Alokia/diffusion-DDIM-pytorch", "e1026bdd1de58d69c2bf8371f051bf0a9c4188b0",
            "utils/engine.py",
        ),
        NoisePredictor, images(), (), itself, truth="engine.py: rates are buffers, and the noise is predicted",
    ),
    PublicCase(
        "VQ-VAE of music (ludziej)",
        Retold(
            "ludziej/vqvae", "d77bc155f7850504a6239e32cea0e5de21bbdb45",
            "vqvae/model.py, vqvae/modules/bottleneck.py",
        ),
        WaveCodes, lambda: (randn(3, 1, 16),), (), itself,
        truth="bottleneck.py: codes; the noise that tiles them has a number's deviation. The critic is left out",
    ),
    PublicCase(
        "LSGAN (atikul-islam-sajib)",
        Retold(
            "atikul-islam-sajib/LSGAN", "064c5c3dd6be26b9a921a9cbc8b66047822821f4",
            "src/generator.py, src/discriminator.py, src/trainer.py",
        ),
        LeastSquaresGAN, images(1, batch=4), (), itself,
        truth="trainer.py: squared distances of scores from one and zero",
    ),
    PublicCase(
        "Denoising autoencoder (Willtl)",
        Retold("Willtl/denoising-conv-autoencoder", "3342fe6b71c645abfee1eb198e6f71f4532f5b4e", "models.py, main.py"),
        CleaningAutoencoder, lambda: (rand(4, 1, 8, 8), rand(4, 1, 8, 8, seed=9), tokens(3, 4)), (), cleaning_loss,
        truth="main.py: squared distances, a class, and the weights' sums",
    ),
)
# fmt: on
