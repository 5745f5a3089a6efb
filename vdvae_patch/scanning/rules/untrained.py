"""A parameter that is not trained is a constant by another name.

A standard prior is often kept as a parameter, so that it moves to the GPU with the model:

    self.log_var = nn.Parameter(torch.zeros(1, 4), requires_grad=False)

There is nothing to stabilize. Nor is there in a table of them, of which `nn.Embedding` picks rows. Where no parameter
at all is trained, as in a model that was loaded for its samples, `requires_grad` says nothing and every head stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after `weight_variances`: a layer's variance is made of its weights' scales even where these are not trained
@drops.rule(after=["weight_variances"])
def untrained(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop parameters that are not trained, in a model of which others are."""
    for reading in found:
        node = reading.raw.node
        if node.op == "embedding":
            node = settle(Spot(node.inputs[0])).node
        if node.kind == "parameter" and node.name in graph.fixed:
            yield reading, NearMiss(node.name, "it is a parameter that is not trained")
