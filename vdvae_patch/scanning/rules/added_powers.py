"""Precisions or variances that are added up are scales of several Normals.

A product of experts adds precisions:

    precision = torch.exp(-self.a(x)) + torch.exp(-self.b(x))
    sigma = precision ** -0.5

The standard Normal that is another expert adds one, also where the sum begins with it: `1 + exp(-a) + exp(-b)`. Each
expert is a Normal with a σ of its own, σ_a = exp(a / 2), and a head of its own. So is each term of a sum of variances,
`torch.sqrt(self.a(x).exp() + self.b(x).exp())`. A sum of raw values, `torch.exp(self.a(x) + self.b(x))`, is one scale:
a residual head.
"""

from __future__ import annotations

from collections.abc import Iterator

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot, settle
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.rules.stages import Merged, merges

_EXPERT = (
    0.1  # a precision from which on a constant is an expert, with σ up to 3.2; below it is a floor, an eps or 0.01
)
EXPONENTS = {"precisions": -0.5, "variances": 0.5}
"""σ is which power of one term. `chain.HALF` has the tolerance within which a sum counts as one of these."""


@merges.rule()
def added_powers(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a sum of precisions or variances apart into its terms."""
    exponent = EXPONENTS.get(chain.end)
    if exponent is None:
        return None
    return Merged(list(_terms(chain.begin, chain.end == "precisions")), (Step("pow", (exponent,)),))


def _terms(spot: Spot, experts: bool) -> Iterator[Spot]:
    """What is added up, also where sums are added to sums, as Python's `sum` does; of experts without what is fixed."""
    learned = [n for n in spot.node.inputs if n.params]
    for operand in (settle(Spot(n, Expression.cuts_for(spot, n))) for n in learned):
        inner = operand.node
        count = sum(n.params for n in inner.inputs)
        added = inner.op == "add" and inner.kwargs.get("alpha", 1) == 1
        if added and (count == 2 or (experts and count == 1 and _is_fixed_expert(inner))):
            yield from _terms(operand, experts)
        else:
            yield operand


def _is_fixed_expert(node: Node) -> bool:
    """Whether what is added to a precision is one, too, as that of a standard Normal, and the same for all elements.

    A floor of one expert's own precision, `softplus(a) + 1e-6`, bounds its σ, and is part of how that is computed.
    """
    others = [n for n in node.args if not (isinstance(n, Node) and n.params)]
    (other,) = others or [None]
    if isinstance(other, Node):
        return other.kind in ("constant", "buffer") and other.even and other.value >= _EXPERT
    return isinstance(other, int | float) and other >= _EXPERT
