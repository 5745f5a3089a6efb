"""A ninth look: sentences, topics, music, voices, series, hearts, neurons, worlds, policies, processes, paths, motion,
sketches, equations, graphs, galaxies, skills and offline data, in our own words.

The fields and a word for each were fixed before any search. For each word the list of repositories whose names have it
was taken in the index's order: of it the first that is PyTorch, trains a model of its own with its own loss, and is in
no earlier look; its main model, with its main configuration. Where a list was of other things, a narrower word took
its place, or another of the field. Conventions were neither sought nor avoided. Every truth was written from reading
the code, before any of these was scanned, by somebody who had not read the scan's, but who knew which faults earlier
looks had found.

"text-vae": four passed (earlier looks), `nsu-ai-team/conv1d-text-vae` passed (Keras), `liyucheng09/Text-Vae` taken.
"prodlda": `shshnk94/prodlda` passed (TensorFlow), `duongngyn0510/constractive-learning-prodlda-vinai` taken.
"midi-vae": `ziemmi13/Lofi-MIDI-VAE-generator`. "vae-vc": `patrickltobing/cyclevae-vc-neuralvoco` passed (a framework
of vocoders), `unilight/cdvae-vc` passed (TensorFlow), `patrickltobing/cyclevae-vc` taken, and the next,
`kamepong/ACVAE-VC`. "vae-tts": `kadirnar/dacvae-tts` passed (its codes come of another's autoencoder),
`NeuroWave-ai/CUCVAE-TTS` taken, and the next, `LEEYOONHYUNG/BVAE-TTS`. "fhvae" (of speech): `JakobPoncelet/FHVAE_2020`
passed (TensorFlow), `BurnhamG/PyTorch-ScalableFHVAE` taken. "probabilistic-forecasting": a long list, of which those
whose files are few were gone through: `kryptologyst/Time-Series-Probabilistic-Forecasting` passed (no law),
`adrielruston-maker/Deep-Latent-Regime-Discovery-Probabilistic-Forecasting` taken. "vae-imputation":
`ProcessMonitoringStellenboschUniversity/IFAC-VAE-Imputation` and `shixinxing/GPVAE-Imputation` passed (TensorFlow),
none. "omnianomaly": copies of one repository, which is TensorFlow, none. "seq2seq-vae": `hsteude/seq2seq-vae`.
"vae-time-series": `letrucnhi160703/vae-time-series`, its mixture. "ecg-vae": `YorkXingZeyu/ECG-VAEGAN-Project`.
"lfads": passed what is MATLAB, TensorFlow, an analysis, an earlier look, or something else of that name, and
`golub-lab/MR-LFADS` (a framework of many regions), `lyprince/hierarchical_lfads` taken, its LFADS.
"world-models-pytorch": `humorbeing/world-models-pytorch`. "dreamerv2": `RajGhugare19/dreamerv2`, whose default has no
Normal and is taken as a model without a head, and what it has beside it. "soft-actor-critic-pytorch":
`biegunk/soft-actor-critic-pytorch`. "tdmpc": a long list of copies, of which the original was taken,
`nicklashansen/tdmpc2`. "attentive-neural-process": `wassname/attentive-neural-processes` passed (an earlier look),
`Zeisig0115/Attentive-Neural-Processes-Methods-for-Reactive-Sputtering-Experiments` taken. "trajectory-vae" and
"pedestrian-vae": none; "vae-trajector": `sangbeom0321/VAE-trajectory-nuplan`. "vae-motion":
`KarlRong/VAE-Motion-Planning`. "action2motion": `EricGuo5513/action2motion`. "stochastic-video":
`yamata2/stochastic-video-generation` passed (TensorFlow), none. "sketch-rnn-pytorch": `itbaans/sketch-rnn-pytorch`.
"kvae": names of people and programs, `ghazi-f/QKVAE` passed (a framework), `simonkamronn/kvae` passed (TensorFlow),
`XiaoliangWang2001/EKVAE` passed (does not run), none. "ode-vae": a paper; "ode2vae": `cagatayyildiz/ODE2VAE`.
"recvae": `xiaozheng7/RecVAE-GBRT`, which is of loads, `ilya-shenbin/RecVAE` being of an earlier look.
"variational-graph": `vasile-paskardlgm/Heterophilc-Variational-Graph-Auto-Encoders`. "jet-vae": none. "galaxy-vae":
`austinpeel/galaxy-vae` passed (Keras), `LucaMarziano/Galaxy-VAE` taken. "latent-plans", "opal-": none, or other
things; "spirl": the first, `CeHao1/spirl_gts`, is a copy of `clvrai/spirl`, which was taken. "bcq", "plas-": other
things; "bcq-pytorch": `Manaro-Alpha/BCQ-Pytorch`. "action-chunking": those before are of large models,
`theriverroars/Action-Chunking-Transformers` taken. "mixture-density-network-": TensorFlow and notebooks without a loss
of their own, none; "pearl-pytorch", "mappo-pytorch", "kg2e", "svae-": none, or no PyTorch. "eeg-vae":
`yrothlin-03/EEG-VAE` passed (another's autoencoder of pictures), and the list was not gone through. Models without a
head, the first whose name told that it fits: "gru4rec" `hungpthanh/GRU4REC-pytorch`, "word2vec-pytorch"
`OlgaChernytska/word2vec-pytorch`, "tcn-forecast" `tharun2431/weather-tcn-forecasting`, "wavenet-pytorch"
`Sytronik/denoising-wavenet-pytorch`, "maddpg-pytorch" `SamirW/maddpg-pytorch`; "lstm-autoencoder" and "dqn-pytorch"
were not gone through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.fourth_images import draw_half
from public.third_images import bits, itself, kl_to_unit, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- sentences and topics


class SentenceTransformer(nn.Module):
    """A code of the averaged words, and one draw in place of the KL."""

    def __init__(self, words: int = 11, width: int = 8, latent: int = 4) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=12), num_layers=1, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, nhead=2, dim_feedforward=12), 1)
        self.hidden2mean, self.hidden2logv = nn.Linear(width, latent), nn.Linear(width, latent)
        self.latent2hidden, self.embedding = nn.Linear(latent, width), nn.Embedding(words, width)
        self.hidden2vocab = nn.Linear(width, words)
        self.hidden2vocab.weight = self.embedding.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_normal_(p)

    def sample(self, mu: Tensor, log_var: Tensor) -> tuple[Normal, Normal, Tensor]:
        std = torch.exp(log_var / 2)
        p, q = Normal(torch.zeros_like(mu), torch.ones_like(std)), Normal(mu, std)
        return p, q, q.rsample()

    def run_step(self, x: Tensor) -> tuple[Tensor, Tensor, Normal, Normal]:
        length, embedded = x.shape[1], self.embedding(x).permute(1, 0, 2)
        h = self.encoder(embedded).mean(dim=0)
        p, q, z = self.sample(self.hidden2mean(h), self.hidden2logv(h))
        seen = torch.tril(torch.ones(length, length))
        out = self.decoder(embedded, self.latent2hidden(z).repeat(length, 1, 1), tgt_mask=seen)
        return z, F.log_softmax(self.hidden2vocab(out).permute(1, 0, 2), dim=-1), p, q

    def training_step(self, batch: Tensor, coefficient: float = 0.1) -> Tensor:
        z, logits, p, q = self.run_step(batch)
        logits, y = logits[:, :-1, :].contiguous(), batch[:, 1:].contiguous()
        nll = F.nll_loss(logits.view(-1, logits.shape[-1]), y.view(-1), ignore_index=0)
        kl = (q.log_prob(z) - p.log_prob(z)).mean()
        kl *= coefficient
        return kl + nll


def own_step(model: Any, *batch: Tensor) -> Tensor:
    return model.training_step(*batch)


class TopicEncoder(nn.Module):
    """The noise is uniform, a slip."""

    def __init__(self, words: int, hidden: int, topics: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.drop_lda = nn.Linear(words, hidden), nn.Linear(hidden, hidden), nn.Dropout(0.2)
        self.mean_fc, self.log_var_fc = nn.Linear(hidden, topics), nn.Linear(hidden, topics)
        self.mean_bn, self.log_var_bn = (nn.BatchNorm1d(topics, affine=False) for _ in range(2))

    @staticmethod
    def reparameterize(mean: Tensor, log_var: Tensor) -> Tensor:
        std = (0.5 * log_var).exp()
        return torch.rand_like(std).mul(std).add(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.drop_lda(F.softplus(self.fc2(F.softplus(self.fc1(x)))))
        mean, log_var = self.mean_bn(self.mean_fc(h)), self.log_var_bn(self.log_var_fc(h))
        return self.drop_lda(F.softmax(self.reparameterize(mean, log_var), dim=1)), mean, log_var


class ContrastiveTopics(nn.Module):
    """Documents whose telling words are exchanged, and those whose others are, go through the encoder, too."""

    def __init__(self, words: int = 12, hidden: int = 9, topics: int = 12, k: int = 3) -> None:
        super().__init__()
        self.encode, self.k, self.topics = TopicEncoder(words, hidden, topics), k, topics
        self.decode = nn.Sequential(nn.Linear(topics, words), nn.Softmax(dim=1))
        var = torch.full((1, topics), 1 - 1.0 / topics)
        self.register_buffer("mean_prior", torch.zeros(1, topics))
        self.register_buffer("var_prior", var)
        self.register_buffer("log_var_prior", var.log())

    def exchanged(self, x: Tensor, recon: Tensor, tfidf: Tensor) -> tuple[Tensor, Tensor]:
        negative, positive = x.clone(), x.clone()
        most, least = (torch.topk(tfidf, dim=1, k=self.k, largest=largest)[1] for largest in (True, False))
        negative[:, most] = recon[:, most]
        positive[:, least] = recon[:, least]
        return negative.detach(), positive.detach()

    def forward(self, x: Tensor, tfidf: Tensor) -> tuple[Tensor, ...]:
        z, mean, log_var = self.encode(x)
        recon = self.decode(z)
        negative, positive = self.exchanged(x, recon.clone(), tfidf)
        return mean, log_var.exp(), log_var, recon, z, self.encode(negative)[0], self.encode(positive)[0]


def contrastive_loss(model: Any, x: Tensor, tfidf: Tensor) -> Tensor:
    mean, var, log_var, recon, z, z_neg, z_pos = model(x, tfidf)
    nl = -(x * (recon + 1e-10).log()).sum(dim=1)
    diff = mean - model.mean_prior
    parts = var / model.var_prior + diff * diff / model.var_prior + model.log_var_prior - log_var
    kld = 0.5 * (parts.sum(1) - model.topics)
    alike, apart = torch.einsum("b n, b n -> b", z, z_pos), torch.einsum("b n, b n -> b", z, z_neg)
    beta = (alike.detach() / apart.detach()).mean()
    alike, apart = alike.exp(), apart.exp()
    return (nl + kld - (alike / (alike + beta * apart)).log()).mean()


# ---------------------------------------------------------------------------------------------- music and voices


class RollEncoder(nn.Module):
    def __init__(self, keys: int, emb: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.input_projection = nn.Linear(keys, emb)
        self.lstm = nn.LSTM(emb, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.fc_mu, self.fc_logvar = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, (h, _) = self.lstm(self.input_projection(x.float()))
        last = torch.cat([h[-2], h[-1]], dim=-1)
        return self.fc_mu(last), self.fc_logvar(last)


class Conducted(nn.Module):
    """Both recurrent networks are started by a code, and are given zeros."""

    def __init__(self, code: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.start = hidden, nn.Linear(code, hidden * 2 * 2)
        self.rnn = nn.LSTM(1, hidden, num_layers=2, batch_first=True)

    def forward(self, code: Tensor, steps: int) -> Tensor:
        start = self.start(code).view(len(code), 2, 2, self.hidden).permute(2, 0, 3, 1)
        states = (start[..., 0].contiguous(), start[..., 1].contiguous())
        return self.rnn(torch.zeros(len(code), steps, 1), states)[0]


class RollVAE(nn.Module):
    """A piano roll of three states for each key; bars are conducted."""

    def __init__(self, keys: int = 6, latent: int = 4, hidden: int = 5, bars: int = 2, steps: int = 3) -> None:
        super().__init__()
        self.bars, self.steps, self.keys = bars, steps, keys
        self.encoder = RollEncoder(keys, 5, hidden, latent)
        self.conductor, self.decoder_rnn = Conducted(latent, hidden), Conducted(hidden, hidden)
        self.output_projection = nn.Linear(hidden, keys * 3)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return draw_half(mu, logvar)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x)
        bars = self.conductor(self.reparameterize(mu, logvar), self.bars)
        out = torch.cat([self.decoder_rnn(bars[:, i], self.steps) for i in range(self.bars)], dim=1)
        return self.output_projection(out).view(len(x), -1, self.keys, 3), mu, logvar


def roll_loss(model: Any, x: Tensor, beta: float = 0.05, free_bits: float = 0.6) -> Tensor:
    logits, mu, logvar = model(x)
    recon = F.cross_entropy(logits.view(-1, 3), x.view(-1), weight=torch.tensor([0.2, 1.0, 1.0]))
    kl = -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())
    return recon + beta * torch.relu(kl - free_bits)


class TwoSidedConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ModuleList(
            [nn.Conv1d(channels, 3 * channels, 3, padding=4), nn.Conv1d(3 * channels, 9 * channels, 3, dilation=3)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.conv:
            x = conv(x)
        return x


class FrameByFrame(nn.Module):
    """A recurrent map that reads what it gave one frame before, unbounded; its log variances are bounded afterwards."""

    def __init__(self, n_in: int, n_out: int, hidden: int, ends: str) -> None:
        super().__init__()
        self.scale_in = nn.Conv1d(n_in, n_in, 1) if ends == "in" else None
        self.conv, self.conv_drop, self.gru_drop = TwoSidedConv(n_in), nn.Dropout(0.5), nn.Dropout(0.5)
        self.gru, self.out_1 = nn.GRU(9 * n_in + n_out, hidden, batch_first=True), nn.Conv1d(hidden, n_out, 1)
        self.scale_out = nn.Conv1d(n_out, n_out, 1) if ends == "out" else None
        for fixed in (self.scale_in, self.scale_out):
            for p in fixed.parameters() if fixed is not None else ():
                p.requires_grad_(False)

    def forward(self, x: Tensor, y_in: Tensor, clamp_vae: int = 0) -> Tensor:
        x = x.transpose(1, 2)
        x = self.conv_drop(self.conv(self.scale_in(x) if self.scale_in is not None else x).transpose(1, 2))
        h, path = None, []
        for i in range(x.shape[1]):
            out, h = self.gru(torch.cat((x[:, i : i + 1], y_in), 2), h)
            y_in = self.out_1(self.gru_drop(out).transpose(1, 2)).transpose(1, 2)
            path.append(y_in)
        whole = torch.cat(path, 1)
        if self.scale_out is not None:
            return self.scale_out(whole.transpose(1, 2)).transpose(1, 2)
        lowest = -13.815510557964274
        return torch.cat((whole[:, :, :clamp_vae], torch.clamp(whole[:, :, clamp_vae:], min=lowest)), 2)


def draw_of_joint(param: Tensor, latent: int) -> Tensor:
    mu, sigma = param[:, :, :latent], param[:, :, latent:]
    return mu + torch.exp(sigma / 2) * torch.randn(*mu.shape)


def kl_of_joint(param: Tensor, latent: int) -> Tensor:
    mu, sigma = param[:, :latent], param[:, latent:]
    return torch.mean(0.5 * torch.sum(torch.exp(sigma) + torch.pow(mu, 2) - sigma - 1.0, 1))


def cepstral_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.mean((10.0 / 2.3025850929940456) * 1.4142135623730950 * torch.sum(torch.abs(x - y), 1))


class CycleVC(nn.Module):
    """A voice, converted and back again: both ways have a code."""

    def __init__(self, excitation: int = 1, spectrum: int = 3, latent: int = 2, hidden: int = 5) -> None:
        super().__init__()
        self.latent, self.excitation, self.spectrum = latent, excitation, spectrum
        self.encoder = FrameByFrame(excitation + spectrum, 2 * latent, hidden, "in")
        self.decoder = FrameByFrame(2 + latent, spectrum, hidden, "out")

    def decode(self, lat: Tensor, code: Tensor) -> Tensor:
        return self.decoder(
            torch.cat((code, draw_of_joint(lat, self.latent)), 2), torch.zeros(len(lat), 1, self.spectrum)
        )

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x, torch.zeros(len(x), 1, 2 * self.latent), self.latent)


def cycle_loss(model: Any, src: Tensor, cv_excitation: Tensor) -> Tensor:
    own, other = (torch.tensor(v).expand(*src.shape[:2], 2) for v in ([1.0, 0.0], [0.0, 1.0]))
    lat = model.encode(src)
    same, changed = model.decode(lat, own), model.decode(lat, other)
    lat_cv = model.encode(torch.cat((cv_excitation, changed), 2))
    back = model.decode(lat_cv, own)
    total = torch.zeros(())
    for j in range(len(src)):
        spectrum = src[j, :, model.excitation :]
        total = total + cepstral_distance(same[j], spectrum) + cepstral_distance(back[j], spectrum)
        total = total + kl_of_joint(lat[j], model.latent) + kl_of_joint(lat_cv[j], model.latent)
    return total


def above_thirteen(v: Tensor) -> Tensor:
    return torch.exp(v.clamp(min=-13.815510557964274) / 2)


class GatedConv(nn.Module):
    """Answers to a call itself, without a forward."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, turned: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose1d if turned else nn.Conv1d
        self.conv1 = kind(n_in, 2 * n_out, kernel, stride=stride, padding=(kernel - stride) // 2)
        self.bn1 = nn.BatchNorm1d(2 * n_out)

    def __call__(self, x: Tensor) -> Tensor:
        value, gate = torch.split(h := self.bn1(self.conv1(x)), h.shape[1] // 2, dim=1)
        return value * torch.sigmoid(gate)


def with_speaker(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat((x, y[None, :, None].repeat(len(x), 1, x.shape[2])), dim=1)


class SpeakerNet(nn.Module):
    """Encoder and decoder are alike: a mean and a bounded log variance."""

    def __init__(self, n_in: int, n_out: int, hidden: int, turned: bool) -> None:
        super().__init__()
        first, last = (5, nn.ConvTranspose1d) if turned else (9, nn.Conv1d)
        self.le1 = GatedConv(n_in + 2, hidden, first, 1, turned)
        self.le2 = GatedConv(hidden + 2, hidden, 8, 2, turned)
        self.le4 = last(hidden + 2, n_out * 2, 5, stride=1, padding=2)

    def __call__(self, x: Tensor, y: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        for layer in (self.le1, self.le2, self.le4):
            x = layer(with_speaker(x, y))
        mu, ln_var = torch.split(out := x.clone()[:, :, 0:frames], out.shape[1] // 2, dim=1)
        return mu, torch.clamp(ln_var, min=-50.0, max=0.0)


class AuxiliaryVC(nn.Module):
    """What the decoder's Normal draws is what the classifier hears."""

    def __init__(self, mels: int = 6, latent: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.enc, self.dec = SpeakerNet(mels, latent, hidden, False), SpeakerNet(latent, mels, hidden, True)
        self.cls = nn.Sequential(
            nn.Conv1d(mels, 5, 5, padding=2), nn.ReLU(), nn.Dropout(0.2), nn.Conv1d(5, 2, 5, padding=2)
        )

    def gaussian(self, mu: Tensor, lnvar: Tensor) -> Tensor:
        epsilon = torch.randn(mu.shape)
        return mu + torch.sqrt(torch.exp(lnvar)) * epsilon

    def kl(self, mu: Tensor, lnvar: Tensor) -> Tensor:
        return -0.5 * torch.mean(1 + lnvar - mu**2 - torch.exp(lnvar))

    def nll(self, x: Tensor, mu: Tensor, lnvar: Tensor) -> Tensor:
        diff = x - mu
        power = (diff * diff) * torch.exp(-lnvar) * -0.5
        return torch.mean((lnvar + math.log(2 * math.pi)) / 2 - power)

    def calc_loss(self, x_s: Tensor, x_t: Tensor) -> Tensor:
        speakers, prior_loss, like_loss = torch.eye(2), torch.zeros(()), torch.zeros(())
        heard: list[tuple[Tensor, int]] = []
        for own, x in enumerate((x_s, x_t)):
            mu, lnvar = self.enc(x, speakers[own], x.shape[2] // 2)
            z = self.gaussian(mu, lnvar)
            for to in (own, 1 - own):
                x_mu, x_lnvar = self.dec(z, speakers[to], x.shape[2])
                heard.append((self.gaussian(x_mu, x_lnvar), to))
                like_loss = like_loss + self.nll(x, x_mu, x_lnvar) / 2 if to == own else like_loss
            prior_loss = prior_loss + self.kl(mu, lnvar) / 2
        told = [F.cross_entropy(self.cls(x).permute(0, 2, 1).flatten(0, 1), torch.full((x[:, 0].numel(),), i))
                for x, i in [*heard, (x_s, 0), (x_t, 1)]]  # fmt: skip
        return prior_loss + like_loss + sum(told[:4]) / 4 + sum(told[4:]) / 2


def to_fifty(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-50.0, 0.0))


class UtteranceVAE(nn.Module):
    """A draw given the text is what the draw given the speech scales and moves."""

    def __init__(self, mels: int, text: int, latent: int, up: int) -> None:
        super().__init__()
        self.mu_fc, self.logvar_fc = nn.Conv1d(mels, latent, 1), nn.Conv1d(mels, latent, 1)
        self.up_fc = nn.Conv1d(latent, up, 1)
        self.text_mu_fc, self.text_logvar_fc = nn.Conv1d(text + 1, latent, 1), nn.Conv1d(text + 1, latent, 1)

    def reparameterize(self, mu: Tensor, logvar: Tensor, text_mu: Tensor, text_logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        text_std = text_logvar.mul(0.5).exp_()
        text_eps = text_std.data.new(text_std.size()).normal_()
        text_prior = text_eps.mul(text_std).add_(text_mu)
        return text_prior.mul(std).add_(mu)

    def forward(self, mel_mean: Tensor, text: Tensor, durations: Tensor) -> tuple[Tensor, ...]:
        known = torch.cat((durations.unsqueeze(-1), text), -1).permute(0, 2, 1)
        text_mu, text_logvar = self.text_mu_fc(known).permute(0, 2, 1), self.text_logvar_fc(known).permute(0, 2, 1)
        mel_mean = torch.nan_to_num(mel_mean.permute(0, 2, 1))
        mu, logvar = self.mu_fc(mel_mean).permute(0, 2, 1), self.logvar_fc(mel_mean).permute(0, 2, 1)
        z = self.reparameterize(mu, logvar, text_mu, text_logvar)
        return self.up_fc(z.permute(0, 2, 1)).permute(0, 2, 1), mu, logvar, text_mu, text_logvar


class SpokenText(nn.Module):
    """Phones are repeated as long as they last."""

    def __init__(self, phones: int = 9, width: int = 6, mels: int = 5, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(phones, width), nn.Linear(width, width), nn.ReLU())
        self.duration_predictor = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.VAE, self.mel_linear = UtteranceVAE(mels, width, latent, width), nn.Linear(width, mels)
        self.postnet = nn.Conv1d(mels, mels, 3, padding=1)

    def forward(self, text: Tensor, durations: Tensor, mean_mels: Tensor) -> tuple[Tensor, ...]:
        x = self.encoder(text)
        log_duration = self.duration_predictor(x).squeeze(-1)
        z, *laws = self.VAE(mean_mels, x, durations.float())
        x = torch.stack([row.repeat_interleave(d, dim=0) for row, d in zip(x + z, durations, strict=True)])
        mel = self.mel_linear(x)
        return mel, self.postnet(mel.transpose(1, 2)).transpose(1, 2) + mel, log_duration, *laws


def spoken_loss(model: Any, text: Tensor, durations: Tensor, mean_mels: Tensor, mels: Tensor) -> Tensor:
    def kld(mu: Tensor, logvar: Tensor) -> Tensor:
        return -0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp())

    mel, post, log_duration, mu, logvar, text_mu, text_logvar = model(text, durations, mean_mels)
    there = ~torch.zeros(mels.shape[:2], dtype=torch.bool).unsqueeze(-1)
    mel, post, mels = (t.masked_select(there) for t in (mel, post, mels))
    wrong = F.l1_loss(mel, mels) + F.l1_loss(post, mels)
    wrong = wrong + F.mse_loss(log_duration, torch.log(durations.float() + 1))
    return wrong + 0.01 * (kld(mu, logvar) + kld(text_mu, text_logvar))


class WrittenSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, i: Tensor) -> Tensor:
        ctx.save_for_backward(i)
        return torch.log(1 + torch.exp(i))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * torch.sigmoid(ctx.saved_tensors[0])


class MaskedConv(nn.Conv1d):
    def __init__(self, *args: int, activation: Any = None, bias: bool = True) -> None:
        super().__init__(*args, padding=args[2] // 2, bias=bias)
        self.act = activation

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        out = super().forward(x)
        return (out if self.act is None else self.act(out)).masked_fill(mask.unsqueeze(1), 0)


class TwoWayLayer(nn.Module):
    """On the way down a posterior's σ is a product of three: the prior's, one of the way up and one of its own."""

    def __init__(self, width: int, kernel: int = 3, doubled: bool = False) -> None:
        super().__init__()
        sn, outer = torch.nn.utils.spectral_norm, 2 * width if doubled else width
        self.pre_conv = MaskedConv(outer, width, kernel, activation=F.elu)
        self.up_conv_a = nn.ModuleList(
            [
                sn(MaskedConv(width, width, kernel, activation=F.elu)),
                sn(MaskedConv(width, 3 * width, kernel, bias=False)),
            ]
        )
        self.up_conv_b = sn(MaskedConv(width, width, kernel, activation=F.elu))
        self.down_conv_a = nn.ModuleList(
            [
                sn(MaskedConv(width, width, kernel, activation=F.elu)),
                sn(MaskedConv(width, 5 * width, kernel, bias=False)),
            ]
        )
        self.down_conv_b = nn.ModuleList(
            [
                sn(MaskedConv(2 * width, width, kernel, bias=False)),
                sn(MaskedConv(width, width, kernel, activation=F.elu)),
            ]
        )
        self.post_conv = MaskedConv(width, outer, kernel, activation=F.elu)

    def up(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.pre_conv(x, mask)
        self.qz_mean, std, h = self.up_conv_a[1](self.up_conv_a[0](x, mask), mask).chunk(3, 1)
        self.qz_std = WrittenSoftplus.apply(std)
        return (x + self.up_conv_b(h, mask)) / 2**0.5

    def down(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.down_conv_a[1](self.down_conv_a[0](x, mask), mask)
        pz_mean, pz_std, rz_mean, rz_std, h = raw.chunk(5, 1)
        pz_std, rz_std = WrittenSoftplus.apply(pz_std), WrittenSoftplus.apply(rz_std)
        p = Normal(pz_mean, pz_std)
        q = Normal(pz_mean + self.qz_mean + rz_mean, pz_std * self.qz_std * rz_std)
        z = q.rsample().masked_fill(mask.unsqueeze(1), 0)
        kl = kl_divergence(q, p).mean()
        h = torch.cat((z, h), 1)
        for conv in self.down_conv_b:
            h = conv(h, mask)
        return self.post_conv((x + h) / 2**0.5, mask), kl


class TwoWaySpeech(nn.Module):
    """Read upwards at two rates, written downwards from what the text gives each frame; the second row is padded."""

    def __init__(self, symbols: int = 7, width: int = 8, mels: int = 5) -> None:
        super().__init__()
        self.width, self.Prenet = width, MaskedConv(mels, width, 1, activation=F.elu)
        self.Embedding, self.text_conv = nn.Embedding(symbols, width), nn.Conv1d(width, 2 * width, 3, padding=1)
        self.fine, self.coarse = TwoWayLayer(width // 2, doubled=True), TwoWayLayer(width // 2)
        self.Query = MaskedConv(width // 2, width, 3, bias=False)
        self.Compress, self.Projection = nn.Linear(width, width // 2, bias=False), MaskedConv(width, mels, 5)
        self.Duration = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, 1))

    def blur_pool(self, x: Tensor, mask: Tensor) -> Tensor:
        kernel = torch.tensor([[[0.25, 0.5, 0.25]]]).repeat(x.size(1), 1, 1)
        return F.conv1d(x, kernel, padding=1, stride=2, groups=x.size(1)).masked_fill(mask.unsqueeze(1), 0)

    def forward(self, text: Tensor, mel: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(mel.shape[2]) >= lengths[:, None]
        half = mask[:, ::2]
        embedded = self.Embedding(text)
        a, b = torch.chunk(self.text_conv(embedded.transpose(1, 2)), 2, dim=1)
        key = ((a * torch.sigmoid(b) + embedded.transpose(1, 2)) / 2**0.5).transpose(1, 2)
        value = (key + embedded) / 2**0.5
        x = self.fine.up(F.dropout(self.Prenet(mel, mask), 0.5, training=True), mask)
        query = self.Query(self.coarse.up(self.blur_pool(x, half), half), half).transpose(1, 2)
        align = torch.bmm(query * self.width**-0.5, key.transpose(1, 2)).softmax(-1).masked_fill(half.unsqueeze(-1), 0)
        hard = F.one_hot(align.max(-1)[1], align.size(-1)).masked_fill(half.unsqueeze(-1), 0)
        h = self.Compress(torch.bmm(align + (hard - align).detach(), value)).transpose(1, 2)
        h, kl_coarse = self.coarse.down(h, half)
        h, kl_fine = self.fine.down(h.repeat_interleave(2, -1), mask)
        made = torch.sigmoid(self.Projection(h, mask))
        there = ~mask.unsqueeze(1)
        recon = F.l1_loss(made.masked_select(there), mel.masked_select(there))
        lasting = hard.sum(dim=1).float().clamp(min=1)
        guessed = self.Duration(value.detach()).squeeze(-1).exp() + 1
        return recon + kl_coarse + kl_fine + F.mse_loss(torch.log(guessed + 1e-5), torch.log(lasting + 1e-5))


# ---------------------------------------------------------------------------------------------- series, hearts, neurons


class RegimeForecaster(nn.Module):
    def __init__(self, n_in: int = 4, hidden: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.gru, self.latent = nn.GRU(n_in, hidden, batch_first=True), nn.Linear(hidden, latent)
        self.mu, self.sigma = nn.Linear(latent, 1), nn.Linear(latent, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.latent(self.gru(x)[1][-1])
        mu, raw_sigma = self.mu(z), self.sigma(z)
        sigma = F.softplus(raw_sigma) + 1e-6
        return mu.squeeze(-1), sigma.squeeze(-1), z


def regime_nll(model: Any, x: Tensor, target: Tensor) -> Tensor:
    mu, sigma, _ = model(x)
    nll = torch.log(sigma) + ((target - mu) ** 2) / (2 * sigma**2) + 0.5 * math.log(2 * math.pi)
    return nll.mean()


def floored_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-6


class LastState(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(n_in, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[1][-1, :, :]


class RepeatedCode(nn.Module):
    def __init__(self, latent: int, hidden: int, n_out: int, length: int) -> None:
        super().__init__()
        self.rnn1, self.fc = nn.GRU(latent, hidden, batch_first=True), nn.Linear(hidden, n_out)
        self.length = length

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(self.rnn1(z.reshape(-1, 1, z.shape[-1]).repeat(1, self.length, 1))[0])


class SensorVAE(nn.Module):
    """One learned deviation for each sensor and step, on the diagonal of a matrix."""

    def __init__(self, n_in: int = 2, length: int = 6, hidden: int = 5, latent: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = LastState(n_in, hidden), RepeatedCode(latent, hidden, n_in, length)
        self.fc_mu, self.fc_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.log_scale_diag = nn.Parameter(torch.zeros(length * n_in))

    @staticmethod
    def gaussian_likelihood(x_hat: Tensor, logscale: Tensor, x: Tensor) -> Tensor:
        scale = torch.diag(torch.exp(logscale))
        mu = x_hat.reshape(len(x_hat), -1)
        return MultivariateNormal(mu, scale_tril=scale).log_prob(x.reshape(len(mu), -1))

    @staticmethod
    def kl_divergence(mu: Tensor, std: Tensor) -> Tensor:
        p, q = Normal(torch.zeros_like(mu), torch.ones_like(std)), Normal(mu, std)
        return kl_divergence(q, p).sum(-1)

    def training_step(self, x: Tensor, beta: float = 10.0) -> Tensor:
        h = self.encoder(x)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        std = torch.exp(log_var / 2)
        z = Normal(mu, std).rsample()
        recon = self.gaussian_likelihood(self.decoder(z), self.log_scale_diag, x)
        return (beta * self.kl_divergence(mu, std) - recon).mean()


class ChainedFeatures(nn.Module):
    """Reads a stretch of a load's series, with the mean and the variance that it gave for the last one."""

    def __init__(self, stretch: int = 6, z: int = 3, hidden: int = 8) -> None:
        super().__init__()
        n, self.z_size = stretch + 2 * z, z
        self.q_z_nn = nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.q_z_mean, self.q_z_var = nn.Linear(hidden, z), nn.Sequential(nn.Linear(hidden, z), nn.Softplus())
        self.p_x_nn = nn.Sequential(nn.Linear(z, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.p_x_mean = nn.Sequential(nn.Linear(hidden, n))

    def reparameterize(self, mu: Tensor, var: Tensor) -> Tensor:
        std = var.sqrt()
        eps = torch.FloatTensor(std.size()).normal_()
        return eps.mul(std).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.q_z_nn(x).view(1, -1)
        mean, var = self.q_z_mean(h), self.q_z_var(h)
        return self.p_x_mean(self.p_x_nn(self.reparameterize(mean, var))), mean, var


def chained_loss(model: Any, stretch: Tensor, before: Tensor) -> Tensor:
    x = torch.cat((stretch, before), 0)
    recon, mu, var = model(x)
    log_var = var.log()
    kl = -0.5 * torch.sum(1.0 + log_var - mu.pow(2) - log_var.exp(), dim=1, keepdim=True)
    return (F.mse_loss(x.expand_as(recon), recon) + kl).sum()


def root_softplus(v: Tensor) -> Tensor:
    return F.softplus(v).sqrt()


class ExtremesEncoder(nn.Module):
    """A Normal for what is usual, and a generalized Pareto law for extremes."""

    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.lstm, self.layer_norm = nn.LSTM(n_in, hidden, num_layers=2, batch_first=True), nn.LayerNorm(hidden)
        self.fc1, self.fc2, self.dropout = nn.Linear(hidden, 9), nn.Linear(9, 8), nn.Dropout(0.3)
        self.mean_layer_normal, self.logvar_layer_normal = nn.Linear(8, latent), nn.Linear(8, latent)
        self.scale_layer_extreme, self.shape_layer_extreme = nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.layer_norm(self.lstm(x)[1][0][-1])
        h = self.dropout(F.relu(self.fc2(F.relu(self.fc1(h)))))
        scale = torch.exp(self.scale_layer_extreme(h))
        shape = torch.clamp(self.shape_layer_extreme(h), min=1e-6)
        return self.mean_layer_normal(h), self.logvar_layer_normal(h), scale, shape


class ExtremesVAE(nn.Module):
    """By a learned share a row's code is of one law or of the other."""

    def __init__(self, n_in: int = 2, hidden: int = 6, latent: int = 3, future: int = 4) -> None:
        super().__init__()
        self.encoder = ExtremesEncoder(n_in, hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, future))
        self.pi_params = nn.Parameter(torch.tensor([3.0, 0.01]))

    def reparameterize(self, mean: Tensor, logvar: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
        choice, z = torch.rand(mean.size(0)), torch.empty_like(mean)
        usual = draw_half(mean, logvar)
        extreme = scale / shape * ((1 - torch.rand(mean.size())) ** (-shape) - 1)
        for i in range(z.size(0)):
            if choice[i] < F.softmax(self.pi_params, dim=0)[0]:
                z[i] = usual[i]
            else:
                z[i] = extreme[i]
        return z

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        laws = self.encoder(x)
        return self.decoder(self.reparameterize(*laws)), *laws


def extremes_loss(model: Any, x: Tensor, y: Tensor, threshold: float = 1.0, beta: float = 0.001) -> Tensor:
    recon, mean, logvar, scale, shape = model(x)
    usual = y.abs() <= threshold
    pi_usual, pi_extreme = F.softmax(model.pi_params, dim=0)
    kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp(), dim=-1).mean()
    of_usual = pi_usual * (F.mse_loss(recon[usual], y[usual]) + beta * kl)
    kl_extreme = torch.mean(torch.log(scale) + (1 + shape * threshold / scale).log())
    of_extreme = pi_extreme * (F.mse_loss(recon, y) + beta * kl_extreme)
    return F.mse_loss(recon, y) + of_usual + of_extreme


def strided(n_in: int, n_out: int, normed: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv1d(n_in, n_out, 4, 2, 1, bias=False)]
    return [*layers, *([nn.BatchNorm1d(n_out)] if normed else []), nn.LeakyReLU(0.2, inplace=True)]


class HeartEncoder(nn.Module):
    """A KL with a square, a slip, that is trained."""

    def __init__(self, ndf: int, nx: int) -> None:
        super().__init__()
        self.nx, self.kl = nx, torch.zeros(())
        self.main = nn.Sequential(
            *strided(1, ndf, False), *strided(ndf, 2 * ndf), nn.Conv1d(2 * ndf, 2 * nx, 4, 1, 0, bias=False)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.main(x)
        mu, sigma = x[:, 0 : self.nx, :], torch.exp(x[:, self.nx :, :])
        self.kl = (sigma**2 + mu**2 - torch.log(sigma) - 0.5).sum()
        return mu, sigma


class HeartGAN(nn.Module):
    """The second half of a beat, given the first."""

    def __init__(self, ndf: int = 3, nx: int = 3) -> None:
        super().__init__()
        self.netE = HeartEncoder(ndf, nx)
        self.netG1 = nn.Sequential(
            nn.ConvTranspose1d(nx, 4, 4, 1, 0, bias=False), nn.BatchNorm1d(4), nn.ReLU(True),
            nn.ConvTranspose1d(4, 3, 4, 2, 1, bias=False), nn.BatchNorm1d(3), nn.ReLU(True),
            nn.ConvTranspose1d(3, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.netD = nn.Sequential(*strided(1, 3), *strided(3, 4), nn.Conv1d(4, 1, 8, 1, 0), nn.Sigmoid())


def heart_generator_step(model: Any, beats: Tensor) -> Tensor:
    n, half = len(beats), beats.shape[2] // 2
    first = beats[:, :, :half]
    mu, sigma = model.netE(first)
    kl = model.netE.kl
    z = torch.randn(2 * n, model.netE.nx, 1)
    mu, sigma = torch.cat([mu, mu], 0), torch.cat([sigma, sigma], 0)
    made = model.netG1(mu + (z * sigma))
    z_diffs = torch.sum(torch.abs(z[0:n] - z[n : 2 * n]), dim=(1, 2))
    made_diffs = torch.sum(torch.abs(made[0:n] - made[n : 2 * n]), dim=(1, 2)) + 1e-10
    output = model.netD(torch.cat([torch.cat([first, first], 0), made], 2)).view(-1)
    return F.binary_cross_entropy(output, torch.ones(2 * n)) + 0.1 * torch.mean(z_diffs / made_diffs) + 0.01 * kl


class GeneratorCell(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.fc_x_ru, self.fc_x_c = nn.Linear(n_in, 2 * hidden, bias=False), nn.Linear(n_in, hidden, bias=False)
        self.fc_h_ru, self.fc_rh_c = nn.Linear(hidden, 2 * hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        r_x, u_x = torch.split(self.fc_x_ru(x), self.hidden, dim=1)
        r_h, u_h = torch.split(self.fc_h_ru(h), self.hidden, dim=1)
        r, u = torch.sigmoid(r_x + r_h), torch.sigmoid(u_x + u_h + 1.0)
        return u * h + (1 - u) * torch.tanh(self.fc_x_c(x) + self.fc_rh_c(r * h))


class SpikesEncoder(nn.Module):
    def __init__(self, n_in: int, g: int, c: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.gru_g_encoder, self.gru_c_encoder = (
            nn.GRU(n_in, g, bidirectional=True),
            nn.GRU(n_in, c, bidirectional=True),
        )
        self.fc_g0_theta = nn.Linear(2 * g, 2 * latent)

    def forward(self, x: Tensor, g_state: Tensor, c_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.gru_g_encoder(x, g_state.contiguous())[1].clamp(min=-5.0, max=5.0)
        mean, logvar = torch.split(self.fc_g0_theta(torch.cat((h[0], h[1]), dim=1)), self.latent, dim=1)
        return mean, logvar, self.gru_c_encoder(x, c_state.contiguous())[0].clamp(min=-5.0, max=5.0)


class ControllerCell(nn.Module):
    def __init__(self, n_in: int, hidden: int, u: int) -> None:
        super().__init__()
        self.u, self.gru_controller, self.fc_u_theta = u, GeneratorCell(n_in, hidden), nn.Linear(hidden, 2 * u)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.gru_controller(x, h).clamp(-5.0, 5.0)
        mean, logvar = torch.split(self.fc_u_theta(h), self.u, dim=1)
        return mean, logvar, h


class FactorDynamics(nn.Module):
    """Inputs of a generator have an autoregressive prior, whose variance and time are learned."""

    def __init__(self, cells: int = 5, factors: int = 3, width: int = 4, latent: int = 4, u: int = 1) -> None:
        super().__init__()
        self.u, self.width = u, width
        self.encoder = SpikesEncoder(cells, width, width, latent)
        self.controller = ControllerCell(2 * width + factors, width, u)
        self.gru_generator, self.fc_factors = GeneratorCell(u, width), nn.Linear(width, factors, bias=False)
        self.fc_logrates = nn.Linear(factors, cells)
        self.g_encoder_init, self.c_encoder_init = (nn.Parameter(torch.zeros(2, width)) for _ in range(2))
        self.controller_init, self.g_prior_mean = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(latent))
        self.g_prior_logvar, self.u_prior_gp_mean = torch.ones(latent) * math.log(0.1), torch.zeros(u)
        self.u_prior_gp_logvar = nn.Parameter(torch.ones(u) * math.log(0.1))
        self.u_prior_gp_logtau = nn.Parameter(torch.ones(u) * math.log(10.0))

    def sample_gaussian(self, mean: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.randn(mean.shape, requires_grad=False)
        return torch.exp(logvar * 0.5) * eps + mean

    def forward(self, spikes: Tensor) -> Tensor:
        x = spikes.permute(1, 0, 2)
        n = x.shape[1]
        g_state, c_state = (
            (torch.ones(n, 2, self.width) * init).permute(1, 0, 2)
            for init in (self.g_encoder_init, self.c_encoder_init)
        )
        control = torch.ones(n, self.width) * self.controller_init
        self.g_mean, self.g_logvar, read = self.encoder(x, g_state, c_state)
        state = self.sample_gaussian(self.g_mean, self.g_logvar)
        factor = self.fc_factors(state)
        factors, inputs = torch.empty(0, n, factor.shape[1]), torch.empty(0, n, self.u)
        self.u_mean, self.u_logvar = torch.empty(n, 0, self.u), torch.empty(n, 0, self.u)
        for t in range(len(x)):
            mean, logvar, control = self.controller(torch.cat((read[t], factor), dim=1), control)
            self.u_mean = torch.cat((self.u_mean, mean.unsqueeze(1)), dim=1)
            self.u_logvar = torch.cat((self.u_logvar, logvar.unsqueeze(1)), dim=1)
            drawn = self.sample_gaussian(mean, logvar)
            inputs = torch.cat((inputs, drawn.unsqueeze(0)), dim=0)
            state = self.gru_generator(drawn, state).clamp(min=-5.0, max=5.0)
            factor = self.fc_factors(state)
            factors = torch.cat((factors, factor.unsqueeze(0)), dim=0)
        self.u_prior_mean, self.u_prior_logvar = self.process(inputs)
        return self.fc_logrates(factors).exp().permute(1, 0, 2)

    def process(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        gp_mean, gp_logvar, kept = (
            self.u_prior_gp_mean,
            self.u_prior_gp_logvar,
            torch.exp(-1 / self.u_prior_gp_logtau.exp()),
        )
        mean, logvar = (gp * torch.ones(1, *drawn.shape[1:]) for gp in (gp_mean, gp_logvar))
        mean = torch.cat((mean, gp_mean + (drawn[:-1] - gp_mean) * kept))
        later = torch.log(1 - kept.pow(2)) + gp_logvar * torch.ones(len(drawn) - 1, *drawn.shape[1:])
        return mean.permute(1, 0, 2), torch.cat((logvar, later)).permute(1, 0, 2)


def dynamics_loss(model: Any, spikes: Tensor) -> Tensor:
    def kl(mean: Tensor, logvar: Tensor, p_mean: Tensor, p_logvar: Tensor) -> Tensor:
        moved = ((mean - p_mean) / torch.exp(0.5 * p_logvar)).pow(2)
        return 0.5 * (p_logvar - logvar + torch.exp(logvar - p_logvar) + moved - 1.0).mean(dim=0).sum()

    rates = model(spikes)
    recon = -(spikes * torch.log(rates) - rates - torch.lgamma(spikes + 1)).mean(dim=0).sum()
    total = recon + kl(model.g_mean, model.g_logvar, model.g_prior_mean, model.g_prior_logvar)
    return total + kl(model.u_mean, model.u_logvar, model.u_prior_mean, model.u_prior_logvar)


# ---------------------------------------------------------------------------------------------- worlds and policies


class RacingVAE(nn.Module):
    def __init__(self, nz: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.ReLU(), nn.Conv2d(4, 5, 3, 2), nn.ReLU())
        self.logvar_fc, self.mu_fc, self.decode_fc = nn.Linear(5, nz), nn.Linear(5, nz), nn.Linear(nz, 6)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 5, 3, 2), nn.ReLU(), nn.ConvTranspose2d(5, 3, 4, 2), nn.Sigmoid()
        )

    def reparameterize(self, mu: Tensor, sigma: Tensor) -> Tensor:
        if self.training:
            eps = torch.randn(*sigma.size())
            return mu + eps * sigma
        return mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        vec = self.encoder(x)
        vec = vec.view(vec.size(0), -1)
        mu, logvar = self.mu_fc(vec), self.logvar_fc(vec)
        sigma = torch.exp(logvar / 2.0)
        z = self.reparameterize(mu, sigma)
        return self.decoder(self.decode_fc(z)[:, :, None, None]), mu, logvar, z


def racing_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar, _ = model(x)
    return F.mse_loss(recon, x) + 0.000001 * kl_to_unit(mu, logvar).mean()


Law = tuple[Tensor, ...]


class RecurrentStates(nn.Module):
    """Its states are Normals, or classes."""

    def __init__(self, kind: str, actions: int, embed: int, deter: int, node: int, stoch: int, classes: int) -> None:
        super().__init__()
        self.kind, self.classes, self.deter, self.min_std = kind, classes, deter, 0.1
        self.stoch = stoch if kind == "continuous" else stoch * classes
        wide = 2 * self.stoch if kind == "continuous" else self.stoch
        self.rnn = nn.GRUCell(deter, deter)
        self.fc_embed_state_action = nn.Sequential(nn.Linear(self.stoch + actions, deter), nn.ELU())
        self.fc_prior = nn.Sequential(nn.Linear(deter, node), nn.ELU(), nn.Linear(node, wide))
        self.fc_posterior = nn.Sequential(nn.Linear(deter + embed, node), nn.ELU(), nn.Linear(node, wide))

    def law(self, raw: Tensor) -> tuple[Tensor, Law]:
        """What is drawn, and the law that drew it."""
        if self.kind == "continuous":
            mean, std = torch.chunk(raw, 2, dim=-1)
            std = F.softplus(std) + self.min_std
            return mean + std * torch.randn_like(mean), (mean, std)
        dist = OneHotCategorical(logits=raw.reshape(*raw.shape[:-1], -1, self.classes))
        stoch = dist.sample()
        stoch += dist.probs - dist.probs.detach()
        return torch.flatten(stoch, start_dim=-2, end_dim=-1), (raw,)

    def dist(self, law: Law) -> Independent:
        if self.kind == "continuous":
            return Independent(Normal(law[0], law[1]), 1)
        logits = law[0].reshape(*law[0].shape[:-1], -1, self.classes)
        return Independent(OneHotCategoricalStraightThrough(logits=logits), 1)

    def rollout(self, embed: Tensor, actions: Tensor, nonterms: Tensor) -> tuple[Tensor, Law, Law]:
        stoch, deter = torch.zeros(embed.shape[1], self.stoch), torch.zeros(embed.shape[1], self.deter)
        states, priors, posteriors = [], [], []
        for t in range(len(embed)):
            known = torch.cat([stoch * nonterms[t], actions[t] * nonterms[t]], dim=-1)
            deter = self.rnn(self.fc_embed_state_action(known), deter * nonterms[t])
            _, before = self.law(self.fc_prior(deter))
            stoch, after = self.law(self.fc_posterior(torch.cat([deter, embed[t]], dim=-1)))
            states.append(torch.cat((deter, stoch), dim=-1))
            priors.append(before)
            posteriors.append(after)
        prior_law, posterior_law = (
            tuple(torch.stack(p, dim=0) for p in zip(*laws, strict=True)) for laws in (priors, posteriors)
        )
        return torch.stack(states), prior_law, posterior_law


def dense(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, n_out)
    )


class GridWorldModel(nn.Module):
    """The KL is balanced: of each side once without a gradient."""

    def __init__(self, kind: str, obs: int = 5, actions: int = 2, embed: int = 4, deter: int = 5) -> None:
        super().__init__()
        self.RSSM = RecurrentStates(kind, actions, embed, deter, 6, 3, 3)
        n = deter + self.RSSM.stoch
        self.ObsEncoder, self.ObsDecoder = dense(obs, 6, embed), dense(n, 6, obs)
        self.RewardDecoder, self.DiscountModel = dense(n, 6, 1), dense(n, 6, 1)

    def representation_loss(self, obs: Tensor, actions: Tensor, rewards: Tensor, nonterms: Tensor) -> Tensor:
        state, before, after = self.RSSM.rollout(self.ObsEncoder(obs), actions, nonterms)
        seen = Independent(Normal(self.ObsDecoder(state[:-1]), 1), 1)
        paid = Independent(Normal(self.RewardDecoder(state[:-1]), 1), 1)
        goes_on = Independent(Bernoulli(logits=self.DiscountModel(state[:-1])), 1)
        loss = -seen.log_prob(obs[:-1]).mean() - paid.log_prob(rewards[1:]).mean()
        loss = loss - 5.0 * goes_on.log_prob(nonterms[1:]).mean()
        frozen = [tuple(p.detach() for p in law) for law in (before, after)]
        lhs = torch.mean(kl_divergence(self.RSSM.dist(frozen[1]), self.RSSM.dist(before)))
        rhs = torch.mean(kl_divergence(self.RSSM.dist(after), self.RSSM.dist(frozen[0])))
        return loss + 0.1 * (0.8 * lhs + 0.2 * rhs)


def normal_world() -> GridWorldModel:
    return GridWorldModel("continuous")


def class_world() -> GridWorldModel:
    return GridWorldModel("discrete")


def world_loss(model: Any, *batch: Tensor) -> Tensor:
    return model.representation_loss(*batch)


def world_batch() -> tuple[Tensor, ...]:
    nonterms = torch.ones(3, 4, 1)
    nonterms[1, 2] = 0.0
    return randn(3, 4, 5), randn(3, 4, 2, seed=9), randn(3, 4, 1, seed=10), nonterms


def tenth_softplus(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


class SoftActor(nn.Module):
    def __init__(self, obs: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(obs, hidden), nn.Linear(hidden, hidden)
        self.mean_linear, self.log_std_linear = nn.Linear(hidden, actions), nn.Linear(hidden, actions)
        self.actions = actions

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc2(F.relu(self.fc1(obs))))
        return self.mean_linear(h), torch.clamp(self.log_std_linear(h), -20.0, 2.0)

    def evaluate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.forward(obs)
        std = log_std.exp()
        zeta = torch.randn((len(obs), self.actions))
        actions = torch.tanh(mean + std * zeta)
        log_prob = Normal(mean, std).log_prob(mean + std * zeta) - torch.log(1 - actions**2 + 1e-6)
        return actions, log_prob.sum(-1, keepdim=True)


def critic(n_in: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


class SoftLearner(nn.Module):
    """Critics, actor and temperature, of one batch."""

    def __init__(self, obs: int = 4, actions: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.actor = SoftActor(obs, hidden, actions)
        self.q_net_1, self.q_net_2 = critic(obs + actions, hidden), critic(obs + actions, hidden)
        self.q_net_1_target, self.q_net_2_target = critic(obs + actions, hidden), critic(obs + actions, hidden)
        self.log_temp = nn.Parameter(torch.tensor(0.2).log())
        for p in (*self.q_net_1_target.parameters(), *self.q_net_2_target.parameters()):
            p.requires_grad_(False)

    def step(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, going: Tensor) -> Tensor:
        temp = self.log_temp.exp()
        a2, next_log_prob = self.actor.evaluate(s2)
        ahead = torch.cat((s2, a2), dim=-1)
        v = torch.min(self.q_net_1_target(ahead), self.q_net_2_target(ahead)) - temp.detach() * next_log_prob
        target = (r + going * 0.99 * v).detach()
        now = torch.cat((s, a), dim=-1)
        q_loss = F.mse_loss(self.q_net_1(now), target) + F.mse_loss(self.q_net_2(now), target)
        actions, log_prob = self.actor.evaluate(s)
        chosen = torch.cat((s, actions), dim=-1)
        actor_loss = torch.mean(temp.detach() * log_prob - torch.min(self.q_net_1(chosen), self.q_net_2(chosen)))
        return q_loss + actor_loss + torch.mean(temp * (-log_prob + 2).detach())


def soft_step(model: Any, *batch: Tensor) -> Tensor:
    return model.step(*batch)


def transitions() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9).tanh(), randn(6, 1, seed=10), randn(6, 4, seed=11), bits(6, 1)


def twenty_two(v: Tensor) -> Tensor:
    return torch.exp(v.clamp(-20.0, 2.0))


class SimplicialNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x.view(*x.shape[:-1], -1, 4), dim=-1).view(*x.shape)


class NormedLinear(nn.Linear):
    def __init__(self, n_in: int, n_out: int, act: nn.Module | None = None) -> None:
        super().__init__(n_in, n_out)
        self.ln, self.act = nn.LayerNorm(n_out), act or nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.ln(super().forward(x)))


def normed_mlp(n_in: int, hidden: int, n_out: int, act: nn.Module | None = None) -> nn.Sequential:
    last = NormedLinear(hidden, n_out, act) if act is not None else nn.Linear(hidden, n_out)
    return nn.Sequential(NormedLinear(n_in, hidden), NormedLinear(hidden, hidden), last)


def symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log(1 + torch.abs(x))


class ImplicitWorld(nn.Module):
    """Values are read off classes; the policy's density is of its noise."""

    def __init__(self, obs: int = 5, actions: int = 2, latent: int = 8, hidden: int = 9, bins: int = 5) -> None:
        super().__init__()
        self.bins, n = torch.linspace(-2, 2, bins), latent + actions
        self._encoder = normed_mlp(obs, hidden, latent, SimplicialNorm())
        self._dynamics, self._reward = normed_mlp(n, hidden, latent, SimplicialNorm()), normed_mlp(n, hidden, bins)
        self._pi = normed_mlp(latent, hidden, 2 * actions)
        self._Qs = nn.ModuleList([normed_mlp(n, hidden, bins) for _ in range(3)])
        self.register_buffer("log_std_min", torch.tensor(-10.0))
        self.register_buffer("log_std_dif", torch.tensor(2.0) - self.log_std_min)

    def pi(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_std = self._pi(z).chunk(2, dim=-1)
        log_std = self.log_std_min + 0.5 * self.log_std_dif * (torch.tanh(log_std) + 1)
        eps = torch.randn_like(mu)
        log_pi = (-0.5 * eps.pow(2) - log_std).sum(-1, keepdim=True) - 0.9189385175704956 * mu.size(-1)
        pi = torch.tanh(mu + eps * log_std.exp())
        return pi, log_pi - torch.log(F.relu(1 - pi.pow(2)) + 1e-6).sum(-1, keepdim=True)

    def value(self, logits: Tensor) -> Tensor:
        x = torch.sum(F.softmax(logits, dim=-1) * self.bins, dim=-1, keepdim=True)
        return torch.sign(x) * (torch.exp(torch.abs(x)) - 1)

    def soft_ce(self, logits: Tensor, target: Tensor) -> Tensor:
        place = (torch.clamp(symlog(target), -2, 2) + 2).squeeze(-1)
        low, rest = torch.floor(place).long(), (place - torch.floor(place)).unsqueeze(-1)
        classes = len(self.bins)
        hot = F.one_hot(low, classes) * (1 - rest) + F.one_hot((low + 1) % classes, classes) * rest
        return -(hot * F.log_softmax(logits, dim=-1)).sum(-1, keepdim=True).mean()

    def update(self, obs: Tensor, action: Tensor, reward: Tensor, rho: float = 0.5) -> Tensor:
        with torch.no_grad():
            next_z = self._encoder(obs[1:])
            ahead = torch.cat([next_z, self.pi(next_z)[0]], dim=-1)
            target = reward + 0.9 * torch.min(self.value(self._Qs[0](ahead)), self.value(self._Qs[1](ahead)))
        z = self._encoder(obs[0])
        zs, loss = [z], torch.zeros(())
        for t in range(len(action)):
            z = self._dynamics(torch.cat([z, action[t]], dim=-1))
            loss = loss + 20 * F.mse_loss(z, next_z[t]) * rho**t
            zs.append(z)
        for t in range(len(action)):
            known = torch.cat([zs[t], action[t]], dim=-1)
            loss = loss + 0.1 * self.soft_ce(self._reward(known), reward[t]) * rho**t
            loss = loss + sum(0.1 * self.soft_ce(q(known), target[t]) * rho**t for q in self._Qs) / 3
        states = torch.stack(zs).detach()
        pi, log_pi = self.pi(states)
        frozen = [{n: p.detach() for n, p in q.named_parameters()} for q in self._Qs[:2]]
        judged = torch.cat([states, pi], dim=-1)
        qs = (
            sum(self.value(torch.func.functional_call(q, p, (judged,))) for q, p in zip(self._Qs, frozen, strict=False))
            / 2
        )
        weight = torch.pow(torch.tensor(rho), torch.arange(len(qs)))
        return loss + ((1e-4 * log_pi - qs).mean(dim=(1, 2)) * weight).mean()


def implicit_step(model: Any, *batch: Tensor) -> Tensor:
    return model.update(*batch)


def between_ten_and_two(v: Tensor) -> Tensor:
    return torch.exp(-10.0 + 6.0 * (torch.tanh(v) + 1))


class ActionVAE(nn.Module):
    """The noise is uniform, a slip; what decides without a code draws a bounded one."""

    def __init__(self, obs: int, actions: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent, relu = latent, nn.ReLU()
        self.encoder = nn.Sequential(nn.Linear(obs + actions, hidden), relu, nn.Linear(hidden, hidden), relu)
        self.mean, self.log_std = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(
            nn.Linear(obs + latent, hidden),
            relu,
            nn.Linear(hidden, hidden),
            relu,
            nn.Linear(hidden, actions),
            nn.Tanh(),
        )

    def reparametrise(self, mean: Tensor, log_std: Tensor) -> Tensor:
        std = torch.exp(log_std)
        return mean + std * torch.rand_like(std)

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(torch.cat((obs, action), dim=-1).float())
        mean, log_std = self.mean(h), self.log_std(h).clamp(-4, 15)
        return self.decode(obs, self.reparametrise(mean, log_std)), mean, log_std

    def decode(self, obs: Tensor, z: Tensor | None = None) -> Tensor:
        if z is None:
            z = torch.randn(obs.shape[0], self.latent).clamp(-0.5, 0.5)
        return self.decoder(torch.cat((obs, z), dim=-1))


class BatchConstrained(nn.Module):
    def __init__(self, obs: int = 4, actions: int = 2, latent: int = 4, hidden: int = 8) -> None:
        super().__init__()
        self.vae, n = ActionVAE(obs, actions, latent, hidden), obs + actions
        self.actor, self.actor_target = (
            nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, actions), nn.Tanh()) for _ in range(2)
        )
        self.critic1, self.critic2, self.target1, self.target2 = (critic(n, hidden) for _ in range(4))

    @staticmethod
    def moved(actor: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        return (0.05 * actor(torch.cat((obs, action), dim=-1)) + action).clamp(-1.0, 1.0)

    def learn(self, obs: Tensor, action: Tensor, reward: Tensor, obs2: Tensor, done: Tensor) -> Tensor:
        made, mean, log_std = self.vae(obs, action)
        kl = (-0.5 * (1 + 2 * log_std - mean.pow(2) - log_std.exp().pow(2))).mean()
        vae_loss = F.mse_loss(made, action) + 0.5 * kl
        with torch.no_grad():
            ahead = torch.repeat_interleave(obs2, 5, 0)
            q1, q2 = (
                q(torch.cat((ahead, self.moved(self.actor_target, ahead, self.vae.decode(ahead))), dim=-1))
                for q in (self.target1, self.target2)
            )
            q = (0.75 * torch.min(q1, q2) + 0.25 * torch.max(q1, q2)).reshape(len(obs), -1).max(-1)[0].reshape(-1, 1)
            target = reward + (1 - done) * 0.99 * q
        known = torch.cat((obs, action), dim=-1)
        critic_loss = F.mse_loss(self.critic1(known), target) + F.mse_loss(self.critic2(known), target)
        chosen = self.moved(self.actor, obs, self.vae.decode(obs))
        return vae_loss + critic_loss - self.critic1(torch.cat((obs, chosen), dim=-1)).mean()


def constrained_step(model: Any, *batch: Tensor) -> Tensor:
    return model.learn(*batch)


def four_to_fifteen(v: Tensor) -> Tensor:
    return torch.exp(v.clamp(-4, 15))


class ChunkedActions(nn.Module):
    """A token of its own gathers the code of a chunk of actions."""

    def __init__(self, obs: int = 4, actions: int = 2, chunk: int = 3, width: int = 8, latent: int = 4) -> None:
        super().__init__()

        def layer(kind: Any) -> Any:
            return kind(width, 2, 12, 0.1, batch_first=True, norm_first=True)

        self.obs_proj, self.action_proj = nn.Linear(obs, width), nn.Linear(actions, width)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.cvae_encoder = nn.TransformerEncoder(layer(nn.TransformerEncoderLayer), 1, enable_nested_tensor=False)
        self.latent_mu, self.latent_logvar = nn.Linear(width, latent), nn.Linear(width, latent)
        self.latent_proj = nn.Linear(latent, width)
        self.policy_encoder = nn.TransformerEncoder(layer(nn.TransformerEncoderLayer), 1, enable_nested_tensor=False)
        self.query_embed = nn.Embedding(chunk, width)
        self.policy_decoder = nn.TransformerDecoder(layer(nn.TransformerDecoderLayer), 1)
        self.action_head, self.drop = nn.Linear(width, actions), nn.Dropout(0.1)
        place, rate = (
            torch.arange(chunk + 2.0)[:, None],
            torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width)),
        )
        self.register_buffer("pe", torch.stack([(place * rate).sin(), (place * rate).cos()], -1).view(1, -1, width))

    def placed(self, x: Tensor) -> Tensor:
        return self.drop(x + self.pe[:, : x.size(1), :])

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seq = [self.cls_token.expand(len(obs), -1, -1), self.obs_proj(obs).unsqueeze(1), self.action_proj(actions)]
        cls = self.cvae_encoder(self.placed(torch.cat(seq, dim=1)))[:, 0, :]
        mu, logvar = self.latent_mu(cls), self.latent_logvar(cls)
        z = draw_half(mu, logvar)
        known = torch.cat([self.obs_proj(obs).unsqueeze(1), self.latent_proj(z).unsqueeze(1)], dim=1)
        queries = self.placed(self.query_embed.weight.unsqueeze(0).expand(len(obs), -1, -1))
        return self.action_head(self.policy_decoder(queries, self.policy_encoder(self.placed(known)))), mu, logvar


def chunk_loss(model: Any, obs: Tensor, actions: Tensor) -> Tensor:
    pred, mu, logvar = model(obs, actions)
    kl = -0.5 * torch.mean(1.0 + logvar - mu.pow(2) - logvar.exp())
    return F.l1_loss(pred, actions) + 10.0 * kl


class Gaussian:
    """Halves of one output: a mean, and log σ, which is bounded each time that one is made."""

    def __init__(self, mu: Tensor, log_sigma: Tensor | None = None) -> None:
        if log_sigma is None:
            mu, log_sigma = torch.chunk(mu, 2, -1)
        self.mu, self.log_sigma = mu, torch.clamp(log_sigma, min=-10, max=2)
        self._sigma: Tensor | None = None

    @property
    def sigma(self) -> Tensor:
        if self._sigma is None:
            self._sigma = self.log_sigma.exp()
        return self._sigma

    def sample(self) -> Tensor:
        return self.mu + self.sigma * torch.randn_like(self.sigma)

    def kl_divergence(self, other: Gaussian) -> Tensor:
        moved = self.sigma**2 + (self.mu - other.mu) ** 2
        return (other.log_sigma - self.log_sigma) + moved / (2 * other.sigma**2) - 0.5

    def log_prob(self, x: Tensor) -> Tensor:
        return -1 * ((x - self.mu) ** 2) / (2 * self.sigma**2) - self.log_sigma - math.log(math.sqrt(2 * math.pi))

    def nll(self, x: Tensor) -> Tensor:
        return -1 * self.log_prob(x)

    @classmethod
    def cat(cls, *laws: Gaussian) -> Gaussian:
        joined = Gaussian(torch.cat([g.mu for g in laws], 0), torch.cat([g.log_sigma for g in laws], 0))
        return cls(torch.cat([joined.mu, joined.log_sigma], dim=-1))


class WholeGaussian(Gaussian):
    def log_prob(self, x: Tensor) -> Tensor:
        return torch.clamp(super().log_prob(x).sum(-1), min=-20, max=10)


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, last: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.rest = nn.Identity() if last else nn.Sequential(nn.BatchNorm1d(n_out), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.linear(x))


class FramesIn(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(n_in, hidden, batch_first=True), nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


class SkillPrior(nn.Module):
    """A skill's code of a fixed prior, and a learned prior that is fitted to what is drawn."""

    def __init__(self, state: int = 4, action: int = 2, nz: int = 3, hidden: int = 6, steps: int = 3) -> None:
        super().__init__()
        self.steps, self.hidden, self.action = steps, hidden, action
        self.q = nn.Sequential(FramesIn(action, hidden, 5), nn.Linear(5, 2 * nz))
        self.cell, self.out = nn.LSTMCell(action + nz, hidden), nn.Linear(hidden, action)
        layers = {
            "input": Block(state, hidden),
            "pyramid-0": Block(hidden, hidden),
            "head": Block(hidden, 2 * nz, True),
        }
        self.p = nn.ModuleList([nn.Sequential()])
        for name, block in layers.items():
            self.p[0].add_module(name, block)

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Gaussian, Gaussian, Gaussian, Tensor]:
        q = WholeGaussian(self.q(actions)[:, -1])
        p = Gaussian(torch.zeros_like(q.mu), torch.zeros_like(q.log_sigma))
        parts = zip(self.p, torch.chunk(states[:, 0], len(self.p)), strict=True)
        q_hat = WholeGaussian.cat(*(WholeGaussian(net(part)) for net, part in parts))
        z, path = q.sample(), []
        x, h = torch.zeros(len(z), self.action), (torch.zeros(len(z), self.hidden), torch.zeros(len(z), self.hidden))
        for _ in range(self.steps):
            h = self.cell(torch.cat([x, z], -1), h)
            x = self.out(h[0])
            path.append(x)
        return torch.stack(path, 1), q, p, q_hat, z.clone()


def skill_loss(model: Any, states: Tensor, actions: Tensor) -> Tensor:
    recon, q, p, q_hat, z = model(states, actions)
    mse = Gaussian(recon, torch.zeros_like(recon)).nll(actions).mean()
    return mse + 0.01 * q.kl_divergence(p).mean() + q_hat.nll(z.detach()).mean()


def ten_to_two(v: Tensor) -> Tensor:
    return torch.exp(v.clamp(-10, 2))


# ---------------------------------------------------------------------------------------------- processes and paths


class Projected(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_in, n_out)
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.wq, self.wk, self.wv, self.out_proj = (Projected(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            lin(x).view(len(x), -1, self.heads, x.shape[-1] // self.heads).permute(0, 2, 1, 3)
            for lin, x in ((self.wq, query), (self.wk, key), (self.wv, value))
        )
        seen = F.softmax(torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1)
        out = torch.matmul(seen, v).permute(0, 2, 1, 3).contiguous().view(*query.shape)
        return self.norm(self.out_proj(out) + query)


def relu_stack(n_in: int, hidden: int, n_out: int, layers: int) -> nn.Sequential:
    sizes = [n_in, *[hidden] * (layers - 1)]
    inner = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*inner, nn.Linear(hidden, n_out))


class FilmLatentEncoder(nn.Module):
    """What it calls a log σ goes through a sigmoid."""

    def __init__(self, n_in: int, width: int, latent: int) -> None:
        super().__init__()
        self.input_mlp, self.self_attn1 = relu_stack(n_in, width, width, 4), AttentionBlock(width, 2)
        self.stat_mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * latent))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.input_mlp(torch.cat([x, y], dim=-1))
        mu, log_sigma = self.stat_mlp(self.self_attn1(h, h, h).mean(dim=1)).chunk(2, dim=-1)
        sigma = 0.1 + 0.9 * torch.sigmoid(log_sigma)
        eps = torch.randn_like(sigma)
        return mu + sigma * eps, mu, sigma


class FilmProcess(nn.Module):
    """The targets' queries come of the keys' network, a slip."""

    def __init__(self, x: int = 2, y: int = 1, width: int = 6) -> None:
        super().__init__()
        self.latent_encoder = FilmLatentEncoder(x + y, width, width)
        self.input_mlp, self.self_attn1 = relu_stack(x + y, width, width, 4), AttentionBlock(width, 2)
        self.key_mlp, self.query_mlp = relu_stack(x, width, width, 2), relu_stack(x, width, width, 2)
        self.cross_attn1 = AttentionBlock(width, 2)
        self.decoder = relu_stack(x + 2 * width, width, 2 * y, 5)

    def forward(self, x_c: Tensor, y_c: Tensor, x_all: Tensor, y_all: Tensor, x_t: Tensor, y_t: Tensor) -> Tensor:
        _, mu_p, sig_p = self.latent_encoder(x_c, y_c)
        z, mu_q, sig_q = self.latent_encoder(x_all, y_all)
        h = self.input_mlp(torch.cat([x_c, y_c], dim=-1))
        r = self.cross_attn1(self.key_mlp(x_t), self.key_mlp(x_c), self.self_attn1(h, h, h))
        z = z.unsqueeze(1).expand(-1, r.shape[1], -1)
        mu_y, log_sigma_y = self.decoder(torch.cat([x_t, r, z], dim=-1)).chunk(2, dim=-1)
        sigma_y = 0.1 + 0.9 * F.softplus(log_sigma_y)
        nll = 0.5 * (torch.log(2 * math.pi * sigma_y**2) + (y_t - mu_y) ** 2 / sigma_y**2)
        var_q, var_p = sig_q.pow(2), sig_p.pow(2)
        kl = (var_q + (mu_q - mu_p).pow(2)) / var_p - 1 + 2 * (torch.log(sig_p) - torch.log(sig_q))
        return nll.mean() + (0.5 * kl.sum(dim=-1)).mean()


def film_batch() -> tuple[Tensor, ...]:
    x, y = randn(1, 9, 2), randn(1, 9, 1, seed=9)
    return x[:, :4], y[:, :4], x, y, x[:, 4:], y[:, 4:]


def nine_tenths_sigmoid(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def nine_tenths_softplus(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * F.softplus(v)


def normed_layers(*sizes: int) -> list[nn.Module]:
    pairs = itertools.pairwise(sizes)
    return [m for a, b in pairs for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(0.1))]


class DrivenPathEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*normed_layers(n_in, 12, 9, 8))
        self.mu_head, self.logvar_head = nn.Linear(8, latent), nn.Linear(8, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.mu_head(h), self.logvar_head(h)


class DrivenPathVAE(nn.Module):
    def __init__(self, n: int = 10, latent: int = 4) -> None:
        super().__init__()
        self.encoder = DrivenPathEncoder(n, latent)
        self.decoder = nn.Sequential(*normed_layers(latent, 8, 9, 12), nn.Linear(12, n), nn.Tanh())


def driven_loss(model: Any, path: Tensor) -> Tensor:
    mu, logvar = model.encoder(path)
    recon = model.decoder(draw_half(mu, logvar))
    kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1) / mu.shape[1]
    return F.mse_loss(recon, path) + kl.mean()


def dropped_layers(*sizes: int) -> list[nn.Module]:
    pairs = itertools.pairwise(sizes)
    return [m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(p=0.5))]


class PlannerEncoder(nn.Module):
    def __init__(self, n_in: int, latent: int) -> None:
        super().__init__()
        self.sequential = nn.Sequential(*dropped_layers(n_in, 12, 12))
        self.linear_means, self.linear_log_var = nn.Linear(12, latent), nn.Linear(12, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.sequential(x)
        return self.linear_means(h), self.linear_log_var(h)


class PlannerCVAE(nn.Module):
    """Samples of a free space, given its gaps."""

    def __init__(self, sample: int = 6, condition: int = 7, latent: int = 3) -> None:
        super().__init__()
        self.encoder = PlannerEncoder(sample + condition, latent)
        self.decoder = nn.Sequential(*dropped_layers(latent + condition, 12, 12), nn.Linear(12, sample))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(torch.cat((x, c), dim=-1))
        return self.decoder(torch.cat((self.reparameterize(mu, logvar), c), dim=-1)), mu, logvar


def planner_loss(model: Any, x: Tensor, c: Tensor) -> Tensor:
    recon, mean, log_var = model(x, c)
    w = torch.tensor([1, 1, 1, 0.5, 0.5, 0.5])
    mse = torch.mean(w.expand_as(x) * (recon - x) ** 2)
    return mse - 0.002 * torch.mean(torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), 1))


class GaussianGRU(nn.Module):
    """Keeps its state between steps; both of its kind draw, and one draw is dropped."""

    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.gru = nn.Linear(n_in, hidden), nn.ModuleList([nn.GRUCell(hidden, hidden)])
        self.mu_net, self.logvar_net = nn.Linear(hidden, n_out), nn.Linear(hidden, n_out)
        self.hidden: list[Tensor] = []

    def init_hidden(self, n: int) -> None:
        self.hidden = [torch.zeros(n, cell.hidden_size) for cell in self.gru]

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        s_var = logvar.mul(0.5).exp_()
        eps = s_var.data.new(s_var.size()).normal_()
        return eps.mul(s_var).add_(mu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        for i, cell in enumerate(self.gru):
            self.hidden[i] = cell(h, self.hidden[i])
            h = self.hidden[i]
        mu, logvar = self.mu_net(h), self.logvar_net(h)
        return self.reparameterize(mu, logvar), mu, logvar


class PoseGRU(nn.Module):
    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.output = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out)
        self.gru = nn.ModuleList([nn.GRUCell(hidden, hidden) for _ in range(2)])
        self.hidden: list[Tensor] = []

    def init_hidden(self, n: int) -> None:
        self.hidden = [torch.zeros(n, cell.hidden_size) for cell in self.gru]

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for i, cell in enumerate(self.gru):
            self.hidden[i] = cell(h, self.hidden[i])
            h = self.hidden[i]
        return self.output(h)


class ActionMotion(nn.Module):
    def __init__(self, pose: int = 6, kinds: int = 3, z: int = 3, hidden: int = 6) -> None:
        super().__init__()
        n = pose + kinds
        self.prior_net, self.posterior_net = GaussianGRU(n, z, hidden), GaussianGRU(n, z, hidden)
        self.decoder = PoseGRU(n + z, pose, hidden)

    def train_step(self, data: Tensor, kind: Tensor) -> Tensor:
        for net in (self.prior_net, self.posterior_net, self.decoder):
            net.init_hidden(len(data))
        before, mse, kld = torch.zeros_like(data[:, 0]), torch.zeros(()), torch.zeros(())
        for i in range(data.shape[1]):
            h = torch.cat((before, kind), dim=1)
            z, mu, logvar = self.posterior_net(torch.cat((data[:, i], kind), dim=1))
            _, mu_p, logvar_p = self.prior_net(h)
            mse = mse + F.mse_loss(self.decoder(torch.cat((h, z), dim=1)), data[:, i])
            kld = kld + self.kl_criterion(mu, logvar, mu_p, logvar_p)
            before = data[:, i]
        return mse + 0.001 * kld

    @staticmethod
    def kl_criterion(mu1: Tensor, logvar1: Tensor, mu2: Tensor, logvar2: Tensor) -> Tensor:
        sigma1, sigma2 = logvar1.mul(0.5).exp(), logvar2.mul(0.5).exp()
        moved = (torch.exp(logvar1) + (mu1 - mu2) ** 2) / (2 * torch.exp(logvar2))
        return (torch.log(sigma2 / sigma1) + moved - 1 / 2).sum() / len(mu1)


def motion_step(model: Any, *batch: Tensor) -> Tensor:
    return model.train_step(*batch)


# ---------------------------------------------------------------------------------------------- sketches


class StrokesEncoder(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.bi_lstm = nn.LSTM(5, hidden, bidirectional=True)
        self.fc_mu, self.fc_sigma_hat = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        forwards, backwards = self.bi_lstm(x.float())[1][0]
        h = torch.cat([forwards, backwards], dim=1)
        mu, sig_hat = self.fc_mu(h), self.fc_sigma_hat(h)
        sigma = torch.exp(sig_hat / 2.0)
        noise = torch.normal(torch.zeros(mu.size()), torch.ones(mu.size()))
        return mu + sigma * noise, mu, sig_hat


class StrokesDecoder(nn.Module):
    """Each of a mixture's Normals has six numbers, side by side; three more are the pen's."""

    def __init__(self, hidden: int, latent: int, n_out: int) -> None:
        super().__init__()
        self.hidden, self.fc = hidden, nn.Linear(latent, 2 * hidden)
        self.lstm, self.fc_out = nn.LSTM(5 + latent, hidden), nn.Linear(hidden, n_out)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        start = torch.tanh(self.fc(z)).unsqueeze(0)
        sos = torch.tensor([0.0, 0, 1, 0, 0]).expand(1, x.size(1), 5)
        x = torch.cat([sos, x], dim=0)
        x = torch.cat([x, z.unsqueeze(0).expand(len(x), -1, -1)], dim=2)
        states = (start[..., : self.hidden].contiguous(), start[..., self.hidden :].contiguous())
        return self.fc_out(self.lstm(x, states)[0])


class Sketches(nn.Module):
    def __init__(self, hidden: int = 5, latent: int = 3, mixture: int = 2) -> None:
        super().__init__()
        self.m, self.encoder = mixture, StrokesEncoder(hidden, latent)
        self.decoder = StrokesDecoder(6, latent, 6 * mixture + 3)


def bivariate(dx: Tensor, dy: Tensor, mux: Tensor, muy: Tensor, sx: Tensor, sy: Tensor, rho: Tensor) -> Tensor:
    dx_norm, dy_norm = (dx - mux) / sx, (dy - muy) / sy
    z = (dx_norm**2 + dy_norm**2 - 2 * rho * dx_norm * dy_norm) / (1 - rho**2 + 1e-8)
    return torch.exp(-z / 2) / (2 * math.pi * sx * sy * torch.sqrt(1 - rho**2 + 1e-8))


def sketch_loss(model: Any, x: Tensor) -> Tensor:
    """The parts are put together again before the loss takes them apart."""
    z, mu, sig_hat = model.encoder(x)
    y, m = model.decoder(x, z), model.m
    raw = y[:, :, : 6 * m].reshape(*y.shape[:2], m, 6)
    pi, (mu_x, mu_y) = F.softmax(raw[..., 0], dim=2), (raw[..., 1], raw[..., 2])
    sigma_x, sigma_y, rho = torch.exp(raw[..., 3]), torch.exp(raw[..., 4]), torch.tanh(raw[..., 5])
    laws = torch.stack([pi, mu_x, mu_y, sigma_x, sigma_y, rho], dim=3).reshape(*y.shape[:2], 6 * m)
    y = torch.cat([laws, F.softmax(y[:, :, 6 * m :], dim=2)], dim=2)
    x = torch.cat([x, torch.tensor([0.0, 0, 0, 0, 1]).expand(1, x.size(1), 5)], dim=0)
    mask = torch.ones(y.size(0), y.size(1))
    mixed = y[:, :, : 6 * m].reshape(*x.shape[:2], m, 6)
    dx, dy = (x[..., i].unsqueeze(-1).expand(-1, -1, m) for i in (0, 1))
    drawn = (mixed[..., 0] * bivariate(dx, dy, *(mixed[..., i] for i in range(1, 6)))).sum(dim=-1)
    strokes = -(torch.log(drawn + 1e-8) * mask).sum(dim=0).mean() / len(x)
    pen = -((x[..., 2:] * torch.log(y[:, :, 6 * m :] + 1e-8)).sum(-1) * mask).sum(dim=0).mean() / len(x)
    kl = -torch.sum(1 + sig_hat - mu**2 - torch.exp(sig_hat), dim=1).mean() / (2 * mu.shape[1])
    return strokes + pen + 0.5 * torch.max(kl, torch.tensor(0.2))


def some_strokes() -> tuple[Tensor, ...]:
    pen = F.one_hot(tokens(2, 5, 4), 3).float()
    return (torch.cat([0.5 * randn(5, 4, 2), pen], dim=-1),)


# ---------------------------------------------------------------------------------------------- equations and graphs


class DrawnField(nn.Module):
    """A network whose weights are drawn once for a whole path."""

    def __init__(self, n_in: int, n_out: int, hidden: int) -> None:
        super().__init__()
        sizes = [(n_in, hidden), (hidden, n_out)]
        self.weight_mus = nn.ParameterList([nn.Parameter(nn.init.xavier_uniform_(torch.empty(b, a))) for a, b in sizes])
        self.bias_mus = nn.ParameterList([nn.Parameter(torch.empty(b).uniform_(-(a**-0.5), a**-0.5)) for a, b in sizes])
        self.weight_logsigs = nn.ParameterList([nn.Parameter(torch.empty(b, a).uniform_(-4, -2)) for a, b in sizes])
        self.bias_logsigs = nn.ParameterList([nn.Parameter(torch.empty(b).uniform_(-4, -2)) for _, b in sizes])
        self.acts = [nn.CELU(), nn.Identity()]
        self.layer_norms = nn.ModuleList([nn.LayerNorm(hidden), nn.Identity()])

    def draw_f(self) -> Callable[[Tensor], Tensor]:
        weights = [
            mu + torch.randn_like(mu) * sig.exp() for mu, sig in zip(self.weight_mus, self.weight_logsigs, strict=True)
        ]
        biases = [
            mu + torch.randn_like(mu) * sig.exp() for mu, sig in zip(self.bias_mus, self.bias_logsigs, strict=True)
        ]

        def f(x: Tensor) -> Tensor:
            for weight, bias, act, norm in zip(weights, biases, self.acts, self.layer_norms, strict=True):
                x = norm(act(F.linear(x, weight, bias)))
            return x

        return f

    def kl(self) -> Tensor:
        mus = torch.cat([p.view([-1]) for p in (*self.weight_mus, *self.bias_mus)])
        sigs = torch.cat([p.view([-1]) for p in (*self.weight_logsigs, *self.bias_logsigs)]).exp()
        return kl_divergence(Normal(mus, sigs), Normal(torch.zeros(len(mus)), torch.ones(len(mus))))


class SecondOrderVAE(nn.Module):
    """Positions and velocities; a draw's density is its noise's, and changes on the path by the field's divergence."""

    def __init__(self, q: int = 2, hidden: int = 6, filters: int = 2) -> None:
        super().__init__()
        self.q, n = q, 2 * filters * 2 * 2
        self.encoder = nn.Sequential(
            nn.Conv2d(1, filters, 3, 2, 1), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, 2 * filters, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.fc1, self.fc2, self.fc3 = nn.Linear(n, 2 * q), nn.Linear(n, 2 * q), nn.Linear(q, n)
        self.bnn = DrawnField(2 * q, q, hidden)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (2 * filters, 2, 2)), nn.ConvTranspose2d(2 * filters, filters, 4, 2, 1),
            nn.BatchNorm2d(filters), nn.ReLU(), nn.ConvTranspose2d(filters, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip
        self.mvn = MultivariateNormal(torch.zeros(2 * q), torch.eye(2 * q))

    def slope(self, vs: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        dv = f(vs)
        parts = [torch.autograd.grad(dv[:, i], vs, torch.ones_like(dv[:, i]), create_graph=True)[0][:, i]
                 for i in range(self.q)]  # fmt: skip
        return torch.cat([dv, vs[:, : self.q]], 1), -torch.sum(torch.stack(parts, 1), 1)

    def path(self, z: Tensor, logp: Tensor, steps: int, dt: float = 0.1) -> tuple[Tensor, Tensor]:
        """Runge and Kutta's rule of three eighths."""
        f = self.bnn.draw_f()
        zs, logps = [z], [logp]
        for _ in range(steps - 1):
            k1, l1 = self.slope(z, f)
            k2, l2 = self.slope(z + dt * k1 / 3, f)
            k3, l3 = self.slope(z + dt * (k2 - k1 / 3), f)
            k4, l4 = self.slope(z + dt * (k1 - k2 + k3), f)
            z, logp = z + (k1 + 3 * (k2 + k3) + k4) * dt / 8, logp + (l1 + 3 * (l2 + l3) + l4) * dt / 8
            zs.append(z)
            logps.append(logp)
        return torch.stack(zs, 1), torch.stack(logps, 1)

    def forward(self, x: Tensor, n_data: int = 20) -> Tensor:
        n, steps = x.shape[:2]
        h = self.encoder(x[:, 0])
        mean, logv = self.fc1(h), self.fc2(h)
        eps = torch.randn_like(mean)
        z0 = mean + eps * torch.exp(logv)
        zt, logp = self.path(z0, self.mvn.log_prob(eps), steps)
        recon = self.decoder(self.fc3(zt[:, :, self.q :].contiguous().view(n * steps, -1))).view(*x.shape)
        kl_z = (logp - self.mvn.log_prob(zt.contiguous().view(n * steps, -1)).view(n, steps)).sum(1)
        lhood = (torch.log(1e-3 + recon) * x + torch.log(1e-3 + 1 - recon) * (1 - x)).sum([1, 2, 3, 4])
        h = self.encoder(x.contiguous().view(n * steps, *x.shape[2:]))
        mean, logv = self.fc1(h), self.fc2(h)
        std = 1e-3 + logv.exp().contiguous().view(-1)
        instant = Normal(mean.contiguous().view(-1), std).log_prob(zt.contiguous().view(-1)).view(n, steps, -1).sum(2)
        instant_kl = (logp - instant).sum(1)
        elbo = n_data * (lhood.mean() - kl_z.mean() - instant_kl.mean()) - self.bnn.kl().sum()
        return -elbo


class GraphConv(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return adj @ self.lin(x) + self.bias


class SharedVGAE(nn.Module):
    """One layer gives means and log σ, a slip: the other is never asked."""

    def __init__(self, n_in: int = 5, n_out: int = 3) -> None:
        super().__init__()
        self.batch1, self.conv1 = nn.BatchNorm1d(2 * n_out), GraphConv(n_in, 2 * n_out)
        self.convmu, self.convlogstd = GraphConv(2 * n_out, n_out), GraphConv(2 * n_out, n_out)

    def reparam(self, mu: Tensor, logstd: Tensor) -> Tensor:
        if self.training:
            return mu + torch.randn_like(logstd) * torch.exp(logstd)
        return mu

    def forward(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.batch1(self.conv1(x, adj)).relu()
        mu = self.convmu(h, adj)
        logstd = self.convmu(h, adj)
        return mu, logstd, self.reparam(mu, logstd)


def smoothness(adj: Tensor, feat: Tensor, times: int) -> Tensor:
    others = adj - torch.diag(adj.diagonal())
    laplacian, x = torch.diag(others.sum(1)) - others, feat
    for _ in range(times):
        x = F.normalize(0.6 * x + adj @ x, 2, 1)
    return (x.T @ laplacian @ x).trace() / adj.sum()


def shared_vgae_loss(model: Any, feat: Tensor, links: Tensor, absent: Tensor) -> Tensor:
    whole = links + torch.eye(len(links))
    root = whole.sum(1).rsqrt()
    mu, logstd, z = model(feat, root[:, None] * whole * root)

    def agree(pairs: Tensor) -> Tensor:
        return torch.sigmoid((z[pairs[:, 0]] * z[pairs[:, 1]]).sum(dim=1))

    recon = -torch.log(agree(links.nonzero()) + 1e-15).mean() - torch.log(1 - agree(absent) + 1e-15).mean()
    kl = -0.5 * torch.mean(torch.sum(1 + 2 * logstd - mu**2 - logstd.exp() ** 2, dim=1))
    made = torch.matmul(z, z.T).sigmoid()
    rough = sum((smoothness(links, feat, k) - smoothness(made, feat, k)).abs() for k in (3, 4, 5))
    return recon + kl / len(feat) + 20 * rough


def small_graph() -> tuple[Tensor, ...]:
    upper = torch.triu(bits(7, 7), diagonal=1) + torch.diag(torch.ones(6), 1)
    links = ((upper + upper.T) > 0).float()
    return randn(7, 5), links, (links == 0).nonzero()[::2]


def stepped(*layers: nn.Module) -> list[nn.Module]:
    return [m for layer in layers for m in (layer, nn.LeakyReLU(0.2), nn.Dropout1d(0.0))]


class SpectraVAE(nn.Module):
    def __init__(self, length: int = 31, channels: int = 2, latent: int = 4) -> None:
        super().__init__()
        n, c = 3 * 2 * channels, channels
        self.encoder = nn.Sequential(
            *stepped(nn.Conv1d(1, c, 3, 2), nn.Conv1d(c, 2 * c, 3, 2), nn.Conv1d(2 * c, 2 * c, 3, 2)), nn.Flatten()
        )
        self.mean_layer, self.log_var_layer = nn.Linear(n, latent), nn.Linear(n, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, n), nn.LeakyReLU(0.2), nn.Unflatten(1, (2 * c, 3)),
            *stepped(nn.ConvTranspose1d(2 * c, 2 * c, 3, 2), nn.ConvTranspose1d(2 * c, c, 3, 2)),
            nn.ConvTranspose1d(c, 1, 3, 2), nn.LeakyReLU(0.2), nn.Linear(31, length),
        )  # fmt: skip

    def reparameterization(self, mean: Tensor, var: Tensor) -> Tensor:
        epsilon = torch.randn_like(var)
        return mean + var * epsilon

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_var = self.mean_layer(h), self.log_var_layer(h)
        return self.decoder(self.reparameterization(mean, torch.exp(0.5 * log_var))), mean, log_var


def spectra_loss(model: Any, x: Tensor) -> Tensor:
    x_hat, mean, log_var = model(x)
    return F.mse_loss(x_hat, x, reduction="sum") + 0.3 * kl_to_unit(mean, log_var)


# ---------------------------------------------------------------------------------------------- utterances


class LawLayer(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mulayer, self.logvar_layer = nn.Linear(n_in, n_out), nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.mulayer(x), self.logvar_layer(x)
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu, logvar, mu + eps * std


def relu_pair(n_in: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())


class FactorizedUtterances(nn.Module):
    """A code for a segment and one for an utterance, whose prior's means are drawn anew in each call; the decoder's law
    is cut off from its gradients: both are slips."""

    def __init__(self, frames: int = 3, bands: int = 4, z1: int = 3, z2: int = 4, hidden: int = 7) -> None:
        super().__init__()
        n, self.z2_dim = frames * bands, z2
        self.z1_pre_encoder, self.z2_pre_encoder = relu_pair(n + z2, hidden), relu_pair(n, hidden)
        self.z1_gauss_layer, self.z2_gauss_layer = LawLayer(hidden, z1), LawLayer(hidden, z2)
        self.pre_decoder, self.dec_gauss_layer = relu_pair(z1 + z2, hidden), LawLayer(hidden, n)

    def log_gauss(self, x: Tensor, mu: Any, logvar: Any) -> Tensor:
        return -0.5 * (math.log(2 * math.pi) + logvar + torch.pow(x - mu, 2) / torch.exp(torch.as_tensor(logvar)))

    def kld(self, p_mu: Tensor, p_logvar: Tensor, q_mu: Any, q_logvar: float) -> Tensor:
        return -0.5 * (1 + p_logvar - q_logvar - (torch.pow(p_mu - q_mu, 2) + torch.exp(p_logvar)) / math.exp(q_logvar))

    def forward(self, x: Tensor, index: Tensor, utterances: int = 5, segments: int = 6) -> tuple[Tensor, Tensor]:
        table = torch.empty([utterances, self.z2_dim]).normal_(mean=0, std=1.0)
        table.requires_grad = True
        mu2 = torch.gather(table, 0, torch.stack([index] * self.z2_dim, 1))
        spread, flat = math.log(0.5**2), x.view(len(x), -1)
        z2_mu, z2_logvar, z2 = self.z2_gauss_layer(self.z2_pre_encoder(flat))
        z1_mu, z1_logvar, z1 = self.z1_gauss_layer(self.z1_pre_encoder(torch.cat([flat, z2], dim=-1)))
        x_mu, x_logvar, x_sample = (
            t.view(-1, *x.shape[1:]) for t in self.dec_gauss_layer(self.pre_decoder(torch.cat([z1, z2], -1)))
        )
        del x_sample
        log_pmu2 = torch.sum(self.log_gauss(mu2.detach(), 0.0, 0.0), dim=1)
        kl_z2 = torch.sum(self.kld(z2_mu, z2_logvar, mu2, spread), dim=1)
        kl_z1 = torch.sum(self.kld(z1_mu, z1_logvar, 0.0, 0.0), dim=1)
        log_px = torch.sum(self.log_gauss(x, x_mu.detach(), x_logvar.detach()), dim=(1, 2))
        logits = -torch.pow(z2_mu.unsqueeze(1) - table.unsqueeze(0), 2) / (2 * math.exp(spread))
        log_qy = F.cross_entropy(logits.sum(dim=-1), index)
        return log_px - kl_z1 - kl_z2 + log_pmu2 / segments, log_qy


def utterances_loss(model: Any, x: Tensor, index: Tensor, alpha: float = 10.0) -> Tensor:
    lower_bound, log_qy = model(x, index)
    return -1 * torch.mean(lower_bound + alpha * log_qy)


# ---------------------------------------------------------------------------------------------- models without a head


class SessionGRU(nn.Module):
    """The next item of a session, ranked among those of the others."""

    def __init__(self, items: int = 9, hidden: int = 6) -> None:
        super().__init__()
        self.items, self.gru, self.h2o = items, nn.GRU(items, hidden), nn.Linear(hidden, items)
        self.final_activation = nn.Tanh()

    def forward(self, item: Tensor, hidden: Tensor) -> Tensor:
        output, _ = self.gru(F.one_hot(item, self.items).float().unsqueeze(0), hidden)
        return self.final_activation(self.h2o(output.view(-1, output.size(-1))))


def ranked_loss(model: Any, item: Tensor, target: Tensor) -> Tensor:
    logit = model(item, torch.zeros(1, len(item), 6))[:, target.view(-1)]
    diff = -(logit.diag().view(-1, 1).expand_as(logit) - logit)
    return torch.sigmoid(diff).mean() + torch.sigmoid(logit**2).mean()


class BagOfContext(nn.Module):
    def __init__(self, words: int = 12, width: int = 5) -> None:
        super().__init__()
        self.words, self.linear1, self.linear2 = words, nn.Linear(words, width), nn.Linear(width, words)

    def forward(self, context: Tensor) -> Tensor:
        return self.linear2(self.linear1(F.one_hot(context, self.words).float()).mean(axis=1))


def context_loss(model: Any, context: Tensor, word: Tensor) -> Tensor:
    return F.cross_entropy(model(context), word)


class CausalBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.conv1 = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(n_in, n_out, 3, padding=self.cut, dilation=dilation)
        )
        self.conv2 = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(n_out, n_out, 3, padding=self.cut, dilation=dilation)
        )
        self.bn1, self.bn2, self.dropout = nn.BatchNorm1d(n_out), nn.BatchNorm1d(n_out), nn.Dropout(0.2)
        self.downsample = nn.Conv1d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(F.relu(self.bn1(self.conv1(x)[:, :, : -self.cut])))
        out = self.dropout(F.relu(self.bn2(self.conv2(out)[:, :, : -self.cut])))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class WeatherTCN(nn.Module):
    def __init__(self, n_in: int = 4, width: int = 5) -> None:
        super().__init__()
        self.network = nn.Sequential(CausalBlock(n_in, width, 1), CausalBlock(width, width, 2))
        self.fc = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.network(x.transpose(1, 2))[:, :, -1])


def weather_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


class GluBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv1x1_out, self.conv1x1_skip = (nn.Conv1d(width // 2, width, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.conv(F.dropout(x, p=0.05, training=self.training)).split(x.size(1) // 2, dim=1)
        gated = torch.tanh(a) * torch.sigmoid(b)
        return (self.conv1x1_out(gated) + x) * math.sqrt(0.5), self.conv1x1_skip(gated)


class DenoisingWaves(nn.Module):
    def __init__(self, n_in: int = 2, width: int = 6) -> None:
        super().__init__()
        self.first_conv = nn.Conv1d(n_in, width, 3, padding=1, bias=False)
        self.conv_layers = nn.ModuleList([GluBlock(width, 2**i) for i in range(2)])
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(True), nn.Conv1d(width, 8, 3, padding=1, bias=False), nn.ReLU(True), nn.Conv1d(8, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.first_conv(x), None
        for conv in self.conv_layers:
            x, h = conv(x)
            skips = h[..., 3:-3] if skips is None else skips + h[..., 3:-3]
        return self.last_conv_layers(skips)


def waves_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y, reduction="sum") / y.shape[-1]


class AgentNet(nn.Module):
    def __init__(self, n_in: int, n_out: int, hidden: int = 8) -> None:
        super().__init__()
        self.in_fn, self.fc1 = nn.BatchNorm1d(n_in), nn.Linear(n_in, hidden)
        self.fc2, self.fc3 = nn.Linear(hidden, hidden), nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(self.in_fn(x))))))


def first_choice(logits: Tensor) -> Tensor:
    return (logits == logits.max(1, keepdim=True)[0]).float()


class ManyAgents(nn.Module):
    """Two agents of discrete actions; a Gumbel's draw lets the gradient through."""

    def __init__(self, obs: int = 4, actions: int = 3) -> None:
        super().__init__()
        n = 2 * (obs + actions)
        self.policies, self.targets = (nn.ModuleList([AgentNet(obs, actions) for _ in range(2)]) for _ in range(2))
        self.critic, self.target_critic = AgentNet(n, 1), AgentNet(n, 1)

    def gumbel(self, logits: Tensor) -> Tensor:
        uniform = torch.FloatTensor(*logits.shape).uniform_()
        y = F.softmax(logits - torch.log(-torch.log(uniform + 1e-20) + 1e-20), dim=1)
        return (first_choice(y) - y).detach() + y

    def update(self, obs: Tensor, acs: Tensor, reward: Tensor, obs2: Tensor) -> Tensor:
        ahead = [first_choice(pi(o)) for pi, o in zip(self.targets, obs2, strict=True)]
        target = reward + 0.95 * self.target_critic(torch.cat((*obs2, *ahead), dim=1))
        vf_loss = F.mse_loss(self.critic(torch.cat((*obs, *acs), dim=1)), target.detach())
        out = self.policies[0](obs[0])
        chosen = [self.gumbel(out), first_choice(self.policies[1](obs[1]))]
        pol_loss = -self.critic(torch.cat((*obs, *chosen), dim=1)).mean() + (out**2).mean() * 1e-3
        return vf_loss + pol_loss


def agents_step(model: Any, *batch: Tensor) -> Tensor:
    return model.update(*batch)


# fmt: off
CASES = (
    PublicCase(
        "Text-Vae (liyucheng09)",
        Retold("liyucheng09/Text-Vae", "16efd4444c05443f1f602273c7496b156cddd952", "vae.py"),
        SentenceTransformer, lambda: (tokens(11, 4, 5, low=1),), (posterior("hidden2logv"),), own_step,
        truth="vae.py sample: exp(log_var / 2); step: q's density less p's at one draw, averaged",
    ),
    PublicCase(
        "Contrastive ProdLDA",
        Retold(
            "duongngyn0510/constractive-learning-prodlda-vinai", "141577df4ef513d073fe40bbe065c445232632e5",
            "model/constractive_prodlda.py, model/encoder.py, train/train.py, config/config_clprolda.py",
        ),
        ContrastiveTopics, lambda: (tokens(4, 7, 12).float(), rand(7, 12)), (posterior("encode.log_var_bn"),),
        contrastive_loss,
        truth="encoder.py reparameterize: exp(0.5 v) of the batch norm behind the layer, with uniform noise, a slip; "
        "the prior is fixed by default; the encoder is called three times, and once with a KL",
    ),
    PublicCase(
        "LofiModel",
        Retold(
            "ziemmi13/Lofi-MIDI-VAE-generator", "17825dd5a298f346d3fa5a2be3a5a146b849a374",
            "model/model.py, model/loss.py, model/config.py",
        ),
        RollVAE, lambda: (tokens(3, 4, 6, 6),), (posterior("encoder.fc_logvar"),), roll_loss,
        truth="model.py reparameterize: exp(0.5 logvar); loss.py: what the averaged KL has above 0.6, which is "
        "nothing at first",
    ),
    PublicCase(
        "CycleVAE (patrickltobing)",
        Retold(
            "patrickltobing/cyclevae-vc", "f520b5d415c9f80c094180a5234201e0b1460f35",
            "src/nets/gru_vae.py, src/bin/train_gru_cyclevae_gauss_batch.py",
        ),
        CycleVC, lambda: (randn(2, 4, 4), randn(2, 4, 1, seed=9)),
        (posterior("encoder.out_1", 2, 4, above_thirteen),), cycle_loss,
        truth="gru_vae.py: a log variance of at least -13.8, and sampling_vae_batch: exp(v / 2); what the layer gives "
        "is read by the next step, too, unbounded. One cycle here",
    ),
    PublicCase(
        "ACVAE (kamepong)",
        Retold(
            "kamepong/ACVAE-VC", "0297e4bedf73b2557bdaec88117ed4f15f560d00", "acvae_net.py, module.py, train.py",
        ),
        AuxiliaryVC, lambda: (randn(3, 6, 8), randn(3, 6, 8, seed=9)),
        (posterior("enc.le4", 3, 6, to_fifty), likelihood("dec.le4", 6, 12, to_fifty)),
        lambda model, *batch: model.calc_loss(*batch),
        truth="acvae_net.py: ln_var within -50 and 0, sqrt(exp(v)); gaussian_nll; networks answer to a call "
        "themselves",
    ),
    PublicCase(
        "CUC-VAE (NeuroWave-ai)",
        Retold(
            "NeuroWave-ai/CUCVAE-TTS", "ba20295c5fc2f797a5d4eb1a22372bac30ba1157",
            "model/cucvae_modules.py, model/cucvae_loss.py",
        ),
        SpokenText,
        lambda: (tokens(9, 2, 3), torch.tensor([[3, 2, 3], [2, 4, 2]]), randn(2, 3, 5), randn(2, 8, 5, seed=9)),
        (posterior("VAE.logvar_fc"), posterior("VAE.text_logvar_fc")), spoken_loss,
        truth="cucvae_modules.py VAE.reparameterize: exp(0.5 v), twice; cucvae_loss.py: a KL of each from a unit "
        "Normal. Hard to decide: what it calls the text's prior is drawn and has a KL from N(0, 1), so that it is a "
        "posterior here; the other one scales a draw that is of no unit Normal",
    ),
    PublicCase(
        "BVAE-TTS",
        Retold(
            "LEEYOONHYUNG/BVAE-TTS", "6f0a71394af00f7d2d3bf22789c54bd8aa151c28",
            "modules/model.py, modules/module.py, modules/conv.py, train.py",
        ),
        TwoWaySpeech, lambda: (tokens(7, 2, 3), rand(2, 5, 8), torch.tensor([8, 6])),
        tuple(
            head for level in ("fine", "coarse") for head in (
                prior(f"{level}.down_conv_a.1", 4, 8, F.softplus), posterior(f"{level}.up_conv_a.1", 4, 8, None),
                posterior(f"{level}.down_conv_a.1", 12, 16, None),
            )
        ), itself,
        truth="module.py BVAE_layer: a softplus that is written out; a posterior's σ is the prior's times two more. "
        "Two layers here, without the alignment's jitter and guide. Hard to decide: the prior's raw value is in the "
        "posterior's σ, too",
    ),
    PublicCase(
        "FHVAE (BurnhamG)",
        Retold(
            "BurnhamG/PyTorch-ScalableFHVAE", "6bbb562b947153e790188ef09909cfb3c8ffb1c9",
            "simple_fhvae.py, train_model.py",
        ),
        FactorizedUtterances, lambda: (randn(5, 3, 4), tokens(5, 5)),
        (posterior("z1_gauss_layer.logvar_layer"), posterior("z2_gauss_layer.logvar_layer")), utterances_loss,
        truth="simple_fhvae.py GaussianLayer: exp(0.5 v). Hard to decide: dec_gauss_layer's law is detached in the "
        "data's density, and what it draws is dropped, so that it is never trained: no head",
    ),
    PublicCase(
        "GRU latent forecaster",
        Retold(
            "adrielruston-maker/Deep-Latent-Regime-Discovery-Probabilistic-Forecasting",
            "5755ce433d8fdb449e2239c7128c3388cf256a45", "src/models/gru_forecaster.py, src/loss.py",
        ),
        RegimeForecaster, lambda: (randn(6, 5, 4), randn(6, seed=9)), (likelihood("sigma", sigma=floored_softplus),),
        regime_nll, truth="gru_forecaster.py: softplus + 1e-6; loss.py gaussian_nll",
    ),
    PublicCase(
        "VAE of sensors (hsteude)",
        Retold("hsteude/seq2seq-vae", "171499e7a5fcb9496e3ee7af5202ac359fe38abf", "seq2seq_vae/vae.py"),
        SensorVAE, lambda: (randn(5, 6, 2),),
        (posterior("fc_var"), likelihood("log_scale_diag", sigma=torch.exp)), own_step,
        truth="vae.py: exp(log_var / 2); gaussian_likelihood: the diagonal of a MultivariateNormal's triangle is exp "
        "of a parameter",
    ),
    PublicCase(
        "RecVAE of loads",
        Retold(
            "xiaozheng7/RecVAE-GBRT", "e1395a7f7dc0bf1f7f7b8b5fa6a364367a63711c",
            "models/VAE.py, models/RecVAE_training.py, utils/VAE_loss.py",
        ),
        ChainedFeatures, lambda: (randn(6), randn(6, seed=9).abs()), (posterior("q_z_var.0", sigma=root_softplus),),
        chained_loss, truth="VAE.py: a softplus is the variance, and its root draws; one stretch a call, of one row",
    ),
    PublicCase(
        "VAE of extremes",
        Retold(
            "letrucnhi160703/vae-time-series", "15d6054709fd7fadb7a1623e9062e0a8468b69c6",
            "vae-models/mixture/mixture_lstm.py",
        ),
        ExtremesVAE, lambda: (randn(6, 5, 2), randn(6, 4, seed=9)), (posterior("encoder.logvar_layer_normal"),),
        extremes_loss,
        truth="mixture_lstm.py reparameterize_gaussian: exp(0.5 logvar), written by rows into one code with draws of "
        "a generalized Pareto law, whose scale is no Normal's",
    ),
    PublicCase(
        "ECG VAE-GAN",
        Retold(
            "YorkXingZeyu/ECG-VAEGAN-Project", "3f10cc1f22d333f90225d389bf08cd2bfa2ed42e",
            "src/models.py, src/train.py",
        ),
        HeartGAN, lambda: (rand(5, 1, 32),), (posterior("netE.main.5", 3, 6, torch.exp),), heart_generator_step,
        truth="models.py VEncoder: exp(v) draws, in the script; its KL has σ² where σ² / 2 belongs, a slip that is "
        "trained. The step of encoder and generator",
    ),
    PublicCase(
        "LFADS (lyprince)",
        Retold(
            "lyprince/hierarchical_lfads", "062504ad53a69498fd5fa3e017a86684039201f4", "lfads.py, objective.py, rnn.py",
        ),
        FactorDynamics, lambda: (tokens(4, 3, 4, 5).float(),),
        (
            posterior("encoder.fc_g0_theta", 4, 8), posterior("controller.fc_u_theta", 1, 2),
            prior("u_prior_gp_logvar"),
        ), dynamics_loss,
        truth="lfads.py sample_gaussian: exp(0.5 logvar). Hard to decide: the process' log variance is a parameter, "
        "of which exp(0.5 v) is σ at the first step, and what is kept of the time's takes a part of it at later ones",
    ),
    PublicCase(
        "VAE of CarRacing (humorbeing)",
        Retold("humorbeing/world-models-pytorch", "27df11210759e84087b09869052e65b593a880ec", "vae_train.py"),
        RacingVAE, lambda: (rand(4, 3, 8, 8),), (posterior("logvar_fc"),), racing_loss,
        truth="vae_train.py: exp(logvar / 2); its KL has a weight of 1e-6",
    ),
    PublicCase(
        "DreamerV2, Normals (RajGhugare19)",
        Retold(
            "RajGhugare19/dreamerv2", "0c12a20c5608fdadc5aeb0cd335d6db3ba0cad0c",
            "dreamerv2/models/rssm.py, dreamerv2/utils/rssm.py, dreamerv2/training/trainer.py",
        ),
        normal_world, world_batch,
        (posterior("RSSM.fc_posterior.2", 3, 6, tenth_softplus), prior("RSSM.fc_prior.2", 3, 6, tenth_softplus)),
        world_loss,
        truth="utils/rssm.py get_stoch_state: softplus + 0.1; trainer.py _kl_loss: both sides once detached. What is "
        "not its default",
    ),
    PublicCase(
        "SAC (biegunk)",
        Retold(
            "biegunk/soft-actor-critic-pytorch", "90b07b612bd7294ce949b1d2db76922e9802bf7b",
            "sac/network.py, sac/learner.py",
        ),
        SoftLearner, transitions, (likelihood("actor.log_std_linear", sigma=twenty_two),), soft_step,
        truth="network.py evaluate: exp(clamp(v, -20, 2)), whose forward is called by its name; actions are a "
        "likelihood's",
    ),
    PublicCase(
        "TD-MPC2",
        Retold(
            "nicklashansen/tdmpc2", "13ef0039a288dc980dc2672b9141fef1ba0cd7d2",
            "tdmpc2/common/world_model.py, tdmpc2/common/math.py, tdmpc2/tdmpc2.py",
        ),
        ImplicitWorld, lambda: (randn(4, 5, 5), randn(3, 5, 2, seed=9).tanh(), randn(3, 5, 1, seed=10)),
        (likelihood("_pi.2", 2, 4, between_ten_and_two),), implicit_step,
        truth="math.py log_std: -10 + 6 (tanh(v) + 1); the density is of the noise, less log σ; actions are a "
        "likelihood's",
    ),
    PublicCase(
        "ANP of films (Zeisig0115)",
        Retold(
            "Zeisig0115/Attentive-Neural-Processes-Methods-for-Reactive-Sputtering-Experiments",
            "5db1df8485e2d88d311df498fbfef587cfdd8c36", "ANP.py",
        ),
        FilmProcess, film_batch,
        (
            posterior("latent_encoder.stat_mlp.2", 6, 12, nine_tenths_sigmoid),
            prior("latent_encoder.stat_mlp.2", 6, 12, nine_tenths_sigmoid),
            likelihood("decoder.8", 1, 2, nine_tenths_softplus),
        ), itself,
        truth="ANP.py: 0.1 + 0.9 sigmoid and 0.1 + 0.9 softplus. Hard: one layer is posterior and prior at once, as "
        "in earlier looks",
    ),
    PublicCase(
        "VAE of driven paths (sangbeom0321)",
        Retold(
            "sangbeom0321/VAE-trajectory-nuplan", "04ad881160d8988d7f2eca52c5500b3370f84561",
            "models/vae.py, utils/loss.py, train/train.py",
        ),
        DrivenPathVAE, lambda: (randn(6, 10).tanh(),), (posterior("encoder.logvar_head"),), driven_loss,
        truth="vae.py reparameterize: exp(0.5 logvar); the KL is divided by the code's size",
    ),
    PublicCase(
        "CVAE of free space (KarlRong)",
        Retold(
            "KarlRong/VAE-Motion-Planning", "56b42e8c0eec30cd1898c0475d65c1f8599c9b30",
            "models/CVAE.py, cvae_gap.ipynb",
        ),
        PlannerCVAE, lambda: (rand(6, 6), rand(6, 7, seed=9)), (posterior("encoder.linear_log_var"),), planner_loss,
        truth="CVAE.py reparameterize: exp(0.5 logvar); the KL has a weight of 0.004",
    ),
    PublicCase(
        "Action2Motion",
        Retold(
            "EricGuo5513/action2motion", "789631fe3b3b3d9e98627997b86b8d0d357deb86",
            "models/motion_vae.py, trainer/vae_trainer.py",
        ),
        ActionMotion, lambda: (randn(4, 4, 6), F.one_hot(tokens(3, 4), 3).float()),
        (posterior("posterior_net.logvar_net"), prior("prior_net.logvar_net")), motion_step,
        truth="motion_vae.py GaussianGRU: exp(0.5 logvar); vae_trainer.py kl_criterion. What the prior draws is "
        "dropped. Steps are skipped nowhere here",
    ),
    PublicCase(
        "Sketch-RNN (itbaans)",
        Retold(
            "itbaans/sketch-rnn-pytorch", "8df97439164efdfc09965341dbb936fca60e5fc3",
            "my_skecth_rnn.py, hyper_param.py",
        ),
        Sketches, some_strokes,
        (
            posterior("encoder.fc_sigma_hat"), StridedHead("decoder.fc_out", 3, 10, "likelihood", torch.exp, step=6),
            StridedHead("decoder.fc_out", 4, 11, "likelihood", torch.exp, step=6),
        ), sketch_loss,
        truth="my_skecth_rnn.py: exp(v / 2) draws, and the KL is no less than 0.2; process_logits: exp(v) of the "
        "fourth and the fifth number of each of a mixture's six, of a bivariate Normal with a correlation",
    ),
    PublicCase(
        "ODE2VAE",
        Retold(
            "cagatayyildiz/ODE2VAE", "040d0e9a52642cc33faa593b7c96ff28dc04cee1",
            "torch_ode2vae_minimal.py, torch_bnn.py",
        ),
        SecondOrderVAE, lambda: (rand(3, 3, 1, 8, 8),),
        (
            posterior("fc2", sigma=torch.exp),
            *(posterior(f"bnn.{kind}_logsigs.{i}", sigma=torch.exp) for kind in ("weight", "bias") for i in range(2)),
        ), itself,
        truth="torch_ode2vae_minimal.py: exp(v) draws the start, and 1e-3 + exp(v) is in the density of the whole "
        "path; torch_bnn.py: weights are drawn by exp of parameters, and have a KL. One hidden layer of it here",
    ),
    PublicCase(
        "VGAE (vasile-paskardlgm)",
        Retold(
            "vasile-paskardlgm/Heterophilc-Variational-Graph-Auto-Encoders", "359748631ce6820383564095142fb009781aed82",
            "Graph_Network_LGM.py, model_test.py, tools.py",
        ),
        SharedVGAE, small_graph, (posterior("convmu", sigma=torch.exp),), shared_vgae_loss,
        truth="Graph_Network_LGM.py VGAEencoder: exp(v) of the layer that gives the means, too, a slip. Hard to "
        "decide: σ is that layer's whole output, of its second call",
    ),
    PublicCase(
        "VAE of galaxies' spectra",
        Retold("LucaMarziano/Galaxy-VAE", "42645a317b90d3d8e2a5f524ba5fd000f703fca4", "Galaxy Spectra VAE.ipynb"),
        SpectraVAE, lambda: (rand(5, 1, 31),), (posterior("log_var_layer"),), spectra_loss,
        truth="the notebook's forward: exp(0.5 log_var) is called a variance, and draws; KL summed",
    ),
    PublicCase(
        "SPiRL",
        Retold(
            "clvrai/spirl", "1742ad18e14e194408a17008ad947e7d944f596f",
            "spirl/models/skill_prior_mdl.py, spirl/modules/variational_inference.py, spirl/modules/losses.py",
        ),
        SkillPrior, lambda: (randn(6, 3, 4), randn(6, 3, 2, seed=9)),
        (posterior("q.1", 3, 6, ten_to_two), prior("p.0.head.linear", 3, 6, ten_to_two)), skill_loss,
        truth="variational_inference.py Gaussian: exp(clamp(v, -10, 2)), clamped anew when laws are joined; the "
        "learned prior's density is of a draw without its gradient, summed and bounded",
    ),
    PublicCase(
        "BCQ (Manaro-Alpha)",
        Retold(
            "Manaro-Alpha/BCQ-Pytorch", "5faf21b005f7ab739eba6492befca7716fb10835",
            "algorithm/BCQ.py, modules/actor_critic.py",
        ),
        BatchConstrained,
        lambda: (randn(6, 4), randn(6, 2, seed=9).tanh(), randn(6, 1, seed=10), randn(6, 4, seed=11), bits(6, 1)),
        (posterior("vae.log_std", sigma=four_to_fifteen),), constrained_step,
        truth="actor_critic.py VAE: exp(clamp(v, -4, 15)) draws with uniform noise, a slip; BCQ.py: the KL in log σ",
    ),
    PublicCase(
        "ACT (theriverroars)",
        Retold(
            "theriverroars/Action-Chunking-Transformers", "e448a361c249636a0e8bd9d20fb4168d5baef452",
            "act/model.py, train.py",
        ),
        ChunkedActions, lambda: (randn(5, 4), randn(5, 3, 2, seed=9).tanh()), (posterior("latent_logvar"),), chunk_loss,
        truth="model.py _reparameterise: exp(0.5 logvar); KL averaged",
    ),
    PublicCase(
        "DreamerV2, classes (RajGhugare19)",
        Retold(
            "RajGhugare19/dreamerv2", "0c12a20c5608fdadc5aeb0cd335d6db3ba0cad0c",
            "dreamerv2/models/rssm.py, dreamerv2/utils/rssm.py, dreamerv2/training/trainer.py",
        ),
        class_world, world_batch, (), world_loss, truth="its default: classes; pictures and rewards have a unit "
        "Normal",
    ),
    PublicCase(
        "GRU4REC (hungpthanh)",
        Retold(
            "hungpthanh/GRU4REC-pytorch", "0f90ef1387b9d1b14aa6b49d07af38f538d7be51",
            "lib/model.py, lib/lossfunction.py",
        ),
        SessionGRU, lambda: (tokens(9, 5), tokens(9, 5, seed=9)), (), ranked_loss, truth="lossfunction.py TOP1Loss: "
        "ranks",
    ),
    PublicCase(
        "CBOW (OlgaChernytska)",
        Retold("OlgaChernytska/word2vec-pytorch", "06349fdf078d64520748036aa44fbe3c6f5fd428", "utils/model.py"),
        BagOfContext, lambda: (tokens(12, 6, 4), tokens(12, 6, seed=9)), (), context_loss, truth="model.py: classes",
    ),
    PublicCase(
        "TCN of weather",
        Retold(
            "tharun2431/weather-tcn-forecasting", "6c73a8fad979487b2b331730502438be01112838",
            "src/models/tcn.py, src/training/trainer.py",
        ),
        WeatherTCN, lambda: (randn(6, 8, 4), randn(6, 1, seed=9)), (), weather_loss, truth="trainer.py: squares",
    ),
    PublicCase(
        "Denoising WaveNet (Sytronik)",
        Retold(
            "Sytronik/denoising-wavenet-pytorch", "2111105808aaf00a0399d8763e58c0736cc34d3a",
            "model/dwavenet.py, model/modules.py, train.py",
        ),
        DenoisingWaves, lambda: (randn(3, 2, 14), randn(3, 1, 8, seed=9)), (), waves_loss,
        truth="train.py: squares; the noise is the data's",
    ),
    PublicCase(
        "MADDPG (SamirW)",
        Retold(
            "SamirW/maddpg-pytorch", "01d1741b65d26d81e64f29eb4e298721deb48953",
            "algorithms/maddpg.py, utils/networks.py, utils/misc.py",
        ),
        ManyAgents,
        lambda: (
            randn(2, 6, 4), F.one_hot(tokens(3, 2, 6), 3).float(), randn(6, 1, seed=10), randn(2, 6, 4, seed=11),
        ), (), agents_step, truth="maddpg.py: actions of a Gumbel's draw",
    ),
)
# fmt: on
