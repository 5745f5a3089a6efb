"""Which tensors of a call have time in front of the batch, `[T, B, ...]`, as PyTorch's recurrent layers and attention
take them unless they are told `batch_first=True`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from vdvae_patch.torch_versions import takes_hooks

Lengths = set[tuple[int, int]]
"""(T, B) of the sequences that were seen."""


@contextmanager
def watched(model: nn.Module) -> Iterator[Lengths]:
    """Those that such a layer of the model takes while the block runs."""
    found: Lengths = set()
    layers = (m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.MultiheadAttention)) and not m.batch_first)
    handles = [layer.register_forward_pre_hook(partial(_see, found)) for layer in layers if takes_hooks(layer)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _see(found: Lengths, module: nn.Module, args: tuple[Any, ...]) -> None:
    if args and isinstance(args[0], Tensor) and args[0].dim() == 3:
        found.add((args[0].shape[0], args[0].shape[1]))


def batch_dim(value: Tensor, lengths: Lengths) -> int:
    """The dimension of the batch: the second of a tensor that begins as such a sequence does, and else the first."""
    return int(value.dim() > 2 and (value.shape[0], value.shape[1]) in lengths)
