"""What a page says of a run that goes on, of one that was killed, and of one whose settings somebody has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from compare_samples import SEEN, make_plan, write_run

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.report import write
from vdvae_patch.report.runs import read_run
from vdvae_patch.skips.counted import write_counts
from vdvae_patch.skips.records import JsonLines, short
from vdvae_patch.train.folder import RunFolder, open_folder, write_config

LOGGED = [None, "high_gradient", None]


@pytest.fixture
def run(tmp_path: Path) -> PlannedRun:
    """One whose three steps are logged, of which one was skipped, and without a summary."""
    (only,) = make_plan(tmp_path, "vanilla", "0").runs
    write_run(only, LOGGED, nelbo=None)
    return only


def at_work(run: PlannedRun) -> Callable[[], None]:
    """Take a run's folder, as its process does; called, what comes back lets it go."""
    run.folder.rename(aside := run.folder.with_name("aside"))
    folder = open_folder(run.config, resume=False)
    for file in aside.iterdir():
        if file.name != folder.path.joinpath("run.lock").name:
            file.rename(folder.path / file.name)
    return folder.close


def skips(run: PlannedRun, *steps: int) -> None:
    log = JsonLines(RunFolder(run.folder).skips)
    for step in steps:
        log.write({"step": step, "cause": "high_gradient", "heads": []})
    log.close()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((1,), None),
        ((), "metrics.jsonl has 1 skipped updates and skips.jsonl 0: of the others neither ranks nor heads are known"),
        ((1, 3, 4), "skips.jsonl has 3 skipped updates and metrics.jsonl 1: of 2 of them it lacks the step"),
        ((1, 2), "skips.jsonl has 2 skipped updates and metrics.jsonl 1: of the others it says that they were applied"),
    ],
)
def test_of_a_run_that_was_killed_it_is_said_which_of_its_logs_has_fewer_skips(
    run: PlannedRun, steps: tuple[int, ...], said: str | None
) -> None:
    skips(run, *steps)
    assert read_run(run.folder).problems == (() if said is None else (said,))


def test_a_run_that_goes_on_writes_its_skips_before_its_steps_and_nothing_is_wrong_with_it(run: PlannedRun) -> None:
    skips(run, 1, 3, 4)
    let_go = at_work(run)
    shown = read_run(run.folder)
    assert (shown.state, shown.problems) == ("running", ())
    let_go()


def test_a_run_that_begins_has_no_configuration_yet(run: PlannedRun) -> None:
    let_go = at_work(run)
    RunFolder(run.folder).config.unlink()
    assert "its config.toml is not written yet" in read_run(run.folder).problems
    let_go()
    assert "config.toml does not exist" in read_run(run.folder).problems[0]


def test_settings_that_were_changed_by_hand_are_said_although_checksum_and_identity_were_taken_out(
    run: PlannedRun,
) -> None:
    seen = SEEN | {"id": f"{7:032x}"}
    folder = RunFolder(run.folder)
    write_config(folder, run.config, seen)
    write_counts(run.folder, f"{7:032x}", {"metrics": 3})
    assert not [text for text in read_run(run.folder).problems if "by hand" in text]
    text = folder.config.read_text().replace("lr = 0.0002", "lr = 0.1")
    folder.config.write_text(text)
    (refused,) = [text for text in read_run(run.folder).problems if "by hand" in text]
    assert "settings are changed by flags" in refused
    lines = text.splitlines()[1:]
    folder.config.write_text("\n".join(line for line in lines if not line.startswith("id =")))
    shown = read_run(run.folder)
    assert shown.settings["lr"] == 0.1
    assert f"its other files are of run {short(f'{7:032x}')}): it was changed by hand" in " ".join(shown.problems)


def test_a_page_that_is_watched_is_written_again_when_a_run_is_killed_which_changes_no_file(
    run: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, states = at_work(run), []

    def written(path: Path, out: Path | None, *, reload_seconds: int) -> Path:
        states.append(read_run(path).state)
        return path

    monkeypatch.setattr(write, "write", written)
    write.watch(run.folder, told=lambda _: None, sleep=lambda _: let_go(), rounds=3)
    assert states == ["running", "cut off"]
