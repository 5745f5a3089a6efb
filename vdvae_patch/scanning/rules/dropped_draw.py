"""A draw of which nothing becomes has no scale that the loss knows of.

A recurrent cell that can draw, where the caller takes its mean alone:

    _, mean, _ = self.dynamics(h)       # which also returns mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    loss = (mean - x[:, t]).square().sum()

The layer of `log_var` is called, and never trained: neither what is drawn nor σ itself comes to the loss, nor to
anything else that the call gives, nor to one number that the host may keep to itself, such as another loss. Where the
same layer's draws are used elsewhere, as those of the first steps of a loop whose last one is dropped, it is a head by
these. And a draw that a network goes on from is a code, though what the network makes of it be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.expression import SpotKey
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def dropped_draw(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop scales of draws that lead to nothing that the call gives, in a call that gives a loss."""
    if graph.loss is None:
        return
    ways: dict[SpotKey, list[Reading]] = {}
    for reading in found:
        ways.setdefault(reading.raw.key, []).append(reading)
    for own in ways.values():
        if not any(r.term is not None or r.parts or _is_used(graph, r.node) for r in own):
            for reading in own:
                yield reading, NearMiss.at(reading.node, "nothing that is drawn with it here comes to the loss")


def _is_used(graph: Graph, sigma: Node) -> bool:
    """Whether a layer reads what is computed of a value, or it comes to what the call gives."""
    todo, seen = [sigma], {sigma.id}
    while todo:
        for user in graph.consumers.get(todo.pop().id, ()):
            if user.kind == "opaque" and any(n.params and not (n.data or n.noise) for n in user.inputs):
                return True
            if user.id not in seen:
                seen.add(user.id)
                todo.append(user)
    return graph.leads_out(sigma)
