"""Notice a rank that is gone, and end with its name.

A collective operation waits for every rank, and for minutes. Here each rank says every half second, in the store where
the ranks met, that it lives, and listens to its right-hand neighbour. A slow rank is not a dead one: what counts is
this thread's sign and not the progress of the training. Time is counted in ticks of one's own: a run that is stopped
as a whole and continued has missed nothing.

A rank whose training hangs while its sign of life goes on holds up all of them. No rank can tell a step that hangs from
one that is slow, but all can tell that none of them has got on: after `HANG_SECONDS`, or twenty times the longest pause
so far if that is more, each says in which line its training stands, and they end. `VDVAE_PATCH_HANG_SECONDS` sets
another limit.

Where the network breaks, the store does not answer, and a call of it does not return. A second thread watches for that.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable

from torch.distributed.distributed_c10d import Store

from vdvae_patch.errors import visible

TICK_SECONDS = 0.5
SILENCE_SECONDS = 14.0
SILENT_TICKS = SILENCE_SECONDS / TICK_SECONDS
JOIN_SECONDS = 5.0
HANG_SECONDS = 600.0
_PAUSES = 20
EXIT_LOST = 2

_VERDICT = "vdvae_patch/verdict"


class Heartbeat:
    """Threads beside the training of one rank.

    Args:
        store: where the ranks met; the threads have a connection of their own.
        where: address and port of that store, for messages.
        on_loss: called with a message when a rank is gone; prints it and ends this process unless given.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        where: str,
        *,
        on_loss: Callable[[str], None] | None = None,
    ) -> None:
        self.rank, self.size, self.where = rank, size, where
        self.on_loss = on_loss or _end
        self.verdict: str | None = None
        self._store: Store = store.clone()  # type: ignore[attr-defined]  # missing in the stubs
        self._known = threading.Event()
        self._leave = threading.Event()
        self._answers = 0
        self._marks = 0
        self._hang_ticks = _hang_seconds() / TICK_SECONDS
        self._main = threading.get_ident()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("heartbeat", self._run), ("heartbeat-guard", self._guard))
        ]
        for thread in self._threads:
            thread.start()

    def mark(self) -> None:
        """Say that the training has got on; called by its thread, once a step or more often."""
        self._marks += 1

    def close(self) -> None:
        """Say that this rank is done, and stop; a rank that is done is not missed."""
        self._leave.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)  # and no longer: a store that cannot be reached does not answer

    def accuse(self, message: str) -> None:
        """Tell all ranks why this one ends."""
        if not self._store.check([_VERDICT]):
            self._store.set(_VERDICT, f"rank {self.rank} failed: {message}")
        # the store may live in this process: the others need a moment to read it
        self._leave.wait(3 * TICK_SECONDS)

    def wait_for_verdict(self) -> str:
        """Which rank is gone, as far as it can be told in time; for a rank whose connection broke."""
        self.on_loss = lambda message: None  # the caller ends the process
        self._known.wait(SILENCE_SECONDS + 4 * TICK_SECONDS)
        return self.verdict or f"a connection between ranks broke (they met at {self.where})"

    def _run(self) -> None:
        neighbour = (self.rank + 1) % self.size
        beats, heard, silent = 0, "", 0
        marks, still, longest = 0, 0, 0
        try:
            while not self._leave.is_set():
                beats += 1
                self._store.set(_key(self.rank), str(beats))
                if self._store.check([_VERDICT]):
                    self._conclude(self._store.get(_VERDICT).decode())
                    return
                news = self._store.get(_key(neighbour)).decode() if self._store.check([_key(neighbour)]) else ""
                # one that was never heard may still be on its way: how long it may take is for the meeting to say
                silent = silent + 1 if heard and news == heard != "done" else 0
                heard = news
                if silent > SILENT_TICKS:
                    self._store.set(_VERDICT, self._silent(neighbour))
                if self._marks != marks:
                    if self._hangs(still, longest):  # it had said that it stands still
                        self._store.set(_stuck(self.rank), "")
                    longest = max(longest, still if marks > 1 else 0)
                    marks, still = self._marks, 0
                still += 1
                if marks > 1 and self._hangs(still, longest):  # not in the first step: a model may take long to compile
                    self._store.set(_stuck(self.rank), self._place())
                    self._judge()
                self._answers += 1
                self._leave.wait(TICK_SECONDS)
            self._store.set(_key(self.rank), "done")
        except RuntimeError:  # of the store: its process, which is rank 0 or its launcher, is gone
            if not self._leave.is_set():
                self._conclude(f"rank 0 or its launcher is gone: no answer from {self.where}")

    def _guard(self) -> None:
        seen, silent = -1, 0
        while not self._leave.wait(TICK_SECONDS) and not self._known.is_set():
            silent = 0 if self._answers != seen else silent + 1
            seen = self._answers
            if silent > SILENT_TICKS:
                self._conclude(
                    f"rank 0 or its launcher cannot be reached: no answer from {self.where} for {SILENCE_SECONDS:g} s"
                )

    def _hangs(self, still: int, longest: int) -> bool:
        return still > max(self._hang_ticks, _PAUSES * longest)

    def _place(self) -> str:
        """Where the training's thread is: the innermost line of it."""
        frame = sys._current_frames().get(self._main)
        if frame is None:
            return "nowhere: its thread has ended"
        where = traceback.extract_stack(frame)[-1]
        return f"{where.filename}:{where.lineno} in {where.name}"

    def _judge(self) -> None:
        """End all, if all ranks stand still."""
        keys = [_stuck(rank) for rank in range(self.size)]
        if not self._store.check(keys) or self._store.check([_VERDICT]):
            return
        places = [self._store.get(key).decode() for key in keys]
        if all(places):
            said = "; ".join(f"rank {rank} is at {place}" for rank, place in enumerate(places))
            self._store.set(_VERDICT, f"no rank has got on for {self._hang_ticks * TICK_SECONDS:g} s or more: {said}")

    def _silent(self, rank: int) -> str:
        return f"rank {rank} is gone: no sign of it for {SILENCE_SECONDS:g} s at {self.where}"

    def _conclude(self, message: str) -> None:
        self.verdict = message
        self._known.set()
        if not self._leave.is_set():
            # time for the training thread to notice by itself, and to end in good order
            self._leave.wait(4 * TICK_SECONDS)
        if not self._leave.is_set():
            self.on_loss(f"{message}; rank {self.rank} ends too")


def _hang_seconds() -> float:
    try:
        return float(os.environ.get("VDVAE_PATCH_HANG_SECONDS", HANG_SECONDS))
    except ValueError:
        return HANG_SECONDS


def _stuck(rank: int) -> str:
    return f"vdvae_patch/stuck/{rank}"


def _key(rank: int) -> str:
    return f"vdvae_patch/alive/{rank}"


def _end(message: str) -> None:
    # sys.exit would end this thread only, and the main thread waits in an operation that nobody will join
    print(visible(f"vdvae-patch: error: {message}; go on with --resume"), file=sys.stderr, flush=True)
    os._exit(EXIT_LOST)
