"""`--accumulate N`: the gradient of a batch in N parts, one after the other, for a batch that does not fit at once.

    ∇ mean over B images = 1/N · Σ over the parts of ∇ mean over B/N images

The parts are of equal size, so that this is the gradient of the whole batch up to rounding. They draw one behind the
other from the noise of the step. Clipping, skip rule, update and average see the sum alone: one decision an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.train.weighing import Weighed

Context = Callable[[], AbstractContextManager[object]]


def in_parts(x: Tensor, target: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch in equal parts.

    Raises:
        InvalidValueError: it does not divide.
    """
    if len(x) % parts:
        raise InvalidValueError(
            f"--accumulate {parts} does not divide a rank's batch of {len(x)} images; take a number that does"
        )
    yield from zip(x.chunk(parts), target.chunk(parts), strict=True)


def backward(
    loss: Callable[[Tensor, Tensor], Losses | Weighed],
    x: Tensor,
    target: Tensor,
    *,
    parts: int = 1,
    precision: Context = nullcontext,
    scale: Callable[[Tensor], Tensor] | None = None,
    alone: Context = nullcontext,
) -> tuple[Losses, Mapping[str, Tensor]]:
    """The gradients of a batch, added to what the parameters have; its losses in float32, and what the log says.

    Args:
        precision: the context of a forward pass.
        scale: what a loss is multiplied by, in fp16.
        alone: the context of all parts but the last, in which ranks do not exchange gradients.
    """
    said: list[Losses] = []
    metrics: Mapping[str, Tensor] = {}
    for number, part in enumerate(in_parts(x, target, parts), 1):
        with alone() if number < parts else nullcontext():
            with precision():
                minimized, losses, metrics = Weighed.of(loss(*part))
            share = minimized if parts == 1 else minimized / parts
            (share if scale is None else scale(share)).backward()  # type: ignore[no-untyped-call]
        said.append(Losses(*(value.detach().float() for value in losses)))
    if parts == 1:
        return said[0], metrics
    return Losses(*(torch.stack(values).mean() for values in zip(*said, strict=True))), {}
