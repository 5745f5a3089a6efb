"""How many lines the logs of a folder have had: `counts.json`, a small file beside them.

What is cut off the end of a log shows in none of its lines. The file is replaced whole, after the lines that it counts
were handed to the operating system, and never waited for: it says at most as many as there are, unless some were cut
off. It has the identity of the run or guard whose logs they are, and a checksum.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vdvae_patch.errors import RunError
from vdvae_patch.reading.fields import require
from vdvae_patch.skips.disks import discard
from vdvae_patch.skips.records import short
from vdvae_patch.skips.whole import json_record, json_text

COUNTS = "counts.json"


@dataclass(frozen=True)
class Counted:
    """What a folder's count says.

    Attributes:
        run: the first digits of the identity of the run or guard.
        lines: by the name of a log without its ending how many lines it has had.
        problem: why the file says nothing: it is not there, damaged, or of another run; empty if it is good.
        exists: whether there is such a file, good or not.
    """

    run: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""
    exists: bool = True


def write_counts(folder: Path, run: str, lines: Mapping[str, int]) -> None:
    """Replace the count; raises `RunError`, and then it is what it was."""
    path = folder / COUNTS
    partial = folder / f".{path.stem}.{os.getpid()}{path.suffix}"
    try:
        partial.write_text(json_text({"run": short(run), "lines": dict(lines)}, checksum=True), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        discard(partial)
        raise RunError(f"{path} could not be written: {error.strerror}") from error


def read_counts(folder: Path, run: str = "") -> Counted:
    """What the count says; nothing is raised.

    Args:
        run: the identity of the run or guard that it must be of; empty for any.
    """
    path = folder / COUNTS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        missing = f"{COUNTS} is not there: lines that are cut off the end of a log would not show"
        return Counted(problem=missing, exists=False)
    except OSError as error:
        return Counted(problem=f"{COUNTS} cannot be read: {error.strerror}")
    try:
        record, vouched = json_record(data, path)
        told = require(record, {"run": str, "lines": dict[str, int]}, str(path), RunError)
    except RunError as error:
        return Counted(problem=str(error))
    if not vouched:
        return Counted(problem=f"{path} has lost its checksum")
    if run and told["run"] and told["run"] != short(run):
        return Counted(problem=f"{COUNTS} is of another run ({told['run']}, not {short(run)}): it is left out")
    return Counted(told["run"], told["lines"])


def at_least(*counts: Mapping[str, int]) -> dict[str, int]:
    """By log the most that any of them says."""
    return {name: max(one.get(name, 0) for one in counts) for name in {name for one in counts for name in one}}
