"""A fifth look: text, speech, music, series, worlds, policies, skills, graphs, neural processes, Bayesian networks,
paths and motion, in our own words, sampled as an ordinary user's model would be.

The fields and one query for each were fixed first, with two models a field as the aim; then the first repositories
that the query's answer names, or that a hit without a name says it is of, in order, with a VAE-like PyTorch model that
trains and that no earlier look has; its main model, with the loss of its training script. Conventions were neither
sought nor avoided. Every truth was written from reading the code, before any of these was scanned.

Text (sentence VAE, GRU, KL annealing): `zwjyyc/finch` passed (TensorFlow), `ashutoshsingh0223/deep-paraphrase`,
`anshulsamar/seq`, `kefirski/pytorch_RVAE` and `timbmg/Sentence-VAE` passed (seen in earlier looks),
`rohithreddy024/VAE-Text-Generation` and `asyml/texar-pytorch` (its example of a VAE) taken. Speech (synthesis, VAE,
prosody): `ufal/npfl138`, `AMDS123/amds123.github.io` and `DataXujing/TTS-paper` passed (no code of a VAE),
`coqui-ai/TTS` (Capacitron) taken, `ZackHodari/morgana` passed (its VAE is abstract), then from what is well known
`jinhan/tacotron2-vae`. Music (VAE, recurrent, piano roll): `Khamies/Piano-VAE` taken,
`Variational-Autoencoder/MusicVAE` passed (an earlier look), `seyongk/Learning-Music-Variational-AutoEncoder` taken.
Series (LSTM, VAE, anomalies): `maryamdaniali/TimeSeries-VAE-Anomaly-Detection` passed (Keras),
`wildanjr19/vae-lstm-ts-anomaly-detection` passed (a model without a loss), `muzzi85/VAE---tensorflow-and-torch` passed
(a tutorial's VAE that an earlier look has), `carrtesy/LSTMVAE-Pytorch` taken, and no second. Worlds (recurrent state
space): `youngers2006/Dreamer` passed (breaks off), `facebookresearch/denoised_mdp` taken, `pytorch/rl` passed (a
library's documentation), `wassname/world-models-sonic-pytorch` taken. Policies (actor, critic, Gaussian): `NVlabs/gbrl`
passed (trees), `Ace1928/eidosian_forge` passed (a scrap), `RonielJ/Final-Year-Project` passed (an agent without a
loss), `medipixel/rl_algorithms` taken, then from what is well known `ShangtongZhang/DeepRL`. Skills (DIAYN, offline):
`20195036KimYunho/ldcq` taken, with the settings of the script that the query found,
`jamesborg46/robust_rewards_from_preferences` passed (its models are a library's), `SmallBiteCoder/Python-Ml-Coarse`
passed (empty), `pamulism/ml-agents` passed (its files are not there), `alirezakazemipour/DIAYN-PyTorch` taken. Graphs
(variational autoencoder, molecules): `dmlc/dgl` passed (its notebook turns the variational part off),
`ThomasGust/Molecumixer` and `ShoKuno5/shokuno5.github.io` passed (stubs), `HyTruongSon/MGVAE` taken, and no second.
Neural processes: `YannDubs/Neural-Process-Family` passed (an earlier look), `fiorenza2/NeuralProcessPyTorch` passed (it
does not run), `wesselb/neuralprocesses` (the ConvCNP of its README) and `Usefulmaths/Neural-Processes` taken. Bayesian
networks (variational layer, rho): `RAI-SCC/torch_bayesian` taken, `LorenzoPiu/Bayes_by_backprop_demo` passed (an
earlier look), `jiangdaniel/ml-implementations` taken. Paths (CVAE, pedestrians): the query's answer names
`arsalhuda24/LSTM-autoencoders-for-Trajectory-Prediction`, `YuxuanIAIR/MSRL-master` (earlier looks) and
`atanas1054/m2p3-mog` (Keras); the same query to issues names
`realcrane/Human-Trajectory-Prediction-via-Neural-Social-Physics` and `xupei0610/SocialVAE`: taken. Motion (VAE, GRU,
prior): `SeungyounShin/hm-vae-lafan` and `JinShiyin/hm-vae` passed (an earlier look), `yizhouzhao/GenMotion` taken (the
first VAE of its documentation that is its own), `xcyan/eccv18_mtvae` passed (TensorFlow),
`EricGuo5513/action-to-motion` taken. Controls, as the fields' ordinary networks: `Charlie-Bell/lstm-autoencoder` (the
query for series names it), and as well known code `gwinndr/MusicTransformer-Pytorch`, `Diego999/pyGAT`,
`sfujim/TD3`.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from held_out_vaes import StridedHead
from torch import Tensor, jit, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import bits, itself, kl_to_unit, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- text


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.non_linear, self.linear, self.gate = (nn.ModuleList([nn.Linear(6, 6) for _ in range(2)]) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            gate = torch.sigmoid(self.gate[i](x))
            x = gate * F.relu(self.non_linear[i](x)) + (1 - gate) * self.linear[i](x)
        return x


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.highway, self.lstm = Highway(), nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(2, len(x), 5)
        hidden = self.lstm(self.highway(x), (zeros, zeros.clone()))[1][0].view(1, 2, len(x), 5)[-1]
        return torch.cat(list(hidden), dim=1)


class TextGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(10, 5, 2, batch_first=True), nn.Linear(5, 9)

    def forward(self, x: Tensor, z: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        batch, steps, _ = x.size()
        z = torch.cat([z] * steps, 1).view(batch, steps, 4)
        if hidden is None:
            hidden = (torch.zeros(2, batch, 5), torch.zeros(2, batch, 5))
        output, hidden = self.lstm(torch.cat([x, z], dim=2), hidden)
        return self.fc(output), hidden


class TextGenerationVAE(nn.Module):
    """Its KL is computed in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder, self.generator = nn.Embedding(9, 6), TextEncoder(), TextGenerator()
        self.hidden_to_mu, self.hidden_to_logvar = nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor, g_inp: Tensor, z: Any = None, hidden: Any = None) -> tuple[Tensor, Any, Any]:
        kld = None
        if z is None:
            encoded = self.encoder(self.embedding(x))
            mu, logvar = self.hidden_to_mu(encoded), self.hidden_to_logvar(encoded)
            z = torch.randn([len(x), 4])
            z = mu + z * torch.exp(0.5 * logvar)
            kld = -0.5 * torch.sum(logvar - mu.pow(2) - logvar.exp() + 1, 1).mean()
        logit, hidden = self.generator(self.embedding(g_inp), z, hidden)
        return logit, hidden, kld


def text_generation_loss(model: Any, x: Tensor) -> Tensor:
    g_inp = x[:, :-1].clone()
    dropped = torch.rand(g_inp.shape) < 0.5
    dropped[:, 0] = False
    g_inp[dropped & (g_inp > 1)] = 0
    logit, _, kld = model(x, g_inp, None, None)
    rec_loss = F.cross_entropy(logit.view(-1, 9), x[:, 1:].contiguous().view(-1))
    return 7 * rec_loss + (math.tanh((15500 - 15000) / 1000) + 1) / 2 * kld


class MLPTransformConnector(nn.Module):
    """One linear map of a cell's states, side by side."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self._linear_layer = nn.Linear(n_in, n_out)

    def forward(self, states: tuple[Tensor, Tensor]) -> Tensor:
        return self._linear_layer(torch.cat(states, dim=1))


class TexarVAE(nn.Module):
    """A library's example: its parts and its diagonal Normal are the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_w_embedder, self.encoder = nn.Embedding(9, 6), nn.LSTM(6, 8, batch_first=True)
        self.decoder_w_embedder, self.decoder = nn.Embedding(9, 6), nn.LSTM(10, 8, batch_first=True)
        self.connector_mlp, self.mlp_linear_layer = MLPTransformConnector(16, 8), nn.Linear(4, 16)
        self.output_layer = nn.Linear(8, 9)

    def forward(self, text_ids: Tensor, kl_weight: float) -> dict[str, Tensor]:
        _, (hidden, cell) = self.encoder(self.encoder_w_embedder(text_ids))
        mean, logvar = torch.chunk(self.connector_mlp((hidden[0], cell[0])), 2, 1)
        kl_cost = -0.5 * (logvar - mean**2 - torch.exp(logvar) + 1.0)
        kl_loss = torch.sum(torch.mean(kl_cost, 0))
        latent_z = Independent(Normal(mean, torch.exp(0.5 * logvar)), 1).rsample()
        words = self.decoder_w_embedder(text_ids[:, :-1])
        inputs = torch.cat([words, latent_z.unsqueeze(1).repeat(1, words.size(1), 1)], dim=-1)
        states = tuple(part.unsqueeze(0).contiguous() for part in torch.chunk(self.mlp_linear_layer(latent_z), 2, 1))
        logits = self.output_layer(self.decoder(inputs, states)[0])
        rc_loss = F.cross_entropy(logits.transpose(1, 2), text_ids[:, 1:], reduction="none").sum(1).mean()
        return {"nll": rc_loss + kl_weight * kl_loss, "kl_loss": kl_loss, "rc_loss": rc_loss}


# ---------------------------------------------------------------------------------------------- speech


class ProsodyEncoder(nn.Module):
    """Convolutions with norms, masked by length, and the state of an LSTM at each utterance's end."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, (2, 2), (2, 2)) for i, o in ((1, 3), (3, 4))])
        self.bns = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(4)])
        self.recurrence = nn.LSTM(4 * 4, 6, batch_first=True)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        x, valid = inputs.view(len(inputs), 1, -1, 8), lengths.float()
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = F.relu(bn(conv(x)))
            valid = torch.ceil(valid / 2) + 1
            mask = torch.arange(x.size(2))[None] < valid[:, None]
            x = x * mask[:, None, :, None]
        x = x.transpose(1, 2).contiguous().view(len(x), x.size(2), -1)
        packed = nn.utils.rnn.pack_padded_sequence(x, valid.long().tolist(), batch_first=True, enforce_sorted=False)
        return self.recurrence(packed)[1][0][-1]


class TextSummary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths.tolist(), batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]


class PostEncoderMLP(nn.Module):
    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden_size = hidden
        self.net = nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, hidden * 2))
        self.softplus = nn.Softplus()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.net(x)
        return out[:, : self.hidden_size], self.softplus(out[:, self.hidden_size :])


class CapacitronVAE(nn.Module):
    """What its head calls sigma, a MultivariateNormal takes as its covariance."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_distribution = MultivariateNormal(torch.zeros(4), torch.eye(4))
        self.approximate_posterior_distribution: Any = None
        self.encoder = ProsodyEncoder()
        self.beta = nn.Parameter(torch.log(torch.exp(torch.Tensor([1.0])) - 1))
        self.text_summary_net, self.post_encoder_mlp = TextSummary(), PostEncoderMLP(10, 4)

    def forward(self, mels: Tensor, mel_lengths: Tensor, text: Tensor, lengths: Tensor) -> tuple[Any, ...]:
        enc_out = torch.cat([self.encoder(mels, mel_lengths), self.text_summary_net(text, lengths)], dim=-1)
        mu, sigma = self.post_encoder_mlp(enc_out)
        mu, sigma = mu.cpu(), sigma.cpu()
        self.approximate_posterior_distribution = MultivariateNormal(mu, torch.diag_embed(sigma))
        embedding = self.approximate_posterior_distribution.rsample()
        return embedding.unsqueeze(1), self.approximate_posterior_distribution, self.prior_distribution, self.beta


class CapacitronTacotron(nn.Module):
    """A recurrent decoder stands for Tacotron's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(9, 6), nn.GRU(6, 5, batch_first=True)
        self.capacitron_vae_layer = CapacitronVAE()
        self.decoder, self.linear_projection, self.stopnet = (
            nn.GRU(17, 7, batch_first=True),
            nn.Linear(7, 8),
            nn.Linear(7, 1),
        )

    def forward(self, text: Tensor, text_lengths: Tensor, mels: Tensor, mel_lengths: Tensor) -> dict[str, Any]:
        embedded = self.embedding(text)
        outputs = self.encoder(embedded)[0]
        vae, *capacitron_vae_outputs = self.capacitron_vae_layer(mels, mel_lengths, embedded, text_lengths)
        outputs = torch.cat([outputs, vae.expand(-1, outputs.size(1), -1)], dim=-1).mean(1, keepdim=True)
        frames = torch.cat([torch.zeros_like(mels[:, :1]), mels[:, :-1]], 1)
        hidden = self.decoder(torch.cat([frames, outputs.expand(-1, frames.size(1), -1)], -1))[0]
        return {
            "decoder_outputs": self.linear_projection(hidden), "stop_tokens": self.stopnet(hidden)[..., 0],
            "capacitron_vae_outputs": capacitron_vae_outputs,
        }  # fmt: skip


def capacitron_loss(
    model: Any, text: Tensor, lengths: Tensor, mels: Tensor, mel_lengths: Tensor, stop: Tensor
) -> Tensor:
    outputs = model(text, lengths, mels, mel_lengths)
    posterior_distribution, prior_distribution, beta = outputs["capacitron_vae_outputs"]
    mask = (torch.arange(mels.size(1))[None] < mel_lengths[:, None])[..., None].expand_as(mels)
    loss = F.mse_loss(outputs["decoder_outputs"][mask], mels[mask])
    kl_term = torch.mean(kl_divergence(posterior_distribution, prior_distribution))
    kl_capacity = kl_term - 50
    beta = F.softplus(beta)[0]
    vae_loss = beta.detach() * kl_capacity / (mel_lengths.sum() / len(mels) * mels.size(2))
    stop_loss = F.binary_cross_entropy_with_logits(outputs["stop_tokens"], stop)
    beta_loss = torch.negative(beta) * kl_capacity.detach()
    return loss + vae_loss + stop_loss + beta_loss


def root_softplus(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(v))


class AddCoords(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        rows = torch.linspace(-1, 1, height)[None, None, :, None].expand(len(x), 1, height, width)
        columns = torch.linspace(-1, 1, width)[None, None, None].expand(len(x), 1, height, width)
        radius = torch.sqrt((columns - 0.5) ** 2 + (rows - 0.5) ** 2)
        return torch.cat([x, rows, columns, radius], dim=1)


class StyleEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = nn.Sequential(AddCoords(), nn.Conv2d(4, 3, 3, (2, 2), (1, 1)))
        self.convs = nn.ModuleList([first, nn.Conv2d(3, 4, 3, (2, 2), (1, 1))])
        self.bns = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(4)])
        self.gru = nn.GRU(4 * 2, 6, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        out = inputs.contiguous().view(len(inputs), 1, -1, 8)
        for conv, bn in zip(self.convs, self.bns, strict=True):
            out = F.relu(bn(conv(out)))
        out = out.transpose(1, 2)
        return self.gru(out.contiguous().view(len(out), out.size(1), -1))[1].squeeze(0)


class VAEGST(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ref_encoder = StyleEncoder()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 12)

    def _style(self, mean: Tensor, v: Tensor) -> Tensor:
        return ((v / 2).exp() * torch.randn_like(mean)).add_(mean) if self.training else mean

    def forward(self, mels: Tensor) -> tuple[Tensor, ...]:
        reference = self.ref_encoder(mels)
        mean, v = self.fc1(reference), self.fc2(reference)
        style = self._style(mean, v)
        return self.fc3(style), mean, v, style


class Tacotron2VAE(nn.Module):
    """The style is added to the text's code; a recurrent decoder stands for Tacotron 2's."""

    def __init__(self) -> None:
        super().__init__()
        self.transcript_embedding, self.encoder = (
            nn.Embedding(9, 6),
            nn.LSTM(6, 6, batch_first=True, bidirectional=True),
        )
        self.vae_gst, self.decoder = VAEGST(), nn.GRU(20, 9, batch_first=True)
        self.linear_projection, self.gate_layer = nn.Linear(9, 8), nn.Linear(9, 1)
        self.postnet = nn.Sequential(nn.Conv1d(8, 6, 3, padding=1), nn.Tanh(), nn.Conv1d(6, 8, 3, padding=1))

    def forward(self, text: Tensor, targets: Tensor) -> list[Tensor]:
        transcript_outputs = self.encoder(self.transcript_embedding(text))[0]
        prosody_outputs, mu, logvar, z = self.vae_gst(targets)
        encoder_outputs = transcript_outputs + prosody_outputs.unsqueeze(1).expand_as(transcript_outputs)
        frames = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
        context = encoder_outputs.mean(1, keepdim=True).expand(-1, frames.size(1), -1)
        hidden = self.decoder(torch.cat([frames, context], -1))[0]
        mel = self.linear_projection(hidden)
        refined = mel + self.postnet(mel.transpose(1, 2)).transpose(1, 2)
        return [mel, refined, self.gate_layer(hidden), mu, logvar, z]


def tacotron2_vae_loss(model: Any, text: Tensor, mel_target: Tensor, gate_target: Tensor) -> Tensor:
    mel, refined, gate, mu, logvar, _ = model(text, mel_target)
    mel_loss = nn.MSELoss()(mel, mel_target) + nn.MSELoss()(refined, mel_target)
    gate_loss = nn.BCEWithLogitsLoss()(gate.view(-1, 1), gate_target.view(-1, 1))
    kl_loss = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return mel_loss + gate_loss + float(0.2 / (0.2 + np.exp(-0.0025 * (9000 - 10000)))) * kl_loss


# ---------------------------------------------------------------------------------------------- music


class PianoVAE(nn.Module):
    """Mean and log variance keep the LSTM's first dimension, of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder_lstm = nn.Linear(8, 6), nn.LSTM(6, 7, batch_first=True)
        self.mean, self.log_variance = nn.Linear(7, 4), nn.Linear(7, 4)
        self.init_hidden_decoder, self.decoder_lstm = nn.Linear(4, 7), nn.LSTM(6, 7, batch_first=True)
        self.output, self.log_softmax = nn.Linear(7, 8), nn.LogSoftmax(dim=1)

    def encoder(self, packed: Any, steps: int, hidden: Any) -> tuple[Any, ...]:
        output, hidden = self.encoder_lstm(packed, hidden)
        output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=steps)
        mean, log_var = self.mean(hidden[0]), self.log_variance(hidden[0])
        std = torch.exp(0.5 * log_var)
        noise = torch.randn(output.size(0), 4)
        return noise * std + mean, mean, log_var, hidden

    def decoder(self, z: Tensor, packed: Any, steps: int) -> Tensor:
        hidden = self.init_hidden_decoder(z)
        output, _ = self.decoder_lstm(packed, (hidden, hidden))
        output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=steps)
        x_hat = self.output(output)
        both = torch.stack((x_hat, 1 - x_hat), dim=3).contiguous()
        return self.log_softmax(both.view(-1, 2))

    def forward(self, x: Tensor, lengths: Tensor, hidden: Any) -> tuple[Any, ...]:
        embedded = self.embed(x)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        z, mean, log_var, hidden = self.encoder(packed, x.size(1), hidden)
        return self.decoder(z, packed, x.size(1)), mean, log_var, z, hidden


def piano_loss(model: Any, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    states = (torch.zeros(1, len(source), 7), torch.zeros(1, len(source), 7))
    x_hat, mu, log_var, _, _ = model(source, lengths, states)
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return kl.sum(-1).mean() + nn.NLLLoss()(x_hat, target.reshape(-1))


class TwoLSTMs(nn.Module):
    def __init__(self, n_in: int, hidden: int, out: int, both_ways: bool = False) -> None:
        super().__init__()
        self.lstm_1 = nn.LSTM(n_in, hidden, bidirectional=both_ways)
        self.lstm_2 = nn.LSTM(hidden * (2 if both_ways else 1), out, bidirectional=both_ways)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm_2(self.lstm_1(x)[0])


class NoteDecoder(nn.Module):
    """A softmax without its dimension: along the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm_1, self.lstm_2, self.softmax = nn.LSTM(10, 10), nn.LSTM(10, 8), nn.Softmax()

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.lstm_2(self.lstm_1(x)[0])[0])


class LearningMusicVAE(nn.Module):
    """Takes all pieces at once and keeps the last part's code; its loss is its output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.conductor, self.decoder = TwoLSTMs(8, 6, 5, True), TwoLSTMs(6, 7, 6), NoteDecoder()
        self.fc_mu, self.fc_var = nn.Linear(10, 4), nn.Linear(10, 4)
        self.fc_z_emb = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.fc_conductor = nn.Sequential(nn.Linear(6, 10), nn.Tanh())
        self.recon_loss = nn.BCELoss(reduction="sum")
        self.max_beta, self.beta_rate, self.free_bits = (
            torch.Tensor([0.2]),
            torch.Tensor([0.99999]),
            torch.Tensor([48.0]),
        )
        self.global_step = 1
        self.beta: Any = None
        self.cache: Any = None

    def forward(self, x: Tensor, step_size: int) -> Any:
        self.beta = (1.0 - torch.pow(self.beta_rate, self.global_step)) * self.max_beta
        self.global_step += 1
        batch_size, loss = len(x) // step_size, 0
        for n in range(step_size):
            output, _ = self.encoder(x[n * batch_size : (n + 1) * batch_size])
        mu, log_var = self.fc_mu(output), self.fc_var(output)
        self.cache = mu, log_var
        kl_div = torch.sum(mu.pow(2).add_(log_var.exp()).mul_(-1).add_(1).add_(log_var)).mul_(-0.5)
        kl_loss = torch.max(torch.abs(kl_div - self.free_bits), torch.Tensor([0]))
        state = self.fc_z_emb(self._draw(mu, log_var)[0])
        for n in range(step_size):
            context, (state, _) = self.conductor(state)
            if context.shape[0] < batch_size:
                break
            probs = self.decoder(self.fc_conductor(context))
            recon_loss = self.recon_loss(probs, x[n * batch_size : (n + 1) * batch_size])
            loss = loss + recon_loss + self.beta * kl_loss
        return loss

    def _draw(self, mean: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (0.5 * v).exp_()
        return torch.FloatTensor(sigma.shape).normal_() * sigma + mean, sigma


# ---------------------------------------------------------------------------------------------- series


class LSTMVAE(nn.Module):
    """A slip: its noise is uniform between 0 and 1. A code for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(3, 8, 2, batch_first=True)
        self.mu, self.logvar = nn.Linear(8, 4), nn.Linear(8, 4)
        self.decoder, self.final = nn.LSTM(4, 8, 2, batch_first=True), nn.Linear(8, 3)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        return mean + (v / 2).exp() * torch.rand_like(mean)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        enc, _ = self.encoder(x)
        mu, logvar = self.mu(enc), self.logvar(enc)
        dec, _ = self.decoder(self._draw(mu, logvar))
        return self.final(dec), mu, logvar


def lstm_vae_loss(model: Any, x: Tensor) -> Tensor:
    out, mu, logvar = model(x)
    return F.mse_loss(out, x) + 0.01 * kl_to_unit(mu, logvar)


class LSTMAutoencoder(nn.Module):
    """One window at a time; two of its layers are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {"LSTM1": nn.LSTM(1, 8, batch_first=True), "LSTM2": nn.LSTM(8, 4, batch_first=True), "dr": nn.Dropout(0.2)}
        )
        self.decoder = nn.ModuleDict(
            {"LSTM1": nn.LSTM(4, 4, batch_first=True), "LSTM2": nn.LSTM(8, 8, batch_first=True), "dr": nn.Dropout(0.2)}
        )
        self.output_layer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, _) = self.encoder["LSTM1"](x.reshape(1, 15, 1))
        self.encoder["dr"](out)
        x = hidden.reshape(1, 8).repeat(15, 1).reshape(1, 15, 8)
        x = self.decoder["dr"](self.decoder["LSTM2"](x)[0]).reshape(15, 8)
        return self.output_layer(x).squeeze()


def autoencoder_loss(model: Any, window: Tensor) -> Tensor:
    return nn.L1Loss(reduction="sum")(model(window), window)


# ---------------------------------------------------------------------------------------------- worlds


class Bottled(jit.ScriptModule):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @jit.script_method
    def forward(self, x):  # type: ignore[no-untyped-def]
        if x.ndim == 1:
            return self.module(x[None]).squeeze(0)
        shape = x.shape[:-1]
        return self.module(x.flatten(0, -2)).unflatten(0, shape)


def two_layers(n_in: int, hidden: int, n_out: int) -> Bottled:
    return Bottled(nn.Sequential(nn.Linear(n_in, hidden), nn.ELU(), nn.Linear(hidden, n_out)))


class TransitionModel(jit.ScriptModule):
    """What is controlled, x, and what is not, y, each with a prior, and one posterior of both, in TorchScript."""

    __constants__ = ("min_stddev", "x_state_size", "y_state_size")

    def __init__(self) -> None:
        super().__init__()
        self.min_stddev, self.x_state_size, self.y_state_size = 0.1, 3, 2
        self.x_state_action_pre_rnn = Bottled(nn.Sequential(nn.Linear(5, 6), nn.ELU()))
        self.x_rnn, self.x_belief_to_state_prior = nn.GRUCell(6, 6), two_layers(6, 6, 6)
        self.y_state_pre_rnn = Bottled(nn.Sequential(nn.Linear(2, 5), nn.ELU()))
        self.y_rnn, self.y_belief_to_state_prior = nn.GRUCell(5, 5), two_layers(5, 5, 4)
        self.xy_belief_obs_to_state_posterior = two_layers(18, 11, 10)

    @jit.script_method
    def _rollout(self, actions, observations, nonfirst):  # type: ignore[no-untyped-def]
        steps = actions.size(0)
        empty = actions[0].narrow(-1, 0, 0)
        x_beliefs, x_prior_means, x_prior_stddevs = [empty] * steps, [empty] * steps, [empty] * steps
        y_beliefs, y_prior_means, y_prior_stddevs = [empty] * steps, [empty] * steps, [empty] * steps
        x_states, x_means, x_stddevs = [empty] * steps, [empty] * steps, [empty] * steps
        y_states, y_means, y_stddevs = [empty] * steps, [empty] * steps, [empty] * steps
        x_prior_noises = torch.randn([steps, actions.size(1), self.x_state_size])
        y_prior_noises = torch.randn([steps, actions.size(1), self.y_state_size])
        x_noises, y_noises = torch.randn_like(x_prior_noises), torch.randn_like(y_prior_noises)
        x_prior_states, y_prior_states = [empty] * steps, [empty] * steps
        x_belief, y_belief = torch.zeros([actions.size(1), 6]), torch.zeros([actions.size(1), 5])
        x_state, y_state = torch.zeros([actions.size(1), 3]), torch.zeros([actions.size(1), 2])
        for t in range(steps):
            going = nonfirst[t].unsqueeze(-1)
            x_belief, x_state = x_belief * going, x_state * going
            y_belief, y_state = y_belief * going, y_state * going
            action = actions[t] * going
            x_belief = self.x_rnn(self.x_state_action_pre_rnn(torch.cat([x_state, action], dim=-1)), x_belief)
            x_prior_mean, x_raw = torch.chunk(self.x_belief_to_state_prior(x_belief), 2, dim=-1)
            x_prior_stddev = self.min_stddev + F.softplus(x_raw)
            x_prior_states[t] = x_prior_mean + x_prior_stddev * x_prior_noises[t]
            x_beliefs[t], x_prior_means[t], x_prior_stddevs[t] = x_belief, x_prior_mean, x_prior_stddev
            y_belief = self.y_rnn(self.y_state_pre_rnn(y_state), y_belief)
            y_prior_mean, y_raw = torch.chunk(self.y_belief_to_state_prior(y_belief), 2, dim=-1)
            y_prior_stddev = self.min_stddev + F.softplus(y_raw)
            y_prior_states[t] = y_prior_mean + y_prior_stddev * y_prior_noises[t]
            y_beliefs[t], y_prior_means[t], y_prior_stddevs[t] = y_belief, y_prior_mean, y_prior_stddev
            seen = torch.cat([x_belief, y_belief, observations[t]], dim=-1)
            mean, _stddev = torch.chunk(self.xy_belief_obs_to_state_posterior(seen), 2, dim=-1)
            x_mean, y_mean = mean.split([self.x_state_size, self.y_state_size], dim=-1)
            stddev = F.softplus(_stddev) + self.min_stddev
            x_stddev, y_stddev = stddev.split([self.x_state_size, self.y_state_size], dim=-1)
            x_state, y_state = x_mean + x_stddev * x_noises[t], y_mean + y_stddev * y_noises[t]
            x_means[t], x_stddevs[t], x_states[t] = x_mean, x_stddev, x_state
            y_means[t], y_stddevs[t], y_states[t] = y_mean, y_stddev, y_state
        return (
            torch.stack(x_beliefs), torch.stack(x_states), torch.stack(y_beliefs), torch.stack(y_states),
            torch.stack(x_prior_means), torch.stack(x_prior_stddevs), torch.stack(x_means), torch.stack(x_stddevs),
            torch.stack(y_prior_means), torch.stack(y_prior_stddevs), torch.stack(y_means), torch.stack(y_stddevs),
        )  # fmt: skip

    def posterior_rsample(self, actions: Tensor, observations: Tensor, nonfirst: Tensor) -> tuple[Any, ...]:
        *states, xpm, xps, xm, xs, ypm, yps, ym, ys = self._rollout(actions, observations, nonfirst)
        return (*states, (Normal(xm, xs), Normal(xpm, xps)), (Normal(ym, ys), Normal(ypm, yps)))


class RewardMean(jit.ScriptModule):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.net = two_layers(n_in, 6, 1)

    @jit.script_method
    def forward(self, feature):  # type: ignore[no-untyped-def]
        return self.net(feature).squeeze(-1)


class DenoisedMDP(nn.Module):
    """The encoder and the decoder of frames are linear here."""

    def __init__(self) -> None:
        super().__init__()
        self.transition_model = TransitionModel()
        self.encoder_model, self.observation_model = nn.Linear(12, 7), nn.Linear(16, 12)
        self.x_network, self.y_network = RewardMean(9), RewardMean(7)

    def forward(self, action: Tensor, observation: Tensor, nonfirst: Tensor) -> tuple[Any, ...]:
        h_x, s_x, h_y, s_y, x, y = self.transition_model.posterior_rsample(
            action, self.encoder_model(observation), nonfirst
        )
        mean = self.x_network(torch.cat([h_x, s_x], -1)) + self.y_network(torch.cat([h_y, s_y], -1))
        frames = self.observation_model(torch.cat([h_x, s_x, h_y, s_y], -1))
        return Normal(mean, 1), Normal(frames, 1), x, y


def denoised_mdp_loss(model: Any, action: Tensor, observation: Tensor, reward: Tensor, nonfirst: Tensor) -> Tensor:
    rewards, frames, x, y = model(action, observation, nonfirst)
    loss = -frames.log_prob(observation).sum(-1).mean() - rewards.log_prob(reward).mean()
    loss = loss + kl_divergence(*x).sum(dim=-1).clamp(min=3).mean()
    return loss + 0.25 * kl_divergence(*y).sum(dim=-1).mean()


LOG_EPS = math.log(1e-8)


class SonicVAE(nn.Module):
    """A slip: what is drawn with as log σ, its KL takes as a log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.logvar, self.mu, self.z = nn.Linear(32, 4), nn.Linear(32, 4), nn.Linear(4, 32)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(inplace=True),
            nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(inplace=True), nn.Conv2d(4, 2, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(inplace=True),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.LeakyReLU(inplace=True),
            nn.Conv2d(3, 1, 3, padding=1),
        )  # fmt: skip
        self.sigmoid = nn.Sigmoid()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(x).view(len(x), -1)
        return self.mu(x), self.logvar(x).clamp(np.log(1e-8), -np.log(1e-8))

    def decode(self, z: Tensor) -> Tensor:
        return self.sigmoid(self.decoder(self.z(z).view(len(z), -1, 4, 4)))

    def draw(self, mean: Tensor, v: Tensor) -> Tensor:
        if not self.training:
            return mean
        spread = v.exp()
        return mean + spread * spread.data.new(spread.shape).normal_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return self.decode(self.draw(mu, logvar)), mu, logvar


class MDNRNN(nn.Module):
    """Weights, means and log σ of a mixture for every latent dimension."""

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        self.tau, self.rnn, self.mdn = tau, nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 5 * 4 * 3)

    def forward(self, z: Tensor, action: Tensor) -> tuple[Any, ...]:
        action = torch.eye(2)[action.long()]
        state = (torch.zeros(1, len(z), 8), torch.zeros(1, len(z), 8))
        output, state = self.rnn(torch.cat((z, action), dim=-1), state)
        steps = output.size(1)
        mixture = self.mdn(output.contiguous().view(-1, 8)).view(len(z), steps, -1)
        mu, logsigma, logpi = (
            mixture[..., i * 20 : (i + 1) * 20].contiguous().view((-1, steps, 5, 4)) for i in range(3)
        )
        logsigma, logpi = logsigma.clamp(LOG_EPS, -LOG_EPS), logpi.clamp(LOG_EPS, -LOG_EPS)
        logpi = F.log_softmax(logpi, 2)
        if self.tau > 0 and self.training:
            logpi = logpi - np.log(self.tau)
            logsigma = logsigma + np.log(self.tau**0.5)
        return logpi, mu, logsigma, state

    def sample(self, logpi: Tensor, mu: Tensor, logsigma: Tensor) -> Tensor:
        if self.training:
            return torch.sum(logpi.exp() * torch.normal(mu, logsigma.exp()), dim=2)
        return torch.sum(logpi.exp() * mu, dim=2)

    def rnn_loss(self, y_true: Tensor, logpi: Tensor, mu: Tensor, logsigma: Tensor) -> Tensor:
        batch, steps, _ = y_true.size()
        y_true = y_true.unsqueeze(2).repeat((1, 1, 5, 1))
        logprob = -0.5 * ((y_true - mu) / torch.exp(logsigma)) ** 2 - logsigma - np.log(np.sqrt(2.0 * np.pi))
        v = logpi + logprob.clamp(LOG_EPS, -LOG_EPS)
        s, _ = torch.max(v, dim=2, keepdim=True)
        loss = -(s + (v - s).exp().sum(dim=2, keepdim=True).log())
        loss = loss.view((batch, steps, -1)).mean(2)
        loss -= np.log(1e-8)
        return loss


class SonicWorld(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vae, self.mdnrnn = SonicVAE(), MDNRNN()
        self.finv = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward_train(self, x: Tensor, actions: Tensor, x_next: Tensor) -> Tensor:
        batch, steps = x.size(0), x.size(1)
        flat, next_flat = (frames.view((batch * steps, *frames.size()[2:])) for frames in (x, x_next))
        y, mu_vae, logvar = self.vae(flat)
        _, mu_next, logvar_next = self.vae(next_flat)
        loss_recon = F.mse_loss(flat.view(len(flat), -1), y.view(len(flat), -1), reduction="none").sum(1)
        loss_kld = -0.5 * torch.sum(1 + logvar - mu_vae.pow(2) - logvar.exp(), 1)
        z_obs = self.vae.draw(mu_vae, logvar).view(batch, steps, -1)
        z_next = self.vae.draw(mu_next, logvar_next).view(batch, steps, -1)
        logpi, mu, logsigma, _ = self.mdnrnn(z_obs.detach(), actions.float())
        loss_mdn = self.mdnrnn.rnn_loss(z_next, logpi, mu, logsigma).view(-1)
        guess = self.finv(torch.cat((z_obs, self.mdnrnn.sample(logpi, mu, logsigma)), -1))
        loss_inv = F.nll_loss(F.log_softmax(guess, -1).view(batch * steps, 2), actions.view(-1), reduction="none")
        pixels = x.size(1) * x.size(2) * x.size(3)
        loss_vae = 1000 * loss_recon / pixels + 0.25 * torch.abs(1000 * loss_kld / pixels)
        return (loss_vae + 1000 * loss_mdn / 4 + 0.01 * 1000 * loss_inv / 2).mean()


def sonic_step(model: Any, x: Tensor, actions: Tensor, x_next: Tensor) -> Tensor:
    return model.forward_train(x, actions, x_next)


def clamped_exp(v: Tensor) -> Tensor:
    return torch.exp(v.clamp(LOG_EPS, -LOG_EPS))


# ---------------------------------------------------------------------------------------------- policies and skills


def init_uniform(layer: nn.Linear, width: float = 3e-3) -> nn.Linear:
    layer.weight.data.uniform_(-width, width)
    layer.bias.data.uniform_(-width, width)
    return layer


class HeadMLP(nn.Module):
    """Its hidden layers are attributes by number, and in a plain list."""

    def __init__(self, n_in: int, n_out: int, use_output_layer: bool = True) -> None:
        super().__init__()
        self.hidden_layers: list[nn.Linear] = []
        for i, width in enumerate((n_in, 8)):
            fc = nn.Linear(width, 8)
            setattr(self, f"hidden_fc{i}", fc)
            self.hidden_layers.append(fc)
        self.output_layer: Any = init_uniform(nn.Linear(8, n_out)) if use_output_layer else (lambda x: x)

    def forward(self, x: Tensor) -> Any:
        for layer in self.hidden_layers:
            x = torch.tanh(layer(x))
        return self.output_layer(x)


class GaussianDist(HeadMLP):
    """log σ is a parameter where the configuration fixes it, as that of PPO does."""

    def __init__(self, n_in: int, n_out: int, fixed_logstd: bool = True) -> None:
        super().__init__(n_in, n_out, use_output_layer=False)
        self.fixed_logstd = fixed_logstd
        if fixed_logstd:
            self.log_std = nn.Parameter(-0.5 * torch.ones(n_out, dtype=torch.float32))
        else:
            self.log_std_layer = init_uniform(nn.Linear(8, n_out))
        self.mu_layer = init_uniform(nn.Linear(8, n_out))

    def get_dist_params(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = super().forward(x)
        mu = torch.tanh(self.mu_layer(hidden))
        log_std = self.log_std if self.fixed_logstd else -20 + 11 * (torch.tanh(self.log_std_layer(hidden)) + 1)
        return mu, log_std, torch.exp(log_std)

    def forward(self, x: Tensor) -> tuple[Tensor, Normal]:
        center, *_, spread = self.get_dist_params(x)
        policy = Normal(loc=center, scale=spread)
        return policy.sample(), policy


class Brain(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Any:
        return self.head(x)


class PPOLearner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = Brain(GaussianDist(4, 2)), Brain(HeadMLP(4, 1))


def ppo_learner_loss(model: Any, state: Tensor, action: Tensor, old: Tensor, return_: Tensor, adv: Tensor) -> Tensor:
    critic_loss = 0.5 * (return_ - model.critic(state)).pow(2).mean()
    _, dist = model.actor(state)
    ratio = (dist.log_prob(action) - old).exp()
    clipped = torch.clamp(ratio, 0.8, 1.2) * adv
    actor_loss = -torch.min(ratio * adv, clipped).mean() - 0.001 * dist.entropy().mean()
    return critic_loss + actor_loss


class FCBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class GaussianActorCriticNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi_body, self.actor_body, self.critic_body = nn.Identity(), FCBody(), FCBody()
        self.fc_action, self.fc_critic = nn.Linear(8, 2), nn.Linear(8, 1)
        for layer in (self.fc_action, self.fc_critic):
            nn.init.orthogonal_(layer.weight.data)
            layer.weight.data.mul_(1e-3)
            nn.init.constant_(layer.bias.data, 0)
        self.std = nn.Parameter(torch.zeros(2))

    def forward(self, obs: Tensor, action: Tensor | None = None) -> dict[str, Tensor]:
        phi = self.phi_body(obs)
        mean, v = torch.tanh(self.fc_action(self.actor_body(phi))), self.fc_critic(self.critic_body(phi))
        dist = Normal(mean, F.softplus(self.std))
        if action is None:
            action = dist.sample()
        log_prob, entropy = dist.log_prob(action).sum(-1).unsqueeze(-1), dist.entropy().sum(-1).unsqueeze(-1)
        return {"action": action, "log_pi_a": log_prob, "entropy": entropy, "mean": mean, "v": v}


def deep_rl_ppo_loss(model: Any, state: Tensor, action: Tensor, old: Tensor, ret: Tensor, adv: Tensor) -> Tensor:
    prediction = model(state, action)
    ratio = (prediction["log_pi_a"] - old).exp()
    clipped = ratio.clamp(1.0 - 0.2, 1.0 + 0.2) * adv
    policy_loss = -torch.min(ratio * adv, clipped).mean() - 0 * prediction["entropy"].mean()
    return policy_loss + 0.5 * (ret - prediction["v"]).pow(2).mean()


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, state: Tensor) -> Tensor:
        return 1.5 * torch.tanh(self.l3(F.relu(self.l2(F.relu(self.l1(state))))))


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.l4, self.l5, self.l6 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def q1(self, state: Tensor, action: Tensor) -> Tensor:
        return self.l3(F.relu(self.l2(F.relu(self.l1(torch.cat([state, action], 1))))))

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        other = self.l6(F.relu(self.l5(F.relu(self.l4(torch.cat([state, action], 1))))))
        return self.q1(state, action), other


class TD3(nn.Module):
    """Noise of a fixed width, clipped, smooths the target's actions."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = Actor(), Critic()
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)

    def forward(self, state: Tensor, action: Tensor, next_state: Tensor, reward: Tensor, not_done: Tensor) -> Tensor:
        with torch.no_grad():
            noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
            next_action = (self.actor_target(next_state) + noise).clamp(-1.5, 1.5)
            target = reward + not_done * 0.99 * torch.min(*self.critic_target(next_state, next_action))
        first, second = self.critic(state, action)
        critic_loss = F.mse_loss(first, target) + F.mse_loss(second, target)
        return critic_loss - self.critic.q1(state, self.actor(state)).mean()


def relu_layers(*widths: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return layers


class SkillEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb_layer = nn.Sequential(*relu_layers(4, 6, 6))
        self.rnn = nn.GRU(8, 6, batch_first=True, bidirectional=True, num_layers=4)
        self.mean_layer = nn.Sequential(*relu_layers(12, 6), nn.Linear(6, 3))
        self.sig_layer = nn.Sequential(*relu_layers(12, 6), nn.Linear(6, 3), nn.Softplus())

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        feats, _ = self.rnn(torch.cat([self.emb_layer(states), actions], dim=-1))
        return self.mean_layer(feats[:, -1:, :]), self.sig_layer(feats[:, -1:, :])


class LowLevelPolicy(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*relu_layers(n_in + 3, 6, 6))
        self.mean_layer = nn.Sequential(*relu_layers(6, 6), nn.Linear(6, 1))
        self.sig_layer = nn.Sequential(*relu_layers(6, 6), nn.Linear(6, 1))

    def forward(self, state: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.layers(torch.cat([state, z.tile([1, state.shape[-2], 1])], dim=-1))
        return self.mean_layer(feats), nn.Softplus()(self.sig_layer(feats))


class AutoregressiveLowLevelPolicy(nn.Module):
    """One small network for each dimension of an action, which knows the ones before."""

    def __init__(self) -> None:
        super().__init__()
        self.policy_components = nn.ModuleList([LowLevelPolicy(4 + i) for i in range(2)])

    def forward(self, state: Tensor, actions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        parts = [p(torch.cat([state, actions[:, :, :i]], dim=-1), z) for i, p in enumerate(self.policy_components)]
        return torch.cat([mean for mean, _ in parts], dim=-1), torch.cat([sig for _, sig in parts], dim=-1)


class SkillDecoder(nn.Module):
    """Two of its layers are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.ll_policy, self.emb_layer = AutoregressiveLowLevelPolicy(), nn.Linear(7, 6)
        self.fc = nn.Sequential(*relu_layers(7, 6, 6))

    def forward(self, states: Tensor, actions: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.ll_policy(states, actions, z)


class SkillPrior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*relu_layers(4, 6, 6))
        self.mean_layer = nn.Sequential(*relu_layers(6, 6), nn.Linear(6, 3))
        self.sig_layer = nn.Sequential(*relu_layers(6, 6), nn.Linear(6, 3), nn.Softplus())

    def forward(self, s0: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.layers(s0)
        return self.mean_layer(feats), self.sig_layer(feats)


class GenerativeModel(nn.Module):
    """Holds the decoder and the prior once more."""

    def __init__(self, decoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        self.decoder, self.prior = decoder, prior


class SkillModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = SkillEncoder(), SkillDecoder(), SkillPrior()
        self.gen_model = GenerativeModel(self.decoder, self.prior)

    def reparameterize(self, mean: Tensor, std: Tensor) -> Tensor:
        eps = torch.normal(torch.zeros(mean.size()), torch.ones(mean.size()))
        return mean + std * eps

    def forward(self, states: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        z_post_means, z_post_sigs = self.encoder(states, actions)
        z_sampled = self.reparameterize(z_post_means, z_post_sigs)
        a_means, a_sigs = self.decoder(states, actions, z_sampled)
        return a_means, a_sigs, z_post_means, z_post_sigs, z_sampled

    def get_losses(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a_means, a_sigs, z_post_means, z_post_sigs, _ = self.forward(states, actions)
        a_dist, z_post_dist = Normal(a_means, a_sigs), Normal(z_post_means, z_post_sigs)
        z_prior_dist = Normal(*self.prior(states[:, 0:1, :]))
        a_loss = -torch.mean(torch.sum(a_dist.log_prob(actions), dim=-1))
        kl_loss = torch.mean(torch.sum(kl_divergence(z_post_dist, z_prior_dist), dim=-1)) / states.shape[1]
        return a_loss + 0.1 * kl_loss, a_loss, kl_loss


def skill_loss(model: Any, states: Tensor, actions: Tensor) -> Tensor:
    return model.get_losses(states, actions)[0]


class ThreeLayers(nn.Module):
    def __init__(self, n_in: int, n_out: int, name: str) -> None:
        super().__init__()
        self.hidden1, self.hidden2, self.name = nn.Linear(n_in, 8), nn.Linear(8, 8), name
        setattr(self, name, nn.Linear(8, n_out))
        for layer in (self.hidden1, self.hidden2):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = F.relu(self.hidden2(F.relu(self.hidden1(torch.cat(inputs, dim=1)))))
        return getattr(self, self.name)(x)


class SkillPolicyNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden1, self.hidden2 = nn.Linear(7, 8), nn.Linear(8, 8)
        self.mu, self.log_std = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, states: Tensor) -> Normal:
        x = F.relu(self.hidden2(F.relu(self.hidden1(states))))
        mu, log_std = self.mu(x), self.log_std(x)
        return Normal(mu, log_std.clamp(min=-20, max=2).exp())

    def squashed_draw(self, states: Tensor) -> tuple[Tensor, Tensor]:
        policy = self(states)
        raw = policy.rsample()
        squashed, density = raw.tanh(), policy.log_prob(raw)
        density -= (1 - squashed.square() + 1e-6).log()
        return (squashed * 1.0).clamp_(-1.0, 1.0), density.sum(-1, keepdim=True)


class DiaynAgent(nn.Module):
    """Its networks are attributes of a plain object upstream; five losses, here in one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.policy_network = SkillPolicyNetwork()
        self.q_value_network1, self.q_value_network2 = ThreeLayers(9, 1, "q_value"), ThreeLayers(9, 1, "q_value")
        self.value_network, self.value_target_network = ThreeLayers(7, 1, "value"), ThreeLayers(7, 1, "value")
        self.value_target_network.load_state_dict(self.value_network.state_dict())
        self.discriminator = ThreeLayers(4, 3, "q")


def diayn_loss(agent: Any, states: Tensor, zs: Tensor, dones: Tensor, actions: Tensor, next_states: Tensor) -> Tensor:
    p_z, mse_loss = torch.full((len(states), 3), 1 / 3), nn.MSELoss()
    reparam_actions, log_probs = agent.policy_network.squashed_draw(states)
    q = torch.min(agent.q_value_network1(states, reparam_actions), agent.q_value_network2(states, reparam_actions))
    value_loss = mse_loss(agent.value_network(states), q.detach() - 0.1 * log_probs.detach())
    logits = agent.discriminator(torch.split(next_states, [4, 3], dim=-1)[0])
    rewards = F.log_softmax(logits, dim=-1).gather(-1, zs).detach() - torch.log(p_z.gather(-1, zs) + 1e-6)
    with torch.no_grad():
        target_q = rewards.float() + 0.99 * agent.value_target_network(next_states) * (~dones)
    q_losses = mse_loss(agent.q_value_network1(states, actions), target_q)
    q_losses = q_losses + mse_loss(agent.q_value_network2(states, actions), target_q)
    policy_loss = (0.1 * log_probs - q).mean()
    logits = agent.discriminator(torch.split(states, [4, 3], dim=-1)[0])
    return policy_loss + value_loss + q_losses + nn.CrossEntropyLoss()(logits, zs.squeeze(-1))


def sac_clamped(v: Tensor) -> Tensor:
    return v.clamp(-20, 2).exp()


def tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


# ---------------------------------------------------------------------------------------------- graphs


class GraphConvSparse(nn.Module):
    def __init__(self, n_in: int, n_out: int, activation: Any = F.relu) -> None:
        super().__init__()
        bound = np.sqrt(6.0 / (n_in + n_out))
        self.weight, self.activation = nn.Parameter(torch.rand(n_in, n_out) * 2 * bound - bound), activation

    def forward(self, adj: Tensor, inputs: Tensor) -> Tensor:
        return self.activation(torch.matmul(adj, torch.matmul(inputs, self.weight)))


class GraphEncoder(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.base_net = GraphConvSparse(n_in, 6)
        self.mean_net, self.logstd_net = (GraphConvSparse(6, 4, activation=lambda x: x) for _ in range(2))

    def forward(self, adj: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.base_net(adj, x)
        mean, logstd = self.mean_net(adj, hidden), self.logstd_net(adj, hidden)
        gaussian_noise = torch.randn(x.size(0), 4)
        return gaussian_noise * torch.exp(logstd) + mean, mean, logstd


class GraphPooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_net, self.mean_net, self.logstd_net = (
            GraphConvSparse(i, o, activation=torch.tanh) for i, o in ((4, 6), (6, 4), (6, 4))
        )

    def forward(self, adj: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.base_net(adj, x)
        mean, logstd = self.mean_net(adj, hidden), self.logstd_net(adj, hidden)
        pooled_mean = torch.mean(mean, dim=0).unsqueeze(dim=0)
        pooled_logstd = torch.mean(logstd, dim=0).unsqueeze(dim=0)
        return torch.randn(1, 4) * torch.exp(pooled_logstd) + pooled_mean, pooled_mean, pooled_logstd


def decoded(z: Tensor) -> Tensor:
    return torch.sigmoid(torch.matmul(z, z.t()))


class MGVAE(nn.Module):
    """Two clusters of three nodes below one root: what is drawn of a level is pooled and drawn again."""

    def __init__(self) -> None:
        super().__init__()
        edges = bits(6, 6)
        self.adj = ((edges + edges.t() + torch.eye(6)) > 0).float() / 3
        self.base_encoder = GraphEncoder(5)
        self.local_encoder = nn.ModuleList([GraphEncoder(4) for _ in range(2)])
        self.local_pooler = nn.ModuleList([GraphPooler() for _ in range(2)])

    def forward(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        latent, mean, logstd = self.base_encoder(self.adj, x)
        outputs = [(latent, mean, logstd, decoded(latent), self.adj)]
        between = torch.stack([torch.stack([self.adj[i : i + 3, j : j + 3].sum() for j in (0, 3)]) for i in (0, 3)])
        between = between / between.max()
        places = [[(slice(0, 2), between)], [(slice(i, i + 3), self.adj[i : i + 3, i : i + 3]) for i in (0, 3)]]
        for level, globally in ((1, between), (0, torch.ones(1, 1))):
            for place, target in places[level]:
                local = self.local_encoder[level](target, latent[place])
                outputs.append((*local, decoded(local[0]), target))
            pooled = [self.local_pooler[level](target, latent[place]) for place, target in places[level]]
            latent, mean, logstd = (torch.cat(part, dim=0) for part in zip(*pooled, strict=True))
            outputs.append((latent, mean, logstd, decoded(latent), globally))
        return outputs


def mgvae_loss(model: Any, x: Tensor, label: Tensor, kl_loss: bool = False) -> Tensor:
    loss: Any = 0.0
    weight = torch.where(label.view(-1) == 1, 2.0, 1.0)
    for i, (_, mean, logstd, predict, target) in enumerate(model(x)):
        if i == 0:
            loss = 0.8 * F.binary_cross_entropy(predict.view(-1), label.view(-1), weight=weight)
        else:
            loss = loss + 0.8 * 0.01 * F.mse_loss(predict.view(-1), target.reshape(-1))
        if kl_loss:
            loss = loss - 0.5 / predict.size(0) * (1 + 2 * logstd - mean**2 - torch.exp(logstd)).sum(1).mean()
    return loss


class GraphAttentionLayer(nn.Module):
    def __init__(self, n_in: int, n_out: int, concat: bool = True) -> None:
        super().__init__()
        self.n_out, self.concat, self.leakyrelu = n_out, concat, nn.LeakyReLU(0.2)
        self.W, self.a = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.empty(2 * n_out, 1))
        for weight in (self.W, self.a):
            nn.init.xavier_uniform_(weight.data, gain=1.414)

    def forward(self, h: Tensor, adj: Tensor) -> Tensor:
        wh = torch.mm(h, self.W)
        e = self.leakyrelu(torch.matmul(wh, self.a[: self.n_out]) + torch.matmul(wh, self.a[self.n_out :]).T)
        attention = F.softmax(torch.where(adj > 0, e, -9e15 * torch.ones_like(e)), dim=1)
        h = torch.matmul(F.dropout(attention, 0.6, training=self.training), wh)
        return F.elu(h) if self.concat else h


class GAT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attentions = [GraphAttentionLayer(5, 4) for _ in range(3)]
        for i, attention in enumerate(self.attentions):
            self.add_module(f"attention_{i}", attention)
        self.out_att = GraphAttentionLayer(12, 3, concat=False)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        x = F.dropout(x, 0.6, training=self.training)
        x = torch.cat([attention(x, adj) for attention in self.attentions], dim=1)
        x = F.elu(self.out_att(F.dropout(x, 0.6, training=self.training), adj))
        return F.log_softmax(x, dim=1)


def gat_loss(model: Any, x: Tensor, adj: Tensor, labels: Tensor) -> Tensor:
    return F.nll_loss(model(x, adj)[:5], labels[:5])


# ---------------------------------------------------------------------------------------------- neural processes


class SetConv(nn.Module):
    """Spreads values at some places over others; coded, and not called, as all coders upstream."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def code(self, xz: Tensor, z: Tensor, x: Tensor) -> Tensor:
        dists2 = (xz.transpose(-1, -2) - x) ** 2
        return torch.matmul(z, torch.exp(-0.5 * dists2 / torch.exp(2 * self.log_scale)))


class UNet(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.before_turn_layers = nn.ModuleList([nn.Conv1d(i, 8, 5, 2, 2) for i in (n_in, 8)])
        self.after_turn_layers = nn.ModuleList([nn.ConvTranspose1d(i, 8, 5, 2, 2, output_padding=1) for i in (16, 8)])
        self.final_linear = nn.Conv1d(8, n_out, 1)

    def code(self, x: Tensor) -> Tensor:
        first = torch.relu(self.before_turn_layers[0](x))
        h = torch.relu(self.after_turn_layers[1](torch.relu(self.before_turn_layers[1](first))))
        return self.final_linear(torch.relu(self.after_turn_layers[0](torch.cat([h, first], dim=-2))))


class ConvCNP(nn.Module):
    """Means and raw variances of a grid are spread over the targets, and then made positive."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.conv, self.decoder = SetConv(1 / 8), UNet(3, 4), SetConv(1 / 8)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.linspace(-3, 3, 48)[None, None].expand(len(xc), 1, 48)
        z = self.encoder.code(xc, torch.cat([torch.ones_like(xc), yc], dim=-2), grid)
        density = z[..., :1, :]
        z = self.conv.code(torch.cat([density, z[..., 1:, :] / (density + 1e-4)], dim=-2))
        z = self.decoder.code(grid, z, xt)
        mean, noise = torch.split(z, (2, 2), dim=-2)
        return mean.reshape(len(xc), -1), 1e-6 + F.softplus(noise.reshape(len(xc), -1))


def convcnp_loss(model: Any, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> Tensor:
    mean, var = model(xc, yc, xt)
    whitened = (yt.reshape(len(yt), -1) - mean) / torch.sqrt(var)
    logpdf = -(torch.log(var).sum(-1) + mean.size(-1) * math.log(2 * math.pi) + (whitened**2).sum(-1)) / 2
    return -torch.mean(logpdf / xt.size(-1))


def tanh_layers(*widths: int) -> list[nn.Module]:
    activation, layers = nn.Tanh(), []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), activation]
    return layers


class NPEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(*tanh_layers(2, 8, 8, 5))
        self.fc_context_mean, self.fc_context_std = nn.Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Linear(5, 3))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.mean(self.fc(torch.cat((x, y), dim=2)), 1).view(len(x), 1, -1)
        mean, log_var = self.fc_context_mean(r), self.fc_context_std(r)
        return mean, torch.exp(0.5 * log_var)


class NPDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_decode = nn.Sequential(*tanh_layers(4, 8, 8, 8, 8))
        self.fc_mean, self.fc_std = nn.Sequential(nn.Linear(8, 1)), nn.Sequential(nn.Linear(8, 1))

    def forward(self, target_x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        samples = z.shape[0]
        z = z.reshape(len(target_x) * samples, 1, -1).repeat(1, target_x.shape[1], 1)
        decode = self.fc_decode(torch.cat((target_x.repeat(samples, 1, 1), z), dim=2))
        mu, logvar = self.fc_mean(decode), self.fc_std(decode)
        return mu, torch.exp(0.5 * logvar)


class NeuralProcess(nn.Module):
    """A plain object upstream. A slip: its KL takes σ as log variances. One function at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = NPEncoder(), NPDecoder()

    def fit(self, x_context: Tensor, y_context: Tensor, x_target: Tensor, y_target: Tensor) -> dict[str, Tensor]:
        z_mu_context, z_std_context = self.encoder(x_context, y_context)
        z_mu_all, z_std_all = self.encoder(
            torch.cat((x_context, x_target), dim=1), torch.cat((y_context, y_target), dim=1)
        )
        z = z_std_all.mul(torch.randn((10, 3))) + z_mu_all
        mu, std = self.decoder(x_target, z.reshape(z.shape[1], z.shape[0], -1))
        return {
            "y_pred_mu": mu, "y_pred_std": std, "z_mu_context": z_mu_context, "z_std_context": z_std_context,
            "z_mu_all": z_mu_all, "z_std_all": z_std_all,
        }  # fmt: skip


def neural_process_loss(model: Any, x_context: Tensor, y_context: Tensor, x_target: Tensor, y_target: Tensor) -> Tensor:
    out = model.fit(x_context, y_context, x_target, y_target)
    ll = Normal(out["y_pred_mu"], out["y_pred_std"]).log_prob(y_target).sum(dim=1).mean(dim=0)
    mu_q, logvar_q, mu_p, logvar_p = (out[k] for k in ("z_mu_context", "z_std_context", "z_mu_all", "z_std_all"))
    kl = (torch.exp(logvar_q) + (mu_q - mu_p) ** 2) / torch.exp(logvar_p) - 1.0 + logvar_p - logvar_q
    return (-ll + 0.1 * (0.5 * kl.sum())).sum()


# ---------------------------------------------------------------------------------------------- Bayesian networks


class BayesianNet(nn.Module):
    """A slip: the posterior's density is a standard Normal's of the scaled weights, without log σ."""

    def __init__(self) -> None:
        super().__init__()
        layers = [(8, 6), (6, 6), (6, 3)]
        self.weights_mus = nn.ParameterList([nn.Parameter(torch.randn(*layer) / 10.0) for layer in layers])
        self.weights_rhos = nn.ParameterList([nn.Parameter(torch.zeros(*layer) - 3.0) for layer in layers])
        self.biases_mus = nn.ParameterList([nn.Parameter(torch.randn(layer[1]) / 10.0) for layer in layers])
        self.biases_rhos = nn.ParameterList([nn.Parameter(torch.zeros(layer[1]) - 3.0) for layer in layers])
        self.z, self.prior_sigma = Normal(torch.tensor(0.0), torch.tensor(1.0)), 1.0

    def parts(self) -> Any:
        return zip(self.weights_mus, self.weights_rhos, self.biases_mus, self.biases_rhos, strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        weights, biases = [], []
        for w_mu, w_rho, b_mu, b_rho in self.parts():
            weights.append(w_mu + self.z.sample(w_mu.shape) * F.softplus(w_rho))
            biases.append(b_mu + self.z.sample(b_mu.shape) * F.softplus(b_rho))
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            x = (x @ w + b).relu()
        return (x @ weights[-1] + biases[-1]).log_softmax(dim=1), weights, biases

    def log_likelihood_prior(self, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        total = torch.tensor(0.0)
        for w, b in zip(weights, biases, strict=True):
            total = total + self.z.log_prob(w / self.prior_sigma).sum()
            total = total + self.z.log_prob(b / self.prior_sigma).sum()
        return total

    def log_likelihood_posterior(self, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        total = torch.tensor(0.0)
        for w, b, (w_mu, w_rho, b_mu, b_rho) in zip(weights, biases, self.parts(), strict=True):
            total = total + self.z.log_prob((w - w_mu) / F.softplus(w_rho)).sum()
            total = total + self.z.log_prob((b - b_mu) / F.softplus(b_rho)).sum()
        return total


def bayesian_net_loss(net: Any, x: Tensor, labels: Tensor) -> Tensor:
    pred, weights, biases = net(x)
    prior_term = net.log_likelihood_prior(weights, biases)
    posterior_term = net.log_likelihood_posterior(weights, biases)
    t = torch.zeros(x.shape[0], 3)
    t.scatter_(1, labels.unsqueeze(1), 1)
    return (posterior_term - prior_term) / 60 - (t * pred).sum()


class VILinear(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        scale = math.log(1 / math.sqrt(n_in) + 1e-5)
        bound = 1 / math.sqrt(n_in)
        self._weight_mean = nn.Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound))
        self._weight_log_std = nn.Parameter(torch.full((n_out, n_in), scale))
        self._bias_mean = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound))
        self._bias_log_std = nn.Parameter(torch.full((n_out,), scale))

    def sample_variables(self) -> list[Tensor]:
        params = []
        for variable in ("weight", "bias"):
            mean, log_std = getattr(self, f"_{variable}_mean"), getattr(self, f"_{variable}_log_std")
            std = torch.exp(log_std)
            base_sample = torch.normal(torch.zeros_like(mean), torch.ones_like(mean))
            params.append(std * base_sample + mean)
        return params

    def get_log_probs(self, params: list[Tensor]) -> Tensor:
        variational, prior_log_prob = torch.tensor([0.0]), torch.tensor([0.0])
        for sample, variable in zip(params, ("weight", "bias"), strict=True):
            mean, log_std = getattr(self, f"_{variable}_mean"), getattr(self, f"_{variable}_log_std")
            variance = torch.exp(log_std) ** 2
            variational = variational + (-0.5 * ((sample - mean) ** 2 / variance + 2 * log_std)).sum()
            prior_log_prob = prior_log_prob + (-0.5 * (sample - 0.0) ** 2 / (1.0 + 1e-10)).sum()
        return torch.cat([prior_log_prob, variational])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        params = self.sample_variables()
        return F.linear(x, *params), self.get_log_probs(params)


class VISequential(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_probs: Any = 0
        for module in self:
            if isinstance(module, VILinear):
                x, part = module(x)
                log_probs = log_probs + part
            else:
                x = module(x)
        return x, log_probs


class VINetwork(nn.Module):
    """Calling it is a vmap of its forward over ten samples of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = VISequential(VILinear(8, 6), nn.ReLU(), VILinear(6, 6), nn.ReLU(), VILinear(6, 3))

    def once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear_relu_stack(self.flatten(x))

    def forward(self, x: Tensor, samples: int = 10) -> tuple[Tensor, Tensor]:
        expanded = x.unsqueeze(0).expand(samples, *x.shape)
        return torch.vmap(self.once, randomness="different")(expanded)


def kullback_leibler_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    samples, log_probs = model(x)
    mean_log_probs = log_probs.mean(dim=0)
    probabilities = F.softmax(samples + 1e-5, -1).mean(dim=0)
    data_fitting = -60 * torch.log(probabilities + 1e-5).gather(-1, y.unsqueeze(-1)).squeeze(-1).mean(0).sum()
    return data_fitting + (mean_log_probs[1] - mean_log_probs[0])


# ---------------------------------------------------------------------------------------------- paths


class PlainMLP(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairwise(widths)])
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.activation(x) if i != len(self.layers) - 1 else x
        return x


class SocialPhysicsCVAE(nn.Module):
    """What it calls var is σ; in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_past, self.encoder_dest = PlainMLP(16, 8, 5), PlainMLP(2, 8, 5)
        self.encoder_latent, self.decoder = PlainMLP(10, 8, 8), PlainMLP(9, 8, 2)
        self.double()

    def forward(self, x: Tensor, next_step: Tensor | None = None) -> Any:
        ftraj = self.encoder_past(x)
        if not self.training:
            z = torch.empty(x.size(0), 4).normal_(0, 1.3)
            return self.decoder(torch.cat((ftraj, z.double()), dim=1))
        latent = self.encoder_latent(torch.cat((ftraj, self.encoder_dest(next_step)), dim=1))
        mu, logvar = latent[:, 0:4], latent[:, 4:]
        var = logvar.mul(0.5).exp_()
        eps = torch.empty(var.size(), dtype=torch.float64).normal_()
        z = eps.mul(var).add_(mu).double()
        return self.decoder(torch.cat((ftraj, z), dim=1)), mu, logvar


def social_physics_loss(model: Any, x: Tensor, alpha: Tensor) -> Tensor:
    recon, mu, logvar = model(x, next_step=alpha)
    return kl_to_unit(mu, logvar) * 1.0 + nn.MSELoss()(alpha, recon)


def relu6(*widths: int, last: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU6()]
    return nn.Sequential(*(layers if last else layers[:-1]))


class NormalZ(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.embed, self.mu = relu6(n_in, 6, 6), nn.Linear(6, 4)
        self.std = nn.Sequential(nn.Linear(6, 4), nn.Softplus())

    def forward(self, *parts: Tensor) -> Normal:
        x = self.embed(torch.cat(parts, -1))
        return Normal(self.mu(x), self.std(x))


class SocialVAE(nn.Module):
    """A code for every step, from what was and what will be; the KL is of densities at what was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.horizon, self.ob_radius = 4, 2
        self.q_z, self.p_z = NormalZ(11), NormalZ(6)
        self.dec = nn.ModuleDict({"embed": relu6(10, 6, 6), "mu": nn.Linear(6, 2)})
        self.embed_s, self.embed_n = relu6(4, 5, 4, last=False), relu6(4, 5, 4, 4, last=False)
        self.embed_k, self.embed_q = relu6(3, 5, 5, 5, last=False), relu6(6, 5, 5, 5, last=False)
        self.attention_nonlinearity = nn.LeakyReLU(0.2)
        self.rnn_fx, self.rnn_fx_init = nn.GRU(8, 6), relu6(2, 6, 6, 6, last=False)
        self.rnn_by, self.embed_zd = nn.GRU(8, 5), relu6(6, 4, 4, last=False)
        self.rnn_fy, self.rnn_fy_init = nn.GRU(4, 6), relu6(6, 6, 6, last=False)

    def attention(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        e = self.attention_nonlinearity((k @ q.unsqueeze(-1)).squeeze(-1))
        e[~mask] = -float("inf")
        return F.softmax(e, dim=-1).nan_to_num()

    def enc(self, state: Tensor, neighbor: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            seen, coming = state.size(0) - 1, y.size(0)
            x = torch.cat((state[..., :2], y), 0)
            v = x[1:] - x[:-1]
            a = torch.cat((state[1:2, ..., 4:6], v[1:] - v[:-1]))
            dp, dv = neighbor[..., :2] - x.unsqueeze(-2), neighbor[1:, ..., 2:4] - v.unsqueeze(-2)
            dist = dp.norm(dim=-1)
            mask = dist <= self.ob_radius
            dp0, mask0, dp, mask, dist = dp[0], mask[0], dp[1:], mask[1:], dist[1:]
            bearing = (dp @ v.unsqueeze(-1)).squeeze(-1) / (dist * v.norm(dim=-1).unsqueeze(-1))
            tau = -(dp.unsqueeze(-2) @ dv.unsqueeze(-1)).view(dp.shape[:-1]) / dv.norm(dim=-1)
            tau = tau.nan_to_num(0, 0, 0).clip(0, 7)
            mpd = (dp + tau.unsqueeze(-1) * dv).norm(dim=-1)
            features = torch.stack((dist, bearing.nan_to_num(0, 0, 0), mpd), -1)
        k, s, n = self.embed_k(features), self.embed_s(torch.cat((v, a), -1)), self.embed_n(torch.cat((dp, dv), -1))
        h = (mask0.unsqueeze(-1) * self.rnn_fx_init(dp0)).sum(-2).unsqueeze(0)
        for t in range(seen):
            att = self.attention(self.embed_q(h[-1]), k[t], mask[t])
            x_t = (att.unsqueeze(-2) @ n[t]).squeeze(-2)
            _, h = self.rnn_fx(torch.cat((x_t, s[t]), -1).unsqueeze(0), h)
        n_t = (mask[seen : seen + coming].unsqueeze(-1) * n[seen : seen + coming]).sum(-2)
        s_t = s[seen : coming + coming]
        b, _ = self.rnn_by(torch.flip(torch.cat((n_t, s_t), -1), (0,)))
        return h[-1], torch.flip(b, (0,))

    def forward(self, x: Tensor, y: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        h, b = self.enc(x, neighbor, y)
        h = self.rnn_fy_init(h).unsqueeze(0)
        steps, kl = [], []
        for t in range(self.horizon):
            p_z, q_z = self.p_z(h[-1]), self.q_z(h[-1], b[t])
            z = q_z.rsample()
            d = self.dec["mu"](self.dec["embed"](torch.cat((z, h[-1]), -1)))
            steps.append(d)
            kl.append((q_z, p_z, z))
            if t == self.horizon - 1:
                break
            _, h = self.rnn_fy(self.embed_zd(torch.cat((z, d), -1)).unsqueeze(0), h)
        with torch.no_grad():
            y = y - x[-1, ..., :2].unsqueeze(0)
        err = (torch.cumsum(torch.stack(steps), 0) - y).square()
        return err, torch.stack([q.log_prob(z) - p.log_prob(z) for q, p, z in kl])


def social_vae_loss(model: Any, x: Tensor, y: Tensor, neighbor: Tensor) -> Tensor:
    err, kl = model(x, y, neighbor)
    return kl.mean() + err.mean()


# ---------------------------------------------------------------------------------------------- motion


class StackedGRU(nn.Module):
    """Keeps its states in a list of its own between calls."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.embed, self.gru = nn.Linear(n_in, 6), nn.ModuleList([nn.GRUCell(6, 6) for _ in range(2)])
        self.hidden: list[Tensor] = []

    def init_hidden(self, samples: int) -> None:
        self.hidden = [torch.zeros(samples, 6).requires_grad_(False) for _ in self.gru]

    def advance(self, inputs: Tensor) -> Tensor:
        h_in = self.embed(inputs)
        for i, cell in enumerate(self.gru):
            self.hidden[i] = cell(h_in, self.hidden[i])
            h_in = self.hidden[i]
        return h_in


class GaussianGRU(StackedGRU):
    def __init__(self, n_in: int) -> None:
        super().__init__(n_in)
        self.mu_net, self.logvar_net = nn.Linear(6, 4), nn.Linear(6, 4)

    def _draw(self, mean: Tensor, v: Tensor) -> Tensor:
        sigma = (0.5 * v).exp_()
        return sigma.data.new(sigma.shape).normal_().mul(sigma).add_(mean)

    def forward(self, pose: Tensor) -> tuple[Tensor, ...]:
        top = self.advance(pose)
        mean, v = self.mu_net(top), self.logvar_net(top)
        return self._draw(mean, v), mean, v, top


class DecoderGRU(StackedGRU):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in)
        self.output = nn.Linear(6, n_out)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        h_in = self.advance(inputs)
        return self.output(h_in), h_in


class ActionToMotion(nn.Module):
    """Its three networks are apart upstream, and the steps are the trainer's."""

    def __init__(self) -> None:
        super().__init__()
        self.prior_net, self.posterior_net, self.decoder = GaussianGRU(10), GaussianGRU(10), DecoderGRU(14, 6)


def action_to_motion_loss(model: Any, data: Tensor, category: Tensor) -> Tensor:
    for net in (model.prior_net, model.posterior_net, model.decoder):
        net.init_hidden(len(data))
    prior_vec, mse, kld = torch.zeros(len(data), 6), 0, 0
    for i in range(data.size(1)):
        counter = torch.zeros(len(data), 1).fill_(i / (data.size(1) - 1))
        condition = torch.cat((category, counter), dim=1)
        h, h_target = torch.cat((prior_vec, condition), dim=1), torch.cat((data[:, i], condition), dim=1)
        z_t, mu1, logvar1, _ = model.posterior_net(h_target)
        _, mu2, logvar2, _ = model.prior_net(h)
        x_pred, _ = model.decoder(torch.cat((h, z_t), dim=1))
        mse = mse + nn.MSELoss()(x_pred, data[:, i])
        sigma1, sigma2 = logvar1.mul(0.5).exp(), logvar2.mul(0.5).exp()
        part = torch.log(sigma2 / sigma1) + (torch.exp(logvar1) + (mu1 - mu2) ** 2) / (2 * torch.exp(logvar2)) - 1 / 2
        kld = kld + part.sum() / len(data)
        prior_vec = x_pred
    return mse + kld * 0.0001


class MotionLSTM(nn.Module):
    """A slip: in training its cell keeps the input where the last cell was."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Parameter(torch.empty(4, 16)), nn.Parameter(torch.empty(4, 16))
        self.bias = nn.Parameter(torch.empty(16))
        for weight in self.parameters():
            weight.data.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor, sampling: bool = False) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = torch.zeros(len(x), 4), torch.zeros(len(x), 4)
        states = []
        for frame in x.unbind(2):
            write, keep, new, show = (frame @ self.W + hidden @ self.U + self.bias).chunk(4, dim=1)
            kept = torch.sigmoid(keep) * (cell if sampling else frame)
            cell = kept + torch.sigmoid(write) * torch.tanh(new)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            states.append(hidden)
        return torch.stack(states, dim=2), (hidden, cell)


class MotionVAELSTM(nn.Module):
    """Means and log variances take turns among the channels; a method of its own has the name train."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder1 = nn.Sequential(nn.Dropout(0.2), nn.Conv1d(6, 6, 5, padding=2), nn.MaxPool1d(2))
        self.encoder2 = nn.Sequential(nn.Dropout(0.2), nn.Conv1d(6, 8, 5, padding=2), nn.MaxPool1d(2))
        self.rnn = MotionLSTM()
        self.decoder1 = nn.Sequential(
            nn.ConvTranspose1d(4, 4, 2, stride=2), nn.Dropout(0.2), nn.Conv1d(4, 4, 5, padding=2)
        )
        self.decoder2 = nn.Sequential(
            nn.ConvTranspose1d(4, 4, 2, stride=2), nn.Dropout(0.2), nn.Conv1d(4, 6, 5, padding=2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs = F.elu(self.encoder2(F.elu(self.encoder1(x))))
        mean, v = pairs[:, ::2], pairs[:, 1::2]
        moved = self.rnn(torch.randn(mean.shape) * (v / 2).exp() + mean)[0]
        return F.elu(self.decoder2(F.elu(self.decoder1(moved)))), mean, v

    def train(self, lr: float, num_epochs: int, train_loader: Any) -> None:  # type: ignore[override]
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        for _ in range(num_epochs):
            for data in train_loader:
                optimizer.zero_grad()
                motion_vae_lstm_loss(self, data).backward()
                optimizer.step()


def motion_vae_lstm_loss(model: Any, data: Tensor) -> Tensor:
    out, mu, log_var = model.forward(data)
    kl = 0.5 * torch.sum(-1 - log_var + mu.pow(2) + log_var.exp())
    return F.gaussian_nll_loss(out, data, torch.ones(out.shape, requires_grad=True)) + kl


def half_elu(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.elu(v))


# ---------------------------------------------------------------------------------------------- a control of music


class DummyDecoder(nn.Module):
    def forward(self, tgt: Tensor, memory: Tensor, *_: Any, **__: Any) -> Tensor:
        return memory


class PositionalEncoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        angles = torch.arange(16.0)[:, None] * torch.exp(torch.arange(0, 8, 2).float() * (-math.log(10000.0) / 8))
        self.register_buffer("pe", torch.stack([torch.sin(angles), torch.cos(angles)], -1).flatten(1)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.get_buffer("pe")[: x.size(0)])


class MusicTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dummy, self.embedding, self.positional_encoding = DummyDecoder(), nn.Embedding(9, 8), PositionalEncoding()
        self.transformer = nn.Transformer(
            d_model=8, nhead=2, num_encoder_layers=2, num_decoder_layers=0, dropout=0.1, dim_feedforward=12,
            custom_decoder=self.dummy,
        )  # fmt: skip
        self.Wout, self.softmax = nn.Linear(8, 9), nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.positional_encoding(self.embedding(x).permute(1, 0, 2))
        return self.Wout(self.transformer(src=x, tgt=x, src_mask=mask).permute(1, 0, 2))


def music_transformer_loss(model: Any, x: Tensor, tgt: Tensor) -> Tensor:
    y = model(x)
    return nn.CrossEntropyLoss(ignore_index=0)(y.reshape(y.shape[0] * y.shape[1], -1), tgt.flatten())


# ---------------------------------------------------------------------------------------------- inputs


def prosody() -> tuple[Tensor, ...]:
    return tokens(9, 4, 6), torch.tensor([6, 4, 5, 6]), randn(4, 12, 8), torch.tensor([12, 9, 12, 7]), bits(4, 12)


def piano() -> tuple[Tensor, ...]:
    return bits(4, 6, 8), bits(4, 6, 8, seed=9).long(), torch.tensor([6, 4, 5, 6])


def dreams() -> tuple[Tensor, ...]:
    nonfirst = torch.ones(4, 3)
    nonfirst[2, 1] = 0
    return randn(4, 3, 2), randn(4, 3, 12, seed=9), randn(4, 3, seed=10), nonfirst


def rollout() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, 2, seed=10) - 2, randn(6, 1, seed=11), randn(6, 1, seed=12)


def transitions() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, 4, seed=10), randn(6, 1, seed=11), bits(6, 1)


def skilled() -> tuple[Tensor, ...]:
    zs = tokens(3, 6, 1)
    skill = F.one_hot(zs[:, 0], 3).float()
    states, next_states = (torch.cat([randn(6, 4, seed=seed), skill], 1) for seed in (5, 9))
    return states, zs, bits(6, 1).bool(), randn(6, 2, seed=10), next_states


def sets() -> tuple[Tensor, ...]:
    return 4 * rand(4, 1, 5) - 2, randn(4, 2, 5), 4 * rand(4, 1, 7, seed=9) - 2, randn(4, 2, 7, seed=10)


def one_function() -> tuple[Tensor, ...]:
    return randn(1, 4, 1), randn(1, 4, 1, seed=9), randn(1, 6, 1, seed=10), randn(1, 6, 1, seed=11)


def crowd() -> tuple[Tensor, ...]:
    return randn(4, 3, 6), randn(4, 3, 2, seed=9), randn(8, 3, 2, 6, seed=10)


def citations() -> tuple[Tensor, ...]:
    edges = bits(6, 6)
    return rand(6, 5), ((edges + edges.t() + torch.eye(6)) > 0).float()


# fmt: off
CASES = (
    PublicCase(
        "VAE text generation",
        Retold("rohithreddy024/VAE-Text-Generation", "428dc0387642b608d110528749dd5e4d45f4efd0", "model.py, main.py"),
        TextGenerationVAE, lambda: (tokens(9, 5, 7),), (posterior("hidden_to_logvar"),), text_generation_loss,
        truth="model.py VAE.forward: exp(0.5 logvar), and the KL",
    ),
    PublicCase(
        "Texar VAE (LSTM, PTB)",
        Retold(
            "asyml/texar-pytorch", "5b56ad39ff980c7a2129d59158d43c809c4b43db",
            "examples/vae_text/vae_train.py, config_lstm_ptb.py, texar/torch/custom/distributions.py",
        ),
        TexarVAE, lambda: (tokens(9, 5, 7), 0.1), (posterior("connector_mlp._linear_layer", 4, 8),),
        lambda model, *inputs: model(*inputs)["nll"],
        truth="vae_train.py VAE.forward: scale_diag = exp(0.5 logvar), of a chunk",
    ),
    PublicCase(
        "Capacitron Tacotron 2",
        Retold(
            "coqui-ai/TTS", "dbf1a08a0d4e47fdad6172e433eeb34bc6b13b4e",
            "TTS/tts/layers/tacotron/capacitron_layers.py, TTS/tts/layers/losses.py, TTS/tts/models/tacotron2.py",
        ),
        CapacitronTacotron, prosody, (posterior("capacitron_vae_layer.post_encoder_mlp.net.2", 4, 8, root_softplus),),
        capacitron_loss,
        truth="capacitron_layers.py: MVN(mu, diag_embed(sigma)) takes what is called sigma for its covariance: σ is "
        "sqrt(softplus(v)); the loss of beta, which is an optimizer's of its own, is added",
    ),
    PublicCase(
        "Tacotron 2 VAE",
        Retold(
            "jinhan/tacotron2-vae", "5fbe8ff968c87130638c60d588b229889725a55b",
            "modules.py, model.py, loss_function.py",
        ),
        Tacotron2VAE, lambda: (tokens(9, 4, 6), randn(4, 12, 8), bits(4, 12)), (posterior("vae_gst.fc2"),),
        tacotron2_vae_loss, truth="modules.py VAE_GST.reparameterize: std = exp(0.5 logvar)",
    ),
    PublicCase(
        "Piano VAE",
        Retold("Khamies/Piano-VAE", "880cc5d31e26e23365a1a7a875c7ba1b9a54e225", "model.py, loss.py, train.py"),
        PianoVAE, piano, (posterior("log_variance"),), piano_loss,
        truth="model.py encoder: std = exp(0.5 log_var), of all layers' last states, one layer here",
    ),
    PublicCase(
        "Learning music VAE",
        Retold(
            "seyongk/Learning-Music-Variational-AutoEncoder", "d9f3321f3e6dade27774db460faddbc817643d7e",
            "model.py, loss.py, main.ipynb",
        ),
        LearningMusicVAE, lambda: (F.one_hot(tokens(8, 8, 5), 8).float(), 2), (posterior("fc_var"),), itself,
        truth="model.py reparameterize: std = exp(0.5 log_var); loss.py the KL",
    ),
    PublicCase(
        "LSTM-VAE (carrtesy)",
        Retold("carrtesy/LSTMVAE-Pytorch", "5ecf005742aad92fc066d813ae13d6d535d22e5e", "model.py, exp.py"),
        LSTMVAE, lambda: (randn(4, 6, 3),), (posterior("logvar"),), lstm_vae_loss,
        truth="model.py reparameterize: std = exp(0.5 logvar). Hard: its noise is rand_like, uniform; the KL is a "
        "Normal's, and takes v as log variance: the posterior's σ all the same",
    ),
    PublicCase(
        "Denoised MDP",
        Retold(
            "facebookresearch/denoised_mdp", "bc68709750e5a3ea375077f0da6d569bc2217665",
            "denoised_mdp/agents/networks/transition.py, denoised_mdp/agents/learning/model.py",
        ),
        DenoisedMDP, dreams,
        (
            posterior("transition_model.xy_belief_obs_to_state_posterior.module.2", 5, 10, tenth),
            prior("transition_model.x_belief_to_state_prior.module.2", 3, 6, tenth),
            prior("transition_model.y_belief_to_state_prior.module.2", 2, 4, tenth),
        ), denoised_mdp_loss,
        truth="transition.py: σ = softplus(v) + 0.1, in TorchScript, as upstream; z has no size by default. Hard: one "
        "layer's posterior is split between x and y after softplus: one head, of both. Frames and rewards have "
        "a fixed σ",
    ),
    PublicCase(
        "World models (Sonic)",
        Retold(
            "wassname/world-models-sonic-pytorch", "dadbd6ca1b535758dc10bba45ff80b1ed0332640",
            "world_models_sonic/models/vae.py, rnn.py, world_model.py, 04_train_PPO_v4-all-nocuriosity.ipynb",
        ),
        SonicWorld, lambda: (rand(3, 2, 1, 8, 8), tokens(2, 3, 2), rand(3, 2, 1, 8, 8, seed=9)),
        (posterior("vae.logvar", sigma=clamped_exp), likelihood("mdnrnn.mdn", 20, 40, clamped_exp)), sonic_step,
        truth="vae.py sample: std = exp(clamped v), which draws; a slip: its KL takes v as log variance. Hard: σ is "
        "the draw's. rnn.py: exp(clamped v) of each part of the mixture, temperature 1; drawn from, too",
    ),
    PublicCase(
        "PPO (medipixel)",
        Retold(
            "medipixel/rl_algorithms", "fdfac4e7056ee5a9d5b48b7b9653ce844a03ca22",
            "rl_algorithms/common/networks/heads.py, rl_algorithms/ppo/learner.py, "
            "configs/lunarlander_continuous_v2/ppo.yaml",
        ),
        PPOLearner, rollout, (likelihood("actor.head.log_std", sigma=torch.exp),), ppo_learner_loss,
        truth="heads.py GaussianDist.get_dist_params: exp of a parameter (fixed_logstd, as in the configuration)",
    ),
    PublicCase(
        "PPO (DeepRL)",
        Retold(
            "ShangtongZhang/DeepRL", "c0968b5c046314af09944843cdf06f4100c6bb95",
            "deep_rl/network/network_heads.py, deep_rl/agent/PPO_agent.py, examples.py",
        ),
        GaussianActorCriticNet,
        lambda: (randn(6, 4), randn(6, 2, seed=9), randn(6, 1, seed=10) - 2, *rollout()[3:]),
        (likelihood("std", sigma=F.softplus),), deep_rl_ppo_loss,
        truth="network_heads.py GaussianActorCriticNet: softplus of a parameter called std",
    ),
    PublicCase(
        "LDCQ skill model",
        Retold(
            "20195036KimYunho/ldcq", "720222b7e044a2f10714f9225272e3205741bc43",
            "models/skill_model.py, training/train_skills.py, training/walker2d-medium-expert-v2/gpu5/*.sh",
        ),
        SkillModel, lambda: (randn(5, 6, 4), randn(5, 6, 2, seed=9)),
        (
            posterior("encoder.sig_layer.2", sigma=F.softplus), prior("prior.sig_layer.2", sigma=F.softplus),
            likelihood("decoder.ll_policy.policy_components.0.sig_layer.2", sigma=F.softplus),
            likelihood("decoder.ll_policy.policy_components.1.sig_layer.2", sigma=F.softplus),
        ), skill_loss,
        truth="skill_model.py: σ = softplus(v), a module in encoder and prior, made on the spot in the policies; "
        "without a state decoder, as in the script. gen_model holds decoder and prior by other paths",
    ),
    PublicCase(
        "DIAYN",
        Retold(
            "alirezakazemipour/DIAYN-PyTorch", "c220f6167bd7c1493da35397d5ecfca29552e1bd",
            "Brain/model.py, Brain/agent.py",
        ),
        DiaynAgent, skilled, (likelihood("policy_network.log_std", sigma=sac_clamped),), diayn_loss,
        truth="Brain/model.py PolicyNetwork: exp(clamp(v, -20, 2)); actions are drawn, squashed and scored",
    ),
    PublicCase(
        "MGVAE",
        Retold(
            "HyTruongSon/MGVAE", "7b9d4f68169af99099ca13e5008c68d34875b5f1",
            "citation_link_prediction/train_mgvae.py, citation_link_prediction/tree.py",
        ),
        MGVAE, citations,
        (
            *(posterior(f"{part}.logstd_net", sigma=torch.exp)
              for part in ("base_encoder", "local_encoder.0", "local_encoder.1")),
            *(posterior(f"local_pooler.{level}.logstd_net", sigma=None) for level in range(2)),
        ), mgvae_loss,
        truth="train_mgvae.py: exp(logstd), of layers that are a parameter's product with the graph. Hard: no KL by "
        "default (kl_loss is 0), all are drawn and see the data: posteriors. Hard: a pooler's log σ is the mean "
        "of tanh over a cluster's nodes, no function of one raw value. Two levels, two clusters",
    ),
    PublicCase(
        "ConvCNP (neuralprocesses)",
        Retold(
            "wesselb/neuralprocesses", "89faf25e5bfd481865d344c6c1aec256c1fd6961",
            "README.md, neuralprocesses/architectures/convgnp.py, neuralprocesses/likelihood.py, "
            "neuralprocesses/coders/nn.py",
        ),
        ConvCNP, sets, (likelihood("conv.final_linear", 2, 4, None),), convcnp_loss,
        truth="likelihood.py: variance 1e-6 + softplus of what the set convolution has made of the U-Net's last "
        "layer on a grid. Hard: that layer emits, and σ is of a sum over its places, no function of one value",
    ),
    PublicCase(
        "Neural process (Usefulmaths)",
        Retold(
            "Usefulmaths/Neural-Processes", "5d2384ec0c3ba108c79ae4211781d7260fecf4e3",
            "neural_processes.py, loss.py, Neural Processes.ipynb",
        ),
        NeuralProcess, one_function,
        (posterior("encoder.fc_context_std.0"), likelihood("decoder.fc_std.0")), neural_process_loss,
        truth="neural_processes.py: both exp(0.5 v); a slip: the notebook's KL is given σ for log variances. Hard: the "
        "KL is of the context's code against that of all points, by one layer; the code of all points is drawn: "
        "the posterior",
    ),
    PublicCase(
        "Bayes by backprop (jiangdaniel)",
        Retold(
            "jiangdaniel/ml-implementations", "ca85708b5629dc1ba22ec1dfc023d3a6267b0d34",
            "bayes-by-backprop/network.py, bayes-by-backprop/main.py",
        ),
        BayesianNet, lambda: (rand(5, 8), tokens(3, 5)),
        tuple(
            posterior(f"{part}_rhos.{i}", sigma=F.softplus) for part in ("weights", "biases") for i in range(3)
        ), bayesian_net_loss,
        truth="network.py: softplus of parameters in lists; the density of the posterior leaves log σ out",
    ),
    PublicCase(
        "VI network (torch_bayesian)",
        Retold(
            "RAI-SCC/torch_bayesian", "1ca81c6bc29a64fd28e6239c058c2096331ad0b1",
            "scripts/pytorch_tutorial.py, torch_bayesian/vi/base.py, linear.py, kl_loss.py, "
            "variational_distributions/normal.py",
        ),
        VINetwork, lambda: (rand(5, 2, 4), tokens(3, 5)),
        tuple(
            posterior(f"linear_relu_stack.{i}._{part}_log_std", sigma=torch.exp)
            for i in (0, 2, 4) for part in ("weight", "bias")
        ), kullback_leibler_loss,
        truth="variational_distributions/normal.py: exp of a parameter, under vmap, with log probabilities of prior "
        "and posterior; calling is a method of the base class upstream",
    ),
    PublicCase(
        "Neural social physics CVAE",
        Retold(
            "realcrane/Human-Trajectory-Prediction-via-Neural-Social-Physics",
            "8e94386dd47af3ea63d36944380d6574d4d8a147", "model_cvae.py, train_nsp_w.py, utils.py",
        ),
        SocialPhysicsCVAE, lambda: (randn(6, 16).double(), randn(6, 2, seed=9).double()),
        (posterior("encoder_latent.layers.1", 4, 8),), social_physics_loss,
        truth="model_cvae.py CVAE.forward: exp(0.5 logvar), called var; the physics, which is frozen, is left out",
    ),
    PublicCase(
        "SocialVAE",
        Retold("xupei0610/SocialVAE", "eb23cbae562bac2c2dcf0d81529e6ab2ac280962", "social_vae.py"),
        SocialVAE, crowd, (posterior("q_z.std.0", sigma=F.softplus), prior("p_z.std.0", sigma=F.softplus)),
        social_vae_loss, truth="social_vae.py P_Z, Q_Z: softplus modules; the KL is of log densities at the draw",
    ),
    PublicCase(
        "Action-to-motion",
        Retold(
            "EricGuo5513/action-to-motion", "fe31871178e7e1b620b113974b47f8854d377be9",
            "models/motion_vae.py, trainer/vae_trainer.py",
        ),
        ActionToMotion, lambda: (randn(4, 5, 6), F.one_hot(tokens(3, 4), 3).float()),
        (posterior("posterior_net.logvar_net"), prior("prior_net.logvar_net")), action_to_motion_loss,
        truth="motion_vae.py reparameterize: exp(0.5 logvar); the prior's draw is made and dropped in training",
    ),
    PublicCase(
        "GenMotion VAE-LSTM",
        Retold(
            "yizhouzhao/GenMotion", "c27e18a59ccc0f322081029217912f24f10a7786",
            "genmotion/algorithm/vae_lstm/models.py",
        ),
        MotionVAELSTM, lambda: (randn(4, 6, 16),), (StridedHead("encoder2.2", 1, 8, "posterior", half_elu, step=2),),
        motion_vae_lstm_loss,
        truth="models.py VAE_LSTM.forward: exp(0.5 log_var), every other channel of elu of what the pooling emits. "
        "Hard: the last layer with weights is a convolution in front of it. The likelihood's variance is one",
    ),
    PublicCase(
        "LSTM autoencoder",
        Retold(
            "Charlie-Bell/lstm-autoencoder", "3f7ca7a714d2a69bd468603ee346981d52fe76fb", "src/autoencoder.py",
        ),
        LSTMAutoencoder, lambda: (randn(15),), (), autoencoder_loss, truth="autoencoder.py train_model: L1",
    ),
    PublicCase(
        "Music transformer",
        Retold(
            "gwinndr/MusicTransformer-Pytorch", "7161590fe306578ad02d851e74e1141bd39004af",
            "model/music_transformer.py, train.py",
        ),
        MusicTransformer, lambda: (tokens(9, 4, 6), tokens(9, 4, 6, seed=9)), (), music_transformer_loss,
        truth="train.py: cross entropy",
    ),
    PublicCase(
        "GAT",
        Retold("Diego999/pyGAT", "3664f2dc90cbf971564c0bf186dc794f12446d0c", "models.py, layers.py, train.py"),
        GAT, lambda: (*citations(), tokens(3, 6)), (), gat_loss, truth="train.py: nll_loss",
    ),
    PublicCase(
        "TD3",
        Retold("sfujim/TD3", "34770ccdcb51df6f6c7d85c1ba7e40d71b940d16", "TD3.py"),
        TD3, transitions, (), itself, truth="TD3.py: noise of a fixed width on the target's actions",
    ),
)
# fmt: on
