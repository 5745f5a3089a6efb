"""Places in a host's source by what stands there, for patch files that outlive an edit of the host.

A `Site` has lines and columns, which one comment further up makes wrong. A file of `scan --write` has the text of each
expression and of each call on the way to it, and finds the lines anew when its heads are asked for:

    at = Places(model)
    at.site("", "forward", first="0.5 * lv", last="torch.exp(0.5 * lv).clamp(min=0.001)", rest=...)
    at.site("", "forward", calls=(("limited(lv)", "my_vae", "limited"),), first="torch.exp(lv)", ...)

Where the same text stands several times in a function, `("0.5 * lv", 1)` is the second one.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from vdvae_patch.attach import decorators
from vdvae_patch.attach.graft import host_class
from vdvae_patch.attach.sites import CallStep, LogSite, NormalSite, Site, TermSite
from vdvae_patch.attach.source import LOCAL, Span, called, find, method_function, parse, qualname_of
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import Head
from vdvae_patch.outcome import Outcome

Text = str | tuple[str, int]
"""What an expression says, as `ast.unparse` writes it; and which of several alike in its function."""

Call = tuple[Text, str, str]
"""What a call says, and the module and qualified name of what it calls."""


@dataclass(frozen=True)
class _Written:
    """In the place of a scan: heads of a file have no batch to be verified by, but the Normals are known."""

    normals: tuple[NormalSite | LogSite, ...]
    can_verify: bool = False
    heads: tuple[Head, ...] = ()

    outcome: Outcome = field(default_factory=Outcome)
    call: None = None
    outside: tuple[NormalSite | LogSite, ...] = ()
    places_outside: tuple[str, ...] = ()

    def run_again(self, model: nn.Module, tracer: None = None, call: Callable[..., Any] | None = None) -> Outcome:
        raise PatchError("heads of a file come without a batch")

    def rerun(self, model: nn.Module, call: Callable[..., Any] | None = None) -> None:
        raise PatchError("heads of a file come without a batch")

    def explained(self, model: nn.Module, outcome: Outcome, call: Callable[..., Any] | None = None) -> Outcome:
        return outcome

    def exchanged(self, model: nn.Module, edits: Sequence[Any]) -> None:
        return None

    def verify(self, model: nn.Module, patched: Iterable[Any], call: Callable[..., Any] | None = None) -> Outcome:
        raise PatchError("heads of a file come without a batch; scan the model to have them verified")


class Places:
    """Finds the places of a model's methods by their text.

    Each method raises `PatchError` if the text stands there no more: the host is another version than the file was
    written for.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))

    def site(
        self,
        owner: str,
        method: str,
        *,
        first: Text,
        last: Text,
        rest: Convention | None,
        operand: int = 0,
        calls: Sequence[Call] = (),
        also: Sequence[tuple[Text, int]] = (),
        drops: Sequence[Text] = (),
        **more: Any,
    ) -> Site:
        """The site of an expression; the arguments are those of `Site`, with texts in the place of spans."""
        steps, function = self._follow(owner, method, calls)
        spans = tuple((_span(function, text), number) for text, number in also)
        return Site(
            owner, method, steps, _span(function, first), _span(function, last), operand, rest, also=spans,
            drops=tuple(_span(function, text) for text in drops), **more,
        )  # fmt: skip

    def normal(self, owner: str, method: str, text: Text, calls: Sequence[Call] = ()) -> NormalSite:
        """The site of a call of `torch.distributions.Normal`."""
        steps, function = self._follow(owner, method, calls)
        return NormalSite(owner, method, steps, _span(function, text))

    def log(
        self,
        owner: str,
        method: str,
        *,
        first: Text,
        last: Text,
        convention: Convention,
        operand: int = 0,
        calls: Sequence[Call] = (),
        parameter: str = "",
    ) -> LogSite:
        """The site of an expression whose value, the σ of a Normal, carries its logarithm; arguments of `LogSite`."""
        steps, function = self._follow(owner, method, calls)
        spans = _span(function, first), _span(function, last)
        return LogSite(owner, method, steps, *spans, operand, convention, parameter)

    def term(
        self,
        owner: str,
        method: str,
        *,
        first: Text,
        last: Text,
        reader: Callable[..., Any],
        calls: Sequence[Call] = (),
        weights: Text | None = None,
    ) -> TermSite:
        """The site of a reconstruction term in whose place a reader stands; arguments of `TermSite`."""
        steps, function = self._follow(owner, method, calls)
        of_weights = None if weights is None else _span(function, weights)
        spans = _span(function, first), _span(function, last)
        return TermSite(owner, method, steps, *spans, reader, weights=of_weights)

    @staticmethod
    def with_normals(heads: Iterable[Head], normals: Iterable[NormalSite | LogSite]) -> list[Head]:
        """The heads, patched with which the Normals carry log σ."""
        written = _Written(tuple(normals))
        return [replace(head, scan=written) for head in heads]

    def _follow(
        self, owner: str, method: str, calls: Sequence[Call]
    ) -> tuple[tuple[CallStep, ...], types.FunctionType]:
        if owner not in self._modules:
            raise PatchError(f"the model has no module {owner!r}; it is another version than the file was written for")
        instance: Any = self._modules[owner]
        function = method_function(host_class(instance), method)
        steps = []
        for text, module, qualname in calls:
            step = CallStep(_span(function, text), module, qualname)
            steps.append(step)
            function, instance = entered(function, step, instance)
        return tuple(steps), function


def entered(function: types.FunctionType, step: CallStep, instance: Any) -> tuple[types.FunctionType, Any]:
    """The function that a step leads to, in whose text the next place stands, and what it is a method of."""
    target, owner, _ = called(function, step.span, step.module, step.qualname, instance)
    if target is LOCAL:
        return function, instance  # it is written inside the function that calls it
    if isinstance(target, type):
        return method_function(target, step.qualname.rpartition(".")[2]), None
    layers = decorators.chain(target, step.qualname.rpartition(".")[2])
    ran = next((layer for layer in layers if qualname_of(layer) == step.qualname), layers[-1])
    return ran, owner


def text_at(function: types.FunctionType, span: Span) -> Text:
    """What stands at a place of a function, for a file; raises `PatchError` if there is no expression."""
    tree = parse(function)
    node = find(tree, span)
    if node is None:
        raise PatchError(f"{function.__qualname__} has no expression at line {span[0]}")
    text = ast.unparse(node)
    spans = _spans(tree, text)
    return text if len(spans) == 1 else (text, spans.index(span))


def _span(function: types.FunctionType, text: Text) -> Span:
    wanted, number = (text, 0) if isinstance(text, str) else text
    spans = _spans(parse(function), wanted)
    if isinstance(text, str) and len(spans) > 1:
        raise PatchError(
            f"{function.__qualname__} holds {wanted!r} {len(spans)} times, and the patch file was written when it was "
            f"there once; say which one is meant, ({wanted!r}, 0) for the first, or scan and write it again"
        )
    if len(spans) <= number:
        times = f"{len(spans)} times" if spans else "nowhere"
        raise PatchError(
            f"{function.__qualname__} holds {wanted!r} {times}, and the patch file asks for number {number + 1}: it is "
            "another version than the file was written for; find its heads with vdvae_patch.scan, and write them again"
        )
    return spans[number]


def _spans(tree: ast.AST, text: str) -> list[Span]:
    found = {
        (node.lineno, node.end_lineno or node.lineno, node.col_offset, node.end_col_offset or node.col_offset)
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.AugAssign) and ast.unparse(node) == text
    }
    return sorted(found)
