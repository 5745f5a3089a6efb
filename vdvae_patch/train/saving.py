"""What a checkpoint of a run holds, and how the run takes it up again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.outside import fingerprint
from vdvae_patch.outside import put as put_outside
from vdvae_patch.skips.audit import Audit
from vdvae_patch.skips.counted import COUNTS, read_counts, write_counts
from vdvae_patch.skips.generators import generator_states, restore_generators
from vdvae_patch.skips.records import Cut, in_words, last_number, truncate_after
from vdvae_patch.train import checkpoint, flight
from vdvae_patch.train.checkpoint import CheckpointInfo
from vdvae_patch.train.config import RunFile, TrainConfig
from vdvae_patch.train.folder import RunFolder, check_resumable, write_config
from vdvae_patch.train.resumable import Contents, of_checkpoint, require_moments, require_seams, require_weights_of
from vdvae_patch.train.run import Counters, Run
from vdvae_patch.train.setup import Workload, require_host, require_variant
from vdvae_patch.train.step import TrainingStep
from vdvae_patch.train.world import World
from vdvae_patch.train.writer import off_device


@dataclass(frozen=True)
class Position:
    """Where a run goes on.

    Attributes:
        logs: how many lines each log has had, of rank 0.
        problems: what was found lost or damaged in the logs.
    """

    step: int
    counters: Counters
    global_batch: int
    logs: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def save(run: Run, done: int) -> None:
    """Write a checkpoint after `done` steps; every rank must call this, for each has its own random states.

    Raises:
        RunError: it, or the one before it, could not be written.
    """
    states = run.world.gather_objects(generator_states(run.world.device))
    outside = run.work.outside.moved(also=run.work.outside.drawn_anew)
    of_ranks = run.world.gather_objects(off_device(outside.values))
    if run.logs is None:
        return
    if run.folder.is_gone:
        run.say_once(
            f"note: {run.folder.path} was renamed or deleted: checkpoints, recordings and the summary are from now on "
            "in a new folder of that name, and the logs where it went; put them together before it is read or resumed"
        )
    if outside.lost:
        run.say_once(f"note: {not_kept(outside.lost)}")
    run.logs.sync()
    info = replace(
        run.work.checkpoint_info(done, finite=run.counters.last_finite, nelbo=run.counters.nelbo),
        run=run.id,
        counts=run.logs.counts() | _skips(asdict(run.counters)),
    )
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
    if any(of_ranks) or outside.lost:
        state["outside"] = {"ranks": of_ranks, "lost": dict(outside.lost)}
    if run.engine.scaler is not None:
        state["loss_scale"] = run.engine.scaler.state_dict()
    if run.engine.usual_norm is not None:
        state["usual_norm"] = run.engine.usual_norm.state_dict()
    folder = run.folder.checkpoints

    def write(copied: Mapping[str, Any]) -> None:
        checkpoint.save(folder, info, copied)
        checkpoint.prune(folder)
        if "checkpointed" not in run.seen:  # so that a folder that is gone is not taken for one that never was
            run.seen["checkpointed"] = done
            write_config(run.folder, run.config, run.seen)

    run.writer.submit(state, write)


def restore(
    folder: RunFolder,
    config: TrainConfig[Any],
    work: Workload,
    engine: TrainingStep,
    world: World,
    say: Callable[[str], None],
) -> Position | None:
    """Load the newest good checkpoint on every rank, and cut the logs there; None for a run that has none yet.

    Raises:
        CheckpointError: all of them are damaged, or the newest is of another variant or another run.
        RunError: the ranks do not see the same file, or there must have been a checkpoint and none is to be seen.
    """
    expected = work.checkpoint_info(0, finite=True, nelbo=None)
    read: list[checkpoint.Found] = []  # by rank 0, to choose it: what it has read it need not read again
    chosen = world.on_main(lambda: choose(folder, config, expected, say, read.append))
    if chosen is None:
        return None
    info, state = (read[0].info, read[0].state) if read else checkpoint.load(chosen.path)
    contents = of_checkpoint(state, chosen.path, info.step)
    require_moments(state["optimizer"], engine.optimizer, chosen.path)
    for name, model in (("model", work.model), ("ema", work.ema)):
        require_weights_of(model, state[name], chosen.path, name)
    require_seams(state, work.seams_state().get("seams", {}), work.seams_ranges(), chosen.path)
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
    _restore_outside(contents, work, world, say)
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
    return Position(info.step, contents.counters, position.global_batch, chosen.logs, chosen.problems)


def not_kept(lost: Mapping[str, str]) -> str:
    """A sentence on what has moved in a model outside of its `state_dict`, and is in no file."""
    named = ", ".join(f"{name} ({what})" for name, what in [*lost.items()][:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return (
        f"the model keeps {named}{more} outside of its state_dict, which no checkpoint can hold: a run that is resumed "
        "goes on without, and is the same to the bit only if no later step reads it"
    )


def _restore_outside(contents: Contents, work: Workload, world: World, say: Callable[[str], None]) -> None:
    """What the model kept outside of its `state_dict`, as this rank had it; of another number of ranks, as the first.

    Raises:
        CheckpointError: a value is none that was saved here, or of another model, or does not stay what it was.
    """
    saved = contents.outside
    if saved is None:
        return
    where = f"checkpoint {contents.path}.outside"
    values = saved.ranks[world.rank if len(saved.ranks) == world.size else 0]
    put_outside(work.model, values, where)
    now = work.outside.moved(also=values.keys()).values
    for name, value in values.items():
        if name not in now or fingerprint(now[name]) != fingerprint(value):
            raise CheckpointError(f"{where}: {name} could not be put back as it was")
    if saved.lost:
        say(f"note: {not_kept(saved.lost)}")


_NAMED = 5


@dataclass(frozen=True)
class Chosen:
    """The checkpoint that a run goes on from, how many lines its logs have had, and what is wrong with them."""

    path: Path
    logs: dict[str, int]
    problems: tuple[str, ...]


def cut_logs(
    folder: RunFolder, step: int, file: RunFile | None = None, expected: Mapping[str, int] | None = None
) -> dict[str, Cut]:
    """Drop what was logged and recorded of steps from `step` on, and what killed writes left behind.

    Args:
        file: the run's configuration, which has its identity.
        expected: by the name of a log how many lines it had when `step` steps had been done.
    """
    known = expected or {}
    _count_down(folder.path, known)
    run, checked = ("", False) if file is None else (file.run, file.checks_logs)
    cuts = {
        log.stem: truncate_after(log, step, run=run, expected=known.get(log.stem), checked=checked)
        for log in (folder.metrics, folder.skips, folder.heads, folder.evaluations)
    }
    flight.drop_from(folder.recordings, step)
    for kept in (folder.checkpoints, folder.recordings):
        checkpoint.clean(kept)
    return cuts


def _count_down(folder: Path, known: Mapping[str, int]) -> None:
    """Let the count beside the logs say no more than they will have; before they are cut, for it never says more."""
    found = read_counts(folder)
    if not found.lines or not known:
        (folder / COUNTS).unlink(missing_ok=True)
    else:
        write_counts(folder, found.run, {name: min(count, known.get(name, 0)) for name, count in found.lines.items()})


def set_logs_aside(folder: RunFolder) -> Path | None:
    """Move logs and pictures of a run that begins again into a folder of their own; None if there are none."""
    logs = [log for log in (folder.metrics, folder.skips, folder.heads, folder.evaluations) if log.exists()]
    made = [log for log in logs if log.stat().st_size]
    if flight.recordings(folder.recordings):
        made.append(folder.recordings)
    if not made:
        return None
    if folder.samples.exists():
        made.append(folder.samples)
    number = 1
    while (target := folder.path / f"before-{number}").exists():
        number += 1
    if (folder.path / COUNTS).exists():
        made.append(folder.path / COUNTS)
    target.mkdir()
    for path in made:
        path.rename(target / path.name)
    return target


def choose(
    folder: RunFolder,
    config: TrainConfig[Any],
    expected: CheckpointInfo,
    say: Callable[[str], None],
    keep: Callable[[checkpoint.Found], None] = lambda found: None,
) -> Chosen | None:
    """The newest good checkpoint, with the logs cut there; None for a run that has none yet. Rank 0 calls it.

    Args:
        keep: gets the checkpoint with its state, which all the other ranks read for themselves.

    Raises:
        CheckpointError, RunError: as `restore` raises them; nothing has been cut then.
    """
    check_resumable(config)
    checkpoint.clean(folder.checkpoints)
    if not checkpoint.checkpoints(folder.checkpoints):
        kept = set_logs_aside(folder)
        where = "" if kept is None else f"; the logs of before are in {kept}"
        say(f"no checkpoint yet: starting again at step 0{where}")
        cut_logs(folder, 0)
        return None
    found = checkpoint.newest(folder.checkpoints)
    for problem in found.problems:
        say(f"{problem}; using {found.path.name}")
    file = RunFile.read(folder.config)
    # before anything is cut
    require_host(found.info, expected.host, found.path)
    require_variant(found.info, expected.variant, found.path)
    require_run(found.info, file, found.path)
    counted = _skips(asdict(of_checkpoint(found.state, found.path, found.info.step).counters))
    lines = found.info.counts or {"metrics": found.info.step, "skips": sum(counted.values())}
    cut_off = _cut_off(folder, file.run, lines)
    cuts = cut_logs(folder, found.info.step, file, lines)
    problems = [problem for cut in cuts.values() for problem in cut.problems]
    if not problems:
        problems = _disagreements(folder, counted, file.run)
    for name, cut in cuts.items():
        if cut.kept_aside:
            problems.append(f"what is damaged in {name}.jsonl is kept in {name}.jsonl.damaged")
    if cuts["metrics"].redone:
        first, last = min(cuts["metrics"].redone), max(cuts["metrics"].redone)
        say(f"going on after step {found.info.step}: steps {first + 1} to {last + 1} were logged and are done again")
    for line in (*cut_off, *problems, *(remark for cut in cuts.values() for remark in cut.remarks)):
        say(line)
    keep(found)
    return Chosen(found.path, {name: cut.count for name, cut in cuts.items()}, tuple(problems))


def _cut_off(folder: RunFolder, run: str, lines: Mapping[str, int]) -> list[str]:
    """What is missing at the ends of the logs of steps that are done again, so that nothing is lost by it."""
    found = read_counts(folder.path, run)
    said = [found.problem] if found.exists and found.problem else []
    for log in (folder.metrics, folder.skips, folder.heads, folder.evaluations):
        last, had = max(last_number(log), lines.get(log.stem, 0)), found.lines.get(log.stem, 0)
        if last < had:
            said.append(f"{log} lacks {in_words(last + 1, had)}, of steps that are done again")
    return said


def _skips(counters: Mapping[str, Any]) -> dict[str, int]:
    """How many updates each cause has skipped."""
    return {name: int(counters[name]) for name in ("high_gradient", "nan", "loss_scale")}


def _disagreements(folder: RunFolder, counted: Mapping[str, int], run: str) -> list[str]:
    """Where the logs, whose lines are all there and good, say something else than the checkpoint's counters."""
    said = []
    for log in (folder.metrics, folder.skips):
        causes = causes_logged(log, run)
        found = {
            "high_gradient": causes["high_gradient"],
            "nan": causes["nan_rate"] + causes["nan_distortion"],
            "loss_scale": causes["loss_scale"],
        }
        said += [
            f"{log} has {found[name]} skipped updates for {name}, and the checkpoint counted {counted[name]}"
            for name in counted
            if found[name] != counted[name]
        ]
    return said


def causes_logged(log: Path, run: str) -> Counter[str]:
    """How many updates each cause has skipped, as a log has it; none where there is no such log."""
    if not log.exists():
        return Counter()
    logged = (cause for columns in Audit(log, run).columns(("cause",)) for cause in columns.of("cause"))
    return Counter(cause for cause in logged if isinstance(cause, str))


def require_run(info: CheckpointInfo, file: RunFile, path: Path) -> None:
    """Refuse a checkpoint of another run; a run that was begun without an identity may have some without.

    Raises:
        CheckpointError: naming both.
    """
    if info.run == file.run or (not info.run and (not file.run or "adopted" in file.seen)):
        return
    raise CheckpointError(
        f"checkpoint {path} is of run {info.run or 'without an identity'}, and {file.path} of run "
        f"{file.run or 'without an identity'}: put the run's own checkpoints there; to begin with these weights, "
        f"--weights {path} with another --out"
    )
