"""What a guard wrote of somebody else's training loop: its skips, and what recorded ones say of versions and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.report import skipped
from vdvae_patch.report.columns import rows
from vdvae_patch.report.looks import Collector, Looks
from vdvae_patch.report.skipped import Skip
from vdvae_patch.skips import sealed


@dataclass(frozen=True)
class GuardData:
    """One guard's folder.

    Attributes:
        skips: in the order in which they were written; of several optimizers mixed.
        looks: the heads in the skips that were examined.
        seen: versions, the model's class, how many ranks; of the first recorded skip that can be read.
    """

    folder: Path
    skips: tuple[Skip, ...]
    looks: Looks | None
    seen: Mapping[str, Any]
    problems: tuple[str, ...]
    written: float | None


def recorded_in(folder: Path) -> list[Path]:
    """The folders of its recorded skips, in the order that `replay --skip` counts them."""
    return sorted(path for path in folder.glob("skip-*") if (path / sealed.MANIFEST).exists())


def read_guard(folder: Path) -> GuardData:
    """All of it. Nothing is refused: what cannot be read is among the problems."""
    problems: list[str] = []
    paths = recorded_in(folder)
    numbers = {path.name: number for number, path in enumerate(paths, 1)}
    log = folder / "skips.jsonl"
    if not log.exists():
        problems.append("skips.jsonl is missing: the page shows the recorded skips alone")
    collector = Collector()
    skips: list[Skip] = []
    lines = list(rows(log, problems))
    infos = _manifests(paths, problems)
    named = {str(line.get("recorded")) for line in lines}
    for line in [*lines, *(info | {"recorded": name} for name, info in infos.items() if name not in named)]:
        if (skip := skipped.of_guard(line, folder, numbers)) is not None:
            skips.append(skip)
            collector.add(skip.step, line.get("heads"), skipped=True)
    lost = [skip for skip in skips if not skip.recorded]
    if lost and paths:
        problems.append(f"{len(lost)} of {len(skips)} skips were not recorded: a guard keeps the first few (keep=5)")
    first = next(iter(infos.values()), {})
    seen: dict[str, Any] = {
        name: first[key]
        for key, name in {
            "model_class": "model",
            "vdvae_patch": "vdvae_patch",
            "torch": "torch",
            "python": "Python",
            "world": "processes",
        }.items()
        if key in first
    }
    return GuardData(
        folder, tuple(skips), collector.looks(), seen, tuple(problems),
        log.stat().st_mtime if log.exists() else None,
    )  # fmt: skip


def _manifests(paths: list[Path], problems: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for path in paths:
        try:
            found[path.name] = sealed.read_manifest(path, what="recorded skip")[0]
        except VdvaePatchError as error:
            problems.append(str(error))
    return found
