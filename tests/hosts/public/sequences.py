"""Sequences, speech, video, world models, policies, neural processes, Bayesian layers and graphs in public code."""

from __future__ import annotations

import itertools
import math
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from zoo import TrueHead

from public import PublicCase, Repository, without
from public.draws import half, rand, randn, tokens


def softplus_tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def squared_loss(model: nn.Module, *inputs: Any) -> Tensor:
    """The square of what a model without a loss of its own returns."""
    return model(*inputs).pow(2).mean()


def module(name: str, **attributes: Any) -> ModuleType:
    """A stand-in that works."""
    made = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


# --------------------------------------------------------------------------------------------------------- speech


def diagonal_path(value: Tensor, mask: Tensor) -> Tensor:
    """A monotonic alignment that spreads the longer side evenly over the shorter one, whatever the scores are."""
    rows, columns = mask.sum(1)[:, :1, None], mask.sum(2)[:, :1, None]
    i = torch.arange(value.shape[1]).view(1, -1, 1)
    j = torch.arange(value.shape[2]).view(1, 1, -1)
    wide = torch.div(j * rows, columns, rounding_mode="floor") == i
    high = torch.div(i * columns, rows, rounding_mode="floor") == j
    return torch.where(rows >= columns, high, wide).to(value) * mask


ALIGN = {"monotonic_align": module("monotonic_align", maximum_path=diagonal_path)}
VITS = Repository("jaywalnut310/vits", "2e561ba58618d021b5b8323d3765880f7e0ecfdb", stand_ins=ALIGN)
GLOW_TTS = Repository(
    "jaywalnut310/glow-tts",
    "13e997689d643410f5d9f1f9a73877ae85e19bc2",
    stand_ins=ALIGN
    | without(
        librosa="",
        librosa__filters="mel",
        audio_processing="dynamic_range_compression dynamic_range_decompression",
        stft="STFT",
    ),
)
VAENAR = Repository(
    "keonlee9420/VAENAR-TTS",
    "3bfe693d1260b244c120f8eb11e3d33787c9aada",
    stand_ins=without(unidecode="unidecode") | {"inflect": module("inflect", engine=lambda: None)},
)


def vits() -> nn.Module:
    (models,) = VITS.load("models")
    return models.SynthesizerTrn(
        12, 9, 4, 4, 4, 8, 2, 1, 3, 0.1, "2", [3], [[1, 3]], [2], 4, [4], n_speakers=0, use_sdp=True
    )


def speech() -> tuple[Any, ...]:
    return tokens(12, 3, 5), torch.tensor([5, 5, 4]), rand(3, 9, 12), torch.tensor([12, 11, 10]), randn(3, 1, 24)


def vits_loss(model: nn.Module, text: Tensor, n: Tensor, spec: Tensor, m: Tensor, wave: Tensor) -> Tensor:
    losses, commons = VITS.load("losses", "commons")
    o, duration, _, ids, _, z_mask, (_, z_p, m_p, logs_p, _, logs_q) = model(text, n, spec, m)
    target = commons.slice_segments(wave, ids * 2, 8)
    kl = losses.kl_loss(z_p, logs_q, m_p, logs_p, z_mask)
    return 45 * F.l1_loss(o, target) + duration.float().sum() + kl


def glow_tts() -> nn.Module:
    (models,) = GLOW_TTS.load("models")
    return models.FlowGenerator(
        12, 8, 8, 8, 4, n_layers_enc=1, n_blocks_dec=2, n_block_layers=1, n_split=4, n_sqz=2, p_dropout=0.1
    )


def mels() -> tuple[Any, ...]:
    return tokens(12, 3, 5), torch.tensor([5, 5, 4]), randn(3, 4, 12), torch.tensor([12, 10, 10])


def glow_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    (commons,) = GLOW_TTS.load("commons")
    (z, z_m, z_logs, logdet, z_mask), _, (_, logw, logw_) = model(*inputs)
    return commons.mle_loss(z, z_m, z_logs, logdet, z_mask) + commons.duration_loss(logw, logw_, inputs[1])


def vaenar() -> nn.Module:
    (models,) = VAENAR.load("model.VAENAR")
    attention: dict[str, Any] = {"attention_dim": 8, "attention_heads": 2, "ffn_hidden": 8}
    return models.VAENAR(
        {"preprocessing": {"mel": {"n_mel_channels": 6}}},
        {
            "common": {
                "num_samples": 1,
                "mel_text_len_ratio": 2.0,
                "max_reduction_factor": 2,
                "latent_dim": 4,
                "output_dim": 6,
            },
            "transformer": {
                "encoder": {
                    "embd_dim": 8,
                    "n_conv": 1,
                    "pre_hidden": 8,
                    "conv_kernel": 3,
                    "pre_activation": "relu",
                    "pre_drop_rate": 0.1,
                    "pos_drop_rate": 0.1,
                    "bn_before_act": False,
                    "n_blk": 1,
                    "attention_temperature": 1.0,
                }
                | attention,
                "decoder": {
                    "nblk": 1,
                    "attention_temperature": 1.0,
                    "post_n_conv": 2,
                    "post_conv_filters": 8,
                    "post_conv_kernel": 3,
                    "post_drop_rate": 0.2,
                }
                | attention,
                "posterior": {
                    "pre_hidden": 8,
                    "pos_drop_rate": 0.2,
                    "pre_drop_rate": 0.5,
                    "pre_activation": "relu",
                    "nblk": 1,
                    "temperature": 1.0,
                }
                | attention,
                "prior": {"n_blk": 1, "n_transformer_blk": 1, "temperature": 1.0} | attention,
            },
            "length_predictor": {"dense": {"activation": "identity"}},
        },
    )


def utterances() -> tuple[Any, ...]:
    mel_lengths = torch.tensor([12, 12, 10])
    return None, tokens(30, 3, 5, low=1), torch.tensor([5, 5, 4]), 5, randn(3, 12, 6), mel_lengths, 12


def vaenar_loss(model: nn.Module, *inputs: Any) -> Tensor:
    _, mel_l2, kl, length_l2, *_ = model(*inputs, reduction_factor=2, reduce_loss=True)
    return mel_l2 + length_l2 + 0.1 * kl.clamp_min(0)


# --------------------------------------------------------------------------------------------------- world models

DREAMER_V3 = Repository("NM512/dreamerv3-torch", "6ef8646d807cd10ce0c88e10a7e943211e7fc44c")
PLANET = Repository("Kaixhin/PlaNet", "28c8491bc01e8f1b911300749e04c308c03db051")
SLAC = Repository("toshikwa/slac.pytorch", "8b9d520a0020dbeba4ea1fc7e3c013be8b3a5d7d")
WORLD_MODELS = Repository("ctallec/world-models", "d6abd9ce97409734a766eb67ccf0d1967ba9bf0c")


def mapped(state: Any, method: str) -> Any:
    return type(state)(*(getattr(value, method)() for value in state))


DREAMER = Repository(
    "juliusfrost/dreamer-pytorch",
    "f973caff6efc843c8dc2f2fb0c07b061b1f8ef74",
    stand_ins={
        "rlpyt": module("rlpyt"),
        "rlpyt.utils": module("rlpyt.utils"),
        "rlpyt.utils.collections": module("rlpyt.utils.collections", namedarraytuple=namedtuple),
        "rlpyt.utils.buffer": module("rlpyt.utils.buffer", buffer_method=mapped),
    },
)


def rssm_v3() -> nn.Module:
    (networks,) = DREAMER_V3.load("networks")
    rssm = networks.RSSM(
        stoch=3, deter=8, hidden=8, discrete=False, std_act="sigmoid2", num_actions=2, embed=6, device="cpu"
    )
    decoder = networks.MLP(11, (6,), 1, 8, dist="symlog_mse", device="cpu", name="Decoder")
    return nn.ModuleDict({"rssm": rssm, "decoder": decoder})


def episodes() -> tuple[Any, ...]:
    first = torch.zeros(3, 4)
    first[:, 0] = 1
    return randn(3, 4, 6), randn(3, 4, 2, seed=8), first


def rssm_v3_loss(model: Any, embed: Tensor, action: Tensor, first: Tensor) -> Tensor:
    post, prior = model["rssm"].observe(embed, action, first)
    kl, *_ = model["rssm"].kl_loss(post, prior, torch.tensor(0.1), 0.5, 0.1)
    return (kl - model["decoder"](model["rssm"].get_feat(post)).log_prob(embed)).mean()


def actor_v3() -> nn.Module:
    (networks,) = DREAMER_V3.load("networks")
    return networks.MLP(5, (2,), 1, 8, dist="normal", std="learned", absmax=1.0, device="cpu", name="Actor")


def features() -> tuple[Any, ...]:
    return randn(5, 5), randn(5, seed=9)


def actor_v3_loss(model: Any, feature: Tensor, advantage: Tensor) -> Tensor:
    policy = model(feature)
    action = policy.sample().detach()
    return (-policy.log_prob(action) * advantage - 3e-4 * policy.entropy()).mean()


def v3_sigma(v: Tensor) -> Tensor:
    return 2 * torch.sigmoid(v / 2) + 0.1


def v3_actor_sigma(v: Tensor) -> Tensor:
    return 0.9 * torch.sigmoid(v + 2) + 0.1


def dreamer() -> nn.Module:
    rnns, dense, action = DREAMER.load("dreamer.models.rnns", "dreamer.models.dense", "dreamer.models.action")
    transition = rnns.RSSMTransition(2, 3, 8, 8)
    representation = rnns.RSSMRepresentation(transition, 6, 2, 3, 8, 8)
    return nn.ModuleDict(
        {
            "transition": transition,
            "representation": representation,
            "rollout": rnns.RSSMRollout(representation, transition),
            "observation": dense.DenseModel(11, (6,), 1, 8),
            "reward": dense.DenseModel(11, (1,), 1, 8),
            "actor": action.ActionDecoder(2, 11, 8, 1),
        }
    )


def time_major() -> tuple[Any, ...]:
    return randn(3, 4, 6), randn(3, 4, 2, seed=8), randn(3, 4, 1, seed=9)


def dreamer_model_loss(model: Any, embed: Tensor, action: Tensor, reward: Tensor) -> Tensor:
    (rnns,) = DREAMER.load("dreamer.models.rnns")
    state = model["representation"].initial_state(4)
    prior, post = model["rollout"].rollout_representation(3, embed, action, state)
    feature = rnns.get_feat(post)
    kl = kl_divergence(rnns.get_dist(post), rnns.get_dist(prior)).mean().clamp_min(0.1)
    return kl - model["observation"](feature).log_prob(embed).mean() - model["reward"](feature).log_prob(reward).mean()


def dreamer_actor_loss(model: Any, embed: Tensor, action: Tensor, reward: Tensor) -> Tensor:
    (rnns,) = DREAMER.load("dreamer.models.rnns")

    def policy(state: Any) -> tuple[Tensor, Any]:
        law = model["actor"](rnns.get_feat(state))
        return law.rsample(), law

    states, _ = model["rollout"].rollout_policy(3, policy, model["transition"].initial_state(4))
    return -model["reward"](rnns.get_feat(states)).mean.mean()


def dreamer_actor_sigma(v: Tensor) -> Tensor:
    return F.softplus(v + math.log(math.exp(5) - 1)) + 1e-4


def planet() -> nn.Module:
    (models,) = PLANET.load("models")
    return nn.ModuleDict(
        {
            "transition": models.TransitionModel(8, 3, 2, 8, 6),
            "observation": models.SymbolicObservationModel(6, 8, 3, 6),
            "encoder": models.Encoder(True, 6, 6),
        }
    )


def planet_loss(model: Any, frames: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    (models,) = PLANET.load("models")
    embed = models.bottle(model["encoder"], (frames,))
    beliefs, _, mu_p, std_p, states, mu_q, std_q = model["transition"](
        torch.zeros(4, 3), actions, torch.zeros(4, 8), embed, torch.ones(3, 4, 1)
    )
    kl = kl_divergence(Normal(mu_q, std_q), Normal(mu_p, std_p)).sum(2)
    decoded = models.bottle(model["observation"], (beliefs, states))
    return (decoded - frames).pow(2).sum(2).mean() + torch.max(kl, torch.tensor(0.1)).mean()


def slac() -> nn.Module:
    (latent,) = SLAC.load("slac.network.latent")
    return latent.LatentModel((3, 64, 64), (2,), 8, 3, 5, (8, 8))


def videos() -> tuple[Any, ...]:
    return rand(2, 3, 3, 64, 64), randn(2, 2, 2), randn(2, 2, 1), torch.zeros(2, 2, 1)


def slac_loss(model: Any, *batch: Tensor) -> Tensor:
    kl, image, reward = model.calculate_loss(*batch)
    return kl + image + reward


def slac_sigma(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-5


def vision() -> nn.Module:
    (vae,) = WORLD_MODELS.load("models.vae")
    return vae.VAE(3, 6)


def frames64() -> tuple[Any, ...]:
    return (rand(3, 3, 64, 64),)


def vision_loss(model: nn.Module, x: Tensor) -> Tensor:
    decoded, mu, logsigma = model(x)
    kl = -0.5 * (1 + 2 * logsigma - mu**2 - torch.exp(2 * logsigma)).sum()
    return F.mse_loss(decoded, x, reduction="sum") + kl


def memory() -> nn.Module:
    (mdrnn,) = WORLD_MODELS.load("models.mdrnn")
    return mdrnn.MDRNN(3, 2, 8, 4)


def dreams() -> tuple[Any, ...]:
    return randn(4, 5, 2), randn(4, 5, 3), randn(4, 5, 3, seed=9), randn(4, 5), rand(4, 5).round()


def memory_loss(model: nn.Module, action: Tensor, z: Tensor, ahead: Tensor, reward: Tensor, end: Tensor) -> Tensor:
    (mdrnn,) = WORLD_MODELS.load("models.mdrnn")
    mus, sigmas, logpi, rs, ds = model(action, z)
    gmm = mdrnn.gmm_loss(ahead, mus, sigmas, logpi)
    return (gmm + F.mse_loss(rs, reward) + F.binary_cross_entropy_with_logits(ds, end)) / 5


# ------------------------------------------------------------------------------------- sequences, video and text

VRNN = Repository(
    "emited/VariationalRecurrentNeuralNetwork",
    "0f23c87d11597ecf50ecbbf1dd37429861fd7aca",
    stand_ins=without(torchvision="datasets transforms"),
)
SVG = Repository("edenton/svg", "3f19f0b581161614382b2d529f8d92c7d25999e5")
DMM = Repository(
    "yjlolo/pytorch-deep-markov-model",
    "3e606a3a4e2cf3474038b8fa539c6d8525d44abe",
    stand_ins=without(pandas=""),
)
SENTENCE_VAE = Repository("timbmg/Sentence-VAE", "4e2c7009ff36677c40d0b252400f68a5ea114078")
LAGGING = Repository("jxhe/vae-lagging-encoder", "cdc4eb9d9599a026bf277db74efc2ba1ec203b15")
CONTROLLED_TEXT = Repository("wiseodd/controlled-text-generation", "a52bb151dae2600b6427d0420e6b298cf23c73c6")
VRAE = Repository("tejaslodaya/timeseries-clustering-vae", "f843d62205cb9c51b6de768b812700719886c226")
DEEP_AR = Repository("zhykoties/TimeSeries", "b12b13c8250a096e38882d258213abd6c2d78c43")
MOLECULES = Repository("topazape/molecular-VAE", "ff9fbf759f5dc8780171c764c9fcfd327b43dfc2")
DLOW = Repository("Khrylx/DLow", "78efe3717d78d5b70127000f3fb8811c28c855a2")
PECNET = Repository(
    "HarshayuGirase/PECNet",
    "a345ada1557f53dc2acb4c07f71d340d366980da",
    root="PECNet",
    stand_ins=without(IPython="embed", pandas=""),
)


def euler(func: Any, y0: Tensor, t: Tensor, **options: Any) -> Tensor:
    """Integrates by one step of Euler's between two times."""
    ys = [y0]
    for start, end in itertools.pairwise(t):
        ys.append(ys[-1] + (end - start) * func(start, ys[-1]))
    return torch.stack(ys)


LATENT_ODE = Repository(
    "YuliaRubanova/latent_ode",
    "c0682d4f52b806fb88d965755892eadd9783f936",
    stand_ins={"torchdiffeq": module("torchdiffeq", odeint=euler), **without(pandas="")},
)


def vrnn() -> nn.Module:
    (model,) = VRNN.load("model")
    return model.VRNN(6, 8, 3, 1)


def sequences() -> tuple[Any, ...]:
    return (rand(4, 5, 6),)


def vrnn_loss(model: nn.Module, x: Tensor) -> Tensor:
    kld, nll, *_ = model(x)
    return kld + nll


def svg() -> nn.Module:
    (lstm,) = SVG.load("models.lstm")

    def on_cpu(kind: Any) -> Any:
        def zeros(self: Any) -> list[tuple[Tensor, Tensor]]:
            return [(torch.zeros(self.batch_size, self.hidden_size),) * 2 for _ in range(self.n_layers)]

        return type(kind.__name__, (kind,), {"init_hidden": zeros})

    encoder, decoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 6)
    return nn.ModuleDict(
        {
            "frame_predictor": on_cpu(lstm.lstm)(8, 5, 8, 1, 4),
            "posterior": on_cpu(lstm.gaussian_lstm)(5, 3, 8, 1, 4),
            "prior": on_cpu(lstm.gaussian_lstm)(5, 3, 8, 1, 4),
            "encoder": encoder,
            "decoder": decoder,
        }
    )


def clips() -> tuple[Any, ...]:
    return (rand(4, 4, 6),)


def svg_loss(model: Any, x: Tensor) -> Tensor:
    for name in ("frame_predictor", "posterior", "prior"):
        model[name].hidden = model[name].init_hidden()
    loss = torch.zeros(())
    for before, now in itertools.pairwise(x):
        h, target = model["encoder"](before), model["encoder"](now)
        z, mu, logvar = model["posterior"](target)
        _, mu_p, logvar_p = model["prior"](h)
        decoded = model["decoder"](model["frame_predictor"](torch.cat([h, z], 1)))
        sigma, sigma_p = logvar.mul(0.5).exp(), logvar_p.mul(0.5).exp()
        kl = torch.log(sigma_p / sigma) + (torch.exp(logvar) + (mu - mu_p) ** 2) / (2 * torch.exp(logvar_p)) - 0.5
        loss = loss + F.mse_loss(decoded, now) + 1e-2 * kl.sum() / 4
    return loss


def dmm() -> nn.Module:
    (model,) = DMM.load("model.model")
    return model.DeepMarkovModel(6, 3, 8, 8, 8, "lstm", 1, False, True, True, True, False)


def music() -> tuple[Any, ...]:
    (util,) = DMM.load("data_loader.seq_util")
    x, n = rand(4, 5, 6).round(), torch.tensor([5, 5, 4, 3])
    return x, util.reverse_sequence(x, n), n, util.get_mini_batch_mask(x, n)


def dmm_loss(model: nn.Module, x: Tensor, backwards: Tensor, n: Tensor, mask: Tensor) -> Tensor:
    (loss,) = DMM.load("model.loss")
    decoded, _, _, *laws = model(x, backwards, n)
    return loss.dmm_loss(x, decoded, *laws, 1.0, mask)[-1]


def sentence_vae() -> nn.Module:
    (model,) = SENTENCE_VAE.load("model")
    return model.SentenceVAE(12, 6, "gru", 8, 0.2, 0.5, 3, 2, 3, 0, 1, 7)


def sentences() -> tuple[Any, ...]:
    return tokens(12, 4, 7, low=2), torch.tensor([5, 7, 6, 7]), tokens(12, 4, 7, low=2, seed=8)


def sentence_loss(model: nn.Module, x: Tensor, length: Tensor, target: Tensor) -> Tensor:
    logp, mean, logv, _ = model(x, length)
    nll = F.nll_loss(logp.reshape(-1, 12), target.reshape(-1), ignore_index=0, reduction="sum")
    kl = -0.5 * (1 + logv - mean**2 - logv.exp()).sum()
    return (nll + 0.1 * kl) / len(x)


def lagging() -> nn.Module:
    modules, vae = LAGGING.load("modules", "modules.vae")
    args = SimpleNamespace(ni=6, enc_nh=8, dec_nh=8, nz=3, device="cpu", dec_dropout_in=0.5, dec_dropout_out=0.5)

    def uniform(weight: Tensor) -> Tensor:
        return nn.init.uniform_(weight, -0.1, 0.1)

    encoder = modules.LSTMEncoder(args, 12, uniform, uniform)
    return vae.VAE(encoder, modules.LSTMDecoder(args, range(12), uniform, uniform), args)


def texts() -> tuple[Any, ...]:
    return (tokens(12, 4, 7),)


def lagging_loss(model: Any, x: Tensor) -> Tensor:
    return model.loss(x, 0.5)[0].mean()


def controlled_text() -> nn.Module:
    (model,) = CONTROLLED_TEXT.load("ctextgen.model")
    kind = type("RNN_VAE", (model.RNN_VAE,), {"word_dropout": lambda self, inputs: inputs})
    return kind(12, 8, 3, 2)


def column_texts() -> tuple[Any, ...]:
    return (tokens(12, 7, 4, low=2),)


def controlled_loss(model: nn.Module, x: Tensor) -> Tensor:
    reconstruction, kl = model(x)
    return reconstruction + 0.5 * kl


def vrae() -> nn.Module:
    (model,) = VRAE.load("vrae.vrae")
    return model.VRAE(5, 2, hidden_size=8, hidden_layer_depth=1, latent_length=3, batch_size=4)


def series() -> tuple[Any, ...]:
    return (randn(5, 4, 2),)


def vrae_loss(model: Any, x: Tensor) -> Tensor:
    return model.compute_loss(x)[0]


def deep_ar() -> nn.Module:
    (net,) = DEEP_AR.load("model.net")
    return net.Net(
        SimpleNamespace(
            num_class=4, embedding_dim=3, cov_dim=2, lstm_hidden_dim=6, lstm_layers=2, lstm_dropout=0.1, device="cpu"
        )
    )


def windows() -> tuple[Any, ...]:
    return randn(4, 5, 3), tokens(4, 1, 5), randn(4, 5, seed=8)


def deep_ar_loss(model: Any, x: Tensor, idx: Tensor, labels: Tensor) -> Tensor:
    (net,) = DEEP_AR.load("model.net")
    hidden, cell, loss = model.init_hidden(5), model.init_cell(5), torch.zeros(1)
    for t in range(len(x)):
        mu, sigma, hidden, cell = model(x[t].unsqueeze(0), idx, hidden, cell)
        loss = loss + net.loss_fn(mu, sigma, labels[t])
    return loss


def molecules() -> nn.Module:
    (models,) = MOLECULES.load("models")
    return models.MolecularVAE()


def smiles() -> tuple[Any, ...]:
    return (F.one_hot(tokens(35, 3, 120), 35).float().transpose(1, 2),)


def molecule_loss(model: nn.Module, x: Tensor) -> Tensor:
    decoded, mu, logvar = model(x)
    bce = F.binary_cross_entropy(decoded, x.transpose(1, 2), reduction="sum")
    return bce - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()


SPECS = {"rnn_type": "gru", "nh_rnn": 8, "nh_mlp": [8, 6], "x_birnn": False, "e_birnn": False}


def motion() -> nn.Module:
    (models,) = DLOW.load("models.motion_pred")
    return models.VAE(4, 4, 3, 3, SPECS | {"use_drnn_mlp": True})


def motions() -> tuple[Any, ...]:
    walk = randn(7, 5, 4).cumsum(0) * 0.3
    return walk[:4], walk[4:]


def motion_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    decoded, mu, logvar = model(x, y)
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / 5
    return (decoded - y).pow(2).sum() / 5 + 10 * (x[-1] - decoded[0]).pow(2).sum() / 5 + 0.1 * kl


def dlow() -> nn.Module:
    (models,) = DLOW.load("models.motion_pred")
    vae = models.VAE(4, 4, 3, 3, SPECS).requires_grad_(False)
    return nn.ModuleDict({"vae": vae, "dlow": models.NFDiag(4, 3, 2, SPECS)})


def dlow_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    z, a, b = model["dlow"](x)
    decoded = model["vae"].decode(x.repeat_interleave(2, dim=1), z).view(3, 5, 2, 4)
    best = (decoded - y.unsqueeze(2)).pow(2).sum((0, 3)).min(1).values.mean()
    apart = torch.exp(-(decoded[:, :, 0] - decoded[:, :, 1]).pow(2).sum((0, 2)) / 100).mean()
    return model["dlow"].get_kl(a, b) / len(a) + 25 * apart + 2 * best


def absolute(v: Tensor) -> Tensor:
    return v.abs()


def pecnet() -> nn.Module:
    (models,) = PECNET.load("utils.models")
    sizes = [[8, 6]] * 8
    return models.PECNet(*sizes, 4, 3, 1, 5, 1.3, 4, 5, False).double()


def walks() -> tuple[Any, ...]:
    steps = 0.3 * randn(5, 9, 2).double()
    past, future = steps[:, :4].reshape(5, 8), steps[:, 4:]
    return past, past[:, -2:], future[:, -1], torch.ones(5, 5).double(), future[:, :-1].reshape(5, 8)


def pecnet_loss(model: nn.Module, past: Tensor, start: Tensor, goal: Tensor, mask: Tensor, path: Tensor) -> Tensor:
    (utils,) = PECNET.load("utils.social_utils")
    decoded, mu, logvar, interpolated = model(past, start, dest=goal, mask=mask)
    losses = utils.calculate_loss(goal, decoded, mu, logvar, nn.MSELoss(), path, interpolated)
    return sum(losses, torch.zeros(()))


def latent_ode() -> nn.Module:
    (create,) = LATENT_ODE.load("lib.create_latent_ode_model")
    args = SimpleNamespace(
        latents=3, poisson=False, units=8, gen_layers=1, rec_layers=1, rec_dims=4, gru_units=8, z0_encoder="odernn"
    )
    args.classif, args.linear_classif, args.dataset = False, False, "periodic"
    prior = Normal(torch.zeros(1), torch.ones(1))
    return create.create_LatentODE_model(args, 2, prior, torch.tensor([0.1]), torch.device("cpu"))


def irregular() -> tuple[Any, ...]:
    times, data = torch.linspace(0, 1, 5), rand(4, 5, 2)
    batch = {"observed_data": data, "observed_tp": times, "observed_mask": torch.ones(4, 5, 2), "labels": None}
    return (batch | {"data_to_predict": data, "tp_to_predict": times, "mask_predicted_data": None, "mode": "interp"},)


def latent_ode_loss(model: Any, batch: Any) -> Tensor:
    return model.compute_all_losses(batch, n_traj_samples=2, kl_coef=0.5)["loss"]


# ----------------------------------------------------------------------------------- neural processes, regression

NEURAL_PROCESS = Repository("EmilienDupont/neural-processes", "b6f31c36a9f9df6b80d2a7f9ba756855fce0e13b")
ATTENTIVE = Repository("soobinseo/Attentive-Neural-Process", "6a2aacbf25ad92de58634e6c2047b8aa2da71b69")
CONV_CNP = Repository(
    "makora9143/pytorch-convcnp",
    "31340d5cf4b537a240075f93c8d4aff6f10d8931",
    stand_ins=without(gpytorch="", gpytorch__kernels="RBFKernel ScaleKernel"),
)
MDN = Repository("sagelywizard/pytorch-mdn", "b5744b88eea88bc138fc19bc66c87e81dd5e340a")
CEVAE = Repository("TwsThomas/CEVAE_pytorch", "e32de26b46e525ebec3f2d66994429d1f6b63377")


def neural_process() -> nn.Module:
    (process,) = NEURAL_PROCESS.load("neural_process")
    return process.NeuralProcess(1, 1, 8, 3, 8)


def curves() -> tuple[Any, ...]:
    x = 4 * rand(3, 9, 1) - 2
    y = torch.sin(x)
    return x[:, :4].contiguous(), y[:, :4].contiguous(), x, y


def process_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    (training,) = NEURAL_PROCESS.load("training")
    predicted, target, context = model(*inputs)
    return training.NeuralProcessTrainer._loss(None, predicted, inputs[3], target, context)


def process_sigma(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def process_output_sigma(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


def attentive() -> nn.Module:
    (network,) = ATTENTIVE.load("network")
    return network.LatentModel(8)


def pixels() -> tuple[Any, ...]:
    x, y = rand(3, 9, 2), rand(3, 9, 1, seed=8)
    return x[:, :4], y[:, :4], x, y


def attentive_loss(model: nn.Module, *inputs: Tensor) -> Tensor:
    return model(*inputs)[2]


def conv_cnp() -> nn.Module:
    (models,) = CONV_CNP.load("convcnp.models.convcnp2d")
    return models.ConvCNP2d(3)


def pictures() -> tuple[Any, ...]:
    return (rand(2, 3, 8, 8),)


def conv_cnp_loss(model: nn.Module, x: Tensor) -> Tensor:
    (utils,) = CONV_CNP.load("convcnp.utils")
    return -model(x).log_prob(utils.channel_last(x)).sum((1, 2)).mean()


def mdn() -> nn.Module:
    (package,) = MDN.load("mdn.mdn")
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), package.MDN(6, 2, 3))


def pairs() -> tuple[Any, ...]:
    return randn(5, 4), randn(5, 2, seed=8)


def mdn_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    (package,) = MDN.load("mdn.mdn")
    return package.mdn_loss(*model(x), y)


def cevae() -> nn.Module:
    (net,) = CEVAE.load("networks")
    return nn.ModuleDict(
        {
            "p_x_z": net.p_x_z(4, 2, 8, 3, 2),
            "p_t_z": net.p_t_z(4, 1, 8, 1),
            "p_y_zt": net.p_y_zt(4, 2, 8, 1),
            "q_t_x": net.q_t_x(5, 1, 8, 1),
            "q_y_xt": net.q_y_xt(5, 2, 8, 1),
            "q_z_tyx": net.q_z_tyx(6, 2, 8, 4),
        }
    )


def treated() -> tuple[Any, ...]:
    return torch.cat([rand(6, 3).round(), randn(6, 2)], 1), torch.tensor([0.0, 1, 1, 0, 1, 0])[:, None], randn(6, 1)


def cevae_loss(model: Any, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    law = model["q_z_tyx"](xy=torch.cat((x, y), 1), t=t)
    z = law.sample()
    binary, continuous = model["p_x_z"](z)
    terms = (
        binary.log_prob(x[:, :3]).sum(1)
        + continuous.log_prob(x[:, 3:]).sum(1)
        + model["p_t_z"](z).log_prob(t).squeeze()
        + model["p_y_zt"](z, t).log_prob(y).squeeze()
        + Normal(torch.zeros(4), torch.ones(4)).log_prob(z).sum(1)
        - law.log_prob(z).sum(1)
        + model["q_t_x"](x).log_prob(t).squeeze()
        + model["q_y_xt"](x, t).log_prob(y).squeeze()
    )
    return -terms.mean()


# --------------------------------------------------------------------------------------------------------- graphs

GAE = Repository("zfjsail/gae-pytorch", "c0b95cac8eb2928d0b5d6d65fee938fe97f60262")
VGAE = Repository("DaehanKim/vgae_pytorch", "568c20f5b88adeafd3b8bcfadffd340dc0bf06b8")


def graph() -> tuple[Tensor, Tensor]:
    edges = (rand(7, 7) > 0.6).float()
    edges = ((edges + edges.T + torch.eye(7)) > 0).float()
    degree = edges.sum(1).rsqrt()
    return edges, degree[:, None] * edges * degree


def gae() -> nn.Module:
    (model,) = GAE.load("gae.model")
    return model.GCNModelVAE(5, 8, 3, 0.1)


def graphs() -> tuple[Any, ...]:
    edges, normalized = graph()
    return randn(7, 5), normalized.to_sparse(), edges


def gae_loss(model: nn.Module, x: Tensor, normalized: Tensor, edges: Tensor) -> Tensor:
    (optimizer,) = GAE.load("gae.optimizer")
    decoded, mu, logvar = model(x, normalized)
    return optimizer.loss_function(decoded, edges, mu, logvar, 7, 0.8, torch.tensor(1.5))


def vgae() -> nn.Module:
    model, args = VGAE.load("model", "args")
    args.input_dim, args.hidden1_dim, args.hidden2_dim = 5, 8, 3
    return model.VGAE(graph()[1])


def nodes() -> tuple[Any, ...]:
    return randn(7, 5), graph()[0]


def vgae_loss(model: Any, x: Tensor, edges: Tensor) -> Tensor:
    decoded = model(x)
    kl = 0.5 / len(x) * (1 + 2 * model.logstd - model.mean**2 - torch.exp(model.logstd) ** 2).sum(1).mean()
    return F.binary_cross_entropy(decoded.view(-1), edges.view(-1)) - kl


# ------------------------------------------------------------------------------------------------ Bayesian layers

TORCHBNN = Repository("Harry24k/bayesian-neural-network-pytorch", "3555c30b00cc25cf0220658ac394cc1985fb27b4")
BAYESIAN_TORCH = Repository("IntelLabs/bayesian-torch", "aa7e57b396953c82e347c66e14d7aaa7d90ce6b0")
BLITZ = Repository(
    "piEsposito/blitz-bayesian-deep-learning",
    "5af11742484852c8bf69ad6fef27c230a2a0ecc2",
    stand_ins=without(torchvision="models", torchvision__models=""),
)
BNNS = Repository(
    "JavierAntoran/Bayesian-Neural-Networks",
    "49a02f188ba08d1069f33859f5caf0be6622f3cd",
    stand_ins=without(torchvision="datasets transforms", torchvision__transforms=""),
)


def torchbnn() -> nn.Module:
    (bnn,) = TORCHBNN.load("torchbnn")
    return nn.Sequential(bnn.BayesLinear(0, 0.1, 4, 6), nn.ReLU(), bnn.BayesLinear(0, 0.1, 6, 3))


def labelled() -> tuple[Any, ...]:
    return randn(6, 4), tokens(3, 6)


def torchbnn_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    (functional,) = TORCHBNN.load("torchbnn.functional")
    return F.cross_entropy(model(x), y) + 0.01 * functional.bayesian_kl_loss(model).sum()


class BayesianNet(nn.Module):
    """Layers of the repository that return their output and their KL."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.one, self.two = layer(4, 6), layer(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, kl = self.one(x)
        y, more = self.two(F.relu(h))
        return y, kl + more


def bayesian_torch() -> nn.Module:
    (layers,) = BAYESIAN_TORCH.load("bayesian_torch.layers.variational_layers.linear_variational")
    return BayesianNet(layers.LinearReparameterization)


def bayesian_torch_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits, kl = model(x)
    return F.cross_entropy(logits, y) + kl / len(x)


def blitz() -> nn.Module:
    (layers,) = BLITZ.load("blitz.modules.linear_bayesian_layer")
    return nn.Sequential(layers.BayesianLinear(4, 6), nn.ReLU(), layers.BayesianLinear(6, 3))


def blitz_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    (losses,) = BLITZ.load("blitz.losses")
    return F.cross_entropy(model(x), y) + losses.kl_divergence_from_nn(model) / 100


def local_reparameterization() -> nn.Module:
    (model,) = BNNS.load("src.Bayes_By_Backprop_Local_Reparametrization.model")
    return model.bayes_linear_LR_2L(4, 3, 6, 0.1)


def local_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits, kl, _ = model(x, sample=True)
    return F.cross_entropy(logits, y, reduction="sum") + kl / 10


def bbb_sigma(v: Tensor) -> Tensor:
    return 1e-6 + F.softplus(v)


# ------------------------------------------------------------------------------------------ reinforcement learning


class Box:
    """A space of real vectors, known by its name and its shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.high = torch.ones(shape)


A2C = Repository(
    "ikostrikov/pytorch-a2c-ppo-acktr-gail",
    "41332b78dfb50321c29bade65f9d244387f68a60",
    stand_ins=without(a2c_ppo_acktr__envs="VecNormalize"),
)
GYM = {
    "gym": module("gym"),
    "gym.spaces": module("gym.spaces", Box=Box, **{name: type(name, (), {}) for name in ("Discrete", "MultiBinary")}),
}
SPINNING_UP_PPO = Repository(
    "openai/spinningup", "038665d62d569055401d91856abb287263096178", root="spinup/algos/pytorch/ppo", stand_ins=GYM
)
SPINNING_UP_SAC = Repository(
    "openai/spinningup", "038665d62d569055401d91856abb287263096178", root="spinup/algos/pytorch/sac", stand_ins=GYM
)
PYTORCH_SAC = Repository(
    "denisyarats/pytorch_sac",
    "81c5b536d3a1c5616b2531e446450df412a064fb",
    stand_ins=without(gym="", dmc2gym=""),
)
MINIMAL_RL = Repository("seungeunrho/minimalRL", "c8efed8481e3cd40e9739cfde220a55522555b57", stand_ins=without(gym=""))
CLEAN_RL = Repository(
    "vwxyzjn/cleanrl",
    "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb",
    root="cleanrl",
    stand_ins=without(gymnasium="", cleanrl_utils="", cleanrl_utils__buffers="ReplayBuffer"),
)
MBPO = Repository(
    "jiangsy/mbpo_pytorch", "411b3a92e67bf83f43a3e7a4e559176adb741ed6", stand_ins=GYM | without(gym__wrappers="")
)
BCQ = Repository("sfujim/BCQ", "4876f7e5afa9eb2981feec5daf67202514477518", root="continuous_BCQ")


def steps() -> tuple[Any, ...]:
    """Observations, actions, advantages, returns."""
    return randn(6, 4), randn(6, 2, seed=8), randn(6, seed=9), randn(6, seed=10)


def a2c() -> nn.Module:
    (model,) = A2C.load("a2c_ppo_acktr.model")
    return model.Policy((4,), Box(2), base_kwargs={"recurrent": False, "hidden_size": 8})


def a2c_loss(model: Any, s: Tensor, a: Tensor, advantage: Tensor, returns: Tensor) -> Tensor:
    value, log_prob, entropy, _ = model.evaluate_actions(s, torch.zeros(6, 1), torch.ones(6, 1), a)
    critic = 0.5 * (returns[:, None] - value).pow(2).mean()
    return critic - (advantage[:, None] * log_prob).mean() - 0.01 * entropy


def spinning_ppo() -> nn.Module:
    (core,) = SPINNING_UP_PPO.load("core")
    return core.MLPActorCritic(Box(4), Box(2), (8,))


def spinning_ppo_loss(model: Any, s: Tensor, a: Tensor, advantage: Tensor, returns: Tensor) -> Tensor:
    _, log_prob = model.pi(s, a)
    ratio = torch.exp(log_prob - log_prob.detach())
    clipped = torch.clamp(ratio, 0.8, 1.2) * advantage
    return -torch.min(ratio * advantage, clipped).mean() + (model.v(s) - returns).pow(2).mean()


def spinning_sac() -> nn.Module:
    (core,) = SPINNING_UP_SAC.load("core")
    return core.MLPActorCritic(Box(4), Box(2), (8, 8))


def states() -> tuple[Any, ...]:
    return (randn(6, 4),)


def spinning_sac_loss(model: Any, s: Tensor) -> Tensor:
    a, log_prob = model.pi(s)
    return (0.2 * log_prob - torch.min(model.q1(s, a), model.q2(s, a))).mean()


def clamped(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, -20, 2))


def pytorch_sac() -> nn.Module:
    actor, utils = PYTORCH_SAC.load("agent.actor", "utils")
    return nn.ModuleDict({"actor": actor.DiagGaussianActor(4, 2, 8, 2, [-5, 2]), "critic": utils.mlp(6, 8, 1, 1)})


def pytorch_sac_loss(model: Any, s: Tensor) -> Tensor:
    law = model["actor"](s)
    a = law.rsample()
    log_prob = law.log_prob(a).sum(-1, keepdim=True)
    return (0.1 * log_prob - model["critic"](torch.cat([s, a], -1))).mean()


def squashed(v: Tensor) -> Tensor:
    return torch.exp(-5 + 3.5 * (torch.tanh(v) + 1))


def minimal_ppo() -> nn.Module:
    (script,) = MINIMAL_RL.load("ppo-continuous")
    return script.PPO()


def pendulum() -> tuple[Any, ...]:
    return randn(6, 3), randn(6, 1, seed=8), randn(6, 1, seed=9), randn(6, 1, seed=10)


def minimal_ppo_loss(model: Any, s: Tensor, a: Tensor, advantage: Tensor, target: Tensor) -> Tensor:
    mu, std = model.pi(s, softmax_dim=1)
    log_prob = Normal(mu, std).log_prob(a)
    ratio = torch.exp(log_prob - log_prob.detach())
    clipped = torch.clamp(ratio, 0.8, 1.2) * advantage
    return (-torch.min(ratio * advantage, clipped) + F.smooth_l1_loss(model.v(s), target)).mean()


def spaces(**action: Any) -> Any:
    return SimpleNamespace(
        single_observation_space=SimpleNamespace(shape=(4,)), single_action_space=SimpleNamespace(**action)
    )


def clean_ppo() -> nn.Module:
    (script,) = CLEAN_RL.load("ppo_continuous_action")
    return script.Agent(spaces(shape=(2,)))


def clean_ppo_loss(model: Any, s: Tensor, a: Tensor, advantage: Tensor, returns: Tensor) -> Tensor:
    _, log_prob, entropy, value = model.get_action_and_value(s, a)
    ratio = (log_prob - log_prob.detach()).exp()
    policy = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 0.8, 1.2)).mean()
    return policy - 0.01 * entropy.mean() + 0.25 * (value.view(-1) - returns).pow(2).mean()


def clean_dqn() -> nn.Module:
    (script,) = CLEAN_RL.load("dqn")
    return script.QNetwork(spaces(n=3))


def transitions() -> tuple[Any, ...]:
    return randn(6, 4), tokens(3, 6, 1), randn(6, seed=8)


def dqn_loss(model: nn.Module, s: Tensor, a: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(target, model(s).gather(1, a).squeeze())


def mbpo() -> nn.Module:
    (models,) = MBPO.load("mbpo_pytorch.models")
    return models.EnsembleRDynamics(4, 2, 1, [8, 8], 2, 1)


def dynamics() -> tuple[Any, ...]:
    return randn(6, 4), randn(6, 2), randn(2, 6, 5, seed=8)


def mbpo_loss(model: Any, s: Tensor, a: Tensor, targets: Tensor) -> Tensor:
    out = model(s, a)
    mean = torch.cat([out["diff_state_means"], out["reward_means"]], -1)
    logvar = torch.cat([out["diff_state_logvars"], out["reward_logvars"]], -1)
    bounds = model.max_diff_state_logvar.sum() + model.max_reward_logvar.sum()
    bounds = bounds - model.min_diff_state_logvar.sum() - model.min_reward_logvar.sum()
    losses = ((mean - targets) ** 2 * torch.exp(-logvar)).mean((-2, -1)) + logvar.mean((-2, -1))
    return losses.sum() + 0.01 * bounds + model.compute_l2_loss([1e-5, 1e-5, 1e-5]).sum()


def mbpo_sigma(v: Tensor) -> Tensor:
    logvar = 0.5 - F.softplus(0.5 - v)
    return half(-10 + F.softplus(logvar + 10))


def bcq() -> nn.Module:
    (script,) = BCQ.load("BCQ")
    return script.VAE(4, 2, 3, 1.0, "cpu")


def demonstrations() -> tuple[Any, ...]:
    return randn(6, 4), torch.tanh(randn(6, 2))


def bcq_loss(model: nn.Module, s: Tensor, a: Tensor) -> Tensor:
    decoded, mean, std = model(s, a)
    return F.mse_loss(decoded, a) - 0.25 * (1 + torch.log(std.pow(2)) - mean.pow(2) - std.pow(2)).mean()


def bcq_sigma(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, -4, 15))


# --------------------------------------------------------------------------------------------------- without heads

MIN_GPT = Repository("karpathy/minGPT", "37baab71b9abea1b76ab957409a1cc2fbfba8a26")
TCN = Repository("locuslab/TCN", "2f8c2b817050206397458dfd1f5a25ce8a32fe65")
WAVEGLOW = Repository("NVIDIA/waveglow", "8afb643df59265016af6bd255c7516309d675168")
NRI = Repository("ethanfetaya/NRI", "e63fcb0144bca60eb1cffed9a94489de928d6c23")
CSDI = Repository(
    "ermongroup/CSDI",
    "7f24a436f08d98853a6b43d4f7f04e5a65ecdf27",
    stand_ins=without(linear_attention_transformer="LinearAttentionTransformer"),
)
AWD_LSTM = Repository("salesforce/awd-lstm-lm", "1d466ec5875675ca6b6f0caacbb741240a29da9e")


def min_gpt() -> nn.Module:
    (model,) = MIN_GPT.load("mingpt.model")
    config = model.GPT.get_default_config()
    config.model_type, config.vocab_size, config.block_size = "gpt-nano", 12, 8
    return model.GPT(config)


def next_words() -> tuple[Any, ...]:
    return tokens(12, 3, 8), tokens(12, 3, 8, seed=8)


def gpt_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x, y)[1]


def tcn() -> nn.Module:
    (model,) = TCN.load("TCN.tcn")
    return nn.Sequential(model.TemporalConvNet(2, [6, 6], 2, 0.1), nn.Conv1d(6, 1, 1))


def adding() -> tuple[Any, ...]:
    return randn(4, 2, 10), randn(4, 1, 10, seed=8)


def regression_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


def waveglow() -> nn.Module:
    (glow,) = WAVEGLOW.load("glow")
    return glow.WaveGlow(4, 3, 4, 2, 2, {"n_layers": 2, "n_channels": 6, "kernel_size": 3})


def waves() -> tuple[Any, ...]:
    return ((randn(2, 4, 2), 0.3 * randn(2, 512, seed=8)),)


def waveglow_loss(model: nn.Module, batch: Any) -> Tensor:
    (glow,) = WAVEGLOW.load("glow")
    return glow.WaveGlowLoss(0.7)(model(batch))


def nri() -> nn.Module:
    (modules,) = NRI.load("modules")
    encoder, decoder = modules.MLPEncoder(5 * 3, 8, 2, 0.1, True), modules.MLPDecoder(3, 2, 8, 8, 8, 0.1)
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})


def particles() -> tuple[Any, ...]:
    off = torch.nonzero(torch.ones(4, 4) - torch.eye(4))
    return randn(3, 4, 5, 3), F.one_hot(off[:, 0], 4).float(), F.one_hot(off[:, 1], 4).float()


def nri_loss(model: Any, x: Tensor, receive: Tensor, send: Tensor) -> Tensor:
    (utils,) = NRI.load("utils")
    logits = model["encoder"](x, receive, send)
    edges, prob = utils.gumbel_softmax(logits, tau=0.5), utils.my_softmax(logits, -1)
    out = model["decoder"](x, edges, receive, send, 1)
    return utils.nll_gaussian(out, x[:, :, 1:], 5e-2) + utils.kl_categorical_uniform(prob, 4, 2)


def csdi() -> nn.Module:
    (model,) = CSDI.load("main_model")
    diffusion: dict[str, Any] = {"layers": 1, "channels": 8, "nheads": 2, "diffusion_embedding_dim": 8}
    diffusion |= {"beta_start": 1e-4, "beta_end": 0.5, "num_steps": 10, "schedule": "quad", "is_linear": False}
    conditioning = {"timeemb": 8, "featureemb": 4, "is_unconditional": False, "target_strategy": "random"}
    return model.CSDI_base(3, {"diffusion": diffusion, "model": conditioning}, "cpu")


def gaps() -> tuple[Any, ...]:
    return randn(3, 3, 6), torch.ones(3, 3, 6), (rand(3, 3, 6) > 0.5).float(), torch.arange(6.0).expand(3, 6)


def csdi_loss(model: Any, x: Tensor, observed: Tensor, known: Tensor, times: Tensor) -> Tensor:
    return model.calc_loss(x, known, observed, model.get_side_info(times, known), 1)


def awd_lstm() -> nn.Module:
    (model,) = AWD_LSTM.load("model")
    return model.RNNModel("LSTM", 12, 6, 8, 2, wdrop=0.5, tie_weights=True)


def columns() -> tuple[Any, ...]:
    return tokens(12, 6, 4), tokens(12, 24, seed=8)


def awd_lstm_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    out, _, raw, dropped = model(x, model.init_hidden(4), return_h=True)
    temporal = (raw[-1][1:] - raw[-1][:-1]).pow(2).mean()
    return F.cross_entropy(model.decoder(out), y) + 2 * dropped[-1].pow(2).mean() + temporal


CASES = (
    PublicCase(
        "VITS", VITS, vits, speech,
        (TrueHead("enc_q.proj", 4, 8, "posterior"), TrueHead("enc_p.proj", 4, 8, "prior")), vits_loss,
        truth="models.py:238-240 σ = exp(logs) of enc_q.proj; losses.py:57-58 KL with exp(-2 logs_p) of enc_p.proj "
        "(models.py:173-175); dp and flow are flows",
    ),
    PublicCase(
        "GlowTTS", GLOW_TTS, glow_tts, mels, (TrueHead("encoder.proj_s", 0, None, "prior"),), glow_loss,
        truth="commons.py:20 density with exp(-2 logs) of encoder.proj_s, with mean_only=False (the shipped configs"
        " have no scale); couplings and ActNorm are flows",
    ),
    PublicCase(
        "VAENAR", VAENAR, vaenar, utterances,
        (TrueHead("posterior.mu_projection.linear", 0, None, "posterior", half),), vaenar_loss,
        truth="model/posterior.py forward returns mu, logvar, and VAENAR.py:169 unpacks logvar, mu: what "
        "mu_projection emits becomes exp(0.5 v) (posterior.py:36); the prior is a flow",
    ),
    PublicCase(
        "DreamerV3 RSSM", DREAMER_V3, rssm_v3, episodes,
        (
            TrueHead("rssm._obs_stat_layer", 3, 6, "posterior", v3_sigma),
            TrueHead("rssm._imgs_stat_layer", 3, 6, "prior", v3_sigma),
        ),
        rssm_v3_loss,
        truth="networks.py:267-269 2 sigmoid(v / 2) + min_std (discrete=False, std_act as in configs.yaml); KL of "
        "detached halves in kl_loss",
    ),
    PublicCase(
        "DreamerV3 actor", DREAMER_V3, actor_v3, features,
        (TrueHead("std_layer", 0, None, "likelihood", v3_actor_sigma),), actor_v3_loss,
        truth="networks.py:694-696 MLP.dist 'normal': (max_std - min_std) sigmoid(v + 2) + min_std",
    ),
    PublicCase(
        "Dreamer RSSM", DREAMER, dreamer, time_major,
        (
            TrueHead("representation._stochastic_posterior_model.2", 3, 6, "posterior", softplus_tenth),
            TrueHead("transition._stochastic_prior_model.2", 3, 6, "prior", softplus_tenth),
        ),
        dreamer_model_loss,
        truth="dreamer/models/rnns.py:104,155 softplus(std) + 0.1; DenseModel has σ = 1",
    ),
    PublicCase(
        "Dreamer actor", DREAMER, dreamer, time_major,
        (
            TrueHead("actor.feedforward_model.2", 2, 4, "likelihood", dreamer_actor_sigma),
            TrueHead("transition._stochastic_prior_model.2", 3, 6, "prior", softplus_tenth),
        ),
        dreamer_actor_loss,
        truth="dreamer/models/action.py:57 softplus(std + raw_init_std) + min_std, a squashed Normal that is only "
        "sampled; states are imagined by the prior",
    ),
    PublicCase(
        "PlaNet", PLANET, planet, time_major,
        (
            TrueHead("transition.fc_state_posterior", 3, 6, "posterior", softplus_tenth),
            TrueHead("transition.fc_state_prior", 3, 6, "prior", softplus_tenth),
        ),
        planet_loss,
        truth="models.py:55,62 softplus(_std_dev) + min_std_dev, inside a TorchScript method",
    ),
    PublicCase(
        "SLAC", SLAC, slac, videos,
        (
            TrueHead("z1_posterior_init.net.4", 3, 6, "posterior", slac_sigma),
            TrueHead("z1_posterior.net.4", 3, 6, "posterior", slac_sigma),
            TrueHead("z2_prior_init.net.4", 5, 10, "posterior", slac_sigma),
            TrueHead("z2_prior.net.4", 5, 10, "posterior", slac_sigma),
            TrueHead("z1_prior.net.4", 3, 6, "prior", slac_sigma),
            TrueHead("reward.net.4", 1, 2, "likelihood", slac_sigma),
        ),
        slac_loss,
        truth="slac/network/latent.py:51 softplus + 1e-5 in TorchScript; q(z2) is p(z2), one module under two "
        "names, sampled as posterior without a KL; decoder σ is fixed",
    ),
    PublicCase(
        "WorldModels VAE", WORLD_MODELS, vision, frames64,
        (TrueHead("encoder.fc_logsigma", 0, None, "posterior"),), vision_loss,
        truth="models/vae.py:70 sigma = logsigma.exp(); trainvae.py:82 KL of 2 logsigma",
    ),
    PublicCase(
        "WorldModels MDRNN", WORLD_MODELS, memory, dreams,
        (TrueHead("gmm_linear", 12, 24, "likelihood"),), memory_loss,
        truth="models/mdrnn.py:96-98 sigmas = exp(gmm_outs[stride:2 stride]), the parts of a mixture in gmm_loss "
        "(line 35)",
    ),
    PublicCase(
        "VRNN", VRNN, vrnn, sequences,
        (
            TrueHead("enc_std.0", 0, None, "posterior", F.softplus),
            TrueHead("prior_std.0", 0, None, "prior", F.softplus),
        ),
        vrnn_loss,
        truth="model.py:48,57 Softplus; dec_std is computed and no loss has it (line 113 is a comment, the "
        "likelihood is Bernoulli)",
    ),
    PublicCase(
        "SVG-LP", SVG, svg, clips,
        (
            TrueHead("posterior.logvar_net", 0, None, "posterior", half),
            TrueHead("prior.logvar_net", 0, None, "prior", half),
        ),
        svg_loss,
        truth="models/lstm.py:59 logvar.mul(0.5).exp_(), train_svg_lp.py kl_criterion; init_hidden is ours, on the "
        "CPU; small encoder and decoder are ours",
    ),
    PublicCase(
        "DMM", DMM, dmm, music,
        (
            TrueHead("combiner.lin_v", 0, None, "posterior", half),
            TrueHead("transition.lin_v", 0, None, "prior", half),
        ),
        dmm_loss,
        truth="model/model.py:75 exp(0.5 logvar), written into slices of zeros (line 118); logvar_p_0 is not "
        "trained (train_init is false in config.json)",
    ),
    PublicCase(
        "SentenceVAE", SENTENCE_VAE, sentence_vae, sentences,
        (TrueHead("hidden2logv", 0, None, "posterior", half),), sentence_loss,
        truth="model.py:74 exp(0.5 logv); train.py:84 KL",
    ),
    PublicCase(
        "LaggingVAE", LAGGING, lagging, texts, (TrueHead("encoder.linear", 3, 6, "posterior", half),), lagging_loss,
        truth="modules/encoders/enc_lstm.py:62 chunk of linear of the last state, encoder.py:72 "
        "logvar.mul(0.5).exp() expanded over samples",
    ),
    PublicCase(
        "ControlledText", CONTROLLED_TEXT, controlled_text, column_texts,
        (TrueHead("q_logvar", 0, None, "posterior", half),), controlled_loss,
        truth="ctextgen/model.py:129 exp(logvar / 2) times one noise vector for the whole batch; word_dropout, "
        "which needs an older torch, is ours: none",
    ),
    PublicCase(
        "VRAE", VRAE, vrae, series, (TrueHead("lmbd.hidden_to_logvar", 0, None, "posterior", half),), vrae_loss,
        truth="vrae/vrae.py:80 exp(0.5 latent_logvar), kept as an attribute for the KL in _rec",
    ),
    PublicCase(
        "DeepAR", DEEP_AR, deep_ar, windows,
        (TrueHead("distribution_presigma", 0, None, "likelihood", F.softplus),), deep_ar_loss,
        truth="model/net.py:69 Softplus of distribution_presigma, squeezed and masked in loss_fn",
    ),
    PublicCase(
        "MolecularVAE", MOLECULES, molecules, smiles, (TrueHead("fc12", 0, None, "posterior", half),), molecule_loss,
        truth="models.py:35-36 exp(0.5 logvar), the noise times 1e-2; train.py has the KL of logvar, so σ = exp(0.5 v)",
    ),
    PublicCase(
        "DLow VAE", DLOW, motion, motions, (TrueHead("e_logvar", 0, None, "posterior", half),), motion_loss,
        truth="models/motion_pred.py:59 exp(0.5 logvar); motion_pred/exp_vae.py:21",
    ),
    PublicCase(
        "DLow", DLOW, dlow, motions, (TrueHead("dlow.head_A", 0, None, "posterior", absolute),), dlow_loss,
        truth="models/motion_pred.py:140 y = a z + b, get_kl (line 147) with var = a^2 to N(0, 1): σ = |a| of the "
        "latent; hard: an affine flow by name",
    ),
    PublicCase(
        "PECNet", PECNET, pecnet, walks,
        (TrueHead("encoder_latent.layers.2", 3, 6, "posterior", half),), pecnet_loss,
        truth="utils/models.py:140-143 logvar.mul(0.5).exp_() in float64; sigma = 1.3 is for sampling only",
    ),
    PublicCase(
        "LatentODE", LATENT_ODE, latent_ode, irregular,
        (TrueHead("encoder_z0.transform_z0.2", 3, 6, "posterior", absolute),), latent_ode_loss,
        truth="lib/encoder_decoder.py:232 std_z0.abs() (again in latent_ode.py:70, base_models.py:263); GRU_unit's "
        "std is a feature; Euler for torchdiffeq is ours",
    ),
    PublicCase(
        "NeuralProcess", NEURAL_PROCESS, neural_process, curves,
        (
            TrueHead("r_to_mu_sigma.hidden_to_sigma", 0, None, "posterior", process_sigma),
            TrueHead("r_to_mu_sigma.hidden_to_sigma", 0, None, "prior", process_sigma),
            TrueHead("xz_to_y.hidden_to_sigma", 0, None, "likelihood", process_output_sigma),
        ),
        process_loss,
        truth="models.py:83, 155; r_to_mu_sigma gives q(z | target), which is sampled, and q(z | context), its prior; "
        "corrected after the scan: two heads at one place, as in the project's own NeuralProcess (was: the posterior)",
    ),
    PublicCase(
        "AttentiveNP", ATTENTIVE, attentive, pixels,
        (
            TrueHead("latent_encoder.log_sigma.linear_layer", 0, None, "posterior", half),
            TrueHead("latent_encoder.log_sigma.linear_layer", 0, None, "prior", half),
        ),
        attentive_loss,
        truth="module.py:58 exp(0.5 log_sigma); network.py:54 KL; one encoder for posterior and prior; corrected after "
        "the scan: two heads at one place, as in the project's own NeuralProcess (was: the posterior)",
    ),
    PublicCase(
        "ConvCNP2d", CONV_CNP, conv_cnp, pictures,
        (TrueHead("cnn.5", 3, 6, "likelihood", F.softplus),), conv_cnp_loss,
        truth="convcnp/models/convcnp2d.py:49-52 softplus, the diagonal of a MultivariateNormal's scale_tril",
    ),
    PublicCase(
        "MDN", MDN, mdn, pairs, (TrueHead("2.sigma", 0, None, "likelihood"),), mdn_loss,
        truth="mdn/mdn.py:53 exp; the density of the parts by hand (line 77), a product over outputs, a sum over parts",
    ),
    PublicCase(
        "CEVAE", CEVAE, cevae, treated,
        (
            TrueHead("q_z_tyx.sigma_t0", 0, None, "posterior", None),
            TrueHead("q_z_tyx.sigma_t1", 0, None, "posterior", None),
            TrueHead("p_x_z.output_con_sigma", 0, None, "likelihood", F.softplus),
        ),
        cevae_loss,
        truth="networks.py:40 softplus; networks.py:201-205 (1 - t) softplus(a) + t softplus(b), sampled without a "
        "gradient, KL by log_prob; outcomes have σ = 1",
    ),
    PublicCase(
        "GCNModelVAE", GAE, gae, graphs, (TrueHead("gc3", 0, None, "posterior"),), gae_loss,
        truth="gae/model.py:22 std = exp(logvar), gae/optimizer.py:13 with 2 logvar: a log σ by another name",
    ),
    PublicCase(
        "VGAE", VGAE, vgae, nodes, (TrueHead("gcn_logstddev", 0, None, "posterior"),), vgae_loss,
        truth="model.py:21 exp(logstd); train.py:109, of the attributes",
    ),
    PublicCase(
        "BayesLinear", TORCHBNN, torchbnn, labelled,
        tuple(
            TrueHead(f"{i}.{kind}_log_sigma", 0, None, "posterior") for i in (0, 2) for kind in ("weight", "bias")
        ),
        torchbnn_loss,
        truth="torchbnn/modules/linear.py:86,92 exp(weight_log_sigma), functional.py _kl_loss",
    ),
    PublicCase(
        "LinearReparameterization", BAYESIAN_TORCH, bayesian_torch, labelled,
        tuple(
            TrueHead(f"{i}.rho_{kind}", 0, None, "posterior", F.softplus)
            for i in ("one", "two")
            for kind in ("weight", "bias")
        ),
        bayesian_torch_loss,
        truth="bayesian_torch/layers/variational_layers/linear_variational.py:160,172 log1p(exp(rho)), noise in a "
        "buffer",
    ),
    PublicCase(
        "BayesianLinear", BLITZ, blitz, labelled,
        tuple(
            TrueHead(f"{i}.{kind}_sampler.rho", 0, None, "posterior", F.softplus)
            for i in (0, 2)
            for kind in ("weight", "bias")
        ),
        blitz_loss,
        truth="blitz/modules/weight_sampler.py:32 log1p(exp(rho)); the sampler wraps the layer's weight_rho in a "
        "Parameter of its own, which is the one that is read",
    ),
    PublicCase(
        "LocalReparameterization", BNNS, local_reparameterization, labelled,
        tuple(TrueHead(f"bfc{i}.{p}", 0, None, "posterior", bbb_sigma) for i in (1, 2, 3) for p in ("W_p", "b_p")),
        local_loss,
        truth="src/Bayes_By_Backprop_Local_Reparametrization/model.py:60-61 1e-6 + softplus; the noise of W is on "
        "sqrt(x^2 σ^2)",
    ),
    PublicCase(
        "A2C", A2C, a2c, steps, (TrueHead("dist.logstd", 0, None, "likelihood"),), a2c_loss,
        truth="a2c_ppo_acktr/distributions.py:94-95 exp of what AddBias emits for zeros (a module with one weight, "
        "_bias of shape [n, 1])",
    ),
    PublicCase(
        "SpinningUp PPO", SPINNING_UP_PPO, spinning_ppo, steps,
        (TrueHead("pi.log_std", 0, None, "likelihood"),), spinning_ppo_loss,
        truth="core.py:90 exp of a Parameter",
    ),
    PublicCase(
        "SpinningUp SAC", SPINNING_UP_SAC, spinning_sac, states,
        (TrueHead("pi.log_std_layer", 0, None, "likelihood", clamped),), spinning_sac_loss,
        truth="core.py:42-43 clamp to [-20, 2], exp; log-density of its own sample, squashed",
    ),
    PublicCase(
        "DiagGaussianActor", PYTORCH_SAC, pytorch_sac, states,
        (TrueHead("actor.trunk.4", 2, 4, "likelihood", squashed),), pytorch_sac_loss,
        truth="agent/actor.py:75-80 exp(-5 + 3.5 (tanh(v) + 1)); a Normal through a TanhTransform of its own",
    ),
    PublicCase(
        "minimalRL PPO", MINIMAL_RL, minimal_ppo, pendulum,
        (TrueHead("fc_std", 0, None, "likelihood", F.softplus),), minimal_ppo_loss,
        truth="ppo-continuous.py:33 softplus",
    ),
    PublicCase(
        "CleanRL PPO", CLEAN_RL, clean_ppo, steps, (TrueHead("actor_logstd", 0, None, "likelihood"),), clean_ppo_loss,
        truth="cleanrl/ppo_continuous_action.py:136-138 exp of an expanded Parameter of shape [1, n]",
    ),
    PublicCase(
        "MBPO ensemble", MBPO, mbpo, dynamics,
        tuple(
            TrueHead(f"networks.{i}.diff_dynamics.last_layer", *channels, "likelihood", mbpo_sigma)
            for i in (0, 1)
            for channels in ((4, 8), (9, 10))
        ),
        mbpo_loss,
        truth="mbpo_pytorch/models/dynamics.py:97-102 two soft bounds, whose limits are Parameters (σ at their "
        "first values 0.5, -10); stacked over networks first",
    ),
    PublicCase(
        "BCQ VAE", BCQ, bcq, demonstrations, (TrueHead("log_std", 0, None, "posterior", bcq_sigma),), bcq_loss,
        truth="continuous_BCQ/BCQ.py:81 exp(clamp(v, -4, 15)); KL of log(std^2)",
    ),
    PublicCase("minGPT", MIN_GPT, min_gpt, next_words, (), gpt_loss, truth="mingpt/model.py: softmax only"),
    PublicCase("TCN", TCN, tcn, adding, (), regression_loss, truth="TCN/tcn.py: convolutions, a squared error"),
    PublicCase(
        "WaveGlow", WAVEGLOW, waveglow, waves, (), waveglow_loss,
        truth="glow.py: couplings' exp(log_s) are a flow's scales; sigma is a constant",
    ),
    PublicCase(
        "NRI", NRI, nri, particles, (), nri_loss,
        truth="modules.py, utils.py: discrete latents by Gumbel noise, a Normal likelihood of constant variance",
    ),
    PublicCase("CSDI", CSDI, csdi, gaps, (), csdi_loss, truth="main_model.py: a diffusion's noise schedule"),
    PublicCase("CleanRL DQN", CLEAN_RL, clean_dqn, transitions, (), dqn_loss, truth="cleanrl/dqn.py: values only"),
    PublicCase(
        "AWD-LSTM", AWD_LSTM, awd_lstm, columns, (), awd_lstm_loss,
        truth="model.py: masks of dropout on weights, embeddings and activations; tied weights",
    ),
)  # fmt: skip
