"""Where a model calls a method of one of its modules, and which arguments have one value in all of its calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import reduce
from types import FunctionType

from torch import nn

from vdvae_patch.attach.decorators import function_of
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.operands import fixed_arguments
from vdvae_patch.attach.source import Span, is_method, method_function, parse
from vdvae_patch.errors import PatchError


def fixed_everywhere(model: nn.Module, path: str, method: str) -> frozenset[str]:
    """The arguments of a module's method that have the same value whenever the model's code calls it, such as the floor
    of `forward(self, mean, log_var, eps=1e-8)`, which no call names. None where no call is seen."""
    module = model.get_submodule(path)
    try:
        function = method_function(host_class(module), method)
        if not function.__defaults__ and not function.__kwdefaults__:
            return frozenset()  # what is passed at each call is no constant, as a rule
        found = [
            fixed_arguments(caller, span, function, module, owner, frozenset())
            for caller, owner, span in _calls(model, path, method)
        ]
    except PatchError:
        return frozenset()
    return reduce(frozenset.intersection, found) if found else frozenset()


def _calls(model: nn.Module, path: str, method: str) -> Iterator[tuple[FunctionType, nn.Module, Span]]:
    """The functions that call it, what they are methods of, and where."""
    parent, _, name = path.rpartition(".")
    ways = [(path, (method,)), *([(parent, (name,) if method == "forward" else (name, method))] if path else [])]
    for owner, attributes in ways:
        module = model.get_submodule(owner)
        for function in functions_of(module):
            for node in calls_on_self(function, attributes):
                yield function, module, (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)


def functions_of(module: nn.Module) -> Iterator[FunctionType]:
    """The functions that stand in the class of a module, and in its bases up to PyTorch's."""
    for cls in host_class(module).__mro__:
        if cls is nn.Module:
            return
        for found in vars(cls).values():
            function = function_of(found)
            if function is not None:
                yield function


def calls_on_self(function: FunctionType, attributes: tuple[str, ...]) -> Iterator[ast.Call]:
    """The calls of `self.a.b(...)` in a function, for the attributes a, b."""
    try:
        tree = parse(function)
    except PatchError:
        return
    own = {"self", *(function.__code__.co_varnames[:1] if is_method(function) else ())}
    wanted = [".".join((name, *attributes)) for name in own]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in wanted:
            yield node
