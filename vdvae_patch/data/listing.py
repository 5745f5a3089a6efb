"""Which image files lie below a folder, to which split each belongs, and what was left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vdvae_patch.data.decode import SUFFIXES, is_transparent, pictures_in
from vdvae_patch.errors import DataError

Split = Literal["train", "valid", "test"]

_KIND = r"(?:[ _-]?(?:set|data|images|imgs))?"
_NAMES: tuple[tuple[Split, re.Pattern[str]], ...] = (
    ("train", re.compile(rf"train(?:ing)?{_KIND}", re.IGNORECASE)),
    ("valid", re.compile(rf"(?:val|valid|validation){_KIND}", re.IGNORECASE)),
    ("test", re.compile(rf"test(?:ing)?{_KIND}", re.IGNORECASE)),
)
_LOOKED_AT = 1000
"""Files, at even spacing, whose pictures are counted and whose transparency is looked for."""
# What systems leave beside files: nobody's data.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class Listing:
    """The images below a folder, sorted by path, and how many of which other files there are (`".txt": 3`)."""

    folder: Path
    paths: tuple[Path, ...]
    others: Counter[str]

    def notes(self) -> tuple[str, ...]:
        """What a reader must know: files that were left out, animations of which the first picture is taken, and
        transparency, which is none of the colours."""
        notes = []
        if self.others:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.others.items()))
            notes.append(f"{self.folder}: {self.others.total():,} files left out ({kinds})")
        if count := sum(path.suffix.lower() == ".gif" for path in self.paths):
            notes.append(f"{self.folder}: of {count:,} .gif files the first picture each")
        others = [path for path in self.paths if path.suffix.lower() != ".gif"]
        looked_at = others[:: -(-len(others) // _LOOKED_AT) or 1]
        if several := [path for path in looked_at if pictures_in(path) > 1]:
            notes.append(
                f"{self.folder}: of {len(several):,} in {len(looked_at):,} files the first picture or page alone, such "
                f"as of {several[0].name}"
            )
        looked_at = [*self.paths[:: -(-len(self.paths) // _LOOKED_AT) or 1]]
        if clear := [path for path in looked_at if is_transparent(path)]:
            notes.append(
                f"{self.folder}: of {len(clear):,} in {len(looked_at):,} files with transparent pixels, such as "
                f"{clear[0].name}, the colours are taken that lie below, which no viewer shows; to train on what "
                "is seen, put them on a background first"
            )
        return tuple(notes)

    def by_split(self) -> dict[Split, tuple[Path, ...]] | None:
        """The images of each split where folders are named train, val (valid, validation) and test; else None.

        The first folder on the way to an image that has such a name decides. train/ alone is not a split.

        Raises:
            DataError: there is a folder for validation or test, and none to train on, or images lie beside them.
        """
        found: dict[Split, list[Path]] = {}
        beside: list[Path] = []
        for path in self.paths:
            split = self._split_of(path)
            (beside if split is None else found.setdefault(split, [])).append(path)
        if not found or found.keys() == {"train"}:
            return None
        named = " and ".join(f"{split} ({len(paths):,})" for split, paths in sorted(found.items()))
        if "train" not in found:
            raise DataError(
                f"{self.folder}: has images of {named} and no folder train; put those to train on in "
                f"{self.folder}/train, or name one folder alone with --data-root"
            )
        if beside:
            raise DataError(
                f"{self.folder}: has folders of {named}, and {len(beside):,} images outside of them, such as "
                f"{beside[0].relative_to(self.folder)}; move these to one of the folders, or out of {self.folder}"
            )
        return {split: tuple(paths) for split, paths in found.items()}

    def _split_of(self, path: Path) -> Split | None:
        for part in path.relative_to(self.folder).parts[:-1]:
            for split, pattern in _NAMES:
                if pattern.fullmatch(part):
                    return split
        return None


def list_images(folder: Path) -> Listing:
    """Every image below `folder` by its suffix, sorted by path; hidden files and folders are not looked at.

    Raises:
        DataError: a folder that cannot be read, or no images.
    """
    paths: list[Path] = []
    others: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        for name in folders:
            if not _is_hidden(name) and os.path.islink(os.path.join(place, name)):
                others["links to folders"] += 1
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            path = Path(place, name)
            if _is_hidden(name):
                continue
            if path.suffix.lower() in SUFFIXES and path.is_file():
                paths.append(path)
            else:
                others[path.suffix.lower() or "without a suffix"] += 1
    if not paths:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(others.items()))
        raise DataError(
            f"{folder}: no images in it or below it; looked for {', '.join(sorted(SUFFIXES))}"
            + (f", found {kinds}" if kinds else "")
        )
    ordered = sorted(paths, key=lambda path: path.relative_to(folder).as_posix())
    return Listing(folder, tuple(ordered), others)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})")
