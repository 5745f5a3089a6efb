"""Where a model keeps what is in no `state_dict`."""

from __future__ import annotations

import logging
import random
import threading
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdvae_patch.attach.graft import TABLE
from vdvae_patch.patching.record import RECORD
from vdvae_patch.patching.wrapped import INSIDE

NOT_THE_HOSTS = frozenset(vars(nn.Module())) | {TABLE, RECORD, INSIDE}
"""Attributes that torch keeps of every module, and those of a patch."""

_DEPTH = 3  # objects within objects that are looked into
_MOST = 10_000  # objects
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)  # which may have attributes beside, as a Counter can
_NO_OBJECT = (
    Tensor, nn.Module, type, types.ModuleType, types.FunctionType, types.MethodType, logging.Logger, threading.Thread,
    random.Random, torch.Generator, np.random.Generator, np.random.RandomState, np.ndarray, BaseException, Enum,
    partial,
)  # fmt: skip


@dataclass(frozen=True)
class Holder:
    """A dictionary whose values are attributes.

    Attributes:
        name: path of the module, and of the object in it (`encoder`, `annealer`, `schedules[0]`).
        of: the module or object.
        values: its attributes, or the buffers of a module.
        only: which of them count; None for all that are the host's.
    """

    name: str
    of: Any
    values: dict[str, Any]
    only: frozenset[str] | None = None

    def items(self) -> Iterator[tuple[str, Any]]:
        """The values by their keys; what a patch has put on a module is none."""
        for key, value in self.values.items():
            if self.only is not None:
                if key in self.only:
                    yield key, value
            elif key not in NOT_THE_HOSTS and isinstance(key, str) and not isinstance(value, types.MethodType):
                yield key, value

    def path(self, key: str) -> str:
        """The value's name: `encoder.steps`."""
        return f"{self.name}.{key}" if self.name else key


def holders(model: nn.Module) -> list[Holder]:
    """Of each module its attributes and the buffers that are not saved, and of each object in these its attributes.

    Modules of TorchScript keep theirs elsewhere, and those of this package are no host's. An object is looked into
    once, under its first name.
    """
    found: list[Holder] = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or _is_ours(module):
            continue
        own = Holder(path, module, vars(module))
        found.append(own)
        if module._non_persistent_buffers_set:
            found.append(Holder(path, module, module._buffers, frozenset(module._non_persistent_buffers_set)))
        for key, value in list(own.items()):
            found += _inside(value, own.path(key), seen, 0)
    return found


def _inside(value: Any, name: str, seen: set[int], depth: int) -> Iterator[Holder]:
    if depth >= _DEPTH or len(seen) >= _MOST or id(value) in seen or isinstance(value, _NO_OBJECT):
        return
    if _is_ours(value):
        return
    if type(value) in (list, tuple):
        for number, item in enumerate(value[:_MOST]):
            if hasattr(item, "__dict__"):
                yield from _inside(item, f"{name}[{number}]", seen, depth + 1)
    elif type(value) is dict:
        for key, item in list(value.items())[:_MOST]:
            if hasattr(item, "__dict__"):
                yield from _inside(item, f"{name}[{key!r}]", seen, depth + 1)
    elif not isinstance(value, _CONTAINERS) and type(getattr(value, "__dict__", None)) is dict:
        seen.add(id(value))
        own = Holder(name, value, vars(value))
        yield own
        for key, item in list(own.items()):
            yield from _inside(item, own.path(key), seen, depth + 1)


def _is_ours(value: Any) -> bool:
    """Whether this package has put it there, such as a decoder, whose state is kept elsewhere."""
    origin = getattr(type(value), "__module__", "")
    return origin.startswith("vdvae_patch.") and not origin.startswith("vdvae_patch.upstream.")


@dataclass(frozen=True)
class Registered:
    """What a `state_dict` has, and all modules: nothing of it is outside.

    Attributes:
        ids: of the parameters, the buffers that are saved, and the modules.
        memory: addresses of the parameters' and buffers' memory; a tensor that shares it follows them.
    """

    ids: frozenset[int]
    memory: frozenset[int]

    @classmethod
    def of(cls, model: nn.Module) -> Registered:
        """Of a model."""
        tensors: list[Tensor] = []
        modules = list(model.modules())
        for module in modules:
            tensors += [p for p in module._parameters.values() if p is not None]
            apart = module._non_persistent_buffers_set
            tensors += [b for name, b in module._buffers.items() if b is not None and name not in apart]
        memory = {address for tensor in tensors if (address := memory_of(tensor))}
        return cls(frozenset(map(id, [*modules, *tensors])), frozenset(memory))

    def has(self, value: Any) -> bool:
        """Whether it is one of these, or shares memory with one."""
        return id(value) in self.ids or (isinstance(value, Tensor) and memory_of(value) in self.memory)


def memory_of(tensor: Tensor) -> int:
    """A number for its memory, the same of all views of it; 0 of one that has none."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return 0
    try:  # not by `data_ptr()`, which copies what is shared until somebody writes
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # wrappers of torch.func, and subclasses, may have no storage
        return 0
