"""The decorators around a function: what a class or a module holds by its name, down to what was written.

    @torch.no_grad()                    vars(VAE)["encode"]  is a wrapper, and its closure holds
    def encode(self, x): ...            the function that was written

A function that is compiled again goes back into copies of its wrappers, so that they do what they did: a wrapper keeps
what it wraps in its closure, or in a default, and the copy has the new function there. Decorators are not called again,
for they may count, register or read a file.
"""

from __future__ import annotations

import functools
import types
from typing import Any

from vdvae_patch.errors import PatchError

_MOST = 32  # wrappers around one function, or a chain that runs in a circle


def chain(found: Any, name: str = "") -> list[Any]:
    """From what a name holds to the innermost function: wrappers first. `found` alone if it wraps nothing.

    Args:
        name: under which it was found; a decorator that forgets `functools.wraps` is known by a function of this name
            in the closure of one that is called otherwise.
    """
    layers = [plain(found)]
    while len(layers) < _MOST:
        inner = _wrapped(layers[-1], name)
        if inner is None or inner in layers:
            break
        layers.append(inner)
    return layers


def plain(found: Any) -> Any:
    """The function of a static or class method, of a bound method, or of a property, cached or not."""
    if isinstance(found, property):
        return found.fget
    if isinstance(found, functools.cached_property):
        return found.func
    return found.__func__ if isinstance(found, staticmethod | classmethod | types.MethodType) else found


def function_of(found: Any, name: str = "") -> types.FunctionType | None:
    """The function that was written, behind all wrappers; None if there is none in Python."""
    last = chain(found, name)[-1]
    return last if isinstance(last, types.FunctionType) else None


def name_of(found: Any) -> str:
    """What an error calls a function: its qualified name, or that of the one that a `partial` calls."""
    function = plain(found)
    while isinstance(function, functools.partial):
        function = plain(function.func)
    return getattr(function, "__qualname__", None) or repr(function)


def rewrapped(found: Any, new: types.FunctionType, ran: Any = None, name: str = "") -> Any:
    """`new` in copies of the wrappers of `found`, a function as it is called on an instance.

    Args:
        ran: the layer that `new` takes the place of; the innermost unless given.
        name: as of `chain`.

    Raises:
        PatchError: a wrapper keeps what it wraps where it cannot be exchanged.
    """
    layers = chain(found, name)
    if ran is not None:
        layers = layers[: layers.index(ran) + 1]
    inner: Any = new
    for old, wrapper in zip(reversed(layers[1:]), reversed(layers[:-1]), strict=True):
        inner = _exchanged(wrapper, old, inner)
    return inner


def _wrapped(function: Any, name: str) -> Any:
    inner = getattr(function, "__wrapped__", None)
    if isinstance(function, functools.partial):
        inner = function.func
    if inner is None and isinstance(function, types.FunctionType) and name and function.__name__ != name:
        cells = [plain(value) for value in _contents(function)]
        named = [f for f in cells if isinstance(f, types.FunctionType) and f.__name__ == name]
        inner = named[0] if len(named) == 1 else None
    return None if inner is None else plain(inner)


def _contents(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not yet filled
            continue
    return found


def _exchanged(wrapper: Any, old: Any, new: Any) -> Any:
    """A copy of a wrapper that calls `new` where it called `old`."""
    if isinstance(wrapper, functools.partial) and plain(wrapper.func) is old:
        return functools.partial(new, *wrapper.args, **wrapper.keywords)
    if not isinstance(wrapper, types.FunctionType):
        raise PatchError(_lost(wrapper, old))
    count = 0

    def exchange(value: Any) -> Any:
        nonlocal count
        if value is old:
            count += 1
            return new
        return value

    cells = tuple(_cell(cell, exchange) for cell in wrapper.__closure__ or ())
    defaults = tuple(map(exchange, wrapper.__defaults__ or ())) or None
    keywords = {name: exchange(value) for name, value in (wrapper.__kwdefaults__ or {}).items()} or None
    if not count:
        raise PatchError(_lost(wrapper, old))
    copied = types.FunctionType(wrapper.__code__, wrapper.__globals__, wrapper.__name__, defaults, cells)
    copied.__kwdefaults__ = keywords
    copied.__qualname__, copied.__module__, copied.__doc__ = wrapper.__qualname__, wrapper.__module__, wrapper.__doc__
    copied.__dict__.update({name: exchange(value) for name, value in wrapper.__dict__.items()})
    return copied


def _cell(cell: Any, exchange: Any) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:
        return cell
    new = exchange(value)
    # a cell that holds anything else is shared, so that a counter goes on counting
    return cell if new is value else types.CellType(new)


def _lost(wrapper: Any, old: Any) -> str:
    name = getattr(old, "__qualname__", old)
    kind = getattr(wrapper, "__code__", None)
    by = kind.co_qualname if kind is not None else type(wrapper).__name__
    return (
        f"{name} is wrapped by {by}, which keeps it where a patch cannot exchange it, and would be lost; write a patch "
        "file whose Head has a CallSite, a function of yours that takes the place of the method"
    )
