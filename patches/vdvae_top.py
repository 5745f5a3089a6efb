"""VDVAE's top block with another prior: log q − log p in the place of its KL, and z from that prior in samples.

The posterior of the first block is of the image alone, by the encoder's smallest activation and a learned bias. The
block runs as it is, patched or not: what it draws and what its `enc` emits is seen while it runs, and its own prior
goes on giving the residual for the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vdvae_patch.seams import TopPriorSeam


def seam(model: nn.Module) -> TopPriorSeam:
    """Images are `[K, H, W, C]`; without a data set's own normalization they are given to the encoder in [−2, 2].

    Raises:
        HostError: the first block begins with the trunk of another resolution.
    """
    from vdvae_patch.seams import Instead, Normalized, TopPriorSeam

    bare: Any = model
    block = bare.decoder.dec_blocks[0]
    if block.mixin is not None:
        raise HostError("host 'vdvae' takes no top prior: its first block begins with the trunk of another resolution")
    size, channels = int(bare.H.image_size), int(bare.encoder.in_conv.in_channels)
    instead = (Instead("", "forward", forward), Instead("", "forward_uncond_samples", uncond_samples))
    return TopPriorSeam(
        (size, size, channels), (int(block.zdim), int(block.base), int(block.base)),
        Normalized(encode, 127.5, 4 / 255), read, instead, ("decoder.dec_blocks.0.prior",),
    )  # fmt: skip


def read(target: Tensor) -> Tensor:
    """`[B, H, W, C]` in [-1, 1] to [0, 1]."""
    return (target + 1) / 2


def encode(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log σ of the first block's posterior, `[K, zdim, r, r]`, of normalized images `[K, H, W, C]`."""
    import torch

    block = model.decoder.dec_blocks[0]
    activation = model.encoder(x)[block.base]
    bias = next((b for b in model.decoder.bias_xs if b.shape[2] == block.base), None)
    width = block.enc.c1.in_channels - activation.shape[1]
    start = activation.new_zeros(1, width, block.base, block.base) if bias is None else bias
    return _posterior(block, block.enc(torch.cat([start.repeat(len(x), 1, 1, 1), activation], dim=1)))


def _posterior(block: Any, emitted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log σ as the block reads what `enc` emits."""
    from vdvae_patch.attach.attachment import MethodAttachment
    from vdvae_patch.attach.graft import stands_in

    mean, raw = emitted[:, : block.zdim], emitted[:, block.zdim :]
    instead = stands_in(block).get("sample")
    scale = instead.scales.get("posterior") if isinstance(instead, MethodAttachment) else None
    return mean, raw if scale is None else scale.log_sigma(raw)


class Seen:
    """What the first block drew, and what its `enc` emitted, in one pass."""

    def __init__(self) -> None:
        self.z: Tensor | None = None
        self.emitted: Tensor | None = None

    def rate(self, model: Any) -> Tensor:
        """log q(z) − log p(z), or the closed KL to N(0, 1); nats an image, `[B]`."""
        from vdvae_patch.patching.top_prior import density_at

        density = density_at(model)
        assert density is not None
        assert self.z is not None
        assert self.emitted is not None
        return density.kl(self.z, *_posterior(model.decoder.dec_blocks[0], self.emitted))


@contextmanager
def watched(model: Any) -> Iterator[Seen | None]:
    """The first block of a model with a top prior, while a pass runs; None of a model without one."""
    from vdvae_patch.patching.top_prior import TOP_PRIOR

    if TOP_PRIOR not in model._modules:
        yield None
        return
    seen, block = Seen(), model.decoder.dec_blocks[0]

    def keep_emitted(module: Any, given: Any, output: Tensor) -> None:
        seen.emitted = output

    def keep_z(module: Any, given: tuple[Tensor, ...]) -> None:
        seen.z = given[0]

    hooks = [block.enc.register_forward_hook(keep_emitted), block.z_proj.register_forward_pre_hook(keep_z)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def forward(model: Any, likelihood: Any, x: Tensor, x_target: Tensor) -> dict[str, Tensor]:
    """`VAE.forward` with a top prior: batch means in nats per dimension."""
    with watched(model) as seen:
        trunk, latents = model.decoder(model.encoder(x))
    assert seen is not None
    distortion = model.decoder.out_net.nll(trunk, x_target)
    kls = [latent["kl"] if isinstance(latent, dict) else latent.kl for latent in latents[1:]]
    rate = seen.rate(model)
    for kl in kls:
        rate = rate + kl.sum(dim=(1, 2, 3))
    rate = rate / math.prod(x.shape[1:])
    return {"elbo": (distortion + rate).mean(), "distortion": distortion.mean(), "rate": rate.mean()}


def uncond_samples(model: Any, likelihood: Any, n_batch: int, t: Any = None) -> NDArray[np.uint8]:
    """`VAE.forward_uncond_samples` whose first latent is of the top prior; its σ is multiplied by t, too."""
    import torch

    from vdvae_patch.patching.top_prior import density_at

    density = density_at(model)
    assert density is not None
    with torch.no_grad():
        first = t[0] if isinstance(t, (list, tuple)) else t
        z = density.sample(n_batch, 1.0 if first is None else float(first))
        images: NDArray[np.uint8] = model.decoder.out_net.sample(model.decoder.forward_manual_latents(n_batch, [z], t))
    return images
