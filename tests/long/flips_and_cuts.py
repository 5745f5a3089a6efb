"""Flip bits of, and cut, every file of a real run, and see whether anything is wrong without a word.

    OMP_NUM_THREADS=1 python tests/long/flips_and_cuts.py [--flips 1000] [--cuts 200] [--seed 0] [--out FILE.json]

A trial copies the folder of a run, flips one bit of one file or cuts it at a random byte, and then looks at it in the
three ways in which a user does: `compare`'s table of it, the page of `report`, and the logs and the checkpoint that
`--resume` would go on from. What differs from the unharmed run must have been said, with the file's name. The files
take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

import numpy as np
import torch
from runs import tiny

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.results import collect, summarise
from vdvae_patch.compare.states import state_of
from vdvae_patch.compare.table import cells, notes
from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.report.runs import read_run
from vdvae_patch.skips.records import read_log
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.folder import RunFolder, write_json
from vdvae_patch.train.loop import train
from vdvae_patch.train.provenance import provenance
from vdvae_patch.train.saving import choose

LOGS = ("metrics.jsonl", "skips.jsonl", "heads.jsonl", "evaluations.jsonl")
NOT_READ = ("run.lock",)
"""Files of a run out of which nothing takes a number."""


@dataclass(frozen=True)
class Look:
    """What a user sees of a run, and what is said about its files.

    Attributes:
        shown: every number and record, in a form that can be compared.
        said: messages.
    """

    shown: dict[str, Any]
    said: list[str]


def make_run(out: Path) -> None:
    """A real run with skipped updates, evaluations, looks at its heads, and recordings."""
    train(tiny(out.with_name("plain"), steps=30))
    norms = sorted(row["grad_norm"] for row in read_log(out.with_name("plain") / "metrics.jsonl").records)
    threshold = norms[len(norms) * 2 // 3]
    train(tiny(out, steps=30, skip_threshold=threshold, evaluate_every=5, watch_every=3, record_skips=2))


def targets(out: Path) -> list[Path]:
    """The files of a run, relative to its folder."""
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.stat().st_size)
    return [file for file in files if file.name not in NOT_READ]


def compared(out: Path, config: Any) -> Look:
    """The run as `compare` shows it; the report's images are drawn from the newest checkpoint."""
    run = PlannedRun(replace(config, out=out), ())
    try:
        state_of(run)
        results = collect([run])
        rows = summarise([config.variant], 1, results)
        curves = [
            [result.curves.step.tolist(), result.curves.skipped.tolist(), list(map(str, result.curves.nelbo.tolist()))]
            for result in results
        ]
        shown = {"cells": cells(rows[0]), "curves": curves, "summary": [json.dumps(r.summary) for r in results]}
        return Look(shown | {"seen": [json.dumps(r.seen) for r in results]}, notes(rows, results))
    except VdvaePatchError as error:
        return Look({}, [str(error)])


def reported(out: Path) -> Look:
    """The run as `report` reads it."""
    run = read_run(out)
    columns = {field.name: getattr(run.log, field.name) for field in fields(run.log)}
    shown: dict[str, Any] = {
        "log": {name: str(c.tolist()) if isinstance(c, np.ndarray) else c for name, c in columns.items()},
        "looks": None if run.looks is None else str({name: v.tolist() for name, v in run.looks.values.items()}),
        "skips": str([replace(skip, replay="", folder=None) for skip in run.skips]),
        "evaluations": str(run.evaluations),
    }
    for name in ("state", "settings", "seen", "planned", "summary", "steps", "high_gradient", "nan", "seconds"):
        shown[name] = str(getattr(run, name))
    return Look(shown, list(run.problems))


def taken_up(out: Path, config: Any, expected: CheckpointInfo) -> Look:
    """The run as `--resume` takes it up: the logs that it keeps, and the checkpoint's tensors."""
    said: list[str] = []
    shown: dict[str, Any] = {}
    try:
        chosen = choose(RunFolder(out), replace(config, out=out, resume=True), expected, said.append)
        assert chosen is not None
        info, state = checkpoint.load(chosen.path)
        shown["checkpoint"] = (str(info), {name: value.double().sum().item() for name, value in state["model"].items()})
        for name in LOGS:
            shown[name] = [json.dumps(record) for record in read_log(out / name).records]
    except VdvaePatchError as error:
        said.append(str(error))
        shown = {}
    for path in flight.recordings(out / "recordings"):
        try:
            shown[path.name] = str(flight.read(path).record)
        except VdvaePatchError as error:
            said.append(str(error))
    return Look(shown, said)


@dataclass(frozen=True)
class Trial:
    """What one harm did: `noticed`, `harmless` (nothing that is shown differs), or `silent`."""

    file: str
    how: str
    verdict: str


def trials(out: Path, flips: int, cuts: int, seed: int, work: Path) -> list[Trial]:
    """Do all harm, one after the other, each to a fresh copy."""
    moments = random.Random(seed)
    config = tiny(out, steps=30, evaluate_every=5, watch_every=3, record_skips=2)
    info, _ = checkpoint.read_manifest(checkpoint.checkpoints(out / "checkpoints")[0])
    files = targets(out)
    work.mkdir(parents=True, exist_ok=True)
    clean = _looks(out, config, info, work / "clean")
    assert not any(look.said for look in clean), clean
    found = []
    for number in range(flips + cuts):
        how = "flip" if number < flips else "cut"
        file = files[number % len(files)]
        copy = work / "copy"
        shutil.copytree(out, copy)
        data = bytearray((copy / file).read_bytes())
        if how == "flip":
            data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        else:
            del data[moments.randrange(len(data)) :]
        (copy / file).write_bytes(data)
        found.append(Trial(_kind(file), how, _verdict(clean, _looks(copy, config, info, work / "resumed"), file)))
        shutil.rmtree(copy)
    return found


def _looks(out: Path, config: Any, info: CheckpointInfo, copy: Path) -> tuple[Look, ...]:
    shutil.copytree(out, copy)
    try:
        return compared(out, config), reported(out), taken_up(copy, config, info)
    finally:
        shutil.rmtree(copy)


def _verdict(clean: tuple[Look, ...], harmed: tuple[Look, ...], file: Path) -> str:
    differ = False
    for before, after in zip(clean, harmed, strict=True):
        if after.shown != before.shown:
            differ = True
            if not any(file.name in line or (len(file.parts) > 1 and file.parts[1] in line) for line in after.said):
                return "silent"
    noticed = differ or any(look.said for look in harmed)
    return "noticed" if noticed else "harmless"


def _kind(file: Path) -> str:
    """The file, checkpoints and recordings each as one."""
    return str(file) if len(file.parts) < 3 else f"{file.parts[0]}/*/{file.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seen = provenance(torch.device("cpu")) | {"command": " ".join(["python", *sys.argv]), "seed": given.seed}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
        began = time.monotonic()
        make_run(Path(folder) / "run")
        done = trials(Path(folder) / "run", given.flips, given.cuts, given.seed, Path(folder) / "work")
        seconds = round(time.monotonic() - began)
    rows = []
    for (file, how), count in sorted(Counter((t.file, t.how) for t in done).items()):
        verdicts = Counter(t.verdict for t in done if (t.file, t.how) == (file, how))
        row = {"file": file, "how": how, "trials": count}
        rows.append(row | {name: verdicts[name] for name in ("noticed", "harmless", "silent")})
        print(json.dumps(rows[-1]), flush=True)
    total = Counter(t.verdict for t in done)
    print(json.dumps(dict(total)), f"{seconds} s")
    if given.out is not None:
        write_json(
            given.out,
            {
                "run": seen,
                "flips": given.flips,
                "cuts": given.cuts,
                "seconds": seconds,
                "total": dict(total),
                "rows": rows,
            },
        )
    sys.exit(1 if total["silent"] else 0)


if __name__ == "__main__":
    main()
