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
import types
from collections.abc import Mapping, Sequence
from typing import Any

from vdvae_patch.attach.change import TERM, VALUE, Change, LocalFunction, Names
from vdvae_patch.attach.classes import ClassMethod, ClassOfCall
from vdvae_patch.attach.compiled import compiled, require_what_runs
from vdvae_patch.attach.decorators import function_of
from vdvae_patch.attach.operands import Operands
from vdvae_patch.attach.readers import LogReader, PartReader
from vdvae_patch.attach.source import Span, class_of, is_method, parse
from vdvae_patch.attach.syntax import (
    SCOPES,
    at,
    blocks_around,
    branches,
    defines,
    insert_before,
    is_unpacked,
    replace,
    replace_statement,
)
from vdvae_patch.errors import PatchError, SharedScaleError

_OPERAND_BEFORE = ("sub", "subtract", "rsub", "mul", "multiply", "log_prob")
"""Methods whose first operand is what they are called on."""


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
    require_what_runs(function, tree)
    names: dict[str, Any] = {}
    _Edit(function, names, instance, fixed, known).all(tree, changes, callees)
    return compiled(function, tree, names)


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
        self.function = function
        self.names = names
        self.operands = Operands(function, instance, fixed, known)
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
        node = at(self.function, tree, span)
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
        if takes_self and isinstance(node.func, ast.Attribute) and not self.operands.is_class(node.func.value):
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
                    if not defines(node, called.id):
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
            raw = self.operands.operand(
                at(self.function, tree, change.last), change._replace(operand=-4 - change.operand)
            )
            self._replace(tree, raw, self._read(change, raw))
            return
        for span in change.drops:
            self._drop(tree, at(self.function, tree, span))
        last = at(self.function, tree, change.last)
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
        raws = [self._captured(tree, last, at(self.function, tree, change.first), change)]
        for span, operand in change.also:
            raws.append(self._captured(tree, last, at(self.function, tree, span), change._replace(operand=operand)))
        total = raws[0]
        for raw in raws[1:]:
            total = ast.BinOp(total, ast.Add(), raw)
        self._replace(tree, last, self._read(change, total))

    def _refuse_what_would_be_lost(self, tree: ast.AST, change: Change, last: ast.AST) -> None:
        """What stands between the raw parameter and the scale goes with it, so it must be the host's formula alone."""
        first = at(self.function, tree, change.first)
        trouble = ""
        if change.several and is_unpacked(tree, last):
            trouble = f"{ast.unparse(last)!r} returns several values, of which σ is one"
        elif name := self._argument_in(last, first):
            trouble = f"σ also depends on {name!r}, an argument, which a patch would fix at its value in the scan"
        elif not any(node is first for node in ast.walk(last)) and any(
            not self._is_gone_through(block) for block in blocks_around(tree, first, last)
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
        return not called and not changing and all(map(self.operands.is_fixed, names))

    def _argument_in(self, last: ast.AST, first: ast.AST) -> str:
        """An argument of the function in the last expression that is not the raw parameter; empty if there is none."""
        if last is first:
            return ""
        code = self.function.__code__
        arguments = (
            {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}
            - self.operands.selves
            - self.operands.fixed
        )
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
            inner = self.operands.operand(at(self.function, tree, change.first), change)
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
            first = at(self.function, tree, change.first)
            operand = self.operands.operand(first, change)
            inside = any(node is operand for node in ast.walk(last))
            if isinstance(last, ast.AugAssign) or (not inside and branches(tree, first) != branches(tree, last)):
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
        first, last = at(self.function, tree, change.first), at(self.function, tree, change.last)
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
        parts = [*self._compared(first), *(at(self.function, tree, span) for span, _ in change.also)]
        if not isinstance(last, ast.expr) or any(not isinstance(part, ast.expr) for part in parts):
            raise PatchError(f"{self.function.__qualname__}: a part of the mixture is no expression")
        if any(blocks_around(tree, part, last) for part in parts):
            raise PatchError(
                f"{self.function.__qualname__} line {last.lineno}: the mixture is computed in a branch or a loop, and "
                "its log likelihood behind it"
            )
        # an assignment is no expression of theirs, or it would be made once for each of their turns
        scopes = (n for n in ast.walk(tree) if isinstance(n, SCOPES))
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
                given = given if self.operands.is_namespace(node.func.value) else [node.func.value, *given]
            if len(given) >= 2:
                return given[:2]
        raise PatchError(
            f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)} compares output and data in a way that is "
            "not understood"
        )

    def _drop(self, tree: ast.AST, node: ast.AST) -> None:
        """Take an in-place operation out; what it changes stays in its place."""
        if isinstance(node, ast.AugAssign):
            replace_statement(tree, node, ast.Pass())
        else:
            self._replace(tree, node, self._target(node))

    def _write(self, tree: ast.AST, last: ast.AST, change: Change) -> None:
        """target.copy_(reader(p)) in the place of an in-place operation, so that other views of the target follow."""
        target = self._target(last)
        raw: ast.expr | None = None
        if change.first != change.last:
            raw = self._captured(tree, last, at(self.function, tree, change.first), change)
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
            replace_statement(tree, last, ast.Expr(new))
        else:
            self._replace(tree, last, new)

    def _target(self, node: ast.AST) -> ast.expr:
        """What an in-place operation changes: x of `x += 1`, `x.exp_()`, `torch.exp_(x)`."""
        if isinstance(node, ast.AugAssign):
            target = copy.deepcopy(node.target)
            target.ctx = ast.Load()
            return target
        if isinstance(node, ast.Call) and not any(k.arg == "out" for k in node.keywords):
            if isinstance(node.func, ast.Attribute) and not self.operands.is_namespace(node.func.value):
                return node.func.value
            if node.args:
                return node.args[0]
        raise PatchError(
            f"{self.function.__qualname__} line {getattr(node, 'lineno', 0)} changes its raw parameter in place in a "
            "way that is not understood; write a patch file whose Head has a CallSite"
        )

    def _everywhere(self, tree: ast.AST, change: Change) -> None:
        named = self.operands.reads_of(change.parameter, tree)
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

    def _captured(self, tree: ast.AST, last: ast.AST, first: ast.AST, change: Change) -> ast.expr:
        """The raw parameter, as an expression that can stand where the last expression stands."""
        raw = self.operands.operand(first, change)
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
        blocks = blocks_around(tree, first, last)
        if not blocks:
            return ast.Name(kept, ast.Load())
        # what an earlier turn of a loop around both has kept must not pass for this one's
        insert_before(tree, blocks[0], ast.Assign([ast.Name(kept, ast.Store())], ast.Constant(None)))
        where = f"{self.function.__qualname__} line {getattr(first, 'lineno', 0)}"
        return ast.Call(self._name("ran", _Ran(where)), [ast.Name(kept, ast.Load())], [])

    def _read(self, change: Change, raw: ast.AST) -> ast.Call:
        return ast.Call(self._name("read", change.reader), [raw], [])  # type: ignore[list-item]

    def _name(self, kind: str, value: Any) -> ast.Name:
        name = f"_vdvae_patch_{kind}_{len(self.names)}"
        self.names[name] = value if isinstance(value, _CODE) else _as_function(value)
        return ast.Name(name, ast.Load())

    def _replace(self, tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
        if not replace(tree, old, new):
            raise PatchError(f"{self.function.__qualname__}: an expression cannot be replaced twice")


def _is_object_called(called: ast.expr, target: types.FunctionType) -> bool:
    """Whether what is called is an object, or a module beside the model, whose method the target is."""
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    written = function_of(target)
    own = written is not None and bool(class_of(written))
    return target.__name__ == "__call__" or (target.__name__ == "forward" and name != "forward" and own)


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
