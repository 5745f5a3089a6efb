"""Log files as columns of numbers. Whatever of a file cannot be read is said, and what can be read is kept."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.skips import records

Floats = NDArray[np.float64]

_NUMBERS = ("step", "epoch", "elbo", "distortion", "rate", "grad_norm", "lr", "step_time", "skipped")


@dataclass(frozen=True)
class Log:
    """`metrics.jsonl`, one value a step; NaN where a record does not say.

    Attributes:
        step: from 0.
        epoch: that the step belongs to.
        nelbo, distortion, rate: of the training batch, nats per dimension.
        grad_norm: before clipping.
        seconds: since the run began, the pauses between its pieces left out.
        skipped: whether the update was skipped.
        cause: index in `causes`; 0, which is empty, for an update that was applied.
    """

    step: NDArray[np.int64]
    epoch: Floats
    nelbo: Floats
    distortion: Floats
    rate: Floats
    grad_norm: Floats
    lr: Floats
    seconds: Floats
    skipped: NDArray[np.bool_]
    cause: NDArray[np.int64]
    causes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.step)

    def count(self, *causes: str) -> int:
        """How many updates were skipped for one of these causes."""
        wanted = [index for index, cause in enumerate(self.causes) if cause in causes]
        return int(np.isin(self.cause, wanted).sum())

    @property
    def per_epoch(self) -> int | None:
        """Steps an epoch, told by the first step of a later one; None where there was none."""
        if not len(self):
            return None
        later = np.flatnonzero(self.epoch > self.epoch[0])
        return int(later[0]) if len(later) else None


@dataclass(frozen=True)
class Expected:
    """What the logs of a folder must be.

    Attributes:
        run: the identity of the run whose they are; empty where it has none, and for a guard.
        checked: whether every line must have a checksum.
        counts: how many lines a log has at least, by its name without the ending.
    """

    run: str = ""
    checked: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


NOTHING = Expected()


def read_log(path: Path, problems: list[str], expected: Expected = NOTHING) -> Log:
    """The columns of a run's `metrics.jsonl`; what is wrong with the file is added to `problems`."""
    flat = array("d")
    causes: dict[str, int] = {"": 0}
    codes = array("q")
    width = len(_NUMBERS)
    for row in rows(path, problems, expected, only=(*_NUMBERS, "cause")):
        try:
            flat.extend((
                row["step"], row["epoch"], row["elbo"], row["distortion"], row["rate"], row["grad_norm"], row["lr"],
                row["step_time"], row["skipped"],
            ))  # fmt: skip
        except (KeyError, TypeError, OverflowError):  # a field that another version did not write, or no number
            del flat[len(codes) * width :]
            flat.extend(number(row.get(name)) for name in _NUMBERS)
        cause = row.get("cause")
        codes.append(causes.setdefault(cause if isinstance(cause, str) else "", len(causes)))
    table = np.frombuffer(flat, np.float64).reshape(-1, width)
    cause_codes = np.frombuffer(codes, np.int64)
    steps = table[:, 0]
    if not np.isfinite(steps).all():
        problems.append(f"{path.name} has records without a step; they are left out")
        keep = np.isfinite(steps)
        table, cause_codes = table[keep], cause_codes[keep]
    took = np.where(np.isfinite(table[:, 7]) & (table[:, 7] >= 0), table[:, 7], 0.0)
    return Log(
        step=table[:, 0].astype(np.int64), epoch=table[:, 1], nelbo=table[:, 2], distortion=table[:, 3],
        rate=table[:, 4], grad_norm=table[:, 5], lr=table[:, 6], seconds=np.cumsum(took),
        skipped=(np.nan_to_num(table[:, 8]) != 0) | (cause_codes != 0), cause=cause_codes, causes=tuple(causes),
    )  # fmt: skip


def rows(
    path: Path, problems: list[str], expected: Expected = NOTHING, only: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The records of a log, of some fields or of all; damaged lines and those of other runs are left out, and what is
    missing is said, both in `problems`."""
    log = records.Audit(path, expected.run, checked=expected.checked, only=only)
    unreadable = []
    try:
        yield from log.records()
    except VdvaePatchError as error:
        unreadable.append(str(error))
    said = [f"{path.name} {text}{'' if is_gap else '; it is left out'}" for text, is_gap in log.faults] + unreadable
    said += [f"{path.name} {text}" for text in log.lost_at_the_end(expected.counts.get(path.stem))]
    problems += said[:_MOST_SAID]
    if len(said) > _MOST_SAID:
        problems.append(f"{path.name}: {len(said) - _MOST_SAID:,} more of these")


_MOST_SAID = 5


def number(value: Any) -> float:
    """A number as it is, anything else as NaN."""
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return math.nan
