"""Precisions or variances that are added up are scales of several Normals.

A product of experts adds precisions:

    precision = torch.exp(-self.a(x)) + torch.exp(-self.b(x))
    sigma = precision ** -0.5

Each expert is a Normal with a σ of its own, σ_a = exp(a / 2), and a head of its own. So is each term of a sum of
variances, `torch.sqrt(self.a(x).exp() + self.b(x).exp())`. A sum of raw values, `torch.exp(self.a(x) + self.b(x))`, is
one scale: a residual head.
"""

from __future__ import annotations

from vdvae_patch.composition import Step
from vdvae_patch.scanning.chain import Chain
from vdvae_patch.scanning.expression import Expression, Spot
from vdvae_patch.scanning.rules.stages import Merged, merges

EXPONENTS = {"precisions": -0.5, "variances": 0.5}
"""σ is which power of one term. `chain.HALF` has the tolerance within which a sum counts as one of these."""


@merges.rule()
def added_powers(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a sum of precisions or variances apart into its terms."""
    exponent = EXPONENTS.get(chain.end)
    if exponent is None:
        return None
    learned = [n for n in chain.begin.node.inputs if n.params]
    scales = [Spot(n, Expression.cuts_for(chain.begin, n)) for n in learned]
    return Merged(scales, (Step("pow", (exponent,)),))
