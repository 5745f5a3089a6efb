"""How far a run has come, told from its folder alone."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Literal

from vdvae_patch.compare.plan import PlannedRun, read_settings
from vdvae_patch.errors import RunError
from vdvae_patch.train import records

RunState = Literal["absent", "abandoned", "resumable", "stopped", "finished"]
"""`absent`: not begun. `abandoned`: begun, and ended before its first checkpoint. `resumable`: has a checkpoint and is
not at its end. `stopped`: ended by itself, since updates were skipped `max_consecutive_skips` times in a row.
`finished`: has a summary."""

LOG = "log.txt"
_BEFORE_START = frozenset({"run.lock", LOG})
_OURS = _BEFORE_START | {
    "config.toml", "metrics.jsonl", "skips.jsonl", "evaluations.jsonl", "samples", "checkpoints", "tensorboard",
}  # fmt: skip


def state_of(run: PlannedRun) -> RunState:
    """The state of a run.

    Raises:
        RunError: its folder holds something else.
    """
    folder = run.folder
    if not folder.exists() or {path.name for path in folder.iterdir()} <= _BEFORE_START:
        return "absent"
    _check_identity(run)
    if (folder / "summary.json").exists():
        return "finished"
    if trailing_skips(folder) >= run.config.max_consecutive_skips:
        return "stopped"
    return "resumable" if any((folder / "checkpoints").glob("step-*")) else "abandoned"


def trailing_skips(folder: Path) -> int:
    """How many updates in a row were skipped at the end of a run's log."""
    count = 0
    for record in records.read(folder / "metrics.jsonl"):
        count = count + 1 if record["skipped"] else 0
    return count


def clear(run: PlannedRun) -> None:
    """Remove an abandoned run's folder, after proof that there is nothing else in it: its steps are done again.

    Raises:
        RunError: a process still works in it, or it holds a file that no run writes.
    """
    folder = run.folder
    _check_identity(run)
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if unknown := sorted(names - _OURS):
        raise RunError(
            f"folder {folder} holds a run that never reached a checkpoint, and {unknown[0]!r}, which no run writes; "
            "move it away, or choose another --out"
        )
    with (folder / "run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"folder {folder} is in use by another run") from None
        shutil.rmtree(folder)


def _check_identity(run: PlannedRun) -> None:
    path = run.folder / "config.toml"
    if not path.exists():
        raise RunError(f"folder {run.folder} is not empty and holds no run; choose another --out")
    settings = read_settings(path)
    found = f"{settings.get('variant')} seed {settings.get('seed')}"
    if found != run.label:
        raise RunError(f"folder {run.folder} should hold {run.label}, but holds {found}; choose another --out")
