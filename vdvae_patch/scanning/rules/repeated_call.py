"""Of a loop whose KL shows one step, the other steps have the role of that one.

    for step in x.unbind(1):
        p = self.prior(z)          # at the first step z is zero, at the others it is drawn
        samples.append(p.rsample())
    kl = kl_divergence(q, p)       # of the last step, or of all steps stacked, of which one is read

Nothing but a sampler reads the other steps, so their role is a guess from what reaches them. The lines are the same, so
they are the same head. So is a prior that the loss compares in one pass, and that another pass draws from by other
lines, if the module gets the same in both: data, or draws. And a first state that is drawn from the prior's layer, of
what the first observation gives, is called a posterior's only because it sees data; the KL knows better. Nor is a
policy a posterior because it acts by other lines than those that take the density of an action; and
what is dreamt with the scale of a likelihood is no prior's.
"""

from __future__ import annotations

from vdvae_patch.scanning.evidence.group import Group, Groups
from vdvae_patch.scanning.rules.stages import groupings


@groupings.rule()
def repeated_call(groups: Groups) -> None:
    """Join a group that no density shows to that of the same output, computed by the same lines, that one shows."""
    for place, group in list(groups.items()):
        if group.shown:
            continue
        frames = {reading.raw.node.frames for reading in group.readings}
        others = [g for (key, _), g in groups.items() if key == place[0] and g is not group and g.shown]
        same = [g for g in others if frames <= {reading.raw.node.frames for reading in g.readings}]
        same = same or [g for g in others if _sees_as_much(group, g) or (group.role, g.role) in _KNOWN_BETTER]
        if len(others) == len(same) == 1:
            same[0].readings.extend(group.readings)
            del groups[place]


_KNOWN_BETTER = {("posterior", "prior"), ("posterior", "likelihood"), ("prior", "likelihood")}
"""The role that was guessed, and the one that a KL or a density shows."""


def _sees_as_much(group: Group, shown: Group) -> bool:
    """Whether a module is given data where a density shows it to be given data, and draws where it is given draws."""
    own, other = ({(r.raw.node.data, bool(r.raw.node.noise)) for r in g.readings} for g in (group, shown))
    return own <= other
