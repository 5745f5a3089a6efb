"""A parameter that only scales noise belongs to a noise layer, as the generator of a GAN has it.

    h = h + self.strength * torch.randn_like(h)

No density and no KL measures the strength, so nothing says that it is the σ of a Normal over anything. A prior whose
scale is a parameter is measured by a KL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.graph import Graph
from vdvae_patch.scanning.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


# after `bound`, because a reading which that rule drops must not count as a density that measures the parameter
@drops.rule(after=["bound"])
def noise_layer(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop parameters that multiply noise and are nowhere else read as a scale."""
    measured = {r.raw.key for r in found if r.evidence != "noise"}
    for reading in found:
        only_noise = reading.evidence == "noise" and reading.raw.key not in measured and not reading.parts
        if only_noise and reading.raw.node.kind == "parameter":
            reason = "a parameter scales noise, and no density or KL measures it: a noise layer"
            yield reading, NearMiss.at(reading.node, reason)
