"""The third look's check on itself: some of its models once more, from their own code instead of ours.

As in the earlier looks, a case calls the repository's classes and its loss, on a small configuration, from a checkout
in the folder that `VDVAE_PATCH_PUBLIC` names. The truths are those of `third_images` and `third_sequences`; where the
code at this commit is other than what was read for these, the case says so. Improved diffusion stands here in both
forms and does not count for the look: the scan had been mended on a small example that was taken from it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from public import PublicCase, Repository, Retold, without
from public.draws import rand, randn, tokens
from public.third_images import (
    BayesianMLP,
    Denoiser,
    bits,
    combined_loss,
    labelled,
    layers_of,
    likelihood,
    posterior,
    prior,
    vade_loss,
)
from public.third_images import diffusion_loss as retold_diffusion_loss
from public.third_sequences import (
    clamped,
    counts,
    floored_log,
    root_of_softplus,
    tenth_softplus,
    tiny_softplus,
    wide_sigmoid,
)

MDN = Repository("tonyduan/mixture-density-network", "5bfeae42de2adf42d680bdfee24bb8c2ce52f259", root="src")
ETM = Repository(
    "adjidieng/ETM",
    "81b839f16d3c168ac2c5c22daff18d924962c075",
    stand_ins=without(data="get_batch", gensim="", gensim__models="", gensim__models__fasttext="FastText"),
)
IMPROVED = Repository("openai/improved-diffusion", "1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5")
PLANET = Repository("cross32768/PlaNet_PyTorch", "022baf724b52bf79e610f9d7a31e4195d6be6455")
SRVP = Repository("edouardelasalles/srvp", "05661faf767cdb33d40fc328679bbe50c3a1f938")
VRNN = Repository("facebookresearch/improved_vrnn", "c370ede10e7c0397ef8bdea1a20d54a45cd03af5")
VADE = Repository(
    "GuHongyang/VaDE-pytorch",
    "52a42ce75feaca7972372d270828121e3988976b",
    stand_ins=without(
        ipdb="", tqdm="tqdm", sklearn="", sklearn__mixture="GaussianMixture", sklearn__metrics="accuracy_score"
    ),
)
PYDREAMER = Repository(
    "jurgisp/pydreamer",
    "8a4ea85a925b57ddf24a221b41dfb3257f89d63a",
    stand_ins=without(pydreamer__models__dreamer="Dreamer", pydreamer__models__baselines="WorldModelProbe"),
)
SAC = Repository("pranz24/pytorch-soft-actor-critic", "c1805660b3961694be54079a355155a5cad492f5")
GLOW = Repository("chaiyujin/glow-pytorch", "487a6b149295f4ec4b36e408f63604c593ff2031", stand_ins=without(tqdm="tqdm"))
CLARINET = Repository("ksw0306/ClariNet", "df31b4c4ea78d3b52274632791d0a2c6e8ed6b64")
LSTM = Repository("bohanli/vae-pretraining-encoder", "bd4affa07bb01d7c673852ae1ec615f6bcae47ae")
WHAT = Repository("hmi88/what", "e3fe42ac8568bdaf28cf7fde112a8f95368097b9", root="WHAT_src")
ARD = Repository("HolyBayes/pytorch_ard", "9da3a4ce1b1b1b21d55a34bdd12d867a070ca9ab")


def mdn() -> nn.Module:
    (blocks,) = MDN.load("blocks")
    return blocks.MixtureDensityNetwork(3, 2, 3, 8)


def mdn_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return model.loss(x, y).mean()


def etm() -> nn.Module:
    (module,) = ETM.load("etm")
    return module.ETM(4, 12, 8, 5, 5, "relu")


def etm_loss(model: Any, bows: Tensor, normalized: Tensor) -> Tensor:
    rec, kl = model(bows, normalized)
    return rec + kl


def unet() -> nn.Module:
    (module,) = IMPROVED.load("improved_diffusion.unet")
    return module.UNetModel(2, 32, 4, 1, (), channel_mult=(1, 1))


def diffusion_loss(model: Any, x: Tensor, t: Tensor) -> Tensor:
    (d,) = IMPROVED.load("improved_diffusion.gaussian_diffusion")
    process = d.GaussianDiffusion(
        betas=np.linspace(1e-3, 0.2, 20), model_mean_type=d.ModelMeanType.EPSILON,
        model_var_type=d.ModelVarType.LEARNED_RANGE, loss_type=d.LossType.RESCALED_MSE,
    )  # fmt: skip
    return process.training_losses(model, x, t)["loss"].mean()


def planet() -> nn.Module:
    (m,) = PLANET.load("model")
    return nn.ModuleDict(
        {
            "encoder": m.Encoder(), "rssm": m.RecurrentStateSpaceModel(3, 2, 8, 8),
            "obs_model": m.ObservationModel(3, 8), "reward_model": m.RewardModel(3, 8, 8),
        }
    )  # fmt: skip


def planet_loss(model: Any, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """As train.py, whose KL is of the prior from the posterior."""
    length, batch = obs.shape[:2]
    embedded = model["encoder"](obs.reshape(-1, 3, 64, 64)).view(length, batch, -1)
    states, hiddens = torch.zeros(length, batch, 3), torch.zeros(length, batch, 8)
    state, hidden, kl_loss = torch.zeros(batch, 3), torch.zeros(batch, 8), 0
    for t in range(length - 1):
        p, q, hidden = model["rssm"](state, actions[t], hidden, embedded[t + 1])
        state = q.rsample()
        states[t + 1], hiddens[t + 1] = state, hidden
        kl_loss += kl_divergence(p, q).sum(dim=1).clamp(min=0.01).mean()
    kl_loss /= length - 1
    recon = model["obs_model"](states.view(-1, 3), hiddens.view(-1, 8)).view(obs.shape)
    predicted = model["reward_model"](states.view(-1, 3), hiddens.view(-1, 8)).view(length, batch, 1)
    obs_loss = 0.5 * F.mse_loss(recon[1:], obs[1:], reduction="none").mean([0, 1]).sum()
    return kl_loss + obs_loss + 0.5 * F.mse_loss(predicted[1:], rewards[:-1])


def srvp() -> nn.Module:
    (m,) = SRVP.load("module.srvp")
    return m.StochasticLatentResidualVideoPredictor(64, 1, 2, 6, 4, 3, True, 2, 8, 2, 8, 2, "dcgan")


def srvp_loss(model: Any, x: Tensor) -> Tensor:
    (utils,) = SRVP.load("module.utils")
    x_, _, _, _, q_y_params, q_params, p_params, _ = model(x, len(x), 1)
    make = utils.make_normal_from_raw_params
    nll = utils.neg_logprob(x_, x, scale=1).sum()
    kl_y = kl_divergence(make(q_y_params), Normal(0, 1)).sum()
    return (nll + kl_y + kl_divergence(make(q_params), make(p_params)).sum()) / x.size(1)


def vrnn() -> nn.Module:
    (m,) = VRNN.load("models.vrnn")
    return m.Model(1, 2, n_hid=16, n_z=3)


def vrnn_loss(model: Any, frames: Tensor) -> Tensor:
    (losses,) = VRNN.load("losses")
    (preds, priors, posteriors), _ = model(frames, {"n_steps": 4, "n_ctx": 2}, False)
    rec = F.mse_loss(preds, frames[:, 2:], reduction="none").sum((1, 2, 3, 4)).mean()
    return rec + losses.kl_loss({}, priors, posteriors)


def vade() -> nn.Module:
    (m,) = VADE.load("model")
    model = m.VaDE(SimpleNamespace(nClusters=3, hid_dim=10, cuda=False))
    nn.init.normal_(model.mu_c, 0, 0.5)  # a mixture fitted before training stands there
    model.elbo_loss = model.ELBO_Loss
    return model


def rssm() -> nn.Module:
    (m,) = PYDREAMER.load("pydreamer.models.rssm")
    return nn.ModuleDict(
        {
            "encoder": nn.Linear(10, 6), "core": m.RSSMCore(6, 2, 8, 3, 0, 8, 1, "gru", True),
            "decoder": nn.Linear(11, 10),
        }
    )  # fmt: skip


def rssm_loss(model: Any, obs: Tensor, actions: Tensor) -> Tensor:
    """As dreamer.py, with a KL balance of 0.8."""
    core, length, batch = model["core"], *obs.shape[:2]
    reset = torch.zeros(length, batch, dtype=torch.bool)
    p, q, _, features, _, _ = core(model["encoder"](obs), actions, reset, core.init_state(batch))
    loss_kl = 0.2 * kl_divergence(core.zdistr(q), core.zdistr(p.detach()))
    loss_kl = loss_kl + 0.8 * kl_divergence(core.zdistr(q.detach()), core.zdistr(p))
    return (loss_kl + 0.5 * torch.square(model["decoder"](features) - obs.unsqueeze(2)).sum(-1)).mean()


def sac() -> nn.Module:
    (m,) = SAC.load("model")
    return nn.ModuleDict({"policy": m.GaussianPolicy(4, 2, 8), "critic": m.QNetwork(4, 2, 8)})


def sac_loss(model: Any, state: Tensor) -> Tensor:
    pi, log_pi, _ = model["policy"].sample(state)
    return (0.2 * log_pi - torch.min(*model["critic"](state, pi))).mean()


def glow() -> nn.Module:
    (m,) = GLOW.load("glow.models")
    np.random.seed(0)
    settings = SimpleNamespace(
        image_shape=(8, 8, 1), hidden_channels=6, K=1, L=2, actnorm_scale=1.0, flow_permutation="invconv",
        flow_coupling="affine", LU_decomposed=False, learn_top=True, y_condition=False, y_classes=3,
    )  # fmt: skip
    return m.Glow(
        SimpleNamespace(Glow=settings, Device=SimpleNamespace(glow=["cpu"]), Train=SimpleNamespace(batch_size=4))
    )


def glow_loss(model: Any, x: Tensor) -> Tensor:
    return model.loss_generative(model(x=x)[1])


def wavenet() -> nn.Module:
    (m,) = CLARINET.load("wavenet")
    return m.Wavenet(
        out_channels=2, num_blocks=1, num_layers=2, residual_channels=4, gate_channels=4, skip_channels=4,
        cin_channels=3, upsample_scales=[2],
    )  # fmt: skip


def wavenet_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    (loss,) = CLARINET.load("loss")
    y_hat = model(x, c)
    return loss.gaussian_loss(y_hat[:, :, :-1], x.transpose(1, 2)[:, 1:]).mean()


def lstm_vae() -> nn.Module:
    (m,) = LSTM.load("modules")
    args = SimpleNamespace(
        ni=6, enc_nh=8, dec_nh=8, nz=4, fix_var=-1, device="cpu", dec_dropout_in=0.5, dec_dropout_out=0.5
    )
    encoder = m.GaussianLSTMEncoder(args, 9, uniform_weights, uniform_weights)
    return m.VAE(encoder, m.LSTMDecoder(args, range(9), uniform_weights, uniform_weights), args)


def uniform_weights(weights: Tensor) -> None:
    nn.init.uniform_(weights, -0.3, 0.3)


def lstm_vae_loss(model: Any, text: Tensor) -> Tensor:
    return model.loss(text, 0.5, nsamples=2)[0].mean()


def what() -> nn.Module:
    (m,) = WHAT.load("model.combined")
    return m.make_model(SimpleNamespace(drop_rate=0.2, in_channels=1))


def ard() -> nn.Module:
    (m,) = ARD.load("torch_ard.torch_ard")
    return BayesianMLP(lambda a, b: m.LinearARD(a, b, bias=False))


def ard_loss(model: Any, x: Tensor, label: Tensor) -> Tensor:
    (m,) = ARD.load("torch_ard.torch_ard")
    return F.cross_entropy(model(x), label) + m.get_ard_reg(model) / 100


def itself(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], tuple[Any, ...]]:
    return lambda: (make(*args, **kwargs),)


# fmt: off
CASES = (
    PublicCase(
        "Improved diffusion, learned range, retold",
        Retold(
            "openai/improved-diffusion", "1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5",
            "improved_diffusion/gaussian_diffusion.py",
        ),
        Denoiser, lambda: (2 * rand(4, 2, 8, 8) - 1, torch.tensor([0, 3, 7, 15])),
        (prior("out.2", 2, 4, None),), retold_diffusion_loss,
        truth="gaussian_diffusion.py:262-276 log variance between two bounds of the time step, as a fraction (v + 1) "
        "/ 2: "
        "σ(v) differs from sample to sample; second in normal_kl, hence a prior, and at t = 0 a likelihood",
    ),
    PublicCase(
        "MDN (tonyduan), itself", MDN, mdn, lambda: (randn(6, 3), randn(6, 2, seed=9)),
        (likelihood("normal_network.4", 6, 12, lambda v: torch.exp(v + 1e-6)),), mdn_loss, truth="src/blocks.py",
    ),
    PublicCase(
        "ETM, itself", ETM, etm, lambda: (counts(), counts() / counts().sum(1, keepdim=True)),
        (posterior("logsigma_q_theta"),), etm_loss, truth="etm.py",
    ),
    PublicCase(
        "Improved diffusion, learned range, itself", IMPROVED, unet,
        lambda: (2 * rand(4, 2, 8, 8) - 1, torch.tensor([0, 3, 7, 15])),
        (prior("out.2", 2, 4, None),), diffusion_loss,
        truth="gaussian_diffusion.py:262-276",
    ),
    PublicCase(
        "PlaNet (cross32768), itself", PLANET, planet,
        lambda: (rand(3, 2, 3, 64, 64), randn(3, 2, 2), randn(3, 2, 1, seed=9)),
        (
            posterior("rssm.fc_state_stddev_posterior", sigma=tenth_softplus),
            prior("rssm.fc_state_stddev_prior", sigma=tenth_softplus),
        ), planet_loss,
        truth="model.py at a later commit than the one read; train.py:162 a slip that ours lacks: "
        "KL(prior || posterior)",
    ),
    PublicCase(
        "SRVP, itself", SRVP, srvp, itself(rand, 4, 2, 1, 64, 64),
        (
            posterior("q_y.module.1.1", 4, 8, tiny_softplus), posterior("q_z", 3, 6, tiny_softplus),
            prior("p_z.module.1.1", 3, 6, tiny_softplus),
        ), srvp_loss, truth="module/utils.py make_normal_from_raw_params",
    ),
    PublicCase(
        "Improved VRNN, itself", VRNN, vrnn, itself(rand, 2, 4, 1, 128, 128),
        (
            posterior("posterior_nets.0.4.model", 3, 6, root_of_softplus),
            prior("prior_nets.0.4.model", 3, 6, root_of_softplus),
        ), vrnn_loss, truth="models/vrnn.py:271-280",
    ),
    PublicCase(
        "VaDE, itself", VADE, vade, itself(bits, 4, 784),
        (posterior("encoder.log_sigma2_l"), prior("log_sigma2_c")), vade_loss, truth="model.py ELBO_Loss",
    ),
    PublicCase(
        "PyDreamer RSSM, normal, itself", PYDREAMER, rssm, lambda: (randn(4, 3, 10), randn(4, 3, 2, seed=9)),
        (posterior("core.cell.post_mlp", 3, 6, wide_sigmoid), prior("core.cell.prior_mlp", 3, 6, wide_sigmoid)),
        rssm_loss, truth="functions.py:46",
    ),
    PublicCase(
        "SAC (pranz24), itself", SAC, sac, itself(randn, 6, 4),
        (likelihood("policy.log_std_linear", sigma=clamped),), sac_loss,
        truth="model.py:94, at a later commit than the one read, which scales the action",
    ),
    PublicCase(
        "Glow (chaiyujin), itself", GLOW, glow, itself(rand, 4, 1, 8, 8),
        (StridedHead("flow.layers.2.conv", 1, 4, "prior", torch.exp, step=2), prior("learn_top", 8, 16, torch.exp)),
        glow_loss, truth="glow/modules.py Split2d, glow/models.py prior",
    ),
    PublicCase(
        "ClariNet teacher, itself", CLARINET, wavenet, lambda: (0.3 * randn(3, 1, 12), randn(3, 3, 6)),
        (likelihood("final_conv.3.conv", 1, 2, floored_log),), wavenet_loss, truth="loss.py gaussian_loss",
    ),
    PublicCase(
        "VAE with a pretrained encoder, itself", LSTM, lstm_vae, itself(tokens, 9, 4, 6),
        (posterior("encoder.linear", 4, 8),), lstm_vae_loss, truth="modules/encoders/gaussian_encoder.py",
    ),
    PublicCase(
        "WHAT, combined uncertainty, itself", WHAT, what, lambda: (rand(3, 1, 8, 8), rand(3, 1, 8, 8, seed=9)),
        (likelihood("classifier_var"),), combined_loss, truth="model/combined.py",
    ),
    PublicCase(
        "LinearARD, itself", ARD, ard, labelled, layers_of("log_sigma2", sigma=None), ard_loss,
        truth="torch_ard/torch_ard.py; without a bias, whose sum raises",
    ),
)
# fmt: on
