"""A second look: sequences, policies, biology, motion and weather in public code that no earlier look has used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import TrueHead

from public import PublicCase, Repository, without
from public.draws import half, rand, randn, tokens


def bits(*shape: int, seed: int = 8) -> Tensor:
    return (rand(*shape, seed=seed) < 0.4).float()


def module(name: str, **attributes: Any) -> ModuleType:
    """A stand-in that works."""
    made = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def posterior(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = half) -> TrueHead:
    return TrueHead(path, start, stop, "posterior", sigma)


def prior(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = half) -> TrueHead:
    return TrueHead(path, start, stop, "prior", sigma)


def likelihood(path: str, start: int = 0, stop: int | None = None, sigma: Callable | None = torch.exp) -> TrueHead:
    return TrueHead(path, start, stop, "likelihood", sigma)


# ---------------------------------------------------------------------------------------------------- recommenders

MULTI_VAE = Repository("younggyoseo/vae-cf-pytorch", "3619878f8eaf77f4018be697f1ecfdbd95f9a23b")
SASREC = Repository("pmixer/SASRec.pytorch", "fde8a9c08febc2c898dc269b1d98ab762c50d2be", root="python")


def ratings() -> tuple[Tensor, ...]:
    x = bits(5, 12)
    x[:, 0] = 1.0
    return (x,)


def multi_vae() -> nn.Module:
    (models,) = MULTI_VAE.load("models")
    return models.MultiVAE([3, 8, 12])


def multi_vae_loss(model: nn.Module, x: Tensor) -> Tensor:
    (models,) = MULTI_VAE.load("models")
    decoded, mu, logvar = model(x)
    return models.loss_function(decoded, x, mu, logvar, 0.2)


def sasrec() -> nn.Module:
    (model,) = SASREC.load("model")
    settings = SimpleNamespace(
        device="cpu", norm_first=False, hidden_units=8, maxlen=6, dropout_rate=0.2, num_blocks=2, num_heads=2
    )
    return model.SASRec(5, 9, settings)


def visits() -> tuple[Any, ...]:
    seen, wanted, other = (tokens(10, 4, 6, low=1, seed=seed).numpy() for seed in (1, 2, 3))
    return tokens(5, 4).numpy(), seen, wanted, other


def sasrec_loss(model: nn.Module, *inputs: Any) -> Tensor:
    wanted, other = model(*inputs)
    criterion = nn.BCEWithLogitsLoss()
    return criterion(wanted, torch.ones_like(wanted)) + criterion(other, torch.zeros_like(other))


# -------------------------------------------------------------------------------------- policies and world models

PYTORCH_RL = Repository("Khrylx/PyTorch-RL", "72069237b4d86bcb9675b899ea94228019a4f003")
RLKIT = Repository(
    "rail-berkeley/rlkit",
    "ac45a9db24b89d97369bef302487273bcc3e3d84",
    stand_ins=without(torchvision="", torchvision__models="resnet18", gtimer="", gym="", gym__spaces="Discrete Box"),
)
MBRL = Repository(
    "facebookresearch/mbrl-lib",
    "3f93cccfc8d635f74e335a2f07aab6e9a48fc021",
    stand_ins=without(
        gymnasium="Env Wrapper",
        gymnasium__wrappers="TimeLimit",
        hydra="",
        omegaconf="DictConfig ListConfig OmegaConf",
        termcolor="colored",
    ),
)
C_SWM = Repository("tkipf/c-swm", "e944b24bcaa42d9ee847f30163437a50f0237aa0", stand_ins=without(h5py="File"))


def gym_policy() -> nn.Module:
    (policy,) = PYTORCH_RL.load("models.mlp_policy")
    return policy.Policy(4, 2, hidden_size=(8, 8))


def transitions() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=1), randn(6, 1, seed=2)


def surrogate_loss(model: nn.Module, states: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    log_probs = model.get_log_prob(states, actions)
    ratio = torch.exp(log_probs - log_probs.detach())
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def awac_policy() -> nn.Module:
    (policies,) = RLKIT.load("rlkit.torch.sac.policies.gaussian_policy")
    return policies.GaussianPolicy(
        hidden_sizes=[8, 8], obs_dim=4, action_dim=2, max_log_std=0, min_log_std=-6, std_architecture="values"
    )


def weighted_loss(model: nn.Module, states: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    log_probs = model(states).log_prob(torch.tanh(actions))
    return -(log_probs * torch.softmax(advantages[:, 0], 0)).sum()


def awac_sigma(v: Tensor) -> Tensor:
    return torch.exp(-6 + 6 * torch.sigmoid(v))


def gaussian_mlp() -> nn.Module:
    (models,) = MBRL.load("mbrl.models")
    return models.GaussianMLP(6, 3, "cpu", num_layers=2, ensemble_size=3, hid_size=8)


def soft_bounds(v: Tensor) -> Tensor:
    upper = 0.5 - F.softplus(0.5 - v)
    return half(-10 + F.softplus(upper + 10))


def mbrl_loss(model: nn.Module, *inputs: Any) -> Tensor:
    return model.loss(*inputs)[0]


def planet() -> nn.Module:
    (models,) = MBRL.load("mbrl.models")
    return models.PlaNetModel(
        (3, 16, 16), 8, ((3, 4, 4, 2), (4, 4, 4, 2)), ((8, 1, 1), ((8, 4, 5, 2), (4, 3, 8, 2))), 3, 2, 6, 8, "cpu"
    )


def planet_batch() -> tuple[Any, ...]:
    (types,) = MBRL.load("mbrl.types")
    none = torch.zeros(4, 4)
    return (types.TransitionBatch(tokens(256, 4, 4, 3, 16, 16), randn(4, 4, 2), none, rand(4, 4), none, none),)


def softplus_tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def c_swm() -> nn.Module:
    (modules,) = C_SWM.load("modules")
    return modules.ContrastiveSWM(3, [3, 10, 10], 32, 2, 3, encoder="small")


def scenes() -> tuple[Tensor, ...]:
    return rand(4, 3, 10, 10), tokens(6, 4), rand(4, 3, 10, 10, seed=1)


def c_swm_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    return model.contrastive_loss(*inputs)


# ------------------------------------------------------------------------------- recurrent latents, text and music

DVAE = Repository(
    "XiaoyuBIE1994/DVAE",
    "d94d2133a85f55184c39569ccea3970fa6856f40",
    stand_ins=without(soundfile="", pypesq="pesq", pystoi="stoi"),
)
TEXT_AE = Repository("shentianxiao/text-autoencoders", "ef7a210cab9059e164db80246d37d472168355e5")
MUSE = Repository("YatingMusic/MuseMorphose", "069570279db65ffb3914ca9aacab8061badfacb3", root="model")
INFORMER = Repository("zhouhaoyi/Informer2020", "29f2a739226a509202a092b464163da81fa74960")


class LightningModule(nn.Module):
    """A stand-in for Lightning's, past the last epoch of a warm-up."""

    current_epoch = 80

    def save_hyperparameters(self, ignore: tuple[str, ...] = ()) -> None:
        given = sys._getframe(1).f_locals
        left_out = {"self", "__class__", *ignore}
        self.hparams = SimpleNamespace(**{name: value for name, value in given.items() if name not in left_out})

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass

    log_dict = log


class Metric(nn.Module):
    """A stand-in for torchmetrics'."""

    def add_state(self, name: str, default: Any, **kwargs: Any) -> None:
        setattr(self, name, default)


LFADS = Repository(
    "arsedler9/lfads-torch",
    "007a5556c78e706ba0ce47b9c4366da3dbc4fde1",
    stand_ins=without(h5py="File")
    | {
        "pytorch_lightning": module("pytorch_lightning", LightningModule=LightningModule),
        "torchmetrics": module("torchmetrics", Metric=Metric),
    },
)


def srnn() -> nn.Module:
    (model,) = DVAE.load("dvae.model.srnn")
    sizes = {"dense_x_h": [8], "dense_hx_g": [8], "dense_gz_z": [8], "dense_hz_z": [8], "dense_hz_x": [8]}
    return model.SRNN(6, 3, dim_RNN_h=8, dim_RNN_g=8, **sizes)


def srnn_loss(model: nn.Module, x: Tensor) -> Tensor:
    (losses,) = DVAE.load("dvae.utils.loss")
    y = model(x)
    kl = losses.loss_KLD(model.z_mean, model.z_logvar, model.z_mean_p, model.z_logvar_p)
    return (losses.loss_MPJPE(x, y) + kl) / (x.shape[0] * x.shape[1])


def text_vae() -> nn.Module:
    (model,) = TEXT_AE.load("model")
    vocabulary = SimpleNamespace(size=12, pad=0, go=1, eos=2, unk=3, blank=4, nspecial=5)
    settings = SimpleNamespace(
        dim_emb=6, dim_h=8, nlayers=1, dropout=0.2, dim_z=4, lr=1e-3, lambda_kl=0.1, noise=[0.0, 0.0, 0.0, 0.0]
    )
    return model.VAE(vocabulary, settings)


def sentences() -> tuple[Tensor, ...]:
    return tokens(12, 6, 4, low=5), tokens(12, 6, 4, low=5, seed=1)


def text_vae_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return model.loss(model.autoenc(inputs, targets, is_train=True))


def musemorphose() -> nn.Module:
    (model,) = MUSE.load("musemorphose")
    return model.MuseMorphose(1, 2, 8, 16, 1, 2, 8, 16, 4, 8, 12, d_rfreq_emb=4, d_polyph_emb=4)


def bars() -> tuple[Tensor, ...]:
    starts = torch.tensor([[0, 4, 8], [0, 3, 8]])
    return tokens(12, 5, 2, 2), tokens(12, 8, 2, seed=1), starts, tokens(8, 8, 2, seed=2), tokens(8, 8, 2, seed=3)


def muse_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    mu, logvar, logits = model(*inputs)
    return model.compute_loss(mu, logvar, 1.0, 0.25, logits, inputs[1])["total_loss"]


def informer() -> nn.Module:
    (model,) = INFORMER.load("models.model")
    return model.Informer(
        3, 3, 3, 8, 4, 4, d_model=8, n_heads=2, e_layers=2, d_layers=1, d_ff=8, embed="timeF", device="cpu"
    )


def readings() -> tuple[Tensor, ...]:
    return randn(4, 8, 3), rand(4, 8, 4), randn(4, 8, 3, seed=1), rand(4, 8, 4, seed=1)


def informer_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    return F.mse_loss(model(*inputs), inputs[2][:, -4:])


def lfads() -> nn.Module:
    model, priors, recons, augmentations, readouts = LFADS.load(
        "lfads_torch.model",
        "lfads_torch.modules.priors",
        "lfads_torch.modules.recons",
        "lfads_torch.modules.augmentations",
        "lfads_torch.modules.readin_readout",
    )
    rates = dict.fromkeys(("lr_init", "lr_stop", "lr_decay", "lr_adam_beta1", "lr_adam_beta2", "lr_adam_epsilon"), 0.1)
    l2 = dict.fromkeys(("l2_ic_enc_scale", "l2_ci_enc_scale", "l2_gen_scale", "l2_con_scale"), 0.0)
    return model.LFADS(
        encod_data_dim=5,
        encod_seq_len=6,
        recon_seq_len=6,
        ext_input_dim=0,
        ic_enc_seq_len=0,
        ic_enc_dim=6,
        ci_enc_dim=6,
        ci_lag=1,
        con_dim=6,
        co_dim=2,
        ic_dim=4,
        gen_dim=8,
        fac_dim=3,
        dropout_rate=0.3,
        reconstruction=nn.ModuleList([recons.Poisson()]),
        variational=True,
        co_prior=priors.AutoregressiveMultivariateNormal(10.0, 0.1, 2),
        ic_prior=priors.MultivariateNormal(0, 0.1, 4),
        ic_post_var_min=1e-4,
        cell_clip=5.0,
        train_aug_stack=augmentations.AugmentationStack(),
        infer_aug_stack=augmentations.AugmentationStack(),
        readin=nn.ModuleList([nn.Identity()]),
        readout=nn.ModuleList([readouts.FanInLinear(3, 5)]),
        loss_scale=1.0,
        recon_reduce_mean=True,
        lr_scheduler=False,
        lr_patience=6,
        weight_decay=0.0,
        l2_start_epoch=0,
        l2_increase_epoch=80,
        kl_start_epoch=0,
        kl_increase_epoch=80,
        kl_ic_scale=1e-2,
        kl_co_scale=1e-2,
        **rates,
        **l2,
    )


def spikes() -> tuple[Tensor, ...]:
    return (tokens(3, 4, 6, 5).float(),)


def lfads_loss(model: nn.Module, x: Tensor) -> Tensor:
    (tuples,) = LFADS.load("lfads_torch.tuples")
    empty = torch.zeros(0)
    batch = tuples.SessionBatch(x, x, torch.zeros(*x.shape[:2], 0), empty, empty)
    return model._shared_step({0: (batch, ())}, 0, "train")


def floored_half(v: Tensor) -> Tensor:
    return torch.sqrt(torch.exp(v) + 1e-4)


# ------------------------------------------------------------------------------------------------ motion and crowds

VPOSER = Repository("nghorbani/human_body_prior", "78c86eae5ed518ae22bf197fd74211bbfa45551a")
TEXT_TO_MOTION = Repository(
    "EricGuo5513/text-to-motion",
    "72df96ec453edea2fbe9603b1d58a955eaf71636",
    stand_ins=without(cv2="", spacy="")
    | without(
        data="",
        data__dataset="collate_fn",
        utils="",
        utils__utils="",
    ),
)
STGCNN = Repository("abduallahmohamed/Social-STGCNN", "333d3a57b4d2705e129b21aefefa09c79b2b9ae1")


def vposer() -> nn.Module:
    (model,) = VPOSER.load("human_body_prior.models.vposer_model")
    return model.VPoser(SimpleNamespace(model_params=SimpleNamespace(num_neurons=8, latentD=4)))


def vposer_loss(model: nn.Module, poses: Tensor) -> Tensor:
    (rotations,) = VPOSER.load("human_body_prior.tools.rotation_tools")
    out = model(poses)
    q = out["q_z"]
    p = torch.distributions.Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    kl = torch.distributions.kl_divergence(q, p).sum(1).mean()
    wanted = rotations.aa2matrot(poses.reshape(-1, 3)).reshape(len(poses), -1, 9)
    return 0.005 * kl + F.l1_loss(out["pose_body_matrot"], wanted)


def text_to_motion() -> nn.Module:
    (modules,) = TEXT_TO_MOTION.load("networks.modules")
    return nn.ModuleDict(
        {
            "text_enc": modules.TextEncoderBiGRU(6, 5, 4, "cpu"),
            "seq_pri": modules.TextDecoder(8, 6 + 4, 3, 8, 1),
            "seq_post": modules.TextDecoder(8, 6 + 6 + 4, 3, 8, 1),
            "seq_dec": modules.TextVAEDecoder(8, 6 + 4 + 3, 6, 8, 1),
            "att_layer": modules.AttLayer(8, 8, 4),
            "mov_enc": modules.MovementConvEncoder(9 - 4, 6, 6),
            "mov_dec": modules.MovementConvDecoder(6, 6, 9),
        }
    )


def captions() -> tuple[Any, ...]:
    words, kinds, lengths = randn(3, 5, 6), rand(3, 5, 5), torch.tensor([5, 4, 3])
    return words, kinds, ["a", "b", "c"], lengths, randn(3, 12, 9, seed=1), torch.tensor([12, 12, 12])


def text_to_motion_loss(model: nn.Module, *batch: Any) -> Tensor:
    (trainers,) = TEXT_TO_MOTION.load("networks.trainers")
    settings = SimpleNamespace(
        device="cpu",
        is_train=True,
        log_dir="",
        unit_length=4,
        text_enc_mod="bigru",
        lambda_rec_mov=1.0,
        lambda_rec_mot=1.0,
        lambda_kld=0.01,
    )
    trainer = trainers.CompTrainerV6(settings, **dict(model.items()))
    trainer.forward(batch, 1.1, 3)
    trainer.backward_G()
    return trainer.loss_gen


def stgcnn() -> nn.Module:
    (model,) = STGCNN.load("model")
    return model.social_stgcnn(n_stgcnn=1, n_txpcnn=2, output_feat=5, seq_len=8, pred_seq_len=10, kernel_size=3)


def crowd() -> tuple[Tensor, ...]:
    return randn(1, 2, 8, 4), rand(8, 4, 4), randn(10, 4, 2, seed=1)


def stgcnn_loss(model: nn.Module, observed: Tensor, graph: Tensor, future: Tensor) -> Tensor:
    (metrics,) = STGCNN.load("metrics")
    predicted, _ = model(observed, graph)
    return metrics.bivariate_loss(predicted.permute(0, 2, 3, 1).squeeze(), future)


# -------------------------------------------------------------------------------------------------------- biology

EVE = Repository("OATML-Markslab/EVE", "460d70efeeeded58bc69227a203540d68953ae88", stand_ins=without(pandas=""))
VAMB = Repository(
    "RasmussenLab/vamb",
    "b146fb610921aef1da8aed5d739f1ce80d21b33a",
    root="vamb",
    stand_ins=without(vamb="", vamb__vambtools="zscore", dadaptation="DAdaptAdam", loguru="logger"),
)
SCALE = Repository(
    "jsxlei/SCALE",
    "85713d3afb19c6e7aea16d135d393e9f8dc776e4",
    root="scale",
)


def eve() -> nn.Module:
    (model,) = EVE.load("EVE.VAE_model")
    encoder = {
        "hidden_layers_sizes": [8],
        "z_dim": 3,
        "convolve_input": False,
        "convolution_input_depth": 5,
        "nonlinear_activation": "relu",
        "dropout_proba": 0.0,
    }
    decoder = {
        "hidden_layers_sizes": [8],
        "z_dim": 3,
        "bayesian_decoder": True,
        "first_hidden_nonlinearity": "relu",
        "last_hidden_nonlinearity": "relu",
        "dropout_proba": 0.1,
        "convolve_output": True,
        "convolution_output_depth": 5,
        "include_temperature_scaler": True,
        "include_sparsity": False,
        "num_tiles_sparsity": 0,
        "logit_sparsity_p": 0,
    }
    return model.VAE_model("tiny", SimpleNamespace(seq_len=6, alphabet_size=4, Neff=10.0), encoder, decoder, 0)


def proteins() -> tuple[Tensor, ...]:
    return (F.one_hot(tokens(4, 5, 6), 4).float(),)


def eve_loss(model: nn.Module, x: Tensor) -> Tensor:
    mu, log_var = model.encoder(x)
    decoded = model.decoder(model.sample_latent(mu, log_var))
    return model.loss_function(decoded, x, mu, log_var, 1.0, 1.0, 0, 1, model.Neff)[0]


def vamb() -> nn.Module:
    (encode,) = VAMB.load("encode")
    return encode.VAE(4, nhiddens=[8], nlatent=3)


def contigs() -> tuple[Tensor, ...]:
    return torch.softmax(randn(6, 4), 1), randn(6, 103), randn(6, 1, seed=1), 1 + rand(6, 1)


def vamb_loss(model: nn.Module, depths: Tensor, tnf: Tensor, abundance: Tensor, weights: Tensor) -> Tensor:
    depths_out, tnf_out, abundance_out, mu = model(depths, tnf, abundance)
    return model.calc_loss(depths, depths_out, tnf, tnf_out, abundance, abundance_out, mu, weights)[0]


def scale() -> nn.Module:
    (model,) = SCALE.load("model")
    return model.SCALE([12, 3, [8], [8]], 2)


def scale_loss(model: nn.Module, x: Tensor) -> Tensor:
    reconstruction, kl = model.loss_function(x)
    return (reconstruction + kl) / len(x)


def peaks() -> tuple[Tensor, ...]:
    return (bits(5, 12),)


def raw_variance(v: Tensor) -> Tensor:
    return torch.sqrt(v + 2e-8)


# -------------------------------------------------------------------------- neural processes, graphs and weather


class AttrDict(dict):
    """A stand-in for attrdict's, which needs an older Python."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


BNP = Repository(
    "juho-lee/bnp",
    "4cf4b92b38b3ac2aa4bfbbd81de596c9bf7e9645",
    root="regression",
    stand_ins={"attrdict": module("attrdict", AttrDict=AttrDict)},
)
D_VAE = Repository("muhanzhang/D-VAE", "3569a4a3bf5ecf8e12ae548e0d22e72062d29e26", stand_ins=without(igraph="Graph"))


class Unused:
    """What a stand-in gives for any name: a class to inherit from or to annotate with."""

    class Meta:
        """What dataclass_wizard's classes have inside."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class Anything(ModuleType):
    """A stand-in that has every name, for the data and plotting packages of a large code base."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Unused,), {})
        setattr(self, name, made)
        return made


def anything(*names: str) -> dict[str, ModuleType]:
    made: dict[str, ModuleType] = {name: Anything(name) for name in names}
    for name, stand_in in made.items():
        parent, _, child = name.rpartition(".")
        if parent in made:
            setattr(made[parent], child, stand_in)
    return made


EMPTY = SimpleNamespace(neurips2023=lambda *args, **kwargs: {"figure.figsize": (5.0, 3.0)})
NEURAL_LAM = Repository(
    "mllam/neural-lam",
    "434d5fab574150735f2e96debb89ea6c3e962137",
    stand_ins=anything(
        *("xarray", "xarray.core", "xarray.core.dataarray", "cartopy", "cartopy.crs", "cartopy.feature"),
        *("cartopy.mpl", "cartopy.mpl.geoaxes", "plotly", "plotly.graph_objects", "parse", "mllam_data_prep"),
        *("mlflow", "mlflow.pytorch", "dask", "dask.delayed", "dask.array", "dataclass_wizard", "networkx"),
        *("pandas", "pandas.core", "pandas.core.indexes", "pandas.core.indexes.multi", "loguru"),
        *("pytorch_lightning", "pytorch_lightning.utilities", "pytorch_lightning.loggers"),
        *("lightning_fabric", "lightning_fabric.utilities"),
    )
    | {"tueplots": module("tueplots", bundles=EMPTY, figsizes=EMPTY)},
)


def graph_efm() -> nn.Module:
    (latent,) = NEURAL_LAM.load("neural_lam.models.latent")
    down, across = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]]), torch.tensor([[0, 1], [1, 0]])
    encoder = {"m2m_layers": 1, "output_dist": "diagonal"}
    return nn.ModuleDict(
        {
            "encoder": latent.GraphLatentEncoder(3, down, across, 8, **encoder),
            "prior_model": latent.GraphLatentEncoder(3, down, across, 8, **encoder),
            "decoder": latent.GraphLatentDecoder(down, across, down.flip(0), 8, 3, 2, 1),
        }
    )


def fields() -> tuple[Tensor, ...]:
    return randn(3, 4, 8), randn(3, 4, 8, seed=1), randn(3, 4, 2), randn(3, 4, 8, seed=2), randn(3, 2, 8, seed=3)


def graph_efm_loss(
    model: nn.Module, before: Tensor, now: Tensor, target: Tensor, edges: Tensor, mesh: Tensor
) -> Tensor:
    (metrics,) = NEURAL_LAM.load("neural_lam.metrics")
    graph = {"g2m": edges, "m2g": edges, "m2m": mesh, "mesh": mesh}
    q, p = model["encoder"](now, graph_emb=graph), model["prior_model"](before, graph_emb=graph)
    mean, std = model["decoder"](before, q.rsample(), graph)
    return metrics.nll(mean, target, std).mean() + torch.distributions.kl_divergence(q, p).sum((1, 2)).mean()


def efm_sigma(v: Tensor) -> Tensor:
    return 1e-4 + F.softplus(v)


def anp() -> nn.Module:
    (models,) = BNP.load("models.anp")
    return models.ANP(dim_hid=8, dim_lat=4)


def curves() -> tuple[Tensor, ...]:
    return randn(3, 7, 1), randn(3, 7, 1, seed=1)


def anp_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(AttrDict(x=x, y=y, xc=x[:, :4], yc=y[:, :4]), num_samples=4).loss


def anp_sigma(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def anp_output(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


def s_vae() -> nn.Module:
    (models,) = D_VAE.load("models")
    return models.SVAE(6, 4, 0, 1, hs=8, nz=3)


def graphs() -> tuple[Tensor, ...]:
    return (torch.cat([F.one_hot(tokens(4, 4, 5), 4).float(), bits(4, 5, 5)], 2),)


# fmt: off
CASES = (
    PublicCase(
        "MultiVAE", MULTI_VAE, multi_vae, ratings, (posterior("q_layers.1", 3, 6),), multi_vae_loss,
        truth="models.py:98-104 std = exp(0.5 logvar), the second half of the last of q_layers",
    ),
    PublicCase("SASRec", SASREC, sasrec, visits, (), sasrec_loss, truth="model.py: no distribution"),
    PublicCase(
        "PyTorch-RL policy", PYTORCH_RL, gym_policy, transitions, (likelihood("action_log_std"),), surrogate_loss,
        truth="models/mlp_policy.py:35 action_std = exp(action_log_std), a Parameter; core/ppo.py:19 needs its density",
    ),
    PublicCase(
        "AWAC policy", RLKIT, awac_policy, transitions, (likelihood("log_std_logits", sigma=awac_sigma),),
        weighted_loss,
        truth="rlkit/torch/sac/policies/gaussian_policy.py:185-190 a Parameter, squashed by a sigmoid into (-6, 0)",
    ),
    PublicCase(
        "GaussianMLP", MBRL, gaussian_mlp, lambda: (randn(5, 6), randn(5, 3, seed=1)),
        (likelihood("mean_and_logvar", 3, 6, soft_bounds),), mbrl_loss,
        truth="mbrl/models/gaussian_mlp.py:152-153 two soft bounds, which are not learned by default; "
        "mbrl/util/math.py:59 gaussian_nll",
    ),
    PublicCase(
        "PlaNet (mbrl)", MBRL, planet, planet_batch,
        (
            posterior("posterior_transition_model.2", 3, 6, softplus_tenth),
            prior("prior_transition_model.2", 3, 6, softplus_tenth),
        ), mbrl_loss,
        truth="mbrl/models/planet.py:113 MeanStdCat, a module without weights that returns mean and std together",
    ),
    PublicCase("C-SWM", C_SWM, c_swm, scenes, (), c_swm_loss, truth="modules.py: sigma is a constant of the energy"),
    PublicCase(
        "SRNN", DVAE, srnn, lambda: (randn(5, 3, 6),), (posterior("inf_logvar"), prior("prior_logvar")), srnn_loss,
        truth="dvae/model/srnn.py:213, 251, 264; dvae/utils/loss.py:17 KL; trained on motion, whose loss has no scale",
    ),
    PublicCase(
        "VAE (text)", TEXT_AE, text_vae, sentences, (posterior("h2logvar"),), text_vae_loss,
        truth="model.py:10 std = exp(0.5 logvar)",
    ),
    PublicCase(
        "MuseMorphose", MUSE, musemorphose, bars, (posterior("encoder.fc_logvar"),), muse_loss,
        truth="model/musemorphose.py:119 std = exp(0.5 logvar); transformer_encoder.py:29",
    ),
    PublicCase("Informer", INFORMER, informer, readings, (), informer_loss, truth="models/model.py: none"),
    PublicCase(
        "LFADS", LFADS, lfads, spikes,
        (
            posterior("encoder.ic_linear", 4, 8, floored_half),
            posterior("decoder.rnn.cell.co_linear", 2, 4),
            prior("co_prior.lognvars", sigma=None), prior("co_prior.logtaus", sigma=None),
        ), lfads_loss,
        truth="lfads_torch/modules/encoder.py:72, decoder.py:74; priors.py:63-72: σ of the prior is exp(lognvars / 2), "
        "at the first step it depends on logtaus, too (a head by the rule of several raw values, of little weight); "
        "ic_prior.logvar is a Parameter without gradient, hence fixed; Poisson output",
    ),
    PublicCase(
        "VPoser", VPOSER, vposer, lambda: (0.3 * randn(5, 63),), (posterior("encoder_net.8.logvar", sigma=F.softplus),),
        vposer_loss,
        truth="human_body_prior/models/vposer_model.py:56 Normal(mu, softplus(logvar)), whatever the name says",
    ),
    PublicCase(
        "text-to-motion", TEXT_TO_MOTION, text_to_motion, captions,
        (posterior("seq_post.logvar_net"), prior("seq_pri.logvar_net")), text_to_motion_loss,
        truth="networks/modules.py:36 s_var = exp(logvar / 2); networks/trainers.py:263 KL",
    ),
    PublicCase(
        "Social-STGCNN", STGCNN, stgcnn, crowd,
        (likelihood("tpcnn_ouput", 4, 6, torch.exp), likelihood("tpcnn_ouput", 6, 8, torch.exp)), stgcnn_loss,
        truth="metrics.py:90-91 exp of features 2 and 3 of 5, each on a line of its own; model.py:195 makes the "
        "features by a view of (time, feature, node) as (feature, time, node), so with 10 steps they are the steps 4 "
        "to 7 of the Conv2d, two for each. The look itself counted them as one head, 4:8",
    ),
    PublicCase(
        "EVE", EVE, eve, proteins,
        (
            posterior("encoder.fc_log_var"),
            *(
                posterior(f"decoder.{name}")
                for name in (
                    "hidden_layers_log_var.0.weight",
                    "hidden_layers_log_var.0.bias",
                    "output_convolution_log_var.weight",
                    "last_hidden_layer_weight_log_var",
                    "last_hidden_layer_bias_log_var",
                    "temperature_scaler_log_var",
                )
            ),
        ), eve_loss,
        truth="EVE/VAE_model.py:61; EVE/VAE_decoder.py:117 sampler: weights ~ N(mean, exp(log_var)), kept as the "
        "weights and biases of Linears and Convs that are never called, and as bare Parameters",
    ),
    PublicCase("vamb", VAMB, vamb, contigs, (), vamb_loss, truth="vamb/encode.py:277-284 unit noise: no σ is computed"),
    PublicCase(
        "SCALE", SCALE, scale, peaks, (posterior("encoder.sample.log_var"), prior("var_c", sigma=raw_variance)),
        scale_loss,
        truth="scale/layer.py:131 posterior; scale/model.py:188, 212 var_c is the variance itself, of the parts of a "
        "mixture prior, plus 1e-8 there and 1e-8 in loss.py:55",
    ),
    PublicCase(
        "ANP (bnp)", BNP, anp, curves,
        (
            posterior("lenc.net_post.2", 4, 8, anp_sigma), prior("lenc.net_post.2", 4, 8, anp_sigma),
            likelihood("dec.mlp.3", 1, 2, anp_output),
        ), anp_loss,
        truth="regression/models/modules.py:47, 110; models/anp.py:61-62 one encoder gives posterior and prior, "
        "compared by log densities of 4 samples",
    ),
    PublicCase(
        "Graph-EFM latents", NEURAL_LAM, graph_efm, fields,
        (
            posterior("encoder.latent_param_map.2", 3, 6, efm_sigma),
            prior("prior_model.latent_param_map.2", 3, 6, efm_sigma),
            likelihood("decoder.param_map.2", 2, 4, F.softplus),
        ), graph_efm_loss,
        truth="neural_lam/models/latent/base_encoder.py:87, base_decoder.py:166; metrics.py:322; the loss is ours, as "
        "the repository has no training of it yet; needs torch-geometric 2.3.1",
    ),
    PublicCase(
        "S-VAE (graphs)", D_VAE, s_vae, graphs, (posterior("fc2"),), None,
        truth="models.py:120 std = exp(0.5 logvar), the noise is scaled by 0.01 on top; KL of logvar in :147",
    ),
)
# fmt: on
