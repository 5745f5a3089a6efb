"""How far a run has come, told from its folder; and that nothing of anyone else's is removed."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from compare_samples import make_plan, write_run

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.states import clear, state_of
from vdvae_patch.errors import RunError


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    return make_plan(tmp_path, "vanilla", "0", "--max-consecutive-skips", "3").runs[0]


def test_a_run_without_folder_is_absent(run: PlannedRun) -> None:
    assert state_of(run) == "absent"


def test_a_run_that_died_before_it_wrote_its_settings_is_absent(run: PlannedRun) -> None:
    run.folder.mkdir()
    (run.folder / "log.txt").write_text("Killed\n")
    (run.folder / "run.lock").write_text("1\n")
    assert state_of(run) == "absent"


def test_a_run_without_checkpoint_is_abandoned(run: PlannedRun) -> None:
    write_run(run, nelbo=None)
    assert state_of(run) == "abandoned"


def test_a_run_with_checkpoint_is_resumable(run: PlannedRun) -> None:
    write_run(run, nelbo=None, checkpoint=True)
    assert state_of(run) == "resumable"


def test_a_run_whose_last_updates_were_all_skipped_has_stopped(run: PlannedRun) -> None:
    write_run(run, [None, "nan_rate", "high_gradient", "nan_rate"], nelbo=None, checkpoint=True)
    assert state_of(run) == "stopped"


def test_one_applied_update_in_between_and_it_has_not_stopped(run: PlannedRun) -> None:
    write_run(run, ["nan_rate", "nan_rate", None, "nan_rate", "nan_rate"], nelbo=None)
    assert state_of(run) == "abandoned"


def test_a_run_with_summary_is_finished_however_it_ended(run: PlannedRun) -> None:
    write_run(run, ["nan_rate"] * 6)
    assert state_of(run) == "finished"


def test_a_folder_with_something_else_is_refused_and_kept(run: PlannedRun) -> None:
    run.folder.mkdir()
    (run.folder / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds no run"):
        state_of(run)
    assert (run.folder / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_holds_another_variant_is_refused(run: PlannedRun, tmp_path: Path) -> None:
    other = make_plan(tmp_path, "explin", "4").runs[0]
    write_run(other)
    other.folder.rename(run.folder)
    with pytest.raises(RunError, match="should hold vanilla seed 0, but holds explin seed 4"):
        state_of(run)


def test_an_abandoned_run_is_cleared(run: PlannedRun) -> None:
    write_run(run, nelbo=None)
    clear(run)
    assert not run.folder.exists()


def test_a_file_that_no_run_writes_keeps_the_folder(run: PlannedRun) -> None:
    write_run(run, nelbo=None)
    (run.folder / "notes.md").write_text("seed 0 looks odd")
    with pytest.raises(RunError, match=r"'notes.md', which no run writes"):
        clear(run)
    assert (run.folder / "metrics.jsonl").exists()


def test_a_run_that_a_process_works_in_is_not_cleared(run: PlannedRun) -> None:
    write_run(run, nelbo=None)
    with (run.folder / "run.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use"):
            clear(run)
    assert (run.folder / "config.toml").exists()
