"""The data of a call: tensors among its inputs, wherever they lie in them, and those that the call brings along."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from vdvae_patch.scanning.watching.beside import brought_along

_DEPTH = 6
_MOST = 20_000  # values that are looked at: a call may be a method of an object that holds a whole data set


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested sequences and mappings, and of the attributes and slots of a batch that is an object."""
    return [found for found in _walk(value) if isinstance(found, Tensor)]


def arrays_in(value: Any) -> list[tuple[int, int]]:
    """Where the memory of NumPy arrays begins and ends: `torch.from_numpy` makes a tensor of the same memory."""
    found = []
    for array in _walk(value):
        interface = None if isinstance(array, Tensor) else getattr(array, "__array_interface__", None)
        if isinstance(interface, dict):
            start = int(interface["data"][0])
            found.append((start, start + int(getattr(array, "nbytes", 0))))
    return found


def _walk(value: Any) -> Iterator[Any]:
    """Every value that another one holds, each once, breadth first."""
    todo, seen = deque([(value, 0)]), set[int]()
    while todo and len(seen) < _MOST:
        item, depth = todo.popleft()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if depth < _DEPTH:
            todo.extend((held, depth + 1) for held in _items(item))


def _items(value: Any) -> list[Any]:
    if isinstance(value, Tensor | nn.Module | type | types.ModuleType | types.FunctionType | str | bytes | int | float):
        return []
    if hasattr(value, "__array_interface__"):
        return []
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    held = [*vars(value).values()] if hasattr(value, "__dict__") else []
    slots = {name for cls in type(value).__mro__ for name in slots_of(cls)}
    return held + [getattr(value, name) for name in sorted(slots) if hasattr(value, name)]


def slots_of(cls: type) -> tuple[str, ...]:
    """The names of a class's own slots."""
    slots = vars(cls).get("__slots__", ())
    if isinstance(slots, str):
        slots = (slots,)
    private = f"_{cls.__name__.lstrip('_')}"
    names = (f"{private}{n}" if n.startswith("__") and not n.endswith("__") else n for n in slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def data_of(inputs: tuple[Any, ...], call: Callable[..., Any] | None, but: frozenset[int]) -> list[Any]:
    """What holds the data of a call: its inputs, or, where these hold no tensor and no array, what it brings along.

    Args:
        but: tensors, by their id, that are none: the model's own.
    """
    if tensors_in(inputs) or arrays_in(inputs):
        return list(inputs)
    found = [t for t in tensors_in(brought_along(call)) if id(t) not in but]
    # a vector in a closure is a prior's mean more often than it is a batch
    batches = [t for t in found if t.dim() > 1] or found
    return [*inputs, *batches, *(a for a in _walk(brought_along(call)) if hasattr(a, "__array_interface__"))]
