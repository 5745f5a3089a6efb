"""Unpacking a .tar.gz that came from elsewhere: one folder of plain files, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from vdvae_patch.errors import DataError
from vdvae_patch.file_kinds import kind_of
from vdvae_patch.validation import one_line, short

_MEMBERS = 1_000  # that of CIFAR-10 has nine
_NAME = 255
_PIECE = 2**20


class _InPieces:
    """A stream for tarfile, which reads the header of a name in one piece, as long as the archive says that it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell, self.seek, self.close = stream.tell, stream.seek, stream.close

    def read(self, size: int = -1) -> bytes:
        """As of a file; raises `ReadError` for more than a mebibyte."""
        if not 0 <= size <= _PIECE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def md5_of(path: Path) -> str:
    """The file's MD5, hexadecimal: what the archive's publisher gives; it guards against damage, not malice."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def verify_md5(path: Path, expected: str, *, size: int) -> None:
    """Raise `DataError` unless the file is the published one, of `size` bytes; the message says what it is instead."""
    found = md5_of(path)
    if found == expected:
        return
    have, kind = path.stat().st_size, kind_of(path)
    if kind not in (None, "a gzip archive"):
        cause = f"it is {kind}"
    elif _is_whole_gzip(path):
        cause = "it is whole, but not the published one; if it was packed again, unpack it and name the folder"
    elif have < size:
        cause = f"it is cut off at {have:,} of {size:,} bytes; delete it and download it again"
    else:
        cause = "it is damaged; delete it and download it again"
    raise DataError(f"{path}: MD5 is {found}, not {expected}: {cause}")


def _is_whole_gzip(path: Path) -> bool:
    try:
        with gzip.open(path, "rb") as file:
            while file.read(2**20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def extract_folder(archive: Path, into: Path, folder: str, *, max_bytes: int) -> Path:
    """Unpack `folder`, the one top-level folder of a .tar.gz, to `into / folder`, and give that path.

    It is unpacked beside its final place and moved there in one go, so a folder of that name is always whole.

    Raises:
        DataError: members outside `folder`, links or devices, more than `max_bytes`, a damaged or cut-off archive, or
            a disk that is full or not writable.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError(f"{archive}: unpacking safely needs Python 3.11.4 or later; update it")
    try:
        with (
            gzip.open(archive) as stream,
            tarfile.open(fileobj=cast(Any, _InPieces(cast(IO[bytes], stream))), mode="r:") as tar,
            tempfile.TemporaryDirectory(dir=into, prefix=".unpack-") as workplace,
        ):
            members = list(_checked(tar, archive, folder, max_bytes))
            tar.extractall(workplace, members=members, filter="data")
            while stream.read(2**20):  # to the end, where the checksum is
                pass
            os.rename(Path(workplace, folder), into / folder)
    except DataError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, RecursionError, OverflowError) as error:
        raise DataError(f"{archive}: cannot be unpacked to {into} ({one_line(error)})") from None
    return into / folder


def _checked(tar: tarfile.TarFile, archive: Path, folder: str, max_bytes: int) -> Iterator[tarfile.TarInfo]:
    total = 0
    for number, member in enumerate(tar):
        if number >= _MEMBERS:
            raise DataError(f"{archive}: has more than {_MEMBERS:,} members; nothing was unpacked")
        if len(member.name) > _NAME:
            shown = short(member.name, 40)
            raise DataError(f"{archive}: member {shown!r} has a name that is too long; nothing was unpacked")
        path = PurePosixPath(member.name)
        if "\\" in member.name or ".." in path.parts or path.parts[:1] != (folder,):
            raise DataError(f"{archive}: member {member.name!r} lies outside {folder}/; nothing was unpacked")
        if not (member.isfile() or member.isdir()) or member.issparse():
            raise DataError(f"{archive}: member {member.name!r} is a link or a device; nothing was unpacked")
        total += member.size
        if total > max_bytes:
            raise DataError(f"{archive}: unpacks to more than {max_bytes:,} bytes; nothing was unpacked")
        yield member
    if total == 0:
        raise DataError(f"{archive}: holds no file in a folder {folder}")
