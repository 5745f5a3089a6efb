"""A guard's folder: of which model it is, and the identity that the lines of its log and its recordings carry."""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vdvae_patch.errors import GuardError
from vdvae_patch.skips.records import JsonLines, short, stream

LOG = "skips.jsonl"


@dataclass(frozen=True)
class GuardFolder:
    """Where a guard writes.

    Attributes:
        id: of the folder, so that files of two guards that are put together are told apart; a guard that goes on in a
            folder takes that of the one before. Empty for one that a version without identities began.
    """

    path: Path
    id: str

    def log(self) -> JsonLines:
        """`skips.jsonl`, to be written on."""
        return JsonLines(self.path / LOG, run=self.id)


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
    before = identity(out / LOG)
    if before is None:
        before = "" if recorded else short(uuid.uuid4().hex)  # with recordings and no log, whose they are is not known
    return GuardFolder(out, before)


def identity(log: Path) -> str | None:
    """The identity that a guard's log carries, that of its first whole line; None if there is none."""
    return next((line.run or "" for line in stream(log) if line.record is not None), None)
