"""Whether a function computes a σ of a raw value that it reads, by the names that it gives to it and to its parts.

def draw(self, x):                                 # the second part is the raw value, and has an exponential
    mean, log_var = self.encoder(x).chunk(2, 1)
    return mean + (log_var / 2).exp() * torch.randn_like(mean)

def score(self, x):                                # reads the mean alone; the square is of what another layer puts out
    mean = self.encoder(x).chunk(2, 1)[0]
    return (self.decoder(mean) - x).square().mean(1)
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import FunctionType
from typing import TypeGuard

from vdvae_patch.attach.source import is_method, parse
from vdvae_patch.heads import ChannelRange

OF_SIGMA = frozenset({"exp", "exp_", "exp2", "softplus", "sqrt", "pow", "square", "normal", "Normal"})
"""What a function calls that computes a σ, or draws with one: many read a layer that puts out a mean, too."""

_CUTTING = frozenset({"chunk", "split", "tensor_split", "unbind"})


def reaches_sigma(
    function: FunctionType, read: ast.expr, channels: ChannelRange, methods: Mapping[str, FunctionType]
) -> bool:
    """Whether the raw value, in some channels of what `read` gives, comes to a call that computes a σ.

    Args:
        methods: those of the same class, by their names: one may compute it of its argument, as a function of the same
            file may. What is called of `self` else is a layer, and what that puts out is another value.
    """
    flow = _Flow(function, read, channels, methods)
    statements = list(ast.walk(parse(function)))
    while any(flow.names(node) for node in statements):  # until nothing more has a name: loops go back
        continue
    return any(flow.is_of_sigma(node) for node in statements)


class _Flow:
    """Which names of a function hold the raw value, or what is computed of it."""

    def __init__(
        self, function: FunctionType, read: ast.expr, channels: ChannelRange, methods: Mapping[str, FunctionType]
    ) -> None:
        self._read = read.lineno, read.col_offset, read.end_lineno, read.end_col_offset
        self._channels, self._methods, self._globals = channels, methods, function.__globals__
        self._self = function.__code__.co_varnames[0] if is_method(function) else ""
        self._held: set[str] = set()

    def names(self, node: ast.AST) -> bool:
        """Follow an assignment; whether there is a name more."""
        before = len(self._held)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._give(target, node.value)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            self._give(node.target, node.value)
        elif isinstance(node, ast.For | ast.comprehension):
            self._give(node.target, node.iter)
        return len(self._held) > before

    def _give(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            if len(parts) == len(target.elts):
                for one, part in zip(target.elts, parts, strict=True):
                    self._give(one, part)
                return
        if not self._holds(value):
            return
        if isinstance(target, ast.Tuple | ast.List) and _is_cut(value):
            place = self._place()
            target = target if place is None or place >= len(target.elts) else target.elts[place]
        self._held |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}

    def _place(self) -> int | None:
        """Which of equal parts has the channels; None where that is not seen."""
        start, stop = self._channels.start, self._channels.stop
        width = start if stop is None else stop - start
        return None if self._channels.step > 1 or width < 1 or start % width else start // width

    def _holds(self, node: ast.AST) -> bool:
        if self._is_read(node) or (isinstance(node, ast.Name) and node.id in self._held):
            return True
        if isinstance(node, ast.Subscript) and self._leaves_out(node):
            return False
        if isinstance(node, ast.Call) and self._called_of_self(node):
            return False
        return any(self._holds(child) for child in ast.iter_child_nodes(node))

    def _is_read(self, node: ast.AST) -> bool:
        return isinstance(node, ast.expr) and self._read == (
            node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
        )  # fmt: skip

    def _leaves_out(self, node: ast.Subscript) -> bool:
        """Whether it takes another part: `h.chunk(2, 1)[0]`, or `h[:, :n]` of channels that begin behind the first."""
        index = node.slice
        if _is_cut(node.value):
            at = index.value if isinstance(index, ast.Constant) else None
            return isinstance(at, int) and self._place() not in (None, at)
        of_channels = index.elts[1:] if isinstance(index, ast.Tuple) else []
        return self._channels.start > 0 and any(
            isinstance(one, ast.Slice) and _is_begin(one.lower) and one.upper is not None for one in of_channels
        )

    def is_of_sigma(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        own = None
        if isinstance(node.func, ast.Name):
            own = self._globals.get(name)
        elif self._called_of_self(node) == [name]:
            own = self._methods.get(name)
        computes = OF_SIGMA & set(own.__code__.co_names) if _is_read_too(own) else name in OF_SIGMA
        if not computes:
            return False
        return self._is_read(node) or any(map(self._holds, ast.iter_child_nodes(node)))

    def _called_of_self(self, node: ast.Call) -> list[str]:
        """The names on the way from `self` to what is called; none where it is called of something else."""
        names, called = [], node.func
        while isinstance(called, ast.Attribute | ast.Subscript):
            names += [called.attr] if isinstance(called, ast.Attribute) else []
            called = called.value
        return names[::-1] if isinstance(called, ast.Name) and called.id == self._self else []


def _is_begin(lower: ast.expr | None) -> bool:
    return lower is None or (isinstance(lower, ast.Constant) and lower.value == 0)


def _is_read_too(own: object) -> TypeGuard[FunctionType]:
    """Whether it is a function of the host's, whose own calls count."""
    return isinstance(own, FunctionType) and not str(own.__module__).startswith("torch.")


def _is_cut(node: ast.expr) -> bool:
    """Whether it cuts something into equal parts."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CUTTING
