"""Checkpoints that are whole or not there, and never trusted without their checksum.

A checkpoint is a sealed folder `step-00001000`, see `skips.sealed`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.reading.fields import Between, record
from vdvae_patch.skips import sealed
from vdvae_patch.skips.sealed import FORMAT, MANIFEST, STATE, delete, set_aside

__all__ = ["FORMAT", "MANIFEST", "STATE", "CheckpointInfo", "Found", "delete", "load", "newest", "save", "set_aside"]

_WHAT = "checkpoint"


@dataclass(frozen=True)
class CheckpointInfo:
    """What lies beside the weights.

    Attributes:
        step: how many steps were done.
        host, variant, arithmetic: what was trained, and how it was patched.
        heads: the patched heads as rows of text: path, channels, role, convention, scale.
        finite: whether the last step before it had finite losses.
        nelbo: of these very weights on the images to validate, nats per dimension; None where that was not measured.
        run: the identity of the run; empty in checkpoints of before runs had any.
        counts: how many lines each log had, and how many updates each cause had skipped; empty there, too.
    """

    step: Annotated[int, Between(0, 2**53)]
    host: str
    variant: str
    arithmetic: str
    heads: tuple[tuple[str, ...], ...]
    finite: bool
    nelbo: float | None
    run: str = ""
    counts: dict[str, int] = field(default_factory=dict)


def save(folder: Path, info: CheckpointInfo, state: Mapping[str, Any], *, name: str | None = None) -> Path:
    """Write `folder/step-NNNNNNNN`, or `folder/name`, durably, and return it.

    Raises:
        RunError: no space left, or the folder cannot be written; earlier checkpoints are untouched.
    """
    final = folder / (name or f"step-{info.step:08d}")
    remedy = "the earlier ones are whole: {mend}, and --resume"
    return sealed.write(final, vars(info), state, what=_WHAT, remedy=remedy)


def load(path: Path) -> tuple[CheckpointInfo, dict[str, Any]]:
    """Read a checkpoint after checking every byte of it.

    Raises:
        CheckpointError: damaged, cut off, of another format, or not a checkpoint.
    """
    values, state = sealed.read(path, what=_WHAT)
    return _info(values, path), state


def read_manifest(path: Path) -> tuple[CheckpointInfo, dict[str, dict[str, Any]]]:
    """The manifest alone, checked against its own checksum; raises `CheckpointError`."""
    values, files = sealed.read_manifest(path, what=_WHAT)
    return _info(values, path), files


def lines_logged(folder: Path) -> dict[str, int]:
    """How many lines each log had, at least, at the newest checkpoint in `folder` whose manifest can be read."""
    for path in checkpoints(folder):
        try:
            info, _ = read_manifest(path)
        except CheckpointError:
            continue
        return {"metrics": info.step, **info.counts}
    return {}


def _info(values: dict[str, Any], path: Path) -> CheckpointInfo:
    return record(CheckpointInfo, values, f"{_WHAT} {path}: {MANIFEST}: info", CheckpointError)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, the newest first."""
    return sealed.numbered(folder, "step")[::-1]


def require_readable(folder: Path) -> None:
    """Tell a folder without checkpoints from one that cannot be seen; `checkpoints` finds none in either.

    Raises:
        RunError: it is a link to nowhere, no folder, or may not be read.
    """
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        if folder.is_symlink():
            raise RunError(
                f"{folder} is a link to {os.readlink(folder)}, which is not there: is its disk mounted? "
                "Whether the run has checkpoints cannot be told, and nothing is begun again"
            ) from None
    except OSError as error:
        raise RunError(
            f"{folder} cannot be read ({error.strerror}): whether the run has checkpoints cannot be told, and nothing "
            "is begun again; make it readable"
        ) from None


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is good, and what was wrong with newer ones."""

    path: Path
    info: CheckpointInfo
    state: dict[str, Any]
    problems: tuple[str, ...]


def newest(folder: Path) -> Found:
    """The newest good checkpoint; damaged ones are reported in `problems`.

    Raises:
        CheckpointError: there is none, or every one is damaged; the message names each file.
    """
    problems: list[str] = []
    for path in checkpoints(folder):
        try:
            info, state = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        return Found(path, info, state, tuple(problems))
    raise CheckpointError("; ".join(problems) or f"{folder} holds no checkpoint")


def prune(folder: Path, keep: int = 2) -> None:
    """Delete old checkpoints, but for the last `keep`, the last finite and the best one of those that were evaluated.

    Damaged ones do not count, and are left for somebody to look at.
    """
    infos: dict[Path, CheckpointInfo] = {}
    for path in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            infos[path] = read_manifest(path)[0]
    kept = set(list(infos)[:keep])
    kept.update([path for path, info in infos.items() if info.finite][:1])
    measured = {path: info.nelbo for path, info in infos.items() if info.nelbo is not None and info.nelbo == info.nelbo}
    if measured:
        kept.add(min(measured, key=lambda path: measured[path]))
    for path in set(infos) - kept:
        delete(path)


def clean(folder: Path) -> None:
    """Delete what killed processes left behind; the caller holds the run's lock."""
    for aside in folder.glob(".deleted-*"):
        # killed between setting the old one aside and putting the new one in its place
        original = folder / aside.name.removeprefix(".deleted-").rsplit("-", 1)[0]
        if not original.exists() and any(folder.glob(f".partial-{original.name}-*")):
            aside.rename(original)
    for pattern in (".partial-*", ".deleted-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)
