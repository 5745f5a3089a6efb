"""A scale that is computed of a drawn value by arithmetic alone has no raw parameter that a network emits.

A walk whose steps are as large as the place that was drawn before:

    z = mean + sigma * torch.randn_like(mean)
    z = z + torch.exp(0.5 * z) * torch.randn_like(z)

`exp(0.5 z)` multiplies fresh noise, but z is `mean + sigma * noise` and no output. A network that reads z,
`self.net(z).exp()`, is another matter: there the way back ends at the network, which emits a raw parameter.
"""

from __future__ import annotations

from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Spot, settle
from vdvae_patch.scanning.evidence.reading import Readings
from vdvae_patch.scanning.rules.stages import chains


@chains.rule()
def drawn_value(chain: Chain, readings: Readings) -> str | None:
    """Refuse a chain that begins in a sum of which a term is σ ε."""
    begin = chain.begin.node
    drawn = any(settle(Spot(n)).node.id in readings.samples for n in begin.inputs)
    if drawn and (chain.end == "sum" or chain.end == "several"):
        return "it is computed of a value that is itself drawn"
    return None
