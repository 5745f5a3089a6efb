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
("single cell VAE pytorch gene expression latent"): `greenelab/deep-review` and others without a model passed,
`scverse/scvi-tools` passed (taken before), `ZJUFanLab/scCube` taken, and `theislab/chemCPA`, which the next field's
query names. Molecules ("SMILES molecule variational autoencoder GRU decoder pytorch"): `PingchuanMa/SGA` passed (a
prompt), `MauricioCafiero/MolCharRNN` and `khhandrea/chemical-autoencoder` passed (TensorFlow),
`MachineLearningLifeScience/corel` passed (the model is gone from it); of issues ("SMILES VAE pytorch molecule
generation KL annealing"): `molecularsets/moses` passed (taken before), Keras and Theano passed,
`DaoyuanLi2816/Molecule-Generator` and `insilicomedicine/GENTRL` taken, `Ishan-Kumar2/Molecular_VAE_Pytorch` passed (its
decoder calls layers that it has not). Anomalies ("variational autoencoder anomaly detection pytorch model loss"):
`vinaihanu/torch-to` passed (taken before), `fitagdinov/Telescope_Array` and `sotazum/anomaly_detection_AE_VAE` taken.
Videos ("variational video prediction frames VAE pytorch"): `frankkn/NYCU_DLP` passed (taken before),
`Eliyas0007/RNNbasedVideoPrediction` became a control (its VAE is commented out); of issues ("stochastic video
prediction pytorch KL loss prior posterior"): `huiwon-jang/RSP` became a control (its latents are categorical); no
other that is a model of videos. Medical images ("VAE medical images MRI CT chest x-ray pytorch"):
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
neural network permuted MNIST coreset pytorch"): four passed (taken before), `dtuzi123/LifelongVAEGAN` passed
(TensorFlow), of issues `MrtnMndt/OpenVAE_ContinualLearning`, and of the second query, where
`JamesCraster/UncertaintyInDL` was taken before, `guyrom27/VariationalContinualLearning` taken. Domain adaptation
("domain adaptation variational autoencoder disentangled domain class latent pytorch"):
`choupingru/VAE-GAN-DANN-DSN-ADDA` (with its DANN as a control) and `Jo-wang/VDD` taken.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import images, kl_to_unit, likelihood, posterior, prior

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

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.rand_like(mu)
        std = torch.exp(0.5 * logvar)
        return eps * std + mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = x
        for m in self._encoder:
            out = m(out)
        out = out.reshape(out.shape[0], -1)
        mu, logvar = self._mu(out), self._logvar(out)
        out = self._decoder_pre(self.reparameterize(mu, logvar)).reshape(len(x), -1, 4, 4)
        for m in self._decoder:
            out = m(out)
        return out, mu, logvar


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
)
# fmt: on
