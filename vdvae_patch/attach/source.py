"""The source of a host's functions as syntax trees, and which function a call of the host calls."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from vdvae_patch.attach import decorators
from vdvae_patch.attach.graft import is_stand_in
from vdvae_patch.errors import PatchError

Span = tuple[int, int, int, int]
"""First line, last line, first column, last column (in bytes), as `code.co_positions` gives them."""

LAMBDA = "_vdvae_patch_lambda"
"""Name of the function that a lambda is compiled again as."""

METHOD = "_vdvae_patch_is_method"
"""Of a function that is compiled again, and has no decorators in its text: what `is_method` said of the host's."""

LOCAL = object()
"""`called`: the function is defined in the very function that calls it."""


def method_function(cls: type, name: str) -> types.FunctionType:
    """The function that was written as a method, behind its decorators."""
    found = inspect.getattr_static(cls, name)
    function = decorators.function_of(found, _unmangled(name, cls))
    if function is None:
        raise PatchError(
            f"{cls.__name__}.{name} is a {type(found).__name__}, not a Python function that could be patched"
        )
    return function


def _unmangled(name: str, cls: type) -> str:
    """The name as it was written: `__x` of `_VAE__x`."""
    prefixes = [f"_{base.__name__.lstrip('_')}__" for base in cls.__mro__]
    return next((f"__{name.removeprefix(p)}" for p in prefixes if name.startswith(p)), name)


def class_of(function: types.FunctionType) -> str:
    """The name of the class in whose text a function stands, after which names like `__x` are mangled; or empty."""
    names = function.__code__.co_qualname.split(".")
    inside = [name for name, after in itertools.pairwise(names) if "<" not in name and after != "<locals>"]
    return inside[-1] if inside else ""


def is_method(function: types.FunctionType) -> bool:
    """Whether the first argument is what the function is called on, whatever its name: `self`, `s`, `cls`."""
    if METHOD in vars(function):
        return bool(vars(function)[METHOD])
    *_, around, name = ("", *function.__code__.co_qualname.split("."))
    if not around or "<" in around + name or not function.__code__.co_argcount:
        return False  # not written in the body of a class
    try:
        decorators = getattr(definition(function), "decorator_list", [])
    except PatchError:
        return False
    return not any(ast.unparse(decorator).rpartition(".")[2] == "staticmethod" for decorator in decorators)


def mangled(name: str, cls: str) -> str:
    """The attribute that a name means inside a class: `_VAE__x` for `__x` in `VAE`."""
    private = cls.strip("_") and name.startswith("__") and not name.endswith("__") and "." not in name
    return f"_{cls.lstrip('_')}{name}" if private else name


class Callee(NamedTuple):
    """What is called: a function, a class method, a class whose `__init__` or `__post_init__` runs, or `LOCAL`; on
    which instance; and whether it is known from what ran alone, so that another call may give another class."""

    target: Any
    instance: Any = None
    varies: bool = False


def called(function: types.FunctionType, span: Span, module: str, qualname: str, instance: Any) -> Callee:
    """What a function calls at a span.

    First as the call itself names it: in the closure, the globals, or an attribute of the instance. Else, for what a
    variable holds, by the module and the qualified name of the code that ran.

    Raises:
        PatchError: it cannot be found from there.
    """
    call = find(parse(function), span)
    name = call.func if isinstance(call, ast.Call) else None
    if isinstance(name, ast.Name) and name.id in {*function.__code__.co_varnames, *function.__code__.co_cellvars}:
        return Callee(LOCAL) if "<" in qualname else Callee(_by_name(module, qualname), varies=True)
    if _is_super(name):
        return Callee(_by_name(module, qualname, by_super=True), instance)
    try:
        found = look_up(name, function, instance)
    except (LookupError, AttributeError, TypeError):
        found = None
    method = _method_of_object(found, qualname)
    if method is not None:
        return Callee(method, found)
    if isinstance(found, type) and qualname.rpartition(".")[2] in _MAKING:
        return Callee(found)
    owner = getattr(found, "__self__", None)
    target = _behind_grafts(found)
    if any(qualname_of(layer) == qualname for layer in decorators.chain(target, _last_name(name))):
        return Callee(target, None if isinstance(owner, type) else owner)
    if "<" not in qualname:
        return Callee(_by_name(module, qualname), varies=True)
    raise PatchError(
        f"{function.__qualname__} line {span[0]} calls {qualname}, which cannot be found again from there; write a "
        "patch file whose Head has a CallSite, a function of yours that takes the place of the method that calls it"
    )


def _method_of_object(found: Any, qualname: str) -> types.FunctionType | None:
    """What runs when an object is called, a module beside the model among them: `criterion(output, x)`."""
    name = qualname.rpartition(".")[2]
    if name not in ("forward", "__call__") or isinstance(found, type | types.FunctionType | types.MethodType):
        return None
    function = decorators.function_of(inspect.getattr_static(type(found), name, None))
    return function if function is not None and qualname_of(function) == qualname else None


def _last_name(node: ast.expr | None) -> str:
    """`limited` of `self.helpers.limited`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_super(name: ast.expr | None) -> bool:
    """Whether a call is `super().method(...)`, or `super(VAE, self).method(...)`."""
    owner = name.value if isinstance(name, ast.Attribute) else None
    return isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"


def _behind_grafts(found: Any) -> Any:
    """The host's own method: what another attachment puts in its place is called by that one."""
    function = decorators.plain(found)
    while is_stand_in(function):
        function = decorators.plain(function.__wrapped__)
    # a class method is called with its class, a function with what the call passes
    bound_to_class = isinstance(found, types.MethodType) and isinstance(found.__self__, type)
    return classmethod(function) if bound_to_class else function


def qualname_of(found: Any) -> str | None:
    """The qualified name of a function's own code: of a wrapper not the name that it borrows."""
    return found.__code__.co_qualname if isinstance(found, types.FunctionType) else None


_MAKING = ("__init__", "__post_init__")
"""What runs where a class is called."""


def _by_name(module: str, qualname: str, by_super: bool = False) -> Any:
    """What has a qualified name; a class in the place of its `__init__`, unless another `__init__` calls that."""
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    names = qualname.split(".")
    for name in names[:-1] if names[-1] in _MAKING and not by_super else names:
        if isinstance(found, type):
            found = inspect.getattr_static(found, mangled(name, found.__name__))
        else:
            found = getattr(found, name)
    return found.__func__ if isinstance(found, staticmethod) else found


def owner_of(module: str, qualname: str) -> Any:
    """The class whose method a qualified name is."""
    return _by_name(module, qualname.rpartition(".")[0])


def look_up(
    node: ast.expr | None, function: types.FunctionType, instance: Any, given: Mapping[str, Any] | None = None
) -> Any:
    """The value of a name, an attribute or an item; the first argument is the instance.

    Args:
        given: further arguments whose values are known.

    Raises:
        LookupError, AttributeError, TypeError: it is known only while the function runs.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        code = function.__code__
        if given and node.id in given:
            return given[node.id]
        if code.co_argcount and node.id == code.co_varnames[0] and instance is not None:
            return instance
        if node.id in code.co_freevars:
            cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
            return cells[node.id].cell_contents
        if node.id in (*code.co_varnames, *code.co_cellvars):
            raise LookupError(node.id)  # a variable, whatever the module has of that name
        return function.__globals__[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(look_up(node.value, function, instance, given), mangled(node.attr, class_of(function)))
    if isinstance(node, ast.Subscript):
        return look_up(node.value, function, instance, given)[look_up(node.slice, function, instance, given)]
    raise LookupError


def find(tree: ast.AST, span: Span) -> ast.expr | ast.stmt | None:
    """The expression, or augmented assignment, at a span."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr | ast.AugAssign) or not hasattr(node, "lineno"):
            continue  # what was put in has no place in the file
        if (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset) == span or _starts_at_name(node, span):
            return node
    return None


def _starts_at_name(node: ast.AST, span: Span) -> bool:
    """Whether a span is that of a method's call which goes over several lines: Python gives it from the name on.

    sigma = (
        torch.exp(lv)
        .clamp(1e-3)      # the call's place begins here
    )
    """
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = node.func
    begin = (name.end_lineno or 0, (name.end_col_offset or 0) - len(name.attr.encode()))
    return (*begin, node.end_lineno, node.end_col_offset) == (span[0], span[2], span[1], span[3])


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
    tree.decorator_list = []  # the wrappers are there already, see `decorators`
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
        return inspect.getsource(function.__code__)  # of a wrapper itself, and not of what it wraps
    except OSError:
        raise PatchError(
            f"the source of {function.__qualname__} cannot be found, so it cannot be patched at a call; code that "
            "`exec` or `python -c` runs has no text that could be read again: write it into a file and import it"
        ) from None


def _parse_lambda(function: types.FunctionType) -> ast.FunctionDef:
    _source(function)
    lines, _ = inspect.findsource(function.__code__)
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
