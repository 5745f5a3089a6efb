"""`--accumulate`: one update as of the whole batch, in the memory of a part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks_child
import runs
import torch
from runs import finish, metrics, tiny
from test_ranks import on_ranks
from torch import Tensor, nn

from vdvae_patch.cli import dispatch
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.skips.records import read_log
from vdvae_patch.train import flight
from vdvae_patch.train.accumulate import backward, buffers_but_means, moved_in_each_part, shares_of_batch_norms
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.loop import train
from vdvae_patch.train.replay import replay
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World

pytestmark = pytest.mark.medium

CPU = torch.device("cpu")


class _Noisy(nn.Module):
    """A loss with noise of its own for every image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, 2)
        self.sizes: list[int] = []
        self.drawn: list[Tensor] = []

    def forward(self, x: Tensor, target: Tensor) -> Losses:
        self.sizes.append(len(x))
        self.drawn.append(torch.randn(len(x), 2))
        out = self.layer(x) + self.drawn[-1]
        distortion, rate = (out[:, 0] - target[:, 0]).square().mean(), out[:, 1].square().mean()
        return Losses(distortion + rate, distortion, rate)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_together_have_the_gradient_and_the_losses_of_the_whole(parts: int) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(6, 3), torch.randn(6, 1)
    whole, model = _Noisy(), _Noisy()
    torch.manual_seed(5)
    expected, _ = backward(whole, x, target)
    torch.manual_seed(5)
    found, _ = backward(model, x, target, parts=parts)
    assert model.sizes == [6 // parts] * parts
    assert torch.equal(torch.cat(model.drawn), whole.drawn[0]), "each part draws on where the last one ended"
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("bad", [0, 5])
def test_one_bad_image_of_any_part_skips_the_whole_update_once(bad: int) -> None:
    model, ema = _Noisy(), _Noisy()
    step = TrainingStep(model, ema, model, Optimization(lr=0.1), World(CPU), parts=3, capacity=4)
    x = torch.zeros(6, 3)
    step(0, x, torch.zeros(6, 1))
    before = [p.detach().clone() for p in model.parameters()]
    target = torch.zeros(6, 1)
    target[bad] = torch.nan
    step(1, x, target)
    first, second = step.drain()
    assert (first.cause, second.cause) == (None, "nan_distortion")
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
def test_a_run_in_parts_is_resumed_and_its_skips_are_done_again_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = tiny(tmp_path / "whole", steps=6, batch_size=4, accumulate=2, checkpoint_every=3)
    train(config)
    train(replace(config, out=tmp_path / "halves", steps=3))
    train(replace(config, out=tmp_path / "halves", steps=6, resume=True))
    runs.assert_same_run(tmp_path / "whole", tmp_path / "halves")
    at_once = replace(config, out=tmp_path / "at-once", accumulate=1)
    train(at_once)
    # the noise is drawn layer by layer, so that parts have other noise than the whole batch, and the same images
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "at-once"), strict=True):
        assert a["elbo"] != b["elbo"]
        assert a["elbo"] == pytest.approx(b["elbo"], rel=0.1)
    skipping = replace(config, out=tmp_path / "skips", steps=2, record_skips=2)
    skipping = replace(skipping, optimization=replace(config.optimization, skip_threshold=1e-6))
    train(skipping)
    found = [flight.read(path) for path in flight.recordings(tmp_path / "skips" / "recordings")]
    assert len(found) == 2
    assert all(replay(skipping, recording).exact for recording in found)


def test_the_heads_of_a_run_in_parts_are_of_the_noise_of_its_steps(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(tiny(tmp_path, steps=2, batch_size=4, accumulate=2, watch_every=1, skip_threshold=1e-6))
    for log in ("heads", "skips"):
        for step, row in zip(metrics(tmp_path), read_log(tmp_path / f"{log}.jsonl").records, strict=True):
            kl = sum(head["kl"] for head in row["heads"] if head["role"] == "posterior")
            assert kl / (32 * 32 * 3) == pytest.approx(step["rate"], rel=1e-6)


def test_two_ranks_in_parts_have_the_gradients_of_two_ranks_at_once() -> None:
    whole, parts = (on_ranks(ranks_child.in_parts_of_a_batch, 2, count) for count in (1, 3))
    assert [rank["exchanged"] for rank in whole] == [1, 1]
    assert [rank["exchanged"] for rank in parts] == [1, 1], "gradients are exchanged once an update"
    for a, b in zip(whole[0]["weights"], parts[0]["weights"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-7)
    assert whole[0]["weights"][0] == pytest.approx(whole[1]["weights"][0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 4, "accumulate": 3}, "--accumulate 3 does not divide --batch-size 4"),
        ({"accumulate": 2, "variant": "vanilla+optimal"}, "move once an update by what they saw of the whole batch"),
    ],
)
def test_what_cannot_be_done_in_parts_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    config = tiny(tmp_path, **settings)
    with pytest.raises(InvalidValueError, match=said):
        make_engine(config, World(CPU), prepare(config, CPU))


def test_batch_norms_that_see_a_share_of_the_batch_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.SyncBatchNorm(3))
    assert shares_of_batch_norms(model, 8, parts=1, ranks=1) == ""
    assert shares_of_batch_norms(nn.Linear(3, 3), 8, parts=2, ranks=2) == ""
    assert shares_of_batch_norms(model, 8, parts=1, ranks=2).startswith(
        "2 ranks: the model's batch norms (1) take the statistics of 4 images, a share of the batch of 8; "
    )
    assert shares_of_batch_norms(model, 8, parts=2, ranks=2).startswith(
        "--accumulate 2 on 2 ranks: the model's batch norms (2) take the statistics of 2 images, a share of the "
        "batch of 8, and move their running statistics 2 times an update; "
    )
    images = ["--data=builtin(train=24,valid=2,test=4)", "--batch-size=4", "--steps=1", "--watch-every=0"]
    out = ["--host=conv_vae", "--device=cpu", "--accumulate=2", "--out", str(tmp_path / "run")]
    assert dispatch(["train", *images, *out]) == 0
    assert "note: --accumulate 2: the model's batch norms" in capsys.readouterr().err


class Counted(nn.Module):
    """A layer, a batch norm, and two codebooks that follow what it sees, of which one is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.book = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.layer, self.norm, self.still = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.register_buffer("codes", torch.zeros(3))
        self.register_buffer("constant", torch.tensor([1.0, torch.nan]))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.layer(x))
        self.codes = self.codes + y.detach().mean(0)
        self.book += y.detach().mean(0)
        return y


def test_what_a_model_moves_in_each_part_of_a_batch_is_said() -> None:
    model = Counted()
    before = buffers_but_means(model)
    assert moved_in_each_part(before, model, [], parts=4) == ""
    model(torch.arange(12.0).view(4, 3) ** 2)
    model.norm.bias.data.fill_(1.0)
    model(torch.ones(4, 3))
    assert moved_in_each_part(before, model, ["num_iter"], parts=4).startswith(
        "--accumulate 4: the model moves num_iter, codes, book in each pass, 4 times an update; "
    )
    assert moved_in_each_part(before, model, [], parts=1) == ""
    assert "a, b, c, d, e and 1 more in each pass" in moved_in_each_part({}, model, list("abcdef"), parts=2)


def test_two_ranks_train_in_parts(tmp_path: Path) -> None:
    finish(tiny(tmp_path / "run", steps=3, batch_size=4, accumulate=2), 2)
    assert len(metrics(tmp_path / "run")) == 3
