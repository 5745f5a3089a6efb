"""The buffers of a model as they were before a step, for one whose update is skipped: it was then never done.

A batch norm's running statistics take in every batch that comes by. One that was not finite stays in them for ever: the
weights are spared by the skipped update, training goes on with the statistics of its own batches, and every evaluation
from then on is NaN. Parameters without a gradient are buffers here: what no optimizer moves, such as a codebook that
follows its codes, or running means, a model may move by itself.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from vdvae_patch.untrained import Places, places_of_untrained


class BuffersBefore:
    """A copy of a model's buffers, taken before a step; put back on the device, so that nothing waits for the host.

    What is kept is where they are and not the tensors: a module may put another tensor in place of its buffer. No
    counter is asked which of them has changed, since kernels write running statistics without raising any.

    Args:
        model: the buffers of all its modules, such as they are when a step begins; and its parameters that are
            `untrained` now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._untrained = untrained(model)
        self._own: list[Tensor] = []
        self._places: list[tuple[dict[str, Tensor | None], str]] = []
        self._copies: list[Tensor] = []
        self._is_taken = False

    @torch.no_grad()
    def take(self) -> None:
        """Copy them as they are now, into the memory of the last copy if they are the same tensors."""
        slots = [
            (module._buffers, name, buffer)
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and can_be_copied(buffer)
        ]
        slots += [
            (owner, name, parameter)
            for owner, name in self._untrained
            if (parameter := owner.get(name)) is not None and can_be_copied(parameter)
        ]
        own = [buffer for _, _, buffer in slots]
        if len(own) != len(self._own) or any(new is not old for new, old in zip(own, self._own, strict=True)):
            self._own, self._places = own, [(owner, name) for owner, name, _ in slots]
            self._copies = [buffer.detach().clone() for buffer in own]
        elif own:
            torch._foreach_copy_(self._copies, own)
        self._is_taken = True

    @torch.no_grad()
    def put_back(self, skip: Tensor, *, last: bool = True) -> None:
        """As they were where `skip`, a scalar, is not 0; a choice of whole values, so that no arithmetic sees a NaN.

        Without a `take` since the last time nothing is done, unless that was not the `last`.
        """
        if not self._is_taken:
            return
        self._is_taken = not last
        for (owner, name), copy in zip(self._places, self._copies, strict=True):
            now = owner.get(name)
            if now is not None and now.shape == copy.shape and now.dtype == copy.dtype and now.device == copy.device:
                now.copy_(torch.where(skip.to(now.device) != 0, copy, now))


_in_average: weakref.WeakKeyDictionary[nn.Module, Places] = weakref.WeakKeyDictionary()


def untrained(model: nn.Module) -> Places:
    """Where the parameters without a gradient are, of a model of which others have one; of an average, whose parameters
    all have none, those that are so in its model, if that was `averaged_by` it."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return _in_average.get(model, [])
    return places_of_untrained(model.modules())


def named_untrained(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The `untrained` parameters that have values, by their names in the model, each one once."""
    own = {(id(owner), name) for owner, name in untrained(model)}
    return [
        (f"{path}.{name}" if path else name, parameter)
        for path, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and (id(module._parameters), name) in own and can_be_copied(parameter)
    ]


def averaged_by(model: nn.Module, average: nn.Module) -> None:
    """Note of which model another one of the same build is the average: what is not trained in it is no average."""
    own = zip(model.modules(), average.modules(), strict=True)
    others = {id(one._parameters): other._parameters for one, other in own}
    _in_average[average] = [(others[id(places)], name) for places, name in untrained(model)]


def can_be_copied(buffer: Tensor) -> bool:
    """Whether it can be written to: not a view that repeats one number, nor what has no values."""
    dense = buffer.layout is torch.strided and not buffer.is_meta
    return dense and not any(
        stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True)
    )
