"""Of what a loss's KL is: of codes, of weights that all rows share, or of a prior whose place in it is exchanged.

A factor on −log σ says how often a KL counts only if it is a posterior's, and only if there is one posterior for each
row of the data. The KL of weights is that of all rows at once, divided by their number; a batch has some of them.
"""

from __future__ import annotations

from typing import Literal

from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.bound.kl_factors import LogSigmaFactor
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.scanning.evidence.uses import drawn_weights
from vdvae_patch.scanning.heads.roles import role_of


def role_of_factor(
    graph: Graph, readings: Readings, factor: LogSigmaFactor, rows: int
) -> Literal["posterior", "prior", "likelihood", "weights"]:
    """Of which law the σ is that a factor belongs to; a posterior's where that is not known.

    Args:
        rows: of the batch: a parameter of as many rows may be the posterior of each.
    """
    of_factor = (r for r in readings.found if r.node is factor.reading.node and r.term is factor.reading.term)
    first = next((r for r in of_factor if not r.parts and r.used < 0), None)
    if first is None:
        return "posterior"
    own = [r for r in readings.found if r.raw.key == first.raw.key and not r.parts and r.used < 0]
    drawn = [r.node for r in own if r.evidence == "noise"]
    raw = first.raw.node
    if raw.kind == "parameter" and drawn and (raw.shape[:1] != (rows,) or any(drawn_weights(graph, n) for n in drawn)):
        return "weights"
    role, sure = role_of(graph, readings, own)
    return role if sure else "posterior"


def not_followed(graph: Graph, readings: Readings) -> Node | None:
    """The last operation by which a posterior's σ comes to the loss in another way than by what is drawn, where no
    arithmetic leads there; None if it does not."""
    if graph.loss is None:
        return None
    drawn = {r.node.id for r in readings.found if r.evidence == "noise"} | readings.samples
    for reading in readings.found:
        if reading.evidence != "noise" or reading.parts:
            continue
        # the layer's output has the mean beside it
        own = [n for n in (reading.chain.nodes[0].inputs if reading.chain.nodes else []) if n.params]
        begin = own[0] if len(own) == 1 else reading.node
        todo, seen, opaque = [begin], {begin.id}, None
        while todo:
            for user in graph.consumers.get(todo.pop().id, ()):
                if user.id in seen or user.id in readings.samples:
                    continue
                seen.add(user.id)
                opaque = user if user.kind == "opaque" else opaque
                todo.append(user)
        if graph.loss.id in seen and opaque is not None and opaque.id not in drawn:
            return opaque
    return None
