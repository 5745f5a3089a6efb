"""Whether something has moved that no file can hold: a text that is another one then, as far as can be seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import FunctionType, GeneratorType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from vdvae_patch.outside.encoded import Encoder, NoPlainValueError, fingerprint

_DEEPEST = 6
_ITERATORS = ("builtins", "itertools")


def opaque(value: Any, encode: Encoder, depth: int = 0) -> str:
    """Which object it is, with the values of what it holds: items, slots, the variables of a closure or of a generator,
    the place of an iterator, the weights of a module that nobody has registered."""
    try:
        return fingerprint(encode(value))
    except NoPlainValueError:
        pass
    if encode.of_model.has(value):  # it follows the weights, by whatever object it is seen
        return f"{value.shape} from {value.storage_offset()}" if isinstance(value, Tensor) else f"module at {id(value)}"
    own = f"{type(value).__name__} at {id(value)}"
    if depth >= _DEEPEST:
        return own
    return " ".join([own, *(opaque(item, encode, depth + 1) for item in _held(value))])


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield _digest(value)
    elif isinstance(value, nn.Module):
        yield from (_digest(tensor) for tensor in (*value.parameters(), *value.buffers()))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, item)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # empty
                continue
    elif isinstance(value, MethodType):
        yield value.__func__
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, GeneratorType):
        frame = value.gi_frame
        yield from (None,) if frame is None else (frame.f_lasti, dict(frame.f_locals))
    elif type(value).__module__ in _ITERATORS and hasattr(value, "__next__"):
        try:
            yield repr(value.__reduce__()[1:])
        except TypeError:  # one that cannot say where it is
            return
    else:
        slots = [name for cls in type(value).__mro__ for name in _named(cls.__dict__.get("__slots__", ()))]
        yield from (getattr(value, name) for name in slots if hasattr(value, name) and not name.startswith("__"))


def _named(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _digest(tensor: Tensor) -> str:
    is_dense = tensor.layout is torch.strided and not tensor.is_meta and not hasattr(tensor, "full_tensor")
    return fingerprint(["tensor", tensor.detach()]) if is_dense else ""
