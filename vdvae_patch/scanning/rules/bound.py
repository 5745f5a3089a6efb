"""A parameter that bounds or shifts what a network emits is no head beside it.

A log variance between soft bounds that are learned:

    logvar = self.high - F.softplus(self.high - self.net(x))
    loss = ((y - mean) ** 2 * torch.exp(-logvar) + logvar).mean()

σ depends on `high` as much as on the network's output, so both are read as raw values of this density; the head is the
network's. Where a `Normal` is given `(self.net(x) + self.log_scale).exp()`, the parameter is one of two raw values that
are added up, which are one residual head; this rule leaves that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vdvae_patch.scanning.arithmetic.graph import Graph
from vdvae_patch.scanning.evidence.reading import NearMiss, Reading
from vdvae_patch.scanning.rules.stages import drops


@drops.rule()
def bound(graph: Graph, found: Sequence[Reading]) -> Iterator[tuple[Reading, NearMiss]]:
    """Drop parameters that one expression reads together with a network's output."""
    networks = {r.chain.begin.node.id for r in found if r.chain.end == "several" and r.raw.node.kind != "parameter"}
    for reading in found:
        beside = reading.chain.end == "several" and reading.chain.begin.node.id in networks
        if reading.raw.node.kind == "parameter" and beside:
            reason = f"{reading.raw.node.name} bounds or shifts a scale that a network emits"
            yield reading, NearMiss.at(reading.node, reason)
