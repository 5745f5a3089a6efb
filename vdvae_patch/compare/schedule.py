"""Do runs side by side, each in a process of its own; one that fails does not stop the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vdvae_patch.compare.executor import Running, Start, start_process
from vdvae_patch.compare.plan import Comparison, PlannedRun
from vdvae_patch.compare.states import LOG, RunState, state_of
from vdvae_patch.errors import RunError
from vdvae_patch.train.interrupts import EXIT_RESUME, StopRequest

POLL_SECONDS = 0.2
LOG_LINES = 12

Ending = Literal["finished", "stopped", "interrupted", "failed"]


@dataclass(frozen=True)
class Ended:
    """How the process of a run ended. `message` is the end of its log, for one that failed."""

    run: PlannedRun
    how: Ending
    seconds: float
    message: str = ""


class Watcher(Protocol):
    """Who is told what happens."""

    def begun(self, run: PlannedRun, state: RunState) -> None:
        """A process was started."""

    def ended(self, ended: Ended) -> None:
        """A process ended."""

    def tick(self, active: Sequence[PlannedRun]) -> None:
        """Time has passed."""


@dataclass
class _Job:
    run: PlannedRun
    process: Running
    started: float


def execute(
    comparison: Comparison,
    watcher: Watcher,
    stop: StopRequest,
    *,
    start: Start = start_process,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Ended]:
    """Do the runs that are neither finished nor stopped, `jobs` at a time; those that were begun are resumed.

    After a request to stop no run is begun, and those under way are asked to save and end.
    """
    waiting = deque(run for run in comparison.runs if state_of(run) not in ("finished", "stopped"))
    active: list[_Job] = []
    done: list[Ended] = []
    asked = False
    try:
        while active or (waiting and not stop):
            while waiting and len(active) < comparison.jobs and not stop:
                job = _begin(waiting.popleft(), comparison.threads, watcher, clock, start)
                if isinstance(job, _Job):
                    active.append(job)
                elif job is not None:
                    done.append(job)
            if stop and not asked:
                asked = True
                _terminate(active)
            for job in [job for job in active if job.process.poll() is not None]:
                active.remove(job)
                done.append(_ended(job, clock()))
                watcher.ended(done[-1])
            watcher.tick([job.run for job in active])
            if active:
                sleep(POLL_SECONDS)
    except BaseException:
        _terminate(active)
        for job in active:
            job.process.wait()
        raise
    return done


def _begin(
    run: PlannedRun, threads: int, watcher: Watcher, clock: Callable[[], float], start: Start
) -> _Job | Ended | None:
    """The run under way, or why it is not; None if somebody else has ended it since the comparison began."""
    try:
        state = state_of(run)
        run.folder.mkdir(parents=True, exist_ok=True)
    except (RunError, OSError) as error:
        ended = Ended(run, "failed", 0.0, str(error))
        watcher.ended(ended)
        return ended
    if state in ("finished", "stopped"):
        return None
    resume = run.command(resume=True)
    begin = resume if state == "begun" else run.command(resume=False)
    process = start(begin, resume, run.folder / LOG, threads)
    watcher.begun(run, state)
    return _Job(run, process, clock())


def _ended(job: _Job, now: float) -> Ended:
    seconds = now - job.started
    status = job.process.returncode
    if status == 0:
        return Ended(job.run, "finished", seconds)
    if status == EXIT_RESUME:
        return Ended(job.run, "interrupted", seconds)
    if status > 0 and state_of(job.run) == "stopped":
        return Ended(job.run, "stopped", seconds)
    how = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
    return Ended(job.run, "failed", seconds, f"{how}; the end of {job.run.folder / LOG}:\n{_tail(job.run)}")


def _tail(run: PlannedRun) -> str:
    lines = (run.folder / LOG).read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-LOG_LINES:])


def _terminate(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.process.terminate()
