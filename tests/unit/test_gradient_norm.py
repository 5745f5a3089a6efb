"""The norm of a gradient is finite where the gradient is, and one that can be clipped does not freeze a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import vdvae_patch
from vdvae_patch.experiments.ensemble import Ensemble, Rule, Run
from vdvae_patch.hosts.preset import Losses, Optimization
from vdvae_patch.skips.gradient_norm import clip_gradients, gradient_norm, row_norms
from vdvae_patch.skips.rule import LARGEST
from vdvae_patch.skips.usual_norm import WARM_UP
from vdvae_patch.train.step import StepRecord, TrainingStep
from vdvae_patch.train.world import World


def reference(gradients: list[Tensor]) -> float:
    return math.hypot(*(float(element) for g in gradients for element in g.to_dense().flatten()))


def drawn(*shape: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (size * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


GRADIENTS: dict[str, Callable[[], list[Tensor]]] = {
    "ordinary": lambda: [drawn(40, 3), drawn(7)],
    "squares overflow": lambda: [drawn(40, 3, size=1e25), drawn(7)],
    "beyond float32": lambda: [torch.full((40,), 3e38), torch.full((7,), 1e30)],
    "the sum of squares alone overflows": lambda: [torch.full((400,), 1.8e19)],
    "float64": lambda: [drawn(40, size=1e100, dtype=torch.float64)],
    "float16": lambda: [torch.full((400,), 6e4, dtype=torch.float16)],
    "bfloat16": lambda: [torch.full((400,), 1e30, dtype=torch.bfloat16)],
    "of several types": lambda: [drawn(3), drawn(4, dtype=torch.float64), drawn(5, dtype=torch.float16)],
    "sparse, with an index twice": lambda: [torch.sparse_coo_tensor([[0, 0, 2]], [1e25, 2e25, 1e25], (4,)), drawn(4)],
    "none": list,
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", list(GRADIENTS))
def test_the_norm_is_that_of_float64(name: str) -> None:
    gradients = GRADIENTS[name]()
    norm = gradient_norm(gradients)
    assert norm.dtype == torch.float64
    assert float(norm) == pytest.approx(reference(gradients), rel=1e-2 if name == "bfloat16" else 1e-5)


def test_an_ordinary_norm_is_that_of_torch_bit_for_bit() -> None:
    gradients = [drawn(40, 3), drawn(7)]
    assert gradient_norm(gradients).float() == nn.utils.get_total_norm(gradients)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("others", [1.0, 1e30])
def test_an_element_that_is_not_finite_makes_the_norm_so(bad: float, others: float) -> None:
    norm = gradient_norm([torch.full((9,), others), torch.tensor([others, bad])])
    assert float(norm) == abs(bad) or (math.isnan(bad) and bool(norm.isnan()))


@pytest.mark.parametrize("size", [1.0, 1e25, 3e38])
def test_clipping_brings_the_norm_to_the_limit_and_keeps_the_direction(size: float) -> None:
    gradients = [torch.full((40,), size), torch.full((10,), -size / 2)]
    clip_gradients(gradients, gradient_norm(gradients), torch.tensor(5.0, dtype=torch.float64))
    assert float(gradient_norm(gradients)) == pytest.approx(min(5.0, size * math.sqrt(42.5)), rel=1e-4)
    assert float(gradients[1][0] / gradients[0][0]) == pytest.approx(-0.5)


def test_the_norms_of_rows_are_each_that_of_its_row() -> None:
    rows = torch.stack([drawn(50), drawn(50, size=1e25), torch.full((50,), 3e38), torch.full((50,), math.inf)])
    assert row_norms(rows).tolist() == pytest.approx([reference([row]) for row in rows], rel=1e-5)
    assert row_norms(rows[:1]).float() == torch.linalg.vector_norm(rows[:1], dim=1)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_sharded_gradients_of_several_meshes_beside_ordinary_ones() -> None:
    meshes = [init_device_mesh("cpu", (1,)), init_device_mesh("cpu", (1, 1), mesh_dim_names=("a", "b"))["a"]]
    sharded = [distribute_tensor(torch.full((8,), 1e30), mesh, [Shard(0)]) for mesh in meshes]
    assert float(gradient_norm([*sharded, torch.ones(3)])) == pytest.approx(4e30)


# --- in a training ----------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """A loss of zero whose gradient is the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.w - self.w.detach()) * x).sum()


HUGE = [1e20, 1e25, 3e38]
"""Norms of gradients of which each element is finite, and the sum of squares in float32 is not."""


def run_of_train(norms: list[float], clip: float | str) -> tuple[list[StepRecord], TrainingStep]:
    model, average = Line(), Line()
    optimization = Optimization(lr=1e-3, grad_clip=clip, skip_threshold=-1)  # type: ignore[arg-type]

    def loss(x: Tensor, target: Tensor) -> Losses:
        return Losses(model(x), torch.zeros(()), model(x))

    engine = TrainingStep(model, average, loss, optimization, World(torch.device("cpu")), capacity=len(norms))
    for step, norm in enumerate(norms):
        x = torch.full((4,), norm / 2)
        engine(step, x, x)
    return engine.drain(), engine


@pytest.mark.medium
@pytest.mark.parametrize("clip", [5.0, "auto"])
@pytest.mark.parametrize("huge", HUGE)
def test_a_run_clips_such_a_gradient_and_goes_on(huge: float, clip: float | str) -> None:
    records, engine = run_of_train([1.0] * WARM_UP + [huge, 1.0], clip)
    assert not any(record.skipped for record in records)
    assert records[WARM_UP].clipped
    assert records[WARM_UP].grad_norm == pytest.approx(huge)
    moments = [value for state in engine.optimizer.state.values() for value in state.values()]
    assert all(bool(value.isfinite().all()) for value in (*moments, *engine.parameters))
    assert (
        max(float(value.abs().max()) for state in engine.optimizer.state.values() for value in [state["exp_avg"]]) < 5
    )


@pytest.mark.medium
@pytest.mark.parametrize("huge", HUGE)
def test_a_run_that_clips_nothing_keeps_such_a_gradient_from_its_optimizer(huge: float) -> None:
    records, engine = run_of_train([1.0, huge, 1.0], math.inf)
    assert [record.cause for record in records] == [None, "high_gradient", None]
    assert all(bool(v.isfinite().all()) for state in engine.optimizer.state.values() for v in state.values())


def guarded(norms: list[float], optimizer: type[torch.optim.Optimizer], **arguments: Any) -> tuple[Any, list[float]]:
    """A guard after steps of these norms, and how far each of them has moved the weights."""
    model = Line()
    moved: list[float] = []
    with vdvae_patch.guard(model, diagnose=False, **arguments) as guard:
        stepping = optimizer(model.parameters(), lr=1.0)  # type: ignore[call-arg]
        for norm in norms:
            before = model.w.detach().clone()
            stepping.zero_grad()
            model(torch.full((4,), norm / 2)).backward()
            stepping.step()
            moved.append(float((model.w.detach() - before).norm()))
        return guard, moved


@pytest.mark.parametrize("clip", [1.5, "auto"])
@pytest.mark.parametrize("huge", HUGE)
def test_a_guard_clips_such_a_gradient_and_goes_on(huge: float, clip: float | str) -> None:
    guard, moved = guarded([1.0] * WARM_UP + [huge, 1.0], torch.optim.SGD, clip=clip)
    assert not guard.skips
    assert moved == pytest.approx([1.0] * WARM_UP + [1.5 if clip == 1.5 else 2.0, 1.0], rel=1e-4)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("huge", HUGE)
def test_a_guard_that_clips_nothing_skips_it_and_says_why(
    huge: float, optimizer: type[torch.optim.Optimizer], capsys: pytest.CaptureFixture[str]
) -> None:
    guard, moved = guarded([1.0, huge, 1.0], optimizer)
    assert [(skip.step, skip.cause) for skip in guard.skips] == [(1, "high_gradient")]
    assert guard.skips[0].norm == pytest.approx(huge)
    assert [distance > 0 for distance in moved] == [True, False, True]
    assert "whose square overflows in float32" in capsys.readouterr().err


def test_the_largest_norm_that_is_applied_without_clipping_is_one_that_adam_can_square() -> None:
    _, moved = guarded([0.9 * LARGEST, 1.1 * LARGEST, 1.0], torch.optim.Adam)
    assert [distance > 0 for distance in moved] == [True, False, True]


@pytest.mark.parametrize(("clip", "applied"), [(5.0, True), (None, False)])
def test_a_run_of_an_ensemble_does_the_same(clip: float | None, applied: bool) -> None:
    class Given(Line):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            rate = super().forward(x)
            return {"elbo": rate, "rate": rate, "distortion": torch.zeros(())}

    batches = lambda seeds, step: (torch.full((len(seeds), 4), 1e25),)  # noqa: E731
    ensemble = Ensemble([Run(0, 1e-3)], lambda run: Given(), batches, Rule(clip=clip, skip=math.inf), how="loop")
    ensemble.train(1)
    assert bool(ensemble.stack.flat.detach().any()) == applied
    assert bool(ensemble.stack.flat.isfinite().all())
