"""A prior that is the posterior's own module on learned inputs (VampPrior) is the posterior's head.

    q = self.encode(x)
    p = self.encode(self.pseudo_inputs)

One module emits both scales, so one patch of it serves both: a head of its own for the prior would patch it twice. A
module that is called on data, or on draws, for both roles keeps two heads, each at its own calls.
"""

from __future__ import annotations

from vdvae_patch.scanning.group import Groups
from vdvae_patch.scanning.rules.stages import groupings


# after both others, which may give a group another role
@groupings.rule(after=["repeated_call", "part_of_whole"])
def vamp_prior(groups: Groups) -> None:
    """Remove priors that the module of a posterior emits where neither data nor noise reaches it."""
    posteriors = {group.key for group in groups.values() if group.role == "posterior"}
    for place, group in list(groups.items()):
        learned_input = not any(r.raw.node.data or r.raw.node.noise for r in group.readings)
        if group.role == "prior" and learned_input and group.key in posteriors:
            del groups[place]
