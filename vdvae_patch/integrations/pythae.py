"""The trainers of pythae: a callback that guards their training.

from vdvae_patch.integrations.pythae import Guard

BaseTrainer(model, data, training_config=config, callbacks=[Guard(out="guard")]).train()
TrainingPipeline(config, model)(data, callbacks=[Guard(out="guard")])

A trainer of pythae applies an update before it looks at the loss, and then ends the training at a NaN. The guard keeps
the update out, and shows the trainer the last loss that was finite, so that the training goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vdvae_patch.integrations.guarding import Guarded

if TYPE_CHECKING:

    class _Callback:
        """That of pythae."""

else:
    try:
        from pythae.trainers.training_callbacks import TrainingCallback as _Callback
    except ImportError as error:
        raise ImportError("vdvae_patch.integrations.pythae needs it: pip install pythae") from error


class Guard(Guarded, _Callback):
    """Guards the training of a model, see `vdvae_patch.guard`, whose arguments it takes."""

    def on_train_begin(self, training_config: Any, model: Any = None, **kwargs: Any) -> None:
        """Before the first batch."""
        self._put_on(model).shows_last_loss = True

    def on_train_end(self, training_config: Any, **kwargs: Any) -> None:
        """The training is over."""
        self._take_off()


__all__ = ["Guard"]
