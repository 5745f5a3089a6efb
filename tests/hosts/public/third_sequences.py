"""A third look: speech, music, video, motion, text, cells, recommenders, time series and control, in our own words.

Each model has the structure of the public code that its case names: which layer emits what, which expression is
computed where, which names, conventions and slips there are; the text is ours and the widths are small. Every truth was
written from reading that code, and committed before any of these models was scanned.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    Laplace,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import UNREAD, bits, itself, kl_to_unit, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- speech and music


class VariationalEncoder(nn.Module):
    """RAVE's: the encoder's last convolution is grouped, one group for means and one for scales."""

    def __init__(self) -> None:
        super().__init__()
        net = [nn.Conv1d(2, 4, 7, padding=3), nn.BatchNorm1d(4), nn.LeakyReLU(0.2), nn.Conv1d(4, 8, 5, 2, 2)]
        self.encoder = nn.Sequential(*net, nn.LeakyReLU(0.2), nn.Conv1d(8, 6, 5, padding=2, groups=2))
        self.beta = 0.1
        self.register_buffer("warmed_up", torch.tensor(0))

    def reparametrize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = z.chunk(2, 1)
        std = F.softplus(scale) + 1e-4
        var = std * std
        logvar = torch.log(var)
        z = torch.randn_like(mean) * std + mean
        return z, self.beta * (mean * mean + var - logvar - 1).sum(1).mean()

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        return z.detach() if self.warmed_up else z


class Rave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = VariationalEncoder()
        self.net, self.wave, self.loud = nn.ConvTranspose1d(3, 4, 4, 2, 1), nn.Conv1d(4, 2, 7, 1, 3), nn.Conv1d(4, 1, 1)
        self.noise = nn.Conv1d(4, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        z, kl = self.encoder.reparametrize(self.encoder(x))
        h = F.leaky_relu(self.net(z), 0.2)
        loudness = 2 * torch.sigmoid(self.loud(h)) ** 2.3 + 1e-7
        amp = 2 * torch.sigmoid(self.noise(h) - 5) ** 2.3 + 1e-7
        y = torch.tanh(self.wave(h)) * loudness + amp * (torch.rand_like(amp) * 2 - 1)
        return F.l1_loss(y, x) + kl


def rave_sigma(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-4


class GatedBlock(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.filter_conv = weight_norm(nn.Conv1d(4, 8, 2, dilation=dilation, padding=dilation))
        self.cond, self.res, self.skip = nn.Conv1d(3, 8, 1), nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (self.filter_conv(x)[:, :, : x.size(2)] + self.cond(c)).chunk(2, 1)
        h = torch.tanh(a) * torch.sigmoid(b)
        return (x + self.res(h)) * math.sqrt(0.5), self.skip(h)


class Wavenet(nn.Module):
    """ClariNet's teacher: a Normal for each sample of the wave."""

    def __init__(self) -> None:
        super().__init__()
        self.front_conv = nn.Sequential(nn.Conv1d(1, 4, 1), nn.ReLU())
        self.res_blocks = nn.ModuleList(GatedBlock(2**i) for i in range(2))
        self.final_conv = nn.Sequential(
            nn.ReLU(), weight_norm(nn.Conv1d(4, 4, 1)), nn.ReLU(), weight_norm(nn.Conv1d(4, 2, 1))
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h, skip = self.front_conv(x), 0
        for block in self.res_blocks:
            h, s = block(h, c)
            skip = skip + s
        return self.final_conv(skip)


def gaussian_loss(y_hat: Tensor, y: Tensor, log_std_min: float = -9.0) -> Tensor:
    y_hat = y_hat.transpose(1, 2)
    mean = y_hat[:, :, :1]
    log_std = torch.clamp(y_hat[:, :, 1:], min=log_std_min)
    nll = -0.5 * (-math.log(2 * math.pi) - 2 * log_std - torch.pow(y - mean, 2) * torch.exp(-2.0 * log_std))
    return nll.squeeze()


def wavenet_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    y_hat = model(x, c)
    return gaussian_loss(y_hat[:, :, :-1], x.transpose(1, 2)[:, 1:]).mean()


def floored_log(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, min=-9.0))


class ChordEncoder(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_in, 5, batch_first=True, bidirectional=True)
        self.linear_mu, self.linear_var = nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Normal:
        x = self.gru(x)[-1]
        x = x.transpose_(0, 1).contiguous()
        x = x.view(x.size(0), -1)
        mu = self.linear_mu(x)
        var = self.linear_var(x).exp_()
        return Normal(mu, var)


class PolyDis(nn.Module):
    """Chord and texture each have a code; what is called the variance is σ."""

    def __init__(self) -> None:
        super().__init__()
        self.chd_encoder, self.rhy_encoder = ChordEncoder(6), ChordEncoder(5)
        self.z2dec, self.gru, self.out = nn.Linear(8, 6), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 6)

    def forward(self, chords: Tensor, roll: Tensor) -> Tensor:
        dist_chd, dist_rhy = self.chd_encoder(chords), self.rhy_encoder(roll)
        z = torch.cat([dist_chd.rsample(), dist_rhy.rsample()], -1)
        h = self.gru(z[:, None].expand(-1, chords.size(1), -1), torch.tanh(self.z2dec(z))[None])[0]
        recon = F.binary_cross_entropy_with_logits(self.out(h), chords)
        unit = Normal(torch.zeros(4), torch.ones(4))
        return recon + 0.1 * (kl_divergence(dist_chd, unit).mean() + kl_divergence(dist_rhy, unit).mean())


class HifiGan(nn.Module):
    """A least-squares adversary over periods, and distances of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(6, 8, 7, 1, 3))
        self.ups = weight_norm(nn.ConvTranspose1d(8, 4, 4, 2, 1))
        self.resblock, self.conv_post = weight_norm(nn.Conv1d(4, 4, 3, 1, 1)), weight_norm(nn.Conv1d(4, 1, 7, 1, 3))
        self.critic = nn.ModuleList(
            [weight_norm(nn.Conv2d(1, 4, (5, 1), (3, 1), (2, 0))), nn.Conv2d(4, 1, (3, 1), 1, (1, 0))]
        )

    def judged(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.pad(x, (0, -x.size(2) % 5), "reflect").view(len(x), 1, -1, 5)
        features = [F.leaky_relu(self.critic[0](x), 0.1)]
        features.append(self.critic[1](features[0]))
        return torch.flatten(features[1], 1, -1), features

    def forward(self, mel: Tensor, wave: Tensor) -> Tensor:
        x = self.ups(F.leaky_relu(self.conv_pre(mel), 0.1))
        x = x + self.resblock(F.leaky_relu(x, 0.1))
        fake = torch.tanh(self.conv_post(F.leaky_relu(x)))
        (_, real_features), (verdict, features) = self.judged(wave), self.judged(fake)
        distance = sum(torch.mean(torch.abs(a - b)) for a, b in zip(real_features, features, strict=True))
        return torch.mean((1 - verdict) ** 2) + 2 * distance


class GradTTS(nn.Module):
    """The encoder's mean is the diffusion's end; its Normal has unit variance. Durations are logarithms."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.proj_m = nn.Embedding(9, 6), nn.Conv1d(6, 4, 1)
        self.proj_w = nn.Sequential(nn.Conv1d(6, 6, 3, 1, 1), nn.ReLU(), nn.Conv1d(6, 1, 1))
        self.estimator = nn.Sequential(nn.Conv1d(9, 8, 3, 1, 1), nn.Mish(), nn.Conv1d(8, 4, 3, 1, 1))

    def forward(self, text: Tensor, y: Tensor, logw_: Tensor) -> Tensor:
        h = self.emb(text).transpose(1, 2)
        mu, logw = self.proj_m(h), self.proj_w(h.detach())
        t = torch.rand(len(y)).clamp(1e-5, 1 - 1e-5)[:, None, None]
        cum = 0.05 * t + 0.5 * (20 - 0.05) * t**2
        variance = 1.0 - torch.exp(-cum)
        z = torch.randn_like(y)
        xt = y * torch.exp(-0.5 * cum) + mu * (1.0 - torch.exp(-0.5 * cum)) + z * torch.sqrt(variance)
        estimate = self.estimator(torch.cat([xt, mu, t.expand(-1, 1, y.size(2))], 1)) * torch.sqrt(variance)
        diff_loss = torch.sum((estimate + z) ** 2) / y.numel()
        prior_loss = torch.sum(0.5 * ((y - mu) ** 2 + math.log(2 * math.pi))) / y.numel()
        return diff_loss + prior_loss + F.mse_loss(logw, logw_)


# ---------------------------------------------------------------------------------------------- video and motion


def mlp(*widths: int) -> nn.Sequential:
    """Each layer after the first is an activation and a linear map in a Sequential of their own, as SRVP has them."""
    blocks = [nn.Sequential(nn.Linear(widths[0], widths[1]))]
    blocks += [nn.Sequential(nn.ReLU(), nn.Linear(a, b)) for a, b in pairwise(widths[1:])]
    return nn.Sequential(*blocks)


def normal_of(raw: Tensor) -> Normal:
    loc, raw_scale = torch.chunk(raw, 2, -1)
    scale = F.softplus(raw_scale) + 1e-8
    return Normal(loc, scale * 1)


class SRVP(nn.Module):
    """A state moved by residuals, each with a code whose prior knows the state; the first state has a code, too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 6), nn.Linear(4, 16)
        self.q_y, self.p_z, self.dynamics = mlp(12, 8, 8), mlp(4, 8, 6), mlp(7, 8, 4)
        self.inf_z, self.q_z = nn.LSTM(6, 8, 1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hx = self.encoder(x.flatten(2))
        q_y_params = self.q_y(hx[:2].permute(1, 0, 2).reshape(x.size(1), 12))
        y, q_params, p_params = [normal_of(q_y_params).rsample()], [], []
        hx_z = self.inf_z(hx)[0]
        for t in range(1, len(x)):
            p_params.append(self.p_z(y[-1]))
            q_params.append(self.q_z(hx_z[t]))
            z = normal_of(q_params[-1]).rsample()
            y.append(y[-1] + 1.0 * self.dynamics(torch.cat([y[-1], z], 1)))
        return self.decoder(torch.stack(y)), q_y_params, torch.stack(q_params), torch.stack(p_params)


def srvp_loss(model: Any, x: Tensor) -> Tensor:
    x_, q_y_params, q_params, p_params = model(x)
    nll = -Normal(x_, 1).log_prob(x.flatten(2)).sum(2).sum(0).mean()
    q_y = normal_of(q_y_params)
    kl_y = kl_divergence(q_y, Normal(torch.zeros_like(q_y.mean), torch.ones_like(q_y.mean))).sum(1).mean()
    return nll + kl_y + kl_divergence(normal_of(q_params), normal_of(p_params)).sum(2).sum(0).mean()


def tiny_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-8


class Framewise(nn.Module):
    """A layer for images on each frame of a video."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        out = self.model(x.contiguous().view(b * t, c, h, w))
        return out.view(b, t, out.shape[-3], out.shape[-2], out.shape[-1])


class ImprovedVRNN(nn.Module):
    """Prior and posterior end in a norm; the log variance is the log of a softplus."""

    def __init__(self) -> None:
        super().__init__()
        self.emb_net, self.render = Framewise(nn.Conv2d(1, 4, 3, 2, 1)), Framewise(nn.ConvTranspose2d(7, 1, 4, 2, 1))
        self.prior_nets, self.posterior_nets = (
            nn.ModuleList(
                [
                    nn.ModuleList(
                        [Framewise(nn.Conv2d(4, 6, 1)), Framewise(nn.Conv2d(6, 6, 1)), Framewise(nn.GroupNorm(1, 6))]
                    )
                ]
            )
            for _ in range(2)
        )

    @staticmethod
    def dist(layers: Any, out: Tensor) -> list[Tensor]:
        for layer in layers:
            out = layer(out)
        mean, var = torch.chunk(out, 2, 2)
        logvar = F.softplus(var * 1.0).log()
        std = torch.exp(0.5 * logvar)
        return [mean, logvar, torch.randn_like(std).mul(std).add_(mean)]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Any], list[Any]]:
        emb = self.emb_net(x)
        priors = [self.dist(net, emb[:, :-1]) for net in self.prior_nets]
        posteriors = [self.dist(net, emb[:, 1:]) for net in self.posterior_nets]
        return self.render(torch.cat([emb[:, :-1], posteriors[0][2]], 2)), priors, posteriors


def diag_logps(mean: Tensor, logvar: Tensor, sample: Tensor) -> Tensor:
    const = 2 * np.pi * torch.ones_like(mean)
    return -0.5 * (torch.log(const) + logvar + (sample - mean) ** 2 / torch.exp(logvar))


def vrnn_loss(model: Any, x: Tensor) -> Tensor:
    preds, priors, posteriors = model(x)
    kl = torch.zeros(())
    for (p_m, p_lv, _), (q_m, q_lv, z) in zip(priors, posteriors, strict=True):
        for t in range(z.shape[1]):
            log_p = diag_logps(p_m[:, t], p_lv[:, t], z[:, t])
            log_q = diag_logps(q_m[:, t], q_lv[:, t], z[:, t])
            kl = kl + (log_q - log_p).sum(-1).sum(-1).sum(-1).mean()
    return F.mse_loss(preds, x[:, 1:], reduction="none").sum((1, 2, 3, 4)).mean() + kl


def root_of_softplus(v: Tensor) -> Tensor:
    return F.softplus(v).sqrt()


class PoseEncoder(nn.Module):
    """The pose enters every layer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(10, 8), nn.Linear(13, 8)
        self.mu, self.logvar = nn.Linear(13, 4), nn.Linear(13, 4)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h1 = F.elu(self.fc1(torch.cat((x, c), dim=1)))
        s = torch.cat((x, F.elu(self.fc2(torch.cat((x, h1), dim=1)))), dim=1)
        mu, logvar = self.mu(s), self.logvar(s)
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std, mu, logvar


class MixedDecoder(nn.Module):
    """Weights are mixtures of experts' by a gate."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.w0, self.b0 = nn.Parameter(0.3 * torch.randn(experts, 9, 8)), nn.Parameter(torch.full((experts, 8), 0.01))
        self.w1, self.b1 = nn.Parameter(0.3 * torch.randn(experts, 12, 5)), nn.Parameter(torch.full((experts, 5), 0.01))
        self.gate = nn.Sequential(nn.Linear(9, 8), nn.ELU(), nn.Linear(8, experts))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        coefficients, out = F.softmax(self.gate(torch.cat((z, c), dim=1)), dim=1), c
        for w, b, act in ((self.w0, self.b0, F.elu), (self.w1, self.b1, None)):
            weight = torch.matmul(coefficients, w.flatten(1, 2)).view(len(c), *w.shape[1:3])
            bias = torch.matmul(coefficients, b).unsqueeze(1)
            out = torch.baddbmm(bias, torch.cat((z, out), dim=1).unsqueeze(1), weight).squeeze(1)
            out = out if act is None else act(out)
        return out


class MotionVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = PoseEncoder(), MixedDecoder()

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, mu, logvar = self.encoder(x, c)
        return self.decoder(z, c), mu, logvar


def motion_vae_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    out, mu, logvar = model(x, c)
    return F.mse_loss(out, x) + 0.2 * kl_to_unit(mu, logvar) / logvar.numel()


class GroupMLP(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
        for a, b in pairwise(widths[1:]):
            layers += [nn.GroupNorm(2, a), nn.ReLU(), nn.Linear(a, b)]
        self.net = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class Humor(nn.Module):
    """The log variance is made a variance at once, which is what the KL takes."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_size, self.encoder, self.prior_net = 3, GroupMLP(10, 8, 8, 6), GroupMLP(5, 8, 8, 6)
        self.decoder = GroupMLP(8, 8, 5)

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = out[:, : self.latent_size], out[:, self.latent_size :]
        return mean, torch.exp(logvar)

    def rsample(self, mu: Tensor, var: Tensor) -> Tensor:
        eps = torch.randn_like(mu)
        return mu + eps * torch.sqrt(var)

    def forward(self, past: Tensor, now: Tensor) -> dict[str, Any]:
        pm, pv = self.moments(self.prior_net(past))
        qm, qv = self.moments(self.encoder(torch.cat([past, now], 1)))
        z = self.rsample(qm, qv)
        out = past + self.decoder(torch.cat([past, z], 1))
        return {"prior_distrib": (pm, pv), "posterior_distrib": (qm, qv), "out": out}


def humor_loss(model: Any, past: Tensor, now: Tensor) -> Tensor:
    pred = model(past, now)
    (qm, qv), (pm, pv) = pred["posterior_distrib"], pred["prior_distrib"]
    kl = 0.5 * (torch.log(pv) - torch.log(qv) + qv / pv + (qm - pm).pow(2) / pv - 1)
    return F.mse_loss(pred["out"], now) + 0.0004 * kl.sum(-1).mean()


class Actor(nn.Module):
    """A transformer over a motion, before which two learned tokens stand: their outputs are mean and log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.muQuery, self.sigmaQuery = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(3, 8))
        self.skelEmbedding, self.actionBiases = nn.Linear(6, 8), nn.Parameter(torch.randn(3, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, activation="gelu")
        self.seqTransEncoder = nn.TransformerEncoder(layer, 2)
        self.seqTransDecoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, activation="gelu"), 1)
        self.finallayer = nn.Linear(8, 6)
        self.register_buffer("pe", 0.1 * torch.randn(20, 1, 8))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> dict[str, Tensor]:
        frames = self.skelEmbedding(x.permute(1, 0, 2))
        seq = torch.cat((self.muQuery[y][None], self.sigmaQuery[y][None], frames), 0)
        seq = seq + self.pe[: len(seq)]
        wide = torch.cat((torch.ones(len(y), 2, dtype=torch.bool), mask), 1)
        final = self.seqTransEncoder(seq, src_key_padding_mask=~wide)
        mu, logvar = final[0], final[1]
        std = torch.exp(logvar / 2)
        z = std.new(*std.size()).normal_().mul(std).add_(mu)
        memory = (z + self.actionBiases[y])[None]
        queries = torch.zeros(x.size(1), *z.shape) + self.pe[: x.size(1)]
        out = self.finallayer(self.seqTransDecoder(tgt=queries, memory=memory, tgt_key_padding_mask=~mask))
        out[~mask.T] = 0
        return {"mu": mu, "logvar": logvar, "output": out.permute(1, 0, 2)}


def actor_loss(model: Any, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    batch = model(x, y, mask)
    rec = F.mse_loss(batch["output"][mask], x[mask])
    return rec + 1e-5 * kl_to_unit(batch["mu"], batch["logvar"])


# ---------------------------------------------------------------------------------------------- trajectories


class FormerNormal:
    """Not torch's: its KL adds a floor to the prior's σ."""

    def __init__(self, params: Tensor) -> None:
        self.mu, self.logvar = torch.chunk(params, chunks=2, dim=-1)
        self.sigma = torch.exp(0.5 * self.logvar)

    def rsample(self) -> Tensor:
        return self.mu + torch.randn_like(self.sigma) * self.sigma

    def kl(self, p: FormerNormal) -> Tensor:
        term1 = (self.mu - p.mu) / (p.sigma + 1e-8)
        term2 = self.sigma / (p.sigma + 1e-8)
        return 0.5 * (term1 * term1 + term2 * term2) - 0.5 - torch.log(term2)


class FutureEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_fc, self.attention, self.q_z_net = nn.Linear(2, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 6)

    def forward(self, data: dict[str, Any]) -> None:
        h = self.input_fc(data["fut_motion"])
        h = h + self.attention(h, data["context_enc"], data["context_enc"])[0]
        data["q_z_dist"] = FormerNormal(params=self.q_z_net(h.mean(0)))
        data["q_z_samp"] = data["q_z_dist"].rsample()


class FutureDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p_z_net, self.rnn, self.out_fc = nn.Linear(8, 6), nn.GRUCell(5, 8), nn.Linear(8, 2)

    def forward(self, data: dict[str, Any]) -> None:
        data["p_z_dist"] = FormerNormal(params=self.p_z_net(data["agent_context"]))
        h, pos, out = data["agent_context"], data["pre_motion"][-1], []
        for _ in range(len(data["fut_motion"])):
            h = self.rnn(torch.cat([pos, data["q_z_samp"]], -1), h)
            pos = pos + self.out_fc(h)
            out.append(pos)
        data["train_dec_motion"] = torch.stack(out)


class AgentFormer(nn.Module):
    """Its parts share a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.context_encoder = nn.GRU(2, 8)
        self.future_encoder, self.future_decoder = FutureEncoder(), FutureDecoder()

    def forward(self, pre: Tensor, fut: Tensor) -> Tensor:
        data: dict[str, Any] = {"pre_motion": pre, "fut_motion": fut}
        data["context_enc"] = self.context_encoder(pre)[0]
        data["agent_context"] = data["context_enc"].mean(0)
        self.future_encoder(data)
        self.future_decoder(data)
        kld = (data["q_z_dist"].kl(data["p_z_dist"]).sum() / fut.size(1)).clamp_min_(0.1)
        return (fut - data["train_dec_motion"]).pow(2).sum() / fut.size(1) + kld


def floored_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v) + 1e-8


class BiTraP(nn.Module):
    """Many goals from one code's Normal, of which the best is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.box_encoder, self.gt_goal_encoder = (
            nn.GRU(4, 8, batch_first=True),
            nn.GRU(2, 4, bidirectional=True, batch_first=True),
        )
        self.node_future_encoder_h = nn.Linear(4, 4)
        self.p_z_x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))
        self.q_z_xy = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))
        self.goal_decoder = nn.Sequential(nn.Linear(11, 8), nn.ReLU(), nn.Linear(8, 2))

    def gaussian_latent_net(self, enc_h: Tensor, state: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        params = self.p_z_x(enc_h)
        mu_p, logvar_p = params[:, :3], params[:, 3:]
        first = self.node_future_encoder_h(state)
        target_h = self.gt_goal_encoder(target, torch.stack([first, torch.zeros_like(first)], dim=0))[1]
        target_h = target_h.permute(1, 0, 2).reshape(len(state), -1)
        params = self.q_z_xy(torch.cat([enc_h, F.dropout(target_h, p=0.25, training=self.training)], dim=-1))
        mu_q, logvar_q = params[:, :3], params[:, 3:]
        kld = 0.5 * (
            (logvar_q.exp() / logvar_p.exp()) + (mu_p - mu_q).pow(2) / logvar_p.exp() - 1 + (logvar_p - logvar_q)
        )
        kld = torch.clamp(kld.sum(dim=-1).mean(), min=0.001)
        noise = torch.randn(enc_h.shape[0], 5, 3)
        std = torch.exp(0.5 * logvar_q)
        return mu_q.unsqueeze(1).repeat(1, 5, 1) + noise * std.unsqueeze(1).repeat(1, 5, 1), kld

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        enc_h = self.box_encoder(x)[1][0]
        z, kld = self.gaussian_latent_net(enc_h, x[:, -1], target)
        goals = self.goal_decoder(torch.cat([enc_h.unsqueeze(1).repeat(1, 5, 1), z], dim=-1))
        best = torch.sqrt(((goals - target[:, -1:]) ** 2).sum(-1) + 1e-12).min(1)[0]
        return best.mean() + kld


class Gmm2D:
    """Two coordinates with a correlation, drawn by a Cholesky factor."""

    def __init__(self, log_pis: Tensor, mus: Tensor, log_sigmas: Tensor, corrs: Tensor) -> None:
        self.log_pis = log_pis - torch.logsumexp(log_pis, dim=-1, keepdim=True)
        self.mus, self.log_sigmas = (v.reshape(*log_pis.shape, 2) for v in (mus, log_sigmas))
        self.sigmas, self.corrs = torch.exp(self.log_sigmas), corrs
        self.one_minus_rho2 = torch.clamp(1 - corrs**2, min=1e-5, max=1)
        below = [self.sigmas[..., 1] * corrs, self.sigmas[..., 1] * torch.sqrt(self.one_minus_rho2)]
        above = [self.sigmas[..., 0], torch.zeros_like(self.log_pis)]
        self.L = torch.stack([torch.stack(above, dim=-1), torch.stack(below, dim=-1)], dim=-2)

    def rsample(self) -> Tensor:
        noise = torch.randn(self.mus.shape)
        return (self.mus + torch.squeeze(torch.matmul(self.L, torch.unsqueeze(noise, -1)), -1)).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        d = value.unsqueeze(-2) - self.mus
        square = torch.sum((d / self.sigmas) ** 2, dim=-1)
        square = square - 2 * self.corrs * torch.prod(d, dim=-1) / torch.prod(self.sigmas, dim=-1)
        norm = 2 * np.log(2 * np.pi) + torch.log(self.one_minus_rho2) + 2 * torch.sum(self.log_sigmas, dim=-1)
        return torch.logsumexp(self.log_pis - (norm + square / self.one_minus_rho2) / 2, dim=-1)


class Trajectron(nn.Module):
    """A discrete code, and a Normal with a correlation for each step."""

    def __init__(self) -> None:
        super().__init__()
        kind = "PEDESTRIAN"
        self.node_modules = nn.ModuleDict(
            {
                f"{kind}/node_history_encoder": nn.LSTM(4, 8, batch_first=True),
                f"{kind}/p_z_x": nn.Linear(8, 3),
                f"{kind}/q_z_xy": nn.Linear(12, 3),
                f"{kind}/decoder/initial_h": nn.Linear(11, 8),
                f"{kind}/decoder/rnn_cell": nn.GRUCell(13, 8),
                f"{kind}/decoder/proj_to_GMM_log_pis": nn.Linear(8, 1),
                f"{kind}/decoder/proj_to_GMM_mus": nn.Linear(8, 2),
                f"{kind}/decoder/proj_to_GMM_log_sigmas": nn.Linear(8, 2),
                f"{kind}/decoder/proj_to_GMM_corrs": nn.Linear(8, 1),
            }
        )

    def at(self, name: str) -> Any:
        return self.node_modules[f"PEDESTRIAN/{name}"]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        enc = self.at("node_history_encoder")(x)[1][0][0]
        p = OneHotCategorical(logits=self.at("p_z_x")(enc))
        q = OneHotCategorical(logits=self.at("q_z_xy")(torch.cat([enc, y.flatten(1)], 1)))
        kinds = torch.eye(3)
        zx = torch.cat([kinds.repeat_interleave(len(x), 0), enc.repeat(3, 1)], dim=1)
        state, a_t, steps = self.at("decoder/initial_h")(zx), x[:, -1, :2].repeat(3, 1), []
        for _ in range(y.size(1)):
            state = self.at("decoder/rnn_cell")(torch.cat([zx, a_t], dim=1), state)
            log_pi, mu = self.at("decoder/proj_to_GMM_log_pis")(state), self.at("decoder/proj_to_GMM_mus")(state)
            log_sigma = self.at("decoder/proj_to_GMM_log_sigmas")(state)
            corr = torch.tanh(self.at("decoder/proj_to_GMM_corrs")(state))
            a_t = Gmm2D(log_pi, mu, log_sigma, corr).rsample()
            steps.append((torch.ones_like(corr), mu, log_sigma, corr))
        shaped = [torch.stack(part, 1).reshape(3, len(x), y.size(1), -1) for part in zip(*steps, strict=True)]
        log_p = torch.clamp(Gmm2D(*shaped).log_prob(y[None]), max=6).sum(-1)
        kl = kl_divergence(q, p).mean().clamp(min=0.07)
        return -(log_p.t() * q.probs).sum(1).mean() + kl


# ---------------------------------------------------------------------------------------------- text


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(x))
        return g * F.relu(self.linear(x)) + (1 - g) * x


class RVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.highway = nn.Embedding(9, 6), Highway()
        self.encoder = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.context = nn.Linear(20, 4)
        self.context_to_mu, self.context_to_logvar = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder, self.fc = nn.LSTM(10, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.encoder(self.highway(self.embedding(text)))[1]
        context = self.context(torch.cat([*cells[0], *cells[1]], 1))
        mu, logvar = self.context_to_mu(context), self.context_to_logvar(context)
        std = torch.exp(0.5 * logvar)
        z = torch.randn([len(text), 4])
        z = z * std + mu
        kld = (-0.5 * torch.sum(logvar - torch.pow(mu, 2) - torch.exp(logvar) + 1, 1)).sum().squeeze()
        words = F.dropout(self.embedding(text[:, :-1]), 0.3)
        out = self.decoder(torch.cat([words, z.unsqueeze(1).expand(-1, words.size(1), -1)], 2))[0]
        return self.fc(out), kld


def rvae_loss(model: Any, text: Tensor) -> Tensor:
    logits, kld = model(text)
    prediction = F.softmax(logits.reshape(-1, 9), 1)
    target = F.one_hot(text[:, 1:], 9).float().view(-1, 9)
    bce = F.binary_cross_entropy(prediction, target, reduction="sum") / logits.size(1)
    return (bce + 0.3 * kld) / len(text)


class LSTMEncoder(nn.Module):
    """One linear map without bias for mean and log variance; several samples a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.linear = (
            nn.Embedding(9, 6),
            nn.LSTM(6, 8, batch_first=True),
            nn.Linear(8, 8, bias=False),
        )

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        text, lengths = batch
        packed = pack_padded_sequence(self.embed(text), lengths.tolist(), batch_first=True)
        mean, logvar = self.linear(self.lstm(packed)[1][0]).chunk(2, -1)
        return mean.squeeze(0), logvar.squeeze(0)

    def encode(self, batch: tuple[Tensor, Tensor], nsamples: int) -> tuple[Tensor, Tensor]:
        mu, logvar = self.forward(batch)
        std = logvar.mul(0.5).exp()
        wide = (len(mu), nsamples, mu.size(1))
        mu_wide, std_wide = mu.unsqueeze(1).expand(*wide), std.unsqueeze(1).expand(*wide)
        z = mu_wide + torch.mul(torch.zeros_like(std_wide).normal_(), std_wide)
        return z, 0.5 * (mu.pow(2) + logvar.exp() - logvar - 1)


class PretrainedText(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = LSTMEncoder(), nn.LSTM(10, 8, batch_first=True)
        self.trans_linear, self.pred_linear = nn.Linear(4, 8, bias=False), nn.Linear(8, 9, bias=False)

    def forward(self, text: Tensor, lengths: Tensor) -> Tensor:
        z, kl = self.encoder.encode((text, lengths), 2)
        kl = torch.where(kl > 0.05, kl, torch.full_like(kl, 0.05)).sum(1)
        words = self.encoder.embed(text[:, :-1]).unsqueeze(1).expand(-1, 2, -1, -1)
        joined = torch.cat([words, z.unsqueeze(2).expand(-1, -1, words.size(2), -1)], -1).flatten(0, 1)
        start = self.trans_linear(z).flatten(0, 1)[None]
        logits = self.pred_linear(self.decoder(joined, (torch.tanh(start), start))[0])
        target = text[:, 1:].unsqueeze(1).expand(-1, 2, -1).reshape(-1)
        rec = F.cross_entropy(logits.flatten(0, 1), target, reduction="none").view(len(text), 2, -1).sum(-1).mean(1)
        return (rec + 0.5 * kl).mean()


class Optimus(nn.Module):
    """A transformer's pooled state is mapped to mean and log variance; a dimension counts once its KL is large "
    "enough."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"body": nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), "linear": nn.Linear(8, 8, bias=False)}
        )
        self.words, self.pooler, self.decoder = nn.Embedding(9, 8), nn.Linear(8, 8), nn.GRU(8, 8, batch_first=True)
        self.past, self.lm_head = nn.Linear(4, 8, bias=False), nn.Linear(8, 9, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        pooled = torch.tanh(self.pooler(self.encoder["body"](self.words(text))[:, 0]))
        mu, logvar = self.encoder["linear"](pooled).chunk(2, -1)
        std = logvar.mul(0.5).exp()
        mu_wide, std_wide = mu.unsqueeze(1).expand(-1, 1, -1), std.unsqueeze(1).expand(-1, 1, -1)
        z = (mu_wide + torch.mul(torch.zeros_like(std_wide).normal_(), std_wide)).squeeze(1)
        loss_kl = 0.5 * (mu.pow(2) + logvar.exp() - logvar - 1)
        kl_mask = (loss_kl > 0.01).float()
        loss_kl = (kl_mask * loss_kl).sum(dim=1)
        h = self.decoder(self.words(text[:, :-1]), self.past(z)[None])[0]
        rec = F.cross_entropy(self.lm_head(h).transpose(1, 2), text[:, 1:], reduction="none").sum(1)
        return (rec + 0.5 * loss_kl).mean()


class Variation(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(n_in, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()
        )
        self.context_to_mu, self.context_to_logsigma = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = self.fc(context)
        mu, logsigma = self.context_to_mu(context), self.context_to_logsigma(context)
        std = torch.exp(0.5 * logsigma)
        epsilon = torch.randn([len(context), 4])
        return epsilon * std + mu, mu, logsigma


class DialogWAE(nn.Module):
    """Noise from context and from context and answer, both moved by a generator; a critic compares what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.utt_encoder, self.decoder = (
            nn.Embedding(9, 6),
            nn.GRU(6, 6, batch_first=True),
            nn.GRU(6, 10, batch_first=True),
        )
        self.prior_net, self.post_net = Variation(6), Variation(12)
        self.post_generator, self.prior_generator = (
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)
        )
        self.discriminator, self.out = (
            nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)),
            nn.Linear(10, 9),
        )

    def forward(self, context: Tensor, answer: Tensor) -> Tensor:
        c, x = self.utt_encoder(self.words(context))[1][0], self.utt_encoder(self.words(answer))[1][0]
        z = self.post_generator(self.post_net(torch.cat((x, c), 1))[0])
        output = self.out(self.decoder(self.words(answer[:, :-1]), torch.cat((z, c), 1)[None])[0])
        reconstruction = F.cross_entropy(output.reshape(-1, 9), answer[:, 1:].reshape(-1))
        z_post = self.post_generator(self.post_net(torch.cat((x.detach(), c.detach()), 1))[0])
        z_prior = self.prior_generator(self.prior_net(c.detach())[0])
        post = torch.mean(self.discriminator(torch.cat((z_post, c.detach()), 1)))
        return reconstruction + torch.mean(self.discriminator(torch.cat((z_prior, c.detach()), 1))) - post


class MosesVAE(nn.Module):
    """Strings of different lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.x_emb = nn.Embedding(9, 6, 0)
        self.encoder_rnn, self.decoder_rnn = (
            nn.GRU(6, 5, batch_first=True, bidirectional=True),
            nn.GRU(10, 8, batch_first=True),
        )
        self.q_mu, self.q_logvar = nn.Linear(10, 4), nn.Linear(10, 4)
        self.decoder_lat, self.decoder_fc = nn.Linear(4, 8), nn.Linear(8, 9)
        self.encoder = nn.ModuleList([self.encoder_rnn, self.q_mu, self.q_logvar])
        self.decoder = nn.ModuleList([self.decoder_rnn, self.decoder_lat, self.decoder_fc])
        self.vae = nn.ModuleList([self.x_emb, self.encoder, self.decoder])

    def forward(self, x: list[Tensor]) -> tuple[Tensor, Tensor]:
        h = self.encoder_rnn(pack_sequence([self.x_emb(i) for i in x]), None)[1]
        h = torch.cat(h[-2:].split(1), dim=-1).squeeze(0)
        mu, logvar = self.q_mu(h), self.q_logvar(h)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        kl_loss = 0.5 * (logvar.exp() + mu**2 - 1 - logvar).sum(1).mean()
        padded = pad_sequence(x, batch_first=True, padding_value=0)
        emb = self.x_emb(padded)
        joined = torch.cat([emb, z.unsqueeze(1).repeat(1, emb.size(1), 1)], dim=-1)
        packed = pack_padded_sequence(joined, [len(i) for i in x], batch_first=True)
        out = pad_packed_sequence(self.decoder_rnn(packed, self.decoder_lat(z)[None])[0], batch_first=True)[0]
        y = self.decoder_fc(out)
        return kl_loss, F.cross_entropy(y[:, :-1].reshape(-1, 9), padded[:, 1:].reshape(-1), ignore_index=0)


def moses_loss(model: Any, x: list[Tensor]) -> Tensor:
    kl, rec = model(x)
    return 0.1 * kl + rec


class InferenceNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layer, self.hiddens = nn.Linear(12, 8), nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Softplus()))
        self.f_mu, self.f_mu_batchnorm = nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False)
        self.f_sigma, self.f_sigma_batchnorm = nn.Linear(8, 4), nn.BatchNorm1d(4, affine=False)
        self.dropout_enc = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout_enc(self.hiddens(F.softplus(self.input_layer(x))))
        return self.f_mu_batchnorm(self.f_mu(x)), self.f_sigma_batchnorm(self.f_sigma(x))


class ProdLDA(nn.Module):
    """The prior's variance is a parameter, and stands in the KL as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inf_net = InferenceNetwork()
        self.prior_mean, self.prior_variance = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.full((4,), 0.75))
        self.beta, self.beta_batchnorm = nn.Parameter(torch.empty(4, 12)), nn.BatchNorm1d(12, affine=False)
        nn.init.xavier_uniform_(self.beta)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        posterior_mu, posterior_log_sigma = self.inf_net(x)
        posterior_sigma = torch.exp(posterior_log_sigma)
        std = torch.exp(0.5 * posterior_log_sigma)
        theta = F.dropout(F.softmax(torch.randn_like(std).mul(std).add_(posterior_mu), dim=1), 0.2)
        word_dist = F.softmax(self.beta_batchnorm(torch.matmul(theta, self.beta)), dim=1)
        return self.prior_mean, self.prior_variance, posterior_mu, posterior_sigma, posterior_log_sigma, word_dist


def prod_lda_loss(model: Any, x: Tensor) -> Tensor:
    prior_mean, prior_variance, mean, variance, log_variance, words = model(x)
    var_division = torch.sum(variance / prior_variance, dim=1)
    diff = prior_mean - mean
    diff_term = torch.sum((diff * diff) / prior_variance, dim=1)
    logdet = prior_variance.log().sum() - log_variance.sum(dim=1)
    kl = 0.5 * (var_division + diff_term - 4 + logdet)
    return (kl - torch.sum(x * torch.log(words + 1e-10), dim=1)).sum()


class ETM(nn.Module):
    """Topics are embedded; a document's is a softmax of a Normal."""

    def __init__(self) -> None:
        super().__init__()
        self.rho, self.alphas, self.t_drop = nn.Linear(5, 12, bias=False), nn.Linear(5, 4, bias=False), nn.Dropout(0.5)
        self.q_theta = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.mu_q_theta, self.logsigma_q_theta = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, bows: Tensor, normalized: Tensor) -> Tensor:
        h = self.t_drop(self.q_theta(normalized))
        mu, logsigma = self.mu_q_theta(h), self.logsigma_q_theta(h)
        kl = -0.5 * torch.sum(1 + logsigma - mu.pow(2) - logsigma.exp(), dim=-1).mean()
        std = torch.exp(0.5 * logsigma)
        theta = F.softmax(torch.randn_like(std).mul_(std).add_(mu), dim=-1)
        beta = F.softmax(self.alphas(self.rho.weight), dim=0).transpose(1, 0)
        res = torch.mm(theta, beta)
        preds = torch.log(res.add(torch.full_like(res, 1e-6)))
        return (-(preds * bows).sum(1)).mean() + kl


# ---------------------------------------------------------------------------------------------- recommenders, cells


class SequentialVAE(nn.Module):
    """What it draws with as log σ, its KL takes as a log variance; numpy draws the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.item_embed, self.gru = nn.Embedding(9, 6), nn.GRU(6, 8, batch_first=True)
        self.encoder, self.linear1 = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 8)
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 9))

    def sample_latent(self, h: Tensor) -> Tensor:
        out = self.linear1(h)
        mu, log_sigma = out[:, :4], out[:, 4:]
        sigma = torch.exp(log_sigma)
        std_z = torch.from_numpy(np.random.normal(0, 1, size=sigma.size())).float()
        self.z_mean, self.z_log_sigma = mu, log_sigma
        return mu + sigma * std_z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rnn = self.gru(self.item_embed(x))[0].reshape(x.numel(), -1)
        out = self.decoder(self.sample_latent(self.encoder(rnn)))
        return out.view(*x.shape, -1), self.z_mean, self.z_log_sigma


def sequential_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    out, mu_q, logvar_q = model(x)
    kld = torch.mean(torch.sum(0.5 * (-logvar_q + torch.exp(logvar_q) + mu_q**2 - 1), -1))
    return 0.2 * kld - torch.sum(y * F.log_softmax(out, -1)) / y[0, 0].sum()


class MacridVAE(nn.Module):
    """One encoder for every concept; the mean has unit length and no place in the KL; the noise is made smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8))
        self.item_embedding, self.k_embedding = nn.Embedding(12, 4), nn.Embedding(3, 4)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        epsilon = torch.zeros_like(std).normal_(mean=0, std=0.075)
        return mu + epsilon * std

    def forward(self, ratings: Tensor) -> tuple[Tensor, list[Tensor]]:
        cores, items = F.normalize(self.k_embedding.weight, dim=1), F.normalize(self.item_embedding.weight, dim=1)
        ratings = F.dropout(F.normalize(ratings), 0.5, training=self.training)
        cates = torch.softmax(torch.matmul(items, cores.transpose(0, 1)) / 0.1, dim=1)
        probs, logvars = torch.zeros(()), []
        for k in range(3):
            cates_k = torch.reshape(cates[:, k], (1, -1))
            h = self.encoder(ratings * cates_k)
            mu, logvar = F.normalize(h[:, :4], dim=1), h[:, 4:]
            logvars.append(logvar)
            z_k = F.normalize(self.reparameterize(mu, logvar), dim=1)
            probs = probs + torch.exp(torch.matmul(z_k, items.transpose(0, 1)) / 0.1) * cates_k
        return torch.log(probs), logvars


def macrid_loss(model: Any, ratings: Tensor) -> Tensor:
    logits, logvars = model(ratings)
    kl = sum(-0.5 * torch.mean(torch.sum(1 + logvar - logvar.exp(), dim=1)) for logvar in logvars)
    return -(F.log_softmax(logits, 1) * ratings).sum(1).mean() + 0.2 * kl


class TrVAE(nn.Module):
    """Conditions are compared by a kernel on what goes into the decoder, cut at zero."""

    def __init__(self) -> None:
        super().__init__()
        fc = [nn.Linear(14, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)]
        self.encoder = nn.ModuleDict(
            {"FC": nn.Sequential(*fc), "linear_means": nn.Linear(8, 4), "linear_log_var": nn.Linear(8, 4)}
        )
        self.first, self.rest = (
            nn.Linear(6, 8, bias=False),
            nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU()),
        )

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        one_hot = F.one_hot(c, 2).float()
        h = self.encoder["FC"](torch.cat((x, one_hot), dim=-1))
        mean, log_var = self.encoder["linear_means"](h), self.encoder["linear_log_var"](h)
        std = torch.exp(0.5 * log_var)
        z = torch.cat((torch.randn_like(std).mul(std).add(mean), one_hot), dim=-1)
        return self.rest(self.first(z)), mean, log_var, F.relu(z)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    distance = ((a[:, None] - b[None]) ** 2).sum(2)
    return sum(torch.exp(-alpha * distance) for alpha in (1e-2, 1e-1, 1.0, 10.0)).mean()


def trvae_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    recon, mean, log_var, y = model(x, c)
    loss = (F.mse_loss(recon, x, reduction="sum") + 0.001 * kl_to_unit(mean, log_var)) / x.size(0)
    a, b = y[c == 0], y[c == 1]
    return loss + kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


class CellVAE(nn.Module):
    """scMM's: Laplace distributions, whose scales share a sum over the dimensions; counts are negative binomial."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(True))
        self.fc21, self.fc22, self.dec = nn.Linear(8, 4), nn.Linear(8, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(True))
        self.fc31, self.fc32 = nn.Linear(8, 12), nn.Linear(8, 12)
        self._pz_params = nn.ParameterList(
            [nn.Parameter(torch.zeros(1, 4), requires_grad=False), nn.Parameter(torch.zeros(1, 4))]
        )

    def forward(self, x: Tensor) -> Tensor:
        read = x.sum(1).repeat(12, 1).t()
        e = self.enc(x / read * 100)
        lv = self.fc22(e).clamp(-12, 12)
        q = Laplace(self.fc21(e), F.softmax(lv, dim=-1) * lv.size(-1) + 1e-6)
        d = self.dec(q.rsample())
        r = torch.exp(self.fc31(d).clamp(-12, 12)) / 100 * read
        p = torch.sigmoid(self.fc32(d)).clamp(1e-7, 1 - 1e-7)
        pz = Laplace(self._pz_params[0], F.softmax(self._pz_params[1], dim=1) * 4)
        return -(NegativeBinomial(r, p).log_prob(x).sum(-1) - kl_divergence(q, pz).sum(-1)).mean()


# ---------------------------------------------------------------------------------------------- time series


class LatentODE(nn.Module):
    """A recognition network that runs backward and whose last output counts; an Euler solver stands for "
    "torchdiffeq's."""

    def __init__(self) -> None:
        super().__init__()
        self.func = nn.Sequential(nn.Linear(4, 8), nn.ELU(inplace=True), nn.Linear(8, 4))
        self.rec = nn.ModuleDict({"i2h": nn.Linear(10, 8), "h2o": nn.Linear(8, 8)})
        self.dec = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))


def log_normal_pdf(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    const = torch.log(torch.from_numpy(np.array([2.0 * np.pi])).float())
    return -0.5 * (const + logvar + (x - mean) ** 2.0 / torch.exp(logvar))


def normal_kl(mu1: Tensor, lv1: Tensor, mu2: Tensor, lv2: Tensor) -> Tensor:
    v1, v2 = torch.exp(lv1), torch.exp(lv2)
    return lv2 / 2.0 - lv1 / 2.0 + ((v1 + (mu1 - mu2) ** 2.0) / (2.0 * v2)) - 0.5


def latent_ode_loss(model: Any, x: Tensor) -> Tensor:
    h = torch.zeros(len(x), 8)
    for t in reversed(range(x.size(1))):
        h = torch.tanh(model.rec["i2h"](torch.cat((x[:, t], h), dim=1)))
        out = model.rec["h2o"](h)
    mean, logvar = out[:, :4], out[:, 4:]
    z = torch.randn(mean.size()) * torch.exp(0.5 * logvar) + mean
    path, z0 = [z], z
    for _ in range(x.size(1) - 1):
        path.append(path[-1] + 0.1 * model.func(path[-1]))
    pred = model.dec(torch.stack(path, 1))
    noise = 2.0 * torch.log(torch.zeros(pred.size()) + 0.3)
    logpx = log_normal_pdf(x, pred, noise).sum(-1).sum(-1)
    zero = torch.zeros(z0.size())
    return torch.mean(-logpx + normal_kl(mean, logvar, zero, zero).sum(-1), dim=0)


class LatentSDE(nn.Module):
    """A learned Normal of the first state, and a path whose diffusion is fixed; the data are Laplace."""

    def __init__(self) -> None:
        super().__init__()
        logvar = math.log(0.5**2 / 2.0)
        for name, value in (("theta", 1.0), ("mu", 0.0), ("sigma", 0.5), ("py0_mean", 0.0), ("py0_logvar", logvar)):
            self.register_buffer(name, torch.tensor([[value]]))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.qy0_mean, self.qy0_logvar = nn.Parameter(torch.tensor([[0.0]])), nn.Parameter(torch.tensor([[logvar]]))

    @property
    def py0_std(self) -> Tensor:
        return torch.exp(0.5 * self.py0_logvar)

    @property
    def qy0_std(self) -> Tensor:
        return torch.exp(0.5 * self.qy0_logvar)

    def forward(self, ts: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        eps = torch.randn(batch, 1).to(self.qy0_std)
        y = self.qy0_mean + eps * self.qy0_std
        qy0, py0 = Normal(self.qy0_mean, self.qy0_std), Normal(self.py0_mean, self.py0_std)
        logqp, ys = kl_divergence(qy0, py0).sum(dim=1), [y]
        dt = 0.1
        for t in ts[:-1]:
            time = torch.full_like(y, float(t))
            f = self.net(torch.cat((torch.sin(time), torch.cos(time), y), dim=-1))
            g, h = self.sigma.repeat(y.size(0), 1), self.theta * (self.mu - y)
            logqp = logqp + 0.5 * torch.norm((f - h) / g, dim=1) ** 2 * dt
            y = y + f * dt + g * math.sqrt(dt) * torch.randn_like(y)
            ys.append(y)
        return torch.stack(ys), logqp.mean(dim=0)


def latent_sde_loss(model: Any, ts: Tensor, data: Tensor) -> Tensor:
    zs, kl = model(ts, 8)
    return -Laplace(loc=zs.squeeze(-1), scale=0.05).log_prob(data[:, None]).sum(dim=0).mean(dim=0) + kl


class GRUObservation(nn.Module):
    """Moves the hidden states of who was observed, by the error in units of σ."""

    def __init__(self, logvar: bool) -> None:
        super().__init__()
        self.logvar, self.gru_d = logvar, nn.GRUCell(6, 8)
        self.w_prep, self.bias_prep = nn.Parameter(0.5 * torch.randn(2, 4, 3)), nn.Parameter(0.1 + torch.zeros(2, 3))

    def forward(self, h: Tensor, p: Tensor, x: Tensor, m: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = torch.chunk(p[rows], 2, dim=1)
        if self.logvar:
            error = (x - mean) / torch.exp(0.5 * var)
            losses = 0.5 * ((torch.pow(error, 2) + var + 2 * np.log(np.sqrt(2 * np.pi))) * m)
        else:
            var = torch.abs(var) + 1e-6
            error = (x - mean) / torch.sqrt(var)
            losses = 0.5 * ((torch.pow(error, 2) + torch.log(var)) * m)
        inputs = torch.stack([x, mean, var, error], dim=2).unsqueeze(2)
        inputs = torch.matmul(inputs, self.w_prep).squeeze(2) + self.bias_prep
        inputs.relu_()
        inputs = (inputs.permute(2, 0, 1) * m).permute(1, 2, 0).contiguous().view(-1, 6)
        temp = h.clone()
        temp[rows] = self.gru_d(inputs, h[rows])
        return temp, losses.sum()


class GRUODEBayes(nn.Module):
    """A hidden state between observations by an equation, at observations by a cell; its output is a Normal at any "
    "time."""

    def __init__(self, logvar: bool) -> None:
        super().__init__()
        self.logvar = logvar
        self.p_model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 4))
        self.lin_x, self.lin_hz, self.lin_hn = (
            nn.Linear(4, 16),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 8, bias=False),
        )
        self.gru_obs, self.covariates_map = GRUObservation(logvar), nn.Sequential(nn.Linear(1, 8), nn.Tanh())

    def step(self, h: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        xz, xn = self.lin_x(p).chunk(2, 1)
        z = torch.sigmoid(xz + self.lin_hz(h))
        n = torch.tanh(xn + self.lin_hn(z * h))
        h = h + 0.1 * (1 - z) * (n - h)
        return h, self.p_model(h)

    def forward(self, cov: Tensor, x: Tensor, m: Tensor, rows: Tensor) -> Tensor:
        h = self.covariates_map(cov)
        p, loss = self.p_model(h), torch.zeros(())
        for t in range(len(x)):
            for _ in range(2):
                h, p = self.step(h, p)
            h, losses = self.gru_obs(h, p, x[t], m[t], rows[t])
            p = self.p_model(h)
            loss = loss + losses + 0.0001 * self.jump(p[rows[t]], x[t], m[t])
        return loss

    def jump(self, p: Tensor, x: Tensor, m: Tensor) -> Tensor:
        mean, var = torch.chunk(p, 2, dim=1)
        std = torch.exp(0.5 * var) if self.logvar else torch.pow(torch.abs(var) + 1e-5, 0.5)
        noise = torch.tensor(1e-2)
        kl = torch.log(noise) - torch.log(std) + (std**2 + (mean - x) ** 2) / (2 * noise**2) - 0.5
        return (kl * m).sum()


def absolute_root(v: Tensor) -> Tensor:
    return torch.sqrt(v.abs() + 1e-6)


class NPLatent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._encoder, self._penultimate_layer = (
            nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)),
            nn.Linear(8, 8),
        )
        self._mean, self._log_var = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Normal, Tensor]:
        mean_repr = torch.relu(self._penultimate_layer(self._encoder(torch.cat([x, y], dim=-1)).mean(dim=1)))
        mean, log_var = self._mean(mean_repr), self._log_var(mean_repr)
        sigma = 0.01 + (1 - 0.01) * torch.sigmoid(log_var * 0.5)
        return Normal(mean, sigma), log_var


class NPDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._target_transform, self._decoder = (
            nn.Linear(8, 8),
            nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 8)),
        )
        self._mean, self._std = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, r: Tensor, z: Tensor, x: Tensor) -> tuple[Normal, Tensor]:
        h = self._decoder(torch.cat([torch.cat([r, z], dim=-1), self._target_transform(x)], dim=-1))
        mean, log_sigma = self._mean(h), self._std(h)
        return Normal(mean, 0.01 + (1 - 0.01) * F.softplus(log_sigma)), log_sigma


class RecurrentNP(nn.Module):
    """An attentive neural process over states of recurrent networks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_x, self._lstm_x, self._lstm_y = (
            nn.BatchNorm1d(1, affine=False),
            nn.LSTM(1, 8, batch_first=True),
            nn.LSTM(1, 8, batch_first=True),
        )
        self._latent_encoder, self._decoder = NPLatent(), NPDecoder()
        self._d_encoder, self._cross = nn.Linear(16, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, cx: Tensor, cy: Tensor, tx: Tensor, ty: Tensor) -> Tensor:
        tx, cx = (self.norm_x(v.permute(0, 2, 1)).permute(0, 2, 1) for v in (tx, cx))
        tx, cx, cy = self._lstm_x(tx)[0], self._lstm_x(cx)[0], self._lstm_y(cy)[0]
        dist_prior, _ = self._latent_encoder(cx, cy)
        dist_post, _ = self._latent_encoder(tx, self._lstm_y(ty)[0])
        z = dist_post.rsample().unsqueeze(1).repeat(1, tx.size(1), 1)
        r = self._cross(tx, cx, self._d_encoder(torch.cat([cx, cy], dim=-1)))[0]
        dist, _ = self._decoder(r, z, tx)
        log_p = dist.log_prob(ty).mean(-1)
        loss_kl = kl_divergence(dist_post, dist_prior).mean(-1)
        return (loss_kl[:, None].expand(log_p.shape) - log_p).mean()


def np_latent_sigma(v: Tensor) -> Tensor:
    return 0.01 + 0.99 * torch.sigmoid(v * 0.5)


def np_output_sigma(v: Tensor) -> Tensor:
    return 0.01 + 0.99 * F.softplus(v)


# ---------------------------------------------------------------------------------------------- worlds and policies


class RecurrentStateSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_state_action, self.fc_rnn_hidden, self.rnn = nn.Linear(5, 8), nn.Linear(8, 8), nn.GRUCell(8, 8)
        self.fc_rnn_hidden_next_embedded_obs = nn.Linear(14, 8)
        self.fc_next_state_mean_prior, self.fc_next_state_stddev_prior = nn.Linear(8, 3), nn.Linear(8, 3)
        self.fc_next_state_mean_posterior, self.fc_next_state_stddev_posterior = nn.Linear(8, 3), nn.Linear(8, 3)

    def prior(self, state: Tensor, action: Tensor, hidden: Tensor) -> tuple[Normal, Tensor]:
        hidden = self.rnn(F.elu(self.fc_state_action(torch.cat([state, action], dim=1))), hidden)
        h = F.elu(self.fc_rnn_hidden(hidden))
        stddev = F.softplus(self.fc_next_state_stddev_prior(h)) + 0.1
        return Normal(self.fc_next_state_mean_prior(h), stddev), hidden

    def posterior(self, hidden: Tensor, embedded: Tensor) -> Normal:
        h = F.elu(self.fc_rnn_hidden_next_embedded_obs(torch.cat([hidden, embedded], dim=1)))
        stddev = F.softplus(self.fc_next_state_stddev_posterior(h)) + 0.1
        return Normal(self.fc_next_state_mean_posterior(h), stddev)


class PlaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rssm = nn.Linear(10, 6), RecurrentStateSpace()
        self.obs_model, self.reward_model = nn.Linear(11, 10), nn.Linear(11, 1)


def planet_loss(model: Any, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    embedded = F.relu(model.encoder(obs))
    state, hidden, kl, states, hiddens = (
        torch.zeros(obs.size(1), 3),
        torch.zeros(obs.size(1), 8),
        torch.zeros(()),
        [],
        [],
    )
    for t in range(len(obs) - 1):
        next_prior, hidden = model.rssm.prior(state, actions[t], hidden)
        next_posterior = model.rssm.posterior(hidden, embedded[t + 1])
        state = next_posterior.rsample()
        kl = kl + kl_divergence(next_posterior, next_prior).sum(dim=1).clamp(min=0.01).mean()
        states.append(state)
        hiddens.append(hidden)
    features = torch.cat([torch.stack(states), torch.stack(hiddens)], -1)
    obs_loss = 0.5 * F.mse_loss(model.obs_model(features), obs[1:], reduction="none").mean([0, 1]).sum()
    return kl / (len(obs) - 1) + obs_loss + 0.5 * F.mse_loss(model.reward_model(features), rewards[1:])


def tenth_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def diag_normal(x: Tensor, min_std: float = 0.1, max_std: float = 2.0) -> Independent:
    mean, std = x.chunk(2, -1)
    std = max_std * torch.sigmoid(std) + min_std
    return Independent(Normal(mean, std), 1)


class PyDreamer(nn.Module):
    """Its KL is taken twice, with a gradient for one side each."""

    def __init__(self) -> None:
        super().__init__()
        self.za_mlp, self.gru, self.encoder = nn.Linear(5, 8), nn.GRUCell(8, 8), nn.Linear(10, 6)
        self.prior_mlp_h, self.prior_norm, self.prior_mlp = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 6)
        self.post_mlp_h, self.post_mlp_e = nn.Linear(8, 8), nn.Linear(6, 8, bias=False)
        self.post_norm, self.post_mlp, self.decoder = nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(11, 10)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        embed = F.elu(self.encoder(obs))
        h, z = torch.zeros(obs.size(1), 8), torch.zeros(obs.size(1), 3)
        posts, hs, features = [], [], []
        for t in range(len(obs)):
            h = self.gru(F.elu(self.za_mlp(torch.cat([z, actions[t]], -1))), h)
            post_in = F.elu(self.post_norm(self.post_mlp_h(h) + self.post_mlp_e(embed[t])))
            posts.append(self.post_mlp(post_in))
            z = diag_normal(posts[-1]).rsample()
            hs.append(h)
            features.append(torch.cat((h, z), -1))
        post, states = torch.stack(posts), torch.stack(hs)
        prior_raw = self.prior_mlp(F.elu(self.prior_norm(self.prior_mlp_h(states))))
        dpost, dprior = diag_normal(post), diag_normal(prior_raw)
        loss_kl = 0.2 * kl_divergence(dpost, diag_normal(prior_raw.detach()))
        loss_kl = loss_kl + 0.8 * kl_divergence(diag_normal(post.detach()), dprior)
        rec = 0.5 * torch.square(self.decoder(torch.stack(features)) - obs).sum(-1)
        return (loss_kl + rec).mean()


def wide_sigmoid(v: Tensor) -> Tensor:
    return 2.0 * torch.sigmoid(v) + 0.1


class DreamActor(nn.Module):
    """Actions that are dreamt: drawn, moved through a model of the world, and judged there."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 4))
        self.world, self.critic = nn.GRUCell(2, 6), nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 1))

    def forward_actor(self, features: Tensor) -> TransformedDistribution:
        mean_, std_ = self.actor(features).chunk(2, -1)
        mean = 5 * torch.tanh(mean_ / 5)
        std = F.softplus(std_) + 0.1
        normal = Independent(Normal(mean, std), 1)
        policy = TransformedDistribution(normal, [TanhTransform()])
        policy.entropy = normal.entropy
        return policy

    def forward(self, features: Tensor) -> Tensor:
        states = [features]
        for _ in range(3):
            states.append(self.world(self.forward_actor(states[-1]).rsample(), states[-1]))
        dreamt = torch.stack(states)
        value_target, policy = self.critic(dreamt[1:]).squeeze(-1), self.forward_actor(dreamt[:-1])
        loss_policy = -value_target
        return (loss_policy - 1e-3 * policy.entropy()).mean()


class GaussianPolicy(nn.Module):
    """pranz24's soft actor-critic."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(4, 8), nn.Linear(8, 8)
        self.mean_linear, self.log_std_linear = nn.Linear(8, 2), nn.Linear(8, 2)
        self.q1, self.q2 = nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.linear2(F.relu(self.linear1(state))))
        log_std = torch.clamp(self.log_std_linear(x), min=-20, max=2)
        return self.mean_linear(x), log_std

    def evaluate(self, state: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
        mean, log_std = self.forward(state)
        normal = Normal(mean, log_std.exp())
        x_t = normal.rsample()
        action = torch.tanh(x_t)
        log_prob = normal.log_prob(x_t) - torch.log(1 - action.pow(2) + epsilon)
        return action, log_prob.sum(-1, keepdim=True)


def soft_policy_loss(model: Any, state: Tensor) -> Tensor:
    action, log_prob = model.evaluate(state)
    both = torch.cat([state, action], 1)
    return (0.2 * log_prob - torch.min(model.q1(both), model.q2(both))).mean()


def clamped(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, -20, 2))


class FixedPPO(nn.Module):
    """The variance is a number that the training loop lowers."""

    def __init__(self) -> None:
        super().__init__()
        self.action_var = torch.full((2,), 0.36)
        self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def evaluate(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.actor(state)
        dist = MultivariateNormal(mean, torch.diag_embed(self.action_var.expand_as(mean)))
        return dist.log_prob(action), self.critic(state), dist.entropy()


def ppo_loss(model: Any, state: Tensor, action: Tensor, reward: Tensor, old: Tensor) -> Tensor:
    logprobs, values, entropy = model.evaluate(state, action)
    ratios, advantages = torch.exp(logprobs - old), reward - values.detach().squeeze(-1)
    surrogate = torch.min(ratios * advantages, torch.clamp(ratios, 0.8, 1.2) * advantages)
    return (-surrogate + 0.5 * F.mse_loss(values.squeeze(-1), reward) - 0.01 * entropy).mean()


class TruncatedNormal(Normal):
    def sample(self, clip: float) -> Tensor:
        eps = torch.randn(self.loc.shape)
        eps *= self.scale
        x = self.loc + torch.clamp(eps, -clip, clip)
        inside = torch.clamp(x, -1 + 1e-6, 1 - 1e-6)
        return x - x.detach() + inside.detach()


class DrQv2(nn.Module):
    """Exploration by a standard deviation of a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 6), nn.LayerNorm(6), nn.Tanh())
        self.policy = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
        self.Q1, self.Q2 = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, obs: Tensor) -> Tensor:
        h = self.trunk(obs)
        mu = torch.tanh(self.policy(h))
        dist = TruncatedNormal(mu, torch.ones_like(mu) * 0.4)
        both = torch.cat([h, dist.sample(clip=0.3)], dim=-1)
        return -torch.min(self.Q1(both), self.Q2(both)).mean()


# ---------------------------------------------------------------------------------------------- other networks


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.g = dim**0.5, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale * self.g


class XTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_emb, self.norm1, self.norm2, self.final = nn.Embedding(9, 8), RMSNorm(8), RMSNorm(8), RMSNorm(8)
        self.to_qkv, self.to_out, self.proj = (
            nn.Linear(8, 24, bias=False),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 24),
        )
        self.ff_out, self.to_logits = nn.Linear(12, 8), nn.Linear(8, 9, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.token_emb(text[:, :-1])
        q, k, v = self.to_qkv(self.norm1(x)).chunk(3, dim=-1)
        sim = torch.einsum("bid,bjd->bij", q, k) * 8**-0.5
        hidden = torch.ones(sim.shape[-2:], dtype=torch.bool).triu(1)
        attn = sim.masked_fill(hidden, -torch.finfo(sim.dtype).max).softmax(dim=-1)
        x = x + self.to_out(attn @ v)
        a, gate = self.proj(self.norm2(x)).chunk(2, dim=-1)
        x = x + self.ff_out(a * F.silu(gate))
        return F.cross_entropy(self.to_logits(self.final(x)).transpose(1, 2), text[:, 1:])


class S4DClassifier(nn.Module):
    """A diagonal state space: step sizes and decays are exponentials of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 4), nn.Linear(4, 3)
        self.C, self.D = nn.Parameter(torch.randn(4, 3, 2)), nn.Parameter(torch.randn(4))
        low, high = math.log(0.001), math.log(0.1)
        self.log_dt = nn.Parameter(torch.rand(4) * (high - low) + low)
        self.log_A_real = nn.Parameter(torch.log(0.5 * torch.ones(4, 3)))
        self.A_imag, self.mix = nn.Parameter(math.pi * torch.arange(3.0).repeat(4, 1)), nn.Conv1d(4, 8, 1)

    def kernel(self, length: int) -> Tensor:
        dt, c = torch.exp(self.log_dt), torch.view_as_complex(self.C)
        a = -torch.exp(self.log_A_real) + 1j * self.A_imag
        dt_a = a * dt.unsqueeze(-1)
        powers = dt_a.unsqueeze(-1) * torch.arange(length)
        c = c * (torch.exp(dt_a) - 1.0) / a
        return 2 * torch.einsum("hn, hnl -> hl", c, torch.exp(powers)).real

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        u = self.encoder(x).transpose(1, 2)
        n = u.size(-1)
        y = torch.fft.irfft(torch.fft.rfft(self.kernel(n), n=2 * n) * torch.fft.rfft(u, n=2 * n), n=2 * n)[..., :n]
        y = F.glu(self.mix(F.gelu(y + u * self.D.unsqueeze(-1))), dim=1)
        return F.cross_entropy(self.decoder(y.mean(-1)), label)


class Mamba(nn.Module):
    """A selective state space: the step size is a softplus of a network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.in_proj, self.out_proj = (
            nn.Embedding(9, 4),
            nn.Linear(4, 16, bias=False),
            nn.Linear(8, 4, bias=False),
        )
        self.conv1d = nn.Conv1d(8, 8, 4, groups=8, padding=3)
        self.x_proj, self.dt_proj = nn.Linear(8, 7, bias=False), nn.Linear(1, 8)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, 4.0).repeat(8, 1)))
        self.D, self.head = nn.Parameter(torch.ones(8)), nn.Linear(4, 9)

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.emb(text[:, :-1])
        x, z = self.in_proj(hidden).transpose(1, 2).chunk(2, dim=1)
        x = F.silu(self.conv1d(x)[..., : hidden.size(1)])
        dt, b, c = torch.split(self.x_proj(x.transpose(1, 2)), [1, 3, 3], dim=-1)
        dt, a = F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log)
        state, ys = torch.zeros(len(text), 8, 3), []
        for t in range(hidden.size(1)):
            step = dt[:, t, :, None]
            state = torch.exp(step * a) * state + step * b[:, t, None] * x[:, :, t, None]
            ys.append((state * c[:, t, None]).sum(-1) + self.D * x[:, :, t])
        y = torch.stack(ys, 1) * F.silu(z.transpose(1, 2))
        return F.cross_entropy(self.head(hidden + self.out_proj(y)).transpose(1, 2), text[:, 1:])


class VariancePredictor(nn.Module):
    """It predicts how pitch and energy vary; it has no variance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d_1, self.layer_norm_1, self.linear_layer = nn.Conv1d(6, 6, 3, 1, 1), nn.LayerNorm(6), nn.Linear(6, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out = F.dropout(self.layer_norm_1(F.relu(self.conv1d_1(x.transpose(1, 2)).transpose(1, 2))), 0.5)
        return self.linear_layer(out).squeeze(-1).masked_fill(mask, 0.0)


class FastSpeech2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.body, self.mel_linear = (
            nn.Embedding(9, 6),
            nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
            nn.Linear(6, 5),
        )
        self.duration_predictor, self.pitch_predictor = VariancePredictor(), VariancePredictor()
        self.pitch_embedding = nn.Embedding(8, 6)
        self.register_buffer("pitch_bins", torch.linspace(-2, 2, 7))

    def forward(self, text: Tensor, mask: Tensor, pitch: Tensor, duration: Tensor, mel: Tensor) -> Tensor:
        h = self.body(self.emb(text), src_key_padding_mask=mask)
        log_d, predicted = self.duration_predictor(h, mask), self.pitch_predictor(h, mask)
        h = h + self.pitch_embedding(torch.bucketize(pitch, self.pitch_bins))
        keep = ~mask
        loss = F.mse_loss(log_d[keep], torch.log(duration.float() + 1)[keep]) + F.mse_loss(predicted[keep], pitch[keep])
        return loss + F.l1_loss(self.mel_linear(h)[keep], mel[keep])


# ---------------------------------------------------------------------------------------------- inputs


def sentences(batch: int = 5, length: int = 6) -> tuple[Tensor, ...]:
    return (tokens(9, batch, length),)


def counts() -> Tensor:
    return tokens(5, 6, 12, low=0).float()


def documents() -> tuple[Tensor, ...]:
    return (counts(),)


def observed() -> tuple[Tensor, ...]:
    rows = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(t))[:3] for t in range(3)])
    return rand(5, 1), 0.05 * randn(3, 3, 2), bits(3, 3, 2), rows


def paths() -> tuple[Tensor, ...]:
    return randn(4, 5, 2), randn(3, 5, 2, seed=9)


def moves() -> tuple[Tensor, ...]:
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[0, 3:] = False
    return randn(4, 5, 6), tokens(3, 4), mask


def spoken() -> tuple[Tensor, ...]:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return tokens(9, 3, 6), mask, randn(3, 6), tokens(6, 3, 6, low=1), randn(3, 6, 5, seed=9)


NORMAL_ACTIONS = "drawn actions: a likelihood by the earlier looks' rule"

# fmt: off
CASES = (
    PublicCase(
        "RAVE",
        Retold("acids-ircam/RAVE", "f048ec4569afba7c6ba38d590be8a07b8ab24840", "rave/blocks.py"),
        Rave, lambda: (0.3 * randn(3, 2, 16),), (posterior("encoder.encoder.5", 3, 6, rave_sigma),), itself,
        truth="rave/blocks.py:725-734 σ = softplus(v) + 1e-4; the KL lacks the factor of one half",
    ),
    PublicCase(
        "ClariNet teacher",
        Retold("ksw0306/ClariNet", "191e766898af6c48ceb1368b223149538cd6abb2", "wavenet.py, loss.py"),
        Wavenet, lambda: (0.3 * randn(3, 1, 12), randn(3, 3, 12)),
        (likelihood("final_conv.3", 1, 2, floored_log),), wavenet_loss,
        truth="loss.py gaussian_loss: log σ clamped below at -9, after a transpose",
    ),
    PublicCase(
        "PolyDis",
        Retold(
            "ZZWaang/polyphonic-chord-texture-disentanglement", "20acb9848aab257eab1db11f146cb42fa42c009c",
            "ptvae.py",
        ),
        PolyDis, lambda: (bits(5, 4, 6), bits(5, 4, 5, seed=9)),
        (posterior("chd_encoder.linear_var", sigma=torch.exp), posterior("rhy_encoder.linear_var", sigma=torch.exp)),
        itself,
        truth=f"ptvae.py RnnEncoder, TextureEncoder: Normal(mu, exp(v)), in place, whatever it is called; {UNREAD}",
    ),
    PublicCase(
        "HiFi-GAN",
        Retold("jik876/hifi-gan", "4769534d45265d52a904b850da5a622601885777", "models.py"),
        HifiGan, lambda: (randn(3, 6, 6), 0.3 * randn(3, 1, 12)), (), itself, truth="models.py: adversaries",
    ),
    PublicCase(
        "Grad-TTS",
        Retold("huawei-noah/Speech-Backbones", "7782c7a223dd25df47b4538698ee9756774e2924", "Grad-TTS/model/tts.py"),
        GradTTS, lambda: (tokens(9, 3, 6), randn(3, 4, 6), rand(3, 1, 6)), (), itself,
        truth="Grad-TTS/model/tts.py:178 a Normal of unit variance; the diffusion's is of the time alone",
    ),
    PublicCase(
        "FastSpeech 2",
        Retold("ming024/FastSpeech2", "d4e79eb52e8b01d24703b2dfc0385544092958f3", "model/modules.py"),
        FastSpeech2, spoken, (), itself,
        truth="model/modules.py:197 VariancePredictor: pitch, energy and log duration, by MSE",
    ),
    PublicCase(
        "SRVP",
        Retold(
            "edouardelasalles/srvp", "07b1596893fd6c8044e03e770ea831ab8c3eff95",
            "module/srvp.py, module/utils.py, module/mlp.py",
        ),
        SRVP, lambda: (rand(4, 3, 1, 4, 4),),
        (
            posterior("q_y.1.1", 4, 8, tiny_softplus), posterior("q_z", 3, 6, tiny_softplus),
            prior("p_z.1.1", 3, 6, tiny_softplus),
        ), srvp_loss,
        truth="module/utils.py make_normal_from_raw_params: σ = softplus(v) + 1e-8, called anew for sample and KL",
    ),
    PublicCase(
        "Improved VRNN",
        Retold(
            "facebookresearch/improved_vrnn", "c370ede10e7c0397ef8bdea1a20d54a45cd03af5",
            "models/vrnn.py, layers.py, losses.py",
        ),
        ImprovedVRNN, lambda: (rand(3, 4, 1, 8, 8),),
        (
            posterior("posterior_nets.0.2.model", 3, 6, root_of_softplus),
            prior("prior_nets.0.2.model", 3, 6, root_of_softplus),
        ), vrnn_loss,
        truth="models/vrnn.py:271-280 logvar = log(softplus(v)), behind a GroupNorm, chunked along the third dimension",
    ),
    PublicCase(
        "Motion VAE",
        Retold(
            "electronicarts/character-motion-vaes", "3417d5b7a897d0cb222218d3bb320e76e8119274",
            "vae_motion/models.py",
        ),
        MotionVAE, lambda: (randn(6, 5), randn(6, 5, seed=9)), (posterior("encoder.logvar"),), motion_vae_loss,
        truth=f"vae_motion/models.py Encoder.reparameterize: std = exp(0.5 logvar); {UNREAD}",
    ),
    PublicCase(
        "HuMoR",
        Retold(
            "davrempe/humor", "fc6ef84f0baa153be15427402e0147ed1a63a11a",
            "humor/models/humor_model.py, humor/losses/humor_loss.py",
        ),
        Humor, lambda: (randn(6, 5), randn(6, 5, seed=9)),
        (posterior("encoder.net.6", 3, 6), prior("prior_net.net.6", 3, 6)), humor_loss,
        truth="humor_model.py:414-442 var = exp(logvar), σ = sqrt(var); humor_loss.py:359 the KL takes logs of "
        "variances",
    ),
    PublicCase(
        "ACTOR",
        Retold("Mathux/ACTOR", "c7237e82e333bf2c57f7d8e12f27d0831233befc", "src/models/architectures/transformer.py"),
        Actor, moves, (posterior("seqTransEncoder.layers.1.norm2", 1, 2),), actor_loss,
        truth="transformer.py Encoder_TRANSFORMER: logvar is the second position of the sequence, all features: the "
        "range is "
        "along the first dimension; emitted by the last norm of the last layer",
    ),
    PublicCase(
        "AgentFormer",
        Retold(
            "Khrylx/AgentFormer", "e4fe8dd6df3b3d2033665c5f8ac3544e81c44db5",
            "model/agentformer.py, model/common/dist.py",
        ),
        AgentFormer, paths,
        (posterior("future_encoder.q_z_net", 3, 6), prior("future_decoder.p_z_net", 3, 6, floored_half)), itself,
        truth="model/common/dist.py: sigma = exp(0.5 logvar), plus 1e-8 for the prior's wherever the KL has it",
    ),
    PublicCase(
        "BiTraP",
        Retold(
            "umautobots/bidireaction-trajectory-prediction", "08121d77b1ac59fc2f31af68a799015bba832701",
            "bitrap/modeling/bitrap_np.py",
        ),
        BiTraP, lambda: (randn(5, 4, 4), randn(5, 3, 2, seed=9)),
        (posterior("q_z_xy.4", 3, 6), prior("p_z_x.4", 3, 6)), itself,
        truth="bitrap_np.py:99-138 both log variances; K samples by repeat",
    ),
    PublicCase(
        "Trajectron++",
        Retold(
            "StanfordASL/Trajectron-plus-plus", "1031c7bd1a444273af378c1ec1dcca907ba59830",
            "trajectron/model/mgcvae.py, trajectron/model/components/gmm2d.py",
        ),
        Trajectron, lambda: (randn(4, 5, 4), randn(4, 2, 2, seed=9)),
        (likelihood("node_modules.PEDESTRIAN/decoder/proj_to_GMM_log_sigmas", sigma=torch.exp),), itself,
        truth="gmm2d.py: sigmas = exp(log_sigmas), two coordinates with a correlation; the code is categorical. "
        "Without the "
        "dynamics that integrate velocities",
    ),
    PublicCase(
        "RVAE (kefirski)",
        Retold("kefirski/pytorch_RVAE", "015ebcc5a8c946015af653e67a175102af9ad0c0", "model/rvae.py"),
        RVAE, sentences, (posterior("context_to_logvar"),), rvae_loss, truth="model/rvae.py: std = exp(0.5 logvar)",
    ),
    PublicCase(
        "VAE with a pretrained encoder",
        Retold(
            "bohanli/vae-pretraining-encoder", "bd4affa07bb01d7c673852ae1ec615f6bcae47ae",
            "modules/encoders/enc_lstm.py, modules/encoders/gaussian_encoder.py",
        ),
        PretrainedText, lambda: (tokens(9, 4, 6), torch.tensor([6, 5, 4, 3])),
        (posterior("encoder.linear", 4, 8),), itself,
        truth="gaussian_encoder.py: std = exp(0.5 logvar), two samples each; the first dimension is the LSTM's "
        "layers; free bits "
        "for each dimension",
    ),
    PublicCase(
        "Optimus",
        Retold("ChunyuanLI/Optimus", "f3190fe82578f91929ac4984aa8868b61a3eee22", "code/examples/big_ae/modules/vae.py"),
        Optimus, sentences, (posterior("encoder.linear", 4, 8),), itself,
        truth="modules/vae.py, fb_mode 1: the KL is masked where it is small",
    ),
    PublicCase(
        "DialogWAE",
        Retold("guxd/DialogWAE", "29f206af05bfe5fe28fec4448e208310a7c9258d", "modules.py, models/dialogwae.py"),
        DialogWAE, lambda: (tokens(9, 5, 6), tokens(9, 5, 5, seed=9)),
        (posterior("post_net.context_to_logsigma"), prior("prior_net.context_to_logsigma")), itself,
        truth="modules.py:183 std = exp(0.5 logsigma); no KL and no density: which is the prior says the critic's "
        "sign alone",
    ),
    PublicCase(
        "MOSES VAE",
        Retold("molecularsets/moses", "dd7ed6ab38e23afd3ef5371d67939a1760bd8599", "moses/vae/model.py"),
        MosesVAE, lambda: ([tokens(9, n, low=1, seed=n) for n in (7, 6, 4, 3)],), (posterior("q_logvar"),), moses_loss,
        truth="moses/vae/model.py forward_encoder: exp(logvar / 2); its modules are registered more than once",
    ),
    PublicCase(
        "ProdLDA with learned priors",
        Retold(
            "estebandito22/PyTorchAVITM", "f878fbf2378d13a0ba70c0e7bf22b836de40c497",
            "pytorchavitm/avitm/decoder_network.py, inference_network.py, avitm.py",
        ),
        ProdLDA, documents, (posterior("inf_net.f_sigma_batchnorm"), prior("prior_variance", sigma=torch.sqrt)),
        prod_lda_loss,
        truth="decoder_network.py: std = exp(0.5 log_sigma), behind a batch norm; the prior's variance is a parameter "
        "itself",
    ),
    PublicCase(
        "ETM",
        Retold("adjidieng/ETM", "81b839f16d3c168ac2c5c22daff18d924962c075", "etm.py"),
        ETM, lambda: (counts(), counts() / counts().sum(1, keepdim=True)), (posterior("logsigma_q_theta"),), itself,
        truth="etm.py: std = exp(0.5 logvar), whatever it is called",
    ),
    PublicCase(
        "SVAE for recommendation",
        Retold("noveens/svae_cf", "995c29308ac98db13210da50334f6c4f050c4480", "main_svae.ipynb"),
        SequentialVAE, lambda: (tokens(9, 1, 6), bits(1, 6, 9) + F.one_hot(tokens(9, 1, 6), 9)),
        (posterior("linear1", 4, 8, torch.exp),), sequential_loss,
        truth="main_svae.ipynb: drawn with σ = exp(v), numpy's noise; a slip: the KL takes v as log variance. σ is "
        "what draws",
    ),
    PublicCase(
        "MacridVAE",
        Retold(
            "RUCAIBox/RecBole", "0c34a02313b6636d094ea73a889ed1b27961c82d",
            "recbole/model/general_recommender/macridvae.py",
        ),
        MacridVAE, lambda: (bits(6, 12) + torch.eye(12)[:6],), (posterior("encoder.2", 4, 8),), macrid_loss,
        truth="macridvae.py: std = exp(0.5 logvar), of noise that is scaled by 0.075 on top; the KL has no mean. With "
        "nogb, the "
        "paper's switch for soft concepts",
    ),
    PublicCase(
        "trVAE",
        Retold(
            "theislab/trvaep", "8bfe2dc1553dc1a536113cffbe428d3eb9c96579",
            "trvaep/model/_cvae.py, trvaep/model/helper_module.py",
        ),
        TrVAE, lambda: (torch.log1p(counts()), torch.tensor([0, 1, 0, 1, 0, 1])),
        (posterior("encoder.linear_log_var"),), trvae_loss,
        truth="_cvae.py sampling: std = exp(0.5 log_var)",
    ),
    PublicCase(
        "scMM, RNA",
        Retold("kodaim1115/scMM", "c5c8579dd088883a31f220170c39393084ff4c03", "src/models/vae_rna.py"),
        CellVAE, lambda: (counts() + 1,), (), itself,
        truth="vae_rna.py: Laplace posterior and prior, negative binomial counts",
    ),
    PublicCase(
        "Latent ODE example",
        Retold("rtqichen/torchdiffeq", "530b8b6a379cc105f8e48220ed4195c4ae5e2b01", "examples/latent_ode.py"),
        LatentODE, lambda: (randn(5, 6, 2),), (posterior("rec.h2o", 4, 8),), latent_ode_loss,
        truth="examples/latent_ode.py: qz0_logvar of the last of many calls; the noise of the data is a number",
    ),
    PublicCase(
        "Latent SDE example",
        Retold("google-research/torchsde", "15f2373f333dc4efbad11d3930fe3113c9383080", "examples/latent_sde.py"),
        LatentSDE, lambda: (torch.linspace(0, 0.5, 6), randn(6)), (posterior("qy0_logvar"),), latent_sde_loss,
        truth="examples/latent_sde.py: a parameter; prior and diffusion lie in buffers, the likelihood is a Laplace's",
    ),
    PublicCase(
        "GRU-ODE-Bayes, log variance",
        Retold("edebrouwer/gru_ode_bayes", "19b236fff0caa8469fbb93054bda488568bdaaff", "gru_ode_bayes/models.py"),
        lambda: GRUODEBayes(True), observed, (likelihood("p_model.3", 2, 4),), itself,
        truth="models.py GRUObservationCellLogvar: σ = exp(0.5 logvar) of the rows that were observed; "
        "compute_KL_loss compares "
        "the Normal after the jump with the observation",
    ),
    PublicCase(
        "GRU-ODE-Bayes, variance",
        Retold("edebrouwer/gru_ode_bayes", "19b236fff0caa8469fbb93054bda488568bdaaff", "gru_ode_bayes/models.py"),
        lambda: GRUODEBayes(False), observed, (likelihood("p_model.3", 2, 4, absolute_root),), itself,
        truth="models.py GRUObservationCell: variance |v| + 1e-6; compute_KL_loss adds 1e-5 instead",
    ),
    PublicCase(
        "ANP with RNNs",
        Retold(
            "wassname/attentive-neural-processes", "0b762e16ab02022154a242e68dfa781289e67c8a",
            "neural_processes/models/neural_process/model.py",
        ),
        RecurrentNP, lambda: (randn(4, 5, 1), randn(4, 5, 1, seed=9), randn(4, 7, 1, seed=10), randn(4, 7, 1, seed=11)),
        (
            posterior("_latent_encoder._log_var", sigma=np_latent_sigma),
            prior("_latent_encoder._log_var", sigma=np_latent_sigma),
            likelihood("_decoder._std", sigma=np_output_sigma),
        ), itself,
        truth="model.py: σ = 0.01 + 0.99 sigmoid(v / 2) of an encoder that is posterior and prior, 0.01 + 0.99 "
        "softplus(v) of "
        "the decoder; two heads of one layer, as in the earlier looks",
    ),
    PublicCase(
        "PlaNet (cross32768)",
        Retold("cross32768/PlaNet_PyTorch", "03cffd69f2ac57c2ec456c3429fc4a365855a259", "model.py"),
        PlaNet, lambda: (randn(4, 3, 10), randn(4, 3, 2, seed=9), randn(4, 3, 1, seed=10)),
        (
            posterior("rssm.fc_next_state_stddev_posterior", sigma=tenth_softplus),
            prior("rssm.fc_next_state_stddev_prior", sigma=tenth_softplus),
        ), planet_loss,
        truth=f"model.py: σ = softplus(v) + 0.1; {UNREAD}",
    ),
    PublicCase(
        "PyDreamer RSSM, normal",
        Retold(
            "jurgisp/pydreamer", "8a4ea85a925b57ddf24a221b41dfb3257f89d63a",
            "pydreamer/models/rssm.py, functions.py, dreamer.py",
        ),
        PyDreamer, lambda: (randn(4, 3, 10), randn(4, 3, 2, seed=9)),
        (posterior("post_mlp", 3, 6, wide_sigmoid), prior("prior_mlp", 3, 6, wide_sigmoid)), itself,
        truth="functions.py:46 σ = 2 sigmoid(v) + 0.1; dreamer.py:337 the KL twice, with one side detached each",
    ),
    PublicCase(
        "PyDreamer actor, tanh_normal",
        Retold(
            "jurgisp/pydreamer", "8a4ea85a925b57ddf24a221b41dfb3257f89d63a",
            "pydreamer/models/a2c.py, functions.py",
        ),
        DreamActor, lambda: (randn(5, 6),), (likelihood("actor.2", 2, 4, tenth_softplus),), itself,
        truth=f"functions.py:69 σ = softplus(v) + 0.1, entropy of the Normal without its tanh; {NORMAL_ACTIONS}",
    ),
    PublicCase(
        "SAC (pranz24)",
        Retold("pranz24/pytorch-soft-actor-critic", "086f9fe36cee06c7f6d1b45804b09c8b0404fbc2", "model.py"),
        GaussianPolicy, lambda: (randn(6, 4),), (likelihood("log_std_linear", sigma=clamped),), soft_policy_loss,
        truth=f"model.py evaluate: log σ clamped to [-20, 2]; {NORMAL_ACTIONS}; {UNREAD}",
    ),
    PublicCase(
        "PPO with a fixed variance",
        Retold("nikhilbarhate99/PPO-PyTorch", "728cce83d7ab628fe2634eabcdf3239997eb81dd", "PPO.py"),
        FixedPPO, lambda: (randn(6, 4), randn(6, 2, seed=9), randn(6, seed=10), randn(6, seed=11) - 2), (), ppo_loss,
        truth="PPO.py: action_var is a tensor that nothing trains",
    ),
    PublicCase(
        "DrQ-v2",
        Retold("facebookresearch/drqv2", "c0c650b76c6e5d22a7eb5f2edffd1440fe94f8ef", "drqv2.py, utils.py"),
        DrQv2, lambda: (randn(6, 10),), (), itself, truth="drqv2.py:90 the standard deviation is a schedule's",
    ),
    PublicCase(
        "x-transformers",
        Retold(
            "lucidrains/x-transformers", "9252ed7838021ee61e6c5be0930b3a9a88efdf06",
            "x_transformers/x_transformers.py",
        ),
        XTransformer, sentences, (), itself, truth="x_transformers.py: RMS norms, attention, gates",
    ),
    PublicCase(
        "S4D",
        Retold("state-spaces/s4", "e757cef57d89e448c413de7325ed5601aceaac13", "models/s4/s4d.py"),
        S4DClassifier, lambda: (randn(5, 8, 2), tokens(3, 5)), (), itself,
        truth="s4d.py: exp(log_dt), exp(log_A_real) make a kernel",
    ),
    PublicCase(
        "Mamba",
        Retold("state-spaces/mamba", "e9594ce1c732d97440f0332fdc43170a2294dbfa", "mamba_ssm/modules/mamba_simple.py"),
        Mamba, sentences, (), itself, truth="mamba_simple.py: softplus of dt is a step, exp(A_log) a decay",
    ),
)
# fmt: on
