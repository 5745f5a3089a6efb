"""A sum over a dimension of one element is no sum.

A product of experts that is called with one expert still adds up along the dimension of the experts:

    precision = torch.stack([torch.exp(-self.a(x))]).sum(0)
    sigma = precision ** -0.5

A sum ends the way back to the raw value, as a network's pooling does; here it is the element itself.
"""

from __future__ import annotations

import math

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Spot
from vdvae_patch.scanning.rules.stages import Merged, merges


@merges.rule()
def single_expert(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Go on through a sum that has as many elements as its operand."""
    node = chain.begin.node
    if node.op != "sum" or chain.end != "raw" or math.prod(node.shape) != math.prod(node.inputs[0].shape):
        return None
    return Merged([Spot(node.inputs[0])], (*chain.steps, *suffix))
