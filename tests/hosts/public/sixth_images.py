"""A sixth look: faces, tables, single cells, molecules, anomalies, videos, medical images, recommenders, compression,
3-D shapes, continual learning and domain adaptation, in our own words, sampled as an ordinary user's model would be.

The twelve fields were fixed first. Of each, the first two repositories that its query names in order were taken that
hold a VAE-like model in PyTorch and are in no earlier look; their main model, with the loss of their training script.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned.

Faces ("variational autoencoder CelebA faces pytorch train reparameterize KLD"): `Romashka12/Variational_Autoencoder`
taken, `noctrog/conv-vae` passed (taken before), `chaehunshin/vae` taken. Tables ("tabular VAE synthetic data generation
pytorch encoder decoder loss"): `Kamran-Afzali/Kamran-Afzali.github.io` passed (a page), `InvincibleIRMan/SDV_` and
`qw-4735/VAEs` passed (taken before), `Rupeshky/table-synthesizer` passed (TensorFlow), `vanderschaarlab/synthcity`,
which the next excerpts are of, taken; no other is named, so of issues ("tabular VAE TVAE pytorch mixed categorical
numerical"): `amazon-science/tabsyn` and Pythae passed (taken before), `yandex-research/rtdl` passed (no VAE),
`RasmussenLab/MOVE` taken. Cells ("single cell gene expression variational autoencoder pytorch"):
`lovelyscientist/rna-seq-vae` passed (taken before), `scvae/scvae` passed (TensorFlow); no other is named, so of issues
("single cell VAE pytorch gene expression latent"): `greenelab/deep-review` and others that hold no model of cells
passed, `scverse/scvi-tools` passed (taken before), `ZJUFanLab/scCube` taken, and `theislab/chemCPA`, which the next
field's query names. Molecules ("SMILES molecule variational autoencoder GRU decoder pytorch"): `PingchuanMa/SGA` passed
(a prompt), `MauricioCafiero/MolCharRNN` and `khhandrea/chemical-autoencoder` passed (TensorFlow),
`MachineLearningLifeScience/corel` passed (the model is gone from it); of issues ("SMILES VAE pytorch molecule
generation KL annealing"): `molecularsets/moses` passed (taken before), Keras and Theano passed,
`DaoyuanLi2816/Molecule-Generator` and `insilicomedicine/GENTRL` taken. Anomalies ("variational autoencoder anomaly
detection pytorch model loss"): `vinaihanu/torch-to` passed (taken before), `fitagdinov/Telescope_Array` and
`sotazum/anomaly_detection_AE_VAE` taken. Videos ("variational video prediction frames VAE pytorch"): `frankkn/NYCU_DLP`
passed (taken before), `Eliyas0007/RNNbasedVideoPrediction` became a control (its VAE is commented out); of issues
("stochastic video prediction pytorch KL loss prior posterior"): `huiwon-jang/RSP` became a control (its latents are
categorical); no other that is a model of videos. Medical images ("VAE medical images MRI CT chest x-ray pytorch"):
`matthew-TYW/HW2_VAE` and `portchester1989/ct_vae` taken. Recommenders ("variational autoencoder recommender system
pytorch user item"): `cheng-w-liu/computational-notes`, `pyy0715/vae-cf-pyorch` and
`cydonia999/variational-autoencoders-for-collaborative-filtering-pytorch` passed (taken before),
`rushhan/VAE-for-Collaborative-Filtering-Pytorch` became a control (a denoising autoencoder), `PreferredAI/cornac`,
which a later excerpt is of, taken. Compression ("learned image compression hyperprior entropy model pytorch"):
`tonyckc/TTA-Image-Compression-with-Distribution-Regularization`, `JYuhao88/Channel_Compression` and
`kimberley-faria/learning_based_img_compression` passed (CompressAI's models, taken before), `Yiozolm/HPCM` passed (no
Normal but a generalised one, in a model too large to retell); of a second query ("image compression VAE quantization
rate distortion Gaussian conditional scales means pytorch train") `duanzhiihao/qres-vae`, and of issues ("scale
hyperprior image compression pytorch implementation bpp loss") `facebookresearch/NeuralCompression` taken. Shapes ("3D
voxel shape variational autoencoder pytorch ShapeNet"): `AIFanatic/PyTorch-Voxel-VAE` taken, `lorenmt/vsl` passed
(TensorFlow), `lukass16/CPSC-452-Final-Project` passed (taken before), `RaymondGuo2/Avatar-3D-VAE-GAN` taken. Continual
learning ("continual learning VAE generative replay pytorch", and of weights "variational continual learning bayesian
neural network permuted MNIST coreset pytorch"): three passed (taken before), `dtuzi123/LifelongVAEGAN` passed
(TensorFlow); of issues ("continual learning pytorch VAE replay variational bayesian weights")
`nvcuong/variational-continual-learning` passed (TensorFlow), `ContinualAI/continual-learning-baselines` passed (its VAE
is a package's), `MrtnMndt/OpenVAE_ContinualLearning` taken; of the second query `JamesCraster/UncertaintyInDL` passed
(taken before), `guyrom27/VariationalContinualLearning` taken. Domain adaptation ("domain adaptation variational
autoencoder disentangled domain class latent pytorch"): `choupingru/VAE-GAN-DANN-DSN-ADDA` (with its DANN as a control)
and `Jo-wang/VDD` taken.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from torch.distributions import Independent, Normal, OneHotCategoricalStraightThrough, kl_divergence

from public import PublicCase, Retold
from public.draws import half, rand, randn, tokens
from public.fourth_images import PackageGaussian, draw_half
from public.third_images import HyperDensity, bits, bounded, images, kl_to_unit, likelihood, posterior, prior

# ------------------------------------------------------------------------------------------------ faces


def pooled_encoder(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.LeakyReLU(), nn.MaxPool2d(2, stride=1),
        nn.Conv2d(6, 5, 1), nn.Flatten(),
        nn.Linear(5, width), nn.BatchNorm1d(width), nn.Sigmoid(),
    )  # fmt: skip


def unflattening_decoder(latent: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent, width), nn.Linear(width, 6 * 16), nn.Unflatten(1, (6, 4, 4)),
        nn.ConvTranspose2d(6, 8, 6, stride=2, padding=2), nn.LeakyReLU(0.1), nn.ConvTranspose2d(8, 3, 2, stride=2),
    )  # fmt: skip


class PooledVAE(nn.Module):
    """An encoder that ends in a sigmoid."""

    def __init__(self, latent_dim: int = 5, hidden_layer_size: int = 10) -> None:
        super().__init__()
        self.encoder = pooled_encoder(hidden_layer_size)
        self.decoder = unflattening_decoder(latent_dim, hidden_layer_size)
        self.sampling_mean = nn.Linear(hidden_layer_size, latent_dim)
        self.sampling_var = nn.Linear(hidden_layer_size, latent_dim)

    def sample(self, mean: Tensor, log_var: Tensor) -> Tensor:
        return torch.randn_like(mean).mul(torch.exp(0.5 * log_var)).add(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, var = self.sampling_mean(h), self.sampling_var(h)
        return self.decoder(self.sample(mean, var)), mean, var


def squares_and_kl(model: Any, x: Tensor) -> Tensor:
    x_hat, mu, logvar = model(x)
    return (kl_to_unit(mu, logvar) + ((x - x_hat) ** 2).sum()) / x.shape[0]


def one_by_one(layers: nn.ModuleList, h: Tensor) -> Tensor:
    for layer in layers:
        h = layer(h)
    return h


class ListedVAE(nn.Module):
    """Its layers are called one by one; its noise is uniform."""

    def __init__(self, z_dim: int = 5, hidden_dim: int = 4) -> None:
        super().__init__()
        self._encoder = nn.ModuleList([
            nn.Conv2d(3, hidden_dim, 4, 2, 1), nn.BatchNorm2d(hidden_dim), nn.LeakyReLU(1e-2),
            nn.Conv2d(hidden_dim, hidden_dim * 2, 4, 2, 1), nn.BatchNorm2d(hidden_dim * 2), nn.LeakyReLU(1e-2),
        ])  # fmt: skip
        self._mu = nn.Linear(hidden_dim * 2 * 16, z_dim)
        self._logvar = nn.Linear(hidden_dim * 2 * 16, z_dim)
        self._decoder_pre = nn.Linear(z_dim, hidden_dim * 2 * 16)
        self._decoder = nn.ModuleList([
            nn.UpsamplingNearest2d(scale_factor=2), nn.ReplicationPad2d(1), nn.Conv2d(hidden_dim * 2, hidden_dim, 3, 1),
            nn.BatchNorm2d(hidden_dim), nn.LeakyReLU(1e-2),
            nn.UpsamplingNearest2d(scale_factor=2), nn.ReplicationPad2d(1), nn.Conv2d(hidden_dim, 3, 3, 1),
            nn.Sigmoid(),
        ])  # fmt: skip
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight, math.sqrt(2.0 / (m.in_features + m.out_features)))
                nn.init.zeros_(m.bias)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        return mean + (v / 2).exp() * torch.rand_like(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = one_by_one(self._encoder, x).flatten(1)
        mean, v = self._mu(features), self._logvar(features)
        start = self._decoder_pre(self._draw(mean, v)).reshape(len(x), -1, 4, 4)
        return one_by_one(self._decoder, start), mean, v


def listed_loss(model: Any, imgs: Tensor) -> Tensor:
    recon, mu, logvar = model(imgs)
    recon_loss = nn.BCELoss(reduction="sum")(recon.reshape(len(imgs), -1), imgs.reshape(len(imgs), -1))
    return recon_loss - 0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar))


# ------------------------------------------------------------------------------------------------ tables


class ResidualLayer(nn.Module):
    """Its output has its input beside it."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(n_in, n_out), nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(x), x], dim=-1)


class TableEncoder(nn.Module):
    def __init__(self, n_in: int, n_embedding: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            nn.Linear(n_in, 12), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(12, 12), nn.LeakyReLU(), nn.Dropout(0.1),
            nn.Linear(12, 12),
        )  # fmt: skip
        self.mu_fc, self.logvar_fc = nn.Linear(12, n_embedding), nn.Linear(12, n_embedding)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        data = x.float() if cond is None else torch.cat([x, cond], dim=-1).float()
        shared = self.shared(data)
        return self.mu_fc(shared), self.logvar_fc(shared)


class TableDecoder(nn.Module):
    def __init__(self, n_embedding: int, layout: tuple[tuple[str, int], ...]) -> None:
        super().__init__()
        self.layout = layout
        self.model = nn.Sequential(
            ResidualLayer(n_embedding, 10), ResidualLayer(10 + n_embedding, 10),
            nn.Linear(20 + n_embedding, sum(n for _, n in layout)),
        )  # fmt: skip

    def forward(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        out = self.model(z if cond is None else torch.cat([z, cond], dim=1))
        parts = out.split([n for _, n in self.layout], dim=-1)
        return torch.cat(
            [
                p.softmax(-1) if kind == "softmax" else torch.tanh(p)
                for p, (kind, _) in zip(parts, self.layout, strict=True)
            ],
            -1,
        )


class SynthVAE(nn.Module):
    """It has no forward: its `_train` calls encoder, draw, decoder and loss."""

    def __init__(self, layout: tuple[tuple[str, int], ...], n_embedding: int = 4, n_cond: int = 2) -> None:
        super().__init__()
        self.decoder_nonlin_out, self.loss_factor = layout, 2
        self.encoder = TableEncoder(sum(n for _, n in layout) + n_cond, n_embedding)
        self.decoder = TableDecoder(n_embedding + n_cond, layout)

    def _reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std) * std + mu

    def _loss_function_standard(self, reconstructed: Tensor, real: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        step, loss = 0, []
        for activation, length in self.decoder_nonlin_out:
            got, wanted = reconstructed[:, step : step + length], real[:, step : step + length]
            if activation == "softmax":
                loss.append(nn.NLLLoss(reduction="sum")(torch.log(got + 1e-8), torch.argmax(wanted, dim=-1)))
            else:
                loss.append((50 * (got - wanted) ** 2).sum())
            step += length
        reconstruction_loss = torch.sum(torch.stack(loss)) / real.shape[0]
        kld_loss = (-0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())) / real.shape[0]
        return reconstruction_loss * self.loss_factor + kld_loss


def synth_step(model: Any, x: Tensor, cond: Tensor) -> Tensor:
    mu, logvar = model.encoder(x, cond)
    embedding = model._reparameterize(mu, logvar)
    return model._loss_function_standard(model.decoder(embedding, cond), x, mu, logvar)


def mixed_rows() -> tuple[Tensor, Tensor]:
    numbers = torch.tanh(randn(8, 2))
    return torch.cat([numbers, F.one_hot(tokens(3, 8), 3).float()], 1), F.one_hot(tokens(2, 8, seed=9), 2).float()


class OmicsVAE(nn.Module):
    """Categorical and continuous data sets; a norm after each activation."""

    def __init__(self, shapes: tuple[tuple[int, int], ...], numbers: tuple[int, ...], latent: int = 3) -> None:
        super().__init__()
        self.categorical_shapes, self.continuous_shapes = shapes, numbers
        self.num_categorical, self.num_continuous = sum(a * b for a, b in shapes), sum(numbers)
        self.beta, hidden = 0.01, [10, 8]
        self.relu, self.log_softmax, self.dropoutlayer = nn.LeakyReLU(), nn.LogSoftmax(dim=1), nn.Dropout(0.2)
        self.encoderlayers, self.encodernorms = nn.ModuleList(), nn.ModuleList()
        self.decoderlayers, self.decodernorms = nn.ModuleList(), nn.ModuleList()
        n = self.num_categorical + self.num_continuous
        for n_in, n_out in pairwise([n, *hidden]):
            self.encoderlayers.append(nn.Linear(n_in, n_out))
            self.encodernorms.append(nn.BatchNorm1d(n_out))
        self.mu, self.var = nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent)
        for n_in, n_out in pairwise([latent, *hidden[::-1]]):
            self.decoderlayers.append(nn.Linear(n_in, n_out))
            self.decodernorms.append(nn.BatchNorm1d(n_out))
        self.out = nn.Linear(hidden[0], n)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer, norm in zip(self.encoderlayers, self.encodernorms, strict=True):
            x = norm(self.dropoutlayer(self.relu(layer(x))))
        return self.mu(x), self.var(x)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        h = self.reparameterize(mu, logvar)
        for layer, norm in zip(self.decoderlayers, self.decodernorms, strict=True):
            h = norm(self.dropoutlayer(self.relu(layer(h))))
        reconstruction = self.out(h)
        cat_out, pos = [], 0
        for features, classes in self.categorical_shapes:
            part = reconstruction[:, pos : pos + features * classes].view(len(x), features, classes).transpose(1, 2)
            cat_out.append(self.log_softmax(part))
            pos += features * classes
        return cat_out, reconstruction.narrow(1, self.num_categorical, self.num_continuous), mu, logvar


def omics_loss(model: Any, cat: Tensor, con: Tensor) -> Tensor:
    """What is missing is a zero, and scored by nothing; the last column of each data set is left out, as there."""
    cat_out, con_out, mu, logvar = model(torch.cat((cat, con), 1))
    errors, pos = torch.zeros(()), 0
    for out, (features, classes) in zip(cat_out, model.categorical_shapes, strict=True):
        given = cat[:, pos : pos + features * classes].view(len(cat), features, classes)
        target = given.argmax(2)
        target[given.sum(dim=2) == 0] = -1
        errors = errors + nn.NLLLoss(reduction="sum", ignore_index=-1)(out, target) / (len(cat) * features)
        pos += features * classes
    con_out[con == 0] = 0
    squares, start = torch.zeros(()), 0
    for n in model.continuous_shapes:
        got, wanted = con_out[:, start : (n + start - 1)], con[:, start : (n + start - 1)]
        squares = squares + nn.MSELoss(reduction="sum")(got, wanted) / len(con) / n
        start += n
    return errors + squares + kl_to_unit(mu, logvar) / len(con) * model.beta


def omics() -> tuple[Tensor, Tensor]:
    """Two features of three classes, some of them missing, and two data sets of numbers."""
    known = (rand(8, 2, 1) < 0.8).float()
    return (F.one_hot(tokens(3, 8, 2), 3).float() * known).flatten(1), randn(8, 7) * (rand(8, 7, seed=10) < 0.8).float()


# ------------------------------------------------------------------------------------------------ cells


class CubeVAE(nn.Module):
    """The KL is computed in its forward."""

    def __init__(self, embedding_size: int = 12, hidden: tuple[int, ...] = (10, 8), mid_hidden: int = 4) -> None:
        super().__init__()
        encoder, decoder = [embedding_size, *hidden, mid_hidden * 2], [embedding_size, *hidden, mid_hidden]
        self.encoder = nn.ModuleList([nn.Linear(encoder[i], encoder[i + 1]) for i in range(len(encoder) - 1)])
        self.decoder = nn.ModuleList([nn.Linear(decoder[i], decoder[i - 1]) for i in range(len(decoder) - 1, 0, -1)])

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std) * std + mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x
        for i, layer in enumerate(self.encoder):
            h = layer(h)
            if i != len(self.encoder) - 1:
                h = F.relu(h)
        mu, sigma = torch.chunk(h, 2, dim=1)
        hidden = self.reparameterize(mu, sigma)
        for layer in self.decoder:
            hidden = F.relu(layer(hidden))
        kl_div = 0.5 * torch.sum(torch.exp(sigma) + torch.pow(mu, 2) - 1 - sigma) / (x.shape[0] * x.shape[1])
        return hidden, kl_div


def cube_loss(model: Any, cells: Tensor) -> Tensor:
    x_hat, kl_div = model(cells)
    return nn.MSELoss()(x_hat, cells) + kl_div


class NormedMLP(nn.Module):
    """Linear layers, each but the last with a batch norm and a ReLU, under one name."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            layers.append(nn.Linear(sizes[i], sizes[i + 1]))
            if i < len(sizes) - 2:
                layers += [nn.BatchNorm1d(sizes[i + 1]), nn.ReLU()]
        self.network = nn.Sequential(OrderedDict((str(i), layer) for i, layer in enumerate(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class DoseCurve(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.beta, self.bias = nn.Parameter(torch.ones(1, dim)), nn.Parameter(torch.zeros(1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.log1p(x) * self.beta + self.bias).sigmoid() - self.bias.sigmoid()


class ComPert(nn.Module):
    """An autoencoder without noise; its decoder tells mean and variance of each gene."""

    def __init__(
        self, num_genes: int = 9, num_drugs: int = 3, covariates: tuple[int, ...] = (2,), dim: int = 6
    ) -> None:
        super().__init__()
        self.encoder = NormedMLP([num_genes, 12, 12, dim])
        self.decoder = NormedMLP([dim, 12, 12, num_genes * 2])
        self.adversary_drugs = NormedMLP([dim, 8, num_drugs])
        self.drug_embeddings = nn.Embedding(num_drugs, 5)
        self.drug_embedding_encoder = NormedMLP([5, dim])
        self.dosers = DoseCurve(num_drugs)
        self.adversary_covariates = nn.ModuleList(NormedMLP([dim, 8, n]) for n in covariates)
        self.covariates_embeddings = nn.ModuleList(nn.Embedding(n, dim) for n in covariates)
        self.loss_autoencoder, self.loss_adversary_drugs = nn.GaussianNLLLoss(), nn.BCEWithLogitsLoss()

    def predict(self, genes: Tensor, drugs: Tensor, covariates: list[Tensor]) -> tuple[Tensor, Tensor]:
        latent_basal = self.encoder(genes)
        drug = self.dosers(drugs) @ self.drug_embedding_encoder(self.drug_embeddings.weight)
        latent_treated = latent_basal + drug
        for embedding, covariate in zip(self.covariates_embeddings, covariates, strict=True):
            latent_treated = latent_treated + embedding(covariate.argmax(1))
        reconstructions = self.decoder(latent_treated)
        dim = reconstructions.size(1) // 2
        mean, var = reconstructions[:, :dim], F.softplus(reconstructions[:, dim:])
        return torch.cat([mean, var], dim=1), latent_basal


def compert_step(model: Any, genes: Tensor, drugs: Tensor, covariate: Tensor) -> Tensor:
    """The autoencoder's step, which two adversaries' losses are taken from, five times each."""
    predicted, latent_basal = model.predict(genes, drugs, [covariate])
    dim = predicted.size(1) // 2
    mean, var = predicted[:, :dim], predicted[:, dim:]
    adversaries = model.loss_adversary_drugs(model.adversary_drugs(latent_basal), (drugs > 0).float())
    for adversary in model.adversary_covariates:
        adversaries = adversaries + F.cross_entropy(adversary(latent_basal), covariate.argmax(dim=1))
    return model.loss_autoencoder(mean, genes, var) - 5 * adversaries


def root_softplus(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(v).clamp(min=1e-6))


def perturbed() -> tuple[Tensor, Tensor, Tensor]:
    doses = F.one_hot(tokens(3, 8), 3).float() * rand(8, 1)
    return torch.log1p(tokens(20, 8, 9).float()), doses, F.one_hot(tokens(2, 8, seed=9), 2).float()


# ------------------------------------------------------------------------------------------------ molecules


class MoleculeTCVAE(nn.Module):
    """A latent a token; the decoder also sees what the encoder made."""

    def __init__(self, vocab_size: int = 6, width: int = 8, latent_dim: int = 8, pad_idx: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=pad_idx)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 12), num_layers=1)
        self.mu, self.log_var = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, 2, 12), num_layers=1)
        self.fc_out = nn.Linear(width, vocab_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.encoder(self.embedding(x))
        mu, log_var = self.mu(encoded), self.log_var(encoded)
        return self.fc_out(self.decoder(draw_half(mu, log_var), encoded)), mu, log_var


def molecule_loss(model: Any, x: Tensor, beta: float = 1.0, gamma: float = 0.1) -> Tensor:
    recon_x, mu, log_var = model(x)
    cross = F.cross_entropy(recon_x.view(-1, recon_x.size(-1)), x.view(-1), reduction="mean")
    kld = -0.5 * torch.mean(1 + log_var - mu.pow(2) - log_var.exp())
    return cross + beta * kld + gamma * (log_var.exp() - 1 - log_var).mean()


class TrainPrior(nn.Module):
    """A mixture of Normals a variable, their weights joined by a tensor train of two matrices a variable."""

    def __init__(self, distr_descr: list[tuple[str, int]], tt_int: int = 3, eps: float = 1e-10) -> None:
        super().__init__()
        self.distr_descr, self.eps = distr_descr, eps
        self.tt_cores, self.means, self.log_stds = [], [], []
        listed = []
        for _, d in distr_descr:
            self.tt_cores.append(nn.Parameter(torch.randn(d, tt_int, tt_int) / (tt_int**2 * d)))
            self.means.append(nn.Parameter(torch.rand(d) * 2 - 1))
            self.log_stds.append(nn.Parameter(2 * torch.log(torch.ones(d) * 2 / d)))
            listed += [self.means[-1], self.log_stds[-1]]
        # plain lists of parameters, which a list of this name registers, as there
        self.parameters = nn.ParameterList([*listed, *self.tt_cores])

    def contribution(self, x: Tensor, means: Tensor, log_stds: Tensor) -> Tensor:
        cur_stds = torch.exp(log_stds)[None, :]
        z = (x[:, None] - means[None, :]) / cur_stds
        return torch.exp(-0.5 * (z**2)) / (math.sqrt(2 * math.pi) * cur_stds) + 1e-10

    def log_prob(self, x: Tensor, marg: list[bool]) -> Tensor:
        log_probs = torch.zeros(len(x))
        pref = torch.ones(len(x), 1, self.tt_cores[0].shape[1])
        norm_pref = torch.ones(len(x), 1, self.tt_cores[0].shape[1])
        for i, core in enumerate(self.tt_cores):
            core = core * core
            if marg[i]:
                cond_core = core.sum(dim=0)[None].repeat(len(x), 1, 1)
            else:
                weights = self.contribution(x[:, i], self.means[i], self.log_stds[i])
                cond_core = (core[None] * weights[:, :, None, None]).sum(dim=1)
            pref, norm_pref = torch.bmm(pref, cond_core), norm_pref @ core.sum(dim=0)
            norm = torch.sum(norm_pref) + self.eps
            pref, norm_pref = pref / norm, norm_pref / norm
            addition = pref.sum(dim=-1).sum(dim=-1) + self.eps
            log_probs = log_probs + torch.log(addition)
            pref = pref / addition[:, None, None]
        return log_probs + torch.log(pref.sum((1, 2)) / (norm_pref.sum((1, 2)) + self.eps))


class TokenEncoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.embs, self.rnn = nn.Embedding(9, 10), nn.GRU(10, 10, num_layers=2)
        self.final_mlp = nn.Sequential(nn.Linear(10, 10), nn.LeakyReLU(), nn.Linear(10, 2 * latent))

    def encode(self, x: Tensor, lens: Tensor) -> Tensor:
        outputs = self.rnn(self.embs(x.transpose(1, 0)))[0]
        return self.final_mlp(outputs[lens, torch.arange(len(lens))])


class GatedConv(nn.Module):
    """Dilated, causal, gated, and added to what it was given."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv, self.gate = nn.Conv1d(channels, channels, 2, dilation=dilation), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(F.pad(x, (self.dilation, 0)))
        return x + torch.tanh(h) * torch.sigmoid(self.gate(h))


class TokenDecoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.dil_conv_layers = nn.ModuleList(GatedConv(8, 2**i) for i in range(2))
        self.latent_fc, self.input_embeddings = nn.Linear(latent, 8), nn.Embedding(9, 8)
        self.logits_1x1_layer, self.eos = nn.Conv1d(8, 9, kernel_size=1), 2

    def weighted_forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.input_embeddings(x).transpose(1, 2) + self.latent_fc(z).unsqueeze(-1)
        for layer in self.dil_conv_layers:
            h = layer(h)
        logits = F.log_softmax(self.logits_1x1_layer(h).transpose(1, 2), dim=-1)
        seq = torch.gather(logits[:, :-1], 2, x[:, 1:].unsqueeze(-1))[:, :, 0]
        non_eof = (x != self.eos)[:, :-1].float()
        return (seq * non_eof).sum(dim=-1) / non_eof.sum(dim=-1)


class GENTRL(nn.Module):
    """A learned prior of latents and properties, jointly."""

    def __init__(self, latent: int = 2, features: int = 1) -> None:
        super().__init__()
        self.num_latent, self.num_features, self.beta, self.gamma = latent, features, 0.01, 0.1
        self.enc, self.dec = TokenEncoder(latent), TokenDecoder(latent)
        self.lp = TrainPrior([("c", 4)] * (latent + features))

    def get_elbo(self, x: Tensor, lens: Tensor, y: Tensor) -> Tensor:
        means, log_stds = torch.split(self.enc.encode(x, lens), self.num_latent, dim=1)
        latvar_samples = means + torch.randn_like(log_stds) * torch.exp(0.5 * log_stds)
        rec_part = self.dec.weighted_forward(x, latvar_samples).mean()
        normal_distr_hentropies = (math.log(2 * math.pi) + 1 + log_stds).sum(dim=1)
        zy = torch.cat([latvar_samples, y], dim=1)
        log_p_zy = self.lp.log_prob(zy, [False] * (self.num_latent + self.num_features))
        log_p_z = self.lp.log_prob(zy, [False] * self.num_latent + [True] * self.num_features)
        kldiv_part = (-normal_distr_hentropies - log_p_zy).mean()
        return rec_part - self.beta * kldiv_part + self.gamma * (log_p_zy - log_p_z).mean()


def negative_elbo(model: Any, x: Tensor, lens: Tensor, y: Tensor) -> Tensor:
    return -model.get_elbo(x, lens, y)


# ------------------------------------------------------------------------------------------------ anomalies


class EventEncoder(nn.Module):
    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.lstm1 = nn.LSTM(input_dim, hidden_dim, batch_first=True)
        self.fc_mu, self.fc_logvar = nn.Linear(hidden_dim * 2, latent_dim), nn.Linear(hidden_dim * 2, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, (h, c) = self.lstm1(x)
        state = torch.concat((h, c), dim=2).squeeze(0)
        return self.fc_mu(state), self.fc_logvar(state)


class EventDecoder(nn.Module):
    """Beside the sequence, its length and the kind of particle are predicted."""

    def __init__(self, latent_dim: int, hidden: int, output_size: int, num_part: int = 2) -> None:
        super().__init__()
        self.lat2hid, self.lat2hid2 = nn.Linear(latent_dim, hidden), nn.Linear(latent_dim, hidden)
        self.emb_fc, self.lstm1 = nn.Linear(output_size, hidden), nn.LSTM(hidden, hidden, batch_first=True)
        self.out, self.lrealu = nn.Linear(hidden, output_size), nn.LeakyReLU(0.01)
        self.fc_seq, self.fc_seq2 = nn.Linear(latent_dim, hidden), nn.Linear(hidden, 1)
        self.fc_mass, self.fc_mass2 = nn.Linear(latent_dim, hidden), nn.Linear(hidden, hidden)
        self.fc_mass3 = nn.Linear(hidden, num_part)
        self.start_token = torch.zeros(1, output_size)

    def forward(self, latent: Tensor, seq_len: int) -> tuple[Tensor, Tensor, Tensor]:
        step = self.emb_fc(self.start_token).unsqueeze(1).repeat_interleave(len(latent), dim=0)
        state = (self.lrealu(self.lat2hid(latent)).unsqueeze(0), self.lrealu(self.lat2hid2(latent)).unsqueeze(0))
        outputs = []
        for _ in range(seq_len):
            step, state = self.lstm1(torch.relu(step), state)
            outputs.append(self.out(step))
        num = torch.relu(self.fc_seq2(self.lrealu(self.fc_seq(latent))))
        mass = self.fc_mass3(self.lrealu(self.fc_mass2(self.lrealu(self.fc_mass(latent)))))
        return torch.cat(outputs, dim=1), num, torch.softmax(mass, 1)


class EventVAE(nn.Module):
    """A draw is made, and the mean is what is decoded."""

    def __init__(self, input_dim: int = 6, hidden_dim: int = 8, latent_dim: int = 3) -> None:
        super().__init__()
        self.encoder = EventEncoder(input_dim, hidden_dim, latent_dim)
        self.decoder = EventDecoder(latent_dim, hidden_dim, input_dim)

    def reparameterize(self, mu: Tensor, log_var: Tensor, koef: float = 1.0) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return mu + torch.randn_like(std) * std * koef

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, log_var = self.encoder(x)
        self.reparameterize(mu, log_var, koef=1.0)
        recon, num, mass = self.decoder(mu, x.size(1))
        return recon, mu, log_var, num, mass


def event_loss(model: Any, x: Tensor, particle: Tensor) -> Tensor:
    """The weights are those of its configuration."""
    recon, mu, log_var, num, mass = model(x)
    mask = torch.where(x != -10.0, 1, 0)
    mask[:, 0] = 0
    mask[torch.arange(len(x)), mask.sum(1)[:, 0], :] = 0
    num_det = mask.sum(1)[:, 0][:, None, None]
    recon_loss = torch.mean(torch.sum(nn.MSELoss(reduction="none")(recon, x) * mask / num_det, dim=1))
    kl = kl_to_unit(mu, log_var) / x.size(0) * 0.0
    return recon_loss + kl + F.mse_loss(num_det[:, :, 0].float(), num) * 0.1 + F.cross_entropy(mass, particle) * 0.0


def events() -> tuple[Tensor, Tensor]:
    """A start, a stop, and padding by -10 after it."""
    x = randn(5, 8, 6)
    for row, length in enumerate((8, 6, 7, 5, 8)):
        x[row, length:] = -10.0
    return x, tokens(2, 5)


class DigitVAE(nn.Module):
    """Its methods are given a device."""

    def __init__(self, z_dim: int = 4) -> None:
        super().__init__()
        self.encoder_layer = nn.Sequential(nn.Linear(16, 12), nn.ReLU(True), nn.Linear(12, 10), nn.ReLU(True))
        self.encoder_mean, self.encoder_logvar = nn.Linear(10, z_dim), nn.Linear(10, z_dim)
        self.decoder_layer = nn.Sequential(
            nn.Linear(z_dim, 10), nn.ReLU(True), nn.Linear(10, 12), nn.ReLU(True), nn.Linear(12, 16)
        )

    def _draw(self, mean: Tensor, v: Tensor, device: str) -> Tensor:
        return (v / 2).exp() * torch.randn(mean.shape).to(device) + mean

    def forward(self, x: Tensor, device: str) -> tuple[Tensor, ...]:
        h = self.encoder_layer(x)
        mean, logvar = self.encoder_mean(h), self.encoder_logvar(h)
        z = self._draw(mean, logvar, device)
        return torch.sigmoid(self.decoder_layer(z)), z, mean, logvar


def digit_loss(model: Any, img: Tensor) -> Tensor:
    x = img.view(img.size(0), -1)
    x_h, _, mean, logvar = model(x, "cpu")
    kl_d = -0.5 * torch.sum(1 + logvar - mean**2 - torch.exp(logvar))
    return F.binary_cross_entropy(x_h, x, reduction="sum") + kl_d


# ------------------------------------------------------------------------------------------------ videos


class LatentEncoder(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dropout, self.lstm = nn.Dropout(0.5), nn.LSTM(width, hidden, 2, dropout=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lstm(self.dropout(x))[1]


class LatentDecoder(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dropout, self.lstm = nn.Dropout(0.5), nn.LSTM(width, hidden, 2, dropout=0.5)
        self.fc = nn.Linear(hidden, width)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = self.lstm(self.dropout(x.unsqueeze(0)), state)
        return self.fc(output).squeeze(0), state


class LatentSeq2Seq(nn.Module):
    """Named for a VAE; the frames' latents are those of an autoencoder, which was trained before."""

    def __init__(self, width: int = 5, hidden: int = 8) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Flatten(), nn.Linear(64, width)
        )
        self.encoder, self.decoder = LatentEncoder(width, hidden), LatentDecoder(width, hidden)

    def forward(self, latents: Tensor) -> Tensor:
        state, x, predicted = self.encoder(latents), latents[-1], []
        for _ in range(len(latents)):
            x, state = self.decoder(x, state)
            predicted.append(x)
        return torch.stack(predicted)


def latent_loss(model: Any, video: Tensor, target: Tensor) -> Tensor:
    encoded = [model.frames(v.flatten(0, 1)).view(*v.shape[:2], -1).transpose(0, 1) for v in (video, target)]
    return F.mse_loss(model(encoded[0]), encoded[1])


class RSP(nn.Module):
    """Frames' patches by transformers; a posterior and a prior of categories, with a balanced KL."""

    def __init__(self, width: int = 8, stoch: int = 3, discrete: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width), requires_grad=False)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(width, 2, 16, 0.0, batch_first=True)])
        self.norm = nn.LayerNorm(width)
        size = stoch * discrete
        self.to_posterior = nn.Sequential(nn.Linear(width * 2, width * 2), nn.ReLU(), nn.Linear(width * 2, size))
        self.to_prior = nn.Sequential(nn.Linear(width, width * 2), nn.ReLU(), nn.Linear(width * 2, size))
        self.decoder_embed_mae, self.decoder_embed_deter = nn.Linear(width, width), nn.Linear(width, width)
        self.decoder_embed_stoch = nn.Linear(size, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.decoder_block = nn.TransformerDecoderLayer(width, 2, 16, 0.0, batch_first=True)
        self.decoder_norm, self.decoder_pred = nn.LayerNorm(width), nn.Linear(width, 48)
        self.stoch, self.discrete, self.noise_scale, self.mask_ratio = stoch, discrete, 0.5, 0.75
        self.kl_scale, self.kl_balance, self.kl_freebit = 0.01, 0.2, 0.1

    def encode(self, imgs: Tensor, ratio: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        x = self.patch_embed(imgs).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        n, length, d = x.shape
        shuffle = torch.argsort(torch.rand(n, length), dim=1)
        restore, keep = torch.argsort(shuffle, dim=1), int(length * (1 - ratio))
        mask = torch.gather((torch.arange(length) >= keep).float().expand(n, -1), 1, restore)
        if ratio != 0.0:
            x = torch.gather(x, 1, shuffle[:, :keep].unsqueeze(-1).expand(-1, -1, d))
        x = torch.cat(((self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, restore

    def decode(self, memory: Tensor, n: int) -> Tensor:
        x = self.mask_token.expand(n, 5, -1) + self.pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_block(x, memory)))[:, 1:]

    def decode_future(self, h: Tensor, z: Tensor) -> Tensor:
        stochastic = self.decoder_embed_stoch(z.reshape(len(z), 1, -1))
        return self.decode(torch.cat([stochastic, self.decoder_embed_deter(h) + self.pos_embed], dim=1), len(h))

    def decode_masked(self, h: Tensor, restore: Tensor) -> Tensor:
        h = self.decoder_embed_mae(h)
        rest = torch.cat([h[:, 1:], self.mask_token.repeat(len(h), restore.shape[1] + 1 - h.shape[1], 1)], dim=1)
        rest = torch.gather(rest, 1, restore.unsqueeze(-1).expand(-1, -1, h.shape[2]))
        return self.decode(torch.cat([h[:, :1], rest], dim=1) + self.pos_embed, len(h))

    def make_dist(self, logits: Tensor) -> Independent:
        return Independent(OneHotCategoricalStraightThrough(logits=logits.reshape(-1, self.stoch, self.discrete)), 1)

    def squares(self, imgs: Tensor, pred: Tensor, mask: Tensor | None = None) -> Tensor:
        target = F.unfold(imgs, 4, stride=4).transpose(1, 2)
        target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1.0e-6) ** 0.5
        loss = (pred - target) ** 2
        return loss.mean() if mask is None else (loss.mean(dim=-1) * mask).sum() / mask.sum()

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        src_h = self.encode(src)[0]
        tgt_h = self.encode(tgt + torch.randn_like(tgt) * self.noise_scale)[0]
        post_logits = self.to_posterior(torch.cat([src_h[:, 0], tgt_h[:, 0]], -1))
        prior_logits = self.to_prior(src_h[:, 0])
        post_z, prior_z = self.make_dist(post_logits).rsample(), self.make_dist(prior_logits).rsample()
        loss_post = self.squares(tgt, self.decode_future(src_h, post_z))
        forth = kl_divergence(self.make_dist(post_logits), self.make_dist(prior_logits.detach()))
        back = kl_divergence(self.make_dist(post_logits.detach()), self.make_dist(prior_logits))
        kl_value = (forth * self.kl_balance + back * (1.0 - self.kl_balance)).mean()
        kl_loss = torch.maximum(kl_value, torch.ones_like(kl_value) * self.kl_freebit)
        img_h, mask, restore = self.encode(tgt, self.mask_ratio)
        mae_loss = self.squares(tgt, self.decode_masked(img_h, restore), mask)
        with torch.no_grad():
            self.squares(tgt, self.decode_future(src_h, prior_z))
        return loss_post + self.kl_scale * kl_loss + mae_loss


# ------------------------------------------------------------------------------------------------ medical images


class XrayVAE(nn.Module):
    def __init__(self, latent_dim: int = 6) -> None:
        super().__init__()
        hidden_dims, channels = [4, 6], 1
        self.encoder_layers, self.decoder_layers = nn.ModuleList(), nn.ModuleList()
        for h_dim in hidden_dims:
            self.encoder_layers.append(
                nn.Sequential(nn.Conv2d(channels, h_dim, 3, 2, 1), nn.BatchNorm2d(h_dim), nn.LeakyReLU())
            )
            channels = h_dim
        self.fc_mu, self.fc_var = nn.Linear(6 * 16, latent_dim), nn.Linear(6 * 16, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, 6 * 16)
        self.decoder_layers.append(
            nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1), nn.BatchNorm2d(4), nn.LeakyReLU())
        )
        self.final_layer = nn.Sequential(nn.ConvTranspose2d(4, 1, 3, 2, 1, output_padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = one_by_one(self.encoder_layers, x).flatten(1)
        mean, v = self.fc_mu(features), self.fc_var(features)
        start = self.decoder_input(draw_half(mean, v)).view(-1, 6, 4, 4)
        return self.final_layer(one_by_one(self.decoder_layers, start)), mean, v


def xray_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_var = model(x)
    return F.mse_loss(recon, x, reduction="sum") + kl_to_unit(mu, log_var)


class VolumeVAE(nn.Module):
    """Volumes whose slices come last."""

    def __init__(self, aspect_ratio: tuple[int, int, int] = (2, 2, 1), dim: int = 5) -> None:
        super().__init__()
        self.aspect_ratio, self.dim_before_reparam = aspect_ratio, math.prod(aspect_ratio)
        self.enc = nn.Sequential(
            nn.Conv3d(1, 4, 5, stride=2, padding=2), nn.ReLU(), nn.Conv3d(4, 6, 5, stride=2, padding=2), nn.ReLU()
        )
        self.dec = nn.Sequential(
            nn.ConvTranspose3d(6, 4, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose3d(4, 1, 4, stride=2, padding=1), nn.Sigmoid(),
        )  # fmt: skip
        self.mu_net = nn.Linear(6 * self.dim_before_reparam, dim)
        self.var_net = nn.Linear(6 * self.dim_before_reparam, dim)
        self.decode_net = nn.Linear(dim, 6 * self.dim_before_reparam)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        sigma = (0.5 * v).exp_()
        return torch.FloatTensor(sigma.shape).normal_().mul(sigma).add_(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.enc(x.permute(0, 3, 1, 2)[:, None]).view(-1, 6 * self.dim_before_reparam)
        mu_out, var_out = self.mu_net(out), self.var_net(out)
        decoded = self.decode_net(self._draw(mu_out, var_out))
        decoded = self.dec(decoded.view(-1, 6, self.aspect_ratio[-1], *self.aspect_ratio[:-1]))
        return torch.squeeze(decoded, dim=1).permute(0, 2, 3, 1), mu_out, var_out


def volume_loss(model: Any, x: Tensor) -> Tensor:
    decoded, mu, log_var = model(x)
    return F.binary_cross_entropy(decoded, x, reduction="sum") + kl_to_unit(mu, log_var)


# ------------------------------------------------------------------------------------------------ recommenders


class DenoisingRecommender(nn.Module):
    def __init__(self, in_feature: int = 16, latent_feature: int = 6) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(in_feature, latent_feature), nn.Linear(latent_feature, in_feature)
        self.tanh = nn.Tanh()

    def forward(self, inp: Tensor, drop_prob: float = 0.0) -> Tensor:
        return self.linear2(self.tanh(self.linear1(nn.Dropout(p=drop_prob)(F.normalize(inp, p=2, dim=1)))))


def multinomial_loss(model: Any, clicks: Tensor) -> Tensor:
    return -(F.log_softmax(model(clicks), dim=-1) * clicks).mean(1).mean(0)


class VAECF(nn.Module):
    """One activation for all layers."""

    def __init__(self, z_dim: int = 4, structure: tuple[int, ...] = (16, 8), likelihood: str = "mult") -> None:
        super().__init__()
        self.likelihood, self.act_fn = likelihood, nn.Tanh()
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for i in range(len(structure) - 1):
            self.encoder.add_module(f"fc{i}", nn.Linear(structure[i], structure[i + 1]))
            self.encoder.add_module(f"act{i}", self.act_fn)
        self.enc_mu, self.enc_logvar = nn.Linear(structure[-1], z_dim), nn.Linear(structure[-1], z_dim)
        back = [z_dim, *structure[::-1]]
        for i in range(len(back) - 1):
            self.decoder.add_module(f"fc{i}", nn.Linear(back[i], back[i + 1]))
            if i != len(back) - 2:
                self.decoder.add_module(f"act{i}", self.act_fn)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(mu) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.enc_mu(h), self.enc_logvar(h)
        return torch.softmax(self.decoder(self.reparameterize(mu, logvar)), dim=1), mu, logvar

    def loss(self, x: Tensor, x_: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> Tensor:
        ll = {
            "mult": x * torch.log(x_ + 1e-10),
            "bern": x * torch.log(x_ + 1e-10) + (1 - x) * torch.log(1 - x_ + 1e-10),
            "gaus": -((x - x_) ** 2),
            "pois": x * torch.log(x_ + 1e-10) - x_,
        }[self.likelihood]
        std = torch.exp(0.5 * logvar)
        kld = -0.5 * (1 + 2.0 * torch.log(std) - mu.pow(2) - std.pow(2))
        return torch.mean(beta * torch.sum(kld, dim=1) - torch.sum(ll, dim=1))


def vaecf_loss(model: Any, clicks: Tensor) -> Tensor:
    return model.loss(clicks, *model(clicks), 1.0)


# ------------------------------------------------------------------------------------------------ compression


def interval_mass(mean: Tensor, log_scale: Tensor, x: Tensor, bin_size: float, prob_clamp: float) -> Tensor:
    """Logarithm of a Normal's mass, and of its density where that is small."""
    gaussian = Normal(mean, torch.exp(log_scale))
    mass = gaussian.cdf(x + 0.5 * bin_size) - gaussian.cdf(x - 0.5 * bin_size)
    density = gaussian.log_prob(x) + math.log(bin_size)
    return torch.where(mass > prob_clamp, torch.log(mass.clamp(min=1e-8)), density)


class NextBlock(nn.Module):
    """A ConvNeXt block, its branch scaled by a small γ."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, kernel_size, padding=(kernel_size - 1) // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return h.mul(self.gamma.reshape(1, -1, 1, 1)) + x


class NextDown(NextBlock):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, 3)
        self.downsapmle = nn.Conv2d(n_in, n_out, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsapmle(super().forward(x))


class DeepBlock(nn.Module):
    """The very deep VAE's block of four convolutions."""

    def __init__(self, n_in: int, hidden: int, n_out: int, wide: bool, zero_last: bool = False) -> None:
        super().__init__()
        k = 3 if wide else 1
        self.c1, self.c4 = nn.Conv2d(n_in, hidden, 1), nn.Conv2d(hidden, n_out, 1)
        self.c2, self.c3 = (nn.Conv2d(hidden, hidden, k, padding=k // 2) for _ in range(2))
        for conv in (self.c1, self.c2, self.c3, self.c4):
            nn.init.zeros_(conv.bias)
        if zero_last:
            nn.init.zeros_(self.c4.weight)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.c1, self.c2, self.c3, self.c4):
            x = conv(F.gelu(x))
        return x


class QLatentBlock(nn.Module):
    """A posterior of uniform noise, and a Normal for its prior, convolved with the same."""

    def __init__(self, width: int, zdim: int, kernel_size: int) -> None:
        super().__init__()
        hidden, wide = width // 2, kernel_size >= 3
        self.resnet_front, self.resnet_end = NextBlock(width, kernel_size), NextBlock(width, kernel_size)
        self.posterior = DeepBlock(width * 2, hidden, zdim, wide)
        self.prior = DeepBlock(width, hidden, zdim * 2, wide, zero_last=True)
        k = 3 if wide else 1
        self.z_proj = nn.Sequential(nn.Conv2d(zdim, hidden, k, padding=k // 2), nn.GELU(), nn.Conv2d(hidden, width, 1))

    def residual_scaling(self, n: int) -> None:
        self.z_proj[2].weight.data.mul_(math.sqrt(1 / 3 * n))

    def forward_train(self, feature: Tensor, enc_feature: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.resnet_front(feature)
        pm, plogv = self.prior(feature).chunk(2, dim=1)
        plogv = F.softplus(plogv + 2.3) - 2.3
        qm = self.posterior(torch.cat([feature, enc_feature], dim=1))
        z_sample = qm + torch.empty_like(qm).uniform_(-0.5, 0.5)
        kl = -1.0 * interval_mass(pm, plogv, z_sample, 1.0, 1e-6)
        return self.resnet_end(feature + self.z_proj(z_sample)), kl


def subpixel(n_in: int, n_out: int, up_rate: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out * up_rate**2, 1), nn.PixelShuffle(up_rate))


class BottomUp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enc_blocks = nn.ModuleList([
            nn.Conv2d(3, width, 4, 4), NextBlock(width, 5), NextDown(width, width), NextBlock(width, 3),
            NextDown(width, width), NextBlock(width, 1),
        ])  # fmt: skip

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = {}
        for block in self.enc_blocks:
            x = block(x)
            features[int(x.shape[2])] = x
        return features


class TopDown(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dec_blocks = nn.ModuleList([
            QLatentBlock(width, 4, 1), subpixel(width, width), QLatentBlock(width, 3, 3), subpixel(width, width),
            QLatentBlock(width, 2, 5), subpixel(width, 3, 4),
        ])  # fmt: skip
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        latents = [block for block in self.dec_blocks if isinstance(block, QLatentBlock)]
        for block in latents:
            block.residual_scaling(len(latents))

    def forward(self, features: dict[int, Tensor]) -> tuple[Tensor, list[Tensor]]:
        feature, kls = self.bias.expand(features[min(features)].shape), []
        for block in self.dec_blocks:
            if hasattr(block, "forward_train"):
                feature, kl = block.forward_train(feature, features[int(feature.shape[2])])
                kls.append(kl)
            else:
                feature = block(feature)
        return feature, kls


class QResVAE(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder, self.mse_lmb = BottomUp(width), TopDown(width), 32.0

    def forward(self, im: Tensor) -> dict[str, Any]:
        feature, kls = self.decoder(self.encoder((im - 0.4546) * 3.6757))
        out_loss = F.mse_loss(feature, (im - 0.5) * 2.0, reduction="none").mean(dim=(1, 2, 3)) * self.mse_lmb
        kl = sum(part.sum(dim=(1, 2, 3)) for part in kls) / im[0].numel()
        return {"loss": (kl + out_loss).mean(0), "kl": kl.detach().mean(0).item()}


def soft_floored(v: Tensor) -> Tensor:
    return torch.exp(F.softplus(v + 2.3) - 2.3)


class SwitchedGaussian(PackageGaussian):
    """CompressAI's conditional Normal, of the noisy value or of the rounded one."""

    def mass(self, value: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        scales, values = self.lower_bound_scale(scales), torch.abs(value - means)
        upper = 0.5 * torch.erfc(-(2**-0.5) * ((0.5 - values) / scales))
        lower = 0.5 * torch.erfc(-(2**-0.5) * ((-0.5 - values) / scales))
        return self.likelihood_lower_bound(upper - lower)

    def forward(self, inputs: Tensor, scales: Tensor, means: Tensor, noisy: bool = True) -> tuple[Tensor, Tensor]:
        value = inputs + torch.empty_like(inputs).uniform_(-0.5, 0.5) if noisy else torch.round(inputs - means) + means
        return value, self.mass(value, scales, means)


def hyper_synthesis(width: int, latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 5, 2, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(width, latent, 3, padding=1)
    )


class HiFiCAutoencoder(nn.Module):
    """A network for the means of the latent's Normals, and one for their scales."""

    def __init__(self, latent: int = 4, hyper: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, latent, 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(latent, 6, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 4, 2, 1))
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(latent, hyper, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hyper, hyper, 5, 2, 2)
        )
        self.hyper_synthesis_mean = hyper_synthesis(hyper, latent)
        self.hyper_synthesis_scale = hyper_synthesis(hyper, latent)
        self.hyper_bottleneck, self.latent_bottleneck = HyperDensity(hyper), SwitchedGaussian()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        latent = self.encoder(image)
        hyper = self.hyper_analysis(latent)
        hyper = hyper + torch.empty_like(hyper).uniform_(-0.5, 0.5)
        hyper_likelihoods = self.hyper_bottleneck(hyper)
        with torch.no_grad():
            rounded_hyper_likelihoods = self.hyper_bottleneck(torch.round(hyper))
        means, scales = self.hyper_synthesis_mean(hyper), self.hyper_synthesis_scale(hyper)
        _, likelihoods = self.latent_bottleneck(latent, scales, means)
        with torch.no_grad():
            _, rounded_likelihoods = self.latent_bottleneck(latent, scales, means, noisy=False)
        centred = latent - means
        straight = centred + (torch.round(centred) - centred).detach() + means
        return {
            "image": self.decoder(straight), "latent": likelihoods, "hyper": hyper_likelihoods,
            "rounded": rounded_likelihoods, "rounded_hyper": rounded_hyper_likelihoods,
        }  # fmt: skip


def hific_loss(model: Any, image: Tensor) -> Tensor:
    """Distortion and rate, without a target rate; the generator's loss is left out."""
    out = model(image)
    bits_of = -(torch.log2(out["latent"]).sum() + torch.log2(out["hyper"]).sum())
    return F.mse_loss(out["image"], image) + bits_of / image[:, 0].numel()


# ------------------------------------------------------------------------------------------------ shapes


class VoxelVAE(nn.Module):
    """Mean and log variance are batch normalized; no KL is taken."""

    def __init__(self, z_dim: int = 5) -> None:
        super().__init__()
        self.enc_conv1 = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.LeakyReLU())
        self.enc_conv2 = nn.Sequential(nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.BatchNorm3d(6), nn.LeakyReLU())
        self.enc_fc1 = nn.Sequential(nn.Flatten(), nn.Linear(6 * 27, 12), nn.BatchNorm1d(12), nn.LeakyReLU())
        self.mu = nn.Sequential(nn.Linear(12, z_dim), nn.BatchNorm1d(z_dim))
        self.sigma = nn.Sequential(nn.Linear(12, z_dim), nn.BatchNorm1d(z_dim))
        self.dec_fc1 = nn.Sequential(nn.Linear(z_dim, 27), nn.BatchNorm1d(27), nn.LeakyReLU())
        self.dec_unflatten = nn.Sequential(nn.Unflatten(1, (1, 3, 3, 3)))
        self.dec_conv1 = nn.Sequential(nn.ConvTranspose3d(1, 6, 3, 1, 1), nn.BatchNorm3d(6), nn.LeakyReLU())
        self.dec_conv2 = nn.Sequential(nn.ConvTranspose3d(6, 4, 4, 2, 0), nn.BatchNorm3d(4), nn.LeakyReLU())
        self.decoder_output = nn.Sequential(nn.Conv3d(4, 1, 3, 1, 1), nn.LeakyReLU())

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        return torch.randn_like(mean) * (v / 2).exp() + mean

    def forward(self, x: Tensor) -> Tensor:
        fc1 = self.enc_fc1(self.enc_conv2(self.enc_conv1(x)))
        z = self._draw(self.mu(fc1), self.sigma(fc1))
        return self.decoder_output(self.dec_conv2(self.dec_conv1(self.dec_unflatten(self.dec_fc1(z)))))

    def loss(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        clipped = torch.clip(torch.sigmoid(outputs), 1e-7, 1.0 - 1e-7)
        return (-(98.0 * inputs * torch.log(clipped) + 2.0 * (1.0 - inputs) * torch.log(1.0 - clipped)) / 100.0).mean()


def voxel_loss(model: Any, voxels: Tensor) -> Tensor:
    return model.loss(voxels, model(voxels))


class ShapeEncoder(nn.Module):
    """Of an image."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 4, 4, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.conv4 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.conv5 = nn.Sequential(nn.Conv2d(6, 8, 4), nn.BatchNorm2d(8), nn.ReLU())
        self.flatten, self.fc1, self.fc2 = nn.Flatten(), nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.flatten(self.conv5(self.conv4(self.conv1(x))))
        return self.fc1(x), self.fc2(x)


class ShapeVAEGAN(nn.Module):
    """Three networks that its script holds apart: encoder, generator and discriminator."""

    def __init__(self, latent: int = 5) -> None:
        super().__init__()
        self.latent, self.encoder = latent, ShapeEncoder(latent)
        self.generator = nn.Sequential(
            nn.ConvTranspose3d(latent, 6, 4, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.ConvTranspose3d(6, 1, 4, 2, 1),
            nn.Sigmoid(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv3d(1, 4, 4, 2, 1), nn.BatchNorm3d(4), nn.LeakyReLU(0.2), nn.Conv3d(4, 6, 4, 2, 1),
            nn.BatchNorm3d(6), nn.LeakyReLU(0.2), nn.ConvTranspose3d(6, 1, 4, 2), nn.Sigmoid(),
        )  # fmt: skip

    def reparameterise(self, mu: Tensor, sigma: Tensor) -> Tensor:
        std = torch.exp(0.5 * sigma)
        return mu + torch.randn_like(std) * std


def shape_step(model: Any, image: Tensor, volume: Tensor) -> Tensor:
    """The losses of discriminator, encoder and generator, which it steps one after the other."""
    z_mu, z_var = model.encoder(image.permute(0, 3, 1, 2))
    z_vae = model.reparameterise(z_mu, z_var)
    d_real = model.discriminator(volume)
    fake = model.generator(z_vae.detach().view(-1, model.latent, 1, 1, 1))
    d_fake = model.discriminator(fake)
    real_labels = torch.ones_like(d_real)
    d_loss = F.binary_cross_entropy(d_real, real_labels) + F.binary_cross_entropy(d_fake, torch.zeros_like(d_fake))
    recon_loss = torch.sum(torch.pow((fake - volume), 2))
    e_loss = recon_loss - 0.5 * torch.sum(1 + z_var - torch.pow(z_mu, 2) - torch.exp(z_var))
    return d_loss + e_loss + F.binary_cross_entropy(model.discriminator(fake), real_labels) + recon_loss


# ------------------------------------------------------------------------------------------------ continual learning


class WideBlock(nn.Module):
    """A residual block, of a transposed convolution in the decoder."""

    def __init__(self, n_in: int, n_out: int, stride: int, is_transposed: bool = False) -> None:
        super().__init__()
        if is_transposed:
            self.layer1 = nn.ConvTranspose2d(n_in, n_out, 3, stride, 1, output_padding=int(stride > 1), bias=False)
        else:
            self.layer1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(n_in), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if n_in != n_out or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.layer1(h))))
        return torch.add(x if self.shortcut is None else self.shortcut(h), out)


class OpenVAE(nn.Module):
    """A classifier of the latent beside the decoder; what the encoder calls std is drawn with as it is."""

    def __init__(self, num_classes: int = 4, latent_dim: int = 5) -> None:
        super().__init__()
        self.encoder = nn.Sequential(OrderedDict([
            ("encoder_conv1", nn.Conv2d(1, 4, 3, 1, 1, bias=False)), ("encoder_block1", WideBlock(4, 4, 1)),
            ("encoder_block2", WideBlock(4, 6, 2)), ("encoder_bn1", nn.BatchNorm2d(6)),
            ("encoder_act1", nn.ReLU(inplace=True)),
        ]))  # fmt: skip
        self.num_samples, self.num_classes = 1, num_classes
        self.latent_mu = nn.Linear(6 * 16, latent_dim, bias=False)
        self.latent_std = nn.Linear(6 * 16, latent_dim, bias=False)
        self.classifier = nn.Sequential(nn.Linear(latent_dim, num_classes, bias=False))
        self.latent_decoder = nn.Linear(latent_dim, 6 * 16, bias=False)
        self.decoder = nn.Sequential(OrderedDict([
            ("decoder_block1", WideBlock(6, 4, 1, True)), ("decoder_upsample1", nn.Upsample(scale_factor=2)),
            ("decoder_bn1", nn.BatchNorm2d(4)), ("decoder_act1", nn.ReLU(inplace=True)),
            ("decoder_conv1", nn.Conv2d(4, 1, 3, 1, 1, bias=False)),
        ]))  # fmt: skip

    def _draw(self, mean: Tensor, sigma: Tensor) -> Tensor:
        return sigma.data.new(sigma.shape).normal_().mul(sigma).add(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.encoder(x).flatten(1)
        z_mean, z_std = self.latent_mu(h), self.latent_std(h)
        output_samples = torch.zeros(self.num_samples, *x.shape)
        classification_samples = torch.zeros(self.num_samples, x.size(0), self.num_classes)
        for k in range(len(output_samples)):
            code = self._draw(z_mean, z_std)
            classification_samples[k] = self.classifier(code)
            output_samples[k] = self.decoder(self.latent_decoder(code).view(-1, 6, 4, 4))
        return classification_samples, output_samples, z_mean, z_std


def joint_loss(model: Any, inp: Tensor, target: Tensor) -> Tensor:
    """What is encoded is noisy, what is reconstructed is not."""
    classes, recon, mu, std = model(inp + torch.randn(inp.size()) * 0.25)
    cl = torch.stack([F.cross_entropy(c, target, reduction="sum") / target.numel() for c in classes]).mean()
    rl = torch.stack([nn.BCEWithLogitsLoss(reduction="sum")(r, inp) / inp.numel() for r in recon]).mean()
    kld = -0.5 * torch.sum(1 + torch.log(1e-8 + std**2) - (mu**2) - (std**2)) / torch.numel(mu)
    return cl + rl + 0.1 * kld


def as_it_is(v: Tensor) -> Tensor:
    return v


class MeanFieldNet(nn.Module):
    """Shared layers and a last one a task; all weights, which are plain tensors there, are drawn a sample apart."""

    def __init__(self, sizes: tuple[int, ...] = (8, 6, 6, 3), training_size: int = 100) -> None:
        super().__init__()
        self.size, self.no_layers, self.training_size, self.no_train_samples = sizes, len(sizes) - 1, training_size, 4
        shared = list(pairwise(sizes[:-1]))
        self.W_m = nn.ParameterList([0.1 * torch.randn(a, b) for a, b in shared])
        self.b_m = nn.ParameterList([0.1 * torch.randn(b) for _, b in shared])
        self.W_v = nn.ParameterList([torch.full((a, b), -6.0) for a, b in shared])
        self.b_v = nn.ParameterList([torch.full((b,), -6.0) for _, b in shared])
        self.W_last_m = nn.ParameterList([0.1 * torch.randn(sizes[-2], sizes[-1])])
        self.b_last_m = nn.ParameterList([0.1 * torch.randn(sizes[-1])])
        self.W_last_v = nn.ParameterList([torch.full((sizes[-2], sizes[-1]), -6.0)])
        self.b_last_v = nn.ParameterList([torch.full((sizes[-1],), -6.0)])
        self.prior_m, self.prior_v = torch.zeros(()), torch.ones(())

    def drawn(self, mean: Tensor, v: Tensor, k: int) -> Tensor:
        """A draw a sample; a bias has one row."""
        shape = (k, *mean.shape) if mean.dim() == 2 else (k, 1, *mean.shape)
        return torch.add(torch.normal(torch.zeros(shape), torch.ones(shape)) * torch.exp(0.5 * v), mean)

    def _prediction(self, inputs: Tensor, task_idx: int, no_samples: int) -> Tensor:
        act = torch.unsqueeze(inputs, 0).repeat([no_samples, 1, 1])
        for i in range(self.no_layers - 1):
            weights = self.drawn(self.W_m[i], self.W_v[i], no_samples)
            biases = self.drawn(self.b_m[i], self.b_v[i], no_samples)
            act = F.relu(torch.add(torch.einsum("mni,mio->mno", act, weights), biases))
        weights = self.drawn(self.W_last_m[task_idx], self.W_last_v[task_idx], no_samples)
        biases = self.drawn(self.b_last_m[task_idx], self.b_last_v[task_idx], no_samples)
        return torch.add(torch.sum(torch.unsqueeze(act, 3) * torch.unsqueeze(weights, 1), dim=2), biases)

    def _logpred(self, inputs: Tensor, targets: Tensor, task_idx: int) -> Tensor:
        pred = self._prediction(inputs, task_idx, self.no_train_samples).view(-1, self.size[-1])
        return -F.cross_entropy(pred, targets.repeat([self.no_train_samples, 1]).view(-1)).mean()

    def _kl_term(self) -> Tensor:
        kl = torch.zeros(())
        means = [*self.W_m, *self.b_m, *self.W_last_m, *self.b_last_m]
        for m, v in zip(means, [*self.W_v, *self.b_v, *self.W_last_v, *self.b_last_v], strict=True):
            log_std_diff = 0.5 * torch.sum(torch.log(self.prior_v) - v)
            mu_diff_term = 0.5 * torch.sum((torch.exp(v) + (self.prior_m - m) ** 2) / self.prior_v)
            kl = kl - 0.5 * m.numel() + log_std_diff + mu_diff_term
        return kl

    def get_loss(self, x: Tensor, y: Tensor, task_idx: int) -> Tensor:
        return torch.div(self._kl_term(), self.training_size) - self._logpred(x, y, task_idx)


def mean_field_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.get_loss(x, y, 0)


# ------------------------------------------------------------------------------------------------ domain adaptation


class DenseBlock(nn.Module):
    """Each layer sees all before it."""

    def __init__(self, n_in: int, layers: int, growth: int, n_out: int, is_down: bool = False) -> None:
        super().__init__()
        width = n_in
        for i in range(layers):
            conv = nn.Conv2d(width, growth, 3, 1, 1, bias=False)
            setattr(self, f"dense{i}", nn.Sequential(conv, nn.BatchNorm2d(growth), nn.ReLU(True)))
            width += growth
        self.num_layer, self.is_down = layers, is_down
        self.trans = nn.Sequential(nn.Conv2d(width, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(True))
        self.downsample = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.num_layer):
            x = torch.cat((x, getattr(self, f"dense{i}")(x)), 1)
        x = self.trans(x)
        return self.downsample(x) if self.is_down else x


class DenseEncoder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.basic = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2, 2))
        self.dense1 = DenseBlock(4, 2, 3, 6, is_down=True)
        self.final_conv = nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True))
        self.linear = nn.Sequential(nn.Linear(64, 16), nn.ReLU(True), nn.Linear(16, hidden), nn.ReLU(True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.final_conv(self.dense1(self.basic(x)))
        return self.linear(x.view(x.size(0), -1))


class LatentZ(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.mu, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.mu(x), self.logvar(x)
        sigma = (0.5 * logvar).exp_()
        return torch.FloatTensor(sigma.shape).normal_() * sigma + mu, mu, logvar


class DenseDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense1, self.dense3 = DenseBlock(2, 2, 3, 6), DenseBlock(6, 2, 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = F.interpolate(z.view(z.size(0), -1, 2, 2), scale_factor=2)
        x = F.interpolate(self.dense1(x), scale_factor=2)
        return torch.sigmoid(F.interpolate(self.dense3(x), scale_factor=2))


class DenseVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.latent_layer, self.decoder = DenseEncoder(12), LatentZ(12, 8), DenseDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent_space, mu, logvar = self.latent_layer(self.encoder(x))
        recon = self.decoder(latent_space)
        return recon.view(len(recon), -1), mu, logvar


def dense_loss(model: Any, image: Tensor) -> Tensor:
    recon, mu, logvar = model(image)
    kl_loss = (-0.5 * (1 + logvar - mu**2 - logvar.exp())).mean()
    return F.mse_loss(recon, image.view(len(image), -1)) + kl_loss * 1e-5


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.neg() * ctx.alpha, None


class DANN(nn.Module):
    """A classifier of classes, and one of domains behind a reversed gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(True),
        )  # fmt: skip
        self.cls_clf = nn.Sequential(nn.Linear(12, 8), nn.ReLU(True), nn.Linear(8, 4), nn.LogSoftmax(1))
        self.dom_clf = nn.Sequential(nn.Linear(12, 8), nn.ReLU(True), nn.Linear(8, 2), nn.LogSoftmax(1))

    def forward(self, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return self.cls_clf(features), self.dom_clf(Reversed.apply(features, alpha))


def dann_loss(model: Any, source: Tensor, label: Tensor, target: Tensor) -> Tensor:
    classes, source_domain = model(source, 0.5)
    _, target_domain = model(target, 0.5)
    domains = F.nll_loss(source_domain, torch.ones(len(source)).long())
    return F.nll_loss(classes, label) + domains + F.nll_loss(target_domain, torch.zeros(len(target)).long())


class DomainEncoder(nn.Module):
    def __init__(self, num_domains: int, latent: int) -> None:
        super().__init__()
        self.latent_dim, self.embed, self.bn = latent, nn.Embedding(num_domains, 8), nn.BatchNorm1d(8)
        self.mu_logvar_gen, self.act = nn.Linear(8, latent * 2), nn.LeakyReLU(inplace=True)

    def forward(self, domains: Tensor) -> tuple[Tensor, ...]:
        h = self.act(self.bn(self.embed(domains)))
        return self.mu_logvar_gen(h).view(len(domains), self.latent_dim, 2).unbind(-1)


class ContentEncoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent_dim = latent
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 5, padding=2), nn.BatchNorm2d(4)
        self.fc1, self.bn1_fc = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.mu_logvar_gen, self.act = nn.Linear(12, latent * 2), nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = F.max_pool2d(self.act(self.bn1(self.conv1(x))), stride=2, kernel_size=3, padding=1)
        h = self.act(self.bn1_fc(self.fc1(h.view(len(x), -1))))
        return self.mu_logvar_gen(h).view(len(x), self.latent_dim, 2).unbind(-1)


class ResidualDecoder(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.fc, self.l1 = nn.Linear(latent, 3 * 64), nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True))
        self.resblock = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.l2 = nn.Sequential(nn.Conv2d(4, 3, 3, 1, 1), nn.Sigmoid())

    def forward(self, z: Tensor) -> Tensor:
        h = self.l1(self.fc(z).view(len(z), 3, 8, 8))
        return self.l2(h + self.resblock(h))


class VDD(nn.Module):
    """A latent of the domain and one of the content; the content is decoded with another domain's, too."""

    def __init__(self, num_domains: int = 3, content: int = 5, domain: int = 3, num_class: int = 4) -> None:
        super().__init__()
        self.num_domains, self.num_class = num_domains, num_class
        self.encoder_d, self.encoder_z = DomainEncoder(num_domains, domain), ContentEncoder(content)
        self.decoder = ResidualDecoder(content + domain)
        self.classifier = nn.Sequential(
            nn.Linear(content, 6), nn.BatchNorm1d(6), nn.LeakyReLU(inplace=True), nn.Dropout(0.1),
            nn.Linear(6, num_class),
        )  # fmt: skip

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        return torch.randn_like(mean) * (v / 2).exp() + mean if self.training else mean

    def forward(self, x: Tensor, domain_labels: Tensor, domain_id: int) -> tuple[Any, ...]:
        others = torch.tensor([d for d in range(self.num_domains - 1) if d != domain_id])
        fake_labels = others[torch.randint(len(others), (len(x),))]
        d_dist, fake_dist = self.encoder_d(domain_labels[:, domain_id]), self.encoder_d(fake_labels)
        z_dist = self.encoder_z(x)
        d_sample, fake_sample = self._draw(*d_dist), self._draw(*fake_dist)
        z_sample = self._draw(*z_dist)
        reconstruct = self.decoder(torch.cat((d_sample, z_sample), dim=1))
        fake = self.decoder(torch.cat((fake_sample, z_sample), dim=1))
        return reconstruct, d_dist, z_dist, z_sample, fake, fake_labels


def annealed_kl(dist: list[tuple[Tensor, Tensor]]) -> Tensor:
    mean, logvar = torch.stack([d[0] for d in dist], 1), torch.stack([d[1] for d in dist], 1)
    return (0.5 * (-1 - logvar + mean.pow(2) + logvar.exp()).mean(dim=0)).sum()


def vdd_step(model: Any, images_in: Tensor, labels: Tensor, domain_labels: Tensor) -> Tensor:
    """The step in the middle of the KL's annealing; the last domain is the target, whose labels are guessed."""
    n_domains, batch = images_in.shape[1], len(images_in)
    outputs = [model(images_in[:, d], domain_labels, d) for d in range(n_domains)]
    z_samples = torch.stack([o[3] for o in outputs], dim=1)
    logits = model.classifier(F.normalize(z_samples.flatten(0, 1), dim=-1)).view(batch, n_domains, -1)
    loss_source = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, :-1].flatten())
    target = torch.softmax(logits[:, -1], dim=-1)
    loss_target = torch.mean(torch.sum(-target * F.log_softmax(logits[:, -1], 1), 1))
    surest, likeliest = target[:, :-1].max(dim=-1)
    unknown = torch.full_like(likeliest, model.num_class - 1)
    pseudo = torch.where(surest > 0.9, likeliest, unknown)
    taken = (surest > 0.9) | (surest < 0.3)
    if taken.any():
        loss_target = loss_target + F.cross_entropy(logits[:, -1][taken], pseudo[taken])
    guessed = torch.cat((labels[:, :-1], target.detach().max(dim=-1)[1].unsqueeze(-1)), dim=1)
    loss_diverse = torch.zeros(())
    for d, output in enumerate(outputs):
        fake, fake_ids = output[4], output[5]
        for j in range(int(fake_ids[0])):
            hit = torch.where(guessed[:, fake_ids[j]] == guessed[j, d])[0]
            if len(hit) > 0:
                wanted = 255 * images_in[hit[0], fake_ids[j]]
                loss_diverse = loss_diverse + F.mse_loss(255 * fake[j], wanted, reduction="sum") / 1000
    recon = torch.stack([o[0] for o in outputs], dim=1)
    rec_loss = F.mse_loss(255 * recon, 255 * images_in, reduction="sum") / 255 / (batch * n_domains)
    loss_f = rec_loss + 0.5 * (annealed_kl([o[1] for o in outputs]) + annealed_kl([o[2] for o in outputs]))
    return loss_source * 2 + loss_target + loss_f + 0.1 * loss_diverse


def domains() -> tuple[Tensor, Tensor, Tensor]:
    return rand(5, 3, 3, 8, 8), tokens(4, 5, 3), torch.arange(3).repeat(5, 1)


# fmt: off
CASES = (
    PublicCase(
        "VAE (Romashka12)",
        Retold(
            "Romashka12/Variational_Autoencoder", "4431d19405b71782d59769516d60a4a2082ef94f",
            "scripts/VAE_definition.py, scripts/VAE_training.ipynb",
        ),
        PooledVAE, images(size=16, batch=6), (posterior("sampling_var"),), squares_and_kl,
        truth="VAE_definition.py sample: exp(0.5 log_var); KL summed",
    ),
    PublicCase(
        "VAE (chaehunshin)",
        Retold("chaehunshin/vae", "d8a4a69a99a5f1ab4a6606b41aeb9a2138729678", "model.py, main.py"),
        ListedVAE, images(size=16), (posterior("_logvar"),), listed_loss,
        truth="model.py reparameterize: exp(0.5 logvar), of noise from rand_like; KL of a Normal. Hard to decide: what "
        "is drawn is uniform; that its KL is a Normal's makes it a posterior",
    ),
    PublicCase(
        "TabularVAE (synthcity)",
        Retold(
            "vanderschaarlab/synthcity", "23f322fe381326ed01c41b13d469a06e38cce545",
            "src/synthcity/plugins/core/models/vae.py, src/synthcity/plugins/core/models/tabular_vae.py",
        ),
        lambda: SynthVAE((("tanh", 1), ("tanh", 1), ("softmax", 3))), mixed_rows, (posterior("encoder.logvar_fc"),),
        synth_step,
        truth="vae.py _reparameterize: exp(0.5 logvar); KL summed, by rows",
    ),
    PublicCase(
        "MOVE",
        Retold("RasmussenLab/MOVE", "49ee4127e2da42b51ee772c54b1de63914f36f5c", "src/move/models/vae.py"),
        lambda: OmicsVAE(((2, 3),), (4, 3)), omics, (posterior("var"),), omics_loss,
        truth="vae.py reparameterize: exp(0.5 logvar), the mean added in place; KL weighed by 0.01",
    ),
    PublicCase(
        "VAE (scCube)",
        Retold("ZJUFanLab/scCube", "4cd034e2a7678859f96c185bf4ec50993be5ca7e", "scCube/model.py, scCube/utils.py"),
        CubeVAE, lambda: (rand(8, 12),), (posterior("encoder.2", 4, 8),), cube_loss,
        truth="model.py reparameterize: exp(0.5 v) of what forward calls sigma; KL by rows and columns",
    ),
    PublicCase(
        "chemCPA",
        Retold(
            "theislab/chemCPA", "43e830eb0958c54e4aa64442c17ec0fed19b3f15",
            "chemCPA/model.py, chemCPA/lightning_module.py",
        ),
        ComPert, perturbed, (likelihood("decoder.network.6", 9, 18, root_softplus),), compert_step,
        truth="model.py predict: var = softplus(v), into GaussianNLLLoss, which floors it by 1e-6; nothing is drawn",
    ),
    PublicCase(
        "BetaTCVAE of molecules",
        Retold("DaoyuanLi2816/Molecule-Generator", "beb95a5f92e204e3b89ad6ed808c83735630fb19", "VAE.py"),
        MoleculeTCVAE, lambda: (tokens(5, 6, 7),), (posterior("log_var"),), molecule_loss,
        truth="VAE.py reparameterize: exp(0.5 log_var); KL averaged, and what is called a total correlation of it",
    ),
    PublicCase(
        "GENTRL",
        Retold(
            "insilicomedicine/GENTRL", "f01c55bc012e49929684cd976ca400b99fdc6c4b",
            "gentrl/gentrl.py, gentrl/lp.py, gentrl/encoder.py, gentrl/decoder.py",
        ),
        GENTRL, lambda: (tokens(9, 6, 7), tokens(7, 6, seed=9), randn(6, 1)),
        (
            posterior("enc.final_mlp.2", 2, 4), prior("lp.parameters.1", sigma=torch.exp),
            prior("lp.parameters.3", sigma=torch.exp), likelihood("lp.parameters.5", sigma=torch.exp),
        ), negative_elbo,
        truth="gentrl.py get_elbo: exp(0.5 log_stds) draws, log_stds itself is the entropy's; lp.py: exp(log_std) of a "
        "mixture a variable. Hard to decide: the posterior's σ, which is what draws; the property's mixture is of one "
        "density with the latents', and is the likelihood because the property is data",
    ),
    PublicCase(
        "VAE of events",
        Retold(
            "fitagdinov/Telescope_Array", "ffe1e1e8418ac775240a5454f75663da5dfb0967",
            "phd_work/src/train_VAE/model.py, phd_work/src/train_VAE/loss.py, phd_work/src/train_VAE/pipline.py, "
            "phd_work/src/train_VAE/config.yaml",
        ),
        EventVAE, events, (posterior("encoder.fc_logvar"),), event_loss,
        truth="model.py reparameterize: exp(0.5 log_var); loss.py: KL of the same. Hard to decide: the mean is "
        "decoded, and the KL's weight is 0 in its configuration; what is drawn and sees the data is still the "
        "posterior",
    ),
    PublicCase(
        "VAE (sotazum)",
        Retold("sotazum/anomaly_detection_AE_VAE", "e3d8d0cf1cb578d799e93449e15842d8acff2686", "model.py, train.py"),
        DigitVAE, lambda: (rand(6, 1, 4, 4),), (posterior("encoder_logvar"),), digit_loss,
        truth="model.py sampling_z: exp(0.5 logvar); KL summed",
    ),
    PublicCase(
        "VAESeq2Seq",
        Retold(
            "Eliyas0007/RNNbasedVideoPrediction", "52f760b87647759fc1fd16d778733ecf61ac0968",
            "Models/VAESeq2Seq.py, Models/AutoEncoder.py, train_vaelstm.py",
        ),
        LatentSeq2Seq, lambda: (rand(3, 4, 1, 8, 8), rand(3, 4, 1, 8, 8, seed=9)), (), latent_loss,
        truth="an autoencoder and two LSTMs, and squared errors of latents",
    ),
    PublicCase(
        "RSP",
        Retold("huiwon-jang/RSP", "5ea2b9159c21261d6824bb9ed9765495fcda4092", "models_rsp.py"),
        RSP, lambda: (rand(3, 3, 8, 8), rand(3, 3, 8, 8, seed=9)), (), lambda model, src, tgt: model(src, tgt),
        truth="models_rsp.py make_dist: one-hot categories, by default; its noise has a given scale",
    ),
    PublicCase(
        "VAE of chest X-rays",
        Retold("matthew-TYW/HW2_VAE", "de5e39c51940659d11199cf86492cc0117e6c23d", "VAE_new.py"),
        XrayVAE, lambda: (2 * rand(4, 1, 16, 16) - 1,), (posterior("fc_var"),), xray_loss,
        truth="VAE_new.py reparameterize: exp(0.5 log_var); KL summed",
    ),
    PublicCase(
        "SimpleVAE3D",
        Retold("portchester1989/ct_vae", "5ec9f88ebc07df4e9ec69af7bc9ff8596464084d", "src/model/vae_3d.py"),
        VolumeVAE, lambda: (rand(3, 8, 8, 4),), (posterior("var_net"),), volume_loss,
        truth="vae_3d.py reparameterize: log_var.mul(.5).exp_(); no training script stands there, a cross entropy and "
        "the KL, summed, are the usual loss",
    ),
    PublicCase(
        "model_da",
        Retold(
            "rushhan/VAE-for-Collaborative-Filtering-Pytorch", "9c58dd1bb2f2c78eaeee3b4c1a5b6ca234ee0d67",
            "git_main.ipynb",
        ),
        DenoisingRecommender, lambda: (bits(6, 16),), (), multinomial_loss,
        truth="an autoencoder and a multinomial loss; its penalty of the weights has no gradient, and is left out",
    ),
    PublicCase(
        "VAECF (Cornac)",
        Retold("PreferredAI/cornac", "4db147def0c79c6b2ba5210457808d6041f0d0b3", "cornac/models/vaecf/vaecf.py"),
        VAECF, lambda: (bits(6, 16),), (posterior("enc_logvar"),), vaecf_loss,
        truth="vaecf.py reparameterize: exp(0.5 logvar); loss: the KL of a std that is computed again",
    ),
    PublicCase(
        "QRes-VAE",
        Retold(
            "duanzhiihao/qres-vae", "146fc32cee38e411996bc8b81cc434f3ded6db18", "models/qresvae.py, models/library.py",
        ),
        QResVAE, images(size=16, batch=3),
        (
            prior("decoder.dec_blocks.0.prior.c4", 4, 8, soft_floored),
            prior("decoder.dec_blocks.2.prior.c4", 3, 6, soft_floored),
            prior("decoder.dec_blocks.4.prior.c4", 2, 4, soft_floored),
        ), lambda model, im: model(im)["loss"],
        truth="qresvae.py transform_prior: exp(softplus(v + 2.3) - 2.3) of a Normal, whose mass is taken; the "
        "posterior is uniform, of width 1",
    ),
    PublicCase(
        "HiFiCAutoencoder (NeuralCompression)",
        Retold(
            "facebookresearch/NeuralCompression", "3f122808255a2278eea049119367eb3abc434862",
            "neuralcompression/models/_hific_autoencoder.py, projects/illm/gan_compression_module.py",
        ),
        HiFiCAutoencoder, images(), (prior("hyper_synthesis_scale.2", sigma=bounded),), hific_loss,
        truth="_hific_autoencoder.py forward: the scales go into CompressAI's GaussianConditional, which bounds them "
        "by 0.11",
    ),
    PublicCase(
        "Voxel VAE",
        Retold("AIFanatic/PyTorch-Voxel-VAE", "88bac0c96e577b617faa62aa0dba05da664b0078", "model.py, train.py"),
        VoxelVAE, lambda: (bits(5, 1, 8, 8, 8),), (posterior("sigma.1"),), voxel_loss,
        truth="model.py reparameterize: exp(0.5 sigma), sigma from a batch norm; what its loss leaves out is the KL",
    ),
    PublicCase(
        "3D-VAE-GAN",
        Retold(
            "RaymondGuo2/Avatar-3D-VAE-GAN", "7bb1f266f1b5d1dcbdc7d13b7d704c4e07d9f71a",
            "code/model.py, code/train.py, code/utils.py",
        ),
        ShapeVAEGAN, lambda: (rand(4, 16, 16, 3), bits(4, 1, 8, 8, 8)), (posterior("encoder.fc2"),), shape_step,
        truth="utils.py reparameterise: exp(0.5 sigma); KL summed. The draw is detached before it is decoded",
    ),
    PublicCase(
        "WRN (OpenVAE)",
        Retold(
            "MrtnMndt/OpenVAE_ContinualLearning", "2cca59334c8993f96af15daf70d99ba89fea003f",
            "lib/Models/architectures.py, lib/Training/loss_functions.py, lib/Training/train.py, lib/cmdparser.py",
        ),
        OpenVAE, lambda: (rand(5, 1, 8, 8), tokens(4, 5)), (posterior("latent_std", sigma=as_it_is),), joint_loss,
        truth="architectures.py reparameterize: eps.mul(std) of the raw value; KL of std squared",
    ),
    PublicCase(
        "MFVI_NN",
        Retold(
            "guyrom27/VariationalContinualLearning", "a295170dfeeba5f4d7d1f8f8c8ba38b2636aa36a",
            "discriminative/utils/multihead_models.py, discriminative/run_permuted.py",
        ),
        MeanFieldNet, lambda: (rand(7, 8), tokens(3, 7)),
        (
            *(posterior(f"{name}.{i}") for name in ("W_v", "b_v") for i in range(2)),
            posterior("W_last_v.0"), posterior("b_last_v.0"),
        ), mean_field_loss,
        truth="multihead_models.py _prediction: exp(0.5 v); KL to the last task's, before the first one N(0, 1); its "
        "tensors are held by no module there",
    ),
    PublicCase(
        "VAE (choupingru)",
        Retold(
            "choupingru/VAE-GAN-DANN-DSN-ADDA", "240349c807718178c23ee3825253b23e81aff5ff", "net/VAE.py, main.py",
        ),
        DenseVAE, images(size=16), (posterior("latent_layer.logvar"),), dense_loss,
        truth="VAE.py LatentZ: logvar.mul(0.5).exp_(); KL averaged, weighed by 1e-5",
    ),
    PublicCase(
        "VDD",
        Retold(
            "Jo-wang/VDD", "84475e6cf9e37f88bf91537d7c30076fcbc4f451",
            "models/vaebase.py, models/component.py, model_trainer.py, utils/loss.py, main.py",
        ),
        VDD, domains,
        (
            StridedHead("encoder_d.mu_logvar_gen", 1, 6, "posterior", half, step=2),
            StridedHead("encoder_z.mu_logvar_gen", 1, 10, "posterior", half, step=2),
        ), vdd_step,
        truth="vaebase.py: view(-1, latent, 2).unbind(-1), every second channel; reparameterize: exp(0.5 logvar), KL "
        "of both to N(0, 1). Hard to decide: the domain's latent sees the domain's number only, which is data",
    ),
    PublicCase(
        "DANN",
        Retold(
            "choupingru/VAE-GAN-DANN-DSN-ADDA", "240349c807718178c23ee3825253b23e81aff5ff", "net/DANN.py, main.py",
        ),
        DANN, lambda: (rand(5, 3, 8, 8), tokens(4, 5), rand(5, 3, 8, 8, seed=9)), (), dann_loss,
        truth="two classifiers, and a reversed gradient",
    ),
)
# fmt: on
