"""Runs with a decoder and an objective: their logs, checkpoints and skipped updates, and runs that have neither."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import assert_same, assert_same_run, final_state, finish, metrics, tiny
from torch import Tensor

from vdvae_patch.cli import main
from vdvae_patch.errors import CheckpointError, DataError
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.hosts.trainable import TrainableEntry
from vdvae_patch.train import flight
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import replay
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.weighing import Weighing

PLAIN_ROW = {
    "step", "elbo", "distortion", "rate", "grad_norm", "lr", "clip", "cause", "epoch", "skipped",
}  # fmt: skip
PLAIN_STATE = {"model", "ema", "optimizer", "counters", "generators", "position", "schedule"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def small_vae(host: str, out: Path, variant: str) -> TrainConfig[Any]:
    entry: Any = __import__(f"vdvae_patch.patches.{host}", fromlist=["HOST"])
    architecture = replace(entry.HOST.preset("paper").architecture, latents=4)
    side, channels = {"conv_vae": (32, 3), "mlp_vae": (8, 1)}[host]
    drawn = np.random.default_rng(0)
    for name, count in (("train", 24), ("valid", 2), ("test", 4)):
        pixels = drawn.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
        np.save(out.parent / f"{name}.npy", pixels)
    optimization = Optimization(lr=1e-3, batch_size=4, ema_rate=0.9, grad_clip=1e30, skip_threshold=-1)
    return TrainConfig(
        host=host, preset="paper", variant=variant, data="arrays", data_root=out.parent, steps=3, out=out, device="cpu",
        architecture=architecture, optimization=optimization,
    )  # fmt: skip


def test_a_run_with_neither_goes_by_its_entry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line of the decoders or the objectives runs; logs and checkpoints have the keys that they had."""
    work = prepare(tiny(tmp_path / "other"), torch.device("cpu"))
    assert work.weighing is None
    assert work.passed() is work.model
    loss: Any = work.loss_of(work.model)
    assert loss.func == work.entry.losses
    assert isinstance(work.losses(torch.zeros(1, 32, 32, 3), torch.zeros(1, 32, 32, 3)), Losses)
    out = tmp_path / "run"
    monkeypatch.setattr(Weighing, "weigh", None)
    monkeypatch.setattr(Weighing, "measure", None)
    train(tiny(out, steps=3))
    assert "note: after 3 updates at --ema-rate" in capsys.readouterr().err
    assert all(row.keys() == PLAIN_ROW for row in metrics(out))
    assert final_state(out).keys() == PLAIN_STATE
    summary = json.loads((out / "summary.json").read_text())
    assert not [key for key in (*summary, *summary["test"]) if "mass" in key]


@pytest.mark.medium
def test_the_elbo_by_name_is_the_hosts_own_loss(tmp_path: Path) -> None:
    train(tiny(tmp_path / "own", steps=5))
    train(tiny(tmp_path / "named", steps=5, objective="elbo"))
    for own, named in zip(metrics(tmp_path / "own"), metrics(tmp_path / "named"), strict=True):
        for key in ("elbo", "distortion", "rate", "grad_norm"):
            assert named[key] == pytest.approx(own[key], rel=1e-4, abs=1e-7)


@pytest.mark.medium
def test_what_is_logged_and_what_stands_apart_in_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    seams = {"decoder": "optimal", "objective": "geco(kappa=0.06)"}
    train(tiny(out, steps=4, variant="explin/constant", evaluate_every=2, **seams))
    rows = metrics(out)
    more = {"constraint", "constraint_average", "lambda", "equivalent_beta", "sigma"}
    assert all(row.keys() == PLAIN_ROW | more for row in rows)
    assert rows[0]["constraint"] == rows[0]["constraint_average"]
    assert rows[0]["lambda"] == 1
    state = final_state(out)
    assert state.keys() == PLAIN_STATE | {"seams"}
    assert state["seams"].keys() == {"model", "ema", "objective"}
    assert int(state["seams"]["objective"]["updates"]) == 4
    error = state["seams"]["model"]["decoder.out_net.vdvae_patch_decoder.decoder.mean_squared_error"]
    assert error > 0
    plain = tmp_path / "plain"
    train(tiny(plain, steps=1))
    assert state["model"].keys() == final_state(plain)["model"].keys()
    summary = json.loads((out / "summary.json").read_text())
    assert (out / "trajectory.png").stat().st_size > 1000
    assert not (plain / "trajectory.png").exists()
    assert summary["variant"] == "explin/constant+optimal+geco(kappa=0.06)"
    assert "after 4 updates" in summary["sigma_lags"]
    validated = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    assert [row["sigma_of_first_batch"] for row in validated] == pytest.approx([0.99, 0.99**3])
    assert capsys.readouterr().err.count("of the NELBO of the validation images: after 2 updates") == 1
    assert summary["test_mass_nelbo_nats_per_dim"] > summary["test_nelbo_nats_per_dim"]


def test_the_parameters_of_a_decoder_learn_and_are_averaged(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", steps=6, decoder="per_pixel")
    fresh = prepare(config, torch.device("cpu")).seams_state()["seams"]
    train(config)
    state = final_state(tmp_path / "run")["seams"]
    for name, value in fresh["model"].items():
        assert not torch.equal(value, state["model"][name])
        moved, followed = state["model"][name] - value, state["ema"][name] - fresh["ema"][name]
        assert followed.norm() < moved.norm()
        assert followed.norm() > 0


def test_the_hosts_weights_begin_alike_whatever_the_decoder(tmp_path: Path) -> None:
    first, second = (
        prepare(tiny(tmp_path / "a", variant=variant), torch.device("cpu")).model.state_dict()
        for variant in ("vanilla", "explin/constant+categorical+beta")
    )
    assert_same(dict(first), dict(second))


def test_the_parameters_of_a_top_prior_stand_apart_learn_and_are_averaged(tmp_path: Path) -> None:
    config = small_vae("mlp_vae", tmp_path / "run", "explin+warmup(epochs=1)+vamp(components=5, from_data=1)")
    fresh = prepare(config, torch.device("cpu")).seams_state()["seams"]
    assert fresh["model"].keys() == {"vdvae_patch_top_prior.prior.raw"}
    assert_same(fresh["model"], fresh["ema"])
    train(config)
    state = final_state(tmp_path / "run")
    assert not [name for name in state["model"] if "top_prior" in name]
    for name, value in fresh["model"].items():
        moved = state["seams"]["model"][name] - value
        followed = state["seams"]["ema"][name] - value
        assert 0 < followed.norm() < moved.norm()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["variant"] == "explin+warmup(epochs=1)+vamp(components=5, from_data=1)"


def test_pseudo_inputs_start_from_training_images_by_the_seed(tmp_path: Path) -> None:
    config = small_vae("mlp_vae", tmp_path / "run", "vanilla+vamp(components=24, from_data=1, std=0)")
    work = prepare(config, torch.device("cpu"))
    (raw,) = work.seams_state()["seams"]["model"].values()
    images = np.load(tmp_path / "train.npy").reshape(24, -1) / 255
    assert torch.cdist(raw.double(), torch.from_numpy(images)).min(dim=1).values.max() < 1e-4
    (again,) = prepare(config, torch.device("cpu")).seams_state()["seams"]["model"].values()
    assert torch.equal(raw, again)
    other = prepare(replace(config, seed=1), torch.device("cpu")).seams_state()["seams"]["model"].values()
    assert not torch.equal(raw, next(iter(other)))


@pytest.mark.medium
@pytest.mark.parametrize("spec", ["vamp(components=5, from_data=1, lr_factor={})", "mixture(5, lr_factor={})"])
def test_the_learning_rate_of_a_top_prior_is_a_multiple_of_the_models(tmp_path: Path, spec: str) -> None:
    """The first update of Adam moves each number by the learning rate, whatever its gradient is."""
    moved: dict[float, Tensor] = {}
    weights = []
    for factor in (1.0, 0.1, 0.0):
        config = small_vae("mlp_vae", tmp_path / f"{factor}", "explin+" + spec.format(factor))
        config = replace(config, steps=1, optimization=replace(config.optimization, wd=0.0))
        before = prepare(config, torch.device("cpu")).seams_state()["seams"]["model"]
        train(config)
        state = final_state(tmp_path / f"{factor}")
        after = state["seams"]["model"]
        moved[factor] = torch.cat([(after[name] - before[name]).flatten() for name in after])
        weights.append(state["model"])
    assert moved[1.0].abs().max() > 0
    torch.testing.assert_close(moved[0.1], 0.1 * moved[1.0], rtol=1e-2, atol=1e-7)
    assert not moved[0.0].any()
    for other in weights[1:]:
        assert_same(weights[0], other)


@pytest.mark.medium
@pytest.mark.parametrize("spec", ["vamp(components=5)", "vamp(components=5, lr_factor=0.1)"])
def test_a_run_with_a_top_prior_goes_on_where_it_was_and_not_under_another(tmp_path: Path, spec: str) -> None:
    whole = small_vae("mlp_vae", tmp_path / "whole", f"explin+{spec}")
    train(replace(whole, steps=6))
    part = replace(whole, out=tmp_path / "part", checkpoint_every=3)
    train(part)
    train(replace(part, steps=6, resume=True))
    assert_same(final_state(tmp_path / "whole")["seams"], final_state(tmp_path / "part")["seams"])
    (begun,) = (tmp_path / "part" / "checkpoints").glob("step-*6")
    with pytest.raises(CheckpointError, match=rf"saved under variant {re.escape(whole.variant)}, not"):
        train(replace(part, variant="explin+vamp(components=6)", out=tmp_path / "other", weights=begun))


@pytest.mark.medium
@pytest.mark.parametrize("objective", ["geco(kappa=0.06)", "warmup(epochs=1)"])
def test_a_skipped_update_moves_no_state(tmp_path: Path, objective: str) -> None:
    """The threshold lets nothing through: every step sees the state that the first one saw."""
    out = tmp_path / "run"
    train(tiny(out, steps=4, decoder="optimal", objective=objective, skip_threshold=1e-9))
    assert all(row["skipped"] for row in metrics(out))
    state = final_state(out)["seams"]
    assert int(state["objective"]["updates"]) == 0
    assert int(state["model"]["decoder.out_net.vdvae_patch_decoder.decoder.updates"]) == 0
    # without an update there is no σ to evaluate with, and the test batch's own is none
    assert json.loads((out / "summary.json").read_text())["test_nelbo_nats_per_dim"] == "nan"


def test_a_nan_poisons_no_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = TrainingStep.__call__

    def poisoned(self: TrainingStep, step: int, x: Any, target: Any, *, stop: bool = False) -> None:
        own(self, step, x * torch.nan if step == 2 else x, target, stop=stop)

    monkeypatch.setattr(TrainingStep, "__call__", poisoned)
    out = tmp_path / "run"
    train(tiny(out, steps=6, decoder="optimal", objective="geco(kappa=0.06)"))
    rows = metrics(out)
    assert [row["skipped"] for row in rows] == [False, False, True, False, False, False]
    assert rows[3]["lambda"] == rows[2]["lambda"] > rows[1]["lambda"]
    state = final_state(out)["seams"]
    assert all(bool(value.isfinite().all()) for part in state.values() for value in part.values())
    assert int(state["objective"]["updates"]) == 5


@pytest.mark.medium
@pytest.mark.parametrize("variant", ["vanilla+optimal+geco(kappa=0.06)", "explin/constant+per_pixel+freebits(nats=1)"])
def test_a_skipped_update_is_done_again_exactly(tmp_path: Path, variant: str) -> None:
    out = tmp_path / "run"
    train(tiny(out, steps=8, variant=variant))
    norms = sorted(row["grad_norm"] for row in metrics(out))
    config = tiny(tmp_path / "skips", steps=8, variant=variant, skip_threshold=norms[5])
    train(config)
    paths = flight.recordings(config.folder / "recordings")
    assert paths
    for path in paths:
        assert replay(config, flight.read(path)).exact


@pytest.mark.medium
@pytest.mark.parametrize(
    "variant",
    ["vanilla+optimal+geco(kappa=0.06)", "explin/vanilla+per_pixel", "vanilla+shared+balance", "vanilla+beta"],
)
@pytest.mark.parametrize("host", ["conv_vae", "mlp_vae"])
def test_two_ranks_train_the_small_hosts(tmp_path: Path, host: str, variant: str) -> None:
    config = small_vae(host, tmp_path / "run", variant)
    finish(config, ranks=2)
    rows = metrics(tmp_path / "run")
    assert [row["skipped"] for row in rows] == [False] * 3
    assert isinstance(prepare(config, torch.device("cpu")).entry, TrainableEntry)


def test_two_ranks_train_a_top_prior(tmp_path: Path) -> None:
    finish(small_vae("mlp_vae", tmp_path / "run", "explin/vanilla+vamp(components=4)"), ranks=2)
    assert [row["skipped"] for row in metrics(tmp_path / "run")] == [False] * 3


@pytest.mark.medium
def test_the_optimal_sigma_of_two_ranks_is_that_of_all_images(tmp_path: Path) -> None:
    """Without noise in the latents a batch has one error, on however many ranks it lies."""
    sigmas = []
    for ranks in (1, 2):
        config = small_vae("mlp_vae", tmp_path / f"{ranks}", "constant(value=1e-9)/vanilla+optimal")
        batch = replace(config.optimization, batch_size=4 // ranks, lr=1e-12)
        finish(replace(config, optimization=batch), ranks=ranks)
        sigmas.append(metrics(tmp_path / f"{ranks}")[0]["sigma"])
    assert sigmas[1] == pytest.approx(sigmas[0], rel=1e-5)


def test_a_run_goes_on_with_its_own_decoder_alone(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", steps=3, decoder="optimal")
    train(config)
    first = final_state(tmp_path / "run")["seams"]
    begun = prepare(
        tiny(tmp_path / "next", decoder="optimal", weights=next((tmp_path / "run/checkpoints").glob("step-*"))),
        torch.device("cpu"),
    )
    assert_same(begun.seams_state()["seams"]["model"], first["ema"])
    with pytest.raises(CheckpointError, match="was saved under variant vanilla\\+optimal, not vanilla"):
        prepare(
            tiny(tmp_path / "next", weights=next((tmp_path / "run/checkpoints").glob("step-*"))), torch.device("cpu")
        )


def test_decoder_and_weights_are_of_the_same_state_of_a_checkpoint(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=3, decoder="per_pixel", warmup_iters=0, lr=1e-2))
    begun_with = next((tmp_path / "run/checkpoints").glob("step-*"))
    saved = final_state(tmp_path / "run")
    assert not torch.equal(*(next(iter(saved["seams"][part].values())) for part in ("model", "ema")))
    for choice, part in (("", "ema"), (":ema", "ema"), (":model", "model")):
        config = tiny(tmp_path / "next", decoder="per_pixel", weights=Path(f"{begun_with}{choice}"))
        begun = prepare(config, torch.device("cpu"))
        assert_same(begun.model.state_dict(), saved[part])
        assert_same(begun.seams_state()["seams"]["model"], saved["seams"][part])
    config = tiny(tmp_path / "next", decoder="optimal", weights=begun_with, allow_other_variant=True)
    assert "decoder and top prior begin anew" in prepare(config, torch.device("cpu")).notes[-1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--objective", "geco(kappa=0.06)"], "Name a decoder"),
        (["--decoder", "per_pixel", "--objective", "geco"], "would not learn; take optimal"),
        (["--decoder", "bernoulli"], "these are grey values"),
        (["--decoder", "optimal", "--objective", "geco(kappa=1.5)"], "kappa must be between 0 and 1"),
        (["--decoder", "optimall"], "did you mean 'optimal'"),
        (["--variant", "vanilla+optimal", "--decoder", "fixed"], "names decoder optimal, and beside it fixed"),
        (["--variant", "optimal"], "vanilla+optimal"),
        (["--data", "builtin", "--decoder", "optimal", "--objective", "geco(cla=0.9)"], "its images have no labels"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_folder_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", "--preset", "demo", "--steps", "1", "--out", str(out), *flags])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_comparison_takes_decoders_and_objectives_as_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "comparison"
    small = ["--width", "8", "--zdim", "2", "--enc-blocks", "32d8,4d4,1x1", "--dec-blocks", "1x1,4m1,32m4"]
    variants = "vanilla,vanilla+optimal,explin/constant+optimal+geco(kappa=0.06)"
    flags = ["--variants", variants, "--seeds", "0", "--preset", "demo", "--steps", "2", "--batch-size", "2", *small]
    data = ["--data", "builtin(train=8, valid=2, test=2)", "--out", str(out)]
    with pytest.raises(SystemExit, match="0"):
        main(["compare", *flags, *data])
    said = capsys.readouterr().out
    assert "explin/constant+optimal+geco(kappa=0.06)" in said
    table = json.loads((out / "comparison.json").read_text())
    rows = {row["variant"]: row for row in table["rows"]}
    # vanilla's likelihood is a mass already: one column holds all
    masses = [rows[v]["test_mass_nelbo_bits_per_dim"]["mean"] for v in rows]
    assert all(6 < mass < 14 for mass in masses), masses
    assert rows["vanilla+optimal"]["test_nelbo_bits_per_dim"]["mean"] < 6


@pytest.mark.medium
def test_a_warm_up_goes_on_at_its_pace_on_another_number_of_ranks(tmp_path: Path) -> None:
    config = tiny(tmp_path / "run", steps=4, checkpoint_every=4, objective="warmup(epochs=1)")
    finish(config, ranks=2)
    finish(replace(config, steps=7, resume=True), ranks=1)
    assert [row["beta"] for row in metrics(tmp_path / "run")] == pytest.approx([step / 6 for step in range(7)])


def with_labels(out: Path) -> TrainConfig[Any]:
    """Images whose class is which half of them is bright."""
    config = small_vae("mlp_vae", out, "explin+optimal+geco(re=0.1, cla=0.8)")
    pixels = np.load(out.parent / "train.npy")
    labels = np.arange(len(pixels)) % 2
    pixels[labels == 0, :4] //= 8
    pixels[labels == 1, 4:] //= 8
    np.save(out.parent / "train.npy", pixels)
    np.save(out.parent / "train-labels.npy", labels.astype(np.uint8))
    return config


@pytest.mark.medium
def test_a_classifier_is_trained_on_the_labels_and_goes_with_the_run(tmp_path: Path) -> None:
    whole = train(with_labels(tmp_path / "whole"))
    assert whole.summary is not None
    rows = metrics(tmp_path / "whole")
    assert {"constraint/cla", "lambda/cla", "constraint/re"} <= rows[-1].keys()
    state = final_state(tmp_path / "whole")["seams"]["objective"]
    assert {name for name in state if name.startswith("classifier.")}

    config = replace(with_labels(tmp_path / "parts"), steps=2)
    train(config)
    np.save(tmp_path / "train-labels.npy", np.arange(24) // 2 % 2)  # another classifier could be made of these
    train(replace(config, steps=3, resume=True))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_labels_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    config = with_labels(tmp_path / "run")
    for labels, said in (
        (np.zeros(23, np.int64), "23 labels for 24 training images"),
        (np.zeros((24, 2), np.int64), "must be whole numbers"),
        (np.zeros(24, np.float32), "must be whole numbers"),
        (np.full(24, -1), "go from -1 to -1"),
    ):
        np.save(tmp_path / "train-labels.npy", labels)
        with pytest.raises(DataError, match=said):
            prepare(config, torch.device("cpu"))
    (tmp_path / "train-labels.npy").unlink()
    with pytest.raises(DataError, match=r"has no train-labels\.npy"):
        prepare(config, torch.device("cpu"))
