"""The role of a head: whether its σ is a posterior's, a prior's or a likelihood's.

A KL or a density says it; where neither was run, it is guessed from what reaches the raw value. On the way from the
data to a draw, as in `self.encoder(x)`, it is a posterior's; behind a draw that nothing goes on from, as in
`self.decoder(z)`, a likelihood's if it has the size of the data; else a prior's.
"""

from __future__ import annotations

import math

from vdvae_patch.heads import Role
from vdvae_patch.scanning.expression import Spot
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.reading import Reading, Readings


def role_of(graph: Graph, readings: Readings, found: list[Reading]) -> tuple[Role, bool]:
    """The role of one raw value, and whether a density or a KL says so.

    Args:
        readings: all of the graph; their `samples` are what was drawn.
        found: those of this raw value.
    """
    places = {r.evidence for r in found}
    if "q" in places:
        return "posterior", True
    own = {r.node.id if r.used < 0 else r.used for r in found if r.evidence == "noise"}
    roles = [_role_in_density(readings, r, own) for r in found if r.term is not None and r.evidence == "p"]
    if roles:
        return ("posterior" if "posterior" in roles else roles[0]), True
    raw, sampled = found[0].raw, "noise" in places
    if raw.node.noise and not (sampled and _sample_is_used(graph, readings, own)):
        return ("likelihood" if _has_size_of_data(graph, raw) else "prior"), False
    if not sampled and _has_size_of_data(graph, raw):
        return "likelihood", False  # a Normal that is made of the data, and never drawn from
    return ("posterior" if raw.node.data else "prior"), "Normal" in places


def _role_in_density(readings: Readings, reading: Reading, own: set[int]) -> Role:
    """The role of a σ that stands in a density, or second in a KL.

    Args:
        own: the scales by which this raw value's own noise is multiplied.
    """
    assert reading.term is not None
    samples = [mean for mean in reading.term.means if mean.node.id in readings.samples]
    if any(n.id in own for sample in samples for n in sample.node.inputs):
        return "posterior"  # log q(z) of a z that was drawn from q: the Monte Carlo form of a KL
    totals = [r.term.total for r in readings.found if r.evidence == "q" and r.term is not None]
    if samples or any(total is reading.term.total for total in totals):
        return "prior"  # log p(z) of a z that was drawn, or second in a KL
    networks = {mean.node.id for mean in reading.term.means if mean.node.params}
    return "prior" if len(networks) > 1 else "likelihood"


def _has_size_of_data(graph: Graph, raw: Spot) -> bool:
    size = math.prod(shape_of(raw))
    return any(n.kind == "input" and math.prod(n.shape) == size for n in graph.nodes)


def shape_of(spot: Spot) -> tuple[int, ...]:
    """The shape of what is cut out of a node."""
    kept = {cut.dim: cut.length for cut in spot.cuts}
    return tuple(kept.get(dim, size) for dim, size in enumerate(spot.node.shape))


def _sample_is_used(graph: Graph, readings: Readings, own: set[int]) -> bool:
    """Whether a network goes on from what was drawn with one of these scales."""
    products = (node for node in graph.nodes if node.id in readings.samples)
    todo = [node for node in products if any(n.id in own for n in node.inputs)]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        if node.kind == "opaque" and any(_is_weight(n) for n in node.inputs):
            return True
        todo.extend(graph.consumers.get(node.id, ()))
    return False


def _is_weight(node: Node) -> bool:
    """Whether a value is a parameter, as it is or with its dimensions moved, as a Linear's weight is."""
    while node.kind == "shape" and node.inputs:
        node = node.inputs[0]
    return node.kind == "parameter"
