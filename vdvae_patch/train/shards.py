"""Weights in several files with an index beside them, as transformers, diffusers and accelerate write them."""

from __future__ import annotations

from pathlib import Path

from vdvae_patch.errors import CheckpointError
from vdvae_patch.reading.fields import parse_json, require, short

_INDEX = ".index.json"
_MOST = 10_000


def index_of(path: Path) -> Path | None:
    """The index that a path is, or that lies alone in the folder that it is; None where there is none.

    Its name is that of the weights with `.index.json` behind it: `model.safetensors.index.json`,
    `pytorch_model.bin.index.json`.
    """
    if path.is_file():
        return path if path.name.endswith(_INDEX) else None
    found = sorted(path.glob(f"*{_INDEX}")) if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def whole_beside(index: Path) -> Path | None:
    """One file of the same weights beside an index, `model.safetensors`; None where there is none."""
    whole = index.with_name(index.name.removesuffix(_INDEX))
    return whole if whole.is_file() else None


def files_of(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, all beside it, and the names of the tensors that each of them is to hold.

    Raises:
        CheckpointError: it is damaged, names a file elsewhere, or one that is not there.
    """
    try:
        content = index.read_bytes()
    except OSError as error:
        raise CheckpointError(f"index of weights {index} cannot be read: {error.strerror or error}") from None
    document = parse_json(content, str(index), CheckpointError)
    names: dict[str, str] = require(document, {"weight_map": dict[str, str]}, str(index), CheckpointError)["weight_map"]
    files: dict[Path, list[str]] = {}
    for tensor, name in names.items():
        if Path(name).name != name:
            raise CheckpointError(f"index of weights {index} names {short(name)!r}, which does not lie beside it")
        files.setdefault(index.parent / name, []).append(tensor)
    if not files or len(files) > _MOST:
        raise CheckpointError(f"index of weights {index} names {len(files):,} files, not 1 to {_MOST:,}")
    if gone := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"index of weights {index} names {len(files)} files, of which {len(gone)} are not there, such as "
            f"{short(gone[0])!r}; copy or download the folder again"
        )
    return files
