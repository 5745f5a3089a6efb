"""A seventh look: mixtures, forecasts, recurrent codes, states, worlds, policies, tasks, processes, paths, speech,
music, text, weights, flows, equations and recommendation, in our own words, sampled as an ordinary user's would be.

The fields were fixed first. For each a word was looked for in the names of repositories, and the list taken in the
index's order (the most file versions first): of it the first that is PyTorch, trains a model of its own with its own
loss, and is in no earlier look; its main model, with its main configuration. Where a word's list was of other things
("mdn", "vits", "dreamer", "maml", "svgp", "forecast", "world-model", "state-space"), a narrower word took its place, or
another of the field; and of two words of one field one list was used ("latent-sde", not "neural-sde"; "deepar-", not
"probabilistic-forecast"; "varibad", not "meta-rl"; "voice-conversion", not "voice-conversion-vae"). Where a
configuration without a Normal is the default, it is taken as a control, and the first with a Normal beside it.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned, by somebody who had not read the scan's, but who knew which faults earlier looks had found.

"mixture-density": `diningphil/graph-mixture-density-networks` (`tonyduan/mixture-density-network`, which follows, is of
an earlier look). "deepar-": `FCWVivian/deepar-m5-forecasting` (its law is a negative binomial's) taken as a control,
then `mrrahman1517/deepAR-Implementation` and `duckbill/DeepAR-torch`; those between are an app's filters, TensorFlow or
a service. "vrnn": `vojtsek/VRNN-generation` passed (its default code is categorical, what else it draws it drops),
`frhrdr/vrnn`, `eastene/vRNN-PyCUDA` and `Liang-Qiu/SVRNN-dialogues` passed (no PyTorch), `tsmyu/PO-MC-DHVRNN` taken.
"kalman-v": `rodrigo-paganini/kalman-vae`. "deep-markov": `yjlolo/pytorch-deep-markov-model` passed (an earlier look),
`atubito98/deep-markov-model` taken. "lstm-vae": `HenglinShi/Bidirectional-LSTM-VAE` and
`brianyudiva/lstm-vae-gan-smart-grid` passed (no PyTorch), `jp4474/Bayesian-Informed-LSTM-VAE-for-Variational-Inference`
taken. "rssm": of those whose names say networks `nikhil-verma-ai/bvh-rssm` passed (classes alone),
`Grzmro/dreamer-rssm` taken, its worlds of both kinds and its actor. "planet-pytorch":
`Chiensaucisse/PLAnet-pytorch-implementation`. "ppo-continuous": `XinJingHao/PPO-Continuous-Pytorch`, its default and
its first Normal. "actor-critic": `BlueFisher/Advanced-Soft-Actor-Critic`, policy and transition. "varibad":
`aliang8/varibad_jax` passed (JAX), `lmzintgraf/varibad`, its code and its policy. "neural-process":
`yuneg11/Neural-Process-Family` passed (JAX), `YannDubs/Semi-Supervised-Neural-Processes` taken. "cvae-traj":
`aryanipb/tcn-cvae-trajectory-forecasting`. "music-vae": `rshube/music-vae`. "sentence-vae": `shota3506/sentence-VAE`.
"glow-tts": passed (`rhasspy/glow-tts-train` names its origin, which an earlier look has). "bayes-by-backprop":
`parachutel/bayes-by-backprop`. "normalizing-flow": `VincentStimper/normalizing-flows`, its example of a VAE.
"latent-ode": `SamKhan32/argo-latent-ode`, and `micmich05/latent-ode-dynamics` as a control. "latent-sde":
`zheniannn/C5-VAESDE-LATENT-SDE`. "multvae": `gescobedo/advx-multvae`. "vae-cf": `lzz0007/vae-cf-pytorch`, of whose
models the first is the original's, which earlier looks have, and the second taken. "timeseries-vae" passed (no
network), "motion-vae" passed (an earlier look).

Of six words the list was long and of many kinds, and was not gone through one by one: the first was taken whose name
told that it fits. "voice-conversion": `vsimkus/vae-voice-conversion`; "gaussian-process":
`hegdepashupati/gaussian-process-odes`; "handwriting": `X-rayLaser/pytorch-handwriting-synthesis-toolkit`; and as
controls "trajectory-pred": `Henry1iu/TNT-Trajectory-Prediction`, "time-series-anomaly":
`chickenbestlover/RNN-Time-series-Anomaly-Detection`, "neural-ode": `EmilienDupont/augmented-neural-odes`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, jit, nn
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategoricalStraightThrough,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import bits, itself, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- mixtures


def pooled(x: Tensor, batch: Tensor) -> Tensor:
    return torch.zeros(int(batch.max()) + 1, x.size(1)).index_add(0, batch, x)


class NeighbourSum(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.nn = nn.Sequential(
            nn.Linear(n_in, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, hidden, bias=False), nn.ReLU()
        )
        self.eps = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        gathered = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        return self.nn((1.0 + self.eps) * x + gathered)


class GMDNTransition(nn.Module):
    """Its pooling is of the last layer's nodes; what emits reads all layers'."""

    def __init__(self, n_in: int, hidden: int, experts: int) -> None:
        super().__init__()
        first = nn.Sequential(
            nn.Linear(n_in, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, hidden, bias=False), nn.ReLU()
        )
        self.layers = nn.ModuleList([first, NeighbourSum(hidden, hidden)])
        self.out = nn.Linear(hidden, experts)

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        collected = []
        for depth, layer in enumerate(self.layers):
            x = layer(x, edges) if depth else layer(x)
            collected.append(x)
        scores = self.out(pooled(x, batch))
        shifted = scores - scores.max(dim=-1, keepdim=True)[0]
        return F.softmax(shifted, dim=-1).clamp(1e-8, 1.0), torch.cat(collected, dim=1)


class GraphExpertEmission(nn.Module):
    """What is called a variance is handed over as a scale."""

    def __init__(self, n_in: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.experts = experts
        self.node_transform = nn.Sequential(nn.Linear(n_in, hidden * experts * 2), nn.ReLU())
        self.final_transform = nn.Linear(hidden * experts * 2, experts * 2)

    def forward(self, nodes: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        out = self.final_transform(pooled(self.node_transform(nodes), batch))
        params = torch.reshape(out, [-1, self.experts, 2, 1])
        mu, var = params[:, :, 0, :], params[:, :, 1, :]
        return mu, F.softplus(var) + 1e-8

    def likelihood_of(self, labels: Tensor, weights: Tensor, mu: Tensor, var: Tensor) -> Tensor:
        gmm = MixtureSameFamily(Categorical(weights), Independent(Normal(loc=mu, scale=var), 1))
        return gmm.component_distribution.log_prob(gmm._pad(labels)).exp()


class GMDN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emission, self.transition = GraphExpertEmission(12, 3, 2), GMDNTransition(4, 6, 3)
        self.dirichlet = Dirichlet(torch.tensor([1.05] * 3))

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weights, nodes = self.transition(x, edges, batch)
        mu, var = self.emission(nodes, batch)
        joint = torch.mul(self.emission.likelihood_of(labels, weights, mu, var), weights) + 1e-8
        responsibility = joint / joint.sum(dim=1, keepdim=True)
        complete = torch.mean(torch.mul(responsibility, joint.log()).sum(dim=1))
        return complete + torch.mean(self.dirichlet.log_prob(weights), dim=0), joint.sum(1).log().mean()


def gmdn_loss(model: Any, *inputs: Tensor) -> Tensor:
    return -model(*inputs)[0]


class PeepholeLSTM(jit.ScriptModule):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.W_ci, self.W_cf, self.W_co = (nn.Parameter(torch.rand(hidden) - 0.5) for _ in range(3))
        self.b_i, self.b_f, self.b_c, self.b_o = (nn.Parameter(torch.rand(hidden) - 0.5) for _ in range(4))
        self.W_xh = nn.Parameter(torch.rand(n_in + hidden, hidden * 4) - 0.5)

    @jit.script_method
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        found: list[Tensor] = []
        for t in range(x.size(1)):
            z_i, z_f, z_c, z_o = (torch.cat([x[:, t], h], dim=1) @ self.W_xh).chunk(4, 1)
            i = torch.sigmoid(z_i + c * self.W_ci + self.b_i)
            f = torch.sigmoid(z_f + c * self.W_cf + self.b_f)
            c = f * c + i * torch.tanh(z_c + self.b_c)
            o = torch.sigmoid(z_o + c * self.W_co + self.b_o)
            h = o * torch.tanh(c)
            found.append(h)
        return torch.stack(found, dim=1)


class MixtureDensityLayer(nn.Module):
    def __init__(self, n_in: int, components: int) -> None:
        super().__init__()
        self.pi, self.mu = nn.Linear(n_in, components), nn.Linear(n_in, components * 2)
        self.sd, self.ro = nn.Linear(n_in, components * 2), nn.Linear(n_in, components)
        self.eos = nn.Linear(n_in, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pi, sd = F.softmax(self.pi(x), dim=-1), torch.exp(self.sd(x))
        return pi, self.mu(x), sd, torch.tanh(self.ro(x)), torch.sigmoid(self.eos(x))


class HandwritingPrediction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.output_layer = PeepholeLSTM(3, 8), MixtureDensityLayer(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.output_layer(self.lstm(x, torch.zeros(len(x), 8), torch.zeros(len(x), 8)))


class BivariateGaussian:
    def __init__(self, mu: tuple[Tensor, Tensor], sd: tuple[Tensor, Tensor], ro: Tensor) -> None:
        (self.mu1, self.mu2), (self.sd1, self.sd2), self.ro = mu, sd, ro

    def density(self, x1: Tensor, x2: Tensor) -> Tensor:
        rest = 1 - self.ro**2
        bottom = 2 * math.pi * self.sd1 * self.sd2 * torch.sqrt(rest) + 1e-8
        return torch.exp(-self.distance(x1, x2) / (2 * rest + 1e-8)) / bottom

    def distance(self, x1: Tensor, x2: Tensor) -> Tensor:
        first, second = ((x1 - self.mu1) / (self.sd1 + 1e-8)) ** 2, ((x2 - self.mu2) / (self.sd2 + 1e-8)) ** 2
        crossed = 2 * self.ro * (x1 - self.mu1) * (x2 - self.mu2) / (self.sd1 * self.sd2 + 1e-8)
        return first + second - crossed


def handwriting_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    pi, mu, sd, ro, eos_hat = model(x)
    n = pi.shape[-1]
    pi, mu, sd, ro, eos_hat = (part.flatten(0, 1) for part in (pi, mu, sd, ro, eos_hat))
    x1, x2 = (y[..., i].flatten().unsqueeze(1).repeat(1, n) for i in (0, 1))
    eos, eos_hat = y[..., 2].flatten(), eos_hat[:, 0]
    gaussian = BivariateGaussian((mu[:, :n], mu[:, n:]), (sd[:, :n], sd[:, n:]), ro)
    mixed = ((gaussian.density(x1, x2) + 1e-16) * pi).sum(dim=1)
    density = torch.log(mixed + 1e-16).sum(dim=0)
    ends = (eos * torch.log(eos_hat + 1e-8) + (1 - eos) * torch.log(1 - eos_hat + 1e-8)).sum()
    return -(density + ends) / len(x)


# ---------------------------------------------------------------------------------------------- series


class DeepAR(nn.Module):
    """One step at a time; a value that is missing is the last step's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1 + 3, 8, 2, dropout=0.1)
        self.distribution_mu, self.distribution_presigma = nn.Linear(16, 1), nn.Linear(16, 1)
        self.distribution_sigma = nn.Softplus()

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        _, (hidden, cell) = self.lstm(x, (hidden, cell))
        joined = hidden.permute(1, 2, 0).contiguous().view(hidden.shape[1], -1)
        pre_sigma = self.distribution_presigma(joined)
        mu, sigma = self.distribution_mu(joined), self.distribution_sigma(pre_sigma)
        return torch.squeeze(mu), torch.squeeze(sigma), hidden, cell


def observed_density(mu: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    seen = labels != 0
    return -torch.mean(Normal(mu[seen], sigma[seen]).log_prob(labels[seen]))


def deep_ar_loss(model: Any, windows: Tensor, labels: Tensor) -> Tensor:
    windows, loss = windows.clone().permute(1, 0, 2), torch.zeros(1)
    hidden = cell = torch.zeros(2, windows.shape[1], 8)
    mu = torch.zeros(windows.shape[1])
    for t in range(len(windows)):
        missing = windows[t, :, 0] == 0
        if t > 0 and torch.sum(missing) > 0:
            windows[t, missing, 0] = mu[missing]
        mu, sigma, hidden, cell = model(windows[t].unsqueeze(0).clone(), hidden, cell)
        loss = loss + observed_density(mu, sigma, labels[:, t])
    return loss


class GaussianForecast(nn.Module):
    """A projection that a likelihood without parameters reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.lik = nn.LSTM(3, 8, 2, dropout=0.1, batch_first=True), ForecastLikelihood()
        self.proj = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(2, len(x), 8)
        return self.proj(self.encoder(x, (zeros, zeros))[0])


class ForecastLikelihood(nn.Module):
    def loss(self, params: Tensor, target: Tensor) -> Tensor:
        mu, sigma_raw = params.chunk(2, -1)
        sigma = F.softplus(sigma_raw) + 1e-5
        ll = -0.5 * (torch.log(2 * torch.pi * sigma**2) + ((target - mu) ** 2) / sigma**2)
        return -ll.mean()


def gaussian_forecast_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    output = model(x)
    return model.lik.loss(output[:, -y.size(1) :], y)


class NegativeBinomialForecast(nn.Module):
    """A mean and a dispersion, each a softplus."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.lstm = nn.Embedding(4, 3), nn.LSTM(6, 8, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, item: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        known = self.item(item).unsqueeze(1).expand(-1, x.shape[1], -1)
        out = self.head(self.lstm(torch.cat([x, known], -1))[0])
        mu = F.softplus(out[..., 0] + 0.5413) * level + F.softplus(out[..., 2] - 3)
        return mu, F.softplus(out[..., 1]) / (level + 1).sqrt() + 1e-4


def negative_binomial_loss(model: Any, x: Tensor, item: Tensor, level: Tensor, y: Tensor) -> Tensor:
    mu, alpha = model(x, item, level)
    r = 1 / alpha
    chosen = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return -(chosen + r * torch.log(r / (r + mu)) + y * torch.log(mu / (r + mu) + 1e-8)).mean()


def sample_gauss(mean: Tensor, std: Tensor) -> Tensor:
    eps = torch.FloatTensor(std.size()).normal_()
    return eps.mul(std).add_(mean)


def nll_gauss(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    pi = torch.FloatTensor([math.pi])
    return 0.5 * torch.sum((x - mean).pow(2) / std.pow(2) + 2 * torch.log(std) + torch.log(2 * pi))


def kld_gauss(mean_1: Tensor, std_1: Tensor, mean_2: Tensor, std_2: Tensor) -> Tensor:
    logs = 2 * torch.log(std_2) - 2 * torch.log(std_1)
    return 0.5 * torch.sum(logs + (std_1.pow(2) + (mean_1 - mean_2).pow(2)) / std_2.pow(2) - 1)


def dropped(n_in: int, hidden: int) -> nn.Sequential:
    layers = [nn.Linear(n_in, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5))


class MacroVRNN(nn.Module):
    """Two agents, each with its own networks; a batch norm in front of each pair of layers."""

    agents = 2

    def __init__(self) -> None:
        super().__init__()
        x, y, z, h, macro, micro = 4, 12, 3, 8, 5, 6
        each = range(self.agents)
        self.bn_enc, self.bn_prior, self.bn_dec = (nn.ModuleList([nn.BatchNorm1d(h) for _ in each]) for _ in range(3))
        given = x + y + macro + micro
        self.enc, self.prior = (nn.ModuleList([dropped(n, h) for _ in each]) for n in (given + x, given))
        self.dec = nn.ModuleList([dropped(given + z, h) for _ in each])
        self.enc_mean, self.prior_mean = (nn.ModuleList([nn.Linear(h, z) for _ in each]) for _ in range(2))
        self.enc_std, self.prior_std, self.dec_std = (
            nn.ModuleList([nn.Sequential(nn.Linear(h, n), nn.Softplus()) for _ in each]) for n in (z, z, x)
        )
        self.dec_mean = nn.ModuleList([nn.Linear(h, x) for _ in each])
        self.gru_micro = nn.ModuleList([nn.GRU(x + z, micro, 2) for _ in each])

    def forward(self, states: Tensor, macro: Tensor) -> dict[str, Tensor]:
        batch = states.size(2)
        out = {"L_kl": torch.zeros(1), "L_rec": torch.zeros(1)}
        h_micro = [torch.zeros(2, batch, 6) for _ in range(self.agents)]
        for t in range(len(states) - 1):
            intents = F.one_hot(macro[t], 5).float().transpose(0, 1)
            for i in range(self.agents):
                y_t = states[t][i].clone()
                x_t = states[t + 1][i][:, 6 * i + 2 : 6 * i + 6].clone()
                state_in0 = y_t[:, 6 * i + 2 : 6 * i + 6]
                prior_in = torch.cat([state_in0, y_t, intents[i], h_micro[i][-1]], 1)
                enc_t = self.bn_enc[i](self.enc[i](torch.cat([x_t, prior_in], 1)))
                enc_mean_t, enc_std_t = self.enc_mean[i](enc_t), self.enc_std[i](enc_t)
                prior_t = self.bn_prior[i](self.prior[i](prior_in))
                prior_mean_t, prior_std_t = self.prior_mean[i](prior_t), self.prior_std[i](prior_t)
                z_t = sample_gauss(enc_mean_t, enc_std_t)
                dec_t = self.dec[i](torch.cat([state_in0, y_t, intents[i], z_t, h_micro[i][-1]], 1))
                dec_t = self.bn_dec[i](dec_t)
                dec_mean_t, dec_std_t = self.dec_mean[i](dec_t), self.dec_std[i](dec_t)
                _, h_micro[i] = self.gru_micro[i](torch.cat([x_t, z_t], 1).unsqueeze(0), h_micro[i])
                out["L_kl"] = out["L_kl"] + kld_gauss(enc_mean_t, enc_std_t, prior_mean_t, prior_std_t)
                out["L_rec"] = out["L_rec"] + nll_gauss(dec_mean_t, dec_std_t, x_t)
        return out


def macro_vrnn_loss(model: Any, states: Tensor, macro: Tensor) -> Tensor:
    return sum(model(states, macro).values()) / states.size(2)


class LSTMVAEInstance(nn.Module):
    """Attention over the last states of both directions; what it decodes to are an equation's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, 8, batch_first=True, bidirectional=True)
        self.mu, self.logvar = nn.Linear(16, 4), nn.Linear(16, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))
        self.multihead_attn = nn.MultiheadAttention(8, 2, dropout=0.1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, (h, _) = self.encoder(x)
        attended, _ = self.multihead_attn(h, h, h)
        attended = attended.permute(1, 0, 2).reshape(len(x), -1)
        mu, logvar = self.mu(attended), self.logvar(attended)
        return self.decoder(self.reparameterize(mu, logvar)), mu, logvar


def lstm_vae_instance_loss(model: Any, series: Tensor, parameters: Tensor) -> Tensor:
    found, mean, log_var = model(series)
    kld = -0.5 * torch.mean(1 + log_var - mean.pow(2) - log_var.exp())
    return torch.sqrt(F.mse_loss(found, parameters, reduction="mean")) + 0.0005 * kld


class MaskedProfileVAE(nn.Module):
    """Its decoder is asked at depths, and its encoder takes a mean of those that were measured."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = ProfileEncoder(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def reparameterize(self, mu: Tensor, log_var: Tensor) -> Tensor:
        if self.training:
            std = torch.exp(0.5 * log_var)
            return mu + torch.randn_like(std) * std
        return mu

    def forward(self, profile: Tensor, mask: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder(profile, mask)
        z = self.reparameterize(mu, log_var)
        asked = depths.view(1, -1, 1).expand(len(z), -1, -1)
        return self.decoder(torch.cat([z.unsqueeze(1).expand(-1, len(depths), -1), asked], dim=-1)), mu, log_var


class ProfileEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, profile: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        measured = mask.any(dim=-1, keepdim=True).float()
        h = (self.mlp(profile) * measured).sum(dim=1) / measured.sum(dim=1).clamp(min=1)
        return self.fc_mu(h), self.fc_var(h)


def masked_profile_loss(model: Any, profile: Tensor, mask: Tensor, depths: Tensor) -> Tensor:
    recon, mu, log_var = model(profile, mask, depths)
    squares = (recon - profile) ** 2
    recon_loss = (squares * mask.float()).sum() / mask.float().sum().clamp(min=1)
    return recon_loss + 1.0 * (-0.5 * torch.mean(1 + log_var - mu.pow(2) - log_var.exp()))


# ---------------------------------------------------------------------------------------------- states


class KVAEEncoder(nn.Module):
    """What emits the variance is bounded by a share of the filter's noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(16, 2), nn.Sequential(nn.Linear(16, 2), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv_layers(x)
        h = h.view(h.size(0), -1)
        return self.fc_mu(h), 0.03 * self.fc_var(h)


class KVAEDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 16)
        self.deconv_layers = nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, a: Tensor) -> Tensor:
        return self.deconv_layers(self.fc(a).view(a.size(0), 4, 2, 2))


class DynamicsParameter(nn.Module):
    def __init__(self, modes: int, n: int, p: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.eye(n).unsqueeze(0).repeat(modes, 1, 1))
        self.C = nn.Parameter(torch.randn(modes, p, n) * 0.05)
        self.lstm, self.head_w = nn.LSTM(p, 6, 1, batch_first=True), nn.Linear(6, modes)
        self.lstm_state: Any = None

    def compute_step(self, a: Tensor) -> tuple[Tensor, Tensor]:
        h, self.lstm_state = self.lstm(a.unsqueeze(1), self.lstm_state)
        w = torch.softmax(self.head_w(h.squeeze(1)), dim=-1)
        return torch.einsum("bk,kij->bij", w, self.A), torch.einsum("bk,kpn->bpn", w, self.C)


class KalmanFilter(nn.Module):
    """Its noises are constants; a smoothed path is drawn, and its density is the lower bound's."""

    def __init__(self, n: int, p: int, dyn_params: nn.Module) -> None:
        super().__init__()
        self.n, self.p, self.dyn_params = n, p, dyn_params
        for name, value in (("Q", 0.02 * torch.eye(n)), ("R", 0.03 * torch.eye(p)), ("I", torch.eye(n))):
            self.register_buffer(name, value)
        self.register_buffer("mu0", torch.zeros(n))
        self.register_buffer("Sigma0", 20.0 * torch.eye(n))

    def filter_step(self, mu: Tensor, cov: Tensor, y: Tensor, A: Tensor, C: Tensor) -> tuple[Tensor, ...]:
        ahead, cov_ahead = A @ mu, A @ cov @ A.mT + self.Q
        S = C @ cov_ahead @ C.mT + self.R
        K = torch.linalg.solve(0.5 * (S + S.mT), (cov_ahead @ C.mT).mT).mT
        rest = self.I - K @ C
        kept = rest @ cov_ahead @ rest.mT + K @ self.R @ K.mT
        return ahead + K @ (y.unsqueeze(-1) - C @ ahead), 0.5 * (kept + kept.mT), ahead, cov_ahead

    def smooth(self, Y: Tensor) -> tuple[Tensor, ...]:
        batch, steps, _ = Y.shape
        mu, cov = self.mu0.expand(batch, -1).unsqueeze(-1), self.Sigma0.expand(batch, -1, -1)
        before, kept = torch.zeros(batch, self.p), []
        for t in range(steps):
            A, C = self.dyn_params.compute_step(before)
            mu, cov, ahead, cov_ahead = self.filter_step(mu, cov, Y[:, t], A, C)
            kept.append((mu, cov, ahead, cov_ahead, A, C))
            before = Y[:, t]
        mus, covs, aheads, cov_aheads, As, Cs = (torch.stack(part, 1) for part in zip(*kept, strict=True))
        mu, cov, smoothed = mus[:, -1], covs[:, -1], [(mus[:, -1], covs[:, -1])]
        for t in range(steps - 2, -1, -1):
            J = torch.linalg.solve(cov_aheads[:, t + 1].mT, (covs[:, t] @ As[:, t + 1].mT).mT).mT
            mu = mus[:, t] + J @ (mu - aheads[:, t + 1])
            cov = covs[:, t] + J @ (cov - cov_aheads[:, t + 1]) @ J.mT
            cov = 0.5 * (cov + cov.mT)
            smoothed.insert(0, (mu, cov))
        means, covariances = (torch.stack(part, 1) for part in zip(*smoothed, strict=True))
        return means, covariances, As, Cs

    def elbo(self, mean: Tensor, covariance: Tensor, y: Tensor, As: Tensor, Cs: Tensor) -> Tensor:
        batch, steps = y.shape[:2]
        L = torch.linalg.cholesky(0.5 * (covariance + covariance.mT) + 1e-6 * self.I)
        smooth = MultivariateNormal(mean.squeeze(-1), scale_tril=L)
        z = smooth.rsample()
        moved = (As[:, 1:] @ z[:, :-1].unsqueeze(-1)).squeeze(-1)
        transition = MultivariateNormal(torch.zeros(self.n), scale_tril=torch.linalg.cholesky(self.Q))
        emission = MultivariateNormal(torch.zeros(self.p), self.R)
        terms = transition.log_prob(z[:, 1:] - moved).sum()
        terms = terms + emission.log_prob(y - (Cs @ z.unsqueeze(-1)).squeeze(-1)).sum()
        terms = terms + MultivariateNormal(self.mu0, self.Sigma0).log_prob(z[:, 0]).sum()
        return (terms - smooth.log_prob(z).sum()) / (batch * steps)


class KVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = KVAEEncoder(), KVAEDecoder()
        self.kalman_filter = KalmanFilter(4, 2, DynamicsParameter(3, 4, 2))

    def reparameterize(self, mu: Tensor, var: Tensor) -> Tensor:
        std = torch.sqrt(var + 1e-6)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> dict[str, Any]:
        batch, steps = x.shape[:2]
        mu, var = self.encoder(x.view(-1, *x.shape[2:]))
        a = self.reparameterize(mu, var)
        a, mu, var = (part.view(batch, steps, -1) for part in (a, mu, var))
        self.kalman_filter.dyn_params.lstm_state = None
        smoothed = self.kalman_filter.smooth(a.clone())
        return {"x": self.decoder(a.view(-1, 2)).view_as(x), "a": a, "mu": mu, "var": var, "smoothed": smoothed}


def log_gaussian(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    constant = -0.5 * torch.log(torch.tensor(2.0 * torch.pi))
    return constant - torch.log(var) / 2 - torch.square(x - mean) / (2 * var)


def kvae_loss(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    a, frames = out["a"], x.shape[0] * x.shape[1]
    log_px = -F.binary_cross_entropy_with_logits(out["x"], x, reduction="none").sum(dim=(2, 3, 4)).sum()
    log_qa = log_gaussian(a, out["mu"], out["var"]).sum(dim=-1).sum()
    log_pa = log_gaussian(a, torch.zeros_like(a), torch.ones_like(a)).sum(dim=-1).sum()
    vae_elbo = 0.3 * (log_px / frames) + 1.0 * ((log_pa - log_qa) / frames)
    mean, covariance, As, Cs = out["smoothed"]
    return -(1.0 * vae_elbo + 1.0 * model.kalman_filter.elbo(mean, covariance, a, As, Cs))


class DeepKalmanFilter(nn.Module):
    """Codes with a covariance of its factor's triangle, and data with a variance of their own."""

    def __init__(self) -> None:
        super().__init__()
        x, c, z, h = 6, 4, 3, 8
        self.rnn_gx, self.h_layernorm = nn.LSTM(x + c, h, 1), nn.LayerNorm(h)
        self.posterior_mlp = nn.Sequential(nn.Linear(z, h), nn.ReLU())
        self.posterior_gru, self.posterior_layernorm = nn.GRUCell(h, h), nn.LayerNorm(h)
        self.inf_mean, self.inf_diag, self.inf_off_diag = nn.Linear(h, z), nn.Linear(h, z), nn.Linear(h, 3)
        self.cond_proj = nn.Sequential(nn.Linear(c, h * 2), nn.ReLU())
        self.prior_mlp = nn.Sequential(nn.Linear(z, h), nn.ReLU())
        self.prior_mean, self.prior_diag, self.prior_off_diag = nn.Linear(h, z), nn.Linear(h, z), nn.Linear(h, 3)
        self.mlp_z_x = nn.Sequential(nn.Linear(z, h), nn.ReLU(), nn.Dropout(p=0.2))
        self.gen_mean, self.gen_logvar = nn.Linear(h, x), nn.Linear(h, x)
        self.loss = nn.GaussianNLLLoss(reduction="none")

    def covariance(self, diag: Tensor, off_diag: Tensor) -> tuple[Tensor, Tensor]:
        rows, cols = torch.tril_indices(3, 3, offset=-1)
        below = torch.zeros(*diag.shape, 3)
        below[..., rows, cols] = off_diag
        L = torch.diag_embed(torch.exp(diag)) + below
        return torch.matmul(L, L.transpose(-2, -1)), L

    def inference(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, _ = x.shape
        z_mean, z_cov, z = torch.zeros(steps, batch, 3), torch.zeros(steps, batch, 3, 3), torch.zeros(steps, batch, 3)
        z_t = torch.zeros(batch, 3)
        h_seq = self.h_layernorm(self.rnn_gx(torch.cat([x, c], dim=-1))[0])
        for t in range(steps):
            h = self.posterior_layernorm(self.posterior_gru(h_seq[t], self.posterior_mlp(z_t)))
            z_mean[t] = self.inf_mean(h)
            z_cov[t], L = self.covariance(self.inf_diag(h), self.inf_off_diag(h))
            z_t = z_mean[t] + torch.matmul(L, torch.randn_like(z_mean[t]).unsqueeze(-1)).squeeze(-1)
            z[t] = z_t
        return z, z_mean, z_cov

    def generation_z(self, before: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gamma, beta = self.cond_proj(c).chunk(2, dim=-1)
        h = gamma * self.prior_mlp(before) + beta
        return self.prior_mean(h), self.covariance(self.prior_diag(h), self.prior_off_diag(h))[0]

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        self.z, self.z_mean, self.z_cov = self.inference(x, c)
        before = torch.cat([torch.zeros(1, x.shape[1], 3), self.z[:-1]], dim=0)
        self.z_mean_p, self.z_cov_p = self.generation_z(before, c)
        y = self.mlp_z_x(self.z)
        return self.gen_mean(y), self.gen_logvar(y)

    def loss_rec(self, gen_mean: Tensor, gen_logvar: Tensor, x: Tensor) -> Tensor:
        gen_var = gen_logvar.exp()
        return self.loss(x, gen_mean, gen_var)


def deep_kalman_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    frames = x.shape[0] * x.shape[1]
    recon = model.loss_rec(*model(x, c), x).sum() / frames
    inverse, gap = torch.inverse(model.z_cov_p), model.z_mean_p - model.z_mean
    trace = torch.einsum("...ii->...", torch.matmul(inverse, model.z_cov))
    distance = torch.einsum("bij,bijk,bik->bi", gap, inverse, gap) - 3
    logs = torch.log(torch.div(torch.det(model.z_cov_p), torch.det(model.z_cov) + 1e-10))
    return recon + 0.5 * 8 * (0.5 * torch.sum(trace + distance + logs) / frames)


# ---------------------------------------------------------------------------------------------- worlds


def normed_mlp(n_in: int, n_out: int, layers: int = 2, hidden: int = 8) -> nn.Sequential:
    stacked: list[nn.Module] = []
    for _ in range(layers):
        stacked += [nn.Linear(n_in, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        n_in = hidden
    return nn.Sequential(*stacked, nn.Linear(n_in, n_out))


class RSSM(nn.Module):
    """Two codes to choose from: Normal, or groups of classes with one per cent of the uniform law."""

    def __init__(self, latent_type: str) -> None:
        super().__init__()
        self.latent_type = latent_type
        self.z_dim = 6 if latent_type == "categorical" else 3
        stats = 6
        self.gru_in = nn.Sequential(nn.Linear(self.z_dim + 2, 8), nn.LayerNorm(8), nn.SiLU())
        self.gru = nn.GRUCell(8, 7)
        self.prior_net, self.posterior_net = normed_mlp(7, stats, 1), normed_mlp(7 + 5, stats, 1)

    def stats(self, raw: Tensor) -> dict[str, Tensor]:
        if self.latent_type == "categorical":
            probs = F.softmax(raw.view(-1, 2, 3), dim=-1)
            return {"logits": ((1 - 0.01) * probs + 0.01 / 3).log()}
        mean, raw_std = raw.chunk(2, dim=-1)
        return {"mean": mean, "std": F.softplus(raw_std) + 0.1}

    def sample(self, stats: dict[str, Tensor]) -> Tensor:
        if self.latent_type == "categorical":
            drawn = Independent(OneHotCategoricalStraightThrough(logits=stats["logits"]), 1).rsample()
            return drawn.flatten(start_dim=-2)
        return Independent(Normal(stats["mean"], stats["std"]), 1).rsample()

    def step(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        return self.gru(self.gru_in(torch.cat([z, action], dim=-1)), h)

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor) -> dict[str, Any]:
        h, z = torch.zeros(len(embed), 7), torch.zeros(len(embed), self.z_dim)
        kept: list[tuple[Any, ...]] = []
        for t in range(embed.shape[1]):
            reset = 1.0 - is_first[:, t : t + 1]
            h = self.step(h * reset, z * reset, action[:, t] * reset)
            prior = self.stats(self.prior_net(h))
            post = self.stats(self.posterior_net(torch.cat([h, embed[:, t]], dim=-1)))
            z = self.sample(post)
            kept.append((h, z, prior, post))
        hs, zs, priors, posts = zip(*kept, strict=True)
        stacked = {
            name: {key: torch.stack([s[key] for s in all_of], dim=1) for key in all_of[0]}
            for name, all_of in (("prior", priors), ("post", posts))
        }
        return {"h": torch.stack(hs, dim=1), "z": torch.stack(zs, dim=1), **stacked}

    def imagine_step(self, h: Tensor, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        h = self.step(h, z, action)
        return h, self.sample(self.stats(self.prior_net(h)))

    def kl(self, q: dict[str, Tensor], p: dict[str, Tensor]) -> Tensor:
        if self.latent_type == "categorical":
            return kl_divergence(Categorical(logits=q["logits"]), Categorical(logits=p["logits"])).sum(dim=-1)
        return kl_divergence(Normal(q["mean"], q["std"]), Normal(p["mean"], p["std"])).sum(dim=-1)

    def kl_loss(self, post: dict[str, Tensor], prior: dict[str, Tensor]) -> Tensor:
        still_post, still_prior = ({k: v.detach() for k, v in part.items()} for part in (post, prior))
        dynamics, representation = self.kl(still_post, prior), self.kl(post, still_prior)
        return 0.8 * dynamics.clamp_min(1.0) + (1 - 0.8) * representation.clamp_min(1.0)


class WorldModel(nn.Module):
    def __init__(self, latent_type: str) -> None:
        super().__init__()
        self.encoder, self.rssm = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 5)), RSSM(latent_type)
        features = 7 + self.rssm.z_dim
        self.decoder, self.reward_head, self.continue_head = (normed_mlp(features, n) for n in (6, 1, 1))

    def forward(self, obs: Tensor, action: Tensor, is_first: Tensor) -> dict[str, Any]:
        out = self.rssm.observe(self.encoder(obs), action, is_first)
        out["feat"] = torch.cat([out["h"], out["z"]], dim=-1)
        out["recon"] = self.decoder(out["feat"].flatten(0, 1)).unflatten(0, obs.shape[:2])
        return out


def world_model_loss(model: Any, obs: Tensor, action: Tensor, is_first: Tensor, reward: Tensor, mask: Tensor) -> Tensor:
    out = model(obs, action, is_first)
    denom = mask.sum().clamp_min(1.0)
    recon = ((out["recon"] - obs).pow(2).sum(dim=-1) * mask).sum() / denom
    rewards = ((model.reward_head(out["feat"]).squeeze(-1) - reward).pow(2) * mask).sum() / denom
    going = model.continue_head(out["feat"]).squeeze(-1)
    going = (F.binary_cross_entropy_with_logits(going, torch.ones_like(going), reduction="none") * mask).sum() / denom
    return recon + rewards + going + (model.rssm.kl_loss(out["post"], out["prior"]) * mask).sum() / denom


ACTOR_BIAS = float(torch.log(torch.expm1(torch.tensor(1.0 - 0.1))).item())


class DreamedActor(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.net = normed_mlp(n_in, 4)

    def act(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_std = self.net(feat).chunk(2, dim=-1)
        normal = Normal(mean, F.softplus(raw_std + ACTOR_BIAS) + 0.1)
        u = normal.rsample()
        action = torch.tanh(u)
        log_prob = normal.log_prob(u).sum(-1)
        return action, log_prob - torch.log(1 - action.pow(2) + 1e-6).sum(-1)


class Dreaming(nn.Module):
    """A script upstream: the actor acts in a frozen world of classes, and is judged by what it is worth."""

    def __init__(self) -> None:
        super().__init__()
        self.world, self.actor, self.critic = WorldModel("categorical"), DreamedActor(13), normed_mlp(13, 1)

    def forward(self, h: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        h, z = h.detach(), z.detach()
        for parameter in self.world.parameters():
            parameter.requires_grad_(False)
        feats, log_probs = [torch.cat([h, z], dim=-1)], []
        for _ in range(3):
            action, log_prob = self.actor.act(feats[-1])
            h, z = self.world.rssm.imagine_step(h, z, action)
            feats.append(torch.cat([h, z], dim=-1))
            log_probs.append(log_prob)
        feat = torch.stack(feats, dim=1)
        reward = self.world.reward_head(feat[:, 1:]).squeeze(-1)
        discount = 0.99 * torch.sigmoid(self.world.continue_head(feat[:, 1:]).squeeze(-1))
        for parameter in self.world.parameters():
            parameter.requires_grad_(True)
        return feat, torch.stack(log_probs, dim=1), reward, discount


def dreaming_loss(model: Any, h: Tensor, z: Tensor) -> Tensor:
    feat, log_prob, reward, discount = model(h, z)
    value = model.critic(feat[:, 1:]).squeeze(-1)
    following, returns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        last = t == reward.shape[1] - 1
        blended = following if last else (1 - 0.95) * value[:, t] + 0.95 * following
        following = reward[:, t] + discount[:, t] * blended
        returns.insert(0, following)
    target = torch.stack(returns, dim=1)
    kept = torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], dim=1)
    weights = torch.cumprod(kept, dim=1).detach()
    actor_loss = -(weights * target / torch.ones(())).mean() - 3e-4 * (weights * -log_prob).mean()
    guessed = model.critic(feat[:, :-1].detach()).squeeze(-1)
    return actor_loss + ((guessed - target.detach()).pow(2) * weights).mean()


def reparameterize(mu: Tensor, std: Tensor) -> Tensor:
    eps = torch.randn_like(std)
    return mu + eps * std


class PlanetRSSM(nn.Module):
    """A floor below a floor; the first state is drawn of the first picture's posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.stoch, self.deter = 3, 7
        self.gru = nn.GRUCell(5, 7)
        self.latent_act_layer = nn.Sequential(nn.Linear(5, 5), nn.ReLU())
        self.prior_net = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 6))
        self.post_net = nn.Sequential(nn.Linear(6 + 7, 8), nn.ReLU(), nn.Linear(8, 6))

    def stated(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mu, pre_std = params.split(self.stoch, dim=-1)
        std = F.softplus(pre_std) + 1e-5
        return mu, std.clamp(min=1e-4)

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.stated(self.prior_net(h))

    def posterior(self, feat: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.stated(self.post_net(torch.cat([feat, h], dim=-1)))

    def forward(self, feats: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        batch, steps, _ = actions.shape
        zeros = torch.zeros(batch, 5)
        h = self.gru(self.latent_act_layer(zeros), torch.zeros(batch, 7))
        s = reparameterize(*self.posterior(feats[:, 0], h))
        kept = []
        for t in range(steps):
            h = self.gru(self.latent_act_layer(torch.cat([s, actions[:, t]], dim=1)), h)
            mu_p, std_p = self.prior(h)
            mu_q, std_q = self.posterior(feats[:, t + 1], h)
            s = reparameterize(mu_q, std_q)
            kept.append((mu_p, std_p, mu_q, std_q, s, h))
        return tuple(torch.stack(part, dim=1) for part in zip(*kept, strict=True))


class Planet(nn.Module):
    """Four models of a script."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rssm = nn.Sequential(nn.Linear(9, 6), nn.ReLU()), PlanetRSSM()
        self.decoder = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 9))
        self.reward_model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))


def planet_loss(model: Any, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    batch, steps, _ = actions.shape
    feats = model.encoder(observations.view(-1, 9)).view(batch, steps + 1, -1)
    mu_p, std_p, mu_q, std_q, s, h = model.rssm(feats, actions)
    latent = torch.cat([h, s], dim=-1).view(batch * steps, -1)
    rebuilt = model.decoder(latent).view(batch, steps, 9)
    recon = F.mse_loss(rebuilt, observations[:, 1:], reduction="none").sum([2]).mean()
    reward = F.mse_loss(model.reward_model(latent).view(batch, steps), rewards)
    var_q, var_p, k = std_q.pow(2), std_p.pow(2), mu_q.shape[-1]
    logs = 2 * (torch.log(std_p).sum(-1) - torch.log(std_q).sum(-1))
    kl = (1 / 2) * (((var_q + (mu_q - mu_p).pow(2)) / var_p).sum(-1) - k + logs)
    return recon + reward + torch.clamp(kl - 0.3, min=0.0).mean() * 1.0


# ---------------------------------------------------------------------------------------------- policies


class PPOActor(nn.Module):
    """Of a Beta law, or of a Normal with a learned scale."""

    def __init__(self, law: str) -> None:
        super().__init__()
        self.law = law
        self.l1, self.l2 = nn.Linear(4, 8), nn.Linear(8, 8)
        if law == "Beta":
            self.alpha_head, self.beta_head = nn.Linear(8, 2), nn.Linear(8, 2)
        else:
            self.mu_head, self.sigma_head = nn.Linear(8, 2), nn.Linear(8, 2)

    def get_dist(self, state: Tensor) -> Beta | Normal:
        a = torch.tanh(self.l2(torch.tanh(self.l1(state))))
        if self.law == "Beta":
            return Beta(F.softplus(self.alpha_head(a)) + 1.0, F.softplus(self.beta_head(a)) + 1.0)
        mu, sigma = torch.sigmoid(self.mu_head(a)), F.softplus(self.sigma_head(a))
        return Normal(mu, sigma)


class PPOAgent(nn.Module):
    """No module upstream."""

    def __init__(self, law: str) -> None:
        super().__init__()
        self.actor = PPOActor(law)
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, s: Tensor, a: Tensor, old: Tensor, adv: Tensor, td_target: Tensor) -> Tensor:
        distribution = self.actor.get_dist(s)
        entropy = distribution.entropy().sum(1, keepdim=True)
        now = distribution.log_prob(a)
        ratio = torch.exp(now.sum(1, keepdim=True) - old.sum(1, keepdim=True))
        surr1, surr2 = ratio * adv, torch.clamp(ratio, 1 - 0.2, 1 + 0.2) * adv
        a_loss = -torch.min(surr1, surr2) - 1e-3 * entropy
        c_loss = (self.critic(s) - td_target).pow(2).mean()
        for name, param in self.critic.named_parameters():
            if "weight" in name:
                c_loss = c_loss + param.pow(2).sum() * 1e-3
        return a_loss.mean() + c_loss


class ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.residual = n_in == n_out
        self.linear, self.act = nn.Linear(n_in, n_out), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.linear(x))
        return out + x if self.residual else out


class LinearLayers(nn.Module):
    def __init__(self, n_in: int, hidden: int, depth: int, n_out: int | None = None) -> None:
        super().__init__()
        dense: list[nn.Module] = []
        for i in range(depth):
            dense += [ResidualBlock(hidden if i else n_in, hidden), nn.Dropout(0.0)]
        self.output_size = hidden if depth else n_in
        if n_out:
            dense.append(nn.Linear(self.output_size, n_out))
        self.dense = nn.Sequential(*dense)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class ModelPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.c_dense = LinearLayers(4, 8, 0), LinearLayers(4, 8, 3)
        self.mean_dense, self.logstd_dense = LinearLayers(8, 8, 0, 2), LinearLayers(8, 8, 0, 2)

    def forward(self, state: Tensor) -> Normal:
        hidden = self.c_dense(self.dense(state))
        mean, logstd = self.mean_dense(hidden), self.logstd_dense(hidden)
        return Normal(torch.tanh(mean / 5.0) * 5.0, torch.exp(torch.clamp(logstd, -20, 0.5)), validate_args=False)


class EnsembleSAC(nn.Module):
    """No module upstream: the policy's loss, whose gradients are the policy's alone."""

    def __init__(self) -> None:
        super().__init__()
        self.model_policy = ModelPolicy()
        self.model_q_list = nn.ModuleList([LinearLayers(6, 8, 2, 1) for _ in range(2)])
        self.log_c_alpha = nn.Parameter(torch.tensor(-2.3))

    def forward(self, state: Tensor) -> Tensor:
        c_policy = self.model_policy(state)
        with torch.no_grad():
            c_alpha = torch.exp(self.log_c_alpha)
        action = c_policy.rsample()
        found = [q(torch.cat([state, torch.tanh(action)], dim=-1)) for q in self.model_q_list]
        squash = torch.maximum(1 - torch.square(torch.tanh(action)), torch.tensor(1e-2))
        log_prob = c_policy.log_prob(action) - torch.sum(torch.log(squash), dim=-1, keepdim=True)
        log_prob[log_prob == torch.inf] = 0.0
        shuffled = torch.stack(found)[torch.randperm(2)[:2]]
        min_q, _ = torch.min(shuffled, dim=0)
        return torch.mean(c_alpha * log_prob.sum(-1, keepdim=True) - min_q)


class ModelTransition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = LinearLayers(6, 8, 0, 8)

    def forward(self, state: Tensor, action: Tensor) -> Normal:
        mean, logstd = torch.chunk(self.dense(torch.cat([state, action], dim=-1)), 2, dim=-1)
        return Normal(mean, torch.clamp(torch.exp(logstd), 0.1, 1.0), validate_args=False)


class Predictions(nn.Module):
    """No module upstream: what is predicted of the next state, its reward and its observation."""

    def __init__(self) -> None:
        super().__init__()
        self.model_rep, self.model_target_rep = nn.Linear(5, 4), nn.Linear(5, 4)
        self.model_transition = ModelTransition()
        self.model_reward, self.model_observation = LinearLayers(4, 8, 1, 1), LinearLayers(4, 8, 1, 5)

    def forward(self, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        states = self.model_rep(obs)
        with torch.no_grad():
            targets = self.model_target_rep(obs)
        dist = self.model_transition(states[:, :-1], actions)
        loss = -torch.mean(dist.log_prob(targets[:, 1:]))
        standard = Normal(torch.zeros_like(dist.loc), torch.ones_like(dist.scale), validate_args=False)
        loss = loss + 0.8 * torch.mean(kl_divergence(dist, standard))
        loss = loss + F.mse_loss(self.model_reward(states[:, 1:]), torch.unsqueeze(rewards, 2)) / 3
        return loss + F.mse_loss(self.model_observation(states), obs) / 3


# ---------------------------------------------------------------------------------------------- tasks


class FeatureExtractor(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x))


class TaskEncoder(nn.Module):
    """A code of what was seen so far, at each step; before the first, of a hidden state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.state_encoder, self.action_encoder = FeatureExtractor(3, 4), FeatureExtractor(2, 4)
        self.reward_encoder, self.gru = FeatureExtractor(1, 3), nn.GRU(11, 8, 1)
        self.fc_mu, self.fc_logvar = nn.Linear(8, 3), nn.Linear(8, 3)

    def _sample_gaussian(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return eps.mul(std).add_(mu)

    def prior(self, batch: int) -> tuple[Tensor, ...]:
        hidden = torch.zeros((1, batch, 8), requires_grad=True)
        mean, logvar = self.fc_mu(hidden), self.fc_logvar(hidden)
        return self._sample_gaussian(mean, logvar), mean, logvar, hidden

    def forward(self, actions: Tensor, states: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prior_sample, prior_mean, prior_logvar, hidden = self.prior(actions.shape[1])
        seen = (self.action_encoder(actions), self.state_encoder(states), self.reward_encoder(rewards))
        output, _ = self.gru(torch.cat(seen, dim=2), hidden.clone())
        gru_h = output.clone()
        mean, logvar = self.fc_mu(gru_h), self.fc_logvar(gru_h)
        sample = self._sample_gaussian(mean, logvar)
        pairs = ((prior_sample, sample), (prior_mean, mean), (prior_logvar, logvar))
        found = [torch.cat(pair) for pair in pairs]
        return found[0], found[1], found[2]


class RewardDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state_encoder, self.action_encoder = FeatureExtractor(3, 4), FeatureExtractor(2, 4)
        self.fc_layers, self.fc_out = nn.ModuleList([nn.Linear(15, 8), nn.Linear(8, 8)]), nn.Linear(8, 1)

    def forward(self, latent: Tensor, following: Tensor, before: Tensor, actions: Tensor) -> Tensor:
        parts = (latent, self.state_encoder(following), self.action_encoder(actions), self.state_encoder(before))
        h = torch.cat(parts, dim=-1)
        for layer in self.fc_layers:
            h = F.relu(layer(h))
        return self.fc_out(h)


class VaribadVAE(nn.Module):
    """No module upstream. Each step's code is compared with that of the step before it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.reward_decoder = TaskEncoder(), RewardDecoder()

    def kl(self, mean: Tensor, logvar: Tensor) -> Tensor:
        means = torch.cat((torch.zeros(1, *mean.shape[1:]), mean))
        logvars = torch.cat((torch.zeros(1, *logvar.shape[1:]), logvar))
        mu, m, log_e, log_s = means[1:], means[:-1], logvars[1:], logvars[:-1]
        logs = torch.sum(log_s, dim=-1) - torch.sum(log_e, dim=-1) - mean.shape[-1]
        ratio = torch.sum(1 / torch.exp(log_s) * torch.exp(log_e), dim=-1)
        return 0.5 * (logs + ratio + ((m - mu) / torch.exp(log_s) * (m - mu)).sum(dim=-1))

    def forward(self, before: Tensor, following: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        _, mean, logvar = self.encoder(actions, following, rewards)
        samples = self.encoder._sample_gaussian(mean, logvar)
        steps = len(before)
        latent = samples.unsqueeze(1).expand(-1, steps, -1, -1)
        asked = [part.unsqueeze(0).expand(len(samples), *part.shape) for part in (following, before, actions)]
        found = self.reward_decoder(latent, *asked)
        error = (found - rewards.unsqueeze(0)).pow(2).mean(dim=-1)
        return (error.sum(dim=1).sum(dim=0) + 1.0 * self.kl(mean, logvar).sum(dim=0)).mean()


class DiagGaussian(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.fc_mean = nn.Linear(n_in, n_out)
        self.logstd = nn.Parameter(torch.log(torch.zeros(n_out) + 1.0))
        self.min_std = torch.tensor([1e-6])

    def forward(self, x: Tensor) -> Normal:
        std = torch.max(self.min_std, self.logstd.exp())
        return Normal(self.fc_mean(x), std)


class VaribadPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state_encoder, self.latent_encoder = FeatureExtractor(3, 5), FeatureExtractor(6, 5)
        self.actor_layers, self.critic_layers = nn.ModuleList([nn.Linear(10, 8)]), nn.ModuleList([nn.Linear(10, 8)])
        self.critic_linear, self.dist = nn.Linear(8, 1), DiagGaussian(8, 2)

    def forward(self, state: Tensor, latent: Tensor) -> tuple[Tensor, Normal]:
        inputs = torch.cat((self.state_encoder(state), self.latent_encoder(latent)), dim=-1)
        critic = actor = inputs
        for layer in self.critic_layers:
            critic = torch.tanh(layer(critic))
        for layer in self.actor_layers:
            actor = torch.tanh(layer(actor))
        return self.critic_linear(critic), self.dist(actor)


def varibad_ppo_loss(model: Any, state: Tensor, latent: Tensor, action: Tensor, old: Tensor, adv: Tensor) -> Tensor:
    values, dist = model(state, latent)
    log_probs, entropy = dist.log_prob(action).sum(-1, keepdim=True), dist.entropy().sum(-1).mean()
    ratio = torch.exp(log_probs - old)
    surr1, surr2 = ratio * adv, torch.clamp(ratio, 1.0 - 0.1, 1.0 + 0.1) * adv
    action_loss = -torch.min(surr1, surr2).mean()
    clipped = torch.zeros_like(values) + values.clamp(-0.1, 0.1)
    value_loss = 0.5 * torch.max(F.smooth_l1_loss(values, adv, reduction="none"), F.smooth_l1_loss(
        clipped, adv, reduction="none")).mean()  # fmt: skip
    return value_loss * 0.5 + action_loss - entropy * 0.01


# ---------------------------------------------------------------------------------------------- processes


class FlatMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int, hidden: int = 8, depth: int = 1) -> None:
        super().__init__()
        self.to_hidden, self.activation = nn.Linear(n_in, hidden), nn.ReLU()
        self.linears = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(depth - 1)])
        self.out = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.to_hidden(x))
        for linear in self.linears:
            out = self.activation(linear(out))
        return self.out(out)


class SummedInputs(nn.Module):
    def __init__(self, n_1: int, n_2: int, n_out: int, depth: int) -> None:
        super().__init__()
        self.resizer, self.flat_module = FlatMLP(n_2, n_1), FlatMLP(n_1, n_out, depth=depth)

    def forward(self, x_1: Tensor, x_2: Tensor) -> Tensor:
        return self.flat_module(torch.relu(x_1 + self.resizer(x_2)))


class AttentiveNeuralProcess(nn.Module):
    """Means and scales of the code alternate; one encoder is of targets and of context."""

    def __init__(self) -> None:
        super().__init__()
        r = 6
        self.x_encoder, self.xy_encoder = FlatMLP(1, r), SummedInputs(r, 2, r, 2)
        self.decoder, self.lat_encoder = SummedInputs(r, r, 4, 4), FlatMLP(r, r * 2)
        self.merge_rz = nn.Linear(r * 2, r)

    def latent_path(self, x: Tensor, y: Tensor) -> tuple[Tensor, Independent]:
        r = torch.mean(self.xy_encoder(self.x_encoder(x), y), dim=1)
        statistics = self.lat_encoder(r)
        mean_z, std_z = statistics.view(statistics.shape[0], -1, 2).unbind(-1)
        q_z = Independent(Normal(mean_z, 0.1 + 0.9 * torch.sigmoid(std_z)), 1)
        return q_z.rsample(), q_z

    def deterministic_path(self, x: Tensor, y: Tensor, x_target: Tensor) -> Tensor:
        keys = self.x_encoder(x)
        values, queries = self.xy_encoder(keys, y), self.x_encoder(x_target)
        logits = torch.bmm(queries, keys.transpose(1, 2)) / math.sqrt(queries.size(-1))
        return torch.bmm(logits.softmax(dim=-1), values)

    def forward(self, x: Tensor, y: Tensor, x_target: Tensor, y_target: Tensor) -> tuple[Any, ...]:
        z, q_context = self.latent_path(x, y)
        z, q_target = self.latent_path(x_target, y_target)
        r = self.deterministic_path(x, y, x_target)
        merged = torch.relu(self.merge_rz(torch.cat((r, z.unsqueeze(1).expand_as(r)), dim=-1)))
        loc, scale = self.decoder(self.x_encoder(x_target), merged).split(2, dim=-1)
        scale = 0.1 + 0.9 * F.softplus(scale)
        return Independent(Normal(loc, scale), 1), q_target, q_context


def attentive_process_loss(model: Any, x: Tensor, y: Tensor, x_target: Tensor, y_target: Tensor) -> Tensor:
    p_y, q_target, q_context = model(x, y, x_target, y_target)
    nll = -p_y.log_prob(y_target).view(len(x), -1).sum(-1)
    return (nll + 1.0 * kl_divergence(q_target, q_context).view(len(x), -1).sum(-1)).mean(dim=0)


LOWER = 1e-12


def constrained(x: Tensor) -> Tensor:
    return F.softplus(x) + LOWER


def numpy_normal(*shape: int) -> Tensor:
    return torch.tensor(np.random.RandomState(0).normal(size=shape).astype(np.float32))


class TriangleParam(nn.Module):
    """Lower triangles in a row of numbers each."""

    def __init__(self, matrices: int, size: int, scale: float) -> None:
        super().__init__()
        self.matrices, self.size, self.indices = matrices, size, np.tril_indices(size, 0)
        self.optvar = nn.Parameter(torch.eye(size)[self.indices].repeat(matrices, 1) * scale)

    def forward(self) -> Tensor:
        filled = torch.zeros(self.matrices, self.size, self.size)
        z = np.zeros(len(self.indices[0])).astype(int)
        for i in range(self.matrices):
            filled[(z + i, *self.indices)] = self.optvar[i, :]
        return filled


class RBF(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.unconstrained_lengthscales = nn.Parameter(torch.full((d, d), 0.98))
        self.unconstrained_variance = nn.Parameter(torch.full((d,), -0.43))

    def covariance(self, x: Tensor, x2: Tensor) -> Tensor:
        scales = constrained(self.unconstrained_lengthscales).unsqueeze(1)
        x, x2 = x.unsqueeze(0) / scales, x2.unsqueeze(0) / scales
        squares = torch.sum(torch.pow(x, 2), dim=2).unsqueeze(-1) + torch.sum(torch.pow(x2, 2), dim=2).unsqueeze(1)
        distance = -2 * torch.einsum("dnk,dmk->dnm", x, x2) + squares
        return constrained(self.unconstrained_variance)[:, None, None] * torch.exp(-0.5 * distance)

    def sample_freq(self, features: int) -> Tensor:
        d = len(self.unconstrained_variance)
        omega = numpy_normal(d, features, d)
        return omega / constrained(self.unconstrained_lengthscales).T.unsqueeze(1)


class DecoupledSVGP(nn.Module):
    """A Gaussian process's field, of which a sample is fixed before an equation is solved with it."""

    def __init__(self, d: int = 2, inducing: int = 4, features: int = 8) -> None:
        super().__init__()
        self.kern, self.inducing, self.features, self.d = RBF(d), inducing, features, d
        self.inducing_loc = nn.Parameter(randn(inducing, d, seed=3))
        self.Um = nn.Parameter(randn(inducing, d, seed=4) * 0.1)
        self.Us_sqrt = TriangleParam(d, inducing, 1e-3)

    def build_cache(self) -> None:
        self.rff_weights, self.rff_omega = numpy_normal(self.features, self.d), self.kern.sample_freq(self.features)
        phase = np.random.RandomState(1).uniform(size=(1, self.features, self.d)).astype(np.float32)
        self.rff_phase = torch.tensor(phase) * 2 * np.pi
        epsilon = numpy_normal(self.inducing, self.d)
        value = torch.einsum("dnm,md->nd", self.Us_sqrt(), epsilon) + self.Um
        Ku = self.kern.covariance(self.inducing_loc, self.inducing_loc)
        Lu = torch.linalg.cholesky(Ku + torch.eye(self.inducing) * 1e-5)
        at_prior = self.rff_forward(self.inducing_loc).T.unsqueeze(2)
        nu = torch.linalg.solve_triangular(Lu, at_prior, upper=False)
        self.nu = torch.linalg.solve_triangular(Lu.permute(0, 2, 1), value.T.unsqueeze(2) - nu, upper=True)

    def rff_forward(self, x: Tensor) -> Tensor:
        phi = torch.cos(torch.einsum("nd,dfk->nfk", x, self.rff_omega) + self.rff_phase)
        phi = phi * torch.sqrt(constrained(self.kern.unconstrained_variance) / self.features)
        return torch.einsum("nfk,fk->nk", phi, self.rff_weights)

    def forward(self, x: Tensor) -> Tensor:
        update = torch.einsum("dm,dmn->nd", self.nu.squeeze(2), self.kern.covariance(self.inducing_loc, x))
        return self.rff_forward(x) + update

    def kl(self) -> Tensor:
        return triangle_kl(self.Um.T, torch.tril(self.Us_sqrt()))


def triangle_kl(mean: Tensor, factor: Tensor) -> Tensor:
    logdet = torch.log(torch.pow(torch.diagonal(factor, dim1=1, dim2=2), 2)).sum(dim=1)
    trace = torch.pow(factor, 2).sum(dim=(1, 2))
    return 0.5 * (-logdet + torch.pow(mean, 2).sum(dim=1) + trace - factor.shape[-1]).sum()


class InitialState(nn.Module):
    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.param_mean, self.param_lchol = nn.Parameter(randn(n, d, seed=6) * 0.01), TriangleParam(n, d, 0.1)

    def sample(self) -> Tensor:
        factor = self.param_lchol()
        covariance = torch.einsum("nij,nkj->nik", factor, factor)
        covariance = covariance + torch.eye(covariance.shape[-1]).unsqueeze(0) * 1e-5
        return MultivariateNormal(loc=self.param_mean, covariance_matrix=covariance).rsample((1,))[0]


class GaussianLikelihood(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.unconstrained_variance = nn.Parameter(torch.full((d,), -1.26))

    @property
    def variance(self) -> Tensor:
        return constrained(self.unconstrained_variance)

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        return -0.5 * (np.log(2.0 * np.pi) + torch.log(self.variance) + torch.pow(f - y, 2) / self.variance)


class GPODE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flow, self.x0_distribution, self.likelihood = DecoupledSVGP(), InitialState(3, 2), GaussianLikelihood(2)

    def forward(self, ys: Tensor, ts: Tensor) -> Tensor:
        x = self.x0_distribution.sample()
        self.flow.build_cache()
        xs, dt = [], float(ts[1] - ts[0])
        for _ in ts:
            k1 = self.flow(x)
            k2 = self.flow(x + dt * k1 / 2)
            k3 = self.flow(x + dt * k2 / 2)
            x = x + dt * (k1 + 2 * k2 + 2 * k3 + self.flow(x + dt * k3)) / 6
            xs.append(x)
        loglik = self.likelihood.log_prob(torch.stack(xs, 1), ys).mean()
        start = self.x0_distribution
        x0_kl = triangle_kl(start.param_mean, torch.tril(start.param_lchol()))
        return -(loglik - x0_kl / ys.numel() - self.flow.kl() / ys.numel())


def stable_division(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    return a / torch.where(b.abs().detach() > eps, b, torch.full_like(b, eps) * b.sign() + eps)


class LatentSDE(nn.Module):
    """Drifts of the posterior and the prior, and a learned diffusion that both share."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_drift = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.post_drift = nn.Sequential(nn.Linear(5 + 4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.diffusion_net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.register_buffer("pz0_mean", torch.zeros(1, 3))
        self.register_buffer("pz0_logvar", torch.zeros(1, 3))
        self._ctx: Any = None

    def timed(self, t: float, y: Tensor) -> Tensor:
        angle = torch.tensor(2.0 * math.pi * t)
        return torch.cat([y, torch.stack([angle.sin(), angle.cos()]).view(1, 2).expand(len(y), 2)], dim=-1)

    def f(self, t: float, y: Tensor) -> Tensor:
        return self.post_drift(torch.cat([self.timed(t, y), self._ctx], dim=-1))

    def h(self, t: float, y: Tensor) -> Tensor:
        return self.prior_drift(self.timed(t, y))

    def g(self, t: float, y: Tensor) -> Tensor:
        return 0.05 + F.softplus(self.diffusion_net(self.timed(t, y)))

    def f_aug(self, t: float, y: Tensor) -> Tensor:
        z = y[:, :3]
        f, g, h = self.f(t, z), self.g(t, z), self.h(t, z)
        return torch.cat([f, 0.5 * (stable_division(f - h, g) ** 2).sum(dim=1, keepdim=True)], dim=1)

    def g_aug(self, t: float, y: Tensor) -> Tensor:
        return torch.cat([self.g(t, y[:, :3]), torch.zeros(len(y), 1)], dim=1)


class LatentSDEModel(nn.Module):
    """Euler's method for torchsde's is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 8, batch_first=True)
        self.to_qz0, self.to_context = nn.Linear(8, 6), nn.Linear(8, 4)
        self.sde, self.decoder = LatentSDE(), nn.Linear(3, 2)
        self.obs_logvar = nn.Parameter(torch.zeros(2))

    def solved(self, y: Tensor, steps: int) -> Tensor:
        dt, found = 1.0 / (2 * (steps - 1)), [y]
        for k in range(2 * (steps - 1)):
            noise = torch.randn_like(y) * math.sqrt(dt)
            y = y + self.sde.f_aug(k * dt, y) * dt + self.sde.g_aug(k * dt, y) * noise
            if k % 2:
                found.append(y)
        return torch.stack(found)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gru(torch.flip(x, dims=[1]))[1][-1]
        qz0_mean, qz0_logvar = self.to_qz0(h).chunk(2, dim=-1)
        z0 = qz0_mean + torch.randn_like(qz0_mean) * torch.exp(0.5 * qz0_logvar)
        qz0_var, pz0_var = torch.exp(qz0_logvar), torch.exp(self.sde.pz0_logvar)
        distance = (qz0_var + (qz0_mean - self.sde.pz0_mean) ** 2) / pz0_var
        kl0 = 0.5 * (distance - 1.0 + self.sde.pz0_logvar - qz0_logvar).sum(dim=1)
        self.sde._ctx = self.to_context(h)
        path = self.solved(torch.cat([z0, torch.zeros(len(x), 1)], dim=1), x.shape[1])
        x_mean = self.decoder(path[:, :, :3].permute(1, 0, 2))
        obs_var = torch.exp(self.obs_logvar)
        ll = -0.5 * (((x - x_mean) ** 2) / obs_var + self.obs_logvar + math.log(2 * math.pi))
        return ll.sum(dim=[1, 2]), kl0 + path[-1, :, 3]


def latent_sde_model_loss(model: Any, x: Tensor) -> Tensor:
    ll, kl = model(x)
    return -(ll.mean() - 0.5 * kl.mean())


# ---------------------------------------------------------------------------------------------- paths


class ResidualTemporalBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, dilation: int) -> None:
        super().__init__()
        wide = {"kernel_size": (3, 3), "padding": (dilation, 1), "dilation": (dilation, 1)}
        self.conv1, self.norm1 = nn.Conv2d(n_in, n_out, **wide), nn.BatchNorm2d(n_out)
        self.conv2, self.norm2 = nn.Conv2d(n_out, n_out, **wide), nn.BatchNorm2d(n_out)
        self.dropout, self.skip = nn.Dropout(0.1), nn.Conv2d(n_in, n_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(F.silu(self.norm1(self.conv1(x))))
        return self.dropout(F.silu(self.norm2(self.conv2(out)))) + self.skip(x)


class TrajectoryCVAE(nn.Module):
    """One code, and as many paths as there are modes."""

    def __init__(self) -> None:
        super().__init__()
        self.posterior = nn.Sequential(nn.Linear(8 + 10, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU())
        self.post_mu, self.post_logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.prior = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU())
        self.prior_mu, self.prior_logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.mode_embed = nn.Embedding(3, 4)
        self.decoder = nn.Sequential(nn.Linear(12, 8), nn.SiLU(), nn.Linear(8, 10))

    @staticmethod
    def reparameterize(mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, context: Tensor, target: Tensor | None) -> dict[str, Any]:
        hidden = self.prior(context)
        prior_mu, prior_logvar = self.prior_mu(hidden), self.prior_logvar(hidden)
        post_mu = post_logvar = None
        if target is not None:
            hidden = self.posterior(torch.cat([context, target.reshape(len(target), -1)], dim=-1))
            post_mu, post_logvar = self.post_mu(hidden), self.post_logvar(hidden)
            z = self.reparameterize(post_mu, post_logvar)
        else:
            z = self.reparameterize(prior_mu, prior_logvar)
        modes = z.unsqueeze(1) + self.mode_embed(torch.arange(3)).unsqueeze(0)
        asked = torch.cat([context.unsqueeze(1).expand(-1, 3, -1), modes], dim=-1)
        preds = self.decoder(asked.reshape(len(z) * 3, -1)).view(len(z), 3, 5, 2)
        return {"preds": preds, "prior": (prior_mu, prior_logvar), "post": (post_mu, post_logvar)}


class TCNForecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResidualTemporalBlock(4, 6, 1), ResidualTemporalBlock(6, 8, 2)])
        self.ego_proj = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 6))
        self.context_head = nn.Sequential(nn.Linear(14, 8), nn.SiLU(), nn.LayerNorm(8))
        self.cvae = TrajectoryCVAE()

    def forward(self, nodes: Tensor, ego: Tensor, target: Tensor | None) -> dict[str, Any]:
        out = nodes.permute(0, 3, 1, 2)
        for block in self.blocks:
            out = block(out)
        seen = torch.cat([out.mean(dim=-1)[:, :, -1], self.ego_proj(ego[:, -1, :])], dim=-1)
        return self.cvae(self.context_head(seen), target=target)


def tcn_forecaster_loss(model: Any, nodes: Tensor, ego: Tensor, target: Tensor) -> Tensor:
    out = model(nodes, ego, target)
    preds, (prior_mu, prior_logvar), (post_mu, post_logvar) = out["preds"], out["prior"], out["post"]
    best = torch.norm(preds - target.unsqueeze(1), dim=-1).mean(dim=-1).argmin(dim=1)
    recon = F.smooth_l1_loss(preds[torch.arange(len(target)), best], target)
    ratio = torch.exp(post_logvar - prior_logvar)
    distance = (post_mu - prior_mu).pow(2) / torch.exp(prior_logvar)
    kl = (0.5 * (prior_logvar - post_logvar + ratio + distance - 1.0)).sum(dim=-1).mean()
    flat = preds.reshape(len(preds), 3, -1)
    apart = (torch.cdist(flat, flat, p=2) * (1.0 - torch.eye(3).unsqueeze(0))).sum(dim=[1, 2]) / 6
    return recon + 0.01 * kl + 0.05 * torch.exp(-apart).mean()


# ---------------------------------------------------------------------------------------------- speech and music


class LayerNormalizedGatedConv(nn.Module):
    def __init__(self, n_in: int, n_out: int, length: int, transposed: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        self.conv, self.gate = kind(n_in, n_out, 4, 2, 1), kind(n_in, n_out, 4, 2, 1)
        self.norm_conv, self.norm_gate = nn.LayerNorm([n_out, length]), nn.LayerNorm([n_out, length])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_conv(self.conv(x)) * torch.sigmoid(self.norm_gate(self.gate(x)))


class VoiceVAE(nn.Module):
    """Not flat between its layers; the speaker is added to what the code was mapped to."""

    def __init__(self) -> None:
        super().__init__()
        self.speaker_dict = nn.Embedding(3, 4)
        self.encoder = nn.Sequential(LayerNormalizedGatedConv(5, 6, 8), nn.Conv1d(6, 6, 4, 2, 1))
        self.mean_dense, self.logvar_dense = nn.Linear(24, 4), nn.Linear(24, 4)
        self.latent_dense, self.speaker_dense = nn.Linear(4, 24), nn.Linear(4, 24)
        self.generator = nn.Sequential(LayerNormalizedGatedConv(6, 6, 8, True), nn.ConvTranspose1d(6, 5, 4, 2, 1))

    def sample_latent(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_e = self.encoder(x)
        z_e = z_e.view(z_e.shape[0], -1)
        mean, logvar = self.mean_dense(z_e), self.logvar_dense(z_e)
        z = self.sample_latent(mean, logvar) if self.training else mean
        z = self.latent_dense(z) + self.speaker_dense(self.speaker_dict(speaker))
        return self.generator(z.view(-1, 6, 4)), mean, logvar


def voice_vae_loss(model: Any, x: Tensor, speaker: Tensor) -> Tensor:
    x_out, mu, log_var = model(x, speaker)
    x, x_out = x.view(len(x), -1), torch.tanh(x_out).view(len(x), -1)
    loss_recons = -Normal(loc=x, scale=1).log_prob(x_out).sum(1).mean()
    loss_kl = (-0.5 * (1 + log_var - mu.pow(2) - log_var.exp())).sum(1)
    return loss_kl.mean() + loss_recons


class ClipEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode1, self.encode2 = nn.Linear(40, 16), nn.Linear(16, 8)
        self.encode_mu, self.encode_logstd = nn.Linear(8, 4), nn.Linear(8, 4)
        self.activation_func = nn.ReLU()

    def forward(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        x = self.activation_func(self.encode2(self.activation_func(self.encode1(stimulus))))
        mu, logstd = self.encode_mu(x), self.encode_logstd(x)
        return mu, torch.clamp(logstd, -20, 2)


class ClipVAE(nn.Module):
    """Its code is squashed, and its KL that of the code before."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ClipEncoder()
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 40))

    def forward(self, stimulus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logstd = self.encoder(stimulus)
        dist = Normal(mu, torch.exp(logstd))
        return self.decoder(torch.tanh(dist.rsample())), mu, logstd


def clip_vae_loss(model: Any, clip: Tensor) -> Tensor:
    recon, mu, logstd = model(clip)
    kld = -0.5 * torch.sum(1 + 2 * logstd - mu.pow(2) - (2 * logstd).exp())
    return F.mse_loss(recon, clip) + kld


# ---------------------------------------------------------------------------------------------- text


class SentenceVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.embedding = nn.Dropout(p=0.1), nn.Embedding(9, 6)
        self.encoder = nn.GRU(6, 7, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)
        self.decoder = nn.GRU(6, 7, num_layers=2, dropout=0.1, batch_first=True)
        self.mlp_mean, self.mlp_logvar = (
            nn.Sequential(nn.Linear(14, 14), nn.ReLU(), nn.Dropout(0.1), nn.Linear(14, 4)) for _ in range(2)
        )
        self.fc_hidden, self.fc = nn.Linear(4, 14), nn.Linear(7, 9)

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mean + eps * std

    def encode(self, src: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.dropout(self.embedding(src))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, length.cpu(), enforce_sorted=False, batch_first=True)
        _, hidden = self.encoder(packed)
        joined = torch.cat((hidden[-1], hidden[-2]), dim=-1)
        return self.mlp_mean(joined), self.mlp_logvar(joined)

    def words(self, x: Tensor) -> Tensor:
        gone = torch.rand_like(x, dtype=torch.float) < 0.25
        gone[:, 0] = False
        x[gone] = 3
        return x

    def forward(self, src: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = src.clone()
        mean, logvar = self.encode(src, length)
        hidden = self.fc_hidden(self.reparameterize(mean, logvar))
        hidden = hidden.view(len(src), -1, 7).transpose(0, 1).contiguous()
        output, _ = self.decoder(self.dropout(self.embedding(self.words(target))), hidden)
        return self.fc(output), mean, logvar


def sentence_vae_loss(model: Any, s: Tensor) -> Tensor:
    output, mean, logvar = model(s, torch.sum(s != 0, dim=-1))
    ce = F.cross_entropy(output[:, :-1].reshape(-1, 9), s[:, 1:].reshape(-1), ignore_index=0, reduction="none")
    kl = -0.5 * torch.mean(torch.sum(1 + logvar - mean.pow(2) - logvar.exp(), dim=-1))
    return ce.view(len(s), -1).sum(dim=1).mean(dim=0) + 0.3 * kl


# ---------------------------------------------------------------------------------------------- weights


class BBBLayer(nn.Module):
    """Means and log variances in lists beside the names."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled_weights: list[Tensor] = []
        self.means: list[Tensor] = []
        self.logvars: list[Tensor] = []

    def named(self, name: str, *shape: int) -> None:
        bound = 1.0 / math.sqrt(shape[-1])
        mean, logvar = nn.Parameter(torch.Tensor(*shape)), nn.Parameter(torch.Tensor(*shape))
        mean.data.uniform_(-bound, bound)
        logvar.data.fill_(math.log(bound) * 2)
        setattr(self, name.format("mean"), mean)
        setattr(self, name.format("logvar"), logvar)
        self.means, self.logvars = [*self.means, mean], [*self.logvars, logvar]

    def sample(self) -> None:
        self.sampled_weights = []
        for mean, logvar in zip(self.means, self.logvars, strict=True):
            eps = torch.randn_like(logvar)
            std = logvar.mul(0.5).exp()
            self.sampled_weights.append(mean + eps * std)

    def get_kl(self) -> Tensor:
        posterior, mixture = torch.zeros(()), torch.zeros(())
        std1, std2, pi = math.exp(-1), math.exp(-6), 0.25
        root = math.log(math.sqrt(2 * math.pi))
        for w, mean, logvar in zip(self.sampled_weights, self.means, self.logvars, strict=True):
            var, logstd = logvar.exp(), logvar * 0.5
            posterior = posterior + torch.sum(-((w - mean) ** 2) / (2 * var) - logstd - root)
            wide = torch.sum(-(w**2) / (2 * std1**2) - math.log(std1) - root)
            narrow = torch.sum(-(w**2) / (2 * std2**2) - math.log(std2) - root)
            mixture = mixture + wide + torch.log(pi + (1 - pi) * (narrow - wide).exp())
        return posterior - mixture


class BBBLinear(BBBLayer):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.named("weight_{}", n_out, n_in)
        self.named("bias_{}", n_out)

    def forward(self, x: Tensor) -> Tensor:
        self.sample()
        return F.linear(x, self.sampled_weights[0], self.sampled_weights[1])


class BBBLSTM(BBBLayer):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.named("weight_ih_{}_l0", 4 * hidden, n_in)
        self.named("weight_hh_{}_l0", 4 * hidden, hidden)
        self.named("bias_ih_{}_l0", 4 * hidden)
        self.named("bias_hh_{}_l0", 4 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        self.sample()
        zeros = torch.zeros(1, x.size(1), self.hidden)
        result = torch._VF.lstm(x, (zeros, zeros), self.sampled_weights, True, 1, 0.0, self.training, False, False)
        return result[0]


class BBBForecast(nn.Module):
    """One variance for all features, of which each step has its share."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.decoder = BBBLSTM(3, 6), BBBLinear(6, 2 + 1)
        self.layers = [self.rnn, self.decoder]

    def forward(self, inputs: Tensor) -> Tensor:
        padded = torch.cat((inputs, torch.zeros(4, inputs.shape[1], 3)), dim=0)
        return self.decoder(self.rnn(padded))[len(inputs) :]


def log_normal(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return torch.sum((-torch.pow(x - m, 2) / v - torch.log(2 * np.pi * v)) / 2, dim=-1)


def bbb_forecast_loss(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    outputs = model(inputs)
    m, h = torch.split(outputs, outputs.size(-1) - 1, dim=-1)
    v = F.softplus(h) + 1e-8
    scale = torch.tensor(np.linspace(1 / m.shape[0], 1, m.shape[0]), dtype=m.dtype)
    v = (v.transpose(0, -1) * scale).transpose(0, -1).repeat(1, 1, m.shape[-1])
    nll = -torch.mean(log_normal(targets, m, v))
    kl = torch.zeros(1)
    for layer in model.layers:
        kl = kl + layer.get_kl()
    return nll * 4 + kl.squeeze() / 50


# ---------------------------------------------------------------------------------------------- flows


class Planar(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.rand(1, d) - 0.5), nn.Parameter(torch.rand(1, d) - 0.5)
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        lin = torch.sum(self.w * z, [1], keepdim=True) + self.b
        inner = torch.sum(self.w * self.u)
        u = self.u + (torch.log(1 + torch.exp(inner)) - 1 - inner) * self.w / torch.sum(self.w**2)
        slope = 1 / torch.cosh(lin.reshape(-1)) ** 2
        return z + u * torch.tanh(lin), torch.log(torch.abs(1 + torch.sum(self.w * u) * slope))


class FlowVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 12), nn.ReLU(True), nn.Linear(12, 8), nn.ReLU(True))
        self.f1, self.f2 = nn.Linear(8, 4), nn.Linear(8, 4)
        self.decode = nn.Sequential(nn.Linear(4, 8), nn.ReLU(True), nn.Linear(8, 16))
        self.flows = nn.ModuleList([Planar(4) for _ in range(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.f1(self.encode(x.view(-1, 16))), self.f2(self.encode(x.view(-1, 16)))
        std = torch.exp(0.5 * log_var)
        z_0 = mu + torch.randn_like(std) * std
        z, log_det = z_0, torch.zeros(())
        for flow in self.flows:
            z, one = flow(z)
            log_det = log_det + one
        q0, p = Normal(mu, torch.exp(0.5 * log_var)), Normal(0.0, 1.0)
        kld = -torch.sum(p.log_prob(z), -1) + torch.sum(q0.log_prob(z_0), -1) - log_det.view(-1)
        return torch.sigmoid(self.decode(z)), kld


def flow_vae_loss(model: Any, x: Tensor) -> Tensor:
    rebuilt, kld = model(x)
    return (F.binary_cross_entropy(rebuilt, x.view(-1, 16), reduction="sum") + 0.5 * kld.sum()) / len(x)


# ---------------------------------------------------------------------------------------------- recommendation


class GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scaling: float) -> Tensor:
        ctx.scaling = scaling
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.scaling * grad, None


class PolyLinear(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for i in range(len(widths) - 1):
            self.layers.add_module(f"linear_{i}", nn.Linear(widths[i], widths[i + 1]))
            if i < len(widths) - 2:
                self.layers.add_module(f"relu_{i}", nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MultVAEAdv(nn.Module):
    """Its KL is taken where it encodes; an adversary reads the code."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.decoder_dropout, self.latent_size = nn.Dropout(p=0.5), nn.Dropout(p=0.1), 4
        self.encoder, self.decoder = PolyLinear(12, 8, 8), PolyLinear(4, 8, 12)
        self.adversaries = nn.ModuleList([PolyLinear(4, 6, 2) for _ in range(2)])

    def encoder_forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(F.normalize(self.dropout(x), 2, 1))
        mu, logvar = x[:, : self.latent_size], x[:, self.latent_size :]
        KL = 0.5 * torch.mean(torch.sum(-logvar + torch.exp(logvar) + mu**2 - 1, dim=1))
        return self._sampling(mu, logvar), KL

    def _sampling(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        epsilon = torch.randn_like(std)
        return mu + epsilon * std * self.training

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        z, KL = self.encoder_forward(x)
        decoded = self.decoder(self.decoder_dropout(z))
        reversed_z = GradientReversal.apply(z, 200.0)
        return decoded, KL, [adversary(reversed_z) for adversary in self.adversaries]


def mult_vae_adv_loss(model: Any, x: Tensor, gender: Tensor) -> Tensor:
    logits, KL, guesses = model(x)
    neg_ll = -torch.mean(torch.sum(F.log_softmax(logits, dim=1) * x, dim=1))
    adversarial = sum(F.cross_entropy(guess, gender) for guess in guesses) / len(guesses)
    return neg_ll + 0.4 * KL + 1.0 * adversarial


class MacridVAE(nn.Module):
    """Log ratios of variances, negated, and drawn with a share of the prior's deviation; means of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.q_layers = nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 8)])
        self.cores, self.items = nn.Parameter(torch.empty(3, 4)), nn.Parameter(torch.empty(12, 4))
        nn.init.xavier_normal_(self.cores.data)
        nn.init.xavier_normal_(self.items.data)
        self.tau, self.std, self.drop = 0.1, 0.075, nn.Dropout(0.5)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.q_layers[1](torch.tanh(self.q_layers[0](self.drop(F.normalize(x)))))
        mu = F.normalize(h[:, :4])
        ratio = -h[:, 4:]
        return mu, torch.exp(0.5 * ratio) * self.std, ratio

    def reparameterize(self, mu: Tensor, std: Tensor) -> Tensor:
        if self.training:
            eps = torch.randn_like(std)
            return eps * std + mu
        return mu

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        cores, items = F.normalize(self.cores), F.normalize(self.items)
        cates = F.gumbel_softmax(torch.mm(items, cores.t()) / self.tau, tau=1)
        probs, ratios = torch.zeros(()), []
        for k in range(3):
            cates_k = cates[:, k].unsqueeze(0)
            mu_k, std_k, ratio_k = self.encode(x * cates_k)
            z_k = F.normalize(self.reparameterize(mu_k, std_k))
            ratios.append(ratio_k)
            probs = probs + torch.exp(torch.mm(z_k, items.t()) / self.tau) * cates_k
        return ratios, torch.log(probs)


def macrid_loss(model: Any, x: Tensor) -> Tensor:
    ratios, logits = model(x)
    recon = torch.mean(torch.sum(-F.log_softmax(logits, 1) * x, -1))
    kl = torch.zeros(())
    for ratio in ratios:
        kl = kl + torch.mean(torch.sum(0.5 * (-ratio + torch.exp(ratio) - 1.0), dim=1))
    return recon + 0.2 * kl


# ---------------------------------------------------------------------------------------------- controls


class NormedMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear1, self.norm1 = nn.Linear(n_in, 8), nn.LayerNorm(8)
        self.linear2, self.norm2 = nn.Linear(8, n_out), nn.LayerNorm(n_out)
        self.shortcut = nn.Sequential(nn.Linear(n_in, n_out), nn.LayerNorm(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.linear2(F.relu(self.norm1(self.linear1(x)))))
        return F.relu(out + self.shortcut(x))


class TargetsAndMotion(nn.Module):
    """What is called a mean is an offset, without a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.prob_mlp = nn.Sequential(NormedMLP(8, 8), nn.Linear(8, 1))
        self.mean_mlp = nn.Sequential(NormedMLP(8, 8), nn.Linear(8, 2))
        self.traj_pred = nn.Sequential(NormedMLP(8, 8), nn.Linear(8, 10))

    def forward(self, feat: Tensor, candidates: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        repeated = torch.cat([feat.repeat(1, candidates.size(1), 1), candidates], dim=2)
        probs = F.softmax(self.prob_mlp(repeated).squeeze(2), dim=-1)
        return probs, self.mean_mlp(repeated), self.traj_pred(torch.cat([feat, goal.unsqueeze(1)], dim=-1)).squeeze(1)


def targets_loss(model: Any, feat: Tensor, candidates: Tensor, nearest: Tensor, goal: Tensor, path: Tensor) -> Tensor:
    probs, offsets, found = model(feat, candidates, goal)
    rows = torch.arange(len(feat))
    loss = F.binary_cross_entropy(probs, F.one_hot(nearest, probs.size(1)).float(), reduction="sum")
    loss = loss + F.smooth_l1_loss(offsets[rows, nearest], goal - candidates[rows, nearest], reduction="sum")
    return 0.1 * loss + F.smooth_l1_loss(found, path, reduction="sum")


class RNNPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.encoder = nn.Dropout(0.2), nn.Linear(3, 6)
        self.rnn, self.decoder = nn.LSTM(6, 6, 2, dropout=0.2), nn.Linear(6, 3)

    def forward(self, x: Tensor, hidden: Any, noise: bool = False) -> tuple[Tensor, Any, Tensor]:
        emb = self.drop(self.encoder(x.contiguous().view(-1, 3))).view(-1, x.size(1), 6)
        if noise:
            hidden = (F.dropout(hidden[0], training=True, p=0.9), F.dropout(hidden[1], training=True, p=0.9))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output)
        decoded = self.decoder(output.view(-1, 6)).view(output.size(0), output.size(1), 3)
        return decoded, hidden, output


def rnn_predictor_loss(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    start = (torch.zeros(2, inputs.size(1), 6), torch.zeros(2, inputs.size(1), 6))
    hidden, free = start, []
    step = inputs[0].unsqueeze(0)
    for _ in range(len(inputs)):
        step, hidden, _ = model(step, hidden, noise=True)
        free.append(step)
    forced, _, _ = model(inputs, start)
    drawn = torch.cat(free, dim=0)
    return (F.mse_loss(drawn, targets) + F.mse_loss(forced, targets) + F.mse_loss(forced, drawn)) / 3.0


class AugmentedODENet(nn.Module):
    """Runge and Kutta's method for torchdiffeq's is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.linear_layer, self.non_linearity = nn.Linear(5, 1), nn.Softplus()

    def field(self, t: float, x: Tensor) -> Tensor:
        out = self.non_linearity(self.fc1(torch.cat([torch.ones(len(x), 1) * t, x], 1)))
        return self.fc3(self.non_linearity(self.fc2(out)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.zeros(len(x), 2)], 1)
        for k in range(4):
            t, dt = k / 4, 1 / 4
            middle = x + dt / 2 * self.field(t, x)
            x = x + dt * self.field(t + dt / 2, middle)
        return self.linear_layer(x)


def smooth_l1(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.smooth_l1_loss(model(x), y)


class LatentField(nn.Module):
    """Codes that are predicted from one another; their spread over the batch is kept up by a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
        self.field = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))

    def step(self, z: Tensor, dt: Tensor) -> Tensor:
        h = dt[:, None] / 2
        for _ in range(2):
            k1 = self.field(z)
            k2 = self.field(z + 0.5 * h * k1)
            z = z + h * k2
        return z

    def forward(self, obs: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        z, dts = self.encoder(obs), times[:, 1:] - times[:, :-1]
        ahead = self.step(z[:, :-1].reshape(-1, 3), dts.reshape(-1)).reshape(len(z), -1, 3)
        return z, ahead


def latent_field_loss(model: Any, obs: Tensor, times: Tensor) -> Tensor:
    z, ahead = model(obs, times)
    flat = z.reshape(-1, 3)
    std = torch.sqrt(flat.var(dim=0) + 1e-4)
    spread = F.relu(1.0 - std).mean()
    centred = flat - flat.mean(dim=0)
    cov = (centred.T @ centred) / (len(flat) - 1)
    off = cov - torch.diag(torch.diag(cov))
    return F.mse_loss(ahead, z.detach()[:, 1:]) + spread + 0.04 * (off**2).sum() / 3


# ---------------------------------------------------------------------------------------------- inputs, and σ


def graphs() -> tuple[Tensor, ...]:
    edges = torch.tensor([[0, 1, 1, 2, 3, 4, 4, 5], [1, 0, 2, 1, 4, 3, 5, 4]])
    return rand(6, 4), edges, torch.tensor([0, 0, 0, 1, 1, 1]), randn(2, 1, seed=9)


def windows() -> tuple[Tensor, ...]:
    x = randn(5, 4, 4)
    x[1, 2, 0] = 0.0
    return x, randn(5, 4, seed=9)


def worlds() -> tuple[Tensor, ...]:
    first, mask = torch.zeros(3, 4), torch.ones(3, 4)
    first[:, 0], mask[2, 3] = 1.0, 0.0
    return randn(3, 4, 6), randn(3, 4, 2, seed=9), first, randn(3, 4, seed=10), mask


def dreams() -> tuple[Tensor, ...]:
    return randn(5, 7), F.one_hot(tokens(3, 5, 2), 3).float().flatten(1)


def updates() -> tuple[Tensor, ...]:
    return randn(6, 4), rand(6, 2), randn(6, 2, seed=9) - 1, randn(6, 1, seed=10), randn(6, 1, seed=11)


def curves() -> tuple[Tensor, ...]:
    return randn(3, 4, 1), randn(3, 4, 2, seed=9), randn(3, 7, 1, seed=10), randn(3, 7, 2, seed=11)


def sentences() -> tuple[Tensor, ...]:
    s = tokens(9, 3, 6, low=1)
    s[1, 4:] = 0
    return (s,)


def hundred_thousandth(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-5


def tiny_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-8


def root_sigmoid(v: Tensor) -> Tensor:
    return torch.sqrt(0.03 * torch.sigmoid(v) + 1e-6)


def tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def biased(v: Tensor) -> Tensor:
    return F.softplus(v + ACTOR_BIAS) + 0.1


def two_floors(v: Tensor) -> Tensor:
    return (F.softplus(v) + 1e-5).clamp(min=1e-4)


def half_capped(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, -20, 0.5))


def two_capped(v: Tensor) -> Tensor:
    return torch.exp(torch.clamp(v, -20, 2))


def clamped_exp(v: Tensor) -> Tensor:
    return torch.clamp(torch.exp(v), 0.1, 1.0)


def millionth(v: Tensor) -> Tensor:
    return torch.clamp(v.exp(), min=1e-6)


def wide_sigmoid(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def wide_softplus(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


def root_constrained(v: Tensor) -> Tensor:
    return torch.sqrt(constrained(v))


def negated(v: Tensor) -> Tensor:
    return 0.075 * torch.exp(-0.5 * v)


# fmt: off
CASES = (
    PublicCase(
        "GMDN",
        Retold(
            "diningphil/graph-mixture-density-networks", "12df011f7debf1232e3237f2377bb1551b47731e",
            "gmdn.py, gmdn_emission.py, gmdn_transition.py, gmdn_conv.py",
        ),
        GMDN, graphs, (StridedHead("emission.final_transform", 1, 6, "likelihood", tiny_softplus, step=2),), gmdn_loss,
        truth="gmdn_emission.py get_distribution_parameters: softplus + 1e-8 of the second of each expert's two, the "
        "scale of a Normal, whose density is taken out of its logarithm and weighted",
    ),
    PublicCase(
        "Handwriting prediction",
        Retold(
            "X-rayLaser/pytorch-handwriting-synthesis-toolkit", "899e9432dfe0998ba2ef31582d11c2d5f24a5185",
            "handwriting_synthesis/models.py, handwriting_synthesis/losses.py",
        ),
        HandwritingPrediction,
        lambda: (randn(3, 5, 3), torch.cat([randn(3, 5, 2, seed=9), bits(3, 5, 1)], -1)),
        (likelihood("output_layer.sd", sigma=torch.exp),), handwriting_loss,
        truth="models.py MixtureDensityLayer: exp(v); a bivariate Normal with a correlation, each of whose deviations "
        "is a channel's. The recurrent part is TorchScript, the layer is not",
    ),
    PublicCase(
        "DeepAR (duckbill)",
        Retold(
            "duckbill/DeepAR-torch", "98883adebf633ae145854c64133ab0dc28118b81",
            "model/deepAR.py, data_process/util.py",
        ),
        DeepAR, windows, (likelihood("distribution_presigma", sigma=F.softplus),), deep_ar_loss,
        truth="deepAR.py Net: softplus of what presigma emits; the density of the labels that are not zero",
    ),
    PublicCase(
        "DeepAR (mrrahman1517)",
        Retold(
            "mrrahman1517/deepAR-Implementation", "db09f69b6931f7aaa359f63c832ba15a01be4f26",
            "deep_ar_library/src/deep_ar/model.py, deep_ar_library/src/deep_ar/likelihoods.py, "
            "deep_ar_library/src/deep_ar/trainer.py",
        ),
        GaussianForecast, lambda: (randn(4, 6, 3), randn(4, 4, 1, seed=9)),
        (likelihood("proj", 1, 2, hundred_thousandth),), gaussian_forecast_loss,
        truth="likelihoods.py GaussianLikelihood: softplus + 1e-5, of the last steps",
    ),
    PublicCase(
        "MACRO_VRNN",
        Retold(
            "tsmyu/PO-MC-DHVRNN", "824735cb8f54e94fa55d918d33985965774d0bbf",
            "vrnn/models/macro_vrnn.py, vrnn/models/utils.py",
        ),
        MacroVRNN, lambda: (randn(4, 2, 5, 12), tokens(5, 4, 5, 2)),
        (
            *(posterior(f"enc_std.{i}.0", sigma=F.softplus) for i in (0, 1)),
            *(prior(f"prior_std.{i}.0", sigma=F.softplus) for i in (0, 1)),
            *(likelihood(f"dec_std.{i}.0", sigma=F.softplus) for i in (0, 1)),
        ), macro_vrnn_loss,
        truth="macro_vrnn.py MACRO_VRNN.forward, without attention, pretraining and the body's constraints, which are "
        "options, and the intents' networks, which the loss does not reach: softplus, one network an agent",
    ),
    PublicCase(
        "LSTMVAE (two compartments)",
        Retold(
            "jp4474/Bayesian-Informed-LSTM-VAE-for-Variational-Inference", "c3680797efb8d2f62b8a0c25476d833fb5d37124",
            "Models.py, two_compart_model_train_2.py",
        ),
        LSTMVAEInstance, lambda: (randn(4, 6, 3), randn(4, 5, seed=9)), (posterior("logvar"),),
        lstm_vae_instance_loss,
        truth="two_compart_model_train_2.py LSTMVAE_INSTANCE: std = exp(0.5 logvar), and the KL's mean",
    ),
    PublicCase(
        "Argo profile VAE",
        Retold("SamKhan32/argo-latent-ode", "0513ae6703d463b127f11317e8e11429f20df51a", "models/vae.py"),
        MaskedProfileVAE,
        lambda: (randn(4, 5, 3), bits(4, 5, 3).bool(), torch.linspace(0, 1, 5)), (posterior("encoder.fc_var"),),
        masked_profile_loss, truth="models/vae.py VAE.reparameterize: exp(0.5 log_var), and the KL's mean",
    ),
    PublicCase(
        "KVAE (rodrigo-paganini)",
        Retold(
            "rodrigo-paganini/kalman-vae", "047ad45f74867b41b39d87c6322b12b679b5c0e2",
            "kvae/vae/vae.py, kvae/vae/losses.py, kvae/model/model.py, kvae/kalman/kalman_filter.py, "
            "kvae/kalman/dyn_param.py",
        ),
        KVAE, lambda: (bits(3, 4, 1, 8, 8),), (posterior("encoder.fc_var.0", sigma=root_sigmoid),), kvae_loss,
        truth="vae.py Encoder: 0.03 sigmoid(v) is a variance; model.py reparameterize adds 1e-6 under the root, and "
        "the density does not. Hard: σ is the draw's. The dynamics that an LSTM mixes, one of two options; without "
        "controls. The filter's covariances are full, and its noises constants",
    ),
    PublicCase(
        "DKF_simple",
        Retold(
            "atubito98/deep-markov-model", "8a7d0582987d7a925eb692ec2459a42ba284b888",
            "dmm/model/dkf_simple.py, dmm/utils/loss.py, dmm/learning_algo_dir.py",
        ),
        DeepKalmanFilter, lambda: (randn(4, 5, 6), randn(4, 5, 4, seed=9)), (likelihood("gen_logvar"),),
        deep_kalman_loss,
        truth="dkf_simple.py loss_rec: the log variance of GaussianNLLLoss. Hard: posterior and prior have exp(v) on "
        "the diagonal of a triangular factor, with a learned triangle below, so that v is no coordinate's σ: no heads",
    ),
    PublicCase(
        "Dreamer RSSM, Gaussian",
        Retold(
            "Grzmro/dreamer-rssm", "e8fad6f284172906bb71d2fbeab21bfae4c80701", "models/rssm.py, models/world_model.py",
        ),
        lambda: WorldModel("gaussian"), worlds,
        (posterior("rssm.posterior_net.3", 3, 6, tenth), prior("rssm.prior_net.3", 3, 6, tenth)), world_model_loss,
        truth="rssm.py _stats: softplus + 0.1; a KL whose sides are detached in turn, with free nats; the encoder and "
        "the decoder are of pictures upstream",
    ),
    PublicCase(
        "Dreamer actor (Grzmro)",
        Retold(
            "Grzmro/dreamer-rssm", "e8fad6f284172906bb71d2fbeab21bfae4c80701",
            "models/actor.py, models/losses.py, train/imagine_rollout.py",
        ),
        Dreaming, dreams, (likelihood("actor.net.6", 2, 4, biased),), dreaming_loss,
        truth="actor.py _continuous_params: softplus(v + a constant) + 0.1; actions are a likelihood's, as in earlier "
        "looks, though they go into a world, whose codes are classes by default",
    ),
    PublicCase(
        "PlaNet (Chiensaucisse)",
        Retold(
            "Chiensaucisse/PLAnet-pytorch-implementation", "16ba0435201129b3cb3efdd3e79fe6ec9c7036b9",
            "model.py, utils.py, main.py",
        ),
        Planet, lambda: (randn(3, 5, 9), randn(3, 4, 2, seed=9), randn(3, 4, seed=10)),
        (posterior("rssm.post_net.2", 3, 6, two_floors), prior("rssm.prior_net.2", 3, 6, two_floors)), planet_loss,
        truth="model.py RSSM.prior, posterior: softplus + 1e-5, and no less than 1e-4; the encoder and the decoder are "
        "of pictures upstream, and its three free nats are of thirty dimensions, ours 0.3 of three",
    ),
    PublicCase(
        "PPO, Gaussian (XinJingHao)",
        Retold("XinJingHao/PPO-Continuous-Pytorch", "388113545f1edf04dbd0e0f605c5ceddba3ab131", "utils.py, PPO.py"),
        lambda: PPOAgent("GS_ms"), updates, (likelihood("actor.sigma_head", sigma=F.softplus),), itself,
        truth="utils.py GaussianActor_musigma: softplus; the density of actions that were taken, and the entropy",
    ),
    PublicCase(
        "Advanced SAC policy",
        Retold(
            "BlueFisher/Advanced-Soft-Actor-Critic", "b26b1cd4b3ef234376048df80e67ec9212776e49",
            "algorithm/nn_models/policy.py, algorithm/sac_base.py, algorithm/utils/operators.py",
        ),
        EnsembleSAC, lambda: (randn(6, 4),), (likelihood("model_policy.logstd_dense.dense.0", sigma=half_capped),),
        itself, truth="policy.py ModelPolicy: exp(clamp(v, -20, 0.5)); actions are a likelihood's",
    ),
    PublicCase(
        "Advanced SAC predictions",
        Retold(
            "BlueFisher/Advanced-Soft-Actor-Critic", "b26b1cd4b3ef234376048df80e67ec9212776e49",
            "algorithm/nn_models/predictions.py, algorithm/sac_base.py",
        ),
        Predictions, lambda: (randn(4, 4, 5), randn(4, 3, 2, seed=9), randn(4, 3, seed=10)),
        (likelihood("model_transition.dense.dense.0", 4, 8, clamped_exp),), itself,
        truth="predictions.py ModelTransition: clamp(exp(v), 0.1, 1). Hard: the density of the next state, which is "
        "given, makes it a likelihood; a KL to the standard Normal is added as a penalty; nothing is drawn",
    ),
    PublicCase(
        "variBAD VAE",
        Retold(
            "lmzintgraf/varibad", "57e1795be142ace52d0c353097acf193d9067200",
            "models/encoder.py, models/decoder.py, vae.py",
        ),
        VaribadVAE, lambda: (randn(4, 3, 3), randn(4, 3, 3, seed=9), randn(4, 3, 2, seed=10), randn(4, 3, 1, seed=11)),
        (posterior("encoder.fc_logvar"), prior("encoder.fc_logvar")), itself,
        truth="encoder.py _sample_gaussian: exp(0.5 logvar); vae.py compute_kl_loss: each step's code against the step "
        "before it. Hard: one layer is posterior and prior at once, as of neural processes in the first look",
    ),
    PublicCase(
        "variBAD policy",
        Retold(
            "lmzintgraf/varibad", "57e1795be142ace52d0c353097acf193d9067200", "models/policy.py, algorithms/ppo.py",
        ),
        VaribadPolicy,
        lambda: (randn(6, 3), randn(6, 6, seed=9), randn(6, 2, seed=10), randn(6, 1, seed=11), randn(6, 1, seed=12)),
        (likelihood("dist.logstd", sigma=millionth),), varibad_ppo_loss,
        truth="policy.py DiagGaussian: max(1e-6, exp(v)) of a parameter; the inputs' running means are left out",
    ),
    PublicCase(
        "Attentive NP (semi-supervised)",
        Retold(
            "YannDubs/Semi-Supervised-Neural-Processes", "77176131923817f3a165883dd6fca7b9f1e9d0b3",
            "skssl/transformers/neuralproc/neuralproc.py, skssl/transformers/neuralproc/losses.py, "
            "skssl/predefined/mlp.py, skssl/predefined/helpers.py",
        ),
        AttentiveNeuralProcess, curves,
        (
            StridedHead("lat_encoder.out", 1, 12, "posterior", wide_sigmoid, step=2),
            StridedHead("lat_encoder.out", 1, 12, "prior", wide_sigmoid, step=2),
            likelihood("decoder.flat_module.out", 2, 4, wide_softplus),
        ), attentive_process_loss,
        truth="neuralproc.py latent_path: 0.1 + 0.9 sigmoid of every other channel; decode: 0.1 + 0.9 softplus. Hard: "
        "one encoder is posterior and prior at once, as in the first look",
    ),
    PublicCase(
        "GP-ODE",
        Retold(
            "hegdepashupati/gaussian-process-odes", "00443f515ce51f92d3d4423c832599b00289d16d",
            "src/core/dsvgp.py, src/core/kernels.py, src/core/likelihoods.py, src/core/states.py, src/core/flow.py, "
            "src/gpode/models.py, src/gpode/model_builder.py",
        ),
        GPODE, lambda: (randn(3, 4, 2), torch.linspace(0.1, 0.4, 4)),
        (likelihood("likelihood.unconstrained_variance", sigma=root_constrained),), itself,
        truth="likelihoods.py Gaussian: softplus + 1e-12 is a variance. Hard: the inducing values' and the first "
        "state's scales are triangles by default, no coordinate's σ; a kernel's variance and lengths are no Normal's",
    ),
    PublicCase(
        "ADS-B latent SDE",
        Retold(
            "zheniannn/C5-VAESDE-LATENT-SDE", "a5618c1f519d4e1ccc78e1a3d1061d5295868f71",
            "src/adsb_latent_sde/model.py, src/adsb_latent_sde/training.py",
        ),
        LatentSDEModel, lambda: (randn(4, 5, 2),),
        (
            posterior("to_qz0", 3, 6), posterior("sde.diffusion_net.2", sigma=None), likelihood("obs_logvar"),
        ), latent_sde_model_loss,
        truth="model.py LatentSDEModel: exp(0.5 logvar) of the first state and of the data. Hard: the diffusion, 0.05 "
        "+ softplus, is the σ of each step's draw, times the root of the step; the prior's path shares it",
    ),
    PublicCase(
        "TCN-CVAE forecaster",
        Retold(
            "aryanipb/tcn-cvae-trajectory-forecasting", "153035e6c261b92b661fdf7077c12c269aa3b3be",
            "src/trajectory_vae_forecasting/models/cvae_decoder.py, "
            "src/trajectory_vae_forecasting/models/forecaster.py, src/trajectory_vae_forecasting/models/losses.py",
        ),
        TCNForecaster, lambda: (randn(3, 5, 3, 4), randn(3, 5, 4, seed=9), randn(3, 5, 2, seed=10)),
        (posterior("cvae.post_logvar"), prior("cvae.prior_logvar")), tcn_forecaster_loss,
        truth="cvae_decoder.py ConditionalTrajectoryVAE: exp(0.5 logvar), and losses.py",
    ),
    PublicCase(
        "VAE voice conversion (vsimkus)",
        Retold(
            "vsimkus/vae-voice-conversion", "1cfda2b5592dc8e47d0158ec0451ccfdc9ed9a25",
            "models/vae.py, models/common_networks.py, experiment_builders/vae_builder.py",
        ),
        VoiceVAE, lambda: (randn(4, 5, 16), tokens(3, 4)), (posterior("logvar_dense"),), voice_vae_loss,
        truth="models/vae.py sample_latent: exp(0.5 logvar); the likelihood's scale is one",
    ),
    PublicCase(
        "Music VAE (rshube)",
        Retold(
            "rshube/music-vae", "56b9ffdf759aa7d97ce7cf35dee54fd35d6cfc65",
            "models/complex_vae.py, functional/training.py",
        ),
        ClipVAE, lambda: (randn(4, 40),), (posterior("encoder.encode_logstd", sigma=two_capped),), clip_vae_loss,
        truth="complex_vae.py: exp(clamp(v, -20, 2)); the code goes through a tanh, and the KL is of the one before",
    ),
    PublicCase(
        "Sentence VAE (shota3506)",
        Retold(
            "shota3506/sentence-VAE", "ee290362ba0f017e75720d263d80e08d98579326",
            "sentence_vae/model.py, sentence_vae/criterion.py, main.py",
        ),
        SentenceVAE, sentences, (posterior("mlp_logvar.3"),), sentence_vae_loss,
        truth="model.py VAE.reparameterize: exp(0.5 logvar), and main.py",
    ),
    PublicCase(
        "BBB forecasts",
        Retold(
            "parachutel/bayes-by-backprop", "71399dfcf19a206fa2720f296630c73cb4289372",
            "codebase/models/nns/BBBLayer.py, codebase/models/nns/BBBLinear.py, codebase/models/nns/BBBRNN.py, "
            "codebase/models/BBBTimeSeriesPredModel.py, codebase/utils.py, codebase/train.py",
        ),
        BBBForecast, lambda: (randn(5, 4, 3), randn(4, 4, 2, seed=9)),
        (
            *(posterior(f"rnn.{name}_logvar_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
            posterior("decoder.weight_logvar"), posterior("decoder.bias_logvar"),
            likelihood("decoder", 2, 3, None),
        ), bbb_forecast_loss,
        truth="BBBLayer.py sample: exp(0.5 logvar) of weights. utils.py gaussian_parameters: softplus + 1e-8 of the "
        "last channel is a variance, of which each step takes another share: no single σ. With a learned variance, "
        "which is the script's default",
    ),
    PublicCase(
        "Flow VAE (normflows)",
        Retold(
            "VincentStimper/normalizing-flows", "c6616b1a9f04c0e894b9e045e66bd504db17ef5e",
            "examples/vae.py, normflows/flows/planar.py",
        ),
        FlowVAE, lambda: (bits(4, 1, 4, 4),), (posterior("f2"),), flow_vae_loss,
        truth="examples/vae.py FlowVAE: exp(0.5 log_var); densities of samples before and after a flow",
    ),
    PublicCase(
        "Adversarial MultVAE",
        Retold(
            "gescobedo/advx-multvae", "85c32b153c61d227d97639a1922b3176e1007239",
            "advx-multvae/src/modules/mult_vae.py, advx-multvae/src/modules/losses.py, "
            "advx-multvae/src/modules/polylinear.py, advx-multvae/src/modules/adversary.py",
        ),
        MultVAEAdv, lambda: (bits(5, 12), tokens(2, 5)), (posterior("encoder.layers.linear_1", 4, 8),),
        mult_vae_adv_loss, truth="mult_vae.py _sampling: exp(0.5 logvar), times whether it trains; the KL beside it",
    ),
    PublicCase(
        "Disentangled MultiVAE",
        Retold(
            "lzz0007/vae-cf-pytorch", "8667cd2330bb9502b9ce1f4dc80ddb86aa45f8f7", "models_dis.py, main_disentangled.py",
        ),
        MacridVAE, lambda: (bits(5, 12),), (posterior("q_layers.1", 4, 8, negated),), macrid_loss,
        truth="models_dis.py encode: exp(-0.5 v) 0.075; the KL has the ratio of variances alone, without means. The "
        "layers of a decoder that is not called are left out",
    ),
    PublicCase(
        "Dreamer RSSM, categorical",
        Retold(
            "Grzmro/dreamer-rssm", "e8fad6f284172906bb71d2fbeab21bfae4c80701", "models/rssm.py, models/world_model.py",
        ),
        lambda: WorldModel("categorical"), worlds, (), world_model_loss,
        truth="rssm.py: classes, the default; the data's Normal has a scale of one",
    ),
    PublicCase(
        "PPO, Beta (XinJingHao)",
        Retold("XinJingHao/PPO-Continuous-Pytorch", "388113545f1edf04dbd0e0f605c5ceddba3ab131", "utils.py, PPO.py"),
        lambda: PPOAgent("Beta"), lambda: (randn(6, 4), rand(6, 2) * 0.9 + 0.05, *updates()[2:]), (), itself,
        truth="utils.py BetaActor, the default: a Beta law's two parameters are no Normal's",
    ),
    PublicCase(
        "DeepAR, negative binomial (FCWVivian)",
        Retold("FCWVivian/deepar-m5-forecasting", "13d31be9d67a025112ced2f80670610d84149ca6", "m5/deepar_nb.py"),
        NegativeBinomialForecast,
        lambda: (randn(4, 6, 3), tokens(4, 4), rand(4, 1) * 3, tokens(5, 4, 6, seed=9).float()), (),
        negative_binomial_loss, truth="deepar_nb.py DeepARNB: a negative binomial's mean and dispersion",
    ),
    PublicCase(
        "TNT",
        Retold(
            "Henry1iu/TNT-Trajectory-Prediction", "bcbccdc1d35a717793e3caa1d599c1f700612227",
            "core/model/layers/target_prediction.py, core/model/layers/motion_etimation.py",
        ),
        TargetsAndMotion, lambda: (randn(3, 1, 6), randn(3, 5, 2, seed=9), tokens(5, 3), randn(3, 2, seed=10),
                                   randn(3, 10, seed=11)), (), targets_loss,
        truth="target_prediction.py, motion_etimation.py: Huber's losses",
    ),
    PublicCase(
        "RNN predictor",
        Retold(
            "chickenbestlover/RNN-Time-series-Anomaly-Detection", "21ddb78f9128cc5a96dfaf4b27ee4db76a1a68ee",
            "model/model.py, 1_train_predictor.py",
        ),
        RNNPredictor, lambda: (randn(5, 4, 3), randn(5, 4, 3, seed=9)), (), rnn_predictor_loss,
        truth="1_train_predictor.py: squared errors, and a hidden state that is dropped from",
    ),
    PublicCase(
        "Augmented neural ODE",
        Retold(
            "EmilienDupont/augmented-neural-odes", "88d9865fa863069fa65e538ee11eebea934dbbe4",
            "anode/models.py, anode/training.py",
        ),
        AugmentedODENet, lambda: (randn(6, 3), randn(6, 1, seed=9)), (), smooth_l1,
        truth="anode/models.py: a softplus between layers; Huber's loss",
    ),
    PublicCase(
        "Latent field (micmich05)",
        Retold(
            "micmich05/latent-ode-dynamics", "fefc71d465c2adca520ee88cb5849f8d006fdfc1",
            "latentode/model.py, latentode/losses.py",
        ),
        LatentField, lambda: (randn(4, 5, 4), torch.linspace(0, 1, 5).repeat(4, 1)), (), latent_field_loss,
        truth="losses.py: a spread over the batch is no Normal's σ",
    ),
)
# fmt: on
