"""Files of weights as people have them, read without running anything that is in them; or what they are instead."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vdvae_patch.document.seal import require_unchanged
from vdvae_patch.errors import CheckpointError
from vdvae_patch.patching.state import variant_of_state
from vdvae_patch.reading.archives import open_zip
from vdvae_patch.reading.fields import one_line, parse_json, require, short, shown
from vdvae_patch.reading.kinds import kind_of
from vdvae_patch.reading.tensor_files import require_bounded
from vdvae_patch.saving import weights as safetensors_files
from vdvae_patch.saving.folder import PATCH, WEIGHTS
from vdvae_patch.train import checkpoint
from vdvae_patch.train.shards import files_of, index_of, whole_beside

DEPTH = 3
"""So many keys deep weights are looked for: `{"checkpoint": {"state_dict": {"model": ...}}}`."""

_SHOWN = 6
_MOST_CLASSES = 100
_MEMBERS = 100_000
_PICKLED = "_vdvae_patch_pickled"
_RESAVE = (
    "code in a file is not run: where it can be loaded, save torch.save(model.state_dict(), 'weights.pt') and name that"
)
_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors", ".tar")


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        path: where it lies, for messages.
        content: tensors by name, or mappings that hold them at some depth, beside anything else.
        chosen: which of several state_dicts is asked for, such as `ema`; None leaves the choice to us.
    """

    path: Path
    content: Mapping[str, Any]
    chosen: str | None = None

    def variant(self) -> str | None:
        """The variant that was noted with the weights, or in the `patch.json` beside them; None if none was."""
        return _variant_of(self.content, DEPTH) or _variant_beside(self.path)


class _StandIn(type):
    """The type of classes that stand for those of a file: its code is not run, and its objects do nothing.

    Checkpoints of frameworks hold such objects beside the weights: settings, callbacks, enums. One that is made without
    a call may be filled like a mapping, and torch fills none but its own kinds of it: it becomes an `OrderedDict`. One
    that is made by a call (arrays, paths) becomes an `Unread`.
    """

    def __call__(cls, *args: object, **named: object) -> Any:
        made = object.__new__(Unread)
        made.name = f"{cls.__module__}.{cls.__name__}"
        return made


class Unread:
    """An object of a file that was not made, and the name of what it was an object of."""

    name: str

    def __setstate__(self, state: object) -> None:
        pass


def _stand_in(full: str) -> tuple[Any, str]:
    """What torch is to take for a class or function of this name."""

    def new(cls: type, *args: object, **named: object) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        vars(made)[_PICKLED] = full
        return made

    if full in _FILLED:
        return _FILLED[full], full
    module, _, name = full.rpartition(".")
    return _StandIn(name, (), {"__module__": module, "__new__": new}), full


def _dict(*args: object) -> dict[Any, Any]:
    return {}


def _list(*args: object) -> list[Any]:
    return []


_FILLED = {"collections.defaultdict": _dict, "collections.deque": _list}
"""What is made by a call and then filled."""


def split_choice(path: Path) -> tuple[Path, str | None]:
    """`FILE:KEY` into the file and the key; a path that exists as it is has none."""
    path = path.expanduser()
    before, colon, key = str(path).rpartition(":")
    if colon and before and key and not path.exists() and Path(before).exists():
        return Path(before), key
    return path, None


def read_file(path: Path) -> WeightsFile:
    """Read a file that `torch.save` wrote, or safetensors; on the CPU, and never with code that it names.

    A folder whose weights lie in several files, or the index of these, is read as one.

    Raises:
        CheckpointError: there is no such file, or it is something else; the message says what, if that can be told.
    """
    if (index := index_of(path)) is not None:
        if path.is_dir() and (whole := whole_beside(index)) is not None:
            raise CheckpointError(
                f"weights {path} is a folder with {whole.name} and with the files that {index.name} names, and they "
                f"may be of two times; name the one that is meant: {whole} or {index}"
            )
        return WeightsFile(index, _joined(index))
    if path.is_dir():
        raise CheckpointError(f"weights {path} is a folder{_in_folder(path)}")
    if not path.exists():
        raise CheckpointError(f"weights file {path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"weights {path} is no file; name one that torch.save or safetensors wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol, and of archives that are refused anyway
            loaded = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except (CheckpointError, MemoryError):
        raise
    except OSError as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # torch raises half a dozen types for a damaged file, pickle's among them
        raise CheckpointError(f"weights file {path} cannot be read: {_what_it_is(path, error)}") from error
    if (name := _class_of(loaded)) is not None and not loaded:
        raise CheckpointError(f"weights file {path} holds a pickled {name}, not a state_dict; {_RESAVE}")
    if isinstance(loaded, Mapping):
        return WeightsFile(path, loaded)
    raise CheckpointError(f"weights file {path} does not hold a state_dict but {describe(loaded)}")


def _joined(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    content: dict[str, Any] = {}
    for file, names in files_of(index).items():
        part = read_file(file).content
        if absent := [name for name in names if name not in part]:
            raise CheckpointError(
                f"weights file {file} lacks {len(absent)} of the {len(names)} tensors that {index.name} names in it, "
                f"such as {short(absent[0])!r}; copy or download the folder again"
            )
        content |= {name: part[name] for name in names}
    return content


def describe(value: object) -> str:
    """`"a tensor [3, 4]"`, `"12 tensors"`, `"a list of 3"`: a value in a file in few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {shape_of(value)}"
    if isinstance(value, str | bytes):
        return type(value).__name__
    if (name := _class_of(value)) is not None and not (isinstance(value, Mapping) and value):
        return f"an object of {name}"
    if isinstance(value, Mapping):
        tensors = sum(isinstance(item, torch.Tensor) for item in value.values())
        return f"{tensors} tensors" if tensors else f"a dict of {listed(value, nested=False)}" if value else "empty"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__}"


def shape_of(tensor: torch.Tensor) -> list[int]:
    """The shape; empty for a nested tensor, which has none."""
    return [] if tensor.is_nested else list(tensor.shape)


def listed(content: Mapping[Any, Any], *, nested: bool = True) -> str:
    """`"'model' (12 tensors), 'step' (int)"`: the first keys of a mapping."""
    first = list(islice(content.items(), _SHOWN))
    keys = [f"{shown(key)} ({describe(value)})" if nested else shown(key) for key, value in first]
    more = len(content) - len(keys)
    return ", ".join(keys) + (f" and {more} more" if more > 0 else "")


def _read_torch(path: Path) -> Any:
    require_bounded(path, f"weights file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    # objects of other classes lie beside the weights
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    if len(unknown) > _MOST_CLASSES:
        raise CheckpointError(
            f"weights file {path} holds objects of {len(unknown):,} classes, more than are left out; {_RESAVE}"
        )
    try:
        with torch.serialization.safe_globals([Unread, *map(_stand_in, unknown)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, TypeError):
        raise CheckpointError(
            f"weights file {path} holds objects of {short(', '.join(unknown[:_SHOWN]))} that cannot be left out; "
            f"{_RESAVE}"
        ) from None


def _is_safetensors(path: Path) -> bool:
    """A header of JSON, after its length in eight bytes; the suffix alone does not make one."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            ours = set((opened.metadata() or {}).values()) <= {"pt", *opened.keys()}
            if not ours:  # settings in the header, as people write them there
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
    except SafetensorError as error:
        raise CheckpointError(
            f"weights file {path} is a damaged or cut off file of safetensors: {one_line(error)}"
        ) from None
    _require_saved_bytes(path)
    return dict(safetensors_files.read(path))


def _require_saved_bytes(path: Path) -> None:
    """Refuse weights of a folder of `vdvae_patch.save` that are not those which the patch beside them names.

    The format itself has no checksum: a flipped bit is another weight.
    """
    told = _beside(path).get("weights")
    sha256 = told.get("sha256") if isinstance(told, dict) else None
    if isinstance(sha256, str) and sha256 != safetensors_files.digest(path):
        raise CheckpointError(
            f"weights file {path} is not the file that was saved with the {PATCH} beside it: its SHA-256 is another; "
            "it is damaged, or was replaced; copy the folder again, or move the file into a folder of its own"
        )


def _what_it_is(path: Path, error: Exception) -> str:
    kind = kind_of(path)
    if kind == "a zip archive":
        return _what_zip(path)
    if kind is not None:
        return f"it is {kind}"
    if isinstance(error, pickle.UnpicklingError) and _starts_with(path, b"\x80"):
        return f"it is a pickle that torch.save did not write as a state_dict; {_RESAVE}"
    if path.suffix == ".safetensors":
        return "it is cut off, or no file of safetensors; copy or download it again"
    return (
        f"it is cut off, or of neither torch.save nor safetensors ({type(error).__name__}); copy or download it again"
    )


def _what_zip(path: Path) -> str:
    try:
        with open_zip(path, members=_MEMBERS) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        if "more than" in str(error):
            return f"it is a zip archive: {one_line(error)}"
        return "it is cut off (a zip archive, or what torch.save writes, without its end); copy or download it again"
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        return "it is a TorchScript archive; save its weights: torch.save(torch.jit.load(FILE).state_dict(), ...)"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "it is a file of torch.save that is damaged; copy or download it again"
    if any(name.endswith(".npy") for name in names):
        return f"it is an .npz archive of arrays ({', '.join(names[:3])}); save a state_dict with torch.save"
    inside = next((name for name in names if name.endswith(_SUFFIXES)), None)
    has = f" (it holds {inside or names[0]!r})" if names else " (empty)"
    return f"it is a zip archive{has}; unpack it and name the file of weights"


def _in_folder(path: Path) -> str:
    """What to name instead of a folder."""
    for place in (path / "checkpoints", path):
        if found := checkpoint.checkpoints(place):
            return f" of checkpoints; name one of them: {found[0]}"
    names = sorted(p.name for p in path.iterdir() if p.is_file())
    if any(name.endswith(".distcp") for name in names):
        return (
            " of a distributed checkpoint; make one file of it: python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {path} weights.pt"
        )
    files = [name for name in names if name.endswith(_SUFFIXES)]
    return f" and no checkpoint of ours; name a file in it: {path / files[0]}" if files else ", not a file of weights"


def _variant_of(content: Mapping[Any, Any], depth: int) -> str | None:
    level, seen = [content], {id(content)}
    for _ in range(depth + 1):
        for mapping in level:
            if (noted := variant_of_state(mapping)) is not None:
                return noted
        # each once: a file can hold one mapping under a million names
        inner = {id(item): item for mapping in level for item in mapping.values() if isinstance(item, Mapping)}
        level = [item for key, item in inner.items() if key not in seen]
        seen |= inner.keys()
    return None


def _variant_beside(path: Path) -> str | None:
    """What `vdvae_patch.save` wrote beside `model.safetensors`: its state_dict cannot hold the note itself."""
    file, document = path.parent / PATCH, _beside(path)
    if not document:
        return None
    patches: list[Any] = require(document, {"patches": list[dict[str, Any]]}, str(file), CheckpointError)["patches"]
    if not patches:
        raise CheckpointError(f"{file}, the patch of {path.name}, is damaged: it has no patches; copy the folder again")
    variant: str = require(patches[0], {"variant": str}, f"{file}: patches[0]", CheckpointError)["variant"]
    return variant


def _beside(path: Path) -> dict[str, Any]:
    """The patch that `vdvae_patch.save` wrote beside a file of weights; empty where it wrote none."""
    file = path.parent / PATCH
    if path.name != WEIGHTS or not file.exists():
        return {}
    try:
        document = parse_json(file.read_bytes(), str(file), CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{file}, the patch of {path.name}, cannot be read ({error.strerror})") from None
    found: dict[str, Any] = require(document, {}, str(file), CheckpointError)
    require_unchanged(found, f"{file}, the patch of {path.name},", CheckpointError)
    return found


def _class_of(value: object) -> str | None:
    """The name of the class in the file for which `value` stands."""
    if isinstance(value, Unread):
        return value.name
    return vars(value).get(_PICKLED) if type(value) is OrderedDict else None


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
