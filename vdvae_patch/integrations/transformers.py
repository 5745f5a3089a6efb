"""The Trainer of transformers: a callback that guards its training.

from vdvae_patch.integrations.transformers import Guard

trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[Guard(out="guard")])

That Trainer hides a NaN in the loss that it logs (`logging_nan_inf_filter`, on by default): the guard tells of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vdvae_patch.guarding import Guard as LoopGuard
from vdvae_patch.guarding import guard

if TYPE_CHECKING:

    class _Callback:
        """That of transformers."""

else:
    try:
        from transformers import TrainerCallback as _Callback
    except ImportError as error:
        raise ImportError("vdvae_patch.integrations.transformers needs it: pip install transformers") from error


class Guard(_Callback):
    """Guards the training of a model, see `vdvae_patch.guard`, whose arguments it takes.

    Attributes:
        guard: the guard, from the start of the first training on.
    """

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.guard: LoopGuard | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Before the first batch."""
        self._take_off()  # of a training that was ended by something else
        self.guard = guard(model, **self.arguments)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The training is over."""
        self._take_off()

    def report(self) -> str:
        """See `vdvae_patch.Guard.report`."""
        return "no training was guarded yet" if self.guard is None else self.guard.report()

    def _take_off(self) -> None:
        if self.guard is not None:
            self.guard.remove()


__all__ = ["Guard"]
