"""Runs side by side: real processes, of scripts in place of training."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from compare_samples import make_plan, write_run
from rich.console import Console

from vdvae_patch.compare.plan import Comparison, PlannedRun
from vdvae_patch.compare.run import hold, wait_for_others
from vdvae_patch.compare.schedule import Ended, execute
from vdvae_patch.compare.states import RunState
from vdvae_patch.errors import RunError
from vdvae_patch.skips.records import checked_line, read
from vdvae_patch.train.folder import open_folder
from vdvae_patch.train.interrupts import StopRequest

BEGIN_AND_END = "log = open('events', 'a'); log.write('begin '); log.flush(); log.write('end '); log.close()"
# each of two waits until the other has begun
MEET = "import pathlib; mine, other = {names}; mine.touch()\nwhile not other.exists(): pass"
# the signal is blocked before it can come, so that none is lost between "ready" and the wait for it
SAVE_WHEN_ASKED = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pathlib.Path('ready').touch()
signal.sigwait([signal.SIGTERM])
pathlib.Path('saved').touch()
sys.exit(75)
"""


@dataclass(frozen=True)
class Scripted(PlannedRun):
    """A run whose process does something else than train."""

    script: str = "pass"

    def command(self, *, resume: bool) -> list[str]:
        return [sys.executable, "-c", self.script, *(["--resume"] if resume else [])]


@dataclass
class Notes:
    """A watcher that remembers, and calls back as time passes."""

    on_tick: Callable[[], None] = lambda: None
    begun_runs: list[tuple[str, RunState]] = field(default_factory=list)
    ended_runs: list[Ended] = field(default_factory=list)

    def begun(self, run: PlannedRun, state: RunState) -> None:
        self.begun_runs.append((run.label, state))

    def ended(self, ended: Ended) -> None:
        self.ended_runs.append(ended)

    def tick(self, active: Sequence[PlannedRun]) -> None:
        self.on_tick()


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scripted(out: Path, *scripts: str, jobs: int = 1, threads: int = 1) -> Comparison:
    """One run a script, with the seeds 0, 1, ..."""
    made = make_plan(out, "vanilla", ",".join(str(seed) for seed in range(len(scripts))))
    runs = tuple(Scripted(run.config, run.flags, script) for run, script in zip(made.runs, scripts, strict=True))
    return replace(made, runs=runs, jobs=jobs, threads=threads)


def do(comparison: Comparison, watcher: Notes | None = None, stop: StopRequest | None = None) -> list[Ended]:
    # a request that was not made is false, and must still be the one that is looked at
    return execute(comparison, watcher or Notes(), StopRequest() if stop is None else stop, sleep=lambda _: None)


def test_with_one_job_a_run_begins_after_the_one_before_has_ended(tmp_path: Path) -> None:
    do(scripted(tmp_path, *[BEGIN_AND_END] * 3))
    assert Path("events").read_text() == "begin end " * 3


def test_with_two_jobs_two_runs_go_on_side_by_side(tmp_path: Path) -> None:
    names = ("(pathlib.Path('a'), pathlib.Path('b'))", "(pathlib.Path('b'), pathlib.Path('a'))")
    ended = do(scripted(tmp_path, *(MEET.format(names=pair) for pair in names), jobs=2))
    assert [end.how for end in ended] == ["finished", "finished"]


def test_each_process_is_given_its_share_of_the_cores(tmp_path: Path) -> None:
    do(scripted(tmp_path, "import os; open('threads', 'w').write(os.environ['OMP_NUM_THREADS'])", threads=3))
    assert Path("threads").read_text() == "3"


def test_a_run_that_fails_is_reported_with_the_end_of_its_log_while_the_others_go_on(tmp_path: Path) -> None:
    broken = "import sys; print('loading'); print('no space left', file=sys.stderr); sys.exit(3)"
    ended = do(scripted(tmp_path, broken, BEGIN_AND_END))
    assert [end.how for end in ended] == ["failed", "finished"]
    assert "exit status 3" in ended[0].message
    assert "no space left" in ended[0].message
    assert str(tmp_path / "vanilla-seed0" / "log.txt") in ended[0].message


def test_a_run_that_is_killed_is_reported_with_the_signal(tmp_path: Path) -> None:
    ended = do(scripted(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert ended[0].how == "failed"
    assert "killed by signal 9" in ended[0].message


def test_a_run_that_gave_up_since_it_no_longer_learns_has_not_failed(tmp_path: Path) -> None:
    comparison = scripted(tmp_path, "import sys; sys.exit(2)")
    plain = make_plan(tmp_path, "vanilla", "0", "--max-consecutive-skips", "2").runs[0]
    write_run(plain, ["nan_rate"], nelbo=None, checkpoint=True)  # one skip before: it goes on from its checkpoint
    (record,) = read(plain.folder / "metrics.jsonl")
    line = checked_line(json.dumps({**record, "step": 1, "elbo": "nan"}), 2, "")
    give_up = f"open('vanilla-seed0/metrics.jsonl', 'a').write({line!r}); import sys; sys.exit(2)"
    run = Scripted(plain.config, plain.flags, give_up)
    assert [end.how for end in do(replace(comparison, runs=(run,)))] == ["stopped"]


def test_what_has_ended_is_not_done_again_and_what_was_begun_is_resumed(tmp_path: Path) -> None:
    comparison = scripted(tmp_path, *["import sys; open('did', 'a').write(' '.join(sys.argv[1:]) + ';')"] * 3)
    finished, begun, _ = make_plan(tmp_path, "vanilla", "0,1,2").runs
    write_run(finished)
    write_run(begun, nelbo=None, checkpoint=True)
    watcher = Notes()
    do(comparison, watcher)
    assert watcher.begun_runs == [("vanilla seed 1", "begun"), ("vanilla seed 2", "absent")]
    assert Path("did").read_text() == "--resume;;"


def test_a_run_that_someone_else_has_ended_meanwhile_is_not_begun(tmp_path: Path) -> None:
    comparison = scripted(tmp_path, "pass", "open('did', 'w').close()", BEGIN_AND_END)
    other = make_plan(tmp_path, "vanilla", "0,1,2").runs[1]
    watcher = Notes(on_tick=lambda: None if other.folder.exists() else write_run(other))
    ended = do(comparison, watcher)
    assert [end.run.label for end in ended] == ["vanilla seed 0", "vanilla seed 2"]
    assert [label for label, _ in watcher.begun_runs] == ["vanilla seed 0", "vanilla seed 2"]
    assert not Path("did").exists()


def test_a_folder_that_someone_else_takes_meanwhile_fails_that_run_alone(tmp_path: Path) -> None:
    second = tmp_path / "vanilla-seed1"
    take = f"import pathlib; p = pathlib.Path({str(second)!r}); p.mkdir(); (p / 'notes.md').write_text('mine')"
    ended = do(scripted(tmp_path, take, "pass", BEGIN_AND_END))
    assert [end.how for end in ended] == ["finished", "failed", "finished"]
    assert "holds no run" in ended[1].message
    assert [path.name for path in second.iterdir()] == ["notes.md"]


def test_a_request_to_stop_lets_the_runs_save_and_begins_no_other(tmp_path: Path) -> None:
    stop = StopRequest()

    def ask_once_it_is_ready() -> None:
        if Path("ready").exists():
            stop.signal = "SIGTERM"

    watcher = Notes(ask_once_it_is_ready)
    ended = do(scripted(tmp_path, SAVE_WHEN_ASKED, BEGIN_AND_END), watcher, stop)
    assert [end.how for end in ended] == ["interrupted"]
    assert len(watcher.begun_runs) == 1
    assert not Path("events").exists()


def test_an_interrupt_ends_the_processes_before_it_goes_on(tmp_path: Path) -> None:
    def interrupt_once_it_is_ready() -> None:
        if Path("ready").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do(scripted(tmp_path, SAVE_WHEN_ASKED), Notes(interrupt_once_it_is_ready))
    assert Path("saved").exists()


def test_two_comparisons_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(RunError, match="another comparison is at work"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


LEAVE_A_RUN = """
import os, pathlib, signal, sys, time
from vdvae_patch.compare.executor import start_process
start_process([sys.executable, "-c", sys.argv[1]], [], pathlib.Path("log"), 1)
while not pathlib.Path("ready").exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process that its parent is gone")
def test_a_run_saves_and_ends_when_the_comparison_is_killed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE_A_RUN, SAVE_WHEN_ASKED], timeout=60, check=False)
    deadline = time.monotonic() + 60
    while not Path("saved").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_another_process_still_does_is_waited_for_and_named(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0").runs
    folder = open_folder(made[0].config, resume=False)
    said = Console(file=io.StringIO(), width=300)
    with pytest.raises(RunError, match=f"still being done by process {os.getpid()}: .*`kill {os.getpid()}`"):
        wait_for_others(made, said, StopRequest(), sleep=lambda _: None)
    wait_for_others(made, said, StopRequest(), sleep=lambda _: folder.close())
    assert f"is being done by process {os.getpid()}" in said.file.getvalue()  # type: ignore[attr-defined]
