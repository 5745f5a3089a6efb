"""A run is resumed as itself: its own checkpoints, its images, its weights, its logs; what changed is written down."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, tiny

from vdvae_patch.compare import tested
from vdvae_patch.compare.tested import Evaluated
from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.report.runs import read_run
from vdvae_patch.skips.records import read_log
from vdvae_patch.train import checkpoint, loop
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import RunFolder, read_checked, write_config
from vdvae_patch.train.loop import train

STEPS = 20


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("begun") / "run"
    train(tiny(out, steps=STEPS, evaluate_every=5, watch_every=3))
    return out


@pytest.fixture
def out(begun: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


def resume(out: Path, **settings: Any) -> None:
    train(tiny(out, **{"steps": STEPS + 5, "evaluate_every": 5, "watch_every": 3, "resume": True, **settings}))


def sessions(out: Path) -> list[dict[str, Any]]:
    return list(RunFile.read(out / "config.toml").seen["sessions"])


def test_configuration_logs_checkpoints_and_summary_carry_one_identity(begun: Path) -> None:
    file = RunFile.read(begun / "config.toml")
    assert len(file.run) == 32
    assert file.checked
    for path in checkpoint.checkpoints(begun / "checkpoints"):
        assert checkpoint.read_manifest(path)[0].run == file.run
    for name in ("metrics", "heads", "evaluations"):
        assert read_log(begun / f"{name}.jsonl").runs == (file.run[:8],)
    summary, checked = read_checked(begun / "summary.json")
    assert (summary["run"]["id"], checked) == (file.run, True)
    assert summary["logs"] == {"metrics": 20, "skips": 0, "heads": 7, "evaluations": 4}


@pytest.mark.medium
def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_cut(out: Path, tmp_path: Path) -> None:
    train(tiny(tmp_path / "other", steps=40))
    shutil.copytree(tmp_path / "other" / "checkpoints", out / "checkpoints", dirs_exist_ok=True)
    before = (out / "metrics.jsonl").read_bytes()
    ours, theirs = (RunFile.read(path / "config.toml").run for path in (out, tmp_path / "other"))
    with pytest.raises(CheckpointError, match=f"is of run {theirs}, and .* of run {ours}"):
        resume(out, steps=60)
    assert (out / "metrics.jsonl").read_bytes() == before


@pytest.mark.medium
def test_each_session_is_kept_and_the_first_one_is_not_overwritten(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = RunFile.read(out / "config.toml").seen
    seen = loop.provenance
    monkeypatch.setattr(loop, "provenance", lambda device: seen(device) | {"torch": "9.9.9", "commit": "abcdef012345"})
    resume(out)
    now = RunFile.read(out / "config.toml").seen
    assert {key: now[key] for key in first if key not in ("sessions", "resumed")} == {
        key: first[key] for key in first if key not in ("sessions", "resumed")
    }
    assert [entry["step"] for entry in sessions(out)] == [0, 20]
    assert sessions(out)[1]["changes"] == [
        f"commit abcdef012345 (was {first['commit']})",
        f"torch 9.9.9 (was {first['torch']})",
    ]
    assert "goes on with commit abcdef012345" in capfd.readouterr().err
    resume(out, steps=STEPS + 8)
    assert [entry["step"] for entry in sessions(out)] == [0, 20, 25]


def other_images(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first pixel of a split is another one."""
    prepare = loop.prepare

    def harmed(config: Any, device: Any) -> Any:
        import vdvae_patch.train.setup as setup
        from vdvae_patch.data.fingerprints import fingerprint, fingerprints

        load = setup.load

        def other(*args: Any, **options: Any) -> Any:
            data = load(*args, **options)
            split = getattr(data, name).copy()
            split[0, 0, 0, 0] ^= 1
            data = replace(data, **{name: split})
            held = fingerprints(data.valid, data.test)
            told = replace(data.provenance, fingerprint=fingerprint(data.train), held_out_fingerprint=held)
            return replace(data, provenance=told)

        monkeypatch.setattr(setup, "load", other)
        return prepare(config, device)

    monkeypatch.setattr(loop, "prepare", harmed)


@pytest.mark.medium
@pytest.mark.parametrize(("split", "said"), [("train", "other training images"), ("test", "other images to validate")])
def test_other_images_of_the_same_number_are_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch, split: str, said: str
) -> None:
    other_images(monkeypatch, split)
    before = {path.name: path.read_bytes() for path in out.glob("*.*") if path.name != "run.lock"}
    with pytest.raises(RunError, match=f"the images are not those that the run in .* saw: {said}"):
        resume(out)
    assert {path.name: path.read_bytes() for path in out.glob("*.*") if path.name != "run.lock"} == before


@pytest.mark.medium
def test_other_weights_are_refused_and_the_ones_it_began_with_are_not(begun: Path, out: Path, tmp_path: Path) -> None:
    weights = checkpoint.checkpoints(begun / "checkpoints")[0]
    with pytest.raises(RunError, match="began with weights of its seed"):
        resume(out, weights=weights)
    begins = tmp_path / "begins"
    train(tiny(begins, steps=8, weights=weights))
    resume(begins, weights=weights, steps=10, evaluate_every=0, watch_every=10)
    assert [entry["step"] for entry in sessions(begins)] == [0, 8]


@pytest.mark.medium
@pytest.mark.parametrize("harm", ["renamed", "emptied", "a link to nowhere", "a file"])
def test_checkpoints_that_cannot_be_seen_are_not_taken_for_none(out: Path, harm: str, tmp_path: Path) -> None:
    folder = out / "checkpoints"
    folder.rename(tmp_path / "elsewhere")
    if harm == "emptied":
        folder.mkdir()
    elif harm == "a link to nowhere":
        folder.symlink_to(tmp_path / "not-mounted")
    elif harm == "a file":
        folder.write_text("")
    before = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"checkpoints (holds no checkpoint, but|is a link to|cannot be read)"):
        resume(out)
    assert (out / "metrics.jsonl").read_bytes() == before
    if harm == "a link to nowhere":
        (tmp_path / "elsewhere").rename(tmp_path / "not-mounted")
    else:
        folder.unlink() if folder.is_file() else folder.rmdir() if folder.exists() else None
        (tmp_path / "elsewhere").rename(folder)
    resume(out)
    assert [row["step"] for row in metrics(out)] == list(range(STEPS + 5))


def test_an_older_run_with_logs_and_no_checkpoints_is_not_begun_again(out: Path) -> None:
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").unlink()
    forget(out)
    with pytest.raises(RunError, match="has 20 steps, and one was due every 7"):
        resume(out)


def forget(out: Path) -> None:
    """What a version wrote that gave no identity."""
    file = RunFile.read(out / "config.toml")
    seen = {k: v for k, v in file.seen.items() if k not in ("id", "sessions", "checkpointed")}
    write_config(RunFolder(out), tiny(out, steps=STEPS, evaluate_every=5, watch_every=3), seen)


@pytest.mark.medium
def test_logs_of_a_run_that_begins_again_are_moved_aside(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny(out, steps=5, checkpoint_every=0))
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").unlink()
    forget(out)
    before = (out / "metrics.jsonl").read_bytes()
    train(tiny(out, steps=5, checkpoint_every=0, resume=True))
    assert (out / "before-1" / "metrics.jsonl").read_bytes() == before
    assert [row["step"] for row in metrics(out)] == list(range(5))


def test_a_damaged_line_is_reported_and_takes_nothing_with_it(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("metrics", "heads", "evaluations"):
        data = bytearray((out / f"{name}.jsonl").read_bytes())
        data[data.index(b"\n") + 20] ^= 1
        (out / f"{name}.jsonl").write_bytes(data)
    resume(out)
    said = capfd.readouterr().err
    for name in ("metrics", "heads", "evaluations"):
        assert f"{name}.jsonl line 2 is damaged" in said
        assert (out / f"{name}.jsonl.damaged").read_bytes().count(b"\n") == 1
    assert [row["step"] for row in metrics(out)] == [0, *range(2, STEPS + 5)]
    assert any("metrics.jsonl line 2" in problem for problem in sessions(out)[-1]["problems"])
    assert read_checked(out / "summary.json")[0]["steps"] == STEPS + 5


def test_a_record_that_is_missing_is_told_by_the_checkpoint(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = (out / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join(lines[:15]))
    resume(out)
    assert "metrics.jsonl lacks records 16 to 20" in capfd.readouterr().err


def test_what_was_cut_off_behind_the_last_checkpoint_is_said_and_done_again(
    out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = [row["elbo"] for row in metrics(out)]
    (out / "summary.json").unlink()  # as a killed run has it
    for newer in checkpoint.checkpoints(out / "checkpoints")[:-1]:
        shutil.rmtree(newer)
    for name, left in (("metrics", 17), ("heads", 5), ("evaluations", 3)):
        lines = (out / f"{name}.jsonl").read_text().splitlines(True)
        (out / f"{name}.jsonl").write_text("".join(lines[:left]))
    shown = read_run(out)
    resume(out, steps=STEPS)
    said = capfd.readouterr().err
    for lost in ("metrics.jsonl lacks records 18 to 20", "heads.jsonl lacks records 6 to 7", "lacks record 4"):
        assert any(lost in problem for problem in shown.problems), shown.problems
        assert lost in said
    assert shown.untrusted
    assert [row["elbo"] for row in metrics(out)] == whole
    assert not read_run(out).problems


def test_a_run_that_has_ended_takes_no_other_training(out: Path) -> None:
    before = {path.name: path.read_bytes() for path in out.glob("*.*") if path.name != "run.lock"}
    with pytest.raises(RunError, match=r"has done all of its 20 steps, and lr 0.5 \(was 0.001\) would change none"):
        resume(out, steps=STEPS, lr=0.5)
    assert {path.name: path.read_bytes() for path in out.glob("*.*") if path.name != "run.lock"} == before


def test_a_run_that_has_ended_is_measured_again_where_that_is_told_anew(
    out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    resume(out, steps=STEPS, test_images=1, importance_samples=7)
    said = capfd.readouterr().err
    for part in (
        "all 20 steps are done: measured again with ",
        "test_images 1 (was 0)",
        "importance_samples 7 (was 500)",
    ):
        assert part in said
    assert read_checked(out / "summary.json")[0]["test"]["images"] == 1


def test_the_share_of_the_initial_weights_is_of_every_rate_that_they_were_averaged_at(out: Path) -> None:
    resume(out, steps=STEPS + 2, ema_rate=0.9999)
    summary, _ = read_checked(out / "summary.json")
    share = 0.9**STEPS * 0.9999**2  # at the last rate alone it would be 99.8%
    assert summary["initial_share"] == pytest.approx(share)
    (said,) = tested.remarks([Evaluated.by("it", summary, {}, 0.9999)])
    assert said.startswith("After 22 updates at more than one rate, the last --ema-rate 0.9999, the averaged weights")
    assert f"the initial ones to {share:.0%}:" in said


def test_a_checkpoint_has_the_nelbo_of_its_own_weights_on_the_images_to_validate(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=6, evaluate_every=3, checkpoint_every=2))
    evaluated = {row["step"] + 1: row["elbo"] for row in read_log(tmp_path / "evaluations.jsonl").records}
    saved = {info.step: info.nelbo for info in map(info_of, checkpoint.checkpoints(tmp_path / "checkpoints"))}
    assert saved == {6: evaluated[6], 4: None}


def info_of(path: Path) -> checkpoint.CheckpointInfo:
    return checkpoint.read_manifest(path)[0]


def test_a_damaged_summary_is_made_again(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, _ = read_checked(out / "summary.json")
    text = (out / "summary.json").read_text()
    (out / "summary.json").write_text(text.replace('"steps": 20', '"steps": 21'))
    resume(out, steps=STEPS)
    assert "summary.json is damaged" in capfd.readouterr().err
    after, checked = read_checked(out / "summary.json")
    assert checked
    assert after["test_nelbo_nats_per_dim"] == before["test_nelbo_nats_per_dim"]


def test_a_configuration_that_was_changed_is_refused(out: Path) -> None:
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("seed = 0", "seed = 1"))
    with pytest.raises(RunError, match=r"config.toml is damaged, or was changed by hand"):
        resume(out)
