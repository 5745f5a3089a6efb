"""`reproduce vamp-stress` on a few images: what is not finite is counted, and the command goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.options import VampStress
from vdvae_patch.experiments.vamp_stress import Cell, Outcome, run
from vdvae_patch.train.interrupts import EXIT_RESUME


@pytest.fixture
def options(tmp_path: Path) -> VampStress:
    for number, (name, count) in enumerate((("train", 130), ("valid", 5), ("test", 5))):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
    return VampStress(
        seeds=2, train=100, epochs=3, components=4, dataset="arrays", variants=("vanilla", "upbounded"),
        lrs=(1e-3, 1e6), pseudo_lrs=(1.0,), data_root=tmp_path, out=tmp_path / "out",
    )  # fmt: skip


def test_what_is_not_finite_is_counted_by_scale_and_rate(options: VampStress, tmp_path: Path) -> None:
    assert run(replace(options, minutes=0.0)) == EXIT_RESUME
    (first,) = (tmp_path / "out").glob("*-seed0.json")
    before = first.read_text()
    assert run(options) == 0
    assert first.read_text() == before
    (table,) = json.loads((tmp_path / "out" / "vamp-stress.json").read_text())["tables"]
    rows = {(row[0], row[1]): dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    calm, wild = rows["upbounded", "0.001"], rows["vanilla", "1e+06"]
    assert (calm["skipped updates"], calm["not finite"], calm["diverged"]) == ("0 of 6", "0 of 2", "0 of 2")
    assert "±" in calm["bound"]
    assert wild["skipped updates"] != "0 of 6"
    assert wild["not finite"] == "2 of 2"
    assert wild["bound"] is None
    assert not list((tmp_path / "out").glob("*.pt"))
    lost = rows["upbounded", "1e+06"]
    assert sum(int(lost[name].split()[0]) for name in ("not finite", "diverged")) == 2
    assert lost["bound"] is None


@pytest.mark.parametrize(
    ("bound", "diverged"), [(None, False), (-100.0, False), (-999.0, False), (-1001.0, True), (-6.8e33, True)]
)
def test_a_finite_bound_of_a_run_that_is_lost_is_no_success(bound: float | None, diverged: bool) -> None:
    assert Outcome(100, 0, bound).has_diverged(guess=100.0) is diverged


def test_rates_that_six_digits_do_not_tell_apart_are_two_runs_and_the_report_says_how_many_images_there_were(
    options: VampStress, tmp_path: Path
) -> None:
    few = replace(options, seeds=1, train=3000, epochs=1, variants=("upbounded",), lrs=(1e-3, 1.0000001e-3))
    assert run(few) == 0
    assert len(list((tmp_path / "out").glob("*-seed0.json"))) == 2
    report = json.loads((tmp_path / "out" / "vamp-stress.json").read_text())
    assert [row[1] for row in report["tables"][0]["rows"]] == ["0.001", "0.0010000001"]
    assert "1 epoch of 130 images in batches of 100" in report["introduction"]
    assert "Of the first 5 validation images" in report["introduction"]


def test_variants_that_differ_in_a_sign_have_two_names() -> None:
    names = [Cell(variant, 1e-3, 1.0).name for variant in ("clamp(-5,-1)", "clamp(-5,1)")]
    assert len(set(names)) == 2


@pytest.mark.parametrize("name", ["variants", "lrs", "pseudo_lrs"])
def test_a_list_of_nothing_is_refused(name: str, options: VampStress) -> None:
    with pytest.raises(InvalidValueError, match="take one value or more"):
        run(replace(options, **{name: ()}))  # type: ignore[arg-type]
