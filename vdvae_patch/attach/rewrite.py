"""Compile a function again from its own source with some of its expressions replaced.

    def forward(self, x):                            def forward(self, x):
        mu, lv = self.enc(x).chunk(2, 1)        →        mu, lv = self.enc(x).chunk(2, 1)
        sigma = (0.5 * lv).exp().clamp(min=1e-3)         sigma = _vdvae_patch_read_0(lv)

The new function has the globals of the old one, the dictionary itself: what the host's module changes later is seen,
and what the function writes there stays. What was put in (`_vdvae_patch_read_0`) is a variable of its closure. It is
compiled inside a class of the host's name, so that `__x` means what it did, and with the host's own `__class__` cell,
so that `super()` does.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dis
import functools
import inspect
import operator
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from vdvae_patch.attach.classes import ClassMethod, ClassOfCall
from vdvae_patch.attach.decorators import function_of
from vdvae_patch.attach.readers import LogReader, PartReader
from vdvae_patch.attach.source import METHOD, Span, class_of, find, is_method, look_up, mangled, parse
from vdvae_patch.errors import PatchError, SharedScaleError

_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_OPERAND_BEFORE = ("sub", "subtract", "rsub", "mul", "multiply", "log_prob")
"""Methods whose first operand is what they are called on."""

TERM = -1000
"""Operand of a change that replaces the expression by reader(output, data), the two that `first` compares."""

VALUE = -999
"""Operand of a change that reads what the expression at `first` itself comes to, with what stands in its place."""


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
    several: bool = False
    """Whether the last expression calls a function of the host, which may return more than the scale."""


class Names(NamedTuple):
    """What names mean in a function beside the model.

    Attributes:
        model: from which parameters are named.
        given: arguments whose values are known.
    """

    model: Any
    given: Mapping[str, Any]


class LocalFunction(NamedTuple):
    """Changes of a function, or a lambda, that is defined in the function which calls it, for this call alone."""

    changes: Sequence[Change]
    callees: Mapping[Span, Any]


def rewritten(
    function: types.FunctionType,
    changes: Sequence[Change],
    callees: Mapping[Span, Any],
    instance: Any = None,
    fixed: frozenset[str] = frozenset(),
    known: Names | None = None,
) -> types.FunctionType:
    """The function with its expressions changed, and the functions at some calls replaced.

    Args:
        instance: the module that the function is a method of, by which its attributes are told apart.
        fixed: its arguments that have one value at the call that it is made for, see `fixed_arguments`.
        known: of a function beside the model.

    Raises:
        PatchError: its source cannot be found, is not what runs, or holds no such expression.
    """
    tree = parse(function)
    _require_what_runs(function, tree)
    names: dict[str, Any] = {}
    _Edit(function, names, instance, fixed, known).all(tree, changes, callees)
    return _compile(function, tree, names)


def _require_what_runs(function: types.FunctionType, tree: ast.FunctionDef) -> None:
    """Raise `PatchError` if the text is not what the function was made of: the file was edited after its import."""
    if function.__name__ == "<lambda>" or any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return  # a lambda has no statement to compile, and pytest rewrites what asserts
    if _operations(_compile(function, copy.deepcopy(tree), {}).__code__) != _operations(function.__code__):
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


def in_place(function: types.FunctionType, change: Change, instance: Any) -> list[tuple[Span, str]]:
    """Where the raw parameter is read and what it says there, for somebody who changes the source by hand.

    Each span is to become reader(text). Empty if the raw parameter stands outside of the expression that is replaced.
    """
    tree, edit = parse(function), _Edit(function, {}, instance)
    if change.operand == -3:
        return [(_span_of(node), ast.unparse(node)) for node in edit._reads_of(change.parameter, tree)]
    last = edit._at(tree, change.last)
    if change.operand <= -4:
        raw = edit._operand(last, change._replace(operand=-4 - change.operand))
        return [(_span_of(raw), ast.unparse(raw))]
    if change.operand == -1:
        return [(change.last, ast.unparse(last))]
    first = edit._at(tree, change.first)
    if change.also or change.drops or change.inplace or not any(node is first for node in ast.walk(last)):
        return []
    return [(change.last, ast.unparse(edit._operand(first, change)))]


def in_part(function: types.FunctionType, change: Change, instance: Any, kept: str) -> list[tuple[Span, str]]:
    """As `in_place`, of an expression that computes means beside the scale: "(kept := operand), the expression of
    kept", two arguments."""
    tree, edit = parse(function), _Edit(function, {}, instance)
    first, last = edit._at(tree, change.first), edit._at(tree, change.last)
    if change.operand < 0 or change.also or change.drops or change.inplace or not isinstance(last, ast.expr):
        return []
    raw = edit._operand(first, change)
    if raw is last or not any(node is raw for node in ast.walk(last)):
        return []
    text = ast.unparse(raw)
    if not isinstance(raw, ast.Name):
        edit._replace(last, raw, ast.Name(kept, ast.Load()))
        text = f"({kept} := {text})"
    return [(change.last, f"{text}, {ast.unparse(last)}")]


class Apart(NamedTuple):
    """A raw parameter that stands outside of the expression which is replaced.

    Attributes:
        span, text: where it stands, and what it says there.
        is_name: whether it is a name that has the same value where the expression stands.
    """

    span: Span
    text: str
    is_name: bool


def apart(function: types.FunctionType, change: Change, instance: Any) -> Apart | None:
    """Where such a raw parameter is read, for somebody who changes the source by hand; None where it is in the
    expression, or where more than one place takes part."""
    if change.operand < 0 or change.also or change.drops or change.inplace or change.several:
        return None
    tree, edit = parse(function), _Edit(function, {}, instance)
    first, last = edit._at(tree, change.first), edit._at(tree, change.last)
    inner = [node for node in ast.walk(tree) if isinstance(node, _SCOPES)]
    scoped = any(part is first for scope in inner for part in ast.walk(scope))
    if scoped or not isinstance(last, ast.expr) or any(node is first for node in ast.walk(last)):
        return None
    raw = edit._operand(first, change)
    lines = range(raw.lineno, last.lineno + 1)
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
              and n.lineno in lines}  # fmt: skip
    return Apart(_span_of(raw), ast.unparse(raw), isinstance(raw, ast.Name) and raw.id not in stored)


def operand_within(function: types.FunctionType, change: Change, instance: Any) -> Span | None:
    """Where the raw parameter stands in the expression that is replaced; None where it stands outside."""
    if change.operand < 0 or change.also or change.drops or change.inplace:
        return None
    tree, edit = parse(function), _Edit(function, {}, instance)
    first, last = edit._at(tree, change.first), edit._at(tree, change.last)
    raw = edit._operand(first, change)
    return _span_of(raw) if any(node is raw for node in ast.walk(last)) else None


def _span_of(node: ast.expr) -> Span:
    end = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return node.lineno, end[0], node.col_offset, end[1]


def rebound(function: types.FunctionType, names: Mapping[str, Any]) -> types.FunctionType:
    """The function as it is written, with some of its global names bound to other values.

    Raises:
        PatchError: it reads no such global.
    """
    missing = [name for name in names if name not in function.__code__.co_names or name in bound_names(function)]
    if missing:
        raise PatchError(f"{function.__qualname__} does not call {', '.join(missing)}")
    return _compile(function, parse(function), dict(names))


def bound_names(function: types.FunctionType) -> frozenset[str]:
    """The names that are variables in a function or in one that is written inside it, and so no globals there."""

    def of(code: types.CodeType) -> set[str]:
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        return own.union(*(of(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))

    return frozenset(of(function.__code__))


def _compile(function: types.FunctionType, tree: ast.FunctionDef, names: dict[str, Any]) -> types.FunctionType:
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
    code = compile(module, function.__code__.co_filename, "exec", dont_inherit=True, flags=_future_flags(function))
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


class _Edit:
    """Changes one syntax tree in place."""

    def __init__(
        self,
        function: types.FunctionType,
        names: dict[str, Any],
        instance: Any,
        fixed: frozenset[str] = frozenset(),
        known: Names | None = None,
    ) -> None:
        self.known = known
        self.function = function
        self.fixed = fixed
        self.names = names
        self.instance = instance
        self._bound = bound_names(function)
        self._selves = _names_of_self(function, instance)
        self._kept = 0
        self._in_parts: dict[tuple[Span, Span], str] = {}
        self._read_everywhere: list[tuple[ast.AST, Change]] = []

    def all(self, tree: ast.AST, changes: Sequence[Change], callees: Mapping[Span, Any]) -> None:
        """Replace what is called at some spans, and some expressions."""
        for span, target in callees.items():
            self.call(tree, span, target)
        # first those that read several expressions, while these still stand where the source has them
        # and those that read what others put there
        for change in sorted(changes, key=lambda c: (not c.also, c.operand != VALUE, c.first == c.last)):
            self.change(tree, change)

    def call(self, tree: ast.AST, span: Span, target: Any) -> None:
        """Replace what is called at a span."""
        node = self._at(tree, span)
        if isinstance(node, ast.Attribute) and isinstance(target, types.FunctionType):  # a property of an object
            asked = function_of(target)
            of_any_name = asked is not None and asked.__name__ in ("__getattr__", "__getattribute__")
            name = [ast.Constant(node.attr)] if of_any_name else []
            self._replace(tree, node, ast.Call(self._name("call", target), [node.value, *name], []))
            return
        if not isinstance(node, ast.Call):
            raise PatchError(
                f"{self.function.__qualname__} line {span[0]} calls a function in a way that is not understood"
            )
        if isinstance(target, ClassOfCall):
            node.func = ast.Call(self._name("call", target), [node.func], [])
            return
        if isinstance(target, ClassMethod):
            if isinstance(node.func, ast.Attribute):
                node.func = ast.Call(self._name("call", target), [self._owner(node.func)], [])
            else:
                node.func = self._name("call", target.bound)
            return
        if isinstance(target, LocalFunction):
            node.func = self._local(tree, node.func, target)
            return
        if isinstance(target, types.FunctionType) and _is_object_called(node.func, target):
            node.args.insert(0, node.func)  # an object that is called is the instance itself
            node.func = self._name("call", target)
            return
        bound = isinstance(target, types.FunctionType) and isinstance(node.func, ast.Attribute)
        written = function_of(target) if bound else None
        named_so = written is not None and written.__code__.co_varnames[:1] == ("self",)
        takes_self = written is not None and written.__name__ != "<lambda>" and (named_so or is_method(written))
        if takes_self and isinstance(node.func, ast.Attribute) and not self._is_class(node.func.value):
            node.args.insert(0, self._owner(node.func))
        node.func = self._name("call", target)

    def _owner(self, called: ast.Attribute) -> ast.expr:
        """What a method is called on; in the place of `super()`, a proxy, what that stands for."""
        owner = called.value
        if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
            return ast.Name(self.function.__code__.co_varnames[0], ast.Load())
        return owner

    def _local(self, tree: ast.AST, called: ast.expr, target: LocalFunction) -> ast.Name:
        """A changed copy of the definition, right behind it, where it sees the same variables."""
        assert isinstance(called, ast.Name)
        for parent in ast.walk(tree):
            for _, block in ast.iter_fields(parent):
                for index, node in enumerate(block if isinstance(block, list) else ()):
                    if not _defines(node, called.id):
                        continue
                    new = copy.deepcopy(node)
                    self.all(new, target.changes, target.callees)
                    name = f"_vdvae_patch_local_{len(self.names)}"
                    self.names[name] = None  # taken; the copy is bound where it is defined
                    if isinstance(new, ast.FunctionDef):
                        new.name = name
                    else:
                        new = ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], new.value), node)
                    block.insert(index + 1, new)
                    return ast.Name(name, ast.Load())
        raise PatchError(
            f"{self.function.__qualname__} calls {called.id!r}, a variable that is no function defined in it; write a "
            "patch file whose Head has a CallSite"
        )

    def change(self, tree: ast.AST, change: Change) -> None:
        """Put reader(p) in the place of an expression."""
        if change.operand == -3:
            self._everywhere(tree, change)
            return
        if change.operand == TERM:
            self._term(tree, change)
            return
        if change.operand <= -4 and change.operand != VALUE:
            raw = self._operand(self._at(tree, change.last), change._replace(operand=-4 - change.operand))
            self._replace(tree, raw, self._read(change, raw))
            return
        for span in change.drops:
            self._drop(tree, self._at(tree, span))
        last = self._at(tree, change.last)
        if isinstance(change.reader, LogReader):
            self._carry(tree, last, change)
            return
        if change.operand == -1:
            self._replace(tree, last, self._read(change, last))
            return
        self._refuse_what_would_be_lost(tree, change, last)
        if change.inplace:
            self._write(tree, last, change)
            return
        if isinstance(change.reader, PartReader):
            self._in_part(tree, last, change, change.reader)
            return
        raws = [self._captured(tree, last, self._at(tree, change.first), change)]
        for span, operand in change.also:
            raws.append(self._captured(tree, last, self._at(tree, span), change._replace(operand=operand)))
        total = raws[0]
        for raw in raws[1:]:
            total = ast.BinOp(total, ast.Add(), raw)
        self._replace(tree, last, self._read(change, total))

    def _refuse_what_would_be_lost(self, tree: ast.AST, change: Change, last: ast.AST) -> None:
        """What stands between the raw parameter and the scale goes with it, so it must be the host's formula alone."""
        first = self._at(tree, change.first)
        trouble = ""
        if change.several and _is_unpacked(tree, last):
            trouble = f"{ast.unparse(last)!r} returns several values, of which σ is one"
        elif name := self._argument_in(last, first):
            trouble = f"σ also depends on {name!r}, an argument, which a patch would fix at its value in the scan"
        elif not any(node is first for node in ast.walk(last)) and any(
            not self._is_gone_through(block) for block in _blocks_around(tree, first, last)
        ):
            trouble = (
                f"the raw parameter is read in a branch or a loop (line {getattr(first, 'lineno', 0)}), and the scale "
                "computed behind it, for whatever branch was taken"
            )
        if trouble:
            raise PatchError(
                f"{self.function.__qualname__} line {getattr(last, 'lineno', 0)}: {trouble}; write a patch file whose "
                "Head has a CallSite"
            )

    def _is_gone_through(self, block: ast.stmt) -> bool:
        """Whether a block is gone through whenever the function runs: a loop, or an `if` that a setting decides."""
        if isinstance(block, ast.For | ast.While):
            return True
        if not isinstance(block, ast.If):
            return False
        parts = list(ast.walk(block.test))
        names = [part for part in parts if isinstance(part, ast.Name)]
        called = [part for part in parts if isinstance(part, ast.Call | ast.Await | ast.NamedExpr)]
        changing = any(isinstance(part, ast.Attribute) and part.attr == "training" for part in parts)
        return not called and not changing and all(map(self.is_fixed, names))

    def _argument_in(self, last: ast.AST, first: ast.AST) -> str:
        """An argument of the function in the last expression that is not the raw parameter; empty if there is none."""
        if last is first:
            return ""
        code = self.function.__code__
        arguments = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]} - self._selves - self.fixed
        raw = {node.id for node in ast.walk(first) if isinstance(node, ast.Name)}
        used = {node.id for node in ast.walk(last) if isinstance(node, ast.Name)} - raw
        return min(used & arguments, default="")

    def _in_part(self, tree: ast.AST, last: ast.AST, change: Change, reader: PartReader) -> None:
        """reader((kept := operand), last) in the place of an expression, of which some channels are replaced."""
        if isinstance(last, ast.AugAssign) or any(isinstance(s, ast.Expr) and s.value is last for s in ast.walk(tree)):
            raise PatchError(
                f"{self.function.__qualname__} line {getattr(last, 'lineno', 0)} changes means and raw values in "
                "place; move it behind the split, or let a name have what it returns (h = h.clamp_(...))"
            )
        kept = self._in_parts.get((change.first, change.last), "")
        if kept:  # another part of the same, whose call stands around this one and keeps the operand
            operand: ast.expr = ast.Name(kept, ast.Load())
        else:
            inner = self._operand(self._at(tree, change.first), change)
            self._kept += 1
            kept = f"_vdvae_patch_kept_{self._kept}"
            if not any(node is inner for node in ast.walk(last)):
                raise PatchError(
                    f"{self.function.__qualname__}: a mean is computed beside a raw value in several steps"
                )
            self._replace(last, inner, ast.Name(kept, ast.Load()))
            self._in_parts[change.first, change.last] = kept
            operand = ast.NamedExpr(ast.Name(kept, ast.Store()), inner)
        raw = ast.Call(self._name("raw", reader.raw), [operand], [])
        new = ast.Call(self._name("read", reader), [raw, copy.copy(last)], [])  # type: ignore[list-item]
        self._replace(tree, last, new)

    def _carry(self, tree: ast.AST, last: ast.AST, change: Change) -> None:
        """read((kept := operand), last) in the place of an expression; left alone where it cannot be told what its
        operand is, or whether the operand was computed: the value is then as it was, only with nothing beside it."""
        try:
            first = self._at(tree, change.first)
            operand = self._operand(first, change)
            inside = any(node is operand for node in ast.walk(last))
            if isinstance(last, ast.AugAssign) or (not inside and _branches(tree, first) != _branches(tree, last)):
                return
            kept = ast.Name(f"_vdvae_patch_kept_{self._kept + 1}", ast.Load())
            if not inside:
                raw: ast.expr = self._captured(tree, last, first, change)
            elif any(isinstance(n, ast.Lambda | ast.ListComp | ast.GeneratorExp) for n in ast.walk(last)):
                return
            else:
                self._kept += 1
                self._replace(last, operand, kept)
                raw = ast.NamedExpr(ast.Name(kept.id, ast.Store()), operand)
        except PatchError:
            return
        new = ast.Call(self._name("carry", change.reader), [raw, copy.copy(last)], [])  # type: ignore[list-item]
        self._replace(tree, last, new)

    def _term(self, tree: ast.AST, change: Change) -> None:
        """reader(output, data) in the place of a term that compares them; of a mixture with its weights, too."""
        first, last = self._at(tree, change.first), self._at(tree, change.last)
        if change.also:
            self._mixture(tree, change, first, last)
            return
        if not isinstance(last, ast.expr) or not any(node is first for node in ast.walk(last)):
            raise PatchError(f"{self.function.__qualname__}: the term is computed in several steps")
        owner = [ast.Name(change.parameter, ast.Load())] if change.parameter else []
        new = ast.Call(self._name("term", change.reader), [*self._compared(first), *owner], [])
        self._replace(tree, last, new)

    def _mixture(self, tree: ast.AST, change: Change, first: ast.AST, last: ast.AST) -> None:
        """The parts of a mixture are kept where they are computed, and read where its log likelihood was."""
        parts = [*self._compared(first), *(self._at(tree, span) for span, _ in change.also)]
        if not isinstance(last, ast.expr) or any(not isinstance(part, ast.expr) for part in parts):
            raise PatchError(f"{self.function.__qualname__}: a part of the mixture is no expression")
        if any(_blocks_around(tree, part, last) for part in parts):
            raise PatchError(
                f"{self.function.__qualname__} line {last.lineno}: the mixture is computed in a branch or a loop, and "
                "its log likelihood behind it"
            )
        # an assignment is no expression of theirs, or it would be made once for each of their turns
        scopes = (n for n in ast.walk(tree) if isinstance(n, _SCOPES))
        held = {id(inner) for scope in scopes for inner in ast.walk(scope)}
        if any(id(part) in held for part in (*parts, last)):
            raise PatchError(f"{self.function.__qualname__} line {last.lineno}: a lambda or a comprehension has a part")
        read: list[ast.expr] = []
        for part in parts:
            self._kept += 1
            kept = f"_vdvae_patch_kept_{self._kept}"
            inside = any(node is part for node in ast.walk(last))
            if not inside:
                self._replace(tree, part, ast.NamedExpr(ast.Name(kept, ast.Store()), part))  # type: ignore[arg-type]
            read.append(part if inside else ast.Name(kept, ast.Load()))  # type: ignore[arg-type]
        owner = [ast.Name(change.parameter, ast.Load())] if change.parameter else []
        self._replace(tree, last, ast.Call(self._name("term", change.reader), [*read, *owner], []))

    def _compared(self, node: ast.AST) -> list[ast.expr]:
        """The operands of a difference, a product or a call that compares two; of `d.log_prob(x)` they are d and x."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Mult):
            return [node.left, node.right]
        if isinstance(node, ast.Call) and not any(isinstance(a, ast.Starred) for a in node.args):
            named = {k.arg: k.value for k in node.keywords}
            names = ("input", "target", "other", "value")
            given = [*node.args, *(named[name] for name in names if name in named)]
            if isinstance(node.func, ast.Attribute) and node.func.attr in _OPERAND_BEFORE:
                given = given if self._is_namespace(node.func.value) else [node.func.value, *given]
            if len(given) >= 2:
                return given[:2]
        raise PatchError(
            f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)} compares output and data in a way that is "
            "not understood"
        )

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
            again = ast.Name(f"_vdvae_patch_kept_{self._kept}", ast.Load())
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
        named = self._reads_of(change.parameter, tree)
        if not named:
            raise PatchError(f"{self.function.__qualname__} does not name its parameter {change.parameter!r}")
        for node in named:
            known = next((other for other_node, other in self._read_everywhere if other_node is node), None)
            if known is None:
                self._read_everywhere.append((node, change))
                self._replace(tree, node, self._read(change, node))
            elif not known.reader.same_as(change.reader):
                raise SharedScaleError(
                    f"{self.function.__qualname__} line {node.lineno} reads {known.parameter} and "
                    f"{change.parameter} by one expression, {ast.unparse(node)!r}, and they were given different "
                    f"scales ({known.reader.scale} and {change.reader.scale}); give both the same"
                )

    def _reads_of(self, parameter: str, tree: ast.AST) -> list[ast.expr]:
        """The attributes that are a parameter, named from the instance on: of `self.q.log_sigma` and
        `self.p.log_sigma` one."""
        last = parameter.rpartition(".")[2]
        cls = class_of(self.function)
        named = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and mangled(n.attr, cls) == last
        ]
        try:
            wanted = operator.attrgetter(parameter)(self.instance if self.known is None else self.known.model)
        except AttributeError:
            return list(named)  # of a helper, which may be given the module under any name
        found: list[ast.expr] = []
        unknown: list[ast.expr] = []
        for node in named:
            try:
                value = look_up(node, self.function, self.instance, self.known.given if self.known else {})
            except (LookupError, AttributeError, TypeError):
                unknown.append(node)
            else:
                if value is wanted:
                    found.append(node)
        return found or unknown

    def _captured(self, tree: ast.AST, last: ast.AST, first: ast.AST, change: Change) -> ast.expr:
        """The raw parameter, as an expression that can stand where the last expression stands."""
        raw = self._operand(first, change)
        if any(node is first for node in ast.walk(last)):
            return raw
        self._kept += 1
        kept = f"_vdvae_patch_kept_{self._kept}"
        if any(raw in list(ast.walk(node)) for node in ast.walk(first) if isinstance(node, ast.Lambda)):
            # a name that a lambda binds is its own: (kept := raw, first)[1]
            binding = ast.NamedExpr(ast.Name(kept, ast.Store()), copy.deepcopy(raw))
            both = ast.Tuple([binding, first], ast.Load())  # type: ignore[list-item]
            self._replace(tree, first, ast.Subscript(both, ast.Constant(1), ast.Load()))
        else:
            self._replace(tree, raw, ast.NamedExpr(ast.Name(kept, ast.Store()), raw))
        blocks = _blocks_around(tree, first, last)
        if not blocks:
            return ast.Name(kept, ast.Load())
        # what an earlier turn of a loop around both has kept must not pass for this one's
        _insert_before(tree, blocks[0], ast.Assign([ast.Name(kept, ast.Store())], ast.Constant(None)))
        where = f"{self.function.__qualname__} line {getattr(first, 'lineno', 0)}"
        return ast.Call(self._name("ran", _Ran(where)), [ast.Name(kept, ast.Load())], [])

    def _read(self, change: Change, raw: ast.AST) -> ast.Call:
        return ast.Call(self._name("read", change.reader), [raw], [])  # type: ignore[list-item]

    def _name(self, kind: str, value: Any) -> ast.Name:
        name = f"_vdvae_patch_{kind}_{len(self.names)}"
        self.names[name] = value if isinstance(value, _CODE) else _as_function(value)
        return ast.Name(name, ast.Load())

    def _at(self, tree: ast.AST, span: Span) -> ast.expr | ast.stmt:
        node = find(tree, span)
        if node is not None:
            return node
        if find(parse(self.function), span) is not None:  # it was there, and went with what has been replaced
            raise PatchError(
                f"{self.function.__qualname__} line {span[0]}: one expression that is to be replaced lies in another "
                "one, so the host reads a raw value in ways that disagree, and no scale can be right for both; let it "
                "take the raw value alike first, or write a patch file whose Head has a CallSite"
            )
        raise PatchError(
            f"{self.function.__qualname__} has no expression at line {span[0]}, columns {span[2]} to {span[3]}; "
            "was its file edited since it was scanned, or imported? scan it again"
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
        if change.operand == VALUE and isinstance(node, ast.expr):
            return node
        candidates: list[ast.expr]
        reads = self._reads_of(change.parameter, node)[:1] if change.parameter else []
        if reads:
            # with what is picked of it: raw[batch] of softplus(raw[batch])
            candidates = [c for c in self._operands(node) if any(n is reads[0] for n in ast.walk(c))] or reads
        elif change.operand == -2:
            candidates = self._variables(node)
        else:
            candidates = [c for c in self._operands(node) if not self._is_constant(c)] or self._attributes(node)
            candidates = candidates or self._variables(node)  # a table of lambdas, of which one is called
        if isinstance(node, ast.BinOp) and len(candidates) == 2:
            candidates = [candidates[change.operand]]
        elif len(candidates) > 1 and isinstance(node, ast.Call) and self._is_builtin(node.func):
            candidates = node.args[change.operand : change.operand + 1] if change.operand >= 0 else candidates
        elif len(candidates) > 1 and change.operand >= 0 and self._is_tensor_method(node):
            candidates = self._operands(node)[change.operand : change.operand + 1]
        if len(candidates) != 1:
            raise PatchError(
                f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)}: which operand of "
                f"{ast.unparse(node)!r} is the raw parameter cannot be told"
            )
        return candidates[0]

    def _variables(self, node: ast.AST) -> list[ast.expr]:
        free = (n for n in ast.walk(node) if isinstance(n, ast.Name) and not self._is_constant(n))
        return list({n.id: n for n in free}.values())

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
        if isinstance(node, ast.Call) and self._is_builtin(node.func):
            return all(map(self._is_constant, (*node.args, *(k.value for k in node.keywords))))  # torch.tensor(5.0)
        root = _root(node)
        if root in self._selves:
            return True  # a setting or a layer; a parameter of the model's own is handled as such
        return self._is_global(root) or self._is_number_around(root)

    def _is_number_around(self, name: str | None) -> bool:
        """Whether a name is of a number in a function around this one: the floor of `make_loss(floor=1e-3)`."""
        if name is None or name not in self.function.__code__.co_freevars:
            return False
        try:
            return isinstance(look_up(ast.Name(name), self.function, None), int | float)
        except (LookupError, ValueError):
            return False

    def is_fixed(self, node: ast.expr) -> bool:
        """Whether an expression has one value: a constant, a setting, or an argument that has one."""
        return self._is_constant(node) or _root(node) in self.fixed

    def _is_tensor_method(self, node: ast.AST) -> bool:
        """Whether a call is of a tensor's own method, `var.clamp(min=eps)`: the tensor is its first operand."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        own = inspect.getattr_static(torch.Tensor, node.func.attr, None)
        return isinstance(own, types.MethodDescriptorType) and not self._is_namespace(node.func.value)

    def _is_builtin(self, node: ast.expr) -> bool:
        """Whether a function is one of C: PyTorch's own operations, whose arguments are those of what was recorded."""
        if not self._is_global(_root(node)):
            return False
        try:
            return isinstance(look_up(node, self.function, None), types.BuiltinFunctionType)
        except (LookupError, AttributeError, TypeError):
            return False

    def _is_global(self, name: str | None) -> bool:
        """Whether a name is the module's; in a notebook most variables are globals of it, too (`x`, `mu`)."""
        return name is not None and name not in self._bound and name in self.function.__globals__

    def _is_class(self, node: ast.expr) -> bool:
        """Whether a method's owner is a class, or `super()`, so that the call names the instance itself or nobody."""
        if isinstance(node, ast.Name) and not self._is_global(node.id):
            return False
        try:
            return isinstance(look_up(node, self.function, None), type | types.ModuleType)
        except (LookupError, AttributeError, TypeError):
            return False

    def _is_namespace(self, node: ast.expr) -> bool:
        """Whether an attribute's owner is a module, a class or the model, and not a tensor."""
        root = _root(node)
        return root in self._selves or self._is_global(root)


def _is_object_called(called: ast.expr, target: types.FunctionType) -> bool:
    """Whether what is called is an object, or a module beside the model, whose method the target is."""
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    written = function_of(target)
    own = written is not None and bool(class_of(written))
    return target.__name__ == "__call__" or (target.__name__ == "forward" and name != "forward" and own)


def fixed_arguments(
    caller: types.FunctionType,
    span: Span,
    function: types.FunctionType,
    owner: Any,
    instance: Any,
    fixed: frozenset[str],
) -> frozenset[str]:
    """The arguments of a function that have the same value whenever one call of it runs: left at their defaults, such
    as the floor of `nll(x, mean, raw, eps=1e-4)`, or given constants, settings of the model, or what is fixed itself.

    Args:
        span: the call in the caller.
        owner: what the function is a method of, if it is called as one.
        instance, fixed: of the caller.
    """
    call, edit = find(parse(caller), span), _Edit(caller, {}, instance, fixed)
    if not isinstance(call, ast.Call) or any(isinstance(a, ast.Starred) for a in call.args):
        return frozenset()
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    passed: dict[str | None, list[ast.expr]] = {}
    method = bool(class_of(function)) and (owner is not None or positional[:1] in (("self",), ("cls",)))
    for place, value in enumerate(call.args):
        for shift in (0, 1) if method else (0,):  # a method may be called with its instance, or bound to it
            passed.setdefault(dict(enumerate(positional)).get(place + shift), []).append(value)
    for keyword in call.keywords:
        passed.setdefault(keyword.arg, []).append(keyword.value)
    if None in passed and any(keyword.arg is None for keyword in call.keywords):
        return frozenset()
    defaults = {*positional[len(positional) - len(function.__defaults__ or ()) :], *(function.__kwdefaults__ or {})}
    names = (*positional, *code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
    return frozenset(
        name for name in names if (name in passed or name in defaults) and all(map(edit.is_fixed, passed.get(name, ())))
    )


def _names_of_self(function: types.FunctionType, instance: Any) -> frozenset[str]:
    """The names by which a function has its instance or its class: `self` mostly, or what a method calls it."""
    own = inspect.getattr_static(type(instance), function.__name__, None)
    method = is_method(function) and not isinstance(own, staticmethod)
    return frozenset({"self", "cls", *(function.__code__.co_varnames[:1] if method else ())})


def _is_unpacked(tree: ast.AST, call: ast.AST) -> bool:
    """Whether what an expression gives is taken apart: indexed, or unpacked."""
    for parent in ast.walk(tree):
        if isinstance(parent, ast.Subscript | ast.Starred) and parent.value is call:
            return True
        if isinstance(parent, ast.Assign) and parent.value is call:
            return any(isinstance(target, ast.Tuple | ast.List) for target in parent.targets)
    return False


def _branches(tree: ast.AST, inside: ast.AST) -> dict[int, ast.stmt]:
    """The blocks (of an if, a loop, a try) that a node stands in, outermost first: the statement of each by its list of
    statements."""
    found: dict[int, ast.stmt] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.For | ast.While | ast.Try | ast.Match):
            for _, block in ast.iter_fields(node):
                if isinstance(block, list) and any(part is inside for item in block for part in ast.walk(item)):
                    found[id(block)] = node
    return found


def _blocks_around(tree: ast.AST, first: ast.AST, last: ast.AST) -> list[ast.stmt]:
    """The statements in a block of which the first expression stands, and the last one does not, outermost first."""
    outside = _branches(tree, last)
    return [node for block, node in _branches(tree, first).items() if block not in outside]


def _insert_before(tree: ast.AST, statement: ast.stmt, new: ast.stmt) -> None:
    for parent in ast.walk(tree):
        for _, block in ast.iter_fields(parent):
            if isinstance(block, list) and any(item is statement for item in block):
                block.insert(
                    next(i for i, item in enumerate(block) if item is statement), ast.copy_location(new, statement)
                )
                return


class _Ran:
    """Gives the raw value that a block kept.

    Raises:
        PatchError: the block was not gone through.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, kept: Any) -> Any:
        if kept is None:
            raise PatchError(
                f"{self.where}: the raw parameter was read here when the model was scanned, in a loop or a branch that "
                "this call does not go through; unpatch the model, and scan and patch it in this setting"
            )
        return kept


_CODE = (types.FunctionType, types.MethodType, type)


def _as_function(reader: Any) -> types.FunctionType:
    """A reader as a function that has it for a global: torch.compile follows the globals of a function that it meets
    in an `__init__`, and not what lies in its closure."""
    return types.FunctionType(_call_reader.__code__, {"reader": reader, "__builtins__": vars(builtins)}, "read")


def _call_reader(*p: Any) -> Any:
    return reader(*p)  # type: ignore[name-defined]  # noqa: F821  see above


def _defines(node: Any, name: str) -> bool:
    """Whether a statement defines a function of that name, or binds the name to a lambda."""
    if isinstance(node, ast.FunctionDef):
        return node.name == name
    target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
    target = node.target if isinstance(node, ast.AnnAssign) else target
    return isinstance(target, ast.Name) and target.id == name and isinstance(node.value, ast.Lambda)


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
