"""Runs of an ensemble are the runs that they would be alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vdvae_patch
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.adam import AdamSettings, StackedAdam
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.experiments.lowering import LOWERINGS, Lowering
from vdvae_patch.experiments.noise import SuppliedNoise, count_normals, generator, normals
from vdvae_patch.experiments.stack import Stack
from vdvae_patch.hosts import load_host
from vdvae_patch.skips import usual_norm

CPU = torch.device("cpu")


def conv_vae(variant: str, dtype: torch.dtype = torch.float32) -> Callable[[Run], nn.Module]:
    host = load_host("conv_vae")

    def build(run: Run) -> nn.Module:
        torch.manual_seed(run.seed)
        model = host.build({"channels": 3}).to(dtype)
        vdvae_patch.patch(model, variant, heads=host.heads(model), arithmetic="stable")
        return model

    return build


def images(seeds: Sequence[int], step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor]:
    rows = [torch.rand(12, 3, 32, 32, generator=generator(CPU, seed, step, "batch")) for seed in seeds]
    return (torch.stack(rows).to(dtype),)


def train_alone(
    build: Callable[[Run], nn.Module], run: Run, steps: int, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, list[float]]:
    """The same run without an ensemble: an ordinary model and `torch.optim.Adam`."""
    model = build(run)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.lr)
    losses = []
    for step in range(steps):
        (batch,) = images([run.seed], step, dtype)
        with SuppliedNoise(normals([run.seed], step, 1200, CPU)[0]):
            loss = model(batch[0])["elbo"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


THREE = [Run(0, 0.0005), Run(1, 0.0002), Run(2, 0.0005)]
BOUNDED = "upbounded/vanilla/bounded(0.01, 1)"


@pytest.mark.parametrize("how", LOWERINGS)
def test_a_run_in_the_ensemble_equals_the_same_run_alone_over_20_steps(how: Lowering) -> None:
    build = conv_vae(BOUNDED)
    ensemble = Ensemble(THREE, build, images, how=how)
    ensemble.train(20)
    for row, run in enumerate(THREE):
        _, losses = train_alone(build, run, 20)
        torch.testing.assert_close(ensemble.trace()[:, row], torch.tensor(losses), rtol=1e-3, atol=0)


# Batch normalization takes the mean away, and with it these biases: their gradient is rounding alone, and Adam makes
# steps of it.
WITHOUT_EFFECT = ("encoder.main.0.bias", "encoder.main.3.bias", "decoder.main.0.bias", "decoder.main.3.bias")


@pytest.mark.slow
@pytest.mark.parametrize("how", LOWERINGS)
def test_what_is_left_between_ensemble_and_single_run_is_rounding_and_vanishes_in_float64(how: Lowering) -> None:
    double = torch.float64
    build = conv_vae(BOUNDED, double)
    ensemble = Ensemble(THREE, build, lambda seeds, step: images(seeds, step, double), how=how)
    ensemble.train(20)
    for row, run in enumerate(THREE):
        alone, losses = train_alone(build, run, 20, double)
        member = ensemble.stack.load_row(row, build(run))
        torch.testing.assert_close(ensemble.trace()[:, row], torch.tensor(losses, dtype=double), rtol=1e-9, atol=0)
        for name, value in alone.named_parameters():
            if name not in WITHOUT_EFFECT:
                torch.testing.assert_close(member.get_parameter(name), value, rtol=1e-5, atol=1e-8)


def test_a_run_looped_in_the_ensemble_is_bit_for_bit_the_run_alone_but_for_the_optimizer() -> None:
    build = conv_vae("explin/vanilla/exp")
    ensemble = Ensemble([Run(3, 0.006), Run(4, 0.006)], build, images, how="loop")
    ensemble.step()
    _, losses = train_alone(build, Run(4, 0.006), 1)
    assert ensemble.trace()[0, 1].item() == losses[0]


def test_a_run_does_not_notice_that_another_one_fails() -> None:
    build = conv_vae("naiveexp/vanilla/exp")
    with_a_wild_one = Ensemble([Run(0, 0.001), Run(1, 1e4)], build, images, how="loop", check_every=2)
    with_a_wild_one.train(8)
    quiet = Ensemble([Run(0, 0.001)], build, images, how="loop")
    quiet.train(8)
    assert with_a_wild_one.alive == [0]
    assert torch.equal(with_a_wild_one.trace()[:, 0], quiet.trace()[:, 0])


def test_a_failed_run_is_recorded_with_its_step_and_cause_and_leaves_the_computation() -> None:
    build = conv_vae("naiveexp/vanilla/exp")
    ensemble = Ensemble([Run(0, 0.001), Run(1, 1e4)], build, images, how="loop", check_every=2)
    ensemble.train(8)
    failure = ensemble.failures[1]
    losses = ensemble.trace()[:, 1]
    assert failure.step == int((~torch.isfinite(losses)).nonzero()[0])
    assert failure.cause in ("nan_rate", "nan_distortion", "nan_weights")
    assert ensemble.stack.flat.shape[0] == 1
    assert torch.isfinite(ensemble.trace()[:, 0]).all()


SKIPPING = Rule(AdamSettings(0.9, 0.9, wd=0.01), warmup=5, clip=200.0, skip=4000.0)


@pytest.mark.parametrize("rule", [Rule(), SKIPPING, Rule(clip="auto"), replace(SKIPPING, clip="auto")])
def test_an_ensemble_that_was_stopped_goes_on_as_if_it_had_not(
    rule: Rule, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usual_norm, "WARM_UP", 3)
    build, runs = conv_vae("naiveexp/vanilla/exp"), [Run(0, 0.002), Run(1, 1e4)]
    whole = Ensemble(runs, build, images, rule, how="loop", check_every=2)
    whole.train(8)
    first = Ensemble(runs, build, images, rule, how="loop", check_every=2)
    first.train(5)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Ensemble(runs, build, images, rule, how="loop", check_every=2)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.train(8)
    assert torch.equal(second.stack.flat, whole.stack.flat)
    assert torch.allclose(second.trace(), whole.trace(), rtol=0, atol=0, equal_nan=True)
    assert second.failures == whole.failures
    assert torch.equal(second.high_steps, whole.high_steps)


def test_a_state_of_other_runs_is_refused() -> None:
    build = conv_vae("exp/vanilla/exp")
    state = Ensemble([Run(0, 0.1)], build, images).state_dict()
    with pytest.raises(InvalidValueError, match="other seeds or learning rates"):
        Ensemble([Run(1, 0.1)], build, images).load_state_dict(state)


def test_training_stops_when_it_is_told_to() -> None:
    ensemble = Ensemble([Run(0, 0.001)], conv_vae("exp/vanilla/exp"), images, how="loop")
    ensemble.train(100, go_on=lambda: ensemble.step_count < 3)
    assert ensemble.step_count == 3


class Spiky(nn.Module):
    """A parabola; where a batch is negative its gradient is huge, where it is NaN the loss is."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        steepness = torch.where(x < 0, 1e3, 1.0)
        rate = (steepness * self.w**2 + 0 * x).sum()
        return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}


def test_the_skip_rule_leaves_out_high_gradients_and_nan_and_counts_them() -> None:
    kinds = [1.0, -1.0, float("nan"), 1.0]

    def batches(seeds: Sequence[int], step: int) -> tuple[Tensor]:
        return (torch.tensor([[kinds[step]] if seed else [1.0] for seed in seeds]),)

    ensemble = Ensemble([Run(0, 0.1), Run(1, 0.1)], lambda _: Spiky(), batches, Rule(skip=400.0), how="grouped")
    before = []
    for _ in kinds:
        before.append(ensemble.stack.flat.detach().clone())
        ensemble.step()
    assert ensemble.nan_steps.tolist() == [0, 1]
    assert ensemble.high_steps.tolist() == [0, 1]
    assert torch.equal(before[1][1], before[3][1])
    assert not torch.equal(before[1][0], before[3][0])
    assert ensemble.adam.updates.tolist() == [4, 2]


@pytest.mark.parametrize("wd", [0.0, 0.01])
def test_a_row_of_the_stacked_adam_follows_torchs_own(wd: float) -> None:
    torch.manual_seed(0)
    start, lrs = torch.randn(3, 50), [0.1, 0.01, 0.001]
    stacked = start.clone()
    adam = StackedAdam.of(stacked, AdamSettings(0.8, 0.95, 1e-8, wd))
    rows = [nn.Parameter(row.clone()) for row in start]
    own = [torch.optim.AdamW([p], lr=lr, betas=(0.8, 0.95), weight_decay=wd) for p, lr in zip(rows, lrs, strict=True)]
    for _ in range(30):
        grad = torch.randn(3, 50)
        adam.step(stacked, grad, torch.tensor(lrs))
        for row, optimizer, g in zip(rows, own, grad, strict=True):
            row.grad = g.clone()
            optimizer.step()
    torch.testing.assert_close(stacked, torch.stack([row.detach() for row in rows]), rtol=1e-5, atol=1e-6)


def test_a_row_that_is_left_out_of_an_update_is_as_if_the_step_had_not_been() -> None:
    torch.manual_seed(0)
    flat = torch.randn(2, 5)
    adam = StackedAdam.of(flat, AdamSettings(wd=0.1))
    lr = torch.tensor([0.1, 0.1])
    adam.step(flat, torch.randn(2, 5), lr)
    before = copy.deepcopy((flat[1], adam.mean[1], adam.square[1], adam.updates[1]))
    grad = torch.randn(2, 5)
    grad[1] = float("nan")
    adam.step(flat, grad, lr, torch.tensor([True, False]))
    for now, then in zip((flat[1], adam.mean[1], adam.square[1], adam.updates[1]), before, strict=True):
        assert torch.equal(now, then)
    assert adam.updates.tolist() == [2, 1]


def test_noise_depends_on_seed_and_step_alone() -> None:
    both = normals([5, 9], 3, 40, CPU)
    assert torch.equal(both[1], normals([9], 3, 40, CPU)[0])
    assert not torch.equal(both[1], normals([9], 4, 40, CPU)[0])
    assert abs(normals([1], 0, 10_000, CPU).std().item() - 1) < 0.05


def test_supplied_noise_answers_every_form_of_the_call_in_order() -> None:
    noise = torch.arange(10.0)
    with SuppliedNoise(noise):
        like = torch.randn_like(torch.zeros(2, 2))
        plain = torch.randn(2, 1)
        shaped = torch.randn((3,), dtype=torch.float64)
    assert like.tolist() == [[0, 1], [2, 3]]
    assert plain.tolist() == [[4], [5]]
    assert shaped.tolist() == [6, 7, 8]
    assert shaped.dtype == torch.float64


def test_noise_that_does_not_suffice_is_an_error() -> None:
    with SuppliedNoise(torch.zeros(3)), pytest.raises(InvalidValueError, match="drew 4 random numbers, 3"):
        torch.randn(4)


def test_counting_the_noise_leaves_the_model_as_it_was() -> None:
    model = conv_vae("exp/vanilla/exp")(Run(0, 0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert count_normals(model, torch.rand(3, 3, 32, 32)) == 300
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", LOWERINGS)
def test_every_run_updates_its_own_batch_statistics(how: Lowering) -> None:
    build = conv_vae("exp/vanilla/exp")
    stack = Stack.of([build(Run(0, 0.1)), build(Run(1, 0.1))])
    (batch,) = images([0, 1], 0)
    stack((batch,), normals([0, 1], 0, 1200, CPU), how)
    for row in (0, 1):
        alone = build(Run(row, 0.1))
        with SuppliedNoise(normals([row], 0, 1200, CPU)[0]):
            alone(batch[row])
        member = stack.load_row(row, build(Run(row, 0.1)))
        for name, value in alone.named_buffers():
            torch.testing.assert_close(member.get_buffer(name), value, rtol=1e-5, atol=1e-6)


def test_finding_out_which_lowering_is_faster_moves_no_batch_statistics() -> None:
    ensemble = Ensemble([Run(0, 1e-3)], conv_vae("exp/vanilla/exp"), images)
    before = {name: value.clone() for name, value in ensemble.stack.buffers.items()}
    ensemble._try("loop")
    assert before
    assert all(torch.equal(value, ensemble.stack.buffers[name]) for name, value in before.items())


class Sloped(nn.Module):
    """A loss that is linear in its weights: the gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rate = (x * self.w).sum()
        return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}


def sloped(rule: Rule, gradients: Sequence[Sequence[float]], **options: Any) -> Ensemble:
    """One run with these gradients, one a step."""

    def batches(seeds: Sequence[int], step: int) -> tuple[Tensor]:
        return (torch.tensor([gradients[step]] * len(seeds)),)

    return Ensemble([Run(0, 0.1)], lambda _: Sloped(), batches, rule, how="loop", **options)


def test_gradients_above_the_norm_are_clipped_and_those_below_are_not() -> None:
    ensemble = sloped(Rule(AdamSettings(0.9, 0.9), clip=5.0), [(30.0, 40.0), (0.3, 0.4)])
    ensemble.step()
    torch.testing.assert_close(ensemble.adam.mean[0], 0.1 * torch.tensor([3.0, 4.0]))
    ensemble.step()
    torch.testing.assert_close(ensemble.adam.mean[0], torch.tensor([0.27 + 0.03, 0.36 + 0.04]))
    assert ensemble.trace("grad_norm")[:, 0].tolist() == pytest.approx([50.0, 0.5])


def test_the_learning_rate_rises_from_zero_over_the_warm_up() -> None:
    ensemble = sloped(Rule(warmup=4), [(1.0, -1.0)] * 7)
    moved = []
    for _ in range(7):
        before = ensemble.stack.flat.detach().clone()
        ensemble.step()
        moved.append(float((before - ensemble.stack.flat.detach())[0, 0]))
    # of a gradient that stays the same Adam makes steps of the learning rate
    assert moved == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1], abs=1e-6)


def test_a_norm_of_exactly_the_threshold_is_high_and_skipped() -> None:
    ensemble = sloped(Rule(skip=5.0), [(3.0, 4.0), (3.0, 3.99)], high_norm=5.0)
    ensemble.step()
    assert not ensemble.stack.flat.any()
    ensemble.step()
    assert ensemble.high_steps.tolist() == [1]
    assert ensemble.adam.updates.tolist() == [1]


def test_a_norm_counts_as_high_from_400_on() -> None:
    ensemble = sloped(Rule(), [(399.0, 0.0), (401.0, 0.0), (0.0, 400.0)])
    for _ in range(3):
        ensemble.step()
    assert ensemble.high_steps.tolist() == [2]


def test_a_nan_is_counted_as_a_nan_alone_though_its_norm_is_none() -> None:
    ensemble = sloped(Rule(skip=400.0), [(math.nan, 1.0), (1.0, 1.0)])
    ensemble.step()
    assert ensemble.trace("grad_norm").isnan().all()
    assert (ensemble.nan_steps.tolist(), ensemble.high_steps.tolist()) == ([1], [0])
    assert not ensemble.stack.flat.any()


class Failing(nn.Module):
    """Its first weight is the rate, its second the distortion, times the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rate, distortion = x * self.w
        return {"elbo": rate + distortion, "rate": rate, "distortion": distortion}


@pytest.mark.parametrize(
    ("factors", "cause"),
    [
        ((math.nan, 1.0), "nan_rate"),
        ((1.0, math.nan), "nan_distortion"),
        ((math.inf, math.nan), "nan_weights"),
    ],
)
def test_a_failure_has_the_cause_that_its_losses_show(factors: tuple[float, float], cause: str) -> None:
    ensemble = Ensemble([Run(0, 0.1)], lambda _: Failing(), lambda seeds, step: (torch.tensor([factors]),), how="loop")
    ensemble.train(1)
    assert ensemble.failures[0].cause == cause


def test_no_update_of_the_stacked_adam_waits_to_hear_which_rows_are_left_out() -> None:
    """A meta tensor has no values: whatever asks for one raises."""
    flat = torch.zeros(3, 5, device="meta")
    adam = StackedAdam.of(flat, AdamSettings(wd=0.1))
    lr, applied = torch.ones(3, dtype=torch.float64, device="meta"), torch.ones(3, dtype=torch.bool, device="meta")
    adam.step(flat, torch.zeros_like(flat), lr, applied)
    with pytest.raises(RuntimeError):
        bool(applied.all())
