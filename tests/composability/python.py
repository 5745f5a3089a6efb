"""What Python itself does to a module: its type, its source, mocks, and walks over its parts."""

from __future__ import annotations

import inspect
import weakref
from typing import Any
from unittest import mock

import torch
from torch import nn

from .case import Case, gradient, value
from .table import row


@row("unittest.mock.patch.object on the patched method, and its end")
def mocked(case: Case) -> Any:
    case.patch()
    own = getattr(case.part, case.column.method)
    with mock.patch.object(case.part, case.column.method, side_effect=own) as double:
        value(case.model, case.batch)
    assert double.called
    return case.model


@row("unittest.mock.patch.object(wraps=...), while it lasts")
def while_mocked(case: Case) -> Any:
    case.patch()
    own = getattr(case.part, case.column.method)
    with mock.patch.object(case.part, case.column.method, wraps=own):
        return gradient(case.model, case.batch)


@row("a mock before the patch, ended after it", note="end it first")
def mocked_first(case: Case) -> Any:
    own = getattr(case.part, case.column.method)
    with mock.patch.object(case.part, case.column.method, side_effect=own):
        case.patch()
    return case.model


@row("model.train(), eval(), requires_grad_(), apply(), zero_grad()")
def walked(case: Case) -> Any:
    case.patch()
    seen: list[str] = []
    case.model.apply(lambda module: seen.append(type(module).__name__))
    theirs: list[str] = []
    case.fresh().apply(lambda module: theirs.append(type(module).__name__))
    assert seen == theirs
    case.model.eval().requires_grad_(False).train().requires_grad_(True).zero_grad()
    return case.model


@row("named_parameters, named_modules, named_buffers, state_dict: order and names")
def named(case: Case) -> Any:
    case.patch()
    fresh = case.fresh()
    for names in ("named_parameters", "named_modules", "named_buffers"):
        assert [n for n, _ in getattr(case.model, names)()] == [n for n, _ in getattr(fresh, names)()]
    assert list(case.model.state_dict()) == list(fresh.state_dict())
    assert repr(case.model) == repr(fresh)
    return case.model


@row("isinstance, type(module).__name__, inspect.signature, inspect.getsource")
def inspected(case: Case) -> Any:
    case.patch()
    host = type(case.fresh().get_submodule(case.column.part))
    patched = type(case.part)
    assert isinstance(case.part, host)
    assert issubclass(patched, host)
    assert (patched.__name__, patched.__module__, patched.__doc__) == (host.__name__, host.__module__, host.__doc__)
    method, theirs = getattr(patched, case.column.method), getattr(host, case.column.method)
    assert inspect.signature(method) == inspect.signature(theirs)
    assert inspect.getsource(method) == inspect.getsource(theirs)
    assert method.__doc__ == theirs.__doc__
    return case.model


def _built_again(part: nn.Module, fresh: nn.Module) -> Any:
    """Another instance by the type of a patched one, with the weights of `fresh`."""
    cls: Any = type(part)
    if isinstance(part, nn.Linear):
        made = cls(part.in_features, part.out_features)
    elif hasattr(part, "zdim"):
        # what it is built from lies in no attribute, so that the state of one goes into an empty one
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        vars(made).update(vars(fresh))
    else:
        made = cls()
    made.load_state_dict(fresh.state_dict())
    return made


@row("type(module)(...) of a patched module", back=True, variant="explin/vanilla", note="a new instance is vanilla")
def constructed(case: Case) -> Any:
    case.patch()
    other = case.fresh()
    for path, module in list(case.model.named_modules()):
        plain = other.get_submodule(path)
        if path and type(module) is not type(plain):
            other.set_submodule(path, _built_again(module, plain))
    return gradient(other, case.batch)


def _of_class(case: Case, cls: type) -> Any:
    case.part.__class__ = cls
    return case.patch()


@row("a host whose __init_subclass__ registers classes", note="the patch adds no class to the registry")
def registered(case: Case) -> Any:
    registry: list[type] = []

    class Registry:
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            registry.append(cls)

    host = type(case.part)
    cls = type(host.__name__, (host, Registry), {"__module__": host.__module__, "__qualname__": host.__qualname__})
    model = _of_class(case, cls)
    assert registry == [cls]
    return gradient(model, case.batch)


@row("a host with a metaclass that registers classes", note="the patch adds no class to the registry")
def of_metaclass(case: Case) -> Any:
    registry: list[str] = []

    class Meta(type):
        def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
            registry.append(name)
            return super().__new__(mcs, name, bases, namespace)

    host = type(case.part)
    cls = Meta(host.__name__, (host,), {"__module__": host.__module__, "__qualname__": host.__qualname__})
    model = _of_class(case, cls)
    assert registry == [host.__name__]
    return gradient(model, case.batch)


@row("del model", note="it is freed at once")
def freed(case: Case) -> Any:
    other = case.patch(case.fresh())
    gradient(other, case.batch)
    gone = weakref.ref(other)
    del other
    assert gone() is None
    return case.patch()


@row("setattr and getattr of the host's own attributes, register_buffer")
def attributes(case: Case) -> Any:
    case.patch()
    case.part.anything = 3  # type: ignore[assignment]
    case.part.register_buffer("counter", torch.zeros(()), persistent=False)
    assert case.part.anything == 3
    assert "counter" in dict(case.part.named_buffers())
    del case.part.anything, case.part.counter
    return case.model
