"""A scale to which no gradient of the loss comes, and of which only a density is taken that teaches nothing, is none.

A decoder's law that is cut off where its density is taken, so that the density is a number in the loss:

    mean, log_var = self.law(h)
    log_p = -0.5 * (log_var.detach() + (x - mean.detach()) ** 2 / log_var.detach().exp())

or weights that are drawn and used nowhere, whose densities leave the graph as numbers, `log_q.item()`. The layer, or
the parameter, is never trained. A teacher's law is another matter, since the KL to it trains the student; so is that of
a network which runs without gradients from the start, such as the policy that has acted before; and so is what is drawn
and goes on, as a code or an action, without a gradient: the loss is then made of its draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.emission import Emission, emission_of
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def untaught(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop the readings of what one module emits, if the loss neither trains it nor is made of what it draws."""
    if not graph.learns or all(r.raw.node.id in graph.taught for r in found):
        return
    by_emission: dict[Emission, list[Reading]] = {}
    for reading in found:
        by_emission.setdefault(emission_of(graph, reading.raw), []).append(reading)
    for own in by_emission.values():
        totals = {r.term.total.id for r in own if r.term is not None}
        taught = any(r.raw.node.id in graph.taught for r in own) or bool(totals & graph.taught)
        if taught or not totals or any(r.parts or not _runs_with_gradients(r.raw.node) for r in own):
            continue
        if not any(_goes_on(graph, r.node, totals) for r in own):
            for reading in own:
                reason = "no gradient of the loss comes to it, and nothing that is drawn with it is used"
                yield reading, NearMiss.at(reading.node, reason)


def _runs_with_gradients(raw: Node) -> bool:
    return raw.kind == "parameter" or any(n.params and n.id not in raw.cut for n in raw.inputs)


def _goes_on(graph: Graph, sigma: Node, totals: set[int]) -> bool:
    """Whether what is computed of σ comes to the loss, or to more than a number that the call gives, by another way
    than the densities that it is in."""
    todo, seen = [sigma], {sigma.id, *totals}
    while todo:
        node = todo.pop()
        if node is graph.loss or (node.id in graph.given and node.shape != () and node.id not in totals):
            return True
        for user in graph.consumers.get(node.id, ()):
            if user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return False
