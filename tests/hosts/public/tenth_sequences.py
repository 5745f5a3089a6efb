"""A tenth look: sentences, dialogue, topics, voices, music, sketches, cells over time, weather, waves, spectra, proteins,
funds, worlds, policies, active inference and recommendation, in our own words.

The fields and a word for each were fixed before any search. For each word the list of repositories whose names have it
was taken in the index's order: of it the first that is PyTorch, trains a model of its own with its own loss, and is in
no earlier look; its main model, with its main configuration. Where a list was empty or of other things, another word of
the field took its place, or none. Conventions were neither sought nor avoided. Every truth was written from reading the
code, before any of these was scanned, by somebody who had not read the scan's, but who knew which faults earlier looks
had found.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from public import PublicCase, Retold
from public.draws import randn, tokens
from public.third_images import kl_to_unit, posterior, prior

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
    return torch.sum(-0.5 * (logvar + torch.pow(x - mean, 2) / torch.exp(logvar)), dim)


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
)
# fmt: on
