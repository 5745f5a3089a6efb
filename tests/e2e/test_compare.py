"""`vdvae-patch compare` as a user runs it: real processes of training, on a model small enough for a test."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from urllib.parse import unquote

import imageio.v3 as iio
import pytest

from vdvae_patch.cli import demo, main
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.compare.options import separate
from vdvae_patch.compare.progress import ComparisonProgress
from vdvae_patch.compare.schedule import Ended
from vdvae_patch.skips import records
from vdvae_patch.skips.records import read
from vdvae_patch.skips.whole import with_comment
from vdvae_patch.train.folder import read_json
from vdvae_patch.train.interrupts import EXIT_RESUME

# A model of some thousand weights: a step takes a few milliseconds.
TINY = [
    "--preset=demo", "--data=builtin(train=24,valid=8,test=8)", "--width=8", "--zdim=4", "--num-mixtures=2",
    "--enc-blocks=32x1,32d8,4x1,4d4,1x1", "--dec-blocks=1x1,4m1,32m4", "--batch-size=4", "--warmup-iters=5",
    "--lr=2e-4", "--limit-images=10", "--steps=4", "--checkpoint-every=2", "--device=cpu", "--seeds=0", "--jobs=2",
    "--threads=1",
]  # fmt: skip


def compare(*flags: str) -> int:
    """Run `compare`; its exit status."""
    with pytest.raises(SystemExit) as stop:
        main(["compare", *TINY, *flags])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that has been done."""
    out = tmp_path_factory.mktemp("compare") / "out"
    assert compare("--variants=vanilla,upbounded/bounded(alpha=0.1,omega=1)", "--out", str(out)) == 0
    return out


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(done, tmp_path / "out"))


def killed_before_its_first_checkpoint(run: Path) -> None:
    """Leave of a run what it is then."""
    shutil.rmtree(run / "checkpoints")
    records.truncate_after(run / "metrics.jsonl", 1)
    _, _, text = (run / "config.toml").read_text().partition("\n")
    (run / "config.toml").write_text(with_comment(re.sub(r"^checkpointed = \d+\n", "", text, flags=re.MULTILINE)))


def runs(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.glob("*/config.toml"))


@pytest.mark.medium
def test_table_figures_logs_and_summaries_agree(done: Path) -> None:
    record = read_json(done / "comparison.json")
    assert [row["variant"] for row in record["rows"]] == ["vanilla", "upbounded/bounded(alpha=0.1, omega=1)"]
    for row, run in zip(record["rows"], record["runs"], strict=True):
        summary = read_json(done / run["folder"] / "summary.json")
        assert row["test_nelbo_nats_per_dim"]["mean"] == summary["test_nelbo_nats_per_dim"]
        assert row["high_gradient"]["mean"] == summary["high_gradient_count"] == run["high_gradient_count"]
        assert f"| {row['variant']} |" in (done / "report.md").read_text()
    for name in ("curves.png", "images.png"):
        height, width, _ = iio.imread(done / name).shape
        assert min(height, width) > 300
    assert "<svg" in (done / "curves.svg").read_text()


def test_both_variants_began_with_the_same_images_and_the_patch_alone_made_them_differ(done: Path) -> None:
    first, second = (list(records.read(run / "metrics.jsonl")) for run in runs(done))
    assert len(first) == len(second) == 4
    assert first[-1]["elbo"] != second[-1]["elbo"]
    told = [run["run"]["data"]["fingerprint"] for run in read_json(done / "comparison.json")["runs"]]
    assert told[0] == told[1]


def test_links_and_files_that_the_report_names_exist(done: Path) -> None:
    names = re.findall(r"\]\(([^)]+)\)", (done / "report.md").read_text())
    assert {"curves.png", "images.png"} < set(names)
    assert all((done / unquote(name)).exists() for name in names)


def test_a_second_call_rebuilds_the_report_and_trains_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "report.md").unlink()
    before = [(run / "summary.json").stat().st_mtime_ns for run in runs(copy)]
    assert compare("--variants=vanilla,upbounded/bounded(alpha=0.1,omega=1)", "--out", str(copy)) == 0
    assert [(run / "summary.json").stat().st_mtime_ns for run in runs(copy)] == before
    said = capsys.readouterr().out
    assert "2 of 2 runs have ended before" in said
    assert said.rstrip().splitlines()[-2:] == [
        f"report: {copy / 'report.md'}",
        f"look at it: python -m vdvae_patch report {copy} --open",
    ]
    assert (copy / "report.md").exists()


@pytest.mark.medium
def test_a_run_that_was_cut_off_goes_on_and_one_that_fails_does_not_hold_it_up(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, cut = runs(copy)
    undisturbed = [(row["step"], row["elbo"]) for row in records.read(cut / "metrics.jsonl")]
    for run in (broken, cut):
        (run / "summary.json").unlink()
        shutil.rmtree(run / "checkpoints" / "step-00000004")
    killed_before_its_first_checkpoint(cut)
    state = broken / "checkpoints" / "step-00000002" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert compare("--variants=vanilla,upbounded/bounded(alpha=0.1,omega=1)", "--out", str(copy)) == 1
    assert [(row["step"], row["elbo"]) for row in records.read(cut / "metrics.jsonl")] == undisturbed
    said = capsys.readouterr().out
    assert "1000 bytes" in said.split(" failed: ")[1]
    assert "not finished" in said
    assert read_json(copy / "comparison.json")["rows"][0]["test_nelbo_nats_per_dim"]["count"] == 1


@pytest.mark.medium
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_two_runs_begins_no_other_and_the_same_command_goes_on_to_the_same_numbers(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    flags = ["--variants=vanilla,upbounded/bounded(alpha=0.1,omega=1)", "--jobs=1", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        ended = ComparisonProgress.ended

        def and_a_signal(self: ComparisonProgress, run: Ended) -> None:
            ended(self, run)
            os.kill(os.getpid(), number)

        patched.setattr(ComparisonProgress, "ended", and_a_signal)
        assert compare(*flags) == EXIT_RESUME
    assert [run.name for run in runs(tmp_path / "out")] == ["vanilla-seed0"]
    assert compare(*flags) == 0
    for name in ("table.md", "table.csv"):
        assert (tmp_path / "out" / name).read_text() == (done / name).read_text()
    for run in runs(done):
        assert [row["elbo"] for row in read(tmp_path / "out" / run.name / "metrics.jsonl")] == [
            row["elbo"] for row in read(run / "metrics.jsonl")
        ]


def test_runs_that_no_longer_learn_are_counted_and_are_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--variants=vanilla", "--skip-threshold=1e-9", "--max-consecutive-skips=3", "--out", str(tmp_path / "out")]
    assert compare(*flags) == 0
    record = read_json(tmp_path / "out" / "comparison.json")
    assert record["runs"][0]["outcome"] == "stopped"
    assert record["rows"][0]["high_gradient"]["mean"] == 3
    assert record["rows"][0]["test_nelbo_nats_per_dim"]["mean"] is None
    assert "stopped at step 3: no longer learns" in capsys.readouterr().out
    assert compare(*flags) == 0  # and is not done again
    assert len(list(records.read(tmp_path / "out" / "vanilla-seed0" / "metrics.jsonl"))) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--variant=explin"], "--variant is not for a whole comparison; use --variants"),
        (["--variants=vanilla,uppbounded"], "did you mean 'upbounded'"),
        (["--widht=9"], "unknown flag '--widht'; did you mean '--width'"),
        (["--seeds=0,one"], "'one' is no seed"),
        (["--steps=0"], "--steps must be at least 1, not 0"),
        (["--jobs=0"], "--jobs must be at least 1, not 0"),
        (["--jobs=two"], "two"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_begins(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--out", str(tmp_path / "out"), *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "report.md").read_bytes()
    assert compare("--variants=explin", "--lr=0.5", "--out", str(done)) == 2
    assert "lr: 0.0002, now 0.5" in capsys.readouterr().err
    assert (done / "report.md").read_bytes() == before


def test_what_the_demo_chooses_is_valid_and_can_be_overridden(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, passed = separate(demo.SETTINGS, ["--variants", "--seeds", "--jobs", "--threads", "--out"])
    assert len(own) == 5
    assert parse_train(passed).preset == "demo"
    # every choice that makes a difference is overridden, so this is the finished comparison, and nothing is trained
    assert demo.run([*TINY, "--variants=vanilla,upbounded/bounded(alpha=0.1,omega=1)", "--out", str(done)]) == 0
    assert "2 of 2 runs have ended before" in capsys.readouterr().out
