"""Configuration files whose values are Python expressions, read without running any code in them."""

from __future__ import annotations

import ast
import configparser
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdvae_patch.errors import HostError
from vdvae_patch.validation import one_line, short

_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_LONGEST = 10_000
_BITS = 1_024


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """`[section]`s of `name = expression`: numbers, text, tuples, lists, and + - * / of them, such as `[3] * 30 + [1]`.

    A value that is no expression is text, as `name = cifar10_baseline` is.

    Raises:
        HostError: the file cannot be read or has no sections, or a value is an expression of another kind.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, ValueError, configparser.Error) as error:
        raise HostError(f"configuration {path} cannot be read: {one_line(error)}") from None
    return {
        section: {name: _value(text, f"{path}: [{section}] {name}") for name, text in parser.items(section)}
        for section in parser.sections()
    }


def _value(text: str, where: str) -> Any:
    if len(text) > _LONGEST:
        raise HostError(f"{where} is a text of {len(text):,} characters; {_LONGEST:,} at most are read")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return text
    except (RecursionError, MemoryError):
        raise HostError(f"{where} is nested too deep to be read; write its value") from None
    if isinstance(tree, ast.Name):
        return text
    try:
        return _evaluate(tree, where)
    except (ArithmeticError, TypeError, ValueError, RecursionError) as error:
        raise HostError(f"{where} = {short(text, 80)} has no value: {one_line(error)}") from None


def _evaluate(node: ast.expr, where: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [_evaluate(item, where) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item, where) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, where)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left, where), _evaluate(node.right, where)
        _require_short(left, right, where)
        return _OPERATIONS[type(node.op)](left, right)
    raise HostError(f"{where} = {ast.unparse(node)} is more than numbers, text and lists of them; write its value")


def _require_short(left: Any, right: Any, where: str) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, list | tuple | str) and isinstance(other, int) and _items(one) * other > _LONGEST:
            raise HostError(f"{where} is a list of more than {_LONGEST} items")
        if isinstance(one, int) and one.bit_length() > _BITS:
            raise HostError(f"{where} is a number of more than {_BITS} bits")
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and _items(left) + _items(right) > _LONGEST:
        raise HostError(f"{where} is a list of more than {_LONGEST} items")


def _items(value: Any) -> int:
    """How many there are in all, those of inner lists with them; a text has its characters."""
    return (
        sum(map(_items, value)) + 1 if isinstance(value, list | tuple) else len(value) if isinstance(value, str) else 1
    )
