"""A posterior's layer that is drawn from, too, for a number of the host's own is the posterior's head.

    z_source = self.draw(self.domain(torch.zeros(1, 1)))      # one domain, by its number, which no input holds
    z_target = self.draw(self.domain(number))                 # the other one; the KL has this one

Without data it looks like a prior's draw, and no density or KL says so. A layer that is given learned inputs, and
against which a posterior is measured there, as a VampPrior is, has two roles, and is two heads.
"""

from __future__ import annotations

from vdvae_patch.scanning.evidence.group import Groups
from vdvae_patch.scanning.rules.stages import groupings


# after both others, which may give a group another role
@groupings.rule(after=["repeated_call", "part_of_whole"])
def constant_input(groups: Groups) -> None:
    """Join priors that no density shows to the posterior of the same module, where neither data nor noise reaches
    them."""
    posteriors = {group.key: group for group in groups.values() if group.role == "posterior"}
    for place, group in list(groups.items()):
        constant = not any(r.raw.node.data or r.raw.node.noise for r in group.readings)
        if group.role == "prior" and constant and not group.shown and group.key in posteriors:
            posteriors[group.key].readings.extend(group.readings)
            del groups[place]
