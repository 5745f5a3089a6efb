"""The numbers that the papers print, from `published.toml`, the one place where they stand.

A comparison with a paper is worth what its numbers are: the file is read only if it has the checksum that is known
here, so that whoever changes a number has to do it twice, and a test holds each against the papers.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from vdvae_patch.errors import DataError

FILE = Path(__file__).with_name("published.toml")
SHA256 = "2a210c112217dbcf96409864bf324ae6d4132c6143ea35626e92b6d32080790e"


@cache
def published(file: Path = FILE, sha256: str = SHA256) -> dict[str, Any]:
    """The tables of the file, by name.

    Raises:
        DataError: the file is missing, or has another checksum.
    """
    try:
        content = file.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise DataError(
            f"{file}: the published numbers cannot be read ({error.strerror}); install the package anew"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{file}: the published numbers were changed (SHA-256 {found[:12]}..., not {sha256[:12]}...); put the file "
            "back, or, if a number of a paper was wrong, correct SHA256 in published.py and the number in its test, too"
        )
    return tomllib.loads(content.decode())


def mean_and_deviation(numbers: list[float]) -> tuple[float, float]:
    """Of a pair in the file."""
    mean, deviation = numbers
    return mean, deviation
