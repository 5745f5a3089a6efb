"""Log files as columns of numbers. Whatever of a file cannot be read is said, and what can be read is kept."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.data.order import told_steps_per_epoch
from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.skips.audit import Audit

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
        """Steps an epoch, see `told_steps_per_epoch`; None where there was no later one, or no record says."""
        known = np.isfinite(self.epoch)
        return told_steps_per_epoch(self.step[known], self.epoch[known].astype(np.int64))


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
    flat = {name: array("d") for name in _NUMBERS}
    causes: dict[str, int] = {"": 0}
    codes = array("q")
    audit = Audit(path, expected.run, checked=expected.checked)
    for columns in _told(audit, audit.columns((*_NUMBERS, "cause")), problems, expected):
        for name, kept in flat.items():
            kept.extend(_numbers(columns.of(name)))
        for cause in columns.of("cause"):
            codes.append(causes.setdefault(cause if isinstance(cause, str) else "", len(causes)))
    table = {name: np.frombuffer(kept, np.float64) for name, kept in flat.items()}
    cause_codes = np.frombuffer(codes, np.int64)
    keep = np.isfinite(table["step"])
    if not keep.all():
        problems.append(f"{path.name} has records without a step; they are left out")
        table, cause_codes = {name: values[keep] for name, values in table.items()}, cause_codes[keep]
    took = table["step_time"]
    return Log(
        step=table["step"].astype(np.int64), epoch=table["epoch"], nelbo=table["elbo"], distortion=table["distortion"],
        rate=table["rate"], grad_norm=table["grad_norm"], lr=table["lr"],
        seconds=np.cumsum(np.where(np.isfinite(took) & (took >= 0), took, 0.0)),
        skipped=(np.nan_to_num(table["skipped"]) != 0) | (cause_codes != 0), cause=cause_codes, causes=tuple(causes),
    )  # fmt: skip


def _numbers(values: list[Any]) -> array[float]:
    try:
        return array("d", values)
    except (TypeError, OverflowError):  # a field that another version did not write, or no number
        return array("d", map(number, values))


def rows(path: Path, problems: list[str], expected: Expected = NOTHING) -> Iterator[dict[str, Any]]:
    """The records of a log; damaged lines and those of other runs are left out, and what is missing is said, both in
    `problems`."""
    audit = Audit(path, expected.run, checked=expected.checked)
    return _told(audit, audit.records(), problems, expected)


_Read = TypeVar("_Read")


def _told(log: Audit, read: Iterator[_Read], problems: list[str], expected: Expected) -> Iterator[_Read]:
    """What is read of a log, and at its end what is wrong with it."""
    path = log.path
    unreadable = []
    try:
        yield from read
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
