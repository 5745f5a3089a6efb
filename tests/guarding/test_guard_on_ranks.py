"""Two ranks, one of which has the bad batch: both keep the update out, and name that rank."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize("fault", ["nan", "large"])
def test_all_ranks_decide_together(wrapper: str, fault: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master-port", str(port)]
    done = subprocess.run([*command, str(SCRIPT), wrapper, fault], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(one["rank"] for one in seen) == [0, 1]
    for one in seen:
        assert one["finite"]
        assert one["kept"] == [False, False, True, False]
        assert [(skip["step"], skip["ranks"], skip["cause"]) for skip in one["skips"]] == [(2, [1], "nan_loss")]
    if wrapper == "ddp":
        assert seen[0]["sum"] == seen[1]["sum"]
    assert "on rank 1" in done.stderr
    assert ("rows 1, 2, 3, 4, 6, 7 of input 0" in done.stderr) == (fault == "nan")
