"""Models of sequences with Normal heads that the scan was not tuned on: speech, video, music, control, trajectories."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import generator, half
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from zoo import Case, TrueHead


class TextEncoder(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.emb = nn.Embedding(9, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.proj = nn.Conv1d(8, 2 * channels, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.emb(tokens).transpose(1, 2) * math.sqrt(8)
        h = torch.relu(self.conv(h * mask)) * mask
        m, logs = torch.split(self.proj(h) * mask, 4, dim=1)
        return h, m, logs


class SpectrogramEncoder(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.pre = nn.Conv1d(5, 8, 1)
        self.gate = nn.Conv1d(8, 16, 3, padding=1)
        self.proj = nn.Conv1d(8, 2 * channels, 1)

    def forward(self, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.pre(y) * mask
        a, b = self.gate(h).chunk(2, 1)
        stats = self.proj(h + torch.tanh(a) * torch.sigmoid(b)) * mask
        m, logs = torch.split(stats, 4, dim=1)
        z = (m + torch.randn_like(m) * torch.exp(logs)) * mask
        return z, m, logs


class MeanCoupling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(2, 8, 3, padding=1)
        self.post = nn.Conv1d(8, 2, 1)
        nn.init.zeros_(self.post.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x0, x1 = x.chunk(2, 1)
        return torch.flip(torch.cat([x0, x1 + self.post(torch.relu(self.pre(x0))) * mask], 1), [1])


class TextToSpeech(nn.Module):
    """Text and spectrogram, aligned by likelihood; a flow between posterior and text prior; log sigmas in the KL."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_p = TextEncoder()
        self.enc_q = SpectrogramEncoder()
        self.flow = nn.ModuleList(MeanCoupling() for _ in range(2))
        self.dp = nn.Conv1d(8, 1, 1)
        self.dec = nn.Conv1d(4, 5, 3, padding=1)

    def forward(self, tokens: Tensor, token_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
        h, m_p, logs_p = self.enc_p(tokens, token_mask)
        z, _, logs_q = self.enc_q(y, y_mask)
        z_p = z
        for coupling in self.flow:
            z_p = coupling(z_p, y_mask)
        with torch.no_grad():
            precision = torch.exp(-2 * logs_p)
            score = torch.sum(-0.5 * math.log(2 * math.pi) - logs_p, 1, keepdim=True)
            score = score + torch.matmul(-0.5 * (z_p**2).transpose(1, 2), precision)
            score = score + torch.matmul(z_p.transpose(1, 2), m_p * precision)
            score = score + torch.sum(-0.5 * m_p**2 * precision, 1, keepdim=True)
            path = F.one_hot(score.masked_fill(token_mask == 0, -1e9).argmax(-1), tokens.shape[1]).float()
            path = path * y_mask.transpose(1, 2)
        log_w = self.dp(h.detach()) * token_mask
        duration_loss = F.mse_loss(log_w, torch.log(path.sum(1, keepdim=True) + 1e-6) * token_mask)
        m_p = torch.matmul(path, m_p.transpose(1, 2)).transpose(1, 2)
        logs_p = torch.matmul(path, logs_p.transpose(1, 2)).transpose(1, 2)
        kl = logs_p - logs_q - 0.5
        kl += 0.5 * ((z_p - m_p) ** 2) * torch.exp(-2.0 * logs_p)
        kl = torch.sum(kl * y_mask) / torch.sum(y_mask)
        return F.l1_loss(self.dec(z[:, :, :4]), y[:, :, :4]) * 45 + duration_loss + kl


def speech() -> tuple[Any, ...]:
    tokens = torch.tensor([[1, 4, 2], [3, 8, 0]])
    token_mask, y_mask = torch.ones(2, 1, 3), torch.ones(2, 1, 7)
    token_mask[1, :, 2:], y_mask[1, :, 5:] = 0, 0
    return tokens, token_mask, torch.randn(2, 5, 7, generator=generator(21)), y_mask


State = dict[str, Tensor]


class StateSpace(nn.Module):
    """Deterministic and stochastic state; a prior of the past, a posterior of the past and the observation."""

    def __init__(self, stoch: int = 4, deter: int = 8) -> None:
        super().__init__()
        self.stoch, self.deter = stoch, deter
        self.inp = nn.Sequential(nn.Linear(stoch + 2, 8), nn.ELU())
        self.cell = nn.GRUCell(8, deter)
        self.imagine = nn.Sequential(nn.Linear(deter, 8), nn.ELU(), nn.Linear(8, 2 * stoch))
        self.observe = nn.Sequential(nn.Linear(deter + 6, 8), nn.ELU(), nn.Linear(8, 2 * stoch))

    def initial(self, n: int) -> State:
        zeros = torch.zeros(n, self.stoch)
        return {"mean": zeros, "std": zeros, "stoch": zeros, "deter": torch.zeros(n, self.deter)}

    @staticmethod
    def dist(state: State) -> Independent:
        return Independent(Normal(state["mean"], state["std"]), 1)

    def stats(self, net: nn.Module, x: Tensor) -> State:
        mean, std = torch.split(net(x), [self.stoch] * 2, -1)
        std = 2 * torch.sigmoid(std / 2) + 0.1
        stats = {"mean": mean, "std": std}
        return {**stats, "stoch": self.dist(stats).rsample()}

    def step(self, previous: State, action: Tensor, embed: Tensor) -> tuple[State, State]:
        deter = self.cell(self.inp(torch.cat([previous["stoch"], action], -1)), previous["deter"])
        prior = {**self.stats(self.imagine, deter), "deter": deter}
        post = {**self.stats(self.observe, torch.cat([deter, embed], -1)), "deter": deter}
        return post, prior


class WorldModel(nn.Module):
    """A recurrent state-space model: balanced KL with free nats, decoders of unit variance."""

    def __init__(self) -> None:
        super().__init__()
        self.rssm = StateSpace()
        self.embed = nn.Linear(6, 6)
        self.heads = nn.ModuleDict({"image": nn.Linear(12, 6), "reward": nn.Linear(12, 1)})

    def forward(self, frames: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        state = self.rssm.initial(frames.shape[1])
        posts, priors = [], []
        for embed, action in zip(torch.tanh(self.embed(frames)), actions, strict=True):
            state, prior = self.rssm.step(state, action, embed)
            posts.append(state)
            priors.append(prior)
        post = {k: torch.stack([s[k] for s in posts]) for k in posts[0]}
        prior = {k: torch.stack([s[k] for s in priors]) for k in priors[0]}
        dist = self.rssm.dist
        fixed_post, fixed_prior = ({k: v.detach() for k, v in s.items()} for s in (post, prior))
        lhs = kl_divergence(dist(post), dist(fixed_prior)).mean()
        rhs = kl_divergence(dist(fixed_post), dist(prior)).mean()
        free = torch.tensor(0.1)
        kl = 0.2 * torch.maximum(lhs, free) + 0.8 * torch.maximum(rhs, free)
        feature = torch.cat([post["stoch"], post["deter"]], -1)
        image = Independent(Normal(self.heads["image"](feature), 1), 1).log_prob(frames).mean()
        reward = Independent(Normal(self.heads["reward"](feature), 1), 1).log_prob(rewards).mean()
        return kl - image - reward


def episodes() -> tuple[Any, ...]:
    g = generator(22)
    return torch.randn(3, 4, 6, generator=g), torch.randn(3, 4, 2, generator=g), torch.randn(3, 4, 1, generator=g)


class VariationalRnn(nn.Module):
    """A latent at every step of a GRU; all deviations by softplus layers; the decoder's deviation is never used."""

    def __init__(self, x_dim: int = 6, h_dim: int = 8, z_dim: int = 3) -> None:
        super().__init__()
        self.h_dim = h_dim
        self.phi_x = nn.Sequential(nn.Linear(x_dim, h_dim), nn.ReLU())
        self.phi_z = nn.Sequential(nn.Linear(z_dim, h_dim), nn.ReLU())
        self.enc = nn.Sequential(nn.Linear(2 * h_dim, h_dim), nn.ReLU())
        self.enc_mean = nn.Linear(h_dim, z_dim)
        self.enc_std = nn.Sequential(nn.Linear(h_dim, z_dim), nn.Softplus())
        self.prior = nn.Sequential(nn.Linear(h_dim, h_dim), nn.ReLU())
        self.prior_mean = nn.Linear(h_dim, z_dim)
        self.prior_std = nn.Sequential(nn.Linear(h_dim, z_dim), nn.Softplus())
        self.dec = nn.Sequential(nn.Linear(2 * h_dim, h_dim), nn.ReLU())
        self.dec_std = nn.Sequential(nn.Linear(h_dim, x_dim), nn.Softplus())
        self.dec_mean = nn.Sequential(nn.Linear(h_dim, x_dim), nn.Sigmoid())
        self.rnn = nn.GRU(2 * h_dim, h_dim, 1)

    def reparameterized_sample(self, mean: Tensor, std: Tensor) -> Tensor:
        eps = torch.empty(size=std.size(), dtype=torch.float).normal_()
        return eps.mul(std).add_(mean)

    def kld_gauss(self, mean_1: Tensor, std_1: Tensor, mean_2: Tensor, std_2: Tensor) -> Tensor:
        element = 2 * torch.log(std_2 + 1e-7) - 2 * torch.log(std_1 + 1e-7)
        element = element + (std_1.pow(2) + (mean_1 - mean_2).pow(2)) / std_2.pow(2) - 1
        return 0.5 * torch.sum(element)

    def forward(self, x: Tensor) -> Tensor:
        kld = nll = torch.zeros(())
        all_std = []
        h = torch.zeros(1, x.size(1), self.h_dim)
        for t in range(x.size(0)):
            phi_x_t = self.phi_x(x[t])
            enc_t = self.enc(torch.cat([phi_x_t, h[-1]], 1))
            enc_mean_t, enc_std_t = self.enc_mean(enc_t), self.enc_std(enc_t)
            prior_t = self.prior(h[-1])
            prior_mean_t, prior_std_t = self.prior_mean(prior_t), self.prior_std(prior_t)
            phi_z_t = self.phi_z(self.reparameterized_sample(enc_mean_t, enc_std_t))
            dec_t = self.dec(torch.cat([phi_z_t, h[-1]], 1))
            dec_mean_t = self.dec_mean(dec_t)
            all_std.append(self.dec_std(dec_t))
            _, h = self.rnn(torch.cat([phi_x_t, phi_z_t], 1).unsqueeze(0), h)
            kld = kld + self.kld_gauss(enc_mean_t, enc_std_t, prior_mean_t, prior_std_t)
            nll = nll + F.binary_cross_entropy(dec_mean_t, x[t].sigmoid(), reduction="sum")
        return kld + nll


def sequences() -> tuple[Any, ...]:
    return (torch.randn(4, 5, 6, generator=generator(23)),)


class KalmanVae(nn.Module):
    """Frames are encoded by Normals, whose samples a linear-Gaussian state space explains; Kalman's filter inside."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.a_mean = nn.Linear(16, 2)
        self.a_var = nn.Sequential(nn.Linear(16, 2), nn.Sigmoid())
        self.dec = nn.Linear(2, 6)
        self.A = nn.Parameter(torch.eye(3))
        self.C = nn.Parameter(0.5 * torch.randn(2, 3))
        self.noise_emission = 0.03

    def filtered(self, a: Tensor) -> Tensor:
        n = a.shape[1]
        mean, cov = torch.zeros(n, 3), 20 * torch.eye(3).expand(n, 3, 3)
        log_likelihood = torch.zeros(n)
        for a_t in a:
            S = self.C @ cov @ self.C.T + 0.03 * torch.eye(2)
            predicted = mean @ self.C.T
            log_likelihood = log_likelihood + MultivariateNormal(predicted, S).log_prob(a_t)
            K = cov @ self.C.T @ torch.linalg.inv(S)
            mean = mean + (K @ (a_t - predicted).unsqueeze(-1)).squeeze(-1)
            cov = cov - K @ self.C @ cov
            mean, cov = mean @ self.A.T, self.A @ cov @ self.A.T + 0.08 * torch.eye(3)
        return log_likelihood

    def forward(self, x: Tensor) -> Tensor:
        h = self.enc(x)
        mean, var = self.a_mean(h), self.noise_emission * self.a_var(h)
        a = mean + torch.sqrt(var) * torch.randn_like(mean)
        log_px = -0.5 * ((x - self.dec(a)) ** 2 / 0.1 + math.log(2 * math.pi * 0.1)).sum(dim=(0, 2))
        log_qa = -0.5 * (torch.log(var) + (a - mean) ** 2 / var + math.log(2 * math.pi)).sum(dim=(0, 2))
        return -(0.3 * log_px + self.filtered(a) - log_qa).mean()


class GaussianLstm(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_in, 8)
        self.lstm = nn.ModuleList(nn.LSTMCell(8, 8) for _ in range(2))
        self.mu_net = nn.Linear(8, n_out)
        self.logvar_net = nn.Linear(8, n_out)
        self.hidden: list[tuple[Tensor, Tensor]] = []

    def init_hidden(self, n: int) -> None:
        self.hidden = [(torch.zeros(n, 8), torch.zeros(n, 8)) for _ in self.lstm]

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        logvar = logvar.mul(0.5).exp_()
        eps = logvar.data.new(logvar.size()).normal_()
        return eps.mul(logvar).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x.view(-1, x.shape[-1]))
        for i, cell in enumerate(self.lstm):
            self.hidden[i] = cell(h, self.hidden[i])
            h = self.hidden[i][0]
        mu, logvar = self.mu_net(h), self.logvar_net(h)
        return self.reparameterize(mu, logvar), mu, logvar


class VideoPrediction(nn.Module):
    """Stochastic video generation with a learned prior: two recurrent Normals, one of them a frame ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 5), nn.Linear(5, 6)
        self.posterior, self.prior = GaussianLstm(5, 3), GaussianLstm(5, 3)
        self.frame_predictor = nn.LSTMCell(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.posterior.init_hidden(x.shape[1])
        self.prior.init_hidden(x.shape[1])
        state = None
        mse = kld = torch.zeros(())
        for i in range(1, len(x)):
            h, h_target = torch.tanh(self.encoder(x[i - 1])), torch.tanh(self.encoder(x[i]))
            z_t, mu, logvar = self.posterior(h_target)
            _, mu_p, logvar_p = self.prior(h)
            state = self.frame_predictor(torch.cat([h, z_t], 1), state)
            mse = mse + F.mse_loss(self.decoder(state[0]), x[i])
            sigma1, sigma2 = logvar.mul(0.5).exp(), logvar_p.mul(0.5).exp()
            step = torch.log(sigma2 / sigma1) + (torch.exp(logvar) + (mu - mu_p) ** 2) / (2 * torch.exp(logvar_p)) - 0.5
            kld = kld + step.sum() / x.shape[1]
        return mse + 1e-2 * kld


class HierarchicalMusic(nn.Module):
    """Notes: a bidirectional encoder, a conductor that decodes bar by bar, free bits below which the KL is free."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.encoder = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.mu, self.sigma = nn.Linear(16, 4), nn.Linear(16, 4)
        self.to_state = nn.Linear(4, 8)
        self.conductor = nn.LSTM(4, 8, batch_first=True)
        self.notes = nn.LSTM(14, 8, batch_first=True)
        self.logits = nn.Linear(8, 10)

    def forward(self, notes: Tensor) -> Tensor:
        e = self.embedding(notes)
        _, (h, _) = self.encoder(e)
        last = torch.cat([h[-2], h[-1]], dim=-1)
        q = Normal(self.mu(last), F.softplus(self.sigma(last)))
        z = q.rsample()
        state = torch.tanh(self.to_state(z)).unsqueeze(0)
        bars, _ = self.conductor(torch.zeros(len(z), 2, 4), (state, torch.zeros_like(state)))
        previous = torch.cat([torch.zeros_like(e[:, :1]), e[:, :-1]], 1)
        out, _ = self.notes(torch.cat([previous, bars.repeat_interleave(notes.shape[1] // 2, 1)], -1))
        nll = F.cross_entropy(self.logits(out).transpose(1, 2), notes, reduction="none").sum(1)
        kl = kl_divergence(q, Normal(torch.zeros(4), torch.ones(4))).sum(-1)
        return (nll + 0.2 * torch.clamp(kl - 0.1 * math.log(2), min=0)).mean()


def melodies() -> tuple[Any, ...]:
    return (torch.randint(0, 10, (4, 8), generator=generator(24)),)


class Trajectories(nn.Module):
    """Pedestrians: prior of the past, posterior of past and future; positions under a correlated Normal."""

    def __init__(self) -> None:
        super().__init__()
        self.history, self.future = nn.GRU(2, 8, batch_first=True), nn.GRU(2, 8, batch_first=True)
        self.p_z_x, self.q_z_xy = nn.Linear(8, 6), nn.Linear(16, 6)
        self.decoder = nn.GRUCell(5, 8)
        self.initial = nn.Linear(11, 8)
        self.to_gaussian = nn.Linear(8, 5)

    @staticmethod
    def positions(out: Tensor) -> MultivariateNormal:
        mus, log_sigmas, corrs = out[..., :2], out[..., 2:4], torch.tanh(out[..., 4])
        sigmas = torch.exp(log_sigmas)
        zero = torch.zeros_like(corrs)
        rows = [
            torch.stack([sigmas[..., 0], zero], -1),
            torch.stack([corrs * sigmas[..., 1], torch.sqrt(1 - corrs**2) * sigmas[..., 1]], -1),
        ]
        return MultivariateNormal(mus, scale_tril=torch.stack(rows, -2))

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        x = self.history(past)[1].squeeze(0)
        y = self.future(future)[1].squeeze(0)
        mu_p, logvar_p = self.p_z_x(x).chunk(2, dim=-1)
        mu_q, logvar_q = self.q_z_xy(torch.cat([x, y], -1)).chunk(2, dim=-1)
        z = mu_q + torch.randn_like(mu_q) * torch.exp(0.5 * logvar_q)
        kl = 0.5 * (logvar_p - logvar_q + (logvar_q.exp() + (mu_q - mu_p).pow(2)) / logvar_p.exp() - 1).sum(-1)
        h = torch.tanh(self.initial(torch.cat([x, z], -1)))
        at, log_prob = past[:, -1], torch.zeros(len(past))
        for t in range(future.shape[1]):
            h = self.decoder(torch.cat([at, z], -1), h)
            law = self.positions(self.to_gaussian(h))
            log_prob = log_prob + law.log_prob(future[:, t])
            at = law.mean
        return (kl - log_prob).mean()


def walks() -> tuple[Any, ...]:
    steps = 0.3 * torch.randn(5, 9, 2, generator=generator(25))
    walk = steps.cumsum(1)
    return walk[:, :5], walk[:, 5:]


def std_sigmoid2(v: Tensor) -> Tensor:
    return 2 * torch.sigmoid(v / 2) + 0.1


CASES = (
    # Two projections; the coupling's shift has no scale, and the alignment's score has no gradient.
    Case(TextToSpeech, speech, (TrueHead("enc_q.proj", 4, 8, "posterior"), TrueHead("enc_p.proj", 4, 8, "prior"))),
    # One layer each at every time step; both are sampled, the prior's sample is never read; unit variances are fixed.
    Case(
        WorldModel,
        episodes,
        (
            TrueHead("rssm.observe.2", 4, 8, "posterior", std_sigmoid2),
            TrueHead("rssm.imagine.2", 4, 8, "prior", std_sigmoid2),
        ),
    ),
    # dec_std is computed and never used: under a Bernoulli it is the scale of nothing.
    Case(
        VariationalRnn,
        sequences,
        (
            TrueHead("enc_std.0", 0, None, "posterior", F.softplus),
            TrueHead("prior_std.0", 0, None, "prior", F.softplus),
        ),
    ),
    # The variance is 0.03 sigmoid(.); the state space has full covariances from matrices, no heads.
    Case(
        KalmanVae,
        sequences,
        (TrueHead("a_var.0", 0, None, "posterior", lambda v: torch.sqrt(0.03 * torch.sigmoid(v))),),
    ),
    # Two nets of one class; the one whose sample is read on is the posterior.
    Case(
        VideoPrediction,
        sequences,
        (
            TrueHead("posterior.logvar_net", 0, None, "posterior", half),
            TrueHead("prior.logvar_net", 0, None, "prior", half),
        ),
    ),
    # A Normal whose KL is cut below: still its scale.
    Case(HierarchicalMusic, melodies, (TrueHead("sigma", 0, None, "posterior", F.softplus),)),
    # The positions' Normal has a full covariance, a triangle of two deviations and a correlation. Until such were
    # read, this truth had the two heads of the code alone.
    Case(
        Trajectories,
        walks,
        (
            TrueHead("q_z_xy", 3, 6, "posterior", half),
            TrueHead("p_z_x", 3, 6, "prior", half),
            TrueHead("to_gaussian", 2, 4, "likelihood", torch.exp),
        ),
    ),
)
