"""What a call brings along besides its arguments: the object whose method it is, what its functions close over, and the
globals and classes that they name.

Data may lie there. And a loss often counts there: the step of a warm-up, a meter, a list of what it logs. A pass that
is no step must leave that as it was.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

_DEPTH = 4
_MOST_ITEMS = 100_000
"""Of a container: a list of a data set's files is none that a loss appends to."""
_PACKAGE = Path(__file__).parents[2]
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (_PACKAGE, Path(torch.__file__).parent, Path(dis.__file__).parent))
_NUMBERS = (int, float, complex, bool, str, bytes, type(None), tuple, list, dict, set, frozenset, deque)
"""What a class attribute is that a loss counts in."""


def brought_along(call: Any) -> list[Any]:
    """What a call has besides its arguments: in its closure, its defaults, the object it is a method of, and the
    globals that its own lines name. A function or a class that it names is code, and not among them."""
    if call is None:
        return []
    if isinstance(call, functools.partial):
        return [*call.args, *call.keywords.values(), *brought_along(call.func)]
    found: list[Any] = []
    if isinstance(call, types.MethodType):
        found.append(call.__self__)
        call = call.__func__
    if isinstance(call, types.FunctionType):
        found += _named(call)
    elif not isinstance(call, type | nn.Module):
        found.append(call)
    return [v for v in found if not isinstance(v, types.FunctionType | types.ModuleType | type | nn.Module)]


def objects_of(calls: Iterable[Any]) -> list[Any]:
    """What calls can change beside their arguments: what they bring along, and what the functions do that they call;
    nothing of this package."""
    given = list(calls)
    found = [v for call in given for one in (_plain(call), *functions_of(call)) for v in brought_along(one)]
    own = [v.__self__ if isinstance(v, types.MethodType) else v for v in found]
    own += [v for cls in _classes_of(given) for v in _counted(cls).values()]
    return [v for v in own if not _is_ours(v) and not isinstance(v, nn.Module | type) and not _is_large(v)]


def bindings_of(calls: Iterable[Any]) -> Iterator[Callable[[], None]]:
    """What puts back the globals, the variables of functions around them, and the attributes of classes that calls bind
    anew: `global step; step += 1`, `Trainer.steps += 1`."""
    given = list(calls)
    for function in {id(f): f for call in given for f in functions_of(call)}.values():
        written = _written(function.__code__)
        names = function.__globals__
        saved = {name: names[name] for name in written if name in names}
        if saved:
            yield functools.partial(names.update, saved)
        for name, cell in _cells(function):
            if name in written:
                yield functools.partial(setattr, cell, "cell_contents", cell.cell_contents)
    yield from (functools.partial(_put_back, cls, _counted(cls)) for cls in _classes_of(given))


def functions_of(call: Any) -> list[types.FunctionType]:
    """The functions of the user's that a call consists of: itself, those that it names, and methods of what it has at
    hand that have a name which stands in it."""
    found = dict[int, types.FunctionType]()
    todo = deque[tuple[Any, tuple[type, ...], int]]([(_plain(call), (), 0)])
    while todo:
        value, around, level = todo.popleft()
        if isinstance(value, functools.partial):
            todo.append((value.func, around, level))
        elif isinstance(value, types.MethodType):
            todo.append((value.__func__, (*around, type(value.__self__), *_held(value.__self__)), level))
        elif isinstance(value, types.FunctionType):
            if level > _DEPTH or id(value) in found or _is_of_a_library(value):
                continue
            found[id(value)] = value
            named = list(_named(value))
            own = (*around, *(cls for one in named for cls in _types(one)))
            todo.extend((one, around, level + 1) for one in named if callable(one) and not isinstance(one, type))
            todo.extend((method, own, level + 1) for method in _methods(own, value.__code__))
        elif not isinstance(value, type | nn.Module) and isinstance(called := _called(value), types.FunctionType):
            todo.append((called, (*around, type(value), *_held(value)), level))
    return list(found.values())


def forwards(model: nn.Module) -> list[Any]:
    """The methods that run where modules of a model are called, one of each class of the user's."""
    methods = {type(module): module.forward for module in model.modules()}
    return [method for method in methods.values() if functions_of(method)]


# --- names ------------------------------------------------------------------------------------------------------------


def is_exchanged(call: Any) -> bool:
    """Whether a call is one in which a patch exchanges something, which has scales of its own."""
    return callable(call) and _is_ours(call) and hasattr(call, "__wrapped__")


def _plain(call: Any) -> Any:
    """As the user has it."""
    while is_exchanged(call):
        call = call.__wrapped__
    return call


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _codes(inner)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Of globals and of attributes."""
    return tuple(dict.fromkeys(name for one in _codes(code) for name in one.co_names))


@functools.lru_cache(maxsize=4096)
def _written(code: types.CodeType) -> frozenset[str]:
    """The globals and the variables of functions around it that a function binds."""
    every = (instruction for one in _codes(code) for instruction in dis.get_instructions(one))
    return frozenset(i.argval for i in every if i.opname in ("STORE_GLOBAL", "STORE_DEREF"))


def _named(function: types.FunctionType) -> Iterator[Any]:
    """What a function can read besides its arguments."""
    yield from (cell.cell_contents for _, cell in _cells(function))
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    names = function.__globals__
    yield from (names[name] for name in _names(function.__code__) if name in names)


def _cells(function: types.FunctionType) -> Iterator[tuple[str, types.CellType]]:
    """The variables of functions around it that are bound."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018  it raises
        except ValueError:
            continue
        yield name, cell


def _called(value: Any) -> Any:
    """What runs where an object is called."""
    return next((vars(cls)["__call__"] for cls in type(value).__mro__ if "__call__" in vars(cls)), None)


def _methods(classes: Iterable[type], code: types.CodeType) -> Iterator[types.FunctionType]:
    """Those of some classes whose names stand in a function, properties too."""
    for cls in dict.fromkeys(classes):
        for name in _names(code):
            found = next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)
            found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if isinstance(found, types.FunctionType):
                yield found


# --- classes ----------------------------------------------------------------------------------------------------------


def _types(value: Any) -> tuple[type, ...]:
    """The class that a value is, or is of."""
    return (value,) if isinstance(value, type) else (type(value),)


def _held(value: Any) -> Iterator[type]:
    """The classes of an object's attributes."""
    return (type(held) for held in getattr(value, "__dict__", {}).values())


def _classes_of(calls: Iterable[Any]) -> list[type]:
    """The user's classes of what calls have at hand, and those that they name."""
    found: list[type] = []
    for call in map(_plain, calls):
        if isinstance(call, types.MethodType):
            found.append(type(call.__self__))
        for value in brought_along(call):
            found += (type(value), *_held(value))
        for function in functions_of(call):
            found += (cls for value in _named(function) for cls in _types(value))
    every = {id(cls): cls for one in found for cls in one.__mro__}
    return [cls for cls in every.values() if not _is_foreign(cls)]


def _counted(cls: type) -> dict[str, Any]:
    return {name: v for name, v in vars(cls).items() if type(v) in _NUMBERS and not name.startswith("__")}


def _put_back(cls: type, saved: dict[str, Any]) -> None:
    for name, value in _counted(cls).items():
        if name not in saved:
            type.__delattr__(cls, name)
        elif value is not saved[name]:
            type.__setattr__(cls, name, saved[name])


# --- whose it is ------------------------------------------------------------------------------------------------------


def _is_of_a_library(function: types.FunctionType) -> bool:
    return _is_in_a_library(function.__code__.co_filename)


def _is_in_a_library(file: str) -> bool:
    return "site-packages" in Path(file).parts or file.startswith(_LIBRARIES)


def _is_ours(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == __name__.partition(".")[0]


def _is_foreign(cls: type) -> bool:
    """Whether a class is not of the user's files; one that a notebook has made is of a module without a file."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return cls.__module__ in sys.builtin_module_names or _is_in_a_library(file)


def _is_large(value: Any) -> bool:
    return isinstance(value, list | dict | set | tuple) and len(value) > _MOST_ITEMS
