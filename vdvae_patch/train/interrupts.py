"""Leave in good order: SIGTERM, Ctrl-C, and a scheduler's warning before its limit, end a run at the next step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_RESUME = 75
"""The exit status that means "saved; start me again with --resume" (EX_TEMPFAIL of sysexits.h)."""


# SIGUSR1: SLURM's warning in `launch/`; SIGUSR2: that of jobs which submitit handed to it; SIGINT: Ctrl-C
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM, a scheduler's warnings and Ctrl-C while the block runs; needs the main thread.

    A second Ctrl-C does not wait for the step to end.
    """
    request = StopRequest()
    previous = {number: signal.signal(number, request) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
