"""What a run would cost, from a few of its own steps: `train --dry-run`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from vdvae_patch.data.batches import DeviceImages, batch_indices, steps_per_epoch
from vdvae_patch.train import checkpoint
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.folder import RunFolder
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.numerics import before_cuda, numerics
from vdvae_patch.train.provenance import machine
from vdvae_patch.train.setup import prepare
from vdvae_patch.train.world import World, resolve_device


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        ranks: processes that the estimate is for; their exchange of gradients is not in the measured step.
        images: seen in training, over all ranks.
        step_seconds: measured here, on one rank.
        checkpoint_bytes: of one checkpoint.
        notes: what there is to say of the data, a sentence each.
        done: steps that a run which is to be resumed has done, by its newest checkpoint.
    """

    label: str
    ranks: int
    steps: int
    images: int
    parameters: int
    step_seconds: float
    checkpoint_bytes: int
    machine: str
    notes: tuple[str, ...] = ()
    done: int = 0

    @property
    def hours(self) -> float:
        """Expected for what is left to do, without evaluation and samples."""
        return max(0, self.steps - self.done) * self.step_seconds / 3600

    @property
    def left_out(self) -> str:
        """What takes time in a run and is not in `hours`."""
        parts = "evaluation, samples" if self.ranks > 1 else "evaluation and samples"
        return f"without {parts}{' and the exchange of gradients' if self.ranks > 1 else ''}"

    @property
    def _of_the_rest(self) -> str:
        return f" for the {max(0, self.steps - self.done):,} that are not done yet" if self.done else ""

    def __str__(self) -> str:
        return (
            f"{self.label}: {self.steps:,} steps of {self.images // self.steps} images on {self.ranks} rank(s), "
            f"{self.images:,} images; {self.parameters:,} parameters; {self.step_seconds:.3f} s a step measured on "
            f"{self.machine}: {spoken(self.hours)}{self._of_the_rest}, {self.left_out}; "
            f"{self.checkpoint_bytes / 1e6:,.1f} MB a checkpoint" + "".join(f"\n{note}" for note in self.notes)
        )


def spoken(hours: float) -> str:
    """`11.2 hours`, `3.4 minutes`, `14.0 seconds`: in the largest unit of which there is one or more."""
    for unit, in_hours in (("hours", 1.0), ("minutes", 60.0)):
        if hours * in_hours >= 1:
            return f"{hours * in_hours:,.1f} {unit}"
    return f"{hours * 3600:.1f} seconds"


def estimate(
    config: TrainConfig[Any],
    *,
    measured: int = 3,
    limit_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Build the model and do a few steps; nothing is written, and nothing downloaded.

    One step that does not count, since it also prepares, and then `measured` that do. No step begins after
    `limit_seconds`: of a model for which the first one takes that long, the first one is the measure.

    Raises:
        HostError, DataError, RunError, UnknownNameError, InvalidValueError, PatchError: as the run itself would.
    """
    before_cuda(config)
    world = World(resolve_device(config.device))
    with numerics(world.device, config.matmul, config.deterministic):
        return _estimate(config, world, measured, limit_seconds, clock)


def _estimate(
    config: TrainConfig[Any], world: World, measured: int, limit_seconds: float, clock: Callable[[], float]
) -> Estimate:
    work = prepare(config, world.device, for_estimate=True)
    engine = make_engine(config, world, work).step
    images = DeviceImages(work.data.train, world.device)
    batch_size = config.optimization.batch_size
    seconds: list[float] = []
    while len(seconds) <= measured and sum(seconds) < limit_seconds:
        step, start = len(seconds), clock()
        seed_noise("train", config.seed, step=step)
        indices = batch_indices(len(images), batch_size, step, config.seed)
        engine(step, *work.data.normalization.apply(images.take(indices)))
        engine.drain()
        seconds.append(clock() - start)
    global_batch = batch_size * config.nproc
    steps = config.total_steps(steps_per_epoch(len(images), global_batch))
    parameters = sum(p.numel() for p in work.model.parameters())
    return Estimate(
        f"{config.preset} {config.variant} seed {config.seed}", config.nproc, steps, steps * global_batch, parameters,
        statistics.median(seconds[1:] or seconds), checkpoint_bytes(work.model), machine(world.device),
        work.data.provenance.notes,
        steps_done(config),
    )  # fmt: skip


def steps_done(config: TrainConfig[Any]) -> int:
    """Of a run that is to be resumed, by its newest checkpoint; none of any other."""
    return checkpoint.lines_logged(RunFolder(config.folder).checkpoints).get("metrics", 0) if config.resume else 0


def checkpoint_bytes(model: nn.Module) -> int:
    """Weights and buffers, and those of the average; of what is trained Adam's two moments, of the same type. A buffer
    that is not persistent, as a mask that is made anew, is in no checkpoint."""
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    persistent = {
        id(b): b.nbytes
        for module in model.modules()
        for name, b in module._buffers.items()
        if b is not None and name not in module._non_persistent_buffers_set
    }
    return 2 * (sum(p.nbytes for p in model.parameters()) + sum(persistent.values()) + trained)
