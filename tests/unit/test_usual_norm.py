"""A limit near the usual gradient norm: what it is a quantile of, and that a step is clipped at it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdvae_patch.cli.train import _clipping
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.skips.gradient_norm import clip_gradients
from vdvae_patch.skips.usual_norm import WARM_UP, UsualNorm
from vdvae_patch.train.step import StepRecord, TrainingStep
from vdvae_patch.train.world import World

YES, NO = torch.tensor(True), torch.tensor(False)


def filled(norms: list[float], **arguments: Any) -> UsualNorm:
    usual = UsualNorm(**arguments)
    for norm in norms:
        usual.add(torch.tensor(norm), YES)
    return usual


def drawn(count: int, seed: int = 0) -> list[float]:
    """From 1 to 2, so that none is twice another."""
    return (1 + torch.rand(count, generator=torch.Generator().manual_seed(seed))).tolist()


@pytest.mark.parametrize("multiple", [2.0, 3.0])
@pytest.mark.parametrize("count", [WARM_UP, WARM_UP + 1, 47, 48, 131])
def test_the_limit_is_a_multiple_of_the_median_of_the_last_norms(multiple: float, count: int) -> None:
    norms = drawn(count)
    expected = multiple * np.quantile(norms[-47:], 0.5, method="inverted_cdf")
    assert filled(norms, multiple=multiple, window=47).limit.item() == expected


def test_a_burst_of_exploding_norms_does_not_move_the_limit_out_of_reach() -> None:
    norms = drawn(100)
    before = filled(norms).limit.item()
    assert filled([*norms, *[1e6] * 30]).limit.item() < 1.5 * before
    assert filled([*norms, *[1e6] * 100]).limit.item() <= 4 * before


def test_norms_that_grow_for_good_are_followed() -> None:
    norms = drawn(50)
    assert filled([*norms, *[10 * norm for norm in drawn(400, seed=1)]]).limit.item() > 20


def test_nothing_is_clipped_until_there_are_enough_updates() -> None:
    usual = filled(drawn(WARM_UP - 1))
    assert usual.limit.item() == math.inf
    usual.add(torch.tensor(0.5), YES)
    assert usual.limit.item() < math.inf


def test_the_last_norm_can_be_taken_back() -> None:
    """As of an update that another guard of the same optimizer has undone."""
    usual = UsualNorm()
    for norm in range(1, 31):
        usual.add(torch.tensor(float(norm)), torch.tensor(True))
    before = usual.norms(), usual.limit
    usual.add(torch.tensor(7.0), torch.tensor(True))
    assert usual.norms() != before[0]
    usual.forget_last()
    assert (usual.norms(), usual.limit) == before


@pytest.mark.parametrize(("norm", "applied"), [(1e9, NO), (math.nan, NO), (math.inf, NO), (math.inf, YES)])
def test_what_was_skipped_or_is_not_finite_does_not_enter_the_window(norm: float, applied: Tensor) -> None:
    usual, undisturbed = filled(drawn(WARM_UP)), filled(drawn(WARM_UP))
    usual.add(torch.tensor(norm), applied)
    assert usual.norms() == undisturbed.norms()
    assert torch.equal(usual.limit, undisturbed.limit)


def test_each_run_has_a_window_of_its_own() -> None:
    together, alone = UsualNorm(window=30, runs=3), [UsualNorm(window=30) for _ in range(3)]
    for step, norm in enumerate(drawn(70)):
        rows = torch.tensor([norm, 10 * norm, 100 * norm])
        applied = torch.tensor([True, step % 2 == 0, step % 3 > 0])
        together.add(rows, applied)
        for one, row, taken in zip(alone, rows, applied, strict=True):
            one.add(row, taken)
    assert together.limit.tolist() == [one.limit.item() for one in alone]
    together.keep(torch.tensor([0, 2]))
    assert together.limit.tolist() == [alone[0].limit.item(), alone[2].limit.item()]


@pytest.mark.parametrize("count", [0, 7, 30, 44, 60])
def test_it_goes_on_from_its_state_and_from_its_norms_as_if_it_had_not_been_stopped(count: int) -> None:
    whole = filled(drawn(count), window=30)
    copies = UsualNorm(window=30), UsualNorm(window=30)
    copies[0].load_state_dict(whole.state_dict())
    copies[1].remember(whole.norms())
    assert whole.norms() == [float(norm) for norm in torch.tensor(drawn(count)[-30:])]
    for norm in drawn(40, seed=1):
        for usual in (whole, *copies):
            usual.add(torch.tensor(norm), YES)
            assert torch.equal(usual.limit, whole.limit)
            assert usual.norms() == whole.norms()


def test_a_state_of_another_window_and_a_multiple_that_is_none_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"shape \(30,\), not \(100,\)"):
        UsualNorm().load_state_dict(UsualNorm(window=30).state_dict())
    for wrong in ({"multiple": 1.0}, {"multiple": math.nan}, {"window": WARM_UP - 1}):
        with pytest.raises(InvalidValueError, match="multiple must be above 1"):
            UsualNorm(**wrong)


@pytest.mark.parametrize("limit", [0.5, 5.0, math.inf])
def test_gradients_are_scaled_as_by_torchs_own_clipping(limit: float) -> None:
    parameters = [nn.Parameter(torch.zeros(7, 3)), nn.Parameter(torch.zeros(5))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    ours = [p.grad.clone() for p in parameters if p.grad is not None]
    clip_gradients(ours, nn.utils.get_total_norm(ours), torch.tensor(limit, dtype=torch.float64))
    nn.utils.clip_grad_norm_(parameters, limit)
    assert all(torch.equal(a, p.grad) for a, p in zip(ours, parameters, strict=True) if p.grad is not None)


# --- in a training step -----------------------------------------------------------------------------------------------


class Line(nn.Module):
    """A loss whose gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4))


def step_of(norms: list[float], **settings: Any) -> tuple[list[StepRecord], list[float], TrainingStep]:
    """Steps whose gradients have these norms; the records, and the norms that the optimizer was given."""
    model, average = Line(), Line()
    optimization = Optimization(**{"lr": 1e-3, "grad_clip": "auto", "skip_threshold": -1, **settings})

    def loss(x: Tensor, target: Tensor) -> Losses:
        rate = (model.w * x).sum()
        return Losses(rate, torch.zeros(()), rate)

    engine = TrainingStep(model, average, loss, optimization, World(torch.device("cpu")), capacity=len(norms))
    given: list[float] = []
    engine.before_update = lambda skip: given.append(float(model.w.grad.norm()))  # type: ignore[union-attr]
    for step, norm in enumerate(norms):
        x = torch.full((4,), norm / 2)
        engine(step, x, x)
    return engine.drain(), given, engine


def test_a_step_is_clipped_at_the_usual_norm_of_the_steps_before_and_says_so() -> None:
    norms = drawn(2 * WARM_UP)
    norms[-5::2] = [10.0, 20.0, 1000.0]
    records, given, _ = step_of(norms)
    assert not any(record.skipped for record in records)
    for step, (record, norm) in enumerate(zip(records, given, strict=True)):
        usual = filled([r.grad_norm for r in records[:step]]).limit.item()
        assert record.clip == pytest.approx(usual)
        assert norm == pytest.approx(min(record.grad_norm, usual), rel=1e-5)
        assert record.clipped == (record.grad_norm > usual)
    assert records[-1].grad_norm == pytest.approx(1000)
    assert given[-1] < 4
    assert [record.clip for record in records[:WARM_UP]] == [math.inf] * WARM_UP
    assert [record.clipped for record in records[-5:]] == [True, False] * 2 + [True]


def test_a_step_clipped_at_a_number_says_that() -> None:
    records, given, _ = step_of([1.0, 8.0], grad_clip=5.0)
    assert [record.clip for record in records] == [5.0, 5.0]
    assert [record.clipped for record in records] == [False, True]
    assert given == pytest.approx([1.0, 5.0])


@pytest.mark.medium
@pytest.mark.parametrize(("bad", "threshold"), [(1e6, 400.0), (math.nan, -1.0), (math.inf, -1.0)])
def test_a_step_that_was_skipped_does_not_move_the_limit(bad: float, threshold: float) -> None:
    sound = drawn(WARM_UP)
    one_bad, _, spoilt = step_of([*sound, bad, 0.3], skip_threshold=threshold)
    none_bad, _, undisturbed = step_of([*sound, 0.3], skip_threshold=threshold)
    assert one_bad[WARM_UP].skipped
    assert not one_bad[WARM_UP].clipped
    assert one_bad[-1].clip == none_bad[-1].clip < math.inf
    assert spoilt.usual_norm is not None
    assert undisturbed.usual_norm is not None
    assert spoilt.usual_norm.norms() == undisturbed.usual_norm.norms()


# --- in an ensemble ---------------------------------------------------------------------------------------------------


def ensemble_of(
    clip: float | str | None, norms: Callable[[int, int], float], runs: int, skip: float | None, steps: int
) -> Ensemble:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            rate = (self.w * x).sum()
            return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}

    batches = lambda seeds, step: (torch.tensor([[norms(s, step)] for s in seeds]),)  # noqa: E731
    rule = Rule(clip=clip, skip=skip)  # type: ignore[arg-type]
    ensemble = Ensemble([Run(seed, 1e-3) for seed in range(runs)], lambda run: Given(), batches, rule, how="loop")
    ensemble.train(steps)
    return ensemble


def test_the_runs_of_an_ensemble_are_clipped_each_at_its_own_usual_norm() -> None:
    sizes = drawn(2 * WARM_UP)
    norms = lambda seed, step: 10.0**seed * sizes[step] * (50 if step > 30 else 1)  # noqa: E731
    clipped = ensemble_of("auto", norms, 2, math.inf, len(sizes))
    free = ensemble_of(None, norms, 2, math.inf, len(sizes))
    assert clipped.usual_norm is not None
    usual = [filled([norms(seed, step) for step in range(len(sizes))]).limit.item() for seed in range(2)]
    assert clipped.usual_norm.limit.tolist() == pytest.approx(usual)
    assert torch.all(clipped.adam.mean.abs() < free.adam.mean.abs())


def test_a_step_that_a_run_of_an_ensemble_skips_does_not_move_its_limit() -> None:
    sizes = drawn(WARM_UP + 5)
    norms = lambda seed, step: 1e6 if seed and step == 3 else sizes[step]  # noqa: E731
    ensemble = ensemble_of("auto", norms, 2, 400.0, len(sizes))
    assert ensemble.usual_norm is not None
    kept = [size for step, size in enumerate(sizes) if step != 3]
    assert ensemble.usual_norm.limit.tolist() == [filled(sizes).limit.item(), filled(kept).limit.item()]


def test_a_run_ends_by_saying_its_limit_and_that_it_is_twice_the_usual_norm() -> None:
    summary = {"grad_clip": "auto", "clipped_count": 3, "last_clip": 2.458}
    assert _clipping(summary) == "3 clipped, at a limit, twice the usual norm, that ended at 2.46; "
    for unknown in (math.inf, "inf"):  # as it is, and as it is read again
        assert _clipping({**summary, "last_clip": unknown}) == "3 clipped, and auto clips once it has seen 20 updates; "
    assert _clipping({**summary, "grad_clip": 5.0}) == ""
