"""Where in a host's source the functions go: spans and texts that become calls, as one unified diff a file."""

from __future__ import annotations

import ast
import difflib
import inspect
import linecache
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NamedTuple

from torch import nn

from vdvae_patch.attach.callers import calls_on_self, functions_of
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.source import Span, find, method_function, parse
from vdvae_patch.attach.written import entered
from vdvae_patch.trace import shown


class Replacement(NamedTuple):
    """A place in a file whose text becomes `name(raw)`; with an empty name `(raw)`, and without one what `raw` says."""

    file: str
    span: Span
    name: str | None
    raw: str


class Followed(NamedTuple):
    """The function that holds a site's expression, what it is a method of, and the calls that lead to it."""

    function: FunctionType
    instance: Any
    calls: tuple[Caller, ...]


@dataclass(frozen=True)
class Caller:
    """A call of a function, in the text of another one."""

    function: FunctionType
    span: Span

    @property
    def place(self) -> tuple[str, Span]:
        """File and span."""
        return file_of(self.function), self.span

    def others(self) -> Iterator[tuple[str, Span]]:
        """Where else the same is called: in this function, and of what no object has, a class or a plain function,
        in its file."""
        own = find(parse(self.function), self.span)
        if not isinstance(own, ast.Call):
            return
        text, (file, _) = ast.unparse(own.func), self.place
        shared = isinstance(own.func, ast.Name) and own.func.id not in self.function.__code__.co_varnames
        tree = ast.parse("".join(linecache.getlines(file))) if shared else parse(self.function)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == text:
                span = (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)
                if span != self.span:
                    yield file, span


def followed(module: nn.Module, site: Any) -> Followed:
    """The way to a site's expression."""
    instance: Any = module
    function = method_function(host_class(instance), site.method)
    calls = []
    for step in site.calls:
        calls.append(Caller(function, step.span))
        function, instance = entered(function, step, instance)
    return Followed(function, instance, tuple(calls))


def calls_of(model: nn.Module, path: str) -> Iterator[tuple[str, Span, str]]:
    """Where the host calls a module as `self.name(...)`: file, span and text. A last layer of a `Sequential` is called
    with it."""
    parent_path, _, name = path.rpartition(".")
    if not path:
        return
    parent = model.get_submodule(parent_path)
    if isinstance(parent, nn.Sequential):
        if parent_path and name == list(dict(parent.named_children()))[-1]:
            yield from calls_of(model, parent_path)
        return
    for function in functions_of(parent):
        for node in calls_on_self(function, (name,)):
            span = (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)
            yield file_of(function), span, ast.unparse(node)


def called_alike(model: nn.Module, path: str) -> Iterator[Any]:
    """What the lines of `calls_of` call: of each module with a function of those, its layer of that name."""
    owner, _, name = path.rpartition(".")
    while owner and isinstance(model.get_submodule(owner), nn.Sequential):
        owner, _, last = owner.rpartition(".")
        name = f"{last}.{name}"
    attribute, _, inside = name.partition(".")
    lines = {
        function for function in functions_of(model.get_submodule(owner)) if any(calls_on_self(function, (attribute,)))
    }
    for module in model.modules():
        called = getattr(module, attribute, None)
        if called is not None and lines.intersection(functions_of(module)):
            yield called.get_submodule(inside) if inside and isinstance(called, nn.Sequential) else called


def file_of(function: FunctionType) -> str:
    """The file that a function is written in."""
    return inspect.getsourcefile(function) or function.__code__.co_filename


def diff(replacements: list[Replacement]) -> str:
    """A unified diff of all of them; `patch` can apply it."""
    by_file: dict[str, list[Replacement]] = defaultdict(list)
    for one in dict.fromkeys(replacements):
        by_file[one.file].append(one)
    texts = []
    for file, found in by_file.items():
        before = linecache.getlines(file)
        after = list(before)
        for one in sorted(found, key=lambda r: (r.span[0], r.span[2]), reverse=True):  # the last first: places stay
            _replace(after, one)
        name = shown(file)
        texts.append("".join(difflib.unified_diff(before, after, name, name, n=1)))
    return "".join(texts)


def _replace(lines: list[str], one: Replacement) -> None:
    first, last, start, end = one.span
    head = lines[first - 1].encode()[:start].decode()
    tail = lines[last - 1].encode()[end:].decode()
    text = one.raw if one.name is None else f"{one.name}({one.raw})"
    lines[first - 1 : last] = [f"{head}{text}{tail}"]
