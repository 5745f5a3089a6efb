"""From the runs' files to the rows of a table, and nothing dropped silently."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare_samples import FLAGS, make_plan, write_run

from vdvae_patch import decoders
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.compare import tested
from vdvae_patch.compare.curves import counted
from vdvae_patch.compare.plan import Comparison
from vdvae_patch.compare.reading import _share, reading, too_short, unusual
from vdvae_patch.compare.results import Row, collect, read_run, spread, summarise
from vdvae_patch.compare.run import write_report
from vdvae_patch.compare.table import as_csv, cells, notes
from vdvae_patch.compare.tested import Evaluated
from vdvae_patch.errors import RunError
from vdvae_patch.skips.records import read
from vdvae_patch.train.entry_agrees import disagreement, no_bound
from vdvae_patch.train.folder import read_json


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Three variants with three seeds: one breaks, one ends early, one has an infinite test NELBO."""
    made = make_plan(tmp_path, "vanilla,upbounded,explin/constant", "0,1,2", "--max-consecutive-skips", "3")
    vanilla = [run for run in made.runs if run.config.variant == "vanilla"]
    upbounded = [run for run in made.runs if run.config.variant == "upbounded"]
    explin = [run for run in made.runs if run.config.variant == "explin/constant"]
    write_run(vanilla[0], [None, "nan_rate", "nan_distortion", "high_gradient", None, None], nelbo=4.5)
    write_run(vanilla[1], [None, "nan_rate", "nan_rate", "nan_rate"], nelbo=None)
    write_run(vanilla[2], nelbo=4.1)
    for run, nelbo in zip(upbounded, (4.0, math.inf, 4.2), strict=True):
        write_run(run, nelbo=nelbo)
    for run, nelbo in zip(explin, (3.9, 4.0, 4.4), strict=True):
        write_run(run, nelbo=nelbo)
    return made


def rows_of(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    rows = summarise(comparison.variants, len(comparison.seeds), collect(comparison.runs))
    return {row.variant: cells(row)[1:] for row in rows}


def test_the_spread_is_the_sample_standard_deviation() -> None:
    values = [3.9, 4.0, 4.4]
    found = spread(values, 3)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.std == pytest.approx(statistics.stdev(values))


def test_one_value_has_no_standard_deviation_and_none_no_mean() -> None:
    assert (spread([4.0], 1).mean, spread([4.0], 1).std) == (4.0, None)
    assert spread([math.nan, None, math.inf], 3).mean is None


def test_the_table_counts_each_cause_and_a_run_that_stopped(comparison: Comparison) -> None:
    rows = rows_of(comparison)
    assert rows["vanilla"] == ("0.3 ± 0.6", "1.7 ± 1.5", "4.300 ± 0.283 (2/3)", "6.204 ± 0.408 (2/3)", "3")
    assert rows["explin/constant"] == ("0 ± 0", "0 ± 0", "4.100 ± 0.265", "5.915 ± 0.382", "3")


def test_an_infinite_test_nelbo_is_marked_and_explained(comparison: Comparison) -> None:
    results = collect(comparison.runs)
    rows = summarise(comparison.variants, 3, results)
    assert rows_of(comparison)["upbounded"][2] == "4.100 ± 0.141 (2/3)"
    assert notes(rows, results) == [
        "vanilla seed 1: stopped at step 4: no longer learns; it has no test NELBO",
        "upbounded seed 1: test NELBO is inf; over the batches where it is finite (1 left out) it is 3.500 nats/dim",
    ]


def test_an_unfinished_run_is_left_out_of_the_means_and_said_to_be(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0,1,2")
    write_run(made.runs[0], ["high_gradient", None], nelbo=5.0)
    write_run(made.runs[1], ["nan_rate"] * 6, nelbo=None, checkpoint=True)
    results = collect(made.runs)
    rows = summarise(made.variants, 3, results)
    assert cells(rows[0])[1:] == ("1", "0", "5.000 (1/3)", "7.213 (1/3)", "1/3")
    assert notes(rows, results) == [
        "vanilla seed 1: not finished (6 steps so far); it is left out of the means",
        "vanilla: 1 of 3 runs did no step",
    ]


def test_a_variant_without_any_run_keeps_its_row(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla,explin", "0")
    write_run(made.runs[0])
    assert rows_of(made)["explin"] == ("-", "-", "- (0/1)", "- (0/1)", "0/1")


def test_a_summary_that_contradicts_the_log_is_noticed(tmp_path: Path) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    write_run(run, [None, "nan_rate"], nan_count=0)
    assert read_run(run).problems == ("summary.json says 0 for nan_count, metrics.jsonl 1",)


def test_a_log_with_a_damaged_line_is_refused(tmp_path: Path) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    write_run(run)
    (run.folder / "metrics.jsonl").write_text("{broken\n")
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be read"):
        read_run(run)


def test_the_csv_holds_unrounded_numbers_and_leaves_empty_what_does_not_exist(comparison: Comparison) -> None:
    rows = summarise(comparison.variants, 3, collect(comparison.runs))
    table = {line["variant"]: line for line in csv.DictReader(io.StringIO(as_csv(rows)))}
    assert float(table["vanilla"]["nan_mean"]) == pytest.approx(5 / 3)
    assert float(table["upbounded"]["test_nelbo_nats_per_dim_std"]) == pytest.approx(statistics.stdev([4.0, 4.2]))
    assert table["upbounded"]["finite_test_nelbos"] == "2"
    one = make_plan(comparison.out, "upbounded", "0")
    assert ",," in as_csv(summarise(one.variants, 1, collect(one.runs)))


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([12] * 9 + [13], "12.1 ± 0.3"), ([99_999, 100_001], "100000 ± 1"), ([23_185, 23_287], "23236 ± 72"),
        ([10, 10, 11], "10 ± 1"), ([0] * 24 + [1], "0.04 ± 0.20"), ([40, 40], "40 ± 0"),
    ],
)  # fmt: skip
def test_a_mean_count_is_shown_in_full_and_a_spread_that_is_there_is_not_zero(counts: list[int], shown: str) -> None:
    found = spread(counts, len(counts))
    row = Row("vanilla", (), (), len(counts), found, found, *([spread([], 0)] * 4))
    assert cells(row)[1] == shown


def test_the_files_of_a_comparison_agree_with_each_other(comparison: Comparison) -> None:
    made = write_report(comparison)
    record = read_json(comparison.out / "comparison.json")
    assert json.loads((comparison.out / "comparison.json").read_text())  # no NaN: it is JSON for everyone
    by_variant = {row["variant"]: row for row in record["rows"]}
    assert list(by_variant) == ["vanilla", "upbounded", "explin/constant"]
    assert by_variant["vanilla"]["nan"]["mean"] == pytest.approx(5 / 3)
    assert by_variant["vanilla"]["high_gradient"]["std"] == pytest.approx(statistics.stdev([1, 0, 0]))
    assert by_variant["explin/constant"]["test_nelbo_nats_per_dim"] == pytest.approx(
        {"mean": 4.1, "std": statistics.stdev([3.9, 4.0, 4.4]), "count": 3, "total": 3}
    )
    assert len(record["runs"]) == 9
    assert sum(run["nan_count"] for run in record["runs"] if run["variant"] == "vanilla") == 5
    assert record["settings"]["steps"] == 6
    document = made.report.read_text()
    table = (comparison.out / "table.md").read_text().split("\n\n")[0]
    assert table in document
    for text in ("![training NELBO and skipped updates](curves.png)", "stopped: no longer learns", "commit: abc"):
        assert text in document


def test_images_that_cannot_be_drawn_are_explained_in_the_report(comparison: Comparison) -> None:
    made = write_report(comparison)
    assert made.gallery is None
    assert "No run has a checkpoint to draw images from." in made.report.read_text()


def test_without_a_single_step_there_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run in .* has done a step"):
        write_report(make_plan(tmp_path))


def test_the_reading_follows_the_numbers(comparison: Comparison) -> None:
    said = reading(summarise(comparison.variants, 3, collect(comparison.runs)))
    assert said[0] == (
        "vanilla skipped updates in 2 of 3 runs: 5 for NaN and 1 for a high gradient, 37.5% of its steps; 1 run ended "
        "early, since no update could be applied any more."
    )
    assert said[1:3] == [
        "upbounded skipped no update in 3 runs (18 steps).",
        "explin/constant skipped no update in 3 runs (18 steps).",
    ]
    assert said[3] == (
        "explin/constant has the lowest mean test NELBO, 4.100 nats per dimension (vanilla 4.300 in the 2 of 3 runs "
        "where it is finite, upbounded 4.100 in the 2 of 3 runs where it is finite); within one standard deviation of "
        "it, its own or theirs: vanilla, upbounded."
    )
    assert "upbounded has no finite test NELBO in 1 run" in said[5]
    assert "depends on the seed for vanilla" in said[6]


def test_the_reading_does_not_praise_a_patched_variant_that_broke(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla,explin", "0")
    write_run(made.runs[0])
    write_run(made.runs[1], ["high_gradient"] * 6, nelbo=9.0)
    said = reading(summarise(made.variants, 1, collect(made.runs)))
    assert said[0] == "vanilla skipped no update in 1 run (6 steps)."
    assert said[1].startswith("explin skipped updates in 1 of 1 run: 0 for NaN and 6 for a high gradient, 100.0%")
    assert "applied no update in the last 1 step" in said[1]
    assert said[2].startswith("vanilla has the lowest mean test NELBO, 4.000")


def nelbo_sentence(tmp_path: Path, *nelbos: tuple[float, float]) -> str:
    """Of variants with two seeds each."""
    names = ("vanilla", "upbounded", "explin")[: len(nelbos)]
    made = make_plan(tmp_path, ",".join(names), "0,1")
    for seed in (0, 1):
        for index, both in enumerate(nelbos):
            write_run(made.runs[seed * len(names) + index], nelbo=both[seed])
    return next(line for line in reading(summarise(made.variants, 2, collect(made.runs))) if "lowest" in line)


def test_means_that_do_not_differ_as_they_are_shown_are_the_lowest_together(tmp_path: Path) -> None:
    assert nelbo_sentence(tmp_path, (5.1081, 5.1079), (5.1083, 5.1078), (6.0, 6.0)) == (
        "vanilla and upbounded have the lowest mean test NELBO, 5.108 nats per dimension, and do not differ in the "
        "digits that are shown (explin 6.000)."
    )


def test_within_one_standard_deviation_is_not_within_the_sum_of_two(tmp_path: Path) -> None:
    """Sample deviations 0.014, 0.071 and 0.141: 0.1 away is within the last alone, and 0.08 within none but the sum."""
    said = nelbo_sentence(tmp_path, (5.01, 4.99), (5.13, 5.03), (5.2, 5.0))
    assert said.endswith("; within one standard deviation of it, its own or theirs: explin.")


def test_what_is_rare_is_not_shown_as_nothing(tmp_path: Path) -> None:
    assert [_share(*pair) for pair in ((0, 10), (1, 10_000), (1, 1_000), (9_999, 10_000), (10, 10))] == [
        "0.0%", "less than 0.1%", "0.1%", "more than 99.9%", "100.0%",
    ]  # fmt: skip
    made = make_plan(tmp_path, "vanilla", ",".join(map(str, range(25))))
    for index, run in enumerate(made.runs):
        write_run(run, ["nan_rate" if index == 7 else None, *[None] * 5])
    (row,) = summarise(made.variants, 25, collect(made.runs))
    assert cells(row)[2] == "0.04 ± 0.20"


def test_a_raised_learning_rate_and_a_handful_of_images_are_said() -> None:
    raised = parse_train([*FLAGS, "--lr", "1.2e-2", "--limit-images", "10"])
    said = " ".join(unusual(raised, preset_lr=2e-4))
    assert "0.012, 60 times the preset's 0.0002" in said
    assert "10 training images alone" in said
    usual = [*FLAGS, "--ema-rate", "0"]
    assert unusual(parse_train(usual), preset_lr=2e-4) == []
    assert unusual(parse_train(usual), preset_lr=1e-3) == ["The learning rate is 0.0002, below the preset's 0.001."]


def test_averaged_weights_that_have_not_come_far_are_said() -> None:
    said = too_short(parse_train([*FLAGS, "--steps", "60", "--ema-rate", "0.999"]))
    assert said[0].startswith(
        "After 60 updates at --ema-rate 0.999 the averaged weights (EMA), which are what is tested"
    )
    assert "are still the initial ones to 94%" in said[0]
    assert too_short(parse_train([*FLAGS, "--steps", "480", "--ema-rate", "0.99"])) == []


def test_averaged_weights_that_skipped_updates_have_kept_back_are_said() -> None:
    """They move with an applied update alone, and how many steps an epoch has is known at the end only."""
    summary = {"steps": 480, "high_gradient_count": 400, "nan_count": 20, "loss_scale_count": 0}
    runs = [
        Evaluated.by("vanilla seed 0", summary, {}, 0.99),
        Evaluated.by("explin seed 0", {**summary, "high_gradient_count": 0}, {}, 0.99),
    ]
    (said,) = tested.remarks(runs)
    assert said.startswith("vanilla seed 0: after 60 updates at --ema-rate 0.99")
    assert "still the initial ones to 55%" in said  # 0.99^60 = 0.547
    assert tested.remarks(runs[1:]) == []
    (said,) = tested.remarks(runs[:1])
    assert said.startswith("After 60 updates")


def test_an_optimal_sigma_that_has_not_come_far_is_said() -> None:
    """The running mean is 0.99^29 of the first error, here 1, and the others are 0; a test of it looks far too bad."""
    decoder = decoders.get("optimal")
    for error in [1.0] + [0.0] * 29:
        decoder.nll(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), error))
        decoder.step()
    assert isinstance(decoder, decoders.Optimal)
    assert float(decoder.mean_squared_error) == pytest.approx(0.99**29, rel=1e-5)
    said = decoder.lag()
    assert "after 30 updates" in said
    assert "to 75%" in said
    summary = {"steps": 30, "sigma_lags": said}
    runs = [Evaluated.by("optimal seed 0", summary, {}, 0.0), Evaluated.by("vanilla seed 0", {"steps": 30}, {}, 0.0)]
    assert tested.remarks(runs) == [f"optimal seed 0: {said}."]
    decoder.updates.fill_(300)  # 0.99^299 = 0.0495
    assert decoder.lag() == ""
    decoder.updates.fill_(299)
    assert "300 updates or more" in decoder.lag()


def test_a_test_nelbo_of_a_few_of_the_test_images_is_said() -> None:
    seen = {"data": {"test_count": 10_000}}
    few, every = ({"steps": 1, "test": {"images": images}} for images in (1_000, 10_000))
    assert tested.remarks([Evaluated.by("a", few, seen, 0.0)] * 2) == [
        "The test NELBO is of the first 1,000 of 10,000 test images."
    ]
    assert tested.remarks([Evaluated.by("a", every, seen, 0.0), Evaluated.by("b", few, seen, 0.0)]) == [
        "The test NELBO of b is of the first 1,000 of 10,000 test images."
    ]
    assert tested.remarks([Evaluated.by("a", every, seen, 0.0), Evaluated.by("b", few, {}, 0.0)]) == []


def flip(path: Path, text: bytes) -> None:
    """Flip a bit of the first byte of `text` in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)


def test_a_damaged_line_leaves_a_gap_in_the_curve_and_the_counts_are_the_summarys(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0], [None, "nan_rate", None, "nan_rate"])
    flip(made.runs[0].folder / "metrics.jsonl", b'1, "epoch"')
    (found,) = collect(made.runs)
    assert (found.outcome, found.steps, found.nan, found.curves.step.tolist()) == ("finished", 4, 2, [0, 2, 3])
    said = "\n".join(notes(summarise(made.variants, 1, [found]), [found]))
    assert "metrics.jsonl line 2 is damaged: its checksum does not match" in said
    assert "its counts are those of summary.json" in said


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("summary.json", b'0,\n  "nan_count', "summary.json is damaged: its checksum does not match"),
        ("config.toml", b"seed", "config.toml is damaged"),
    ],
)
def test_a_run_with_a_damaged_summary_or_configuration_is_refused_and_the_others_are_shown(
    tmp_path: Path, file: str, text: bytes, said: str
) -> None:
    made = make_plan(tmp_path, "vanilla", "0,1")
    for run in made.runs:
        write_run(run)
    flip(made.runs[0].folder / file, text)
    results = collect(made.runs)
    assert [result.outcome for result in results] == ["refused", "finished"]
    (row,) = summarise(made.variants, 2, results)
    assert cells(row)[-1] == "1/2"
    lines = notes([row], results)
    assert lines[0] == "vanilla seed 0: REFUSED, none of its numbers is shown: remove its folder to do it again"
    assert said in lines[1]


def test_a_run_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0,1")
    write_run(made.runs[0], [None, "nan_rate"], nan_count=0)
    write_run(made.runs[1])
    results = collect(made.runs)
    assert [result.outcome for result in results] == ["refused", "finished"]
    write_report(made)
    assert "summary.json says 0 for nan_count, metrics.jsonl 1" in (made.out / "comparison.json").read_text()
    (row,) = [line for line in (made.out / "report.md").read_text().splitlines() if " | refused | " in line]
    assert [cell.strip() for cell in row.split("|")][3:8] == ["-"] * 5  # steps, both counts, both NELBOs


def test_if_no_run_can_be_trusted_there_is_no_report(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0], [None, "nan_rate"], nan_count=0)
    with pytest.raises(RunError, match=r"no run in .* can be trusted: vanilla seed 0: summary.json says 0"):
        write_report(made)


def test_what_no_checksum_vouches_for_is_shown_and_said(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0])
    folder = made.runs[0].folder
    rows = [json.dumps(row) for row in read(folder / "metrics.jsonl")]
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (found,) = collect(made.runs)
    assert found.steps == 6
    assert notes(summarise(made.variants, 1, [found]), [found]) == [
        "vanilla seed 0: no checksum vouches for metrics.jsonl: of a version that wrote none, or changed"
    ]


@pytest.mark.parametrize("row", ['{"step": 1}', '{"step": 1, "epoch": 0, "elbo": [], "skipped": false, "cause": null}'])
def test_records_of_other_fields_or_types_are_refused_in_one_line(tmp_path: Path, row: str) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    write_run(run, nelbo=None)
    (run.folder / "metrics.jsonl").write_text(f"{row}\n")
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be read: its record of step 1 has"):
        read_run(run)


def test_runs_that_multiply_float32_otherwise_are_named(comparison: Comparison) -> None:
    results = collect(comparison.runs)
    told = [replace(result, seen={**result.seen, "float32": "tf32"}) for result in results]
    rows = summarise(comparison.variants, 3, told)
    assert not [line for line in notes(rows, told) if "float32" in line]
    told[0] = replace(told[0], seen={**told[0].seen, "float32": "ieee"})
    (line,) = [line for line in notes(rows, told) if "float32" in line]
    assert f"ieee: {told[0].label}; tf32: {told[1].label}" in line
    assert told[-1].label in line


@pytest.mark.parametrize("ended", [True, False])
def test_updates_that_were_skipped_for_the_loss_scale_are_said(tmp_path: Path, ended: bool) -> None:
    """They are in neither column of the table, and the figure counts them."""
    comparison = make_plan(tmp_path, "vanilla,upbounded", "0", "--max-consecutive-skips", "3")
    vanilla, upbounded = comparison.runs
    if ended:
        write_run(vanilla, ["loss_scale", "loss_scale", None, None, None, None], loss_scale_count=2)
    else:
        write_run(vanilla, [None, None, None, *["loss_scale"] * 3], nelbo=None)
    write_run(upbounded, ["loss_scale", "nan_rate", None, None, None, None], loss_scale_count=1)
    results = collect(comparison.runs)
    assert [result.loss_scale for result in results] == [2 if ended else 3, 1]
    assert counted(results) == "high gradient, NaN or fp16's loss scale"
    rows = summarise(comparison.variants, 1, results)
    lost = "2 updates" if ended else "3 updates"
    sentences = reading(rows)
    assert (
        f"vanilla skipped no update for NaN or a high gradient, and {lost} for fp16's loss scale, in 1 run (6 steps)."
        in sentences
    )
    assert any("upbounded skipped updates in 1 of 1 run: 1 for NaN" in sentence for sentence in sentences)
    said = notes(rows, results)
    assert any("upbounded seed 0: 1 more skipped for fp16's loss scale" in line for line in said)


def test_a_lower_mean_of_fewer_runs_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    comparison = make_plan(tmp_path, "vanilla,upbounded", "0,1")
    for run, nelbo in zip(comparison.runs, (3.0, 4.0, math.inf, 4.2), strict=True):  # seed by seed
        write_run(run, nelbo=nelbo)
    (sentence,) = [
        line for line in reading(summarise(comparison.variants, 2, collect(comparison.runs))) if "lowest" in line
    ]
    assert sentence.startswith("of those whose test NELBO is finite in every run, upbounded has the lowest mean")
    assert "vanilla 3.000 in the 1 of 2 runs where it is finite" in sentence


def test_a_run_that_has_not_ended_is_not_called_one_whose_test_is_not_finite(tmp_path: Path) -> None:
    comparison = make_plan(tmp_path, "vanilla,upbounded", "0,1")
    for run, nelbo in zip(comparison.runs, (3.0, 4.0, None, 4.2), strict=True):  # seed by seed
        write_run(run, nelbo=nelbo)
    (sentence,) = [
        line for line in reading(summarise(comparison.variants, 2, collect(comparison.runs))) if "lowest" in line
    ]
    assert sentence.startswith("of those whose runs have all ended with a finite test NELBO, upbounded has the lowest")
    assert "vanilla 3.000 in the 1 of 2 runs that have ended" in sentence


def test_a_loss_that_is_not_distortion_and_rate_is_no_bound_and_said() -> None:
    """With a weight on the rate, as β or a warm-up of the host's own, it is another number."""
    weighted = no_bound(1.25, 1.0, 0.5)
    assert weighted.startswith(
        "the host's loss of the test images is 1.25 nats per dimension, and its distortion + rate 1.5: "
    )
    assert no_bound(1.5, 1.0, 0.5) == no_bound(1.5 + 1e-6, 1.0, 0.5) == ""
    assert no_bound(math.nan, 1.0, 0.5) == no_bound(math.inf, 1.0, math.inf) == ""
    run = Evaluated.by("vanilla seed 0", {"steps": 1, "entry_disagrees": {"bound": weighted}}, {}, 0.0)
    assert tested.remarks([run]) == [f"vanilla seed 0: {weighted}."]
    assert tested.remarks([run] * 3) == [f"vanilla seed 0: {weighted}; and the like of 2 more runs."]


def test_heads_of_another_pass_than_the_steps_are_said_of_a_run() -> None:
    apart = disagreement("mine", kl=8.0, rate=0.5, dims=10)
    assert apart.startswith(
        "`latents` of host 'mine' has a KL of 8 nats an image and `losses` a rate of 5, of the same images and noise"
    )
    assert disagreement("mine", 5.0, 0.5, 10) == disagreement("mine", 5.001, 0.5, 10) == ""
    assert disagreement("mine", kl=5.6, rate=0.5, dims=10, half=True)
    assert not disagreement("mine", kl=5.4, rate=0.5, dims=10, half=True)
    assert not disagreement("mine", kl=0.000086, rate=-0.00016, dims=10, half=True)
    assert disagreement("mine", math.nan, 0.5, 10) == disagreement("mine", 5.0, math.inf, 10) == ""
    run = Evaluated.by("a", {"steps": 1, "entry_disagrees": {"heads": f"step 0: {apart}"}}, {}, 0.0)
    assert tested.remarks([run]) == [f"a: step 0: {apart}."]
