"""The manifest: which commit of each genuine code base was read, and the SHA-256 of the files that are imported."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from vdvae_patch.errors import HostError, UnknownNameError, did_you_mean

PACKAGE = "vdvae_patch.upstream"
FILE = "manifest.toml"


@dataclass(frozen=True)
class Upstream:
    """One genuine code base, pinned.

    Attributes:
        name: the host's short name.
        url: the git repository, `https://` (or `file://`, a mirror on this machine).
        commit: the full commit, 40 hexadecimal digits.
        license: SPDX name of its licence.
        files: SHA-256 of each file that is imported, by its path from the top of the repository.
        root: the folder inside the repository that bare imports start from; `""` is the top.
        embedded: the package of this project that can stand in for it, or None.
        note: one line about it.
    """

    name: str
    url: str
    commit: str
    license: str
    files: Mapping[str, str]
    root: str = ""
    embedded: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        def refuse(what: str) -> HostError:
            return HostError(f"manifest: upstream {self.name!r}: {what}")

        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise refuse("a name is lower case letters, digits and underscores")
        if not self.url.startswith(("https://", "file://")):
            raise refuse(f"url must start with https:// (or file://), not {self.url!r}")
        if not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise refuse(f"commit must be all 40 hexadecimal digits, not {self.commit!r}")
        if not self.files:
            raise refuse("no files are pinned")
        for path, digest in self.files.items():
            if not _stays_inside(path):
                raise refuse(f"file {path!r} must be a path inside the repository, with forward slashes")
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise refuse(f"file {path!r}: a SHA-256 is 64 hexadecimal digits, not {digest!r}")
        if self.root and not _stays_inside(self.root):
            raise refuse(f"root {self.root!r} must be a folder inside the repository")

    def importable(self) -> dict[str, str]:
        """SHA-256 of the pinned files below `root`, by their path from `root`."""
        prefix = f"{self.root}/" if self.root else ""
        return {path.removeprefix(prefix): digest for path, digest in self.files.items() if path.startswith(prefix)}


def upstreams() -> Mapping[str, Upstream]:
    """Every pinned code base of the project's own manifest, by name."""
    return _own_manifest()


def get_upstream(name: str) -> Upstream:
    """The pinned code base of that name; raises `UnknownNameError` with the nearest one."""
    known = upstreams()
    if name not in known:
        raise UnknownNameError("upstream", name, known)
    return known[name]


def read_manifest(text: str) -> dict[str, Upstream]:
    """Parse a manifest; raises `HostError` on a missing or unknown key, or a value that pins nothing."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HostError(f"manifest: not TOML: {error}") from None
    return {name: _from_table(name, table) for name, table in tables.items()}


def _from_table(name: str, table: Any) -> Upstream:
    if not isinstance(table, dict):
        raise HostError(f"manifest: {name!r} must be a table [{name}]")
    keys = {field.name for field in fields(Upstream)} - {"name"}
    for key, value in table.items():
        if key not in keys:
            raise HostError(f"manifest: upstream {name!r}: unknown key {key!r}{did_you_mean(key, keys)}")
        strings = value.values() if key == "files" and isinstance(value, dict) else [value]
        if not all(isinstance(string, str) for string in strings):
            raise HostError(f"manifest: upstream {name!r}: {key} is not text: {value!r}")
    missing = sorted({"url", "commit", "license", "files"} - set(table))
    if missing:
        raise HostError(f"manifest: upstream {name!r} lacks {', '.join(missing)}")
    return Upstream(name=name, **table)


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return str(parts) == path and not parts.is_absolute() and ".." not in parts.parts and "\\" not in path


@cache
def _own_manifest() -> dict[str, Upstream]:
    return read_manifest((importlib.resources.files(PACKAGE) / FILE).read_text(encoding="utf-8"))


def import_root(path: Path, upstream: Upstream) -> Path:
    """The folder that bare imports start from, in a checkout at `path`."""
    return path / upstream.root if upstream.root else path
