"""The page of all error messages, read from the source: what is raised, where, and the class to catch."""

from __future__ import annotations

import ast
import html
from collections.abc import Iterator
from pathlib import Path

_HEAD = """# Every error message

All errors that this package raises on purpose, as they stand in its source; `…` is where a value of yours stands. Each
says what was wrong and what to do. Search this page for words of the message that you have;
[troubleshooting](troubleshooting.md) explains the common ones at length. A program catches them by their class;
`VdvaePatchError` is the base of all.
"""


def page(root: Path) -> str:
    """The page, of all modules below the root of the repository."""
    classes = dict(_classes(root / "vdvae_patch" / "errors.py"))
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in classes}
    for file in sorted([*root.glob("vdvae_patch/**/*.py"), *root.glob("launch/*.py"), *root.glob("patches/*.py")]):
        for name, message in _raised(file):
            if name in found:
                found[name].append((message, file.relative_to(root).as_posix()))
    parts = [_HEAD]
    for name, messages in found.items():
        if messages:
            parts += [f"\n## {name}\n", f"{classes[name]}\n", "| message | raised in |", "|---|---|"]
            parts += [f"| {_cell(message)} | `{file}` |" for message, file in dict.fromkeys(messages)]
    return "\n".join(parts) + "\n"


def _classes(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, (ast.get_docstring(node) or "").partition("\n")[0]


def _raised(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            message = _text(node.exc.args[0]) if node.exc.args else None
            if message is not None and node.exc.func.id == "UnknownNameError":
                message = f"unknown {message} …; did you mean …? (known: …)"
            if message is not None and message.replace("…", "").strip(" :;.,"):
                yield node.exc.func.id, " ".join(message.split())


def _text(node: ast.expr) -> str | None:
    """The text of a literal, `…` where a value is put in; None for what is put together elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return None


def _cell(message: str) -> str:
    return (
        html.escape(message, quote=False)
        .replace("|", "\\|")
        .replace("_", "\\_")
        .replace("*", "\\*")
        .replace("[", "\\[")
    )
