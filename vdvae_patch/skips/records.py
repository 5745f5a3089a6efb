"""The lines of a run's logs, and the log files: one JSON object a line, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vdvae_patch.errors import RunError


class JsonLines:
    """An append-only log. A line that a killed process left unfinished is cut off when the log is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repaired = repair(path)
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; NaN and infinities are written as the strings `"nan"`, `"inf"`, `"-inf"`."""
        with self._explained():
            self._file.write(json.dumps({k: encode(v) for k, v in record.items()}, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand what was written to the operating system; raises `RunError` if there is no space left."""
        with self._explained():
            self._file.flush()

    def sync(self) -> None:
        """Wait until it is on the disk; raises `RunError` if there is no space left."""
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        with self._explained():
            self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"log {self.path} could not be written ({error.strerror}); "
                "the checkpoints are whole: free space and --resume"
            ) from error


def encode(value: Any) -> Any:
    """JSON has no NaN: floats that are not finite become strings, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    return [decode(v) for v in value] if isinstance(value, list) else value


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log; an unfinished last line is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield decode(json.loads(line))


def repair(path: Path) -> bool:
    """Cut an unfinished last line off; whether there was one."""
    if not path.exists():
        return False
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return False
    os.truncate(path, whole)
    return True


def truncate_after(path: Path, step: int) -> None:
    """Drop the records of steps from `step` on: the resumed run does those steps again."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or not _is_before(line, step):
                break
            kept += len(line)
    os.truncate(path, kept)


def _is_before(line: bytes, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] < step)
    except ValueError:  # a crash of the machine may leave a block of zeros in the place of the last lines
        return False
