"""Expressions like those that a patch replaces, in lines of the model's code that the scanned call did not run.

def forward(self, x):                              # scanned: this expression is replaced
    ...
    scale = F.softplus(raw) + 1e-3

def sample(self, n):                               # this one computes σ as before
    scale = F.softplus(self.prior(z)) + 1e-3
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import partial
from types import CodeType, FunctionType

import torch
from torch import nn

from vdvae_patch.attach.callers import functions_of
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.recompile import lies_in
from vdvae_patch.attach.sites import Site
from vdvae_patch.attach.source import Span, find, is_method, method_function, parse
from vdvae_patch.attach.syntax import span_of
from vdvae_patch.attach.written import entered
from vdvae_patch.composition import Composition
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import descend
from vdvae_patch.scanning.arithmetic.expression import Spot, pieces, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.places.read_elsewhere import where_it_is_read
from vdvae_patch.trace import shown


def with_what_did_not_run(model: nn.Module, graph: Graph, heads: Sequence[Head]) -> list[Head]:
    """The heads; those whose expressions are replaced with a line about others like them that did not run."""
    if not any(head.sites for head in heads):
        return list(heads)
    others = _Others(model, graph)
    return [
        head
        if head.found is None
        else replace(
            head, found=replace(head.found, elsewhere=others.told_of(head), constant=others.of_a_constant(head))
        )
        for head in heads
    ]


class _Others:
    """Expressions of a model's functions that the scanned call did not run."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self._model, self._graph = model, graph
        self._functions = dict.fromkeys(_functions(model))
        self._ran: dict[str, set[Span]] = {}
        self._at: dict[tuple[object, ...], list[Node]] = {}
        for node in graph.nodes:
            if ops.kind_of(node.op) == "elementwise" and (innermost := node.host_frame()) is not None:
                self._at.setdefault((innermost.code.co_filename, innermost.span), []).append(node)
        for frame in (frame for node in graph.nodes for frame in node.frames):
            first, last, start, end = frame.span
            if first is not None and last is not None and start is not None and end is not None:
                self._ran.setdefault(frame.code.co_filename, set()).add((first, last, start, end))
        self._told: dict[tuple[FunctionType, tuple[str, ...]], str] = {}

    def told_of(self, head: Head) -> str:
        """A line about them, or about others that read the raw value; empty where there are none."""
        if told := self._like_those_of(head):
            return told
        at, own = partial(_function, self._model), self._functions.keys()
        return where_it_is_read(self._model, self._graph, head, own, at, self._has_run)

    def _like_those_of(self, head: Head) -> str:
        for site in head.sites:
            if isinstance(site, Site) and not site.in_call and site.channels is None:
                try:
                    function = _function(self._model, site)
                    replaced = find(parse(function), site.last)
                except PatchError:
                    continue
                wanted = _operations(replaced, _self(function)) if isinstance(replaced, ast.expr) else ()
                if wanted and (told := self._tell(function, wanted)):
                    return told
        return ""

    def of_a_constant(self, head: Head) -> tuple[str, float] | None:
        """Where an expression that is replaced also ran for a constant, as for a fixed prior, and the host's own σ."""
        for site in head.sites:
            if isinstance(site, Site) and not site.in_call and site.rest is not None:
                try:
                    file = _function(self._model, site).__code__.co_filename
                except PatchError:
                    continue
                there = (_fixed_value(node, self._graph.fixed) for node in self._at.get((file, site.last), ()))
                values = [value for value in there if value is not None]
                if values:
                    sigma = float(site.rest.sigma(torch.tensor(values[-1], dtype=torch.float64)))
                    return shown(f"{file}:{site.last[0]}"), sigma
        return None

    def _tell(self, function: FunctionType, wanted: tuple[str, ...]) -> str:
        key = function, wanted
        if key not in self._told:
            among = {function: None, **self._functions}
            found = [
                (other, node) for other in among for node in _like(other, wanted) if not self._has_run(other, node)
            ]
            self._told[key] = _line(*found[0], len(found) - 1) if found else ""
        return self._told[key]

    def _has_run(self, function: FunctionType, node: ast.expr) -> bool:
        ran = self._ran.get(function.__code__.co_filename, ())
        return any(lies_in(span, span_of(node)) for span in ran)


def _fixed_value(node: Node, untrained: Set[str]) -> float | None:
    """What is computed there of a constant or an untrained parameter, by itself or joined to what networks put out, as
    the standard Normal is to the other experts of a product; None where there is none, or its elements differ."""
    if node.kind == "constant":
        return node.value if node.even else None
    chain = descend(Spot(node))
    begin = settle(chain.begin)
    for piece in map(settle, pieces(begin) if begin.node.op in ops.JOINING else [begin]):
        fixed = piece.node.kind in ("constant", "buffer") or piece.node.name in untrained
        if fixed and piece.node.even:
            return float(Composition(chain.steps).sigma(torch.tensor(piece.node.value, dtype=torch.float64)))
    return None


def _line(function: FunctionType, node: ast.expr, more: int) -> str:
    place = shown(f"{function.__code__.co_filename}:{node.lineno}")
    others = f" (and {more} more)" if more else ""
    return (
        f"{place}, `{ast.unparse(node)}` in {function.__qualname__}, is written like what is replaced{others}, and the "
        "scanned call did not run it: a σ that it computes stays the model's own. Let one method compute σ for both, "
        "or scan with a call that runs both"
    )


def _function(model: nn.Module, site: Site) -> FunctionType:
    """The function in whose text a site stands."""
    instance: nn.Module | None = model.get_submodule(site.owner)
    function = method_function(host_class(instance), site.method)
    for step in site.calls:
        function, instance = entered(function, step, instance)
    return function


def _functions(model: nn.Module) -> Iterator[FunctionType]:
    """Those of the model's own classes, and of no library's; not what a subclass overrides, and nobody calls."""
    for cls in dict.fromkeys(host_class(module) for module in model.modules()):
        if cls.__module__.startswith("torch."):
            continue
        found = list(functions_of(next(module for module in model.modules() if host_class(module) is cls)))
        bases = {"super", *(base.__name__ for base in cls.__mro__[1:])}
        of_bases = {name for function in found if bases & (names := _names(function.__code__)) for name in names}
        seen: set[str] = set()
        for function in found:
            name = function.__name__
            if name not in seen or name in of_bases or name == "<lambda>":  # which many may be called
                yield function
            seen.add(name)


def _names(code: CodeType) -> set[str]:
    """What is named in a function, and in those that stand in it."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _like(function: FunctionType, wanted: tuple[str, ...]) -> Iterator[ast.expr]:
    """The expressions that do the same to some value: the same calls, and the same numbers."""
    try:
        tree = parse(function)
    except PatchError:
        return
    own = _self(function)
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.expr) and _operations(node, own) == wanted:
            yield node
        else:
            todo += ast.iter_child_nodes(node)


_MOVING = frozenset(
    {
        *("chunk", "expand", "flatten", "float", "narrow", "permute", "reshape", "select", "split", "squeeze"),
        *("tensor_split", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
    }
)


def _operations(expression: ast.expr, own: str) -> tuple[str, ...]:
    """The names of what an expression calls, and its numbers, in an order of their own; empty for one that calls
    nothing. What a layer or a method of `self` gives, or a part of something, is a value as any other."""
    calls, numbers = [], []
    todo: list[ast.AST] = [expression]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            numbers.append(repr(float(node.value)))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            layer = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == own
            if not layer and name not in _MOVING:
                calls.append(name)
                todo += ast.iter_child_nodes(node)
        elif not isinstance(node, ast.Subscript):
            todo += ast.iter_child_nodes(node)
    return (*sorted(calls), *sorted(numbers)) if calls else ()


def _self(function: FunctionType) -> str:
    """How a method names what it is called on; empty for a function that is none."""
    return function.__code__.co_varnames[0] if is_method(function) else ""
