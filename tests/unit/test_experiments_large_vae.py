"""`reproduce large-vae` on a few images: it goes on where it was, and its table has what was found and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdvae_patch.data import load
from vdvae_patch.errors import CheckpointError, InvalidValueError, RunError
from vdvae_patch.experiments.large_vae import run
from vdvae_patch.experiments.large_vae_figures import tiled
from vdvae_patch.experiments.large_vae_measures import read_pictures
from vdvae_patch.experiments.large_vae_runs import MODELS, VAMP, Kind, Progress, Run, Size
from vdvae_patch.experiments.options import LargeVae
from vdvae_patch.experiments.session import Session
from vdvae_patch.train.importance import spread
from vdvae_patch.train.interrupts import EXIT_RESUME

SMALL = LargeVae(
    quick=True, seeds=1, epochs=1, samples=3, images=5, train=120, components=4, dataset="arrays", variant="explin"
)


@pytest.fixture
def options(tmp_path: Path) -> LargeVae:
    """Grey images of 6x6 pixels."""
    for number, (name, count) in enumerate((("train", 130), ("valid", 5), ("test", 20))):
        pixels = np.random.default_rng(number).integers(0, 256, (count, 6, 6, 1), dtype=np.uint8)
        np.save(tmp_path / f"{name}.npy", pixels)
    return replace(SMALL, data_root=tmp_path, out=tmp_path / "out")


def test_all_four_are_trained_and_told_in_one_table(options: LargeVae, tmp_path: Path) -> None:
    assert run(replace(options, minutes=0.0)) == EXIT_RESUME
    assert len(list((tmp_path / "out").glob("*-seed0.json"))) == 1
    before = (tmp_path / "out" / "1-standard-seed0.json").read_text()
    assert run(options) == 0
    assert (tmp_path / "out" / "1-standard-seed0.json").read_text() == before
    report = json.loads((tmp_path / "out" / "large-vae-arrays-quick.json").read_text())
    (table,) = report["tables"]
    rows = [dict(zip(table["header"], row, strict=True)) for row in table["rows"]]
    assert [(row["levels"], row["prior"]) for row in rows] == [(kind.levels, kind.prior) for kind in MODELS]
    for row, name in zip(rows, ("1-standard", "1-vamp", "2-standard", "2-vamp"), strict=True):
        found = json.loads((tmp_path / "out" / f"{name}-seed0.json").read_text())["found"]
        assert float(row["lower bound"]) == pytest.approx(found["lower_bound_nats"], abs=0.01)
        assert float(row["log likelihood"]) == pytest.approx(found["log_likelihood_nats"], abs=0.01)
        assert float(row["bits/dim"]) == pytest.approx(-found["log_likelihood_nats"] / (36 * np.log(2)), abs=1e-3)
        assert found["dimensions"] == 36
        assert len(found["rates"]) == len(found["active_units"]) == row["levels"]
        assert all(0 <= count <= 40 for count in found["active_units"])
        assert (row["reference"], row["Large VAE"]) == (None, None)  # nobody has measured this data set
    with pytest.raises(RunError, match="other settings"):
        run(replace(options, lr=2e-3))


def test_no_more_images_are_said_to_be_trained_on_than_there_are(options: LargeVae, tmp_path: Path) -> None:
    assert run(replace(options, train=10_000, models=("standard",))) == 0
    report = json.loads((tmp_path / "out" / "large-vae-arrays-quick.json").read_text())
    assert "1 epochs of 130 training images" in report["introduction"]


@pytest.mark.parametrize("value", [{"epochs": 0}, {"components": 0}, {"samples": -1}, {"images": -1}, {"warmup": -2}])
def test_counts_that_make_no_sense_are_refused(value: dict[str, int]) -> None:
    (name,) = value
    with pytest.raises(InvalidValueError, match=f"--{name} must"):
        Size.of(replace(SMALL, **value), 130)  # type: ignore[arg-type]


def test_some_of_the_models_may_be_trained_first_and_the_others_later(options: LargeVae, tmp_path: Path) -> None:
    def trained() -> list[str]:
        return sorted(path.name for path in (tmp_path / "out").glob("*-seed0.json"))

    def told() -> list[list[object]]:
        table = json.loads((tmp_path / "out" / "large-vae-arrays-quick.json").read_text())["tables"][0]
        return [row[:3] for row in table["rows"]]

    assert run(replace(options, models=("hvae", "standard"))) == 0
    assert trained() == ["1-standard-seed0.json", "2-standard-seed0.json"]
    assert told() == [[1, "N(0, 1)", 1], [2, "N(0, 1)", 1]]
    assert run(replace(options, models=("standard", "vamp"), seeds=2)) == 0
    assert trained() == ["1-standard-seed0.json", "1-vamp-seed0.json", "2-standard-seed0.json"]
    # what the folder has of the models that were not asked for this time stays in the table
    assert told() == [[1, "N(0, 1)", 2], [1, "VampPrior", 2], [2, "N(0, 1)", 1]]
    with pytest.raises(InvalidValueError, match="--models names none; take some of standard, vamp"):
        run(replace(options, models=()))


class Clock:
    """A session's clock that every look moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def started(options: LargeVae, kind: Kind = MODELS[3]) -> Run:
    data = load(options.dataset, options.data_root)
    return Run(kind, 0, data, Size.of(options, len(data.train)), options, torch.device("cpu"))


@pytest.mark.parametrize("kind", [MODELS[0], MODELS[3]], ids=lambda kind: kind.name)
def test_a_run_that_was_stopped_within_goes_on_with_the_same_numbers(
    kind: Kind, options: LargeVae, tmp_path: Path
) -> None:
    options = replace(options, epochs=3)
    whole = started(options, kind)
    assert whole.train(Session(tmp_path / "whole", {}), tmp_path / "whole.pt")
    state = tmp_path / "pieces.pt"
    pieces = []
    for commit in ("aaaa", "bbbb", "cccc"):  # each piece's time is over after its first epoch
        piece, session = started(options, kind), Session(tmp_path / "pieces", {}, minutes=0.0, clock=Clock())
        session._commit = commit
        ended = piece.train(session, state)
        pieces.append((ended, piece.progress.epoch))
    assert pieces == [(False, 1), (False, 2), (True, 3)]
    assert session.keep("k", 1.0, {}, by=piece.by)["commit"] == "aaaa, bbbb, cccc"
    assert piece.progress.bounds == whole.progress.bounds
    assert all(torch.equal(piece.values[name], value) for name, value in whole.values.items())


def test_a_killed_run_goes_on_from_the_epoch_that_it_had_saved(options: LargeVae, tmp_path: Path) -> None:
    options, state = replace(options, epochs=4), tmp_path / "run.pt"

    def killed(at: Progress) -> None:
        if at.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(options).train(Session(tmp_path, {}, save_seconds=0.0), state, killed)
    seen: list[int] = []
    started(options).train(Session(tmp_path, {}), state, lambda at: seen.append(at.epoch))
    assert seen == [3, 4]
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        started(options).train(Session(tmp_path, {}), state)
    for other in ({}, {"progress": {"epoch": 1}, "values": {}, "best": {}, "optimizer": {}}):
        torch.save(other, state)
        with pytest.raises(CheckpointError, match="damaged"):
            started(options).train(Session(tmp_path, {}), state)


def test_training_ends_without_a_better_bound_and_the_best_weights_are_kept(options: LargeVae, tmp_path: Path) -> None:
    """At such a learning rate the bound gets worse from some epoch on."""
    options = replace(options, epochs=40, patience=2, lr=0.3, decay="none", warmup=1)
    one = started(options, MODELS[0])
    assert one.train(Session(tmp_path, {}), tmp_path / "run.pt")
    at = one.progress
    assert at.epoch < 40
    assert at.epoch == max(at.best_epoch, 1) + 2
    assert at.bounds[at.best_epoch - 1] == max(at.bounds)
    assert float(one._bounds(one.data.valid[:]).double().mean()) == at.bounds[at.best_epoch - 1]
    last = started(replace(options, patience=0, epochs=at.epoch), MODELS[0])
    last.train(Session(tmp_path, {}), tmp_path / "last.pt")
    assert last.progress.bounds == at.bounds
    assert float(last._bounds(last.data.valid[:]).double().mean()) == at.bounds[-1]


@pytest.mark.parametrize(
    ("epoch", "best", "warmup", "patience", "over"),
    [(6, 1, 0, 5, True), (5, 1, 0, 5, False), (6, 1, 4, 5, False), (9, 1, 4, 5, True), (99, 1, 0, 0, False)],
)
def test_epochs_of_the_warm_up_do_not_count_for_the_patience(
    epoch: int, best: int, warmup: int, patience: int, over: bool, options: LargeVae
) -> None:
    size = Size.of(replace(options, epochs=100, warmup=warmup, patience=patience), 120)
    assert Progress(epoch=epoch, best_epoch=best).is_over(size) is over
    assert Progress(epoch=100, best_epoch=100).is_over(size)


def test_the_weight_of_the_rate_rises_to_one(
    options: LargeVae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[float] = []
    monkeypatch.setattr(Run, "_step", lambda self, pixels, beta: weights.append(beta))
    started(replace(options, epochs=5, warmup=4, train=100)).train(Session(tmp_path, {}), tmp_path / "run.pt")
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_learning_rates_by_model_and_by_pseudo_inputs(options: LargeVae) -> None:
    options = replace(options, lr=4e-3, vamp_lr=1e-3, pseudo_lr=0.1)
    assert [group["usual"] for group in started(options, MODELS[0]).optimizer.param_groups] == [4e-3]
    vamp = started(options, MODELS[1])
    assert [group["usual"] for group in vamp.optimizer.param_groups] == [1e-3, 1e-4]
    (inputs,) = vamp.optimizer.param_groups[1]["params"]
    assert inputs.shape == (4, 36)


def test_the_learning_rate_falls_as_a_cosine_or_stays(
    options: LargeVae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rates(decay: str) -> list[float]:
        seen: list[float] = []
        monkeypatch.setattr(Run, "_step", _counted(seen))
        one = started(replace(options, epochs=4, train=100, lr=1.0, decay=decay), MODELS[0])  # type: ignore[arg-type]
        one.train(Session(tmp_path, {}), tmp_path / f"{decay}.pt")
        return seen

    assert rates("none") == [1.0] * 4
    assert rates("cosine") == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


def _counted(seen: list[float]) -> object:
    def step(self: Run, pixels: object, beta: float) -> None:
        seen.append(self.optimizer.param_groups[0]["lr"])
        self.progress.step += 1

    return step


def test_unit_gradients_are_of_norm_one(options: LargeVae, tmp_path: Path) -> None:
    one = started(replace(options, unit_gradients=True, train=100), MODELS[1])
    one.train(Session(tmp_path, {}), tmp_path / "run.pt")
    norms = [float(value.grad.norm()) for value in one.values.values() if value.grad is not None]
    assert norms == pytest.approx([1.0] * len(one.values), rel=1e-3)


def test_pictures_are_kept_for_a_command_that_goes_on(options: LargeVae, tmp_path: Path) -> None:
    assert run(options) == 0
    for kind in MODELS:
        its = read_pictures(tmp_path / "out" / f"{kind.name}-seed0.npz")
        assert ("pseudo_inputs" in its) is (kind.prior == VAMP)
        assert {name: (value.shape[1:], value.dtype) for name, value in its.items()} == {
            name: ((6, 6), np.dtype(np.uint8)) for name in its
        }
        test = np.load(tmp_path / "test.npy")[spread(20, 8).numpy(), ..., 0]
        assert np.array_equal(its["images"], test)
    assert (tmp_path / "out" / "large-vae-arrays-quick.png").exists()
    assert (tmp_path / "out" / "large-vae-arrays-quick-models.png").exists()


def test_images_are_tiled_row_by_row() -> None:
    rows = [np.full((2, 3, 4), 7, np.uint8), np.full((1, 3, 4), 9, np.uint8)]
    picture = tiled(rows)
    assert picture.shape == (10, 12)
    assert (picture == 7).sum() == 24
    assert (picture[5:] == 9).sum() == 12
    assert (picture[5:, 6:] == 255).all()


def test_images_of_the_log_likelihood_are_evenly_spread() -> None:
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 5).tolist() == spread(3, 0).tolist() == [0, 1, 2]


def test_sizes_go_by_updates(options: LargeVae) -> None:
    """Twenty epochs of MNIST are as many updates as 625 of Frey Faces."""
    plain = LargeVae()
    assert (Size.of(plain, 50_000).epochs, Size.of(plain, 1565).epochs) == (20, 625)
    night = Size.of(LargeVae(night=True), 50_000)
    assert (night.epochs, night.warmup, night.lr, night.decay, night.components) == (400, 100, 5e-4, "none", 500)
    assert Size.of(LargeVae(night=True), 1565).epochs == 2000
    with pytest.raises(InvalidValueError, match="--quick and --night"):
        Size.of(replace(options, night=True), 120)


@pytest.mark.parametrize("name", ["lr", "vamp_lr", "pseudo_lr"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_learning_rates_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidValueError, match=f"--{name.replace('_', '-')} must be a number above 0"):
        Size.of(replace(SMALL, **{name: value}), 130)  # type: ignore[arg-type]
