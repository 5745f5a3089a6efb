"""The model: an encoder down to 1x1, and a decoder of latent blocks back up to the image (VDVAE paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hps import Hyperparams
from .layout import Layer, Layout
from .vae_helpers import (
    Block,
    DmolNet,
    conv,
    depth_scale,
    draw_gaussian_diag_samples,
    gaussian_analytical_kl,
    scale_weight,
)

__all__ = ["VAE", "Block", "DecBlock", "Decoder", "Encoder", "Latent"]

Temperature = float | Sequence[float | None] | None


class Latent(NamedTuple):
    """What one decoder block drew, `z`, and its KL in nats, both `[B, zdim, resolution, resolution]`."""

    z: Tensor
    kl: Tensor


class Encoder(nn.Module):
    """Residual blocks from the image down; what they hold at each resolution is kept for the decoder."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        widths = layout.widths
        self.layers = layout.encoder
        self.out_widths = [widths.at(layer.out_resolution) for layer in layout.encoder]
        self.image_size = layout.image_size
        self.in_conv = conv(layout.image_channels, widths.default, 3)
        self.enc_blocks = nn.ModuleList(self._block(layout, layer) for layer in layout.encoder)

    @staticmethod
    def _block(layout: Layout, layer: Layer) -> Block:
        width = layout.widths.at(layer.resolution)
        inner = layout.bottleneck(layer.resolution)
        block = Block(layer.resolution, width, inner, width, residual=True, down_rate=layer.down_rate)
        scale_weight(block.c4, depth_scale(len(layout.encoder)))
        return block

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Images `[B, H, W, C]` to the last activation at each resolution r, `[B, width at r, r, r]`."""
        trunk: Tensor = self.in_conv(x.permute(0, 3, 1, 2).contiguous())
        activations = {self.image_size: trunk}
        for block, layer, width in zip(self.enc_blocks, self.layers, self.out_widths, strict=True):
            trunk = block(trunk)
            missing = width - trunk.shape[1]
            if missing:
                trunk = F.pad(trunk, (0, 0, 0, 0, 0, missing))
            activations[layer.out_resolution] = trunk
        return activations


class DecBlock(nn.Module):
    """One latent: posterior and prior are read from the trunk, z is drawn and added to it.

    `enc` emits the posterior's mean and log sigma, `prior` the prior's mean and log sigma and a residual for the trunk.
    """

    def __init__(self, layout: Layout, layer: Layer) -> None:
        super().__init__()
        self.base = layer.resolution
        self.mixin = layer.mixin
        self.zdim = layout.zdim
        self.width = width = layout.widths.at(layer.resolution)
        inner = layout.bottleneck(layer.resolution)
        scale = depth_scale(len(layout.decoder))
        self.enc = Block(self.base, 2 * width, inner, 2 * self.zdim)
        self.prior = Block(self.base, width, inner, 2 * self.zdim + width)
        nn.init.zeros_(self.prior.c4.weight)
        self.z_proj = conv(self.zdim, width, 1)
        scale_weight(self.z_proj, scale)
        self.resnet = Block(self.base, width, inner, width, residual=True)
        scale_weight(self.resnet.c4, scale)

    def forward(self, x: Tensor | None, acts: Tensor, coarse: Tensor | None = None) -> tuple[Tensor, Latent]:
        """Posterior pass: the next trunk and this block's latent.

        `x` is the trunk at this resolution (None where it starts with `coarse`), `acts` the encoder's activation there,
        `coarse` the trunk of the mixin resolution.
        """
        z, x, kl = self.sample(self._mix(x, coarse), acts)
        return self._absorb(x, z), Latent(z, kl)

    def forward_uncond(
        self, x: Tensor | None, coarse: Tensor | None = None, t: float | None = None, lvs: Tensor | None = None
    ) -> Tensor:
        """Prior pass: the next trunk, with the latent `lvs` or one drawn at temperature `t`."""
        z, x = self.sample_uncond(self._mix(x, coarse), t, lvs=lvs)
        return self._absorb(x, z)

    def sample(self, x: Tensor, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z from the posterior, the trunk plus the prior's residual, and KL(posterior ‖ prior)."""
        posterior_mean, posterior_log_sigma = self.enc(torch.cat([x, acts], dim=1)).chunk(2, dim=1)
        prior_mean, prior_log_sigma, residual = self._read_prior(x)
        z = draw_gaussian_diag_samples(posterior_mean, posterior_log_sigma)
        kl = gaussian_analytical_kl(posterior_mean, prior_mean, posterior_log_sigma, prior_log_sigma)
        return z, x + residual, kl

    def sample_uncond(self, x: Tensor, t: float | None = None, lvs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z = `lvs`, or from the prior with σ multiplied by `t`, and the trunk plus the prior's residual."""
        mean, log_sigma, residual = self._read_prior(x)
        if lvs is not None:
            z = lvs
        elif t is None:
            z = draw_gaussian_diag_samples(mean, log_sigma)
        else:
            z = draw_gaussian_diag_samples(mean, log_sigma + _log_temperature(t))
        return z, x + residual

    def _read_prior(self, x: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.prior(x).split([self.zdim, self.zdim, self.width], dim=1)
        return parts

    def _mix(self, x: Tensor | None, coarse: Tensor | None) -> Tensor:
        if coarse is None:
            assert x is not None
            return x
        enlarged = F.interpolate(coarse[:, : self.width], scale_factor=self.base // coarse.shape[2])
        return enlarged.contiguous() if x is None else x + enlarged

    def _absorb(self, x: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.resnet(x + self.z_proj(z))
        return out


class Decoder(nn.Module):
    """Latent blocks from the smallest resolution to the image; each has a trunk, `[B, width at r, r, r]`."""

    def __init__(self, layout: Layout, H: Hyperparams) -> None:
        super().__init__()
        width = layout.widths
        self.image_size = layout.image_size
        self.resolutions = layout.decoder_resolutions
        self.bias_resolutions = layout.bias_resolutions
        self.zero_channels = _zero_channels(layout)
        self.dec_blocks = nn.ModuleList(DecBlock(layout, layer) for layer in layout.decoder)
        self.bias_xs = nn.ParameterList(torch.zeros(1, width.at(r), r, r) for r in self.bias_resolutions)
        self.out_net = DmolNet(H)
        self.gain = nn.Parameter(torch.ones(1, width.default, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width.default, 1, 1))

    def forward(self, activations: dict[int, Tensor]) -> tuple[Tensor, list[Latent]]:
        """Posterior pass: the image's trunk, for `out_net`, and every block's latent in block order."""
        trunks = self._starts(activations[self.image_size].shape[0])
        latents = []
        for block in self._blocks():
            coarse = None if block.mixin is None else trunks[block.mixin]
            trunks[block.base], latent = block(trunks.get(block.base), activations[block.base], coarse)
            latents.append(latent)
        return self._finish(trunks), latents

    def forward_uncond(self, n: int, t: Temperature = None) -> Tensor:
        """Prior pass of `n` images at temperature `t`, one number or one a block."""
        return self.forward_manual_latents(n, [], t)

    def forward_manual_latents(self, n: int, latents: Sequence[Tensor | None], t: Temperature = None) -> Tensor:
        """Prior pass in which the first blocks take `latents`; the others, and those given None, draw their own.

        Raises:
            ValueError: there are more latents than blocks, or as many temperatures as there are not blocks.
        """
        given = _one_a_block("latents", list(latents), len(self.dec_blocks), fill=True)
        temperatures = _temperatures(t, len(self.dec_blocks))
        trunks = self._starts(n)
        for block, z, temperature in zip(self._blocks(), given, temperatures, strict=True):
            coarse = None if block.mixin is None else trunks[block.mixin]
            trunks[block.base] = block.forward_uncond(trunks.get(block.base), coarse, temperature, z)
        return self._finish(trunks)

    def _blocks(self) -> Iterable[DecBlock]:
        return cast("Iterable[DecBlock]", self.dec_blocks)

    def _starts(self, n: int) -> dict[int, Tensor]:
        # Not expand: a view of one bias lets what is added choose the sum's memory layout, and so its convolution.
        trunks = {r: bias.repeat(n, 1, 1, 1) for r, bias in zip(self.bias_resolutions, self.bias_xs, strict=True)}
        for r, channels in self.zero_channels.items():
            trunks[r] = self.gain.new_zeros(n, channels, r, r)
        return trunks

    def _finish(self, trunks: dict[int, Tensor]) -> Tensor:
        return trunks[self.image_size] * self.gain + self.bias


class VAE(nn.Module):
    """A very deep VAE. Needs the hyperparameters of a preset, and `image_size` and `image_channels`.

    Raises:
        ValueError: a hyperparameter is missing, or the layers do not fit each other.
    """

    def __init__(self, H: Hyperparams) -> None:
        super().__init__()
        layout = Layout.of(H)
        self.H = H
        self.encoder = Encoder(layout)
        self.decoder = Decoder(layout, H)

    def forward(self, x: Tensor, x_target: Tensor) -> dict[str, Tensor]:
        """The negative ELBO and its parts, batch means in nats per dimension; `x` and `x_target` are `[B, H, W, C]`.

        elbo = distortion + rate,  distortion = -log p(x_target | z) / D,  rate = Σ_blocks KL / D,  D = H W C
        """
        px_z, latents = self.decoder(self.encoder(x))
        distortion = self.decoder.out_net.nll(px_z, x_target)
        rate = sum(latent.kl.sum(dim=(1, 2, 3)) for latent in latents) / math.prod(x.shape[1:])
        return {"elbo": (distortion + rate).mean(), "distortion": distortion.mean(), "rate": rate.mean()}

    def forward_get_latents(self, x: Tensor) -> list[dict[str, Tensor]]:
        """For each block `z`, detached, and `kl` in nats, both `[B, zdim, resolution, resolution]`."""
        _, latents = self.decoder(self.encoder(x))
        return [{"z": latent.z.detach(), "kl": latent.kl} for latent in latents]

    @torch.no_grad()
    def forward_uncond_samples(self, n_batch: int, t: Temperature = None) -> npt.NDArray[np.uint8]:
        """Images from the prior, `[n_batch, H, W, C]`; `t` multiplies its sigma, one number or one a block."""
        images: npt.NDArray[np.uint8] = self.decoder.out_net.sample(self.decoder.forward_uncond(n_batch, t))
        return images

    @torch.no_grad()
    def forward_samples_set_latents(
        self, n_batch: int, latents: Sequence[Tensor | None], t: Temperature = None
    ) -> npt.NDArray[np.uint8]:
        """Images whose first blocks take `latents`; the rest is drawn from the prior at temperature `t`."""
        px_z = self.decoder.forward_manual_latents(n_batch, latents, t)
        images: npt.NDArray[np.uint8] = self.decoder.out_net.sample(px_z)
        return images


def _zero_channels(layout: Layout) -> dict[int, int]:
    """Channels at the resolutions that start at zero; those that start with a coarser trunk need no zeros."""
    first = {layer.resolution: layer for layer in reversed(layout.decoder)}
    return {
        r: layout.widths.at(r) for r, layer in first.items() if r not in layout.bias_resolutions and layer.mixin is None
    }


def _log_temperature(t: float) -> float:
    if t < 0:
        raise ValueError(f"temperature is {t}; give a number that is not negative, 1 for the prior as it is")
    return math.log(t) if t > 0 else -math.inf


def _temperatures(t: Any, n_blocks: int) -> list[float | None]:
    if t is None or np.ndim(t) == 0:
        return [t] * n_blocks
    return _one_a_block("temperatures", list(t), n_blocks)


def _one_a_block(what: str, given: list[Any], n_blocks: int, *, fill: bool = False) -> list[Any]:
    if len(given) > n_blocks or (len(given) < n_blocks and not fill):
        raise ValueError(f"{len(given)} {what} for {n_blocks} blocks; give one a block")
    return given + [None] * (n_blocks - len(given))
