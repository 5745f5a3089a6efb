"""An eleventh look: sequences, control and science, in our own words.

The fields and a word for each, fixed before any search. Sentences: "sentence-vae". Texts: "vae-text-gen". Topics:
"neural-topic". Dialogue: "vae-dialogue". Speech: "speech-vae". Music: "music-vae". Films to come: "video-prediction".
Paths: "trajectory-forecast". Series: "timevae". Anomalies: "lstm-vae". Worlds: "rssm". SAC: "sac-pytorch". PPO:
"ppo-continuous". Neural processes: "neural-process". VRNN: "vrnn". DKF: "deep-kalman". DMM: "deep-markov". Latent ODE:
"latent_ode". Latent SDE: "latent-sde". Motion: "motion-vae". Handwriting: "handwriting-gen". EEG: "eeg-vae". Neurons:
"neural-vae". Weather: "climate-vae". Finance: "factorvae". Physics: "vae-phys". Fluids: "fluid-vae". Proteins:
"vae-protein". Drugs: "molecule-vae". Knowledge: "vae-kg". Active inference: "deep-active-inference". Meta learning:
"bayesian-meta". Imitation: "behavior-cloning". Robots: "vae-robot". Traffic: "vae-traffic". Skills: "skill-vae".
Hearts: "vae-ecg". Skies: "spectra-vae". Mixtures of densities: "mdn-pytorch". Forecasts: "deepar". Gaussian processes:
"gp-vae". Models of worlds that many policies learn in: "mbpo". Imitation against a critic: "gail-pytorch". Offline:
"cql-pytorch". Seismology: "vae-seism". Sounds: "audio-vae". Models without a head: "ddpg-pytorch", "lstm-forecast",
"char-rnn", "transe-pytorch", "decision-transformer", "pinn-pytorch", "dueling-dqn", "tcn-pytorch".
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import kl_to_unit, posterior, prior

# -------------------------------------------------------------------------------- brains, topics, poems, molecules, worlds


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
)
# fmt: on
