"""Where the runs of a comparison are done: processes of this machine, or jobs that submitit hands to a cluster."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from vdvae_patch.errors import RunError
from vdvae_patch.train.interrupts import EXIT_RESUME

Executor = Literal["processes", "local", "slurm"]
"""`processes`: of this machine; `local`: submitit's own, also of this machine; `slurm`: jobs of a cluster."""

RESUBMISSIONS = 3
JOBS = "jobs"


class Running(Protocol):
    """A run under way; `subprocess.Popen` is one."""

    returncode: int | Any

    def poll(self) -> int | None:
        """The exit status, or None while it goes on."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self) -> int:
        """Until it has ended."""


Start = Callable[[Sequence[str], Sequence[str], Path, int], Running]
"""From the command that begins a run, the one that resumes it, its log and its threads to the run under way."""


def start_process(begin: Sequence[str], resume: Sequence[str], log: Path, threads: int) -> Running:
    """A process of this machine; it saves and ends when this one is gone, however that ended."""
    return _popen(begin, log, threads, _save_with_parent(os.getpid()))


def starter(executor: Executor, out: Path) -> Start:
    """How the runs are started; submitit's files go into `out/jobs`.

    Raises:
        RunError: submitit is not installed, or this machine has no SLURM.
    """
    if executor == "processes":
        return start_process
    try:
        import submitit
    except ImportError:
        raise RunError(
            f"--executor {executor}: submitit is not installed; install it with: pip install submitit"
        ) from None
    try:
        cluster = submitit.AutoExecutor(folder=out / JOBS, cluster=executor)
    except RuntimeError as error:
        raise RunError(f"--executor {executor}: {error}; use --executor local, or none") from None

    def start(begin: Sequence[str], resume: Sequence[str], log: Path, threads: int) -> Running:
        cluster.update_parameters(cpus_per_task=threads, timeout_min=24 * 60, name=log.parent.name)
        return Submitted(cluster, RunJob(begin, resume, log, threads))

    return start


class RunJob:
    """What submitit pickles: begins a run or, where there is one already, resumes it."""

    def __init__(self, begin: Sequence[str], resume: Sequence[str], log: Path, threads: int) -> None:
        self.begin, self.resume, self.log, self.threads = list(begin), list(resume), log.absolute(), threads
        self.folder = Path.cwd()
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The exit status of the run."""
        os.chdir(self.folder)
        begun = (self.log.parent / "config.toml").exists()
        self._child = _popen(self.resume if begun else self.begin, self.log, self.threads, _end_with_parent)
        return self._child.wait()

    def checkpoint(self) -> Any:
        """Called when the cluster is about to end the job: let the run save, then stand in the queue again."""
        import submitit

        if self._child is not None:
            self._child.terminate()
            self._child.wait()
        return submitit.helpers.DelayedSubmission(RunJob(self.begin, self.resume, self.log, self.threads))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_child": None}


class Submitted:
    """A job; one that is lost or killed, or that was told to save and come again, is submitted again and resumes."""

    def __init__(self, cluster: Any, job: RunJob) -> None:
        self.cluster, self.job = cluster, job
        self.returncode: int | Any = None
        self._left = RESUBMISSIONS
        self._ending = False
        self._submitted = cluster.submit(job)

    def poll(self) -> int | None:
        """The exit status, or None while it goes on."""
        if self.returncode is not None or not self._submitted.done():
            status: int | None = self.returncode
            return status
        status = self._result()
        lost = status is None or status < 0 or status == EXIT_RESUME
        if lost and self._left and not self._ending:
            self._left -= 1
            self._submitted = self.cluster.submit(self.job)
            return None
        self.returncode = EXIT_RESUME if status is None else status
        return self.returncode

    def terminate(self) -> None:
        """Cancel the job; the run goes on from its last checkpoint when the comparison does."""
        self._ending = True
        self._submitted.cancel()

    def wait(self) -> int:
        """Until it has ended."""
        self._ending = True
        self._submitted.wait()
        return self.poll() or 0

    def _result(self) -> int | None:
        """None for a job that was lost."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

        try:
            status: int = self._submitted.result()
        except (UncompletedJobError, FailedJobError, FailedSubmissionError):
            return None
        return status


def _popen(
    command: Sequence[str], log: Path, threads: int, at_start: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            process_group=0,  # an interrupt from the keyboard reaches this process alone, which lets the runs save
            preexec_fn=at_start,
        )


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _save_with_parent(parent: int) -> Callable[[], None] | None:
    """What is called in a new process: it is asked to save and to end when its parent is gone.

    A comparison that is killed would else leave runs behind that go on for hours and keep their folders from the same
    command. Linux has this alone; elsewhere the next command waits for them, and says for whom.
    """
    if _LIBC is None:
        return None

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before this was asked for
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _end_with_parent() -> None:
    """Called in a new process: it is killed when its parent is.

    A run that outlives its job would keep the folder's lock from the job that is submitted in its place. Linux has this
    alone; elsewhere nothing is done.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
