"""The scale of a distribution of PyTorch's that is no Normal, or has correlations, is no σ of a Normal.

    q = LowRankMultivariateNormal(mean, factor, F.softplus(raw))       q = StudentT(5.0, mean, F.softplus(raw))
    z = q.rsample()             # mean + factor ε₁ + √softplus(raw) ε₂         # mean + softplus(raw) (ε / √(χ² / 5))

Both multiply fresh noise; but an element of the first is as wide as both parts make it, and the second is not Normal. A
`MultivariateNormal` whose `scale_tril` is a diagonal has no correlations, and its diagonal is a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def other_distributions(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop what is computed of a scale that was given to such a distribution, unless a `Normal` is given it, too."""
    given = {settle(Spot(other.scale)).node.id: other.name for other in graph.others}
    normal = {reading.raw.key for reading in found if reading.evidence == "Normal"}
    for reading in found if given else ():
        name = next((given[node] for node in _behind(reading) if node in given), None)
        if name is not None and reading.raw.key not in normal:
            yield reading, NearMiss.at(reading.node, f"it is a part of the scale of a {name}, and no σ of a Normal")


def _behind(reading: Reading) -> Iterator[int]:
    expression = Expression(reading.spot)
    yield from (spot.node.id for spot in (*expression.order, *expression.leaves.values()))
