"""Autoencoders of images and generic VAEs in public code, and image models without a Normal head.

Every truth was written from reading the code, before the model was scanned. Widths are small where the code allows it.
Two cases need `einops` (ViT, GaussianDiffusion): their models use it, so that no stand-in would do.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from torch.distributions import Bernoulli
from zoo import TrueHead

from public import NotHereError, PublicCase, Repository, without
from public.draws import half

Inputs = Callable[[], tuple[Any, ...]]


def half_softplus(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.softplus(v))


def posterior(path: str, start: int = 0, stop: int | None = None, sigma: Any = half) -> TrueHead:
    return TrueHead(path, start, stop, "posterior", sigma)


def prior(path: str, start: int = 0, stop: int | None = None, sigma: Any = half) -> TrueHead:
    return TrueHead(path, start, stop, "prior", sigma)


def likelihood(path: str, start: int = 0, stop: int | None = None, sigma: Any = half) -> TrueHead:
    return TrueHead(path, start, stop, "likelihood", sigma)


def uniform(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pixels(*shape: int) -> Inputs:
    """Values in [0, 1]."""
    return lambda: (uniform(*shape),)


def centred(*shape: int) -> Inputs:
    """Values in [-1, 1]."""
    return lambda: (uniform(*shape) * 2 - 1,)


def bits(*shape: int) -> Inputs:
    return lambda: ((uniform(*shape) > 0.5).float(),)


def module_with(name: str, **attributes: Any) -> ModuleType:
    """A stand-in whose attributes are given, for what a model's code calls while it is imported or built."""
    made = ModuleType(name)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


TORCHVISION = without(
    torchvision="datasets transforms utils",
    torchvision__models="vgg19_bn vgg16",
    torchvision__utils="make_grid save_image",
    torchvision__transforms="",
    torchvision__datasets="MNIST ImageFolder",
)


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotHereError(f"{package} is not installed; pip install {package}")


# AntixK/PyTorch-VAE

PYTORCH_VAE = Repository(
    "AntixK/PyTorch-VAE",
    "a6896b944c918dd7030e7d795a8c13e5c6345ec7",
    stand_ins=without(torchvision="", torchvision__models="vgg19_bn"),
)


def antixk(module: str, name: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (loaded,) = PYTORCH_VAE.load(f"models.{module}")
        return getattr(loaded, name)(*copy.deepcopy(args), **kwargs)  # it reverses its lists in place

    return build


def antixk_loss(model: Any, x: Tensor) -> Tensor:
    return model.loss_function(*model(x), M_N=0.01)["loss"]


WIDTHS = [4, 8, 8, 16, 512]  # the last is written in its code


# 1Konny

BETA_VAE = Repository(
    "1Konny/Beta-VAE",
    "977a1ece88e190dd8a556b4e2efb665f759d0772",
    stand_ins=TORCHVISION
    | without(visdom="Visdom")
    | {"torchvision.datasets": module_with("torchvision.datasets", ImageFolder=object)},
)
FACTOR_VAE = Repository("1Konny/FactorVAE", "8c97b1fc6150fa8f9241468b2c687b83335543d4", stand_ins=TORCHVISION)


def beta_vae() -> nn.Module:
    (model,) = BETA_VAE.load("model")
    return model.BetaVAE_B(z_dim=4, nc=1)


def beta_vae_loss(model: Any, x: Tensor) -> Tensor:
    (solver,) = BETA_VAE.load("solver")
    recon, mu, logvar = model(x)
    total, _, _ = solver.kl_divergence(mu, logvar)
    return solver.reconstruction_loss(x, recon, "bernoulli") + 10 * (total - 0.5).abs().sum()


def factor_vae() -> nn.Module:
    (model,) = FACTOR_VAE.load("model")
    return nn.ModuleDict({"vae": model.FactorVAE2(4), "d": model.Discriminator(4)})


def factor_vae_loss(model: Any, x: Tensor) -> Tensor:
    (ops,) = FACTOR_VAE.load("ops")
    recon, mu, logvar, z = model["vae"](x)
    d_z = model["d"](z)
    loss = ops.recon_loss(x, recon) + ops.kl_divergence(mu, logvar) + 6.4 * (d_z[:, 0] - d_z[:, 1]).mean()
    permuted = ops.permute_dims(model["vae"](x.flip(0), no_dec=True)).detach()
    labels = torch.zeros(len(x), dtype=torch.long)
    return loss + 0.5 * (F.cross_entropy(d_z, labels) + F.cross_entropy(model["d"](permuted), labels + 1))


# wohlert/semi-supervised-pytorch

SEMI = Repository("wohlert/semi-supervised-pytorch", "7cde4959468d271552febdcfed5e1cfae9857613", root="semi-supervised")


def semi(name: str, *args: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (models,) = SEMI.load("models")
        return getattr(models, name)(*args)

    return build


def semi_loss(model: Any, x: Tensor, *labels: Tensor) -> Tensor:
    recon = model(x, *labels)
    return F.binary_cross_entropy(recon, x, reduction="none").sum(-1).mean() + model.kl_divergence.mean()


def labelled() -> tuple[Tensor, ...]:
    return bits(5, 20)()[0], F.one_hot(torch.arange(5) % 3, 3).float()


# jmtomczak/vae_vampprior

VAMP_MODEL = ModuleType("Model")
VAMP = Repository(
    "jmtomczak/vae_vampprior",
    "bb6ff3e58036adbea448e82d7bc55593d605b52c",
    stand_ins=without(scipy="", scipy__misc="logsumexp") | {"Model": VAMP_MODEL},
)


def vamp(module: str, **args: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        # its modules import each other by the bare names of Python 2: `Model` is models/Model.py
        VAMP_MODEL.Model = VAMP.load("models.Model")[0].Model  # type: ignore[attr-defined]
        (loaded,) = VAMP.load(f"models.{module}")
        settings = {
            "input_size": [1, 4, 4], "z1_size": 3, "z2_size": 4, "cuda": False, "number_components": 5,
            "use_training_data_init": False, "pseudoinputs_mean": 0.5, "pseudoinputs_std": 0.2,
        }  # fmt: skip
        return loaded.VAE(SimpleNamespace(**settings, **args))

    return build


def vamp_loss(model: Any, x: Tensor) -> Tensor:
    return model.calculate_loss(x, average=True)[0]


def hardtanh(v: Tensor) -> Tensor:
    return half(v.clamp(-6, 2))


# riannevdberg/sylvester-flows

SYLVESTER = Repository("riannevdberg/sylvester-flows", "32dde9b7d696fee94f946a338182e542779eecfe")


def sylvester(name: str, kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (module,) = SYLVESTER.load("models.VAE")
        args = {"z_size": 4, "input_size": [1, 28, 28], "cuda": False, "num_flows": 2, "num_householder": 2}
        return getattr(module, name)(SimpleNamespace(input_type=kind, **args))

    return build


def sylvester_binary(model: Any, x: Tensor) -> Tensor:
    (loss,) = SYLVESTER.load("optimization.loss")
    x_mean, mu, var, ldj, z0, zk = model(x)
    return loss.binary_loss_function(x_mean, x, mu, var, z0, zk, ldj)[0]


def sylvester_multinomial(model: Any, x: Tensor) -> Tensor:
    (loss,) = SYLVESTER.load("optimization.loss")
    x_mean, mu, var, ldj, z0, zk = model(x)
    args = SimpleNamespace(input_size=[1, 28, 28])
    return loss.multinomial_loss_function(x_mean, x, mu, var, z0, zk, ldj, args)[0]


# YannDubs/disentangling-vae

# np.product, which the encoder calls, is gone from NumPy 2
NUMPY = module_with("numpy", **{**vars(np), "product": np.prod})
DISVAE = Repository(
    "YannDubs/disentangling-vae", "f0452191bab6d94eba0b4e6a065f74dcfd54ac52", stand_ins=TORCHVISION | {"numpy": NUMPY}
)


def disvae() -> nn.Module:
    (module,) = DISVAE.load("disvae.models.vae")
    return module.init_specific_model("Burgess", (1, 32, 32), 4)


def disvae_loss(model: Any, x: Tensor) -> Tensor:
    (losses,) = DISVAE.load("disvae.models.losses")
    criterion = losses.BtcvaeLoss(1000, rec_dist="bernoulli", steps_anneal=10)
    recon, latent, sample = model(x)
    return criterion(x, recon, latent, True, None, latent_sample=sample)


# addtt/ladder-vae-pytorch


class Upsampling(nn.Module):
    """What the ladder takes from `boilr` as `Interpolate`."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale)


LADDER = Repository(
    "addtt/ladder-vae-pytorch",
    "a27d45ce1c9b7b1cba49813f86c7fe99529179b5",
    stand_ins={
        "boilr": ModuleType("boilr"),
        "boilr.models": module_with("boilr.models", BaseGenerativeModel=nn.Module),
        "boilr.nn": module_with(
            "boilr.nn",
            crop_img_tensor=lambda x, size: x,
            pad_img_tensor=lambda x, size: x,
            Interpolate=Upsampling,
            free_bits_kl=lambda kl, free_bits: kl.mean(0).clamp(min=free_bits),
        ),
    },
)


def ladder() -> nn.Module:
    (module,) = LADDER.load("models.lvae")
    return module.LadderVAE(
        3, [4, 4], blocks_per_layer=1, downsample=[1, 1], merge_type="residual", n_filters=8, dropout=0.1,
        free_bits=0.1, learn_top_prior=True, img_shape=(16, 16), likelihood_form="gaussian",
        res_block_type="bacdbacd", gated=True,
    )  # fmt: skip


def ladder_loss(model: Any, x: Tensor) -> Tensor:
    output = model(x)
    return output["kl_loss"] - output["ll"].mean()


# vlievin/biva-pytorch

BIVA = Repository(
    "vlievin/biva-pytorch",
    "ba37acaba3869e33fb01fabd42297576a6a9dd48",
    stand_ins=TORCHVISION | without(booster="Diagnostic"),
)


def biva() -> nn.Module:
    (module,) = BIVA.load("biva.model")
    latents = [{"N": 3, "kernel": 3, "block": module.ConvNormal}, {"N": 4, "block": module.DenseNormal}]
    model = module.BIVA(tensor_shp=(-1, 1, 8, 8), stages=[[[8, 3, 1], [8, 3, 2]]] * 2, latents=latents)
    model(*bits(6, 1, 8, 8)())  # initializes its weights from data, as in example.py
    return model


def biva_loss(model: Any, x: Tensor) -> Tensor:
    (evaluation,) = BIVA.load("biva.evaluation")
    return evaluation.VariationalInference(Bernoulli).compute_elbo(x, model(x), freebits=0.5)[0].mean()


# JakobHavtorn/hvae-oodd

OODD = Repository(
    "JakobHavtorn/hvae-oodd",
    "8aff1e258963aee59256b82d67634304bb24f628",
    stand_ins=without(oodd__datasets="DataModule", seaborn="", yaml=""),
)


def oodd() -> nn.Module:
    (module,) = OODD.load("oodd.models.dvae")
    block = {"block": "ResBlockConv2d", "out_channels": 8, "kernel_size": 3, "weightnorm": True, "gated": False}
    latents = [
        {"block": "GaussianConv2d", "latent_features": 3, "weightnorm": True},
        {"block": "GaussianDense", "latent_features": 4, "weightnorm": True, "learn_prior": True},
    ]
    model = module.LVAE(
        input_shape=(1, 8, 8), likelihood_module="GaussianLikelihoodConv2d", config_stochastic=latents,
        config_deterministic=[[block | {"stride": 1}, block | {"stride": 2}]] * 2, activation="ReLU",
    )  # fmt: skip
    model(*pixels(6, 1, 8, 8)())  # initializes its weights from data
    return model


def oodd_loss(model: Any, x: Tensor) -> Tensor:
    (losses,) = OODD.load("oodd.losses")
    data, stages = model(x)
    kl = [stage.loss.kl_elementwise for stage in stages]
    return losses.ELBO()(data.likelihood, kl, free_nats=0.5, batch_reduction=None)[0].mean()


def softplus_log2(v: Tensor) -> Tensor:
    return F.softplus(v, beta=math.log(2)).clamp(min=1e-6)


# orybkin/sigma-vae-pytorch

SIGMA_VAE = Repository("orybkin/sigma-vae-pytorch", "4748a3ac1686316292607f40192c7ec2ded09893")


def sigma_vae(kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (module,) = SIGMA_VAE.load("model")
        with mock.patch("builtins.print"):
            model = module.ConvVAE("cpu", 3, SimpleNamespace(batch_size=4, model="gaussian_vae"))
        model.model = kind
        if kind == "sigma_vae":  # the constructor makes it of integers, which PyTorch no longer lets a parameter be
            model.log_sigma = nn.Parameter(torch.zeros(()))
        return model

    return build


def sigma_vae_loss(model: Any, x: Tensor) -> Tensor:
    reconstruction, kl = model.loss_function(*(lambda y, mu, logvar: (y, x, mu, logvar))(*model(x)))
    return reconstruction + kl


# stefanknegt/Probabilistic-Unet-Pytorch

PROBABILISTIC_UNET = Repository("stefanknegt/Probabilistic-Unet-Pytorch", "80152817d90d396a6285cfa24a42c6f255b02ba4")


def probabilistic_unet() -> nn.Module:
    (module,) = PROBABILISTIC_UNET.load("probabilistic_unet")
    return module.ProbabilisticUnet(num_filters=[4, 8, 8], latent_dim=3)


def probabilistic_unet_loss(model: Any, x: Tensor) -> Tensor:
    (utils,) = PROBABILISTIC_UNET.load("utils")
    mask = (x > 0.5).float()
    model.forward(x, mask, training=True)
    weights = sum(utils.l2_regularisation(part) for part in (model.posterior, model.prior, model.fcomb.layers))
    return 1e-5 * weights - model.elbo(mask)


# pytorch/examples


def one_image(*args: Any, **kwargs: Any) -> list[tuple[Tensor, int]]:
    """The data set of a script that loads one when it is imported."""
    return [(uniform(1, 28, 28), 0)]


MNIST_AT_IMPORT = TORCHVISION | {
    "torchvision": module_with(
        "torchvision",
        datasets=SimpleNamespace(MNIST=one_image),
        transforms=SimpleNamespace(ToTensor=one_image),
        utils=None,
    )
}
EXAMPLES = Repository(
    "pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8", root="vae", stand_ins=MNIST_AT_IMPORT
)


def example() -> ModuleType:
    # the script reads its arguments, says its device and loads its data when imported
    with mock.patch.object(sys, "argv", ["main.py", "--no-accel"]), mock.patch("builtins.print"):
        return EXAMPLES.load("main")[0]


def example_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return example().loss_function(recon, x, mu, logvar)


# CompVis/latent-diffusion

LATENT_DIFFUSION = Repository(
    "CompVis/latent-diffusion",
    "a506df5756472e2ebaf9078affdde2c4f1502cd4",
    stand_ins={"pytorch_lightning": module_with("pytorch_lightning", LightningModule=nn.Module)}
    | without(einops="rearrange repeat", taming="", taming__modules="", taming__modules__vqvae="")
    | without(taming__modules__vqvae__quantize="VectorQuantizer2"),
)


def autoencoder_kl() -> nn.Module:
    (module,) = LATENT_DIFFUSION.load("ldm.models.autoencoder")
    sizes = {
        "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0,
    }  # fmt: skip
    with mock.patch("builtins.print"):
        return module.AutoencoderKL(sizes, {"target": "torch.nn.Identity"}, 3)


def autoencoder_kl_loss(model: Any, x: Tensor) -> Tensor:
    reconstruction, law = model(x)
    return (x - reconstruction).abs().sum() / len(x) + 1e-6 * law.kl().sum() / len(x)


# iffsid/mmvae

MMVAE = Repository(
    "iffsid/mmvae",
    "54398d75c144e9b6c06ef5c33a0ee9a162638b7d",
    root="src",
    stand_ins=TORCHVISION
    | without(umap="UMAP", seaborn="", pandas="", nltk="", nltk__tokenize="sent_tokenize word_tokenize")
    | without(torchnet="", torchnet__dataset="TensorDataset ResampleDataset", gensim="", gensim__models="FastText")
    | without(skimage="", skimage__filters="threshold_yen threshold_local", cv2="", sklearn="")
    | without(sklearn__decomposition="PCA", sklearn__cross_decomposition="CCA", scipy="", scipy__linalg="eig"),
)


def mmvae() -> nn.Module:
    (module,) = MMVAE.load("models.vae_mnist")
    return module.MNIST(SimpleNamespace(latent_dim=4, num_hidden_layers=1, learn_prior=True))


def mmvae_loss(model: Any, x: Tensor) -> Tensor:
    (objectives,) = MMVAE.load("objectives")
    return -objectives.elbo(model, x)


# mhw32/multimodal-vae-public

MVAE = Repository(
    "mhw32/multimodal-vae-public", "2a358eb3593e9942e0846eb0095519acef462fa6", root="mnist", stand_ins=TORCHVISION
)


def mvae() -> nn.Module:
    (module,) = MVAE.load("model")
    return module.MVAE(4)


def mvae_inputs() -> tuple[Tensor, ...]:
    return uniform(4, 1, 28, 28), torch.arange(4)


def mvae_loss(model: Any, image: Tensor, text: Tensor) -> Tensor:
    (train,) = MVAE.load("train")
    loss = torch.zeros(())
    for x, y in ((image, text), (image, None), (None, text)):
        recon_x, recon_y, mu, logvar = model(x, y)
        loss = loss + train.elbo_loss(recon_x, x, recon_y, y, mu, logvar, lambda_text=10)
    return loss


# EugenHotaj/pytorch-generative

GENERATIVE = Repository(
    "EugenHotaj/pytorch-generative",
    "d1f0a5ce45195fed3e2787be86ad87c7c8229481",
    stand_ins=TORCHVISION | without(pytorch_generative__datasets=""),
)


def generative(module: str, name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (loaded,) = GENERATIVE.load(f"pytorch_generative.models.{module}")
        return getattr(loaded, name)(**kwargs)

    return build


def very_deep() -> nn.Module:
    (module,) = GENERATIVE.load("pytorch_generative.models.vae.vd_vae")
    return module.VeryDeepVAE(input_resolution=8, stack_configs=[module.StackConfig(1, 1)] * 2, latent_channels=3)


def generative_loss(model: Any, x: Tensor) -> Tensor:
    logits, kl = model(x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=(1, 2, 3)).mean() + kl.mean()


def autoregressive_loss(model: Any, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(x), x, reduction="none").sum(dim=(1, 2, 3)).mean()


# altosaar/variational-autoencoder

ALTOSAAR = Repository(
    "altosaar/variational-autoencoder",
    "c7b298ef64773c798b3f24444af780f45ec81043",
    stand_ins=without(nomen="", yaml="", h5py="", requests=""),
)


def altosaar(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (module,) = ALTOSAAR.load("train_variational_autoencoder_pytorch")
        variational = getattr(module, name)(latent_size=4, data_size=20, **kwargs)
        return nn.ModuleDict({"model": module.Model(4, 20), "variational": variational})

    return build


def altosaar_loss(model: Any, x: Tensor) -> Tensor:
    z, log_q = model["variational"](x, n_samples=1)
    return -(model["model"](z, x) - log_q).mean(1).sum()


# timbmg/VAE-CVAE-MNIST

CVAE = Repository("timbmg/VAE-CVAE-MNIST", "4f1b22367a5c5cff88bf97ce78219132aa9fd977", stand_ins=TORCHVISION)


def cvae() -> nn.Module:
    (module,) = CVAE.load("models")
    return module.VAE([784, 16], 3, [16, 784], conditional=True, num_labels=10)


def cvae_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    recon, mean, log_var, _ = model(x, y)
    bce = F.binary_cross_entropy(recon, x.flatten(1), reduction="sum")
    return (bce - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())) / len(x)


# baudm/MONet-pytorch

MONET = Repository("baudm/MONet-pytorch", "75239c6e74e4947b6728ffb615e8e81b24718a7e")


class Scene(nn.Module):
    """The two networks of their `MONetModel`, which is no module itself; its own `forward` runs on this one."""

    def __init__(self) -> None:
        super().__init__()
        (networks,) = MONET.load("models.networks")
        self.netAttn = networks.Attention(3, 1, ngf=4)
        self.netCVAE = networks.ComponentVAE(3, 16)
        self.opt = SimpleNamespace(num_slots=3, beta=0.5, gamma=0.5)

    def forward(self, x: Tensor) -> Tensor:
        (code,) = MONET.load("models.monet_model")
        self.x = x
        code.MONetModel.forward(self)
        masks = F.kl_div(self.m_tilde_logits.log_softmax(dim=1), self.m, reduction="batchmean")
        reconstruction = -torch.logsumexp(self.b, dim=1).sum() / len(x)
        return reconstruction + self.opt.beta * self.loss_E / len(x) + self.opt.gamma * masks


# iShohei220/torch-gqn

GQN = Repository("iShohei220/torch-gqn", "c0156c72f4e63ca6523ab8d9a6f6b3ce9e0e391d")


def gqn() -> nn.Module:
    (module,) = GQN.load("model")
    return module.GQN(representation="tower", L=2, shared_core=True)


def views() -> tuple[Any, ...]:
    return uniform(2, 1, 3, 64, 64), uniform(2, 1, 7), uniform(2, 7, seed=3), uniform(2, 3, 64, 64, seed=4), 0.7


def gqn_loss(model: Any, *inputs: Any) -> Tensor:
    return -model(*inputs).mean()


# vvvm23/vdvae

VDVAE = Repository("vvvm23/vdvae", "3c6fd48fe3f8128d695d8a5adf9b887ae4ec3be2")


def vdvae() -> nn.Module:
    (module,) = VDVAE.load("vae")
    return module.VAE(3, 8, 4, 3, nb_blocks=2, nb_res_blocks=1)


def vdvae_loss(model: Any, x: Tensor) -> Tensor:
    y, kl = model(x)
    rate = sum(k.sum(dim=(1, 2, 3)) for k in kl) / x[0].numel()
    return (rate + 10 * ((x - y) ** 2).mean(dim=(1, 2, 3))).mean()


# applied-ai-lab/genesis


class AttrDict(dict):  # type: ignore[type-arg]
    """What the code takes from `attrdict`."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


FLAGS = {f"DEFINE_{kind}": one_image for kind in ("integer", "boolean", "float", "string")}
GENESIS = Repository(
    "applied-ai-lab/genesis",
    "9abf202bbad6fa4a675117fdea0be163e4f16695",
    stand_ins={
        "attrdict": module_with("attrdict", AttrDict=AttrDict),
        "forge": module_with("forge", flags=SimpleNamespace(**FLAGS)),
    }
    | without(forge__experiment_tools="fprint", tensorflow="", simplejson=""),
)


def genesis() -> nn.Module:
    (module,) = GENESIS.load("models.genesis_config")
    return module.Genesis(
        SimpleNamespace(
            K_steps=3, img_size=32, two_stage=True, autoreg_prior=True, comp_prior=True, attention_latents=5,
            pixel_bound=True, debug=False, montecarlo_kl=True, enc_norm="bn", dec_norm="bn", comp_enc_channels=8,
            comp_ldim=4, comp_dec_channels=8, comp_dec_layers=2, pixel_std1=0.7, pixel_std2=0.7,
        )
    )  # fmt: skip


def genesis_loss(model: Any, x: Tensor) -> Tensor:
    _, losses, _, _, _ = model(x)
    return losses["err"].mean() + sum(kl.mean() for kl in (*losses["kl_m_k"], *losses["kl_l_k"]))


def genesis_posterior(v: Tensor) -> Tensor:
    return F.softplus(v + 0.5) + 1e-8


def genesis_prior(v: Tensor) -> Tensor:
    return torch.sigmoid(v + 4) + 1e-4


# xqding/Importance_Weighted_Autoencoders

IWAE = Repository("xqding/Importance_Weighted_Autoencoders", "56bc84c5b8d858d4c73a95a596f00fcd48504847", root="model")


def iwae() -> nn.Module:
    (module,) = IWAE.load("vae_models")
    return module.IWAE_2(5, 3, 20)


def iwae_inputs() -> tuple[Tensor, ...]:
    return (bits(4, 20)()[0].expand(3, 4, 20),)


def iwae_loss(model: Any, x: Tensor) -> Tensor:
    return model.train_loss(x)


# julianstastny/VAE-ResNet18-PyTorch, LukeDitria/CNN-VAE, ritheshkumar95/pytorch-vqvae

RESNET_VAE = Repository("julianstastny/VAE-ResNet18-PyTorch", "3e758ab7bb0b7f8ba4e53d808b75f627cf7d8e2f")
CNN_VAE = Repository("LukeDitria/CNN-VAE", "c2e6419905660e617f9bb1e11af07e5affb49a30")
RITHESH = Repository("ritheshkumar95/pytorch-vqvae", "8d123c0d043bebc8734d37785dd13dd20e7e5e0e")


def resnet_vae() -> nn.Module:
    (module,) = RESNET_VAE.load("model")
    return module.VAE(4)


def resnet_vae_loss(model: Any, x: Tensor) -> Tensor:
    return F.mse_loss(model(x)[0], x)


def cnn_vae() -> nn.Module:
    (module,) = CNN_VAE.load("RES_VAE")
    return module.VAE(3, ch=4, latent_channels=5)


def cnn_vae_loss(model: Any, x: Tensor) -> Tensor:
    (helpers,) = CNN_VAE.load("Helpers")
    recon, mu, log_var = model(x)
    return helpers.kl_loss(mu, log_var) + F.mse_loss(recon, x)


def rithesh() -> nn.Module:
    (module,) = RITHESH.load("modules")
    return module.VAE(1, 8, 4)


def rithesh_loss(model: Any, x: Tensor) -> Tensor:
    recon, kl = model(x)
    return F.mse_loss(recon, x, reduction="sum") / len(x) + kl


# nicola-decao/s-vae-pytorch

S_VAE = Repository("nicola-decao/s-vae-pytorch", "671c46c0772a2c92a602252311864c48c816bc44", stand_ins=MNIST_AT_IMPORT)


def s_vae(distribution: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with mock.patch("builtins.print"):  # the script trains when it is imported: here on one image
            (module,) = S_VAE.load("examples.mnist")
        return module.ModelVAE(h_dim=8, z_dim=4, distribution=distribution)

    return build


def s_vae_loss(model: Any, x: Tensor) -> Tensor:
    _, (q, p), _, logits = model(x)
    kl = torch.distributions.kl.kl_divergence(q, p)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1).mean()
    return reconstruction + (kl.sum(-1) if model.distribution == "normal" else kl).mean()


# taldatech/soft-intro-vae-pytorch

SOFT_INTRO = Repository(
    "taldatech/soft-intro-vae-pytorch", "b6dbf1615b8ffb8fb55f6d30fb13cbc5ec251f08", root="soft_intro_vae_2d"
)


def soft_intro() -> nn.Module:
    (module,) = SOFT_INTRO.load("train_soft_intro_vae_2d")
    return module.SoftIntroVAESimple(x_dim=2, zdim=3, n_layers=1, num_hidden=16)


def soft_intro_loss(model: Any, x: Tensor) -> Tensor:
    """The encoder's step: an ELBO of data, and exponentiated ELBOs of what the decoder makes."""
    (module,) = SOFT_INTRO.load("train_soft_intro_vae_2d")
    fake = model.sample(torch.randn(len(x), 3)).detach()
    mu, logvar, _, recon = model(x)
    loss = module.calc_kl(logvar, mu, reduce="mean") + module.calc_reconstruction_loss(x, recon, reduction="mean")
    for made in (fake, recon.detach()):
        mu, logvar, _, again = model(made)
        kl = module.calc_kl(logvar, mu, reduce="none")
        error = module.calc_reconstruction_loss(made, again, reduction="none")
        loss = loss + 0.25 * torch.exp(-(error + kl)).mean()
    return 0.5 * loss


# Schlumberger/joint-vae

JOINT_VAE = Repository("Schlumberger/joint-vae", "80fa464f46666eec08fdb197c23beab5098aec40", stand_ins=TORCHVISION)


def joint_vae() -> nn.Module:
    (module,) = JOINT_VAE.load("jointvae.models")
    return module.VAE((1, 32, 32), {"cont": 4, "disc": [3, 2]})


def joint_vae_loss(model: Any, x: Tensor) -> Tensor:
    (module,) = JOINT_VAE.load("jointvae.training")
    trainer = module.Trainer(model, None, cont_capacity=(0.0, 5.0, 100, 30.0), disc_capacity=(0.0, 5.0, 100, 30.0))
    recon, latent = model(x)
    return trainer._loss_function(x, recon, latent)


# a flow with learned priors, and models without any head

VQ_VAE_2 = Repository("rosinality/vq-vae-2-pytorch", "ef5f67c46f93624163776caec9e0d95063910eca", stand_ins=TORCHVISION)
GLOW = Repository("rosinality/glow-pytorch", "97081ff115a694cf04aeedbd58447f33d242c879", stand_ins=TORCHVISION)
CIFAR = Repository("kuangliu/pytorch-cifar", "49b7aa97b0c12fe0d4054e670403a16b6b834ddd")
VIT = Repository("lucidrains/vit-pytorch", "69d24fe9e3024c0d4b02761123b8583a24ebed1e", stand_ins=TORCHVISION)
DIFFUSION = Repository(
    "lucidrains/denoising-diffusion-pytorch",
    "faed4db28e724735323fa91c70aa9b28a6e1cbac",
    stand_ins=TORCHVISION | without(ema_pytorch="EMA", accelerate="Accelerator DistributedDataParallelKwargs"),
)


def vq_vae_2() -> nn.Module:
    (module,) = VQ_VAE_2.load("vqvae")
    return module.VQVAE(channel=8, n_res_block=1, n_res_channel=4, embed_dim=4, n_embed=16)


def vq_vae_2_loss(model: Any, x: Tensor) -> Tensor:
    out, latent = model(x)
    return F.mse_loss(out, x) + 0.25 * latent.mean()


def glow() -> nn.Module:
    (module,) = GLOW.load("model")
    model = module.Glow(3, 2, 2)
    model(*centred(4, 3, 8, 8)())  # initializes its activation norms from data, as train.py does
    return model


def glow_loss(model: Any, x: Tensor) -> Tensor:
    (train,) = GLOW.load("train")
    log_p, logdet, _ = model(x + torch.rand_like(x) / 32)
    return train.calc_loss(log_p, logdet.mean(), 8, 32)[0]


def senet() -> nn.Module:
    (module,) = CIFAR.load("models.senet")
    return module.SENet(module.PreActBlock, [1, 1, 1, 1])


def classes(model: Any, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), torch.arange(len(x)))


def vit() -> nn.Module:
    needs("einops")
    (module,) = VIT.load("vit_pytorch.vit")
    return module.ViT(image_size=16, patch_size=4, num_classes=10, dim=16, depth=2, heads=2, mlp_dim=16, dropout=0.1)


def diffusion() -> nn.Module:
    needs("einops")
    (module,) = DIFFUSION.load("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    return module.GaussianDiffusion(module.Unet(8, dim_mults=(1, 2)), image_size=16, timesteps=20)


def itself(model: Any, x: Tensor) -> Tensor:
    return model(x)


CASES = (
    PublicCase(
        "VanillaVAE", PYTORCH_VAE, antixk("vanilla_vae", "VanillaVAE", 3, 8), centred(4, 3, 64, 64),
        (posterior("fc_var"),), antixk_loss,
        truth="models/vanilla_vae.py: std = exp(0.5 * logvar) in reparameterize, fc_var emits logvar",
    ),
    PublicCase(
        "HVAE", PYTORCH_VAE, antixk("hvae", "HVAE", 3, 4, 5, WIDTHS), centred(4, 3, 64, 64),
        (posterior("fc_z2_var"), posterior("fc_z1_var"), prior("recons_z1_log_var")), antixk_loss,
        truth="models/hvae.py:166 reparameterize (z2, z1); :221 p(z1|z2) only in the loss, its exp(log_var) is "
        "added, not divided by (a slip of theirs); :239 sample() draws z1 from it with exp(0.5 log_var): a "
        "learned prior",
    ),
    PublicCase(
        "DIPVAE", PYTORCH_VAE, antixk("dip_vae", "DIPVAE", 3, 4, WIDTHS), centred(3, 3, 64, 64),
        (posterior("fc_var"),), antixk_loss,
        truth="models/dip_vae.py:116 std = exp(0.5 * logvar) in reparameterize; :151 its penalty takes exp(2 "
        "log_var), a slip",
    ),
    PublicCase(
        "LVAE", PYTORCH_VAE, antixk("lvae", "LVAE", 3, [4, 5, 6, 7, 8], [4, 4, 8, 8, 16]), centred(4, 3, 64, 64),
        (
            posterior("encoders.4.encoder_var"),
            *(posterior(f"encoders.{i}.encoder_var", sigma=None) for i in range(4)),
            *(prior(f"ladders.{i}.fc_var", sigma=None) for i in range(4)),
        ), antixk_loss,
        truth="models/lvae.py:212 the top is sampled alone; :173 merge_gauss weighs by precision what comes up "
        "(posterior) and down (prior: sample() :256 draws from it); hard: their KL :166 takes what comes up "
        "as p",
    ),
    PublicCase(
        "BetaTCVAE", PYTORCH_VAE, antixk("betatc_vae", "BetaTCVAE", 3, 4, [32, 32, 32, 32]), centred(4, 3, 64, 64),
        (posterior("fc_var"),), antixk_loss,
        truth="models/betatc_vae.py:123 reparameterize; :141 log density with exp(-logvar), also of all pairs of "
        "the batch",
    ),
    PublicCase(
        "GammaVAE", PYTORCH_VAE, antixk("gamma_vae", "GammaVAE", 3, 4, WIDTHS), centred(3, 3, 64, 64), (), antixk_loss,
        truth="models/gamma_vae.py:128 shape and rate of a Gamma; the noise inside its rejection step is no "
        "Normal's",
    ),
    PublicCase(
        "VQVAE", PYTORCH_VAE, antixk("vq_vae", "VQVAE", 3, 4, 16, [8, 8]), centred(3, 3, 16, 16), (),
        lambda model, x: model.loss_function(*model(x))["loss"],
        truth="models/vq_vae.py: a code book",
    ),
    PublicCase(
        "WAE_MMD", PYTORCH_VAE, antixk("wae_mmd", "WAE_MMD", 3, 4, WIDTHS), centred(4, 3, 64, 64), (), antixk_loss,
        truth="models/wae_mmd.py:93 the encoder is deterministic; :195 noise of N(0, 1) is only compared by a "
        "kernel",
    ),
    PublicCase(
        "BetaVAE_B", BETA_VAE, beta_vae, bits(4, 1, 64, 64), (posterior("encoder.13", 4, 8),), beta_vae_loss,
        truth="model.py:11 std = exp(logvar / 2); halves of encoder's last Linear (:134); solver.py:36 KL",
    ),
    PublicCase(
        "FactorVAE2", FACTOR_VAE, factor_vae, bits(4, 3, 64, 64), (posterior("vae.encode.10", 4, 8),), factor_vae_loss,
        truth="model.py:145 mul(0.5).exp_() of half of a 1x1 image of stats; ops.py:13 KL; the permuted pass is "
        "detached",
    ),
    PublicCase(
        "LadderVariationalAutoencoder", SEMI, semi("LadderVariationalAutoencoder", [20, [3, 4], [16, 12]]), bits(5, 20),
        (
            posterior("encoder.1.sample.log_var", sigma=half_softplus),
            posterior("encoder.0.sample.log_var", sigma=None),
            posterior("decoder.0.merge.log_var", sigma=None),
            prior("decoder.0.sample.log_var", sigma=half_softplus),
        ), semi_loss,
        truth="layers/stochastic.py:44 log_var = softplus(.), :22 std = exp(0.5 log_var), :65-73 merge of two "
        "precisions; models/vae.py:331 q is the merge, p the decoder's own (whose sample is what is decoded "
        "on, a slip of theirs)",
    ),
    PublicCase(
        "AuxiliaryDeepGenerativeModel", SEMI, semi("AuxiliaryDeepGenerativeModel", [20, 3, 4, 5, [16, 12]]), labelled,
        (
            posterior("aux_encoder.sample.log_var", sigma=half_softplus),
            posterior("encoder.sample.log_var", sigma=half_softplus),
            prior("aux_decoder.sample.log_var", sigma=half_softplus),
        ), semi_loss,
        truth="models/dgm.py:154-163 q(a|x), q(z|a,y,x) and p(a|z,y,x), in layers/stochastic.py:44 all exp(0.5 "
        "softplus(.))",
    ),
    PublicCase(
        "GumbelAutoencoder", SEMI, semi("GumbelAutoencoder", [20, 3, [16, 12]], 4), bits(5, 20), (), semi_loss,
        truth="models/vae.py:180: categorical latents, uniform noise",
    ),
    PublicCase(
        "HVAE_2level gray", VAMP, vamp("HVAE_2level", prior="standard", input_type="gray"), pixels(5, 16),
        (
            posterior("q_z2_logvar.linear", sigma=hardtanh),
            posterior("q_z1_logvar.linear", sigma=hardtanh),
            prior("p_z1_logvar.linear", sigma=hardtanh),
        ), vamp_loss,
        truth="models/HVAE_2level.py:36-59 Hardtanh(-6, 2) log variances; p_x_logvar is the scale of a logistic",
    ),
    PublicCase(
        "VAE vampprior", VAMP, vamp("VAE", prior="vampprior", input_type="binary"), bits(5, 16),
        (posterior("q_z_logvar.linear", sigma=hardtanh), prior("q_z_logvar.linear", sigma=hardtanh)), vamp_loss,
        truth="models/VAE.py:35; :204 the same layer gives the prior's components from pseudo-inputs, a mixture of "
        "Normals: written as a second head, as one layer with two roles",
    ),
    PublicCase(
        "VAE multinomial", SYLVESTER, sylvester("VAE", "multinomial"), pixels(3, 1, 28, 28),
        (posterior("q_z_var.0", sigma=lambda v: F.softplus(v).clamp(0.01, 7).sqrt()),), sylvester_multinomial,
        truth="models/VAE.py:80-84 variance = Hardtanh(softplus(.)), :139 std = sqrt(var)",
    ),
    PublicCase(
        "HouseholderSylvesterVAE", SYLVESTER, sylvester("HouseholderSylvesterVAE", "binary"), bits(3, 1, 28, 28),
        (posterior("q_z_var.0", sigma=lambda v: F.softplus(v).sqrt()),), sylvester_binary,
        truth="models/VAE.py:62-65, :139; the flow's triangles are no scales; loss.py:35 takes var.log()",
    ),
    PublicCase(
        "Burgess btcvae", DISVAE, disvae, bits(4, 1, 32, 32),
        (StridedHead("encoder.mu_logvar_gen", 1, 8, "posterior", half, step=2),), disvae_loss,
        truth="disvae/models/encoders.py:87 view(-1, latent, 2).unbind(-1): every second channel; vae.py:66 exp(0.5 "
        "logvar)",
    ),
    PublicCase(
        "LadderVAE gaussian", LADDER, ladder, pixels(4, 3, 16, 16),
        (
            *(posterior(f"top_down_layers.{i}.stochastic.conv_in_q", 4, 8) for i in range(2)),
            prior("top_down_layers.0.stochastic.conv_in_p", 4, 8),
            prior("top_down_layers.1.top_prior_params", 4, 8),
            likelihood("likelihood.parameter_net", 3, 6),
        ), ladder_loss,
        truth="lib/stochastic.py:46-52 Normal(mu, exp(lv / 2)), :222 again in the KL; models/lvae_layers.py:56 the "
        "top prior is a parameter; lib/likelihoods.py:81-113 GaussianLikelihood",
    ),
    PublicCase(
        "BIVA", BIVA, biva, bits(6, 1, 8, 8),
        (
            posterior("stages.0.bu_stochastic.qx2z.conv", 3, 6, half_softplus),
            posterior("stages.0.td_stochastic.qx2z.conv", 3, 6, half_softplus),
            prior("stages.0.bu_stochastic.px2z.conv", 3, 6, half_softplus),
            prior("stages.0.td_stochastic.px2z.conv", 3, 6, half_softplus),
            posterior("stages.1.stochastic.qx2z.linear", 4, 8, half_softplus),
        ), biva_loss,
        truth="biva/model/stochastic.py:110-122 and :204-220 logvar = Softplus(half of the layer), std = exp(0.5 "
        "logvar); the top prior is a buffer",
    ),
    PublicCase(
        "LVAE oodd", OODD, oodd, pixels(6, 1, 8, 8),
        (
            posterior("stages.0.stochastic.in_transform_q.conv", 3, 6, softplus_log2),
            prior("stages.0.stochastic.in_transform_p.conv", 3, 6, softplus_log2),
            posterior("stages.1.stochastic.in_transform_q.linear", 4, 8, softplus_log2),
            prior("stages.1.stochastic.prior_logits", 4, 8, softplus_log2),
            likelihood("likelihood.parameter_net.conv", 1, 2, lambda v: F.softplus(v, beta=math.log(2))),
        ), oodd_loss,
        truth="oodd/layers/stochastic.py:200 Softplus(beta=ln 2), :267 clamped at 1e-6; :217 the top prior is a "
        "parameter; likelihoods.py:73-81",
    ),
    PublicCase(
        "sigma_vae", SIGMA_VAE, sigma_vae("sigma_vae"), pixels(3, 3, 28, 28),
        (posterior("fc12"), likelihood("log_sigma", sigma=lambda v: torch.exp(F.softplus(v + 6) - 6))), sigma_vae_loss,
        truth="model.py:91 exp(0.5 logvar); :125 the scalar log_sigma is softly clipped at -6, :149 exp(log_sigma)",
    ),
    PublicCase(
        "optimal_sigma_vae", SIGMA_VAE, sigma_vae("optimal_sigma_vae"), pixels(3, 3, 28, 28), (posterior("fc12"),),
        sigma_vae_loss,
        truth="model.py:118 the likelihood's sigma is the RMS error of the batch: computed, emitted by nothing",
    ),
    PublicCase(
        "ProbabilisticUnet", PROBABILISTIC_UNET, probabilistic_unet, pixels(3, 1, 16, 16),
        (posterior("posterior.conv_layer", 3, 6, torch.exp), prior("prior.conv_layer", 3, 6, torch.exp)),
        probabilistic_unet_loss,
        truth="probabilistic_unet.py:103-109 Normal(mu, exp(log_sigma)), halves of conv_layer after two squeezes",
    ),
    PublicCase(
        "VAE example", EXAMPLES, lambda: example().VAE(), pixels(4, 1, 28, 28), (posterior("fc22"),), example_loss,
        truth="vae/main.py:61 std = exp(0.5*logvar) in reparameterize, fc22 emits logvar",
    ),
    PublicCase(
        "AutoencoderKL", LATENT_DIFFUSION, autoencoder_kl, centred(3, 3, 16, 16),
        (posterior("quant_conv", 3, 6, lambda v: half(v.clamp(-30, 20))),), autoencoder_kl_loss,
        truth="ldm/modules/distributions/distributions.py:28-30 exp(0.5 clamp(logvar, -30, 20)) of quant_conv's "
        "half",
    ),
    PublicCase(
        "MMVAE MNIST", MMVAE, mmvae, pixels(4, 1, 28, 28), (), mmvae_loss,
        truth="models/vae_mnist.py:42 and :69-71: posterior, prior and likelihood are Laplace, with a softmax for a "
        "scale: no Normal",
    ),
    PublicCase(
        "MVAE", MVAE, mvae, mvae_inputs,
        (posterior("image_encoder.fc32", sigma=None), posterior("text_encoder.fc32", sigma=None)), mvae_loss,
        truth="mnist/model.py:157-162 product of experts: precisions 1 / (exp(logvar) + 2e-8) are added; :31 std = "
        "exp(0.5 logvar)",
    ),
    PublicCase(
        "VAE pytorch-generative", GENERATIVE,
        generative("vae.vae", "VAE", latent_channels=3, hidden_channels=8, residual_channels=4), bits(3, 1, 16, 16),
        (posterior("_encoder.0._net.5", 3, 6, torch.exp),), generative_loss,
        truth="models/vae/vaes.py:33 exp(log_sig), in TorchScript; vae.py:91 split of the encoder's last "
        "convolution",
    ),
    PublicCase(
        "VeryDeepVAE pytorch-generative", GENERATIVE, very_deep, bits(3, 1, 8, 8),
        (
            *(posterior(f"_decoder.{i}._topdowns.0._posterior._net.7", 3, 6, torch.exp) for i in range(2)),
            *(prior(f"_decoder.{i}._topdowns.0._prior._net.7", 3, 6, torch.exp) for i in range(2)),
        ), generative_loss,
        truth="models/vae/vd_vae.py:167-186 log_std of posterior and prior, three parts of the prior's net; "
        "vaes.py:10-33",
    ),
    PublicCase(
        "GatedPixelCNN", GENERATIVE,
        generative("autoregressive.gated_pixel_cnn", "GatedPixelCNN", n_gated=1, gated_channels=8, head_channels=4),
        bits(3, 1, 8, 8), (), autoregressive_loss,
        truth="models/autoregressive/gated_pixel_cnn.py: gates of tanh and sigmoid, Bernoulli logits",
    ),
    PublicCase(
        "VariationalMeanField", ALTOSAAR, altosaar("VariationalMeanField"), bits(5, 20),
        (posterior("variational.inference_network.net.4", 4, 8, F.softplus),), altosaar_loss,
        truth="train_variational_autoencoder_pytorch.py:73-74 scale = softplus of the second half; :133 log of its "
        "square",
    ),
    PublicCase(
        "VariationalFlow", ALTOSAAR, altosaar("VariationalFlow", flow_depth=2), bits(5, 20),
        (posterior("variational.inference_network.net.4", 4, 8, F.softplus),), altosaar_loss,
        truth="train_variational_autoencoder_pytorch.py:102-103 second of three parts; the inverse flow's gates are "
        "no scales",
    ),
    PublicCase(
        "CVAE-MNIST", CVAE, cvae, lambda: (uniform(4, 1, 28, 28), torch.tensor([3, 1, 4, 1])),
        (posterior("encoder.linear_log_var"),), cvae_loss,
        truth="models.py:41 std = exp(0.5 * log_var), linear_log_var emits it",
    ),
    PublicCase(
        "MONet", MONET, Scene, centred(2, 3, 64, 64), (posterior("netCVAE.encoder.11", 16, 32),), None,
        truth="models/networks.py:663 exp(0.5 logvar), :692 half of the encoder; the pixels' variances are "
        "constants (:658)",
    ),
    PublicCase(
        "GQN", GQN, gqn, views, (posterior("eta_e", 3, 6), prior("eta_pi", 3, 6)), gqn_loss,
        truth="model.py:63-75 exp(0.5 logvar) of the halves of eta_pi and eta_e at every layer; the pixels' sigma "
        "is given",
    ),
    PublicCase(
        "VAE vvvm23", VDVAE, vdvae, centred(3, 3, 8, 8),
        (
            *(posterior(f"decoder.dec_blocks.{i}.td_blocks.0.cat_conv.conv.3", 3, 6, torch.exp) for i in range(2)),
            *(prior(f"decoder.dec_blocks.{i}.td_blocks.0.prior.conv.3", 3, 6, torch.exp) for i in range(2)),
        ), vdvae_loss,
        truth="vae.py:145-147 halves of cat_conv and slices of prior; :42-46 exp(logsigma), in TorchScript",
    ),
    PublicCase(
        "Genesis", GENESIS, genesis, pixels(3, 3, 32, 32),
        (
            posterior("att_process.core.q_z_var.0", sigma=genesis_posterior),
            posterior("att_process.linear", 5, 10, genesis_posterior),
            posterior("comp_vae.encoder_module.module.11", 4, 8, genesis_posterior),
            prior("prior_linear", 5, 10, genesis_prior),
            prior("prior_mlp.4", 4, 8, genesis_prior),
        ), genesis_loss,
        truth="modules/blocks.py:22-34; attention.py:89-101 (variances, then sqrt), component_vae.py:86, "
        "genesis_config.py:238 and :310; the pixels' std is a buffer",
    ),
    PublicCase(
        "IWAE_2", IWAE, iwae, iwae_inputs,
        (
            posterior("encoder_h1.fc_logsigma", sigma=torch.exp),
            posterior("encoder_h2.fc_logsigma", sigma=torch.exp),
            prior("decoder_h1.fc_logsigma", sigma=torch.exp),
        ), iwae_loss,
        truth="model/vae_models.py:50 sigma = exp(logsigma); :164-170 log q of the noise itself, log p(h1|h2) with "
        "its sigma",
    ),
    PublicCase(
        "ResNet18 VAE", RESNET_VAE, resnet_vae, pixels(3, 3, 64, 64), (posterior("encoder.linear", 4, 8),),
        resnet_vae_loss,
        truth="model.py:159 std = exp(logvar / 2); the repository has no training, its forward returns no logvar: "
        "no KL",
    ),
    PublicCase(
        "RES_VAE", CNN_VAE, cnn_vae, centred(3, 3, 64, 64), (posterior("encoder.conv_log_var"),), cnn_vae_loss,
        truth="RES_VAE.py:79 std = exp(0.5*log_var), conv_log_var emits it",
    ),
    PublicCase(
        "VAE pytorch-vqvae", RITHESH, rithesh, centred(4, 1, 28, 28), (posterior("encoder.10", 4, 8),), rithesh_loss,
        truth="modules.py:40 batch norm is the last to emit; :62 Normal(mu, exp(0.5 logvar))",
    ),
    PublicCase(
        "ModelVAE normal", S_VAE, s_vae("normal"), bits(5, 784), (posterior("fc_var", sigma=F.softplus),), s_vae_loss,
        truth="examples/mnist.py:63 z_var = softplus(fc_var(x)) is the scale of a Normal",
    ),
    PublicCase(
        "ModelVAE vmf", S_VAE, s_vae("vmf"), bits(5, 784), (), s_vae_loss,
        truth="examples/mnist.py:69 softplus(fc_var(x)) + 1 is the concentration of a von Mises-Fisher: no Normal",
    ),
    PublicCase(
        "SoftIntroVAESimple", SOFT_INTRO, soft_intro, centred(6, 2), (posterior("encoder.main.output", 3, 6),),
        soft_intro_loss,
        truth="train_soft_intro_vae_2d.py:194 exp(0.5 logvar), :420 halves; encoder.main.output; KLs of data and of "
        "fakes",
    ),
    PublicCase(
        "JointVAE", JOINT_VAE, joint_vae, bits(4, 1, 32, 32), (posterior("fc_log_var"),), joint_vae_loss,
        truth="jointvae/models.py:198 std = exp(0.5 * logvar) in sample_normal; the rest of the code is categorical",
    ),
    PublicCase(
        "Glow", GLOW, glow, centred(4, 3, 8, 8),
        (prior("blocks.0.prior", 6, 12, torch.exp), prior("blocks.1.prior", 24, 48, torch.exp)), glow_loss,
        truth="model.py:245 log density of each split's Normal with exp(log_sd), a learned prior; emitted by "
        "ZeroConv2d, which multiplies its convolution by a parameter (:151); sigmoids of the couplings are a "
        "flow's",
    ),
    PublicCase(
        "VQVAE-2", VQ_VAE_2, vq_vae_2, centred(2, 3, 32, 32), (), vq_vae_2_loss, truth="vqvae.py: two code books",
    ),
    PublicCase("SENet", CIFAR, senet, centred(3, 3, 32, 32), (), classes, truth="models/senet.py: sigmoid gates"),
    PublicCase("ViT", VIT, vit, centred(3, 3, 16, 16), (), classes, truth="vit_pytorch/vit.py: attention, dropout"),
    PublicCase(
        "GaussianDiffusion", DIFFUSION, diffusion, pixels(3, 3, 16, 16), (), itself,
        truth="denoising_diffusion_pytorch.py: noise of a fixed schedule",
    ),
)  # fmt: skip
