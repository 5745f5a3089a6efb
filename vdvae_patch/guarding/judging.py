"""Loss and gradient norm of a step before its update, and what the skip rule makes of them: one wait for the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vdvae_patch.guarding import ranks
from vdvae_patch.guarding.passes import Window
from vdvae_patch.skips import rule
from vdvae_patch.skips.gradient_norm import gradient_norm
from vdvae_patch.skips.rule import Cause

CAUSES: tuple[Cause, ...] = ("nan_loss", "high_gradient")
"""By the skip rule's code, less one."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        loss: the sum of what was differentiated, each times its weight, without the loss scale; NaN if no loss was
            seen, or not all of it.
        cause: of a skip; None if the update may be applied.
        norm: of the gradient, the largest of all ranks.
        ranks: those whose loss is not finite, if there are several.
    """

    loss: float
    cause: Cause | None
    norm: float
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """By what a step is judged.

    Attributes:
        threshold: an update whose norm is not below it is skipped.
        limit: what the norm is clipped to, if the update is applied.
        loss_scale: what losses were multiplied by.
        gradient_scale: what the gradients still are multiplied by.
    """

    threshold: float
    limit: float = math.inf
    loss_scale: float = 1.0
    gradient_scale: float = 1.0


@torch.no_grad()
def look(window: Window, parameters: Sequence[Tensor], device: torch.device, bounds: Bounds) -> Look:
    """Look at a step whose gradients are there.

    Args:
        window: the passes of the step, and what of these parameters was differentiated.
        device: of the model.
    """
    device = parameters[0].device if parameters else device
    seen = (_alone if ranks.world() == 1 else _together)(window, parameters, device, bounds)
    unseen = not window.in_gradients or (window.partial and math.isfinite(seen.loss))
    if not unseen and ranks.world() == 1 and not math.isfinite(seen.norm) and math.isfinite(seen.loss):
        # of `grad`'s losses at one place the last one was taken; that of a NaN was not given up, but added up
        every = sum(float(value) for backward in window.backwards for value in backward.values) / bounds.loss_scale
        if not math.isfinite(every):
            return replace(seen, loss=every, cause=CAUSES[0])
    return replace(seen, loss=math.nan) if unseen else seen


def _alone(window: Window, parameters: Sequence[Tensor], device: torch.device, bounds: Bounds) -> Look:
    *losses, size = _numbers(window, parameters, device)
    loss, size = sum(losses) / bounds.loss_scale, size / bounds.gradient_scale
    code = rule.decided((not math.isfinite(loss),), False, size, bounds.threshold, bounds.limit)
    return Look(loss, CAUSES[code - 1] if code else None, size)


def _together(window: Window, parameters: Sequence[Tensor], device: torch.device, bounds: Bounds) -> Look:
    values = row(window, parameters, device)
    norm = values[-1]
    total = values[:-1].sum() if len(values) > 1 else torch.zeros((), device=device)
    mine = torch.stack([total / bounds.loss_scale, norm / bounds.gradient_scale])
    rows = ranks.everyone(mine)
    largest = rows[:, 1].amax()  # one norm, so that all clip to the same limit
    bad = ~rows[:, 0].isfinite()
    code = rule.code((bad.any(),), (~rows[:, 1].isfinite()).any(), largest, bounds.threshold, bounds.limit)
    loss, size, found, *flags = torch.cat([mine[:1], largest[None], code[None], bad.float()]).tolist()
    return Look(
        loss,
        CAUSES[int(found) - 1] if found else None,
        size,
        tuple(n for n, flag in enumerate(flags) if flag),
    )


@torch.no_grad()
def row(window: Window, parameters: Sequence[Tensor], device: torch.device) -> Tensor:
    """All that was differentiated, and the gradient norm, on the device."""
    norm = gradient_norm([p.grad for p in parameters if p.grad is not None], device)
    return _stacked([*(value.to(device) for value in window.values), norm], device)


def losses(window: Window, loss_scale: float, device: torch.device) -> tuple[float, bool]:
    """The sum of what was differentiated, without the loss scale; and whether it is NaN on some rank."""
    loss = sum(map(float, window.values)) / loss_scale
    return loss, any_rank(math.isnan(loss), device)


def norm_of_all(gradients: Sequence[Tensor], device: torch.device) -> float:
    """The largest norm of all ranks, NaN if one of them is; of the gradients as a loss scaler leaves them where it lets
    no step be: divided by its scale, with what is not finite in them. Infinite also where none is left to be seen."""
    norm = gradient_norm(gradients, device).reshape(1) if gradients else torch.full((1,), math.inf, device=device)
    largest = float(ranks.everyone(norm.float()).amax())
    return math.inf if math.isfinite(largest) else largest


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether it is so on some rank; all ranks ask."""
    return bool(ranks.everyone(torch.tensor([float(flag)], device=device)).any())


def _numbers(window: Window, parameters: Sequence[Tensor], device: torch.device) -> list[float]:
    """The row as numbers: one read of an accelerator; on a CPU, where a read is no wait, without the row."""
    if device.type != "cpu":
        return list(map(float, row(window, parameters, device).tolist()))
    norm = gradient_norm([p.grad for p in parameters if p.grad is not None], device)
    return [*map(float, window.values), float(norm)]


def _stacked(values: Sequence[Tensor], device: torch.device) -> Tensor:
    """One row, of the widest of their types."""
    dtype = torch.float64 if any(value.dtype == torch.float64 for value in values) else torch.float32
    return torch.stack([value.to(device, dtype) for value in values])
