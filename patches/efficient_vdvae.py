"""Efficient-VDVAE (Hazami et al. 2022), the torch version: every block has a `prior_layer` and a `posterior_layer`.

Each is a `GaussianLatentLayer` whose `projection` emits a mean and a raw value. Its configuration says how that is
read: `std` takes softplus with β = log 2, `logstd` takes exp(β p). In both the KL gets what the sampler gets, so
replacing the projection's output is exact.

With `use_residual_distribution` the posterior is residual to its prior: the layers hand on what they have computed,
and the host multiplies the two σ, or adds their logarithms. Then each layer's method is replaced by one that hands on
the prior's raw value, too: σ_p = scale(p_p), and σ_q = scale(p_p + p_q), whatever scale the prior has.

The genuine code makes its noise and the biases of its upsampling layers on a GPU by name. Imported through this entry
they are made where the model is; drawing images from the likelihood and variate masks still need a GPU. Its own
configuration library, which no package index has, is stood in for by a reader of `hparams.cfg`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError, did_you_mean
from vdvae_patch.heads import CallSite, Head, Role
from vdvae_patch.hosts.entry import Example, HostEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vdvae_patch.seams import DecoderSeam, Terms

_LAYER = "GaussianLatentLayer"
_FILE = "hparams.cfg"


class EfficientVDVAE(HostEntry):
    """Efficient-VDVAE; its hyperparameters are those of its own configuration file, changed section by section."""

    name = "efficient_vdvae"
    modules = ("model.def_model", "model.latent_layers", "model.layers", "model.losses")
    no_top_prior = (
        "its encoder gives activations and no posterior: that of the first layer is formed inside of the top-down "
        "pass, together with its KL"
    )

    def stand_ins(self, root: Path) -> Mapping[str, ModuleType]:
        """`hparams`, read from its configuration file, and prettytable, which only its scripts use."""
        from vdvae_patch.hosts.configuration import read_sections
        from vdvae_patch.hosts.stand_ins import unused

        library = ModuleType("hparams")
        library.HParams = _Settings(read_sections(root / _FILE))  # type: ignore[attr-defined]
        others = {} if find_spec("prettytable") else {"prettytable": unused("prettytable", "PrettyTable")}
        return {"hparams": library, **others}

    def adapt(self, modules: Mapping[str, ModuleType]) -> None:
        """Make noise and biases on the model's own device."""
        latent: Any = modules["model.latent_layers"]
        latent.calculate_z = _draw
        layers: Any = modules["model.layers"]
        layers.Unpoolayer.reset_parameters = _reset_parameters

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`UniversalAutoEncoder()` after its first pass, in which it makes some of its parameters.

        Args:
            hparams: `{section: {name: value}}` on top of the configuration file. The host reads its configuration
                also while it runs, and has one for all: what is built later changes what earlier models read.

        Raises:
            HostError: the configuration has no such section or name.
        """
        import torch

        host: Any = modules["model.def_model"]
        if isinstance(host.HParams, _Settings):
            host.HParams.restore()
        settings = host.hparams
        _override(settings, hparams)
        model: nn.Module = host.UniversalAutoEncoder()
        size = (1, settings.data.channels, settings.data.target_res, settings.data.target_res)
        with torch.no_grad(), torch.random.fork_rng():
            model(torch.ones(size))
        return model

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """`top_down.output_conv` emits the parameters of a mixture; its loss lies outside of the model.

        Raises:
            HostError: a model of binarized MNIST, whose loss is of a part of the image.
        """
        from vdvae_patch.pixel_grid import PixelGrid
        from vdvae_patch.seams import DecoderSeam

        bare: Any = model
        settings = _hparams_of(bare.top_down)
        if settings.data.dataset_source == "binarized_mnist":
            raise HostError("host 'efficient_vdvae' takes no decoder here: its MNIST loss is of a part of the image")
        levels = 2 ** int(settings.data.num_bits)
        highest = (256 - 256 // levels) / 127.5 - 1  # of the bytes that have zeros where bits were dropped
        channels = int(bare.top_down.output_conv.out_channels)
        return DecoderSeam(
            "top_down.output_conv", channels, 3, PixelGrid(-1, highest, levels), terms, mixture_means, added=same_size
        )

    def example(self, modules: Mapping[str, ModuleType]) -> Example:
        """Three resolutions and four blocks on random images of 16x16 in [-1, 1]."""
        import torch

        model = self.build(modules, SMALL)
        return Example(model, (torch.rand(2, 3, 16, 16) * 2 - 1,), _loss(modules))

    def heads(self, model: nn.Module) -> list[Head]:
        """Two heads a block.

        Raises:
            HostError: the configuration reads the value in a way that is not known here.
        """
        return [
            _head(path, layer, "prior" if path.endswith("prior_layer") else "posterior")
            for path, layer in model.named_modules()
            if type(layer).__name__ == _LAYER
        ]


SMALL: Mapping[str, Mapping[str, Any]] = {
    "data": {"target_res": 16},
    "model": {
        "input_conv_filters": 16,
        "up_strides": [2, 2],
        "up_n_blocks_per_res": [0, 0],
        "up_n_blocks": [1, 1],
        "up_n_layers": [1, 1],
        "up_filters": [16, 16],
        "up_mid_filters_ratio": [0.5, 0.5],
        "up_kernel_size": [3, 3],
        "up_skip_filters": [16, 16],
        "down_strides": [2, 2],
        "down_n_blocks_per_res": [1, 1],
        "down_n_blocks": [1, 1],
        "down_n_layers": [1, 1],
        "down_filters": [16, 16],
        "down_mid_filters_ratio": [0.5, 0.5],
        "down_kernel_size": [3, 3],
        "down_latent_variates": [4, 4],
        "num_output_mixtures": 2,
    },
}
"""A model that takes a step on a CPU in a fraction of a second."""


def _hparams_of(part: Any) -> Any:
    return sys.modules[type(part).__module__].hparams


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; x and target are the same images `[B, 3, H, W]` in [-1, 1]."""
    from vdvae_patch.objectives import BalancedRate
    from vdvae_patch.patching.decoder import likelihood_at
    from vdvae_patch.seams import Terms

    emitted, posteriors, priors = model(x)
    losses = sys.modules[type(model).__module__.removesuffix("def_model") + "losses"]
    is_std = _hparams_of(model).model.distribution_base == "std"
    divergence = losses.calculate_std_loss if is_std else losses.calculate_logstd_loss

    def rates(q: Any, p: Any) -> dict[str, Tensor]:
        pairs = zip(q, p, strict=True)
        return {f"{n}": divergence(list(a[:2]), list(b[:2])).flatten(1).sum(dim=1) for n, (a, b) in enumerate(pairs)}

    def stopped(stats: Any) -> list[list[Tensor]]:
        return [[value.detach() for value in each[:2]] for each in stats]

    apart = None
    if balanced:
        apart = BalancedRate(rates(stopped(posteriors), priors), rates(posteriors, stopped(priors)))
    distortion = None
    if likelihood_at(model) is None:
        likelihood = losses.DiscMixLogistic()
        # its sum over the batch, divided by the values of one image
        each = [likelihood(x[i : i + 1], emitted[i : i + 1], 1)[0] for i in range(len(x))]
        distortion = _stack(each) * target[0].numel()
    return Terms(rates(posteriors, priors), target, emitted, distortion, apart)


def _stack(values: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(values)


def mixture_means(emitted: Tensor) -> Tensor:
    """The expectation of the mixture before its values are cut to the range, `[B, 3, H, W]` in [-1, 1]."""
    from vdvae_patch.decoders.logistic import free_mean

    return free_mean(emitted, emitted.shape[1] // 10)


def same_size(layer: Any, channels: int) -> nn.Module:
    """A convolution beside the host's, which pads its input itself."""
    from torch import nn

    return nn.Conv2d(layer.in_channels, channels, layer.kernel_size, padding="same", dilation=layer.dilation)


def _head(path: str, layer: Any, role: Role) -> Head:
    channels = int(layer.projection.out_channels)
    settings = _settings_of(layer)
    if not getattr(settings, "use_residual_distribution", False):
        return Head(
            f"{path}.projection", role, channels // 2, channels, convention=_convention(layer, settings), paper=True
        )
    return Head(
        f"{path}.projection",
        role,
        channels // 2,
        channels,
        convention=_convention(layer, settings),
        calls=(CallSite(path, "forward", residual_layer),),
        only_at_calls=True,
        paper=True,
    )


def _settings_of(layer: Any) -> Any:
    return sys.modules[type(layer).__module__].hparams.model


def _convention(layer: Any, settings: Any) -> Any:
    from vdvae_patch.composition import Composition, Step
    from vdvae_patch.conventions import SoftplusOf

    if settings.distribution_base == "std":
        return SoftplusOf(beta=float(layer.softplus.beta))
    if settings.distribution_base == "logstd":
        return Composition((Step("mul", (float(settings.gradient_smoothing_beta),)), Step("exp")))
    raise HostError(f"distribution_base is {settings.distribution_base!r}; known are 'std' and 'logstd'")


def residual_layer(
    layer: Any,
    scales: Mapping[Role, Any],
    x: Tensor,
    temperature: Any = None,
    prior_stats: Any = None,
    return_sample: bool = True,
) -> Any:
    """`GaussianLatentLayer.forward` with σ = scale(p), p the sum of the raw values of the posterior and its prior.

    The statistics have the raw value as a third item; what reads them takes the first two by number. A layer whose
    role has no scale computes the host's own σ of the raw values: the product of two softplus, or exp(β p).
    """
    import torch

    settings = _settings_of(layer)
    beta, is_std = float(settings.gradient_smoothing_beta), settings.distribution_base == "std"
    scale = next(iter(scales.values()), None)
    mean, raw = layer.projection(x).chunk(2, dim=1)
    total = raw
    if prior_stats is not None:
        mean, total = mean + prior_stats[0], raw + prior_stats[2]
    if scale is not None:
        std, log_std = scale.sigma(total), scale.log_sigma(total)
    elif is_std:
        std = layer.softplus(raw) if prior_stats is None else layer.softplus(raw) * layer.softplus(prior_stats[2])
        log_std = torch.log(std)
    else:
        std, log_std = torch.exp(beta * total), beta * total
    stats = [mean, std if is_std else log_std / beta, total]
    if not return_sample:
        return stats
    spread = std if temperature is None else std * temperature
    return sys.modules[type(layer).__module__].calculate_z(mean, spread)[0], stats


# --- what the genuine code presumes of its surroundings ---------------------------------------------------------------


class _Settings:
    """Stands in for the class of the host's configuration library: one set of sections, whatever name is asked for."""

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self._sections = sections
        self._namespace = SimpleNamespace()
        self.restore()

    def restore(self) -> None:
        """Set every value as the file has it."""
        vars(self._namespace).update({name: SimpleNamespace(**values) for name, values in self._sections.items()})

    def get_hparams_by_name(self, name: str) -> SimpleNamespace:
        """The sections, as attributes."""
        return self._namespace


def _override(settings: Any, changes: Mapping[str, Mapping[str, Any]]) -> None:
    for section, values in changes.items():
        known = vars(settings)
        if section not in known:
            raise HostError(f"the configuration has no section {section!r}{did_you_mean(section, known)}")
        for name, value in values.items():
            names = vars(known[section])
            if name not in names:
                raise HostError(f"section {section!r} of the configuration has no {name!r}{did_you_mean(name, names)}")
            setattr(known[section], name, value)


def _draw(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    noise = torch.empty_like(mean).normal_(0.0, 1.0)
    return noise * std + mean, mean, std


def _reset_parameters(self: Any, inputs: Tensor) -> None:
    import torch
    from torch import nn

    self.scale_bias = nn.Parameter(torch.zeros(1, *inputs.shape[1:], device=inputs.device))


def _loss(modules: Mapping[str, ModuleType]) -> Any:
    losses: Any = modules["model.losses"]
    likelihood, kl = losses.DiscMixLogistic(), losses.KLDivergence()

    def loss(model: Any, x: Tensor) -> Tensor:
        """The negative ELBO in nats per dimension, without its warm-up and balancing."""
        logits, posteriors, priors = model(x)
        batch = len(x)
        # the host's losses take the prior's statistics second, under the name q
        rates = [kl(p, q, batch)[0] for p, q in zip(posteriors, priors, strict=True)]
        nelbo: Tensor = likelihood(x, logits, batch)[0] + sum(rates)
        return nelbo

    return loss


HOST = EfficientVDVAE()
