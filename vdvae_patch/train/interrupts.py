"""Leave in good order: SIGTERM, and the warning that a scheduler sends before its limit, end a run at the next step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_RESUME = 75
"""The exit status that means "saved; start me again with --resume" (EX_TEMPFAIL of sysexits.h)."""


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGUSR1 (SLURM's warning in `launch/`) while the block runs; needs the main thread."""
    request = StopRequest()
    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
