"""A process that is this package again: the same files, whatever the folder is that it is started in."""

from __future__ import annotations

import sys
from pathlib import Path


def python() -> list[str]:
    """This interpreter, as the beginning of a command line whose modules are found where this process finds them.

    `python -m` looks into the current folder first, where another checkout of this package, or a `numpy.py` of
    somebody's, may lie; the command `vdvae-patch` does not. `-P` keeps the folder out, unless this process looks there,
    too.
    """
    here = Path.cwd()
    looks_here = any(Path(entry or ".").absolute() == here for entry in sys.path)
    return [sys.executable, *([] if looks_here else ["-P"])]


def command(*arguments: str) -> list[str]:
    """The command line of `vdvae-patch ARGUMENTS`."""
    return [*python(), "-m", "vdvae_patch", *arguments]
