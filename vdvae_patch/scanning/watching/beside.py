"""What a call reads and writes beside the model: the object whose method it is, what its functions close over, and the
globals of its file.

A loss often counts: the step of a warm-up, a meter, a list of what it logs. A pass that is no step must leave these as
they were.
"""

from __future__ import annotations

import dis
import os
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 4
_MOST_ITEMS = 100_000
"""Of a container: a list of a data set's files is none that a loss appends to."""
_PACKAGE = Path(__file__).parents[2]
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (_PACKAGE, Path(torch.__file__).parent, Path(dis.__file__).parent))
_NO_STATE = (Tensor, nn.Module, type, types.ModuleType)


def functions_of(value: Any, depth: int = 0) -> Iterator[types.FunctionType]:
    """The functions that a call consists of: itself, of a method and of a `partial` what it wraps, and those of the
    user's that it names."""
    if depth > _DEPTH or isinstance(value, _NO_STATE):
        return
    if isinstance(value, partial):
        yield from functions_of(value.func, depth + 1)
    elif isinstance(value, types.MethodType):
        yield from functions_of(value.__func__, depth)
    elif isinstance(value, types.FunctionType):
        if _is_of_a_library(value):
            return
        yield value
        for _, named in _named(value):
            yield from functions_of(named, depth + 1)
    elif callable(value) and hasattr(value, "__wrapped__"):  # a loss with what a patch exchanges in it
        yield from functions_of(value.__wrapped__, depth + 1)
    elif callable(value) and isinstance(called := type(value).__call__, types.FunctionType):
        yield from functions_of(called, depth + 1)


def objects_of(value: Any) -> Iterator[Any]:
    """What a call can change beside its arguments: objects, containers, generators."""
    if isinstance(value, partial):
        yield from (*value.args, *value.keywords.values())
        yield from objects_of(value.func)
    elif isinstance(value, types.MethodType) and not isinstance(value.__self__, _NO_STATE):
        yield value.__self__
    elif callable(value) and hasattr(value, "__wrapped__") and not isinstance(value, types.FunctionType):
        yield from objects_of(value.__wrapped__)
    elif callable(value) and not isinstance(value, (*_NO_STATE, types.FunctionType)) and not is_ours(value):
        yield value
    for function in {id(f): f for f in functions_of(value)}.values():
        for _, named in _named(function):
            if isinstance(named, types.MethodType):
                yield named.__self__
            elif not isinstance(named, types.FunctionType) and not is_ours(named) and not _is_large(named):
                yield named


def bindings_of(value: Any) -> Iterator[Callable[[], None]]:
    """What puts back the globals and the variables of functions around it that a call binds anew, as in
    `global step; step += 1`."""
    for function in {id(f): f for f in functions_of(value)}.values():
        written = {i.argval for code in _codes(function.__code__) for i in dis.get_instructions(code) if _writes(i)}
        names = function.__globals__
        saved = {name: names[name] for name in written if name in names}
        if saved:
            yield partial(names.update, saved)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name in written and _is_filled(cell):
                yield partial(setattr, cell, "cell_contents", cell.cell_contents)


def _writes(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("STORE_GLOBAL", "STORE_DEREF")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


def _named(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function can read beside its arguments, by name."""
    names = function.__globals__
    for name in dict.fromkeys(name for code in _codes(function.__code__) for name in code.co_names):
        if name in names:
            yield name, names[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _is_filled(cell):
            yield name, cell.cell_contents
    yield from ((f"default {place}", value) for place, value in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - a variable that was deleted, or is not bound yet, raises
    except ValueError:
        return False
    return True


def _is_of_a_library(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    return "site-packages" in Path(file).parts or file.startswith(_LIBRARIES)


def is_ours(value: Any) -> bool:
    """Whether it is of a class of this package."""
    return type(value).__module__.partition(".")[0] == __name__.partition(".")[0]


def _is_large(value: Any) -> bool:
    return isinstance(value, list | dict | set | tuple) and len(value) > _MOST_ITEMS
