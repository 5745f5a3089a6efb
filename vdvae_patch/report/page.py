"""The page: what was gathered, put into the template, with everything that it needs inside."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vdvae_patch
from vdvae_patch.compare.results import likelihoods_differ
from vdvae_patch.compare.table import BY_MASS, BY_MASS_OF_HOSTS, CONVENTION, CURVES_BY_LIKELIHOOD
from vdvae_patch.errors import RunError, visible
from vdvae_patch.report import drawn, pictures
from vdvae_patch.report.drawn import Budget
from vdvae_patch.report.find import Found
from vdvae_patch.report.guards import GuardData, read_guard
from vdvae_patch.report.reproductions import Reproduction, read_reproductions
from vdvae_patch.report.runs import RunData, read_run
from vdvae_patch.report.runsets import RunSet, run_set
from vdvae_patch.report.skipped import Skip, cause_text
from vdvae_patch.skips import telling
from vdvae_patch.train.sessions import last_process

MOST_BYTES = 6_000_000
"""Of the page without its images."""

_IMAGES = 160
"""The most sample grids of a page."""
_LISTED = 40
"""The most recorded skips that are listed in full, of one run or guard."""

_OF_HEAD = ("log_sigma_min", "log_sigma_max", "kl")


@dataclass(frozen=True)
class Gathered:
    """Everything that a page shows."""

    root: Path
    sets: tuple[RunSet, ...]
    guards: tuple[GuardData, ...]
    reproductions: tuple[Reproduction, ...]


def gather(found: Found) -> Gathered:
    """Read all of it."""
    sets = [
        run_set(folder, [read_run(run) for run in runs], is_comparison=True)
        for folder, runs in found.comparisons
    ]  # fmt: skip
    if found.runs:
        sets.append(run_set(found.root, [read_run(run) for run in found.runs], is_comparison=False))
    guards = tuple(read_guard(folder) for folder in found.guards)
    reproductions = tuple(one for folder in found.reproductions for one in read_reproductions(folder))
    return Gathered(found.root, tuple(sets), guards, reproductions)


def render(gathered: Gathered, target: Path, *, now: float, reload_seconds: int = 0) -> str:
    """The page as it will lie at `target`, which its links start from.

    Args:
        now: seconds since 1970, by the clock that the files' times are of.
        reload_seconds: how often the page loads itself again; 0 is never.

    Raises:
        RunError: jinja2 or plotly is not installed.
    """
    images = _Images(sum(bool(run.samples) for one in gathered.sets for run in one.runs))
    for factor in (1.0, 0.4, 0.15, 0.05, 0.01):
        images.uris.clear()
        page = _filled(gathered, target, now, reload_seconds, Budget().times(factor), images)
        if len(page) - sum(map(len, images.uris)) <= MOST_BYTES:
            break
    return page


def _filled(
    gathered: Gathered, target: Path, now: float, reload_seconds: int, budget: Budget, images: _Images
) -> str:  # fmt: skip
    every = [run for one in gathered.sets for run in one.runs]
    all_skips = sum(int(run.log.skipped.sum()) for run in every)
    links = _Links(target)
    sections: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    for one in gathered.sets:
        key = f"s{len(sections)}"
        sections.append(_of_runs(key, one, links, images, now))
        data[key] = drawn.of_runs(one, budget, len(every), all_skips) | {"images": sections[-1].pop("pictures")}
    for guard in gathered.guards:
        key = f"s{len(sections)}"
        sections.append(_of_guard(key, guard, links, now))
        data[key] = drawn.of_guard(guard.skips, guard.looks, budget)
    for reproduction in gathered.reproductions:
        sections.append(_of_reproduction(f"s{len(sections)}", reproduction, links, images))
    text: str = _template().render(
        title=_title(gathered), made=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)),
        version=vdvae_patch.__version__, reload=reload_seconds, sections=sections, images=images.uris,
        data=_compressed(json.dumps(_cleaned(data)).encode()), plotly=_plotly(), css=_text("page.css"),
        js=_text("page.js"),
    )  # fmt: skip
    return text


class _Links:
    """Addresses of files, from where the page lies."""

    def __init__(self, target: Path) -> None:
        self.start = os.path.abspath(target.parent)

    def __call__(self, path: Path) -> str:
        where = os.path.relpath(os.path.abspath(path), self.start)
        return "./" + quote(where.replace(os.sep, "/"))


class _Images:
    """The sample grids that the page holds, each once."""

    def __init__(self, runs: int) -> None:
        self.uris: list[str] = []
        self.each = max(2, _IMAGES // max(1, runs))

    def add(self, path: Path, *, of_grid: bool) -> dict[str, Any] | None:
        """Its place among the images, and its size; None for what is no image, or if there is no room."""
        found = _read_picture(path, path.stat().st_mtime_ns if path.exists() else 0, of_grid)
        if found is None or sum(map(len, self.uris)) + len(found.uri) > pictures.BUDGET:
            return None
        self.uris.append(found.uri)
        return {"at": len(self.uris) - 1, "width": found.width, "height": found.height, "rows": found.rows}


@functools.lru_cache(maxsize=512)
def _read_picture(path: Path, modified: int, of_grid: bool) -> pictures.Picture | None:
    return pictures.picture(path, of_grid=of_grid)


def _of_runs(key: str, one: RunSet, links: _Links, images: _Images, now: float) -> dict[str, Any]:
    shown = [_images_of(run, images) for run in one.runs]
    palette = drawn.colors(one.labels)
    of_decoders = likelihoods_differ(run.variant for run in one.runs)
    # those of the hosts differ, too, where each is as it is
    mixed = of_decoders or len({run.summary.get("likelihood") for run in one.runs} - {None}) > 1
    return {
        "id": key,
        "kind": "comparison" if one.is_comparison else "runs",
        "title": one.name(0) if len(one.runs) == 1 and not one.is_comparison else one.folder.resolve().name,
        "empty": not one.runs,
        "folder": links(one.folder),
        "path": str(one.folder),
        "states": _states(one, now),
        "sentences": one.sentences,
        "columns": one.columns,
        "convention": CONVENTION + (BY_MASS if of_decoders else BY_MASS_OF_HOSTS if mixed else ""),
        "of_curves": CURVES_BY_LIKELIHOOD if mixed else "",
        "rows": [
            {
                "label": row.label,
                "color": palette[row.label],
                "cells": row.cells,
                "counted": row.counted,
                "seeds": row.seeds,
                "single": len(row.runs) == 1 and row.seeds == 1,
                "bad": sum(one.runs[i].state in ("stopped", "cut off") for i in row.runs),
                "runs": [
                    {
                        "anchor": f"{key}-run{i}",
                        "name": one.name(i),
                        "seed": one.runs[i].seed,
                        "state": one.runs[i].state,
                        "cells": cells,
                    }
                    for i, cells in zip(row.runs, row.run_cells, strict=True)
                ],
            }
            for row in one.rows
        ],
        "has_steps": any(len(run.log) for run in one.runs),
        "skips": sum(int(run.log.skipped.sum()) for run in one.runs),
        "recorded_count": sum(sum(bool(skip.recorded) for skip in run.skips) for run in one.runs),
        "recorded": [
            {"run": one.name(i), "anchor": f"{key}-run{i}-skip{skip.recorded}"} | _skip(skip, links, images)
            for i, run in enumerate(one.runs)
            for skip in [skip for skip in run.skips if skip.recorded][:_LISTED]
        ],
        "paired": any(run.looks is not None for run in one.runs),
        "pictures": shown if any(shown) else None,
        "has_images": any(shown),
        "differences": one.differences,
        "names": [one.name(i) for i in range(len(one.runs))],
        "shared": one.shared,
        "runs": [_run(f"{key}-run{i}", one.name(i), run, links, now) for i, run in enumerate(one.runs)],
    }  # fmt: skip


def _hashed(data: Mapping[str, Any]) -> str:
    """What a fingerprint of images is of."""
    count = data.get("fingerprint_of")
    some = isinstance(count, int) and count != data.get("train_count") and not data.get("whole_fingerprint")
    return f"SHA-256 of {count:,} of them, evenly spaced" if some else "their SHA-256"


def _run(anchor: str, name: str, run: RunData, links: _Links, now: float) -> dict[str, Any]:
    seen = run.seen
    data, host = _mapping(seen.get("data")), _mapping(seen.get("host"))
    causes = [(cause_text(cause), run.log.count(cause)) for cause in run.log.causes[1:]]
    facts = [
        ("steps", f"{run.steps:,}" + (f" of {run.planned:,}" if run.planned and run.planned != run.steps else "")),
        ("skipped", ", ".join(f"{count:,} {text}" for text, count in causes if count) or "none"),
        ("time in steps", duration(run.seconds)),
        ("machine", seen.get("machine")),
        ("processes", seen.get("ranks")),
        ("threads", seen.get("threads")),
        ("float32", seen.get("float32")),
        ("deterministic", "yes" if seen.get("deterministic") is True else None),
        ("version", seen.get("version")),
        ("commit", seen.get("commit")),
        ("Python", seen.get("python")),
        ("torch", seen.get("torch")),
        ("numpy", seen.get("numpy")),
        ("host", " ".join(str(host[k]) for k in ("kind", "commit", "path") if k in host) or None),
        ("data", data.get("source")),
        ("training images", data.get("train_count")),
        (_hashed(data), data.get("whole_fingerprint") or data.get("fingerprint")),
        ("parameters", run.summary.get("parameters")),
        ("peak memory", _mebibytes(run.summary.get("peak_memory_bytes"), last_process(run.seen))),
        ("last written", None if run.written is None else _ago(now - run.written)),
    ]
    return {
        "anchor": anchor,
        "name": name,
        "state": run.state,
        "folder": links(run.folder),
        "path": str(run.folder),
        "facts": [(what, str(value)) for what, value in facts if value is not None and value != ""],
        "command": seen.get("command") or "",
        "problems": run.problems,
        "tail": run.tail,
    }


def _states(one: RunSet, now: float) -> list[dict[str, str]]:
    """What keeps the page from being the whole story."""
    lines = []
    if not one.runs:
        lines.append({"kind": "waits", "text": "No run has begun yet."})
    for index, run in enumerate(one.runs):
        name = one.name(index)
        of = f" of {run.planned:,}" if run.planned else ""
        wrote = "" if run.written is None else f"; its log was last written {_ago(now - run.written)}"
        go_on = shlex.join(["python", "-m", "vdvae_patch", "train", "--resume", "--out", str(run.folder)])
        if run.state == "running":
            lines.append({"kind": "running", "text": f"{name} goes on: {run.steps:,}{of} steps so far{wrote}."})
        elif run.state == "stopped":
            lines.append(
                {
                    "kind": "failed",
                    "text": f"{name} stopped at step {run.steps:,}{of}: updates were skipped so often in a row that it "
                    "no longer learns; it has no test NELBO.",
                }
            )
        elif run.state == "cut off":
            lines.append(
                {
                    "kind": "cut",
                    "text": f"{name} was cut off after {run.steps:,}{of} steps and is left out of the means{wrote}.",
                    "command": go_on,
                }
            )
        elif run.state == "not begun":
            lines.append({"kind": "cut", "text": f"{name} has not done a step."})
        for problem in run.problems:
            lines.append({"kind": "note", "text": f"{name}: {problem}."})
    lines += [{"kind": "note", "text": f"{note}."} for note in one.notes]
    if one.is_comparison:
        seeds = sorted({run.seed for run in one.runs if run.seed is not None})
        for row in one.rows:
            if len(row.runs) < row.seeds:
                have = {one.runs[i].seed for i in row.runs}
                missing = ", ".join(str(seed) for seed in seeds if seed not in have)
                if missing:
                    lines.append({"kind": "waits", "text": f"{row.label}: no folder yet of seed {missing}."})
    return lines


def _images_of(run: RunData, images: _Images) -> list[dict[str, Any]]:
    found = []
    for position in pictures.chosen(len(run.samples), images.each):
        step, path = run.samples[position]
        if (picture := images.add(path, of_grid=True)) is not None:
            found.append({"step": step, **picture})
    return found


def _skip(skip: Skip, links: _Links, images: _Images | None) -> dict[str, Any]:
    drawn_before = []
    for path in skip.images[:3] if images is not None else ():
        if images is not None and (picture := images.add(path, of_grid=False)) is not None:
            drawn_before.append({**picture, "name": path.name, "link": links(path)})
    return {
        "number": skip.recorded,
        "step": skip.step,
        "cause": cause_text(skip.cause),
        "ranks": skip.ranks,
        "loss": skip.loss,
        "norm": skip.norm,
        "head": skip.head,
        "blamed": skip.blamed,
        "said": skip.said,
        "replay": skip.replay,
        "folder": None if skip.folder is None else links(skip.folder),
        "images": drawn_before,
        "of_heads": skip.of_heads,
        "heads": [
            {"name": name.text, "role": name.role} | {quantity: _shown(head.get(quantity)) for quantity in _OF_HEAD}
            for name, head in skip.heads
        ],
    }  # fmt: skip


def _of_guard(key: str, guard: GuardData, links: _Links, now: float) -> dict[str, Any]:
    counts: dict[tuple[str, str], int] = {}
    for skip in guard.skips:
        what = cause_text(skip.cause), skip.head if skip.blamed else ""
        counts[what] = counts.get(what, 0) + 1
    states = [{"kind": "note", "text": f"{problem}."} for problem in guard.problems]
    if guard.written is not None:
        states.append(
            {
                "kind": "note",
                "text": f"skips.jsonl was last written {_ago(now - guard.written)}. A guard writes no line of an "
                "applied update: the page cannot tell whether the loop goes on, nor how many steps it did.",
            }
        )
    chosen = [skip for skip in guard.skips if skip.recorded or skip.blamed or skip.said][:_LISTED]
    return {
        "id": key,
        "kind": "guard",
        "title": guard.folder.resolve().name,
        "folder": links(guard.folder),
        "path": str(guard.folder),
        "states": states,
        "total": len(guard.skips),
        "counts": sorted(((n, *what) for what, n in counts.items()), reverse=True),
        "has_heads": guard.looks is not None,
        "recorded": [{"run": "", "anchor": f"{key}-skip{n}"} | _skip(s, links, None) for n, s in enumerate(chosen)],
        "facts": [(name, str(value)) for name, value in guard.seen.items()],
    }


def _of_reproduction(key: str, one: Reproduction, links: _Links, images: _Images) -> dict[str, Any]:
    return {
        "id": key,
        "kind": "reproduction",
        "title": one.title,
        "folder": links(one.folder),
        "path": str(one.folder),
        "states": [{"kind": "note", "text": f"{problem}."} for problem in one.problems]
        + (
            []
            if one.finished
            else [{"kind": "waits", "text": "This reproduction is not finished; the same command goes on with it."}]
        ),
        "paragraphs": [part for part in one.introduction.split("\n\n") if part],
        "figure": None if one.figure is None else images.add(one.figure, of_grid=False),
        "tables": [
            {
                "caption": table.caption,
                "header": table.header,
                "rows": [[{"text": _cell(cell), "key": _key(cell)} for cell in row] for row in table.rows],
                "figure": None if table.figure is None else images.add(table.figure, of_grid=False),
            }
            for table in one.tables
        ],
        "notes": one.notes,
        "parts": one.parts,
        "facts": [(name, _cell(value)) for name, value in (one.origin or {}).items()],
        "settings": [(name, _cell(value)) for name, value in (one.settings or {}).items()],
    }


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _ago(seconds: float) -> str:
    if seconds <= -2:  # of a file that another machine wrote, or this one before its clock was set
        return f"{duration(-seconds)} after this page was made, so that one of two clocks is wrong"
    return "just before this page was made" if seconds < 2 else f"{duration(seconds)} before this page was made"


def _title(gathered: Gathered) -> str:
    return gathered.root.resolve().name or str(gathered.root)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mebibytes(value: Any, of: str) -> str | None:
    return f"{value / 2**20:,.0f} MiB{of}" if isinstance(value, int | float) else None


def _shown(value: Any) -> str:
    return telling.number(value) if isinstance(value, int | float) else "–"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _key(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    found = re.match(r"\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", str(value)) if value is not None else None
    return float(found[1]) if found else None


def _cleaned(value: Any) -> Any:
    """Text of files without what is hidden; numbers that JSON has not as null."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {visible(str(k)): _cleaned(v) for k, v in value.items()}
    return [_cleaned(v) for v in value] if isinstance(value, Sequence) else value


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise _missing("jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["shown"] = _shown
    return environment.get_template("page.html")


@functools.cache
def _plotly() -> str:
    """plotly.js, compressed: the browser unpacks it, and the page is a third as large."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise _missing("plotly") from None
    return _compressed(get_plotlyjs().encode())


def _missing(name: str) -> RunError:
    return RunError(
        f"a report needs {name}, which is not installed; install it with: pip install 'vdvae-patch[report]'"
    )


def _compressed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def _text(name: str) -> str:
    return (resources.files("vdvae_patch.report") / "templates" / name).read_text(encoding="utf-8")
