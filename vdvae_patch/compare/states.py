"""How far a run has come, told from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vdvae_patch.compare.plan import PlannedRun
from vdvae_patch.errors import RunError
from vdvae_patch.skips.audit import Audit
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.folder import LOCK

RunState = Literal["absent", "begun", "stopped", "finished"]
"""`absent`: not begun. `begun`: to be resumed, from its last checkpoint or else from its first step. `stopped`: ended
by itself, since updates were skipped `max_consecutive_skips` times in a row. `finished`: has a summary."""

LOG = "log.txt"
_BEFORE_START = frozenset({LOCK, LOG})


def state_of(run: PlannedRun) -> RunState:
    """The state of a run.

    Raises:
        RunError: its folder holds something else.
    """
    progress = progress_of(run)
    if progress != "begun":
        return progress
    return "stopped" if trailing_skips(run.folder) >= run.config.max_consecutive_skips else "begun"


def progress_of(run: PlannedRun) -> Literal["absent", "begun", "finished"]:
    """The state of a run as far as it shows without its log: one that has stopped is `begun`.

    Raises:
        RunError: its folder holds something else.
    """
    folder = run.folder
    if not folder.exists() or {path.name for path in folder.iterdir()} <= _BEFORE_START:
        return "absent"
    _check_identity(run)
    return "finished" if (folder / "summary.json").exists() else "begun"


def trailing_skips(folder: Path) -> int:
    """How many updates in a row were skipped at the end of a run's log."""
    count = 0
    for columns in Audit(folder / "metrics.jsonl").columns(("skipped",)):
        for skipped in columns.of("skipped"):
            count = count + 1 if skipped else 0
    return count


def _check_identity(run: PlannedRun) -> None:
    path = run.folder / "config.toml"
    if not path.exists():
        raise RunError(f"folder {run.folder} is not empty and holds no run; choose another --out")
    settings = RunFile.read(path).config(type(run.config.architecture))
    found = f"{settings.variant} seed {settings.seed}"
    if found != run.label:
        raise RunError(f"folder {run.folder} should hold {run.label}, but holds {found}; choose another --out")
