"""A pass that is no step of the training: what the model keeps is afterwards what it was.

A look at the heads, an evaluation and a sample call the model as a step does. A host that counts its calls, or follows
what it has seen, would go on from another number because it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vdvae_patch.scanning.watching.untouched import contents_kept
from vdvae_patch.train.buffers import BuffersBefore


class Aside:
    """Buffers and attributes of a model, and its parameters without a gradient, to be put back as often as it is asked
    for.

    Args:
        model: as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = contents_kept(model, ())
        self._buffers = BuffersBefore(model)
        self._buffers.take()
        self._all = torch.ones(())

    def put_back(self) -> None:
        """As it was."""
        self._attributes()
        self._buffers.put_back(self._all, last=False)


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """What is done with the model in the block leaves no trace in what it keeps; what is trained is not looked at."""
    kept = Aside(model)
    try:
        yield
    finally:
        kept.put_back()
