"""Outputs in which mean and raw value lie behind each other along the first dimension.

The first dimension holds examples, or steps of time, and what is cut out along it is no channel: `self.net(h)[-1]` is
the last step of all channels. But a sequence encoder may put out a token for the mean and one for the raw value, and a
network that is given features in rows, a mean and a raw value in rows:

    tokens = self.encoder(torch.cat([self.queries, x]))        mean, log_var = (self.weight @ x).chunk(2, 0)
    mean, log_var = tokens[0], tokens[1]

They are told by the mean: it is another part of the same output, along the same dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vdvae_patch.scanning.arithmetic.cuts import Cuts
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import Reading, Readings


def stacked_outputs(graph: Graph, readings: Readings) -> frozenset[int]:
    """The numbers of the nodes of which a mean and a raw value are two parts along the first dimension."""
    return frozenset(
        reading.raw.node.id
        for reading in readings.found
        if _is_of_rows(reading.raw) and any(_is_beside(reading.raw, mean) for mean in _means(graph, readings, reading))
    )


def _is_of_rows(spot: Spot) -> bool:
    return len(spot.node.shape) > 1 and bool(spot.cuts) and all(cut.dim == 0 for cut in spot.cuts)


def _is_beside(raw: Spot, mean: Spot) -> bool:
    """Whether a mean is computed of other rows of the raw value's node, and of none that hold the raw value."""
    parts = [leaf for leaf in Expression(mean).leaves.values() if leaf.node is raw.node]
    return bool(parts) and all(_is_of_rows(part) and _are_apart(part.cuts, raw.cuts) for part in parts)


def _are_apart(one: Cuts, other: Cuts) -> bool:
    return not set(one[0].places) & set(other[0].places)


def _means(graph: Graph, readings: Readings, reading: Reading) -> Iterator[Spot]:
    """The means of the Normals whose σ a reading is."""
    if reading.term is not None:
        yield from reading.term.means
    sigma = reading.node.id if reading.used < 0 else reading.used
    yield from (Spot(normal.loc) for normal in graph.normals if normal.scale.id == sigma)
    for product in graph.consumers.get(sigma, ()):
        if product.id in readings.samples:
            yield from map(Spot, added_to(graph, product))


def added_to(graph: Graph, product: Node) -> Iterable[Node]:
    """What σ ε is added to."""
    if product.op == "addcmul":
        yield from (n for n in product.inputs[:1] if n.params)
    for user in graph.consumers.get(product.id, ()):
        if user.kind == "elementwise":
            yield from (n for n in user.inputs if n is not product and n.params)
