"""A run from its first step, or the one after its last checkpoint, to its summary."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from vdvae_patch.data.batches import DeviceImages, batch_indices, rank_slice, steps_per_epoch
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.data.pixels import Indices
from vdvae_patch.errors import RunError
from vdvae_patch.hosts.preset import Losses
from vdvae_patch.train import checkpoint
from vdvae_patch.train.compiled import compile_model
from vdvae_patch.train.config import TrainConfig
from vdvae_patch.train.evaluate import Evaluation, evaluate
from vdvae_patch.train.folder import RunFolder, open_folder, read_json, write_config, write_json
from vdvae_patch.train.interrupts import StopRequest, stop_requests
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.probe import probe_heads
from vdvae_patch.train.progress import TrainingProgress
from vdvae_patch.train.provenance import provenance
from vdvae_patch.train.records import JsonLines, truncate_after
from vdvae_patch.train.samples import sample_grid, write_png
from vdvae_patch.train.setup import Workload, buffers_follow, prepare, require_variant
from vdvae_patch.train.step import StepRecord, TrainingStep
from vdvae_patch.train.world import World, resolve_device

SAMPLE_COLUMNS = 8


@dataclass
class Counters:
    """What a run has seen so far; part of every checkpoint."""

    high_gradient: int = 0
    nan: int = 0
    loss_scale: int = 0
    consecutive_skips: int = 0
    images: int = 0
    seconds: float = 0.0
    last_finite: bool = True
    nelbo: float | None = None

    def add(self, record: StepRecord, images: int) -> None:
        """Count one step."""
        self.high_gradient += record.cause == "high_gradient"
        self.nan += record.cause in ("nan_rate", "nan_distortion")
        self.loss_scale += record.cause == "loss_scale"
        self.consecutive_skips = self.consecutive_skips + 1 if record.skipped else 0
        self.last_finite = record.cause not in ("nan_rate", "nan_distortion")
        self.images += images

    @property
    def images_per_second(self) -> float:
        """Images over the time spent in steps."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with its summary, or interrupted by a signal and ready to be resumed."""

    summary: dict[str, Any] | None
    interrupted: str | None = None


@dataclass
class _Run:
    config: TrainConfig[Any]
    world: World
    folder: RunFolder
    work: Workload
    engine: TrainingStep
    images: DeviceImages
    metrics: JsonLines
    skips: JsonLines
    seen: dict[str, Any]
    clock: Callable[[], float]
    counters: Counters = field(default_factory=Counters)
    first_step: int = 0

    @property
    def batch_size(self) -> int:
        return self.config.optimization.batch_size * self.world.size

    @property
    def per_epoch(self) -> int:
        return steps_per_epoch(len(self.images), self.batch_size)

    @property
    def total(self) -> int:
        return self.config.total_steps(self.per_epoch)

    @property
    def record_every(self) -> int:
        return self.config.record_every or (1 if self.world.device.type == "cpu" else 50)

    def indices(self, step: int) -> Indices:
        everyone = batch_indices(len(self.images), self.batch_size, step, self.config.seed)
        return rank_slice(everyone, self.world.rank, self.world.size)

    def batch(self, step: int) -> ModelBatch:
        return self.work.data.normalization.apply(self.images.take(self.indices(step)))


def train(config: TrainConfig[Any], *, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """Do a run, or go on with one.

    Raises:
        RunError: the folder cannot be used, or updates were skipped `max_consecutive_skips` times in a row.
        CheckpointError: nothing good to resume from, or a checkpoint of another variant.
        HostError, DataError, UnknownNameError, InvalidValueError, PatchError: as `prepare` raises them.
    """
    world = World(resolve_device(config.device))
    work = prepare(config, world.device)
    folder = open_folder(config, resume=config.resume)
    try:
        run = _assemble(config, world, folder, work, clock)
        with stop_requests() as stop:
            return _finish(run) if _steps(run, stop) else Outcome(None, stop.signal)
    finally:
        folder.close()


def _assemble(
    config: TrainConfig[Any], world: World, folder: RunFolder, work: Workload, clock: Callable[[], float]
) -> _Run:
    run_model = compile_model(work.model, world.device) if config.compile else work.model

    def loss(x: torch.Tensor, target: torch.Tensor) -> Losses:
        return work.entry.losses(run_model, x, target)  # type: ignore[arg-type]

    capacity = config.record_every or (1 if world.device.type == "cpu" else 50)
    engine = TrainingStep(
        work.model, work.ema, loss, config.optimization, world, precision=config.precision, capacity=capacity
    )
    seen = provenance(world.device) | {"host": work.host.origin.record(), "data": _plain(asdict(work.data.provenance))}
    first_step, counters = _restore(config, folder, work, engine) if config.resume else (0, Counters())
    write_config(folder, config, seen)
    return _Run(
        config, world, folder, work, engine, DeviceImages(work.data.train, world.device),
        JsonLines(folder.metrics), JsonLines(folder.skips), seen, clock, counters, first_step,
    )  # fmt: skip


def _restore(
    config: TrainConfig[Any], folder: RunFolder, work: Workload, engine: TrainingStep
) -> tuple[int, Counters]:
    found = checkpoint.newest(folder.checkpoints)
    for problem in found.problems:
        print(f"{problem}; using {found.path.name}")
    expected = work.checkpoint_info(0, finite=True, nelbo=None)
    require_variant(found.info, expected.variant, found.path)
    state = found.state
    work.model.load_state_dict(state["model"])
    work.ema.load_state_dict(state["ema"])
    engine.optimizer.load_state_dict(state["optimizer"])
    if engine.scaler is not None:
        engine.scaler.load_state_dict(state["loss_scale"])
    for log in (folder.metrics, folder.skips, folder.evaluations):
        truncate_after(log, found.info.step)
    return found.info.step, Counters(**state["counters"])


def _steps(run: _Run, stop: StopRequest) -> bool:
    """All steps that are left; whether they were done, or a signal asked to stop."""
    config = run.config
    label = f"{config.variant} seed {config.seed}"
    progress = TrainingProgress(label, run.total, run.first_step)
    started = run.clock()
    try:
        for step in range(run.first_step, run.total):
            x, target = run.batch(step)
            seed_noise("train", config.seed, rank=run.world.rank, step=step)
            run.engine(step, x, target)
            for buffer, average in buffers_follow(run.work.model, run.work.ema):
                average.copy_(buffer)
            done = step + 1
            due = _due(done, config.checkpoint_every) or _due(done, config.samples_every)
            if _due(done, run.record_every) or done == run.total or due or stop:
                _record(run, progress, run.clock() - started)
                _between(run, done)
                started = run.clock()
            elif done + 1 < run.total:
                run.images.prefetch(run.indices(done))
            if stop and done < run.total:
                _save(run, done)
                progress.say(f"{label}: {stop.signal} after step {done}: saved; go on with --resume")
                return False
        return True
    finally:
        progress.close()
        run.metrics.close()
        run.skips.close()


def _due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def _record(run: _Run, progress: TrainingProgress, seconds: float) -> None:
    """Write the steps since the last time; `seconds` is what they took together."""
    records = run.engine.drain()
    run.counters.seconds += seconds
    for record in records:
        run.counters.add(record, run.batch_size)
        row = asdict(record) | {"epoch": record.step // run.per_epoch, "skipped": record.skipped}
        row.pop("bad_ranks")
        run.metrics.write(row | {"step_time": seconds / len(records)})
        if record.skipped:
            run.skips.write(_explain(run, record, exact=len(records) == 1))
            run.skips.flush()
        if run.counters.consecutive_skips >= run.config.max_consecutive_skips:
            run.metrics.flush()
            raise RunError(_diagnosis(run, record))
    run.metrics.flush()
    counters = run.counters
    progress.update(records[-1], counters.high_gradient, counters.nan, counters.images_per_second)


def _explain(run: _Run, record: StepRecord, *, exact: bool) -> dict[str, Any]:
    """A skipped update's record. `exact` is false where later updates have moved the weights that are looked at."""
    seed_noise("train", run.config.seed, rank=run.world.rank, step=record.step)
    states = probe_heads(run.work.entry, run.work.model, run.work.heads, run.batch(record.step).input)
    everyone = batch_indices(len(run.images), run.batch_size, record.step, run.config.seed)
    return {
        "step": record.step,
        "epoch": record.step // run.per_epoch,
        "cause": record.cause,
        "ranks": list(record.bad_ranks),
        "elbo": record.elbo,
        "distortion": record.distortion,
        "rate": record.rate,
        "grad_norm": record.grad_norm,
        "indices": everyone.tolist(),
        "heads_exact": exact,
        "heads": [asdict(state) for state in states],
    }


def _diagnosis(run: _Run, last: StepRecord) -> str:
    counters = run.counters
    return (
        f"{counters.consecutive_skips} updates in a row were skipped (the last for {last.cause}, gradient norm "
        f"{last.grad_norm:g}): this run no longer learns. So far {counters.high_gradient} high-gradient and "
        f"{counters.nan} NaN skips; the heads at each are in {run.folder.skips}. Try --variant explin/constant, "
        "a lower --lr, or a higher --max-consecutive-skips"
    )


def _between(run: _Run, done: int) -> None:
    config = run.config
    if _due(done, config.evaluate_every):
        result = _evaluate(run, DeviceImages(run.work.data.valid, run.world.device), limit=0)
        run.counters.nelbo = result.elbo
        log = JsonLines(run.folder.evaluations)
        log.write({"step": done - 1, **asdict(result)})
        log.close()
    if _due(done, config.samples_every):
        _draw_samples(run, f"step-{done:08d}.png")
    if _due(done, config.checkpoint_every) and done < run.total:
        _save(run, done)


def _save(run: _Run, done: int) -> None:
    run.metrics.sync()
    run.skips.sync()
    info = run.work.checkpoint_info(done, finite=run.counters.last_finite, nelbo=run.counters.nelbo)
    state = {
        "model": run.work.model.state_dict(),
        "ema": run.work.ema.state_dict(),
        "optimizer": run.engine.optimizer.state_dict(),
        "counters": asdict(run.counters),
    }
    if run.engine.scaler is not None:
        state["loss_scale"] = run.engine.scaler.state_dict()
    checkpoint.save(run.folder.checkpoints, info, state)
    checkpoint.prune(run.folder.checkpoints)


def _evaluate(run: _Run, images: DeviceImages, *, limit: int) -> Evaluation:
    return evaluate(
        run.work.entry, run.work.ema, images, run.work.data.normalization,
        batch_size=run.config.optimization.batch_size, seed=run.config.seed, limit=limit,
    )  # fmt: skip


def _draw_samples(run: _Run, name: str) -> None:
    columns = range(min(SAMPLE_COLUMNS, len(run.images)))
    pixels = run.images.take(torch.tensor(list(columns)).numpy())
    grid = sample_grid(run.work.entry, run.work.ema, pixels, run.work.data.normalization, seed=run.config.seed)
    write_png(run.folder.samples / name, grid)


def _finish(run: _Run) -> Outcome:
    if run.first_step == run.total and run.folder.summary.exists():
        return Outcome(read_json(run.folder.summary))
    _draw_samples(run, "final.png")
    test = _evaluate(run, DeviceImages(run.work.data.test, run.world.device), limit=run.config.test_images)
    run.counters.nelbo = test.elbo
    run.metrics = JsonLines(run.folder.metrics)
    run.skips = JsonLines(run.folder.skips)
    _save(run, run.total)
    counters = run.counters
    summary = {
        "variant": run.config.variant,
        "seed": run.config.seed,
        "steps": run.total,
        "high_gradient_count": counters.high_gradient,
        "nan_count": counters.nan,
        "loss_scale_count": counters.loss_scale,
        "test_nelbo_nats_per_dim": test.elbo,
        "test_nelbo_bits_per_dim": test.elbo_bits,
        "test": asdict(test),
        "images_per_second": counters.images_per_second,
        "peak_memory_bytes": peak_memory(run.world.device),
        "train_seconds": counters.seconds,
        "run": run.seen,
    }
    write_json(run.folder.summary, summary)
    return Outcome(summary)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, or the most that the process held in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plain(value: Any) -> Any:
    """For TOML: no None, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def resumed(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The configuration that goes on with the same run."""
    return replace(config, resume=True)
