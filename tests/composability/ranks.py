"""The rows that two processes of a Gloo group run: one start of both for all of them.

python -m PACKAGE.ranks OUT    (from the folder in which PACKAGE lies; the package's own name is in __package__)
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2


@functools.cache
def cells() -> dict[str, dict[str, str]]:
    """What each of these rows gives for each column; what failed begins with an exclamation mark."""
    assert __package__
    root = Path(__file__).resolve().parents[len(__package__.split("."))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cells.json"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"{__package__}.ranks", str(out)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        given: dict[str, dict[str, str]] = json.loads(out.read_text())
        return given


def work(rank: int, store: str, out: str) -> None:
    """One rank: all ranks do every row, on the same batch, so that the mean gradient is that of one process."""
    from . import wrappers  # noqa: F401  its rows
    from .table import ROWS, cell

    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=limit)
    given: dict[str, dict[str, str]] = {}
    for row in ROWS.values():
        if not row.ranks:
            continue
        for column in row.columns:
            try:
                said = cell(row, column)
            except Exception as error:
                said = f"!{type(error).__name__}: {error}"
            given.setdefault(row.name, {})[column] = said
    if rank == 0:
        Path(out).write_text(json.dumps(given))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (f"{folder}/store", sys.argv[1]), nprocs=RANKS)  # type: ignore[no-untyped-call]
