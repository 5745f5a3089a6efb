"""The Trainer of transformers: a callback that guards its training.

from vdvae_patch.integrations.transformers import Guard

trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[Guard(out="guard")])

That Trainer hides a NaN in the loss that it logs (`logging_nan_inf_filter`, on by default): the guard tells of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vdvae_patch.integrations.guarding import Guarded

if TYPE_CHECKING:

    class _Callback:
        """That of transformers."""

else:
    try:
        from transformers import TrainerCallback as _Callback
    except ImportError as error:
        raise ImportError("vdvae_patch.integrations.transformers needs it: pip install transformers") from error


class Guard(Guarded, _Callback):
    """Guards the training of a model, see `vdvae_patch.guard`, whose arguments it takes."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Before the first batch."""
        self._put_on(model)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The training is over."""
        self._take_off()


__all__ = ["Guard"]
