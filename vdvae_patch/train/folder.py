"""A run's folder: who may write in it, and what lies where."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tomli_w

from vdvae_patch.errors import RunError
from vdvae_patch.skips.counted import at_least, read_counts
from vdvae_patch.skips.records import read_log
from vdvae_patch.skips.whole import json_record, json_text, with_comment, write_whole
from vdvae_patch.train import checkpoint
from vdvae_patch.train.config import RunFile, TrainConfig, changed

__all__ = ["RunFolder", "open_folder", "read_json", "run_around", "write_config", "write_json", "write_whole"]

# Where things are, and how many processes there are: may differ, and the log has no need to say it.
_PLACES = frozenset(
    {
        "allow_modified_upstream", "allow_other_variant", "data_root", "dry_run", "nproc", "out", "patches", "resume",
        "upstream", "weights",
    }
)  # fmt: skip
# What may differ between a run and its continuation: how it is trained, how long, and how often it is looked at; never
# the model, nor which images a step has.
_MAY_CHANGE = _PLACES | {
    "adam_beta1", "adam_beta2", "checkpoint_every", "compile", "cuda_graph", "deterministic", "device", "ema_rate",
    "epochs", "eval_batch", "eval_compile", "eval_precision", "evaluate_every", "grad_clip", "importance_images",
    "importance_samples", "lr", "matmul",
    "max_consecutive_skips", "precision", "record_every", "record_skips", "samples_every", "skip_threshold", "steps",
    "tensorboard", "test_images", "warmup_iters", "watch_every", "wd",
}  # fmt: skip


# What decides the weights that come out, and what decides the numbers that are measured of them.
_TRAINED = frozenset(
    {
        "adam_beta1", "adam_beta2", "deterministic", "ema_rate", "grad_clip", "lr", "matmul", "precision",
        "skip_threshold", "warmup_iters", "wd",
    }
)  # fmt: skip
_MEASURED = frozenset(
    {"eval_batch", "eval_compile", "eval_precision", "importance_images", "importance_samples", "test_images"}
)


_WITH = "resumed with "


LOCK = "run.lock"
COMPARISON_LOCK = "compare.lock"
"""What the folder of a comparison has, and that of a run has not."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run and their places. `open_folder` makes it and takes the lock; other ranks have none."""

    path: Path
    lock: IO[str] | None = None

    @property
    def config(self) -> Path:
        """What the run was told, and what it saw."""
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        """One record a step."""
        return self.path / "metrics.jsonl"

    @property
    def skips(self) -> Path:
        """One record a skipped update."""
        return self.path / "skips.jsonl"

    @property
    def heads(self) -> Path:
        """One record each time that the heads were looked at."""
        return self.path / "heads.jsonl"

    @property
    def recordings(self) -> Path:
        """What is needed to do a skipped update again; one folder each."""
        return self.path / "recordings"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def evaluations(self) -> Path:
        """One record an evaluation on the validation images."""
        return self.path / "evaluations.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints' folder."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The sample grids' folder."""
        return self.path / "samples"

    @property
    def final(self) -> Path:
        """The sample grid after the last step."""
        return self.samples / "final.png"

    @property
    def trajectory(self) -> Path:
        """The way through the information plane, of a run with a decoder or an objective."""
        return self.path / "trajectory.png"

    @property
    def summary(self) -> Path:
        """Written when the run has ended."""
        return self.path / "summary.json"

    def lines_logged(self, run: str) -> tuple[dict[str, int], str]:
        """How many lines each log has had at least, by the newest checkpoint and by the count beside the logs; and what
        is wrong with that count, empty if nothing is, or if it is not there, as of runs that an older version began."""
        counted = read_counts(self.path, run)
        problem = counted.problem if counted.exists else ""
        return at_least(checkpoint.lines_logged(self.checkpoints), counted.lines), problem

    @property
    def is_gone(self) -> bool:
        """Whether what this process took is no longer under its path, since it was renamed or deleted: what is opened
        by the path from now on is made in a new folder, and what is open already stays in the old one."""
        return self.lock is not None and not os.path.exists(self.path / LOCK)

    def close(self) -> None:
        """Let others have the folder."""
        if self.lock is not None:
            with contextlib.suppress(OSError):  # of a disk that went away; what ended the run is to be heard
                self.lock.close()


def open_folder(config: TrainConfig[Any], *, resume: bool) -> RunFolder:
    """Take a folder for a run, or take a run up again.

    Raises:
        RunError: it holds another run or a comparison, it lies inside a run's folder, another process works in it, the
            run in it was told something else than `config` says, there is nothing to resume, or it cannot be written.
    """
    path = config.folder
    if os.path.exists(path / COMPARISON_LOCK):  # asked before there is a lock: nothing is left in the other's folder
        raise RunError(f"folder {path} holds a comparison, and a run needs a folder of its own; choose another --out")
    if (outer := run_around(path.absolute().parent)) is not None:
        raise RunError(f"folder {path} is inside that of a run ({outer}); choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("a+")
    except OSError as error:
        raise RunError(f"folder {path} cannot be used: {error.strerror}") from None
    _take(lock, path)
    folder = RunFolder(path, lock)
    try:
        if resume:
            check_resumable(config)
        elif folder.config.exists():
            state = "finished" if folder.summary.exists() else "unfinished"
            raise RunError(f"folder {path} holds a run already ({state}); choose another --out, or go on with --resume")
        elif unknown := sorted(p.name for p in path.iterdir() if p.name not in (LOCK, "log.txt")):
            raise RunError(f"folder {path} is not empty (it holds {unknown[0]!r}); choose another --out")
    except BaseException:
        folder.close()
        raise
    return folder


def take_up(folder: RunFolder, step: int) -> None:
    """Let a folder say no more of an end that its run has had, nor of steps that are done again.

    The last picture of the end before gets the name of its step; pictures of later steps than `step` are deleted, with
    the summary and the trajectory, which are made anew.
    """
    try:
        ended = read_json(folder.summary).get("steps")
    except RunError:
        ended = None
    if folder.final.exists():
        if isinstance(ended, int) and ended <= step:
            folder.final.replace(folder.samples / samples_name(ended))
        else:
            folder.final.unlink()
    for path in folder.samples.glob("step-*.png"):
        digits = path.stem.removeprefix("step-")
        if digits.isdecimal() and int(digits) > step:
            path.unlink()
    folder.trajectory.unlink(missing_ok=True)
    folder.summary.unlink(missing_ok=True)


def samples_name(done: int) -> str:
    """The file of the sample grid after so many steps."""
    return f"step-{done:08d}.png"


def holder(path: Path) -> str | None:
    """The process that works in a run's folder, as its lock says; None if none does."""
    try:
        with (path / LOCK).open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "unknown"
    except OSError:
        return None
    return None


def run_around(path: Path) -> Path | None:
    """The nearest folder that holds a run, of `path` and those that it lies in."""
    folders = (path.absolute(), *path.absolute().parents)
    return next((f for f in folders if os.path.exists(f / LOCK) and os.path.exists(f / "config.toml")), None)


def write_config(folder: RunFolder, config: TrainConfig[Any], seen: Mapping[str, Any]) -> None:
    """Write `config.toml`: what the run was told, and under `[run]` what it saw (code, machine, data, host)."""
    table = config.to_toml() | {"run": dict(seen)}
    table.pop("resume", None)
    write_whole(folder.config, with_comment(tomli_w.dumps(table)))


def write_json(path: Path, record: Mapping[str, Any], *, checksum: bool = False) -> None:
    """Write one JSON object, whole or not at all; floats that are not finite as strings."""
    write_whole(path, json_text(record, checksum=checksum))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        RunError: it is missing or damaged.
    """
    return read_checked(path)[0]


def read_checked(path: Path) -> tuple[dict[str, Any], bool]:
    """Read what `write_json` wrote, and whether a checksum vouches for it.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from None
    return json_record(data, path)


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise RunError(f"folder {path} is in use by another run (process {owner})") from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def accepted_changes(folder: RunFolder, config: TrainConfig[Any]) -> str:
    """`"resumed with grad_clip 5 (was 0.4), lr 0.1 (was 0.2)"`: what a continuation is told anew, or empty."""
    told = ", ".join(_changes(folder, config).values())
    return f"{_WITH}{told}" if told else ""


def _changes(folder: RunFolder, config: TrainConfig[Any]) -> dict[str, str]:
    before = RunFile.read(folder.config).config(type(config.architecture)).settings()
    now = config.settings()
    return {
        key: f"{key} {_value(now.get(key))} (was {_value(before.get(key))})"
        for key in sorted({*before, *now} - _PLACES)
        if before.get(key) != now.get(key)
    }


def trained_otherwise(seen: Mapping[str, Any]) -> list[str]:
    """The resumptions of a run from which on it was trained otherwise: its settings are those of its last piece alone.

    Args:
        seen: `[run]` of its `config.toml`.
    """
    lines = seen.get("resumed")
    told = [str(line) for line in lines] if isinstance(lines, list) else []
    return [line for line in told if {part.split(" ")[0] for part in line.partition(_WITH)[2].split(", ")} & _TRAINED]


def measures_anew(folder: RunFolder, config: TrainConfig[Any], steps: int) -> str:
    """Of a run that has done all of its steps: what it is told anew of how it is measured, or empty.

    Its summary is of the old way then, and is deleted.

    Raises:
        RunError: it is told anew how to train, which no step would follow, and its files would say that all did.
    """
    changes = _changes(folder, config)
    if late := [text for key, text in changes.items() if key in _TRAINED]:
        raise RunError(
            f"the run in {folder.path} has done all of its {steps} steps, and {', '.join(late)} would change none of "
            "them: resume without, or with more --steps"
        )
    told = ", ".join(text for key, text in changes.items() if key in _MEASURED)
    if told:
        folder.summary.unlink(missing_ok=True)
    return told


def _value(value: object) -> str:
    if value is None:
        return "not given"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_resumable(config: TrainConfig[Any]) -> None:
    """Make sure that the folder holds a run that `config` goes on with.

    Raises:
        RunError: there is none, or one with another model, other batches or other first weights; or it had checkpoints,
            and none is to be seen.
    """
    folder = RunFolder(config.folder)
    file = RunFile.read(folder.config)
    before = file.config(type(config.architecture))
    differences = changed(before, config, _MAY_CHANGE)
    if differences:
        raise RunError(
            f"folder {config.folder} holds a run with other settings ({'; '.join(differences)}); "
            "these make another model or other batches: resume without them, or choose another --out"
        )
    if config.weights is not None and not _same_place(config.weights, before.weights):
        raise RunError(
            f"--weights {config.weights}: the run in {config.folder} began with "
            f"{before.weights or 'weights of its seed'} and goes on with its own; resume without "
            "--weights, or choose another --out"
        )
    checkpoint.require_readable(folder.checkpoints)
    if not checkpoint.checkpoints(folder.checkpoints) and (evidence := _of_checkpoints(folder, file)):
        raise RunError(
            f"{folder.checkpoints} holds no checkpoint, but {evidence}: was it renamed or moved, or is a disk not "
            "mounted? Put it back; to begin again from step 0 choose another --out"
        )


def _of_checkpoints(folder: RunFolder, file: RunFile) -> str:
    """What shows that the run has saved a checkpoint; empty if nothing does."""
    if "checkpointed" in file.seen:
        return f"{folder.config} says that one was saved after step {file.seen['checkpointed']}"
    if folder.summary.exists():
        return f"{folder.summary} is there, which is written after the last one"
    every = file.told.get("checkpoint_every", 0)
    steps = read_log(folder.metrics).count
    # one may be killed in the middle of its first save, a few steps later where it is written beside the training
    if isinstance(every, int) and 0 < 2 * every <= steps:
        return f"{folder.metrics} has {steps} steps, and one was due every {every}"
    return ""


def _same_place(a: Path, b: Path | None) -> bool:
    return b is not None and Path(a).expanduser().absolute() == Path(b).expanduser().absolute()


def require_same_data(
    seen: Mapping[str, Any],
    now: Mapping[str, Any],
    path: Path,
    remedy: str = "resume with the same data, or choose another --out",
) -> None:
    """Refuse to go on with other images than the run saw.

    Args:
        seen, now: the provenance of the data, then and now, as plain values.
        path: the run's folder.
        remedy: what can be done, for the message.

    Raises:
        RunError: what differs.
    """
    what = {"train_count": "training images", "valid_count": "images to validate", "test_count": "images to test"}
    differ = [
        f"{now[key]} {name}, {seen[key]} then" for key, name in what.items() if key in seen and seen[key] != now[key]
    ]
    prints = {
        "fingerprint": "training images", "held_out_fingerprint": "images to validate and to test",
        "whole_fingerprint": "training images", "held_out_whole_fingerprint": "images to validate and to test",
    }  # fmt: skip
    others: dict[str, str] = {}  # said once, although both of a kind differ
    for key, name in prints.items():
        if seen.get(key) and now.get(key) and seen[key] != now[key]:
            others.setdefault(name, f"other {name} (SHA-256 {str(now[key])[:12]}, {str(seen[key])[:12]} then)")
    differ += others.values()
    if differ:
        raise RunError(
            f"the images are not those that the run in {path} saw: {'; '.join(differ)}. It saw {seen.get('source')}, "
            f"and now there is {now.get('source')}; {remedy}"
        )
