"""Downloading a file of known MD5 to the cache folder; what was cut goes on where it stopped."""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdvae_patch.errors import DataError
from vdvae_patch.machine import CACHE_VARIABLE

_BLOCK = 2**18


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and let one process at a time work in it: all ranks ask for the same file at once."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".vdvae_patch.lock")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise DataError(
            f"{folder}: cannot be written to ({error}); set {CACHE_VARIABLE} to a folder that can"
        ) from None
    try:
        yield
    finally:
        lock.release()


def download(url: str, folder: Path, *, md5: str) -> Path:
    """The file at `url`, in `folder` under its own name; at once if it is there and has that MD5.

    An interrupted download leaves `<name>.part`, which the next call continues.

    Raises:
        DataError: no connection, an answer that is not the file, or a file of another MD5, which is removed.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says the same
    target = folder / url.rsplit("/", 1)[-1]
    fetch = _Resuming(target.with_name(target.name + ".part"))
    try:
        pooch.retrieve(url, known_hash=f"md5:{md5}", fname=target.name, path=folder, downloader=fetch)
    except ValueError:  # pooch's word for a wrong hash; it has removed the file
        raise DataError(f"{url}: what was downloaded does not have MD5 {md5} and was removed; try again") from None
    except (OSError, http.client.HTTPException) as error:
        got = fetch.part.stat().st_size if fetch.part.exists() else 0
        kept = f"; {got:,} bytes are kept in {fetch.part} and the next try goes on from there" if got else ""
        raise DataError(
            f"{url}: download failed ({_reason(error)}){kept}; put the file in {folder}, or say where it "
            "lies: --data-root FOLDER; without any data --data builtin has small images"
        ) from None
    return target


@dataclass(frozen=True)
class _Resuming:
    """A pooch downloader that appends to `part`, and hands it over once it is whole."""

    part: Path
    timeout_seconds: float = 60.0

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        if not url.startswith(("https://", "http://")):
            raise OSError(f"not a web address: {url}")
        whole = self._request(url)
        # A connection that was cut after some progress is taken up again at once; one that gives nothing is an error.
        while whole is not None and (before := self._size()) != whole:
            whole = self._request(url)
            if self._size() <= before:
                raise ConnectionError(f"got {self._size():,} of {whole or before:,} bytes")
        os.replace(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _request(self, url: str) -> int | None:
        """One request from the end of `part` on; the length of the whole file, if the server tells it."""
        have = self._size()
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as answer:
                start, whole = _extent(answer, have)
                self._append(answer, start, whole)
                return whole
        except urllib.error.HTTPError as error:
            if not have or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return have  # nothing is left to ask for
        self.part.unlink()  # longer than the file, so not a beginning of it
        return self._request(url)

    def _append(self, answer: Any, start: int, whole: int | None) -> None:
        with self.part.open("ab") as file, _progress_bar(self.part.stem, start, whole) as advance:
            file.truncate(start)
            for block in _blocks(answer, length_is_known=whole is not None):
                file.write(block)
                advance(len(block))


def _blocks(answer: http.client.HTTPResponse, *, length_is_known: bool) -> Iterator[bytes]:
    try:
        while block := answer.read(_BLOCK):
            yield block
    except (ConnectionError, TimeoutError, http.client.HTTPException):
        if not length_is_known:  # else the caller sees that bytes are missing, and asks for them
            raise


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer starts in the file, and the file's length if the server tells."""
    content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        if content_range is None or int(content_range[1]) != have:
            raise ConnectionError(f"asked for bytes from {have} on, got {answer.headers.get('Content-Range')!r}")
        return have, int(content_range[2])
    length = answer.headers.get("Content-Length")  # a server without ranges sends the file from its start
    return 0, int(length) if length else None


@contextmanager
def _progress_bar(title: str, done: int, total: int | None) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
