"""What a CUDA graph does, on a CPU: operations are recorded with the tensors that they touch, and done again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vdvae_patch.train.graphed import Metrics


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in _written(func, args, kwargs):
            key = tensor.untyped_storage()._cdata
            if key not in self.made and key not in self.before:
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before[key] = whole, whole.clone()
        out = func(*args, **kwargs)
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        self.made |= {t.untyped_storage()._cdata for t in _tensors(out)} - given
        self.calls.append((func, args, kwargs, out))
        return out


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += _tensors(value)
    return found


class RecordedGraph:
    """A `Capture`: a replay runs no line of the step, reads what lies where it was recorded, and writes there."""

    def __init__(self) -> None:
        self.replays = 0
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def warm_up(self, work: Callable[[], Metrics]) -> Metrics:
        return work()

    def capture(self, work: Callable[[], Metrics]) -> Metrics:
        state, recorder = torch.get_rng_state(), _Recorder()
        try:
            with recorder:
                found = work()
        finally:  # a capture computes nothing
            torch.set_rng_state(state)
            for whole, kept in recorder.before.values():
                with torch.no_grad():
                    whole.copy_(kept)
        self._calls = recorder.calls
        return found

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self._calls:
            result = func(*args, **kwargs)
            given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
            for kept, new in zip(_tensors(out), _tensors(result), strict=True):
                if kept.untyped_storage()._cdata not in given:
                    kept.copy_(new)
