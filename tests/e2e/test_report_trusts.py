"""What `report` shows of a run is of that run: files of another one, without checksums or cut short are said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import tiny

from vdvae_patch.report.runs import RunData, read_run
from vdvae_patch.train.loop import train

LOGS = ("metrics", "heads", "evaluations", "skips")
Harm = Callable[[Path, Path, str], None]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ in their seed alone, with as many lines in every log."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (0, 1):
        settings = {"skip_threshold": 1e-6, "max_consecutive_skips": 100, "evaluate_every": 3, "watch_every": 3}
        train(tiny(folder / str(seed), steps=12, seed=seed, checkpoint_every=4, record_skips=0, **settings))
    return folder / "0", folder / "1"


def of_the_other(run: Path, other: Path, log: str) -> None:
    shutil.copy(other / f"{log}.jsonl", run / f"{log}.jsonl")


def half_of_the_other(run: Path, other: Path, log: str) -> None:
    mine, theirs = ((folder / f"{log}.jsonl").read_text().splitlines(True) for folder in (run, other))
    half = len(mine) // 2
    (run / f"{log}.jsonl").write_text("".join([*mine[:half], *theirs[half:]]))


def without_checksums(run: Path, other: Path, log: str) -> None:
    rows = [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]
    kept = [{key: 1.5 if key == "elbo" else value for key, value in row.items() if key != "_check"} for row in rows]
    (run / f"{log}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def without_its_last_line(run: Path, other: Path, log: str) -> None:
    lines = (run / f"{log}.jsonl").read_text().splitlines(True)
    (run / f"{log}.jsonl").write_text("".join(lines[:-1]))


def gone(run: Path, other: Path, log: str) -> None:
    (run / f"{log}.jsonl").unlink()


def harmed(two: tuple[Path, Path], tmp_path: Path, harm: Callable[[Path, Path], None]) -> RunData:
    run = tmp_path / "run"
    shutil.copytree(two[0], run)
    harm(run, two[1])
    return read_run(run)


@pytest.mark.medium
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("harm", [of_the_other, half_of_the_other, without_checksums, without_its_last_line, gone])
@pytest.mark.parametrize("has_ended", [True, False])
def test_a_log_that_is_not_what_the_run_wrote_is_said(
    two: tuple[Path, Path], tmp_path: Path, log: str, harm: Harm, has_ended: bool
) -> None:
    def all_of_it(run: Path, other: Path) -> None:
        harm(run, other, log)
        if not has_ended:  # its checkpoint says then how many lines there were
            (run / "summary.json").unlink()

    found = harmed(two, tmp_path, all_of_it)
    assert any(f"{log}.jsonl" in problem for problem in found.problems), found.problems
    clean = read_run(two[0])
    assert clean.problems == ()
    if log == "metrics":
        known = np.isin(clean.log.step, found.log.step)
        assert found.log.nelbo.tolist() == clean.log.nelbo[known].tolist()


def test_the_summary_of_another_run_is_left_out(two: tuple[Path, Path], tmp_path: Path) -> None:
    found = harmed(two, tmp_path, lambda run, other: shutil.copy(other / "summary.json", run / "summary.json"))
    assert not found.summary
    assert any("summary.json is of run" in problem for problem in found.problems)


def test_a_summary_without_its_checksum_is_left_out(two: tuple[Path, Path], tmp_path: Path) -> None:
    def changed(run: Path, other: Path) -> None:
        summary = json.loads((run / "summary.json").read_text())
        del summary["checksum"]
        (run / "summary.json").write_text(json.dumps(summary | {"test_nelbo_nats_per_dim": 1.5}))

    found = harmed(two, tmp_path, changed)
    assert not found.summary
    assert any("lost its checksum" in problem for problem in found.problems)
