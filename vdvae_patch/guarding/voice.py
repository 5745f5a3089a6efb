"""What a guard says while the training runs: lines for a reader, numbers for a tracker."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import TextIO

from vdvae_patch.errors import tell
from vdvae_patch.guarding import ranks

Tracker = Callable[[Mapping[str, float]], object]


class Voice:
    """Rank 0 speaks for all.

    Args:
        file: where lines go; None for standard error, as it is when something is said.
        tracker: called with numbers; one that raises is not called again.
        every: how often, in steps.
    """

    def __init__(self, file: TextIO | None, tracker: Tracker | None, every: int) -> None:
        self.file, self.tracker, self.every = file, tracker, every
        self._told: set[str] = set()

    def say(self, text: str, *, of_all: bool = False) -> None:
        """`of_all`: what one rank alone may know."""
        if not ranks.is_main() and not of_all:
            return
        with contextlib.suppress(OSError, ValueError):  # a file that was closed must not end somebody's training
            tell(f"vdvae_patch guard: {text}", self.file or sys.stderr)

    def say_once(self, text: str) -> None:
        """Unless it was said before."""
        if text not in self._told:
            self._told.add(text)
            self.say(text)

    def track(self, step: int, loss: float, norm: float, limit: float, *, skipped: bool, unseen: str = "") -> None:
        """A skipped step is always tracked, an applied one now and then.

        Args:
            unseen: why the loss of an applied one may be NaN: it was not seen.
        """
        if self.tracker is None or (not skipped and step % self.every):
            return
        if not skipped and math.isnan(loss):
            why = f": {unseen}" if unseen else ""
            self.say_once(f"note: a loss that the tracker is given as nan is not your loop's, but was not seen{why}")
        values = {"step": step, "loss": loss, "grad_norm": norm, "clip": limit, "skipped": float(skipped)}
        try:
            self.tracker(values)
        except Exception as error:  # it is not ours, and must not end the training
            self.tracker = None
            self.say(f"the tracker raised {type(error).__name__}: {error}; it is not called again")
