"""A class for one instance: how a method of a single module is replaced, and nothing else of the program changes.

`torch.nn.utils.parametrize` does the same. The module's `__class__` becomes a subclass of its own class, with the same
name, in which the replaced methods are; what they do is looked up in the instance. So

- whoever asks the type finds the replacement: `torch.fx`, `torch.export`, Lightning, `inspect.signature`;
- `self` is the module that is called, so replicas (`DataParallel`) and shallow copies use their own weights;
- nothing refers back to the module, so `del model` frees it at once;
- a copy, or a pickle, is rebuilt from the host's class and gets the graft again.

The class is shared by all instances that have the same host class and the same methods replaced: a compiled block is
compiled once for all blocks, as it was before.

    class VAE(nn.Module): ...            class VAE(VAE):                       # the graft, made once
                                             def forward(self, *args):        # looks like VAE.forward
                                                 self._vdvae_patch["forward"].run(self, VAE.forward, *args)
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from abc import ABCMeta
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol

from torch import nn
from torch.nn.utils import parametrize

from vdvae_patch.attach.decorators import name_of
from vdvae_patch.errors import PatchError

TABLE = "_vdvae_patch"
"""The instance's attribute that maps the name of a method to what stands in for it."""

_HOST = "_vdvae_patch_host"


class StandsIn(Protocol):
    """What is called in the place of a method."""

    def run(self, module: Any, host: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the method returns now; `host` is the host's own, which takes the module first."""

    def restore(self, module: Any) -> None:
        """Make what a pickle does not hold; called once the module has its state again."""


_classes: weakref.WeakValueDictionary[tuple[type, frozenset[str]], type] = weakref.WeakValueDictionary()


def host_class(module: Any) -> Any:
    """The class of a module without any graft: what its authors wrote, or the wrapper that lies below."""
    cls = type(module)
    return cls.__dict__.get(_HOST, cls)


def is_grafted(module: Any, method: str) -> bool:
    """Whether a method of a module is reached through a graft, and something stands in for it."""
    return method in vars(module).get(TABLE, {}) and is_stand_in(_static(type(module), method))


def is_stand_in(function: Any) -> bool:
    """Whether a function, or a property, is the replaced one of a graft."""
    function = function.fget if isinstance(function, property) else function
    return getattr(function, "__code__", None) in _codes


def is_own(module: Any, method: str) -> bool:
    """Whether an instance holds its own replaced method, as after `saved = m.f; m.f = other; m.f = saved`."""
    held = vars(module).get(method)
    return isinstance(held, types.MethodType) and held.__self__ is module and is_stand_in(held.__func__)


def stands_in(module: Any) -> Mapping[str, Any]:
    """What stands in for the methods of a module, by name; empty if nothing does."""
    found: Mapping[str, Any] = vars(module).get(TABLE, {})
    return found


def graft(module: nn.Module, method: str, instead: StandsIn) -> None:
    """Let `instead` stand in for a method of this module.

    Raises:
        PatchError: there is no such method, or it was replaced on this instance by something else, which a class could
            not get at.
    """
    table: dict[str, StandsIn] = vars(module).get(TABLE, {})
    if method in table:
        raise PatchError(f"{_name(module, method)} is patched already; unpatch it first")
    if method in vars(module):
        by = name_of(vars(module)[method])
        raise PatchError(
            f"{_name(module, method)} of this instance is replaced already (by {by}), and calls would not reach a "
            "patch; patch before it is put there, such as before accelerator.prepare, or remove it and put it back "
            "after the patch"
        )
    host = host_class(module)
    if not isinstance(_static(host, method), types.FunctionType | property):
        kind = type(_static(host, method)).__name__
        raise PatchError(
            f"{host.__name__} has no method {method!r} that a patch could stand in for"
            + ("" if kind == "NoneType" else f": it is a {kind}")
        )
    if not _reaches(type(module), method):
        _become(module, _class(host, frozenset({*_methods(type(module)), method})))
    vars(module)[TABLE] = {**table, method: instead}


def take_out(module: nn.Module, method: str) -> None:
    """Give a method back to the host; the last one also gives the module its own class again."""
    left = {name: kept for name, kept in vars(module)[TABLE].items() if name != method}
    if left:
        vars(module)[TABLE] = left
        return
    del vars(module)[TABLE]
    cls = type(module)
    if _HOST in vars(cls):
        _become(module, host_class(module))
    elif parametrize.is_parametrized(module) and _HOST in vars(cls.__bases__[0]):
        cls.__bases__ = (vars(cls.__bases__[0])[_HOST],)  # its class is of this instance alone, and falls back to ours
    # another class (FSDP's) is shared by many modules; below it a graft without a table does nothing


def _become(module: nn.Module, cls: type) -> None:
    # not by assignment to module.__class__, which a host may have made a property
    object.__setattr__(module, "__class__", cls)


def _methods(cls: type) -> frozenset[str]:
    return frozenset(name for name, value in vars(cls).items() if _HOST in vars(cls) and is_stand_in(value))


def _reaches(cls: type, method: str) -> bool:
    return is_stand_in(_static(cls, method))


def _static(cls: type, method: str) -> Any:
    return inspect.getattr_static(cls, method, None)


def _name(module: nn.Module, method: str) -> str:
    return f"{type(module).__name__}.{method}"


def _class(host: type, methods: frozenset[str]) -> type:
    known = _classes.get((host, methods))
    if known is None:
        known = _classes[host, methods] = _made(host, methods)
    return known


def _made(host: type, methods: frozenset[str]) -> type:
    """The graft of a host's class, with the name, module and documentation of the host."""

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807  a method of the class below
        reduced: Any = host.__reduce_ex__(self, protocol)  # type: ignore[call-arg]
        if isinstance(reduced, str):
            return reduced
        made, arguments, *rest = reduced
        # the graft cannot be found by its name, and so a pickle names the host's class
        plain = tuple(host if argument is type(self) else argument for argument in arguments)
        return _restored, (made, plain, vars(self).get(TABLE, {})), *rest

    def __setstate__(self: Any, state: Any) -> None:  # noqa: N807  a method of the class below
        host.__setstate__(self, state)  # type: ignore[attr-defined]
        for instead in vars(self).get(TABLE, {}).values():
            instead.restore(self)

    def __prepare_scriptable__(self: Any) -> Any:  # noqa: N807  a method of the class below
        if not vars(self).get(TABLE):
            return self
        raise PatchError(
            f"{host.__name__} is patched, and TorchScript compiles the source of its class, which knows nothing of it; "
            "use torch.jit.trace, torch.export or torch.compile"
        )

    namespace: dict[str, Any] = {
        "__module__": host.__module__,
        "__qualname__": host.__qualname__,
        "__doc__": host.__doc__,
        "__reduce_ex__": __reduce_ex__,
        "__setstate__": __setstate__,
        "__prepare_scriptable__": __prepare_scriptable__,
        _HOST: host,
        TABLE: types.MappingProxyType({}),  # of an instance that nobody patched, such as one by type(self)(...)
    }
    namespace |= {method: _stand_in(host, method) for method in sorted(methods)}
    if hasattr(host, "__deepcopy__"):
        namespace["__deepcopy__"] = _deepcopy(host)
    return _derived(host, namespace)


def _derived(host: type, namespace: dict[str, Any]) -> type:
    """A subclass that no metaclass and no `__init_subclass__` of the host hears of: a registry of models by name would
    take it for a second model of that name."""
    meta: type = type(host)
    make = ABCMeta.__new__ if issubclass(meta, ABCMeta) else type.__new__
    heard = next(cls for cls in host.__mro__ if "__init_subclass__" in vars(cls)) not in (object, Generic)
    new: type = make(_metaclass(meta), host.__name__, (nn.Module,) if heard else (host,), namespace)
    if heard:
        type.__setattr__(new, "__bases__", (host,))
    return new


@functools.cache
def _metaclass(meta: type) -> type:
    """What the host writes to `type(self)`, a counter of its class, it writes to its own class; and what it makes by
    `type(self)(...)` is an instance of that."""

    def __setattr__(cls: Any, name: str, value: Any) -> None:  # noqa: N807  a method of the class below
        if _is_hosts(cls, name):
            setattr(vars(cls)[_HOST], name, value)
        else:
            meta.__setattr__(cls, name, value)  # type: ignore[call-arg]

    def __delattr__(cls: Any, name: str) -> None:  # noqa: N807  a method of the class below
        if _is_hosts(cls, name):
            delattr(vars(cls)[_HOST], name)
        else:
            meta.__delattr__(cls, name)  # type: ignore[call-arg]

    def __call__(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  a method of the class below
        # another class may lie over the graft (FSDP's), and that one is meant then
        return vars(cls)[_HOST](*args, **kwargs) if _HOST in vars(cls) else meta.__call__(cls, *args, **kwargs)

    body = {"__setattr__": __setattr__, "__delattr__": __delattr__, "__call__": __call__, "__doc__": meta.__doc__}
    return type.__new__(type, meta.__name__, (meta,), body)


def _is_hosts(cls: type, name: str) -> bool:
    """Whether an attribute that is written to a class is meant for the host's: not by Python itself, or by `abc`."""
    return _HOST in vars(cls) and not name.startswith(("__", "_abc_"))


def _stand_in(host: type, method: str) -> Any:
    found = getattr(host, method)
    own: Any = found.fget if isinstance(found, property) else found

    @functools.wraps(own)
    def stand_in(self: Any, *args: Any, **kwargs: Any) -> Any:
        instead = self._vdvae_patch.get(method)
        if instead is None:
            return own(self, *args, **kwargs)
        return instead.run(self, own, *args, **kwargs)

    _codes.add(getattr(stand_in, "__code__", None))
    return property(stand_in, found.fset, found.fdel) if isinstance(found, property) else stand_in


_codes: set[Any] = set()  # of the one function above, whatever it is called


def _deepcopy(host: Any) -> Callable[..., Any]:
    """For a host that copies itself in its own way: by its own class, and then patched as the original."""

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:  # noqa: N807  a method of the class below
        cls, table = type(self), vars(self).pop(TABLE, {})
        _become(self, host)
        try:
            new = host.__deepcopy__(self, memo)
        finally:
            _become(self, cls)
            vars(self)[TABLE] = table
        _graft_again(new, table)
        return new

    return __deepcopy__


def _restored(made: Callable[..., Any], arguments: tuple[Any, ...], table: Mapping[str, StandsIn]) -> Any:
    module = made(*arguments)
    _graft_again(module, table)
    return module


def _graft_again(module: Any, table: Mapping[str, StandsIn]) -> None:
    if table:
        _become(module, _class(host_class(module), frozenset(table)))
        vars(module)[TABLE] = dict(table)
