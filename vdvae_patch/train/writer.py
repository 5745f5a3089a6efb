"""Write checkpoints beside the training: what the device holds is copied at once, the disk is left to a thread.

On a GPU a copy is queued behind what the training has asked for, and ahead of what it will ask for. So it has the
values of that moment, and only whoever reads it has to wait. An event that is recorded behind the copies, on the stream
that does them, says when they have arrived: of the device that has the tensors, whichever is the thread's current one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
            self._last = self._pool.submit(_write, begin_copy(state), write)

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


def _write(copy: Copy, write: Callable[[Mapping[str, Any]], None]) -> None:
    write(copy.arrived())


@dataclass(frozen=True)
class Copy:
    """A copy in main memory that is under way; nothing but `arrived` may read it.

    Attributes:
        events: of each GPU that tensors come from, one that is recorded behind their copies.
    """

    _value: Any
    events: tuple[torch.cuda.Event, ...] = ()

    def arrived(self) -> Any:
        """The copy, once all of it is there: waits for the GPUs that it comes from, and for no other."""
        for event in self.events:
            event.synchronize()
        return self._value


def begin_copy(state: Any) -> Copy:
    """Begin to copy nested dictionaries and lists, every tensor to main memory, sharing nothing with the original.

    The original may be changed as soon as this returns, on the streams that are the current ones now.
    """
    copy = _copied(state)
    devices = {tensor.device for tensor in _tensors(state) if tensor.is_cuda}
    return Copy(copy, tuple(_recorded(device) for device in sorted(devices, key=lambda device: device.index)))


def off_device(state: Any) -> Any:
    """A copy of nested dictionaries and lists with every tensor in main memory, sharing nothing with the original."""
    return begin_copy(state).arrived()


def _recorded(device: torch.device) -> torch.cuda.Event:
    with torch.cuda.device(device):  # an event is of the device that is the current one when it is recorded
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
    return event


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.is_cuda:
            # pinned memory is what lets all copies be under way at once
            target = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            return target.copy_(value.detach(), non_blocking=True)
        return value.detach().to("cpu", copy=True)
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
