"""A run from its first step, or the one after its last checkpoint, to its summary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vdvae_patch.data.batches import DeviceImages, steps_per_epoch
from vdvae_patch.data.normalization import ModelBatch
from vdvae_patch.decoders import Optimal
from vdvae_patch.errors import RunError
from vdvae_patch.machine import peak_resident_bytes
from vdvae_patch.patching.decoder import likelihood_in
from vdvae_patch.train.accumulate import buffers_but_means, moved_in_each_part, shares_of_batch_norms
from vdvae_patch.train.agreement import apart, require_same, share_constants
from vdvae_patch.train.aside import aside
from vdvae_patch.train.board import Board
from vdvae_patch.train.compiled import keep_compiled_code
from vdvae_patch.train.config import RunFile, TrainConfig
from vdvae_patch.train.engine import make_engine
from vdvae_patch.train.entry_agrees import no_bound
from vdvae_patch.train.evaluate import NATS_PER_BIT, Evaluation, evaluate
from vdvae_patch.train.folder import (
    RunFolder,
    accepted_changes,
    check_resumable,
    measures_anew,
    open_folder,
    read_json,
    require_same_data,
    samples_name,
    take_up,
    write_config,
    write_json,
)
from vdvae_patch.train.head_watch import HeadWatch
from vdvae_patch.train.interrupts import StoppedError, StopRequest, stop_requests
from vdvae_patch.train.latent_summary import of_latents
from vdvae_patch.train.logbook import write_steps
from vdvae_patch.train.noise import seed_noise
from vdvae_patch.train.numerics import before_cuda, numerics
from vdvae_patch.train.progress import TrainingProgress
from vdvae_patch.train.provenance import provenance
from vdvae_patch.train.run import Counters, Logs, Run
from vdvae_patch.train.samples import sample_grid, write_png
from vdvae_patch.train.saving import Position, causes_logged, restore, save
from vdvae_patch.train.sessions import changes, identity, require_same_weights, session, weights_print
from vdvae_patch.train.setup import BuffersFollow, Workload, goes_on, prepare
from vdvae_patch.train.trajectory import draw_trajectory
from vdvae_patch.train.weighing import is_density, own_mass
from vdvae_patch.train.world import World, connect
from vdvae_patch.train.writer import BackgroundWriter

if TYPE_CHECKING:
    from launch.environment import restarts
else:
    from vdvae_patch.launch.environment import restarts

SAMPLE_COLUMNS = 8


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with its summary, or interrupted by a signal and ready to be resumed."""

    summary: dict[str, Any] | None
    interrupted: str | None = None
    is_main: bool = True


def train(config: TrainConfig[Any], *, clock: Callable[[], float] = time.perf_counter) -> Outcome:
    """Do a run, or go on with one; as one rank of several where a launcher started this process.

    Raises:
        RunError: the folder cannot be used, a rank is lost, or updates were skipped `max_consecutive_skips` times in a
            row.
        CheckpointError: nothing good to resume from, or a checkpoint of another variant.
        HostError, DataError, UnknownNameError, InvalidValueError, PatchError: as `prepare` raises them.
    """
    if restarts(os.environ) and (config.folder / "config.toml").exists():
        config = resumed(config)  # torchrun starts its ranks again with the command that they had
    before_cuda(config)
    with connect(config.device) as world, numerics(world.device, config.matmul, config.deterministic):
        if config.resume:
            world.on_main(lambda: check_resumable(config))  # before anything is downloaded or built
        work = prepare(config, world.device)
        require_same(config, work, world)
        if work.weighing is not None and work.weighing.classifier is not None:
            # what another rank made of the labels, with other threads, could differ in the last digits
            work.weighing.load(world.on_main(work.weighing.state))
        folder = _open(config, world)
        try:
            return _train(config, world, folder, work, clock)
        finally:
            folder.close()


def _train(
    config: TrainConfig[Any], world: World, folder: RunFolder, work: Workload, clock: Callable[[], float]
) -> Outcome:
    progress = TrainingProgress(f"{config.variant} seed {config.seed}", quiet=not world.is_main)
    share_constants(work, world, progress.say)
    run = _assemble(config, world, folder, work, clock, progress.say)
    try:
        with stop_requests() as stop:
            if _steps(run, progress, stop) and (outcome := _finish(run, progress, stop)) is not None:
                return outcome
            return Outcome(None, stop.signal or "another rank's signal")
    finally:
        progress.close()
        run.writer.close()
        if run.logs is not None:
            run.logs.close()


def _open(config: TrainConfig[Any], world: World) -> RunFolder:
    """The folder; rank 0 takes its lock."""
    taken: list[RunFolder] = []
    world.on_main(lambda: taken.append(open_folder(config, resume=config.resume)))
    return taken[0] if taken else RunFolder(config.folder)


def _assemble(
    config: TrainConfig[Any],
    world: World,
    folder: RunFolder,
    work: Workload,
    clock: Callable[[], float],
    say: Callable[[str], None],
) -> Run:
    made = make_engine(config, world, work)
    work.check_patch()  # what DDP and the compiler put around the model must not have taken it away
    engine, before = made.step, made.before
    if config.resume:
        world.on_main(lambda: _require_as_before(config, folder, work))
    position = restore(folder, config, work, engine, world, say) if config.resume else None
    position = position or Position(0, Counters(initial_share=1.0), _first_batch(config, world, folder))
    if work.weighing is not None:  # the batch stays what it was at the first launch, on however many ranks it goes on
        work.weighing.set_epoch(steps_per_epoch(len(work.data.train), position.global_batch))
    if position.counters.consecutive_skips >= config.max_consecutive_skips:
        position.counters.consecutive_skips = 0  # it had given up; that it is resumed is another chance
    total = config.total_steps(steps_per_epoch(len(work.data.train), position.global_batch))
    if position.step > total:
        raise RunError(f"the run in {folder.path} has done {position.step} steps, more than the {total} asked for")
    if config.resume and position.step == total:
        anew = world.on_main(lambda: measures_anew(folder, config, total))
        if anew:
            say(f"all {total} steps are done: measured again with {anew}")
    if position.step < total:
        # summary and last picture belong to the end; those of a shorter run must not pass for it if this one is killed
        world.on_main(lambda: take_up(folder, position.step))
    seen = provenance(world.device) | {
        "host": work.host.origin.record() | {"sources": work.host.sources},
        "data": _plain(asdict(work.data.provenance)),
    }
    seen |= {"ranks": world.size, "launcher": world.launcher, "global_batch": position.global_batch}
    seen = world.on_main(lambda: _history(config, folder, work, seen, position, say))
    world.on_main(lambda: write_config(folder, config, seen))
    board = None
    if config.tensorboard and world.is_main:
        logged = causes_logged(folder.skips, str(seen["id"])) if position.step else {}
        board = Board(folder.tensorboard, position.step, logged)
    logs = Logs(folder, board, str(seen["id"]), position.logs, clock) if world.is_main else None
    return Run(
        config, world, folder, work, engine, DeviceImages(work.data.train, world.device), position.global_batch,
        logs, BackgroundWriter(beside=world.device.type != "cpu"),
        HeadWatch(work.entry, work.model, work.latent_heads, engine, world), before, seen, clock, say,
        position.counters, position.step,
    )  # fmt: skip


def _require_as_before(config: TrainConfig[Any], folder: RunFolder, work: Workload) -> None:
    """Refuse to go on with other images, or to begin again with other weights, than the run saw."""
    seen = RunFile.read(folder.config).seen
    require_same_data(seen.get("data", {}), _plain(asdict(work.data.provenance)), folder.path)
    if config.weights is not None and not goes_on(config):
        require_same_weights(seen, weights_print(config.weights), config.weights)


def _history(
    config: TrainConfig[Any],
    folder: RunFolder,
    work: Workload,
    now: dict[str, Any],
    position: Position,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What the run saw when it began, and one entry for each session, of which none is overwritten; also said.

    Args:
        now: what this session sees.
    """
    for note in (*work.notes, *work.remarks):
        say(note)
    if note := shares_of_batch_norms(work.model, position.global_batch, config.accumulate, now["ranks"]):
        say(f"note: {note}")
    entry = session(now, position.step)
    if not config.resume:
        data = work.data.provenance
        say(
            f"{work.data.name}: {data.train_count:,} images to train on, {data.valid_count:,} to validate, "
            f"{data.test_count:,} to test ({data.split})"
        )
        for note in data.notes:
            say(note)
        if lag := config.optimization.averages_lag(
            config.total_steps(steps_per_epoch(len(work.data.train), position.global_batch))
        ):
            say(f"note: {lag}")
        began = now | {"id": identity(), "sessions": [entry]}
        if config.weights is not None:
            began["weights_sha256"] = weights_print(config.weights)
        return began | ({"weights": list(work.notes)} if work.notes else {})
    file = RunFile.read(folder.config)
    seen = now | file.seen  # what it saw first stays
    if "id" not in seen:  # begun by a version that gave none
        seen |= {"id": identity(), "adopted": position.step}
    sessions = list(seen.get("sessions") or [session(file.seen, 0) | {"began": "unknown"}])
    if different := changes(sessions[-1], entry):
        say(f"step {position.step}: goes on with {', '.join(different)}")
        entry["changes"] = different
    if position.problems:
        entry["problems"] = list(position.problems)
    if told := accepted_changes(folder, config):
        line = f"step {position.step}: {told}"
        say(line)
        seen["resumed"] = [*seen.get("resumed", []), line]
    return seen | {"sessions": [*sessions, entry]}


def _first_batch(config: TrainConfig[Any], world: World, folder: RunFolder) -> int:
    """Images a step of a run without a checkpoint: as at its first launch, even if it is resumed on other ranks."""
    batch = config.optimization.batch_size * world.size
    if config.resume:
        batch = int(RunFile.read(folder.config).seen.get("global_batch", batch))
    return batch


def _steps(run: Run, progress: TrainingProgress, stop: StopRequest) -> bool:
    """All steps that are left; whether they were done, or a signal asked to stop."""
    config, alone = run.config, run.world.size == 1
    progress.begin(run.total, run.first_step)
    buffers_follow = BuffersFollow(run.work.model, run.work.ema)
    started = run.clock()
    for step in range(run.first_step, run.total):
        run.world.mark()
        x, target = run.batch(step)
        if _due(step, config.watch_every):
            seed_noise("train", config.seed, rank=run.world.rank, step=step)
            run.watch.look(step, run.work.entry.read(ModelBatch(x, target)))
        seed_noise("train", config.seed, rank=run.world.rank, step=step)
        began = run.clock()
        run.note_outside(step)
        buffers = buffers_but_means(run.work.model) if step == run.first_step and config.accumulate > 1 else None
        run.engine(step, x, target, stop=bool(stop))
        if buffers is not None:
            _say_moved_in_parts(run, progress, buffers)
        if step == run.first_step and config.compile:
            _say_compiled(run, progress, run.clock() - began)
        buffers_follow()
        done = step + 1
        due = _due(done, config.checkpoint_every) or _due(done, config.samples_every)
        due = due or _due(done, config.evaluate_every) or _due(done, run.record_every)
        if due or done == run.total or (alone and stop):
            last = write_steps(run, partial(_since, run.clock, started))
            counters = run.counters
            progress.update(last, counters.high_gradient, counters.nan, counters.images_per_second, counters.loss_scale)
            run.work.check_patch()
            _say_problem(run, progress)
            _between(run, done)
            started = run.clock()
        elif done + 1 < run.total:
            run.images.prefetch(run.indices(done))
        if (stop if alone else run.engine.stop_agreed) and done < run.total:
            save(run, done)
            run.writer.wait()
            progress.say(f"{stop.signal or 'a signal to another rank'} after step {done}: saved; go on with --resume")
            return False
    return True


def _say_compiled(run: Run, progress: TrainingProgress, seconds: float) -> None:
    folder = keep_compiled_code()
    kept = "" if folder is None else f"; the code is kept in {folder}"
    progress.say(f"compiled in the first step, which took {seconds:.1f} s and is not part of images a second{kept}")
    run.counters.leave_out(seconds, run.global_batch)


def _say_moved_in_parts(run: Run, progress: TrainingProgress, buffers: Mapping[str, Tensor]) -> None:
    moved = run.work.outside.moved()
    names = sorted([*(moved.values.keys() - moved.computed), *moved.lost])
    if said := moved_in_each_part(buffers, run.work.model, names, run.config.accumulate):
        progress.say(f"note: {said}")


def _say_problem(run: Run, progress: TrainingProgress) -> None:
    graph = run.engine.graph
    if graph is not None and graph.problem and not run.said_no_graph:
        run.said_no_graph = True
        progress.say(f"the step is not one CUDA graph, and is launched piece by piece: {graph.problem}")


def _since(clock: Callable[[], float], moment: float) -> float:
    return clock() - moment


def _due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def _between(run: Run, done: int) -> None:
    config = run.config
    if _due(done, config.evaluate_every):
        result = _evaluate(run, run.valid, limit=0)
        run.counters.nelbo = result.elbo
        lags = _sigma_of_first_batch(run)
        if run.logs is not None:
            run.logs.evaluation({"step": done - 1, **result.record(), **lags})
            if run.logs.board is not None:
                run.logs.board.evaluation(done - 1, result.elbo, result.elbo_bits)
    if _due(done, config.samples_every):
        _draw_samples(run, run.folder.samples / samples_name(done))
    if _due(done, config.checkpoint_every) and done < run.total:
        save(run, done)


def _evaluate(run: Run, images: DeviceImages, *, limit: int, final: bool = False) -> Evaluation:
    work, weighing = run.work, run.work.weighing
    work.let_average_follow()
    if names := apart(work.ema, run.world):
        run.say_once(
            f"note: {', '.join(names)}: parameters without a gradient that the model moves by itself, on each rank by "
            "its own images. Ranks train with their own, and those of rank 0 are measured and saved; let the model "
            "average them over ranks, or make them buffers, which all take from rank 0 before each step"
        )
    # at the end a density of the host's own is measured by mass, too, so that one table can hold all
    own = own_mass(work.host, work.ema) if final and weighing is None else None
    return evaluate(
        work.entry, work.ema, images, work.data.normalization,
        batch_size=run.config.eval_batch or run.config.optimization.batch_size, seed=run.config.seed, limit=limit,
        world=run.world, weighing=weighing or own, only_mass=weighing is None, precision=run.config.eval_precision,
        compiler=run.compiler,
    )  # fmt: skip


def _draw_samples(run: Run, path: Path) -> None:
    if not run.world.is_main:
        return
    columns = range(min(SAMPLE_COLUMNS, len(run.images)))
    pixels = run.images.take(torch.tensor(list(columns)).numpy())
    run.work.let_average_follow()
    with aside(run.work.ema):
        grid = sample_grid(run.work.entry, run.work.ema, pixels, run.work.data.normalization, seed=run.config.seed)
    write_png(path, grid)


def _finish(run: Run, progress: TrainingProgress, stop: StopRequest) -> Outcome | None:
    """What comes after the last step; None where a signal ended it, of one process alone: ranks wait for each other."""
    if run.first_step == run.total and (kept := run.world.on_main(lambda: _summary(run))) is not None:
        return Outcome(kept, is_main=run.world.is_main)
    save(run, run.total)  # before anything that may fail or be interrupted: the training is done
    run.writer.wait()
    if run.world.size > 1:
        return _measured(run)
    try:
        with stop.at_once():
            return _measured(run)
    except StoppedError:
        progress.say(f"{stop.signal} after the last step: all steps are saved; --resume measures what came of them")
        return None


def _measured(run: Run) -> Outcome:
    """Samples, the test images and the summary, of a training that is done and saved."""
    _draw_samples(run, run.folder.final)
    images = DeviceImages(run.work.data.test, run.world.device)
    test = _evaluate(run, images, limit=run.config.test_images, final=True)
    counters = run.counters
    summary = {
        "variant": run.config.variant,
        "seed": run.config.seed,
        "steps": run.total,
        "parameters": sum(p.numel() for p in run.work.model.parameters()),
        "high_gradient_count": counters.high_gradient,
        "nan_count": counters.nan,
        "loss_scale_count": counters.loss_scale,
        "grad_clip": run.config.optimization.grad_clip,
        "last_clip": counters.last_clip,
        "clipped_count": counters.clipped,
        "initial_share": counters.initial_share,
        "test_nelbo_nats_per_dim": test.elbo,
        "test_nelbo_bits_per_dim": test.elbo_bits,
        "test": test.record(),
        **_likelihood(run.work),
        **_by_mass(test),
        **_sigma_lags(run.work),
        **of_latents(run.work, run.config, run.world, test.elbo),
        "images_per_second": counters.images_per_second,
        **_disagreements(run, test),
        "peak_memory_bytes": peak_memory(run.world.device),
        "train_seconds": counters.seconds,
        "logs": {} if run.logs is None else run.logs.counts(),
        "run": run.seen,
    }
    run.world.on_main(lambda: write_json(run.folder.summary, summary, checksum=True))
    if run.logs is not None and run.work.weighing is not None:
        run.logs.flush()
        draw_trajectory(run.folder.metrics, run.folder.trajectory, f"{run.config.variant} seed {run.config.seed}")
    return Outcome(summary, is_main=run.world.is_main)


def _disagreements(run: Run, test: Evaluation) -> dict[str, dict[str, str]]:
    """What the host's entry says that does not agree with itself, where float32 can tell."""
    own = run.work.weighing is None and run.config.eval_precision == "fp32"
    bound = no_bound(test.elbo, test.distortion, test.rate) if own else ""
    found = {name: said for name, said in (("bound", bound), ("heads", run.entry_disagrees)) if said}
    return {"entry_disagrees": found} if found else {}


def _summary(run: Run) -> dict[str, Any] | None:
    """The summary of a run that had ended; one that cannot be trusted is put aside, and made again."""
    if not run.folder.summary.exists():
        return None
    try:
        kept = read_json(run.folder.summary)
        found = str(kept.get("run", {}).get("id", ""))
        problem = f"{run.folder.summary} is of run {found}, not {run.id}" if found and found != run.id else ""
    except RunError as error:
        problem = str(error)
    if not problem:
        return kept
    aside = run.folder.summary.with_name("summary.json.damaged")
    run.folder.summary.replace(aside)
    run.say(f"{problem}; it is kept as {aside.name}, and made again")
    return None


def _likelihood(work: Workload) -> dict[str, str]:
    """Whether the NELBO is of a density or of discrete values; nothing where a host does not say so."""
    density = is_density(work.host, work.ema)
    return {} if density is None else {"likelihood": "density" if density else "discrete"}


def _optimal(work: Workload) -> Optimal | None:
    """The decoder of the averaged weights, if its σ is a running mean."""
    likelihood = likelihood_in(work.ema)
    return likelihood.decoder if likelihood is not None and isinstance(likelihood.decoder, Optimal) else None


def _sigma_of_first_batch(run: Run) -> dict[str, float]:
    """How much of the σ of a validation is still the first batch's, where that is much; also said, the first time."""
    optimal = _optimal(run.work)
    share = 0.0 if optimal is None else optimal.first_share()
    if optimal is None or not share:
        return {}
    if not run.said_lag:
        run.said_lag = True
        run.say(f"note: of the NELBO of the validation images: {optimal.lag()}")
    return {"sigma_of_first_batch": share}


def _sigma_lags(work: Workload) -> dict[str, str]:
    """That the σ of the test is a running mean that has not come far; nothing where it is none, or has."""
    optimal = _optimal(work)
    said = "" if optimal is None else optimal.lag()
    return {"sigma_lags": said} if said else {}


def _by_mass(test: Evaluation) -> dict[str, float]:
    if test.mass_elbo is None:
        return {}
    return {
        "test_mass_nelbo_nats_per_dim": test.mass_elbo,
        "test_mass_nelbo_bits_per_dim": test.mass_elbo / NATS_PER_BIT,
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, or the most that the process held in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def _plain(value: Any) -> Any:
    """For TOML: no None, no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def resumed(config: TrainConfig[Any]) -> TrainConfig[Any]:
    """The configuration that goes on with the same run."""
    return replace(config, resume=True)
