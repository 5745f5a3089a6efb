"""What a patch must leave as it is: of all that a patched model reads through a new scale, everything must be a σ."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from vdvae_patch import composition, conventions, scales
from vdvae_patch.errors import PatchError
from vdvae_patch.heads import ChannelRange
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.readings import where
from vdvae_patch.scanning.replay import Cut, Expression, Spot

_SCALES = (os.path.dirname(os.path.abspath(scales.__file__)) + os.sep, conventions.__file__, composition.__file__)


def require_only_sigma(graph: Graph, sigma: Iterable[Spot]) -> None:
    """Compare what the patched model reads through its new scales with what it reads as σ.

    A patch of too many channels moves a mean, or whatever else the same module emits, and every σ is still right. What
    a constant scale replaces depends on no raw value any more, and is not followed: `patch` tries another one before.

    Args:
        graph: of the patched model.
        sigma: the raw values of which a σ is computed.

    Raises:
        PatchError: other channels of one of these outputs go through a scale, too.
    """
    raw = list(sigma)
    for reader, operand in _readers(graph):
        expression = Expression(Spot(operand))
        scaled = {
            key for spot in expression.order if _is_scale(spot.node) for key in expression.depends[spot.key]
        } & expression.leaves.keys()
        for leaf in (expression.leaves[key] for key in scaled):
            known = [spot for spot in raw if _origin(spot) == _origin(leaf)]
            if leaf.node.params and known and not any(_holds(spot.cuts, leaf.cuts) for spot in known):
                raise PatchError(
                    f"the scale of {_origin(leaf) or 'a head'} also changes {_text(leaf)}, which {where(reader)} reads "
                    f"and no σ is computed of ({', '.join(sorted({_text(s) for s in known}))} is); the head's channels "
                    "are too many. The patch was taken back; write a patch file whose Head names the channels"
                )


def _readers(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Operations that are no arithmetic of single elements, or join tensors, and their operands behind a scale."""
    todo = [node for node in graph.nodes if node.params and _is_scale(node)]
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
            if user not in following or user.op in ("cat", "stack"):
                yield user, node
        if not users:
            yield node, node


def _is_scale(node: Node) -> bool:
    return node.kind == "elementwise" and any(f.code.co_filename.startswith(_SCALES) for f in node.frames)


def _origin(spot: Spot) -> str | None:
    """The innermost module that computes a value; steps of one loop are the same."""
    return next((frame.path for frame in spot.node.frames if frame.path is not None), None)


def _joined(cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
    """A range of a range as one range."""
    out: list[Cut] = []
    for cut in reversed(cuts):
        if out and cut.step == out[0].step == 1 and (cut.dim, cut.size) == (out[0].dim, out[0].length):
            cut = Cut(cut.dim, out[0].start + cut.start, cut.length, out.pop(0).size)
        out.insert(0, cut)
    return tuple(out)


def _holds(whole: tuple[Cut, ...], part: tuple[Cut, ...]) -> bool:
    """Whether a part lies in a whole, both as what was cut out of one tensor, the first cut last."""
    whole, part = _joined(whole), _joined(part)
    if not whole or part[len(part) - len(whole) :] == whole:
        return True
    if len(whole) != 1 or not part or whole[0].step != 1:
        return False
    first, outer = part[-1], whole[0]
    inside = outer.start <= first.start and first.start + first.step * first.length <= outer.start + outer.length
    return (first.dim, first.size) == (outer.dim, outer.size) and inside


def _text(spot: Spot) -> str:
    if not spot.cuts:
        return "all of it"
    cuts = reversed(_joined(spot.cuts))
    return " of ".join(
        f"{ChannelRange(c.dim, c.start, c.start + c.step * c.length, c.step)} along dimension {c.dim}" for c in cuts
    )
