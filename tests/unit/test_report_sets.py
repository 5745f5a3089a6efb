"""What a report puts into one mean: each run once, only what can be trusted, and only what saw the same."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from compare_samples import SEEN, make_plan, write_run

from vdvae_patch.compare.plan import Comparison
from vdvae_patch.compare.results import collect
from vdvae_patch.report.drawn import Budget, of_runs
from vdvae_patch.report.find import find
from vdvae_patch.report.page import gather, render
from vdvae_patch.report.runsets import Column, RunSet, _in, _mean
from vdvae_patch.skips.records import JsonLines
from vdvae_patch.train.folder import COMPARISON_LOCK, RunFolder, read_json, write_config, write_json


def saw(comparison: Comparison, index: int, **changed: Any) -> None:
    """Let a run have seen something else; each has an identity of its own."""
    run = comparison.runs[index]
    write_config(RunFolder(run.folder), run.config, SEEN | {"id": f"{index:032x}"} | changed)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    made = make_plan(tmp_path, "vanilla,upbounded", "0,1")
    (tmp_path / COMPARISON_LOCK).touch()
    for index, (run, nelbo) in enumerate(zip(made.runs, (4.0, 3.0, 4.2, 3.2), strict=True)):  # seed by seed
        write_run(run, nelbo=nelbo)
        saw(made, index)
    return made


def shown(comparison: Comparison) -> RunSet:
    (found,) = gather(find(comparison.out)).sets
    return found


def noted(found: RunSet) -> tuple[str, ...]:
    """The notes, without that on averaged weights of such short runs."""
    return tuple(note for note in found.notes if "averaged weights" not in note)


def nelbos(found: RunSet) -> dict[str, tuple[str, str, int]]:
    """By label: the mean, its spread, and of how many runs."""
    place = [column.name for column in found.columns].index("test NELBO")
    return {row.label: (row.cells[place].text, row.cells[place].spread, row.counted) for row in found.rows}


ALL = {"vanilla": ("4.100", "0.141", 2), "upbounded": ("3.100", "0.141", 2)}


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_of_a_run_or_a_link_to_one_is_counted_once_and_said(comparison: Comparison, link: bool) -> None:
    assert nelbos(shown(comparison)) == ALL
    assert noted(shown(comparison)) == ()
    run = comparison.runs[0].folder
    copy = comparison.out / "copy"
    copy.symlink_to(run.name) if link else shutil.copytree(run, copy)
    found = shown(comparison)
    assert nelbos(found) == ALL
    (note,) = noted(found)
    assert "is a copy of the run in" in note
    assert not any("3 runs" in sentence or "of 2 runs" in sentence for sentence in found.sentences)


def test_a_copy_of_a_run_that_was_trained_otherwise_is_a_row_of_its_own_and_not_called_a_copy(
    comparison: Comparison,
) -> None:
    run = comparison.runs[0]
    shutil.copytree(run.folder, comparison.out / "rescue")
    told = SEEN | {"id": f"{0:032x}", "resumed": ["step 3: resumed with lr 0.5 (was 0.001), steps 6 (was 3)"]}
    write_config(RunFolder(comparison.out / "rescue"), run.config, told)
    found = shown(comparison)
    assert sorted(counted for _, _, counted in nelbos(found).values()) == [1, 2, 2]
    names = f"rescue and {run.folder.name}"
    assert f"{names} are one run at the beginning, and were trained otherwise from some step on" in noted(found)
    assert not any("is a copy of" in note for note in noted(found))


def test_what_an_older_version_did_not_write_down_keeps_its_runs_in_the_mean(comparison: Comparison) -> None:
    data = {"data": SEEN["data"] | {"held_out_fingerprint": "beef"}}
    for index in (2, 3):
        saw(comparison, index, **data)
    for index in (0, 1):
        run = comparison.runs[index]
        told = run.config.to_toml()
        del told["matmul"], told["accumulate"], told["optimization"]["skip_threshold"]
        (run.folder / "config.toml").write_text(tomli_w.dumps(told | {"run": SEEN}))
    assert [result.outcome for result in collect(comparison.runs)] == ["finished"] * 4
    assert nelbos(shown(comparison)) == ALL
    assert noted(found := shown(comparison)) == ()
    assert (found.shared["matmul"], found.shared["accumulate"]) == ("tf32", "1")  # as the runs that say so were told
    saw(comparison, 1, data=SEEN["data"] | {"held_out_fingerprint": "dead"})
    assert sum(label.startswith("upbounded") for label in nelbos(shown(comparison))) == 2


def test_a_run_whose_files_contradict_each_other_is_in_no_mean(comparison: Comparison) -> None:
    log = comparison.runs[0].folder / "metrics.jsonl"
    log.unlink()
    found = shown(comparison)
    assert nelbos(found) == ALL | {"vanilla": ("4.200", "", 1)}
    assert any("vanilla seed 0 is left out of the means: metrics.jsonl lacks records 1 to 6" in n for n in found.notes)
    lines = JsonLines(log)
    for step in range(6):
        cause = "nan_rate" if step == 3 else None
        lines.write({"step": step, "epoch": 0, "elbo": 1.0, "skipped": bool(cause), "cause": cause})
    lines.close()
    found = shown(comparison)
    assert nelbos(found) == ALL | {"vanilla": ("4.200", "", 1)}
    assert any("summary.json says 0 for nan_count, metrics.jsonl 1" in note for note in found.notes)


def test_a_gap_in_a_log_does_not_change_what_a_summary_has_counted(tmp_path: Path) -> None:
    """As `compare` has it: the two tables of one folder say the same."""
    made = make_plan(tmp_path, "vanilla", "0")
    (tmp_path / COMPARISON_LOCK).touch()
    write_run(made.runs[0], [None, "nan_rate", "high_gradient", None, "nan_rate", None])
    saw(made, 0)
    log = made.runs[0].folder / "metrics.jsonl"
    lines = log.read_text().splitlines(True)
    log.write_text("".join([*lines[:1], *lines[2:5]]))
    (run,) = shown(made).runs
    assert (run.steps, run.high_gradient, run.nan, run.untrusted) == (6, 1, 2, "")
    assert any("lacks record 2" in problem for problem in run.problems)


@pytest.mark.parametrize(
    ("changed", "label"),
    [({"data": {"fingerprint": "beef"}}, "images=beef"), ({"global_batch": 64}, "global_batch=64")],
)
def test_runs_that_saw_other_data_are_no_mean_of_the_others(
    comparison: Comparison, changed: dict[str, Any], label: str
) -> None:
    for index in range(4):
        saw(comparison, index, global_batch=8, **(changed if index == 3 and "data" in changed else {}))
    saw(comparison, 3, **{"global_batch": 8} | changed)
    found = nelbos(shown(comparison))
    assert len(found) == 3
    assert found[f"upbounded · {label}"] == ("3.200", "", 1)
    assert ("3.000", "", 1) in found.values()
    assert ("4.100", "0.141", 2) in found.values()


def test_a_run_that_was_trained_otherwise_on_the_way_is_in_no_mean_although_its_settings_are_those_of_the_others(
    comparison: Comparison,
) -> None:
    saw(comparison, 0, resumed=["step 9: resumed with evaluate_every 5 (was 0), steps 60 (was 50)"])
    assert nelbos(shown(comparison)) == ALL
    assert [result.outcome for result in collect(comparison.runs)] == ["finished"] * 4
    saw(comparison, 0, resumed=["step 9: resumed with lr 0.5 (was 0.001)", "step 12: resumed with lr 0.001 (was 0.5)"])
    found = nelbos(shown(comparison))
    assert sorted(counted for _, _, counted in found.values()) == [1, 1, 2]
    assert any("resumed with lr 0.5 (was 0.001)" in label for label in found)
    first, *others = collect(comparison.runs)
    assert [result.outcome for result in others] == ["finished"] * 3
    assert first.outcome == "refused"
    assert first.problems[0] == "it was not trained alike all the time: step 9: resumed with lr 0.5 (was 0.001)"


def test_runs_that_began_with_another_file_of_weights_under_the_same_name_are_no_mean_of_the_others(
    comparison: Comparison,
) -> None:
    for index in range(4):
        saw(comparison, index, weights_sha256="beef" if index == 3 else "f00d")
    assert nelbos(shown(comparison))["upbounded · weights of SHA-256=beef"] == ("3.200", "", 1)
    results = collect(comparison.runs)
    assert [result.outcome for result in results] == ["finished"] * 3 + ["refused"]
    assert results[3].problems[0].endswith("weights to begin with (SHA-256): beef, and f00d in the other runs")


def test_runs_that_differ_in_any_setting_are_no_mean_however_many_settings_differ_between_others(
    comparison: Comparison,
) -> None:
    """A label has room for three settings, and decides what is one mean."""
    told: list[dict[str, Any]] = [
        {"lr": 1e-3, "wd": 0.1, "batch_size": 8, "ema_rate": 0.5},
        {"lr": 2e-3, "wd": 0.2, "batch_size": 16, "ema_rate": 0.9},
        {"lr": 1e-3, "wd": 0.1, "batch_size": 8, "ema_rate": 0.9},
        {"lr": 1e-3, "wd": 0.1, "batch_size": 8, "ema_rate": 0.9000001},
    ]
    for index, (run, settings) in enumerate(zip(comparison.runs, told, strict=True)):
        config = replace(run.config, variant="vanilla", optimization=replace(run.config.optimization, **settings))
        write_config(RunFolder(run.folder), config, SEEN | {"id": f"{index:032x}"})
    found = shown(comparison)
    assert sorted((row.counted, row.cells[3].text) for row in found.rows) == [
        (1, "3.000"),
        (1, "3.200"),
        (1, "4.000"),
        (1, "4.200"),
    ]
    last = {row.label.split("ema_rate=")[-1] for row in found.rows if "ema_rate" in row.label}
    assert last == {"0.5", "0.9", "0.9000001"}
    assert found.sentences == ()
    assert any("nothing is said of it in words" in note for note in found.notes)


def test_a_page_says_which_runs_of_a_comparison_are_gone(comparison: Comparison) -> None:
    rows = [{"variant": name, "seeds": 3} for name in ("vanilla", "upbounded", "explin")]
    write_json(comparison.out / "comparison.json", {"rows": rows}, checksum=True)
    found = shown(comparison)
    assert [(row.label, row.counted, row.seeds, row.cells[3].note) for row in found.rows] == [
        ("vanilla", 2, 3, "2/3"),
        ("upbounded", 2, 3, "2/3"),
    ]
    assert noted(found) == (
        "vanilla: of the 3 runs in comparison.json 1 is not in this folder",
        "upbounded: of the 3 runs in comparison.json 1 is not in this folder",
        "explin: of the 3 runs in comparison.json 3 are not in this folder",
    )


def test_counts_of_a_page_are_in_full_and_what_spreads_is_not_shown_as_if_it_did_not() -> None:
    skips = Column("skips", "", lambda run: float(run), 0)  # type: ignore[arg-type]
    assert _in(skips, 123_456.0, 0) == "123456"
    assert _in(skips, float("inf"), 0) == "inf"
    cell = _mean(skips, [12.0] * 9 + [13.0], 10)  # type: ignore[list-item]
    assert (cell.text, cell.spread) == ("12.1", "0.3")


@pytest.mark.parametrize(("variants", "mixed"), [("vanilla,upbounded", False), ("vanilla,vanilla+optimal", True)])
def test_a_page_of_several_likelihoods_says_what_compares_them(tmp_path: Path, variants: str, mixed: bool) -> None:
    """A density and a probability stand in one column, and on one axis."""
    made = make_plan(tmp_path, variants, "0")
    (tmp_path / COMPARISON_LOCK).touch()
    for index, run in enumerate(made.runs):
        write_run(run)
        saw(made, index)
    text = render(gather(find(made.out)), tmp_path / "report.html", now=0.0)
    assert ("not comparable with a probability" in text) is mixed
    assert ("only curves of one likelihood compare" in text) is mixed


def test_a_page_of_a_density_and_a_probability_of_two_hosts_says_so_and_each_has_its_nelbo_by_mass(
    comparison: Comparison,
) -> None:
    """Both are `vanilla`, and what their variants say of a decoder is the same: nothing."""
    for run, found in zip(
        comparison.runs,
        ({"likelihood": "discrete"}, {"likelihood": "density", "test_mass_nelbo_bits_per_dim": 7.5}) * 2,
        strict=True,
    ):
        summary = read_json(run.folder / "summary.json") | found
        write_json(run.folder / "summary.json", summary, checksum=True)
    text = render(gather(find(comparison.out)), comparison.out / "report.html", now=0.0)
    assert "not comparable with a probability" in text
    assert "only curves of one likelihood compare" in text
    sets = shown(comparison)
    place = [column.name for column in sets.columns].index("by mass")
    assert [row.cells[place].text for row in sets.rows] == [f"{4.1 / math.log(2):.3f}", "7.500"]


def test_a_page_says_up_to_which_validation_an_optimal_sigma_had_not_come_far(comparison: Comparison) -> None:
    log = JsonLines(RunFolder(comparison.runs[0].folder).evaluations, run=f"{0:032x}")
    for step, lags in ((19, {"sigma_of_first_batch": 0.83}), (219, {"sigma_of_first_batch": 0.11}), (419, {})):
        log.write({"step": step, "elbo": 4.0, **lags})
    log.close()
    (said,) = [note for note in shown(comparison).notes if "validation" in note]
    assert said.startswith("vanilla seed 0: the NELBO of the validation images up to step 219 ")
    assert "the first batch's to 11% or more" in said
    text = render(gather(find(comparison.out)), comparison.out / "report.html", now=0.0)
    assert "Validation NELBO, of the averaged weights (EMA)" in text


def test_a_run_in_its_first_epoch_has_an_epoch_of_its_own_length_on_the_axis(comparison: Comparison) -> None:
    """Its log does not tell how long that is, and the other runs of a page may be of other data or batches."""
    short, long = comparison.runs[0], comparison.runs[1]
    shutil.rmtree(long.folder)
    write_run(long, [None] * 6, per_epoch=1000)
    saw(comparison, 1, data={"train_count": 530}, global_batch=10)
    found = {run.folder: run for run in shown(comparison).runs}
    assert found[short.folder].per_epoch == 2
    assert found[long.folder].per_epoch == 53
    pages = of_runs(shown(comparison), Budget(), 4, 0)["runs"]
    assert sorted(run["perEpoch"] for run in pages) == [2, 2, 2, 53]
