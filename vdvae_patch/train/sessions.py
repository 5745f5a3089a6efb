"""The history of a run: its identity, and one session for each time that a process took it up."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.sealed import MANIFEST
from vdvae_patch.train.shards import files_of, index_of
from vdvae_patch.train.weight_files import split_choice

VERSIONS = (
    "version",
    "commit",
    "sources",
    "python",
    "torch",
    "numpy",
    "machine",
    "threads",
    "float32",
    "deterministic",
)
"""What may change between two sessions, is said then, and is written down."""


def identity() -> str:
    """The identity of a new run: 32 hexadecimal digits, drawn by the operating system."""
    return uuid.uuid4().hex


def session(seen: Mapping[str, Any], step: int) -> dict[str, Any]:
    """One entry of the history: when, from which step on, by which command, code, machine, host code and ranks.

    Args:
        seen: what this session sees.
    """
    keys = ("command", *VERSIONS, "ranks", "launcher")
    entry = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "step": step}
    return entry | {key: seen[key] for key in keys if key in seen} | {"host_code": _host(seen)} | _sources(seen)


def last_process(seen: Mapping[str, Any]) -> str:
    """What a peak of memory is of, where it is not of the whole run: `" (rank 0, from step 40 on)"`."""
    sessions = seen.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    step = last.get("step") if isinstance(last, Mapping) else None
    parts = ["rank 0"] if isinstance(ranks := seen.get("ranks"), int) and ranks > 1 else []
    parts += [f"from step {step} on"] if isinstance(step, int) and step else []
    return f" ({', '.join(parts)})" if parts else ""


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`["torch 2.12.1 (was 2.11.0)", ...]`: in which versions two sessions differ."""
    return [
        f"{key} {now[key]} (was {before[key]})"
        for key in (*VERSIONS, "host_code", "host_sources")
        if key in before
        and key in now
        and before[key] != now[key]
        and not (key == "sources" and _of_commits(before, now))
    ]


def _of_commits(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether other files of this package are told by another commit."""
    return before.get("commit") != now.get("commit")


def _host(seen: Mapping[str, Any]) -> str:
    host = seen.get("host", {})
    return " ".join(str(host[key]) for key in ("kind", "commit") if key in host)


def _sources(seen: Mapping[str, Any]) -> dict[str, str]:
    host = seen.get("host", {})
    return {"host_sources": str(host["sources"])} if "sources" in host else {}


def weights_print(path: Path) -> str:
    """SHA-256 of a file of weights; of a checkpoint of ours that of its manifest, which has those of its files.

    Of weights in several files it is that of the index and of the files, one after the other.

    Raises:
        RunError: it cannot be read.
    """
    file, _ = split_choice(path)
    digest = hashlib.sha256()
    for each in _files(file):
        try:
            with each.open("rb") as data:
                while block := data.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise RunError(f"{each} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _files(weights: Path) -> list[Path]:
    if (weights / MANIFEST).exists():
        return [weights / MANIFEST]
    index = index_of(weights)
    return [weights] if index is None else [index, *files_of(index)]


def require_same_weights(seen: Mapping[str, Any], now: str, path: Path) -> None:
    """Refuse a file of weights that is another one than the run began with; raises `RunError`."""
    before = seen.get("weights_sha256")
    if before is not None and before != now:
        raise RunError(
            f"--weights {path} is not the file that the run began with (SHA-256 {now[:12]}, {before[:12]} then); "
            "put that one back, or choose another --out"
        )
