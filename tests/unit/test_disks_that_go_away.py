"""A disk that goes away while something is written: one line, which says what helps, and nothing else is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vdvae_patch.errors import RunError
from vdvae_patch.guarding.folder import GuardFolder
from vdvae_patch.skips import sealed
from vdvae_patch.skips.counted import write_counts
from vdvae_patch.skips.records import JsonLines
from vdvae_patch.skips.whole import write_whole
from vdvae_patch.train.folder import RunFolder


def gone(number: int = errno.ENOTCONN) -> Any:
    def raised(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return raised


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOSPC])
def test_what_helps_is_said_of_that_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(os, "fsync", gone(number))
    with pytest.raises(RunError) as of_log:
        log.sync()
    with pytest.raises(RunError) as of_state:
        sealed.write(tmp_path / "step-1", {}, {}, what="checkpoint", remedy="the others are whole: {mend}")
    for error in (of_log, of_state):
        full = number == errno.ENOSPC
        assert ("free space" if full else "see that its disk is there") in str(error.value)
        assert ("no space left" if full else os.strerror(number)) in str(error.value)


def test_a_guard_promises_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = GuardFolder(tmp_path, "0" * 32).log()
    monkeypatch.setattr(os, "fsync", gone())
    with pytest.raises(RunError, match="the training goes on without it; see that its disk") as error:
        log.sync()
    assert "--resume" not in str(error.value)


@pytest.mark.parametrize(
    "write", [lambda path: write_whole(path / "a.toml", "x"), lambda path: write_counts(path, "", {})]
)
def test_a_half_written_file_that_cannot_be_deleted_is_not_what_is_told(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, gone())
    with pytest.raises(RunError, match=r"could not be written: Transport endpoint"):
        write(tmp_path)


def test_a_lock_that_cannot_be_closed_hides_no_error(tmp_path: Path) -> None:
    class Lock:
        close = gone(errno.ESTALE)

    RunFolder(tmp_path, Lock()).close()  # type: ignore[arg-type]
