"""What training, evaluation, replay and the ensembles do with their settings: each test fails if one is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from runs import final_state, finish, metrics, tiny
from torch import Tensor, nn

from vdvae_patch.data.batches import DeviceImages
from vdvae_patch.data.normalization import Normalization
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.skips import records, rule
from vdvae_patch.train import flight
from vdvae_patch.train.evaluate import evaluate
from vdvae_patch.train.loop import train
from vdvae_patch.train.noise import noise_seed
from vdvae_patch.train.replay import replay
from vdvae_patch.train.run import Counters
from vdvae_patch.train.samples import sample_grid
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.step import BadRanks, StepRecord, TrainingStep
from vdvae_patch.train.world import World

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Line(nn.Module):
    """A loss that is linear in its weights: the gradient is the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Losses:
        loss = (x.mean(dim=0) * self.w).sum()
        return Losses(loss, loss, torch.zeros(()))


def made(optimization: Optimization, world: World | None = None) -> tuple[Line, Line, TrainingStep]:
    model, average = Line(), Line()
    step = TrainingStep(model, average, lambda x, _: model(x), optimization, world or World(CPU), capacity=8)
    return model, average, step


def batch(*values: float) -> Tensor:
    return torch.tensor([values])


class TestTheStep:
    def test_the_optimizer_gets_the_clipped_gradient_and_the_log_the_norm_before(self) -> None:
        model, _, step = made(Optimization(lr=0.1, grad_clip=2.5, skip_threshold=-1))
        given: list[Tensor] = []
        step.before_update = lambda _: given.append(model.w.grad.clone())  # type: ignore[union-attr]
        step(0, batch(30.0, 40.0), torch.zeros(0))
        step(1, batch(0.3, 0.4), torch.zeros(0))
        torch.testing.assert_close(given[0], torch.tensor([1.5, 2.0]))
        torch.testing.assert_close(given[1], torch.tensor([0.3, 0.4]))
        assert [record.grad_norm for record in step.drain()] == pytest.approx([50.0, 0.5])

    @pytest.mark.parametrize("bad", [(math.nan, 1.0), (300.0, 400.0)])
    def test_a_skipped_update_leaves_an_average_that_differs_from_the_weights_bit_for_bit(
        self, bad: tuple[float, float]
    ) -> None:
        model, average, step = made(Optimization(lr=0.1, ema_rate=0.9, skip_threshold=400))
        start = model.w.detach().clone()
        step(0, batch(1.0, -1.0), torch.zeros(0))
        torch.testing.assert_close(average.w.data, 0.9 * start + 0.1 * model.w.data)
        before = model.w.detach().clone(), average.w.detach().clone()
        assert not torch.equal(*before)
        step(1, batch(*bad), torch.zeros(0))
        assert [record.skipped for record in step.drain()] == [False, True]
        assert torch.equal(model.w, before[0])
        assert torch.equal(average.w, before[1])

    def test_a_norm_of_exactly_the_threshold_is_not_below_it(self) -> None:
        _, _, step = made(Optimization(skip_threshold=5.0))
        step(0, batch(3.0, 4.0), torch.zeros(0))
        step(1, batch(3.0, 3.999), torch.zeros(0))
        assert [record.cause for record in step.drain()] == ["high_gradient", None]

    def test_weight_decay_and_both_betas_reach_adam(self) -> None:
        chosen = Optimization(lr=0.1, wd=0.3, adam_beta1=0.5, adam_beta2=0.8, skip_threshold=-1)
        model, _, step = made(chosen)
        other = Line()
        adam = torch.optim.AdamW(other.parameters(), lr=0.1, betas=(0.5, 0.8), weight_decay=0.3)
        for number, x in enumerate([batch(1.0, -1.0), batch(5.0, 0.1), batch(-0.2, 3.0)]):
            step(number, x, torch.zeros(0))
            adam.zero_grad()
            other(x).elbo.backward()
            adam.step()
        torch.testing.assert_close(model.w, other.w)

    def test_logged_losses_are_means_over_ranks(self) -> None:
        _, _, step = made(Optimization(skip_threshold=-1), _WithAnother(CPU, 0, 2))
        step(0, batch(1.0, 1.0), torch.zeros(0))
        record = step.drain()[0]
        assert (record.elbo, record.distortion, record.rate) == (3.0 + 5, 3.0 + 5, 5.0)


@dataclass(frozen=True)
class _WithAnother(World):
    """Two ranks, of which the other one's losses are larger by 10."""

    def gather(self, values: Tensor) -> Tensor:
        other = values.clone()
        other[:3] += 10
        return torch.stack([values, other])


class TestTheSkipRule:
    CASES = (
        ((False, False), False, 1.0, 0),
        ((False, False), False, 400.0, 3),
        ((False, False), False, 399.9, 0),
        ((False, False), False, math.nan, 3),
        ((False, False), True, 1.0, 3),
        ((True, False), False, 1.0, 1),
        ((False, True), True, math.nan, 2),
        ((True, True), True, math.inf, 1),
    )

    @pytest.mark.parametrize(("bad", "gradient", "norm", "wanted"), CASES)
    def test_has_its_boundary_above_and_the_first_cause_first(
        self, bad: tuple[bool, bool], gradient: bool, norm: float, wanted: int
    ) -> None:
        flags = [torch.tensor(float(b)) for b in bad]
        assert rule.code(flags, torch.tensor(float(gradient)), torch.tensor(norm), 400.0) == wanted
        assert rule.decided(bad, gradient, norm, 400.0) == wanted

    def test_a_step_is_counted_by_one_cause_alone(self) -> None:
        counters = Counters()
        for cause in ("nan_rate", "nan_distortion", "high_gradient", "loss_scale", None):
            counters.add(StepRecord(0, math.nan, math.nan, math.nan, math.nan, 0.1, cause, BadRanks()), 2)
        assert (counters.nan, counters.high_gradient, counters.loss_scale) == (2, 1, 1)
        assert (counters.consecutive_skips, counters.images) == (0, 10)

    def test_a_skipped_step_leaves_the_share_of_the_initial_weights_as_it_is(self) -> None:
        counters = Counters(initial_share=1.0)
        for cause in (None, "high_gradient", None):
            counters.add(StepRecord(0, 1.0, 1.0, 1.0, 1.0, 0.1, cause, BadRanks()), 2, 0.9)
        assert counters.initial_share == pytest.approx(0.9**2)


class _Brightness:
    """A host whose NELBO of a batch is the mean of its targets; of a batch with a 255 it is infinite."""

    def losses(self, model: nn.Module, x: Tensor, target: Tensor) -> Losses:
        mean = target.mean()
        loss = torch.where((target == 255).any(), math.inf, mean)
        return Losses(loss, mean, 0 * mean + torch.rand(()))


class _Seen(nn.Module):
    batches = 0


class _Counting:
    """A host whose NELBO is how many batches its model has seen."""

    def losses(self, model: _Seen, x: Tensor, target: Tensor) -> Losses:
        model.batches += 1
        count = torch.tensor(float(model.batches))
        return Losses(count, count, 0 * count)


SAME = Normalization(0.0, 1.0, 0.0, 1.0)


def evaluated(values: list[int], **options: Any) -> Any:
    images = np.array(values, np.uint8).reshape(-1, 1, 1, 1)
    chosen = {"batch_size": 4, "seed": 0} | options
    return evaluate(_Brightness(), nn.Identity(), DeviceImages(images, CPU), SAME, **chosen)  # type: ignore[arg-type]


class TestEvaluation:
    def test_a_last_batch_that_is_smaller_counts_by_its_images(self) -> None:
        found = evaluated([10, 10, 10, 10, 100])
        assert (found.elbo, found.distortion, found.images) == (28.0, 28.0, 5)

    def test_the_first_images_are_taken_if_there_is_a_limit(self) -> None:
        assert evaluated([10, 20, 30, 40, 50, 60], limit=5).elbo == 30.0

    def test_batches_that_are_not_finite_are_counted_and_left_out_by_images(self) -> None:
        found = evaluated([10, 10, 10, 10, 255, 255, 255, 255, 100])
        assert math.isinf(found.elbo)
        assert (found.bad_batches, found.filtered_elbo) == (1, 28.0)

    def test_each_batch_has_noise_of_its_own_that_the_seed_fixes(self) -> None:
        torch.manual_seed(noise_seed("evaluate", 3, step=0))
        first = float(torch.rand(()))
        torch.manual_seed(noise_seed("evaluate", 3, step=1))
        second = float(torch.rand(()))
        assert first != second
        assert evaluated([1] * 8, seed=3).rate == pytest.approx((first + second) / 2)

    def test_each_batch_is_measured_with_what_the_model_has_kept_before_the_first(self) -> None:
        model, images = _Seen(), DeviceImages(np.zeros((8, 1, 1, 1), np.uint8), CPU)
        model.batches = 3
        assert evaluate(_Counting(), model, images, SAME, batch_size=4, seed=0).elbo == 4  # type: ignore[arg-type]
        assert model.batches == 3


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    config = tiny(
        tmp_path_factory.mktemp("lags") / "run", steps=6, lr=0.02, warmup_iters=0, ema_rate=0.9,
        evaluate_every=6, skip_threshold=-1.0,
    )  # fmt: skip
    train(config)
    return config


class TestARunOfWhichTheAverageLagsBehind:
    def both(self, done: Any, measure: Callable[[Any, nn.Module], Any]) -> tuple[Any, Any]:
        """What is measured of the average, and of the weights."""
        work, state = prepare(done, CPU), final_state(done.folder)
        found = []
        for name in ("ema", "model"):
            work.ema.load_state_dict(state[name])
            found.append(measure(work, work.ema))
        return found[0], found[1]

    def test_is_evaluated_and_tested_with_the_average(self, done: Any) -> None:
        def nelbo(work: Any, model: nn.Module, part: str) -> float:
            images = DeviceImages(getattr(work.data, part), CPU)
            return evaluate(work.entry, model, images, work.data.normalization, batch_size=2, seed=done.seed).elbo

        average, weights = self.both(done, partial(nelbo, part="test"))
        said = json.loads((done.folder / "summary.json").read_text())["test_nelbo_nats_per_dim"]
        assert said == pytest.approx(average, rel=1e-6)
        assert said != pytest.approx(weights, rel=1e-3)
        average, weights = self.both(done, partial(nelbo, part="valid"))
        (row,) = records.read(done.folder / "evaluations.jsonl")
        assert row["step"] == 5
        assert row["elbo"] == pytest.approx(average, rel=1e-6)
        assert row["elbo"] != pytest.approx(weights, rel=1e-3)

    def test_is_drawn_with_the_average(self, done: Any) -> None:
        def grid(work: Any, model: nn.Module) -> Any:
            pixels = torch.from_numpy(np.array(work.data.train[np.arange(8)]))
            return sample_grid(work.entry, model, pixels, work.data.normalization, seed=done.seed)

        average, weights = self.both(done, grid)
        drawn = iio.imread(done.folder / "samples" / "final.png")
        assert np.array_equal(drawn, average)
        assert not np.array_equal(drawn, weights)


def test_statistics_of_batch_normalization_are_those_of_the_weights_in_the_average_too(tmp_path: Path) -> None:
    from vdvae_patch.cli.arguments import parse_train

    flags = ["--host=conv_vae", "--preset=paper", "--data=builtin(train=24,valid=8,test=8)", "--batch-size=8"]
    config = parse_train([*flags, "--steps=3", "--device=cpu", f"--out={tmp_path / 'run'}"])
    fresh = prepare(config, CPU)
    names = [name for name, value in fresh.model.named_buffers() if name.endswith("running_mean")]
    assert names
    train(config)
    state = final_state(config.folder)
    for name in names:
        assert torch.equal(state["ema"][name], state["model"][name])
        assert not torch.equal(state["ema"][name], fresh.ema.get_buffer(name))


class TestNoise:
    def test_differs_by_seed_purpose_rank_and_step(self) -> None:
        seeds = {
            noise_seed(purpose, seed, rank=rank, step=step)
            for purpose in ("train", "evaluate", "samples")
            for seed in (0, 1)
            for rank in (0, 1)
            for step in (0, 1)
        }
        assert len(seeds) == 24

    @pytest.mark.medium
    def test_ranks_of_a_run_draw_their_own_and_replay_is_exact_only_if_every_number_is(self, tmp_path: Path) -> None:
        config = tiny(tmp_path / "run", steps=2, skip_threshold=1e-4, record_skips=1)
        finish(config, 2)
        recording = flight.read(flight.choose(config.folder / "recordings", 1))
        first, second = (states["torch"] for states in recording.generators)
        assert not torch.equal(first, second)
        assert len(recording.heads) > 2
        assert replay(config, recording).exact
        own = recording.record
        others = [replace(own, **{name: getattr(own, name) * 1.01}) for name in ("elbo", "rate", "grad_norm")]
        for other in (*others, replace(own, distortion=own.distortion + 1), replace(own, cause="nan_rate")):
            assert not replay(config, replace(recording, record=other)).exact
        one = replace(recording.heads[1], log_sigma_max=recording.heads[1].log_sigma_max + 1e-3)
        assert not replay(config, replace(recording, heads=(recording.heads[0], one, *recording.heads[2:]))).exact


@pytest.mark.medium
def test_a_compiled_run_trains_with_torchs_own_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that traces and generates no code, since that takes a second where the other takes minutes."""
    compiled, told = torch.compile, []

    def cheap(model: Any, **arguments: Any) -> Any:
        told.append(arguments)
        return compiled(model, backend="eager")

    plain = tiny(tmp_path / "plain", steps=2, skip_threshold=-1.0)
    train(plain)
    monkeypatch.setattr(torch, "compile", cheap)
    other = tiny(tmp_path / "compiled", steps=2, skip_threshold=-1.0, compile=True)
    train(other)
    assert told == [{"options": {"fallback_random": True}}]
    for a, b in zip(metrics(plain.folder), metrics(other.folder), strict=True):
        assert b["elbo"] == pytest.approx(a["elbo"], rel=1e-5)
        assert not b["skipped"]
