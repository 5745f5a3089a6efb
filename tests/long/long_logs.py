"""What `compare` and `report` take of a run of a million steps: processor seconds and memory, each in a process.

    OMP_NUM_THREADS=1 python tests/long/long_logs.py [--records 1000000] [--rounds 3] [--out FILE.json]

A run's folder is written as training writes it, with `--records` lines in its metrics.jsonl, one in 500 of a skipped
update. `memory` is the most that the process held beyond what it held with everything imported and a run of six steps
read; `parse` is what Python takes to read every line as JSON, and nothing else, in the same process right after.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

import torch
from compare_samples import make_plan, write_run

from vdvae_patch import tables
from vdvae_patch.compare.run import write_report
from vdvae_patch.machine import peak_resident_bytes
from vdvae_patch.report.write import write as write_page
from vdvae_patch.skips.records import JsonLines
from vdvae_patch.train.provenance import provenance

RUN = "vanilla", "0"


def write_long(out: Path, count: int) -> None:
    """A comparison of one run with so many records of the fields that training writes."""
    run = make_plan(out, *RUN).runs[0]
    draw = random.Random(0)
    causes = [None if draw.random() > 0.002 else draw.choice(["high_gradient", "nan_rate"]) for _ in range(count)]
    write_run(run, causes)
    (run.folder / "metrics.jsonl").unlink()
    log = JsonLines(run.folder / "metrics.jsonl")
    for step, cause in enumerate(causes):
        log.write(
            {
                "step": step, "elbo": 3.9 + draw.random(), "distortion": 3.1 + draw.random(), "rate": draw.random(),
                "grad_norm": 100 * draw.random(), "lr": 0.00015, "cause": cause, "clip": 200.0,
                "epoch": step // 2188, "skipped": cause is not None, "step_time": 0.1 + draw.random(),
            }
        )  # fmt: skip
    log.close()


def do(what: str, out: Path) -> None:
    """One command, as a user gives it."""
    if what == "compare":
        write_report(make_plan(out, *RUN))
    else:
        write_page(out, out / "page.html")


def parsed(log: Path) -> float:
    """Processor seconds to read every line as JSON."""
    begin = time.process_time()
    with log.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.process_time() - begin


def measured(what: str, small: Path, out: Path) -> dict[str, float]:
    """Of this process, which has done nothing of the kind before."""
    do(what, small)
    before, begin, wall = peak_resident_bytes(), time.process_time(), time.perf_counter()
    do(what, out)
    took = {"seconds": time.process_time() - begin, "wall": time.perf_counter() - wall}
    return took | {
        "megabytes": (peak_resident_bytes() - before) / 1e6,
        "parse": parsed(out / "vanilla-seed0" / "metrics.jsonl"),
    }


def apart(what: str, small: Path, out: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", what, str(small), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(found: dict[str, Any]) -> str:
    """The table of what was measured."""
    run = found["run"]
    header = ("command", "processor seconds", "of a clock", "to read the lines as JSON", "times that", "MB")
    rows = [
        (
            what, f"{one['seconds']:.2f}", f"{one['wall']:.2f}", f"{one['parse']:.2f}",
            f"{one['seconds'] / one['parse']:.2f}", f"{one['megabytes']:.1f}",
        )
        for what, one in found.items()
        if what in ("compare", "report")
    ]  # fmt: skip
    title = (
        f"A run of {found['records']:,} records: `{run['command']}`; {run['machine']}, {run['threads']} thread(s), "
        f"torch {run['torch']}, commit {run['commit']}"
    )
    return f"{title}\n\n{tables.markdown(header, rows)}\n"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(measured(given.one[0], Path(given.one[1]), Path(given.one[2]))))
        return
    found: dict[str, Any] = {"run": provenance(torch.device("cpu")) | {"command": " ".join(["python", *sys.argv])}}
    found["records"] = given.records
    with tempfile.TemporaryDirectory() as folder:
        small, out = Path(folder) / "small", Path(folder) / "long"
        write_long(small, 6)
        write_long(out, given.records)
        rounds = [{what: apart(what, small, out) for what in ("compare", "report")} for _ in range(given.rounds)]
    for what in ("compare", "report"):
        found[what] = {
            name: round(min(one[what][name] for one in rounds), 2) for name in ("seconds", "wall", "parse")
        } | {"megabytes": round(max(one[what]["megabytes"] for one in rounds), 1)}
        print(what, found[what])
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        given.out.with_suffix(".md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
