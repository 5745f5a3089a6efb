"""A run while it goes: its parts, its counters, and which images belong to which step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vdvae_patch.data.batches import DeviceImages, batch_indices, rank_slice, steps_per_epoch
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.data.pixels import Indices
from vdvae_patch.outside import Snapshot, Snapshots
from vdvae_patch.skips.counted import write_counts
from vdvae_patch.skips.records import JsonLines, last_number
from vdvae_patch.train.board import Board
from vdvae_patch.train.compiled import KeptFunctions
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.flight import WeightsBefore
from vdvae_patch.train.folder import RunFolder
from vdvae_patch.train.head_watch import HeadWatch
from vdvae_patch.train.noise import noise_seed
from vdvae_patch.train.setup import Workload
from vdvae_patch.train.step import StepRecord, TrainingStep
from vdvae_patch.train.world import World
from vdvae_patch.train.writer import BackgroundWriter


@dataclass
class Counters:
    """What a run has seen so far; part of every checkpoint.

    Attributes:
        initial_share: how much of the averaged weights is still what they began with, whatever rates they were averaged
            at; None of a run that was begun by a version that did not count it.
    """

    high_gradient: int = 0
    nan: int = 0
    loss_scale: int = 0
    consecutive_skips: int = 0
    images: int = 0
    seconds: float = 0.0
    clipped: int = 0
    last_clip: float = math.inf
    last_finite: bool = True
    nelbo: float | None = None
    initial_share: float | None = None

    def add(self, record: StepRecord, images: int, ema_rate: float | None = None) -> None:
        """Count one step."""
        if self.initial_share is not None and ema_rate is not None and not record.skipped:
            self.initial_share *= ema_rate
        self.high_gradient += record.cause == "high_gradient"
        self.nan += record.cause in ("nan_rate", "nan_distortion")
        self.loss_scale += record.cause == "loss_scale"
        self.consecutive_skips = self.consecutive_skips + 1 if record.skipped else 0
        self.nelbo = None  # that of the weights of before
        self.last_finite = record.cause not in ("nan_rate", "nan_distortion")
        self.clipped += record.clipped
        self.last_clip = record.clip
        self.images += images

    def leave_out(self, seconds: float, images: int) -> None:
        """Do not count the time of a step that compiles, nor its images, in images a second."""
        self.seconds -= seconds
        self.images -= images

    @property
    def images_per_second(self) -> float:
        """Images over the time spent in steps."""
        return self.images / self.seconds if self.seconds else 0.0


_COUNT_EVERY = 10.0
"""Seconds after which steps are counted in the file beside the logs, where nothing rarer happens."""


class Logs:
    """The logs that grow with the steps; rank 0 has them."""

    def __init__(
        self,
        folder: RunFolder,
        board: Board | None,
        run: str = "",
        counts: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        after = counts or {}
        self._folder, self._clock = folder.path, clock
        self._told: dict[str, int] = {}
        self._when = 0.0
        self.metrics = JsonLines(folder.metrics, run=run, after=after.get("metrics", 0))
        self.skips = JsonLines(folder.skips, run=run, after=after.get("skips", 0))
        self.heads = JsonLines(folder.heads, run=run, after=after.get("heads", 0))
        self.board = board
        self._evaluations, self._run = folder.evaluations, run
        self._evaluated = max(after.get("evaluations", 0), last_number(folder.evaluations))
        self._count()

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Add to the log of evaluations, which a run without them does not have."""
        log = JsonLines(self._evaluations, run=self._run, after=self._evaluated)
        log.write(record)
        log.sync()
        log.close()
        self._evaluated = log.count

    def counts(self) -> dict[str, int]:
        """How many lines each log has had."""
        return {
            "metrics": self.metrics.count, "skips": self.skips.count, "heads": self.heads.count,
            "evaluations": self._evaluated,
        }  # fmt: skip

    def flush(self) -> None:
        """Hand what was written to the operating system, and write down how much it is: at once after a skipped update
        or an evaluation, else now and then."""
        for log in (self.metrics, self.skips, self.heads):
            log.flush()
        counts, told = self.counts(), self._told
        rare = any(counts[name] != told.get(name) for name in ("skips", "evaluations"))
        if rare or (counts != told and self._clock() - self._when >= _COUNT_EVERY):
            self._count()
        if self.board is not None:
            self.board.flush()

    def sync(self) -> None:
        """Wait until it is on the disk."""
        for log in (self.metrics, self.skips, self.heads):
            log.sync()
        self._count()

    def close(self) -> None:
        """Flush and close."""
        for log in (self.metrics, self.skips, self.heads):
            log.close()
        self._count()
        if self.board is not None:
            self.board.close()

    def _count(self) -> None:
        self._told, self._when = self.counts(), self._clock()
        write_counts(self._folder, self._run, self._told)


@dataclass
class Run:
    """Everything that a training loop works on.

    Attributes:
        global_batch: images a step over all ranks; fixed when the run is begun, whatever the number of ranks later.
        logs: None on all ranks but the first.
        seen: identity, code, machine, data, host and history, for the record.
        entry_disagrees: what the host's entry says that does not agree with itself, see `entry_agrees`.
        before: a copy of the weights that stops at a skipped update; None where none is needed.
    """

    config: TrainConfig[Any]
    world: World
    folder: RunFolder
    work: Workload
    engine: TrainingStep
    images: DeviceImages
    global_batch: int
    logs: Logs | None
    writer: BackgroundWriter
    watch: HeadWatch
    before: WeightsBefore | None
    seen: dict[str, Any]
    clock: Callable[[], float]
    say: Callable[[str], None]
    counters: Counters = field(default_factory=Counters)
    first_step: int = 0
    said_no_graph: bool = False
    said_lag: bool = False
    entry_disagrees: str = ""
    said: set[str] = field(default_factory=set)
    outside_before: dict[int, Snapshot] = field(default_factory=dict)
    """By the step, since the last time that steps were written down, what the model kept before it outside of its
    `state_dict`."""

    def say_once(self, text: str) -> None:
        """Say it, unless it was said."""
        if text not in self.said:
            self.said.add(text)
            self.say(text)

    def note_outside(self, step: int) -> None:
        """Keep what the model has before a step outside of its `state_dict`, for the case that it is skipped."""
        self.outside_before[step] = self._snapshots.take()

    @cached_property
    def _snapshots(self) -> Snapshots:
        return Snapshots(self.work.model)

    @cached_property
    def valid(self) -> DeviceImages:
        """The validation images, which stay on the device from the first evaluation on if they fit there."""
        return DeviceImages(self.work.data.valid, self.world.device)

    @cached_property
    def compiler(self) -> KeptFunctions | None:
        """What compiles the passes of an evaluation, once for all of them; None if nothing is to be compiled."""
        return KeptFunctions(self.world.device) if self.config.eval_compile else None

    @property
    def id(self) -> str:
        """The identity of the run, which its configuration, logs and checkpoints carry."""
        return str(self.seen.get("id", ""))

    @property
    def per_epoch(self) -> int:
        """Steps after which each image was seen once."""
        return steps_per_epoch(len(self.images), self.global_batch)

    @property
    def total(self) -> int:
        """Steps to train in all."""
        return self.config.total_steps(self.per_epoch)

    @property
    def record_every(self) -> int:
        """Steps between two looks at what waits on the device."""
        return drain_interval(self.config, self.world)

    def global_indices(self, step: int) -> Indices:
        """The images of a step, of all ranks."""
        return batch_indices(len(self.images), self.global_batch, step, self.config.seed)

    def indices(self, step: int) -> Indices:
        """The images of a step, of this rank."""
        return rank_slice(self.global_indices(step), self.world.rank, self.world.size)

    def batch(self, step: int) -> ModelBatch:
        """This rank's batch of a step."""
        draw = noise_seed("data", self.config.seed, rank=self.world.rank, step=step)
        return self.work.data.normalization.apply(self.images.take(self.indices(step)), draw)


def drain_interval(config: TrainConfig[Any], world: World) -> int:
    """Steps between two looks at what waits on the device: each look is a wait for it."""
    return config.record_every or (1 if world.device.type == "cpu" else 50)
