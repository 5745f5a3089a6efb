"""A run's folder: who may write in it, and what lies where."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tomli_w

from vdvae_patch.errors import RunError
from vdvae_patch.skips.records import decode, encode
from vdvae_patch.train.config import RunFile, TrainConfig, changed
from vdvae_patch.validation import checked, parse_json

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
    "adam_beta1", "adam_beta2", "checkpoint_every", "compile", "device", "ema_rate", "epochs", "evaluate_every",
    "grad_clip", "lr", "max_consecutive_skips", "precision", "record_every", "record_skips", "samples_every",
    "skip_threshold", "steps", "tensorboard", "test_images", "warmup_iters", "watch_every", "wd",
}  # fmt: skip


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
    def trajectory(self) -> Path:
        """The way through the information plane, of a run with a decoder or an objective."""
        return self.path / "trajectory.png"

    @property
    def summary(self) -> Path:
        """Written when the run has ended."""
        return self.path / "summary.json"

    def close(self) -> None:
        """Let others have the folder."""
        if self.lock is not None:
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


def run_around(path: Path) -> Path | None:
    """The nearest folder that holds a run, of `path` and those that it lies in."""
    folders = (path.absolute(), *path.absolute().parents)
    return next((f for f in folders if os.path.exists(f / LOCK) and os.path.exists(f / "config.toml")), None)


def write_config(folder: RunFolder, config: TrainConfig[Any], seen: Mapping[str, Any]) -> None:
    """Write `config.toml`: what the run was told, and under `[run]` what it saw (code, machine, data, host)."""
    table = config.to_toml() | {"run": dict(seen)}
    table.pop("resume", None)
    write_whole(folder.config, tomli_w.dumps(table))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write one JSON object, whole or not at all; floats that are not finite as strings."""
    write_whole(path, json.dumps(encode(dict(record)), indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error})") from None
    found = checked(parse_json(data, str(path), RunError), dict[str, Any], str(path), RunError)
    record: dict[str, Any] = decode(found)
    return record


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one move."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written: {error.strerror}") from error


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
    """`"grad_clip 5 (was 0.4), skip_threshold -1 (was 400)"`: what a continuation is told anew, or empty."""
    before = RunFile.read(folder.config).config(type(config.architecture)).settings()
    now = config.settings()
    return ", ".join(
        f"{key} {_value(now.get(key))} (was {_value(before.get(key))})"
        for key in sorted({*before, *now} - _PLACES)
        if before.get(key) != now.get(key)
    )


def begun_with(folder: RunFolder, config: TrainConfig[Any]) -> Path | None:
    """The `--weights` that the run in the folder was told."""
    return RunFile.read(folder.config).config(type(config.architecture)).weights


def _value(value: object) -> str:
    if value is None:
        return "not given"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_resumable(config: TrainConfig[Any]) -> None:
    """Raise `RunError` if there is no run in the folder, or one with another model or other batches."""
    file = RunFile.read(RunFolder(config.folder).config)
    differences = changed(file.config(type(config.architecture)), config, _MAY_CHANGE)
    if differences:
        raise RunError(
            f"folder {config.folder} holds a run with other settings ({'; '.join(differences)}); "
            "these make another model or other batches: resume without them, or choose another --out"
        )
