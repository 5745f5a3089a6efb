"""No damaged checkpoint is ever accepted, and what must be kept is kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.skips import sealed
from vdvae_patch.train import checkpoint
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.writer import BackgroundWriter, off_device

TRIES = 1000


def info(step: int, *, finite: bool = True, nelbo: float | None = 1e-5) -> CheckpointInfo:
    return CheckpointInfo(step, "vdvae", "vanilla", "host", (("enc", "8:16", "posterior"),), finite, nelbo)


def save(folder: Path, step: int, **values: object) -> Path:
    state = {"model": {"w": torch.arange(12.0) + step}, "counters": {"nan": step}}
    return checkpoint.save(folder, info(step, **values), state)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.MANIFEST])
def test_every_flipped_bit_is_caught(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 7)
    whole = (path / name).read_bytes()
    draw = random.Random(11)
    accepted = []
    for _ in range(TRIES):
        position, bit = draw.randrange(len(whole)), draw.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        (path / name).write_bytes(damaged)
        try:
            checkpoint.load(path)
            accepted.append((position, bit))
        except CheckpointError as error:
            assert name in str(error)  # noqa: PT017
    assert accepted == []
    (path / name).write_bytes(whole)
    assert checkpoint.load(path)[0].step == 7


@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.MANIFEST])
def test_every_cut_is_caught(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 7)
    whole = (path / name).read_bytes()
    draw = random.Random(12)
    for _ in range(TRIES):
        (path / name).write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    file = tmp_path / "step-00000002" / checkpoint.STATE
    file.write_bytes(file.read_bytes()[:-1])
    found = checkpoint.newest(tmp_path)
    assert found.info.step == 1
    assert len(found.problems) == 1
    assert str(file) in found.problems[0]


def test_the_newest_is_that_of_the_most_steps_however_many_digits_these_have(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):
        save(tmp_path, step)
    assert checkpoint.newest(tmp_path).info.step == 100_000_000
    assert [path.name for path in sealed.numbered(tmp_path, "step")] == [
        "step-00000005",
        "step-99999999",
        "step-100000000",
    ]


def test_the_last_two_the_last_finite_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, nelbo=2.0)
    save(tmp_path, 2, nelbo=3.0)
    save(tmp_path, 3, nelbo=float("nan"))
    for step in (4, 5, 6):
        save(tmp_path, step, finite=False, nelbo=None)
    checkpoint.prune(tmp_path)
    assert [path.name[-1] for path in checkpoint.checkpoints(tmp_path)] == ["6", "5", "3", "1"]


def test_a_damaged_checkpoint_does_not_count_among_the_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, nelbo=None)
    (tmp_path / "step-00000003" / checkpoint.MANIFEST).write_text("{}")
    checkpoint.prune(tmp_path)
    assert [path.name[-1] for path in checkpoint.checkpoints(tmp_path)] == ["3", "2", "1"]


def test_what_killed_writers_left_is_cleaned_and_never_read(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / ".partial-step-00000002-99").mkdir()
    path.rename(tmp_path / ".deleted-step-00000001-99")
    save(tmp_path, 1)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["step-00000001"]
    checkpoint.clean(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1)
    monkeypatch.setattr(sealed, "FORMAT", sealed.FORMAT + 1)
    with pytest.raises(CheckpointError, match="format"):
        checkpoint.load(path)


def test_writing_beside_training_writes_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    weights = torch.zeros(1000)
    writer = BackgroundWriter(beside=True)
    for step in range(5):
        weights.fill_(step)
        writer.submit(
            {"model": {"w": weights}}, lambda state, step=step: checkpoint.save(tmp_path, info(step), state) and None
        )
        weights.fill_(-1)
    writer.close()
    for step in range(5):
        state = checkpoint.load(tmp_path / f"step-{step:08d}")[1]
        assert torch.equal(state["model"]["w"], torch.full((1000,), float(step)))


def test_a_write_that_failed_beside_training_stops_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    writer = BackgroundWriter(beside=True)
    writer.submit({}, lambda state: checkpoint.save(tmp_path / "taken", info(1), state) and None)
    with pytest.raises(RunError, match="could not be written"):
        writer.wait()


def test_a_copy_off_the_device_shares_nothing() -> None:
    state = {"a": [torch.ones(3)], "b": {"c": torch.zeros(2)}, "d": 4}
    copy = off_device(state)
    state["a"][0].fill_(9)  # type: ignore[index]
    state["b"]["c"].fill_(9)  # type: ignore[index]
    assert copy["a"][0].tolist() == [1, 1, 1]
    assert copy["b"]["c"].tolist() == [0, 0]
    assert copy["d"] == 4
