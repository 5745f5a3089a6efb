"""A function beside the model that is called as `call(model, ...)`, such as a loss: where its text begins, and what is
called in its place when that text is compiled again.

| what is called | what runs, and is compiled again |
|---|---|
| a function, a lambda, a closure | itself, in its decorators |
| a bound method, `trainer.loss` | the method, bound to the same object |
| `functools.partial(loss, beta=2)` | the function inside |
| an object, `VAELoss()`, a module among them | its class's `__call__`, or `forward` |
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from vdvae_patch.attach import decorators
from vdvae_patch.attach.recompile import Edit, compiled_function
from vdvae_patch.errors import PatchError

_TORCH = os.path.dirname(torch.__file__) + os.sep

Call = Callable[..., Any]


class Entry(NamedTuple):
    """The first function of the host's that runs in a call.

    Attributes:
        function: its own text, behind decorators of PyTorch's.
        instance: what it is a method of.
        rebuilt: from the function compiled again to what is called in the call's place.
        model: the name of the argument that is the model; empty if there is none in sight.
    """

    function: Any  # a types.FunctionType, which a type checker takes for a method of this class
    instance: Any
    rebuilt: Callable[[types.FunctionType], Call]
    model: str


def entry_of(call: Any) -> Entry | None:
    """Where a call begins; None if it is no Python that could be compiled again."""
    if isinstance(call, ExchangedCall):
        return None  # what is exchanged already is not exchanged again
    if isinstance(call, functools.partial):
        inner = entry_of(call.func)
        if inner is None:
            return None
        names = inner.function.__code__.co_varnames[: inner.function.__code__.co_argcount]
        place = (names.index(inner.model) if inner.model in names else len(names)) + len(call.args)
        model = names[place] if place < len(names) else ""
        rebuilt = inner.rebuilt
        return inner._replace(
            rebuilt=lambda new: functools.partial(rebuilt(new), *call.args, **call.keywords), model=model
        )
    instance, found = None, call
    if isinstance(call, types.MethodType):
        instance, found = call.__self__, call.__func__
    elif not isinstance(call, types.FunctionType):
        name = "forward" if isinstance(call, nn.Module) else "__call__"
        instance, found = call, inspect.getattr_static(type(call), name, None)
        if isinstance(call, type) or (isinstance(call, nn.Module) and _has_hooks(call)):
            return None
    layers = decorators.chain(found)
    ran = next((f for f in layers if isinstance(f, types.FunctionType) and _is_of_host(f)), None)
    if ran is None:
        return None
    names = ran.__code__.co_varnames[: ran.__code__.co_argcount]
    first = 0 if instance is None else 1

    def rebuilt_here(new: types.FunctionType) -> Call:
        wrapped: Call = decorators.rewrapped(found, new, ran)
        return wrapped if instance is None else types.MethodType(wrapped, instance)

    return Entry(ran, instance, rebuilt_here, names[first] if len(names) > first else "")


def _has_hooks(module: nn.Module) -> bool:
    """Whether something runs around a module's `forward`, which a call of the method alone would leave out."""
    return any(getattr(module, name, None) for name in ("_forward_hooks", "_forward_pre_hooks"))


def _is_of_host(function: types.FunctionType) -> bool:
    return not function.__code__.co_filename.startswith(_TORCH)


def exchanged_call(call: Call, edits: Sequence[Edit], model: nn.Module | None = None) -> ExchangedCall:
    """A call with the edits made in its text, and in that of the functions that it calls.

    Args:
        edits: with sites whose calls begin in it: owner and method are empty.
        model: of whose parameters sites have the names.

    Raises:
        PatchError: it cannot be compiled again, or is not what the sites describe.
    """
    entry = entry_of(call)
    if entry is None:
        raise PatchError(
            f"{decorators.name_of(call)} cannot be compiled again; give a plain function, a lambda or a method as the "
            "call, such as call=lambda model, batch: ..."
        )
    given = {entry.model: model} if entry.model and model is not None else {}
    defaults = _defaults(entry)
    new = compiled_function(entry.function, edits, entry.instance, given, model, frozenset(defaults))
    fixed = {}
    for name, value in defaults.items():
        try:
            compiled_function(entry.function, edits, entry.instance, given, model, frozenset({*defaults} - {name}))
        except PatchError:
            fixed[name] = value  # a scale that is exchanged was computed with it
    return ExchangedCall(call, edits, entry.rebuilt(new), _places(entry, call, fixed), model)


def _defaults(entry: Entry) -> dict[str, Any]:
    """The arguments that a call leaves at their defaults, with these."""
    function = entry.function
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    values = function.__defaults__ or ()
    return {**dict(zip(names[len(names) - len(values) :], values, strict=True)), **(function.__kwdefaults__ or {})}


def _places(entry: Entry, call: Call, fixed: Mapping[str, Any]) -> dict[str, int | None]:
    """Of some arguments the number that each has in a call; None for those that only a name can give."""
    code = entry.function.__code__
    names = code.co_varnames[: code.co_argcount]
    shift = 0 if entry.instance is None else 1
    while isinstance(call, functools.partial):
        shift += len(call.args)
        call = call.func
    return {name: names.index(name) - shift if name in names else None for name in fixed}


class ExchangedCall:
    """A call beside the model, with the scales and the Normals of a patch in the place of its own; called as it is.

    It has the call's name and signature, and pickles where the call does: it is then made again from the call's text.

    Attributes:
        call: the one that was given.
        edits: what is exchanged in it.
    """

    def __init__(
        self,
        call: Call,
        edits: Sequence[Edit],
        function: Call,
        fixed: Mapping[str, int | None],
        model: nn.Module | None,
    ) -> None:
        functools.update_wrapper(self, call, updated=())
        self.call = call
        self.edits = tuple(edits)
        self.function = function
        self._fixed = dict(fixed)
        # for pickling alone: parameters of one name are told apart by it
        self._model = model if any(getattr(site, "parameter", "") for site, _ in self.edits) else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name, place in self._fixed.items():
            if name in kwargs or (place is not None and len(args) > place):
                raise PatchError(
                    f"a σ that is exchanged depends on {name!r}, an argument, which a patch fixes at its default; "
                    "leave it out of the call, or write its value into the function, and scan and patch with that"
                )
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{decorators.name_of(self.call)} with the scales of a patch>"

    def __reduce__(self) -> Any:
        return exchanged_call, (self.call, self.edits, self._model)

    def __copy__(self) -> ExchangedCall:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ExchangedCall:
        return self  # it changes no more once it is made, as an attachment
