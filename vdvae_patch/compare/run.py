"""A comparison from beginning to end: do the runs, then write what they showed."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vdvae_patch.compare import tested
from vdvae_patch.compare.curves import draw_curves
from vdvae_patch.compare.executor import Executor, starter
from vdvae_patch.compare.gallery import draw_gallery
from vdvae_patch.compare.plan import Comparison, PlannedRun
from vdvae_patch.compare.progress import ComparisonProgress
from vdvae_patch.compare.reading import reading, too_short, unusual
from vdvae_patch.compare.report import CURVES, GALLERY, gallery_section, report
from vdvae_patch.compare.results import Row, RunResult, by_mass, collect, summarise
from vdvae_patch.compare.schedule import Ended, execute
from vdvae_patch.compare.states import state_of
from vdvae_patch.compare.table import as_csv, as_record, cells, convention, headings, notes
from vdvae_patch.compare.tested import Evaluated
from vdvae_patch.errors import RunError, VdvaePatchError, visible
from vdvae_patch.tables import literal, markdown
from vdvae_patch.train.folder import COMPARISON_LOCK, holder, write_json, write_whole
from vdvae_patch.train.interrupts import StopRequest
from vdvae_patch.train.provenance import command
from vdvae_patch.train.setup import find_entry

_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Report:
    """What was shown and written.

    Attributes:
        sentences: the table in plain words.
        notes: what its means leave out.
        curves, gallery: the figures; None where there is nothing to draw.
        report: the document that holds all.
    """

    rows: tuple[Row, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    curves: Path | None
    gallery: Path | None
    report: Path


def do_runs(
    comparison: Comparison, console: Console, stop: StopRequest, executor: Executor = "processes"
) -> list[Ended]:
    """Do what is left to do; how each of those ended."""
    left = [run for run in comparison.runs if state_of(run) not in ("finished", "stopped")]
    if ready := len(comparison.runs) - len(left):
        console.print(f"{ready} of {len(comparison.runs)} runs have ended before and are not done again")
    if not left:
        return []
    where = f"{len(left)} runs, {min(comparison.jobs, len(left))} at a time, into {comparison.out}"
    console.print(visible(where), markup=False)
    for line in (*_unusual(comparison), *too_short(comparison.base)):
        console.print(visible(line), highlight=False, markup=False)
    with hold(comparison.out):
        wait_for_others(left, console, stop)
        with ComparisonProgress(len(left), console) as progress:
            return execute(comparison, progress, stop, start=starter(executor, comparison.out))


def write_report(comparison: Comparison) -> Report:
    """Read the runs' folders and write table, figures and report into the comparison's.

    Raises:
        RunError: no run has done a step, a run's file is damaged, or a file cannot be written.
    """
    out = comparison.out
    results = collect(comparison.runs)
    if not results:
        raise RunError(f"no run in {out} has done a step; see the log.txt of each")
    if all(result.outcome == "refused" for result in results):
        raise RunError(f"no run in {out} can be trusted: {results[0].label}: {results[0].problems[0]}")
    rows = summarise(comparison.variants, len(comparison.seeds), results)
    of_tests = tested.remarks(_tested(comparison, results))
    table = markdown(headings(rows), [map(literal, cells(row, by_mass(rows))) for row in rows])
    write_whole(out / "table.md", f"{table}\n{' '.join([convention(rows), *of_tests])}\n")
    write_whole(out / "table.csv", as_csv(rows))
    write_json(out / "comparison.json", _record(comparison, rows, results), checksum=True)
    curves = out / CURVES
    draw_curves(results, comparison.variants, [curves, curves.with_suffix(".svg")])
    section, gallery = _gallery(comparison)
    sentences = [*reading(rows), *_unusual(comparison), *of_tests]
    write_whole(out / "report.md", report(comparison, rows, results, sentences, section, command()))
    return Report(tuple(rows), tuple(sentences), tuple(notes(rows, results)), curves, gallery, out / "report.md")


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keep a second comparison out of a folder.

    Raises:
        RunError: one works in it already, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / COMPARISON_LOCK).open("a+")
    except OSError as error:
        raise RunError(f"folder {out} cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another comparison is at work in {out}; wait for it, or choose another --out") from None
        yield


def wait_for_others(
    runs: Sequence[PlannedRun],
    console: Console,
    stop: StopRequest,
    *,
    sleep: Callable[[float], None] = time.sleep,
    patience: float = 60.0,
) -> None:
    """Wait for runs that another process still does: a comparison that was killed has left them, and they save.

    Raises:
        RunError: one goes on for longer than `patience` seconds; the message says which process it is.
    """
    waited, told = 0.0, False
    while not stop and (busy := [(run, owner) for run in runs if (owner := holder(run.folder)) is not None]):
        run, owner = busy[0]
        if not told:
            told = True
            console.print(
                f"{run.label} is being done by process {owner}, left by a comparison that was killed; waiting for it "
                f"to save and to end (at most {patience:g} s)",
                highlight=False,
            )
        if waited >= patience:
            raise RunError(
                f"{run.label} in {run.folder} is still being done by process {owner}: wait for it, or ask it to save "
                f"and to end with `kill {owner}`, and give the same command again"
            )
        sleep(_WAIT_SECONDS)
        waited += _WAIT_SECONDS


def _unusual(comparison: Comparison) -> list[str]:
    preset = find_entry(comparison.base).preset(comparison.base.preset)
    return unusual(comparison.base, preset.optimization.lr)


def _tested(comparison: Comparison, results: Sequence[RunResult]) -> list[Evaluated]:
    rate = comparison.base.optimization.ema_rate
    return [Evaluated.by(run.label, run.summary, run.seen, rate) for run in results if run.summary]


def _gallery(comparison: Comparison) -> tuple[str, Path | None]:
    """The report's section on images. Whatever keeps it from being drawn is said there; the numbers do not need it."""
    path = comparison.out / GALLERY
    path.unlink(missing_ok=True)
    try:
        caption = draw_gallery(comparison.runs, path)
    except VdvaePatchError as error:
        return f"The images could not be drawn: {error}.", None
    if caption is None:
        return "No run has a checkpoint to draw images from.", None
    return gallery_section(caption), path


def _record(comparison: Comparison, rows: Sequence[Row], results: Sequence[RunResult]) -> dict[str, Any]:
    return {
        "command": command(),
        "std": "sample standard deviation (n - 1); null for one value",
        "settings": comparison.base.settings(),
        "rows": [as_record(row) for row in rows],
        "runs": [_run_record(result) for result in results],
    }


def _run_record(result: RunResult) -> dict[str, Any]:
    return {
        "variant": result.variant,
        "seed": result.seed,
        "folder": result.folder.name,
        "outcome": result.outcome,
        "steps": result.steps,
        "high_gradient_count": result.high_gradient,
        "nan_count": result.nan,
        "test_nelbo_nats_per_dim": result.nelbo,
        "test_nelbo_bits_per_dim": result.bits,
        "problems": list(result.problems),
        "unchecked": list(result.unchecked),
        **{key: value for key, value in result.summary.items() if key != "run"},
        "run": result.seen,
    }
