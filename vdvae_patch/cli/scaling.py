"""`vdvae-patch bench --scaling`: images per second for 1 and 2 processes on this machine."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from vdvae_patch import own_process
from vdvae_patch.errors import RunError
from vdvae_patch.machine import usable_cores
from vdvae_patch.scaling import reduced_bytes
from vdvae_patch.skips.records import read
from vdvae_patch.tables import columns

STEPS = 24
WARMUP = 4
RANKS = (1, 2)


def scaling(flags: list[str], out: Path | None) -> int:
    """Train for a few steps with each number of processes and compare; `flags` are of `train`.

    Each rank has the same batch, so that twice the ranks do twice the images. Processes share this machine's cores
    equally: with two ranks on two cores each rank has one, and so has the rank that runs alone.

    Raises:
        RunError: a run failed.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of measuring
    threads = max(1, usable_cores() // max(RANKS))
    rows = [_measure(flags, ranks, threads) for ranks in RANKS]
    alone = rows[0]["images_per_second"]
    for row in rows:
        row["efficiency"] = row["images_per_second"] / (alone * row["ranks"])
    lines = [
        (
            str(row["ranks"]), f"{row['images_per_second']:.2f}", f"{row['efficiency']:.2f}",
            f"{row['reduced_bytes_a_rank']:,.0f}",
        )
        for row in rows
    ]  # fmt: skip
    text = columns(("processes", "images a second", "efficiency", "bytes all-reduced a rank and step"), lines)
    about, _ = (row.pop("run") for row in rows)
    print(
        f"{about['machine']}, {threads} thread(s) a process, batch {rows[0]['batch']} a process, torch "
        f"{about['torch']}, commit {about['commit']}\n\n{text}"
    )
    if out is not None:
        from vdvae_patch.train.folder import write_json

        command = shlex.join(["python", "-m", "vdvae_patch", "bench", "--scaling", *flags])
        record = {"run": about | {"command": command, "threads": threads}, "rows": rows}
        write_json(out / "scaling.json", record, checksum=True)
    return 0


def _measure(flags: list[str], ranks: int, threads: int) -> dict[str, Any]:
    from vdvae_patch.train.folder import read_json

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        own = ["--steps", str(STEPS), "--nproc", str(ranks), "--out", str(run), "--test-images", "1"]
        own += ["--checkpoint-every", "0", "--watch-every", "0", "--record-every", "1"]
        command = own_process.command("train", *flags, *own)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"training with {ranks} process(es) failed: {(done.stderr or done.stdout).strip()[-500:]}")
        records = list(read(run / "metrics.jsonl"))
        summary = read_json(run / "summary.json")
    seconds = statistics.median(record["step_time"] for record in records[WARMUP:])
    batch = summary["run"]["global_batch"]
    parameters = summary["parameters"]
    return {
        "ranks": ranks,
        "batch": batch // ranks,
        "step_seconds": seconds,
        "images_per_second": batch / seconds,
        "parameters": parameters,
        "reduced_bytes_a_rank": reduced_bytes(parameters, ranks),
        "run": {name: summary["run"][name] for name in ("version", "commit", "python", "torch", "numpy", "machine")},
    }
