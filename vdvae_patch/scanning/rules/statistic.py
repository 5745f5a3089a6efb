"""A mean over values that the host computes is no network's output.

A calibrated decoder takes the root of the mean squared residual as its σ:

    log_sigma = ((x - x_hat) ** 2).mean([0, 1], keepdim=True).sqrt().log()
    nll = 0.5 * ((x - x_hat) / log_sigma.exp()) ** 2 + log_sigma

There is no raw parameter to give another scale. Nor is there where noise is given the standard deviation of a batch,
`Normal(0, u.std(0))`. A mean over what a layer puts out, `self.net(x).mean(1)`, is a pooled
output, and stays; so does one with weights, `(self.net(x) * mask).mean(1)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic import ops
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.arithmetic.pooling import is_pool
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after `weight_variances`, which looks for the raw values of all readings, this rule's among them
@drops.rule(after=["weight_variances"])
def statistic(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop readings whose raw value is a standard deviation, or a sum or a mean over the results of arithmetic."""
    for reading in found:
        node = reading.raw.node
        source = settle(Spot(node.inputs[0])).node if node.kind == "reduction" and node.inputs else None
        computed = source is not None and source.kind == "elementwise" and not is_pool(node)
        if node.op in ops.STATISTICS or computed:
            reason = "it is a statistic of values that the host computes, and no network's output"
            yield reading, NearMiss.at(node, reason)
