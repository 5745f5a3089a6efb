"""Precisions or variances that are added up are scales of several Normals.

A product of experts adds precisions:

    precision = torch.exp(-self.a(x)) + torch.exp(-self.b(x))
    sigma = precision ** -0.5

The standard Normal that is another expert adds one. Each expert is a Normal with a σ of its own, σ_a = exp(a / 2), and
a head of its own. So is each term of a sum of variances, `torch.sqrt(self.a(x).exp() + self.b(x).exp())`. A sum of raw
values, `torch.exp(self.a(x) + self.b(x))`, is one scale: a residual head.
"""

from __future__ import annotations

from collections.abc import Iterator

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.rules.stages import Merged, merges

EXPONENTS = {"precisions": -0.5, "variances": 0.5}
"""σ is which power of one term. `chain.HALF` has the tolerance within which a sum counts as one of these."""


@merges.rule()
def added_powers(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a sum of precisions or variances apart into its terms."""
    exponent = EXPONENTS.get(chain.end)
    if exponent is None:
        return None
    return Merged(list(_terms(chain.begin)), (Step("pow", (exponent,)),))


def _terms(spot: Spot) -> Iterator[Spot]:
    """What is added up, also where sums are added to sums, as Python's `sum` does."""
    learned = [n for n in spot.node.inputs if n.params]
    for operand in (settle(Spot(n, Expression.cuts_for(spot, n))) for n in learned):
        inner = operand.node
        if inner.op == "add" and sum(n.params for n in inner.inputs) == 2 and inner.kwargs.get("alpha", 1) == 1:
            yield from _terms(operand)
        else:
            yield operand
