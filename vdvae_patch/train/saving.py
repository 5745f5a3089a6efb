"""What a checkpoint of a run holds, and how the run takes it up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.generators import generator_states, restore_generators
from vdvae_patch.skips.records import truncate_after
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.folder import RunFolder
from vdvae_patch.train.resumable import of_checkpoint, require_moments, require_weights_of
from vdvae_patch.train.run import Counters, Run
from vdvae_patch.train.setup import Workload, require_host, require_variant
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World


@dataclass(frozen=True)
class Position:
    """Where a run goes on."""

    step: int
    counters: Counters
    global_batch: int


def save(run: Run, done: int) -> None:
    """Write a checkpoint after `done` steps; every rank must call this, for each has its own random states.

    Raises:
        RunError: it, or the one before it, could not be written.
    """
    states = run.world.gather_objects(generator_states(run.world.device))
    if run.logs is None:
        return
    run.logs.sync()
    info = run.work.checkpoint_info(done, finite=run.counters.last_finite, nelbo=run.counters.nelbo)
    state: dict[str, Any] = {
        "model": run.work.model.state_dict(),
        "ema": run.work.ema.state_dict(),
        "optimizer": run.engine.optimizer.state_dict(),
        "counters": asdict(run.counters),
        "generators": states,
        "position": {"step": done, "global_batch": run.global_batch, "ranks": run.world.size},
        "schedule": {"lr": run.config.optimization.learning_rate(done)},
        **run.work.seams_state(),
    }
    if run.engine.scaler is not None:
        state["loss_scale"] = run.engine.scaler.state_dict()
    if run.engine.usual_norm is not None:
        state["usual_norm"] = run.engine.usual_norm.state_dict()
    folder = run.folder.checkpoints

    def write(copied: Mapping[str, Any]) -> None:
        checkpoint.save(folder, info, copied)
        checkpoint.prune(folder)

    run.writer.submit(state, write)


def restore(
    folder: RunFolder, work: Workload, engine: TrainingStep, world: World, say: Callable[[str], None]
) -> Position | None:
    """Load the newest good checkpoint on every rank, and cut the logs there; None for a run that has none yet.

    Raises:
        CheckpointError: all of them are damaged, or the newest is of another variant.
        RunError: the ranks do not see the same file.
    """
    chosen = world.on_main(lambda: _choose(folder, say))
    if chosen is None:
        return None
    info, state = checkpoint.load(chosen)
    expected = work.checkpoint_info(0, finite=True, nelbo=None)
    require_host(info, expected.host, chosen)
    require_variant(info, expected.variant, chosen)
    contents = of_checkpoint(state, chosen, info.step)
    require_moments(state["optimizer"], engine.optimizer, chosen)
    for name, model in (("model", work.model), ("ema", work.ema)):
        require_weights_of(model, state[name], chosen, name)
    with contents.of("model, ema or seams"):
        work.load(state)
    with contents.of("optimizer"):
        engine.restore_optimizer(state["optimizer"])
    if engine.scaler is not None and "loss_scale" in state:  # not if it went on in another precision
        with contents.of("loss_scale"):
            engine.scaler.load_state_dict(state["loss_scale"])
    if engine.usual_norm is not None and "usual_norm" in state:  # not if it was clipped at a number so far
        with contents.of("usual_norm"):
            engine.usual_norm.load_state_dict(state["usual_norm"])
    position = contents.position
    if position.ranks != world.size:
        share, left_over = divmod(position.global_batch, world.size)
        if left_over:
            raise RunError(
                f"the run's batch of {position.global_batch} images does not divide among {world.size} ranks; "
                f"resume with a number of ranks that divides it (it had {position.ranks})"
            )
        say(
            f"step {info.step}: {world.size} ranks now, {position.ranks} before; the batch stays at "
            f"{position.global_batch} images, {share} a rank; the noise of the steps is another one from here on"
        )
    else:
        restore_generators(contents.generators[world.rank], world.device)
    return Position(info.step, contents.counters, position.global_batch)


def cut_logs(folder: RunFolder, step: int) -> None:
    """Drop what was logged and recorded of steps from `step` on, and what killed writes left behind."""
    for log in (folder.metrics, folder.skips, folder.heads, folder.evaluations):
        truncate_after(log, step)
    flight.drop_from(folder.recordings, step)
    for kept in (folder.checkpoints, folder.recordings):
        checkpoint.clean(kept)


def _choose(folder: RunFolder, say: Callable[[str], None]) -> Path | None:
    checkpoint.clean(folder.checkpoints)
    if not checkpoint.checkpoints(folder.checkpoints):
        say("no checkpoint yet: starting again at step 0")
        cut_logs(folder, 0)
        return None
    found = checkpoint.newest(folder.checkpoints)
    for problem in found.problems:
        say(f"{problem}; using {found.path.name}")
    cut_logs(folder, found.info.step)
    return found.path
