"""An eighth look: translation, topics, music, speech, series, anomalies, worlds, policies, processes, paths, videos and
states, in our own words.

The fields and a word for each were fixed together with those of `eighth_images`, and sampled as it tells: the list of
names in the index's order, of it the first that is PyTorch, trains a model of its own and is in no earlier look.
"conditional-vae": `kevinyliu/conditional-vae` (of translations). "topic-model": a long list of many kinds, of which the
first neural one that is in no earlier look was taken, `nik-sm/neural-topic-models-music`, its Scholar. "musicvae":
`PhilippOesch/gamemusicVAE` passed (TensorFlow), `christianazinn/PolyMusicVAE` taken. "speech-vae":
`cdancette/zerospeech-vae`, and `KdaiP/DC-Speech-VAE` as a model without a head. "timevae":
`louisan1128/timevae_semiconductor`, `adiazcarral/MultiTimeVAE` and, of the method itself, `wangyz1999/timeVAE-pytorch`
taken. "vae-anomaly": `striim-labs/fcvae-anomaly-detection`. "worldmodels": a long list, of which the first whose name
says nothing but the field was taken, `goodluckoguzie/WorldModels`. "dreamer-pytorch": the first two passed (an earlier
look; a fork of it), `zhixuan-lin/dreamer-pytorch` taken. "sac-pytorch": `taomo/sac-pytorch`. "ppo-pytorch":
`kueschallCarl/PPO-PyTorch` passed (a fixed covariance), `Aethiles/ppo-pytorch` (Atari) taken as a model without a head,
`adik993/ppo-pytorch` with one; "discrete-sac": `alirezakazemipour/Discrete-SAC-PyTorch`, without one.
"neural-processes": `acerbilab/relational-neural-processes` passed (a framework), `fredchettouh/neural-processes` and
`tlc4418/neural-processes` taken. "vrnn": a long list, of which those whose names say the field were gone through:
`joeryjoery/laplace-vrnn` passed (JAX), `wangzizhao/VRNN` passed (TensorFlow), `alessiabertugli/AC-VRNN` (its VRNN) and
`s-tian/struct-vrnn-pytorch` taken. "deep-kalman": `k920049/Deep-Kalman-Filter` and `niharj2/deep-kalman-filters` passed
(TensorFlow; a masked autoencoder), `CL-BZH/Deep-Kalman-Filters` taken. "cvae-pred":
`notbox-1/ECE175B-cVAE-prediction-trajectory`. Passed without a model: "motion-gen" (its list was not gone through),
"skill-prior", "kalman-net", "tabular-vae", "vae-recommend" (no network of their own, or no snapshot).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Independent,
    Normal,
    StudentT,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import itself, kl_to_unit, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- translation


class BothWays(nn.Module):
    def __init__(self, embedding: nn.Embedding, hidden: int) -> None:
        super().__init__()
        self.embedding, self.dropout = embedding, nn.Dropout(0.3)
        self.lstm = nn.LSTM(embedding.embedding_dim, hidden, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.dropout(self.embedding(x)))[0]


class SourcePrior(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden, latent)
        self.linear_mu, self.linear_var = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.dropout = nn.Dropout(0.3)

    def forward(self, encoded_src: Tensor) -> tuple[Tensor, Tensor]:
        h = encoded_src.transpose(0, 1).transpose(1, 2)
        h = self.dropout(F.avg_pool1d(h, h.size(2)).view(h.size(0), -1))
        h = self.dropout(torch.tanh(self.linear(h)))
        return self.linear_mu(h), self.linear_var(h)


class CrossedPosterior(nn.Module):
    """Both sentences attend to each other."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * hidden, latent)
        self.linear_mu, self.linear_var = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.dropout = nn.Dropout(0.3)

    def forward(self, encoded_src: Tensor, encoded_trg: Tensor) -> tuple[Tensor, Tensor]:
        s, t = encoded_src.transpose(0, 1), encoded_trg.transpose(0, 1)
        of_source = self.dropout(torch.bmm(F.softmax(torch.bmm(t, s.transpose(1, 2)), dim=2), s))
        of_target = self.dropout(torch.bmm(F.softmax(torch.bmm(s, t.transpose(1, 2)), dim=2), t))
        h = torch.cat([part.mean(dim=1) for part in (of_source, of_target, s, t)], dim=1)
        h = self.dropout(torch.tanh(self.linear(h)))
        return self.linear_mu(h), self.linear_var(h)


class AttendingDecoder(nn.Module):
    def __init__(self, embedding: nn.Embedding, hidden: int, latent: int) -> None:
        super().__init__()
        emb = embedding.embedding_dim
        self.embedding, self.dropout = embedding, nn.Dropout(0.3)
        self.lstm, self.linear1 = nn.LSTM(emb + latent, hidden), nn.Linear(2 * hidden + latent, emb)
        self.linear2 = nn.Linear(emb, embedding.num_embeddings)
        self.linear2.weight = embedding.weight

    def forward(self, trg: Tensor, z: Tensor, encoded_src: Tensor) -> Tensor:
        repeated = z.unsqueeze(0).repeat(trg.size(0), 1, 1)
        output = self.lstm(torch.cat((self.dropout(self.embedding(trg)), repeated), dim=2))[0]
        e, d = encoded_src.transpose(0, 1), output.transpose(0, 1)
        context = torch.bmm(F.softmax(torch.bmm(d, e.transpose(1, 2)), dim=2), e).transpose(0, 1)
        output = self.dropout(torch.tanh(self.linear1(torch.cat((context, output, repeated), dim=2))))
        return F.log_softmax(self.linear2(output), dim=2)


class TranslationCVAE(nn.Module):
    def __init__(self, words: int = 9, emb: int = 5, hidden: int = 4, latent: int = 3) -> None:
        super().__init__()
        self.src_embedding, self.trg_embedding = nn.Embedding(words, emb), nn.Embedding(words, emb)
        self.src_encoder_t, self.src_encoder_i = (BothWays(self.src_embedding, hidden) for _ in range(2))
        self.trg_encoder = BothWays(self.trg_embedding, hidden)
        self.decoder = AttendingDecoder(self.trg_embedding, 2 * hidden, latent)
        self.p, self.q = SourcePrior(hidden, latent), CrossedPosterior(hidden, latent)

    def forward(self, src: Tensor, trg: Tensor) -> tuple[Tensor, Tensor]:
        for_decoder, for_code = self.src_encoder_t(src), self.src_encoder_i(src)
        mu_prior, log_var_prior = self.p(for_code)
        mu_posterior, log_var_posterior = self.q(for_code, self.trg_encoder(trg))
        p_normal = Normal(loc=mu_prior, scale=log_var_prior.mul(0.5).exp())
        q_normal = Normal(loc=mu_posterior, scale=log_var_posterior.mul(0.5).exp())
        kl = kl_divergence(q_normal, p_normal)
        return self.decoder(trg, q_normal.rsample(), for_decoder), kl


def translation_loss(model: Any, src: Tensor, trg: Tensor, alpha: float = 0.5) -> Tensor:
    out, kl = model(src, trg)
    words = (trg != 0).float().sum() - trg.size(1)
    nre = F.nll_loss(out[:-1].flatten(0, 1), trg[1:].flatten(), ignore_index=0)
    return nre + alpha * (kl.sum() / words).clamp(0.0)


# ---------------------------------------------------------------------------------------------- topics


class LabelledTopics(nn.Module):
    """Means and log variances are normalized over the batch; labels are read, and predicted."""

    def __init__(self, words: int = 12, emb: int = 7, topics: int = 4, labels: int = 3) -> None:
        super().__init__()
        self.n_topics = topics
        self.embeddings_x_layer = nn.Linear(words, emb, bias=False)
        nn.init.xavier_uniform_(self.embeddings_x_layer.weight)
        self.encoder_dropout_layer, self.z_dropout_layer = nn.Dropout(0.2), nn.Dropout(0.2)
        self.mean_layer, self.logvar_layer = nn.Linear(emb + labels, topics), nn.Linear(emb + labels, topics)
        self.mean_bn_layer, self.logvar_bn_layer = (nn.BatchNorm1d(topics, 0.001, 0.001) for _ in range(2))
        self.beta_layer, self.eta_bn_layer = nn.Linear(topics, words), nn.BatchNorm1d(words, 0.001, 0.001)
        for normed in (self.mean_bn_layer, self.logvar_bn_layer, self.eta_bn_layer):
            normed.weight.requires_grad = False
        self.classifier_layer_0, self.classifier_layer_1 = nn.Linear(topics, topics), nn.Linear(topics, labels)
        alpha = torch.ones(1, topics)
        spread = (1.0 / alpha) * (1 - 2.0 / topics) + (1.0 / topics**2) * (1.0 / alpha).sum(1, keepdim=True)
        self.prior_mean, self.prior_logvar = alpha.log() - alpha.log().mean(1, keepdim=True), spread.log()

    def forward(self, x: Tensor, y: Tensor, bn_share: float = 0.7, var_scale: float = 1.0) -> tuple[Tensor, ...]:
        h = self.encoder_dropout_layer(F.softplus(torch.cat([self.embeddings_x_layer(x), y], dim=1)))
        mean = self.mean_bn_layer(self.mean_layer(h))
        logvar = self.logvar_bn_layer(self.logvar_layer(h))
        var = logvar.exp()
        eps = x.data.new().resize_as_(mean.data).normal_()
        theta = F.softmax(self.z_dropout_layer(mean + var.sqrt() * eps * var_scale), dim=1)
        eta = self.beta_layer(theta)
        recon = bn_share * F.softmax(self.eta_bn_layer(eta), dim=1) + (1.0 - bn_share) * F.softmax(eta, dim=1)
        labels = F.softmax(self.classifier_layer_1(F.softplus(self.classifier_layer_0(theta))), dim=1)
        return recon, labels, mean, logvar


def topics_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    recon, labels, mean, logvar = model(x, y)
    prior_mean, prior_logvar = model.prior_mean.expand_as(mean), model.prior_logvar.expand_as(logvar)
    prior_var, diff = prior_logvar.exp(), mean - prior_mean
    parts = logvar.exp() / prior_var + diff * diff / prior_var + prior_logvar - logvar
    kld = 0.5 * (parts.sum(1) - model.n_topics)
    nl, wrong = -(x * (recon + 1e-10).log()).sum(1), -(y * (labels + 1e-10).log()).sum(1)
    return (nl + kld + wrong).mean()


# ---------------------------------------------------------------------------------------------- music and speech


class Positions(nn.Module):
    def __init__(self, width: int, length: int = 20) -> None:
        super().__init__()
        place = torch.arange(length, dtype=torch.float32)[:, None]
        rate = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("pe", torch.stack([(place * rate).sin(), (place * rate).cos()], -1).view(length, 1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: x.size(0)].clone())


class TransformerMusicVAE(nn.Module):
    """A code of what is averaged over the notes that are there."""

    def __init__(self, vocabulary: int = 11, width: int = 8, latent: int = 5) -> None:
        super().__init__()
        self.pad_id, self.bos_id = 0, 1
        self.token_embedding, self.pos_encoding = nn.Embedding(vocabulary, width, padding_idx=0), Positions(width)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.1, "gelu"), 1, enable_nested_tensor=False
        )
        self.encoder_to_latent = nn.Linear(width, latent * 2)
        self.latent_to_decoder = nn.Linear(latent, width)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, 2, 2 * width, 0.1, "gelu"), 1)
        self.output_projection = nn.Linear(width, vocabulary)

    def encode(self, notes: Tensor) -> Normal:
        absent = notes == self.pad_id
        h = self.encoder(self.pos_encoding(self.token_embedding(notes).transpose(0, 1)), src_key_padding_mask=absent)
        h = h.masked_fill(absent.transpose(0, 1).unsqueeze(-1), 0).sum(dim=0)
        pooled = h / (~absent).sum(dim=1, keepdim=True).float()
        mu, logvar = self.encoder_to_latent(pooled).chunk(2, dim=-1)
        return Normal(mu, torch.exp(0.5 * logvar))

    def forward(self, notes: Tensor) -> tuple[Tensor, Normal]:
        q = self.encode(notes)
        memory = self.latent_to_decoder(q.rsample()).unsqueeze(0)
        shifted = torch.cat([torch.full((len(notes), 1), self.bos_id), notes[:, :-1]], dim=1)
        ahead = torch.triu(torch.ones(notes.size(1), notes.size(1)), diagonal=1).bool()
        embedded = self.pos_encoding(self.token_embedding(shifted).transpose(0, 1))
        out = self.decoder(embedded, memory, tgt_mask=ahead, tgt_key_padding_mask=shifted == self.pad_id)
        return self.output_projection(out).transpose(0, 1), q


def transformer_music_loss(model: Any, notes: Tensor, beta: float = 0.3) -> Tensor:
    logits, q = model(notes)
    recon = F.cross_entropy(logits.reshape(-1, logits.size(-1)), notes.reshape(-1), ignore_index=0)
    kl = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale))).mean()
    return recon + beta * kl


class FrameVAE(nn.Module):
    def __init__(self, n_in: int = 12, components: int = 4) -> None:
        super().__init__()
        self.fc_encode = nn.Sequential(nn.Linear(n_in, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU())
        self.fc21, self.fc22 = nn.Linear(9, components), nn.Linear(9, components)
        self.fc_decode = nn.Sequential(nn.Linear(components, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU())
        self.fc4 = nn.Linear(9, n_in)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.fc_encode(x)
        mu, logvar = self.fc21(h), self.fc22(h)
        return torch.sigmoid(self.fc4(self.fc_decode(self.reparameterize(mu, logvar)))), mu, logvar


def frame_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl_to_unit(mu, logvar)


class FixedNoiseAutoencoder(nn.Module):
    """The code is normalized, and noise of a drawn strength is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 3, 3, 2, 1))
        self.decoder = nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1))
        self.norm = nn.LayerNorm(3, elementwise_affine=False)

    def forward(self, x: Tensor, strength: float = 0.5) -> tuple[Tensor, Tensor]:
        latent = self.norm(self.encoder(x.unsqueeze(1)).transpose(1, -1)).transpose(1, -1)
        noise = torch.randn_like(latent)
        std = torch.rand([len(x), 1, 1, 1]) * strength
        return self.decoder(latent + std * noise).squeeze(1), latent


def dispersed_loss(model: Any, x: Tensor) -> Tensor:
    recon, latent = model(x)
    flat = F.normalize(latent.reshape(len(x), -1), p=2, dim=-1)
    apart = 1 - torch.eye(len(x))
    return 5 * F.l1_loss(recon, x) + 0.25 * ((flat @ flat.T).pow(2) * apart).sum() / apart.sum()


# ---------------------------------------------------------------------------------------------- series


class DrawLayer(nn.Module):
    def forward(self, inputs: list[Tensor]) -> Tensor:
        z_mean, z_log_var = inputs
        epsilon = torch.randn(z_mean.size(0), z_mean.size(1))
        return z_mean + torch.exp(0.5 * z_log_var) * epsilon


class SeriesEncoder(nn.Module):
    """A layer that draws is made in each call."""

    def __init__(self, length: int, features: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(features, 5, 3, 2, 1), nn.ReLU(), nn.Conv1d(5, 6, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.z_mean, self.z_log_var = nn.Linear(6 * length // 4, latent), nn.Linear(6 * length // 4, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x.transpose(1, 2))
        z_mean, z_log_var = self.z_mean(h), self.z_log_var(h)
        return z_mean, z_log_var, DrawLayer()([z_mean, z_log_var])


class SeriesDecoder(nn.Module):
    def __init__(self, length: int, features: int, latent: int) -> None:
        super().__init__()
        self.length, self.features = length, features
        self.level_dense1, self.level_dense2 = nn.Linear(latent, features), nn.Linear(features, features)
        self.dense = nn.Linear(latent, 6 * length // 4)
        self.deconv1 = nn.ConvTranspose1d(6, 5, 3, 2, 1, output_padding=1)
        self.deconv2 = nn.ConvTranspose1d(5, features, 3, 2, 1, output_padding=1)
        self.final_dense = nn.Linear(length * features, length * features)

    def forward(self, z: Tensor) -> Tensor:
        level = self.level_dense2(self.level_dense1(z).relu()).view(-1, 1, self.features)
        h = self.dense(z).relu().view(len(z), -1, 6).transpose(1, 2)
        h = self.final_dense(self.deconv2(self.deconv1(h).relu()).relu().flatten(1))
        return level * torch.ones(1, self.length, 1) + h.view(-1, self.length, self.features)


class LevelledVAE(nn.Module):
    def __init__(self, length: int = 8, features: int = 3, latent: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = SeriesEncoder(length, features, latent), SeriesDecoder(length, features, latent)
        self.sampling = DrawLayer()


def levelled_loss(model: Any, x: Tensor, weight: float = 3.0) -> Tensor:
    z_mean, z_log_var, z = model.encoder(x)
    recon = model.decoder(z)
    error = torch.sum(torch.pow(x - recon, 2)) + torch.sum(torch.pow(x.mean(dim=2) - recon.mean(dim=2), 2))
    return (weight * error + kl_to_unit(z_mean, z_log_var)) / x.size(0)


class ChannelEncoder(nn.Module):
    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Linear(n_in, hidden), nn.LSTM(hidden, hidden, batch_first=True)
        self.fc_mean, self.fc_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.lstm(self.embedding(x))[1][0][-1]
        return self.fc_mean(h), self.fc_logvar(h)


class ChannelDecoder(nn.Module):
    def __init__(self, latent: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(latent, hidden, batch_first=True), nn.Linear(hidden, n_out)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(self.lstm(z.unsqueeze(1))[0]).squeeze(1)


class ChannelsVAE(nn.Module):
    """An encoder and a decoder for each channel of a series."""

    def __init__(self, dims: tuple[int, ...] = (1, 1, 1), hidden: int = 6, latent: int = 3) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([ChannelEncoder(n, hidden, latent) for n in dims])
        self.decoders = nn.ModuleList([ChannelDecoder(latent, hidden, n) for n in dims])

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mean, logvar)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        means, logvars, recons = [], [], []
        for i, encoder in enumerate(self.encoders):
            mean, logvar = encoder(x[:, :, i : i + 1])
            recons.append(self.decoders[i](self.reparameterize(mean, logvar)))
            means.append(mean)
            logvars.append(logvar)
        return means, logvars, torch.cat(recons, dim=1)


def channels_loss(model: Any, x: Tensor) -> Tensor:
    means, logvars, recons = model(x)
    recon = torch.sum((recons - x[:, -1, :]) ** 2)
    kl = [torch.sum(1 + v - m.pow(2) - v.exp()) for m, v in zip(means, logvars, strict=True)]
    return recon - 0.5 * sum(kl)


class TemporalStep(nn.Module):
    """A causal convolution, whose condition shifts and scales what goes in."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad, self.gamma, self.beta = 2 * dilation, nn.Linear(width, width), nn.Linear(width, width)
        self.conv, self.drop = nn.Conv1d(width, width, 3, padding=self.pad, dilation=dilation), nn.Dropout(0.15)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        h = self.gamma(c).unsqueeze(-1) * h + self.beta(c).unsqueeze(-1)
        return F.relu(self.drop(F.relu(self.conv(h)[:, :, : -self.pad])) + h)


class ConditionedEncoder(nn.Module):
    def __init__(self, x: int, c: int, h: int, z: int) -> None:
        super().__init__()
        self.condition_layer = nn.Sequential(nn.Linear(c, h), nn.ReLU(), nn.LayerNorm(h), nn.Linear(h, h))
        self.input_proj = nn.Conv1d(x, h, 1)
        self.tcn_film = nn.ModuleList([TemporalStep(h, 2**i) for i in range(2)])
        self.mu_layer, self.logvar_layer = nn.Linear(h, z), nn.Linear(h, z)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, known = self.input_proj(x.permute(0, 2, 1)), self.condition_layer(c)
        for block in self.tcn_film:
            h = block(h, known)
        return self.mu_layer(h[:, :, -1]), self.logvar_layer(h[:, :, -1])


class TrendDecoder(nn.Module):
    """A trend, seasons and a rest, as the place of a Student's t."""

    def __init__(self, z: int, c: int, n_out: int, hidden: int, horizon: int) -> None:
        super().__init__()
        self.horizon, self.n_out = horizon, n_out
        self.fc_context = nn.Sequential(nn.Linear(z + c, hidden), nn.ReLU(), nn.LayerNorm(hidden))
        self.trend_head = nn.Linear(hidden, n_out * 3)
        self.season_sin_head, self.season_cos_head = nn.Linear(hidden, n_out * 2), nn.Linear(hidden, n_out * 2)
        self.rnn, self.rnn_out = nn.GRU(hidden, hidden, batch_first=True), nn.Linear(hidden, n_out)
        self.fc_scale, self.fc_df = nn.Linear(hidden, horizon * n_out), nn.Linear(hidden, horizon * n_out)

    def forward(self, z: Tensor, c: Tensor) -> StudentT:
        h = self.fc_context(torch.cat([z, c], dim=-1))
        shape = (len(h), self.horizon, self.n_out)
        place = torch.linspace(0.0, 1.0, self.horizon)
        powers = torch.stack([place**p for p in range(3)], dim=-1)
        angles = 2 * math.pi * place[:, None] * torch.arange(1, 3).float()
        mean = (self.trend_head(h).view(-1, self.n_out, 1, 3) * powers).sum(-1)
        for head, basis in ((self.season_sin_head, angles.sin()), (self.season_cos_head, angles.cos())):
            mean = mean + (head(h).view(-1, self.n_out, 1, 2) * basis).sum(-1)
        rest = self.rnn_out(self.rnn(h.unsqueeze(1).repeat(1, self.horizon, 1))[0])
        scale = F.softplus(self.fc_scale(h)).view(shape) + 1e-4
        return StudentT(F.softplus(self.fc_df(h)).view(shape) + 2.0, mean.permute(0, 2, 1) + rest, scale)


class GivenPrior(nn.Module):
    def __init__(self, n_in: int, hidden: int, z: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden))
        self.mu_head, self.logvar_head = nn.Linear(hidden, z), nn.Linear(hidden, z)

    def forward(self, c: Tensor, macro: Tensor) -> tuple[Tensor, Tensor]:
        h = self.net(torch.cat([c, macro], dim=-1)).relu()
        return self.mu_head(h), self.logvar_head(h)


class MarketVAE(nn.Module):
    """A prior given the market, which an encoder that is not trained reads."""

    def __init__(self, x: int = 3, c: int = 2, z: int = 4, h: int = 7, horizon: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = ConditionedEncoder(x, c, h, z), TrendDecoder(z, c, x, h, horizon)
        self.prior, self.macro_encoder = GivenPrior(c + 3, h, z), nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        for p in self.macro_encoder.parameters():
            p.requires_grad_(False)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.randn_like(mu)
        return mu + eps * torch.exp(0.5 * logvar)

    def forward(self, x: Tensor, c: Tensor, macro: Tensor, y: Tensor) -> Tensor:
        mu_q, logvar_q = self.encoder(x, c)
        mu_p, logvar_p = self.prior(c, self.macro_encoder(macro))
        dist = self.decoder(self.reparameterize(mu_q, logvar_q), c)
        gap = logvar_p - logvar_q + (torch.exp(logvar_q) + (mu_q - mu_p) ** 2) / torch.exp(logvar_p) - 1.0
        return -dist.log_prob(y).mean() + 0.5 * gap.sum(dim=-1).mean()


class FrequencyCVAE(nn.Module):
    """Variances by a softplus; the draw adds a floor, of which the losses know nothing."""

    def __init__(self, window: int = 8, latent: int = 3, condition: int = 4, hidden: int = 7) -> None:
        super().__init__()
        self.window, self.hidden = window, hidden
        self.encoder = nn.Sequential(nn.Linear(window + 2 * condition, hidden), nn.Tanh())
        self.fc_mu, self.fc_var = (
            nn.Linear(hidden, latent), nn.Sequential(nn.Linear(hidden, latent), nn.Softplus())
        )  # fmt: skip
        self.decoder_input = nn.Linear(latent + 2 * condition, hidden)
        self.decoder = nn.Sequential(nn.Linear(hidden, window), nn.Tanh())
        self.fc_mu_x = nn.Linear(window, window)
        self.fc_var_x = nn.Sequential(nn.Linear(window, window), nn.Softplus())
        self.emb_local = nn.Sequential(nn.Linear(2 + 4, 6), nn.Tanh())
        self.atten = nn.MultiheadAttention(6, 2, batch_first=True)
        self.out_linear = nn.Sequential(nn.Linear(6, condition), nn.Tanh())
        self.emb_global = nn.Sequential(nn.Linear(window, condition), nn.Tanh())
        self.dropout = nn.Dropout(0.05)

    def get_condition(self, x: Tensor) -> Tensor:
        whole = torch.fft.rfft(x[:, :, :-1], dim=-1)
        whole = self.emb_global(torch.cat((whole.real, whole.imag), dim=-1))
        known = x.clone()
        known[:, :, -1] = 0
        parts = torch.fft.rfft(known.squeeze(1).unfold(1, 4, 2), dim=-1)
        parts = self.emb_local(torch.cat((parts.real, parts.imag), dim=-1))
        parts = self.out_linear(self.atten(parts, parts, parts, need_weights=False)[0])
        return torch.cat((whole, parts[:, -1, :].unsqueeze(1)), dim=-1)

    def reparameterize(self, mu: Tensor, var: Tensor) -> Tensor:
        std = torch.sqrt(1e-7 + var)
        return torch.randn_like(std) * std + mu

    def forward(self, x: Tensor, kl_weight: float = 0.5) -> tuple[Tensor, Tensor]:
        condition = self.dropout(self.get_condition(x))
        h = torch.flatten(self.encoder(torch.cat((x, condition), dim=2)), start_dim=1)
        mu, var = self.fc_mu(h), self.fc_var(h)
        z = torch.cat((self.reparameterize(mu, var), condition.squeeze(1)), dim=1)
        h = self.decoder(self.decoder_input(z).view(-1, 1, self.hidden))
        mu_x, var_x = self.fc_mu_x(h), self.fc_var_x(h)
        rec_x = self.reparameterize(mu_x, var_x)
        return rec_x, self.loss_func(mu_x.squeeze(1), var_x.squeeze(1), x.squeeze(1), mu, var, kl_weight)

    def loss_func(self, mu_x: Tensor, var_x: Tensor, x: Tensor, mu: Tensor, var: Tensor, weight: float) -> Tensor:
        recon = torch.mean(0.5 * torch.mean(torch.log(var_x) + (x - mu_x) ** 2 / var_x, dim=1))
        kld = torch.mean(0.5 * torch.mean(mu**2 + var - torch.log(var) - 1, dim=1))
        return recon + weight * kld


def root_softplus(v: Tensor) -> Tensor:
    return F.softplus(v).sqrt()


def root_softplus_floored(v: Tensor) -> Tensor:
    return torch.sqrt(1e-7 + F.softplus(v))


# ---------------------------------------------------------------------------------------------- worlds and policies


class ObservationEncoder(nn.Module):
    """Keeps its KL, which the training script leaves out."""

    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(n_in, hidden), nn.Linear(hidden, hidden)
        self.linear4, self.linear5 = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.N, self.kl = Normal(0, 1), torch.zeros(())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.linear2(F.relu(self.linear1(torch.flatten(x, start_dim=1)))))
        mu, sigma = self.linear4(h), torch.exp(self.linear5(h))
        z = mu + sigma * self.N.sample(mu.shape)
        self.kl = (sigma**2 + mu**2 - torch.log(sigma) - 1 / 2).sum()
        return z, mu, sigma


class ObservationVAE(nn.Module):
    def __init__(self, n_in: int = 9, hidden: int = 8, latent: int = 5) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(n_in, hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, n_in))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mu, sigma = self.encoder(x)
        return self.decoder(z), mu, sigma


def squares_alone(model: Any, x: Tensor) -> Tensor:
    x_hat, _, _ = model(x)
    return ((x - x_hat) ** 2).sum()


State = dict[str, Tensor]


class StateModel(nn.Module):
    def __init__(self, actions: int, stoch: int, deter: int, embed: int) -> None:
        super().__init__()
        self.stoch, self.deter, act = stoch, deter, nn.ELU()
        self.cell, self.act = nn.GRUCell(deter, deter), act
        self.fc_input = nn.Sequential(nn.Linear(stoch + actions, deter), act)
        self.fc_prior = nn.Sequential(nn.Linear(deter, deter), act, nn.Linear(deter, 2 * stoch))
        self.fc_post = nn.Sequential(nn.Linear(deter + embed, deter), act, nn.Linear(deter, 2 * stoch))

    def get_dist(self, state: State) -> Independent:
        return Independent(Normal(state["mean"], state["std"]), 1)

    def get_feat(self, state: State) -> Tensor:
        return torch.cat([state["stoch"], state["deter"]], -1)

    def drawn(self, parameters: Tensor, deter: Tensor) -> State:
        mean, std = parameters.chunk(2, dim=-1)
        state = {"mean": mean, "std": F.softplus(std) + 0.1, "deter": deter}
        return {**state, "stoch": self.get_dist(state).rsample()}

    def img_step(self, state: State, action: Tensor) -> State:
        x = self.fc_input(torch.cat([state["stoch"], action], dim=-1))
        deter = self.cell(x, state["deter"])
        return self.drawn(self.fc_prior(deter), deter)

    def obs_step(self, state: State, action: Tensor, embed: Tensor) -> tuple[State, State]:
        prior_state = self.img_step(state, action)
        x = self.fc_post(torch.cat([prior_state["deter"], embed], dim=-1))
        return self.drawn(x, prior_state["deter"]), prior_state

    def observe(self, embed: Tensor, action: Tensor) -> tuple[State, State]:
        n, steps, _ = action.shape
        state = {"stoch": torch.zeros(n, self.stoch), "deter": torch.zeros(n, self.deter)}
        posts, priors = [], []
        for t in range(steps):
            state, prior_state = self.obs_step(state, action[:, t], embed[:, t])
            posts.append(state)
            priors.append(prior_state)
        post, before = ({k: torch.stack([s[k] for s in states], 1) for k in states[0]} for states in (posts, priors))
        return post, before


class UnitNormalDecoder(nn.Module):
    def __init__(self, n_in: int, shape: tuple[int, ...], units: int = 7) -> None:
        super().__init__()
        self.shape, self.act = shape, nn.ELU()
        self.fc_layers = nn.ModuleList([nn.Linear(n_in, units), nn.Linear(units, units)])
        self.fc_output = nn.Linear(units, math.prod(shape))

    def forward(self, x: Tensor) -> Independent:
        for layer in self.fc_layers:
            x = self.act(layer(x))
        x = self.fc_output(x)
        return Independent(Normal(x.reshape(*x.shape[:-1], *self.shape), 1.0), len(self.shape))


class SquashedActor(nn.Module):
    def __init__(self, n_in: int, size: int, units: int = 7) -> None:
        super().__init__()
        self.min_std, self.mean_scale, self.act = 1e-4, 5, nn.ELU()
        self.fc_layers = nn.ModuleList([nn.Linear(n_in, units), nn.Linear(units, units)])
        self.fc_output = nn.Linear(units, 2 * size)
        self.raw_init_std = math.log(math.exp(5 - 1))

    def forward(self, x: Tensor) -> Independent:
        for layer in self.fc_layers:
            x = self.act(layer(x))
        mean, std = self.fc_output(x).chunk(2, dim=-1)
        mean = self.mean_scale * torch.tanh(mean / self.mean_scale)
        std = F.softplus(std + self.raw_init_std) + self.min_std
        return Independent(TransformedDistribution(Normal(mean, std), TanhTransform()), 1)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    parameters = [p for m in modules for p in m.parameters()]
    for p in parameters:
        p.requires_grad_(False)
    yield
    for p in parameters:
        p.requires_grad_(True)


class WholeDreamer(nn.Module):
    """World, values and actor, whose losses are added and taken at once; pictures are rows of numbers here."""

    def __init__(
        self, observation: int = 6, actions: int = 2, stoch: int = 3, deter: int = 7, horizon: int = 3
    ) -> None:
        super().__init__()
        feat, self.horizon = stoch + deter, horizon
        self.encoder = nn.Sequential(nn.Linear(observation, 8), nn.ReLU())
        self.dynamics = StateModel(actions, stoch, deter, 8)
        self.decoder, self.reward = UnitNormalDecoder(feat, (observation,)), UnitNormalDecoder(feat, ())
        self.value, self.actor = UnitNormalDecoder(feat, ()), SquashedActor(feat, actions)

    def imagine_ahead(self, post: State) -> Tensor:
        state = {k: v.reshape(-1, *v.shape[2:]).detach() for k, v in post.items()}
        states = [state]
        for _ in range(self.horizon):
            action = self.actor(self.dynamics.get_feat(state).detach()).rsample()
            state = self.dynamics.img_step(state, action)
            states.append(state)
        return torch.stack([self.dynamics.get_feat(s) for s in states])

    def update_loss(self, image: Tensor, action: Tensor, reward: Tensor) -> Tensor:
        post, before = self.dynamics.observe(self.encoder(image), action)
        feat = self.dynamics.get_feat(post)
        likes = self.decoder(feat).log_prob(image).mean() + self.reward(feat).log_prob(reward).mean()
        div = kl_divergence(self.dynamics.get_dist(post), self.dynamics.get_dist(before)).mean()
        model_loss = torch.clamp(div, min=0.1) - likes
        with frozen(self.encoder, self.dynamics, self.decoder, self.reward, self.value):
            imagined = self.imagine_ahead(post)
            rewards, values = self.reward(imagined[1:]).mean, self.value(imagined[1:]).mean
            last, returns = values[-1], []
            for t in reversed(range(self.horizon)):
                last = rewards[t] + 0.99 * (0.05 * values[t] + 0.95 * last)
                returns.append(last)
            total = torch.stack(returns[::-1])
            with torch.no_grad():
                mask = torch.cumprod(torch.cat([torch.ones_like(total[:1]), 0.99 * torch.ones_like(total[1:])]), dim=0)
            actor_loss = -(mask * total).mean()
        value_loss = torch.mean(-self.value(imagined[:-1].detach()).log_prob(total.detach()) * mask)
        return value_loss + model_loss + actor_loss


def tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def raised(v: Tensor) -> Tensor:
    return F.softplus(v + math.log(math.exp(5 - 1))) + 1e-4


class ScaledPolicy(nn.Module):
    """One number is drawn for all actions of a batch."""

    def __init__(self, states: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(states, hidden), nn.Linear(hidden, hidden)
        self.linear3a, self.linear3b = nn.Linear(hidden, actions), nn.Linear(hidden, actions)
        self.action_scale, self.action_bias = torch.full((actions,), 1.5), torch.full((actions,), 0.1)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.linear2(F.relu(self.linear1(s))))
        return self.linear3a(h), torch.clamp(self.linear3b(h), min=-20, max=2)

    def sample_action(self, s: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.forward(s)
        std = log_std.exp()
        u = mean + std * Normal(0, 1).sample()
        y = torch.tanh(u)
        log_pi = Normal(mean, std).log_prob(u) - torch.log(self.action_scale * (1 - y.pow(2)) + 1e-6)
        return y * self.action_scale + self.action_bias, log_pi.sum(1, keepdim=True)


class TwinQ(nn.Module):
    def __init__(self, states: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(states + actions, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return self.net(torch.cat([s, a], 1))


class SoftAgent(nn.Module):
    def __init__(self, states: int = 4, actions: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.policy_network = ScaledPolicy(states, actions, hidden)
        self.q_network_1, self.q_network_2 = (TwinQ(states, actions, hidden) for _ in range(2))
        self.target_q_network_1, self.target_q_network_2 = (TwinQ(states, actions, hidden) for _ in range(2))
        self.target_q_network_1.load_state_dict(self.q_network_1.state_dict())
        self.target_q_network_2.load_state_dict(self.q_network_2.state_dict())

    def update(self, s: Tensor, a: Tensor, r: Tensor, after: Tensor, alpha: float = 0.01) -> Tensor:
        """The losses of both values and of the policy, in one."""
        with torch.no_grad():
            next_a, next_log_pi = self.policy_network.sample_action(after)
            best = torch.min(self.target_q_network_1(after, next_a), self.target_q_network_2(after, next_a))
            target = r + 0.99 * (best - alpha * next_log_pi)
        of_values = F.mse_loss(self.q_network_1(s, a), target) + F.mse_loss(self.q_network_2(s, a), target)
        pi, log_pi = self.policy_network.sample_action(s)
        least = torch.min(self.q_network_1(s, pi), self.q_network_2(s, pi))
        return of_values + (alpha * log_pi - least).mean()


def soft_clamped(v: Tensor) -> Tensor:
    return v.clamp(-20, 2).exp()


def transitions() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, 1, seed=10), randn(6, 4, seed=11)


class NormalOutput(nn.Module):
    """Mean and scale, joined."""

    def __init__(self, n_in: int, actions: int) -> None:
        super().__init__()
        self.policy_mean = nn.Linear(n_in, actions)
        self.policy_std = nn.Parameter(torch.zeros(1, actions))

    def forward(self, x: Tensor) -> Tensor:
        policy = self.policy_mean(x)
        return torch.cat((policy, self.policy_std.expand_as(policy).exp()), dim=-1)


class BoxAgent(nn.Module):
    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.input = nn.Sequential(nn.Linear(states, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.policy_out, self.value_out = NormalOutput(8, actions), nn.Linear(8, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.input(state)
        return self.policy_out(x), self.value_out(x)


def box_distribution(logits: Tensor) -> Normal:
    mid = logits.size(1) // 2
    return Normal(logits[:, :mid], logits[:, mid:])


def box_loss(model: Any, s: Tensor, a: Tensor, old: Tensor, returns: Tensor, advantage: Tensor) -> Tensor:
    policy, value = model(s)
    before, now, value = box_distribution(old), box_distribution(policy), value.squeeze()
    clipped = value.detach() + (value - value.detach()).clamp(-0.2, 0.2)
    value_loss = torch.min((returns - clipped).pow(2), (returns - value).pow(2)).mean()
    advantage = ((advantage - advantage.mean()) / (advantage.std(unbiased=False) + 1e-8)).unsqueeze(1)
    ratio = (now.log_prob(a) - before.log_prob(a)).exp()
    gain = torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
    return -(gain + 0.01 * now.entropy().mean() - 0.5 * value_loss)


def episodes() -> tuple[Tensor, ...]:
    old = torch.cat([0.3 * randn(6, 2, seed=12), torch.ones(6, 2)], 1)
    return randn(6, 4), randn(6, 2, seed=9), old, randn(6, seed=10), randn(6, seed=11)


class FrameAgent(nn.Module):
    def __init__(self, actions: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 5, 3, 2), nn.Conv2d(5, 6, 3, 1)
        self.linear = nn.Linear(6, 8)
        self.policy, self.value = nn.Linear(8, actions), nn.Linear(8, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.linear(F.relu(self.conv2(F.relu(self.conv1(frames)))).flatten(1)))
        return self.policy(h), self.value(h)


def frame_agent_loss(model: Any, frames: Tensor, actions: Tensor, old: Tensor, returns: Tensor) -> Tensor:
    logits, value = model(frames)
    distribution = Categorical(logits=logits)
    ratio = (distribution.log_prob(actions) - old).exp()
    advantage = (returns - returns.mean()) / (returns.std() + 1e-8)
    gain = torch.min(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
    return -(gain - (returns - value.squeeze(-1)).pow(2).mean() + 0.01 * distribution.entropy().mean())


class DiscreteSoftAgent(nn.Module):
    def __init__(self, actions: int = 3) -> None:
        super().__init__()
        self.policy_network, self.q_value_network1, self.q_value_network2 = (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, actions)
            )
            for _ in range(3)
        )
        self.log_alpha = nn.Parameter(torch.zeros(1))

    def forward(self, frames: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        q1, q2 = self.q_value_network1(frames / 255.0), self.q_value_network2(frames / 255.0)
        of_values = sum(F.mse_loss(q.gather(1, actions), target) for q in (q1, q2))
        probs = F.softmax(self.policy_network(frames / 255.0), -1).clamp(min=1e-8)
        alpha = self.log_alpha.exp()
        least = torch.min(q1, q2).detach()
        of_policy = (probs * (alpha.detach() * probs.log() - least)).sum(-1).mean()
        entropy = (probs * probs.log()).sum(-1).detach()
        return of_values + of_policy - (self.log_alpha * (entropy + 0.9)).mean()


# ---------------------------------------------------------------------------------------------- processes


class StackedMLP(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        activation = nn.ReLU()
        self._process_input = nn.Sequential(
            nn.Linear(n_in, hidden), activation, nn.Linear(hidden, hidden), activation, nn.Linear(hidden, n_out)
        )

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self._process_input(torch.cat((x, other), dim=1))


class RegressionCNP(nn.Module):
    """Pairs of all functions are stacked."""

    def __init__(self, hidden: int = 8, r: int = 5) -> None:
        super().__init__()
        self._encoder, self._decoder = StackedMLP(2, hidden, r), StackedMLP(1 + r, hidden, 2)

    def forward(self, x: Tensor, y: Tensor, context: int = 4) -> Normal:
        n, targets = x.shape[:2]
        seen = self._encoder(x[:, :context].reshape(n * context, -1), y[:, :context].reshape(n * context, -1))
        mean = seen.view(n, context, -1).mean(dim=1, keepdim=True)
        repeated = mean.repeat(1, targets, 1).view(n * targets, -1)
        out = self._decoder(x.reshape(n * targets, -1), repeated).view(n, targets, -1)
        mu, sigma = out[:, :, 0].unsqueeze(-1), out[:, :, 1].unsqueeze(-1)
        return Normal(loc=mu, scale=0.1 + 0.9 * F.softplus(sigma))


def cnp_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return -torch.mean(model(x, y).log_prob(y))


def nine_tenths_softplus(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


def nine_tenths_sigmoid(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def relu_layers(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


class DeterministicPath(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp, self.pre_attention_contexts = relu_layers(2, hidden, hidden), relu_layers(1, hidden, hidden)
        self.pre_attention_targets = relu_layers(1, hidden, hidden)

    def forward(self, context_x: Tensor, context_y: Tensor, target_x: Tensor) -> Tensor:
        encoded = self.mlp(torch.cat([context_x, context_y], dim=-1))
        keys, queries = self.pre_attention_contexts(context_x), self.pre_attention_targets(target_x)
        scores = queries @ keys.transpose(1, 2) / math.sqrt(keys.size(-1))
        return F.softmax(scores, dim=-1) @ encoded


class LatentPath(nn.Module):
    """What is called a log σ goes through a sigmoid."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.mlp, self.hidden = relu_layers(2, hidden, hidden), nn.Linear(hidden, hidden)
        self.mean, self.log_std = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.hidden(torch.mean(self.mlp(torch.cat([x, y], dim=-1)), dim=1)))
        mean, std = self.mean(h), 0.1 + 0.9 * torch.sigmoid(self.log_std(h))
        return Normal(mean, std).rsample(), mean, std


class ProcessDecoder(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.mlp = relu_layers(hidden + latent + 1, hidden, 2)

    def forward(self, representation: Tensor, target_x: Tensor) -> Independent:
        h = self.mlp(torch.cat([representation, target_x], dim=-1))
        mean, std = torch.split(h, h.shape[-1] // 2, dim=-1)
        return Independent(Normal(loc=mean, scale=0.1 + 0.9 * F.softplus(std)), 1)


class AttentiveProcess(nn.Module):
    """The KL's sides are exchanged."""

    def __init__(self, hidden: int = 8, latent: int = 4) -> None:
        super().__init__()
        self.deterministic_encoder, self.latent_encoder = DeterministicPath(hidden), LatentPath(hidden, latent)
        self.decoder = ProcessDecoder(hidden, latent)

    def forward(self, context_x: Tensor, context_y: Tensor, target_x: Tensor, target_y: Tensor) -> Tensor:
        _, prior_mean, prior_std = self.latent_encoder(context_x, context_y)
        z, posterior_mean, posterior_std = self.latent_encoder(target_x, target_y)
        r = self.deterministic_encoder(context_x, context_y, target_x)
        z = z.unsqueeze(1).repeat(1, target_x.shape[1], 1)
        log_prob = self.decoder(torch.cat([r, z], dim=-1), target_x).log_prob(target_y).mean()
        kl = kl_divergence(Normal(prior_mean, prior_std), Normal(posterior_mean, posterior_std)).sum(dim=-1).mean()
        return -(log_prob - kl / float(target_x.shape[1]))


# ---------------------------------------------------------------------------------------------- paths and states


class PathVRNN(nn.Module):
    def __init__(self, x: int = 2, h: int = 7, z: int = 3) -> None:
        super().__init__()
        self.h_dim = h
        self.phi_x = nn.Sequential(nn.Linear(x, h), nn.LeakyReLU(), nn.Linear(h, h), nn.LeakyReLU())
        self.phi_z = nn.Sequential(nn.Linear(z, h), nn.LeakyReLU())
        self.enc = nn.Sequential(nn.Linear(2 * h, h), nn.LeakyReLU(), nn.Linear(h, h), nn.LeakyReLU())
        self.enc_mean, self.enc_logvar = nn.Linear(h, z), nn.Linear(h, z)
        self.prior = nn.Sequential(nn.Linear(h, h), nn.LeakyReLU())
        self.prior_mean, self.prior_logvar = nn.Linear(h, z), nn.Linear(h, z)
        self.dec = nn.Sequential(nn.Linear(2 * h, h), nn.LeakyReLU(), nn.Linear(h, h), nn.LeakyReLU())
        self.dec_logvar = nn.Linear(h, x)
        self.dec_mean = nn.Sequential(nn.Linear(h, x), nn.Hardtanh(min_val=-10, max_val=10))
        self.rnn = nn.GRU(2 * h, h)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kld_loss = nll_loss = torch.zeros(())
        h = torch.zeros(1, x.size(1), self.h_dim)
        for t in range(1, x.size(0)):
            phi_x_t = self.phi_x(x[t])
            enc_t = self.enc(torch.cat([phi_x_t, h[-1]], 1))
            enc_mean_t, enc_logvar_t = self.enc_mean(enc_t), self.enc_logvar(enc_t)
            prior_t = self.prior(h[-1])
            prior_mean_t, prior_logvar_t = self.prior_mean(prior_t), self.prior_logvar(prior_t)
            phi_z_t = self.phi_z(draw_half(enc_mean_t, enc_logvar_t))
            dec_t = self.dec(torch.cat([phi_z_t, h[-1]], 1))
            dec_mean_t, dec_logvar_t = self.dec_mean(dec_t), self.dec_logvar(dec_t)
            _, h = self.rnn(torch.cat([phi_x_t, phi_z_t], 1).unsqueeze(0), h)
            kld_loss = kld_loss + self._kld_gauss(enc_mean_t, enc_logvar_t, prior_mean_t, prior_logvar_t)
            nll_loss = nll_loss + self._nll_gauss(dec_mean_t, dec_logvar_t, x[t])
        return kld_loss, nll_loss

    def _kld_gauss(self, mean_q: Tensor, logvar_q: Tensor, mean_p: Tensor, logvar_p: Tensor) -> Tensor:
        gap = torch.sum(logvar_p - logvar_q, dim=1) + torch.sum(torch.exp(logvar_q - logvar_p), dim=1)
        moved = torch.sum((mean_q - mean_p).pow(2) / torch.exp(logvar_p), dim=1)
        return torch.mean(0.5 * (gap - mean_q.size(1) + moved))

    def _nll_gauss(self, mean: Tensor, logvar: Tensor, x: Tensor) -> Tensor:
        squares = torch.sum((x - mean).pow(2) / torch.exp(logvar), dim=1)
        return torch.mean(0.5 * (squares + x.size(1) * math.log(2 * math.pi) + torch.sum(logvar, dim=1)))


def path_vrnn_loss(model: Any, x: Tensor, beta: float = 0.5) -> Tensor:
    kld_loss, nll_loss = model(x)
    return beta * kld_loss + nll_loss


class NormalLSTM(nn.Module):
    """What it calls a variance is the root of one."""

    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.layers_0 = nn.Linear(n_in, hidden), nn.LSTM(hidden, hidden)
        self.mean = nn.Sequential(
            nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, n_out), nn.LeakyReLU(0.2)
        )
        self.logvar = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor, states: Any) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
        h, new_states = self.layers_0(self.embed(x)[None], states)
        mean, logvar = self.mean(h)[0], self.logvar(h)[0]
        var = torch.exp(0.5 * logvar)
        z_t = mean + var * torch.normal(mean=0.0, std=1.0, size=mean.shape)
        return (z_t, mean, logvar), new_states


class KeypointDynamics(nn.Module):
    """Three recurrent Normals, of the third of which the mean alone is used."""

    def __init__(self, keypoints: int, actions: int, z: int = 3, hidden: int = 6) -> None:
        super().__init__()
        n = 3 * keypoints
        self.prior, self.posterior = NormalLSTM(n, z, hidden), NormalLSTM(n, z, hidden)
        self.dynamics = NormalLSTM(n + actions + z, n, hidden)

    def forward(self, keypoints: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        state = prior_state = posterior_state = None
        keypoints = keypoints.flatten(2)
        predicted, klds = [], []
        for t in range(1, keypoints.shape[1]):
            before, now = keypoints[:, t - 1], keypoints[:, t]
            (z_t, mu, logvar), posterior_state = self.posterior(now, posterior_state)
            (_, mu_p, logvar_p), prior_state = self.prior(before, prior_state)
            (_, mean, _), state = self.dynamics(torch.cat((before, actions[:, t - 1], z_t), dim=-1), state)
            gap = -1.0 + logvar_p - logvar + torch.exp(logvar - logvar_p)
            klds.append(torch.mean(0.5 * (gap + torch.square(mu - mu_p) * torch.exp(-logvar_p))))
            predicted.append(torch.tanh(mean))
        return torch.stack(predicted, dim=1), torch.stack(klds)


class StructuredVRNN(nn.Module):
    """Keypoints of pictures, drawn as bumps of a fixed width; their path is learned beside them."""

    def __init__(self, keypoints: int = 2, actions: int = 2, side: int = 8) -> None:
        super().__init__()
        self.n, self.sigma = keypoints, 0.4
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.LeakyReLU(0.2))
        self.encoded_image_to_heatmaps = nn.Conv2d(4, keypoints, 3, padding=1)
        self.register_buffer("axis", torch.linspace(-1, 1, side // 2))
        self.image_decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(keypoints, 3, 3, padding=1))
        self.dynamics = KeypointDynamics(keypoints, actions)

    def keypoints(self, images: Tensor) -> Tensor:
        heat = F.softplus(self.encoded_image_to_heatmaps(self.features(images)))
        strength = heat.mean(dim=(2, 3))
        share = heat / (heat.sum(dim=(2, 3), keepdim=True) + 1e-6)
        x, y = (share * self.axis).sum(dim=(2, 3)), (share * self.axis[:, None]).sum(dim=(2, 3))
        return torch.stack([x, y, strength / (strength.amax(-1, keepdim=True) + 1e-6)], dim=-1)

    def bumps(self, points: Tensor) -> Tensor:
        x, y, strength = (points[..., i, None, None] for i in range(3))
        width = 2.0 * self.sigma**2
        across = torch.exp(-torch.square(self.axis - x) / width)
        return across * torch.exp(-torch.square(self.axis[:, None] - y) / width) * strength

    def train_step(self, videos: Tensor, actions: Tensor) -> Tensor:
        images = videos.flatten(0, 1)
        points = self.keypoints(images)
        recon = F.mse_loss(
            self.image_decoder(self.bumps(points)) + videos[:, :1].expand_as(videos).flatten(0, 1), images
        )
        fixed = points.view(*videos.shape[:2], self.n, 3).detach()
        predicted, klds = self.dynamics(fixed, actions)
        predicted = predicted.view(len(videos), -1, self.n, 3)
        error = ((predicted - fixed[:, 1:]) ** 2).sum(dim=(-1, -2)).mean(dim=(0, 1))
        return recon + 0.1 * error + 0.01 * points[..., 2].abs().sum(dim=-1).mean() + 0.001 * klds.mean()


class BlendCombiner(nn.Module):
    def __init__(self, z: int, rnn: int, n_out: int) -> None:
        super().__init__()
        self.input_layers, self.activation = nn.ModuleList([nn.Linear(z, rnn)]), nn.Tanh()
        self.alpha_init = nn.ParameterList([nn.Parameter(torch.tensor(0.1))])
        self.output_layer = nn.Linear(rnn, n_out)

    def forward(self, z: Tensor, hs: list[Tensor]) -> Tensor:
        parts = [
            alpha * self.activation(layer(z)) + (1 - alpha) * h
            for alpha, layer, h in zip(self.alpha_init, self.input_layers, hs, strict=True)
        ]
        return self.output_layer(torch.cat(parts, dim=1))


class HalvedMLP(nn.Module):
    """The halves of what it gives, by slices."""

    def __init__(self, n_in: int, hidden: int, n_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.n_out = n_out
        self.mlp = nn.Sequential(nn.Linear(n_in, hidden), activation, nn.Linear(hidden, 2 * n_out))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.mlp(x)
        return h[..., : self.n_out], h[..., self.n_out :]


class DrawModule(nn.Module):
    def forward(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mean, logvar)


class KalmanFilterNet(nn.Module):
    """Each step's law is written into tensors of zeros, which the loss reads."""

    def __init__(self, x: int = 3, z: int = 2, rnn: int = 6) -> None:
        super().__init__()
        self.z_dim, self.Z_0 = z, nn.Parameter(torch.zeros(1, 1, z))
        self.q_b_rnn = nn.LSTM(x, rnn)
        self.encoder, self.decoder = HalvedMLP(5, 6, z, nn.Tanh()), HalvedMLP(z, 6, x, nn.Tanh())
        self.sampler, self.combiner = DrawModule(), BlendCombiner(z, rnn, 5)
        self.p_z = HalvedMLP(z, 6, z, nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z_0 = self.Z_0.expand(1, x.size(1), self.z_dim)
        backwards = torch.flip(self.q_b_rnn(torch.flip(x, [0]))[0], [0])
        self.z_mean, self.z_logvar, self.sampled_z = (torch.zeros(*x.shape[:2], self.z_dim) for _ in range(3))
        z_t = z_0.squeeze(0)
        for t in range(len(x)):
            mu, logvar = self.encoder(self.combiner(z_t, [backwards[t]]))
            self.z_mean[t, :, :] = mu
            self.z_logvar[t, :, :] = logvar
            z_t = self.sampler(mu, logvar)
            self.sampled_z[t, :, :] = z_t
        transition = self.p_z(torch.cat([z_0, self.sampled_z[:-1]], 0))
        return (*self.decoder(self.sampled_z), self.z_mean, self.z_logvar, *transition)


def kalman_net_loss(model: Any, x: Tensor, beta: float = 0.9) -> Tensor:
    x_hat, x_logvar, mean, logvar, mean_p, logvar_p = model(x)
    recon = torch.div((x - x_hat) ** 2, x_logvar.exp()) + x_logvar
    kl = logvar_p - logvar + torch.div(logvar.exp() + (mean_p - mean).pow(2), logvar_p.exp())
    of_both = [part.sum(dim=2).sum(dim=0).mean() / len(x) for part in (recon, kl)]
    return of_both[0] + beta * of_both[1]


def relu_mlp(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_out)
    )


class DirectedCVAE(nn.Module):
    """Two robots' future, given their past and how they see each other."""

    def __init__(self, past: int = 20, future: int = 30, pair: int = 4, latent: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.encoder = relu_mlp(past + future + pair, hidden, hidden)
        self.posterior_mu, self.posterior_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.prior = relu_mlp(past + pair, hidden, hidden)
        self.prior_mu, self.prior_logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = relu_mlp(past + pair + latent, hidden, future)

    @staticmethod
    def reparameterize(mu: Tensor, logvar: Tensor) -> Tensor:
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)

    def forward(self, past: Tensor, future: Tensor, pair: Tensor) -> dict[str, Tensor]:
        h = self.encoder(torch.cat([past, future, pair], dim=-1))
        q_mu, q_logvar = self.posterior_mu(h), self.posterior_logvar(h).clamp(-8.0, 8.0)
        h = self.prior(torch.cat([past, pair], dim=-1))
        p_mu, p_logvar = self.prior_mu(h), self.prior_logvar(h).clamp(-8.0, 8.0)
        pred = self.decoder(torch.cat([past, pair, self.reparameterize(q_mu, q_logvar)], dim=-1))
        return {"pred": pred, "q_mu": q_mu, "q_logvar": q_logvar, "p_mu": p_mu, "p_logvar": p_logvar}


def directed_loss(model: Any, past: Tensor, future: Tensor, pair: Tensor, beta: float = 1e-3) -> Tensor:
    out = model(past, future, pair)
    pred, target = (t.view(len(t), 2, 3, 5) for t in (out["pred"], future))
    moves = [t[:, :, 1:, :2] - t[:, :, :-1, :2] for t in (pred, target)]
    turns = [m[:, :, 1:] - m[:, :, :-1] for m in moves]
    paths = F.mse_loss(pred, target) + 0.25 * F.mse_loss(*moves) + 0.05 * F.mse_loss(*turns)
    q_mu, q_logvar, p_mu, p_logvar = (out[k] for k in ("q_mu", "q_logvar", "p_mu", "p_logvar"))
    moved = (torch.exp(q_logvar) + (q_mu - p_mu) ** 2) / torch.exp(p_logvar)
    return paths + beta * 0.5 * torch.mean(p_logvar - q_logvar + moved - 1.0)


def within_eight(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-8.0, 8.0))


# fmt: off
CASES = (
    PublicCase(
        "CVAE of translations",
        Retold(
            "kevinyliu/conditional-vae", "c619f2efcd2adff158b4c9f49a308f3b28281e6a",
            "cvae.py, inferer.py, encoder.py, decoder.py, train.py",
        ),
        TranslationCVAE, lambda: (tokens(9, 5, 4, low=1), tokens(9, 6, 4, low=1, seed=9)),
        (posterior("q.linear_var"), prior("p.linear_var")), translation_loss,
        truth="cvae.py forward: log_var.mul(0.5).exp(), two Normals and their KL; train.py: by words, no less than 0",
    ),
    PublicCase(
        "Scholar",
        Retold(
            "nik-sm/neural-topic-models-music", "9936a9b5edf4d70d1c726b9276d50c803ae9e7f2",
            "scripts/scholar/scholar.py",
        ),
        LabelledTopics, lambda: (tokens(5, 7, 12).float(), F.one_hot(tokens(3, 7), 3).float()),
        (posterior("logvar_bn_layer"),), topics_loss,
        truth="scholar.py torchScholar: sqrt(exp(v)) of the batch norm behind the layer; the prior's variance is fixed",
    ),
    PublicCase(
        "MusicVAE (christianazinn)",
        Retold("christianazinn/PolyMusicVAE", "c7f034d30efdadd92a017249d1a208ed41eb34fc", "model.py"),
        TransformerMusicVAE, lambda: (tokens(11, 4, 6, low=1),), (posterior("encoder_to_latent", 5, 10),),
        transformer_music_loss, truth="model.py encode: exp(0.5 logvar) of the second half; the KL averaged",
    ),
    PublicCase(
        "VAE of speech frames",
        Retold("cdancette/zerospeech-vae", "3b551650a53ed0310b1e0e18ec6735c52f22b2f6", "model.py, main.py"),
        FrameVAE, lambda: (rand(6, 12),), (posterior("fc22"),), frame_loss,
        truth="model.py reparameterize: exp(0.5 logvar); KL summed",
    ),
    PublicCase(
        "TimeVAE (wangyz1999)",
        Retold(
            "wangyz1999/timeVAE-pytorch", "7f8193051924d89fa16ecb6e8cdfff7622e950da",
            "src/vae/vae_base.py, src/vae/timevae.py",
        ),
        LevelledVAE, lambda: (randn(5, 8, 3),), (posterior("encoder.z_log_var"),), levelled_loss,
        truth="vae_base.py Sampling: exp(0.5 z_log_var), of a module that is made in each call; KL summed. Training "
        "calls the encoder and the decoder, and its forward decodes the mean",
    ),
    PublicCase(
        "VAE of several series",
        Retold(
            "adiazcarral/MultiTimeVAE", "5d00631ad25f3f2b1a9d8f4a65309a636cee0acd",
            "src/MultiTimeVAE/core/multimodal_vae.py, src/MultiTimeVAE/scripts/train_mmvae.py",
        ),
        ChannelsVAE, lambda: (randn(5, 6, 3),), tuple(posterior(f"encoders.{i}.fc_logvar") for i in range(3)),
        channels_loss, truth="multimodal_vae.py reparameterize: exp(0.5 logvar), for each channel; KLs summed",
    ),
    PublicCase(
        "TimeVAE of semiconductors",
        Retold("louisan1128/timevae_semiconductor", "49124538edc18450f19173edeb2947d5df6d242c", "model.py"),
        MarketVAE, lambda: (randn(5, 6, 3), randn(5, 2, seed=9), randn(5, 2, 6, seed=10), randn(5, 4, 3, seed=11)),
        (posterior("encoder.logvar_layer"), prior("prior.logvar_head")), itself,
        truth="model.py reparameterize: exp(0.5 logvar), and kl_gaussian. Hard to decide: the scale of a Student's t "
        "is no Normal's σ: no head",
    ),
    PublicCase(
        "FCVAE",
        Retold(
            "striim-labs/fcvae-anomaly-detection", "1fd84ff87261b02e1c8e073d4522f7f56064d023", "app/fcvae_model.py",
        ),
        FrequencyCVAE, lambda: (randn(6, 1, 8),),
        (posterior("fc_var.0", sigma=root_softplus_floored), likelihood("fc_var_x.0", sigma=root_softplus)),
        lambda model, x: model(x)[1],
        truth="fcvae_model.py reparameterize: sqrt(1e-7 + softplus) draws, and the KL has no floor; loss_func: a "
        "softplus is the data's variance, of which what is drawn is dropped. Hard to decide: σ is the draw's where a "
        "draw is used, and the density's where not",
    ),
    PublicCase(
        "VAE of observations",
        Retold(
            "goodluckoguzie/WorldModels", "4afd6e963c0f3f617b7217e831e258350c37057e", "VAE/vae.py, 02_train_vae.py",
        ),
        ObservationVAE, lambda: (randn(6, 9),), (posterior("encoder.linear5", sigma=torch.exp),), squares_alone,
        truth="vae.py VariationalEncoder: exp(v) draws; its KL, a slip, is kept and is in no loss",
    ),
    PublicCase(
        "Dreamer (zhixuan-lin)",
        Retold("zhixuan-lin/dreamer-pytorch", "9619cd653532a5857da5c0afcf9d750d66a05f77", "models.py, dreamer.py"),
        WholeDreamer, lambda: (randn(3, 4, 6), randn(3, 4, 2, seed=9), randn(3, 4, seed=10)),
        (
            posterior("dynamics.fc_post.2", 3, 6, tenth), prior("dynamics.fc_prior.2", 3, 6, tenth),
            likelihood("actor.fc_output", 2, 4, raised),
        ), lambda model, *batch: model.update_loss(*batch),
        truth="models.py RSSM: softplus + 0.1; ActionDecoder: softplus(v + 4) + 1e-4, of actions that are drawn and "
        "go into the world, whose density is not taken: a likelihood's, as in earlier looks. Pictures are rows here",
    ),
    PublicCase(
        "SAC (taomo)",
        Retold(
            "taomo/sac-pytorch", "8f42535ff55f48364173c6a86db3c5148cd971ff",
            "models/policy_network.py, models/soft_actor_critic.py, hyp.py",
        ),
        SoftAgent, transitions, (likelihood("policy_network.linear3b", sigma=soft_clamped),),
        lambda model, *batch: model.update(*batch),
        truth="policy_network.py: exp(clamp(v, -20, 2)); one number is drawn for a whole batch; actions are a "
        "likelihood's",
    ),
    PublicCase(
        "PPO (adik993)",
        Retold(
            "adik993/ppo-pytorch", "8ddbad24b859944ab1fca65a308ba5de5707c1f1",
            "envs/converters.py, models/mlp.py, agents/ppo.py",
        ),
        BoxAgent, episodes, (likelihood("policy_out.policy_std", sigma=torch.exp),), box_loss,
        truth="converters.py NormalDistributionModule: exp of a parameter, joined to the mean and parted from it again",
    ),
    PublicCase(
        "CNP (fredchettouh)",
        Retold(
            "fredchettouh/neural-processes", "3259cea7d1608392906f95dcba6899f6ec7911ee",
            "cnp/cnp.py, cnp/networks.py, cnp/helpers.py, cnp/trainer.py",
        ),
        RegressionCNP, lambda: (randn(3, 7, 1), randn(3, 7, 1, seed=9)),
        (likelihood("_decoder._process_input.4", 1, 2, nine_tenths_softplus),), cnp_loss,
        truth="cnp.py network_pass and helpers.py transform_var: 0.1 + 0.9 softplus; there the process is no module",
    ),
    PublicCase(
        "ANP (tlc4418)",
        Retold(
            "tlc4418/neural-processes", "78323846d3f4ab082f495605f7679cf1d2dc15fe",
            "models/anp/anp_model.py, models/modules/encoder.py, models/modules/decoder.py, utils/loss_functions.py",
        ),
        AttentiveProcess,
        lambda: (randn(3, 4, 1), randn(3, 4, 1, seed=9), randn(3, 6, 1, seed=10), randn(3, 6, 1, seed=11)),
        (
            posterior("latent_encoder.log_std", sigma=nine_tenths_sigmoid),
            prior("latent_encoder.log_std", sigma=nine_tenths_sigmoid),
            likelihood("decoder.mlp.2", 1, 2, nine_tenths_softplus),
        ), itself,
        truth="encoder.py LatentEncoder: 0.1 + 0.9 sigmoid; decoder.py: 0.1 + 0.9 softplus; loss_functions.py kl_div: "
        "of the prior from the posterior, a slip. Hard: one layer is posterior and prior at once, as in the first look",
    ),
    PublicCase(
        "VRNN (AC-VRNN)",
        Retold(
            "alessiabertugli/AC-VRNN", "3a204bd23a7b90c3939efc6468fa6477c31a733f",
            "models/vrnn/vrnn_model.py, models/vrnn/train.py",
        ),
        PathVRNN, lambda: (randn(5, 4, 2),),
        (posterior("enc_logvar"), prior("prior_logvar"), likelihood("dec_logvar")), path_vrnn_loss,
        truth="vrnn_model.py: exp(0.5 logvar), _kld_gauss and _nll_gauss; without the best of several samples",
    ),
    PublicCase(
        "StructVRNN",
        Retold(
            "s-tian/struct-vrnn-pytorch", "4a26441c554b8e5042b84b8a443e8a9e890eaa08",
            "struct_vrnn/model/keypoint_vrnn.py, struct_vrnn/model/dynamics.py, struct_vrnn/model/lstm.py, "
            "struct_vrnn/model/keypoint_detector.py",
        ),
        StructuredVRNN, lambda: (rand(3, 4, 3, 8, 8), randn(3, 4, 2, seed=9)),
        (posterior("dynamics.posterior.logvar"), prior("dynamics.prior.logvar")),
        lambda model, *batch: model.train_step(*batch),
        truth="lstm.py: exp(0.5 logvar); dynamics.py kl_divergence. Hard to decide: dynamics.dynamics.logvar draws "
        "what is dropped, so that it is in no loss: no head. The bumps have one fixed width. The separation of "
        "keypoints and the first frame's appearance are left out",
    ),
    PublicCase(
        "DKF (CL-BZH)",
        Retold(
            "CL-BZH/Deep-Kalman-Filters", "913a998d53ae3e0fccff57b98170449442736616",
            "Models/dkf_models.py, Utils/loss_fcts.py, Config/models_conf.yaml",
        ),
        KalmanFilterNet, lambda: (randn(5, 4, 3),),
        (posterior("encoder.mlp.2", 2, 4), prior("p_z.mlp.2", 2, 4), likelihood("decoder.mlp.2", 3, 6)),
        kalman_net_loss,
        truth="dkf_models.py DKF_Sampler: exp(0.5 logvar), of each step, written into a tensor; loss_fcts.py: squares "
        "over exp(v) plus v, twice a density without its constant, and the KL twice, without its constant",
    ),
    PublicCase(
        "DirectedInteractionCVAE",
        Retold(
            "notbox-1/ECE175B-cVAE-prediction-trajectory", "6d546e7c448163e44c7ae1a386e86ea247df1989",
            "train_masbots_cvae.py",
        ),
        DirectedCVAE, lambda: (randn(5, 20), randn(5, 30, seed=9), randn(5, 4, seed=10)),
        (posterior("posterior_logvar", sigma=within_eight), prior("prior_logvar", sigma=within_eight)), directed_loss,
        truth="train_masbots_cvae.py: exp(0.5 clamp(v, -8, 8)), both; kl_normal, averaged",
    ),
    PublicCase(
        "DC-AE of speech",
        Retold("KdaiP/DC-Speech-VAE", "c8f9fc6194e676f4a385e4d74acfc83fbb5bc604", "models/model.py, train.py"),
        FixedNoiseAutoencoder, lambda: (randn(4, 8, 8),), (), dispersed_loss,
        truth="model.py sample_sigma_vae: noise of a strength that is drawn, and not learned; the discriminators, and "
        "the blocks of another package, are left out",
    ),
    PublicCase(
        "PPO of Atari (Aethiles)",
        Retold(
            "Aethiles/ppo-pytorch", "b3fb6bdb466056cf84115ca7b0af21d2b48185ae",
            "source/policy/policy.py, source/policy/parameters.py, source/training/ppo.py",
        ),
        FrameAgent, lambda: (rand(6, 4, 7, 7), tokens(3, 6), -rand(6, seed=9) - 0.6, randn(6, seed=10)), (),
        frame_agent_loss, truth="policy.py: classes",
    ),
    PublicCase(
        "Discrete SAC (alirezakazemipour)",
        Retold(
            "alirezakazemipour/Discrete-SAC-PyTorch", "9da74d48cef1d4bf742185cbdd5653d7b7c67eea",
            "Brain/model.py, Brain/agent.py",
        ),
        DiscreteSoftAgent, lambda: (tokens(256, 6, 2, 7, 7).float(), tokens(3, 6, 1), randn(6, 1, seed=10)), (), itself,
        truth="model.py PolicyNetwork: classes; exp(log_alpha) is a temperature",
    ),
)
# fmt: on
