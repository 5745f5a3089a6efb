"""A syntax tree as the function that it stands for: with the globals, the class and the closure of the host's own."""

from __future__ import annotations

import ast
import copy
import dis
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

from vdvae_patch.attach.source import METHOD, class_of, is_method, parse
from vdvae_patch.errors import PatchError


def rebound(function: types.FunctionType, names: Mapping[str, Any]) -> types.FunctionType:
    """The function as it is written, with some of its global names bound to other values.

    Raises:
        PatchError: it reads no such global.
    """
    missing = [name for name in names if name not in function.__code__.co_names or name in bound_names(function)]
    if missing:
        raise PatchError(f"{function.__qualname__} does not call {', '.join(missing)}")
    return compiled(function, parse(function), dict(names))


def bound_names(function: types.FunctionType) -> frozenset[str]:
    """The names that are variables in a function or in one that is written inside it, and so no globals there."""

    def of(code: types.CodeType) -> set[str]:
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        return own.union(*(of(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))

    return frozenset(of(function.__code__))


def compiled(function: types.FunctionType, tree: ast.FunctionDef, names: dict[str, Any]) -> types.FunctionType:
    free = [name for name in function.__code__.co_freevars if name != "__class__"]  # that is the class's around it
    outer = ast.parse(f"def outer({', '.join([*free, *names])}):\n    pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    cls = class_of(function)
    body: ast.stmt = tree
    # names that a class body binds are not seen from inside of its functions, so that the function's own name, and its
    # class's, stay the globals that they are; a class called `_` mangles nothing
    for name in [cls, "_"] if cls else ["_"]:
        body = ast.ClassDef(name=name, bases=[], keywords=[], body=[body], decorator_list=[])
    outer.body = [body]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    try:
        code = compile(module, function.__code__.co_filename, "exec", dont_inherit=True, flags=_future_flags(function))
    except TypeError as error:  # `v += p` is no expression, and cannot be given to a scale
        raise PatchError(
            f"{function.__qualname__}: a raw value is changed in place where its scale would be computed; write it as "
            "an assignment, v = v + p, or write a patch file whose Head has a CallSite"
        ) from error
    inner = _code_of(code, [outer.name, "_", *([cls] if cls else []), tree.name])
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: types.CellType(value) for name, value in names.items()}
    new = types.FunctionType(
        inner.replace(co_qualname=function.__code__.co_qualname),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells[name] for name in inner.co_freevars),
    )
    functools.update_wrapper(new, function)
    del vars(new)["__wrapped__"]  # it stands in for the function, and calls it nowhere
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new)[METHOD] = is_method(function)
    return new


def _code_of(code: types.CodeType, names: Sequence[str]) -> types.CodeType:
    for name in names:
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
    return code


def _future_flags(function: types.FunctionType) -> int:
    import __future__

    every = 0
    for name in __future__.all_feature_names:
        every |= getattr(__future__, name).compiler_flag
    return function.__code__.co_flags & every


def require_what_runs(function: types.FunctionType, tree: ast.FunctionDef) -> None:
    """Raise `PatchError` if the text is not what the function was made of: the file was edited after its import."""
    if function.__name__ == "<lambda>" or any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return  # a lambda has no statement to compile, and pytest rewrites what asserts
    if _operations(compiled(function, copy.deepcopy(tree), {}).__code__) != _operations(function.__code__):
        raise PatchError(
            f"the text of {function.__qualname__} is not what runs: {function.__code__.co_filename} was edited after "
            "it was imported; import it again, build the model and scan it"
        )


def _operations(code: types.CodeType) -> list[tuple[str, str]]:
    """What a function does, in a form in which it does not matter what else its module holds: a call of a method is
    compiled in another way if the module is seen to import what it is called on."""
    return [
        (instruction.opname.replace("LOAD_METHOD", "LOAD_ATTR"), repr(instruction.argval))
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith(("LOAD", "STORE", "BINARY", "COMPARE", "UNARY"))
        and not isinstance(instruction.argval, types.CodeType | frozenset)
    ]
