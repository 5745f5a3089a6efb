"""NVAE (Vahdat and Kautz 2020): σ = exp(5 tanh(p / 5)) + 0.01, the posterior's p a sum with the prior's.

Every Normal is made by one class from a mean and a log sigma. `enc_sampler` emits the posterior's raw value, residual
to that of `dec_sampler`, the prior's; the first prior is a fixed N(0, 1) of the same class and stays as it is. So the
patch sits in the calls of that class, each with the scale of its role: σ_q = scale(p_p + p_q), σ_p = scale(p_p).

The genuine code is written for a GPU and one process group. Imported through this entry, its batch normalization and
its data-dependent initialization also run on a CPU and in a single process, with the arithmetic that they have there;
sampling from the prior, the mixture's `sample`, `spectral_norm_parallel` and flows (`num_nf`) call `.cuda()` themselves
and still need a GPU. Its licence allows research and evaluation only.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError, InvalidValueError, did_you_mean
from vdvae_patch.heads import Head, Role
from vdvae_patch.hosts.entry import Example, HostEntry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vdvae_patch.seams import DecoderSeam, Terms

_CALLS: dict[Role, tuple[tuple[str, str], ...]] = {
    "posterior": (
        ("forward", "Normal(mu_q, log_sig_q)"),
        ("forward", "Normal(mu_p + mu_q, log_sig_p + log_sig_q)"),
    ),
    "prior": (("forward", "Normal(mu_p, log_sig_p)"), ("sample", "Normal(mu, log_sigma, t)")),
}
_DECODER = ("decoder_output", "NormalDecoder(logits, num_bits=self.num_bits)")

DEFAULTS: Mapping[str, Any] = {
    "dataset": "cifar10",
    "arch_instance": "res_mbconv",
    "num_nf": 0,
    "num_x_bits": 8,
    "num_latent_scales": 1,
    "num_groups_per_scale": 10,
    "num_latent_per_group": 20,
    "ada_groups": False,
    "min_groups_per_scale": 1,
    "num_channels_enc": 32,
    "num_preprocess_blocks": 2,
    "num_preprocess_cells": 3,
    "num_cell_per_cond_enc": 1,
    "num_channels_dec": 32,
    "num_postprocess_blocks": 2,
    "num_postprocess_cells": 3,
    "num_cell_per_cond_dec": 1,
    "num_mixture_dec": 10,
    "use_se": False,
    "res_dist": False,
}
"""The flags of its training script that shape the model, with their defaults there, but for the data set."""


class NVAE(HostEntry):
    """NVAE; hyperparameters are the flags of its training script that shape the model, see `DEFAULTS`."""

    name = "nvae"
    modules = ("model", "distributions", "neural_operations", "utils")
    no_top_prior = (
        "its encoder is no method: one forward pass goes through all groups, and forms the posterior of the first "
        "between the two halves of it"
    )

    def stand_ins(self, root: Path) -> Mapping[str, ModuleType]:
        """tensorboardX, which only its scripts use, where it is not installed."""
        from vdvae_patch.hosts.stand_ins import unused

        return {} if find_spec("tensorboardX") else {"tensorboardX": unused("tensorboardX", "SummaryWriter")}

    def adapt(self, modules: Mapping[str, ModuleType]) -> None:
        """Let its batch normalization and its initialization run on a CPU and without a process group."""
        _adapt_normalization(modules["model"].SyncBatchNormSwish)
        _adapt_average(modules["neural_operations"])

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`model.AutoEncoder(args, None, arch_instance)`, the cells by the name of an architecture.

        Raises:
            InvalidValueError: an unknown flag.
            HostError: flows are asked for and there is no GPU, which their masks are put on when they are made.
        """
        import torch

        unknown = next((name for name in hparams if name not in DEFAULTS), None)
        if unknown is not None:
            raise InvalidValueError(
                f"NVAE has no flag {unknown!r} that shapes the model{did_you_mean(unknown, DEFAULTS)}"
            )
        arguments = {**DEFAULTS, **hparams}
        if arguments["num_nf"] and not torch.cuda.is_available():
            raise HostError("NVAE's flows make their masks on a GPU, and there is none here; leave num_nf at 0")
        cells = arguments.pop("arch_instance")
        if isinstance(cells, str):
            cells = modules["utils"].get_arch_cells(cells)
        model: nn.Module = modules["model"].AutoEncoder(Namespace(**arguments), None, cells)
        return model

    def example(self, modules: Mapping[str, ModuleType]) -> Example:
        """Two scales of two groups on random images of 32x32, with the residual posterior of its published runs."""
        import torch

        model = self.build(
            modules,
            {
                "num_latent_scales": 2,
                "num_groups_per_scale": 2,
                "num_latent_per_group": 4,
                "num_channels_enc": 8,
                "num_channels_dec": 8,
                "num_preprocess_blocks": 1,
                "num_preprocess_cells": 2,
                "num_postprocess_blocks": 1,
                "num_postprocess_cells": 2,
                "num_mixture_dec": 2,
                "use_se": True,
                "res_dist": True,
            },
        )
        return Example(model, (torch.rand(2, 3, 32, 32),), _loss)

    def decoder_seam(self, model: nn.Module) -> DecoderSeam:
        """The last convolution of `image_conditional` emits what `decoder_output` makes a distribution of.

        Raises:
            HostError: a model of MNIST or Omniglot, whose loss is of a part of the image.
        """
        from vdvae_patch.pixel_grid import PixelGrid
        from vdvae_patch.seams import DecoderSeam, Instead

        bare: Any = model
        if bare.crop_output:
            raise HostError(f"host 'nvae' takes no decoder here: its {bare.dataset} loss is of a part of the image")
        last = len(bare.image_conditional) - 1
        normal = bare.num_mix_output == 1
        levels = 2**bare.num_bits
        return DecoderSeam(
            f"image_conditional.{last}", int(bare.image_conditional[last].out_channels), 3, PixelGrid(0, 1, levels),
            terms, normal_means if normal else mixture_means, spare=3 if normal else 0,
            instead=(Instead("", "decoder_output", decoder_output),),
            whole_rate="NVAE forms each KL inside its forward, from both Normals at once",
        )  # fmt: skip

    def heads(self, model: nn.Module) -> list[Head]:
        """A posterior for each of `enc_sampler`, a prior for each of `dec_sampler`, a likelihood if it is a Normal."""
        sites = {role: _sites(type(model), calls) for role, calls in _CALLS.items()}
        names: tuple[tuple[str, Role], ...] = (("enc_sampler", "posterior"), ("dec_sampler", "prior"))
        heads = []
        for name, role in names:
            for index, sampler in enumerate(getattr(model, name)):
                heads.append(_head(f"{name}.{index}", role, sampler, sites[role]))
        if getattr(model, "num_mix_output", None) == 1 and getattr(model, "dataset", "") not in ("mnist", "omniglot"):
            conditional = getattr(model, "image_conditional")  # noqa: B009 - of the host's class, unknown to the types
            heads.append(_head("image_conditional", "likelihood", conditional, _decoder_sites(type(model))))
        return heads


def terms(model: Any, x: Tensor, target: Tensor, balanced: bool = False) -> Terms:
    """One pass in its parts; x and target are the same images `[B, 3, H, W]` in [0, 1]."""
    from vdvae_patch.patching.decoder import likelihood_at
    from vdvae_patch.seams import Terms

    emitted, _, _, rates, _ = model(x)
    named = {f"{index}": rate for index, rate in enumerate(rates)}
    if likelihood_at(model) is not None:
        return Terms(named, target, emitted)
    return Terms(named, target, emitted, -model.decoder_output(emitted).log_prob(target).flatten(1).sum(dim=1))


def mixture_means(emitted: Tensor) -> Tensor:
    """The expectation of the mixture before its values are cut to the range, `[B, 3, H, W]` in [0, 1]."""
    from vdvae_patch.decoders.logistic import free_mean

    return (free_mean(emitted, emitted.shape[1] // 10) + 1) / 2


def normal_means(emitted: Tensor) -> Tensor:
    """The host's means, softly cut to ±5 in its [-1, 1], here in [0, 1], and behind them its raw scales."""
    import torch

    return torch.cat([(5 * torch.tanh(emitted[:, :3] / 5) + 1) / 2, emitted[:, 3:]], dim=1)


class Decoded:
    """What `decoder_output` gives beside a decoder: the two methods that the host calls."""

    def __init__(self, likelihood: Any, emitted: Tensor) -> None:
        self.likelihood, self.emitted = likelihood, emitted

    def log_prob(self, samples: Tensor) -> Tensor:
        """log p(x), nats an image, `[B, 1, 1, 1]`: whatever the host sums it over."""
        nll: Tensor = self.likelihood.nll(samples, self.emitted)
        return -nll.view(-1, 1, 1, 1)

    def mean(self) -> Tensor:
        """The mean image in [0, 1]."""
        found: Tensor = self.likelihood.mean(self.emitted)
        return found

    def sample(self, t: float = 1.0) -> Tensor:
        """Images in [0, 1]; the likelihood has no temperature."""
        likelihood = self.likelihood
        drawn: Tensor = likelihood.decoder.sample(likelihood.parameters_of(self.emitted))
        return drawn.clamp(0, 1)


def decoder_output(model: Any, likelihood: Any, logits: Tensor) -> Decoded:
    """`AutoEncoder.decoder_output` beside a decoder."""
    return Decoded(likelihood, logits)


def _head(path: str, role: Role, emitter: Any, sites: tuple[Any, ...]) -> Head:
    channels = _out_channels(emitter)
    return Head(path, role, channels // 2, channels, convention=_convention(), sites=sites, paper=True)


def _convention() -> Any:
    from vdvae_patch.composition import Composition, Step

    steps = (Step("mul", (0.2,)), Step("tanh"), Step("mul", (5.0,)), Step("exp"), Step("add", (0.01,)))
    return Composition(steps)


def _sites(model: type, calls: tuple[tuple[str, str], ...]) -> tuple[Any, ...]:
    """The Normals that are made in the named calls of the model's methods."""
    from vdvae_patch.attach import find
    from vdvae_patch.attach.sites import CallStep

    normal = _global(model, "forward", "Normal")
    return tuple(
        _site(method, (CallStep(span, normal.__module__, "Normal.__init__"),), normal)
        for method, text in calls
        for span in find.expressions(model, method, text)
    )


def _decoder_sites(model: type) -> tuple[Any, ...]:
    """The Normal that `NormalDecoder` makes of the decoder's output."""
    from vdvae_patch.attach import find
    from vdvae_patch.attach.sites import CallStep

    method, text = _DECODER
    decoder = _global(model, method, "NormalDecoder")
    normal = _global(decoder, "__init__", "Normal")
    (made,) = find.expressions(decoder, "__init__", "Normal(mu, log_sigma)")
    return tuple(
        _site(
            method,
            (
                CallStep(span, decoder.__module__, "NormalDecoder.__init__"),
                CallStep(made, normal.__module__, "Normal.__init__"),
            ),
            normal,
        )
        for span in find.expressions(model, method, text)
    )


def _site(method: str, calls: tuple[Any, ...], normal: type) -> Any:
    from vdvae_patch.attach import find
    from vdvae_patch.attach.sites import Site
    from vdvae_patch.conventions import get

    first = find.expressions(normal, "__init__", "soft_clamp5(log_sigma)")[0]
    last = find.expressions(normal, "__init__", "torch.exp(log_sigma) + 1e-2")[0]
    return Site("", method, calls, first, last, 0, get("sigma"), wrap=with_log_sigma)


def with_log_sigma(normal: Any, scale: Any) -> type:
    """The host's Normal with log σ beside σ, from which its density and its KL are then computed.

    The host takes log (σ_q / σ_p). Its floor of 0.01 made that safe; a scale without one needs log σ from p itself.
    """
    import math

    class StableNormal(normal):  # type: ignore[misc]
        def __init__(self, mu: Tensor, log_sigma: Tensor, temp: float = 1.0) -> None:
            super().__init__(mu, log_sigma, temp)
            self.log_sigma = scale.log_sigma(log_sigma) + math.log(temp)

        def log_p(self, samples: Tensor) -> Tensor:
            return log_density(self, samples)

        def kl(self, normal_dist: Any) -> Tensor:
            return divergence(self, normal_dist)

    StableNormal.__name__, StableNormal.__qualname__ = normal.__name__, normal.__qualname__
    return StableNormal


def log_density(normal: Any, samples: Tensor) -> Tensor:
    """log N(samples; μ, σ) in nats, elementwise."""
    from vdvae_patch.normal import log_prob

    return log_prob(samples, normal.mu, _log_sigma(normal))


def divergence(q: Any, p: Any) -> Tensor:
    """KL(q ‖ p) in nats, elementwise; one of the two may be the host's own Normal, with a floor."""
    from vdvae_patch.normal import kl_divergence

    return kl_divergence(q.mu, _log_sigma(q), p.mu, _log_sigma(p))


def _log_sigma(normal: Any) -> Any:
    return normal.log_sigma if hasattr(normal, "log_sigma") else normal.sigma.log()


def _global(owner: type, method: str, name: str) -> Any:
    import inspect

    return inspect.unwrap(getattr(owner, method)).__globals__[name]


def _out_channels(sampler: Any) -> int:
    layers = [m for m in sampler.modules() if hasattr(m, "out_channels")]
    return int(layers[-1].out_channels)


# --- what the genuine code presumes of its surroundings ---------------------------------------------------------------


def _adapt_normalization(layer: Any) -> None:
    import sys

    import torch.nn.functional as F
    from torch import distributed

    genuine = layer.forward
    if getattr(genuine, "vdvae_patch_adapted", False):
        return
    swish = sys.modules[layer.__module__].swish

    def forward(self: Any, x: Tensor) -> Tensor:
        if x.is_cuda and distributed.is_available() and distributed.is_initialized():
            out: Tensor = genuine(self, x)
            return out
        momentum, of_batch = self.momentum, self.training or not self.track_running_stats
        if self.training and self.track_running_stats:
            self.num_batches_tracked = self.num_batches_tracked + 1
            momentum = momentum or 1 / int(self.num_batches_tracked)
        normalized = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, of_batch, momentum or 0.0, self.eps
        )
        activated: Tensor = swish.apply(normalized)
        return activated

    forward.vdvae_patch_adapted = True  # type: ignore[attr-defined]
    layer.forward = forward


def _adapt_average(operations: Any) -> None:
    from torch import distributed

    genuine = operations.average_tensor
    if getattr(genuine, "vdvae_patch_adapted", False):
        return

    def average_tensor(t: Tensor, is_distributed: bool) -> None:
        genuine(t, is_distributed and distributed.is_available() and distributed.is_initialized())

    average_tensor.vdvae_patch_adapted = True  # type: ignore[attr-defined]
    operations.average_tensor = average_tensor


def _loss(model: Any, x: Tensor) -> Tensor:
    """The negative ELBO in nats, mean over the batch: what its script trains, without its penalties of the weights."""
    logits, _, _, kl_all, _ = model(x)
    log_likelihood = model.decoder_output(logits).log_prob(x)
    nelbo: Tensor = sum(kl_all) - log_likelihood.flatten(1).sum(1)
    return nelbo.mean()


HOST = NVAE()
