"""Clip near the usual norm, which nobody knows beforehand."""

from __future__ import annotations

import math
from collections import deque

from vdvae_patch.errors import InvalidValueError

WARM_UP = 20
"""How many updates go by before anything is clipped."""


class UsualNorm:
    """A limit that follows the norms of the updates that were applied: a quantile of the last of them.

    Args:
        quantile: of the norms, before clipping.
        window: how many of them.
    """

    def __init__(self, quantile: float = 0.9, window: int = 500) -> None:
        if not 0 < quantile <= 1 or window < WARM_UP:
            raise InvalidValueError(
                f"quantile must be above 0 and at most 1, not {quantile:g}, and window at least {WARM_UP}, not {window}"
            )
        self.quantile = quantile
        self._norms: deque[float] = deque(maxlen=window)

    @property
    def limit(self) -> float:
        """The norm to clip at; infinity while it warms up."""
        if len(self._norms) < WARM_UP:
            return math.inf
        return sorted(self._norms)[math.ceil(self.quantile * len(self._norms)) - 1]

    def add(self, norm: float) -> None:
        """The norm of an update that was applied, before clipping."""
        self._norms.append(norm)

    def forget_last(self) -> None:
        """The update of the last norm was not applied after all."""
        if self._norms:
            self._norms.pop()

    def state(self) -> list[float]:
        """The norms, the oldest first."""
        return list(self._norms)

    def restore(self, norms: list[float]) -> None:
        """Take up what `state` gave."""
        self._norms.clear()
        self._norms.extend(norms)
