"""The passes of our VDVAE against a float64 rendering of the published equations, written for these tests alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

# Per size: the encoder's layers (resolution, pooling), the decoder's (resolution, mixin), zdim and the channels.
LAYERS = {
    "five_bit": (
        [(16, 1), (16, 2), (8, 1), (8, 2), (4, 1), (4, 4), (1, 1)],
        [(1, 0), (4, 1), (8, 4), (8, 0), (16, 8)],
        {16: 16, 8: 16, 4: 16, 1: 16},
    ),
    "custom_widths": (
        [(16, 1), (16, 2), (8, 1), (8, 2), (4, 1), (4, 4), (1, 1)],
        [(1, 0), (4, 1), (4, 0), (8, 4), (16, 8)],
        {16: 8, 8: 12, 4: 24, 1: 24},
    ),
    "starts_at_zero": (
        [(8, 1), (8, 4), (2, 1), (2, 2), (1, 1)],
        [(1, 0), (2, 1), (8, 0), (8, 2)],
        {8: 8, 2: 8, 1: 8},
    ),
}
ZDIM = 4


class Reference:
    """The model as functions of a state dict; one generator gives the noise."""

    def __init__(self, size, weights, seed):
        self.encoder_layers, self.decoder_layers, self.widths = LAYERS[size]
        self.weights = weights
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name, x):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(self, name, x):
        for i in (1, 2, 3, 4):
            x = self.conv(f"{name}.c{i}", 0.5 * x * (1 + torch.erf(x / math.sqrt(2))))
        return x

    def encode(self, images):
        x = self.conv("encoder.in_conv", torch.einsum("bhwc->bchw", images))
        kept = {x.shape[-1]: x}
        for i, (_, rate) in enumerate(self.encoder_layers):
            x = x + self.block(f"encoder.enc_blocks.{i}", x)
            b, c, side, _ = x.shape
            x = x.reshape(b, c, side // rate, rate, side // rate, rate).mean(dim=(3, 5))
            x = torch.cat([x, x.new_zeros(b, self.widths[side // rate] - c, *x.shape[2:])], dim=1)
            kept[x.shape[-1]] = x
        return kept

    def decode(self, n, kept=None, temperature=1.0):
        """The image's trunk and every block's (z, KL); from the posterior if `kept` is given, else from the prior."""
        biases = [b for name, b in self.weights.items() if name.startswith("decoder.bias_xs.")]
        trunks = {side: torch.zeros(n, c, side, side).double() for side, c in self.widths.items()}
        trunks |= {b.shape[-1]: trunks[b.shape[-1]] + b for b in biases}
        latents = []
        for i, (side, mixin) in enumerate(self.decoder_layers):
            name, x, width = f"decoder.dec_blocks.{i}", trunks[side], self.widths[side]
            if mixin:
                x = x + trunks[mixin][:, :width].repeat_interleave(side // mixin, 2).repeat_interleave(side // mixin, 3)
            feats = self.block(f"{name}.prior", x)
            prior = Normal(feats[:, :ZDIM], temperature * feats[:, ZDIM : 2 * ZDIM].exp())
            source = prior
            if kept is not None:
                posterior = self.block(f"{name}.enc", torch.cat([x, kept[side]], dim=1))
                source = Normal(posterior[:, :ZDIM], posterior[:, ZDIM:].exp())
            z = source.mean + source.stddev * torch.randn(prior.mean.shape, generator=self.generator).double()
            latents.append((z, kl_divergence(source, prior)))
            x = x + feats[:, 2 * ZDIM :] + self.conv(f"{name}.z_proj", z)
            trunks[side] = x + self.block(f"{name}.resnet", x)
        return trunks[max(self.widths)] * self.weights["decoder.gain"] + self.weights["decoder.bias"], latents


@pytest.fixture(params=LAYERS)
def model_and_reference(request, build_vdvae):
    model = build_vdvae(request.param, moved=True)
    weights = {name: t.double() for name, t in model.state_dict().items()}
    return model, Reference(request.param, weights, seed=1)


def test_the_posterior_pass_follows_the_published_equations(model_and_reference, vdvae_batch):
    model, reference = model_and_reference
    x, _ = vdvae_batch(model.H.image_size)
    torch.manual_seed(1)
    px_z, latents = model.decoder(model.encoder(x))
    expected, expected_latents = reference.decode(2, reference.encode(x.double()))
    torch.testing.assert_close(px_z.double(), expected, rtol=1e-4, atol=1e-5)
    for ours, (z, kl) in zip(latents, expected_latents, strict=True):
        torch.testing.assert_close(ours.z.double(), z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.kl.double(), kl, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("t", [None, 0.6])
def test_the_prior_pass_follows_the_published_equations(model_and_reference, t):
    model, reference = model_and_reference
    torch.manual_seed(1)
    px_z = model.decoder.forward_uncond(3, t)
    expected, _ = reference.decode(3, temperature=t or 1.0)
    torch.testing.assert_close(px_z.double(), expected, rtol=1e-4, atol=1e-5)
