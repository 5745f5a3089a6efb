"""Runs side by side saw the same images and batches, or are not put into one mean; other code is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare_samples import SEEN, make_plan, write_run

from vdvae_patch.compare.alike import Seen, others, remarks
from vdvae_patch.compare.plan import Comparison
from vdvae_patch.compare.results import collect, summarise
from vdvae_patch.compare.table import cells, notes
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import RunFolder, write_config


def saw(comparison: Comparison, index: int, **changed: Any) -> None:
    """Let a run have seen something else."""
    run = comparison.runs[index]
    write_config(RunFolder(run.folder), run.config, SEEN | changed)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    made = make_plan(tmp_path, "vanilla,upbounded", "0,1")
    for run, nelbo in zip(made.runs, (4.0, 3.0, 4.2, 3.2), strict=True):  # seed by seed
        write_run(run, nelbo=nelbo)
    return made


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"fingerprint": "beef", "source": "drawn"}},
        {"data": {"fingerprint": "f00d", "held_out_fingerprint": "beef"}},
        {"data": {"fingerprint": "f00d", "train_count": 7}},
        {"global_batch": 64},
    ],
)
def test_a_run_that_saw_other_data_is_in_no_mean_and_is_said(comparison: Comparison, changed: dict[str, Any]) -> None:
    for index in range(4):
        saw(
            comparison,
            index,
            data={"fingerprint": "f00d", "held_out_fingerprint": "a", "train_count": 8},
            global_batch=8,
        )
    assert [result.outcome for result in collect(comparison.runs)] == ["finished"] * 4
    saw(comparison, 3, **changed)
    results = collect(comparison.runs)
    assert [result.outcome for result in results] == ["finished"] * 3 + ["refused"]
    rows = summarise(comparison.variants, 2, results)
    assert cells(rows[1])[1:] == ("0", "0", "3.000 (1/2)", "4.328 (1/2)", "1/2")
    (said,) = [line for line in notes(rows, results) if "saw other data" in line]
    assert "upbounded seed 1" in said
    assert "in the other runs" in said


def test_images_that_a_seed_draws_are_compared_among_the_runs_of_that_seed() -> None:
    limited = {"limit_images": 10}
    runs = [
        Seen.of({"data": {"fingerprint": print_, "held_out_fingerprint": "a"}}, {**limited, "seed": seed})
        for seed, print_ in ((0, "x"), (0, "x"), (1, "y"), (1, "y"))
    ]
    assert others(runs) == [""] * 4
    assert {run.images for run in runs} == {"a"}
    assert [bool(why) for why in others([*runs, replace(runs[0], saw={"fingerprint": "y"})])] == [False] * 4 + [True]


def test_a_finished_run_without_its_log_is_refused_and_not_passed_over(comparison: Comparison) -> None:
    (comparison.runs[0].folder / "metrics.jsonl").unlink()
    results = collect(comparison.runs)
    assert results[0].outcome == "refused"
    assert any(
        "metrics.jsonl lacks records 1 to 6" in line for line in notes(summarise(["vanilla"], 2, results), results)
    )


def test_other_code_is_said_and_does_not_refuse(comparison: Comparison) -> None:
    told = RunFile.read(comparison.runs[0].folder / "config.toml").seen
    assert remarks([("a", told), ("b", told)]) == []
    others = {"commit": "def"}, {"torch": "1.9"}, {"host": {"commit": "def"}}, {"float32": "tf32"}
    for changed in (*others, {"host": {"commit": "abc", "sources": "5678"}}):
        (key,) = changed
        first = {"torch": "2.13", "host": {"commit": "abc", "sources": "1234"}, "float32": "ieee", **told}
        (line,) = remarks([("a", first), ("b", first), ("c", first | changed)])
        assert "c)" in line, key
        assert ": a, b" in line


def test_a_run_that_was_taken_up_with_other_code_is_said_also_where_it_began_as_the_others(
    comparison: Comparison,
) -> None:
    told = {**RunFile.read(comparison.runs[0].folder / "config.toml").seen, "torch": "2.13", "host": {"commit": "abc"}}
    began = {"commit": told["commit"], "torch": "2.13", "host_code": "packaged abc"}
    assert remarks([("a", told | {"sessions": [began, began]}), ("b", told)]) == []
    for changed in ({"commit": "def"}, {"torch": "2.14"}, {"host_code": "packaged def"}):
        (line,) = remarks([("a", told | {"sessions": [began, began | changed, began]}), ("b", told)])
        ((_, value),) = changed.items()
        assert f", then {value}: a" in line
        assert ": b" in line
    (line,) = remarks([("a", told | {"sessions": [began, began | {"torch": "2.14"}]})])
    assert "not all runs are of one version of torch" in line
