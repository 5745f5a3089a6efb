"""What a patch must leave as it is: of all that a patched model reads through a new scale, everything must be a σ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from vdvae_patch import composition, conventions, scales
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.cuts import UNKNOWN, Cuts, lies_in
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, operands, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import examples_cut
from vdvae_patch.scanning.evidence.reading import Reading, where

_SCALES = (os.path.dirname(os.path.abspath(scales.__file__)) + os.sep, conventions.__file__, composition.__file__)


def require_only_sigma(graph: Graph, sigma: Iterable[Spot]) -> None:
    """Compare what the patched model reads through its new scales with what it reads as σ.

    If `encoder[0:4]` is patched where only channels 2 and 3 are a log σ, every σ is right, and the mean in channels 0
    and 1 has been moved. So each value that goes through a scale must be one of which a σ is computed. A constant scale
    depends on no raw value any more, so there is nothing to follow; `patch` tries another scale first.

    Args:
        graph: of the patched model.
        sigma: the raw values of which a σ is computed.

    Raises:
        PatchError: other channels of one of these outputs go through a scale, too.
    """
    of_scales: dict[str | None, list[Spot]] = {}
    for spot in sigma:
        of_scales.setdefault(_origin(spot), []).append(_of_all_examples(graph, spot))
    for reader, operand in _readers(graph):
        expression = Expression(Spot(operand))
        scaled = {
            key for spot in expression.order if is_scale(spot.node) for key in expression.depends[spot.key]
        } & expression.leaves.keys()
        for leaf in (expression.leaves[key] for key in scaled):
            known = of_scales.get(_origin(leaf), [])
            if leaf.node.params and known and not _is_held(_of_all_examples(graph, leaf), known):
                raise PatchError(
                    f"the scale of {_origin(leaf) or 'a head'} also changes {_text(leaf)}, which {where(reader)} reads "
                    f"and no σ is computed of ({', '.join(sorted({_text(s) for s in known}))} is); the head's channels "
                    "are too many. The patch was taken back; write a patch file whose Head names the channels"
                )


def read_beside(graph: Graph, path: str, raw: Spot, known: Iterable[Spot]) -> Node | None:
    """What reads the same channels of a module's output as a raw value, and otherwise than one is read: another token
    or step of time, or the result of another call of the module. None if there is none, so that its output can be
    replaced.

        h = self.encoder(tokens)
        mean, log_var = h[:, 0], h[:, 1]

    What another call gives may be a σ, too, of which no reading is known, as in a loop over time: the same lines read
    it.

    Args:
        known: all raw values.
    """
    outputs = {settle(Spot(output)).node.id: output for output in graph.outputs_of(path)}
    own = [spot for spot in known if spot.node.id in outputs]
    if outputs.keys() <= {spot.node.id for spot in own} and not any(examples_cut(graph, spot) for spot in own):
        return None
    channels = _of_all_examples(graph, raw)
    in_loss = None if graph.loss is None else _made_of(graph.loss)
    lines, others = set[_Line](), list[tuple[Node, Node]]()
    for reader, operand in _read(graph, outputs.values()):
        if in_loss is not None and reader.id not in in_loss:
            continue
        expression = Expression(Spot(operand))
        for leaf in expression.leaves.values():
            if leaf.node.id not in outputs or not _meet(_of_all_examples(graph, leaf).cuts, channels.cuts):
                continue
            direct = [spot.node for spot in expression.order if leaf in operands(expression, spot)] or [reader]
            if any(leaf.node is spot.node and lies_in(leaf.cuts, spot.cuts) for spot in own):
                lines.update(line for node in direct for line in _lines(node))
            else:
                others += [(node, reader) for node in direct]
    return next((reader for node, reader in others if lines.isdisjoint(_lines(node))), None)


_Line = tuple[tuple[object, int], ...]


def _lines(node: Node) -> Iterator[_Line]:
    """Where a value is computed: the place in the host's function, with that in the function which called it. An
    exponential is known by itself; others, such as a clamp, may be of a mean as well."""
    frames = tuple((frame.code, frame.lasti) for frame in node.frames if frame.host)
    yield frames[:2]
    if node.op in ops.EXPONENTIAL:
        yield frames[:1]


def read_by_mean(graph: Graph, readings: Iterable[Reading]) -> Node | None:
    """The layer by which a raw value has a part in the mean of its own Normal, as a feature; None if it has none. With
    a scale in its place the mean would be another.

        h = self.body(x)
        mean, sigma = self.mean(h), h.exp()
    """
    for reading in readings:
        raw = reading.raw
        todo = [mean for mean in _means_of(graph, reading) if mean.id > raw.node.id]
        seen = {mean.id for mean in todo}
        while todo:
            node = todo.pop()
            for operand in node.inputs if node.kind == "opaque" else ():
                drawn = (
                    operand.noise & ~raw.node.noise
                )  # of a draw σ is a part, and so it is of a prior's mean behind it
                leaves = Expression(Spot(operand)).leaves.values() if operand.params and not drawn else ()
                if any(leaf.node is raw.node and _meet(leaf.cuts, raw.cuts) for leaf in leaves):
                    return node
            before = [n for n in node.inputs if n.id > raw.node.id and n.id not in seen]
            seen.update(n.id for n in before)
            todo += before
    return None


def _means_of(graph: Graph, reading: Reading) -> list[Node]:
    """What a reading's Normal lies around, where a density, a KL, a Normal or a draw shows it."""
    if reading.term is not None:
        return [mean.node for mean in reading.term.means]
    given = [normal.loc for normal in graph.normals if normal.scale is reading.node]
    if given or reading.evidence != "noise":
        return given
    drawn = graph.consumers.get(reading.node.id, ())
    sums = [user for product in drawn for user in graph.consumers.get(product.id, ()) if user.op == "add"]
    return [node for user in sums for node in user.inputs if node not in drawn]


def _meet(one: Cuts, other: Cuts) -> bool:
    """Whether two parts of a tensor may have elements in common."""
    return all(
        a.dim != b.dim or UNKNOWN in (a.dim, b.dim) or not set(a.places).isdisjoint(b.places)
        for a in one
        for b in other
    )


def _made_of(end: Node) -> set[int]:
    """The numbers of all that a node is computed of, and its own."""
    todo, seen = [end], {end.id}
    while todo:
        for node in todo.pop().inputs:
            if node.id not in seen:
                seen.add(node.id)
                todo.append(node)
    return seen


_FUNCTIONS = ops.ACTIVATIONS | ops.EXPONENTIAL | ops.LIMITING
Steps = Counter[tuple[str, str]]
"""How often an operation ran, by the module in whose code it stands and by its name."""


def steps_apart(graph: Graph, raw: Iterable[Spot]) -> Steps:
    """The activations, exponentials and limits of data or parameters, in the model's own code, that no output of a
    layer with a raw value reaches, in whatever call: what a patch must leave there. Other arithmetic is not counted:
    a KL or a density has it, which is another one with a stable Normal.
    """
    begun = {spot.node.id for spot in raw}
    layers = {path for node in begun for path in graph.returned.get(node, ())}
    begun |= {node for node, paths in graph.returned.items() if not layers.isdisjoint(paths)}
    reached = set[int]()
    for node in graph.nodes:
        if node.id in begun or any(operand.id in reached for operand in node.inputs):
            reached.add(node.id)
    return Counter(
        (owner, node.op)
        for node in graph.nodes
        if node.op in _FUNCTIONS and (node.data or node.params) and node.id not in reached
        if (owner := _origin(Spot(node))) is not None
    )


def require_steps_apart(before: Steps, after: Steps) -> None:
    """Refuse a patch that took a step from what has nothing to do with a raw value.

    An activation that a loop calls behind every layer stands in one line, `x = relu(layer(x))`. Where the last layer's
    output becomes σ, that line is replaced, and with it the activations of all layers before.

    Args:
        before: of the host.
        after: of the patched model.

    Raises:
        PatchError: a step is gone; names the operation and the module.
    """
    gone = before - after
    if gone:
        (owner, op), count = next(iter(gone.items()))
        raise PatchError(
            f"the lines that were replaced also serve other values, for which the {op} of {owner or 'the model'} would "
            f"not be computed any more ({count} of {before[owner, op]}), as of an activation that several layers "
            "share; give the layer of this head an activation, or a line, of its own. The patch was taken back"
        )


def _readers(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Operations that are no arithmetic of single elements, or join tensors, and their operands behind a scale."""
    return _read(graph, (node for node in graph.nodes if node.params and is_scale(node)))


def _read(graph: Graph, begin: Iterable[Node]) -> Iterator[tuple[Node, Node]]:
    """The same behind some values."""
    todo = list(begin)
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        users = graph.consumers.get(node.id, ())
        following = [user for user in users if user.kind in ("elementwise", "shape")]
        todo.extend(following)
        for user in users:
            if user not in following or user.op in ops.JOINING:
                yield user, node
        if not users:
            yield node, node


def is_scale(node: Node) -> bool:
    """Whether a node is a step of one of this package's scales."""
    return node.kind == "elementwise" and any(f.code.co_filename.startswith(_SCALES) for f in node.frames)


def _origin(spot: Spot) -> str | None:
    """The innermost module that computes a value; steps of one loop are the same."""
    return next((frame.path for frame in spot.node.frames if frame.path is not None), None)


def _of_all_examples(graph: Graph, spot: Spot) -> Spot:
    """The channels of a part of a network's output, of all examples and steps of time."""
    examples = examples_cut(graph, spot)
    return Spot(spot.node, tuple(cut for cut in spot.cuts if cut not in examples))


def _is_held(part: Spot, known: list[Spot]) -> bool:
    """Whether a part of a tensor lies in one of some others, or in all of them together, side by side."""
    if any(lies_in(part.cuts, spot.cuts) for spot in known):
        return True
    dims = {tuple(cut.dim for cut in spot.cuts) for spot in known}
    if len(dims) != 1 or len(known[0].cuts) != 1 or known[0].cuts[0].dim == UNKNOWN:
        return False
    own = next((cut for cut in part.cuts if cut.dim == known[0].cuts[0].dim), None)
    places = set(range(known[0].cuts[0].size)) if own is None else set(own.places)
    return places <= {place for spot in known for place in spot.cuts[0].places}


def _text(spot: Spot) -> str:
    if not spot.cuts:
        return "all of it"
    return ", ".join(
        f"{ChannelRange(c.dim, c.start, c.start + c.step * c.length, c.step)} along dimension {c.dim}"
        for c in spot.cuts
    )
