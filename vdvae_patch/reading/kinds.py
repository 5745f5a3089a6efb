"""What a file is that is not what was asked for, told from its first bytes: for messages."""

from __future__ import annotations

from pathlib import Path

_POINTER = b"version https://git-lfs.github.com/spec"
_MAGIC = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"),
    (b"\x93NUMPY", "a .npy array"),
    (b"PAR1", "a parquet file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"MATLAB", "a MATLAB file"),
    (b"GGUF", "a GGUF file"),
)


def kind_of(path: Path) -> str | None:
    """`"a git LFS pointer (run `git lfs pull`)"`: what a file is and what to do about it, or None if nothing is known.

    Nothing but the first bytes is read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    return kind_of_bytes(head)


def kind_of_bytes(head: bytes) -> str | None:
    """The same for the first bytes of a file."""
    if not head:
        return "an empty file; copy or download it again"
    if head.startswith(_POINTER):
        return "a git LFS pointer, not the file itself; fetch that with `git lfs pull`"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "a web page (HTML), such as a log-in or an error page; download the file itself"
    if text.startswith(b"<?xml"):
        return "an XML text, such as a server's error; download the file itself"
    if not head.strip(b"\0"):
        return "nothing but zeros, as a download that was broken off leaves; download it again"
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)
