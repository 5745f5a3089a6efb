"""What lies in a folder: a run, a comparison, a reproduction, a guard's folder, or several of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vdvae_patch.errors import RunError
from vdvae_patch.report.guards import recorded_in
from vdvae_patch.report.reproductions import has_reproduction
from vdvae_patch.skips import sealed
from vdvae_patch.train.folder import COMPARISON_LOCK

DEPTH = 3
"""How many folders deep is looked for runs."""


@dataclass(frozen=True)
class Found:
    """What lies below a path.

    Attributes:
        root: the folder that was named, or that of the run or guard to which what was named belongs.
        comparisons: folders with their runs.
        runs: those that belong to no comparison.
    """

    root: Path
    comparisons: tuple[tuple[Path, tuple[Path, ...]], ...]
    runs: tuple[Path, ...]
    guards: tuple[Path, ...]
    reproductions: tuple[Path, ...]


def find(path: Path) -> Found:
    """Look for them.

    Raises:
        RunError: the path does not exist, or holds nothing of the kind.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist; name a folder that train, compare, reproduce or a guard has written")
    root = _belongs_to(path)
    comparisons: list[tuple[Path, tuple[Path, ...]]] = []
    runs: list[Path] = []
    guards: list[Path] = []
    reproductions: list[Path] = []
    todo = [(root, 0)]
    seen: set[Path] = set()
    while todo:
        folder, depth = todo.pop(0)
        real = folder.resolve()
        if real in seen:  # a link that leads back
            continue
        seen.add(real)
        if is_run(folder):
            runs.append(folder)
            continue
        if is_guard(folder):
            guards.append(folder)
            continue
        if has_reproduction(folder):
            reproductions.append(folder)
        children = _folders(folder)
        if is_comparison(folder):
            comparisons.append((folder, tuple(child for child in children if is_run(child))))
            children = [child for child in children if not is_run(child)]
        if depth < DEPTH:
            todo += [(child, depth + 1) for child in children]
    if not (comparisons or runs or guards or reproductions):
        raise RunError(
            f"{path} holds no run, comparison, reproduction or guard's folder (none of config.toml, metrics.jsonl, "
            f"skips.jsonl, a report's JSON was found in it, {DEPTH} folders deep)"
        )
    return Found(root, tuple(comparisons), tuple(runs), tuple(guards), tuple(reproductions))


def is_run(folder: Path) -> bool:
    """Whether `train` has written here; also if a file of it is missing."""
    return any((folder / name).is_file() for name in ("config.toml", "metrics.jsonl")) or (
        (folder / "log.txt").is_file() and (folder / "run.lock").is_file()
    )


def is_comparison(folder: Path) -> bool:
    """Whether `compare` has written here."""
    return (folder / COMPARISON_LOCK).exists() or (folder / "comparison.json").is_file()


def is_guard(folder: Path) -> bool:
    """Whether a guard has written here, also if it has skipped nothing."""
    return not is_run(folder) and ((folder / "skips.jsonl").is_file() or bool(recorded_in(folder)))


def _belongs_to(path: Path) -> Path:
    """The folder of a file, and that of the run or guard of a recorded skip."""
    folder = path if path.is_dir() else path.parent
    if (folder / sealed.MANIFEST).is_file():
        outer = folder.parent
        if outer.name == "recordings" and is_run(outer.parent):
            return outer.parent
        if is_guard(outer):
            return outer
    return folder


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
