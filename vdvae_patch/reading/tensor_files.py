"""What a file of `torch.save` would need, told before torch reads it: no more memory than the file has bytes.

`torch.load(weights_only=True)` runs no code. But it believes a file: it makes storages and byte arrays of the sizes
that the file asks for, gives tensors out of bytes that are not there, and takes hours for keys that all have one hash.
Nor does it look at the checksums that the file has of its members: one flipped bit is another weight, without a word.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from vdvae_patch.errors import CheckpointError
from vdvae_patch.reading.archives import open_zip
from vdvae_patch.reading.pickles import BoundedUnpickler, TooMuchError, counted

_MEMBERS = 100_000
_MORE = 2**28  # bytes that the members of an archive may have beyond its own, where they are packed
_LEGACY = 5  # pickles in front of the storages, in the format before torch 1.6
_MAGIC = 0x1950A86A20F9469CFC6C
_CHUNK = 2**20
_CALL = 20  # operations that a call counts as
_ELEMENT = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1, "QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1,
    "QUInt2x4": 1,
}  # fmt: skip
_OF_KEYS = frozenset(
    {
        "builtins.set", "builtins.frozenset", "builtins.dict", "collections.OrderedDict", "collections.Counter",
        "collections.defaultdict", "__builtin__.set",
    }
)  # fmt: skip


def require_bounded(source: Path | bytes, what: str, *, sums: bool = True) -> None:
    """Refuse a file of `torch.save` that asks for more than it holds, or whose values are not what was written.

    Args:
        what: what the file is called in the message.
        sums: whether the checksums of its members are compared; the whole is read for it. A file of the format before
            torch 1.6 has none, nor has one that was saved with `torch.serialization.set_crc32_options(False)`.

    Raises:
        CheckpointError: what it asks for.
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ...: it is cut off, or none of torch's, see `DAMAGE`.
    """
    file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            if file.read(4) == b"PK\x03\x04":
                _require_archive(file, size, sums)
            else:
                file.seek(0)
                _require_legacy(file, size)
        except TooMuchError as error:
            raise CheckpointError(f"{what} is damaged or forged: it asks for {error}") from None


class _Thing:
    """Stands for whatever a pickle names or makes."""

    def __init__(self, name: str, elements: int | None = None) -> None:
        self.name = name
        self.elements = elements  # of a storage

    def append(self, item: Any) -> None:
        """What fills it is left out."""

    def extend(self, items: Any) -> None:
        """What fills it is left out."""


class _Outline(BoundedUnpickler):
    """Reads what a pickle of torch's asks for, and makes nothing of it.

    Args:
        records: bytes of each storage by its key; None where they follow the pickles, and are `size` together.
    """

    def __init__(self, source: bytes | IO[bytes], size: int, records: dict[str, int] | None) -> None:
        super().__init__(source)
        self.size, self.records, self.encoded = size, records, 0
        self.known: dict[str, int] = {}
        self.total = 0

    def find_class(self, module: str, name: str) -> Any:
        return _Thing(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, elements = pid[:5]
        if kind not in ("storage", b"storage"):
            return _Thing("module")
        short = storage.name.rpartition(".")[2].removesuffix("Storage") if isinstance(storage, _Thing) else ""
        wanted = _integer(elements, "a storage") * _ELEMENT.get(short, 1)
        name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
        have = self.size if self.records is None else self.records.get(name, 0)
        if wanted > have:
            raise TooMuchError(f"storage {name[:40]!r} of {wanted:,} bytes, of which {have:,} are there")
        self.total += wanted - self.known.get(name, 0)
        self.known[name] = wanted
        if self.total > self.size and self.records is None:
            raise TooMuchError(f"storages of {self.total:,} bytes, and the file has {self.size:,}")
        return _Thing("storage", elements)

    def put(self, target: Any, items: list[Any]) -> None:
        for key in items[::2]:
            self.require_key(key)

    def call(self, function: Any, args: Any) -> _Thing:
        """What is made of a call."""
        name = function.name if isinstance(function, _Thing) else ""
        args = args if isinstance(args, tuple) else ()
        if name in _OF_KEYS:
            for item in [item for arg in args if isinstance(arg, list | tuple) for item in arg]:
                self.require_key(item[0] if isinstance(item, list | tuple) and len(item) == 2 else item)
        if name.rpartition(".")[2] in ("bytearray", "bytes") and args and isinstance(args[0], int):
            self._require_room(args[0], "a byte array")
        if name.endswith("codecs.encode"):
            if args[1:] not in (("latin1",), ("latin-1",)):
                raise TooMuchError(f"bytes in the encoding {str(args[1:])[:40]}")
            self.encoded += len(args[0])
            self._require_room(self.encoded, "bytes")
        if name.startswith("torch.") and name.endswith(("Tensor", "Storage")) and any(type(a) is int for a in args):
            raise TooMuchError(f"a {name} that the file has no values of")
        if "_rebuild_device_tensor" in name:
            raise TooMuchError(f"{name}, which makes a tensor of another device")
        if "_rebuild_tensor" in name or "_rebuild_qtensor" in name:
            self._require_inside(args)
        return _Thing(f"a call of {name}")

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], args)

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(state, list | tuple) and state:
            self._require_inside(state)

    def _require_inside(self, args: Any) -> None:
        """A storage, an offset, sizes and strides: no element lies behind the end."""
        if len(args) < 4 or not isinstance(args[0], _Thing) or args[0].elements is None:
            return
        storage, offset, sizes, strides = args[:4]
        if not isinstance(sizes, tuple | list) or not isinstance(strides, tuple | list):
            raise TooMuchError("a tensor of a size that is no tuple")
        sizes, strides = [[_integer(n, "a tensor") for n in numbers] for numbers in (sizes, strides)]
        if 0 in sizes:
            return
        last = _integer(offset, "a tensor") + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
        if last > storage.elements:
            raise TooMuchError(f"a tensor {sizes} of a storage of {storage.elements:,} elements")

    def _require_room(self, size: int, of: str) -> None:
        if size > self.size:
            raise TooMuchError(f"{of} of {size:,} bytes, and the file has {self.size:,}")


_Outline.dispatch = _Outline.dispatch | {
    # torch looks through all that it allows for each of these
    pickle.GLOBAL[0]: counted(BoundedUnpickler.dispatch[pickle.GLOBAL[0]], worth=_CALL),
    pickle.REDUCE[0]: counted(_Outline._reduce, worth=_CALL),
    pickle.NEWOBJ[0]: counted(_Outline._reduce, worth=_CALL),
    pickle.BUILD[0]: counted(_Outline._build, worth=_CALL),
}


def _integer(value: Any, of: str) -> int:
    if type(value) is not int or value < 0:
        raise TooMuchError(f"{of} of a size that is no number")
    return value


def _require_archive(file: IO[bytes], size: int, sums: bool) -> None:
    with open_zip(file, members=_MEMBERS) as archive:
        members = archive.infolist()
        whole = sum(member.file_size for member in members)
        if whole > size + _MORE:
            raise TooMuchError(f"members of {whole:,} bytes in a file of {size:,}")
        for member in members:
            if not member.CRC:  # not computed, as the writer was told; zipfile would compare it all the same
                member.CRC = None  # type: ignore[assignment]
        for pickled in [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]:
            root = pickled.filename.rpartition("/")[0]
            inside = f"{root}/data/" if root else "data/"
            records = {
                member.filename.removeprefix(inside): member.file_size
                for member in members
                if member.filename.startswith(inside)
            }
            _Outline(archive.read(pickled), size, records).load()
        if sums:
            _require_sums(archive, members)


def _require_sums(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise `zipfile.BadZipFile` if the bytes of a member are not those that were written."""
    for member in members:
        if member.CRC is not None:
            with archive.open(member) as inside:
                while inside.read(_CHUNK):
                    pass


def _require_legacy(file: IO[bytes], size: int) -> None:
    for number in range(_LEGACY):
        found = _Outline(file, size, None).load()
        if number == 0 and found != _MAGIC:
            return  # another pickle, which torch does not read
