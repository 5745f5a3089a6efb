"""The trainers of pythae: a callback that guards their training.

from vdvae_patch.integrations.pythae import Guard

BaseTrainer(model, data, training_config=config, callbacks=[Guard(out="guard")]).train()
TrainingPipeline(config, model)(data, callbacks=[Guard(out="guard")])

A trainer of pythae applies an update before it looks at the loss, and then ends the training at a NaN. The guard keeps
the update out, and shows the trainer the last loss that was finite, so that the training goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vdvae_patch.guarding import Guard as LoopGuard
from vdvae_patch.guarding import guard

if TYPE_CHECKING:

    class _Callback:
        """That of pythae."""

else:
    try:
        from pythae.trainers.training_callbacks import TrainingCallback as _Callback
    except ImportError as error:
        raise ImportError("vdvae_patch.integrations.pythae needs it: pip install pythae") from error


class Guard(_Callback):
    """Guards the training of a model, see `vdvae_patch.guard`, whose arguments it takes.

    Attributes:
        guard: the guard, from the start of the first training on.
    """

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.guard: LoopGuard | None = None

    def on_train_begin(self, training_config: Any, model: Any = None, **kwargs: Any) -> None:
        """Before the first batch."""
        self._take_off()  # of a training that was ended by something else
        self.guard = guard(model, **self.arguments)
        self.guard.shows_last_loss = True

    def on_train_end(self, training_config: Any, **kwargs: Any) -> None:
        """The training is over."""
        self._take_off()

    def report(self) -> str:
        """See `vdvae_patch.Guard.report`."""
        return "no training was guarded yet" if self.guard is None else self.guard.report()

    def _take_off(self) -> None:
        if self.guard is not None:
            self.guard.remove()


__all__ = ["Guard"]
