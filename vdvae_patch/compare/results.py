"""What the runs' folders say, one object a run and one a variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.states import state_of
from vdvae_patch.errors import RunError
from vdvae_patch.patching import Variant
from vdvae_patch.skips import records
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import read_json
from vdvae_patch.validation import require

_SUMMARY = {
    "test_nelbo_nats_per_dim": float | None, "test_mass_nelbo_nats_per_dim": float | None,
    "images_per_second": float | None, "peak_memory_bytes": int | None, "test": dict[str, Any] | None,
    "steps": int, "high_gradient_count": int, "nan_count": int,
}  # fmt: skip
_TEST = {"filtered_elbo": float | None, "bad_batches": int | None}

Floats = NDArray[np.float64]
Outcome = Literal["finished", "stopped", "unfinished"]


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


@dataclass(frozen=True)
class RunResult:
    """One run.

    Attributes:
        outcome: `stopped` is a run that ended because every update was skipped for long: it no longer learns.
        steps: how many were done.
        high_gradient, nan: skipped updates by cause.
        nelbo: of the test images with the averaged weights, nats per dimension; None for a run without summary.
        filtered: the same over the batches with a finite loss.
        bad_batches: how many test batches had none.
        summary: `summary.json`, empty if there is none.
        seen: what the run saw: code, machine, data.
        problems: where its files contradict each other.
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
        counted: those that have ended, with a summary or because they no longer learn.
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
    """The results of all runs that have done a step, in their order."""
    return [read_run(run) for run in runs if state_of(run) != "absent" and (run.folder / "metrics.jsonl").exists()]


def read_run(run: PlannedRun) -> RunResult:
    """Read a run's folder.

    Raises:
        RunError: a file in it is missing or damaged.
    """
    folder = run.folder
    rows = list(_records(folder / "metrics.jsonl"))
    causes = [row["cause"] for row in rows]
    high_gradient = causes.count("high_gradient")
    nan = causes.count("nan_rate") + causes.count("nan_distortion")
    state = state_of(run)
    file = folder / "summary.json"
    summary = require(read_json(file), _SUMMARY, str(file), RunError) if state == "finished" else {}
    test = require(summary.get("test") or {}, _TEST, f"{file}.test", RunError)
    curves = Curves(
        np.array([row["step"] for row in rows], np.int64),
        np.array([row["epoch"] for row in rows], np.int64),
        np.array([row["elbo"] for row in rows], np.float64),
        np.array([row["skipped"] for row in rows], np.bool_),
    )
    return RunResult(
        variant=run.config.variant,
        seed=run.config.seed,
        folder=folder,
        outcome="finished" if summary else "stopped" if state == "stopped" else "unfinished",
        steps=len(rows),
        high_gradient=high_gradient,
        nan=nan,
        nelbo=summary.get("test_nelbo_nats_per_dim"),
        filtered=test.get("filtered_elbo"),
        bad_batches=test.get("bad_batches", 0),
        summary=summary,
        seen=RunFile.read(folder / "config.toml").seen,
        curves=curves,
        problems=_contradictions(summary, steps=len(rows), high_gradient_count=high_gradient, nan_count=nan),
    )


def summarise(variants: Sequence[str], seeds: int, results: Sequence[RunResult]) -> list[Row]:
    """One row a variant, in the order given; also for a variant that has no result yet."""
    return [_row(variant, seeds, [result for result in results if result.variant == variant]) for variant in variants]


def _row(variant: str, seeds: int, runs: Sequence[RunResult]) -> Row:
    counted = tuple(run for run in runs if run.outcome != "unfinished")
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
    return len({Variant.parse(row.variant).decoder for row in rows}) > 1


def spread(values: Sequence[float | None], total: int) -> Spread:
    """Mean and sample standard deviation of the values that are there and finite, of `total` runs."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    mean = math.fsum(finite) / len(finite) if finite else None
    std = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    return Spread(mean, std, len(finite), total)


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return list(records.read(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove the run's folder to do it again") from None


def _contradictions(summary: dict[str, Any], **counted: int) -> tuple[str, ...]:
    return tuple(
        f"summary.json says {summary[key]} for {key}, metrics.jsonl {count}"
        for key, count in counted.items()
        if summary and summary[key] != count
    )
