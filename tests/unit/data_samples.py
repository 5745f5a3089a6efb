"""Small data sets in their original formats, and a web server on the loopback that can misbehave."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from vdvae_patch.data.cifar10 import FOLDER, TEST_FILE, TRAIN_FILES
from vdvae_patch.data.pixels import UInt8


def random_images(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> UInt8:
    return np.random.RandomState(seed).randint(0, 256, (n, size, size, channels)).astype(np.uint8)


def python2_batch(images: UInt8) -> bytes:
    """A batch file byte for byte as Python 2 wrote it: protocol 2, keys and array bytes as Python-2 strings."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    raw = b"T" + struct.pack("<i", rows.size) + rows.tobytes()
    shape = number(rows.shape[0]) + number(rows.shape[1]) + b"\x86"
    array = empty + b"(" + number(1) + shape + dtype + b"\x89" + raw + b"tb"
    labels = b"](" + b"".join(number(i % 10) for i in range(len(rows))) + b"e"
    return b"\x80\x02}(" + text(b"labels") + labels + text(b"data") + array + b"u."


def write_cifar10(root: Path, rows: int = 20) -> UInt8:
    """`cifar-10-batches-py` below `root`, `rows` images a file; gives all 6 * rows images, test images last."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    images = random_images(6 * rows)
    for name, part in zip((*TRAIN_FILES, TEST_FILE), np.split(images, 6), strict=True):
        (folder / name).write_bytes(python2_batch(part))
    return images


def write_cifar10_archive(path: Path, scratch: Path) -> str:
    """A .tar.gz of `write_cifar10`; gives its MD5."""
    write_cifar10(scratch)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(scratch / FOLDER, arcname=FOLDER)
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def tar_with(path: Path, members: list[tarfile.TarInfo]) -> Path:
    """A .tar.gz with these members; files are filled with zeros."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.isfile() else None)
    return path


@dataclass
class FileServer:
    """Serves `body` at any path; each entry of `cuts` ends one answer after so many bytes, the first entry first."""

    body: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start and start >= len(self.body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(self.body)
        request.wfile.write(self.body[start:end])


@contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Keep test output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        server.url = f"http://127.0.0.1:{web.server_address[1]}/cifar-10-python.tar.gz"
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            web.shutdown()
            thread.join(timeout=10)
