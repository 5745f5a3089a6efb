"""The training step of a workload, put together: compiled if asked for, over ranks, with the weights of before at hand.

`train`, its cost estimate and the benchmark all take it from here, so that what is measured is what is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from vdvae_patch.data.batches import steps_per_epoch
from vdvae_patch.errors import InvalidValueError
from vdvae_patch.train.buffers import untrained
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
    """The step of `config` for a workload.

    Raises:
        InvalidValueError: a setting that this device or this variant cannot have.
    """
    _check_parts(config, work)
    passed = work.passed()
    whole = is_one_graph(config, world)
    built = compile_model(passed, world.device, graphs=not whole) if config.compile else passed
    run_model, local_gradient = distribute(built, world)
    loss = work.loss_of(run_model)
    if work.weighing is not None:
        work.weighing.set_epoch(steps_per_epoch(len(work.data.train), config.optimization.batch_size * world.size))
    capacity = drain_interval(config, world)
    step = TrainingStep(
        work.model, work.ema, loss, config.optimization, world, precision=config.precision, capacity=capacity,
        parts=config.accumulate,
    )  # fmt: skip
    if local_gradient is not None:
        step.alone = run_model.no_sync  # type: ignore[assignment]
    step.local_gradient = local_gradient
    followed = [*step.weights.storages(), *(work.weighing.floats() if work.weighing is not None else ())]
    before = WeightsBefore(followed) if config.record_skips and capacity > 1 else None
    step.before_update = before
    if work.weighing is not None:
        step.after_update = partial(work.weighing.settle, work.model)
    if whole:
        step.as_graph(
            lambda: [
                *work.model.buffers(),
                *(owner[name] for owner, name in untrained(work.model)),
                *(() if work.weighing is None else work.weighing.buffers()),
            ],
            moves=work.moved_in_python,
        )
    return Engine(step, before)


def _check_parts(config: TrainConfig[Any], work: Workload) -> None:
    batch, parts = config.optimization.batch_size, config.accumulate
    if batch % parts:
        raise InvalidValueError(f"--accumulate {parts} does not divide --batch-size {batch}; take a number that does")
    if parts > 1 and work.weighing is not None:
        raise InvalidValueError(
            f"--accumulate {parts}: decoders, objectives and top priors such as those of {config.variant} move once an "
            "update by what they saw of the whole batch; leave it out"
        )


def is_one_graph(config: TrainConfig[Any], world: World) -> bool:
    """Whether the whole step is captured as one CUDA graph: on one GPU, compiled or asked for by name.

    Raises:
        InvalidValueError: it is asked for by name, and cannot be.
    """
    possible = world.device.type == "cuda" and world.size == 1
    if config.cuda_graph and not possible:
        what = f"{world.size} ranks" if world.device.type == "cuda" else f"device {world.device}"
        raise InvalidValueError(f"--cuda-graph is for one process on one GPU, not for {what}; leave it out")
    return possible and (config.compile or config.cuda_graph)
