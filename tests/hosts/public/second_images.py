"""A second look: image, 3-D, molecule, time-series and tabular models of public code, first scanned when no rule had
been tuned on them.

Every truth was written from reading the code, before any of these models was scanned. Widths are small where the code
allows it; two models ask for CUDA by name (DIVA, VAE-GAN), which is made to do nothing while they are built or called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import TrueHead

from public import PublicCase, Repository, without
from public.images import TORCHVISION, module_with, pixels, posterior, prior, uniform


def floored_softplus(v: Tensor) -> Tensor:
    return F.softplus(v).clamp(min=1e-3)


def shifted_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-7


def root_softplus(v: Tensor, floor: float = 1e-10) -> Tensor:
    return torch.sqrt(F.softplus(v) + floor)


def no_cuda(owner: Any) -> Any:
    """`owner.cuda()` returns its object as it is."""
    return mock.patch.object(owner, "cuda", lambda self, *args, **kwargs: self)


# tigvarts/vaeac

VAEAC = Repository("tigvarts/vaeac", "80110ba55ed6b6362ddeea988980c007bb4f23f9", stand_ins=TORCHVISION)
COLUMNS = [1, 1, 3]  # two real columns and one of three classes


def vaeac() -> nn.Module:
    core, networks = VAEAC.load("VAEAC", "imputation_networks")
    parts = networks.get_imputation_networks(COLUMNS)
    names = ("proposal_network", "prior_network", "generative_network")
    model = core.VAEAC(columns_log_prob, *(parts[name] for name in names))
    model.make_observed = lambda batch, mask: batch * (1 - mask)  # upstream's index by bytes is gone from torch
    return model


def columns_log_prob(x: Tensor, params: Tensor, mask: Tensor) -> Tensor:
    """As upstream's GaussianCategoricalLoss, which subtracts from booleans."""
    (utils,) = VAEAC.load("prob_utils")
    real = [utils.normal_parse_params(params[:, 2 * i : 2 * i + 2], 1e-4).log_prob(x[:, i : i + 1]) for i in range(2)]
    classes = utils.categorical_parse_params_column(params[:, 4:], 1e-4).log_prob(x[:, 2])
    return (torch.cat([*real, classes[:, None]], 1) * mask).sum(-1)


def table_with_gaps() -> tuple[Tensor, ...]:
    classes = (torch.arange(6) % 3).float()[:, None]
    mask = (uniform(6, 3, seed=5) < 0.4).float()
    return torch.cat([uniform(6, 2), classes], 1), mask


def vaeac_loss(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    return -3 * model.batch_vlb(x, mask).mean()


# jariasf/GMVAE

GMVAE = Repository("jariasf/GMVAE", "c39bdfac4163da551bd3bf5f37666a8a4aef2cd6", root="pytorch")


def gmvae() -> nn.Module:
    (networks,) = GMVAE.load("networks.Networks")
    return networks.GMVAENet(20, 4, 3)


def gmvae_loss(model: Any, x: Tensor) -> Tensor:
    losses = GMVAE.load("losses.LossFunctions")[0].LossFunctions()
    out = model(x)
    gauss = losses.gaussian_loss(out["gaussian"], out["mean"], out["var"], out["y_mean"], out["y_var"])
    classes = -losses.entropy(out["logits"], out["prob_cat"]) + math.log(3)
    return losses.reconstruction_loss(x, out["x_rec"], "bce") + gauss + classes


# 1Konny/VIB-pytorch

VIB = Repository("1Konny/VIB-pytorch", "dad74f78439dad2eabfe3de506b62c35ed0a35de")


def vib() -> nn.Module:
    (model,) = VIB.load("model")
    return model.ToyNet(K=4)


def vib_loss(model: Any, x: Tensor) -> Tensor:
    (mu, std), logit = model(x)
    rate = kl_divergence_to_unit(mu, std).sum(1).mean()
    return (F.cross_entropy(logit, torch.arange(len(x)) % 10) + 1e-3 * rate) / math.log(2)


def kl_divergence_to_unit(mu: Tensor, std: Tensor) -> Tensor:
    return 0.5 * (mu**2 + std**2 - 1) - std.log()


# luost26/diffusion-point-cloud

POINTS = Repository("luost26/diffusion-point-cloud", "b037c5fb5c27ad016b1ebbe648275b0cffc6cf73")


def flow_vae() -> nn.Module:
    (module,) = POINTS.load("models.vae_flow")
    return module.FlowVAE(
        SimpleNamespace(
            latent_dim=4, latent_flow_depth=2, latent_flow_hidden_dim=8, residual=True, num_steps=10, beta_1=1e-4,
            beta_T=0.02, sched_mode="linear",
        )
    )  # fmt: skip


def flow_vae_loss(model: Any, x: Tensor) -> Tensor:
    return model.get_loss(x, kl_weight=1e-3)


# autonomousvision/occupancy_networks

ONET = Repository(
    "autonomousvision/occupancy_networks",
    "406f79468fb8b57b3e76816aaa73b1915c53ad22",
    stand_ins=without(
        im2mesh__onet__config="", im2mesh__onet__generation="", im2mesh__onet__training="", im2mesh__encoder=""
    ),
)


def onet(z_dim: int) -> nn.Module:
    (models,) = ONET.load("im2mesh.onet.models")
    decoder = models.decoder_dict["simple"](z_dim=z_dim, c_dim=0, hidden_size=16)
    encoder = models.encoder_latent_dict["simple"](z_dim=z_dim, c_dim=0) if z_dim else None
    start = Normal(torch.zeros(z_dim), torch.ones(z_dim))
    return models.OccupancyNetwork(decoder, encoder_latent=encoder, p0_z=start)


def occupied() -> tuple[Tensor, ...]:
    points = uniform(4, 10, 3) - 0.5
    return points, (points.norm(dim=-1) < 0.5).float()


def onet_loss(model: Any, points: Tensor, inside: Tensor) -> Tensor:
    elbo, _, _ = model.compute_elbo(points, inside, torch.empty(len(points), 0))
    return -elbo.mean()


# lyndonzheng/Pluralistic-Inpainting

PLURAL = Repository(
    "lyndonzheng/Pluralistic-Inpainting",
    "034a7588957adff1edb027af44f48a35d1c949d3",
    stand_ins=TORCHVISION | without(util="util task", util__util="", dominate="", visdom=""),
)


def plural() -> nn.Module:
    (network,) = PLURAL.load("model.network")
    sizes = {"ngf": 4, "img_f": 16, "layers": 5, "activation": "LeakyReLU", "z_nc": 4}
    encoder = network.define_e(norm="none", L=2, **sizes)
    return nn.ModuleDict({"e": encoder, "g": network.define_g(norm="instance", L=0, output_scale=1, **sizes)})


def plural_loss(model: Any, x: Tensor) -> Tensor:
    hole = torch.zeros_like(x)
    hole[..., 16:48, 16:48] = 1
    ((p_mu, p_std, q_mu, q_std),), features = model["e"]((1 - hole) * x, hole * x)
    p, q, fixed = Normal(p_mu, p_std), Normal(q_mu, q_std), Normal(p_mu.detach(), p_std.detach())
    kl = kl_divergence(Normal(torch.zeros_like(p_mu), torch.full_like(p_mu, 0.6)), p) + kl_divergence(fixed, q)
    valid, early = (features[i].chunk(2)[0].repeat(2, 1, 1, 1) for i in (-1, 2))
    mask = F.interpolate(1 - hole[:, :1], size=early.shape[2:]).repeat(2, 1, 1, 1)
    images, _ = model["g"](torch.cat([p.rsample(), q.rsample()]), valid, early, mask)
    return kl.mean() + 20 * (images[-1] - x.repeat(2, 1, 1, 1)).abs().mean()


# junyanz/BicycleGAN

BICYCLE = Repository("junyanz/BicycleGAN", "40b9d52c27b9831f56c1c7c7a6ddde8bc9149067")


def bicycle() -> nn.Module:
    (networks,) = BICYCLE.load("models.networks")
    encoder = networks.define_E(3, 4, 4, "resnet_128", norm="instance", vaeLike=True)
    return nn.ModuleDict({"e": encoder, "g": networks.define_G(3, 3, 4, 4, "unet_128", norm="instance", nl="relu")})


def bicycle_loss(model: Any, a: Tensor, b: Tensor) -> Tensor:
    (module,) = BICYCLE.load("models.bicycle_gan_model")
    gan = SimpleNamespace(netE=model["e"], get_z_random=torch.randn)
    z, mu, logvar = module.BiCycleGANModel.encode(gan, b)
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()
    drawn = torch.randn_like(z)
    again, _ = model["e"](model["g"](a, drawn))
    return 10 * F.l1_loss(model["g"](a, z), b) + 0.01 * kl + 0.5 * F.l1_loss(again, drawn)


# gigantenbein/UNet-Zoo

ZOO = Repository(
    "gigantenbein/UNet-Zoo",
    "d157c22ef8041ed743aa7bbcf377f0f8ad85e755",
    stand_ins=TORCHVISION
    | without(
        revtorch="", medpy="", medpy__metric="jc", nibabel="", matplotlib="", matplotlib__pyplot="", cv2="INTER_LINEAR"
    ),
)


def phiseg() -> nn.Module:
    (module,) = ZOO.load("models.phiseg")
    return module.PHISeg(1, 2, [4, 4, 4, 8, 8, 8, 8], image_size=(1, 64, 64))


def scan_and_mask() -> tuple[Tensor, ...]:
    x = uniform(3, 1, 64, 64)
    return x, (x > 0.5).float()


def phiseg_loss(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    model(x, mask)
    return model.loss(mask)


# pclucas14/iaf-vae

IAF = Repository(
    "pclucas14/iaf-vae",
    "f711a017f2729bfbb9a4ad28b9c8c46e094edba4",
    stand_ins=TORCHVISION | without(tensorboardX="SummaryWriter"),
)


def iaf() -> nn.Module:
    (main,) = IAF.load("main")
    return main.VAE(SimpleNamespace(h_size=6, z_size=4, depth=2, n_blocks=1, iaf=1, free_bits=0.1))


def iaf_loss(model: Any, x: Tensor) -> Tensor:
    (utils,) = IAF.load("utils")
    image, _, kl = model(x - 0.5)
    return (kl - utils.logistic_ll(image, model.dec_log_stdv, sample=x - 0.5)).sum() / len(x)


# steveli/partial-encoder-decoder

PVAE = Repository(
    "steveli/partial-encoder-decoder",
    "402abdb97b1cdfcca2a30b05507cd97be560ee75",
    root="image",
    stand_ins=TORCHVISION | without(masked_mnist="IndepMaskedMNIST BlockMaskedMNIST", visualize="Visualizer"),
)


def pvae() -> nn.Module:
    main, encoder, decoder = PVAE.load("mnist_pvae", "mnist_encoder", "mnist_decoder")
    return main.PVAE(encoder.ConvEncoder(4, 2, logprob=True), decoder.ConvDecoder(4))


def digits_with_gaps() -> tuple[Tensor, ...]:
    return uniform(4, 1, 28, 28), (uniform(4, 1, 28, 28, seed=5) < 0.5).float()


def first(model: Any, *inputs: Any) -> Tensor:
    return model(*inputs)[0]


# tbepler/spatial-VAE

SPATIAL = Repository(
    "tbepler/spatial-VAE", "e631015773a54503904429fb365fc1595546962e", stand_ins=TORCHVISION | without(pandas="")
)


def spatial() -> nn.Module:
    (models,) = SPATIAL.load("spatial_vae.models")
    return nn.ModuleDict({"q": models.InferenceNetwork(64, 5, 16), "p": models.SpatialGenerator(2, 16)})


def spatial_loss(model: Any, y: Tensor) -> Tensor:
    (train,) = SPATIAL.load("train_mnist")
    line = torch.linspace(-1, 1, 8)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    return -train.eval_minibatch(grid, y, model["p"], model["q"])[0]


# lucabergamini/VAEGAN-PYTORCH

VAEGAN = Repository("lucabergamini/VAEGAN-PYTORCH", "fa75275d743ef27075aaf198cf4abff5ffbba540")


def vaegan() -> nn.Module:
    (network,) = VAEGAN.load("network")
    return network.VaeGan(z_size=4)


def vaegan_loss(model: Any, x: Tensor) -> Tensor:
    with no_cuda(Tensor):
        drawn, labels, layer, mus, logvars = model(x)
    n = len(x)
    _, kl, mse, real, fake, *_ = model.loss(x, drawn, layer[:n], layer[n:], labels[:n], labels[n:], mus, logvars)
    return kl.sum() + mse.sum() + 1e-3 * (real.sum() + fake.sum())


# cxhernandez/molencoder

MOLECULES = Repository("cxhernandez/molencoder", "3ee85affc03e95475872f0986cdd200475cd34bc", stand_ins=without(h5py=""))


def molecules() -> nn.Module:
    (models,) = MOLECULES.load("molencoder.models")
    return nn.ModuleDict({"encoder": models.MolEncoder(12, 8, 35), "decoder": models.MolDecoder(8, 12, 35)})


def strings() -> tuple[Tensor, ...]:
    return (F.one_hot((uniform(4, 12) * 35).long(), 35).float(),)


def molecules_loss(model: Any, x: Tensor) -> Tensor:
    return model["encoder"].vae_loss(model["decoder"](model["encoder"](x)), x)


# ilya-shenbin/RecVAE

RECVAE = Repository("ilya-shenbin/RecVAE", "05fdd528a3c973bc125ad001cdf34af526ad78d9")


def recvae() -> nn.Module:
    (module,) = RECVAE.load("model")
    return module.VAE(16, 4, 20)


def recvae_loss(model: Any, x: Tensor) -> Tensor:
    return model(x, gamma=0.005)[1]


def clicks() -> tuple[Tensor, ...]:
    return ((uniform(6, 20) > 0.6).float(),)


# addtt/attend-infer-repeat-pytorch

AIR = Repository(
    "addtt/attend-infer-repeat-pytorch",
    "ef7aa3cc7b51460a501b10b1758b240ed9594148",
    stand_ins=without(matplotlib="", matplotlib__pyplot="", boilr__utils="to_np")
    | {"boilr": module_with("boilr", BaseGenerativeModel=nn.Module)},
)


def air() -> nn.Module:
    (module,) = AIR.load("models.air")
    model = module.AIR(
        16, 8, 2, 1, likelihood="original", z_what_dim=5, lstm_hidden_dim=12, baseline_hidden_dim=12,
        encoder_hidden_dim=12, decoder_hidden_dim=12,
    )  # fmt: skip
    model.get_device = lambda: torch.device("cpu")
    return model


def air_loss(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    target = ((out["baseline_target"] - out["data_likelihood"][:, None]) * out["mask_prev"]).detach()
    error = target - out["baseline_value"]
    reinforce = (error.detach() * out["z_pres_likelihood"] * out["mask_prev"]).sum(1)
    return (reinforce - out["elbo_sep"] + (error**2 * out["mask_prev"]).sum(1)).mean()


# AMLab-Amsterdam/DIVA

DIVA = Repository("AMLab-Amsterdam/DIVA", "4c5282a8e54feee01626f5e8a54595ea570ac169")


def diva() -> nn.Module:
    (module,) = DIVA.load("paper_experiments.rotated_mnist.supervised.model_diva")
    sizes = {"d_dim": 3, "x_dim": 784, "y_dim": 10, "zd_dim": 4, "zx_dim": 0, "zy_dim": 5}
    weights = {
        "aux_loss_multiplier_y": 10.0,
        "aux_loss_multiplier_d": 10.0,
        "beta_d": 1.0,
        "beta_x": 1.0,
        "beta_y": 1.0,
    }
    with no_cuda(nn.Module):
        return module.DIVA(SimpleNamespace(**sizes, **weights))


def domains() -> tuple[Tensor, ...]:
    domain, label = F.one_hot(torch.arange(3) % 3, 3).float(), F.one_hot(torch.tensor([1, 7, 4]), 10).float()
    return domain, uniform(3, 1, 28, 28), label


def diva_loss(model: Any, d: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return model.loss_function(d, x, y)[0]


# mfederici/Multi-View-Information-Bottleneck

MIB = Repository("mfederici/Multi-View-Information-Bottleneck", "296fbb9b3827522ae46290eeeb849ef28e9ded73")


def mib() -> nn.Module:
    (module,) = MIB.load("training.mib")
    return module.MIBTrainer(z_dim=4, miest_lr=1e-4)


def views() -> tuple[Tensor, ...]:
    return uniform(4, 1, 28, 28), uniform(4, 1, 28, 28, seed=5)


def mib_loss(model: Any, first_view: Tensor, second_view: Tensor) -> Tensor:
    return model._compute_loss([first_view, second_view, None])


# imperial-qore/TranAD

TRANAD = Repository(
    "imperial-qore/TranAD",
    "7ffb98d0c18189cc3d9ab732b4cb0278200a0af0",
    stand_ins=without(dgl="", dgl__nn="GATConv", src__constants=""),
)


def omni() -> nn.Module:
    (models,) = TRANAD.load("src.models")
    return models.OmniAnomaly(6).double()


def series() -> tuple[Tensor, ...]:
    return (uniform(4, 6).double(),)


def omni_loss(model: Any, x: Tensor) -> Tensor:
    loss, hidden = torch.zeros((), dtype=x.dtype), None
    for i, row in enumerate(x):
        guess, mu, logvar, hidden = model(row, hidden if i else None)
        loss = loss + F.mse_loss(guess, row) - 0.5 * model.beta * (1 + logvar - mu**2 - logvar.exp()).sum(0)
    return loss


# models without a head

FLOWS = Repository("ikostrikov/pytorch-flows", "bf12ed91b86867b38d74982f5e2d44c248604df9")
DVQ = Repository(
    "karpathy/deep-vector-quantization",
    "c3c026a1ccea369bc892ad6dde5e6d6cd5a508a4",
    root="dvq",
    stand_ins=TORCHVISION
    | without(pytorch_lightning__callbacks="ModelCheckpoint", data="", data__cifar10="CIFAR10Data")
    | {
        "pytorch_lightning": module_with("pytorch_lightning", LightningModule=nn.Module, Callback=object),
        "attr": module_with("attr", s=lambda **_: lambda made: made, ib=lambda **_: None),
    },
)
DIFFAE = Repository("phizaz/diffae", "00c57d3f626f28bf9ed8aff58d90baab25de3af4")


def maf() -> nn.Module:
    (flows,) = FLOWS.load("flows")
    blocks = [[flows.MADE(6, 16, None, act="relu"), flows.BatchNormFlow(6), flows.Reverse(6)] for _ in range(2)]
    return flows.FlowSequential(*(step for block in blocks for step in block))


def maf_loss(model: Any, x: Tensor) -> Tensor:
    return -model.log_probs(x).mean()


def dvq() -> nn.Module:
    (module,) = DVQ.load("vqvae")
    return module.VQVAE(
        SimpleNamespace(
            enc_dec_flavor="deepmind", vq_flavor="gumbel", loss_flavor="l2", n_hid=8, num_embeddings=16,
            embedding_dim=4,
        )
    )  # fmt: skip


def dvq_loss(model: Any, x: Tensor) -> Tensor:
    return model.training_step((x, None), 0)


def diffae() -> nn.Module:
    (module,) = DIFFAE.load("model.unet_autoenc")
    config = module.BeatGANsAutoencConfig(
        image_size=16, model_channels=32, channel_mult=(1, 1), enc_channel_mult=(1, 1), num_res_blocks=1,
        enc_num_res_block=1, embed_channels=32, enc_out_channels=32, attention_resolutions=(8,), resnet_two_cond=True,
        enc_pool="adaptivenonzero",
    )  # fmt: skip
    return config.make_model()


def diffae_loss(model: Any, x: Tensor) -> Tensor:
    noise, t = torch.randn_like(x), torch.tensor([100, 400, 900])
    kept = torch.linspace(0.99, 0.01, 1000)[t, None, None, None]
    return F.mse_loss(model(kept.sqrt() * x + (1 - kept).sqrt() * noise, t, x_start=x).pred, noise)


def case(
    name: str,
    source: Repository,
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Any, ...]],
    heads: tuple[TrueHead, ...],
    call: Callable[..., Any],
    truth: str,
) -> PublicCase:
    return PublicCase(name, source, build, inputs, heads, call, truth)


LEVELS = range(5)

CASES: tuple[PublicCase, ...] = (
    case(
        "VAEAC for a table", VAEAC, vaeac, table_with_gaps,
        (
            posterior("proposal_network.13", 64, 128, floored_softplus),
            prior("prior_network.15", 64, 128, floored_softplus),
        ),
        vaeac_loss,
        "prob_utils.py:28-29 normal_parse_params, min_sigma 1e-3 (VAEAC.py make_latent_distributions); the "
        "likelihood's raw σ is overwritten by a constant in SetGaussianSigmasToOne, so that it is no head",
    ),
    case(
        "GMVAE", GMVAE, gmvae, pixels(6, 20),
        (
            posterior("inference.inference_qzyx.4.var", sigma=root_softplus),
            prior("generative.y_var", sigma=partial(root_softplus, floor=1e-8)),
        ),
        gmvae_loss,
        "networks/Layers.py:80,87 Gaussian: var = softplus, std = sqrt(var + 1e-10); networks/Networks.py:92; the KL "
        "adds 1e-8 to both (losses/LossFunctions.py log_normal); corrected after the scan: the prior is in the "
        "KL only, so that its floor is 1e-8",
    ),
    case(
        "ToyNet (VIB)", VIB, vib, pixels(6, 784), (posterior("encode.4", 4, 8, lambda v: F.softplus(v - 5)),), vib_loss,
        "model.py:32 ToyNet.forward: softplus(statistics[:, K:] - 5)",
    ),
    case(
        "FlowVAE of point clouds", POINTS, flow_vae, pixels(4, 12, 3), (posterior("encoder.fc3_v"),), flow_vae_loss,
        "models/common.py:7 reparameterize_gaussian: exp(0.5 logvar), named z_sigma by models/vae_flow.py; the prior "
        "is a flow and the decoder a diffusion, without heads",
    ),
    case(
        "OccupancyNetwork", ONET, partial(onet, 4), occupied, (posterior("encoder_latent.fc_logstd", sigma=torch.exp),),
        onet_loss, "im2mesh/onet/models/__init__.py:129 infer_z: Normal(mean_z, exp(logstd_z))",
    ),
    case(
        "Pluralistic", PLURAL, plural, pixels(3, 3, 64, 64),
        (posterior("e.posterior", 4, 8, F.softplus), prior("e.prior", 4, 8, F.softplus)), plural_loss,
        "model/network.py:122,135: softplus of half of a ResBlock's output, a sum of two convolutions, so that "
        "the ResBlock is what emits the raw value; roles as in model/pluralistic_model.py get_distribution",
    ),
    case(
        "BicycleGAN", BICYCLE, bicycle, lambda: (uniform(3, 3, 128, 128), uniform(3, 3, 128, 128, seed=5)),
        (posterior("e.fcVar.0"),), bicycle_loss, "models/bicycle_gan_model.py:83 encode: logvar.mul(0.5).exp_()",
    ),
    case(
        "PHISeg", ZOO, phiseg, scan_and_mask,
        (
            *(posterior(f"posterior.sample_z_path.{i}.sigma_conv.0", sigma=F.softplus) for i in LEVELS),
            *(prior(f"prior.sample_z_path.{i}.sigma_conv.0", sigma=F.softplus) for i in LEVELS),
        ),
        phiseg_loss,
        "models/phiseg.py:97 SampleZBlock: a Softplus after the convolution; KL_two_gauss_with_diag_cov uses sigma1 * "
        "sigma0 for the prior's variance, upstream's slip, which leaves the sampling σ as it is",
    ),
    case(
        "IAF-VAE", IAF, iaf, pixels(4, 3, 16, 16),
        tuple(
            head
            for i in range(2)
            for head in (
                prior(f"layers.{i}.0.down_conv_a", 4, 8, lambda v: torch.exp(2 * v)),
                posterior(f"layers.{i}.0.down_conv_a", 12, 16, None),
                posterior(f"layers.{i}.0.up_conv_a", 4, 8, None),
            )
        ),
        iaf_loss,
        "layers.py:104,110: prior σ = exp(2 pz_logsd), posterior σ = exp(rz_logsd + qz_logsd); arw_logsd is a "
        "flow's and dec_log_stdv a logistic's",
    ),
    case(
        "PVAE", PVAE, pvae, digits_with_gaps, (posterior("encoder.fc.3", 4, 8, F.softplus),), first,
        "image/mnist_encoder.py:57 encode_logprob: std = softplus(logvar), the second of three chunks; an IAF follows",
    ),
    case(
        "spatial-VAE", SPATIAL, spatial, pixels(5, 64), (posterior("q.layers.2", 5, 10, torch.exp),), spatial_loss,
        "train_mnist.py:27 eval_minibatch: z_std = exp(z_logstd), then sliced into rotation, shift and content",
    ),
    case(
        "VAE-GAN", VAEGAN, vaegan, pixels(3, 3, 64, 64), (posterior("encoder.l_var"),), vaegan_loss,
        "network.py:199 VaeGan.forward: exp(log_variances * 0.5)",
    ),
    case(
        "MolEncoder", MOLECULES, molecules, strings, (posterior("encoder.lmbd.z_log_var"),), molecules_loss,
        "molencoder/models.py:46 Lambda: mu + exp(log_v / 2) * eps eps scaled by 0.01; the KL's σ is exp(log_v / 2)",
    ),
    case(
        "RecVAE", RECVAE, recvae, clicks, (posterior("encoder.fc_logvar"), prior("prior.encoder_old.fc_logvar")),
        recvae_loss,
        "model.py:38,90; a frozen copy of the encoder is one Normal of the prior's mixture, "
        "which is counted as a prior; the other two have constant parameters",
    ),
    case(
        "AIR", AIR, air, pixels(6, 1, 16, 16),
        (posterior("predictor.seq.2", 4, 7, F.softplus), posterior("encoder.net.2", 5, 10, F.softplus)), air_loss,
        "models/air.py:36,62: softplus; the priors' and the likelihood's σ are constant",
    ),
    case(
        "DIVA", DIVA, diva, domains,
        (
            *(posterior(f"{name}.fc12.0", sigma=shifted_softplus) for name in ("qzd", "qzy")),
            *(prior(f"{name}.fc22.0", sigma=shifted_softplus) for name in ("pzd", "pzy")),
        ),
        diva_loss,
        "paper_experiments/rotated_mnist/supervised/model_diva.py:58-164: Softplus in the Sequential, + 1e-7 in "
        "forward; zx_dim 0, which its code allows, since the third latent's prior is made on CUDA",
    ),
    case(
        "MIBTrainer", MIB, mib, views, (posterior("encoder.net.4", 4, 8, shifted_softplus),), mib_loss,
        "utils/modules.py:28 Encoder: softplus + 1e-7; one encoder, under three names, is called on two views, whose "
        "posteriors are compared with each other",
    ),
    case(
        "OmniAnomaly", TRANAD, omni, series, (posterior("encoder.5", 8, 16),), omni_loss,
        "src/models.py:155 OmniAnomaly.forward: exp(0.5 logvar), float64, one sample a call",
    ),
    case(
        "OccupancyNetwork, z_dim 0", ONET, partial(onet, 0), occupied, (), onet_loss,
        "its default configuration: infer_z makes a Normal of empty tensors",
    ),
    case("MAF", FLOWS, maf, lambda: (uniform(8, 6),), (), maf_loss, "flows.py MADE: log-scales of a flow"),
    case(
        "VQVAE, gumbel", DVQ, dvq, pixels(4, 3, 16, 16), (), dvq_loss,
        "model/quantize.py GumbelQuantize; model/loss.py Normal has a constant variance",
    ),
    case(
        "BeatGANsAutoencModel", DIFFAE, diffae, pixels(3, 3, 16, 16), (), diffae_loss,
        "model/unet_autoenc.py: a deterministic code; reparameterize is never called",
    ),
)  # fmt: skip
