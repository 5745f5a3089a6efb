"""The folder of a measurement: a file for each cell, so that what was measured is not measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vdvae_patch.errors import RunError
from vdvae_patch.gpu_bench.cells import Cell
from vdvae_patch.train.folder import read_checked, read_json, write_json

State = Literal["done", "failed", "begun"]


@dataclass(frozen=True)
class Result:
    """What is known of a cell.

    Attributes:
        state: `begun`: its process was ended while it was measured.
        seconds: that it took.
        error: why it failed.
    """

    state: State
    values: Mapping[str, Any]
    seconds: float = 0.0
    error: str = ""


class Results:
    """The cells of one configuration, code version and machine.

    Args:
        about: all that must be the same for the cells to stand in one table.

    Attributes:
        of: a checksum of it, which every cell carries.

    Raises:
        RunError: the folder has cells of something else.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self._about = folder, folder / "about.json"
        self.of = hashlib.sha256(json.dumps(dict(about), sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.cells = folder / "cells"
        self.cells.mkdir(parents=True, exist_ok=True)
        if self._about.exists():
            was = read_json(self._about)
            different = sorted(key for key in {*was, *about} if was.get(key) != about.get(key))
            if different:
                key = different[0]
                raise RunError(
                    f"{folder} has cells that were measured with {key} {was.get(key)}, now {about.get(key)}: they do "
                    "not belong into one table; name another --out"
                )
        else:
            write_json(self._about, about, checksum=True)

    def read(self, cell: Cell) -> Result | None:
        """None if it was not begun, or its file was cut short or damaged: it is measured again.

        Raises:
            RunError: the file is of another cell, or was measured with other settings, code or on another machine.
        """
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            found, vouched = read_checked(path)
            result = Result(found["state"], found["values"], float(found["seconds"]), found["error"])
            name, of = found["cell"], found.get("of")
        except (RunError, KeyError, TypeError, ValueError):
            return None
        if name != cell.name or of != self.of:
            what = f"of cell {name}" if name != cell.name else "of another measurement than the other cells"
            raise RunError(f"{path} is {what}, and was put here: delete it, and it is measured again")
        return result if vouched else None

    def write(self, cell: Cell, result: Result) -> None:
        """Whole or not at all."""
        write_json(self._path(cell), {"cell": cell.name, "of": self.of, **vars(result)}, checksum=True)

    def done(self, cell: Cell) -> bool:
        """Whether it needs no further measuring: it was measured, or it cannot be."""
        found = self.read(cell)
        return found is not None and found.state != "begun"

    def left(self, cells: list[Cell]) -> list[Cell]:
        """What is to be measured, in order; what ended its process, or was still going on at the end, comes last."""
        waiting = [cell for cell in cells if not self.done(cell)]
        return sorted(waiting, key=lambda cell: self.read(cell) is not None)

    def _path(self, cell: Cell) -> Path:
        return self.cells / f"{cell.name}.json"
