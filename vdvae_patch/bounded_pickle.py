"""A pickle is a program. This machine runs one with bounds on time and memory, and every name in it is a stand-in.

Python's own machine in C does what it is told before anything can be checked: a put to place 4,000,000,000 of the memo
makes room for them all, a byte array of ten gigabytes is made before its bytes are missed, and a dictionary whose keys
all have one hash takes a time that grows with their square.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any

MOST_OPERATIONS = 2_000_000
"""A CIFAR-10 batch has 60,000, a checkpoint of VDVAE about 200,000."""

_ODD_KEYS = 1_000
_SMALL = 2**32
_PIECE = 2**16

# What the machine raises on bytes that are not a pickle, or not a whole one.
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    AssertionError,
    struct.error,
)

_ALLOWED = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "BUILD", "NEWOBJ", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    "BINPERSID",
)  # fmt: skip


class _Within:
    """A file that is not asked for more than it has: its buffer would be made as large as what is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(start)
        self.readline = file.readline

    def read(self, size: int) -> bytes:
        """So many bytes; raises `EOFError` if they are not there."""
        if size > _PIECE and size > self._end - self._file.tell():
            raise EOFError("cut off")
        return self._file.read(size)


class TooMuchError(pickle.UnpicklingError):
    """A pickle asks for more memory or time than its bytes can be worth; the message says for what."""


class BoundedUnpickler(pickle._Unpickler):
    """Python's machine in Python, with few of its operations.

    A subclass says what names stand for, in `find_class`; whatever it gives is called, so it must be harmless.

    Args:
        source: the pickle; a file is read as far as the pickle goes.
        operations: how many are run.
    """

    # as Python's own class has them; its types do not say so
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    load_global: Callable[[], None]

    def __init__(self, source: bytes | IO[bytes], *, operations: int = MOST_OPERATIONS) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        super().__init__(_Within(file), encoding="bytes")  # Python 2 wrote its strings as bytes
        self.left = operations
        self._odd_keys = 0

    def find_class(self, module: str, name: str) -> Any:
        """To be said by a subclass; raises `UnpicklingError`."""
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def require_key(self, key: Any) -> None:
        """Refuse what makes a dictionary slow: very many keys whose hash a file can choose.

        Those of texts and bytes it cannot, and small integers are their own.
        """
        if isinstance(key, str | bytes) or (type(key) is int and 0 <= key < _SMALL):
            return
        if isinstance(key, tuple | frozenset) and any(isinstance(item, tuple | frozenset) for item in key):
            raise TooMuchError("a dictionary with nested tuples for keys")
        self._odd_keys += 1
        if self._odd_keys > _ODD_KEYS:
            raise TooMuchError(
                f"more than {_ODD_KEYS:,} keys of dictionaries that are neither texts nor small integers"
            )

    def put(self, target: Any, items: list[Any]) -> None:
        """Set keys and values, one after the other, of a dictionary."""
        if not isinstance(target, dict) or len(items) % 2:
            raise pickle.UnpicklingError("sets items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.require_key(key)
            target[key] = value

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        self.put(self.stack[-1], items)

    def _dictionary(self) -> None:
        made: dict[Any, Any] = {}
        self.put(made, self.pop_mark())
        self.append(made)

    def _byte_array(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _refused(self) -> None:
        raise pickle.UnpicklingError("has an operation that no data of this kind need")


def counted(operation: Callable[[Any], None], *, worth: int = 1) -> Callable[[Any], None]:
    """An operation that is one of those a machine has left, or is worth several."""

    def run(machine: BoundedUnpickler) -> None:
        machine.left -= worth
        if machine.left < 0:
            raise TooMuchError("more operations than data of this kind need")
        operation(machine)

    return run


def _operations() -> dict[int, Callable[[Any], None]]:
    own = {
        "SETITEM": BoundedUnpickler._set_item,
        "SETITEMS": BoundedUnpickler._set_items,
        "DICT": BoundedUnpickler._dictionary,
        "BYTEARRAY8": BoundedUnpickler._byte_array,
    }
    python = pickle._Unpickler.dispatch
    table: dict[int, Callable[[Any], None]] = dict.fromkeys(python, BoundedUnpickler._refused)
    for name in _ALLOWED:
        code = getattr(pickle, name)[0]
        table[code] = counted(own.get(name, python[code]))
    return table


BoundedUnpickler.dispatch = _operations()
