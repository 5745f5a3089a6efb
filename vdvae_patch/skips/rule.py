"""When an update is skipped: a loss is not finite somewhere, or the gradient norm is not below a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Cause = Literal["nan_rate", "nan_distortion", "nan_loss", "high_gradient", "loss_scale"]
"""Why an update was skipped. `nan_rate`, `nan_distortion`: not finite on some rank, where both terms are known;
`nan_loss`: the loss is not finite, where only their sum is; `high_gradient`: the norm was not below the threshold, or
not finite, or after clipping still above `LARGEST`; `loss_scale`: fp16 alone, the scaled gradient overflowed and the
scale is halved."""

LARGEST = math.sqrt(torch.finfo(torch.float32).max)
"""The norm of a gradient below which every optimizer can take it: 1.8e19. Squares of more are infinite in float32, and
Adam, which keeps an average of them, would never move those weights again."""

CAUSES: tuple[Cause | None, ...] = (None, "nan_rate", "nan_distortion", "high_gradient", "loss_scale")
"""By the code that the training step writes on the device; 0 is an update that was applied."""


def code(
    bad_losses: Sequence[Tensor],
    bad_gradient: Tensor,
    norm: Tensor,
    threshold: float,
    limit: Tensor | float = math.inf,
) -> Tensor:
    """0 for an update that is applied, k if the k-th loss is the first that is not finite, else the number behind these
    if a gradient is at fault; nothing waits for the device.

    Args:
        bad_losses: flags, 0 or 1, of the losses that are told apart.
        bad_gradient: a flag, set if a gradient was not finite on some rank before it was averaged.
        norm: of all gradients, before clipping; one that is not finite is never below the threshold.
        threshold: infinity for none.
        limit: what the norm is clipped to, if the update is applied; infinity for none.
    """
    good = (norm < threshold) & norm.isfinite() & (norm.clamp(max=limit) < LARGEST)
    found = torch.where(good & (bad_gradient == 0), 0.0, float(len(bad_losses) + 1))
    for number, bad in reversed(list(enumerate(bad_losses, 1))):
        found = torch.where(bad > 0, float(number), found)
    return found


def decided(
    bad_losses: Sequence[bool], bad_gradient: bool, norm: float, threshold: float, limit: float = math.inf
) -> int:
    """The same of numbers that are at hand."""
    first = next((number for number, bad in enumerate(bad_losses, 1) if bad), 0)
    if first:
        return first
    good = norm < threshold and math.isfinite(norm) and min(norm, limit) < LARGEST
    return 0 if good and not bad_gradient else len(bad_losses) + 1
