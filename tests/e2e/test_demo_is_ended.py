"""A demo that is ended with SIGTERM ends its runs and itself within seconds, wherever they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium


def runs_of(folder: Path) -> list[int]:
    """The processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is no process
            continue
        if entry.name.isdecimal() and os.fsencode(folder) in command:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are listed as Linux does it")
@pytest.mark.parametrize("when", ["starting", "training"])
def test_a_demo_ends_with_its_runs(tmp_path: Path, when: str) -> None:
    out = tmp_path / "demo"
    demo = subprocess.Popen(
        [sys.executable, "-m", "vdvae_patch", "demo", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline and demo.poll() is None:
            begun = list(out.glob("*/log.txt")) if when == "starting" else list(out.glob("*/metrics.jsonl"))
            if begun and (when == "starting" or begun[0].stat().st_size):
                break
            time.sleep(0.1)
        assert len(runs_of(out)) > 1
        demo.send_signal(signal.SIGTERM)
        said, _ = demo.communicate(timeout=60)  # seconds on an idle machine
        assert demo.returncode == 75
        assert "stopped by SIGTERM; the same command goes on" in said
        assert runs_of(out) == []
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(60)
