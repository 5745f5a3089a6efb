"""Folders that are whole or not there, and never trusted without their checksum.

A sealed folder has `state.pt` and `manifest.json`. It is written under another name, synced to the disk, and then
renamed; the manifest lists the SHA-256 of every file and carries one of itself. Reading checks them all before a byte
is interpreted, and then only `weights_only`: no code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from vdvae_patch.errors import CheckpointError, RunError
from vdvae_patch.reading.fields import checked, one_line, parse_json, require, shown
from vdvae_patch.reading.tensor_files import require_bounded
from vdvae_patch.skips.disks import mend, reason
from vdvae_patch.skips.records import decode, encode

FORMAT = 1
STATE = "state.pt"
MANIFEST = "manifest.json"
_LONGEST = 16 * 2**20  # bytes of a manifest; that of a thousand heads has about 0.2 million


def numbered(folder: Path, prefix: str) -> list[Path]:
    """What lies in a folder under `PREFIX-NUMBER`, in the order of the numbers, however many digits these have."""
    found = [(path.name.removeprefix(f"{prefix}-"), path) for path in folder.glob(f"{prefix}-*")]
    digits = [(int(number), path) for number, path in found if number.isascii() and number.isdecimal()]
    return [path for _, path in sorted(digits)]


def write(final: Path, info: Mapping[str, Any], state: Mapping[str, Any], *, what: str, remedy: str) -> Path:
    """Write the folder `final` durably, and return it.

    Args:
        info: what the manifest says of it, as JSON has it.
        state: tensors and plain values.
        what, remedy: for the message of an error: what it is called, and what can be done, with `{mend}` for what
            helps.

    Raises:
        RunError: no space left, or the folder cannot be written; what was there before is untouched.
    """
    partial = final.parent / f".partial-{final.name}-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        digest, size = _write_state(partial / STATE, state)
        _write_manifest(partial / MANIFEST, info, digest, size)
        _sync(partial)
        replaced = set_aside(final) if final.exists() else None  # a run may come by a step that it had reached before
        partial.rename(final)
        _sync(final.parent)
        if replaced is not None:
            shutil.rmtree(replaced)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        helps = remedy.format(mend=mend(error))
        raise RunError(f"{what} {final} could not be written ({reason(error)}); {helps}") from error
    return final


def read(path: Path, *, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the manifest says, and the state, after checking every byte.

    Raises:
        CheckpointError: damaged, cut off, of another format, or nothing that was written here.
    """
    info, files = read_manifest(path, what=what)
    try:
        data = (path / STATE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{what} file {path / STATE} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != files[STATE]["sha256"]:
        raise CheckpointError(
            f"{what} file {path / STATE} is damaged: {len(data)} bytes with SHA-256 {digest[:12]}, "
            f"written were {files[STATE]['bytes']} with {files[STATE]['sha256'][:12]}"
        )
    return info, _state_of(data, f"{what} file {path / STATE}")


def _state_of(data: bytes, what: str) -> dict[str, Any]:
    """The checksum says that this is what somebody wrote, and not that `write` did."""
    try:
        require_bounded(data, what, sums=False)  # the manifest has one of the whole
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen types for what it did not write, pickle's among them
        # what torch says of a file that names code is how to run it
        why = "it names code, or is cut off" if isinstance(error, pickle.UnpicklingError) else one_line(error, 120)
        raise CheckpointError(f"{what} is no state that was saved here ({why})") from None
    return cast(dict[str, Any], checked(state, dict[str, Any], what, CheckpointError))


def read_manifest(path: Path, *, what: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The manifest alone, checked against its own checksum; raises `CheckpointError`."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a {what}: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{what} file {file} cannot be read: {error.strerror}") from None
    where = f"{what} file {file}"
    parsed = parse_json(data, where, CheckpointError, most=_LONGEST)
    manifest = dict(checked(parsed, dict[str, Any], where, CheckpointError))
    checksum = manifest.pop("checksum", None)
    # byte for byte: JSON reads some damaged text, such as 1E-05 for 1e-05, as what it was
    if checksum != _checksum(manifest) or data != _manifest_bytes(manifest):
        raise CheckpointError(f"{what} file {file} is damaged: its checksum does not match")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{what} {path} has format {shown(manifest.get('format'))}; this version reads {FORMAT}")
    require(manifest, {"info": dict[str, Any], "files": dict[str, dict[str, Any]]}, where, CheckpointError)
    require(manifest["files"], {STATE: dict[str, Any]}, f"{where}: files", CheckpointError)
    require(manifest["files"][STATE], {"sha256": str, "bytes": int}, f"{where}: files.{STATE}", CheckpointError)
    return decode(manifest["info"]), manifest["files"]


def delete(path: Path) -> None:
    """Delete a sealed folder; if that is cut short, what is left does not look like one."""
    shutil.rmtree(set_aside(path))


def set_aside(path: Path) -> Path:
    """Rename a sealed folder so that it no longer looks like one."""
    aside = path.with_name(f".deleted-{path.name}-{os.getpid()}")
    path.rename(aside)
    return aside


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


def _write_manifest(path: Path, info: Mapping[str, Any], digest: str, size: int) -> None:
    manifest = {
        "format": FORMAT,
        "torch": torch.__version__,
        "info": encode(info),
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
