"""A zip archive whose list of members is not too long: Python reads it whole before anything can be asked."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO

from vdvae_patch.validation import one_line

_END = struct.Struct("<4s4H2LH")
_SIGNATURE = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LONGEST_NAME = 1_000


def open_zip(source: Path | IO[bytes], *, members: int) -> zipfile.ZipFile:
    """The archive, its list of members read; neither of them is unpacked.

    Raises:
        zipfile.BadZipFile: no whole zip archive, one of more than `members`, or one with a name of more than a thousand
            characters.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            require_few(file, members)
    else:
        require_few(source, members)
    try:
        archive = zipfile.ZipFile(source)
    except (ValueError, struct.error, OverflowError, NotImplementedError, RuntimeError, EOFError) as error:
        raise zipfile.BadZipFile(f"its list of members is damaged ({one_line(error, 80)})") from None
    if any(len(name) > _LONGEST_NAME for name in archive.namelist()):
        archive.close()
        raise zipfile.BadZipFile(f"a member has a name of more than {_LONGEST_NAME:,} characters")
    return archive


def require_few(file: IO[bytes], members: int) -> None:
    """Raise `zipfile.BadZipFile` if the list of members at the end of a file has more of them, or none can be found."""
    size = file.seek(0, 2)
    start = max(0, size - 2**16 - _END.size)
    file.seek(start)
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_SIGNATURE)
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("its list of members is missing")
    bytes_of_list = _END.unpack_from(tail, at)[5]
    if bytes_of_list == 2**32 - 1 and at >= _LOCATOR.size:  # the number is in a record of its own
        mark, _, where, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        if mark == b"PK\x06\x07" and where + _END64.size <= size:
            file.seek(where)
            bytes_of_list = _END64.unpack(file.read(_END64.size))[8]
            file.seek(0)
    # not the number that is written there, which nobody compares; a member takes 46 bytes and its name
    if bytes_of_list > members * 256:
        raise zipfile.BadZipFile(f"its list of members has {bytes_of_list:,} bytes, those of more than {members:,}")
