"""`--accumulate N`: the gradient of a batch in N parts, one after the other, for a batch that does not fit at once.

    ∇ mean over B images = 1/N · Σ over the parts of ∇ mean over B/N images

The parts are of equal size, so that this is the gradient of the whole batch up to rounding, but for a batch norm, which
normalizes each part by itself (`shares_of_batch_norms`), and for what a model counts or follows in each pass
(`moved_in_each_part`). The parts draw one behind the other from the noise of the step. Clipping, skip rule, update and
average see the sum alone: one decision an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.train.buffers import named_untrained
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


def shares_of_batch_norms(model: nn.Module, batch: int, parts: int, ranks: int) -> str:
    """That batch norms see a share of the batch, so that the update is not that of the whole; empty if they see it all.

    Args:
        batch: images a step, over all ranks.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    apart = [module for module in norms if parts > 1 or not isinstance(module, nn.SyncBatchNorm)]
    if not apart or parts * ranks == 1:
        return ""
    why = " on ".join([*([f"--accumulate {parts}"] if parts > 1 else []), *([f"{ranks} ranks"] if ranks > 1 else [])])
    twice = f", and move their running statistics {parts} times an update" if parts > 1 else ""
    return (
        f"{why}: the model's batch norms ({len(apart)}) take the statistics of {batch // (parts * ranks)} images, "
        f"a share of the batch of {batch}{twice}; the update is not that of the whole batch at once"
    )


def buffers_but_means(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what is not trained, and of buffers but a batch norm's, of which `shares_of_batch_norms` tells."""
    norms = {id(b) for module in model.modules() if isinstance(module, _BatchNorm) for b in module.buffers()}
    own = (*model.named_buffers(), *named_untrained(model))
    return {name: values.detach().clone() for name, values in own if id(values) not in norms}


def moved_in_each_part(before: Mapping[str, Tensor], model: nn.Module, outside: Iterable[str], parts: int) -> str:
    """That a model moves something in each pass, and so `parts` times an update; empty if it moves nothing.

    Args:
        before: its buffers, and what it has not trained, before the update; see `buffers_but_means`.
        outside: the names of what it has moved outside of its `state_dict`.
    """
    now = buffers_but_means(model)
    moved = (name for name in now if name in before and not _same(before[name], now[name]))
    names = list(dict.fromkeys([*outside, *moved]))
    if parts == 1 or not names:
        return ""
    some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return (
        f"--accumulate {parts}: the model moves {some} in each pass, {parts} times an update; what it counts, follows "
        "or schedules by that is not what it is with the whole batch at once"
    )


_NAMED = 5


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one != one)).all())


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
