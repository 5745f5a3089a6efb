"""Shares of a whole are no raw values: each is computed of all of its neighbours.

    q = Normal(self.mean(h), F.softmax(self.raw(h), -1) + 1e-6)

A σ that a softmax makes is a function of the whole row, whose sum is one. There is no raw value of which a scale could
take the place of it, and what a softmax gives is none: a scale of it would be another function of the same shares. The
same is true of a value over the sum, or the norm, of its row, `v.exp() / v.exp().sum(-1, keepdim=True)`, and of running
totals of what arithmetic makes positive, `F.softplus(v).cumsum(-1)`. What a layer makes of shares, as one behind
attention does, is a raw value of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after `weight_variances`, which looks for the raw values of all readings, this rule's among them
@drops.rule(after=["weight_variances"])
def shares(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop readings whose raw value, or a factor of it, is a share of several values' whole, or a total of some."""
    for reading in found:
        joined = [chain.begin.node for chain in reading.parts]
        for node in (reading.chain.begin.node, reading.raw.node, *joined):
            made = _made_of_a_row(node)
            if made:
                reason = (
                    f"σ is computed of {made}: it depends on the whole row and is no function of one raw value, so "
                    "that no scale can stand in its place. Compute σ of each raw value by itself, "
                    'vdvae_patch.scales.get("bounded(0.01, 1)").sigma(v)'
                )
                yield reading, NearMiss.at(node, reason)
                break


def _made_of_a_row(node: Node) -> str:
    """What makes each element of a value of its whole row, in words; empty if nothing does."""
    if node.op in ops.SHARING:
        return "a softmax"
    if node.op in ops.RUNNING and settle(Spot(node.inputs[0])).node.kind == "elementwise":
        return "running totals"
    if node.op == "div" and len(node.inputs) == 2:
        above, below = (Expression(Spot(n)).leaves.values() for n in node.inputs)
        own = {spot.node.id for spot in above}
        totals = [s.node for s in below if s.node.kind == "reduction" or s.node.op in ops.STATISTICS]
        if any(own & {s.node.id for s in Expression(Spot(n.inputs[0])).leaves.values()} for n in totals):
            return "values over a total of their row"
    return ""
