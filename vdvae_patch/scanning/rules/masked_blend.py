"""A sum of two scales, each times a mask, chooses between them, as a condition does.

    sigma = (1 - t) * F.softplus(self.s0(x)) + t * F.softplus(self.s1(x))

With t of zeros and ones each element has the scale of one of two networks, and both are heads. A sum of two scales
without masks, or with numbers for weights, is one scale: a residual head.
"""

from __future__ import annotations

import math

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.rules.stages import Merged, merges


@merges.rule()
def masked_blend(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a sum apart into what is multiplied by masks, if both of its terms are."""
    begin = chain.begin
    if begin.node.op != "add" or chain.end != "sum":
        return None
    terms = [_masked(Spot(n, Expression.cuts_for(begin, n))) for n in begin.node.inputs if n.params]
    known = [spot for spot in terms if spot is not None]
    return Merged(known, (*chain.steps, *suffix)) if len(known) == 2 else None


def _masked(spot: Spot) -> Spot | None:
    """What is multiplied by a tensor that no network computes; None if there is no such factor."""
    spot = settle(spot)
    if spot.node.op != "mul" or len(spot.node.inputs) != 2:
        return None
    learned = [n for n in spot.node.inputs if n.params]
    masks = [n for n in spot.node.inputs if not n.params and not n.noise and math.prod(n.shape) > 1]
    return Spot(learned[0], Expression.cuts_for(spot, learned[0])) if len(learned) == len(masks) == 1 else None
