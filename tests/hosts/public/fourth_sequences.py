"""A fourth look: text, dialogue, speech, music, motion, paths, video, worlds, policies, series, cells, baskets, topics,
robots and climate, in our own words, sampled as an ordinary user's model would be.

The fields were fixed first, one query each, and then the first repository that the query names, in order, with a
VAE-like model in PyTorch that no earlier look has; its main model, with the loss of its training script. Conventions
were neither sought nor avoided. What was passed was judged by what the query showed of it, and is counted where it was
not opened. Every truth was written from reading the code, before any of these was scanned.

Text (sentence VAE, LSTM, KL annealing; names with `text-vae`): `anshulsamar/seq` passed (Lua), `zwjyyc/finch` passed
(TensorFlow), `ashutoshsingh0223/deep-paraphrase` taken; `ddelgoda/text-vae-nlp`, `universome/text-vae` and
`spro/pytorch-text-vae` taken, `iconix/pytorch-text-vae` and `nsu-ai-team/conv1d-text-vae` passed (not opened, the
field had four). Dialogue (CVAE, prior and posterior network): `XinnuoXu/CVAE_Dial_CGate` taken,
`gaotongxiao/LatentVariableDialogueModel` and `snakeztc/NeuralDialog-CVAE` passed (TensorFlow),
`guxd/VariationalSeq2Seq` taken. Speech (VAE, reference encoder): `smoke-trees/Voice-synthesis` passed (no VAE),
`Dapwner/CVAE-Tacotron` taken. Voice conversion (VAE, speaker, content): `v-manhlt3/disentangled-VAE` passed (no code),
`ssms-soma/Voice_Conversion` passed (no Normal), `AneryPatel/voice-conversion-demo` names the code that it is of,
`jjery2243542/adaptive_voice_conversion`: taken. Music (MusicVAE): `Variational-Autoencoder/MusicVAE` taken. Motion
(VAE, transformer): `rlawlsgus/human-motion-TAE` passed (no Normal), `SeungyounShin/hm-vae-lafan` taken
(`JinShiyin/hm-vae` is the same), and the method that most of the other hits are of,
`ChenFengYe/motion-latent-diffusion`. Paths (CVAE, pedestrians):
`arsalhuda24/LSTM-autoencoders-for-Trajectory-Prediction` passed (no VAE yet), `YuxuanIAIR/MSRL-master` taken. Video
(stochastic, variational): `zhang-liyi/svg` passed (TensorFlow), `chaehunshin/svp` taken. Worlds (Dreamer, RSSM):
`facebookresearch/denoised_mdp` passed (a README came up; its model was not opened), `nomutin/RSSM` taken,
`aLadNamedPat/simpleDreamer` passed (not opened) and `youngers2006/Dreamer` passed (its world model breaks off),
`kc-ml2/SimpleDreamer` taken. Policies (PPO, SAC, Gaussian): `RodolpheFmd/Modelling-PyTorch-DRL` taken, both. Series
(forecast, imputation, VAE): `PaddlePaddle/PaddleSpatial` passed (its snapshot is Paddle's), `ratschlab/GP-VAE` passed
(TensorFlow), `WenjieDu/PyPOTS` taken. Latent ODEs and state spaces: `eliottprdlx/variational_neural_ode` and
`qu-gg/torch-neural-ssm` taken. Neural processes: `YannDubs/Neural-Process-Family` taken. Cells:
`lovelyscientist/rna-seq-vae` taken. Baskets (collaborative filtering): `cheng-w-liu/computational-notes` passed (notes
on code that an earlier look has), `pyy0715/vae-cf-pyorch` taken. Topics: `JiaTong95/bishe` names its origin,
`zll17/Neural_Topic_Models`: taken. Imitation (action chunking, CVAE): two pages of notes, then `tonyzhaozh/act` taken.
Climate (emulator, VAE): `schmidtjonathan/Climate2Weather` passed (diffusion), `ParsaGooya/Decadal_BVAE` taken.
Controls, as the field's best known code: `NVIDIA/tacotron2`, `yuqinie98/PatchTST`,
`yihong-chen/neural-collaborative-filtering`, `neuraloperator/neuraloperator`.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import bits, itself, kl_to_unit, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- text and dialogue


class ParaEncoder(nn.Module):
    """Reads a paraphrase from where the original's reader stopped, and hands on its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.hw1, self.rnn = nn.Linear(6, 6), nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        _, (_, cells) = self.rnn(torch.relu(self.hw1(x)), state)
        cells = cells.view(1, 2, len(x), 5)[-1]
        return torch.cat([cells[0], cells[1]], 1)


class Paraphrase(nn.Module):
    """A VAE of a sentence's paraphrase; the original starts the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.original_encoder = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.paraphrase_encoder = ParaEncoder()
        self.context_to_mu, self.context_to_logvar = nn.Linear(10, 4), nn.Linear(10, 4)
        self.decoder = nn.ModuleDict({"rnn": nn.LSTM(10, 5, 2, batch_first=True), "fc": nn.Linear(5, 9)})

    def forward(self, drop_prob: float, original: Tensor, paraphrase: Tensor, word_input: Tensor) -> tuple[Tensor, Any]:
        batch_size = original.size(0)
        state = self.original_encoder(self.embedding(original))[1]
        context = self.paraphrase_encoder(self.embedding(paraphrase), state)
        mu, logvar = self.context_to_mu(context), self.context_to_logvar(context)
        std = torch.exp(0.5 * logvar)
        z = torch.randn([batch_size, 4])
        z = z * std + mu
        kld = (-0.5 * torch.sum(logvar - torch.pow(mu, 2) - torch.exp(logvar) + 1, 1)).mean().squeeze()
        words = F.dropout(self.embedding(word_input), drop_prob)
        steps = words.size(1)
        z = torch.cat([z] * steps, 1).view(batch_size, steps, 4)
        out = self.decoder["rnn"](torch.cat([words, z], 2), state)[0].contiguous().view(-1, 5)
        return self.decoder["fc"](out).view(batch_size, steps, 9), kld


def paraphrase_loss(model: Any, original: Tensor, paraphrase: Tensor) -> Tensor:
    logits, kld = model(0.3, original, paraphrase, paraphrase[:, :-1])
    return 79 * F.cross_entropy(logits.view(-1, 9), paraphrase[:, 1:].reshape(-1)) + 0.1 * kld


class WordReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.gru, self.to_latent = nn.Embedding(9, 6), nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, seqs: Tensor) -> Tensor:
        return self.to_latent(self.gru(self.embeddings(seqs))[1].squeeze(0))


class WordWriter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.latent_to_hidden = nn.Embedding(9, 6), nn.Linear(4, 8)
        self.gru, self.out = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, z: Tensor, seqs: Tensor, dropword_p: float = 0) -> Tensor:
        keep = (torch.rand_like(seqs, dtype=torch.float) >= dropword_p).long()
        return self.out(self.gru(self.embeddings(seqs * keep), self.latent_to_hidden(z)[None])[0])


class LabTextVAE(nn.Module):
    """The encoder's output is the mean; a small network makes log σ of the mean; numpy draws the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = WordReader(), WordWriter()
        self.encodings_to_log_stds = nn.Sequential(nn.Linear(4, 2), nn.SELU(), nn.Linear(2, 4))

    def forward(self, seqs: Tensor, noiseness: float = 1, dropword_p: float = 0) -> tuple[Any, Tensor]:
        means = self.encoder(seqs)
        log_stds = self.encodings_to_log_stds(means)
        stds = noiseness * log_stds.exp()
        noise = torch.from_numpy(np.random.normal(size=stds.size())).float()
        out = self.decoder(means + stds * noise, seqs[:, :-1], dropword_p=dropword_p)
        return (means, log_stds), out


def lab_text_loss(model: Any, seqs: Tensor) -> Tensor:
    (means, log_stds), out = model(seqs, 1, 0.1)
    kl = 0.5 * (means.pow(2) + log_stds.exp().pow(2) - 2 * log_stds - 1).sum(dim=1)
    return F.cross_entropy(out.reshape(-1, 9), seqs[:, 1:].reshape(-1)) + abs(kl.mean() - 2.0)


class CharEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.o2p = nn.Embedding(9, 6), nn.GRU(6, 6, bidirectional=True), nn.Linear(6, 8)

    def sample(self, mu: Tensor, logvar: Tensor) -> Tensor:
        eps = torch.randn(mu.size())
        std = torch.exp(logvar / 2.0)
        return mu + eps * std

    def forward(self, chars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.gru(self.embed(chars).unsqueeze(1), None)[0][-1]
        output = output[:, :6] + output[:, 6:]
        mu, logvar = torch.chunk(self.o2p(output), 2, dim=1)
        return mu, logvar, self.sample(mu, logvar)


class CharDecoder(nn.Module):
    """Some of its layers are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.z2h, self.gru = nn.Embedding(9, 6), nn.Linear(4, 6), nn.GRU(10, 6, 2, dropout=0.1)
        self.i2h, self.h2o, self.out = nn.Linear(10, 6), nn.Linear(12, 6), nn.Linear(10, 9)

    def forward(self, z: Tensor, inputs: Tensor, temperature: float) -> Tensor:
        outputs = torch.zeros(len(inputs), 1, 9)
        char, hidden = torch.zeros(1, dtype=torch.long), self.z2h(z).unsqueeze(0).repeat(2, 1, 1)
        for i in range(len(inputs)):
            step = torch.cat((F.relu(self.embed(char)), z), 1).unsqueeze(0)
            output, hidden = self.gru(step, hidden)
            outputs[i] = self.out(torch.cat((output.squeeze(0), z), 1))
            forced = torch.rand(()) < temperature
            char = inputs[i : i + 1] if forced else outputs[i].detach().topk(1)[1][:, 0]
        return outputs.squeeze(1)


class CharVAE(nn.Module):
    """One line at a time: a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = CharEncoder(), CharDecoder()

    def forward(self, inputs: Tensor, temperature: float = 1.0) -> tuple[Tensor, ...]:
        m, l, z = self.encoder(inputs)  # noqa: E741
        return m, l, z, self.decoder(z, inputs, temperature)


def char_loss(model: Any, line: Tensor) -> Tensor:
    m, l, _, decoded = model(line, 0.9)  # noqa: E741
    kld = (-0.5 * torch.sum(l - torch.pow(m, 2) - torch.exp(l) + 1, 1)).mean().squeeze()
    return F.cross_entropy(decoded, line) + kld * 0.05


class LatentVariableModel(nn.Module):
    """A code for the LSTM's hidden state and one for its cells, by the same layers; `true` is the prior's name."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.encoder, self.decoder = nn.LSTM(6, 8), nn.LSTM(6, 12)
        self.enc_approx, self.enc_true = nn.LSTM(6, 8), nn.LSTM(6, 8)
        self.approx_mu, self.approx_logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.true_mu, self.true_logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.generator = nn.Sequential(nn.Linear(12, 9), nn.LogSoftmax(-1))

    def sampling(self, mu: list[Tensor], logvar: list[Tensor]) -> list[Tensor]:
        samples = []
        for i in range(len(mu)):
            eps = torch.randn(mu[i].size())
            samples.append(mu[i] + torch.exp(logvar[i] / 2) * eps)
        return samples

    def forward(self, src: Tensor, tgt: Tensor) -> tuple[Tensor, ...]:
        src, tgt = self.words(src), self.words(tgt)
        hiddens = self.enc_approx(tgt, self.enc_approx(src)[1])[1]
        app_mu, app_logvar = [self.approx_mu(h) for h in hiddens], [self.approx_logvar(h) for h in hiddens]
        z_app = self.sampling(app_mu, app_logvar)
        hiddens = self.enc_true(src)[1]
        true_mu, true_logvar = [self.true_mu(h) for h in hiddens], [self.true_logvar(h) for h in hiddens]
        self.sampling(true_mu, true_logvar)
        state = tuple(torch.cat([h, z], h.dim() - 1) for h, z in zip(self.encoder(src)[1], z_app, strict=True))
        out = self.decoder(tgt[:-1], state)[0]
        return (out, *(torch.cat(part, -1) for part in (app_mu, app_logvar, true_mu, true_logvar)))


def latent_variable_loss(model: Any, src: Tensor, tgt: Tensor) -> Tensor:
    out, app_mu, app_logvar, true_mu, true_logvar = model(src, tgt)
    loss = F.nll_loss(model.generator(out.view(-1, 12)), tgt[1:].reshape(-1), reduction="sum")
    kl = (torch.exp(app_logvar) + (app_mu - true_mu) ** 2) / torch.exp(true_logvar) - 1 + true_logvar - app_logvar
    return loss + 100 * torch.mean(0.5 * torch.sum(kl, 1))


class LatentVariation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.context_to_mean, self.context_to_logvar = nn.Linear(20, 4), nn.Linear(20, 4)

    def forward(self, q: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = torch.cat([q, a], 1)
        mean, logvar = self.context_to_mean(context), self.context_to_logvar(context)
        std = torch.exp(0.5 * logvar)
        z = torch.randn([len(q), 4])
        z = z * std + mean
        return z, mean, logvar


class VariationalSeq2Seq(nn.Module):
    """Its parts are modules of their own upstream, and its steps stand in the training script."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder, self.encoder = nn.Embedding(9, 6), nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.hidvar, self.decoder, self.out = LatentVariation(), nn.GRU(6, 14, batch_first=True), nn.Linear(14, 9)


def seq2seq_loss(model: Any, question: Tensor, answer: Tensor) -> Tensor:
    q = model.encoder(model.embedder(question))[1].transpose(0, 1).reshape(len(question), -1)
    a = model.encoder(model.embedder(answer))[1].transpose(0, 1).reshape(len(answer), -1)
    z, mean, logvar = model.hidvar(q, a)
    kl_loss = (-0.5 * torch.sum(logvar - torch.pow(mean, 2) - torch.exp(logvar) + 1, 1)).mean().squeeze()
    out = model.decoder(torch.relu(model.embedder(answer[:, :-1])), torch.cat([q, z], 1)[None])[0]
    words = F.log_softmax(model.out(out), -1).transpose(1, 2)
    return 79 * F.nll_loss(words, answer[:, 1:]) + kl_loss * 0.2


# ---------------------------------------------------------------------------------------------- speech and music


class LinearNorm(nn.Module):
    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(n_in, n_out, bias=bias)
        nn.init.xavier_uniform_(self.linear_layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_layer(x)


def drawn(mu: Tensor, logvar: Tensor) -> Tensor:
    std = logvar.mul(0.5).exp_()
    eps = std.data.new(std.size()).normal_()
    return eps.mul(std).add_(mu)


class CVAEnet(nn.Module):
    """A code for the accent and one for the speaker, each of which knows its label."""

    def __init__(self) -> None:
        super().__init__()
        for kind, classes in (("acc", 3), ("spk", 4)):
            self.add_module(f"embedding_layer_{kind}", nn.Embedding(classes, 2))
            self.add_module(f"linear_model_{kind}", nn.Sequential(nn.Linear(10, 8), nn.Tanh()))
            self.add_module(f"mu_layer_{kind}", LinearNorm(8, 4))
            self.add_module(f"logvar_layer_{kind}", LinearNorm(8, 4))

    def forward(self, x: Tensor, label_acc: Tensor, label_spk: Tensor) -> tuple[Any, ...]:
        flat, given = x.flatten(1), []
        for kind, label in (("acc", label_acc), ("spk", label_spk)):
            mark = self.get_submodule(f"embedding_layer_{kind}")(label)
            hidden = self.get_submodule(f"linear_model_{kind}")(torch.cat([flat, mark], dim=1))
            mu, logvar = (self.get_submodule(f"{name}_layer_{kind}")(hidden) for name in ("mu", "logvar"))
            given.append((drawn(mu, logvar), mark, mu, logvar))
        (z_acc, y_acc, *acc), (z_spk, y_spk, *spk) = given
        return z_acc, y_acc, z_spk, y_spk, (*acc, *spk)


class AccentedTacotron(nn.Module):
    """A Tacotron around it, of which an encoder, a decoder and a postnet are left."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(9, 6), nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.ref_encoder, self.cvae = nn.GRU(5, 8, batch_first=True), CVAEnet()
        self.decoder, self.project, self.gate = nn.LSTM(25, 8, batch_first=True), nn.Linear(8, 5), nn.Linear(8, 1)
        self.postnet = nn.Conv1d(5, 5, 3, padding=1)

    def forward(self, text: Tensor, mel: Tensor, accent: Tensor, speaker: Tensor) -> tuple[Any, ...]:
        memory = self.encoder(self.embedding(text))[0].mean(1)
        z_acc, y_acc, z_spk, y_spk, prob = self.cvae(self.ref_encoder(mel)[1][0], accent, speaker)
        memory = torch.cat([memory, z_acc, y_acc, z_spk, y_spk], -1)[:, None].expand(-1, mel.size(1), -1)
        h = self.decoder(torch.cat([memory, F.pad(mel, (0, 0, 1, -1))], -1))[0]
        out = self.project(h)
        return out, out + self.postnet(out.transpose(1, 2)).transpose(1, 2), self.gate(h), prob


def accented_loss(model: Any, text: Tensor, mel: Tensor, accent: Tensor, speaker: Tensor, stop: Tensor) -> Tensor:
    out, post, gate, (mu_acc, logvar_acc, mu_spk, logvar_spk) = model(text, mel, accent, speaker)

    def kl_loss(mu: Tensor, var: Tensor) -> Tensor:
        return torch.mean(0.5 * torch.sum(torch.exp(var) + mu**2 - 1.0 - var, 1))

    loss = F.mse_loss(out, mel) + F.mse_loss(post, mel) + F.binary_cross_entropy_with_logits(gate.squeeze(-1), stop)
    return loss + 0.1 * kl_loss(mu_acc, logvar_acc) + 0.1 * kl_loss(mu_spk, logvar_spk)


def pad_layer(x: Tensor, layer: Any) -> Tensor:
    k = layer.kernel_size[0]
    return layer(F.pad(x, (k // 2, k // 2 - (k % 2 == 0)), mode="reflect"))


class ContentEncoder(nn.Module):
    """A bank of convolutions, and instance norms that take the speaker away."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_bank = nn.ModuleList([nn.Conv1d(5, 4, k) for k in range(1, 4)])
        self.in_conv_layer, self.norm_layer = nn.Conv1d(17, 8, 1), nn.InstanceNorm1d(8, affine=False)
        self.first_conv_layers = nn.ModuleList([nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3)])
        self.second_conv_layers = nn.ModuleList([nn.Conv1d(8, 8, 3, stride=s) for s in (1, 2)])
        self.mean_layer, self.std_layer, self.drop = nn.Conv1d(8, 4, 1), nn.Conv1d(8, 4, 1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.cat([*(F.relu(pad_layer(x, layer)) for layer in self.conv_bank), x], dim=1)
        out = self.drop(F.relu(self.norm_layer(pad_layer(out, self.in_conv_layer))))
        for first, second in zip(self.first_conv_layers, self.second_conv_layers, strict=True):
            y = self.drop(F.relu(self.norm_layer(pad_layer(out, first))))
            y = self.drop(F.relu(self.norm_layer(pad_layer(y, second))))
            if second.stride[0] > 1:
                out = F.avg_pool1d(out, kernel_size=second.stride[0], ceil_mode=True)
            out = y + out
        return pad_layer(out, self.mean_layer), pad_layer(out, self.std_layer)


class SpeakerEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_conv_layer, self.dense = nn.Conv1d(5, 8, 3), nn.Linear(8, 8)
        self.pooling_layer, self.output_layer = nn.AdaptiveAvgPool1d(1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pooling_layer(F.relu(pad_layer(x, self.in_conv_layer))).squeeze(2)
        return self.output_layer(F.relu(self.dense(out)) + out)


class VoiceDecoder(nn.Module):
    """The speaker scales and shifts what an instance norm made even."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv_layer, self.first, self.second = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 16, 3)
        self.norm_layer, self.out_conv_layer = nn.InstanceNorm1d(8, affine=False), nn.Conv1d(8, 5, 1)
        self.conv_affine_layers = nn.ModuleList([nn.Linear(6, 16), nn.Linear(6, 16)])

    def styled(self, x: Tensor, params: Tensor) -> Tensor:
        mean, std = params[:, :8], params[:, 8:]
        return x * std.unsqueeze(dim=2) + mean.unsqueeze(dim=2)

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        out = F.relu(self.norm_layer(pad_layer(z, self.in_conv_layer)))
        y = F.relu(self.styled(self.norm_layer(pad_layer(out, self.first)), self.conv_affine_layers[0](cond)))
        y = pad_layer(y, self.second)
        y = y.view(len(y), 8, 2, -1).permute(0, 1, 3, 2).reshape(len(y), 8, -1)
        y = F.relu(self.styled(self.norm_layer(y), self.conv_affine_layers[1](cond)))
        return pad_layer(y + F.interpolate(out, scale_factor=2), self.out_conv_layer)


class AdaptiveVC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.speaker_encoder, self.content_encoder, self.decoder = SpeakerEncoder(), ContentEncoder(), VoiceDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        (mu, log_sigma), speaker = self.content_encoder(x), self.speaker_encoder(x)
        noise = log_sigma.new(*log_sigma.size()).normal_(0, 1)
        return mu, log_sigma, speaker, self.decoder(torch.exp(log_sigma / 2) * noise + mu, speaker)


def voice_loss(model: Any, x: Tensor) -> Tensor:
    mu, log_sigma, _, dec = model(x)
    loss_kl = 0.5 * torch.mean(torch.exp(log_sigma) + mu**2 - 1 - log_sigma)
    return 10 * F.l1_loss(dec, x) + loss_kl


class MusicVAE(nn.Module):
    """A log variance that is made positive, and that the exponential takes twice instead of half."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.encoderOut, self.linear_z, self.worddropout = nn.Linear(10, 8), nn.Linear(4, 5), nn.Dropout1d(0.2)
        self.conductor, self.decoder = nn.LSTM(5, 5, batch_first=True), nn.LSTM(11, 5, batch_first=True)
        self.linear = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch_size = x.size(0)
        the_input = torch.cat([torch.zeros(batch_size, 1, 6), x], dim=1)
        h0, c0 = torch.zeros(2, batch_size, 5), torch.zeros(2, batch_size, 5)
        mu, log_var = torch.chunk(self.encoderOut(self.encoder(self.worddropout(x), (h0, c0))[0]), 2, dim=-1)
        log_var = F.softplus(log_var)
        with torch.no_grad():
            epsilon = torch.randn(batch_size, 1, 4)
        sigma = torch.exp(log_var * 2)
        z = self.linear_z(mu + epsilon * sigma)
        state = (torch.zeros(1, batch_size, 5), torch.zeros(1, batch_size, 5))
        notes = torch.zeros(batch_size, 12, 6)
        for i in range(4):
            embedding, state = self.conductor(z[:, i, :].view(batch_size, 1, -1), state)
            hidden = (torch.randn(1, batch_size, 5), torch.randn(1, batch_size, 5))
            bar = range(i * 3, i * 3 + 3)
            e = torch.cat([embedding.expand(batch_size, 3, embedding.shape[2]), the_input[:, bar, :]], dim=-1)
            notes[:, bar, :] = torch.softmax(self.linear(self.decoder(e, hidden)[0]), dim=2)
        return {"x_hat": notes, "z": z, "mu": mu, "log_var": log_var}


def music_loss(model: Any, x: Tensor) -> Tensor:
    outputs = model(x)
    likelihood_ = -F.binary_cross_entropy(outputs["x_hat"], x, reduction="none")
    likelihood_ = likelihood_.view(likelihood_.size(0), -1).sum(1)
    sigma = torch.exp(outputs["log_var"] * 2)
    kl_div = kl_divergence(Normal(outputs["mu"], sigma), Normal(torch.Tensor([0]), torch.Tensor([1])))
    return -(torch.mean(likelihood_) - 0.1 * torch.mean(kl_div))


def softplus_squared(v: Tensor) -> Tensor:
    return torch.exp(2 * F.softplus(v))


# ---------------------------------------------------------------------------------------------- motion and paths


class SkeletonPool(nn.Module):
    """Means of neighbouring edges."""

    def __init__(self, edges: int, pooled: int, channels: int) -> None:
        super().__init__()
        weight = torch.zeros(pooled, edges)
        for i in range(edges):
            weight[i * pooled // edges, i] = pooled / edges
        self.register_buffer("weight", torch.kron(weight, torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.weight, x)


class SkeletonEncoder(nn.Module):
    """Every level has a code for every edge that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.edges, self.latents = [2, 4, 8, 16, 32], [4, 2, 2, 1, 1], [3, 4, 4, 4]
        self.layers, self.latent_enc_layers = nn.ModuleList(), nn.ModuleList()
        for i, steps in enumerate((8, 4, 2, 1)):
            wide = self.base[i + 1] * self.edges[i]
            conv = nn.Conv1d(self.base[i] * self.edges[i], wide, 3, 2, 1, padding_mode="reflect")
            pool = SkeletonPool(self.edges[i], self.edges[i + 1], self.base[i + 1])
            self.layers.append(nn.Sequential(conv, pool, nn.LeakyReLU(0.2)))
            self.latent_enc_layers.append(nn.Linear(self.base[i + 1] * steps, self.latents[i] * 2))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        z_vector_list = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            z_vector_list.append(self.latent_enc_layers[i](x.view(len(x), x.shape[1] // self.base[i + 1], -1)))
        return x, z_vector_list


class SkeletonDecoder(nn.Module):
    """The codes between the deepest and the shallowest are decoded, and then nothing takes them."""

    def __init__(self) -> None:
        super().__init__()
        latents, wide = (4, 4, 4, 3), (32, 32, 32, 32)
        self.latent_dec_layers = nn.ModuleList(nn.Linear(n, w) for n, w in zip(latents, wide, strict=True))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2), nn.Conv1d(a, b, 3, 1, 1, padding_mode="reflect"), nn.LeakyReLU(0.2)
            )
            for a, b in ((32, 16), (16, 16), (16, 8))
        )
        self.last = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(16, 8, 3, 1, 1, padding_mode="reflect"))

    def forward(self, z_vec_list: list[Tensor]) -> Tensor:
        feats = [layer(z).flatten(1) for layer, z in zip(self.latent_dec_layers, reversed(z_vec_list), strict=True)]
        x = feats[0].view(len(feats[0]), -1, 1)
        for layer in self.layers:
            x = layer(x)
        return self.last(torch.cat((x, feats[3].view(len(x), 8, 8)), dim=1))


class TwoHierSAVAE(nn.Module):
    """A motion VAE with four levels, of which two are paid for."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = SkeletonEncoder(), SkeletonDecoder()

    def kl_loss(self, logvar: Tensor, mu: Tensor) -> Tensor:
        return (-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)).mean()

    def forward(self, motion: Tensor, iterations: int) -> Tensor:
        z_list, l_kl_list = [], []
        levels = self.enc(motion.transpose(1, 2))[1]
        for i, distributions in enumerate(levels):
            bs, k_edges, both = distributions.size()
            mu = distributions[:, :, : both // 2].view(-1, both // 2)
            logvar = distributions[:, :, both // 2 :].view(-1, both // 2)
            z = torch.randn_like(mu) * torch.exp(0.5 * logvar)
            z = (z + mu).view(bs, k_edges, -1)
            if i == len(levels) - 1:
                l_kl = self.kl_loss(logvar, mu)
            elif i == 0 and iterations < 50000:
                l_kl, z = self.kl_loss(logvar.detach(), mu.detach()), z.detach()
            elif i == 0:
                l_kl = self.kl_loss(logvar, mu)
            else:
                l_kl = torch.zeros(1)
            z_list.append(z)
            l_kl_list.append(l_kl)
        out = self.dec(z_list).transpose(1, 2)
        return ((out - motion) ** 2).mean() + 0.003 * l_kl_list[3] + 0.003 * l_kl_list[0]


class SkipEncoder(nn.Module):
    """A transformer with the connections of a U-net, and a norm at its end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 12, 0.1, "gelu")
        self.input_blocks, self.output_blocks = (
            nn.ModuleList([copy.deepcopy(layer)]),
            nn.ModuleList([copy.deepcopy(layer)]),
        )
        self.middle_block, self.linear_blocks = copy.deepcopy(layer), nn.ModuleList([nn.Linear(2 * width, width)])
        self.norm = nn.LayerNorm(width)
        for weight in (p for p in self.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        xs = []
        for module in self.input_blocks:
            x = module(x, src_key_padding_mask=src_key_padding_mask)
            xs.append(x)
        x = self.middle_block(x, src_key_padding_mask=src_key_padding_mask)
        for module, linear in zip(self.output_blocks, self.linear_blocks, strict=True):
            x = module(linear(torch.cat([x, xs.pop()], dim=-1)), src_key_padding_mask=src_key_padding_mask)
        return self.norm(x)


class MldVae(nn.Module):
    """MLD's first stage: two learned tokens before the motion become mean and log variance; `all_encoder`."""

    def __init__(self) -> None:
        super().__init__()
        self.query_pos_encoder, self.query_pos_decoder = (nn.Parameter(0.1 * torch.randn(12, 1, 8)) for _ in range(2))
        self.encoder, self.decoder = SkipEncoder(8), SkipEncoder(8)
        self.global_motion_token = nn.Parameter(torch.randn(2, 8))
        self.skel_embedding, self.final_layer = nn.Linear(6, 8), nn.Linear(8, 6)

    def encode(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Normal]:
        bs = len(features)
        x = self.skel_embedding(features).permute(1, 0, 2)
        dist = torch.tile(self.global_motion_token[:, None, :], (1, bs, 1))
        wide = torch.cat((torch.ones((bs, dist.shape[0]), dtype=bool), mask), 1)
        xseq = torch.cat((dist, x), 0)
        xseq = xseq + self.query_pos_encoder[: len(xseq)]
        dist = self.encoder(xseq, src_key_padding_mask=~wide)[: dist.shape[0]]
        mu, logvar = dist[0:1, ...], dist[1:, ...]
        std = logvar.exp().pow(0.5)
        dist = Normal(mu, std)
        return dist.rsample(), dist

    def decode(self, z: Tensor, mask: Tensor) -> Tensor:
        xseq = torch.cat((z, torch.zeros(mask.shape[1], len(mask), 8)), axis=0)
        wide = torch.cat((torch.ones((len(mask), 1), dtype=bool), mask), axis=1)
        output = self.decoder(xseq + self.query_pos_decoder[: len(xseq)], src_key_padding_mask=~wide)[1:]
        output = self.final_layer(output)
        output[~mask.T] = 0
        return output.permute(1, 0, 2)


def mld_loss(model: Any, motion: Tensor, mask: Tensor) -> Tensor:
    z, dist_m = model.encode(motion, mask)
    dist_ref = Normal(torch.zeros_like(dist_m.loc), torch.ones_like(dist_m.scale))
    return F.smooth_l1_loss(model.decode(z, mask), motion) + 1e-4 * kl_divergence(dist_m, dist_ref).mean()


class PathNormal:
    """Not torch's: a KL with a floor under the other's σ."""

    def __init__(self, params: Tensor) -> None:
        self.mu, self.logvar = torch.chunk(params, chunks=2, dim=-1)
        self.sigma = torch.exp(0.5 * self.logvar)

    def rsample(self) -> Tensor:
        return self.sigma * torch.randn_like(self.sigma) + self.mu

    def kl(self, p: PathNormal) -> Tensor:
        term1 = (self.mu - p.mu) / (p.sigma + 1e-8)
        term2 = self.sigma / (p.sigma + 1e-8)
        return 0.5 * (term1 * term1 + term2 * term2) - 0.5 - torch.log(term2)


class MultiStreamCVAE(nn.Module):
    """MSRL's: the prior is asked twice, for the KL and for many samples of which the best is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.history_fc, self.history_encoder = nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 12)
        self.future_fc, self.future_encoder = nn.Linear(4, 8), nn.TransformerDecoderLayer(8, 2, 12)
        self.he_out_mlp, self.fe_out_mlp = (
            nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
            nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
        )
        self.p_z_net, self.q_z_net = nn.Linear(8, 6), nn.Linear(8, 6)
        self.tcn = nn.Sequential(nn.Conv1d(4, 3, 3, padding=1), nn.PReLU())
        self.decoder_fc, self.future_decoder, self.out_fc = (
            nn.Linear(5, 8),
            nn.TransformerDecoderLayer(8, 2, 12),
            nn.Linear(8, 2),
        )

    def decode(self, z: Tensor, count: int, memory: Tensor, dec_in: Tensor) -> Tensor:
        dec_in = dec_in.repeat_interleave(count, dim=1)
        tf_in = self.decoder_fc(torch.cat([dec_in, z.unsqueeze(0).repeat_interleave(len(dec_in), dim=0)], dim=-1))
        return self.out_fc(self.future_decoder(tf_in, memory.repeat_interleave(count, dim=1))).transpose(0, 1)

    def forward(self, pre: Tensor, fut: Tensor, sample_num: int) -> tuple[Any, ...]:
        pre_vel = torch.cat([torch.zeros_like(pre[:1]), pre[1:] - pre[:-1]])
        fut_vel = fut - torch.cat([pre[-1:], fut[:-1]])
        memory = self.history_encoder(self.history_fc(torch.cat([pre, pre_vel], dim=-1)))
        future = self.future_encoder(self.future_fc(torch.cat([fut, fut_vel], dim=-1)), memory)
        q_z_dist = PathNormal(params=self.q_z_net(self.fe_out_mlp(torch.mean(future, dim=0))))
        z = q_z_dist.rsample()
        dec_in = self.tcn(pre.transpose(0, 1)).transpose(0, 1)
        history = self.he_out_mlp(torch.mean(memory, dim=0))
        p_z_dist = PathNormal(params=self.p_z_net(history))
        recon = self.decode(z, 1, memory, dec_in)
        many = PathNormal(params=self.p_z_net(history.repeat_interleave(sample_num, dim=0)))
        var = self.decode(many.rsample(), sample_num, memory, dec_in)
        return recon, var.view(-1, sample_num, *var.shape[1:]), q_z_dist, p_z_dist


def multi_stream_loss(model: Any, pre: Tensor, fut: Tensor) -> Tensor:
    recon, var, q_z_dist, p_z_dist = model(pre, fut, 4)
    target, agents = fut.transpose(0, 1), fut.size(1)
    mse = (target - recon).pow(2).sum() / agents
    kld = (q_z_dist.kl(p_z_dist).sum() / agents).clamp_min_(0.5)
    best = (var - target.unsqueeze(1)).pow(2).sum(dim=-1).sum(dim=-1).min(dim=1)[0]
    return mse + kld + best.mean()


# ---------------------------------------------------------------------------------------------- video and worlds


class GaussianLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._emb, self._lstm = nn.Linear(6, 8), nn.ModuleList([nn.LSTMCell(8, 8)])
        self._mu, self._logvar = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor, prev_state: Any) -> tuple[Tensor, Tensor, Any]:
        h_in, state = self._emb(x.squeeze(-1).squeeze(-1)), []
        for i, cell in enumerate(self._lstm):
            state.append(cell(h_in, None if prev_state is None else prev_state[i]))
            h_in = state[-1][0]
        return self._mu(h_in), self._logvar(h_in), state


class SVP(nn.Module):
    """Stochastic video generation with a learned prior, told again; a call is one frame."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True)),
                nn.Sequential(nn.Conv2d(4, 6, 4, 1, 0), nn.Tanh()),
            ]
        )
        self._up = nn.Sequential(nn.ConvTranspose2d(6, 4, 4, 1, 0), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True))
        self._out = nn.Sequential(nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid())
        self._emb, self._frame_predictor, self._output = nn.Linear(9, 8), nn.LSTMCell(8, 8), nn.Linear(8, 6)
        self._posterior, self._prior = GaussianLSTM(), GaussianLSTM()

    def encoded(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        skip = self._encoder[0](frame)
        return self._encoder[1](skip), skip

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return torch.randn_like(mu) * torch.exp(0.5 * logvar) + mu

    def forward(self, prev: Tensor, curr: Tensor, states: Any, skip: Any) -> tuple[Any, ...]:
        h, own = self.encoded(prev)
        target, _ = self.encoded(curr)
        skip = own if skip is None else skip
        mu, logvar, posterior_state = self._posterior(target, states[0])
        mu_p, logvar_p, prior_state = self._prior(h, states[1])
        z = self.reparameterize(mu, logvar)
        state = self._frame_predictor(self._emb(torch.cat((h.squeeze(-1).squeeze(-1), z), dim=1)), states[2])
        g = torch.tanh(self._output(state[0]))
        frame = self._out(torch.cat((self._up(g[..., None, None]), skip), dim=1))
        return frame, mu, logvar, mu_p, logvar_p, (posterior_state, prior_state, state), skip


def svp_loss(model: Any, video: Tensor) -> Tensor:
    states, skip, kld, mse = (model._posterior(model.encoded(video[:, 0])[0], None)[2], None, None), None, 0.0, 0.0
    for t in range(1, video.size(1)):
        out, mu, logvar, mu_p, logvar_p, states, skip = model(video[:, t - 1], video[:, t], states, skip)
        if t < 2:
            skip = None
        sigma, sigma_p = torch.exp(0.5 * logvar), torch.exp(0.5 * logvar_p)
        d_kl = torch.log(sigma_p / sigma) + (torch.exp(logvar) + (mu - mu_p) ** 2) / (2 * torch.exp(logvar_p)) - 1 / 2
        kld = kld + torch.mean(torch.sum(d_kl, dim=-1))
        mse = mse + F.mse_loss(out, video[:, t], reduction="sum") / len(video)
    return kld + mse


class NormalFactory(nn.Module):
    def forward(self, tensor: Tensor) -> Normal:
        mean, scale = torch.chunk(tensor, chunks=2, dim=-1)
        scale = F.softplus(scale) + 0.1
        return Normal(loc=mean, scale=scale)


class State:
    """A deterministic part, and a Normal that is drawn as soon as it is there."""

    def __init__(self, deter: Tensor, distribution: Normal, stoch: Tensor | None = None) -> None:
        self.deter, self.distribution = deter, distribution
        self.stoch = distribution.rsample() if stoch is None else stoch
        self.feature = torch.cat([self.deter, self.stoch], dim=-1)


def stacked(states: list[State]) -> State:
    loc, scale = (torch.stack([getattr(s.distribution, name) for s in states], 1) for name in ("loc", "scale"))
    return State(
        torch.stack([s.deter for s in states], 1), Normal(loc, scale), torch.stack([s.stoch for s in states], 1)
    )


class Representation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn_to_post_projector = nn.Sequential(nn.Linear(14, 8), nn.ELU(), nn.Linear(8, 6))
        self.distribution_factory = NormalFactory()

    def forward(self, obs_embed: Tensor, prior_state: State) -> State:
        source = self.rnn_to_post_projector(torch.cat([prior_state.deter, obs_embed], -1))
        return State(prior_state.deter, self.distribution_factory(source))


class Transition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn_cell = nn.GRUCell(8, 8)
        self.action_state_projector = nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 8))
        self.rnn_to_prior_projector = nn.Sequential(nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 6))
        self.distribution_factory = NormalFactory()

    def forward(self, action: Tensor, prev_state: State) -> State:
        action_state = self.action_state_projector(torch.cat([action, prev_state.stoch], dim=-1))
        deter = self.rnn_cell(action_state, hx=prev_state.deter)
        return State(deter, self.distribution_factory(self.rnn_to_prior_projector(deter)))


class RSSM(nn.Module):
    """The first state is drawn from the prior's layer, of what the first observation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.representation, self.transition = Representation(), Transition()
        self.encoder, self.decoder, self.init_proj = nn.Linear(10, 6), nn.Linear(11, 10), nn.Linear(6, 8)

    def initial_state(self, observation: Tensor) -> State:
        deter = self.init_proj(self.encoder(observation))
        stoch = self.transition.rnn_to_prior_projector(deter)
        return State(deter, self.representation.distribution_factory(stoch))

    def shared_step(self, actions: Tensor, observations: Tensor, target: Tensor) -> dict[str, Tensor]:
        prev_state, priors, posteriors = self.initial_state(observations[:, 0]), [], []
        obs_embed = self.encoder(observations)
        for t in range(observations.shape[1]):
            priors.append(self.transition(actions[:, t], prev_state))
            posteriors.append(self.representation(obs_embed[:, t], priors[-1]))
            prev_state = posteriors[-1]
        p, q = stacked(priors), stacked(posteriors)
        recon = -Independent(Normal(self.decoder(q.feature), 1.0), 1).log_prob(target).mean()
        kl = kl_divergence(Independent(q.distribution, 1), Independent(p.distribution, 1)).mean().mul(0.1)
        return {"loss": recon + kl, "recon": recon, "kl": kl}


def rssm_step(model: Any, actions: Tensor, observations: Tensor) -> Tensor:
    return model.shared_step(actions, observations, observations)["loss"]


def normal_of(emitted: Tensor, floor: float, bound: float | None = None, offset: float = 0.0) -> Normal:
    """σ = softplus(v + offset) + floor; a mean that has a bound stays within it."""
    half = emitted.shape[-1] // 2
    centre, v = emitted[..., :half], emitted[..., half:]
    if bound is not None:
        centre = torch.tanh(centre / bound) * bound
    return Normal(centre, F.softplus(v + offset) + floor)


def joint(centre: Tensor, sigma: Tensor | float = 1.0) -> Independent:
    """One event of a last dimension."""
    return Independent(Normal(centre, sigma), 1)


def network(n_in: int, n_out: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(n_in, 8), nn.ELU(), nn.Linear(8, n_out))
    for layer in (layers[0], layers[2]):
        nn.init.kaiming_uniform_(layer.weight)
        nn.init.constant_(layer.bias, 0)
    return layers


class StateModel(nn.Module):
    """Transition and representation: a network, and a Normal that is drawn at once."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.network = network(n_in, 6)

    def forward(self, *inputs: Tensor) -> tuple[Normal, Tensor]:
        law = normal_of(self.network(torch.cat(inputs, 1)), floor=0.1)
        return law, law.rsample()


class RecurrentModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.recurrent = nn.Linear(5, 8), nn.GRUCell(8, 8)

    def forward(self, embedded_state: Tensor, action: Tensor, deterministic: Tensor) -> Tensor:
        return self.recurrent(F.elu(self.linear(torch.cat((embedded_state, action), 1))), deterministic)


class DreamerActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = network(11, 4)

    def forward(self, posterior_: Tensor, deterministic: Tensor) -> Tensor:
        emitted = self.network(torch.cat((posterior_, deterministic), -1))
        unsquashed = normal_of(emitted, floor=0.0001, bound=5, offset=5.0)
        return Independent(TransformedDistribution(unsquashed, TanhTransform()), 1).rsample()


class SimpleDreamer(nn.Module):
    """Two steps of training, as its trainer takes them: the world's, and the actor's in the world."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.reward_predictor = nn.Linear(10, 6), network(11, 10), network(11, 1)
        self.recurrent_model, self.transition_model = RecurrentModel(), StateModel(8)
        self.representation_model, self.actor, self.critic = StateModel(14), DreamerActor(), network(11, 1)


def world_loss(model: Any, frames: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Each frame after the first against the action before it; the KL's Normals are made anew of stacked moments."""
    count = len(frames)
    memory, latent = frames.new_zeros(count, 8), frames.new_zeros(count, 3)
    moments: dict[str, list[Tensor]] = {"p": [], "p_sigma": [], "q": [], "q_sigma": []}
    states = []
    seen = F.relu(model.encoder(frames[:, 1:])).unbind(1)
    for code, action in zip(seen, actions.unbind(1), strict=False):
        memory = model.recurrent_model(latent, action, memory)
        expected, _ = model.transition_model(memory)
        inferred, latent = model.representation_model(code, memory)
        for name, law in (("p", expected), ("q", inferred)):
            moments[name].append(law.mean)
            moments[f"{name}_sigma"].append(law.scale)
        states.append(torch.cat((latent, memory), -1))
    p, p_sigma, q, q_sigma = (torch.stack(part, 1) for part in moments.values())
    rate = kl_divergence(joint(q, q_sigma), joint(p, p_sigma)).mean()
    path = torch.stack(states, 1)
    explained = [(model.decoder, frames), (model.reward_predictor, rewards)]
    fit = sum(joint(head(path)).log_prob(told[:, 1:]).mean() for head, told in explained)
    return torch.max(torch.tensor(0.1), rate) - fit


def actor_loss(model: Any, state: Tensor, memory: Tensor) -> Tensor:
    """Three dreamt steps; a return has 0.95 of the next one and 0.05 of the critic's value, discounted by 0.99."""
    path = []
    for _ in range(3):
        memory = model.recurrent_model(state, model.actor(state, memory), memory)
        state = model.transition_model(memory)[1]
        path.append(torch.cat((state, memory), -1))
    gains, worth = ([head(step) for step in path] for head in (model.reward_predictor, model.critic))
    second = gains[1] + 0.99 * (0.05 * worth[2] + 0.95 * worth[2])
    first = gains[0] + 0.99 * (0.05 * worth[1] + 0.95 * second)
    return -torch.stack([first, second]).mean()


def tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def shifted_softplus(v: Tensor) -> Tensor:
    return F.softplus(v + 5.0) + 0.0001


# ---------------------------------------------------------------------------------------------- policies and robots


def layer_init(layer: nn.Linear, std: float = math.sqrt(2)) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class PpoFramework(nn.Module):
    """log σ of the actions is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.actor = (
            nn.Sequential(layer_init(nn.Linear(4, 8)), nn.ReLU(), layer_init(nn.Linear(8, n), std=s))
            for n, s in ((1, 1.0), (2, 0.01))
        )
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def sample_action_and_value(self, state: Tensor, action: Tensor | None = None) -> tuple[Tensor, ...]:
        actor_logits, values = self.actor(state), self.critic(state)
        action_std = torch.exp(self.actor_logstd.expand_as(actor_logits))
        probs = Normal(actor_logits, action_std)
        action = action.view(actor_logits.size()) if action is not None else probs.sample()
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), values


def framework_loss(
    model: Any, state: Tensor, action: Tensor, old: Tensor, advantage: Tensor, returns: Tensor
) -> Tensor:
    _, logprobs, entropy, values = model.sample_action_and_value(state, action)
    ratio = (logprobs - old).exp()
    pi_loss = -torch.min(advantage * ratio, advantage * torch.clamp(ratio, 1 - 0.2, 1 + 0.2)).mean()
    return pi_loss + 0.01 * -entropy.mean() + ((values.view(-1) - returns) ** 2).mean() * 0.5


class SacActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.mu_head, self.log_std_head = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model(state)
        return self.mu_head(hidden), torch.clamp(self.log_std_head(hidden), min=-20, max=2).exp()

    def sample_actions(self, state: Tensor, reparametrization: bool = False) -> tuple[Tensor, Tensor]:
        dist = Normal(*self.forward(state))
        unsquashed = dist.sample() if not reparametrization else dist.rsample()
        squashed = torch.tanh(unsquashed)
        log_prob = dist.log_prob(unsquashed)
        log_prob -= 2 * (np.log(2) - squashed - F.softplus(-2 * squashed))
        return squashed * 1.0 + 0.0, log_prob.sum(dim=-1)


class SacSolver(nn.Module):
    """Its critics are asked without a gradient, so that the actor's loss reaches it by the density alone."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.q1, self.q2 = SacActor(), nn.Linear(6, 1), nn.Linear(6, 1)
        self.log_alpha = nn.Parameter(torch.log(torch.tensor(0.2)))


def sac_actor_loss(model: Any, states: Tensor) -> Tensor:
    actions, log_probs = model.actor.sample_actions(states, reparametrization=True)
    with torch.no_grad():
        both = torch.cat([states, (1 + actions) / 2], dim=-1)
        min_q = torch.min(model.q1(both).squeeze(), model.q2(both).squeeze())
    return torch.mean(model.log_alpha.exp() * log_probs - min_q)


def sac_clamped(v: Tensor) -> Tensor:
    return torch.clamp(v, min=-20, max=2).exp()


class DETRVAE(nn.Module):
    """ACT's: a token before the joints and the actions, whose output is mapped to mean and log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.transformer = nn.TransformerEncoderLayer(8, 2, 12), nn.Transformer(8, 2, 1, 1, 12)
        self.action_head, self.is_pad_head, self.query_embed = nn.Linear(8, 3), nn.Linear(8, 1), nn.Embedding(5, 8)
        self.backbones, self.input_proj = nn.ModuleList([nn.Conv2d(3, 6, 4, 4)]), nn.Conv2d(6, 8, kernel_size=1)
        self.input_proj_robot_state, self.cls_embed = nn.Linear(3, 8), nn.Embedding(1, 8)
        self.encoder_action_proj, self.encoder_joint_proj = nn.Linear(3, 8), nn.Linear(3, 8)
        self.latent_proj, self.latent_out_proj = nn.Linear(8, 8), nn.Linear(4, 8)
        self.additional_pos_embed = nn.Embedding(2, 8)
        self.register_buffer("pos_table", torch.sin(torch.arange(56.0)).view(7, 1, 8))

    def forward(self, qpos: Tensor, image: Tensor, actions: Tensor, is_pad: Tensor) -> tuple[Any, ...]:
        bs = len(qpos)
        cls_embed = torch.unsqueeze(self.cls_embed.weight, axis=0).repeat(bs, 1, 1)
        qpos_embed = torch.unsqueeze(self.encoder_joint_proj(qpos), axis=1)
        tokens_ = torch.cat([cls_embed, qpos_embed, self.encoder_action_proj(actions)], axis=1).permute(1, 0, 2)
        is_pad = torch.cat([torch.full((bs, 2), False), is_pad], axis=1)
        latent_info = self.latent_proj(
            self.encoder(tokens_ + self.pos_table.clone().detach(), src_key_padding_mask=is_pad)[0]
        )
        mu, logvar = latent_info[:, :4], latent_info[:, 4:]
        std = logvar.div(2).exp()
        eps = std.data.new(std.size()).normal_()
        latent_input = self.latent_out_proj(mu + std * eps)
        features = [self.input_proj(F.relu(self.backbones[0](image[:, cam]))) for cam in range(image.size(1))]
        src = torch.cat(features, axis=3).flatten(2).permute(2, 0, 1)
        extra = torch.stack([latent_input, self.input_proj_robot_state(qpos)], axis=0)
        src = torch.cat([extra + self.additional_pos_embed.weight.unsqueeze(1), src], axis=0)
        hs = self.transformer(src, self.query_embed.weight.unsqueeze(1).repeat(1, bs, 1)).transpose(0, 1)
        return self.action_head(hs), self.is_pad_head(hs), [mu, logvar]


class ACTPolicy(nn.Module):
    """What a policy is called with is its own `__call__`, past torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.kl_weight = DETRVAE(), 10

    def __call__(self, qpos: Tensor, image: Tensor, actions: Tensor, is_pad: Tensor) -> dict[str, Tensor]:
        image = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.225
        actions, is_pad = actions[:, :5], is_pad[:, :5]
        a_hat, _, (mu, logvar) = self.model(qpos, image, actions, is_pad)
        klds = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp())
        l1 = (F.l1_loss(actions, a_hat, reduction="none") * ~is_pad.unsqueeze(-1)).mean()
        kl = klds.sum(1).mean(0, True)[0]
        return {"l1": l1, "kl": kl, "loss": l1 + kl * self.kl_weight}


def act_loss(policy: Any, *batch: Tensor) -> Tensor:
    return policy(*batch)["loss"]


# ---------------------------------------------------------------------------------------------- series and states


class ConvOverTime(nn.Conv1d):
    """Channels last."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x.permute(0, 2, 1))
        if self.kernel_size[0] % 2 == 0:
            out = F.pad(out, (0, -1), "constant", 0)
        return out.permute(0, 2, 1)


class GpvaeEncoder(nn.Module):
    """A Normal over time for each latent, whose precision is banded: its factor comes from sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(ConvOverTime(3, 8, 4, padding=2), nn.Linear(8, 8), nn.ReLU())
        self.mu_layer, self.logvar_layer = nn.Linear(8, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> MultivariateNormal:
        mapped = self.net(x)
        size, steps = mapped.size(0), mapped.size(1)
        mean = torch.transpose(self.mu_layer(mapped), 2, 1)
        band = torch.sigmoid(torch.transpose(self.logvar_layer(mapped), 2, 1)).reshape(size, 2, 2 * steps)
        rows = torch.cat([torch.arange(steps), torch.arange(steps - 1)])
        columns = torch.cat([torch.arange(steps), torch.arange(1, steps)])
        prec_tril = torch.zeros(size, 2, steps, steps)
        prec_tril[:, :, rows, columns] = band[:, :, :-1]
        eye = torch.eye(steps).unsqueeze(0).repeat(size, 2, 1, 1)
        cov_tril = torch.linalg.solve_triangular(prec_tril + eye, eye, upper=True)
        cov_tril = torch.where(torch.isfinite(cov_tril), cov_tril, torch.zeros_like(cov_tril))
        return MultivariateNormal(loc=mean, scale_tril=torch.transpose(cov_tril, 3, 2))


class GPVAE(nn.Module):
    """A Gaussian process of Cauchy's kernel is the prior; the data's Normal has unit variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = GpvaeEncoder(), nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        self.prior: Any = None

    def forward(self, x: Tensor, missing_mask: Tensor) -> Tensor:
        if self.prior is None:
            grid = torch.arange(x.size(1)).float()
            kernel = 1.0 / ((grid[None] - grid[:, None]) ** 2 / 7.0**2 + 1.0) + 0.001 * torch.eye(len(grid))
            self.prior = MultivariateNormal(torch.zeros(2, len(grid)), kernel.unsqueeze(0).repeat(2, 1, 1))
        qz_x = self.encoder(x)
        mu = self.decoder(torch.transpose(qz_x.rsample(), 2, 1))
        nll = -Normal(mu, torch.ones_like(mu)).log_prob(x)
        nll = torch.where(missing_mask.bool(), nll, torch.zeros_like(nll)).sum(dim=(1, 2))
        kl = kl_divergence(qz_x, self.prior)
        kl = torch.where(torch.isfinite(kl), kl, torch.zeros_like(kl)).sum(1)
        return -(-nll - 0.2 * kl).mean()


class GRUEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 6, 2, batch_first=True, bidirectional=True)
        self.fc_mu, self.fc_logvar = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h_n = self.gru(x)[1]
        h_n = torch.cat([h_n[-2, :, :], h_n[-1, :, :]], dim=1)
        return self.fc_mu(h_n), self.fc_logvar(h_n)


class LatentODEVAE(nn.Module):
    """Augmented and controlled; steps of Euler's stand for torchdiffeq's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = GRUEncoder()
        self.ode_func_net = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 6))
        self.decoder = nn.ModuleDict({"fc1": nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "fc_out": nn.Linear(8, 2)})

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor, t: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = self.encoder(x)
        z = torch.cat([self.reparameterize(mu, logvar), torch.zeros(len(x), 2)], dim=-1)
        path = [z]
        for i in range(len(t) - 1):
            z = z + (t[i + 1] - t[i]) * self.ode_func_net(torch.cat([z, u[:, i]], dim=-1))
            path.append(z)
        z = torch.stack(path)[:, :, :4].permute(1, 0, 2)
        return self.decoder["fc_out"](torch.relu(self.decoder["fc1"](z))), mu, logvar, z

    def loss_function(self, x_recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
        recon = F.mse_loss(x_recon, x, reduction="sum") / x.size(0)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
        return recon + 1.0 * kl, recon, kl


def latent_ode_vae_loss(model: Any, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    x_recon, mu, logvar, _ = model(x, t, u)
    return model.loss_function(x_recon, x, mu, logvar)[0]


class GatedTransition(nn.Module):
    """The log variance is clamped, and then a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin3, self.lin4 = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(3, 8), nn.Linear(8, 3)
        self.lin0, self.lin_n, self.lin_v = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.lin_n.weight.data, self.lin_n.bias.data = torch.eye(3), torch.zeros(3)
        self.act_var, self.act_weight, self.act = nn.Tanh(), nn.Sigmoid(), nn.ELU(inplace=True)

    def forward(self, z_t_1: Tensor) -> tuple[Tensor, Tensor]:
        g_t = self.act_weight(self.lin2(self.act(self.lin1(z_t_1))))
        h_t = self.act(self.lin4(self.act(self.lin3(z_t_1))))
        mu = (1 - g_t) * self.lin_n(z_t_1) + g_t * h_t
        mu = mu + self.lin0(z_t_1)
        return mu, self.act_var(torch.clamp(self.lin_v(h_t), min=-100, max=85))


class Correction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin_v = nn.Linear(3, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.act, self.act_var = nn.Tanh(), nn.Tanh()

    def forward(self, h_rnn: Tensor, z_t_1: Tensor) -> tuple[Tensor, Tensor]:
        h_comb = 0.5 * (self.act(self.lin1(z_t_1)) + h_rnn)
        return self.lin2(h_comb), self.act_var(torch.clamp(self.lin_v(h_comb), min=-100, max=85))


class DKF(nn.Module):
    """A deep Kalman filter: a correction while there are frames, and then the transition alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.encoder, self.transition, self.estimation = nn.RNN(8, 8, batch_first=True), GatedTransition(), Correction()
        self.mu_p_0, self.var_p_0, self.z_q_0 = (nn.Parameter(torch.zeros(3), requires_grad=False) for _ in range(3))
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16), nn.Sigmoid())
        self.z_amort = 3

    def reparameterization(self, mu: Tensor, var: Tensor) -> Tensor:
        std = torch.exp(0.5 * var)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor, generation_len: int) -> tuple[Tensor, Tensor]:
        batch_size = x.size(0)
        x_rnn = self.encoder(self.embedding(x.view(batch_size, generation_len, -1)))[0]
        z_ = torch.zeros([batch_size, generation_len, 3])
        mu_ps, var_ps, mu_qs, var_qs = (torch.zeros([batch_size, self.z_amort, 3]) for _ in range(4))
        z_prev = self.z_q_0.expand(batch_size, 3)
        for t in range(self.z_amort):
            mu_q, var_q = self.estimation(x_rnn[:, t, :], z_prev)
            z_prev = self.reparameterization(mu_q, var_q)
            mu_p, var_p = self.transition(z_prev)
            self.reparameterization(mu_p, var_p)
            z_[:, t, :], mu_qs[:, t, :], var_qs[:, t, :], mu_ps[:, t, :], var_ps[:, t, :] = (
                z_prev,
                mu_q,
                var_q,
                mu_p,
                var_p,
            )
        for t in range(self.z_amort, generation_len):
            z_prev = self.reparameterization(*self.transition(z_prev))
            z_[:, t, :] = z_prev
        self.mu_ps = torch.cat([self.mu_p_0.expand(batch_size, 1, 3), mu_ps[:, :-1, :]], dim=1)
        self.var_ps = torch.cat([self.var_p_0.expand(batch_size, 1, 3), var_ps[:, :-1, :]], dim=1)
        self.mu_qs, self.var_qs = mu_qs, var_qs
        return self.decoder(z_), z_

    def model_specific_loss(self) -> Tensor:
        q, p = Normal(self.mu_qs, torch.exp(0.5 * self.var_qs)), Normal(self.mu_ps, torch.exp(0.5 * self.var_ps))
        return kl_divergence(q, p).sum([-1]).mean()


def dkf_step(model: Any, images: Tensor) -> Tensor:
    preds, _ = model(images, images.size(1))
    likelihood_ = F.mse_loss(preds, images.flatten(2), reduction="none")
    likelihood_ = likelihood_.reshape([likelihood_.shape[0] * likelihood_.shape[1], -1]).sum([-1]).mean()
    return likelihood_ + 0.5 * model.model_specific_loss()


def tanh_logvar(v: Tensor) -> Tensor:
    return torch.exp(0.5 * torch.tanh(torch.clamp(v, min=-100, max=85)))


# ---------------------------------------------------------------------------------------------- neural processes


class FamilyMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int, layers: int) -> None:
        super().__init__()
        self.to_hidden, self.out = nn.Linear(n_in, 8), nn.Linear(8, n_out)
        self.linears = nn.ModuleList([nn.Linear(8, 8) for _ in range(layers - 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.to_hidden(x))
        for linear in self.linears:
            x = F.relu(linear(x))
        return self.out(x)


class MergeFlatInputs(nn.Module):
    """Adds what a network makes of one input to the other."""

    def __init__(self, n_in: int, n_out: int, layers: int) -> None:
        super().__init__()
        self.resizer, self.flat_module = nn.Linear(n_in, 8), FamilyMLP(8, n_out, layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.flat_module(torch.relu(self.resizer(y) + x))


class LNP(nn.Module):
    """A latent neural process that sees the context alone, with many samples."""

    def __init__(self) -> None:
        super().__init__()
        self.x_encoder, self.xy_encoder = FamilyMLP(1, 8, 1), MergeFlatInputs(1, 8, 2)
        self.latent_encoder, self.reshaper_z, self.decoder = (
            FamilyMLP(8, 6, 1),
            nn.Linear(3, 8),
            MergeFlatInputs(8, 2, 4),
        )
        self.q_z_loc_transformer = self.p_y_loc_transformer = nn.Identity()
        self.q_z_scale_transformer = lambda z_scale: 0.1 + 0.9 * torch.sigmoid(z_scale)
        self.p_y_scale_transformer = lambda y_scale: 0.01 + 0.99 * F.softplus(y_scale)

    def forward(self, x_cntxt: Tensor, y_cntxt: Tensor, x_trgt: Tensor) -> tuple[Any, ...]:
        x_cntxt, x_trgt = self.x_encoder(x_cntxt), self.x_encoder(x_trgt)
        r = torch.mean(self.xy_encoder(x_cntxt, y_cntxt), dim=1, keepdim=True)
        q_z_loc, q_z_scale = self.latent_encoder(r).split(3, dim=-1)
        q_z_c = Independent(Normal(self.q_z_loc_transformer(q_z_loc), self.q_z_scale_transformer(q_z_scale)), 1)
        z_samples = q_z_c.rsample([5])
        r_trgt = self.reshaper_z(z_samples).expand(5, *x_trgt.shape[:2], 8)
        p_y_loc, p_y_scale = self.decoder(x_trgt, r_trgt).split(1, dim=-1)
        p_y = Independent(Normal(self.p_y_loc_transformer(p_y_loc), self.p_y_scale_transformer(p_y_scale)), 1)
        return p_y, z_samples, q_z_c, None


def nll_loss_lnpf(model: Any, x_cntxt: Tensor, y_cntxt: Tensor, x_trgt: Tensor, y_trgt: Tensor) -> Tensor:
    p_y, _, _, _ = model(x_cntxt, y_cntxt, x_trgt)
    sum_log_p = p_y.log_prob(y_trgt).sum(-1)
    return -(torch.logsumexp(sum_log_p, 0) - math.log(len(sum_log_p))).mean(0)


def floored_sigmoid(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


def floored_softplus(v: Tensor) -> Tensor:
    return 0.01 + 0.99 * F.softplus(v)


# ---------------------------------------------------------------------------------------------- cells, baskets, topics


class EmbeddingVAE(nn.Module):
    """A VAE of the pooled states of a frozen transformer, which it is asked to give back."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        for p in (*self.words.parameters(), *self.encoder.parameters()):
            p.requires_grad = False
        self.to_hidden = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(p=0.0))
        self.to_mu, self.to_logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(p=0.0), nn.Linear(8, 8))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            hidden = self.encoder(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        mask = attention_mask.unsqueeze(-1).type_as(hidden)
        emb = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-6)
        h = self.to_hidden(emb)
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        std = torch.exp(0.5 * logvar)
        z = mu + std * torch.randn_like(std)
        return emb, self.decoder(z), mu, logvar


def embedding_loss(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    emb, recon, mu, logvar = model(input_ids=input_ids, attention_mask=attention_mask)
    kl = 0.5 * (torch.exp(logvar) + mu**2 - 1.0 - logvar)
    return F.mse_loss(recon, emb) + 1.0 * kl.sum(dim=1).mean()


def mlp_of(widths: tuple[int, ...], last: str = "") -> nn.Sequential:
    net = nn.Sequential()
    for i, (a, b) in enumerate(pairwise(widths)):
        net.add_module(f"L{i}", nn.Linear(a, b))
        if last and i == len(widths) - 2:
            net.add_module(last, nn.Sigmoid())
        else:
            net.add_module(f"A{i}", nn.ReLU())
    return net


class GeneEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.MLP, self.linear_means, self.linear_log_var = mlp_of((12, 8, 8)), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.MLP(x)
        return self.linear_means(x), self.linear_log_var(x)


class GeneDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.MLP = mlp_of((4, 8, 12), "sigmoid")

    def forward(self, z: Tensor) -> Tensor:
        return self.MLP(z)


class GeneVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = GeneEncoder(), GeneDecoder()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        means, log_var = self.encoder.forward(x)
        std = torch.exp(0.5 * log_var)
        eps = torch.randn([x.size(0), 4])
        z = eps * std + means
        return self.decoder.forward(z), means, log_var, z


def gene_loss(model: Any, x: Tensor) -> Tensor:
    recon_x, mean, log_var, _ = model(x)
    entropy = F.binary_cross_entropy(recon_x.view(-1, 12), x.view(-1, 12), reduction="sum")
    return (entropy + kl_to_unit(mean, log_var)) / x.size(0)


class MultiVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_layers = nn.ModuleList([nn.Linear(12, 8), nn.Linear(8, 8)])
        self.p_layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 12)])
        self.drop = nn.Dropout(0.5)
        for layer in (*self.q_layers, *self.p_layers):
            nn.init.xavier_normal_(layer.weight)
            nn.init.normal_(layer.bias, 0, 0.001)

    def encoder(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *hidden, last = self.q_layers
        h = self.drop(F.normalize(x, p=2, dim=1))
        for layer in hidden:
            h = torch.tanh(layer(h))
        both = last(h)
        return both[:, :4], both[:, 4:]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = self.encoder(x)
        h = mu
        if self.training:
            std = torch.exp(0.5 * logvar)
            h = torch.randn_like(std) * std + mu
        *hidden, last = self.p_layers
        for layer in hidden:
            h = torch.tanh(layer(h))
        return last(h), mu, logvar

    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, anneal: float = 1.0) -> Tensor:
        neg_ll = -torch.mean(torch.sum(F.log_softmax(recon_x, 1) * x, -1))
        kld = -0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        return neg_ll + anneal * kld


def multi_vae_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    return model.loss_function(recon, x, mu, logvar, 0.2)


class GaussianSoftmax(nn.Module):
    """A topic model: a linear map and a softmax of the code are the topics."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"enc_0": nn.Linear(12, 8), "enc_1": nn.Linear(8, 8)})
        self.fc_mu, self.fc_logvar, self.fc1 = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 4)
        self.decoder = nn.ModuleDict({"dec_0": nn.Linear(4, 8), "dec_1": nn.Linear(8, 12)})
        self.dropout = nn.Dropout(p=0.0)

    def forward(self, x: Tensor, collate_fn: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        hid = x
        for layer in self.encoder.values():
            hid = F.relu(self.dropout(layer(hid)))
        mu, log_var = self.fc_mu(hid), self.fc_logvar(hid)
        std = torch.exp(log_var / 2)
        theta = self.fc1(mu + torch.randn_like(std) * std)
        *inner, last = self.decoder.values()
        topics = theta if collate_fn is None else collate_fn(theta)
        for layer in inner:
            topics = F.relu(self.dropout(layer(topics)))
        return last(topics), mu, log_var


def gsm_loss(model: Any, bows: Tensor) -> Tensor:
    recon, mus, log_vars = model(bows, lambda x: torch.softmax(x, dim=1))
    rec_loss = -1.0 * torch.sum(bows * torch.log_softmax(recon, dim=1))
    return rec_loss + kl_to_unit(mus, log_vars) * 1.0


class DecadalVAE(nn.Module):
    """A field of climate, its ensemble of many; the variance has a floor, its log another that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0)
        )
        self.mu, self.log_var, self.N = nn.Linear(8, 2), nn.Linear(8, 2), Normal(0, 1)
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0), nn.Linear(8, 12))
        self.min_posterior_variance = torch.tensor(-math.inf).expand(2)

    def sample(self, mu: Tensor, log_var: Tensor, sample_size: int) -> Tensor:
        var = torch.exp(log_var) + 1e-4
        return mu + torch.sqrt(var) * self.N.sample((sample_size, *mu.shape))

    def forward(self, x: Tensor, sample_size: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        out = self.encoder(x.flatten(start_dim=1))
        mu = self.mu(out)
        log_var = torch.clamp(self.log_var(out), min=self.min_posterior_variance.type_as(mu), max=None)
        out = self.sample(mu, log_var, sample_size)
        out = torch.unflatten(self.decoder(torch.flatten(out, start_dim=0, end_dim=1)), dim=0, sizes=out.shape[0:2])
        return out.view((sample_size, *x.shape)), mu, log_var


def decadal_loss(model: Any, x: Tensor, weights: Tensor) -> Tensor:
    out, mu, log_var = model(x, 2)
    mse = (((out - x.unsqueeze(0).expand_as(out)) ** 2) * weights).sum(dim=-1).mean()
    var = torch.exp(log_var) + 1e-4
    kl = kl_divergence(Normal(mu, torch.sqrt(var)), Normal(torch.zeros_like(mu), torch.ones_like(log_var)))
    return mse + kl.sum(dim=-1).mean() * 1.0


def floored_variance(v: Tensor) -> Tensor:
    return torch.sqrt(torch.exp(v) + 1e-4)


# ---------------------------------------------------------------------------------------------- other networks


class LocationAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_layer, self.memory_layer = LinearNorm(8, 6, bias=False), LinearNorm(8, 6, bias=False)
        self.v, self.location_dense = LinearNorm(6, 1, bias=False), LinearNorm(4, 6, bias=False)
        self.location_conv = nn.Conv1d(2, 4, 3, padding=1, bias=False)

    def forward(self, query: Tensor, memory: Tensor, keys: Tensor, seen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        where = self.location_dense(self.location_conv(seen).transpose(1, 2))
        energies = self.v(torch.tanh(self.query_layer(query.unsqueeze(1)) + where + keys)).squeeze(-1)
        energies.data.masked_fill_(mask, -float("inf"))
        weights = F.softmax(energies, dim=1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Tacotron2(nn.Module):
    """Its prenet drops whatever the mode; the gate says when to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder_conv = (
            nn.Embedding(9, 8),
            nn.Sequential(nn.Conv1d(8, 8, 5, 1, 2), nn.BatchNorm1d(8)),
        )
        self.encoder_lstm, self.attention_layer = (
            nn.LSTM(8, 4, 1, batch_first=True, bidirectional=True),
            LocationAttention(),
        )
        self.prenet = nn.ModuleList([LinearNorm(5, 6, bias=False), LinearNorm(6, 6, bias=False)])
        self.attention_rnn, self.decoder_rnn = nn.LSTMCell(14, 8), nn.LSTMCell(16, 8)
        self.linear_projection, self.gate_layer = LinearNorm(16, 5), LinearNorm(16, 1)
        self.postnet = nn.Sequential(nn.Conv1d(5, 8, 5, 1, 2), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 5, 5, 1, 2))

    def forward(self, text: Tensor, mask: Tensor, mel: Tensor, gate: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.encoder_conv(self.embedding(text).transpose(1, 2))), 0.5, self.training)
        memory = self.encoder_lstm(x.transpose(1, 2))[0]
        keys, frames = self.attention_layer.memory_layer(memory), F.pad(mel, (0, 0, 1, -1))
        for layer in self.prenet:
            frames = F.dropout(F.relu(layer(frames)), p=0.5, training=True)
        context, weights, total = torch.zeros(len(text), 8), torch.zeros(mask.shape), torch.zeros(mask.shape)
        state, decoder, mels, gates = None, None, [], []
        for t in range(mel.size(1)):
            state = self.attention_rnn(torch.cat((frames[:, t], context), -1), state)
            seen = torch.cat((weights.unsqueeze(1), total.unsqueeze(1)), dim=1)
            context, weights = self.attention_layer(F.dropout(state[0], 0.1), memory, keys, seen, mask)
            total = total + weights
            decoder = self.decoder_rnn(torch.cat((state[0], context), -1), decoder)
            both = torch.cat((decoder[0], context), dim=1)
            mels.append(self.linear_projection(both))
            gates.append(self.gate_layer(both))
        out = torch.stack(mels, 1)
        post = out + self.postnet(out.transpose(1, 2)).transpose(1, 2)
        loss = F.mse_loss(out, mel) + F.mse_loss(post, mel)
        return loss + F.binary_cross_entropy_with_logits(torch.cat(gates, 1).view(-1, 1), gate.view(-1, 1))


class RevIN(nn.Module):
    """Takes a window's own mean and standard deviation away, and gives them back."""

    def __init__(self) -> None:
        super().__init__()
        self.affine_weight, self.affine_bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, mode: str) -> Tensor:
        if mode == "norm":
            self.mean = torch.mean(x, dim=1, keepdim=True).detach()
            self.stdev = torch.sqrt(torch.var(x, dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
            return (x - self.mean) / self.stdev * self.affine_weight + self.affine_bias
        x = (x - self.affine_bias) / (self.affine_weight + 1e-5 * 1e-5)
        return x * self.stdev + self.mean


class PatchTST(nn.Module):
    """Every channel is a series of its own, in patches that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.revin_layer, self.padding_patch_layer = RevIN(), nn.ReplicationPad1d((0, 2))
        self.w_p, self.w_pos = nn.Linear(4, 8), nn.Parameter(torch.empty(6, 8).uniform_(-0.02, 0.02))
        self.attn, self.norm_attn = nn.MultiheadAttention(8, 2, batch_first=True), nn.BatchNorm1d(8)
        self.ff, self.norm_ffn = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), nn.BatchNorm1d(8)
        self.head = nn.Sequential(nn.Flatten(start_dim=-2), nn.Linear(48, 4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.padding_patch_layer(self.revin_layer(x, "norm").permute(0, 2, 1)).unfold(-1, 4, 2)
        u = self.w_p(z).flatten(0, 1) + self.w_pos
        u = self.norm_attn((u + self.attn(u, u, u)[0]).transpose(1, 2)).transpose(1, 2)
        u = self.norm_ffn((u + self.ff(u)).transpose(1, 2)).transpose(1, 2)
        z = self.head(u.view(len(x), 3, 6, 8).permute(0, 1, 3, 2))
        return F.mse_loss(self.revin_layer(z.permute(0, 2, 1), "denorm"), y)


class NeuMF(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding_user_mlp, self.embedding_item_mlp = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.embedding_user_mf, self.embedding_item_mf = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.fc_layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)])
        self.affine_output, self.logistic = nn.Linear(8, 1), nn.Sigmoid()

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        mlp_vector = torch.cat([self.embedding_user_mlp(user), self.embedding_item_mlp(item)], dim=-1)
        mf_vector = torch.mul(self.embedding_user_mf(user), self.embedding_item_mf(item))
        for layer in self.fc_layers:
            mlp_vector = F.relu(layer(mlp_vector))
        return self.logistic(self.affine_output(torch.cat([mlp_vector, mf_vector], dim=-1)))


def neumf_loss(model: Any, user: Tensor, item: Tensor, rating: Tensor) -> Tensor:
    return F.binary_cross_entropy(model(user, item).view(-1), rating)


class SpectralConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(8, 8, 4, 3, dtype=torch.cfloat))
        self.bias = nn.Parameter(0.2 * torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        ft = torch.fft.fftshift(torch.fft.rfftn(x, norm="forward", dim=(-2, -1)), dim=-2)
        out, low = torch.zeros_like(ft), ft.size(-2) // 2 - 2
        out[:, :, low : low + 4, :3] = torch.einsum("bixy,ioxy->boxy", ft[:, :, low : low + 4, :3], self.weight)
        return (
            torch.fft.irfftn(torch.fft.ifftshift(out, dim=-2), s=x.shape[-2:], dim=(-2, -1), norm="forward") + self.bias
        )


class FNO(nn.Module):
    """Fourier layers between a lifting and a projection; the loss is relative."""

    def __init__(self) -> None:
        super().__init__()
        self.lifting = nn.Sequential(nn.Conv2d(3, 12, 1), nn.GELU(), nn.Conv2d(12, 8, 1))
        self.convs = nn.ModuleList([SpectralConv(), SpectralConv()])
        self.fno_skips = nn.ModuleList([nn.Conv2d(8, 8, 1, bias=False) for _ in range(2)])
        self.channel_mlp = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(8, 4, 1), nn.GELU(), nn.Conv2d(4, 8, 1)) for _ in range(2)]
        )
        self.channel_mlp_skips = nn.ParameterList([nn.Parameter(torch.ones(1, 8, 1, 1)) for _ in range(2)])
        self.projection = nn.Sequential(nn.Conv2d(8, 12, 1), nn.GELU(), nn.Conv2d(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, 8)
        places = torch.stack(torch.meshgrid(grid, grid, indexing="ij")).expand(len(x), -1, -1, -1)
        x = self.lifting(torch.cat((x, places), dim=1))
        for i, conv in enumerate(self.convs):
            soft = self.channel_mlp_skips[i] * x
            x = conv(x) + self.fno_skips[i](x)
            x = F.gelu(x) if i == 0 else x
            x = self.channel_mlp[i](x) + soft
            x = F.gelu(x) if i == 0 else x
        return self.projection(x)


def relative_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    out = model(x)
    difference = torch.norm((out - y).flatten(1), p=2, dim=1)
    return torch.sum(difference / torch.norm(y.flatten(1), p=2, dim=1))


# ---------------------------------------------------------------------------------------------- inputs


def dialogues() -> tuple[Tensor, ...]:
    return tokens(9, 6, 5), tokens(9, 5, 5, seed=9)


def accents() -> tuple[Tensor, ...]:
    return tokens(9, 4, 6), randn(4, 5, 5), tokens(3, 4), tokens(4, 4, seed=9), bits(4, 5)


def motions() -> tuple[Tensor, ...]:
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return randn(4, 5, 6), mask


def masked_text() -> tuple[Tensor, ...]:
    mask = torch.ones(5, 6, dtype=torch.long)
    mask[2, 4:] = 0
    return tokens(9, 5, 6), mask


def robots() -> tuple[Tensor, ...]:
    pad = torch.zeros(3, 6, dtype=torch.bool)
    pad[0, 3:] = True
    return randn(3, 3), rand(3, 2, 3, 8, 8), randn(3, 6, 3, seed=9), pad


def spoken() -> tuple[Tensor, ...]:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[1, 4:] = True
    return tokens(9, 3, 6), mask, randn(3, 4, 5), bits(3, 4)


def documents() -> tuple[Tensor, ...]:
    return (tokens(5, 6, 12).float(),)


def rollout() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, seed=10) - 2, randn(6, seed=11), randn(6, seed=12)


# fmt: off
CASES = (
    PublicCase(
        "Deep paraphrase RVAE",
        Retold(
            "ashutoshsingh0223/deep-paraphrase", "c587767c9629063d3bddc5223bbecbe8e4f2008f",
            "model/rvae.py, model/paraphrase_encoder.py",
        ),
        Paraphrase, lambda: (tokens(9, 5, 6), tokens(9, 5, 5, seed=9)), (posterior("context_to_logvar"),),
        paraphrase_loss, truth="model/rvae.py forward: std = exp(0.5 logvar)",
    ),
    PublicCase(
        "Sentence embedding VAE",
        Retold(
            "ddelgoda/text-vae-nlp", "2c8dd3f08b3672ebea353f476cdd806a2fd6f422",
            "src/textvae/model.py, src/textvae/lit_module.py",
        ),
        EmbeddingVAE, masked_text, (posterior("to_logvar"),), embedding_loss,
        truth="model.py reparameterize: std = exp(0.5 logvar); lit_module.py: closed KL; a small encoder is frozen "
        "here",
    ),
    PublicCase(
        "Text VAE (universome)",
        Retold(
            "universome/text-vae", "186560097a746988a145090fc7c142c948360022",
            "src/models/vae.py, src/losses/kl_loss.py, src/trainers/vae_trainer.py",
        ),
        LabTextVAE, lambda: (tokens(9, 5, 6),), (posterior("encodings_to_log_stds.2", sigma=torch.exp),), lab_text_loss,
        truth="vae.py: stds = noiseness exp(log_stds), noiseness 1; kl_loss.py calls its argument stds and takes "
        "log σ; readers and writers are plain GRUs here, outside a DataParallel",
    ),
    PublicCase(
        "Text VAE (spro)",
        Retold("spro/pytorch-text-vae", "48e5eaa419227590e635b55d0be4d4e3a1398896", "model.py, train.py"),
        CharVAE, lambda: (tokens(9, 7),), (posterior("encoder.o2p", 4, 8),), char_loss,
        truth="model.py Encoder.sample: std = exp(logvar / 2), of a chunk, in a batch of one",
    ),
    PublicCase(
        "CVAE with a coherence gate",
        Retold(
            "XinnuoXu/CVAE_Dial_CGate", "ab21453bb1f2aa6f902a825c76da4427edf5b69e",
            "onmt/Models.py, onmt/ModelConstructor.py, onmt/Loss.py",
        ),
        LatentVariableModel, dialogues, (posterior("approx_logvar"), prior("true_logvar")), latent_variable_loss,
        truth="Models.py sampling: exp(logvar / 2), each layer called for hidden state and cells; Loss.py:224 sums "
        "over the batch's dimension. `true` is called the true posterior and sees the context alone: the KL's "
        "second place. The first phase, without the loss of the codes read back, and without the gate",
    ),
    PublicCase(
        "Variational Seq2Seq",
        Retold("guxd/VariationalSeq2Seq", "38d9aa25261ad231ddf3b144bb0f3a885e924cc7", "model.py, main.py"),
        VariationalSeq2Seq, lambda: (tokens(9, 5, 6), tokens(9, 5, 5, seed=9)),
        (posterior("hidvar.context_to_logvar"),), seq2seq_loss,
        truth="model.py LatentVariation: std = exp(0.5 logvar); main.py:61 the KL",
    ),
    PublicCase(
        "CVAE-Tacotron",
        Retold(
            "Dapwner/CVAE-Tacotron", "0b65aa124f5e738947dd82bdcbc77eaa66a4933a",
            "cvae.py, utils/tools.py, model/loss.py",
        ),
        AccentedTacotron, accents,
        (posterior("cvae.logvar_layer_acc.linear_layer"), posterior("cvae.logvar_layer_spk.linear_layer")),
        accented_loss,
        truth="utils/tools.py:533 std = exp(0.5 logvar); loss.py KL_loss takes what it calls var as log variance. "
        "The layer that emits is the linear map inside LinearNorm",
    ),
    PublicCase(
        "Adaptive voice conversion",
        Retold(
            "jjery2243542/adaptive_voice_conversion", "d1cad9fb4eff74ca56714f9a2527124132fb1ed7", "model.py, solver.py",
        ),
        AdaptiveVC, lambda: (randn(3, 5, 8),), (posterior("content_encoder.std_layer"),), voice_loss,
        truth="model.py:384 exp(log_sigma / 2), whatever it is called, as solver.py's KL has it",
    ),
    PublicCase(
        "MusicVAE (notebook)",
        Retold(
            "Variational-Autoencoder/MusicVAE", "dcf1e95f62a94281b25fc05e81764a3d1cea723d",
            "notebooks/MusicVAE Model and training.ipynb",
        ),
        MusicVAE, lambda: (F.one_hot(tokens(6, 3, 12), 6).float(),), (posterior("encoderOut", 4, 8, softplus_squared),),
        music_loss,
        truth="sigma = exp(2 softplus(v)), in the sampler and in the loss; noise is one for all steps of a piece",
    ),
    PublicCase(
        "HM-VAE",
        Retold(
            "SeungyounShin/hm-vae-lafan", "3cdaa1985361325374628cd01c252f6133e0db90",
            "seq_two_hier_sa_vae.py, configs/len64_no_aug_hm_vae.yaml",
        ),
        TwoHierSAVAE, lambda: (randn(4, 16, 8), 50001),
        (
            posterior("enc.latent_enc_layers.0", 3, 6), posterior("enc.latent_enc_layers.1", 4, 8),
            posterior("enc.latent_enc_layers.2", 4, 8), posterior("enc.latent_enc_layers.3", 4, 8),
        ), itself,
        truth="reparametrize: exp(0.5 logvar) on each of four levels; the KL of the first and the last. Hard: the "
        "two between are drawn and decoded, and then dropped: posteriors by what is drawn, though no loss "
        "sees them. Without kinematics",
    ),
    PublicCase(
        "MLD VAE",
        Retold(
            "ChenFengYe/motion-latent-diffusion", "081ce3152e5a95b14a4495fb2d32939c257c6216",
            "mld/models/architectures/mld_vae.py, mld/models/operator/cross_attention.py, mld/models/losses/mld.py",
        ),
        MldVae, motions, (posterior("encoder.norm", 1, 2),), mld_loss,
        truth="mld_vae.py encode, MLP_DIST False: std = exp(logvar) ** 0.5, logvar the second position of the "
        "sequence, all features: the range is along the first dimension; emitted by the encoder's last norm",
    ),
    PublicCase(
        "MSRL CVAE",
        Retold(
            "YuxuanIAIR/MSRL-master", "3ee29fe747a5c8803a2905986302b2fb714ea5b9",
            "model/CVAE.py, model/dist.py, model/vaeloss.py",
        ),
        MultiStreamCVAE, lambda: (randn(4, 5, 2), randn(3, 5, 2, seed=9)),
        (posterior("q_z_net", 3, 6), prior("p_z_net", 3, 6)), multi_stream_loss,
        truth="dist.py: sigma = exp(0.5 logvar), which draws; the KL adds 1e-8 to the prior's",
    ),
    PublicCase(
        "SVP",
        Retold("chaehunshin/svp", "c1336502cd9134b912a56743537d7193e63eedb0", "model.py, layers.py, loss.py, train.py"),
        SVP, lambda: (rand(3, 4, 1, 8, 8),), (posterior("_posterior._logvar"), prior("_prior._logvar")), svp_loss,
        truth="model.py reparameterize: exp(0.5 logvar); loss.py both in the KL",
    ),
    PublicCase(
        "RSSM V1 (nomutin)",
        Retold(
            "nomutin/RSSM", "60c304df9f02399e49981c33e4fa11ce73bc56eb",
            "src/rssm/core.py, networks.py, state.py",
        ),
        RSSM, lambda: (randn(4, 3, 2), randn(4, 3, 10, seed=9)),
        (
            posterior("representation.rnn_to_post_projector.2", 3, 6, tenth),
            prior("transition.rnn_to_prior_projector.2", 3, 6, tenth),
        ), rssm_step,
        truth="nomutin/distribution-extension@e150621 factory.py NormalFactory: σ = softplus(v) + 0.1. Hard: the "
        "first state is drawn from the prior's layer, of an observation, and no KL has it: the KL decides, "
        "the prior. Without balancing",
    ),
    PublicCase(
        "SimpleDreamer world",
        Retold(
            "kc-ml2/SimpleDreamer", "53213b7272c32c3fb73c3a4258af38efd99b070c",
            "dreamer/modules/model.py, dreamer/utils/utils.py, dreamer/algorithms/dreamer.py",
        ),
        SimpleDreamer, lambda: (randn(4, 3, 10), randn(4, 3, 2, seed=9), randn(4, 3, 1, seed=10)),
        (posterior("representation_model.network.2", 3, 6, tenth), prior("transition_model.network.2", 3, 6, tenth)),
        world_loss,
        truth="utils.py create_normal_dist: σ = softplus(v) + 0.1; the KL's Normals are made anew of stacked "
        "moments",
    ),
    PublicCase(
        "SimpleDreamer actor",
        Retold(
            "kc-ml2/SimpleDreamer", "53213b7272c32c3fb73c3a4258af38efd99b070c",
            "dreamer/modules/actor.py, dreamer/utils/utils.py, dreamer/algorithms/dreamer.py",
        ),
        SimpleDreamer, lambda: (randn(5, 3), randn(5, 8, seed=9)),
        (likelihood("actor.network.2", 2, 4, shifted_softplus), prior("transition_model.network.2", 3, 6, tenth)),
        actor_loss,
        truth="utils.py: σ = softplus(v + 5) + 0.0001 for actions, which are drawn and not scored: a likelihood by "
        "the rule for policies. Hard: dreamt states are drawn from the transition, whose KL is not in this "
        "step: a prior, as in the other",
    ),
    PublicCase(
        "PPO (RodolpheFmd)",
        Retold("RodolpheFmd/Modelling-PyTorch-DRL", "d51db989df932d962e66dfe7ff76db2cc950370a", "ppo.py"),
        PpoFramework, rollout, (likelihood("actor_logstd", sigma=torch.exp),), framework_loss,
        truth="ppo.py sample_action_and_value: exp of a parameter, expanded",
    ),
    PublicCase(
        "SAC (RodolpheFmd)",
        Retold("RodolpheFmd/Modelling-PyTorch-DRL", "d51db989df932d962e66dfe7ff76db2cc950370a", "sac.py"),
        SacSolver, lambda: (randn(6, 4),), (likelihood("actor.log_std_head", sigma=sac_clamped),), sac_actor_loss,
        truth="sac.py Actor: log σ clamped to arguments that the script is not there for, [-20, 2] here; the term "
        "of the tanh has the squashed action in it",
    ),
    PublicCase(
        "ACT",
        Retold("tonyzhaozh/act", "742c753c0d4a5d87076c8f69e5628c79a8cc5488", "detr/models/detr_vae.py, policy.py"),
        ACTPolicy, robots, (posterior("model.latent_proj", 4, 8),), act_loss,
        truth="detr_vae.py reparametrize: std = exp(logvar / 2)",
    ),
    PublicCase(
        "GP-VAE",
        Retold(
            "WenjieDu/PyPOTS", "53b3eac34be9491ac3f28e65ee1993436e9318af",
            "pypots/nn/modules/gpvae/backbone.py, layers.py",
        ),
        GPVAE, lambda: (randn(4, 6, 3), bits(4, 6, 3)), (), itself,
        truth="layers.py GpvaeEncoder. Hard: a posterior over time whose factor is the inverse of 1 + a band of "
        "sigmoids: no σ is a function of one raw value; prior and likelihood are fixed. No head with a σ(v) "
        "of its own",
    ),
    PublicCase(
        "Latent ODE VAE",
        Retold(
            "eliottprdlx/variational_neural_ode", "e0a587bacc3ca911737b7f3b38e63d953457040d",
            "latent_ode_vae/dynamics_model.py, encoders.py, config.py",
        ),
        LatentODEVAE, lambda: (randn(5, 6, 2), torch.linspace(0, 0.5, 6), randn(5, 6, 1, seed=9)),
        (posterior("encoder.fc_logvar"),), latent_ode_vae_loss,
        truth="dynamics_model.py reparameterize: std = exp(0.5 logvar), of the GRU encoder of config.py",
    ),
    PublicCase(
        "DKF (torchssm)",
        Retold(
            "qu-gg/torch-neural-ssm", "13813f75e18b9efd5cedc40bd7d707b0a1e7870e",
            "models/group_a/DKF.py, models/CommonDynamics.py",
        ),
        DKF, lambda: (rand(4, 4, 4, 4),),
        (posterior("estimation.lin_v", sigma=tanh_logvar), prior("transition.lin_v", sigma=tanh_logvar)), dkf_step,
        truth="DKF.py: var = tanh(clamp(v, -100, 85)), drawn with exp(0.5 var). The last layer that is linear "
        "emits; the first step's prior is fixed, and the last is dropped. Frames are compared from the first "
        "on",
    ),
    PublicCase(
        "LNP",
        Retold(
            "YannDubs/Neural-Process-Family", "40014f000a471c52acd807daa1219d09b7ee6366",
            "npf/neuralproc/base.py, npf/neuralproc/np.py, npf/losses.py, npf/architectures/mlp.py",
        ),
        LNP, lambda: (2 * rand(4, 5, 1) - 1, randn(4, 5, 1), 2 * rand(4, 7, 1, seed=9) - 1, randn(4, 7, 1, seed=10)),
        (
            posterior("latent_encoder.out", 3, 6, floored_sigmoid),
            likelihood("decoder.flat_module.out", 1, 2, floored_softplus),
        ), nll_loss_lnpf,
        truth="base.py: σ of the code 0.1 + 0.9 sigmoid(v), of the targets 0.01 + 0.99 softplus(v); the notebooks' "
        "loss, NLLLossLNPF without is_q_zCct. Hard: no KL; the code is drawn and sees the context, which is "
        "data",
    ),
    PublicCase(
        "RNA-seq VAE",
        Retold(
            "lovelyscientist/rna-seq-vae", "edd83b2248d4f9d4fb633741ad78889a36c476c2",
            "torch_model.py, torch_training.py",
        ),
        GeneVAE, lambda: (rand(6, 12),), (posterior("encoder.linear_log_var"),), gene_loss,
        truth="torch_model.py forward: std = exp(0.5 log_var)",
    ),
    PublicCase(
        "MultiVAE (pyy0715)",
        Retold("pyy0715/vae-cf-pyorch", "819a1bea29b4ff61f259d94ecbc50c5a29fbca7e", "models/multi_vae.py, trainer.py"),
        MultiVAE, lambda: (bits(6, 12) + torch.eye(12)[:6],), (posterior("q_layers.1", 4, 8),), multi_vae_loss,
        truth="multi_vae.py reparameterize: std = exp(0.5 logvar)",
    ),
    PublicCase(
        "GSM",
        Retold(
            "zll17/Neural_Topic_Models", "634ce57167e432bb58628145ae35fb46f2b317a3", "models/vae.py, models/GSM.py",
        ),
        GaussianSoftmax, documents, (posterior("fc_logvar"),), gsm_loss,
        truth="models/vae.py reparameterize: std = exp(log_var / 2)",
    ),
    PublicCase(
        "Decadal BVAE",
        Retold(
            "ParsaGooya/Decadal_BVAE", "6b7d239f8d94ce840147d8ec779ccce0fdabb236",
            "models/autoencoder.py, losses.py, run_training_BVAE.py",
        ),
        DecadalVAE, lambda: (randn(5, 12), rand(12)), (posterior("log_var", sigma=floored_variance),), decadal_loss,
        truth="autoencoder.py sample and losses.py: σ = sqrt(exp(v) + 1e-4); the clamp's floor is -inf by the "
        "script's settings, without condition and flow",
    ),
    PublicCase(
        "Tacotron 2",
        Retold("NVIDIA/tacotron2", "185cd24e046cc1304b4f8e564734d2498c6e2e6f", "model.py, loss_function.py"),
        Tacotron2, spoken, (), itself, truth="loss_function.py: squares, and a gate",
    ),
    PublicCase(
        "PatchTST (supervised)",
        Retold(
            "yuqinie98/PatchTST", "204c21efe0b39603ad6e2ca640ef5896646ab1a9",
            "PatchTST_supervised/layers/PatchTST_backbone.py, RevIN.py",
        ),
        PatchTST, lambda: (randn(4, 12, 3), randn(4, 4, 3, seed=9)), (), itself,
        truth="RevIN.py: a standard deviation that is the window's own",
    ),
    PublicCase(
        "NeuMF",
        Retold(
            "yihong-chen/neural-collaborative-filtering", "e6cfeb4e4e1ae676bc291b97fc18ce157358a087",
            "src/neumf.py, src/engine.py",
        ),
        NeuMF, lambda: (tokens(7, 6), tokens(9, 6, seed=9), bits(6)), (), neumf_loss, truth="engine.py:24 BCELoss",
    ),
    PublicCase(
        "FNO",
        Retold(
            "neuraloperator/neuraloperator", "93d3f0633e048c915004cd782cb339acf06e1157",
            "neuralop/models/fno.py, neuralop/layers/fno_block.py, neuralop/losses/data_losses.py",
        ),
        FNO, lambda: (randn(4, 1, 8, 8), randn(4, 1, 8, 8, seed=9)), (), relative_loss,
        truth="data_losses.py LpLoss: a norm relative to the target's",
    ),
)
# fmt: on
