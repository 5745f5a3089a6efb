"""Checkpoints that are whole or not there, and never trusted without their checksum.

A checkpoint is a folder `step-00001000` with `state.pt` and `manifest.json`. It is written under another name, synced
to the disk, and then renamed; the manifest lists the SHA-256 of every file and carries one of itself. Reading checks
them all before a byte is interpreted, and then only `weights_only`: no code in a file is ever run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.train.records import decode, encode

FORMAT = 1
STATE = "state.pt"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What lies beside the weights.

    Attributes:
        step: how many steps were done.
        host, variant, arithmetic: what was trained, and how it was patched.
        heads: the patched heads as rows of text: path, channels, role, convention, scale.
        finite: whether the last step before it had finite losses.
        nelbo: of the last evaluation, nats per dimension; None before the first.
    """

    step: int
    host: str
    variant: str
    arithmetic: str
    heads: tuple[tuple[str, ...], ...]
    finite: bool
    nelbo: float | None


def save(folder: Path, info: CheckpointInfo, state: Mapping[str, Any], *, name: str | None = None) -> Path:
    """Write `folder/step-NNNNNNNN`, or `folder/name`, durably, and return it.

    Raises:
        RunError: no space left, or the folder cannot be written; earlier checkpoints are untouched.
    """
    final = folder / (name or f"step-{info.step:08d}")
    partial = folder / f".partial-{final.name}-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        digest, size = _write_state(partial / STATE, state)
        _write_manifest(partial / MANIFEST, info, digest, size)
        _sync(partial)
        replaced = set_aside(final) if final.exists() else None  # a run may come by a step that it had reached before
        partial.rename(final)
        _sync(folder)
        if replaced is not None:
            shutil.rmtree(replaced)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = "no space left" if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else error.strerror
        raise RunError(
            f"checkpoint {final} could not be written ({reason}); the earlier ones are whole: free space and --resume"
        ) from error
    return final


def load(path: Path) -> tuple[CheckpointInfo, dict[str, Any]]:
    """Read a checkpoint after checking every byte of it.

    Raises:
        CheckpointError: damaged, cut off, of another format, or not a checkpoint.
    """
    info, files = read_manifest(path)
    try:
        data = (path / STATE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint file {path / STATE} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != files[STATE]["sha256"]:
        raise CheckpointError(
            f"checkpoint file {path / STATE} is damaged: {len(data)} bytes with SHA-256 {digest[:12]}, "
            f"written were {files[STATE]['bytes']} with {files[STATE]['sha256'][:12]}"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return info, state


def read_manifest(path: Path) -> tuple[CheckpointInfo, dict[str, dict[str, Any]]]:
    """The manifest alone, checked against its own checksum; raises `CheckpointError`."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
        manifest = json.loads(data)
        checksum = manifest.pop("checksum")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"checkpoint file {file} is damaged") from None
    # byte for byte: JSON reads some damaged text, such as 1E-05 for 1e-05, as what it was
    if checksum != _checksum(manifest) or data != _manifest_bytes(manifest):
        raise CheckpointError(f"checkpoint file {file} is damaged: its checksum does not match")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {manifest['format']}; this version reads {FORMAT}")
    values = decode(manifest["info"])
    values["heads"] = tuple(tuple(row) for row in values["heads"])
    return CheckpointInfo(**values), manifest["files"]


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is good, and what was wrong with newer ones."""

    path: Path
    info: CheckpointInfo
    state: dict[str, Any]
    problems: tuple[str, ...]


def newest(folder: Path) -> Found:
    """The newest good checkpoint; damaged ones are reported in `problems`.

    Raises:
        CheckpointError: there is none, or every one is damaged; the message names each file.
    """
    problems: list[str] = []
    for path in checkpoints(folder):
        try:
            info, state = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        return Found(path, info, state, tuple(problems))
    raise CheckpointError("; ".join(problems) or f"{folder} holds no checkpoint")


def prune(folder: Path, keep: int = 2) -> None:
    """Delete old checkpoints, but for the last `keep`, the last finite and the best one.

    Damaged ones do not count, and are left for somebody to look at.
    """
    infos: dict[Path, CheckpointInfo] = {}
    for path in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            infos[path] = read_manifest(path)[0]
    kept = set(list(infos)[:keep])
    kept.update([path for path, info in infos.items() if info.finite][:1])
    measured = {path: info.nelbo for path, info in infos.items() if info.nelbo is not None and info.nelbo == info.nelbo}
    if measured:
        kept.add(min(measured, key=lambda path: measured[path]))
    for path in set(infos) - kept:
        delete(path)


def delete(path: Path) -> None:
    """Delete a checkpoint; if that is cut short, what is left does not look like one."""
    shutil.rmtree(set_aside(path))


def set_aside(path: Path) -> Path:
    """Rename a checkpoint so that it no longer looks like one."""
    aside = path.with_name(f".deleted-{path.name}-{os.getpid()}")
    path.rename(aside)
    return aside


def clean(folder: Path) -> None:
    """Delete what killed processes left behind; the caller holds the run's lock."""
    for aside in folder.glob(".deleted-*"):
        # killed between setting the old one aside and putting the new one in its place
        original = folder / aside.name.removeprefix(".deleted-").rsplit("-", 1)[0]
        if not original.exists() and any(folder.glob(f".partial-{original.name}-*")):
            aside.rename(original)
    for pattern in (".partial-*", ".deleted-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


class _Hashing(io.RawIOBase):
    """Passes bytes on to a file and hashes them on the way: what is checked later is what was meant, not what came."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.file.write(view)
        self.digest.update(view)
        self.size += len(view)
        return len(view)


def _write_state(path: Path, state: Mapping[str, Any]) -> tuple[str, int]:
    with path.open("wb") as file:
        stream = _Hashing(file)
        try:
            torch.save(dict(state), stream)  # type: ignore[arg-type]  # it asks for no more than `write`
        except RuntimeError as error:
            # torch's writer turns an OSError of the stream into a RuntimeError of its own
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else error  # noqa: B904
        file.flush()
        os.fsync(file.fileno())
    return stream.digest.hexdigest(), stream.size


def _write_manifest(path: Path, info: CheckpointInfo, digest: str, size: int) -> None:
    manifest = {
        "format": FORMAT,
        "torch": torch.__version__,
        "info": encode(vars(info)),
        "files": {STATE: {"sha256": digest, "bytes": size}},
    }
    with path.open("wb") as file:
        file.write(_manifest_bytes(manifest))
        file.flush()
        os.fsync(file.fileno())


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1).encode()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
