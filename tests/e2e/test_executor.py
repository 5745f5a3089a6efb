"""Whole runs as jobs that submitit starts: its local executor is a real one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from vdvae_patch.compare.executor import Running, starter
from vdvae_patch.errors import RunError

pytest.importorskip("submitit")

# A run in a few lines: it begins by writing config.toml, is killed once if it is told to, and says how it was called.
RUN = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
with (folder / "calls").open("a") as calls:
    calls.write(sys.argv[2] + "\\n")
(folder / "config.toml").write_text("")
if sys.argv[3] == "lost" and sys.argv[2] == "begin":
    os.kill(os.getppid(), signal.SIGKILL)
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


@pytest.mark.parametrize(
    ("fate", "status", "expected"),
    [
        ("well", 0, ["begin"]),
        ("well", 3, ["begin"]),
        ("lost", 0, ["begin", "resume"]),
        ("saved", 0, ["begin", "resume"]),
    ],
)
def test_a_job_that_is_lost_or_saved_is_submitted_again_and_resumes(
    tmp_path: Path, fate: str, status: int, expected: list[str]
) -> None:
    folder = tmp_path / "run"
    assert ended(start(folder, fate, status)) == status
    assert calls(folder) == expected


def test_a_machine_without_slurm_is_told_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"--executor slurm: .*--executor local"):
        starter("slurm", tmp_path)
