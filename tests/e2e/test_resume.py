"""Where a run may be stopped, and what may have happened to its files meanwhile."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SERVER, Launched, assert_same_run, count_lines, finish, metrics, tiny

from vdvae_patch.report.runs import read_run
from vdvae_patch.train import checkpoint, loop
from vdvae_patch.train.loop import train

pytestmark = pytest.mark.medium

STEPS = 30


@pytest.fixture(scope="module")
def streaky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run, each step of which was saved, and whose threshold skips about a third of its updates."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("streaky")
    train(tiny(folder / "plain", steps=STEPS))
    norms = sorted(row["grad_norm"] for row in metrics(folder / "plain"))
    threshold = norms[len(norms) * 2 // 3]
    out = folder / "run"
    keep = checkpoint.prune
    checkpoint.prune = lambda folder, keep=2: None  # type: ignore[assignment]
    try:
        train(tiny(out, steps=STEPS, skip_threshold=threshold, checkpoint_every=1))
    finally:
        checkpoint.prune = keep
    return out, threshold


def moments(out: Path) -> dict[str, int]:
    """Steps after which the run is stopped."""
    skipped = [row["skipped"] for row in metrics(out)]
    pairs = [n for n in range(1, STEPS - 2) if skipped[n - 1]]
    streaks = [n for n in pairs if skipped[n]]
    per_epoch = 12  # 24 images, 2 a step
    return {"right after a skip": pairs[0], "inside a streak": streaks[0] if streaks else pairs[-1], "epoch": per_epoch}


@pytest.mark.parametrize("moment", ["right after a skip", "inside a streak", "epoch"])
def test_a_run_resumed_there_is_the_undisturbed_run(streaky: tuple[Path, float], moment: str, tmp_path: Path) -> None:
    undisturbed, threshold = streaky
    stop = moments(undisturbed)[moment]
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "summary.json").unlink()
    for path in checkpoint.checkpoints(out / "checkpoints"):
        if int(path.name[5:]) > stop:
            shutil.rmtree(path)
    train(tiny(out, steps=STEPS, skip_threshold=threshold, checkpoint_every=1, resume=True))
    assert_same_run(undisturbed, out)


def test_a_damaged_newest_checkpoint_and_a_cut_log_are_survived(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(tiny(tmp_path / "undisturbed"))
    out = tmp_path / "run"
    train(tiny(out, steps=50))
    newest = checkpoint.checkpoints(out / "checkpoints")[0]
    state = bytearray((newest / checkpoint.STATE).read_bytes())
    state[len(state) // 2] ^= 1
    (newest / checkpoint.STATE).write_bytes(state)
    log = out / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    said = finish(tiny(out, resume=True))
    assert f"{newest / checkpoint.STATE} is damaged" in said
    assert "using step-00000049" in said
    for name in ("metrics.jsonl", "heads.jsonl"):
        assert metrics(tmp_path / "undisturbed", name) == metrics(out, name)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    launched = Launched(tiny(out, checkpoint_every=0, steps=1000))
    launched.until(lambda: count_lines(out / "metrics.jsonl") > 2)
    launched.kill()
    launched.wait()
    said = finish(tiny(out, checkpoint_every=0, steps=5, resume=True))
    assert "starting again at step 0" in said
    assert [row["step"] for row in metrics(out)] == list(range(5))


def limit_file_size(limit: int) -> None:
    """No file of this process may grow beyond `limit` bytes: what a full disk looks like."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def save_limited(folder: Path, limit: int) -> None:
    """Save a second checkpoint with no space left."""
    from vdvae_patch.errors import RunError
    from vdvae_patch.train.checkpoint import CheckpointInfo

    limit_file_size(limit)
    info = CheckpointInfo(2, "vdvae", "vanilla", "host", (), True, None)
    try:
        checkpoint.save(folder, info, {"w": torch.zeros(5000)})
    except RunError as error:
        raise SystemExit(3 if "no space left" in str(error) else 4) from None


def test_no_space_left_at_any_of_fifty_points_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    info = checkpoint.CheckpointInfo(1, "vdvae", "vanilla", "host", (), True, None)
    path = checkpoint.save(tmp_path, info, {"w": torch.zeros(5000)})
    size = (path / checkpoint.STATE).stat().st_size
    processes = [SERVER.Process(target=save_limited, args=(tmp_path, size * n // 50)) for n in range(50)]
    for process in processes:
        process.start()
        process.join(60)
    assert [process.exitcode for process in processes] == [3] * 50
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.newest(tmp_path).info.step == 1


@pytest.mark.parametrize("limit", [1600, 4000, 60_000])  # what the run says fits into the least
def test_a_run_without_space_ends_with_one_line_and_goes_on_later(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "run"
    finish(tiny(out, steps=8))
    launched = Launched(tiny(out, steps=30, resume=True), prepare=limit_file_size, limit=limit)
    assert launched.wait() == [2], launched.said()
    assert "vdvae-patch: error:" in launched.said()
    assert "Traceback" not in launched.said()
    assert checkpoint.newest(out / "checkpoints").info.step >= 7
    finish(tiny(out, steps=30, resume=True))
    assert [row["step"] for row in metrics(out)] == list(range(30))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = Launched(tiny(out, steps=100_000))
    first.until(lambda: count_lines(out / "metrics.jsonl") > 0)
    second = Launched(tiny(out, steps=100_000, resume=True))
    assert second.wait() == [2]
    assert "is in use by another run" in second.said()
    first.kill()
    first.wait()


LONG = 400
"""Steps of a run that must not have ended when a signal arrives, also where the test waits for its turn."""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_exit_status_says_resume_me(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(tiny(tmp_path / "undisturbed", steps=LONG))
    run = Launched(tiny(out, checkpoint_every=0, steps=LONG))
    run.until(lambda: count_lines(out / "metrics.jsonl") > 10)
    run.send(number)
    assert run.wait() == [75]
    finish(tiny(out, checkpoint_every=0, steps=LONG, resume=True))
    assert metrics(tmp_path / "undisturbed") == metrics(out)


@pytest.mark.medium
def test_a_folder_that_is_renamed_under_its_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.save

    def moved(*args: Any) -> Any:
        path = saved(*args)
        if not (tmp_path / "elsewhere").exists():
            (tmp_path / "run").rename(tmp_path / "elsewhere")
            (tmp_path / "run" / "recordings").mkdir(parents=True)  # as the next recording or checkpoint makes it
        return path

    monkeypatch.setattr(checkpoint, "save", moved)
    train(tiny(tmp_path / "run", steps=3, checkpoint_every=1, watch_every=0))
    assert f"note: {tmp_path / 'run'} was renamed or deleted: checkpoints" in capfd.readouterr().err
    assert count_lines(tmp_path / "elsewhere" / "metrics.jsonl") == 3


def test_a_signal_in_the_last_evaluation_does_not_wait_for_its_end(tmp_path: Path) -> None:
    """The steps are saved by then: `compare` that was ended had waited for minutes of evaluation."""
    out = tmp_path / "run"
    finish(tiny(tmp_path / "undisturbed", steps=4))
    run = Launched(tiny(out, steps=4), prepare=evaluate_for_ever, mark=tmp_path / "evaluating")
    run.until((tmp_path / "evaluating").exists)
    run.send(signal.SIGTERM)
    assert run.wait() == [75]
    assert "SIGTERM after the last step: all steps are saved" in run.said()
    assert not (out / "summary.json").exists()
    finish(tiny(out, steps=4, resume=True))
    ended, whole = (json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "undisturbed"))
    assert ended["test_nelbo_nats_per_dim"] == whole["test_nelbo_nats_per_dim"]


def evaluate_for_ever(mark: Path) -> None:
    def evaluate(*given: object, **named: object) -> None:
        mark.touch()
        while True:
            with contextlib.suppress(Exception):  # as code of a host may do
                time.sleep(0.01)

    loop.evaluate = evaluate  # type: ignore[assignment]


def test_a_terminal_that_hangs_up_does_not_end_a_run_under_nohup(tmp_path: Path) -> None:
    run = Launched(tiny(tmp_path / "run", checkpoint_every=0, steps=LONG), prepare=ignore_hangups)
    run.until(lambda: count_lines(tmp_path / "run" / "metrics.jsonl") > 10)
    run.send(signal.SIGHUP)
    assert run.wait() == [0]


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_checkpoint_is_read_once_to_go_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(tmp_path / "run", steps=4, checkpoint_every=2))
    opened: list[str] = []

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and watching and checkpoint.STATE in str(given[0]):
            opened.append(str(given[0]))

    watching = True
    sys.addaudithook(hook)  # there is no way to take one back
    try:
        train(tiny(tmp_path / "run", steps=6, checkpoint_every=100, resume=True))
    finally:
        watching = False
    assert len([name for name in opened if "step-00000004" in name]) == 1, opened


class CutOffError(Exception):
    """The end of a process, without a signal that it could save at."""


def cut_off_after(calls: int) -> Callable[[], float]:
    """A clock that ends the training that asks it so often."""
    left = iter(range(calls))

    def clock() -> float:
        if next(left, None) is None:
            raise CutOffError
        return 0.0

    return clock


def test_pictures_of_an_end_or_of_steps_that_are_done_again_are_not_shown_as_those_of_other_steps(
    tmp_path: Path,
) -> None:
    config = tiny(tmp_path / "run", steps=4, samples_every=3, checkpoint_every=0)
    train(config)
    (config.folder / "trajectory.png").write_bytes(b"as a decoder or an objective draws it")
    (ended,) = (path.read_bytes() for path in config.folder.glob("samples/final.png"))
    (config.folder / "samples/step-00000005.png").write_bytes(b"of a step behind the last checkpoint")
    with pytest.raises(CutOffError):
        train(replace(config, steps=9, samples_every=0, resume=True), clock=cut_off_after(9))
    shown = read_run(config.folder)
    assert shown.state == "cut off"
    assert shown.steps > 4
    assert [step for step, _ in shown.samples] == [3, 4]
    assert shown.samples[-1][1].read_bytes() == ended
    assert not (config.folder / "trajectory.png").exists()
