"""Leave in good order: SIGTERM, Ctrl-C, a lost terminal and a scheduler's warning end a run at the next step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_RESUME = 75
"""The exit status that means "saved; start me again with --resume" (EX_TEMPFAIL of sysexits.h)."""


# SIGUSR1: SLURM's warning in `launch/`; SIGUSR2: that of jobs which submitit handed to it; SIGINT: Ctrl-C; SIGHUP: a
# terminal was closed, or a connection to it was lost
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


class StoppedError(BaseException):
    """A signal came where the run need not wait for the end of a step.

    As a KeyboardInterrupt it is no `Exception`: what a host's own code catches must not swallow it.
    """


class StopRequest:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        if self._at_once:
            self._at_once = False  # what is done on the way out is not interrupted again
            raise StoppedError(self.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Do not wait for whoever asks next whether to stop: there is nothing to save.

        Raises:
            StoppedError: when the signal comes, or at the beginning, where it has come before.
        """
        if self.signal is not None:
            raise StoppedError(self.signal)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM, a scheduler's warnings, Ctrl-C and SIGHUP while the block runs; needs the main thread.

    A second Ctrl-C does not wait for the step to end. A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """
    request = StopRequest()
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {number: signal.signal(number, request) for number in _SIGNALS if number not in ignored}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
