"""Where in the host's text an operation was called: from recorded frames to sites and spans."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vdvae_patch.attach.sites import CallStep, LogSite, NormalSite, Site
from vdvae_patch.attach.source import Span
from vdvae_patch.conventions import Convention
from vdvae_patch.scanning.arithmetic.graph import Frame, Graph, Node
from vdvae_patch.scanning.evidence.emission import Emission
from vdvae_patch.scanning.evidence.reading import Reading
from vdvae_patch.trace import short, shown


class CannotPlaceError(Exception):
    """No expression of the host could be replaced exactly; the message says why."""


def calls_of_module(
    graph: Graph, readings: Iterable[Reading], emission: Emission, rest: Convention, outward: int = 0
) -> tuple[Site, ...]:
    """The expressions that call the module which emits the raw values of some readings, and get just its output.

    Args:
        outward: how many methods further out the calls are to be told apart by.
    """
    sites: dict[Site, None] = {}
    for node in {reading.raw.node.id: reading.raw.node for reading in readings}.values():
        returning = {emission.path, *graph.returned.get(node.id, ())}
        inside = [i for i, frame in enumerate(node.frames) if frame.path in returning]
        if not inside:
            raise CannotPlaceError("no call of its module is seen")
        sequence = [frame for frame in reversed(node.frames[inside[-1] + 1 :]) if frame.host]
        if not sequence:
            raise CannotPlaceError("its module is the model itself, which nothing of the host calls")
        span = span_of(sequence[-1])
        site = _site_in(sequence, len(sequence) - 1, span, span, -1, rest, outward=outward)
        sites[replace(site, channels=emission.channels)] = None
    return tuple(sites)


def calls_of_layer(readings: Iterable[Reading], emission: Emission, rest: Convention) -> tuple[Site, ...]:
    """The expressions in a module's own `forward` that call the layer of PyTorch which it is a subclass of."""
    sites: dict[Site, None] = {}
    for reading in readings:
        sequence = outer_first(reading.raw.node)
        if sequence[-1].path != emission.path:
            raise CannotPlaceError("the layer is not called by the module itself")
        span = span_of(sequence[-1])
        site = _site_in(sequence, len(sequence) - 1, span, span, -1, rest)
        sites[replace(site, channels=emission.channels)] = None
    return tuple(sites)


def site_of_nodes(nodes: Sequence[Node], operand: int, rest: Convention | None, parameter: str = "") -> Site:
    """The site whose first and last expressions computed the first and the last of some nodes."""
    level = common_level(nodes)
    sequence = outer_first(nodes[0])
    if level < 0 or any(len(outer_first(node)) <= level for node in nodes):
        raise CannotPlaceError("its steps are spread over functions that no common one calls")
    ends = outer_first(nodes[-1])
    first, last = span_of(sequence[level]), span_of(ends[level])
    site = _site_in(sequence, level, first, last, operand, rest, parameter)
    return replace(site, several=len(ends) > level + 1)


def site_in_call(sequence: Sequence[Frame], level: int, rest: Convention, parameter: str) -> Site:
    """The site of a parameter in the function at a level of a sequence of calls: wherever that function names it."""
    span = span_of(sequence[level])
    return _site_in(sequence, level, span, span, -3, rest, parameter)


def _site_in(
    sequence: Sequence[Frame],
    level: int,
    first: Span,
    last: Span,
    operand: int,
    rest: Convention | None,
    parameter: str = "",
    outward: int = 0,
) -> Site:
    """The site of an expression in the function at a level of a sequence of calls, outermost first."""
    methods = [i for i in range(level, -1, -1) if sequence[i].path is not None]
    if outward >= len(methods) > 0 or len({sequence[i].path for i in methods[: outward + 1]}) > 1:
        raise CannotPlaceError("its calls come from another module")
    # a base class's method, reached by super(), is entered by the method of the class itself, further out
    own = [i for i in methods if sequence[i].method]
    owner = own[outward] if len(own) > outward else None
    beside = owner is None
    if owner is None:
        owner = next((i for i in range(level + 1) if sequence[i].entry), None)
        if owner is None or outward:
            frame = sequence[level]
            raise CannotPlaceError(
                f"{short(frame.code.co_filename)}:{frame.line} is outside the model, and neither a module "
                "nor a function that was given as the call leads to it; give the call as a plain function: "
                "call=lambda model, batch: ..."
            )
    calls = []
    for index in range(owner, level):
        code = sequence[index + 1].code
        if code.co_name in COMPREHENSIONS:
            continue  # its expressions stand in the text of the function around it
        calls.append(CallStep(span_of(sequence[index]), _module_of(sequence[index + 1]), code.co_qualname))
    path, method = ("", "") if beside else (sequence[owner].path, sequence[owner].method)
    assert path is not None
    return Site(path, method, tuple(calls), first, last, operand, rest, parameter)


COMPREHENSIONS = frozenset({"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"})


def normal_sites(graph: Graph) -> tuple[NormalSite, ...]:
    """The calls at which the host makes Normals, as far as a module's method leads to them."""
    found: dict[NormalSite, None] = {}
    for seen in graph.normals:
        frames = [f for f in reversed(seen.frames) if f.host]
        owner = next(
            (i for i in range(len(frames) - 1, -1, -1) if frames[i].path is not None and frames[i].method), None
        )
        if owner is None:
            continue
        try:
            steps = steps_between(frames, owner, len(frames) - 1)
            path = frames[owner].path
            assert path is not None
            site = NormalSite(path, frames[owner].method, steps, span_of(frames[-1]))
        except CannotPlaceError:
            continue  # it stays PyTorch's own; `hazards` warns of it
        if _is_plain(site):
            found[site] = None
    return tuple(found)


def outside_sites(
    graph: Graph, logs: Iterable[tuple[Sequence[Node], Convention]]
) -> tuple[tuple[NormalSite | LogSite, ...], tuple[str, ...]]:
    """The Normals that are made outside of the model, by the function that was scanned or by what it calls, and the σ
    they are made of; and their places, as text. The sites are of that function: owner and method are empty.

    Args:
        logs: of each σ the steps from the raw value to it, and what they compute.
    """
    found: dict[NormalSite | LogSite, None] = {}
    places: dict[str, None] = {}
    for seen in graph.normals:
        frames = [f for f in reversed(seen.frames) if f.host]
        if not frames or any(f.path is not None and f.method for f in frames):
            continue
        places[f"{shown(frames[-1].code.co_filename)}:{frames[-1].line}"] = None
        start = next((i for i, f in enumerate(frames) if f.entry), None)
        if start is None:
            continue
        with contextlib.suppress(CannotPlaceError):
            steps = steps_between(frames, start, len(frames) - 1)
            site = NormalSite("", "", steps, span_of(frames[-1]))
            if _is_plain(site):
                found[site] = None
    for nodes, convention in logs if found else ():
        with contextlib.suppress(CannotPlaceError):
            level, frames = common_level(nodes), outer_first(nodes[0])
            start = next((i for i, f in enumerate(frames) if f.entry), len(frames))
            if level < start or any(f.path is not None and f.method for f in frames[: level + 1]):
                continue
            spans = span_of(frames[level]), span_of(outer_first(nodes[-1])[level])
            found[LogSite("", "", steps_between(frames, start, level), *spans, 0, convention)] = None
    return tuple(found), tuple(places)


def steps_between(frames: Sequence[Frame], start: int, stop: int) -> tuple[CallStep, ...]:
    """The calls that lead from one function to another, outermost first."""
    return tuple(
        CallStep(span_of(frames[i]), _module_of(frames[i + 1]), frames[i + 1].code.co_qualname)
        for i in range(start, stop)
    )


def _is_plain(site: NormalSite) -> bool:
    return all("<locals>" not in step.qualname and "<lambda>" not in step.qualname for step in site.calls)


def outer_first(node: Node) -> list[Frame]:
    """The lines of the host that were running, outermost first."""
    frames = [f for f in reversed(node.frames) if f.host]
    if not frames:
        raise CannotPlaceError("it is computed where no Python of the host runs")
    return frames


def common_level(nodes: Sequence[Node]) -> int:
    """The innermost function that all nodes are computed in or under."""
    sequences = [outer_first(node) for node in nodes]
    level = 0
    while all(len(s) > level for s in sequences) and len({(s[level].code, s[level].lasti) for s in sequences}) == 1:
        level += 1
    if all(len(s) > level for s in sequences) and len({s[level].code for s in sequences}) == 1:
        return level
    return level - 1


def span_of(frame: Frame) -> Span:
    """Where the expression stands that a frame was computing."""
    first, last, start, end = frame.span
    if first is None or last is None or start is None or end is None:
        raise CannotPlaceError("its code carries no positions (python -X no_debug_ranges)")
    return first, last, start, end


def _module_of(frame: Frame) -> str:
    if not frame.module:
        raise CannotPlaceError(f"{frame.code.co_filename} is no imported module")
    return frame.module
