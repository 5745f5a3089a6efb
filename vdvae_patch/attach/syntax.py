"""Syntax trees: where a node stands in one, what stands around it, and another in its place."""

from __future__ import annotations

import ast
import types
from typing import Any

from vdvae_patch.attach.source import Span, find, parse
from vdvae_patch.errors import PatchError

SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""Expressions whose names are their own."""


def at(function: types.FunctionType, tree: ast.AST, span: Span) -> ast.expr | ast.stmt:
    """The expression or statement at a span of a function's tree.

    Raises:
        PatchError: there is none, or none any more.
    """
    node = find(tree, span)
    if node is not None:
        return node
    if find(parse(function), span) is not None:  # it was there, and went with what has been replaced
        raise PatchError(
            f"{function.__qualname__} line {span[0]}: one expression that is to be replaced lies in another "
            "one, so the host reads a raw value in ways that disagree, and no scale can be right for both; let it "
            "take the raw value alike first, or write a patch file whose Head has a CallSite"
        )
    raise PatchError(
        f"{function.__qualname__} has no expression at line {span[0]}, columns {span[2]} to {span[3]}; "
        "was its file edited since it was scanned, or imported? scan it again"
    )


def span_of(node: ast.expr) -> Span:
    end = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return node.lineno, end[0], node.col_offset, end[1]


def is_unpacked(tree: ast.AST, call: ast.AST) -> bool:
    """Whether what an expression gives is taken apart: indexed, or unpacked."""
    for parent in ast.walk(tree):
        if isinstance(parent, ast.Subscript | ast.Starred) and parent.value is call:
            return True
        if isinstance(parent, ast.Assign) and parent.value is call:
            return any(isinstance(target, ast.Tuple | ast.List) for target in parent.targets)
    return False


def branches(tree: ast.AST, inside: ast.AST) -> dict[int, ast.stmt]:
    """The blocks (of an if, a loop, a try) that a node stands in, outermost first: the statement of each by its list of
    statements."""
    found: dict[int, ast.stmt] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.For | ast.While | ast.Try | ast.Match):
            for _, block in ast.iter_fields(node):
                if isinstance(block, list) and any(part is inside for item in block for part in ast.walk(item)):
                    found[id(block)] = node
    return found


def blocks_around(tree: ast.AST, first: ast.AST, last: ast.AST) -> list[ast.stmt]:
    """The statements in a block of which the first expression stands, and the last one does not, outermost first."""
    outside = branches(tree, last)
    return [node for block, node in branches(tree, first).items() if block not in outside]


def insert_before(tree: ast.AST, statement: ast.stmt, new: ast.stmt) -> None:
    for parent in ast.walk(tree):
        for _, block in ast.iter_fields(parent):
            if isinstance(block, list) and any(item is statement for item in block):
                block.insert(
                    next(i for i, item in enumerate(block) if item is statement), ast.copy_location(new, statement)
                )
                return


def replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> bool:
    """Put one node in the place of another; False if the other is no longer in the tree."""
    if isinstance(old, ast.AugAssign):
        new = ast.Assign([old.target], new, lineno=old.lineno)  # type: ignore[arg-type]
    for parent in ast.walk(tree):
        if parent is new:
            continue
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
                return True
            if isinstance(value, list) and any(item is old for item in value):
                value[next(i for i, item in enumerate(value) if item is old)] = new
                return True
    return False


def replace_statement(tree: ast.AST, old: ast.stmt, new: ast.stmt) -> None:
    for parent in ast.walk(tree):
        for _, value in ast.iter_fields(parent):
            if isinstance(value, list) and any(item is old for item in value):
                value[next(i for i, item in enumerate(value) if item is old)] = ast.copy_location(new, old)
                return


def defines(node: Any, name: str) -> bool:
    """Whether a statement defines a function of that name, or binds the name to a lambda."""
    if isinstance(node, ast.FunctionDef):
        return node.name == name
    target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
    target = node.target if isinstance(node, ast.AnnAssign) else target
    return isinstance(target, ast.Name) and target.id == name and isinstance(node.value, ast.Lambda)


def root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
