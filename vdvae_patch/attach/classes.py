"""Classes that a function of the host makes objects of, with a method compiled again, and class methods that it calls.

Which class it is may be known only when the call runs: `cls(...)` and `type(self)(...)` make whatever subclass they are
reached by, and `WholeGaussian.cat(...)` gives the method that `Gaussian` has its own subclass.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

from vdvae_patch.attach import decorators


class Maker:
    """Makes objects of a host's class by an `__init__` that is compiled again. They are of the class itself: a subclass
    would go on to `type(self)(...)` in code that is not compiled again, and get its scale there once more."""

    def __init__(self, host: type, init: Callable[..., None]) -> None:
        self._host, self._init = host, init

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        made: Any = object.__new__(self._host)
        self._init(made, *arguments, **keywords)
        return made


def making(host: type, method: str, function: Any, wrap: Callable[[type], type] | None = None) -> Callable[..., Any]:
    """What makes objects of a class with a method compiled again: its `__init__`, or a data class's `__post_init__`.

    Args:
        wrap: see `Site.wrap`.
    """
    plain = type(host) is type and inspect.getattr_static(host, "__new__") is vars(object)["__new__"]
    if method == "__init__" and plain and wrap is None:
        return Maker(host, function)
    made = _subclass(host, method, function)
    return made if wrap is None else wrap(made)


def _subclass(host: type, method: str, function: Any) -> type:
    """A subclass with a method in the place of the host's; its instances pickle as the host's own class."""

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807  a method of the class below
        reduced: Any = host.__reduce_ex__(self, protocol)  # type: ignore[call-arg]
        build, arguments, *rest = reduced
        return _built, (build, *(host if argument is type(self) else argument for argument in arguments)), *rest

    namespace = {method: function, "__reduce_ex__": __reduce_ex__}
    names = {"__module__": host.__module__, "__qualname__": host.__qualname__, "__doc__": host.__doc__}
    return type(host)(host.__name__, (host,), namespace | names)


def _built(build: Callable[..., Any], *arguments: Any) -> Any:
    # a name of its own: pickle lets `copyreg.__newobj__` make nothing but the type of what is pickled
    return build(*arguments)


class ClassOfCall:
    """Takes the class that a call's own expression gives; gives what makes its objects, with a method compiled again.

    What has another method of the name, or is no class, is given back as it is.

    Args:
        host: the class that the method was found in.
        function: the method, compiled again.
        wrap: see `Site.wrap`.
    """

    def __init__(self, host: type, method: str, function: Any, wrap: Callable[[type], type] | None) -> None:
        self._method, self._function, self._wrap = method, function, wrap
        self._written = _written(host, method)
        self._making: dict[type, Callable[..., Any]] = {}

    def __call__(self, found: Any) -> Any:
        if not isinstance(found, type) or _written(found, self._method) is not self._written:
            return found
        if found not in self._making:
            self._making[found] = making(found, self._method, self._function, self._wrap)
        return self._making[found]


def _written(cls: type, method: str) -> types.FunctionType | None:
    return decorators.function_of(inspect.getattr_static(cls, method, None))


class ClassMethod:
    """A class method compiled again, bound to the class that its call is reached by.

    Args:
        function: what is called with the class.
        host: the class, where the call's expression names none.
    """

    def __init__(self, function: Any, host: type) -> None:
        self._function = function
        self.bound = types.MethodType(function, host)

    def __call__(self, owner: Any) -> Any:
        """Bound to a class, or to that of an instance."""
        return types.MethodType(self._function, owner if isinstance(owner, type) else type(owner))
