"""The loss of a scanned batch at further draws of the noise, with a patch and without, each pair with the same numbers.

What a patch changes is a few σ, so that of a pair nearly all noise is in both losses, and their difference varies less
than either. Where it varies all the same, as of a posterior that is relative to its prior and decoded by a flow, one
draw says little of the mean. Draws are added until the mean's side of the bar is known, or there are twenty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from vdvae_patch.patching import PatchHandle
from vdvae_patch.scanning.watching.draws import drawn_anew

LEAST, MOST = 4, 20
_ERRORS = 3.0
"""Standard errors that the mean stays away from the bar; of four draws 95% of means keep within 3.2 of them."""


class Run(Protocol):
    """A scanned call."""

    def loss(self, model: nn.Module, call: Callable[..., object] | None = None) -> float | None:
        """The loss of the call, or of another one on the same batch."""


@dataclass
class Pairs:
    """Losses at further draws; those without a patch are computed once.

    Attributes:
        run: the call.
        without: for a while, the model as the patch is compared with.
    """

    model: nn.Module
    run: Run
    without: Callable[[PatchHandle], AbstractContextManager[None]]
    _before: dict[int, float] = field(default_factory=dict)
    _moves: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, handle: PatchHandle, first: float, bar: float) -> float:
        """The mean of after − before over the draws, in the loss's units; infinite where a loss with the patch is not
        finite, and the mean of the draws so far where one without it is not.

        Args:
            first: that of the draw which the scan had.
            bar: what the mean's magnitude is compared with.
        """
        moves = self._moves.setdefault(handle.record.number, [first])
        while len(moves) < LEAST or (len(moves) < MOST and not _is_clear(moves, bar)):
            seed = len(moves)
            before = self._loss_before(handle, seed)
            if not math.isfinite(before):
                break
            with drawn_anew(seed):
                after = _finite(self.run.loss(self.model, handle.loss))
            if not math.isfinite(after):
                return math.inf
            moves.append(after - before)
        return math.fsum(moves) / len(moves)

    def _loss_before(self, handle: PatchHandle, seed: int) -> float:
        if seed not in self._before:
            with self.without(handle), drawn_anew(seed):
                self._before[seed] = _finite(self.run.loss(self.model))
        return self._before[seed]


def _is_clear(moves: Sequence[float], bar: float) -> bool:
    """Whether the mean of some numbers is on one side of a bar, as far as their spread tells."""
    mean = math.fsum(moves) / len(moves)
    variance = math.fsum((move - mean) ** 2 for move in moves) / (len(moves) - 1)
    return abs(abs(mean) - bar) > _ERRORS * math.sqrt(variance / len(moves))


def _finite(loss: float | None) -> float:
    return math.inf if loss is None or not math.isfinite(loss) else loss
