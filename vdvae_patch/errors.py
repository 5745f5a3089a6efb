"""Errors that a user can act on: one line, the value that was wrong, and what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import TextIO

_LONGEST = 8000  # characters of a message; the longest of our own, of a report, has about two thousand


class VdvaePatchError(Exception):
    """Base of every error this package raises on purpose.

    The command line prints its message as one line and exits with `exit_code`; `--debug` shows the traceback. Names
    from files (of variants, hosts, members of an archive) stand in messages: what would steer a terminal is escaped.
    """

    exit_code = 2

    def __str__(self) -> str:
        text = Exception.__str__(self)
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}... ({len(text):,} characters)"
        return visible(text)


class UnknownNameError(VdvaePatchError, KeyError):
    """A name that no registry entry, preset, host or field has."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known)}")


class InvalidValueError(VdvaePatchError, ValueError):
    """A value of the right kind that cannot be used, such as an omega that is not positive."""


class PatchError(VdvaePatchError, RuntimeError):
    """A patch that cannot be applied or removed."""


class SharedScaleError(PatchError):
    """Two heads were given different scales, and the host computes both in one place."""


class HostError(VdvaePatchError, RuntimeError):
    """A host code base that cannot be found, verified or imported."""


class DataError(VdvaePatchError, RuntimeError):
    """A data set that is missing, damaged, mis-shaped or that tries to run code."""


class CheckpointError(VdvaePatchError, RuntimeError):
    """A checkpoint that is damaged, or of another variant or host."""


class RunError(VdvaePatchError, RuntimeError):
    """A run that cannot start or go on: an occupied output folder, no space left, no such device."""


class GuardError(VdvaePatchError, RuntimeError):
    """A guard that cannot watch, or that ends a training as it was told to."""


def visible(text: str) -> str:
    """The text with what would steer a terminal escaped, as `\\x1b`; newlines and tabs stay.

    These are control characters, those that turn the direction of writing, and halves of surrogate pairs, which could
    not be printed at all.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _steers(c) else c.encode("unicode_escape").decode() for c in text)


def tell(text: str, file: TextIO) -> None:
    """Print it; what the encoding of a file or a terminal lacks, such as σ in ASCII, is escaped and not raised over."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'upbounded'? (known: ...)"`, the near misses first, for the end of a message."""
    options = sorted(known)
    by_lower = {option.lower(): option for option in reversed(options)}
    near = difflib.get_close_matches(name[:200].lower(), by_lower, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(by_lower[n]) for n in near)}?" if near else ""
    return f"{hint} (known: {', '.join(options)})" if options else hint
