"""Write checkpoints beside the training: what the device holds is copied at once, the disk is left to a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class BackgroundWriter:
    """One write at a time, in the order in which they were asked for.

    Args:
        beside: write in a thread; else at once, which is what a CPU that also trains is better off with.
    """

    def __init__(self, *, beside: bool) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint") if beside else None
        self._last: Future[None] | None = None

    def submit(self, state: Mapping[str, Any], write: Callable[[Mapping[str, Any]], None]) -> None:
        """Call `write` with `state` as it is now; the caller may change its tensors as soon as this returns.

        Raises:
            RunError: this write, or the one before it, failed.
        """
        self.wait()
        if self._pool is None:
            write(state)
        else:
            self._last = self._pool.submit(write, off_device(state))

    def wait(self) -> None:
        """Until the last write is done; raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()


def off_device(state: Any) -> Any:
    """A copy of nested dictionaries and lists with every tensor in main memory, sharing nothing with the original."""
    if any(tensor.is_cuda for tensor in _tensors(state)):
        copy = _copied(state)
        torch.cuda.synchronize()
        return copy
    return _copied(state)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value.detach().clone()
        # pinned memory is what lets all copies be under way at once
        target = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]
