"""Small files that are there whole or not at all, and that say whether they are still what was written.

`config.toml` has its checksum in a comment, the first line; `summary.json` in a field, the last one. Every other reader
passes over both. It is the SHA-256 of all the rest, shortened to 64 bits: enough to notice damage, no protection from
somebody who wants to forge a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vdvae_patch.errors import RunError
from vdvae_patch.reading.fields import checked, parse_json
from vdvae_patch.skips.disks import discard
from vdvae_patch.skips.records import decode, encode

CHECKSUM = "checksum"
_DIGITS = 16
_FIRST_LINE = re.compile(rf"# {CHECKSUM}: ([0-9a-f]{{{_DIGITS}}})")


def digest(text: str) -> str:
    """The checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def with_comment(text: str) -> str:
    """A TOML file with its checksum in front, as a comment."""
    return f"# {CHECKSUM}: {digest(text)}\n{text}"


def comment_agrees(text: str) -> bool | None:
    """Whether a file that `with_comment` made is what it was; None if it has no checksum."""
    first, _, rest = text.partition("\n")
    found = _FIRST_LINE.fullmatch(first)
    return None if found is None else found[1] == digest(rest)


def json_text(record: Mapping[str, Any], *, checksum: bool = False) -> str:
    """One JSON object, floats that are not finite as strings; with its checksum as the last field, if asked for."""
    plain = encode(dict(record))
    if checksum:
        plain[CHECKSUM] = digest(_dumped(plain))
    return _dumped(plain)


def json_record(data: bytes, path: Path) -> tuple[dict[str, Any], bool]:
    """The inverse of `json_text`, and whether a checksum vouches for it.

    Raises:
        RunError: it is no JSON object, or not what was written.
    """
    raw: dict[str, Any] = checked(parse_json(data, str(path), RunError), dict[str, Any], str(path), RunError)
    found = raw.pop(CHECKSUM, None)
    # byte for byte: JSON reads some damaged text, such as 1E-05 for 1e-05, as what it was
    if found is not None and data != _dumped({**raw, CHECKSUM: digest(_dumped(raw))}).encode():
        raise RunError(f"{path} is damaged: its checksum does not match")
    return decode(raw), found is not None


def _dumped(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, indent=2) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one move; raises `RunError`, and then it is what it was."""
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another place to write a file to, with the same ending; it takes the place of `path` when the block has ended.

    Raises:
        RunError: it could not be written; what was there before is untouched.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror}") from error
    finally:
        discard(partial)
