"""A guard's folder: of which model it is, and the identity that the lines of its log and its recordings carry."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from vdvae_patch.errors import GuardError
from vdvae_patch.skips.audit import Audit
from vdvae_patch.skips.counted import Counted, read_counts, write_counts
from vdvae_patch.skips.records import JsonLines, short, stream

LOG = "skips.jsonl"
_NAME = "skips"


@dataclass(frozen=True)
class GuardFolder:
    """Where a guard writes.

    Attributes:
        path: absolute, since a training may go to another folder on its way.
        id: of the folder, so that files of two guards that are put together are told apart; a guard that goes on in a
            folder takes that of the one before. Empty for one that a version without identities began.
        counted: how many lines its log has had, as the file beside it says.
    """

    path: Path
    id: str
    counted: Counted = field(default_factory=Counted)

    def log(self) -> JsonLines:
        """`skips.jsonl`, to be written on."""
        remedy = "the training goes on without it; {mend}"
        return JsonLines(self.path / LOG, run=self.id, after=self.counted.lines.get(_NAME, 0), remedy=remedy)

    def count(self, log: JsonLines) -> None:
        """Write down beside a log how many lines it has had; raises `RunError`."""
        write_counts(self.path, self.id, {_NAME: log.count})

    def problems(self) -> list[str]:
        """What is wrong with the log of the guard before, each with file and line; raises `RunError`."""
        log = Audit(self.path / LOG, self.id, checked=bool(self.id))
        deque(log.records(), maxlen=0)
        said = log.problems(self.counted.lines.get(_NAME))
        return [self.counted.problem, *said] if self.counted.problem and self.id and log.good else said


def open_folder(out: Path, model: nn.Module) -> GuardFolder:
    """The folder, made.

    Raises:
        GuardError: it cannot be made, is a run's, or holds recorded skips of another class of model.
    """
    if (out / "config.toml").exists():
        raise GuardError(f"{out} is the folder of a run of `vdvae-patch train`; name another one for the guard")
    recorded = False
    for manifest in sorted(out.glob("skip-*/manifest.json")):
        recorded = True
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one is for `replay` to say
            other = json.loads(manifest.read_text(encoding="utf-8"))["info"]["model_class"]
            if other != type(model).__name__:
                raise GuardError(
                    f"{out} holds recorded skips of a {other}, and this is a {type(model).__name__}; name another one"
                )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuardError(f"the guard's folder {out} cannot be made: {error.strerror}; name another one") from error
    found = as_it_lies(out)
    if found is None:  # with recordings and no log, whose they are is not known
        found = GuardFolder(out, "" if recorded else short(uuid.uuid4().hex))
    return found


def near(path: Path) -> Path:
    """A path as it is typed in the current folder: whole, where it does not lie in it."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):  # the current folder may be gone
        return path


def as_it_lies(out: Path) -> GuardFolder | None:
    """A guard's folder, to be looked at; None if neither its log nor the count beside it says whose it is."""
    own = identity(out / LOG)
    counted = read_counts(out, own or "")
    if own is None and not counted.run:
        return None
    return GuardFolder(out, counted.run if own is None else own, counted)


def identity(log: Path) -> str | None:
    """The identity that a guard's log carries, that of its first whole line; None if there is none."""
    return next((line.run or "" for line in stream(log) if line.record is not None), None)
