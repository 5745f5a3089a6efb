"""What the callbacks of all frameworks that guard a training have in common."""

from __future__ import annotations

from typing import Any

from torch import nn

from vdvae_patch.guarding import Guard, guard


class Guarded:
    """A callback's guard, from the start of the first training on.

    Attributes:
        arguments: of `vdvae_patch.guard`.
        guard: the guard; None before the first training.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments
        self.guard: Guard | None = None

    def report(self) -> str:
        """See `vdvae_patch.Guard.report`."""
        return "no training was guarded yet" if self.guard is None else self.guard.report()

    def _put_on(self, model: nn.Module, **arguments: Any) -> Guard:
        self._take_off()  # of a training that was ended by something else
        self.guard = guard(model, **{**arguments, **self.arguments})
        return self.guard

    def _take_off(self) -> None:
        if self.guard is not None:
            self.guard.say_count()
            self.guard.remove()
