"""Where weights are drawn, the layer's σ is computed of theirs.

Local reparameterization draws a layer's output instead of its weights W ~ N(m, s²):

    s = F.softplus(self.rho)
    out = x @ self.m + torch.sqrt(x**2 @ s**2) * torch.randn(len(x), 6)
    kl = 0.5 * (s**2 + self.m**2 - 1) - torch.log(s)

The product `x² @ s²` looks like an output that is turned into a σ; but `rho` is the raw value of the head, and the KL
reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning import ops
from vdvae_patch.scanning.expression import Expression, Spot, settle
from vdvae_patch.scanning.graph import Graph, Node
from vdvae_patch.scanning.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after the rules that may drop the weights' own readings: without these, the product's is the only one, and stays
@drops.rule(after=["bound", "noise_layer", "unsigned"])
def weight_variances(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop a product's result whose weights are computed of raw values of other readings."""
    raws = {reading.raw.key for reading in found}
    for reading in found:
        node = reading.raw.node
        if any(key in raws for n in _computed_weights(node) for key in Expression(Spot(n)).leaves):
            yield reading, NearMiss.at(node, "it adds up variances of weights, whose scales are heads")


def _computed_weights(node: Node) -> list[Node]:
    """The operands of a layer that are made of parameters alone, by arithmetic."""
    if node.op not in ops.PRODUCTS | ops.CONVOLUTIONS:
        return []
    weights = [n for n in node.inputs if n.params and not (n.data or n.noise)]
    return [n for n in weights if settle(Spot(n)).node.kind == "elementwise"]
