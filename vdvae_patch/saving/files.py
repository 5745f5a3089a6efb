"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdvae_patch.errors import CheckpointError


@contextmanager
def new_folder(folder: Path, names: frozenset[str], overwrite: bool) -> Iterator[Path]:
    """A folder beside it to write into, which takes its place when the block ends, and is gone if it raises.

    Args:
        names: the files that it will have; a folder with others is nobody's to replace.

    Raises:
        CheckpointError: something is there that is not to be overwritten, or the folder cannot be written.
    """
    _refuse_other(folder, names, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    try:
        yield made
        mask = _umask()
        made.chmod(0o777 & ~mask)
        for file in made.iterdir():
            file.chmod(0o666 & ~mask)  # safetensors lets its owner alone read it
        for file in (*made.iterdir(), made):
            _to_disk(file)
        _exchange(made, folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _refuse_other(folder: Path, names: frozenset[str], overwrite: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise CheckpointError(f"{folder} exists, and is no folder; choose another name")
    there = {file.name for file in folder.iterdir()}
    if there - names:
        raise CheckpointError(
            f"{folder} holds other files ({sorted(there - names)[0]}); choose a folder of its own, or write "
            "vdvae_patch.patch_json(model) into a file beside them"
        )
    if there and not overwrite:
        raise CheckpointError(f"{folder} exists already; choose another name, or save(..., overwrite=True)")


def _exchange(made: Path, folder: Path) -> None:
    if not folder.exists():
        made.rename(folder)
        return
    if _swapped(made, folder):
        shutil.rmtree(made, ignore_errors=True)
        _to_disk(folder.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old)
    try:
        made.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _to_disk(folder.parent)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _swapped(one: Path, other: Path) -> bool:
    """Let two folders change places in one move, so that a process that is killed leaves the old one or the new one
    there. Linux has this alone, and not on every file system: whether it was done."""
    rename = getattr(_LIBC, "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def _to_disk(path: Path) -> None:
    # a folder cannot be opened on some systems, and then there is no more to do for it
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
