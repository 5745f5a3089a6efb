"""A tenth look: sentences, dialogue, topics, voices, music, spikes, brains, sketches, cells over time, weather, waves,
spectra, proteins, funds, worlds, policies, active inference, functions, walkers, motion and films, in our own words.

The fields and a word for each were fixed before any search, and a second list of words for fields whose first gave
nothing, before its own. For each word the list of repositories whose names have it was taken in the index's order: of
it the first that is PyTorch, trains a model of its own with its own loss, and is in no earlier look; its main model,
with its main configuration. Where a list was empty or of other things, another word of the field took its place, or
none. Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these
was scanned, by somebody who had not read the scan's, but who knew which faults earlier looks had found.

"vae-text": `MicaAnt/vae-textures-dev` and `unixpickle/vae-textures` passed (textures),
`c-juhwan/vae-text-augmentation-for-classification` taken. "vae-dialog": `Kirito0918/cvae-dialog`. "topic-vae":
`tndoan/Topic-VAE`. "vae-tacotron": `Dapwner/CVAE-Tacotron` passed (an earlier look), `ming024/vae-Tacotron-2` passed
(TensorFlow), `xcmyz/VAE-Tacotron` taken. "vae-voice": `vsimkus/vae-voice-conversion` passed (an earlier look),
`Jesper-Jung/NovelEmoVAE-VoiceConversion` taken. "vae-music": `not-able/vae-musicplayer` passed (a player),
`aksaN000/vae-music-clustering` taken. "video-vae": `floatingtrees/video-VAE` passed (JAX) and
`pranavh4/cogvideo-vae-explore` (another's model), none. "cvae-trajectory": an earlier look's alone. "vae-lstm":
`petalrame/VAE-LSTM`, `mobeets/classifying-vae-lstm` and `zhiming-xu/vae-lstm` passed (TensorFlow, Keras, MXNet),
`marisancans/frame-predict-VAE-LSTM` taken. "planet-pytorch": passed (an earlier look, satellites, a copy of an earlier
look's). "dreamerv1": `minhphd/PyDreamerV1`, its world and its actor. "pytorch-sac" and "pytorch-ppo":
`zhihanyang2022/pytorch-sac` and `zhihanyang2022/pytorch-ppo`. "conditional-neural-process":
`hyunghunny/conditional-neural-process` and `ciupakabra/conditional-neural-processes` passed (TensorFlow),
`pkoerner6/Autoregressive-Conditional-Neural-Processes-for-EMNIST-Image-Completion` and
`CristianRodrigoGuarachiIbanez/Conditional-Neural-Process-` passed (an earlier look's frameworks); those behind were
not opened. "variational-recurrent": `michaelzhhan1990/Variational-Recurrent-Autoencoder-Tensorflow` passed,
`jimtsai23/Amortized-Mixture-Prior-Variational-Recurrent-Autoencoder` taken, and the next that is PyTorch,
`Chung-I/Variational-Recurrent-Autoencoder-PyTorch`. "srnn": a long list of names of people and of other things, of
which the first whose name tells the field was taken, `zihangdai/reexamine-srnn`, its model of speech. "latent-ode-":
`micmich05/latent-ode-dynamics` passed (an earlier look), `Cccccccloud/latent-ode-generation` taken. "neural-sde": a
long list, of which `CeciliaCaimi/Neural-SDE-Meta-Learning-` cannot be had, `BigPython34` has no law of a code, and the
first whose name says latent was taken, `P2SAMAPA/P2-ETF-NEURAL-SDE-LATENT`. "sketchrnn":
`ivanpuhachov/SketchRNN-Pytorch-Attention`, without its attention, which is off by default. "vae-eeg":
`monum-hashmi/QVAE-EEG-ECG-Fusion` passed (no law), `alessandroquirile/VAE-EEG-XAI` and `AndyCA111/CVAE-EEG-fmri`
passed (Keras), `akirakudo901/CVAE-EEG` passed (no code), none. "pi-vae": the first, `noonyue/-PI-VAE`, is of spectra,
and was taken as physics, whose own words gave nothing; of neurons `wei-bbc-lab/pi-vae-pytorch`. "weather-vae":
`zhengkai15/weather-vae`. "vae-rom": `christian-jacobsen/viscous-burgers-vae-rom`. "protein-vae": `psipred/protein-vae`
passed (an earlier look), `smu-tao-group/protein-VAE` and `huzongxiang/Protein-vae` passed (TensorFlow),
`VikashKumar-1996/protein-vae-conformation-generation` taken, and the next, `beef-broccoli/project-4995-protein-vae`,
the model that its list names first. "active-inference": a long list, of which those whose names say networks were gone
through: `Youssef-Ahmed38/pixel-active-inference` and `5shunchen/active-inference-world-model` cannot be had,
`neuronphysics/active-inference-diffusion` passed (a framework), `George614/Scaling-Active-Inference` passed
(TensorFlow), `adanielnoel/Active-Inference-Capsule` taken. "meta-vae": `OxygenLu/Meta-VAE` passed (its main script has
no code that is drawn). "vae-rl": `MaxASchwarzer/TDVAE-RL-Project`, its TD-VAE of frames, as those with actions are
four times as long. "iql-pytorch": `water-vapor/IQL-PyTorch` passed (a copy of the third), `Manchery/iql-pytorch` taken
as a model without a head, as no σ is read, and `gwthomas/IQL-PyTorch`. "vae-rec": `hyurtseven81/RQ-VAE-Recommender`
and its like passed (codes of a book), `wuga214/Q-VAE-Recommendation` and `rhouhou/vae-reconstruction-scarcity` passed
(TensorFlow), `ekaterinatsinovnik/VAE-RecSys` taken. "bayesian-lstm": `moodykong/bayesian-lstm-mionet`,
`dhars1n1/Regime-Aware-Stock-Forecasting-with-Bayesian-LSTM-and-Markov-Models`,
`nicenustian/stocks-bayesian-lstm-and-transfer-learning` and `AliciaLuGuyun/Bayesian-LSTM-for-Stock-Return-Prediction`
passed (no law, no network, TensorFlow, dropout), and the list not gone through. "deep-state-space":
`ErikAxelStolt/Master-Thesis----Forecasting-Using-Deep-State-Space-Models` taken as a model without a head,
`boschresearch/Deterministic-Graph-Deep-State-Space-Models` passed (moments, no draws). Empty: "trajectory-cvae",
"gru-vae", "state-space-vae", "stock-vae", "finance-vae", "vae-stock", "physics-vae", "particle-vae", "vae-kg",
"robot-vae", "grasp-vae", "motion-cvae" and "human-motion-vae"; of other things, or without a model that fits: "awac",
"vae-imitation", "vae-portfolio", "vae-dance", "vae-knowledge", "bayesian-maml", "deepvar".

The second list. "neural-processes-pytorch": `martenlienen/neural-processes-pytorch`. "np-pytorch":
`tung-nd/TNP-pytorch`, its default. "fmri-vae": `WG-sss/rsfMRI-VAE`. "human-trajectory": of a long list the first that
has a code, `realcrane/Human-Trajectory-Prediction-via-Neural-Social-Physics`, is of an earlier look, and
`realcrane/Human-Trajectory-Forecasting-with-Explainable-Behavioral-Uncertainty` was taken, its CVAE.
"motion-synthesis": `boschmitj/Handball-Motion-Manifold-Learning-and-Motion-Synthesis` passed (a pipeline of cameras;
its models were not found), `tonton-golio/motion-synthesis` taken, and the next whose name says VAE,
`vanoracai/A-unified-3d-human-motion-synthesis-model-via-conditional-variational-auto-encoder`. "bayesian-rnn":
`sydney-machine-learning/Bayesian-RNN-VI` passed (the code of an earlier look's), the others not opened. "mdn-rnn":
`Riffe007/mdn-rnn-2` passed (its network is to be written), `jamorafo/mdn-rnn` passed (its script trains by squares).
"probabilistic-traffic": `pedrogerum/probabilistic-traffic-forecating` passed (quantiles). Empty, or none:
"seismic-vae", "vae-predictive", "vae-planning", "lightcurve-vae", "gaussian-embedding". Models without a head, beside
the two above: "pytorch-dqn" `stephkno/PyTorch-DQN`, "td3-pytorch" `alirezakazemipour/TD3-PyTorch`, "seq2seq-pytorch"
`threelittlemonkeys/seq2seq-pytorch`; "tacotron2-pytorch", "hamiltonian-neural", "lstm-stock" and "nbeats" were not
gone through.

A third, short list, fixed when the two were done. "a2c-continuous": `kaglowka/a2c-continuous`. "trpo-pytorch":
`alirezakazemipour/TRPO-PyTorch` passed (choices, no Normal), `ajlangley/trpo-pytorch` taken. "sequential-vae":
`yoshinobc/Level-Generation-for-Angry-Birds-with-Sequential-VAE-and-Latent-Variable-Evolution` passed (Chainer),
`EthanYDONG/deconfounding-sequential-vae` taken. "vae-speech": books of codes, `sleglaive/DVAE-speech` (the forerunner
of an earlier look's) and `zakaria-n/VAE-Speech-Decomposition` (Keras) passed, none. "latent-dynamics": of a long list
`dylan-losey/latent-dynamics` passed (no law in its loss), the others not opened. "pets-pytorch" and
"world-models-vae": of other things, or empty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

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

# ----------------------------------------------------------------------------------------- sentences, dialogue, topics


class AugmentedSentence(nn.Module):
    """A code of the averaged words is added to each word that the decoder reads. Its script has no KL: it asks for
    "vae" where the model asks for "VAE"."""

    def __init__(self, words: int = 11, width: int = 8, latent: int = 4, length: int = 6) -> None:
        super().__init__()
        self.seq_embed = nn.Sequential(nn.Embedding(words, width, padding_idx=0), nn.Dropout(0.2))
        self.pos_embed = nn.Sequential(nn.Embedding(length, width), nn.Dropout(0.2))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 2, 12, batch_first=True), 1, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, 2, 12, batch_first=True), 1)
        self.variational_mu, self.variational_logvar = nn.Linear(width, latent), nn.Linear(width, latent)
        self.variational_hidden = nn.Linear(latent, width)
        self.output = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, words))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inner = x[:, 1:-1].clone()
        inner[torch.rand(inner.shape) < 0.1] = 3
        x = torch.cat([x[:, :1], inner, x[:, -1:]], dim=-1)
        length = x.shape[1]
        embedded = self.seq_embed(x) + self.pos_embed(torch.arange(length))
        memory = self.encoder(embedded, src_key_padding_mask=x == 0)
        pooled = memory.mean(dim=1)
        mu, logvar = self.variational_mu(pooled), self.variational_logvar(pooled)
        std = torch.exp(0.5 * logvar)
        noise = mu + torch.randn_like(std) * std
        added = self.variational_hidden(noise).unsqueeze(1).repeat(1, length - 1, 1)
        read = self.seq_embed(x[:, :-1]) + self.pos_embed(torch.arange(length - 1)) + added
        later = torch.ones(length - 1, length - 1, dtype=torch.bool).triu(1)
        out = self.decoder(read, memory, tgt_mask=later, tgt_key_padding_mask=x[:, :-1] == 0)
        return F.log_softmax(self.output(out).flatten(0, 1), dim=-1), mu, logvar


def augmented_loss(model: Any, x: Tensor) -> Tensor:
    logp, _, _ = model(x)
    target = x[:, 1:].reshape(-1)
    kept = target.ne(0)
    return F.nll_loss(logp[kept], target[kept])


def padded() -> tuple[Tensor, ...]:
    x = tokens(11, 4, 6, low=4)
    x[:, 0], x[:, -1], x[0, -2:] = 1, 2, 0
    return (x,)


class TwoWayEncoder(nn.Module):
    """Each layer's last states of both directions, joined."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rnn_cell = nn.LSTM(width, hidden // 2, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        _, (h, _) = self.rnn_cell(packed)
        return torch.cat([h[0::2], h[1::2]], 2)[-1]


class TwoHalves(nn.Module):
    """A network whose output is split into a mean and a log variance."""

    def __init__(self, width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.latent_size, self.mlp = latent, nn.Sequential()
        self.mlp.add_module("linear0", nn.Linear(width, hidden))
        self.mlp.add_module("activate0", nn.Tanh())
        self.mlp.add_module("output", nn.Linear(hidden, 2 * latent))

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return self.mlp(torch.cat(parts, 1)).split([self.latent_size] * 2, 1)


class ReplyModel(nn.Module):
    """The noise comes with the batch."""

    def __init__(self, words: int = 12, width: int = 6, hidden: int = 8, latent: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.post_encoder, self.response_encoder = TwoWayEncoder(width, hidden), TwoWayEncoder(width, hidden)
        self.prior_net = TwoHalves(hidden, 7, latent)
        self.recognize_net = TwoHalves(2 * hidden, 7, latent)
        self.prepare_state = nn.Linear(hidden + latent, hidden)
        self.decoder = nn.LSTM(width, hidden, num_layers=2)
        self.projector = nn.Sequential(nn.Linear(hidden, words), nn.Softmax(-1))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        posts, replies = (self.embedding(inputs[name]) for name in ("posts", "responses"))
        x = self.post_encoder(posts.transpose(0, 1), inputs["len_posts"])
        y = self.response_encoder(replies.transpose(0, 1), inputs["len_responses"])
        prior_mu, prior_logvar = self.prior_net(x)
        mu, logvar = self.recognize_net(x, y)
        z = mu + (0.5 * logvar).exp() * inputs["sampled_latents"]
        start = self.prepare_state(torch.cat([z, x], 1)).unsqueeze(0).repeat(2, 1, 1)
        state, outputs = (start, start), []
        for word in replies[:, :-1].transpose(0, 1).split(1, 0):
            output, state = self.decoder(word, state)
            outputs.append(output)
        return self.projector(torch.cat(outputs, 0).transpose(0, 1)), prior_mu, prior_logvar, mu, logvar


def reply_loss(model: Any, inputs: dict[str, Tensor], weight: float = 0.5) -> Tensor:
    words, prior_mu, prior_logvar, mu, logvar = model(inputs)
    labels, masks = inputs["responses"][:, 1:], inputs["masks"]
    nll = F.nll_loss(words.flatten(0, 1).clamp_min(1e-12).log(), labels.reshape(-1), reduction="none")
    nll = (nll * masks.reshape(-1)).reshape(masks.shape).sum(1)
    ratio = logvar.exp() / prior_logvar.exp() + (prior_mu - mu).pow(2) / prior_logvar.exp()
    kld = 0.5 * torch.sum(prior_logvar - logvar - 1 + ratio, 1)
    return (nll + weight * kld).mean()


def a_dialogue() -> tuple[dict[str, Tensor], ...]:
    lengths = torch.tensor([5, 4, 5, 3])
    return (
        {
            "posts": tokens(12, 4, 5, low=1), "len_posts": torch.tensor([5, 5, 3, 4]),
            "responses": tokens(12, 4, 5, low=1, seed=9), "len_responses": lengths,
            "sampled_latents": randn(4, 3, seed=10),
            "masks": (torch.arange(4)[None] < lengths[:, None] - 1).float(),
        },
    )  # fmt: skip


class BagEncoder(nn.Module):
    """What it calls log_sigma is a log variance."""

    def __init__(self, words: int, hidden: int, topics: int) -> None:
        super().__init__()
        self.words = words
        self.input_layer = nn.Linear(words, hidden)
        self.mu_layer, self.sigma_layer = nn.Linear(hidden, topics), nn.Linear(hidden, topics)

    def forward(self, docs: Tensor) -> tuple[Tensor, Tensor]:
        counts = F.one_hot(docs, self.words).sum(1)
        h = F.relu(self.input_layer(counts.float()))
        return self.mu_layer(h), self.sigma_layer(h)


class TopicRNN(nn.Module):
    """Its noise is zeros: the line with a draw is commented out."""

    def __init__(self, words: int = 12, topics: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.encoder = BagEncoder(words, 9, topics)
        self.word_embeddings, self.rnn = nn.Embedding(words, 5), nn.LSTM(5, hidden)
        self.tau = nn.Parameter(torch.randn(hidden))
        self.v, self.b = nn.Parameter(torch.randn(hidden, words)), nn.Parameter(torch.randn(topics, words))

    @staticmethod
    def reparameterize(mu: Tensor, log_sigma: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_sigma)
        eps = torch.zeros_like(std)
        return eps.mul(std).add_(mu)

    def forward(self, docs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mus, log_sigmas = self.encoder(docs)
        thetas = self.reparameterize(mus, log_sigmas).softmax(dim=1)
        words = self.word_embeddings(docs.transpose(0, 1))
        states, _ = self.rnn(torch.cat([torch.zeros_like(words[:1]), words[:-1]]))
        states = states.transpose(0, 1)
        stop = (states @ self.tau).sigmoid().unsqueeze(-1)
        logits = states @ self.v
        plain = (logits + (thetas @ self.b).unsqueeze(1)).softmax(dim=2)
        return logits.softmax(dim=2) * stop + (1 - stop) * plain, mus, log_sigmas


def topic_rnn_loss(model: Any, docs: Tensor) -> Tensor:
    probs, mus, log_sigmas = model(docs)
    labels = docs.reshape(-1)
    masks = (labels > 0).float()
    picked = probs.flatten(0, 1)[torch.arange(len(labels)), labels]
    loss = -1 * torch.sum(torch.log(picked) * masks) / torch.sum(masks).item()
    return (loss + kl_to_unit(mus, log_sigmas)) / len(docs)


class SelfPriorSentence(nn.Module):
    """The prior is a mixture of what the encoder says of sentences that are set aside."""

    def __init__(self, words: int = 11, width: int = 6, hidden: int = 7, latent: int = 3) -> None:
        super().__init__()
        self.encoder = NoisyReader(words, width, hidden, latent)
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.init_h, self.init_c = nn.Linear(latent, hidden), nn.Linear(latent, hidden)
        self.skip, self.rnn = nn.Linear(latent, width), nn.LSTM(width, hidden, batch_first=True)
        self.output = nn.Linear(hidden, words)

    def forward(self, enc: Tensor, dec: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        lengths, order = torch.sort(lengths, descending=True)
        enc, dec = enc[order], dec[order]
        mu, logvar = self.encoder(enc, lengths)
        std = torch.exp(0.5 * logvar)
        z = mu + std * torch.randn_like(mu)
        read = self.embedding(dec) + self.skip(z).unsqueeze(1).expand(-1, dec.shape[1], -1)
        read = F.dropout(read, p=0.5, training=self.training)
        packed = nn.utils.rnn.pack_padded_sequence(read, lengths + 1, batch_first=True)
        out, _ = self.rnn(packed, (self.init_h(z).unsqueeze(0), self.init_c(z).unsqueeze(0)))
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        return F.log_softmax(self.output(out[torch.sort(order)[1]]), dim=-1), z, mu, logvar


class NoisyReader(nn.Module):
    def __init__(self, words: int, width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.rnn = nn.LSTM(width, hidden, batch_first=True)
        self.output = nn.Linear(2 * hidden, 2 * latent)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        embedded = self.embedding(x)
        embedded = embedded + torch.randn_like(embedded).normal_(0, 0.5)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True)
        _, (h, c) = self.rnn(packed)
        return torch.chunk(self.output(torch.cat([h, c], dim=-1).squeeze(0)), 2, dim=-1)


def normal_diag(x: Tensor, mean: Tensor, logvar: Tensor, dim: int) -> Tensor:
    """Without the constant, as upstream has it."""
    return torch.sum(-0.5 * (logvar + torch.pow(x - mean, 2) * torch.pow(torch.exp(logvar), -1)), dim)


def self_prior_loss(
    model: Any, enc: Tensor, dec: Tensor, target: Tensor, lengths: Tensor, pseudo: Tensor, pseudo_lengths: Tensor
) -> Tensor:
    logp, z, mu, logvar = model(enc, dec, lengths)
    target = target[:, : int(lengths.max()) + 1].reshape(-1)
    nll = F.nll_loss(logp.flatten(0, 1), target, reduction="sum", ignore_index=0)
    pseudo_mu, pseudo_logvar = model.encoder(pseudo, pseudo_lengths)
    a = normal_diag(z.unsqueeze(1), pseudo_mu.unsqueeze(0), pseudo_logvar.unsqueeze(0), 2) - math.log(len(pseudo))
    a_max, _ = torch.max(a, 1)
    log_p = a_max + torch.log(torch.sum(torch.exp(a - a_max.unsqueeze(1)), 1))
    kl = torch.sum(-(log_p - normal_diag(z, mu, logvar, 1)))
    return (nll + 0.3 * kl) / len(enc)


def sentences_and_pseudo() -> tuple[Tensor, ...]:
    lengths = torch.tensor([5, 3, 4, 5])
    seen = (torch.arange(6)[None] <= lengths[:, None]).long()
    words = tokens(11, 4, 6, low=3)
    enc, dec, target = words[:, :5] * seen[:, 1:], words * seen, words.roll(-1, 1) * seen
    return enc, dec, target, lengths, tokens(11, 5, 5, low=3, seed=9), torch.tensor([5, 5, 4, 4, 3])


class ReadByPReLU(nn.Module):
    """Its log variance is -2 |.| of a second layer: no code is wider than N(0, 1)."""

    def __init__(self, words: int = 11, width: int = 6, hidden: int = 7, latent: int = 3) -> None:
        super().__init__()
        self.word_lut = nn.Embedding(words, width, padding_idx=0)
        self.encoder = nn.LSTM(width, hidden)
        self.decoder, self.generator = nn.LSTMCell(width, hidden), nn.Linear(hidden, words)
        self.encoder_to_mu, self.encoder_to_nu = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)
        self.nu_to_logvar = nn.Linear(latent, latent)
        self.latent_to_decoder = nn.Linear(latent, 2 * hidden)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, (h, c) = self.encoder(self.word_lut(x))
        hidden = torch.cat((h, c), 2).transpose(0, 1).contiguous().view(x.shape[1], -1)
        nu = nn.ReLU()(self.encoder_to_nu(hidden))
        return self.encoder_to_mu(hidden), -2 * torch.abs(self.nu_to_logvar(nu))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(torch.mul(logvar, 0.5))
        eps = torch.empty(std.size()).normal_()
        return torch.add(torch.mul(eps, std), mu)

    def forward(self, src: Tensor, tgt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        read = tgt[:-1]
        kept = torch.bernoulli(torch.cat((torch.ones(1, read.shape[1]), torch.full(read[1:].shape, 0.75)), 0))
        read = torch.mul(read, kept.long()) + (1 - kept).long()
        mu, logvar = self.encode(src)
        z = self.reparameterize(mu, logvar)
        state, outputs = torch.chunk(self.latent_to_decoder(z), 2, 1), []
        for word in self.word_lut(read):
            state = self.decoder(word, state)
            outputs.append(self.generator(state[0]))
        return torch.stack(outputs), mu, logvar


def read_loss(model: Any, src: Tensor, tgt: Tensor, kl_rate: float = 0.4) -> Tensor:
    outputs, mu, logvar = model(src, tgt)
    nll = F.cross_entropy(outputs.flatten(0, 1), tgt[1:].reshape(-1), ignore_index=0, reduction="sum")
    element = mu.pow(2).add_(logvar.exp()).mul_(-1).add_(1).add_(logvar).mul_(-0.5)
    return nll + kl_rate * torch.sum(torch.max(element, torch.zeros_like(element)))


def negative_abs(v: Tensor) -> Tensor:
    return torch.exp(-torch.abs(v))


# ---------------------------------------------------------------------------------------- voices, music, speech, spikes


class ReferenceEncoder(nn.Module):
    def __init__(self, mels: int, filters: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        widths = (1, *filters)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.bns = nn.ModuleList(nn.BatchNorm2d(b) for b in filters)
        for _ in filters:
            mels = (mels - 1) // 2 + 1
        self.gru = nn.GRU(filters[-1] * mels, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out = x.unsqueeze(1)
        for conv, bn in zip(self.convs, self.bns, strict=True):
            out = F.relu(bn(conv(out)))
        out = out.transpose(1, 2)
        _, h = self.gru(out.contiguous().view(len(out), out.shape[1], -1))
        return torch.tanh(h).squeeze(0)


class StyleVAE(nn.Module):
    def __init__(self, mels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.FC_h, self.FC1, self.FC2 = nn.Linear(hidden, 9), nn.Linear(9, latent), nn.Linear(9, latent)
        self.relu, self.reference_encoder = nn.ReLU(), ReferenceEncoder(mels, (3, 4), hidden)

    def reparameterize(self, mu: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(log_var / 2)
        return mu + torch.randn_like(std) * std

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.relu(self.FC_h(self.reference_encoder(torch.transpose(mel, 1, 2))))
        mu, log_var = self.FC1(h), self.FC2(h)
        return self.reparameterize(mu, log_var), mu, log_var


class Highway(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for linear, gate in zip(self.linears, self.gates, strict=True):
            h, t = F.relu(linear(x)), torch.sigmoid(gate(x))
            x = h * t + x * (1.0 - t)
        return x


class Bank(nn.Module):
    """Convolutions of growing kernels, one behind the other, highways and a GRU."""

    def __init__(self, width: int, hidden: int, kernels: int = 2) -> None:
        super().__init__()
        self.convbank_list = nn.ModuleList(
            nn.Conv1d(width if k == 1 else hidden, hidden, k, padding=k // 2) for k in range(1, kernels + 1)
        )
        self.batchnorm_list = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(kernels))
        self.conv_projection, self.batchnorm_proj = (
            nn.Conv1d(hidden * kernels, width, 3, padding=1),
            nn.BatchNorm1d(width),
        )
        self.highway, self.gru = Highway(width), nn.GRU(width, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        outs, out = [], x
        for conv, norm in zip(self.convbank_list, self.batchnorm_list, strict=True):
            out = F.relu(norm(conv(out)[:, :, : x.shape[2]]))
            outs.append(out)
        joined = F.max_pool1d(torch.cat(outs, dim=1), 2, stride=1, padding=1)[:, :, :-1]
        joined = self.batchnorm_proj(self.conv_projection(joined)) + x
        return self.gru(self.highway(joined.transpose(1, 2)))[0]


class StyledTacotron(nn.Module):
    """A code of the reference beside each letter's state; attention over both."""

    def __init__(self, letters: int = 9, mels: int = 8, freqs: int = 11, latent: int = 3, hidden: int = 5) -> None:
        super().__init__()
        self.embed, self.prenet = nn.Embedding(letters, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(0.5))
        self.cbhg, self.vae = Bank(6, hidden), StyleVAE(mels, 6, latent)
        width = 2 * hidden + latent
        self.mel_prenet = nn.Sequential(nn.Linear(mels, 6), nn.ReLU(), nn.Dropout(0.5))
        self.keys, self.query, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.attn_grucell, self.gru1 = nn.GRUCell(6, width), nn.GRUCell(width, width)
        self.attn_projection, self.out = nn.Linear(2 * width, width), nn.Linear(width, mels * 2)
        self.mels, self.postcbhg, self.linear = mels, Bank(mels, 4), nn.Linear(8, freqs)

    def decode(self, mel: Tensor, memory: Tensor) -> Tensor:
        read, outputs = self.mel_prenet(mel.transpose(1, 2)), []
        hidden = gru = torch.zeros(len(memory), memory.shape[2])
        for step in range(mel.shape[2] // 2):
            hidden = self.attn_grucell(read[:, 2 * step], hidden)
            score = self.v(torch.tanh(self.keys(memory) + self.query(hidden).unsqueeze(1))).sum(2)
            context = torch.bmm(F.softmax(score, 1).unsqueeze(1), memory).squeeze(1)
            joined = self.attn_projection(torch.cat([hidden, context], 1))
            gru = self.gru1(joined, gru)
            outputs.append(self.out(joined + gru).view(-1, self.mels, 2))
        return torch.cat(outputs, 2)

    def forward(self, letters: Tensor, mel: Tensor) -> tuple[Tensor, ...]:
        z, mu, log_var = self.vae(mel)
        memory = self.cbhg(self.prenet(self.embed(letters)).transpose(1, 2))
        z = torch.stack([torch.stack([code for _ in range(memory.shape[1])]) for code in z])
        out = self.decode(mel, torch.cat((memory, z), 2))
        return out, self.linear(self.postcbhg(out)).transpose(1, 2), mu, log_var


def styled_loss(model: Any, letters: Tensor, mel: Tensor, spec: Tensor) -> Tensor:
    read = torch.cat((torch.zeros_like(mel[:, :, :1]), mel[:, :, 1:]), 2)
    out, linear, mu, log_var = model(letters, read)
    mel_loss, linear_loss = torch.mean(torch.abs(out - mel)), torch.mean(torch.abs(linear - spec))
    return mel_loss + 0.5 * linear_loss + 10.0 * kl_to_unit(mu, log_var)


class MovingNorm(nn.Module):
    """A batch normalization by its running figures, whose weight is a logarithm."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor, _: Tensor, logpx: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self.running_mean.clone().detach(), self.running_var.clone().detach()
        if self.training:
            self.running_mean -= 0.1 * (self.running_mean - x.mean(0).data)
            self.running_var -= 0.1 * (self.running_var - x.var(0).data)
        y = (x - mean) * torch.exp(-0.5 * torch.log(var + 1e-4))
        change = -0.5 * torch.log(var + 1e-4) + self.weight
        return y * torch.exp(self.weight) + self.bias, logpx - change.expand_as(x).sum(1, keepdim=True)


class GatedLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int, condition: int) -> None:
        super().__init__()
        self._layer = nn.Linear(n_in, n_out)
        self._hyper_bias = nn.Linear(1 + condition, n_out, bias=False)
        self._hyper_gate = nn.Linear(1 + condition, n_out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self._layer(x) * torch.sigmoid(self._hyper_gate(context)) + self._hyper_bias(context)


class StyleFlow(nn.Module):
    """A continuous flow by an estimate of the trace, here in three steps of Euler."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GatedLinear(width, 7, condition), GatedLinear(7, width, condition)])
        self.sqrt_end_time = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, condition: Tensor, logpx: Tensor) -> tuple[Tensor, Tensor]:
        e, dt = torch.randn_like(x), self.sqrt_end_time * self.sqrt_end_time / 3
        for step in range(3):
            context = torch.cat([condition, torch.full_like(condition[:, :1], step / 3)], dim=-1)
            dx = self.layers[1](torch.tanh(self.layers[0](x, context)), context)
            trace = torch.autograd.grad(dx, x, e, create_graph=True)[0].mul(e).sum(dim=-1, keepdim=True)
            x, logpx = x + dt * dx, logpx - dt * trace
        return x, logpx


class PerEmotion(nn.Module):
    """A pair of layers for each emotion; the batch's labels choose."""

    def __init__(self, mels: int, width: int, emotions: int) -> None:
        super().__init__()
        self.prenet = nn.Sequential(nn.Conv1d(mels, width, 1), nn.GELU())
        self.linear_blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(2))
        self.unshared_mu = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(emotions))
        self.unshared_logvar = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(emotions))

    def forward(self, mel: Tensor, emotion: Tensor) -> tuple[Tensor, Tensor]:
        h = self.prenet(mel).transpose(1, 2).mean(1)
        for layer in self.linear_blocks:
            h = layer(h) + h
        mu = torch.stack([layer(h) for layer in self.unshared_mu], dim=1)
        logvar = torch.stack([layer(h) for layer in self.unshared_logvar], dim=1)
        rows = torch.arange(len(h))
        return mu[rows, emotion], logvar[rows, emotion]


class EmotionVoices(nn.Module):
    """No KL: the posterior's entropy, and the density of its draw under a flow."""

    def __init__(self, mels: int = 6, width: int = 5, speakers: int = 3, emotions: int = 3) -> None:
        super().__init__()
        self.emotions = emotions
        condition = speakers + emotions
        self.style_prior = nn.ModuleList([MovingNorm(width), StyleFlow(width, condition), MovingNorm(width)])
        self.adain_encoder = PerEmotion(mels, width, emotions)
        self.unit_embedding, self.style = nn.Linear(4, width), nn.Linear(width, 2 * width)
        self.conv = nn.Conv1d(width, width, 3, padding=1, padding_mode="replicate")
        self.post_linear = nn.ModuleList(nn.Linear(width, mels, bias=False) for _ in range(3))

    def reparam(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(logvar / 2)
        return mu + torch.randn_like(std) * std

    def decode(self, unit: Tensor, style: Tensor) -> list[Tensor]:
        h, mels = self.unit_embedding(unit), []
        scale, shift = self.style(style).unsqueeze(1).chunk(2, -1)
        for layer in self.post_linear:
            moved = F.gelu(self.conv(h.transpose(1, 2)))
            h = h + F.instance_norm(moved).transpose(1, 2) * scale + shift
            mels.append(layer(h).transpose(1, 2))
        return mels

    def forward(self, mel: Tensor, unit: Tensor, speaker: Tensor, emotion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.adain_encoder(mel, emotion)
        style = self.reparam(mu, logvar)
        entropy = (-0.5 * math.log(2 * math.pi) - 0.5 * logvar - 0.5).sum(-1, keepdim=True).mean()
        z, change = style, torch.zeros(len(mel), 1)
        condition = torch.cat([speaker, F.one_hot(emotion, self.emotions).float()], dim=-1)
        for part in self.style_prior:
            z, change = part(z, condition, change)
        logpz = (-0.5 * math.log(2 * math.pi) - z.pow(2) / 2).sum(-1, keepdim=True)
        errors = torch.stack([F.l1_loss(mel, out) for out in self.decode(unit, style)])
        return errors.sum(), -(logpz - change).mean(), entropy


def emotion_loss(model: Any, *batch: Tensor) -> Tensor:
    mels, flow, entropy = model(*batch)
    return mels + 0.0078125 * flow + 0.0078125 * entropy


class ClusteredMusic(nn.Module):
    """A convolutional VAE of spectrograms that come flat."""

    def __init__(self, height: int = 8, width: int = 10, latent: int = 3, channels: tuple[int, ...] = (3, 4)) -> None:
        super().__init__()
        self.size, self.channels, layers, last = (height, width), channels, [], 1
        for c in channels:
            layers += [nn.Conv2d(last, c, 4, 2, 1), nn.BatchNorm2d(c), nn.LeakyReLU(0.2), nn.Dropout2d(0.2)]
            last = c
        self.encoder = nn.Sequential(*layers)
        self.small = (height // 2 ** len(channels), width // 2 ** len(channels))
        flat = last * self.small[0] * self.small[1]
        self.fc_mu, self.fc_logvar = nn.Linear(flat, latent), nn.Linear(flat, latent)
        self.decoder_input = nn.Linear(latent, flat)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.LeakyReLU(0.2), nn.Dropout2d(0.2),
            nn.ConvTranspose2d(3, 1, 4, 2, 1),
        )  # fmt: skip

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x.view(len(x), 1, *self.size)).view(len(x), -1)
        mu, logvar = self.fc_mu(h), self.fc_logvar(h)
        h = self.decoder_input(self.reparameterize(mu, logvar)).view(len(x), self.channels[-1], *self.small)
        recon = F.interpolate(self.decoder(h), size=self.size, mode="bilinear", align_corners=False)
        return recon.view(len(x), -1), mu, logvar


def clustered_loss(model: Any, x: Tensor, beta: float = 0.5) -> Tensor:
    recon, mu, logvar = model(x)
    return F.mse_loss(recon, x) + beta * (-0.5 * torch.mean(1 + logvar - mu.pow(2) - logvar.exp()))


class ClampedLeaky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(F.leaky_relu(x, 1.0 / 3), -3.0, 3.0)


class OneNormal(nn.Module):
    """Its mixture has one part. Means and log σ are products of its own parameters."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        for name in ("mean", "std", "prior"):
            weight = nn.Parameter(torch.empty(n_in, n_out, 1))
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            self.register_parameter(f"{name}_weight", weight)
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(n_out, 1)))

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        mean = torch.einsum("dim,...d->...im", self.mean_weight, h) + self.mean_bias
        log_std = torch.einsum("dim,...d->...im", self.std_weight, h) + self.std_bias
        log_prior = F.log_softmax(torch.einsum("dim,...d->...im", self.prior_weight, h) + self.prior_bias, dim=-1)
        logp = -0.5 * math.log(2 * math.pi) - log_std - 0.5 * (((target.unsqueeze(-1) - mean) / log_std.exp()) ** 2)
        weighted = log_prior + logp
        most = weighted.max(-1, keepdim=True)[0]
        return -(torch.logsumexp(weighted - most, dim=-1) + most.squeeze(-1))


class ReexaminedSRNN(nn.Module):
    """What is clamped is the whole output, means and log variances."""

    def __init__(self, data: int = 4, emb: int = 5, rnn: int = 6, mlp: int = 7, latent: int = 3) -> None:
        super().__init__()
        self.inp_emb = nn.Sequential(nn.Linear(data, emb), nn.Dropout(0.0))
        self.fwd_rnn, self.bwd_rnn, self.lat_rnn = nn.LSTM(emb, rnn), nn.LSTM(emb, rnn), nn.LSTM(rnn + latent, rnn)
        for part in (self.fwd_rnn, self.bwd_rnn, self.lat_rnn):
            nn.init.orthogonal_(part.weight_hh_l0)
        self.prior, self.post = (
            nn.Sequential(
                nn.Dropout(0.0), nn.Linear(n, mlp), ClampedLeaky(), nn.Dropout(0.0), nn.Linear(mlp, latent * 2)
            )
            for n in (rnn, 2 * rnn)
        )  # fmt: skip
        self.crit = OneNormal(rnn, data)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        eps = std.data.new(std.size()).normal_()
        return eps.mul(std).add_(mu)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        backward = torch.flip(self.bwd_rnn(torch.flip(self.inp_emb(y), (0,)))[0], (0,))
        forward, _ = self.fwd_rnn(self.inp_emb(x))
        mu_p, logvar_p = torch.chunk(torch.clamp(self.prior(forward), -8.0, 8.0), 2, -1)
        param_post = torch.clamp(self.post(torch.cat([backward, forward], -1)), -8.0, 8.0)
        mu_q, logvar_q = torch.chunk(param_post, 2, -1)
        output, _ = self.lat_rnn(torch.cat([forward, self.reparameterize(mu_q, logvar_q)], -1))
        ratio = torch.exp(logvar_q) / torch.exp(logvar_p) + (mu_q - mu_p) ** 2.0 / torch.exp(logvar_p)
        kld = 0.5 * (logvar_p - logvar_q + ratio - 1.0)
        return self.crit(output, y).sum(-1), -kld.sum(-1)


def srnn_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    nll, kld = model(x, y)
    return nll.mean() / 4 - kld.mean() / 4 * 0.2


def within_eight(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-8.0, 8.0))


def tanh_layers(n_in: int, hidden: int, n_out: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, n_out),
        nn.Identity(),
    )  # fmt: skip


class Layers(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.net = tanh_layers(n_in, hidden, n_out, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class VolumeKept(nn.Module):
    """A coupling whose log scales sum to nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.half, self.rest = width // 2, width - width // 2
        self.net = Layers(self.half, 3, 2 * self.rest - 1)

    def forward(self, x: Tensor) -> Tensor:
        x_1, x_2 = torch.narrow(x, 1, 0, self.half), torch.narrow(x, 1, self.half, self.rest)
        s_t = self.net(x_1)
        s = 0.1 * torch.tanh(torch.narrow(s_t, 1, 0, self.rest - 1))
        t = torch.narrow(s_t, 1, self.rest - 1, self.rest)
        s = torch.cat((s, torch.sum(torch.neg(s), dim=-1, keepdim=True)), dim=-1)
        return torch.cat((x_2 * torch.exp(s) + t, x_1), dim=-1)


class PoissonNeurons(nn.Module):
    """A product of an encoder's Normal and a label's; the encoder's own draw is without gradients and in no loss."""

    perm: Tensor

    def __init__(self, neurons: int = 9, labels: int = 4, latent: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.net = Layers(neurons, 7, 2 * latent, nn.Tanh)
        self.n_flow, self.coupling = Layers(latent, 3, neurons - latent), VolumeKept(neurons)
        self.register_buffer("perm", torch.randperm(neurons))
        self.label_prior = nn.ModuleDict(
            {"embedded_mean": nn.Embedding(labels, latent), "embedded_log_variance": nn.Embedding(labels, latent)}
        )

    def decoder(self, z: Tensor) -> Tensor:
        h = torch.cat((z, self.n_flow(z)), dim=-1)[:, self.perm]
        return F.softplus(self.coupling(self.coupling(h)))

    def forward(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        mean_0, logvar_0 = torch.chunk(self.encoder.net(x), chunks=2, dim=-1)
        with torch.no_grad():
            drawn = mean_0 + torch.exp(0.5 * logvar_0) * torch.randn_like(mean_0)
            torch.clamp(self.decoder(drawn), min=1e-7, max=1e7)
        mean_1, logvar_1 = self.label_prior["embedded_mean"](u), self.label_prior["embedded_log_variance"](u)
        difference = logvar_0 - logvar_1
        mean = mean_0 / (1 + torch.exp(difference)) + mean_1 / (1 + torch.exp(torch.neg(difference)))
        logvar = logvar_0 + logvar_1 - torch.log(torch.exp(logvar_0) + torch.exp(logvar_1))
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        rate = torch.clamp(self.decoder(z), min=1e-7, max=1e7)
        return rate, mean_0, logvar_0, mean_1, logvar_1, mean, logvar


def negative_kl(mean_0: Tensor, logvar_0: Tensor, mean_1: Tensor, logvar_1: Tensor) -> Tensor:
    ratio = (torch.square(mean_0 - mean_1) + torch.exp(logvar_0)) / torch.exp(logvar_1)
    return torch.sum(1 + logvar_0 - logvar_1 - ratio, dim=-1)


def neurons_loss(model: Any, x: Tensor, u: Tensor) -> Tensor:
    rate, mean_0, logvar_0, mean_1, logvar_1, mean, logvar = model(x, u)
    encoders = 0.5 * negative_kl(mean_0, logvar_0, mean_1, logvar_1)
    posteriors = 0.5 * negative_kl(mean, logvar, mean_1, logvar_1)
    poisson = torch.sum(rate - x * torch.log(rate), dim=-1)
    return torch.mean(poisson - (0.5 * encoders + 0.5 * posteriors))


# ------------------------------------------------------------------ sketches, cells, weather, waves, spectra, proteins


class StrokeReader(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder_rnn = nn.LSTM(5, hidden, bidirectional=True)
        self.fc_mu, self.fc_sigma = nn.Linear(2 * hidden, latent), nn.Linear(2 * hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, (hidden, _) = self.encoder_rnn(x)
        ahead, back = torch.split(hidden, 1, 0)
        h = torch.cat([ahead.squeeze(0), back.squeeze(0)], 1)
        mu, sigma_hat = self.fc_mu(h), self.fc_sigma(h)
        sigma = torch.exp(sigma_hat / 2.0)
        noise = torch.normal(torch.zeros(mu.size()), torch.ones(mu.size()))
        return mu + sigma * noise, mu, sigma_hat


class StrokeWriter(nn.Module):
    def __init__(self, hidden: int, latent: int, parts: int) -> None:
        super().__init__()
        self.parts, self.hidden, self.fc_hc = parts, hidden, nn.Linear(latent, 2 * hidden)
        self.decoder_rnn, self.fc_y = nn.LSTM(latent + 5, hidden), nn.Linear(hidden, 6 * parts + 3)

    def forward(self, x: Tensor, z: Tensor, tau: float = 1.0) -> tuple[Tensor, ...]:
        h, c = torch.split(torch.tanh(self.fc_hc(z)), self.hidden, 1)
        read = torch.cat([x, torch.stack([z] * len(x))], 2)
        y = self.fc_y(self.decoder_rnn(read, (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()))[0])
        pi_hat, mu_x, mu_y, sigma_x_hat, sigma_y_hat, rho, q_hat = torch.split(y, self.parts, 2)
        sigma_x = torch.clamp_min(torch.exp(sigma_x_hat) * math.sqrt(tau), 1e-6)
        sigma_y = torch.clamp_min(torch.exp(sigma_y_hat) * math.sqrt(tau), 1e-6)
        rho = torch.clip(torch.tanh(rho), min=-1 + 1e-6, max=1 - 1e-6)
        q = torch.clamp_min(F.softmax(q_hat / tau, dim=2), 1e-6)
        return F.softmax(pi_hat / tau, dim=2), mu_x, mu_y, sigma_x, sigma_y, rho, q


class BirdSketches(nn.Module):
    """Upstream both halves stand in a plain class."""

    def __init__(self, hidden: int = 5, latent: int = 3, parts: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = StrokeReader(hidden, latent), StrokeWriter(hidden + 1, latent, parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, mu, sigma_hat = self.encoder(x)
        start = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).expand(1, x.shape[1], 5)
        return mu, sigma_hat, *self.decoder(torch.cat([start, x[:-1]], 0), z)


def floored_bivariate(dx: Tensor, dy: Tensor, sx: Tensor, sy: Tensor, rho: Tensor) -> Tensor:
    """The density, with a number added to each divisor."""
    sxsy, free = sx * sy, 1 - rho**2
    z = (dx / (sx + 1e-4)) ** 2 + (dy / (sy + 1e-4)) ** 2 - (2.0 * rho * dx * dy / (sxsy + 1e-4))
    return torch.exp(-z / (2.0 * free + 1e-5)) / (2.0 * math.pi * sxsy * torch.sqrt(free + 1e-5) + 1e-5)


def birds_loss(model: Any, x: Tensor, weight: float = 0.05) -> Tensor:
    mu, sigma_hat, pi, mu_x, mu_y, sx, sy, rho, q = model(x)
    pdf = floored_bivariate(x[:, :, 0].unsqueeze(2) - mu_x, x[:, :, 1].unsqueeze(2) - mu_y, sx, sy, rho)
    pdf = torch.clip(torch.sum(pi * pdf, dim=2), min=1e-5)
    n = x.shape[0] * x.shape[1]
    strokes = -torch.sum((1 - x[:, :, 4]) * torch.log(pdf)) / n
    pens = -torch.sum(x[:, :, 2:] * torch.log(q + 1e-4)) / n
    kl = -torch.sum(1 + sigma_hat - mu**2 - torch.exp(sigma_hat)) / (2.0 * mu.shape[0] * mu.shape[1])
    return strokes + pens + weight * torch.max(kl, torch.tensor(0.2))


def floored_exp(v: Tensor) -> Tensor:
    return torch.clamp_min(torch.exp(v), 1e-6)


def strokes() -> tuple[Tensor, ...]:
    pens = F.one_hot(tokens(3, 6, 4), 3).float()
    return (torch.cat([randn(6, 4, 2), pens], 2),)


class CellEvolver(nn.Module):
    """The means are a path of an equation; their variance is a network's of them. Steps of Runge and Kutta."""

    def __init__(self, data: int = 9, latent: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.projector, self.rnn = nn.Linear(data, latent), nn.GRU(latent, hidden, batch_first=True)
        self.hidden_to_z0 = nn.Linear(hidden, latent)
        self.ode_func = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, latent))
        self.reconstructor = nn.Linear(latent, data)
        self.gp_logvar_net = nn.Sequential(nn.Linear(latent, 6), nn.ReLU(), nn.Linear(6, latent))

    def path(self, z: Tensor, times: Tensor) -> Tensor:
        states = [z]
        for dt in times[1:] - times[:-1]:
            k1 = self.ode_func(z)
            k2 = self.ode_func(z + dt * k1 / 3)
            k3 = self.ode_func(z + dt * (k2 - k1 / 3))
            k4 = self.ode_func(z + dt * (k1 - k2 + k3))
            z = z + (k1 + 3 * (k2 + k3) + k4) * dt * 0.125
            states.append(z)
        return torch.stack(states)

    def forward(self, x: Tensor, observed: int = 3) -> tuple[Tensor, Tensor]:
        _, h = self.rnn(self.projector(x)[:, :observed])
        times = torch.linspace(0.0, 1.0, steps=x.shape[1] - observed + 1)
        mean = self.path(self.hidden_to_z0(h[-1]), times).permute(1, 0, 2)
        logvar = self.gp_logvar_net(mean)
        std = torch.exp(0.5 * logvar)
        return self.reconstructor(mean + torch.randn_like(std) * std), logvar


def evolver_loss(model: Any, x: Tensor) -> Tensor:
    pred, logvar = model(x)
    target = x[:, 2:]
    error = F.mse_loss(pred[:, :, :-4], target[:, :, :-4]) + 50.0 * F.mse_loss(pred[:, :, -4:], target[:, :, -4:])
    return error + 0.01 * (-0.5 * torch.mean(torch.sum(1 + logvar - logvar.exp(), dim=-1)))


class SwishBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.GroupNorm(2, n_out)
        self.conv2, self.norm2 = nn.Conv2d(n_out, n_out, 3, padding=1), nn.GroupNorm(2, n_out)
        self.residual = nn.Sequential()
        if n_in != n_out:
            self.residual = nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.GroupNorm(2, n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(out)) + self.residual(x))


class WeatherMap(nn.Module):
    """Means and log variances are maps of their own convolutions."""

    def __init__(self, width: int = 4, latent: int = 2) -> None:
        super().__init__()
        self.encode, self.decode = nn.Module(), nn.Sequential(
            nn.Conv2d(latent, 2 * width, 1), SwishBlock(2 * width, 2 * width),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(2 * width, width, 3, padding=1),
            SwishBlock(width, width), nn.Conv2d(width, 1, 1),
        )  # fmt: skip
        self.encode.stages = nn.Sequential(
            nn.Conv2d(1, width, 1), SwishBlock(width, 2 * width), nn.Conv2d(2 * width, 2 * width, 3, 2, 1)
        )
        self.encode.mean, self.encode.log_var = nn.Conv2d(2 * width, latent, 1), nn.Conv2d(2 * width, latent, 1)

    def reparameterize(self, mean: Tensor, log_var: Tensor) -> Tensor:
        std = torch.exp(0.5 * log_var)
        return mean + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encode.stages(x)
        mean, log_var = self.encode.mean(h), self.encode.log_var(h)
        return self.decode(self.reparameterize(mean, log_var)), mean, log_var


def weather_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, log_var = model(x)
    kld = torch.mean(torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)) * 0.01
    return F.mse_loss(recon, x) + kld


class CyclicPad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, -1:], x, x[:, :, :1]], -1)


def wave_layers(widths: tuple[int, ...], act: nn.Module, down: bool) -> nn.Sequential:
    """Convolutions of which the last one has the activation behind it, too, halving or doubling between them."""
    layers = nn.Sequential()
    for n, (a, b) in enumerate(itertools.pairwise(widths), 1):
        block = nn.Sequential()
        block.add_module("cyclic_pad", CyclicPad())
        block.add_module("dil_conv", nn.Conv1d(a, b, 3))
        block.add_module("act", act)
        layers.add_module(f"dilationblock{n}", block)
        if n < len(widths) - 1:
            resize = nn.MaxPool1d(2, 2) if down else nn.Upsample(scale_factor=2, mode="linear", align_corners=False)
            layers.add_module(
                f"encblock{n}", nn.Sequential(CyclicPad(), act, nn.Conv1d(b, b, 3, bias=False), act, resize)
            )
    return layers


class BurgersVAE(nn.Module):
    """One activation for all. Its KL is a zero, and its loss has the density alone."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        act, down, up = nn.GELU(), (1, 4, 6, 1), (1, 6, 4, 1)
        self.small = width // 4
        self.E1_m, self.E1_lv = (nn.Sequential() for _ in range(2))
        for net in (self.E1_m, self.E1_lv):
            for name, layer in wave_layers(down, act, True).named_children():
                net.add_module(name, layer)
            net.add_module("flatten", nn.Flatten())
        self.D1_m, self.D1_lv = wave_layers(up, act, False), wave_layers(up, act, False)

    def _reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.mul(0.5).exp_()
        eps = torch.randn(*mu.size()).type_as(mu)
        return mu + std * eps

    def gaussian_log_prob(self, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return -0.5 * ((x - mu) ** 2 / torch.exp(logvar) + math.log(2 * math.pi) + logvar)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        zmu, zlogvar = self.E1_m(x), self.E1_lv(x)
        z = self._reparameterize(zmu, zlogvar)
        wave = z.view(-1, 1, self.small)
        return zmu, zlogvar, self.D1_m(wave), self.D1_lv(wave)

    def compute_loss(self, x: Tensor) -> Tensor:
        _, _, xmu, xlogvar = self.forward(x)
        return -torch.sum(self.gaussian_log_prob(x, xmu, xlogvar), 1)


def burgers_loss(model: Any, x: Tensor) -> Tensor:
    return torch.mean(model.compute_loss(x))


def half_of_gelu(v: Tensor) -> Tensor:
    return torch.exp(0.5 * F.gelu(v))


class SpectrumReader(nn.Module):
    """Attention over the wavelengths, whose mean is read."""

    def __init__(self, latent: int, width: int = 6) -> None:
        super().__init__()
        self.input_projection, self.qkv = nn.Linear(1, width), nn.Linear(width, 3 * width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)
        self.fc_mu, self.fc_logvar = nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.input_projection(x.unsqueeze(-1))
        q, k, v = (part.unsqueeze(1) for part in self.qkv(h).chunk(3, dim=-1))
        h = self.norm(h + self.dropout(F.scaled_dot_product_attention(q, k, v).squeeze(1))).mean(dim=1)
        return self.fc_mu(h), self.fc_logvar(h)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std


class PeakDecoder(nn.Module):
    """A sum of peaks that have the form of a density's, or of Lorentz's."""

    def __init__(self, latent: int, peaks: int, size: int, gaussian: bool) -> None:
        super().__init__()
        self.peaks, self.size, self.gaussian = peaks, size, gaussian
        self.fc_peaks = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, peaks * 3))

    def forward(self, z: Tensor) -> Tensor:
        params = self.fc_peaks(z).view(len(z), self.peaks, 3)
        positions, heights = torch.sigmoid(params[:, :, 0]), F.softplus(params[:, :, 1])
        widths = torch.sigmoid(params[:, :, 2]) * 0.3 + 0.01
        x = torch.linspace(0, 1, self.size).view(1, 1, -1).expand(len(z), self.peaks, -1)
        away, heights, widths = x - positions.unsqueeze(2), heights.unsqueeze(2), widths.unsqueeze(2)
        if self.gaussian:
            return (heights * torch.exp(-(away**2) / (2 * widths**2))).sum(dim=1)
        return (heights * widths**2 / (away**2 + widths**2)).sum(dim=1)


class SpectraPIVAE(nn.Module):
    def __init__(self, latent: int = 3) -> None:
        super().__init__()
        self.uv_encoder, self.nir_encoder = SpectrumReader(latent), SpectrumReader(latent)
        self.uv_decoder, self.nir_decoder = PeakDecoder(latent, 2, 9, True), PeakDecoder(latent, 2, 11, False)

    def encode(self, uv: Tensor, nir: Tensor) -> tuple[Tensor, ...]:
        (mu_uv, logvar_uv), (mu_nir, logvar_nir) = self.uv_encoder(uv), self.nir_encoder(nir)
        z_uv = self.uv_encoder.reparameterize(mu_uv, logvar_uv)
        return z_uv, self.nir_encoder.reparameterize(mu_nir, logvar_nir), mu_uv, logvar_uv, mu_nir, logvar_nir

    def compute_loss(self, uv: Tensor, nir: Tensor, labels: Tensor, uv_aug: Tensor, nir_aug: Tensor) -> Tensor:
        z_uv, z_nir, mu_uv, logvar_uv, mu_nir, logvar_nir = self.encode(uv, nir)
        errors = torch.zeros(())
        for out, target in ((self.uv_decoder(z_uv), uv), (self.nir_decoder(z_nir), nir)):
            steps = F.mse_loss(out.diff(dim=1), target.diff(dim=1))
            physics = F.mse_loss(out, target) + 0.1 * steps + 0.05 * F.relu(-out).mean()
            errors = errors + F.mse_loss(out, target) + 0.05 * physics
        kl = (kl_to_unit(mu_uv, logvar_uv) + kl_to_unit(mu_nir, logvar_nir)) / len(uv)
        again_uv, again_nir, *_ = self.encode(uv_aug, nir_aug)
        alike = (same_labels(z_uv, again_uv, labels) + same_labels(z_nir, again_nir, labels)) / 2
        return errors + kl + 0.5 * alike


def same_labels(a: Tensor, b: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    similar = torch.matmul(F.normalize(a, dim=1), F.normalize(b, dim=1).T) / temperature
    mask = (labels[:, None] == labels[None]).float() - torch.eye(len(a))
    logp = similar - torch.log(torch.exp(similar).sum(dim=1, keepdim=True))
    return (-(logp * mask).sum(dim=1) / torch.clamp(mask.sum(dim=1), min=1.0)).mean()


def spectra_step(model: Any, *batch: Tensor) -> Tensor:
    return model.compute_loss(*batch)


def two_spectra() -> tuple[Tensor, ...]:
    uv, nir = rand(6, 9), rand(6, 11, seed=9)
    return uv, nir, tokens(3, 6), uv + 0.01 * randn(6, 9), nir + 0.01 * randn(6, 11, seed=10)


class MetalCVAE(nn.Module):
    """Its draw takes a softplus of what its KL takes for a log variance."""

    def __init__(self, letters: int = 16, code: int = 3, latent: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 3, 4, 2, 1), nn.ReLU(), nn.Conv1d(3, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(letters, 9), nn.ReLU(),
        )  # fmt: skip
        self.fc_mu, self.fc_var = nn.Linear(9, latent), nn.Linear(9, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent + code, 9), nn.ReLU(), nn.Linear(9, letters), nn.ReLU(),
            nn.Unflatten(1, (4, letters // 4)),
            nn.ConvTranspose1d(4, 3, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(3, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def sample_z(self, mu: Tensor, log_var: Tensor) -> Tensor:
        eps = torch.randn(*mu.shape)
        return mu + torch.exp(log_var / 2) * eps

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        z = self.sample_z(mu, nn.functional.softplus(log_var))
        return self.decoder(torch.cat((z, code), 1)), mu, log_var


def metal_loss(model: Any, x: Tensor, code: Tensor, burn_in: float = 0.6) -> Tensor:
    sample, mu, log_var = model(x, code)
    kl = 0.5 * torch.sum(torch.exp(log_var) + mu**2 - 1.0 - log_var)
    return F.binary_cross_entropy(sample, x, reduction="sum") + kl * burn_in


def half_of_softplus(v: Tensor) -> Tensor:
    return torch.exp(F.softplus(v) / 2)


class FundSDE(nn.Module):
    """A code of past returns, moved by a drift and noise of its own scale; no density of the path."""

    def __init__(self, length: int = 6, latent: int = 3, hidden: int = 7, dt: float = 0.01) -> None:
        super().__init__()
        self.dt = dt
        sizes = ((length, 2 * latent), (latent, latent), (latent, latent))
        self.encoder, self.drift, self.diffusion = (
            nn.Sequential(nn.Linear(a, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, b))
            for a, b in sizes
        )
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mean + torch.randn_like(std) * std

    def sde_step(self, z: Tensor, dt: float) -> Tensor:
        drift, diffusion = self.drift(z), torch.exp(self.diffusion(z))
        return z + drift * dt + diffusion * (torch.randn_like(z) * math.sqrt(dt))

    def forward(self, x: Tensor, steps: int = 4) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encoder(x.view(len(x), -1)).chunk(2, dim=-1)
        z = self.reparameterize(mean, logvar)
        for _ in range(steps):
            z = self.sde_step(z, self.dt)
        return self.decoder(z).squeeze(-1), mean, logvar


def fund_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    pred, mean, logvar = model(x)
    return F.mse_loss(pred, y) + 0.01 * kl_to_unit(mean, logvar) / len(x)


# ------------------------------------------------------------------ worlds, policies, active inference, recommendation


class ActiveCapsule(nn.Module):
    """A VAE of observations, whose prior is narrow, and a predictor of its codes."""

    def __init__(self, observed: int = 2, latent: int = 3, policy: int = 2) -> None:
        super().__init__()
        self.vae, self.transition_model = nn.Module(), nn.Module()
        self.vae.enc, self.vae.dec = nn.Module(), nn.Module()
        self.vae.enc.enc = nn.Sequential(nn.Linear(observed, 8), nn.SiLU())
        self.vae.enc.c1, self.vae.enc.c2 = nn.Linear(8, latent), nn.Linear(8, latent)
        self.vae.dec.dec, self.vae.dec.c1 = nn.Sequential(nn.Linear(latent, 8), nn.SiLU()), nn.Linear(8, observed)
        self.transition_model.gru = nn.GRU(latent + policy, 7)
        self.transition_model.mean_net, self.transition_model.std_net = nn.Linear(7, latent), nn.Linear(7, latent)
        self.scaling, self.noise = latent / observed, torch.full([observed], 0.05)
        self.px = Normal(torch.zeros(1, latent), torch.ones(1, latent) * 0.3)

    def free_energy(self, y: Tensor) -> tuple[Tensor, Normal]:
        e = self.vae.enc.enc(y)
        qx_y = Normal(self.vae.enc.c1(e), nn.functional.softplus(self.vae.enc.c2(e)) + 1e-6)
        py_x = Normal(self.vae.dec.c1(self.vae.dec.dec(qx_y.rsample())), self.noise)
        lpy_x = py_x.log_prob(y) * self.scaling
        return kl_divergence(qx_y, self.px).sum(-1) - lpy_x.sum(-1), qx_y

    def predict(self, x: Tensor, policy: Tensor) -> Normal:
        pred, _ = self.transition_model.gru(torch.cat((x, policy), dim=2))
        scale = nn.functional.softplus(self.transition_model.std_net(pred)) + 1e-6
        return Normal((self.transition_model.mean_net(pred) + x).squeeze(1), scale.squeeze(1))


def capsule_step(model: Any, y: Tensor, policy: Tensor) -> Tensor:
    """Both of its steps; upstream the second comes when the first has been taken."""
    energy, qx_y = model.free_energy(y)
    seen = Normal(qx_y.mean.detach(), qx_y.stddev.detach())
    earlier = torch.cat((torch.zeros(1, 1, y.shape[1] + 1), seen.mean[:-1].unsqueeze(1)), dim=0)
    return energy.mean() + kl_divergence(model.predict(earlier, policy.unsqueeze(1)), seen).sum()


def millionth(v: Tensor) -> Tensor:
    return F.softplus(v) + 1e-6


def relu_layers(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ImplicitQ(nn.Module):
    """One σ for all states, on the diagonal of a triangle."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.policy = nn.Module()
        self.policy.net, self.policy.log_std = relu_layers(states, 7, 7, actions), nn.Parameter(torch.zeros(actions))
        self.vf = relu_layers(states, 7, 1)
        self.qf = nn.ModuleList(relu_layers(states + actions, 7, 1) for _ in range(2))
        self.q_target = nn.ModuleList(relu_layers(states + actions, 7, 1) for _ in range(2)).requires_grad_(False)

    def act(self, s: Tensor) -> MultivariateNormal:
        std = torch.exp(self.policy.log_std.clamp(-5.0, 2.0))
        return MultivariateNormal(self.policy.net(s), scale_tril=torch.diag(std))

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        """Its three losses, added."""
        both = torch.cat([s, a], 1)
        with torch.no_grad():
            target_q = torch.min(*(q(both).squeeze(-1) for q in self.q_target))
            next_v = self.vf(s2).squeeze(-1)
        adv = target_q - self.vf(s).squeeze(-1)
        v_loss = torch.mean(torch.abs(0.7 - (adv < 0).float()) * adv**2)
        targets = r + (1.0 - done) * 0.99 * next_v
        q_loss = sum(F.mse_loss(q(both).squeeze(-1), targets) for q in self.qf) / 2
        exp_adv = torch.exp(3.0 * adv.detach()).clamp(max=100.0)
        return v_loss + q_loss + torch.mean(exp_adv * -self.act(s).log_prob(a))


def one_update(model: Any, *batch: Tensor) -> Tensor:
    return model.update(*batch)


def flat_steps() -> tuple[Tensor, ...]:
    """States, actions, next states, rewards, ends."""
    return randn(6, 4), randn(6, 2, seed=9).tanh(), randn(6, 4, seed=10), randn(6, seed=11), bits(6)


def minus_five_to_two(v: Tensor) -> Tensor:
    return v.clamp(-5.0, 2.0).exp()


class NormalPolicyNet(nn.Module):
    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.shared_net = nn.Sequential(*relu_layers(states, 8, 8, 8), nn.ReLU())
        self.means_net, self.log_stds_net = nn.Linear(8, actions), nn.Linear(8, actions)

    def forward(self, states: Tensor) -> Independent:
        out = self.shared_net(states)
        means, log_stds = self.means_net(out), self.log_stds_net(out)
        stds = torch.exp(torch.clamp(log_stds, -20, 2))
        return Independent(Normal(loc=means, scale=stds), reinterpreted_batch_ndims=1)


class PendulumSAC(nn.Module):
    """Upstream the networks stand in a plain class."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.Normal = NormalPolicyNet(states, actions)
        self.Q1, self.Q2 = (relu_layers(states + actions, 8, 1) for _ in range(2))
        self.Q1_targ, self.Q2_targ = (relu_layers(states + actions, 8, 1).requires_grad_(False) for _ in range(2))

    def sample_action(self, state: Tensor, reparametrized: bool) -> tuple[Tensor, Tensor]:
        law = self.Normal(state)
        u = law.rsample() if reparametrized else law.sample()
        return torch.tanh(u), law.log_prob(u) - (2 * (math.log(2) - u - F.softplus(-2 * u))).sum(dim=1)

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        """Its three losses, added; the policy's leaves the critics as they are."""
        with torch.no_grad():
            a2, logp2 = self.sample_action(s2, False)
            after = torch.cat([s2, a2], 1)
            least = torch.min(self.Q1_targ(after), self.Q2_targ(after)).squeeze(-1)
            targets = r + 0.99 * (1 - done) * (least - 0.1 * logp2)
        both = torch.cat([s, a], 1)
        loss = torch.zeros(())
        for q in (self.Q1, self.Q2):
            loss = loss + torch.mean((q(both).squeeze(-1) - targets) ** 2)
            q.requires_grad_(False)
        chosen, logp = self.sample_action(s, True)
        both = torch.cat([s, chosen], 1)
        loss = loss - torch.mean(torch.min(self.Q1(both), self.Q2(both)).squeeze(-1) - 0.1 * logp)
        self.Q1.requires_grad_(True)
        self.Q2.requires_grad_(True)
        return loss


def minus_twenty_to_two(v: Tensor) -> Tensor:
    return v.clamp(-20, 2).exp()


class ClippedPPO(nn.Module):
    """What it calls log_std is a log variance: its exponential is the covariance's diagonal."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.policy = nn.Module()
        self.policy.backbone = nn.Sequential(nn.Linear(states, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh())
        self.policy.mean_net = nn.Linear(7, actions)
        self.policy.log_std = nn.Parameter(torch.ones(actions) * 0)
        self.vf = nn.Sequential(nn.Linear(states, 7), nn.Tanh(), nn.Linear(7, 1))
        for layer, gain in ((self.policy.backbone[0], 2**0.5), (self.policy.mean_net, 0.01)):
            nn.init.orthogonal_(layer.weight, gain=gain)

    def act(self, states: Tensor) -> MultivariateNormal:
        means = self.policy.mean_net(self.policy.backbone(states))
        return MultivariateNormal(means, torch.diag_embed(torch.exp(self.policy.log_std)))

    def update(self, states: Tensor, actions: Tensor, old_logps: Tensor, advs: Tensor, rets: Tensor) -> Tensor:
        laws = self.act(states)
        ratios = torch.exp(laws.log_prob(actions) - old_logps)
        advs = (advs - advs.mean()) / (advs.std() + 1e-8)
        gain = torch.min(advs * ratios, advs * torch.clamp(ratios, 0.8, 1.2)).mean()
        vf_loss = F.mse_loss(input=self.vf(states).flatten(), target=rets)
        return -gain + 0.5 * vf_loss + 0.0 * -torch.mean(laws.entropy())


def collected() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, seed=10) - 2.5, randn(6, seed=11), randn(6, seed=12)


class WalkerRSSM(nn.Module):
    """Both laws draw; the prior's draw is kept, and read by nobody."""

    def __init__(self, embed: int, stoch: int, deter: int, actions: int, hidden: int = 7) -> None:
        super().__init__()
        self.recurrent_linear = nn.Sequential(nn.Linear(stoch + actions, hidden), nn.ELU())
        self.gru_cell = nn.GRUCell(hidden, deter)
        self.representatio_model = nn.Sequential(
            nn.Linear(deter + embed, hidden), nn.ELU(), nn.Linear(hidden, stoch * 2)
        )
        self.transition_model = nn.Sequential(nn.Linear(deter, hidden), nn.ELU(), nn.Linear(hidden, stoch * 2))

    def recurrent(self, stoch: Tensor, action: Tensor, deter: Tensor) -> Tensor:
        return self.gru_cell(self.recurrent_linear(torch.cat((action, stoch), -1)), deter)

    def representation(self, embed: Tensor, deter: Tensor) -> tuple[Normal, Tensor]:
        mean, std = torch.chunk(self.representatio_model(torch.cat((embed, deter), -1)), 2, -1)
        std = F.softplus(std) + 0.1
        law = Normal(mean, std)
        return law, law.rsample()

    def transition(self, deter: Tensor) -> tuple[Normal, Tensor]:
        mean, std = torch.chunk(self.transition_model(deter), 2, -1)
        std = F.softplus(std) + 0.1
        law = Normal(mean, std)
        return law, law.rsample()


class WalkerDreamer(nn.Module):
    def __init__(self, stoch: int = 3, deter: int = 5, actions: int = 2) -> None:
        super().__init__()
        self.sizes = (stoch, deter)
        self.encoder = nn.Sequential(nn.Conv2d(1, 3, 4, 2), nn.ReLU(), nn.Flatten())
        self.rssm = WalkerRSSM(27, stoch, deter, actions)
        self.decoder = nn.Sequential(nn.Linear(stoch + deter, 9), nn.ReLU(), nn.Linear(9, 64))
        self.reward = nn.Sequential(nn.Linear(stoch + deter, 6), nn.ELU(), nn.Linear(6, 1))
        self.actor = nn.Sequential(nn.Linear(stoch + deter, 6), nn.ELU(), nn.Linear(6, 2 * actions))
        self.critic = nn.Sequential(nn.Linear(stoch + deter, 6), nn.ELU(), nn.Linear(6, 1))

    def act(self, stoch: Tensor, deter: Tensor, init_std: float = 5.0) -> Tensor:
        raw_init_std = math.log(math.exp(init_std) - 1)
        mean, std = torch.chunk(self.actor(torch.cat((stoch, deter), -1)), 2, -1)
        mean = 5 * F.tanh(mean / 5)
        std = F.softplus(std + raw_init_std) + 1e-4
        law = TransformedDistribution(Normal(mean, std), [TanhTransform()])
        return Independent(law, 1).rsample()


def dynamics_loss(model: Any, obs: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    (batch, length), (stoch, deter) = obs.shape[:2], model.sizes
    embedded = model.encoder(obs.flatten(0, 1)).view(batch, length, -1)
    posterior_, deterministic = torch.zeros(batch, stoch), torch.zeros(batch, deter)
    posteriors, deterministics = torch.zeros(batch, length - 1, stoch), torch.zeros(batch, length - 1, deter)
    means, stds, prior_means, prior_stds = (torch.zeros_like(posteriors) for _ in range(4))
    for t in range(1, length):
        deterministic = model.rssm.recurrent(posterior_, actions[:, t - 1], deterministic)
        prior_law, _ = model.rssm.transition(deterministic)
        law, posterior_ = model.rssm.representation(embedded[:, t], deterministic)
        posteriors[:, t - 1], deterministics[:, t - 1] = posterior_, deterministic
        means[:, t - 1], stds[:, t - 1] = law.mean, law.scale
        prior_means[:, t - 1], prior_stds[:, t - 1] = prior_law.mean, prior_law.scale
    state = torch.cat((posteriors, deterministics), -1)
    pictures = Independent(Normal(model.decoder(state).view(batch, length - 1, 1, 8, 8), 1), 3)
    prizes = Independent(Normal(model.reward(state), 1), 1)
    kl = kl_divergence(Independent(Normal(means, stds), 1), Independent(Normal(prior_means, prior_stds), 1))
    kl = torch.max(torch.mean(kl), torch.tensor(0.3))
    return kl - pictures.log_prob(obs[:, 1:]).mean() - prizes.log_prob(rewards[:, 1:]).mean()


def behaviour_loss(model: Any, stoch: Tensor, deter: Tensor, horizon: int = 3) -> Tensor:
    """The actor's step, and the critic's."""
    states = []
    for _ in range(horizon):
        action = model.act(stoch, deter)
        deter = model.rssm.recurrent(stoch, action, deter)
        _, stoch = model.rssm.transition(deter)
        states.append(torch.cat((stoch, deter), -1))
    path = torch.stack(states, 1)
    rewards, values = model.reward(path), model.critic(path)
    returns, last = [], values[:, -1]
    for t in reversed(range(horizon - 1)):
        last = rewards[:, t] + 0.99 * (0.05 * values[:, t + 1] + 0.95 * last)
        returns.insert(0, last)
    found = torch.stack(returns, 1)
    critic = Independent(Normal(model.critic(path[:, :-1].detach()), 1), 1)
    return -found.mean() - critic.log_prob(found.detach()).mean()


def a_tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def around_five(v: Tensor) -> Tensor:
    return F.softplus(v + math.log(math.exp(5.0) - 1)) + 1e-4


class GatedLaw(nn.Module):
    """What it calls logsigma is a log variance."""

    def __init__(self, n_in: int, latent: int, hidden: int = 7) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, hidden), nn.Linear(n_in, hidden)
        self.fc_mu, self.fc_logsigma = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.tanh(self.fc1(x))
        t = t * torch.sigmoid(self.fc2(x))
        return self.fc_mu(t), self.fc_logsigma(t)


class JumpyTDVAE(nn.Module):
    """One state layer. A belief's law is a posterior later, and a prior earlier."""

    def __init__(self, data: int = 8, belief: int = 5, latent: int = 3) -> None:
        super().__init__()
        self.process_x = nn.Sequential(nn.Linear(data, data), nn.ReLU(), nn.Linear(data, data), nn.ReLU())
        self.b_rnn = nn.LSTM(data, belief, batch_first=True)
        self.z_b = nn.ModuleList([GatedLaw(belief, latent)])
        self.z1_z2_b1 = nn.ModuleList([GatedLaw(belief + latent, latent)])
        self.z2_z1 = nn.ModuleList([GatedLaw(latent, latent)])
        self.x_z = nn.Sequential(nn.Linear(latent, 9), nn.Tanh(), nn.Linear(9, data), nn.Sigmoid())

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return torch.randn_like(std).mul(std).add_(mu)

    def forward(self, x: Tensor) -> Tensor:
        t1 = torch.randint(0, x.shape[1] - 3, (len(x),))
        t2 = t1 + torch.randint(1, 4, (len(x),))
        b, _ = self.b_rnn(self.process_x(x))
        b1, b2 = (b.gather(1, t[:, None, None].expand(-1, -1, b.shape[2])).squeeze(1) for t in (t1, t2))
        qb = self.z_b[0](b2)
        z2 = self.reparameterize(*qb)
        qs = self.z1_z2_b1[0](torch.cat([z2, b1], dim=1))
        pt = self.z2_z1[0](self.reparameterize(*qs))
        pb = self.z_b[0](b1)
        difference = qs[1] - pb[1]
        kl = -0.5 * (1.0 + difference - difference.exp() - ((qs[0] - pb[0]) ** 2 / pb[1].exp()))
        shift = (gaussian_log_prob(*qb, z2) - gaussian_log_prob(*pt, z2)).mean()
        x2 = x.gather(1, t2[:, None, None].expand(-1, -1, x.shape[2])).squeeze(1)
        error = F.binary_cross_entropy(self.x_z(z2), x2, reduction="sum") / len(x)
        return error + kl.sum(dim=-1).mean() + shift


def gaussian_log_prob(mu: Tensor, logvar: Tensor, x: Tensor) -> Tensor:
    return (-0.5 * (math.log(2 * math.pi) + logvar + (x - mu) ** 2 / logvar.exp())).sum(dim=-1)


class FramePredictor(nn.Module):
    """Frames that come, from those that were. Its noise is drawn with the mean and the scale, and moved by both again;
    its default has no KL."""

    def __init__(self, width: int = 3, latent: int = 4) -> None:
        super().__init__()
        self.encoder1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.bottleneck = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.ReLU())
        self.mu, self.sigma = nn.Linear(2 * width, latent), nn.Linear(2 * width, latent)
        self.lstm_encoder, self.lstm_decoder = nn.LSTM(latent, latent), nn.LSTM(latent, latent)
        self.upconv = nn.Sequential(
            nn.ConvTranspose2d(latent, width, 4), nn.ReLU(), nn.ConvTranspose2d(width, width, 2, 2), nn.ReLU()
        )
        self.conv = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor, spans: list[tuple[int, int]], steps: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(self.bottleneck(F.max_pool2d(self.encoder1(x), 2)), 1).flatten(1)
        z_mu, z_sigma = self.mu(pooled), self.sigma(pooled)
        eps = torch.randn(*z_mu.shape) * z_sigma + z_mu
        z = z_mu + z_sigma * eps
        seen = torch.stack([z[start:stop] for start, stop in spans]).permute(1, 0, 2)
        _, hidden = self.lstm_encoder(seen)
        preds, _ = self.lstm_decoder(torch.zeros(max(steps), len(spans), z.shape[1]), hidden)
        preds = preds.permute(1, 0, 2)
        wanted = torch.cat([preds[i][:step] for i, step in enumerate(steps)], dim=0)
        return self.conv(self.upconv(wanted.unsqueeze(-1).unsqueeze(-1))), z_mu, z_sigma


def frames_loss(model: Any, x: Tensor, later: Tensor, spans: Any, steps: Any) -> Tensor:
    decoded, _, _ = model(x, spans, steps)
    return F.mse_loss(decoded, later)


def frames() -> tuple[Any, ...]:
    return rand(6, 1, 8, 8), rand(3, 1, 8, 8, seed=9), [(0, 3), (3, 6)], [2, 1]


def squared(v: Tensor) -> Tensor:
    return v * v


class FilmVAE(nn.Module):
    """The last layer of the encoder has both halves."""

    def __init__(self, items: int = 12, latent: int = 3, hidden: int = 7) -> None:
        super().__init__()
        self.latent_dim, self.dropout, self.activation = latent, nn.Dropout(p=0.5), nn.Tanh()
        self.encoder = nn.ModuleList([nn.Linear(items, hidden), nn.Linear(hidden, 2 * latent)])
        self.decoder = nn.ModuleList([nn.Linear(latent, hidden), nn.Linear(hidden, items)])
        for layer in (*self.encoder, *self.decoder):
            nn.init.xavier_normal_(layer.weight.data)
            layer.bias.data.normal_(0.0, 0.001)

    def through(self, layers: nn.ModuleList, h: Tensor) -> Tensor:
        for layer in layers[:-1]:
            h = self.activation(layer(h))
        return layers[-1](h)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if self.training:
            std = torch.exp(0.5 * logvar)
            return mu + torch.randn_like(std) * std
        return mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.through(self.encoder, self.dropout(F.normalize(x, p=2, dim=1)))
        mu, logvar = h[:, : self.latent_dim], h[:, self.latent_dim :]
        return self.through(self.decoder, self.reparameterize(mu, logvar)), mu, logvar


def films_loss(model: Any, x: Tensor, beta: float = 0.3) -> Tensor:
    out, mu, logvar = model(x)
    error = -torch.mean(torch.sum(F.log_softmax(out, dim=1) * x, dim=1))
    return error + beta * (-0.5 * torch.mean(torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)))


def watched() -> tuple[Tensor, ...]:
    x = bits(6, 12)
    x[:, 0] = 1.0
    return (x,)


# ------------------------------------------------------------------------------------------------- without a head


class DiagonalLayer(nn.Module):
    """States that decay: rates and steps are exponentials of parameters."""

    def __init__(self, n_in: int, hidden: int, states: int = 2) -> None:
        super().__init__()
        self.hidden, self.linear = hidden, nn.Linear(n_in, hidden)
        self.log_A_real_half = nn.Parameter(torch.log(torch.full((hidden, states), 0.5)))
        self.A_imag_half = nn.Parameter((math.pi * torch.arange(states)).repeat(hidden, 1))
        log_dt = torch.rand(states) * (math.log(1e-1) - math.log(1e-3)) + math.log(1e-3)
        self.log_dt_half = nn.Parameter(log_dt.repeat(hidden, 1), requires_grad=False)
        self.B_half = nn.Parameter(torch.ones(hidden, states, 1))
        self.C_half = nn.Parameter(torch.randn(hidden, 1, states))

    def forward(self, x: Tensor) -> Tensor:
        rate = -torch.exp(self.log_A_real_half) + 1j * self.A_imag_half
        dt = torch.exp(self.log_dt_half).to(torch.cfloat)
        moved = (1 + dt * rate / 2) / (1 - dt * rate / 2)
        read = (dt / (1 - dt * rate / 2))[:, :, None] * self.B_half.to(torch.cfloat)
        state, outputs = torch.zeros(len(x), moved.shape[1], self.hidden, dtype=torch.cfloat), []
        for step in self.linear(x).transpose(0, 1):
            came = torch.einsum("hni,bhi->bnh", read, step.unsqueeze(-1).to(torch.cfloat))
            state = torch.einsum("nh,bnh->bnh", moved.transpose(0, 1), state) + came
            outputs.append(2 * torch.einsum("hon,bnh->bho", self.C_half.to(torch.cfloat), state).real.flatten(1))
        return torch.stack(outputs, dim=1)


class StateSpaceForecast(nn.Module):
    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.snn = nn.ModuleList([DiagonalLayer(1, hidden), DiagonalLayer(hidden, hidden), nn.Linear(hidden, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.snn:
            x = layer(x)
        return x


def masked_forecast(model: Any, x: Tensor, y: Tensor, past: int = 5) -> Tensor:
    mean = x[:, :past].mean(dim=1, keepdim=True)
    shown = torch.cat([x[:, :past] - mean, torch.zeros_like(x[:, past:])], dim=1)
    return F.mse_loss((model(shown) + mean)[:, past:], y[:, past:])


class CartDQN(nn.Module):
    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.agent, self.target_agent = (relu_layers(states, 8, 8, actions) for _ in range(2))

    def update(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor) -> Tensor:
        target = r + 0.99 * self.target_agent(s2).detach().max(1)[0]
        return F.smooth_l1_loss(self.agent(s).gather(1, a.unsqueeze(1)), target.unsqueeze(1))


class TwinDelayed(nn.Module):
    """Noise of a fixed scale, within bounds, is added to the next actions."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.policy, self.target_policy = (
            nn.Sequential(*relu_layers(states, 8, 7, actions), nn.Tanh()) for _ in range(2)
        )
        self.critic1, self.critic2 = (relu_layers(states + actions, 8, 7, 1) for _ in range(2))
        self.target_critic1, self.target_critic2 = (relu_layers(states + actions, 8, 7, 1) for _ in range(2))

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        with torch.no_grad():
            a2 = self.target_policy(s2)
        noise = torch.normal(0, 0.2, size=a2.size())
        noise.clamp_(-0.5, 0.5)
        a2 = (a2 + noise).clamp_(-1, 1)
        with torch.no_grad():
            after = torch.cat([s2, a2], -1)
            next_q = torch.min(self.target_critic1(after), self.target_critic2(after)).squeeze(-1)
        target, both = r + 0.99 * next_q * (1 - done), torch.cat([s, a], -1)
        loss = sum(F.mse_loss(q(both).squeeze(-1), target) for q in (self.critic1, self.critic2))
        return loss - self.critic1(torch.cat([s, self.policy(s)], -1)).mean()


class AttentiveTranslator(nn.Module):
    """Input feeding and Luong's attention."""

    def __init__(self, words: int = 10, width: int = 5, hidden: int = 6) -> None:
        super().__init__()
        self.enc_embed, self.dec_embed = nn.Embedding(words, width, 0), nn.Embedding(words, width, 0)
        self.enc_rnn = nn.GRU(width, hidden // 2, batch_first=True, bidirectional=True)
        self.dec_rnn = nn.GRU(width + hidden, hidden // 2, batch_first=True, bidirectional=True)
        self.Wc, self.Wo = nn.Linear(hidden * 2, hidden), nn.Linear(hidden, words)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = x.eq(0)
        packed = nn.utils.rnn.pack_padded_sequence(self.enc_embed(x), (~mask).sum(1), batch_first=True)
        out, state = self.enc_rnn(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
        h, word, outputs = torch.zeros(len(x), 1, memory.shape[2]), torch.ones(len(x), dtype=torch.long), []
        for t in range(y.shape[1]):
            read, state = self.dec_rnn(torch.cat([self.dec_embed(word.unsqueeze(1)), h], 2), state)
            score = read.bmm(memory.transpose(1, 2)).masked_fill(mask.unsqueeze(1), -10000)
            h = self.Wc(torch.cat([F.softmax(score, 2).bmm(memory), read], 2)).tanh()
            outputs.append(F.log_softmax(self.Wo(h).squeeze(1), dim=1))
            word = y[:, t]
        return F.nll_loss(torch.stack(outputs).transpose(0, 1).flatten(0, 1), y.reshape(-1), ignore_index=0)


def pairs_of_sentences() -> tuple[Tensor, ...]:
    x, y = tokens(10, 4, 5, low=4), tokens(10, 4, 4, low=4, seed=9)
    x[2:, 4], x[3, 3], y[1, 3] = 0, 0, 0
    return x, y


class SquaresIQL(nn.Module):
    """Its policy's second half, called log_std, is computed and read by nobody; actions have squares."""

    def __init__(self, states: int = 4, actions: int = 2) -> None:
        super().__init__()
        self.actor, self.value = relu_layers(states, 8, 8, 2 * actions), relu_layers(states, 8, 8, 1)
        self.critic = nn.ModuleList(relu_layers(states + actions, 8, 8, 1) for _ in range(2))
        self.critic_target = nn.ModuleList(relu_layers(states + actions, 8, 8, 1) for _ in range(2))

    def act(self, s: Tensor) -> Tensor:
        mu, _log_std = self.actor(s).chunk(2, dim=-1)
        return torch.tanh(mu)

    def update(self, s: Tensor, a: Tensor, s2: Tensor, r: Tensor, done: Tensor) -> Tensor:
        both = torch.cat([s, a], 1)
        with torch.no_grad():
            q = torch.minimum(*(q(both) for q in self.critic_target))
            target = r.unsqueeze(1) + 0.99 * (1 - done.unsqueeze(1)) * self.value(s2)
        diff = q - self.value(s)
        value_loss = (torch.where(diff > 0, 0.7, 0.3) * diff**2).mean()
        weight = torch.clamp(torch.exp(diff.detach() * 3.0), max=100.0)
        actor_loss = (weight * (self.act(s) - a) ** 2).mean()
        return value_loss + actor_loss + sum(((q(both) - target) ** 2).mean() for q in self.critic)


# ------------------------------------------------------------------------ functions, brains, walkers, motion, points


class PixelProcess(nn.Module):
    """A code of all pixels is drawn without a gradient, and compared with the context's."""

    def __init__(self, place: int = 2, r: int = 6, latent: int = 3) -> None:
        super().__init__()
        self.encoder = relu_layers(place + 1, 5, 7, r)
        self.z_decoder = nn.ModuleDict({"fc_mu": nn.Linear(r, latent), "fc_sigma": nn.Linear(r, latent)})
        self.decoder = nn.Module()
        self.decoder.layers = nn.Sequential(*relu_layers(place + latent, 8, 8), nn.ReLU())
        self.decoder.fc_mu, self.decoder.fc_sigma = nn.Linear(8, 1), nn.Linear(8, 1)

    def code(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.mean(self.encoder(torch.cat([x, y], dim=1)), dim=0)
        return self.z_decoder["fc_mu"](r), F.softplus(self.z_decoder["fc_sigma"](r))

    def decode(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(0).expand(z.shape[0], -1, -1).transpose(0, 1)
        h = self.decoder.layers(torch.cat([x, z.unsqueeze(0).expand(x.shape[0], -1, -1)], dim=-1))
        return self.decoder.fc_mu(h), F.softplus(self.decoder.fc_sigma(h))

    def elbo(self, x: Tensor, y: Tensor, seen: Tensor, samples: int = 3) -> Tensor:
        mu, sigma = self.code(x, y)
        mu_ctx, sigma_ctx = self.code(x[seen], y[seen])
        s, t = sigma + 1e-16, sigma_ctx + 1e-16
        kld = ((s**2 + (mu - mu_ctx) ** 2) / t**2 - 1 + 2 * torch.log(t / s)).sum() / 2
        z = Normal(mu, sigma).sample((samples,))
        mean, scale = self.decode(x[~seen], z)
        target, mean, scale = y[~seen].unsqueeze(dim=1), mean.unsqueeze(dim=0), scale.unsqueeze(dim=0)
        return (-((target - mean) ** 2) / (2 * scale**2) - torch.log(scale)).sum(dim=0).mean() - kld


def pixels_loss(model: Any, x: Tensor, pictures: Tensor, seen: Tensor) -> Tensor:
    return sum((-model.elbo(x, y, seen) for y in pictures), torch.zeros(())) / len(pictures)


def some_pixels() -> tuple[Tensor, ...]:
    return rand(9, 2) * 2 - 1, randn(3, 9, 1), torch.arange(9) % 3 == 0


class CortexVAE(nn.Module):
    """Both halves of a cortex, each padded around in one direction."""

    def __init__(self, size: int = 16, latent: int = 3) -> None:
        super().__init__()
        self.latent, self.top = latent, size // 4
        self.ConvL, self.ConvR = nn.Conv2d(1, 2, 8, 2), nn.Conv2d(1, 2, 8, 2)
        self.EncConvs = nn.ModuleList([nn.Conv2d(4, 5, 4, 2)])
        self.fc1, self.fc2 = nn.Linear(5 * self.top**2, latent * 2), nn.Linear(latent, 5 * self.top**2)
        self.DecConvs = nn.ModuleList([nn.ConvTranspose2d(5, 4, 4, 2, 3)])
        self.tConvL, self.tConvR = nn.ConvTranspose2d(2, 1, 8, 2, 9), nn.ConvTranspose2d(2, 1, 8, 2, 9)
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def around(x: Tensor, padding: int) -> Tensor:
        return F.pad(F.pad(x, (padding, padding, 0, 0), "constant", 0), (0, 0, padding, padding), "circular")

    def encode(self, left: Tensor, right: Tensor) -> Tensor:
        x = self.relu(torch.cat((self.ConvL(self.around(left, 3)), self.ConvR(self.around(right, 3))), 1))
        x = self.relu(self.EncConvs[0](self.around(x, 1)))
        return self.fc1(x.view(len(x), -1))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self.relu(self.fc2(z).view(-1, 5, self.top, self.top))
        left, right = torch.chunk(self.relu(self.DecConvs[0](self.around(x, 1))), 2, dim=1)
        return self.tConvL(self.around(left, 3)), self.tConvR(self.around(right, 3))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = logvar.true_divide(2).exp()
        eps = std.data.new(std.size()).normal_()
        return mu + std * eps

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        both = self.encode(left, right)
        mu, logvar = both[:, : self.latent], both[:, self.latent :]
        return *self.decode(self.reparameterize(mu, logvar)), mu, logvar


def cortex_loss(model: Any, left: Tensor, right: Tensor, beta: float = 10.0) -> Tensor:
    recon_l, recon_r, mu, logvar = model(left, right)
    kld = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
    return kld * beta + F.mse_loss(recon_l, left) + F.mse_loss(recon_r, right)


class ListedLayers(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class ResidualStep(nn.Module):
    """What a model of forces leaves over of a pedestrian's next step; in doubles."""

    def __init__(self, past: int = 8, features: int = 5, latent: int = 4) -> None:
        super().__init__()
        self.zdim = latent
        self.encoder_past = ListedLayers((past + 1) * 2, 9, features)
        self.encoder_dest, self.encoder_latent = ListedLayers(2, 7, features), ListedLayers(2 * features, 8, 2 * latent)
        self.decoder = ListedLayers(features + latent, 9, 2)
        self.double()

    def forward(self, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        past = self.encoder_past(x)
        latent = self.encoder_latent(torch.cat((past, self.encoder_dest(step)), dim=1))
        mu, logvar = latent[:, 0 : self.zdim], latent[:, self.zdim :]
        var = logvar.mul(0.5).exp_()
        eps = torch.empty(var.size(), dtype=torch.double).normal_()
        z = eps.mul(var).add_(mu)
        return self.decoder(torch.cat((past, z), dim=1)), mu, logvar


def residual_loss(model: Any, x: Tensor, step: Tensor) -> Tensor:
    recon, mu, logvar = model(x, step)
    return kl_to_unit(mu, logvar) + F.mse_loss(step, recon)


class MotionTokens(nn.Module):
    """Transformers around a code of the whole motion."""

    def __init__(self, length: int = 4, joints: int = 2, latent: int = 3, hidden: int = 2) -> None:
        super().__init__()
        width = self.width = 3 * joints
        self.length, self.activation = length, nn.ELU()
        self.transformer_encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 2, 9, batch_first=True, norm_first=True), 1, nn.LayerNorm(width),
            enable_nested_tensor=False,
        )  # fmt: skip
        self.encoder_linear_block = nn.Sequential(
            nn.Linear(width * length, 4 * hidden), self.activation, nn.Dropout(0.1),
            nn.Linear(4 * hidden, 2 * hidden), self.activation, nn.Dropout(0.1), nn.Linear(2 * hidden, 2 * latent),
        )  # fmt: skip
        self.decoder_linear_block = nn.Sequential(
            nn.Linear(latent, 4 * hidden), self.activation, nn.Dropout(0.1), nn.Linear(4 * hidden, width * length),
            self.activation,
        )  # fmt: skip
        self.transformer_decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, 2, 9, batch_first=True, norm_first=True), 1
        )
        self.output_block = nn.Sequential(nn.Flatten(), nn.Linear(width * length, width * length))
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def reparametrize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.transformer_encoder(x.view(-1, self.length, self.width)).view(len(x), -1)
        mu, logvar = self.encoder_linear_block(h).chunk(2, dim=1)
        h = self.decoder_linear_block(self.reparametrize(mu, logvar)).view(-1, self.length, self.width)
        return self.output_block(self.transformer_decoder(h, h)).view(x.shape), mu, logvar


def motion_loss(model: Any, x: Tensor) -> Tensor:
    recon, mu, logvar = model(x)
    error = F.mse_loss(recon, x) + F.mse_loss(recon.diff(dim=1), x.diff(dim=1))
    return error + 1e-3 * kl_to_unit(mu, logvar)


class LeakyBlock(nn.Module):
    """What it returns is a sum of two convolutions' outputs."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.LeakyReLU(), nn.Conv1d(n_in, n_in, 3, padding=1), nn.LeakyReLU(), nn.Conv1d(n_in, n_out, 3, padding=1)
        )
        self.shortcut = nn.Sequential(nn.Conv1d(n_in, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.shortcut(x)


class TwoPaths(nn.Module):
    """One path from what is hidden, one from what is seen. The KL of the first has a fixed Normal as its first
    argument; the second's is from the first, which is held."""

    def __init__(self, poses: int = 4, width: int = 5, latent: int = 3) -> None:
        super().__init__()
        self.latent, self.block0 = latent, LeakyBlock(poses, width)
        self.infer_prior0, self.posterior = LeakyBlock(width, width), LeakyBlock(width, 2 * latent)
        self.prior = LeakyBlock(width, 2 * latent)
        self.generator = nn.Sequential(LeakyBlock(latent + width, width), LeakyBlock(width, poses))

    def forward(self, poses: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        f_m, f_c = self.block0(torch.cat([mask * poses, (1 - mask) * poses], dim=0)).chunk(2)
        p_mu, p_std = torch.split(self.posterior(f_c), self.latent, dim=1)
        q_mu, q_std = torch.split(self.prior(self.infer_prior0(f_m)), self.latent, dim=1)
        p_sigma, q_sigma = F.softplus(p_std), F.softplus(q_std)
        valid = (torch.mean(mask.view(len(mask), -1), dim=1) - 1e-5).view(-1, 1, 1)
        m_sigma = 1 / (1 + ((valid - 0.8) * 8).exp_())
        p, q = Normal(p_mu, p_sigma), Normal(q_mu, q_sigma)
        fixed = Normal(torch.zeros_like(p_mu), m_sigma * torch.ones_like(p_sigma))
        kl_rec = kl_divergence(fixed, p)
        kl_g = kl_divergence(Normal(p_mu.detach(), p_sigma.detach()), q)
        z = torch.cat([p.rsample(), q.rsample()], dim=0)
        rec, made = self.generator(torch.cat([z, f_m.repeat(2, 1, 1)], dim=1)).chunk(2)
        return rec, made, kl_rec, kl_g


def two_paths_loss(model: Any, poses: Tensor, mask: Tensor) -> Tensor:
    """The generator's, without its discriminators."""
    rec, made, kl_rec, kl_g = model(poses, mask)
    errors = F.l1_loss(rec, poses) + F.l1_loss(made * mask, poses * mask)
    return 20.0 * errors + 20.0 * (kl_rec.mean() + kl_g.mean())


def masked_poses() -> tuple[Tensor, ...]:
    return randn(4, 4, 6), (torch.arange(6) < 3).float().expand(4, 1, 6)


class PointTransformer(nn.Module):
    """Each target attends to the context alone."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedder = relu_layers(2, width, width, width)
        layer = nn.TransformerEncoderLayer(width, 2, 12, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.predictor = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 2))

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor, yt: Tensor) -> Tensor:
        known, asked = torch.cat((xc, yc), dim=-1), torch.cat((xt, torch.zeros_like(yt)), dim=-1)
        n = xc.shape[1] + xt.shape[1]
        mask = torch.zeros(n, n).fill_(float("-inf"))
        mask[:, : xc.shape[1]] = 0.0
        out = self.encoder(self.embedder(torch.cat((known, asked), dim=1)), mask=mask)[:, -xt.shape[1] :]
        mean, std = torch.chunk(self.predictor(out), 2, dim=-1)
        std = torch.exp(std)
        return -Normal(mean, std).log_prob(yt).sum(-1).mean()


# ------------------------------------------------------------------------------------------------ folds of a protein


class NormedBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.net(x))


class FoldCVAE(nn.Module):
    """Bonds, angles and torsions of a chain; its KL has free bits in each channel."""

    def __init__(self, atoms: int = 6, latent: int = 3, labels: int = 2) -> None:
        super().__init__()
        self.atoms, data = atoms, (atoms - 1) + (atoms - 2) + 2 * (atoms - 3)
        self.enc_label_emb, self.dec_label_emb = nn.Embedding(labels, 2), nn.Embedding(labels, 2)
        self.encoder = nn.Sequential(nn.Linear(data + 2, 9), nn.GELU(), NormedBlock(9), nn.Linear(9, 8), nn.GELU())
        self.fc_mu, self.fc_log_var = nn.Linear(8, latent), nn.Linear(8, latent)
        self.decoder = nn.Sequential(nn.Linear(latent + 2, 8), nn.GELU(), NormedBlock(8), nn.Linear(8, data))

    def reparameterize(self, mu: Tensor, log_var: Tensor) -> Tensor:
        return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(torch.cat([x, self.enc_label_emb(label)], dim=-1))
        mu, log_var = self.fc_mu(h), self.fc_log_var(h)
        z = self.reparameterize(mu, log_var)
        return self.decoder(torch.cat([z, self.dec_label_emb(label)], dim=-1)), mu, log_var

    def fold(self, x: Tensor) -> Tensor:
        """Where its atoms lie."""
        b, a = self.atoms - 1, self.atoms - 2
        bonds = torch.clamp(x[:, :b] * 0.1 + 3.8, 3.5, 4.1)
        bends = math.pi - torch.clamp(x[:, b : b + a] * 0.2 + 1.8, 0.5, 3.0)
        turns = torch.atan2(x[:, b + a : b + a + self.atoms - 3], x[:, b + a + self.atoms - 3 :])
        zero = torch.zeros(len(x))
        atoms = [torch.zeros(len(x), 3), torch.stack([bonds[:, 0], zero, zero], 1)]
        third = [bonds[:, 1] * torch.cos(bends[:, 0]), zero, bonds[:, 1] * torch.sin(bends[:, 0])]
        atoms.append(atoms[1] + torch.stack(third, 1))
        for i in range(3, self.atoms):
            d1, d2 = atoms[-1] - atoms[-2], atoms[-2] - atoms[-3]
            e1 = d1 / (d1.norm(dim=1, keepdim=True) + 1e-8)
            n = torch.cross(d2, d1, dim=1)
            n = n / (n.norm(dim=1, keepdim=True) + 1e-8)
            e2 = torch.cross(n, e1, dim=1)
            bond, bend, turn = (v.unsqueeze(1) for v in (bonds[:, i - 1], bends[:, i - 2], turns[:, i - 3]))
            sideways = torch.cos(turn) * e2 + torch.sin(turn) * n
            atoms.append(atoms[-1] + bond * (torch.cos(bend) * e1 + torch.sin(bend) * sideways))
        return torch.stack(atoms, 1)


def fold_loss(model: Any, x: Tensor, atoms: Tensor, label: Tensor) -> Tensor:
    out, mu, log_var = model(x, label)
    kl = (-0.5 * (1 + log_var - mu.pow(2) - log_var.exp())).mean(dim=0)
    kl = torch.maximum(kl, torch.tensor(0.5)).mean()
    made = model.fold(out)
    apart = F.l1_loss(torch.cdist(made, made), torch.cdist(atoms, atoms))
    turns = F.mse_loss(out[:, -6:-3], x[:, -6:-3]) + F.mse_loss(out[:, -3:], x[:, -3:])
    return F.mse_loss(out, x) + 0.05 * kl + 0.05 * apart + 3.5 * turns


# ------------------------------------------------------------------------------------------- a swimmer, a confounder


class Swimmer(nn.Module):
    """Upstream it is called without `forward`, by a `__call__` of its own, and so is this."""

    def __init__(self, states: int = 5, actions: int = 2, width: int = 8) -> None:
        super().__init__()
        self.sequential = nn.Sequential(nn.Linear(states, width), nn.ReLU())
        self.mean_out, self.var_out = nn.Linear(width, actions), nn.Linear(width, actions)
        self.softplus = nn.Softplus()
        for layer in (self.sequential[0], self.mean_out, self.var_out):
            nn.init.xavier_uniform_(layer.weight, gain=0.5)
            nn.init.zeros_(layer.bias)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.sequential(x)
        return self.mean_out(out), self.softplus(self.var_out(out))

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self(x)
        law = Normal(mean, var)
        return law.log_prob(law.sample()), var


def swimmer_loss(model: Any, states: Tensor, advantages: Tensor) -> Tensor:
    """Each step is acted alone, and the rows are stacked."""
    acted = [model.predict(state[None]) for state in states]
    log_p, var = (torch.vstack(rows) for rows in zip(*acted, strict=True))
    entropy = 0.0 * (-(torch.log(2 * math.pi * var) + 1) / 2).mean()
    return ((-advantages[:, None] * log_p + entropy) / len(states)).sum()


class DiagonalNormal(nn.Module):
    """A layer that gives a law, by a `__call__` of its own, as upstream."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(actions))

    def __call__(self, mean: Tensor) -> Independent:
        return Independent(Normal(loc=mean, scale=torch.exp(self.log_std)), 1)


class TrustedSwimmer(nn.Module):
    """Upstream the two networks stand in a plain class."""

    def __init__(self, states: int = 5, actions: int = 2) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(states, 8), nn.Tanh(), nn.Linear(8, actions), DiagonalNormal(actions))
        self.value_fun = nn.Sequential(nn.Linear(states + 1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        with torch.no_grad():
            for layer in (self.policy[2], self.value_fun[4]):
                layer.weight.mul_(0.1)
                layer.bias.zero_()


def trust_region_loss(model: Any, s: Tensor, a: Tensor, timed: Tensor, adv: Tensor, q: Tensor) -> Tensor:
    """What it takes the gradients of, added: the surrogate, the KL from itself whose curvature is its metric, and the
    value's squares with a decay. Its step is found by conjugate gradients and a line search."""
    laws = model.policy(s)
    log_probs = laws.log_prob(a)
    gain = torch.mean(torch.exp(log_probs - log_probs.detach()) * adv)
    held = Independent(Normal(loc=laws.mean.detach(), scale=laws.stddev.detach()), 1)
    decay = sum(torch.sum(p**2) for p in model.value_fun.parameters())
    value = F.mse_loss(model.value_fun(timed).view(-1), q) + 1e-3 * decay
    return -gain + torch.mean(kl_divergence(held, laws)) + value


class ListedNet(nn.Module):
    """Layers with ReLU, then outer ones without."""

    def __init__(self, given: int, widths: list[int], out: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise([given, *widths]))
        self.out_layers = nn.ModuleList([nn.Linear(widths[-1], out)])
        if last is not None:
            self.out_layers.append(last)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        for layer in self.out_layers:
            x = layer(x)
        return x


class Deconfounder(nn.Module):
    """States, actions and rewards over a hidden walk. What it calls σ is a variance. Two nets serve the posterior and
    the prior, and the posterior takes the softplus of their softplus."""

    def __init__(self, x: int = 5, a: int = 1, r: int = 1, z: int = 4) -> None:
        super().__init__()
        self.z = z
        self.encoder = ListedNet(x, [9, 8], z)
        self.xarencoder = ListedNet(3 * z, [8], z)
        self.q_a_net, self.q_r_net = ListedNet(a, [7], z), ListedNet(r, [7], z)
        self.q_a_net_mu, self.q_a_net_sigma = self.law(x, [7], a)
        self.q_r_g_x_a_mu, self.q_r_g_x_a_sigma = self.law(2 * z, [7], r)
        self.p_x_net_mu, self.p_x_net_sigma = self.law(z, [8, 7], x)
        self.p_a_net_mu, self.p_a_net_sigma = self.law(z, [8, 7], a)
        self.p_r_net_mu, self.p_r_net_sigma = self.law(z + a, [8, 7], r)
        self.p_z_net, self.p_a_net = ListedNet(z, [8, 7], z), ListedNet(a, [8, 7], z)
        self.p_zeza_net = ListedNet(2 * z, [8, 7], z)
        self.lstm_net = nn.LSTM(z, z, 1, batch_first=True)
        self.st_net = ListedNet(2 * z, [7], z)
        self.h_mu_net, self.h_sigma_net = self.law(z, [7], z)

    @staticmethod
    def law(given: int, widths: list[int], out: int) -> tuple[ListedNet, ListedNet]:
        return ListedNet(given, widths, out), ListedNet(given, widths, out, nn.Softplus())

    def walk(self, x: Tensor, a: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of the posterior, each step from a draw of the one before."""
        fused = self.xarencoder(torch.cat([self.encoder(x), self.q_a_net(a), self.q_r_net(r)], dim=2))
        h, _ = self.lstm_net(fused)
        z, mus, variances = torch.zeros(len(x), self.z), [], []
        for step in range(x.shape[1]):
            hidden = self.st_net(torch.cat([z, h[:, step]], dim=-1))
            mu, variance = self.h_mu_net(hidden), F.softplus(self.h_sigma_net(hidden))
            z = mu + torch.randn(mu.size()) * torch.sqrt(1e-8 + variance)
            mus.append(mu)
            variances.append(variance)
        return torch.stack(mus, 1), torch.stack(variances, 1)

    def neg_elbo(self, x: Tensor, a: Tensor, r: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mu_q, var_q = self.walk(x, a, r)
        z = mu_q + torch.randn(mu_q.size()) * torch.sqrt(1e-8 + var_q)
        hidden = self.p_zeza_net(torch.cat([self.p_z_net(z), self.p_a_net(a)], 2))
        mu_p, var_p = self.h_mu_net(hidden), self.h_sigma_net(hidden)
        mu_p = torch.cat([torch.zeros(len(x), 1, self.z), mu_p[:, :-1]], 1)
        var_p = torch.cat([torch.ones(len(x), 1, self.z), var_p[:, :-1]], 1)
        of_prior, of_posterior = Normal(mu_p, torch.sqrt(var_p + 1e-8)), Normal(mu_q, torch.sqrt(var_q + 1e-8))
        kl = (kl_divergence(of_prior, of_posterior) * mask).sum(dim=2).mean()
        xa, za = torch.cat([self.encoder(x), self.q_a_net(a)], dim=-1), torch.cat([z, a], dim=-1)
        nll = (
            variance_nll(x, self.p_x_net_mu(z), self.p_x_net_sigma(z), mask)
            + variance_nll(a, self.p_a_net_mu(z), self.p_a_net_sigma(z), mask)
            + variance_nll(r, self.p_r_net_mu(za), self.p_r_net_sigma(za), mask)
            + variance_nll(a, self.q_a_net_mu(x), self.q_a_net_sigma(x), mask)
            + variance_nll(r, self.q_r_g_x_a_mu(xa), self.q_r_g_x_a_sigma(xa), mask)
        )
        return nll + 0.1 * kl, kl

    def recons(self, x: Tensor, a: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, variance = self.walk(x, a, r)
        z = mu + torch.randn(mu.size()) * torch.sqrt(1e-8 + variance)
        return self.p_x_net_mu(z), self.p_a_net_mu(z), self.p_r_net_mu(torch.cat([z, a], dim=-1))


def variance_nll(data: Tensor, mu: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
    nll = 0.5 * (math.log(2 * math.pi) + torch.log(1e-10 + variance) + (data - mu) ** 2 / (variance + 1e-10))
    return (nll * mask).sum(dim=-1).mean()


def deconfounded_loss(model: Any, x: Tensor, a: Tensor, r: Tensor, mask: Tensor) -> Tensor:
    nll, kl = model.neg_elbo(x, a, r, mask)
    pairs = zip((x, a, r), model.recons(x, a, r), strict=True)
    apart = (0.2 * torch.sqrt(1e-10 + ((u - v) ** 2).sum(-1).mean()) for u, v in pairs)
    return nll + kl + sum(apart)


def root_of_softplus(v: Tensor) -> Tensor:
    """The likelihoods' floor."""
    return torch.sqrt(F.softplus(v) + 1e-10)


def root_of_prior(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(v) + 1e-8)


def root_of_two(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(F.softplus(v)) + 1e-8)


# fmt: off
CASES: tuple[PublicCase, ...] = (
    PublicCase(
        "VAE for text (c-juhwan)",
        Retold(
            "c-juhwan/vae-text-augmentation-for-classification", "4f2523469ae373df07495e78f922d1c89928962e",
            "model/augmentation/aug_model.py, jobs/train/aug_train.py",
        ),
        AugmentedSentence, padded, (posterior("variational_logvar"),), augmented_loss,
        truth="aug_model.py: exp(0.5 logvar) draws. A slip: aug_train.py asks for another spelling than the model, so "
        "that no KL is in the loss; the default, in small letters, does not run",
    ),
    PublicCase(
        "CVAE of dialogue (Kirito0918)",
        Retold(
            "Kirito0918/cvae-dialog", "b5c32093f19f1450871c5b60cd1e85a648200142",
            "model/model.py, model/PriorNet.py, model/RecognizeNet.py, cvae.py",
        ),
        ReplyModel, a_dialogue, (posterior("recognize_net.mlp.output", 3, 6), prior("prior_net.mlp.output", 3, 6)),
        reply_loss,
        truth="model.py: exp(0.5 logvar) times noise that is an input; cvae.py gaussian_kld",
    ),
    PublicCase(
        "TopicRNN (tndoan)",
        Retold(
            "tndoan/Topic-VAE", "b3392e317ce86059b2cd5c4798d59b8b02ccea3c",
            "topicRNN/models.py, topicRNN/utils.py, topicRNN/train.py",
        ),
        TopicRNN, lambda: (tokens(12, 5, 6),), (posterior("encoder.sigma_layer"),), topic_rnn_loss,
        truth="utils.py reparameterize: exp(0.5 v) times zeros, a slip; kld takes v as a log variance. Hard to decide: "
        "σ draws nothing, and is in the KL. Weights that are beside the modules upstream are parameters here",
    ),
    PublicCase(
        "AMP-VRAE",
        Retold(
            "jimtsai23/Amortized-Mixture-Prior-Variational-Recurrent-Autoencoder",
            "9958fe0ab2673a81bcc479388384307de60bde1f", "duc/ampm/ampm_model.py, duc/ampm/summ_ampm.py",
        ),
        SelfPriorSentence, sentences_and_pseudo,
        (posterior("encoder.output", 3, 6), prior("encoder.output", 3, 6)), self_prior_loss,
        truth="ampm_model.py: exp(0.5 logvar); summ_ampm.py log_prior: a mixture of what the same layer says of other "
        "documents. Hard to decide: one layer is posterior and prior, as in the first look's VampPrior",
    ),
    PublicCase(
        "VRAE (Chung-I)",
        Retold(
            "Chung-I/Variational-Recurrent-Autoencoder-PyTorch", "3fef8c0686f60281aff157045439dff5654064b3",
            "onmt/Models.py, trainer.py",
        ),
        ReadByPReLU, lambda: (tokens(11, 5, 4, low=2), tokens(11, 6, 4, low=2, seed=9)),
        (posterior("nu_to_logvar", sigma=negative_abs),), read_loss,
        truth="Models.py encode: the log variance is -2 |v|, so that σ is exp(-|v|); trainer.py: the KL's elements are "
        "no less than kl_min, 0. Without its PReLU, which is off by default",
    ),
    PublicCase(
        "VAE-Tacotron (xcmyz)",
        Retold(
            "xcmyz/VAE-Tacotron", "d57dd0afd5b96e10569893d25fcdf51094ea8e88", "vae.py, network.py, loss.py, train.py",
        ),
        StyledTacotron, lambda: (tokens(9, 4, 5), rand(4, 8, 6), rand(4, 11, 6, seed=9)), (posterior("vae.FC2"),),
        styled_loss,
        truth="vae.py reparameterize: exp(log_var / 2); the KL, summed, counts ten times. Fewer banks and one GRU here",
    ),
    PublicCase(
        "Emotional voices (Jesper-Jung)",
        Retold(
            "Jesper-Jung/NovelEmoVAE-VoiceConversion", "7cae11b04c460701587eebb071a30f8bbc312d37",
            "model/model.py, model/module_vae/encoder.py, model/module_cnf/cnf.py, train.py",
        ),
        EmotionVoices,
        lambda: (rand(6, 6, 5), randn(6, 5, 4), randn(6, 3, seed=9), torch.tensor([0, 1, 2, 2, 1, 0])),
        tuple(posterior(f"adain_encoder.unshared_logvar.{i}") for i in range(3)), emotion_loss,
        truth="model.py reparam: exp(logvar / 2), of a layer for each emotion, of which the labels choose; its entropy "
        "is in the loss, and its draw's density under a continuous flow. Flow and decoder are shorter here",
    ),
    PublicCase(
        "VAE of music (aksaN000)",
        Retold(
            "aksaN000/vae-music-clustering", "1b1acc72d09ab877e0545a3a5965031cbef3de81",
            "src/models/conv_vae.py, src/models/vae.py, src/training/trainer.py",
        ),
        ClusteredMusic, lambda: (rand(5, 80),), (posterior("fc_logvar"),), clustered_loss,
        truth="conv_vae.py reparameterize: exp(0.5 logvar); vae.py vae_loss: KL averaged",
    ),
    PublicCase(
        "SRNN of speech (zihangdai)",
        Retold(
            "zihangdai/reexamine-srnn", "8f467a8267ec52e2610fc34d8f9b6536007d1243",
            "speech/models/base.py, speech/models/srnn.py, speech/models/output_layer.py, speech/train.py",
        ),
        ReexaminedSRNN, lambda: (randn(5, 3, 4), randn(5, 3, 4, seed=9)),
        (
            posterior("post.4", 3, 6, within_eight), prior("prior.4", 3, 6, within_eight),
            likelihood("crit", sigma=torch.exp),
        ), srnn_loss,
        truth="base.py: exp(0.5 clamp(v, -8, 8)), of the whole output; utils.py gaussian_kld. Hard to decide: "
        "output_layer.py GMCriterion's log σ is an einsum of its parameters, and a bias; no module emits it",
    ),
    PublicCase(
        "pi-VAE (wei-bbc-lab)",
        Retold(
            "wei-bbc-lab/pi-vae-pytorch", "b9c3b41a4fd0ef46ccf371471ac867bbafa95839",
            "pi_vae_pytorch/pivae.py, pi_vae_pytorch/encoders.py, pi_vae_pytorch/label_prior.py, "
            "pi_vae_pytorch/loss.py",
        ),
        PoissonNeurons, lambda: (tokens(4, 6, 9).float(), tokens(4, 6, seed=9)),
        (posterior("encoder.net.net.4", 2, 4), prior("label_prior.embedded_log_variance")), neurons_loss,
        truth="pivae.py compute_posterior: a product of two Normals, drawn by exp(0.5 v); loss.py: the KL of the "
        "product and of the encoder, each to the label's. Couplings are no Normals",
    ),
    PublicCase(
        "SketchRNN of birds (ivanpuhachov)",
        Retold(
            "ivanpuhachov/SketchRNN-Pytorch-Attention", "b14a3c228fa944b47c28d5c6a8a82556b5a5e2f6",
            "model.py, trainer.py",
        ),
        BirdSketches, strokes,
        (
            posterior("encoder.fc_sigma"), likelihood("decoder.fc_y", 12, 16, floored_exp),
            likelihood("decoder.fc_y", 16, 20, floored_exp),
        ), birds_loss,
        truth="model.py Encoder: exp(v / 2), the KL no less than 0.2; extract_params: max(exp(v), 1e-6) of a bivariate "
        "Normal with a correlation, in whose density (trainer.py) other numbers are added",
    ),
    PublicCase(
        "Latent ODE of cells (Cccccccloud)",
        Retold(
            "Cccccccloud/latent-ode-generation", "5821c2aa4ddb5afee6e515b4e928e2a5aa78b936",
            "latent_ode_rnn.py, train_dynamics.py",
        ),
        CellEvolver, lambda: (randn(5, 6, 9),), (posterior("gp_logvar_net.2"),), evolver_loss,
        truth="latent_ode_rnn.py: exp(0.5 logvar) of the path's points; train_dynamics.py: a KL without the means. "
        "Hard to decide: the network sees the path alone, which the data started; its KL is to N(0, 1): the posterior",
    ),
    PublicCase(
        "VAE of weather (zhengkai15)",
        Retold(
            "zhengkai15/weather-vae", "125b26f1813dac33e080590af898819e33b90a8d", "models/vanilla_vae.py, main.py",
        ),
        WeatherMap, lambda: (randn(3, 1, 8, 8),), (posterior("encode.log_var"),), weather_loss,
        truth="vanilla_vae.py reparameterize: exp(0.5 log_var), a map; KL summed over its channels. One stage here",
    ),
    PublicCase(
        "VAE of Burgers' waves (christian-jacobsen)",
        Retold(
            "christian-jacobsen/viscous-burgers-vae-rom", "753718df6160d934c68762b934fdf39c85209735",
            "rom_vae_dilated.py, vae_train.py, config_train.py",
        ),
        BurgersVAE, lambda: (randn(4, 1, 16),),
        (
            posterior("E1_lv.dilationblock3.dil_conv", sigma=half_of_gelu),
            likelihood("D1_lv.dilationblock3.dil_conv", sigma=half_of_gelu),
        ), burgers_loss,
        truth="rom_vae_dilated.py: exp(0.5 GELU(v)) draws, and exp(GELU(v)) is the data's variance. compute_kld is a "
        "zero, and the settings train the density alone. Hard to decide: the GELU, of no one direction, is one module "
        "of the whole network, so that the convolution in front of it is named",
    ),
    PublicCase(
        "PI-VAE of spectra (noonyue)",
        Retold(
            "noonyue/-PI-VAE", "7c94cc1514a1ce6d831dfa42ebdf99b2ef1a3562",
            "models/upgraded_pi_vae.py, models/transformer_encoder.py, train_upgraded_system.py",
        ),
        SpectraPIVAE, two_spectra, (posterior("uv_encoder.fc_logvar"), posterior("nir_encoder.fc_logvar")),
        spectra_step,
        truth="transformer_encoder.py reparameterize: exp(0.5 logvar), also of the spectra that are disturbed; KL "
        "summed. The decoders' peaks have widths, and are no density",
    ),
    PublicCase(
        "CVAE of metal sites (beef-broccoli)",
        Retold(
            "beef-broccoli/project-4995-protein-vae", "c597bed8a32ad53f8b05fbe946d3dcd693edfea6",
            "conv_cvae_metal_gen.py",
        ),
        MetalCVAE, lambda: (bits(5, 1, 16), bits(5, 3, seed=9)), (posterior("fc_var", sigma=half_of_softplus),),
        metal_loss,
        truth="conv_cvae_metal_gen.py forward: exp(softplus(v) / 2) draws; a slip: the KL has v itself as the log "
        "variance. Hard to decide: σ is what draws, as in earlier looks",
    ),
    PublicCase(
        "Latent SDE of funds (P2SAMAPA)",
        Retold(
            "P2SAMAPA/P2-ETF-NEURAL-SDE-LATENT", "6f31512e2d34b3de748dfcbc62016e5a3c74d70a",
            "neural_sde_latent.py, config.py",
        ),
        FundSDE, lambda: (0.1 * randn(6, 6, 1), 0.1 * randn(6, seed=9)),
        (posterior("encoder.4", 3, 6), prior("diffusion.4", sigma=None)), fund_loss,
        truth="neural_sde_latent.py reparameterize: exp(0.5 logvar); sde_step: exp(v) times the root of the step. Hard "
        "to decide: the steps go on from the code and have no density: the model's own transition, a prior's",
    ),
    PublicCase(
        "Active inference capsule (adanielnoel)",
        Retold(
            "adanielnoel/Active-Inference-Capsule", "b075ef55432c190e0dba1ace8536e944125d9437",
            "models/vae.py, models/vae_dense_obs.py, models/transition_model.py, models/active_inference_capsule.py",
        ),
        ActiveCapsule, lambda: (randn(5, 2), randn(5, 2, seed=9)),
        (posterior("vae.enc.c2", sigma=millionth), prior("transition_model.std_net", sigma=millionth)), capsule_step,
        truth="vae_dense_obs.py Enc and transition_model.py: softplus + 1e-6; the observations' σ is a number. Hard to "
        "decide: the transition's KL has its arguments exchanged, to a posterior that is detached: the model of what "
        "comes, a prior's",
    ),
    PublicCase(
        "IQL (gwthomas)",
        Retold("gwthomas/IQL-PyTorch", "71ea1aa313bb9d4bc4526bbb1824c9d6f4a46b92", "src/policy.py, src/iql.py"),
        ImplicitQ, flat_steps, (likelihood("policy.log_std", sigma=minus_five_to_two),), one_update,
        truth="policy.py GaussianPolicy: exp(clamp(v, -5, 2)) of a parameter, the diagonal of a scale_tril; the "
        "density of actions, weighed",
    ),
    PublicCase(
        "SAC (zhihanyang2022)",
        Retold("zhihanyang2022/pytorch-sac", "9a28e4274f58db3438b4b601c09e06f5631655f4", "params_pool.py"),
        PendulumSAC, flat_steps, (likelihood("Normal.log_stds_net", sigma=minus_twenty_to_two),), one_update,
        truth="params_pool.py NormalPolicyNet: exp(clamp(v, -20, 2)), actions are a likelihood's",
    ),
    PublicCase(
        "PPO (zhihanyang2022)",
        Retold(
            "zhihanyang2022/pytorch-ppo", "b44cdac52739382c80a8cf3b8cef664938bc3350",
            "src/infras/policies_and_vfs.py, src/algorithms/ppo.py",
        ),
        ClippedPPO, collected, (likelihood("policy.log_std"),), one_update,
        truth="policies_and_vfs.py MLPGaussianPolicy: exp(v) is the covariance's diagonal, so that σ is exp(v / 2), "
        "whatever the name says. The entropy counts nothing by default",
    ),
    PublicCase(
        "Dreamer (minhphd)",
        Retold(
            "minhphd/PyDreamerV1", "9bdb92382957870432a78a9f8c64dbc22f754a3a", "utils/models.py, algos/dreamer.py",
        ),
        WalkerDreamer, lambda: (rand(3, 4, 1, 8, 8), randn(3, 4, 2), randn(3, 4, 1, seed=9)),
        (
            posterior("rssm.representatio_model.2", 3, 6, a_tenth), prior("rssm.transition_model.2", 3, 6, a_tenth),
        ), dynamics_loss,
        truth="models.py RSSM: softplus + 0.1; dreamer.py dynamic_learning: means and σ are written into zeros, of "
        "which the KL is, no less than 0.1 a channel. Pictures and rewards have a unit Normal",
    ),
    PublicCase(
        "Dreamer's actor (minhphd)",
        Retold(
            "minhphd/PyDreamerV1", "9bdb92382957870432a78a9f8c64dbc22f754a3a", "utils/models.py, algos/dreamer.py",
        ),
        WalkerDreamer, lambda: (randn(6, 3), randn(6, 5, seed=9)),
        (likelihood("actor.2", 2, 4, around_five), prior("rssm.transition_model.2", 3, 6, a_tenth)), behaviour_loss,
        truth="models.py Actor: softplus(v + log(e^5 - 1)) + 1e-4, of actions that are drawn, squashed and not scored: "
        "a likelihood's, as in earlier looks; states are drawn of the transition, a prior",
    ),
    PublicCase(
        "TD-VAE (MaxASchwarzer)",
        Retold(
            "MaxASchwarzer/TDVAE-RL-Project", "55e7c7761be7772b51e01d43bedb387544f6f1ef",
            "models/tdvae/tdvae.py; ankitkv/pylego@03f5f64, pylego/ops.py",
        ),
        JumpyTDVAE, lambda: (rand(6, 7, 8),),
        (
            posterior("z_b.0.fc_logsigma"), prior("z_b.0.fc_logsigma"), posterior("z1_z2_b1.0.fc_logsigma"),
            prior("z2_z1.0.fc_logsigma"),
        ), None,
        truth="ops.py reparameterize_gaussian: exp(0.5 v), whatever it is called. Hard to decide: one layer gives the "
        "law that is drawn at the later time (a posterior) and the one of a KL at the earlier (a prior)",
    ),
    PublicCase(
        "Frames to come (marisancans)",
        Retold("marisancans/frame-predict-VAE-LSTM", "68812ed6783bdf86d2042cd2153cca9bc7378ca0", "models.py, main.py"),
        FramePredictor, frames, (posterior("sigma", sigma=squared),), frames_loss,
        truth="models.py: eps = noise v + mean, z = mean + v eps, a slip: the draw's scale is v squared. main.py has "
        "no KL by default. Hard to decide: the KL that can be asked for takes |v| for σ",
    ),
    PublicCase(
        "MultVAE of films (ekaterinatsinovnik)",
        Retold(
            "ekaterinatsinovnik/VAE-RecSys", "599c4a471e4935c632d8409bdf19c71092122640",
            "src/models/vae.py, src/recommenders/vae_recommender.py",
        ),
        FilmVAE, watched, (posterior("encoder.1", 3, 6),), films_loss,
        truth="vae.py reparameterize: exp(0.5 logvar), of the last layer's second half; KL averaged over users",
    ),
    PublicCase(
        "State spaces (ErikAxelStolt)",
        Retold(
            "ErikAxelStolt/Master-Thesis----Forecasting-Using-Deep-State-Space-Models",
            "ecf9abf6fabdfeaab687c0f6b1a21dd7261c6312", "model.py, train.py",
        ),
        StateSpaceForecast, lambda: (randn(4, 8, 1), randn(4, 8, 1, seed=9)), (), masked_forecast,
        truth="train.py: squares; the exponentials are rates and steps",
    ),
    PublicCase(
        "DQN (stephkno)",
        Retold("stephkno/PyTorch-DQN", "d9e82724c625217ae1c6d93b42471945c4699723", "src/dqn.py, src/server.py"),
        CartDQN, lambda: (randn(6, 4), tokens(2, 6), randn(6, seed=9), randn(6, 4, seed=10)), (), one_update,
        truth="server.py: smooth_l1_loss",
    ),
    PublicCase(
        "TD3 (alirezakazemipour)",
        Retold(
            "alirezakazemipour/TD3-PyTorch", "91a0c740f2f1fc049d83fead5f932680f5393df0",
            "brain/model.py, brain/agent.py",
        ),
        TwinDelayed, flat_steps, (), one_update, truth="agent.py train: squares; the noise's scale is a number",
    ),
    PublicCase(
        "Seq2seq (threelittlemonkeys)",
        Retold(
            "threelittlemonkeys/seq2seq-pytorch", "916148efb845d56b79e485d48ad70c9a833836d3",
            "rnn-encoder-decoder/rnn_encoder_decoder.py, rnn-encoder-decoder/rnn_decoder.py",
        ),
        AttentiveTranslator, pairs_of_sentences, (), itself, truth="rnn_encoder_decoder.py: classes",
    ),
    PublicCase(
        "IQL, squares (Manchery)",
        Retold(
            "Manchery/iql-pytorch", "83d8364667a60438591666fd3f932dccac22f629", "IQL.py, actor.py, critic.py",
        ),
        SquaresIQL, flat_steps, (), one_update,
        truth="actor.py: what is called log_std is read by nobody; IQL.py: squares",
    ),
    PublicCase(
        "Neural process (martenlienen)",
        Retold(
            "martenlienen/neural-processes-pytorch", "998af68325bd81b6fcedfb327ebffaac5ff27f23",
            "neural_process.py, mnist_completion.ipynb",
        ),
        PixelProcess, some_pixels,
        (
            posterior("z_decoder.fc_sigma", sigma=F.softplus), prior("z_decoder.fc_sigma", sigma=F.softplus),
            likelihood("decoder.fc_sigma", sigma=F.softplus),
        ), pixels_loss,
        truth="mnist_completion.ipynb: softplus, both; neural_process.py elbo: all pixels' code is drawn, without a "
        "gradient, a slip. Hard to decide: one layer is posterior and prior, as in earlier looks; the KL's 1e-16 is "
        "nothing in floats",
    ),
    PublicCase(
        "fMRI VAE (WG-sss)",
        Retold(
            "WG-sss/rsfMRI-VAE", "1b4b2bf1b58a38979abb7aadfa1c3b4a9d1d38e8", "fMRIVAE_Model.py, fMRIVAE_Train.py",
        ),
        CortexVAE, lambda: (randn(3, 1, 16, 16), randn(3, 1, 16, 16, seed=9)), (posterior("fc1", 3, 6),), cortex_loss,
        truth="fMRIVAE_Model.py reparameterize: exp(logvar / 2), the second half of a layer; beta is 10",
    ),
    PublicCase(
        "CVAE of steps (realcrane)",
        Retold(
            "realcrane/Human-Trajectory-Forecasting-with-Explainable-Behavioral-Uncertainty",
            "14f2c302c1a07bf184383fe9592423a099442921", "model_cvae.py, train_CVAE.py, utils.py",
        ),
        ResidualStep, lambda: (randn(6, 18).double(), randn(6, 2, seed=9).double()),
        (posterior("encoder_latent.layers.1", 4, 8),), residual_loss,
        truth="model_cvae.py: exp(0.5 logvar) is called a variance, and draws; KL summed. The forces before it are "
        "held, and come as data here",
    ),
    PublicCase(
        "Motion VAE (tonton-golio)",
        Retold(
            "tonton-golio/motion-synthesis", "fbd817bbbf2c921d014154e0fe6b699bd6587b31",
            "motion_latent_diffusion/modules/MotionVAE.py, motion_latent_diffusion/scripts/MotionVAE_train.py",
        ),
        MotionTokens, lambda: (randn(4, 4, 2, 3),), (posterior("encoder_linear_block.6", 3, 6),), motion_loss,
        truth="MotionVAE.py VAE1 reparametrize: exp(0.5 logvar), the second half of a layer; KL summed",
    ),
    PublicCase(
        "Unified motion CVAE (vanoracai)",
        Retold(
            "vanoracai/A-unified-3d-human-motion-synthesis-model-via-conditional-variational-auto-encoder",
            "6cb75b8446f5d9d6b4ed95eace8dc9248c82b570", "model/network1.py, model/pose_class_model.py",
        ),
        TwoPaths, masked_poses,
        (posterior("posterior", 3, 6, F.softplus), prior("prior", 3, 6, F.softplus)), two_paths_loss,
        truth="network1.py ResEncoder: softplus, of a block's sum; pose_class_model.py get_distribution: the KL from a "
        "fixed Normal to the posterior, and from the posterior, held, to what sees the given frames: the prior. Both "
        "draw. Upstream's names p and q are the other way around",
    ),
    PublicCase(
        "TNP-D (tung-nd)",
        Retold(
            "tung-nd/TNP-pytorch", "73df9225ab584b6148645851d82f96df518da78a",
            "regression/models/tnpd.py, regression/models/tnp.py, regression/gp.py",
        ),
        PointTransformer,
        lambda: (randn(3, 4, 1), randn(3, 4, 1, seed=9), randn(3, 5, 1, seed=10), randn(3, 5, 1, seed=11)),
        (likelihood("predictor.2", 1, 2, torch.exp),), None,
        truth="tnpd.py: exp(v) of the points that are asked for; its bound is off by default",
    ),
    PublicCase(
        "CVAE of folds (VikashKumar-1996)",
        Retold(
            "VikashKumar-1996/protein-vae-conformation-generation", "b4af97990c32bb4679b07d34b08197e36b4d92b0",
            "protein_vae_training.ipynb",
        ),
        FoldCVAE, lambda: (randn(5, 15), 3.0 * randn(5, 6, 3, seed=9), tokens(2, 5)), (posterior("fc_log_var"),),
        fold_loss,
        truth="the notebook's reparameterize: exp(0.5 log_var); kl_loss: each channel's KL is no less than 0.5. Its "
        "loss of aligned coordinates, which comes later, is left out",
    ),
    PublicCase(
        "Swimmer's actor (kaglowka)",
        Retold("kaglowka/a2c-continuous", "6a2061c4d0155f10bb173564b741b48fee40c8c6", "nn.py, run.py"),
        Swimmer, lambda: (randn(6, 5), randn(6, seed=9)), (likelihood("var_out", sigma=F.softplus),), swimmer_loss,
        truth="nn.py: softplus(v) is called a variance and is the Normal's σ, of actions that are drawn and scored",
    ),
    PublicCase(
        "TRPO (ajlangley)",
        Retold(
            "ajlangley/trpo-pytorch", "2b4d165fc8e465774db978287634391db01446d9",
            "models.py, trpo.py, distribution_utils.py",
        ),
        TrustedSwimmer, lambda: (randn(6, 5), randn(6, 2, seed=9), randn(6, 6, seed=10), randn(6, seed=11), randn(6)),
        (likelihood("policy.3.log_std", sigma=torch.exp),), trust_region_loss,
        truth="models.py DiagGaussianLayer: exp(log_std), one for all states",
    ),
    PublicCase(
        "Deconfounder (EthanYDONG)",
        Retold(
            "EthanYDONG/deconfounding-sequential-vae", "54d6566f21cbf5c3cd4527b51ddaef6e4baa628a",
            "model_decon.py, utils.py, configs.py",
        ),
        Deconfounder, lambda: (randn(4, 4, 5), randn(4, 4, 1, seed=9), randn(4, 4, 1, seed=10), torch.ones(4, 4, 1)),
        (
            posterior("h_sigma_net.out_layers.0", sigma=root_of_two),
            prior("h_sigma_net.out_layers.0", sigma=root_of_prior),
            *(
                likelihood(f"{name}.out_layers.0", sigma=root_of_softplus)
                for name in ("p_x_net_sigma", "p_a_net_sigma", "p_r_net_sigma", "q_a_net_sigma", "q_r_g_x_a_sigma")
            ),
        ),
        deconfounded_loss,
        truth="model_decon.py: the nets' softplus is a variance. Hard to decide: one layer is the posterior's, which "
        "takes a softplus more, and the prior's; the KL is the prior's from the posterior",
    ),
)
# fmt: on
