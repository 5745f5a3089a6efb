"""The correlation of two drawn values multiplies noise, and is no σ.

    x = mean_x + sigma_x * e1
    y = mean_y + sigma_y * (rho * e1 + torch.sqrt(1 - rho**2) * e2)
    loss = -log_density(x_data, y_data, mean_x, mean_y, sigma_x, sigma_y, rho)

√(1 − ρ²) is positive and multiplies fresh noise as a σ does; but the density shows that it moves the correlation, and
neither deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def correlation(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop what only multiplies noise, and is read as a correlation by a density of the same call."""
    known = {spot.key for reading in found if reading.term is not None for spot in reading.term.correlation}
    for reading in found if known else ():
        if reading.term is None and reading.raw.key in known:
            yield reading, NearMiss.at(reading.node, "it is computed of the correlation of two values, and is no σ")
