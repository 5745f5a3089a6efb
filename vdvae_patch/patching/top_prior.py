"""A top prior in the place of a host's own: its parameters beside the host's, and the host's encoder to call.

The prior is a module of the model, and stands apart from its `state_dict` as a decoder does. It calls the encoder by a
function of the host's entry, which goes by the patched methods: new scales hold for pseudo-inputs, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vdvae_patch.attach.attachment import Attachment
from vdvae_patch.patching.decoder import Apart, InsteadAttachment
from vdvae_patch.seams import TopPriorSeam
from vdvae_patch.top_priors import Density, TopPrior
from vdvae_patch.top_priors import get as get_top_prior
from vdvae_patch.torch_versions import takes_hooks

TOP_PRIOR = "vdvae_patch_top_prior"
"""By this name it is a child of the model."""


class Top(Apart):
    """The prior of a host's top latent, with the function that calls the host's encoder."""

    def __init__(self, prior: TopPrior, seam: TopPriorSeam) -> None:
        super().__init__()
        self.prior = prior
        self.encode = seam.encode

    def density(self, model: nn.Module) -> Density:
        """p(z) as model and prior are now."""
        return self.prior.at(partial(self._encoded, model))

    def _encoded(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        with _statistics_at_rest(model):
            return self.encode(model, images)


@contextmanager
def _statistics_at_rest(model: nn.Module) -> Iterator[None]:
    """Pseudo-inputs are normalized by the running statistics of images, which they do not move."""
    moving = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in moving:
        module.training = False
    try:
        yield
    finally:
        for module in moving:
            module.training = True


class TopPlacement:
    """A top prior that is to be put into a model.

    Raises:
        UnknownNameError, InvalidValueError: no such prior, or arguments that it refuses; more than memory allows.
    """

    def __init__(self, seam: TopPriorSeam, prior: str | TopPrior) -> None:
        self.seam = seam
        # one that was made elsewhere may be put into several models, a trained one and its average
        made = copy.deepcopy(prior) if isinstance(prior, TopPrior) else prepared(prior, seam)
        made.latents = seam.latents
        self.prior = made
        self.attachments: list[Attachment] = [InsteadAttachment(instead) for instead in seam.instead]

    def put(self, model: nn.Module) -> None:
        """Add the module, and call the encoder as in evaluation on two images, twice: nothing may be drawn.

        Raises:
            InvalidValueError: the encoder cannot be called, gives something else than the seam says, or draws.
        """
        like = next(model.parameters())
        top = Top(self.prior, self.seam).to(like.device, like.dtype).train(model.training)
        if not like.requires_grad:
            top.requires_grad_(False)
        model.add_module(TOP_PRIOR, top)
        training = [module for module in model.modules() if module.training]
        try:
            top.prior.check(partial(top._encoded, model.eval()))
        finally:
            for module in training:
                module.training = True


def prepared(
    spec: str, seam: TopPriorSeam, data: Tensor | None = None, generator: torch.Generator | None = None
) -> TopPrior:
    """A prior of the shapes of a seam; without a generator no random number of the program is used up.

    Args:
        data: images `[N, *images]` in [0, 1] that it may start from.
    """
    with torch.random.fork_rng(devices=[], enabled=generator is None):
        return get_top_prior(spec, latents=seam.latents, images=seam.images, data=data, generator=generator)


def density_at(model: Any) -> Density | None:
    """The density of the top prior that was put into a model; None where the host's own is."""
    top = model._modules.get(TOP_PRIOR)
    return None if top is None else top.density(model)


def top_prior_in(model: nn.Module) -> TopPrior | None:
    """The top prior of a model, or of one that it wraps; None without one."""
    return next((module.prior for module in model.modules() if isinstance(module, Top)), None)


def lr_factors(model: nn.Module) -> dict[nn.Parameter, float]:
    """Of parameters of its top prior, by how much a model's learning rate is multiplied; empty where it is not."""
    prior = top_prior_in(model)
    if prior is None or prior.lr_factor == 1:
        return {}
    return dict.fromkeys(prior.parameters(), prior.lr_factor)


def take_top_prior_away(model: nn.Module) -> None:
    """Take the module away again."""
    for module in filter(takes_hooks, list(model.modules())):
        module._modules.pop(TOP_PRIOR, None)
