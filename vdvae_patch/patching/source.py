"""The source of a host's functions as syntax trees, and which function a call of the host calls."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import types
from typing import Any

from vdvae_patch.errors import PatchError

Span = tuple[int, int, int, int]
"""First line, last line, first column, last column (in bytes), as `code.co_positions` gives them."""

LAMBDA = "_vdvae_patch_lambda"
"""Name of the function that a lambda is compiled again as."""

LOCAL = object()
"""`called`: the function is defined in the very function that calls it."""


def method_function(cls: type, name: str) -> types.FunctionType:
    """The plain function behind a method."""
    found = inspect.getattr_static(cls, name)
    found = inspect.unwrap(found)
    if not isinstance(found, types.FunctionType):
        raise PatchError(
            f"{cls.__name__}.{name} is a {type(found).__name__}, not a Python function that could be patched"
        )
    return found


def called(function: types.FunctionType, span: Span, module: str, qualname: str, instance: Any) -> Any:
    """What a function calls at a span: a function, a class method, a class for its `__init__`, or `LOCAL`.

    Functions at the top level and methods are known by module and qualified name. What was defined inside a function,
    or is a lambda, is looked up as the call names it: in the closure, the globals, or an attribute of the instance.

    Raises:
        PatchError: it cannot be found from there.
    """
    if "<" not in qualname:
        return _by_name(module, qualname)
    call = find(parse(function), span)
    name = call.func if isinstance(call, ast.Call) else None
    if isinstance(name, ast.Name) and name.id in {*function.__code__.co_varnames, *function.__code__.co_cellvars}:
        return LOCAL
    try:
        found = _look_up(name, function, instance)
    except (LookupError, AttributeError, TypeError):
        found = None
    if not isinstance(found, types.FunctionType) or found.__qualname__ != qualname:
        raise PatchError(
            f"{function.__qualname__} line {span[0]} calls {qualname}, which cannot be found again from there; write a "
            "patch file whose Head has a CallSite, a function of yours that takes the place of the method that calls it"
        )
    return found


def _by_name(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    names = qualname.split(".")
    for name in names[:-1] if names[-1] == "__init__" else names:
        found = inspect.getattr_static(found, name) if isinstance(found, type) else getattr(found, name)
    return found.__func__ if isinstance(found, staticmethod) else found


def owner_of(module: str, qualname: str) -> Any:
    """The class whose method a qualified name is."""
    return _by_name(module, qualname.rpartition(".")[0])


def _look_up(node: ast.expr | None, function: types.FunctionType, instance: Any) -> Any:
    """The value of a name, an attribute or an item; `self` is the instance."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if node.id == "self" and instance is not None:
            return instance
        if node.id in function.__code__.co_freevars:
            cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
            return cells[node.id].cell_contents
        return function.__globals__[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(_look_up(node.value, function, instance), node.attr)
    if isinstance(node, ast.Subscript):
        return _look_up(node.value, function, instance)[_look_up(node.slice, function, instance)]
    raise LookupError


def find(tree: ast.AST, span: Span) -> ast.expr | ast.stmt | None:
    """The expression, or augmented assignment, at a span."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr | ast.AugAssign) or not hasattr(node, "lineno"):
            continue  # what was put in has no place in the file
        if (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset) == span:
            return node
    return None


def parse(function: types.FunctionType) -> ast.FunctionDef:
    """The definition of a function, with the lines and columns of its file; a lambda as a function that returns.

    Raises:
        PatchError: the source cannot be found, or is not what runs.
    """
    if function.__name__ == "<lambda>":
        return _parse_lambda(function)
    tree = definition(function)
    if not isinstance(tree, ast.FunctionDef):
        raise PatchError(f"{function.__qualname__} is not a plain function")
    plain = {"staticmethod", "classmethod", "override"}
    strange = [ast.unparse(d) for d in tree.decorator_list if ast.unparse(d).split(".")[-1] not in plain]
    if strange and hasattr(function, "__wrapped__"):
        raise PatchError(f"{function.__qualname__} is decorated with {strange[0]}, which would be lost")
    tree.decorator_list = []
    return tree


def definition(function: types.FunctionType) -> ast.stmt:
    """The statement that defines a function, with the lines and columns of its file.

    Raises:
        PatchError: the source cannot be found.
    """
    source = _source(function)
    # in a block of its own and not dedented: columns stay, and a comment at the left edge is no end of the method
    indented = source[:1].isspace()
    found = ast.parse(f"if True:\n{source}" if indented else source).body[0]
    inner = found.body[0] if isinstance(found, ast.If) and indented else found
    ast.increment_lineno(inner, function.__code__.co_firstlineno - (2 if indented else 1))
    return inner


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError:
        raise PatchError(
            f"the source of {function.__qualname__} cannot be found, so it cannot be patched at a call"
        ) from None


def _parse_lambda(function: types.FunctionType) -> ast.FunctionDef:
    _source(function)
    lines, _ = inspect.findsource(function)
    places = [p for p in function.__code__.co_positions() if None not in p and p[3] != 0]
    inside = [
        node
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.Lambda) and all(_is_within(place, node.body) for place in places[1:])
    ]
    if not inside:
        raise PatchError(f"the source of {function.__qualname__} cannot be told from others on its line")
    innermost = min(inside, key=lambda node: (node.end_lineno or 0) - node.lineno or (node.end_col_offset or 0))
    body = ast.copy_location(ast.Return(innermost.body), innermost.body)
    tree = ast.FunctionDef(LAMBDA, innermost.args, [body], [])
    return ast.copy_location(tree, innermost)


def _is_within(place: Any, node: ast.expr) -> bool:
    first, last, start, end = place
    return (node.lineno, node.col_offset) <= (first, start) and (last, end) <= (
        node.end_lineno or first,
        node.end_col_offset or end,
    )
