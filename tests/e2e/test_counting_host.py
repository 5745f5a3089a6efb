"""A host that counts its steps, follows a mean and draws from generators of its own is resumed and replayed exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from runs import metrics, tiny

from vdvae_patch.cli import replay, train
from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.compare.gallery import _picture
from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.train import checkpoint
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.resumable import Contents, SavedOutside, SavedPosition
from vdvae_patch.train.run import Counters
from vdvae_patch.train.saving import _restore_outside
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.world import World

pytestmark = pytest.mark.medium

HOST = str(Path(__file__).parent / "counting_host.py")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(out: Path, *flags: str) -> None:
    assert train.run(["--patches", HOST, "--variant", "vanilla", "--device", "cpu", "--out", str(out), *flags]) == 0


def test_a_resumed_run_is_the_undisturbed_one_however_often_it_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "whole", "--steps", "6", "--evaluate-every", "2", "--watch-every", "2", "--ema-rate", "0.5")
    run(tmp_path / "half", "--steps", "3", "--ema-rate", "0.5")
    # its rate has a weight
    assert "`latents` of host 'counting_host' has a KL of" in " ".join(capsys.readouterr().err.split())
    run(tmp_path / "half", "--steps", "6", "--resume")
    said = " ".join(capsys.readouterr().err.split())
    assert "the model keeps law (a Normal) outside of its state_dict, which no checkpoint can hold" in said
    numbers = ("step", "elbo", "distortion", "rate", "grad_norm")
    whole, half = ([[row[name] for name in numbers] for row in metrics(tmp_path / name)] for name in ("whole", "half"))
    assert whole == half
    ended = [json.loads((tmp_path / name / "summary.json").read_text())["test"] for name in ("whole", "half")]
    assert ended[0] == ended[1]
    pictures = [(tmp_path / name / "samples" / "final.png").read_bytes() for name in ("whole", "half")]
    assert pictures[0] == pictures[1]
    kept = checkpoint.newest(tmp_path / "half" / "checkpoints").state["outside"]["ranks"][0]
    assert kept["num_iter"] == kept["annealer.calls"] == 6
    assert set(kept) == {"num_iter", "annealer.calls", "mean", "seen", "own", "scale"}


def test_the_averaged_weights_have_the_order_that_the_model_has_drawn() -> None:
    """A permutation in a plain attribute is in no state_dict, and a model that is built twice draws twice."""
    flags = ["--patches", HOST, "--variant", "vanilla", "--device", "cpu", "--latents", "64"]
    work = prepare(parse_train(flags), torch.device("cpu"))
    assert torch.equal(cast(Any, work.ema).order, cast(Any, work.model).order)
    assert not work.outside.drawn_anew
    assert not work.remarks


def test_weights_whose_model_drew_something_beside_them_are_said_to_need_their_seed(tmp_path: Path) -> None:
    flags = ["--patches", HOST, "--variant", "vanilla", "--device", "cpu", "--latents", "64"]
    work = prepare(parse_train(flags), torch.device("cpu"))
    torch.save(work.model.state_dict(), tmp_path / "weights.pt")
    other = prepare(
        parse_train([*flags, "--weights", str(tmp_path / "weights.pt"), "--seed", "3"]), torch.device("cpu")
    )
    (said,) = other.remarks
    assert said.startswith("note: the model draws order by --seed when it is built, and no state_dict has it")


def test_a_recorded_skip_is_done_again_with_the_counts_of_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "run", "--steps", "3", "--skip-threshold", "1e-6", "--record-skips", "3")
    for number in ("1", "3"):
        assert replay.run([str(tmp_path / "run"), "--skip", number, "--patches", HOST]) == 0
    assert capsys.readouterr().out.count("are the same, bit for bit") == 2


def test_the_pictures_of_a_comparison_are_of_the_model_as_it_has_counted(tmp_path: Path) -> None:
    """What it decodes is moved by the number of its steps, which no `state_dict` has."""
    run(tmp_path / "run", "--steps", "3")
    config = parse_train(["--patches", HOST, "--variant", "vanilla", "--device", "cpu", "--out", str(tmp_path / "run")])
    found = _picture(PlannedRun(config, ()))
    work = prepare(config, torch.device("cpu"))
    work.load(checkpoint.newest(tmp_path / "run" / "checkpoints").state)
    for steps, same in ((3, True), (0, False)):
        cast(Any, work.ema).num_iter = steps
        seed_noise("samples", config.seed, step=1)
        assert np.array_equal(found.samples, work.entry.sample(work.ema, len(found.samples), 1.0)) is same


def test_a_count_that_rises_in_each_part_of_a_batch_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", "--steps", "1", "--accumulate", "2", "--watch-every", "0")
    said = " ".join(capsys.readouterr().err.split())
    assert "note: --accumulate 2: the model moves annealer.calls, law, mean, num_iter, own and 3 more in each" in said


def test_each_rank_goes_on_with_its_own_and_ranks_of_another_number_with_that_of_the_first(tmp_path: Path) -> None:
    device = torch.device("cpu")
    work = prepare(tiny(tmp_path), device)
    saved = SavedOutside([{"seen": 3}, {"seen": 5}], {})
    contents = Contents(tmp_path, {}, SavedPosition(1, 4, 2), Counters(), [], saved)
    for rank, ranks, seen in ((0, 2, 3), (1, 2, 5), (0, 1, 3), (3, 4, 3)):
        _restore_outside(contents, work, World(device, rank, ranks), print)
        assert vars(work.model)["seen"] == seen


def test_averaged_weights_are_measured_with_what_the_model_keeps_now(tmp_path: Path) -> None:
    work = prepare(tiny(tmp_path), torch.device("cpu"))
    for seen in (3, 4):
        work.model.seen = seen
        work.let_average_follow()
        assert vars(work.ema)["seen"] == seen
