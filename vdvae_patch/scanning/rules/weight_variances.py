"""Where weights are drawn, the layer's σ is computed of theirs.

Local reparameterization draws a layer's output instead of its weights W ~ N(m, s²):

    s = F.softplus(self.rho)
    out = x @ self.m + torch.sqrt(x**2 @ s**2) * torch.randn(len(x), 6)
    kl = 0.5 * (s**2 + self.m**2 - 1) - torch.log(s)

The product `x² @ s²` looks like an output that is turned into a σ; but `rho` is the raw value of the head, and the KL
reads it. Where no known KL does, as with a fit to the KL of a log uniform prior, the root of such a sum of squares
times positive weights is refused all the same: it is the variance of an activation, and no network's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.chain import descend
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph, Node
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after the rules that may drop the weights' own readings: without these, the product's is the only one, and stays
@drops.rule(after=["bound", "noise_layer", "unsigned"])
def weight_variances(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop a product's result whose weights are computed of raw values of other readings, or are variances."""
    raws = {reading.raw.key for reading in found}
    shown = {reading.raw.key for reading in found if reading.term is not None}
    for reading in found:
        node = reading.raw.node
        if _is_variance_of_sum(reading) and reading.raw.key not in shown:  # a KL that reads the product makes it a head
            reason = "it adds up variances of weights, the variance of an activation, and no network emits it"
            yield reading, NearMiss.at(node, reason)
        elif any(key in raws for n in _computed_weights(node) for key in Expression(Spot(n)).leaves):
            yield reading, NearMiss.at(node, "it adds up variances of weights, whose scales are heads")


def _is_variance_of_sum(reading: Reading) -> bool:
    """Whether noise alone is multiplied by √(x² @ s²), or √(x² @ s² + ε), with s² computed of parameters."""
    if reading.evidence != "noise" or not reading.chain.steps or not _computed_weights(reading.raw.node):
        return False
    squared = [n for n in reading.raw.node.inputs if _is_square(settle(Spot(n)).node)]
    return bool(squared) and reading.chain.steps[-1] == Step("pow", (0.5,))


def variances_of_weights(before: Sequence[Reading], found: Sequence[Reading]) -> list[Reading]:
    """Where such a product reads variances of weights whose scales are known from a density or a KL: what is drawn with
    is a σ of theirs, too, though noise is multiplied by none of them.

    Args:
        before: with the readings of such products.
        found: without them.
    """
    known = {reading.raw.node.id for reading in found if reading.term is not None}
    weights = [n for r in before if _is_variance_of_sum(r) for n in _computed_weights(r.raw.node)]
    read = []
    for spot in {spot.key: spot for spot in (settle(Spot(weight)) for weight in weights)}.values():
        chain = descend(spot)
        if chain.end == "raw" and chain.begin.node.id in known:
            read.append(Reading(chain.begin, chain, (Step("pow", (0.5,)),), "noise", spot.node, cuts=spot.cuts))
    return read


def _is_square(node: Node) -> bool:
    if node.op == "pow":
        return len(node.args) > 1 and node.args[1] == 2
    return node.op == "square" or (node.op == "mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1])


def _computed_weights(node: Node) -> list[Node]:
    """The operands of a layer that are made of parameters alone, by arithmetic."""
    if node.op not in ops.PRODUCTS | ops.CONVOLUTIONS:
        return []
    weights = [n for n in node.inputs if n.params and not (n.data or n.noise)]
    return [n for n in weights if settle(Spot(n)).node.kind == "elementwise"]
