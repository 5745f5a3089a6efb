"""One run's folder: what it was told, what it saw, what came of it, and how it stands."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vdvae_patch.compare.states import LOG
from vdvae_patch.errors import RunError, VdvaePatchError
from vdvae_patch.reading.fields import require
from vdvae_patch.report import skipped
from vdvae_patch.report.columns import Expected, Log, number, read_log, rows
from vdvae_patch.report.looks import Collector, Looks
from vdvae_patch.report.skipped import Skip
from vdvae_patch.skips.counted import read_counts
from vdvae_patch.skips.records import short
from vdvae_patch.train import flight
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import LOCK, RunFolder, read_checked

State = Literal["finished", "stopped", "running", "cut off", "not begun"]
"""`stopped`: ended by itself, since updates were skipped too often in a row. `running`: its folder is in use.
`cut off`: neither, and without a summary. `not begun`: no step was written."""

_TAIL_BYTES = 8192
_TAIL_LINES = 15


@dataclass(frozen=True)
class Evaluation:
    """The NELBO on the validation images, nats per dimension, after a step; of a decoder whose σ is a running mean how
    much of that is still the first batch's, where it is much."""

    step: int
    nelbo: float
    sigma_of_first_batch: float = 0.0


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        settings: what it was told, flat, by name.
        seen: code, machine, data, host.
        planned: how many steps it was to do; None where that is not known.
        skips: what is said of the skipped updates, in the order of the log; there may be fewer than `log` counts.
        samples: the sample grids with the number of steps after which each was drawn.
        summary: empty for a run that has not ended.
        tail: the end of its process's output, for a run that was cut off.
        problems: what of the folder is missing, damaged or contradicts itself.
        untrusted: why none of its numbers may enter a mean, as `compare` refuses it; empty if they may.
        written: when its log was written last, seconds since 1970; None if there is none.
    """

    folder: Path
    state: State
    settings: Mapping[str, Any]
    seen: Mapping[str, Any]
    planned: int | None
    log: Log
    skips: tuple[Skip, ...]
    looks: Looks | None
    evaluations: tuple[Evaluation, ...]
    samples: tuple[tuple[int, Path], ...]
    summary: Mapping[str, Any]
    tail: str
    problems: tuple[str, ...]
    untrusted: str
    written: float | None

    @property
    def variant(self) -> str:
        """`explin/constant`; the folder's name where the configuration is missing."""
        return str(self.settings.get("variant", self.folder.name))

    @property
    def seed(self) -> int | None:
        """None where it is not known."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def steps(self) -> int:
        """How many were done."""
        return self._counted("steps", int(self.log.step[-1]) + 1 if len(self.log) else 0)

    @property
    def high_gradient(self) -> int:
        """Updates skipped for it."""
        return self._counted("high_gradient_count", self.log.count("high_gradient"))

    @property
    def nan(self) -> int:
        """Updates skipped for a value that is not finite."""
        return self._counted("nan_count", self.log.count(*_NAN))

    @property
    def per_epoch(self) -> int | None:
        """Steps an epoch, as its log tells or, in its first one, what it saw: it need not be that of the others."""
        return self.log.per_epoch or _an_epoch(self.seen)

    def _counted(self, key: str, logged: int) -> int:
        """That of the summary, which has a checksum and lacks nothing; without one what was logged."""
        told = self.summary.get(key)
        return logged if self.untrusted or not isinstance(told, int) else told

    @property
    def seconds(self) -> float:
        """The time spent in steps."""
        told = number(self.summary.get("train_seconds"))
        return told if told == told else float(self.log.seconds[-1]) if len(self.log) else 0.0


def read_run(folder: Path) -> RunData:
    """All of it. Nothing is refused: what cannot be read is among the problems."""
    files = RunFolder(folder)
    problems: list[str] = []
    told, seen, expected = _configuration(files.config, problems)
    if not told and not files.config.exists() and is_held(folder / LOCK):
        problems[:] = [f"its {files.config.name} is not written yet"]
    untrusted = "" if told else "its configuration cannot be read"
    summary, counts = _summary(files.summary, expected, problems)
    of = str((summary.get("run") or {}).get("id", "")) or read_counts(folder).run
    if told and of and not expected.run:
        problems.append(
            f"{files.config.name} has lost its checksum and its identity (its other files are of run {short(of)}): it "
            "was changed by hand, or they were put there, and its settings need not be those that the run had"
        )
    if not counts:
        counts, problem = files.lines_logged(expected.run)
        problems += [problem] if problem else []
    expected = replace(expected, counts=counts)
    gaps: list[str] = []
    log = read_log(files.metrics, gaps, expected)
    problems += gaps
    if not files.metrics.exists() and files.config.exists():
        problems.append(f"{files.metrics.name} is missing: no step was written")
    state = _state(folder, told, log, summary)
    collector = Collector()
    for row in rows(files.heads, problems, expected):
        if isinstance(row.get("step"), int):
            collector.add(row["step"], row.get("heads"), skipped=False)
    recordings = flight.recordings(files.recordings)
    skips = []
    for row in rows(files.skips, problems, expected):
        if (skip := skipped.of_run(row, folder, recordings)) is not None:
            skips.append(skip)
            collector.add(skip.step, row.get("heads"), skipped=True)
    written = int(log.skipped.sum())
    if len(skips) < written:
        problems.append(
            f"{files.metrics.name} has {written} skipped updates and {files.skips.name} {len(skips)}: of the others "
            "neither ranks nor heads are known"
        )
    elif len(skips) > written and state != "running":  # skips are written at once, and steps every few seconds
        logged = {*log.step.tolist()}
        unlogged = sum(skip.step not in logged for skip in skips)
        problems.append(
            f"{files.skips.name} has {len(skips)} skipped updates and {files.metrics.name} {written}: of "
            + (f"{unlogged} of them it lacks the step" if unlogged else "the others it says that they were applied")
        )
    contradictions = _contradictions(summary, log, bool(gaps))
    problems += contradictions
    if gaps and not (summary and len(log)):
        untrusted = untrusted or gaps[0]
    elif contradictions:
        untrusted = untrusted or contradictions[0]
    for note in _texts(seen.get("resumed")):
        problems.append(f"resumed: {note}")
    return RunData(
        folder, state, told, seen, _planned(told, seen), log, tuple(skips), collector.looks(),
        _evaluations(files.evaluations, problems, expected), _samples(files.samples, summary, log), summary,
        _tail(folder / LOG) if state in ("cut off", "not begun", "stopped") else "", tuple(problems),
        untrusted, _modified(files.metrics),
    )  # fmt: skip


def is_held(lock: Path) -> bool:
    """Whether a process of this machine works in the folder of this lock file, without taking the lock oneself."""
    try:
        there = lock.stat()
    except OSError:
        return False
    mine = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return _cannot_be_shared(lock)
    return any("FLOCK" in line and mine in line.split() for line in lines)


def _cannot_be_shared(lock: Path) -> bool:
    """Where the system does not list its locks: take a shared one for a moment."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _configuration(path: Path, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any], Expected]:
    """What the run was told, flat, what it saw, and what its other files must say of themselves."""
    try:
        file = RunFile.read(path)
    except VdvaePatchError as error:
        problems.append(str(error))
        return {}, {}, Expected()
    flat = {key: value for key, value in file.told.items() if not isinstance(value, dict)}
    for table in file.told.values():
        if isinstance(table, dict):
            flat |= table
    return flat, file.seen, Expected(file.run, file.checks_logs)


def _summary(path: Path, expected: Expected, problems: list[str]) -> tuple[dict[str, Any], dict[str, int]]:
    """What the run came to, and how many lines its logs have; both empty if it cannot be trusted."""
    if not path.exists():
        return {}, {}
    try:
        summary, vouched = read_checked(path)
        told = require(summary, {"steps": int | None, "logs": dict[str, int] | None, "run": dict[str, Any] | None},
                       str(path), RunError)  # fmt: skip
    except VdvaePatchError as error:
        problems.append(str(error))
        return {}, {}
    found = str((told.get("run") or {}).get("id", expected.run))
    if expected.run and found != expected.run:
        problems.append(f"{path.name} is of run {found}, and config.toml of run {expected.run}: it is left out")
        return {}, {}
    if expected.run and not vouched:
        problems.append(f"{path.name} has lost its checksum: it is left out")
        return {}, {}
    steps = told.get("steps")
    return summary, {**({} if steps is None else {"metrics": steps}), **(told.get("logs") or {})}


def _state(folder: Path, told: Mapping[str, Any], log: Log, summary: Mapping[str, Any]) -> State:
    if is_held(folder / LOCK):
        return "running"
    if summary:
        return "finished"
    if not len(log):
        return "not begun"
    limit = told.get("max_consecutive_skips")
    trailing = int(log.skipped[::-1].argmin()) if not log.skipped.all() else len(log)
    return "stopped" if isinstance(limit, int) and trailing >= limit else "cut off"


def _planned(told: Mapping[str, Any], seen: Mapping[str, Any]) -> int | None:
    steps = told.get("steps")
    if isinstance(steps, int):
        return steps
    each = _an_epoch(seen)
    epochs = told.get("epochs")
    return None if each is None else (epochs if isinstance(epochs, int) else 300) * each


def _an_epoch(seen: Mapping[str, Any]) -> int | None:
    """Steps an epoch, by the images and the batch that a run saw."""
    data = seen.get("data")
    images = data.get("train_count") if isinstance(data, dict) else None
    batch = seen.get("global_batch")
    if isinstance(images, int) and isinstance(batch, int) and batch > 0:
        from vdvae_patch.data.batches import steps_per_epoch

        return steps_per_epoch(images, batch)
    return None


def _evaluations(path: Path, problems: list[str], expected: Expected) -> tuple[Evaluation, ...]:
    return tuple(
        Evaluation(row["step"], number(row.get("elbo")), number(row.get("sigma_of_first_batch", 0.0)))
        for row in rows(path, problems, expected)
        if isinstance(row.get("step"), int)
    )


def _samples(folder: Path, summary: Mapping[str, Any], log: Log) -> tuple[tuple[int, Path], ...]:
    found = []
    for path in sorted(folder.glob("*.png")):
        digits = path.stem.removeprefix("step-")
        if digits.isascii() and digits.isdigit():
            found.append((int(digits), path))
    final = folder / "final.png"
    if final.exists():
        steps = summary.get("steps")
        last = steps if isinstance(steps, int) else int(log.step[-1]) + 1 if len(log) else 0
        found = [(step, path) for step, path in found if step != last] + [(last, final)]
    return tuple(sorted(found))


_NAN = ("nan_rate", "nan_distortion", "nan_loss")


def _contradictions(summary: Mapping[str, Any], log: Log, has_gaps: bool) -> list[str]:
    """Where the log says something else than the summary; with gaps in it, where it says more."""
    counted = {
        "high_gradient_count": log.count("high_gradient"),
        "nan_count": log.count(*_NAN),
        "steps": int(log.step[-1]) + 1 if len(log) else 0,
    }
    return [
        f"its files disagree: summary.json says {said} for {key}, metrics.jsonl {count}"
        for key, count in counted.items()
        if isinstance(said := summary.get(key), int) and (count > said if has_gaps else count != said)
    ]


def _tail(path: Path) -> str:
    """The last lines of a process's output."""
    try:
        with path.open("rb") as file:
            file.seek(-min(_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []
