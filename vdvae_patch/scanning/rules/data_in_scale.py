"""A scale to which data are added on the way from what a network emits is no function of the raw value alone.

    log_sigma = x + F.relu(self.net(x))

σ is another function of the network's output for each element of x. One of these elements, taken for a constant of the
host's, would give a convention that holds for this element of this batch only. A mask of zeros and ones is no such
addend, and neither is a single number, such as a temperature or a step of time that all share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Expression
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.gaussian import adds_data
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def data_in_scale(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop the readings of a raw value to which the host adds data before it makes σ of the sum."""
    mixed = {r.raw.key: node for r in found for node in _inside(r) if _adds_data(node)}
    for reading in found:
        node = mixed.get(reading.raw.key)
        if node is not None:
            reason = "data are added to what the network emits, and σ is computed of the sum: no function of one value"
            yield reading, NearMiss.at(node, reason)


def _inside(reading: Reading) -> Iterator[Node]:
    """What is computed between the raw value and σ."""
    yield from reading.chain.nodes
    if reading.steps is None:
        yield from (spot.node for spot in Expression(reading.spot).order)


def _adds_data(node: Node) -> bool:
    return node.op in ops.ADDING and any(adds_data(operand) for operand in node.inputs)
