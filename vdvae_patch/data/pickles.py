"""Reading uint8 arrays out of a pickle without letting it run anything.

A pickle is a program that calls what it names. Here every name it may use stands for a recorder of ours, not even for
numpy's own classes, whose reconstruction was not written for hostile input; the bytes are then read as plain uint8. The
machine has bounds, see `bounded_pickle`.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vdvae_patch.bounded_pickle import DAMAGE, BoundedUnpickler, TooMuchError
from vdvae_patch.data.pixels import UInt8
from vdvae_patch.errors import DataError
from vdvae_patch.file_kinds import kind_of_bytes
from vdvae_patch.validation import one_line, short

_MOST_OPERATIONS = 500_000  # such a batch has 60,000
_MOST_BYTES = 2**28  # a batch of CIFAR-10 has 31 million


class _Dtype:
    """Stands for `numpy.dtype`; its state (byte order, fields) says nothing about uint8."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.is_uint8 = code in (b"u1", "u1", b"uint8", "uint8")

    def __setstate__(self, _: object) -> None:
        pass


class _Array:
    """Stands for `numpy.ndarray`: keeps its state for `pixels` to read."""

    def __init__(self) -> None:
        self.parts: tuple[Any, ...] = ()

    def __setstate__(self, state: object) -> None:
        self.parts = state[1:] if isinstance(state, tuple) and len(state) == 5 else ()

    def pixels(self) -> UInt8 | None:
        """The array, if it is of uint8 and its bytes fill its shape; else None."""
        if len(self.parts) != 4:
            return None
        shape, dtype, is_fortran, raw = self.parts
        whole_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not whole_shape or not isinstance(dtype, _Dtype) or not dtype.is_uint8:
            return None
        if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape):
            return None
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.parts = (shape, dtype, order == "F", raw)
    return array


def _stand_in(module: str, name: str, encode: Callable[..., bytes]) -> Any:
    old_and_new = ("numpy.core.", "numpy._core.")
    match module.removeprefix(old_and_new[0]).removeprefix(old_and_new[1]), name:
        case "multiarray", "_reconstruct":
            return lambda *parts: _reconstruct(*parts)
        case "numeric", "_frombuffer":
            return lambda *parts: _from_buffer(*parts)
        case "numpy", "dtype":
            return lambda *parts: _Dtype(*parts)
        case "numpy", "ndarray":
            return object()
        case "_codecs", "encode":
            return lambda *parts: encode(*parts)
        case "builtins" | "__builtin__", "bytes":
            return lambda: b""  # Latin-1 text would do, but Python 3 writes empty bytes in this way
    return None


class _Recorder(BoundedUnpickler):
    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(content, operations=_MOST_OPERATIONS)
        self.path = path
        self._room_for_bytes = len(content)

    def find_class(self, module: str, name: str) -> Any:
        # A fresh object each time: a pickle may set attributes on what it gets, and must not reach the next file.
        stand_in = _stand_in(module, name, self._encode)
        if stand_in is None:
            raise DataError(
                f"{self.path}: the pickle asks for {short(module)}.{short(name)}, which no array of pixels needs; "
                "nothing of it was run. Delete the file and get it from where its data set is published"
            )
        return stand_in

    def _encode(self, text: object, encoding: object = None) -> bytes:
        # Protocol 2 has no bytes; Python 3 writes them as Latin-1 text. No other codec is looked up.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("bytes in an unknown encoding")
        self._room_for_bytes -= len(text)
        if self._room_for_bytes < 0:
            raise TooMuchError("asks for more bytes than it has")
        return text.encode("latin-1")


def read_arrays(path: Path) -> dict[str, UInt8]:
    """The uint8 arrays of a pickled dictionary, by key; everything else in it is left out.

    Raises:
        DataError: a file that cannot be read, is not a whole pickle of a dictionary, or asks for anything but arrays.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: is larger than {_MOST_BYTES:,} bytes, and no batch of images is")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    return arrays_in(raw, path)


def arrays_in(raw: bytes, path: Path) -> dict[str, UInt8]:
    """The same for the bytes of a pickle; `path` is for messages."""
    try:
        content = _Recorder(path, raw).load()
    except DAMAGE as error:
        reason = kind_of_bytes(raw[:512]) or one_line(error)
        raise DataError(f"{path}: cut off or damaged ({reason}); delete it and get it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a dictionary of arrays")
    arrays: dict[str, UInt8] = {}
    for key, value in content.items():
        array = value.pixels() if isinstance(value, _Array) else None
        if array is not None and isinstance(key, bytes | str):
            arrays[key.decode("latin-1") if isinstance(key, bytes) else key] = array
    return arrays
