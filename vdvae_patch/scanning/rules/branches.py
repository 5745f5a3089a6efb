"""Where a condition chooses between two scales, both are heads.

Each example takes the scale of the network for its group:

    sigma = torch.where(treated, F.softplus(self.s1(x)), F.softplus(self.s0(x)))

Where both branches read the same raw value, `torch.where(v > 20, v, torch.log1p(v.exp()))`, they are one function in
two pieces, and one head.
"""

from __future__ import annotations

from vdvae_patch.composition import Step
from vdvae_patch.scanning.arithmetic.chain import Chain
from vdvae_patch.scanning.arithmetic.expression import Expression, Spot
from vdvae_patch.scanning.arithmetic.graph import Node
from vdvae_patch.scanning.rules.stages import Merged, merges


@merges.rule()
def branches(chain: Chain, suffix: tuple[Step, ...]) -> Merged | None:
    """Take a `where` apart into its two branches, if these have no raw value in common."""
    begin, node = chain.begin, chain.begin.node
    if node.op != "where" or chain.end != "several":
        return None
    learned = [n for n in node.args[1:] if isinstance(n, Node) and n.params]
    scales = [Spot(n, Expression.cuts_for(begin, n)) for n in learned]
    raws = [key for spot in scales for key, leaf in Expression(spot).leaves.items() if leaf.node.params]
    if len(scales) != 2 or len(raws) != len(set(raws)):
        return None
    return Merged(scales, (*chain.steps, *suffix))
