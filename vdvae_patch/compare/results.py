"""What the runs' folders say, one object a run and one a variant."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.compare import alike
from vdvae_patch.compare.alike import Seen
from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.states import progress_of
from vdvae_patch.errors import RunError, VdvaePatchError
from vdvae_patch.patching import Variant
from vdvae_patch.reading.fields import require
from vdvae_patch.skips.audit import Audit, Columns
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import RunFolder, read_checked, trained_otherwise

_SUMMARY = {
    "test_nelbo_nats_per_dim": float | None, "test_mass_nelbo_nats_per_dim": float | None,
    "images_per_second": float | None, "peak_memory_bytes": int | None, "test": dict[str, Any] | None,
    "steps": int, "high_gradient_count": int, "nan_count": int, "loss_scale_count": int | None,
}  # fmt: skip
_TEST = {"filtered_elbo": float | None, "bad_batches": int | None}

Floats = NDArray[np.float64]
Outcome = Literal["finished", "stopped", "unfinished", "refused"]


@dataclass(frozen=True)
class Curves:
    """One value a step.

    Attributes:
        step: the steps' numbers, from 0.
        epoch: the epoch that each belongs to.
        nelbo: of the training batch, nats per dimension; may be NaN or infinite.
        skipped: whether the update was skipped.
    """

    step: NDArray[np.int64]
    epoch: NDArray[np.int64]
    nelbo: Floats
    skipped: NDArray[np.bool_]

    @property
    def trailing_skips(self) -> int:
        """How many updates in a row were skipped at the end."""
        applied = np.flatnonzero(~self.skipped)
        return len(self.skipped) - (int(applied[-1]) + 1 if len(applied) else 0)


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        outcome: `stopped` is a run that ended because every update was skipped for long: it no longer learns.
            `refused` is one whose files are damaged or contradict each other: none of its numbers is shown.
        steps: how many were done.
        high_gradient, nan, loss_scale: skipped updates by cause; the last of fp16 alone, while its scale is found.
        nelbo: of the test images with the averaged weights, nats per dimension; None for a run without summary.
        filtered: the same over the batches with a finite loss.
        bad_batches: how many test batches had none.
        summary: `summary.json`, empty if there is none.
        seen: what the run saw: code, machine, data.
        problems: what is damaged or missing in its files, and where they contradict each other.
        unchecked: what no checksum vouches for: files of a version that wrote none.
    """

    variant: str
    seed: int
    folder: Path
    outcome: Outcome
    steps: int
    high_gradient: int
    nan: int
    nelbo: float | None
    filtered: float | None
    bad_batches: int
    summary: dict[str, Any]
    seen: dict[str, Any]
    curves: Curves
    problems: tuple[str, ...]
    unchecked: tuple[str, ...] = ()
    loss_scale: int = 0

    @property
    def label(self) -> str:
        """`upbounded seed 0`."""
        return f"{self.variant} seed {self.seed}"

    @property
    def bits(self) -> float | None:
        """`nelbo` in bits per dimension."""
        return None if self.nelbo is None else self.nelbo / math.log(2)

    @property
    def mass(self) -> float | None:
        """The test NELBO by the mass of each pixel's bin, nats per dimension: that of a discrete likelihood is such."""
        discrete = self.nelbo if self.summary.get("likelihood") == "discrete" else None
        found: float | None = self.summary.get("test_mass_nelbo_nats_per_dim", discrete)
        return found

    @property
    def mass_bits(self) -> float | None:
        """`mass` in bits per dimension."""
        return None if self.mass is None else self.mass / math.log(2)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1 in the denominator; None for one value) of the finite values.

    Attributes:
        count: how many finite values there were.
        total: of how many runs.
    """

    mean: float | None
    std: float | None
    count: int
    total: int


@dataclass(frozen=True)
class Row:
    """One variant over its seeds; the spreads are over `counted`.

    Attributes:
        runs: those that have done a step.
        counted: those that have ended, with a summary or because they no longer learn, and can be trusted.
        seeds: how many runs were asked for.
    """

    variant: str
    runs: tuple[RunResult, ...]
    counted: tuple[RunResult, ...]
    seeds: int
    high_gradient: Spread
    nan: Spread
    nats: Spread
    bits: Spread
    mass: Spread
    mass_bits: Spread


def collect(runs: Sequence[PlannedRun]) -> list[RunResult]:
    """The results of all runs that have done a step, in their order.

    A run whose files are damaged is `refused`, and so is one that saw other images or batches than most of them.
    """
    found = []
    for run in runs:
        try:
            if (progress := progress_of(run)) != "absent" and (progress == "finished" or _metrics(run).exists()):
                found.append((run, read_run(run)))
        except RunError as error:
            if not _metrics(run).exists() and not (run.folder / "summary.json").exists():
                raise
            found.append((run, _refused(run, (str(error),))))
    trusted = [pair for pair in found if pair[1].outcome != "refused"]
    seen = [Seen.of(result.seen, run.config.settings()) for run, result in trusted]
    others = {run.folder: why for (run, _), why in zip(trusted, alike.others(seen), strict=True) if why}
    return [
        _refused(run, (f"it saw other data: {others[run.folder]}",), result.seen) if run.folder in others else result
        for run, result in found
    ]


def _metrics(run: PlannedRun) -> Path:
    return run.folder / "metrics.jsonl"


def read_run(run: PlannedRun) -> RunResult:
    """Read a run's folder.

    A damaged or missing record of a run with a summary, which has a checksum of its own, leaves a gap in its curve and
    is said; its counts are those of the summary then. A run that contradicts itself is `refused`, with `problems`.

    Raises:
        RunError: a file in it is missing, or so damaged that nobody can say what the run did.
    """
    folder = run.folder
    file = RunFile.read(folder / "config.toml")
    progress = progress_of(run)
    where = str(folder / "summary.json")
    summary, checked = read_checked(folder / "summary.json") if progress == "finished" else ({}, True)
    if summary:
        require(summary, _SUMMARY | {"logs": dict[str, int] | None, "run": dict[str, Any] | None}, where, RunError)
    if summary:
        said, miscounted = {"metrics": summary.get("steps"), **(summary.get("logs") or {})}, ""
    else:
        said, miscounted = RunFolder(folder).lines_logged(file.run)
    log = Audit(folder / "metrics.jsonl", file.run, checked=file.checks_logs)
    curves, causes, unread = _columns(log)
    gaps = log.problems(said.get("metrics"))
    if gaps and not (summary and checked and log.good):
        raise RunError(f"{folder / 'metrics.jsonl'} cannot be read: {gaps[0]}; remove the run's folder to do it again")
    if unread is not None:
        raise unread
    counts = {
        "steps": len(curves.step), "high_gradient_count": causes["high_gradient"],
        "nan_count": causes["nan_rate"] + causes["nan_distortion"],
    }  # fmt: skip
    contradictions = _contradictions(summary, gaps, **counts)
    found = str((summary.get("run") or {}).get("id", file.run)) if summary else file.run
    if file.run and found != file.run:
        contradictions.append(f"summary.json is of run {found}, config.toml of run {file.run}")
    if file.run and not checked:
        contradictions.append("summary.json has lost its checksum")
    contradictions += [f"it was not trained alike all the time: {line}" for line in trained_otherwise(file.seen)]
    if contradictions:
        return _refused(run, (*contradictions, *gaps), file.seen)
    test = require(summary.get("test") or {}, _TEST, f"{where}.test", RunError)
    stopped = curves.trailing_skips >= run.config.max_consecutive_skips
    unchecked = [name for name, good in (("config.toml", file.checked), ("summary.json", checked)) if not good]
    return RunResult(
        variant=run.config.variant,
        seed=run.config.seed,
        folder=folder,
        outcome="finished" if summary else "stopped" if stopped else "unfinished",
        steps=summary.get("steps", counts["steps"]),
        high_gradient=summary.get("high_gradient_count", counts["high_gradient_count"]),
        nan=summary.get("nan_count", counts["nan_count"]),
        nelbo=summary.get("test_nelbo_nats_per_dim"),
        filtered=test.get("filtered_elbo"),
        bad_batches=test.get("bad_batches", 0),
        summary=summary,
        seen=file.seen,
        curves=curves,
        problems=(*([miscounted] if miscounted else []), *gaps, *_of_other_logs(folder, file, said)),
        unchecked=(*unchecked, *(["metrics.jsonl"] if log.unchecked else [])),
        loss_scale=summary.get("loss_scale_count", causes["loss_scale"]),
    )


def _refused(run: PlannedRun, problems: tuple[str, ...], seen: dict[str, Any] | None = None) -> RunResult:
    """A run of whose numbers none is shown."""
    empty = Curves(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))
    return RunResult(
        variant=run.config.variant, seed=run.config.seed, folder=run.folder, outcome="refused", steps=0,
        high_gradient=0, nan=0, nelbo=None, filtered=None, bad_batches=0, summary={}, seen=seen or {}, curves=empty,
        problems=problems,
    )  # fmt: skip


_FIELDS: dict[str, tuple[type, ...]] = {
    "step": (int,), "epoch": (int,), "elbo": (int, float), "skipped": (bool,), "cause": (str, type(None)),
}  # fmt: skip


class _Kept:
    """What is kept of a log: 25 bytes a step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step, self._epoch, self._nelbo, self._skipped = array("q"), array("q"), array("d"), array("b")
        self._causes: Counter[str | None] = Counter()

    def take(self, columns: Columns) -> None:
        """Keep the values of some records.

        Raises:
            RunError: the first of them that has no such values.
        """
        if all({*map(type, columns.of(name))} <= types for name, types in _USUAL.items()):
            try:
                step, epoch = array("q", columns.of("step")), array("q", columns.of("epoch"))
            except OverflowError:
                pass  # one of them is said below
            else:
                self._step.extend(step)
                self._epoch.extend(epoch)
                self._nelbo.extend(columns.of("elbo"))
                self._skipped.extend(columns.of("skipped"))
                self._causes.update(columns.of("cause"))
                return
        for row in columns.rows():
            self._take_one(row)

    def _take_one(self, row: dict[str, Any]) -> None:
        _typed(row, self._path)
        try:
            self._step.append(row["step"])
            self._epoch.append(row["epoch"])
            self._nelbo.append(row["elbo"])
        except OverflowError:
            number = len(self._skipped) + 1
            raise RunError(f"{self._path} cannot be read: its record {number} has a number beyond 64 bits") from None
        self._skipped.append(row["skipped"])
        self._causes[row["cause"]] += 1

    @property
    def causes(self) -> Counter[str]:
        """Of the skipped updates."""
        return Counter({cause: count for cause, count in self._causes.items() if cause is not None})

    def curves(self) -> Curves:
        """One value a step."""
        return Curves(
            np.frombuffer(self._step, np.int64), np.frombuffer(self._epoch, np.int64),
            np.frombuffer(self._nelbo, np.float64), np.frombuffer(self._skipped, np.bool_),
        )  # fmt: skip


def _columns(log: Audit) -> tuple[Curves, Counter[str], RunError | None]:
    """One value a step and the causes of the skipped updates; and the first record that has no such values."""
    kept = _Kept(log.path)
    unread: RunError | None = None
    for columns in log.columns(tuple(_FIELDS)):
        if unread is not None:  # what is damaged behind it is said first
            continue
        try:
            kept.take(columns)
        except RunError as error:
            unread = error
    return kept.curves(), kept.causes, unread


_USUAL: dict[str, set[type]] = {
    "step": {int},
    "epoch": {int},
    "elbo": {float},
    "skipped": {bool},
    "cause": {str, type(None)},
}
"""The types of the fields in all but a few records: these need no closer look, and a million of them come by."""


def _typed(row: dict[str, Any], path: Path) -> None:
    """Refuse a record whose fields are not of the types that are read of it."""
    for name, types in _FIELDS.items():
        if not isinstance(row.get(name, _FIELDS), types):
            said = repr(row[name])[:40] if name in row else "missing"
            raise RunError(f"{path} cannot be read: its record of step {row.get('step')!r} has {name} {said}")


def _of_other_logs(folder: Path, file: RunFile, expected: Mapping[str, int]) -> list[str]:
    """What is wrong with the logs of which no number is shown here."""
    said = []
    for name in ("skips", "heads", "evaluations"):
        log = Audit(folder / f"{name}.jsonl", file.run, checked=file.checks_logs)
        deque(log.records(), maxlen=0)
        said += log.problems(expected.get(name))
    return said


def summarise(variants: Sequence[str], seeds: int, results: Sequence[RunResult]) -> list[Row]:
    """One row a variant, in the order given; also for a variant that has no result yet."""
    return [_row(variant, seeds, [result for result in results if result.variant == variant]) for variant in variants]


def _row(variant: str, seeds: int, runs: Sequence[RunResult]) -> Row:
    counted = tuple(run for run in runs if run.outcome not in ("unfinished", "refused"))
    return Row(
        variant,
        tuple(runs),
        counted,
        seeds,
        spread([run.high_gradient for run in counted], seeds),
        spread([run.nan for run in counted], seeds),
        spread([run.nelbo for run in counted], seeds),
        spread([run.bits for run in counted], seeds),
        spread([run.mass for run in counted], seeds),
        spread([run.mass_bits for run in counted], seeds),
    )


def by_mass(rows: Sequence[Row]) -> bool:
    """Whether likelihoods differ between the rows, so that only the mass of a pixel's bin compares them."""
    return likelihoods_differ(row.variant for row in rows)


def likelihoods_differ(variants: Iterable[str]) -> bool:
    """Whether variants of one host have several decoders; a part that is not known here counts as none."""
    decoders = set()
    for text in variants:
        try:
            decoders.add(Variant.parse(text).decoder)
        except VdvaePatchError:  # of somebody's package that is not installed here
            decoders.add(None)
    return len(decoders) > 1


def spread(values: Sequence[float | None], total: int) -> Spread:
    """Mean and sample standard deviation of the values that are there and finite, of `total` runs."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    mean = math.fsum(finite) / len(finite) if finite else None
    std = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return Spread(mean, std, len(finite), total)


def _contradictions(summary: dict[str, Any], gaps: Sequence[str], **counted: int) -> list[str]:
    """Where the log says something else than the summary; with gaps in it, where it says more."""
    return [
        f"summary.json says {summary[key]} for {key}, metrics.jsonl {count}"
        for key, count in counted.items()
        if summary and (count > summary[key] if gaps else count != summary[key])
    ]
