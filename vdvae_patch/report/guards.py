"""What a guard wrote of somebody else's training loop: its skips, and what recorded ones say of versions and model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import VdvaePatchError
from vdvae_patch.guarding.folder import LOG, identity
from vdvae_patch.report import skipped
from vdvae_patch.report.columns import Expected, rows
from vdvae_patch.report.looks import Collector, Looks
from vdvae_patch.report.skipped import Skip
from vdvae_patch.skips import sealed
from vdvae_patch.skips.counted import at_least, read_counts


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
    there = [path for path in folder.glob("skip-*") if (path / sealed.MANIFEST).exists()]
    counted = [path for path in sealed.numbered(folder, "skip") if path in there]
    return counted + sorted(set(there) - set(counted))  # what somebody has renamed comes last


def read_guard(folder: Path) -> GuardData:
    """All of it. Nothing is refused: what cannot be read, or is of another guard, is among the problems."""
    problems: list[str] = []
    paths = recorded_in(folder)
    log = folder / LOG
    infos = _manifests(paths, problems)
    own = _identity(log, problems)
    has_log = own is not None
    if not has_log:
        problems.append(f"{LOG} is missing or empty: the page shows the recorded skips alone")
    counted = read_counts(folder, own or "")  # before the lines: a guard that is at work writes it behind them
    own = own or counted.run or None
    if counted.problem and (own or counted.exists):
        problems.append(counted.problem)
    for name, info in list(infos.items()):
        if own and info.get("guard") and info["guard"] != own:
            problems.append(f"{name} is of another guard ({info['guard']}, not {own}): it is left out")
            del infos[name]
    recorded = max((line for info in infos.values() if isinstance(line := info.get("log_line"), int)), default=0)
    counts = at_least({log.stem: recorded}, counted.lines) if own else {}
    lines = list(rows(log, problems, Expected(own or "", counts=counts)))
    told = _matched(lines, infos, problems, has_log=has_log)
    numbers = {path.name: number for number, path in enumerate(paths, 1) if path.name in infos}
    collector = Collector()
    skips: list[Skip] = []
    for line in told:
        if (skip := skipped.of_guard(line, folder, numbers)) is not None:
            skips.append(skip)
            collector.add(skip.step, line.get("heads"), skipped=True)
    back = [(one.step, other.step) for one, other in itertools.pairwise(skips) if other.step < one.step]
    if back:
        times = "once" if len(back) == 1 else f"{len(back)} times"
        problems.append(
            f"the steps in {LOG} go back {times}, first from {back[0][0]} to {back[0][1]}: a training that was begun "
            "again, or went on from an earlier state, or a second optimizer; all are counted, on one axis of steps"
        )
    lost = [skip for skip in skips if not skip.recorded]
    if lost and paths:
        problems.append(
            f"{len(lost)} of {len(skips)} skips were not recorded: a guard keeps the first few (keep=, else 5)"
        )
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


def _identity(log: Path, problems: list[str]) -> str | None:
    try:
        return identity(log)
    except VdvaePatchError as error:
        problems.append(str(error))
        return None


def _matched(
    lines: Sequence[dict[str, Any]], infos: Mapping[str, dict[str, Any]], problems: list[str], *, has_log: bool
) -> list[dict[str, Any]]:
    """One row a skip: the log's lines, each with the recording that is of the same step, and what is recorded alone.

    A recording that was put in the place of another, renamed or copied is said, and counts as no further skip.
    """
    said = [_same(line) for line in lines]
    told = [dict(line) for line in lines]
    taken: set[int] = set()
    for index, line in enumerate(told):
        name = str(line.get("recorded"))
        if name in infos and _same(infos[name]) != said[index]:
            problems.append(f"{name} is not the recording of the step {line.get('step')} for which {LOG} names it")
        elif name in infos:
            taken.add(index)
            continue
        line["recorded"] = None
    for name, info in infos.items():
        if any(told[index]["recorded"] == name for index in taken):
            continue
        alike = [index for index, one in enumerate(said) if one == _same(info)]
        free = [index for index in alike if index not in taken]
        if free:
            told[free[0]]["recorded"] = name
            taken.add(free[0])
            problems.append(f"{name} is the recording of step {info.get('step')}, and was renamed")
        elif alike:
            problems.append(f"{name} is a copy of the recording of step {info.get('step')}: it is left out")
        else:
            told.append(info | {"recorded": name})
            said.append(_same(info))
            taken.add(len(told) - 1)
            if has_log:
                problems.append(f"{LOG} has no line of {name}, the recording of step {info.get('step')}")
    return told


def _same(row: Mapping[str, Any]) -> str:
    """What a line of the log and its recording have in common."""
    return repr([row.get(key) for key in ("step", "cause", "optimizer", "elbo", "grad_norm", "ranks")])


def _manifests(paths: list[Path], problems: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for path in paths:
        try:
            found[path.name] = sealed.read_manifest(path, what="recorded skip")[0]
        except VdvaePatchError as error:
            problems.append(str(error))
    return found
