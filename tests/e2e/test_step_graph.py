"""The step as one graph: recorded on a CPU as a GPU would record it, it is the step that it was recorded of."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_graph import RecordedGraph
from runs import tiny
from torch import Tensor, nn

from vdvae_patch import sampled_kl_of_sigmas
from vdvae_patch.data.batches import DeviceImages, batch_indices
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.step import StepRecord, TrainingStep
from vdvae_patch.train.world import World

pytestmark = pytest.mark.medium

CPU = torch.device("cpu")
STEPS = 9


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # whose values nobody looks at to choose a way to them
    monkeypatch.setattr(sampled_kl_of_sigmas, "can_look_at", lambda *tensors: False)


def done(
    tmp_path: Path, graph: RecordedGraph | None, **settings: Any
) -> tuple[list[StepRecord], list[Tensor], TrainingStep]:
    config = replace(tiny(tmp_path, lr=1e-3, warmup_iters=6, **settings), record_every=STEPS)
    work = prepare(config, CPU)
    step = make_engine(config, World(CPU), work).step
    if graph is not None:
        step.as_graph(
            lambda: [*work.model.buffers(), *(() if work.weighing is None else work.weighing.buffers())],
            graph,
            work.moved_in_python,
        )
    images = DeviceImages(work.data.train, CPU)
    for number in range(STEPS):
        batch = work.data.normalization.apply(images.take(batch_indices(len(images), 2, number, 0)))
        seed_noise("train", 0, step=number)
        step(number, *batch, stop=number == STEPS - 1)
    weights = [*work.model.parameters(), *work.ema.parameters()]
    return step.drain(), [w.detach().clone() for w in weights], step


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"variant": "explin/constant", "grad_clip": "auto"},
        {"precision": "bf16", "variant": "upbounded"},
        {"precision": "fp16"},
        {"variant": "explin/constant+optimal+geco(kappa=0.06)"},
        {"grad_clip": 0.01},
    ],
    ids=str,
)
def test_what_is_replayed_is_the_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    graph = RecordedGraph()
    plain, weights, _ = done(tmp_path / "plain", None, **settings)
    replayed, others, step = done(tmp_path / "graph", graph, **settings)
    assert step.graph is not None
    assert step.graph.problem == ""
    assert graph.replays == STEPS - 2
    assert len(plain) == len(replayed) == STEPS
    for a, b in zip(plain, replayed, strict=True):
        assert (a.step, a.cause, a.lr, a.sites) == (b.step, b.cause, b.lr, b.sites)
        for name in ("elbo", "distortion", "rate", "grad_norm", "clip"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-4, nan_ok=True), (a.step, name)
        assert b.metrics == pytest.approx(a.metrics, rel=1e-4)
    assert step.stop_agreed
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert isinstance(step.optimizer.state_dict()["param_groups"][0]["lr"], float)


def test_a_replayed_update_is_skipped_like_any_other(tmp_path: Path) -> None:
    norms = sorted(record.grad_norm for record in done(tmp_path / "plain", None)[0])
    threshold = norms[STEPS // 2]
    plain, weights, _ = done(tmp_path / "some", None, skip_threshold=threshold)
    replayed, others, _ = done(tmp_path / "graph", RecordedGraph(), skip_threshold=threshold)
    assert {record.skipped for record in replayed[2:]} == {True, False}
    assert [record.cause for record in replayed] == [record.cause for record in plain]
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


class _Line(nn.Module):
    """A loss of one weight, and what a host might do beside."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.w, self.beside = nn.Parameter(torch.ones(3)), beside
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Losses:
        if self.beside == "looks":
            assert math.isfinite(float(x.sum()))
        if self.beside == "moves":
            self.count = self.count + 1
        loss = (x * self.w).square().mean()
        return Losses(loss, loss, 0 * loss)


@pytest.mark.parametrize(
    ("beside", "said"), [("looks", "not permitted when stream"), ("moves", "put elsewhere"), ("", "")]
)
def test_a_step_that_cannot_be_a_graph_says_why_and_is_done_piece_by_piece(beside: str, said: str) -> None:
    graph = RecordedGraph()
    found = []
    for captured in (False, True):
        model, ema = _Line(beside), _Line(beside)
        step = TrainingStep(model, ema, lambda x, _: model(x), Optimization(lr=0.1), World(CPU), capacity=8)  # noqa: B023
        if captured:
            step.as_graph(lambda: [model.count], graph)  # noqa: B023
        for number in range(6):
            step(number, torch.full((2, 3), 1.0 + number), torch.zeros(0))
        found.append([record.elbo for record in step.drain()])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert step.graph is not None
    assert said in step.graph.problem
    assert bool(step.graph.problem) == bool(said)
    assert graph.replays == (0 if said else 4)


def test_a_step_whose_gradients_are_looked_at_is_not_replayed() -> None:
    graph, seen = RecordedGraph(), []
    model, ema = _Line(""), _Line("")
    step = TrainingStep(model, ema, lambda x, _: model(x), Optimization(lr=0.1), World(CPU), capacity=8)
    step.as_graph(list, graph)

    def look() -> None:
        seen.append(model.w.grad.clone())  # type: ignore[union-attr]
        step.before_clip = None

    for number in range(6):
        if number == 4:
            step.before_clip = look
        step(number, torch.full((2, 3), 1.0), torch.zeros(0))
    assert graph.replays == 3
    assert len(seen) == 1
    losses = [record.elbo for record in step.drain()]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 6


def test_a_graph_without_a_gpu_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, cuda_graph=True)
    with pytest.raises(InvalidValueError, match="--cuda-graph is for one process on one GPU, not for device cpu"):
        make_engine(config, World(CPU), prepare(config, CPU))


def test_a_model_that_counts_its_steps_in_an_attribute_is_not_captured(tmp_path: Path) -> None:
    config = replace(tiny(tmp_path, lr=1e-3), record_every=STEPS)
    work = prepare(config, CPU)
    step = make_engine(config, World(CPU), work).step
    graph = step.as_graph(list, RecordedGraph(), work.moved_in_python)
    work.model.register_forward_pre_hook(lambda module, args: setattr(module, "steps_seen", _seen(module) + 1))
    images = DeviceImages(work.data.train, CPU)
    for number in range(4):
        step(number, *work.data.normalization.apply(images.take(batch_indices(len(images), 2, number, 0))))
    assert _seen(work.model) == 4
    assert graph.problem == "the model moves steps_seen in Python in each step, and a replay runs none"


def _seen(module: nn.Module) -> int:
    return getattr(module, "steps_seen", 0)
