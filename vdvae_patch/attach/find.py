"""Find expressions of a host by what they say, for patch files that name sites."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable

from vdvae_patch.attach.source import Span, definition, method_function
from vdvae_patch.errors import PatchError


def expressions(owner: type, method: str, text: str) -> list[Span]:
    """The places of the expressions of a method that read as `text`, whatever their layout.

    Raises:
        PatchError: there is none, so the host is another version than the patch file was written for.
    """
    wanted = ast.unparse(ast.parse(text, mode="eval").body)
    return _places(method_function(owner, method), lambda node: ast.unparse(node) == wanted, text)


def calls(owner: type, method: str, name: str) -> list[Span]:
    """The places where a method calls something by a plain name.

    Raises:
        PatchError: there is none.
    """

    def is_call(node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name

    return _places(method_function(owner, method), is_call, f"{name}(...)")


def _places(function: types.FunctionType, accept: Callable[[ast.expr], bool], text: str) -> list[Span]:
    found = [
        (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
        for node in ast.walk(definition(function))
        if isinstance(node, ast.expr)
        and accept(node)
        and node.end_lineno is not None
        and node.end_col_offset is not None
    ]
    if not found:
        raise PatchError(
            f"{function.__qualname__} has no {text!r}: it is another version than the patch file was written for; "
            "find its heads with vdvae_patch.scan"
        )
    return found
