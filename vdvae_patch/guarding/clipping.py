"""What a guard clips gradients to: a number, or the usual norm of each optimizer's own updates."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from vdvae_patch.skips.usual_norm import UsualNorm


class Clipping:
    """Of all optimizers of a model: an adversarial autoencoder has two, whose usual norms have nothing to do with each
    other.

    Args:
        clip: a norm, `"auto"` for the usual norm, None for no clipping.
    """

    def __init__(self, clip: float | Literal["auto"] | None) -> None:
        self.clip = clip
        self._usual: weakref.WeakKeyDictionary[Optimizer, UsualNorm] = weakref.WeakKeyDictionary()
        self._before: list[list[float]] = []

    def limit(self, optimizer: Optimizer) -> float:
        """What the gradient's norm is brought down to; infinity for no clipping."""
        if isinstance(self.clip, str):
            return float(self._usual_of(optimizer).limit)
        return math.inf if self.clip is None else self.clip

    def apply(self, optimizer: Optimizer, parameters: Sequence[Tensor], norm: float, limit: float) -> None:
        """Of an update that is applied: bring its gradient down to the limit, and remember its norm."""
        if isinstance(self.clip, str):
            self._usual_of(optimizer).add(torch.tensor(norm, dtype=torch.float64), torch.tensor(True))
        if norm > limit:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, limit / norm)

    def forget_last(self, optimizer: Optimizer) -> None:
        """The last update was not applied after all."""
        if optimizer in self._usual:
            self._usual[optimizer].forget_last()

    def norms(self) -> list[list[float]]:
        """Of the last updates, a list an optimizer in the order of their first steps."""
        return [usual.norms() for usual in self._usual.values()] + self._before

    def remember(self, norms: Sequence[Sequence[float]]) -> None:
        """Take up what `norms` gave; optimizers that have not stepped yet find theirs later."""
        self._before = [list(map(float, known)) for known in norms]
        for usual in self._usual.values():
            usual.remember(self._before.pop(0) if self._before else [])

    def _usual_of(self, optimizer: Optimizer) -> UsualNorm:
        if optimizer not in self._usual:
            self._usual[optimizer] = usual = UsualNorm()
            if self._before:
                usual.remember(self._before.pop(0))
        return self._usual[optimizer]


_ALIKE, _OFTEN = 1e-4, 5


class ClippedBefore:
    """Whether a loop clips gradients before the guard sees them, at a norm that is then the largest again and again.

    Args:
        clip, threshold: the guard's own, which then see what is left.
    """

    def __init__(self, clip: float | Literal["auto"] | None, threshold: float | None) -> None:
        self._clip, self._threshold = clip, threshold
        self._largest, self._count = 0.0, 0

    def said(self, norm: float) -> str:
        """Of the norm of an update that is applied: what there is to say, or nothing."""
        if self._clip is None and self._threshold is None:
            return ""
        if norm > self._largest * (1 + _ALIKE):
            self._count = 0
        self._count += norm >= self._largest * (1 - _ALIKE)
        self._largest = max(self._largest, norm)
        without = [f"threshold={self._threshold:g}"] if (self._threshold or 0) > self._largest else []
        if self._clip == "auto" or (self._clip or 0) > self._largest:
            without.append(f"clip={self._clip!r}")
        if self._count < _OFTEN or not without or not norm:
            return ""
        idle = " and ".join(without)
        return (
            f"the gradient's norm was {self._largest:.4g} in {_OFTEN} updates and never larger: the loop seems to clip "
            f"it there, before the guard sees it, so that {idle} {'has' if len(without) == 1 else 'have'} nothing to "
            "do; leave the clipping to the guard"
        )
