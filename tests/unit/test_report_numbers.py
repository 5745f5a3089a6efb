"""What a report draws: thinned, but no skipped update lost; read, however a file ends."""

from __future__ import annotations

import base64
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from vdvae_patch.data.order import told_steps_per_epoch
from vdvae_patch.errors import RunError
from vdvae_patch.experiments.report import Origin, Report, Table
from vdvae_patch.report import drawn, page, thinning
from vdvae_patch.report.columns import Log, read_log
from vdvae_patch.report.find import find
from vdvae_patch.report.looks import Collector, stands_out, thinned
from vdvae_patch.report.pictures import chosen, picture
from vdvae_patch.report.reproductions import has_reproduction, read_reproductions
from vdvae_patch.report.skipped import of_guard, of_run
from vdvae_patch.skips import records


def log_of(steps: int, skipped: np.ndarray, causes: tuple[str, ...] = ("", "nan_rate")) -> Log:
    step = np.arange(steps)
    flags = np.zeros(steps, np.bool_)
    flags[skipped] = True
    nelbo = 5 / (1 + step / 1000)
    nelbo[flags] = np.nan
    return Log(
        step, step // 100.0, nelbo, nelbo * 0.9, nelbo * 0.1, np.full(steps, 2.0), np.full(steps, 1e-3),
        np.cumsum(np.full(steps, 0.5)), flags, flags.astype(np.int64), causes,
    )  # fmt: skip


def record(step: int, **changed: object) -> str:
    values = {
        "step": step, "elbo": 5.0, "distortion": 4.0, "rate": 1.0, "grad_norm": 2.0, "lr": 1e-3, "cause": None,
        "clip": 200.0, "epoch": 0, "skipped": False, "step_time": 0.5,
    }  # fmt: skip
    return json.dumps({**values, **changed}) + "\n"


def test_few_steps_are_drawn_as_they_are() -> None:
    log = log_of(50, np.array([7]))
    points = thinning.points(log, 50)
    assert points.step.tolist() == list(range(50))
    assert math.isnan(points.nelbo[7])
    np.testing.assert_array_equal(np.delete(points.nelbo, 7), np.delete(log.nelbo, 7))


def test_a_point_of_many_steps_is_the_mean_of_those_that_were_applied() -> None:
    log = log_of(1000, np.arange(500, 520))
    points = thinning.points(log, 10)
    assert len(points.step) == 10
    assert points.nelbo[5] == pytest.approx(log.nelbo[520:600].mean())
    assert points.lr[-1] == pytest.approx(1e-3)
    log.lr[:] = np.linspace(0, 1, len(log.lr))
    np.testing.assert_allclose(thinning.points(log, 10).lr, log.lr.reshape(10, 100).mean(1))


def test_a_peak_of_the_gradient_norm_is_not_thinned_away() -> None:
    log = log_of(100_000, np.array([], np.int64))
    log.grad_norm[54_321] = 399.0
    assert thinning.points(log, 500).grad_norm.max() == 399.0


def test_of_a_million_records_each_of_a_thousand_skips_has_a_mark() -> None:
    skipped = np.sort(np.random.default_rng(0).choice(1_000_000, 1000, replace=False))
    log = log_of(1_000_000, skipped)
    marks = thinning.marks(log, thinning.points(log, 1500), 1000)
    assert marks.first.tolist() == marks.last.tolist() == skipped.tolist()
    assert set(marks.count.tolist()) == {1}
    assert np.isfinite(marks.at).all()


@pytest.mark.parametrize("count", [5_001, 300_000])
def test_of_very_many_skips_neighbours_share_a_mark_and_none_is_lost(count: int) -> None:
    skipped = np.sort(np.random.default_rng(1).choice(400_000, count, replace=False))
    log = log_of(400_000, skipped)
    alone = [int(skipped[3]), int(skipped[-2])]
    marks = thinning.marks(log, thinning.points(log, 1500), 1000, apart=alone)
    assert len(marks.first) <= 1003
    assert marks.count.sum() == count
    assert {*marks.first.tolist()} >= {*alone, int(skipped[0])}
    assert marks.last.max() == skipped[-1]
    steps, counts, _ = thinning.cumulated(log, 700)
    for step, so_far in zip(steps, counts, strict=True):
        assert so_far == (skipped <= step).sum()


def test_marks_keep_causes_apart() -> None:
    log = log_of(100, np.arange(100), ("", "nan_rate", "high_gradient"))
    log.cause[::2] = 2
    marks = thinning.marks(log, thinning.points(log, 100), 4)
    counted = {cause: int(marks.count[marks.cause == cause].sum()) for cause in (1, 2)}
    assert counted == {1: 50, 2: 50}
    assert np.isnan(marks.at).all()  # nothing was applied: there is no curve to be on


def test_rounded_numbers_keep_their_digits_and_what_is_not_finite() -> None:
    values = np.array([3.9123456, -1e-30, 0.0, np.nan, np.inf, -np.inf, 5.88e7, 3.3e38])
    found = thinning.rounded(values, 16)
    np.testing.assert_allclose(found, values.astype(np.float32), rtol=2e-5)
    assert found.dtype == np.float32


def test_columns_are_packed_so_that_a_browser_reads_them() -> None:
    packed = drawn.packed(np.array([1, 2**20], np.int64))
    assert packed["t"] == "i4"
    assert np.frombuffer(base64.b64decode(packed["b"]), "<i4").tolist() == [1, 2**20]
    assert drawn.packed(np.array([1.5]))["t"] == "f4"


def test_vanilla_is_blue_and_what_is_modified_red() -> None:
    found = drawn.colors(["explin/constant", "vanilla", "vanilla · lr=0.1", "upbounded"])
    assert found["vanilla"].light == "#1f5fa8"
    assert found["explin/constant"].light == "#d62728"
    assert len({color.light for color in found.values()}) == 4


def test_a_damaged_line_of_a_log_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(record(0) + record(1, elbo="nan", skipped=True, cause="nan_rate") + "{broken\n" + record(3))
    problems: list[str] = []
    log = read_log(path, problems)
    assert log.step.tolist() == [0, 1, 3]
    assert log.count("nan_rate") == 1
    assert math.isnan(log.nelbo[1])
    assert len(problems) == 1
    assert "metrics.jsonl line 3 is damaged" in problems[0]


def test_missing_lines_of_a_log_are_said_and_a_long_list_of_faults_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [records.checked_line(record(step).strip(), step + 1, "abc") for step in range(30)]
    path.write_text("".join(lines[:3] + lines[5:6] + ["{broken\n"] * 9 + lines[8:]))
    problems: list[str] = []
    assert read_log(path, problems).step.tolist() == [0, 1, 2, 5, *range(8, 30)]
    assert problems[0] == "metrics.jsonl lacks records 4 to 5"
    assert len(problems) == 6
    assert problems[-1] == "metrics.jsonl: 6 more of these"


def test_values_that_are_no_numbers_do_not_stop_a_report(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    odd = record(1, elbo="<b>", grad_norm=None, rate=[1], distortion={"a": 1}, lr=10**400)
    without = json.dumps({"step": 2, "cause": 7}) + "\n"
    path.write_text(record(0) + odd + without + json.dumps({"step": None}) + "\n" + "[1, 2]\n" + record(4))
    problems: list[str] = []
    log = read_log(path, problems)
    assert log.step.tolist() == [0, 1, 2, 4]
    assert np.isnan(log.nelbo).tolist() == [False, True, True, False]
    assert not log.skipped.any()
    assert any("without a step" in problem for problem in problems)


def test_looks_are_thinned_to_extremes_and_what_is_not_finite_stays() -> None:
    collector = Collector(limit=100)
    for step in range(1000):
        heads = [{"path": "a", "role": "prior", "log_sigma_min": -float(step), "log_sigma_max": float(step), "kl": 1.0}]
        collector.add(step, heads, skipped=False)
    collector.add(500, [{"path": "a", "role": "prior", "log_sigma_min": -7e4, "log_sigma_max": math.nan}], skipped=True)
    looks = collector.looks()
    assert looks is not None
    assert len(looks.step) <= 102
    few = thinned(looks, 10)
    assert len(few.step) == 10
    assert few.of == looks.of == 1001  # so that a tooltip does not name one step for what is of many
    assert few.values["log_sigma_min"].min() == -7e4
    bad = np.isnan(few.values["log_sigma_max"]) & few.seen["log_sigma_max"]
    assert bad.sum() == 1
    assert few.skipped[bad[:, 0]].all()


def test_the_first_head_that_runs_away_stands_out_else_the_most_extreme() -> None:
    def head(path: str, low: float, high: float) -> dict[str, object]:
        return {"path": path, "role": "posterior", "log_sigma_min": low, "log_sigma_max": high}

    calm, away, lost = head("calm", -1.0, 3.0), head("away", -1.0, 18.9), head("lost", math.nan, math.nan)
    half = head("half", 0.0, math.nan)
    for heads, expected in (
        ([calm, away, lost], "away"), ([calm, lost, away], "lost"), ([calm, half, lost], "half"),
        ([head("a", -1.0, 1.0), calm, head("b", -2.0, 0.0)], "calm"), ([calm, head("c", -math.inf, 0.0)], "c"),
    ):  # fmt: skip
        found = stands_out(heads)
        assert found is not None
        assert found[0].path == expected
    assert stands_out([{"path": "unknown", "role": "prior", "left_out": {"log_sigma": "no"}}]) is None


def test_a_skip_says_which_ranks_and_how_it_is_done_again(tmp_path: Path) -> None:
    recording = tmp_path / "my run" / "recordings" / "skip-00000012"
    row = {"step": 12, "cause": "nan_rate", "ranks": [1], "sites": {"rate": [1], "gradient": [0, 1]}, "heads": []}
    skip = of_run(row, tmp_path / "my run", [recording])
    assert skip is not None
    assert skip.ranks == "rate on rank 1; gradient on ranks 0, 1"
    assert skip.replay == f"python -m vdvae_patch replay '{tmp_path}/my run' --skip 1"
    assert of_run({"step": "12"}, tmp_path, []) is None


def test_a_guards_skip_names_the_head_to_blame_and_what_would_have_held(tmp_path: Path) -> None:
    row = {
        "step": 3, "cause": "nan_loss", "ranks": [], "elbo": math.nan, "grad_norm": math.nan, "head": "encoder.2",
        "operation": "aten.exp.default", "file": "train.py", "line": 7, "rows": [0, 4], "outside": [],
        "variants": {"explin": True}, "exact": True, "heads": [], "recorded": "skip-0001", "healed": None,
    }  # fmt: skip
    skip = of_guard(row, tmp_path, {"skip-0001": 1})
    assert skip is not None
    assert (skip.head, skip.blamed, skip.recorded) == ("encoder.2", True, 1)
    said = " ".join(skip.said)
    for part in ("aten.exp.default", "train.py:7", "rows 0, 4", "finite under explin", "bit for bit"):
        assert part in said
    assert "--model PACKAGE.MODULE:FACTORY" in skip.replay


def test_a_path_without_anything_is_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run, comparison, reproduction or guard"):
        find(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        find(tmp_path / "absent")


def test_folders_are_told_apart_and_links_in_a_circle_end(tmp_path: Path) -> None:
    for name, file in (("a/run", "config.toml"), ("guarded", "skips.jsonl"), ("cmp/x-seed0", "metrics.jsonl")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).touch()
    (tmp_path / "cmp" / "compare.lock").touch()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    found = find(tmp_path)
    assert [path.name for path in found.runs] == ["run"]
    assert [path.name for path in found.guards] == ["guarded"]
    assert [(folder.name, [run.name for run in runs]) for folder, runs in found.comparisons] == [("cmp", ["x-seed0"])]


def test_of_many_images_the_first_and_the_last_are_kept() -> None:
    assert list(chosen(4, 10)) == [0, 1, 2, 3]
    assert list(chosen(101, 5)) == [0, 25, 50, 75, 100]
    assert list(chosen(7, 1)) == [6]


def test_what_is_no_image_is_not_embedded(tmp_path: Path) -> None:
    (tmp_path / "final.png").write_text("<script>alert(1)</script>")
    assert picture(tmp_path / "final.png", of_grid=True) is None


def test_a_report_of_an_experiment_whose_bits_were_flipped_is_not_shown_and_said(tmp_path: Path) -> None:
    table = Table("nll", "Values", ("run", "nats"), (("first", 4.5625), ("second", None)))
    written = Report("table9", "Table 9", "What was done.", (table,), Origin("c", "abc", "m", "2", (0,), 1.0))
    written.write(tmp_path)
    data = (tmp_path / "table9.json").read_bytes()
    clean = read_reproductions(tmp_path)
    assert (clean[0].tables[0].rows, clean[0].problems) == (table.rows, ())
    moments = random.Random(0)
    refused = 0
    for _ in range(200):
        harmed = bytearray(data)
        harmed[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        (tmp_path / "table9.json").write_bytes(harmed)
        assert has_reproduction(tmp_path)
        found = read_reproductions(tmp_path)
        if found[0].problems:
            refused += 1
            assert found[0].problems[0].startswith("table9.json ")
            assert not found[0].tables
        else:  # the name of the field that has the checksum
            assert found == clean
    assert refused > 150


def test_a_step_beyond_32_bits_is_that_step() -> None:
    for steps, kind in (([2**31 - 1, -5], "i4"), ([2**31, 7], "f8"), ([-(2**40), 2**40 + 1], "f8")):
        found = drawn.packed(np.array(steps, np.int64))
        assert found["t"] == kind
        assert np.frombuffer(base64.b64decode(found["b"]), f"<{kind}").tolist() == steps


@pytest.mark.parametrize("limit", [4, 7, 100])
@pytest.mark.parametrize("count", [1, 9, 64, 211])
def test_of_looks_that_are_thinned_while_they_are_read_none_is_passed_over(limit: int, count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    values[count // 2] = 1e3
    collector = Collector(limit=limit)
    for step, value in enumerate(values):
        head = {"path": "a", "role": "posterior", "log_sigma_min": float(-value), "log_sigma_max": float(value)}
        collector.add(step, [head], skipped=False)
    looks = collector.looks()
    assert looks is not None
    assert len(looks.step) <= limit + 1
    ends = np.append(looks.step[1:], count)
    for name, of, sign in (("log_sigma_max", max, 1), ("log_sigma_min", min, -1)):
        assert [of(sign * values[start:end]) for start, end in zip(looks.step, ends, strict=True)] == looks.values[
            name
        ][:, 0].tolist()


def test_two_looks_at_one_step_are_not_in_two_columns_of_neighbours() -> None:
    collector = Collector()
    for step in range(20):
        for skipped in (False, True):
            collector.add(step, [{"path": "a", "role": "posterior", "kl": float(step)}], skipped=skipped)
    looks = collector.looks()
    assert looks is not None
    few = thinned(looks, 7)
    ends = np.append(few.step[1:], 20)
    assert few.values["kl"][:, 0].tolist() == (ends - 1).tolist()


def test_a_value_that_is_no_number_stays_one_among_its_neighbours() -> None:
    collector = Collector(limit=2)
    for step in range(8):
        kl = float("nan") if step == 3 else 1.0
        collector.add(step, [{"path": "a", "role": "posterior", "kl": kl}], skipped=False)
    looks = collector.looks()
    assert looks is not None
    assert np.isnan(looks.values["kl"]).sum() == 1


@pytest.mark.parametrize("lost", [(), (1, 2), (4, 5), (0, 1, 2, 3, 4, 5), (5, 6, 7, 8, 9)])
def test_steps_an_epoch_are_told_although_records_are_lost(lost: tuple[int, ...]) -> None:
    kept = np.array([step for step in range(23) if step not in lost])
    assert told_steps_per_epoch(kept, kept // 5) == 5
    assert told_steps_per_epoch(kept[kept < 5], kept[kept < 5] // 5) is None


def test_a_log_that_was_written_after_the_page_was_made_says_that_a_clock_is_wrong() -> None:
    assert page._ago(0.5) == "just before this page was made"
    assert page._ago(90) == "1 min 30 s before this page was made"
    assert page._ago(-7200) == "2 h 0 min after this page was made, so that one of two clocks is wrong"
