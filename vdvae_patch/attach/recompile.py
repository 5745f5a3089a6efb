"""A host's method compiled again, with the expressions of some sites replaced.

Functions and classes between the method and an expression (a helper, a distribution class) are compiled again for this
caller only, so that two calls of one helper can have two scales.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from vdvae_patch import conventions
from vdvae_patch.attach import decorators
from vdvae_patch.attach.change import TERM, VALUE, Change, LocalFunction, Names
from vdvae_patch.attach.classes import ClassMethod, ClassOfCall
from vdvae_patch.attach.operands import fixed_arguments
from vdvae_patch.attach.readers import AnyReader, LogReader, OutputReader, PartReader, Reader
from vdvae_patch.attach.rewrite import rewritten
from vdvae_patch.attach.sites import CallStep, LogSite, NormalSite, Site, TermSite
from vdvae_patch.attach.source import LOCAL, Span, called, method_function, owner_of, qualname_of
from vdvae_patch.composition import ends, same_sigma
from vdvae_patch.distributions import StableNormal
from vdvae_patch.errors import SharedScaleError
from vdvae_patch.heads import Head
from vdvae_patch.scales import Scale

GIVE_ONE = 'give both the same, such as posterior="explin", prior="explin"'

Edit = tuple[Site, Scale] | tuple[NormalSite | LogSite | TermSite, None]


def compiled(
    host: type, method: str, path: str, edits: Sequence[Edit], instance: Any, fixed: frozenset[str] = frozenset()
) -> Callable[..., Any]:
    """The method of a host's class with the edits made, in its decorators; called with the instance first.

    Args:
        path: of the module in the model.
        instance: the module, in which functions that it keeps are looked up.
        fixed: see `rewritten`.

    Raises:
        PatchError: the source is not what the sites describe, or cannot be compiled again as it is.
    """
    own = [_from(path, edit) for edit in edits]
    written = _compile(method_function(host, method), own, 0, instance, fixed)
    found = inspect.getattr_static(host, method)
    new: Callable[..., Any] = decorators.rewrapped(found, written, name=written.__name__)
    return new


def compiled_function(
    function: types.FunctionType,
    edits: Sequence[Edit],
    instance: Any = None,
    given: Mapping[str, Any] | None = None,
    model: Any = None,
    fixed: frozenset[str] = frozenset(),
) -> types.FunctionType:
    """A function beside the model, such as a loss, with the edits made; its sites' calls begin in it.

    Args:
        instance: what it is a method of.
        given: arguments whose values are known, by which attributes are told apart: the model.
        model: from which parameters are named.
        fixed: see `rewritten`.

    Raises:
        PatchError: as `compiled`.
    """
    return _compile(function, list(edits), 0, instance, fixed, Names(model, dict(given or {})))


def _from(path: str, edit: Edit) -> Edit:
    """The edit with its parameter named from the module on, and not from the model."""
    site, scale = edit
    if isinstance(site, NormalSite) or not path or not site.parameter.startswith(f"{path}."):
        return edit
    return replace(site, parameter=site.parameter.removeprefix(f"{path}.")), scale  # type: ignore[return-value]


def _reader(site: Site, scale: Scale) -> AnyReader:
    if site.channels is not None and site.rest is not None:
        return OutputReader(scale, site.rest, site.channels)
    if site.operand == -1 and site.beside is not None and site.rest is not None:
        return OutputReader(scale, site.rest, site.beside)
    reader = Reader(scale, site.rest, site.reads)
    return reader if site.beside is None else PartReader(reader, site.beside)


def _compile(
    function: types.FunctionType,
    edits: list[Edit],
    level: int,
    instance: Any,
    fixed: frozenset[str] = frozenset(),
    names: Names | None = None,
) -> types.FunctionType:
    return rewritten(function, *_plan(function, edits, level, instance, fixed, names), instance, fixed, names)


def _plan(
    function: types.FunctionType,
    edits: list[Edit],
    level: int,
    instance: Any,
    fixed: frozenset[str] = frozenset(),
    names: Names | None = None,
) -> tuple[list[Change], dict[Span, Any]]:
    """The changes of a function, and what it shall call at some spans.

    Args:
        fixed: see `rewritten`.
    """
    changes: list[Change] = []
    inner: dict[CallStep, list[Edit]] = {}
    logs: list[LogSite] = []
    replaced: dict[Span, Any] = {}
    for edit in edits:
        site, scale = edit
        if len(site.calls) > level:
            inner.setdefault(site.calls[level], []).append(edit)
        elif isinstance(site, NormalSite):
            replaced[site.span] = StableNormal
        elif isinstance(site, TermSite):
            # a method's own first argument: copies of a model share their patch, and each has its own decoder
            owner = function.__code__.co_varnames[0] if site.method and not site.calls else ""
            also = () if site.weights is None else ((site.weights, -1),)
            changes.append(Change(site.first, site.last, TERM, site.reader, owner, also))
        elif isinstance(site, LogSite) or scale is None:
            logs.append(site)  # type: ignore[arg-type]
        else:
            reader = _reader(site, scale)
            change = Change(
                site.first,
                site.last,
                site.operand,
                reader,
                site.parameter,
                site.also,
                site.drops,
                site.inplace,
                site.several,
            )
            known = next((c for c in changes if _is_same_place(c, change)), None)
            if known is None:
                changes.append(change)
            elif not known.reader.same_as(change.reader):
                if known.reader.scale == scale:
                    raise SharedScaleError(
                        f"{function.__qualname__} line {site.last[0]} computes what the host goes on from to σ in two "
                        "ways, so that nothing in its place is right for both; let the host compute them in two "
                        "expressions, or write a patch file whose Head has a CallSite"
                    )
                raise SharedScaleError(
                    f"{function.__qualname__} line {site.last[0]} computes two heads' scales, which were given "
                    f"different ones ({known.reader.scale} and {scale}); {GIVE_ONE}"
                )
            elif _is_further(change, known):
                changes[changes.index(known)] = change
    for log in logs:
        # what computes σ is called here, and gets its scale further in: the host's own log σ would be another one's
        deeper = (step for step, below in inner.items() if any(scale is not None for _, scale in below))
        if not any(meet(step.span, log.last) for step in deeper):
            _carry(changes, log)
    for step, below in inner.items():
        target, owner, varies = called(function, step.span, step.module, step.qualname, instance)
        caller = _Caller(function, instance, fixed, names)
        if target is LOCAL:
            replaced[step.span] = LocalFunction(*_plan(function, below, level + 1, instance, fixed, names))
        elif isinstance(target, classmethod):
            inner_function = _again(target, step, below, level, None, caller)
            replaced[step.span] = ClassMethod(inner_function, owner_of(step.module, step.qualname))
        elif isinstance(target, type):
            name = step.qualname.rpartition(".")[2]
            init = _init_again(target, name, below, level)
            made = ClassOfCall(target, name, init, _wrapping(below, level + 1))
            replaced[step.span] = made if varies else made(target)
        else:
            replaced[step.span] = _again(target, step, below, level, owner, caller)
    return changes, replaced


def _carry(changes: list[Change], log: LogSite) -> None:
    """Let a σ carry its logarithm: by the scale that computes it, or by the host's own expression beside a change.

    Where the expression is a part of one that is changed, or what is changed leads to another σ than the Normal's, the
    Normal takes the log of σ.
    """
    # before all others: where it begins, one that lets the raw value pass a clamp may stand
    for known in changes:
        whole = known.last == log.last and known.operand != TERM
        if whole and type(known.reader) is Reader and known.reader.rest == _SIGMA:
            known.reader.carries = True
            return
    if log.convention == _SIGMA:
        return  # what the host itself computes has no better logarithm than that of σ
    for known in changes:
        if known.operand in (TERM, -3):
            continue  # a parameter, wherever it is named: what is read then is what σ is computed of
        if not (meet(known.last, log.last) or meet(known.first, log.first) or meet(known.last, log.first)):
            continue
        # the raw value is replaced on the way, by what the host's remaining steps make σ of, and so its logarithm
        rest = known.reader.rest if type(known.reader) is Reader and known.reader.reads is None else None
        on_the_way = not known.inplace and not lies_in(log.last, known.last)
        if rest is not None and on_the_way and any(same_sigma(rest, steps) for steps in ends(log.convention)):
            changes.append(Change(known.last, log.last, VALUE, LogReader(rest)))
        return
    changes.append(Change(log.first, log.last, log.operand, LogReader(log.convention), log.parameter))


_SIGMA = conventions.get("sigma")


def lies_in(one: Span, other: Span) -> bool:
    """Whether an expression is another one, or a part of it."""
    (first, last, start, end), (first_other, last_other, start_other, end_other) = one, other
    return (first_other, start_other) <= (first, start) and (last, end) <= (last_other, end_other)


def meet(one: Span, other: Span) -> bool:
    """Whether two expressions share text."""
    (first, last, start, end), (first_other, last_other, start_other, end_other) = one, other
    return (first, start) < (last_other, end_other) and (first_other, start_other) < (last, end)


def _is_same_place(one: Change, other: Change) -> bool:
    if isinstance(one.reader, PartReader) and isinstance(other.reader, PartReader):
        return one.last == other.last and one.reader.channels == other.reader.channels
    # a parameter is replaced wherever it is read, so one expression may hold two of them
    if one.operand <= -4 or other.operand <= -4:
        return one.last == other.last and one.operand == other.operand
    return one.last == other.last and (one.operand != -3 or one.parameter == other.parameter)


def _is_further(one: Change, other: Change) -> bool:
    """Whether one of two readings of a place begins further on, behind what the other one adds up.

    Of exp(q + p) the value p may be a fixed prior's zeros at one level and learned at the next: the first level reads
    q there, and the second q + p, which is right for both.
    """

    def end(span: Span) -> tuple[int, int, int, int]:
        line, last_line, column, last_column = span
        return last_line, last_column, -line, -column

    plain = all(c.operand > -3 and not c.also and not c.inplace for c in (one, other))
    return plain and end(one.first) > end(other.first)


class _Caller(NamedTuple):
    """What calls a function: a function, what it is a method of, and its arguments that are fixed."""

    function: Any
    instance: Any
    fixed: frozenset[str]
    names: Names | None = None


def _again(target: Any, step: CallStep, edits: list[Edit], level: int, instance: Any, caller: _Caller) -> Any:
    """A function that is called, compiled again in its decorators."""
    name = step.qualname.rpartition(".")[2]
    layers = decorators.chain(target, name)
    # a wrapper of the host's is a step of its own, so what ran here may be one of the layers further out
    ran = next((layer for layer in layers if qualname_of(layer) == step.qualname), layers[-1])
    fixed = fixed_arguments(caller.function, step.span, ran, instance, caller.instance, caller.fixed)
    inner = None if caller.names is None else Names(caller.names.model, {})
    again = decorators.rewrapped(target, _compile(ran, edits, level + 1, instance, fixed, inner), ran, name)
    return _cached(target, again) if isinstance(target, functools.cached_property) else again


def _cached(found: functools.cached_property[Any], function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What reads a cached property, computed by another function. The value stays where the property keeps it, so that
    whoever reads the property later has the same one: the second reader of a sample must not draw anew."""

    def read(instance: Any) -> Any:
        assert found.attrname is not None
        if found.attrname not in instance.__dict__:
            instance.__dict__[found.attrname] = function(instance)
        return instance.__dict__[found.attrname]

    return read


def _init_again(target: type, method: str, edits: list[Edit], level: int) -> Any:
    """A class's `__init__`, or a data class's `__post_init__`, compiled again in its decorators."""
    found = inspect.getattr_static(target, method)
    return decorators.rewrapped(found, _compile(method_function(target, method), edits, level + 1, None))


def _wrapping(edits: list[Edit], level: int) -> Callable[[type], type] | None:
    """What gives a class of the host stable arithmetic, if one of its sites has that."""
    for site, scale in edits:
        if isinstance(site, Site) and site.wrap is not None and scale is not None and len(site.calls) == level:
            return partial(_with, site.wrap, scale)
    return None


def _with(wrap: Callable[[type, Scale], type], scale: Scale, made: type) -> type:
    return wrap(made, scale)


def with_host_arithmetic(head: Head) -> Head:
    """The head with sites that change σ and nothing else."""
    return replace(head, sites=tuple(replace(s, wrap=None) if isinstance(s, Site) else s for s in head.sites))
