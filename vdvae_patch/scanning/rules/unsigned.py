"""A network's output that multiplies noise and may be negative is a gain, unless a density measures it.

    gate = torch.tanh(self.gate(h))
    h = h + gate * torch.randn_like(h)

A σ is positive, and a host that knows makes it so: `F.softplus(self.net(h)) * torch.randn_like(h)` stays a head even
where nothing but the sampler reads it. A raw σ without an activation stays one if a KL or a density reads it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vdvae_patch.composition import Composition
from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops

GRID = torch.linspace(-4, 4, 33, dtype=torch.float64)
"""Raw values at which the sign is looked at. There is no tolerance: one value below zero is enough. When training
starts, raw values are of size one, so the range holds them with a factor of four to spare: exp, softplus and elu + 1
are still 0.018 at −4, far from zero in float64, while `v + 3`, positive for most raw values, is negative there."""


# after `bound`, because a reading which that rule drops must not count as a density that measures the value
@drops.rule(after=["bound"])
def unsigned(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop what multiplies noise, is nowhere else read as a scale, and is negative somewhere."""
    measured = {r.raw.key for r in found if r.evidence != "noise"}
    for reading in found:
        only_noise = reading.evidence == "noise" and reading.raw.key not in measured and not reading.parts
        steps = reading.steps
        if not only_noise or steps is None or reading.raw.node.kind == "parameter":
            continue
        if bool((Composition(steps).sigma(GRID) < 0).any()):
            reason = "it multiplies noise but may be negative, and no density or KL measures it"
            yield reading, NearMiss.at(reading.node, reason)
