"""The training step of a workload, put together: compiled if asked for, over ranks, with the weights of before at hand.

`train`, its cost estimate and the benchmark all take it from here, so that what is measured is what is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from vdvae_patch.data.batches import steps_per_epoch
from vdvae_patch.train.compiled import compile_model
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.flight import WeightsBefore
from vdvae_patch.train.ranks import distribute
from vdvae_patch.train.run import drain_interval
from vdvae_patch.train.setup import Workload
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World


@dataclass(frozen=True)
class Engine:
    """The step, and the copy of the weights that it keeps where skipped updates are only seen later."""

    step: TrainingStep
    before: WeightsBefore | None


def make_engine(config: TrainConfig[Any], world: World, work: Workload) -> Engine:
    """The step of `config` for a workload."""
    passed = work.passed()
    built = compile_model(passed, world.device) if config.compile else passed
    run_model, local_gradient = distribute(built, world)
    loss = work.loss_of(run_model)
    if work.weighing is not None:
        work.weighing.set_epoch(steps_per_epoch(len(work.data.train), config.optimization.batch_size * world.size))
    capacity = drain_interval(config, world)
    step = TrainingStep(
        work.model, work.ema, loss, config.optimization, world, precision=config.precision, capacity=capacity
    )
    step.local_gradient = local_gradient
    followed = [*step.weights.storages(), *(work.weighing.floats() if work.weighing is not None else ())]
    before = WeightsBefore(followed) if config.record_skips and capacity > 1 else None
    step.before_update = before
    if work.weighing is not None:
        step.after_update = partial(work.weighing.settle, work.model)
    return Engine(step, before)
