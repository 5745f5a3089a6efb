"""A sixth look: text, speech, music, series, worlds, policies, skills, graphs, neural processes, Bayesian networks,
paths, motion and molecules, in our own words, sampled as an ordinary user's model would be.

The fields and one query for each were fixed first, with two models a field as the aim; then the first repositories
that the query's answer names, in order, with a VAE-like PyTorch model that trains and that no earlier look has, and,
where too few are named, what is well known in the field; its main model, with the loss of its training script.
Conventions were neither sought nor avoided. Every truth was written from reading the code, before any of these was
scanned.

Text (VAE, LSTM, word dropout, KL annealing): `zwjyyc/finch` and `ishalyminov/ood_robust_hcn` passed (TensorFlow; the
latter's README is finch's), `asyml/texar` passed (TensorFlow), and what else comes up is of earlier looks or without a
name; from what is well known `ctr4si/A-Hierarchical-Latent-Structure-for-Variational-Conversation-Modeling` and
`fangleai/TransformerCVAE`. Speech (VAE, voice conversion, mel spectrogram): `tuanad121/Python-WORLD` passed (a
vocoder), `ssms-soma/Voice_Conversion` and `olenmg/Conv-Autoencoder-for-Mel-Spectrogram` passed (autoencoders),
`Trebolium/f0_my_autovc` (an autoencoder) taken as a control, then from what is well known
`svc-develop-team/so-vits-svc` and `keonlee9420/PortaSpeech`. Music (VAE, MIDI, GRU):
`y0ast/Variational-Recurrent-Autoencoder` passed (Theano), `seyongk/Learning-Music-Variational-AutoEncoder` passed (an
earlier look), then from what is well known `buggyyang/Deep-Music-Analogy-Demos` and `gudgud96/music-fader-nets`. Series
(VAE, forecasting, stochastic, recurrent): `PaddlePaddle/PaddleSpatial` passed (its snapshot is Paddle's),
`ChanMunFai/VideoPrediction` passed (it names its origin, which an earlier look has), `DARE-ML/variational-rnn-cyclones`
and `GerardMJuan/RNN-VAE` taken. Worlds (RSSM, prior, posterior): `youngers2006/Dreamer` passed (breaks off),
`facebookresearch/denoised_mdp` passed (an earlier look), `LautaroLasorsa/technologies-practices` passed (an exercise,
its models are to be written), `aLadNamedPat/simpleDreamer` taken (its recurrent model; its VAE is one of images), then
from what is well known `yusukeurakami/dreamer-pytorch`. Policies (soft actor critic, Gaussian): `MythraV/rl_lib` taken,
`pranz24/pytorch-soft-actor-critic` passed (an earlier look), `pypi-data/pypi-mirror-336` passed (a mirror of packages),
`rickstaa/stable-learning-control` taken (its LAC; its SAC is of the same policy). Skills (prior, VAE, offline):
`20195036KimYunho/ldcq` passed (an earlier look), `magenta1223/skill-basedGCRL` and `hk-zh/spil` taken. Graphs
(variational autoencoder, GCN): `plai-group/gae_in_pytorch` taken, `xiaozhi-alan-zhu/paper-reprod-repo` passed (no
training, no scale), `zyx423/Graph-Embedding` passed (cannot be had), then from what is well known
`pyg-team/pytorch_geometric`. Neural processes: `YannDubs/Neural-Process-Family` and `wesselb/neuralprocesses` passed
(earlier looks), `dbsxodud-11/np_variants` taken, and no second. Bayesian networks (variational layer, rho):
`RAI-SCC/torch_bayesian` passed (an earlier look), `hchen19/sparse_dgp` passed (its layer is a copy of a library's that
an earlier look has), `joseph-nagel/vartorch` taken, and no second: the series' network is one. Paths (CVAE, vehicles,
pedestrians, goal): `arsalhuda24/LSTM-autoencoders-for-Trajectory-Prediction` passed (no VAE yet), `atanas1054/m2p3-mog`
and `haohao11/MCENET` passed (Keras), `YuxuanIAIR/MSRL-master` passed (an earlier look), then from what is well known
`ChuhuaW/SGNet.pytorch`, and no second. Motion (VAE, transformer): `rlawlsgus/human-motion-TAE` (no VAE) taken as a
control, `SeungyounShin/hm-vae-lafan` and `JinShiyin/hm-vae` passed (an earlier look), `D-eval/MotionPred` passed (its
model does not import), then from what is well known `Mathux/TEMOS`, and no second. Molecules (protein or SMILES, VAE,
GRU): `GT4SD/gt4sd-core` names the package that its model is of, `PaccMann/paccmann_chemistry`: taken;
`khhandrea/chemical-autoencoder` and `MauricioCafiero/MolCharRNN` passed (TensorFlow), `PingchuanMa/SGA` passed
(prompts), and no second. Two more controls, as well known code of the fields: `cure-lab/LTSF-Linear`,
`weihua916/powerful-gnns`.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, jit, nn
from torch.distributions import (
    Bernoulli,
    Independent,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
    kl_divergence,
)
from torch.nn.utils import weight_norm

from public import PublicCase, Retold
from public.draws import rand, randn, tokens
from public.third_images import bits, itself, likelihood, posterior, prior

# ---------------------------------------------------------------------------------------------- text


class FeedForward(nn.Module):
    def __init__(self, n_in: int, n_out: int, layers: int = 1, hidden: int = 8) -> None:
        super().__init__()
        widths = [n_in] + [hidden] * (layers - 1) + [n_out]
        self.activation = nn.Tanh()
        self.linears = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears:
            x = self.activation(linear(x))
        return x


class SentenceRNN(nn.Module):
    """Its sequences are sorted by length, packed, and put back into their order."""

    def __init__(self, n_in: int, hidden: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(n_in, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, inputs: Tensor, lengths: Tensor, hidden: Any = None) -> tuple[Tensor, Tensor]:
        ordered, indices = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(inputs.index_select(0, indices), ordered.tolist(), batch_first=True)
        if hidden is not None:
            hidden = hidden.index_select(1, indices)
        outputs, hidden = self.rnn(packed, hidden)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
        inverse = indices.sort()[1]
        return outputs.index_select(0, inverse), hidden.index_select(1, inverse)


def normal_kl_div(mu1: Tensor, var1: Tensor, mu2: Tensor, var2: Tensor) -> Tensor:
    one = torch.FloatTensor([1.0])
    return torch.sum(0.5 * (torch.log(var2) - torch.log(var1) + (var1 + (mu1 - mu2).pow(2)) / var2 - one), 1)


def normal_logpdf(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    pi = torch.FloatTensor([np.pi])
    return 0.5 * torch.sum(-torch.log(2.0 * pi) - torch.log(var) - ((x - mean).pow(2) / var), dim=1)


class VHCR(nn.Module):
    """A code of the conversation, and one of each sentence; what emits a scale is a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6, padding_idx=0)
        self.encoder = SentenceRNN(6, 5, bidirectional=True)
        self.context_encoder = SentenceRNN(10 + 4, 8)
        self.z_conv2context = FeedForward(4, 8)
        self.context_inference = SentenceRNN(10, 8, bidirectional=True)
        self.decoder, self.out = nn.GRU(6, 7, batch_first=True), nn.Linear(7, 9)
        self.context2decoder = FeedForward(8 + 3 + 4, 7)
        self.softplus = nn.Softplus()
        self.conv_posterior_h = FeedForward(16, 8, 2)
        self.conv_posterior_mu, self.conv_posterior_var = nn.Linear(8, 4), nn.Linear(8, 4)
        self.sent_prior_h = FeedForward(8 + 4, 8)
        self.sent_prior_mu, self.sent_prior_var = nn.Linear(8, 3), nn.Linear(8, 3)
        self.sent_posterior_h = FeedForward(4 + 10 + 8, 8, 2)
        self.sent_posterior_mu, self.sent_posterior_var = nn.Linear(8, 3), nn.Linear(8, 3)

    def conv_posterior(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv_posterior_h(hidden)
        return self.conv_posterior_mu(h), self.softplus(self.conv_posterior_var(h))

    def sent_prior(self, context: Tensor, z_conv: Tensor) -> tuple[Tensor, Tensor]:
        h = self.sent_prior_h(torch.cat([context, z_conv], dim=1))
        return self.sent_prior_mu(h), self.softplus(self.sent_prior_var(h))

    def sent_posterior(self, context: Tensor, hidden: Tensor, z_conv: Tensor) -> tuple[Tensor, Tensor]:
        h = self.sent_posterior_h(torch.cat([context, hidden, z_conv], 1))
        return self.sent_posterior_mu(h), self.softplus(self.sent_posterior_var(h))

    def forward(
        self, sentences: Tensor, sentence_length: Tensor, conversation_length: Tensor, target: Tensor
    ) -> tuple[Tensor, ...]:
        batch, longest = len(conversation_length), int(conversation_length.max())
        _, hidden = self.encoder(self.embedding(sentences), sentence_length)
        hidden = hidden.transpose(1, 0).contiguous().view(len(sentences), -1)
        rows, start = [], 0
        for length in conversation_length.tolist():
            rows.append(F.pad(hidden.narrow(0, start, length + 1), (0, 0, 0, longest - length)))
            start += length + 1
        hidden = torch.stack(rows, 0)
        lengths = conversation_length.tolist()
        inference_flat = torch.cat([hidden[i, 1 : length + 1] for i, length in enumerate(lengths)])
        conv_eps = torch.randn([batch, 4])
        mu_prior, var_prior = torch.FloatTensor([0.0]), torch.FloatTensor([1.0])
        _, inference_hidden = self.context_inference(hidden, conversation_length + 1)
        conv_mu, conv_var = self.conv_posterior(inference_hidden.transpose(1, 0).contiguous().view(batch, -1))
        z_conv = conv_mu + torch.sqrt(conv_var) * conv_eps
        log_q_zx_conv = normal_logpdf(z_conv, conv_mu, conv_var).sum()
        log_p_z_conv = normal_logpdf(z_conv, mu_prior, var_prior).sum()
        kl_div_conv = normal_kl_div(conv_mu, conv_var, mu_prior, var_prior).sum()
        context_init = self.z_conv2context(z_conv).view(1, batch, 8)
        expanded = z_conv.view(batch, 1, 4).expand(batch, longest, 4)
        outputs, _ = self.context_encoder(
            torch.cat([hidden[:, :-1], expanded], 2), conversation_length, hidden=context_init
        )
        context = torch.cat([outputs[i, :length] for i, length in enumerate(lengths)])
        z_conv_flat = torch.cat([expanded[i, :length] for i, length in enumerate(lengths)])
        sent_mu_prior, sent_var_prior = self.sent_prior(context, z_conv_flat)
        eps = torch.randn((len(context), 3))
        sent_mu, sent_var = self.sent_posterior(context, inference_flat, z_conv_flat)
        z_sent = sent_mu + torch.sqrt(sent_var) * eps
        log_q_zx_sent = normal_logpdf(z_sent, sent_mu, sent_var).sum()
        log_p_z_sent = normal_logpdf(z_sent, sent_mu_prior, sent_var_prior).sum()
        kl_div_sent = normal_kl_div(sent_mu, sent_var, sent_mu_prior, sent_var_prior).sum()
        init = self.context2decoder(torch.cat([context, z_sent, z_conv_flat], 1)).unsqueeze(0)
        inputs = torch.cat([torch.ones_like(target[:, :1]), target[:, :-1]], 1)
        logits = self.out(self.decoder(self.embedding(inputs), init)[0])
        return logits, kl_div_conv + kl_div_sent, log_p_z_conv + log_p_z_sent, log_q_zx_conv + log_q_zx_sent


def vhcr_loss(model: Any, *inputs: Tensor) -> Tensor:
    target, lengths = inputs[3], inputs[4]
    logits, kl_div, _, _ = model(*inputs[:4])
    picked = -torch.gather(F.log_softmax(logits.view(-1, 9), dim=1), dim=1, index=target.view(-1, 1))
    mask = torch.arange(target.size(1))[None] < lengths[:, None]
    return (picked.view(target.shape) * mask.float()).sum() + 5000 / 25000 * kl_div


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class Conv1D(nn.Module):
    """GPT-2's linear map, its weight transposed."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.nf = n_out
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*shape)


class GPT2Block(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.ln_1, self.ln_2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.c_attn, self.c_proj = Conv1D(24, 8), Conv1D(8, 8)
        self.c_fc, self.c_out = Conv1D(16, 8), Conv1D(8, 16)
        self.drop = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], 2, 4).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        query, key, value = (self.split(part) for part in self.c_attn(self.ln_1(x)).split(8, dim=2))
        w = query @ key.transpose(-1, -2) / math.sqrt(value.size(-1))
        if self.causal:
            b = torch.tril(torch.ones(w.size(-2), w.size(-1)))
            w = w * b - 1e4 * (1 - b)
        w = self.drop(torch.softmax(w + attention_mask, dim=-1))
        a = (w @ value).permute(0, 2, 1, 3).contiguous().view(x.shape)
        x = x + self.drop(self.c_proj(a))
        return x + self.drop(self.c_out(gelu(self.c_fc(self.ln_2(x)))))


class AverageSelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_weights = nn.Parameter(torch.randn(8) * 0.02)

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        scores = torch.softmax(gelu(inputs.matmul(self.attention_weights)) + attention_mask, dim=-1)
        return torch.mul(inputs, scores.unsqueeze(-1).expand_as(inputs)).sum(1).squeeze(1)


def additive(mask: Tensor) -> Tensor:
    return (1.0 - mask[:, None, None].float()) * -10000.0


class GPT2Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(9, 8), nn.Embedding(12, 8), nn.Dropout(0.1)
        self.h = nn.ModuleList([GPT2Block(False) for _ in range(2)])
        self.ln_f = nn.LayerNorm(8)
        self.averageSelfAttention = AverageSelfAttention()
        self.mean, self.logvar = Conv1D(8, 8), Conv1D(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        attention_mask = additive(attention_mask)
        hidden_states = self.drop(self.wte(input_ids) + self.wpe(torch.arange(input_ids.size(1))[None]))
        for block in self.h:
            hidden_states = block(hidden_states, attention_mask)
        representations = self.averageSelfAttention(self.ln_f(hidden_states), attention_mask.squeeze(1).squeeze(1))
        return self.mean(representations), self.logvar(representations)


class GPT2Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(9, 8), nn.Embedding(12, 8), nn.Dropout(0.1)
        self.input_proj = nn.Linear(8, 8, bias=False)
        self.h = nn.ModuleList([GPT2Block(True) for _ in range(2)])
        self.ln_f = nn.LayerNorm(8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, representations: Tensor) -> Tensor:
        hidden_states = self.wte(input_ids) + self.wpe(torch.arange(input_ids.size(1))[None])
        hidden_states = self.drop(hidden_states + self.input_proj(representations).unsqueeze(1))
        for block in self.h:
            hidden_states = block(hidden_states, additive(attention_mask))
        return self.ln_f(hidden_states)


class TransformerCVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer, self.lm_head = GPT2Decoder(), nn.Linear(8, 9, bias=False)
        self.encoder, self.encoder_prior = GPT2Encoder(), GPT2Encoder()

    def drawn(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return mean + torch.randn(mean.shape) * (logvar / 2).exp()

    def divergence(self, of: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]) -> Tensor:
        (mean, logvar), (prior_mean, prior_logvar) = of, given
        gap = logvar - prior_logvar
        distance = (mean - prior_mean).square() / prior_logvar.exp()
        return 0.5 * (gap.exp() + distance - gap - 1).flatten(1).sum(1).mean()

    def forward(
        self, shifted: Tensor, mask: Tensor, prompt_mask: Tensor, prompt: Tensor, story_mask: Tensor, story: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_story, of_prompt = self.encoder(story, story_mask), self.encoder_prior(prompt, prompt_mask)
        code = self.drawn(*of_story)
        assert not code.isnan().any(), "a code that is not a number"
        return self.lm_head(self.transformer(shifted, mask, code)), self.divergence(of_story, of_prompt)[None]


def transformer_cvae_loss(model: Any, x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    tokens_in, target, mask = y[:, :-1], y[:, 1:], y_mask[:, 1:].bool()
    logits, kl_loss = model(tokens_in, mask, x_mask, x, y_mask, y)
    logits = logits.masked_select(mask.unsqueeze(-1)).view(-1, logits.size(-1))
    ce_loss = F.cross_entropy(logits, target.masked_select(mask), reduction="none")
    return ce_loss.mean() + 1.0 * kl_loss.mean()


# ---------------------------------------------------------------------------------------------- speech


def fused_gate(a: Tensor, b: Tensor, n: int) -> Tensor:
    both = a + b
    return torch.tanh(both[:, :n]) * torch.sigmoid(both[:, n:])


class WN(nn.Module):
    """WaveNet, not causal; what it is conditioned on is mapped here if `n_cond` is given, by its user if not."""

    def __init__(self, hidden: int, kernel: int, layers: int, n_cond: int | None = None) -> None:
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.cond_layer = weight_norm(nn.Conv1d(n_cond, 2 * hidden * layers, 1)) if n_cond else None
        self.in_layers, self.res_skip_layers = nn.ModuleList(), nn.ModuleList()
        for i in range(layers):
            self.in_layers.append(weight_norm(nn.Conv1d(hidden, 2 * hidden, kernel, padding=kernel // 2)))
            width = 2 * hidden if i < layers - 1 else hidden
            self.res_skip_layers.append(weight_norm(nn.Conv1d(hidden, width, 1)))

    def forward(self, x: Tensor, x_mask: Any = 1, g: Any = None) -> Tensor:
        output = torch.zeros_like(x)
        if g is not None and self.cond_layer is not None:
            g = self.cond_layer(g)
        for i in range(self.layers):
            x_in = self.in_layers[i](x)
            part = torch.zeros_like(x_in) if g is None else g[:, 2 * i * self.hidden : 2 * (i + 1) * self.hidden]
            acts = self.res_skip_layers[i](fused_gate(x_in, part, self.hidden))
            if i < self.layers - 1:
                x = (x + acts[:, : self.hidden]) * x_mask
                output = output + acts[:, self.hidden :]
            else:
                output = output + acts
        return output * x_mask


class Flip(nn.Module):
    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.flip(x, [1]), torch.zeros(x.size(0))


class ResidualCouplingLayer(nn.Module):
    def __init__(self, channels: int, hidden: int, n_cond: int) -> None:
        super().__init__()
        self.half_channels, self.mean_only = channels // 2, True
        self.pre = nn.Conv1d(self.half_channels, hidden, 1)
        self.enc = WN(hidden, 3, 2, n_cond)
        self.post = nn.Conv1d(hidden, self.half_channels * (2 - self.mean_only), 1)
        self.post.weight.data.zero_()
        nn.init.zeros_(self.post.bias)

    def forward(self, x: Tensor, x_mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        x0, x1 = torch.split(x, [self.half_channels] * 2, 1)
        m = self.post(self.enc(self.pre(x0) * x_mask, x_mask, g=g)) * x_mask
        logs = torch.zeros_like(m)
        x1 = m + x1 * torch.exp(logs) * x_mask
        return torch.cat([x0, x1], 1), torch.sum(logs, [1, 2])


class ResidualCouplingBlock(nn.Module):
    def __init__(self, channels: int, hidden: int, n_cond: int) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(2):
            self.flows.append(ResidualCouplingLayer(channels, hidden, n_cond))
            self.flows.append(Flip())

    def forward(self, x: Tensor, x_mask: Tensor, g: Tensor) -> Tensor:
        for flow in self.flows:
            x, _ = flow(x, x_mask, g=g)
        return x


def sequence_mask(lengths: Tensor, longest: int) -> Tensor:
    return (torch.arange(longest)[None] < lengths[:, None]).unsqueeze(1).float()


class SpectrogramEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 4
        self.pre, self.enc, self.proj = nn.Conv1d(8, 6, 1), WN(6, 5, 2, 3), nn.Conv1d(6, 8, 1)

    def forward(self, x: Tensor, x_lengths: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        x_mask = sequence_mask(x_lengths, x.size(2)).to(x.dtype)
        hidden = self.enc(self.pre(x) * x_mask, x_mask, g=g)
        mean, log_scale = (self.proj(hidden) * x_mask).split(self.out_channels, 1)
        noise = torch.randn_like(mean)
        return (mean + log_scale.exp() * noise) * x_mask, mean, log_scale, x_mask


class ContentEncoder(nn.Module):
    """What it draws in training is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 4
        self.proj, self.f0_emb = nn.Conv1d(6, 8, 1), nn.Embedding(16, 6)
        self.enc_ = nn.TransformerEncoderLayer(6, 2, 12, 0.1, batch_first=True)

    def forward(self, content: Tensor, mask: Tensor, pitch: Tensor, width: float = 1) -> tuple[Tensor, ...]:
        pitched = (content + self.f0_emb(pitch).transpose(1, 2)) * mask
        hidden = self.enc_(pitched.transpose(1, 2)).transpose(1, 2)
        mean, log_scale = (self.proj(hidden) * mask).split(self.out_channels, 1)
        noise = width * torch.randn_like(mean)
        return (mean + noise * log_scale.exp()) * mask, mean, log_scale, mask


class SourceFilterGenerator(nn.Module):
    """Excited by a sine of the pitch, with noise of a width that voicing tells."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(1, 1)
        self.conv_pre, self.cond = nn.Conv1d(4, 6, 7, padding=3), nn.Conv1d(3, 6, 1)
        self.up, self.noise_conv = nn.ConvTranspose1d(6, 4, 4, 2, 1), nn.Conv1d(1, 4, 1)
        self.conv_post = nn.Conv1d(4, 1, 7, padding=3)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor) -> Tensor:
        f0 = F.interpolate(f0[:, None], scale_factor=2.0).transpose(1, 2)
        with torch.no_grad():
            sine_waves = torch.sin(2 * np.pi * torch.cumsum(f0 / 440, dim=1)) * 0.1
            uv = (f0 > 0).float()
            noise_amp = uv * 0.003 + (1 - uv) * 0.1 / 3
            sine_waves = sine_waves * uv + noise_amp * torch.randn_like(sine_waves)
        har_source = torch.tanh(self.l_linear(sine_waves)).transpose(1, 2)
        x = self.up(F.leaky_relu(self.conv_pre(x) + self.cond(g), 0.1))
        return torch.tanh(self.conv_post(F.leaky_relu(x + self.noise_conv(har_source))))


class PitchDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prenet, self.f0_prenet = nn.Conv1d(6, 6, 3, padding=1), nn.Conv1d(1, 6, 3, padding=1)
        self.cond, self.proj = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 1, 1)

    def forward(self, x: Tensor, norm_f0: Tensor, x_mask: Tensor, spk_emb: Tensor) -> Tensor:
        x = torch.detach(x) + self.cond(spk_emb)
        x = x + self.f0_prenet(norm_f0)
        return self.proj(F.relu(self.prenet(x) * x_mask)) * x_mask


class SoVitsSVC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb_g, self.pre = nn.Embedding(3, 3), nn.Conv1d(5, 6, 5, padding=2)
        self.enc_p, self.dec = ContentEncoder(), SourceFilterGenerator()
        self.enc_q, self.flow = SpectrogramEncoder(), ResidualCouplingBlock(4, 6, 3)
        self.f0_decoder, self.emb_uv = PitchDecoder(), nn.Embedding(2, 6)

    def forward(self, c: Tensor, f0: Tensor, uv: Tensor, spec: Tensor, g: Tensor, lengths: Tensor) -> tuple[Any, ...]:
        g = self.emb_g(g).transpose(1, 2)
        x_mask = sequence_mask(lengths, c.size(2)).to(c.dtype)
        x = self.pre(c) * x_mask + self.emb_uv(uv.long()).transpose(1, 2)
        lf0 = 2595.0 * torch.log10(1.0 + f0.unsqueeze(1) / 700.0) / 500
        norm_lf0 = (lf0 - lf0.mean(2, keepdim=True)) * x_mask
        pred_lf0 = self.f0_decoder(x, norm_lf0, x_mask, spk_emb=g)
        _, m_p, logs_p, _ = self.enc_p(x, x_mask, (f0 / 40).long().clamp(0, 15))
        z, m_q, logs_q, spec_mask = self.enc_q(spec, lengths, g=g)
        z_p = self.flow(z, spec_mask, g=g)
        ids = (torch.rand([len(z)]) * (lengths - 4 + 1)).long()
        z_slice = torch.stack([row[:, i : i + 4] for row, i in zip(z, ids.tolist(), strict=True)])
        pitch_slice = torch.stack([row[i : i + 4] for row, i in zip(f0, ids.tolist(), strict=True)])
        o = self.dec(z_slice, g=g, f0=pitch_slice)
        return o, ids, spec_mask, (z, z_p, m_p, logs_p, m_q, logs_q), pred_lf0, norm_lf0, lf0


def so_vits_loss(model: Any, *inputs: Tensor) -> Tensor:
    *net, y = inputs
    y_hat, ids, z_mask, (_, z_p, m_p, logs_p, _, logs_q), pred_lf0, _, lf0 = model(*net)
    y = torch.stack([row[:, 2 * i : 2 * i + 8] for row, i in zip(y, ids.tolist(), strict=True)])
    loss_mel = F.l1_loss(y, y_hat) * 45
    kl = logs_p - logs_q - 0.5
    kl = kl + 0.5 * ((z_p - m_p) ** 2) * torch.exp(-2.0 * logs_p)
    loss_kl = torch.sum(kl * z_mask) / torch.sum(z_mask)
    return loss_mel + loss_kl * 1.0 + F.mse_loss(pred_lf0, lf0)


class LinearNorm(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def portaspeech_reparameterize(mu: Tensor, logvar: Tensor) -> Tensor:
    return mu + (logvar / 2).exp() * torch.randn_like(mu)


class VariationalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latent_hidden = 4
        self.enc_conv, self.enc_wn = nn.Conv1d(8, 6, 5, 2, 2), WN(6, 5, 2)
        self.cond_layer_e = weight_norm(nn.Conv1d(6, 24, 5, 2, 2))
        self.latent_enc_prj = LinearNorm(6, 8)
        self.cond_layer_f = nn.Conv1d(6, 6, 5, 2, 2)
        self.flow = ResidualCouplingBlock(4, 6, 6)
        self.latent_dec_prj, self.dec_wn = LinearNorm(4, 6), WN(6, 5, 2)
        self.cond_layer_d = weight_norm(nn.Conv1d(6, 24, 5, 2, 2))
        self.dec_conv = nn.ConvTranspose1d(6, 8, 5, 2, 2, output_padding=1)
        self.residual_layer = LinearNorm(8, 6)

    def forward(self, mel: Tensor, mel_mask: Tensor, h_text: Tensor) -> tuple[Any, ...]:
        h_text = h_text.transpose(1, 2)
        h_text_f, h_text_e, h_text_d = self.cond_layer_f(h_text), self.cond_layer_e(h_text), self.cond_layer_d(h_text)
        mask = mel_mask[:, ::2].unsqueeze(-1).float()
        x = self.enc_wn(self.enc_conv(mel.transpose(1, 2)), g=h_text_e) * mask.transpose(1, 2)
        x = self.latent_enc_prj(x.contiguous().transpose(1, 2))
        m_q, logs_q = torch.split(x, self.latent_hidden, dim=-1)
        m_q, logs_q = m_q * mask, logs_q * mask
        z_q = portaspeech_reparameterize(m_q, logs_q) * mask
        z_p = self.flow(z_q.transpose(1, 2), mask.transpose(1, 2), g=h_text_f)
        x = self.dec_wn(self.latent_dec_prj(z_q).contiguous().transpose(1, 2), g=h_text_d) * mask.transpose(1, 2)
        mel_res = self.dec_conv(x).transpose(1, 2) * mel_mask.unsqueeze(-1)
        residual = self.residual_layer(mel_res) * mel_mask.unsqueeze(-1)
        return mel_res, residual, (z_p, logs_q.transpose(1, 2), mask.transpose(1, 2))


class PostNetCoupling(nn.Module):
    """A flow's affine coupling, its scale the exponential of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = weight_norm(nn.Conv1d(8, 6, 1)), nn.Conv1d(6, 16, 1)
        self.end.weight.data.zero_()
        nn.init.zeros_(self.end.bias)
        self.cond_layer, self.wn = weight_norm(nn.Conv1d(12, 24, 1)), WN(6, 3, 2)

    def forward(self, x: Tensor, x_mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        x_0, x_1 = x[:, :8], x[:, 8:]
        out = self.end(self.wn(self.start(x_0) * x_mask, x_mask=x_mask, g=self.cond_layer(g)))
        m, logs = out[:, :8], out[:, 8:]
        z_1 = (m + torch.exp(logs) * x_1) * x_mask
        return torch.cat([x_0, z_1], 1), torch.sum(logs * x_mask, [1, 2])


class ActNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logs, self.bias = nn.Parameter(torch.zeros(1, 16, 1)), nn.Parameter(torch.zeros(1, 16, 1))

    def forward(self, x: Tensor, x_mask: Tensor, g: Any = None) -> tuple[Tensor, Tensor]:
        z = (self.bias + torch.exp(self.logs) * x) * x_mask
        return z, torch.sum(self.logs) * torch.sum(x_mask, [1, 2])


class InvConvNear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(4, 4))[0]
        rotation[:, 0] *= rotation.det().sign()
        self.weight = nn.Parameter(rotation)

    def forward(self, x: Tensor, x_mask: Tensor, g: Any = None) -> tuple[Tensor, Tensor]:
        b, c, t = x.size()
        x = x.view(b, 2, c // 4, 2, t).permute(0, 1, 3, 2, 4).contiguous().view(b, 4, c // 4, t)
        logdet = torch.logdet(self.weight) * (c / 4) * torch.sum(x_mask, [1, 2])
        z = F.conv2d(x, self.weight.view(4, 4, 1, 1)).view(b, 2, 2, c // 4, t)
        return z.permute(0, 1, 3, 2, 4).contiguous().view(b, c, t) * x_mask, logdet


def squeeze_time(x: Tensor) -> Tensor:
    b, c, t = x.size()
    return x.view(b, c, t // 2, 2).permute(0, 3, 1, 2).contiguous().view(b, c * 2, t // 2)


class FlowPostNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(2):
            self.flows.extend([ActNorm(), InvConvNear(), PostNetCoupling()])

    def forward(self, x: Tensor, x_mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        logdet_tot: Any = 0
        mask = x_mask[:, :, 1::2]
        x, g = squeeze_time(x) * mask, squeeze_time(g) * mask
        for flow in self.flows:
            x, logdet = flow(x, mask, g=g)
            logdet_tot = logdet_tot + logdet
        b, c, t = x.size()
        return x.view(b, 2, c // 2, t).permute(0, 2, 3, 1).contiguous().view(b, c // 2, t * 2) * x_mask, logdet_tot


class PortaSpeech(nn.Module):
    """The text is spread over the frames by its known durations here."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(9, 6), nn.TransformerEncoderLayer(6, 2, 12, 0.1, batch_first=True)
        self.duration_predictor = nn.Linear(6, 1)
        self.variational_generator, self.postnet = VariationalGenerator(), FlowPostNet()

    def forward(self, texts: Tensor, durations: Tensor, mels: Tensor, mel_masks: Tensor) -> tuple[Any, ...]:
        encoded = self.encoder(self.embedding(texts))
        log_durations = self.duration_predictor(encoded).squeeze(-1)
        frames = torch.stack(
            [torch.repeat_interleave(row, count, dim=0) for row, count in zip(encoded, durations, strict=True)]
        )
        output, residual, dist_info = self.variational_generator(mels, mel_masks, frames)
        g = (residual + frames).transpose(1, 2)
        z, logdet = self.postnet(mels.transpose(1, 2), mel_masks.unsqueeze(1).float(), g=g)
        return output, (z, logdet), log_durations, dist_info


def portaspeech_loss(model: Any, texts: Tensor, durations: Tensor, mels: Tensor, mel_masks: Tensor) -> Tensor:
    output, (z, logdet), log_durations, (z_p, logs_q, mask) = model(texts, durations, mels, mel_masks)
    selected = mel_masks.unsqueeze(-1)
    mel_loss = F.l1_loss(output.masked_select(selected), mels.masked_select(selected))
    duration_loss = F.mse_loss(log_durations, torch.log(durations.float() + 1))
    m_p, logs_p = torch.zeros_like(z_p), torch.zeros_like(z_p)
    kl = logs_p - logs_q - 0.5
    kl = kl + 0.5 * ((z_p - m_p) ** 2) * torch.exp(-2.0 * logs_p)
    kl_loss = torch.sum(kl * mask) / torch.sum(mask)
    logs = torch.zeros_like(z)
    postnet_loss = torch.sum(logs) + 0.5 * torch.sum(torch.exp(-2 * logs) * (z**2)) - torch.sum(logdet)
    postnet_loss = postnet_loss / torch.sum(torch.ones_like(z)) + 0.5 * math.log(2 * math.pi)
    return mel_loss + kl_loss + postnet_loss + duration_loss


# ---------------------------------------------------------------------------------------------- music


def both_directions(last: Tensor) -> Tensor:
    return last.transpose_(0, 1).reshape(last.size(0), -1)


def silence(n: int, width: int) -> Tensor:
    return torch.eye(width)[-1:].repeat(n, 1)


def likeliest(log_p: Tensor) -> Tensor:
    return F.one_hot(log_p.argmax(1), log_p.size(1)).float()


def rhythm_of(melody: Tensor) -> Tensor:
    return torch.cat((melody[..., :-2].sum(-1, keepdim=True), melody[..., -2:]), -1)


class MusicAnalogyVAE(nn.Module):
    """A code of the pitches and one of the rhythm, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gru_0 = nn.GRU(9 + 3, 6, batch_first=True, bidirectional=True)
        self.linear_mu, self.linear_var = nn.Linear(12, 7), nn.Linear(12, 7)
        self.grucell_0, self.grucell_1 = nn.GRUCell(3 + 3, 6), nn.GRUCell(4 + 9 + 3 + 3, 6)
        self.grucell_2 = nn.GRUCell(6, 6)
        self.linear_init_0, self.linear_out_0 = nn.Linear(3, 6), nn.Linear(6, 3)
        self.linear_init_1, self.linear_out_1 = nn.Linear(4, 6), nn.Linear(6, 9)
        self.pitch_dims, self.step, self.decay = 4, 0, torch.FloatTensor([1000])
        self.teaching: Any = 1.0
        self.melody: Any = None

    def taught(self) -> bool:
        return self.training and bool(torch.rand(1).item() < self.teaching)

    def encoder(self, melody: Tensor, chords: Tensor) -> list[Normal]:
        hidden = both_directions(self.gru_0(torch.cat((melody, chords), 2))[1])
        scale, mean = self.linear_var(hidden).exp_(), self.linear_mu(hidden)
        halves = (slice(None, self.pitch_dims), slice(self.pitch_dims, None))
        return [Normal(mean[:, part], scale[:, part]) for part in halves]

    def rhythm_decoder(self, z: Tensor, steps: int) -> Tensor:
        state, beat, found = self.linear_init_0(z).tanh(), silence(len(z), 3), []
        for step in range(steps):
            state = self.grucell_0(torch.cat([beat, z], 1), state)
            found.append(self.linear_out_0(state).log_softmax(1))
            beat = rhythm_of(self.melody[:, step]) if self.taught() else likeliest(found[-1])
        return torch.stack(found, 1)

    def final_decoder(self, z: Tensor, rhythm: Tensor, chords: Tensor) -> Tensor:
        lower, note, found = self.linear_init_1(z).tanh(), silence(len(z), 9), []
        upper: Any = None
        for step, (beat, chord) in enumerate(zip(rhythm.unbind(1), chords.unbind(1), strict=True)):
            lower = self.grucell_1(torch.cat([note, beat, z, chord], 1), lower)
            upper = self.grucell_2(lower, lower if upper is None else upper)
            found.append(self.linear_out_1(upper).log_softmax(1))
            note = self.melody[:, step] if self.taught() else likeliest(found[-1])
            if self.training:
                self.teaching = torch.sigmoid(self.decay.log() - self.step / self.decay)
        return torch.stack(found, 1)

    def forward(self, melody: Tensor, chords: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            self.melody, self.step = melody, self.step + 1
        codes = self.encoder(melody, chords)
        pitch, rhythm = (code.rsample() for code in codes)
        beats = self.rhythm_decoder(rhythm, chords.size(1))
        notes = self.final_decoder(pitch, beats, chords)
        return notes, beats, *(moment for code in codes for moment in (code.mean, code.stddev))


def music_analogy_loss(model: Any, melody: Tensor, chords: Tensor) -> Tensor:
    notes, beats, *moments = model(melody, chords)
    loss = sum(
        F.nll_loss(found.flatten(0, 1), wanted.flatten(0, 1).argmax(1))
        for found, wanted in ((notes, melody), (beats, rhythm_of(melody)))
    )
    for mean, scale in (moments[:2], moments[2:]):
        standard = Normal(torch.zeros(mean.size()), torch.ones(scale.size()))
        loss = loss + 0.1 * kl_divergence(Normal(mean, scale), standard).mean()
    return loss


class MusicFaderNets(nn.Module):
    """Two codes, each with a mixture for its prior, whose scales are embeddings that are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.n_component = 2
        for part in ("r", "n"):
            self.add_module(f"gru_{part}", nn.GRU(9, 6, batch_first=True, bidirectional=True))
            self.add_module(f"gru_d_{part}", nn.GRU(4 + 3, 6, batch_first=True))
            self.add_module(f"mu_{part}", nn.Linear(12, 4))
            self.add_module(f"var_{part}", nn.Linear(12, 4))
            self.add_module(f"linear_init_{part}", nn.Linear(4, 6))
            self.add_module(f"linear_out_{part}", nn.Linear(6, 3))
            mu_lookup, logvar_lookup = nn.Embedding(2, 4), nn.Embedding(2, 4)
            nn.init.xavier_uniform_(mu_lookup.weight)
            nn.init.constant_(logvar_lookup.weight, np.log(np.exp(-2) ** 2))
            logvar_lookup.weight.requires_grad = False
            self.add_module(f"mu_{part}_lookup", mu_lookup)
            self.add_module(f"logvar_{part}_lookup", logvar_lookup)
        self.linear_init_global, self.linear_out_g = nn.Linear(8 + 5, 6), nn.Linear(6, 9)
        self.grucell_g, self.grucell_g_2 = nn.GRUCell(8 + 5 + 9, 6), nn.GRUCell(6, 6)

    def encode(self, x: Tensor) -> tuple[Normal, Normal]:
        rhythm, notes = (both_directions(gru(x)[1]) for gru in (self.gru_r, self.gru_n))
        of_rhythm = Normal(self.mu_r(rhythm), self.var_r(rhythm).exp_())
        of_notes = Normal(self.mu_n(notes), self.var_n(notes).exp_())
        return of_rhythm, of_notes

    def sub_decoder(self, part: str, inputs: Tensor, z: Tensor) -> Tensor:
        stacked = torch.cat([inputs, torch.stack([z] * inputs.shape[1], dim=1)], dim=-1)
        h = getattr(self, f"linear_init_{part}")(z).unsqueeze(0)
        out = getattr(self, f"gru_d_{part}")(stacked, h)[0]
        return F.log_softmax(getattr(self, f"linear_out_{part}")(out), 1)

    def global_decoder(self, z: Tensor, heard: Tensor) -> Tensor:
        lower, states = self.linear_init_global(z), []
        upper: Any = None
        for event in (silence(len(z), 9), *heard[:, :-1].unbind(1)):
            lower = self.grucell_g(torch.cat([event, z], 1), lower)
            upper = self.grucell_g_2(lower, lower if upper is None else upper)
            states.append(upper)
        return self.linear_out_g(torch.stack(states, 1)).log_softmax(2)

    def approx_qy_x(self, z: Tensor, mu_lookup: nn.Embedding, logvar_lookup: nn.Embedding) -> tuple[Tensor, Tensor]:
        log_logit = torch.zeros(z.shape[0], self.n_component)
        for k_i in torch.arange(0, self.n_component):
            mu_k, logvar_k = mu_lookup(k_i), logvar_lookup(k_i)
            llh = -0.5 * (torch.pow(z - mu_k, 2) / torch.exp(logvar_k) + logvar_k + np.log(2 * np.pi))
            log_logit[:, k_i] = torch.sum(llh, dim=1) + np.log(1 / self.n_component)
        return log_logit, torch.softmax(log_logit, dim=1)

    def forward(self, x: Tensor, rhythm: Tensor, note: Tensor, chroma: Tensor) -> tuple[Any, ...]:
        dis_r, dis_n = self.encode(x)
        z_r, z_n = (d.mean + d.stddev * Normal(0, 1).sample(sample_shape=d.stddev.size()) for d in (dis_r, dis_n))
        logit_r, qy_x_r = self.approx_qy_x(z_r, self.mu_r_lookup, self.logvar_r_lookup)
        logit_n, qy_x_n = self.approx_qy_x(z_n, self.mu_n_lookup, self.logvar_n_lookup)
        r_out, n_out = self.sub_decoder("r", rhythm, z_r), self.sub_decoder("n", note, z_n)
        out = self.global_decoder(torch.cat([z_r, z_n, chroma], dim=1), x)
        return (out, r_out, n_out), (dis_r, dis_n), (z_r, z_n), (logit_r, logit_n), (qy_x_r, qy_x_n)


def fader_nets_loss(
    model: Any, d: Tensor, r: Tensor, n: Tensor, chroma: Tensor, density_r: Tensor, density_n: Tensor
) -> Tensor:
    hot = (F.one_hot(d, 9).float(), F.one_hot(r, 3).float(), F.one_hot(n, 3).float())
    outs, dis, zs, logits, qs = model(*hot, chroma)
    ce = sum(
        weight * F.nll_loss(out.view(-1, out.size(-1)), target.view(-1))
        for weight, out, target in zip((5, 1, 1), outs, (d, r, n), strict=True)
    )
    kld_lat: Any = 0
    kld_cls: Any = 0
    for part, q_z, logit, q in zip("rn", dis, logits, qs, strict=True):
        for k in torch.arange(0, 2):
            mu_pz_y = getattr(model, f"mu_{part}_lookup")(k)
            var_pz_y = getattr(model, f"logvar_{part}_lookup")(k).exp_()
            kld = torch.mean(kl_divergence(q_z, Normal(mu_pz_y, var_pz_y)), dim=-1)
            kld = kld * q[:, k]
            kld_lat = kld_lat + kld.mean()
        entropy = torch.mean(q * F.log_softmax(logit, dim=1), dim=1)
        kld_cls = kld_cls + (entropy - np.log(1 / 2)).mean()
    regular: Any = 0
    for z, density in zip(zs, (density_r, density_n), strict=True):
        gaps = density.reshape(-1, 1) - density
        regular = regular + F.mse_loss(torch.tanh(z[:, 0].reshape(-1, 1) - z[:, 0]), torch.sign(gaps))
    return ce + 0.2 * 0.1 * (kld_lat + kld_cls) + regular


# ---------------------------------------------------------------------------------------------- series


class GaussianWeight:
    """No module: σ is computed when it is made."""

    def __init__(self, mu: Tensor, rho: Tensor) -> None:
        self.mu, self.rho = mu, rho
        self.sigma = torch.log1p(torch.exp(self.rho))

    def sample(self) -> Tensor:
        epsilon = Normal(0, 1).sample(self.rho.size())
        return self.mu + self.sigma * epsilon

    def log_prob(self, x: Tensor) -> Tensor:
        scaled = ((x - self.mu) ** 2) / (2 * self.sigma**2)
        return (-math.log(math.sqrt(2 * math.pi)) - torch.log(self.sigma) - scaled).sum()


class ScaledMixedGaussian:
    def __init__(self) -> None:
        self.pi, self.gaussian1, self.gaussian2 = 0.5, Normal(0, 6), Normal(0, 6)

    def log_prob(self, x: Tensor) -> Tensor:
        pd1, pd2 = torch.exp(self.gaussian1.log_prob(x)), torch.exp(self.gaussian2.log_prob(x))
        return (torch.log(self.pi * pd1 + (1 - self.pi) * pd2)).sum()


class BayesLinear(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(torch.Tensor(n_in, n_out).uniform_(-0.2, 0.2))
        self.bias_mu = nn.Parameter(torch.Tensor(1, n_out).uniform_(-0.2, 0.2))
        self.weight_rho = nn.Parameter(torch.Tensor(n_in, n_out).uniform_(-5, -4))
        self.bias_rho = nn.Parameter(torch.Tensor(1, n_out).uniform_(-5, -4))
        self.weight = GaussianWeight(self.weight_mu, self.weight_rho)
        self.bias = GaussianWeight(self.bias_mu, self.bias_rho)
        self.prior_weight, self.prior_bias = ScaledMixedGaussian(), ScaledMixedGaussian()
        self.log_prior: Any = 0
        self.log_variational_posterior: Any = 0

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.sample(), self.bias.sample()
        self.log_prior = self.prior_weight.log_prob(weight) + self.prior_bias.log_prob(bias)
        self.log_variational_posterior = self.weight.log_prob(weight) + self.bias.log_prob(bias)
        return torch.matmul(x, weight) + bias


class BayesRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_ih, self.w_hh, self.w_ho = BayesLinear(3, 5), BayesLinear(5, 5), BayesLinear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h_t = torch.zeros(len(x), 5)
        for t in range(x.shape[1]):
            h_t = torch.tanh(self.w_ih(x[:, t, :]) + self.w_hh(h_t))
        return torch.tanh(self.w_ho(h_t))

    def log_prior(self) -> Tensor:
        return self.w_ih.log_prior + self.w_hh.log_prior + self.w_ho.log_prior

    def log_variational_posterior(self) -> Tensor:
        return sum(layer.log_variational_posterior for layer in (self.w_ih, self.w_hh, self.w_ho))


def markov_sampling_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    outputs = torch.zeros(3, len(x), 3)
    log_prior, log_variational_posterior = torch.tensor(0.0), torch.tensor(0.0)
    for s in range(3):
        outputs[s] = model(x)
        log_prior = log_prior + model.log_prior()
        log_variational_posterior = log_variational_posterior + model.log_variational_posterior()
    return (log_variational_posterior - log_prior) / 10 + F.mse_loss(outputs.mean(0), y)


class PhiBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.phi_layers = nn.ModuleList([nn.Linear(n_in, n_out), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.phi_layers:
            x = layer(x)
        return x


class VariationalBlock(nn.Module):
    """Returns a Normal; what it calls the logarithm of a variance is the scale's."""

    def __init__(self, n_in: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.var_layers = nn.ModuleList([nn.Linear(n_in, hidden), nn.ReLU()])
        self.to_mu, self.to_logvar = nn.Linear(hidden, latent), nn.Sequential(nn.Linear(hidden, latent))

    def forward(self, x: Tensor) -> Normal:
        for layer in self.var_layers:
            x = layer(x)
        return Normal(loc=self.to_mu(x), scale=self.to_logvar(x).exp() + 1e-3)


class MCRNNVAE(nn.Module):
    """Two channels, each with a prior, an encoder, a decoder and a recurrence of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch, self.warm_up = 60, 50
        self.ch_priors, self.ch_phi_x, self.ch_enc = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.ch_phi_z, self.ch_dec, self.ch_RNN = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for feats in (4, 3):
            self.ch_priors.append(VariationalBlock(5, 6, 2))
            self.ch_phi_x.append(PhiBlock(feats, feats))
            self.ch_enc.append(VariationalBlock(feats + 5, feats + 5, 2))
            self.ch_phi_z.append(PhiBlock(2, 2))
            self.ch_dec.append(VariationalBlock(2 + 5, 2 + 5, feats))
            self.ch_RNN.append(nn.GRU(feats + 2, 5, 1))

    def warmed(self, normal: Normal) -> Normal:
        """In the first epochs every scale is a tenth."""
        if self.epoch < self.warm_up:
            normal.scale *= 0.1
        return normal

    def step(self, ch: int, x: Tensor, state: Tensor) -> tuple[Tensor, Normal, Normal, list[Normal]]:
        """One channel, at one time: its next state, its prior and its code, and what the code tells of each channel."""
        last = state[-1]
        expected, features = self.warmed(self.ch_priors[ch](last)), self.ch_phi_x[ch](x)
        code = self.warmed(self.ch_enc[ch](torch.cat([features, last], 1)))
        z = code.rsample()
        told = [
            self.warmed(decoder(torch.cat([phi(z), last], 1)))
            for phi, decoder in zip(self.ch_phi_z, self.ch_dec, strict=True)
        ]
        _, following = self.ch_RNN[ch](torch.cat([self.ch_phi_z[ch](z), features], 1)[None], state)
        return following, expected, code, told

    def forward(self, channels: list[Tensor]) -> list[list[tuple[Normal, Normal, list[Normal]]]]:
        states = [torch.zeros(1, channel.size(1), 5) for channel in channels]
        history: list[list[Any]] = []
        for now in zip(*channels, strict=True):
            history.append([])
            for ch, x in enumerate(now):
                states[ch], *normals = self.step(ch, x, states[ch])
                history[-1].append(tuple(normals))
        return history


def mcrnnvae_loss(model: Any, first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    channels = (first, second)
    loss = torch.tensor(0.0)
    for present, normals, *seen in zip(mask, model([first, second]), *channels, strict=True):
        for expected, code, told in normals:
            loss = loss + kl_divergence(code, expected).mean(1).masked_select(present).mean(0)
            for normal, x in zip(told, seen, strict=True):
                loss = loss - normal.log_prob(x).sum(1).masked_select(present).mean(0)
    return loss


# ---------------------------------------------------------------------------------------------- worlds


class MDNRNN(nn.Module):
    """A mixture for each latent dimension, its components along the third dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.num_gaussians = 4, 3
        self.rnn = nn.LSTM(4 + 2, 6, num_layers=1, batch_first=True)
        self.firstLayer = nn.Linear(6, 8)
        self.mu, self.var, self.pi = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12)
        self.leakyReLU = nn.LeakyReLU()

    def mdn(self, x: Tensor) -> tuple[Tensor, ...]:
        batch, steps, _ = x.shape
        x = self.leakyReLU(self.firstLayer(x))
        mu = self.mu(x).view(batch, steps, self.num_gaussians, self.input_size)
        var = torch.exp(self.var(x)).view(batch, steps, self.num_gaussians, self.input_size)
        pi = self.pi(x).view(batch, steps, self.num_gaussians, self.input_size)
        return mu, var, F.softmax(pi, 2)

    def mdn_loss(self, x: Tensor, y_real: Tensor) -> Tensor:
        h0 = (torch.zeros(1, len(x), 6), torch.zeros(1, len(x), 6))
        mu, var, pi = self.mdn(self.rnn(x, h0)[0])
        numerator = torch.exp(-(torch.subtract(y_real, mu) ** 2) / (2 * var))
        pdf = numerator / torch.sqrt(2 * np.pi * var)
        mix = (pdf * pi).sum(dim=2)
        return -torch.log(mix.clamp(min=1e-12)).mean()


def mdn_rnn_loss(model: Any, x: Tensor, a: Tensor, y: Tensor) -> Tensor:
    return model.mdn_loss(torch.cat((x, a), dim=-1), y.unsqueeze(2))


class TransitionModel(jit.ScriptModule):
    """In TorchScript, as upstream."""

    __constants__ = ("floor",)

    def __init__(self) -> None:
        super().__init__()
        self.floor = 0.1
        self.fc_embed_state_action, self.rnn = nn.Linear(3 + 2, 6), nn.GRUCell(6, 6)
        self.fc_embed_belief_prior, self.fc_state_prior = nn.Linear(6, 5), nn.Linear(5, 6)
        self.fc_embed_belief_posterior, self.fc_state_posterior = nn.Linear(6 + 4, 5), nn.Linear(5, 6)
        self.modules = [self.fc_embed_state_action, self.fc_state_prior, self.fc_state_posterior]

    @jit.script_method
    def forward(
        self,
        state: torch.Tensor,
        actions: torch.Tensor,
        belief: torch.Tensor,
        seen: torch.Tensor | None = None,
        going_on: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Beliefs, then draws, means and scales of the prior, and of the posterior if there are observations."""
        rows: list[list[torch.Tensor]] = []
        for t in range(actions.size(0)):
            if going_on is not None:
                state = state * going_on[t]
            moved = self.fc_embed_state_action(torch.cat([state, actions[t]], dim=1))
            belief = self.rnn(F.elu(moved), belief)
            mean, raw = self.fc_state_prior(F.elu(self.fc_embed_belief_prior(belief))).chunk(2, 1)
            scale = self.floor + F.softplus(raw)
            state = torch.randn_like(mean) * scale + mean
            row = [belief, state, mean, scale]
            if seen is not None:
                joined = self.fc_embed_belief_posterior(torch.cat([belief, seen[t]], dim=1))
                mean, raw = self.fc_state_posterior(F.elu(joined)).chunk(2, 1)
                scale = self.floor + F.softplus(raw)
                state = torch.randn_like(mean) * scale + mean
                row += [state, mean, scale]
            rows.append(row)
        return [torch.stack([row[i] for row in rows]) for i in range(len(rows[0]))]


class ActorModel(jit.ScriptModule):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc5 = nn.Linear(9, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.modules = [self.fc1, self.fc2, self.fc5]
        self.floor, self.first_std, self.bound = 1e-4, 5.0, 5.0

    @jit.script_method
    def forward(self, belief: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = F.elu(self.fc1(torch.cat([belief, state], dim=1)))
        mean, raw = self.fc5(F.elu(self.fc2(hidden))).chunk(2, 1)
        shift = torch.tensor(self.first_std).expm1().log()
        return (mean / self.bound).tanh() * self.bound, self.floor + F.softplus(raw + shift)


class TanhBijector(Transform):
    bijective, sign = True, 1
    domain, codomain = constraints.real, constraints.interval(-1.0, 1.0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * (math.log(2) + F.logsigmoid(2 * x) - x)

    def _call(self, x: Tensor) -> Tensor:
        return x.tanh()


class SampleDist:
    """Passes on to a distribution whatever it is asked for."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, asked: str) -> Any:
        return getattr(self.wrapped, asked)


def bottle(f: Any, *parts: Tensor) -> Tensor:
    y = f(*(part.reshape(-1, part.size(-1)) for part in parts))
    return y.view(*parts[0].shape[:2], *y.shape[1:])


class JoinedMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, 8), nn.Linear(8, n_out)

    def forward(self, *parts: Tensor) -> Tensor:
        return self.fc2(F.elu(self.fc1(torch.cat(parts, dim=1))))


class Dreamer(nn.Module):
    """The models of the script, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.transition_model, self.actor_model, self.encoder = TransitionModel(), ActorModel(), JoinedMLP(7, 4)
        self.observation_model, self.reward_model, self.value_model = JoinedMLP(9, 7), JoinedMLP(9, 1), JoinedMLP(9, 1)

    def frozen(self, frozen: bool, *parts: str) -> None:
        for part in parts:
            for parameter in getattr(self, part).parameters():
                parameter.requires_grad = not frozen

    def action(self, belief: Tensor, state: Tensor) -> Tensor:
        mean, std = self.actor_model(belief, state)
        squashed = TransformedDistribution(Normal(mean, std), TanhBijector())
        return SampleDist(Independent(squashed, 1)).rsample()

    def imagine_ahead(self, state: Tensor, belief: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        beliefs, states = [belief.reshape(-1, 6)], [state.reshape(-1, 3)]
        for _ in range(horizon - 1):
            actions = self.action(beliefs[-1].detach(), states[-1].detach())
            found = self.transition_model(states[-1], actions.unsqueeze(0), beliefs[-1])
            beliefs.append(found[0].squeeze(0))
            states.append(found[1].squeeze(0))
        return torch.stack(beliefs[1:]), torch.stack(states[1:])


WORLD = ("encoder", "transition_model", "observation_model", "reward_model")


def dreamer_losses(model: Any, observations: Tensor, actions: Tensor, rewards: Tensor, nonterminals: Tensor) -> Tensor:
    init_belief, init_state = torch.zeros(3, 6), torch.zeros(3, 3)
    embedded = bottle(model.encoder, observations[1:])
    found = model.transition_model(init_state, actions[:-1], init_belief, embedded, nonterminals[:-1])
    beliefs, _, prior_means, prior_std_devs, states, posterior_means, posterior_std_devs = found
    rebuilt = bottle(model.observation_model, beliefs, states)
    observation_loss = F.mse_loss(rebuilt, observations[1:], reduction="none").sum(dim=2).mean(dim=(0, 1))
    reward = bottle(model.reward_model, beliefs, states).squeeze(-1)
    reward_loss = F.mse_loss(reward, rewards[:-1], reduction="none").mean(dim=(0, 1))
    div = kl_divergence(Normal(posterior_means, posterior_std_devs), Normal(prior_means, prior_std_devs)).sum(dim=2)
    kl_loss = torch.max(div, torch.full((1,), 3.0)).mean(dim=(0, 1))
    model_loss = observation_loss + reward_loss + kl_loss
    model.frozen(True, *WORLD)
    imged_beliefs, imged_states = model.imagine_ahead(states.detach(), beliefs.detach(), 4)
    model.frozen(True, "value_model")
    imged_reward = bottle(model.reward_model, imged_beliefs, imged_states)
    value_pred = bottle(model.value_model, imged_beliefs, imged_states)
    model.frozen(False, *WORLD, "value_model")
    returns = [value_pred[-1]]
    following = torch.cat([value_pred[1:], value_pred[-1][None]], 0)
    for t in reversed(range(len(imged_reward))):
        returns.append(imged_reward[t] + 0.99 * (0.05 * following[t] + 0.95 * returns[-1]))
    target = torch.stack(returns[:0:-1])
    actor_loss = -torch.mean(target)
    value_dist = Normal(bottle(model.value_model, imged_beliefs.detach(), imged_states.detach()), 1)
    value_loss = -value_dist.log_prob(target.detach()).mean(dim=(0, 1))
    return model_loss + actor_loss + value_loss.squeeze()


# ---------------------------------------------------------------------------------------------- policies


def sac_clamped(v: Tensor) -> Tensor:
    return torch.clamp(v, -20, 2).exp()


def tenth(v: Tensor) -> Tensor:
    return F.softplus(v) + 0.1


def actor_std(v: Tensor) -> Tensor:
    return F.softplus(v + math.log(math.exp(5) - 1)) + 1e-4


class CriticNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.optim = torch.optim.Adam(self.parameters(), lr=0.01)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(torch.cat((s, a), dim=1))))))


class GaussianActorNetwork(nn.Module):
    """Its layer called sigma emits the logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 8)
        self.mu, self.sigma = nn.Linear(8, 2), nn.Linear(8, 2)
        self.optim = torch.optim.Adam(self.parameters(), lr=0.01)
        self.action_scale, self.action_bias = torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0])

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        s = F.relu(self.fc2(F.relu(self.fc1(s))))
        mu, sigma = self.mu(s), self.sigma(s)
        return mu, torch.clamp(sigma, -20, 2)

    def sample(self, s: Tensor, reparametrize: bool = True) -> tuple[Tensor, ...]:
        mu, log_sigma = self.forward(s)
        probs = Normal(mu, log_sigma.exp())
        actions = probs.rsample() if reparametrize else probs.sample()
        bounded = torch.tanh(actions)
        log_probs = probs.log_prob(actions)
        log_probs -= torch.log(self.action_scale * (1 - bounded.pow(2) + 1e-6))
        return bounded * self.action_scale + self.action_bias, log_probs.sum(1, keepdim=True), mu


class SACAgent(nn.Module):
    """No module upstream."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic1, self.critic2 = GaussianActorNetwork(), CriticNetwork(), CriticNetwork()
        self.target_critic1, self.target_critic2 = CriticNetwork(), CriticNetwork()
        for target, source in ((self.target_critic1, self.critic1), (self.target_critic2, self.critic2)):
            target.load_state_dict(source.state_dict())
        self.log_alpha, self.alpha = nn.Parameter(torch.zeros(1)), 0.01

    def forward(self, obs: Tensor, actions: Tensor, rewards: Tensor, obs_: Tensor, done: Tensor) -> Tensor:
        with torch.no_grad():
            actions_, log_probs_, _ = self.actor.sample(obs_, reparametrize=False)
            min_q_ = torch.min(self.target_critic1(obs_, actions_), self.target_critic2(obs_, actions_))
            min_q_ = min_q_ - self.alpha * log_probs_
            y = (rewards + 0.99 * (~done) * (min_q_.view(-1))).view(len(obs), 1)
        loss = F.mse_loss(self.critic1(obs, actions), y) + F.mse_loss(self.critic2(obs, actions), y)
        drawn, log_probs, _ = self.actor.sample(obs, reparametrize=True)
        min_q = torch.min(self.critic1(obs, drawn), self.critic2(obs, drawn))
        a_loss = -torch.mean(min_q.view(-1) - self.alpha * log_probs.view(-1))
        alpha_loss = torch.mean(-self.log_alpha * (log_probs.detach() - 2))
        return loss + a_loss + alpha_loss


class SquashedGaussianActor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.mu_layer, self.log_std_layer = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        net_out = self.net(obs)
        mu = self.mu_layer(net_out)
        log_std = torch.clamp(self.log_std_layer(net_out), -20, 2.0)
        std = torch.exp(log_std)
        pi_distribution = Normal(mu, std)
        pi_action = pi_distribution.rsample()
        logp_pi = pi_distribution.log_prob(pi_action).sum(axis=-1)
        logp_pi -= (2 * (np.log(2) - pi_action - F.softplus(-2 * pi_action))).sum(axis=1)
        pi_action = torch.tanh(pi_action)
        return (pi_action + 1) / 2 * 4 - 2, logp_pi


class LCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.L = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return torch.sum(torch.square(self.L(torch.cat([obs, act], dim=-1))), dim=-1)


class LyapunovActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pi, self.L = SquashedGaussianActor(), LCritic()


class LAC(nn.Module):
    """The target's policy is a copy that is not trained, and is drawn from."""

    def __init__(self) -> None:
        super().__init__()
        self.ac = LyapunovActorCritic()
        self.ac_targ = copy.deepcopy(self.ac)
        self.ac_targ.requires_grad_(False)
        self.log_alpha, self.log_labda = nn.Parameter(torch.tensor(0.99).log()), nn.Parameter(torch.tensor(0.99).log())

    def forward(self, obs: Tensor, act: Tensor, cost: Tensor, following: Tensor, done: Tensor) -> Tensor:
        policy, lyapunov = self.ac.pi, self.ac.L
        alpha, labda = self.log_alpha.exp(), self.log_labda.exp().clamp(0.0, 1.0)
        with torch.no_grad():
            later = self.ac_targ.L(following, self.ac_targ.pi(following)[0])
            backup = cost + 0.99 * (1 - done) * later
        now = lyapunov(obs, act)
        critic_loss = 0.5 * F.mse_loss(now, backup)
        lyapunov.requires_grad_(False)
        log_density, (reached, _) = policy(obs)[1], policy(following)
        rise = (lyapunov(following, reached) - now.detach() + 0.2 * cost).mean()
        lyapunov.requires_grad_(True)
        policy_loss = labda.detach() * rise + alpha.detach() * log_density.mean()
        alpha_loss = (alpha * (2 - log_density.detach())).mean()
        return critic_loss + policy_loss + alpha_loss - (self.log_labda * rise.detach()).mean()


# ---------------------------------------------------------------------------------------------- skills


def skill_clamped(v: Tensor) -> Tensor:
    return v.clamp(-10, 2).exp()


class TanhNormal:
    """A Normal, squashed; its KL is that of the Normals."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self._normal = Independent(Normal(loc, scale), 1)

    def rsample_with_pre_tanh_value(self) -> tuple[Tensor, Tensor]:
        z_normal = self._normal.rsample()
        return z_normal, torch.tanh(z_normal)

    def log_prob(self, value: Tensor, pre_tanh_value: Tensor, epsilon: float = 1e-6) -> Tensor:
        return self._normal.log_prob(pre_tanh_value) - torch.log(1 - value**2 + epsilon).sum(dim=-1)


def get_dist(model_output: Tensor) -> TanhNormal:
    mu, log_scale = model_output.chunk(2, -1)
    return TanhNormal(mu, log_scale.clamp(-10, 2).exp())


def tanh_kl(p: TanhNormal, q: TanhNormal) -> Tensor:
    return kl_divergence(p._normal, q._normal)


def mish_blocks(n_in: int, n_out: int, blocks: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in [n_in] + [8] * (blocks - 1):
        layers += [nn.Linear(width, 8), nn.LayerNorm(8), nn.Mish(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(8, n_out))


class SkillEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(nn.Linear(5 + 2, 8), nn.LayerNorm(8), nn.Mish(inplace=True))
        self.rnn, self.output_proj = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_proj(self.rnn(self.input_proj(x))[0])[:, -1]


class SkillPrior(nn.Module):
    """The prior of the skill, its inverse dynamics, and copies of some, which the goal is found with."""

    def __init__(self) -> None:
        super().__init__()
        self.state_encoder, self.state_decoder = mish_blocks(5, 4), mish_blocks(4, 5)
        self.skill_prior, self.inverse_dynamics = mish_blocks(4, 6), mish_blocks(8, 6)
        self.dynamics, self.flat_dynamics = mish_blocks(4 + 3, 4), mish_blocks(4 + 3, 4)
        self.skill_step_goal_generator = mish_blocks(4 + 2, 4)
        self.target_state_encoder = copy.deepcopy(self.state_encoder)
        self.target_inverse_dynamics = copy.deepcopy(self.inverse_dynamics)
        self.target_dynamics = copy.deepcopy(self.dynamics)

    def forward(self, states: Tensor, goal: Tensor, skill: Tensor) -> dict[str, Any]:
        n, steps, _ = states.shape
        hts = self.state_encoder(states.view(n * steps, -1)).view(n, steps, -1)
        states_hat = self.state_decoder(hts.view(n * steps, -1)).view(n, steps, -1)
        with torch.no_grad():
            hts_target = self.target_state_encoder(states.view(n * steps, -1)).view(n, steps, -1)
        prior_dist = get_dist(self.skill_prior(hts[:, 0].clone().detach()))
        start, end = hts[:, 0].clone().detach(), hts[:, -1].clone().detach()
        inverse = get_dist(self.inverse_dynamics(torch.cat((start, end), dim=-1)))
        inverse.rsample_with_pre_tanh_value()
        repeated = skill.unsqueeze(1).repeat(1, steps - 1, 1)
        flat_d = self.flat_dynamics(torch.cat((hts.clone().detach()[:, :-1], repeated), dim=-1))
        flat_d = hts.clone().detach()[:, :-1] + flat_d
        d = self.dynamics(torch.cat((hts[:, 0], skill.clone().detach()), dim=-1))
        subgoal_f = self.skill_step_goal_generator(torch.cat((start, goal), dim=-1)) + start
        found = get_dist(self.target_inverse_dynamics(torch.cat((start, subgoal_f), dim=-1)))
        _, skill_sub = found.rsample_with_pre_tanh_value()
        subgoal_d = self.target_dynamics(torch.cat((start, skill_sub), dim=-1))
        return {
            "states_hat": states_hat, "prior": prior_dist, "invD": inverse, "D": d, "flat_D": flat_d,
            "flat_D_target": hts_target[:, 1:], "subgoal_target": hts_target[:, -1],
            "subgoal_f": subgoal_f, "subgoal_D": subgoal_d,
        }  # fmt: skip


class GoalConditionedSkills(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skill_encoder, self.prior_policy = SkillEncoder(), SkillPrior()
        self.skill_decoder = mish_blocks(5 + 3, 2)


def goal_conditioned_loss(model: Any, states: Tensor, actions: Tensor, goal: Tensor) -> Tensor:
    q = model.skill_encoder(torch.cat((states[:, :-1], actions), dim=-1))
    post, post_detach = get_dist(q), get_dist(q.clone().detach())
    z_normal, skill = post.rsample_with_pre_tanh_value()
    zeros = torch.zeros_like(q.detach())
    fixed = TanhNormal(zeros.chunk(2, -1)[0], zeros.chunk(2, -1)[1].exp())
    steps = actions.shape[1]
    decoded = model.skill_decoder(torch.cat((states[:, :steps], skill[:, None].repeat(1, steps, 1)), dim=-1))
    out = model.prior_policy(states, goal, skill)
    recon, reg = F.mse_loss(decoded, actions), tanh_kl(post, fixed).mean()
    prior_loss = -out["prior"].log_prob(skill.clone().detach(), z_normal.clone().detach()).mean()
    inverse_loss = tanh_kl(post_detach, out["invD"]).mean()
    dynamics = F.mse_loss(out["flat_D"], out["flat_D_target"]) + F.mse_loss(out["D"], out["subgoal_target"])
    sanity = F.mse_loss(out["subgoal_D"], out["subgoal_f"]) + F.mse_loss(out["subgoal_f"], out["subgoal_target"])
    recon_state = F.mse_loss(out["states_hat"], states)
    return recon + reg * 0.0005 + prior_loss + inverse_loss + dynamics + sanity + recon_state


class ActionSequenceEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.z_mu = nn.LSTM(7, 8, 2, batch_first=True), nn.Linear(8, 3)
        self.z_scale = nn.Sequential(nn.Linear(8, 3), nn.Softplus())

    def drawn(self, mu: Tensor, scale: Tensor) -> Tensor:
        return scale * torch.randn(mu.shape) + mu

    def forward(self, acts: Tensor, seq_l: Tensor) -> tuple[Tensor, ...]:
        packed = nn.utils.rnn.pack_padded_sequence(acts, seq_l.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=acts.shape[1])
        x = x[torch.arange(len(acts)), seq_l - 1, :]
        x_mu, x_scale = self.z_mu(x), self.z_scale(x)
        return self.drawn(x_mu, x_scale), x_mu, x_scale


class DeterministicDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.mlp, self.criterion = nn.LSTM(3, 8, 2, batch_first=True), nn.Linear(8, 7), nn.MSELoss()

    def loss_and_acts(self, skill: Tensor, seq_l: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        x = skill[:, None, :].tile((1, int(seq_l.max()), 1))
        packed = nn.utils.rnn.pack_padded_sequence(x, seq_l.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        pred_actions = self.mlp(x)
        return self.criterion(pred_actions, actions), pred_actions


class PriorLocator(nn.Module):
    """Three priors, one for each kind of skill, from its number alone."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 6, 6, 6, 6, 6]
        for name, last in (("prior_mu_extractor", []), ("prior_scale_extractor", [nn.Softplus()])):
            layers: list[nn.Module] = []
            for a, b in pairwise(widths):
                layers += [nn.Linear(a, b), nn.ReLU()]
            self.add_module(name, nn.Sequential(*layers, nn.Linear(6, 3), *last))
        self.register_buffer("one_hot_keys", torch.eye(3))

    def forward(self, repeat: int) -> tuple[Tensor, Tensor]:
        p_mu, p_scale = self.prior_mu_extractor(self.one_hot_keys), self.prior_scale_extractor(self.one_hot_keys)
        return torch.tile(p_mu[None, ...], (repeat, 1, 1)), torch.tile(p_scale[None, ...], (repeat, 1, 1))


class SkillGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = ActionSequenceEncoder(), DeterministicDecoder()
        self.prior_locator = PriorLocator()

    def compute_kl_loss(self, post: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], balance: float) -> Tensor:
        def dist(state: tuple[Tensor, Tensor]) -> Independent:
            return Independent(Normal(state[0], state[1]), 1)

        def detached(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return state[0].detach(), state[1].detach()

        kl_loss_0 = kl_divergence(dist(post), dist(detached(other)))
        kl_loss_1 = kl_divergence(dist(detached(post)), dist(other))
        return balance * kl_loss_0 + (1 - balance) * kl_loss_1

    def skill_classifier(self, actions: Tensor) -> Tensor:
        energy = torch.sum(torch.abs(actions[:, :, :6]), dim=1)
        gripper = torch.abs(actions[:, 1:, 6] - actions[:, :-1, 6]).sum(1)
        t = torch.stack([torch.norm(energy[:, :3], dim=1), torch.norm(energy[:, 3:6], dim=1), gripper], dim=-1)
        one_hot_key = torch.zeros_like(t)
        one_hot_key[torch.arange(len(t)), torch.argmax(t, dim=-1)] = 1.0
        return one_hot_key

    def training_step(self, actions: Tensor) -> Tensor:
        batch = len(actions)
        seq_l = torch.tensor(actions.shape[1]).repeat(batch)
        z, z_mu, z_scale = self.encoder(actions, seq_l)
        rec_loss, _ = self.decoder.loss_and_acts(z, seq_l, actions)
        p_mu, p_scale = self.prior_locator(batch)
        skill_state = (z_mu, z_scale)
        std_normal = (torch.zeros((batch, 3)), torch.ones((batch, 3)))
        reg_loss = self.compute_kl_loss(skill_state, std_normal, 0.8).mean()
        ohk = self.skill_classifier(actions)
        prior_train_loss: Any = 0
        for kind in range(3):
            kl = self.compute_kl_loss(skill_state, (p_mu[:, kind], p_scale[:, kind]), 0.8)
            prior_train_loss = prior_train_loss + ohk[:, kind] * kl
        return rec_loss + 5e-4 * reg_loss + 1e-3 * prior_train_loss.mean()


def skill_generator_step(model: Any, actions: Tensor) -> Tensor:
    return model.training_step(actions)


# ---------------------------------------------------------------------------------------------- graphs


class SparseMM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return left.mm(right)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, Any]:
        (left, right), (of_left, of_right) = ctx.saved_tensors, ctx.needs_input_grad
        return grad.mm(right.t()) if of_left else None, left.t().mm(grad) if of_right else None


class GraphConvolution(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.Tensor(n_in, n_out))
        self.sparse_mm = SparseMM.apply
        init_range = math.sqrt(6.0 / (n_in + n_out))
        self.weight.data.uniform_(-init_range, init_range)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return self.sparse_mm(adj, self.sparse_mm(x, self.weight))


class GCNEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gc1, self.gc2_mu, self.gc2_sig = GraphConvolution(5, 6), GraphConvolution(6, 3), GraphConvolution(6, 3)

    def forward(self, x: Tensor, adj: Tensor) -> tuple[Tensor, Tensor]:
        x = F.dropout(F.relu(self.gc1(x, adj)), 0.0, training=self.training)
        mu, log_sig = self.gc2_mu(x, adj), self.gc2_sig(x, adj)
        return mu, torch.exp(log_sig)


class PyroGAE(nn.Module):
    """Upstream the two densities at the draw are Pyro's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = GCNEncoder()

    def forward(self, x: Tensor, adj_norm: Tensor, labels: Tensor) -> Tensor:
        n = len(x)
        z_mu, z_sigma = self.encoder(x, adj_norm)
        guide = Independent(Normal(z_mu, z_sigma), 2)
        z = guide.rsample()
        log_prior = Independent(Normal(torch.zeros([n, 3]), torch.ones([n, 3])), 2).log_prob(z)
        z_adj = (torch.sigmoid(torch.mm(z, z.t())) + 1e-7) * (1 - 2e-7)
        obs = labels.view(1, -1)
        pos_weight = (n * n - labels.sum()) / labels.sum()
        logits = Bernoulli(z_adj.view(1, -1)).logits
        log_obs = -F.binary_cross_entropy_with_logits(logits, obs, reduction="none", pos_weight=pos_weight).sum()
        return -(log_prior + log_obs - guide.log_prob(z))


class GCNConv(nn.Module):
    """A library's layer: a linear map, messages along edges, a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n_in, n_out, bias=False), nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        loops = torch.arange(len(x))
        row, col = torch.cat([edge_index, torch.stack([loops, loops])], dim=1)
        deg = torch.zeros(len(x)).scatter_add_(0, col, torch.ones(len(col)))
        norm = deg.pow(-0.5)[row] * deg.pow(-0.5)[col]
        x = self.lin(x)
        out = torch.zeros(x.shape).index_add(0, col, norm.view(-1, 1) * x.index_select(0, row))
        return out + self.bias


class VariationalGCNEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv_mu, self.conv_logstd = GCNConv(5, 6), GCNConv(6, 3), GCNConv(6, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.conv1(x, edge_index))
        return self.conv_mu(hidden, edge_index), self.conv_logstd(hidden, edge_index)


def capped(v: Tensor) -> Tensor:
    return v.clamp(max=10).exp()


class VGAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = VariationalGCNEncoder()

    def encode(self, *args: Tensor) -> Tensor:
        self.__mu__, self.__logstd__ = self.encoder(*args)
        self.__logstd__ = self.__logstd__.clamp(max=10)
        if self.training:
            return self.__mu__ + torch.randn_like(self.__logstd__) * torch.exp(self.__logstd__)
        return self.__mu__

    def decoder(self, z: Tensor, edge_index: Tensor) -> Tensor:
        return torch.sigmoid((z[edge_index[0]] * z[edge_index[1]]).sum(dim=1))

    def recon_loss(self, z: Tensor, pos_edge_index: Tensor) -> Tensor:
        pos_loss = -torch.log(self.decoder(z, pos_edge_index) + 1e-15).mean()
        neg_edge_index = torch.randint(0, len(z), pos_edge_index.shape)
        return pos_loss - torch.log(1 - self.decoder(z, neg_edge_index) + 1e-15).mean()

    def kl_loss(self) -> Tensor:
        mu, logstd = self.__mu__, self.__logstd__
        return -0.5 * torch.mean(torch.sum(1 + 2 * logstd - mu**2 - logstd.exp() ** 2, dim=1))


def vgae_loss(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    z = model.encode(x, edge_index)
    return model.recon_loss(z, edge_index) + (1 / len(x)) * model.kl_loss()


# ---------------------------------------------------------------------------------------------- neural processes


def ninth(v: Tensor) -> Tensor:
    return 0.1 + 0.9 * torch.sigmoid(v)


class BaseMLP(nn.Module):
    def __init__(self, n_in: int, n_out: int, layers: int) -> None:
        super().__init__()
        widths = [n_in] + [8] * (layers - 1) + [n_out]
        self.layers, self.activation = nn.ModuleList(), nn.ReLU()
        for a, b in pairwise(widths):
            self.layers.append(nn.Linear(a, b))
            nn.init.xavier_uniform_(self.layers[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class SetEncoder(nn.Module):
    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.pre_model, self.post_model = BaseMLP(2, 8, 4), BaseMLP(8, n_out, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.post_model(self.pre_model(torch.cat([x, y], dim=-1)).mean(dim=-2))


class LatentEncoder(SetEncoder):
    def forward(self, x: Tensor, y: Tensor) -> Normal:
        mu, pre_sigma = super().forward(x, y).chunk(2, dim=-1)
        return Normal(mu, 0.1 + 0.9 * torch.sigmoid(pre_sigma))


class FunctionDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = BaseMLP(1 + 6 + 4, 2, 3)

    def forward(self, x: Tensor, enc: Tensor) -> Normal:
        mu, pre_sigma = self.model(torch.cat([x, enc], dim=-1)).chunk(2, dim=-1)
        return Normal(mu, 0.1 + 0.9 * torch.sigmoid(pre_sigma))


def stack_tensor(x: Tensor, count: int, dim: int) -> Tensor:
    return torch.stack([x] * count, dim=dim)


class NeuralProcess(nn.Module):
    """An importance-weighted bound of several draws."""

    def __init__(self) -> None:
        super().__init__()
        self.deterministic_encoder, self.latent_encoder, self.decoder = (
            SetEncoder(6),
            LatentEncoder(8),
            FunctionDecoder(),
        )

    def forward(self, x_context: Tensor, y_context: Tensor, x_target: Tensor, y_target: Tensor) -> Tensor:
        r = stack_tensor(self.deterministic_encoder(x_context, y_context), 4, dim=0)
        qz_context = self.latent_encoder(x_context, y_context)
        qz_target = self.latent_encoder(x_target, y_target)
        z = qz_target.rsample([4])
        enc = stack_tensor(torch.cat([r, z], dim=-1), x_target.shape[-2], dim=-2)
        p_y_pred = self.decoder(stack_tensor(x_target, 4, dim=0), enc)
        recon = p_y_pred.log_prob(stack_tensor(y_target, 4, dim=0)).sum(dim=-1).mean(dim=-1)
        log_qz_target, log_qz_context = qz_target.log_prob(z).sum(dim=-1), qz_context.log_prob(z).sum(dim=-1)
        log_weight = recon + log_qz_context - log_qz_target
        return -(torch.logsumexp(log_weight, dim=0) - math.log(log_weight.shape[0])).mean()


# ---------------------------------------------------------------------------------------------- Bayesian networks


class VarLinear(nn.Module):
    """Its KL is left with it when it is called."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.sampling = True
        self.kl_acc = torch.tensor(0.0)
        self.register_buffer("weight_std", torch.tensor(1.0))
        self.register_buffer("bias_std", torch.tensor(1.0))
        self.w_mu, self.w_sigma_param = nn.Parameter(torch.empty(n_out, n_in)), nn.Parameter(torch.empty(n_out, n_in))
        self.b_mu, self.b_sigma_param = nn.Parameter(torch.empty(n_out)), nn.Parameter(torch.empty(n_out))
        nn.init.kaiming_uniform_(self.w_mu)
        nn.init.zeros_(self.b_mu)
        nn.init.constant_(self.w_sigma_param, torch.log(self.weight_std).item())
        nn.init.constant_(self.b_sigma_param, torch.log(self.bias_std).item())

    @staticmethod
    def sigma(sigma_param: Tensor) -> Tensor:
        log_sigma = sigma_param
        return torch.exp(log_sigma)

    def forward(self, x: Tensor) -> Tensor:
        w_sigma, b_sigma = self.sigma(self.w_sigma_param), self.sigma(self.b_sigma_param)
        w = self.w_mu + torch.randn_like(w_sigma) * w_sigma
        b = self.b_mu + torch.randn_like(b_sigma) * b_sigma
        y = F.linear(x, w, b)
        kl_w = kl_divergence(Normal(self.w_mu, w_sigma), Normal(0, self.weight_std)).sum()
        self.kl_acc = kl_w + kl_divergence(Normal(self.b_mu, b_sigma), Normal(0, self.bias_std)).sum()
        return y


class DenseVarClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Sequential(VarLinear(2, 8), nn.Tanh(), nn.BatchNorm1d(8)), VarLinear(8, 1))

    def kl(self) -> Tensor:
        kl = torch.tensor(0.0)
        for layer in self.model.modules():
            if hasattr(layer, "kl_acc"):
                kl = kl + layer.kl_acc
        return kl

    def forward(self, x: Tensor, y: Tensor, total_size: int = 500) -> Tensor:
        logits = self.model(x)
        ll = Bernoulli(logits=logits.squeeze()).log_prob(y.float()).sum()
        return -(ll * (total_size / len(x)) - self.kl() * 1.0)


# ---------------------------------------------------------------------------------------------- paths


def relu_linear(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(inplace=True))


class BiTraPNP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.nu, self.sigma = 3, 0.0, 1.5
        self.node_future_encoder_h = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.gt_goal_encoder = nn.GRU(4, 4, bidirectional=True, batch_first=True)
        self.p_z_x = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 6))
        self.q_z_xy = nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, enc_h: Tensor, cur_state: Tensor, k: int, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_mu_logvar_p = self.p_z_x(enc_h)
        z_mu_p, z_logvar_p = z_mu_logvar_p[:, : self.latent_dim], z_mu_logvar_p[:, self.latent_dim :]
        initial_h = self.node_future_encoder_h(cur_state)
        initial_h = torch.stack([initial_h, torch.zeros_like(initial_h)], dim=0)
        target_h = self.gt_goal_encoder(target, initial_h)[1].permute(1, 0, 2)
        target_h = target_h.reshape(-1, target_h.shape[1] * target_h.shape[2])
        z_mu_logvar_q = self.q_z_xy(torch.cat([enc_h, target_h], dim=-1))
        z_mu_q, z_logvar_q = z_mu_logvar_q[:, : self.latent_dim], z_mu_logvar_q[:, self.latent_dim :]
        ratio = (z_logvar_q.exp() / z_logvar_p.exp()) + (z_mu_p - z_mu_q).pow(2) / z_logvar_p.exp()
        kld = torch.clamp((0.5 * (ratio - 1 + (z_logvar_p - z_logvar_q))).sum(dim=-1).mean(), min=0.001)
        with torch.set_grad_enabled(False):
            k_samples = torch.normal(self.nu, self.sigma, size=(enc_h.shape[0], k, self.latent_dim))
        probability = Normal(0, 1).log_prob(k_samples).exp().mean(dim=-1)
        z_std = torch.exp(0.5 * z_logvar_q)
        z = z_mu_q.unsqueeze(1).repeat(1, k, 1) + k_samples * z_std.unsqueeze(1).repeat(1, k, 1)
        return torch.cat([enc_h.unsqueeze(1).repeat(1, k, 1), z], dim=-1), kld, probability


class SGNetCVAE(nn.Module):
    """A prediction, with its goals, from every observed step."""

    def __init__(self) -> None:
        super().__init__()
        self.cvae, self.enc_steps, self.dec_steps, self.k = BiTraPNP(), 3, 4, 5
        self.feature_extractor = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.regressor = nn.Sequential(nn.Linear(8, 4), nn.Tanh())
        self.enc_goal_attn, self.dec_goal_attn = relu_linear(2, 1), relu_linear(2, 1)
        self.enc_to_goal_hidden, self.goal_hidden_to_traj = relu_linear(8, 2), relu_linear(2, 8)
        self.cvae_to_dec_hidden, self.enc_to_dec_hidden = relu_linear(8 + 3, 8), relu_linear(8, 8)
        self.goal_hidden_to_input, self.dec_hidden_to_input = relu_linear(2, 2), relu_linear(8, 8)
        self.goal_to_enc, self.goal_to_dec = relu_linear(2, 2), relu_linear(2, 2)
        self.traj_enc_cell, self.goal_cell = nn.GRUCell(10, 8), nn.GRUCell(2, 2)
        self.dec_cell = nn.GRUCell(10, 8)

    def goals(self, goal_hidden: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        goal_input = goal_hidden.new_zeros((len(goal_hidden), 2))
        goal_traj = goal_hidden.new_zeros(len(goal_hidden), self.dec_steps, 4)
        goal_list = []
        for step in range(self.dec_steps):
            goal_hidden = self.goal_cell(goal_input, goal_hidden)
            goal_input = self.goal_hidden_to_input(goal_hidden)
            goal_list.append(goal_hidden)
            goal_traj[:, step, :] = self.regressor(self.goal_hidden_to_traj(goal_hidden))
        for_dec = [self.goal_to_dec(goal) for goal in goal_list]
        for_enc = torch.stack([self.goal_to_enc(goal) for goal in goal_list], dim=1)
        attn = F.softmax(self.enc_goal_attn(torch.tanh(for_enc)).squeeze(-1), dim=1).unsqueeze(1)
        return for_dec, torch.bmm(attn, for_enc).squeeze(1), goal_traj

    def cvae_decoder(self, dec_hidden: Tensor, for_dec: list[Tensor]) -> Tensor:
        batch, k = dec_hidden.shape[:2]
        dec_hidden = dec_hidden.view(-1, dec_hidden.shape[-1])
        dec_traj = dec_hidden.new_zeros(batch, self.dec_steps, k, 4)
        for step in range(self.dec_steps):
            goal = dec_hidden.new_zeros(batch, self.dec_steps, 2)
            goal[:, step:, :] = torch.stack(for_dec[step:], dim=1)
            attn = F.softmax(self.dec_goal_attn(torch.tanh(goal)).squeeze(-1), dim=1).unsqueeze(1)
            goal = torch.bmm(attn, goal).squeeze(1).unsqueeze(1).repeat(1, k, 1).view(-1, 2)
            dec_hidden = self.dec_cell(torch.cat((goal, self.dec_hidden_to_input(dec_hidden)), dim=-1), dec_hidden)
            dec_traj[:, step, :, :] = self.regressor(dec_hidden).view(-1, k, 4)
        return dec_traj

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        traj_input = self.feature_extractor(inputs)
        batch = len(inputs)
        all_goal_traj = traj_input.new_zeros(batch, self.enc_steps, self.dec_steps, 4)
        all_dec_traj = traj_input.new_zeros(batch, self.enc_steps, self.dec_steps, self.k, 4)
        for_enc, hidden = traj_input.new_zeros((batch, 2)), traj_input.new_zeros((batch, 8))
        probabilities = traj_input.new_zeros((batch, self.enc_steps, self.k))
        total_kld: Any = 0
        for step in range(self.enc_steps):
            hidden = self.traj_enc_cell(torch.cat((traj_input[:, step, :], for_enc), 1), hidden)
            for_dec, for_enc, goal_traj = self.goals(self.enc_to_goal_hidden(hidden))
            all_goal_traj[:, step, :, :] = goal_traj
            dec_hidden = self.enc_to_dec_hidden(hidden)
            cvae_hidden, kld, probability = self.cvae(dec_hidden, inputs[:, step, :], self.k, targets[:, step, :, :])
            probabilities[:, step, :] = probability
            total_kld = total_kld + kld
            all_dec_traj[:, step, :, :, :] = self.cvae_decoder(self.cvae_to_dec_hidden(cvae_hidden), for_dec)
        return all_goal_traj, all_dec_traj, total_kld, probabilities


def sgnet_loss(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    all_goal_traj, dec_traj, kld_loss, _ = model(inputs, targets)
    repeated = targets.unsqueeze(3).repeat(1, 1, 1, dec_traj.shape[3], 1)
    total = []
    for step in range(dec_traj.size(1)):
        traj_rmse = torch.sqrt(torch.sum((dec_traj[:, step] - repeated[:, step]) ** 2, dim=-1)).sum(dim=1)
        best_idx = torch.argmin(traj_rmse, dim=1)
        total.append(traj_rmse[range(len(best_idx)), best_idx].mean())
    goal_loss = torch.sqrt(torch.sum((all_goal_traj - targets) ** 2, dim=3)).sum(dim=2).mean(dim=1).mean(dim=0)
    return goal_loss + sum(total) / len(total) + kld_loss.mean()


# ---------------------------------------------------------------------------------------------- motion


class PositionalEncoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        position, div_term = torch.arange(20).unsqueeze(1), torch.exp(torch.arange(0, 8, 2) * (-np.log(10000.0) / 8))
        pe = torch.zeros(20, 8)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div_term), torch.cos(position * div_term)
        self.register_buffer("pe", pe.unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pe[: x.shape[0], :])


class TokenEncoder(nn.Module):
    """Two tokens in front of the sequence are asked for the mean and for the logarithm of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mu_token, self.logvar_token = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.sequence_pos_encoding = PositionalEncoding()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu")
        self.seqTransEncoder = nn.TransformerEncoder(layer, 2)

    def distribution(self, x: Tensor, mask: Tensor) -> Normal:
        batch = x.shape[0]
        x = x.permute(1, 0, 2)
        mu_token = torch.tile(self.mu_token, (batch,)).reshape(batch, -1)
        logvar_token = torch.tile(self.logvar_token, (batch,)).reshape(batch, -1)
        xseq = torch.cat((mu_token[None], logvar_token[None], x), 0)
        aug_mask = torch.cat((torch.ones((batch, 2), dtype=torch.bool), mask), 1)
        final = self.seqTransEncoder(self.sequence_pos_encoding(xseq), src_key_padding_mask=~aug_mask)
        mu, logvar = final[0], final[1]
        std = logvar.exp().pow(0.5)
        return Normal(mu, std)


class MotionTokenEncoder(TokenEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.skel_embedding = nn.Linear(6, 8)

    def forward(self, features: Tensor, mask: Tensor) -> Normal:
        return self.distribution(self.skel_embedding(features), mask)


class TextTokenEncoder(TokenEncoder):
    """The words' features are given: upstream a language model's, not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(5, 8))

    def forward(self, text_encoded: Tensor, mask: Tensor) -> Normal:
        return self.distribution(self.projection(text_encoded), mask)


class MotionTokenDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sequence_pos_encoding = PositionalEncoding()
        layer = nn.TransformerDecoderLayer(8, 2, 16, 0.1, "gelu")
        self.seqTransDecoder, self.final_layer = nn.TransformerDecoder(layer, 2), nn.Linear(8, 6)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        time_queries = self.sequence_pos_encoding(torch.zeros(mask.shape[1], len(z), 8))
        output = self.seqTransDecoder(tgt=time_queries, memory=z[None], tgt_key_padding_mask=~mask)
        output = self.final_layer(output)
        output[~mask.T] = 0
        return output.permute(1, 0, 2)


class TEMOS(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.textencoder, self.motionencoder = TextTokenEncoder(), MotionTokenEncoder()
        self.motiondecoder = MotionTokenDecoder()

    def allsplit_step(self, text: Tensor, text_mask: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        dis_text = self.textencoder(text, text_mask)
        lat_text = dis_text.rsample()
        from_text = self.motiondecoder(lat_text, mask)
        dis_motion = self.motionencoder(features, mask)
        lat_motion = dis_motion.rsample()
        from_motion = self.motiondecoder(lat_motion, mask)
        dis_ref = Normal(torch.zeros_like(dis_text.loc), torch.ones_like(dis_text.scale))
        total: Any = F.smooth_l1_loss(from_motion, features) + F.smooth_l1_loss(from_text, features)
        for q, p in ((dis_text, dis_motion), (dis_motion, dis_text), (dis_text, dis_ref), (dis_motion, dis_ref)):
            total = total + 1e-5 * kl_divergence(q, p).mean()
        return total + 1e-5 * F.smooth_l1_loss(lat_text, lat_motion)


def temos_step(model: Any, *inputs: Tensor) -> Tensor:
    return model.allsplit_step(*inputs)


# ---------------------------------------------------------------------------------------------- molecules


class StackGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5, padding_idx=0)
        self.stack_controls_layer, self.stack_input_layer = nn.Linear(6, 3), nn.Linear(6, 4)
        self.gru = nn.GRU(5 + 4, 6, 2, dropout=0.1)

    def fresh_stack(self, batch: int) -> Tensor:
        return torch.zeros(batch, 3, 4)

    def forward(self, token: Tensor, hidden: Tensor, stack: Tensor) -> tuple[Tensor, ...]:
        controls = F.softmax(self.stack_controls_layer(hidden[-1, :, :]), dim=-1).view(-1, 3, 1, 1)
        value = torch.tanh(self.stack_input_layer(hidden[-1, :, :].unsqueeze(0))).permute(1, 0, 2)
        a_push, a_pop, a_no_op = controls[:, 0], controls[:, 1], controls[:, 2]
        down = torch.cat((stack[:, 1:], torch.zeros(len(stack), 1, 4)), dim=1)
        up = torch.cat((value, stack[:, :-1]), dim=1)
        stack = a_no_op * stack + a_push * up + a_pop * down
        output, hidden = self.gru(torch.cat((self.embedding(token), stack[:, 0, :].unsqueeze(0)), dim=2), hidden)
        return output, hidden, stack


class StackGRUEncoder(StackGRU):
    def __init__(self) -> None:
        super().__init__()
        self.hidden_to_mu, self.hidden_to_logvar = nn.Linear(6, 4), nn.Linear(6, 4)

    def encoder_train_step(self, input_seq: Tensor) -> tuple[Tensor, Tensor]:
        hidden, stack = torch.zeros(2, input_seq.size(1), 6), self.fresh_stack(input_seq.size(1))
        for entry in input_seq.unsqueeze(1):
            _, hidden, stack = self(entry, hidden, stack)
        hidden = hidden[-1, :, :]
        return self.hidden_to_mu(hidden), self.hidden_to_logvar(hidden)


class StackGRUDecoder(StackGRU):
    def __init__(self) -> None:
        super().__init__()
        self.latent_to_hidden, self.output_layer = nn.Linear(4, 6), nn.Linear(6, 9)
        self.criterion = nn.CrossEntropyLoss()

    def decoder_train_step(self, latent_z: Tensor, input_seq: Tensor, target_seq: Tensor) -> Tensor:
        hidden, stack = self.latent_to_hidden(latent_z), self.fresh_stack(input_seq.size(1))
        loss: Any = 0
        for entry, target in zip(input_seq, target_seq, strict=True):
            output, hidden, stack = self(entry.unsqueeze(0), hidden, stack)
            loss = loss + self.criterion(self.output_layer(output).squeeze(dim=0), target)
        return loss


class TeacherVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = StackGRUEncoder(), StackGRUDecoder()

    def drawn(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return torch.randn_like(mu).mul((logvar / 2).exp()).add_(mu)

    def forward(self, input_seq: Tensor, decoder_seq: Tensor, target_seq: Tensor) -> tuple[Tensor, ...]:
        mu, logvar = self.encoder.encoder_train_step(input_seq)
        latent_z = self.drawn(mu, logvar).unsqueeze(0).repeat(2, 1, 1)
        return self.decoder.decoder_train_step(latent_z, decoder_seq, target_seq), mu, logvar


def paccmann_loss(model: Any, *sequences: Tensor) -> Tensor:
    decoder_loss, mu, logvar = model(*sequences)
    kl_div = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    kl_w = 1 / (1 + math.exp((5000 - 5000) * 0.0015))
    return kl_w * kl_div + decoder_loss


# ---------------------------------------------------------------------------------------------- controls


class MaskedMotionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positional_encoding = nn.Linear(6, 8), PositionalEncoding()
        self.encoder_layers = nn.ModuleList([
            nn.TransformerEncoderLayer(8, 2, 32, 0.1, "gelu", batch_first=True) for _ in range(2)
        ])  # fmt: skip
        self.output_layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.positional_encoding(self.embedding(x).transpose(0, 1)).transpose(0, 1)
        for layer in self.encoder_layers:
            x = layer(x)
        return self.output_layer(x)


def masked_motion_loss(model: Any, data: Tensor) -> Tensor:
    masked, mask = data.clone(), torch.zeros_like(data, dtype=torch.bool)
    for b in range(len(data)):
        for idx in torch.randperm(data.shape[1])[:2]:
            if torch.rand(1).item() < 0.8:
                masked[b, idx] = 0.0
            else:
                masked[b, idx] = data[b, int(torch.randint(0, data.shape[1], (1,)))]
            mask[b, idx] = True
    loss = F.mse_loss(model(masked), data * mask.float(), reduction="none") * mask.float()
    return loss.sum() / mask.sum()


class AutoVC(nn.Module):
    """A voice's content is what fits through a narrow recurrence, read at every fourth frame."""

    def __init__(self) -> None:
        super().__init__()
        self.freq, self.dim_neck = 4, 3
        self.convolutions = nn.ModuleList([
            nn.Sequential(nn.Conv1d(n, 6, 5, padding=2), nn.BatchNorm1d(6)) for n in (8 + 3, 6)
        ])  # fmt: skip
        self.lstm = nn.LSTM(6, 3, 2, batch_first=True, bidirectional=True)
        self.decoder, self.linear_projection = nn.LSTM(6 + 3 + 2, 6, 2, batch_first=True), nn.Linear(6, 8)
        self.postnet = nn.Sequential(
            nn.Conv1d(8, 6, 5, padding=2), nn.BatchNorm1d(6), nn.Tanh(), nn.Conv1d(6, 8, 5, padding=2),
            nn.BatchNorm1d(8),
        )  # fmt: skip

    def encode(self, x: Tensor, c_org: Tensor) -> list[Tensor]:
        x = torch.cat((x.transpose(2, 1), c_org.unsqueeze(-1).expand(-1, -1, x.size(1))), dim=1)
        for conv in self.convolutions:
            x = F.relu(conv(x))
        outputs = self.lstm(x.transpose(1, 2))[0]
        forward, backward = outputs[:, :, : self.dim_neck], outputs[:, :, self.dim_neck :]
        return [
            torch.cat((forward[:, i + self.freq - 1, :], backward[:, i, :]), dim=-1)
            for i in range(0, outputs.size(1), self.freq)
        ]

    def forward(self, x: Tensor, c_org: Tensor, pitch: Tensor) -> tuple[Tensor, ...]:
        codes = self.encode(x, c_org)
        code_exp = torch.cat([c.unsqueeze(1).expand(-1, x.size(1) // len(codes), -1) for c in codes], dim=1)
        inputs = torch.cat((code_exp, c_org.unsqueeze(1).expand(-1, x.size(1), -1), pitch), dim=-1)
        mel = self.linear_projection(self.decoder(inputs)[0])
        return mel, mel + self.postnet(mel.transpose(2, 1)).transpose(2, 1), torch.cat(codes, dim=-1)


def autovc_loss(model: Any, x_real: Tensor, emb_org: Tensor, pitch: Tensor) -> Tensor:
    x_identic, x_identic_psnt, code_real = model(x_real, emb_org, pitch)
    code_reconst = torch.cat(model.encode(x_identic_psnt, emb_org), dim=-1)
    g_loss = F.l1_loss(x_real, x_identic) + F.l1_loss(x_real, x_identic_psnt)
    return g_loss + F.l1_loss(code_real, code_reconst)


class DLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.avg = nn.AvgPool1d(kernel_size=5, stride=1, padding=0)
        self.Linear_Seasonal, self.Linear_Trend = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.cat([x[:, 0:1, :].repeat(1, 2, 1), x, x[:, -1:, :].repeat(1, 2, 1)], dim=1)
        trend = self.avg(padded.permute(0, 2, 1)).permute(0, 2, 1)
        seasonal = (x - trend).permute(0, 2, 1)
        return (self.Linear_Seasonal(seasonal) + self.Linear_Trend(trend.permute(0, 2, 1))).permute(0, 2, 1)


def dlinear_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(model(x), y)


class GraphMLP(nn.Module):
    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(n_in, 6), nn.Linear(6, 6)])
        self.batch_norms = nn.ModuleList([nn.BatchNorm1d(6)])

    def forward(self, x: Tensor) -> Tensor:
        return self.linears[1](F.relu(self.batch_norms[0](self.linears[0](x))))


class GraphCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(2))
        self.mlps = nn.ModuleList([GraphMLP(5), GraphMLP(6)])
        self.batch_norms = nn.ModuleList([nn.BatchNorm1d(6), nn.BatchNorm1d(6)])
        self.linears_prediction = nn.ModuleList([nn.Linear(5, 2), nn.Linear(6, 2), nn.Linear(6, 2)])

    def forward(self, x: Tensor, adj_block: Tensor, graph_pool: Tensor) -> Tensor:
        hidden_rep, h = [x], x
        for layer in range(2):
            h = F.relu(self.batch_norms[layer](self.mlps[layer](torch.spmm(adj_block, h))))
            hidden_rep.append(h)
        score: Any = 0
        for layer, rep in enumerate(hidden_rep):
            pooled = self.linears_prediction[layer](torch.spmm(graph_pool, rep))
            score = score + F.dropout(pooled, 0.5, training=self.training)
        return score


def graph_cnn_loss(model: Any, x: Tensor, adj: Tensor, pool: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(x, adj.to_sparse(), pool.to_sparse()), labels)


# ---------------------------------------------------------------------------------------------- inputs


def conversations() -> tuple[Tensor, ...]:
    sentences = tokens(9, 7, 5, low=1)
    keep = torch.cat([sentences[1:4], sentences[5:7]])
    return sentences, torch.tensor([5, 4, 5, 3, 5, 5, 2]), torch.tensor([3, 2]), keep, torch.tensor([4, 5, 3, 5, 2])


def prompts() -> tuple[Tensor, ...]:
    return tokens(9, 3, 5), torch.ones(3, 5), tokens(9, 3, 7, seed=9), torch.ones(3, 7)


def voices() -> tuple[Tensor, ...]:
    f0 = 80 + 300 * rand(3, 8)
    return (
        randn(3, 5, 8), f0, torch.ones(3, 8), randn(3, 8, 8, seed=9), tokens(3, 3, 1), torch.tensor([8, 8, 8]),
        randn(3, 1, 16, seed=10),
    )  # fmt: skip


def spoken() -> tuple[Tensor, ...]:
    durations = torch.tensor([[2, 3, 1, 2], [1, 2, 3, 2], [4, 1, 1, 2]])
    return tokens(9, 3, 4), durations, randn(3, 8, 8), torch.ones(3, 8, dtype=torch.bool)


def melodies() -> tuple[Tensor, ...]:
    return F.one_hot(tokens(9, 4, 5), 9).float(), F.one_hot(tokens(3, 4, 5, seed=9), 3).float()


def faded() -> tuple[Tensor, ...]:
    return tokens(9, 4, 5), tokens(3, 4, 5), tokens(3, 4, 5, seed=9), rand(4, 5), rand(4, seed=9), rand(4, seed=10)


def dreams() -> tuple[Tensor, ...]:
    return randn(5, 3, 7), randn(5, 3, 2, seed=9), randn(5, 3, seed=10), torch.ones(5, 3, 1)


def transitions() -> tuple[Tensor, ...]:
    return randn(6, 4), randn(6, 2, seed=9), randn(6, seed=10), randn(6, 4, seed=11)


def functions() -> tuple[Tensor, ...]:
    return randn(4, 5, 1), randn(4, 5, 1, seed=9), randn(4, 8, 1, seed=10), randn(4, 8, 1, seed=11)


def citations() -> tuple[Tensor, ...]:
    edges = bits(6, 6)
    return rand(6, 5), ((edges + edges.t() + torch.eye(6)) > 0).float()


def normalized() -> tuple[Tensor, ...]:
    x, labels = citations()
    scale = labels.sum(1).pow(-0.5)
    return x, scale[:, None] * labels * scale[None], labels


def linked() -> tuple[Tensor, ...]:
    x, labels = citations()
    return x, (labels - torch.eye(6)).nonzero().t().contiguous()


def captions() -> tuple[Tensor, ...]:
    mask = torch.arange(6)[None] < torch.tensor([6, 4, 5])[:, None]
    return randn(3, 4, 5), torch.ones(3, 4, dtype=torch.bool), randn(3, 6, 6, seed=9) * mask[..., None], mask


def smiles() -> tuple[Tensor, ...]:
    sequence = tokens(9, 7, 3, low=1)
    return sequence, sequence[:-1], sequence[1:]


def molecules() -> tuple[Tensor, ...]:
    x, labels = citations()
    pool = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    return x, labels, pool, torch.tensor([0, 1])


def root_softplus(v: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(v))


def exp_and_thousandth(v: Tensor) -> Tensor:
    return v.exp() + 1e-3


# fmt: off
CASES = (
    PublicCase(
        "VHCR",
        Retold(
            "ctr4si/A-Hierarchical-Latent-Structure-for-Variational-Conversation-Modeling",
            "83ca9dd96272d3a38978a1dfa316d06d5d6a7c77", "model/models.py, model/solver.py, model/utils/probability.py",
        ),
        VHCR, conversations,
        (
            posterior("conv_posterior_var", sigma=root_softplus), posterior("sent_posterior_var", sigma=root_softplus),
            prior("sent_prior_var", sigma=root_softplus),
        ), vhcr_loss,
        truth="models.py VHCR.forward: z = mu + sqrt(softplus(v)) eps, and the KL of variances",
    ),
    PublicCase(
        "Transformer CVAE",
        Retold("fangleai/TransformerCVAE", "6d314bcd5bd652166953934cbfde54e81fa834c0", "model.py, train.py"),
        TransformerCVAE, prompts, (posterior("encoder.logvar"), prior("encoder_prior.logvar")), transformer_cvae_loss,
        truth="model.py VAEModel: std = exp(0.5 logvar), and the KL; with a learned prior and added input",
    ),
    PublicCase(
        "so-vits-svc",
        Retold(
            "svc-develop-team/so-vits-svc", "730930d337d171479eadf305f96cbed4bb393e77",
            "models.py, modules/losses.py, train.py",
        ),
        SoVitsSVC, voices, (posterior("enc_q.proj", 4, 8, torch.exp), prior("enc_p.proj", 4, 8, torch.exp)),
        so_vits_loss,
        truth="models.py Encoder, TextEncoder: exp(logs) of the second half, times a mask that is one here; modules/"
        "losses.py kl_loss at the flow's draw. The adversary's losses are left out; the source's noise is fixed",
    ),
    PublicCase(
        "PortaSpeech",
        Retold(
            "keonlee9420/PortaSpeech", "51bd8277bdf5974726cf8613b553b548ab17f65e",
            "model/variational_generator.py, model/postnet.py, model/loss.py, utils/tools.py",
        ),
        PortaSpeech, spoken, (posterior("variational_generator.latent_enc_prj.linear", 4, 8),), portaspeech_loss,
        truth="utils/tools.py reparameterize: std = exp(0.5 v), which draws; a slip: the KL takes v as log σ. Hard: σ "
        "is the draw's. The couplings and ActNorm of the post net are a flow's",
    ),
    PublicCase(
        "EC2-VAE",
        Retold(
            "buggyyang/Deep-Music-Analogy-Demos", "1bb7b88ce3cb2c6b22ff559856f67d5ffb11c80a",
            "code/model.py, code/train.py",
        ),
        MusicAnalogyVAE, melodies, (posterior("linear_var", sigma=torch.exp),), music_analogy_loss,
        truth="code/model.py encoder: Normal(mu, exp(v)); one layer's posterior is split between two Normals, the KL "
        "is of Normals made anew from their standard deviations: one head, of both",
    ),
    PublicCase(
        "Music FaderNets (GM-VAE)",
        Retold(
            "gudgud96/music-fader-nets", "46450b98cb623bebf3d9e57a0fde372e8f3918cf", "gmm_model.py, trainer_gmm.py",
        ),
        MusicFaderNets, faded,
        (posterior("var_r", sigma=torch.exp), posterior("var_n", sigma=torch.exp)), fader_nets_loss,
        truth="gmm_model.py encode: Normal(mu, exp(v)). Hard: the prior's scales are embeddings that are not trained "
        "(logvar_trainable is False): constants, no heads",
    ),
    PublicCase(
        "Bayesian RNN (cyclones)",
        Retold(
            "DARE-ML/variational-rnn-cyclones", "b32f210d3e7797304b992917a8bb47197af1a959",
            "varnn/model/bayes_rnn.py, varnn/utils/layers.py, varnn/utils/weight.py, varnn/utils/markov_sampler.py",
        ),
        BayesRNN, lambda: (rand(4, 5, 3), rand(4, 3, seed=9)),
        tuple(
            posterior(f"{layer}.{part}_rho", sigma=F.softplus)
            for layer in ("w_ih", "w_hh", "w_ho") for part in ("weight", "bias")
        ), markov_sampling_loss,
        truth="varnn/utils/weight.py GaussianWeight: σ = log(1 + exp(rho)), which is computed when the layer is made "
        "and kept with its graph",
    ),
    PublicCase(
        "MC-RNN-VAE",
        Retold("GerardMJuan/RNN-VAE", "0e67dcf7674254aefdac406b41c646aa83d84b58", "rnnvae/rnnvae.py"),
        MCRNNVAE, lambda: (randn(3, 4, 4), randn(3, 4, 3, seed=9), torch.ones(3, 4, dtype=torch.bool)),
        tuple(
            head(f"{part}.{ch}.to_logvar.0", sigma=exp_and_thousandth) for ch in range(2)
            for head, part in ((posterior, "ch_enc"), (prior, "ch_priors"), (likelihood, "ch_dec"))
        ), mcrnnvae_loss,
        truth="rnnvae.py VariationalBlock.forward: scale = exp(v) + 1e-3; after the first 50 epochs, in which scales "
        "are a tenth, and without the dropout of codes, which is off by default",
    ),
    PublicCase(
        "simpleDreamer MDN-RNN",
        Retold("aLadNamedPat/simpleDreamer", "823499809c15cf185de7806408bced83f2e79881", "RNN_MDN.py, train.py"),
        MDNRNN, lambda: (randn(3, 5, 4), randn(3, 5, 2, seed=9), randn(3, 5, 4, seed=10)), (likelihood("var"),),
        mdn_rnn_loss, truth="RNN_MDN.py MDN, find_pdf_normal: a density of variance exp(v), of each part of a mixture",
    ),
    PublicCase(
        "Dreamer (yusukeurakami)",
        Retold("yusukeurakami/dreamer-pytorch", "b51af83694823eb07425a3f079324035bdecdb0e", "models.py, main.py"),
        Dreamer, dreams,
        (
            posterior("transition_model.fc_state_posterior", 3, 6, tenth),
            prior("transition_model.fc_state_prior", 3, 6, tenth), likelihood("actor_model.fc5", 2, 4, actor_std),
        ), dreamer_losses,
        truth="models.py TransitionModel: softplus(v) + 0.1; ActorModel: softplus(v + log(exp(5) - 1)) + 1e-4, "
        "squashed and drawn, without a density. The three losses are added here. Observations, rewards and values have "
        "a fixed σ",
    ),
    PublicCase(
        "SAC (rl_lib)",
        Retold(
            "MythraV/rl_lib", "203c7c3d1c97bed649fe8e278639c36d92c58c7d", "agents/SAC/policies.py, agents/SAC/sac.py",
        ),
        SACAgent, lambda: (*transitions(), bits(6).bool()), (likelihood("actor.sigma", sigma=sac_clamped),), itself,
        truth="policies.py GaussianActorNetwork: exp(clamp(v, -20, 2)); the losses are added here",
    ),
    PublicCase(
        "LAC",
        Retold(
            "rickstaa/stable-learning-control", "27b6fdfed6407a46192d2304027b307750c18ba6",
            "stable_learning_control/algos/pytorch/lac/lac.py, "
            "stable_learning_control/algos/pytorch/policies/actors/squashed_gaussian_actor.py",
        ),
        LAC, lambda: (*transitions(), bits(6)),
        (
            likelihood("ac.pi.log_std_layer", sigma=sac_clamped),
            likelihood("ac_targ.pi.log_std_layer", sigma=sac_clamped),
        ), itself,
        truth="squashed_gaussian_actor.py: exp(clamp(v, -20, 2)). Hard: the target's policy is a copy that follows the "
        "policy and is not trained; its layer emits, and its actions are drawn: a head, of the same role",
    ),
    PublicCase(
        "Goal-conditioned skills",
        Retold(
            "magenta1223/skill-basedGCRL", "2f57031557f787b84d158a43cee7e1a2d6f7010f",
            "LVD/models/ours.py, LVD/modules/priors/ours.py, LVD/modules/subnetworks.py, LVD/utils/torch_utils.py, "
            "LVD/configs/model/ours.yaml",
        ),
        GoalConditionedSkills, lambda: (randn(5, 4, 5), randn(5, 3, 2, seed=9), randn(5, 2, seed=10)),
        (
            posterior("skill_encoder.output_proj", 3, 6, skill_clamped),
            *(
                prior(f"prior_policy.{part}.6", 3, 6, skill_clamped)
                for part in ("skill_prior", "inverse_dynamics", "target_inverse_dynamics")
            ),
        ), goal_conditioned_loss,
        truth="torch_utils.py get_dist: exp(clamp(v, -10, 2)), squashed. Hard: the skill's prior is a density at the "
        "posterior's draw, the inverse dynamics' a KL: both priors; the target's is a copy of the latter, drawn "
        "for the goal without a KL (learning_mode sanity_check): a prior, as what it is a copy of",
    ),
    PublicCase(
        "SPIL skill generator",
        Retold(
            "hk-zh/spil", "a252c9057f459721cdc10a1f66413021d0c1dd7c",
            "skill_generator/skill_generator/models/skill_generator.py, prior_locator.py, "
            "encoders/naive_action_encoder.py, decoders/deterministic_decoder.py",
        ),
        SkillGenerator, lambda: (randn(4, 5, 7),),
        (
            posterior("encoder.z_scale.0", sigma=F.softplus),
            prior("prior_locator.prior_scale_extractor.10", sigma=F.softplus),
        ), skill_generator_step,
        truth="naive_action_encoder.py, prior_locator.py: σ = softplus(v), modules; KLs with one side or the other "
        "detached. The change of frame of the actions is left out",
    ),
    PublicCase(
        "GAE in PyTorch (Pyro)",
        Retold(
            "plai-group/gae_in_pytorch", "5f7212c7e1a0865bce4b1a20a60d8bdc69527a65",
            "models.py, layers.py, dist.py, train.py",
        ),
        PyroGAE, normalized, (posterior("encoder.gc2_sig", sigma=torch.exp),), itself,
        truth="models.py GCNEncoder: exp(log_sig), of a parameter's product with the graph",
    ),
    PublicCase(
        "VGAE (PyG)",
        Retold(
            "pyg-team/pytorch_geometric", "5c6461b2305ad068a6d61165b3c55852a11aaa41",
            "examples/autoencoder.py, torch_geometric/nn/models/autoencoder.py",
        ),
        VGAE, linked, (posterior("encoder.conv_logstd", sigma=capped),), vgae_loss,
        truth="autoencoder.py VGAE: exp(clamp(v, max 10)), of what a graph layer emits, its bias added last",
    ),
    PublicCase(
        "Neural process (np_variants)",
        Retold(
            "dbsxodud-11/np_variants", "e9cda437e1142c016e5bb363f9a391e4c6fa1d65",
            "models/np.py, models/building_blocks.py, main.py",
        ),
        NeuralProcess, functions,
        (
            posterior("latent_encoder.post_model.layers.1", 4, 8, ninth),
            likelihood("decoder.model.layers.2", 1, 2, ninth),
        ), itself,
        truth="building_blocks.py: 0.1 + 0.9 sigmoid(v), both. Hard: of four models of the repository the one with a "
        "code and no attention; one layer is the context's code and that of all points, which is drawn: the posterior",
    ),
    PublicCase(
        "Variational classifier (vartorch)",
        Retold(
            "joseph-nagel/vartorch", "5d64da82a431ffb82da77aad454ebabc43309960",
            "src/vartorch/layers/linear.py, src/vartorch/var/base.py, src/vartorch/kldiv.py, config/moons.yaml",
        ),
        DenseVarClassifier, lambda: (randn(8, 2), tokens(2, 8)),
        tuple(
            posterior(f"model.{layer}.{part}_sigma_param", sigma=torch.exp) for layer in ("0.0", "1") for part in "wb"
        ), itself, truth="layers/linear.py VarLinear: exp of a parameter (param_mode log, as in the configuration)",
    ),
    PublicCase(
        "SGNet CVAE",
        Retold(
            "ChuhuaW/SGNet.pytorch", "ae3616407a9f6270b55a4f23a04de7c84702a258",
            "lib/models/SGNet_CVAE.py, lib/models/bitrap_np.py, lib/losses/cvae.py, "
            "lib/utils/jaadpie_train_utils_cvae.py, configs/jaad/jaad.py",
        ),
        SGNetCVAE, lambda: (rand(4, 3, 4), randn(4, 3, 4, 4)),
        (posterior("cvae.q_z_xy.4", 3, 6), prior("cvae.p_z_x.4", 3, 6)), sgnet_loss,
        truth="bitrap_np.py gaussian_latent_net: the KL of log variances; std = exp(0.5 v) for the draw. Hard: the "
        "noise has σ 1.5 by JAAD's configuration, the first of the README; σ is the KL's",
    ),
    PublicCase(
        "TEMOS",
        Retold(
            "Mathux/TEMOS", "eafa06dae666aa32dd9e5678a8958050283f9dcb",
            "temos/model/temos.py, temos/model/motionencoder/actor.py, temos/model/textencoder/distilbert_actor.py, "
            "temos/model/losses/compute.py",
        ),
        TEMOS, captions,
        tuple(posterior(f"{part}.seqTransEncoder.layers.1.norm2", 1, 2) for part in ("motionencoder", "textencoder")),
        temos_step,
        truth="motionencoder/actor.py: std = sqrt(exp(logvar)), the second position of the sequence, all features: the "
        "range is along the first dimension; emitted by the last norm of the last layer. Hard: text and motion are "
        "both encoded, drawn, and taken against one another and against N(0, 1): both posteriors",
    ),
    PublicCase(
        "PaccMann SMILES VAE",
        Retold(
            "PaccMann/paccmann_chemistry", "b2cace3b655ae0ec6bd65b796748dc396536d307",
            "paccmann_chemistry/models/vae.py, stack_rnn.py, training.py, paccmann_chemistry/utils/loss_functions.py",
        ),
        TeacherVAE, smiles, (posterior("encoder.hidden_to_logvar"),), paccmann_loss,
        truth="vae.py TeacherVAE.reparameterize: std = exp(0.5 logvar), and the KL",
    ),
    PublicCase(
        "Masked motion transformer",
        Retold("rlawlsgus/human-motion-TAE", "b6256d95f0443236723f8f28a322d617c39d4a44", "human_motion_TAE.ipynb"),
        MaskedMotionTransformer, lambda: (randn(3, 8, 6),), (), masked_motion_loss,
        truth="human_motion_TAE.ipynb: squared error where masked",
    ),
    PublicCase(
        "AutoVC with pitch",
        Retold("Trebolium/f0_my_autovc", "2b972d345b7cac6a7cb9505df33ce229cb7f2416", "model_vc.py, solver_encoder.py"),
        AutoVC, lambda: (randn(3, 8, 8), randn(3, 3, seed=9), randn(3, 8, 2, seed=10)), (), autovc_loss,
        truth="solver_encoder.py: L1, of frames and of codes",
    ),
    PublicCase(
        "DLinear",
        Retold(
            "cure-lab/LTSF-Linear", "0c113668a3b88c4c4ee586b8c5ec3e539c4de5a6", "models/DLinear.py, exp/exp_main.py",
        ),
        DLinear, lambda: (randn(4, 12, 3), randn(4, 4, 3, seed=9)), (), dlinear_loss,
        truth="exp_main.py: squared error",
    ),
    PublicCase(
        "GIN",
        Retold("weihua916/powerful-gnns", "9a2ce8ac3e99278307093a464a95caf0fb04b602", "models/graphcnn.py, main.py"),
        GraphCNN, molecules, (), graph_cnn_loss, truth="main.py: cross entropy",
    ),
)
# fmt: on
