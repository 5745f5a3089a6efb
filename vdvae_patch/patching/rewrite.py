"""Compile a function again from its own source with some of its expressions replaced."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vdvae_patch.errors import PatchError

Span = tuple[int, int, int, int]
"""First line, last line, first column, last column (in bytes), as `code.co_positions` gives them."""


class Change(NamedTuple):
    """Replace the expression at `last` by reader(p), p the operand of the expression at `first`."""

    first: Span
    last: Span
    operand: int
    reader: Any
    parameter: str = ""
    also: tuple[tuple[Span, int], ...] = ()
    """Further expressions and operands, whose raw parameters are added to the first."""
    drops: tuple[Span, ...] = ()
    """In-place operations on the way to the last expression that are left out, so that the raw parameter lasts."""
    inplace: bool = False
    """Whether the last expression changes its operand in place, which then gets the value."""


def callee(module: str, qualname: str) -> Any:
    """A function or class by module and qualified name; of `Class.__init__`, the class.

    Raises:
        PatchError: it is defined inside a function, where it cannot be found again.
    """
    if "<locals>" in qualname:
        raise PatchError(
            f"{module}.{qualname} is defined inside a function; write a patch file that replaces its caller"
        )
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    names = qualname.split(".")
    for name in names[:-1] if names[-1] == "__init__" else names:
        found = inspect.getattr_static(found, name) if isinstance(found, type) else getattr(found, name)
    return found.__func__ if isinstance(found, staticmethod) else found


def method_function(cls: type, name: str) -> types.FunctionType:
    """The plain function behind a method."""
    found = inspect.getattr_static(cls, name)
    found = inspect.unwrap(found)
    if not isinstance(found, types.FunctionType):
        raise PatchError(
            f"{cls.__name__}.{name} is a {type(found).__name__}, not a Python function that could be patched"
        )
    return found


def rewritten(
    function: types.FunctionType, changes: Sequence[Change], callees: Mapping[Span, Any]
) -> types.FunctionType:
    """The function with its expressions changed, and the functions at some calls replaced.

    Raises:
        PatchError: its source cannot be found, is not what runs, or holds no such expression.
    """
    tree, shift = _parse(function)
    names: dict[str, Any] = {}
    edit = _Edit(function, shift, names)
    for span, target in callees.items():
        edit.call(tree, span, target)
    # first those that read several expressions, while these still stand where the source has them
    for change in sorted(changes, key=lambda c: (not c.also, c.first == c.last)):
        edit.change(tree, change)
    return _compile(function, tree, names)


def _parse(function: types.FunctionType) -> tuple[ast.FunctionDef, tuple[int, int]]:
    try:
        source = inspect.getsource(function)
    except OSError:
        raise PatchError(
            f"the source of {function.__qualname__} cannot be found, so it cannot be patched at a call"
        ) from None
    flat = textwrap.dedent(source)
    tree = ast.parse(flat).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise PatchError(f"{function.__qualname__} is not a plain function")
    plain = {"staticmethod", "override"}
    strange = [ast.unparse(d) for d in tree.decorator_list if ast.unparse(d).split(".")[-1] not in plain]
    if strange and hasattr(function, "__wrapped__"):
        raise PatchError(f"{function.__qualname__} is decorated with {strange[0]}, which would be lost")
    tree.decorator_list = []
    indent = len(source.split("\n", 1)[0]) - len(flat.split("\n", 1)[0])
    # the lines of the file, so that tracebacks point where the host's code is
    return ast.increment_lineno(tree, function.__code__.co_firstlineno - 1), (0, indent)


def _compile(function: types.FunctionType, tree: ast.FunctionDef, names: dict[str, Any]) -> types.FunctionType:
    outer = ast.parse(f"def outer({', '.join(function.__code__.co_freevars)}):\n    pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [tree]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = compile(module, function.__code__.co_filename, "exec", dont_inherit=True, flags=_future_flags(function))
    built = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    inner = next(c for c in built.co_consts if isinstance(c, types.CodeType) and c.co_name == function.__name__)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    # no __name__: torch.compile would look the globals of a named module up in that module
    scope = {key: value for key, value in function.__globals__.items() if key != "__name__"} | names
    closure = tuple(cells[name] for name in inner.co_freevars)
    new = types.FunctionType(inner, scope, function.__name__, function.__defaults__, closure)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__ = function.__qualname__
    return new


def _future_flags(function: types.FunctionType) -> int:
    import __future__

    every = 0
    for name in __future__.all_feature_names:
        every |= getattr(__future__, name).compiler_flag
    return function.__code__.co_flags & every


class _Edit:
    """Changes one syntax tree in place."""

    def __init__(self, function: types.FunctionType, shift: tuple[int, int], names: dict[str, Any]) -> None:
        self.function = function
        self.shift = shift
        self.names = names
        self._kept = 0

    def call(self, tree: ast.AST, span: Span, target: Any) -> None:
        """Replace what is called at a span."""
        node = self._at(tree, span)
        if not isinstance(node, ast.Call):
            raise PatchError(
                f"{self.function.__qualname__} line {span[0]} calls a function in a way that is not understood"
            )
        bound = isinstance(target, types.FunctionType) and isinstance(node.func, ast.Attribute)
        takes_self = bound and list(inspect.signature(target).parameters)[:1] == ["self"]
        if takes_self and isinstance(node.func, ast.Attribute) and not self._is_namespace(node.func.value):
            node.args.insert(0, node.func.value)
        node.func = self._name("call", target)

    def change(self, tree: ast.AST, change: Change) -> None:
        """Put reader(p) in the place of an expression."""
        if change.operand == -3:
            self._everywhere(tree, change)
            return
        for span in change.drops:
            self._drop(tree, self._at(tree, span))
        last = self._at(tree, change.last)
        if change.operand == -1:
            self._replace(tree, last, self._read(change, last))
            return
        if change.inplace:
            self._write(tree, last, change)
            return
        raws = [self._captured(tree, last, self._at(tree, change.first), change)]
        for span, operand in change.also:
            raws.append(self._captured(tree, last, self._at(tree, span), change._replace(operand=operand)))
        total = raws[0]
        for raw in raws[1:]:
            total = ast.BinOp(total, ast.Add(), raw)
        self._replace(tree, last, self._read(change, total))

    def _drop(self, tree: ast.AST, node: ast.AST) -> None:
        """Take an in-place operation out; what it changes stays in its place."""
        if isinstance(node, ast.AugAssign):
            self._replace_statement(tree, node, ast.Pass())
        else:
            self._replace(tree, node, self._target(node))

    def _write(self, tree: ast.AST, last: ast.AST, change: Change) -> None:
        """target.copy_(reader(p)) in the place of an in-place operation, so that other views of the target follow."""
        target = self._target(last)
        raw: ast.expr | None = None
        if change.first != change.last:
            raw = self._captured(tree, last, self._at(tree, change.first), change)
        if isinstance(target, ast.Name):
            again: ast.expr = ast.Name(target.id, ast.Load())
            target = again
        else:
            self._kept += 1
            again = ast.Name(f"_vdvae_patch_raw_{self._kept}", ast.Load())
            target = ast.NamedExpr(ast.Name(again.id, ast.Store()), target)
        if raw is None:  # a copy: what the reader keeps for the backward pass must not change under it
            raw = ast.Call(ast.Attribute(again, "clone", ast.Load()), [], [])
        new = ast.Call(ast.Attribute(target, "copy_", ast.Load()), [self._read(change, raw)], [])
        if isinstance(last, ast.AugAssign):
            self._replace_statement(tree, last, ast.Expr(new))
        else:
            self._replace(tree, last, new)

    def _target(self, node: ast.AST) -> ast.expr:
        """What an in-place operation changes: x of `x += 1`, `x.exp_()`, `torch.exp_(x)`."""
        if isinstance(node, ast.AugAssign):
            target = copy.deepcopy(node.target)
            target.ctx = ast.Load()
            return target
        if isinstance(node, ast.Call) and not any(k.arg == "out" for k in node.keywords):
            if isinstance(node.func, ast.Attribute) and not self._is_namespace(node.func.value):
                return node.func.value
            if node.args:
                return node.args[0]
        raise PatchError(
            f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)} changes its raw parameter in place in a "
            "way that is not understood; write a patch file whose Head has a CallSite"
        )

    @staticmethod
    def _replace_statement(tree: ast.AST, old: ast.stmt, new: ast.stmt) -> None:
        for parent in ast.walk(tree):
            for _, value in ast.iter_fields(parent):
                if isinstance(value, list) and any(item is old for item in value):
                    value[next(i for i, item in enumerate(value) if item is old)] = ast.copy_location(new, old)
                    return

    def _everywhere(self, tree: ast.AST, change: Change) -> None:
        named = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == change.parameter]
        if not named:
            raise PatchError(f"{self.function.__qualname__} does not name its parameter {change.parameter!r}")
        for node in named:
            self._replace(tree, node, self._read(change, node))

    def _captured(self, tree: ast.AST, last: ast.AST, first: ast.AST, change: Change) -> ast.expr:
        """The raw parameter, as an expression that can stand where the last expression stands."""
        raw = self._operand(first, change)
        if any(node is first for node in ast.walk(last)):
            return raw
        self._kept += 1
        kept = f"_vdvae_patch_raw_{self._kept}"
        self._replace(tree, raw, ast.NamedExpr(ast.Name(kept, ast.Store()), raw))
        return ast.Name(kept, ast.Load())

    def _read(self, change: Change, raw: ast.AST) -> ast.Call:
        return ast.Call(self._name("read", change.reader), [raw], [])  # type: ignore[list-item]

    def _name(self, kind: str, value: Any) -> ast.Name:
        name = f"_vdvae_patch_{kind}_{len(self.names)}"
        self.names[name] = value
        return ast.Name(name, ast.Load())

    def _at(self, tree: ast.AST, span: Span) -> ast.expr | ast.stmt:
        lines, columns = self.shift
        wanted = (span[0] - lines, span[1] - lines, span[2] - columns, span[3] - columns)
        for node in ast.walk(tree):
            if isinstance(node, ast.expr | ast.AugAssign) and hasattr(node, "lineno"):
                place = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
                if place == wanted:
                    return node
        raise PatchError(
            f"{self.function.__qualname__} has no expression at line {span[0]}, columns {span[2]} to {span[3]}; "
            "was its file edited after it was imported?"
        )

    def _replace(self, tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
        if isinstance(old, ast.AugAssign):
            new = ast.Assign([old.target], new, lineno=old.lineno)  # type: ignore[arg-type]
        for parent in ast.walk(tree):
            if parent is new:
                continue
            for field, value in ast.iter_fields(parent):
                if value is old:
                    setattr(parent, field, new)
                    return
                if isinstance(value, list) and any(item is old for item in value):
                    value[next(i for i, item in enumerate(value) if item is old)] = new
                    return
        raise PatchError(f"{self.function.__qualname__}: an expression cannot be replaced twice")

    # --- which operand is the raw parameter ---

    def _operand(self, node: ast.AST, change: Change) -> ast.expr:
        if change.parameter:
            named = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr == change.parameter]
            candidates: list[ast.expr] = [*named[:1]]
        elif change.operand == -2:
            free = (n for n in ast.walk(node) if isinstance(n, ast.Name) and not self._is_constant(n))
            candidates = list({n.id: n for n in free}.values())
        else:
            candidates = [c for c in self._operands(node) if not self._is_constant(c)] or self._attributes(node)
        if isinstance(node, ast.BinOp) and len(candidates) == 2:
            candidates = [candidates[change.operand]]
        if len(candidates) != 1:
            raise PatchError(
                f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)}: which operand of "
                f"{ast.unparse(node)!r} is the raw parameter cannot be told"
            )
        return candidates[0]

    def _attributes(self, node: ast.AST) -> list[ast.expr]:
        """Attributes of `self` that a helper object keeps tensors in."""
        found: list[ast.expr] = [c for c in self._operands(node) if isinstance(c, ast.Attribute)]
        if not found and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found = [node.func.value] if isinstance(node.func.value, ast.Attribute) else []
        return found

    def _operands(self, node: ast.AST) -> list[ast.expr]:
        if isinstance(node, ast.BinOp):
            return [node.left, node.right]
        if isinstance(node, ast.UnaryOp):
            return [node.operand]
        if isinstance(node, ast.AugAssign):
            return [node.target, node.value]
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(k.value for k in node.keywords)]
            if isinstance(node.func, ast.Attribute) and not self._is_namespace(node.func.value):
                return [node.func.value, *arguments]
            return arguments
        return []

    def _is_constant(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.UnaryOp):
            return self._is_constant(node.operand)
        root = _root(node)
        if root == "self":
            return True  # a setting or a layer; a parameter of the model's own is handled as such
        return root is not None and root in self.function.__globals__

    def _is_namespace(self, node: ast.expr) -> bool:
        """Whether an attribute's owner is a module, a class or the model, and not a tensor."""
        root = _root(node)
        return root == "self" or (root is not None and root in self.function.__globals__)


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
