"""Whole runs as jobs that submitit starts: its local executor is a real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import count_lines, metrics
from test_launch import ROOT, environment

from vdvae_patch.compare.executor import Running, starter
from vdvae_patch.errors import RunError

pytest.importorskip("submitit")

pytestmark = pytest.mark.medium

# A run in a few lines: it locks its folder, says how it was called, and ends; or, if it is told to and for the first
# time, is killed or loses its job.
RUN = """
import fcntl, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
lock = (folder / "run.lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with (folder / "calls").open("a") as calls:
    calls.write(sys.argv[2] + "\\n")
(folder / "config.toml").write_text("")
if sys.argv[3] in ("lost", "killed") and sys.argv[2] == "begin":
    os.kill(os.getppid() if sys.argv[3] == "lost" else os.getpid(), signal.SIGKILL)
    time.sleep(100)  # a run that outlives its job keeps its lock
sys.exit(75 if sys.argv[3] == "saved" and sys.argv[2] == "begin" else int(sys.argv[4]))
"""


def start(folder: Path, fate: str, status: int = 0) -> Running:
    folder.mkdir()
    script = folder / "run.py"
    script.write_text(RUN)
    begin, resume = ([sys.executable, str(script), str(folder), how, fate, str(status)] for how in ("begin", "resume"))
    return starter("local", folder.parent)(begin, resume, folder / "log.txt", 1)


def ended(running: Running, seconds: float = 120) -> int:
    deadline = time.monotonic() + seconds
    while (status := running.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return status


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "status", "expected"),
    [
        ("well", 0, ["begin"]),
        ("well", 3, ["begin"]),
        ("lost", 0, ["begin", "resume"]),
        ("killed", 0, ["begin", "resume"]),
        ("saved", 0, ["begin", "resume"]),
    ],
)
def test_a_job_that_is_lost_killed_or_saved_is_submitted_again_and_resumes(
    tmp_path: Path, fate: str, status: int, expected: list[str]
) -> None:
    folder = tmp_path / "run"
    assert ended(start(folder, fate, status)) == status
    assert calls(folder) == expected


def test_a_machine_without_slurm_is_told_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"--executor slurm: .*--executor local"):
        starter("slurm", tmp_path)


COMPARE = (
    "--preset=demo", "--data=builtin(train=24,valid=2,test=4)", "--width=8", "--zdim=2", "--num-mixtures=2",
    "--enc-blocks=32d8,4d4,1x1", "--dec-blocks=1x1,4m1,32m4", "--batch-size=2", "--steps=60", "--checkpoint-every=2",
    "--device=cpu", "--seeds=0", "--variants=vanilla,explin/constant", "--jobs=2", "--threads=1",
)  # fmt: skip


@pytest.mark.slow
def test_a_comparison_by_jobs_one_of_which_is_lost_has_the_tables_of_one_by_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vdvae_patch", "compare", *COMPARE, "--out"]
    subprocess.run([*command, str(tmp_path / "processes")], env=environment(), cwd=ROOT, timeout=300, check=True)
    out = tmp_path / "by_jobs"
    with (tmp_path / "log").open("w") as log:
        comparing = subprocess.Popen(
            [*command, str(out), "--executor=local"], env=environment(), cwd=ROOT, stdout=log, stderr=log
        )
    run = out / "vanilla-seed0"
    while count_lines(run / "metrics.jsonl") < 5:
        assert comparing.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.kill(job_of(run, comparing.pid), signal.SIGKILL)
    assert comparing.wait(300) == 0, (tmp_path / "log").read_text()
    assert len(list((out / "jobs").glob("*_submitted.pkl"))) == 3, "two jobs, one of them twice"
    for name in ("table.md", "table.csv"):
        assert (out / name).read_text() == (tmp_path / "processes" / name).read_text()
    assert [row["step"] for row in metrics(run)] == list(range(60))


def job_of(run: Path, comparison: int) -> int:
    """The process of the job that does a run: the parent of its training, in the family of the comparison."""
    jobs = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            told = command.read_bytes().split(b"\0")
            if b"train" in told and str(run).encode() in told:
                jobs.append(parent(int(command.parent.name)))
    (job,) = jobs
    controller = parent(job)
    assert parent(controller) == comparison
    return job


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
