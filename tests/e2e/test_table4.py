"""`reproduce table4` on a model small enough for a test: real runs, the paper's values beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vdvae_patch.cli import main
from vdvae_patch.compare.options import CompareOptions
from vdvae_patch.compare.plan import plan
from vdvae_patch.compare.results import Row, Spread
from vdvae_patch.experiments import table4
from vdvae_patch.experiments.options import Figure2, Table4

pytestmark = pytest.mark.medium

RUNS = ["--preset=demo", "--data=builtin(train=24,valid=8,test=8)", "--variants=vanilla,explin/constant", "--seeds=0"]


@pytest.mark.slow
def test_the_longest_fair_comparison_in_a_time_says_what_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table4, "_SHARE", 0.02)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "table4", *RUNS, "--budget=1", f"--out={tmp_path}"])
    assert stop.value.code == 0
    steps = json.loads((tmp_path / "budget.json").read_text())["steps"]
    report = (tmp_path / "table4.md").read_text()
    assert f"{steps} steps a run instead of 300 epochs" in report
    assert "preset demo instead of cifar10" in report
    assert "not to be compared with the paper's" in report
    for published in ("22 ± 9", "2.014 ± 0.009", "1 ± 1", "2.006 ± 0.008"):
        assert published in report
    assert (tmp_path / "table4-curves.png").stat().st_size > 10_000
    summaries = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("*/summary.json"))]
    assert [s["steps"] for s in summaries] == [steps, steps]
    # the same command goes on from what is there, with the steps that were chosen first
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "table4", *RUNS, "--budget=1", f"--out={tmp_path}"])
    assert stop.value.code == 0
    assert "2 of 2 runs have ended before" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "batch_size"), [(60.0, 4), (600.0, 4), (36_000.0, 16), (0.5, 16)])
def test_a_budget_pays_for_the_test_too(seconds: float, batch_size: int) -> None:
    step = 0.1
    budget = table4._Budget.of(seconds, step, batch_size, most=10**9)
    images = budget.test_images or 10_000
    needed = step * (budget.steps + images / batch_size / 3)
    assert needed <= seconds + step
    assert needed > seconds - 2 * step  # and nothing is left over
    assert budget.steps >= 0.75 * seconds / step
    assert (budget.test_images == 0) == (seconds >= 600)


def test_a_budget_does_not_train_longer_than_the_paper() -> None:
    assert table4._Budget.of(1e9, 0.1, 16, most=500).steps == 500


def test_the_settings_are_the_papers_unless_told_otherwise() -> None:
    flags, base = table4._settings(Table4())
    assert base.preset == "cifar10"
    assert base.epochs == 300
    assert base.optimization.lr == 2e-4
    assert "--lr" not in flags
    assert len(Table4().variants.split(",")) == len(table4.PAPER) == 6
    assert Figure2().report == "figure2"


def test_a_row_says_of_how_many_runs_its_mean_is() -> None:
    counts, nelbo = Spread(1.0, 0.0, 3, 3), Spread(2.0, 0.1, 2, 3)
    row = Row("vanilla", (), (), 3, counts, counts, nelbo, nelbo, nelbo, nelbo)
    assert table4._row(row)[-1] == "2/3 with a finite NELBO"
    whole = replace(nelbo, count=3)
    assert table4._row(replace(row, nats=whole))[-1] == 3


@pytest.mark.parametrize(("nproc", "said"), [(1, "1 process instead of two GPUs, so batches of 16"), (2, ""),
                                             (4, "4 processes instead of two GPUs, so batches of 64")])  # fmt: skip
def test_the_introduction_says_how_large_the_batches_are(tmp_path: Path, nproc: int, said: str) -> None:
    options = Table4(nproc=nproc, data="builtin", data_root=None)
    flags, base = table4._settings(options)
    comparison = plan(CompareOptions(variants="vanilla", seeds="0", out=tmp_path), flags, base)
    text = table4._introduction(options, comparison, None)
    assert said in text
    assert ("batches of" in text) == bool(said)


def test_another_budget_for_runs_that_were_begun_with_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would go on with the steps of the first, and the report would say that these fill the second."""
    begun = {"steps": 6, "test_images": 20, "step_seconds": 1.7, "minutes": 0.3, "runs": 1}
    (tmp_path / "budget.json").write_text(json.dumps(begun))
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "table4", *RUNS, "--budget=60", f"--out={tmp_path}"])
    assert ended.value.code == 2
    assert "were begun with --budget 0.3, and do 6 steps each" in capsys.readouterr().err
