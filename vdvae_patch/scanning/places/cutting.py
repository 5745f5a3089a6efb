"""Where the steps from a raw value to its σ are cut: the expression there, and what the host still does behind it."""

from __future__ import annotations

import itertools
import math
import types
from collections.abc import Sequence
from dataclasses import replace

import torch

from vdvae_patch.attach.sites import ActivationSite, Site
from vdvae_patch.composition import Step, Target, is_limited, named, undo
from vdvae_patch.conventions import Convention, Sigma
from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, operands, settle, step_through
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import examples_cut
from vdvae_patch.scanning.evidence.reading import Reading
from vdvae_patch.scanning.places.calls import (
    COMPREHENSIONS,
    CannotPlaceError,
    common_level,
    outer_first,
    site_of_nodes,
    span_of,
)


def common_cut(readings: Sequence[Reading]) -> tuple[int, Convention] | None:
    """How many nodes are passed before the readings part, with the rest undoable; and that rest. Where the next step
    alone is left, and has no slope of a small σ, it is passed, too."""
    shortest = min(len(r.chain.nodes) for r in readings)
    joined = bool(readings[0].parts) and readings[0].chain.end in ("sum", "raw") and not _is_total(readings[0].raw)
    for count in range(0 if joined else 1, shortest + 1):
        if not _is_common(readings, count):
            return None
        rests = [rest_behind(r, count) for r in readings]
        if not any(is_limited(rest) for rest in rests) and all_alike(rests):
            following = _behind_one_step(readings, count) if count else None
            return (count, rests[0]) if following is None or _has_slope(rests[0]) else (count + 1, following)
    return None


def _is_common(readings: Sequence[Reading], count: int) -> bool:
    return len({tuple(n.id for n in r.chain.nodes[:count]) for r in readings}) == 1


def _behind_one_step(readings: Sequence[Reading], count: int) -> Convention | None:
    """σ itself, if one step of one node, which all readings have, leads to it, in the function in which the node before
    it is computed; else None."""
    first = readings[0].chain
    if any(len(r.chain.nodes) != count + 1 for r in readings) or not _is_common(readings, count + 1):
        return None
    before, behind = ([(f.code, f.lasti) for f in n.frames if f.host] for n in first.nodes[count - 1 : count + 1])
    together = bool(before) and len(before) == len(behind) and before[1:] == behind[1:]  # the innermost comes first
    if not together or before[0][0] is not behind[0][0] or before[0] == behind[0]:
        return None
    rests = [rest_behind(r, count + 1) for r in readings]
    return Sigma() if len(first.by_node[count]) == 1 and all_alike([Sigma(), *rests]) else None


def _has_slope(rest: Convention) -> bool:
    """Whether the derivative of σ is a number of float32, and not 0, for σ of 10⁻¹⁷ to 10¹⁷, as that of 1/√v is not,
    which is σ³."""
    wanted = torch.logspace(-17, 17, 35)
    v = undo(rest, Target(wanted, wanted.log())).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(rest.sigma(v).sum(), v)
    return bool((slope.isfinite() & (slope != 0)).all())


def _is_total(raw: Spot) -> bool:
    """Whether a sum of raw values is added to in one expression again and again, as a loop over time or over the
    elements of a set does, or has means beside them: its expression is no place for a scale."""
    own = [(f.code, f.lasti) for f in raw.node.frames if f.host]
    again = any([(f.code, f.lasti) for f in n.frames if f.host] == own for n in raw.node.inputs if n.op == raw.node.op)
    return again or bool(raw.cuts)


def rest_behind(reading: Reading, count: int) -> Convention:
    steps: list[Step] = [step for node in reading.chain.by_node[count:] for step in node]
    return named((*steps, *reading.suffix))


def all_alike(rests: Sequence[Convention]) -> bool:
    v = torch.linspace(0.05, 3, 30, dtype=torch.float64)
    first = rests[0].sigma(v)
    if not first.isfinite().any():  # what a natural parameter is read by takes negative values only
        v = -v
        first = rests[0].sigma(v)
    for rest in rests[1:]:
        ratio = rest.sigma(v) / first
        if not torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-6):  # up to a temperature
            return False
    return True


def site_at(graph: Graph, reading: Reading, count: int, rest: Convention) -> list[Site | ActivationSite]:
    nodes = list(reading.chain.nodes[:count])
    if count == 0:
        return [site_of_nodes([reading.raw.node], -1, rest)]
    moves = [i for i in range(1, count) if not stays(nodes[i - 1], nodes[i])]
    if moves:
        return _around_moves(graph, reading, nodes, moves, rest, "elements are moved between two steps to σ")
    inside = _inside_call(graph, nodes)
    if inside:
        reason = "a function that goes on from it computes a part of σ"
        return _around_moves(graph, reading, nodes, [inside], rest, reason)
    following = reading.chain.nodes[count] if count < len(reading.chain.nodes) else None
    beside = _beside(graph, reading, nodes[-1], following)
    if beside is not None:
        return [_part_site(graph, reading, nodes, rest, beside)]
    activations = _activations(graph, nodes)
    if activations:
        return [*(ActivationSite(path, None) for path in activations[:-1]), ActivationSite(activations[-1], rest)]
    first = nodes[0]
    # of a part of a parameter the expression has a variable
    parameter = "" if reading.raw.cuts else attribute_read(reading.raw.node, first)
    if reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, first, nodes):
        return _behind_activation(graph, reading.raw.node, nodes, rest)
    if _is_cut_inside(reading, nodes):
        return _behind_activation(graph, reading.raw.node, nodes, rest)
    if any(node.inplace for node in nodes) and not _within_calls(nodes):
        return [_in_place(graph, nodes, rest, parameter)]
    return [site_of_nodes(nodes, operand_of(first), rest, parameter)]


def stays(before: Node, after: Node) -> bool:
    """Whether nothing is moved, picked or reshaped between two steps of a chain."""
    node = after.inputs[operand_of(after)] if after.inputs else before
    while node is not before:
        if node.op not in ops.COPYING | ops.BROADCASTING or not node.inputs:
            return False
        node = node.inputs[0]
    return True


def _inside_call(graph: Graph, nodes: Sequence[Node]) -> int:
    """The number of the first of some steps that is computed in a call which returns something else than the last one:
    a density that is given what was clamped, and clamps it again. 0 if there is none, or if all are in it."""
    level, ends = common_level(nodes), outer_first(nodes[-1])
    if len(ends) <= level + 1:
        return 0
    call = [(frame.code, frame.lasti) for frame in ends[: level + 1]]

    def is_inside(node: Node) -> bool:
        frames = [frame for frame in reversed(node.frames) if frame.host]
        return len(frames) > level + 1 and [(f.code, f.lasti) for f in frames[: level + 1]] == call

    users = [user for user in readers_of(graph, nodes[-1]) if not is_check(graph, user)]
    if not users or not all(map(is_inside, users)):
        return 0
    return next((i for i, node in enumerate(nodes) if is_inside(node)), 0)


def _around_moves(
    graph: Graph, reading: Reading, nodes: Sequence[Node], moves: Sequence[int], rest: Convention, reason: str
) -> list[Site | ActivationSite]:
    """For steps between which elements are moved, `(softplus(raw)[batch] + 1e-7)`, or a function is entered.

    The steps before a move let the raw value pass, so that it is moved as the host moves it, and those behind the last
    move become the scale.

    Args:
        moves: the numbers of the nodes in front of which something is moved.
        reason: what parts them, for a message.
    """
    bounds = [0, *moves, len(nodes)]
    sites: list[Site | ActivationSite] = []
    for start, stop in itertools.pairwise(bounds):
        part = list(nodes[start:stop])
        last = stop == len(nodes)
        following = None if last else nodes[stop]
        beside = _beside(graph, reading, part[-1], following)
        if beside is not None:
            sites.append(_part_site(graph, reading, part, None if not last else rest, beside))
            continue
        if following is not None and is_read_elsewhere(graph, part[-1], following):
            raise CannotPlaceError(f"{reason}, and what it has there is read in another way, too")
        sites += _segment(graph, reading, part, rest if last else None)
    return sites


def _segment(
    graph: Graph, reading: Reading, nodes: Sequence[Node], rest: Convention | None
) -> list[Site | ActivationSite]:
    """The sites of steps between which nothing is moved; without a rest they let the raw value pass."""
    activations = _activations(graph, nodes)
    if activations:
        return [*(ActivationSite(path, None) for path in activations[:-1]), ActivationSite(activations[-1], rest)]
    if any(node.inplace for node in nodes) and not _within_calls(nodes):
        raise CannotPlaceError("the host changes the raw value in place, and moves elements between two steps to σ")
    parameter = (
        "" if reading.raw.cuts or nodes[0] is not reading.chain.nodes[0] else attribute_read(reading.raw.node, nodes[0])
    )
    if reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, nodes[0], nodes):
        raise CannotPlaceError(
            "the raw value and a step to σ are computed in one call, and elements are moved behind it"
        )
    return [site_of_nodes(nodes, operand_of(nodes[0]), rest, parameter)]


def _beside(graph: Graph, reading: Reading, node: Node, following: Node | None) -> ChannelRange | None:
    """The channels of the raw value in what a step computes, if that is cut out of it later and the rest of it is used
    otherwise: `self.relu(self.fc(x)).chunk(2, 1)`."""
    spots = (s for s in Expression(reading.spot).order if s.node is node)
    cuts = next((s.cuts for s in spots), ())
    examples = examples_cut(graph, reading.raw)
    cuts = tuple(cut for cut in cuts if cut not in examples)
    if not cuts or not _is_used_in_parts(graph, node, reading.chain.nodes):
        return None
    if len(cuts) > 1 or cuts[0].dim < 0:
        raise CannotPlaceError("a step to σ computes other values, too, and which are which cannot be said by channels")
    (cut,) = cuts
    return ChannelRange(cut.dim, cut.start, min(cut.start + cut.step * cut.length, cut.size), cut.step)


def _is_used_in_parts(graph: Graph, node: Node, steps: Sequence[Node]) -> bool:
    """Whether parts are cut out of a value, as it is or behind further steps of its chain."""
    todo, found = [node], list[Node]()
    while todo:
        users = graph.consumers.get(todo.pop().id, ())
        found += [user for user in users if user.op in ops.NARROWING | ops.SELECTING or _picks_some(user)]
        todo += [user for user in users if (user.kind == "shape" and user not in found) or user in steps]
    return bool(found)


def _picks_some(node: Node) -> bool:
    """Whether an operation picks some elements of its operand, and not all in another order."""
    return node.op in ops.SHUFFLING and math.prod(node.shape) < math.prod(node.inputs[0].shape)


def _part_site(
    graph: Graph, reading: Reading, nodes: Sequence[Node], rest: Convention | None, beside: ChannelRange
) -> Site | ActivationSite:
    activations = _activations(graph, nodes)
    if len(activations) == 1:
        return ActivationSite(activations[0], rest, beside)
    if (len(nodes) > 1 and any(node.inplace for node in nodes) and not _within_calls(nodes)) or (
        reading.raw.node.kind != "parameter" and _same_expression(reading.raw.node, nodes[0], nodes)
    ):
        raise CannotPlaceError(
            "a step to σ computes other values, too, in one call with the layer or in place; move it behind the split"
        )
    parameter = attribute_read(reading.raw.node, nodes[0]) if nodes[0] is reading.chain.nodes[0] else ""
    return replace(site_of_nodes(nodes, operand_of(nodes[0]), rest, parameter), beside=beside)


def _is_cut_inside(reading: Reading, nodes: Sequence[Node]) -> bool:
    """Whether the call that computes the first node cuts the raw value out itself, so that its operand is more."""
    level, sequence = common_level(nodes), outer_first(nodes[0])
    if len(sequence) <= level + 1:
        return False
    spot = Spot(nodes[0].inputs[operand_of(nodes[0])], ()) if nodes[0].inputs else None
    while spot is not None and spot.node is not reading.raw.node:
        frames = [frame for frame in reversed(spot.node.frames) if frame.host]
        back = step_through(spot)
        if back is not None and back.cuts != spot.cuts and frames[: level + 1] == sequence[: level + 1]:
            return True
        spot = back
    return False


def operand_of(node: Node) -> int:
    return next((i for i, a in enumerate(node.args) if isinstance(a, Node) and a.params), 0)


def _behind_activation(graph: Graph, raw: Node, nodes: Sequence[Node], rest: Convention) -> list[Site | ActivationSite]:
    """For a layer and activations in one call, and further steps of the host behind it: a floor after a Sequential.

    The activations let the raw parameter pass, and the host's steps become the scale.
    """
    for count in range(len(nodes) - 1, 0, -1):
        activations, behind = _activations(graph, nodes[:count]), nodes[count:]
        if not activations or _same_expression(raw, behind[0], behind):
            continue
        if is_read_elsewhere(graph, nodes[count - 1], behind[0]):
            raise CannotPlaceError(f"what {activations[-1]} returns is used in another way, too")
        passing = [ActivationSite(path, None) for path in activations]
        return [*passing, site_of_nodes(behind, operand_of(behind[0]), rest)]
    own = next((n.frames[0] for n in nodes if n.frames and not n.frames[0].host and n.frames[0].path), None)
    calls = [n for n in graph.nodes if own is not None and n.frames and n.frames[0].path == own.path]
    if own is not None and _serves_several([n for n in calls if n.op == nodes[0].op]):
        raise CannotPlaceError(
            f"{own.path} is one module for several layers, and the layer and it are computed in one call, which holds "
            "no expression to replace; give this layer an activation of its own"
        )
    raise CannotPlaceError("the raw value and the scale are computed in one call, which holds no expression to replace")


def _in_place(graph: Graph, nodes: Sequence[Node], rest: Convention, parameter: str) -> Site:
    """For steps that overwrite their operand: those before the last are left out, so that it holds the raw value."""
    start = next(i for i, node in enumerate(nodes) if node.inplace)
    for node, following in zip(nodes[start:-1], nodes[start + 1 :], strict=True):
        if is_read_elsewhere(graph, node, following):
            frame = node.host_frame()
            line = "" if frame is None else f" (line {frame.line})"
            raise CannotPlaceError(f"the host changes the raw value in place{line} and reads it on the way")
    # what is left out leaves the raw value where the first step that makes something new finds it
    first = nodes[0] if start else next((node for node in nodes if not node.inplace), nodes[-1])
    whole = site_of_nodes([first, nodes[-1]], operand_of(first), rest, parameter)
    level = common_level([first, *nodes[start:]])
    if level != common_level([first, nodes[-1]]):
        raise CannotPlaceError("the host changes the raw value in place in several functions")
    drops = tuple(span_of(outer_first(node)[level]) for node in nodes[start:-1] if node.inplace)
    return replace(whole, drops=drops, inplace=nodes[-1].inplace)


def _within_calls(nodes: Sequence[Node]) -> bool:
    """Whether all in-place steps are hidden in calls of functions, and change what these made themselves."""
    level = common_level([nodes[0], nodes[-1]])
    spans = [(frames[level].code, frames[level].lasti) for frames in map(outer_first, nodes)]
    hidden = [
        len(outer_first(node)) > level + 1 or spans.count(spans[i]) > 1 for i, node in enumerate(nodes) if node.inplace
    ]
    if nodes[0].inplace and hidden[0] and spans[0] != spans[-1]:
        raise CannotPlaceError("a function that the host calls changes the raw value in place")
    return all(hidden)


def is_read_elsewhere(graph: Graph, node: Node, following: Node) -> bool:
    """Whether anything but the next step reads a node, moved around or not."""
    todo = list(graph.consumers.get(node.id, ()))
    seen: set[int] = set()
    while todo:
        user = todo.pop()
        if user is following or user.id in seen:
            continue
        seen.add(user.id)
        if user.kind == "shape":
            todo.extend(graph.consumers.get(user.id, ()))
        elif any(isinstance(a, Node) and _comes_from(settle(Spot(a)).node, node) for a in user.args):
            return True  # and not only what was joined with it, and parted from it again
    return False


def _comes_from(node: Node, source: Node) -> bool:
    """Whether a value is another one, or has it in it, moved around or not."""
    todo, seen = [node], set[int]()
    while todo:
        node = todo.pop()
        if node is source:
            return True
        if node.kind == "shape" and node.id not in seen:
            seen.add(node.id)
            todo += node.inputs
    return False


def whole_expression(reading: Reading) -> Site:
    node = reading.chain.nodes[-1] if reading.chain.nodes else reading.node
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    whole = site_of_nodes([node], -2, named(reading.suffix))
    apart = next((n for n in _readers_within(reading) if not _is_within(n, node)), None)
    if apart is not None:
        raise CannotPlaceError(f"{apart.op}, a step to σ without an inverse, stands in another expression than σ")
    return whole


def _readers_within(reading: Reading) -> list[Node]:
    """What reads the raw value in the expression of σ."""
    expression = Expression(reading.spot)
    return [s.node for s in expression.order if reading.raw.key in [o.key for o in operands(expression, s)]]


def _is_within(inner: Node, outer: Node) -> bool:
    """Whether one node is computed in the very expression that computes another one."""
    level = common_level([inner, outer])
    first, last, start, stop = span_of(outer_first(outer)[level])
    a, b, left, right = span_of(outer_first(inner)[level])
    return (first, start) <= (a, left) and (b, right) <= (last, stop)


def _activations(graph: Graph, nodes: Sequence[Node]) -> list[str]:
    """The activations, one behind the other, that compute the nodes and nothing else; empty if others have a part."""
    found = []
    for _, own in itertools.groupby(nodes, key=lambda node: node.frames[0].path if node.frames else None):
        path = activation_of(graph, list(own))
        if path is None:
            return []
        found.append(path)
    return found


def activation_of(graph: Graph, nodes: Sequence[Node]) -> str | None:
    """The parameterless module of PyTorch's own that computes the nodes and nothing else."""
    frames = [n.frames[0] if n.frames else None for n in nodes]
    first = frames[0]
    if first is None or first.host or first.path is None or any(f is None or f.path != first.path for f in frames):
        return None
    own = {"detach", *(n.op for n in nodes)}  # autograd detaches a result that it keeps
    others = [n for n in graph.nodes if n.frames and n.frames[0].path == first.path and n.op not in own]
    calls = [n for n in graph.nodes if n.frames and n.frames[0].path == first.path and n.op == nodes[-1].op]
    lines = {tuple((f.code, f.lasti) for f in n.frames[1:2]) for n in calls}
    return first.path if not others and len(lines) == 1 and not _serves_several(calls) else None


def _serves_several(calls: Sequence[Node]) -> bool:
    """Whether an activation is called in one line, a `Sequential`'s, behind several layers."""
    layers = [settle(Spot(node.inputs[operand_of(node)])).node for node in calls if node.inputs]
    return len({frame.path for layer in layers for frame in layer.frames[:1]}) > 1


def _same_expression(raw: Node, first: Node, nodes: Sequence[Node]) -> bool:
    if raw.kind == "parameter":
        return False
    level = common_level(nodes)
    sequence, other = outer_first(first), outer_first(raw)
    return len(other) > level and other[: level + 1] == sequence[: level + 1]


def goes_through(reading: Reading, node: Node) -> bool:
    """Whether a density or a KL reads a raw value through one node only, and nowhere else."""
    if reading.term is None:
        return True
    stops = reading.sums | {node.id, reading.raw.node.id}  # the raw value may be a mean
    through = Expression(Spot(reading.term.total), stops, through_sums=True)
    return reading.raw.key not in through.leaves


def names_in(code: types.CodeType) -> set[str]:
    """The names that a function's text reads, in the comprehensions in it, too, which run as functions of their own."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name in COMPREHENSIONS)
    return set(code.co_names).union(*map(names_in, inner))


def readers_of(graph: Graph, raw: Node) -> list[Node]:
    """What reads a node, moved around or not."""
    todo, found = list(graph.consumers.get(raw.id, ())), dict[int, Node]()
    while todo:
        user = todo.pop()
        if user.kind == "shape":
            todo.extend(graph.consumers.get(user.id, ()))
        else:
            found[user.id] = user
    return list(found.values())


def is_check(graph: Graph, node: Node) -> bool:
    """Whether a value is compared and nothing chosen by it, as a `Normal` compares its scale with zero."""
    return node.op in ops.COMPARING and all(ops.kind_of(u.op) == "discrete" for u in graph.consumers.get(node.id, ()))


def attribute_read(raw: Node, first: Node) -> str:
    """The parameter's name in the model, if the function that reads it names it; empty for what it is given."""
    name = raw.name.rpartition(".")[2] if raw.kind == "parameter" else ""
    frames = outer_first(first) if name else []
    return raw.name if frames and name in names_in(frames[common_level([first])].code) else ""
