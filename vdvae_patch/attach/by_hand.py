"""Where in a host's own text a raw parameter is read, for somebody who changes the source by hand."""

from __future__ import annotations

import ast
import types
from typing import Any, NamedTuple

from vdvae_patch.attach.change import Change
from vdvae_patch.attach.operands import Operands
from vdvae_patch.attach.source import Span, parse
from vdvae_patch.attach.syntax import SCOPES, at, replace, span_of


def in_place(function: types.FunctionType, change: Change, instance: Any) -> list[tuple[Span, str]]:
    """Where the raw parameter is read and what it says there, for somebody who changes the source by hand.

    Each span is to become reader(text). Empty if the raw parameter stands outside of the expression that is replaced.
    """
    tree, operands = parse(function), Operands(function, instance)
    if change.operand == -3:
        return [(span_of(node), ast.unparse(node)) for node in operands.reads_of(change.parameter, tree)]
    last = at(function, tree, change.last)
    if change.operand <= -4:
        raw = operands.operand(last, change._replace(operand=-4 - change.operand))
        return [(span_of(raw), ast.unparse(raw))]
    if change.operand == -1:
        return [(change.last, ast.unparse(last))]
    first = at(function, tree, change.first)
    if change.also or change.drops or change.inplace or not any(node is first for node in ast.walk(last)):
        return []
    return [(change.last, ast.unparse(operands.operand(first, change)))]


def in_part(function: types.FunctionType, change: Change, instance: Any, kept: str) -> list[tuple[Span, str]]:
    """As `in_place`, of an expression that computes means beside the scale: "(kept := operand), the expression of
    kept", two arguments."""
    tree, operands = parse(function), Operands(function, instance)
    first, last = at(function, tree, change.first), at(function, tree, change.last)
    if change.operand < 0 or change.also or change.drops or change.inplace or not isinstance(last, ast.expr):
        return []
    raw = operands.operand(first, change)
    if raw is last or not any(node is raw for node in ast.walk(last)):
        return []
    text = ast.unparse(raw)
    if not isinstance(raw, ast.Name):
        replace(last, raw, ast.Name(kept, ast.Load()))
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
    tree, operands = parse(function), Operands(function, instance)
    first, last = at(function, tree, change.first), at(function, tree, change.last)
    inner = [node for node in ast.walk(tree) if isinstance(node, SCOPES)]
    scoped = any(part is first for scope in inner for part in ast.walk(scope))
    if scoped or not isinstance(last, ast.expr) or any(node is first for node in ast.walk(last)):
        return None
    raw = operands.operand(first, change)
    lines = range(raw.lineno, last.lineno + 1)
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
              and n.lineno in lines}  # fmt: skip
    return Apart(span_of(raw), ast.unparse(raw), isinstance(raw, ast.Name) and raw.id not in stored)


def operand_within(function: types.FunctionType, change: Change, instance: Any) -> Span | None:
    """Where the raw parameter stands in the expression that is replaced; None where it stands outside."""
    if change.operand < 0 or change.also or change.drops or change.inplace:
        return None
    tree, operands = parse(function), Operands(function, instance)
    first, last = at(function, tree, change.first), at(function, tree, change.last)
    raw = operands.operand(first, change)
    return span_of(raw) if any(node is raw for node in ast.walk(last)) else None
