"""A value of Python's as tensors, numbers, text and lists of these, so that a file can hold it; and back.

| value | encoded |
|---|---|
| None, true, false, integers, floats, text | as it is |
| a tensor | `["tensor", values, whether it lies where the model does, whether it wants a gradient]` |
| a complex number, bytes | `["complex", real, imaginary]`, `["bytes", values]` |
| a list, tuple, `torch.Size`, set, deque | `["list", item, ...]`, ..., `["deque", most, item, ...]` |
| a dictionary, `OrderedDict`, `Counter` | `["dict", [key, value], ...]`, ... |
| an array or a number of NumPy | `["array", values]`, `["number", values]` |
| a generator of torch, NumPy or Python | `["generator", kind, state]` |

One object under two names is one object again.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.errors import CheckpointError
from vdvae_patch.outside.places import Registered
from vdvae_patch.reading.fields import one_line, shown

_PLAIN = (type(None), bool, int, float, str)
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list, "tuple": tuple, "size": torch.Size, "set": set, "frozenset": frozenset,
}  # fmt: skip
_MAPPINGS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict, "ordered": OrderedDict, "counter": lambda pairs: Counter(dict(pairs)),
}  # fmt: skip
_KINDS: dict[type, str] = {
    list: "list", tuple: "tuple", torch.Size: "size", set: "set", frozenset: "frozenset", dict: "dict",
    OrderedDict: "ordered", Counter: "counter",
}  # fmt: skip
_TENSORS = (Tensor, getattr(nn, "Buffer", Tensor))
_DEEPEST = 16


class NoPlainValueError(TypeError):
    """Something that no file can hold; the message says what it is."""


class Encoder:
    """Encodes values that may share objects.

    Args:
        device: where the model is.
        of_model: what no value may hold.
        copies: whether tensors are copied, so that the result stays as it is.
    """

    def __init__(self, device: torch.device, of_model: Registered, *, copies: bool = False) -> None:
        self._device, self.of_model, self._copies = device, of_model, copies
        self._known: dict[int, tuple[Any, Any]] = {}  # with the value, whose id is then nobody else's
        self._under_way: set[int] = set()

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value, encoded.

        Raises:
            NoPlainValueError: it is, or holds, something else.
        """
        if type(value) in _PLAIN:
            return value
        if depth > _DEEPEST:
            raise NoPlainValueError("values nested too deeply")
        if id(value) in self._under_way:
            raise NoPlainValueError("a container of itself")
        if id(value) not in self._known:
            self._under_way.add(id(value))
            try:
                self._known[id(value)] = value, self._encoded(value, depth + 1)
            finally:
                self._under_way.discard(id(value))
        return self._known[id(value)][1]

    def _encoded(self, value: Any, depth: int) -> list[Any]:
        kind = type(value)
        if kind in _TENSORS and not self.of_model.has(value):
            return self._tensor(value)
        if kind in (dict, OrderedDict, Counter):
            return [_KINDS[kind], *([self(key, depth), self(item, depth)] for key, item in value.items())]
        if kind in (set, frozenset):
            return [_KINDS[kind], *sorted((self(item, depth) for item in value), key=repr)]
        if kind in _KINDS:
            return [_KINDS[kind], *(self(item, depth) for item in value)]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind in (bytes, bytearray):
            return [kind.__name__, torch.tensor(list(value), dtype=torch.uint8)]
        if kind is deque:
            return ["deque", value.maxlen, *(self(item, depth) for item in value)]
        if (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in "biufc":
            values = np.ascontiguousarray(value).copy()
            try:
                return ["number" if kind is not np.ndarray else "array", torch.from_numpy(values).reshape(value.shape)]
            except TypeError:
                raise NoPlainValueError(f"an array of {value.dtype}") from None
        if isinstance(value, torch.Generator):
            return ["generator", "torch", value.get_state().clone()]
        if kind is random.Random:
            version, words, kept = value.getstate()
            return ["generator", "python", [version, list(words), kept]]
        if isinstance(value, np.random.Generator | np.random.RandomState):
            of_old_kind = isinstance(value, np.random.RandomState)  # which keeps the second number of a pair of Normals
            state = value.get_state(legacy=False) if of_old_kind else value.bit_generator.state  # type: ignore[union-attr]
            return ["generator", "numpy", Encoder(self._device, self.of_model)(state, depth)]
        raise NoPlainValueError("a part of the model" if self.of_model.has(value) else named(value))

    def _tensor(self, value: Tensor) -> list[Any]:
        if value.is_meta or value.layout is not torch.strided or value.is_quantized or value.is_nested:
            raise NoPlainValueError("a tensor that is not dense")
        plain = value.detach()
        if type(plain) is not Tensor:
            plain = plain.as_subclass(Tensor)
        if self._copies:
            plain = plain.clone()
        elif plain.numel() < plain.untyped_storage().nbytes() // max(1, plain.element_size()):
            plain = plain.clone()  # a file would have all that it is a part of
        return ["tensor", plain, value.device == self._device, value.requires_grad and value.is_leaf]


class Decoder:
    """The inverse: of what a file said, and so each step is checked.

    Args:
        where: the file and the field, for messages.
        device: where the model is.
    """

    def __init__(self, where: str, device: torch.device) -> None:
        self._where, self._device = where, device
        self._known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any, now: Any = None, depth: int = 0) -> Any:
        """The value.

        Args:
            now: what stands in its place: a tensor stays where that is, and a generator is that one.

        Raises:
            CheckpointError: it is nothing that an `Encoder` gives.
        """
        if type(value) in _PLAIN:
            return value
        if type(value) is not list or not value or type(value[0]) is not str or depth > _DEEPEST + 1:
            raise CheckpointError(f"{self._where}: must be a value of an attribute, not {shown(value)}")
        if id(value) not in self._known:
            self._known[id(value)] = value, self._decoded(value[0], value[1:], now, depth + 1)
        return self._known[id(value)][1]

    def _decoded(self, kind: str, parts: list[Any], now: Any, depth: int) -> Any:
        try:
            if kind in _SEQUENCES:
                return _SEQUENCES[kind]([self(item, depth=depth) for item in parts])
            if kind in _MAPPINGS:
                return _MAPPINGS[kind]([(self(key, depth=depth), self(item, depth=depth)) for key, item in parts])
            if kind == "complex":
                return complex(*parts)
            if kind in ("bytes", "bytearray"):
                return (bytes if kind == "bytes" else bytearray)(parts[0].tolist())
            if kind == "deque":
                return deque((self(item, depth=depth) for item in parts[1:]), parts[0])
            if kind == "tensor":
                values, with_model, wants = parts
                place = now.device if type(now) in _TENSORS else self._device if with_model else torch.device("cpu")
                return values.to(place, copy=True).requires_grad_(bool(wants))
            if kind in ("array", "number"):
                return parts[0].numpy().copy() if kind == "array" else parts[0].numpy()[()]
            if kind == "generator":
                name, state = parts
                return self._generator(name, state, now, depth)
        except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, KeyError, IndexError) as error:
            raise CheckpointError(f"{self._where}: is no {kind} that was saved here: {one_line(error)}") from None
        raise CheckpointError(f"{self._where}: a value of the kind {shown(kind)} is not known")

    def _generator(self, kind: str, state: Any, now: Any, depth: int) -> Any:
        if kind == "torch":
            generator = now if isinstance(now, torch.Generator) else torch.Generator()
            generator.set_state(state)
            return generator
        if kind == "python":
            own = now if type(now) is random.Random else random.Random()
            version, words, kept = state
            own.setstate((version, tuple(words), kept))
            return own
        if kind != "numpy" or not isinstance(now, np.random.Generator | np.random.RandomState):
            raise TypeError("the model has no such generator in its place")
        found = self(state, depth=depth)
        if isinstance(now, np.random.RandomState):
            now.set_state(found)
        else:
            now.bit_generator.state = found
        return now


def holds_generator(encoded: Any) -> bool:
    """Whether the value is a source of noise, or has one in it; a dictionary's key of that name is none."""
    if type(encoded) is not list:
        return False
    return (len(encoded) == 3 and encoded[0] == "generator") or any(map(holds_generator, encoded))


def fingerprint(encoded: Any) -> str:
    """Equal for values that are equal bit for bit, and for no others: the text of a number or of a short text, else a
    SHA-256."""
    if type(encoded) in _PLAIN and len(text := repr(encoded)) <= 40:
        return text
    digest = hashlib.sha256()
    _feed(encoded, digest.update)
    return digest.hexdigest()


def _feed(value: Any, update: Callable[[bytes], None]) -> None:
    if isinstance(value, Tensor):
        update(f"{value.dtype}{list(value.shape)}".encode())
        update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif type(value) is list:
        update(f"[{len(value)}".encode())
        for item in value:
            _feed(item, update)
    else:
        text = repr(value)
        update(f"{type(value).__name__}{len(text)}:{text}".encode())


def named(value: Any) -> str:
    """`"a Normal"`."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
