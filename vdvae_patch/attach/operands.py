"""Which operand of an expression is the raw parameter, and which of its names are constants."""

from __future__ import annotations

import ast
import inspect
import operator
import types
from typing import Any

import torch

from vdvae_patch.attach.change import VALUE, Change, Names
from vdvae_patch.attach.compiled import bound_names
from vdvae_patch.attach.source import Span, class_of, find, is_method, look_up, mangled, parse
from vdvae_patch.attach.syntax import root
from vdvae_patch.errors import PatchError


class Operands:
    """Tells the operands of the expressions of one function apart.

    Args:
        instance: the module that the function is a method of, by which its attributes are told apart.
        fixed: its arguments that have one value at the call that it is made for, see `fixed_arguments`.
        known: of a function beside the model.
    """

    def __init__(
        self,
        function: types.FunctionType,
        instance: Any,
        fixed: frozenset[str] = frozenset(),
        known: Names | None = None,
    ) -> None:
        self.function = function
        self.instance = instance
        self.fixed = fixed
        self.known = known
        self.selves = _names_of_self(function, instance)
        self._bound = bound_names(function)

    def operand(self, node: ast.AST, change: Change) -> ast.expr:
        """The operand of an expression that is a change's raw parameter.

        Raises:
            PatchError: it cannot be told.
        """
        if change.operand == VALUE and isinstance(node, ast.expr):
            return node
        candidates: list[ast.expr]
        reads = self.reads_of(change.parameter, node)[:1] if change.parameter else []
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
            if isinstance(node.func, ast.Attribute) and not self.is_namespace(node.func.value):
                return [node.func.value, *arguments]
            return arguments
        return []

    def _is_constant(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.UnaryOp):
            return self._is_constant(node.operand)
        if isinstance(node, ast.BinOp):  # 2 * math.pi; of what `self` holds a product may be the raw parameter
            own = any(isinstance(n, ast.Name) and n.id in self.selves for n in ast.walk(node))
            return not own and self._is_constant(node.left) and self._is_constant(node.right)
        if isinstance(node, ast.Call) and self._is_builtin(node.func):
            return all(map(self._is_constant, (*node.args, *(k.value for k in node.keywords))))  # torch.tensor(5.0)
        name = root(node)
        if name in self.selves:
            return True  # a setting or a layer; a parameter of the model's own is handled as such
        return self._is_global(name) or self._is_number_around(name)

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
        return self._is_constant(node) or root(node) in self.fixed

    def _is_tensor_method(self, node: ast.AST) -> bool:
        """Whether a call is of a tensor's own method, `var.clamp(min=eps)`: the tensor is its first operand."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        own = inspect.getattr_static(torch.Tensor, node.func.attr, None)
        return isinstance(own, types.MethodDescriptorType) and not self.is_namespace(node.func.value)

    def _is_builtin(self, node: ast.expr) -> bool:
        """Whether a function is one of C: PyTorch's own operations, whose arguments are those of what was recorded."""
        if not self._is_global(root(node)):
            return False
        try:
            return isinstance(look_up(node, self.function, None), types.BuiltinFunctionType)
        except (LookupError, AttributeError, TypeError):
            return False

    def _is_global(self, name: str | None) -> bool:
        """Whether a name is the module's; in a notebook most variables are globals of it, too (`x`, `mu`)."""
        return name is not None and name not in self._bound and name in self.function.__globals__

    def is_class(self, node: ast.expr) -> bool:
        """Whether a method's owner is a class, or `super()`, so that the call names the instance itself or nobody."""
        if isinstance(node, ast.Name) and not self._is_global(node.id):
            return False
        try:
            return isinstance(look_up(node, self.function, None), type | types.ModuleType)
        except (LookupError, AttributeError, TypeError):
            return False

    def is_namespace(self, node: ast.expr) -> bool:
        """Whether an attribute's owner is a module, a class or the model, and not a tensor."""
        name = root(node)
        return name in self.selves or self._is_global(name)

    def reads_of(self, parameter: str, tree: ast.AST) -> list[ast.expr]:
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
    call, operands = find(parse(caller), span), Operands(caller, instance, fixed)
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
        name
        for name in names
        if (name in passed or name in defaults) and all(map(operands.is_fixed, passed.get(name, ())))
    )


def _names_of_self(function: types.FunctionType, instance: Any) -> frozenset[str]:
    """The names by which a function has its instance or its class: `self` mostly, or what a method calls it."""
    own = inspect.getattr_static(type(instance), function.__name__, None)
    method = is_method(function) and not isinstance(own, staticmethod)
    return frozenset({"self", "cls", *(function.__code__.co_varnames[:1] if method else ())})
