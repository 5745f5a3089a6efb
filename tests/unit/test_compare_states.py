"""How far a run has come, told from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_samples import make_plan, write_run

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.compare.states import state_of
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


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_run_without_summary_is_to_be_resumed(run: PlannedRun, checkpoint: bool) -> None:
    write_run(run, nelbo=None, checkpoint=checkpoint)
    assert state_of(run) == "begun"


def test_a_run_whose_last_updates_were_all_skipped_has_stopped(run: PlannedRun) -> None:
    write_run(run, [None, "nan_rate", "high_gradient", "nan_rate"], nelbo=None, checkpoint=True)
    assert state_of(run) == "stopped"


def test_one_applied_update_in_between_and_it_has_not_stopped(run: PlannedRun) -> None:
    write_run(run, ["nan_rate", "nan_rate", None, "nan_rate", "nan_rate"], nelbo=None)
    assert state_of(run) == "begun"


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
