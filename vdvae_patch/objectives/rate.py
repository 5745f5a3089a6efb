"""The rate as a network gives it: whole, by groups, or twice for KL balancing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.scales.arithmetic import wide

Groups: TypeAlias = Tensor | Mapping[str, Tensor]
"""[B] in nats an image, or that for each group of latents, by its name."""


@dataclass(frozen=True)
class BalancedRate:
    """One KL, evaluated twice so that its gradients can be weighted apart.

    prior: KL(sg(q) ‖ p), which trains the prior; posterior: KL(q ‖ sg(p)), which trains the posterior; sg stops the
    gradient. Their values are the same.
    """

    prior: Groups
    posterior: Groups


Rate: TypeAlias = Groups | BalancedRate


def by_group(rate: Rate) -> dict[str, Tensor]:
    """`{group: [B]}` in float32 at least, with the gradient of the whole KL; a plain rate is the group `rate`.

    Raises:
        InvalidValueError: no group, or a rate that is not [B].
    """
    if isinstance(rate, BalancedRate):
        prior, posterior = by_group(rate.prior), by_group(rate.posterior)
        if prior.keys() != posterior.keys():
            raise InvalidValueError(f"the two rates have other groups: {sorted(prior)} and {sorted(posterior)}")
        # the value of one, the gradient of both
        return {name: prior[name] + (posterior[name] - posterior[name].detach()) for name in prior}
    groups = dict(rate) if isinstance(rate, Mapping) else {"rate": rate}
    if not groups:
        raise InvalidValueError("the rate has no group")
    for name, value in groups.items():
        check_images(f"rate {name!r}" if isinstance(rate, Mapping) else "the rate", value)
    if len({len(value) for value in groups.values()}) > 1:
        sizes = ", ".join(f"{name} {len(value)}" for name, value in groups.items())
        raise InvalidValueError(f"the groups of the rate are of different numbers of images: {sizes}")
    return {name: wide(value) for name, value in groups.items()}


def check_images(what: str, value: Tensor) -> None:
    """Refuse anything but one number an image.

    Raises:
        InvalidValueError: with the shape, and what to sum.
    """
    if not isinstance(value, Tensor) or value.dim() != 1 or not len(value):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InvalidValueError(
            f"{what} must be one number an image, [B], in nats, and not {shape}: sum over latents or pixels, and leave "
            "the mean over the batch to the objective"
        )


def total(groups: Mapping[str, Tensor]) -> Tensor:
    """The sum of all groups, [B]."""
    return torch.stack(list(groups.values())).sum(dim=0)
