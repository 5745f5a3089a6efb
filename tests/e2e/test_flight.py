"""Skipped updates: recorded, done again bit for bit, explained; and heads watched while all is well."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import torch
from runs import finish, metrics, tiny
from vdvae_patch.patches.vdvae import Architecture

from vdvae_patch.errors import RunError
from vdvae_patch.train import flight
from vdvae_patch.train.flight import Recording, WeightsBefore
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import Replay, replay
from vdvae_patch.train.verdict import draw, report, suspects

pytestmark = pytest.mark.medium

WILD = Architecture(
    width=8, zdim=4, enc_blocks="32x1,32d8,4d4,1x1", dec_blocks="1x1,4m1,32m4", num_mixtures=10
)  # with this learning rate, a vanilla model is NaN after a few steps


def wild(out: Path, **settings: object):  # type: ignore[no-untyped-def]
    config = tiny(
        out, steps=400, lr=0.3, batch_size=8, warmup_iters=5, skip_threshold=-1.0, max_consecutive_skips=3,
        record_skips=50, checkpoint_every=0, limit_images=10, data="builtin", **settings,
    )  # fmt: skip
    from dataclasses import replace

    return replace(config, architecture=WILD)


@pytest.fixture(scope="module")
def nan_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vanilla run that ended in NaNs."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("flight") / "vanilla"
    with pytest.raises(RunError, match="no longer learns"):
        train(wild(out))
    return out


def nan_recording(out: Path) -> Recording:
    """The first skipped update whose losses were not finite."""
    recordings = [flight.read(path) for path in flight.recordings(out / "recordings")]
    return next(r for r in recordings if r.record.cause in ("nan_rate", "nan_distortion"))


def test_every_recorded_skip_is_done_again_bit_for_bit(nan_run: Path) -> None:
    for path in flight.recordings(nan_run / "recordings"):
        again = replay(wild(nan_run), flight.read(path))
        assert again.exact, path
        assert again.first_bad is not None
        assert again.first_bad.place.line > 0


def test_replay_does_a_nan_step_again_bit_for_bit_and_names_head_and_operation(nan_run: Path) -> None:
    recording = nan_recording(nan_run)
    own = replay(wild(nan_run), recording)
    assert own.exact
    assert [head.state.path for head in own.heads][:2] == ["decoder.dec_blocks.0.enc", "decoder.dec_blocks.0.prior"]
    event = own.first_not_finite
    assert event is not None
    assert not event.finite
    assert event.operation.startswith("aten.")
    assert event.place.module.startswith("decoder.dec_blocks.")
    assert Path(event.place.file).name in ("vae.py", "vae_helpers.py")
    source = Path(event.place.file).read_text().splitlines()
    assert source[event.place.line - 1].strip() == event.place.text
    assert suspects(event, own.heads)[0].state.path.startswith(event.place.module)
    text = report(own, None, -1)
    assert "the same, bit for bit" in text
    assert f"{os.path.relpath(event.place.file)}:{event.place.line}" in text.replace(str(Path.cwd()) + os.sep, "")


def test_the_patched_variant_is_finite_on_the_same_step(nan_run: Path, tmp_path: Path) -> None:
    recording = nan_recording(nan_run)
    other = replay(wild(nan_run), recording, "explin/constant")
    assert other.record.cause is None
    assert other.first_not_finite is None
    own = replay(wild(nan_run), recording)
    assert "update applied" in report(own, other, -1)
    draw(tmp_path / "heads.png", [own, other])
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


def test_a_recorded_high_gradient_is_replayed_with_two_ranks_shares(tmp_path: Path) -> None:
    out = tmp_path / "run"
    # every step is above this threshold
    config = tiny(out, steps=4, skip_threshold=1e-4, record_skips=2)
    said = finish(config, 2)
    assert "recorded in skip-00000000" in said
    assert "2 of at most 2" in said
    assert len(flight.recordings(out / "recordings")) == 2
    torch.set_num_threads(1)
    recording = flight.read(flight.choose(out / "recordings", 2))
    assert recording.ranks == 2
    again: Replay = replay(config, recording)
    assert again.exact
    assert again.record.cause == "high_gradient"
    assert again.first_bad is None
    assert "the largest gradient of a head" in report(again, None, 1e-4)


def test_a_run_without_recordings_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--record-skips"):
        flight.choose(tmp_path / "recordings", 1)


def test_a_skip_that_was_not_recorded_lists_those_that_were(nan_run: Path) -> None:
    with pytest.raises(RunError, match=r"has no skip 9; it recorded 1 \(step \d+\), 2"):
        flight.choose(nan_run / "recordings", 9)


def test_weights_of_before_a_skip_survive_the_updates_after_it() -> None:
    weights = [torch.randn(5), torch.randn(3, 2)]
    before = WeightsBefore(weights)
    for skip in (0.0, 0.0, 1.0):
        wanted = [w.clone() for w in weights]
        before(torch.tensor(skip))
        for w in weights:
            w.add_(1 - skip)
    for w in weights:
        w.add_(1)
    before(torch.tensor(0.0))
    with before.restored():
        assert all(torch.equal(w, old) for w, old in zip(weights, wanted, strict=True))
    before.release()
    now = [w.clone() for w in weights]
    before(torch.tensor(0.0))
    with before.restored():
        assert all(torch.equal(w, old) for w, old in zip(weights, now, strict=True))


def test_a_run_that_logs_rarely_records_the_same_weights(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    norms = sorted(row["grad_norm"] for row in _norms(tmp_path / "plain"))
    threshold = norms[-3]  # the three steepest steps are skipped, at least at first
    for name, every in (("each", 1), ("rarely", 5)):
        train(tiny(tmp_path / name, steps=20, skip_threshold=threshold, record_every=every, watch_every=0))
    one, other = (flight.recordings(tmp_path / name / "recordings") for name in ("each", "rarely"))
    assert other
    for path in other:
        twin = flight.read(one[[p.name for p in one].index(path.name)])
        assert all(torch.equal(twin.weights[k], v) for k, v in flight.read(path).weights.items())


def _norms(out: Path) -> list[dict[str, float]]:
    train(tiny(out, steps=20, watch_every=0))
    return metrics(out)


def test_heads_are_watched_every_n_steps_and_watching_changes_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for name, every in (("watched", 4), ("unwatched", 0)):
        train(tiny(tmp_path / name, steps=10, watch_every=every))
    assert metrics(tmp_path / "watched") == metrics(tmp_path / "unwatched")
    looks = metrics(tmp_path / "watched", "heads.jsonl")
    assert [look["step"] for look in looks] == [0, 4, 8]
    assert metrics(tmp_path / "unwatched", "heads.jsonl") == []
    for look in looks:
        assert {h["role"] for h in look["heads"]} == {"posterior", "prior"}
        assert all(h["log_sigma_min"] <= h["log_sigma_max"] and h["kl"] >= -1e-6 for h in look["heads"])
        assert all(h["grad_norm"] >= 0 for h in look["heads"])
    assert max(h["grad_norm"] for h in looks[-1]["heads"]) > 0


def test_tensorboard_has_the_losses_and_the_heads(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(tmp_path / "run", steps=5, watch_every=2, tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "train/elbo" in tags
    assert "heads_log_sigma_min/decoder.dec_blocks.0.enc" in tags
    written = [event.value for event in events.Scalars("train/elbo")]
    assert written == pytest.approx([row["elbo"] for row in metrics(tmp_path / "run")])


def test_tensorboard_counts_the_skips_of_a_resumed_run_from_its_beginning(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny(tmp_path / "run", steps=3, tensorboard=True, skip_threshold=1e-6, max_consecutive_skips=9)
    train(config)
    train(replace(config, steps=5, resume=True))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    counted = [(event.step, event.value) for event in events.Scalars("skipped/high_gradient")]
    assert counted == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_commands_that_a_run_prints_can_be_typed_whatever_its_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "größe 1; rm"
    with pytest.raises(RunError) as given_up:
        train(tiny(folder, steps=4, skip_threshold=1e-6, max_consecutive_skips=2))
    said = " ".join(capsys.readouterr().err.split())
    _, replayed = said.split("look at it with: ", 1)
    assert shlex.split(replayed.split("vanilla seed")[0])[3:] == ["replay", str(folder), "--skip", "1"]
    _, resumed = str(given_up.value).split("vdvae-patch train ", 1)
    assert shlex.split(resumed)[:3] == ["--resume", "--out", str(folder)]


def test_a_run_that_no_longer_learns_ends_with_a_diagnosis(nan_run: Path) -> None:
    assert [row["skipped"] for row in metrics(nan_run)][-3:] == [True] * 3
    skip = metrics(nan_run, "skips.jsonl")[0]
    assert set(skip["sites"]) <= {"rate", "distortion", "gradient"}
    assert skip["sites"]
    assert skip["ranks"] == [0]
    assert len(skip["indices"]) == 8
    assert os.path.exists(nan_run / "recordings" / f"skip-{skip['step']:08d}")
    assert runs.count_lines(nan_run / "skips.jsonl") >= 3


def test_pictures_beside_the_recordings_are_not_taken_for_some(nan_run: Path) -> None:
    before = flight.recordings(nan_run / "recordings")
    (nan_run / "recordings" / f"{before[0].name}-explin.png").write_bytes(b"")
    assert flight.recordings(nan_run / "recordings") == before
