"""Write the page, once or as often as something below the path changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from vdvae_patch.report.find import find
from vdvae_patch.report.page import gather, render
from vdvae_patch.report.runs import is_held
from vdvae_patch.train.folder import LOCK, write_whole

NAME = "report.html"
EVERY_SECONDS = 5


def write(path: Path, out: Path | None = None, *, now: float | None = None, reload_seconds: int = 0) -> Path:
    """Write the page of what lies below `path`; into the same folder unless `out` says otherwise.

    Raises:
        RunError: nothing is there, the page cannot be written, or a package that it needs is missing.
    """
    found = find(path)
    target = found.root / NAME if out is None else out
    page = render(gather(found), target, now=time.time() if now is None else now, reload_seconds=reload_seconds)
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
    write_whole(target, page)
    return target


def watch(
    path: Path,
    out: Path | None = None,
    *,
    told: Callable[[Path], None],
    sleep: Callable[[float], None] = time.sleep,
    rounds: int | None = None,
) -> None:
    """Write the page again whenever a file changed, until interrupted. The page loads itself again as often.

    Args:
        told: called with the page after each writing.
        rounds: how often to look; None for ever.
    """
    before: dict[Path, tuple[int, ...]] | None = None
    done = 0
    while rounds is None or done < rounds:
        now = _state(find(path).root, out)
        if now != before:
            told(write(path, out, reload_seconds=EVERY_SECONDS))
            before = now
        done += 1
        if rounds is None or done < rounds:
            sleep(EVERY_SECONDS)


def _state(root: Path, out: Path | None) -> dict[Path, tuple[int, ...]]:
    """Sizes and times of what the page is made of, itself left out; and which runs are at work, since one that is
    killed changes no file."""
    own = {(root / NAME).absolute(), None if out is None else out.absolute()}
    found: dict[Path, tuple[int, ...]] = {}
    for pattern in ("*.jsonl", "*.json", "*.toml", "*.png", LOCK):
        for file in root.rglob(pattern):
            try:
                if file.absolute() not in own:
                    there = file.stat()
                    found[file] = there.st_mtime_ns, there.st_size, file.name == LOCK and is_held(file)
            except OSError:  # gone since it was listed
                continue
    return found
