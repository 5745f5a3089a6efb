"""VDVAE (Child 2021), the genuine code and the embedded one.

Every decoder block has two Normal heads: `enc` emits the posterior's mean and log sigma, `prior` the prior's mean, log
sigma and a residual. The block reads both in `sample` and `sample_uncond`; those two are replaced by functions that
take the scales, the stable KL and one fused sampling (`_vdvae_block`). No output is copied.

A block whose `sample` was changed (in a fork) is recognised by its source. There the modules' outputs are patched,
its own lines run, and only the two functions whose arithmetic is at fault are exchanged.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.heads import CallSite, Head, Rebinding, Role
from vdvae_patch.hosts.fingerprint import is_one_of
from vdvae_patch.hosts.preset import MOST_UNITS, Latent, Losses, Optimization, Preset, require_sizes
from vdvae_patch.hosts.trainable import TrainableEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from patches import vdvae_decoder, vdvae_means, vdvae_top
    from vdvae_patch.hosts.means import MeanReading
    from vdvae_patch.seams import DecoderSeam, TopPriorSeam
else:
    from vdvae_patch.patches import vdvae_decoder, vdvae_means, vdvae_top


@dataclass(frozen=True)
class Architecture:
    """VDVAE's architecture.

    Attributes:
        width: channels of the trunk.
        zdim: channels of each latent.
        enc_blocks: encoder layers, such as `32x11,32d2,16x6`: 11 blocks at 32, one that pools by 2, 6 at 16.
        dec_blocks: decoder layers, such as `1x1,4m1,4x2`: `4m1` adds the upsampled activations of resolution 1.
        custom_width_str: widths of some resolutions, such as `512:32,256:64`.
        bottleneck_multiple: inner width of a block over its width.
        no_bias_above: resolutions above it start from zeros and not from a learned bias.
        num_mixtures: components of the likelihood's mixture of discretized logistics.
    """

    width: int = 512
    zdim: int = 16
    enc_blocks: str = ""
    dec_blocks: str = ""
    custom_width_str: str = ""
    bottleneck_multiple: float = 0.25
    no_bias_above: int = 64
    num_mixtures: int = 10

    def __post_init__(self) -> None:
        require_sizes(self, width=1, zdim=1, num_mixtures=1)
        channels = self.width * self.bottleneck_multiple
        if not 1 <= channels <= MOST_UNITS:
            told = f"more than {MOST_UNITS:,} channels" if channels > 1 else "no channel"
            raise InvalidValueError(
                f"--bottleneck-multiple {self.bottleneck_multiple:g} of --width {self.width} leaves a block {told}"
            )


# The embedded host's names for the data sets, which its likelihood looks at.
_DATASETS = {"ffhq256": "ffhq_256", "ffhq1024": "ffhq_1024"}

_SMALL = Architecture(
    width=64,
    zdim=8,
    enc_blocks="32x2,32d2,16x2,16d2,8x2,8d2,4x1,4d4,1x1",
    dec_blocks="1x1,4m1,4x1,8m4,8x2,16m8,16x2,32m16,32x2",
)
_DEMO = Architecture(
    width=64,
    zdim=8,
    num_mixtures=3,
    enc_blocks="32x1,32d2,16x1,16d2,8x2,8d2,4x2,4d4,1x2",
    dec_blocks="1x2,4m1,4x3,8m4,8x3,16m8,32m16",
)


class VDVAE(TrainableEntry):
    """Very deep VAE: its modules, presets, heads, and how to train and sample it."""

    name = "vdvae"
    modules = ("hps", "vae", "vae_helpers")
    embedded = "vdvae_patch.upstream.vdvae"
    architecture = Architecture

    def presets(self) -> Mapping[str, Preset]:
        """The five published presets, `small` (under a second a step on a CPU) and `demo` (for a few minutes' run)."""
        registry = importlib.import_module(f"{self.embedded}.hps").HPARAMS_REGISTRY
        published = {name: _published(name, dict(values)) for name, values in registry.items()}
        quick = Optimization(lr=2e-4, wd=0.01, warmup_iters=100, batch_size=16, ema_rate=0.99)
        return published | {
            "small": Preset(quick, _SMALL, "cifar10", "12 latent blocks; under a second a step on a CPU"),
            "demo": Preset(replace(quick, batch_size=4), _DEMO, "builtin", "12 latent blocks; 0.1 s a step on a CPU"),
        }

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`vae.VAE` from its hyperparameters, such as `HPARAMS_REGISTRY["cifar10"]`.

        What a registry entry leaves out has VDVAE's defaults; the image has the encoder's first resolution and three
        channels. The weights are drawn by torch's default generator.
        """
        H = modules["hps"].Hyperparams()
        H.update({**asdict(Architecture()), "image_channels": 3, **hparams})
        first = re.match(r"\d+", H.enc_blocks)
        if H.image_size is None and first is not None:
            H.image_size = int(first[0])
        model: nn.Module = modules["vae"].VAE(H)
        return model

    def hyperparameters(
        self, architecture: Architecture, *, image_size: int, image_channels: int, data: str
    ) -> dict[str, Any]:
        """The `H` of an architecture on a data set."""
        dataset = _DATASETS.get(data, data)
        return asdict(architecture) | {"image_size": image_size, "image_channels": image_channels, "dataset": dataset}

    def heads(self, model: nn.Module) -> list[Head]:
        """Two heads a decoder block, in the order of the computation: posterior, then prior."""
        blocks = [(path, module) for path, module in model.named_modules() if type(module).__name__ == "DecBlock"]
        return [head for path, block in blocks for head in _block_heads(path, block)]

    def heads_reading(self, model: nn.Module, reading: MeanReading) -> list[Head]:
        """The same heads; every block reads the means of its posterior and its prior in that way."""
        return vdvae_means.heads_reading(self.heads(model), reading)

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        """One posterior pass with its loss."""
        out = model(x, target)
        return Losses(out["elbo"], out["distortion"], out["rate"])

    def latents(self, model: nn.Module, x: Tensor) -> list[Latent]:
        """One latent a decoder block, in order; the first one's KL to a top prior is an image's."""
        bare = _bare(model)
        with vdvae_top.watched(bare) as seen:
            found = [Latent(s["z"], s["kl"]) for s in bare.forward_get_latents(x)]
        return found if seen is None else [Latent(found[0].z, seen.rate(bare)), *found[1:]]

    def sample(self, model: nn.Module, n: int, temperature: float, latents: Sequence[Tensor] = ()) -> NDArray[np.uint8]:
        """uint8 `[n, H, W, C]` from the prior; the first latents may be given."""
        bare = _bare(model)
        images: NDArray[np.uint8]
        if latents:
            images = bare.forward_samples_set_latents(n, list(latents), t=temperature)
        else:
            images = bare.forward_uncond_samples(n, t=temperature)
        return images

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """`out_net.out_conv` emits the parameters of a mixture of discretized logistics."""
        return vdvae_decoder.seam(model)

    def top_prior_seam(self, model: nn.Module) -> TopPriorSeam:
        """The posterior of the first block is of the image alone."""
        return vdvae_top.seam(model)


def _bare(model: nn.Module) -> Any:
    return getattr(model, "module", model)


def _published(name: str, values: dict[str, Any]) -> Preset:
    """A preset of the host's own registry; what it leaves out has VDVAE's defaults, which are the dataclasses'."""
    names = {"batch_size": "n_batch"}

    def pick(cls: type) -> dict[str, Any]:
        fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
        return {f: values[names.get(f, f)] for f in fields if names.get(f, f) in values}

    return Preset(Optimization(**pick(Optimization)), Architecture(**pick(Architecture)), name)


# --- the blocks -------------------------------------------------------------------------------------------------------

# SHA-256 of the tokens of each function, in the code at the commit of the manifest. What is not among them was changed
# by somebody, and is left to run as it is written.
_GENUINE = frozenset(
    {
        "ebd59f50b4e6cff979de7ceb8c496bc48d484e8b6b91052a7097691f2d7ab9ef",  # DecBlock.sample
        "bfdda5063458e5ddfd0d3bcb17f454b570539bb426b8c2487820a5638920e074",  # DecBlock.sample_uncond
        "f64521d8cac739dab3eff8378f077dfa3be158739d6d0b936f5dbd98992d0974",  # gaussian_analytical_kl
        "07a62b8a2421f9ba69de8168e52be0164c378d711265cdd9a01597415b756cea",  # draw_gaussian_diag_samples
    }
)
_STABLE = {"gaussian_analytical_kl": "kl", "draw_gaussian_diag_samples": "draw"}


def _block_heads(path: str, block: nn.Module) -> list[Head]:
    blocks: Any = importlib.import_module("vdvae_patch.patches._vdvae_block")  # only now, since it imports torch
    zdim = int(block.zdim)  # type: ignore[arg-type]
    methods = {name: getattr(type(block), name) for name in ("sample", "sample_uncond")}
    known = {
        name for method in methods.values() for name in _STABLE
        if name in method.__code__.co_names and _is_known(method.__globals__[name])
    }  # fmt: skip
    calls: tuple[CallSite, ...] = ()
    rebindings: tuple[Rebinding, ...] = ()
    if len(known) == len(_STABLE) and all(map(_is_known, methods.values())):
        calls = (
            CallSite(path, "sample", blocks.sample),
            CallSite(path, "sample_uncond", blocks.sample_uncond),
        )
    else:
        rebindings = tuple(
            Rebinding(path, method, name, getattr(blocks, _STABLE[name]))
            for method, function in methods.items()
            for name in sorted(known)
            if name in function.__code__.co_names
        )
    roles: tuple[tuple[str, Role], ...] = (("enc", "posterior"), ("prior", "prior"))
    return [
        Head(f"{path}.{name}", role, zdim, 2 * zdim, calls=calls, rebindings=rebindings, paper=True, host=VDVAE.name)
        for name, role in roles
    ]


def _is_known(function: Any) -> bool:
    """Whether a function is the embedded host's, or token for token the genuine one."""
    written = getattr(function, "_torchdynamo_inline", function)  # what TorchScript was made from
    return written.__module__.startswith(f"{VDVAE.embedded}.") or is_one_of(function, _GENUINE)


HOST = VDVAE()
