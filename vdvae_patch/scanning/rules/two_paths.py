"""A diffusion that moves two paths is one head.

    for _ in range(steps):
        z = z + self.drift(z, x) * dt + self.diffusion(z) * dt**0.5 * torch.randn_like(z)      # posterior
        y = y + self.prior_drift(y) * dt + self.diffusion(y) * dt**0.5 * torch.randn_like(y)   # prior, to look at

A stochastic differential equation has one diffusion for posterior and prior, or their KL would be infinite: what is
compared is the drift. So a network whose σ moves a state on and on, behind data in one loop and without any in another,
has one role, and neither a density nor a KL is to be seen of it. Two calls that are no loops may well be of two roles.
"""

from __future__ import annotations

from vdvae_patch.scanning.evidence.group import Group, Groups
from vdvae_patch.scanning.rules.stages import groupings


@groupings.rule(after=["repeated_call"])  # which knows better, where a KL or a density has one of the calls
def two_paths(groups: Groups) -> None:
    """Join the prior of a module to its posterior, if both are guesses, and each is of a loop over its own draws."""
    for (key, role), group in list(groups.items()):
        other = groups.get((key, "posterior"))
        if role != "prior" or other is None or group.shown or other.shown:
            continue
        if _moves_on(group) and _moves_on(other):
            other.readings.extend(group.readings)
            del groups[key, role]


def _moves_on(group: Group) -> bool:
    """Whether one call has all the draws of another, and more: it is of what the other one's σ has moved."""
    draws = [reading.raw.node.noise for reading in group.readings]
    return any(one != two and one & two == one for one in draws for two in draws)
