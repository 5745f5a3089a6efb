"""VDVAE's likelihood as a place for any decoder, and the KL of its blocks one by one.

`out_net.out_conv` emits 10 numbers a component of a mixture of discretized logistics. Where a decoder takes means, it
gets the mixture's: a model that is trained already keeps its reconstructions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from patches import vdvae_top
    from vdvae_patch.objectives import BalancedRate
    from vdvae_patch.seams import DecoderSeam, Terms
else:
    from vdvae_patch.patches import vdvae_top

_FIVE_BITS = ("ffhq_256",)
_NET = "decoder.out_net"


def seam(model: nn.Module) -> DecoderSeam:
    """Where the likelihood is; targets are `[B, H, W, 3]` in [-1, 1], of 32 levels for 5-bit data."""
    from vdvae_patch.pixel_grid import PixelGrid
    from vdvae_patch.seams import DecoderSeam, Instead

    bare: Any = model
    five = str(getattr(bare.H, "dataset", "")) in _FIVE_BITS
    pixels = PixelGrid(-1, 248 / 127.5 - 1, 32) if five else PixelGrid(-1, 1)
    return DecoderSeam(
        f"{_NET}.out_conv", int(bare.decoder.out_net.out_conv.out_channels), 3, pixels, terms, mixture_means,
        instead=(Instead(_NET, "nll", nll), Instead(_NET, "sample", sample)),
    )  # fmt: skip


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One posterior pass in its parts, a group of the rate for each block."""
    from vdvae_patch.patching.decoder import likelihood_at
    from vdvae_patch.seams import Terms

    net, blocks = model.decoder.out_net, list(model.decoder.dec_blocks)
    with vdvae_top.watched(model) as top, _emitted_by(blocks if balanced else []) as emitted:
        trunk, latents = model.decoder(model.encoder(x))
    names = [f"dec_blocks.{index}" for index in range(len(blocks))]
    rates = {name: _kl(latent).sum(dim=(1, 2, 3)) for name, latent in zip(names, latents, strict=True)}
    if top is not None:
        rates[names[0]] = top.rate(model)
    apart = _apart(names, blocks, emitted) if balanced else None
    image = target.permute(0, 3, 1, 2)
    if likelihood_at(net) is not None:
        return Terms(rates, image, net.out_conv(trunk), balanced=apart)
    return Terms(rates, image, distortion=net.nll(trunk, target) * math.prod(target.shape[1:]), balanced=apart)


def mixture_means(emitted: Tensor) -> Tensor:
    """The expectation of the mixture before its values are cut to the range, `[B, 3, H, W]` in [-1, 1]."""
    from vdvae_patch.decoders.logistic import free_mean

    return free_mean(emitted, emitted.shape[1] // 10)


def nll(net: Any, likelihood: Any, px_z: Tensor, x: Tensor) -> Tensor:
    """`DmolNet.nll` beside a decoder: `[B]`, nats per dimension."""
    found: Tensor = likelihood.nll(x.permute(0, 3, 1, 2), net.out_conv(px_z)) / math.prod(x.shape[1:])
    return found


def sample(net: Any, likelihood: Any, px_z: Tensor) -> NDArray[np.uint8]:
    """`DmolNet.sample` beside a decoder: uint8 `[B, H, W, 3]`."""
    import torch

    with torch.no_grad():
        images: NDArray[np.uint8] = likelihood.images(net.out_conv(px_z)).permute(0, 2, 3, 1).cpu().numpy()
    return images


def _kl(latent: Any) -> Tensor:
    """Of what a block gives: the genuine code has a dictionary, the embedded one a tuple."""
    kl: Tensor = latent["kl"] if isinstance(latent, dict) else latent.kl
    return kl


@contextmanager
def _emitted_by(blocks: list[Any]) -> Iterator[list[Tensor]]:
    """What `enc` and `prior` of each block return, in turn, while a pass runs."""
    seen: list[Tensor] = []

    def keep(module: Any, given: Any, output: Tensor) -> None:
        seen.append(output)

    hooks = [module.register_forward_hook(keep) for block in blocks for module in (block.enc, block.prior)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _apart(names: list[str], blocks: list[Any], emitted: list[Tensor]) -> BalancedRate:
    """The KL of each block twice, by the arithmetic that the block itself uses."""
    from vdvae_patch.objectives import BalancedRate

    prior, posterior = {}, {}
    for name, block, posterior_out, prior_out in zip(names, blocks, emitted[::2], emitted[1::2], strict=True):
        divergence = _divergence(block)
        mean_q, raw_q = posterior_out[:, : block.zdim], posterior_out[:, block.zdim :]
        mean_p, raw_p = prior_out[:, : block.zdim], prior_out[:, block.zdim : 2 * block.zdim]
        stopped = [value.detach() for value in (mean_q, raw_q, mean_p, raw_p)]
        prior[name] = divergence(*stopped[:2], mean_p, raw_p).sum(dim=(1, 2, 3))
        posterior[name] = divergence(mean_q, raw_q, *stopped[2:]).sum(dim=(1, 2, 3))
    return BalancedRate(prior, posterior)


def _divergence(block: Any) -> Any:
    """KL(q ‖ p) elementwise, from both means and raw values as `enc` and `prior` return them."""
    from vdvae_patch import normal
    from vdvae_patch.attach.attachment import MethodAttachment, ReboundAttachment
    from vdvae_patch.attach.graft import host_class, stands_in

    instead = stands_in(block).get("sample")
    if isinstance(instead, MethodAttachment):
        q, p = instead.scales.get("posterior"), instead.scales.get("prior")
        return lambda mean_q, raw_q, mean_p, raw_p: normal.kl_divergence(
            mean_q, raw_q if q is None else q.log_sigma(raw_q), mean_p, raw_p if p is None else p.log_sigma(raw_p)
        )
    own: Any = host_class(block).sample.__globals__.get("gaussian_analytical_kl")
    if isinstance(instead, ReboundAttachment):
        own = instead.names.get("gaussian_analytical_kl", own)
    if own is None:
        return normal.kl_divergence
    return lambda mean_q, raw_q, mean_p, raw_p: own(mean_q, mean_p, raw_q, raw_p)
