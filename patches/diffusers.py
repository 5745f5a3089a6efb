"""diffusers: `AutoencoderKL` and every other autoencoder whose `encode` makes a `DiagonalGaussianDistribution`.

The distribution cuts its log variance to [−30, 20] and computes σ, variance and KL from that. The cut is what is
replaced: there, log variance = 2 log scale(p), past either bound, and everything that reads it agrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError
from vdvae_patch.heads import Head
from vdvae_patch.hosts.entry import Example, HostEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

_DISTRIBUTION = "DiagonalGaussianDistribution"
_ENCODERS = ("_encode", "encode")


class Diffusers(HostEntry):
    """The Gaussian autoencoders of diffusers; hyperparameters are `class` and that class's arguments."""

    name = "diffusers"
    modules = ("diffusers",)
    installed = True
    no_decoder = (
        "its autoencoders have no likelihood: their training scripts take a squared or a perceptual error of "
        "what decode gives, outside of the model; call decoder.nll(x, vae.decode(z).sample) of "
        "vdvae_patch.decoders in yours"
    )
    no_top_prior = (
        "its autoencoders have no loss: the KL is taken of what encode gives, outside of the model; call "
        "top_priors.get(...).kl(z, mean, log_sigma, encode) of vdvae_patch in yours"
    )

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """The class of that name (`AutoencoderKL` unless given), from its arguments."""
        arguments = dict(hparams)
        name = arguments.pop("class", "AutoencoderKL")
        cls = getattr(modules["diffusers"], name, None)
        if cls is None:
            raise HostError(f"diffusers has no {name!r}; give the name of an autoencoder class")
        model: nn.Module = cls(**arguments)
        return model

    def example(self, modules: Mapping[str, ModuleType]) -> Example:
        """An `AutoencoderKL` of three levels on images of 32x32; squared error plus a thousandth of the KL."""
        import torch

        arguments = {
            "block_out_channels": (32, 64, 64), "norm_num_groups": 8, "sample_size": 32,
            "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
        }  # fmt: skip
        return Example(self.build(modules, arguments), (torch.randn(8, 3, 32, 32),), _loss)

    def heads(self, model: nn.Module) -> list[Head]:
        """One: the posterior's log variance, the second half of the moments."""
        import inspect

        from vdvae_patch.attach import find
        from vdvae_patch.attach.decorators import function_of
        from vdvae_patch.attach.sites import CallStep, Site
        from vdvae_patch.composition import Step, named
        from vdvae_patch.conventions import get

        method = next((m for m in _ENCODERS if _makes_distribution(type(model), m)), None)
        if method is None:
            raise HostError(f"{type(model).__name__} makes no {_DISTRIBUTION} in encode; find its heads with scan")
        module = inspect.getmodule(function_of(getattr(type(model), method), method))
        distribution = getattr(module, _DISTRIBUTION)
        clamp = find.expressions(distribution, "__init__", "torch.clamp(self.logvar, -30.0, 20.0)")[0]
        sites = tuple(
            Site("", method, (CallStep(span, distribution.__module__, f"{_DISTRIBUTION}.__init__"),), clamp, clamp, 0,
                 get("log_variance"))
            for span in find.calls(type(model), method, _DISTRIBUTION)
        )  # fmt: skip
        path, channels = _moments(model)
        own = named((Step("clamp", (-30.0, 20.0)), Step("mul", (0.5,)), Step("exp")))
        return [Head(path, "posterior", channels // 2, channels, convention=own, sites=sites)]


def _loss(model: Any, x: Tensor) -> Tensor:
    posterior = model.encode(x).latent_dist
    error = ((model.decode(posterior.sample()).sample - x) ** 2).mean()
    loss: Tensor = error + 1e-3 * posterior.kl().mean()
    return loss


def _makes_distribution(cls: type, method: str) -> bool:
    from vdvae_patch.attach.decorators import function_of

    function = function_of(getattr(cls, method, None), method)
    return _DISTRIBUTION in getattr(getattr(function, "__code__", None), "co_names", ())


def _moments(model: Any) -> tuple[str, int]:
    """The convolution that emits mean and log variance, and how many channels that is."""
    named = [(p, m) for p, m in model.named_modules() if p == "quant_conv" and m is not None]
    if not named:
        named = [(p, m) for p, m in model.named_modules() if p.startswith("encoder.") and hasattr(m, "out_channels")]
    path, module = named[-1]
    return path, int(getattr(module, "out_channels", 2 * model.config.get("latent_channels", 4)))


HOST = Diffusers()
