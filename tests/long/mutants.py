"""Put in one plausible fault at a time, run the tests concerned, and see whether they notice.

    OMP_NUM_THREADS=1 python tests/long/mutants.py [--only FILE] [--sample N --seed S] [--results FILE.json]

The working tree is never changed: faults go into a copy. Results are kept after each fault, so that the same command
goes on where it was ended; those of faults whose text has changed since are done again. Takes hours for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
COPIED = (
    "vdvae_patch",
    "patches",
    "upstream",
    "launch",
    "tests",
    "docs",
    "pyproject.toml",
    "README.md",
    "constraints.txt",
)
NOTICED, NOT_NOTICED, TIMED_OUT = "noticed", "not noticed", "timed out"
NO_TESTS_RAN = (2, 3, 4, 5)
"""Exit statuses of pytest that say nothing of the fault, unless importing the package is what failed."""


def copy_of_tree(folder: Path) -> Path:
    """The tracked parts of the tree that tests need, copied."""
    for name in COPIED:
        there = ROOT / name
        if there.is_dir():
            shutil.copytree(there, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif there.exists():
            shutil.copy2(there, folder / name)
    return folder


def judged(tree: Path, tests: Sequence[str], limit: float) -> tuple[str, str]:
    """What the tests say of the tree as it is: noticed, not noticed or timed out; and the line that says so."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT, f"after {limit:.0f} s"
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    line = said[0] if said else (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    if done.returncode in NO_TESTS_RAN and not said:
        raise RuntimeError(f"pytest ended with status {done.returncode}: {line}")
    return (NOTICED if done.returncode else NOT_NOTICED), line[:200]


def require_copy_is_tested(tree: Path) -> None:
    """Refuse to judge where the tests would import the package from elsewhere, and so notice nothing."""
    code = "import vdvae_patch; print(vdvae_patch.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tree)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_relative_to(tree):
        raise RuntimeError(f"tests would import {found}, not the copy in {tree}")


def tried(tree: Path, fault: Fault, limit: float) -> dict[str, Any]:
    """Put the fault into the copy, run its tests, and take it out again."""
    file = tree / "vdvae_patch" / fault.file
    text = file.read_text()
    if text.count(fault.old) != 1:
        raise RuntimeError(f"{fault.file} has {fault.old!r} {text.count(fault.old)} times, not once")
    started = time.monotonic()
    file.write_text(text.replace(fault.old, fault.new))
    try:
        outcome, line = judged(tree, fault.tests, limit)
    finally:
        file.write_text(text)
    return {"outcome": outcome, "line": line, "seconds": round(time.monotonic() - started, 1)}


def chosen(only: str | None, sample: int, seed: int) -> list[Fault]:
    """The faults that are asked for, in an order drawn from the seed if it is a sample."""
    faults = [fault for fault in FAULTS if only is None or fault.file.startswith(only)]
    return random.Random(seed).sample(faults, min(sample, len(faults))) if sample else faults


def table(faults: Sequence[Fault], results: dict[str, dict[str, Any]]) -> str:
    """Markdown: each fault that was run, and how it ended."""
    rows = ["| file | fault | | by |", "|---|---|---|---|"]
    for fault in faults:
        result = results.get(fault.key)
        if result is not None:
            old, new = (text.replace("|", "\\|").replace("\n", " ") for text in (fault.old, fault.new))
            rows.append(f"| {fault.file} | `{old}` → `{new}` | {result['outcome']} | {result['line']} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the beginning of a file's path below vdvae_patch/")
    parser.add_argument("--sample", type=int, default=0, help="so many of them, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("mutants.json"))
    parser.add_argument("--limit", type=float, default=600, help="seconds for the tests of one fault")
    parser.add_argument("--again", action="store_true", help="also those that were not noticed, or timed out, before")
    given = parser.parse_args()
    faults = chosen(given.only, given.sample, given.seed)
    results: dict[str, dict[str, Any]] = json.loads(given.results.read_text()) if given.results.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_tree(Path(folder).resolve())
        require_copy_is_tested(tree)
        for fault in faults:
            known = results.get(fault.key)
            if known is not None and not (given.again and known["outcome"] != NOTICED):
                continue
            results[fault.key] = tried(tree, fault, given.limit)
            print(f"{results[fault.key]['outcome']}: {fault.key}", flush=True)
            partial = given.results.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=1))
            partial.replace(given.results)
    run = [results[fault.key]["outcome"] for fault in faults if fault.key in results]
    print(table(faults, results))
    print(f"\n{run.count(NOTICED)} of {len(run)} noticed, {run.count(TIMED_OUT)} timed out")


if __name__ == "__main__":
    main()
