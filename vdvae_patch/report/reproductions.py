"""What `reproduce` wrote: its tables, its figure, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.skips.whole import CHECKSUM, json_record

_LARGEST = 20_000_000  # bytes of a JSON file that may be a report's


@dataclass(frozen=True)
class PlainTable:
    """A table of cells, numbers or text; None is a number that there is not."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    figure: Path | None


@dataclass(frozen=True)
class Reproduction:
    """One experiment.

    Attributes:
        finished: whether its report is there; without it the parts that are done are named.
        parts: files of the parts that are done.
    """

    folder: Path
    name: str
    title: str
    finished: bool
    introduction: str = ""
    tables: tuple[PlainTable, ...] = ()
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    figure: Path | None = None
    parts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_reproductions(folder: Path) -> list[Reproduction]:
    """Those whose report lies in the folder; without one, what a session that has not ended has done so far."""
    found: list[Reproduction] = []
    problems: list[str] = []
    parts: list[str] = []
    settings = _json(folder / "settings.json", problems) if (folder / "settings.json").exists() else None
    for path in sorted(folder.glob("*.json")):
        if path.name == "settings.json":
            continue
        before = len(problems)
        content = _json(path, problems)
        if _is_report(content):
            found.append(_report(path, content, settings))
        elif len(problems) > before and path.with_suffix(".md").is_file():
            found.append(Reproduction(folder, path.stem, path.stem, finished=True, problems=tuple(problems[before:])))
        elif isinstance(content, dict):
            parts.append(path.stem)
    if found or settings is None:
        return found
    return [
        Reproduction(
            folder, folder.name, folder.name, finished=False, parts=tuple(parts), problems=tuple(problems),
            settings=settings if isinstance(settings, dict) else None,
        )
    ]  # fmt: skip


def has_reproduction(folder: Path) -> bool:
    """Whether there is one, or the beginning of one."""
    if (folder / "settings.json").exists():
        return True
    for path in sorted(folder.glob("*.json")):
        problems: list[str] = []
        if _is_report(_json(path, problems)) or (problems and path.with_suffix(".md").is_file()):
            return True
    return False


def _report(path: Path, content: Mapping[str, Any], settings: Any) -> Reproduction:
    tables = []
    for table in content["tables"]:
        if not isinstance(table, dict):
            continue
        figure = path.with_name(f"{path.stem}-{table.get('name')}.png")
        tables.append(
            PlainTable(
                str(table.get("caption", "")),
                tuple(map(str, _list(table.get("header")))),
                tuple(tuple(_list(row)) for row in _list(table.get("rows"))),
                figure if figure.parent == path.parent and figure.is_file() else None,
            )
        )
    figure = path.with_suffix(".png")
    origin = content["origin"]
    return Reproduction(
        path.parent, path.stem, str(content["title"]), True, str(content.get("introduction", "")), tuple(tables),
        tuple(map(str, _list(content.get("notes")))), origin if isinstance(origin, dict) else None,
        settings if isinstance(settings, dict) else None, figure if figure.is_file() else None,
    )  # fmt: skip


def _is_report(content: Any) -> bool:
    return (
        isinstance(content, dict) and {"title", "tables", "origin"} <= content.keys() and _list(content["tables"]) != []
    )


def _json(path: Path, problems: list[str]) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        data = path.read_bytes()
        if f'"{CHECKSUM}"'.encode() not in data:  # a report of a version that wrote none, or a file of something else
            return json.loads(data)
        return json_record(data, path)[0]
    except RunError as error:
        problems.append(str(error).replace(str(path), path.name))
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
