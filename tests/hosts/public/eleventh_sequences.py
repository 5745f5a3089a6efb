"""An eleventh look: sentences, topics, poems, voices, music, frames, series, filters, worlds, policies, processes,
brains, hearts, stocks, roads, robots, proteins, drugs, galaxies, pens, graphs over time and gaps in data, in our own
words.

The fields and a word for each were fixed before any search (the commit before these models has the words alone), and a
second list of words, for fields whose first gave nothing, before its own. For each word the list of repositories whose
names have it was taken in the index's order: of it the first that is PyTorch, trains a model of its own with its own
loss, is small enough to be told, and is in no earlier look; its main model, with its main configuration. Conventions
were neither sought nor avoided. Every truth was written from reading the code, before any of these was scanned, by
somebody who had not read the scan's, but who knew which faults earlier looks had found.

Sentences, "sentence-vae": `shota3506/sentence-VAE` passed (an earlier look), `Yufeng98/Sentence-VAE` taken, which is
of brains. Texts, "vae-text-gen": an earlier look's alone. Topics, "neural-topic": `nik-sm/neural-topic-models-music`
passed (an earlier look), `nirajvishwakarma3011/neural-topic-modeling` passed (its models are not among its files),
`ashish12ak/neural-topic-models` taken, the first of its models. Dialogue, "vae-dialogue":
`rrubayet321/Hybrid-Gan-Vae-Dialogue-Generation-Model` passed (Keras). Speech, "speech-vae": earlier looks' alone.
Music, "music-vae": `rshube/music-vae` (an earlier look), `Liambo/Music-VAE-GAN` (too large to be had) and
`maxwells-daemons/accompany-music-vae` (Keras) passed, `Raisul516/MultiModal-Music-VAE` taken. Films to come,
"video-prediction": a long list, of which names that tell of something else, or of no law, were not opened;
`Dhagash4/video-prediction` passed (no law), `m-serra/action-inference-for-video-prediction-benchmarking` passed
(others' models), `jthsieh/DDPAE-video-prediction` passed (too long), `idajana/generative-video-prediction-models`
taken, of its first model the memory. Paths, "trajectory-forecast": `Torfinhell/Diffusion-Trajectory-Forecaster` passed
(JAX), `Robotmurlock/TNT-VectorNet-and-HOME-Trajectory-Forecasting` passed (no learned spread),
`michae-lzhou/Multi-Agent-Trajectory-Forecasting` passed (its code cannot be had as a whole),
`M20190649/GPS-Variance-Estimation-and-Trajectory-Forecasting` passed (TensorFlow), `aryanipb` an earlier look's, the
rest not opened: none. Series, "timevae": `louisan1128`, `adiazcarral` and `wangyz1999` earlier looks',
`Biniam150/CFT-TimeVAE-WaterDemandForecasting` passed (cannot be had), `Jinyu99Lee/timeVAE` passed (TensorFlow), the
rest not opened: none. Anomalies, "lstm-vae": `HenglinShi` passed before (Caffe), `brianyudiva/lstm-vae-gan-smart-grid`
passed (TensorFlow), `jp4474` an earlier look's, `ZXF040801/LSTM-VAE-ON-PD` passed (no code), `ningchaoar/cnn-lstm-vae`
taken, its VAE, which is of poems. Worlds, "rssm": names of people and programs, two of earlier looks,
`nathanz3491/dreamerv3-double-rssm` passed (JAX), `Jason-Wang313/best-of-n-dreamer-rssm-latent-dynamics` taken. SAC,
"sac-pytorch": `taomo` an earlier look's, `lucidrains/SAC-pytorch` taken. PPO, "ppo-continuous": `XinJingHao` an
earlier look's, `dstuemk/simple-ppo-continuous` passed (TensorFlow), `zsychina/ppo-continuous` has a fixed spread, and
is taken as a model without a head, `MaanaRajesh/ppo-continuous-control` taken. Neural processes, "neural-process": a
long list; of those before it that are of processes, earlier looks', TensorFlow (`tonywu71`, `sidchaini`) or not
PyTorch's by their names passed, `xuesongwang/Neural-Process-Family` taken. VRNN, "vrnn": names of people, earlier
looks', `frhrdr/vrnn`, `miyosuda/hvrnn` and `tud-amr/social_vrnn` passed (TensorFlow), `phanhieeus/kltn-vrnn` taken.
DKF, "deep-kalman": `k920049` and `niharj2` passed before, `CL-BZH` an earlier look's,
`wernergh9/Causal-RL-Deep-Kalman-Filter` passed (its model is in an archive), `kokikwbt/deep-kalman-filter` taken. DMM,
"deep-markov": earlier looks', `fcumlin/pytorch-deep-markov-model` passed (a copy of one),
`ostadabbas/Deep-Markov-Factor-Analysis-DMFA-` passed (too long), the rest not opened: none. Latent ODE, "latent_ode":
`brdav/cardiac_latent_ode`. Latent SDE, "latent-sde": `zheniannn` an earlier look's,
`brijeshbv/Action-Conditioned-Latent-SDE` taken. Motion, "motion-vae": copies of an earlier look's. Handwriting,
"handwriting-gen": a long list; `ankit61/Handwriting-Generation` passed (squares), the rest not gone through. EEG,
"eeg-vae": `yrothlin-03` passed before, `bendavidsteel/causal-eeg-vae` passed (codes of a book, and whole language
models), `dorazhang93/EEG-VAEs-pytorch` has a fixed noise where its configuration is, and is taken as a model without a
head, `Abudulamymyty/EEG-vae-gan-classification` and `grappli/eeg-vae` passed (TensorFlow),
`Lijianing789/EEG-VAE-model` taken. Finance, "factorvae": `diego-azenha/FactorVAE---Brazillian-Market`. Proteins,
"vae-protein": `ryanquinnnelson/CMU-02712-VAE-Protein-Generation`. Drugs, "molecule-vae":
`maktubp/Enhanced_Molecule-VAE` passed (Keras), `DennyHsieh/molecule-vae` taken. Active inference,
"deep-active-inference": `FraserP117/Deep-Active-Inference-Tree-Search` passed (dozens of versions of the one that was
taken), `zfountas/deep-active-inference-mc` taken, `Hevagog/presentation-deep-active-inference` and copies passed (no
code), and the next, `Grottoh/Deep-Active-Inference-for-Partially-Observable-MDPs`, its agent that sees pictures. Meta
learning, "bayesian-meta": `LuisAugenstein/Bayesian-Meta-Learning` passed (MAML's variants, from another's package) and
`sukriti243/Bayesian-meta-learning-for-reaction-outcome-prediction` passed (Gaussian processes), the others statistics.
Imitation, "behavior-cloning": cars in Keras; `AbnerTeng/behavior-cloning` passed (no law), none. Robots, "vae-robot":
`clarsbyte/multimodal-vae-robotics-manipulation`. Traffic, "vae-traffic":
`cybersamurai2410/graphvae-traffic-anomaly-detection`. Hearts, "vae-ecg": `avishagnevo/VAE-ECG`, the recurrent one,
which its trainer has first. Skies, "spectra-vae": `arjunds/ms2spectra-vae` passed (Keras),
`iwasakida/GalaxySpectra-VAE` taken. Mixtures, "mdn-pytorch": `nimanzik/mdn-pytorch`. Gaussian processes, "gp-vae":
`ratschlab`, `sgkmccal` and `ethanev/GP-VAE` (TensorFlow) and `edenx/gp-vae` (JAX) passed, `SUTDBrainLab/MGP-VAE`
taken, and the next, `ItamarEfrati/Pytorch-GP-VAE`, the model that its configuration names. MBPO, "mbpo": names of
people and programs; `thedannyliu/Flow-MBPO-PWM` and `hossein-omidi/mbpo_custom` passed (frameworks),
`jiangsy/mbpo_pytorch` taken. GAIL, "gail-pytorch": `lionelblonde/ppo-gail-pytorch-complete-history`. Seismology,
"vae-seism": `skvictoria/vae-seismic` passed (a copy of an earlier look's collection). Sounds, "audio-vae":
`blink-new/rave-audio-vae-8slda7qh` passed (a web page), `estevep/Temporal-Audio-VAE` taken. Forecasts, "deepar": names
of people. Empty: "neural-vae", "climate-vae", "vae-phys", "fluid-vae", "vae-kg", "skill-vae", "cql-pytorch". Models
without a head: "ddpg-pytorch": `SamirW/maddpg-pytorch` an earlier look's, `cjto2000/DDPG-PyTorch` taken.
"lstm-forecast": `ROHITCRAFTSYT/lstm-forecast`. "char-rnn": a long list, of which the first whose name tells of
PyTorch, `awaelchli/pytorch-char-rnnlm`. "transe-pytorch": `ZHAO-Tianzhe/transe-pytorch`. "tcn-pytorch":
`jinglin-zhu/Temporal-Action-Segmentation-TCN-PyTorch`. "decision-transformer", "pinn-pytorch" and "dueling-dqn" were
not gone through, once there were enough.

The second list. Texts, "vae-nlp": an earlier look's, and `zwang1995/solvent-VAE-NLP` passed (Keras). Films,
"frame-prediction": `navrudh/project-next-frame-prediction` and `talcron/frame-prediction-pytorch` passed (no law),
`kkatodus/MIRAI-Future-Frame-Prediction-of-Anime` and `jmin07/Next-Frame-Prediction-Using-Beta-VAE` passed (Keras),
none. Handwriting, "handwriting-synth": `MartinM98`, `cdeckert`, `note-ai-inc` and `NB2YT` passed (TensorFlow),
`X-rayLaser` an earlier look's, `kristofbc` not opened (Chainer by what it is known for),
`giuliomaffei90/handwriting-synthesis` passed (numpy), `swechhasingh/Handwriting-synthesis` taken. Brains, "neuro-vae":
`rstones/neuro-vae` passed (nothing is written yet). Control, "awr-pytorch": `WhiteCri/awr-pytorch`, a model without a
head; "actor-critic-continuous": Keras. Voices, "voice-vae": `biggoron/mnist-like-voice-vae` passed (TensorFlow),
`RetroCirce/CSE-251B-Melody-Voice-VAE` taken. Graphs over time, "vgrnn": `xiaohu-art/VGRNN`. Bayesian recurrence,
"bayesian-gru": passed (dropout). Series, "vrae": names of people. Empty: "variational-hierarchical", "social-cvae",
"pearl-rl", "nowcasting-vae", "lhc-vae", "vae-volatility", "vae-mdn-rnn", "variational-kalman", "drum-vae",
"peptide-vae".
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import bits, kl_to_unit, likelihood, posterior, prior

# ----------------------------------------------------------------------------- brains, topics, poems, polymers, worlds


class BrainSequence(nn.Module):
    """A code at every step of a scan, though its repository is named for sentences."""

    def __init__(self, regions: int = 6, hidden: int = 9, latent: int = 3) -> None:
        super().__init__()
        self.embedding_dropout = nn.Dropout(p=0.5)
        self.encoder_rnn = nn.GRU(regions, hidden, batch_first=True)
        self.hidden2mean, self.hidden2logv = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.latent2hidden = nn.Linear(latent, hidden)
        self.decoder_rnn = nn.GRU(hidden, hidden, batch_first=True)
        self.hidden2embedding = nn.Linear(hidden, regions)

    def forward(self, x: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        packed, hidden = self.encoder_rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
        states, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        mean, logvar = self.hidden2mean(states), self.hidden2logv(states)
        std = torch.exp(0.5 * logvar)
        z = torch.randn([len(x), lengths[0], mean.shape[-1]])
        z = z * std + mean
        read = self.embedding_dropout(self.latent2hidden(z))
        out, _ = self.decoder_rnn(nn.utils.rnn.pack_padded_sequence(read, lengths, batch_first=True), hidden)
        return self.hidden2embedding(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]), mean, logvar


def brain_loss(model: Any, x: Tensor) -> Tensor:
    out, mean, logvar = model(x, [x.shape[1]] * len(x))
    away = torch.mean(1 - F.cosine_similarity(out, x, dim=-1))
    return (away + F.mse_loss(out, x) + kl_to_unit(mean, logvar)) / len(x)


class BagTopics(nn.Module):
    def __init__(self, words: int = 14, topics: int = 4, hidden: int = 9) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(words, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.2))
        self.mu_layer, self.logvar_layer = nn.Linear(hidden, topics), nn.Linear(hidden, topics)
        self.decoder, self.bn = nn.Linear(topics, words), nn.BatchNorm1d(words, affine=False)
        nn.init.xavier_uniform_(self.decoder.weight)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if not self.training:
            return mu
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu_layer(h), self.logvar_layer(h)
        z = self.reparameterize(mu, logvar)
        return F.softmax(self.bn(self.decoder(z)), dim=1), mu, logvar


def topics_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    words = -torch.sum(x * torch.log(recon + 1e-10), dim=1).mean()
    return words - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()


class GatedReader(nn.Module):
    """A convolution, mixed by another's gate with what came in. Behind the mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv1d(width, width, 3, padding=1) for _ in range(2))
        self.activation, self.dropout = nn.Sigmoid(), nn.Dropout(0)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        src, mask = pair
        new, gate = self.conv1(src), self.activation(self.dropout(self.conv2(src)))
        return (src * (1 - gate) + new * gate) * mask.unsqueeze(1), mask


class PoolByAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, src: Tensor, mask: Tensor) -> Tensor:
        logit = self.U(torch.tanh(self.W(src))).squeeze() / math.sqrt(src.shape[2])
        weights = torch.softmax(logit - (1 - mask) * 10000, dim=1).unsqueeze(-1)
        return torch.sum(src * weights, dim=1)


class CoupletVAE(nn.Module):
    """The couplet is read at once, and written at once."""

    def __init__(self, letters: int = 12, code: int = 5, width: int = 6, longest: int = 3) -> None:
        super().__init__()
        self.length, self.width = 2 * longest + 1, width
        self.embedding, self.decoder = nn.Module(), nn.Module()
        self.embedding.char_lookup = nn.Embedding(letters, code, padding_idx=0)
        self.embedding.fc_c2h, self.embedding.layer_norm = nn.Linear(code, width, bias=False), nn.LayerNorm(width)
        self.encoder = nn.Sequential(GatedReader(width), GatedReader(width))
        self.pooling = PoolByAttention(width)
        self.fc_mean, self.fc_log_var = nn.Linear(width, width), nn.Linear(width, width)
        self.decoder.fc_vae1, self.decoder.fc_vae2 = nn.Linear(width, width), nn.Linear(width, width * self.length)
        self.decoder.decoder = nn.Sequential(GatedReader(width), GatedReader(width))
        self.decoder.fc_out = nn.Linear(width, letters)

    def reparameterize(self, mean: Tensor, log_var: Tensor) -> Tensor:
        epsilon = torch.randn_like(mean)
        return mean + torch.exp(log_var / 2) * epsilon

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        read = self.embedding.layer_norm(self.embedding.fc_c2h(self.embedding.char_lookup(ids)))
        states, _ = self.encoder((read.permute(0, 2, 1), mask))
        pooled = self.pooling(states.permute(0, 2, 1), mask)
        mean, log_var = self.fc_mean(pooled), self.fc_log_var(pooled)
        z = self.reparameterize(mean, log_var)
        kld = torch.mean(-0.5 * torch.sum(1 + log_var - torch.square(mean) - torch.exp(log_var), dim=1), dim=0)
        h = self.decoder.fc_vae2(self.decoder.fc_vae1(z)).view(-1, self.length, self.width)
        h, _ = self.decoder.decoder((h.permute(0, 2, 1), mask))
        return self.decoder.fc_out(h.permute(0, 2, 1)), kld


def couplet_loss(model: Any, ids: Tensor) -> Tensor:
    logits, kld = model(ids, (ids != 0).long())
    return F.cross_entropy(logits.permute(0, 2, 1), ids, reduction="sum") / len(ids) + 0.95 * kld


def couplets() -> tuple[Tensor, ...]:
    ids = tokens(12, 4, 7, low=1)
    ids[1, 5:] = 0
    ids[3, 6:] = 0
    return (ids,)


class PolymerReader(nn.Module):
    """No code is wider than N(0, 1)."""

    def __init__(self, width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.mean_lin, self.logvar_lin = nn.Linear(4 * hidden, latent), nn.Linear(4 * hidden, latent)
        nn.init.xavier_uniform_(self.mean_lin.weight)
        nn.init.xavier_uniform_(self.logvar_lin.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, hidden = self.rnn(x)
        hidden = hidden.permute(1, 0, 2).contiguous().view(len(x), -1)
        return self.mean_lin(hidden), -torch.abs(self.logvar_lin(hidden))


class PolymerWriter(nn.Module):
    def __init__(self, letters: int, width: int, hidden: int, latent: int, layers: int = 4) -> None:
        super().__init__()
        self.layers, self.hidden = layers, hidden
        self.embedding_dropout, self.outputs_dropout = nn.Dropout(0.5), nn.Dropout(0.5)
        self.rnn = nn.GRU(width, hidden, num_layers=layers, batch_first=True)
        self.latent2hidden, self.outputs2vocab = nn.Linear(latent, hidden * layers), nn.Linear(hidden, letters)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        start = self.latent2hidden(z).view(-1, self.layers, self.hidden).permute(1, 0, 2).contiguous()
        out, _ = self.rnn(self.embedding_dropout(x), torch.tanh(start))
        return self.outputs2vocab(self.outputs_dropout(out))


class PolymerProperties(nn.Module):
    """Layers of half the width each."""

    def __init__(self, latent: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList()
        for depth in range(3):
            half = latent // 2 ** (depth + 1)
            self.hidden.extend([nn.Linear(latent // 2**depth, half), nn.ReLU(), nn.Dropout(0.15), nn.BatchNorm1d(half)])
        self.fc_out = nn.Linear(latent // 8, out)

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.hidden:
            h = layer(h)
        return self.fc_out(h)


class PolymerVAE(nn.Module):
    def __init__(self, letters: int = 11, width: int = 5, hidden: int = 6, latent: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.encoder, self.decoder = PolymerReader(width, hidden, latent), PolymerWriter(letters, width, hidden, latent)
        self.predictor = PolymerProperties(latent, 3)

    def sample(self, mean: Tensor, logv: Tensor) -> Tensor:
        epsilon = torch.FloatTensor(*mean.shape).normal_(0, 1.0)
        return mean + torch.exp(0.5 * logv) * epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        read = self.embedding(x[:, :-1])
        mean, logv = self.encoder(read)
        return self.decoder(read, self.sample(mean, logv)), mean, logv, self.predictor(mean)


def polymer_loss(model: Any, x: Tensor, properties: Tensor, kl_weight: float = 0.05) -> Tensor:
    out, mean, logv, predicted = model(x)
    letters = F.cross_entropy(out.flatten(0, 1), x[:, 1:].reshape(-1), reduction="sum")
    return (letters + kl_weight * kl_to_unit(mean, logv) + 10 * F.mse_loss(predicted, properties)) / len(x)


def half_below(v: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.abs(v))


class HiddenModeRSSM(nn.Module):
    def __init__(self, obs: int = 4, action: int = 1, hidden: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.hidden, self.latent = hidden, latent
        self.encoder = nn.Sequential(nn.Linear(obs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.gru = nn.GRUCell(latent + action, hidden)
        self.prior, self.posterior = nn.Linear(hidden, 2 * latent), nn.Linear(2 * hidden, 2 * latent)
        self.decoder, self.reward_head, self.value_head = (
            nn.Sequential(nn.Linear(hidden + latent, hidden), nn.Tanh(), nn.Linear(hidden, out)) for out in (obs, 1, 1)
        )

    @staticmethod
    def split_stats(stats: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = torch.chunk(stats, 2, dim=-1)
        return mean, F.softplus(raw_scale) + 0.05

    def forward(self, obs: Tensor, actions: Tensor) -> dict[str, Tensor]:
        h, z = torch.zeros(len(obs), self.hidden), torch.zeros(len(obs), self.latent)
        kept: dict[str, list[Tensor]] = {
            name: [] for name in ("recon", "reward", "value", "prior_mean", "prior_scale", "post_mean", "post_scale")
        }
        for t in range(obs.shape[1]):
            h = self.gru(torch.cat([z, actions[:, t]], dim=-1), h)
            prior_stats = self.split_stats(self.prior(h))
            mean, scale = self.split_stats(self.posterior(torch.cat([h, self.encoder(obs[:, t])], dim=-1)))
            z = mean + torch.randn_like(scale) * scale
            state = torch.cat([h, z], dim=-1)
            heads = (self.decoder(state), self.reward_head(state), self.value_head(state))
            for values, new in zip(kept.values(), (*heads, *prior_stats, mean, scale), strict=True):
                values.append(new)
        return {name: torch.stack(values, dim=1) for name, values in kept.items()}


def hidden_mode_loss(model: Any, obs: Tensor, actions: Tensor, rewards: Tensor, returns: Tensor) -> Tensor:
    out = model(obs, actions)
    var_q, var_p = out["post_scale"].pow(2), out["prior_scale"].pow(2)
    logs = torch.log(out["prior_scale"]) - torch.log(out["post_scale"])
    kl = 0.5 * ((var_q + (out["post_mean"] - out["prior_mean"]).pow(2)) / var_p - 1.0 + 2.0 * logs)
    errors = F.mse_loss(out["recon"], obs) + F.mse_loss(out["reward"], rewards)
    return errors + 0.35 * F.mse_loss(out["value"], returns) + 0.02 * kl.mean()


def twentieth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.05


# ------------------------------------------------------------------------ filters, hearts, paths, stocks, recurrences


class GatedStep(nn.Module):
    """The prior of the next state, drawn though nobody reads the draw."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, latent), nn.Sigmoid())
        self.proposed_mean = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.z_to_mu, self.z_to_logvar, self.relu = nn.Linear(latent, latent), nn.Linear(latent, latent), nn.ReLU()
        self.z_to_mu.weight.data = torch.eye(latent)
        self.z_to_mu.bias.data = torch.zeros(latent)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, proposed = self.gate(z), self.proposed_mean(z)
        mu = (1 - gate) * self.z_to_mu(z) + gate * proposed
        logvar = self.z_to_logvar(self.relu(proposed))
        return mu + torch.randn(z.size()) * torch.exp(0.5 * logvar), mu, logvar


class Combine(nn.Module):
    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.z_to_hidden, self.tanh = nn.Linear(latent, hidden), nn.Tanh()
        self.hidden_to_mu, self.hidden_to_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = 0.5 * (self.tanh(self.z_to_hidden(z)) + h)
        mu, logvar = self.hidden_to_mu(both), self.hidden_to_logvar(both)
        return mu + torch.randn(z.size()) * torch.exp(0.5 * logvar), mu, logvar


class Emit(nn.Module):
    """Data that are drawn, with one variance for all."""

    def __init__(self, latent: int, hidden: int, data: int) -> None:
        super().__init__()
        self.z_to_hidden, self.hidden_to_hidden = nn.Linear(latent, hidden), nn.Linear(hidden, hidden)
        self.hidden_to_input_mu, self.logvar = nn.Linear(hidden, data), nn.Parameter(torch.ones(data))

    def forward(self, z: Tensor) -> Tensor:
        h = torch.relu(self.hidden_to_hidden(torch.relu(self.z_to_hidden(z))))
        mu = self.hidden_to_input_mu(h)
        eps = torch.randn(len(z), mu.shape[1])
        return mu + eps * torch.exp(0.5 * self.logvar)


class KalmanNet(nn.Module):
    """The squares are of the draw of the data, not of its mean."""

    def __init__(self, data: int = 3, latent: int = 4, hidden: int = 6, rnn: int = 7) -> None:
        super().__init__()
        self.trans, self.emitter, self.combiner = (
            GatedStep(latent, hidden),
            Emit(latent, hidden, data),
            Combine(latent, rnn),
        )
        self.z_q_0, self.h_0 = nn.Parameter(torch.zeros(latent)), nn.Parameter(torch.zeros(1, 1, rnn))
        self.rnn = nn.RNN(data, rnn, nonlinearity="relu", batch_first=True)

    def infer(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        states, _ = self.rnn(x, self.h_0.expand(1, len(x), -1).contiguous())
        z = self.z_q_0.expand(len(x), -1)
        kl, errors = torch.zeros(x.shape[:2]), torch.zeros(x.shape[:2])
        for t in range(x.shape[1]):
            _, prior_mu, prior_logvar = self.trans(z)
            z, mu, logvar = self.combiner(z, states[:, t])
            ratio = (torch.exp(logvar) + (mu - prior_mu).pow(2)) / torch.exp(prior_logvar)
            kl[:, t] = torch.sum(0.5 * (prior_logvar - logvar + ratio - torch.ones(1)), 1)
            error = F.mse_loss(self.emitter(z).reshape(-1), y[:, t].reshape(-1), reduction="none")
            errors[:, t] = error.view(len(x), -1).mean(dim=1)
        return errors.mean(), kl.mean()


def kalman_loss(model: Any, x: Tensor) -> Tensor:
    error, kl = model.infer(x, x.clone())
    return error + 0.1 * kl


class HeartReader(nn.Module):
    """Frames and covariates through attention. Upstream the frames are meshes, with spiral convolutions."""

    def __init__(self, data: int, latent: int) -> None:
        super().__init__()
        self.gnn, self.sex_embedding = nn.Linear(data, latent), nn.Embedding(2, latent)
        self.age_embedder, self.bsa_embedder = nn.Linear(1, latent), nn.Linear(1, latent)
        layer = nn.TransformerEncoderLayer(latent, 2, 8, 0.1, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.query, self.mha = (
            nn.Parameter(0.02 * torch.randn(1, 1, latent)),
            nn.MultiheadAttention(latent, 2, batch_first=True),
        )
        self.mu_head, self.logvar_head = nn.Linear(latent, latent), nn.Linear(latent, latent)

    def forward(self, x: Tensor, sex: Tensor, age: Tensor, bsa: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gnn(x)
        phases = theta.unsqueeze(-1) * torch.arange(1, h.shape[2] // 2 + 1).float()
        h = h + torch.cat([torch.sin(phases), torch.cos(phases)], dim=-1)
        known = [self.sex_embedding(sex), self.age_embedder(age), self.bsa_embedder(bsa)]
        out = self.transformer(torch.cat([*(k.unsqueeze(1) for k in known), h], dim=1))[:, 3:]
        pooled = self.mha(self.query.expand(len(x), -1, -1), out, out)[0].squeeze(1)
        return self.mu_head(pooled), torch.clamp(self.logvar_head(pooled), min=-12.0, max=10.0)


class HeartODE(nn.Module):
    """A heart's beat as a path from its code; the prior knows sex, age and size. Steps of Euler."""

    def __init__(self, data: int = 6, latent: int = 4) -> None:
        super().__init__()
        self.latent = latent
        self.warp_mlp = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1), nn.Softplus())
        self.prior_mlp = nn.Sequential(nn.Linear(3, 7), nn.ReLU(inplace=True), nn.Linear(7, 2 * latent))
        self.posterior_encoder = HeartReader(data, latent)
        self.ode_func = nn.Sequential(nn.Linear(latent + 2, 7), nn.Tanh(), nn.Linear(7, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 8), nn.ELU(), nn.Linear(8, data))

    def warp(self, rate: Tensor, times: Tensor) -> Tensor:
        phase = (2 * math.pi * times).view(1, -1, 1).expand(len(rate), -1, -1)
        hr = rate.unsqueeze(1).expand(-1, len(times), -1)
        speed = self.warp_mlp(torch.cat([hr, torch.sin(phase), torch.cos(phase)], dim=-1)).squeeze(-1)
        steps = 2 * math.pi * speed / speed.sum(dim=1, keepdim=True).clamp_min(1e-7)
        return torch.cat([torch.zeros(len(rate), 1), torch.cumsum(steps, dim=1)[:, :-1]], dim=1)

    def forward(self, x: Tensor, sex: Tensor, age: Tensor, bsa: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        times = torch.linspace(0.0, 1.0, x.shape[1] + 1)[:-1]
        theta = self.warp(rate, times)
        mean, logvar = self.posterior_encoder(x, sex, age, bsa, theta)
        std = torch.exp(0.5 * logvar)
        z = mean + torch.randn_like(std) * std
        path = [z]
        for t in range(len(times) - 1):
            phase = torch.stack([torch.sin(theta[:, t]), torch.cos(theta[:, t])], dim=1)
            z = z + (times[t + 1] - times[t]) * self.ode_func(torch.cat([z, phase], dim=-1))
            path.append(z)
        known = torch.cat([sex.unsqueeze(1).float(), age, bsa], dim=1)
        prior_mean, prior_logvar = torch.split(self.prior_mlp(known), self.latent, dim=1)
        return (
            self.decoder(torch.stack(path, 1)),
            mean,
            logvar,
            prior_mean,
            torch.clamp(prior_logvar, min=-12.0, max=10.0),
        )


def heart_loss(model: Any, x: Tensor, *known: Tensor) -> Tensor:
    out, mean, logvar, prior_mean, prior_logvar = model(x, *known)
    terms = (torch.exp(logvar) + (mean - prior_mean) ** 2) / torch.exp(prior_logvar) - 1.0 + prior_logvar - logvar
    return torch.sum(torch.mean((out - x) ** 2, dim=(0, 1))) + 5.0 * torch.mean(0.5 * torch.sum(terms, dim=1))


def twelve_to_ten(v: Tensor) -> Tensor:
    return torch.exp(0.5 * torch.clamp(v, min=-12.0, max=10.0))


class HopperSDE(nn.Module):
    """Paths with two drifts and one diffusion, whose nets may put out any sign. Euler's method is ours."""

    def __init__(self, data: int = 3, latent: int = 2, context: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.gru, self.encoder.lin = nn.GRU(data, hidden), nn.Linear(hidden, context)
        self.qz0_net = nn.Linear(context, 2 * latent)
        self.f_net, self.h_net, self.projector = (
            nn.Sequential(nn.Linear(a, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Linear(hidden, b))
            for a, b in ((latent + context, latent), (latent, latent), (latent, 2 * data))
        )
        self.g_nets = nn.ModuleList(
            nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1)) for _ in range(latent)
        )
        self.pz0_mean, self.pz0_logstd = nn.Parameter(torch.zeros(1, latent)), nn.Parameter(torch.zeros(1, latent))

    def g(self, z: Tensor) -> Tensor:
        parts = torch.split(z, 1, dim=1)
        return torch.cat([net(part) for net, part in zip(self.g_nets, parts, strict=True)], dim=1)

    def forward(self, xs: Tensor, dt: float = 0.1) -> tuple[Tensor, Tensor]:
        ctx = torch.flip(self.encoder.lin(self.encoder.gru(torch.flip(xs, dims=(0,)))[0]), dims=(0,))
        mean, logstd = self.qz0_net(ctx[0]).chunk(chunks=2, dim=1)
        z = mean + logstd.exp() * torch.randn_like(mean)
        path, ratio = [z], torch.zeros(len(z))
        for t in range(len(xs) - 1):
            f, h, g = self.f_net(torch.cat((z, ctx[t + 1]), dim=1)), self.h_net(z), self.g(z)
            u = (f - h) / torch.where(g.abs() > 1e-7, g, torch.full_like(g, 1e-7) * g.sign())
            ratio = ratio + 0.5 * (u**2).sum(dim=1) * dt
            z = z + f * dt + g * math.sqrt(dt) * torch.randn_like(z)
            path.append(z)
        mean_x, noise = self.projector(torch.stack(path)).chunk(chunks=2, dim=2)
        log_pxs = Normal(loc=mean_x, scale=noise.exp()).log_prob(xs).sum(dim=(0, 2)).mean(dim=0)
        qz0, pz0 = Normal(mean, logstd.exp()), Normal(self.pz0_mean, self.pz0_logstd.exp())
        return log_pxs, kl_divergence(qz0, pz0).sum(dim=1).mean(dim=0) + ratio.mean(dim=0)


def hopper_loss(model: Any, xs: Tensor) -> Tensor:
    log_pxs, log_ratio = model(xs)
    return -log_pxs + 0.3 * log_ratio


class StockAttention(nn.Module):
    """Cosines to a query, none below zero."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.q = nn.Parameter(torch.randn(hidden) * 0.1)

    def forward(self, e: Tensor) -> Tensor:
        scores = (
            (F.normalize(self.q.unsqueeze(0), dim=-1) * F.normalize(self.key(e), dim=-1)).sum(dim=-1).clamp(min=0.0)
        )
        total = scores.sum()
        weights = torch.ones_like(scores) / len(scores) if total < 1e-9 else scores / total
        return (weights.unsqueeze(-1) * self.value(e)).sum(dim=0)


class LawOfOne(nn.Module):
    """A mean and a positive scale of each row."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden, self.act = nn.Linear(hidden, hidden), nn.LeakyReLU(0.1)
        self.mu_head, self.sigma_head = nn.Linear(hidden, 1), nn.Linear(hidden, 1)

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.hidden(e))
        return self.mu_head(h).squeeze(-1), F.softplus(self.sigma_head(h)).squeeze(-1)


class StockFactors(nn.Module):
    """Returns of one day's stocks. Nothing is drawn: the factors' law is put through a linear map."""

    def __init__(self, features: int = 4, hidden: int = 6, factors: int = 3, portfolios: int = 5) -> None:
        super().__init__()
        self.extractor, self.encoder, self.predictor, self.decoder = (nn.Module() for _ in range(4))
        self.extractor.proj, self.extractor.gru = nn.Linear(features, hidden), nn.GRU(hidden, hidden, batch_first=True)
        self.encoder.portfolio = nn.Linear(hidden, portfolios)
        self.encoder.mu_head, self.encoder.sigma_head = nn.Linear(portfolios, factors), nn.Linear(portfolios, factors)
        self.predictor.heads = nn.ModuleList(StockAttention(hidden) for _ in range(factors))
        self.predictor.dist_net, self.decoder.alpha = LawOfOne(hidden), LawOfOne(hidden)
        self.decoder.beta = nn.Linear(hidden, factors)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        e = self.extractor.gru(F.leaky_relu(self.extractor.proj(x), 0.1))[1].squeeze(0)
        bought = y @ F.softmax(self.encoder.portfolio(e), dim=0)
        mu_post, sigma_post = self.encoder.mu_head(bought), F.softplus(self.encoder.sigma_head(bought))
        mu_prior, sigma_prior = self.predictor.dist_net(torch.stack([head(e) for head in self.predictor.heads], dim=0))
        mu_alpha, sigma_alpha = self.decoder.alpha(e)
        beta = self.decoder.beta(e)
        mu_y = mu_alpha + beta @ mu_post
        sigma_y = torch.sqrt(sigma_alpha**2 + (beta**2) @ (sigma_post**2))
        return mu_y, sigma_y, mu_post, sigma_post, mu_prior, sigma_prior


def stocks_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    mu, sigma, mu_q, sigma_q, mu_p, sigma_p = model(x, y)
    sigma, sigma_q, sigma_p = (s.clamp(min=1e-6) for s in (sigma, sigma_q, sigma_p))
    nll = 0.5 * (torch.log(2.0 * math.pi * sigma**2) + (y - mu) ** 2 / (sigma**2)).mean()
    kl = torch.log(sigma_p / sigma_q) + (sigma_q**2 + (mu_q - mu_p) ** 2) / (2.0 * sigma_p**2) - 0.5
    return nll + kl.sum()


class MarketVRNN(nn.Module):
    def __init__(self, data: int = 3, latent: int = 2, hidden: int = 6, layers: int = 2) -> None:
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.phi_x, self.enc, self.dec = (
            nn.Sequential(nn.Linear(a, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
            for a in (data, 2 * hidden, 2 * hidden)
        )
        self.phi_z, self.prior = (nn.Sequential(nn.Linear(a, hidden), nn.ReLU()) for a in (latent, hidden))
        self.enc_mu, self.enc_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.prior_mu, self.prior_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.dec_mu, self.dec_logvar = nn.Linear(hidden, data), nn.Linear(hidden, data)
        self.rnn = nn.GRU(2 * hidden, hidden, layers, bias=False)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def encode(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        out = self.enc(torch.cat([x, h], dim=1))
        return self.enc_mu(out), torch.clamp(self.enc_logvar(out), -6, 6)

    def decode(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        out = self.dec(torch.cat([z, h], dim=1))
        return self.dec_mu(out), torch.clamp(self.dec_logvar(out), -6, 6)

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        h = torch.zeros(self.layers, x.shape[1], self.hidden)
        kld, nll = torch.zeros(()), torch.zeros(())
        for now in x:
            seen, last = self.phi_x(now), h[-1]
            before = self.prior(last)
            mu_p, logvar_p = self.prior_mu(before), torch.clamp(self.prior_logvar(before), -6, 6)
            mu_q, logvar_q = self.encode(seen, last)
            z = self.phi_z(self.reparameterize(mu_q, logvar_q))
            mu, logvar = self.decode(z, last)
            _, h = self.rnn(torch.cat([seen, z], dim=1).unsqueeze(0), h)
            ratio = (logvar_q.exp() + (mu_q - mu_p).pow(2)) / logvar_p.exp()
            kld = kld + 0.5 * torch.sum(logvar_p - logvar_q + ratio - 1, dim=1).mean()
            squares = math.log(2 * math.pi) + logvar + (now - mu).pow(2) / logvar.exp()
            nll = nll + 0.5 * torch.sum(squares, dim=1).mean()
        return (beta * kld + nll) / len(x)


def within_six(v: Tensor) -> Tensor:
    return torch.exp(0.5 * torch.clamp(v, -6, 6))


# ----------------------------------------------------------- proteins, robots, traffic, hearts, sounds, galaxies, songs


class ReluBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out)
        self.dropout, self.relu = nn.Dropout(0.4), nn.ReLU(inplace=True)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.dropout(self.bn(self.linear(x))))


class ProteinReader(nn.Module):
    """It returns σ, so that the KL takes logarithms of it."""

    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.mlp, self.softplus = nn.Sequential(ReluBlock(n_in, hidden), ReluBlock(hidden, 6)), nn.Softplus()
        self.linear1, self.linear2 = nn.Linear(6, latent), nn.Linear(6, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.mlp(x)
        mu, log_var = self.linear1(h), self.softplus(self.linear2(h))
        sigma = torch.exp(log_var / 2.0)
        eps = torch.randn(mu.shape)
        return mu + sigma * eps, mu, sigma


class ProteinVAE(nn.Module):
    def __init__(self, letters: int = 15, hidden: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.Encoder = ProteinReader(letters, hidden, latent)
        self.Decoder = nn.Sequential(
            ReluBlock(latent, 6), ReluBlock(6, hidden), nn.Linear(hidden, letters), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mu, sigma = self.Encoder(x)
        return self.Decoder(z), mu, sigma


def protein_loss(model: Any, x: Tensor) -> Tensor:
    """The squares of its KL are not halved, a slip."""
    out, mu, sigma = model(x)
    return ((x - out) ** 2).sum() + (sigma**2 + mu**2 - torch.log(sigma) - 0.5).sum()


def half_of_soft(v: Tensor) -> Tensor:
    return torch.exp(F.softplus(v) / 2.0)


class SinePositions(nn.Module):
    pe: Tensor

    def __init__(self, width: int, longest: int = 16) -> None:
        super().__init__()
        angle = torch.arange(longest).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        self.register_buffer("pe", torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(1).unsqueeze(0))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[:, : x.shape[1]])


class ArmReader(nn.Module):
    """Words, or actions, and the mean of what is no padding."""

    def __init__(self, embed: nn.Module, width: int, latent: int) -> None:
        super().__init__()
        self.embed, self.pos = embed, SinePositions(width)
        layer = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.mu, self.logvar = nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(self.pos(self.embed(x)), src_key_padding_mask=~mask)
        m = mask.unsqueeze(-1).float()
        h = (h * m).sum(1) / m.sum(1).clamp(min=1)
        return self.mu(h), self.logvar(h)


class ArmWriter(nn.Module):
    def __init__(self, out: int, width: int, latent: int) -> None:
        super().__init__()
        self.proj, self.pos, self.out = nn.Linear(latent, width), SinePositions(width), nn.Linear(width, out)
        layer = nn.TransformerDecoderLayer(width, 2, 8, dropout=0.1, activation="gelu", batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, num_layers=1)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        memory = self.proj(z).unsqueeze(1)
        start = self.pos(torch.zeros(*mask.shape, memory.shape[2]))
        return self.out(self.decoder(tgt=start, memory=memory, tgt_key_padding_mask=~mask))


class ArmImage(nn.Module):
    def __init__(self, latent: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.mu, self.logvar = nn.Linear(64, latent), nn.Linear(64, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(x)
        return self.mu(h), self.logvar(h)


class ArmVAE(nn.Module):
    """A product of what is there, of three senses, and of N(0, 1)."""

    def __init__(self, latent: int = 3, words: int = 8, actions: int = 4) -> None:
        super().__init__()
        self.latent = latent
        self.enc_image, self.enc_txt = ArmImage(latent), ArmReader(nn.Embedding(words, 6, padding_idx=0), 6, latent)
        self.enc_act = ArmReader(nn.Linear(actions, 6), 6, latent)
        self.dec_image = nn.Sequential(
            nn.Linear(latent, 16), nn.ReLU(), nn.Linear(16, 64), nn.ReLU(), nn.Unflatten(1, (4, 4, 4)),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.dec_txt, self.dec_act = ArmWriter(words, 6, latent), ArmWriter(actions, 6, latent)

    def infer(self, batch: dict[str, Tensor], keep: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        laws = [(torch.zeros(len(batch["text"]), self.latent), torch.zeros(len(batch["text"]), self.latent))]
        if "image" in keep:
            laws.append(self.enc_image(batch["image"]))
        if "text" in keep:
            laws.append(self.enc_txt(batch["text"], batch["text_mask"]))
        if "action" in keep:
            laws.append(self.enc_act(batch["action"], batch["action_mask"]))
        mu, logvar = (torch.stack(part) for part in zip(*laws, strict=True))
        precision = 1.0 / (torch.exp(logvar) + 1e-8)
        total = torch.sum(precision, dim=0)
        return torch.sum(mu * precision, dim=0) / total, torch.log(1.0 / total)

    def forward(self, batch: dict[str, Tensor], keep: tuple[str, ...]) -> tuple[Tensor, ...]:
        mu, logvar = self.infer(batch, keep)
        std = torch.exp(0.5 * logvar)
        z = mu + torch.randn_like(std) * std
        text, action = self.dec_txt(z, batch["text_mask"]), self.dec_act(z, batch["action_mask"])
        return self.dec_image(z), text, action * batch["action_mask"].unsqueeze(-1), mu, logvar


def best_sigma_nll(recon: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """With the σ that fits the batch, no less than about e^-6."""
    mse = ((recon - target) ** 2 * mask).sum() / mask.expand_as(target).sum()
    log_sigma = -6.0 + F.softplus(0.5 * torch.log(mse + 1e-8) + 6.0)
    nll = 0.5 * ((recon - target) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
    return (nll * mask).sum() / len(target)


def arm_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Each subset of the senses in turn; upstream the gradients are added."""
    senses, total = ("image", "text", "action"), torch.zeros(())
    for keep in itertools.chain.from_iterable(itertools.combinations(senses, r) for r in (1, 2, 3)):
        image, text, action, mu, logvar = model(batch, keep)
        words = F.cross_entropy(text.transpose(1, 2), batch["text"], reduction="none")
        total = total + (words * batch["text_mask"].float()).sum() / len(text)
        total = total + best_sigma_nll(image, batch["image"], torch.ones(1))
        total = total + best_sigma_nll(action, batch["action"], batch["action_mask"].unsqueeze(-1).float())
        total = total + (-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(dim=1)).mean()
    return total


def three_senses() -> tuple[dict[str, Tensor], ...]:
    long = torch.arange(4)[None] < torch.tensor([4, 3, 4])[:, None]
    longer = torch.arange(5)[None] < torch.tensor([5, 5, 3])[:, None]
    return (
        {
            "image": rand(3, 3, 8, 8), "text": tokens(8, 3, 4, low=1) * long, "text_mask": long,
            "action": randn(3, 5, 4) * longer.unsqueeze(-1), "action_mask": longer,
        },
    )  # fmt: skip


class RoadConv(nn.Module):
    """Neighbours' mean by the roots of their degrees, with loops."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        looped = adjacency + torch.eye(len(adjacency))
        scale = looped.sum(1).pow(-0.5)
        return (scale[:, None] * looped * scale[None]) @ self.lin(x) + self.bias


class RoadGraphVAE(nn.Module):
    """One code of a whole graph. Upstream's loader makes batches, which its layers do not take; this has a graph."""

    def __init__(self, steps: int = 5, hidden: int = 7, latent: int = 3, nodes: int = 6) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.conv1, self.encoder.conv2 = RoadConv(steps, hidden), RoadConv(hidden, hidden)
        self.encoder.fc_mu, self.encoder.fc_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder.fc1, self.decoder.fc2 = nn.Linear(latent, hidden), nn.Linear(hidden, nodes * steps)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.encoder.conv2(F.relu(self.encoder.conv1(x, adjacency)), adjacency)).mean(dim=0)
        mu, logvar = self.encoder.fc_mu(h), self.encoder.fc_logvar(h)
        z = self.reparameterize(mu, logvar)
        return self.decoder.fc2(F.relu(self.decoder.fc1(z))).view(x.shape), mu, logvar


def road_loss(model: Any, x: Tensor, adjacency: Tensor) -> Tensor:
    recon, mu, logvar = model(x, adjacency)
    return F.mse_loss(recon, x) - 0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())


class AgedHeartVAE(nn.Module):
    """Its decoder is handed the code, and does not read it: what it attends to are the encoder's states."""

    def __init__(self, leads: int = 3, diagnoses: int = 4, hidden: int = 6, latent: int = 3) -> None:
        super().__init__()
        self.encoder_lstm, self.decoder_lstm = (nn.LSTM(n, hidden, batch_first=True) for n in (leads, hidden))
        self.hidden_to_mu, self.hidden_to_logvar = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)
        self.age_embed, self.multi_hot_embed = nn.Linear(1, 1), nn.Linear(diagnoses, hidden - 1)
        self.hidden_to_ecg, self.attention = nn.Linear(hidden, leads), nn.Linear(hidden, 1)

    def known(self, age: Tensor, multi_hot: Tensor) -> Tensor:
        return torch.cat(
            [torch.tanh(self.age_embed(age.unsqueeze(1))), F.relu(self.multi_hot_embed(multi_hot))], dim=-1
        )

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def attend(self, states: Tensor, _: Tensor) -> Tensor:
        weights = F.softmax(torch.tanh(self.attention(states)), dim=1)
        return torch.sum(weights * states, dim=1)

    def decode(self, latent: Tensor, states: Tensor, age: Tensor, multi_hot: Tensor) -> Tensor:
        start = self.known(age, multi_hot).unsqueeze(0)
        context = self.attend(states, latent).unsqueeze(1).repeat(1, states.shape[1], 1)
        return self.hidden_to_ecg(self.decoder_lstm(context, (start, start))[0])

    def forward(self, ecg: Tensor, age: Tensor, multi_hot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        known = self.known(age, multi_hot)
        states, (hidden, _) = self.encoder_lstm(ecg, (known.unsqueeze(0), known.unsqueeze(0)))
        both = torch.cat([hidden[-1], known], dim=-1)
        mu, logvar = self.hidden_to_mu(both), self.hidden_to_logvar(both)
        return self.decode(self.reparameterize(mu, logvar), states, age, multi_hot), mu, logvar


def aged_heart_loss(model: Any, ecg: Tensor, age: Tensor, multi_hot: Tensor) -> Tensor:
    out, mu, logvar = model(ecg, age, multi_hot)
    return F.mse_loss(out, ecg, reduction="sum") + 0.1 * kl_to_unit(mu, logvar)


def sound_layers(widths: tuple[int, ...], up: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        conv = nn.ConvTranspose1d if up else nn.Conv1d
        layers += [conv(a, b, 8, 2, 3), nn.LeakyReLU(), nn.BatchNorm1d(b)]
    return layers


class LoopVAE(nn.Module):
    """Loops of sound. The squares of its KL's σ count twice, a slip."""

    def __init__(self, mels: int = 8, frames: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*sound_layers((mels, 6, 4), False), nn.Flatten())
        self.decoder = nn.Sequential(
            nn.Linear(latent, frames),
            nn.LeakyReLU(),
            nn.Unflatten(1, (4, frames // 4)),
            *sound_layers((4, 6, mels), True),
        )
        self.mu = nn.Sequential(nn.Linear(frames, latent))
        self.sigma = nn.Sequential(nn.Linear(frames, latent), nn.Softplus())

    def latent(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        unit = Normal(loc=0.0, scale=1.0)
        kl_div = torch.sum(1 + torch.log(sigma**2) - mu**2 - 2 * (sigma**2)) / 2
        return mu + sigma * unit.sample(sigma.shape), kl_div

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        z, kl_div = self.latent(self.mu(h), self.sigma(h))
        return self.decoder(z), kl_div


def loop_loss(model: Any, mag: Tensor) -> Tensor:
    out, kl_div = model(mag)
    return F.mse_loss(out, mag, reduction="sum") - 0.2 * kl_div


class GalaxyVAE(nn.Module):
    """Spectra, by convolutions; means and log variances are of one layer each, in a sequence of its own."""

    def __init__(self, pixels: int = 24, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, pixels)), nn.Conv1d(1, 3, 5, padding=1), nn.BatchNorm1d(3), nn.LeakyReLU(inplace=True),
            nn.Dropout(0), nn.MaxPool1d(2), nn.Conv1d(3, 4, 5, padding=1), nn.BatchNorm1d(4),
            nn.LeakyReLU(inplace=True), nn.Dropout(0), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16, 9),
            nn.LeakyReLU(inplace=True), nn.Dropout(0),
        )  # fmt: skip
        self.mean, self.log_var = nn.Sequential(nn.Linear(9, latent)), nn.Sequential(nn.Linear(9, latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent, 9), nn.LeakyReLU(inplace=True), nn.Linear(9, 24), nn.LeakyReLU(inplace=True),
            nn.Unflatten(1, (4, 6)), nn.ConvTranspose1d(4, 3, 5, 2, 1, output_padding=1), nn.BatchNorm1d(3),
            nn.LeakyReLU(inplace=True), nn.Conv1d(3, 1, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(),
            nn.Linear(14, pixels), nn.ReLU(inplace=True),
        )  # fmt: skip

    def reparameterize(self, z_mean: Tensor, z_log_var: Tensor) -> Tensor:
        epsilon = torch.randn(z_mean.shape)
        return z_mean + torch.exp(z_log_var / 2) * epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_var = self.mean(h), self.log_var(h)
        return self.decoder(self.reparameterize(mean, log_var)), mean, log_var


def galaxy_loss(model: Any, x: Tensor) -> Tensor:
    out, mean, log_var = model(x)
    kl = -0.5 * torch.mean(1 + log_var - mean.pow(2) - log_var.exp())
    return 1000.0 * F.mse_loss(x, out) + 0.1 * kl


class SongVAE(nn.Module):
    """A spectrogram and a song's words, joined before the code and parted behind it."""

    def __init__(self, words: int = 7, latent: int = 3, sizes: tuple[int, int] = (6, 4)) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv1, self.conv2 = nn.Conv2d(1, 3, 4, 2, 1), nn.Conv2d(3, 4, 4, 2, 1)
        self.fc_audio, self.fc_lyrics = nn.Linear(24, sizes[0]), nn.Linear(words, sizes[1])
        self.fc_mu, self.fc_logvar = nn.Linear(sum(sizes), latent), nn.Linear(sum(sizes), latent)
        self.decoder_input, self.fc_decode_audio = nn.Linear(latent, sum(sizes)), nn.Linear(sizes[0], 24)
        self.deconv3, self.deconv4 = nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ConvTranspose2d(3, 1, 4, 2, 1)
        self.fc_decode_lyrics = nn.Linear(sizes[1], words)

    def encode(self, audio: Tensor, lyrics: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.conv2(F.relu(self.conv1(audio)))).view(len(audio), -1)
        both = torch.cat([F.relu(self.fc_audio(h)), F.relu(self.fc_lyrics(lyrics))], dim=1)
        return self.fc_mu(both), self.fc_logvar(both)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, audio: Tensor, lyrics: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = self.encode(audio, lyrics)
        h = F.relu(self.decoder_input(self.reparameterize(mu, logvar)))
        h_audio, h_lyrics = torch.split(h, list(self.sizes), dim=1)
        h = F.relu(self.deconv3(F.relu(self.fc_decode_audio(h_audio)).view(-1, 4, 2, 3)))
        return torch.sigmoid(self.deconv4(h)), self.fc_decode_lyrics(h_lyrics), mu, logvar


def song_loss(model: Any, audio: Tensor, lyrics: Tensor) -> Tensor:
    out, words, mu, logvar = model(audio, lyrics)
    errors = F.mse_loss(out, audio, reduction="sum") + F.mse_loss(words, lyrics, reduction="sum") * 50
    return errors + kl_to_unit(mu, logvar)


# --------------------------------------------- policies, dynamics, active inference, functions, mixtures, missing data


class WalkerPPO(nn.Module):
    def __init__(self, states: int = 5, actions: int = 2, hidden: int = 7) -> None:
        super().__init__()
        self.mu_net, self.value_network = (
            nn.Sequential(
                nn.Linear(states, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, out)
            )
            for out in (actions, 1)
        )  # fmt: skip
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.mu_net(x)
        return mu, self.log_std.exp().expand_as(mu)


def walker_ppo_loss(model: Any, obs: Tensor, acts: Tensor, logps: Tensor, adv: Tensor, rewards: Tensor) -> Tensor:
    """The policy's loss and the value's, which are of steps of their own upstream."""
    mu, std = model(obs)
    ratio = torch.exp(Normal(mu, std).log_prob(acts).sum(dim=-1) - logps)
    policy = -torch.min(ratio * adv, torch.clamp(ratio, 0.8, 1.2) * adv).mean()
    return policy + F.mse_loss(model.value_network(obs).squeeze(), rewards)


def walked() -> tuple[Tensor, ...]:
    """States, actions, their densities, advantages, returns."""
    return randn(6, 5), randn(6, 2, seed=9), randn(6, seed=10) - 2.5, randn(6, seed=11), randn(6, seed=12)


class PointAttention(nn.Module):
    """Two heads, of points asked for to points given."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Sequential(nn.Linear(1, width), nn.ReLU())
        self.key, self.query, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.head_combine, self.ff = nn.Linear(width, width), nn.Linear(width, width)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def part(self, h: Tensor) -> Tensor:
        return h.view(*h.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, h: Tensor, given: Tensor, asked: Tensor) -> Tensor:
        keys, queries = self.embedding(given), self.embedding(asked)
        k, q, v = self.part(self.key(keys)), self.part(self.query(queries)), self.part(self.value(h))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(k.shape[-1]), dim=-1)
        found = self.head_combine((weights @ v).transpose(1, 2).flatten(2))
        out = self.ln1(found + queries)
        return self.ln2(out + self.ff(out))


class MeanOfPoints(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return torch.mean(h, dim=1, keepdim=True)


class CodeOfPoints(nn.Module):
    """The raw values are averaged before they become a law."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.pooling_fn = width, MeanOfPoints()
        self.pre_pooling_fn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * width))

    def forward(self, r: Tensor) -> Normal:
        h = self.pooling_fn(self.pre_pooling_fn(r))
        return Normal(loc=h[..., : self.width], scale=0.1 + 0.9 * torch.sigmoid(h[..., self.width :]))


class CurveProcess(nn.Module):
    """A neural process with attention; what it calls a variance is σ."""

    def __init__(self, width: int = 4, samples: int = 3) -> None:
        super().__init__()
        self.samples, self.encode_points = (
            samples,
            nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)),
        )
        self.attend, self.latent_encoder = PointAttention(width), CodeOfPoints(width)
        self.post_pooling_fn = nn.Sequential(
            nn.Linear(2 * width + 1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )

    def deter_encoder(self, x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        return self.attend(self.encode_points(torch.cat((x, y), dim=-1)), x, asked)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> tuple[Tensor, Tensor, Normal, Normal]:
        r = self.deter_encoder(xc, yc, xt)
        z_dist = self.latent_encoder(r)
        z_dist_post = self.latent_encoder(self.deter_encoder(xt, yt, xc))
        z = z_dist_post.rsample([self.samples]).repeat(1, 1, xt.shape[1], 1)
        read = torch.cat([xt.expand(self.samples, -1, -1, -1), r.expand(self.samples, -1, -1, -1), z], -1)
        out = self.post_pooling_fn(read)
        return out[..., :1], 0.1 + 0.9 * F.softplus(out[..., 1:]), z_dist, z_dist_post


def curve_loss(model: Any, *batch: Tensor) -> Tensor:
    mean, var, before, after = model(*batch)
    log_prob = Normal(loc=mean, scale=var).log_prob(batch[3])
    nll = -torch.mean(log_prob.view(*log_prob.shape[:2], -1).mean(-1))
    return nll + torch.mean(kl_divergence(after, before), dim=0).sum()


def a_tenth_and_sigmoid(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def a_tenth_and_softplus(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


class TwoHeadedDynamics(nn.Module):
    def __init__(self, n_in: int, states: int, rewards: int) -> None:
        super().__init__()
        self.states = states
        self.diff_dynamics = nn.Sequential(nn.Linear(n_in, 7), nn.SiLU(), nn.Linear(7, 7), nn.SiLU())
        self.diff_dynamics.append(nn.Linear(7, states + rewards))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.diff_dynamics(x)
        return out[..., : self.states], out[..., self.states :]


class ManyDynamics(nn.Module):
    """Each network's log variances lie between learned bounds."""

    def __init__(self, states: int = 3, actions: int = 2, rewards: int = 1, networks: int = 2) -> None:
        super().__init__()
        self.states, self.rewards = states, rewards
        self.networks = nn.ModuleList(
            TwoHeadedDynamics(states + actions, 2 * states, 2 * rewards) for _ in range(networks)
        )
        for name, size in (("diff_state", states), ("reward", rewards)):
            self.register_parameter(f"max_{name}_logvar", nn.Parameter(torch.ones([1, size]) / 2.0))
            self.register_parameter(f"min_{name}_logvar", nn.Parameter(-torch.ones([1, size]) * 10.0))

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        outs = [network(torch.cat([states, actions], dim=-1)) for network in self.networks]
        moves, rewards = (torch.stack(part, dim=0) for part in zip(*outs, strict=True))
        move_means, move_logvars = moves[..., : self.states], moves[..., self.states :]
        reward_means, reward_logvars = rewards[..., : self.rewards], rewards[..., self.rewards :]
        move_logvars = self.max_diff_state_logvar - F.softplus(self.max_diff_state_logvar - move_logvars)
        move_logvars = self.min_diff_state_logvar + F.softplus(move_logvars - self.min_diff_state_logvar)
        reward_logvars = self.max_reward_logvar - F.softplus(self.max_reward_logvar - reward_logvars)
        reward_logvars = self.min_reward_logvar + F.softplus(reward_logvars - self.min_reward_logvar)
        return torch.cat([move_means, reward_means], dim=-1), torch.cat([move_logvars, reward_logvars], dim=-1)


def dynamics_ensemble_loss(model: Any, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, masks: Tensor) -> Tensor:
    means, logvars = model(s, a)
    targets = torch.cat([s2 - s, r], dim=-1).repeat(len(means), 1, 1)
    masks = masks.repeat(len(means), 1, 1)
    squares = torch.mean((means - targets) ** 2 * torch.exp(-logvars) * masks, dim=[-2, -1])
    losses = (squares + torch.mean(logvars * masks, dim=[-2, -1])).sum()
    bounds = model.max_diff_state_logvar.sum() + model.max_reward_logvar.sum()
    bounds = bounds - model.min_diff_state_logvar.sum() - model.min_reward_logvar.sum()
    decay = sum(p.norm(2) for name, p in model.networks.named_parameters() if "weight" in name)
    return losses + 0.01 * bounds + 1e-4 * decay


def between_learned(v: Tensor) -> Tensor:
    v = 0.5 - F.softplus(0.5 - v)
    return torch.exp(0.5 * (-10.0 + F.softplus(v + 10.0)))


class ScreensVAE(nn.Module):
    """Pictures in a row are a volume."""

    def __init__(self, screens: int = 2, latent: int = 3) -> None:
        super().__init__()
        self.screens, kernel, stride = screens, (5, 5, 1), (2, 2, 1)
        self.encoder = nn.Sequential(
            nn.Conv3d(3, 3, kernel, stride), nn.BatchNorm3d(3), nn.ReLU(inplace=True),
            nn.Conv3d(3, 4, kernel, stride), nn.BatchNorm3d(4), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose3d(4, 3, kernel, stride), nn.BatchNorm3d(3), nn.ReLU(inplace=True),
            nn.ConvTranspose3d(3, 3, kernel, stride), nn.BatchNorm3d(3), nn.ReLU(inplace=True), nn.Sigmoid(),
        )  # fmt: skip
        size = 4 * screens
        self.fc1, self.fc2_mu, self.fc2_logvar = nn.Linear(size, 6), nn.Linear(6, latent), nn.Linear(6, latent)
        self.fc3, self.fc4 = nn.Linear(latent, 6), nn.Linear(6, size)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc1(self.encoder(x).view(len(x), -1)))
        return self.fc2_mu(h), self.fc2_logvar(h)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.fc4(F.relu(self.fc3(z))).view(len(z), 4, 1, 1, self.screens))


class CartInference(nn.Module):
    """Upstream a plain class. Its nets read the codes' means and variances, and leave the encoder as it is."""

    def __init__(self, latent: int = 3, actions: int = 2) -> None:
        super().__init__()
        self.vae = ScreensVAE(latent=latent)
        self.transition_net, self.policy_net, self.value_net, self.target_net = (
            nn.Sequential(nn.Linear(a, 6), nn.ReLU(), nn.Linear(6, b))
            for a, b in ((2 * latent + 1, latent), *[(2 * latent, actions)] * 3)
        )
        self.target_net.requires_grad_(False)

    def policy(self, state: Tensor) -> Tensor:
        return F.softmax(self.policy_net(state), dim=-1).clamp(min=1e-9, max=1 - 1e-9)


def cart_loss(model: Any, obs: Tensor, actions: Tensor, rewards: Tensor, done: Tensor) -> Tensor:
    """The free energy and the values' squares, which have their own gradients upstream."""
    (mu0, v0), (mu1, v1), (mu2, v2) = (model.vae.encode(obs[..., t : t + 2]) for t in range(3))
    s0, s1, s2 = (torch.cat((m, torch.exp(v)), dim=1).detach() for m, v in ((mu0, v0), (mu1, v1), (mu2, v2)))
    z1 = model.vae.reparameterize(mu1, v1)
    predicted = model.transition_net(torch.cat((s0, actions[:, :1].float()), dim=1))
    error = torch.mean(F.mse_loss(predicted, mu1, reduction="none"), dim=1).unsqueeze(1)
    with torch.no_grad():
        later = ((1 - done) * model.policy(s2) * model.target_net(s2)).sum(-1).unsqueeze(1)
        estimate = -rewards + error + 0.99 * later
    value_loss = F.mse_loss(estimate, model.value_net(s1).gather(1, actions[:, 1:]))
    bce = F.binary_cross_entropy(model.vae.decode(z1), obs[..., 1:3], reduction="none").sum(dim=(1, 2, 3, 4))
    vae_loss = (bce - 0.5 * torch.sum(1 + v1 - mu1.pow(2) - v1.exp(), dim=1)) / 25000
    policy = model.policy(s1)
    wanted = torch.softmax(-12.0 * model.value_net(s1), dim=1).clamp(min=1e-9, max=1 - 1e-9)
    energy = -(policy * torch.log(wanted)).sum(-1).unsqueeze(1)
    entropy = -(policy * torch.log(policy)).sum(-1).unsqueeze(1)
    return torch.mean(vae_loss + error + (energy - entropy)) + value_loss


class LatentMDRNN(nn.Module):
    """It learns from codes that another network has drawn, without its gradients."""

    def __init__(self, latents: int = 3, actions: int = 2, hiddens: int = 6, gaussians: int = 2) -> None:
        super().__init__()
        self.latents, self.gaussians = latents, gaussians
        self.gmm_linear = nn.Linear(hiddens, (2 * latents + 1) * gaussians)
        self.rnn = nn.LSTM(latents + actions, hiddens)

    def forward(self, actions: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outs, _ = self.rnn(torch.cat([actions, latents], dim=-1))
        out, stride = self.gmm_linear(outs), self.gaussians * self.latents
        shape = (*outs.shape[:2], self.gaussians, self.latents)
        mus, sigmas = out[:, :, :stride].view(shape), torch.exp(out[:, :, stride : 2 * stride].view(shape))
        return mus, sigmas, F.log_softmax(out[:, :, 2 * stride :].view(shape[:3]), dim=-1)


def mdrnn_loss(model: Any, latents: Tensor, actions: Tensor, after: Tensor) -> Tensor:
    latents, actions, after = (part.transpose(1, 0) for part in (latents, actions, after))
    mus, sigmas, logpi = model(actions, latents)
    logs = logpi + torch.sum(Normal(mus, sigmas).log_prob(after.unsqueeze(-2)), dim=-1)
    most = torch.max(logs, dim=-1, keepdim=True)[0]
    log_prob = most.squeeze() + torch.log(torch.sum(torch.exp(logs - most), dim=-1))
    return -torch.mean(log_prob) / latents.shape[-1]


class SquareReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) ** 2


class SimpleBias(nn.Module):
    """Of each block what is orthogonal to its input is added."""

    def __init__(self, n_in: int, n_out: int, hidden: int = 6) -> None:
        super().__init__()
        self.proj_in = nn.Linear(n_in, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden, bias=False), nn.Linear(hidden, 2 * hidden), SquareReLU(),
                nn.Linear(2 * hidden, hidden),
            )
            for _ in range(2)
        )  # fmt: skip
        self.proj_out = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.LeakyReLU(), nn.Linear(2 * hidden, n_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj_in(x)
        for layer in self.layers:
            out, unit = layer(x).double(), F.normalize(x.double(), dim=-1)
            x = x + (out - (out * unit).sum(dim=-1, keepdim=True) * unit).to(x.dtype)
        return self.proj_out(x)


class LanderSAC(nn.Module):
    """Means and raw scales alternate. The critics' mean is copied slowly."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.to_actions = SimpleBias(states, 2 * actions)
        self.critics = nn.ModuleList(SimpleBias(states + actions, 1) for _ in range(2))
        self.critics_target = nn.ModuleList(SimpleBias(states + actions, 1) for _ in range(2)).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(0.0))

    def act(self, state: Tensor, reparametrize: bool) -> tuple[Tensor, Tensor]:
        params = self.to_actions(state)
        mu, sigma = params.view(*params.shape[:-1], -1, 2).movedim(-1, 0)
        sigma = sigma.sigmoid().clamp(min=1e-5)
        sampled = mu + sigma * torch.randn_like(sigma) if reparametrize else torch.normal(mu, sigma)
        log_prob = Normal(mu, sigma).log_prob(sampled)
        return sampled.tanh(), log_prob - 2 * (math.log(2.0) - sampled - F.softplus(-2 * sampled))

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        """Its three losses, added; the actor's leaves the critics as they are."""
        alpha = self.log_alpha.exp()
        with torch.no_grad():
            after, logp = self.act(s2, False)
            read = torch.cat([s2, after], dim=-1)
            value = torch.minimum(*(q(read) for q in self.critics_target)) - alpha * logp.sum(dim=-1, keepdim=True)
            target = 2.0 * r.unsqueeze(1) + 0.99 * (1 - done.unsqueeze(1)) * value
        both = torch.cat([s, a], dim=-1)
        loss = torch.stack([(q(both) - target) ** 2 for q in self.critics]).sum(0).mean()
        chosen, logp = self.act(s, True)
        self.critics.requires_grad_(False)
        values = torch.minimum(*(q(torch.cat([s, chosen], dim=-1)) for q in self.critics))
        self.critics.requires_grad_(True)
        entropy = -logp.sum(dim=-1, keepdim=True)
        loss = loss + (-alpha.detach() * entropy - values).mean()
        return loss + (-alpha * (a.shape[-1] - entropy).detach()).mean()


def one_update(model: Any, *batch: Tensor) -> Tensor:
    return model.update(*batch)


def landings() -> tuple[Tensor, ...]:
    """States, actions, next states, rewards, ends."""
    return randn(6, 4), randn(6, 2, seed=9).tanh(), randn(6, 4, seed=10), randn(6, seed=11), bits(6)


def soft_step(v: Tensor) -> Tensor:
    return v.sigmoid().clamp(min=1e-5)


class ImitatorPPO(nn.Module):
    """Policy and value of an imitator; its rewards, which a discriminator gives, come with the batch."""

    mean: Tensor
    std: Tensor

    def __init__(self, states: int = 5, actions: int = 2, hidden: int = 7) -> None:
        super().__init__()
        self.register_buffer("mean", 0.1 * torch.ones(states))
        self.register_buffer("std", 1.2 * torch.ones(states))
        self.policy, self.value = (
            nn.Sequential(nn.Linear(states, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()) for _ in range(2)
        )
        self.p_head, self.v_head = nn.Linear(hidden, actions), nn.Linear(hidden, 1)
        self.ac_logstd_head = nn.Parameter(torch.full((actions,), math.log(0.6)))
        for layer in (self.p_head, self.v_head):
            nn.init.orthogonal_(layer.weight, gain=0.01)

    def forward(self, ob: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ob = ((ob - self.mean) / self.std).clamp(-5.0, 5.0)
        ac_mean = self.p_head(self.policy(ob))
        return ac_mean, self.ac_logstd_head.expand_as(ac_mean).exp(), self.v_head(self.value(ob))


def imitator_loss(model: Any, ob: Tensor, ac: Tensor, old: Tensor, v_old: Tensor, adv: Tensor, ret: Tensor) -> Tensor:
    """The policy's loss and the value's, which are of steps of their own upstream."""
    mean, std, v = model(ob)
    neglogp = 0.5 * ((ac - mean) / std).pow(2).sum(dim=-1, keepdim=True)
    neglogp = neglogp + 0.5 * math.log(2 * math.pi) + std.log().sum(dim=-1, keepdim=True)
    ratio = torch.exp(-neglogp - old)
    clip_loss = torch.max(-adv * ratio, -adv * ratio.clamp(0.8, 1.2)).mean()
    entropy = (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1, keepdim=True).mean()
    clip_v = v_old + (v - v_old).clamp(-0.2, 0.2)
    v_loss = torch.max((clip_v - ret).pow(2), (v - ret).pow(2)).mean()
    return clip_loss - 0.0 * entropy + v_loss


def imitated() -> tuple[Tensor, ...]:
    columns = (randn(6, 1, seed=seed) for seed in (10, 11, 12, 13))
    old, v_old, adv, ret = columns
    return randn(6, 5), randn(6, 2, seed=9), old - 2.0, v_old, adv, ret


class RaisedELU(nn.ELU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


class SphericalMDN(nn.Module):
    """One σ for all outputs of a part."""

    def __init__(self, n_in: int = 3, n_out: int = 2, parts: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.parts, self.n_out = parts, n_out
        self.backbone = nn.Sequential(nn.Linear(n_in, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.pi_layer = nn.Sequential(nn.Linear(hidden, parts), nn.LogSoftmax(dim=-1))
        self.mu_layer = nn.Linear(hidden, parts * n_out)
        self.sigma_layer = nn.Sequential(nn.Linear(hidden, parts), RaisedELU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.backbone(x)
        mu = self.mu_layer(h).view(-1, self.parts, self.n_out)
        return self.pi_layer(h), mu, self.sigma_layer(h).view(-1, self.parts)


def spherical_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    log_pi, mu, sigma = model(x)
    n, sigma = mu.shape[-1], sigma.clamp(min=1e-7)
    squares = (y.unsqueeze(1).expand_as(mu) - mu).pow(2).sum(dim=-1)
    logs = -0.5 * n * math.log(2.0 * math.pi) - n * sigma.log() - squares / (2.0 * sigma.pow(2))
    return -(log_pi + logs).logsumexp(dim=-1).mean()


def raised_elu(v: Tensor) -> Tensor:
    return (F.elu(v) + 1.0).clamp(min=1e-7)


def plain_layers(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DiagonalCode(nn.Module):
    """Called without `forward`, as upstream."""

    def __init__(self, data: int, latent: int) -> None:
        super().__init__()
        self.latent, self.net = latent, plain_layers(data, 7, 7, 2 * latent)

    def __call__(self, x: Tensor) -> MultivariateNormal:
        statistics = self.net(x)
        mu, log_var = statistics[..., : self.latent], statistics[..., self.latent :]
        return MultivariateNormal(loc=mu, scale_tril=torch.diag_embed(F.softplus(log_var)))


class UnitData(nn.Module):
    def __init__(self, latent: int, data: int) -> None:
        super().__init__()
        self.net = plain_layers(latent, 7, 7, data)

    def __call__(self, z: Tensor) -> Normal:
        mean = self.net(z)
        return Normal(loc=mean, scale=torch.ones(mean.shape))


class WardHIVAE(nn.Module):
    """A patient's series with gaps, a code at each time."""

    def __init__(self, data: int = 5, latent: int = 3) -> None:
        super().__init__()
        self.encoder, self.decoder = DiagonalCode(data, latent), UnitData(latent, data)
        self.prior = MultivariateNormal(loc=torch.zeros(latent), scale_tril=torch.diag(torch.ones(latent)))

    def step(self, x: Tensor, missing: Tensor) -> Tensor:
        q_z = self.encoder(x)
        log_likelihood = self.decoder(q_z.rsample()).log_prob(x)
        log_likelihood = torch.where(torch.isfinite(log_likelihood), log_likelihood, torch.zeros_like(log_likelihood))
        kl = kl_divergence(q_z, self.prior)
        kl = torch.where(torch.isfinite(kl), kl, torch.zeros_like(kl)).sum(-1)
        return -((log_likelihood * missing).sum((1, 2)) - 0.2 * kl).mean()


def ward_loss(model: Any, x: Tensor, seen: Tensor) -> Tensor:
    return model.step(x * seen, seen)


# ------------------------------------------------------------------------------------------------ models without a head


class FixedSpreadPPO(nn.Module):
    """The actions' variance is a number that a schedule lowers, and nobody learns. Upstream a plain class."""

    def __init__(self, states: int = 4, actions: int = 2, hidden: int = 7, std: float = 0.5) -> None:
        super().__init__()
        self.action_var = torch.full((actions,), std * std)
        self.actor = nn.Sequential(
            nn.Linear(states, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, actions),
            nn.Tanh(),
        )  # fmt: skip
        self.critic = nn.Sequential(nn.Linear(states, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def law(self, means: Tensor) -> MultivariateNormal:
        return MultivariateNormal(means, torch.diag_embed(self.action_var.expand_as(means)))

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        r, done = r.unsqueeze(1), done.unsqueeze(1)
        target = r + 0.9 * self.critic(s2) * (1 - done)
        delta = (target - self.critic(s)).detach()
        advantage, kept = torch.zeros(1), []
        for value in delta.flip(0):
            advantage = 0.9 * 0.9 * advantage + value
            kept.append(advantage)
        advantages = torch.stack(kept[::-1])
        means = self.actor(s)
        ratio = torch.exp(self.law(means).log_prob(a) - self.law(means.detach()).log_prob(a))
        gain = torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
        return torch.mean(-gain) + F.mse_loss(self.critic(s), target.detach())


class WalkingActor(nn.Module):
    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(states, 9), nn.Linear(9, 6), nn.Linear(6, actions)
        nn.init.uniform_(self.fc3.weight, -0.003, 0.003)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc3(F.relu(self.fc2(F.relu(self.fc1(x))))))


class WalkingCritic(nn.Module):
    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(states, 9), nn.Linear(9 + actions, 6), nn.Linear(6, 1)
        nn.init.uniform_(self.fc3.weight, -0.003, 0.003)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(torch.cat((F.relu(self.fc1(state)), action), dim=1))))


class WalkingDDPG(nn.Module):
    """Upstream a plain class; the noise of its actions is of numpy, and no part of a loss."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.actor_net, self.critic_net = WalkingActor(states, actions), WalkingCritic(states, actions)
        self.target_actor_net, self.target_critic_net = WalkingActor(states, actions), WalkingCritic(states, actions)
        self.target_actor_net.requires_grad_(False)
        self.target_critic_net.requires_grad_(False)

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        """Both losses, added; the actor's leaves the critic as it is."""
        later = self.target_critic_net(s2, self.target_actor_net(s2)).detach()
        target = r.unsqueeze(1) + 0.99 * later * (1 - done.unsqueeze(1))
        loss = torch.mean(torch.pow(self.critic_net(s, a) - target, 2))
        self.critic_net.requires_grad_(False)
        loss = loss - torch.mean(self.critic_net(s, self.actor_net(s)))
        self.critic_net.requires_grad_(True)
        return loss


class AttentiveForecast(nn.Module):
    def __init__(self, features: int = 3, horizon: int = 2, hidden: int = 7) -> None:
        super().__init__()
        self.lstm, self.head_dropout = nn.LSTM(features, hidden, batch_first=True), nn.Dropout(0.0)
        self.score = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.proj = nn.Linear(hidden, horizon)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.lstm(x)
        weights = torch.softmax(self.score(outputs).squeeze(-1), dim=1)
        context = torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)
        return self.proj(self.head_dropout(context)).unsqueeze(-1)


def forecast_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x).squeeze(-1), y)


class TranslatedGraph(nn.Module):
    """Heads and relations that add to tails."""

    def __init__(self, entities: int = 9, relations: int = 3, width: int = 5) -> None:
        super().__init__()
        bound = 6.0 / width**0.5
        for name, count in (("entity", entities), ("relation", relations)):
            weight = F.normalize(2 * bound * torch.rand(count, width) - bound, 2, 1)
            self.add_module(f"{name}_embeddings", nn.Embedding.from_pretrained(weight, freeze=False))

    def forward(self, *triples: Tensor) -> Tensor:
        losses = []
        for h, r, t in (triples[:3], triples[3:]):
            apart = self.entity_embeddings(h) + self.relation_embeddings(r) - self.entity_embeddings(t)
            losses.append(torch.norm(apart, 1, 1))
        return torch.stack(losses)


def translated_loss(model: Any, *triples: Tensor) -> Tensor:
    right, wrong = model(*triples)
    return F.margin_ranking_loss(right, wrong, -torch.ones_like(right), margin=1.0, reduction="sum")


class WideningLayer(nn.Module):
    def __init__(self, dilation: int, width: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv_1x1, self.dropout = nn.Conv1d(width, width, 1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.conv_1x1(F.relu(self.dilated_conv(x))))


class OneStage(nn.Module):
    def __init__(self, n_in: int, classes: int, width: int = 6) -> None:
        super().__init__()
        self.first_conv, self.final_conv = nn.Conv1d(n_in, width, 1), nn.Conv1d(width, classes, 1)
        self.layers = nn.ModuleList(WideningLayer(i + 1, width) for i in range(2))

    def forward(self, x: Tensor) -> Tensor:
        out = self.first_conv(x)
        for layer in self.layers:
            out = layer(out)
        return self.final_conv(out)


class ActionStages(nn.Module):
    """Each stage reads the films' features beside the probabilities of the stage before."""

    def __init__(self, features: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList([OneStage(features, classes), OneStage(features + classes, classes)])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [self.stages[0](x)]
        for stage in self.stages[1:]:
            outputs.append(stage(torch.cat([F.softmax(outputs[-1], dim=1), x], dim=1)))
        return outputs


def stages_loss(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    return sum(F.cross_entropy(out, labels, ignore_index=-100) for out in model(x))


class LetterRNN(nn.Module):
    def __init__(self, letters: int = 11, width: int = 6, layers: int = 2) -> None:
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.5), nn.Embedding(letters, width)
        self.rnn, self.decoder = nn.LSTM(width, width, layers, dropout=0.5), nn.Linear(width, letters)
        self.h0, self.c0 = (nn.Parameter(torch.zeros(layers, 1, width), requires_grad=False) for _ in range(2))
        self.encoder.weight.data.uniform_(-0.1, 0.1)
        self.decoder.weight.data.uniform_(-0.1, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        start = (self.h0.repeat(1, x.shape[1], 1), self.c0.repeat(1, x.shape[1], 1))
        output, _ = self.rnn(self.drop(self.encoder(x)), start)
        return self.decoder(self.drop(output))


def letters_loss(model: Any, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x[:-1]).flatten(0, 1), x[1:].reshape(-1))


# ---------------------------------------------------------------- melodies, graphs over time, pens, weighed acts, waves


class MelodyVAE(nn.Module):
    """What a layer puts out is σ as it is, of any sign; its torch did not ask whether it is positive."""

    def __init__(self, notes: int = 9, width: int = 4, hidden: int = 5, latent: int = 3, beats: int = 2) -> None:
        super().__init__()
        self.beats, self.ticks, self.iteration, self.eps, self.decay = beats, 2, 0, 1.0, 1000.0
        self.embedding, self.d_embedding = nn.Embedding(notes, width), nn.Embedding(notes, width)
        self.encoder_gru = nn.GRU(width, hidden, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.linear_mu, self.linear_var = nn.Linear(4 * hidden, latent), nn.Linear(4 * hidden, latent)
        self.z_to_beat_hidden = nn.Sequential(nn.Linear(latent, 2 * hidden), nn.SELU())
        self.beat_to_tick_hidden = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.SELU())
        self.beat_to_tick_input = nn.Sequential(nn.Linear(hidden, hidden), nn.SELU())
        self.beat_0, self.tick_0 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(width))
        self.beat_gru, self.tick_gru = (
            nn.GRU(n, hidden, num_layers=2, dropout=0.2, batch_first=True) for n in (1, width + hidden)
        )
        self.tick_to_note = nn.Sequential(nn.Linear(hidden, notes), nn.ReLU())

    def encode(self, x: Tensor) -> Normal:
        h = self.encoder_gru(self.embedding(x))[-1].transpose(0, 1).contiguous().view(len(x), -1)
        return Normal(self.linear_mu(h), self.linear_var(h), validate_args=False)

    def decode(self, z: Tensor, target: Tensor) -> Tensor:
        n, told = len(z), self.d_embedding(target)
        h = self.z_to_beat_hidden(z).view(n, 2, -1).transpose(0, 1).contiguous()
        beats, _ = self.beat_gru(self.beat_0.unsqueeze(0).expand(n, self.beats, 1), h)
        y, ys = self.tick_0.unsqueeze(0).expand(n, -1).unsqueeze(1), []
        for i in range(self.beats):
            h = self.beat_to_tick_hidden(beats[:, i]).view(n, 2, -1).transpose(0, 1).contiguous()
            beat = self.beat_to_tick_input(beats[:, i]).unsqueeze(1)
            for j in range(self.ticks):
                out, h = self.tick_gru(torch.cat((y, beat), -1), h)
                ys.append(self.tick_to_note(out.contiguous().view(n, -1)))
                y = self.d_embedding(ys[-1].argmax(-1))
                if self.training:
                    if torch.rand(1).item() < self.eps:
                        y = told[:, i * self.ticks + j]
                    self.eps = self.decay / (self.decay + math.exp(self.iteration / self.decay))
                y = y.unsqueeze(1)
        return torch.stack(ys, 1)

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Normal]:
        if self.training:
            self.iteration += 1
        law = self.encode(x)
        return self.decode(law.rsample(), target), law


def melody_loss(model: Any, x: Tensor) -> Tensor:
    recon, law = model(x, x)
    unit = Normal(torch.zeros(law.mean.size()), torch.ones(law.mean.size()))
    return F.cross_entropy(recon.flatten(0, 1), x.reshape(-1)) + 0.1 * kl_divergence(law, unit).mean()


def as_it_comes(v: Tensor) -> Tensor:
    return v


class EdgeGRU(nn.Module):
    """Its layers lie in plain lists, so that nothing trains them."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.weight_x = [RoadConv(n_in, hidden) for _ in range(3)]
        self.weight_h = [RoadConv(hidden, hidden) for _ in range(3)]
        for conv in (*self.weight_x, *self.weight_h):
            conv.requires_grad_(False)

    def forward(self, x: Tensor, adjacency: Tensor, h: Tensor) -> Tensor:
        z, r = (torch.sigmoid(self.weight_x[i](x, adjacency) + self.weight_h[i](h, adjacency)) for i in range(2))
        new = torch.tanh(self.weight_x[2](x, adjacency) + self.weight_h[2](r * h, adjacency))
        return z * h + (1 - z) * new


class EdgeVGRNN(nn.Module):
    """Graphs in a row, a code at each node."""

    def __init__(self, nodes: int = 5, hidden: int = 6, latent: int = 3, eps: float = 1e-8) -> None:
        super().__init__()
        self.hidden, self.eps = hidden, eps
        self.phi_x, self.phi_z, self.prior = (
            nn.Sequential(nn.Linear(n, hidden), nn.ReLU()) for n in (nodes, latent, hidden)
        )
        self.enc, self.enc_mean, self.enc_std = (
            RoadConv(2 * hidden, hidden),
            RoadConv(hidden, latent),
            RoadConv(hidden, latent),
        )
        self.prior_mean = nn.Sequential(nn.Linear(hidden, latent))
        self.prior_std = nn.Sequential(nn.Linear(hidden, latent), nn.Softplus())
        self.rnn = EdgeGRU(2 * hidden, hidden)

    def forward(self, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        h, kld, nll = torch.zeros(x.shape[1], self.hidden), torch.zeros(()), torch.zeros(())
        for now, edges in zip(x, adjacency, strict=True):
            seen = self.phi_x(now)
            enc = self.enc(torch.cat([seen, h], dim=1), edges)
            mean, std = self.enc_mean(enc, edges), nn.Softplus()(self.enc_std(enc, edges))
            before = self.prior(h)
            prior_mean, prior_std = self.prior_mean(before), self.prior_std(before)
            z = torch.FloatTensor(std.size()).normal_().mul(std).add_(mean)
            h = self.rnn(torch.cat([seen, self.phi_z(z)], dim=1), edges, h)
            logs = 2 * torch.log(prior_std + self.eps) - 2 * torch.log(std + self.eps)
            squares = torch.pow(std + self.eps, 2) + torch.pow(mean - prior_mean, 2)
            element = logs + squares / torch.pow(prior_std + self.eps, 2) - 1
            kld = kld + 0.5 / len(now) * torch.mean(torch.sum(element, dim=1), dim=0)
            there, size = edges.sum(), float(edges.numel())
            weight, norm = (size - there) / there, size / ((size - there) * 2)
            likely = torch.sigmoid(z @ z.T)
            nll = nll + norm * F.binary_cross_entropy_with_logits(likely, edges, pos_weight=weight)
        return kld, nll


def edges_loss(model: Any, x: Tensor, adjacency: Tensor) -> Tensor:
    kld, nll = model(x, adjacency)
    return kld + nll


def graphs_in_a_row() -> tuple[Tensor, ...]:
    drawn = bits(3, 5, 5)
    return torch.eye(5).expand(3, 5, 5), torch.maximum(drawn, drawn.transpose(1, 2))


def soft_and_tiny(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-8


class PenPrediction(nn.Module):
    """The next point of a pen, from a mixture of bivariate Normals with correlations."""

    def __init__(self, parts: int = 3, hidden: int = 6, layers: int = 2) -> None:
        super().__init__()
        self.parts = parts
        self.LSTM_layers = nn.ModuleList(
            nn.LSTM(3 if i == 0 else 3 + hidden, hidden, 1, batch_first=True) for i in range(layers)
        )
        self.output_layer = nn.Linear(layers * hidden, 1 + 6 * parts)
        nn.init.uniform_(self.output_layer.weight, a=-0.1, b=0.1)
        nn.init.constant_(self.output_layer.bias, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.LSTM_layers[0](x)
        states = [output]
        for layer in self.LSTM_layers[1:]:
            output, _ = layer(torch.cat((x, output), dim=2))
            states.append(output)
        return self.output_layer(torch.cat(states, dim=2))


def pen_loss(model: Any, x: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    epsilon = 1e-6
    end, pi, mu_1, mu_2, logstd_1, logstd_2, rho = torch.split(model(x), [1, *[model.parts] * 6], dim=2)
    rho = torch.tanh(rho)
    free = epsilon + 1 - rho.pow(2)
    log_constant = F.log_softmax(pi, dim=2) - math.log(2 * math.pi) - logstd_1 - logstd_2 - 0.5 * torch.log(free)
    std_1, std_2 = torch.exp(logstd_1) + epsilon, torch.exp(logstd_2) + epsilon
    dx, dy = targets[:, :, 1:2] - mu_1, targets[:, :, 2:] - mu_2
    z = (dx / std_1).pow(2) + (dy / std_2).pow(2) - 2 * rho * dx * dy / (std_1 * std_2)
    nll = -torch.logsumexp(log_constant - z / (2 * free), 2)
    ends = F.binary_cross_entropy_with_logits(end.squeeze(), targets[:, :, 0], reduction="none")
    return torch.sum((nll + ends) * mask)


def pens() -> tuple[Tensor, ...]:
    x = torch.cat([bits(4, 6, 1), randn(4, 6, 2)], 2)
    mask = torch.ones(4, 5)
    mask[1, 3:] = 0
    return x[:, :-1], x[:, 1:], mask


class WeighedActs(nn.Module):
    """The logarithm of its σ is zeros that are no parameter."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(states, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, out))
            for out in (actions, 1)
        )
        self.logstd = torch.zeros(1, actions)


def weighed_loss(model: Any, s: Tensor, a: Tensor, returns: Tensor, adv: Tensor) -> Tensor:
    """The critic's loss and the actor's, which are of steps of their own upstream."""
    weight = torch.exp(adv / 0.05).clamp(max=20.0).reshape(-1, 1)
    law = Normal(model.actor(s), model.logstd.exp())
    acts = -law.log_prob(a).sum(-1, keepdim=True) * weight
    return acts.mean() + F.mse_loss(model.critic(s).squeeze(), returns)


class CleanedBrainVAE(nn.Module):
    """Noisy waves in, clean ones out. What comes out goes through a filter outside of torch, and has no gradient."""

    def __init__(self, length: int = 16, latent: int = 3) -> None:
        super().__init__()
        self.Encoder, self.Decoder = nn.Module(), nn.Sequential(
            nn.Linear(latent, 7), nn.LeakyReLU(), nn.BatchNorm1d(7), nn.Dropout(0.1), nn.Linear(7, 9), nn.LeakyReLU(),
            nn.BatchNorm1d(9), nn.Dropout(0.1), nn.Linear(9, length), nn.Sigmoid(),
        )  # fmt: skip
        self.Encoder.FC_input, self.Encoder.FC_hidden = nn.Linear(length, 9), nn.Linear(9, 7)
        self.Encoder.FC_mean, self.Encoder.FC_var = nn.Linear(7, latent), nn.Linear(7, latent)
        self.dropout = nn.Dropout(0.1)

    def reparameterization(self, mean: Tensor, var: Tensor) -> Tensor:
        epsilon = torch.randn_like(var)
        return mean + var * epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.dropout(F.leaky_relu(self.Encoder.FC_input(x)))
        h = self.dropout(F.leaky_relu(self.Encoder.FC_hidden(h)))
        mean, log_var = self.Encoder.FC_mean(h), self.Encoder.FC_var(h)
        return self.Decoder(self.reparameterization(mean, torch.exp(0.5 * log_var))), mean, log_var


def cleaned_loss(model: Any, noisy: Tensor, clean: Tensor) -> Tensor:
    out, mean, log_var = model(noisy)
    low, high = out.min(dim=-1, keepdim=True)[0], out.max(dim=-1, keepdim=True)[0]
    out = (out - low) / (high - low + 1e-6)
    waves = torch.fft.rfft((out - out.mean(dim=1, keepdim=True)).detach())
    waves[:, 0], waves[:, 6:] = 0, 0
    return F.mse_loss(torch.fft.irfft(waves, clean.shape[1]), clean, reduction="sum") + kl_to_unit(mean, log_var)


class DisturbedCode(nn.Module):
    """Its encoder puts out pairs, of which one is read; the noise's scale is a number."""

    def __init__(self, channels: int = 2, length: int = 16, latent: int = 3) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Conv1d(channels, 4, 5, padding=2), nn.ELU(), nn.BatchNorm1d(4), nn.MaxPool1d(5, 2, 2), nn.Flatten(),
            nn.Linear(2 * length, 7), nn.ELU(), nn.Linear(7, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 7), nn.ELU(), nn.Linear(7, 2 * length), nn.Unflatten(1, (4, length // 2)),
            nn.Upsample(scale_factor=2), nn.Conv1d(4, channels, 5, padding=2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, _ = self.encoder(x).view(-1, self.latent, 2).unbind(-1)
        z = torch.randn_like(mu) * 0.032 + mu if self.training else mu
        return self.decoder(z), z


def disturbed_loss(model: Any, x: Tensor) -> Tensor:
    out, z = model(x)
    return F.mse_loss(out, x) + 1e-8 * torch.mean(z**2)


class HabitInference(nn.Module):
    """Habits, a transition and pictures, each of which leaves the others as they are. Upstream a plain class."""

    def __init__(self, states: int = 3, actions: int = 2, gamma: float = 0.5) -> None:
        super().__init__()
        self.states, self.gamma = states, gamma
        self.qpi_net = nn.Sequential(nn.Linear(states, 6), nn.ReLU(), nn.Linear(6, actions))
        self.ps_net = nn.Sequential(
            nn.Linear(actions + states, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2 * states)
        )
        self.qs_net = nn.Sequential(
            nn.Conv2d(1, 3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(8, 2 * states),
        )  # fmt: skip
        self.po_net = nn.Sequential(
            nn.Linear(states, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)),
            nn.ConvTranspose2d(2, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.randn_like(mean)
        return eps * torch.exp(logvar * 0.5) + mean

    def encode(self, o: Tensor) -> tuple[Tensor, ...]:
        return torch.split(self.qs_net(o), self.states, dim=1)

    def transition(self, action: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        mean, logvar = torch.split(self.ps_net(torch.cat([action, s], dim=1)), self.states, dim=1)
        return self.reparameterize(mean, logvar), mean, logvar


def precise_kl(mu1: Tensor, logvar1: Tensor, mu2: Any, logvar2: Tensor, omega: Tensor) -> Tensor:
    """To a law whose precision counts ω times."""
    squares = torch.exp(logvar1) + torch.square(mu1 - mu2)
    return torch.sum(
        0.5 * (logvar2 - torch.log(omega) - logvar1) + squares / (2.0 * torch.exp(logvar2) / omega) - 0.5, 1
    )


def habit_loss(model: Any, o0: Tensor, o1: Tensor, action: Tensor, log_wanted: Tensor) -> Tensor:
    """The losses of its three steps, added."""
    mean0, logvar0 = model.encode(o0)
    s0 = model.reparameterize(mean0, logvar0).detach()
    habits = F.softmax(model.qpi_net(s0), dim=-1)
    top = torch.sum(habits * (torch.log(habits + 1e-20) - log_wanted), dim=1)
    omega = (1.0 - 1.0 / (1.0 + torch.exp(-(top.detach() - 25.0) / 5.0)) + 1.5).reshape(-1, 1)
    mean1, logvar1 = model.encode(o1)
    _, ps_mean, ps_logvar = model.transition(action, s0)
    mid = precise_kl(mean1.detach(), logvar1.detach(), ps_mean, ps_logvar, omega)
    pictures = model.po_net(model.reparameterize(mean1, logvar1))
    logs = o1 * torch.log(1e-5 + pictures) + (1 - o1) * torch.log(1e-5 + 1 - pictures)
    plain = precise_kl(mean1, logvar1, 0.0, torch.zeros(()), omega)
    learned = precise_kl(mean1, logvar1, ps_mean.detach(), ps_logvar.detach(), omega)
    down = -torch.sum(logs, dim=[1, 2, 3]) + model.gamma * learned + (1.0 - model.gamma) * plain
    return top.mean() + mid.mean() + down.mean()


class FilmProcess(nn.Module):
    """Each number of a film's codes is a Gaussian process over its frames, its covariance's root a triangle."""

    inverse: Tensor

    def __init__(self, frames: int = 3, latent: int = 2) -> None:
        super().__init__()
        self.frames, self.latent = frames, latent
        self.conv, self.bn = nn.Conv2d(1, 3, 4, 2, 1), nn.BatchNorm2d(3)
        self.dense1, self.bn1_mlp = nn.Linear(frames * 48, 9), nn.BatchNorm1d(9)
        self.dense2_1, self.bn2_1 = nn.Linear(9, latent * frames**2), nn.BatchNorm1d(latent * frames**2)
        self.dense2_3, self.bn2_3 = nn.Linear(9, latent * frames), nn.BatchNorm1d(latent * frames)
        self.decoder = nn.Sequential(
            nn.Linear(frames * latent, 12), nn.ELU(), nn.BatchNorm1d(12), nn.Linear(12, frames * 64)
        )
        times = torch.arange(1.0, frames + 1)
        covariance = torch.minimum(times[:, None], times[None]).expand(latent, -1, -1)
        self.register_buffer("inverse", torch.inverse(covariance))
        self.log_det = torch.logdet(covariance)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = len(x)
        h = self.bn(F.elu(self.conv(x.flatten(0, 1).unsqueeze(1)))).reshape(n, -1)
        h = self.bn1_mlp(F.elu(self.dense1(h)))
        root = torch.tril(self.bn2_1(torch.tanh(self.dense2_1(h))).view(n, self.latent, self.frames, self.frames))
        mu = self.bn2_3(torch.tanh(self.dense2_3(h))).view(n, self.frames, self.latent)
        diagonal = torch.diagonal(root, dim1=-2, dim2=-1)
        path = torch.einsum("ikj,ijlk->ilj", torch.randn(n, self.frames, self.latent), root) + mu
        out = (torch.tanh(self.decoder(path.flatten(1))) + 1) / 2
        return out.view(x.shape), root, mu.transpose(1, 2), torch.prod(diagonal * diagonal, dim=2)


def film_loss(model: Any, x: Tensor) -> Tensor:
    out, root, mu, det = model(x)
    traces = torch.einsum("kij,mkji->mk", model.inverse, root @ root.transpose(2, 3))
    squares = torch.einsum("mki,mki->mk", mu, torch.einsum("kij,mkj->mki", model.inverse, mu))
    kl = torch.sum(traces + squares + model.log_det - torch.log(det), dim=1).mean()
    return F.mse_loss(out, x) + 2.0 * kl


# fmt: off
CASES: tuple[PublicCase, ...] = (
    PublicCase(
        "LSTM-VAE of brains (Yufeng98)",
        Retold("Yufeng98/Sentence-VAE", "e3291702ec0fbfc3a133d085234fadd9bbc82652", "model.py, train.py"),
        BrainSequence, lambda: (randn(4, 5, 6),), (posterior("hidden2logv"),), brain_loss,
        truth="model.py: exp(0.5 logvar) at every step; KL summed, whatever the size of what is beside it",
    ),
    PublicCase(
        "VAE of topics (ashish12ak)",
        Retold("ashish12ak/neural-topic-models", "2a38351a4d939ca26e1069deca0322e663d5acb3", "models/vae_ntm.py"),
        BagTopics, lambda: (tokens(4, 6, 14).float(),), (posterior("logvar_layer"),), topics_loss,
        truth="vae_ntm.py reparameterize: exp(0.5 logvar) while it is trained",
    ),
    PublicCase(
        "VAE of couplets (ningchaoar)",
        Retold(
            "ningchaoar/cnn-lstm-vae", "2dec58f591b997dbc1d26ce0e1c6035c306f4178",
            "model.py, train_vae.py, config_vae.py",
        ),
        CoupletVAE, couplets, (posterior("fc_log_var"),), couplet_loss,
        truth="model.py reparameterize: exp(log_var / 2), of what attention pools; no LSTM in it",
    ),
    PublicCase(
        "VAE of polymers (DennyHsieh)",
        Retold(
            "DennyHsieh/molecule-vae", "0702b33a9f24620a454ad72e02cd4621c5763ac9",
            "vae/vae_models.py, vae/vae_trainer.py, vae/__main__.py, utilities/ops.py",
        ),
        PolymerVAE, lambda: (tokens(11, 6, 6), randn(6, 3)), (posterior("encoder.logvar_lin", sigma=half_below),),
        polymer_loss,
        truth="vae_models.py Encoder: the log variance is -|v|; ops.py sample: exp(0.5 logv). The properties are of "
        "the mean",
    ),
    PublicCase(
        "RSSM of hidden modes (Jason-Wang313)",
        Retold(
            "Jason-Wang313/best-of-n-dreamer-rssm-latent-dynamics", "889f104389a50825c833be930dfc70e0c6231ec3",
            "src/latent_dynamics_best_of_n/rssm.py",
        ),
        HiddenModeRSSM, lambda: (randn(4, 4, 4), rand(4, 4, 1), randn(4, 4, 1, seed=9), randn(4, 4, 1, seed=10)),
        (posterior("posterior", 3, 6, twentieth), prior("prior", 3, 6, twentieth)), hidden_mode_loss,
        truth="rssm.py split_stats: softplus + 0.05, both; the KL averaged",
    ),
    PublicCase(
        "Deep Kalman filter (kokikwbt)",
        Retold("kokikwbt/deep-kalman-filter", "9c5ffae914a3c6d54803c1e334b4dc6d03ecd253", "dkf/multivariate.py"),
        KalmanNet, lambda: (randn(3, 4, 3),),
        (posterior("combiner.hidden_to_logvar"), prior("trans.z_to_logvar"), likelihood("emitter.logvar")), kalman_loss,
        truth="multivariate.py: exp(0.5 logvar) thrice; the prior's draw is read by nobody. Hard to decide: the "
        "emitter's variance, a parameter, draws what is compared by squares, and no density has it: a likelihood's",
    ),
    PublicCase(
        "Latent ODE of hearts (brdav)",
        Retold(
            "brdav/cardiac_latent_ode", "42601f115eea8c353654b758ca62cc81bda67208",
            "src/cardiac_latent_ode/model/modules.py, src/cardiac_latent_ode/model/model.py, "
            "src/cardiac_latent_ode/model/loss.py",
        ),
        HeartODE,
        lambda: (randn(4, 4, 6), tokens(2, 4), randn(4, 1, seed=9), randn(4, 1, seed=10), rand(4, 1)),
        (posterior("posterior_encoder.logvar_head", sigma=twelve_to_ten), prior("prior_mlp.2", 4, 8, twelve_to_ten)),
        heart_loss,
        truth="modules.py: both log variances are clamped to -12 and 10; a linear layer stands for the meshes' "
        "convolutions",
    ),
    PublicCase(
        "Latent SDE of hoppers (brijeshbv)",
        Retold("brijeshbv/Action-Conditioned-Latent-SDE", "dcda6029f68ca5732cbb91dfac38bae1e616534b", "latent_sde.py"),
        HopperSDE, lambda: (randn(5, 4, 3),),
        (
            posterior("qz0_net", 2, 4, torch.exp), prior("pz0_logstd", sigma=torch.exp),
            likelihood("projector.3", 3, 6, torch.exp),
            *(posterior(f"g_nets.{i}.2", sigma=None) for i in range(2)),
        ), hopper_loss,
        truth="latent_sde.py: exp(v) of the first state, its prior and the data. Hard to decide: the diffusion of each "
        "number is a net's output itself, of any sign, and multiplies the noise of the posterior's path; the prior's "
        "path shares it, as in the seventh look's",
    ),
    PublicCase(
        "FactorVAE of stocks (diego-azenha)",
        Retold(
            "diego-azenha/FactorVAE---Brazillian-Market", "eda01f81b45679afd3aadf1b77ca825a74f64464",
            "src/factorvae/models/factorvae.py, factor_encoder.py, factor_predictor.py, factor_decoder.py, "
            "distributions.py, src/factorvae/training/lightning_module.py",
        ),
        StockFactors, lambda: (randn(6, 4, 4), 0.5 * randn(6, seed=9)),
        (
            posterior("encoder.sigma_head", sigma=F.softplus), prior("predictor.dist_net.sigma_head", sigma=F.softplus),
            likelihood("decoder.alpha.sigma_head", sigma=F.softplus),
        ), stocks_loss,
        truth="factor_encoder.py, factor_predictor.py, factor_decoder.py: softplus, floored at 1e-6 in the loss. Hard "
        "to decide: nothing is drawn; the data's variance is the sum of a stock's own and of the factors', so that the "
        "stock's own is one part of it",
    ),
    PublicCase(
        "VRNN of markets (phanhieeus)",
        Retold("phanhieeus/kltn-vrnn", "f9f7a9c61860756091f8ecb922f2d8f1dfd3f61b", "training/model.py"),
        MarketVRNN, lambda: (randn(4, 5, 3),),
        (
            posterior("enc_logvar", sigma=within_six), prior("prior_logvar", sigma=within_six),
            likelihood("dec_logvar", sigma=within_six),
        ), None,
        truth="model.py VRNN: all three log variances are clamped to -6 and 6",
    ),
    PublicCase(
        "VAE of proteins (ryanquinnnelson)",
        Retold(
            "ryanquinnnelson/CMU-02712-VAE-Protein-Generation", "2e1dcce94b746d69adb89011c88377d19958be7f",
            "octopus/models/vae.py, customized/criterion.py, README.md",
        ),
        ProteinVAE, lambda: (bits(6, 15),), (posterior("Encoder.linear2", sigma=half_of_soft),), protein_loss,
        truth="vae.py Encoder: σ is exp(softplus(v) / 2), never below 1; criterion.py, the one that README.md names: "
        "the KL has the squares of σ and of the mean twice, a slip",
    ),
    PublicCase(
        "MMVAE of arms (clarsbyte)",
        Retold(
            "clarsbyte/multimodal-vae-robotics-manipulation", "6eaca327d9ad33a772ff46458d5a4e6e640bd280",
            "models/mmvae.py, models/encoders.py, models/utils.py, models/train.py",
        ),
        ArmVAE, three_senses, tuple(posterior(f"enc_{name}.logvar", sigma=None) for name in ("image", "txt", "act")),
        arm_loss,
        truth="utils.py product_of_experts: precisions 1 / (exp(logvar) + 1e-8) are added, with N(0, 1)'s, so that σ "
        "is a function of all; the data's σ is what fits the batch, no layer's. A convolution stands for a ResNet",
    ),
    PublicCase(
        "GraphVAE of roads (cybersamurai2410)",
        Retold(
            "cybersamurai2410/graphvae-traffic-anomaly-detection", "80f600650a27d6872f1b54d874bea22496f1fd45",
            "graph_vae.py, train.py",
        ),
        RoadGraphVAE, lambda: (randn(6, 5), torch.maximum(bits(6, 6), bits(6, 6).T)), (posterior("encoder.fc_logvar"),),
        road_loss,
        truth="graph_vae.py reparameterize: exp(0.5 logvar), of one code a graph, which has no dimension of a batch",
    ),
    PublicCase(
        "CRVAE of hearts (avishagnevo)",
        Retold("avishagnevo/VAE-ECG", "23b3b7e9fae872eaa0ca0e4a347a7c7414d2c5bb", "src/models.py, src/trainer.py"),
        AgedHeartVAE, lambda: (randn(4, 5, 3), rand(4), bits(4, 4)), (posterior("hidden_to_logvar"),), aged_heart_loss,
        truth="models.py CRVAE: exp(0.5 logvar) is drawn and in the KL. A slip: apply_attention does not read the code",
    ),
    PublicCase(
        "VAE of loops (estevep)",
        Retold(
            "estevep/Temporal-Audio-VAE", "dc720958fde79c7e9a01bfd19dbdb7925867151e",
            "src/temporal_audio_vae/models/mel_spec_vae.py, src/temporal_audio_vae/train.py, README.md",
        ),
        LoopVAE, lambda: (rand(4, 8, 8),), (posterior("sigma.0", sigma=F.softplus),), loop_loss,
        truth="mel_spec_vae.py: softplus is σ; the KL has σ² twice, a slip; README.md has β = 0.2",
    ),
    PublicCase(
        "VAE of galaxies' spectra (iwasakida)",
        Retold(
            "iwasakida/GalaxySpectra-VAE", "cd248441fba1c348895b365b61964689d4b423d6",
            "Model.py, Model_train.py, 3-0-train-VAE.py",
        ),
        GalaxyVAE, lambda: (rand(5, 24),), (posterior("log_var.0"),), galaxy_loss,
        truth="Model.py Spectra_VAE reparameterize: exp(z_log_var / 2); KL averaged and a tenth, squares a thousand",
    ),
    PublicCase(
        "VAE of songs (Raisul516)",
        Retold(
            "Raisul516/MultiModal-Music-VAE", "b5972b352efd825cdbffb1d84671c60985174427", "src/model.py, src/train.py",
        ),
        SongVAE, lambda: (rand(4, 1, 8, 12), randn(4, 7)), (posterior("fc_logvar"),), song_loss,
        truth="model.py reparameterize: exp(0.5 logvar)",
    ),
    PublicCase(
        "PPO of a walker (MaanaRajesh)",
        Retold("MaanaRajesh/ppo-continuous-control", "0e88bcb0b524a791c6aa5fc2ab4a02fcaf625960", "src/ppo_walker.py"),
        WalkerPPO, walked, (likelihood("log_std", sigma=torch.exp),), walker_ppo_loss,
        truth="ppo_walker.py uth_t: exp(v) of a parameter, by default, as actions' σ: a likelihood's",
    ),
    PublicCase(
        "Neural process of curves (xuesongwang)",
        Retold(
            "xuesongwang/Neural-Process-Family", "a56d07216763937c8ea64015a5287f56df76df10",
            "module/NP.py, module/basic_module.py, module/utils.py, NP_or_ANP_train.py",
        ),
        CurveProcess,
        lambda: (randn(3, 4, 1), randn(3, 4, 1, seed=9), randn(3, 5, 1, seed=10), randn(3, 5, 1, seed=11)),
        (
            posterior("latent_encoder.pooling_fn", 4, 8, a_tenth_and_sigmoid),
            prior("latent_encoder.pooling_fn", 4, 8, a_tenth_and_sigmoid),
            likelihood("post_pooling_fn.4", 1, 2, a_tenth_and_softplus),
        ), curve_loss,
        truth="basic_module.py LatentEncoder: 0.1 + 0.9 sigmoid of what its pooling module averages. Hard to decide: "
        "the raw value is that module's output, not the layer's before it; and one module is posterior and prior, as "
        "in earlier looks",
    ),
    PublicCase(
        "MBPO ensemble (jiangsy)",
        Retold(
            "jiangsy/mbpo_pytorch", "411b3a92e67bf83f43a3e7a4e559176adb741ed6",
            "mbpo_pytorch/models/dynamics.py, mbpo_pytorch/algos/mbrl/mbpo.py",
        ),
        ManyDynamics,
        lambda: (randn(6, 3), randn(6, 2, seed=9), randn(6, 3, seed=10), randn(6, 1, seed=11), torch.ones(6, 1)),
        tuple(
            likelihood(f"networks.{i}.diff_dynamics.4", start, stop, between_learned)
            for i in range(2) for start, stop in ((3, 6), (7, 8))
        ), dynamics_ensemble_loss,
        truth="dynamics.py EnsembleRDynamics: each network's log variances of states and of the reward, between bounds "
        "that are learned, here at their first values; mbpo.py compute_loss: twice the density",
    ),
    PublicCase(
        "Active inference of a cart (Grottoh)",
        Retold(
            "Grottoh/Deep-Active-Inference-for-Partially-Observable-MDPs", "11fedf09cefaada3dd60f1af430d59d87cbd706e",
            "ai_pomdp_agent.py",
        ),
        CartInference, lambda: (rand(4, 3, 13, 13, 4), tokens(2, 4, 2), torch.ones(4, 1), torch.zeros(4, 1)),
        (posterior("vae.fc2_logvar"),), cart_loss,
        truth="ai_pomdp_agent.py VAE reparameterize: exp(0.5 logvar); the nets read exp(logvar), detached",
    ),
    PublicCase(
        "MDN-RNN of frames (idajana)",
        Retold(
            "idajana/generative-video-prediction-models", "dd5ef6054aacb762a5bbaf449b09c31fc6117c43",
            "models/MD_RNN.py, worldmodels/train_mdrnn.py, README.md",
        ),
        LatentMDRNN, lambda: (randn(4, 3, 3), randn(4, 3, 2, seed=9), randn(4, 3, 3, seed=10)),
        (likelihood("gmm_linear", 6, 12, torch.exp),), mdrnn_loss,
        truth="MD_RNN.py: exp(v), of a mixture's parts; the VAE before it is trained apart, and draws without "
        "gradients",
    ),
    PublicCase(
        "SAC (lucidrains)",
        Retold(
            "lucidrains/SAC-pytorch", "7c934a851b359bc6a8930dcb7606c30c29a6f755", "SAC_pytorch/SAC.py, train_lunar.py",
        ),
        LanderSAC, landings,
        (StridedHead("to_actions.proj_out.2", 1, 4, "likelihood", soft_step, step=2),), one_update,
        truth="SAC.py SquashedNormal: sigmoid(v), no less than 1e-5, of every second number; actions, continuous as "
        "in train_lunar.py",
    ),
    PublicCase(
        "PPO of an imitator (lionelblonde)",
        Retold(
            "lionelblonde/ppo-gail-pytorch-complete-history", "dadec2ac9c2c18efbad63d745b01b914ffbf2e85",
            "agents/nets.py, agents/gail_agent.py",
        ),
        ImitatorPPO, imitated, (likelihood("ac_logstd_head", sigma=torch.exp),), imitator_loss,
        truth="nets.py GaussPolicy and NormalToolkit: exp(v) of a parameter; a slip: the constant counts once for all "
        "actions. The entropy counts nothing by default",
    ),
    PublicCase(
        "MDN (nimanzik)",
        Retold(
            "nimanzik/mdn-pytorch", "215f71bd66948fbdda3c91b821376c6a114a5d0e",
            "src/mdn_pytorch/model.py, src/mdn_pytorch/activations.py, src/mdn_pytorch/loss.py",
        ),
        SphericalMDN, lambda: (randn(6, 3), randn(6, 2, seed=9)), (likelihood("sigma_layer.0", sigma=raised_elu),),
        spherical_loss,
        truth="activations.py ElevatedELU: ELU + 1, and loss.py: no less than 1e-7; one σ for all outputs of a part",
    ),
    PublicCase(
        "HI-VAE of wards (ItamarEfrati)",
        Retold(
            "ItamarEfrati/Pytorch-GP-VAE", "27471d433282f8a3b764dcd8e1b144c6e1914d0c",
            "src/models/Encoders.py, src/models/abstracts/VAE.py, src/models/PHYSIONET/PhysionetModels.py, "
            "configs/config.yaml, configs/model/PhysionetHIVAE.yaml",
        ),
        WardHIVAE, lambda: (randn(4, 5, 5), bits(4, 5, 5)), (posterior("encoder.net.4", 3, 6, F.softplus),), ward_loss,
        truth="Encoders.py DiagonalEncoder: softplus of what is called a log variance, on the diagonal of a triangle",
    ),
    PublicCase(
        "PPO of a fixed spread (zsychina)",
        Retold("zsychina/ppo-continuous", "8aaab6db8676809cfd19ab67ba65680fa03ce113", "agent.py, mlp.py"),
        FixedSpreadPPO, landings, (), one_update,
        truth="agent.py: the covariance is of numbers that a schedule lowers, and nothing learns",
    ),
    PublicCase(
        "DDPG (cjto2000)",
        Retold("cjto2000/DDPG-PyTorch", "fc658cdf04c922618d896a0d4b79dda2b1ceca0a", "ddpg.py, model.py"),
        WalkingDDPG, landings, (), one_update, truth="ddpg.py: squares; the noise of actions is in no loss",
    ),
    PublicCase(
        "LSTM forecast (ROHITCRAFTSYT)",
        Retold(
            "ROHITCRAFTSYT/lstm-forecast", "09eff92abdf17d7215ed3ad531fc75c99d8966ec",
            "src/lstm_forecast/models/lstm.py, src/lstm_forecast/models/heads.py, src/lstm_forecast/models/trainer.py",
        ),
        AttentiveForecast, lambda: (randn(5, 6, 3), randn(5, 2, seed=9)), (), forecast_loss,
        truth="trainer.py: squares, where no quantiles are asked for, which is the default",
    ),
    PublicCase(
        "TransE (ZHAO-Tianzhe)",
        Retold("ZHAO-Tianzhe/transe-pytorch", "93996ea9e02d809315451cf432841f07c4631e5b", "transe.py, train.py"),
        TranslatedGraph,
        lambda: (tokens(9, 6), tokens(3, 6), tokens(9, 6, seed=9), tokens(9, 6, seed=10), tokens(3, 6), tokens(9, 6)),
        (), translated_loss, truth="train.py: a margin between distances",
    ),
    PublicCase(
        "TCN of actions (jinglin-zhu)",
        Retold(
            "jinglin-zhu/Temporal-Action-Segmentation-TCN-PyTorch", "afd8b82508fd5a3fad0032d3c0747e039012fcf5",
            "model.py, main.py",
        ),
        ActionStages, lambda: (randn(3, 5, 7), tokens(4, 3, 7)), (), stages_loss,
        truth="main.py train_q2: classes, at each stage",
    ),
    PublicCase(
        "Char-RNN (awaelchli)",
        Retold("awaelchli/pytorch-char-rnnlm", "a6422f41d9d92a474b26afab99fb24e20a58298f", "model.py, train.py"),
        LetterRNN, lambda: (tokens(11, 6, 4),), (), letters_loss, truth="train.py: classes",
    ),
    PublicCase(
        "PolyVAE of melodies (RetroCirce)",
        Retold(
            "RetroCirce/CSE-251B-Melody-Voice-VAE", "370dc3c2fc6695a285526be9e973e8c3792aa1d6",
            "model/polyvae.py, PolyVAE-train.ipynb",
        ),
        MelodyVAE, lambda: (tokens(9, 4, 4),), (posterior("linear_var", sigma=as_it_comes),), melody_loss,
        truth="polyvae.py encoder: a Normal whose scale is the layer's output itself, a slip, as in the sixth look's "
        "WRN: of any sign, so that σ is what the code computes, v. Its arguments are not checked here, as in a torch "
        "of its time",
    ),
    PublicCase(
        "VGRNN of edges (xiaohu-art)",
        Retold(
            "xiaohu-art/VGRNN", "419ac856baf882c2ec78e4a9eed60830526e705f", "model.py, prediction.py, cfgs/config.yaml",
        ),
        EdgeVGRNN, graphs_in_a_row,
        (posterior("enc_std", sigma=F.softplus), prior("prior_std.0", sigma=soft_and_tiny)), edges_loss,
        truth="model.py VGRNN: softplus draws; the KL adds 1e-8 to both. The recurrent layers lie in plain lists, a "
        "slip, and the decoder's probabilities are taken for logits, another",
    ),
    PublicCase(
        "Pen's prediction (swechhasingh)",
        Retold(
            "swechhasingh/Handwriting-synthesis", "f37fa68524f55257b7bef7df3246906625b01a0e",
            "models/models.py, utils/model_utils.py, train.py",
        ),
        PenPrediction, pens,
        (likelihood("output_layer", 10, 13, torch.exp), likelihood("output_layer", 13, 16, torch.exp)), pen_loss,
        truth="model_utils.py compute_nll_loss: bivariate Normals with a correlation. Hard to decide: the logarithm "
        "has exp(v), as the sampler has, and the squares exp(v) + 1e-6. The prediction net is the default",
    ),
    PublicCase(
        "AWR (WhiteCri)",
        Retold("WhiteCri/awr-pytorch", "604a4a0831aeb731a3af1a6005fbf9a7c4dc86e5", "model.py, run_awr.py"),
        WeighedActs, lambda: (randn(6, 4), randn(6, 2, seed=9), randn(6, seed=10), 0.05 * randn(6, seed=11)), (),
        weighed_loss, truth="model.py GuaussianAction: the logarithm of σ is zeros, and no parameter",
    ),
    PublicCase(
        "VAE of brain waves (Lijianing789)",
        Retold("Lijianing789/EEG-VAE-model", "dbe8acf49fc0ae30896c9a89e04564487ce24a76", "VAE.py"),
        CleanedBrainVAE, lambda: (randn(6, 16), randn(6, 16, seed=9)), (posterior("Encoder.FC_var"),), cleaned_loss,
        truth="VAE.py: exp(0.5 log_var) is called a variance, and draws. A slip: the squares are of what a filter of "
        "scipy gives back, without a gradient, so that the KL alone trains it; a filter by frequencies stands for it",
    ),
    PublicCase(
        "AE of brain waves (dorazhang93)",
        Retold(
            "dorazhang93/EEG-VAEs-pytorch", "f9d2ceb81b72c52f8bc9fda5e0516c2b34acd62b",
            "models/ae.py, models/module/encoder.py, models/module/decoder.py, configs/ae.yaml",
        ),
        DisturbedCode, lambda: (randn(4, 2, 16),), (), disturbed_loss,
        truth="ae.py: the noise's scale is 0.032, and what is called logvar is read by nobody",
    ),
    PublicCase(
        "Active inference of habits (zfountas)",
        Retold(
            "zfountas/deep-active-inference-mc", "d7e76d828635a7687c1ab446645db4d9bb12584e",
            "src/torchmodel.py, src/torchloss.py, src/torchutils.py, train.py",
        ),
        HabitInference,
        lambda: (
            rand(5, 1, 8, 8), rand(5, 1, 8, 8, seed=9), torch.eye(2)[tokens(2, 5)], F.log_softmax(randn(5, 2), -1)
        ),
        (posterior("qs_net.6", 3, 6), prior("ps_net.3", 3, 6)), habit_loss,
        truth="torchmodel.py reparameterize: exp(0.5 logvar), both. Hard to decide: in the KL, the prior's variance is "
        "divided by a number of each row, ω, that no layer emits; σ is what draws. γ is what it is while it rises",
    ),
    PublicCase(
        "MGP-VAE of films (SUTDBrainLab)",
        Retold(
            "SUTDBrainLab/MGP-VAE", "698383d557315b408382af07e251a2ef23d8f39a",
            "networks.py, train.py, setup_priors.py, flags.py",
        ),
        FilmProcess, lambda: (rand(4, 3, 8, 8),), (), film_loss,
        truth="networks.py Encoder: a Normal of all frames at once, with a triangle for the root of its covariance, of "
        "any sign. Hard to decide: no σ of one element, so no head",
    ),
)
# fmt: on
